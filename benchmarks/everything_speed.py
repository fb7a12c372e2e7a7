"""Seconds and memory of "everything", 117 classes on a whole CT, with the full-size network; writes JSON.

    python benchmarks/everything_speed.py --checkpoint FILE --bundle DIR [--rounds 3] [--out FILE]

NVIDIA's pipeline, made of MONAI's modules, beside gstk with the FP32 and the INT8 graph (`monai_parity.py` and
`random_weights.py` make checkpoint and bundles). A whole CT of 300×300×200 voxels of 1.5 mm takes 18 windows, so each
side does a volume of one window, 128³, in turn with the others, each in a process of its own. What the network takes
for a window is counted 18 times; the rest, stitching and labels, grows with the voxels; all are extrapolated alike,
from medians over the rounds after a first one. Memory is the peak of the process for one window, and for MONAI, whose
logits of all classes are in memory for the whole volume, at least those besides.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from full_size import Apart, answer
from machine import describe

from gstk.cases.phantoms import smooth_noise
from gstk.core.geometry import Geometry
from gstk.core.volume import Volume

SIDE = 128
WHOLE = (200, 300, 300)
SPACING_MM = 1.5


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

    network, profile, spent = load_network(checkpoint).eval(), find_profile("nv-segment-ct"), [0.0]
    inner = network.forward

    def timed(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        result = inner(*arguments, **options)
        spent[0] += time.perf_counter() - began
        return result

    network.forward = timed  # type: ignore[method-assign]
    ids = profile.classes.expand(["everything"])
    volume = a_block()
    while True:
        spent[0], began = 0.0, time.perf_counter()
        BundlePipeline(network, profile, volume).classes(ids)
        yield _result(began, spent[0])


def time_gstk(bundle: str, precision: str) -> Iterator[dict[str, float]]:
    """`Session.segment_classes`, which ends with labels on the volume's grid."""
    import gstk

    with gstk.open(bundle, "openvino", precision=precision) as session:
        engine, spent = session._segmenter.engine.engine, [0.0]
        inner = engine._class_features

        def timed(image: Any) -> Any:
            began = time.perf_counter()
            result = inner(image)
            spent[0] += time.perf_counter() - began
            return result

        engine._class_features = timed  # type: ignore[method-assign]
        volume = a_block()
        while True:
            spent[0], began = 0.0, time.perf_counter()
            session.set_image(volume)  # forgets the features of the round before
            session.segment_classes(["everything"])
            yield _result(began, spent[0])


def _result(began: float, network_s: float) -> dict[str, float]:
    whole_s = time.perf_counter() - began
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"network_s": network_s, "rest_s": whole_s - network_s, "peak_gb": peak_gb}


def extrapolated(rounds: list[dict[str, float]], windows: int) -> dict[str, float]:
    """Of a whole CT, from rounds of one window."""
    timed = rounds[1:] or rounds
    network_s, rest_s = (median(round_[key] for round_ in timed) for key in ("network_s", "rest_s"))
    share = float(np.prod(WHOLE)) / SIDE**3
    return {"network_s": network_s, "rest_s": rest_s, "whole_s": windows * network_s + share * rest_s}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--bundle", type=Path, help="with FP32 and INT8 graphs for classes")
    parser.add_argument("--rounds", type=int, default=3)
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
    with ExitStack() as stack:
        sides = {name: stack.enter_context(Apart(*call, script=__file__)) for name, call in calls.items()}
        for _ in range(arguments.rounds + 1):
            for name, side in sides.items():
                found[name].append(side.ask())
                print(name, found[name][-1], flush=True)
    whole = {name: extrapolated(rounds, windows) for name, rounds in found.items()}
    for name, rounds in found.items():
        whole[name]["peak_gb_of_one_window"] = rounds[-1]["peak_gb"]
    logits_gb = 4 * classes * (float(np.prod(WHOLE)) - SIDE**3) / 1e9
    whole["monai"]["peak_gb_at_least"] = whole["monai"]["peak_gb_of_one_window"] + logits_gb
    report = {
        "machine": describe("torch", "monai", "openvino"),
        "volume": WHOLE,
        "spacing_mm": SPACING_MM,
        "windows": windows,
        "classes": classes,
        "extrapolated": whole,
        "times_as_fast": {k: whole["monai"]["whole_s"] / whole[k]["whole_s"] for k in ("gstk fp32", "gstk int8")},
        "rounds": found,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({k: report[k] for k in ("extrapolated", "times_as_fast")}, indent=1))


if __name__ == "__main__":
    main()
