"""The precision that `auto` stands for: as calibrations on this host tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from latency import a_model

pytest.importorskip("openvino")

import gstk
from gstk.calibration import Host, save_model
from gstk.calibration.precision import compare_precisions, fastest_precision, precision_within
from gstk.core.bundle import Bundle, builtin, write_bundle
from gstk.engines import open_engine
from gstk.errors import EngineError


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle that says it has INT8, and what that costs."""
    monkeypatch.setenv("GSTK_CACHE", str(tmp_path / "cache"))
    tiny = Bundle.open(builtin("tiny"))
    graphs = {kind: {**files, "int8": files["fp32"]} for kind, files in tiny.manifest.graphs.items()}
    manifest = replace(tiny.manifest, graphs=graphs, reports={"int8": {"dice_drop": 0.001}})
    return write_bundle(tmp_path / "b", manifest, {name: tiny.path / name for name in tiny.manifest.files})


@pytest.fixture
def calibrated(bundle: Bundle) -> Callable[..., None]:
    """Leaves a calibration: seconds for a million voxels."""

    def leave(precision: str, encode_s: float, **about: Any) -> None:
        host = replace(Host.without_engine("openvino", None, {}), version="1", precision=precision)
        model = replace(a_model(encode_s), bundle_sha256=bundle.sha256, host=replace(host, **about))
        save_model(model)

    return leave


def test_without_calibrations_the_engine_chooses(bundle: Bundle, calibrated: Callable[..., None]) -> None:
    assert fastest_precision(bundle, device="cpu") == ("auto", "")
    calibrated("int8", 1.0)
    assert fastest_precision(bundle, device="cpu") == ("auto", "")


@pytest.mark.parametrize(("encode_s", "expected"), [(1.0, "int8"), (3.9, "auto"), (6.0, "auto")])
def test_int8_is_taken_where_it_is_faster(
    bundle: Bundle, calibrated: Callable[..., None], encode_s: float, expected: str
) -> None:
    calibrated("fp32", 4.0)
    calibrated("int8", encode_s)
    for backend in ("auto", "openvino"):
        found, why = fastest_precision(bundle, backend, "cpu")
        assert found == expected
        assert ("times as fast as fp32" in why) == (expected == "int8")


@pytest.mark.parametrize("about", [{"processor": "another"}, {"settings": "threads=1"}, {"version": "2"}])
def test_calibrations_of_other_hosts_say_nothing(
    bundle: Bundle, calibrated: Callable[..., None], about: dict[str, str]
) -> None:
    calibrated("fp32", 4.0)
    calibrated("int8", 1.0, **about)
    assert fastest_precision(bundle, device="cpu") == ("auto", "")


def test_other_settings_and_devices_say_nothing(bundle: Bundle, calibrated: Callable[..., None]) -> None:
    calibrated("fp32", 4.0)
    calibrated("int8", 1.0)
    assert fastest_precision(bundle, device="cpu", threads=1)[0] == "auto"
    assert fastest_precision(bundle, "onnxruntime", "cpu")[0] == "auto"
    assert fastest_precision(bundle, device="cuda")[0] == "auto"
    with pytest.raises(EngineError, match="got option 'slow'"):
        fastest_precision(bundle, "openvino", "cpu", options={"slow": "on"})


def test_int8_whose_cost_is_not_recorded_is_not_taken(bundle: Bundle, calibrated: Callable[..., None]) -> None:
    calibrated("fp32", 4.0)
    calibrated("int8", 1.0)
    unrecorded = replace(bundle, manifest=replace(bundle.manifest, reports={}))
    assert fastest_precision(unrecorded, device="cpu") == ("auto", "")


@pytest.mark.parametrize(("seconds", "expected"), [(1e6, "fp32"), (0.001, "int8")])
def test_a_target_takes_fp32_where_it_is_fast_enough(
    bundle: Bundle, calibrated: Callable[..., None], seconds: float, expected: str
) -> None:
    assert precision_within(bundle, seconds, device="cpu") == ("auto", "")
    calibrated("fp32", 4.0)
    calibrated("int8", 1.0)
    precision, why = precision_within(bundle, seconds, device="cpu")
    assert precision == expected
    assert why
    with gstk.open(bundle.path, device="cpu", click_within_s=seconds) as session:
        assert session._segmenter.engine.engine.precision == expected


def test_sessions_follow_it(bundle: Bundle, calibrated: Callable[..., None]) -> None:
    calibrated("fp32", 4.0)
    calibrated("int8", 1.0)
    with gstk.open(bundle.path, device="cpu") as session:
        engine = session._segmenter.engine.engine
        assert engine.precision == "int8"
        assert "int8 is" in engine.reason  # type: ignore[attr-defined]
    with gstk.open(bundle.path, device="cpu", precision="fp32") as session:
        assert session._segmenter.engine.engine.precision == "fp32"


@pytest.mark.parametrize("encode_s", [1.0, 6.0])
def test_int8_that_gains_nothing_is_named(bundle: Bundle, calibrated: Callable[..., None], encode_s: float) -> None:
    with open_engine(bundle, "openvino", "int8") as engine:
        assert compare_precisions(engine) == ""
        calibrated("fp32", 4.0, version=engine.version)
        calibrated("int8", encode_s, version=engine.version)
        assert ("take --precision fp32" in compare_precisions(engine)) == (encode_s > 4)
    with open_engine(bundle, "openvino") as engine:
        assert compare_precisions(engine) == ""
