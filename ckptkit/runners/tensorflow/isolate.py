"""Each layer of a model, fed with what a reference gave before it.  Child process alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ckptkit.errors import UnsupportedError
from ckptkit.runners.child.graph_parts import GraphOp, OpRegion, Regions
from ckptkit.runners.child.isolate import Keep, Parts, ReferenceValues, point_row
from ckptkit.runners.child.session import Result
from ckptkit.runners.tensorflow import setup
from ckptkit.runners.tensorflow.build import is_keras, keras, layers_of
from ckptkit.runners.tensorflow.cuts import CutGraph, distinct
from ckptkit.runners.tensorflow.endpoints import Endpoint, named
from ckptkit.runners.tensorflow.graph_session import VARIABLES, GraphSession, SessionVariable
from ckptkit.runners.tensorflow.graphs import FlatGraph, GraphPoint, readable
from ckptkit.runners.tensorflow.layers import points_of_layers
from ckptkit.runners.tensorflow.module import tensorflow
from ckptkit.runners.tensorflow.session import TensorFlowSession, arrays_of, nest_order
from ckptkit.runners.tensorflow.variables import weights_of
from ckptkit.runners.types import OUTPUT

if TYPE_CHECKING:
    from ckptkit.dtypes import Array, Arrays


_PART = re.compile(r"/part_\d+$")  # of a variable that is partitioned
AT_A_TIME = 20  # layers whose values are in memory together


def subgraphs(
    session: TensorFlowSession | GraphSession,
    signature: str,
    inputs: Arrays,
    reference: ReferenceValues,
) -> Parts:
    """Return the model's graph, cut where the reference has a value."""
    if isinstance(session, GraphSession):
        return SessionParts(session, signature, inputs, reference)
    if not session.describe().signatures:
        raise UnsupportedError("the model does not tell its inputs, so its graph has none to cut")
    with setup.scope(session.spec):
        return TensorFlowParts(session, reference, _open(session, signature, inputs))


@dataclass(frozen=True)
class OpenedGraph:
    """A model's graph and what in it can be looked at; names, tensors: its inputs, in order."""

    flat: FlatGraph
    points: Sequence[GraphPoint]
    outputs: Mapping[str, str]  # name -> tensor
    names: Sequence[str]
    tensors: Sequence[Any]


def _open(session: TensorFlowSession, signature: str, inputs: Arrays) -> OpenedGraph:
    endpoint: Endpoint = session.loaded.endpoints[signature]
    model = session.loaded.model
    tensors = session.tensors(inputs)
    if model is not None and is_keras(model):
        concrete, points = points_of_layers(keras(), model, endpoint, tensors)
        flat = FlatGraph(concrete, inlined=False)
        names, inputs_in_order = sorted(tensors), list(nest_order(tensors))
    else:
        flat, ordered = session.flat_graph(endpoint, tensors)
        points = session.points_of(flat)
        names, inputs_in_order = list(ordered), list(ordered.values())
    return OpenedGraph(flat, points, outputs_of(flat), names, inputs_in_order)


def outputs_of(flat: FlatGraph) -> dict[str, str]:
    """Return {output: tensor}; {} where some are ragged or sparse, which are several tensors."""
    try:
        packed = tensorflow().nest.pack_sequence_as(flat.function.structured_outputs, flat.results)
    except ValueError:
        return {}
    return named(packed)


@dataclass
class TensorFlowParts:
    """See `ckptkit.runners.child.isolate.Parts`."""

    session: TensorFlowSession
    reference: ReferenceValues
    opened: OpenedGraph

    @cached_property
    def points(self) -> Mapping[str, GraphPoint]:
        """{name: point}, the outputs that are no other point too."""
        points = distinct(self.opened.points)
        results = set(self.opened.outputs.values()) - {point.tensor for point in points}
        ends = [
            GraphPoint(f"{OUTPUT}{name}", tensor, self._dtype(tensor), None)
            for name, tensor in self.opened.outputs.items()
            if tensor in results
        ]
        return {point.name: point for point in (*points, *ends)}

    @cached_property
    def cut(self) -> CutGraph:
        """The graph, cut where the reference has a value."""
        fed = [point for point in self.points.values() if point.name in self.reference]
        return CutGraph(self.opened.flat, fed, self.opened.names)

    def rows(self) -> list[Result]:
        return [self._row(point) for point in self.points.values()]

    def compute(self, names: Sequence[str], keep: Keep) -> None:
        with setup.scope(self.session.spec):
            for start in range(0, len(names), AT_A_TIME):
                part = names[start : start + AT_A_TIME]
                tensors = [self.points[name].tensor for name in part]
                fed = self.reference.load(self.cut.needs(tensors))
                values = self.cut.fetch(
                    self.opened.tensors, fed, tensors, xla=self.session.spec.xla
                )
                for name, value in arrays_of(dict(zip(part, values, strict=True))).items():
                    keep(name, value)

    def _dtype(self, tensor: str) -> str:
        return str(self.opened.flat.function.graph.get_tensor_by_name(tensor).dtype.name)

    # -- what a point is ---------------------------------------------------------------------------

    def _row(self, point: GraphPoint) -> Result:
        region = self.cut.region(point.tensor)
        layer = self._layer(point.name)
        kind = type(layer).__name__ if layer is not None else self._op(point)
        policy = getattr(getattr(layer, "dtype_policy", None), "name", "") or point.dtype
        variables = []
        for name in region.captures:
            # what is captured beside variables (tables, constants) goes by no name
            handle = self.opened.flat.captured[name]
            paths = self._variables.get(id(handle))
            if paths is not None:
                owners = self.session.loaded.owners
                layer = owners.layer_of(handle) if owners is not None else None
                variables.append({**paths, "layer": layer or ""})
        variables += map(self._variable_node, region.variable_nodes)
        return point_row(
            point.name,
            kind,
            point.dtype,
            policy=str(policy),
            variables=variables,
            inputs=region.inputs,
            fed=point.name in self.reference,
            stateful=bool(self.cut.written & set(region.captures)),
        )

    def _variable_node(self, name: str) -> Result:
        """Return a variable of TensorFlow 1 as its row; files may hold its parts as one."""
        tensor = self.opened.flat.function.graph.get_tensor_by_name(f"{name}:0")
        shape = tensor.shape.as_list() if tensor.shape.rank is not None else []
        names = list(dict.fromkeys([name, *whole_names(name)]))
        return {"names": names, "shape": shape, "dtype": tensor.dtype.base_dtype.name}

    def _op(self, point: GraphPoint) -> str:
        if point.name.startswith(OUTPUT):
            return "output"
        name = point.tensor.partition(":")[0]
        return next((n.op for n in self.opened.flat.graph.node if n.name == name), "")

    def _layer(self, path: str) -> Any:
        """Return the Keras layer of a path of calls; None where there is none."""
        layer = self.session.loaded.model
        if layer is None or not is_keras(layer) or path.startswith(OUTPUT):
            return None
        for part in path.partition("[")[0].split("/"):
            name = part.partition("#")[0]
            layer = next((inner for inner in layers_of(layer) if inner.name == name), None)
            if layer is None:
                return None
        return layer

    @cached_property
    def _variables(self) -> dict[int, Result]:
        """{id of a handle: {"names": by which it may go in a file, "shape", "dtype"}}."""
        return variables_by_handle(self.session)


def whole_names(name: str) -> list[str]:
    """Return the name of the variable that one is a part of, as files hold it; [] for a whole."""
    whole = _PART.sub("", name)
    return [whole] if whole != name else []


@dataclass
class SessionParts:
    """A graph in a session, cut by feeding it: see `ckptkit.runners.child.isolate.Parts`."""

    session: GraphSession
    signature: str
    inputs: Arrays
    reference: ReferenceValues

    @cached_property
    def points(self) -> Mapping[str, GraphPoint]:
        """{name: point}, the outputs that are no other point too."""
        points = distinct(self.session.points(self.signature))
        there = {point.tensor for point in points}
        chosen = self.session.signatures[self.signature]
        ends = [
            GraphPoint(f"{OUTPUT}{info.name}", chosen.fetches[info.name], info.dtype, info.shape)
            for info in chosen.outputs
            if chosen.fetches[info.name] not in there
        ]
        return {point.name: point for point in (*points, *ends)}

    @cached_property
    def _feeds(self) -> dict[str, Any]:
        return self.session.feeds(self.signature, self.inputs)

    @cached_property
    def regions(self) -> Regions:
        """The ops of the graph, cut where the reference has a value; variables are no ops."""
        chosen = self.session.signatures[self.signature]
        graph = self.session.inside.graph
        part = self.session.inside.part({*self._feeds}, [*chosen.fetches.values()])
        fed = {name.partition(":")[0] for name in self._feeds}
        ops = []
        for node in part.node:
            operation = graph.get_operation_by_name(node.name)
            if node.op not in VARIABLES and node.name not in fed:
                names = [[t.name for t in side] for side in (operation.inputs, operation.outputs)]
                ops.append(GraphOp(node.op, tuple(names[0]), tuple(names[1])))
        return Regions(ops, frozenset(self._feeds), _ByTensor(self.reference, self._names))

    @cached_property
    def _names(self) -> dict[str, str]:
        """{tensor: name of its point, or of the input}."""
        names = {point.tensor: name for name, point in self.points.items()}
        feeds = self.session.signatures[self.signature].feeds
        return {**names, **{tensor: name for name, tensor in feeds.items()}}

    def rows(self) -> list[Result]:
        return [self._row(point) for point in self.points.values()]

    def _row(self, point: GraphPoint) -> Result:
        region = self._region(point)
        kinds = {self.regions.ops[number].kind for number in region.ops}
        variables = [
            SessionVariable(self.session.inside, item.partition(":")[0])
            for item in region.constants
            if self.session.inside.nodes[item.partition(":")[0]].op in VARIABLES
        ]
        return point_row(
            point.name,
            "output" if point.name.startswith(OUTPUT) else self.regions.kind(point.tensor),
            point.dtype,
            variables=[
                {
                    "names": [variable.name, *whole_names(variable.name)],
                    "shape": variable.shape,
                    "dtype": variable.dtype.name,
                }
                for variable in variables
            ],
            inputs=[self._names[item] for item in region.reads],
            fed=point.name in self.reference,
            stateful=any(sign in kind for kind in kinds for sign in _STATEFUL),
        )

    def _region(self, point: GraphPoint) -> OpRegion:
        if not self.regions.kind(point.tensor):  # an input, or a variable, that is an output
            return OpRegion((), (), (point.tensor,))
        return self.regions.of(point.tensor)

    def compute(self, names: Sequence[str], keep: Keep) -> None:
        by_tensor = {self.points[name].tensor: name for name in names}
        for group in self.regions.groups(list(by_tensor)):
            reads = {name for region in group.values() for name in region.reads}
            feeds = {name: self._feeds[name] for name in reads & self._feeds.keys()}
            feeds |= self.regions.reference.load(reads - self._feeds.keys())
            for tensor, value in self.session.inside.fetch(feeds, list(group)).items():
                keep(by_tensor[tensor], value)


_STATEFUL = ("Assign", "LookupTableInsert", "LookupTableImport", "Scatter", "Random")


class _ByTensor(ReferenceValues):
    """The reference's values by the tensors of the points that they are of."""

    def __init__(self, reference: ReferenceValues, names: Mapping[str, str]) -> None:
        self._reference = reference
        self._names = names

    def __contains__(self, tensor: object) -> bool:
        return isinstance(tensor, str) and self._names.get(tensor) in self._reference

    def load(self, names: Iterable[str]) -> dict[str, Array]:
        points = {self._names[tensor]: tensor for tensor in names}
        return {points[name]: value for name, value in self._reference.load(points).items()}


def variables_by_handle(session: TensorFlowSession) -> dict[int, Result]:
    """Return {id of a variable's handle: {"names", "shape", "dtype"}}, the best name first."""
    found: dict[int, Result] = {}
    for names, variable in variables_of(session):
        handle = getattr(variable, "handle", None)
        if handle is not None:
            row = found.setdefault(
                id(handle),
                {"names": [], "shape": list(variable.shape), "dtype": variable.dtype.name},
            )
            row["names"] += [name for name in names if name not in row["names"]]
    return found


def variables_of(session: TensorFlowSession) -> Iterator[tuple[list[str], Any]]:
    """Yield (names, tf.Variable) of all variables that a loaded model has."""
    model = session.loaded.model
    if model is not None:
        for path, variable in weights_of(model).items():
            inner = getattr(variable, "value", None)
            inner = inner if hasattr(inner, "handle") else variable
            yield [path], inner
        return
    seen: dict[int, tuple[list[str], Any]] = {}
    for path, variable in _tracked(session.loaded.keep_alive):
        seen.setdefault(id(variable), ([], variable))[0].append(path)
    for endpoint in session.loaded.endpoints.values():
        for variable in endpoint.concrete.graph.variables if endpoint.concrete is not None else ():
            seen.setdefault(id(variable), ([], variable))
    for names, variable in seen.values():
        yield [*names, readable(variable.name.partition(":")[0])], variable


def _tracked(root: Any) -> Iterator[tuple[str, Any]]:
    """Yield (path, variable) of an object's graph, the shortest paths first."""
    from tensorflow.python.checkpoint.trackable_view import TrackableView

    tf = tensorflow()
    waiting: list[tuple[str, Any]] = [("", root)]
    seen = {id(root)}
    while waiting:
        path, node = waiting.pop(0)
        try:
            children = TrackableView.children(node)
        except (AttributeError, NotImplementedError, TypeError):
            continue
        for name, child in children.items():
            below = f"{path}/{name}" if path else str(name)
            if isinstance(child, tf.Variable):
                yield below, child
            elif id(child) not in seen:
                seen.add(id(child))
                waiting.append((below, child))
