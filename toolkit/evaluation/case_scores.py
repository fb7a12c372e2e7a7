"""Evaluates one case by the official protocol: steps, scores, times, and the row of the official CSV."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gstk.cases.npz import Case, SpacingOrder, load_case, load_labels, save_segs
from gstk.core.click_rule import OFFICIAL_SEED, seeded_choice
from gstk.core.files import atomic_path
from gstk.core.prompts import ObjectPrompts, list_prompts
from gstk.errors import CaseError, EvaluationError, GstkError
from gstk.evaluation.metrics import score_labels
from gstk.evaluation.protocol import Segmenter, run_steps

__all__ = ["CLICKS", "COLUMNS", "LIMIT_S", "STEPS", "CaseScores", "score_case", "score_file"]

CLICKS = 5
STEPS = CLICKS + 1
LIMIT_S = 90.0
"""Time for each class of a case, over all steps; beyond it the case scores 0."""

_NUMBERS = range(1, STEPS + 1)
COLUMNS = (
    *("CaseName", "TotalRunningTime", *(f"RunningTime_{i}" for i in _NUMBERS)),
    *("DSC_AUC", "NSD_AUC", "DSC_Final", "NSD_Final", *(f"DSC_{i}" for i in _NUMBERS)),
    *(*(f"NSD_{i}" for i in _NUMBERS), "num_class", "runtime_upperbound"),
)
"""Of the official evaluator's CSV, in its order."""


@dataclass(frozen=True)
class CaseScores:
    """The scores of one case. A list over steps has six entries: one for the box (0 without a box), five for clicks.

    Attributes:
        case: name of the case.
        classes: label ids of the reference; empty if the case could not be read.
        shape, spacing_mm: shape in voxels and voxel spacing in mm of the volume, (z,y,x).
        has_box: whether the case has boxes, or objects were segmented by class, so that step 0 was run.
        seconds: time that the segmenter took in each step.
        expected: seconds that the segmenter predicted for each step; 0 without a latency model.
        dsc, nsd: measured mean over the classes after each step.
        class_dsc, class_nsd: measured value of each class, [step][class].
        prompts: all prompts after the last step, as the lists of the .npz layout.
        click_s, metric_s, file_s, total_s: seconds for finding clicks, for scoring, for reading and writing, and in
            total.
        failures: one text for each step without a result, with the reason; such a step is scored as an empty mask.
        source, reference: files of the case and of its reference; empty if they were not read from a file.
        source_bytes: size of the case's file in bytes.
    """

    case: str
    classes: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    has_box: bool = False
    seconds: tuple[float, ...] = ()
    expected: tuple[float, ...] = ()
    dsc: tuple[float, ...] = ()
    nsd: tuple[float, ...] = ()
    class_dsc: tuple[tuple[float, ...], ...] = ()
    class_nsd: tuple[tuple[float, ...], ...] = ()
    prompts: Mapping[str, Any] = field(default_factory=dict)
    click_s: float = 0.0
    metric_s: float = 0.0
    file_s: float = 0.0
    total_s: float = 0.0
    failures: tuple[str, ...] = ()
    source: str = ""
    reference: str = ""
    source_bytes: int = 0

    @property
    def total_seconds(self) -> float:
        """Time of the segmenter in all steps together."""
        return float(sum(self.seconds))

    @property
    def limit_s(self) -> float:
        """The challenge's time limit for the case, in seconds."""
        return LIMIT_S * len(self.classes)

    @property
    def in_time(self) -> bool:
        """Whether the segmenter kept the challenge's time limit for the case."""
        return self.total_seconds <= self.limit_s

    @property
    def overhead(self) -> float:
        """Share of the case's total time that was spent outside the segmenter."""
        return 1 - self.total_seconds / self.total_s if self.total_s else 0.0

    def official(self, timed: bool = True) -> dict[str, Any]:
        """The row of the official CSV. With `timed`, all scores of a case that exceeded the time limit are 0.

        DSC_AUC and NSD_AUC are areas under the curve over the five clicks by the trapezoidal rule; the maximum is 4.
        """
        dsc, nsd = (np.array(scores) * (self.in_time or not timed) for scores in (self.dsc, self.nsd))
        row: dict[str, Any] = {
            "CaseName": f"{self.case}.npz",
            "TotalRunningTime": self.total_seconds,
            "DSC_AUC": _area(dsc[-CLICKS:]),
            "NSD_AUC": _area(nsd[-CLICKS:]),
            "DSC_Final": float(dsc[-1]),
            "NSD_Final": float(nsd[-1]),
            "num_class": len(self.classes),
            "runtime_upperbound": self.limit_s,
        }
        for name, values in (("RunningTime", self.seconds), ("DSC", dsc), ("NSD", nsd)):
            row |= {f"{name}_{i}": float(value) for i, value in enumerate(values, start=1)}
        return {column: row[column] for column in COLUMNS}

    def save(self, path: Path) -> None:
        """Writes the scores as a JSON file, atomically."""
        with atomic_path(path) as partial_path:
            partial_path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> CaseScores:
        """Reads scores that `save` wrote.

        Raises:
            EvaluationError: the file does not hold such scores.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            names = {entry.name for entry in fields(cls)}
            frozen = {k: _frozen(v) for k, v in values.items() if k in names}
            scores = cls(**frozen)
            if scores.classes and not len(scores.dsc) == len(scores.nsd) == len(scores.seconds) == STEPS:
                raise ValueError(f"{len(scores.dsc)} steps")
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise EvaluationError(f"{path} holds no scores of gstk evaluate ({error}); delete it") from None
        return scores


def score_file(
    segmenter: Segmenter,
    source: Path,
    *,
    gts: Path | None = None,
    segs: Path | None = None,
    seed: int = OFFICIAL_SEED,
    spacing_order: SpacingOrder = "zyx",
) -> CaseScores:
    """Evaluates one case file by the protocol. An error of the case or the segmenter is recorded, never raised.

    Args:
        segmenter: the segmenter to score.
        source: file of the .npz case.
        gts: file whose `gts` is the reference; None uses the `gts` of the case.
        segs: file for the masks: `segs` is the last mask, `all_segs` (6,z,y,x) holds the masks of all steps.
        seed: seed of the random choice among equally central voxels.
        spacing_order: axis order of `spacing` in the file.

    Returns:
        The scores; their `classes` are empty if the case could not be read.
    """
    began = time.perf_counter()
    name = source.name.removesuffix(".npz")
    try:
        size = source.stat().st_size
        case = load_case(source, spacing_order)
        if gts is not None:
            case = replace(case, labels=load_labels(gts, case.geometry.shape))
        if case.labels is None or not case.labels.any():
            raise CaseError(f"{source.name} has no labels in 'gts', expected a reference; name their folder with --gts")
    except (GstkError, MemoryError, OSError) as error:
        spent = time.perf_counter() - began
        return CaseScores(name, failures=(_reason(error),), total_s=spent, source=os.path.abspath(source))
    read_s = time.perf_counter() - began
    scores, masks = score_case(segmenter, case, seed)
    writing = time.perf_counter()
    failures = scores.failures
    if segs is not None:
        try:
            save_segs(segs, masks[-1], masks)
        except GstkError as error:
            failures = (*failures, str(error))
    ended = time.perf_counter()
    return replace(
        scores,
        failures=failures,
        file_s=read_s + ended - writing,
        total_s=ended - began,
        source=os.path.abspath(source),
        reference=os.path.abspath(gts or source),
        source_bytes=size,
    )


def score_case(
    segmenter: Segmenter, case: Case, seed: int = OFFICIAL_SEED
) -> tuple[CaseScores, list[NDArray[np.integer]]]:
    """Evaluates one case by the protocol.

    Args:
        segmenter: the segmenter to score. A step in which it raises an error is scored as an empty mask.
        case: the case, with labels.
        seed: seed of the random choice among equally central voxels.

    Returns:
        The scores, and the masks (z,y,x) of the six steps.
    """
    assert case.labels is not None, "a case without labels cannot be scored"
    began = time.perf_counter()
    classes = tuple(int(k) for k in np.flatnonzero(np.bincount(case.labels.ravel())) if k)
    boxes = {k: ObjectPrompts(box=p.box) for k, p in case.prompts.items() if p.box is not None and k in classes}
    if segmenter.answers_without_prompts:
        boxes = {}
    has_start = bool(boxes) or segmenter.answers_without_prompts
    forgiving = _Forgiving(segmenter, case.geometry.shape, first_step=0 if has_start else 1)
    empty = np.zeros(case.geometry.shape, np.uint16)
    masks: list[NDArray[np.integer]] = [] if has_start else [empty]
    nothing = (0.0,) * len(classes)
    skipped, nothings = ([], []) if has_start else ([0.0], [nothing])
    seconds, expected, dsc, nsd = list(skipped), list(skipped), list(nothings), list(nothings)
    click_s = metric_s = 0.0
    prompts: dict[int, ObjectPrompts] = {}
    volume, spacing_mm = case.image, case.geometry.spacing_mm
    choose = partial(seeded_choice, seed=seed)
    for step in run_steps(forgiving, volume, spacing_mm, case.labels, CLICKS, classes, boxes, choose):
        scoring = time.perf_counter()
        scores = score_labels(case.labels, step.mask, classes, spacing_mm)
        metric_s += time.perf_counter() - scoring
        click_s += step.click_seconds
        prompts = step.prompts
        masks.append(step.mask)
        seconds.append(step.seconds)
        expected.append(step.expected_seconds)
        dsc.append(scores.dsc)
        nsd.append(scores.nsd)
    case_scores = CaseScores(
        case.name,
        classes,
        case.geometry.shape,
        spacing_mm,
        has_start,
        tuple(seconds),
        tuple(expected),
        tuple(float(np.mean(step)) for step in dsc),
        tuple(float(np.mean(step)) for step in nsd),
        tuple(dsc),
        tuple(nsd),
        list_prompts(prompts),
        click_s,
        metric_s,
        total_s=time.perf_counter() - began,
        failures=tuple(forgiving.failures),
    )
    return case_scores, masks


class _Forgiving(Segmenter):
    """Wraps a segmenter so that an error makes only the current step fail, as in the official evaluator."""

    def __init__(self, inner: Segmenter, shape: tuple[int, ...], first_step: int) -> None:
        super().__init__()
        self.failures: list[str] = []
        self.answers_without_prompts = inner.answers_without_prompts
        self._inner, self._shape = inner, shape
        self._before = inner.seconds, inner.expected_seconds
        self._step, self._broken = first_step, ""

    def set_image(self, volume: NDArray[np.generic], spacing_mm: Sequence[float]) -> None:
        try:
            self._inner.set_image(volume, spacing_mm)
        except Exception as error:  # pipelines of other authors may raise any type
            self._broken = _reason(error)
        self._count()

    def segment(self, prompts: Mapping[int, ObjectPrompts]) -> NDArray[np.integer]:
        mask: NDArray[np.integer] = np.zeros(self._shape, np.uint16)
        reason = self._broken
        if not reason:
            try:
                given = np.asarray(self._inner.segment(prompts))
                if given.shape != self._shape or given.dtype.kind not in "iu":
                    reason = f"got a mask {given.shape} of {given.dtype}, expected integers {self._shape}"
                else:
                    mask = given
            except Exception as error:  # pipelines of other authors may raise any type
                reason = _reason(error)
        if reason:
            self.failures.append(f"step {self._step}: {reason}")
        self._step += 1
        self._count()
        return mask

    def _count(self) -> None:
        self.seconds = self._inner.seconds - self._before[0]
        self.expected_seconds = self._inner.expected_seconds - self._before[1]


def _area(scores: NDArray[np.float64]) -> float:
    """Area under the scores by the trapezoidal rule, with a distance of 1 between clicks."""
    return float((scores[1:] + scores[:-1]).sum() / 2)


def _reason(error: BaseException) -> str:
    """Describes an error in one line, with its type unless it is a gstk error."""
    message = next(iter(str(error).strip().splitlines()), "")
    return (
        message if isinstance(error, GstkError) and message else f"{type(error).__name__}: {message}".removesuffix(": ")
    )


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value
