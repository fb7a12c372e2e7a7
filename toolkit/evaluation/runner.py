"""`gstk evaluate`: evaluates many cases by the official protocol. An interrupted evaluation can be resumed.

OUT/
├── run.json         method, settings and machine of the evaluation
├── metrics.csv      one row for each case, with the official columns
├── summary.csv      means by modality
├── cases/NAME.json  all measurements of a case
└── segs/NAME.npz    `segs`: the last mask; `all_segs`: the masks of the six steps
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gstk._version import __version__
from gstk.batch.ray_pool import Workers, map_on_ray
from gstk.cases.npz import SpacingOrder
from gstk.core.click_rule import OFFICIAL_SEED
from gstk.core.files import StrPath, atomic_path, make_folder
from gstk.core.prompts import ObjectPrompts
from gstk.errors import CaseError, EvaluationError
from gstk.evaluation.case_scores import CaseScores, score_file
from gstk.evaluation.protocol import Segmenter
from gstk.evaluation.summary import RANKED, ModalityMeans, by_modality, write_csv, write_metrics

__all__ = ["Evaluation", "evaluate", "load_evaluation"]

_Task: TypeAlias = tuple[Path, Path | None]
_Work: TypeAlias = Callable[[Segmenter, _Task], CaseScores]


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of a folder of cases.

    Attributes:
        folder: folder of the results.
        method: name of the evaluated method.
        settings: settings of the method.
        scores: scores of each case, in the order of the case names.
    """

    folder: Path
    method: str
    settings: Mapping[str, Any]
    scores: tuple[CaseScores, ...]

    @property
    def scored(self) -> list[CaseScores]:
        """Scores of the cases that have a reference."""
        return [one for one in self.scores if one.classes]

    @property
    def failed(self) -> list[CaseScores]:
        """Scores of the cases that could not be read or in which a step failed."""
        return [one for one in self.scores if one.failures]

    @property
    def means(self) -> list[ModalityMeans]:
        """Means of each modality, and then of all cases."""
        return by_modality(one.official() for one in self.scored)


def evaluate(
    cases: StrPath | Iterable[StrPath],
    out_dir: StrPath,
    open_segmenter: Callable[[], Segmenter],
    *,
    method: str,
    settings: Mapping[str, Any] | None = None,
    gts: StrPath | None = None,
    seed: int = OFFICIAL_SEED,
    spacing_order: SpacingOrder = "zyx",
    limit: int | None = None,
    workers: Workers | None = None,
    on_result: Callable[[CaseScores, int, int], None] | None = None,
) -> Evaluation:
    """Evaluates cases by the official protocol. Cases that are already finished are not repeated.

    Args:
        cases: .npz cases, or folders of .npz cases.
        out_dir: folder for the results, created if it is missing. If it holds an evaluation, that is resumed.
        open_segmenter: opens the segmenter to evaluate. In this process it is called once, or not at all if every case
            is finished.
        method: name of the method in tables.
        settings: settings of the method, as JSON values. An evaluation is resumed only if its settings are equal.
        gts: folder that holds, for each case, a file of the same name with its `gts`; None uses the `gts` of the cases.
        seed: seed of the random choice among equally central voxels.
        spacing_order: axis order of `spacing` in the cases.
        limit: number of cases to evaluate, the first ones by name.
        workers: the workers of a Ray cluster that share the cases. Each worker must be able to reach the cases and the
            results, and `open_segmenter` must be picklable. None evaluates one case after the other in this process.
        on_result: called with the scores of each case, its number and the number of cases; called at the start for
            cases that are already finished.

    Raises:
        CaseError: there are no cases, two cases have the same name, or a case has no file in `gts`.
        EvaluationError: the folder holds an evaluation of another method or with other settings.
        OutputError: the folder cannot be written to.
    """
    sources = _sources(cases, limit)
    references = {name: _reference(Path(gts), path) if gts is not None else None for name, path in sources.items()}
    folder = make_folder(out_dir)
    arguments = {**(settings or {}), "seed": seed, "spacing_order": spacing_order, "gts": gts is not None}
    _begin(folder, method, arguments)
    results, segs = make_folder(folder / "cases"), make_folder(folder / "segs")
    scores = {name: one for name, path in sources.items() if (one := _done(results, segs, name, path)) is not None}
    waiting = [name for name in sources if name not in scores]
    folders = (results.absolute(), segs.absolute())
    work = partial(_score, folders=folders, seed=seed, spacing_order=spacing_order)
    if on_result:
        for number, one in enumerate(scores.values(), start=1):
            on_result(one, number, len(sources))
    tasks = [(sources[name], references[name]) for name in waiting]
    if workers is None:
        scored = _one_by_one(open_segmenter, work, tasks)
    else:
        scored = map_on_ray(workers, partial(_open_worker, open_segmenter, work), tasks, partial(_lost, work))
    for one in scored:
        scores[one.case] = one
        if on_result:
            on_result(one, len(scores), len(sources))
    done = Evaluation(folder, method, arguments, tuple(scores[name] for name in sources))
    write_metrics(folder / "metrics.csv", done.scored)
    header = ("Modality", "Method", "Cases", *RANKED, "Seconds", "SecondsPerClass")
    rows = [(m.modality, method, m.cases, *m.means.values(), m.seconds, m.seconds_per_class) for m in done.means]
    write_csv(folder / "summary.csv", header, rows)
    return done


def load_evaluation(folder: StrPath) -> Evaluation:
    """Reads the evaluation in a folder.

    Raises:
        EvaluationError: the folder holds no evaluation, or a file in it is damaged.
    """
    root = Path(folder)
    run = _read_run(root)
    if run is None:
        raise EvaluationError(f"got {root}, expected a folder that gstk evaluate wrote: it has no run.json")
    scores = tuple(CaseScores.load(path) for path in sorted((root / "cases").glob("*.json")))
    return Evaluation(root, run["method"], run["settings"], scores)


def _score(
    segmenter: Segmenter, task: _Task, folders: tuple[Path, Path], seed: int, spacing_order: SpacingOrder
) -> CaseScores:
    (source, reference), (results, segs) = task, folders
    out = segs / f"{source.stem}.npz"
    one = score_file(segmenter, source, gts=reference, segs=out, seed=seed, spacing_order=spacing_order)
    one.save(results / f"{source.stem}.json")
    return one


def _open_worker(open_segmenter: Callable[[], Segmenter], work: _Work) -> Callable[[_Task], CaseScores]:
    """Returns the work function of a cluster worker, which has its own segmenter."""
    return partial(work, open_segmenter())


def _lost(work: _Work, task: _Task, why: str) -> CaseScores:
    """Scores of a case that no worker could finish: those of a segmenter that fails in every step."""
    return work(_Failing(why), task)


class _Failing(Segmenter):
    def __init__(self, why: str) -> None:
        super().__init__()
        self._why = why

    def set_image(self, volume: NDArray[np.generic], spacing_mm: Sequence[float]) -> None:
        raise EvaluationError(self._why)

    def segment(self, prompts: Mapping[int, ObjectPrompts]) -> NDArray[np.integer]:
        raise EvaluationError(self._why)


def _one_by_one(open_segmenter: Callable[[], Segmenter], work: _Work, tasks: Sequence[_Task]) -> Iterator[CaseScores]:
    if not tasks:
        return
    with closing(open_segmenter()) as segmenter:
        for task in tasks:
            yield work(segmenter, task)


def _sources(cases: StrPath | Iterable[StrPath], limit: int | None) -> dict[str, Path]:
    files_by_name: dict[str, Path] = {}
    for path in map(Path, [cases] if isinstance(cases, str | os.PathLike) else cases):
        if not path.exists():
            raise CaseError(f"{path} does not exist; check the path")
        files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
        if not files or any(file.suffix != ".npz" for file in files):
            raise CaseError(f"got {path}, expected .npz cases or a folder of them; gstk prepare makes some")
        for file in files:
            if file.stem in files_by_name:
                raise CaseError(f"got {file} and {files_by_name[file.stem]}, expected one case of a name; rename one")
            files_by_name[file.stem] = file
    return {name: files_by_name[name].absolute() for name in sorted(files_by_name)[:limit]}


def _reference(folder: Path, source: Path) -> Path:
    file = (folder / source.name).absolute()
    if not file.is_file():
        raise CaseError(f"got no {file}, expected a file with 'gts' for each case")
    return file


def _done(results: Path, segs: Path, name: str, source: Path) -> CaseScores | None:
    """Scores of a case from an earlier run; None if there are none, a step failed, or the file has changed in size."""
    file = results / f"{name}.json"
    if not file.is_file() or not (segs / f"{name}.npz").is_file():
        return None
    one = CaseScores.load(file)
    return one if not one.failures and one.source_bytes == source.stat().st_size else None


def _begin(folder: Path, method: str, settings: Mapping[str, Any]) -> None:
    """Writes the settings of a new evaluation, or checks that they equal the settings stored in the folder."""
    before = _read_run(folder)
    if before is not None:
        old = {"method": before["method"], **before["settings"]}
        new = {"method": method, **settings}
        other = sorted(k for k in {*old, *new} if old.get(k) != new.get(k))
        if other:
            what = f"{other[0]} {old.get(other[0])!r}, now {new.get(other[0])!r}"
            raise EvaluationError(f"{folder} holds an evaluation with {what}; give another output folder")
        return
    run = {"gstk": __version__, "method": method, "settings": dict(settings), "machine": _machine()}
    with atomic_path(folder / "run.json") as path:
        path.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")


def _read_run(folder: Path) -> dict[str, Any] | None:
    file = folder / "run.json"
    if not file.is_file():
        return None
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
        return {"method": str(run["method"]), "settings": dict(run["settings"]), "machine": run["machine"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(f"{file} is not what gstk evaluate writes ({error}); give another folder") from None


def _machine() -> dict[str, Any]:
    return {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()}
