"""Plots measured against fitted seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from gstk.calibration.model import LatencyModel, Measurement
from gstk.errors import BackendMissing

__all__ = ["plot_fit"]

_COLOURS = {
    "encode": "#1b6ca8",
    "first_encode": "#8fbfe0",
    "decode": "#c0532b",
    "first_decode": "#e8b096",
    "classes": "#4d8b31",
    "first_classes": "#b5d3a5",
}


def plot_fit(model: LatencyModel, measurements: Sequence[Measurement], file: Path) -> None:
    """Plots the measured seconds of each call over the model's prediction, on logarithmic axes.

    Args:
        model, measurements: from `gstk.calibration.measure`.
        file: the PNG file to write.

    Raises:
        BackendMissing: Matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendMissing(f'the plot needs Matplotlib ({error}); pip install "gstk[plots]"') from None
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for kind, colour in _COLOURS.items():
        calls = [m for m in measurements if m.kind == kind]
        if kind not in model.fits:
            continue
        fitted = [model.fits[kind].seconds(math.prod(m.shape), m.objects, m.points) for m in calls]
        label = f"{kind.replace('_', ' ')}, median error {100 * model.fits[kind].median_error:.0f} %"
        axes.scatter([m.seconds for m in calls], fitted, s=22, color=colour, label=label, edgecolors="none")
    low, high = (end(m.seconds for m in measurements) for end in (min, max))
    axes.plot([low, high], [low, high], color="0.3", linewidth=1)
    axes.fill_between([low, high], [low / 1.25, high / 1.25], [low * 1.25, high * 1.25], color="0.9", zorder=0)
    axes.set(xscale="log", yscale="log", xlabel="measured, s", ylabel="fitted, s")
    host = model.host
    axes.set_title(f"{model.bundle} · {host.backend} {host.version} · {host.precision} · {host.device}", fontsize=10)
    axes.legend(frameon=False, fontsize=9)
    draft = file.with_name(f".{file.name}")
    figure.savefig(draft, format="png", dpi=120)
    draft.replace(file)
