"""How good the weights of a running training are: clicks by the official rule, through a session as users have it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.networks.nets.vista3d import VISTA3D
from numpy.typing import NDArray

from gstk.cases.overlay import draw_overlay
from gstk.cases.phantoms import generate_phantom
from gstk.core.geometry import Geometry
from gstk.core.profile import InputProfile
from gstk.core.window import WindowPolicy
from gstk.engines.base import Device, Engine
from gstk.errors import GstkError
from gstk.evaluation.protocol import click_by_click
from gstk.session.session import Session
from gstk.training.cutting import Volume
from gstk.training.data import read_volume
from gstk.training.network import Encoder, PromptDecoder
from gstk.training.recipe import Recipe

__all__ = ["NetworkEngine", "Score", "validate", "validation_phantoms"]

MINIMUM_SIDES = 2
"""Least sides of a region, in multiples of the network's."""


class NetworkEngine(Engine):
    """A network in memory behind the protocol of engines."""

    name = "torch"

    def __init__(self, network: VISTA3D, roi_multiple: int, device: torch.device, dtype: torch.dtype | None) -> None:
        """Wraps a network without copying it.

        Args:
            roi_multiple: of its spec.
            device: where the network is.
            dtype: autocast's; None computes in float32.
        """
        super().__init__(roi_multiple, MINIMUM_SIDES * roi_multiple)
        self.version, self.device = torch.__version__, Device(str(device))
        self.precision = "fp32" if dtype is None else str(dtype).removeprefix("torch.")
        self._encoder, self._decoder = Encoder(network).eval(), PromptDecoder(network).eval()
        self._where, self._dtype = device, dtype
        self._decoder.to(device)

    @torch.no_grad()
    def _encode(self, image: NDArray[np.float32]) -> tuple[Any, int]:
        with self._autocast():
            embedding = self._encoder(torch.from_numpy(image).to(self._where)).float()
        return embedding, embedding.numel() * embedding.element_size()

    @torch.no_grad()
    def _decode(self, handle: Any, coords: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        with self._autocast():
            logits = self._decoder(
                handle, torch.from_numpy(coords).to(self._where), torch.from_numpy(labels).to(self._where)
            )
        return np.asarray(logits.float().cpu().numpy())

    def _release(self) -> None:
        del self._encoder, self._decoder

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._where.type, dtype=self._dtype, enabled=self._dtype is not None)


class Score(NamedTuple):
    """One case of a validation.

    Attributes:
        name: the case's.
        dice: mean over the objects after each click; empty where the case could not be used.
        picture: uint8 RGB (rows, columns, 3), the last masks; None but for the first cases.
        problem: why the case could not be used.
    """

    name: str
    dice: list[float]
    picture: NDArray[np.uint8] | None = None
    problem: str = ""


def validation_phantoms(recipe: Recipe) -> list[Volume]:
    """Generated volumes that no training draws: their seeds are apart."""
    volumes = []
    for index in range(recipe.validation.cases):
        seed = int(np.random.SeedSequence([recipe.seed, 0x76616C, index]).generate_state(1, np.uint64)[0] >> 1)
        phantom = generate_phantom(seed, (recipe.data.phantom_side,) * 3, shares=recipe.data.phantom_shares)
        volumes.append(Volume(phantom.image, phantom.labels, phantom.spacing_mm))
    return volumes


def validate(
    engine: Engine,
    recipe: Recipe,
    cases: Sequence[Path | Volume],
    pictures: int = 0,
    profile: InputProfile | None = None,
) -> list[Score]:
    """Scores each case click by click.

    Args:
        cases: files, or volumes.
        pictures: how many of them are drawn.
        profile: of the network; None is as for gstk's own small networks.
    """
    multiple = recipe.network.roi_multiple
    policy = WindowPolicy(max_voxels=recipe.data.voxels, multiple=multiple, min_side=MINIMUM_SIDES * multiple)
    session = Session(engine, policy, profile=profile)
    scores = []
    for index, case in enumerate(cases):
        name = case.name if isinstance(case, Path) else f"phantom {index}"
        try:
            volume = read_volume(case, recipe.data.spacing_order) if isinstance(case, Path) else case
            scores.append(_score(session, name, volume, recipe, index < pictures))
        except GstkError as error:
            scores.append(Score(name, [], problem=str(error)))
    return scores


def _score(session: Session, name: str, volume: Volume, recipe: Recipe, picture: bool) -> Score:
    sizes = np.bincount(volume.labels.ravel())
    sizes[0] = 0
    largest = np.argsort(-sizes, kind="stable")[: recipe.validation.max_objects]
    classes = sorted(int(k) for k in largest if sizes[k])
    if not classes:
        return Score(name, [], problem="no object in its labels")
    truth = np.where(np.isin(volume.labels, classes), volume.labels, 0)
    image = np.asarray(volume.image)
    # The values of a case without a unit were checked before the training began.
    units = "hu" if session.profile.intensities.source == "hounsfield" else None
    scored = click_by_click(
        session, image, volume.spacing_mm, truth, recipe.validation.clicks, classes, assume_window=units
    )
    drawn = None
    if picture:
        z, y, x = image.shape
        geometry = Geometry((z, y, x), volume.spacing_mm)
        drawn = np.asarray(draw_overlay(image, geometry, scored.mask, scored.prompts))
    return Score(name, scored.means, drawn)
