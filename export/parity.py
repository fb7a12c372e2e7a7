"""Do the graphs, in every CPU engine that is here, give what MONAI's own network gives?

The reference is `VISTA3D.forward` as MONAI has it: unsplit, unfolded, float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from monai.networks.nets.vista3d import VISTA3D
from numpy.typing import NDArray

from gstk.engines import available, open_engine
from gstk.errors import ExportError
from gstk.export.bundle import Bundle

__all__ = ["ABSOLUTE_TOLERANCE", "EngineParity", "Parity", "ParityCase", "default_cases", "measure_parity"]

ABSOLUTE_TOLERANCE = 1e-4
RELATIVE_TOLERANCE = 5e-5
"""Of the largest logit: it takes over beyond 2. A trained network carries float32 rounding of single norms that far."""
LEAST_AGREEMENT = 0.999


@dataclass(frozen=True)
class ParityCase:
    """One region and its prompts.

    Attributes:
        roi: (H, W, D) voxels.
        objects: B.
        points: N; the last is padding where there are three or more, and odd objects use the special labels 2/3.
        seed: of image and points.
    """

    roi: tuple[int, int, int]
    objects: int
    points: int
    seed: int = 0

    def inputs(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        """image [1,1,H,W,D] in 0–1, coords [B,N,3] of whole voxels (z,y,x), labels [B,N]."""
        rng = np.random.default_rng([self.seed, *self.roi, self.objects, self.points])
        image = _texture(self.roi, rng)
        coords = rng.integers(0, self.roi, (self.objects, self.points, 3)).astype(np.float32)
        labels = rng.integers(0, 2, (self.objects, self.points))
        labels[:, 0] = 1
        labels[1::2] += 2
        if self.points >= 3:
            labels[:, -1] = -1
            coords[:, -1] = 0
        return image[None, None], coords, labels


@dataclass(frozen=True)
class EngineParity:
    """How far one engine is from torch, over all cases.

    Attributes:
        version: of the engine's package.
        max_abs_error: largest difference of a logit.
        mask_agreement: share of voxels on the same side of 0, in the worst case.
        cases: the same for each case, in order.
    """

    version: str
    max_abs_error: float
    mask_agreement: float
    cases: tuple[dict[str, float], ...]


@dataclass(frozen=True)
class Parity:
    """Agreement of a bundle with torch.

    Attributes:
        reference: what was compared with.
        tolerance: what `max_abs_error` may be.
        max_abs_logit: largest logit of the reference.
        cases: the inputs.
        engines: engine name → result.
    """

    reference: str
    tolerance: float
    max_abs_logit: float
    cases: tuple[ParityCase, ...]
    engines: dict[str, EngineParity] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every engine is within the tolerance."""
        return not self.faults

    @property
    def faults(self) -> list[str]:
        """One line for each engine that is not."""
        return [
            f"{name}: logits differ by up to {result.max_abs_error:.2g}, expected {self.tolerance:.2g}; "
            f"masks agree on {result.mask_agreement:.4%}, expected {LEAST_AGREEMENT:.1%}"
            for name, result in self.engines.items()
            if not (result.max_abs_error <= self.tolerance and result.mask_agreement >= LEAST_AGREEMENT)
        ]

    def to_json(self) -> dict[str, Any]:
        """The manifest's `parity` field."""
        values = asdict(self)
        values["cases"] = [{**asdict(case), "roi": list(case.roi)} for case in self.cases]
        for result in values["engines"].values():
            result["cases"] = list(result["cases"])
        return values


def default_cases(multiple: int) -> tuple[ParityCase, ...]:
    """A cube and a region of three different sides, one and three objects, one and five points.

    Sides are of 48 voxels or more: rounding in the norms grows with the number of voxels, and should show.
    """
    unit = multiple * math.ceil(16 / multiple)
    cube = (4 * unit,) * 3
    oblong = (3 * unit, 4 * unit, 5 * unit)
    return ParityCase(cube, 1, 1), ParityCase(cube, 3, 5), ParityCase(oblong, 3, 1), ParityCase(oblong, 1, 5)


def measure_parity(
    network: VISTA3D,
    bundle: Bundle,
    cases: Sequence[ParityCase] | None = None,
    engines: Sequence[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Parity:
    """Runs fixed inputs through torch and through every engine.

    Args:
        network: what the bundle was exported from; it is put into evaluation mode.
        bundle: the graphs.
        cases: None takes `default_cases`.
        engines: names; None takes every one that is installed.
        progress: called with a few words before each step.

    Raises:
        ExportError: no engine is installed.
        EngineError: an engine cannot run the graphs.
    """
    say = progress or (lambda _: None)
    cases = tuple(cases or default_cases(bundle.manifest.roi.multiple))
    if engines is None:
        engines = [backend.name for backend in available() if backend.version is not None]
    if not engines:
        raise ExportError('no engine is installed to check the graphs with; pip install "gstk[cpu]"')
    inputs = [case.inputs() for case in cases]
    references = []
    for number, (case, arrays) in enumerate(zip(cases, inputs, strict=True), start=1):
        say(f"torch {number}/{len(cases)}: {_words(case)}")
        references.append(_reference(network, *arrays))
    results = {}
    for name in engines:
        found = []
        with open_engine(bundle, name) as engine:
            for number, (case, (image, coords, labels), expected) in enumerate(
                zip(cases, inputs, references, strict=True), start=1
            ):
                say(f"{name} {number}/{len(cases)}: {_words(case)}")
                found.append(_compare(engine.decode(engine.encode(image), coords, labels), expected))
            results[name] = EngineParity(
                version=engine.version,
                max_abs_error=max(case["max_abs_error"] for case in found),
                mask_agreement=min(case["mask_agreement"] for case in found),
                cases=tuple(found),
            )
    largest = max(float(np.abs(logits).max()) for logits in references)
    return Parity(
        reference=f"MONAI {version('monai')} VISTA3D.forward, torch {torch.__version__}, float32 on the CPU",
        tolerance=max(ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE * largest),
        max_abs_logit=largest,
        cases=cases,
        engines=results,
    )


def _reference(
    network: VISTA3D, image: NDArray[np.float32], coords: NDArray[np.float32], labels: NDArray[np.int64]
) -> NDArray[np.float32]:
    with torch.no_grad():
        logits = network.eval()(
            torch.from_numpy(image),
            point_coords=torch.from_numpy(coords.copy()),
            point_labels=torch.from_numpy(labels.copy()),
        )
    result: NDArray[np.float32] = logits.numpy()
    return result


def _compare(logits: NDArray[np.float32], expected: NDArray[np.float32]) -> dict[str, float]:
    return {
        "max_abs_error": float(np.abs(logits - expected).max()),
        "mask_agreement": float(((logits > 0) == (expected > 0)).mean()),
    }


def _texture(roi: tuple[int, int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    """Blobs under noise, in 0–1: structure at several scales, so that no level of the network sees a constant."""
    axes = np.meshgrid(*(np.linspace(-1, 1, side) for side in roi), indexing="ij")
    waves = sum(np.sin(rng.uniform(2, 9) * axis + rng.uniform(0, 6)) for axis in axes)
    noisy = 0.5 + waves / 8 + rng.normal(0, 0.05, roi)
    return np.clip(noisy, 0, 1).astype(np.float32)


def _words(case: ParityCase) -> str:
    return f"{'×'.join(map(str, case.roi))}, {case.objects} objects of {case.points} points"
