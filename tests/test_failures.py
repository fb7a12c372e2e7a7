"""Errors of libraries that mean a lack of memory, by their words."""

from __future__ import annotations

import pytest

from gstk.engines.failures import memory_errors
from gstk.errors import OutOfMemory

NO_ROOM = "Exception from core.cpp:268:\nCannot load library libcpu.so: failed to map segment from shared object\n"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError(NO_ROOM), ImportError(NO_ROOM)])
def test_a_library_that_finds_no_room_is_a_lack_of_memory(error: Exception) -> None:
    with (
        pytest.raises(OutOfMemory, match=r"too little memory to begin \(.*(map segment|MemoryError).*free memory"),
        memory_errors("begin"),
    ):
        raise error


@pytest.mark.parametrize("error", [RuntimeError("a fault"), ImportError("no module"), RecursionError("too deep")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)), memory_errors("begin"):
        raise error
