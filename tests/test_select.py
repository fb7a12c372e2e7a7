"""Which engine is opened, and what is said where none can be."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from cli_runs import Run
from engine_inputs import INSTALLED

from gstk.core.bundle import Bundle
from gstk.engines import Backend, available, open_engine, probe
from gstk.engines import select as select_module
from gstk.errors import BackendMissing, BundleError, EngineError


def test_settings_need_a_backend(small_export: Any) -> None:
    with pytest.raises(EngineError, match="got options arena without a backend"):
        open_engine(small_export.bundle, options={"arena": "on"})


def test_available_lists_every_backend() -> None:
    backends = available()
    assert [b.name for b in backends] == ["openvino", "onnxruntime", "tensorrt", "torch"]
    assert {b.name for b in backends if b.version} == set(INSTALLED)
    assert all(isinstance(b, Backend) and b.reason for b in backends)


def test_auto_takes_the_first_that_is_there(small_export: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_engine(small_export.bundle).name == INSTALLED[0]
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendMissing, match=r'OpenVINO cannot be imported .*pip install "gstk\[cpu\]"'):
        open_engine(small_export.bundle, "openvino")
    assert open_engine(small_export.bundle).name == "onnxruntime"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert open_engine(small_export.bundle).name == "torch"
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        BackendMissing, match=r'none of openvino, onnxruntime, tensorrt, torch .*pip install "gstk\[cpu\]"'
    ):
        open_engine(small_export.bundle)


def test_precision_that_a_backend_cannot_run(small_export: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from gstk.engines.torch import TorchEngine

    monkeypatch.setattr(TorchEngine, "precisions", ("fp16",))
    with pytest.raises(EngineError, match="got precision 'fp32' for the torch engine, expected fp16"):
        open_engine(small_export.bundle, "torch")


def test_probe_names_devices_and_precisions() -> None:
    found = {entry.name: entry for entry in probe()}
    assert list(found) == [b.name for b in available()]
    for name in INSTALLED:
        assert found[name].version
        assert any(device.id == "cpu" for device in found[name].devices)
        assert "fp32" in found[name].precisions


def test_probe_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[str]:
        raise OSError("libfoo.so: cannot open\nshared object")

    for name in INSTALLED:
        engine = select_module._engine_class(name)
        monkeypatch.setattr(engine, "devices", staticmethod(broken))
    for entry in probe():
        if entry.version:
            assert entry.devices == ()
            assert entry.note == "cannot be used: libfoo.so: cannot open"


def test_command_lists_engines(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("engines")
    assert result.code == 0
    assert all(name in result.out for name in ("openvino", "onnxruntime", "tensorrt", "torch"))
    assert f"auto takes {INSTALLED[0]}" in result.out
    monkeypatch.setattr(select_module.importlib.util, "find_spec", lambda _: None)
    result = run("engines")
    assert result.code == 1
    assert 'pip install "gstk[cpu]"' in result.out


def test_missing_backend_is_listed_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select_module.importlib.util, "find_spec", lambda _: None)
    assert available()[0] == Backend("openvino", None, 'not installed; pip install "gstk[cpu]"')


def test_unknown_names_are_refused(small_export: Any) -> None:
    with pytest.raises(EngineError, match="got backend 'tpu', expected auto, openvino, onnxruntime, tensorrt, torch"):
        open_engine(small_export.bundle, "tpu")
    with pytest.raises(BundleError, match="got precision 'int4'"):
        open_engine(small_export.bundle, precision="int4")


def test_bundle_may_be_a_path(small_export: Any) -> None:
    with open_engine(small_export.bundle.path) as engine:
        assert engine.bundle == Bundle.open(small_export.bundle.path)
