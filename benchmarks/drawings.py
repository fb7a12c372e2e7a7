"""Dice of a first scribble, lasso or plane box beside that of a first click, and of the same as a correction.

    python benchmarks/drawings.py CASES [--bundle tiny] [--classes 4] [--out NAME.json]

Simulated use: a click goes to the middle of the object; a scribble along the skeleton of its largest slice, a lasso
around that slice, a plane box to its extent there. The correction after a first click is drawn on the largest slice of
the largest error in the same way; a plane box corrects nothing. Means over classes, then over cases.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import skeletonize

import gstk
from gstk.core.click_rule import component_centre, next_click

MOST_CLASSES = 4


def largest_slice(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask on the axial slice that holds most of it, and nothing elsewhere."""
    z = int(mask.sum(axis=(1, 2)).argmax())
    parts, _ = ndimage.label(mask[z])
    part = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    flat = np.zeros_like(mask)
    flat[z] = part
    return flat


def skeleton(flat: NDArray[np.bool_]) -> NDArray[np.bool_]:
    z = int(np.flatnonzero(flat.any(axis=(1, 2)))[0])
    drawn = np.zeros_like(flat)
    drawn[z] = skeletonize(flat[z])
    return drawn if drawn.any() else flat


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    total = int(a.sum() + b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def first(session: gstk.Session, kind: str, truth: NDArray[np.bool_]) -> None:
    flat = largest_slice(truth)
    if kind == "click":
        session.add_point(component_centre(truth))
    elif kind == "scribble":
        session.add_scribble(skeleton(flat))
    elif kind == "lasso":
        session.add_lasso(flat)
    else:
        places = np.argwhere(flat)
        session.add_plane_box((places.min(axis=0).tolist(), places.max(axis=0).tolist()))


def correct(session: gstk.Session, kind: str, truth: NDArray[np.bool_]) -> None:
    mask = session.mask == 1
    click = next_click(mask, truth)
    if click is None:
        return
    if kind == "click":
        session.add_point(click.zyx, click.foreground)
        return
    parts, _ = ndimage.label(mask != truth, structure=np.ones((3, 3, 3)))
    flat = largest_slice(parts == parts[click.zyx])
    if kind == "scribble":
        session.add_scribble(skeleton(flat), click.foreground)
    else:
        session.add_lasso(flat, click.foreground)


def score(session: gstk.Session, case: gstk.Case, classes: int) -> dict[str, Any]:
    assert case.labels is not None
    session.set_image(case.volume)
    found: dict[str, list[float]] = {}
    ids = [int(i) for i in np.unique(case.labels) if i]
    for label in ids[:: max(1, len(ids) // classes)][:classes]:
        truth = case.labels == label
        for kind in ("click", "scribble", "lasso", "plane box"):
            session.reset()
            first(session, kind, truth)
            found.setdefault(f"first {kind}", []).append(dice(session.mask == 1, truth))
        session.reset()
        session.add_point(component_centre(truth))
        for kind in ("click", "scribble", "lasso"):
            correct(session, kind, truth)
            found.setdefault(f"click, then {kind}", []).append(dice(session.mask == 1, truth))
            if len(session.prompts().points) > 1:
                session.undo()
    return {"case": case.name, **{name: float(np.mean(values)) for name, values in found.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--bundle", default="tiny")
    parser.add_argument("--classes", type=int, default=MOST_CLASSES, help="at most so many of a case")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows = []
    with gstk.open(given.bundle) as session:
        for path in sorted(given.cases.glob("*.npz")):
            rows.append(score(session, gstk.load_case(path), given.classes))
            print(json.dumps(rows[-1]), flush=True)
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0] if name != "case"}
    print(json.dumps(means, indent=1))
    if given.out:
        result = {
            "machine": describe(),
            "bundle": given.bundle,
            "classes": given.classes,
            "means": means,
            "cases": rows,
        }
        given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
