"""The protocol against a second implementation of it: whole volumes, the global random state, no shortcut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from flood import POLICY, FloodEngine
from numpy.typing import NDArray
from scipy import ndimage

from gstk.cases.npz import load_case
from gstk.core.prompts import Box, ObjectPrompts
from gstk.evaluation.protocol import Segmenter, SessionSegmenter, Step, click_by_click, run_steps
from gstk.session.session import Session


class Stained(Segmenter):
    """Knows the truth and spoils it; each call heals the surroundings of every click. A stranger to the session."""

    def __init__(self, truth: NDArray[np.integer], seed: int = 0) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self._truth = truth
        blobs = ndimage.zoom(rng.random([n // 6 + 2 for n in truth.shape]), 6, order=1)
        blobs = blobs[tuple(slice(n) for n in truth.shape)]
        self._spoilt = np.where(blobs > 0.62, np.roll(truth, (1, 3, 2), (0, 1, 2)), truth).astype(np.uint16)
        self._spoilt[blobs < 0.12] = 0

    def set_image(self, volume: NDArray[np.generic], spacing_mm: Sequence[float]) -> None:
        with self._counted():
            self._volume = volume

    def segment(self, prompts: Mapping[int, ObjectPrompts]) -> NDArray[np.integer]:
        with self._counted():
            mask = self._spoilt.copy()
            for said in prompts.values():
                for point in said.points:
                    around = tuple(slice(max(0, i - 4), i + 5) for i in point.zyx)
                    mask[around] = self._truth[around]
            return mask


def second_opinion(mask: np.ndarray, truth: np.ndarray, k: int) -> tuple[tuple[int, ...], bool] | None:
    """Where to click on class k; written anew from the description of the official evaluator."""
    wrong = (mask == k) ^ (truth == k)
    if not wrong.any():
        return None
    parts, _ = ndimage.label(wrong, np.ones((3, 3, 3)))
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    part = parts == sizes.argmax()
    where = np.nonzero(part)
    first, last = [int(axis.min()) for axis in where], [int(axis.max()) for axis in where]
    pads = [max(1, (b - a + 1) // 4) for a, b in zip(first, last, strict=True)]
    sheet = np.zeros([b - a + 1 + 2 * p for a, b, p in zip(first, last, pads, strict=True)], bool)
    inner = tuple(slice(p, p + b - a + 1) for a, b, p in zip(first, last, pads, strict=True))
    sheet[inner] = part[tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))]
    assert sheet.size <= 60_000_000
    depth = np.zeros(truth.shape)
    depth[tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))] = ndimage.distance_transform_edt(sheet)[
        inner
    ]
    np.random.seed(42)
    candidates = np.transpose(np.where(depth == depth.max()))
    chosen = tuple(int(i) for i in candidates[np.random.choice(len(candidates))])
    return chosen, bool(truth[chosen] == k)


def check(steps: list[Step], truth: np.ndarray, first: int) -> int:
    """Compares the clicks of every step with the second opinion on the mask before it."""
    mask, said, clicks = np.zeros_like(truth), {int(k): 0 for k in np.unique(truth) if k}, 0
    for number, step in enumerate(steps, start=first):
        assert step.number == number
        for k, before in said.items():
            expected = second_opinion(mask, truth, k) if number else None
            new = step.prompts[k].points[before:]
            assert [(p.zyx, p.foreground) for p in new] == ([] if expected is None else [expected])
            said[k] += len(new)
            clicks += len(new)
        mask = step.mask
    return clicks


@pytest.mark.slow
def test_clicks_on_the_real_cases_are_those_of_a_second_implementation(shared_data: Path) -> None:
    paths = sorted((shared_data / "cases").glob("*.npz"))
    assert len(paths) == 20
    for seed, path in enumerate(paths):
        case = load_case(path)
        assert case.labels is not None
        segmenter = Stained(case.labels, seed)
        steps = list(run_steps(segmenter, case.image, case.geometry.spacing_mm, case.labels, rounds=2))
        assert check(steps, case.labels, first=1) > len(np.unique(case.labels)) - 1


def two_objects() -> np.ndarray:
    truth = np.zeros((24, 40, 40), np.uint8)
    truth[5:15, 8:20, 8:20] = 1
    truth[14:22, 24:36, 22:38] = 4
    return truth


@pytest.mark.parametrize("boxes", [False, True])
def test_with_and_without_boxes(boxes: bool) -> None:
    truth = two_objects()
    start = {1: ObjectPrompts(box=Box.from_corners(((5, 8, 8), (14, 19, 19)))), 4: ObjectPrompts()} if boxes else None
    segmenter = Stained(truth, 3)
    steps = list(run_steps(segmenter, truth, (1, 1, 1), truth, rounds=5, start=start))
    assert len(steps) == (6 if boxes else 5)
    check(steps, truth, first=0 if boxes else 1)
    assert sum(step.seconds for step in steps) == pytest.approx(segmenter.seconds)
    assert steps[-1].prompts[1].box == (start[1].box if start else None)


def test_what_is_right_gets_no_click() -> None:
    truth = two_objects()
    segmenter = Stained(truth, 3)
    segmenter._spoilt = truth.copy()
    steps = list(run_steps(segmenter, truth, (1, 1, 1), truth, rounds=3))
    assert [len(p.points) for p in steps[0].prompts.values()] == [1, 1]  # nothing was segmented yet
    assert [len(p.points) for p in steps[2].prompts.values()] == [1, 1]


def test_another_choice_among_equals() -> None:
    truth = two_objects()
    first = next(run_steps(Stained(truth), truth, (1, 1, 1), truth, choose=lambda count: 0)).prompts[1].points[0].zyx
    last = next(run_steps(Stained(truth), truth, (1, 1, 1), truth, choose=lambda count: count - 1))
    assert first < last.prompts[1].points[0].zyx


def test_a_session_is_clicked_alike_through_both_doors() -> None:
    truth = two_objects()
    image = np.where(truth > 0, np.uint8(200), np.uint8(20))
    scores = click_by_click(Session(FloodEngine(), POLICY), image, (1, 1, 1), truth, rounds=3)  # type: ignore[arg-type]
    engine = FloodEngine()
    session = Session(engine, POLICY)  # type: ignore[arg-type]
    with SessionSegmenter(session) as segmenter:
        steps = list(run_steps(segmenter, image, (1, 1, 1), truth, rounds=3))
        np.testing.assert_array_equal(scores.mask, steps[-1].mask)
    assert scores.prompts == steps[-1].prompts
    assert scores.start is None
    assert scores.means[0] > 0.8
    assert engine.closed
