"""The hash of a case: everything that is read counts, names and places do not."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from dicom_files import write_stack

from gstk.cases.content_hash import content_hash
from gstk.errors import CaseError


def test_a_file_is_hashed_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"abc" * 100_000)
    assert content_hash(tmp_path / "a.nii.gz") == hashlib.sha256(b"abc" * 100_000).hexdigest()
    (tmp_path / "a.nii.gz").rename(tmp_path / "b.nii.gz")
    assert content_hash(tmp_path / "b.nii.gz") == hashlib.sha256(b"abc" * 100_000).hexdigest()
    with pytest.raises(CaseError, match="cannot read"):
        content_hash(tmp_path / "none.nii.gz")


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_voxels_beside_a_header_count(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    image = SimpleITK.GetImageFromArray(np.zeros((4, 5, 6), np.uint8))
    SimpleITK.WriteImage(image, str(file))
    before = content_hash(file)
    (tmp_path / "unrelated.txt").write_text("notes")
    assert content_hash(file) == before
    data = next(path for path in tmp_path.iterdir() if path.suffix in (".raw", ".zraw", ".gz"))
    data.write_bytes(data.read_bytes()[:-1] + b"\x07")
    assert content_hash(file) != before


def test_every_slice_of_a_dicom_folder_counts_and_its_place_does_not(tmp_path: Path) -> None:
    volume = np.arange(3 * 8 * 8, dtype=np.int16).reshape(3, 8, 8)
    folder = write_stack(tmp_path / "one", volume)
    before, by_file = content_hash(folder), content_hash(folder / "im001.dcm")
    (folder / "mask.nii.gz").write_bytes(b"a result beside the slices")
    folder = folder.rename(tmp_path / "two")
    assert content_hash(folder) == before
    slices = sorted(folder.glob("im*"))
    slices[-1].write_bytes(slices[-1].read_bytes() + b"\0")
    assert content_hash(folder) != before
    assert content_hash(folder / "im001.dcm") != by_file
    assert content_hash(folder / "im001.dcm") != content_hash(folder / "im002.dcm")  # one may be of another series
