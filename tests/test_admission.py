"""Memory over all leases: volumes are refused or make room before anything is read."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("starlette")

from served import TOKEN, serving

from gstk.core.window import Window
from gstk.engines.base import Embedding
from gstk.errors import CaseError
from gstk.server.admission import Admission
from gstk.server.nnia import pack

GB = 10**9
INT16 = np.dtype(np.int16)


def test_what_was_promised_to_one_is_not_promised_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gstk.calibration.memory.free_bytes", lambda: 10 * GB)
    admission = Admission(lambda size_bytes: 0)
    with admission.admit(GB, INT16):
        refused = pytest.raises(CaseError, match=r"takes 7\.0 GB of the server's memory, expected at most the 5\.0 GB")
        with refused, admission.admit(GB, np.dtype(np.uint16)):  # the page shows a copy of it
            raise AssertionError
        with pytest.raises(ZeroDivisionError), admission.admit(GB, INT16):
            1 / 0  # noqa: B018
    with admission.admit(2 * GB, INT16):
        pass


def test_what_can_be_computed_again_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    free = [3 * GB]
    asked = []

    def make_room(size_bytes: int) -> int:
        asked.append(size_bytes)
        free[0] += 2 * GB
        return 2 * GB

    monkeypatch.setattr("gstk.calibration.memory.free_bytes", lambda: free[0])
    with Admission(make_room).admit(GB, INT16):
        assert asked == [2 * GB]


def test_a_server_without_memory_refuses_with_a_sentence_and_drops_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((1, 20, 20, 20), np.int16)
    image[0, 5:15, 5:15, 5:15] = 100
    with serving() as served:
        _, found, _ = served.ask("POST", "/claim", {}, b"")
        lease = {"X-Lease-Token": found["lease_token"]}
        caches = [lease.workspace.session.embeddings for lease in served.service.leases]
        for number in (0.0, 1.0):
            window = Window((number, 0.0, 0.0), (1.0, 1.0, 1.0), (8, 8, 8))
            caches[0].put(window, Embedding(1, (8, 8, 8), None, 100))
        monkeypatch.setattr("gstk.server.admission.memory.free_bytes", lambda: 30_000)
        status, answer, _ = served.ask("POST", "/set_image", lease, pack(image))
        assert status == 400
        assert "close other sessions" in answer["detail"]
        assert caches[0].shared_bytes == 100
        monkeypatch.setattr("gstk.server.admission.memory.free_bytes", lambda: 50_000)
        assert served.ask("POST", "/set_image", lease, pack(image))[0] == 200
        page = {"Authorization": f"Bearer {TOKEN}", "X-Lease-Token": found["lease_token"]}
        assert served.ask("PUT", "/api/upload?new=1&name=a.npz", page, b"PK")[0] == 200
        assert served.ask("POST", "/api/open", page, b"{}")[0] == 400
