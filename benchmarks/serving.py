"""What the server and its page take beside the network: start, upload, click to pixels, memory; prints JSON.

    python benchmarks/serving.py [--bundle B] [--sizes 256,256,256 300,512,512] [--tries 2] [--out NAME.json]

Each size (z,y,x) is a generated int16 volume with a ball that is clicked in Chromium without a window; needs Debian's
chromium and chromium-driver, and selenium. Takes two minutes on two idle cores.

A click is a real one of the mouse. Its time runs from the browser's event to the frame that shows the changed slices;
what the page and the server take of it is that time less what the session took in the same click. Seconds depend on
what else the machine does, so the processor seconds of the server and of all of the browser's processes stand beside
them, and of several tries the best counts: it is nearest to an idle machine. Peak memory is that of the server's
process over what it held before the first volume of a size, per voxel; a small one's is all of the network's own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import SimpleITK
from machine import describe
from numpy.typing import NDArray
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

import gstk.server

CLICKS = 9
FLAGS = (
    *("--headless=new", "--no-sandbox", "--window-size=1280,800", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-unsafe-swiftshader"),
)


@contextmanager
def server(bundle: str) -> Iterator[tuple[subprocess.Popen[str], str, float]]:
    """The process, the page's address, and seconds from the start to it."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "gstk", "serve", "--port", "0", "--bundle", bundle],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},  # the page's address comes at once
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
        process.wait(120)  # what is being compiled ends first


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


# Notes when a click came and when the frame that shows its mask was drawn, and how long each request took.
INSTRUMENT = """
window.bench = { requests: {} };
addEventListener("pointerup", (e) => { bench.clicked = e.timeStamp; }, true);
Object.defineProperty(gstk.state, "timing", { set(timing) {
  requestAnimationFrame(() => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => { bench.click = { ...timing, whole: performance.now() - bench.clicked }; };
    channel.port2.postMessage(0);
  });
} });
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) bench.requests[new URL(entry.name).pathname] = entry.duration / 1000;
}).observe({ type: "resource" });
"""


def until(page: Any, condition: str) -> None:
    """Waits in the page itself: a question from outside, asked often, would take a core of the two."""
    wait = f"const done = arguments[0], ask = () => ({condition}) ? done() : setTimeout(ask, 20); ask();"
    page.execute_async_script(wait)


def processor_s(page: Any, server_pid: int) -> dict[str, float]:
    """Seconds of the server and of the browser's processes so far."""

    def spent(processes: list[psutil.Process]) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    chromium = psutil.Process(page.service.process.pid).children(recursive=True)
    return {"server": spent([psutil.Process(server_pid)]), "browser": spent(chromium)}


@contextmanager
def counted(page: Any, server_pid: int, into: dict[str, Any]) -> Iterator[None]:
    before = processor_s(page, server_pid)
    yield
    into["processor_s"] = {
        name: round(seconds - before[name], 3) for name, seconds in processor_s(page, server_pid).items()
    }


class Peak(threading.Thread):
    """The largest resident memory of a process until it is stopped."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._process, self._over = psutil.Process(pid), threading.Event()
        self.bytes = 0

    def run(self) -> None:
        while not self._over.wait(0.02):
            self.bytes = max(self.bytes, self._process.memory_info().rss)

    def stop(self) -> int:
        self._over.set()
        self.join()
        return self.bytes


def ball(shape: tuple[int, int, int]) -> NDArray[np.int16]:
    _, y, x = shape
    image = np.full(shape, -50, np.int16)
    image += np.random.default_rng(0).integers(-20, 20, (1, y, x), np.int16)
    middle, radius = [n // 2 for n in shape], 24
    near = tuple(slice(c - radius, c + radius + 1) for c in middle)
    place = (np.indices([2 * radius + 1] * 3) - radius) ** 2
    image[near][place.sum(0) <= radius**2] = 150
    return image


def opened(page: Any, server_pid: int, file: Path) -> dict[str, Any]:
    """Drops a file, and waits for its picture."""
    found: dict[str, Any] = {}
    page.execute_script("gstk.state.volume = null; gstk.state.unsaved = false; bench.requests = {}")
    with counted(page, server_pid, found):
        began = time.perf_counter()
        page.find_element(By.ID, "files").send_keys(str(file))
        until(page, "gstk.state.volume && !gstk.state.busy")
        found["drop_to_picture_s"] = round(time.perf_counter() - began, 3)
    until(page, "bench.requests['/api/voxels']")
    requests = page.execute_script("return bench.requests")
    for name, path in (("upload", "/api/upload"), ("read", "/api/open"), ("voxels_back", "/api/voxels")):
        found[f"{name}_s"] = round(requests[path], 3)
    return found


def clicked(page: Any, server_pid: int, voxel: list[int], foreground: bool) -> dict[str, Any]:
    """Clicks with the mouse on a voxel of the axial slice, and waits for the frame that shows the mask."""
    x, y = page.execute_script(
        "const [voxel, foreground] = arguments, { state, views: { axial } } = gstk;"
        "state.foreground = foreground; state.volume.cursor = [...voxel]; axial.on.cursor(); bench.click = null;"
        "const [x, y] = axial.pixelOf(voxel); return [x - axial.canvas.width / 2, y - axial.canvas.height / 2];",
        voxel,
        foreground,
    )
    canvas = page.find_element(By.CSS_SELECTOR, "[data-plane=axial] canvas")
    found: dict[str, Any] = {}
    with counted(page, server_pid, found):
        ActionChains(page, duration=0).move_to_element_with_offset(canvas, round(x), round(y)).click().perform()
        until(page, "bench.click && !gstk.state.busy")
    timing = page.execute_script("return bench.click")
    found |= {
        "whole_ms": round(timing["whole"], 1),
        "session_ms": timing["session"],
        "beside_session_ms": round(timing["whole"] - timing["session"], 1),
    }
    return found


def measure(page: Any, server_pid: int, shape: tuple[int, int, int], tries: int, file: Path) -> dict[str, Any]:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(ball(shape)), str(file))
    before = psutil.Process(server_pid).memory_info().rss
    openings, clicks, firsts = [], [], []
    for _ in range(tries):
        peak = Peak(server_pid)
        peak.start()
        openings.append(opened(page, server_pid, file))
        z, y, x = (n // 2 for n in shape)
        page.execute_script("gstk.views.axial.fit()")
        made = [clicked(page, server_pid, [z, y, x + 4 * index - 16], index % 2 == 0) for index in range(CLICKS)]
        firsts.append(made[0])
        clicks += made[1:]
        peak_bytes = peak.stop()
    voxels = int(np.prod(shape))
    beside = [click["beside_session_ms"] for click in clicks]
    return {
        "shape": list(shape),
        "openings": openings,
        "best_drop_to_picture_s": min(opening["drop_to_picture_s"] for opening in openings),
        "best_upload_s": min(opening["upload_s"] for opening in openings),
        "first_clicks": firsts,
        "best_first_click_s": min(click["whole_ms"] for click in firsts) / 1000,
        "clicks": clicks,
        "beside_session_ms": {"best": min(beside), "median": round(float(np.median(beside)), 1)},
        "peak_bytes_per_voxel": round((peak_bytes - before) / voxels, 2),
    }


def starts(bundle: str, tries: int) -> dict[str, Any]:
    """Seconds from the command to the address of the page, and of the processor."""
    found = []
    for _ in range(tries):
        with server(bundle) as (process, _, ready_s):
            spent_s = sum(psutil.Process(process.pid).cpu_times()[:2])
            found.append({"ready_s": round(ready_s, 2), "processor_s": round(spent_s, 2)})
    return {"best_s": min(start["ready_s"] for start in found), "tries": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="tiny")
    parser.add_argument("--sizes", nargs="+", default=["101,122,112", "256,256,256", "300,512,512"])
    parser.add_argument("--tries", type=int, default=2, help="of each size; twice as many starts")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    files = [file for file in (Path(gstk.server.__file__).parent / "page").iterdir() if file.is_file()]
    result: dict[str, Any] = {
        "machine": describe(),
        "bundle": Path(given.bundle).name,
        "load_before": round(os.getloadavg()[0], 1),
        "page_bytes": sum(file.stat().st_size for file in files),
        "start": starts(given.bundle, 2 * given.tries),
        "sizes": [],
    }
    print(json.dumps(result, indent=1))
    with tempfile.TemporaryDirectory() as folder, server(given.bundle) as (process, address, _), browser() as page:
        page.set_script_timeout(300)
        page.get(address)
        until(page, "window.gstk && gstk.state.ready")
        page.execute_script(INSTRUMENT)
        for size in given.sizes:
            z, y, x = (int(n) for n in size.split(","))
            result["sizes"].append(measure(page, process.pid, (z, y, x), given.tries, Path(folder) / "volume.nii"))
            shown = {key: value for key, value in result["sizes"][-1].items() if key != "clicks"}
            print(json.dumps(shown), flush=True)
            if given.out:
                given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
