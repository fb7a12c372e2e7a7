"""The protocol of SlicerNNInteractive up to 0.3.2: one image for a server, whole masks as answers, no sessions.

Its prompts share four paths with version 2 and are told apart by the lease token that they lack. Requests for masks say
`Content-Encoding: gzip` though only the part inside is packed: the header is not heeded.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Awaitable, Callable
from io import BytesIO
from typing import Any

import numpy as np
import numpy.lib.format as npy
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gstk.core.geometry import Geometry
from gstk.core.prompts import Point
from gstk.server.leases import Lease, LeaseLost
from gstk.server.multipart import form_fields
from gstk.server.service import BadRequest, Service, parse_object, read_body
from gstk.server.wire import clipped_box, clipped_voxel, numbers, volume_of
from gstk.server.workspace import Workspace
from gstk.session.strokes import lasso_points, plane_box_points, scribble_points

__all__ = ["LegacyProtocol", "routes"]

_KINDS = "buif"
_HEADER_BYTES = 4096
Answer = Callable[[Request], Awaitable[Response]]


def routes(endpoints: LegacyProtocol) -> list[Route]:
    """The paths that version 2 does not have."""
    return [
        Route("/upload_image", endpoints.upload_image, methods=["POST"]),
        Route("/upload_segment", endpoints.upload_segment, methods=["POST"]),
    ]


class LegacyProtocol:
    """The one image of clients without sessions; see the module."""

    def __init__(self, service: Service) -> None:
        """Begins without an image."""
        self._service = service
        self._token: str | None = None

    def prefers(self, path: str, current: Answer) -> Answer:
        """The endpoint of a path that both protocols have: this one's where the request is of its kind."""
        own = {
            "/add_point_interaction": self._point,
            "/add_bbox_interaction": self._box,
            "/add_scribble_interaction": self._scribble,
            "/add_lasso_interaction": self._lasso,
        }[path]

        async def choose(request: Request) -> Response:
            return await (own if await _is_legacy(request) else current)(request)

        return choose

    async def upload_image(self, request: Request) -> Response:
        """Takes an image as an uncompressed .npy file; what was there before is forgotten."""
        most = self._service.settings.upload_limit_bytes
        fields = form_fields(request, await read_body(request))
        image = await run_in_threadpool(_array, fields.get("file", b""), most)
        volume = await run_in_threadpool(volume_of, image, (1.0, 1.0, 1.0))
        lease = self._lease()
        if lease is None:
            lease = await self._service.claim(is_page=True)  # these clients give no sign of life
            self._token = lease.token
        workspace = lease.workspace
        with self._service.admission.admit(image.size, image.dtype):
            await self._service.act(request, lease, "image", lambda: workspace.set_image(volume))
        return JSONResponse({"status": "ok"})

    async def upload_segment(self, request: Request) -> Response:
        """Begins another object: from a mask, or from none where it is empty."""
        body = await read_body(request)
        lease = self._lease()
        if lease is None:
            return _no_image()
        workspace = lease.workspace
        mask = await run_in_threadpool(_mask, form_fields(request, body), workspace.geometry)

        def begin() -> None:
            workspace.reset()
            if mask.any():
                workspace.session.set_mask(mask)

        await self._service.act(request, lease, "mask", begin)
        return JSONResponse({"status": "ok"})

    async def _point(self, request: Request) -> Response:
        said = parse_object(bytes(await read_body(request)), "a body")
        place, foreground = numbers(said.get("voxel_coord"), "voxel_coord", 3), said.get("positive_click") is True
        return await self._prompted(
            request, "point", lambda workspace: [Point(clipped_voxel(place, workspace.geometry), foreground)]
        )

    async def _box(self, request: Request) -> Response:
        said = parse_object(bytes(await read_body(request)), "a body")
        one, two = (numbers(said.get(f"outer_point_{name}"), "a corner", 3) for name in ("one", "two"))
        box = [[min(a, b), max(a, b) + 1] for a, b in zip(one, two, strict=True)]  # both ends inclusive
        foreground = said.get("positive_click") is True

        def points(workspace: Workspace) -> list[Point]:
            low, high = clipped_box(box, workspace.geometry)
            return list(plane_box_points(low, high, workspace.geometry, foreground))

        return await self._prompted(request, "box", points)

    async def _scribble(self, request: Request) -> Response:
        return await self._drawn(request, "scribble", scribble_points)

    async def _lasso(self, request: Request) -> Response:
        return await self._drawn(request, "lasso", lasso_points)

    async def _drawn(self, request: Request, name: str, lower: Callable[..., tuple[Point, ...]]) -> Response:
        fields = form_fields(request, await read_body(request))
        foreground = bytes(fields.get("positive_click", b"")).strip().lower() in (b"true", b"1", b"yes")

        def points(workspace: Workspace) -> list[Point]:
            drawing = _mask(fields, workspace.geometry)
            return list(lower(drawing, workspace.geometry, foreground)) if drawing.any() else []

        return await self._prompted(request, name, points)

    async def _prompted(self, request: Request, name: str, points: Callable[[Workspace], list[Point]]) -> Response:
        lease = self._lease()
        if lease is None or not lease.workspace.has_image:
            return _no_image()
        workspace = lease.workspace

        def run() -> NDArray[np.bool_]:
            workspace.add(points(workspace))
            mask: NDArray[np.bool_] = workspace.session.mask == 1
            return mask

        mask = await self._service.act(request, lease, name, run)
        body = await run_in_threadpool(lambda: gzip.compress(np.packbits(mask, axis=None).tobytes(), 1))
        return Response(body, media_type="application/octet-stream", headers={"Content-Encoding": "gzip"})

    def _lease(self) -> Lease | None:
        try:
            return self._service.leases.find(self._token)
        except LeaseLost:
            return None


def _no_image() -> Response:
    # The client then sends image and mask again, and repeats its prompt.
    return JSONResponse({"status": "error", "message": "No image uploaded"})


async def _is_legacy(request: Request) -> bool:
    if "x-lease-token" in request.headers:
        return False
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        return True
    try:
        said = json.loads(await request.body())
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and ("voxel_coord" in said or "outer_point_one" in said)


def _array(data: bytes | memoryview[int], most_bytes: int) -> NDArray[Any]:
    """An array (z,y,x) of an .npy file in memory; its size is known to agree before anything is allocated."""
    stream = BytesIO(data[:_HEADER_BYTES])
    try:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except (ValueError, SyntaxError, EOFError) as error:
        raise BadRequest(f"got a file that is no .npy array: {error!s:.80}") from None
    size = math.prod(shape) * dtype.itemsize
    if dtype.kind not in _KINDS or len(shape) != 3 or size == 0 or size > most_bytes:
        raise BadRequest(
            f"got an array {shape} of {dtype}, expected (z, y, x) of real numbers, {most_bytes} bytes at most"
        )
    raw = data[stream.tell() :]
    if len(raw) != size:
        raise BadRequest(f"got {len(raw)} bytes of an array of {size}")
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")


def _mask(fields: dict[str, Any], geometry: Geometry) -> NDArray[np.bool_]:
    """A mask of the image's shape from a gzipped .npy file of bytes."""
    most = math.prod(geometry.shape) + _HEADER_BYTES
    unpacker = zlib.decompressobj(wbits=31)
    try:
        data = unpacker.decompress(fields.get("file", b""), most + 1)
    except zlib.error as error:
        raise BadRequest(f"got a mask that cannot be unpacked: {error}") from None
    if len(data) > most:
        raise BadRequest(f"got a mask that unpacks to more than {most} bytes")
    mask: NDArray[np.bool_] = _array(data, most) != 0
    if mask.shape != geometry.shape:
        raise BadRequest(f"got a mask of shape {mask.shape}, expected the image's {geometry.shape}")
    return mask
