"""Latency models: what is fitted to calls of known cost, what is kept, and when it is stale."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import Run
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gstk.calibration import Host, LatencyModel, Measurement, find_model, measure, save_model
from gstk.calibration.measure import regions
from gstk.calibration.model import CLASS_KINDS, KINDS, Fit, fit_calls, fit_memory
from gstk.calibration.store import read_model
from gstk.core.bundle import Bundle
from gstk.engines import open_engine
from gstk.engines.openvino import OpenVINOEngine
from gstk.errors import CalibrationError

SIDES = (32, 48, 64, 80, 96, 128)


def calls(kind: str, seconds: Any, noise: float = 0.0, seed: int = 0) -> list[Measurement]:
    rng = np.random.default_rng(seed)
    found = []
    for side in SIDES:
        for objects, points in ((1, 1), (1, 6), (3, 1)) if "decode" in kind else ((1, 1),):
            for _ in range(4):
                exact = seconds(side**3 / 1e6, objects, points)
                found.append(
                    Measurement(kind, (side,) * 3, objects, points, exact * np.exp(noise * rng.standard_normal()))
                )
    return found


@settings(max_examples=30, deadline=None)
@given(a=st.floats(0.001, 0.1), b=st.floats(0.05, 20))
def test_an_encode_of_known_cost(a: float, b: float) -> None:
    fit = fit_calls(calls("encode", lambda v, *_: a + b * v), "encode")
    assert fit.seconds(72**3) == pytest.approx(a + b * 72**3 / 1e6, rel=1e-3)
    assert fit.spread == pytest.approx(1, abs=1e-3)


@settings(max_examples=20, deadline=None)
@given(weights=st.tuples(*(st.floats(0.01, 1) for _ in range(5))))
def test_a_decode_of_known_cost(weights: tuple[float, ...]) -> None:
    def seconds(v: float, objects: int, points: int) -> float:
        return float(np.dot(weights, (1, v, objects, v * objects, v * objects * points)))

    fit = fit_calls(calls("decode", seconds), "decode")
    for objects, points in ((1, 1), (2, 3), (4, 1)):
        assert fit.seconds(100**3, objects, points) == pytest.approx(seconds(1.0, objects, points), rel=0.02)


def test_outliers_do_not_move_the_middle_and_noise_widens_the_spread() -> None:
    found = calls("encode", lambda v, *_: 0.01 + 2 * v, noise=0.1)
    quiet = fit_calls(found, "encode")
    disturbed = [m._replace(seconds=m.seconds * 6) if i % 12 == 5 else m for i, m in enumerate(found)]
    fit = fit_calls(disturbed, "encode")
    assert fit.seconds(96**3) == pytest.approx(quiet.seconds(96**3), rel=0.1)
    assert 1.05 < quiet.spread < 1.35 < fit.spread
    assert all(weight >= 0 for weight in fit.weights)


def test_a_bend_is_followed() -> None:
    """Beyond the fifth size everything takes half as long again; in between it rises."""
    knee = SIDES[4] ** 3 / 1e6
    for kind in ("encode", "decode"):
        fit = fit_calls(calls(kind, lambda v, *_: (0.01 + 2 * v) * (1.5 if v > knee else 1)), kind)
        for side in SIDES:
            exact = (0.01 + 2 * side**3 / 1e6) * (1.5 if side**3 / 1e6 > knee else 1)
            assert fit.seconds(side**3) == pytest.approx(exact, rel=0.02)
        middle = fit.seconds(int((SIDES[4] * SIDES[5]) ** 1.5)) / (0.01 + 2 * (SIDES[4] * SIDES[5]) ** 1.5 / 1e6)
        assert 1.1 < middle < 1.4


def test_one_size_of_region_is_no_model() -> None:
    with pytest.raises(CalibrationError, match="fewer than two sizes"):
        fit_calls([Measurement("encode", (32, 32, 32), 1, 1, 1.0)] * 3, "encode")


def test_memory_is_never_below_what_was_measured() -> None:
    found = [
        Measurement("encode", (side,) * 3, 1, 1, 1.0, int(2e8 + 900 * side**3 * (1 + 0.1 * (side % 3))))
        for side in SIDES
    ]
    run_bytes, per_voxel = fit_memory(found, 200_000_000)
    assert all(m.peak_bytes <= 2e8 + run_bytes + per_voxel * np.prod(m.shape) + 1 for m in found)
    assert 900 <= per_voxel <= 1.4 * 900
    assert fit_memory([m._replace(peak_bytes=0) for m in found], 0) == (0, 0)


@pytest.mark.parametrize("sides", [(32, 48), (32, 48, 64, 96), SIDES])
def test_what_every_call_takes_is_not_counted_by_the_voxel(sides: tuple[int, ...]) -> None:
    """The network of full size, in FP32: 0.8 GB for weights in the runtime's order, 1.8 kB a voxel."""
    found = [Measurement("encode", (side,) * 3, 1, 1, 1.0, int(9e8 + 8e8 + 1800 * side**3)) for side in sides]
    run_bytes, per_voxel = fit_memory(found, int(9e8))
    assert run_bytes == pytest.approx(8e8, rel=1e-3)
    assert per_voxel == pytest.approx(1800, rel=1e-3)


def test_memory_of_large_regions_where_small_ones_need_none_anew() -> None:
    found = [Measurement("encode", (side,) * 3, 1, 1, 1.0, int(2e8 + max(0, 900 * side**3 - 3e8))) for side in SIDES]
    run_bytes, per_voxel = fit_memory(found, int(2e8))
    assert per_voxel >= 899
    assert all(m.peak_bytes <= 2e8 + run_bytes + per_voxel * np.prod(m.shape) + 1 for m in found)
    assert fit_memory(found[-1:], int(2e8))[0] == 0  # of one size


def a_model(bundle: Any, host: Host) -> LatencyModel:
    fits = {kind: Fit((0.01, 1.0) if "encode" in kind else (0.01, 0.0, 0.0, 0.2, 0.0), 1.2, 0.05) for kind in KINDS}
    return LatencyModel("small", bundle.sha256, host, fits, 0.5, 1.0, 10**8, 1000.0, 64**3, "2026-01-01T00:00:00+00:00")


@pytest.fixture(scope="module")
def host(small_export: Any) -> Host:
    with open_engine(small_export.bundle) as engine:
        return Host.of(engine)


def test_what_a_model_predicts(small_export: Any, host: Host) -> None:
    model = a_model(small_export.bundle, host)
    assert model.encode_s((100, 100, 100)) == pytest.approx(1.01)
    assert model.encode_s((100, 100, 100), cautious=True) == pytest.approx(1.212)
    assert model.decode_s((100, 100, 50), objects=3) == pytest.approx(0.01 + 0.2 * 0.5 * 3)
    assert model.peak_bytes((100, 100, 100)) == pytest.approx(1.1e9)


def test_a_model_is_kept_found_and_known_to_be_stale(
    small_export: Any, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GSTK_CACHE", str(tmp_path))
    bundle = small_export.bundle
    assert find_model(bundle, host) == (None, "not calibrated; run gstk calibrate")
    model = a_model(bundle, host)
    file = save_model(model)
    assert file.is_relative_to(tmp_path)
    assert find_model(bundle, host) == (model, "")
    moved = replace(host, cores=host.cores + 6)
    found, why = find_model(bundle, moved)
    assert found is None
    assert f"stale: cores {host.cores} is now {host.cores + 6}; " in why
    file.write_text(file.read_text().replace(model.bundle_sha256, "0" * 64))
    assert find_model(bundle, host)[0] is None


def with_encode(values: Any, **fields: Any) -> Any:
    return values | {"fits": {**values["fits"], "encode": {**values["fits"]["encode"], **fields}}}


@pytest.mark.parametrize(
    "damage",
    [
        lambda v: v | {"schema": 99},
        lambda v: v | {"load_s": -1},
        lambda v: v | {"load_s": float("nan")},
        lambda v: v | {"host": {"processor": "x"}},
        lambda v: v | {"fits": {}},
        lambda v: with_encode(v, weights=[1, -1]),
        lambda v: with_encode(v, spread=0.5),
        lambda v: with_encode(v, sizes=[1]),
        lambda v: with_encode(v, sizes=[2, 1], factors=[1, 1]),
        lambda v: with_encode(v, sizes=[1, 2], factors=[1, 0]),
        lambda v: v | {"unknown": 1},
        lambda v: [v],
        lambda v: None,
    ],
)
def test_a_damaged_model_is_refused(small_export: Any, host: Host, tmp_path: Path, damage: Any) -> None:
    values = json.loads(json.dumps(a_model(small_export.bundle, host).to_json()))
    assert LatencyModel.from_json(values) == a_model(small_export.bundle, host)
    file = tmp_path / "model.json"
    file.write_text(json.dumps(damage(values)))
    with pytest.raises(CalibrationError, match="run gstk calibrate again"):
        read_model(file)


def test_regions_grow_and_suit_the_bundle(small_export: Any) -> None:
    with open_engine(small_export.bundle) as engine:
        rules = engine.bundle.manifest.roi
        for dense in (False, True):
            found = [shape for shape, _ in zip(regions(engine, dense), range(12), strict=False)]
            assert len(set(found)) == len(found)
            for shape in found:
                assert all(side % rules.multiple == 0 and side >= rules.minimum for side in shape)
            sizes = [np.prod(shape) for shape in found]
            assert sizes[-1] > 25 * sizes[0]


def test_an_engine_is_measured(small_export: Any) -> None:
    shares: list[float] = []
    model, found = measure(
        small_export.bundle, backend="openvino", seconds=3, on_progress=lambda share, text: shares.append(share)
    )
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert {m.kind for m in found} == set(KINDS)
    assert len({m.shape for m in found}) >= 3
    assert model.startup_s > model.load_s > 0
    assert model.encode_s((96, 96, 96)) > model.encode_s((32, 32, 32)) > 0
    assert model.host.backend == "openvino"
    assert LatencyModel.from_json(json.loads(json.dumps(model.to_json()))) == model


def test_class_prompts_are_measured_where_there_are_any(by_class: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = OpenVINOEngine._class_features

    def slowed(engine: OpenVINOEngine, image: NDArray[np.float32]) -> NDArray[np.float32]:
        time.sleep(4e-6 * image.size)  # what the small network takes is less than what other processes take from it
        return computed(engine, image)

    monkeypatch.setattr(OpenVINOEngine, "_class_features", slowed)
    model, found = measure(by_class, backend="openvino", seconds=2)
    of_classes = [m for m in found if m.kind in CLASS_KINDS]
    assert {m.kind for m in of_classes} == set(CLASS_KINDS)
    assert max(np.prod(m.shape) for m in of_classes) <= np.prod(by_class.manifest.roi.default)
    assert model.has_classes
    assert model.classes_s((32, 32, 32)) > model.classes_s((8, 8, 8)) > 0
    assert model.class_load_s > 0
    assert model.class_peak_bytes((32, 32, 32)) > model.base_bytes
    values = json.loads(json.dumps(model.to_json()))
    assert LatencyModel.from_json(values) == model
    del values["fits"]["first_classes"]
    with pytest.raises(CalibrationError, match="run gstk calibrate again"):
        LatencyModel.from_json(values)


_MEMORY = """
import sys
from dataclasses import replace
import numpy as np
from gstk.calibration import memory
from gstk.calibration.measure import fit_model, measure_classes, measure_region, with_classes
from gstk.core.bundle import Bundle
from gstk.engines import open_engine
side = (96, 96, 96)
bundle = Bundle.open(sys.argv[1])
bundle = replace(bundle, manifest=replace(bundle.manifest, roi=replace(bundle.manifest.roi, default=side)))
if sys.argv[2] == "alone":
    image = np.random.default_rng(0).random((1, 1, *side), np.float32)
    with open_engine(bundle, "openvino", "fp32", 1, clicks_later=True) as engine:
        memory.forget_peak()
        engine.class_features(image)
        print(memory.peak_bytes())
else:
    with open_engine(bundle, "openvino", "fp32", 1) as engine:
        base_bytes = memory.resident_bytes()
        clicks = [m for n in (32, 96) for m in measure_region(engine, (n, n, n), 1)]
        model = fit_model(engine, clicks, 0.1, 0.5, base_bytes)
        measured = with_classes(model, measure_classes(engine, [(32, 32, 32), side])[1], 0.1)
        assert measured.has_classes
        print(measured.class_peak_bytes(side), model.class_peak_bytes(side), model.peak_bytes(side))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a call is known on Linux alone")
def test_memory_of_class_prompts_is_that_of_a_process_with_nothing_else(by_class: Bundle) -> None:
    """Also where clicks in large regions were measured before, of which the runtime keeps memory."""

    def numbers(what: str) -> list[float]:
        command = [sys.executable, "-c", _MEMORY, str(by_class.path), what]
        return [float(n) for n in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()]

    (alone,), (measured, not_measured, clicks) = numbers("alone"), numbers("forecast")
    assert 0.85 * alone < measured < 1.4 * alone
    assert 0.9 * alone < not_measured < clicks


def test_without_a_measurement_a_class_window_counts_as_an_encode(small_export: Any, host: Host) -> None:
    model = a_model(small_export.bundle, host)
    assert not model.has_classes
    assert model.classes_s((32, 32, 32), cautious=True) == model.encode_s((32, 32, 32), cautious=True)
    assert model.class_peak_bytes((32, 32, 32)) == model.peak_bytes((32, 32, 32))


def test_command(run: Run, small_export: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["gstk.calibration.measure"], "QUICK_S", 2.0)
    monkeypatch.setenv("GSTK_CACHE", str(tmp_path / "cache"))
    plot = tmp_path / "fit.png"
    outcome = run("calibrate", small_export.bundle.path, "--quick", "--plot", plot)
    assert outcome.code == 0, outcome.err
    assert "32³" in outcome.out
    assert plot.read_bytes().startswith(b"\x89PNG")
    with open_engine(small_export.bundle) as engine:
        model, _ = find_model(small_export.bundle, Host.of(engine))
    assert model is not None
    outcome = run("calibrate", small_export.bundle.path, "--backend", "openvino", "--engine", "speed=high")
    assert outcome.code == 1
    assert "got option 'speed'" in outcome.err
