"""The page in a real browser, for tests: Chromium without a window, what a user does on the page, and scans."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("selenium", reason="needs selenium")
pytest.importorskip("starlette")

import SimpleITK
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from served import TOKEN, Served, serving

from gstk.server.service import Settings

SHAPE = (30, 50, 44)
CENTRE = (17, 28, 16)  # of a ball, off the middle in every axis
FLAGS = (
    *("--headless=new", "--no-sandbox", "--window-size=1280,800", "--hide-scrollbars", "--force-device-scale-factor=1"),
    *("--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--enable-unsafe-swiftshader"),
)


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(downloads: Path) -> Iterator[Any]:
    """Chromium without a window."""
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    if driver is None or chromium is None:
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS:
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield found
    finally:
        found.quit()


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving(Settings(page_token=TOKEN, max_sessions=50)) as served:
        yield served


class Page:
    """What a user does on the page."""

    def __init__(self, browser: Any, served: Served) -> None:
        self.browser, self.served = browser, served
        browser.get("about:blank")
        browser.get(f"{served.url}/#token={TOKEN}")
        browser.execute_script("localStorage.removeItem('gstk.lease')")
        browser.get("about:blank")
        browser.get(f"{served.url}/#token={TOKEN}")
        self.until("window.gstk && gstk.state.ready")

    def js(self, expression: str, *arguments: Any) -> Any:
        return self.browser.execute_script(f"return {expression}", *arguments)

    def until(self, condition: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not self.js(condition):
            assert time.monotonic() < deadline, f"{condition}; the page says: {self.status}"
            time.sleep(0.03)

    def rest(self) -> None:
        """Until nothing runs, and the last mask is the final one."""
        self.until("!gstk.state.busy")
        self.browser.execute_async_script("Promise.resolve(gstk.state.refining).then(arguments[0])")

    @property
    def status(self) -> str:
        return str(self.browser.find_element(By.ID, "status").text)

    def open(self, *files: Path) -> None:
        self.browser.find_element(By.ID, "files").send_keys("\n".join(map(str, files)))
        self.until("gstk.state.volume && !gstk.state.busy")

    def press(self, selector: str) -> None:
        self.browser.find_element(By.CSS_SELECTOR, selector).click()

    def tool(self, name: str, foreground: bool = True) -> None:
        kind = f'[data-foreground="{"1" if foreground else ""}"]' if name == "point" else ""
        self.press(f'[data-tool="{name}"]{kind}')

    def canvas(self, plane: str) -> Any:
        return self.browser.find_element(By.CSS_SELECTOR, f'[data-plane="{plane}"] canvas')

    def look_at(self, voxel: tuple[int, ...]) -> None:
        self.js("(gstk.state.volume.cursor = [...arguments[0]], gstk.views.axial.on.cursor())", list(voxel))

    def offset(self, plane: str, voxel: tuple[int, ...]) -> tuple[int, int]:
        """Of a voxel from the middle of a plane's canvas, in pixels."""
        x, y = self.js(
            "((view, p) => [p[0] - view.canvas.width / 2, p[1] - view.canvas.height / 2])"
            "(gstk.views[arguments[0]], gstk.views[arguments[0]].pixelOf(arguments[1]))",
            plane,
            list(voxel),
        )
        return round(x), round(y)

    def click(self, plane: str, voxel: tuple[int, ...]) -> None:
        x, y = self.offset(plane, voxel)
        ActionChains(self.browser).move_to_element_with_offset(self.canvas(plane), x, y).click().perform()
        self.rest()

    def drag(self, plane: str, voxels: list[tuple[int, ...]]) -> None:
        actions, canvas = ActionChains(self.browser, duration=20), self.canvas(plane)
        for index, voxel in enumerate(voxels):
            actions.move_to_element_with_offset(canvas, *self.offset(plane, voxel))
            if index == 0:
                actions.click_and_hold()
        actions.release().perform()
        self.rest()

    def colour_at(self, plane: str, voxel: tuple[int, ...]) -> list[int]:
        """RGB that is shown in the middle of a voxel."""
        x, y = self.offset(plane, voxel)
        return list(
            self.js(
                "[...gstk.views[arguments[0]].canvas.getContext('2d').getImageData("
                "gstk.views[arguments[0]].canvas.width / 2 + arguments[1], "
                "gstk.views[arguments[0]].canvas.height / 2 + arguments[2], 1, 1).data].slice(0, 3)",
                plane,
                x,
                y,
            )
        )

    def labels(self) -> NDArray[np.uint8]:
        return np.array(self.js("Array.from(gstk.state.volume.labels)"), np.uint8).reshape(
            self.js("gstk.state.volume.shape")
        )

    def picture(self, name: str) -> None:
        """Keeps a screenshot where GSTK_PICTURES names a folder."""
        folder = os.environ.get("GSTK_PICTURES")
        if folder:
            self.js("new Promise((done) => setTimeout(done, 300))")
            self.browser.save_screenshot(str(Path(folder) / f"{name}.png"))


@pytest.fixture
def page(browser: Any, server: Served) -> Iterator[Page]:
    found = Page(browser, server)
    browser.get_log("browser")
    yield found
    errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []
    found.js("gstk.state.unsaved = false")


def scan() -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """A ball, and a bar beside it, in noise that no two voxels share."""
    grid = np.indices(SHAPE)
    inside = ((grid - np.array(CENTRE)[:, None, None, None]) ** 2).sum(0) <= 49
    image = np.where(inside, 700, 50)
    image[5:9, 8:40, 34:38] = 650
    return (image + grid.sum(0) % 7).astype(np.int16), inside


def write(path: Path, image: NDArray[Any], direction: tuple[float, ...] = (1, 0, 0, 0, 1, 0, 0, 0, 1)) -> Path:
    made = SimpleITK.GetImageFromArray(image)
    made.SetSpacing((1.0, 1.2, 2.5))
    made.SetOrigin((-30, 12, 7))
    made.SetDirection(direction)
    SimpleITK.WriteImage(made, str(path))
    return path


def oblique() -> tuple[float, ...]:
    """Array axes turned by 12° and running to the right, to the front and up, or down."""
    a = np.deg2rad(12)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    return tuple((turn @ np.diag([-1, 1, -1])).ravel())


def downloaded(folder: Path, name: str) -> Path:
    file = folder / name
    deadline = time.monotonic() + 20
    while not file.exists():
        assert time.monotonic() < deadline, list(folder.iterdir())
        time.sleep(0.05)
    return file
