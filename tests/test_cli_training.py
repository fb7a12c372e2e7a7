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
from small_recipe import SMALL_RECIPE

from gstk.cases.phantoms import generate_phantom
from gstk.training.checkpoint import load_checkpoint

pytest.importorskip("torch")

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a recipe and three cases, two of them in folders of its cases' folder."""
    (tmp_path / "mine.toml").write_text(SMALL_RECIPE)
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
    for said in ("3 cases", "vista3d", "error", "GB", "--measure adds"):
        assert said in table
    measured = gstk(
        folder, "train", "cases", "-o", "run", "--recipe", "mine.toml", "--dry-run", "--measure", "--stage", "1"
    )
    assert measured.returncode == 0, measured.stderr
    assert "s per step" in measured.stdout
    assert "measuring" in measured.stderr
    assert sorted(folder.rglob("*")) == before


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "gstk", "train", *arguments],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def read_until(process: subprocess.Popen[str], pattern: str) -> list[str]:
    """Lines of stderr up to one that matches."""
    assert process.stderr is not None
    lines = []
    while not (lines and re.search(pattern, lines[-1])):
        lines.append(process.stderr.readline())
        assert lines[-1] or process.poll() is None, lines
    return lines


def test_a_signal_ends_a_run_with_a_checkpoint_and_resume_alone_goes_on(folder: Path) -> None:
    endless = ("--recipe", "mine.toml", "--stage", "1", "--set", "stage1.steps=100000")
    process = start(folder, "cases", "-o", "run", *endless)
    assert any("random weights" in line for line in read_until(process, "stage 1: step 1 of"))
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(timeout=120) == 128 + signal.SIGINT
    assert "stopping after this step" in rest
    assert "continue with gstk train -o run --resume" in rest
    (checkpoint,) = (folder / "run/stage1/checkpoints").iterdir()
    done = int(checkpoint.stem.removeprefix("step-"))
    assert "another seed than the run" in error_of(folder, "train", "-o", "run", "--resume", "--set", "seed=8")
    process = start(folder, "-o", "run", "--resume", "--set", f"stage1.steps={done + 2}")
    lines = read_until(process, f"stage 1: step {done + 2} of {done + 2}")
    said = f"changed since the run began: stage1.steps is {done + 2}, it was 100000"
    assert any(line.strip() == said for line in lines)
    assert not any("random weights" in line for line in lines)
    process.communicate()
    assert process.returncode == 0
    load_checkpoint(folder / "run/stage1/model.pt")
    assert not (folder / "run/stage2").exists(), "the run had one stage"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none"], "expected a folder of .npz cases"),
        (["empty"], "without an .npz file"),
        (["cases", "--recipe", "nope"], "expected a .toml file or one of all-data, coreset, small, tiny, tiny-real"),
        (["cases", "--set", "stage1.epoch=3"], "stage1.epochs=5"),
        (["cases", "--set", "loop.precision=fp8"], "expected one of auto, bf16, fp16, off"),
        (["cases", "--init", "none.pt"], "none.pt"),
        (["cases", "--init", "cases"], "a file of weights (.pt, .pth, .safetensors) or a bundle"),
        (["--resume"], "holds no run"),
        (["cases", "--recipe", "tiny", "--set", "network.width=8"], "a multiple of 8 from 16 on"),
        (["cases", "--set", 'data.shares={"b*"=1}'], "matches nothing in data.shares"),
        (["cases", "--set", 'data.phantom_shares={"spleen"=1}'], "expected kinds of organs, blobs,"),
        (["cases", "--set", "data.phantom_shares={organs=0}"], "expected each above 0"),
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


def test_mistakes_are_found_before_torch_is_loaded(folder: Path) -> None:
    script = (
        "import sys\nfrom gstk.cli import main\ntry:\n    main()\nexcept SystemExit as end:\n"
        "    print(end.code, 'torch' in sys.modules, 'monai' in sys.modules)\n"
    )
    for arguments in (
        ["cases", "--set", "loop.precision=fp8"],
        ["cases", "--recipe", "tiny"],
        ["cases", "--init", "none.pt"],
        ["none"],
        ["--resume"],
    ):
        command = [sys.executable, "-c", script, "train", "-o", "run", *arguments]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8")
        assert result.stdout.split() == ["1", "False", "False"], (arguments, result)


def test_training_begins_with_a_bundles_weights(folder: Path) -> None:
    pytest.importorskip("onnx_ir")
    settings = ("data.cut=zoom", "data.zoom_voxels=[4096, 4096]", "data.zoom_sides=[16]", "stage1.steps=1")
    more = [part for setting in settings for part in ("--set", setting)]
    result = gstk(
        folder, "train", "cases", "-o", "run", "--recipe", "mine.toml", "--stage", "1", "--init", "tiny", *more
    )
    assert result.returncode == 0, result.stderr
    assert "random weights" not in result.stderr
    spec, weights = load_checkpoint(folder / "run/init.pt")
    assert (spec.width, spec.blocks_down) == (24, (1, 2, 2, 2))
    trained = load_checkpoint(folder / "run/stage1/model.pt")[1]
    name = "image_encoder.encoder.conv_init.weight"
    assert 0 < float((trained[name] - weights[name]).abs().max()) < 0.1
    assert json.loads((folder / "run/profile.json").read_text())["name"] == "tiny"
    recorded = json.loads((folder / "run/cases.json").read_text())
    assert [Path(entry["file"]).name for entry in recorded["train"]] == ["a.npz", "b.npz", "c.npz"]
    assert all(len(entry["sha256"]) == 64 for entry in recorded["train"])
