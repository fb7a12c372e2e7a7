import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from gstk.cases.nifti_check import check_nifti_is_whole
from gstk.errors import CaseError


@pytest.fixture
def volume(tmp_path: Path) -> bytes:
    noise = np.random.default_rng(1).integers(-1000, 1000, (10, 20, 30)).astype(np.int16)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(noise), str(tmp_path / "whole.nii"))
    return (tmp_path / "whole.nii").read_bytes()


def nifti2(payload_bytes: int, byte_order: str) -> bytes:
    """A NIfTI-2 file of 4x5x6 int32 voxels, written field by field from the standard."""
    header = bytearray(540)
    order = "little" if byte_order == "<" else "big"
    header[0:4] = (540).to_bytes(4, order)
    header[14:16] = (32).to_bytes(2, order)
    for index, n in enumerate((3, 4, 5, 6, 1, 1, 1, 1)):
        header[16 + 8 * index : 24 + 8 * index] = n.to_bytes(8, order)
    header[168:176] = (544).to_bytes(8, order)
    return bytes(header) + bytes(4 + payload_bytes)


def test_whole_files_pass(tmp_path: Path, volume: bytes) -> None:
    for name, content in {
        "plain.nii": volume,
        "packed.nii.gz": gzip.compress(volume),
        "in_members.nii.gz": gzip.compress(volume[:5000]) + gzip.compress(volume[5000:]),
        "padded.nii.gz": gzip.compress(volume + b"more"),
        "misnamed.nii": gzip.compress(volume),
        "nifti2.nii": nifti2(480, "<"),
        "nifti2_big.nii": nifti2(480, ">"),
        "not_nifti.nii": b"hello",
    }.items():
        (tmp_path / name).write_bytes(content)
        check_nifti_is_whole(tmp_path / name)


def test_truncated_files_do_not(tmp_path: Path, volume: bytes) -> None:
    packed = gzip.compress(volume)
    for name, content in {
        "one_byte_short.nii": volume[:-1],
        "half.nii": volume[:6000],
        "half.nii.gz": packed[: len(packed) // 2],
        "no_crc.nii.gz": packed[:-8],
        "header_only.nii.gz": packed[:30],
        "short_inside.nii.gz": gzip.compress(volume[:-1]),
        "nifti2.nii": nifti2(479, "<"),
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CaseError, match=r"truncated[^\n]*copy it anew$"):
            check_nifti_is_whole(tmp_path / name)
    with pytest.raises(CaseError, match="cannot read"):
        check_nifti_is_whole(tmp_path)
