"""ONNX Runtime on the processor: INT8 that is exact with and without VNNI."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from gstk.core.bundle import Bundle
from gstk.engines import onnxruntime as module
from gstk.engines import open_engine
from gstk.engines.processor import this_processor

WITHOUT_VNNI, WITH_VNNI = (
    replace(this_processor(), architecture="x86_64", instructions=(n,)) for n in ("avx2", "avx_vnni")
)


@pytest.mark.parametrize("processor", [WITHOUT_VNNI, WITH_VNNI], ids=["without VNNI", "with VNNI"])
def test_products_are_kept_exact_where_vnni_is_missing(processor: object, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(module, "this_processor", lambda: processor)
    options = onnxruntime.SessionOptions()
    module.keep_int8_exact(options)
    if processor is WITHOUT_VNNI:
        assert options.get_session_config_entry("session.x64quantprecision") == "1"
    else:
        with pytest.raises(RuntimeError, match="does not have"):
            options.get_session_config_entry("session.x64quantprecision")


def test_int8_is_close_to_float32_on_every_processor(every_precision: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(77).random((1, 1, 32, 24, 40), np.float32)

    def embedding(precision: str) -> np.ndarray:
        with open_engine(every_precision, "onnxruntime", precision) as engine:
            found: np.ndarray = engine.encode(image).handle
            return found

    exact, here = embedding("fp32"), embedding("int8")
    monkeypatch.setattr(module, "this_processor", lambda: WITHOUT_VNNI)
    unsigned = embedding("int8")
    assert np.sqrt(np.square(here - exact).mean()) < 0.1 * exact.std()
    # Other kernels, the same whole numbers; only sums in floating point may differ.
    assert np.sqrt(np.square(here - unsigned).mean()) < 0.01 * exact.std()
