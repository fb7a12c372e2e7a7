"""Work on a Ray cluster of this machine: all of it is done, also where workers are killed, and the same as without."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from cli_runs import Run

import gstk
from gstk.batch.infer import infer
from gstk.batch.ray_pool import Workers, map_on_ray
from gstk.cases.npz import save_case
from gstk.cases.phantom_case import phantom_case
from gstk.errors import EvaluationError
from gstk.evaluation.runner import load_evaluation

ray = pytest.importorskip("ray", reason="a cluster needs ray")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks" / "campaigns"))

import cohort_on_ray  # noqa: E402

pytestmark = pytest.mark.slow
TWO = Workers("local", count=2, cpus=1)


def describe(task: int, why: str) -> str:
    return f"{task} was lost: {why}"


def open_doer(folder: Path, fatal: int | None = None, twice: bool = False) -> Callable[[int], str]:
    """A worker that notes who did what, and once (or, for one task, each time) kills itself amid the work."""

    def do(task: int) -> str:
        mark = folder / "killed"
        (folder / f"{task}-{os.getpid()}-{time.monotonic_ns()}").touch()
        if task == fatal and (twice or not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if task < 0:
            raise ValueError("below zero")
        time.sleep(0.05)
        return f"{task} done"

    return do


def open_after_deaths(folder: Path, deaths: int) -> Callable[[int], str]:
    """So many workers are killed while they open, before any is ready; the next ones work."""
    for number in range(deaths):
        try:
            (folder / f"death {number}").touch(exist_ok=False)
        except FileExistsError:
            continue
        os.kill(os.getpid(), signal.SIGKILL)
    return lambda task: f"{task} done"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Workers]:
    """Two workers of a cluster that is started once, since that is what takes the time."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        # Workers import this module to unpickle its functions.
        patch.setenv("PYTHONPATH", os.pathsep.join(cohort_on_ray.MODULES), prepend=os.pathsep)
        for name, value in cohort_on_ray.SETTINGS.items():
            patch.setenv(name, value)
        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        yield Workers(started.address, count=2, cpus=1)
        started.shutdown()


def test_a_killed_worker_loses_nothing(cluster: Workers, tmp_path: Path) -> None:
    tasks = list(range(12))
    done = list(map_on_ray(cluster, partial(open_doer, tmp_path, fatal=5), tasks, describe))
    assert sorted(done, key=lambda text: int(text.split()[0])) == [f"{task} done" for task in tasks]
    assert len(list(tmp_path.glob("5-*"))) == 2
    # Those two, or also the one that came after, where there was work left when it stood.
    assert 2 <= len({p.name.split("-")[1] for p in tmp_path.glob("*-*")}) <= 3


def test_a_task_that_kills_every_worker_is_given_up_and_one_that_raises_is_said(
    cluster: Workers, tmp_path: Path
) -> None:
    done = sorted(map_on_ray(cluster, partial(open_doer, tmp_path, fatal=1, twice=True), [-1, 0, 1, 2], describe))
    assert len(done) == 4
    assert done[0].startswith("-1 was lost")
    assert "below zero" in done[0]
    assert done[2].startswith("1 was lost: it ended 3 workers")
    assert (done[1], done[3]) == ("0 done", "2 done")
    assert len(list(tmp_path.glob("1-*"))) == 3


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_cohort_survives_its_workers_and_its_driver(cluster: Workers, tmp_path: Path) -> None:
    cohort = cohort_on_ray.Cohort(tmp_path, cluster.address, volumes=12, workers=2, window_s=0.05)
    cohort.run(worker_deaths=2, driver_deaths=1)
    log = (tmp_path / "driver.log").read_text()
    assert cohort.failures == [], log
    cohort.check(sample=12)
    assert cohort.failures == [], log
    assert sorted(death["of"] for death in cohort.deaths) == ["driver", "worker", "worker"]
    counts = cohort.counts()
    assert counts["results"] == 12
    assert counts["windows_answered"] >= 12 * cohort_on_ray.WINDOWS
    # It is no check that cannot fail: a result that is lost, and one that is written again, are seen.
    mask = tmp_path / "out" / "00003" / "ct_mask.nii.gz"
    content = mask.read_bytes()
    mask.unlink()
    mask.write_bytes(content[:-1])
    cohort._look()
    cohort.check(sample=12)
    assert ["written again" in failure for failure in cohort.failures] == [True, False]


def test_a_worker_that_is_killed_while_it_opens_is_replaced(cluster: Workers, tmp_path: Path) -> None:
    done = list(map_on_ray(cluster, partial(open_after_deaths, tmp_path, 2), [1, 2], describe))
    assert sorted(done) == ["1 done", "2 done"]
    with pytest.raises(EvaluationError, match="no worker could be opened"):  # and not for ever
        list(map_on_ray(cluster, partial(open_after_deaths, tmp_path, 99), [1, 2], describe))


def test_what_cannot_be(cluster: Workers) -> None:
    assert list(map_on_ray(cluster, partial(open_doer, Path()), [], describe)) == []
    with pytest.raises(EvaluationError, match="expected a worker or more"):
        Workers(cpus=0)
    with pytest.raises(EvaluationError, match="cannot reach"):
        list(map_on_ray(Workers("127.0.0.1:1"), partial(open_doer, Path()), [1], describe))
    opener = partial(gstk.open, "no-such-bundle")
    with pytest.raises(EvaluationError, match=r"no worker could be opened.*no-such-bundle"):
        list(map_on_ray(cluster, opener, [1], describe))  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(2):
        (tmp_path / "cases").mkdir(exist_ok=True)
        save_case(tmp_path / "cases" / f"CT_{seed}.npz", phantom_case(seed, 32, "blobs", 1))
    return tmp_path / "cases"


def test_an_evaluation_on_two_workers_is_that_of_one_process(
    cluster: Workers, run: Run, folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("skimage", reason="the NSD needs scikit-image")
    common = ("--backend", "onnxruntime", "--no-report", "--threads", "1")
    for name, options in (("one", ()), ("two", ("--ray", cluster.address, "--workers", "2"))):
        outcome = run("evaluate", folder, "-o", tmp_path / name, *common, *options)
        assert outcome.code == 0, outcome.err
    one, two = (load_evaluation(tmp_path / name) for name in ("one", "two"))
    assert [s.case for s in one.scores] == [s.case for s in two.scores] == ["CT_0", "CT_1"]
    for first, second in zip(one.scores, two.scores, strict=True):
        assert (first.class_dsc, first.class_nsd, first.prompts) == (second.class_dsc, second.class_nsd, second.prompts)
        masks = [np.load(tmp_path / n / "segs" / f"{first.case}.npz")["all_segs"] for n in ("one", "two")]
        np.testing.assert_array_equal(*masks)


def test_masks_of_workers_are_those_of_one_process(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._common.usage.usage_lib import usage_stats_enabled

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")  # restored at the end
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED")
    opener = partial(gstk.open, "tiny", "onnxruntime", 1)
    alone = infer(opener, folder, tmp_path / "alone")
    (folder / "CT_9.npz").write_bytes(b"no case")
    outcome = run(
        *("infer", folder, "-o", tmp_path / "shared", "--backend", "onnxruntime", "--budget", "none"),
        *("--ray", "local", "--workers", "2"),
    )
    assert not usage_stats_enabled()  # nothing is reported of a cluster that gstk starts
    assert outcome.code == 1
    assert "2 of 3 segmented" in outcome.out
    assert "CT_9.npz" in outcome.err
    for result in alone:
        assert result.output is not None
        with np.load(result.output) as first, np.load(tmp_path / "shared" / result.output.name) as second:
            np.testing.assert_array_equal(first["segs"], second["segs"])
    with pytest.raises(TypeError, match="opens one"):
        infer(opener(), folder, tmp_path / "wrong", workers=TWO)


def test_workers_need_a_cluster(run: Run, folder: Path, tmp_path: Path) -> None:
    outcome = run("infer", folder, "-o", tmp_path / "out", "--workers", "2")
    assert outcome.code == 1
    assert "--ray local" in outcome.error_line()
