"""The HTTP API of the page in the browser: opening files, voxels to show, prompts, results to save."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from gstk._version import __version__
from gstk.cases.label_names import LabelName, object_colour
from gstk.cases.npz import Case
from gstk.server.leases import Lease
from gstk.server.page_prompts import MOST_OBJECTS, class_ids_of, names_of, object_id_of, prompt_of
from gstk.server.saving import has_source_uids, save_labels
from gstk.server.service import BadRequest, Service, read_json
from gstk.server.uploads import Upload
from gstk.server.workspace import Patch, Workspace

__all__ = ["routes"]

MOST_CLICKS = 300
"""That an answer lists: they travel in a header."""
_KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_SHOWN_PERCENTILES = (0.5, 99.5)
_REFINE = "refine"
"""The name of the call that makes final masks."""
_SENT_BYTES = 2**20


@dataclass
class PageState:
    """The state of a page, kept by the server so that reopening the page restores it.

    Attributes:
        names: of the objects, by id.
        upload: files that were sent and not opened yet.
        headers: of the DICOM slices that the image came as.
        notes: what is odd about the image.
        case: the image, its voxels uint8 or int16 as the page shows them; None before there is one.
        slope, intercept: from those voxels to the image's intensities.
    """

    case: Case | None = None

    names: dict[int, LabelName] = field(default_factory=dict)
    upload: Upload | None = None
    headers: list[Any] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    slope: float = 1.0
    intercept: float = 0.0

    def clear(self) -> None:
        """Deletes what was sent."""
        if self.upload is not None:
            self.upload.delete()
            self.upload = None


def routes(service: Service) -> list[Route]:
    """The page's files and its API."""
    endpoints = _Endpoints(service)
    return [
        Route("/", _page, methods=["GET"]),
        Route("/page/{name}", _page, methods=["GET"]),
        Route("/api/claim", endpoints.claim, methods=["POST"]),
        Route("/api/session", endpoints.session, methods=["POST"]),
        Route("/api/upload", endpoints.upload, methods=["PUT"]),
        Route("/api/open", endpoints.open, methods=["POST"]),
        Route("/api/voxels", endpoints.voxels, methods=["GET"]),
        Route("/api/labels", endpoints.labels, methods=["GET"]),
        Route("/api/prompt", endpoints.prompt, methods=["POST"]),
        Route("/api/refine", endpoints.refine, methods=["POST"]),
        Route("/api/mask", endpoints.mask, methods=["POST"]),
        Route("/api/cancel", endpoints.cancel, methods=["POST"]),
        Route("/api/status", endpoints.status, methods=["GET"]),
        Route("/api/objects", endpoints.objects, methods=["POST"]),
        Route("/api/save", endpoints.save, methods=["GET"]),
    ]


async def _page(request: Request) -> Response:
    name = request.path_params.get("name", "index.html")
    suffix = name[name.rfind(".") :]
    file = files("gstk.server") / "page" / name
    if suffix not in _KINDS or not re.fullmatch(r"[a-z0-9_]+\.[a-z]+", name) or not file.is_file():
        return JSONResponse({"detail": "there is no such file"}, 404)
    return Response(file.read_bytes(), media_type=_KINDS[suffix])


class _Endpoints:
    def __init__(self, service: Service) -> None:
        self.service = service

    def _page_state(self, lease: Lease) -> PageState:
        if not isinstance(lease.extra, PageState):
            lease.extra = PageState()
        return lease.extra

    def _classes(self, lease: Lease) -> list[str]:
        """What the network segments by name; nothing where it does not."""
        profile = lease.workspace.session.profile
        if "classes" not in profile.branches:
            return []
        untrained = profile.classes.untrained
        return sorted(name for key, name in profile.classes.names.items() if key not in untrained)

    def _case(self, lease: Lease) -> Case:
        case = self._page_state(lease).case
        if case is None:
            raise BadRequest("got no image, expected one to be opened before")
        return case

    async def claim(self, request: Request) -> Response:
        return JSONResponse({"lease": await self.service.claim_token(is_page=True)})

    async def session(self, request: Request) -> Response:
        lease, _ = self.service.lease(request), await read_json(request)
        self.service.leases.seen(lease)
        page, first = self._page_state(lease), self.service.first
        image = None if page.case is None else _described(page.case, lease.workspace, page)
        return JSONResponse(
            {
                "version": __version__,
                "licence": self.service.settings.licence,
                "first": None if first is None else first.name,
                "classes": self._classes(lease),
                "novel": lease.workspace.session.profile.tells_novel_objects,
                "image": image,
            }
        )

    async def upload(self, request: Request) -> Response:
        lease = self.service.lease(request)
        page = self._page_state(lease)
        name = request.query_params.get("name", "")
        with self.service.leases.acting(lease):
            if request.query_params.get("new") == "1" or page.upload is None:
                page.clear()
                page.upload = Upload(self.service.settings.upload_limit_bytes)
            try:
                await page.upload.add(name, request.stream())
            except BaseException:
                page.clear()
                raise
        return JSONResponse({})

    async def open(self, request: Request) -> Response:
        lease, body = self.service.lease(request), await read_json(request)
        page = self._page_state(lease)
        upload, page.upload = page.upload, None
        with self.service.leases.acting(lease):
            first = self.service.first
            if body.get("first") is True and first is not None:
                with self.service.admission.admit(first.image.size, first.image.dtype):
                    return await self._opened(request, lease, first, [], [])
            if upload is None:
                raise BadRequest("got nothing to open, expected files to be sent before")
            try:
                with self.service.admission.admit(*await run_in_threadpool(upload.stated_size)):
                    case, notes, headers = await run_in_threadpool(upload.read)
                    return await self._opened(request, lease, case, notes, headers)
            finally:
                await run_in_threadpool(upload.delete)

    async def _opened(
        self, request: Request, lease: Lease, case: Case, notes: list[str], headers: list[Any]
    ) -> Response:
        workspace, page = lease.workspace, self._page_state(lease)

        def take() -> None:
            workspace.set_image(case.volume)
            workspace.show_nothing(np.dtype(np.uint8))

        page.case = None
        await self.service.compute.cancel(lease, _REFINE)  # of the image before
        await self.service.act(request, lease, "image", take)
        page.names, page.headers, page.notes = {}, headers, [*notes, *workspace.notes]
        shown, page.slope, page.intercept = await run_in_threadpool(_shown, case)
        page.case = shown
        return JSONResponse(await run_in_threadpool(_described, shown, workspace, page))

    async def voxels(self, request: Request) -> Response:
        image = self._case(self.service.lease(request)).image
        voxels = np.ascontiguousarray(image).astype(image.dtype.newbyteorder("<"), copy=False)
        data = voxels.reshape(-1).view(np.uint8).data

        async def parts() -> AsyncIterator[bytes]:
            # Sent whole, the connection would hold a second volume, and a third while it writes.
            for start in range(0, len(data), _SENT_BYTES):
                yield bytes(data[start : start + _SENT_BYTES])

        headers = {"Content-Length": str(len(data))}
        return StreamingResponse(parts(), media_type="application/octet-stream", headers=headers)

    async def labels(self, request: Request) -> Response:
        lease = self.service.lease(request)
        workspace = lease.workspace

        def whole() -> Patch | None:
            workspace.show_nothing(np.dtype(np.uint8))
            return workspace.patch()

        patch = await self.service.act(request, lease, "mask", whole)
        return _patched(patch, {"clicks": _clicks(workspace, self._page_state(lease))})

    async def prompt(self, request: Request) -> Response:
        lease, body = self.service.lease(request), await read_json(request)
        workspace, page, began = lease.workspace, self._page_state(lease), time.monotonic()
        kind, object_id = body.get("kind"), object_id_of(body)
        work = prompt_of(workspace, body)

        def run() -> tuple[Patch | None, bool, float, str | None]:
            started = time.monotonic()
            done = work(object_id)
            spent_s = time.monotonic() - started
            patch, advice = workspace.patch(), None
            if kind == "point" and patch is None:
                advice = workspace.advice(workspace.session.prompts(object_id).points[-1], object_id)
            return patch, done, spent_s, advice

        await self.service.compute.cancel(lease, _REFINE)  # a prompt is answered first
        patch, done, spent_s, advice = await self.service.act(request, lease, str(kind), run)
        asks = kind not in ("undo", "redo", "reset")
        if kind == "class":
            table = workspace.session.profile.classes
            _name(page, {i: table.name_of(i) for i in class_ids_of(workspace, body.get("name"))})
        elif asks:
            _name(page, {object_id: f"object {object_id}"})
        said: dict[str, Any] = {
            "done": done,
            "seconds": round(time.monotonic() - began, 3),
            "session_seconds": round(spent_s, 3),
            "compromises": list(workspace.session.report.compromises) if asks else [],
            "clicks": _clicks(workspace, page),
            "is_final": workspace.session.is_final,
        }
        if kind == "class":
            said["names"] = _described_names(page)
        if advice is not None:
            said["advice"] = advice
        return _patched(patch, said)

    async def refine(self, request: Request) -> Response:
        """The final masks after prompts with `coarse_first`; a prompt that comes meanwhile ends it, answered by 409."""
        lease = self.service.lease(request)
        await read_json(request)
        workspace, page = lease.workspace, self._page_state(lease)

        def run() -> Patch | None:
            workspace.session.refine()
            return workspace.patch()

        patch = await self.service.act(request, lease, _REFINE, run)
        return _patched(patch, {"clicks": _clicks(workspace, page), "is_final": workspace.session.is_final})

    async def mask(self, request: Request) -> Response:
        lease = self.service.lease(request)
        await read_json(request)
        workspace, page, case = lease.workspace, self._page_state(lease), self._case(lease)
        upload, page.upload = page.upload, None
        if upload is None:
            raise BadRequest("got no mask, expected a file to be sent before")
        began = time.monotonic()
        with self.service.leases.acting(lease):
            try:
                labels, names = await run_in_threadpool(upload.read_labels, case)
            finally:
                await run_in_threadpool(upload.delete)
            ids = [int(i) for i in np.unique(labels) if i]
            if not ids or max(ids) > MOST_OBJECTS:
                raise BadRequest(f"got a mask of the ids {ids[-5:]}, expected some from 1 to {MOST_OBJECTS}")

            await self.service.compute.cancel(lease, _REFINE)  # as for a prompt

            def begin() -> Patch | None:
                for object_id in ids:
                    workspace.session.set_mask(labels == object_id, object_id)
                return workspace.patch()

            patch = await self.service.act(request, lease, "mask", begin)
        page.names |= {object_id: names[object_id] for object_id in ids if object_id in names}
        _name(page, {object_id: f"object {object_id}" for object_id in ids})
        spent_s = round(time.monotonic() - began, 3)
        said = {"done": True, "seconds": spent_s, "session_seconds": spent_s, "compromises": []}
        return _patched(patch, {**said, "clicks": _clicks(workspace, page), "names": _described_names(page)})

    async def cancel(self, request: Request) -> Response:
        return JSONResponse({"cancelled": await self.service.compute.cancel(self.service.lease(request))})

    async def status(self, request: Request) -> Response:
        lease = self.service.lease(request)
        self.service.leases.seen(lease)
        jobs = self.service.compute.jobs()
        own = next((index for index, job in enumerate(jobs) if job.owner is lease), None)
        running = None if own is None else jobs[own]
        began_s = None if running is None else running.began_s
        return JSONResponse(
            {
                "running": None if running is None else running.name,
                "seconds": 0.0 if began_s is None else round(time.monotonic() - began_s, 1),
                "before": own or 0,
                "windows": lease.workspace.progress,
                "has_image": lease.workspace.has_image,
            }
        )

    async def objects(self, request: Request) -> Response:
        lease, body = self.service.lease(request), await read_json(request)
        self._page_state(lease).names = names_of(body.get("objects"))
        return JSONResponse({})

    async def save(self, request: Request) -> Response:
        lease = self.service.lease(request)
        workspace, page, kind = lease.workspace, self._page_state(lease), request.query_params.get("format", "")

        case = self._case(lease)
        mask = await self.service.act(request, lease, "saving", lambda: workspace.session.mask)
        saved = await run_in_threadpool(save_labels, kind, mask, case, page.names, page.headers)
        headers = {"X-Meta": json.dumps({"name": saved.name})}
        return Response(saved.data, media_type=saved.media_type, headers=headers)


def _clicks(workspace: Workspace, page: PageState) -> list[dict[str, Any]]:
    """The latest clicks, as the page draws them."""
    clicks = [
        {"object": object_id, "voxel": list(point.zyx), "foreground": point.foreground}
        for object_id in page.names
        for point in workspace.session.prompts(object_id).points
    ]
    return clicks[-MOST_CLICKS:]


def _described(case: Case, workspace: Workspace, page: PageState) -> dict[str, Any]:
    """What the page needs to show an image."""
    sample = case.image[:: max(1, len(case.image) // 32), ::4, ::4]
    low, high = (float(v) for v in np.percentile(sample, _SHOWN_PERCENTILES))
    geometry = case.geometry
    return {
        "name": case.name,
        "shape": list(geometry.shape),
        "spacing_mm": list(geometry.spacing_mm),
        "direction": list(geometry.direction),
        "origin_mm": list(geometry.origin_mm),
        "dtype": case.image.dtype.name,
        "slope": page.slope,
        "intercept": page.intercept,
        "window": [v * page.slope + page.intercept for v in (low, max(high, low + 1))],
        "is_ct": workspace.intensities.startswith("CT"),
        "intensities": workspace.intensities,
        "notes": page.notes,
        "has_dicom": has_source_uids(page.headers),
        "names": _described_names(page),
    }


def _described_names(page: PageState) -> dict[int, dict[str, str]]:
    return {i: {"name": named.name, "colour": f"#{bytes(named.colour).hex()}"} for i, named in page.names.items()}


def _name(page: PageState, names: dict[int, str]) -> None:
    """Gives names and colours to objects that have none."""
    for object_id, name in names.items():
        page.names.setdefault(object_id, LabelName(name, object_colour(object_id)))


def _shown(case: Case) -> tuple[Case, float, float]:
    """The case with voxels as a page can show them, uint8 or int16, and what takes them back to intensities.

    Whole numbers stay as they are; fractions and large numbers are spread over int16, far finer than a screen shows and
    than the 256 levels that the network is given.
    """
    from dataclasses import replace

    image = case.image
    low, high = float(image.min()), float(image.max())
    if image.dtype.kind in "biu" and low >= -(2**15) and high < 2**15:
        dtype = np.uint8 if low >= 0 and high < 256 else np.int16
        return replace(case, image=image.astype(dtype, copy=False)), 1.0, 0.0
    slope = (high - low) / 65000 or 1.0
    spread = np.empty(image.shape, np.int16)
    for index, part in enumerate(image):
        spread[index] = np.rint((part.astype(np.float64) - low) / slope - 32500)
    return replace(case, image=spread), slope, low + 32500 * slope


def _patched(patch: Patch | None, said: dict[str, Any]) -> Response:
    box = None if patch is None else [[axis.start, axis.stop] for axis in patch.box]
    body = b"" if patch is None else patch.values.tobytes()
    headers = {"X-Meta": json.dumps({**said, "box": box}, separators=(",", ":"))}
    return Response(body, media_type="application/octet-stream", headers=headers)
