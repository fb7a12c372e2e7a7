"""Plots of an evaluation: scores over clicks, time of each step, and measured against expected time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from gstk.errors import BackendMissing
from gstk.evaluation.case_scores import LIMIT_S, STEPS, CaseScores
from gstk.evaluation.summary import ALL, modality

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_expected", "plot_scores", "plot_times", "png"]

_SIZE_INCHES = (6.4, 4.0)
_STEP_NAMES = ("box", *map(str, range(1, STEPS)))
# Okabe and Ito's palette, whose colours remain distinct under colour blindness.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def plot_scores(scores: Sequence[CaseScores], metric: Literal["DSC", "NSD"]) -> Figure:
    """Plots the mean score after the box and after each click, by modality and over all cases.

    The point of the box is the mean over the cases with a box. Cases over the time limit count with their measured
    scores.
    """
    figure = _figure()
    axes = figure.subplots()
    groups: dict[str, list[CaseScores]] = {}
    for one in scores:
        groups.setdefault(modality(one.case), []).append(one)
    lines = [(name, members) for name, members in sorted(groups.items())]
    for index, (name, members) in enumerate([*lines, (ALL, list(scores))]):
        values = [one.dsc if metric == "DSC" else one.nsd for one in members]
        means = np.mean(values, axis=0)
        boxed = [value[0] for value, one in zip(values, members, strict=True) if one.has_box]
        first = float(np.mean(boxed)) if boxed else float("nan")
        style = {"color": "black", "linewidth": 2.5} if name == ALL else {"color": _COLOURS[index % len(_COLOURS)]}
        axes.plot(
            range(STEPS), [first, *means[1:]], marker="o", markersize=4, label=f"{name} ({len(members)})", **style
        )
    axes.set(xlabel="clicks", ylabel=f"mean {metric}", ylim=(0, 1), xticks=range(STEPS), xticklabels=_STEP_NAMES)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right", ncols=2)
    return figure


def plot_times(scores: Sequence[CaseScores]) -> Figure:
    """Plots the seconds per class of each step: a dot for each case, a bar for the median, a line for the limit."""
    figure = _figure()
    axes = figure.subplots()
    rng = np.random.default_rng(0)
    for step in range(STEPS):
        # A step that was not run has no time.
        values = [one.seconds[step] / len(one.classes) for one in scores if step or one.has_box]
        if not values:
            continue
        axes.scatter(step + rng.uniform(-0.15, 0.15, len(values)), values, s=14, alpha=0.6, color=_COLOURS[0])
        axes.hlines(float(np.median(values)), step - 0.3, step + 0.3, color=_COLOURS[1], linewidth=2.5)
    axes.axhline(LIMIT_S / STEPS, color="black", linestyle="--", linewidth=1)
    note = f"{LIMIT_S:g} s per class over {STEPS} steps"
    axes.annotate(note, (STEPS - 0.6, LIMIT_S / STEPS), ha="right", va="bottom", fontsize=8)
    axes.set(xlabel="clicks", ylabel="seconds per class", yscale="log", xlim=(-0.5, STEPS - 0.5))
    axes.set(xticks=range(STEPS), xticklabels=_STEP_NAMES)
    axes.grid(alpha=0.3)
    return figure


def plot_expected(scores: Sequence[CaseScores]) -> Figure | None:
    """Plots the measured against the expected seconds of each step; None if there are no expected times."""
    steps = [
        (expected, spent, number > 0)
        for one in scores
        for number, (expected, spent) in enumerate(zip(one.expected, one.seconds, strict=False))
        if expected > 0 and spent > 0
    ]
    if not steps:
        return None
    figure = _figure()
    from matplotlib.ticker import LogLocator, NullFormatter

    axes = figure.subplots()
    for clicked, name, colour in ((False, "box", _COLOURS[1]), (True, "click", _COLOURS[0])):
        pairs = np.array([step[:2] for step in steps if step[2] == clicked]).reshape(-1, 2)
        axes.scatter(pairs[:, 0], pairs[:, 1], s=14, alpha=0.6, color=colour, label=f"{name} ({len(pairs)})")
    ends = [min(min(step[:2]) for step in steps) * 0.8, max(max(step[:2]) for step in steps) * 1.25]
    axes.plot(ends, ends, color="black", linestyle="--", linewidth=1, label="as expected")
    axes.set(xlabel="expected seconds of a step", ylabel="seconds spent", xscale="log", yscale="log")
    axes.set(xlim=ends, ylim=ends)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper left")
    return figure


def png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130)
    return stream.getvalue()


def _figure() -> Figure:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        message = 'plots need matplotlib, which is not installed; pip install "gstk[evaluate]"'
        raise BackendMissing(message) from None
    return Figure(figsize=_SIZE_INCHES, layout="constrained")
