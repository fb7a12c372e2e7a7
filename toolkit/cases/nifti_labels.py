"""Names and colours of labels in the extension of a NIfTI file.

The extension is that of Caret and Connectome Workbench (code 30), an XML text with a LabelTable. TotalSegmentator
writes and reads the same text with code 0, and nibabel decodes nothing under code 30, so the text stands in the file
twice. 3D Slicer and ITK-SNAP read no extension of NIfTI.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from xml.etree import ElementTree

from gstk.cases.label_names import LabelName, clean_name

__all__ = ["label_extension", "parse_label_extensions"]

_PLAIN, _CARET = 0, 30
_MOST_BYTES = 2**24


def label_extension(names: Mapping[int, LabelName], byte_order: str) -> bytes:
    """What stands between a header and its voxels: the flag that there are extensions, and two with the names.

    Args:
        names: by label id.
        byte_order: of the file, "<" or ">".

    Returns:
        4 bytes and a multiple of 16; 4 zeros where there is no name.
    """
    if not names:
        return bytes(4)
    table = ElementTree.Element("LabelTable")
    for label, one in sorted(names.items()):
        red, green, blue = (f"{part / 255:.6g}" for part in one.colour)
        attributes = {"Key": str(label), "Red": red, "Green": green, "Blue": blue, "Alpha": "1"}
        entry = ElementTree.SubElement(table, "Label", attributes)
        entry.text = clean_name(one.name, label)
    root = ElementTree.Element("CaretExtension")
    volume = ElementTree.SubElement(root, "VolumeInformation", Index="0")
    volume.append(table)
    ElementTree.SubElement(volume, "StudyMetaDataLinkSet")
    ElementTree.SubElement(volume, "VolumeType").text = "Label"
    text: bytes = ElementTree.tostring(root, encoding="UTF-8", xml_declaration=True)
    text += b" " * (-(len(text) + 8) % 16)
    blocks = (struct.pack(byte_order + "2i", len(text) + 8, code) + text for code in (_PLAIN, _CARET))
    return b"\1\0\0\0" + b"".join(blocks)


def parse_label_extensions(data: bytes, byte_order: str) -> dict[int, LabelName]:
    """The names in the extensions of a NIfTI file; none where no extension is a table of labels that can be read.

    Args:
        data: what stands between the header and the voxels.
        byte_order: of the file, "<" or ">".
    """
    at = 4
    while data[:1] not in (b"", b"\0") and at + 8 <= len(data):
        size, _ = struct.unpack_from(byte_order + "2i", data, at)
        if size < 8:
            break
        text = data[at + 8 : at + size].strip(b"\0 \r\n\t")
        if b"<CaretExtension" in text[:200] and b"<!" not in text.replace(b"<![CDATA[", b"") and size <= _MOST_BYTES:
            return _parse_table(text)
        at += size
    return {}


def _parse_table(text: bytes) -> dict[int, LabelName]:
    names = {}
    try:
        for entry in ElementTree.fromstring(text).iter("Label"):
            label = int(entry.get("Key", "0"))
            red, green, blue = (
                round(255 * min(1.0, max(0.0, float(entry.get(part, "")))))
                for part in ("Red", "Green", "Blue")
            )  # fmt: skip
            if 1 <= label <= 65535:
                names[label] = LabelName(clean_name(entry.text or "", label), (red, green, blue))
    except (ElementTree.ParseError, ValueError, OverflowError):
        return {}
    return names
