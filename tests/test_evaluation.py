"""The official protocol over files: rows of the CSV, times, resuming, failures, the page and the cold way."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli_runs import Run
from flood import POLICY, FloodEngine
from latency import a_model
from numpy.typing import NDArray
from scipy import integrate

from gstk.cases.npz import Case, load_case, save_case
from gstk.cli.pipelines import Pipeline
from gstk.core.geometry import Geometry
from gstk.core.prompts import Box, ObjectPrompts
from gstk.errors import CaseError, EngineError, EvaluationError
from gstk.evaluation.case_scores import COLUMNS, score_case
from gstk.evaluation.metrics import dice
from gstk.evaluation.protocol import Segmenter, SessionSegmenter
from gstk.evaluation.runner import Evaluation, evaluate, load_evaluation
from gstk.evaluation.subprocess_segmenter import ColdSegmenter
from gstk.evaluation.summary import by_modality, modality
from gstk.session.deadline import Budget
from gstk.session.session import Session

pytest.importorskip("skimage", reason="the NSD needs scikit-image")


class Cutter(Segmenter):
    """The truth of `labelled_case` without what lies far from a click; can take its time, break, or lose count."""

    def __init__(self, seconds: float = 0.25, breaks_at: int | None = None) -> None:
        super().__init__()
        self.images, self._step_s, self._breaks_at, self._calls = 0, seconds, breaks_at, 0

    def set_image(self, volume: NDArray[np.generic], spacing_mm: Sequence[float]) -> None:
        self.images += 1
        self._truth = (volume > 100).astype(np.uint8) + (volume > 210)
        self._calls = 0

    def segment(self, prompts: Mapping[int, ObjectPrompts]) -> NDArray[np.integer]:
        self.seconds += self._step_s
        self._calls += 1
        if self._calls == self._breaks_at:
            raise EngineError("it broke")
        mask = np.zeros(self._truth.shape, np.uint8)
        for k, said in prompts.items():
            reach = 3 + 2 * len(said.points)
            for point in (*said.points, *([] if said.box is None else [said.box.centre()])):
                zyx = getattr(point, "zyx", point)
                near = tuple(slice(max(0, i - reach), i + reach) for i in zyx)
                mask[near][self._truth[near] == k] = k
        return mask


def labelled_case(name: str, boxed: bool = True, seed: int = 0) -> Case:
    rng = np.random.default_rng(seed)
    labels = np.zeros((24, 40, 44), np.uint8)
    labels[4:18, 6:22, 6 : 20 + seed] = 1
    labels[8:22, 26:38, 24:42] = 2
    image = np.array([20, 200, 240], np.uint8)[labels] + rng.integers(0, 9, labels.shape, np.uint8)
    prompts = {1: ObjectPrompts(box=Box.from_corners(((4, 6, 6), (17, 21, 19)))), 2: ObjectPrompts()}
    return Case(name, image, Geometry(labels.shape, (2.0, 1.0, 1.0)), prompts if boxed else {}, labels)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cases = tmp_path / "cases"
    cases.mkdir()
    for seed, name in enumerate(("CT_a", "MR_b", "US_c")):
        save_case(cases / f"{name}.npz", labelled_case(name, boxed=name != "MR_b", seed=seed))
    return cases


def run_cutter(folder: Path, out: Path, make: Callable[[], Segmenter] = Cutter, **options: object) -> Evaluation:
    return evaluate(folder, out, make, method="cutter", **options)  # type: ignore[arg-type]


def test_a_case_is_scored_as_the_official_evaluator_would() -> None:
    case = labelled_case("CT_a")
    assert case.labels is not None
    scores, masks = score_case(Cutter(), case)
    assert len(masks) == 6
    for step, mask in enumerate(masks):
        each = [dice(mask == k, case.labels == k) for k in (1, 2)]
        assert scores.class_dsc[step] == tuple(each)
        assert scores.dsc[step] == pytest.approx(np.mean(each))
    row = scores.official()
    assert tuple(row) == COLUMNS
    for metric, values in (("DSC", scores.dsc), ("NSD", scores.nsd)):
        area = integrate.cumulative_trapezoid(np.array(values[-5:]), np.arange(5))[-1]
        assert row[f"{metric}_AUC"] == pytest.approx(area)
        assert row[f"{metric}_Final"] == values[-1]
        assert [row[f"{metric}_{i}"] for i in range(1, 7)] == list(values)
    assert row["TotalRunningTime"] == pytest.approx(6 * 0.25)
    assert (row["CaseName"], row["num_class"], row["runtime_upperbound"]) == ("CT_a.npz", 2, 180)
    assert scores.dsc[-1] > scores.dsc[1] > 0
    assert scores.has_box


def test_without_boxes_step_0_is_empty() -> None:
    scores, masks = score_case(Cutter(), labelled_case("CT_a", boxed=False))
    row = scores.official()
    assert (row["RunningTime_1"], row["DSC_1"], row["NSD_1"]) == (0, 0, 0)
    assert not masks[0].any()
    assert not scores.has_box
    assert len(scores.seconds) == len(masks) == 6


def test_over_90_seconds_a_class_everything_is_0() -> None:
    scores, _ = score_case(Cutter(seconds=29.9), labelled_case("CT_a"))  # 179.4 of 180
    assert scores.in_time
    assert scores.official()["DSC_Final"] > 0
    scores, _ = score_case(Cutter(seconds=30.1), labelled_case("CT_a"))
    row = scores.official()
    assert not any(row[name] for name in COLUMNS if name.startswith(("DSC", "NSD")))
    assert scores.official(timed=False)["DSC_Final"] == scores.dsc[-1] > 0  # what was measured is kept


def test_a_step_that_fails_scores_an_empty_mask_and_the_rest_go_on() -> None:
    whole, _ = score_case(Cutter(), labelled_case("CT_a"))
    scores, masks = score_case(Cutter(breaks_at=3), labelled_case("CT_a"))
    assert scores.failures == ("step 2: it broke",)
    assert scores.dsc[:2] == whole.dsc[:2]
    assert scores.dsc[2] == scores.nsd[2] == 0
    assert not masks[2].any()
    assert scores.dsc[3] > 0


def test_a_folder_becomes_the_official_files(folder: Path, tmp_path: Path) -> None:
    said: list[tuple[str, int, int]] = []
    found = run_cutter(folder, tmp_path / "out", on_result=lambda one, i, n: said.append((one.case, i, n)))
    assert said == [("CT_a", 1, 3), ("MR_b", 2, 3), ("US_c", 3, 3)]
    with (tmp_path / "out" / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == list(COLUMNS)
    for row, one in zip(rows, found.scores, strict=True):
        assert {k: str(v) for k, v in one.official().items()} == row
        case = load_case(folder / row["CaseName"])
        with np.load(tmp_path / "out" / "segs" / row["CaseName"]) as archive:
            assert archive["all_segs"].shape == (6, *case.geometry.shape)
            np.testing.assert_array_equal(archive["all_segs"][-1], archive["segs"])
            assert case.labels is not None
            last = np.mean([dice(archive["segs"] == k, case.labels == k) for k in (1, 2)])
        assert float(row["DSC_Final"]) == pytest.approx(last)
    assert load_evaluation(tmp_path / "out") == found
    assert not list((tmp_path / "out").rglob(".gstk-*"))


def test_what_is_done_is_not_done_again(folder: Path, tmp_path: Path) -> None:
    out, made = tmp_path / "out", []

    def make() -> Segmenter:
        made.append(Cutter())
        return made[-1]

    first = run_cutter(folder, out, make, limit=2)
    assert made[0].images == 2
    (out / "segs" / "MR_b.npz").unlink()  # as an interrupt between two files would leave it
    whole = run_cutter(folder, out, make)
    assert made[1].images == 2
    assert whole.scores[0] == first.scores[0]
    assert run_cutter(folder, out, make).scores == whole.scores
    assert len(made) == 2  # nothing was left to do, so nothing was opened
    save_case(folder / "CT_a.npz", labelled_case("CT_a", seed=5))  # another file of that name
    run_cutter(folder, out, make)
    assert made[2].images == 1


def test_an_interrupted_run_goes_on(folder: Path, tmp_path: Path) -> None:
    class Interrupted(Cutter):
        def set_image(self, volume: NDArray[np.generic], spacing_mm: Sequence[float]) -> None:
            super().set_image(volume, spacing_mm)
            if self.images == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cutter(folder, tmp_path / "out", Interrupted)
    assert [one.case for one in load_evaluation(tmp_path / "out").scores] == ["CT_a"]
    assert len(run_cutter(folder, tmp_path / "out").scores) == 3


def test_an_evaluation_is_not_mixed_with_another(folder: Path, tmp_path: Path) -> None:
    run_cutter(folder, tmp_path / "out", limit=1, settings={"threads": 1})
    with pytest.raises(EvaluationError, match="threads 1, now 2"):
        run_cutter(folder, tmp_path / "out", settings={"threads": 2})
    with pytest.raises(EvaluationError, match="seed"):
        run_cutter(folder, tmp_path / "out", settings={"threads": 1}, seed=7)


def test_one_bad_case_is_recorded_and_tried_again(folder: Path, tmp_path: Path) -> None:
    good = (folder / "MR_b.npz").read_bytes()
    (folder / "MR_b.npz").write_bytes(good[:100])
    save_case(folder / "US_c.npz", replace(labelled_case("US_c"), labels=None))
    found = run_cutter(folder, tmp_path / "out")
    assert [one.case for one in found.scored] == ["CT_a"]
    assert [one.case for one in found.failed] == ["MR_b", "US_c"]
    assert "gts" in found.failed[1].failures[0]
    (folder / "MR_b.npz").write_bytes(good)
    found = run_cutter(folder, tmp_path / "out")
    assert [one.case for one in found.scored] == ["CT_a", "MR_b"]


def test_references_of_another_folder(folder: Path, tmp_path: Path) -> None:
    gts = tmp_path / "gts"
    gts.mkdir()
    for path in folder.glob("*.npz"):
        case = load_case(path)
        np.savez_compressed(gts / path.name, gts=case.labels)  # type: ignore[arg-type]
        save_case(path, replace(case, labels=None))
    found = run_cutter(folder, tmp_path / "out", gts=gts)
    assert not found.failed
    assert all(one.dsc[-1] > 0.5 for one in found.scores)
    (gts / "MR_b.npz").unlink()
    with pytest.raises(CaseError, match=r"MR_b.*gts"):
        run_cutter(folder, tmp_path / "other", gts=gts)


def test_what_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="does not exist"):
        run_cutter(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CaseError, match=r"expected \.npz"):
        run_cutter(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(EvaluationError, match=r"run\.json"):
        load_evaluation(tmp_path / "empty")
    run_cutter(folder, tmp_path / "out", limit=1)
    (tmp_path / "out" / "cases" / "CT_a.json").write_text("[1")
    with pytest.raises(EvaluationError, match=r"CT_a\.json"):
        load_evaluation(tmp_path / "out")


def test_means_by_modality() -> None:
    assert [modality(n) for n in ("CT_x", "MR_x_y", "US_1", "Microscopy_q", "PET_z", "XR_1", "plain")] == [
        *("CT", "MRI", "Ultrasound", "Microscopy", "PET", "XR", "Other")
    ]
    rows = [
        {"CaseName": f"{n}.npz", "TotalRunningTime": t, "num_class": c, **dict.fromkeys(("DSC_AUC", "NSD_AUC"), v)}
        | dict.fromkeys(("DSC_Final", "NSD_Final"), v / 4)
        for n, t, c, v in (("US_a", 4.0, 2, 1.0), ("CT_a", 1.0, 1, 2.0), ("CT_b", 3.0, 3, 4.0))
    ]
    means = by_modality(rows)
    assert [(m.modality, m.cases) for m in means] == [("CT", 2), ("Ultrasound", 1), ("All", 3)]
    assert means[0].means == {"DSC_AUC": 3.0, "NSD_AUC": 3.0, "DSC_Final": 0.75, "NSD_Final": 0.75}
    assert means[2].means["DSC_AUC"] == pytest.approx(7 / 3)
    assert (means[0].seconds, means[0].seconds_per_class) == (2.0, 1.0)
    assert by_modality([]) == []


def test_the_page_holds_everything_itself(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    from gstk.evaluation.report import write_report

    (folder / "PET_<b>.npz").write_bytes(b"no case")
    found = run_cutter(folder, tmp_path / "out")
    page = write_report(found).read_text(encoding="utf-8")
    for one in found.scored:
        assert one.case in page
        assert f"{one.official()['DSC_AUC']:.3f}" in page
    assert "src='data:image/png;base64," in page
    assert page.count("src='") == page.count("src='data:") == 3 + 2 * 2  # three plots; a best and a worst, each a pair
    assert "http" not in page
    assert "PET_&lt;b&gt;" in page
    assert "<b>" not in page
    assert {p.name for p in (tmp_path / "out" / "plots").iterdir()} == {"dsc.png", "nsd.png", "time.png"}


def test_what_was_expected_stands_beside_what_was_spent(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    from gstk.evaluation.plots import plot_expected
    from gstk.evaluation.report import write_report

    said: list[float] = []

    class Noting(SessionSegmenter):
        def segment(self, prompts: Mapping[int, ObjectPrompts]) -> NDArray[np.integer]:
            mask = super().segment(prompts)
            said.append(session.report.expected_s)
            return mask

    session = Session(FloodEngine(), POLICY, model=a_model(), budget=Budget(90, calls=6))
    found = run_cutter(folder, tmp_path / "out", lambda: Noting(session), limit=1)
    one = load_evaluation(tmp_path / "out").scored[0]
    assert len(one.expected) == 6
    assert one.expected[0] > 0
    assert list(one.expected) == pytest.approx(said)
    figure = plot_expected(found.scored)
    assert figure is not None
    dots = np.concatenate([np.asarray(c.get_offsets()) for c in figure.axes[0].collections])
    pairs = [pair for pair in zip(one.expected, one.seconds, strict=True) if min(pair) > 0]
    np.testing.assert_allclose(sorted(dots.tolist()), sorted(pairs))
    assert "alt='expected'" in write_report(found).read_text(encoding="utf-8")
    assert (tmp_path / "out" / "plots" / "expected.png").is_file()
    assert plot_expected(run_cutter(folder, tmp_path / "other", limit=1).scored) is None


PROGRAM = """
import sys, numpy as np
from pathlib import Path
inputs, outputs = map(Path, sys.argv[1:])
for path in inputs.glob("*.npz"):
    case = np.load(path, allow_pickle=True)
    assert "gts" not in case
    mask = case["prev_pred"].astype(np.float32) if "prev_pred" in case else np.zeros(case["imgs"].shape, np.float32)
    for k, clicks in enumerate(case["clicks"] if "clicks" in case else [], start=1):
        for z, y, x in clicks["fg"]:
            mask[z, y, x] = k
    np.savez(outputs / path.name, segs=mask)
"""


def test_any_program_can_be_evaluated(folder: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    case = load_case(folder / "MR_b.npz")
    with ColdSegmenter([sys.executable, str(program), "{inputs}", "{outputs}"]) as segmenter:
        scores, masks = score_case(segmenter, case)
    assert scores.failures == ()
    assert [int((mask > 0).sum()) for mask in masks] == [0, 2, 4, 6, 8, 10]  # what it wrote before came back to it
    assert all(seconds > 0 for seconds in scores.seconds[1:])


def test_a_program_that_fails_is_said(tmp_path: Path) -> None:
    case = labelled_case("CT_a")
    command = [sys.executable, "-c", "raise SystemExit('out of luck')", "{inputs}", "{outputs}"]
    scores, _ = score_case(ColdSegmenter(command), case)
    assert len(scores.failures) == 6
    assert "out of luck" in scores.failures[0]
    with pytest.raises(EvaluationError, match="outputs"):
        ColdSegmenter(["predict.sh", "{inputs}"])


@pytest.mark.slow
def test_a_cold_session_says_what_a_warm_one_says(run: Run, folder: Path, tmp_path: Path) -> None:
    """`gstk evaluate` itself, on the built-in bundle; the clicks that a process replays give the session's masks."""
    common = ("--backend", "onnxruntime", "--threads", "1", "--limit", "1", "--no-report")
    for name, options in (("warm", ()), ("cold", ("--cold",))):
        outcome = run("evaluate", folder, "-o", tmp_path / name, *common, *options)
        assert outcome.code == 0, outcome.err
        assert "metrics.csv" in outcome.out
    warm, cold = (load_evaluation(tmp_path / name).scores[0] for name in ("warm", "cold"))
    assert warm.class_dsc == cold.class_dsc
    assert warm.prompts == cold.prompts
    masks = [np.load(tmp_path / name / "segs" / "CT_a.npz")["all_segs"] for name in ("warm", "cold")]
    np.testing.assert_array_equal(*masks)


def test_a_budget_is_kept_warm_and_cold(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GSTK_CACHE", str(tmp_path / "cache"))
    common = ("--backend", "onnxruntime", "--threads", "1", "--limit", "1", "--no-report", "--budget", "30")
    assert run("evaluate", folder, "-o", tmp_path / "warm", *common).code == 0
    warm = load_evaluation(tmp_path / "warm")
    assert warm.settings["budget_s"] == 30
    assert warm.scores[0].expected[0] > 0
    assert warm.scores[0].dsc[-1] > 0.5
    command = Pipeline(backend="onnxruntime", budget_s=30.0).command()
    assert command[command.index("--budget") :] == ["--budget", "30.0", "--calls", "6"]


def test_one_line_errors(run: Run, folder: Path, tmp_path: Path) -> None:
    outcome = run("evaluate", folder, "-o", tmp_path / "out", "--pipeline", "classical", "--backend", "openvino")
    assert outcome.code == 1
    assert "--backend" in outcome.error_line()
    outcome = run("evaluate", folder, "-o", tmp_path / "out", "--pipeline", "classical", "--budget", "9")
    assert outcome.code == 1
    assert "--budget" in outcome.error_line()
    outcome = run("evaluate", folder, "-o", tmp_path / "out", "--pipeline", "command")
    assert outcome.code == 1
    assert "{inputs}" in outcome.error_line()
    bad = f"{sys.executable} -c pass {{inputs}} {{outputs}}"
    outcome = run("evaluate", folder, "-o", tmp_path / "out", "--command", bad, "--limit", "1")
    assert outcome.code == 1
    assert "1 of 1 cases failed" in outcome.err
    saved = json.loads((tmp_path / "out" / "cases" / "CT_a.json").read_text())
    assert len(saved["failures"]) == 6


def test_the_session_is_timed_as_a_whole(tmp_path: Path) -> None:
    class Slow(FloodEngine):
        def decode(self, *arguments: object) -> NDArray[np.float32]:
            time.sleep(0.02)
            return super().decode(*arguments)  # type: ignore[arg-type]

    case = labelled_case("CT_a")
    segmenter = SessionSegmenter(Session(Slow(), POLICY))  # type: ignore[arg-type]
    scores, _ = score_case(segmenter, case)
    assert scores.total_seconds == pytest.approx(segmenter.seconds)
    assert scores.total_seconds <= scores.total_s
    assert all(s >= 0.02 for s, d in zip(scores.seconds[1:2], scores.dsc[1:2], strict=True) if d < 1)
