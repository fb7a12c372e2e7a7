"""`gstk serve --ray`: two replicas on this machine, and clients that stay with the one that has their session."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import SimpleITK
from cli_runs import Run
from numpy.typing import NDArray
from served import Served

pytest.importorskip("starlette")
pytest.importorskip("fastapi", reason="needs Ray Serve")
pytest.importorskip("ray", reason="needs Ray Serve")
remote = pytest.importorskip("nnInteractive.inference.remote.remote_session")

from test_page_api import Page  # noqa: E402
from test_serve import address, started  # noqa: E402

pytestmark = pytest.mark.slow
SESSIONS = 3
SHAPE = (32, 36, 40)


def ball(centre: tuple[int, int, int]) -> NDArray[np.bool_]:
    grid = np.indices(SHAPE)
    return ((grid - np.array(centre)[:, None, None, None]) ** 2).sum(0) <= 64


class Client:
    """A viewer with an image of its own."""

    def __init__(self, url: str, centre: tuple[int, int, int]) -> None:
        self.session = remote.nnInteractiveRemoteInferenceSession(url)
        self.centre, self.truth = centre, ball(centre)
        self.session.set_image(np.where(self.truth, 200, 10).astype(np.uint8)[None], {"spacing": [1, 1, 1]})
        self.session.set_target_buffer(np.zeros(SHAPE, np.uint8))

    def click(self) -> float:
        """Dice of the mask of a click in the middle."""
        self.session.add_point_interaction(list(self.centre), True)
        mask = self.session.target_buffer == 1
        return float(2 * (mask & self.truth).sum() / (mask.sum() + self.truth.sum()))


def replicas(server: int) -> list[psutil.Process]:
    children = psutil.Process(server).children(recursive=True)
    return [child for child in children if any("Replica" in part for part in child.cmdline())]


def test_clients_stay_with_the_replica_that_has_their_session(run: Run, tmp_path: Path) -> None:
    options = ("--ray", "local", "--workers", "2", "--max-sessions", str(SESSIONS))
    with started(*options) as (process, lines):
        assert "replicas 2" in lines
        url = address(lines)
        assert run("serve", "--check", url).code == 0
        centres = [(16, 12 + 2 * i, 26 - 2 * i) for i in range(2 * SESSIONS)]
        clients = [Client(url, centre) for centre in centres]  # as many as both replicas have room for
        with pytest.raises(remote.ServerAtCapacityError):
            remote.nnInteractiveRemoteInferenceSession(url)
        for client in [*clients, *clients]:  # each on its own image
            assert client.click() > 0.7
        clients.pop().session.close()

        # The page, too: another process may answer its first request.
        served = Served(None, int(url.rpartition(":")[2]))  # type: ignore[arg-type]
        token = next(line for line in lines if line.startswith("page")).partition("#token=")[2]
        page = Page(served, token=token)
        scan = SimpleITK.GetImageFromArray(np.where(ball((16, 18, 20)), 200, 10).astype(np.uint8))
        SimpleITK.WriteImage(scan, tmp_path / "scan.nii.gz")
        page.ask("PUT", "/api/upload?new=1&name=scan.nii.gz", (tmp_path / "scan.nii.gz").read_bytes())
        assert page.json("POST", "/api/open")["shape"] == [*SHAPE]
        status, meta, data = page.ask(
            "POST", "/api/prompt", b'{"kind": "point", "voxel": [16, 18, 20], "foreground": true}'
        )
        assert status == 200, data
        assert meta["box"]

        # Those of a replica that dies are told so, and the others go on.
        before = replicas(process.pid)
        assert len(before) == 2
        os.kill(before[0].pid, signal.SIGKILL)
        ended = 0
        for client in clients:
            try:
                assert client.click() > 0.7
            except (remote.SessionExpiredError, remote.httpx.HTTPError):
                ended += 1
        assert 0 < ended < len(clients)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert process.stdout is not None
        assert process.stdout.read().strip().splitlines()[-1] == "stopped"
        deadline = time.monotonic() + 30
        while any(other.is_running() for other in before):
            assert time.monotonic() < deadline
            time.sleep(0.2)
