"""ITK-SNAP's protocol, by requests as its client builds them."""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("starlette")

from served import Served, serving

from gstk.evaluation.metrics import dice
from gstk.server.service import Settings

SHAPE = (24, 40, 48)
XYZ = SHAPE[::-1]


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving(Settings(itksnap=True, max_sessions=30)) as served:
        yield served


def ball() -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    grid = np.indices(SHAPE)
    inside = ((grid - np.array([12, 20, 22])[:, None, None, None]) ** 2).sum(0) <= 49
    return np.where(inside, 900, -100).astype(np.int16), inside


def get(served: Served, path: str) -> dict[str, Any]:
    status, found, _ = served.ask("GET", path)
    assert status == 200, found
    return found


def post(served: Served, path: str, array: NDArray[Any], dimensions: Any = XYZ) -> tuple[int, dict[str, Any]]:
    """A multipart form with a gzipped float32 array, x fastest, and its metadata."""
    metadata = json.dumps({"dimensions": list(dimensions), "components_per_pixel": 1})
    mark = "----------------------------snap"
    body = (
        f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="image.gz"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    body += gzip.compress(array.astype("<f4").tobytes(), 1)
    body += (
        f'\r\n--{mark}\r\nContent-Disposition: form-data; name="metadata"\r\n\r\n{metadata}\r\n--{mark}--\r\n'.encode()
    )
    status, found, _ = served.ask("POST", path, {"Content-Type": f"multipart/form-data; boundary={mark}"}, body)
    return status, found


def mask_of(answer: dict[str, Any]) -> NDArray[np.bool_]:
    assert answer["status"] == "success"
    values = np.frombuffer(gzip.decompress(base64.b64decode(answer["result"])), np.int8)
    assert set(np.unique(values)) <= {0, 1}
    return values.reshape(SHAPE) > 0


@pytest.mark.parametrize("prefix", ["", "/v2"])
def test_an_image_is_sent_clicked_drawn_on_and_reset(server: Served, prefix: str) -> None:
    image, inside = ball()
    assert get(server, "/status")["status"] == "ok"
    (model,) = get(server, "/v2/models")["models"]
    session = get(server, f"/v2/start_session/{model['id']}" if prefix else "/start_session")["session_id"]
    status, _ = post(server, f"{prefix}/upload_raw/{session}?filename=a.nii", image)
    assert status == 200
    where = "point=22&point=20&point=12" if prefix else "x=22&y=20&z=12"
    clicked = mask_of(get(server, f"{prefix}/process_point_interaction/{session}?{where}&foreground=true"))
    assert dice(clicked, inside) > 0.9
    line = np.zeros(SHAPE, np.float32)
    line[12, 20, 26:28] = 1
    _, found = post(server, f"{prefix}/process_scribble_interaction/{session}?foreground=false", line)
    less = mask_of(found)
    assert not less[12, 20, 26:28].any()
    assert 0 < less.sum() < clicked.sum()
    assert get(server, f"{prefix}/reset_interactions/{session}") == {"status": "success"}
    circle = np.zeros(SHAPE, np.float32)
    circle[12, 14:27, 16:29] = 1
    _, found = post(server, f"{prefix}/process_lasso_interaction/{session}?foreground=true", circle)
    assert dice(mask_of(found), inside) > 0.8
    assert get(server, f"{prefix}/end_session/{session}") == {"message": "Session ended"}
    assert get(server, f"{prefix}/end_session/{session}") == {"message": "Invalid session"}
    assert get(server, f"{prefix}/process_point_interaction/{session}?{where}") == {"error": "Invalid session"}


def test_clicks_outside_are_brought_inside_and_fractions_of_an_image_stay(server: Served) -> None:
    image, inside = ball()
    session = get(server, "/start_session")["session_id"]
    assert post(server, f"/upload_raw/{session}", image / 7)[0] == 200
    assert not mask_of(get(server, f"/process_point_interaction/{session}?x=-3&y=999&z=2&foreground=true"))[
        inside
    ].any()
    get(server, f"/end_session/{session}")


def test_what_is_malformed_is_refused(server: Served) -> None:
    image, _ = ball()
    session = get(server, "/start_session")["session_id"]
    path = f"/upload_raw/{session}"
    for dimensions in ([48, 40], [48, 40, 0], [48, 40, 2**40], ["48", 40, 24], None, [48, 40, 23], [48, 41, 24]):
        status, found = post(server, path, image, dimensions or [1.5, 2, 3])
        assert status == 400
        assert "Traceback" not in found["detail"]
    assert post(server, path, image)[0] == 200
    short = np.zeros(math.prod(SHAPE) // 2)
    assert post(server, f"/process_lasso_interaction/{session}", short)[0] == 400
    for query in ("x=1&y=2", "x=a&y=1&z=2", "x=nan&y=1&z=2", ""):
        assert server.ask("GET", f"/process_point_interaction/{session}?{query}")[0] == 400
    assert server.ask("GET", f"/end_session/{session}", {"Sec-Fetch-Site": "cross-site"})[0] == 403
    assert server.ask("GET", f"/end_session/{session}", {"Origin": server.url})[0] == 401


def test_it_is_off_unless_asked_for() -> None:
    with serving() as served:
        assert served.ask("GET", "/status")[0] == 404
        assert served.ask("GET", "/start_session")[0] == 404
