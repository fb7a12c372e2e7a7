"""Peak memory of "everything" on a volume of 512³ voxels of 1.5 mm; writes JSON.

    python benchmarks/everything_memory.py [--side 512] [--features 48] [--out FILE]

What a class segmentation takes beside the volume depends on the volume, the number of features of a voxel and the
windows, not on the network's weights: so a stand-in gives the features, as many as the full-size network has, and
everything else is the session's own. What the full-size network takes for one window, with its weights, is in
`everything_speed.json`; both are added, and the features of that one window, which both count, are taken off.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe
from numpy.typing import NDArray

from gstk.calibration import memory
from gstk.core.geometry import Geometry
from gstk.core.profile import find_profile
from gstk.core.volume import Volume
from gstk.core.window import WindowPolicy
from gstk.engines.base import Engine
from gstk.session.session import Session

SPACING_MM = 1.5
RESULTS = Path(__file__).parent / "results"


class StandIn(Engine):
    """Features that are the image's values, shifted for each channel; vectors that part them into classes."""

    name = "stand-in"

    def __init__(self, features: int, classes: int) -> None:
        super().__init__(16, 32)
        self._shifts = np.linspace(-1, 1, features, dtype=np.float32)
        self._vectors = np.random.default_rng(0).normal(0, 1, (classes, features)).astype(np.float32)

    def class_vectors(self) -> NDArray[np.float32]:
        return self._vectors

    def _class_features(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        found = np.empty((len(self._shifts), *image.shape[2:]), np.float32)
        for channel, shift in zip(found, self._shifts, strict=True):
            np.add(image[0, 0], shift, out=channel)
        return found

    def _encode(self, image: NDArray[np.float32]) -> tuple[Any, int]:
        raise NotImplementedError

    def _decode(self, handle: Any, coords: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        raise NotImplementedError

    def _release(self) -> None:
        pass


def a_volume(side: int) -> Volume:
    """HU, made plane by plane; above 0, so that nothing is cropped."""
    rng = np.random.default_rng(1)
    image = np.empty((side,) * 3, np.int16)
    for plane in image:
        plane[:] = rng.integers(1, 900, plane.shape, np.int16)
    return Volume(image, Geometry(image.shape, (SPACING_MM,) * 3), "CT", "HU")


def with_network(beside_volume: int, window_bytes: int) -> dict[str, float]:
    """Gigabytes beside the volume with the full-size network, by precision, from its peak for one window."""
    speed = json.loads((RESULTS / "everything_speed.json").read_text())["extrapolated"]
    return {
        name: row["peak_gb"] + (beside_volume - window_bytes) / 1e9
        for name, row in speed.items()
        if name.startswith("gstk")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--features", type=int, default=48)
    parser.add_argument("--out", type=Path, default=RESULTS / "everything_memory.json")
    arguments = parser.parse_args()
    profile = find_profile("nv-segment-ct")
    ids = profile.classes.expand(["everything"])
    volume = a_volume(arguments.side)
    engine = StandIn(arguments.features, max(profile.classes.names) + 1)
    with Session(engine, WindowPolicy(128**3, 16, 32), profile=profile) as session:
        session.set_image(volume)
        before = memory.resident_bytes()
        memory.forget_peak()
        began = time.perf_counter()
        session.segment_classes(ids)
        seconds = time.perf_counter() - began
        peak = memory.peak_bytes() - before
        forecast = session.plan_classes(ids)
    window_bytes = 4 * arguments.features * int(np.prod(profile.patch))
    report = {
        "machine": describe("numpy"),
        "side": arguments.side,
        "spacing_mm": SPACING_MM,
        "classes": len(ids),
        "features": arguments.features,
        "windows": forecast.best.windows,
        "seconds_with_the_stand_in": seconds,
        "peak_gb_beside_the_volume": peak / 1e9,
        "with_the_full_size_network_gb": with_network(peak, window_bytes) if arguments.features == 48 else {},
    }
    print(json.dumps(report, indent=1))
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
