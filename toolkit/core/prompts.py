"""Prompts for the objects of a volume: clicks and boxes, and how they are written in the .npz layout.

`boxes` and `clicks` are lists with one entry a class; class i is label i + 1. A box is a dict of seven numbers, the
clicks of a class a dict of the lists 'fg' and 'bg' of (z, y, x). `clicks_order` lists 'fg' and 'bg' in click order.
"""

import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gstk.core.geometry import Geometry
from gstk.errors import OneLine, PromptError

__all__ = [
    "Box",
    "ObjectPrompts",
    "Point",
    "PromptWarning",
    "Voxel",
    "list_prompts",
    "parse_prompts",
    "whole_object_id",
    "whole_voxel",
]

Voxel: TypeAlias = tuple[int, int, int]

_KINDS = ("fg", "bg")
_LARGEST_ID = 65535


class PromptWarning(OneLine, UserWarning):
    """Prompts were accepted, but their result is probably not what the user wants."""


@dataclass(frozen=True)
class Point:
    """One click. `zyx` is a voxel index (z, y, x); `foreground` says whether the object is there."""

    zyx: Voxel
    foreground: bool = True


@dataclass(frozen=True)
class Box:
    """A box prompt in voxels, bounds inclusive: the object's slices, and its extent on its middle slice `z_mid`."""

    z_min: int
    z_max: int
    z_mid: int
    z_mid_x_min: int
    z_mid_y_min: int
    z_mid_x_max: int
    z_mid_y_max: int

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "Box":
        """Make a box of the seven named numbers; other keys are ignored, fractions are rounded, halves up.

        Raises:
            PromptError: a number is missing, not finite, or a minimum exceeds its maximum.
        """
        names = [f.name for f in fields(cls)]
        missing = [name for name in names if name not in entry]
        if missing:
            raise PromptError(f"got a box without {', '.join(missing)}, expected the numbers {', '.join(names)}")
        box = cls(**{name: _whole(entry[name], name) for name in names})
        low, high = box.corners()
        if any(a > b for a, b in zip(low, high, strict=True)) or not box.z_min <= box.z_mid <= box.z_max:
            raise PromptError(f"got a box from (z, y, x) {low} to {high} with z_mid {box.z_mid}, expected min <= max")
        return box

    @classmethod
    def from_corners(cls, corners: Sequence[Sequence[float]]) -> "Box":
        """Make a box of its first and last voxel ((z, y, x), (z, y, x)), both inside it; fractions round halves up.

        Raises:
            PromptError: these are not two corners, or see `from_dict`.
        """
        try:
            (z0, y0, x0), (z1, y1, x1) = corners
        except (TypeError, ValueError):
            raise PromptError(f"got the box {corners!r}, expected two corners ((z, y, x), (z, y, x))") from None
        # The middle slice is between the slices that the corners are rounded to, not between the corners.
        first, last = _whole(z0, "z_min"), _whole(z1, "z_max")
        numbers = {"z_min": first, "z_max": last, "z_mid": (first + last) // 2}
        plane = {"z_mid_x_min": x0, "z_mid_y_min": y0, "z_mid_x_max": x1, "z_mid_y_max": y1}
        return cls.from_dict({**numbers, **plane})

    def to_dict(self) -> dict[str, int]:
        """The seven numbers by name, as the .npz layout has them."""
        return asdict(self)

    def corners(self) -> tuple[Voxel, Voxel]:
        """First and last voxel (z, y, x) of the box, both inside it."""
        return (self.z_min, self.z_mid_y_min, self.z_mid_x_min), (self.z_max, self.z_mid_y_max, self.z_mid_x_max)

    def centre(self) -> Voxel:
        """Middle voxel (z, y, x) of the middle slice."""
        return self.z_mid, (self.z_mid_y_min + self.z_mid_y_max) // 2, (self.z_mid_x_min + self.z_mid_x_max) // 2


@dataclass(frozen=True)
class ObjectPrompts:
    """The prompts of one object; may be empty.

    Attributes:
        points: in the order of the clicks.
        box: or None.
        novel: whether the object is of no class that the network was trained on, which the network is told.
    """

    points: tuple[Point, ...] = ()
    box: Box | None = None
    novel: bool = False

    def rounded(self) -> "ObjectPrompts":
        """The same with every click on a whole voxel, halves up."""
        if all(type(i) is int for point in self.points for i in point.zyx):
            return self
        return replace(self, points=tuple(Point(whole_voxel(point.zyx), point.foreground) for point in self.points))

    def clicked(self, foreground_only: bool = False) -> NDArray[np.float64]:
        """Voxels of the clicks, (K,3) (z, y, x), in their order; of all, or of those on the object."""
        voxels = [p.zyx for p in self.points if p.foreground or not foreground_only]
        return np.array(voxels, np.float64).reshape(-1, 3)


def parse_prompts(
    boxes: Sequence[Any], clicks: Sequence[Any], orders: Sequence[Any], geometry: Geometry
) -> dict[int, ObjectPrompts]:
    """Read the lists of an .npz case; any of them may be empty.

    Args:
        boxes: a dict or None for each class.
        clicks: a dict of the lists 'fg' and 'bg' for each class; fractions of a voxel are rounded, halves up.
        orders: for each class the sequence of 'fg' and 'bg'. Empty: the foreground clicks of a class come first.
        geometry: of the volume that must contain the prompts.

    Returns:
        Prompts by label id 1..K, where K is the longer of `boxes` and `clicks`.

    Raises:
        PromptError: an entry is malformed or outside the volume; names the class and the volume's shape.
    """
    if clicks and orders and len(orders) != len(clicks):
        raise PromptError(f"got clicks_order for {len(orders)} classes, expected it for the {len(clicks)} of 'clicks'")
    prompts = {}
    for index in range(max(len(boxes), len(clicks))):
        where = f"class {index + 1} in the volume {geometry.shape}"
        box = _parse_box(boxes[index], geometry, where) if index < len(boxes) else None
        order = orders[index] if orders and index < len(clicks) else None
        points = _parse_clicks(clicks[index], order, geometry, where) if index < len(clicks) else ()
        prompts[index + 1] = ObjectPrompts(points, box)
    return prompts


def whole_voxel(numbers: Sequence[Any]) -> Voxel:
    """The voxel (z, y, x) nearest to three numbers, halves up, as `Geometry.nearest_voxel` rounds them.

    Raises:
        PromptError: these are not three finite numbers.
    """
    values = [_number(v) for v in _as_list(numbers) or []]
    if len(values) != 3 or not all(v is not None and math.isfinite(v) for v in values):
        raise PromptError(f"got the click {_shown(numbers)}, expected three finite numbers (z, y, x)")
    z, y, x = (math.floor(v + 0.5) for v in values if v is not None)
    return z, y, x


def whole_object_id(value: Any) -> int:
    """An object's id, 1 to 65535, as an int.

    Raises:
        PromptError: it is no such whole number.
    """
    number = _number(value)
    if number is None or number != int(number if math.isfinite(number) else 0) or not 1 <= number <= _LARGEST_ID:
        raise PromptError(f"got object id {_shown(value)}, expected a whole number from 1 to {_LARGEST_ID}")
    return int(number)


def list_prompts(prompts: Mapping[int, ObjectPrompts]) -> dict[str, list[Any]]:
    """The inverse of `parse_prompts`: the lists `boxes`, `clicks` and `clicks_order`, those that hold anything."""
    classes = [prompts.get(label, ObjectPrompts()) for label in range(1, max(prompts, default=0) + 1)]
    lists: dict[str, list[Any]] = {}
    if any(c.box for c in classes):
        lists["boxes"] = [c.box.to_dict() if c.box else None for c in classes]
    if any(c.points for c in classes):
        lists["clicks"] = [
            {
                "fg": [list(p.zyx) for p in c.points if p.foreground],
                "bg": [list(p.zyx) for p in c.points if not p.foreground],
            }
            for c in classes
        ]
        lists["clicks_order"] = [["fg" if p.foreground else "bg" for p in c.points] for c in classes]
    return lists


def _parse_box(entry: Any, geometry: Geometry, where: str) -> Box | None:
    if entry is None:
        return None
    if not isinstance(entry, dict):
        raise PromptError(f"got {_shown(entry)} as the box of {where}, expected a dict or None")
    try:
        box = Box.from_dict(entry)
    except PromptError as error:
        raise PromptError(f"the box of {where}: {error}") from None
    low, high = box.corners()
    if not (geometry.contains(low) and geometry.contains(high)):
        raise PromptError(
            f"got a box from (z, y, x) {low} to {high} for {where}, expected it inside; its last voxel is inclusive"
        )
    return box


def _parse_clicks(entry: Any, order: Any, geometry: Geometry, where: str) -> tuple[Point, ...]:
    if not isinstance(entry, dict):
        raise PromptError(f"got {_shown(entry)} as the clicks of {where}, expected a dict of the lists 'fg' and 'bg'")
    points: dict[str, list[Point]] = {}
    for kind in _KINDS:
        clicks = _as_list(entry.get(kind, []))
        if clicks is None:
            raise PromptError(f"got {_shown(entry[kind])} as the '{kind}' clicks of {where}, expected a list")
        points[kind] = [Point(_parse_click(click, geometry, where), kind == "fg") for click in clicks]
    if order is None:
        return (*points["fg"], *points["bg"])
    # The challenge's evaluator pads the order of a class that needed no further click with None.
    turns = [kind for kind in _as_list(order) or [] if kind is not None]
    if any(turns.count(kind) != len(points[kind]) for kind in _KINDS) or len(turns) != sum(map(len, points.values())):
        raise PromptError(
            f"got the clicks_order {_shown(order)} for {where}, expected {len(points['fg'])} 'fg' and "
            f"{len(points['bg'])} 'bg', as many as its clicks"
        )
    queues = {kind: iter(points[kind]) for kind in _KINDS}
    return tuple(next(queues[kind]) for kind in turns)


def _parse_click(click: Any, geometry: Geometry, where: str) -> Voxel:
    coordinates = [_number(v) for v in _as_list(click) or []]
    z, y, x = coordinates if len(coordinates) == 3 else (None, None, None)
    if z is None or y is None or x is None:
        raise PromptError(f"got the click {_shown(click)} for {where}, expected three numbers (z, y, x)")
    voxel = geometry.nearest_voxel((z, y, x))
    if voxel is None:
        raise PromptError(f"got the click (z, y, x) ({z:g}, {y:g}, {x:g}) for {where}, expected it inside")
    return voxel


def _as_list(value: Any) -> list[Any] | None:
    plain = value.tolist() if isinstance(value, np.ndarray) else value
    return list(plain) if isinstance(plain, list | tuple) else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _whole(value: Any, name: str) -> int:
    number = _number(value)
    if number is None or not math.isfinite(number):
        raise PromptError(f"got {_shown(value)} for {name}, expected a whole number")
    return math.floor(number + 0.5)


def _shown(value: Any) -> str:
    """A short repr: data from a stranger's file must not flood the message."""
    short = reprlib.Repr()
    short.maxlevel = 3
    return f"{short.repr(value):.80}"
