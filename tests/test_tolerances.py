"""The gate of an export: rounding passes it, a fault does not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gstk.export.tolerances import TOLERANCES, compare

torch = pytest.importorskip("torch")

from gstk.export.parity import ParityCase, reference_logits  # noqa: E402
from gstk.training.network import build_network  # noqa: E402
from gstk.training.spec import VISTA3DSpec  # noqa: E402


def test_voxels_within_the_allowed_difference_of_0_do_not_count() -> None:
    expected = np.array([-1.0, 0.02, -0.02, 1.0], np.float32)
    found = compare(np.array([-0.97, -0.01, 0.01, 0.97], np.float32), expected, allowed=0.04)
    assert found["mask_agreement"] == 1.0
    assert found["mask_agreement_all"] == 0.5
    assert found["undecided"] == 0.5
    assert found["max_abs_error"] == pytest.approx(0.03)
    assert compare(-expected, expected, allowed=0.04)["mask_agreement"] == 0.0
    assert compare(-expected, expected, allowed=2.0)["mask_agreement"] == 1.0  # the error itself is then beyond it


@pytest.fixture(scope="module")
def network() -> Any:
    torch.manual_seed(7)
    return build_network(VISTA3DSpec(width=8, blocks_down=(1, 1, 1))).eval()


CASES = (ParityCase((16, 24, 32), 2, 3),)


def passes(logits: Any, expected: Any, precision: str) -> bool:
    tolerance = TOLERANCES[precision]
    allowed = tolerance.error(float(np.abs(expected).max()))
    found = compare(logits, expected, allowed)
    return found["max_abs_error"] <= allowed and found["mask_agreement"] >= tolerance.agreement


def test_rounding_of_a_fresh_network_passes(network: Any) -> None:
    """Fresh weights put many logits near 0; float16 moves some of them across, and that is no fault."""
    (expected,) = reference_logits(network, CASES)
    allowed = TOLERANCES["fp16"].error(float(np.abs(expected).max()))
    noise = np.random.default_rng(1).uniform(-0.9 * allowed, 0.9 * allowed, expected.shape).astype(np.float32)
    assert passes(expected + noise, expected, "fp16")
    assert compare(expected + noise, expected, allowed)["mask_agreement_all"] < 1


def norm_of_a_batch(network: Any) -> None:
    norm = next(m for m in network.image_encoder.modules() if isinstance(m, torch.nn.InstanceNorm3d))
    norm.eps = 0.05


def bias_left_out(network: Any) -> None:
    with torch.no_grad():
        network.point_head.output_upscaling[3].bias += 1.0


def swapped_axes(network: Any) -> None:
    for module in network.image_encoder.modules():
        if isinstance(module, torch.nn.Conv3d) and module.kernel_size == (3, 3, 3):
            with torch.no_grad():
                module.weight.copy_(module.weight.transpose(2, 4).clone())
            return


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("fault", [norm_of_a_batch, bias_left_out, swapped_axes])
def test_a_real_fault_is_caught(network: Any, fault: Callable[[Any], None], precision: str) -> None:
    (expected,) = reference_logits(network, CASES)
    faulty = copy.deepcopy(network)
    fault(faulty)
    (logits,) = reference_logits(faulty, CASES)
    assert passes(expected, expected, precision)
    assert not passes(logits, expected, precision)
