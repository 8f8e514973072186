"""Writing `.weights.h5` and `.keras`: new values into the layout of an existing file.

Groups, attributes, names, shapes and dtypes are those of the existing file, byte for byte; only the
bytes of the values differ.  The file is written in one pass, in the order in which the values lie
in it, so memory does not grow with the model.  Values that are not one run of bytes (chunked,
compressed, of foreign byte order) are first written through libhdf5 into a temporary copy.
A `.keras` archive keeps its members and their order; its dates are set to 1980-01-01, so that the
same input gives the same bytes.
"""

from __future__ import annotations

import math
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING

import ckptkit.dtypes as dtypes
from ckptkit._io.atomic import replacing
from ckptkit.errors import OutputError
from ckptkit.stores.containers.byte_range import ByteRange, whole_file
from ckptkit.stores.containers.zip_archive import STORED, member_chunks, read_directory
from ckptkit.stores.hdf5.types import H5Dataset
from ckptkit.stores.hdf5.values import write_dataset
from ckptkit.stores.keras.h5_store import H5Store
from ckptkit.stores.writing import Blocks, TensorToWrite, checked_blocks, numeric_chunks

if TYPE_CHECKING:
    pass

_COPY = 1 << 20  # bytes copied at a time
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that the format can tell
_WEIGHTS = "model.weights.h5"


def write_weights_h5(path: Path, like: H5Store, values: Blocks, *, overwrite: bool = False) -> None:
    """Write a `.weights.h5` file: the layout of another file, with other values.

    Args:
        path: of the file.
        like: a `.weights.h5`, `.keras` or `.h5` file, whose layout is taken.
        values: called once per key of `like.specs`, in the order of the file; yields
            (start, block) as `Store.blocks` does, in the dtype and size of the spec.
        overwrite: replace a file that is there.

    Raises:
        OutputError: the file is there already or cannot be written, the layout is in several
            files, or the values do not fit it.
        FormatError, PathNotFoundError: as reading `like` raises them.
    """
    source = _single_range(path, like)
    with replacing(path, overwrite=overwrite) as temporary, temporary.open("wb") as out:
        for chunk in _patched(path, like, source, values):
            out.write(chunk)


def write_keras(path: Path, like: H5Store, values: Blocks, *, overwrite: bool = False) -> None:
    """Write a `.keras` archive: model and assets of another one, with other values.

    Args:
        path: of the file.
        like: a `.keras` archive, whose model, assets and layout are taken.
        values: as of `write_weights_h5`.
        overwrite: replace a file that is there.

    Raises:
        OutputError: `like` is no `.keras` archive; and as `write_weights_h5`.
        FormatError, PathNotFoundError: as reading `like` raises them.
    """
    if like.format != "keras":
        raise OutputError(
            f"a .keras archive needs one as its layout, not {like.format}",
            where=str(path),
            hint="give the .keras file of the model",
        )
    source = _single_range(path, like)
    members = read_directory(like.path)
    with (
        replacing(path, overwrite=overwrite) as temporary,
        zipfile.ZipFile(temporary, "w") as archive,
    ):
        for name, member in members.items():
            info = zipfile.ZipInfo(name, _ZIP_DATE)
            info.compress_type = STORED if name == _WEIGHTS else member.method
            with archive.open(info, "w", force_zip64=member.nbytes >= 1 << 31) as out:
                if name == _WEIGHTS:
                    _copy(_patched(path, like, source, values), out)
                else:
                    _copy(member_chunks(like.path, member), out)


def _copy(chunks: Iterator[bytes | memoryview], out: IO[bytes]) -> None:
    for chunk in chunks:
        out.write(chunk)


def _single_range(path: Path, like: H5Store) -> ByteRange:
    if len(like.ranges) != 1:
        raise OutputError(
            f"the layout is spread over {len(like.ranges)} shards",
            where=str(path),
            hint="give a file that is in one piece",
        )
    return like.ranges[0]


# --- one pass over the file -----------------------------------------------------------------------


def _patched(
    path: Path, like: H5Store, source: ByteRange, values: Blocks
) -> Iterator[bytes | memoryview]:
    """Yield the bytes of the layout's HDF5 file, in order, with the values put in."""
    direct = [d for d in like.datasets.values() if d.offset is not None and d.size]
    others = [d for d in like.datasets.values() if d.offset is None and d.size]
    keys = {d.path: key for key, d in like.datasets.items()}
    _refuse_shared(path, direct)
    with _with_others(path, source, others, keys, values) as base:
        at = 0
        for dataset in sorted(direct, key=_place):
            yield from _gap(base, at, _place(dataset))
            tensor = _tensor(path, keys[dataset.path], dataset)
            for piece in numeric_chunks(tensor, values, str(path)):
                yield piece.view
            at = _place(dataset) + dataset.nbytes
        yield from _gap(base, at, base.nbytes)


def _place(dataset: H5Dataset) -> int:
    assert dataset.offset is not None
    return dataset.offset


def _refuse_shared(path: Path, datasets: list[H5Dataset]) -> None:
    """Two names of one run of bytes cannot take two values."""
    for one, other in pairwise(sorted(datasets, key=_place)):
        if _place(one) + one.nbytes > _place(other):
            raise OutputError(
                f"{one.path} and {other.path} share their bytes in the layout", where=str(path)
            )


def _gap(base: ByteRange, start: int, stop: int) -> Iterator[bytes]:
    for at in range(start, stop, _COPY):
        yield base.read(at, min(_COPY, stop - at))


def _tensor(path: Path, key: str, dataset: H5Dataset) -> TensorToWrite:
    """Return what a dataset takes; opaque values are checked as bytes."""
    if dataset.dtype == "string":
        raise OutputError(
            f"{key!r} holds strings, which are not written into HDF5", where=str(path)
        )
    shape = dataset.shape
    dtype = dataset.dtype
    if dtypes.kind(dtype) == "opaque":
        dtype, shape = "uint8", (math.prod(shape) * (dataset.width or 1),)
    return TensorToWrite(key, dtype, shape)


@contextmanager
def _with_others(
    path: Path, source: ByteRange, others: list[H5Dataset], keys: dict[str, str], values: Blocks
) -> Iterator[ByteRange]:
    """Yield what to copy from: the layout itself, or a copy in which `others` are written."""
    if not others:
        yield source
        return
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".ckptkit-") as directory:
        copy = Path(directory) / "layout.h5"
        with copy.open("wb") as out:
            for chunk in _gap(source, 0, source.nbytes):
                out.write(chunk)
        for dataset in others:
            tensor = _tensor(path, keys[dataset.path], dataset)
            blocks = checked_blocks(tensor, values, str(path))
            write_dataset(copy, dataset, blocks)
        yield whole_file(copy)


__all__ = ["write_keras", "write_weights_h5"]
