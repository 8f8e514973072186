"""What running a LiteRT (TensorFlow Lite) model could do: the ops that it names.

Built-in ops only compute.  A custom op is code that whoever runs the model has linked in; those
called `FlexNAME` run the op NAME of TensorFlow, which the interpreter of TensorFlow's package does
without being asked.  Which op that is stands once more in the options of each use, as a FlexBuffer
(tensorflow/lite/delegates/flex/kernel.cc), and that is the one that runs.  Source of the layout:
tensorflow/compiler/mlir/lite/schema/schema.fbs; field n of a table is found through its vtable at
4 + 2n.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from ckptkit._io.files import file_size, read_exact
from ckptkit.errors import FormatError
from ckptkit.operations.findings import Check, Finding
from ckptkit.operations.scan.rule import effect_of, harmless_ops

MAGIC_AT, MAGIC = 4, b"TFL3"
_FLEX = "Flex"
_MAX_BYTES = 1 << 31  # a flatbuffer is smaller
_MAX_CODES = 1 << 16
_OPERATOR_CODES, _SUBGRAPHS = 1, 2  # fields of Model
_CUSTOM_CODE = 1  # field of OperatorCode
_OPERATORS = 3  # field of SubGraph
_OPCODE_INDEX, _CUSTOM_OPTIONS, _LARGE_OFFSET, _LARGE_SIZE = 0, 5, 9, 10  # fields of Operator
_MAX_OPERATORS = 1 << 20
_FLEX_VECTOR, _FLEX_STRING = 10, 5  # types of a FlexBuffer


_ERRORS = (struct.error, IndexError, UnicodeDecodeError)


def is_litert(front: bytes) -> bool:
    """Whether a file that begins so is a LiteRT model."""
    return front[MAGIC_AT : MAGIC_AT + len(MAGIC)] == MAGIC


def scan_litert(path: Path) -> list[Check]:
    """Scan a LiteRT model; raises FormatError where its list of ops cannot be read."""
    data = _content(path)
    count, customs = _checked_codes(path, data)
    findings = [finding for name in customs.values() for finding in _judged(name, path.name)]
    if any(name.startswith(_FLEX) for name in customs.values()):
        findings += _of_options(data, customs, path.name)
    return [Check("ops", (("op", count),), tuple(findings))]


def custom_ops(path: Path) -> tuple[str, ...]:
    """Return the names of the custom ops of a LiteRT model, `FlexNAME` for one of TensorFlow.

    Args:
        path: of the model.

    Raises:
        FormatError: its list of ops cannot be read.
    """
    _count, customs = _checked_codes(path, _content(path))
    return tuple(dict.fromkeys(customs.values()))


def _content(path: Path) -> bytes:
    size = file_size(path)
    if size > _MAX_BYTES:
        raise FormatError(str(path), "is too large for a LiteRT model", found=f"{size} bytes")
    return read_exact(path, 0, size)


def _checked_codes(path: Path, data: bytes) -> tuple[int, dict[int, str]]:
    try:
        return _codes(data)
    except _ERRORS as error:
        raise FormatError(str(path), f"its list of ops cannot be read: {error}") from error


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


def _of_options(data: bytes, customs: dict[int, str], where: str) -> list[Finding]:
    """Judge the ops of TensorFlow that the uses of Flex ops name in their options."""
    found: dict[str, None] = {}
    unread = False
    try:
        for operator in _operators(data):
            place = _field(data, operator, _OPCODE_INDEX)
            name = customs.get(_word(data, place) if place else 0, "")
            if name.startswith(_FLEX):
                try:
                    found[_FLEX + _named_in(_options(data, operator))] = None
                except _ERRORS:
                    unread = True
    except _ERRORS:
        unread = True
    findings = [f for op in found if op not in customs.values() for f in _judged(op, where)]
    if unread:
        message = "an op of TensorFlow whose options are not understood"
        findings.append(Finding("warning", "graph.unknown-op", where, message))
    return findings


def _operators(data: bytes) -> Iterator[int]:
    """Yield the places of the operators of all subgraphs."""
    for graph in _tables(data, _word(data, 0), _SUBGRAPHS, _MAX_CODES):
        yield from _tables(data, graph, _OPERATORS, _MAX_OPERATORS)


def _options(data: bytes, operator: int) -> bytes:
    """Return an operator's options, which may lie behind the model."""
    place = _field(data, operator, _CUSTOM_OPTIONS)
    offset, size = (_field(data, operator, field) for field in (_LARGE_OFFSET, _LARGE_SIZE))
    if offset and size:
        start, length = (int.from_bytes(data[at : at + 8], "little") for at in (offset, size))
        if start > 1:
            return data[start : start + length]
    if not place:
        return b""
    vector = place + _word(data, place)
    return data[vector + 4 : vector + 4 + _word(data, vector)]


def _named_in(options: bytes) -> str:
    """Return the first text of a FlexBuffer that is a vector: the op's name."""

    def number(at: int, width: int) -> int:
        if at < 0 or width not in (1, 2, 4, 8) or at + width > len(options):
            raise IndexError("an offset outside of the options")
        return int.from_bytes(options[at : at + width], "little")

    end = len(options)
    kind, root_width = number(end - 2, 1), number(end - 1, 1)
    root = end - 2 - root_width
    vector, width = root - number(root, root_width), 1 << (kind & 3)
    count = number(vector - width, width)
    first = number(vector + count * width, 1)
    if kind >> 2 != _FLEX_VECTOR or not count or first >> 2 != _FLEX_STRING:
        raise IndexError("no vector that begins with a text")
    start, width = vector - number(vector, width), 1 << (first & 3)
    length = number(start - width, width)
    if start + length > end:
        raise IndexError("a text that is cut short")
    return options[start : start + length].decode()


def _tables(data: bytes, table: int, field: int, limit: int) -> list[int]:
    """Return the places of the tables in a table's field; none where it is absent."""
    place = _field(data, table, field)
    if not place:
        return []
    vector = place + _word(data, place)
    count = _word(data, vector)
    if count > min(limit, len(data) // 4):
        raise IndexError(f"{count} entries in one list")
    entries = [vector + 4 + 4 * number for number in range(count)]
    return [entry + _word(data, entry) for entry in entries]


def _codes(data: bytes) -> tuple[int, dict[int, str]]:
    """Return how many kinds of ops a model has, and the names of the custom ones by number."""
    codes = _tables(data, _word(data, 0), _OPERATOR_CODES, _MAX_CODES)
    names: dict[int, str] = {}
    for number, code in enumerate(codes):
        text = _field(data, code, _CUSTOM_CODE)
        if text:
            start = text + _word(data, text)
            length = _word(data, start)
            if start + 4 + length > len(data):
                raise IndexError("a name that is cut short")
            names[number] = data[start + 4 : start + 4 + length].decode()
    return len(codes), names


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
