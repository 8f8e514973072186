"""A model's graph cut into its layers: each computed from what the reference gave before it.

Where a layer ends (a `GraphPoint`), those that read it read a placeholder instead, into which the
reference's value goes.  What a layer then gives differs by what it adds itself, not by what it
inherits.  The part of the graph between two cuts tells which variables a layer reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ckptkit.runners.tensorflow.graphs import FlatGraph, GraphPoint, needed_part, without_nodes
from ckptkit.runners.tensorflow.module import tensorflow

_FED = "ckptkit_cut_"
_VARIABLE_NODES = ("Variable", "VariableV2")  # of TensorFlow 1
_WRITES = ("Assign", "LookupTableInsert", "LookupTableImport", "LookupTableRemove", "Scatter")


@dataclass(frozen=True)
class Region:
    """What lies between a point and those before it.

    inputs: names of the points, and of the model's inputs, that it reads.  captures: placeholders
    of what the function captured.  ops: kinds of its nodes.  variable_nodes: variables of
    TensorFlow 1, which are nodes themselves.
    """

    inputs: tuple[str, ...]
    captures: tuple[str, ...]
    ops: tuple[str, ...]
    variable_nodes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class CutGraph:
    """A flat graph, cut at points; inputs: the model's, by name, in the order of the graph's."""

    flat: FlatGraph
    points: Sequence[GraphPoint]
    inputs: Sequence[str]

    @cached_property
    def placeholders(self) -> dict[str, GraphPoint]:
        """{placeholder: the point whose readers read it}."""
        return {f"{_FED}{number}": point for number, point in enumerate(self.points)}

    @cached_property
    def graph(self) -> Any:
        """The GraphDef with its cuts."""
        tf = tensorflow()
        graph = type(self.flat.graph)()
        graph.CopyFrom(self.flat.graph)
        # whoever reads a cut tensor reads its placeholder; control inputs stay as they are
        fed = {point.tensor: name for name, point in self.placeholders.items()}
        for node in graph.node:
            for number, source in enumerate(node.input):
                name = fed.get(source if ":" in source else f"{source}:0")
                if name is not None and not source.startswith("^"):
                    node.input[number] = name
        for name, point in self.placeholders.items():
            dtype = tf.as_dtype(point.dtype).as_datatype_enum
            node = graph.node.add(name=name, op="Placeholder")
            node.attr["dtype"].type = dtype
            node.attr["shape"].shape.unknown_rank = True
        return graph

    @cached_property
    def _nodes(self) -> dict[str, Any]:
        return {node.name: node for node in self.graph.node}

    @cached_property
    def written(self) -> frozenset[str]:
        """Placeholders of captured variables and tables that a call changes."""
        found = set()
        for node in self.flat.graph.node:
            if any(sign in node.op for sign in _WRITES) and node.input:
                name = node.input[0].partition(":")[0]
                while name not in self.flat.captured and name in self._nodes:
                    sources = self._nodes[name].input
                    if self._nodes[name].op != "Identity" or not sources:
                        break
                    name = sources[0].partition(":")[0]
                found.add(name)
        return frozenset(found & set(self.flat.captured))

    def region(self, tensor: str) -> Region:
        """Return what is computed between the cuts and this tensor."""
        model_inputs = dict(zip(self.flat.inputs, self.inputs, strict=True))
        inputs: dict[str, None] = {}
        captures: dict[str, None] = {}
        variable_nodes: dict[str, None] = {}
        ops: dict[str, None] = {}
        seen: set[str] = set()
        # backwards from the tensor, until a cut, an input or something captured
        waiting = [tensor.partition(":")[0]]
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            if name in self.placeholders:
                inputs[self.placeholders[name].name] = None
            elif name in model_inputs:
                inputs[model_inputs[name]] = None
            elif name in self.flat.captured:
                captures[name] = None
            else:
                node = self._nodes[name]
                ops[node.op] = None
                if node.op in _VARIABLE_NODES:
                    variable_nodes[name] = None
                waiting += [s.partition(":")[0] for s in node.input if not s.startswith("^")]
        return Region(tuple(inputs), tuple(captures), tuple(ops), tuple(variable_nodes))

    def needs(self, tensors: Iterable[str]) -> list[str]:
        """Return the names of the points whose values the graph of these tensors reads.

        Control inputs count too: what they wait for is computed, though no value comes of it.
        """
        part = needed_part(self.graph, {tensor.partition(":")[0] for tensor in tensors})
        nodes = {node.name for node in part.node}
        return [point.name for name, point in self.placeholders.items() if name in nodes]

    def fetch(
        self, inputs: Sequence[Any], fed: Mapping[str, Any], tensors: Sequence[str], *, xla: bool
    ) -> Sequence[Any]:
        """Return these tensors; inputs: the model's; fed: {point: the reference's value}."""
        tf = tensorflow()
        wanted = {name.partition(":")[0] for name in tensors}
        part = needed_part(self.graph, wanted)
        nodes = {node.name for node in part.node}
        outside = {*self.flat.inputs, *self.flat.captured, *self.placeholders} & nodes
        outside -= wanted
        without_nodes(part, outside)
        cuts = [name for name in self.placeholders if name in outside]
        handles = {name: v for name, v in self.flat.captured.items() if name in outside}
        takes = [name for name in self.flat.inputs if name in outside]
        arrays = dict(zip(self.flat.inputs, inputs, strict=True))
        values = [arrays[name] for name in takes]
        for name in cuts:
            point = self.placeholders[name]
            values.append(tf.cast(tf.constant(fed[point.name]), point.dtype))

        def body(*arguments: Any) -> Any:
            inside = tf.compat.v1.get_default_graph()
            placed = dict(zip([*takes, *cuts], arguments, strict=True))
            placed |= {name: inside.capture(value) for name, value in handles.items()}
            used = {f"{name}:0": value for name, value in placed.items()}
            return tf.graph_util.import_graph_def(
                part, input_map=used, return_elements=list(tensors), name=""
            )

        tensors_of_part = tf.function(body, jit_compile=xla, autograph=False)
        return tensors_of_part(*values)  # type: ignore[no-any-return]


def distinct(points: Iterable[GraphPoint]) -> list[GraphPoint]:
    """Return one point per tensor, the first.

    A model within a model gives what its last layer gives; dropout gives what it is given.
    """
    first: dict[str, GraphPoint] = {}
    for point in points:
        first.setdefault(point.tensor, point)
    return list(first.values())
