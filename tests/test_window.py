"""Windows: how they are made, and the way of voxels and coordinates into them and back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gstk.core.geometry import Geometry
from gstk.core.resampling import normalise, resample
from gstk.core.window import Window, WindowPolicy, bounding_faces, frame

framings = st.builds(
    lambda multiple, least, more, margin, finest: WindowPolicy(
        max_voxels=(least * multiple) ** 3 * more,
        multiple=multiple,
        min_side=least * multiple,
        margin=margin,
        min_step=finest,
    ),
    st.sampled_from([1, 4, 8, 16]),
    st.integers(1, 4),
    st.integers(1, 64),
    st.floats(0, 2),
    st.floats(0.2, 2),
)


@st.composite
def objects(draw: st.DrawFn) -> tuple[Geometry, np.ndarray, np.ndarray]:
    """A volume and the faces of an object in it."""
    shape = draw(st.tuples(*[st.integers(1, 600)] * 3))
    spacing = draw(st.tuples(*[st.floats(0.1, 12)] * 3))
    corners = np.array([[draw(st.integers(0, n - 1)) for n in shape] for _ in range(2)], float)
    low, high = bounding_faces(corners)
    return Geometry(shape, spacing), low, high


@st.composite
def windows(draw: st.DrawFn, longest: int = 10) -> Window:
    start = draw(st.tuples(*[st.floats(-8, 12)] * 3))
    step = draw(st.tuples(*[st.floats(0.3, 3)] * 3))
    return Window(start, step, draw(st.tuples(*[st.integers(1, longest)] * 3)))


@settings(deadline=None)
@given(objects(), framings)
def test_a_window_keeps_its_promises(scene: tuple[Geometry, np.ndarray, np.ndarray], policy: WindowPolicy) -> None:
    geometry, low, high = scene
    window = frame(geometry, low, high, policy)
    sides, shape, spacing = np.array(window.shape), np.array(geometry.shape), np.array(geometry.spacing_mm)
    assert all(type(n) is int for n in window.shape)
    assert (sides % policy.multiple == 0).all()
    assert (sides >= policy.min_side).all()
    assert np.prod(sides) <= policy.max_voxels or (sides == policy.min_side).all()
    step = np.array(window.step)
    voxel_mm = step[step != 1] * spacing[step != 1]
    if len(voxel_mm):
        np.testing.assert_allclose(voxel_mm, voxel_mm[0], rtol=1e-9)  # isotropic ...
        np.testing.assert_allclose(step * spacing, voxel_mm[0], rtol=0.031)  # ... but for steps rounded to 1
    assert (step * spacing >= policy.min_step * spacing.min() * 0.97).all()
    start, stop = np.array(window.start), np.array(window.stop)
    np.testing.assert_array_equal(start, np.rint(start))
    half = 0.5 + 1e-6  # what rounding the start may cost
    assert (start <= low + half).all()  # the object is inside
    assert (stop >= high - half).all()
    fits = sides * step <= shape
    assert (start[fits] >= 0).all()  # it does not leave the volume where it need not
    assert (stop[fits] <= shape[fits] + half).all()
    np.testing.assert_allclose((start + stop)[~fits], shape[~fits], atol=2 * half)  # else the volume is in its middle
    assert (start[~fits] <= 0).all()
    assert (stop[~fits] >= shape[~fits] - 1e-6).all()


@settings(deadline=None)
@given(objects(), framings)
def test_context_reaches_as_far_as_the_volume_does(scene, policy: WindowPolicy) -> None:
    geometry, low, high = scene
    window = frame(geometry, low, high, policy)
    shape, spacing = np.array(geometry.shape), np.array(geometry.spacing_mm)
    margin = policy.margin * ((high - low) * spacing).max() / spacing
    size = np.array(window.stop) - window.start
    assert (size >= np.minimum(high - low + 2 * margin, shape) * 0.97).all()


def test_a_step_close_to_1_is_1_but_never_cuts_the_object() -> None:
    policy = WindowPolicy(max_voxels=96**3, multiple=16, min_side=32)
    volume = Geometry((98, 98, 98), (1, 1, 1))
    window = frame(volume, np.array([20.0, 20, 20]), np.array([80.0, 80, 80]), policy)
    assert window == Window((2, 2, 2), (1, 1, 1), (96, 96, 96))
    voxels = np.random.default_rng(0).integers(0, 256, volume.shape).astype(np.uint8)
    np.testing.assert_array_equal(window.sample(voxels, 0, 255), normalise(voxels[2:, 2:, 2:], 0, 255))
    whole = frame(volume, np.zeros(3), np.full(3, 98.0), policy)
    assert (np.array(whole.start) <= 0).all()
    assert (np.array(whole.stop) >= 98 - 1e-9).all()


def test_windows_by_hand() -> None:
    policy = WindowPolicy(max_voxels=64**3, multiple=16, min_side=32, margin=0.5, min_step=1)
    volume = Geometry((100, 200, 200), (2, 1, 1))
    # An object of 32 mm with 16 mm around it: 64 mm, at the finest voxel of 1 mm, twice as fine as the slices.
    window = frame(volume, np.array([40.0, 84, 84]), np.array([56.0, 116, 116]), policy)
    assert window == Window((32, 68, 68), (0.5, 1, 1), (64, 64, 64))
    # In a corner it moves inside.
    window = frame(volume, np.array([0.0, 0, 168]), np.array([16.0, 32, 200]), policy)
    assert window == Window((0, 0, 136), (0.5, 1, 1), (64, 64, 64))
    # A volume that is smaller than the least window lies in its middle.
    window = frame(Geometry((4, 10, 20), (1, 1, 1)), np.zeros(3), np.array([4.0, 10, 20]), policy)
    assert window == Window((-14, -11, -6), (1, 1, 1), (32, 32, 32))


@settings(deadline=None)
@given(windows(), st.lists(st.tuples(*[st.floats(-50, 50)] * 3), min_size=1, max_size=5))
def test_to_window_is_undone_by_its_definition(window: Window, points: list[tuple[float, float, float]]) -> None:
    inside = window.to_window(np.array(points))
    assert inside.dtype == np.float32
    back = np.array(window.start) + (inside.astype(float) + 0.5) * window.step - 0.5
    np.testing.assert_allclose(back, points, atol=1e-4)


def test_to_window_by_hand() -> None:
    window = Window((10, 0, -2), (2, 1, 0.5), (4, 4, 4))
    assert window.stop == (18, 4, 0)
    # Two voxels of the volume to one of the window: the centre of its first lies between them.
    np.testing.assert_allclose(window.to_window(np.array([10.5, 0, -2.25])), (0, 0, 0))
    np.testing.assert_allclose(window.to_window(np.array([[[10, 3, -0.75]]])), [[[-0.25, 3, 3]]])


@settings(deadline=None)
@given(windows(), st.tuples(*[st.integers(1, 12)] * 3))
def test_inside_are_the_voxels_whose_centres_it_holds(window: Window, shape: tuple[int, int, int]) -> None:
    centres = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    # Centres on a face itself belong to the side that follows, like the voxels of a slice.
    held = np.all((centres + 0.5 >= window.start) & (centres + 0.5 < window.stop), axis=-1)
    mask = np.zeros(shape, bool)
    mask[window.inside(shape)] = True
    np.testing.assert_array_equal(mask, held)
    on_a_face = np.any((centres + 0.5 == window.start) | (centres + 0.5 == window.stop), axis=-1)
    np.testing.assert_array_equal((held == window.holds(centres)) | on_a_face, True)


def test_holds_its_faces() -> None:
    window = Window((0.5, 0.5, 0.5), (1, 1, 1), (2, 2, 2))
    points = np.array([[0.0, 0, 0], [2, 2, 2], [1, 1, 1], [2.01, 1, 1], [1, -0.01, 1]])
    np.testing.assert_array_equal(window.holds(points), [True, True, True, False, False])


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 40)] * 3), min_size=1, max_size=6))
def test_bounding_faces_hold_the_voxels_and_no_more(voxels: list[tuple[int, int, int]]) -> None:
    low, high = bounding_faces(np.array(voxels, float))
    mask = np.zeros((41, 41, 41), bool)
    mask[tuple(np.array(voxels).T)] = True
    for axis in range(3):
        taken = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        assert (low[axis], high[axis]) == (taken[0], taken[-1] + 1)


@settings(deadline=None)
@given(windows(), st.tuples(*[st.integers(1, 12)] * 3), st.integers(0, 2**32 - 1))
def test_a_sample_is_that_of_the_whole_volume(window: Window, shape: tuple[int, int, int], seed: int) -> None:
    """Only what the kernels reach is converted; nothing of that may show."""
    volume = np.random.default_rng(seed).integers(-100, 300, shape).astype(np.int16)
    whole = resample(normalise(volume, -50, 200), window.start, window.step, window.shape)
    got = window.sample(volume, -50, 200)
    assert got.shape == window.shape
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, whole, atol=1e-5)


@pytest.mark.parametrize("start", [(0, 0, 0), (3, 2, 1), (-2, 4, 6), (-3, -3, -3), (30, 0, 0), (0, -30, 0)])
def test_whole_voxels_are_sampled_as_they_are(start: tuple[int, int, int]) -> None:
    volume = np.random.default_rng(0).integers(0, 256, (9, 10, 11)).astype(np.uint8)
    window = Window(start, (1, 1, 1), (8, 8, 8))
    padded = np.pad(normalise(volume, 20, 200), 40)
    expected = padded[tuple(slice(40 + s, 48 + s) for s in start)]
    np.testing.assert_allclose(window.sample(volume, 20, 200), expected, atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(objects(), st.integers(1, 3), st.floats(0.05, 0.95))
def test_constant_in_constant_out(scene, minimum: int, value: float) -> None:
    """There and back, also where the window reaches out of the volume or the volume is a few slices thin."""
    geometry, low, high = scene
    shape = tuple(min(n, 12) for n in geometry.shape)
    geometry = Geometry(shape, geometry.spacing_mm)
    low, high = np.minimum(low, np.array(shape) - 1), np.minimum(high, shape)
    window = frame(geometry, low, high, WindowPolicy(max_voxels=4096, multiple=4, min_side=4 * minimum))
    volume = np.full(shape, value)
    sampled = window.sample(volume, 0, 1)
    where = window.inside(shape)
    back = window.back(np.full(window.shape, value, np.float32), shape)
    assert back.shape == volume[where].shape
    np.testing.assert_allclose(back, value, rtol=1e-5)
    reach = np.maximum(window.step, 1)  # zeros outside are seen this far in
    centres = np.stack(np.meshgrid(*[np.arange(n) for n in window.shape], indexing="ij"), -1) + 0.5
    centres = centres * window.step + window.start
    deep = np.all((centres - 0.5 - reach >= -1) & (centres - 0.5 + reach <= shape), axis=-1)
    np.testing.assert_allclose(sampled[deep], value, rtol=1e-4)
    assert (sampled >= 0).all()
    assert (sampled <= value * (1 + 1e-4)).all()


def test_a_slope_comes_back_where_it_was() -> None:
    """Sampling and its inverse agree on where voxels are: a linear ramp survives both, its ends aside."""
    geometry = Geometry((20, 30, 40), (3, 1, 1.5))
    z, y, x = np.meshgrid(*[np.arange(n) for n in geometry.shape], indexing="ij")
    ramp = (2.0 * z + y + 0.5 * x + 10) / 100
    window = frame(
        geometry,
        np.array([5.0, 8, 9]),
        np.array([12.0, 19, 30]),
        WindowPolicy(max_voxels=48**3, multiple=8, min_side=16),
    )
    got = window.back(window.sample(ramp, 0, 1), geometry.shape)
    expected = ramp[window.inside(geometry.shape)]
    assert got.shape == expected.shape
    assert min(got.shape) > 8
    inner = (slice(3, -3),) * 3
    np.testing.assert_allclose(got[inner], expected[inner], atol=1e-3)  # a tenth of a voxel


@pytest.mark.parametrize("axis", range(3))
def test_two_slices(axis: int) -> None:
    shape = [24, 24, 24]
    shape[axis] = 2
    spacing = [1.0, 1, 1]
    spacing[axis] = 5
    geometry = Geometry(shape, spacing)
    low, high = np.array(shape) / 4, np.array(shape) * 3 / 4
    window = frame(geometry, low, high, WindowPolicy(max_voxels=32**3, multiple=8, min_side=16))
    volume = np.zeros(shape, np.uint8)
    volume[tuple(slice(0, 1) if a == axis else slice(None) for a in range(3))] = 100
    back = window.back(window.sample(volume, 0, 100), shape)
    assert back.shape[axis] == 2
    first, last = np.moveaxis(back, axis, 0)
    centre = first.shape[0] // 2
    assert first[centre, centre] > 0.65
    assert last[centre, centre] < 0.35


def test_a_window_beside_the_volume() -> None:
    volume = np.ones((4, 5, 6), np.uint8)
    for start in ((10, 0, 0), (0, -20, 0), (0, 0, 6)):
        window = Window(start, (1, 1, 1), (4, 4, 4))
        assert not window.sample(volume, 0, 1).any()
        where = window.inside(volume.shape)
        assert volume[where].size == 0
        assert window.back(np.ones((4, 4, 4), np.float32), volume.shape).shape == volume[where].shape


@given(
    shape=st.tuples(*[st.integers(3, 40)] * 3),
    step=st.tuples(*[st.floats(0.5, 4)] * 3),
    seed=st.integers(0, 100),
)
@settings(max_examples=80, deadline=None)
def test_the_part_that_holds_an_object_gives_the_same_mask_as_the_whole(
    shape: tuple[int, int, int], step: tuple[float, float, float], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    window = Window(tuple(float(n) for n in rng.integers(-3, 4, 3)), step, (16, 24, 16))  # type: ignore[arg-type]
    values = rng.normal(-3, 1, window.shape).astype(np.float32)
    low = rng.integers(0, 14, 3)
    values[tuple(slice(a, a + n) for a, n in zip(low, rng.integers(0, 6, 3), strict=True))] = 4
    whole = np.full(shape, -1, np.float32)
    whole[window.inside(shape)] = window.back(values, shape)
    part, inner = window.above_zero(values)
    cropped = np.full(shape, -1, np.float32)
    cropped[part.inside(shape)] = part.back(inner, shape)
    np.testing.assert_array_equal(cropped > 0, whole > 0)
    inside = cropped > 0
    np.testing.assert_allclose(cropped[inside], whole[inside], rtol=1e-5, atol=1e-5)
    nearest = part.nearest(inner, shape)
    assert nearest.shape == tuple(axis.stop - axis.start for axis in part.inside(shape))
    assert set(np.unique(nearest)) <= set(np.unique(inner))
