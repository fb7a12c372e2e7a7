"""The protocol of ITK-SNAP's deep-learning extension (itksnap-dls 0.1): an id in the path, whole masks as answers.

ITK-SNAP 4.4 uses the paths as they are, its later source those behind `/v2`; both are served. No key can be given
there, and plain GETs change things: so the server offers it only where it was asked to.
"""

from __future__ import annotations

import base64
import gzip
import math
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gstk._version import __version__
from gstk.core.geometry import Geometry
from gstk.core.prompts import Point
from gstk.server.leases import Lease, LeaseLost
from gstk.server.multipart import form_fields
from gstk.server.service import BadRequest, Service, parse_object, read_body
from gstk.server.wire import clipped_voxel, numbers, volume_of
from gstk.session.strokes import lasso_points, scribble_points

__all__ = ["routes"]

MODEL = "gstk"
_FLOAT = np.dtype("<f4")
Answer = Callable[[Request], Awaitable[Response]]


def routes(service: Service) -> list[Route]:
    """The endpoints, each with and without `/v2`."""
    endpoints = _Endpoints(service)
    get: dict[str, Answer] = {
        "/start_session": endpoints.start_session,
        "/start_session/{model}": endpoints.start_session,
        "/process_point_interaction/{session}": endpoints.point,
        "/reset_interactions/{session}": endpoints.reset,
        "/end_session/{session}": endpoints.end_session,
    }
    post: dict[str, Answer] = {
        "/upload_raw/{session}": endpoints.upload_raw,
        "/process_scribble_interaction/{session}": endpoints.scribble,
        "/process_lasso_interaction/{session}": endpoints.lasso,
    }
    both = [(path, call, method) for method, calls in (("GET", get), ("POST", post)) for path, call in calls.items()]
    return [
        Route("/status", endpoints.status, methods=["GET"]),
        Route("/v2/models", endpoints.models, methods=["GET"]),
        *(Route(f"{prefix}{path}", call, methods=[method]) for prefix in ("", "/v2") for path, call, method in both),
    ]


class _Endpoints:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def status(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "version": __version__})

    async def models(self, request: Request) -> Response:
        model = {"id": MODEL, "channels": [1], "dimensions": 3, "interactions": ["point", "scribble", "lasso"]}
        return JSONResponse({"models": [model]})

    async def start_session(self, request: Request) -> Response:
        lease = await self._service.claim(is_page=True)  # ITK-SNAP gives no sign of life
        return JSONResponse({"session_id": lease.token})

    async def end_session(self, request: Request) -> Response:
        lease = self._service.leases.release(request.path_params["session"])
        if lease is not None:
            await self._service.end(lease)
        return JSONResponse({"message": "Invalid session" if lease is None else "Session ended"})

    async def upload_raw(self, request: Request) -> Response:
        lease = self._lease(request)
        if lease is None:
            return _no_session()
        with self._service.leases.acting(lease):
            fields = form_fields(request, await read_body(request))
            shape = _shape(fields)
            if math.prod(shape) * _FLOAT.itemsize > self._service.settings.upload_limit_bytes:
                raise BadRequest(f"got an image {shape} (z, y, x), which is larger than --max-upload-gb allows")
            with self._service.admission.admit(math.prod(shape), _FLOAT):
                image = await run_in_threadpool(lambda: _whole_numbers(_unpacked(fields, shape)))
                volume = await run_in_threadpool(volume_of, image, (1.0, 1.0, 1.0))
                await self._service.act(request, lease, "image", lambda: lease.workspace.set_image(volume))
        return JSONResponse({"message": "the image was taken"})

    async def point(self, request: Request) -> Response:
        query = request.query_params
        given = query.getlist("point") or [query.get(axis, "") for axis in "xyz"]
        try:
            x, y, z = numbers([float(value) for value in given], "a point (x, y, z)", 3)
        except ValueError:
            raise BadRequest(f"got the point {given!r:.80}, expected three numbers (x, y, z)") from None
        foreground = _is_true(query.get("foreground"))
        return await self._prompted(
            request, "point", lambda geometry: (Point(clipped_voxel((z, y, x), geometry), foreground),)
        )

    async def scribble(self, request: Request) -> Response:
        return await self._drawn(request, "scribble", scribble_points)

    async def lasso(self, request: Request) -> Response:
        return await self._drawn(request, "lasso", lasso_points)

    async def reset(self, request: Request) -> Response:
        lease = self._lease(request)
        if lease is None:
            return _no_session()
        await self._service.act(request, lease, "reset", lease.workspace.reset)
        return JSONResponse({"status": "success"})

    async def _drawn(
        self, request: Request, name: str, lower: Callable[[NDArray[np.bool_], Geometry, bool], tuple[Point, ...]]
    ) -> Response:
        lease = self._lease(request)
        if lease is None:
            return _no_session()
        foreground = _is_true(request.query_params.get("foreground"))
        fields = form_fields(request, await read_body(request))

        def points(geometry: Geometry) -> tuple[Point, ...]:
            if _shape(fields) != geometry.shape:
                raise BadRequest(f"got a drawing {_shape(fields)} (z, y, x), expected the image's {geometry.shape}")
            drawing = _unpacked(fields, geometry.shape) > 0
            return lower(drawing, geometry, foreground) if drawing.any() else ()

        return await self._prompted(request, name, points)

    async def _prompted(self, request: Request, name: str, points: Callable[[Geometry], tuple[Point, ...]]) -> Response:
        lease = self._lease(request)
        if lease is None:
            return _no_session()
        workspace = lease.workspace

        def run() -> NDArray[np.int8]:
            workspace.add(points(workspace.geometry))
            mask: NDArray[np.int8] = (workspace.session.mask == 1).view(np.int8)
            return mask

        mask = await self._service.act(request, lease, name, run)
        packed = await run_in_threadpool(lambda: base64.b64encode(gzip.compress(mask.tobytes(), 1)).decode("ascii"))
        return JSONResponse({"status": "success", "result": packed})

    def _lease(self, request: Request) -> Lease | None:
        try:
            return self._service.leases.find(request.path_params["session"])
        except LeaseLost:
            return None


def _no_session() -> Response:
    return JSONResponse({"error": "Invalid session"})  # what ITK-SNAP looks for, with status 200


def _is_true(text: str | None) -> bool:
    return (text or "").strip().lower() in ("true", "1", "yes", "on")


def _shape(fields: dict[str, Any]) -> tuple[int, int, int]:
    """(z,y,x) that the metadata state."""
    said = parse_object(bytes(fields.get("metadata", b"")), "metadata")
    sides = said.get("dimensions")
    if not isinstance(sides, list) or len(sides) != 3 or any(type(n) is not int or not 1 <= n < 2**16 for n in sides):
        raise BadRequest(f"got the dimensions {sides!r:.80}, expected three sides (x, y, z)")
    if said.get("components_per_pixel", 1) != 1:
        raise BadRequest("got several values a voxel, expected one")
    x, y, z = sides
    return z, y, x


def _unpacked(fields: dict[str, Any], shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """The array (z,y,x) of a gzipped file of float32."""
    size = math.prod(shape) * _FLOAT.itemsize
    unpacker = zlib.decompressobj(wbits=31)
    try:
        data = unpacker.decompress(fields.get("file", b""), size + 1)
    except zlib.error as error:
        raise BadRequest(f"got a file that cannot be unpacked: {error}") from None
    if len(data) != size:
        raise BadRequest(f"got {len(data)} bytes or more for {shape} (z, y, x), expected {size}")
    return np.frombuffer(data, _FLOAT).reshape(shape).astype(np.float32, copy=False)


def _whole_numbers(image: NDArray[np.float32]) -> NDArray[np.generic]:
    """The image as int16 where that loses nothing: ITK-SNAP sends every image as floats."""
    if np.isfinite(image).all() and np.abs(image).max() < 2**15:
        whole = image.astype(np.int16)
        if np.array_equal(whole, image):
            return whole.astype(np.uint8) if whole.min() >= 0 and whole.max() < 256 else whole
    return image
