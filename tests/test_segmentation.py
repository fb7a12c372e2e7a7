"""Segmentations of 3D Slicer: what slicerio, its own package, reads of ours, and what we read of its files."""

from __future__ import annotations

from pathlib import Path

import nrrd
import numpy as np
import pytest
import slicerio
from numpy.typing import NDArray

from gstk.cases.label_names import LabelName
from gstk.cases.npz import CaseWarning
from gstk.cases.segmentation import read_segmentation, segment_names
from gstk.cases.volumes import find_cases, write_mask
from gstk.core.geometry import Geometry
from gstk.errors import CaseError, OutputError

GEOMETRY = Geometry((6, 7, 8), (3.0, 1.5, 0.75), (-10.0, 20.0, 5.0), (-1, 0, 0, 0, 0, 1, 0, 1, 0))
NAMES = {3: LabelName("Leber [rechts] é 肝", (255, 0, 51)), 300: LabelName("a\nb  :=", (0, 255, 0))}


@pytest.fixture
def labels() -> NDArray[np.uint16]:
    array = np.zeros(GEOMETRY.shape, np.uint16)
    array[1:3, 2:4, 1:7] = 3
    array[4, 5, 6] = 300
    array[5, 0, 0] = 2
    return array


def test_slicerio_reads_what_is_written(labels: NDArray[np.uint16], tmp_path: Path) -> None:
    file = tmp_path / "a.seg.nrrd"
    write_mask(file, labels, GEOMETRY, names=NAMES)
    found = slicerio.read_segmentation(str(file))
    np.testing.assert_array_equal(found["voxels"].T, labels)
    affine = GEOMETRY.affine[:, [2, 1, 0, 3]]
    np.testing.assert_allclose(found["ijkToLPS"], affine, atol=1e-9)
    assert found["containedRepresentationNames"] == ["Binary labelmap"]
    segments = {one["labelValue"]: one for one in found["segments"]}
    assert {value: one["name"] for value, one in segments.items()} == {
        2: "object 2", 3: "Leber [rechts]", 300: "a b :="  # it reads ASCII alone; 3D Slicer reads UTF-8
    }  # fmt: skip
    np.testing.assert_allclose(segments[3]["color"], [1, 0, 0.2], atol=1e-5)
    # 3D Slicer cuts the voxels of a layer to the extent of its first segment.
    assert all(one["extent"] == [0, 7, 0, 6, 0, 5] and one["layer"] == 0 for one in segments.values())


def test_it_comes_back(labels: NDArray[np.uint16], tmp_path: Path) -> None:
    file = tmp_path / "a.SEG.NRRD"
    write_mask(file, labels, GEOMETRY, names=NAMES)
    found = read_segmentation(file)
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_allclose(found.geometry.affine, GEOMETRY.affine, atol=1e-9)
    assert found.names[3] == NAMES[3]
    assert found.names[300].name == "a b :="
    assert "Segment1_Name:=Leber [rechts] é 肝\n".encode() in file.read_bytes()
    write_mask(file, np.zeros_like(labels), GEOMETRY)
    assert not read_segmentation(file).labels.any()


def test_a_nrrd_with_names_has_the_same_fields(labels: NDArray[np.uint16], tmp_path: Path) -> None:
    for names in ({}, NAMES):
        write_mask(tmp_path / "a.nrrd", labels, GEOMETRY, names=names)
        _, header = nrrd.read(str(tmp_path / "a.nrrd"))
        assert ("Segment0_ID" in header) == bool(names)
        assert set(segment_names(header)) == ({2, 3, 300} if names else set())


def slicer_file(path: Path, layers: NDArray[np.uint8], segments: list[dict[str, object]]) -> Path:
    """A file as 3D Slicer saves overlapping segments: a list of layers before the three axes."""
    header: dict[str, object] = {
        "space": "left-posterior-superior",
        "kinds": ["list", "domain", "domain", "domain"],
        "space directions": [(np.nan,) * 3, (0.75, 0, 0), (0, 1.5, 0), (0, 0, 3)],
        "space origin": (1, 2, 3),
    }
    for index, one in enumerate(segments):
        header |= {f"Segment{index}_ID": f"Segment_{index + 1}", **{f"Segment{index}_{k}": v for k, v in one.items()}}
    nrrd.write(str(path), layers, header)
    return path


def test_layers_that_overlap(tmp_path: Path) -> None:
    layers = np.zeros((2, 8, 7, 6), np.uint8)
    layers[0, 1:4, 2, 3] = 1
    layers[1, 3:6, 2, 3] = 1
    file = slicer_file(
        tmp_path / "a.seg.nrrd",
        layers,
        [
            {"Name": "one", "Layer": 0, "LabelValue": 1, "Color": "1 0 0"},
            {"Name": "two", "Layer": 1, "LabelValue": 1, "Color": "nonsense"},
        ],
    )
    with pytest.warns(CaseWarning) as caught:
        found = read_segmentation(file)
    assert [str(w.message).partition(" ")[2] for w in caught] == [
        "of a.seg.nrrd have the same label value; they are numbered 1 to 2",
        "voxels of a.seg.nrrd are in several segments; the last one keeps them",
    ]
    assert str(caught[1].message).startswith("1 ")
    assert found.labels[3, 2].tolist() == [0, 1, 1, 2, 2, 2, 0, 0]
    assert [name.name for name in found.names.values()] == ["one", "two"]
    assert found.geometry.origin_mm == (1, 2, 3)


def test_files_that_are_none(tmp_path: Path, labels: NDArray[np.uint16]) -> None:
    broken = tmp_path / "a.seg.nrrd"
    broken.write_bytes(b"NRRD0004\ntype: none\n\n")
    with pytest.raises(CaseError, match="cannot read"):
        read_segmentation(broken)
    with pytest.raises(CaseError, match="in layer 5, expected one of 2"):
        read_segmentation(slicer_file(broken, np.zeros((2, 8, 7, 6), np.uint8), [{"Layer": 5}]))
    with pytest.raises(CaseError, match="layers without segments"):
        read_segmentation(slicer_file(broken, np.zeros((2, 8, 7, 6), np.uint8), []))
    with pytest.raises(OutputError, match="from 0 to 65535"):
        write_mask(broken, np.full(GEOMETRY.shape, 70000), GEOMETRY)


def test_a_segmentation_is_no_case(tmp_path: Path, labels: NDArray[np.uint16]) -> None:
    for name in ("a.seg.nrrd", "b.nrrd"):
        write_mask(tmp_path / name, labels, GEOMETRY)
    assert find_cases(tmp_path) == [tmp_path / "b.nrrd"]
    assert len(find_cases(tmp_path, segmentations=True)) == 2
    with pytest.raises(CaseError, match="expected an image; give a segmentation to --from"):
        find_cases(tmp_path / "a.seg.nrrd")
