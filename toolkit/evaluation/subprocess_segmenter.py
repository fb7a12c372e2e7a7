"""Runs a new process for each call, as the official evaluator runs a container; the time includes loading the model."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gstk.cases.npz import Case, save_case, to_label_map
from gstk.core.drafts import temporary_folder
from gstk.core.geometry import Geometry
from gstk.core.prompts import ObjectPrompts
from gstk.core.safe_npz import read_npz
from gstk.errors import EvaluationError
from gstk.evaluation.protocol import Segmenter

__all__ = ["ColdSegmenter"]

_NAME = "case"


class ColdSegmenter(Segmenter):
    """A segmenter that runs a command, which reads `{inputs}/case.npz` and writes `{outputs}/case.npz` with `segs`.

    The input holds the image, its spacing, the boxes, all clicks so far with their order, and `prev_pred`. Only the
    wall time of the command is counted, not the time for writing its input.
    """

    def __init__(self, command: Sequence[str]) -> None:
        """Checks and stores the command.

        Args:
            command: the command's arguments; `{inputs}` and `{outputs}` in them are replaced by folders.

        Raises:
            EvaluationError: the command lacks `{inputs}` or `{outputs}`.
        """
        super().__init__()
        for folder in ("{inputs}", "{outputs}"):
            if not any(folder in word for word in command):
                raise EvaluationError(f"got the command {' '.join(command)!r}, expected {folder} in it")
        self._command = list(command)
        self._case: Case | None = None

    def set_image(self, volume: NDArray[np.generic], spacing_mm: Sequence[float]) -> None:
        """Stores an image; the command is not run yet."""
        z, y, x = (float(s) for s in spacing_mm)
        self._case = Case(_NAME, volume, Geometry((volume.shape[0], volume.shape[1], volume.shape[2]), (z, y, x)))

    def segment(self, prompts: Mapping[int, ObjectPrompts]) -> NDArray[np.integer]:
        """Runs the command.

        Raises:
            EvaluationError: the command failed, or wrote no mask.
        """
        if self._case is None:
            raise EvaluationError("got segment before an image, expected set_image first")
        with temporary_folder() as scratch:
            folders = {name: scratch / name for name in ("inputs", "outputs")}
            for folder in folders.values():
                folder.mkdir()
            case = self._case
            save_case(folders["inputs"] / f"{_NAME}.npz", replace(case, prompts=dict(prompts)))
            words = [w.replace("{inputs}", str(folders["inputs"])) for w in self._command]
            words = [w.replace("{outputs}", str(folders["outputs"])) for w in words]
            with self._counted():
                try:
                    run = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
                except OSError as error:
                    raise EvaluationError(f"cannot run {words[0]}: {error.strerror}") from None
            result = folders["outputs"] / f"{_NAME}.npz"
            if run.returncode or not result.is_file():
                last = (run.stderr.strip() or run.stdout.strip() or "no message").splitlines()[-1]
                raise EvaluationError(f"the command ended with {run.returncode} and wrote no mask: {last[:300]}")
            segs = read_npz(result, ("segs",)).get("segs")
        if segs is None:
            raise EvaluationError("the command wrote a file without 'segs'")
        mask = to_label_map(segs, case.geometry.shape, "'segs' that the command wrote")
        self._case = replace(case, prev_mask=mask)
        return mask
