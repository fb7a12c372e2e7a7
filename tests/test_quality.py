"""bfloat16: where the processor has it, what it costs in Dice, and when `auto` takes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import Run
from latency import a_model

pytest.importorskip("openvino")

import gstk
from gstk.calibration import Host, save_model
from gstk.calibration.precision import fastest_precision
from gstk.calibration.quality import PrecisionQuality, find_quality, save_quality
from gstk.cases.npz import save_case
from gstk.cases.phantom_case import phantom_case
from gstk.core.bundle import Bundle, builtin
from gstk.engines import open_engine
from gstk.engines import openvino as module
from gstk.errors import BackendMissing, EngineError
from gstk.evaluation.precision_check import check_precision

CENTRE, ON = np.full((1, 1, 3), 16, np.float32), np.ones((1, 1), np.int64)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setenv("GSTK_CACHE", str(tmp_path / "cache"))
    return Bundle.open(builtin("tiny"))


@pytest.fixture
def calibrated(tiny: Bundle) -> Callable[[str, float], None]:
    def leave(precision: str, encode_s: float) -> None:
        host = replace(Host.without_engine("openvino", None, {}), version="1", precision=precision)
        save_model(replace(a_model(encode_s), bundle_sha256=tiny.sha256, host=host))

    return leave


def an_image() -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(5).random((1, 1, 32, 32, 32), dtype=np.float32)


def test_a_processor_without_it_is_told_what_to_take(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "computes_bf16", lambda: False)
    with pytest.raises(BackendMissing, match=r"AVX512_BF16 or AMX.*take fp32"):
        open_engine(tiny, "openvino", "bf16")


def test_other_engines_do_not_pretend_to(tiny: Bundle) -> None:
    with pytest.raises(EngineError, match="got precision 'bf16' for the onnxruntime engine, expected fp32"):
        open_engine(tiny, "onnxruntime", "bf16")


def test_the_encoder_alone_is_asked_for_bfloat16(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def compile_(core: Any, model: Any, config: dict[str, Any], cache: Any, identity: dict[str, Any]) -> Any:
        asked.append(f"{identity['graph']} {config['INFERENCE_PRECISION_HINT']}")
        return compiled(core, model, config | {"INFERENCE_PRECISION_HINT": "f32"}, cache, identity)

    compiled = module.compile_cached
    monkeypatch.setattr(module, "compile_cached", compile_)
    monkeypatch.setattr(module, "computes_bf16", lambda: True)
    with open_engine(tiny, "openvino", "bf16", device="cpu") as engine:
        assert engine.precision == "bf16"
    assert sorted(asked) == ["0 bf16", "1 f32"]


def test_numbers_are_those_of_bfloat16(tiny: Bundle) -> None:
    """As near to float32 as torch's bfloat16 is, and the decoder not touched."""
    if not module.computes_bf16():
        pytest.skip("this processor has neither AVX512_BF16 nor AMX")
    pytest.importorskip("torch")
    image = an_image()
    with open_engine(tiny, "openvino") as exact, open_engine(tiny, "openvino", "bf16") as engine:
        right, found = exact.encode(image), engine.encode(image)
        same = replace(found, handle=right.handle)
        np.testing.assert_allclose(engine.decode(same, CENTRE, ON), exact.decode(right, CENTRE, ON), atol=1e-5)
        spread = right.handle.std()
        error = np.abs(found.handle - right.handle).mean() / spread
    with open_engine(tiny, "torch", device="cpu", options={"amp": "bf16"}) as reference:
        handle = reference.encode(image).handle
    torch_error = np.abs(np.asarray(handle.float().cpu()).reshape(right.handle.shape) - right.handle).mean() / spread
    assert 0 < error < 2 * torch_error + 0.01
    assert error < 0.05


def test_auto_takes_it_where_it_is_checked_and_faster(tiny: Bundle, calibrated: Callable[[str, float], None]) -> None:
    calibrated("fp32", 4.0)
    calibrated("bf16", 2.0)
    assert fastest_precision(tiny, device="cpu") == ("auto", "")  # not checked
    good = PrecisionQuality(tiny.sha256, "openvino", "bf16", 3, 0.80, 0.797)
    save_quality(good)
    precision, why = fastest_precision(tiny, device="cpu")
    assert precision == "bf16"
    assert "bf16 is 1.8 times as fast as fp32" in why
    save_quality(replace(good, dice=0.79))
    assert fastest_precision(tiny, device="cpu") == ("auto", "")  # it costs too much
    save_quality(good)
    calibrated("bf16", 3.9)
    assert fastest_precision(tiny, device="cpu") == ("auto", "")  # it gains nothing


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"dice": 1}', '{"bundle_sha256": "0"}'])
def test_a_damaged_record_counts_as_none(tiny: Bundle, damage: str) -> None:
    file = save_quality(PrecisionQuality(tiny.sha256, "openvino", "bf16", 3, 0.8, 0.8))
    assert find_quality(tiny, "openvino", "bf16") is not None
    assert find_quality(tiny, "onnxruntime", "bf16") is None
    file.write_text(damage)
    assert find_quality(tiny, "openvino", "bf16") is None


def test_what_it_costs_is_measured_on_labelled_cases(
    run: Run, tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = tmp_path / "cases" / "phantom.npz"
    case.parent.mkdir()
    save_case(case, phantom_case(side=32))
    if module.computes_bf16():
        found = run("check", "tiny", "--precision", "bf16", "--cases", case.parent)
        assert "of Dice" in found.out
        quality = find_quality(tiny, "openvino", "bf16")
        assert quality is not None
        assert abs(quality.drop) < 0.05
        assert found.code == (0 if quality.is_accepted else 1)
        assert f"costs {quality.drop:.4f}" in found.out
    monkeypatch.setattr(module, "computes_bf16", lambda: False)
    with pytest.raises(BackendMissing, match="AVX512_BF16"):
        check_precision(tiny, "bf16", [case])
    assert "AVX512_BF16" in run("check", "tiny", "--precision", "bf16", "--cases", case.parent).err
    for wrong in (("--precision", "bf16"), ("--cases", case.parent)):
        assert "expected both" in run("check", "tiny", *wrong).error_line()
    assert "expected bf16" in run("check", "tiny", "--precision", "int8", "--cases", case.parent).error_line()
    assert "no .npz case" in run("check", "tiny", "--precision", "bf16", "--cases", tmp_path).error_line()


def test_sessions_take_it(tiny: Bundle) -> None:
    if not module.computes_bf16():
        pytest.skip("this processor has neither AVX512_BF16 nor AMX")
    with gstk.open("tiny", precision="bf16", device="cpu") as session:
        assert session._segmenter.engine.engine.precision == "bf16"
