"""Optimisation profiles of TensorRT plans: one for each common region, and a wide one for all other regions.

TensorRT chooses kernels for a profile's usual shape, but they must be valid on its whole range. The kernels of a
profile for a single region are therefore the fastest, and those of a wide profile are slower.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gstk.core.manifest import RoiRules
from gstk.engines.arguments import Shape
from gstk.errors import PlanError

__all__ = [
    "Dims",
    "Profile",
    "Profiles",
    "buckets",
    "default_regions",
    "default_wide",
    "parse_regions",
    "parse_wide",
]

Dims = tuple[int, ...]

USUAL_OBJECTS, USUAL_POINTS = 1, 4
"""Number of points that the decoder's kernels are chosen for: a click on one object, and a few corrections."""
MOST_PADDING = 0.25
"""Largest share of a group of objects that may be padding."""


@dataclass(frozen=True)
class Profile:
    """A range of regions, and the number of objects decoded at once.

    Attributes:
        least, usual, most: smallest, usual and largest region (z,y,x) in voxels; equal for a profile of one region.
        objects: largest number of objects decoded at once.
    """

    least: Shape
    usual: Shape
    most: Shape
    objects: int

    @property
    def is_static(self) -> bool:
        return self.least == self.most

    def admits(self, region: Shape) -> bool:
        """Whether a region lies in the range."""
        return all(low <= side <= high for low, side, high in zip(self.least, region, self.most, strict=True))

    def __str__(self) -> str:
        if self.is_static:
            return "x".join(map(str, self.usual))
        low, usual, high = (str(sides[0]) for sides in (self.least, self.usual, self.most))
        return f"{low}:{usual}:{high}"


@dataclass(frozen=True)
class Profiles:
    """The profiles of an encoder and a decoder plan, in the same order in both.

    Attributes:
        ranges: the profiles; those of a single region come first.
        points: largest number of points of an object.
    """

    ranges: tuple[Profile, ...]
    points: int

    @classmethod
    def choose(
        cls, roi: RoiRules, regions: Sequence[Shape], wide: tuple[int, int, int] | None, objects: int, points: int
    ) -> Profiles:
        """Chooses the profiles for a bundle.

        Args:
            roi: the bundle's rules for regions.
            regions: common regions (z,y,x) in voxels; each gets its own profile.
            wide: smallest, usual and largest side of the profile for all other regions; None for no such profile.
            objects: largest number of objects decoded at once. Large regions take fewer, since no tensor may have 2³¹
                elements.
            points: largest number of points of an object.

        Raises:
            PlanError: a side is not a multiple of the network's step, a region is too small or too large, or there is
                no region at all.
        """
        if not regions and wide is None:
            raise PlanError("got no region to build for, expected one or more; give --roi or --wide")
        if min(objects, points) < 1:
            raise PlanError(f"got {objects} objects of {points} points, expected 1 or more of each")
        ranges = [(region, region, region) for region in dict.fromkeys(regions)]
        if wide is not None:
            low, usual, high = wide
            if not low <= usual <= high:
                raise PlanError(f"got the wide profile {low}:{usual}:{high}, expected rising sides, as in 64:128:256")
            ranges.append(((low,) * 3, (usual,) * 3, (high,) * 3))
        for region in dict.fromkeys(shape for span in ranges for shape in span):
            _check(roi, region)
        most = [max(1, min(objects, roi.max_voxels // math.prod(span[2]))) for span in ranges]
        return cls(tuple(Profile(*span, count) for span, count in zip(ranges, most, strict=True)), points)

    def find(self, region: Shape) -> int | None:
        """Index of the profile for a region, or None; a profile of that region alone is preferred to a wide one."""
        fitting = [index for index, profile in enumerate(self.ranges) if profile.admits(region)]
        return min(fitting, key=lambda index: math.prod(self.ranges[index].most), default=None)

    def shapes(self, name: str, dims: Sequence[int]) -> list[tuple[Dims, Dims, Dims]]:
        """Smallest, usual and largest shape of a graph's input, for each profile.

        Args:
            name: `image`, `embedding`, `point_coords` or `point_labels`.
            dims: dimensions of the input in the graph; -1 for a dynamic dimension.

        Raises:
            PlanError: the input's name is unknown.
        """
        found = []
        for profile in self.ranges:
            sides = (profile.least, profile.usual, profile.most)
            objects = (1, min(USUAL_OBJECTS, profile.objects), profile.objects)
            points = (1, min(USUAL_POINTS, self.points), self.points)
            least, usual, most = (_shape(name, dims, *each) for each in zip(sides, objects, points, strict=True))
            found.append((least, usual, most))
        return found

    def __str__(self) -> str:
        return ", ".join(map(str, self.ranges))

    def to_json(self) -> dict[str, Any]:
        """The profiles as JSON-ready values."""
        ranges = [
            {"least": list(p.least), "usual": list(p.usual), "most": list(p.most), "objects": p.objects}
            for p in self.ranges
        ]
        return {"ranges": ranges, "points": self.points}

    @classmethod
    def from_json(cls, values: Any) -> Profiles:
        """The profiles from the values of `to_json`. Other values raise KeyError, TypeError or ValueError."""
        ranges = [
            Profile(_sides(r["least"]), _sides(r["usual"]), _sides(r["most"]), _count(r["objects"]))
            for r in values["ranges"]
        ]
        if not ranges:
            raise ValueError("no ranges")
        return cls(tuple(ranges), _count(values["points"]))


def default_regions(roi: RoiRules) -> list[Shape]:
    """The region that the network was trained on, and regions with sides about a quarter smaller and larger."""
    found = []
    for quarters in (3, 4, 5):
        sides = [max(roi.minimum, round(side * quarters / 4 / roi.multiple) * roi.multiple) for side in roi.default]
        if math.prod(sides) <= roi.max_voxels:
            found.append((sides[0], sides[1], sides[2]))
    return found


def default_wide(roi: RoiRules) -> tuple[int, int, int]:
    """The range from the smallest region to twice the usual one, limited so that no tensor gets too large."""
    usual = max(roi.default)
    largest = 2 * usual
    while largest**3 > roi.max_voxels:
        largest -= roi.multiple
    return roi.minimum, min(usual, largest), largest


def parse_regions(text: str) -> list[Shape]:
    """Parses the regions of a command line: `96,128,160`, or `96x128x128` if the sides differ.

    Raises:
        PlanError: not such a text.
    """
    found = []
    for part in text.split(","):
        sides = part.strip().split("x")
        if len(sides) not in (1, 3) or not all(side.isdecimal() for side in sides):
            raise PlanError(f"got {text!r} for --roi, expected sides in voxels, as in 96,128,160 or 96x128x128")
        z, y, x = (int(side) for side in sides * (3 // len(sides)))
        found.append((z, y, x))
    return found


def parse_wide(text: str) -> tuple[int, int, int]:
    """Parses the smallest, usual and largest side, as in `64:128:256`.

    Raises:
        PlanError: not such a text.
    """
    sides = text.split(":")
    if len(sides) != 3 or not all(side.isdecimal() for side in sides):
        raise PlanError(f"got {text!r} for --wide, expected smallest:usual:largest in voxels, as in 64:128:256")
    low, usual, high = (int(side) for side in sides)
    return low, usual, high


def buckets(objects: int, most: int) -> list[int]:
    """Sizes of the groups that objects are decoded in: powers of two up to `most`, so that few CUDA graphs are needed.

    Up to a quarter of the last group may be padding.

    Args:
        objects: number of objects to decode.
        most: largest size of a group; it is allowed even if it is not a power of two.
    """
    sizes = sorted({most, *(2**k for k in range(most.bit_length()))})
    found, left = [], objects
    while left > 0:
        size = next((s for s in sizes if left <= s and s - left <= MOST_PADDING * s), None)
        found.append(size or max(s for s in sizes if s <= left))
        left -= found[-1]
    return found


def _check(roi: RoiRules, region: Shape) -> None:
    if any(side % roi.multiple or side < roi.minimum for side in region):
        raise PlanError(
            f"got a region of {region} to build for, expected sides that are multiples of {roi.multiple} and at least "
            f"{roi.minimum}"
        )
    if math.prod(region) > roi.max_voxels:
        raise PlanError(
            f"got a region of {region} to build for, expected at most {roi.max_voxels} voxels, since TensorRT's "
            "convolutions take no tensor of 2³¹ elements; give smaller ones"
        )


def _shape(name: str, dims: Sequence[int], region: Shape, objects: int, points: int) -> Dims:
    free: dict[str, Dims] = {
        "image": (1, 1, *region),
        "embedding": (1, dims[1], *(side // 2 for side in region)),
        "point_coords": (objects, points, 3),
        "point_labels": (objects, points),
    }
    if name not in free or len(dims) != len(free[name]):
        raise PlanError(f"got the input {name} {list(dims)}, expected {', '.join(free)}; export the bundle again")
    return tuple(given if given > 0 else wanted for given, wanted in zip(dims, free[name], strict=True))


def _sides(values: Any) -> Shape:
    z, y, x = (_count(value) for value in values)
    return z, y, x


def _count(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{value!r} is no count")
    return value
