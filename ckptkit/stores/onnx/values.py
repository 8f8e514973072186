"""The values of an ONNX tensor: raw bytes here or in another file, or a typed list.

`raw_data` and external data are little-endian, row-major; integers of four bits lie two to a byte
and of two bits four to a byte, the first in the low bits.  Lists have types of their own: small
integers, booleans, float16 and the like are bits in `int32_data`, one element or one packed byte in
each number; complex numbers are two floats.  Source: onnx/onnx.proto (TensorProto),
onnx/numpy_helper.py (`to_array`), onnx/external_data_helper.py.
"""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from ckptkit._io.files import file_size, read_exact
from ckptkit.dtypes import itemsize, kind, numpy_dtype
from ckptkit.errors import FormatError, UnsupportedError
from ckptkit.stores.base import TensorSpec
from ckptkit.stores.containers.packed_bits import BITS, stored_bytes, unpacked
from ckptkit.stores.onnx.graph import OnnxTensor

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

DTYPES = dict(
    enumerate(
        (
            *("float32", "uint8", "int8", "uint16", "int16", "int32", "int64", "string", "bool"),
            *("float16", "float64", "uint32", "uint64", "complex64", "complex128", "bfloat16"),
            *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "uint4"),
            *("int4", "float4_e2m1fn", "float8_e8m0fnu", "uint2", "int2"),
            *("float6_e2m3fn", "float6_e3m2fn"),  # whose values are not read
        ),
        start=1,
    )
)
_FLOATS, _INT32S, _TEXTS, _INT64S, _DOUBLES, _UINT64S = 4, 5, 6, 7, 10, 11  # fields of the lists
_LISTS = {
    "float32": _FLOATS,
    "complex64": _FLOATS,
    "float64": _DOUBLES,
    "complex128": _DOUBLES,
    "int64": _INT64S,
    "uint64": _UINT64S,
    "uint32": _UINT64S,
    "string": _TEXTS,
}
_MAX_ELEMENTS = (1 << 63) - 1


class OnnxPart(NamedTuple):
    """Where the values of a tensor lie.

    shard: index into the store's files.  form: "raw" (a run of bytes), "list" (a typed list),
    "opaque" (bytes of a dtype that is not known).  offset: of the bytes.  places: (start, end) of
    each run of a list.  is_whole_file: the file must end where the values do.
    """

    shard: int
    form: str
    offset: int = 0
    places: tuple[tuple[int, int], ...] = ()
    is_whole_file: bool = False


def external_path(model: Path, location: str) -> Path:
    """Return the file that external data of a model lie in; raises FormatError, UnsupportedError.

    It lies in the model's directory or below it, links followed.  Where the model itself is a link,
    as in a hub's cache, the file may lie beside what that leads to.
    """
    where, parts = str(model), PurePosixPath(location).parts
    if location.startswith("*/"):  # "*/_ORT_MEM_ADDR_/*": an address in the memory of a process
        raise UnsupportedError("values that lie in the memory of a process", where=where)
    if not parts or location.startswith("/") or ".." in parts or set("\\\0") & set(location):
        raise FormatError(
            where,
            "external data outside of the model's directory",
            expected="the name of a file in it",
            found=repr(location),
        )
    path = model.parent / location
    try:
        real, homes = path.resolve(), (model.parent.resolve(), model.resolve().parent)
    except (OSError, RuntimeError, ValueError) as error:
        raise FormatError(where, f"external data at {location!r}: {error}") from None
    if not any(real.is_relative_to(home) for home in homes):
        raise FormatError(
            where,
            f"external data at {location!r}, a link that leads out of the model's directory",
            hint="put the file itself beside the model",
        )
    return path


def place_tensor(
    path: Path, key: str, tensor: OnnxTensor, files: dict[str, int]
) -> tuple[TensorSpec, OnnxPart]:
    """Return what a tensor is and where its values lie.

    Args:
        path: of the model.
        key: of the tensor.
        tensor: as the model describes it.
        files: index of each file of external data by its location; new ones are added.

    Raises:
        FormatError: its dtype, shape or number of bytes contradict one another, or its values lie
            where they must not.
    """
    where = f"{path}: {key}"
    dims, size = tensor.dims, math.prod(tensor.dims)
    if any(n < 0 for n in dims) or size > _MAX_ELEMENTS:
        raise FormatError(where, f"impossible shape {list(dims)}")
    if not tensor.data_type:
        raise FormatError(where, "a tensor without a data type")
    dtype = DTYPES.get(tensor.data_type, f"onnx#{tensor.data_type}")
    is_known = dtype == "string" or itemsize(dtype) > 0
    nbytes = stored_bytes(dtype, size)
    if tensor.external is not None:
        if dtype == "string" or (not is_known and "length" not in tensor.external):
            raise UnsupportedError(f"{dtype} values in another file", where=where)
        return _outside(path, key, tensor.external, TensorSpec(key, dtype, dims, nbytes), files)
    if tensor.raw is not None and dtype != "string":
        found = tensor.raw.end - tensor.raw.start
        if is_known and found != nbytes:
            raise FormatError(where, f"bytes of {dtype} {list(dims)}", expected=nbytes, found=found)
        offset = tensor.raw.start
        spec = TensorSpec(key, dtype, dims, found, 0, offset if dtype not in BITS else None)
        return spec, OnnxPart(0, "raw" if is_known else "opaque", offset)
    items = tensor.lists.get(_LISTS.get(dtype, _INT32S), []) if is_known else []
    places = tuple((item.start, item.end) for item in items)
    if dtype == "string":
        nbytes = sum(end - start for start, end in places)
    return TensorSpec(key, dtype, dims, nbytes, 0), OnnxPart(0, "list", 0, places)


def _outside(
    path: Path, key: str, external: dict[str, str], spec: TensorSpec, files: dict[str, int]
) -> tuple[TensorSpec, OnnxPart]:
    where = f"{path}: {key}"
    location = external.get("location", "")
    if location not in files:
        external_path(path, location)
    offset = _whole(external.get("offset", "0"), "offset", where)
    length = external.get("length")
    is_known = itemsize(spec.dtype) > 0
    if not is_known:
        spec = spec._replace(nbytes=_whole(external["length"], "length", where))
    if length is not None and _whole(length, "length", where) != spec.nbytes:
        raise FormatError(where, "bytes in another file", expected=spec.nbytes, found=length)
    shard = files.setdefault(location, len(files) + 1)
    spec = spec._replace(shard=shard, offset=offset if spec.dtype not in BITS else None)
    form = "raw" if is_known else "opaque"
    return spec, OnnxPart(shard, form, offset, is_whole_file=length is None)


def _whole(text: str, what: str, where: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 19:
        raise FormatError(where, f"the {what} of its values is {text!r}", expected="a number")
    return int(text)


def check_end(path: Path, spec: TensorSpec, part: OnnxPart) -> None:
    """Raise FormatError where values that have no length do not end with their file."""
    if part.is_whole_file and file_size(path) != part.offset + spec.nbytes:
        raise FormatError(
            f"{path}: {spec.key}",
            "values without a length, which reach to the end of their file",
            expected=f"{spec.nbytes} bytes",
            found=f"{file_size(path) - part.offset}",
        )


def listed(path: Path, spec: TensorSpec, part: OnnxPart) -> Array:
    """Return all elements of a typed list, 1-D; raises FormatError where they are no such list."""
    import numpy as np

    runs = [read_exact(path, start, end - start) for start, end in part.places]
    where, dtype, size = f"{path}: {spec.key}", spec.dtype, spec.size
    if kind(dtype) == "opaque":
        raise UnsupportedError(f"{dtype} values in a typed list", where=where)
    if dtype == "string":
        _check_count(where, len(runs), size)
        texts = np.empty(size, object)
        texts[:] = runs
        return texts
    wanted = numpy_dtype(dtype)
    number = _LISTS.get(dtype, _INT32S)
    if number in (_FLOATS, _DOUBLES):
        code = "<f4" if number == _FLOATS else "<f8"
        data = b"".join(runs)
        _check_count(where, len(data), size * wanted.itemsize)
        return np.frombuffer(data, code).astype(code[1:]).view(wanted)
    values = _varints(runs, where)
    bits = BITS.get(dtype)
    _check_count(where, len(values), stored_bytes(dtype, size) if bits else size)
    if bits:
        return unpacked(values.astype(np.uint8), bits, size).view(wanted)
    return values.astype(f"u{wanted.itemsize}").view(wanted)


def _check_count(where: str, found: int, expected: int) -> None:
    if found != expected:
        raise FormatError(where, "its values do not fill its shape", expected=expected, found=found)


def _varints(runs: list[bytes], where: str) -> Array:
    """Return the numbers of packed or single varints, modulo 2**64."""
    import numpy as np

    if any(run and run[-1] > 0x7F for run in runs):
        raise FormatError(where, "a number that does not end")
    data = np.frombuffer(b"".join(runs), np.uint8)
    ends = np.flatnonzero(data < 0x80) + 1
    if not len(ends):
        return np.empty(0, np.uint64)
    starts = np.concatenate(([0], ends[:-1]))
    widths = ends - starts
    most = int(widths.max())
    if most > 10:
        raise FormatError(where, "a number of more than ten bytes")
    values = np.zeros(len(ends), np.uint64)
    for place in range(most):
        there = widths > place
        part = (data[starts[there] + place] & 0x7F).astype(np.uint64)
        values[there] |= part << np.uint64(7 * place)
    return values
