"""`gstk evaluate --classes`: by class and then by clicks, gstk beside NVIDIA's pipeline of MONAI's modules."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import Run

pytest.importorskip("torch")

from test_profile_sessions import PROFILES, network, session

from gstk.cases.npz import Case
from gstk.cli.pipelines import Pipeline
from gstk.core.bundle import Bundle
from gstk.core.geometry import Geometry
from gstk.core.prompts import Box, ObjectPrompts
from gstk.errors import EvaluationError, PromptError
from gstk.evaluation.case_scores import score_case
from gstk.evaluation.class_segmenter import ClassSegmenter
from gstk.evaluation.protocol import run_steps
from gstk.training.bundle_reference import BundleClassSegmenter

__all__ = ["network"]  # a fixture
PROFILE = PROFILES["nv-segment-ct"]
SHAPE, SPACING = (30, 36, 40), (1.5, 1.5, 1.5)


def a_case() -> tuple[np.ndarray, np.ndarray]:
    """0 to 255 of a soft-tissue window, and two labels."""
    grid = np.indices(SHAPE)
    waves = sum(np.sin(axis / (3.0 + k)) for k, axis in enumerate(grid))
    truth = np.zeros(SHAPE, np.uint8)
    truth[waves > 0.6], truth[waves < -0.8] = 1, 2
    return np.clip(waves * 45 + 120, 1, 255).astype(np.uint8), truth


def test_steps_are_those_of_nvidias_pipeline(network: Any) -> None:
    image, truth = a_case()
    truth[truth == 2] = 0  # where classes overlap, each side has a rule of its own
    names = ["spleen"]
    with session(network, PROFILE) as own:
        ours = list(run_steps(ClassSegmenter(own, names, "soft"), image, SPACING, truth, rounds=1))
        segmenter = BundleClassSegmenter(network, PROFILE, names, "soft")
        theirs = list(run_steps(segmenter, image, SPACING, truth, rounds=0))
        assert [step.number for step in ours] == [0, 1]
        assert [step.number for step in theirs] == [0]
        assert (ours[0].mask == theirs[0].mask).mean() > 0.995
        assert ours[0].mask.any()
        # The same clicks, so that a click which another voxel decides does not part the two.
        for step in ours[1:]:
            mask = segmenter.segment(step.prompts)
            clicked = [point.zyx for said in step.prompts.values() for point in said.points]
            assert clicked
            same = mask == step.mask
            for zyx in clicked:
                same[zyx] = True  # a clicked voxel is as it was clicked, in gstk alone
            assert same.mean() > 0.99, (step.number, same.mean())


def test_score_counts_the_class_as_the_first_step_and_boxes_as_none(network: Any) -> None:
    image, truth = a_case()
    box = {1: ObjectPrompts(box=Box.from_corners(((0, 0, 0), (9, 9, 9))))}
    case = Case("CT_a", image, Geometry(SHAPE, SPACING), box, truth)  # type: ignore[arg-type]
    with session(network, PROFILE) as own:
        scores, masks = score_case(ClassSegmenter(own, ["spleen", "liver"], "soft"), case)
        assert len(masks) == len(scores.dsc) == 6
        assert scores.has_box
        assert not scores.failures
        assert all(said.box is None for said in [own.prompts(1), own.prompts(2)])
        scores, _ = score_case(ClassSegmenter(own, ["spleen"], "soft"), case)
        assert "the label 2, expected labels up to 1" in scores.failures[0]
        with pytest.raises(EvaluationError, match="which is 5 classes, expected one a label"):
            ClassSegmenter(own, ["lung"])
        with pytest.raises(PromptError, match="near names: spleen"):
            ClassSegmenter(own, ["spleeen"])
    with pytest.raises(PromptError, match="whose weights have no classes"):
        BundleClassSegmenter(network, PROFILES["challenge"], ["spleen"])


def test_options_that_do_not_go_together() -> None:
    with pytest.raises(EvaluationError, match="without --checkpoint, expected one"):
        Pipeline("monai-bundle", classes=("liver",))
    with pytest.raises(EvaluationError, match="got --classes, which the pipeline classical does not take"):
        Pipeline("classical", classes=("liver",))
    with pytest.raises(EvaluationError, match="got --cold and --classes"):
        Pipeline(classes=("liver",)).opener(cold=True)
    assert Pipeline(classes=("liver",)).method == "gstk tiny by class"


@pytest.mark.slow
def test_command_puts_both_side_by_side(run: Run, by_class: Bundle, small_export: Any, tmp_path: Path) -> None:
    image, truth = a_case()
    cases = tmp_path / "cases"
    cases.mkdir()
    np.savez(cases / "CT_a.npz", imgs=image, gts=truth, spacing=SPACING)
    shared = ["--bundle", by_class.path, "--classes", "spleen,liver", "--assume-window", "soft", "--no-report"]
    ours = run("evaluate", cases, "-o", tmp_path / "ours", *shared)
    theirs = run(
        *("evaluate", cases, "-o", tmp_path / "theirs", *shared, "--pipeline", "monai-bundle"),
        *("--checkpoint", small_export.checkpoint),
    )
    assert (ours.code, theirs.code) == (0, 0), ours.err + theirs.err
    rows = []
    for name in ("ours", "theirs"):
        with (tmp_path / name / "metrics.csv").open(encoding="utf-8") as stream:
            rows.append(next(csv.DictReader(stream)))
    assert float(rows[0]["DSC_1"]) == pytest.approx(float(rows[1]["DSC_1"]), abs=0.01)
    refused = run("evaluate", cases, "-o", tmp_path / "no", *shared, "--pipeline", "monai-bundle")
    assert "without --checkpoint" in refused.err
