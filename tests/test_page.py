"""The page in a real browser: dropped scans, clicks seen where they were made, files saved as they are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flood import FloodEngine
from numpy.typing import NDArray

pytest.importorskip("selenium", reason="needs selenium")
pytest.importorskip("starlette")

from browser_page import (  # noqa: F401 - fixtures among them
    CENTRE,
    SHAPE,
    Page,
    browser,
    downloaded,
    downloads,
    oblique,
    page,
    scan,
    server,
    write,
)
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from served import TOKEN, Served, serving

from gstk.errors import Interrupted
from gstk.evaluation.metrics import dice
from gstk.server.service import Settings


def test_an_oblique_scan_is_clicked_and_saved_where_it_lies(page: Page, tmp_path: Path, downloads: Path) -> None:
    image, inside = scan()
    source = write(tmp_path / "oblique.nii.gz", image, oblique())
    page.open(source)
    page.look_at(CENTRE)
    planes = ("axial", "coronal", "sagittal")
    before = {plane: page.colour_at(plane, CENTRE) for plane in planes}
    assert all(len(set(colour)) == 1 for colour in before.values())  # grey
    page.click("axial", CENTRE)
    assert page.js("gstk.state.clicks") == [{"object": 1, "voxel": list(CENTRE), "foreground": True}]
    mask = page.labels() == 1
    assert dice(mask, inside) > 0.85
    page.look_at(tuple(i + d for i, d in zip(CENTRE, (2, 2, 2), strict=True)))  # beside the click's mark
    for plane in planes:
        voxel = tuple(page.js("gstk.state.volume.cursor"))
        through = page.js("gstk.state.volume.planes[arguments[0]].through", plane)
        seen = [i + (0 if axis == through else 2) for axis, i in enumerate(voxel)]
        red, _, blue = page.colour_at(plane, tuple(seen))
        assert red > blue + 30  # amber over grey
        away = [i if axis == through else 1 for axis, i in enumerate(voxel)]
        assert len(set(page.colour_at(plane, tuple(away)))) == 1
    page.picture("page_light")
    # The patient's right is on the left of the picture, whatever the order of storage.
    assert page.js("gstk.state.volume.planes.axial.letters") == {"left": "R", "right": "L", "top": "A", "bottom": "P"}
    assert page.js("gstk.state.volume.planes.sagittal.letters") == {
        "left": "A",
        "right": "P",
        "top": "S",
        "bottom": "I",
    }
    assert page.js("gstk.state.volume.planes.coronal.letters") == {"left": "R", "right": "L", "top": "S", "bottom": "I"}
    x0, _ = page.offset("axial", CENTRE)
    x1, _ = page.offset("axial", (CENTRE[0], CENTRE[1], CENTRE[2] + 5))
    assert x1 < x0  # x runs to the patient's right in this scan
    _, y0 = page.offset("coronal", CENTRE)
    _, y1 = page.offset("coronal", (CENTRE[0] + 5, CENTRE[1], CENTRE[2]))
    assert y1 > y0  # and z down
    dx = abs(x1 - x0) / (5 * 1.0)
    _, y2 = page.offset("axial", (CENTRE[0], CENTRE[1] + 5, CENTRE[2]))
    assert abs(y2 - page.offset("axial", CENTRE)[1]) / (5 * 1.2) == pytest.approx(dx, rel=0.1)  # square in mm
    place = [
        float(v)
        for v in re.findall(r"RAS ([-\d., ]+) mm", page.browser.find_element(By.ID, "place").text)[0].split(",")
    ]
    nibabel = pytest.importorskip("nibabel")
    loaded = nibabel.load(source)
    cursor = page.js("gstk.state.volume.cursor")
    np.testing.assert_allclose(loaded.affine @ [*cursor[::-1], 1], [*place, 1], atol=0.06)
    page.press('[data-format="nii.gz"]')
    saved = nibabel.load(downloaded(downloads, "oblique_mask.nii.gz"))
    np.testing.assert_allclose(saved.affine, loaded.affine, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(saved.dataobj).T == 1, mask)


def test_every_tool_changes_the_mask(page: Page, tmp_path: Path) -> None:
    image, inside = scan()
    page.open(write(tmp_path / "tools.nrrd", image))
    z, y, x = CENTRE
    page.look_at(CENTRE)
    page.click("axial", CENTRE)
    whole = page.labels()
    page.tool("point", foreground=False)
    page.click("axial", (z, y, x + 5))
    assert page.labels()[z, y, x + 5] == 0
    page.press("#undo")
    page.rest()
    np.testing.assert_array_equal(page.labels(), whole)
    page.press("#redo")
    page.rest()
    assert page.labels()[z, y, x + 5] == 0
    page.press("#reset")
    page.rest()
    assert not page.labels().any()
    page.tool("box")
    page.drag("coronal", [(z - 8, y, x - 8), (z, y, x), (z + 8, y, x + 8)])
    assert dice(page.labels() == 1, inside) > 0.8
    page.press("#reset")
    page.rest()
    page.look_at(CENTRE)
    page.tool("scribble")
    page.drag("sagittal", [(z - 3, y - 3, x), (z, y, x), (z + 3, y + 3, x)])
    assert dice(page.labels() == 1, inside) > 0.8
    page.press("#background")
    page.drag("sagittal", [(z + 5, y - 3, x), (z + 5, y, x)])
    assert (page.labels()[z + 5, y - 3 : y + 1, x] == 0).any()
    page.press("#reset")
    page.rest()
    page.press("#background")
    page.tool("lasso")
    angles = np.linspace(0, 2 * np.pi, 9)
    page.drag("axial", [(z, y + round(9 * np.sin(t)), x + round(9 * np.cos(t))) for t in angles])
    assert dice(page.labels() == 1, inside) > 0.8
    page.press("#next-object")
    page.tool("point")
    page.look_at((7, 20, 36))
    page.click("axial", (7, 20, 36))
    assert page.labels()[7, 20, 36] == 2
    assert dice(page.labels() == 1, inside) > 0.8
    rows = page.browser.find_elements(By.CSS_SELECTOR, "#objects li")
    assert len(rows) == 2
    ml = float(rows[1].find_element(By.CLASS_NAME, "ml").text.split()[0])
    assert ml == pytest.approx((page.labels() == 2).sum() * 3.0 / 1000, abs=0.006)
    page.picture("page_objects")
    rows[1].find_element(By.CSS_SELECTOR, "button[title=Lock]").click()
    page.click("axial", (7, 10, 36))
    assert "locked" in page.status
    assert len(page.js("gstk.state.clicks")) == len(
        [c for c in page.js("gstk.state.clicks") if c["voxel"] != [7, 10, 36]]
    )
    page.browser.find_elements(By.CSS_SELECTOR, "#objects button[title=Show]")[1].click()
    assert len(set(page.colour_at("axial", (7, 22, 34)))) == 1  # hidden
    page.browser.find_elements(By.CSS_SELECTOR, "#objects button[title=Remove]")[1].click()
    page.rest()
    page.until("gstk.objects.entries.size === 1")
    assert not (page.labels() == 2).any()


def test_the_keyboard_does_everything_without_the_mouse(page: Page, tmp_path: Path) -> None:
    image, inside = scan()
    page.open(write(tmp_path / "keys.mha", image))
    page.look_at((CENTRE[0], CENTRE[1], CENTRE[2] - 1))
    canvas = page.canvas("axial")
    canvas.send_keys(Keys.ARROW_RIGHT)
    assert page.js("gstk.state.volume.cursor") == list(CENTRE)
    canvas.send_keys(Keys.PAGE_UP)
    assert page.js("gstk.state.volume.cursor[0]") == CENTRE[0] + 1
    canvas.send_keys(Keys.PAGE_DOWN, Keys.ENTER)
    page.rest()
    assert dice(page.labels() == 1, inside) > 0.85
    body = page.browser.find_element(By.TAG_NAME, "body")
    ActionChains(page.browser).key_down(Keys.CONTROL).send_keys("z").key_up(Keys.CONTROL).perform()
    page.rest()
    assert not page.labels().any()
    body.send_keys("2")
    assert page.js("gstk.state.foreground") is False
    body.send_keys("?")
    assert page.browser.find_element(By.ID, "help").is_displayed()
    assert "click at the crosshair" in page.browser.find_element(By.ID, "keys").text
    page.picture("page_help")
    body.send_keys(Keys.ESCAPE)
    body.send_keys("n")
    assert page.js("gstk.state.active") == 2
    window = page.js("gstk.state.window")
    ActionChains(page.browser).context_click(canvas).perform()
    assert page.js("gstk.state.window") == window


def test_opening_the_page_again_finds_the_running_session(page: Page, tmp_path: Path) -> None:
    image, _ = scan()
    page.open(write(tmp_path / "again.nii", image))
    page.look_at(CENTRE)
    page.click("axial", CENTRE)
    name = page.browser.find_element(By.CSS_SELECTOR, "#objects input[type=text]")
    name.clear()
    name.send_keys("ba")
    page.js("gstk.state.volume.counts[1] = 1e6, gstk.objects.show()")  # a finer mask comes
    assert page.browser.find_element(By.CSS_SELECTOR, "#objects .ml").get_attribute("title") == "1,000,000 voxels"
    name.send_keys("ll", Keys.TAB)
    labels, lease = page.labels(), page.js("localStorage['gstk.lease']")
    page.js("gstk.state.unsaved = false")
    time.sleep(0.2)
    page.browser.get("about:blank")
    page.browser.get(page.served.url)  # without the token: this browser has kept it
    page.until("window.gstk && gstk.state.volume && !gstk.state.busy")
    assert page.js("localStorage['gstk.lease']") == lease
    np.testing.assert_array_equal(page.labels(), labels)
    assert page.js("gstk.objects.entries.get(1).name") == "ball"
    assert len(page.js("gstk.state.clicks")) == 1


def test_a_page_without_the_token_asks_for_it(browser: Any, server: Served) -> None:
    browser.get("about:blank")
    browser.get(server.url)
    browser.execute_script("localStorage.clear()")
    browser.get("about:blank")
    browser.get(server.url)
    dialog = browser.find_element(By.ID, "key-dialog")
    assert dialog.is_displayed()
    browser.find_element(By.ID, "key").send_keys("wrong", Keys.ENTER)
    deadline = time.monotonic() + 10
    while not dialog.is_displayed() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert dialog.is_displayed()
    field = browser.find_element(By.ID, "key")
    field.clear()
    field.send_keys(TOKEN, Keys.ENTER)
    while not browser.execute_script("return Boolean(gstk.state.ready)") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert browser.execute_script("return Boolean(gstk.state.ready)")
    assert TOKEN not in browser.current_url


def test_a_slow_call_shows_what_runs_and_can_be_cancelled(browser: Any, tmp_path: Path) -> None:
    class Stuck(FloodEngine):
        stuck = True
        ended = threading.Event()

        def decode(self, embedding: Any, coords: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float32]:
            if self.stuck and self.ended.wait(60):
                raise Interrupted("interrupted")
            return super().decode(embedding, coords, labels)

        def interrupt(self) -> None:
            self.ended.set()

    image, inside = scan()
    engine = Stuck()
    with serving(Settings(page_token=TOKEN), engine) as served:
        page = Page(browser, served)
        page.open(write(tmp_path / "slow.nii.gz", image))
        engine.ended.clear()
        page.look_at(CENTRE)
        x, y = page.offset("axial", CENTRE)
        height = page.js("gstk.views.axial.canvas.clientHeight")
        ActionChains(browser).move_to_element_with_offset(page.canvas("axial"), x, y).click().perform()
        page.until("/point \\d/.test(document.getElementById('doing').textContent)")
        assert page.js("gstk.views.axial.canvas.clientHeight") == height  # nothing moves under the mouse
        page.picture("page_busy")
        page.press("#cancel")
        page.rest()
        assert not page.labels().any()
        assert page.js("gstk.state.clicks") == []
        engine.stuck = False
        page.click("axial", CENTRE)
        assert dice(page.labels() == 1, inside) > 0.85
        page.js("gstk.state.unsaved = false")


def test_it_fits_a_small_screen_and_a_dark_one(browser: Any, page: Page, tmp_path: Path) -> None:
    page.open(write(tmp_path / "small.nii.gz", scan()[0]))
    page.look_at(CENTRE)
    page.click("axial", CENTRE)
    for width, height, dark in ((1280, 720, True), (768, 1024, False)):
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )
        scheme = "dark" if dark else "light"
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        time.sleep(0.2)
        assert page.js("document.documentElement.scrollWidth") <= width
        assert page.js("document.documentElement.scrollHeight") <= height
        for plane in ("axial", "coronal", "sagittal"):
            assert page.js("gstk.views[arguments[0]].canvas.clientHeight", plane) > 150
        backs = page.js("getComputedStyle(document.body).backgroundColor")
        assert (sum(json.loads(f"[{backs[4:-1]}]")) < 200) == dark
        page.picture(f"page_{width}_{scheme}")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    nameless = page.js(
        "[...document.querySelectorAll('button, input:not([type=file]), select, canvas')].filter((e) => "
        "!(e.ariaLabel || e.title || e.textContent.trim() || e.labels?.length)).length"
    )
    assert nameless == 0


def test_scripts_are_well_formed() -> None:
    import gstk.server

    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    for file in sorted((Path(gstk.server.__file__).parent / "page").glob("*.js")):
        script = file.read_text(encoding="utf-8")
        command = [node, "--check", "--input-type=module", "-"]
        found = subprocess.run(command, input=script, capture_output=True, text=True, encoding="utf-8")
        assert found.returncode == 0, found.stderr
