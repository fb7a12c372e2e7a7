"""The official click rule against a slow one of our own: flood fill, all distances, the global random state."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from gstk.core.click_rule import component_centre, next_click, seeded_choice
from gstk.core.prompts import Point

NEIGHBOURS = [step for step in itertools.product((-1, 0, 1), repeat=3) if any(step)]


def components(mask: np.ndarray) -> list[list[tuple[int, int, int]]]:
    """26-connected components by flood fill, in the order in which a scan meets them."""
    left = {tuple(map(int, voxel)) for voxel in np.argwhere(mask)}
    found = []
    for seed in map(tuple, np.argwhere(mask).tolist()):
        if seed not in left:
            continue
        left.remove(seed)
        part, waiting = [], [seed]
        while waiting:
            voxel = waiting.pop()
            part.append(voxel)
            for step in NEIGHBOURS:
                beside = tuple(a + b for a, b in zip(voxel, step, strict=True))
                if beside in left:
                    left.remove(beside)
                    waiting.append(beside)
        found.append(sorted(part))
    return found


def squared_depth(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Squared distance of each voxel (K, 3) to the nearest of the others (M, 3), in whole numbers."""
    return ((inside[:, None] - outside[None]) ** 2).sum(axis=-1).min(axis=1)


def deepest(part: list[tuple[int, int, int]], cell: int = 1) -> list[tuple[int, int, int]]:
    """Voxels of a component that are farthest from its border, in scan order; `cell` 2 measures on 2x2x2 blocks."""
    voxels = np.array(part)
    low, extent = voxels.min(axis=0), np.ptp(voxels, axis=0) + 1
    pad = np.maximum((extent * 0.25).astype(int), 1)
    cells = (voxels - low + pad) // cell
    size = -(-(extent + 2 * pad) // cell)
    taken = {tuple(c) for c in cells.tolist()}
    empty = np.array([c for c in itertools.product(*map(range, size.tolist())) if c not in taken])
    if cell > 1:
        assume(len(empty) > 0)  # a crumb may touch all blocks around it; what is really measured on blocks never does
    depth = squared_depth(cells, empty)
    return [voxel for voxel, d in zip(part, depth, strict=True) if d == depth.max()]


def official(prediction: np.ndarray, truth: np.ndarray, cell: int = 1) -> Point | None:
    """The rule of the protocol, slowly, drawing from NumPy's global state as the official evaluator does."""
    parts = components(prediction != truth)
    if not parts:
        return None
    sizes = [len(part) for part in parts]
    candidates = deepest(parts[sizes.index(max(sizes))], cell)
    np.random.seed(42)
    chosen = candidates[np.random.choice(len(candidates))]
    return Point(chosen, bool(truth[chosen]))


@st.composite
def masks(draw: st.DrawFn, longest: int = 7, count: int = 2) -> list[np.ndarray]:
    """Masks of one shape, each the union of a few boxes and single voxels."""
    shape = draw(st.tuples(*[st.integers(1, longest)] * 3))
    drawn = []
    for _ in range(count):
        mask = np.zeros(shape, bool)
        for _ in range(draw(st.integers(0, 3))):
            ends = [sorted((draw(st.integers(0, n)), draw(st.integers(0, n)))) for n in shape]
            mask[tuple(slice(a, b) for a, b in ends)] ^= True
        for voxel in draw(st.lists(st.tuples(*[st.integers(0, n - 1) for n in shape]), max_size=6)):
            mask[voxel] ^= True
        drawn.append(mask)
    return drawn


@settings(deadline=None)
@given(masks())
@example([np.zeros((3, 3, 3), bool), np.ones((3, 3, 3), bool)])
def test_the_click_is_the_official_one(pair: list[np.ndarray]) -> None:
    prediction, truth = pair
    before = prediction.copy(), truth.copy()
    click = next_click(prediction, truth)
    assert click == official(prediction, truth)
    np.testing.assert_array_equal((prediction, truth), before)
    if click is not None:
        assert prediction[click.zyx] != truth[click.zyx]
        assert click.foreground == truth[click.zyx]
        assert all(type(n) is int for n in click.zyx)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.97])
def test_noise_gives_the_official_click(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    prediction, truth = rng.random((2, 8, 9, 10)) < [[[[share]]], [[[0.01]]]]
    assert next_click(prediction, truth) == official(prediction, truth)


@settings(deadline=None, max_examples=40)
@given(masks(longest=12, count=1))
def test_large_components_are_measured_on_blocks(drawn: list[np.ndarray]) -> None:
    mask = np.zeros((14, 14, 14), bool)
    mask[tuple(slice(1, 1 + n) for n in drawn[0].shape)] = drawn[0]
    mask[1, 1, 1:13] = True  # mostly part of it, and long enough for the padding to leave whole blocks empty
    truth = np.zeros_like(mask)
    assert next_click(mask, truth, max_edt_voxels=0) == official(mask, truth, cell=2)


@pytest.mark.parametrize("radii", [(9, 9, 9), (6, 10, 13), (13, 7, 8)])
@pytest.mark.parametrize("shift", [(0, 0, 0), (1, 0, 1)])
def test_blocks_find_nearly_the_same_centre(radii: tuple[int, int, int], shift: tuple[int, int, int]) -> None:
    centre = np.array((14, 14, 14)) + shift
    grid = np.stack(np.meshgrid(*[np.arange(30)] * 3, indexing="ij"), -1)
    ball = (((grid - centre) / radii) ** 2).sum(axis=-1) <= 1
    exact = component_centre(ball)
    coarse = component_centre(ball, max_edt_voxels=1000)
    assert ball[coarse]
    # Both are about the deepest voxel: no farther from it than a block reaches, along an axis where depth changes.
    depths = squared_depth(np.array([exact, coarse]), np.argwhere(~ball)) ** 0.5
    assert depths[0] - depths[1] <= 2


@pytest.mark.parametrize("radii", [(1, 5, 5), (4, 9, 14), (13, 14, 14), (14, 15, 15), (30, 31, 20)])
def test_the_centre_is_where_the_distance_to_the_border_is_largest(radii: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(sum(radii))
    grid = np.stack(np.meshgrid(*[np.arange(-r - 1, r + 2) for r in radii], indexing="ij"), -1)
    shell = ((grid / radii) ** 2).sum(axis=-1) <= 1
    shell &= rng.random(shell.shape) < rng.choice([0.9999, 1.0])
    shell[: radii[0]] &= rng.random(shell[: radii[0]].shape) < 0.98
    depth = ndimage.distance_transform_edt(np.pad(shell, 1))[1:-1, 1:-1, 1:-1]
    deepest = np.argwhere(depth == depth.max())
    assert component_centre(shell, lambda count: count - 1) == tuple(deepest[-1])
    assert component_centre(shell) == tuple(deepest[seeded_choice(len(deepest))])


def test_both_sides_of_the_limit() -> None:
    mask = np.zeros((10, 10, 10), bool)
    mask[1:9, 1:9, 1:9] = True  # padded by 2 on each side: 12³ voxels
    exact, coarse = (component_centre(mask, lambda count: 0, limit) for limit in (12**3, 12**3 - 1))
    assert exact == (4, 4, 4)
    assert coarse == (3, 3, 3)  # the two middle blocks hold 3..6


def test_a_pooled_click_stays_on_a_diagonal() -> None:
    mask = np.zeros((40, 40, 40), bool)
    index = np.arange(40)
    mask[index, index, index] = True
    assert mask[component_centre(mask, max_edt_voxels=100)]


def test_signs_and_perfection() -> None:
    truth = np.zeros((9, 9, 9), bool)
    truth[2:7, 2:7, 2:7] = True
    nothing = np.zeros_like(truth)
    assert next_click(truth, truth) is None
    assert next_click(nothing, nothing) is None
    assert next_click(nothing, truth) == Point((4, 4, 4), True)
    assert next_click(truth, nothing) == Point((4, 4, 4), False)


def test_a_missed_and_an_invented_part_that_touch_are_one_error() -> None:
    truth, prediction = np.zeros((2, 5, 5, 20), bool)
    truth[:, :, 4:7] = True
    prediction[:, :, 7:14] = True  # the middle of the whole, 4..13, is 8 or 9: background that was invented
    click = next_click(prediction, truth)
    assert click == official(prediction, truth)
    assert click is not None
    assert not click.foreground


def test_corners_connect() -> None:
    truth = np.zeros((6, 6, 6), bool)
    truth[0, 0, 0] = truth[1, 1, 1] = truth[2, 2, 2] = True  # one component of three ...
    truth[5, 5, 4:6] = True  # ... outweighs one of two
    click = next_click(np.zeros_like(truth), truth)
    assert click is not None
    assert click.zyx in {(0, 0, 0), (1, 1, 1), (2, 2, 2)}


def test_the_first_of_two_equal_components_is_clicked() -> None:
    truth = np.zeros((7, 7, 7), bool)
    truth[4:7, 0:3, 4:7] = truth[0:3, 4:7, 0:3] = True
    assert next_click(np.zeros_like(truth), truth) == Point((1, 5, 1), True)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("at_end", [False, True])
def test_the_volume_border_is_a_border_of_the_component(axis: int, at_end: bool) -> None:
    """The crop is padded, so that a component cut by the volume is not deepest on the cut."""
    mask = np.zeros((9, 9, 9), bool)
    ends = [slice(2, 7)] * 3
    ends[axis] = slice(4, 9) if at_end else slice(0, 5)
    mask[tuple(ends)] = True
    expected = [4, 4, 4]
    expected[axis] = 6 if at_end else 2
    assert component_centre(mask) == tuple(expected)


def test_a_full_volume_has_a_centre() -> None:
    assert component_centre(np.ones((5, 5, 5), bool)) == (2, 2, 2)
    assert component_centre(np.ones((1, 1, 1), bool)) == (0, 0, 0)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 1000, 123_456])
def test_the_tie_break_is_that_of_the_global_state_and_leaves_it_alone(count: int) -> None:
    np.random.seed(7)
    following = np.random.random()
    np.random.seed(7)
    chosen = seeded_choice(count)
    assert np.random.random() == following
    np.random.seed(42)
    assert chosen == np.random.choice(count)


def test_another_tie_break() -> None:
    mask = np.zeros((4, 4, 4), bool)
    mask[1:3, 1:3, 1:3] = True
    asked = []

    def last(count: int) -> int:
        asked.append(count)
        return count - 1

    assert next_click(mask, np.zeros_like(mask), last) == Point((2, 2, 2), False)
    assert asked == [8]
