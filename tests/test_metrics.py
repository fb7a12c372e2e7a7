"""DSC and NSD against values by hand, all pairs of surface points, and the package that the challenge uses."""

from __future__ import annotations

import itertools
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gstk.cases.npz import load_case
from gstk.core.prompts import Voxel
from gstk.evaluation.metrics import dice, score_labels, surface_dice

pytest.importorskip("skimage", reason="the NSD needs scikit-image")

SPACINGS = [(1.0, 1.0, 1.0), (3.27, 0.9766, 0.9766), (5.0, 0.7949, 0.8), (0.4, 0.4, 0.4), (7.5, 0.5, 0.5)]


def box(low: Voxel, high: Voxel, shape: Voxel = (12, 12, 12)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def all_pairs(truth: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...], tolerance: float) -> float:
    """NSD by the distance of every surface point to every other; areas from triangles cut at the edges' middles."""
    from skimage.measure import marching_cubes

    def surface(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        padded = np.pad(mask, 1)
        points, areas = [], []
        for corner in itertools.product(*(range(n - 1) for n in padded.shape)):
            cube = padded[tuple(slice(i, i + 2) for i in corner)]
            if cube.any() and not cube.all():
                fewer = cube if cube.sum() <= 4 else ~cube
                vertices, faces, _, _ = marching_cubes(fewer.astype(np.float32), 0.5, method="lorensen")
                a, b, c = (vertices.astype(float) * spacing)[faces].transpose(1, 0, 2)
                points.append(np.array(corner) * spacing)
                areas.append(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)
        return np.array(points), np.array(areas)

    (p, p_area), (q, q_area) = surface(truth), surface(prediction)
    distance = np.sqrt(((p[:, None] - q[None]) ** 2).sum(-1))
    near = distance <= tolerance + 1e-9
    agreed = p_area[near.any(axis=1)].sum() + q_area[near.any(axis=0)].sum()
    return float(agreed / (p_area.sum() + q_area.sum()))


def deepmind(truth: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...], tolerance: float) -> float:
    package = pytest.importorskip("surface_distance", reason="the package that the challenge's evaluator uses")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports from namespaces that SciPy is about to drop
        distances = package.compute_surface_distances(truth, prediction, spacing_mm=spacing)
        return float(package.compute_surface_dice_at_tolerance(distances, tolerance))


def test_by_hand() -> None:
    one, beside = box((4, 4, 4), (5, 5, 5)), box((4, 4, 5), (5, 5, 6))
    assert dice(one, one) == 1
    assert dice(one, beside) == 0
    assert dice(box((0, 0, 0), (1, 1, 4)), box((0, 0, 1), (1, 1, 6))) == pytest.approx(2 * 3 / 9)
    assert dice(box((0, 0, 0), (0, 0, 0)), box((0, 0, 0), (0, 0, 0))) == 1
    # A voxel has eight corners of one triangle each. Those of the next voxel are the same but for four at each end.
    assert surface_dice(one, beside, (1, 1, 1), 0.0) == pytest.approx(0.5)
    assert surface_dice(one, beside, (1, 1, 1), 0.99) == pytest.approx(0.5)
    assert surface_dice(one, beside, (1, 1, 1), 1.0) == 1
    assert surface_dice(one, beside, (1, 1, 2.5), 2.0) == pytest.approx(0.5)


def test_empty_masks() -> None:
    nothing, one = np.zeros((12, 12, 12), bool), box((4, 4, 4), (6, 6, 6))
    assert surface_dice(nothing, nothing, (1, 1, 1)) == 1
    assert surface_dice(one, nothing, (1, 1, 1)) == 0
    assert surface_dice(nothing, one, (1, 1, 1)) == 0


def test_a_mask_that_fills_the_volume_has_a_surface() -> None:
    full = np.ones((4, 5, 6), bool)
    assert surface_dice(full, full, (1, 1, 1), 0.0) == 1


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(3))
def test_noise_agrees_with_the_official_package_and_with_all_pairs(spacing: tuple[float, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, prediction = rng.random((2, 6, 7, 8)) < [[[[0.05 + 0.2 * seed]]], [[[0.3]]]]  # every code comes up
    for tolerance in (0.0, 1.0, 2.0):
        ours = surface_dice(truth, prediction, spacing, tolerance)
        assert ours == pytest.approx(deepmind(truth, prediction, spacing, tolerance), abs=1e-12)
        assert ours == pytest.approx(all_pairs(truth, prediction, spacing, tolerance), abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_boxes_agree_with_the_official_package(data: st.DataObject) -> None:
    def draw() -> np.ndarray:
        low = tuple(data.draw(st.integers(0, 9)) for _ in range(3))
        return box(low, tuple(a + data.draw(st.integers(1, 12)) for a in low))  # type: ignore[arg-type]

    truth, prediction, spacing = draw(), draw(), data.draw(st.sampled_from(SPACINGS))
    expected = deepmind(truth, prediction, spacing, 2.0)
    assert surface_dice(truth, prediction, spacing) == pytest.approx(expected, abs=1e-12)


def test_fine_voxels_take_the_distance_transform() -> None:
    rng = np.random.default_rng(5)
    truth = np.zeros((30, 30, 30), bool)
    truth[5:20, 5:22, 8:25] = True
    prediction = np.roll(truth, 6, axis=1) ^ (rng.random(truth.shape) < 0.001)
    spacing = (0.3, 0.25, 0.3)  # the tolerance spans thousands of voxels
    assert surface_dice(truth, prediction, spacing, 1.5) == pytest.approx(deepmind(truth, prediction, spacing, 1.5))


def test_label_maps_are_scored_by_class() -> None:
    truth = np.zeros((10, 20, 30), np.uint8)
    truth[2:8, 2:10, 2:10] = 1
    truth[2:8, 10:18, 15:28] = 3
    labels = np.roll(truth, 1, axis=2)
    spacing = (2.0, 1.0, 3.0)
    dsc, nsd = score_labels(truth, labels, [1, 3], spacing)
    for k, d, n in zip([1, 3], dsc, nsd, strict=True):
        assert d == dice(truth == k, labels == k)
        assert n == pytest.approx(deepmind(truth == k, labels == k, spacing, 2.0), abs=1e-12)


def test_the_nsd_counts_nothing_up_to_a_mean_dsc_of_a_fifth() -> None:
    truth, labels = np.zeros((2, 4, 4, 40), np.uint8)
    truth[0, 0, :9], labels[0, 0, 8:9] = 1, 1  # DSC 2 / 10
    assert score_labels(truth, labels, [1], (1, 1, 1)) == ((0.2,), (0.0,))
    truth[0, 0, 0] = 0  # 2 / 9
    dsc, nsd = score_labels(truth, labels, [1], (1, 1, 1))
    assert dsc[0] > 0.2
    assert nsd[0] > 0
    truth[2, 2, :] = 2  # a second class that is missed: the mean is below, so neither counts
    assert score_labels(truth, labels, [1, 2], (1, 1, 1)).nsd == (0.0, 0.0)


def test_real_masks_agree_with_the_official_package(shared_data: Path) -> None:
    for name in ("CT_msd_spleen", "MR_sct_t2s_gm", "PET_ibsi_sts018", "US_itksnap_mitral_t0"):
        case = load_case(shared_data / "cases" / f"{name}.npz")
        assert case.labels is not None
        truth = case.labels == 1
        prediction = np.roll(truth, (0, 2, 1), (0, 1, 2)) & (np.random.default_rng(1).random(truth.shape) > 0.01)
        ours = surface_dice(truth, prediction, case.geometry.spacing_mm)
        assert ours == pytest.approx(deepmind(truth, prediction, case.geometry.spacing_mm, 2.0), abs=1e-12)
        assert math.isfinite(ours)
