"""Pickles, told by their opcodes, and arrays of numpy that hold some.

`numpy.load(..., allow_pickle=True)` goes by the first bytes of a file, whatever it is called: a zip
archive, an array, else a pickle.  An array holds pickles where an object stands anywhere in its
dtype: in a field of a record, in a field's field, below a shape.  And unpickling calls what the
pickle names, as soon as it is met: a pickle that is cut short has run all that stands before.

The header of an array is taken apart here as little as is needed, by patterns; what they do not
know is "unknown", never harmless.  Sources: numpy/lib/_npyio_impl.py, numpy/lib/_format_impl.py.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Iterator
from typing import IO, Any

from ckptkit.operations.findings import Finding
from ckptkit.stores.npz.npy import MAGIC
from ckptkit.text import lazy_pattern

FRONT = 1 << 16  # bytes of a header or pickle that are looked at
_MAX_OPCODES = 1_000_000  # as many are a pickle, whatever else they are
_SMALL = 1 << 12  # bytes that are read, not stepped over
_MAX_LINE = 256 << 20
_MAX_VALUE = 1 << 62  # more than a file holds
_MODULE = lazy_pattern(rb"[^\s\0-\x20]+")
_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
_PROTOCOLS = frozenset(bytes([number]) for number in range(6))
_WIDTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_MANY_OPCODES = 8  # which other bytes hardly read as
_GLOBALS = frozenset({"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"})
_CALLS = frozenset({"REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD"})


def is_pickle(stream: IO[bytes]) -> bool:
    """Whether a stream begins a pickle: one that names something and calls it, or a whole one.

    Text may read as a few opcodes of the oldest protocol, and a number as the mark of a newer one,
    but hardly as more than that.  What is cut short has run all that stands before.
    """
    seen: set[str] = set()
    count = 0
    has_mark = False
    try:
        for name, text in _opcodes(stream):
            if name in ("INST", "OBJ") and "MARK" not in seen:
                return False  # which fails before anything is called
            if name in ("GLOBAL", "INST") and not _MODULE.fullmatch(text):
                return False  # which fails likewise
            has_mark |= not count and name == "PROTO"
            seen.add(name)
            if seen & _GLOBALS and (seen & _CALLS or name == "STOP"):  # naming it imports it
                return True
            count += 1
            if count > _MAX_OPCODES:
                return True
    except ValueError:  # cut short, or no pickle
        return has_mark and count >= _MANY_OPCODES
    return has_mark


def _opcodes(stream: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the text of each opcode, up to the end of a pickle; raises ValueError.

    Texts and values are stepped over and not read: what one reader of them refuses, another takes.
    """
    while True:
        code = stream.read(1)
        opcode = _OPCODES.get(code)
        if opcode is None:
            raise ValueError(f"no opcode {code!r}")
        text = b""
        if opcode.arg is not None:
            size = opcode.arg.n
            if size == pickletools.UP_TO_NEWLINE:
                text = _line(stream)
                if opcode.name in ("GLOBAL", "INST"):
                    _line(stream)
            else:
                if size < 0:  # so many bytes of a length come first
                    width = _WIDTHS[size]
                    size = int.from_bytes(_exactly(stream, width), "little")
                if opcode.name == "PROTO" and _exactly(stream, 1) not in _PROTOCOLS:
                    raise ValueError("a protocol that no Python reads")
                if opcode.name != "PROTO":
                    _skip(stream, size)
        yield opcode.name, text
        if opcode.name == "STOP":
            return


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise ValueError("cut short")
    return data


def _skip(stream: IO[bytes], size: int) -> None:
    if size <= _SMALL:
        _exactly(stream, size)
    elif size > _MAX_VALUE:
        raise ValueError("a value that is too long")
    else:
        stream.seek(size, io.SEEK_CUR)  # behind the end there is no opcode


def _line(stream: IO[bytes]) -> bytes:
    """Return the start of a line, and step behind its end."""
    start = line = stream.readline(_SMALL)
    length = len(line)
    while not line.endswith(b"\n"):
        length += len(line)
        if not line or length > _MAX_LINE:
            raise ValueError("a line without an end")
        line = stream.readline(_SMALL)
    return start.rstrip(b"\n")


def pickle_finding(where: str) -> Finding:
    """Return the finding on a pickle."""
    return Finding("error", "pickle", where, "a Python pickle: loading it runs what it names")


# --- arrays ---------------------------------------------------------------------------------------

_TOKEN = lazy_pattern(
    r"\s*(?:'(?P<single>[^'\\\n]*)'|\"(?P<double>[^\"\\\n]*)\"|(?P<mark>[()\[\]{},:])"
    r"|(?P<word>True|False)|(?P<number>[0-9]{1,19})L?)"
)
_PLAIN = lazy_pattern(r"[<>|=]?[?bBhHiIlLqQefdgFDGaSUVMmc][0-9]{0,9}(\[\w+\])?\Z")
_OBJECT = lazy_pattern(r"[<>|=]?O[0-9]{0,9}\Z")
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_MAX_DEPTH = 32  # of records within records


class _NotUnderstood(ValueError):
    """A header, or a dtype in it, that these patterns do not know."""


def array_finding(front: bytes, where: str) -> Finding | None:
    """Return what there is to say of an array's header; None for one of plain values.

    front: the first FRONT bytes of it, or all.
    """
    try:
        if not _holds_objects(_descr(front), 0):
            return None
    except (_NotUnderstood, UnicodeDecodeError, RecursionError) as error:
        message = f"an array whose header is not understood ({error})"
        return Finding("warning", "npz.unknown", where, message, "do not use allow_pickle=True")
    message = "pickled Python objects: numpy runs them with allow_pickle=True"
    return Finding("error", "npz.pickle", where, message)


def _descr(front: bytes) -> Any:
    """Return the dtype that a header describes, as nested tuples and lists of texts."""
    version = front[6:8]
    if not front.startswith(MAGIC) or version not in (b"\1\0", b"\2\0", b"\3\0"):
        raise _NotUnderstood(f"version {'.'.join(map(str, version))}")
    width = 2 if version == b"\1\0" else 4
    length = int.from_bytes(front[8 : 8 + width], "little")
    text = front[8 + width : 8 + width + length]
    if len(text) < length:
        raise _NotUnderstood(f"{length} bytes long")
    header = _value(text.decode("utf-8" if version == b"\3\0" else "latin-1"))
    if not isinstance(header, dict) or set(header) != {"descr", "fortran_order", "shape"}:
        raise _NotUnderstood("not three keys")
    return header["descr"]


def _holds_objects(descr: Any, depth: int) -> bool:
    """Whether a dtype holds objects at any depth; raises _NotUnderstood."""
    if depth > _MAX_DEPTH:
        raise _NotUnderstood("records nest too deeply")
    if isinstance(descr, str):
        if _PLAIN.match(descr):
            return False
        if _OBJECT.match(descr):
            return True
        raise _NotUnderstood(f"the dtype {descr[:40]!r}")
    if isinstance(descr, tuple) and len(descr) == 2:  # a dtype and a shape
        return _holds_objects(descr[0], depth + 1)
    if not isinstance(descr, list) or not descr:
        raise _NotUnderstood("a dtype that is neither text nor a record")
    found = False
    for field in descr:  # (name or (title, name), dtype) and perhaps a shape
        if not isinstance(field, tuple) or len(field) not in (2, 3):
            raise _NotUnderstood("a field of a record")
        found |= _holds_objects(field[1], depth + 1)
    return found


def _value(text: str) -> Any:
    """Return a literal of Python as tuples, lists, dicts and texts; raises _NotUnderstood."""
    tokens: list[tuple[str, str]] = []
    at, end = 0, len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            raise _NotUnderstood(f"{text[at : at + 20]!r}")
        kind = match.lastgroup or ""
        tokens.append(("text" if kind in ("single", "double") else kind, match[kind]))
        at = match.end()
    value, rest = _parse(tokens, 0, 0)
    if rest != len(tokens):
        raise _NotUnderstood("more than one value")
    return value


def _parse(tokens: list[tuple[str, str]], at: int, depth: int) -> tuple[Any, int]:
    if at >= len(tokens) or depth > 2 * _MAX_DEPTH:
        raise _NotUnderstood("cut short, or nested too deeply")
    kind, text = tokens[at]
    if kind != "mark":
        return (text if kind == "text" else (kind,)), at + 1
    if text not in _CLOSING:
        raise _NotUnderstood(f"{text!r}")
    items: list[Any] = []
    names: list[str] = []
    at += 1
    commas = 0
    while at < len(tokens) and tokens[at] != ("mark", _CLOSING[text]):
        if text == "{":
            if tokens[at][0] != "text" or tokens[at + 1 : at + 2] != [("mark", ":")]:
                raise _NotUnderstood("a key that is no text")
            names.append(tokens[at][1])
            at += 2
        item, at = _parse(tokens, at, depth + 1)
        items.append(item)
        if tokens[at : at + 1] == [("mark", ",")]:
            commas += 1
            at += 1
        elif tokens[at : at + 1] != [("mark", _CLOSING[text])]:
            raise _NotUnderstood("values without a comma")
    if at >= len(tokens):
        raise _NotUnderstood("cut short")
    if text == "{":
        if len(set(names)) < len(names):
            raise _NotUnderstood("a key that is given twice")
        return dict(zip(names, items, strict=True)), at + 1
    if text == "[":
        return items, at + 1
    return (tuple(items) if commas or not items else items[0]), at + 1
