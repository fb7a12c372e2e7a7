"""Intensities and resampling against NumPy's percentiles and SciPy's interpolation."""

from typing import Literal

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from gstk.core import resampling as preprocess
from gstk.core.resampling import axis_weights, intensity_range, normalise, resample, sample, value_counts

REAL_DTYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8"]
sides = st.integers(1, 9)
steps = st.floats(0.05, 4)
starts = st.floats(-12, 12)
borders: st.SearchStrategy[Literal["zero", "edge"]] = st.sampled_from(["zero", "edge"])


@pytest.mark.parametrize("dtype", REAL_DTYPES)
def test_range_is_that_of_numpy_percentiles(dtype: str) -> None:
    rng = np.random.default_rng(0)
    volume = (rng.normal(60, 20, (9, 10, 11))).astype(dtype)
    expected = np.percentile(volume.astype(np.float64), (1, 99))
    np.testing.assert_allclose(intensity_range(volume), expected, rtol=1e-12)
    np.testing.assert_allclose(intensity_range(volume.transpose(2, 0, 1)[::-1]), expected, rtol=1e-12)
    assert all(type(v) is float for v in intensity_range(volume))


@settings(deadline=None)
@given(st.sampled_from(REAL_DTYPES).flatmap(lambda d: arrays.arrays(d, st.tuples(sides, sides))))
def test_range_of_any_numbers(volume: np.ndarray) -> None:
    """Also where neighbours in rank are farther apart than the dtype can count."""
    assume(np.isfinite(volume).all() and np.abs(volume.astype(float)).max() < 1e300)
    values = volume.astype(np.float64)
    low, high = np.percentile(values, (1, 99))
    if low == high:
        low, high = values.min(), values.max()
    span = np.ptp(values)
    np.testing.assert_allclose(intensity_range(volume), (low, high), rtol=1e-12, atol=1e-12 * span)


def test_range_does_not_overflow() -> None:
    """NumPy's own interpolation wraps around here: (-30055.36, 30055.36)."""
    volume = np.array([-30000, 30000], np.int16)
    np.testing.assert_allclose(intensity_range(volume), (-29400, 29400))
    np.testing.assert_allclose(intensity_range(np.array([-100, 100], np.int8)), (-98, 98))
    np.testing.assert_allclose(intensity_range(np.array([-60000, 60000], np.float16)), (-58800, 58800), rtol=1e-3)


def test_range_of_booleans() -> None:
    mask = np.arange(100) < 40
    assert intensity_range(mask) == (0, 1)
    np.testing.assert_array_equal(normalise(mask, 0, 1), mask)


def test_range_leaves_the_volume_alone() -> None:
    volume = np.random.default_rng(0).permutation(1000).reshape(10, 10, 10)
    before = volume.copy()
    intensity_range(volume)
    np.testing.assert_array_equal(volume, before)


def test_constant_volume() -> None:
    volume = np.full((4, 5, 6), 7, np.int16)
    assert intensity_range(volume) == (7, 7)
    black = normalise(volume, 7, 7)
    assert black.dtype == np.float32
    np.testing.assert_array_equal(black, np.zeros((4, 5, 6)))


def test_a_small_bright_object_on_nothing_keeps_its_contrast() -> None:
    volume = np.zeros((20, 20, 20), np.uint8)
    volume[3:5, 3:5, 3:5] = 9
    assert np.percentile(volume, 99) == 0
    assert intensity_range(volume) == (0, 9)
    np.testing.assert_array_equal(normalise(volume, *intensity_range(volume)), volume / np.float32(9))


@pytest.mark.parametrize("top", [1000.0000000001, 1000.001, np.nextafter(1000, 1001)])
def test_nearly_constant_volume(top: float) -> None:
    volume = np.full((10, 10, 10), 1000.0)
    volume[0] = top
    scaled = normalise(volume, *intensity_range(volume))
    assert np.isfinite(scaled).all()
    assert scaled.min() >= 0
    assert scaled.max() <= 1


@pytest.mark.parametrize("tiny", [1e-45, 1e-40, 1e-310])
@pytest.mark.filterwarnings("error")
def test_a_range_whose_inverse_is_no_float32(tiny: float) -> None:
    scaled = normalise(np.array([0, tiny]), 0.0, tiny)
    assert scaled[0] == 0
    assert 0 <= scaled[1] <= 1


@settings(deadline=None)
@given(
    arrays.arrays("i2", st.tuples(sides, sides, sides)),
    st.floats(-40000, 40000),
    st.floats(1, 50000),
)
def test_normalising_maps_the_range_to_0_and_1(volume: np.ndarray, low: float, width: float) -> None:
    scaled = normalise(volume, low, low + width)
    assert scaled.dtype == np.float32
    assert scaled.shape == volume.shape
    expected = np.clip((volume.astype(np.float64) - low) / width, 0, 1)
    np.testing.assert_allclose(scaled, expected, atol=1e-6 * (1 + abs(low) / width))


def test_normalising_keeps_its_input() -> None:
    volume = np.linspace(-1, 2, 7, dtype=np.float32)
    before = volume.copy()
    np.testing.assert_allclose(normalise(volume, 0, 1), [0, 0, 0, 0.5, 1, 1, 1])
    np.testing.assert_array_equal(volume, before)


def test_an_empty_range_is_black_in_either_order() -> None:
    assert not normalise(np.arange(5), 3, 3).any()
    assert not normalise(np.arange(5), 3, 1).any()


def centres(n_out: int, start: float, step: float) -> np.ndarray:
    """Where output voxels have their centres in the input, whose own centres are whole numbers."""
    return start - 0.5 + step * (np.arange(n_out) + 0.5)


@settings(deadline=None)
@given(sides, st.integers(1, 20), starts, st.floats(0.05, 1), st.integers(0, 2**32 - 1))
def test_weights_of_fine_steps_are_linear_interpolation(
    n_in: int, n_out: int, start: float, step: float, seed: int
) -> None:
    signal = np.random.default_rng(seed).standard_normal(n_in)
    where = centres(n_out, start, step)
    edge = axis_weights(n_in, n_out, start, step, "edge") @ signal
    np.testing.assert_allclose(edge, np.interp(where, np.arange(n_in), signal), atol=1e-5)
    zero = axis_weights(n_in, n_out, start, step) @ signal
    padded = np.interp(where, np.arange(-1, n_in + 1), np.pad(signal, 1), left=0, right=0)
    np.testing.assert_allclose(zero, padded, atol=1e-5)


@settings(deadline=None)
@given(sides, st.integers(1, 9), starts, steps)
def test_row_sums(n_in: int, n_out: int, start: float, step: float) -> None:
    edge = axis_weights(n_in, n_out, start, step, "edge")
    zero = axis_weights(n_in, n_out, start, step, "zero")
    for matrix in (edge, zero):
        assert matrix.shape == (n_out, n_in)
        assert matrix.dtype == np.float32
        assert (matrix >= 0).all()
    np.testing.assert_allclose(edge.sum(axis=1), 1, atol=1e-5)
    assert (zero.sum(axis=1) <= 1 + 1e-5).all()
    assert (zero <= edge + 1e-6).all()
    where, half = centres(n_out, start, step), max(step, 1)
    whole = (where - half >= -1) & (where + half <= n_in)
    np.testing.assert_allclose(zero[whole].sum(axis=1), 1, atol=1e-5)
    beyond = (where + half <= 0) | (where - half >= n_in - 1)
    np.testing.assert_allclose(zero[beyond], 0, atol=1e-6)


@settings(deadline=None)
@given(st.integers(4, 30), st.floats(1, 4), st.floats(-3, 3))
def test_coarse_steps_average_under_a_triangle(n_in: int, step: float, start: float) -> None:
    """Each output is the input under a triangle of half-width `step` around its centre, written out term by term."""
    n_out = 5
    matrix = axis_weights(n_in, n_out, start, step, "edge")
    for i, centre in enumerate(centres(n_out, start, step)):
        expected = np.zeros(n_in)
        for j in range(int(centre - step) - 2, int(centre + step) + 3):
            expected[min(max(j, 0), n_in - 1)] += max(0.0, 1 - abs(j - centre) / step)
        np.testing.assert_allclose(matrix[i], expected / expected.sum(), atol=1e-5)


@pytest.mark.parametrize("step", [2.0, 3.0, 3.7])
def test_what_the_output_cannot_show_is_attenuated(step: float) -> None:
    """Above the output's Nyquist frequency the signal would return as a false one; below, it stays."""
    n_in, n_out = 400, int(360 / step)
    weights = axis_weights(n_in, n_out, 20, step)
    false = np.cos(np.pi * np.arange(n_in) * 0.98)  # nearly voxel by voxel
    slow = np.cos(2 * np.pi * np.arange(n_in) / (16 * step))
    assert np.abs(false[:: int(step)]).max() > 0.9  # what picking voxels would give
    assert np.abs(weights @ false).max() < 0.15
    assert np.abs(weights @ slow).max() > 0.9


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(sides, sides, sides),
    st.tuples(sides, sides, sides),
    st.tuples(starts, starts, starts),
    st.tuples(*[st.floats(0.05, 1)] * 3),
    borders,
    st.integers(0, 2**32 - 1),
)
def test_fine_resampling_is_trilinear(
    shape: tuple[int, int, int],
    out: tuple[int, int, int],
    start: tuple[float, float, float],
    step: tuple[float, float, float],
    outside: Literal["zero", "edge"],
    seed: int,
) -> None:
    volume = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    got = resample(volume, start, step, out, outside)
    grid = np.meshgrid(*(centres(n, s, t) for n, s, t in zip(out, start, step, strict=True)), indexing="ij")
    mode = {"zero": "grid-constant", "edge": "nearest"}[outside]
    expected = ndimage.map_coordinates(volume.astype(np.float64), grid, order=1, mode=mode)
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    np.testing.assert_allclose(got, expected, atol=2e-5)


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(sides, sides, sides),
    st.tuples(sides, sides, sides),
    st.tuples(starts, starts, starts),
    st.tuples(steps, steps, steps),
    st.floats(-100, 100, width=32),
)
def test_constant_in_constant_out(shape, out, start, step, value: float) -> None:
    volume = np.full(shape, value, np.float32)
    np.testing.assert_allclose(resample(volume, start, step, out, "edge"), value, rtol=1e-5, atol=1e-30)


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(sides, sides, sides),
    st.tuples(sides, sides, sides),
    st.tuples(starts, starts, starts),
    st.tuples(steps, steps, steps),
    borders,
    st.integers(0, 2**32 - 1),
)
def test_axes_are_independent(shape, out, start, step, outside, seed: int) -> None:
    volume = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    matrices = [axis_weights(n, m, s, t, outside) for n, m, s, t in zip(shape, out, start, step, strict=True)]
    expected = np.einsum("ai,bj,ck,ijk->abc", *matrices, volume)
    np.testing.assert_allclose(resample(volume, start, step, out, outside), expected, atol=1e-5)


@pytest.mark.parametrize("outside", ["zero", "edge"])
def test_identity_and_shifts_are_exact(outside: Literal["zero", "edge"]) -> None:
    volume = np.random.default_rng(0).standard_normal((4, 5, 6)).astype(np.float32)
    np.testing.assert_array_equal(resample(volume, (0, 0, 0), (1, 1, 1), (4, 5, 6), outside), volume)
    np.testing.assert_array_equal(resample(volume, (1, 2, 3), (1, 1, 1), (2, 2, 2), outside), volume[1:3, 2:4, 3:5])
    got = resample(volume, (-1, 0, -2), (1, 1, 1), (6, 5, 9), outside)
    mode = {"zero": "constant", "edge": "edge"}[outside]
    np.testing.assert_array_equal(got, np.pad(volume, ((1, 1), (0, 0), (2, 1)), mode))


def test_nothing_but_zeros_far_outside() -> None:
    volume = np.ones((4, 5, 6), np.float32)
    assert not resample(volume, (50, 0, 0), (1, 1, 1), (4, 5, 6)).any()
    assert not resample(volume, (0, -50, 0), (2, 3, 1), (4, 5, 6)).any()


def test_halving_by_hand() -> None:
    """A triangle over (-0.5, 0.5, 1.5, 2.5) half-steps: weights 1, 3, 3, 1 eighths."""
    weights = axis_weights(8, 4, 0, 2, "edge")
    np.testing.assert_allclose(weights[1], np.array([0, 1, 3, 3, 1, 0, 0, 0]) / 8)
    np.testing.assert_allclose(weights[0], np.array([4, 3, 1, 0, 0, 0, 0, 0]) / 8)
    np.testing.assert_allclose(axis_weights(8, 4, 0, 2, "zero")[0], np.array([3, 3, 1, 0, 0, 0, 0, 0]) / 8)


@pytest.mark.parametrize("shape", [(5, 40, 40), (40, 7, 40), (40, 40, 9), (12, 13, 14), (60, 50, 41)])
@pytest.mark.parametrize("slab_voxels", [1, 4000, 30000])
def test_sampling_by_slabs_is_sampling(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int], slab_voxels: int
) -> None:
    volume = np.random.default_rng(1).integers(-900, 900, (40, 41, 42)).astype(np.int16)
    start, step = (1.5, -2.0, 3.25), tuple(36 / n for n in shape)
    whole = resample(normalise(volume, -500, 600), start, step, shape)
    monkeypatch.setattr(preprocess, "_SLAB_VOXELS", slab_voxels)
    np.testing.assert_allclose(sample(volume, -500, 600, start, step, shape), whole, atol=1e-6)


@pytest.mark.parametrize("dtype", ["u1", "i1", ">i2", "u2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_range_is_counted_slab_by_slab(monkeypatch: pytest.MonkeyPatch, dtype: str, order: Literal["C", "F"]) -> None:
    monkeypatch.setattr(preprocess, "_SLAB_VOXELS", 100)
    volume = np.random.default_rng(2).normal(50, 30, (9, 10, 11)).astype("i1").astype(dtype, order=order)
    np.testing.assert_allclose(intensity_range(volume), np.percentile(volume.astype(float), (1, 99)), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", ">i2"])
def test_small_integers_are_counted(dtype: str) -> None:
    bounds = np.iinfo(dtype)
    volume = np.random.default_rng(3).integers(bounds.min, bounds.max, (3, 5, 7), endpoint=True).astype(dtype)
    for values in (volume, volume[:2, :4], volume[:, ::2], np.asfortranarray(volume)):
        counts = value_counts(values)
        given, times = np.unique(values, return_counts=True)
        assert counts.sum() == values.size
        np.testing.assert_array_equal(counts[given.astype(int) - bounds.min], times)
