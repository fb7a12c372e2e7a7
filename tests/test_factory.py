"""Opening a bundle: what a session needs to know of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import gstk
from gstk.core.bundle import write_bundle
from gstk.core.profile import find_profile
from gstk.errors import ProfileError


def test_profile_that_is_not_honoured_is_refused(small_export: Any, tmp_path: Path) -> None:
    bundle = small_export.bundle
    profile = replace(find_profile("nv-segment-ct"), patch=bundle.manifest.roi.default)
    sources = {name: bundle.path / name for name in bundle.manifest.files}
    other = write_bundle(tmp_path / "b", replace(bundle.manifest, profile=profile), sources)
    with pytest.raises(ProfileError, match="nv-segment-ct, whose axes"):
        gstk.open(other.path)
