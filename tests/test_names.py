"""Names of results: distinct, and the plain ones wherever they can be."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gstk.cases.names import distinct_names


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["c/a.nii.gz", "c/sub/b.nrrd"], ["a.npz", "b.npz"]),
        (["c/p1/ct.nii.gz", "c/p2/ct.nii.gz"], ["p1/ct.npz", "p2/ct.npz"]),
        (["c/p1/ct.nii.gz", "c/p2/ct.nii.gz", "c/x.nii"], ["p1/ct.npz", "p2/ct.npz", "x.npz"]),
        (["c/a.nii.gz", "c/a.nrrd"], ["a.nii.gz.npz", "a.nrrd.npz"]),
        (["c/A.nii", "c/a.nii"], ["A.nii.npz", "a.nii-2.npz"]),
        (["c/case[1].nii.gz"], ["case[1].npz"]),
    ],
)
def test_names(paths: list[str], expected: list[str]) -> None:
    assert [name.as_posix() for name in distinct_names([Path(p) for p in paths], lambda _: ".npz")] == expected


NAMES = st.sampled_from(["a.nii", "a.nii.gz", "a.nrrd", "A.nii", "a.nii-2.nii", "b.nii", "a.nii.npz"])
PATHS = st.builds(
    lambda folders, name: Path("/c", *folders, name), st.lists(st.sampled_from(["p", "q"]), max_size=2), NAMES
)


@given(st.lists(PATHS, unique=True, min_size=1, max_size=12))
def test_nothing_is_written_twice(paths: list[Path]) -> None:
    names = distinct_names(paths, lambda _: ".npz")
    assert len({str(name).casefold() for name in names}) == len(paths)
    assert not any(name.is_absolute() or ".." in name.parts for name in names)
    assert all(name.suffix == ".npz" for name in names)
