"""Sorting the frames of a DICOM series into images: of one size, direction and phase, ordered along their normal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from gstk.cases.dicom_headers import PHASE_KEYS, Frame

__all__ = ["EVEN_SHARE", "Stack", "sort_into_stacks", "spacing_of"]

EVEN_SHARE = 0.01
"""Slices count as evenly spaced where none is further from its even place than this share of the spacing."""
_SAME_DIRECTION = 1e-3
_SAME_PLACE_MM = 1e-3
_FAR_MM, _FAR_GAPS = 1000.0, 20
"""A gap between slices that is larger than both, the second as a multiple of the median gap, parts two images."""
_PARTED = 3
"""A gap of more spacings parts images that the headers tell apart, such as two stacks of one scan."""
_VIEWS = ("sagittal", "coronal", "axial")

_Frames: TypeAlias = list[Frame]
_PixelsOf: TypeAlias = Callable[[Frame], npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Stack:
    """Frames that are one image, in the order of its slices.

    Attributes:
        frames: by position along the normal; without positions by number and name.
        words: what tells it apart from the series' other images, such as "temporal position 2".
        copies: frames that repeat others and were left out.
    """

    frames: tuple[Frame, ...]
    words: str = ""
    copies: int = 0

    @property
    def voxels(self) -> int:
        """Number of its voxels."""
        return len(self.frames) * self.frames[0].rows * self.frames[0].columns

    @property
    def has_place(self) -> bool:
        """Whether its frames say where they lie."""
        return _has_place(self.frames[0])

    @property
    def is_readable(self) -> bool:
        """Whether its pixels are intensities of single slices."""
        return all(f.is_grey and not f.is_mosaic and not f.is_segmentation for f in self.frames)

    def describe(self) -> str:
        """Size, view and what sets it apart, in words."""
        first, count = self.frames[0], len(self.frames)
        parts = [f"{count} slice{'s' * (count > 1)} of {first.columns} x {first.rows}"]
        if self.has_place:
            parts.append(_VIEWS[int(np.argmax(np.abs(_normal(first))))])
        parts += ["a localizer"] * first.is_localizer + [self.words] * bool(self.words)
        return ", ".join(parts)


def sort_into_stacks(frames: Iterable[Frame], pixels_of: _PixelsOf) -> list[Stack]:
    """The images of a series.

    Frames belong together by size, pixel spacing, direction and units. Where several lie at one
    place, the attribute that tells them apart (`PHASE_KEYS`) makes them several images; where none does, the first at
    each place is the first image, and the second the second, unless their pixels are the same: those are copies.

    Args:
        frames: of one series, in the order of their files' names.
        pixels_of: reads a frame's pixels; asked only where frames may be copies.

    Returns:
        In the order of their numbers in the series.
    """
    seen: dict[tuple[str, int], Frame] = {}
    repeated = 0
    for frame in frames:
        key = (frame.sop_uid or str(frame.file), frame.index)
        repeated += key in seen
        seen.setdefault(key, frame)
    groups: list[tuple[tuple[object, ...], _Frames]] = []
    for frame in sorted(seen.values(), key=_number):
        for like, group in groups:
            if like == _likeness(frame) and _same_direction(group[0], frame):
                group.append(frame)
                break
        else:
            groups.append((_likeness(frame), [frame]))
    stacks = [stack for _, group in groups for units in _by_units(group) for stack in _split(units, pixels_of)]
    if repeated and stacks:
        largest = max(range(len(stacks)), key=lambda i: stacks[i].voxels)
        stack = stacks[largest]
        stacks[largest] = Stack(stack.frames, stack.words, stack.copies + repeated)
    return stacks


def spacing_of(heights_mm: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Mean spacing of sorted slices, and how far one is from its even place at most, as a share of it."""
    if len(heights_mm) < 2:
        return 0.0, 0.0
    mean_mm = float(heights_mm[-1] - heights_mm[0]) / (len(heights_mm) - 1)
    even = heights_mm[0] + mean_mm * np.arange(len(heights_mm))
    return mean_mm, float(np.abs(heights_mm - even).max() / mean_mm) if mean_mm > 0 else 0.0


def _likeness(frame: Frame) -> tuple[object, ...]:
    spacing = None if frame.spacing_mm is None else tuple(round(s, 4) for s in frame.spacing_mm)
    kind = (frame.is_grey, frame.is_localizer, frame.is_mosaic)
    return frame.rows, frame.columns, spacing, _has_place(frame), *kind


def _same_direction(first: Frame, second: Frame) -> bool:
    if first.orientation is None or second.orientation is None:
        return first.orientation is None and second.orientation is None
    return float(np.abs(np.subtract(first.orientation, second.orientation)).max()) < _SAME_DIRECTION


def _by_units(group: _Frames) -> list[_Frames]:
    """Values of different units are no one image; a frame that states none goes with the others."""
    stated = list(dict.fromkeys(frame.units for frame in group if frame.units))
    if len(stated) < 2:
        return [group]
    most = max(stated, key=lambda units: sum(frame.units == units for frame in group))
    return [[frame for frame in group if (frame.units or most) == units] for units in stated]


def _split(group: _Frames, pixels_of: _PixelsOf) -> list[Stack]:
    if not _has_place(group[0]):
        return [Stack(tuple(group))]
    places = _by_place(group)
    if len(places) == len(group):
        if _unevenness(group) < EVEN_SHARE:
            return [_stack(group)]
        return _even_parts(group) or [_stack(part) for part in _apart(group)]
    for keys in _key_choices(group):
        parts = _parts(group, keys)
        fits = len(parts) < len(group) and all(len(_by_place(part)) == len(part) for part in parts.values())
        if fits and max(map(len, parts.values())) * 2 >= len(places):
            return [_stack(part, _words(keys, value)) for value, part in parts.items()]
    # Nothing that the headers say tells them apart: the first at each place, the second, ...
    phases: list[_Frames] = []
    copies = 0
    for place in places:
        kept: list[tuple[Frame, npt.NDArray[np.generic]]] = []
        for frame in place:
            pixels = pixels_of(frame)
            if any(np.array_equal(pixels, other) for _, other in kept):
                copies += 1
            else:
                kept.append((frame, pixels))
        for number, (frame, _) in enumerate(kept):
            if number == len(phases):
                phases.append([])
            phases[number].append(frame)
    stacks = [
        _stack(part, f"number {n} at each place" if len(phases) > 1 else "")
        for n, phase in enumerate(phases, 1)
        for part in _apart(phase)
    ]
    return [Stack(stacks[0].frames, stacks[0].words, copies), *stacks[1:]]


def _apart(group: _Frames) -> list[_Frames]:
    """Parts of a group with gaps between them that no patient fills, as where a position is damaged."""
    if len(group) < 2:
        return [group]
    order = np.argsort(_heights(group), kind="stable")
    gaps = np.diff(_heights(group)[order])
    limit_mm = max(_FAR_MM, _FAR_GAPS * float(np.median(gaps)))
    ends = [0, *(int(i) + 1 for i in np.flatnonzero(gaps > limit_mm)), len(group)]
    return [[group[i] for i in order[start:end]] for start, end in pairwise(ends)]


def _even_parts(group: _Frames) -> list[Stack]:
    """Images, each even in itself, whose slices lie between each other's or far apart; none where there are none."""
    for keys in _key_choices(group):
        parts = _parts(group, keys)
        ranges = sorted((min(h), max(h)) for h in (_heights(part) for part in parts.values()))
        gaps = [later[0] - earlier[1] for earlier, later in pairwise(ranges)]
        if not all(len(p) > 2 and _unevenness(p) < EVEN_SHARE for p in parts.values()):
            continue
        widest_mm = max(spacing_of(np.sort(_heights(part)))[0] for part in parts.values())
        if all(gap < 0 for gap in gaps) or all(gap > _PARTED * widest_mm for gap in gaps):
            return [_stack(part, _words(keys, value)) for value, part in parts.items()]
    return []


def _key_choices(group: _Frames) -> list[tuple[int, ...]]:
    """Attributes of `PHASE_KEYS` that differ within the group, then pairs of them."""
    differ = [i for i in range(len(PHASE_KEYS)) if len({f.phase[i] for f in group if f.phase}) > 1]
    return [(i,) for i in differ] + list(combinations(differ, 2))


def _parts(group: _Frames, keys: tuple[int, ...]) -> dict[tuple[str, ...], _Frames]:
    parts: dict[tuple[str, ...], _Frames] = {}
    for frame in group:
        parts.setdefault(tuple(frame.phase[i] for i in keys), []).append(frame)
    return dict(sorted(parts.items(), key=lambda item: [_sortable(value) for value in item[0]]))


def _sortable(value: str) -> tuple[float, str]:
    try:
        return float(value), ""
    except ValueError:
        return float("inf"), value


def _words(keys: tuple[int, ...], value: tuple[str, ...]) -> str:
    return ", ".join(f"{PHASE_KEYS[i][2]} {v or 'not stated'}" for i, v in zip(keys, value, strict=True))


def _stack(group: _Frames, words: str = "") -> Stack:
    order = np.argsort(_heights(group), kind="stable")
    return Stack(tuple(group[i] for i in order), words)


def _by_place(group: _Frames) -> list[_Frames]:
    places: list[_Frames] = []
    heights = _heights(group)
    for i in np.argsort(heights, kind="stable"):
        near = [p for p in places[-4:] if _distance_mm(p[0], group[i]) < _SAME_PLACE_MM]
        if near:
            near[0].append(group[i])
        else:
            places.append([group[i]])
    return places


def _unevenness(group: _Frames) -> float:
    return spacing_of(np.sort(_heights(group)))[1]


def _heights(group: Sequence[Frame]) -> npt.NDArray[np.float64]:
    """Positions along the normal of the first frame, in mm."""
    return np.array([f.position_mm for f in group], np.float64) @ _normal(group[0])


def _normal(frame: Frame) -> npt.NDArray[np.float64]:
    assert frame.orientation is not None
    normal = np.cross(frame.orientation[:3], frame.orientation[3:])
    return np.asarray(normal / np.linalg.norm(normal), np.float64)


def _distance_mm(first: Frame, second: Frame) -> float:
    assert first.position_mm is not None
    assert second.position_mm is not None
    return float(np.linalg.norm(np.subtract(first.position_mm, second.position_mm)))


def _has_place(frame: Frame) -> bool:
    return frame.position_mm is not None and frame.orientation is not None


def _number(frame: Frame) -> tuple[float, str, int]:
    return (float("inf") if frame.instance is None else frame.instance, _natural(frame.file.name), frame.index)


def _natural(name: str) -> str:
    """A key that sorts "im10" after "im9"."""
    import re

    return re.sub(r"\d+", lambda digits: digits[0].rjust(20, "0"), name)
