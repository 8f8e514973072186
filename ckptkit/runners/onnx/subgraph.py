"""Parts of an ONNX graph, each a model of its own.  Child process alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ckptkit.dtypes import dtype_of_numpy, numpy_dtype
from ckptkit.runners.child.graph_parts import GraphOp, GraphParts, Regions
from ckptkit.runners.child.isolate import ReferenceValues
from ckptkit.runners.child.packages import package

if TYPE_CHECKING:
    from ckptkit.dtypes import Array, Arrays


@dataclass(frozen=True, eq=False)
class OnnxGraph:
    """The graph of a model whose external values were not loaded.

    start: makes what runs a serialized model: {name: array} and names of outputs, to arrays.
    """

    model: Any
    start: Callable[[bytes], Callable[[Sequence[str], Arrays], Arrays]]

    def parts(self, inputs: Arrays, reference: ReferenceValues) -> GraphParts:
        """Return the graph, cut where the reference has a value."""
        graph = self.model.graph
        names = frozenset(item.name for item in graph.input) - self._initializers.keys()
        return GraphParts(
            Regions(list(self._ops()), names, reference),
            {name: self._dtype(name) for node in graph.node for name in node.output if name},
            {item.name: item.name for item in graph.output},
            inputs,
            self._value,
            self._run,
        )

    def _ops(self) -> Iterator[GraphOp]:
        for node in self.model.graph.node:
            reads = dict.fromkeys([*node.input, *_captured(node)])
            yield GraphOp(node.op_type, tuple(reads), tuple(filter(None, node.output)))

    @cached_property
    def _initializers(self) -> dict[str, Any]:
        return {item.name: item for item in self.model.graph.initializer}

    @cached_property
    def _types(self) -> dict[str, int]:
        """{tensor: its element type}, where that can be inferred."""
        onnx = package("onnx", "onnx")
        graph = onnx.shape_inference.infer_shapes(self.model).graph
        infos = (*graph.input, *graph.value_info, *graph.output)
        return {item.name: item.type.tensor_type.elem_type for item in infos}

    def _dtype(self, name: str) -> str:
        return _dtype_of(self._types[name]) if self._types.get(name) else ""

    def _value(self, name: str) -> Array | None:
        """Return the value of a constant; None of one that lies in a file of its own."""
        onnx = package("onnx", "onnx")
        item = self._initializers.get(name)
        if item is None or item.data_location == onnx.TensorProto.EXTERNAL:
            return None
        return onnx.numpy_helper.to_array(item)  # type: ignore[no-any-return]

    def _run(self, ops: Sequence[int], values: Arrays, names: Sequence[str]) -> Arrays:
        onnx = package("onnx", "onnx")
        whole = self.model.graph
        nodes = [whole.node[number] for number in ops]
        typed = {name: self._typed(name, value) for name, value in values.items()}
        read = {name for node in nodes for name in (*node.input, *_captured(node))}
        part = onnx.ModelProto()
        part.CopyFrom(self.model)
        for items in (part.graph.node, part.graph.initializer, part.graph.input, part.graph.output):
            del items[:]
        part.graph.node.extend(nodes)
        part.graph.initializer.extend(
            item for name, item in self._initializers.items() if name in read
        )
        helper = onnx.helper
        part.graph.input.extend(
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
            )
            for name, value in typed.items()
        )
        part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        # shapes of the whole may not hold for a part
        del part.graph.value_info[:]
        return self.start(part.SerializeToString())(names, typed)

    def _typed(self, name: str, value: Array) -> Array:
        dtype = self._dtype(name)
        return value.astype(numpy_dtype(dtype)) if dtype and value.dtype != object else value


def _dtype_of(kind: int) -> str:
    """Return the dtype of an ONNX element type."""
    dtype = package("onnx", "onnx").helper.tensor_dtype_to_np_dtype(kind)
    return "string" if dtype.kind == "O" else dtype_of_numpy(dtype)


def _captured(node: Any) -> Iterator[str]:
    """Yield what the bodies of a loop or a branch read from outside."""
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            own = {item.name for item in (*body.input, *body.initializer)}
            own |= {name for inner in body.node for name in inner.output}
            reads = [n for inner in body.node for n in (*inner.input, *_captured(inner))]
            reads += [item.name for item in body.output]
            yield from (name for name in reads if name and name not in own)
