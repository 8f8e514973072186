"""A SavedModel's graph in a Session, as TensorFlow 1 and servers run it.  Child process alone.

TensorFlow 2 wraps such graphs in functions, whose variables follow the device of whoever calls
them, and refuses some that a Session runs.  Here all of them run in one way, on any device: the
devices in the file are those of the machine that wrote it, and are replaced.
Source: tensorflow/python/saved_model/loader_impl.py (what is restored, which op initialises).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptkit.errors import FormatError, UnsupportedError, UsageError
from ckptkit.model_io.signature import ModelSignature, TensorInfo
from ckptkit.model_io.tf_examples import Feature
from ckptkit.runners.child.heavy_ops import is_heavy
from ckptkit.runners.child.session import Intermediates, ModelFacts, wanted
from ckptkit.runners.spec import RunnerSpec
from ckptkit.runners.tensorflow import setup
from ckptkit.runners.tensorflow.composites import SPARSE_ROLES, ragged_parts, sparse_parts
from ckptkit.runners.tensorflow.devices import Devices, add_partitions, short
from ckptkit.runners.tensorflow.endpoints import Endpoint
from ckptkit.runners.tensorflow.graphs import (
    GraphPoint,
    count,
    needed_part,
    points_of,
    without_nodes,
)
from ckptkit.runners.tensorflow.layers import chunks_of
from ckptkit.runners.tensorflow.module import tensorflow
from ckptkit.runners.tensorflow.parsed_examples import parsed_examples
from ckptkit.runners.tensorflow.saved_model import rows_looked_up, words_of
from ckptkit.runners.tensorflow.xla import not_compiled, refuse_text
from ckptkit.stores.saved_model.signatures import is_called

if TYPE_CHECKING:
    from ckptkit.dtypes import Array, Arrays

HOW = "in a session"
VARIABLES = ("VarHandleOp", "Variable", "VariableV2")
_LOW = {19: "float16", 14: "bfloat16"}  # DataType
_WAITS = ("Dequeue", "ReaderRead", "BarrierTakeMany", "TakeGrad")  # for what other threads give
_GIVES = ("Enqueue", "BarrierInsertMany", "ApplyGradient")
_FRAMES = ("Enter", "RefEnter")
_LEAVES = ("Exit", "RefExit")
_SWITCHES = ("Switch", "RefSwitch", "_SwitchN")
_MERGES = ("Merge", "RefMerge")


@dataclass(frozen=True, eq=False)
class SessionGraph:
    """A graph in a session; xla: whether what is asked of it is compiled."""

    graph: Any
    session: Any
    meta_graph: Any
    spec: RunnerSpec
    _functions: dict[Any, tuple[Mapping[str, Any], Sequence[Any]]] = field(default_factory=dict)

    @cached_property
    def definition(self) -> Any:
        """The GraphDef, as it was loaded."""
        return self.graph.as_graph_def()

    @cached_property
    def nodes(self) -> dict[str, Any]:
        return {node.name: node for node in self.definition.node}

    def part(self, feeds: Set[str], tensors: Sequence[str]) -> Any:
        """Return the GraphDef of what computes tensors from those that are fed."""
        fed = {_node(name) for name in feeds}
        return needed_part(self.definition, {_node(name) for name in tensors}, fed)

    def fetch(
        self, feeds: Arrays, tensors: Sequence[str], metadata: Any = None
    ) -> dict[str, Array]:
        """Return {tensor: value}, with these tensors replaced; metadata: a RunMetadata to fill."""
        import numpy as np

        v1 = tensorflow().compat.v1
        options = v1.RunOptions(output_partition_graphs=True) if metadata is not None else None
        given: Mapping[Any, Array] = feeds
        fetched: Sequence[Any] = list(tensors)
        if self.spec.xla:
            takes, fetched = self._compiled(tuple(feeds), tuple(tensors))
            given = {placeholder: feeds[name] for name, placeholder in takes.items()}
        values = self.session.run(fetched, given, options=options, run_metadata=metadata)
        found = {}
        for name, value in zip(tensors, values, strict=True):
            text = isinstance(value, (bytes, str))  # a scalar: numpy would drop a last NUL
            found[name] = np.array(value, object) if text else np.asarray(value)
        return found

    def _compiled(
        self, feeds: Sequence[str], tensors: Sequence[str]
    ) -> tuple[Mapping[str, Any], Sequence[Any]]:
        """Return {tensor: what to feed for it} and what to fetch, so that XLA compiles the rest."""
        if (feeds, tensors) not in self._functions:
            self._functions[feeds, tensors] = self._compile(feeds, tensors)
        return self._functions[feeds, tensors]

    def _compile(
        self, feeds: Sequence[str], tensors: Sequence[str]
    ) -> tuple[Mapping[str, Any], Sequence[Any]]:
        tf = tensorflow()
        part = self.part({*feeds}, tensors)
        there = {node.name for node in part.node}
        feeds = [name for name in feeds if _node(name) in there]
        refuse_text(self._tensor(name).dtype.name for name in feeds)
        # what is fed, and state, stays outside of what is compiled
        kept = {n.name for n in part.node if n.op in VARIABLES or self._gives_handle(n.name)}
        without_nodes(part, kept | {_node(name) for name in feeds})
        with self.graph.as_default(), setup.scope(self.spec):
            takes = [tf.compat.v1.placeholder(self._tensor(n).dtype.base_dtype) for n in feeds]
            for name, placeholder in zip(feeds, takes, strict=True):
                placeholder.set_shape(self._tensor(name).shape)
            outside = {f"{name}:0": self._outside(name) for name in sorted(kept)}

            def body(*arguments: Any) -> Any:
                inside = tf.compat.v1.get_default_graph()
                used = {name: inside.capture(value) for name, value in outside.items()}
                used |= dict(zip(feeds, arguments, strict=True))
                used = {name: value for name, value in used.items() if _is_read(part, name)}
                return tf.graph_util.import_graph_def(
                    part, input_map=used, return_elements=list(tensors), name=""
                )

            try:
                results = tf.function(body, jit_compile=True, autograph=False)(*takes)
            except ValueError as error:
                if "_ref" not in str(error):
                    raise
                raise UnsupportedError(
                    "XLA cannot compile the model: its graph changes a variable of TensorFlow 1",
                    hint="run it without xla:",
                ) from error
        return dict(zip(feeds, takes, strict=True)), results

    def _gives_handle(self, name: str) -> bool:
        operation = self.graph.get_operation_by_name(name)
        return not operation.inputs and any(
            out.dtype.name == "resource" for out in operation.outputs
        )

    def _outside(self, name: str) -> Any:
        """Return a variable's handle, or the value of one that is a node."""
        tensor = self._tensor(f"{name}:0")
        return tensor if tensor.dtype.name == "resource" else tensorflow().identity(tensor)

    def _tensor(self, name: str) -> Any:
        return self.graph.get_tensor_by_name(name)


def _node(tensor: str) -> str:
    return tensor.partition(":")[0].lstrip("^")


def _is_read(part: Any, tensor: str) -> bool:
    spellings = {tensor, tensor.removesuffix(":0")}
    return any(source in spellings for node in part.node for source in node.input)


@dataclass(frozen=True)
class SessionSignature:
    """One signature: {input: tensor} and {output: tensor}, composite ones by their parts."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    feeds: Mapping[str, str]
    fetches: Mapping[str, str]
    optional: tuple[str, ...] = ()


@dataclass(frozen=True)
class LoadedGraph:
    """As `ckptkit.runners.tensorflow.session.LoadedModel`."""

    endpoints: dict[str, Endpoint]
    model: Any = None
    keep_alive: Any = None
    how: str = HOW


@dataclass
class GraphSession:
    """See `ckptkit.runners.child.session.Session`."""

    spec: RunnerSpec
    path: Path
    inside: SessionGraph
    signatures: Mapping[str, SessionSignature]
    restored: Mapping[str, Any] | None = None
    skipped: str = ""
    _devices: Devices = field(default_factory=dict)
    _ran: bool = False

    # -- what the model is -------------------------------------------------------------------------

    @cached_property
    def loaded(self) -> LoadedGraph:
        """What can be called, as other models of TensorFlow tell it."""

        def caller(key: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
            return lambda inputs: self.call(key, dict(inputs))

        return LoadedGraph(
            {
                key: Endpoint(key, caller(key), item.inputs, item.outputs, optional=item.optional)
                for key, item in self.signatures.items()
            }
        )

    def describe(self) -> ModelFacts:
        items = self.signatures.items()
        dtypes = {info.dtype for _, item in items for info in item.inputs}
        words = words_of(self.path, iter([self.inside.definition])) if "string" in dtypes else []
        rows = {name: size for name in self.inside.nodes if (size := self._rows(name)) is not None}
        return ModelFacts(
            {key: ModelSignature(item.inputs, item.outputs) for key, item in items},
            words,
            rows_looked_up(self.inside.definition, rows),
            {key: item.optional for key, item in items if item.optional},
            {key: found for key, item in items if (found := self._examples(item))},
        )

    def _examples(self, chosen: SessionSignature) -> dict[str, tuple[Feature, ...]]:
        fed = {_node(tensor): name for name, tensor in chosen.feeds.items()}
        return parsed_examples(self.inside.definition, fed)

    def _rows(self, name: str) -> int | None:
        node = self.inside.nodes[name]
        if node.op in VARIABLES:
            dims = node.attr["shape"].shape.dim
        elif node.op == "Const":
            dims = node.attr["value"].tensor.tensor_shape.dim
        else:
            return None
        return int(dims[0].size) if len(dims) > 1 and dims[0].size > 0 else None

    def infer_signature(self, inputs: Arrays) -> str:
        raise UnsupportedError("the SavedModel has nothing to call", where=str(self.path))

    def environment(self) -> dict[str, Any]:
        definition = self.inside.definition
        nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
        low = {_LOW.get(node.attr["T"].type, "") for node in nodes if is_heavy(node.op)}
        policy = ", ".join(sorted(low - {""})) or "float32"
        return {**setup.environment(self.spec), "policy": policy, "loaded": HOW}

    # -- running -----------------------------------------------------------------------------------

    def call(self, signature: str, inputs: Arrays) -> dict[str, Array]:
        chosen = self.signatures[signature]
        tensors = list(dict.fromkeys(chosen.fetches.values()))
        found = self._run(self.feeds(signature, inputs), tensors)
        return {name: found[tensor] for name, tensor in chosen.fetches.items()}

    def feeds(self, signature: str, inputs: Arrays) -> dict[str, Array]:
        """Return {tensor: value} of inputs by name."""
        feeds = self.signatures[signature].feeds
        return {feeds[name]: value for name, value in inputs.items()}

    def _run(self, feeds: Arrays, tensors: Sequence[str]) -> dict[str, Array]:
        tf = tensorflow()
        first = not self._ran
        metadata = tf.compat.v1.RunMetadata() if first else None
        if first:
            self._refuse_waiting(feeds, tensors)
        try:
            found = self.inside.fetch(feeds, tensors, metadata)
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
            refusal = not_compiled(error) if self.spec.xla else None
            if refusal is None:
                raise
            raise refusal from error
        if metadata is not None:
            self._ran = True
            add_partitions(self._devices, metadata.partition_graphs)
            if self.spec.xla:
                self._count_compiled(feeds, tensors, metadata)
        return found

    def _refuse_waiting(self, feeds: Arrays, tensors: Sequence[str]) -> None:
        """Raise UnsupportedError for a graph that would wait for ever for threads of a trainer."""
        ops = {node.op for node in self.inside.part(feeds.keys(), tensors).node}
        waits = sorted(op for op in ops if any(word in op for word in _WAITS))
        if waits and not any(word in op for op in ops for word in _GIVES):
            raise UnsupportedError(
                f"the signature waits for a queue ({waits[0]}), which only threads of a training "
                "loop fill; no server starts them",
                hint="export it with a placeholder instead of the queue",
            )

    def _count_compiled(self, feeds: Arrays, tensors: Sequence[str], metadata: Any) -> None:
        """Count the ops that were compiled, where the call of them was."""
        nodes = [node for graph in metadata.partition_graphs for node in graph.node]
        where = [short(n.device) for n in nodes if "PartitionedCall" in n.op or "Xla" in n.op]
        where = where or [f"{self.spec.device}:{self.spec.index}"]
        row = self._devices.setdefault(where[0], {"ops": 0, "heavy": 0})
        part = self.inside.part(feeds.keys(), tensors)
        inner = (node for function in part.library.function for node in function.node_def)
        for key, number in count(iter([*part.node, *inner])).items():
            row[key] += number

    def devices(self) -> Devices:
        return self._devices

    # -- looking inside ----------------------------------------------------------------------------

    def points(self, signature: str) -> list[GraphPoint]:
        """Return the values inside that can be had, whatever branches a call takes."""
        chosen = self.signatures[signature]
        part = self.inside.part({*chosen.feeds.values()}, [*chosen.fetches.values()])
        fed = {_node(name) for name in chosen.feeds.values()}
        there = {node.name for node in part.node} - fed - nodes_in_branches(part)
        operations = [op for op in self.inside.graph.get_operations() if op.name in there]
        return points_of(part, operations)

    def intermediates(
        self, signature: str, inputs: Arrays, globs: Sequence[str]
    ) -> Iterator[Intermediates]:
        fetches = self.signatures[signature].fetches
        points = [point for point in self.points(signature) if wanted(point.name, globs)]
        rows = max((len(value) for value in inputs.values() if value.ndim), default=1)
        feeds = self.feeds(signature, inputs)
        for chunk in chunks_of(points, rows):
            tensors = [point.tensor for point in chunk]
            found = self._run(feeds, list(dict.fromkeys([*tensors, *fetches.values()])))
            yield Intermediates(
                {point.name: found[point.tensor] for point in chunk},
                {name: found[tensor] for name, tensor in fetches.items()},
            )

    # -- variables ---------------------------------------------------------------------------------

    def variables(self, signature: str) -> list[SessionVariable]:
        """Return the variables that a signature reads."""
        chosen = self.signatures[signature]
        part = self.inside.part({*chosen.feeds.values()}, [*chosen.fetches.values()])
        return [SessionVariable(self.inside, n.name) for n in part.node if n.op in VARIABLES]


@dataclass(frozen=True)
class SessionVariable:
    """A variable of a session; name: of its node."""

    inside: SessionGraph
    name: str

    @property
    def dtype(self) -> Any:
        node = self.inside.nodes[self.name]
        return tensorflow().as_dtype(node.attr["dtype"].type)

    @property
    def shape(self) -> list[int]:
        return [dim.size for dim in self.inside.nodes[self.name].attr["shape"].shape.dim]

    @cached_property
    def _ops(self) -> tuple[Any, Any, Any]:
        """(value, placeholder, assignment)."""
        tf = tensorflow()
        with self.inside.graph.as_default(), setup.scope(self.inside.spec):
            tensor = self.inside.graph.get_tensor_by_name(f"{self.name}:0")
            given = tf.compat.v1.placeholder(self.dtype)
            if tensor.dtype.name == "resource":
                value = tf.raw_ops.ReadVariableOp(resource=tensor, dtype=self.dtype)
                assign = tf.raw_ops.AssignVariableOp(resource=tensor, value=given)
            else:
                value = tf.identity(tensor)
                assign = tf.raw_ops.Assign(ref=tensor, value=given, validate_shape=False)
        return value, given, assign

    def numpy(self) -> Array:
        """Return the value."""
        import numpy as np

        return np.asarray(self.inside.session.run(self._ops[0]))

    def assign(self, value: Any) -> None:
        """Set the value."""
        _, given, assign = self._ops
        self.inside.session.run(assign, {given: value})


def nodes_in_branches(part: Any) -> set[str]:
    """Return the nodes that a call may leave out, or run often: branches and loops of TensorFlow 1.

    A Switch sends its value to one branch alone, a Merge joins two; what is between an Enter and an
    Exit is computed once per round.
    """
    depth: dict[str, int] = {}
    loops: set[str] = set()
    for _ in range(2):  # values that come back in a loop are found in the second round
        for node in part.node:
            sources = [_node(source) for source in node.input]
            inside = max((depth.get(source, 0) for source in sources), default=0)
            inside += node.op in _SWITCHES
            inside -= node.op in (*_MERGES, *_LEAVES)
            depth[node.name] = max(inside, 0)
            entered = any(source in loops for source in sources) and node.op not in _LEAVES
            if entered or node.op in _FRAMES:
                loops.add(node.name)
    return loops | {name for name, level in depth.items() if level}


# -- loading ---------------------------------------------------------------------------------------


def needs_session(path: Path) -> bool:
    """Whether TensorFlow 2 has no objects for a SavedModel, but a graph alone, as TensorFlow 1 had.

    Source: tensorflow/python/saved_model/load.py (load_partial).
    """
    from tensorflow.python.saved_model import loader_impl

    graphs = loader_impl.parse_saved_model(str(path)).meta_graphs
    return len(graphs) != 1 or not graphs[0].HasField("object_graph_def")


def open_graph(path: Path, tags: Sequence[str], spec: RunnerSpec) -> GraphSession:
    """Load a graph into a session, restore its variables, run what initialises it.

    tags: of the graph; none for the only one, or the one that is tagged `serve`.
    Raises what TensorFlow raises; UsageError for a spec that a session does not have, FormatError
    for a signature of tensors that are not there.
    """
    from tensorflow.python.saved_model import loader_impl

    if spec.replicas > 1:
        raise UsageError("a SavedModel's graph runs in a session, which has no MirroredStrategy")
    tf = tensorflow()
    v1 = tf.compat.v1
    loader = loader_impl.SavedModelLoader(str(path))
    graphs = loader_impl.parse_saved_model(str(path)).meta_graphs
    chosen = list(tags) or (list(graphs[0].meta_info_def.tags) if len(graphs) == 1 else ["serve"])
    graph = tf.Graph()
    session = v1.Session(graph=graph, config=_config(spec))
    with graph.as_default(), setup.scope(spec):
        meta_graph = loader.load(session, chosen, clear_devices=True)
    inside = SessionGraph(graph, session, meta_graph, spec)
    signatures = {
        key: _signature(inside, path, key, meta_graph.signature_def[key])
        for key in sorted(meta_graph.signature_def)
        if is_called(meta_graph.signature_def[key])
    }
    if not signatures:
        raise UnsupportedError("the SavedModel has nothing to call", where=str(path))
    return GraphSession(spec, path, inside, signatures)


def _config(spec: RunnerSpec) -> Any:
    v1 = tensorflow().compat.v1
    config = v1.ConfigProto(allow_soft_placement=False, log_device_placement=False)
    config.device_count["CPU"] = spec.index + 1 if spec.device == "CPU" else 1
    if spec.threads is not None:
        config.intra_op_parallelism_threads = spec.threads
        config.inter_op_parallelism_threads = spec.threads
    if spec.device == "GPU":
        config.gpu_options.allow_growth = True
        config.gpu_options.visible_device_list = str(spec.index)
    else:
        config.device_count["GPU"] = 0
    return config


def _signature(inside: SessionGraph, path: Path, key: str, message: Any) -> SessionSignature:
    try:
        sides = [
            [pair for name in sorted(infos) for pair in _tensors(inside, name, infos[name])]
            for infos in (message.inputs, message.outputs)
        ]
    except (KeyError, ValueError) as error:
        raise FormatError(
            str(path), f"signature {key!r} is of a tensor that the graph has not: {error}"
        ) from error
    inputs, outputs = ([info for info, _ in side] for side in sides)
    feeds, fetches = ({info.name: tensor for info, tensor in side} for side in sides)
    optional = tuple(
        info.name
        for info in inputs
        if info.shape == () and inside.nodes[_node(feeds[info.name])].op == "PlaceholderWithDefault"
    )
    return SessionSignature(tuple(inputs), tuple(outputs), feeds, fetches, optional)


def _tensors(inside: SessionGraph, name: str, message: Any) -> Iterator[tuple[TensorInfo, str]]:
    """Yield (info, tensor) of an input or output, or of its parts."""
    encoding = message.WhichOneof("encoding")
    if encoding == "coo_sparse":
        tensors = [getattr(message.coo_sparse, f"{role}_tensor_name") for role in SPARSE_ROLES]
        infos = sparse_parts(name, _info(inside, name, tensors[1])._replace(shape=_shape(message)))
    elif encoding == "composite_tensor":
        composite = message.composite_tensor
        tensors = [component.name for component in composite.components]
        spec = composite.type_spec
        kinds = spec.DESCRIPTOR.fields_by_name["type_spec_class"].enum_type.values_by_number
        kind = kinds[spec.type_spec_class].name if spec.type_spec_class in kinds else ""
        infos = [_info(inside, f"{name}/{number}", t) for number, t in enumerate(tensors)]
        if kind == "RAGGED_TENSOR_SPEC":
            infos = ragged_parts(name, infos)
        elif kind == "SPARSE_TENSOR_SPEC":
            infos = sparse_parts(name, infos[1]._replace(shape=None))
    else:
        tensors = [message.name]
        infos = [_info(inside, name, message.name)]
    yield from zip(infos, tensors, strict=True)


def _info(inside: SessionGraph, name: str, tensor: str) -> TensorInfo:
    found = inside.graph.get_tensor_by_name(tensor)
    shape = None if found.shape.rank is None else tuple(found.shape.as_list())
    return TensorInfo(name, found.dtype.base_dtype.name, shape)


def _shape(message: Any) -> tuple[int | None, ...] | None:
    if message.tensor_shape.unknown_rank:
        return None
    return tuple(None if dim.size < 0 else dim.size for dim in message.tensor_shape.dim)
