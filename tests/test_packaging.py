"""What is built of this folder: the wheel and the sdist hold the whole package, and an editable install finds it."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import gstk

pytest.importorskip("hatchling", reason="packages are built by hatchling")

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "src" / "gstk"
DATA = re.compile(
    r"py\.typed|bundles/tiny/(encoder\.onnx|manifest\.json|prompt_decoder\.onnx|vectors\.npz)"
    r"|core/profiles/[\w-]+\.toml|training/recipes/[\w.-]+\.(toml|txt)|server/page/[\w./-]+\.(html|css|js|svg)"
)
"""The package's files that are not Python, those of C++ apart."""


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind: str, source: Path, folder: Path) -> Path:
    run(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", folder, cwd=source)
    (built,) = folder.iterdir()
    return built


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def expected_files() -> set[str]:
    """The package's files as src/gstk links to them, without the C++ tests."""
    found = set()
    for entry in SOURCES.iterdir():
        files = [entry] if entry.is_file() else entry.resolve().rglob("*")
        base = entry.resolve()
        for file in files:
            inside = entry.name if entry.is_file() else f"{entry.name}/{file.relative_to(base).as_posix()}"
            if file.is_file() and "__pycache__" not in inside and not inside.startswith(("cpp/tests/", "cpp/.")):
                found.add(inside)
    return found


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = {name.removeprefix("gstk/") for name in names_in(wheel) if name.startswith("gstk/")}
    assert names == expected_files()
    assert {name.split("/")[0] for name in names_in(wheel)} == {"gstk", f"gstk-{gstk.__version__}.dist-info"}
    others = [name for name in names if not name.endswith(".py") and not name.startswith("cpp/")]
    assert [name for name in others if not DATA.fullmatch(name)] == []
    cpp = {name.removeprefix("cpp/") for name in names if name.startswith("cpp/")}
    folders = ("src/", "include/gstk/", "cmake/")
    assert {name for name in cpp if not name.startswith(folders)} == {"__init__.py", "CMakeLists.txt"}
    assert wheel.stat().st_size < 12 * 2**20


def test_the_sdist_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    archive = build("sdist", ROOT, tmp_path / "sdist")
    with tarfile.open(archive) as opened:
        if hasattr(tarfile, "data_filter"):  # from Python 3.11.4 on
            opened.extraction_filter = tarfile.data_filter
        opened.extractall(tmp_path / "source")
    (source,) = (tmp_path / "source").iterdir()
    assert names_in(build("wheel", source, tmp_path / "wheel")) == names_in(wheel)


@pytest.mark.slow
def test_an_installed_wheel_runs_outside_of_the_checkout(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); import gstk.export.half, gstk.cpp; "
    code += "from gstk.core.bundle import find_bundle; print(gstk.__file__, find_bundle('tiny'), gstk.cpp.cmake_dir())"
    for place in run(sys.executable, "-c", code, cwd=tmp_path).split():
        assert Path(place).is_relative_to(tmp_path / "site")


def test_an_editable_install_resolves_to_the_rooms(tmp_path: Path) -> None:
    """In an environment that borrows this one's packages, so that nothing is fetched."""
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    scripts = "Scripts" if sys.platform == "win32" else "bin"
    python = tmp_path / "env" / scripts / "python"
    (site,) = (tmp_path / "env").rglob("site-packages")
    (site / "borrowed.pth").write_text("\n".join(sorted({sysconfig.get_path("purelib"), *_site_folders()})))
    install = ("install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-e", ROOT)
    run(sys.executable, "-m", "pip", "--python", python, *install, cwd=tmp_path)
    code = "import gstk.session.session as s, gstk.cli, gstk.export; print(s.__file__)"
    (found,) = run(python, "-c", code, cwd=tmp_path).split()
    assert Path(found).resolve() == ROOT / "toolkit" / "session" / "session.py"
    assert run(tmp_path / "env" / scripts / "gstk", "--version", cwd=tmp_path) == f"gstk {gstk.__version__}\n"


def _site_folders() -> set[str]:
    return {path for path in sys.path if Path(path).name == "site-packages"}
