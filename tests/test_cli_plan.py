"""`gstk plan`, and `gstk infer` with a budget: what a user is told."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from cli_runs import Run

from gstk.cases.npz import load_case
from gstk.cli.options import read_limit
from gstk.core.bundle import Bundle
from gstk.errors import GstkError

pytest.importorskip("openvino")


@pytest.fixture
def phantom(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GSTK_CACHE", str(tmp_path / "cache"))
    case = tmp_path / "phantom.npz"
    assert run("phantom", case, "--side", "48").code == 0
    return case


def test_a_plan_is_shown_before_anything_runs(run: Run, phantom: Path) -> None:
    first = run("plan", phantom)
    assert first.code == 0
    assert "probing" in first.err
    assert "expected" in first.out
    assert "skipped to stay in time" not in first.out
    again = run("plan", phantom, "--budget", "90", "--calls", "6")
    assert "probing" not in again.err
    assert "= 90 s × 3 objects / 6 calls: " in again.out
    call_s, start_s, masks_s = map(float, re.findall(r"([\d.]+) s(?: =| to start|  ?for the masks$)", again.out, re.M))
    assert call_s == 45
    assert start_s + masks_s == pytest.approx(call_s, abs=0.11)
    short = run("plan", phantom, "--budget", "0.1")
    assert short.code == 0
    assert "skipped to stay in time" in short.out
    clicked = run("plan", phantom, "--point", "5:24,20,16")
    assert "5" in clicked.out
    z, y, x = (i * s for i, s in zip((24, 20, 16), load_case(phantom).geometry.spacing_mm, strict=True))
    assert run("plan", phantom, "--point-mm", f"5:{-x},{-y},{z}").out == clicked.out
    assert run("plan", phantom, "--lps", "--point-mm", f"5:{x},{y},{z}").out == clicked.out


def test_planned_and_segmented_classes(
    run: Run, by_class: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GSTK_CACHE", str(tmp_path / "cache"))
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(-200, 300, (40, 60, 50)).astype(np.int16))
    image.SetSpacing((1.5, 1.5, 1.5))
    scan = tmp_path / "scan.nii.gz"
    sitk.WriteImage(image, str(scan))
    plan = ("plan", scan, "--bundle", by_class.path, "--classes")
    whole = run(*plan, "everything")
    assert whole.code == 0, whole.err
    row = next(line.split() for line in whole.out.splitlines() if "32×32×32" in line)
    # (40 → 2) × (60 → 3) × (50 → 2) windows of 32 that overlap by 8
    assert row[:6] == ["117", "12", "32×32×32", "1.50", "1.50", "1.50"]
    assert "run gstk calibrate" in whole.out
    short = run(*plan, "liver,spleen", "--budget", "0.2")
    assert "skipped to stay in time" in short.out
    assert "0.4 s = 0.2 s × 2 objects / 1 call" in short.out
    for wrong, said in ((("heart of gold",), "class"), (("liver", "--point", "3,3,3"), "expected one of the two")):
        refused = run(*plan, *wrong)
        assert (refused.code, said in refused.err) == (1, True)
    made = run("infer", scan, "--bundle", by_class.path, "--classes", "liver,spleen", "-o", tmp_path / "out")
    assert made.code == 0, made.err
    headings, *_ = (line.split("┃") for line in made.out.splitlines() if "voxels" in line)
    assert [heading.strip() for heading in headings[1:-1]] == ["object", "voxels", "millilitres"]
    assert re.search(r"^time +[\d.]+ s, reading and writing included$", made.out, re.MULTILINE)


def test_a_plan_of_nothing_or_for_no_time_is_refused(run: Run, phantom: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.npz"
    np.savez(bare, imgs=np.zeros((16, 16, 16), np.uint8), spacing=np.ones(3))
    nothing, no_time = ("plan", bare), ("plan", phantom, "--budget", "0")
    for arguments, said in ((nothing, "no click on an object"), (no_time, "above 0 s")):
        refused = run(*arguments)
        assert refused.code == 1
        assert said in refused.err
        assert len(refused.err.strip().splitlines()) == 1


def test_infer_keeps_a_budget_and_says_what_it_gave_up(run: Run, phantom: Path, tmp_path: Path) -> None:
    roomy = run("infer", phantom, "--budget", "9000", "-o", tmp_path / "roomy")
    assert roomy.code == 0
    assert re.search(
        r"this call  27000.0 s = 9000 s × 3 objects / 1 call: [\d.]+ s to start, read and write, ", roomy.out
    )
    assert re.search(r"masks      [\d.]+ s, expected [\d.]+ s", roomy.out)
    assert "skipped to stay in time" not in roomy.out
    free = run("infer", phantom, "--budget", "none", "-o", tmp_path / "free")
    assert "this call" not in free.out
    masks = [np.load(tmp_path / name / f"{phantom.stem}_mask.npz")["segs"] for name in ("roomy", "free")]
    np.testing.assert_array_equal(*masks)
    short = run("infer", phantom, "--budget", "0.1", "-o", tmp_path / "short")
    assert short.code == 0
    assert "skipped to stay in time" in short.out
    assert np.load(tmp_path / "short" / f"{phantom.stem}_mask.npz")["segs"].any()


def test_infer_keeps_the_challenges_time_without_being_asked(
    run: Run, phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the host's costs known, a call that has time enough makes the mask of one without a limit."""
    monkeypatch.setattr("gstk.cli.infer.read_limit", lambda text: 9000.0)  # enough on any machine
    plain = run("infer", phantom, "-o", tmp_path / "plain")
    assert plain.code == 0
    assert plain.err.count("probing") == 1
    assert "this call" not in plain.out
    assert "skipped" not in plain.out
    monkeypatch.setattr("gstk.cli.infer.read_limit", lambda text: None)
    again = run("infer", phantom, "-o", tmp_path / "again")
    assert "probing" not in again.err
    masks = [np.load(tmp_path / name / f"{phantom.stem}_mask.npz")["segs"] for name in ("plain", "again")]
    np.testing.assert_array_equal(*masks)

    monkeypatch.setattr("gstk.cli.infer.read_limit", lambda text: 0.5)  # as on a machine that is 180 times slower
    short = run("infer", phantom, "-o", tmp_path / "short")
    assert "= 0.5 s × 3 objects / 6 calls: " in short.out
    assert "--budget none takes the time that it needs" in short.out
    assert "prompts alone" not in short.out  # the network's answer is waited for
    clicked = run("infer", phantom, "--point", "24,24,24", "-o", tmp_path / "clicked")
    assert " / 1 call: " in clicked.out


def test_a_target_for_clicks_is_planned(run: Run, phantom: Path) -> None:
    roomy = run("plan", phantom, "--click-within", "9000")
    assert roomy.code == 0
    assert "9000 s for each click with openvino in fp32" in roomy.out
    assert "skipped" not in roomy.out
    short = run("plan", phantom, "--click-within", "0.001")
    assert "skipped to stay in time: windows of" in short.out
    assert "the network's answer is waited for" in short.out
    both = run("plan", phantom, "--click-within", "2", "--budget", "60")
    assert "expected one of the two" in both.error_line()
    assert "above 0 s" in run("plan", phantom, "--click-within", "0").error_line()


@pytest.mark.parametrize(
    ("text", "seconds"), [(None, 90.0), ("none", None), ("None", None), ("90", 90.0), ("0.5", 0.5)]
)
def test_limits_are_read(text: str | None, seconds: float | None) -> None:
    assert read_limit(text) == seconds
    for wrong in ("soon", "0", "-3", "nan"):
        with pytest.raises(GstkError, match="expected"):
            read_limit(wrong)


@pytest.mark.skipif(shutil.which("sh") is None, reason="needs a shell")
def test_the_challenges_container_runs_this(phantom: Path, tmp_path: Path) -> None:
    folders = {"GSTK_INPUTS": tmp_path / "inputs", "GSTK_OUTPUTS": tmp_path / "outputs"}
    folders["GSTK_INPUTS"].mkdir()
    shutil.copy(phantom, folders["GSTK_INPUTS"])
    script = Path(__file__).parents[1] / "examples" / "challenge" / "predict.sh"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **{name: str(folder) for name, folder in folders.items()}, "PATH": path}
    run = subprocess.run(["sh", script], capture_output=True, text=True, encoding="utf-8", env=environment)
    assert run.returncode == 0, run.stderr
    assert "= 90 s × 3 objects / 6 calls: " in run.stdout
    assert np.load(folders["GSTK_OUTPUTS"] / phantom.name)["segs"].any()
