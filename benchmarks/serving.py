"""What the server and its page take beside the network: start, upload, click to pixels, memory; prints JSON.

    python benchmarks/serving.py [--sizes 256,256,256 300,512,512] [--out NAME.json]

Each size (z,y,x) is a generated int16 volume with a ball that is clicked in Chromium without a window; needs Debian's
chromium and chromium-driver, and selenium. The page's own share of a click is its time less what the session took. Peak
memory is that of the server's process over what it held before the upload, per voxel.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import SimpleITK
from machine import describe
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

import gstk.server

CLICKS = 7
FLAGS = (
    *("--headless=new", "--no-sandbox", "--window-size=1280,800", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-unsafe-swiftshader"),
)


@contextmanager
def server() -> Iterator[tuple[subprocess.Popen[str], str, float]]:
    """The process, the page's address, and seconds from the start to it."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "gstk", "serve", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("page"):
                yield process, line.split()[1], time.perf_counter() - began
                return
        raise RuntimeError("gstk serve ended before it was ready")
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in FLAGS:
        options.add_argument(flag)
    found = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    try:
        yield found
    finally:
        found.quit()


def until(page: Any, condition: str, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not page.execute_script(f"return {condition}"):
        if time.monotonic() > end:
            raise TimeoutError(condition)
        time.sleep(0.01)


def measure(page: Any, process: subprocess.Popen[str], shape: tuple[int, int, int], folder: Path) -> dict[str, Any]:
    _, y, x = shape
    image = np.full(shape, -50, np.int16)
    image += np.random.default_rng(0).integers(-20, 20, (1, y, x), np.int16)
    middle, radius = [n // 2 for n in shape], 24
    near = tuple(slice(c - radius, c + radius + 1) for c in middle)
    ball = (np.indices([2 * radius + 1] * 3) - radius) ** 2
    image[near][ball.sum(0) <= radius**2] = 150
    file = folder / "volume.nii"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(image), str(file))
    memory = psutil.Process(process.pid)
    before = memory.memory_info().rss
    peak = before
    page.execute_script("gstk.state.volume = null; gstk.state.unsaved = false")
    began = time.perf_counter()
    page.find_element(By.ID, "files").send_keys(str(file))
    while not page.execute_script("return Boolean(gstk.state.volume) && !gstk.state.busy"):
        peak = max(peak, memory.memory_info().rss)
        time.sleep(0.01)
    opened_s = time.perf_counter() - began
    own, whole, session = [], [], []
    for index in range(CLICKS):
        voxel = [middle[0], middle[1], middle[2] + 3 * index - 9]
        kept = (
            "const v = gstk.state.volume; v.cursor = arguments[0]; gstk.views.axial.on.cursor(); "
            "gstk.state.timing = null; gstk.views.axial.on.prompt({kind: 'point', voxel: arguments[0], "
            "foreground: arguments[1]})"
        )
        page.execute_script(kept, voxel, index % 2 == 0)
        until(page, "gstk.state.timing && !gstk.state.busy")
        timing = page.execute_script("return gstk.state.timing")
        own.append(timing["whole"] - timing["session"])
        whole.append(timing["whole"])
        session.append(timing["session"])
        peak = max(peak, memory.memory_info().rss)
    voxels = int(np.prod(shape))
    return {
        "shape": list(shape),
        "drop_to_picture_s": opened_s,
        "first_click_ms": whole[0],
        "click_ms_median": float(np.median(whole)),
        "click_session_ms_median": float(np.median(session)),
        "click_beside_session_ms_median": float(np.median(own)),
        "peak_bytes_per_voxel": (peak - before) / voxels,
        "held_bytes_per_voxel": (memory.memory_info().rss - before) / voxels,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["101,122,112", "256,256,256", "300,512,512"])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    files = list((Path(gstk.server.__file__).parent / "page").iterdir())
    result: dict[str, Any] = {
        "machine": describe(),
        "page_bytes": sum(file.stat().st_size for file in files),
        "sizes": [],
    }
    with tempfile.TemporaryDirectory() as folder, server() as (process, address, ready_s), browser() as page:
        result["start_to_ready_s"] = ready_s
        page.get(address)
        until(page, "window.gstk && gstk.state.lease")
        for size in given.sizes:
            z, y, x = (int(n) for n in size.split(","))
            result["sizes"].append(measure(page, process, (z, y, x), Path(folder)))
            print(json.dumps(result["sizes"][-1]), flush=True)
    print(json.dumps({key: value for key, value in result.items() if key != "sizes"}, indent=1))
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
