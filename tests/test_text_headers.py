"""NRRD and MetaImage files whose headers state what ITK passes over, or whose voxels are not what they state."""

from __future__ import annotations

import gzip
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest

from gstk.cases.npz import Case
from gstk.cases.text_headers import read_text_header
from gstk.cases.volumes import read_volume
from gstk.errors import CaseError

# Random values do not shrink, so that packed voxels are no fewer bytes than plain ones.
VOXELS = np.random.default_rng(4).integers(-30000, 30000, (5, 6, 7)).astype("<i2")
BYTES = VOXELS.tobytes()
SPACE = """space: left-posterior-superior
space directions: (800,0,0) (0,900,0) (0,0,2500)
space origin: (1000,2000,3000)"""


def nrrd(file: Path, *lines: str, data: bytes = BYTES) -> Path:
    head = ["NRRD0005", "# a comment: no field", "type: short", "dimension: 3", "sizes: 7 6 5", "endian: little"]
    file.write_bytes(("\n".join([*head, *lines]) + "\n\n").encode() + data)
    return file


def mha(file: Path, *lines: str, data: bytes = BYTES) -> Path:
    head = ["ObjectType = Image", "NDims = 3", "BinaryData = True", "DimSize = 7 6 5", "ElementType = MET_SHORT"]
    file.write_bytes(("\n".join([*head, *lines, "ElementDataFile = LOCAL"]) + "\n").encode() + data)
    return file


def packed(file: Path, data: bytes) -> Path:
    return mha(file, "CompressedData = True", f"CompressedDataSize = {len(data)}", data=data)


def said(file: Path) -> tuple[Case, str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        case = read_volume(file)
    return case, " | ".join(str(w.message) for w in caught)


@pytest.mark.parametrize(
    ("unit", "factor"), [("um", 1e-3), ("microns", 1e-3), ("mm", 1.0), ("cm", 10.0), ("m", 1000.0), ("", 1.0)]
)
def test_units_of_an_nrrd_count(tmp_path: Path, unit: str, factor: float) -> None:
    """3D Slicer 7631: a file in microns lay a thousand times too far away."""
    units = [f'space units: "{unit}" "{unit}" "{unit}"'] if unit else []
    case, words = said(nrrd(tmp_path / "a.nrrd", SPACE, *units, "encoding: raw"))
    np.testing.assert_allclose(case.geometry.spacing_mm, np.multiply((2500, 900, 800), factor))
    np.testing.assert_allclose(case.geometry.origin_mm, np.multiply((1000, 2000, 3000), factor))
    np.testing.assert_array_equal(case.image, VOXELS)
    assert (f"in {unit}" in words) == (factor != 1)


def test_units_of_a_metaimage_count(tmp_path: Path) -> None:
    lines = ("ElementSpacing = 800 900 2500", "Offset = 1000 2000 3000", "DistanceUnits = um")
    case, words = said(mha(tmp_path / "a.mha", *lines))
    np.testing.assert_allclose(case.geometry.spacing_mm, (2.5, 0.9, 0.8))
    np.testing.assert_allclose(case.geometry.origin_mm, (1, 2, 3))
    assert "in um" in words


@pytest.mark.parametrize("units", ['"mm" "mm" "um"', '"furlong" "furlong" "furlong"'])
def test_units_that_differ_or_are_not_known_are_refused(tmp_path: Path, units: str) -> None:
    with pytest.raises(CaseError, match="expected one unit of length"):
        read_volume(nrrd(tmp_path / "a.nrrd", SPACE, f"space units: {units}", "encoding: raw"))


def test_a_metaimage_s_scale_of_values_is_applied(tmp_path: Path) -> None:
    file = mha(tmp_path / "a.mha", "ElementToIntensityFunctionSlope = 2", "ElementToIntensityFunctionOffset = -5.5")
    np.testing.assert_allclose(read_volume(file).image, VOXELS * 2.0 - 5.5)
    np.testing.assert_array_equal(read_volume(mha(tmp_path / "b.mha")).image, VOXELS)


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_packed_voxels_that_the_header_calls_plain_are_no_values(tmp_path: Path, pack: type) -> None:
    for file in (
        nrrd(tmp_path / "a.nrrd", SPACE, "encoding: raw", data=pack(BYTES)),
        mha(tmp_path / "a.mha", data=pack(BYTES)),
    ):
        with pytest.raises(CaseError, match="not compressed, but they are"):
            read_volume(file)


def test_plain_voxels_that_begin_like_packed_ones_are_values(tmp_path: Path) -> None:
    for magic in (b"\x1f\x8b\x08\x00", b"\x78\x9c\x00\x01"):
        data = magic + BYTES[len(magic) :]
        for tail in (b"", b"tail"):
            case = read_volume(nrrd(tmp_path / "a.nrrd", SPACE, "encoding: raw", data=data + tail))
            assert case.image.tobytes() == data


def test_damaged_packed_voxels_are_an_error(tmp_path: Path) -> None:
    for name, pack in (("a.nrrd", gzip.compress), ("a.mha", zlib.compress)):
        whole = pack(BYTES)
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 8
        wrong_sum = bytearray(whole)
        wrong_sum[-6 if name == "a.nrrd" else -2] ^= 8
        fewer = pack(BYTES[:-20])
        for data in (flipped, wrong_sum, whole[:-3], whole[: len(whole) // 2], fewer):
            file = tmp_path / name
            if name == "a.nrrd":
                nrrd(file, SPACE, "encoding: gzip", data=bytes(data))
            else:
                packed(file, bytes(data))
            with pytest.raises(CaseError, match=r"damaged|truncated"):
                read_volume(file)


def test_whole_files_of_every_kind_are_read(tmp_path: Path) -> None:
    files = [
        nrrd(tmp_path / "gz.nrrd", SPACE, "encoding: gz", data=gzip.compress(BYTES)),
        nrrd(
            tmp_path / "members.nrrd",
            SPACE,
            "encoding: gzip",
            data=gzip.compress(BYTES[:99]) + gzip.compress(BYTES[99:]),
        ),
        nrrd(tmp_path / "named.nrrd", SPACE, "encoding: gzip", data=BYTES),  # zlib reads plain bytes as they are
        nrrd(tmp_path / "tail.nrrd", SPACE, "encoding: raw", data=BYTES + b"tail"),
        packed(tmp_path / "z.mha", zlib.compress(BYTES)),
        mha(tmp_path / "tail.mha", data=BYTES + b"tail"),
        nrrd(tmp_path / "apart.nhdr", SPACE, "encoding: gzip", "data file: apart.raw.gz", data=b""),
        nrrd(tmp_path / "skip.nrrd", SPACE, "byte skip: 3", "encoding: raw", data=b"abc" + BYTES),
    ]
    (tmp_path / "apart.raw.gz").write_bytes(gzip.compress(BYTES))
    for file in files:
        np.testing.assert_array_equal(said(file)[0].image, VOXELS, err_msg=file.name)
    (tmp_path / "apart.raw.gz").write_bytes(gzip.compress(BYTES)[:-40])
    with pytest.raises(CaseError, match="truncated"):
        read_volume(files[-2])


def test_plain_voxels_that_are_too_few_are_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for file in (
        nrrd(tmp_path / "a.nrrd", SPACE, "encoding: raw", data=BYTES[:-30]),
        mha(tmp_path / "a.mha", data=BYTES[:-30]),
    ):
        with pytest.raises(CaseError, match="truncated: got 390 bytes of voxels, expected 420"):
            read_volume(file)
    assert capfd.readouterr() == ("", "")


def test_what_is_no_text_header_has_none(tmp_path: Path) -> None:
    (tmp_path / "a.mha").write_bytes(b"\0" * 100)
    assert read_text_header(tmp_path / "a.mha") is None
