"""benchmarks/gpu_check.py: its parts on the processor, its sharing of the time, and what it says when cut off."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fake_tensorrt import installed

if TYPE_CHECKING:
    from gstk.core.bundle import Bundle

pytestmark = pytest.mark.slow
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def check() -> Any:
    pytest.importorskip("torch")
    pytest.importorskip("monai")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import gpu_check
        import gpu_network

        patch.setattr(gpu_network, "REHEARSED_WAYS", ("float32", "bf16, channels last"))  # compiling takes a minute
        yield gpu_check


@pytest.fixture
def setting(check: Any, every_precision: Bundle, tmp_path: Path) -> Any:
    return check.Setting("cpu", [32], 1, False, str(every_precision.path), True, str(tmp_path))


def last(check: Any, part: str, setting: Any) -> dict[str, Any]:
    *_, found = check.run_part(part, setting)
    assert isinstance(found, dict)
    assert json.loads(json.dumps(found)) == found
    return found


def test_network_is_timed_and_compared_with_float32(check: Any, setting: Any) -> None:
    found = last(check, "network", setting)
    assert found["failures"] == []
    rows = found["regions"]["32"]
    assert rows["float32"]["parity"]["max_abs_error"] == 0
    assert rows["bf16, channels last"]["parity"]["max_abs_error"] > 0
    assert rows["bf16, channels last"]["parity"]["mask_agreement"] > 0.999
    # A convolution of 8 channels on 32³ voxels alone is 2·8·27·32768 operations.
    assert rows["float32"]["tflop"]["encode"] > 1.4e-5
    assert rows["float32"]["encode_s"]["median"] > 0


def test_network_with_a_wrong_arithmetic_fails(check: Any, setting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu_network

    measure = gpu_network._measure

    def wrong(network: Any, way: Any, *rest: Any) -> Any:
        row, logits = measure(network, way, *rest)
        return row, logits if way.dtype is None else logits[..., ::-1]

    monkeypatch.setattr(gpu_network, "_measure", wrong)
    (failure,) = last(check, "network", setting)["failures"]
    assert failure.startswith("bf16, channels last at 32³: masks agree on")


def test_values_inside_the_fp16_graphs(check: Any, setting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu_engines

    found = last(check, "inside FP16", setting)
    assert found["failures"] == []
    for layers in found["layers"].values():
        assert layers["compared"] > 30
        assert 0 < layers["worst"]["relative_error"] < 0.05
    monkeypatch.setattr(gpu_engines, "MOST_LAYER_ERROR", 1e-6)
    assert len(last(check, "inside FP16", setting)["failures"]) == 2


def test_overflow_inside_is_a_failure(check: Any) -> None:
    import gpu_engines
    import torch

    seen = gpu_engines._Inside()
    seen.keep("sum", torch.tensor([70000.0, 1.0]))
    seen.compare("sum", torch.tensor([70000.0, 1.0]).half())
    assert seen.overflows == ["sum"]


@pytest.mark.parametrize("way", ["torch FP16 graphs", "torch AMP", "ONNX Runtime FP16", "OpenVINO FP32"])
def test_engines_do_what_every_engine_has_to(check: Any, setting: Any, way: str) -> None:
    found = last(check, way, setting)
    assert found["failures"] == []
    assert set(found["conformance"].values()) == {"ok"}
    assert found["regions"]["32"]["parity"]["mask_agreement"] > 0.99


def test_what_is_not_installed_is_absent(check: Any, setting: Any) -> None:
    pytest.importorskip("cuda.bindings")
    found = last(check, "TensorRT FP16", setting)
    assert "TensorRT" in found["absent"]
    assert "GPU" in last(check, "arrays", setting)["absent"]


def test_tensorrt_on_a_stand_in(check: Any, setting: Any) -> None:
    with installed():
        found = last(check, "TensorRT FP32", replace(setting, device="cuda"))
    assert found["failures"] == []
    assert set(found["conformance"].values()) == {"ok"}
    assert found["regions"]["32"]["parity"]["mask_agreement"] > 0.999
    assert found["build"]["dtypes"]["prompt_decoder"]["logits"] == "FLOAT"
    assert found["without_graphs"]["click_s"]["median"] > 0


def test_training_says_steps_an_hour(check: Any, setting: Any) -> None:
    report = next(iter(check.run_part("training", replace(setting))))
    (found,) = report["recipes"].values()
    assert found["finite"]
    assert found["steps_an_hour"] == pytest.approx(3600 / found["seconds_a_step"])


def test_a_part_that_takes_too_long_is_cut_off_with_what_it_said(check: Any, setting: Any) -> None:
    running = check.Running("network", replace(setting, repeats=100_000))
    found = running.result(2.0)
    assert found["cut_off"] == "after its 2 s"
    assert running._process.returncode != 0


def test_time_is_shared_and_each_result_is_written(
    check: Any, setting: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {}

    class Fake:
        def __init__(self, name: str, setting: Any) -> None:
            self.name = name

        def result(self, limit_s: float, on_found: Any = None) -> dict[str, Any]:
            limits[self.name] = limit_s
            time.sleep(0.2)
            if self.name == "inside FP16":
                on_found({"layers": "some"})
                assert json.loads(out.read_text())["parts"][self.name] == {"layers": "some"}
            return {"failures": ["it broke"]} if self.name == "arrays" else {}

        def end(self) -> None:
            pass

    monkeypatch.setattr(check, "Running", Fake)
    out = tmp_path / "report.json"
    report = check.check(setting, minutes=(100 + check.RESERVE_S) / 60, only=set(), out=out)
    shares = {part.name: part.share for part in check.parts_for("cpu")}
    assert limits["network"] == pytest.approx(100 * shares["network"] / sum(shares.values()), rel=0.05)
    # Those before took next to nothing: the last part has all that is left.
    assert limits["training"] == pytest.approx(100 - 0.2 * len(shares), rel=0.05)
    assert report["failures"] == ["arrays: it broke"]
    assert json.loads(out.read_text()) == report


def test_the_command(every_precision: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("monai")
    out = tmp_path / "report.json"
    command = [sys.executable, str(BENCHMARKS / "gpu_check.py"), "--rehearse", "--bundle", str(every_precision.path)]
    chosen = ["--only", "inside FP16", "--only", "arrays", "--out", str(out)]
    done = subprocess.run([*command, *chosen], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert list(report["parts"]) == ["bundle", "inside FP16", "arrays"]
    assert report["parts"]["bundle"]["compared_with_s"] > 0
    assert report["failures"] == []
    assert "absent  arrays" in done.stdout
    wrong = subprocess.run([*command, "--only", "nonsense"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "got parts ['nonsense']" in wrong.stderr
