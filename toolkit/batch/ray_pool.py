"""Distributes tasks over the actors of a Ray cluster; the task of a worker that dies is run again on another one."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from gstk.errors import BackendMissing, EvaluationError

__all__ = ["Workers", "connect", "keep_to_ourselves", "map_on_ray", "room_for", "why"]

Task = TypeVar("Task")
Result = TypeVar("Result")

ATTEMPTS = 3
"""So often a task is given to a worker before it is held to be what ends them."""
START_ATTEMPTS = 5
"""So often Ray is started on this machine, where it gives up after 30 s: too few for a busy one."""
_SLOW_START = "timed out during startup"
START_TIMEOUT_S = 300.0
CONNECT_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Workers:
    """A Ray cluster, and the resources that each worker reserves on it.

    Attributes:
        address: a Ray address such as `auto`, `host:6379` or `ray://host:10001`; `local` starts Ray on this machine.
        count: number of workers; None starts as many as the cluster has resources for.
        cpus, gpus: CPU cores and GPUs that each worker reserves; with a fraction, several workers share a GPU.
    """

    address: str = "local"
    count: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.cpus <= 0 or self.gpus < 0 or (self.count is not None and self.count < 1):
            raise EvaluationError(f"got {self}, expected a worker or more, with more than 0 cores and 0 or more GPUs")


def map_on_ray(
    workers: Workers,
    open_worker: Callable[[], Callable[[Task], Result]],
    tasks: Sequence[Task],
    lost: Callable[[Task, str], Result],
) -> Iterator[Result]:
    """Runs tasks on workers. Each worker gets its next task as soon as it is free; no tasks queue up on the cluster.

    If a worker or its machine dies, the worker is replaced and its task is given to another worker.

    Args:
        workers: the cluster and the resources of each worker.
        open_worker: creates the work function in the process of the worker; must be picklable.
        tasks: inputs of the work function; must be picklable. Every machine must be able to reach the files they name.
        lost: returns the result of a task that raised an error or on which `ATTEMPTS` workers died; it gets the task
            and the reason.

    Yields:
        The results in the order in which they finish.

    Raises:
        BackendMissing: Ray is not installed.
        EvaluationError: the cluster cannot be reached or lacks the resources, or no worker could be started.
    """
    try:
        import ray
    except ModuleNotFoundError:
        message = 'a cluster needs ray, which is not installed; pip install "gstk[ray]"'
        raise BackendMissing(message) from None
    if not tasks:
        return
    connect(workers)
    try:
        actor = ray.remote(num_cpus=workers.cpus, num_gpus=workers.gpus, max_restarts=0)(_Actor)
        count = min(room_for(workers), len(tasks))
        waiting = [(number, 1) for number in reversed(range(len(tasks)))]
        running: dict[Any, tuple[Any, tuple[int, int] | None]] = {}

        def start() -> None:
            started = actor.remote(open_worker)
            running[started.ready.remote()] = (started, None)

        for _ in range(count):
            start()
        opened = stillborn = 0
        while running:
            done, _ = ray.wait(list(running), num_returns=1, timeout=None if opened else START_TIMEOUT_S)
            if not done:
                asked = f"{workers.cpus:g} cores and {workers.gpus:g} GPUs"
                raise EvaluationError(
                    f"no worker with {asked} started in {START_TIMEOUT_S:g} s; ask for less, or free the cluster"
                )
            worker, job = running.pop(done[0])
            try:
                result = ray.get(done[0])
            except ray.exceptions.RayActorError as error:
                if job is None:
                    stillborn += 1
                    if (error.actor_init_failed and not opened) or stillborn > count + ATTEMPTS:
                        raise EvaluationError(f"no worker could be opened: {why(error)}") from None
                elif job[1] < ATTEMPTS:
                    waiting.append((job[0], job[1] + 1))
                else:
                    yield lost(tasks[job[0]], f"it ended {ATTEMPTS} workers: {why(error)}")
                if waiting:
                    start()
                continue
            except ray.exceptions.RayTaskError as error:
                assert job is not None, "an actor that is ready has raised"
                yield lost(tasks[job[0]], why(error))
            else:
                opened += job is None
                if job is not None:
                    yield result
            if waiting:
                number, attempt = waiting.pop()
                running[worker.run.remote(tasks[number])] = (worker, (number, attempt))
            else:
                ray.kill(worker)
    finally:
        ray.shutdown()


class _Actor:
    """A worker, in a process of its own."""

    def __init__(self, open_worker: Callable[[], Callable[[Any], Any]]) -> None:
        self._work = open_worker()

    def ready(self) -> None:
        """Returns once the worker is ready for tasks."""

    def run(self, task: Any) -> Any:
        """Runs one task."""
        return self._work(task)


def keep_to_ourselves() -> None:
    """Makes a cluster that this process starts take orders from nobody else; for commands, before anything imports Ray.

    Ray's ports are open to the network, and whoever reaches them could run code.
    """
    if "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def connect(workers: Workers, environment: Mapping[str, str] | None = None) -> None:
    """Connects this process to a cluster; `local` starts one on this machine, which `ray.shutdown` ends.

    Args:
        workers: whose address counts.
        environment: variables of the processes that do the work.

    Raises:
        EvaluationError: the cluster cannot be reached.
    """
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if environment:
        options["runtime_env"] = {"env_vars": dict(environment)}
    if workers.address == "local":
        cores = None if workers.count is None else max(1, round(workers.count * workers.cpus))
        options |= {"address": "local", "include_dashboard": False, "num_cpus": cores}
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # otherwise it reports its use to its makers, unasked
    else:
        options["address"] = workers.address
    try:
        # Without this check, Ray tries to connect for minutes and then ends the process.
        host, colon, port = workers.address.removeprefix("ray://").rpartition(":")
        if colon and port.isdecimal():
            socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
        for attempt in reversed(range(START_ATTEMPTS)):
            try:
                ray.init(**options)
                break
            except Exception as error:
                ray.shutdown()
                if not attempt or _SLOW_START not in str(error):
                    raise
    except (Exception, SystemExit) as error:  # Ray raises many types, from a wrong address to a wrong version
        raise EvaluationError(f"cannot reach the Ray cluster {workers.address!r}: {why(error)}") from None


def room_for(workers: Workers) -> int:
    """The number of workers to start.

    Raises:
        EvaluationError: the cluster has no room for one.
    """
    import ray

    if workers.count is not None:
        return workers.count
    total = ray.cluster_resources()
    rooms = [total.get("CPU", 0.0) / workers.cpus]
    if workers.gpus:
        rooms.append(total.get("GPU", 0.0) / workers.gpus)
    count = int(min(rooms) + 1e-9)
    if count < 1:
        raise EvaluationError(
            f"got workers of {workers.cpus:g} cores and {workers.gpus:g} GPUs, but the cluster has "
            f"{total.get('CPU', 0.0):g} and {total.get('GPU', 0.0):g}; ask for less"
        )
    return count


def why(error: BaseException) -> str:
    """The last line of an error; Ray puts the remote traceback in the lines before it."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
