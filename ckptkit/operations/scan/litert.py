"""What running a LiteRT (TensorFlow Lite) model could do: the ops that it names.

Built-in ops only compute.  A custom op is code that whoever runs the model has linked in; those
called `FlexNAME` run the op NAME of TensorFlow, which the interpreter of TensorFlow's package does
without being asked.  Source of the layout: tensorflow/compiler/mlir/lite/schema/schema.fbs; field n
of a table is found through its vtable at 4 + 2n.
"""

from __future__ import annotations

import struct
from pathlib import Path

from ckptkit._io.files import file_size, read_exact
from ckptkit.errors import FormatError
from ckptkit.operations.findings import Check, Finding
from ckptkit.operations.scan.rule import effect_of, harmless_ops

MAGIC_AT, MAGIC = 4, b"TFL3"
_FLEX = "Flex"
_MAX_BYTES = 1 << 31  # a flatbuffer is smaller
_MAX_CODES = 1 << 16
_OPERATOR_CODES = 1  # field of Model
_CUSTOM_CODE = 1  # field of OperatorCode


def is_litert(front: bytes) -> bool:
    """Whether a file that begins so is a LiteRT model."""
    return front[MAGIC_AT : MAGIC_AT + len(MAGIC)] == MAGIC


def scan_litert(path: Path) -> list[Check]:
    """Scan a LiteRT model; raises FormatError where its list of ops cannot be read."""
    size = file_size(path)
    if size > _MAX_BYTES:
        raise FormatError(str(path), "is too large for a LiteRT model", found=f"{size} bytes")
    data = read_exact(path, 0, size)
    try:
        count, customs = _codes(data)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise FormatError(str(path), f"its list of ops cannot be read: {error}") from error
    findings = [finding for name in customs for finding in _judged(name, path.name)]
    return [Check("ops", (("op", count),), tuple(findings))]


def _judged(name: str, where: str) -> list[Finding]:
    op = name.removeprefix(_FLEX) if name.startswith(_FLEX) else ""
    if op in harmless_ops():
        return []
    effect = effect_of(op) if op else None
    if effect is None:
        message = f"the custom op {name!r} is not known to be harmless"
        return [Finding("warning", "graph.unknown-op", where, message)]
    code = "graph." + "-".join(effect.replace(",", "").split()[:2])
    return [Finding("error", code, f"{where}: {name}", effect)]


def _codes(data: bytes) -> tuple[int, list[str]]:
    """Return how many kinds of ops a model has, and the names of the custom ones."""
    model = _word(data, 0)
    place = _field(data, model, _OPERATOR_CODES)
    if not place:
        return 0, []
    vector = place + _word(data, place)
    count = _word(data, vector)
    if count > min(_MAX_CODES, len(data) // 4):
        raise IndexError(f"{count} kinds of ops")
    names = []
    for number in range(count):
        entry = vector + 4 + 4 * number
        text = _field(data, entry + _word(data, entry), _CUSTOM_CODE)
        if text:
            start = text + _word(data, text)
            length = _word(data, start)
            if start + 4 + length > len(data):
                raise IndexError("a name that is cut short")
            names.append(data[start + 4 : start + 4 + length].decode())
    return count, names


def _word(data: bytes, place: int) -> int:
    if place < 0:
        raise IndexError("an offset before the file")
    return int(struct.unpack_from("<I", data, place)[0])


def _field(data: bytes, table: int, number: int) -> int:
    """Return where a field of a table lies; 0 where the table lacks it."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    if vtable < 0:
        raise IndexError("a table before the file")
    size = struct.unpack_from("<H", data, vtable)[0]
    entry = 4 + 2 * number
    offset = struct.unpack_from("<H", data, vtable + entry)[0] if entry < size else 0
    return table + offset if offset else 0
