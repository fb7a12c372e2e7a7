"""The main job over files: what is written, what is refused, and that one bad case does not stop the others."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from flood import POLICY, FloodEngine, SlowEngine
from latency import a_model
from numpy.typing import NDArray

from gstk.batch.infer import infer
from gstk.batch.placed_points import PlacedPoint
from gstk.batch.results import InferResult
from gstk.cases.label_maps import read_label_map
from gstk.cases.label_names import LabelName
from gstk.cases.npz import Case, save_case
from gstk.cases.volumes import read_volume
from gstk.core.geometry import Geometry
from gstk.core.prompts import Box, ObjectPrompts, Point
from gstk.errors import CaseError, OutputError
from gstk.session.deadline import Budget
from gstk.session.session import Session


@pytest.fixture
def session() -> Session:
    return Session(FloodEngine(), POLICY)  # type: ignore[arg-type]


def volume() -> NDArray[np.uint8]:
    image = np.full((30, 40, 50), 20, np.uint8)
    image[5:15, 8:20, 8:20] = 200
    image[18:26, 24:36, 28:44] = 220
    return image


FIRST, SECOND = Point((10, 14, 14)), Point((22, 30, 36))
FIRST_BOX = Box(5, 14, 10, 8, 8, 19, 19)


def write_case(path: Path, prompts: dict[int, ObjectPrompts]) -> Path:
    save_case(path, Case(path.stem, volume(), Geometry((30, 40, 50), (2.0, 1.0, 1.0)), prompts))
    return path


def segs(path: Path) -> NDArray[np.integer]:
    with np.load(path) as archive:
        assert archive.files == ["segs"]
        return archive["segs"]


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def only(results: list[InferResult]) -> InferResult:
    assert len(results) == 1
    return results[0]


@pytest.mark.parametrize(
    "said",
    [ObjectPrompts((FIRST,)), ObjectPrompts((), FIRST_BOX), ObjectPrompts((FIRST,), FIRST_BOX)],
    ids=["click", "box", "both"],
)
def test_one_class_by_click_or_box(session: Session, tmp_path: Path, said: ObjectPrompts) -> None:
    case = write_case(tmp_path / "a.npz", {1: said})
    result = only(infer(session, case, tmp_path / "out"))
    assert result.error is None
    assert result.output == tmp_path / "out" / "a_mask.npz"
    mask = segs(result.output)
    assert mask.shape == (30, 40, 50)
    assert np.issubdtype(mask.dtype, np.integer)
    expected = np.zeros(mask.shape, bool)
    expected[5:15, 8:20, 8:20] = True
    assert 2 * ((mask == 1) & expected).sum() / ((mask == 1).sum() + expected.sum()) > 0.9
    entry = result.objects[0]
    assert entry.voxels == (mask == 1).sum()
    assert entry.volume_ml == pytest.approx(entry.voxels * 2.0 / 1000)


def test_several_classes_and_one_without_prompts(session: Session, tmp_path: Path) -> None:
    prompts = {1: ObjectPrompts((FIRST,)), 2: ObjectPrompts(), 3: ObjectPrompts((SECOND,))}
    result = only(infer(session, write_case(tmp_path / "a.npz", prompts), tmp_path / "out"))
    assert result.error is None
    assert result.output is not None
    assert set(np.unique(segs(result.output))) == {0, 1, 3}
    assert [o.object_id for o in result.objects] == [1, 2, 3]
    assert result.objects[1].voxels == 0
    assert any("class 2" in warning and "empty" in warning for warning in result.warnings)


def test_prompts_given_by_the_caller_replace_those_of_the_case(session: Session, tmp_path: Path) -> None:
    case = write_case(tmp_path / "a.npz", {1: ObjectPrompts((FIRST,))})
    result = only(infer(session, case, tmp_path / "out", prompts={1: ObjectPrompts((SECOND,))}))
    assert result.output is not None
    mask = segs(result.output)
    assert mask[SECOND.zyx] == 1
    assert mask[FIRST.zyx] == 0


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_volume_gives_a_mask_of_its_own_format_and_geometry(session: Session, tmp_path: Path, suffix: str) -> None:
    image = SimpleITK.GetImageFromArray(volume())
    image.SetSpacing((0.9, 1.1, 2.5))
    image.SetOrigin((-10.0, 20.0, 5.0))
    source = tmp_path / f"scan{suffix}"
    SimpleITK.WriteImage(image, str(source))
    result = only(infer(session, source, tmp_path / "out", prompts={1: ObjectPrompts((FIRST,))}, overlay=True))
    assert result.error is None
    assert result.output == tmp_path / "out" / f"scan_mask{suffix}"
    mask = SimpleITK.ReadImage(str(result.output))
    assert mask.GetSpacing() == pytest.approx(image.GetSpacing())
    assert mask.GetOrigin() == pytest.approx(image.GetOrigin())
    assert SimpleITK.GetArrayFromImage(mask)[FIRST.zyx] == 1
    assert result.overlay is not None
    assert result.overlay.read_bytes().startswith(b"\x89PNG")


def test_a_folder_goes_on_after_a_bad_case(session: Session, tmp_path: Path) -> None:
    folder = tmp_path / "cases"
    folder.mkdir()
    write_case(folder / "a.npz", {1: ObjectPrompts((FIRST,))})
    (folder / "b.npz").write_bytes(b"PK\x03\x04 not a zip")
    write_case(folder / "c.npz", {})
    write_case(folder / "d.npz", {1: ObjectPrompts((SECOND,))})
    seen: list[InferResult] = []
    results = infer(session, folder, tmp_path / "out", on_result=lambda result, total: seen.append(result))
    assert results == seen
    assert [r.error is None for r in results] == [True, False, False, True]
    assert visible(tmp_path / "out") == ["a_mask.npz", "d_mask.npz"]
    assert "no clicks and no boxes" in str(results[2].error)
    assert all("\n" not in str(r.error) for r in results)


def test_a_prompt_outside_the_volume_fails_that_case_and_writes_nothing(session: Session, tmp_path: Path) -> None:
    case = write_case(tmp_path / "a.npz", {})
    result = only(infer(session, case, tmp_path / "out", prompts={1: ObjectPrompts((Point((30, 0, 0)),))}))
    assert "inside the image" in str(result.error)
    assert not list((tmp_path / "out").iterdir())


def test_a_result_never_overwrites_a_source_or_another_result(session: Session, tmp_path: Path) -> None:
    case = write_case(tmp_path / "a.npz", {1: ObjectPrompts((FIRST,))})
    before = case.read_bytes()
    with pytest.raises(OutputError, match="overwrite"):
        infer(session, case, tmp_path, name="{stem}", overwrite=True)
    assert case.read_bytes() == before
    assert only(infer(session, case, tmp_path)).output == tmp_path / "a_mask.npz"
    with pytest.raises(OutputError, match=r"a_mask\.npz exists already; give --overwrite to replace, or another"):
        infer(session, case, tmp_path)
    assert case.read_bytes() == before


def test_results_are_named_as_asked(session: Session, tmp_path: Path) -> None:
    case = write_case(tmp_path / "a {b}.npz", {1: ObjectPrompts((FIRST,))})
    named = {"{stem}": "a {b}.npz", "liver_{stem}": "liver_a {b}.npz", "läsion (1)": "läsion (1).npz"}
    for name, written in named.items():
        result = only(infer(session, case, tmp_path / "out", name=name, overlay=True))
        assert result.output == tmp_path / "out" / written
        assert result.output.is_file()
        assert result.overlay == tmp_path / "out" / f"{result.output.stem}_overlay.png"
    for name in ("", "..", "a/{stem}", "{}", "{stem.__class__}", "{stem", "{other}", "mask.nii.gz", "{stem}.SEG.nrrd"):
        with pytest.raises(OutputError, match="got the name"):
            infer(session, case, tmp_path / "none", name=name)
    with pytest.raises(OutputError, match="for several cases"):
        infer(session, [case, write_case(tmp_path / "b.npz", {})], tmp_path / "none", name="mask")


def test_earlier_results_below_a_folder_are_no_cases(session: Session, tmp_path: Path) -> None:
    write_case(tmp_path / "a.npz", {1: ObjectPrompts((FIRST,))})
    for overwrite in (False, True):
        results = infer(session, tmp_path, tmp_path / "results", overwrite=overwrite)
        assert [result.source for result in results] == [tmp_path / "a.npz"]


def test_cases_of_one_name_keep_their_folders(session: Session, tmp_path: Path) -> None:
    for name in ("p1/ct.nii.gz", "p2/ct.nii.gz"):
        (tmp_path / "cohort" / name).parent.mkdir(parents=True)
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(volume()), tmp_path / "cohort" / name)
    clicks = {1: ObjectPrompts((FIRST,))}
    results = infer(session, tmp_path / "cohort", tmp_path / "out", prompts=clicks, overlay=True)
    assert [r.output for r in results] == [tmp_path / "out" / f"p{n}" / "ct_mask.nii.gz" for n in (1, 2)]
    assert [r.overlay for r in results] == [tmp_path / "out" / f"p{n}" / "ct_mask_overlay.png" for n in (1, 2)]
    for result in results:
        assert result.output is not None
        assert result.output.is_file()
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(volume()), tmp_path / "cohort" / "p1" / "ct.nrrd")
    results = infer(session, tmp_path / "cohort" / "p1", tmp_path / "two", prompts=clicks, overlay=True)
    assert visible(tmp_path / "two") == [
        *("ct_mask.nii.gz", "ct_mask.nii.gz_overlay.png", "ct_mask.nrrd", "ct_mask.nrrd_overlay.png"),
    ]


def test_pictures_lie_beside_masks_that_differ_in_format_alone(session: Session, tmp_path: Path) -> None:
    for name in ("p1/ct.nii.gz", "p2/ct.nrrd"):
        (tmp_path / "cohort" / name).parent.mkdir(parents=True)
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(volume()), tmp_path / "cohort" / name)
    results = infer(session, tmp_path / "cohort", tmp_path / "out", prompts={1: ObjectPrompts((FIRST,))}, overlay=True)
    assert [r.error for r in results] == [None, None]
    assert all(r.overlay is not None and r.overlay.is_file() for r in results)
    assert visible(tmp_path / "out") == [
        *("ct_mask.nii.gz", "ct_mask.nii.gz_overlay.png", "ct_mask.nrrd", "ct_mask.nrrd_overlay.png"),
    ]


def test_an_output_folder_that_is_a_file_is_refused(session: Session, tmp_path: Path) -> None:
    case = write_case(tmp_path / "a.npz", {1: ObjectPrompts((FIRST,))})
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError):
        infer(session, case, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_source_that_does_not_exist_is_refused(session: Session, tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="does not exist"):
        infer(session, tmp_path / "nothing.npz", tmp_path / "out")


def test_options_that_do_not_apply_to_a_file_are_said(session: Session, tmp_path: Path) -> None:
    case = write_case(tmp_path / "a.npz", {1: ObjectPrompts((FIRST,))})
    image = SimpleITK.GetImageFromArray(volume())
    SimpleITK.WriteImage(image, tmp_path / "b.nii.gz")
    clicks = {1: ObjectPrompts((FIRST,))}
    for path, wrong, right in (
        (case, "window bone is not", "spacing order"),
        (tmp_path / "b.nii.gz", "order xyz", "window"),
    ):
        result = only(
            infer(session, path, tmp_path / "out", prompts=clicks, intensity_window="bone", spacing_order="xyz")
        )
        assert sum(wrong in warning for warning in result.warnings) == 1
        assert not any(right in warning and "not applied" in warning for warning in result.warnings)


def write_scan(path: Path) -> Path:
    """The volume with axes that run to the right, to the front and to the head, off the origin."""
    made = SimpleITK.GetImageFromArray(volume())
    made.SetSpacing((1.0, 1.0, 2.0))
    made.SetOrigin((100, 200, -300))
    made.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    SimpleITK.WriteImage(made, str(path))
    return path


def test_places_in_mm_are_the_voxels_that_nibabel_finds_there(session: Session, tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    scan = write_scan(tmp_path / "scan.nii.gz")
    z, y, x = FIRST.zyx
    right, front, head = (nibabel.load(scan).affine @ [x, y, z, 1])[:3]
    places = {1: [PlacedPoint((-right + 0.3, -front - 0.3, head + 0.4))]}
    by_place = only(infer(session, scan, tmp_path / "mm", points_mm=places))
    by_voxel = only(infer(session, scan, tmp_path / "voxels", prompts={1: ObjectPrompts((FIRST,))}))
    assert by_place.error is by_voxel.error is None
    masks = [SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(r.output))) for r in (by_place, by_voxel)]
    assert masks[0].any()
    np.testing.assert_array_equal(*masks)
    outside = only(infer(session, scan, tmp_path / "no", points_mm={1: [PlacedPoint((0.0, 0.0, 5000.0))]}))
    assert outside.error is not None
    assert "RAS" in outside.error
    assert "gstk inspect" in outside.error


def test_an_earlier_mask_is_changed_only_near_clicks(session: Session, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz")
    both = {1: ObjectPrompts((FIRST, SECOND)), 2: ObjectPrompts((Point((1, 1, 1)),))}
    before = only(infer(session, scan, tmp_path / "one", prompts=both))
    assert before.output is not None
    given = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(before.output)))
    off = {1: ObjectPrompts((Point(SECOND.zyx, False),))}  # a background click alone is enough here
    after = only(infer(session, scan, tmp_path / "two", prompts=off, start_mask=before.output))
    assert after.error is None
    mask = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(after.output)))
    assert mask[SECOND.zyx] != 1
    assert ((mask == 1) & (given == 1))[5:15, 8:20, 8:20].sum() > 0.9 * (given == 1)[5:15, 8:20, 8:20].sum()
    np.testing.assert_array_equal(mask == 2, given == 2)  # nothing was said of it
    far = {1: ObjectPrompts((Point((28, 2, 48), False),))}
    same = only(infer(session, scan, tmp_path / "three", prompts=far, start_mask=before.output))
    assert any("changed nothing of object 1" in note and "mm from its border" in note for note in same.warnings)
    other = tmp_path / "other.nii.gz"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(given[1:]), str(other))
    refused = only(infer(session, scan, tmp_path / "four", prompts=off, start_mask=other))
    assert refused.error is not None
    with pytest.raises(CaseError, match="one case"):
        infer(session, [scan, write_scan(tmp_path / "b.nii.gz")], tmp_path / "five", prompts=off, start_mask=other)


def test_a_segmentation_of_3d_slicer_is_written_and_gone_on_from(session: Session, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz")
    both = {1: ObjectPrompts((FIRST,)), 2: ObjectPrompts((SECOND,))}
    first = only(infer(session, scan, tmp_path / "one", prompts=both, format="seg.nrrd"))
    assert first.output == tmp_path / "one" / "scan_mask.seg.nrrd"
    image = SimpleITK.ReadImage(str(first.output))
    image.SetMetaData("Segment0_Name", "Läsion")
    image.SetMetaData("Segment0_Color", "0 0 1")
    SimpleITK.WriteImage(image, str(tmp_path / "named.seg.nrrd"))
    given = SimpleITK.GetArrayFromImage(image)
    off = {2: ObjectPrompts((Point(SECOND.zyx, False),))}
    for ending in ("seg.nrrd", "nii.gz"):
        again = only(
            infer(session, scan, tmp_path / ending, prompts=off, start_mask=tmp_path / "named.seg.nrrd", format=ending)
        )
        assert again.output is not None
        labels, names = read_label_map(again.output, read_volume(scan))
        assert names[1] == LabelName("Läsion", (0, 0, 255))
        np.testing.assert_array_equal(labels == 1, given == 1)
        assert labels[SECOND.zyx] != 2
        listed = json.loads((tmp_path / ending / "scan_mask_labels.json").read_text(encoding="utf-8"))["labels"]
        assert {k: v["name"] for k, v in listed.items()} == {"1": "Läsion", "2": "object 2"}
    with pytest.raises(OutputError, match="expected one of nii"):
        infer(session, scan, tmp_path / "none", prompts=off, format="dcm")


def test_objects_are_called_as_the_caller_says(session: Session, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz")
    both = {1: ObjectPrompts((FIRST,)), 2: ObjectPrompts((SECOND,))}
    called = {1: "left lesion"}
    result = only(infer(session, scan, tmp_path / "one", prompts=both, object_names=called, format="seg.nrrd"))
    assert result.error is None
    assert [one.name for one in result.objects] == ["left lesion", ""]
    assert result.output is not None
    _, names = read_label_map(result.output, read_volume(scan))
    assert names[1].name == "left lesion"
    other = {2: "vessel"}
    again = only(
        infer(session, scan, tmp_path / "two", object_names=other, prompts=both, start_mask=result.output, overlay=True)
    )
    assert again.error is None
    listed = json.loads((tmp_path / "two" / "scan_mask_labels.json").read_text(encoding="utf-8"))["labels"]
    assert {k: v["name"] for k, v in listed.items()} == {"1": "left lesion", "2": "vessel"}
    unknown = only(infer(session, scan, tmp_path / "three", prompts=both, object_names={7: "spleen"}))
    assert unknown.error is not None
    assert "'spleen' for object 7" in unknown.error


@pytest.mark.parametrize("format", ["nii.gz", "nii", "nrrd", "seg.nrrd", "mha", "npz"])
def test_every_format_of_every_case(session: Session, tmp_path: Path, format: str) -> None:
    case = write_case(tmp_path / "a.npz", {1: ObjectPrompts((FIRST,))})
    result = only(infer(session, case, tmp_path / "out", format=format))
    assert result.error is None
    assert result.output == tmp_path / "out" / f"a_mask.{format}"
    off = {1: ObjectPrompts((Point((9, 14, 14), False),))}  # which follows the click of the case
    again = only(infer(session, case, tmp_path / "two", prompts=off, start_mask=result.output))
    assert again.error is None
    assert again.output is not None
    mask = segs(again.output)
    assert mask[9, 14, 14] == 0
    assert (mask == 1).sum() > 0.5 * result.objects[0].voxels


def test_clicks_that_changed_nothing_are_named(session: Session, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz")
    telling, idle = Point((10, 14, 9), False), Point((17, 20, 25), False)
    said = {1: ObjectPrompts((FIRST, telling, idle)), 2: ObjectPrompts((SECOND,))}
    result = only(infer(session, scan, tmp_path / "out", prompts=said))
    assert result.error is None
    named = [note for note in result.warnings if "changed nothing" in note]
    assert [note.partition(" changed")[0] for note in named] == ["the background click (17, 20, 25)"]
    assert all("The click was outside the mask already" in note and "mm from its border" in note for note in named)
    alone = only(infer(session, scan, tmp_path / "alone", prompts={1: ObjectPrompts((FIRST, telling)), 2: said[2]}))
    assert alone.output is not None
    assert result.output is not None
    masks = [SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(r.output))) for r in (result, alone)]
    np.testing.assert_array_equal(*masks)
    assert result.report is not None
    assert set(result.report.object_s) == {1, 2}


def slow_session(factor: float) -> Session:
    """On an engine whose runs take `factor` times what its latency model says."""
    model = a_model(encode=1.0, decode=0.2)
    return Session(SlowEngine(model, itertools.repeat(factor)), POLICY, model=model)  # type: ignore[arg-type]


@pytest.mark.parametrize("is_firm", [True, False])
def test_a_limit_that_nobody_asked_for_waits_for_the_network(tmp_path: Path, is_firm: bool) -> None:
    """Its runs take far longer than there is; the start of the process took all of the time."""
    case = write_case(tmp_path / "a.npz", {1: ObjectPrompts((FIRST,))})
    with slow_session(30.0) as slow:
        result = only(
            infer(slow, case, tmp_path / "out", budget=Budget(0.2), is_firm=is_firm, started_s=100.0, overwrite=True)
        )
    assert result.error is None
    assert result.report is not None
    alone = any("prompts alone" in said for said in result.report.compromises)
    assert alone == is_firm
    assert result.output is not None
    found, truth = segs(result.output) == 1, volume() == 200
    score = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert (score > 0.6) != is_firm


@pytest.mark.parametrize(("asked", "calls"), [(None, 2), (6, 6)])
def test_calls_of_an_npz_case_with_its_own_prompts(tmp_path: Path, asked: int | None, calls: int) -> None:
    case = write_case(tmp_path / "a.npz", {1: ObjectPrompts((FIRST,))})
    with slow_session(0.001) as quick:
        options = {"budget": Budget(6000.0, 2), "npz_calls": asked, "overwrite": True}
        own = only(infer(quick, case, tmp_path / "own", **options))  # type: ignore[arg-type]
        given = only(infer(quick, case, tmp_path / "given", prompts={1: ObjectPrompts((FIRST,))}, **options))  # type: ignore[arg-type]
    assert own.budget == Budget(6000.0, calls)
    assert given.budget == Budget(6000.0, 2)
    for result in (own, given):
        assert result.report is not None
        assert result.report.compromises == ()


def test_clicks_are_asked_about_as_far_as_the_time_goes(tmp_path: Path) -> None:
    case = write_case(tmp_path / "a.npz", {})
    idle = {1: ObjectPrompts((FIRST, Point((17, 20, 25), False)))}
    with slow_session(0.001) as quick:
        long = only(infer(quick, case, tmp_path / "long", prompts=idle, budget=Budget(6000.0)))
        assert any("changed nothing" in note for note in long.warnings)
        assert quick.prompts(1) == idle[1]
    with slow_session(3.0) as slow:
        short = only(infer(slow, case, tmp_path / "short", prompts=idle, budget=Budget(0.3), is_firm=False))
        assert short.error is None
        assert not any("changed nothing" in note for note in short.warnings)
