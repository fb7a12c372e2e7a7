"""`gstk serve` as a user starts it: its own process, the built-in bundle, signals."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import numpy as np
import pytest
from cli_runs import Run

pytest.importorskip("starlette")
pytest.importorskip("blosc2")


@contextmanager
def started(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The process, and the lines that it printed until it was ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "gstk", "serve", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
    )
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip())
            if line.startswith("viewers"):
                break
        yield process, lines
    finally:
        process.kill()
        process.wait()


def address(lines: list[str]) -> str:
    found = re.search(r"viewers +(http://\S+)", "\n".join(lines))
    assert found, lines
    return found[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_answers_clicks_and_ends_cleanly(number: signal.Signals, run: Run) -> None:
    with started() as (process, lines):
        url = address(lines)
        assert re.search(rf"page +{re.escape(url)}/#token=\S{{20,}}", "\n".join(lines))
        outcome = run("serve", "--check", url)
        assert outcome.code == 0
        assert "points" in outcome.out
        if number == signal.SIGTERM:
            remote = pytest.importorskip("nnInteractive.inference.remote.remote_session")
            client = remote.nnInteractiveRemoteInferenceSession(url)
            grid = np.indices((32, 32, 32))
            ball = ((grid - 16) ** 2).sum(0) <= 49
            client.set_image(np.where(ball, 150, 20).astype(np.uint8)[None], {"spacing": [1, 1, 1]})
            client.set_target_buffer(np.zeros(ball.shape, np.uint8))
            client.add_point_interaction([16, 16, 16], True)
            assert 2 * (client.target_buffer & ball).sum() / (client.target_buffer.sum() + ball.sum()) > 0.7
        process.send_signal(number)
        assert process.wait(20) == 0
        assert process.stdout is not None
        assert process.stdout.read().strip().splitlines()[-1] == "stopped"


def test_a_key_is_made_beyond_this_machine_and_asked_for(run: Run) -> None:
    with started("--host", "0.0.0.0", NN_INTERACTIVE_API_KEY="") as (_, lines):
        found = re.search(r"with the key (\S+)", "\n".join(lines))
        assert found
        url = address(lines)
        assert "0.0.0.0" not in "\n".join(lines)  # which no browser opens
        pages = re.findall(r"page +(http://\S+)/#token=", "\n".join(lines))
        assert pages[0] == url.replace(urlsplit(url).hostname or "", "127.0.0.1")
        for reached in pages:  # this machine's others, too
            assert run("serve", "--check", reached, "--api-key", found[1]).code == 0
        outcome = run("serve", "--check", url)
        assert outcome.code == 1
        assert "401" in outcome.err
        assert "--api-key" in outcome.err
        assert run("serve", "--check", url, "--api-key", found[1]).code == 0


def test_what_is_wrong_with_an_address_is_said(run: Run) -> None:
    for url, words in [("nonsense", "expected one such as"), ("http://127.0.0.1:9", "is gstk serve running there")]:
        outcome = run("serve", "--check", url)
        assert outcome.code == 1
        assert words in outcome.err
        assert len(outcome.err.splitlines()) == 1


def test_an_address_that_is_taken_is_an_error(run: Run) -> None:
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        outcome = run("serve", "--port", str(other.getsockname()[1]))
    assert outcome.code == 1
    assert "another --port" in outcome.err
