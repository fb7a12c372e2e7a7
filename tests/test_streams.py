"""Commands whose standard streams are closed or full, and names with control codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gstk.cli.streams import printable

on_posix = pytest.mark.skipif(os.name != "posix", reason="numbers of streams")


def run(code: str, *words: str, **streams: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", code, *words], timeout=120, check=False, **streams)  # type: ignore[call-overload]


@on_posix
@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_closed_stream_s_number_goes_to_no_file(tmp_path: Path, closed: int) -> None:
    code = (
        "import os, sys; os.close(int(sys.argv[1]))\n"
        "from gstk.cli.streams import open_standard_streams\n"
        "open_standard_streams()\n"
        "number = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT)\n"
        "sys.exit(0 if number > 2 else 3)\n"
    )
    assert run(code, str(closed), str(tmp_path / "mask")).returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_behind_stdout_is_one_line() -> None:
    code = "import sys; sys.argv = ['gstk', '--version']; from gstk.cli import main; main()"
    with open("/dev/full", "wb") as full:
        done = run(code, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [
        "error: cannot print to stdout: No space left on device; files are as they were said to be"
    ]


def test_signs_that_an_encoding_lacks_are_spelled_out() -> None:
    code = (
        "from gstk.cli.streams import open_standard_streams\n"
        "open_standard_streams()\n"
        "print('20 s \\u00d7 2, \\u5f71\\udcff')\n"
    )
    done = run(code, stdout=subprocess.PIPE, env={**os.environ, "PYTHONIOENCODING": "latin-1:strict"})
    assert done.stdout.decode("latin-1").strip() == r"20 s × 2, \u5f71\udcff"


def test_names_do_not_give_orders_to_a_terminal() -> None:
    assert printable("a\x1b[31mred\n.nii") == "a?[31mred?.nii"
    assert printable(Path("ünïcödé 影像.nii")) == "ünïcödé 影像.nii"
