"""Names of labels in a NIfTI file's extension: nibabel finds it, its XML is the table that Workbench reads."""

from __future__ import annotations

import struct
from pathlib import Path
from xml.etree import ElementTree

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gstk.cases.label_names import LabelName
from gstk.cases.nifti import read_nifti, read_nifti_labels
from gstk.cases.nifti_labels import label_extension, parse_label_extensions
from gstk.cases.volumes import write_mask
from gstk.core.geometry import Geometry

GEOMETRY = Geometry((3, 4, 5), (3.0, 1.5, 0.75))
NAMES = {1: LabelName("liver", (255, 0, 51)), 1000: LabelName("<Leber & [é] 肝>", (0, 128, 255))}


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nibabel_finds_the_names(tmp_path: Path, name: str) -> None:
    mask = np.arange(60).reshape(3, 4, 5) % 3
    mask[mask == 2] = 1000
    write_mask(tmp_path / name, mask, GEOMETRY, names=NAMES)
    image = nibabel.load(tmp_path / name)
    np.testing.assert_array_equal(np.asarray(image.dataobj).T, mask)
    # TotalSegmentator reads the first extension by get_content(), which nibabel has for code 0; Workbench asks for 30.
    first, second = image.header.extensions
    assert [first.get_code(), second.get_code()] == [0, 30]
    assert first.get_content() == second.content
    assert (len(second.content) + 8) % 16 == 0
    table = ElementTree.fromstring(first.get_content().strip()).findall("./VolumeInformation/LabelTable/Label")
    assert {int(entry.attrib["Key"]): entry.text for entry in table} == {k: one.name for k, one in NAMES.items()}
    assert [float(table[0].attrib[part]) for part in ("Red", "Green", "Blue", "Alpha")] == [1, 0, 0.2, 1]
    assert read_nifti_labels(tmp_path / name) == NAMES
    np.testing.assert_array_equal(read_nifti(tmp_path / name)[0], mask)


def test_a_mask_carries_its_images_header_and_the_names(tmp_path: Path) -> None:
    image = nibabel.Nifti2Image(np.zeros((5, 4, 3), np.int16), np.diag([1, 2, 3, 1]))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, b"a comment of the image"))
    nibabel.save(image, tmp_path / "image.nii")
    _, geometry, header = read_nifti(tmp_path / "image.nii")
    assert read_nifti_labels(tmp_path / "image.nii") == {}
    write_mask(tmp_path / "mask.nii", np.ones((3, 4, 5)), geometry, nifti_header=header, names=NAMES)
    assert isinstance(nibabel.load(tmp_path / "mask.nii"), nibabel.Nifti2Image)
    assert read_nifti_labels(tmp_path / "mask.nii") == NAMES
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "mask.nii").dataobj), 1)


@pytest.mark.parametrize("order", "<>")
def test_a_table_of_another_program_behind_another_extension(order: str) -> None:
    xml = (
        b'<?xml version="1.0" encoding="UTF-8"?> <CaretExtension>  <Date><![CDATA[2013-07-14T05:45:09]]></Date>'
        b'<VolumeInformation Index="0"><LabelTable><Label Key="7" Red="0.5" Green="1" Blue="0" Alpha="1">'
        b"<![CDATA[spleen]]></Label>\n</LabelTable></VolumeInformation></CaretExtension>\n     "
    )
    first = struct.pack(order + "2i", 32, 6) + b"x" * 24
    data = b"\1\0\0\0" + first + struct.pack(order + "2i", len(xml) + 8, 0) + xml
    assert parse_label_extensions(data, order) == {7: LabelName("spleen", (128, 255, 0))}


@given(st.binary(max_size=80))
def test_nonsense_is_no_name(data: bytes) -> None:
    assert parse_label_extensions(data, "<") == {}
    assert parse_label_extensions(b"\1\0\0\0" + struct.pack("<2i", 8 + len(data), 30) + data, "<") == {}


def test_entities_are_not_expanded() -> None:
    label = b'<Label Key="1" Red="1" Green="1" Blue="1">&b;</Label>'
    xml = b'<!DOCTYPE a [<!ENTITY b "c">]><CaretExtension>' + label + b"</CaretExtension>"
    assert parse_label_extensions(b"\1\0\0\0" + struct.pack("<2i", 8 + len(xml), 30) + xml, "<") == {}
    assert label_extension({}, "<") == bytes(4)
