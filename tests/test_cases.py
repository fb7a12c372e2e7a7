import dataclasses
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gstk.cases.npz import Case, CaseWarning, check_image, load_case, save_case, save_segs, to_label_map
from gstk.core.geometry import Geometry
from gstk.core.prompts import Box, ObjectPrompts, Point
from gstk.errors import CaseError, GeometryError, OutputError, PromptError

IMAGE = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
BOX = Box(0, 1, 0, 1, 0, 3, 2)


def objects(*items: object) -> np.ndarray:
    array = np.empty(len(items), object)
    for index, item in enumerate(items):
        array[index] = item
    return array


def write(path: Path, **arrays: object) -> Path:
    """An .npz as anyone else writes it: by NumPy itself. None leaves a key out."""
    all_arrays = {"imgs": IMAGE, "spacing": np.array([5.0, 1.0, 0.5])} | arrays
    np.savez_compressed(path, **{key: value for key, value in all_arrays.items() if value is not None})
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "CT_1.npz"


def test_a_case_of_numpy(file: Path) -> None:
    write(
        file,
        boxes=objects(BOX.to_dict(), None),
        clicks=objects({"fg": [[0, 0, 0]], "bg": []}, {"fg": [np.array([1, 2, 3])], "bg": [[np.int64(1), 1, 1]]}),
        clicks_order=objects(["fg"], ["bg", "fg"]),
        gts=np.ones((2, 3, 4), np.int64),
        prev_pred=np.zeros((2, 3, 4), bool),
        text_prompts=objects(print),  # a key that is not asked for is not unpickled
    )
    case = load_case(file)
    assert case.name == "CT_1"
    assert case.path == file
    assert case.geometry == Geometry((2, 3, 4), (5, 1, 0.5))
    np.testing.assert_array_equal(case.image, IMAGE)
    assert case.prompts == {
        1: ObjectPrompts((Point((0, 0, 0)),), BOX),
        2: ObjectPrompts((Point((1, 1, 1), False), Point((1, 2, 3)))),
    }
    assert case.labels is not None
    assert case.labels.dtype == np.uint8
    assert case.labels.all()
    assert case.prev_mask is not None
    assert not case.prev_mask.any()


def test_the_least_case(file: Path) -> None:
    case = load_case(write(file))
    assert case.prompts == {}
    assert case.labels is None
    assert case.prev_mask is None


@pytest.mark.parametrize(
    ("order", "got"),
    [
        (np.array([["bg", "fg"], ["fg", "bg"]]), [(False, True), (True, False)]),  # what NumPy makes of equal lengths
        (np.array([["bg", "fg"], ["fg", "bg"]], object), [(False, True), (True, False)]),
        (None, [(True, False), (True, False)]),
    ],
)
def test_click_orders_as_numpy_stores_them(file: Path, order: object, got: object) -> None:
    clicks = objects(*[{"fg": [[0, 0, 0]], "bg": [[1, 1, 1]]}] * 2)
    case = load_case(write(file, clicks=clicks, clicks_order=order))
    assert [tuple(p.foreground for p in case.prompts[label].points) for label in (1, 2)] == got


def test_no_clicks_yet(file: Path) -> None:
    clicks = objects({"fg": [], "bg": []}, {"fg": [], "bg": []})
    case = load_case(write(file, clicks=clicks, clicks_order=np.array([[], []])))
    assert case.prompts == {1: ObjectPrompts(), 2: ObjectPrompts()}


def test_spacing_order(file: Path) -> None:
    write(file, spacing=np.array([0.5, 1.0, 5.0]))
    assert load_case(file, "xyz").geometry.spacing_mm == (5, 1, 0.5)
    with pytest.raises(CaseError, match="got the spacing order 'zxy', expected 'zyx' or 'xyz'"):
        load_case(file, "zxy")


@pytest.mark.parametrize(
    ("shape", "spacing", "order", "reversed_"),
    [
        ((4, 8, 9), (0.8, 0.8, 5.0), "zyx", True),
        ((4, 8, 9), (5.0, 0.8, 0.8), "xyz", True),
        ((4, 8, 9), (0.8, 0.8, 5.0), "xyz", False),
        ((4, 8, 9), (5.0, 0.8, 0.8), "zyx", False),
        ((8, 8, 4), (0.8, 0.8, 5.0), "zyx", False),
        ((4, 4, 9), (0.8, 0.8, 5.0), "zyx", False),
        ((4, 8, 9), (1.0, 1.0, 1.0), "zyx", False),
        ((4, 8, 9), (0.7, 0.8, 5.0), "zyx", False),
    ],
)
def test_a_reversed_spacing_is_warned_of_and_kept(file: Path, shape, spacing, order, reversed_) -> None:
    write(file, imgs=np.zeros(shape, np.uint8), spacing=np.array(spacing))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        case = load_case(file, order)
    assert case.geometry.spacing_mm == (spacing if order == "zyx" else spacing[::-1])
    assert [w.category for w in caught] == [CaseWarning] * reversed_
    if reversed_:
        other = {"zyx": "xyz", "xyz": "zyx"}[order]
        assert f"looks reversed; if it is, use --spacing-order {other}" in str(caught[0].message)


def test_a_missing_spacing_is_warned_of(file: Path) -> None:
    with pytest.warns(CaseWarning, match=r"CT_1\.npz has no 'spacing'; 1 mm along each axis is assumed"):
        assert load_case(write(file, spacing=None)).geometry.spacing_mm == (1, 1, 1)


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({"imgs": None}, CaseError, "CT_1.npz holds spacing, expected 'imgs'"),
        ({"imgs": None, "segs": IMAGE}, CaseError, "CT_1.npz holds spacing, segs, .* is it a case, not a result"),
        ({"imgs": IMAGE[0]}, CaseError, r"got shape \(3, 4\) for 'imgs' of CT_1.npz, expected three axes"),
        ({"imgs": IMAGE[None]}, CaseError, r"got shape \(1, 2, 3, 4\)"),
        ({"imgs": IMAGE[:0]}, CaseError, "empty"),
        ({"imgs": IMAGE.astype("U3")}, CaseError, "got dtype <U3 for 'imgs' of CT_1.npz, expected integers or floats"),
        ({"imgs": IMAGE.astype(complex)}, CaseError, "dtype complex128"),
        ({"imgs": IMAGE.astype(object)}, CaseError, "got dtype object"),
        ({"imgs": np.where(IMAGE == 3, np.nan, IMAGE)}, CaseError, "got 1 voxels of NaN or infinity in 'imgs'"),
        ({"imgs": np.where(IMAGE < 2, np.inf, IMAGE)}, CaseError, "got 2 voxels of NaN or infinity"),
        ({"spacing": np.array([1, 1, 0])}, GeometryError, r"CT_1.npz: got the spacing \(1, 1, 0\)"),
        ({"spacing": np.array([1, -1, 1])}, GeometryError, "above 0"),
        ({"spacing": np.array([1, np.nan, 1])}, GeometryError, "finite"),
        ({"spacing": np.array([1, 1])}, GeometryError, r"shape \(2,\) in CT_1.npz, expected three numbers"),
        ({"spacing": np.array(["1", "1", "1"])}, GeometryError, "dtype <U1"),
        ({"gts": IMAGE[:1]}, CaseError, r"got shape \(1, 3, 4\) for 'gts' of CT_1.npz, expected \(2, 3, 4\)"),
        ({"gts": IMAGE - 1.5}, CaseError, "in 'gts' of CT_1.npz, expected whole label ids from 0 to 65535"),
        ({"gts": IMAGE.astype("U3")}, CaseError, "expected integer label ids"),
        ({"prev_pred": IMAGE.astype(int) - 1}, CaseError, "got values from -1 to 22 in 'prev_pred'"),
        ({"prev_pred": IMAGE.astype(int) + 65535}, CaseError, "expected whole label ids"),
        ({"prev_pred": np.full((2, 3, 4), np.nan)}, CaseError, "expected whole label ids"),
        ({"boxes": np.array({}, object)}, PromptError, "got a single value as 'boxes' of CT_1.npz"),
        (
            {"boxes": objects({})},
            PromptError,
            "CT_1.npz: the box of class 1 in the volume .2, 3, 4.: got a box without",
        ),
        ({"boxes": objects(BOX.to_dict() | {"z_max": 2})}, PromptError, r"for class 1 in the volume \(2, 3, 4\)"),
        ({"boxes": np.array([1.0])}, PromptError, "got 1.0 as the box"),
        ({"clicks": objects([])}, PromptError, "as the clicks of class 1"),
        ({"clicks": objects({"fg": [[0, 0, 4]]})}, PromptError, r"got the click \(z, y, x\) \(0, 0, 4\)"),
        ({"clicks": objects({}), "clicks_order": objects(["fg"])}, PromptError, "got the clicks_order"),
    ],
)
def test_what_is_no_case(file: Path, arrays: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        load_case(write(file, **arrays))
    assert "\n" not in str(caught.value)


def test_a_malicious_case_runs_nothing(file: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class CreatesFile:
        def __reduce__(self):
            return os.mkdir, (str(canary),)

    for key in ("boxes", "clicks", "clicks_order", "imgs", "spacing", "gts", "prev_pred"):
        with pytest.raises(CaseError, match=rf"refused to unpickle \w+\.mkdir in '{key}' of CT_1\.npz"):
            load_case(write(file, **{key: objects(CreatesFile())}))
    assert not canary.exists()


def test_a_truncated_case(file: Path) -> None:
    write(file)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(CaseError, match=r"is not a complete \.npz file"):
        load_case(file)


def test_a_volume_is_not_read_as_a_case(tmp_path: Path) -> None:
    (tmp_path / "scan.nii.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(CaseError, match=r"got scan\.nii\.gz, expected an \.npz case; .*gstk\.read_volume"):
        load_case(tmp_path / "scan.nii.gz")


@pytest.mark.parametrize("dtype", ["u1", "i2", ">i2", "u2", "i4", "f2", "f4", "f8"])
def test_images_keep_their_dtype(file: Path, dtype: str) -> None:
    image = load_case(write(file, imgs=IMAGE.astype(dtype))).image
    assert image.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(image, IMAGE)
    assert load_case(write(file, imgs=IMAGE > 3)).image.dtype == np.uint8


voxels = st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 3))
prompts = st.builds(
    ObjectPrompts,
    st.lists(st.builds(Point, voxels, st.booleans()), min_size=1, max_size=5).map(tuple),
    st.sampled_from([BOX, None]),
)


@settings(max_examples=30, deadline=None)
@given(
    hnp.arrays(st.sampled_from([np.uint8, np.int16, np.float32]), (2, 3, 4), elements=st.integers(0, 100)),
    st.lists(prompts, max_size=3),
    st.none() | hnp.arrays(np.uint16, (2, 3, 4), elements=st.integers(256, 65535)),
)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, image, format_ids, labels) -> None:
    path = tmp_path_factory.mktemp("round") / "a.npz"
    case = Case("a", image, Geometry((2, 3, 4), (2, 1, 0.7)), dict(enumerate(format_ids, 1)), labels, labels)
    save_case(path, case)
    got = load_case(path)
    assert got.geometry == case.geometry
    assert got.prompts == case.prompts
    for one, other in ((got.image, image), (got.labels, labels), (got.prev_mask, labels)):
        np.testing.assert_array_equal(one, other)
    assert got.image.dtype == image.dtype
    assert [child.name for child in path.parent.iterdir()] == ["a.npz"]


def test_what_is_written_is_what_numpy_and_the_challenge_read(file: Path) -> None:
    clicked = ObjectPrompts((Point((1, 2, 3), False), Point((0, 0, 0))), BOX)
    save_case(file, Case("a", IMAGE, Geometry((2, 3, 4), (5, 1, 1)), {1: clicked, 3: clicked}))
    with np.load(file, allow_pickle=True) as data:
        assert set(data.files) == {"imgs", "spacing", "boxes", "clicks", "clicks_order"}
        assert data["spacing"].tolist() == [5, 1, 1]
        assert data["boxes"].tolist() == [BOX.to_dict(), None, BOX.to_dict()]
        assert data["clicks"][2] == {"fg": [[0, 0, 0]], "bg": [[1, 2, 3]]}
        assert data["clicks_order"].tolist() == [["bg", "fg"], [], ["bg", "fg"]]
    assert load_case(file).prompts == {1: clicked, 2: ObjectPrompts(), 3: clicked}


@pytest.mark.parametrize(("top", "dtype"), [(1, "u1"), (255, "u1"), (256, "u2"), (65535, "u2")])
def test_segs(tmp_path: Path, top: int, dtype: str) -> None:
    mask = np.zeros((2, 3, 4), np.int64)
    mask[1, 2, 3] = top
    save_segs(tmp_path / "result", mask)  # the name is taken as it is
    with np.load(tmp_path / "result") as data:
        assert data.files == ["segs"]
        assert data["segs"].dtype == dtype
        np.testing.assert_array_equal(data["segs"], mask)


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"got values from -1 to -1 in the mask"):
        save_segs(tmp_path / "a.npz", -np.ones((2, 3, 4), int))
    with pytest.raises(OutputError, match=r"got shape \(3, 4\) for the mask, expected \(z, y, x\)"):
        save_segs(tmp_path / "a.npz", np.ones((3, 4)))
    with pytest.raises(OutputError, match="cannot write"):
        save_segs(tmp_path / "none" / "a.npz", IMAGE)
    case = Case("a", np.full((2, 3, 4), np.nan), Geometry((2, 3, 4), (1, 1, 1)))
    with pytest.raises(CaseError, match="NaN or infinity in the image of a"):
        save_case(tmp_path / "a.npz", case)
    assert list(tmp_path.iterdir()) == []


def test_a_case_is_consistent_and_immutable() -> None:
    geometry = Geometry((2, 3, 4), (1, 1, 1))
    with pytest.raises(CaseError, match=r"got image of shape \(2, 3\) in a, expected \(2, 3, 4\)"):
        Case("a", IMAGE[..., 0], geometry)
    with pytest.raises(CaseError, match="got labels of shape"):
        Case("a", IMAGE, geometry, labels=IMAGE[:1])
    with pytest.raises(dataclasses.FrozenInstanceError):
        Case("a", IMAGE, geometry).name = "b"


def test_checks_hand_arrays_on_without_a_copy() -> None:
    assert check_image(IMAGE, "x") is IMAGE
    assert np.shares_memory(to_label_map(IMAGE, (2, 3, 4), "x"), IMAGE)
    assert to_label_map(IMAGE.astype(float), (2, 3, 4), "x").dtype == np.uint8


def test_the_import_is_light() -> None:
    code = "import sys, gstk.cases.npz; print(*sorted({'scipy', 'SimpleITK', 'torch', 'rich'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=True)
    assert run.stdout.strip() == ""


def test_real_cases(shared_data: Path) -> None:
    files = sorted((shared_data / "cases").glob("*.npz"))
    assert files
    for file in files:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            case = load_case(file)
        with np.load(file, allow_pickle=True) as data:
            np.testing.assert_array_equal(case.image, data["imgs"])
            np.testing.assert_array_equal(case.labels, data["gts"])
            assert case.geometry.spacing_mm == tuple(data["spacing"])
            assert [prompts.box.to_dict() for prompts in case.prompts.values()] == list(data["boxes"])
