"""`gstk inspect` on scans: numbers against nibabel, and slices in the picture where their ticks say."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from cli_runs import Run
from PIL import Image

from gstk.cases.contact_sheet import draw_contact_sheet, orientation_words
from gstk.cases.label_names import LabelName
from gstk.cases.volumes import write_mask
from gstk.core.geometry import Geometry


def write(path: Path, direction: tuple[float, ...]) -> Path:
    image = np.zeros((11, 40, 60), np.int16)
    image[5, 8, 12] = 1000
    made = SimpleITK.GetImageFromArray(image)
    made.SetSpacing((1.0, 1.5, 4.0))
    made.SetOrigin((-10, 20, 30))
    made.SetDirection(direction)
    SimpleITK.WriteImage(made, str(path))
    return path


def test_a_scan_is_described_as_nibabel_reads_it(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    nibabel = pytest.importorskip("nibabel")
    monkeypatch.chdir(tmp_path)
    turned = (-1, 0, 0, 0, 0, 1, 0, 1, 0)  # x to the right, y to the head, z to the back
    source = write(tmp_path / "scan.nii.gz", turned)
    outcome = run("inspect", source)
    assert outcome.code == 0, outcome.err
    affine = nibabel.load(source).affine
    codes = nibabel.aff2axcodes(affine)  # of x, y and z
    assert f"z to {codes[2]}, y to {codes[1]}, x to {codes[0]}" in outcome.out
    assert "(11, 40, 60) voxels (z, y, x)" in outcome.out
    assert "4 × 1.5 × 1 mm" in outcome.out
    for voxel in ((0, 0, 0), (59, 39, 10)):
        place = ", ".join(f"{v:.1f}" for v in (affine @ [*voxel, 1])[:3])
        assert place in outcome.out.replace("-0.0", "0.0")
    assert "0 to 1000" in outcome.out
    assert Image.open("scan_sheet.png").size[0] > 500
    again = run("inspect", source)
    assert again.code == 1
    assert "--overwrite" in again.err
    assert run("inspect", source, "--overwrite").code == 0
    assert run("inspect", source, "--sheet", tmp_path / "other.png").code == 0
    assert run("inspect", "tiny").code == 0


def test_segments_are_listed_and_other_files_named(tmp_path: Path, run: Run) -> None:
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[1, 1:3, 2:5] = 3
    geometry = Geometry(labels.shape, (10, 10, 10))
    write_mask(tmp_path / "a.seg.nrrd", labels, geometry, names={3: LabelName("Läsion [1]", (1, 2, 3))})
    outcome = run("inspect", tmp_path / "a.seg.nrrd")
    assert outcome.code == 0, outcome.err
    assert [cell.strip() for cell in outcome.out.splitlines()[4].split("│")[1:-1]] == [
        *("3", "Läsion [1]", "1 2 3", "6", "6.00"),
    ]
    (tmp_path / "notes.txt").write_text("no scan")
    for path, what in ((tmp_path, "a folder"), (tmp_path / "notes.txt", "a file")):
        refused = run("inspect", path)
        assert refused.code == 1
        assert f"({what}), expected a scan, " in refused.error_line()


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_axes_are_named_whatever_their_order(order: tuple[int, ...]) -> None:
    for signs in product((1, -1), repeat=3):
        direction = np.zeros((3, 3))
        for column, (row, sign) in enumerate(zip(order, signs, strict=True)):
            direction[row, column] = sign
        found = orientation_words(Geometry((4, 5, 6), (1, 1, 1), (0, 0, 0), tuple(direction.ravel())))
        letters = ["LR", "PA", "SI"]
        x, y, z = (letters[row][0 if sign > 0 else 1] for row, sign in zip(order, signs, strict=True))
        assert found == f"z to {z}, y to {y}, x to {x}"


@pytest.mark.parametrize("signs", list(product((1, -1), repeat=3)))
def test_a_bright_corner_lies_where_the_patient_has_it(signs: tuple[int, int, int]) -> None:
    """The voxel block at the patient's left, back and head: at the right of axial slices, and at the bottom."""
    shape = (30, 30, 30)
    low_or_high = [slice(20, 30) if sign > 0 else slice(0, 10) for sign in signs]  # along x, y and z
    image = np.zeros(shape, np.uint8)
    image[low_or_high[2], low_or_high[1], low_or_high[0]] = 255
    geometry = Geometry(shape, (1, 1, 1), (0, 0, 0), tuple(np.diag(signs).ravel()))
    sheet = np.asarray(draw_contact_sheet(image, geometry).convert("RGB")).astype(int)
    white = (sheet.min(axis=2) > 250) & (np.abs(np.diff(sheet, axis=2)).max(axis=2) == 0)
    pitch_x, pitch_y = sheet.shape[1] / 5, sheet.shape[0] / 3
    for row, (right, bottom) in enumerate(((True, True), (True, False), (True, False))):
        part = white[round(row * pitch_y) : round((row + 1) * pitch_y)]
        blocks = [part[:, round(k * pitch_x) : round((k + 1) * pitch_x)] for k in range(5)]
        block = max(blocks, key=lambda b: b.sum())
        rows, columns = np.nonzero(block)
        assert len(rows) > 2000  # a third of the slice each way, not text
        middle = np.median(rows) / block.shape[0], np.median(columns) / block.shape[1]
        assert (middle[1] > 0.5) == right
        assert (middle[0] > 0.5) == bottom
