"""`gstk train` and `gstk coreset` as a user meets them, in processes of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cli_runs import Run

from gstk.cases.phantoms import generate_phantom
from gstk.training.checkpoint import load_checkpoint

pytest.importorskip("torch")

pytestmark = pytest.mark.slow

RECIPE = """
seed = 1
[network]
width = 16
blocks_down = [1, 1]
heads = 1
attention_downsample = 1
[data]
patch_size = [16, 16, 16]
patches_per_case = 2
max_objects = 2
workers = 1
[loop]
precision = "off"
[stage1]
epochs = 1
learning_rate = 1e-3
[stage2]
epochs = 1
sampler = "error"
max_rounds = 1
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a recipe and three cases, two of them in folders of its cases' folder."""
    (tmp_path / "mine.toml").write_text(RECIPE)
    for index, name in enumerate(("a.npz", "deep/b.npz", "deep/er/c.npz")):
        path = tmp_path / "cases" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        phantom = generate_phantom(index, (24, 24, 24), "blobs")
        np.savez(path, imgs=phantom.image, gts=phantom.labels, spacing=phantom.spacing_mm)
    return tmp_path


def gstk(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gstk", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8")


def error_of(folder: Path, *arguments: str) -> str:
    result = gstk(folder, *arguments)
    assert result.returncode == 1, result
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert lines == result.stderr.strip().splitlines()[-1:]
    return lines[0]


def test_a_coreset_is_trained_on_and_scored_on_what_is_held_out(folder: Path) -> None:
    chosen = gstk(folder, "coreset", "cases", "--fraction", "0.7", "--seed", "4", "-o", "lists/coreset.txt")
    assert chosen.returncode == 0, chosen.stderr
    format_ids = [line for line in (folder / "lists/coreset.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(format_ids) == 2
    (rest,) = {"a.npz", "deep/b.npz", "deep/er/c.npz"} - set(format_ids)
    (folder / "held-out.txt").write_text(rest + "\n")
    lists = ("--cases", "lists/coreset.txt", "--validation", "held-out.txt")
    result = gstk(folder, "train", "cases", "-o", "run", "--recipe", "mine.toml", *lists, "--set", "stage2.epochs=2")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "run/stage2/model.pt"
    load_checkpoint(folder / "run/stage2/model.pt")
    assert "stage 1: step 4 of 4" in result.stderr
    assert "stage 2: step 8 of 8" in result.stderr
    assert "Dice after each click" in result.stderr
    assert json.loads((folder / "run/recipe.json").read_text())["stage2"]["epochs"] == 2
    assert "holds a run; use --resume" in error_of(folder, "train", "cases", "-o", "run", "--recipe", "mine.toml")


def test_a_dry_run_says_what_would_be_and_writes_nothing(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    result = gstk(folder, "train", "cases", "-o", "run", "--recipe", "mine.toml", "--dry-run", "--set", "seed=9")
    assert result.returncode == 0, result.stderr
    recipe, _, table = result.stdout.partition("\n}\n")
    assert json.loads(recipe + "}")["seed"] == 9
    for said in ("3 cases", "vista3d", "error", "GB"):
        assert said in table
    assert sorted(folder.rglob("*")) == before


def test_a_signal_ends_a_run_with_a_checkpoint_and_resume_goes_on(folder: Path) -> None:
    arguments = ["train", "cases", "-o", "run", "--recipe", "mine.toml", "--stage", "1", "--set", "stage1.steps=100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gstk", *arguments], cwd=folder, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert process.stderr is not None
    while "stage 1: step 1 of" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait() == 128 + signal.SIGINT
    assert "go on with --resume" in rest
    (checkpoint,) = (folder / "run/stage1/checkpoints").iterdir()
    done = int(checkpoint.stem.removeprefix("step-"))
    steps = f"stage1.steps={done + 2}"
    assert "another stage1.steps" in error_of(folder, *arguments[:-1], steps, "--resume")
    process = subprocess.Popen(
        [sys.executable, "-m", "gstk", *arguments, "--resume"],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    assert process.stderr is not None
    while not re.match(rf"stage 1: step (?!{done} )\d+ of 100000", process.stderr.readline()):
        assert process.poll() is None
    os.kill(process.pid, signal.SIGTERM)
    process.stderr.read()
    assert process.wait() == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none"], "expected a folder of .npz cases"),
        (["empty"], "without an .npz file"),
        (["cases", "--recipe", "nope"], "expected a .toml file or one of all-data, coreset, tiny"),
        (["cases", "--set", "stage1.epoch=3"], "stage1.epochs=5"),
        (["cases", "--set", "loop.precision=fp8"], "expected one of bf16, fp16, off"),
        (["cases", "--init", "none.pt"], "none.pt"),
        (["cases", "--cases", "none.txt"], "cannot read the list"),
        (["cases", "--recipe", "tiny"], "generates its data"),
        (["--recipe", "mine.toml"], "got no case to train on"),
        (["cases", "--recipe", "mine.toml", "--stage", "2"], "expected stage 1 before it, or --init"),
        (["cases", "--device", "tpu"], "expected auto, cpu or cuda"),
        (["cases", "--device", "cuda"], "GPUs that torch"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    (folder / "empty").mkdir()
    monkeypatch.chdir(folder)
    outcome = run("train", "-o", "run", *arguments)
    assert outcome.code == 1
    assert said in outcome.error_line()
    assert not list(folder.glob("run/stage*"))
