"""Whether a file is an ONNX model, by its fields or its name."""

from __future__ import annotations

from ckptkit.errors import CkptkitError
from ckptkit.stores.registry import Head

_IR_VERSION = b"\x08"  # the tag of the first field
_OLDEST = 3  # of the versions of the form that are told by content; those before were trials
_GRAPH = 7
_FIELDS = frozenset({2, 3, 4, 6, 7, 8, 14, 20, 25, 26})  # of a ModelProto, that hold bytes
_NUMBERS = frozenset({1, 5})  # and numbers


def is_onnx(head: Head) -> bool:
    """Say whether a file is an ONNX model: by its fields, or by its name and first field."""
    start = head.start
    if not start.startswith(_IR_VERSION) or len(start) < 3:
        return False
    if head.path.suffix == ".onnx":
        return True
    if not _OLDEST <= start[1] < 0x80:
        return False
    from ckptkit.stores.onnx.graph import WHAT  # here, since few files begin so
    from ckptkit.stores.proto.fields import BYTES, FileMessage

    seen = set()
    try:
        for item in FileMessage(head.path, WHAT).fields():
            is_bytes = item.wire == BYTES
            if item.number not in (_FIELDS if is_bytes else _NUMBERS):
                return False
            seen.add(item.number)
    except CkptkitError:
        return False
    return _GRAPH in seen
