"""Long use of one server by several clients at once: memory, leases, and whose mask comes back; prints JSON.

    python benchmarks/serving_soak.py [--sessions 8] [--prompts 2000] [--cache-mb 32] [--out NAME.json]

Each session is an official nnInteractive client (nninteractive-client) with images of its own, one after the other, a
bright block in each at a place that no other has. It clicks on the block and beside it, undoes, begins another object,
and sends another image every 100 prompts. Every mask is compared with the block: a mask that is not on the session's
own block counts as another's. The server's resident memory is read after every prompt; it counts as flat where its
largest value in the last half is at most 5 % above the largest in the second quarter, when warming up is over. The exit
code is 1 where a lease was lost, a mask was another's, or memory was not flat.
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

SHAPE = (40, 48, 48)
FLAT = 1.05
IMAGE_EVERY = 100
LEAST_DICE = 0.5


def block_of(session: int, image: int) -> tuple[slice, slice, slice]:
    """A place that no other session has at any time: each has a column of its own."""
    y, x = 4 + 15 * (session // 3), 4 + 15 * (session % 3)
    z = 4 + 5 * (image % 4)
    return slice(z, z + 14), slice(y, y + 10), slice(x, x + 10)


def use(url: str, number: int, prompts: int, counts: Counter[str], sample: Any) -> None:
    """One session's prompts; what goes wrong is counted."""
    rng = np.random.default_rng(number)
    client = nnInteractiveRemoteInferenceSession(url)
    done, image_number = 0, 0
    try:
        while done < prompts:
            block = block_of(number, image_number)
            image_number += 1
            image = rng.integers(-60, -20, SHAPE).astype(np.int16)
            image[block] = rng.integers(120, 160)
            truth = np.zeros(SHAPE, bool)
            truth[block] = True
            client.set_image(image[None], {"spacing": [1.5, 1.0, 1.0]})
            client.set_target_buffer(np.zeros(SHAPE, np.uint8))
            for step in range(min(IMAGE_EVERY, prompts - done)):
                kind = step % 5
                if kind == 0:
                    client.reset_interactions()
                    client.add_point_interaction([(axis.start + axis.stop) // 2 for axis in block], True)
                elif kind == 4:
                    client.undo()
                else:
                    inside = kind != 2
                    where = np.argwhere(truth == inside)
                    client.add_point_interaction([int(i) for i in where[rng.integers(len(where))]], bool(inside))
                mask = client.target_buffer > 0
                shared = 2 * (mask & truth).sum() / max(1, mask.sum() + truth.sum())
                counts["prompts"] += 1
                counts["masks on another's block"] += bool(shared < LEAST_DICE and kind == 0)
                sample()
                done += 1
    except SessionExpiredError:
        counts["leases lost"] += 1
    except Exception as error:
        counts[f"{type(error).__name__}: {error!s:.120}"] += 1
    finally:
        client.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=2000, help="of all sessions together")
    parser.add_argument("--cache-mb", type=float, default=32, help="limit of the embeddings of all sessions together")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "gstk", "serve", "--port", "0", "--cache-gb", str(given.cache_mb / 1024)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    url = next(line.split()[1] for line in process.stdout if line.startswith("viewers"))
    server = psutil.Process(process.pid)
    memory_mb: list[float] = []
    each = given.prompts // given.sessions
    counts: Counter[str] = Counter()
    began, before_s = time.perf_counter(), sum(server.cpu_times()[:2])

    def sample() -> None:
        memory_mb.append(server.memory_info().rss / 2**20)

    threads = [
        threading.Thread(target=use, args=(url, number, each, counts, sample)) for number in range(given.sessions)
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        spent_s = time.perf_counter() - began
        processor_s = sum(server.cpu_times()[:2]) - before_s
    finally:
        process.terminate()
        process.wait(20)
    n = len(memory_mb)
    growth = max(memory_mb[n // 2 :]) / max(memory_mb[n // 4 : n // 2])
    wrong = {key: count for key, count in counts.items() if key != "prompts" and count}
    result = {
        "machine": describe(),
        "sessions": given.sessions,
        "prompts": counts["prompts"],
        "seconds": round(spent_s, 1),
        "server_processor_ms_per_prompt": round(1000 * processor_s / counts["prompts"], 1),
        "wrong": wrong,
        "memory_mb": [round(v, 1) for v in memory_mb[:: max(1, n // 40)]],
        "memory_growth": round(growth, 4),
        "memory_is_flat": growth <= FLAT,
    }
    print(json.dumps(result, indent=1))
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n")
    if wrong or growth > FLAT or counts["prompts"] < given.sessions * each:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
