"""A training step of the full-size network: seconds, memory, share of the device's peak rate, and waiting for data.

    python benchmarks/training_step.py [--device cuda] [--steps 30] [--peak-tflops 989] [--out NAME.json]

Cases are generated phantoms of 192³ voxels, compressed as real ones are; the recipe is `coreset` (128³, bf16, at most
10 objects), each stage's clicks in turn. The share of the peak counts matrix products and convolutions, forward and
backward, as torch counts them; 989 TFLOP/s is an H100's dense bf16 rate (NVIDIA's data sheet).
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe
from torch.utils.flop_counter import FlopCounterMode

from gstk.cases.phantoms import generate_phantom
from gstk.training.distributed import join_processes
from gstk.training.loop import Trainer
from gstk.training.network import build_network
from gstk.training.recipe import Recipe, load_recipe, with_settings

WARM_UP = 5


def write_cases(folder: Path, count: int, side: int) -> list[Path]:
    for seed in range(count):
        phantom = generate_phantom(seed, (side,) * 3, "organs")
        labels = phantom.labels.astype(np.uint16)
        np.savez_compressed(folder / f"{seed}.npz", imgs=phantom.image, gts=labels, spacing=phantom.spacing_mm)
    return sorted(folder.glob("*.npz"))


def flops(trainer: Trainer) -> float:
    """Of one patch's forward and backward pass, of the stage's next one."""
    with FlopCounterMode(display=False) as counter:
        next(iter(trainer.run()))
    return float(counter.get_total_flops())


def measure(
    recipe: Recipe,
    stage: int,
    cases: list[Path],
    device: str,
    steps: int,
    peak_tflops: float,
    warm_up: int = WARM_UP,
) -> dict[str, Any]:
    processes = join_processes(device)
    torch.manual_seed(0)
    trainer = Trainer(recipe, stage, build_network(recipe.network), cases, processes)
    rows = []
    if processes.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for progress in itertools.islice(trainer.run(), warm_up + steps):
        rows.append([progress.values[key] for key in ("seconds", "wait", "loss")])
    seconds, wait, loss = np.array(rows[warm_up:]).T
    memory = torch.cuda.max_memory_allocated() / 1e9 if processes.device.type == "cuda" else None
    work = flops(trainer)
    return {
        "stage": stage,
        "sampler": recipe.stage(stage).sampler,
        "seconds_a_step": float(np.median(seconds)),
        "share_waiting_for_data": float(wait.sum() / seconds.sum()),
        "peak_memory_gb": memory,
        "tflop_a_step": work / 1e12,
        "share_of_peak": work / 1e12 / float(np.median(seconds - wait)) / peak_tflops,
        "finite": bool(np.isfinite(loss).all()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--side", type=int, default=192)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--peak-tflops", type=float, default=989.0)
    parser.add_argument("--set", action="append", default=[], help="change a field of the recipe, as for gstk train")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    recipe = with_settings(load_recipe("coreset"), arguments.set)
    recipe = replace(recipe, data=replace(recipe.data, workers=arguments.workers))
    with tempfile.TemporaryDirectory() as folder:
        cases = write_cases(Path(folder), 12, arguments.side)
        results = [
            measure(recipe, stage, cases, arguments.device, arguments.steps, arguments.peak_tflops) for stage in (1, 2)
        ]
    for result in results:
        print(json.dumps(result))
    if arguments.out:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        machine = {**describe("torch", "monai"), "device": device}
        arguments.out.write_text(
            json.dumps({"machine": machine, "steps": arguments.steps, "stages": results}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
