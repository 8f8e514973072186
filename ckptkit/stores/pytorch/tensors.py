"""The tensors in what a pickle of PyTorch would build: names, dtypes, shapes, strides, storages.

`torch.save` pickles whatever it is given; each storage (the bytes of one or more tensors) becomes a
persistent id ("storage", class of storage, key, device, elements), and each tensor a call of
`torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires grad, hooks[, bits])`.
Newer dtypes have no class of storage; there it is `_rebuild_tensor_v3(..., dtype[, bits])` over
bytes.  Other kinds are calls around these, and their parts are listed below their names.

Names are paths through dicts, lists and modules, joined by dots: `state_dict()` itself gives
"conv.weight", a dict around it "model.conv.weight", a whole module the same names as its
`state_dict()`.  Source: torch/_utils.py, torch/_tensor.py, torch/serialization.py.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ckptkit.dtypes import itemsize, kind
from ckptkit.errors import FormatError
from ckptkit.stores.pytorch.distributed import process_parts
from ckptkit.stores.pytorch.numpy_arrays import Encoded, PickledArray, is_of_numpy, pickled_array
from ckptkit.stores.pytorch.pickle_machine import Global, Persistent, PickledCall
from ckptkit.stores.pytorch.pickled_kinds import (
    OF_MODULE,
    OF_PARAMETERS,
    OF_SUBCLASSES,
    OF_TENSORS,
    OF_TENSORS_OF_BYTES,
    OF_TORCH,
    attributes_of,
    entries_of,
    is_mapping,
    is_module,
    is_optimizer,
    is_parameter,
    is_rebuilt,
    is_tensor,
    is_without_shape,
    items_of,
    kind_of_rebuilt,
    module_of,
    name_of,
    named_entries,
    named_parameters,
    parts_of_sparse,
    plain_attributes,
)
from ckptkit.text import list_text

MAX_TENSORS = 10_000_000
# How often a tensor may stand in the file, all in all and each: models share layers, a few times.
_MAX_REPEATED, _MAX_REPEATS = 10_000, 100
_MAX_DEPTH = 200  # of dicts in dicts; torch's own modules reach ten
_STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
    "UntypedStorage": "",
}
# Where torch's name of a dtype is another than ours.
_DTYPES = {"float": "float32", "double": "float64", "half": "float16", "long": "int64"}


class Storage(NamedTuple):
    """Bytes that tensors share.  dtype: "" where it has none of its own.  length: in elements."""

    key: str
    dtype: str
    length: int


class StridedTensor(NamedTuple):
    """One tensor: `shape` elements of a storage, from `offset` on, `stride` apart on each axis.

    offset, stride: in elements.  is_conjugated, is_negated: the values are still to be that.
    """

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    is_conjugated: bool = False
    is_negated: bool = False


class QuantisedBy(NamedTuple):
    """What the integers of a tensor stand for, as the pickle tells it.

    scale, zero_point: numbers, or 1-D tensors with one for every index along `axis`.
    """

    scale: float | StridedTensor
    zero_point: float | StridedTensor
    axis: int


class SavedTensors(NamedTuple):
    """Tensors by name, and what is worth saying of them.

    names: {name: name below the one dict that holds all but optimizers}, where there is one.
    slots: {name: (slot of which parameter or "", name of the slot)} of optimizers.
    arrays: of numpy, by name.  beside: the names of what is no weight of a model: scalars of numpy,
    arrays that lie in no dict with tensors where there are some (the state of a random generator),
    and what modules hold as plain attributes.
    """

    tensors: Mapping[str, StridedTensor]
    names: Mapping[str, str]
    slots: Mapping[str, tuple[str, str]]
    notes: tuple[str, ...]
    arrays: Mapping[str, PickledArray]
    beside: frozenset[str]
    quantised: Mapping[str, QuantisedBy]


def list_tensors(value: Any, where: str) -> SavedTensors:
    """Return the tensors in what a pickle would build.

    Args:
        value: of a `Pickle`.
        where: the file, for messages.

    Raises:
        FormatError: a tensor's description contradicts itself, or there are too many.
    """
    walk = _Walk(where)
    walk.visit(value, (), 0)
    walk.add_attributes()
    return SavedTensors(
        walk.tensors,
        walk.inner_names(),
        walk.slots,
        (*walk.notes, *walk.left_out()),
        walk.arrays,
        walk.beside(),
        walk.quantised,
    )


class _Walk:
    def __init__(self, where: str) -> None:
        self.where = where
        self.tensors: dict[str, StridedTensor] = {}
        self.arrays: dict[str, PickledArray] = {}
        self.paths: dict[str, tuple[str, ...]] = {}
        self.slots: dict[str, tuple[str, str]] = {}
        self.notes: list[str] = []
        self._open: set[int] = set()  # ids of the containers around what is visited
        self._barren: set[int] = set()  # ids of containers without tensors
        self._distinct: set[int] = set()  # ids of the calls that make tensors
        self._encoded: Encoded = {}
        self._left_out: dict[str, list[str]] = {}
        self._modules: list[tuple[PickledCall, tuple[str, ...]]] = []
        self._keys: list[tuple[PickledCall, tuple[str, ...]]] = []
        self._attributes: set[str] = set()
        self._partial: list[str] = []  # what one process has of tensors
        self.quantised: dict[str, QuantisedBy] = {}

    def visit(self, value: Any, path: tuple[str, ...], depth: int) -> None:
        """Add the tensors below one value; a dict that stands in two places is in both."""
        if isinstance(value, PickledCall):
            if self._add_all(value, path):
                return
            if is_of_numpy(value):
                self._leave_out("arrays of numpy that are not plain numbers", path)
                return
            if is_without_shape(value):
                self._leave_out("parameters that have no shape yet", path)
                return
        elif isinstance(value, Persistent):
            self._leave_out("bare storages", path)
            return
        elif not isinstance(value, (dict, list, tuple, set)):
            return
        if id(value) in self._open or id(value) in self._barren:
            return
        if depth > _MAX_DEPTH:
            raise FormatError(self.where, f"values nested more than {_MAX_DEPTH} deep")
        if isinstance(value, dict) and is_optimizer(value):
            self._optimizer(value, path)
        if isinstance(value, PickledCall) and is_module(value):
            self._modules.append((value, path))
        keys = value if isinstance(value, dict) else (key for key, _ in items_of(value))
        self._keys.extend((key, path) for key in keys if isinstance(key, PickledCall))
        before = len(self.paths)
        self._open.add(id(value))
        for segment, inner in self._parts(value, path):
            self.visit(inner, (*path, segment) if segment else path, depth + 1)
        self._open.discard(id(value))
        if len(self.paths) == before:
            self._barren.add(id(value))
        if isinstance(value, PickledCall) and is_rebuilt(value) and not is_parameter(value):
            what = kind_of_rebuilt(value)
            if len(self.paths) > before:
                self._add_shape(value, path)
                label = ".".join(path) or "what was saved"
                self.notes.append(f"{label} is a {what}: its parts are listed below it")
            else:
                self._leave_out(f"{what.partition(' no ')[0]}s", path)  # "meta tensor no storage"

    def _add_all(self, call: PickledCall, path: tuple[str, ...]) -> list[str]:
        """Add what `_add` does, or this process's parts of a tensor; return the names."""
        parts = process_parts(call)
        if not parts:
            name = self._add(call, path)
            return [] if name is None else [name]
        names = []
        for part in parts:
            own = (*path[:-1], f"{path[-1] if path else 'tensor'}{part.suffix}")
            name = self._add(part.tensor, own)
            if name is None:
                self._leave_out("parts of tensors that are no plain tensors", own)
                continue
            names.append(name)
            if part.suffix:
                self._partial.append(name)
            if ".".join(path) in self.slots:
                parameter, slot = self.slots[".".join(path)]
                self.slots[name] = parameter and f"{parameter}{part.suffix}", slot
        if names:
            self._distinct.add(id(call))
        return names

    def _add(self, call: PickledCall, path: tuple[str, ...]) -> str | None:
        """Add the tensor or array that a call makes; return its name, None for anything else."""
        found = self._tensor(call, path)
        array = pickled_array(call, self._encoded) if found is None else None
        if found is None and array is None:
            return None
        self._distinct.add(id(call))
        name = self._new_name(path)
        if found is not None:
            tensor, quantised = found
            self.tensors[name] = tensor
            if quantised is not None:
                self.quantised[name] = quantised
                self.notes.append(f"{name} is quantised: {_how(quantised)}")
                if kind(tensor.dtype) == "opaque":  # whose numbers are not read, and so compared
                    self._add_quantisation(quantised, path)
        elif array is not None:
            self.arrays[name] = array
        return name

    def _add_quantisation(self, quantised: QuantisedBy, path: tuple[str, ...]) -> None:
        """Add the scale and the zero point of a tensor as tensors of their own."""
        for part, value in (("scale", quantised.scale), ("zero_point", quantised.zero_point)):
            name = self._new_name((*path, part))
            if isinstance(value, StridedTensor):
                self.tensors[name] = value
                continue
            dtype, code = ("float64", "<d") if isinstance(value, float) else ("int64", "<q")
            data = struct.pack(code, value)
            self.arrays[name] = PickledArray(dtype, (1,), data, "little", False)

    def _add_shape(self, call: PickledCall, path: tuple[str, ...]) -> None:
        """Add the shape of a sparse tensor, which its other parts do not tell.

        Raises:
            FormatError: it is none, or not that of the other parts: torch makes no tensor of them.
        """
        parts = dict(parts_of_sparse(call))
        if not parts:
            return
        sizes = parts.get("shape")
        if isinstance(sizes, PickledCall) and sizes.args:  # of torch.Size
            sizes = sizes.args[0]
        where = f"{self.where}: {'.'.join(path)}" if path else self.where
        if not isinstance(sizes, (tuple, list)) or any(
            type(n) is not int or not 0 <= n < 1 << 62 for n in sizes
        ):
            raise FormatError(where, "a sparse tensor of an impossible shape")
        data = b"".join(n.to_bytes(8, "little") for n in sizes)
        indices, values = (self._shape_of(parts.get(part)) for part in ("indices", "values"))
        if indices is not None and values is not None:  # [axes, values], [values, dense axes]
            dense = tuple(sizes[indices[0] :]) if indices else ()
            if len(indices) != 2 or values != (indices[1], *dense) or indices[0] > len(sizes):
                message = f"indices {list(indices)[:8]} and values {list(values)[:8]}"
                raise FormatError(where, f"{message} of a sparse tensor {list(sizes)[:8]}")
        shape = PickledArray("int64", (len(sizes),), data, "little", False)
        self.arrays[self._new_name((*path, "shape"))] = shape

    def _shape_of(self, value: Any) -> tuple[int, ...] | None:
        """Return the shape of a part of a tensor; None of what is none."""
        found = self._tensor(value, ()) if isinstance(value, PickledCall) else None
        return None if found is None else found[0].shape

    def _leave_out(self, what: str, path: tuple[str, ...]) -> None:
        self._left_out.setdefault(what, []).append(".".join(path) or "all that was saved")

    def left_out(self) -> Iterator[str]:
        """Yield a note on each kind of values that look like tensors and are not listed whole."""
        for key, path in self._keys:
            if id(key) not in self._distinct and is_tensor(key):
                self._leave_out("tensors that are keys of a dict", path)
        if self._partial:
            parts = list_text(self._partial)
            yield f"one process's part of tensors that several processes share: {parts}"
        for what, names in self._left_out.items():
            yield f"{what} are not listed: {list_text(names)}"

    def add_attributes(self) -> None:
        """Add the tensors and arrays that modules hold as plain attributes, by Python's names.

        They are part of the pickle, but of no `state_dict()`, and so no weights.  What is listed
        under another name, as an LSTM's parameters are, is none of them.
        """
        seen = self._distinct | {id(module) for module, _ in self._modules}
        names: list[str] = []
        waiting: list[tuple[Any, tuple[str, ...]]] = []
        for module, path in reversed(self._modules):
            waiting.extend(reversed([(v, (*path, s)) for s, v in plain_attributes(module)]))
        while waiting:
            value, path = waiting.pop()
            if id(value) in seen or not isinstance(value, (PickledCall, dict, list, tuple, set)):
                continue
            if isinstance(value, (Global, Persistent)):
                continue
            seen.add(id(value))
            if len(path) > _MAX_DEPTH:
                self._leave_out(f"values nested more than {_MAX_DEPTH} deep", path[:3])
                continue
            if isinstance(value, PickledCall):
                added = self._add_all(value, path)
                if added:
                    names.extend(added)
                    continue
            parts = list(self._parts(value, path))
            if isinstance(value, PickledCall) and is_module(value):
                parts.extend(plain_attributes(value))
            inner = [(v, (*path, s) if s else path) for s, v in parts]
            waiting.extend(reversed(inner))
        self._attributes.update(names)
        if names:
            self.notes.append(
                "tensors that modules hold as plain attributes, which are in no state_dict(), "
                f"are no weights: {list_text(names)}"
            )

    def _new_name(self, path: tuple[str, ...]) -> str:
        """Return the name of what lies at a path, which no other has; raises FormatError."""
        if len(self.paths) >= MAX_TENSORS:
            raise FormatError(self.where, f"more than {MAX_TENSORS:,} tensors")
        if len(self.paths) > _MAX_REPEATED + _MAX_REPEATS * len(self._distinct):
            raise FormatError(self.where, "the same few tensors under names without end")
        name = ".".join(path) or "tensor"
        number = 1
        while name in self.paths:  # {"a.b": ..., "a": {"b": ...}}
            number += 1
            name = f"{'.'.join(path)} ({number})"
        self.paths[name] = path
        return name

    def beside(self) -> frozenset[str]:
        """Return the names of arrays that are no weights; see `SavedTensors`."""
        weights = self.tensors.keys() - self.slots.keys() - self._attributes
        holders = {self.paths[name][:-1] for name in weights}
        return frozenset(
            name
            for name, array in self.arrays.items()
            if not array.shape or (holders and self.paths[name][:-1] not in holders)
        ).union(self._attributes)

    def inner_names(self) -> dict[str, str]:
        """Return names without the dicts around all tensors that are of no optimizer.

        {"epoch": 3, "model": {"w": ...}, "optimizer": {...}} holds one model, whose tensor is "w".
        """
        beside = self.beside()
        paths = {
            name: path
            for name, path in self.paths.items()
            if name not in self.slots and name not in beside
        }
        if not paths:
            return {}
        shortest, longest = min(paths.values()), max(paths.values())
        common = 0
        while common < min(len(shortest), len(longest)) - 1 and (
            shortest[common] == longest[common]
        ):
            common += 1
        return {name: ".".join(path[common:]) for name, path in paths.items()} if common else {}

    def _parts(self, value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        """Yield (segment of the name, value) of what a value is made of; "" for no segment."""
        if isinstance(value, dict):
            yield from named_entries(value.items())
        elif not isinstance(value, PickledCall):
            for index, inner in enumerate(value):
                yield str(index), inner
        elif is_mapping(value):
            yield from named_entries(items_of(value))
        elif is_module(value):
            for kind in OF_MODULE:
                yield "", value.state.get(kind)
        elif is_parameter(value):
            yield "", value.args[0]
        elif parts := parts_of_sparse(value):
            yield from parts[:-1]  # the last is its shape
        else:
            for index, inner in enumerate(value.args):
                yield str(index), inner
            for index, inner in enumerate(value.values):  # of a class that is a list
                yield str(index), inner
            yield from named_entries(entries_of(value.items))  # of a class that is a mapping
            yield from attributes_of(value)

    def _tensor(
        self, call: PickledCall, path: tuple[str, ...]
    ) -> tuple[StridedTensor, QuantisedBy | None] | None:
        """Return the tensor that a call makes; None for a call of something else."""
        for _ in range(_MAX_DEPTH):
            name, args = name_of(call.function), call.args
            if module_of(call.function) in OF_TORCH and name in OF_PARAMETERS and args:
                inner = args[0]
            elif module_of(call.function) in OF_TORCH and name in OF_SUBCLASSES and len(args) > 2:
                inner = PickledCall(args[0], args[2] if isinstance(args[2], tuple) else ())
            else:
                break
            if not isinstance(inner, PickledCall):
                return None
            call = inner
        if module_of(call.function) != "torch._utils":
            return None
        if name not in OF_TENSORS and name != OF_TENSORS_OF_BYTES:
            return None
        tensor = self._strided(name, args, ".".join(path))
        is_quantised = name == "_rebuild_qtensor"
        return tensor, self._quantised_by(args[4:5], path) if is_quantised else None

    def _quantised_by(self, how: tuple[Any, ...], path: tuple[str, ...]) -> QuantisedBy:
        """Return what integers stand for: (scheme, scale, zero point), or with tensors and an axis.

        Raises:
            FormatError: it is neither.
        """
        if how and isinstance(how[0], tuple) and len(how[0]) in (3, 4):
            scale, zero, *axis = how[0][1:]
            is_number = isinstance(scale, float) and type(zero) is int and abs(zero) < 1 << 62
            if not axis and is_number:
                return QuantisedBy(scale, zero, 0)
            if axis and isinstance(scale, PickledCall) and isinstance(zero, PickledCall):
                scales, zeros = self._tensor(scale, path), self._tensor(zero, path)
                if scales and zeros and not scales[1] and not zeros[1] and type(axis[0]) is int:
                    return QuantisedBy(scales[0], zeros[0], axis[0])
        where = ".".join((f"{self.where}: {path[0]}", *path[1:])) if path else self.where
        raise FormatError(where, "a quantised tensor without a scale and a zero point")

    def _strided(self, name: str, args: tuple[Any, ...], label: str) -> StridedTensor:
        where = f"{self.where}: {label}" if label else self.where
        try:
            storage = storage_of(args[0])
            offset, shape, stride = args[1], tuple(args[2]), tuple(args[3])
            dtype = _dtype(args[6]) if name == OF_TENSORS_OF_BYTES else storage.dtype
            bits = args[7:8] if name == OF_TENSORS_OF_BYTES else args[6:7]
        except (IndexError, TypeError, ValueError) as error:
            raise FormatError(where, f"a tensor whose description is broken: {error}") from None
        numbers = (offset, *shape, *stride)
        if any(type(n) is not int or not 0 <= n < 1 << 62 for n in numbers):
            raise FormatError(where, "a tensor with a negative or immense size, stride or offset")
        if len(shape) != len(stride):
            raise FormatError(where, f"{len(shape)} axes and {len(stride)} strides")
        marks = bits[0] if bits and isinstance(bits[0], dict) else {}
        return StridedTensor(
            storage, dtype, offset, shape, stride, bool(marks.get("conj")), bool(marks.get("neg"))
        )

    def _optimizer(self, value: dict[Any, Any], path: tuple[str, ...]) -> None:
        """Note the slots of what an optimizer's `state_dict()` gives.

        Which parameter a number stands for is in the file only where the optimizer was given names.
        """
        names = dict(named_parameters(value["param_groups"]))
        state = list(items_of(value["state"]))
        for (number, slots), (segment, _) in zip(state, named_entries(state), strict=True):
            for slot, _ in named_entries(items_of(slots)):
                self.slots[".".join((*path, "state", segment, slot))] = names.get(number, ""), slot


def _how(quantised: QuantisedBy) -> str:
    """Return how a tensor is quantised, in words."""
    scale, zero, axis = quantised
    if isinstance(scale, StridedTensor) or isinstance(zero, StridedTensor):
        return f"its integers are listed as they are stored, with scales along axis {axis}"
    return f"its integers are listed as they are stored, scale {scale:.6g}, zero point {zero}"


def storage_of(value: Any) -> Storage:
    """Return the storage that a persistent id stands for.

    Args:
        value: of a tensor's description.

    Raises:
        ValueError: it is none, of an unknown class, or a part of another one (torch 0.3).
    """
    if not isinstance(value, Persistent) or not isinstance(value.id, tuple) or len(value.id) < 5:
        raise ValueError("no storage")
    kind, cls, key, _, count = value.id[:5]
    if kind != "storage" or not isinstance(cls, Global) or cls.name not in _STORAGES:
        raise ValueError(f"a storage of an unknown class {cls}")
    if type(count) is not int or not 0 <= count < 1 << 62:
        raise ValueError(f"a storage of {count} elements")
    if value.id[5:6] not in ((), (None,)):
        raise ValueError("a storage that is a part of another one")
    return Storage(str(key), _STORAGES[cls.name], count)


def storage_width(storage: Storage) -> int:
    """Return the bytes of one of the elements that a storage's length counts."""
    return itemsize(storage.dtype) or 1  # of bytes, or several elements to a byte


def _dtype(value: Any) -> str:
    """Return the name of a dtype, which torch pickles as a name of its own module."""
    if not isinstance(value, Global) or value.module != "torch":
        raise ValueError("no dtype")
    return _DTYPES.get(value.name, value.name)
