"""An earlier mask, in whatever format, on the grid of its image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gstk.cases.label_maps import read_label_map
from gstk.cases.label_names import LabelName
from gstk.cases.npz import Case, save_case, save_segs
from gstk.cases.volumes import read_any, write_mask
from gstk.core.geometry import Geometry
from gstk.errors import CaseError

GEOMETRY = Geometry((5, 6, 7), (3.0, 1.5, 0.75), (-10.0, 20.0, 5.0))
NAMES = {2: LabelName("spleen", (1, 2, 3))}
MASK = np.zeros(GEOMETRY.shape, np.uint8)
MASK[1:3, 2:5, 1:6] = 2


def case_of(tmp_path: Path, name: str) -> Case:
    if name.endswith(".npz"):
        save_case(tmp_path / name, Case("scan", MASK, GEOMETRY))
    else:
        write_mask(tmp_path / name, MASK, GEOMETRY)
    return read_any(tmp_path / name)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".seg.nrrd", ".mha", ".npz"])
@pytest.mark.parametrize("scan", ["scan.nii.gz", "scan.npz"])
def test_labels_and_names_come_back(tmp_path: Path, suffix: str, scan: str) -> None:
    case = case_of(tmp_path, scan)
    mask = tmp_path / f"mask{suffix}"
    if suffix == ".npz":
        save_segs(mask, MASK)
    else:
        write_mask(mask, MASK, GEOMETRY, names=NAMES)
    labels, names = read_label_map(mask, case)
    np.testing.assert_array_equal(labels, MASK)
    assert names == ({} if suffix in (".npz", ".mha") else NAMES)


def test_a_part_of_the_image_and_another_order_of_storage(tmp_path: Path) -> None:
    case = case_of(tmp_path, "scan.nii.gz")
    corner = tuple(GEOMETRY.voxel_to_mm((2, 4, 5)))
    turned = Geometry((2, 3, 5), GEOMETRY.spacing_mm, corner, (-1, 0, 0, 0, -1, 0, 0, 0, -1))
    write_mask(tmp_path / "part.seg.nrrd", np.full(turned.shape, 2), turned)
    np.testing.assert_array_equal(read_label_map(tmp_path / "part.seg.nrrd", case).labels, MASK)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    case = case_of(tmp_path, "scan.nii.gz")
    write_mask(tmp_path / "off.nii.gz", MASK, Geometry(MASK.shape, GEOMETRY.spacing_mm, (-9.0, 20.0, 5.0)))
    with pytest.raises(CaseError, match="lies up to 1 mm away from the image; resample"):
        read_label_map(tmp_path / "off.nii.gz", case)
    np.savez(tmp_path / "none.npz", spacing=np.ones(3))
    with pytest.raises(CaseError, match="holds no 'gts' and no 'segs'"):
        read_label_map(tmp_path / "none.npz", case)
    save_segs(tmp_path / "small.npz", MASK[1:])
    with pytest.raises(CaseError, match="got shape"):
        read_label_map(tmp_path / "small.npz", case)
