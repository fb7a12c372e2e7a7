"""Writes a self-contained HTML page about an evaluation: tables, plots, and the best and worst cases."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy as np

from gstk.cases.npz import load_case, load_labels
from gstk.cases.overlay import draw_overlay
from gstk.core.files import atomic_path, make_folder
from gstk.core.prompts import parse_prompts
from gstk.core.safe_npz import read_npz
from gstk.errors import GstkError
from gstk.evaluation.case_scores import CaseScores
from gstk.evaluation.plots import plot_expected, plot_scores, plot_times, png
from gstk.evaluation.runner import Evaluation
from gstk.evaluation.summary import RANKED

__all__ = ["write_report"]

SHOWN_CASES = 3
"""Pictures of so many of the best, and as many of the worst."""
SHOWN_OBJECTS = 2
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1180px; padding: 0 1em; color: #1a1a1a }
h1 { font-size: 1.6em; margin-bottom: 0 } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ddd }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px }
th, td { padding: 3px 10px; text-align: right; border-bottom: 1px solid #e5e5e5 }
th:first-child, td:first-child { text-align: left } tr.all td { font-weight: 600; border-top: 2px solid #999 }
.plots { display: flex; flex-wrap: wrap; gap: 8px } .plots img { width: 48%; min-width: 420px }
.pair { display: flex; flex-wrap: wrap; gap: 12px } figure { margin: 0 }
figcaption, .quiet { color: #666; font-size: 13px }
.pair img { max-width: 570px; width: 100% } .wide { overflow-x: auto } .bad { color: #b00020 }
"""


def write_report(evaluation: Evaluation) -> Path:
    """Writes `report.html` and its plots as `plots/*.png` into the evaluation's folder.

    Returns:
        The path of the page.

    Raises:
        BackendMissing: matplotlib is not installed.
        EvaluationError: no case could be scored.
        OutputError: the page cannot be written.
    """
    scored = evaluation.scored
    figures: dict[str, bytes] = {}
    if scored:
        figures = {
            "dsc": png(plot_scores(scored, "DSC")),
            "nsd": png(plot_scores(scored, "NSD")),
            "time": png(plot_times(scored)),
        }
        expected = plot_expected(scored)
        if expected is not None:
            figures["expected"] = png(expected)
        plots = make_folder(evaluation.folder / "plots")
        for name, data in figures.items():
            with atomic_path(plots / f"{name}.png") as partial:
                partial.write_bytes(data)
    ranked = sorted(scored, key=lambda one: (one.official()["DSC_AUC"], one.case))
    count = min(SHOWN_CASES, len(ranked) // 2)
    worst, best = ranked[:count] or ranked[:1], ranked[len(ranked) - count :][::-1]
    parts = [
        f"<h1>{escape(evaluation.method)}</h1><p class=quiet>{escape(_about(evaluation))}</p>",
        "<h2>By modality</h2>",
        _modalities(evaluation),
        "<h2>Scores and times</h2><div class=plots>",
        *(f"<img alt='{name}' src='{_data(data)}'>" for name, data in figures.items()),
        "</div>",
        *(["<h2>Best cases</h2>", *(_pictures(evaluation.folder, one, best=True) for one in best)] if best else []),
        "<h2>Worst cases</h2>",
        *(_pictures(evaluation.folder, one, best=False) for one in worst),
        "<h2>All cases</h2>",
        _cases(scored),
        *([_failures(evaluation.failed)] if evaluation.failed else []),
    ]
    title = f"<title>{escape(evaluation.method)}</title>"
    head = f"<!doctype html><html lang=en><meta charset=utf-8>{title}<style>{_STYLE}</style>"
    page = evaluation.folder / "report.html"
    with atomic_path(page) as partial:
        partial.write_text(head + "\n".join(parts), encoding="utf-8")
    return page


def _about(evaluation: Evaluation) -> str:
    settings = ", ".join(f"{k} {v}" for k, v in evaluation.settings.items() if v not in (None, False))
    rule = (
        "official protocol of the CVPR 2025 interactive segmentation challenge: a box where there is one, five clicks"
    )
    return f"{len(evaluation.scores)} cases; {rule}; {settings}"


def _modalities(evaluation: Evaluation) -> str:
    """The table of modalities, in the layout of Tables 4 and 5 of the paper, with an additional column of times."""
    header = ("Modality", "Method", "DSC AUC", "NSD AUC", "DSC Final", "NSD Final", "Cases", "s/case", "s/class")
    rows = []
    for m in evaluation.means:
        numbers = (f"{m.means[metric]:.4f}" for metric in RANKED)
        row = (m.modality, evaluation.method, *numbers, str(m.cases), f"{m.seconds:.2f}", f"{m.seconds_per_class:.2f}")
        rows.append(row)
    note = "AUC: trapezoid over the five clicks, at most 4. NSD at 2 mm, 0 where the mean DSC is at most 0.2."
    return f"{_table(header, rows, last_is_all=True)}<p class=quiet>{note}</p>"


def _cases(scored: Sequence[CaseScores]) -> str:
    header = (
        "Case",
        "Classes",
        "DSC AUC",
        "NSD AUC",
        "DSC box",
        *(f"DSC {i}" for i in range(1, 6)),
        "NSD 5",
        "Seconds",
    )
    rows = []
    for one in scored:
        row = one.official()
        box = f"{one.dsc[0]:.3f}" if one.has_box else "–"
        steps = (f"{value:.3f}" for value in one.dsc[1:])
        late = "" if one.in_time else f" (over {one.limit_s:g}: scores 0)"
        aucs = (f"{row['DSC_AUC']:.3f}", f"{row['NSD_AUC']:.3f}")
        rows.append(
            (
                one.case,
                str(len(one.classes)),
                *aucs,
                box,
                *steps,
                f"{one.nsd[-1]:.3f}",
                f"{one.total_seconds:.1f}{late}",
            )
        )
    return f"<div class=wide>{_table(header, rows)}</div>"


def _failures(failed: Sequence[CaseScores]) -> str:
    lines = "".join(f"<li>{escape(one.case)}: {escape('; '.join(one.failures))}</li>" for one in failed)
    return f"<h2 class=bad>Failures</h2><ul>{lines}</ul>"


def _pictures(folder: Path, one: CaseScores, best: bool) -> str:
    """Pictures of the last mask beside the reference, on slices through the objects with the best or worst scores."""
    row = one.official()
    title = f"<h3>{escape(one.case)}: DSC AUC {row['DSC_AUC']:.3f}, final {row['DSC_Final']:.3f}</h3>"
    try:
        case = load_case(one.source)
        truth = load_labels(one.reference, case.geometry.shape)
        segs = read_npz(folder / "segs" / f"{one.case}.npz", ("segs",))["segs"]
        boxes, clicks, orders = (one.prompts.get(key, ()) for key in ("boxes", "clicks", "clicks_order"))
        prompts = parse_prompts(boxes, clicks, orders, case.geometry)
    except (GstkError, KeyError, OSError) as error:
        return f"{title}<p class=bad>no picture: {escape(str(error))}</p>"
    order = np.argsort(one.class_dsc[-1])
    shown = [one.classes[i] for i in (order[::-1] if best else order)[:SHOWN_OBJECTS]]
    drawn = {k: prompts[k] for k in sorted(shown) if k in prompts}
    clean = {k: replace(p, box=None) for k, p in drawn.items() if p.points} or drawn
    halves = []
    for caption, mask, marks in (
        ("segmented, with all clicks in the slices", segs, drawn),
        ("reference", truth, clean),
    ):
        stream = io.BytesIO()
        draw_overlay(case.image, case.geometry, mask, marks).save(stream, format="PNG", optimize=True)
        halves.append(f"<figure><img src='{_data(stream.getvalue())}'><figcaption>{caption}</figcaption></figure>")
    return f"{title}<div class=pair>{''.join(halves)}</div>"


def _table(header: Iterable[str], rows: Sequence[Sequence[str]], last_is_all: bool = False) -> str:
    lines = ["<tr>" + "".join(f"<th>{escape(text)}</th>" for text in header) + "</tr>"]
    for number, row in enumerate(rows, start=1):
        mark = " class=all" if last_is_all and number == len(rows) else ""
        lines.append(f"<tr{mark}>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>")
    return f"<table>{''.join(lines)}</table>"


def _data(png_file: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png_file).decode("ascii")
