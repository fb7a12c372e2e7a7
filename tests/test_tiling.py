"""Chains of windows: what they cover, how their answers become one, and what clicks in them cost."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from flood import FloodEngine, SlowEngine
from hypothesis import given, settings
from hypothesis import strategies as st
from latency import a_model
from numpy.typing import NDArray

from gstk.core.geometry import Geometry
from gstk.core.prompts import Box, ObjectPrompts, Point
from gstk.core.window import Window, WindowPolicy, frame
from gstk.session import tiling as chain
from gstk.session.planner import make_plan
from gstk.session.session import Session
from gstk.session.tiling import MOST_PARTS, RAMP, blend, links_of, parts_of, solid

VOLUME = (300, 100, 100)
POLICY = WindowPolicy(max_voxels=40**3, multiple=8, min_side=16)


def a_window(rng: np.random.Generator, shape: tuple[int, int, int]) -> Window:
    step = rng.uniform(0.5, 3)
    start = rng.uniform(-20, np.array(shape) - 10)
    return Window(tuple(start.tolist()), (step,) * 3, tuple((rng.integers(1, 4, 3) * 8).tolist()))


@given(seed=st.integers(0, 10**6), count=st.integers(0, 6), level=st.floats(-50, 50, allow_subnormal=False, width=32))
@settings(max_examples=80, deadline=None)
def test_constant_answers_blend_into_that_constant(seed: int, count: int, level: float) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(8, 50, 3))
    grid = Window((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), shape) if seed % 2 else a_window(rng, shape)
    answers = [
        (window, np.full(window.shape, level, np.float32)) for window in (a_window(rng, shape) for _ in range(count))
    ]
    found = blend(grid, shape, np.full(grid.shape, level, np.float32), answers)
    assert found.dtype == np.float32
    assert found.shape == grid.shape
    np.testing.assert_allclose(found, level, rtol=2e-6)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_answers_that_differ_blend_without_seams(seed: int) -> None:
    """From voxel to voxel the result changes no more than ramps of that length allow."""
    rng = np.random.default_rng(seed)
    shape = (48, 40, 44)
    windows = [a_window(rng, shape) for _ in range(3)]
    levels = rng.uniform(-1, 1, 4).astype(np.float32)
    answers = [(w, np.full(w.shape, v, np.float32)) for w, v in zip(windows, levels, strict=False)]
    found = blend(Window((0, 0, 0), (1, 1, 1), shape), shape, np.full(shape, levels[3]), answers)
    assert levels.min() - 1e-5 <= found.min()
    assert found.max() <= levels.max() + 1e-5
    steepest = sum(1 / (RAMP * min(np.array(w.step) * w.shape)) for w in windows)
    for axis in range(3):
        assert np.abs(np.diff(found, axis=axis)).max() <= 2 * np.ptp(levels) * steepest + 1e-5


def test_a_window_fades_out_inside_the_volume_and_not_at_its_ends() -> None:
    shape = (20, 20, 40)
    window = Window((-2.0, 0.0, 0.0), (1.0, 1.0, 1.0), (24, 20, 24))  # ends inside along x alone
    found = blend(
        Window((0, 0, 0), (1, 1, 1), shape),
        shape,
        np.zeros(shape, np.float32),
        [(window, np.ones((24, 20, 24), np.float32))],
    )
    assert (found[..., : int(24 * (1 - RAMP))] == 1).all()
    assert (found[..., 24:] == 0).all()
    assert found[..., 23].max() < 0.2
    assert (np.diff(found, axis=-1) <= 0).all()


def bent_tube(radius: float = 5.0) -> NDArray[np.bool_]:
    z, y, x = np.indices(VOLUME)
    middle = 50 + 24 * np.sin(z / 60)
    return (y - middle) ** 2 + (x - 100 + middle) ** 2 <= radius**2


def tube_image() -> NDArray[np.uint8]:
    return np.where(bent_tube(), 200, 20).astype(np.uint8)


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def cells_of(mask: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    low = np.argwhere(mask).astype(np.float64)
    return low, low + 1


def test_a_long_object_is_covered_by_a_few_finer_windows() -> None:
    geometry = Geometry(VOLUME, (1.0, 1.0, 1.0))
    cells = cells_of(bent_tube())
    whole = frame(geometry, cells[0].min(axis=0), cells[1].max(axis=0), POLICY)
    parts = parts_of(geometry, cells, POLICY, whole.side_mm(geometry))
    assert 2 <= len(parts) <= MOST_PARTS
    assert sorted(np.concatenate([part.cells for part in parts]).tolist()) == list(range(len(cells[0])))
    for part in parts:
        assert part.window.holds(cells[0][part.cells]).all()
        assert np.prod(part.window.shape) <= POLICY.max_voxels
        assert part.window.side_mm(geometry) * chain.FINER <= whole.side_mm(geometry)
        assert part.window.side_mm(geometry) >= 0.97


def test_a_compact_object_has_no_chain() -> None:
    geometry = Geometry((100, 100, 100), (1.0, 1.0, 1.0))
    ball = ((np.indices((100, 100, 100)) - 50) ** 2).sum(axis=0) < 40**2
    low, high = np.array([10.0] * 3), np.array([91.0] * 3)
    side_mm = frame(geometry, low, high, POLICY).side_mm(geometry)
    assert parts_of(geometry, cells_of(ball), POLICY, side_mm) == []
    assert parts_of(geometry, solid(low, high), POLICY, side_mm) == []


def test_what_one_window_shows_well_enough_has_no_chain() -> None:
    """A thick object, and one that fills a scan of few slices: it is not thin because the scan ends."""
    for shape, radius in (((300, 100, 100), 20.0), ((12, 300, 300), 90.0)):
        geometry = Geometry(shape, (1.0, 1.0, 1.0))
        away = np.indices(shape)[1:] - np.array(shape[1:])[:, None, None, None] / 2
        whole = frame(geometry, np.zeros(3), np.array(shape, float), POLICY)
        inside = ((away**2).sum(axis=0) <= radius**2).astype(np.uint8)
        logits = whole.sample(inside, 0, 1) - np.float32(0.5)
        assert links_of(geometry, whole, logits, ObjectPrompts(), POLICY) == []


def test_clicks_that_lie_far_apart_have_windows_of_their_own() -> None:
    geometry = Geometry((300, 300, 300), (1.0, 1.0, 1.0))
    clicks = np.array([(20.0, 30.0, 40.0), (280.0, 270.0, 250.0), (20.0, 40.0, 45.0)])
    side_mm = frame(geometry, clicks.min(axis=0), clicks.max(axis=0) + 1, POLICY).side_mm(geometry)
    parts = parts_of(geometry, (clicks, clicks + 1), POLICY, side_mm)
    assert [part.cells.tolist() for part in parts] == [[0, 2], [1]]
    assert all(part.window.side_mm(geometry) < 1.5 for part in parts)


def test_a_part_without_a_click_is_prompted_from_the_middle_of_the_coarse_mask() -> None:
    geometry = Geometry(VOLUME, (1.0, 1.0, 1.0))
    tube = bent_tube()
    whole = frame(geometry, np.zeros(3), np.array(VOLUME, float), POLICY)
    logits = whole.sample(tube.astype(np.uint8), 0, 1) - np.float32(0.5)
    click = Point(tuple(np.argwhere(tube)[0].tolist()))
    prompts = ObjectPrompts((click, Point((159, 0, 0), False)))
    links = links_of(geometry, whole, logits, prompts, POLICY)
    assert len(links) > 1
    for link in links:
        coords, labels = link.points(prompts, geometry)
        own = [p.foreground for p in prompts.points if link.window.holds(np.array(p.zyx, float))]
        seeds = coords[: len(coords) - len(own)]
        assert 2 <= len(seeds) <= chain.SEEDS
        assert labels.tolist() == [1] * len(seeds) + own
        assert all(tube[tuple(np.rint(seed).astype(int))] for seed in seeds)
        assert link.window.holds(seeds).all()
        z, y, x = np.rint(seeds[0]).astype(int).tolist()
        denied = ObjectPrompts((click, Point((z, y, x), False)))
        after = link.points(denied, geometry)[0]
        assert not (after[:-1] == seeds[0]).all(axis=1).any()  # a click beside the object takes a seed back


@pytest.fixture
def engine() -> FloodEngine:
    return FloodEngine()


@pytest.fixture
def session(engine: FloodEngine) -> Session:
    return Session(engine, POLICY)  # type: ignore[arg-type]


BOX = Box.from_corners(
    tuple((np.argwhere(bent_tube()).min(axis=0).tolist(), np.argwhere(bent_tube()).max(axis=0).tolist()))
)
ON = tuple(int(i) for i in np.argwhere(bent_tube())[3000])


def test_a_chain_is_finer_than_one_window(
    session: Session, engine: FloodEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tube = bent_tube()
    session.set_image(tube_image())
    session.set_prompts(ObjectPrompts((Point(ON),)))
    with_chain, window = dice(session.mask == 1, tube), session.window()
    assert session.report.encodes == len(engine.shapes) > 3
    monkeypatch.setattr(chain, "MOST_PARTS", 1)
    session.set_image(tube_image())
    session.set_prompts(ObjectPrompts((Point(ON),)))
    assert session.window() == window  # of the whole
    assert with_chain > 0.9
    assert with_chain > dice(session.mask == 1, tube) + 0.03


def test_a_click_in_a_chain_costs_a_decode_where_it_is(session: Session, engine: FloodEngine) -> None:
    session.set_image(tube_image())
    session.add_point(ON)
    before = session.mask.copy()
    z, y, x = np.argwhere(bent_tube())[-2000].tolist()
    changed = session.add_point((z, y, x), foreground=False)
    assert session.report.encodes == 0
    assert 1 <= session.report.decodes <= 2
    assert session.mask[z, y, x] == 0
    where = np.argwhere(session.mask != before)
    assert len(where) > 0
    assert (where >= [axis.start for axis in changed]).all()
    assert (where < [axis.stop for axis in changed]).all()
    assert np.abs(where[:, 0] - z).max() < 70
    session.undo()
    np.testing.assert_array_equal(session.mask, before)
    session.add_point((z, y, x), foreground=False)
    assert session.report.encodes == 0


def test_prompts_at_once_equal_one_after_the_other(session: Session) -> None:
    session.set_image(tube_image())
    far = Point(tuple(np.argwhere(bent_tube())[-2000].tolist()))
    session.add_box(BOX)
    session.add_point(ON)
    session.add_point(far.zyx)
    one_by_one = session.mask.copy()
    session.reset()
    session.set_prompts(ObjectPrompts((Point(ON), far), BOX))
    np.testing.assert_array_equal(session.mask, one_by_one)


def test_a_mask_that_was_forgotten_for_want_of_memory_comes_back(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gstk.session.state._HISTORY_BYTES", 0)
    session.set_image(tube_image())
    session.add_point(ON)
    before = session.mask.copy()
    session.add_point(tuple(np.argwhere(bent_tube())[-2000].tolist()), foreground=False)
    session.undo()
    np.testing.assert_array_equal(session.mask, before)


def test_links_that_there_is_no_time_for_are_left_out(session: Session) -> None:
    session.set_image(tube_image())
    session.add_point(ON)
    whole = session.report.encodes
    model = a_model(encode=0.01, decode=0.01)
    factors = itertools.chain([0.001] * 2 * (whole - 1), itertools.repeat(1e9))  # the last link never ends
    with Session(SlowEngine(model, factors), POLICY, model=model) as slow:  # type: ignore[arg-type]
        slow.set_image(tube_image())
        slow.set_all({1: ObjectPrompts((Point(ON),))}, within_s=4)
        assert "finer windows along the object" in slow.report.compromises
        assert slow.report.decodes == whole - 1
        assert dice(slow.mask == 1, bent_tube()) > 0.5


def test_a_plan_counts_a_chain_or_says_that_it_is_given_up() -> None:
    geometry = Geometry(VOLUME, (1.0, 1.0, 1.0))
    thin = Box.from_corners(((0, 45, 45), (299, 55, 55)))
    prompts = {4: ObjectPrompts((Point((9, 50, 50)),), thin), 5: ObjectPrompts((Point((3, 3, 3)),))}
    model = a_model()
    plan = make_plan(geometry, prompts, POLICY, model)
    bare = sum(planned.encode_s + planned.decode_s for planned in plan.windows) + plan.second_window_s
    assert {planned.objects for planned in plan.chains} == {(4,)}
    assert plan.expected_s == pytest.approx(bare + sum(planned.encode_s + planned.decode_s for planned in plan.chains))
    assert plan.unchained == ()
    enough = make_plan(geometry, prompts, POLICY, model, budget_s=10 * plan.expected_s)
    assert len(enough.chains) == len(plan.chains)
    short = make_plan(geometry, prompts, POLICY, model, budget_s=bare * 1.5)
    assert short.chains == ()
    assert short.unchained == (4,)
    assert any("finer windows along object 4" in note for note in short.compromises)
