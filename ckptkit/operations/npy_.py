"""One tensor into a `.npy` file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ckptkit._io.atomic import replacing
from ckptkit.dtypes import kind
from ckptkit.errors import UnsupportedError
from ckptkit.operations.show import Shown

if TYPE_CHECKING:
    from ckptkit.dtypes import Array


def write_npy(shown: Shown, path: Path, *, whole: bool, overwrite: bool = False) -> str | None:
    """Write a tensor (`whole`) or the shown slice of it, streamed, never half a file.

    bfloat16, float8 and sub-byte integers, which numpy alone cannot read, are written as their
    bits; the dtype of those (uint16 or uint8) is returned then, else None.
    Raises OutputError, and UnsupportedError (strings, opaque).
    """
    import numpy as np
    from numpy.lib import format as npy_format

    spec = shown.spec
    if kind(spec.dtype) in ("opaque", "string"):
        raise UnsupportedError(
            f"{spec.dtype} tensors cannot be written as .npy without pickle", where=spec.key
        )
    first = shown.checkpoint.store.read(spec.key, 0, 0)
    plain = _plain(first).dtype
    with replacing(path, overwrite=overwrite) as temporary, temporary.open("wb") as file:
        if not whole:
            assert shown.values is not None
            npy_format.write_array(file, _plain(shown.values), allow_pickle=False)
        else:
            header = {
                "descr": npy_format.dtype_to_descr(plain),
                "fortran_order": False,
                "shape": spec.shape,
            }
            npy_format.write_array_header_1_0(file, header)
            for _start, values in shown.checkpoint.store.blocks(spec.key):
                file.write(np.ascontiguousarray(_plain(values)).data)
    return None if plain == first.dtype else str(plain)


def _plain(values: Array) -> Array:
    """View dtypes that numpy alone does not know as unsigned integers of their width."""
    if values.dtype.isbuiltin == 1:
        return values
    return values.view(f"u{values.dtype.itemsize}")
