"""A model that TensorFlow has ready to run, of any kind.  Child process alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptkit.errors import UnsupportedError, UsageError
from ckptkit.model_io.tf_examples import Feature
from ckptkit.runners.child.heavy_ops import is_heavy
from ckptkit.runners.child.quantised import quantisation_of
from ckptkit.runners.child.session import Intermediates, ModelFacts, Request, import_extras, wanted
from ckptkit.runners.errors import refused
from ckptkit.runners.spec import RunnerSpec
from ckptkit.runners.tensorflow import setup
from ckptkit.runners.tensorflow.build import is_keras, keras, layers_of, load_keras
from ckptkit.runners.tensorflow.devices import Devices, compiled, watching
from ckptkit.runners.tensorflow.endpoints import Endpoint, calls_of, signatures_of
from ckptkit.runners.tensorflow.graph_session import GraphSession, needs_session, open_graph
from ckptkit.runners.tensorflow.graphs import FlatGraph, GraphPoint
from ckptkit.runners.tensorflow.layers import (
    eager_intermediates,
    graph_intermediates,
    points_of_layers,
)
from ckptkit.runners.tensorflow.mirrored import mirrored
from ckptkit.runners.tensorflow.module import tensorflow
from ckptkit.runners.tensorflow.owners import RECORDER, Owners
from ckptkit.runners.tensorflow.parsed_examples import parsed_examples
from ckptkit.runners.tensorflow.restore import build, lost_weights, restore_into
from ckptkit.runners.tensorflow.saved_model import (
    load_saved_model,
    rows_looked_up,
    rows_of,
    words_of,
)
from ckptkit.runners.tensorflow.xla import not_compiled, refuse_text
from ckptkit.stores.registry import KERAS, SAVED_MODEL, format_of_kind

if TYPE_CHECKING:
    from ckptkit.dtypes import Array, Arrays


_LOW = {19: "float16", 14: "bfloat16"}  # DataType


@dataclass
class LoadedModel:
    """A model in memory.

    model: None of a SavedModel.  keep_alive: what the endpoints' functions need and do not hold.
    how: in what way a SavedModel was loaded.  owners: tells the objects of ops, of live models that
    are looked into and whose layers no scope tells.
    """

    endpoints: dict[str, Endpoint]
    model: Any = None
    keep_alive: Any = None
    how: str = "as it is"
    restored: dict[str, Any] | None = None
    skipped: str = ""
    owners: Owners | None = None


def start(request: Request, spec: RunnerSpec) -> TensorFlowSession | GraphSession:
    """Set TensorFlow up and load the model of a request."""
    setup.configure(spec)
    import_extras(request)
    model_spec = request["model_spec"]
    path = Path(model_spec["path"] or ".")
    row = format_of_kind(model_spec["kind"])
    if row is not None and row.structure == SAVED_MODEL:
        if spec.eager:
            raise UsageError("a SavedModel holds graphs, which do not run eagerly")
        return open_saved_model(path, model_spec["tags"], spec)
    strategy = setup.strategy(spec)
    with strategy.scope() if strategy is not None else setup.scope(spec):
        loaded = _load(request, spec)
    return TensorFlowSession(spec, path, loaded, strategy)


def open_saved_model(
    path: Path, tags: Sequence[str], spec: RunnerSpec
) -> TensorFlowSession | GraphSession:
    """Load a SavedModel; raises what TensorFlow raises.

    What TensorFlow 2 has no objects for runs in a session, on every device; so does what it does
    not load.  tags: of the graph; none for the only one, or the one that is tagged `serve`.
    """
    if needs_session(path):
        return open_graph(path, tags, spec)
    strategy = setup.strategy(spec)
    try:
        with strategy.scope() if strategy is not None else setup.scope(spec):
            saved, how = load_saved_model(path, tags)
    except Exception as error:  # any of many; whether a session loads it tells more
        try:
            return open_graph(path, tags, spec)
        except Exception:
            raise error from None
    endpoints = signatures_of(saved)
    if not endpoints:
        raise UnsupportedError("the SavedModel has nothing to call", where=str(path))
    loaded = LoadedModel(endpoints, keep_alive=saved, how=how)
    return TensorFlowSession(spec, path, loaded, strategy)


def _load(request: Request, spec: RunnerSpec) -> LoadedModel:
    model_spec = request["model_spec"]
    row = format_of_kind(model_spec["kind"])
    if row is not None and row.structure == KERAS:
        trusted = bool(request["options"].get("trust"))
        model = load_keras(model_spec["path"], trusted=trusted)
        return LoadedModel(calls_of(model), model)
    looked_into = request["action"] == "isolate" or bool(request.get("layers"))
    if looked_into:
        RECORDER.install()  # before anything is traced
    built = build(model_spec["code"], model_spec["place"])
    endpoints = calls_of(built.to_run(), built.seen)
    loaded = LoadedModel(endpoints, built.model, keep_alive=built)
    if looked_into and built.model is not None and not is_keras(built.model):
        loaded.owners = Owners(built.model, RECORDER)
    if request["action"] != "describe" and model_spec["path"]:
        path = Path(model_spec["path"])
        restored = restore_into(built, path, request.get("out"), model_spec["place"])
        loaded.restored = {**restored, "environment": setup.environment(spec)}
        # a model with first values in it would give outputs that mean nothing
        lost = lost_weights(built, restored)
        if lost:
            loaded.skipped = f"{len(lost):,} variables got no value: {', '.join(lost[:3])}"
        elif restored["error"]:
            loaded.skipped = f"the restore failed: {restored['error']}"
    return loaded


@dataclass
class TensorFlowSession:
    """See `ckptkit.runners.child.session.Session`."""

    spec: RunnerSpec
    path: Path
    loaded: LoadedModel
    strategy: Any = None
    _devices: Devices = field(default_factory=dict)
    _functions: dict[str, Any] = field(default_factory=dict)
    _ran: bool = False

    @property
    def restored(self) -> Mapping[str, Any] | None:
        return self.loaded.restored

    @property
    def skipped(self) -> str:
        return self.loaded.skipped

    # -- what the model is -------------------------------------------------------------------------

    def describe(self) -> ModelFacts:
        endpoints = self.loaded.endpoints
        signatures = {
            k: e.model_signature for k, e in endpoints.items() if e.model_signature is not None
        }
        optional = {key: e.optional for key, e in endpoints.items() if e.optional}
        words, high = self._words_and_rows()
        examples = {key: found for key, e in endpoints.items() if (found := _examples_of(e))}
        return ModelFacts(signatures, words, high, optional, examples)

    def _words_and_rows(self) -> tuple[list[bytes], int | None]:
        dtypes = {i.dtype for e in self.loaded.endpoints.values() for i in e.inputs or ()}
        if self.loaded.model is not None:
            return _keras_words(self.loaded.model), _keras_rows(self.loaded.model)
        words: list[bytes] = []
        if "string" in dtypes:
            graphs = (e.concrete.graph.as_graph_def() for e in self.loaded.endpoints.values())
            words = words_of(self.path, graphs)
        high = None
        if dtypes & {"int32", "int64", "int16", "int8", "uint8"}:
            flats = [FlatGraph(e.concrete) for e in self.loaded.endpoints.values()]
            rows = [rows_looked_up(flat.graph, rows_of(flat.captured)) for flat in flats]
            high = min((n for n in rows if n is not None), default=None)
        return words, high

    def infer_signature(self, inputs: Arrays) -> str:
        (name, endpoint), *others = self.loaded.endpoints.items() or [("", None)]
        if others or endpoint is None:
            raise refused("the model does not tell its inputs")
        return name

    def environment(self) -> dict[str, Any]:
        found = setup.environment(self.spec)
        found |= {"policy": self._policy(), "loaded": self.loaded.how}
        model = self.loaded.model
        quantised = quantisation_of(layers_of(model)) if is_keras(model) else ""
        return {**found, "quantized": quantised} if quantised else found

    def _policy(self) -> str:
        """Return the dtype that products are computed in, where that is not float32."""
        if self.loaded.model is not None and is_keras(self.loaded.model):
            layers = [*layers_of(self.loaded.model), self.loaded.model]
            mixed = {_policy_name(layer) for layer in layers} - {"float32", ""}
            return ", ".join(sorted(mixed)) or "float32"
        low = set()
        for endpoint in self.loaded.endpoints.values():
            if endpoint.concrete is not None:
                graph = endpoint.concrete.graph.as_graph_def()
                nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
                low |= {_LOW.get(n.attr["T"].type, "") for n in nodes if is_heavy(n.op)}
        return ", ".join(sorted(low - {""})) or "float32"

    # -- running -----------------------------------------------------------------------------------

    def call(self, signature: str, inputs: Arrays) -> dict[str, Array]:
        with setup.scope(self.spec):
            tensors = self.tensors(inputs)
            if self.spec.xla:
                refuse_text(tensor.dtype.name for tensor in tensors.values())
            try:
                run = self._again if self._ran else self._first
                outputs = run(signature, tensors)
            except tensorflow().errors.InvalidArgumentError as error:
                refusal = not_compiled(error) if self.spec.xla else None
                if refusal is None:
                    raise
                raise refusal from error
            return arrays_of(outputs)

    def _again(self, signature: str, tensors: Mapping[str, Any]) -> Any:
        return self._function(signature)(tensors)

    def _first(self, signature: str, tensors: Mapping[str, Any]) -> Any:
        """Call it, and note the devices."""
        self._ran = True
        with watching(self._devices, eager=self.spec.eager):
            outputs = self._function(signature)(tensors)
        if self.spec.xla:
            graph = self._function(signature).get_concrete_function(tensors).graph.as_graph_def()
            compiled(self._devices, graph, outputs)
        return outputs

    def tensors(self, inputs: Arrays) -> dict[str, Any]:
        """Return the inputs as tensors."""
        tf = tensorflow()
        return {name: tf.constant(value) for name, value in inputs.items()}

    def retrace(self) -> None:
        """Have the model called anew, as its layers are now; graphs of it are let go."""
        self._functions.clear()

    def _function(self, signature: str) -> Any:
        """Return what runs a signature under the switches of the spec."""
        if signature not in self._functions:
            self._functions[signature] = self._make_function(self._endpoint(signature))
        return self._functions[signature]

    def _endpoint(self, signature: str) -> Endpoint:
        return self.loaded.endpoints[signature]

    def _make_function(self, endpoint: Endpoint) -> Callable[[Mapping[str, Any]], Any]:
        if self.strategy is not None:
            return mirrored(self.strategy, endpoint)
        if self.spec.eager or (endpoint.concrete is not None and not self.spec.xla):
            return endpoint.call
        call = endpoint.call
        jit = True if self.spec.xla else None
        return tensorflow().function(lambda inputs: call(inputs), jit_compile=jit, autograph=False)  # type: ignore[no-any-return]

    def devices(self) -> Devices:
        return setup.as_asked(self.spec, self._devices)

    # -- looking inside ----------------------------------------------------------------------------

    def intermediates(
        self, signature: str, inputs: Arrays, globs: Sequence[str]
    ) -> Iterator[Intermediates]:
        if self.strategy is not None:
            raise UsageError("layers are looked at on one device, not under MirroredStrategy")
        endpoint, model = self._endpoint(signature), self.loaded.model
        with setup.scope(self.spec):
            tensors = self.tensors(inputs)
            layered = model is not None and is_keras(model)
            if self.spec.eager:
                if not layered:
                    raise UnsupportedError("only a Keras model has layers to look at eagerly")
                chunks = eager_intermediates(keras(), model, endpoint, tensors, globs)
            elif layered:
                traced, points = points_of_layers(keras(), model, endpoint, tensors)
                points = [point for point in points if wanted(point.name, globs)]
                flat = FlatGraph(traced, inlined=False)
                chunks = graph_intermediates(
                    flat, list(nest_order(tensors)), points, xla=self.spec.xla
                )
            else:
                flat, fed = self.flat_graph(endpoint, tensors)
                points = [p for p in self.points_of(flat) if wanted(p.name, globs)]
                chunks = graph_intermediates(flat, list(fed.values()), points, xla=self.spec.xla)
            for layers, outputs in chunks:
                yield Intermediates(arrays_of(layers), arrays_of(outputs))

    def flat_graph(
        self, endpoint: Endpoint, tensors: Mapping[str, Any]
    ) -> tuple[FlatGraph, dict[str, Any]]:
        """Return the graph of what is no Keras model, and the tensors in its inputs' order."""
        if endpoint.concrete is not None:
            return FlatGraph(endpoint.concrete), dict(tensors)
        ordered = {name: tensors[name] for name in sorted(tensors)}
        return FlatGraph(_traced(endpoint, tensors)), ordered

    def points_of(self, flat: FlatGraph) -> list[GraphPoint]:
        """Return the values in the graph of what is no Keras model."""
        owners = self.loaded.owners
        return flat.points(owners.owner_of if owners is not None else None)


def _examples_of(endpoint: Endpoint) -> dict[str, tuple[Feature, ...]]:
    """Return {input: features} of what a SavedModel's function parses."""
    infos = endpoint.inputs or ()
    if endpoint.concrete is None or not any(info.dtype == "string" for info in infos):
        return {}
    flat = FlatGraph(endpoint.concrete)
    names = [info.name for info in infos]
    return parsed_examples(flat.graph, dict(zip(flat.inputs, names, strict=True)))


def nest_order(tensors: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the values as tf.nest flattens a dict."""
    yield from (tensors[name] for name in sorted(tensors))


def _traced(endpoint: Endpoint, tensors: Mapping[str, Any]) -> Any:
    call = endpoint.call
    function = tensorflow().function(lambda inputs: call(inputs), autograph=False)
    return function.get_concrete_function(dict(tensors))


def _policy_name(layer: Any) -> str:
    policy = getattr(layer, "dtype_policy", None)
    return str(getattr(policy, "compute_dtype", "") or "")


def _keras_words(model: Any) -> list[bytes]:
    found: dict[bytes, None] = {}
    for layer in layers_of(model):
        if hasattr(layer, "get_vocabulary"):
            words = layer.get_vocabulary(include_special_tokens=False)
            texts = (word for word in words if isinstance(word, (str, bytes)))
            found |= {w if isinstance(w, bytes) else w.encode(): None for w in texts}
    return list(found)


def _keras_rows(model: Any) -> int | None:
    rows = (getattr(layer, "input_dim", None) for layer in layers_of(model))
    return min((n for n in rows if type(n) is int), default=None)


def arrays_of(tensors: Mapping[str, Any]) -> dict[str, Array]:
    """Return the values of tensors; raises UnsupportedError for one that has none."""
    import numpy as np

    found = {}
    for name, tensor in tensors.items():
        dtype = tensorflow().as_dtype(tensor.dtype).name
        if dtype in ("resource", "variant"):
            raise UnsupportedError(f"output {name!r} is a {dtype}, which has no values")
        value = np.asarray(tensor)
        if dtype == "string" and value.dtype != object:  # a scalar: numpy would drop a last NUL
            value = np.array(tensor.numpy(), object)
        found[name] = value
    return found
