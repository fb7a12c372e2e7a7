"""The C++ session is the Python one without refinement and without a budget: whole histories through both."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from cpp_build import needs_a_compiler
from cpp_histories import random_history
from cpp_replay import Volume, agreement, clicks_and_a_box, replay_cpp, replay_many_cpp, replay_python, volume_of

import gstk
from gstk.cases.npz import load_case, save_case
from gstk.core.bundle import builtin
from gstk.core.window import WindowPolicy
from gstk.engines import open_engine
from gstk.session.session import Session

pytestmark = needs_a_compiler

HISTORIES = int(os.environ.get("GSTK_HISTORIES", "40"))
"""Random histories that are replayed; GSTK_HISTORIES=200 takes minutes."""
WINDOW_VOXELS = 32**3


def test_random_histories_agree(checked: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(17)
    volumes = []
    for index, (shape, spacing_mm) in enumerate(
        [((28, 36, 30), (1.0, 1.0, 1.0)), ((18, 44, 40), (2.5, 0.8, 1.0)), ((40, 36, 44), (1.0, 1.0, 1.0))]
    ):
        image = rng.normal(100, 20, shape)
        z, y, x = np.indices(shape)
        for _ in range(4):
            middle, radius = rng.uniform(0, shape), rng.uniform(3, 9)
            near = sum(((at - m) * s) ** 2 for at, m, s in zip((z, y, x), middle, spacing_mm, strict=True)) < radius**2
            image[near] += rng.uniform(-60, 60)
        case = gstk.Case(f"volume{index}", np.clip(image, 0, 255).astype(np.uint8), gstk.Geometry(shape, spacing_mm))
        save_case(tmp_path / f"{index}.npz", case)
        volumes.append(volume_of(case, tmp_path / f"{index}.npz"))
    histories = [random_history(rng, volumes[i % len(volumes)].image.shape) for i in range(HISTORIES)]
    scripts = [(volumes[i % len(volumes)], history.lines) for i, history in enumerate(histories)]
    began = time.perf_counter()
    # A trained network, so that masks hang on the prompts, in windows so small that it takes milliseconds.
    settings = {"backend": "openvino", "threads": 1, "refine": 0, "window_voxels": WINDOW_VOXELS}
    found = replay_many_cpp(checked / "replay", builtin("tiny"), scripts, tmp_path, **settings)
    engine = open_engine("tiny", "openvino", threads=1)
    roi = engine.bundle.manifest.roi
    least, masks, nonempty = 1.0, 0, 0
    with Session(engine, WindowPolicy(WINDOW_VOXELS, roi.multiple, roi.minimum)) as session:
        for history, (volume, lines), cpp in zip(histories, scripts, found, strict=True):
            python = replay_python(session, volume, lines)
            # The last line of each is the undo that is refused: the histories are as long as the model says.
            assert python.refused == history.refused, lines
            assert cpp.refused == history.refused, lines
            assert cpp.counts == python.counts, lines
            least = min(least, agreement(cpp, python))
            assert least >= 0.9999, lines
            masks += len(lines)
            nonempty += int(python.masks.any(axis=(1, 2, 3)).sum())
    took_s = time.perf_counter() - began
    print(f"{HISTORIES} histories, {masks} masks, {nonempty} not empty, least agreement {least:.6f}, {took_s:.0f} s")
    assert nonempty > masks / 3


@pytest.mark.parametrize("name", ["PET_ibsi_sts018", "US_itksnap_mitral_t0", "CT_msd_spleen"])
def test_real_cases_agree(released: Path, shared_data: Path, tmp_path: Path, name: str) -> None:
    file = shared_data / "cases" / f"{name}.npz"
    case = load_case(file)
    lines = clicks_and_a_box(case)
    volume = Volume(file, case.image, case.geometry.spacing_mm)
    with gstk.open("tiny", "openvino", threads=2, refine=False) as session:
        python = replay_python(session, volume, lines)
    program = released.parent / "build" / "tests" / "replay"
    cpp = replay_cpp(program, builtin("tiny"), volume, lines, tmp_path, threads=2, refine=0)
    assert python.masks.any(axis=(1, 2, 3)).sum() > 4
    assert cpp.counts == python.counts
    assert agreement(cpp, python) >= 0.9999
    refined = replay_cpp(program, builtin("tiny"), volume, lines, tmp_path, threads=2)  # as the bundle says
    assert agreement(refined, cpp) < 1
