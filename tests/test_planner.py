"""The planner: finest windows inside time and memory, shared where that costs nothing, and said in words."""

from __future__ import annotations

import dataclasses
import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from latency import a_model

from gstk.core.geometry import Geometry
from gstk.core.prompts import Box, ObjectPrompts, Point
from gstk.core.window import WindowPolicy
from gstk.errors import OutOfMemory
from gstk.session.planner import MEMORY_SHARE, Plan, format_ids, initial_prompts, make_plan, window_sizes

POLICY = WindowPolicy(max_voxels=96**3, multiple=16, min_side=32)


def click(*zyx: int) -> ObjectPrompts:
    return ObjectPrompts((Point(zyx, True),))  # type: ignore[arg-type]


def quality(plan: Plan, geometry: Geometry) -> float:
    """Logarithm of voxels along a window's side, less that of their length, the mean over objects."""
    sides = [
        np.prod(np.array(window.step) * geometry.spacing_mm) ** (1 / 3) for window in plan.window_by_object.values()
    ]
    return float(np.log(plan.policy.max_voxels ** (1 / 3)) - np.mean(np.log(sides)))


def test_without_limits_each_object_has_the_window_that_suits_it() -> None:
    geometry = Geometry((100, 400, 400), (2.5, 1.0, 1.0))
    plan = make_plan(geometry, {2: click(50, 100, 100), 1: click(50, 300, 300)}, POLICY)
    assert [planned.objects for planned in plan.windows] == [(1,), (2,)]
    assert plan.compromises == ()
    assert plan.policy == POLICY
    assert plan.expected_s == plan.peak_bytes == 0
    for planned in plan.windows:
        assert all(n % 16 == 0 and n >= 32 for n in planned.window.shape)
        steps_mm = np.array(planned.window.step) * geometry.spacing_mm
        assert steps_mm.max() / steps_mm.min() < 1.1


def test_neighbours_share_a_window_where_time_is_short() -> None:
    geometry = Geometry((200, 200, 200), (1.0, 1.0, 1.0))
    corners = {k: ((90, 90 + k, 90), (110, 130, 128 + k)) for k in (1, 2, 3)}
    near = {k: ObjectPrompts(box=Box.from_corners(c)) for k, c in corners.items()}
    prompts = near | {9: click(30, 30, 30)}
    assert len(make_plan(geometry, prompts, POLICY, a_model(), budget_s=100).windows) == 4
    plan = make_plan(geometry, prompts, POLICY, a_model(), budget_s=22)
    assert [planned.objects for planned in plan.windows] == [(1, 2, 3), (9,)]
    assert plan.compromises == ("a window for each of the objects 1-3: they share one",)
    for k in near:
        assert plan.window_by_object[k].holds(np.array(corners[k], float)).all()


def test_the_first_look_goes_by_what_was_said_first() -> None:
    """So that a mask is the same whether prompts came at once or one after the other."""
    geometry = Geometry((200, 200, 200), (1.0, 1.0, 1.0))
    box = Box.from_corners(((20, 20, 20), (60, 60, 60)))
    far = Point((180, 180, 180), True)
    assert initial_prompts(ObjectPrompts((far,), box)) == ObjectPrompts(box=box)
    beside = Point((1, 1, 1), False)
    assert initial_prompts(ObjectPrompts((beside, Point((5, 5, 5), True), far))).points == (
        beside,
        Point((5, 5, 5), True),
    )
    alone, more = (make_plan(geometry, {1: ObjectPrompts(p, box)}, POLICY).window_by_object[1] for p in ((), (far,)))
    assert alone == more
    assert not more.holds(np.array(far.zyx, float)).all()
    assert make_plan(geometry, {1: ObjectPrompts((far,), box)}, POLICY, once=True).window_by_object[1].holds(
        np.array(far.zyx, float)
    ).all()  # fmt: skip


def test_what_says_nothing_of_a_place_is_left_out() -> None:
    geometry = Geometry((64, 64, 64), (1.0, 1.0, 1.0))
    beside = ObjectPrompts((Point((1, 2, 3), False),))
    assert make_plan(geometry, {1: beside, 2: ObjectPrompts()}, POLICY, a_model(), budget_s=1.0).windows == ()


@given(
    budget_s=st.floats(0.05, 100),
    count=st.integers(1, 6),
    seed=st.integers(0, 1000),
    boxed=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_a_plan_fits_or_says_that_it_cannot(budget_s: float, count: int, seed: int, boxed: bool) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(20, 300, 3))
    geometry = Geometry(shape, tuple(rng.uniform(0.3, 5, 3)))  # type: ignore[arg-type]
    prompts = {}
    for k in range(1, count + 1):
        corners = np.sort(rng.integers(0, shape, (2, 3)), axis=0)
        inside = click(*(int(i) for i in corners[0]))
        prompts[k] = ObjectPrompts(inside.points, Box.from_corners(corners.tolist())) if boxed else inside
    model = a_model()
    plan = make_plan(geometry, prompts, POLICY, model, budget_s=budget_s)
    assert plan == make_plan(geometry, prompts, POLICY, model, budget_s=budget_s)
    assert sorted(k for planned in plan.windows for k in planned.objects) == sorted(prompts)
    for k, said in prompts.items():
        assert (
            plan.window_by_object[k].holds(np.array([p.zyx for p in initial_prompts(said).points]).reshape(-1, 3)).all()
        )
    if 2 * plan.p95_s > budget_s:
        assert plan.compromises
        least = make_plan(geometry, prompts, dataclasses.replace(POLICY, max_voxels=32**3), model, budget_s=1e-9)
        assert plan.p95_s <= least.p95_s * 1.001
    assert plan.p95_s >= sum(planned.cost.encode_s + planned.cost.decode_s for planned in plan.windows)
    freer = make_plan(geometry, prompts, POLICY, model, budget_s=4 * budget_s)
    if 2 * plan.p95_s <= budget_s and freer.compromises:  # own windows are preferred even where sharing is as fine
        assert quality(freer, geometry) >= quality(plan, geometry) - 1e-9


def test_more_time_gives_finer_windows_and_less_is_said_in_words() -> None:
    geometry = Geometry((300, 300, 300), (1.0, 1.0, 1.0))
    prompts = {k: click(40 * k, 40 * k, 40 * k) for k in (1, 2, 3, 4, 5)}
    plans = [make_plan(geometry, prompts, POLICY, a_model(), budget_s=s) for s in (100.0, 20.0, 4.0, 0.01)]
    found = [quality(plan, geometry) for plan in plans]
    assert found == sorted(found, reverse=True)
    assert plans[0].compromises == ()
    assert "windows of 884736 voxels" in plans[1].compromises[0]
    assert "half of 20 s" in plans[1].compromises[0]
    assert any("share one" in line for line in plans[3].compromises)
    assert "each mask comes from the network" in plans[3].compromises[-1]


def test_memory_limits_windows_too() -> None:
    geometry = Geometry((300, 300, 300), (1.0, 1.0, 1.0))
    model = a_model()
    plan = make_plan(geometry, {1: click(9, 9, 9)}, POLICY, model, memory_bytes=10**9)
    assert plan.peak_bytes <= MEMORY_SHARE * 10**9
    assert "GB that are free" in plan.compromises[0]


def test_a_slow_host_plans_for_less() -> None:
    geometry = Geometry((300, 300, 300), (1.0, 1.0, 1.0))
    quick, slow = (make_plan(geometry, {1: click(9, 9, 9)}, POLICY, a_model(), budget_s=12, slowdown=p) for p in (1, 3))
    assert slow.policy.max_voxels < quick.policy.max_voxels
    assert quick.windows[0].window.shape > slow.windows[0].window.shape


def test_one_decode_an_object_leaves_more_for_the_window() -> None:
    geometry = Geometry((300, 300, 300), (1.0, 1.0, 1.0))
    said = ObjectPrompts(tuple(Point((100 + k, 100, 100), True) for k in range(6)))
    each, once = (
        make_plan(geometry, {1: said}, POLICY, a_model(decode=4.0), budget_s=12, once=once) for once in (False, True)
    )
    assert once.policy.max_voxels > each.policy.max_voxels


def test_ids_in_a_row_are_listed_as_a_range() -> None:
    assert format_ids((1, 2, 3, 7, 9, 10, 12, 13, 14, 15)) == "1-3, 7, 9, 10, 12-15"
    assert format_ids((5,)) == "5"


def test_sizes_go_down_to_the_least() -> None:
    found = window_sizes(POLICY)
    assert found[0] == 96**3
    assert found[-1] == 32**3
    assert all(b < a for a, b in itertools.pairwise(found))
    assert window_sizes(WindowPolicy(max_voxels=1000, multiple=16, min_side=32)) == [1000]


def test_a_volume_of_a_billion_voxels_is_planned_from_its_geometry_alone() -> None:
    geometry = Geometry((1024, 1024, 1024), (1.0, 1.0, 1.0))
    box = Box.from_corners(((100, 100, 100), (900, 700, 800)))
    began = time.perf_counter()
    plan = make_plan(geometry, {1: ObjectPrompts(box=box)}, POLICY, a_model(), budget_s=15, memory_bytes=6e9)
    print(f"{1000 * (time.perf_counter() - began):.1f} ms")
    assert plan.peak_bytes < 6e9
    low, high = np.array(plan.windows[0].window.start), np.array(plan.windows[0].window.stop)
    assert (low <= 100).all()
    assert (high >= (901, 701, 801)).all()


@pytest.mark.parametrize("spacing_mm", [(5.0, 0.7, 0.7), (0.3, 3.0, 1.0)])
def test_steps_are_near_isotropic_in_millimetres(spacing_mm: tuple[float, float, float]) -> None:
    geometry = Geometry((80, 300, 300), spacing_mm)
    box = Box.from_corners(((10, 40, 40), (70, 260, 250)))
    window = make_plan(geometry, {1: ObjectPrompts(box=box)}, POLICY).windows[0].window
    steps_mm = np.array(window.step) * spacing_mm
    assert steps_mm.max() / steps_mm.min() < 1.1


def test_a_plan_that_no_memory_holds_is_refused_before_it_runs() -> None:
    geometry, prompts = Geometry((100, 100, 100), (1.0, 1.0, 1.0)), {1: click(50, 50, 50)}
    needed = make_plan(geometry, prompts, POLICY, a_model(), memory_bytes=1.0e9).peak_bytes
    assert 1e7 < needed <= MEMORY_SHARE * 1.0e9
    with pytest.raises(OutOfMemory, match=r"got 0\.01 GB of memory .*, expected .* GB or more, .*; free memory"):
        make_plan(geometry, prompts, POLICY, a_model(), memory_bytes=1e7)
