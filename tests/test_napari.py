"""napari with the official nnInteractive plugin, on a screen that is not there, against the server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

pytest.importorskip("starlette")

from served import serving

from gstk.evaluation.metrics import dice

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE.parent / ".venv" / "viewers" / "bin" / "python"
SHAPE = (24, 64, 64)


def python_with_napari() -> str:
    """An interpreter that has napari and the plugin; skips where there is none."""
    for python in (str(ENVIRONMENT), sys.executable):
        if Path(python).exists():
            found = subprocess.run([python, "-c", "import napari_nninteractive, qtpy"], capture_output=True)
            if found.returncode == 0:
                return python
    pytest.skip("needs napari with its nnInteractive plugin: make viewers")


@pytest.mark.slow
def test_a_user_of_napari_clicks_undoes_and_goes_on_to_the_next_object(tmp_path: Path) -> None:
    if shutil.which("xvfb-run") is None:
        pytest.skip("needs Xvfb (Debian: xvfb, xauth)")
    python = python_with_napari()
    z, y, x = np.indices(SHAPE)
    first = 4 * (z - 11.5) ** 2 + (y - 31.5) ** 2 + (x - 31.5) ** 2 <= 100
    second = 4 * (z - 12) ** 2 + (y - 10) ** 2 + (x - 10) ** 2 <= 49
    scan = SimpleITK.GetImageFromArray(np.where(first, 900, np.where(second, 800, -100)).astype(np.int16))
    scan.SetSpacing((1.0, 1.0, 2.0))
    SimpleITK.WriteImage(scan, tmp_path / "scan.nii.gz")
    with serving() as served:
        done = subprocess.run(
            ["xvfb-run", "-a", "-s", "-screen 0 1400x1000x24", python, HERE / "napari_user.py", served.url, tmp_path],
            env={
                **os.environ,
                "QT_QPA_PLATFORM": "xcb",
                "LIBGL_ALWAYS_SOFTWARE": "1",
                # Settings of the user who runs the tests stay as they are.
                "XDG_CONFIG_HOME": str(tmp_path / "config"),
                "NAPARI_CONFIG": str(tmp_path / "napari.yaml"),
            },
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "error" not in done.stdout.lower(), done.stdout
        assert "scale [-2. -1. -1.]" in done.stdout  # which are sent as spacing
        shown = np.load(tmp_path / "image.npy")  # napari-nifti turns it
        first, second = shown == 900, shown == 800
        kept = {step: np.load(tmp_path / f"{step}.npy") for step in ("click", "negative", "undo", "second")}
        assert dice(kept["click"] > 0, first) > 0.9
        assert kept["negative"][12, 32, 39] == 0
        assert 0 < (kept["negative"] > 0).sum() < (kept["click"] > 0).sum()
        np.testing.assert_array_equal(kept["undo"], kept["click"])
        assert not np.load(tmp_path / "next.npy").any()  # the object before has a layer of its own now
        assert dice(kept["second"] > 0, second) > 0.9
        assert not list(served.service.leases)  # closing napari gives the session back
    if folder := os.environ.get("GSTK_PICTURES"):
        for step in ("click", "second"):
            shutil.copy(tmp_path / f"{step}.png", Path(folder) / f"napari_{step}.png")
