"""Class prompts on TensorRT: a plan of their own beside the others, on the stand-in (`fake_tensorrt.py`)."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_inputs import region
from fake_tensorrt import Fake, installed

from gstk.core.bundle import Bundle
from gstk.engines import open_engine
from gstk.engines.tensorrt_build import build_plans
from gstk.errors import PlanError
from gstk.export.check import check_bundle

pytest.importorskip("onnxruntime", reason="the stand-in computes with ONNX Runtime")
REGION = (8, 12, 16)


@pytest.fixture(scope="module")
def fake() -> Iterator[Fake]:
    with installed() as fake:
        yield fake


@pytest.fixture(scope="module")
def plans(fake: Fake, by_class: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Plans where they are looked for without being told."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("os.access", lambda *_: False)  # as in a bundle that is installed for all
        results = [
            *build_plans(by_class, "fp32", regions=[(8, 8, 8)], wide=(8, 16, 24), objects=2, points=8),
            *build_plans(by_class, "fp16", regions=[(8, 8, 8)], wide=(8, 16, 24), objects=2, points=8),
        ]
        kinds = [result.plan.record.kind for result in results]
        assert kinds == ["encoder", "prompt_decoder", "class_encoder"] * 2
        yield results[0].plan.path.parent


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_features_are_those_of_onnx_runtime(fake: Fake, plans: Path, by_class: Bundle, precision: str) -> None:
    with (
        open_engine(by_class, "tensorrt", precision) as engine,
        open_engine(by_class, "onnxruntime", precision) as other,
    ):
        for shape, seed in ((REGION, 0), ((8, 8, 8), 1), (REGION, 2)):
            features = engine.class_features(region(shape, seed))
            kept = features.copy()
            assert features.dtype == np.float32
            np.testing.assert_allclose(features, other.class_features(region(shape, seed)), atol=1e-5)
            embedding = engine.encode(region(shape, 7))  # shares the input and the memory of the runs
            engine.class_features(region(shape, 5))
            np.testing.assert_array_equal(features, kept)
            again = engine.encode(region(shape, 7))
            coords, labels = np.full((1, 1, 3), 3, np.float32), np.ones((1, 1), np.int64)
            np.testing.assert_array_equal(
                engine.decode(embedding, coords, labels), engine.decode(again, coords, labels)
            )
        np.testing.assert_array_equal(engine.class_vectors(), other.class_vectors())


def test_plan_for_classes_is_loaded_at_the_first_class(fake: Fake, plans: Path, by_class: Bundle) -> None:
    with open_engine(by_class, "tensorrt", "fp32") as engine:
        fake.contexts = 0
        engine.encode(region(REGION))
        assert fake.contexts == 1
        engine.class_features(region(REGION))
        assert fake.contexts == 2


def test_memory_goes_back(fake: Fake, plans: Path, by_class: Bundle) -> None:
    held = fake.cuda.used_bytes, len(fake.cuda.pinned)
    engine = open_engine(by_class, "tensorrt", "fp32")
    engine.class_features(region(REGION))
    engine.close()
    gc.collect()
    assert (fake.cuda.used_bytes, len(fake.cuda.pinned)) == held


def test_parity_is_checked_on_tensorrt(fake: Fake, plans: Path, by_class: Bundle) -> None:
    found = {f.what: f for f in check_bundle(by_class.path, parity=True)}
    assert found["parity of classes: tensorrt fp32"].ok
    assert found["parity of classes: tensorrt fp16"].ok


def test_plans_without_one_for_classes_serve_clicks(fake: Fake, plans: Path, by_class: Bundle, tmp_path: Path) -> None:
    build_plans(by_class, "fp32", regions=[(8, 8, 8)], wide=None, objects=2, points=4, plans=tmp_path)
    for file in tmp_path.glob("class_encoder.*"):
        file.unlink()
    with open_engine(by_class, "tensorrt", "fp32", options={"plans": tmp_path}) as engine:
        engine.encode(region((8, 8, 8)))
        with pytest.raises(PlanError, match="without one of its graph for classes; run: gstk build"):
            engine.class_features(region((8, 8, 8)))


def test_bundle_without_classes_has_two_plans(fake: Fake, small_export: Any, tmp_path: Path) -> None:
    results = build_plans(small_export.bundle, regions=[(8, 8, 8)], wide=None, objects=2, points=4, plans=tmp_path)
    assert [result.plan.record.kind for result in results] == ["encoder", "prompt_decoder"]
