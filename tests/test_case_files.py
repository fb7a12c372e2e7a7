"""The files of each case of a run: never one file for two things."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gstk.batch.case_files import CaseFiles, plan_case_files
from gstk.errors import OutputError


def plan(folder: Path, *names: str, name: str = "{stem}", format: str | None = None) -> list[CaseFiles]:
    sources = [folder / "scans" / each for each in names]
    return plan_case_files(sources, folder / "out", name, format, overlay=True, overwrite=False)


def names_of(files: CaseFiles) -> list[str]:
    return [path.name for path in files[1:]]


def test_what_lies_beside_a_mask_begins_with_its_name(tmp_path: Path) -> None:
    (files,) = plan(tmp_path, "ct.nii.gz", name="{stem}_mask")
    assert names_of(files) == [
        *("ct_mask.nii.gz", "ct_mask_regular.nii.gz", "ct_mask_labels.json", "ct_mask_overlay.png"),
    ]


def test_two_scans_of_one_name_have_two_pictures(tmp_path: Path) -> None:
    first, second = plan(tmp_path, "a.nii.gz", "a.nrrd")
    assert names_of(first) == ["a.nii.gz", "a.nii.gz_regular.nii.gz", "a.nii.gz_labels.json", "a.nii.gz_overlay.png"]
    assert names_of(second) == ["a.nrrd", "a.nrrd_regular.nrrd", "a.nrrd_labels.json", "a.nrrd_overlay.png"]


def test_the_regular_mask_of_one_scan_is_not_the_mask_of_another(tmp_path: Path) -> None:
    first, second = plan(tmp_path, "a.nii", "a_regular.nii")
    assert second.mask.name == "a_regular.nii"
    assert first.regular != second.mask


def test_a_name_in_other_unicode_is_the_same_name(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "é.nii") for form in ("NFC", "NFD"))
    first, second = plan(tmp_path, composed, apart)
    assert unicodedata.normalize("NFC", first.mask.name) != unicodedata.normalize("NFC", second.mask.name)


def test_a_case_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    for name in ("a.nii", "a_regular.nii"):
        (tmp_path / "scans" / name).write_text("a scan")
    with pytest.raises(OutputError, match="would overwrite the case"):
        plan_case_files([tmp_path / "scans" / "a.nii"], tmp_path / "scans", "{stem}", overlay=False, overwrite=True)


STEMS = st.sampled_from(["a", "A", "b", "a_regular", "a.nii", "a_regular-2", "a.nii.gz", "a_regular_regular", "é", "é"])
SUFFIXES = st.sampled_from([".nii", ".nii.gz", ".nrrd", ".npz", ".mha", ".nhdr"])
SCANS = st.builds(lambda folders, stem, suffix: "/".join([*folders, stem + suffix]),
                  st.lists(st.sampled_from(["p", "q"]), max_size=1), STEMS, SUFFIXES)  # fmt: skip


@given(
    st.lists(SCANS, unique=True, min_size=1, max_size=10),
    st.sampled_from(["{stem}", "{stem}_mask", "{stem}_regular"]),
    st.sampled_from([None, "nii.gz", "npz", "seg.nrrd"]),
)
def test_no_two_files_of_a_run_have_one_name(
    tmp_path_factory: pytest.TempPathFactory, scans: list[str], name: str, format: str | None
) -> None:
    folder = tmp_path_factory.mktemp("run")
    files = plan(folder, *scans, name=name, format=format)
    written = [str(path.relative_to(folder / "out")) for each in files for path in each[1:]]
    assert len({unicodedata.normalize("NFC", path).casefold() for path in written}) == 4 * len(scans)
    assert [each.source for each in files] == [folder / "scans" / scan for scan in scans]
