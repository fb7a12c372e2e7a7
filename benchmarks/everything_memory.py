"""Peak memory of "everything" on a volume of 512³ voxels of 1.5 mm; writes JSON.

    python benchmarks/everything_memory.py [--side 512] [--features 48] [--bundle DIR] [--out FILE]

What a class segmentation takes beside the volume depends on the volume, the number of features of a voxel and the
windows, not on the network's weights: so a stand-in gives the features, as many as the full-size network has, and
everything else is the session's own. With `--bundle`, which holds FP32 and INT8 graphs for classes, the network's own
windows run in a process of their own, as `gstk infer --classes` opens it; both are added, less the features of that one
window, which both count, and the process, which each has. `plan_classes` forecasts the same from the network's memory.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe
from numpy.typing import NDArray

from gstk.calibration import memory
from gstk.calibration.model import CLASS_KINDS, KINDS, Fit, Host, LatencyModel
from gstk.core.geometry import Geometry
from gstk.core.profile import find_profile
from gstk.core.volume import Volume
from gstk.core.window import WindowPolicy
from gstk.engines import open_engine
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


def network_memory(bundle: Path, precision: str) -> dict[str, int]:
    """Bytes of a process: before the engine is opened, after, with its largest window behind it, and at the peak."""
    started = memory.resident_bytes()
    patch = find_profile("nv-segment-ct").patch
    image = np.random.default_rng(0).random((1, 1, *patch), np.float32)
    with open_engine(bundle, "openvino", precision, clicks_later=True) as engine:
        engine.class_features(image[:, :, :64, :64, :64])
        base = memory.resident_bytes()
        memory.forget_peak()
        for _ in range(2):
            engine.class_features(image)
        return {"started": started, "base": base, "peak": memory.peak_bytes()}


def model_of(network: dict[str, int]) -> LatencyModel:
    """A model with a network's memory and no times, as `gstk calibrate` measures it."""
    voxels = int(np.prod(find_profile("nv-segment-ct").patch))
    per_voxel = (network["peak"] - network["base"]) / voxels
    fits = {kind: Fit((1.0, 0.0), 1.0, 0.0) for kind in (*KINDS, *CLASS_KINDS)}
    host = Host("", 1, 0, "cpu", "openvino", "", "", "")
    return LatencyModel("", "", host, fits, 0, 0, network["base"], per_voxel, voxels, "", 0, per_voxel)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--features", type=int, default=48)
    parser.add_argument("--bundle", type=Path, help="of the full-size network, with FP32 and INT8 graphs for classes")
    parser.add_argument("--out", type=Path, default=RESULTS / "everything_memory.json")
    arguments = parser.parse_args()
    profile = find_profile("nv-segment-ct")
    ids = profile.classes.expand(["everything"])
    volume = a_volume(arguments.side)
    engine = StandIn(arguments.features, max(profile.classes.names) + 1)
    policy = WindowPolicy(128**3, 16, 32)
    with Session(engine, policy, profile=profile, owns_engine=False) as session:
        session.set_image(volume)
        before = memory.resident_bytes()
        memory.forget_peak()
        began = time.perf_counter()
        session.segment_classes(ids)
        seconds = time.perf_counter() - began
        peak = memory.peak_bytes() - before
        windows = session.plan_classes(ids).best.windows
    report: dict[str, Any] = {
        "machine": describe("numpy", "openvino"),
        "side": arguments.side,
        "spacing_mm": SPACING_MM,
        "classes": len(ids),
        "features": arguments.features,
        "windows": windows,
        "seconds_with_the_stand_in": seconds,
        "peak_gb_beside_the_volume": peak / 1e9,
    }
    window_bytes = 4 * arguments.features * int(np.prod(profile.patch))
    for precision in ("fp32", "int8") if arguments.bundle else ():
        with ProcessPoolExecutor(1, get_context("spawn")) as apart:
            network = apart.submit(network_memory, arguments.bundle, precision).result()
        with Session(engine, policy, profile=profile, model=model_of(network), owns_engine=False) as session:
            session.set_image(volume)
            forecast = session.plan_classes(ids).peak_bytes
        report[precision] = {
            "network_gb": {name: size / 1e9 for name, size in network.items()},
            "peak_gb_beside_the_volume": (network["peak"] + peak - window_bytes) / 1e9,
            "forecast_gb": forecast / 1e9,
        }
    engine.close()
    print(json.dumps(report, indent=1))
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
