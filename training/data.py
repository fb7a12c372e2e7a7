"""The training data of a run, prepared by worker processes: one item for each volume drawn.

Item k of a stage depends on the seed, the stage and k alone, not on workers or processes, so that a run can be resumed
and spread without changing what it sees.
"""

from __future__ import annotations

import ctypes
import signal
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from gstk.cases.npz import SpacingOrder, check_image, read_geometry, to_label_map
from gstk.cases.phantoms import generate_phantom
from gstk.core.profile import InputProfile
from gstk.core.safe_npz import read_npz
from gstk.errors import CaseError, GstkError
from gstk.training.augment import augment
from gstk.training.case_files import groups_of
from gstk.training.cutting import Patch, Volume, cut_patches
from gstk.training.recipe import DataRecipe

__all__ = ["Item", "Lane", "Volumes", "make_loader", "read_volume"]

DATA_STREAM, SAMPLER_STREAM = 1, 2
"""Which random numbers of a stage: those of its data, those of its clicks."""


TERM_SECONDS = 20
"""A worker ends this long after a SIGTERM, if it is still there."""
_PR_SET_PDEATHSIG = 1


class Item(NamedTuple):
    """One volume's share of a run.

    Attributes:
        name: the case's.
        patches: up to `patches_per_case`.
        problem: why there are none, where the case could not be used; else empty.
    """

    name: str
    patches: list[Patch]
    problem: str = ""


class Lane(NamedTuple):
    """Every `lanes`-th item of a stage: what one slot of a step's batch sees."""

    lane: int
    lanes: int


def read_volume(path: Path, spacing_order: str = "zyx") -> Volume:
    """Reads what training needs of a case: image, labels and spacing, never its prompts.

    Args:
        path: the .npz file.
        spacing_order: axis order of its `spacing`, `zyx` or `xyz`.

    Raises:
        GstkError: the file is damaged, or is no case with labels.
    """
    arrays = read_npz(path, ("imgs", "gts", "spacing"))
    if "imgs" not in arrays or "gts" not in arrays:
        raise CaseError(f"got {', '.join(arrays) or 'nothing'} in {path.name}, expected 'imgs' and 'gts' to train on")
    image = check_image(arrays["imgs"], f"'imgs' of {path.name}")
    labels = to_label_map(arrays["gts"], image.shape, f"'gts' of {path.name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `check_spacing` has said it, once for all cases
        order: SpacingOrder = "xyz" if spacing_order == "xyz" else "zyx"
        geometry = read_geometry(image.shape, arrays.get("spacing"), order, path.name)
    return Volume(image, labels, geometry.spacing_mm)


class Volumes(Dataset[Item]):
    """The items of a stage by their number."""

    def __init__(
        self, paths: Sequence[Path], recipe: DataRecipe, seed: Sequence[int], profile: InputProfile | None = None
    ) -> None:
        """Takes the cases; see `make_loader`."""
        self.paths, self.recipe, self.seed, self.profile = list(paths), recipe, list(seed), profile
        self.groups = groups_of(self.paths, recipe.shares) if recipe.shares else []

    def __len__(self) -> int:
        return len(self.paths) or self.recipe.phantoms

    def __getitem__(self, draw: int) -> Item:
        rng = np.random.default_rng([*self.seed, DATA_STREAM, draw])
        path = self._choose(draw, rng)
        if path is None:
            side, shares = self.recipe.phantom_side, self.recipe.phantom_shares
            phantom = generate_phantom(int(rng.integers(2**63)), (side,) * 3, shares=shares)
            return self._cut(f"phantom {draw}", Volume(phantom.image, phantom.labels, phantom.spacing_mm), draw, rng)
        try:
            return self._cut(path.name, read_volume(path, self.recipe.spacing_order), draw, rng)
        except (GstkError, OSError, MemoryError, ValueError) as error:
            return Item(path.name, [], f"{type(error).__name__}: {error}")

    def _choose(self, draw: int, rng: np.random.Generator) -> Path | None:
        """The case of a draw; None generates a volume."""
        if not self.groups:
            return self.paths[_shuffled(len(self.paths), self.seed, draw)] if self.paths else None
        weights = np.array([weight for weight, _ in self.groups])
        group = self.groups[int(rng.choice(len(self.groups), p=weights / weights.sum()))][1]
        return group[int(rng.integers(len(group)))] if group else None

    def _cut(self, name: str, volume: Volume, draw: int, rng: np.random.Generator) -> Item:
        recipe = self.recipe
        drawn = draw * recipe.patches_per_case
        growth = min(1.0, drawn / recipe.growth_patches) if recipe.growth_patches else 1.0
        patches = cut_patches(volume, recipe, rng, growth, self.profile)
        problem = "" if patches or not self.paths else "no object in its labels that is large enough"
        return Item(name, [augment(patch, recipe, rng) for patch in patches], problem)


def _shuffled(count: int, seed: Sequence[int], draw: int) -> int:
    epoch, position = divmod(draw, count)
    return int(np.random.default_rng([*seed, epoch]).permutation(count)[position])


class _Draws:
    """The items that a process loads: those of its lanes, without end."""

    def __init__(self, lanes: Sequence[Lane], first_block: int) -> None:
        self.lanes, self.first_block = lanes, first_block

    def __iter__(self) -> Iterator[int]:
        block = self.first_block
        while True:
            yield from (block * lanes + lane for lane, lanes in self.lanes)
            block += 1


def make_loader(
    paths: Sequence[Path],
    recipe: DataRecipe,
    seed: Sequence[int],
    lanes: Sequence[Lane],
    first_block: int = 0,
    profile: InputProfile | None = None,
) -> DataLoader[Item]:
    """Items without end, block after block: in each, one for every lane of this process.

    Args:
        paths: the cases; empty where volumes are generated.
        seed: of the run and the stage.
        first_block: where to begin, for a resumed run.
        profile: of the network; see `gstk.training.cutting.cut_patches`.
    """
    workers = recipe.workers
    return DataLoader(
        Volumes(paths, recipe, seed, profile),
        batch_size=None,
        sampler=_Draws(lanes, first_block),
        collate_fn=_as_is,
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        worker_init_fn=_alone,
        multiprocessing_context="fork" if workers else None,
    )


def _as_is(item: Any) -> Any:
    return item


def _alone(_: int) -> None:
    """A worker computes with one thread, leaves signals to the process that started it, and ends when that does.

    SIGTERM often comes to all processes of a job at once: a worker then waits a while, so that the step under way is
    not lost with it.
    """
    torch.set_num_threads(1)
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux: also when that process was killed
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(TERM_SECONDS))
