"""Whole training runs, on networks small enough to train within a test."""

from __future__ import annotations

import copy
import hashlib
import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import PHANTOMS, SMALL, Notes, make_cases, same_weights

from gstk.errors import CheckpointError, GstkError, TrainingError, TrainingInterrupted
from gstk.training.checkpoint import load_checkpoint, save_checkpoint
from gstk.training.loop import Trainer
from gstk.training.network import build_network
from gstk.training.recipe import Recipe, ValidationRecipe
from gstk.training.train import train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_cases(tmp_path_factory.mktemp("cases"))


def test_both_stages_and_what_they_leave(cases: list[Path], tmp_path: Path) -> None:
    recipe = replace(SMALL, validation=ValidationRecipe(steps=2, cases=1, clicks=2))
    notes = Notes()
    model = train(recipe, tmp_path / "run", cases, validation=cases[:1], report=notes)
    assert model == tmp_path / "run" / "stage2" / "model.pt"
    assert notes.began == [(1, 0, 4), (2, 0, 2)]
    assert len(notes.losses) == 6
    assert np.isfinite(notes.losses).all()
    assert [step for step, _ in notes.scores] == [2, 4, 2]
    for _, scores in notes.scores:
        assert [score.name for score in scores] == ["c0.npz"]
        assert len(scores[0].dice) == 2
        assert scores[0].picture.dtype == np.uint8
        assert scores[0].picture.ndim == 3
    spec, _ = load_checkpoint(model)
    assert spec == SMALL.network
    said = torch.load(model, weights_only=True)["training"]
    assert json.loads(said["recipe"]) == json.loads((tmp_path / "run" / "recipe.json").read_text()) == recipe.to_dict()
    assert (said["stage"], said["step"], said["before"]["stage"], said["before"]["step"]) == (2, 2, 1, 4)
    assert said["seconds"] >= 0
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in cases}
    for key, names in (("train", ["c1.npz", "c2.npz"]), ("validation", ["c0.npz"])):
        assert said[key] == [{"name": name, "sha256": digests[name]} for name in names]
    assert sorted(p.name for p in (tmp_path / "run/stage1/checkpoints").iterdir()) == ["step-00000002.pt"]
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = accumulators.EventAccumulator(str(tmp_path / "run" / "stage1"))
    log.Reload()
    assert [e.step for e in log.Scalars("train/loss")] == [1, 2, 3, 4]
    np.testing.assert_allclose([e.value for e in log.Scalars("train/loss")], notes.losses[:4], rtol=1e-6)
    assert [e.step for e in log.Scalars("validation/dice_click_2")] == [2, 4]
    assert log.Tags()["images"] == ["validation/c0.npz"]


def test_stage_two_begins_with_stage_ones_model(cases: list[Path], tmp_path: Path) -> None:
    both = train(SMALL, tmp_path / "both", cases)
    train(SMALL, tmp_path / "apart", cases, stages=[1])
    apart = train(SMALL, tmp_path / "apart", cases, stages=[2])
    init = train(SMALL, tmp_path / "init", cases, stages=[2], init=tmp_path / "both" / "stage1" / "model.pt")
    same_weights(both, apart)
    same_weights(both, init)
    with pytest.raises(TrainingError, match="expected stage 1 before it, or --init"):
        train(SMALL, tmp_path / "nothing", cases, stages=[2])


@pytest.mark.parametrize("recipe", [SMALL, PHANTOMS], ids=["cases", "phantoms"])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_run_goes_on_bit_for_bit(
    recipe: Recipe, workers: int, cases: list[Path], tmp_path: Path
) -> None:
    recipe = replace(recipe, data=replace(recipe.data, workers=workers))
    given = cases if recipe is not PHANTOMS and recipe.data.source == "cases" else []
    whole, halves = Notes(), [Notes(stop_at=3), Notes()]
    straight = train(recipe, tmp_path / "whole", given, stages=[1], report=whole)
    with pytest.raises(TrainingInterrupted) as stopped:
        train(recipe, tmp_path / "parts", given, stages=[1], report=halves[0])
    assert isinstance(stopped.value, GstkError)
    assert stopped.value.signal == signal.SIGTERM
    assert stopped.value.checkpoint == tmp_path / "parts/stage1/checkpoints/step-00000003.pt"
    resumed = train(recipe, tmp_path / "parts", given, stages=[1], resume=True, report=halves[1])
    assert halves[0].losses + halves[1].losses == whole.losses
    same_weights(straight, resumed)
    before = resumed.stat().st_mtime_ns
    train(recipe, tmp_path / "parts", given, stages=[1], resume=True)
    assert resumed.stat().st_mtime_ns == before, "a stage that is done stays as it is"


def test_a_run_is_resumed_as_it_was_or_not_at_all(cases: list[Path], tmp_path: Path) -> None:
    train(SMALL, tmp_path, cases, stages=[1])
    with pytest.raises(TrainingError, match="holds a run; use --resume"):
        train(SMALL, tmp_path, cases, stages=[1])
    with pytest.raises(TrainingError, match="another seed than"):
        train(replace(SMALL, seed=6), tmp_path, cases, stages=[1], resume=True)
    (tmp_path / "stage1" / "model.pt").unlink()
    kept = tmp_path / "stage1" / "checkpoints" / "step-00000002.pt"
    two = replace(SMALL, loop=replace(SMALL.loop, accumulate=2, keep=5))
    with pytest.raises(TrainingError, match="got 2 patches a step, expected 1 as the run had"):
        train(two, tmp_path, cases, stages=[1], resume=True)
    spec, weights = load_checkpoint(kept)
    network = build_network(spec)
    network.load_state_dict(weights)
    save_checkpoint(kept, network, spec)
    with pytest.raises(CheckpointError, match="holds no state of a run"):
        train(SMALL, tmp_path, cases, stages=[1], resume=True)


def test_a_signal_in_a_stages_last_step_ends_the_run_too(cases: list[Path], tmp_path: Path) -> None:
    notes = Notes(stop_at=4)
    with pytest.raises(TrainingInterrupted) as stopped:
        train(SMALL, tmp_path / "parts", cases, report=notes)
    assert stopped.value.checkpoint == tmp_path / "parts/stage1/checkpoints/step-00000004.pt"
    assert notes.began == [(1, 0, 4)]
    assert notes.stopped == [signal.SIGTERM], "said at once"
    resumed = train(SMALL, tmp_path / "parts", cases, resume=True)
    same_weights(train(SMALL, tmp_path / "whole", cases), resumed)


def test_a_run_goes_on_with_what_may_change_and_says_so(cases: list[Path], tmp_path: Path) -> None:
    train(SMALL, tmp_path, cases, stages=[1])
    (tmp_path / "stage1" / "model.pt").unlink()
    notes = Notes()
    longer = replace(SMALL, stage1=replace(SMALL.stage1, steps=6))
    train(longer, tmp_path, cases[:2], stages=[1], resume=True, report=notes)
    assert notes.changes == [
        "stage1.steps is 6, it was 4",
        "the cases of train are not those that the run began with",
    ]


def test_a_run_goes_on_with_the_rates_that_it_is_given() -> None:
    """The optimiser's state holds rates, too: those that it was saved with."""
    trainer = Trainer(PHANTOMS, 1, build_network(PHANTOMS.network), [])
    steps = trainer.run()
    next(steps)
    next(steps)
    state = copy.deepcopy(trainer.state())
    slow = replace(
        PHANTOMS,
        loop=replace(PHANTOMS.loop, convolution_rate=1e-9),
        stage1=replace(PHANTOMS.stage1, learning_rate=1e-9),
    )
    for recipe, still in ((slow, True), (PHANTOMS, False)):
        other = Trainer(recipe, 1, build_network(PHANTOMS.network), [])
        other.load_state(copy.deepcopy(state))
        next(other.run())
        for kind in (5, 2):  # convolutions, and what has a rate of its own
            before = [w for w in state["weights"].values() if w.ndim == kind]
            after = [other.network.state_dict()[k] for k, w in state["weights"].items() if w.ndim == kind]
            moved = max(float((a - b).abs().max()) for a, b in zip(before, after, strict=True))
            assert (moved < 1e-6) == still, f"{kind} axes moved by {moved}"


def test_what_a_checkpoint_holds_cannot_be_turned_off(cases: list[Path], tmp_path: Path) -> None:
    train(SMALL, tmp_path, cases, stages=[1])
    for field in ("convolution_rate", "ema_decay", "object_weight"):
        off = replace(SMALL, loop=replace(SMALL.loop, **{field: 0.0}))
        with pytest.raises(TrainingError, match=f"another loop.{field} than"):
            train(off, tmp_path, cases, stages=[1], resume=True)


def test_a_killed_run_begins_again_with_the_weights_that_it_was_given(cases: list[Path], tmp_path: Path) -> None:
    """Killed before its first checkpoint: resuming must not begin with random weights."""
    network = build_network(SMALL.network)
    straight = train(SMALL, tmp_path / "whole", cases, stages=[1], init=network)
    with pytest.raises(TrainingInterrupted):
        train(SMALL, tmp_path / "killed", cases, stages=[1], init=network, report=Notes(stop_at=1))
    (tmp_path / "killed/stage1/checkpoints/step-00000001.pt").unlink()
    notes = Notes()
    same_weights(straight, train(SMALL, tmp_path / "killed", cases, stages=[1], resume=True, report=notes))
    assert not notes.began_fresh
    train(SMALL, tmp_path / "fresh", cases, stages=[1], report=notes)
    assert notes.began_fresh


def test_checkpoints_are_kept_a_while(cases: list[Path], tmp_path: Path) -> None:
    recipe = replace(SMALL, loop=replace(SMALL.loop, checkpoint_steps=1, keep=2), stage1=replace(SMALL.stage1, steps=6))
    train(recipe, tmp_path, cases, stages=[1])
    kept = sorted((tmp_path / "stage1" / "checkpoints").iterdir())
    assert [p.name for p in kept] == ["step-00000004.pt", "step-00000005.pt"]
    load_checkpoint(kept[0])


def test_half_weights_are_exact_in_half_precision(cases: list[Path], tmp_path: Path) -> None:
    recipe = replace(SMALL, loop=replace(SMALL.loop, half_weights=True))
    for value in load_checkpoint(train(recipe, tmp_path, cases, stages=[1]))[1].values():
        assert torch.equal(value, value.half().to(value.dtype))


def test_damaged_cases_are_said_and_passed_over(cases: list[Path], tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(cases[0].read_bytes()[:-200])
    empty = tmp_path / "empty.npz"
    np.savez(empty, imgs=np.zeros((20, 20, 20), np.uint8), gts=np.zeros((20, 20, 20), np.uint8))
    unlabelled = tmp_path / "unlabelled.npz"
    np.savez(unlabelled, imgs=np.zeros((20, 20, 20), np.uint8))
    recipe = replace(SMALL, stage1=replace(SMALL.stage1, steps=0, epochs=2))
    notes = Notes()
    train(recipe, tmp_path / "run", [*cases[:1], damaged, empty, unlabelled], stages=[1], report=notes)
    assert len(notes.losses) == 2 * 4 * 2
    assert np.isfinite(notes.losses).sum() == 2 * 2
    for name in (
        "damaged.npz is left out: CaseError",
        "empty.npz is left out: no object",
        "unlabelled.npz is left out",
    ):
        assert sum(name in problem for problem in notes.problems) == 2, (name, notes.problems)


def test_nothing_to_train_on(cases: list[Path], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="got no case to train on"):
        train(SMALL, tmp_path, cases[:1], validation=cases[:1])
    with pytest.raises(TrainingError, match="generates its data"):
        train(PHANTOMS, tmp_path, cases)
    assert not list(tmp_path.iterdir())
