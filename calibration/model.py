"""A model of the time and memory of encodes and decodes: a few non-negative numbers fitted to measurements.

An encode of v voxels takes `a + b v`, and so does an encode for class prompts. A decode of B objects with N points
takes `a + b v + c B + d v B + e v B N`, since some runtimes decode objects together and others one by one. The first
run of a shape has separate numbers, since runtimes then choose kernels and allocate memory. The fit minimises
relative errors with a loss that is robust to outliers. Times are not linear once regions outgrow caches, or the
memory that is kept between calls. The model therefore has a factor for each measured size of region, interpolated
between sizes on a logarithmic scale.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gstk.calibration.host import Host
from gstk.errors import CalibrationError

__all__ = ["CLASS_KINDS", "KINDS", "SCHEMA", "Fit", "LatencyModel", "Measurement", "fit_calls", "fit_memory"]

SCHEMA = 2
_MILLION = 1e6
_TERMS = {"encode": 2, "decode": 5, "classes": 2}
_ALIKE, _ENOUGH = 1.25, 3
"""Sizes that differ by less than the first number, or have fewer measurements than the second, share a factor."""
KINDS = ("encode", "first_encode", "decode", "first_decode")
CLASS_KINDS = ("classes", "first_classes")
"""Measured by `gstk calibrate` for bundles that have class prompts, and by no probe."""


class Measurement(NamedTuple):
    """One timed call.

    Attributes:
        kind: `encode`, `decode` or `classes`, with the prefix `first_` for the first call with its shape.
        shape: (z,y,x) voxels of the region.
        objects, points: B and N; 1 for an encode.
        seconds: wall time.
        peak_bytes: peak memory of the process during the call, of `classes` beyond what it held before; 0 if it is not
            known.
    """

    kind: str
    shape: tuple[int, int, int]
    objects: int
    points: int
    seconds: float
    peak_bytes: int = 0


@dataclass(frozen=True)
class Fit:
    """The fitted numbers of one kind of call.

    Attributes:
        weights: coefficients of 1, v, B, v·B and v·B·N, with v in millions of voxels; an encode, and one for classes,
            has the first two.
        spread: 95th percentile of measured over fitted seconds, at least 1.
        median_error: median of |fitted / measured - 1|.
        sizes, factors: sizes of region in millions of voxels, ascending, and the ratio of measured to fitted seconds.
    """

    weights: tuple[float, ...]
    spread: float
    median_error: float
    sizes: tuple[float, ...] = ()
    factors: tuple[float, ...] = ()

    def seconds(self, voxels: int, objects: int = 1, points: int = 1) -> float:
        features = _features(voxels, objects, points)
        seconds = sum(weight * feature for weight, feature in zip(self.weights, features, strict=False))
        return seconds * self._factor(features[1])

    def _factor(self, v: float) -> float:
        if not self.sizes:
            return 1.0
        after = bisect.bisect_right(self.sizes, v)
        if after in (0, len(self.sizes)):
            return self.factors[min(after, len(self.sizes) - 1)]
        low, high = self.sizes[after - 1], self.sizes[after]
        share = math.log(v / low) / math.log(high / low)
        return self.factors[after - 1] * (1 - share) + self.factors[after] * share


@dataclass(frozen=True)
class LatencyModel:
    """The time and memory that a bundle takes on a host.

    Attributes:
        bundle: name of the bundle.
        bundle_sha256: see `Bundle.sha256`.
        host: the host of the measurements.
        fits: fitted numbers by kind of call, see `Measurement`.
        load_s: seconds to open the bundle in a running process.
        startup_s: seconds from the start of a process until the bundle is open.
        base_bytes: memory of a process that has opened the bundle.
        bytes_per_voxel: additional memory for each voxel of a region.
        largest_voxels: size of the largest measured region.
        measured_at: date and time, UTC, ISO 8601.
        class_load_s: seconds to load the graph for classes, at the first class prompt; 0 if it was not measured.
        class_bytes_per_voxel: additional memory of that graph and a run of it for each voxel of a region; where it was
            not measured, that of an encode, which has no decode's part in `bytes_per_voxel`, and of the features.
        run_bytes: additional memory of calls whatever the region: weights as the runtime orders them.
        class_run_bytes: the same for class prompts.
    """

    bundle: str
    bundle_sha256: str
    host: Host
    fits: Mapping[str, Fit]
    load_s: float
    startup_s: float
    base_bytes: int
    bytes_per_voxel: float
    largest_voxels: int
    measured_at: str
    class_load_s: float = 0.0
    class_bytes_per_voxel: float = 0.0
    run_bytes: float = 0.0
    class_run_bytes: float = 0.0

    def encode_s(self, shape: Sequence[int], *, first: bool = False, cautious: bool = False) -> float:
        """Seconds of an encode.

        Args:
            shape: (z,y,x) voxels of the region.
            first: whether it is the first encode of this shape in the process.
            cautious: return the 95th percentile, not the typical time.
        """
        return self._seconds("first_encode" if first else "encode", shape, 1, 1, cautious)

    def decode_s(
        self,
        shape: Sequence[int],
        objects: int = 1,
        points: int = 1,
        *,
        first: bool = False,
        cautious: bool = False,
    ) -> float:
        """Seconds of a decode of `objects` with `points` each; see `encode_s`."""
        return self._seconds("first_decode" if first else "decode", shape, objects, points, cautious)

    @property
    def has_classes(self) -> bool:
        """Whether class prompts were measured."""
        return "classes" in self.fits

    def classes_s(self, shape: Sequence[int], *, first: bool = False, cautious: bool = False) -> float:
        """Seconds of an encode for class prompts; see `encode_s`, which is the answer where none was measured.

        Both encoders have the same way down, and take about as long.
        """
        if not self.has_classes:
            return self.encode_s(shape, first=first, cautious=cautious)
        return self._seconds("first_classes" if first else "classes", shape, 1, 1, cautious)

    def peak_bytes(self, shape: Sequence[int]) -> float:
        """Memory of a process that encodes and decodes a region."""
        return self.base_bytes + self.run_bytes + self.bytes_per_voxel * math.prod(shape)

    def class_peak_bytes(self, shape: Sequence[int]) -> float:
        """Memory of a process that encodes a region for class prompts; see `classes_s`."""
        if not self.class_bytes_per_voxel:
            return self.peak_bytes(shape)
        return self.base_bytes + self.class_run_bytes + self.class_bytes_per_voxel * math.prod(shape)

    def to_json(self) -> dict[str, Any]:
        """The model as JSON-ready values."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, values: object) -> LatencyModel:
        """The model from parsed JSON.

        Raises:
            CalibrationError: the schema is another one, or a field is missing or out of range.
        """
        try:
            fields = dict(values)  # type: ignore[call-overload]
            schema = fields.pop("schema")
            if schema != SCHEMA:
                raise ValueError(f"schema {schema!r}, expected {SCHEMA}")
            fields["host"] = Host(**fields["host"])
            kinds = (*KINDS, *(kind for kind in CLASS_KINDS if kind in fields["fits"]))
            fields["fits"] = {kind: _fit_from(fields["fits"][kind]) for kind in kinds}
            model = cls(**fields)
            numbers = (model.load_s, model.startup_s, model.base_bytes, model.bytes_per_voxel, model.largest_voxels)
            of_classes = (model.class_load_s, model.class_bytes_per_voxel, model.run_bytes, model.class_run_bytes)
            if not all(math.isfinite(number) and number >= 0 for number in (*numbers, *of_classes)):
                raise ValueError("a number is not finite or below 0")
            if len(kinds) not in (len(KINDS), len(KINDS) + len(CLASS_KINDS)):
                raise ValueError("one of two fits for classes")
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise CalibrationError(f"got an invalid latency model ({error}); run gstk calibrate again") from None
        return model

    def _seconds(self, kind: str, shape: Sequence[int], objects: int, points: int, cautious: bool) -> float:
        fit = self.fits[kind]
        seconds = fit.seconds(math.prod(shape), objects, points)
        return seconds * fit.spread if cautious else seconds


def fit_calls(measurements: Sequence[Measurement], kind: str) -> Fit:
    """Fits the numbers of one kind of call.

    Raises:
        CalibrationError: fewer than two regions were measured.
    """
    from scipy import optimize  # slow to import, and not needed to read a model

    calls = [m for m in measurements if m.kind == kind]
    if len({math.prod(m.shape) for m in calls}) < 2:
        raise CalibrationError(f"got {kind} measured on fewer than two sizes of region, expected two or more")
    terms = _TERMS[kind.removeprefix("first_")]
    features = np.array([_features(math.prod(m.shape), m.objects, m.points)[:terms] for m in calls])
    seconds = np.array([m.seconds for m in calls])

    def relative(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(features @ weights / seconds - 1)

    start = np.full(terms, float(seconds.mean()) / float(features.sum(axis=1).mean()))
    found = optimize.least_squares(relative, start, bounds=(0, np.inf), loss="soft_l1", f_scale=0.1, x_scale=start)
    straight = Fit(tuple(float(weight) for weight in found.x), 1.0, 0.0)
    sizes, factors = _bend(calls, seconds / (features @ found.x))
    bent = replace(straight, sizes=sizes, factors=factors)
    fitted = np.array([bent.seconds(math.prod(m.shape), m.objects, m.points) for m in calls])
    return replace(
        bent,
        spread=max(1.0, float(np.percentile(seconds / fitted, 95))),
        median_error=float(np.median(np.abs(fitted / seconds - 1))),
    )


def _bend(calls: Sequence[Measurement], ratios: NDArray[np.float64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Sizes and factors of a fit. A factor is the median of measured over fitted seconds of calls of similar size."""
    voxels = np.array([math.prod(m.shape) for m in calls], np.float64) / _MILLION
    groups: list[list[int]] = []
    for index in np.argsort(voxels, kind="stable"):
        group = groups[-1] if groups else None
        if group is None or (len(group) >= _ENOUGH and voxels[index] > _ALIKE * voxels[group[0]]):
            groups.append([])
        groups[-1].append(int(index))
    if len(groups) > 1 and len(groups[-1]) < _ENOUGH:
        few = groups.pop()
        groups[-1] += few
    sizes = tuple(float(np.exp(np.log(voxels[group]).mean())) for group in groups)
    return sizes, tuple(float(np.median(ratios[group])) for group in groups)


def fit_memory(measurements: Sequence[Measurement], base_bytes: int) -> tuple[float, float]:
    """Memory that calls take beyond `base_bytes`: what any takes, and bytes for each voxel of a region.

    A runtime's first call reorders weights and keeps them: 0.8 GB of a network of full size, which would be a hundred
    gigabytes in a large region if they counted by the voxel. Of the straight lines that no measured peak exceeds, the
    closest is taken. It rises at least as fast as between the largest region and the next one of half its size, since
    small regions fit into memory that was already allocated.

    Returns:
        Bytes whatever the region, and bytes per voxel; zeros where no peak was measured.
    """
    peaks: dict[int, float] = {}
    for m in measurements:
        if m.peak_bytes:
            voxels = math.prod(m.shape)
            peaks[voxels] = max(peaks.get(voxels, 0.0), float(m.peak_bytes - base_bytes))
    if not peaks:
        return 0.0, 0.0
    sizes = np.array(sorted(peaks), np.float64)
    more = np.array([peaks[int(v)] for v in sizes])

    def slope(a: int, b: int) -> float:
        return max(0.0, float((more[b] - more[a]) / (sizes[b] - sizes[a])))

    far = np.flatnonzero(sizes <= sizes[-1] / 2)
    least = slope(int(far[-1]), -1) if len(far) else 0.0
    slopes = {max(least, slope(a, b)) for a, b in itertools.combinations(range(len(sizes)), 2)}
    slopes.add(max(least, float((more / sizes).max())))  # through nothing, and the only one for a single size
    lines = [(max(0.0, float((more - s * sizes).max())), s) for s in sorted(slopes)]
    return min(lines, key=lambda line: float((line[0] + line[1] * sizes - more).sum()))


def _features(voxels: int, objects: int, points: int) -> tuple[float, ...]:
    v = voxels / _MILLION
    return (1.0, v, objects, v * objects, v * objects * points)


def _fit_from(values: Mapping[str, Any]) -> Fit:
    weights, sizes, factors = (tuple(float(n) for n in values[key]) for key in ("weights", "sizes", "factors"))
    fit = Fit(weights, float(values["spread"]), float(values["median_error"]), sizes, factors)
    if len(fit.weights) not in _TERMS.values() or not all(math.isfinite(w) and w >= 0 for w in fit.weights):
        raise ValueError(f"weights {fit.weights}")
    if len(sizes) != len(factors) or not all(0 < n < math.inf for n in (*sizes, *factors)):
        raise ValueError(f"sizes {sizes} and factors {factors}")
    if any(b <= a for a, b in itertools.pairwise(sizes)):
        raise ValueError(f"sizes {sizes}")
    if not (math.isfinite(fit.spread) and fit.spread >= 1 and math.isfinite(fit.median_error)):
        raise ValueError(f"spread {fit.spread}")
    return fit
