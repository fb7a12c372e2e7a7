"""Several processes that train together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import SMALL, make_cases

from gstk.training.checkpoint import load_checkpoint
from gstk.training.recipe import ValidationRecipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_cases(tmp_path_factory.mktemp("cases"))


WORKER = """
import json, sys
from pathlib import Path
from gstk.training.distributed import join_processes
from gstk.training.recipe import load_recipe
from gstk.training.train import Report, train

class Notes(Report):
    losses = []
    def progress(self, stage, progress):
        self.losses.append(progress.values["loss"])
        if progress.problems: print(progress.problems, file=sys.stderr)

processes = join_processes("cpu")
recipe, out, *cases = sys.argv[1:]
train(load_recipe(recipe), Path(out), [Path(c) for c in cases], stages=[1], processes=processes, report=Notes())
if processes.is_first:
    Path(out, "losses.json").write_text(json.dumps(Notes.losses))
processes.leave()
"""


def run_workers(count: int, script: Path, arguments: list[str], port: int) -> None:
    base = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    started = []
    for rank in range(count):
        environment = {**base, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        started.append(subprocess.Popen([sys.executable, str(script), *arguments], env=environment))
    for process in started:
        assert process.wait() == 0


def test_two_processes_do_what_one_does_with_the_same_batch(cases: list[Path], tmp_path: Path) -> None:
    """Losses agree to 1e-5: sums over two lanes are taken in another order. One of the cases is damaged, so that in
    some steps one process has a patch and the other none."""
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(b"no zip")
    given = [*map(str, cases), str(damaged)]
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    for count, accumulate in ((1, 2), (2, 1)):
        recipe = replace(
            SMALL,
            loop=replace(SMALL.loop, accumulate=accumulate),
            stage1=replace(SMALL.stage1, steps=0, epochs=2),
            validation=ValidationRecipe(cases=0),
        )
        file = tmp_path / f"recipe{count}.json"
        file.write_text(json.dumps(recipe.to_dict()))
        port = 20000 + os.getpid() % 20000
        run_workers(count, script, [str(file), str(tmp_path / f"out{count}"), *given], port)
    one, two = (json.loads((tmp_path / f"out{n}" / "losses.json").read_text()) for n in (1, 2))
    assert len(one) == 2 * 2 * 2
    np.testing.assert_allclose(two, one, rtol=1e-5)
    first, second = (load_checkpoint(tmp_path / f"out{n}" / "stage1" / "model.pt")[1] for n in (1, 2))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=1e-4, rtol=1e-3)
