"""The cost of each step of a call in seconds: all estimates that plans, reports and time limits use.

What the engine's calls cost is known from a latency model (`gstk calibrate`), corrected by how long the latest calls
took. Work beside the engine is measured while it is done; until then the constants here are its cost.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from gstk.calibration.model import LatencyModel
from gstk.core.prompts import ObjectPrompts
from gstk.core.regions import Region, voxel_count
from gstk.core.window import Window
from gstk.engines.arguments import Shape
from gstk.session.deadline import Deadline
from gstk.session.state import ImageState, ObjectState

if TYPE_CHECKING:
    from gstk.session.extras import Extra

__all__ = ["REFINE_S_PER_VOXEL", "Costs", "Rate", "WindowCost", "second_window_s", "window_cost"]

RESAMPLE_S_PER_VOXEL = 1.5e-7
"""Resampling logits to a voxel of the volume and applying a click there; measured from the first large object on."""
REFINE_S_PER_VOXEL = 2e-7
"""Refining a voxel by the image, its sampling included; measured from the first large grid on."""
NEAREST_S_PER_VOXEL = 5e-9
"""Resampling logits to a voxel of the volume without interpolation; this much time is always kept back."""
MERGE_S_PER_VOXEL = 1.5e-8
"""Merging all objects into one label map, for each voxel of the volume; kept back from each call."""
LABEL_S_PER_LOGIT = 1.3e-8
"""The logit of one class in one voxel of the training grid, and finding the largest; part of a window of classes."""
CALL_MARGIN = 0.02
"""Share of a call's time that is kept back besides."""
_MEASURED_VOXELS = 10**5
"""Work on fewer voxels is too short to be measured well."""
_REMEMBERED_CALLS = 4


class Rate:
    """Seconds a voxel of one kind of work: a default, until it was measured on this machine.

    Attributes:
        s_per_voxel: the latest.
    """

    def __init__(self, default_s_per_voxel: float) -> None:
        self.s_per_voxel = default_s_per_voxel

    def seconds(self, voxels: float) -> float:
        """Expected seconds of work on a number of voxels."""
        return self.s_per_voxel * voxels

    def measured(self, voxels: int, seconds: float) -> None:
        """Records the time of work on a number of voxels."""
        if voxels >= _MEASURED_VOXELS:
            self.s_per_voxel = seconds / voxels


class WindowCost(NamedTuple):
    """The cost of segmenting objects in one window.

    Attributes:
        encode_s, decode_s: expected; the decodes of all prompts, one after the other.
        p95_s: both together, at the 95th percentile.
        peak_bytes: memory of the process meanwhile; 0 where nothing is known.
    """

    encode_s: float = 0.0
    decode_s: float = 0.0
    p95_s: float = 0.0
    peak_bytes: float = 0.0


def window_cost(
    model: LatencyModel | None, shape: Shape, point_counts: Iterable[int], *, first: bool, slowdown: float
) -> WindowCost:
    """The cost of a window that is encoded once.

    Args:
        model: what the engine's calls cost; None where nothing is known.
        shape: (z,y,x) voxels of the window.
        point_counts: the points of each decode in it.
        first: whether it is the first window of its shape.
        slowdown: how many times longer than the model says calls take now.
    """
    if model is None:
        return WindowCost()
    counts = list(point_counts)
    encode_s, encode_p95_s = (model.encode_s(shape, first=first, cautious=c) * slowdown for c in (False, True))
    decode_s, decode_p95_s = (
        sum(model.decode_s(shape, 1, n, cautious=c) for n in counts) * slowdown for c in (False, True)
    )
    return WindowCost(encode_s, decode_s, encode_p95_s + decode_p95_s, model.peak_bytes(shape))


def second_window_s(model: LatencyModel | None, shape: Shape, slowdown: float) -> float:
    """Expected seconds of one more window, which suits an object's mask better."""
    return 0.0 if model is None else (model.encode_s(shape) + model.decode_s(shape)) * slowdown


class Costs:
    """The costs of a session's steps, as measured so far on its engine and machine.

    Attributes:
        model: what the engine's calls cost; None where nothing is known, and then they count as 0.
        resampling: of taking logits to the volume's voxels and applying a click there.
        encoding: of encoding a window, as measured; infinite before the first.
    """

    def __init__(self, model: LatencyModel | None = None) -> None:
        self.model = model
        self.resampling = Rate(RESAMPLE_S_PER_VOXEL)
        self.encoding = Rate(math.inf)
        self._ratios: deque[float] = deque(maxlen=_REMEMBERED_CALLS)
        self._run: set[tuple[str, Shape]] = set()

    @property
    def slowdown(self) -> float:
        """How many times longer than the model says the latest calls took, at least 1."""
        return max(1.0, sum(self._ratios) / len(self._ratios)) if self._ratios else 1.0

    def encode_s(self, shape: Shape, cautious: bool = False) -> float:
        """Expected seconds of an encode, or with `cautious` those at the 95th percentile."""
        return self._modelled_s("encode", shape, cautious=cautious) * self.slowdown

    def decode_s(self, shape: Shape, objects: int = 1, points: int = 1, cautious: bool = False) -> float:
        """Expected seconds of a decode, or with `cautious` those at the 95th percentile."""
        return self._modelled_s("decode", shape, objects, points, cautious) * self.slowdown

    def classes_s(self, shape: Shape, classes: int, cautious: bool = False) -> float:
        """Expected seconds of a window of class prompts with its labels; 0 without a model.

        Args:
            shape: (z,y,x) voxels of the window.
            classes: how many are asked for.
            cautious: those at the 95th percentile.
        """
        label_s = LABEL_S_PER_LOGIT * classes * math.prod(shape) if self.model is not None else 0.0
        return self._modelled_s("classes", shape, cautious=cautious) * self.slowdown + label_s

    @property
    def class_load_s(self) -> float:
        """Expected seconds to load the graph for classes; 0 once it has run."""
        has_run = any(kind == "classes" for kind, _ in self._run)
        return 0.0 if self.model is None or has_run else self.model.class_load_s

    def ran(
        self,
        kind: Literal["encode", "decode", "classes"],
        shape: Shape,
        seconds: float,
        objects: int = 1,
        points: int = 1,
    ) -> None:
        """Records the time of a call of the engine."""
        loads_classes = kind == "classes" and self.class_load_s > 0
        modelled_s = 0.0 if loads_classes else self._modelled_s(kind, shape, objects, points)
        if kind == "encode":
            self.encoding.measured(math.prod(shape), seconds)
        if modelled_s > 0:
            self._ratios.append(seconds / modelled_s)
        self._run.add((kind, shape))

    def measured_encode_s(self, shapes: Iterable[Shape]) -> float:
        """Seconds to encode windows as the latest one was, without a model; infinite before the first."""
        return sum((self.encoding.seconds(math.prod(shape)) for shape in shapes), 0.0)

    def answer_s(self, window: Window, is_encoded: bool) -> float:
        """Seconds until the network answers in a window, at the 95th percentile."""
        encode_s = 0.0 if is_encoded else self.encode_s(window.shape, cautious=True)
        return encode_s + self.decode_s(window.shape, cautious=True)

    def clicks_s(self, state: ObjectState, clicks: int) -> float:
        """Seconds of so many further clicks in an object's window, at the 95th percentile."""
        if state.window is None:
            return 0.0
        resample_s = 0.0 if state.region is None else self.resample_s(state.region)
        return clicks * (self.decode_s(state.window.shape, cautious=True) + resample_s)

    def resample_s(self, region: Region) -> float:
        """Expected seconds to take logits to a region of the volume."""
        return self.resampling.seconds(voxel_count(region))

    def nearest_s(self, region: Region) -> float:
        """Expected seconds to take logits to a region of the volume without interpolation."""
        return NEAREST_S_PER_VOXEL * voxel_count(region)

    def update_s(
        self,
        image: ImageState,
        state: ObjectState,
        prompts: ObjectPrompts,
        window: Window | None,
        is_planned: bool,
        extra: Extra | None,
    ) -> float:
        """Expected seconds from an object's prompts to its mask, besides what the plan counts; 0 without a model.

        Args:
            state: the object so far.
            prompts: all of them.
            window: what the network will see; None where no prompt locates the object.
            is_planned: whether the plan counts its encode and decodes.
        """
        decodes = state.pending_decodes(prompts)
        if self.model is None or window is None or not decodes:
            return 0.0
        decode_s = self.decode_s(window.shape)
        seconds = decodes * (
            (0.0 if is_planned else decode_s) + self.resampling.seconds(_object_voxels(image, state, prompts, window))
        )
        if extra is None:
            return seconds
        seconds += decodes * extra.seconds("refine", image.geometry, window, prompts)
        end = len(prompts.points) + 1
        for clicks in range(end - decodes, end):
            clicked = replace(prompts, points=prompts.points[:clicks])
            more_points_s = extra.seconds("more_points", image.geometry, window, clicked)
            seconds += more_points_s + decode_s if more_points_s else 0.0
        return seconds

    @staticmethod
    def deadline(within_s: float | None, volume_voxels: int, *, is_firm: bool = True) -> Deadline:
        """The deadline for the objects of a call, which leaves time for the steps after them; see `Deadline`."""
        if within_s is None or within_s == math.inf:
            return Deadline()
        after_s = CALL_MARGIN * within_s + MERGE_S_PER_VOXEL * volume_voxels
        return Deadline(max(within_s / 2, within_s - after_s), is_firm=is_firm)

    def _modelled_s(self, kind: str, shape: Shape, objects: int = 1, points: int = 1, cautious: bool = False) -> float:
        if self.model is None:
            return 0.0
        first = (kind, shape) not in self._run
        if kind == "encode":
            return self.model.encode_s(shape, first=first, cautious=cautious)
        if kind == "classes":
            return self.model.classes_s(shape, cautious=cautious)
        return self.model.decode_s(shape, objects, points, first=first, cautious=cautious)


def _object_voxels(image: ImageState, state: ObjectState, prompts: ObjectPrompts, window: Window) -> float:
    """About how many voxels of the volume an object's region will have."""
    if state.region is not None:
        return voxel_count(state.region)
    if prompts.box is not None:
        low, high = prompts.box.corners()
        return math.prod(b - a + 1.0 for a, b in zip(low, high, strict=True))
    return voxel_count(window.inside(image.geometry.shape)) / (1 + 2 * image.policy.margin) ** 3
