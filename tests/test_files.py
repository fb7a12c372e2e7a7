import contextlib
import os
from pathlib import Path

import pytest

from gstk.core.files import atomic_path, make_folder
from gstk.errors import OutputError


def names(folder: Path) -> list[str]:
    return sorted(child.name for child in folder.iterdir())


def test_the_file_appears_whole_and_alone(tmp_path: Path) -> None:
    target = tmp_path / "mask.nii.gz"
    with atomic_path(target) as partial:
        assert partial.name == target.name
        assert partial.parent.parent == tmp_path  # one file system, so that the rename is atomic
        partial.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert names(tmp_path) == ["mask.nii.gz"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "case.npz"
    target.write_text("old")
    with contextlib.suppress(KeyError), atomic_path(target) as partial:
        partial.write_text("half")
        raise KeyError
    assert target.read_text() == "old"
    assert names(tmp_path) == ["case.npz"]


def test_a_data_file_beside_the_header_comes_along(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "mask.mhd") as partial:
        partial.write_text("header")
        partial.with_suffix(".raw").write_text("data")
    assert names(tmp_path) == ["mask.mhd", "mask.raw"]


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"cannot write .*a\.npz: No space left on device; check"),
        atomic_path(tmp_path / "a.npz"),
    ):
        raise OSError(28, os.strerror(28))
    assert names(tmp_path) == []


@pytest.mark.parametrize("target", ["missing/a.npz", "file/a.npz", "folder"])
def test_what_cannot_be_written(tmp_path: Path, target: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=r"^cannot write [^\n]+$"), atomic_path(tmp_path / target) as partial:
        partial.write_text("x")
    assert names(tmp_path) == ["file", "folder"]


def test_a_block_that_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file"), atomic_path(tmp_path / "a.npz"):
        pass


def test_make_folder(tmp_path: Path) -> None:
    assert make_folder(tmp_path / "a" / "b").is_dir()
    assert make_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot create the folder"):
        make_folder(tmp_path / "file")


def test_a_name_that_is_too_long_says_so(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="give a shorter name"),
        atomic_path(tmp_path / ("x" * 300 + ".nii")) as partial,
    ):
        partial.write_text("x")
