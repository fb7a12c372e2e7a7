"""The processor's instructions: as the system tells them, and what follows from them for INT8."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_runs import Run

from gstk.engines.processor import INSTRUCTIONS, Processor, this_processor


def test_instructions_are_those_that_linux_lists() -> None:
    table = Path("/proc/cpuinfo")
    lines = table.read_text(encoding="utf-8").splitlines() if table.exists() else []
    flags = next((line.split(":")[1].split() for line in lines if line.startswith("flags")), None)
    if flags is None:
        pytest.skip("/proc/cpuinfo lists no flags here")
    assert this_processor().instructions == tuple(name for name in INSTRUCTIONS if name in flags)
    assert this_processor().name in table.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("architecture", "instructions", "saturates"),
    [
        ("x86_64", (), True),
        ("x86_64", ("avx2",), True),
        ("AMD64", ("avx2", "avx512f"), True),
        ("x86_64", ("avx2", "avx_vnni"), False),
        ("x86_64", ("avx2", "avx512f", "avx512_vnni"), False),
        ("aarch64", (), False),
        ("arm64", (), False),
    ],
)
def test_int8_saturates_on_x86_without_vnni(architecture: str, instructions: tuple[str, ...], saturates: bool) -> None:
    assert Processor("any", architecture, instructions).saturates_int8 == saturates


def test_text_names_the_instructions() -> None:
    assert str(Processor("A", "x86_64", ("avx2", "avx512_vnni"))) == "A (avx2, avx512_vnni)"
    assert str(Processor("B", "aarch64", ())) == "B"


@pytest.mark.parametrize(
    ("instructions", "words"),
    [
        (("avx2",), "without VNNI: INT8 is kept exact, and gains less, no AVX512_BF16, no AMX"),
        (("avx2", "avx512f", "avx512_vnni", "avx512_bf16"), "X, VNNI, AVX512_BF16, no AMX"),
        (("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"), "X, VNNI, AVX512_BF16, AMX"),
    ],
)
def test_gstk_engines_names_them(
    run: Run, monkeypatch: pytest.MonkeyPatch, instructions: tuple[str, ...], words: str
) -> None:
    monkeypatch.setattr("gstk.engines.processor.this_processor", lambda: Processor("X", "x86_64", instructions))
    outcome = run("engines")
    assert outcome.code == 0
    assert words in outcome.out
