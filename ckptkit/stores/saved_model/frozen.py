"""Frozen graphs: weights as constants of a graph, in a GraphDef file or a SavedModel.

`tf.compat.v1.graph_util.convert_variables_to_constants` and its successors turn each variable into
a Const node of the variable's name.  Beside them lie constants that are no parameters: shapes,
axes, paddings (`constant_roles`).
Source: tensorflow/core/framework/{graph,node_def,attr_value}.proto.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ckptkit._io.files import file_size, read_exact
from ckptkit.dtypes import dtype_of_enum, itemsize
from ckptkit.errors import FormatError, UnknownTensorError, UnsupportedError
from ckptkit.stores.base import BLOCK_ELEMENTS, ModelInfo, StoredNames, Structure, TensorSpec
from ckptkit.stores.constant_roles import role_of_constant
from ckptkit.stores.proto.messages import parse
from ckptkit.stores.proto.tensors import flaw_of, numbers_of, text_of
from ckptkit.stores.reopening import pickled
from ckptkit.text import count_text, lazy_pattern

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

MAX_ELEMENTS = (1 << 63) - 1
MAX_REPEATED = 1 << 32  # bytes, at 8 or more for an element; a whole graph has 2 GiB at most
_VARIABLE = lazy_pattern(r"(VarHandleOp|(Auto\w*|Temporary)?Variable(V\d+)?)$")
OF_THE_SAVER = b"/.ATTRIBUTES/"  # in the keys and the object graph that saving uses


def constants_of(graph: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield (function or "", name, TensorProto) of every Const of a GraphDef and its functions.

    Those that only saving and restoring uses are left out.
    """
    bodies = [("", graph.node)]
    bodies += [(item.signature.name, item.node_def) for item in graph.library.function]
    for function, nodes in bodies:
        for node in nodes:
            tensor = node.attr["value"].tensor if node.op == "Const" else None
            if tensor is None or any(OF_THE_SAVER in text for text in tensor.string_val):
                continue
            yield function, node.name, tensor


def variables_of(graph: Any) -> int:
    """Return how many ops of a GraphDef and its functions stand for a variable."""
    bodies = [graph.node, *(item.node_def for item in graph.library.function)]
    return sum(bool(_VARIABLE.match(node.op)) for nodes in bodies for node in nodes)


class GraphConstants:
    """The constants of some graphs as tensors, by name; none where the graphs have variables.

    Two of one name and of other content are told apart by their functions' names, and else by
    numbers.

    Args:
        graphs: GraphDefs.
        where: their file, for refusals.
    """

    def __init__(self, graphs: Iterable[Any], where: str) -> None:
        self.where = where
        self.protos: dict[str, Any] = {}
        specs: dict[str, TensorSpec] = {}
        graphs = list(graphs)
        self.variables = sum(map(variables_of, graphs))
        """How many variables the graphs have, whose values lie elsewhere."""
        for graph in graphs if not self.variables else ():
            for function, name, tensor in constants_of(graph):
                key = self._free_key(function, name, tensor)
                if key is not None:
                    self.protos[key] = tensor
                    specs[key] = _spec(key, tensor, f"{where}: {key}")
        self.specs: Mapping[str, TensorSpec] = MappingProxyType(specs)

    def _free_key(self, function: str, name: str, tensor: Any) -> str | None:
        """Return the key for a constant; None for one that is there already."""
        key, number = name, 1
        while key in self.protos:
            if self.protos[key] == tensor:
                return None
            number += 1
            qualified = f"{function}/{name}" if function else name
            key = qualified if number == 2 and function else f"{qualified}_({number})"
        return key

    @cached_property
    def structure(self) -> StoredNames:
        """Names and roles: what is a parameter and what is not."""
        return StoredNames(
            {key: (key, role_of_constant(spec), None) for key, spec in self.specs.items()}
        )

    @property
    def summary(self) -> str:
        """What there is, in words."""
        if self.variables:
            count = count_text(self.variables, "variable")
            return f"the graph has {count}, whose values are not beside it"
        if not self.specs:
            return "it has no variables"
        sizes = [spec.size for spec in self.specs.values() if role_of_constant(spec) == "weight"]
        return (
            f"frozen: {count_text(len(self.specs), 'constant')} of the graph, {len(sizes):,} of "
            f"them with {count_text(sum(sizes), 'parameter')}, and no variables"
        )

    def values(self, key: str) -> Array:
        """Return all elements of a constant, 1-D.

        Raises UnknownTensorError, FormatError (fewer or more than its shape needs),
        UnsupportedError (dtypes that are no numbers, few values that stand for very many).
        """
        if key not in self.specs:
            raise UnknownTensorError(f"no constant {key!r}", where=self.where)
        spec, tensor = self.specs[key], self.protos[key]
        where = f"{self.where}: {key}"
        if not tensor.tensor_content and spec.size * max(itemsize(spec.dtype), 8) > MAX_REPEATED:
            raise UnsupportedError(
                f"a constant of {spec.size:,} elements, of which the graph holds the first few "
                "and has the last one repeated",
                where=where,
                hint="more than can be laid out in memory",
            )
        if spec.dtype == "string":
            flaw = flaw_of(tensor)
            if flaw:
                raise FormatError(where, flaw)
            if len(tensor.string_val) > spec.size:
                raise FormatError(
                    where, "strings", expected=spec.size, found=len(tensor.string_val)
                )
            return text_of(tensor, spec.size)
        if not itemsize(spec.dtype):
            raise UnsupportedError(f"{spec.dtype} constants are not read", where=where)
        values = numbers_of(tensor, spec.dtype, spec.size)
        if values is None:
            raise FormatError(where, f"its values do not fill the shape {spec.shape}")
        return values


def _spec(key: str, tensor: Any, where: str) -> TensorSpec:
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if tensor.tensor_shape.unknown_rank or any(size < 0 for size in shape):
        raise FormatError(where, "a constant of unknown shape")
    if math.prod(shape) > MAX_ELEMENTS:
        raise FormatError(where, f"impossible shape {shape}")
    dtype = dtype_of_enum(tensor.dtype)
    text = sum(map(len, tensor.string_val))
    nbytes = text if dtype == "string" else math.prod(shape) * itemsize(dtype)
    return TensorSpec(key, dtype, shape, nbytes, 0)


@dataclass(frozen=True)
class FrozenGraph:
    """A GraphDef in a file; made by `open_frozen_graph`."""

    path: Path
    constants: GraphConstants
    ops: tuple[str, ...]
    format: str = "frozen-graph"
    style: str = ""
    producer: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return pickled(open_frozen_graph, self.path, self.files)

    @property
    def files(self) -> tuple[Path, ...]:
        """See `StoreOfFiles`."""
        return (self.path,)

    @property
    def shards(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def missing_shards(self) -> tuple[Path, ...]:
        return ()

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        return self.constants.specs

    @property
    def structure(self) -> Structure:
        return self.constants.structure

    @property
    def model(self) -> ModelInfo:
        return ModelInfo(ops=self.ops)

    @property
    def notes(self) -> tuple[str, ...]:
        return (self.constants.summary,)

    def blocks(self, key: str, max_elements: int = BLOCK_ELEMENTS) -> Iterator[tuple[int, Array]]:
        yield from blocks_of(self.constants, key, max_elements)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Array:
        return self.constants.values(key)[start:stop].copy()

    def mappable(self, key: str) -> bool:
        return False


def blocks_of(
    constants: GraphConstants, key: str, max_elements: int
) -> Iterator[tuple[int, Array]]:
    """Yield (start, values) over a constant; see `Store.blocks`."""
    values = constants.values(key)
    for start in range(0, len(values), max_elements):
        yield start, values[start : start + max_elements]


def open_frozen_graph(path: Path) -> FrozenGraph:
    """Return the graph in a file; reads all of it.  Raises FormatError, PathNotFoundError."""
    graph = parse("GraphDef", read_exact(path, 0, file_size(path)), str(path))
    if not graph.node and not graph.library.function:
        raise FormatError(str(path), "holds no graph", hint="it is damaged or no GraphDef")
    ops = {node.op for node in graph.node}
    ops.update(node.op for function in graph.library.function for node in function.node_def)
    return FrozenGraph(path, GraphConstants([graph], str(path)), tuple(sorted(ops)))
