"""SlicerNNInteractive up to 0.3.2, requests built as its plugin does: the whole mask comes back each time."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("starlette")
pytest.importorskip("requests")

import requests
from served import Served, serving

from gstk.evaluation.metrics import dice

SHAPE = (30, 40, 44)


def balls() -> tuple[NDArray[np.int16], NDArray[np.bool_], NDArray[np.bool_]]:
    grid = np.indices(SHAPE)
    first = ((grid - np.array([15, 14, 14])[:, None, None, None]) ** 2).sum(0) <= 49
    second = ((grid - np.array([15, 30, 32])[:, None, None, None]) ** 2).sum(0) <= 25
    return np.where(first | second, 900, -100).astype(np.int16), first, second


class Plugin:
    """Builds the requests of the plugin's `SlicerNNInteractive.py`, v0.3.2."""

    def __init__(self, url: str) -> None:
        self.url = url

    def image(self, image: NDArray[Any]) -> Any:
        buffer = io.BytesIO()
        np.save(buffer, image)
        files = {"file": ("volume.npy", buffer.getvalue(), "application/octet-stream")}
        return requests.post(f"{self.url}/upload_image", files=files, timeout=30)

    def packed(self, path: str, mask: NDArray[Any], **data: str) -> Any:
        buffer = io.BytesIO()
        np.save(buffer, mask)
        files = {"file": ("volume.npy.gz", gzip.compress(buffer.getvalue()), "application/octet-stream")}
        headers = {"Content-Encoding": "gzip"}
        return requests.post(f"{self.url}/{path}", files=files, data=data, headers=headers, timeout=30)

    def say(self, path: str, **body: Any) -> Any:
        return requests.post(f"{self.url}/{path}", json=body, timeout=30)


def unpacked(answer: Any) -> NDArray[np.bool_]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    bits = np.unpackbits(np.frombuffer(answer.content, np.uint8))
    return bits[: np.prod(SHAPE)].reshape(SHAPE).astype(bool)


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving() as served:
        yield served


@pytest.fixture
def plugin(server: Served) -> Plugin:
    plugin = Plugin(server.url)
    assert plugin.image(balls()[0]).json() == {"status": "ok"}
    return plugin


def test_a_prompt_without_an_image_makes_the_plugin_send_it() -> None:
    with serving() as served:
        plugin = Plugin(served.url)
        for answer in (
            plugin.say("add_point_interaction", voxel_coord=[1, 2, 3], positive_click=True),
            plugin.packed("upload_segment", np.zeros(SHAPE, bool)),
            plugin.packed("add_scribble_interaction", np.ones(SHAPE, np.uint8), positive_click="True"),
        ):
            assert answer.status_code == 200
            assert answer.json() == {"status": "error", "message": "No image uploaded"}
        assert requests.get(served.url, timeout=5).status_code < 500  # its connection test


def test_points_and_boxes_answer_with_the_whole_mask(plugin: Plugin) -> None:
    _, first, second = balls()
    mask = unpacked(plugin.say("add_point_interaction", voxel_coord=[15, 14, 14], positive_click=True))
    assert dice(mask, first) > 0.85
    mask = unpacked(plugin.say("add_point_interaction", voxel_coord=[15, 14, 20], positive_click=False))
    assert not mask[15, 14, 20]
    assert plugin.packed("upload_segment", np.zeros(SHAPE, bool)).json() == {"status": "ok"}
    # A corner may lie outside, for the plugin mirrors the other one; one axis has no width.
    box = {"outer_point_one": [15, 36, 38], "outer_point_two": [15, 24, 26]}
    mask = unpacked(plugin.say("add_bbox_interaction", **box, positive_click=True))
    assert dice(mask, second) > 0.7
    box = {"outer_point_one": [15, -5, 20], "outer_point_two": [15, 60, 50]}
    unpacked(plugin.say("add_bbox_interaction", **box, positive_click=False))


def test_scribbles_lassos_and_segments(plugin: Plugin) -> None:
    _, first, second = balls()
    scribble, lasso = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    scribble[15, 14, 9:20] = 1
    lasso[15] = second[15]
    mask = unpacked(plugin.packed("add_scribble_interaction", scribble, positive_click="True"))
    assert dice(mask, first) > 0.85
    mask = unpacked(plugin.packed("add_lasso_interaction", lasso, positive_click="true"))
    assert mask[15, 30, 32]
    both = first | second
    assert plugin.packed("upload_segment", both).json() == {"status": "ok"}
    mask = unpacked(plugin.say("add_point_interaction", voxel_coord=[15, 30, 32], positive_click=False))
    assert not mask[15, 30, 32]
    assert mask[first].mean() > 0.9


def test_malformed_files_are_refused(plugin: Plugin) -> None:
    def npy(text: bytes, raw: bytes = b"") -> bytes:
        return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + raw

    huge = b"{'descr':'<i2','fortran_order':False,'shape':(99999,99999,99999)}\n"
    for data in (
        b"",
        b"text",
        npy(huge),
        npy(b"{'descr':'|O','fortran_order':False,'shape':(1,1,1)}\n", bytes(8)),
        npy(b"{'descr':'<i2','fortran_order':False,'shape':(1,1,4)}\n", bytes(6)),
        npy(b"__import__('os')\n"),
    ):
        answer = requests.post(f"{plugin.url}/upload_image", files={"file": ("volume.npy", data)}, timeout=30)
        assert answer.status_code == 400
        assert "got" in answer.json()["detail"]
    bomb = {"file": ("m.npy.gz", gzip.compress(bytes(10**7)))}
    assert requests.post(f"{plugin.url}/upload_segment", files=bomb, timeout=30).status_code == 400
    assert plugin.packed("upload_segment", np.zeros((1, 2, 3), bool)).status_code == 400
    assert requests.post(f"{plugin.url}/upload_image", data=b"abc", timeout=30).status_code == 400
    assert (
        dice(unpacked(plugin.say("add_point_interaction", voxel_coord=[15, 14, 14], positive_click=True)), balls()[1])
        > 0.85
    )
