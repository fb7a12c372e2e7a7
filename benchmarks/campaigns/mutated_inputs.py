"""A million mutated inputs through the readers of Python and C++: none may crash, hang, take memory or be executed.

    python benchmarks/campaigns/mutated_inputs.py --state FOLDER [--total 1000000]
        [--only npz nifti manifest bundle dicom cpp] [--out benchmarks/results/mutated_inputs.json]

Python's readers run under atheris, C++'s under libFuzzer with AddressSanitizer and UndefinedBehaviorSanitizer: both
mutate by what was covered. What an input may not do is in `readers.py`; C++ has the same limit of time in `fuzz.cpp`
and 64 MB for an allocation. Needs `pip install atheris` and clang. FOLDER keeps the corpora and
what failed. The exit code is 1 where an input failed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from campaign import ROOT, begin

SHARES = {"cpp": 0.5, "manifest": 0.15, "npz": 0.12, "nifti": 0.12, "bundle": 0.1, "dicom": 0.01}
"""Of all inputs, by target; DICOM is read by libraries of others, a hundred inputs a second."""
CHUNK = {"cpp": 50_000, "dicom": 500}
LONGEST = {"manifest": 16384}
MOST_FAILURES = 20
HUNG_S = 60  # by the wall clock, on a machine that does other work too


def run_python_target(name: str, folder: Path, arguments: list[str]) -> None:
    """In a process of its own: libFuzzer's loop around one reader, on files in a folder that is empty."""
    import atheris

    with atheris.instrument_imports(include=["gstk"]):
        import readers
    watch = readers.Watch(readers.targets(folder)[name], folder)
    atheris.Setup(["readers", *arguments], watch)
    atheris.Fuzz()


def write_seeds(name: str, folder: Path) -> None:
    """The first inputs of a target, where its corpus has none."""
    if folder.exists():
        return
    folder.mkdir(parents=True)
    if name == "cpp":
        from cpp_fuzz_inputs import write_inputs

        write_inputs(folder)
        return
    import readers

    scratch = readers.scratch_folder()
    try:
        for index, seed in enumerate(readers.targets(scratch)[name].seeds):
            (folder / f"seed{index}").write_bytes(seed)
    finally:
        shutil.rmtree(scratch)


def build_cpp(folder: Path) -> Path:
    """The fuzzer of the C++ readers, with clang."""
    from cpp_build import build

    sanitize = "-DGSTK_SANITIZE=fuzzer-no-link,address,undefined"
    options = [
        "-DCMAKE_CXX_COMPILER=clang++",
        "-DCMAKE_C_COMPILER=clang",
        "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
        sanitize,
    ]
    build(ROOT / "cpp", folder, *options, "-DBUILD_SHARED_LIBS=OFF", "-DGSTK_OPENVINO=OFF", target="fuzz")
    return folder / "tests" / "fuzz"


def run_chunk(name: str, command: list[str], state: Path, count: int, seed: int) -> dict[str, Any]:
    """So many inputs more; what they took, and whether one failed."""
    failed = state / "failed" / name
    failed.mkdir(parents=True, exist_ok=True)
    known = set(failed.iterdir())
    options = [f"-runs={count}", f"-seed={seed}", f"-max_len={LONGEST.get(name, 4096)}", f"-artifact_prefix={failed}/"]
    options += [f"-timeout={HUNG_S}", "-print_final_stats=1", "-rss_limit_mb=2048"]
    options += ["-malloc_limit_mb=64"] if name == "cpp" else []
    from readers import scratch_folder

    began = time.perf_counter()
    scratch = scratch_folder()
    command = [*command, *([] if name == "cpp" else [str(scratch)]), str(state / "corpus" / name), *options]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    found = re.search(r"number_of_executed_units:\s*(\d+)", done.stderr)
    chunk: dict[str, Any] = {"inputs": int(found[1]) if found else 0, "seconds": time.perf_counter() - began}
    with suppress(FileNotFoundError):
        chunk |= json.loads((scratch / "watch.json").read_text())
    shutil.rmtree(scratch)
    if done.returncode:
        new = sorted(file.name for file in set(failed.iterdir()) - known)
        lines = (done.stdout + done.stderr).splitlines()
        told = [line[:300] for line in lines if re.search("Error|RuleBroken|ERROR|SUMMARY", line)]
        chunk["failure"] = {"inputs": new, "words": told[:8] or lines[-6:]}
    return chunk


def add(target: dict[str, Any], chunk: dict[str, Any]) -> None:
    for key in ("inputs", "seconds"):
        target[key] = target.get(key, 0) + chunk[key]
    for key in ("slowest_s", "peak_bytes"):
        if key in chunk:
            target[key] = max(target.get(key, 0), chunk[key])
    target.setdefault("failures", [])
    if "failure" in chunk:
        target["failures"].append(chunk["failure"])


def main() -> int:
    campaign = begin(__doc__, 1_000_000, SHARES)
    state, progress = campaign.state, campaign.progress
    commands = {name: [sys.executable, __file__, "--target", name] for name in campaign.parts if name != "cpp"}
    if "cpp" in campaign.parts:
        commands["cpp"] = [str(build_cpp(state / "build"))]
    for name in campaign.parts:
        write_seeds(name, state / "corpus" / name)
    wanted = {name: round(SHARES[name] * campaign.total) for name in campaign.parts}
    while True:
        behind = {name: progress.get(name, {}).get("inputs", 0) / wanted[name] for name in wanted}
        # The one that is the furthest behind goes next, so that a campaign that is ended early has some of each.
        name = min(behind, key=lambda n: behind[n])
        if behind[name] >= 1 or campaign.is_time_up:
            return campaign.finish("inputs", "atheris")
        target = progress.setdefault(name, {"chunks": 0})
        target["chunks"] += 1
        count = min(CHUNK.get(name, 10_000), wanted[name] - target.get("inputs", 0))
        chunk = run_chunk(name, commands[name], state, count, 1000 + target["chunks"])
        add(target, chunk)
        target["corpus"] = sum(1 for _ in (state / "corpus" / name).iterdir())
        campaign.save()
        print(name, json.dumps(chunk), flush=True)
        if chunk["inputs"] == 0 or len(target["failures"]) >= MOST_FAILURES:
            print(f"{name}: nothing was run, or too much failed; see {state / 'failed' / name}", file=sys.stderr)
            return 2


if __name__ == "__main__":
    if "--target" in sys.argv:
        os.environ.setdefault("PYTHONWARNINGS", "ignore")
        run_python_target(sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
    else:
        sys.exit(main())
