"""Seconds and memory of "everything", 117 classes on a whole CT, with the full-size network; writes JSON.

    python benchmarks/everything_speed.py --checkpoint FILE --bundle DIR [--rounds 2] [--out FILE]

NVIDIA's pipeline, made of MONAI's modules, beside gstk with the FP32 and the INT8 graph (`monai_parity.py` and
`random_weights.py` make checkpoint and bundles). A whole CT of 300×300×200 voxels of 1.5 mm takes 18 windows, so each
side does a volume of one window, 128³, in turn with the others, each time in a process of its own, which does it once
before it counts. What the network takes for a window is counted 18 times; the rest, stitching and labels, grows with
the voxels; all are extrapolated alike, from medians over the rounds. `cpu_s` are seconds of processors, which other
work on the machine changes less. Memory is the peak of the process for one window, and for MONAI, whose logits of all
classes are in memory for the whole volume, at least those besides.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from full_size import Apart, answer
from machine import describe
from numpy.typing import NDArray

from gstk.cases.phantoms import smooth_noise
from gstk.core.geometry import Geometry
from gstk.core.volume import Volume

SIDE = 128
WHOLE = (200, 300, 300)
SPACING_MM = 1.5
KEYS = ("whole_s", "whole_cpu_s")


def a_block() -> Volume:
    """One window's voxels in HU."""
    image = 40 + 200 * smooth_noise(np.random.default_rng(5), (SIDE,) * 3, 12.0)
    geometry = Geometry(image.shape, (SPACING_MM,) * 3)  # type: ignore[arg-type]
    return Volume(np.rint(image).astype(np.int16), geometry, "CT", "HU")


def windows_of_whole(overlap: float) -> int:
    from gstk.session.class_segmenter import window_starts

    return int(np.prod([len(window_starts(count, SIDE, overlap)) for count in WHOLE]))


def time_monai(checkpoint: str) -> Iterator[dict[str, float]]:
    """MONAI's transforms, sliding window, heads and labels, around the network in torch."""
    from gstk.core.profile import find_profile
    from gstk.training.bundle_reference import BundlePipeline
    from gstk.training.checkpoint import load_network

    network, profile, watch = load_network(checkpoint).eval(), find_profile("nv-segment-ct"), Watch()
    network.forward = watch.timed(network.forward)  # type: ignore[method-assign]
    ids = profile.classes.expand(["everything"])
    volume = a_block()
    while True:
        watch.restart()
        BundlePipeline(network, profile, volume).classes(ids)
        yield watch.result()


def time_gstk(bundle: str, precision: str) -> Iterator[dict[str, float]]:
    """`Session.segment_classes`, which ends with labels on the volume's grid."""
    import gstk

    with gstk.open(bundle, "openvino", precision=precision) as session:
        engine, watch = session._segmenter.engine.engine, Watch()
        engine._class_features = watch.timed(engine._class_features)  # type: ignore[method-assign]
        volume = a_block()
        while True:
            watch.restart()
            session.set_image(volume)  # forgets the features of the round before
            session.segment_classes(["everything"])
            yield watch.result()


class Watch:
    """Seconds by the clock and of processors, of the whole and of the network's part in it."""

    def __init__(self) -> None:
        self.network = np.zeros(2)
        self._began = self.now()

    @staticmethod
    def now() -> NDArray[np.float64]:
        return np.array([time.perf_counter(), time.process_time()])

    def timed(self, run: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            began = self.now()
            result = run(*arguments, **options)
            self.network += self.now() - began
            return result

        return timed

    def restart(self) -> None:
        self.network[:] = 0
        self._began = self.now()

    def result(self) -> dict[str, float]:
        rest = self.now() - self._began - self.network
        peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        network = self.network
        return {
            "network_s": float(network[0]),
            "rest_s": float(rest[0]),
            "network_cpu_s": float(network[1]),
            "rest_cpu_s": float(rest[1]),
            "peak_gb": peak_gb,
        }


def extrapolated(rounds: list[dict[str, float]], windows: int) -> dict[str, float]:
    """Of a whole CT, from rounds of one window."""
    middle = {key: median(round_[key] for round_ in rounds) for key in rounds[0]}
    share = float(np.prod(WHOLE)) / SIDE**3
    return {
        **middle,
        "whole_s": windows * middle["network_s"] + share * middle["rest_s"],
        "whole_cpu_s": windows * middle["network_cpu_s"] + share * middle["rest_cpu_s"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--bundle", type=Path, help="with FP32 and INT8 graphs for classes")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "everything_speed.json")
    parser.add_argument("--call", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.call:
        answer(arguments.call, globals())
        return
    from gstk.core.profile import find_profile

    profile = find_profile("nv-segment-ct")
    windows, classes = windows_of_whole(profile.overlap), len(profile.classes.expand(["everything"]))
    calls: dict[str, list[object]] = {
        "monai": ["time_monai", str(arguments.checkpoint)],
        "gstk fp32": ["time_gstk", str(arguments.bundle), "fp32"],
        "gstk int8": ["time_gstk", str(arguments.bundle), "int8"],
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in calls}
    for _ in range(arguments.rounds):
        for name, call in calls.items():
            with Apart(*call, script=__file__) as side:
                side.ask()
                found[name].append(side.ask())
            print(name, found[name][-1], flush=True)
    whole = {name: extrapolated(rounds, windows) for name, rounds in found.items()}
    logits_gb = 4 * classes * (float(np.prod(WHOLE)) - SIDE**3) / 1e9
    whole["monai"]["peak_gb_at_least"] = whole["monai"]["peak_gb"] + logits_gb
    report = {
        "machine": describe("torch", "monai", "openvino"),
        "volume": WHOLE,
        "spacing_mm": SPACING_MM,
        "windows": windows,
        "classes": classes,
        "extrapolated": whole,
        "times_as_fast": {f"{k}, {key}": whole["monai"][key] / whole[k][key] for k in list(calls)[1:] for key in KEYS},
        "rounds": found,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({k: report[k] for k in ("extrapolated", "times_as_fast")}, indent=1))


if __name__ == "__main__":
    main()
