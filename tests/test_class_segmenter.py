"""Class prompts on whole volumes, against MONAI's sliding window and transforms around the unsplit network."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from class_weights import balance_classes  # noqa: E402
from monai.data.utils import dense_patch_slices  # noqa: E402
from monai.inferers.utils import _get_scan_interval  # noqa: E402

from gstk.core.geometry import Geometry  # noqa: E402
from gstk.core.network_image import NetworkImage  # noqa: E402
from gstk.core.profile import find_profile  # noqa: E402
from gstk.core.volume import Volume  # noqa: E402
from gstk.errors import Interrupted, PromptError  # noqa: E402
from gstk.session.class_segmenter import ClassSegmenter, window_starts  # noqa: E402
from gstk.training.bundle_reference import BundlePipeline  # noqa: E402
from gstk.training.network import ClassEncoder, build_network, class_vectors  # noqa: E402
from gstk.training.spec import VISTA3DSpec  # noqa: E402

PROFILE = replace(find_profile("nv-segment-ct"), patch=(32, 32, 32))
CLASSES = (1, 3, 40, 115)


@given(st.integers(1, 300), st.integers(8, 96), st.sampled_from([0.0, 0.25, 0.5, 0.625]))
def test_windows_lie_as_monais_do(count: int, side: int, overlap: float) -> None:
    padded = max(count, side)
    interval = _get_scan_interval((padded,), (side,), 1, (overlap,))
    before = max(side - count, 0) // 2
    expected = [s[0].start - before for s in dense_patch_slices((padded,), (side,), interval)]
    assert window_starts(count, side, overlap) == expected


@pytest.fixture(scope="module")
def network() -> Any:
    """Random weights whose classes are neither nowhere nor everywhere."""
    torch.manual_seed(11)
    return balance_classes(build_network(VISTA3DSpec(width=8, blocks_down=(1, 1, 1))).eval())


def a_ct(shape: tuple[int, int, int], direction: Any) -> Volume:
    rng = np.random.default_rng(4)
    grid = np.indices(shape).astype(float)
    image = 600 * np.sin(grid[0] / 4) * np.cos(grid[1] / 6) + 300 * np.sin(grid[2] / 5) + rng.normal(0, 60, shape)
    geometry = Geometry(shape, (2.0, 1.2, 1.5), (3.0, 2.0, 1.0), tuple(np.ravel(direction)))  # type: ignore[arg-type]
    return Volume(image.astype(np.int16), geometry, "CT", "HU")


def segmenter(network: Any, volume: Volume, cache_bytes: int = 0) -> ClassSegmenter:
    encoder, count = ClassEncoder(network), [0]

    def features_of(image: Any) -> Any:
        count[0] += 1
        with torch.no_grad():
            return encoder(torch.from_numpy(image))[0].numpy()

    found = ClassSegmenter(
        features_of, class_vectors(network).numpy(), NetworkImage.prepare(volume, PROFILE), cache_bytes
    )
    found.count = count  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize(
    ("shape", "direction"),
    [
        ((40, 60, 50), [[0, 0, 1], [1, 0, 0], [0, -1, 0]]),
        ((12, 70, 30), [[-1, 0, 0], [0, 1, 0], [0, 0, -1]]),  # smaller than a window along two axes
    ],
)
def test_label_map_is_monais(network: Any, shape: tuple[int, int, int], direction: Any) -> None:
    volume = a_ct(shape, direction)
    expected = BundlePipeline(network, PROFILE, volume).classes(CLASSES)
    labels = segmenter(network, volume).segment(CLASSES)
    assert 0.02 < (expected > 0).mean() < 0.98
    assert len(np.unique(expected)) > 2
    assert (labels == expected).mean() >= 0.999


def test_single_class_is_where_its_logit_is_above_0(network: Any) -> None:
    volume = a_ct((40, 40, 40), np.eye(3))
    expected = BundlePipeline(network, PROFILE, volume).classes(CLASSES[:1])
    assert (segmenter(network, volume).segment(CLASSES[:1]) == expected).mean() >= 0.999


def test_further_classes_come_from_kept_features(network: Any) -> None:
    volume = a_ct((40, 60, 50), np.eye(3))
    fresh, keeping = segmenter(network, volume), segmenter(network, volume, cache_bytes=2**30)
    seen: list[tuple[int, int]] = []
    first = keeping.segment(CLASSES, lambda done, total: seen.append((done, total)))
    assert seen == [(n, keeping.windows) for n in range(1, keeping.windows + 1)]
    assert keeping.count == [keeping.windows]  # type: ignore[attr-defined]
    np.testing.assert_array_equal(keeping.segment(CLASSES), first)
    np.testing.assert_array_equal(keeping.segment(CLASSES[-1:]), fresh.segment(CLASSES[-1:]))
    assert keeping.count == [keeping.windows]  # type: ignore[attr-defined]
    fresh.segment(CLASSES[-1:])
    assert fresh.count == [2 * fresh.windows]  # type: ignore[attr-defined]


def test_profile_without_a_resolution_has_no_class_prompts(network: Any) -> None:
    image = NetworkImage.prepare(a_ct((8, 8, 8), np.eye(3)), find_profile("tiny"))
    with pytest.raises(PromptError, match="no resolution"):
        ClassSegmenter(lambda image: image[0], np.zeros((3, 1), np.float32), image)


@pytest.mark.parametrize("cache_bytes", [0, 2**40])
def test_memory_for_features_is_foreseen(cache_bytes: int) -> None:
    """The peak that Python's allocator sees is what is foreseen, and a few copies of one window's features."""
    channels, side = 64, 16
    profile = replace(find_profile("nv-segment-ct"), patch=(side,) * 3, crop_margin=None)
    volume = np.zeros((40, 50, 60), np.int16)
    image = NetworkImage.prepare(Volume(volume, Geometry(volume.shape, (1.5,) * 3), "CT", "HU"), profile)
    vectors = np.zeros((2, channels), np.float32)
    segmenter = ClassSegmenter(lambda x: np.ones((channels, *x.shape[2:]), np.float32), vectors, image, cache_bytes)
    tracemalloc.start()
    segmenter.segment_grid((1,))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    window = 4 * channels * side**3
    assert segmenter.held_bytes > 4 * window
    assert segmenter.held_bytes <= peak <= segmenter.held_bytes + 3 * window


def plain_segmenter(features_of: Callable[[Any], Any]) -> ClassSegmenter:
    """A CT of 3×4×5 windows, and a network of one channel."""
    profile = replace(find_profile("nv-segment-ct"), patch=(16,) * 3, crop_margin=None)
    values = np.random.default_rng(0).normal(0, 99, (40, 50, 60)).astype(np.int16)
    volume = Volume(values, Geometry(values.shape, (1.5,) * 3), "CT", "HU")
    return ClassSegmenter(features_of, np.ones((2, 1), np.float32), NetworkImage.prepare(volume, profile))


def test_the_next_window_is_run_beside_the_labels_of_this_one() -> None:
    calls, second = [], threading.Event()

    def features_of(image: Any) -> Any:
        calls.append(threading.current_thread())
        if len(calls) == 2:
            second.set()
        return image[0]

    def on_progress(done: int, total: int) -> None:
        if done == 1:
            assert second.wait(30)

    segmenter = plain_segmenter(features_of)
    segmenter.segment_grid((1,), on_progress)
    assert len(calls) == segmenter.windows
    assert len(set(calls)) == 1
    assert not calls[0].is_alive()


def test_large_windows_are_run_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the features of one, those of the next would take memory."""
    calls: list[threading.Thread] = []

    def features_of(image: Any) -> Any:
        calls.append(threading.current_thread())
        return image[0]

    overlapped = plain_segmenter(lambda image: image[0])
    monkeypatch.setattr("gstk.session.class_segmenter._AHEAD_BYTES", 4 * 16**3 - 1)
    segmenter = plain_segmenter(features_of)
    assert segmenter.held_bytes == overlapped.held_bytes - 4 * 16**3
    np.testing.assert_array_equal(segmenter.segment_grid((1,)), overlapped.segment_grid((1,)))
    assert set(calls) == {threading.current_thread()}


@pytest.mark.parametrize("where", ["network", "caller"])
def test_what_fails_leaves_no_thread(where: str) -> None:
    calls = []

    def features_of(image: Any) -> Any:
        calls.append(threading.current_thread())
        if where == "network" and len(calls) == 3:
            raise Interrupted("interrupted by cancel")
        return image[0]

    def on_progress(done: int, total: int) -> None:
        if where == "caller" and done == 3:
            raise Interrupted("given up")

    segmenter = plain_segmenter(features_of)
    with pytest.raises(Interrupted):
        segmenter.segment_grid((1,), on_progress)
    assert len(calls) in (3, 4)
    assert not calls[0].is_alive()
    assert not segmenter.has_features
