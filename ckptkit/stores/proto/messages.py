"""Protobuf messages of the formats, in a descriptor pool of our own; their binary and text forms.

`schema.pb` is `schema.proto` compiled to a descriptor set (`make schema`).  A private pool never
clashes with TensorFlow's, and no generated code is pinned to one protobuf runtime.  Messages cannot
be pickled and never leave the store that parsed them.

What a stranger's file can do to a parser is limited: binary messages nest to a depth of 100, which
is protobuf's own limit, and text to the same (protobuf's text parser calls itself for each level).
Fields that the schema lacks are passed over in both forms.  In text, as TensorFlow has it, a field
that is given twice is refused, and so is an `Any` of a type that the schema lacks.
Source: protobuf.dev/programming-guides/{encoding,text-format}.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ckptkit.errors import FormatError
from ckptkit.text import lazy_pattern

MAX_MESSAGE_BYTES = (1 << 31) - 1  # protobuf's own limit
MAX_TEXT_BYTES = 256 << 20  # text is 3 to 10 times its binary form
MAX_DEPTH = 100
_MAX_REASON = 200  # characters of protobuf's message, which may quote a whole line

# Strings and comments may hold brackets that open nothing.
_BRACKET = lazy_pattern(r""""(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|\#[^\n]*|[{}<>]""")


@cache
def _pool() -> Any:
    from google.protobuf import descriptor_pool  # here, since most files need none of it (`wire`)

    pool = descriptor_pool.DescriptorPool()
    for file in _files(Path(__file__).with_name("schema.pb").read_bytes()):
        pool.AddSerializedFile(file)
    return pool


def _files(descriptor_set: bytes) -> Iterator[bytes]:
    """Yield the files of a FileDescriptorSet: each is behind a tag of one byte and its length.

    Cut out by hand, since importing the message class for it takes longer than the rest of `_pool`.
    """
    at = 0
    while at < len(descriptor_set):
        at += 1
        size = shift = 0
        while True:
            byte = descriptor_set[at]
            at += 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        yield descriptor_set[at : at + size]
        at += size


@cache
def message_class(name: str) -> Any:
    """Return the message class `name` of schema.proto, e.g. "BundleEntryProto"."""
    from google.protobuf import message_factory

    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"tensorflow.{name}"))


@cache
def _decode_error() -> Any:
    from google.protobuf.message import DecodeError

    return DecodeError


def parse(name: str, data: bytes, where: str) -> Any:
    """Read a message in binary form.

    Args:
        name: of the message in schema.proto, e.g. "BundleEntryProto".
        data: the message, no more and no less.
        where: what the bytes are, for the refusal.

    Returns:
        The message; fields that the schema lacks are kept in it, unread.

    Raises:
        FormatError: the bytes are no such message, or it nests deeper than 100.
    """
    known_as = name.removeprefix("Raw")  # a mirror of ours, which nobody else has heard of
    if len(data) > MAX_MESSAGE_BYTES:
        raise FormatError(where, f"{len(data)} bytes are more than a {known_as} may have")
    try:
        return message_class(name).FromString(data)
    except _decode_error() as error:
        raise FormatError(where, f"not a {known_as} message") from error


def parse_text(name: str, data: bytes, where: str) -> Any:
    """Read a message in text form.

    Args:
        name: of the message in schema.proto, e.g. "SavedModel".
        data: the text in UTF-8.
        where: what the text is, for the refusal.

    Returns:
        The message; fields that the schema lacks are passed over.

    Raises:
        FormatError: it is no text of such a message, is larger than MAX_TEXT_BYTES, or nests deeper
            than MAX_DEPTH.
    """
    from google.protobuf import text_format  # takes longer than `ls` of a small file

    if len(data) > MAX_TEXT_BYTES:
        raise FormatError(where, f"{len(data)} bytes of text are more than is read")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError(where, "not text") from None
    if _depth(text) > MAX_DEPTH:
        raise FormatError(where, f"messages nest deeper than {MAX_DEPTH}")
    try:
        return text_format.Parse(
            text, message_class(name)(), allow_unknown_field=True, descriptor_pool=_pool()
        )
    except text_format.ParseError as error:
        reason = str(error).rpartition("': ")[2][:_MAX_REASON]
        place = f"line {error.GetLine()}, column {error.GetColumn()}: " if error.GetLine() else ""
        raise FormatError(where, f"not protobuf text of a {name}: {place}{reason}") from None


def _depth(text: str) -> int:
    """Return how deep brackets nest, until too deep."""
    depth = deepest = 0
    for match in _BRACKET.finditer(text):
        mark = match[0]
        if mark in "{<":
            depth += 1
            deepest = max(deepest, depth)
            if deepest > MAX_DEPTH:
                break
        elif mark in "}>":
            depth -= 1
    return deepest
