"""OpenVINO on a GPU, with a stand-in that computes on the processor: names, settings, and answers that are compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_inputs import prompts, region

pytest.importorskip("openvino")

from gstk.core.bundle import Bundle
from gstk.engines import open_engine, select
from gstk.engines import openvino as module
from gstk.engines.openvino_int8 import is_quantised
from gstk.engines.openvino_saturation import narrow_weights
from gstk.errors import BackendMissing, EngineError

REAL_CORE = module.shared_core
OF_PROCESSORS = {"INFERENCE_NUM_THREADS", "ENABLE_CPU_PINNING", "SCHEDULING_CORE_TYPE"}


class Off:
    """A compiled graph whose answers are wrong by a factor."""

    def __init__(self, compiled: Any, factor: float) -> None:
        self.compiled, self.factor = compiled, factor

    def __call__(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [self.compiled(inputs)[0] * np.float32(self.factor)]


class Core:
    """An OpenVINO core with two GPUs, which are the processor."""

    def __init__(self, factor: float = 1) -> None:
        self.factor = factor
        self.compiled: list[tuple[str, dict[str, Any]]] = []

    @property
    def available_devices(self) -> list[str]:
        return ["CPU", "GPU.0", "GPU.1", "NPU"]

    def get_property(self, plugin: str, name: str) -> Any:
        if plugin == "CPU":
            return REAL_CORE().get_property(plugin, name)
        return {"FULL_DEVICE_NAME": f"Graphics {plugin}", "OPTIMIZATION_CAPABILITIES": ["FP32", "FP16", "INT8"]}[name]

    def read_model(self, file: Any) -> Any:
        return REAL_CORE().read_model(file)

    def compile_model(self, model: Any, plugin: str, config: dict[str, Any]) -> Any:
        self.compiled.append((plugin, config))
        if plugin == "CPU":
            return REAL_CORE().compile_model(model, plugin, config)
        assert not OF_PROCESSORS & config.keys()
        if is_quantised(model) and module.saturates_int8():
            narrow_weights(model)  # GPUs do not saturate
        compiled = REAL_CORE().compile_model(model, "CPU", config)
        return compiled if self.factor == 1 else Off(compiled, self.factor)

    def import_model(self, blob: bytes, plugin: str, config: dict[str, Any]) -> Any:
        self.compiled.append((f"stored {plugin}", config))
        return REAL_CORE().import_model(blob, "CPU", config)


@pytest.fixture
def give(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Core]:
    def call(**settings: Any) -> Core:
        core = Core(**settings)
        monkeypatch.setattr(module, "shared_core", lambda: core)
        return core

    return call


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("backend", ["auto", "openvino"])
def test_a_gpu_answers_as_the_processor(
    every_precision: Bundle, give: Callable[..., Core], backend: str, precision: str
) -> None:
    core = give()
    shape = (16, 8, 24)
    with open_engine(every_precision, "openvino", precision) as processor:
        expected = processor.decode(processor.encode(region(shape)), *prompts(shape, 2, 3))
    assert {plugin for plugin, _ in core.compiled} == {"CPU"}
    core.compiled.clear()
    with open_engine(every_precision, backend, precision, device="gpu") as engine:
        assert (engine.name, str(engine.device)) == ("openvino", "gpu:0: Graphics GPU.0")
        assert engine.device.is_gpu
        found = engine.decode(engine.encode(region(shape)), *prompts(shape, 2, 3))
    # INT8 encoders compute in bfloat16 between their products where the processor has it.
    limit = 0.1 if precision == "int8" else 1e-5
    assert np.sqrt(np.mean((found - expected) ** 2)) <= limit * expected.std()
    assert [plugin for plugin, _ in core.compiled].count("GPU.0") == 2
    assert all(config["INFERENCE_PRECISION_HINT"] == "f32" for plugin, config in core.compiled if plugin == "GPU.0")


def test_class_prompts_and_automatic_precision(by_class: Bundle, give: Callable[..., Core]) -> None:
    core = give()
    with open_engine(by_class, "openvino") as processor:
        expected = processor.class_features(region((16, 16, 16)))
    with open_engine(by_class, device="gpu:1") as engine:
        assert (engine.device.id, engine.precision) == ("gpu:1", "fp32")
        np.testing.assert_allclose(engine.class_features(region((16, 16, 16))), expected, atol=1e-5)
    assert [plugin for plugin, _ in core.compiled].count("GPU.1") == 3


def test_stored_graphs_are_those_of_the_device(small_export: Any, give: Callable[..., Core], tmp_path: Path) -> None:
    core = give()
    for device in ("cpu", "gpu:0", "gpu:1", "gpu:0"):
        with open_engine(small_export.bundle, "openvino", device=device, options={"cache": tmp_path}):
            pass
    made = [plugin for plugin, config in core.compiled if "PERFORMANCE_HINT" in config]  # no comparison's
    assert sorted(made[:2] + made[2:4] + made[4:6]) == ["CPU"] * 2 + ["GPU.0"] * 2 + ["GPU.1"] * 2
    assert made[6:] == ["stored GPU.0"] * 2


@pytest.mark.parametrize("factor", [1.01, float("nan")])
def test_wrong_answers_are_refused_and_not_stored(
    small_export: Any, give: Callable[..., Core], tmp_path: Path, factor: float
) -> None:
    give(factor=factor)
    with pytest.raises(EngineError, match=r"of the (en|de)coder on gpu:0: Graphics GPU.0 that differ .* --device cpu"):
        open_engine(small_export.bundle, "openvino", device="gpu", options={"cache": tmp_path})
    assert not list(tmp_path.iterdir())


def test_those_who_compute_on_the_processor_load_no_graphics_driver(
    small_export: Any, give: Callable[..., Core], monkeypatch: pytest.MonkeyPatch
) -> None:
    give()
    monkeypatch.setattr(Core, "available_devices", property(lambda _: pytest.fail("asked for GPUs")))
    for device in ("auto", "cpu"):
        with open_engine(small_export.bundle, "openvino", device=device) as engine:
            assert engine.device.id == "cpu"


@pytest.mark.parametrize(
    ("device", "settings", "kind", "message"),
    [
        (
            "gpu:2",
            {},
            BackendMissing,
            r"got device 'gpu:2', but the openvino engine has cpu: .*, gpu:0: Graphics GPU.0",
        ),
        ("gpu", {"precision": "bf16"}, BackendMissing, "expected fp32, fp16 or int8"),
        ("gpu", {"threads": 2}, EngineError, "threads are for the cpu"),
        ("gpu", {"options": {"pinning": True, "core_type": "performance"}}, EngineError, "got pinning, core_type for"),
        ("intel", {}, EngineError, "expected auto, cpu, cuda, cuda:N, gpu or gpu:N"),
    ],
)
def test_what_a_gpu_does_not_have(
    small_export: Any, give: Callable[..., Core], device: str, settings: Any, kind: type[Exception], message: str
) -> None:
    give()
    with pytest.raises(kind, match=message) as caught:
        open_engine(small_export.bundle, "openvino", device=device, **settings)
    assert "\n" not in str(caught.value)


def test_other_backends_have_none(small_export: Any) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(BackendMissing, match=r"but the onnxruntime engine has cpu.*OpenVINO's name for Intel graphics"):
        open_engine(small_export.bundle, "onnxruntime", device="gpu")


def test_gpus_are_listed(give: Callable[..., Core]) -> None:
    give()
    found = next(entry for entry in select.probe() if entry.name == "openvino")
    assert [device.id for device in found.devices] == ["cpu", "gpu:0", "gpu:1"]
