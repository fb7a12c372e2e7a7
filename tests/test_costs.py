"""Costs: defaults until something is measured, and sums that can be checked by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from latency import a_model

from gstk.core.geometry import Geometry
from gstk.core.network_image import NetworkImage
from gstk.core.profile import find_profile
from gstk.core.prompts import Box, ObjectPrompts, Point
from gstk.core.volume import Volume
from gstk.core.window import Window, WindowPolicy
from gstk.session.costs import NEAREST_S_PER_VOXEL, RESAMPLE_S_PER_VOXEL, Costs, Rate, WindowCost, window_cost
from gstk.session.extras.image_guidance import ImageGuidance
from gstk.session.state import ImageState, ObjectState

SHAPE = (32, 32, 32)
WINDOW = Window((0, 0, 0), (1, 1, 1), SHAPE)
REGION = (slice(2, 12), slice(0, 20), slice(5, 10))  # 1000 voxels
BOXED = ObjectPrompts(box=Box.from_corners(((4, 4, 4), (13, 13, 13))))  # 1000 voxels


def an_image() -> ImageState:
    policy = WindowPolicy(max_voxels=32**3, multiple=8, min_side=16)
    volume = Volume(np.zeros((40, 40, 40), np.uint8), Geometry((40, 40, 40), (1, 1, 1)))
    return ImageState(NetworkImage.prepare(volume, find_profile("tiny")), policy)


def test_a_rate_is_a_default_until_enough_was_measured() -> None:
    rate = Rate(2e-7)
    assert rate.seconds(1e6) == pytest.approx(0.2)
    rate.measured(1000, 5.0)
    assert rate.seconds(1e6) == pytest.approx(0.2)
    rate.measured(10**6, 3.0)
    assert rate.seconds(1e6) == pytest.approx(3.0)


def test_what_a_window_costs() -> None:
    model = a_model()
    assert window_cost(None, SHAPE, [1, 2], first=True, slowdown=3) == WindowCost(0, 0, 0, 0)
    cost = window_cost(model, SHAPE, [1, 2], first=False, slowdown=3)
    assert cost.encode_s == pytest.approx(3 * model.encode_s(SHAPE))
    assert cost.decode_s == pytest.approx(3 * (model.decode_s(SHAPE, 1, 1) + model.decode_s(SHAPE, 1, 2)))
    assert cost.p95_s > cost.encode_s + cost.decode_s
    assert cost.peak_bytes == model.peak_bytes(SHAPE)
    assert window_cost(model, SHAPE, [1], first=True, slowdown=1).encode_s == model.encode_s(SHAPE, first=True)


def test_an_embedding_costs_no_encode_and_further_clicks_a_decode_and_their_way_to_the_volume() -> None:
    costs = Costs(a_model())
    decode_s = costs.decode_s(SHAPE, cautious=True)
    assert costs.answer_s(WINDOW, is_encoded=True) == decode_s
    assert costs.answer_s(WINDOW, is_encoded=False) == decode_s + costs.encode_s(SHAPE, cautious=True)
    assert costs.clicks_s(ObjectState(), 3) == 0
    assert costs.clicks_s(ObjectState(window=WINDOW), 3) == pytest.approx(3 * decode_s)
    state = ObjectState(window=WINDOW, region=REGION)
    assert costs.clicks_s(state, 3) == pytest.approx(3 * (decode_s + 1000 * RESAMPLE_S_PER_VOXEL))
    assert costs.nearest_s(REGION) == pytest.approx(1000 * NEAREST_S_PER_VOXEL)


def test_the_latest_calls_correct_the_model_and_the_first_of_a_shape_is_dearer() -> None:
    model = a_model()
    costs = Costs(model)
    assert costs.encode_s(SHAPE) == model.encode_s(SHAPE, first=True)
    costs.ran("encode", SHAPE, 0.1 * model.encode_s(SHAPE, first=True))
    assert costs.slowdown == 1  # quicker than the model says is no reason to trust it less
    assert costs.encode_s(SHAPE) == model.encode_s(SHAPE)
    for _ in range(4):
        costs.ran("encode", SHAPE, 5 * model.encode_s(SHAPE))
    assert costs.slowdown == pytest.approx(5)
    assert costs.encode_s(SHAPE) == pytest.approx(5 * model.encode_s(SHAPE))


def test_an_update_is_expected_to_take_what_its_steps_do() -> None:
    image, costs = an_image(), Costs(a_model())
    decode_s = costs.decode_s(SHAPE)
    resample_s = 1000 * RESAMPLE_S_PER_VOXEL
    clicked = dataclasses.replace(BOXED, points=(Point((8, 8, 8)),))
    new = ObjectState()
    assert Costs().update_s(image, new, clicked, WINDOW, False, None) == 0
    assert costs.update_s(image, new, clicked, None, False, None) == 0
    assert costs.update_s(image, new, clicked, WINDOW, False, None) == pytest.approx(2 * (decode_s + resample_s))
    assert costs.update_s(image, new, clicked, WINDOW, True, None) == pytest.approx(2 * resample_s)
    boxed = ObjectState(BOXED, WINDOW, REGION, np.zeros((10, 20, 5), np.float32))
    assert costs.update_s(image, boxed, clicked, WINDOW, False, None) == pytest.approx(decode_s + resample_s)
    assert costs.update_s(image, boxed, BOXED, WINDOW, False, None) == 0
    extra = ImageGuidance()
    refine_s, points_s = (extra.seconds(step, image.geometry, WINDOW, BOXED) for step in ("refine", "more_points"))  # type: ignore[arg-type]
    more_s = costs.update_s(image, boxed, clicked, WINDOW, False, extra) - (decode_s + resample_s)
    assert more_s == pytest.approx(refine_s + points_s + decode_s)


def test_a_call_keeps_time_for_what_comes_after_its_objects() -> None:
    assert not Costs.deadline(None, 10**9).is_set
    assert Costs.deadline(100, 10**6).left_s == pytest.approx(100 - 2 - 0.015, abs=0.1)
    assert Costs.deadline(10, 10**12).left_s == pytest.approx(5, abs=0.1)  # half is for the objects at least
