"""From prompts to a mask: which window, an encode where none was made, a decode, and what the click asked for of it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gstk.core.click_rule import component_centre
from gstk.core.prompts import ObjectPrompts, Point
from gstk.core.window import Window, frame
from gstk.engines.base import Embedding
from gstk.session.click_update import enforce_clicks, fallback_mask
from gstk.session.deadline import Deadline, TimedEngine, TimeUp
from gstk.session.embedding_cache import EmbeddingCache
from gstk.session.image_refiner import refine_logits
from gstk.session.planner import can_start, initial_prompts, sizes
from gstk.session.projection import MaskProjector, local_prompts, voxels_of
from gstk.session.reprompting import is_wanted, points_from_mask
from gstk.session.state import ImageState, ObjectState
from gstk.session.tiling import Chain, Link, grid_of, links_of
from gstk.session.window_selection import adapt_window, initial_extent, network_points

__all__ = ["ObjectSegmenter"]

MAX_WINDOWS = 3
"""Windows that one prompt may try: the first, and wider or narrower ones where the mask does not sit well in it."""
_NEAREST_S = 5e-9
"""Seconds that a voxel of the volume takes on the mask's way back where there is no time for smooth borders; this much
is always kept."""
FINER_PARTS = "finer windows along the object"
REPROMPTED = "a second look with points of the first mask"


class ObjectSegmenter:
    """Looks at images through an engine, and keeps the embeddings of one of them.

    Attributes:
        engine: encodes and decodes.
        embeddings: of the image.
        encodes, decodes: runs of the network's halves so far.
        projector: takes the network's answers to the volume.
    """

    def __init__(self, engine: TimedEngine, cache_bytes: int, refine: bool) -> None:
        self.engine = engine
        self.embeddings = EmbeddingCache(cache_bytes)
        self.projector = MaskProjector(self._image_patch, refine)
        self._latest: tuple[Window, NDArray[np.float32]] | None = None
        self.encodes = self.decodes = 0

    def look_ahead(self, image: ImageState, voxel: tuple[int, int, int]) -> None:
        """Encodes the window that a first click would have, in the background."""
        window = _first_window(image, ObjectPrompts((Point(voxel, True),)))
        image.ahead = window, self.engine.ahead(lambda: self.engine.engine.encode(self._image_patch(image, window)))

    def forget(self, image: ImageState | None) -> None:
        """Drops what is held of an image, and ends what runs for it in the background."""
        if image is not None:
            self._make_way(image)
        self.embeddings.clear()
        self._latest = None

    def update(
        self,
        image: ImageState,
        known: ObjectState,
        prompts: ObjectPrompts,
        first_look: Window | None,
        deadline: Deadline,
        notes: list[str],
        chained: bool = True,
    ) -> ObjectState:
        """An object after its prompts; where they go on from those before, its mask does too.

        Args:
            first_look: the window that was planned for it.
            chained: whether a chain of windows may be made where one is too coarse.
        """
        following = known if known.is_extended_by(prompts) else known.begun_anew(prompts)
        given, inner = following.given, _inner_points(following, prompts)
        if following.window is None:
            following = replace(following, window=_prepared(image, prompts) or first_look)
        first = len(following.prompts.points)
        try:
            if prompts.box is not None and following.region is None:
                kept = self._less(deadline, following, len(prompts.points))
                following = self._segment(image, following, None, kept, notes, chained)
            # One click after the other, so that a mask does not depend on whether they were given at once.
            for end in range(first + 1, len(prompts.points) + 1):
                said = ObjectPrompts((*inner, *prompts.points[:end]), prompts.box)
                if end < len(prompts.points) and not self._has_time_for(following, len(prompts.points) - end, deadline):
                    notes.append("one click after the other: all were taken at once")
                    at_once = ObjectState(prompts, following.window)
                    return self._segment(image, at_once, None, deadline, notes, chained)
                kept = self._less(deadline, following, len(prompts.points) - end)
                said_now = replace(following, prompts=said)
                following = self._segment(image, said_now, prompts.points[end - 1], kept, notes, chained)
        except TimeUp:
            unanswered = "the network's answer" if following.region is None else "its answer to the latest prompts"
            notes.append(f"{unanswered}: the mask is made from the prompts alone")
            unsaid = replace(prompts, points=prompts.points[len(following.prompts.points) :])
            region, values = fallback_mask(unsaid, image.geometry, following.region, following.logits)
            enforce_clicks(values, region, prompts)
            following = replace(following, region=region, logits=values, is_fallback=True)
        return replace(following, prompts=prompts, given=given)

    def _segment(
        self,
        image: ImageState,
        known: ObjectState,
        click: Point | None,
        deadline: Deadline,
        notes: list[str],
        chained: bool,
    ) -> ObjectState:
        """The object's mask from all that was said about it: a fitting window, one embedding, one decode.

        Where one window is too coarse, a chain of them follows. Where there was a mask before, a `click` changes only
        what is connected to it; in a chain, only the windows that show it are looked at again.

        Raises:
            TimeUp: there is not even a first answer.
        """
        if not can_start(known.prompts):
            return ObjectState(known.prompts)  # nothing says where the object is
        coords, labels = network_points(known.prompts)
        window, chain = known.window, known.chain
        if window is None or not window.holds(coords).all():
            window, chain = _first_window(image, known.prompts), None
        if deadline.is_set:
            deadline = deadline.sooner(deadline.left_s - _NEAREST_S * voxels_of(window.inside(image.geometry.shape)))
        if chain is not None and click is not None:
            chain = self._corrected(image, chain, known.prompts, click, deadline)
            if chain is not None:
                return self.projector.project(image, known, click, window, chain.coarse, chain, deadline, notes)
        if deadline.is_set:
            window = self._affordable(image, window, deadline, notes)
        logits = self._decode_window(image, window, coords, labels, deadline)
        for _ in range(MAX_WINDOWS - 1):
            better = adapt_window(image.geometry, window, logits, known.prompts, image.policy)
            if better is None:
                break
            if deadline.is_set and self._cautious_s(better) > deadline.left_s:
                notes.append("a window that suits the mask better")
                break
            try:
                logits = self._decode_window(image, better, coords, labels, deadline)
            except TimeUp:
                notes.append("a window that suits the mask better")
                break
            window = better
        chain = self._chain(image, window, known.prompts, logits, deadline, notes) if chained else None
        if chain is None:
            logits = self._reprompt(image, window, known.prompts, logits, deadline, notes)
        return self.projector.project(image, known, click, window, logits, chain, deadline, notes)

    def _reprompt(
        self,
        image: ImageState,
        window: Window,
        prompts: ObjectPrompts,
        logits: NDArray[np.float32],
        deadline: Deadline,
        notes: list[str],
    ) -> NDArray[np.float32]:
        """The network's answer when it is told points of its first one too, where that helps and there is time."""
        if not self._reprompts_at(len(prompts.points), prompts):
            return logits
        if deadline.is_set and self._reprompt_s(window, cautious=True) > deadline.left_s:
            notes.append(REPROMPTED)
            return logits
        local = local_prompts(window, prompts)
        mask = refine_logits(self._image_patch(image, window)[0, 0], logits, local) > 0
        coords, labels = network_points(prompts)
        points, labels = points_from_mask(mask, local, window.to_window(coords).astype(np.float64), labels)
        if len(points) == len(coords):
            return logits
        own = (points[len(coords) :] + 0.5) * window.step + window.start - 0.5
        try:
            return self._decode_window(image, window, np.concatenate([coords, own]), labels, deadline)
        except TimeUp:
            notes.append(REPROMPTED)
            return logits

    def _reprompts_at(self, clicks: int, prompts: ObjectPrompts) -> bool:
        """Whether there is a second look after so many of the clicks."""
        return self.projector.refines and is_wanted(clicks, prompts.box is not None)

    def _reprompt_s(self, window: Window, cautious: bool = False) -> float:
        """Seconds of a second look."""
        refine_s_per_voxel = self.projector.refine_s_per_voxel * math.prod(window.shape)
        return refine_s_per_voxel + self.engine.decode_s(window.shape, cautious=cautious)

    def reprompts_s(self, window: Window, prompts: ObjectPrompts, known: ObjectState) -> float:
        """Seconds of all second looks until an object, as known so far, answers its prompts."""
        end = len(prompts.points) + 1
        decodes = range(end - known.pending_decodes(prompts), end)
        return self._reprompt_s(window) * sum(self._reprompts_at(clicks, prompts) for clicks in decodes)

    def _chain(
        self,
        image: ImageState,
        window: Window,
        prompts: ObjectPrompts,
        logits: NDArray[np.float32],
        deadline: Deadline,
        notes: list[str],
    ) -> Chain | None:
        """Answers in finer windows along the object, after the coarse one in `window`; as many as there is time for."""
        links = links_of(image.geometry, window, logits, prompts, image.policy)
        if not links:
            return None
        grid = grid_of(image.geometry, window, links)
        after_s = (
            2 * self.projector.resample_s_per_voxel * voxels_of(grid.inside(image.geometry.shape))
        )  # blending takes as long as the way back
        if self.projector.refines:
            after_s += self.projector.refine_s_per_voxel * math.prod(grid.shape)
        if deadline.is_set:
            deadline = deadline.sooner(deadline.left_s - after_s)
        done: list[Link] = []
        for link in links:
            coords, labels = link.points(prompts, image.geometry)
            if not (labels == 1).any():
                continue
            if deadline.is_set and self._cautious_s(link.window) > deadline.left_s:
                notes.append(FINER_PARTS)
                break
            try:
                answer = self._decode_window(image, link.window, coords, labels, deadline)
            except TimeUp:
                notes.append(FINER_PARTS)
                break
            done.append(replace(link, logits=answer))
        return Chain(logits, tuple(done), grid) if done else None

    def _corrected(
        self, image: ImageState, chain: Chain, prompts: ObjectPrompts, click: Point, deadline: Deadline
    ) -> Chain | None:
        """A chain after a click, the latest of the prompts; None where its windows do not show the click well."""
        shape = image.geometry.shape
        if chain.weight(click.zyx, shape) < 0.5:
            return None
        links = []
        for link in chain.links:
            if link.weight(click.zyx, shape) > 0:
                coords, labels = link.points(prompts, image.geometry)
                if not (labels == 1).any():
                    return None  # the click says that nothing of the object is there: the whole is looked at again
                link = replace(link, logits=self._decode_window(image, link.window, coords, labels, deadline))
            links.append(link)
        return replace(chain, links=tuple(links))

    def _affordable(self, image: ImageState, window: Window, deadline: Deadline, notes: list[str]) -> Window:
        """The window, or one of the same field and fewer voxels that there is time for."""
        whole = replace(image.policy, margin=0.0)
        faces = np.maximum(window.start, 0.0), np.minimum(window.stop, image.geometry.shape)
        coarser = [window, *(frame(image.geometry, *faces, replace(whole, max_voxels=n)) for n in sizes(whole)[1:])]
        found = next((w for w in coarser if self._cautious_s(w) <= deadline.left_s), coarser[-1])
        if found is not window:
            notes.append("a finer window")
        return found

    def _cautious_s(self, window: Window) -> float:
        """Seconds of a look into a window, at the 95th percentile."""
        encode_s = 0.0 if window in self.embeddings else self.engine.encode_s(window.shape, cautious=True)
        return encode_s + self.engine.decode_s(window.shape, cautious=True)

    def _has_time_for(self, known: ObjectState, clicks: int, deadline: Deadline) -> bool:
        return not deadline.is_set or self._clicks_s(known, clicks) <= deadline.left_s

    def _less(self, deadline: Deadline, known: ObjectState, clicks: int) -> Deadline:
        """What of the time is left for now, with so many clicks to come."""
        return deadline.sooner(deadline.left_s - self._clicks_s(known, clicks)) if deadline.is_set else deadline

    def _clicks_s(self, known: ObjectState, clicks: int) -> float:
        """Seconds of further clicks in an object's window, at the 95th percentile."""
        if known.window is None:
            return 0.0
        resample_s_per_voxel = (
            0.0 if known.region is None else self.projector.resample_s_per_voxel * voxels_of(known.region)
        )
        return clicks * (
            known.decodes_a_click * self.engine.decode_s(known.window.shape, cautious=True) + resample_s_per_voxel
        )

    def _decode_window(
        self,
        image: ImageState,
        window: Window,
        coords: NDArray[np.float64],
        labels: NDArray[np.int64],
        deadline: Deadline,
    ) -> NDArray[np.float32]:
        """Logits (z,y,x) on the window's grid."""
        embedding = self._embedding(image, window, deadline)
        points = np.clip(window.to_window(coords), 0, np.array(window.shape, np.float32) - 1)
        self.decodes += 1
        logits: NDArray[np.float32] = self.engine.decode(embedding, points[None], labels[None], deadline)[0, 0]
        return logits

    def _embedding(self, image: ImageState, window: Window, deadline: Deadline) -> Embedding:
        found = self.embeddings.get(window)
        if found is None:
            found = self._ahead(image, window, deadline)
            if found is None:
                found = self.engine.encode(self._image_patch(image, window), deadline)
            self.embeddings.put(window, found)
            self.encodes += 1
        return found

    def _image_patch(self, image: ImageState, window: Window) -> NDArray[np.float32]:
        """The image on the window's grid, float32 [1,1,z,y,x], 0–1; of the window before it is kept."""
        latest = self._latest
        if latest is None or latest[0] != window:
            latest = self._latest = window, window.sample(image.volume, image.low, image.high)[None, None]
        return latest[1]

    def _ahead(self, image: ImageState, window: Window, deadline: Deadline) -> Embedding | None:
        """What is encoded in the background, where it is this window; else the background makes way."""
        if image.ahead is None or image.ahead[0] != window:
            self._make_way(image)
            return None
        (_, future), image.ahead = image.ahead, None
        return self.engine.wait(future, deadline)

    def _make_way(self, image: ImageState) -> None:
        if image.ahead is not None and not image.ahead[1].cancel():
            self.engine.engine.interrupt()
        image.ahead = None


def _inner_points(known: ObjectState, prompts: ObjectPrompts) -> tuple[Point, ...]:
    """The point on a given mask that the network is told where only background clicks correct it; else none."""
    if known.given is None or can_start(prompts) or known.logits is None or known.region is None:
        return ()
    mask = known.logits > 0
    if not mask.any():
        return ()
    z, y, x = (i + axis.start for i, axis in zip(component_centre(mask), known.region, strict=True))
    return (Point((z, y, x), True),)


def _first_window(image: ImageState, prompts: ObjectPrompts) -> Window:
    """Around all that says where the object is."""
    return frame(image.geometry, *initial_extent(image.geometry, prompts, image.policy), image.policy)


def _prepared(image: ImageState, prompts: ObjectPrompts) -> Window | None:
    """The window that was encoded ahead, where the first clicks lie well inside it."""
    if image.ahead is None or prompts.box is not None or not can_start(prompts):
        return None
    prepared = image.ahead[0]
    coords, _ = network_points(initial_prompts(prompts))
    quarter = np.array(prepared.shape) * prepared.step / 4
    low, high = np.array(prepared.start), np.array(prepared.stop)
    # At the volume's ends there is nothing beyond the window that could be missing.
    low = np.where(low <= 0, -np.inf, low + quarter)
    high = np.where(high >= image.geometry.shape, np.inf, high - quarter)
    return prepared if ((coords >= low) & (coords < high)).all() else None
