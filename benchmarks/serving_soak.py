"""Long use of one server by several clients at once: memory, leases, and whose mask comes back; a plot and JSON.

    python benchmarks/serving_soak.py [--sessions 8] [--prompts 2000] [--cache-mb 16] [--out NAME.json]
        [--plot NAME.png]

Each session is an official nnInteractive client (nninteractive-client) with images of its own, one after the other: a
bright block in noise, small, so that the processor's time goes to many prompts. It clicks on the block and beside it,
undoes, begins another object, and sends another image every 50 prompts. No two sessions have their block at the same
place, nor has a session at its next image, so every mask tells whose it is: one with more voxels on another block than
on that of its image, or a first click's that misses the block, counts as another's. How many were empty is told,
too.

The server's resident memory is read at every prompt; it counts as flat where its largest value in the last half is at
most 5 % above the largest in the second quarter, when warming up is over. The file is written every few seconds. The
exit code is 1 where a lease was lost, a mask was another's, a prompt failed, or memory was not flat.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from machine import describe
from nnInteractive.inference.remote.remote_session import SessionExpiredError, nnInteractiveRemoteInferenceSession
from numpy.typing import NDArray

SHAPE = (24, 32, 32)
SPACING_MM = (3.0, 3.0, 3.0)
PLACES = 2
"""Of a session's block, image by image; each block is apart from all others."""
MOST_SESSIONS = 9
FLAT = 1.05
IMAGE_EVERY = 50
LEAST_DICE = 0.5
WRITE_EVERY_S = 5.0
ANOTHERS = "masks of another image"


def block_of(session: int, image: int) -> tuple[slice, slice, slice]:
    y, x = 1 + 11 * (session // 3), 1 + 11 * (session % 3)
    z = 2 + 12 * (image % PLACES)
    return slice(z, z + 8), slice(y, y + 8), slice(x, x + 8)


def is_anothers(mask: NDArray[np.bool_], session: int, image: int) -> bool:
    """Whether most of a mask's voxels that lie on blocks lie on one that is not its session's and image's."""
    voxels = {
        (other, place): int(mask[block_of(other, place)].sum())
        for other in range(MOST_SESSIONS)
        for place in range(PLACES)
    }
    own = voxels.pop((session, image % PLACES))
    return max(voxels.values()) > own


class Watch:
    """What was seen so far, of all sessions; safe to call from their threads."""

    def __init__(self, server: psutil.Process, given: argparse.Namespace) -> None:
        self._server, self._given, self._lock = server, given, threading.Lock()
        self._began, self._before_s = time.perf_counter(), sum(server.cpu_times()[:2])
        self._written = self._began
        self.memory_mb: list[float] = []
        self.counts: Counter[str] = Counter()

    def note(self, *kinds: str) -> None:
        """Of one prompt, or of what ended a session."""
        with self._lock:
            self.counts.update(kinds)
            if "prompts" in kinds:
                self.memory_mb.append(self._server.memory_info().rss / 2**20)
            if time.perf_counter() > self._written + WRITE_EVERY_S:
                self._written = time.perf_counter()
                self.write()

    def result(self) -> dict[str, Any]:
        used, prompts = self.memory_mb, self.counts["prompts"]
        half, quarter = len(used) // 2, len(used) // 4
        growth = max(used[half:]) / max(used[quarter:half]) if quarter else float("nan")
        processor_s = sum(self._server.cpu_times()[:2]) - self._before_s
        return {
            "machine": describe(),
            "sessions": self._given.sessions,
            "prompts_asked": self._given.prompts,
            "prompts": prompts,
            "images": self.counts["images"],
            "masks_checked": prompts,
            "masks_empty": self.counts["empty masks"],
            "seconds": round(time.perf_counter() - self._began, 1),
            "server_processor_ms_per_prompt": round(1000 * processor_s / max(1, prompts), 1),
            "wrong": {
                key: count for key, count in self.counts.items() if key not in ("prompts", "images", "empty masks")
            },
            "memory_growth": round(growth, 4),
            "memory_is_flat": growth <= FLAT,
            "memory_mb": [round(v, 1) for v in used[:: max(1, len(used) // 100)]],
        }

    def write(self) -> dict[str, Any]:
        result = self.result()
        if self._given.out:
            self._given.out.write_text(json.dumps(result, indent=1) + "\n")
        return result


def use(url: str, number: int, prompts: int, watch: Watch) -> None:
    """One session's prompts; what goes wrong is counted."""
    rng = np.random.default_rng(number)
    client = nnInteractiveRemoteInferenceSession(url)
    try:
        for done in range(prompts):
            image_number, step = divmod(done, IMAGE_EVERY)
            if step == 0:
                block = block_of(number, image_number)
                image = rng.integers(-60, -20, SHAPE).astype(np.int16)
                image[block] = rng.integers(120, 160)
                truth = np.zeros(SHAPE, bool)
                truth[block] = True
                client.set_image(image[None], {"spacing": list(SPACING_MM)})
                client.set_target_buffer(np.zeros(SHAPE, np.uint8))
                watch.note("images")
            kind = step % 5
            if kind == 0:
                client.reset_interactions()
                client.add_point_interaction([(axis.start + axis.stop) // 2 for axis in block], True)
            elif kind == 4:
                client.undo()
            else:
                where = np.argwhere(truth == (kind != 2))
                client.add_point_interaction([int(i) for i in where[rng.integers(len(where))]], kind != 2)
            mask = client.target_buffer > 0
            seen = ["prompts"]
            if not mask.any():
                seen.append("empty masks")
            shared = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
            if is_anothers(mask, number, image_number) or (kind == 0 and shared < LEAST_DICE):
                seen.append(ANOTHERS)
            watch.note(*seen)
    except SessionExpiredError:
        watch.note("leases lost")
    except Exception as error:
        watch.note(f"{type(error).__name__}: {error!s:.120}")
    finally:
        client.close()


def plot(used: list[float], result: dict[str, Any], file: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 3.2), layout="constrained")
    axis.plot(np.arange(1, len(used) + 1), used, linewidth=1.2)
    axis.set(
        title=f"gstk serve: {result['sessions']} sessions, {result['images']} images",
        xlabel="prompts of all sessions",
        ylabel="resident memory, MB",
    )
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=8, choices=range(1, MOST_SESSIONS + 1))
    parser.add_argument("--prompts", type=int, default=2000, help="of all sessions together")
    parser.add_argument("--bundle", default="tiny")
    parser.add_argument("--cache-mb", type=float, default=16, help="limit of the embeddings of all sessions together")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    command = [sys.executable, "-u", "-m", "gstk", "serve", "--port", "0", "--bundle", given.bundle]
    command += ["--max-sessions", str(given.sessions), "--cache-gb", str(given.cache_mb / 1024)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url = next(line.split()[1] for line in process.stdout if line.startswith("viewers"))
    watch = Watch(psutil.Process(process.pid), given)
    each = -(-given.prompts // given.sessions)
    threads = [threading.Thread(target=use, args=(url, number, each, watch)) for number in range(given.sessions)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        result = watch.write()
    finally:
        process.terminate()
        process.wait(20)
    print(json.dumps(result, indent=1))
    if given.plot:
        plot(watch.memory_mb, result, given.plot)
    if result["wrong"] or not result["memory_is_flat"] or result["prompts"] < given.prompts:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
