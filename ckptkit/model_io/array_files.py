"""Named arrays in a file, for exchange with another process and for goldens.

The file is an npz that plain `numpy.load` opens without pickle (see `ckptkit.stores.npz.reader`):
dtypes that numpy lacks (bfloat16, float8, int4) are kept as unsigned integers and strings that
are no fixed-width text as bytes and end offsets; the member `ckptkit.json` says which.  The same
arrays give the same bytes.  A name that cannot be the name of an archive member is percent-encoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ckptkit._io.file_states import is_file
from ckptkit._io.files import file_size
from ckptkit.dtypes import dtype_of_numpy
from ckptkit.errors import FormatError, PathNotFoundError, UnsupportedError, UsageError
from ckptkit.stores.base import BLOCK_ELEMENTS, shaped
from ckptkit.wording import say

if TYPE_CHECKING:
    from ckptkit.dtypes import Array
    from ckptkit.stores.npz.reader import NpzStore

_FREE_ELEMENTS = 1 << 20  # that may take no bytes
MAX_MEMBER_NAME = 60_000  # bytes; a zip archive takes 65,535, and ".npy" follows


def as_array(value: Any) -> Array:
    """Return `value` as an array that can be kept: native byte order, strings as objects of bytes.

    Raises UsageError for Python objects that are neither bytes nor text, and for records and dates.
    """
    import numpy as np

    array = np.asarray(value)
    if array.dtype.kind in "SU":
        array = array.astype(object)
    if array.dtype == object:
        return _as_bytes(array)
    try:
        dtype_of_numpy(array.dtype)
    except UnsupportedError as error:
        raise UsageError(error.message, hint="give numbers or strings") from error
    native = array.dtype.newbyteorder("=") if array.dtype.kind in "iufc" else array.dtype
    return np.asarray(array, dtype=native, order="C")


def _as_bytes(array: Array) -> Array:
    import numpy as np

    flat = np.empty(array.size, object)
    for index, item in enumerate(array.reshape(-1)):
        if isinstance(item, str):
            flat[index] = item.encode()
        elif isinstance(item, bytes):
            flat[index] = bytes(item)
        else:
            raise UsageError(
                f"an array of objects holds a {type(item).__name__}",
                hint="only numbers, bytes and text are kept",
            )
    return flat.reshape(array.shape)


def save_arrays(
    path: Path, arrays: Mapping[str, Any], *, compress: bool = False, overwrite: bool = False
) -> dict[str, dict[str, Any]]:
    """Write the arrays to an npz file; return {name: {"dtype", "shape"}}, with "member" if encoded.

    Equal bytes of deflated files (`compress`) are promised for one version of zlib only.
    Raises OutputError; UsageError for values that cannot be kept.
    """
    from ckptkit.stores.npz.writer import write_npz
    from ckptkit.stores.writing import TensorToWrite

    converted = {name: as_array(value) for name, value in arrays.items()}
    members = {name: member_name(name) for name in converted}
    by_member = {members[name]: array for name, array in converted.items()}
    tensors = [
        TensorToWrite(members[name], dtype_of_numpy(array.dtype), array.shape, name=name)
        for name, array in converted.items()
    ]

    def blocks(key: str) -> Iterator[tuple[int, Array]]:
        flat = by_member[key].reshape(-1)
        for start in range(0, flat.size, BLOCK_ELEMENTS):
            yield start, flat[start : start + BLOCK_ELEMENTS]

    write_npz(path, tensors, blocks, compress=compress, overwrite=overwrite)
    return describe(converted)


def describe(arrays: Mapping[str, Array]) -> dict[str, dict[str, Any]]:
    """Return what `save_arrays` returns for these arrays (made by `as_array`)."""
    described: dict[str, dict[str, Any]] = {}
    for name, array in sorted(arrays.items()):
        entry: dict[str, Any] = {"dtype": dtype_of_numpy(array.dtype), "shape": list(array.shape)}
        if member_name(name) != name:
            entry["member"] = member_name(name)
        described[name] = entry
    return described


def member_name(name: str) -> str:
    """Return the archive member (without `.npy`) for an array's name; one-to-one."""
    from ckptkit.stores.npz.writer import is_safe_name

    plain = "%" not in name and is_safe_name(name) and len(name.encode()) <= MAX_MEMBER_NAME
    if plain and name:
        return name
    # an empty name, and names that a zip archive must not hold: nothing else starts with "%"
    return "%" + quote(name, safe="")


def load_arrays(
    path: Path, described: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Array]:
    """Return the arrays of a file that `save_arrays` wrote, checksums compared.

    described: what it must hold; anything missing, extra, or of another dtype or shape is refused.
    Raises FormatError, TruncatedError, ChecksumError, PathNotFoundError.
    """
    from urllib.parse import unquote

    from ckptkit.stores.npz.reader import open_npz

    store = open_npz(path)
    keys = {unquote(key[1:]) if key.startswith("%") else key: key for key in store.specs}
    if described is not None:
        _check(path, store, keys, described)
    return {name: read_array(store, key) for name, key in keys.items()}


def read_array(store: NpzStore, key: str) -> Array:
    """Return one array of an npz in its shape; its checksum is compared."""
    import numpy as np

    from ckptkit.dtypes import numpy_dtype

    spec = store.specs[key]
    where = f"{store.path}: {key}"
    dtype = np.dtype(object) if spec.dtype == "string" else numpy_dtype(spec.dtype)
    if spec.size > spec.nbytes + _FREE_ELEMENTS:  # strings of no bytes at all: memory from nothing
        raise FormatError(where, f"{spec.size} elements in {spec.nbytes} bytes")
    flat = np.empty(spec.size, dtype)
    for start, values in store.blocks(key):
        flat[start : start + len(values)] = values
    return shaped(flat, spec.shape, where)


def _check(
    path: Path,
    store: NpzStore,
    keys: Mapping[str, str],
    described: Mapping[str, Mapping[str, Any]],
) -> None:
    if set(keys) != set(described):
        raise FormatError(
            str(path),
            "arrays in the file",
            expected=", ".join(sorted(described)) or "none",
            found=", ".join(sorted(keys)) or "none",
        )
    for name, entry in described.items():
        spec = store.specs[keys[name]]
        if (entry.get("dtype"), entry.get("shape")) != (spec.dtype, list(spec.shape)):
            raise FormatError(
                f"{path}: {name}",
                "array",
                expected=f"{entry.get('dtype')} {entry.get('shape')}",
                found=f"{spec.dtype} {list(spec.shape)}",
            )


def load_inputs(path: Path) -> dict[str, Array]:
    """Return the arrays of a user's `.npz` file by name, or a lone `.npy` under the name "".

    Fixed-width text becomes an array of bytes objects.  Nothing is unpickled.  Raises UsageError
    for an empty file and for dtypes that no model takes; PathNotFoundError, FormatError.
    """
    from ckptkit.stores.npz.reader import open_npz

    if not is_file(path):
        raise PathNotFoundError(
            "no such file", where=str(path), hint=say("‹inputs› takes an npz file")
        )
    if path.suffix == ".npy":
        return {"": _load_npy(path)}
    store = open_npz(path)
    if not store.specs:
        raise UsageError("the file holds no arrays", where=str(path))
    for key, spec in store.specs.items():
        _check_input(spec.dtype, f"{path}: {key}")
    return {key: read_array(store, key) for key in store.specs}


def _check_input(dtype: str, where: str) -> None:
    from ckptkit.dtypes import kind

    if dtype == "object":
        raise UsageError(
            "pickled Python objects are never loaded",
            where=where,
            hint="save numbers, or text as numpy.array([...], dtype='S')",
        )
    if kind(dtype) == "opaque":
        raise UsageError(
            f"no model takes an array of {dtype}",
            where=where,
            hint="numpy drops bfloat16 when it saves: save float32, it is cast for the model",
        )


def _load_npy(path: Path) -> Array:
    """Return the array of a lone npy file, read as if it were the one member of an archive."""
    from ckptkit.stores.containers import zip_archive
    from ckptkit.stores.containers.byte_range import ByteRange
    from ckptkit.stores.containers.encoded_array import EncodedArray
    from ckptkit.stores.npz import column_major
    from ckptkit.stores.npz.npy import decode_descr, read_npy_header

    member = zip_archive.Member(
        path.name, zip_archive.STORED, 0, file_size(path), file_size(path), 0
    )
    header = read_npy_header(path, member)
    dtype, encoding, width = decode_descr(header.descr, str(path))
    _check_input(dtype, str(path))
    size = 1
    for axis in header.shape:
        size *= axis
    # refused before anything is read: a header may promise more than the file holds
    nbytes = member.nbytes - header.start
    if width is None or nbytes != size * width:
        raise FormatError(
            str(path), f"values of {header.descr} {header.shape}", found=f"{nbytes} bytes"
        )
    source = ByteRange(path, header.start, nbytes)
    encoded = EncodedArray(source, 0, nbytes, dtype, size, encoding, str(path))
    if header.fortran and size:
        flat = column_major.read(encoded, header.shape, 0, size)
    else:
        flat = encoded.read(0, size)
    return shaped(flat, header.shape, str(path))
