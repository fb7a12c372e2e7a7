"""An interactive session: an image, clicks and boxes on its objects, and a mask after each of them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gstk.engines.base import Embedding, Engine
from gstk.errors import GeometryError, GstkError, PromptError
from gstk.geometry import Geometry
from gstk.masks import ChangedBox, Reach, change_near, clean, clicked_components, union
from gstk.preprocess import intensity_range
from gstk.prompts import Box, ObjectPrompts, Point
from gstk.window import Framing, Window, bounding_faces, frame

__all__ = ["ChangedBox", "Session"]

MAX_ENCODES = 3
"""Windows that one prompt may try: the first, and wider or narrower ones where the mask does not sit well in it."""
FIRST_FIELD = 2.0
"""Side of the first window around a lone click, over the side that the window has at the volume's finest spacing."""


@dataclass
class _Object:
    """One object: what was said about it, and what the network last made of that."""

    prompts: ObjectPrompts = field(default_factory=ObjectPrompts)
    window: Window | None = None
    embedding: Embedding | None = None
    region: ChangedBox | None = None
    logits: NDArray[np.float32] | None = None  # at the volume's voxels of `region`


@dataclass
class _Image:
    """Everything that belongs to one image; `set_image` replaces it whole."""

    volume: NDArray[np.generic]
    geometry: Geometry
    low: float
    high: float
    objects: dict[int, _Object] = field(default_factory=dict)
    history: list[tuple[int, ObjectPrompts]] = field(default_factory=list)
    labels: NDArray[np.uint16] | None = None


class Session:
    """Segments the objects of one image at a time, click by click. Safe to call from several threads, one at a time.

    Use `gstk.open` to make one. Voxel indices are (z,y,x) of the image as given; object ids are 1 to 65535.
    """

    def __init__(self, engine: Engine, framing: Framing) -> None:
        self._engine = engine
        self._framing = framing
        self._image: _Image | None = None
        self._lock = threading.RLock()
        self.encodes = 0
        self.decodes = 0

    def set_image(self, volume: NDArray[np.generic], spacing_mm: Sequence[float] = (1.0, 1.0, 1.0)) -> None:
        """Takes an image; whatever was said about the one before is forgotten.

        Args:
            volume: (z,y,x), any real dtype, finite. It is read as needed and must not change meanwhile.
            spacing_mm: (z,y,x).

        Raises:
            GstkError: the volume is not three-dimensional, is empty or holds NaN or infinity; the spacing is not > 0.
        """
        volume = np.asarray(volume)
        if volume.ndim != 3 or volume.size == 0 or volume.dtype.kind not in "buif":
            raise GstkError(f"got an image {volume.shape} of {volume.dtype}, expected real numbers (z, y, x)")
        if volume.dtype.kind == "f" and not np.isfinite(volume).all():
            raise GstkError("got an image with NaN or infinity, expected finite numbers; replace them first")
        geometry = Geometry((volume.shape[0], volume.shape[1], volume.shape[2]), spacing_mm)  # type: ignore[arg-type]
        low, high = intensity_range(volume)
        with self._lock:
            self._image = _Image(volume, geometry, low, high)

    def add_point(self, zyx: Sequence[float], foreground: bool = True, object_id: int = 1) -> ChangedBox:
        """Adds a click and updates the mask.

        Args:
            zyx: voxel index, rounded to the nearest voxel.
            foreground: whether the object is there.

        Returns:
            The slices (z,y,x) of the volume outside which the mask did not change.

        Raises:
            PromptError: the point lies outside the image.
        """
        with self._lock:
            image = self._current()
            try:
                voxel = image.geometry.nearest_voxel(zyx)
            except GeometryError:
                voxel = None
            if voxel is None:
                raise PromptError(
                    f"got a click at {zyx!r:.80}, expected (z, y, x) inside the image of {image.geometry.shape}"
                )
            before = self._object(object_id).prompts
            return self._say(object_id, replace(before, points=(*before.points, Point(voxel, foreground))))

    def add_box(self, box: Box | Sequence[Sequence[float]], object_id: int = 1) -> ChangedBox:
        """Sets the object's box and updates the mask.

        Args:
            box: a `gstk.prompts.Box`, or its two corner voxels ((z,y,x), (z,y,x)), both inside it.

        Returns, raises: as `add_point`.
        """
        with self._lock:
            image = self._current()
            if not isinstance(box, Box):
                box = Box.from_corners(box)
            if not all(image.geometry.contains(corner) for corner in box.corners()):
                raise PromptError(
                    f"got a box of corners {box.corners()}, expected it inside the image of {image.geometry.shape}"
                )
            return self._say(object_id, replace(self._object(object_id).prompts, box=box))

    def set_prompts(self, prompts: ObjectPrompts, object_id: int = 1) -> ChangedBox:
        """Replaces all that was said about an object, in one step; returns and raises as `add_point`."""
        with self._lock:
            image = self._current()
            corners = prompts.box.corners() if prompts.box else ()
            for voxel in (*corners, *(point.zyx for point in prompts.points)):
                if not image.geometry.contains(voxel):
                    raise PromptError(
                        f"got a prompt at {voxel}, expected it inside the image of {image.geometry.shape}"
                    )
            return self._say(object_id, prompts)

    def undo(self) -> ChangedBox:
        """Takes back the latest prompt of any object.

        Raises:
            PromptError: nothing was said yet.
        """
        with self._lock:
            image = self._current()
            if not image.history:
                raise PromptError("got undo, expected a click or box before it")
            object_id, before = image.history.pop()
            changed = self._say(object_id, before)
            image.history.pop()
            return changed

    def reset(self, object_id: int | None = None) -> None:
        """Forgets an object, or all of them."""
        with self._lock:
            image = self._current()
            for key in list(image.objects) if object_id is None else [object_id]:
                image.objects.pop(key, None)
            image.history = [entry for entry in image.history if entry[0] in image.objects]
            image.labels = None

    @property
    def mask(self) -> NDArray[np.uint16]:
        """uint16 (z,y,x): object ids, 0 elsewhere. Where objects overlap, the one that the network is surer of."""
        with self._lock:
            image = self._current()
            if image.labels is None:
                image.labels = _merge(image)
            return image.labels

    def window(self, object_id: int = 1) -> Window | None:
        """The part of the volume that the network saw for an object; None before its first prompt."""
        with self._lock:
            known = self._current().objects.get(object_id)
            return known.window if known else None

    def close(self) -> None:
        """Closes the engine; the session cannot be used afterwards."""
        with self._lock:
            self._image = None
            self._engine.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _current(self) -> _Image:
        if self._image is None:
            raise GstkError("got a call on a session without an image, expected set_image first")
        return self._image

    def _object(self, object_id: int) -> _Object:
        if not 1 <= object_id <= np.iinfo(np.uint16).max:
            raise PromptError(f"got object id {object_id}, expected 1 to {np.iinfo(np.uint16).max}")
        return self._current().objects.get(object_id, _Object())

    def _say(self, object_id: int, prompts: ObjectPrompts) -> ChangedBox:
        """Makes an object's prompts these; where they go on from those before, its mask does too."""
        image, known = self._current(), self._object(object_id)
        count = len(known.prompts.points)
        goes_on = prompts.box == known.prompts.box and prompts.points[:count] == known.prompts.points
        following = known if goes_on and known.region is not None else _Object(ObjectPrompts(box=prompts.box))
        first = len(following.prompts.points)
        if prompts.box is not None and following.region is None:
            following = self._segment(image, following)
        # One click after the other, so that a mask does not depend on whether they were given at once.
        for end in range(first + 1, len(prompts.points) + 1):
            said = ObjectPrompts(prompts.points[:end], prompts.box)
            following = self._segment(image, replace(following, prompts=said), prompts.points[end - 1])
        following = replace(following, prompts=prompts)
        image.history.append((object_id, known.prompts))
        image.objects[object_id] = following
        image.labels = None
        return union(known.region, following.region)

    def _segment(self, image: _Image, known: _Object, click: Point | None = None) -> _Object:
        """The object's mask from all that was said about it: a fitting window, one embedding, one decode.

        Where there was a mask before, a `click` changes only what is connected to it.
        """
        if not any(p.foreground for p in known.prompts.points) and known.prompts.box is None:
            return _Object(known.prompts)  # nothing says where the object is
        coords, labels = _network_points(known.prompts)
        window, embedding = known.window, known.embedding
        if window is None or embedding is None or not window.holds(coords).all():
            window, embedding = _first_window(image.geometry, known.prompts, self._framing), None
        for attempt in range(1, MAX_ENCODES + 1):
            if embedding is None:
                embedding = self._engine.encode(window.sample(image.volume, image.low, image.high)[None, None])
                self.encodes += 1
            logits = self._decode(embedding, window, coords, labels)
            better = _better_window(image.geometry, window, logits, known.prompts, self._framing)
            if better is None or attempt == MAX_ENCODES:
                break
            window, embedding = better, None
        region = window.inside(image.geometry.shape)
        values = clean(window.back(logits, image.geometry.shape), region, known.prompts)
        if click is not None and known.region is not None and known.logits is not None:
            opposite = [p.zyx for p in known.prompts.points if p.foreground != click.foreground]
            reach = Reach(click, opposite, image.geometry.spacing_mm)
            region, values = change_near(reach, known.region, known.logits, region, values)
        return _Object(known.prompts, window, embedding, region, values)

    def _decode(
        self, embedding: Embedding, window: Window, coords: NDArray[np.float64], labels: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        points = np.clip(window.to_window(coords), 0, np.array(window.shape, np.float32) - 1)
        self.decodes += 1
        logits: NDArray[np.float32] = self._engine.decode(embedding, points[None], labels[None])[0, 0]
        return logits


def _network_points(prompts: ObjectPrompts) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Clicks as the network takes them; a box says where the object is, so its centre stands in for a first click."""
    points = [(p.zyx, int(p.foreground)) for p in prompts.points]
    if prompts.box is not None and not any(p.foreground for p in prompts.points):
        points.insert(0, (prompts.box.centre(), 1))
    return np.array([zyx for zyx, _ in points], np.float64), np.array([label for _, label in points], np.int64)


def _first_window(geometry: Geometry, prompts: ObjectPrompts, framing: Framing) -> Window:
    coords, labels = _network_points(prompts)
    low, high = bounding_faces(coords[labels == 1])
    if prompts.box is not None:
        corners = np.array(prompts.box.corners(), np.float64)
        low, high = np.minimum(low, corners[0]), np.maximum(high, corners[1] + 1)
        return frame(geometry, low, high, framing)
    # A lone click says nothing about the object's size: begin with a window of the volume's finest spacing.
    side_mm = FIRST_FIELD * min(geometry.spacing_mm) * framing.voxels ** (1 / 3) / (1 + 2 * framing.margin)
    half = side_mm / np.array(geometry.spacing_mm) / 2
    centre = (low + high) / 2
    return frame(geometry, np.minimum(low, centre - half), np.maximum(high, centre + half), framing)


def _better_window(
    geometry: Geometry, window: Window, logits: NDArray[np.float32], prompts: ObjectPrompts, framing: Framing
) -> Window | None:
    """A window that suits the mask better: wider where the mask runs out of it, narrower where it is lost in it."""
    clicked = np.array([p.zyx for p in prompts.points if p.foreground], np.float64).reshape(-1, 3)
    mask = clicked_components(logits > 0, window.to_window(clicked))
    if not mask.any():
        return None
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    low = np.array([axis.start for axis in box]) * window.step + window.start
    high = np.array([axis.stop for axis in box]) * window.step + window.start
    extent = high - low
    shape = np.array(geometry.shape, float)
    cut_low = np.array([axis.start == 0 for axis in box]) & (np.array(window.start) > 0.5)
    cut_high = np.array([axis.stop == n for axis, n in zip(box, window.shape, strict=True)])
    cut_high &= np.array(window.stop) < shape - 0.5
    points = np.array([p.zyx for p in prompts.points], np.float64).reshape(-1, 3)
    if len(points):
        low, high = np.minimum(low, points.min(axis=0)), np.maximum(high, points.max(axis=0) + 1)
    if cut_low.any() or cut_high.any():
        grown = 0.5 * extent.max()
        low = np.maximum(np.where(cut_low, low - grown, low), 0)
        high = np.minimum(np.where(cut_high, high + grown, high), shape)
        better = frame(geometry, low, high, framing)
        return better if np.prod(np.array(better.step)) > 1.1 * np.prod(np.array(window.step)) else None
    better = frame(geometry, low, high, framing)
    return better if np.prod(np.array(better.step)) < 0.4 * np.prod(np.array(window.step)) else None


def _merge(image: _Image) -> NDArray[np.uint16]:
    labels = np.zeros(image.geometry.shape, np.uint16)
    best = np.zeros(image.geometry.shape, np.float16) if len(image.objects) > 1 else None
    for object_id, known in sorted(image.objects.items()):
        if known.region is None or known.logits is None:
            continue
        wins = known.logits > (0 if best is None else np.maximum(best[known.region], 0))
        labels[known.region][wins] = object_id
        if best is not None:
            best[known.region][wins] = known.logits[wins]
    return labels
