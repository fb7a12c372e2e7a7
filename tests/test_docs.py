"""The documentation builds without a warning, and what README and its pages say runs.

A fenced block of `sh` or `python` runs here, unless a comment before it says `not run: REASON`. The options of every
`gstk` command that is shown are checked, run or not.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
import typer
from cli_runs import Run

from gstk.cases.npz import save_case
from gstk.cases.phantom_case import phantom_case
from gstk.cli import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
FENCE = re.compile(r"(?:<!-- not run: (?P<reason>[^>]+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```", re.M | re.S)
NEEDS_NO_RUN = {"", "mermaid"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    reason: str | None

    def commands(self) -> Iterator[list[str]]:
        """The words of each line of a shell block."""
        for line in self.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


def blocks(page: Path) -> list[Block]:
    found = FENCE.finditer(page.read_text(encoding="utf-8"))
    return [Block(match["language"], match["text"], match["reason"]) for match in found]


@pytest.mark.skipif(sys.platform == "win32", reason="the package's links need a system with symbolic links")
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the site is built by mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "reference" / "python" / "index.html").read_text(encoding="utf-8")
    for name in ("add_point", "spacing_mm", "on_progress", "BundleError"):
        assert name in page
    for built in tmp_path.rglob("*.html"):
        fetched = re.findall(r"<(?:script|img|iframe)[^>]+src=\"(https?:[^\"]+)", built.read_text(encoding="utf-8"))
        fetched += re.findall(r"<link[^>]+stylesheet[^>]+href=\"(https?:[^\"]+)", built.read_text(encoding="utf-8"))
        assert fetched == [], built


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize("name", NAMES)
def test_links_and_files_are_there(name: str) -> None:
    page = ROOT / name
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
    folders = "benchmarks|calibration|cpp|docs|engines|examples|export|tests|toolkit|training"
    for target in re.findall(rf"`((?:{folders})/[\w./-]+)`", text):
        assert (ROOT / target).exists(), target
    for group in re.findall(r"pip install [^`\n]*?(?:gstk|\.)\[([\w,]+)\]", text):
        assert set(group.split(",")) <= set(extras()), group
    for target in re.findall(r"`?make (demo|test|quick|docs|lint|types|format)\b", text):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M), target


def extras() -> dict[str, list[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: dict[str, list[str]] = project["optional-dependencies"]
    return found


def test_every_extra_is_described() -> None:
    text = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^\| `([\w-]+)` \|", text, re.M))
    assert described >= set(extras()) - {"plots"}


def options_of(command: str) -> set[str]:
    group: Any = typer.main.get_command(app)
    return {
        option
        for parameter in group.commands[command].params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }


def shown_commands(page: Path) -> Iterator[list[str]]:
    for block in blocks(page):
        if block.language == "sh":
            yield from (words for words in block.commands() if words[0] == "gstk")
    outside = FENCE.sub("", page.read_text(encoding="utf-8"))
    for line in re.findall(r"`(gstk [a-z][^`]+)`", outside):
        yield line.replace("[", " ").replace("]", " ").replace("|", " ").split()


@pytest.mark.parametrize("name", NAMES)
def test_commands_and_options_exist(name: str) -> None:
    for words in shown_commands(ROOT / name):
        if words[1].startswith("-") or not words[1][0].isalpha():
            continue
        known = options_of(words[1])
        for word in words[2:]:
            if re.fullmatch(r"--?[a-z][\w-]*(=.*)?", word):
                assert word.partition("=")[0] in known, " ".join(words)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the pages speak of: a scan with its labels, a case, and a folder of cases."""
    monkeypatch.setenv("GSTK_CACHE", str(tmp_path / "cache"))
    desk = tmp_path / "desk"
    (desk / "cases").mkdir(parents=True)
    case = phantom_case(3, 48, "blobs", 1)
    save_case(desk / "case.npz", case)
    for name, seed in (("CT_a", 4), ("MR_b", 5)):
        save_case(desk / "cases" / f"{name}.npz", phantom_case(seed, 32, "blobs", 1))
    assert case.labels is not None
    for name, array in (("scan", case.image), ("labels", case.labels.astype(np.uint8))):
        image = SimpleITK.GetImageFromArray(array)
        image.SetSpacing(case.geometry.spacing_mm[::-1])
        SimpleITK.WriteImage(image, str(desk / f"{name}.nii.gz"))
    monkeypatch.chdir(desk)
    return desk


RUNNABLE = [name for name in NAMES if any(b.reason is None and b.language for b in blocks(ROOT / name))]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNNABLE)
def test_blocks_run(name: str, run: Run, desk: Path) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("skimage")
    names: dict[str, Any] = {}
    for block in blocks(ROOT / name):
        if block.reason is not None or block.language in NEEDS_NO_RUN:
            continue
        if block.language == "python":
            exec(compile(block.text, name, "exec"), names)
            continue
        assert block.language == "sh", f"{name}: say `not run: REASON` before a block of {block.language}"
        for words in block.commands():
            assert words[0] == "gstk", f"{name}: only gstk runs here; say `not run: REASON` before {words}"
            outcome = run(*words[1:])
            assert outcome.code == 0, f"{words}: {outcome.err}"
    if "session" in names:
        names["session"].close()
