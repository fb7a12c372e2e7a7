"""Class prompts within a time limit, on a clock of the test's own: windows take the seconds that the test says."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from latency import a_model
from numpy.typing import NDArray

from gstk.core.geometry import Geometry
from gstk.core.network_image import NetworkImage
from gstk.core.profile import find_profile
from gstk.core.volume import Volume
from gstk.session.class_segmenter import ClassSegmenter
from gstk.session.costs import LABEL_S_PER_LOGIT, Costs
from gstk.session.deadline import Deadline, TimeUp
from gstk.session.timed_classes import TimedClasses, class_plans

PROFILE = replace(find_profile("nv-segment-ct"), patch=(16, 16, 16), crop_margin=None)
VECTORS = np.zeros((4, 2), np.float32)
VECTORS[1], VECTORS[3] = (1, -0.5), (-1, 0.2)


@pytest.fixture(autouse=True)
def one_window_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's clock cannot tell the seconds of a window from those of the next one beside it."""
    monkeypatch.setattr("gstk.session.class_segmenter._AHEAD_BYTES", 0)


class Clock:
    """Seconds that pass only where the test lets them."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def deadline(self, seconds: float) -> Deadline:
        clock, end = self, self.seconds + seconds

        class At(Deadline):
            @property
            def left_s(self) -> float:
                return end - clock.seconds

            @property
            def is_set(self) -> bool:
                return True

        return At()


class Network:
    """Features that are the image's own values and one; each window takes `window_s`, and ends at the deadline."""

    def __init__(self, clock: Clock, window_s: float) -> None:
        self.clock, self.window_s, self.windows = clock, window_s, 0

    def __call__(self, image: NDArray[np.float32], deadline: Deadline) -> NDArray[np.float32]:
        if deadline.is_set and self.window_s > deadline.left_s:
            self.clock.seconds += max(0.0, deadline.left_s)
            raise TimeUp("the time is up")
        self.clock.seconds += self.window_s
        self.windows += 1
        return np.stack([image[0, 0], np.ones_like(image[0, 0])])


def an_image(shape: tuple[int, int, int] = (60, 40, 50), spacing: float = 1.5) -> NetworkImage:
    grid = np.indices(shape).astype(float)
    image = 700 * np.sin(grid[0] / 9) * np.cos(grid[1] / 11) + 300 * np.sin(grid[2] / 8)
    geometry = Geometry(shape, (spacing,) * 3)
    return NetworkImage.prepare(Volume(image.astype(np.int16), geometry, "CT", "HU"), PROFILE)


def full(image: NetworkImage, **changes: Any) -> NDArray[np.uint16]:
    network = Network(Clock(), 0)
    image = replace(image, profile=replace(image.profile, **changes))
    return ClassSegmenter(lambda window: network(window, Deadline()), VECTORS, image).segment_grid((1, 3))


@settings(deadline=None, max_examples=25)
@given(st.tuples(*[st.integers(5, 150)] * 3), st.sampled_from([0.7, 1.5, 4.0]))
def test_plans_end_in_one_window(shape: tuple[int, int, int], spacing: float) -> None:
    plans = class_plans(an_image(shape, spacing))
    assert plans[0].coarser == 1
    assert plans[0].overlap == PROFILE.overlap
    assert plans[-1].windows == 1
    assert all(first.windows > second.windows for first, second in pairwise(plans))


def test_enough_time_changes_nothing() -> None:
    image, clock = an_image(), Clock()
    timed = TimedClasses(Network(clock, 1.0), VECTORS, image, now=clock.now)
    labels, compromises = timed.segment_grid(
        (1, 3), deadline=clock.deadline(1.2 * timed.plans[0].windows), window_s=1.0
    )
    assert compromises == ()
    np.testing.assert_array_equal(labels, full(image))


def test_windows_overlap_less_where_there_is_less_time() -> None:
    image, clock = an_image(), Clock()
    network = Network(clock, 1.0)
    timed = TimedClasses(network, VECTORS, image, now=clock.now)
    plan = next(p for p in timed.plans if p.overlap == 0 and p.coarser == 1)
    labels, compromises = timed.segment_grid((1, 3), deadline=clock.deadline(1.15 * plan.windows), window_s=1.0)
    assert network.windows == plan.windows
    assert compromises == (
        f"windows that overlap by 25.0%: they do by 0.0%, {plan.windows} in place of {timed.plans[0].windows}",
    )
    np.testing.assert_array_equal(labels, full(image, overlap=0.0))


@pytest.mark.parametrize("known_s", [1.0, 0.0])
@pytest.mark.parametrize("seconds", [0.5, 3.0, 12.0])
def test_coarser_windows_show_the_whole_volume_in_time(seconds: float, known_s: float) -> None:
    """Whether what a window takes was known before, or is seen at the first."""
    image, clock = an_image(), Clock()
    timed = TimedClasses(Network(clock, 1.0), VECTORS, image, now=clock.now)
    labels, compromises = timed.segment_grid((1, 3), deadline=clock.deadline(seconds), window_s=known_s)
    assert clock.seconds <= max(seconds, 0.0) + 1.0  # a single window is done whatever it takes
    assert "classes at the training's resolution" in compromises[0]
    expected = full(image)
    assert labels.shape == expected.shape
    agreement = float((labels == expected).mean())
    assert agreement > (0.85 if seconds == 12.0 else 0.75)
    for axis in range(3):  # where they are, not beside it
        for shift in (-2, 2):
            assert float((np.roll(labels, shift, axis) == expected).mean()) < agreement
    assert set(np.unique(labels)) == {0, 1, 3}


def test_slower_windows_than_expected_change_the_plan() -> None:
    image, clock = an_image(), Clock()
    network = Network(clock, 5.0)
    timed = TimedClasses(network, VECTORS, image, now=clock.now)
    seconds = 2.0 * timed.plans[0].windows
    _, compromises = timed.segment_grid((1, 3), deadline=clock.deadline(seconds), window_s=1.0)
    assert compromises
    assert clock.seconds <= seconds


def test_kept_features_are_used_again_until_there_is_more_time() -> None:
    image, clock = an_image(), Clock()
    network = Network(clock, 1.0)
    timed = TimedClasses(network, VECTORS, image, 2**30, now=clock.now)
    _, compromises = timed.segment_grid((1,), deadline=clock.deadline(5), window_s=1.0)
    done = network.windows
    assert timed.segment_grid((3,), deadline=clock.deadline(5))[1] == compromises
    assert network.windows == done
    labels, compromises = timed.segment_grid((1, 3))
    assert compromises == ()
    np.testing.assert_array_equal(labels, full(image))
    done = network.windows
    assert timed.segment_grid((3,), deadline=clock.deadline(0.1))[1] == ()
    assert network.windows == done


def test_forecast_is_what_will_be_done() -> None:
    image, clock = an_image(), Clock()
    timed = TimedClasses(Network(clock, 1.0), VECTORS, image, now=clock.now)
    costs = Costs(replace(a_model(), class_load_s=3.0))
    window_s = costs.classes_s(PROFILE.patch, 2)
    assert window_s == pytest.approx(0.01 + 4.0 * 16**3 / 1e6 + 2 * 16**3 * LABEL_S_PER_LOGIT)
    forecast = timed.forecast(costs, 2, Deadline())
    windows = timed.plans[0].windows
    assert (forecast.plan.windows, forecast.compromises) == (windows, ())
    assert forecast.voxel_mm == pytest.approx((1.5, 1.5, 1.5))
    assert forecast.expected_s == pytest.approx(3.0 + windows * window_s)
    short = clock.deadline(3.0 + 0.5 * windows * window_s)
    hurried = timed.forecast(costs, 2, short)
    assert hurried.compromises
    assert hurried.expected_s < short.left_s
    network = Network(clock, window_s)
    again = TimedClasses(network, VECTORS, image, now=clock.now)
    _, compromises = again.segment_grid((1, 3), deadline=short, window_s=window_s, load_s=3.0)
    assert (network.windows, compromises) == (hurried.plan.windows, hurried.compromises)


def test_forecast_after_the_first_class_is_no_window() -> None:
    image, clock = an_image(), Clock()
    timed = TimedClasses(Network(clock, 1.0), VECTORS, image, cache_bytes=2**30, now=clock.now)
    costs = Costs(a_model())
    assert not timed.forecast(costs, 1, Deadline()).is_known
    timed.segment_grid((1,))
    forecast = timed.forecast(costs, 1, clock.deadline(0.01))
    assert (forecast.is_known, forecast.expected_s, forecast.compromises) == (True, 0.0, ())


def test_loading_does_not_count_as_a_slow_machine() -> None:
    costs = Costs(replace(a_model(), class_load_s=5.0))
    usual_s = costs.classes_s(PROFILE.patch, 0)
    costs.ran("classes", PROFILE.patch, 5.0 + usual_s)
    assert (costs.class_load_s, costs.slowdown) == (0.0, 1.0)
    costs.ran("classes", PROFILE.patch, 3 * usual_s)
    assert costs.slowdown == pytest.approx(3.0)
