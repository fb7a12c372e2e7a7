"""The nnInteractive protocol, spoken by the official client from the package index."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from flood import FloodEngine
from numpy.typing import NDArray

pytest.importorskip("starlette")
pytest.importorskip("nnInteractive.inference.remote.remote_session", reason="needs nninteractive-client")

import httpx
from nnInteractive.inference.remote.remote_session import (
    ServerAtCapacityError,
    SessionExpiredError,
    nnInteractiveRemoteInferenceSession,
)
from served import Served, serving

from gstk.errors import Interrupted
from gstk.evaluation.metrics import dice
from gstk.server.leases import Clocks
from gstk.server.service import Settings

SHAPE = (40, 60, 60)


def balls() -> tuple[NDArray[np.int16], NDArray[np.bool_], NDArray[np.bool_]]:
    """Two bright balls, in intensities that no uint8 can hold."""
    grid = np.indices(SHAPE)
    first = ((grid - np.array([20, 20, 20])[:, None, None, None]) ** 2).sum(0) <= 64
    second = ((grid - np.array([20, 44, 40])[:, None, None, None]) ** 2).sum(0) <= 25
    return np.where(first | second, 1200, -300).astype(np.int16), first, second


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving() as served:
        yield served


@pytest.fixture
def client(server: Served) -> Iterator[Any]:
    """A client that has sent the balls and wants a uint8 mask."""
    session = nnInteractiveRemoteInferenceSession(server.url)
    image, _, _ = balls()
    session.set_image(image[None], {"spacing": [1.0, 1.0, 1.0]})
    session.set_target_buffer(np.zeros(SHAPE, np.uint8))
    yield session
    session.close()


def test_the_client_learns_what_the_server_can(client: Any) -> None:
    assert client.original_image_shape == (1, *SHAPE)
    assert all(client.supported_interactions.values())
    assert client.supports_initial_label
    assert client.supports_undo
    assert len(client.preferred_scribble_thickness) == 3  # napari looks it up by axis


def test_points_boxes_and_undo_change_the_clients_mask(client: Any) -> None:
    _, first, second = balls()
    box = client.add_point_interaction([20, 20, 20], True)
    assert dice(client.target_buffer, first) > 0.9
    assert set(np.unique(client.target_buffer)) == {0, 1}
    changed = np.zeros(SHAPE, bool)
    changed[tuple(slice(*ends) for ends in box)] = True
    assert not client.target_buffer[~changed].any()
    one = client.target_buffer.copy()
    client.add_point_interaction([20, 20, 26.2], False)
    assert client.target_buffer[20, 20, 26] == 0
    client.add_bbox_interaction([[20, 21], [39, 50], [35, 46]], True)
    assert dice(client.target_buffer, second) > 0.3
    assert client.target_buffer[20, 44, 40] == 1
    assert client.undo()
    assert client.undo()
    np.testing.assert_array_equal(client.target_buffer, one)
    assert client.undo()
    assert not client.target_buffer.any()
    assert not client.undo()


def test_a_flat_box_does_not_flatten_the_object(client: Any) -> None:
    _, first, _ = balls()
    client.add_bbox_interaction([[20, 21], [12.2, 27.9], [12.0, 28.4]], True)  # as napari draws, in fractions
    assert dice(client.target_buffer, first) > 0.8
    assert client.target_buffer[26, 20, 20] == 1


def test_a_negative_box_is_background(client: Any) -> None:
    client.add_point_interaction([20, 20, 20], True)
    before = client.target_buffer.sum()
    client.add_bbox_interaction([[20, 21], [18, 23], [24, 27]], False)
    assert client.target_buffer[20, 20, 25] == 0
    assert 0 < client.target_buffer.sum() < before


def test_a_box_in_space_and_scribbles_and_lassos_give_masks(client: Any) -> None:
    _, first, second = balls()
    client.add_bbox_interaction([[12, 29], [12, 29], [12, 29]], True)
    assert dice(client.target_buffer, first) > 0.9
    client.reset_interactions()
    assert not client.target_buffer.any()
    scribble = np.zeros(SHAPE, np.uint8)
    scribble[20, 20, 14:27] = 1
    client.add_scribble_interaction(scribble, True)
    assert dice(client.target_buffer, first) > 0.9
    client.reset_interactions()
    lasso = np.zeros(SHAPE, np.uint16)  # as MITK sends its own pixels
    lasso[20, 38:51, [34, 46]] = 1
    lasso[20, [38, 50], 34:47] = 1
    client.add_lasso_interaction(lasso, True)
    assert dice(client.target_buffer, second) > 0.7
    away = np.zeros(SHAPE, np.uint8)
    away[20, 40, 39:42] = 1
    client.add_scribble_interaction(away, False)
    assert client.target_buffer[20, 40, 40] == 0


def test_prompts_may_wait_for_a_prediction(client: Any) -> None:
    _, first, second = balls()
    client.add_point_interaction([20, 20, 20], True, run_prediction=False)
    client.add_point_interaction([20, 44, 40], True, run_prediction=False)
    assert not client.target_buffer.any()
    assert client._predict() is not None
    assert dice(client.target_buffer, first | second) > 0.85
    assert client._predict() is None
    assert client.undo()
    assert not client.target_buffer.any()  # both belonged to one prediction


def test_a_client_may_begin_with_its_own_mask(client: Any) -> None:
    _, first, second = balls()
    client.target_buffer[:] = first | second
    client.add_initial_seg_interaction((first | second).astype(bool))
    np.testing.assert_array_equal(client.target_buffer, first | second)
    client.add_point_interaction([20, 44, 40], False)
    assert client.target_buffer[20, 44, 40] == 0
    assert (client.target_buffer != 0)[first].mean() > 0.9


def test_what_a_user_can_draw_is_no_error(client: Any) -> None:
    client.add_point_interaction([-3.7, 20, 90], True)
    client.add_bbox_interaction([[20, 21], [-9, 500], [-9, 500]], True)
    client.add_bbox_interaction([[20, 21], [70, 80], [70, 80]], True)
    client.add_scribble_interaction(np.zeros(SHAPE, np.uint8), True)
    client.add_point_interaction([0, 0, 0], False)
    client.set_do_autozoom(False)


def test_images_that_viewers_send_are_taken(server: Served) -> None:
    client = nnInteractiveRemoteInferenceSession(server.url)
    image, first, _ = balls()
    broken = image.astype(np.float32)
    broken[0, 0, 0], broken[1, 1, 1] = np.nan, np.inf
    client.set_image(broken[None], {"spacing": np.array([1, 1, 1], np.float32)})
    client.set_target_buffer(np.zeros(SHAPE, np.uint16))
    client.add_point_interaction([20, 20, 20], True)
    assert dice(client.target_buffer, first) > 0.9
    # napari-nifti turns the layer by negative scales, and the plugin sends them.
    client.set_image(image[None], {"spacing": [-3.0, -1.5, -1.5]})
    lease = next(iter(server.service.leases))
    assert lease.workspace.geometry.spacing_mm == (3.0, 1.5, 1.5)
    client.set_image((image > 0)[None], {})
    client.set_target_buffer(np.zeros(SHAPE, bool))
    client.add_point_interaction([20, 20, 20], True)
    assert client.target_buffer.dtype == bool
    assert dice(client.target_buffer, first) > 0.9
    with pytest.raises(httpx.HTTPStatusError, match="400"):
        client.set_image(np.concatenate([image[None]] * 2), {})
    client.close()


def test_clients_have_images_of_their_own(server: Served) -> None:
    image, first, _ = balls()
    clients = [nnInteractiveRemoteInferenceSession(server.url) for _ in range(2)]
    for client, shown in zip(clients, (image, image[:, ::-1].copy()), strict=True):
        client.set_image(shown[None], {"spacing": [1, 1, 1]})
        client.set_target_buffer(np.zeros(SHAPE, np.uint8))
    workers = [threading.Thread(target=client.add_point_interaction, args=([20, 20, 20], True)) for client in clients]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert dice(clients[0].target_buffer, first) > 0.9
    assert clients[1].target_buffer.sum() < first.sum() / 2  # background was clicked
    for client in clients:
        client.close()


def test_a_full_server_says_so_and_a_dead_client_makes_room() -> None:
    clocks = Clocks(idle_s=60, liveness_s=0.6, sweep_s=0.1)
    with serving(Settings(max_sessions=1, clocks=clocks, name="a")) as served:
        first = nnInteractiveRemoteInferenceSession(served.url)
        assert first._lease_token.startswith("a-")
        with pytest.raises(ServerAtCapacityError, match="capacity"):
            nnInteractiveRemoteInferenceSession(served.url)
        deadline = time.monotonic() + 20
        while True:
            try:
                second = nnInteractiveRemoteInferenceSession(served.url)
                break
            except ServerAtCapacityError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        with pytest.raises(SessionExpiredError):
            first.undo()
        second.close()


def test_a_session_lives_while_its_call_runs_and_health_is_answered() -> None:
    class Slow(FloodEngine):
        def encode(self, image: NDArray[np.float32]) -> Any:
            time.sleep(1.0)
            return super().encode(image)

    clocks = Clocks(idle_s=0.5, liveness_s=0.5, sweep_s=0.1)
    with serving(Settings(clocks=clocks), Slow()) as served:
        client = nnInteractiveRemoteInferenceSession(served.url)
        image, first, _ = balls()
        client.set_image(image[None], {"spacing": [1, 1, 1]})
        client.set_target_buffer(np.zeros(SHAPE, np.uint8))
        worker = threading.Thread(target=client.add_point_interaction, args=([20, 20, 20], True))
        worker.start()
        time.sleep(0.3)
        began = time.monotonic()
        assert served.ask("GET", "/healthz")[1] == {"ok": True}
        lease = {"X-Lease-Token": client._lease_token}
        assert served.ask("POST", "/heartbeat", lease, b"{}")[0] == 200
        assert time.monotonic() - began < 0.6
        worker.join()
        assert dice(client.target_buffer, first) > 0.9
        status, found, _ = served.ask("GET", "/lease_status", lease)
        assert status == 200
        assert 0 < found["remaining_seconds"] <= found["idle_timeout_seconds"] == 0.5


def test_a_client_that_goes_away_ends_its_call() -> None:
    class Stuck(FloodEngine):
        def __init__(self) -> None:
            super().__init__()
            self.begun, self.ended = threading.Event(), threading.Event()

        def decode(self, embedding: Any, coords: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float32]:
            self.begun.set()
            if not self.ended.wait(30):
                raise AssertionError("nobody ended the call")
            raise Interrupted("interrupted")

        def interrupt(self) -> None:
            if self.begun.is_set():
                self.ended.set()

    engine = Stuck()
    with serving(engine=engine) as served:
        client = nnInteractiveRemoteInferenceSession(served.url, read_timeout=0.5)
        client.set_image(balls()[0][None], {})
        client.set_target_buffer(np.zeros(SHAPE, np.uint8))
        with pytest.raises(httpx.ReadTimeout):
            client.add_point_interaction([20, 20, 20], True)
        assert engine.ended.wait(10)
        assert client.undo() is False  # as before the call


def test_malformed_requests_are_refused_and_break_nothing(server: Served, client: Any) -> None:
    lease = {"X-Lease-Token": client._lease_token, "Content-Type": "application/json"}
    point = {"coordinates": [20, 20, 20], "include_interaction": True}
    for path, body in [
        ("/add_point_interaction", b"{"),
        ("/add_point_interaction", b"[]"),
        ("/add_point_interaction", b"[" * 30000),
        ("/add_point_interaction", json.dumps(point | {"coordinates": [1, 2]}).encode()),
        ("/add_point_interaction", json.dumps(point | {"coordinates": [1, 2, None]}).encode()),
        ("/add_point_interaction", b'{"coordinates":[1,2,NaN],"include_interaction":true}'),
        ("/add_point_interaction", b'{"coordinates":[1,2,1e400],"include_interaction":true}'),
        ("/add_point_interaction", json.dumps({"coordinates": [1, 2, 3]}).encode()),
        ("/add_bbox_interaction", json.dumps({"bbox_coords": [[1, 1]] * 3, "include_interaction": True}).encode()),
        ("/set_target_buffer", json.dumps({"shape": [9, 9, 9], "dtype": "uint8"}).encode()),
        ("/set_target_buffer", json.dumps({"shape": list(SHAPE), "dtype": "float32"}).encode()),
        ("/set_target_buffer", json.dumps({"shape": list(SHAPE), "dtype": "O"}).encode()),
        ("/set_do_autozoom", b"{}"),
        ("/set_image", b"NNIA"),
        ("/add_scribble_interaction", b"NNIA"),
    ]:
        headers = lease | {"X-Meta": '{"include_interaction":true}'}
        status, found, _ = served_answer(server, path, headers, body)
        assert status == 400, (path, body[:60], found)
        assert set(found) == {"detail"}
        assert "got" in found["detail"]
    for meta in ("{", "[]", '{"image_properties":{"spacing":[1,0,1]}}', '{"image_properties":{"spacing":"1"}}'):
        assert served_answer(server, "/set_image", lease | {"X-Meta": meta}, b"")[0] == 400
    status, found, _ = served_answer(server, "/no_such_path", {}, b"")
    assert status == 404
    assert "detail" in found
    client.add_point_interaction([20, 20, 20], True)
    assert dice(client.target_buffer, balls()[1]) > 0.9


def served_answer(server: Served, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, Any], Any]:
    return server.ask("POST", path, headers, body)


def test_many_clients_at_once_are_each_served_their_own_image() -> None:
    """Six clients, each with a ball of its own; the cache has room for the embeddings of two."""
    places = [(12 + 4 * k, 16 + 5 * k, 44 - 5 * k) for k in range(6)]
    grid = np.indices(SHAPE)
    settings = Settings(max_sessions=6, cache_bytes=2 * 4 * 32**3)
    failures: list[BaseException] = []
    with serving(settings) as served:

        def use(place: tuple[int, int, int]) -> None:
            ball = ((grid - np.array(place)[:, None, None, None]) ** 2).sum(0) <= 49
            try:
                client = nnInteractiveRemoteInferenceSession(served.url)
                client.set_image(np.where(ball, 900, -100).astype(np.int16)[None], {"spacing": [1, 1, 1]})
                client.set_target_buffer(np.zeros(SHAPE, np.uint8))
                for _ in range(8):
                    client.add_point_interaction(list(place), True)
                    assert dice(client.target_buffer, ball) > 0.9
                    client.add_point_interaction([place[0], place[1], place[2] + 6], False)
                    assert client.target_buffer[place[0], place[1], place[2] + 6] == 0
                    assert not client.target_buffer[~ball].any()
                    assert client.undo()
                    client.reset_interactions()
                client.close()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=use, args=(place,)) for place in places]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not failures
        assert not any(thread.is_alive() for thread in threads)
        assert not list(served.service.leases)
        assert served.service._engine_session.embeddings.shared_bytes == 0
