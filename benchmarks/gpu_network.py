"""The network on a GPU as torch runs it: parts of `gpu_check.py` that need no bundle."""

from __future__ import annotations

import copy
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from full_size import random_network
from gpu_timing import question, spread, warm_up
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gstk.engines.device_arrays import DeviceArray, read_device_array
from gstk.export.tolerances import Tolerance, compare
from gstk.training.network import Encoder, PromptDecoder
from gstk.training.recipe import load_recipe, with_settings

MASKS = Tolerance(1e-2, 2e-2, 0.999)
"""What a mask has to share with the one in float32: 99.9 % of the voxels that count (`compare`)."""
MATRIX_SIDE = {"cuda": 8192, "cpu": 512}


@dataclass(frozen=True)
class Way:
    """One arithmetic of the network: `dtype` of autocast (None is float32), memory layout, and torch.compile or not."""

    dtype: torch.dtype | None = None
    channels_last: bool = False
    compiled: bool = False


WAYS = {
    "float32": Way(),
    "bf16, compiled": Way(torch.bfloat16, compiled=True),
    "bf16, compiled, channels last": Way(torch.bfloat16, channels_last=True, compiled=True),
    "bf16": Way(torch.bfloat16),
    "fp16, compiled": Way(torch.float16, compiled=True),
    "fp16": Way(torch.float16),
    "bf16, channels last": Way(torch.bfloat16, channels_last=True),
    "float32, compiled": Way(compiled=True),
}
"""In the order of what they tell; float32 first, since the others are compared with it."""
REHEARSED_WAYS = ("float32", "bf16", "bf16, channels last", "float32, compiled")
"""On a processor: float16 is emulated there, and compiling takes as long as on a GPU."""


def ask(side: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """`question` on a device."""
    image, coords, labels = (torch.from_numpy(array).to(device) for array in question(side))
    return image, coords, labels


def wait(device: torch.device) -> None:
    """Until the GPU has done what was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_rates(device: torch.device) -> dict[str, float]:
    """TFLOP/s of a large matrix product by type: what this GPU does, rather than what its data sheet says."""
    side = MATRIX_SIDE[device.type]
    found = {}
    for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        if device.type == "cpu" and dtype == torch.float16:
            continue  # emulated
        a, b = (torch.rand(side, side, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
        for _ in range(warm_up(device.type)):
            a @ b
        wait(device)
        began = time.perf_counter()
        for _ in range(10):
            a @ b
        wait(device)
        found[name] = 20 * side**3 / (time.perf_counter() - began) / 1e12
    return found


def network_speed(sides: list[int], repeats: int, device_name: str, full_size: bool) -> Iterator[dict[str, Any]]:
    """Encode and click of every way at every region: seconds, memory, share of the peak rate, agreement with float32.

    The first side is measured in all ways before the next one, and compared with the processor; sums are in float32,
    TF32 is off.
    """
    device = torch.device(device_name)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    report: dict[str, Any] = {"peak_tflops": peak_rates(device), "regions": {}, "failures": []}
    network = random_network(full_size).eval()
    on_cpu = copy.deepcopy(network) if device.type == "cuda" else None
    network = network.to(device)
    expected: dict[int, np.ndarray] = {}
    for side in sides:
        rows = report["regions"][str(side)] = {}
        for name in WAYS if device.type == "cuda" else REHEARSED_WAYS:
            try:
                rows[name], logits = _measure(network, WAYS[name], side, repeats, device, report["peak_tflops"])
            except Exception as error:  # one way that fails, such as to compile, leaves the others
                report["failures"].append(f"{name} at {side}³: {_line(error)}")
                continue
            wanted = expected.setdefault(side, logits)
            _judge(report, rows[name], f"{name} at {side}³", logits, wanted)
            yield report
            if name == "float32" and on_cpu is not None:
                rows["float32 on the processor"] = {}
                exact, on_cpu = _logits(on_cpu, side, torch.device("cpu")), None
                _judge(report, rows["float32 on the processor"], f"GPU and processor at {side}³", logits, exact)
                yield report


def _judge(report: dict[str, Any], row: dict[str, Any], what: str, logits: np.ndarray, wanted: np.ndarray) -> None:
    row["parity"] = compare(logits, wanted, MASKS.error(float(np.abs(wanted).max())))
    if row["parity"]["mask_agreement"] < MASKS.agreement:
        report["failures"].append(f"{what}: masks agree on {row['parity']['mask_agreement']:.3%}")


def _measure(
    network: nn.Module, way: Way, side: int, repeats: int, device: torch.device, peaks: dict[str, float]
) -> tuple[dict[str, Any], np.ndarray]:
    encoder, decoder = Encoder(network).eval(), PromptDecoder(network).eval().to(device)  # type: ignore[arg-type]
    layout = torch.channels_last_3d if way.channels_last else torch.contiguous_format
    network.to(memory_format=layout)  # type: ignore[call-overload]
    image, coords, labels = ask(side, device)
    image = image.contiguous(memory_format=layout)
    with torch.inference_mode(), torch.autocast(device.type, way.dtype, enabled=way.dtype is not None):
        with FlopCounterMode(display=False) as counter:
            embedding = encoder(image)
        encode_flop = counter.get_total_flops()
        with FlopCounterMode(display=False) as counter:
            decoder(embedding, coords, labels)
        click_flop = counter.get_total_flops()
        encode: Callable[..., Tensor] = torch.compile(encoder, dynamic=False) if way.compiled else encoder
        click: Callable[..., Tensor] = torch.compile(decoder, dynamic=False) if way.compiled else decoder
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        began = time.perf_counter()
        encodes, clicks, first = [], [], 0.0
        for turn in range(warm_up(device.type) + repeats):
            start = time.perf_counter()
            embedding = encode(image)
            wait(device)
            middle = time.perf_counter()
            logits = click(embedding, coords, labels)
            wait(device)
            if turn == 0:
                first = time.perf_counter() - began
            if turn >= warm_up(device.type):
                encodes.append(middle - start)
                clicks.append(time.perf_counter() - middle)
    peak = peaks.get({torch.bfloat16: "bf16", torch.float16: "fp16"}.get(way.dtype or torch.float32, "float32"), 0.0)
    row = {
        "encode_s": spread(encodes),
        "click_s": spread(clicks),
        "first_run_s": first,
        "peak_mb": torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None,
        "tflop": {"encode": encode_flop / 1e12, "click": click_flop / 1e12},
        "share_of_peak": encode_flop / 1e12 / float(np.median(encodes)) / peak if peak else None,
    }
    return row, logits.float().cpu().numpy()


def _logits(network: nn.Module, side: int, device: torch.device) -> np.ndarray:
    image, coords, labels = ask(side, device)
    with torch.inference_mode():
        logits = PromptDecoder(network).eval()(Encoder(network).eval()(image), coords, labels)  # type: ignore[arg-type]
    return np.asarray(logits.numpy())


def arrays(device_name: str) -> Iterator[dict[str, Any]]:
    """CuPy's and torch's arrays taken in, and ours given out, without a copy: by address and by value."""
    device = torch.device(device_name)
    if device.type == "cpu":
        yield {"absent": "arrays on a GPU; this is a processor"}
        return
    report: dict[str, Any] = {"checks": {}, "failures": []}

    def check(name: str, holds: bool) -> None:
        report["checks"][name] = holds
        if not holds:
            report["failures"].append(f"arrays: {name}")

    tensor = torch.arange(24, device=device, dtype=torch.float32).reshape(2, 3, 4)
    given = read_device_array("tensor", tensor)
    check("a tensor of torch is taken by its address", given.address == tensor.data_ptr())
    check("its shape and type arrive", given.shape == (2, 3, 4) and given.dtype == np.float32)
    ours = DeviceArray(tensor.data_ptr(), (2, 3, 4), np.dtype(np.float32), device.index or 0, tensor)
    for name, back in (
        ("torch.as_tensor", torch.as_tensor(ours, device=device)),
        ("DLPack", torch.from_dlpack(ours)),  # type: ignore[attr-defined]
    ):
        check(f"torch shares ours by {name}", back.data_ptr() == tensor.data_ptr() and bool((back == tensor).all()))
    yield report
    try:
        import cupy
    except ImportError as error:
        report["cupy"] = f"absent: {error}"
    else:
        array = cupy.arange(24, dtype=cupy.float16).reshape(2, 3, 4)
        given = read_device_array("array", array)
        check("an array of CuPy is taken by its address", given.address == array.data.ptr)
        check("CuPy's type arrives", given.shape == (2, 3, 4) and given.dtype == np.float16)
        back = cupy.asarray(ours)
        check(
            "CuPy shares ours", back.data.ptr == tensor.data_ptr() and bool((back.get() == tensor.cpu().numpy()).all())
        )
        check("CuPy shares ours by DLPack", cupy.from_dlpack(ours).data.ptr == tensor.data_ptr())
    yield report


def training(device_name: str, full_size: bool, steps: int) -> Iterator[dict[str, Any]]:
    """A step of the full network at 128³ in bf16, and of the recipe of `tiny`: what an hour of this device does."""
    from training_step import measure, write_cases

    with tempfile.TemporaryDirectory() as folder:
        cases = write_cases(Path(folder), 4 if full_size else 2, 160 if full_size else 40)
        report: dict[str, Any] = {"recipes": {}}
        peak = peak_rates(torch.device(device_name))["bf16"]
        small = ["network.width=8", "network.blocks_down=[1,1,1]", "data.patch_size=[32,32,32]"]
        trials = itertools.product(("coreset", "tiny"), (1, 2))
        for name, stage in trials:
            recipe = with_settings(load_recipe(name), small if name == "coreset" and not full_size else [])
            if name == "tiny" and not full_size:
                recipe = with_settings(
                    recipe, ["data.phantom_side=48", "data.zoom_voxels=[32768,32768]", "data.growth_patches=0"]
                )
            workers = 8 if full_size else 0
            recipe = replace(recipe, data=replace(recipe.data, workers=workers))
            found = measure(
                recipe,
                stage,
                cases if name == "coreset" else [],
                device_name,
                steps,
                peak,
                warm_up=5 if full_size else 1,
            )
            found["steps_an_hour"] = 3600 / found["seconds_a_step"]
            report["recipes"][f"{name}, stage {stage}"] = found
            yield report


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
