"""Compares the graphs, in every installed CPU engine, with MONAI's original network.

The reference is MONAI's `VISTA3D.forward` in float32, without the export's splitting and folding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from monai.networks.nets.vista3d import VISTA3D
from numpy.typing import NDArray

from gstk.core.bundle import Bundle
from gstk.engines import available, open_engine
from gstk.errors import ExportError
from gstk.export.tolerances import REFERENCE, TOLERANCES, Tolerance, compare

__all__ = [
    "EngineParity",
    "Parity",
    "ParityCase",
    "default_cases",
    "engines_to_compare",
    "measure_parity",
    "reference_logits",
]


@dataclass(frozen=True)
class ParityCase:
    """One region and its prompts.

    Attributes:
        roi: (H, W, D) voxels.
        objects: B.
        points: N; the last is padding where there are three or more, and odd objects use the special labels 2/3.
        seed: of image and points.
        novel: whether the last object is of no trained class, with the labels 4/5.
    """

    roi: tuple[int, int, int]
    objects: int
    points: int
    seed: int = 0
    novel: bool = False

    def inputs(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        """image [1,1,H,W,D] in 0–1, coords [B,N,3] of whole voxels (z,y,x), labels [B,N]."""
        rng = np.random.default_rng([self.seed, *self.roi, self.objects, self.points])
        image = _texture(self.roi, rng)
        coords = rng.integers(0, self.roi, (self.objects, self.points, 3)).astype(np.float32)
        labels = rng.integers(0, 2, (self.objects, self.points))
        labels[:, 0] = 1
        labels[1::2] += 2
        if self.novel:
            labels[-1] = 5 - np.arange(self.points) % 2
        if self.points >= 3:
            labels[:, -1] = -1
            coords[:, -1] = 0
        return image[None, None], coords, labels

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""
        return {**asdict(self), "roi": list(self.roi)}


@dataclass(frozen=True)
class EngineParity:
    """The deviation of one engine from torch, over all cases.

    Attributes:
        version: version of the engine's package.
        max_abs_error: largest absolute error of a logit.
        mask_agreement: share of the counted voxels (`tolerances.compare`) on the same side of 0, in the worst case.
        mask_agreement_all: the same share of all voxels.
        cases: the same for each case, in order.
    """

    version: str
    max_abs_error: float
    mask_agreement: float
    mask_agreement_all: float
    cases: tuple[dict[str, float], ...]


@dataclass(frozen=True)
class Parity:
    """Agreement of one precision of a bundle with torch.

    Attributes:
        precision: of the graphs.
        tolerance: the tolerance for this precision.
        max_abs_logit: largest magnitude of a logit of the reference.
        engines: engine name → result.
    """

    precision: str
    tolerance: Tolerance
    max_abs_logit: float
    engines: dict[str, EngineParity] = field(default_factory=dict)

    @property
    def allowed(self) -> float:
        """The largest allowed `max_abs_error`."""
        return self.tolerance.error(self.max_abs_logit)

    @property
    def faults(self) -> list[str]:
        """One line for each engine that exceeds the tolerance."""
        return [
            f"{name} in {self.precision}: logits differ by up to {result.max_abs_error:.2g}, expected "
            f"{self.allowed:.2g}; masks agree on {result.mask_agreement:.4%}, expected {self.tolerance.agreement:.2%}"
            for name, result in self.engines.items()
            if not (result.max_abs_error <= self.allowed and result.mask_agreement >= self.tolerance.agreement)
        ]

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "tolerance": self.allowed,
            "least_agreement": self.tolerance.agreement,
            "engines": {name: asdict(result) | {"cases": list(result.cases)} for name, result in self.engines.items()},
        }


def default_cases(multiple: int, zero_shot: bool = True) -> tuple[ParityCase, ...]:
    """The smallest region with eight objects, two that differ in their sides, and a large one.

    The rounding error of norms grows with the number of voxels, but shrinks with it at the deepest level, so both a
    small and a large region are needed.

    Args:
        multiple: of a region's sides.
        zero_shot: whether one object is of no trained class.
    """
    unit = multiple * math.ceil(16 / multiple)
    return (
        ParityCase((2 * multiple,) * 3, 8, 7),
        ParityCase((4 * unit,) * 3, 1, 1),
        ParityCase((3 * unit, 4 * unit, 5 * unit), 3, 7, novel=zero_shot),
        ParityCase((6 * unit,) * 3, 1, 7),
    )


def reference_logits(
    network: VISTA3D, cases: Sequence[ParityCase], on_progress: Callable[[str], None] = lambda _: None
) -> list[NDArray[np.float32]]:
    """Logits of MONAI's original network for each case, float32 [B,1,H,W,D].

    Args:
        network: it is put into evaluation mode.
        on_progress: called with a few words before each case.
    """
    references = []
    for number, case in enumerate(cases, start=1):
        on_progress(f"torch {number}/{len(cases)}: {_words(case)}")
        image, coords, labels = case.inputs()
        # MONAI is told so by the class that a prompt stands for, beyond those that it was trained on.
        is_novel = (labels >= 4).any(axis=1, keepdims=True)
        with torch.no_grad():
            logits = network.eval()(
                torch.from_numpy(image),
                point_coords=torch.from_numpy(coords.copy()),
                point_labels=torch.from_numpy(np.where(labels >= 4, labels - 4, labels)),
                prompt_class=torch.from_numpy(np.where(is_novel, network.point_head.last_supported + 1, 1)),
            )
        references.append(logits.numpy())
    return references


def measure_parity(
    bundle: Bundle,
    cases: Sequence[ParityCase],
    references: Sequence[NDArray[np.float32]],
    precision: str = "fp32",
    engines: Sequence[str] | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> Parity:
    """Runs fixed inputs through every engine and compares with torch.

    Args:
        bundle: the graphs.
        cases: the inputs.
        references: what torch gives for them, from `reference_logits`.
        precision: one of `TOLERANCES`.
        engines: names; None takes every one that is installed.
        on_progress: called with a few words before each step.

    Raises:
        ExportError: no engine is installed.
        EngineError: an engine cannot run the graphs.
    """
    engines = engines_to_compare() if engines is None else engines
    results = {}
    largest = max(float(np.abs(logits).max()) for logits in references)
    allowed = TOLERANCES[precision].error(largest)
    for name in engines:
        found = []
        with open_engine(bundle, name, precision) as engine:
            for number, (case, expected) in enumerate(zip(cases, references, strict=True), start=1):
                on_progress(f"{name} {precision} {number}/{len(cases)}: {_words(case)}")
                image, coords, labels = case.inputs()
                found.append(compare(engine.decode(engine.encode(image), coords, labels), expected, allowed))
            results[name] = EngineParity(
                version=engine.version,
                max_abs_error=max(case["max_abs_error"] for case in found),
                mask_agreement=min(case["mask_agreement"] for case in found),
                mask_agreement_all=min(case["mask_agreement_all"] for case in found),
                cases=tuple(found),
            )
    return Parity(precision, TOLERANCES[precision], largest, results)


def engines_to_compare() -> list[str]:
    """Names of the engines that are installed, without torch.

    Raises:
        ExportError: there is none.
    """
    engines = [backend.name for backend in available() if backend.version is not None and backend.name != REFERENCE]
    if not engines:
        raise ExportError('no engine is installed to check the graphs with; pip install "gstk[cpu]"')
    return engines


def _texture(roi: tuple[int, int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    """Blobs under noise, in 0–1: structure at several scales, so that no level of the network sees a constant.

    In steps of 1/255, so that a byte a voxel stores it.
    """
    axes = np.meshgrid(*(np.linspace(-1, 1, side) for side in roi), indexing="ij")
    waves = sum(np.sin(rng.uniform(2, 9) * axis + rng.uniform(0, 6)) for axis in axes)
    noisy = 0.5 + waves / 8 + rng.normal(0, 0.05, roi)
    return np.rint(np.clip(noisy, 0, 1) * 255).astype(np.float32) / np.float32(255)


def _words(case: ParityCase) -> str:
    return f"{'×'.join(map(str, case.roi))}, {case.objects} objects of {case.points} points"
