"""What a precision that needs no export of its own costs in Dice, by clicks on labelled cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gstk.calibration.quality import PrecisionQuality, save_quality
from gstk.core.bundle import Bundle
from gstk.engines import open_engine
from gstk.evaluation.click_trial import ClickTrial

__all__ = ["check_precision"]


def check_precision(
    bundle: Bundle,
    precision: str,
    cases: Sequence[Path],
    *,
    backend: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    options: Mapping[str, object] | None = None,
    assume_window: str | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> PrecisionQuality:
    """Clicks on labelled cases in float32 and in a precision, and records the difference for `auto`.

    Args:
        bundle: the bundle.
        precision: such as `bf16`.
        cases: .npz cases with labels that the weights were not trained on.
        backend, device, threads, options: see `gstk.engines.open_engine`.
        assume_window: see `ClickTrial`.
        on_progress: called with a short text before each case.

    Returns:
        The mean Dice of both, over cases and clicks. It is kept in the user's cache, and `auto` may take the precision
        if it costs at most `gstk.calibration.quality.MOST_DROP`.

    Raises:
        CaseError: see `ClickTrial`.
        BackendMissing: the processor does not compute in that precision.
    """
    trial = ClickTrial(cases, on_progress=on_progress, assume_window=assume_window)
    means = {}
    for one in (precision, "fp32"):  # the one that may not be there first
        with open_engine(bundle, backend, one, threads, device, options) as engine:
            scores = trial.scores(engine, bundle.manifest.roi)
            name = engine.name
        means[one] = float(sum(sum(clicks) / len(clicks) for clicks in scores.values()) / len(scores))
    quality = PrecisionQuality(bundle.sha256, name, precision, len(cases), means["fp32"], means[precision])
    save_quality(quality)
    return quality
