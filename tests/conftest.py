"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real cases (`cases/*.npz`) and raw volumes (`raw/*`); tests that need it skip without it."""
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("GSTK_SHARED_DATA", beside))
    if not (folder / "cases").is_dir():
        pytest.skip(
            f"no real data: expected cases/*.npz and raw/* in {folder} (or in the folder GSTK_SHARED_DATA names)"
        )
    return folder
