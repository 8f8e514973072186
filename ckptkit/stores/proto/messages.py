"""Protobuf messages of the formats, in a descriptor pool of our own.

`schema.pb` is `schema.proto` compiled to a descriptor set (`make schema`).  A private pool never
clashes with TensorFlow's, and no generated code is pinned to one protobuf runtime.  Messages cannot
be pickled and never leave the store that parsed them.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from ckptkit.errors import FormatError

MAX_MESSAGE_BYTES = (1 << 31) - 1  # protobuf's own limit


@cache
def _pool() -> Any:
    # A set of one file is that file behind a tag and its length; cut out by hand, since
    # importing the message class for it takes longer than the rest of this function.
    data = Path(__file__).with_name("schema.pb").read_bytes()
    start = next(at for at in range(1, len(data)) if data[at] < 0x80) + 1
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(data[start:])
    return pool


@cache
def message_class(name: str) -> Any:
    """Return the message class `name` of schema.proto, e.g. "BundleEntryProto"."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"ckptkit.{name}"))


def parse(name: str, data: bytes, where: str) -> Any:
    """Return message `name` parsed from `data`; `where` names the bytes in a FormatError."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise FormatError(where, f"{len(data)} bytes are more than a {name} may have")
    try:
        return message_class(name).FromString(data)
    except DecodeError as error:
        raise FormatError(where, f"not a {name} message") from error
