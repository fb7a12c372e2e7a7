"""Patches, augmentations, the stream of items, lists of cases."""

from __future__ import annotations

import subprocess
import sys
import time
import warnings
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gstk.cases.phantoms import generate_phantom
from gstk.core.resampling import intensity_range, normalise
from gstk.errors import GstkError, TrainingError
from gstk.training.augment import augment
from gstk.training.case_files import check_spacing, find_cases, groups_of, read_list
from gstk.training.coreset import choose_coreset, write_list
from gstk.training.cutting import Patch, Volume, cut_patches
from gstk.training.data import Lane, make_loader, read_volume
from gstk.training.recipe import DataRecipe

RNG = np.random.default_rng
ZOOM = DataRecipe(
    cut="zoom", zoom_voxels=(32**3, 32**3), zoom_sides=(16, 32, 48), max_objects=3, patches_per_case=30, workers=0
)


def phantom_volume(seed: int = 11, side: int = 48, kind: str | None = "nuclei") -> Volume:
    phantom = generate_phantom(seed, (side,) * 3, kind)
    return Volume(phantom.image, phantom.labels, phantom.spacing_mm)


@settings(deadline=None, max_examples=30)
@given(st.tuples(*[st.integers(3, 40)] * 3), st.integers(0, 2**32 - 1))
def test_a_crop_is_the_volumes_own_voxels_around_its_class(shape: tuple[int, int, int], seed: int) -> None:
    rng = RNG(seed)
    # Each voxel says where it is, so that a crop shows where it was taken.
    image = np.arange(np.prod(shape), dtype=np.int32).reshape(shape) + 1
    labels = np.zeros(shape, np.uint8)
    low = [int(rng.integers(n)) for n in shape]
    labels[tuple(slice(a, a + 3) for a in low)] = 5
    recipe = DataRecipe(patch_size=(16, 32, 16), patches_per_case=3)
    patches = cut_patches(Volume(image, labels), recipe, rng)
    scaled = normalise(image, *intensity_range(image))
    assert len(patches) == 3
    for patch in patches:
        assert patch.image.shape == patch.labels.shape == (16, 32, 16)
        assert (patch.image.dtype, patch.labels.dtype) == (np.float32, np.int32)
        assert patch.classes == (5,)
        assert (patch.labels == 5).any()
        inside = [min(a, b) for a, b in zip(shape, (16, 32, 16), strict=True)]
        assert (patch.image > 0).sum() <= np.prod(inside)
        starts = [(p - n) // 2 for p, n in zip((16, 32, 16), inside, strict=True)]
        held = tuple(slice(a, a + n) for a, n in zip(starts, inside, strict=True))
        views = np.lib.stride_tricks.sliding_window_view(scaled, inside)
        same = (views == patch.image[held]).all(axis=(3, 4, 5))
        assert same.any(), "the crop is a box of the volume"
        where = tuple(slice(a, a + n) for a, n in zip(np.argwhere(same)[0], inside, strict=True))
        np.testing.assert_array_equal(patch.labels[held], labels[where])


def test_every_class_is_as_likely_as_any() -> None:
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[:20] = 1
    labels[30:33, 5:8, 5:8] = 2
    labels[39, 39, 39] = 3
    recipe = DataRecipe(patch_size=(16, 16, 16), patches_per_case=600)
    patches = cut_patches(Volume(np.zeros((40, 40, 40), np.uint8), labels), recipe, RNG(0))
    counts = np.bincount([patch.classes[0] for patch in patches], minlength=4)[1:]
    assert stats.chisquare(counts).pvalue > 1e-4


def test_a_zoomed_patch_holds_its_object_and_the_volumes_own_intensities() -> None:
    patches = cut_patches(phantom_volume(side=64), ZOOM, RNG(0))
    assert len(patches) > 20
    for patch in patches:
        assert 0 <= patch.image.min() <= patch.image.max() <= 1 + 1e-6
        assert patch.image.size <= 32**3 + 1
        assert 1 <= len(patch.classes) == len(set(patch.classes)) <= 3
        for label in patch.classes:
            assert (patch.labels == label).sum() >= 20


def test_zoomed_patches_are_isotropic_in_millimetres() -> None:
    """A ball in millimetres stays one: its extents in the window agree along every axis."""
    z, y, x = np.ogrid[-10:11, -30:31, -30:31]
    ball = ((3.0 * z) ** 2 + y**2 + x**2 < 20**2).astype(np.uint8)
    recipe = replace(ZOOM, patches_per_case=20, object_extent=(0.3, 0.4), zoom_sides=(32,), cube_share=1.0)
    ratios = []
    for patch in cut_patches(Volume(ball * 200, ball, (3.0, 1.0, 1.0)), recipe, RNG(1)):
        voxels = np.argwhere(patch.labels == 1)
        extents = np.ptp(voxels, axis=0) + 1
        ratios.append(extents[0] / extents[1:].mean())
    assert 0.85 < np.median(ratios) < 1.15


def test_a_volume_without_objects_gives_no_patch() -> None:
    empty = Volume(np.zeros((32, 32, 32), np.uint8), np.zeros((32, 32, 32), np.int32))
    assert cut_patches(empty, ZOOM, RNG(0)) == []
    assert cut_patches(empty, DataRecipe(), RNG(0)) == []


def corners(shape: tuple[int, int, int] = (6, 8, 10)) -> Patch:
    """A patch whose image and labels say the same thing at each voxel, all of them different."""
    labels = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    return Patch((labels / labels.size).astype(np.float32), labels, (1, 2))


@pytest.mark.parametrize("any_orientation", [False, True])
def test_image_and_labels_move_together(any_orientation: bool) -> None:
    recipe = DataRecipe(intensity_probability=0.0, spatial_probability=0.7, any_orientation=any_orientation)
    patch = corners()
    orders = set()
    for seed in range(60):
        moved = augment(patch, recipe, RNG(seed))
        np.testing.assert_allclose(moved.image * patch.labels.size, moved.labels, atol=1e-3)
        assert np.array_equal(np.sort(moved.labels, axis=None), np.sort(patch.labels, axis=None))
        assert moved.classes == patch.classes
        orders.add(moved.labels.tobytes())
        again = augment(patch, recipe, RNG(seed))
        np.testing.assert_array_equal(again.labels, moved.labels)
    assert len(orders) > 20


def test_each_flip_and_turn_has_its_probability() -> None:
    """With probability p of a flip of each axis and p of one to three quarter turns, a patch stays as it was with
    probability (1-p)^4, or where a turn by 180 degrees meets the two flips that undo it."""
    p, count = 0.2, 800
    recipe = DataRecipe(intensity_probability=0.0, spatial_probability=p)
    patch = Patch(*(corners((4, 4, 4))[:2]), (1,))
    same = sum(np.array_equal(augment(patch, recipe, RNG(s)).labels, patch.labels) for s in range(count))
    expected = (1 - p) ** 4 + p / 3 * p**2 * (1 - p)
    assert stats.binomtest(same, count, expected).pvalue > 1e-4


def test_intensities_follow_the_paper() -> None:
    """Scale and shift by up to 0.2 each, noise of standard deviation up to 0.2, each with its probability."""
    recipe = DataRecipe(intensity_probability=1.0, spatial_probability=0.0)
    flat = Patch(np.full((12, 12, 12), 0.5, np.float32), np.zeros((12, 12, 12), np.int32), ())
    means, deviations = [], []
    for seed in range(300):
        image = augment(flat, recipe, RNG(seed)).image
        means.append(image.mean())
        deviations.append(image.std())
    assert 0.5 * 0.8 - 0.2 - 0.02 <= min(means) < 0.25
    assert 0.75 < max(means) <= 0.5 * 1.2 + 0.2 + 0.02
    assert stats.kstest(deviations, stats.uniform(0, 0.2).cdf).pvalue > 1e-4
    still = replace(recipe, intensity_probability=0.0)
    np.testing.assert_array_equal(augment(flat, still, RNG(0)).image, flat.image)


def write_cases(folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        volume = phantom_volume(index, 20, "blobs")
        np.savez(folder / f"c{index}.npz", imgs=volume.image, gts=volume.labels, spacing=[1.0, 2.0, 3.0])
    return find_cases(folder)


def names(paths: list[Path], lanes: list[Lane], count: int, first: int = 0, workers: int = 0) -> list[str]:
    recipe = DataRecipe(patch_size=(16, 16, 16), patches_per_case=1, workers=workers)
    return [item.name for item in islice(make_loader(paths, recipe, (3, 1), lanes, first), count)]


def test_an_epoch_holds_every_case_once_in_a_new_order(tmp_path: Path) -> None:
    paths = write_cases(tmp_path, 7)
    drawn = names(paths, [Lane(0, 1)], 28)
    epochs = [drawn[i : i + 7] for i in range(0, 28, 7)]
    for epoch in epochs:
        assert sorted(epoch) == [p.name for p in paths]
    assert len({tuple(e) for e in epochs}) > 1


def test_shares_say_how_often_a_source_is_drawn(tmp_path: Path) -> None:
    paths = []
    for name in ("CT_1", "CT_2", "CT_3", "MR_1"):
        np.savez(tmp_path / f"{name}.npz", imgs=np.zeros((8, 8, 8), np.uint8), gts=np.ones((8, 8, 8), np.uint8))
        paths.append(tmp_path / f"{name}.npz")
    recipe = DataRecipe(
        patch_size=(8, 8, 8),
        patches_per_case=1,
        workers=0,
        phantom_side=32,
        shares={"MR_*": 1.0, "CT_*": 2.0, "phantoms": 1.0},
    )
    names = [
        item.name.split("_")[0].split(" ")[0] for item in islice(make_loader(paths, recipe, [3], [Lane(0, 1)]), 200)
    ]
    counts = [names.count(name) for name in ("MR", "CT", "phantom")]
    assert sum(counts) == 200
    assert stats.chisquare(counts, [50, 100, 50]).pvalue > 1e-4


def test_shares_that_do_not_fit_the_cases(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"got b\.npz, which matches nothing"):
        groups_of([tmp_path / "a.npz", tmp_path / "b.npz"], {"a*": 1.0, "phantoms": 1.0})
    with pytest.raises(TrainingError, match=r"got data\.shares for c\*, which no case"):
        groups_of([tmp_path / "a.npz"], {"a*": 1.0, "c*": 1.0})
    with pytest.raises(TrainingError, match="expected weights above 0"):
        DataRecipe(shares={"a*": 0.0})


def test_a_share_of_the_windows_is_what_a_session_lays() -> None:
    """A click's window has the volume's finest spacing twice over; a box's holds the box with its margin."""
    labels = np.zeros((100, 100, 100), np.uint8)
    labels[44:56, 46:54, 40:60] = 1
    volume = Volume(labels * 200, labels, (1.0, 1.0, 1.0))
    recipe = replace(
        ZOOM,
        session_share=1.0,
        session_voxels=(32**3, 32**3),
        zoom_sides=(16, 32),
        patches_per_case=60,
        intensity_probability=0.0,
    )
    patches = cut_patches(volume, recipe, RNG(2))
    assert len(patches) == 60
    voxels = np.array([np.count_nonzero(patch.labels) for patch in patches])
    assert all(patch.image.size <= 32**3 and all(side % 16 == 0 for side in patch.image.shape) for patch in patches)
    clicked = np.isclose(voxels, labels.sum() / 2**3, rtol=0.05)
    assert stats.binomtest(int(clicked.sum()), 60, 0.5).pvalue > 1e-3
    assert np.median(voxels[~clicked]) > 3 * voxels[clicked].max(), "the others are finer"


def test_lanes_share_the_stream_out(tmp_path: Path) -> None:
    paths = write_cases(tmp_path, 5)
    whole = names(paths, [Lane(0, 1)], 12)
    assert names(paths, [Lane(0, 3)], 4) == whole[0::3]
    assert names(paths, [Lane(1, 3), Lane(2, 3)], 8) == [n for i, n in enumerate(whole) if i % 3]
    assert names(paths, [Lane(0, 3)], 3, first=1) == whole[3::3]
    assert names(paths, [Lane(0, 1)], 12, workers=2) == whole


def test_generated_items_do_not_depend_on_workers() -> None:
    recipe = replace(
        ZOOM, source="phantoms", phantom_side=32, patches_per_case=2, zoom_sides=(16,), zoom_voxels=(4096,) * 2
    )
    runs = []
    for workers in (0, 2):
        loader = make_loader([], replace(recipe, workers=workers), (1, 1), [Lane(0, 1)])
        runs.append([patch for item in islice(loader, 4) for patch in item.patches])
    assert len(runs[0]) > 4
    for one, two in zip(*runs, strict=True):
        np.testing.assert_array_equal(one.image, two.image)
        np.testing.assert_array_equal(one.labels, two.labels)


def test_patches_grow_over_the_items() -> None:
    recipe = replace(
        ZOOM, source="phantoms", phantom_side=32, patches_per_case=2, zoom_sides=(16, 24, 32), cube_share=1.0,
        zoom_voxels=(16**3, 32**3), growth_patches=12,
    )  # fmt: skip
    items = islice(make_loader([], recipe, (1, 1), [Lane(0, 1)]), 8)
    sides = [{patch.image.shape[0] for patch in item.patches} for item in items]
    assert sides[0] == {16}
    assert sides[6] | sides[7] == {32}
    assert {24} in sides


@pytest.mark.parametrize(
    "arrays",
    [
        {"gts": np.zeros((4, 4, 4), np.uint8)},
        {"imgs": np.zeros((4, 4, 4))},
        {"imgs": np.zeros((4, 4, 4)), "gts": np.zeros((4, 4, 5), np.uint8)},
        {"imgs": np.full((4, 4, 4), np.nan), "gts": np.zeros((4, 4, 4), np.uint8)},
        {"imgs": np.zeros((4, 4, 4)), "gts": np.full((4, 4, 4), -1)},
        {"imgs": np.zeros((4, 4, 4)), "gts": np.zeros((4, 4, 4), np.uint8), "spacing": np.zeros(3)},
        {"imgs": np.zeros((4, 4)), "gts": np.zeros((4, 4), np.uint8)},
    ],
)
def test_what_is_no_case_to_train_on(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    np.savez(tmp_path / "case.npz", **arrays)
    with pytest.raises(GstkError, match=r"case\.npz"):
        read_volume(tmp_path / "case.npz")


def test_a_volume_is_read_whole(tmp_path: Path) -> None:
    path = write_cases(tmp_path, 1)[0]
    volume, expected = read_volume(path), phantom_volume(0, 20, "blobs")
    np.testing.assert_array_equal(volume.image, expected.image)
    np.testing.assert_array_equal(volume.labels, expected.labels)
    assert volume.spacing_mm == (1.0, 2.0, 3.0)


def test_a_coreset_is_a_fair_draw_that_can_be_read_again(tmp_path: Path) -> None:
    for folder in ("ct", "mr/deep"):
        (tmp_path / folder).mkdir(parents=True)
        for index in range(10):
            (tmp_path / folder / f"c{index}.npz").touch()
    chosen = choose_coreset(tmp_path, 0.25, seed=3)
    assert len(chosen) == len(set(chosen)) == 5
    assert chosen == choose_coreset(tmp_path, 0.25, seed=3) == sorted(chosen)
    write_list(tmp_path / "list.txt", chosen, tmp_path, "a remark")
    assert read_list(tmp_path / "list.txt", tmp_path) == chosen
    assert len(choose_coreset(tmp_path, 0.001, seed=0)) == 1
    assert choose_coreset(tmp_path, 1.0, seed=0) == find_cases(tmp_path)
    all_cases = find_cases(tmp_path)
    counts = np.zeros(20)
    for seed in range(400):
        for case in choose_coreset(tmp_path, 0.1, seed):
            counts[all_cases.index(case)] += 1
    assert stats.chisquare(counts).pvalue > 1e-4
    for fraction in (0.0, -1.0, 1.1, float("nan")):
        with pytest.raises(TrainingError, match="expected above 0"):
            choose_coreset(tmp_path, fraction, 0)


def test_lists_that_cannot_be_used(tmp_path: Path) -> None:
    folder = tmp_path / "cases"
    folder.mkdir()
    (tmp_path / "outside.npz").touch()
    (folder / "a.npz").touch()
    for text in ("", "# nothing\n", "b.npz\n", "../outside.npz\n", "a.npz\n\nb.npz\n"):
        (tmp_path / "list.txt").write_text(text)
        with pytest.raises(TrainingError, match=r"in the list .*list\.txt"):
            read_list(tmp_path / "list.txt", folder)
    with pytest.raises(TrainingError, match="cannot read the list"):
        read_list(tmp_path / "none.txt", folder)
    with pytest.raises(TrainingError, match="expected a folder"):
        find_cases(tmp_path / "none")
    (folder / "a.npz").unlink()
    with pytest.raises(TrainingError, match=r"without an \.npz file"):
        find_cases(folder)


@pytest.mark.slow
def test_workers_end_with_a_process_that_leaves_its_loader_open() -> None:
    """At exit, and when it is killed: nobody waits for ever, and no worker is left behind."""
    program = """
import os, sys
import gstk.training.data
from gstk.training.data import Lane, make_loader
gstk.training.data.TERM_SECONDS = 1
from gstk.training.recipe import DataRecipe
recipe = DataRecipe(source="phantoms", patch_size=(16, 16, 16), phantom_side=32, workers=1)
items = iter(make_loader([], recipe, (1, 1), [Lane(0, 1)]))
next(items)
print(items._workers[0].pid, flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), 9)
"""
    for way in ("exits", "killed"):
        run = subprocess.run([sys.executable, "-c", program, way], capture_output=True, text=True, encoding="utf-8")
        assert run.returncode == {"exits": 0, "killed": -9}[way], run.stderr
        worker = Path("/proc") / run.stdout.strip()
        for _ in range(1000):
            if not worker.exists() or "Z" in (worker / "stat").read_text().split()[2]:
                break
            time.sleep(0.1)
        else:
            pytest.fail(f"worker {worker.name} is left behind")


def test_spacing_in_the_other_order_is_noticed_and_taken(tmp_path: Path) -> None:
    image = np.zeros((6, 20, 24), np.uint8)
    for name, spacing in (("a", (0.8, 0.8, 5)), ("b", (5, 0.8, 0.8)), ("c", None)):
        arrays = {"imgs": image, "gts": image} | ({} if spacing is None else {"spacing": spacing})
        np.savez(tmp_path / f"{name}.npz", **arrays)
    (tmp_path / "d.npz").write_bytes(b"damaged")
    a, b, c, d = (tmp_path / f"{name}.npz" for name in "abcd")
    said = check_spacing([a, b, d], "zyx")
    assert said is not None
    assert "of 1 of 3 cases, read as (z, y, x), looks reversed, first that of a.npz; " in said
    assert said.endswith("--spacing-order xyz")
    assert "first that of b.npz; if it is, use --spacing-order zyx" in str(check_spacing([a, b], "xyz"))
    assert check_spacing([b, d], "zyx") is None
    assert check_spacing([b, c], "zyx") == "1 of 2 cases have no 'spacing'; 1 mm along each axis is assumed"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_volume(a, "xyz").spacing_mm == read_volume(b).spacing_mm == (5, 0.8, 0.8)
        assert read_volume(c).spacing_mm == (1, 1, 1)


def test_a_first_click_sees_as_much_as_the_largest_window_shows() -> None:
    """64³ voxels at twice the finest spacing show 128 of the volume; on 32³ voxels that is a step of 4."""
    labels = np.zeros((160, 160, 160), np.uint8)
    labels[72:88, 72:88, 72:88] = 1
    volume = Volume(labels * 200, labels, (1.0, 1.0, 1.0))
    recipe = replace(ZOOM, session_share=1.0, session_voxels=(32**3, 64**3), zoom_sides=(16, 32), patches_per_case=40)
    patches = cut_patches(volume, recipe, RNG(3))
    steps = [(16**3 / np.count_nonzero(patch.labels)) ** (1 / 3) for patch in patches]
    assert sum(step > 2.1 for step in steps) > 5, "coarser than any window at twice the spacing"
    for patch, step in zip(patches, steps, strict=True):
        assert step * max(patch.image.shape) < 128 * 1.2
