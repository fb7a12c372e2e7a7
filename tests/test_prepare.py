import logging
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import typer
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from typer.testing import CliRunner

from gstk.cases.npz import Case, load_case, save_case
from gstk.cases.prepare import boxes_of, prepare, prepare_case, relabel, rescale
from gstk.cases.volumes import read_volume
from gstk.cli.prepare import prepare_command
from gstk.core.geometry import Geometry
from gstk.core.prompts import ObjectPrompts, Point
from gstk.errors import CaseError, OutputError

SHAPE = (4, 5, 6)


def write(path: Path, array: np.ndarray, origin: tuple[float, float, float] = (1, 2, 3)) -> Path:
    image = SimpleITK.GetImageFromArray(array)
    Geometry(array.shape, (5, 0.5, 0.5), origin).apply_to(image)
    SimpleITK.WriteImage(image, str(path))
    return path


def ct(*values: int) -> np.ndarray:
    """An int16 volume that starts with these values and is air elsewhere."""
    image = np.full(SHAPE, -1024, np.int16)
    image.flat[: len(values)] = values
    return image


def first(image: np.ndarray, count: int) -> list[int]:
    return image.ravel()[:count].tolist()


@pytest.mark.parametrize(
    ("window", "expected"),
    [  # by hand: 0 at level - width / 2, 255 at level + width / 2, between them (hu - low) / width * 255
        ("soft", {-160: 0, -161: 0, 40: 128, 240: 255, 241: 255, 0: 102, 140: 191}),
        ("lung", {-910: 0, -160: 128, 590: 255, -760: 26}),
        ("brain", {0: 0, 40: 128, 80: 255, 20: 64}),
        ("bone", {-500: 0, 400: 128, 1300: 255, -150: 50}),
        ((100, 0), {-50: 0, 50: 255, -30: 51}),
        ("100,0", {-50: 0, 50: 255, -30: 51}),
        ("auto", {-160: 0, 40: 128, 240: 255}),
        (None, {-160: 0, 40: 128, 240: 255}),
    ],
)
def test_windows_by_hand(tmp_path: Path, window, expected: dict[int, int]) -> None:
    case = prepare_case(write(tmp_path / "ct.nii.gz", ct(*expected)), window)
    assert case.image.dtype == np.uint8
    assert first(case.image, len(expected)) == list(expected.values())
    assert case.geometry == read_volume(tmp_path / "ct.nii.gz").geometry


def test_percentiles_of_all_voxels(tmp_path: Path) -> None:
    image = np.arange(-100, 901, dtype=np.int16).reshape(7, 11, 13)  # 1001 values: percentile p is -100 + 10 p
    got = prepare_case(write(tmp_path / "mr.nrrd", image)).image.ravel()
    assert got[:6].tolist() == [0] * 6
    assert got[-6:].tolist() == [255] * 6
    assert got[500] == 128  # 400 is the middle of -95..895
    assert got[203] == 51  # (103 + 95) / 990 * 255


def test_percentiles_of_what_is_not_background(tmp_path: Path) -> None:
    image = np.zeros((2, 21, 1001), np.float32)
    image[1, 0] = np.arange(1, 1002)  # percentile p of the non-zero is 1 + 10 p
    got = prepare_case(write(tmp_path / "pet.nrrd", image)).image
    assert not got[0].any()
    assert got[1, 0, [0, 5, 500, 995, 1000]].tolist() == [0, 0, 128, 255, 255]


def test_two_values_keep_their_contrast(tmp_path: Path) -> None:
    image = np.zeros(SHAPE, np.float32)
    image[0] = 7
    assert np.unique(prepare_case(write(tmp_path / "a.nrrd", image)).image).tolist() == [0, 255]
    with pytest.raises(CaseError, match=r"got an image of b with the one value 0\.0, expected some contrast"):
        prepare_case(write(tmp_path / "b.nrrd", image * 0))


def test_what_auto_chooses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gstk")
    ramp = np.arange(120).reshape(SHAPE)
    for name, image, said in (
        ("a", ramp.astype(np.uint8) + 100, "a: left as they are, integers from 100 to 219"),
        ("b", ramp.astype(np.int32), "b: left as they are, integers from 0 to 119"),
        ("c", ramp.astype(np.int16) * 3, "c: percentiles 0.5 and 99.5 of non-zero voxels"),
        ("d", ramp.astype(np.float32), "d: percentiles 0.5 and 99.5 of non-zero voxels"),
        ("e", ramp.astype(np.int16) - 899, "e: percentiles 0.5 and 99.5 of all voxels"),
        ("f", ramp.astype(np.int16) - 900, "f: CT window soft W400 L40, for the minimum of -900 looks like air"),
    ):
        caplog.clear()
        case = prepare_case(write(tmp_path / f"{name}.nrrd", image))
        assert said in caplog.text
        assert case.image.dtype == np.uint8
        if "left" in said:
            np.testing.assert_array_equal(case.image, image)


def test_a_window_that_was_asked_for_is_used(tmp_path: Path) -> None:
    file = write(tmp_path / "a.nrrd", np.arange(120, dtype=np.uint8).reshape(SHAPE))
    assert first(prepare_case(file, "brain").image, 120)[40] == 128
    assert first(prepare_case(file, "percentile").image, 120)[-1] == 255


@pytest.mark.parametrize(
    "window", ["Soft", "", "400", "400,40,1", "a,b", (0, 40), (-1, 0), (float("nan"), 1), "inf,0", 7]
)
def test_unknown_windows(tmp_path: Path, window) -> None:
    file = write(tmp_path / "ct.nrrd", ct(1))
    with pytest.raises(CaseError, match=r"got the window .*, expected auto, percentile, soft, lung, brain, bone, or"):
        prepare_case(file, window)
    with pytest.raises(CaseError, match="got the window"):
        prepare(file, tmp_path / "out", window)


@given(hnp.arrays(np.int16, (2, 3, 4), elements=st.integers(-3000, 3000)), st.integers(-500, 500), st.integers(1, 3000))
def test_rescaling_is_monotonic_and_fills_the_range(image: np.ndarray, low: int, width: int) -> None:
    got = rescale(image, low, low + width).ravel().astype(int)
    assert np.all(np.diff(got[np.argsort(image.ravel(), kind="stable")]) >= 0)
    assert np.all(got[image.ravel() <= low] == 0)
    assert np.all(got[image.ravel() >= low + width] == 255)
    assert np.all(np.abs(got - np.clip((image.ravel() - low) / width, 0, 1) * 255) <= 0.5)


def test_relabel() -> None:
    labels = np.array([[[0, 7, 300], [7, 2, 0]]], np.uint16)
    new, ids = relabel(labels)
    assert ids == {2: 1, 7: 2, 300: 3}
    assert new.dtype == np.uint8
    assert new.tolist() == [[[0, 2, 3], [2, 1, 0]]]
    assert relabel(np.zeros((1, 1, 1), np.uint8))[1] == {}


def test_boxes_by_hand() -> None:
    labels = np.zeros((9, 8, 7), np.uint8)
    labels[2, 1:7, 0:7] = 3  # slices 2, 4 and 7: the middle one of those it is on is 4
    labels[4, 2:4, 5] = 3
    labels[7, 0, 0] = 3
    labels[8, 7, 6] = 1
    boxes = boxes_of(labels)
    assert list(boxes) == [1, 3]
    assert boxes[1].corners() == ((8, 7, 6), (8, 7, 6))
    assert boxes[3].to_dict() == {
        "z_min": 2,
        "z_max": 7,
        "z_mid": 4,
        "z_mid_x_min": 5,
        "z_mid_y_min": 2,
        "z_mid_x_max": 5,
        "z_mid_y_max": 3,
    }
    labels[5, 1:3, 1:4] = 3  # of an even number of slices, the upper of the two in the middle
    assert (boxes_of(labels)[3].z_mid, boxes_of(labels)[3].z_mid_x_max) == (5, 3)


def test_label_maps(tmp_path: Path) -> None:
    source = write(tmp_path / "ct.nii.gz", ct(0))
    labels = np.zeros(SHAPE, np.int16)
    labels[1, 1:3, 2:5] = 40
    labels[3, 4, 5] = 9
    case = prepare_case(source, labels=write(tmp_path / "labels.nrrd", labels))
    assert case.labels is not None
    np.testing.assert_array_equal(case.labels, np.select([labels == 9, labels == 40], [1, 2]))
    assert {label: prompts.box.corners() for label, prompts in case.prompts.items() if prompts.box} == {
        1: ((3, 4, 5), (3, 4, 5)),
        2: ((1, 1, 2), (1, 2, 4)),
    }
    with pytest.raises(CaseError, match=r"got shape .* for the label map other\.nrrd of ct, expected \(4, 5, 6\)"):
        prepare_case(source, labels=write(tmp_path / "other.nrrd", labels[1:]))
    with pytest.raises(CaseError, match=r"moved\.nrrd of ct lies up to 9 mm away from the image; resample it"):
        prepare_case(source, labels=write(tmp_path / "moved.nrrd", labels, (1, 2, 12)))
    with pytest.raises(CaseError, match="expected whole label ids"):
        prepare_case(source, labels=write(tmp_path / "soft.nrrd", labels / 3.0))


def test_an_empty_label_map_is_said(tmp_path: Path) -> None:
    write(tmp_path / "a.nii.gz", ct(1, 2))
    write(tmp_path / "none.nii.gz", np.zeros(SHAPE, np.uint8))
    (result,) = prepare(tmp_path / "a.nii.gz", tmp_path / "out", labels=tmp_path / "none.nii.gz")
    assert result.error is None
    assert any("label map of a is empty" in warning for warning in result.warnings)


def test_npz_sources(tmp_path: Path) -> None:
    gts = np.zeros(SHAPE, np.uint8)
    gts[0, 0, 0] = 5
    geometry = Geometry(SHAPE, (5, 1, 1))
    save_case(tmp_path / "a.npz", Case("a", ct(40), geometry, labels=gts))
    case = prepare_case(tmp_path / "a.npz")
    assert first(case.image, 2) == [128, 0]
    assert case.labels is not None
    assert first(case.labels, 2) == [1, 0]
    assert list(case.prompts) == [1]
    clicked = {1: ObjectPrompts((Point((0, 0, 0)),))}
    save_case(tmp_path / "b.npz", Case("b", ct(40), geometry, clicked, labels=gts))
    kept = prepare_case(tmp_path / "b.npz")  # its prompts name its labels, so both stay
    assert kept.prompts == clicked
    np.testing.assert_array_equal(kept.labels, gts)
    relabelled = prepare_case(tmp_path / "b.npz", labels=tmp_path / "a.npz")
    assert relabelled.prompts[1].box is not None


def test_a_folder_in_which_one_file_is_bad(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    write(folder / "a.nii.gz", ct(40))
    write(folder / "c.nrrd", ct(40))
    write(folder / "sub" / "c.mha", ct(40))
    (folder / "b.nii").write_bytes(b"garbage")
    np.savez(folder / "d.npz", imgs=ct(40))
    told: list[tuple[int, int, str]] = []
    results = prepare(
        folder, tmp_path / "out" / "deep", on_progress=lambda *now: told.append((*now[:2], getattr(now[2], "name", "")))
    )
    assert told == [(0, 5, "a.nii.gz"), (1, 5, "b.nii"), (2, 5, "c.nrrd"), (3, 5, "d.npz"), (4, 5, "c.mha"), (5, 5, "")]
    assert [result.source.name for result in results] == ["a.nii.gz", "b.nii", "c.nrrd", "d.npz", "c.mha"]
    assert [result.output and result.output.name for result in results] == ["a.npz", None, "c.npz", "d.npz", "c.npz"]
    assert "cannot read" in str(results[1].error)
    assert results[4].output == tmp_path / "out" / "deep" / "sub" / "c.npz"
    assert "d.npz has no 'spacing'" in results[3].warnings[0]
    assert results[0].intensities.startswith("CT window soft W400 L40")
    case = load_case(tmp_path / "out" / "deep" / "a.npz")
    assert case.geometry.spacing_mm == (5, 0.5, 0.5)
    assert first(case.image, 2) == [128, 0]


def test_sources_are_never_overwritten(tmp_path: Path) -> None:
    save_case(tmp_path / "a.npz", Case("a", ct(40), Geometry(SHAPE, (5, 1, 1))))
    before = (tmp_path / "a.npz").read_bytes()
    assert "is a source; give another folder" in str(prepare(tmp_path, tmp_path)[0].error)
    write(tmp_path / "a.nii", ct(40))
    assert [r.output and r.output.name for r in prepare(tmp_path, tmp_path)] == ["a.nii.npz", "a.npz.npz"]
    assert (tmp_path / "a.npz").read_bytes() == before


def test_a_cohort_of_one_name_finds_its_own_label_maps(tmp_path: Path) -> None:
    for number in (1, 2):
        labels = np.zeros(SHAPE, np.uint8)
        labels[0] = 10 * number
        for kind, array in (("in", ct(40)), ("labels", labels)):
            (tmp_path / kind / f"p{number}").mkdir(parents=True)
            write(tmp_path / kind / f"p{number}" / "ct.nii.gz", array)
    results = prepare(tmp_path / "in", tmp_path / "out", labels=tmp_path / "labels")
    assert [r.label_ids for r in results] == [{10: 1}, {20: 1}]
    assert [r.output for r in results] == [tmp_path / "out" / f"p{n}" / "ct.npz" for n in (1, 2)]


def test_label_folders(tmp_path: Path) -> None:
    for name in ("in", "labels"):
        (tmp_path / name).mkdir()
    write(tmp_path / "in" / "a.nii.gz", ct(40))
    write(tmp_path / "in" / "b.nii.gz", ct(40))
    labels = np.zeros(SHAPE, np.uint8)
    labels[0] = 200
    write(tmp_path / "labels" / "a.nrrd", labels)
    results = prepare(tmp_path / "in", tmp_path / "out", labels=tmp_path / "labels")
    assert results[0].label_ids == {200: 1}
    assert "got no label map named b in" in str(results[1].error)
    one = tmp_path / "labels" / "a.nrrd"
    assert prepare(tmp_path / "in" / "b.nii.gz", tmp_path / "out", labels=one)[0].label_ids == {200: 1}
    with pytest.raises(CaseError, match=r"got one label map .*a\.nrrd for 2 sources, expected a folder of label maps"):
        prepare(tmp_path / "in", tmp_path / "out", labels=one)


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="does not exist"):
        prepare(tmp_path / "none", tmp_path / "out")
    file = write(tmp_path / "a.nii", ct(40))
    with pytest.raises(OutputError, match="cannot create the folder"):
        prepare(file, file)


def test_the_command(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(prepare_command)
    write(tmp_path / "a.nii.gz", ct(40))
    labels = write(tmp_path / "labels.nii.gz", (ct(40) > 0).astype(np.uint8) * 3)
    good = CliRunner().invoke(
        app, [str(tmp_path / "a.nii.gz"), "-o", str(tmp_path / "out"), "--labels", str(labels), "--window", "80,40"]
    )
    assert good.exit_code == 0
    assert "a.npz: CT window W80 L40; labels 3 -> 1" in good.output
    assert "1 of 1 prepared" in good.output
    assert load_case(tmp_path / "out" / "a.npz").image.flat[0] == 128
    np.savez(tmp_path / "b.npz", imgs=ct(40), spacing=[0.5, 0.5, 5])
    (tmp_path / "bad.nrrd").write_text("garbage")
    both = [str(tmp_path / name) for name in ("b.npz", "bad.nrrd")]
    some = CliRunner().invoke(app, [*both, "--out", str(tmp_path / "out"), "--spacing-order", "zyx"])
    assert some.exit_code == 1
    assert "b.npz: warning: the spacing of b.npz" in some.output
    assert "bad.nrrd: cannot read" in some.output
    assert "1 of 2 prepared" in some.output


def test_real_cases_come_out_as_they_were_made_elsewhere(shared_data: Path) -> None:
    """The images of these cases were made from these files by others' code; the boxes were widened at random."""
    for raw, case_file, slices in (
        ("ct_totalseg_sm.nii.gz", "CT_totalseg_abdomen.npz", slice(82, 112)),
        ("dicom_totalseg_ct", "CT_totalseg_dicom.npz", slice(None)),
        ("mr_ibsi_sts026_T1.nii.gz", "MR_ibsi_sts026.npz", slice(None)),
    ):
        expected = load_case(shared_data / "cases" / case_file)
        got = prepare_case(shared_data / "raw" / raw)
        np.testing.assert_array_equal(got.image, expected.image[slices])
        np.testing.assert_allclose(got.geometry.spacing_mm, expected.geometry.spacing_mm, rtol=1e-5)


def test_real_boxes(shared_data: Path) -> None:
    for file in sorted((shared_data / "cases").glob("*.npz")):
        case = load_case(file)
        assert case.labels is not None
        boxes = boxes_of(case.labels)
        assert list(boxes) == list(case.prompts)
        _, height, width = case.geometry.shape
        for label, box in boxes.items():
            official = case.prompts[label].box
            assert official is not None
            assert (official.z_min, official.z_max, official.z_mid) == (box.z_min, box.z_max, box.z_mid)
            widest_y, widest_x = 5 * height // 256, 5 * width // 256  # up to 5 pixels, scaled by size / 256
            assert 0 <= box.z_mid_x_min - official.z_mid_x_min <= widest_x
            assert 0 <= official.z_mid_x_max - box.z_mid_x_max <= widest_x
            assert 0 <= box.z_mid_y_min - official.z_mid_y_min <= widest_y
            assert 0 <= official.z_mid_y_max - box.z_mid_y_max <= widest_y


def test_cases_are_replaced_only_when_asked(tmp_path: Path) -> None:
    write(tmp_path / "a.nii.gz", ct(40))
    (made,) = prepare(tmp_path, tmp_path / "cases")
    assert made.output is not None
    before = made.output.read_bytes()
    write(tmp_path / "a.nii.gz", ct(80))
    with pytest.raises(OutputError, match="exists already; give --overwrite to replace, or another --out folder"):
        prepare(tmp_path, tmp_path / "cases")
    assert made.output.read_bytes() == before
    (again,) = prepare(tmp_path, tmp_path / "cases", overwrite=True)  # what is in `cases` is no source
    assert again.output == made.output
    assert made.output.read_bytes() != before
