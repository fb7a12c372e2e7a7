"""Clicks with less and less memory: a mask, or `OutOfMemory` with its remedy; never a crash, nor the kernel's kill.

    python benchmarks/campaigns/memory_limits.py --state FOLDER [--total 60] [--only space group command]
        [--out benchmarks/results/memory_limits.json]

`space` limits the address space of a process (`ulimit -v`), and `group` its control group (as a container or a batch
job does; needs the right to make one), once a session with a latency model is open: from then on the plan knows what
a window takes. `command` runs a whole `gstk infer` with an address space from almost nothing on, which libraries that
are being loaded may not survive: what is asked of it is a word and exit code 1, and no traceback.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from campaign import begin

from gstk.core.foreign_text import reason_of

MODES = ("space", "group", "command")
BACKENDS = ("onnxruntime", "openvino")
SIDE = 80
HUNG_S = 600
FOLDERS = re.compile(r"/(?:[\w.-]+/)+")
"""Of this machine, which say nothing in a result."""
LOADERS_END = "cannot allocate memory for thread-local data"
"""What glibc says when it ends a process, whose libraries find no room; no program can answer that."""


def group_root() -> Path | None:
    """Where control groups of memory are made here; None where none can be."""
    for root, limit in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        probe = root / f"gstk-{os.getpid()}"
        with suppress(OSError):
            probe.mkdir()
            found = (probe / limit).exists()
            probe.rmdir()
            if found:
                return root
    return None


def remove_ended_groups() -> None:
    """Removes the groups of clicks that are over; the system keeps those in which a process runs."""
    root = group_root()
    for group in root.glob("gstk-*") if root else ():
        with suppress(OSError):
            group.rmdir()


def limit_space(more_bytes: int) -> None:
    """This process may map so much more, and nothing beyond."""
    import resource

    import psutil

    most = int(psutil.Process().memory_info().vms) + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def limit_group(more_bytes: int) -> None:
    """What this process takes from now on belongs to a group of its own, with a limit."""
    root = group_root()
    assert root is not None
    group = root / f"gstk-{os.getpid()}"
    group.mkdir()
    first = "memory" in root.name
    names = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes") if first else ("memory.max", "memory.swap.max")
    for name, most in zip(names, (more_bytes, more_bytes if first else 0), strict=True):
        with suppress(OSError):  # a system without an account of swap
            (group / name).write_text(str(most))
    (group / "cgroup.procs").write_text(str(os.getpid()))


def click(mode: str, backend: str, more_bytes: int) -> None:
    """In a process of its own: opens a session, then limits its memory, then clicks."""
    import gstk
    from gstk.errors import OutOfMemory

    rng = np.random.default_rng(0)
    image = rng.integers(0, 60, (SIDE,) * 3).astype(np.uint8)
    image[20:50, 20:50, 20:50] += 150
    with gstk.open("tiny", backend, threads=1, budget_s=3600) as session:
        session.set_image(image, (1.5, 1.0, 1.0))
        (limit_space if mode == "space" else limit_group)(more_bytes)
        try:
            session.add_point((35, 35, 35))
        except OutOfMemory as error:
            print(json.dumps({"outcome": "OutOfMemory", "words": str(error)}), flush=True)
            os._exit(0)  # with no memory left, closing is not what is looked at
        words = [c for c in session.report.compromises if "are free" in c]
        print(
            json.dumps({"outcome": "smaller windows" if words else "mask", "voxels": int(session.mask.sum())}),
            flush=True,
        )
        os._exit(0)


def run(command: list[str], environment: dict[str, str], limit_bytes: int | None = None) -> dict[str, Any]:
    """What came of a process."""

    def limited() -> None:
        import resource

        if limit_bytes is not None:
            resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))

    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=HUNG_S,
            preexec_fn=limited,
            env={**os.environ, **environment},
        )
    except subprocess.TimeoutExpired:
        return {"outcome": "hung", "words": ""}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode == 0 and lines:
        return json.loads(lines[-1])
    errors = [FOLDERS.sub("", reason_of(line)) for line in done.stderr.splitlines() if not line.startswith("warning")]
    if done.returncode < 0:
        return {"outcome": signal.Signals(-done.returncode).name, "words": " | ".join(errors[-2:])[:300]}
    if done.returncode == 0:
        return {"outcome": "mask"}
    words = " | ".join(errors[-3:])[:400]
    if LOADERS_END in words:
        return {"outcome": "end by the system's loader", "words": words}
    one_line = bool(errors) and done.returncode == 1 and "Traceback" not in done.stderr
    return {"outcome": "said" if one_line else "other", "words": words}


def is_failure(mode: str, found: dict[str, Any]) -> bool:
    if found["outcome"] in ("mask", "smaller windows"):
        return False
    if found["outcome"] == "OutOfMemory":
        return not any(remedy in found["words"] for remedy in ("free memory", "raise the limit"))
    return not (mode == "command" and found["outcome"] in ("said", "end by the system's loader"))


def main() -> int:
    campaign = begin(__doc__, 60, MODES)
    if "group" in campaign.parts and group_root() is None:
        print("group: no control group can be made here, so that part is left out", flush=True)
        campaign.parts.remove("group")
    environment = {"GSTK_CACHE": str(campaign.state / "cache"), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    scan = campaign.state / "scan.npz"
    np.savez_compressed(scan, imgs=np.full((SIDE,) * 3, 60, np.uint8), spacing=np.ones(3))
    for mode in campaign.parts:
        part = campaign.progress.setdefault(mode, {"runs": 0, "outcomes": {}, "failures": []})
        count = campaign.total // len(MODES)
        while part["runs"] < count and not campaign.is_time_up:
            index = part["runs"]
            backend = BACKENDS[index % 2]
            share = index / max(1, count - 1)
            if mode == "command":
                limit = int(2e8 * 20**share)  # 0.2 to 4 GB
                out = campaign.state / "out"
                words = ["infer", str(scan), "--point", "35,35,35", "-o", str(out), "--overwrite", "--backend", backend]
                found = run([sys.executable, "-m", "gstk", *words, "--threads", "1"], environment, limit)
            else:
                limit = int(4e6 * 250**share)  # 4 MB to 1 GB
                found = run([sys.executable, __file__, "--click", mode, backend, str(limit)], environment)
                remove_ended_groups()
            part["runs"] += 1
            part["outcomes"][found["outcome"]] = part["outcomes"].get(found["outcome"], 0) + 1
            said = {"backend": backend, "limit_mb": round(limit / 1e6), **found}
            part.setdefault("all", []).append(said)
            if is_failure(mode, found):
                part["failures"].append(said)
            campaign.save()
            print(mode, json.dumps(said), flush=True)
    return campaign.finish("runs", "openvino", "onnxruntime")


if __name__ == "__main__":
    if "--click" in sys.argv:
        click(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        sys.exit(main())
