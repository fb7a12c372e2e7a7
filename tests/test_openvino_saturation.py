"""INT8 on processors without VNNI: weights whose products do not saturate, in OpenVINO."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

openvino = pytest.importorskip("openvino")

from gstk.core.bundle import Bundle  # noqa: E402
from gstk.engines.openvino import saturates_int8, shared_core  # noqa: E402
from gstk.engines.openvino_saturation import MAX_STEPS, fit_steps, narrow_weights, products_saturate  # noqa: E402
from gstk.engines.processor import this_processor  # noqa: E402

SHAPE = (4, 3, 2, 2, 2)
# Which instructions oneDNN takes at the most: AVX-512 without VNNI; where the processor has less, that is all the same.
WITHOUT_VNNI = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}


@given(arrays(np.int16, SHAPE, elements=st.integers(-255, 255)), st.integers(0, 1))
def test_no_sum_of_two_products_saturates(weights: np.ndarray, axis: int) -> None:
    shape = [1] * len(SHAPE)
    shape[axis] = SHAPE[axis]
    steps, factor = fit_steps(weights, np.ones(shape, np.float32))
    assert factor.shape == tuple(shape)
    largest = np.abs(steps.astype(int)).max()
    assert 2 * 255 * largest <= np.iinfo(np.int16).max
    assert largest <= MAX_STEPS
    assert (np.abs(steps * factor - weights) <= factor / 2 + 1e-3).all()
    narrow = np.abs(weights).max(axis=tuple(i for i in range(5) if i != axis)) <= MAX_STEPS
    np.testing.assert_array_equal(factor.ravel() == 1, narrow)


@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_with_zero_points_keep_what_they_stand_for(kind: str, per_channel: bool) -> None:
    from openvino import opset13 as ops

    rng = np.random.default_rng(0)
    limits = np.iinfo(kind)
    weights = rng.integers(limits.min, limits.max, SHAPE, endpoint=True, dtype=kind)
    shape = (SHAPE[0], 1, 1, 1, 1) if per_channel else ()
    zero = rng.integers(limits.min, limits.max, shape, endpoint=True, dtype=kind)
    scale = rng.uniform(0.5, 2, shape).astype(np.float32)
    image = ops.parameter([1, 3, 4, 4, 4], np.float32)
    less = ops.subtract(
        ops.convert(ops.constant(weights), np.float32), ops.convert(ops.constant(np.asarray(zero)), np.float32)
    )
    kernels = ops.multiply(less, ops.constant(np.asarray(scale)))
    model = openvino.Model([ops.convolution(image, kernels, [1] * 3, [0] * 3, [0] * 3, [1] * 3)], [image], "zeros")
    assert narrow_weights(model) == 1
    assert narrow_weights(model) == 0
    (convolution,) = (node for node in model.get_ops() if node.get_type_name() == "Convolution")
    found = convolution.input_value(1).get_node()
    steps, factors = (found.input_value(i).get_node() for i in range(2))
    narrow = steps.input_value(0).get_node().get_data()
    assert narrow.dtype == np.int8
    assert np.abs(narrow.astype(int)).max() <= MAX_STEPS
    exact = (weights.astype(float) - zero) * scale
    np.testing.assert_allclose(narrow * factors.get_data(), exact, atol=factors.get_data().max() / 2 + 1e-3)


def test_the_plugin_saturates_where_vnni_is_missing() -> None:
    assert products_saturate(shared_core()) == saturates_int8() == this_processor().saturates_int8


@pytest.fixture(scope="module")
def embedding_error(every_precision: Bundle) -> Callable[[bool], float]:
    """The INT8 embedding's error, relative to the spread of that in float32, with weights narrowed or not."""
    from gstk.engines.openvino_int8 import fuse_residual_sums, widen_unsigned

    core = shared_core()
    image = np.random.default_rng(77).random((1, 1, 32, 24, 40), np.float32)

    def embedding(model: Any) -> np.ndarray:
        return core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([image])[0]

    exact = embedding(core.read_model(every_precision.graph("encoder")))

    def error(narrow: bool) -> float:
        model = core.read_model(every_precision.graph("encoder", "int8"))
        assert not narrow or narrow_weights(model) > 10
        widen_unsigned(model)
        fuse_residual_sums(model)
        return float(np.sqrt(np.square(embedding(model) - exact).mean()) / exact.std())

    return error


def test_narrow_weights_keep_the_embedding_close_on_every_processor(embedding_error: Callable[[bool], float]) -> None:
    assert embedding_error(True) < 0.1


@pytest.mark.skipif(this_processor().saturates_int8, reason="8-bit weights saturate on this processor")
def test_narrow_weights_cost_little(embedding_error: Callable[[bool], float]) -> None:
    assert embedding_error(True) < 1.2 * embedding_error(False)


_EMBEDDING = """
import sys
import numpy as np
from gstk.engines import open_engine, openvino_graphs
from gstk.engines.openvino import saturates_int8

assert saturates_int8()
image = np.random.default_rng(77).random((1, 1, 32, 24, 40), np.float32)

def embedding(precision):
    with open_engine(sys.argv[1], "openvino", precision) as engine:
        found = engine.encode(image)
        assert np.isfinite(engine.decode(found, np.full((1, 1, 3), 8), np.ones((1, 1)))).all()
        return found.handle

exact, narrow = embedding("fp32"), embedding("int8")
openvino_graphs.narrow_weights = lambda model: 0
saturated = embedding("int8")
print(*(np.sqrt(np.square(found - exact).mean()) / exact.std() for found in (narrow, saturated)))
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the limit on instructions is for x86")
def test_engines_are_right_without_vnni(every_precision: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in WITHOUT_VNNI.items():
        monkeypatch.setenv(name, value)
    program = [sys.executable, "-c", _EMBEDDING, str(every_precision.path)]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    narrow, saturated = map(float, done.stdout.split())
    assert narrow < 0.1
    assert saturated > 0.15
