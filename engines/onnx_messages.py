"""ONNX files read and written field by field, without the `onnx` package, which running a bundle does not need.

A message of Protocol Buffers is a row of fields: a number, a kind, a value. Reading skips what is not asked for, so
that the weights of a file in a memory map are never touched. Numbers of fields are those of `onnx.proto`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

__all__ = ["Field", "bytes_field", "fields", "node", "number_field", "text_of"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FLOAT, _INT = 1, 2
"""Kinds of attributes."""


class Field(NamedTuple):
    """A field of a message.

    Attributes:
        number: what it is, by its message's definition.
        begin: where the field begins in the buffer.
        value: where its value begins: the content of bytes, texts and messages, without their length.
        end: where the field ends.
        integer: the value of a whole number; of bytes, their length.
    """

    number: int
    begin: int
    value: int
    end: int
    integer: int


def fields(buffer: Any, begin: int, end: int) -> Iterator[Field]:
    """The fields of a message, in order.

    Args:
        buffer: bytes, or a memory map, with the message between `begin` and `end`.
        begin, end: of the message.

    Raises:
        ValueError: these bytes are no message.
    """
    at = begin
    while at < end:
        first = at
        key, at = _varint(buffer, at, end)
        kind, integer, value = key & 7, 0, at
        if kind == _VARINT:
            integer, at = _varint(buffer, at, end)
        elif kind == _BYTES:
            integer, value = _varint(buffer, at, end)
            at = value + integer
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"got a field of kind {kind} at byte {first}, expected an ONNX file")
        if at > end:
            raise ValueError(f"got a field that ends at byte {at}, behind its message, expected an ONNX file")
        yield Field(key >> 3, first, value, at, integer)


def text_of(buffer: Any, field: Field) -> str:
    """The text of a field."""
    return bytes(buffer[field.value : field.end]).decode("utf-8")


def number_field(number: int, value: int) -> bytes:
    """A field with a whole number of 0 or more, or a negative one of 64 bits."""
    return _encoded(number << 3 | _VARINT) + _encoded(value & 2**64 - 1)


def bytes_field(number: int, value: bytes | str) -> bytes:
    """A field with bytes, a text or a message."""
    content = value.encode("utf-8") if isinstance(value, str) else value
    return _encoded(number << 3 | _BYTES) + _encoded(len(content)) + content


def node(kind: str, inputs: Iterable[str], output: str, **attributes: int | float) -> bytes:
    """A field of a graph: the node `kind` with one output, and attributes that are whole or real numbers."""
    content = b"".join(bytes_field(1, name) for name in inputs) + bytes_field(2, output) + bytes_field(4, kind)
    for name, value in attributes.items():
        if isinstance(value, int):
            given = number_field(3, value) + number_field(20, _INT)
        else:
            given = _encoded(2 << 3 | _FIXED32) + struct.pack("<f", value) + number_field(20, _FLOAT)
        content += bytes_field(5, bytes_field(1, name) + given)
    return bytes_field(1, content)


def _varint(buffer: Any, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = buffer[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError(f"got a number without an end at byte {at}, expected an ONNX file")


def _encoded(value: int) -> bytes:
    content = bytearray()
    while value > 127:
        content.append(value & 127 | 128)
        value >>= 7
    content.append(value)
    return bytes(content)
