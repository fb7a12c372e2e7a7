"""Resumed batch runs: what is finished stays, what is not is made, and nothing else is replaced."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from dicom_files import write_stack
from flood import POLICY, ClassEngine, FloodEngine

from gstk.batch.infer import infer
from gstk.batch.journal import JOURNAL
from gstk.batch.results import InferResult
from gstk.core.profile import find_profile
from gstk.core.prompts import ObjectPrompts, Point
from gstk.errors import OutputError
from gstk.session.session import Session

CLICK = {1: ObjectPrompts((Point((10, 14, 14)),))}


@pytest.fixture
def session() -> Session:
    return Session(FloodEngine(), POLICY)  # type: ignore[arg-type]


def write_scan(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(15, 25, (20, 24, 28)).astype(np.uint8)
    image[5:15, 8:20, 8:20] = 200
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(image), str(path))
    return path


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    for index in range(3):
        write_scan(tmp_path / "cohort" / f"p{index}" / "ct.nii.gz", index)
    return tmp_path / "cohort"


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """What changes when a file of a result is written again."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != JOURNAL)
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


@pytest.mark.filterwarnings("ignore:the same clicks")
class TestCohort:
    """A cohort whose scans have one name, in folders of their own."""

    def run(self, session: Session, cohort: Path, **options: Any) -> list[InferResult]:
        return infer(session, cohort, cohort.parent / "out", **{"prompts": CLICK, **options})

    def test_what_is_finished_stays_and_what_is_missing_is_made(self, session: Session, cohort: Path) -> None:
        first = self.run(session, cohort, overlay=True)
        out = cohort.parent / "out"
        before = state(out)
        expected = {name: (out / name).read_bytes() for name in before}
        (out / "p1" / "ct_mask.nii.gz").unlink()
        seen = session.encodes
        again = self.run(session, cohort, overlay=True, resume=True)
        assert [result.finished_before for result in again] == [True, False, True]
        assert [result.error for result in again] == [None] * 3
        assert session.encodes == seen + first[1].report.encodes  # type: ignore[union-attr]
        after = state(out)
        assert {name for name in before if before[name] != after[name]} == {
            *("p1/ct_mask.nii.gz", "p1/ct_mask_overlay.png")
        }
        assert {name: (out / name).read_bytes() for name in after} == expected
        for one, two in zip(first, again, strict=True):
            assert [(o.object_id, o.voxels) for o in one.objects] == [(o.object_id, o.voxels) for o in two.objects]
            assert (one.output, one.overlay, one.intensities) == (two.output, two.overlay, two.intensities)
        assert all(result.finished_before for result in self.run(session, cohort, overlay=True, resume=True))

    def test_changed_input_is_replaced_with_overwrite_alone_and_said(self, session: Session, cohort: Path) -> None:
        self.run(session, cohort)
        out = cohort.parent / "out"
        write_scan(cohort / "p0" / "ct.nii.gz", 7)
        before = state(out)
        refused = self.run(session, cohort, resume=True)
        assert "made from another content of the input; give --overwrite" in str(refused[0].error)
        assert [result.finished_before for result in refused] == [False, True, True]
        assert state(out) == before
        done = self.run(session, cohort, resume=True, overwrite=True)
        assert done[0].error is None
        assert any("done again: ct_mask.nii.gz existed, and it was made from" in note for note in done[0].warnings)
        assert [result.finished_before for result in done] == [False, True, True]
        assert all(result.finished_before for result in self.run(session, cohort, resume=True))

    def test_results_of_exchanged_inputs_are_not_taken(self, session: Session, cohort: Path) -> None:
        self.run(session, cohort)
        one, two = (cohort / name / "ct.nii.gz" for name in ("p0", "p1"))
        first = one.read_bytes()
        one.write_bytes(two.read_bytes())
        two.write_bytes(first)
        results = self.run(session, cohort, resume=True)
        assert [result.finished_before for result in results] == [False, False, True]

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"intensity_window": "percentile"}, 'with intensity window "auto", which is now "percentile"'),
            ({"prompts": {1: ObjectPrompts((Point((9, 14, 14)),))}}, "with clicks and boxes"),
            ({"novel": True}, "with novel false, which is now true"),
            ({"overlay": True}, "with overlay false"),
        ],
    )
    def test_other_settings(self, session: Session, cohort: Path, options: dict[str, Any], said: str) -> None:
        self.run(session, cohort)
        before = state(cohort.parent / "out")
        for result in self.run(session, cohort, resume=True, **options):
            assert said in str(result.error)
        assert state(cohort.parent / "out") == before

    def test_other_engine_or_version(self, session: Session, cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run(session, cohort)
        other = FloodEngine()
        other.precision = "int8"
        results = self.run(Session(other, POLICY), cohort, resume=True)  # type: ignore[arg-type]
        assert 'with precision "fp32", which is now "int8"' in str(results[0].error)
        monkeypatch.setattr("gstk.batch.resume.__version__", "99.0")
        assert "which is now 99.0" in str(self.run(session, cohort, resume=True)[0].error)

    def test_results_that_were_changed_by_hand_or_come_from_elsewhere_stay(
        self, session: Session, cohort: Path
    ) -> None:
        self.run(session, cohort)
        out = cohort.parent / "out"
        (out / "p0" / "ct_mask.nii.gz").write_bytes(b"corrected by hand")
        journal = (out / JOURNAL).read_text().splitlines(keepends=True)
        (out / JOURNAL).write_text("".join(line for line in journal if "p1/ct" not in line))
        results = self.run(session, cohort, resume=True)
        assert "it has been changed since" in str(results[0].error)
        assert f"{JOURNAL} does not say what it was made of" in str(results[1].error)
        assert results[2].finished_before
        assert (out / "p0" / "ct_mask.nii.gz").read_bytes() == b"corrected by hand"

    def test_damaged_lines_are_passed_over_and_said(self, session: Session, cohort: Path) -> None:
        self.run(session, cohort)
        out = cohort.parent / "out"
        whole = (out / JOURNAL).read_bytes().splitlines(keepends=True)
        (out / JOURNAL).write_bytes(b'{"mask": 3}\n' + whole[0][:50] + b"\n\xff\x00\n" + whole[1] + whole[2][:-40])
        for name in ("p0", "p2"):
            (out / name / "ct_mask.nii.gz").unlink()
        with pytest.warns(UserWarning, match=r"4 lines of .*gstk-journal\.jsonl are damaged"):
            results = self.run(session, cohort, resume=True)
        assert [result.finished_before for result in results] == [False, True, False]
        assert [result.error for result in results] == [None] * 3
        assert all(result.finished_before for result in self.run(session, cohort, resume=True))

    def test_without_resume_nothing_has_changed(self, session: Session, cohort: Path) -> None:
        self.run(session, cohort)
        with pytest.raises(OutputError, match="--resume goes on"):
            self.run(session, cohort)
        assert not any(result.finished_before for result in self.run(session, cohort, overwrite=True))


def test_dicom_folder_is_finished_until_one_of_its_slices_changes(session: Session, tmp_path: Path) -> None:
    volume = np.full((20, 24, 28), 20, np.int16)
    volume[5:15, 8:20, 8:20] = 200
    folder = write_stack(tmp_path / "series", volume)
    for _ in range(2):
        results = infer(session, folder, tmp_path / "out", prompts=CLICK, resume=True)
        assert results[0].error is None
    assert results[0].finished_before
    volume[10, 14, 14] = 150
    write_stack(tmp_path / "series", volume)
    results = infer(session, folder, tmp_path / "out", prompts=CLICK, resume=True)
    assert "another content of the input" in str(results[0].error)


def test_replaced_results_leave_no_names_or_pictures_behind(session: Session, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz")
    out = tmp_path / "out"
    infer(session, scan, out, prompts=CLICK, object_names={1: "liver"}, overlay=True)
    (out / "notes.txt").write_text("the user's own")
    made = {path.name for path in out.iterdir()}
    assert {"scan_mask.nii.gz", "scan_mask_labels.json", "scan_mask_overlay.png"} <= made
    with pytest.raises(OutputError, match="1 more exist"):
        infer(session, scan, out, prompts={1: ObjectPrompts((Point((1, 1, 1)),))})
    assert {path.name for path in out.iterdir()} == made
    infer(session, scan, out, prompts={1: ObjectPrompts((Point((1, 1, 1)),))}, overwrite=True)
    assert {path.name for path in out.iterdir()} == {JOURNAL, "notes.txt", "scan_mask.nii.gz"}


def test_masks_to_begin_with_count_by_content(session: Session, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz")
    start = infer(session, scan, tmp_path / "start", prompts=CLICK)[0].output
    off = {1: ObjectPrompts((Point((6, 9, 9), False),))}
    for expected in (False, True):
        result = infer(session, scan, tmp_path / "out", prompts=off, start_mask=start, resume=True)[0]
        assert (result.error, result.finished_before) == (None, expected)
    infer(session, scan, tmp_path / "start", prompts={1: ObjectPrompts((Point((1, 1, 1)),))}, overwrite=True)
    result = infer(session, scan, tmp_path / "out", prompts=off, start_mask=start, resume=True)[0]
    assert "another content of the mask to begin with" in str(result.error)


def test_classes_are_finished_with_their_names_and_no_file_less(tmp_path: Path) -> None:
    image = np.full((20, 24, 28), -100, np.int16)
    image[5:15, 8:20, 8:20] = 600
    (tmp_path / "scans").mkdir()
    for name in ("a", "b"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(image), str(tmp_path / "scans" / f"{name}.nii.gz"))
    profile = replace(find_profile("nv-segment-ct"), patch=(32, 32, 32))
    session = Session(ClassEngine(), POLICY, profile=profile)  # type: ignore[arg-type]
    first = infer(session, tmp_path / "scans", tmp_path / "out", classes=["spleen", "liver"])
    assert [o.name for o in first[0].objects] == ["liver", "spleen"]
    (tmp_path / "out" / "b_mask_labels.json").unlink()
    again = infer(session, tmp_path / "scans", tmp_path / "out", classes=["spleen", "liver"], resume=True)
    assert [(r.error, r.finished_before) for r in again] == [(None, True), (None, False)]
    assert again[0].objects == first[0].objects
    assert set(json.loads((tmp_path / "out" / "b_mask_labels.json").read_text())["labels"]) == {"1", "3"}
    other = infer(session, tmp_path / "scans", tmp_path / "out", classes=["spleen"], resume=True)
    assert 'with classes ["spleen", "liver"], which is now ["spleen"]' in str(other[0].error)
