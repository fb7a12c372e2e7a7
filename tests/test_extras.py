"""Extras are plugged in: what has none imports nothing of them, and what has one asks it at each place."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from flood import POLICY, FloodEngine

from gstk.core.window import Window
from gstk.session.session import Session

CODE = """
import json, sys
import numpy as np
import gstk
image = np.zeros((24, 24, 24), np.uint8)
image[8:16, 8:16, 8:16] = 200
with gstk.open("tiny", threads=1, refine={refine}) as session:
    session.set_image(image)
    session.add_box(((8, 8, 8), (15, 15, 15)))
    session.add_point((12, 12, 12))
    assert session.mask.any()
print(json.dumps(sorted(name for name in sys.modules if name.startswith("gstk.session.extras"))))
"""


@pytest.mark.parametrize("refine", [False, True])
def test_a_network_without_an_extra_imports_nothing_of_them(refine: bool) -> None:
    run = subprocess.run(
        [sys.executable, "-c", CODE.format(refine=refine)], capture_output=True, text=True, encoding="utf-8", check=True
    )
    assert bool(json.loads(run.stdout)) == refine


class Recorder:
    """An extra that says what it was asked, and makes every mask a cube around the middle of the window."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def more_points(self, image: Any, window: Window, logits: Any, prompts: Any) -> Any:
        assert image(window).shape == logits.shape == window.shape
        self.asked.append("more_points")
        return np.array([[20.0, 20, 20]]), np.array([1])

    def refine(self, image: Any, geometry: Any, window: Window, logits: Any, prompts: Any, clock: Any) -> Any:
        self.asked.append("refine")
        low = [n // 2 - 2 for n in window.shape]
        high = [n // 2 + 2 for n in window.shape]
        return window.part(low, high, 2), np.full((8, 8, 8), 5, np.float32)

    def weigh_click(self, prompts: Any, click: Any, region: Any, before: Any, after: Any) -> None:
        self.asked.append("weigh_click")
        after[...] = 5

    def seconds(self, step: str, geometry: Any, window: Window, prompts: Any) -> float:
        return 1e-3


def test_an_extra_is_asked_at_each_place() -> None:
    image = np.zeros((40, 40, 40), np.uint8)
    image[12:29, 12:29, 12:29] = 200
    extra = Recorder()
    session, plain = (Session(FloodEngine(), POLICY, e) for e in (extra, None))  # type: ignore[arg-type]
    for each in (session, plain):
        each.set_image(image)
        each.add_point((20, 20, 20))
    assert extra.asked == ["more_points", "refine"]
    assert session.decodes == plain.decodes + 1
    assert session.window() == plain.window()
    side_mm = 4 * np.array(session.window().step)  # type: ignore[union-attr]
    assert (session.mask > 0).sum() == pytest.approx(np.prod(side_mm), rel=0.6)
    session.add_point((20, 20, 21))
    assert extra.asked == ["more_points", "refine"] * 2 + ["weigh_click"]
    assert session.sibling()._segmenter.extra is extra
