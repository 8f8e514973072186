"""What lies where in an ONNX model: its tensors, its ops and what made it; no values are read.

A ModelProto holds a graph; a graph holds nodes and initializers, a node's attributes hold tensors
and whole graphs (the branches of an `If`), and functions hold nodes as well.  Tensors are the
initializers of every graph and what `Constant` nodes give, under the names that nodes use for them.
Source: onnx/onnx.proto (field numbers), onnx/defs/generator/defs.cc (the attributes of Constant).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ckptkit.errors import FormatError
from ckptkit.stores.onnx.sparse import check_parts
from ckptkit.stores.proto.fields import BYTES, FIXED32, VARINT, Field, FileMessage
from ckptkit.text import count_text

WHAT = "an ONNX model"
FLOAT, INT64, STRING = 1, 7, 8  # numbers of data types
EXTERNAL = 1  # data_location: the values are in another file
_MAX_DEPTH = 100  # of messages in messages; protobuf's own limit
_OF_ONNX = ("", "ai.onnx")  # two spellings of one domain
_LEARNED = "ai.onnx.ml"  # whose ops hold coefficients and trees as attributes

Lists = dict[int, list[Field]]


class OnnxTensor(NamedTuple):
    """A TensorProto.

    data_type: its number.  raw: `raw_data`.  lists: the typed lists by their field's number.
    external: key and value of `external_data`, where the values are in another file.
    """

    data_type: int
    dims: tuple[int, ...]
    raw: Field | None
    lists: dict[int, list[Field]]
    external: dict[str, str] | None


@dataclass
class OnnxContents:
    """What a model is made of.

    tensors: by name.  ops: (domain, op), each once.  functions: (domain, name) that the model
    brings with it.  opsets: (domain, version).  of_sparse: the tensors that are the parts of a
    sparse one; of its indices the shape of the whole, of others ().
    """

    tensors: dict[str, OnnxTensor] = field(default_factory=dict)
    ops: dict[tuple[str, str], None] = field(default_factory=dict)
    functions: set[tuple[str, str]] = field(default_factory=set)
    opsets: list[tuple[str, int]] = field(default_factory=list)
    producer: str = ""
    notes: list[str] = field(default_factory=list)
    of_sparse: dict[str, tuple[int, ...]] = field(default_factory=dict)


def read_graph(path: Path) -> OnnxContents:
    """Return what an ONNX model is made of.

    Args:
        path: of the model.

    Raises:
        TruncatedError: the file ends early.
        FormatError: it is no ONNX model, or one that is damaged.
    """
    return _ModelWalk(path).model()


def external_locations(graph: OnnxContents) -> tuple[str, ...]:
    """Return the locations that tensors name for values in other files, each once."""
    outside = (tensor.external for tensor in graph.tensors.values())
    return tuple({told.get("location", ""): None for told in outside if told is not None})


class _ModelWalk:
    def __init__(self, path: Path) -> None:
        self.file = FileMessage(path, WHAT)
        self.found = OnnxContents()
        self.learned = 0

    def model(self) -> OnnxContents:
        found, file = self.found, self.file
        graph: Field | None = None
        name = version = ""
        functions: list[Field] = []
        training: list[Field] = []
        for item in _known(file.fields(), _MODEL):
            if item.number == 2:
                name = file.text(item)
            elif item.number == 3:
                version = file.text(item)
            elif item.number == 7:
                graph = self._once(graph, item, "graph")
            elif item.number == 8:
                found.opsets.append(self._opset(item))
            elif item.number == 20:
                training.append(item)
            elif item.number == 25:
                functions.append(item)
        if graph is None:
            raise FormatError(str(file.path), f"{WHAT} without a graph", hint="copy it again")
        found.producer = f"{name} {version}".strip()
        self.graph(graph, "", 2)
        for item in functions:
            self._function(item)
        for number, item in enumerate(training):
            for inner in _known(file.fields(item.start, item.end), {1: BYTES, 2: BYTES}):
                part = "initialization" if inner.number == 1 else "algorithm"
                self.graph(inner, f"training_{number}/{part}/", 3)
        if self.learned:
            count = count_text(self.learned, "op")
            found.notes.append(f"not listed: what {count} of {_LEARNED} keep in their attributes")
        return found

    def graph(self, place: Field, scope: str, depth: int) -> None:
        """Add the tensors of a graph.  scope: what goes before a name that is taken."""
        if depth > _MAX_DEPTH:
            raise FormatError(str(self.file.path), f"graphs nested more than {_MAX_DEPTH} deep")
        nodes: list[Field] = []
        for item in _known(self.file.fields(place.start, place.end), _GRAPH):
            if item.number == 5:
                name, tensor = self._tensor(item)
                self._add(name or "initializer", scope, tensor)
            elif item.number == 15:
                self._sparse(item, "", scope)
            else:
                nodes.append(item)
        for item in nodes:
            self._node(item, scope, depth + 1)

    def _function(self, place: Field) -> None:
        name = domain = ""
        nodes = []
        for item in _known(self.file.fields(place.start, place.end), _FUNCTION):
            if item.number == 1:
                name = self.file.text(item)
            elif item.number == 10:
                domain = self.file.text(item)
            else:
                nodes.append(item)
        self.found.functions.add((_domain(domain), name))
        for item in nodes:
            self._node(item, f"{name}/", 3)

    def _node(self, place: Field, scope: str, depth: int) -> None:
        file = self.file
        name = op = domain = ""
        outputs: list[Field] = []
        attributes: list[Field] = []
        for item in _known(file.fields(place.start, place.end), _NODE):
            if item.number == 2:
                outputs.append(item)
            elif item.number == 3:
                name = file.text(item)
            elif item.number == 4:
                op = file.text(item)
            elif item.number == 7:
                domain = file.text(item)
            else:
                attributes.append(item)
        domain = _domain(domain)
        self.found.ops[domain, op] = None
        self.learned += domain == _LEARNED
        label = file.text(outputs[0]) if outputs else name
        is_constant = (domain, op) == ("", "Constant")
        for item in attributes:
            key, parts = self._attribute(item)
            if is_constant and key in _VALUES:
                self._constant(key, parts, label or name or "constant", scope)
            for number in (6, 11):  # g, graphs
                for inner in parts.get(number, ()):
                    inside = f"{scope}{name or label}/{key}/"
                    self.graph(inner, inside, depth + 2)

    def _attribute(self, place: Field) -> tuple[str, Lists]:
        """Return the name and the fields of an attribute, by number."""
        parts: Lists = {}
        for item in _known(self.file.fields(place.start, place.end), _ATTRIBUTE):
            parts.setdefault(item.number, []).append(item)
        for number in (5, 6, 22):
            if len(parts.get(number, ())) > 1:
                self._once(parts[number][0], parts[number][1], "value of an attribute")
        return self.file.text(parts[1][-1]) if 1 in parts else "", parts

    def _constant(self, attribute: str, parts: Lists, name: str, scope: str) -> None:
        number, data_type, of_list = _VALUES[attribute]
        items = parts.get(number, [])
        if attribute == "value" and items:
            self._add(name, scope, self._tensor(items[0])[1])
        elif attribute == "sparse_value" and items:
            self._sparse(items[0], name, scope)
        elif data_type:
            if not of_list and not items:
                raise FormatError(
                    f"{self.file.path}: {name}", f"a Constant without its {attribute}"
                )
            shape = (_length(self.file, items, data_type),) if of_list else ()
            items = items if of_list else items[-1:]
            self._add(
                name, scope, OnnxTensor(data_type, shape, None, {_LIST[data_type]: items}, None)
            )

    def _sparse(self, place: Field, name: str, scope: str) -> None:
        """Add the parts of a SparseTensorProto: its values, where they belong, and its shape."""
        parts: dict[int, Field] = {}
        dims: list[Field] = []
        for item in _known(self.file.fields(place.start, place.end), _SPARSE):
            if item.number == 3:
                dims.append(item)
            else:
                parts[item.number] = self._once(parts.get(item.number), item, "part of a tensor")
        found: dict[str, OnnxTensor] = {}
        for number, part in enumerate(_PARTS, 1):
            if number in parts:
                own, found[part] = self._tensor(parts[number])
                name = name or own or "sparse"
        lists = {_LIST[INT64]: dims}
        shape = tuple(
            size
            for item in dims
            for size in ([item.value] if item.wire == VARINT else varints(self.file.content(item)))
        )
        values, indices = (found[part].dims if part in found else None for part in _PARTS)
        where = f"{self.file.path}: {name or 'sparse'}"
        check_parts(values, indices, shape, where)
        if indices is not None and found["indices"].data_type != INT64:
            raise FormatError(where, "indices of a sparse tensor that are not int64")
        found["shape"] = OnnxTensor(INT64, (len(shape),), None, lists, None)
        for part, tensor in found.items():
            key = self._add(f"{name}.{part}", scope, tensor)
            self.found.of_sparse[key] = shape if part == "indices" else ()
        self.found.notes.append(
            f"{name} is a sparse tensor: its values, indices and shape are listed"
        )

    def _tensor(self, place: Field) -> tuple[str, OnnxTensor]:
        """Return the name and the description of a TensorProto."""
        file = self.file
        name, data_type, location = "", 0, 0
        dims: list[int] = []
        raw: Field | None = None
        lists: Lists = {}
        external: dict[str, str] = {}
        for item in file.fields(place.start, place.end):
            number, wire = item.number, item.wire
            if number == 1 and wire in (VARINT, BYTES):
                dims += [item.value] if wire == VARINT else varints(file.content(item))
            elif number in (2, 14) and wire == VARINT:
                data_type, location = (
                    (item.value, location) if number == 2 else (data_type, item.value)
                )
            elif number == 3 and wire == BYTES:
                raise FormatError(f"{file.path} @ {item.start}", "a tensor in segments")
            elif number in _ELEMENT and wire in (_ELEMENT[number], BYTES):
                lists.setdefault(number, []).append(item)
            elif number == 8 and wire == BYTES:
                name = file.text(item)
            elif number == 9 and wire == BYTES:
                raw = item
            elif number == 13 and wire == BYTES:
                external.update([self._entry(item)])
        dims = [size - (1 << 64) if size >> 63 else size for size in dims]
        outside = external if location == EXTERNAL else None
        return name, OnnxTensor(data_type, tuple(dims), raw, lists, outside)

    def _entry(self, place: Field) -> tuple[str, str]:
        texts = {1: "", 2: ""}
        for item in _known(self.file.fields(place.start, place.end), {1: BYTES, 2: BYTES}):
            texts[item.number] = self.file.text(item)
        return texts[1], texts[2]

    def _opset(self, place: Field) -> tuple[str, int]:
        domain, version = "", 0
        for item in _known(self.file.fields(place.start, place.end), {1: BYTES, 2: VARINT}):
            if item.number == 1:
                domain = self.file.text(item)
            else:
                version = item.value
        return domain, version

    def _add(self, name: str, scope: str, tensor: OnnxTensor) -> str:
        """Add a tensor under its name; one whose name is taken, under the path to it.

        Returns its key.
        """
        tensors = self.found.tensors
        key = name if name not in tensors else f"{scope}{name}"
        number = 1
        while key in tensors:
            number += 1
            key = f"{scope}{name}_({number})"
        if number > 1:
            self.found.notes.append(f"two tensors are called {name}; the second is {key} here")
        tensors[key] = tensor
        return key

    def _once(self, before: Field | None, item: Field, what: str) -> Field:
        """Return a field that there is one of: protobuf merges two, which nobody writes."""
        if before is not None:
            raise FormatError(
                f"{self.file.path} @ {item.start}", f"a second {what} where one belongs"
            )
        return item


# The wire types of the fields that are looked at; one of another type is an unknown field.
_MODEL = {2: BYTES, 3: BYTES, 7: BYTES, 8: BYTES, 20: BYTES, 25: BYTES}
_GRAPH = {1: BYTES, 5: BYTES, 15: BYTES}
_NODE = {2: BYTES, 3: BYTES, 4: BYTES, 5: BYTES, 7: BYTES}
_FUNCTION = {1: BYTES, 7: BYTES, 10: BYTES}
_ATTRIBUTE = {
    1: BYTES,
    2: FIXED32,
    3: VARINT,
    4: BYTES,
    5: BYTES,
    6: BYTES,
    7: None,
    8: None,
    9: BYTES,
    11: BYTES,
    22: BYTES,
}
_SPARSE = {1: BYTES, 2: BYTES, 3: None}  # values, indices, dims
_PARTS = ("values", "indices")
# The typed lists of a TensorProto: float, int32, string, int64, double, uint64.
_ELEMENT = {4: FIXED32, 5: VARINT, 6: BYTES, 7: VARINT, 10: 1, 11: VARINT}
_LIST = {FLOAT: 4, INT64: 7, STRING: 6}
# Attributes of Constant: their field, the data type where that is no tensor, whether it is a list.
_VALUES = {
    "value": (5, 0, False),
    "sparse_value": (22, 0, False),
    "value_float": (2, FLOAT, False),
    "value_floats": (7, FLOAT, True),
    "value_int": (3, INT64, False),
    "value_ints": (8, INT64, True),
    "value_string": (4, STRING, False),
    "value_strings": (9, STRING, True),
}


def _known(fields: Iterator[Field], wires: Mapping[int, int | None]) -> Iterator[Field]:
    """Yield the fields of known numbers and wire types; None: of lists, packed or not."""
    for item in fields:
        if item.number in wires and wires[item.number] in (item.wire, None):
            yield item


def _domain(name: str) -> str:
    return "" if name in _OF_ONNX else name


def _length(file: FileMessage, items: list[Field], data_type: int) -> int:
    """Return how many elements a list of an attribute has."""
    if data_type == STRING:
        return len(items)
    if data_type == FLOAT:
        return sum(item.end - item.start for item in items) // 4
    return sum(sum(byte < 0x80 for byte in file.content(item)) for item in items)


def varints(data: bytes) -> list[int]:
    """Return the numbers of a packed list; raises FormatError where it is cut short."""
    found, value, shift = [], 0, 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            found.append(value & ((1 << 64) - 1))
            value = shift = 0
        elif shift >= 70:
            break
    if shift:
        raise FormatError(WHAT, "a number that does not end")
    return found
