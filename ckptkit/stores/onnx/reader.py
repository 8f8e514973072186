"""ONNX models as stores: the tensors of their graphs (`graph`), and their values (`values`).

Nothing of a model is run, and neither onnx nor a runtime is imported.  An ONNX file has no magic
number: it is a protobuf message that begins with the version of its form and has a graph.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptkit._io.file_states import unchanged
from ckptkit.dtypes import itemsize, kind
from ckptkit.errors import CkptkitError, FormatError, UnknownTensorError
from ckptkit.stores.base import BLOCK_ELEMENTS, ModelInfo, StoredNames, TensorSpec
from ckptkit.stores.constant_roles import role_of_constant
from ckptkit.stores.constants import ConstantUse, Quantisation, checked
from ckptkit.stores.containers.byte_range import whole_file
from ckptkit.stores.containers.encoded_array import PLAIN, EncodedArray, Encoding
from ckptkit.stores.containers.packed_bits import BITS, unpacked
from ckptkit.stores.onnx.graph import external_locations, read_graph
from ckptkit.stores.onnx.operators import OnnxOperators, Scaled
from ckptkit.stores.onnx.sparse import check_indices
from ckptkit.stores.onnx.values import (
    OnnxPart,
    check_end,
    external_path,
    listed,
    place_tensor,
)
from ckptkit.stores.reopening import pickled
from ckptkit.text import list_text

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

_NUMBERS = ("float", "int", "uint")  # kinds of what is quantised, and of scales and zero points
_QUANTISED = ("DequantizeLinear", "QLinear", "Integer")  # in the names of ops with scales


@dataclass(frozen=True, slots=True)
class OnnxStore:
    """An ONNX model; made by `open_onnx`.

    of_sparse: the parts of sparse tensors, which are weights however few they are; of indices the
    shape of the whole, of others ().
    """

    path: Path
    specs: Mapping[str, TensorSpec]
    notes: tuple[str, ...]
    parts: Mapping[str, OnnxPart]
    shards: tuple[Path, ...]
    missing_shards: tuple[Path, ...]
    producer: str | None
    ops: tuple[str, ...]
    of_sparse: Mapping[str, tuple[int, ...]]

    def __reduce__(self) -> tuple[Any, ...]:
        return pickled(open_onnx, self.path, self.files)

    @property
    def files(self) -> tuple[Path, ...]:
        """See `StoreOfFiles`."""
        return self.shards

    @property
    def format(self) -> str:
        return "onnx"

    @property
    def style(self) -> str:
        return ""

    @property
    def structure(self) -> StoredNames:
        roles = {key: role_of_constant(spec) for key, spec in self.specs.items()}
        roles |= dict.fromkeys(self.of_sparse, "weight")
        if any(mark in op for op in self.ops for mark in _QUANTISED):
            operators = OnnxOperators(self.path, self.specs)
            roles |= dict.fromkeys(operators.scales(), "config")
            roles |= dict.fromkeys(operators.scaled, "weight")
        return StoredNames({key: (key, role, None) for key, role in roles.items()})

    @property
    def model(self) -> ModelInfo:
        return ModelInfo(ops=self.ops)

    def blocks(self, key: str, max_elements: int = BLOCK_ELEMENTS) -> Iterator[tuple[int, Array]]:
        """Yield (start, values) over the tensor; see `Store.blocks`."""
        spec, part = self._found(key)
        if not spec.size:
            return
        blocks: Iterable[tuple[int, Array]]
        if part.form == "list" or spec.dtype in BITS:
            whole = self._whole(spec, part)
            starts = range(0, len(whole), max_elements)
            blocks = ((start, whole[start : start + max_elements]) for start in starts)
        else:
            blocks = self._encoded(spec, part).blocks(max_elements)
        for start, values in blocks:
            if self.of_sparse.get(key):
                where = f"{self.path}: {key}"
                check_indices(start, values, spec.shape, self.of_sparse[key], where)
            yield start, values

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Array:
        """Return elements [start, stop); see `Store.read`."""
        spec, part = self._found(key)
        start, stop, _ = slice(start, stop).indices(spec.size)
        if part.form == "list" or spec.dtype in BITS:
            return self._whole(spec, part)[start:stop].copy()
        return self._encoded(spec, part).read(start, max(start, stop))

    def mappable(self, key: str) -> bool:
        """Whether the stored bytes are the values in native order."""
        spec, part = self._found(key)
        is_native = sys.byteorder == "little" or itemsize(spec.dtype) == 1
        is_checked = bool(self.of_sparse.get(key))  # where it is read, and so not as bytes alone
        return part.form == "raw" and spec.dtype not in BITS and is_native and not is_checked

    def quantisations(self) -> dict[str, Quantisation]:
        """Return what the integers of tensors stand for; see `StoreOfConstants`."""
        scaled = OnnxOperators(self.path, self.specs).scaled
        known: dict[tuple[Any, ...], tuple[Array, Array]] = {}  # what gives scales, they may share
        return {
            key: self._quantisation(key, how, known)
            for key, how in scaled.items()
            if kind(self.specs[key].dtype) in _NUMBERS
        }

    def uses(self) -> dict[str, ConstantUse]:
        """Return whose parameter each constant is; see `StoreOfConstants`."""
        return OnnxOperators(self.path, self.specs).uses()

    def _quantisation(
        self, key: str, how: Scaled, known: dict[tuple[Any, ...], tuple[Array, Array]]
    ) -> Quantisation:
        """Return the scales of a tensor and its zero points, read from those that give them."""
        import numpy as np

        rank = len(self.specs[key].shape)
        axis = how.axis + rank if how.axis < 0 else how.axis
        if how.block and 0 <= axis < rank:
            self._check_blocks(key, how, axis)
        shared = (how.scales, how.zero_points)
        if shared not in known:
            factors = [self._scale_numbers(name).astype(np.float64) for name in how.scales]
            zeros: Array = np.zeros(1, np.int64)
            if how.zero_points in self.specs:
                zeros = self._scale_numbers(how.zero_points).astype(np.int64)
            lengths = [len(part) for part in (*factors, zeros)]
            if len({*lengths} - {1}) > 1:
                found = list_text([str(length) for length in lengths])
                message = f"scales and zero points of different lengths: {found}"
                raise FormatError(f"{self.path}: {key}", message)
            scales: Array = np.ones(1)
            with np.errstate(all="ignore"):
                for factor in factors:
                    scales = scales * factor
            known[shared] = scales, zeros + np.zeros(len(scales), np.int64)
        scales, zeros = known[shared]
        quantisation = Quantisation(scales, zeros, axis, how.block)
        return checked(quantisation, self.specs[key], str(self.path))

    def _check_blocks(self, key: str, how: Scaled, axis: int) -> None:
        """Raise FormatError where there is not a scale for each block of a tensor."""
        shape = list(self.specs[key].shape)
        shape[axis] = -(-shape[axis] // how.block)
        found = list(self.specs[how.scales[0]].shape)
        if found != shape:
            where = f"{self.path}: {how.scales[0]}"
            raise FormatError(where, f"scales of {key}", expected=shape, found=found)

    def _scale_numbers(self, name: str) -> Array:
        """Return scales or zero points."""
        dtype = self.specs[name].dtype
        if kind(dtype) not in _NUMBERS:
            raise FormatError(f"{self.path}: {name}", f"a quantisation by values of {dtype}")
        return self.read(name)

    def _found(self, key: str) -> tuple[TensorSpec, OnnxPart]:
        try:
            return self.specs[key], self.parts[key]
        except KeyError:
            raise UnknownTensorError(f"no tensor {key!r}", where=str(self.path)) from None

    def _encoded(self, spec: TensorSpec, part: OnnxPart) -> EncodedArray:
        path = self.shards[part.shard]
        check_end(path, spec, part)
        encoding = Encoding("raw") if part.form == "opaque" else PLAIN
        where = f"{path}: {spec.key}"
        return EncodedArray(
            whole_file(path), part.offset, spec.nbytes, spec.dtype, spec.size, encoding, where
        )

    def _whole(self, spec: TensorSpec, part: OnnxPart) -> Array:
        """Return all elements of what does not lie one element after the other."""
        from ckptkit.dtypes import numpy_dtype

        path = self.shards[part.shard]
        if part.form == "list":
            return listed(path, spec, part)
        check_end(path, spec, part)
        packed = EncodedArray(
            whole_file(path), part.offset, spec.nbytes, "uint8", spec.nbytes, PLAIN, str(path)
        )
        values = unpacked(packed.read(0, spec.nbytes), BITS[spec.dtype], spec.size)
        return values.view(numpy_dtype(spec.dtype))


def open_onnx(path: Path) -> OnnxStore:
    """Return the store of an ONNX model; reads what lies between the values.

    Args:
        path: of the model; files of external data lie beside it.

    Raises:
        TruncatedError: the file ends early.
        FormatError: it is damaged, a tensor's description is broken, or its values are said to lie
            outside of the model's directory.
        UnsupportedError: values that are kept in a way that is not read.
    """
    graph = read_graph(path)
    specs: dict[str, TensorSpec] = {}
    parts: dict[str, OnnxPart] = {}
    files: dict[str, int] = {}
    for key, tensor in graph.tensors.items():
        specs[key], parts[key] = place_tensor(path, key, tensor, files)
    beside = tuple(unchanged(external_path(path, location)) for location in files)
    ops = sorted({f"{domain}.{op}".lstrip(".") for domain, op in graph.ops})
    return OnnxStore(
        path=path,
        specs=specs,
        notes=tuple(dict.fromkeys(graph.notes)),
        parts=parts,
        shards=(path, *beside),
        missing_shards=tuple(file for file in beside if not file.is_file()),
        producer=graph.producer or None,
        ops=tuple(ops),
        of_sparse=graph.of_sparse,
    )


def files_of_onnx(path: Path) -> list[Path]:
    """Return the files that a model is read from, there or not; those alone that it may name.

    Raises what `graph.read_graph` does.
    """
    files = [path]
    for location in external_locations(read_graph(path)):
        with suppress(CkptkitError):  # opening the model says why
            files.append(external_path(path, location))
    return files
