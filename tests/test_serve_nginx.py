"""The recipe of docs/serve.md: nginx before two servers sends every client to the server that has its session."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("nnInteractive.inference.remote.remote_session", reason="needs nninteractive-client")

from nnInteractive.inference.remote import remote_session as remote
from served import serving

from gstk.server.service import Settings

PAGE = Path(__file__).resolve().parents[1] / "docs" / "serve.md"


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_clients_stay_with_the_server_that_has_their_session(tmp_path: Path) -> None:
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        pytest.skip("needs nginx (Debian: nginx-light)")
    recipe = re.search(r"```\n(map .*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert recipe
    with (
        serving(Settings(name="a", max_sessions=2)) as first,
        serving(Settings(name="b", max_sessions=2)) as second,
    ):
        port = free_port()
        text = recipe[1].replace(":1601", f":{first.port}").replace(":1602", f":{second.port}")
        text = text.replace("127.0.0.1:1527", f"127.0.0.1:{port}")
        folders = "".join(
            f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = tmp_path / "nginx.conf"
        config.write_text(
            f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log; events {{}}\n"
            f"http {{ access_log off; {folders}\n{text}}}\n"
        )
        process = subprocess.Popen([nginx, "-c", str(config), "-p", str(tmp_path)], stderr=subprocess.PIPE)
        try:
            deadline = time.monotonic() + 20
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert process.poll() is None, process.stderr.read() if process.stderr else ""
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            url = f"http://127.0.0.1:{port}"
            clients = [remote.nnInteractiveRemoteInferenceSession(url) for _ in range(4)]
            with pytest.raises(remote.ServerAtCapacityError):
                remote.nnInteractiveRemoteInferenceSession(url)
            names = sorted(client._lease_token[0] for client in clients)
            assert names == ["a", "a", "b", "b"]
            grid = np.indices((20, 24, 28))
            for index, client in enumerate(clients):
                centre = np.array([10, 8 + index, 10 + 2 * index])
                ball = ((grid - centre[:, None, None, None]) ** 2).sum(0) <= 25
                client.set_image(np.where(ball, 200, 10).astype(np.uint8)[None], {"spacing": [1, 1, 1]})
                client.set_target_buffer(np.zeros(ball.shape, np.uint8))
                client.truth, client.centre = ball, centre
            for client in clients:
                client.add_point_interaction(client.centre.tolist(), True)
                found = client.target_buffer == 1
                assert 2 * (found & client.truth).sum() / (found.sum() + client.truth.sum()) > 0.7
            for client in clients:
                client.close()
        finally:
            process.terminate()
            process.wait(20)
