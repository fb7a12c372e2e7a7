"""Ignored points: a decoder gives what it gives without them, in every backend and precision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_inputs import INSTALLED, prompts, region

from gstk.core.bundle import Bundle, write_bundle
from gstk.engines import Engine, open_engine
from gstk.engines.point_padding import IGNORED, pad_points, padded_count
from gstk.errors import EngineError

RUNS = [
    (name, precision)
    for name in INSTALLED
    for precision in ("fp32", "fp16", "int8")
    if precision != "int8" or name != "torch"
]
SHAPE = (16, 24, 32)


def test_few_numbers_of_points() -> None:
    counts = [padded_count(n) for n in range(1, 301)]
    assert all(count >= n for n, count in enumerate(counts, start=1))
    assert all(count <= max(4, 1.5 * n) for n, count in enumerate(counts, start=1))
    assert sorted(set(counts)) == [4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384]


@pytest.mark.parametrize(("most", "count"), [(None, 6), (32, 6), (5, 5)])
def test_points_are_kept_in_front(most: int | None, count: int) -> None:
    coords, labels = np.arange(30, dtype=np.float32).reshape(2, 5, 3), np.arange(10).reshape(2, 5) % 4
    more_coords, more_labels = pad_points(coords, labels, most)
    assert more_coords.shape == (2, count, 3)
    assert more_coords.dtype == np.float32
    np.testing.assert_array_equal(more_coords[:, :5], coords)
    np.testing.assert_array_equal(more_labels, np.pad(labels, ((0, 0), (0, count - 5)), constant_values=IGNORED))


@pytest.fixture(scope="module", params=RUNS, ids="-".join)
def engine(request: pytest.FixtureRequest, every_precision: Bundle) -> Iterator[Engine]:
    name, precision = request.param
    with open_engine(every_precision, name, precision) as engine:
        yield engine


@pytest.mark.parametrize(("objects", "points"), [(1, 1), (3, 2), (2, 7), (1, 40)])
def test_ignored_points_change_no_logit(engine: Engine, objects: int, points: int) -> None:
    """Against the points alone, before any engine of this package sees them: `_decode` does what a backend does."""
    coords, labels = prompts(SHAPE, objects, points)
    embedding = engine.encode(region(SHAPE))
    expected = _plain(engine, embedding.handle, coords, labels)
    padded = (
        np.pad(coords, ((0, 0), (2, 9), (0, 0)), constant_values=500),
        np.pad(labels, ((0, 0), (2, 9)), constant_values=IGNORED),
    )
    found = engine.decode(embedding, *padded)
    spread = float(np.abs(expected).max())
    tolerance = (3e-3 if engine.precision == "fp16" else 2e-6) * spread  # float16 has a step of 1e-3 at 1
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0)
    np.testing.assert_allclose(engine.decode(embedding, coords, labels), expected, atol=tolerance, rtol=0)
    # And not because points count for nothing: padding that attention sees changes the logits.
    padded[0][padded[1] == IGNORED] = 0
    seen = engine.decode(embedding, padded[0], np.where(padded[1] == IGNORED, -1, padded[1]))
    assert np.abs(seen - expected).max() > 3 * tolerance


def _plain(engine: Engine, handle: Any, coords: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The decoder's logits for exactly these points, without the padding of the OpenVINO engine."""
    if engine.name != "openvino":
        return engine._decode(handle, coords, labels)
    graphs = engine._graphs_for(SHAPE)  # type: ignore[attr-defined]
    logits = np.empty((len(labels), 1, *SHAPE), np.float32)
    for b in range(len(labels)):
        one = slice(b, b + 1)
        inputs = {"embedding": handle, "point_coords": coords[one], "point_labels": labels[one]}
        engine._run(graphs, 1, inputs, logits[one])  # type: ignore[attr-defined]
    return logits


def test_an_object_has_a_point_that_counts(engine: Engine) -> None:
    coords, _ = prompts(SHAPE, 1, 2)
    with pytest.raises(EngineError, match=r"got objects \[0\] with padding points only"):
        engine.decode(engine.encode(region(SHAPE)), coords, np.array([[IGNORED, -1]]))


def test_an_older_bundle_says_that_it_ignores_no_points(every_precision: Bundle, tmp_path: Path) -> None:
    given = every_precision.manifest
    assert given.ignored_points
    assert given.to_json()["ignored_points"] is True
    sources = {name: every_precision.path / name for name in given.files}
    old = write_bundle(tmp_path / "old", replace(given, ignored_points=False), sources)
    assert "ignored_points" not in old.manifest.to_json()
    coords, labels = prompts((8, 8, 8), 1, 2)
    with open_engine(old, "onnxruntime") as engine:
        embedding = engine.encode(region((8, 8, 8)))
        engine.decode(embedding, coords, labels)
        with pytest.raises(EngineError, match=r"label -2 for a bundle of an older gstk.*export it again"):
            engine.decode(embedding, coords, np.array([[1, IGNORED]]))
