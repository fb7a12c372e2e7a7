"""Multipart forms whose body is in memory already: large files in them are not copied."""

from __future__ import annotations

from email.message import Message
from email.parser import BytesHeaderParser
from io import BytesIO

from starlette.requests import Request

from gstk.server.service import BadRequest

__all__ = ["form_fields"]


def form_fields(request: Request, body: bytearray) -> dict[str, bytes | memoryview[int]]:
    """The parts of a multipart form by name; those of files are views of the body."""
    kind = Message()
    kind["content-type"] = request.headers.get("content-type", "")
    boundary = kind.get_param("boundary")
    if kind.get_content_type() != "multipart/form-data" or not isinstance(boundary, str) or not boundary:
        raise BadRequest("got a body that is no multipart form, expected one with a file")
    mark, view = b"--" + boundary.encode("latin-1"), memoryview(body)
    fields: dict[str, bytes | memoryview[int]] = {}
    at = body.find(mark)
    while at >= 0 and body[at + len(mark) : at + len(mark) + 2] == b"\r\n":
        begin = at + len(mark) + 2
        split, at = body.find(b"\r\n\r\n", begin), body.find(b"\r\n" + mark, begin)
        if split < 0 or at < split:
            break
        headers = BytesHeaderParser().parse(BytesIO(bytes(body[begin : split + 2])))
        name = headers.get_param("name", header="content-disposition")
        if isinstance(name, str):
            part = view[split + 4 : at]
            fields[name] = part if name == "file" else bytes(part)
        at += 2
    return fields
