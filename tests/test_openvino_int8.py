"""INT8 encoders as OpenVINO runs them best: unsigned behind a ReLU, residual sums within convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openvino")
onnx = pytest.importorskip("onnx")

from gstk.core.bundle import Bundle  # noqa: E402
from gstk.engines.openvino import saturates_int8, shared_core  # noqa: E402
from gstk.engines.openvino_int8 import fuse_residual_sums, is_quantised, widen_unsigned  # noqa: E402
from gstk.engines.openvino_layout import give_channels_last  # noqa: E402
from gstk.engines.openvino_saturation import narrow_weights  # noqa: E402

IMAGE = np.random.default_rng(77).random((1, 1, 32, 24, 40), np.float32)


@pytest.fixture
def read(every_precision: Bundle) -> Callable[[], Any]:
    """Reads the INT8 encoder, exact on every processor."""

    def call() -> Any:
        model = shared_core().read_model(every_precision.graph("encoder", "int8"))
        if saturates_int8():
            narrow_weights(model)
        return model

    return call


@pytest.fixture(scope="module")
def exact(every_precision: Bundle) -> np.ndarray:
    embedding: np.ndarray = compiled(shared_core().read_model(every_precision.graph("encoder")))([IMAGE])[0]
    return embedding


def compiled(model: Any) -> Any:
    return shared_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sqrt(np.square(found - expected).mean()) / expected.std())


def test_which_graphs_are_quantised(every_precision: Bundle, read: Callable[[], Any]) -> None:
    assert not is_quantised(shared_core().read_model(every_precision.graph("encoder")))
    assert is_quantised(read())


def test_values_behind_a_relu_take_all_steps(
    every_precision: Bundle, read: Callable[[], Any], exact: np.ndarray
) -> None:
    nodes = onnx.load(every_precision.graph("encoder", "int8")).graph.node
    maker = {output: node.op_type for node in nodes for output in node.output}
    behind = sum(node.op_type == "QuantizeLinear" and maker.get(node.input[0]) == "Relu" for node in nodes)
    signed, widened = read(), read()
    assert widen_unsigned(widened) == behind > 3
    assert widen_unsigned(widened) == 0
    errors = [relative_error(compiled(model)([IMAGE])[0], exact) for model in (signed, widened)]
    assert errors[1] < errors[0] < 0.1


def test_residuals_are_added_within_convolutions(read: Callable[[], Any], exact: np.ndarray) -> None:
    rounded, fused = read(), read()
    for model in (rounded, fused):
        widen_unsigned(model)
    unrounded, passed = fuse_residual_sums(fused)
    assert unrounded > 0
    assert passed > 0
    errors = {}
    for name, model in {"rounded": rounded, "fused": fused}.items():
        network = compiled(model)
        errors[name] = relative_error(network([IMAGE])[0], exact)
        # Which layers the plugin runs is what the rewrite is for: no rounding on its own but that of the image.
        layers = [op.get_rt_info()["layerType"].astype(str) for op in network.get_runtime_model().get_ordered_ops()]
        assert (layers.count("FakeQuantize") <= 1) == (name == "fused")
    assert errors["fused"] < 1.05 * errors["rounded"] < 0.1
    assert fuse_residual_sums(fused)[0] == 0


def test_channels_are_last_by_a_product_as_by_a_transpose(read: Callable[[], Any]) -> None:
    plain, turned, multiplied = read(), read(), read()
    give_channels_last(turned)
    give_channels_last(multiplied, by_product=True)
    expected, by_transpose, by_product = (compiled(model)([IMAGE])[0] for model in (plain, turned, multiplied))
    np.testing.assert_array_equal(by_transpose, np.moveaxis(expected, 1, -1))
    np.testing.assert_array_equal(by_product, by_transpose)
