"""Seconds until the first, coarse mask and until the final one after a click, beside a click without `on_refined`.

    python benchmarks/first_mask.py [--bundle tiny] [--precision fp32] [--side 128] [--phantoms 3]
        [--objects 2] [--assume-window soft] [--out FILE.json]

Generated phantoms, one click in each of some objects. For each, in turn: a click that waits for the final mask
(`plain`); the same with `on_refined` (`first` until it returns, `final` until the finer mask is there), both with the
network's own seconds (`network_s`); and once more with a second click right after the first (`second`). The final masks
of the first two have to be the same. Dice is that of the coarse and of the final mask against the phantom's truth, and
of one against the other: with random weights only the latter says anything. The engine is warm: one click on another
phantom comes before. Two idle cores take about two minutes with `tiny`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from machine import describe
from network_time import NetworkTime, watched_network
from numpy.typing import NDArray

import gstk
from gstk.cases.npz import Case
from gstk.cases.phantom_case import phantom_case
from gstk.evaluation.metrics import dice


def seconds_since(began: tuple[float, float]) -> dict[str, float]:
    return {"wall_s": time.perf_counter() - began[0], "processor_s": time.process_time() - began[1]}


def now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def clicks(
    session: gstk.Session, case: Case, object_id: int, assume_window: str | None, network: NetworkTime
) -> dict[str, Any]:
    assert case.labels is not None
    truth: NDArray[np.bool_] = case.labels == object_id
    point = case.prompts[object_id].points[0].zyx
    found: dict[str, Any] = {"case": case.name, "object": object_id}

    session.set_image(case.volume, assume_window=assume_window)
    network.take()
    began = now()
    session.add_point(point)
    found["plain"] = seconds_since(began) | {"network_s": network.take()}
    plain = session.mask > 0

    session.set_image(case.volume, assume_window=assume_window)
    network.take()
    began = now()
    session.add_point(point, on_refined=lambda region: None)
    found["first"] = seconds_since(began)
    coarse, found["is_coarse"] = session.mask > 0, not session.is_final
    assert session.refined()
    found["final"] = seconds_since(began) | {"network_s": network.take()}
    final = session.mask > 0
    assert np.array_equal(final, plain)

    session.set_image(case.volume, assume_window=assume_window)
    session.add_point(point, on_refined=lambda region: None)
    began = now()
    z, y, x = point
    session.add_point((z, y, min(x + 2, truth.shape[2] - 1)), on_refined=lambda region: None)
    found["second"] = seconds_since(began)
    session.refined()
    found["dice"] = {"coarse": dice(coarse, truth), "final": dice(final, truth), "coarse_to_final": dice(coarse, final)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="tiny")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--phantoms", type=int, default=3)
    parser.add_argument("--objects", type=int, default=2)
    parser.add_argument("--assume-window", help="for networks that take HU: soft")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    results = []
    with watched_network() as network, gstk.open(arguments.bundle, precision=arguments.precision) as session:
        warm = phantom_case(seed=99, side=arguments.side)
        session.set_image(warm.volume, assume_window=arguments.assume_window)
        session.add_point(warm.prompts[1].points[0].zyx, on_refined=lambda region: None)
        session.refined()
        for seed in range(arguments.phantoms):
            case = phantom_case(seed=seed, side=arguments.side)
            for object_id in sorted(case.prompts)[: arguments.objects]:
                results.append(clicks(session, case, object_id, arguments.assume_window, network))
                print(json.dumps(results[-1]))
    coarse = [r for r in results if r["is_coarse"]]
    medians = {
        kind: {unit: median(r[kind][unit] for r in coarse) for unit in coarse[0][kind]}
        for kind in ("plain", "first", "final", "second")
        if coarse
    }
    means = (
        {kind: float(np.mean([r["dice"][kind] for r in coarse])) for kind in ("coarse", "final", "coarse_to_final")}
        if coarse
        else {}
    )
    print(f"{len(coarse)} of {len(results)} clicks had a coarse mask first; medians {medians}; Dice {means}")
    if arguments.out:
        about = {"bundle": Path(arguments.bundle).name, "precision": arguments.precision, "side": arguments.side}
        report = {"machine": describe("openvino"), **about, "medians": medians, "dice": means, "clicks": results}
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
