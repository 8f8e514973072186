"""Values inside of a model, in chunks so that memory stays bounded.  Child process alone.

Live Keras models: the outputs of layers, noted while the call is traced (or run, eagerly).
SavedModels: what leaves a name scope of the graph.  Each chunk computes the model's outputs too, so
that one can see whether looking at values changed them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ckptkit.runners.child.session import CHUNK_BYTES, wanted
from ckptkit.runners.keras.layers import LayerCall, names_of, watching
from ckptkit.runners.tensorflow.endpoints import Endpoint, named
from ckptkit.runners.tensorflow.graphs import FlatGraph, GraphPoint
from ckptkit.runners.tensorflow.module import tensorflow

CHUNK_VALUES = 32

Tensors = Mapping[str, Any]
Chunk = tuple[dict[str, Any], Tensors]  # layers, outputs


def points_of_layers(
    keras: Any, model: Any, endpoint: Endpoint, inputs: Tensors
) -> tuple[Any, list[GraphPoint]]:
    """Trace a call of a Keras model; return the concrete function and its layers' outputs."""
    tf = tensorflow()
    noted: list[LayerCall] = []

    def traced(tensors: Tensors) -> Any:
        noted.clear()  # Keras may trace more than once
        with watching(keras, model, lambda called: noted.append(called)):
            return endpoint.call(tensors)

    function = tf.function(traced, autograph=False)
    concrete = function.get_concrete_function(dict(inputs))
    points = []
    for name, tensor in _tensors(noted):
        if getattr(tensor, "graph", None) is concrete.graph:  # not inside of a loop or a branch
            shape = None if tensor.shape.rank is None else tuple(tensor.shape.as_list())
            points.append(GraphPoint(name, tensor.name, tensor.dtype.name, shape))
    return concrete, points


def _tensors(noted: Sequence[LayerCall]) -> Iterator[tuple[str, Any]]:
    """Yield (name, tensor) of all that layers gave."""
    tf = tensorflow()
    for called in noted:
        flat = [item for item in tf.nest.flatten(called.output) if isinstance(item, tf.Tensor)]
        yield from zip(names_of(called.path, len(flat)), flat, strict=True)


def graph_intermediates(
    flat: FlatGraph, inputs: Sequence[Any], points: Sequence[GraphPoint], *, xla: bool
) -> Iterator[Chunk]:
    """Yield the values of these points, and the outputs."""
    tf = tensorflow()
    rows = max((int(value.shape[0]) for value in inputs if value.shape.rank), default=1)
    structure = flat.function.structured_outputs
    for chunk in chunks_of(points, rows):
        tensors = [point.tensor for point in chunk]
        values = flat.fetch(inputs, tensors + flat.results, xla=xla)
        packed = tf.nest.pack_sequence_as(structure, values[len(chunk) :], expand_composites=True)
        names = [point.name for point in chunk]
        yield dict(zip(names, values, strict=False)), named(packed)


def chunks_of(points: Sequence[GraphPoint], rows: int) -> Iterator[list[GraphPoint]]:
    """Yield points in groups whose values together stay below the limit, as far as one can know."""
    chunk: list[GraphPoint] = []
    total = 0
    for point in points:
        nbytes = tensorflow().as_dtype(point.dtype).size
        for axis in point.shape or ():
            nbytes *= rows if axis is None else axis
        if chunk and (len(chunk) == CHUNK_VALUES or total + nbytes > CHUNK_BYTES):
            yield chunk
            chunk, total = [], 0
        chunk.append(point)
        total += nbytes
    if chunk:
        yield chunk


def eager_intermediates(
    keras: Any, model: Any, endpoint: Endpoint, inputs: Tensors, globs: Sequence[str]
) -> Iterator[Chunk]:
    """Yield the outputs of the layers that fit, and the model's, of calls without a graph.

    The names are noted in a first call; each chunk of them is kept in a call of its own.
    """
    sizes: dict[str, int] = {}

    def note(called: LayerCall) -> None:
        for name, tensor in _tensors([called]):
            if wanted(name, globs):
                sizes[name] = int(tensor.dtype.size) * int(tensorflow().size(tensor))

    with watching(keras, model, note):
        endpoint.call(inputs)
    # only sizes count here: the names and values come from the calls below
    points = [GraphPoint(name, name, "uint8", (nbytes,)) for name, nbytes in sizes.items()]
    for chunk in chunks_of(points, 1):
        names = {point.name for point in chunk}
        layers: dict[str, Any] = {}

        def keep(called: LayerCall, names: set[str] = names, layers: Any = layers) -> None:
            layers.update((n, t) for n, t in _tensors([called]) if n in names)

        with watching(keras, model, keep):
            outputs = endpoint.call(inputs)
        yield layers, outputs
