"""The header of a safetensors file: see `ckptkit.stores.safetensors.reader` for the format."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ckptkit._io.files import file_size, read_exact
from ckptkit.errors import FormatError, TruncatedError
from ckptkit.stores.containers import strict_json

MAX_HEADER = 100_000_000  # bytes; the reference reader's limit
LENGTH_BYTES = 8
METADATA = "__metadata__"
_LIMIT = 1 << 64  # the reference computes sizes, in bits, in 64-bit integers


class DtypeCode(NamedTuple):
    """One dtype of the format: our name for it and its size in bits."""

    dtype: str
    bits: int


CODES = {
    "BOOL": DtypeCode("bool", 8),
    "F4": DtypeCode("float4_e2m1fn", 4),
    "F6_E2M3": DtypeCode("float6_e2m3fn", 6),  # how elements are packed is nowhere laid down
    "F6_E3M2": DtypeCode("float6_e3m2fn", 6),
    "U8": DtypeCode("uint8", 8),
    "I8": DtypeCode("int8", 8),
    "F8_E5M2": DtypeCode("float8_e5m2", 8),
    "F8_E4M3": DtypeCode("float8_e4m3fn", 8),
    "F8_E8M0": DtypeCode("float8_e8m0fnu", 8),
    "F8_E4M3FNUZ": DtypeCode("float8_e4m3fnuz", 8),
    "F8_E5M2FNUZ": DtypeCode("float8_e5m2fnuz", 8),
    "I16": DtypeCode("int16", 16),
    "U16": DtypeCode("uint16", 16),
    "F16": DtypeCode("float16", 16),
    "BF16": DtypeCode("bfloat16", 16),
    "I32": DtypeCode("int32", 32),
    "U32": DtypeCode("uint32", 32),
    "F32": DtypeCode("float32", 32),
    "C64": DtypeCode("complex64", 64),
    "F64": DtypeCode("float64", 64),
    "I64": DtypeCode("int64", 64),
    "U64": DtypeCode("uint64", 64),
}


class TensorHeader(NamedTuple):
    """One tensor of a header; `begin` and `end` count from the end of the header."""

    code: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Header(NamedTuple):
    """What the front of a file says; tensors by name, in the order of their bytes."""

    tensors: dict[str, TensorHeader]
    metadata: dict[str, str]
    data_start: int


def read_header(path: Path) -> Header:
    """Return the header of a file, everything in it checked against everything else.

    Raises FormatError, TruncatedError, PathNotFoundError.
    """
    where = str(path)
    size = file_size(path)
    if size < LENGTH_BYTES:
        raise TruncatedError(
            where, "too short for safetensors", expected="8 bytes at least", found=size
        )
    length = int.from_bytes(read_exact(path, 0, LENGTH_BYTES), "little")
    if length > MAX_HEADER:
        raise FormatError(
            where,
            "size of the safetensors header",
            expected=f"at most {MAX_HEADER} bytes",
            found=length,
            hint="not a safetensors file, or a damaged one",
        )
    if LENGTH_BYTES + length > size:
        raise TruncatedError(
            where,
            "safetensors header reaches past the end",
            expected=f"a file of at least {LENGTH_BYTES + length} bytes",
            found=size,
            hint="the file was cut short; copy it again",
        )
    data = read_exact(path, LENGTH_BYTES, length)
    return parse_header(data, size - LENGTH_BYTES - length, where)


def parse_header(data: bytes, data_bytes: int, where: str) -> Header:
    """Return the checked header of a file with `data_bytes` bytes after it; raises FormatError."""
    where = f"{where}: header"
    content = strict_json.loads(data, where, max_bytes=MAX_HEADER, max_depth=strict_json.MAX_DEPTH)
    if not isinstance(content, dict):
        raise FormatError(where, "not a JSON object", found=type(content).__name__)
    metadata = content.pop(METADATA, None)
    if metadata is None:
        metadata = {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FormatError(where, f"{METADATA} is not a map from strings to strings")
    tensors = {name: _info(name, value, where) for name, value in content.items()}
    tensors = dict(sorted(tensors.items(), key=lambda item: item[1][2:]))
    end = 0
    for name, info in tensors.items():
        _check_info(name, info, end, where)
        end = info.end
    if end != data_bytes:
        error = TruncatedError if end > data_bytes else FormatError
        raise error(
            where,
            "the tensors do not fill the file",
            expected=f"{end} bytes after the header",
            found=data_bytes,
            hint="the file was cut short or something was appended; copy it again",
        )
    return Header(tensors, metadata, LENGTH_BYTES + len(data))


def _info(name: str, value: Any, where: str) -> TensorHeader:
    """Return one tensor's entry.  The reference takes a list of the three fields as well."""
    if isinstance(value, list) and len(value) == 3:
        code, shape, offsets = value
    elif isinstance(value, dict):
        missing = [field for field in ("dtype", "shape", "data_offsets") if field not in value]
        if missing:
            raise FormatError(where, f"{name!r} has no {missing[0]}")
        code, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
        if len(value) > 3:
            _check_rest(name, value, where)
    else:
        raise FormatError(where, f"the entry of {name!r} is not an object")
    if isinstance(code, dict) and list(code.values()) == [None]:  # serde's other form of a variant
        (code,) = code
    if not isinstance(code, str) or code not in CODES:
        raise FormatError(where, f"{name!r} has an unknown dtype", found=repr(code))
    if not isinstance(shape, list) or not all(map(_is_size, shape)):
        raise FormatError(where, f"the shape of {name!r} is not a list of sizes")
    if not (isinstance(offsets, list) and len(offsets) == 2 and all(map(_is_size, offsets))):
        raise FormatError(where, f"the data_offsets of {name!r} are not two offsets")
    return TensorHeader(code, tuple(shape), offsets[0], offsets[1])


def _check_rest(name: str, entry: dict[str, Any], where: str) -> None:
    """Refuse numbers beyond float64 in fields that nobody reads, as the reference does."""
    pending: list[Any] = list(entry.values())
    while pending:
        item = pending.pop()
        if isinstance(item, (dict, list)):
            pending.extend(item.values() if isinstance(item, dict) else item)
        elif isinstance(item, int) and item.bit_length() > 1024:
            raise FormatError(where, f"a number out of range in the entry of {name!r}")


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < _LIMIT


def _check_info(name: str, info: TensorHeader, start: int, where: str) -> None:
    """Check one tensor, in the order of the reference; `start` is where it has to begin."""
    if info.begin != start or info.end < info.begin:
        raise FormatError(
            where,
            f"{name!r} leaves a gap or overlaps",
            expected=f"data_offsets from {start}",
            found=f"[{info.begin}, {info.end}]",
        )
    size = _size(info.shape)
    bits = size * CODES[info.code].bits
    if size >= _LIMIT or bits >= _LIMIT:
        raise FormatError(where, f"the shape of {name!r} is beyond measure", found=info.shape)
    if bits % 8:
        raise FormatError(where, f"{name!r} does not end on a whole byte: {info.code}{info.shape}")
    if bits // 8 != info.end - info.begin:
        raise FormatError(
            where,
            f"{name!r} is {info.code}{list(info.shape)}",
            expected=f"{bits // 8} bytes",
            found=info.end - info.begin,
        )


def _size(shape: tuple[int, ...]) -> int:
    """Return the number of elements, or what is beyond measure."""
    size = 1
    for axis in shape:
        size *= axis
        if size >= _LIMIT:
            break
    return size


def whole_bytes(code: str, shape: tuple[int, ...]) -> int | None:
    """Return the bytes of a tensor; None where they are no whole number, or beyond measure."""
    bits = _size(shape) * CODES[code].bits
    return None if bits >= _LIMIT or bits % 8 else bits // 8
