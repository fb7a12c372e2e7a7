"""The command line as a user meets it: results, one-line errors, exit codes. In process, by `gstk.cli.main`."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from cli_runs import Run

import gstk
from gstk.cases.npz import load_case
from gstk.cli import app
from gstk.core.bundle import find_bundle

COMMANDS = {
    "build",
    "calibrate",
    "cmake-dir",
    "coreset",
    "export",
    "infer",
    "phantom",
    "plan",
    "prepare",
    "train",
    "check",
    "inspect",
    "engines",
    "serve",
    "evaluate",
    "compare",
}


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("phantom") / "phantom.npz"
    program = "from gstk.cli import main; main()"
    subprocess.run([sys.executable, "-c", program, "phantom", path, "--side", "48"], check=True)
    return path


def test_the_demonstration_end_to_end(run: Run, phantom: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = run("infer", phantom, "--overlay", "--out", out)
    assert outcome.code == 0, outcome.err
    assert [line for line in outcome.err.splitlines() if "probing" not in line] == []
    assert {"object", "voxels", "seconds"} <= set(outcome.out.split())
    assert str(out / "phantom_mask.npz") in outcome.out.replace("\n", "")
    assert (out / "phantom_mask_overlay.png").read_bytes().startswith(b"\x89PNG")
    case = load_case(phantom)
    with np.load(out / "phantom_mask.npz") as archive:
        segs = archive["segs"]
    assert segs.shape == case.geometry.shape
    assert set(np.unique(segs)) <= {0, 1, 2, 3}
    assert (segs > 0).any()


def test_points_and_boxes_on_the_command_line(run: Run, tmp_path: Path) -> None:
    image = np.full((24, 40, 40), 30, np.uint8)
    image[6:18, 10:26, 10:26] = 220
    source = tmp_path / "scan.nii.gz"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(image), str(source))
    arguments = ["--point", "12,18,18", "--background", "2,2,2", "--box", "2:6,10,10,17,25,25"]
    outcome = run("infer", source, *arguments, "-o", tmp_path / "out", "--backend", "onnxruntime", "--threads", "1")
    assert outcome.code == 0, outcome.err
    mask = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "out" / "scan_mask.nii.gz")))
    assert mask.shape == image.shape
    assert (mask > 0).any()


def write_npz(path: Path, **arrays: object) -> Path:
    np.savez_compressed(path, **{"imgs": np.zeros((8, 8, 8), np.uint8), "spacing": np.ones(3), **arrays})  # type: ignore[arg-type]
    return path


class Payload:
    """Runs a command when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


def with_payload(path: Path, target: Path) -> Path:
    write_npz(path)
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    pickle.dump(Payload(target), buffer)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("clicks.npy", buffer.getvalue())
    return path


def test_bad_cases_are_one_line_each_and_nothing_is_written(run: Run, tmp_path: Path) -> None:
    good = write_npz(tmp_path / "good.npz").read_bytes()
    bad = {
        "truncated": lambda p: p.write_bytes(good[: len(good) // 2]),
        "no_imgs": lambda p: np.savez(p, spacing=np.ones(3)),
        "wrong_rank": lambda p: write_npz(p, imgs=np.zeros((8, 8), np.uint8)),
        "nan_spacing": lambda p: write_npz(p, spacing=np.array([1, np.nan, 1])),
        "nan_voxels": lambda p: write_npz(p, imgs=np.full((4, 4, 4), np.nan, np.float32)),
        "click_outside": lambda p: write_npz(p, clicks=np.array([{"fg": [[9, 0, 0]], "bg": []}], object)),
        "no_prompts": write_npz,
        "payload": lambda p: with_payload(p, tmp_path / "executed"),
    }
    for name, make in bad.items():
        make(tmp_path / f"{name}.npz")
        outcome = run("infer", tmp_path / f"{name}.npz", "-o", tmp_path / "out" / name)
        assert outcome.code == 1, name
        assert outcome.error_line()
        assert name in outcome.err
        assert not list((tmp_path / "out" / name).iterdir())
    assert not (tmp_path / "executed").exists()


def test_unknown_formats_and_missing_files(run: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no scan")
    for source in (tmp_path / "notes.txt", tmp_path / "nothing.npz"):
        outcome = run("infer", source, "-o", tmp_path / "out")
        assert outcome.code == 1
        assert source.name in outcome.error_line()


def test_an_output_that_cannot_be_written(run: Run, phantom: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    outcome = run("infer", phantom, "-o", tmp_path / "file" / "out")
    assert outcome.code == 1
    assert "cannot create the folder" in outcome.error_line()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    shutil.copytree(find_bundle("tiny"), tmp_path / "bundle")
    return tmp_path / "bundle"


def test_an_altered_bundle_is_refused(run: Run, bundle: Path, phantom: Path, tmp_path: Path) -> None:
    graph = bundle / "prompt_decoder.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(bytes(data))
    outcome = run("infer", phantom, "--bundle", bundle, "-o", tmp_path / "out")
    assert outcome.code == 1
    assert "prompt_decoder.onnx" in outcome.error_line()


def test_a_manifest_cannot_reach_outside_its_bundle(run: Run, bundle: Path, phantom: Path, tmp_path: Path) -> None:
    (bundle / "encoder.onnx").rename(tmp_path / "encoder.onnx")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["graphs"]["encoder"]["fp32"] = "../encoder.onnx"
    manifest["files"]["../encoder.onnx"] = manifest["files"].pop("encoder.onnx")
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    outcome = run("infer", phantom, "--bundle", bundle, "-o", tmp_path / "out")
    assert outcome.code == 1
    assert "../encoder.onnx" in outcome.error_line()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--backend", "abacus"], "abacus"),
        (["--bundle", "nowhere"], "nowhere"),
        (["--point", "1,2"], "z,y,x"),
        (["--box", "1,2,3"], "z0,y0,x0"),
        (["--box", "9,9,9,1,1,1"], "min <= max"),
        (["--box", "1,1,1,9,9,9", "--box", "1,1,1,8,8,8"], "two boxes for object 1"),
        (["--point", "2:5,5,5", "--background", "2:5,5,5"], "on and beside object 2"),
    ],
)
def test_wrong_options_are_one_line(run: Run, phantom: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    outcome = run("infer", phantom, "-o", tmp_path / "out", *arguments)
    assert outcome.code == 1
    assert said in outcome.error_line()


def test_a_phantom_is_an_npz_and_counts_its_objects(run: Run, tmp_path: Path) -> None:
    outcome = run("phantom", tmp_path / "noext")
    assert outcome.code == 1
    assert ".npz" in outcome.error_line()
    assert not (tmp_path / "noext").exists()
    outcome = run("phantom", tmp_path / "many.npz", "--side", "48", "--objects", "500")
    assert outcome.code == 0
    assert "not 500" in outcome.err


def test_the_commands_are_these_and_the_readme_names_each(run: Run) -> None:
    outcome = run("--help")
    assert outcome.code == 0
    assert {command.name for command in app.registered_commands} == COMMANDS
    for command in COMMANDS:
        assert f" {command} " in outcome.out
        assert f"gstk {command}" in (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert run("--version").out.strip() == f"gstk {gstk.__version__}"
    for command in COMMANDS:
        assert run(command, "--help").code == 0


def test_brackets_in_names_are_names(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "[bold]:smile: case[1].nii.gz"
    image = np.random.default_rng(0).normal(40, 8, (8, 16, 16)).astype(np.int16)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(image), str(source))
    outcome = run("infer", source, "--point", "4,8,8", "-o", tmp_path / "out")
    assert outcome.code == 0
    assert source.name in outcome.out.splitlines()[0]


@pytest.mark.parametrize(
    "option", ["--point=nan,4,4", "--point=inf,4,4", "--background=nan,1,1", "--box=nan,1,1,2,2,2"]
)
def test_prompts_that_are_no_numbers_are_one_line(run: Run, tmp_path: Path, option: str) -> None:
    outcome = run("infer", tmp_path, option, "-o", tmp_path / "out")
    assert outcome.code == 1
    assert re.fullmatch(r"error: got [^\n]*(nan|inf)[^\n]*, expected [^\n]*\n", outcome.err)


def test_what_is_said_of_prompts_that_a_scan_cannot_hold(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "scan.nii.gz"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((8, 16, 16), np.uint8)), str(source))
    none = run("infer", source, "-o", tmp_path / "out")
    assert none.code == 1
    assert "no clicks and no boxes; click on an object with --point" in none.error_line()
    background = run("infer", source, "--background", "2,2,2", "-o", tmp_path / "out")
    assert background.code == 1
    assert "background clicks only, which say where the object is not" in background.err
    assert not list((tmp_path / "out").iterdir())


def test_results_are_replaced_only_when_asked(run: Run, phantom: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("infer", phantom, "-o", out, "--overlay").code == 0
    before = (out / "phantom_mask.npz").read_bytes()
    refused = run("infer", phantom, "-o", out, "--overlay", "--background", "1:1,1,1")
    assert refused.code == 1
    assert refused.error_line().endswith(
        "phantom_mask.npz and 1 more exist already; give --overwrite to replace, or another --out folder or --name; "
        "--resume goes on with an interrupted run"
    )
    finished = run("infer", phantom, "-o", out, "--overlay", "--resume")
    assert finished.code == 0
    assert finished.out.strip() == f"{out / 'phantom_mask.npz'} is finished already"
    assert (out / "phantom_mask.npz").read_bytes() == before
    assert run("infer", phantom, "-o", out, "--point", "1:5,5,5", "--overwrite").code == 0
    assert (out / "phantom_mask.npz").read_bytes() != before


def test_an_interrupt_says_how_to_go_on(
    run: Run, phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gstk.batch.infer.infer", interrupted)
    outcome = run("infer", phantom, "-o", tmp_path / "out")
    assert outcome.code == 130
    assert "--resume goes on" in outcome.err


def test_fractions_and_clicks_on_several_scans_are_warned_of(run: Run, tmp_path: Path) -> None:
    image = np.full((12, 24, 24), 30, np.uint8)
    image[3:9, 6:14, 6:14] = 220
    for name in ("a", "b"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(image), str(tmp_path / f"{name}.nii.gz"))
    outcome = run("infer", tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", "--point", "5.5,9,9", "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert "warning: 5.5,9,9 is rounded to the voxel 6,9,9" in outcome.err
    assert "warning: the same clicks and boxes are given to all 2 cases" in outcome.err


def test_tables_are_whole_where_there_is_no_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    outcome = run("engines", "--options")
    assert "…" not in outcome.out
    assert "hyper_threading" in outcome.out
    assert max(map(len, outcome.out.splitlines())) > 80
