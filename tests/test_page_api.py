"""What the page asks of the server, asked without a browser; and what a stranger may send it."""

from __future__ import annotations

import gzip
import http.client
import io
import json
import stat
import struct
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("starlette")

import SimpleITK
from flood import POLICY, FloodEngine, Gate
from served import TOKEN, Served, serving

from gstk.cases.npz import Case
from gstk.core.geometry import Geometry
from gstk.core.profile import find_profile
from gstk.server.service import Settings
from gstk.session.session import Session

SHAPE = (24, 40, 48)


def ball() -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    grid = np.indices(SHAPE)
    inside = ((grid - np.array([12, 20, 20])[:, None, None, None]) ** 2).sum(0) <= 49
    return np.where(inside, 900, -100).astype(np.int16), inside


def as_npz(image: NDArray[np.int16]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, imgs=image, spacing=np.ones(3))
    return buffer.getvalue()


class Page:
    """A page's requests."""

    def __init__(self, served: Served, lease: str | None = None, token: str = TOKEN) -> None:
        self.served, self.lease, self.token = served, lease, token
        self.lease = self.lease or self.json("POST", "/api/claim")["lease"]
        self.found = self.json("POST", "/api/session")

    def ask(self, method: str, path: str, body: bytes = b"", token: str = "") -> tuple[int, dict[str, Any], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.served.port, timeout=30)
        headers = {"Authorization": f"Bearer {token or self.token}", "X-Lease-Token": self.lease or ""}
        headers |= {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        meta = json.loads(answer.headers["X-Meta"] or "{}") if "X-Meta" in answer.headers else {}
        connection.close()
        return answer.status, meta, data

    def json(self, method: str, path: str, body: Any = None) -> Any:
        status, _, data = self.ask(method, path, json.dumps(body or {}).encode())
        assert status == 200, data
        return json.loads(data)

    def refused(self, method: str, path: str, body: bytes = b"{}", status: int = 400) -> str:
        found, _, data = self.ask(method, path, body)
        assert found == status, data
        return str(json.loads(data)["detail"])

    def send(self, name: str, data: bytes, new: bool = True) -> int:
        return self.ask("PUT", f"/api/upload?new={int(new)}&name={quote(name)}", data)[0]

    def open(self, name: str, data: bytes) -> Any:
        assert self.send(name, data) == 200
        return self.json("POST", "/api/open")

    def refine_meanwhile(self) -> tuple[threading.Thread, list[int]]:
        """A thread that asks for the finer mask, and where the status of the answer comes to stand."""
        answers: list[int] = []
        thread = threading.Thread(target=lambda: answers.append(self.ask("POST", "/api/refine", b"{}")[0]))
        thread.start()
        return thread, answers

    def prompt(self, **body: Any) -> tuple[dict[str, Any], NDArray[np.uint8] | None]:
        status, meta, data = self.ask("POST", "/api/prompt", json.dumps(body).encode())
        assert status == 200, data
        box = meta["box"]
        return meta, None if box is None else np.frombuffer(data, np.uint8).reshape([b - a for a, b in box])


def test_a_coarse_mask_comes_first_and_prompts_end_what_refines_it() -> None:
    image, truth = ball()
    engine = Gate()
    with serving(engine=engine) as served:
        page = Page(served)
        page.open("ball.npz", as_npz(image))
        first, box = page.prompt(kind="point", voxel=[12, 20, 20], foreground=True, coarse_first=True)
        assert box is not None
        assert not first["is_final"]
        engine.waiting.clear()
        refining, answers = page.refine_meanwhile()
        assert engine.waiting.wait(30)
        second, _ = page.prompt(kind="point", voxel=[12, 20, 24], foreground=True, coarse_first=True)
        refining.join(30)
        assert answers == [409]
        assert not second["is_final"]
        engine.open.set()
        status, meta, _ = page.ask("POST", "/api/refine", b"{}")
        assert status == 200
        assert meta["is_final"]
        assert len(meta["clicks"]) == 2
        _, meta, data = page.ask("GET", "/api/labels")
        labels = np.zeros(SHAPE, np.uint8)
        labels[tuple(slice(a, b) for a, b in meta["box"])] = np.frombuffer(data, np.uint8).reshape(
            [b - a for a, b in meta["box"]]
        )
        assert 2 * (labels.astype(bool) & truth).sum() / (labels.astype(bool).sum() + truth.sum()) > 0.9
        plain, _ = page.prompt(kind="reset", object=1)
        assert plain["is_final"]
        assert page.prompt(kind="point", voxel=[12, 20, 20], foreground=True)[0]["is_final"]


def test_another_scan_does_not_wait_for_what_is_refined_of_the_one_before() -> None:
    image, _ = ball()
    engine = Gate()
    with serving(engine=engine) as served:
        page = Page(served)
        page.open("ball.npz", as_npz(image))
        page.prompt(kind="point", voxel=[12, 20, 20], foreground=True, coarse_first=True)
        refining, answers = page.refine_meanwhile()
        while page.json("GET", "/api/status")["running"] != "refine":
            time.sleep(0.01)
        assert page.open("next.npz", as_npz(image))["name"] == "next"  # while the engine still computes
        refining.join(30)
        assert answers == [409]
        engine.open.set()


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving(Settings(page_token=TOKEN, upload_limit_bytes=2**20, max_sessions=50)) as served:
        yield served


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the server's temporary folders come to lie."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def page(server: Served, temporary: Path) -> Page:
    return Page(server)


def nifti(image: NDArray[Any], tmp_path: Path, suffix: str = ".nii.gz") -> bytes:
    file = tmp_path.parent / f"image{suffix}"
    made = SimpleITK.GetImageFromArray(image)
    made.SetSpacing((1.0, 1.25, 2.0))
    made.SetOrigin((5, -7, 11))
    SimpleITK.WriteImage(made, str(file))
    return file.read_bytes()


def test_a_scan_is_opened_clicked_and_saved(page: Page, tmp_path: Path) -> None:
    image, inside = ball()
    found = page.open("my scan.nii.gz", nifti(image, tmp_path))
    assert found["name"] == "my scan"
    assert found["shape"] == list(SHAPE)
    assert found["spacing_mm"] == [2.0, 1.25, 1.0]
    assert found["dtype"] == "int16"
    assert not list(tmp_path.iterdir())  # nothing is left of the upload
    status, _, data = page.ask("GET", "/api/voxels")
    assert status == 200
    np.testing.assert_array_equal(np.frombuffer(data, "<i2").reshape(SHAPE), image)
    meta, values = page.prompt(kind="point", voxel=[12, 20, 20], foreground=True, object=3)
    assert values is not None
    mask = np.zeros(SHAPE, np.uint8)
    mask[tuple(slice(*ends) for ends in meta["box"])] = values
    assert set(np.unique(mask)) == {0, 3}
    assert 2 * ((mask == 3) & inside).sum() / ((mask == 3).sum() + inside.sum()) > 0.85
    page.json("POST", "/api/objects", {"objects": [{"id": 3, "name": "the ball", "colour": "#0080ff"}]})
    for kind, suffix in (("nii.gz", ".nii.gz"), ("seg.nrrd", ".seg.nrrd")):
        status, said, data = page.ask("GET", f"/api/save?format={kind}")
        assert status == 200
        assert said["name"] == f"my scan_mask.{kind}"
        file = tmp_path / f"saved{suffix}"
        file.write_bytes(data)
        saved = SimpleITK.ReadImage(str(file))
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(saved), mask)
        np.testing.assert_allclose(saved.GetSpacing(), (1.0, 1.25, 2.0))
        np.testing.assert_allclose(saved.GetOrigin(), (5, -7, 11))
    assert saved.GetMetaData("Segment0_Name") == "the ball"
    assert saved.GetMetaData("Segment0_LabelValue") == "3"
    np.testing.assert_allclose(
        [float(v) for v in saved.GetMetaData("Segment0_Color").split()], [0, 128 / 255, 1], atol=1e-5
    )
    _, _, data = page.ask("GET", "/api/save?format=npz")
    np.testing.assert_array_equal(np.load(io.BytesIO(data))["segs"], mask)
    again = Page(page.served, page.lease)
    assert again.lease == page.lease
    assert again.found["image"]["names"]["3"]["name"] == "the ball"
    _, labels, data = again.ask("GET", "/api/labels")
    box = tuple(slice(*ends) for ends in labels["box"])
    np.testing.assert_array_equal(np.frombuffer(data, np.uint8).reshape(mask[box].shape), mask[box])
    assert labels["clicks"] == [{"object": 3, "voxel": [12, 20, 20], "foreground": True}]


def test_prompts_change_only_what_they_say(page: Page, tmp_path: Path) -> None:
    image, _ = ball()
    page.open("a.nrrd", nifti(image, tmp_path, ".nrrd"))
    meta, values = page.prompt(kind="point", voxel=[0, 0, 0], foreground=False)
    assert values is None
    assert "click on the object first" in meta["advice"]
    page.prompt(kind="undo")
    page.prompt(kind="point", voxel=[12, 20, 20], foreground=True)
    meta, values = page.prompt(kind="point", voxel=[2, 3, 4], foreground=False)
    assert values is None
    assert "outside the mask already" in meta["advice"]
    meta, values = page.prompt(kind="scribble", path=[[12, 25, 18], [12, 25, 22]], foreground=False)
    assert values is not None
    assert values.min() == 0
    meta, values = page.prompt(kind="undo")
    assert values is not None
    assert meta["done"] is True
    meta, _ = page.prompt(kind="redo")
    assert len(meta["clicks"]) == 3
    meta, values = page.prompt(kind="reset")
    assert values is not None
    assert not values.any()
    assert meta["clicks"] == []
    meta, values = page.prompt(kind="box", low=[12, 13, 13], high=[12, 27, 27], foreground=True)
    assert values is not None
    assert values.any()
    page.prompt(kind="reset")
    circle = [[12, 20 + round(9 * np.sin(t)), 20 + round(9 * np.cos(t))] for t in np.linspace(0, 6.2, 30)]
    _, values = page.prompt(kind="lasso", path=circle, foreground=True)
    assert values is not None
    assert values.sum() > 500
    assert page.prompt(kind="undo")[0]["done"] is True
    assert page.prompt(kind="undo")[0]["done"] is False


def test_fractions_are_shown_finely_and_segmented_as_they_are(page: Page, tmp_path: Path) -> None:
    _, inside = ball()
    image = np.where(inside, 3e-4, 1e-4).astype(np.float32)
    found = page.open("map.nii", nifti(image, tmp_path, ".nii"))
    assert not found["is_ct"]  # the numbers that stand for the voxels reach far below -900
    _, _, data = page.ask("GET", "/api/voxels")
    shown = np.frombuffer(data, "<i2").reshape(SHAPE) * found["slope"] + found["intercept"]
    np.testing.assert_allclose(shown, image, atol=2e-4 / 60000)
    low, high = found["window"]
    assert 0.9e-4 < low < high < 3.1e-4
    _, values = page.prompt(kind="point", voxel=[12, 20, 20], foreground=True)
    assert values is not None


def test_a_volume_given_at_the_start_is_opened_by_every_page() -> None:
    image, _ = ball()
    first = Case("first", image, Geometry(SHAPE, (1, 1, 1)))
    with serving(Settings(page_token=TOKEN), first=first) as served:
        for page in (Page(served), Page(served)):
            assert page.found["first"] == "first"
            assert page.json("POST", "/api/open", {"first": True})["name"] == "first"
            assert page.prompt(kind="point", voxel=[12, 20, 20], foreground=True)[1] is not None


def test_the_pages_files_are_there_and_no_others(page: Page) -> None:
    for name, kind in (("", b"<!doctype html>"), ("page/app.js", b"import"), ("page/page.css", b":root")):
        status, _, data = page.ask("GET", f"/{name}", token="none")
        assert status == 200
        assert kind in data
    for name in ("page/..%2f__init__.py", "page/../run.py", "page/%2e%2e/run.py", "page/nothing.js", "page/app.py"):
        assert page.ask("GET", f"/{name}")[0] in (401, 404)
    assert page.ask("POST", "/api/session", token="wrong")[0] == 401


def test_the_page_is_small_and_asks_nobody_else() -> None:
    import gstk.server

    folder = Path(gstk.server.__file__).parent / "page"
    sources = {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir()}
    assert sum(len(text.encode()) for text in sources.values()) <= 60_000
    for name, text in sources.items():
        assert "http://" not in text, name
        assert "https://" not in text, name
        assert "eval(" not in text, name
        assert "innerHTML" not in text, name
        assert " style=" not in text, name  # the policy forbids it


def test_files_lie_in_a_private_folder_under_names_of_our_own(page: Page, temporary: Path) -> None:
    image, _ = ball()
    data = nifti(image, temporary)
    for name in (
        "../../../../tmp/x.nii.gz",
        "..\\..\\x.nii.gz",
        "/etc/passwd.nii.gz",
        "a\x00b.nii.gz",
        "x" * 999 + ".nii.gz",
    ):
        assert page.send(name, data) == 200
        (folder,) = temporary.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert [file.name[:5] for file in folder.iterdir()] == ["00000"]
    assert page.json("POST", "/api/open")["shape"] == list(SHAPE)
    assert not list(temporary.iterdir())
    page.send("b.nii.gz", data)
    assert page.ask("POST", "/release")[0] == 200
    assert not list(temporary.iterdir())


def detached_nrrd(target: Path) -> bytes:
    return (f"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 4 4\nencoding: raw\ndata file: {target}\n\n").encode()


def detached_mha(target: Path) -> bytes:
    return (
        "ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementType = MET_UCHAR\n"
        f"ElementSpacing = 1 1 1\nElementDataFile = {target}\n"
    ).encode()


def test_no_file_of_this_machine_can_be_read_through_a_header(page: Page, temporary: Path) -> None:
    secret = temporary.parent / "secret"
    secret.write_bytes(bytes(range(64)))
    for name, data in [
        ("a.nrrd", detached_nrrd(secret)),
        ("a.nrrd", detached_nrrd(secret).replace(b"data file", b"DATAFILE")),
        ("a.nrrd", detached_nrrd(secret).replace(b"\n", b"\r\n")),
        ("a.mha", detached_mha(secret)),
        ("a.mha", detached_mha(secret).replace(b"\nElementDataFile =", b"\n  ElementDataFile=")),
    ]:
        assert page.send(name, data) == 200
        detail = page.refused("POST", "/api/open")
        assert str(temporary) not in detail
    for name in ("a.mhd", "a.nhdr", "a.raw"):
        assert "second file" in page.refused("PUT", f"/api/upload?new=1&name={name}")
    assert not list(temporary.iterdir())


def test_what_cannot_be_read_says_so_without_the_folder(page: Page, temporary: Path) -> None:
    image, _ = ball()
    good = nifti(image, temporary)
    for name, data in [
        ("noise.nii.gz", b"\x1f\x8b" + bytes(range(200))),
        ("cut.nii.gz", good[: len(good) // 2]),
        ("empty.nii", b""),
        ("text.dcm", b"hello"),
        ("noise.npz", b"PK\x03\x04" + bytes(50)),
        ("noise.mha", b"ElementDataFile = LOCAL\n"),
    ]:
        page.send(name, data)
        detail = page.refused("POST", "/api/open")
        assert str(temporary) not in detail
        assert "gstk-upload" not in detail
        assert "\n" not in detail
        assert not list(temporary.iterdir())
    page.send("a.nii.gz", good)
    page.send("b.nii.gz", good, new=False)
    assert "one volume" in page.refused("POST", "/api/open")
    assert "nothing to open" in page.refused("POST", "/api/open")


def test_files_that_unpack_to_more_than_they_may_are_refused_before_that(page: Page, temporary: Path) -> None:
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, 2000, 2000, 2000, 1, 1, 1, 1)
    struct.pack_into("<hh", header, 70, 2, 8)
    struct.pack_into("<8f", header, 76, 1, 1, 1, 1, 0, 0, 0, 0)
    struct.pack_into("<f", header, 108, 352)
    header[344:348] = b"n+1\0"
    bomb = gzip.compress(bytes(header) + bytes(10**6))
    page.send("bomb.nii.gz", bomb)
    assert "at most" in page.refused("POST", "/api/open")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("imgs.npy", bytes(10**8))
    assert len(buffer.getvalue()) < 2**20
    page.send("bomb.npz", buffer.getvalue())
    assert "at most" in page.refused("POST", "/api/open")
    assert page.ask("PUT", "/api/upload?new=1&name=a.nii", bytes(2**20 + 1))[0] == 413
    assert page.send("a.nii", bytes(2**19)) == 200
    assert page.send("b.nii", bytes(2**19), new=False) == 200
    assert "GB" in page.refused("PUT", "/api/upload?name=c.nii", bytes(2**19))
    assert not list(temporary.iterdir())


def test_prompts_that_no_page_sends_are_refused(page: Page, tmp_path: Path) -> None:
    assert "image" in page.refused("POST", "/api/prompt", b'{"kind":"point"}')
    for path in ("/api/voxels", "/api/save?format=nii.gz"):
        assert "image" in page.refused("GET", path, b"")
    page.open("a.nii.gz", nifti(ball()[0], tmp_path))
    point = {"kind": "point", "voxel": [1, 2, 3], "foreground": True}
    for change in (
        {"kind": "nothing"},
        {"kind": ["point"]},
        {"voxel": [1, 2]},
        {"voxel": [1.5, 2, 3]},
        {"voxel": [True, 2, 3]},
        {"voxel": [24, 0, 0]},
        {"voxel": [-1, 0, 0]},
        {"foreground": 1},
        {"object": 0},
        {"object": 256},
        {"object": "1"},
        {"kind": "scribble", "path": []},
        {"kind": "scribble", "path": [[0, 0, 0]] * 4001},
        {"kind": "lasso", "path": "abc"},
        {"kind": "box", "low": [3, 3, 3], "high": [1, 1, 1]},
    ):
        assert "got" in page.refused("POST", "/api/prompt", json.dumps(point | change).encode())
    for objects in ("x", [{"id": 1}], [{"id": 1, "colour": "red"}], [{"id": 0, "colour": "#000000"}]):
        assert "got" in page.refused("POST", "/api/objects", json.dumps({"objects": objects}).encode())
    assert "format" in page.refused("GET", "/api/save?format=exe", b"")
    assert "DICOM" in page.refused("GET", "/api/save?format=dcm", b"")
    assert page.prompt(**point)[0]["done"] is True


def test_a_saved_segmentation_is_gone_on_from_with_its_names(page: Page, tmp_path: Path) -> None:
    image, _ = ball()
    page.open("a.nii.gz", nifti(image, tmp_path))
    _, values = page.prompt(kind="point", object=3, voxel=[12, 20, 20], foreground=True)
    assert values is not None
    page.json("POST", "/api/objects", {"objects": [{"id": 3, "name": "the ball", "colour": "#0080ff"}]})
    _, _, saved = page.ask("GET", "/api/save?format=seg.nrrd")
    other = Page(page.served)
    other.open("a.nii.gz", nifti(image, tmp_path))
    assert "expected a file to be sent before" in other.refused("POST", "/api/mask")
    assert other.send("mask.seg.nrrd", saved) == 200
    status, meta, data = other.ask("POST", "/api/mask", b"{}")
    assert status == 200
    assert meta["names"] == {"3": {"name": "the ball", "colour": "#0080ff"}}
    assert np.frombuffer(data, np.uint8).sum() == values.sum()
    assert other.send("empty.nii.gz", nifti(0 * image, tmp_path)) == 200
    assert "expected some from 1 to 255" in other.refused("POST", "/api/mask")


def test_a_click_on_an_object_of_no_trained_class(temporary: Path) -> None:
    labels_seen: list[NDArray[np.int64]] = []

    class Recording(FloodEngine):
        def decode(self, embedding: Any, coords: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float32]:
            labels_seen.append(labels)
            return super().decode(embedding, coords, np.where(labels >= 4, labels - 4, labels))

    by_profile = {}
    for name in ("nv-segment-ct", "nv-segment-ctmr", "tiny"):
        session = Session(Recording(), POLICY, profile=replace(find_profile(name), patch=(32, 32, 32)))  # type: ignore[arg-type]
        with serving(Settings(page_token=TOKEN), session) as served:
            page = Page(served)
            by_profile[name] = page.found["novel"]
            if name != "nv-segment-ct":
                continue
            page.open("ct.nii.gz", nifti(ball()[0], temporary))
            page.prompt(kind="point", voxel=[12, 20, 20], foreground=True, object=1)
            page.prompt(kind="point", voxel=[12, 20, 20], foreground=True, object=2, novel=True)
            page.prompt(kind="point", voxel=[12, 24, 20], foreground=False, object=2)  # it stays so
            assert [sorted(set(labels.ravel())) for labels in labels_seen] == [[1], [5], [4, 5]]
            said = page.refused(
                "POST",
                "/api/prompt",
                json.dumps({"kind": "point", "voxel": [1, 1, 1], "foreground": True, "novel": "yes"}).encode(),
            )
            assert said == "got novel 'yes', expected true or false"
    assert by_profile == {"nv-segment-ct": True, "nv-segment-ctmr": False, "tiny": False}
