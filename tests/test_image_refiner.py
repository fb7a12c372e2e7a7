"""Refinement of logits by the image: clicks and boxes are heeded, edges are found, and what is unsure is decided."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
import pytest
from flood import POLICY, FloodEngine
from latency import a_model
from numpy.typing import NDArray

import gstk
from gstk.cases.phantom_case import phantom_case
from gstk.core.geometry import Geometry
from gstk.core.prompts import Box, ObjectPrompts
from gstk.core.window import Window
from gstk.evaluation.metrics import dice
from gstk.evaluation.protocol import click_by_click
from gstk.session import costs
from gstk.session.deadline import Budget
from gstk.session.extras import image_guidance
from gstk.session.extras import image_refiner as refine
from gstk.session.extras.image_guidance import FINE_BORDERS, ImageGuidance
from gstk.session.extras.image_refiner import LocalPrompts, fine_part, refine_logits
from gstk.session.segmenter import MORE_POINTS
from gstk.session.session import Session

SHAPE = (24, 28, 32)
CENTRE = np.array([[12.0, 14.0, 16.0]])
NOTHING = LocalPrompts(np.zeros((0, 3)), np.zeros(0, bool))


def ball(radius: float, centre: NDArray[np.float64] = CENTRE) -> NDArray[np.bool_]:
    return ((np.indices(SHAPE) - centre.reshape(3, 1, 1, 1)) ** 2).sum(0) <= radius**2


def scene(noise: float = 0.03) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    truth = ball(7)
    image = np.where(truth, 0.7, 0.3) + np.random.default_rng(0).normal(0, noise, SHAPE)
    return np.clip(image, 0, 1).astype(np.float32), truth


def on_object(*more: tuple[list[float], bool], box: NDArray[np.float64] | None = None) -> LocalPrompts:
    points = np.concatenate([CENTRE, *(np.array([p]) for p, _ in more)])
    return LocalPrompts(points, np.array([True, *(f for _, f in more)]), box)


def test_a_mask_that_is_too_small_or_too_large_comes_to_the_edge() -> None:
    image, truth = scene()
    for radius in (4, 10):
        guess = np.where(ball(radius), 2, -2).astype(np.float32)
        before = guess.copy()
        found = refine_logits(image, guess, on_object())
        assert found.dtype == np.float32
        np.testing.assert_array_equal(guess, before)
        assert dice(guess > 0, truth) < 0.75
        assert dice(found > 0, truth) > 0.95


def test_a_network_that_says_nothing_is_replaced_by_box_and_image() -> None:
    image, truth = scene(0.1)
    faces = np.concatenate([CENTRE - 7.5, CENTRE + 7.5])
    found = refine_logits(image, np.zeros(SHAPE, np.float32), NOTHING._replace(box=faces)) > 0
    assert dice(found, truth) > 0.95
    assert not (found & ~ball(7 * 3**0.5 * 1.2)).any()


def test_a_click_beyond_the_box_widens_it() -> None:
    image, truth = scene()
    faces = np.concatenate([CENTRE - 7.5, CENTRE + 7.5])
    faces[1, 2] = CENTRE[0, 2] + 0.5  # half of the object
    guess = np.zeros(SHAPE, np.float32)
    narrow = refine_logits(image, guess, on_object(box=faces)) > 0
    wide = refine_logits(image, guess, on_object(([12, 14, 22], True), box=faces)) > 0
    assert not narrow[12, 14, 22]
    assert wide[12, 14, 22]
    assert dice(wide, truth) > dice(narrow, truth) + 0.1


def test_a_box_gives_in_around_clicks_that_say_the_opposite() -> None:
    grid = np.indices(SHAPE) - CENTRE.reshape(3, 1, 1, 1)
    before = (1 - (grid**2).sum(0) / 8**2).astype(np.float32)
    low, high = CENTRE[0] - 8, CENTRE[0] + 8
    nothing = np.zeros((0, 3))

    def given_in(on: NDArray[np.float64], off: NDArray[np.float64]) -> NDArray[np.float32]:
        prior = before.copy()
        refine.relax_box_prior(prior, low, high, ((on, True), (off, False)))
        return prior

    beside, corner = np.array([[12.0, 14, 20]]), np.array([[18.0, 20, 22]])  # half way to the border; beyond it
    np.testing.assert_array_equal(given_in(CENTRE, corner), before)  # nothing new
    found = given_in(CENTRE, beside)
    expected = before - 0.75 * np.exp(-((np.indices(SHAPE) - beside.reshape(3, 1, 1, 1)) ** 2).sum(0) / 4**2)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert abs(found[12, 14, 20]) < 1e-6
    found = given_in(corner, nothing)
    assert found[18, 20, 22] == pytest.approx(0, abs=1e-6)
    assert found[12, 14, 16] == pytest.approx(1, abs=0.01)


def test_a_click_beside_the_object_takes_a_twin_away() -> None:
    image, truth = scene()
    twin = ball(3, np.array([[12.0, 14.0, 27.0]]))
    image[twin] = 0.7
    guess = np.where(truth | twin, 1, -1).astype(np.float32)
    found = refine_logits(image, guess, on_object(([12, 14, 27], False)))
    assert found[12, 14, 27] < 0
    assert dice(found > 0, truth) > 0.95


def test_a_flat_image_leaves_a_sure_network_its_mask() -> None:
    guess = np.where(ball(7), 6, -6).astype(np.float32)
    for local in (NOTHING, on_object()):
        assert dice(refine_logits(np.full(SHAPE, 0.5, np.float32), guess, local) > 0, guess > 0) > 0.97


@pytest.mark.parametrize("level", [-6.0, 0.0, 6.0])
@pytest.mark.parametrize("shape", [(16, 16, 16), (2, 16, 40)])
def test_any_logits_and_hints_give_finite_logits(shape: tuple[int, int, int], level: float) -> None:
    image = np.random.default_rng(1).random(shape).astype(np.float32)
    outside = LocalPrompts(np.array([[-4.0, 50, 3], [5, 5, 5], [5, 5, 5]]), np.array([True, True, False]))
    thin = np.array([[1.0, 4, 4], [1.0, 4, 4]])
    for local in (NOTHING, outside, NOTHING._replace(box=thin), outside._replace(box=thin)):
        assert np.isfinite(refine_logits(image, np.full(shape, level, np.float32), local)).all()


def test_axes_are_treated_alike() -> None:
    image, _ = scene(0.1)
    guess = np.random.default_rng(2).normal(size=SHAPE).astype(np.float32)
    local = on_object(([3, 4, 5], False))
    mirrored = LocalPrompts(np.array(SHAPE) - 1 - local.points, local.foreground)
    found = refine_logits(image[::-1, ::-1, ::-1].copy(), guess[::-1, ::-1, ::-1].copy(), mirrored)[::-1, ::-1, ::-1]
    agreement = (found > 0) == (refine_logits(image, guess, local) > 0)
    assert agreement.mean() > 0.999  # sweeps begin at one end of the volume


def test_swept_distances_are_shortest_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against Dijkstra's algorithm: never shorter, and with enough sweeps the same."""
    rng = np.random.default_rng(3)
    smooth = rng.random((5, 6, 7)).astype(np.float32) * 0.3
    inner, outer = np.zeros(smooth.shape, bool), np.zeros(smooth.shape, bool)
    inner[1, 1, 1], outer[4, 5, 6] = True, True
    slope2 = sum(np.square(d.astype(np.float64)) for d in np.gradient(smooth))
    cost = slope2 / float(refine.EDGE) ** 2 + float(refine.FLAT)
    near, far = (_dijkstra(cost, tuple(np.argwhere(seeds)[0])) for seeds in (inner, outer))
    monkeypatch.setattr(refine, "SWEEPS", 20)
    fields = refine.ImageFields(smooth, np.zeros(smooth.shape, np.uint16), refine.geodesic_steps(smooth))
    found = refine.geodesic_score(fields, inner, outer)
    np.testing.assert_allclose(found, (far - near) / (far + near), atol=1e-4)
    assert found[1, 1, 1] == 1
    assert found[4, 5, 6] == -1


def _dijkstra(cost: NDArray[np.float64], seed: tuple[int, ...]) -> NDArray[np.float64]:
    distance = np.full(cost.shape, np.inf)
    waiting = [(0.0, seed)]
    while waiting:
        length, at = heapq.heappop(waiting)
        if length >= distance[at]:
            continue
        distance[at] = length
        for axis in range(3):
            for way in (-1, 1):
                to = tuple(i + way * (a == axis) for a, i in enumerate(at))
                if all(0 <= i < n for i, n in zip(to, cost.shape, strict=True)):
                    heapq.heappush(waiting, (length + (cost[at] + cost[to]) / 2, to))
    return distance


@pytest.mark.slow
def test_the_tiny_bundle_gains_from_it_on_volumes_that_no_network_saw() -> None:
    scores: dict[bool, list[float]] = {True: [], False: []}
    for wanted, found in scores.items():
        with gstk.open("tiny", threads=2, refine=wanted) as session:
            for seed, kind in ((100, "organs"), (101, "nuclei"), (102, "cells")):
                case = phantom_case(seed, 48, kind, 1)
                assert case.labels is not None
                where = np.argwhere(case.labels)
                boxes = {1: ObjectPrompts(box=Box.from_corners((where.min(0).tolist(), where.max(0).tolist())))}
                made = click_by_click(session, case.image, case.geometry.spacing_mm, case.labels, 2, start=boxes)
                assert made.start is not None
                found.append(float(np.mean([*made.start, *made.means])))
    assert np.mean(scores[True]) > np.mean(scores[False]) + 0.03


def test_where_a_coarse_window_is_refined_on_a_finer_grid() -> None:
    unit = Geometry((200, 200, 200), (1.0, 1.0, 1.0))
    window = Window((10, 10, 10), (2, 2, 2), (64, 64, 64))
    assert fine_part(unit, window, NOTHING) == ([0, 0, 0], [64, 64, 64], 2)
    box = np.array([[20.0, 20, 20], [30, 30, 40]])  # its middle ± 1.5 halves, and 2 voxels more
    assert fine_part(unit, window, NOTHING._replace(box=box)) == ([15, 15, 13], [36, 36, 48], 2)
    said = LocalPrompts(np.array([[50.0, 25, 25], [25, 60, 25]]), np.array([True, False]), box)
    assert fine_part(unit, window, said) == ([15, 15, 13], [53, 36, 48], 2)
    # Up to the volume's finest spacing, and not beyond: a thick slice asks for no more than the others.
    thick = Geometry((40, 200, 200), (5.0, 1.0, 1.0))
    assert fine_part(thick, Window((0, 0, 0), (0.6, 3, 3), (64, 64, 64)), NOTHING._replace(box=box))[2] == 3
    assert fine_part(thick, Window((0, 0, 0), (0.2, 1, 1), (64, 64, 64)), NOTHING)[2] == 1
    # As memory and time allow.
    assert fine_part(unit, Window((0, 0, 0), (3, 3, 3), (64, 64, 64)), NOTHING)[2] == 2
    assert fine_part(unit, Window((0, 0, 0), (3, 3, 3), (96, 96, 96)), NOTHING) == ([0, 0, 0], [96, 96, 96], 1)


def large_truth() -> NDArray[np.bool_]:
    grid = np.indices((90, 100, 100)) - np.array([45.0, 50, 50]).reshape(3, 1, 1, 1)
    angle = np.arctan2(grid[1], grid[2]) * 12 + grid[0] / 2
    return np.asarray(np.sqrt((grid**2).sum(0)) < 34 + 2.5 * np.sin(angle))


def hints_of(window: Window) -> LocalPrompts:
    """Of the box in `large_object`."""
    where = np.argwhere(large_truth())
    faces = np.array([where.min(0), where.max(0) + 1]) - 0.5
    return NOTHING._replace(box=window.to_window(faces).astype(np.float64))


def large_object(
    monkeypatch: pytest.MonkeyPatch, finer: int, refined: bool = True, **options: Any
) -> tuple[float, Session]:
    """Dice of a box on an object with a wavy border, many voxels of the volume to one of the window."""
    truth = large_truth()
    extra = ImageGuidance() if refined else None
    image = np.where(truth, 180, 60) + np.random.default_rng(0).normal(0, 4, truth.shape)
    session = Session(FloodEngine(), POLICY, extra, **options)  # type: ignore[arg-type]
    session.set_image(image.astype(np.uint8))
    where = np.argwhere(truth)
    with monkeypatch.context() as patch:
        patch.setattr(refine, "MOST_FINER", finer)
        session.add_box(Box.from_corners((where.min(0).tolist(), where.max(0).tolist())))
    return dice(session.mask > 0, truth), session


@pytest.mark.parametrize("boxed", [False, True])
def test_fields_that_are_kept_change_nothing(boxed: bool) -> None:
    image, truth = scene()
    guess = np.where(truth, 2, -2).astype(np.float32)
    faces = np.array([[4.0, 6.0, 8.0], [20.0, 22.0, 24.0]]) if boxed else None
    kept = refine.ImageFields.of(image)
    clicks: list[tuple[list[float], bool]] = []
    for click in (([12.0, 14.0, 27.0], False), ([5.0, 14.0, 16.0], True), ([12.0, 3.0, 16.0], False)):
        clicks.append(click)
        local = on_object(*clicks, box=faces)
        np.testing.assert_array_equal(refine_logits(image, guess, local, kept), refine_logits(image, guess, local))


def test_fields_of_an_image_go_with_it() -> None:
    image, _ = scene()
    guidance = ImageGuidance()
    session = Session(FloodEngine(), POLICY, guidance)  # type: ignore[arg-type]
    session.set_image((255 * image).astype(np.uint8))
    session.add_point((12, 14, 16))
    session.add_point((12, 14, 18))
    assert len(guidance._fields) == 1
    session.set_image((255 * image).astype(np.uint8))
    assert guidance._fields == {}


def test_borders_of_large_objects_are_found_at_the_volumes_resolution(monkeypatch: pytest.MonkeyPatch) -> None:
    coarse, session = large_object(monkeypatch, 1)
    fine, same = large_object(monkeypatch, 3)
    assert session.window(1) == same.window(1)  # what the network sees is not changed
    assert min(same.window(1).step) > 2  # type: ignore[union-attr]
    assert fine > coarse + 0.02
    assert fine > 0.97


def test_without_time_for_it_borders_stay_coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    coarse, _ = large_object(monkeypatch, 1)
    limits: dict[str, Any] = {"model": a_model(0.01, 0.001), "budget": Budget(60)}
    fine, session = large_object(monkeypatch, 3, **limits)
    assert session.report.compromises == ()
    # Expected are the finer grid's refinement, and a second decode with points of the refined mask.
    _, plain = large_object(monkeypatch, 3, refined=False, **limits)
    window = session.window(1)
    assert window is not None
    with monkeypatch.context() as patch:
        patch.setattr(refine, "MOST_FINER", 3)
        grid = window.part(*fine_part(Geometry((90, 100, 100), (1.0, 1.0, 1.0)), window, hints_of(window)))
    more_s = session.report.expected_s - plain.report.expected_s
    second_window_s = costs.REFINE_S_PER_VOXEL * np.prod(window.shape) + limits["model"].decode_s(window.shape)
    assert more_s == pytest.approx(costs.REFINE_S_PER_VOXEL * np.prod(grid.shape) + second_window_s)
    monkeypatch.setattr(image_guidance, "REFINE_S_PER_VOXEL", 1.0)
    late, session = large_object(monkeypatch, 3, **limits)
    assert session.report.compromises == (MORE_POINTS, FINE_BORDERS)
    assert (late, fine > coarse) == (coarse, True)
