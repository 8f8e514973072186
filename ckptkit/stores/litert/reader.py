"""LiteRT (TensorFlow Lite) models as stores: the tensors whose values are in the file.

A model is a flatbuffer: subgraphs of tensors and ops, and buffers.  A tensor is a constant where
its buffer holds bytes; the interpreter maps them, and no op writes them.  Values are little-endian,
row-major; integers of four and two bits lie several to a byte, the first in the low bits; strings
are i32 count, i32 offsets of each and of the end, their bytes.  Buffers of models over 2 GB lie
behind the flatbuffer, by offset and size.

Values are listed as they are stored.  A quantised tensor stands for scale * (value - zero_point),
with one of each, or one for every index along an axis; a note says which.  A sparse tensor
(`sparsity`) is listed whole, with its zeros.
Source: tensorflow/compiler/mlir/lite/schema/schema.fbs,
tensorflow/lite/core/interpreter_builder.cc.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptkit.dtypes import itemsize, kind, numpy_dtype
from ckptkit.errors import FormatError, UnknownTensorError, UnsupportedError
from ckptkit.stores.base import BLOCK_ELEMENTS, ModelInfo, StoredNames, TensorSpec
from ckptkit.stores.constant_roles import role_of_constant
from ckptkit.stores.constants import ConstantUse, Quantisation, checked
from ckptkit.stores.containers.byte_range import whole_file
from ckptkit.stores.containers.encoded_array import PLAIN, EncodedArray, Encoding
from ckptkit.stores.containers.packed_bits import BITS, stored_bytes, unpacked
from ckptkit.stores.litert.flatbuffer import Flatbuffer
from ckptkit.stores.litert.operators import (
    AXIS,
    BLOCK_SCALES,
    BLOCK_SIZE,
    BLOCK_ZEROS,
    BLOCKWISE,
    CODES,
    DETAILS,
    DETAILS_TYPE,
    NAME,
    SCALE,
    SUBGRAPHS,
    TENSORS,
    ZERO_POINT,
    constant_uses,
    read_quantisation,
)
from ckptkit.stores.litert.sparsity import MAX_ZEROS, places_of_values
from ckptkit.stores.reopening import pickled
from ckptkit.text import count_text

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

_DTYPES = (
    *("float32", "float16", "int32", "uint8", "int64", "string", "bool", "int16", "complex64"),
    *("int8", "float64", "complex128", "uint64", "resource", "variant", "uint32", "uint16"),
    *("int4", "bfloat16", "int2", "uint4", "float8_e4m3fn", "float8_e5m2"),
)
_DESCRIPTION, _BUFFERS = 3, 4  # fields of Model
_GRAPH_NAME = 4  # field of SubGraph
_SHAPE, _TYPE, _BUFFER, _QUANTIZATION = 0, 1, 2, 4  # fields of Tensor
_SPARSITY, _EXTERNAL = 6, 10  # of Tensor
_DATA, _OFFSET, _SIZE = 0, 1, 2  # fields of Buffer
_CUSTOM_CODE = 1  # field of OperatorCode
WHAT = "a LiteRT model"
_MAX_RANK = 256
_MAX_ELEMENTS = (1 << 63) - 1
_NOTED = 4  # quantised tensors that a note names


class LitertBlocks(NamedTuple):
    """Scales of blocks of elements.  scales, zeros: keys of tensors, "" where all zeros are 0."""

    scales: str
    zeros: str
    axis: int
    size: int


class LitertPart(NamedTuple):
    """Where the values of a tensor lie: form "raw", "strings", "sparse" or "opaque", at an offset.

    quantised: the place of the table that has its scales; 0 for none.  sparsity: of the one that
    tells where its values belong.  nbytes: of those values, of a sparse tensor.  blocks: how it is
    quantised, where a scale is that of a block.
    """

    form: str
    offset: int
    quantised: int
    sparsity: int = 0
    nbytes: int = 0
    blocks: LitertBlocks | None = None

    def is_whole(self, dtype: str) -> bool:
        """Whether elements do not lie one behind the other, and all are read at once."""
        return self.form == "strings" or (dtype in BITS and self.form == "raw")


@dataclass(frozen=True, slots=True)
class LitertStore:
    """A LiteRT model; made by `open_litert`.

    n_sparse: elements of all tensors that are sparse, zeros as well.
    """

    path: Path
    specs: Mapping[str, TensorSpec]
    notes: tuple[str, ...]
    parts: Mapping[str, LitertPart]
    producer: str | None
    ops: tuple[str, ...]
    n_sparse: int = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return pickled(open_litert, self.path, self.files)

    @property
    def files(self) -> tuple[Path, ...]:
        """See `StoreOfFiles`."""
        return (self.path,)

    @property
    def format(self) -> str:
        return "tflite"

    @property
    def style(self) -> str:
        return ""

    @property
    def shards(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def missing_shards(self) -> tuple[Path, ...]:
        return ()

    @property
    def structure(self) -> StoredNames:
        roles = {key: self._role(key) for key in self.specs}
        blocks = [part.blocks for part in self.parts.values() if part.blocks is not None]
        roles |= {key: "config" for each in blocks for key in (each.scales, each.zeros) if key}
        return StoredNames({key: (key, role, None) for key, role in roles.items()})

    @property
    def model(self) -> ModelInfo:
        return ModelInfo(ops=self.ops)

    def blocks(self, key: str, max_elements: int = BLOCK_ELEMENTS) -> Iterator[tuple[int, Array]]:
        """Yield (start, values) over the tensor; see `Store.blocks`."""
        spec, part = self._found(key)
        if not spec.size:
            return
        if part.form == "sparse":
            values, places = self._sparse(spec, part)
            for start in range(0, spec.size, max_elements):
                stop = min(spec.size, start + max_elements)
                yield start, _with_zeros(values, places, start, stop)
        elif part.is_whole(spec.dtype):
            values = self._whole(spec, part)
            for start in range(0, len(values), max_elements):
                yield start, values[start : start + max_elements]
        else:
            yield from self._encoded(spec, part).blocks(max_elements)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Array:
        """Return elements [start, stop); see `Store.read`."""
        spec, part = self._found(key)
        start, stop, _ = slice(start, stop).indices(spec.size)
        if part.form == "sparse":
            return _with_zeros(*self._sparse(spec, part), start, max(start, stop))
        if part.is_whole(spec.dtype):
            return self._whole(spec, part)[start:stop].copy()
        return self._encoded(spec, part).read(start, max(start, stop))

    def mappable(self, key: str) -> bool:
        """Whether the stored bytes are the values in native order."""
        spec, part = self._found(key)
        is_native = sys.byteorder == "little" or itemsize(spec.dtype) == 1
        return part.form == "raw" and spec.dtype not in BITS and is_native

    def quantisations(self) -> dict[str, Quantisation]:
        """Return what the integers of tensors stand for; see `StoreOfConstants`."""
        file = Flatbuffer(self.path, WHAT)
        found = {}
        for key, part in self.parts.items():
            if part.form not in ("raw", "sparse"):
                continue
            if part.blocks is not None:
                found[key] = self._of_blocks(key, part.blocks)
            elif part.quantised:
                found[key] = read_quantisation(file, part.quantised, self.specs[key])
        return found

    def _of_blocks(self, key: str, blocks: LitertBlocks) -> Quantisation:
        import numpy as np

        scales = self.read(blocks.scales).astype(np.float64)
        zeros = np.zeros(len(scales), np.int64)
        if blocks.zeros:
            zeros = self.read(blocks.zeros).astype(np.int64)
        quantisation = Quantisation(scales, zeros, blocks.axis, blocks.size)
        return checked(quantisation, self.specs[key], str(self.path))

    def uses(self) -> dict[str, ConstantUse]:
        """Return whose parameter each constant is; see `StoreOfConstants`."""
        listing = _LitertListing(self.path)
        listing.store()
        return listing.uses()

    def _role(self, key: str) -> str:
        """Return what a tensor is for; one that is quantised stands for a parameter."""
        part = self.parts[key]
        is_quantised = bool(part.quantised) or part.blocks is not None
        return "weight" if is_quantised else role_of_constant(self.specs[key])

    def _found(self, key: str) -> tuple[TensorSpec, LitertPart]:
        try:
            return self.specs[key], self.parts[key]
        except KeyError:
            raise UnknownTensorError(f"no tensor {key!r}", where=str(self.path)) from None

    def _encoded(self, spec: TensorSpec, part: LitertPart) -> EncodedArray:
        encoding = Encoding("raw") if part.form == "opaque" else PLAIN
        where = f"{self.path}: {spec.key}"
        source = whole_file(self.path)
        return EncodedArray(
            source, part.offset, spec.nbytes, spec.dtype, spec.size, encoding, where
        )

    def _whole(self, spec: TensorSpec, part: LitertPart) -> Array:
        """Return all elements of what does not lie one after the other."""
        data = whole_file(self.path).read(part.offset, spec.nbytes)
        if part.form == "strings":
            return _strings(data, spec.size, f"{self.path}: {spec.key}")
        return _values(data, spec.dtype, spec.size)

    def _sparse(self, spec: TensorSpec, part: LitertPart) -> tuple[Array, Array]:
        """Return the values of a sparse tensor and the indices of their elements, which rise."""
        import numpy as np

        file, where = Flatbuffer(self.path, WHAT), f"{self.path}: {spec.key}"
        if self.n_sparse - spec.size > MAX_ZEROS * file.size:  # which then share their values
            message = f"sparse tensors of {self.n_sparse:,} elements in {file.size:,} bytes"
            raise UnsupportedError(message, where=where)
        counts = _counts(spec.dtype, part.nbytes)
        places = places_of_values(file, part.sparsity, spec.shape, counts, where)
        data = whole_file(self.path).read(part.offset, part.nbytes)
        order = np.argsort(places)
        return _values(data, spec.dtype, len(places))[order], places[order]


def _values(data: bytes, dtype: str, count: int) -> Array:
    """Return numbers that lie one after another, several of two and four bits in a byte."""
    import numpy as np

    wanted, stored = numpy_dtype(dtype), np.frombuffer(data, np.uint8)
    if dtype in BITS:
        stored = unpacked(stored, BITS[dtype], count)
    elif sys.byteorder == "big" and wanted.itemsize > 1:
        stored = stored.reshape(-1, wanted.itemsize)[:, ::-1].reshape(-1)
    return stored.view(wanted)


def _with_zeros(values: Array, places: Array, start: int, stop: int) -> Array:
    """Return the elements [start, stop) of a tensor that is zero but at `places`, which rise."""
    import numpy as np

    first, end = np.searchsorted(places, (start, stop))
    found = np.zeros(stop - start, values.dtype)
    found[places[first:end] - start] = values[first:end]
    return found


def _counts(dtype: str, nbytes: int) -> range:
    """Return how many values so many bytes may be; the last byte may not be full."""
    bits = BITS.get(dtype, 8 * itemsize(dtype))
    most = nbytes * 8 // bits
    return range(most - (8 // bits - 1 if bits < 8 else 0), most + 1)


def _strings(data: bytes, size: int, where: str) -> Array:
    """Return strings; raises FormatError where they are not as many, or reach out of the buffer."""
    import numpy as np

    found = int.from_bytes(data[:4], "little", signed=True) if len(data) >= 4 else -1
    if found != size or len(data) < 8 + 4 * size:
        raise FormatError(where, "strings", expected=size, found=found)
    ends = np.frombuffer(data, "<i4", size + 1, 4).tolist()
    if ends != sorted(ends) or ends[0] < 8 + 4 * size or ends[-1] > len(data):
        raise FormatError(where, "strings whose offsets are damaged")
    values = np.empty(size, object)
    values[:] = [data[ends[index] : ends[index + 1]] for index in range(size)]
    return values


def open_litert(path: Path) -> LitertStore:
    """Return the store of a LiteRT model; reads its tables, not its buffers.

    Args:
        path: of the model.

    Raises:
        FormatError: it is damaged, or a tensor's shape, type and buffer contradict one another.
    """
    return _LitertListing(path).store()


class _LitertListing:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = Flatbuffer(path, WHAT)
        self.specs: dict[str, TensorSpec] = {}
        self.parts: dict[str, LitertPart] = {}
        self.quantised: list[str] = []
        self.notes: list[str] = []
        self.keys: dict[tuple[int, int], str] = {}
        self.in_blocks: dict[str, tuple[int, int]] = {}

    def store(self) -> LitertStore:
        file = self.file
        model = file.root()
        buffers = file.tables(model, _BUFFERS)
        graphs = file.tables(model, SUBGRAPHS)
        if not graphs:
            raise FormatError(str(self.path), "a LiteRT model without a graph")
        codes = file.tables(model, CODES)
        customs = {file.text(code, _CUSTOM_CODE) for code in codes} - {""}
        for number, graph in enumerate(graphs):
            scope = file.text(graph, _GRAPH_NAME) or f"subgraph_{number}"
            for index, tensor in enumerate(file.tables(graph, TENSORS)):
                key = self.keys[number, index] = self._tensor(tensor, buffers, scope, index)
                details = self._details(tensor)
                if key and details:
                    self.in_blocks.setdefault(key, (number, details))
        for key, (number, details) in self.in_blocks.items():
            self.parts[key] = self.parts[key]._replace(blocks=self._blocks(key, number, details))
        if len(self.quantised) > _NOTED:
            more = count_text(len(self.quantised) - _NOTED, "more tensor")
            self.quantised[_NOTED:] = [f"{more} quantised"]
        return LitertStore(
            path=self.path,
            specs=self.specs,
            notes=(*self.quantised, *self.notes),
            parts=self.parts,
            producer=file.text(model, _DESCRIPTION).rstrip(". ") or None,
            ops=tuple(sorted(customs)),
            n_sparse=sum(self.specs[k].size for k, p in self.parts.items() if p.form == "sparse"),
        )

    def uses(self) -> dict[str, ConstantUse]:
        """Return whose parameter each constant is, of those that `store` has listed."""
        model = self.file.root()
        codes = self.file.tables(model, CODES)
        found: dict[str, ConstantUse] = {}
        for number, graph in enumerate(self.file.tables(model, SUBGRAPHS)):
            keys = {index: key for (at, index), key in self.keys.items() if at == number and key}
            for key, use in constant_uses(self.file, graph, codes, keys):
                found.setdefault(key, use)
        return found

    def _tensor(self, tensor: int, buffers: list[int], scope: str, index: int) -> str:
        """Add a tensor; return its key, "" where it is no constant."""
        file = self.file
        number = file.scalar(tensor, _BUFFER, "I")
        name = file.text(tensor, NAME) or f"tensor_{index}"
        where = f"{self.path}: {name}"
        if file.scalar(tensor, _EXTERNAL, "I"):
            self.notes.append(f"not listed: {name}, whose values are in another file")
            return ""
        if not number and not buffers:
            return ""
        if number >= len(buffers):
            raise FormatError(where, f"buffer {number} of {len(buffers)}")
        offset, nbytes = self._bytes(buffers[number], where)
        if not nbytes:
            return ""  # what an op writes, or an input
        if file.span(tensor, _SHAPE, 4)[1] > _MAX_RANK:
            raise FormatError(where, f"more than {_MAX_RANK} axes")
        shape = file.vector(tensor, _SHAPE, "i")
        size = math.prod(shape)
        if any(n < 0 for n in shape) or size > _MAX_ELEMENTS:
            raise FormatError(where, f"impossible shape {list(shape)}")
        number_of_type = file.scalar(tensor, _TYPE, "b")
        is_known = 0 <= number_of_type < len(_DTYPES)
        dtype = _DTYPES[number_of_type] if is_known else f"litert#{number_of_type}"
        form = "strings" if dtype == "string" else "raw" if itemsize(dtype) else "opaque"
        sparsity = file.child(tensor, _SPARSITY) if form == "raw" else 0
        if sparsity:
            form = "sparse"
            width = BITS.get(dtype, 8 * itemsize(dtype))
            if nbytes * 8 % width:
                raise FormatError(where, f"{nbytes} bytes of values of {dtype}")
            self.notes.append(
                f"{name} is sparse: {nbytes * 8 // width:,} of its {size:,} elements are in the "
                "file, the others are zeros"
            )
        elif form == "raw" and nbytes != stored_bytes(dtype, size):
            expected = stored_bytes(dtype, size)
            message = f"bytes of {dtype} {list(shape)}"
            raise FormatError(where, message, expected=expected, found=nbytes)
        at = offset if form == "raw" and dtype not in BITS else None
        spec = TensorSpec(
            name, dtype, shape, stored_bytes(dtype, size) if sparsity else nbytes, 0, at
        )
        table, scales = self._scales(tensor)
        stored = nbytes if sparsity else 0
        part = LitertPart(form, offset, table if scales else 0, sparsity, stored)
        key, is_new = self._add(spec, part, scope)
        if is_new and scales:
            self._quantisation(tensor, key)
        return key

    def _bytes(self, buffer: int, where: str) -> tuple[int, int]:
        """Return (offset, number of bytes) of a buffer; (0, 0) for one that is empty."""
        file = self.file
        offset, nbytes = (file.scalar(buffer, number, "Q") for number in (_OFFSET, _SIZE))
        if offset > 1:
            if offset + nbytes > file.size:
                raise FormatError(
                    where, "values that reach past the end of the file", hint="copy it again"
                )
            return offset, nbytes
        return file.span(buffer, _DATA, 1)

    def _scales(self, tensor: int) -> tuple[int, int]:
        """Return (place of its quantisation, number of scales) of a tensor."""
        table = self.file.child(tensor, _QUANTIZATION)
        return table, self.file.span(table, SCALE, 4)[1] if table else 0

    def _details(self, tensor: int) -> int:
        """Return the place of what tells the blocks that a tensor is quantised by; 0 for none."""
        table = self.file.child(tensor, _QUANTIZATION)
        if not table or self.file.scalar(table, DETAILS_TYPE, "B") != BLOCKWISE:
            return 0
        return self.file.child(table, DETAILS)

    def _blocks(self, key: str, number: int, details: int) -> LitertBlocks | None:
        """Return how a tensor is quantised by blocks; None where its scales do not tell the axis.

        What the file calls the quantised axis is not the one along which the blocks lie.
        """
        numbers = [self.file.scalar(details, at, "i") for at in (BLOCK_SCALES, BLOCK_ZEROS)]
        scales, zeros = (self.keys.get((number, at), "") if at >= 0 else "" for at in numbers)
        size = self.file.scalar(details, BLOCK_SIZE, "i")
        kinds = [kind(self.specs[each].dtype) for each in (scales, zeros) if each]
        if not scales or size < 1 or not {*kinds} <= {"float", "int", "uint"}:
            return None
        shape, of_scales = list(self.specs[key].shape), list(self.specs[scales].shape)
        axes = [
            axis
            for axis in range(len(shape))
            if [*shape[:axis], -(-shape[axis] // size), *shape[axis + 1 :]] == of_scales
        ]
        if len(axes) != 1:
            return None
        how = f" is quantised: {scales} has a scale for each block of {size} along axis {axes[0]}"
        self.quantised.append(key + (how if len(self.quantised) < _NOTED else ""))
        return LitertBlocks(scales, zeros, axes[0], size)

    def _quantisation(self, tensor: int, name: str) -> None:
        """Note how a tensor is quantised."""
        file = self.file
        table, count = self._scales(tensor)
        if len(self.quantised) >= _NOTED:
            self.quantised.append(name)
            return
        scales = file.vector(table, SCALE, "f")
        zeros = file.vector(table, ZERO_POINT, "q") or (0,)
        zero = f"{min(zeros)}" if min(zeros) == max(zeros) else f"{min(zeros)} to {max(zeros)}"
        if count == 1:
            self.quantised.append(f"{name} is quantised: scale {scales[0]:.6g}, zero point {zero}")
            return
        axis = file.scalar(table, AXIS, "i")
        self.quantised.append(
            f"{name} is quantised: {count} scales along axis {axis}, "
            f"{min(scales):.6g} to {max(scales):.6g}, zero point {zero}"
        )

    def _add(self, spec: TensorSpec, part: LitertPart, scope: str) -> tuple[str, bool]:
        """Add a tensor under its name, else under that of its graph.

        Returns (key, whether it is new): one that several graphs share is there already.
        """
        key, number = spec.key, 1
        while key in self.specs:
            there, its_part = self.specs[key], self.parts[key]
            is_same = its_part[:2] == part[:2] and bool(its_part.quantised) == bool(part.quantised)
            if is_same and there._replace(key="") == spec._replace(key=""):
                return key, False
            key = f"{scope}/{spec.key}" if number == 1 else f"{scope}/{spec.key}_({number})"
            number += 1
        self.specs[key], self.parts[key] = spec._replace(key=key), part
        return key, True
