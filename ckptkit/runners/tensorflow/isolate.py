"""Each layer of a model, fed with what a reference gave before it.  Child process alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ckptkit.errors import UnsupportedError
from ckptkit.runners.child.isolate import Keep, ReferenceValues, point_row
from ckptkit.runners.child.session import Result
from ckptkit.runners.tensorflow import setup
from ckptkit.runners.tensorflow.build import is_keras, keras, layers_of
from ckptkit.runners.tensorflow.cuts import CutGraph, distinct
from ckptkit.runners.tensorflow.endpoints import Endpoint, named
from ckptkit.runners.tensorflow.graphs import FlatGraph, GraphPoint, readable
from ckptkit.runners.tensorflow.layers import points_of_layers
from ckptkit.runners.tensorflow.module import tensorflow
from ckptkit.runners.tensorflow.session import TensorFlowSession, arrays_of, nest_order
from ckptkit.runners.tensorflow.variables import weights_of
from ckptkit.runners.types import OUTPUT

if TYPE_CHECKING:
    from ckptkit.dtypes import Arrays


_PART = re.compile(r"/part_\d+$")  # of a variable that is partitioned
AT_A_TIME = 20  # layers whose values are in memory together


def subgraphs(
    session: TensorFlowSession, signature: str, inputs: Arrays, reference: ReferenceValues
) -> TensorFlowParts:
    """Return the model's graph, cut where the reference has a value."""
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
        if endpoint.concrete is None:
            raise UnsupportedError("the model is no Keras model and has no graph of its own")
        flat = FlatGraph(endpoint.concrete)
        points = flat.points()
        names, inputs_in_order = list(tensors), list(tensors.values())
    return OpenedGraph(flat, points, _outputs(flat), names, inputs_in_order)


def _outputs(flat: FlatGraph) -> dict[str, str]:
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
                variables.append(paths)
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
        names = list(dict.fromkeys([name, _PART.sub("", name)]))
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
