"""nnInteractive's wire protocol, version 2, as its client 2.6.0 speaks it: 3D Slicer, napari and MITK use it.

Arrays are in the order of the client's array, here (z,y,x); no origin or direction crosses the wire. What a user can
draw is never an error, for some clients take any error for a lost connection: points and boxes are clipped to the
image.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gstk.calibration import memory
from gstk.core.geometry import Geometry
from gstk.core.prompts import ObjectPrompts, Point, Voxel
from gstk.server.nnia import pack, stated_size, unpack
from gstk.server.service import BadRequest, Service, parse_object, read_body, read_json
from gstk.server.wire import box_of, clipped_box, clipped_voxel, numbers, volume_of
from gstk.server.workspace import Patch, Workspace
from gstk.session.strokes import lasso_points, plane_box_points, scribble_points

__all__ = ["SHARED_PATHS", "capabilities", "routes"]

CLIENT_VERSION = "2.6.0"
SHARED_PATHS = tuple(f"/add_{kind}_interaction" for kind in ("point", "bbox", "scribble", "lasso"))
"""Paths that the protocol before has, too."""
_BUFFER_KINDS = "bui"
Change = Callable[[ObjectPrompts], ObjectPrompts]
Answer = Callable[[Request], Awaitable[Response]]


def capabilities(licence: str) -> dict[str, Any]:
    """What the server can do. The channel fields describe nnInteractive's own network; clients only store them."""
    return {
        "supported_interactions": {"points": True, "bbox2d": True, "bbox3d": True, "scribble": True, "lasso": True},
        "channel_mapping": {
            "prev_seg": 0,
            "bbox2d": [1, 2],
            "bbox3d": [1, 2],
            "lasso": [1, 2],
            "points": [3, 4],
            "scribble": [5, 6],
        },
        "num_interaction_channels": 7,
        "supports_initial_label": True,
        "supports_zero_shot_label_refinement": True,
        "preferred_scribble_thickness": [2, 2, 2],
        "interaction_decay": 1.0,
        "do_autozoom": True,
        "inference_session_version": CLIENT_VERSION,
        "license": licence,
        "supports_undo": True,
    }


def routes(service: Service, legacy: Callable[[str, Answer], Answer] | None) -> list[Route]:
    """The endpoints.

    Args:
        legacy: what answers a path of `SHARED_PATHS`, given its path and what answers it here; None for the latter.
    """
    endpoints = _Endpoints(service)
    post: dict[str, Answer] = {
        "/claim": endpoints.claim,
        "/release": endpoints.release,
        "/heartbeat": endpoints.heartbeat,
        "/set_image": endpoints.set_image,
        "/set_target_buffer": endpoints.set_target_buffer,
        "/set_do_autozoom": endpoints.set_do_autozoom,
        "/reset_interactions": endpoints.reset_interactions,
        "/undo": endpoints.undo,
        "/predict": endpoints.predict,
        "/add_point_interaction": endpoints.add_point,
        "/add_bbox_interaction": endpoints.add_bbox,
        "/add_scribble_interaction": endpoints.add_scribble,
        "/add_lasso_interaction": endpoints.add_lasso,
        "/add_initial_seg_interaction": endpoints.add_initial_seg,
    }
    if legacy is not None:
        post |= {path: legacy(path, post[path]) for path in SHARED_PATHS}
    get = {
        "/healthz": endpoints.healthz,
        "/capabilities": endpoints.capabilities,
        "/lease_status": endpoints.lease_status,
    }
    return [
        *(Route(path, call, methods=["POST"]) for path, call in post.items()),
        *(Route(path, call, methods=["GET"]) for path, call in get.items()),
    ]


class _Endpoints:
    def __init__(self, service: Service) -> None:
        self.service = service

    async def healthz(self, request: Request) -> Response:
        return JSONResponse({"ok": True})

    async def capabilities(self, request: Request) -> Response:
        return JSONResponse(capabilities(self.service.settings.licence))

    async def claim(self, request: Request) -> Response:
        token = await self.service.claim_token()
        clocks = self.service.settings.clocks
        return JSONResponse(
            {
                "lease_token": token,
                "idle_timeout_seconds": clocks.idle_s,
                "liveness_timeout_seconds": clocks.liveness_s,
                "max_sessions": self.service.settings.max_sessions,
            }
        )

    async def release(self, request: Request) -> Response:
        lease = self.service.leases.release(request.headers.get("x-lease-token"))
        if lease is not None:
            await self.service.end(lease)
        return JSONResponse({"released": True})

    async def heartbeat(self, request: Request) -> Response:
        lease = self.service.lease(request)
        self.service.leases.seen(lease)
        return JSONResponse({"remaining_seconds": self.service.leases.remaining_s(lease)})

    async def lease_status(self, request: Request) -> Response:
        remaining_s = self.service.leases.remaining_s(self.service.lease(request))
        idle_s = self.service.settings.clocks.idle_s
        return JSONResponse({"remaining_seconds": remaining_s, "idle_timeout_seconds": idle_s})

    async def set_image(self, request: Request) -> Response:
        lease = self.service.lease(request)
        spacing_mm = _spacing(_meta(request))
        with self.service.leases.acting(lease):  # an upload may take longer than the clocks allow
            body = await read_body(request)
            with self.service.admission.admit(*stated_size(body, 4)):
                array = await self._unpacked(body, 4)
                if array.shape[0] != 1:
                    raise BadRequest(f"got an image of {array.shape[0]} channels, expected 1")
                volume = await run_in_threadpool(volume_of, array[0], spacing_mm)
                del body
                await self.service.act(request, lease, "image", lambda: lease.workspace.set_image(volume))
        return JSONResponse({"original_image_shape": list(array.shape)})

    async def set_target_buffer(self, request: Request) -> Response:
        lease, body = self.service.lease(request), await read_json(request)
        workspace = lease.workspace
        shape, dtype = body.get("shape"), _buffer_dtype(body.get("dtype"))

        def take() -> None:
            expected = workspace.geometry.shape
            if not isinstance(shape, list) or [*shape] != [*expected]:
                raise BadRequest(f"got a target buffer of shape {shape!r:.80}, expected the image's {list(expected)}")
            workspace.show_nothing(dtype)

        await self.service.act(request, lease, "target buffer", take)
        return JSONResponse({})

    async def set_do_autozoom(self, request: Request) -> Response:
        lease, body = self.service.lease(request), await read_json(request)
        if not isinstance(body.get("do_autozoom"), bool):
            raise BadRequest("got no do_autozoom, expected true or false")
        with self.service.leases.acting(lease):  # windows follow the object whatever is set
            return JSONResponse({})

    async def reset_interactions(self, request: Request) -> Response:
        lease, _ = self.service.lease(request), await read_json(request)
        workspace = lease.workspace

        def reset() -> None:
            workspace.reset()
            if workspace.shown is not None:
                workspace.show_nothing(workspace.shown.dtype)

        await self.service.act(request, lease, "reset", reset)
        return JSONResponse({})

    async def undo(self, request: Request) -> Response:
        await read_json(request)
        return await self._predicting(request, "undo", lambda workspace: workspace.undo())

    async def predict(self, request: Request) -> Response:
        await read_json(request)
        return await self._predicting(request, "prediction", lambda workspace: workspace.predict())

    async def add_point(self, request: Request) -> Response:
        self.service.lease(request)
        body = await read_json(request)
        place, foreground = numbers(body.get("coordinates"), "coordinates", 3), _foreground(body)

        def point(geometry: Geometry) -> tuple[Point, ...]:
            return (Point(clipped_voxel(place, geometry), foreground),)

        return await self._prompted(request, "point", body, point)

    async def add_bbox(self, request: Request) -> Response:
        self.service.lease(request)
        body = await read_json(request)
        box, foreground = box_of(body.get("bbox_coords")), _foreground(body)
        if any(low == high for low, high in box):
            raise BadRequest(f"got the box {box}, expected sides above 0")

        def points(geometry: Geometry) -> tuple[Point, ...]:
            low, high = clipped_box(box, geometry)
            return plane_box_points(low, high, geometry, foreground)

        def boxed(geometry: Geometry) -> Change:
            low, high = clipped_box(box, geometry)
            if foreground and all(a < b for a, b in zip(low, high, strict=True)):
                return _with_box(low, high)
            return _with_points(points(geometry))

        return await self._changed(request, "box", body, boxed)

    async def add_scribble(self, request: Request) -> Response:
        return await self._drawn(request, "scribble", scribble_points)

    async def add_lasso(self, request: Request) -> Response:
        return await self._drawn(request, "lasso", lasso_points)

    async def add_initial_seg(self, request: Request) -> Response:
        lease, meta = self.service.lease(request), _meta(request)
        predicts = meta.get("run_prediction", False) is True
        workspace = lease.workspace
        with self.service.leases.acting(lease):
            mask = await self._array(request, 3)

            def begin() -> None:
                if mask.shape != workspace.geometry.shape:
                    expected = workspace.geometry.shape
                    raise BadRequest(f"got an initial mask of shape {mask.shape}, expected the image's {expected}")
                workspace.queued.clear()
                workspace.session.set_mask(mask)
                if workspace.shown is not None:
                    workspace.show(mask.astype(workspace.shown.dtype))  # as the client does by itself

            await self.service.act(request, lease, "initial mask", begin)
        return await _prediction(None, predicts)

    async def _drawn(
        self, request: Request, name: str, lower: Callable[[NDArray[np.bool_], Geometry, bool], tuple[Point, ...]]
    ) -> Response:
        lease, meta = self.service.lease(request), _meta(request)
        foreground = _foreground(meta)
        place = None if meta.get("interaction_bbox") is None else box_of(meta["interaction_bbox"])
        with self.service.leases.acting(lease):
            drawing = (await self._array(request, 3)) != 0

            def points(geometry: Geometry) -> tuple[Point, ...]:
                whole = _placed(drawing, place, geometry)
                return lower(whole, geometry, foreground) if whole.any() else ()

            return await self._prompted(request, name, meta, points)

    async def _prompted(
        self, request: Request, name: str, said: dict[str, Any], points: Callable[[Geometry], tuple[Point, ...]]
    ) -> Response:
        return await self._changed(request, name, said, lambda geometry: _with_points(points(geometry)))

    async def _changed(
        self, request: Request, name: str, said: dict[str, Any], change: Callable[[Geometry], Change]
    ) -> Response:
        predicts = said.get("run_prediction", True) is not False

        def work(workspace: Workspace) -> bool:
            workspace.queued.append(change(workspace.geometry))
            if not predicts:
                return False
            try:
                return workspace.predict()
            except BaseException:
                workspace.queued.pop()  # the client thinks of it as refused
                raise

        return await self._predicting(request, name, work)

    async def _predicting(self, request: Request, name: str, work: Callable[[Workspace], bool]) -> Response:
        lease = self.service.lease(request)
        workspace = lease.workspace

        def run() -> tuple[Patch | None, bool]:
            ran = work(workspace)
            return (workspace.patch() if ran else None), ran

        return await _prediction(*await self.service.act(request, lease, name, run))

    async def _array(self, request: Request, ndim: int) -> NDArray[np.generic]:
        return await self._unpacked(await read_body(request), ndim)

    async def _unpacked(self, body: bytearray, ndim: int) -> NDArray[np.generic]:
        most = min(self.service.settings.upload_limit_bytes, memory.free_bytes())
        return await run_in_threadpool(unpack, body, ndim, most)


async def _prediction(patch: Patch | None, ran: bool) -> Response:
    meta: dict[str, Any] = {"ran_prediction": ran, "bbox": None}
    body = b""
    if patch is not None:
        box = [[axis.start, axis.stop] for axis in patch.box]
        meta |= {"bbox": box, "dtype": patch.values.dtype.name, "shape": list(patch.values.shape)}
        body = await run_in_threadpool(pack, patch.values)
    headers = {"X-Meta": json.dumps(meta, separators=(",", ":"))}
    return Response(body, media_type="application/octet-stream", headers=headers)


def _with_points(points: Sequence[Point]) -> Change:
    return lambda said: replace(said, points=(*said.points, *points))


def _with_box(low: Voxel, high: Voxel) -> Change:
    from gstk.core.prompts import Box

    return lambda said: replace(said, box=Box.from_corners((low, high)))


def _placed(drawing: NDArray[np.bool_], place: list[list[float]] | None, geometry: Geometry) -> NDArray[np.bool_]:
    """A drawing on the whole volume."""
    if place is None:
        if drawing.shape != geometry.shape:
            raise BadRequest(f"got a drawing of shape {drawing.shape}, expected the image's {geometry.shape}")
        return drawing
    box = [[round(low), round(high)] for low, high in place]
    inside = all(0 <= low < high <= n for (low, high), n in zip(box, geometry.shape, strict=True))
    if not inside or drawing.shape != tuple(high - low for low, high in box):
        raise BadRequest(f"got a drawing of shape {drawing.shape} for {box}, expected that box inside {geometry.shape}")
    whole = np.zeros(geometry.shape, bool)
    whole[tuple(slice(low, high) for low, high in box)] = drawing
    return whole


def _meta(request: Request) -> dict[str, Any]:
    return parse_object(request.headers.get("x-meta") or "{}", "an X-Meta header")


def _spacing(meta: dict[str, Any]) -> tuple[float, float, float]:
    properties = meta.get("image_properties")
    given = properties.get("spacing") if isinstance(properties, dict) else None
    if given is None:
        return (1.0, 1.0, 1.0)
    z, y, x = map(abs, numbers(given, "spacing", 3))  # napari turns a NIfTI's axes by negative scales
    if min(z, y, x) == 0:
        raise BadRequest(f"got the spacing {(z, y, x)}, expected mm above 0")
    return z, y, x


def _foreground(said: dict[str, Any]) -> bool:
    foreground = said.get("include_interaction")
    if not isinstance(foreground, bool):
        raise BadRequest("got no include_interaction, expected true or false")
    return foreground


def _buffer_dtype(name: object) -> np.dtype[np.integer]:
    try:
        dtype = np.dtype(name) if isinstance(name, str) and len(name) < 20 else None
    except TypeError:
        dtype = None
    if dtype is None or dtype.kind not in _BUFFER_KINDS:
        raise BadRequest(f"got a target buffer of {name!r:.40}, expected booleans or integers")
    return dtype
