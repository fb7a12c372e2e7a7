"""Objects longer than the training's patch, on an engine whose mask is known: what is connected to a click."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flood import FloodEngine
from numpy.typing import NDArray

from gstk.core.geometry import Geometry
from gstk.core.network_image import NetworkImage
from gstk.core.profile import InputProfile, find_profile
from gstk.core.prompts import ObjectPrompts, Point
from gstk.core.volume import Volume
from gstk.core.window import WindowPolicy, frame
from gstk.engines.base import Embedding
from gstk.errors import Interrupted
from gstk.evaluation.metrics import dice
from gstk.session.class_segmenter import ClassSegmenter
from gstk.session.deadline import TimeUp
from gstk.session.session import Session
from gstk.session.tiled_objects import MEMORY_SHARE, MOST_TILES, TILES
from gstk.session.tiles import TileWalk

SIDE = 32
POLICY = WindowPolicy(SIDE**3, 8, 16)
PROFILE = replace(find_profile("tiny"), spacing_mm=1.0, patch=(SIDE, SIDE, SIDE))
HU = replace(find_profile("nv-segment-ct"), spacing_mm=1.0, patch=(SIDE, SIDE, SIDE))


def a_snake(spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A bent tube of 120 mm along z, 8 mm thick."""
    z, y, x = (np.arange(n / s) * s for n, s in zip((130, 64, 64), spacing_mm, strict=True))
    middle_y, middle_x = 32 + 14 * np.sin(z / 20), 32 + 14 * np.cos(z / 25)
    far2 = (y[None, :, None] - middle_y[:, None, None]) ** 2 + (x - middle_x[:, None, None]) ** 2
    label = (far2 <= 16) & (np.abs(z - 65) < 60)[:, None, None]
    return np.where(label, 220, 20).astype(np.uint8), label


def a_session(
    engine: FloodEngine | None = None, profile: InputProfile = PROFILE, policy: WindowPolicy = POLICY, **more: Any
) -> Session:
    return Session(engine or FloodEngine(), policy, profile=profile, **more)  # type: ignore[arg-type]


def centre_of(label: NDArray[np.bool_], plane: int) -> tuple[int, int, int]:
    y, x = (int(i) for i in np.argwhere(label[plane]).mean(axis=0).round())
    return (plane, y, x)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0)])
def test_a_long_object_is_seen_at_the_trainings_resolution(spacing_mm: tuple[float, float, float]) -> None:
    image, label = a_snake(spacing_mm)
    click = centre_of(label, len(image) // 2)
    found = {}
    for name, profile, adapts in (("training", PROFILE, False), ("tiles", PROFILE, True)):
        with a_session(profile=profile, policy=replace(POLICY, adapts=adapts)) as session:
            session.set_image(image, spacing_mm)
            session.add_point(click)
            found[name] = dice(session.mask == 1, label)
            assert session.report.compromises == ()
            if name == "tiles":
                assert session.encodes > 4
    assert found["training"] < 0.6
    assert found["tiles"] > 0.97


def test_an_object_that_fits_into_the_patch_is_the_same_without_tiles() -> None:
    image = np.full((40, 80, 80), 20, np.uint8)
    image[17:23, 30:45, 30:45] = 200
    masks = []
    for adapts in (False, True):
        with a_session(policy=replace(POLICY, adapts=adapts)) as session:
            session.set_image(image, (3.0, 1.0, 1.0))
            session.add_point((20, 37, 37))
            masks.append(session.mask)
            assert session.encodes == 1
    np.testing.assert_array_equal(*masks)


@pytest.mark.parametrize("profile", [PROFILE, replace(HU, crop_margin=None)])
def test_tiles_are_the_windows_of_class_prompts(profile: InputProfile) -> None:
    """Any order and sign of axes; the walk over a mask that is everywhere goes through all of them once."""
    rng = np.random.default_rng(4)
    for _ in range(2):
        shape = tuple(int(n) for n in rng.integers(30, 70, 3))
        direction = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
        geometry = Geometry(shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), tuple(direction.ravel()))  # type: ignore[arg-type]
        units = "HU" if profile is not PROFILE else "0-255"
        source = NetworkImage.prepare(
            Volume(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), geometry, units=units), profile
        )
        segmenter = ClassSegmenter(lambda image: image[0], np.ones((2, 1), np.float32), source)
        expected = {segmenter._window(starts) for starts in itertools.product(*(a.starts for a in segmenter._axes))}
        window = frame(geometry, np.zeros(3), np.array(shape, float), POLICY)
        everywhere = np.ones(window.shape, np.float32)
        walk = TileWalk(source, window, everywhere, np.array([[5.0, 6.0, 7.0]]), np.array([1]))
        seen = []
        while (tile := walk.next_tile()) is not None:
            seen.append(tile.window)
            walk.add(tile.window, np.full(tile.window.shape, 3, np.float32), tile.coords)
        assert set(seen) == expected
        assert len(seen) == len(expected)
        whole, logits = walk.blended()
        assert source.grid is not None
        assert source.grid.holds(whole)
        np.testing.assert_allclose(logits, 3, rtol=1e-6)  # constant in, constant out


def test_clicks_one_by_one_and_at_once_undo_and_redo() -> None:
    image, label = a_snake()
    clicks = [Point(centre_of(label, 65)), Point(centre_of(label, 110)), Point(centre_of(label, 20), False)]
    with a_session() as session, a_session() as at_once:
        session.set_image(image)
        at_once.set_image(image)
        masks = []
        for click in clicks:
            session.add_point(click.zyx, click.foreground)
            masks.append(session.mask)
        assert not masks[-1][clicks[-1].zyx]
        assert 0 < (masks[1] != masks[2]).sum() < SIDE**3
        at_once.set_prompts(ObjectPrompts(tuple(clicks)))
        np.testing.assert_array_equal(at_once.mask, masks[-1])
        session.undo()
        np.testing.assert_array_equal(session.mask, masks[1])
        session.undo()
        np.testing.assert_array_equal(session.mask, masks[0])
        session.redo()
        np.testing.assert_array_equal(session.mask, masks[1])


def test_a_cancel_between_tiles_changes_nothing() -> None:
    class Cancelled(FloodEngine):
        limit = 10**6

        def encode(self, image: NDArray[np.float32]) -> Embedding:
            if len(self.shapes) >= self.limit:
                raise Interrupted("interrupted")
            return super().encode(image)

    image, label = a_snake()
    engine = Cancelled()
    with a_session(engine) as session:
        session.set_image(image)
        session.add_point((5, 5, 5), object_id=2)
        before = session.mask
        engine.limit = len(engine.shapes) + 4
        with pytest.raises(Interrupted):
            session.add_point(centre_of(label, 65))
        np.testing.assert_array_equal(session.mask, before)
        engine.limit = 10**6
        session.add_point(centre_of(label, 65))
        assert dice(session.mask == 1, label) > 0.97


def test_tiles_that_there_is_no_time_for_are_named() -> None:
    """Time for two windows and some tiles; the rest is as the coarser window has it."""

    class Late(FloodEngine):
        limit = 10**6

        def encode(self, image: NDArray[np.float32]) -> Embedding:
            if len(self.shapes) >= self.limit:
                raise TimeUp("late")
            return super().encode(image)

    image, label = a_snake()
    found = []
    for Late.limit in (3, 5, 10**6):
        with a_session(Late()) as session:
            session.set_image(image)
            session.add_point(centre_of(label, 65))
            assert session.report.compromises == (() if Late.limit > 100 else (TILES,))
            assert session.encodes <= Late.limit
            found.append(dice(session.mask == 1, label))
    assert 0.5 < found[0] <= found[1] < found[2]


def test_a_mask_that_is_everywhere_does_not_take_forever() -> None:
    image = np.full((150, 150, 150), 220, np.uint8)
    image[::50, ::50, ::50] = 0
    with a_session() as session:
        session.set_image(image)
        session.add_point((75, 75, 75))
        assert session.report.compromises == (TILES,)
        assert MOST_TILES <= session.encodes <= MOST_TILES + 3
        assert session.mask.mean() > 0.9


def test_an_object_that_is_lost_in_the_wider_window_is_followed_from_its_first() -> None:
    """A thread that is too thin for a coarse window."""
    image = np.full((20, 20, 200), 20, np.uint8)
    image[9:12, 9:12, 5:195] = 255
    with a_session() as session:
        session.set_image(image)
        session.add_point((10, 10, 100))
        assert dice(session.mask == 1, image > 100) > 0.9


def test_tiles_keep_to_the_memory_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    image, label = a_snake()
    monkeypatch.setattr("gstk.calibration.memory.free_bytes", lambda: int(SIDE**3 * 16 / MEMORY_SHARE))
    with a_session() as session:
        session.set_image(image)
        session.add_point(centre_of(label, 65))
        assert TILES in session.report.compromises
        assert dice(session.mask == 1, label) > 0.5
