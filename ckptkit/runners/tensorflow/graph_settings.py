"""What a graph is set to, and running it set otherwise.  Child process alone.

The graph of a SavedModel has no layers whose settings could be changed, but it has what these
became: an epsilon is an attribute of a normalisation, or the constant that is added before a root;
an activation is an op.  To try another one, what the op gives is replaced by what it would give
then, and the rest of the graph is computed from that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptkit.runners.child.faults import (
    ACTIVATION,
    EPSILON,
    Fault,
    other_activation,
    other_epsilon,
)
from ckptkit.runners.tensorflow.graph_session import GraphSession, nodes_in_branches
from ckptkit.runners.tensorflow.graphs import FlatGraph, needed_part, readable, without_nodes
from ckptkit.runners.tensorflow.isolate import outputs_of
from ckptkit.runners.tensorflow.module import tensorflow
from ckptkit.runners.tensorflow.session import TensorFlowSession, arrays_of

if TYPE_CHECKING:
    from ckptkit.dtypes import Array, Arrays

# Ops that are an activation, and its name (tensorflow/core/ops/nn_ops.cc, math_ops.cc).
_ACTIVATIONS = {
    "Relu": "relu",
    "Relu6": "relu6",
    "Elu": "elu",
    "Selu": "selu",
    "LeakyRelu": "leaky_relu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Softmax": "softmax",
    "Softplus": "softplus",
    "Softsign": "softsign",
}
_SUMS, _ROOTS = ("Add", "AddV2"), ("Rsqrt", "Sqrt")
_HANDS_ON = ("Identity", "Cast", "Reshape", "StopGradient")
_LARGEST_EPSILON = 0.5  # what is added before a root and is larger is no epsilon
_FLOATS = ("float16", "bfloat16", "float32", "float64")


class GraphSetting(NamedTuple):
    """One setting of a graph.

    kind: EPSILON or ACTIVATION.  node: what gives the value that depends on it.  takes: tensors
    that the node computes this from.  old, new: the setting, and what it may be taken for.
    """

    kind: str
    node: str
    takes: tuple[str, ...]
    old: float | str
    new: float | str


def settings_in(graph: Any) -> Iterator[GraphSetting]:
    """Yield the settings of a GraphDef that may be mistaken; functions in it are not looked into.

    Of a gate `x * sigmoid(x)` (silu), the product is the activation.
    """
    nodes = {node.name: node for node in graph.node}
    for node in graph.node:
        if node.op.startswith("FusedBatchNorm") and "Grad" not in node.op:
            old = _shortest(node.attr["epsilon"].f)
            if old > 0:
                takes = tuple(node.input[:5])
                yield GraphSetting(EPSILON, node.name, takes, old, other_epsilon(old))
        elif node.op in _ROOTS:
            yield from _epsilon_below(node, nodes)
        elif node.op in ("Mul", "Sigmoid") and _dtype(node) in _FLOATS:
            gated = _gated(node, nodes) if node.op == "Mul" else None
            if gated is not None:
                yield GraphSetting(ACTIVATION, node.name, (gated,), "silu", "relu")
            elif node.op == "Sigmoid" and not _is_gate(node, graph):
                yield GraphSetting(ACTIVATION, node.name, (node.input[0],), "sigmoid", "relu")
        elif node.op in _ACTIVATIONS and _dtype(node) in _FLOATS:
            name = _ACTIVATIONS[node.op]
            new = other_activation(name)
            if new is not None:
                yield GraphSetting(ACTIVATION, node.name, (node.input[0],), name, new)


def _epsilon_below(root: Any, nodes: Mapping[str, Any]) -> Iterator[GraphSetting]:
    """Yield the constant that is added to what a root is taken of, where it is small."""
    node = nodes.get(_name(root.input[0]))
    while node is not None and node.op in _HANDS_ON:
        node = nodes.get(_name(node.input[0]))
    if node is None or node.op not in _SUMS or _dtype(node) not in _FLOATS:
        return
    for at in (1, 0):
        constant = nodes.get(_name(node.input[at]))
        while constant is not None and constant.op in _HANDS_ON:
            constant = nodes.get(_name(constant.input[0]))
        value = None if constant is None else _scalar(constant)
        if value is not None and 0 < value < _LARGEST_EPSILON:
            takes = (node.input[1 - at],)
            yield GraphSetting(EPSILON, node.name, takes, value, other_epsilon(value))
            return


def _scalar(node: Any) -> float | None:
    """Return the one number of a constant of floating point; None of any other node."""
    if node.op != "Const" or _dtype(node, "dtype") not in _FLOATS:
        return None
    value = tensorflow().make_ndarray(node.attr["value"].tensor)
    return _shortest(float(value.reshape(()))) if value.size == 1 else None


def _gated(product: Any, nodes: Mapping[str, Any]) -> str | None:
    """Return what a product gates by the sigmoid of itself; None of any other product."""
    for at in (0, 1):
        gate = nodes.get(_name(product.input[at]))
        if gate is not None and gate.op == "Sigmoid":
            other = product.input[1 - at]
            if _tensor(gate.input[0]) == _tensor(other):
                return str(other)
    return None


def _is_gate(sigmoid: Any, graph: Any) -> bool:
    return any(
        node.op == "Mul"
        and sigmoid.name in map(_name, node.input)
        and _tensor(sigmoid.input[0]) in map(_tensor, node.input)
        for node in graph.node
    )


def _dtype(node: Any, attribute: str = "T") -> str:
    return str(tensorflow().as_dtype(node.attr[attribute].type).name)


def _name(source: str) -> str:
    return source.lstrip("^").partition(":")[0]


def _tensor(source: str) -> str:
    return source if ":" in source else f"{source}:0"


def _shortest(value: float) -> float:
    """Return the decimal that a float32 was made from, as a person gave it."""
    return float(f"{value:.6g}")


def _set_otherwise(setting: GraphSetting, node: Any, values: Sequence[Any]) -> Any:
    """Return what a node gives with the new setting, of what it takes."""
    tf = tensorflow()
    if setting.kind == ACTIVATION:
        others: Mapping[str, Callable[[Any], Any]] = {
            "gelu": tf.nn.gelu,
            "sigmoid": tf.sigmoid,
            "relu": tf.nn.relu,
        }
        return others[str(setting.new)](values[0])
    if node.op in _SUMS:
        return values[0] + tf.cast(setting.new, values[0].dtype)
    attributes = {
        "epsilon": setting.new,
        "is_training": node.attr["is_training"].b,
        "data_format": node.attr["data_format"].s.decode() or "NHWC",
    }
    names = ("x", "scale", "offset", "mean", "variance")
    given = dict(zip(names, values, strict=True))
    return getattr(tf.raw_ops, node.op)(**given, **attributes)[0]


# -- running a graph with another setting ----------------------------------------------------------


@dataclass
class GraphSettings:
    """The settings of the graph of one signature."""

    session: TensorFlowSession | GraphSession
    signature: str
    cases: Sequence[Arrays]
    _flat: FlatGraph | None = field(default=None, init=False)
    _names: Sequence[str] = field(default=(), init=False)
    _outputs: Mapping[str, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if isinstance(self.session, GraphSession):
            return
        endpoint = self.session.loaded.endpoints[self.signature]
        if endpoint.concrete is None or self.session.strategy is not None:
            return
        tensors = self.session.tensors(self.cases[0])
        self._flat, ordered = self.session.flat_graph(endpoint, tensors)
        self._names, self._outputs = list(ordered), outputs_of(self._flat)

    def faults(
        self, owners: Callable[[FlatGraph], Mapping[str, str]]
    ) -> Iterator[tuple[Fault, GraphSetting]]:
        """Yield what may be mistaken, each as a fault and as what is set; nothing of a live model.

        owners: returns {placeholder: layer} of the variables that a graph captured.
        """
        if isinstance(self.session, GraphSession):
            chosen = self.session.signatures[self.signature]
            ends = [*chosen.fetches.values()]
            part = self.session.inside.part({*chosen.feeds.values()}, ends)
            left_out = nodes_in_branches(part) | {_name(tensor) for tensor in chosen.feeds.values()}
            layers: Mapping[str, str] = {}
        elif self._outputs and self._flat is not None:
            part = needed_part(self._flat.graph, map(_name, self._outputs.values()))
            left_out = set()
            layers = _layers_of_scopes(part, owners(self._flat))
        else:
            return
        for setting in settings_in(part):
            if setting.node not in left_out:
                layer = _layer(readable(setting.node), layers)
                yield Fault(setting.kind, layer, (), (setting.old, setting.new)), setting

    def call(self, setting: GraphSetting, inputs: Arrays) -> dict[str, Array]:
        """Return the outputs of the model with another setting."""
        if isinstance(self.session, GraphSession):
            return self._in_session(self.session, setting, inputs)
        assert self._flat is not None
        return self._in_function(self.session, self._flat, setting, inputs)

    def _in_session(
        self, session: GraphSession, setting: GraphSetting, inputs: Arrays
    ) -> dict[str, Array]:
        feeds = session.feeds(self.signature, inputs)
        takes = [_tensor(name) for name in setting.takes]
        given = session.inside.fetch(feeds, list(dict.fromkeys(takes)))
        values = [tensorflow().constant(given[name]) for name in takes]
        node = session.inside.nodes[setting.node]
        changed = {f"{setting.node}:0": _set_otherwise(setting, node, values).numpy()}
        fetches = session.signatures[self.signature].fetches
        wanted = [name for name in dict.fromkeys(fetches.values()) if name not in changed]
        found = session.inside.fetch({**feeds, **changed}, wanted) if wanted else {}
        return {name: (found | changed)[tensor] for name, tensor in fetches.items()}

    def _in_function(
        self, session: TensorFlowSession, flat: FlatGraph, setting: GraphSetting, inputs: Arrays
    ) -> dict[str, Array]:
        tf = tensorflow()
        ends, takes = [*self._outputs.values()], [_tensor(name) for name in setting.takes]
        node = next(node for node in flat.graph.node if node.name == setting.node)
        changed = f"{setting.node}:0"
        placeholders = {*flat.inputs, *flat.captured}

        def imported(wanted: Sequence[str], used: Mapping[str, Any]) -> list[Any]:
            part = needed_part(flat.graph, map(_name, wanted))
            without_nodes(part, placeholders)  # XLA would compile them
            read = {_tensor(source) for node in part.node for source in node.input}
            used = {name: value for name, value in used.items() if name in read}
            found: list[Any] = tf.graph_util.import_graph_def(
                part, input_map=used, return_elements=list(wanted), name=""
            )
            return found

        def body(*arguments: Any) -> Any:
            inside = tf.compat.v1.get_default_graph()
            fed = dict(zip(flat.inputs, arguments, strict=True))
            fed |= {name: inside.capture(value) for name, value in flat.captured.items()}
            used = {f"{name}:0": value for name, value in fed.items()}
            here = [name for name in dict.fromkeys(takes) if name not in used]
            values = used | dict(zip(here, imported(here, used) if here else [], strict=True))
            now = _set_otherwise(setting, node, [values[name] for name in takes])
            rest = [name for name in dict.fromkeys(ends) if name not in (changed, *used)]
            found = dict(zip(rest, imported(rest, {**used, changed: now}), strict=True))
            return [{**used, changed: now, **found}[name] for name in ends]

        tensors = session.tensors(inputs)
        jit = True if session.spec.xla else None
        run = tf.function(body, jit_compile=jit, autograph=False)
        values = run(*(tensors[name] for name in self._names))
        return arrays_of(dict(zip(self._outputs, values, strict=True)))


def _layers_of_scopes(graph: Any, owners: Mapping[str, str]) -> dict[str, str]:
    """Return {scope: layer} of the scopes in which variables of one layer alone are read.

    A layer reads them in its own scope, or in that of one of its ops, and nowhere above.
    """
    nodes = {node.name: node for node in graph.node}
    found: dict[str, set[str]] = {}

    def owner(name: str) -> str | None:
        while name not in owners and name in nodes and nodes[name].op == "Identity":
            name = _name(nodes[name].input[0])  # inlined calls hand their arguments on
        return owners.get(name)

    for node in graph.node:
        layers = {layer for name in map(_name, node.input) if (layer := owner(name)) is not None}
        if not layers or node.op == "Identity":
            continue
        here = readable(node.name).rpartition("/")[0]
        for scope in (here, here.rpartition("/")[0]):
            found.setdefault(scope, set()).update(layers)
    return {scope: min(layers) for scope, layers in found.items() if scope and len(layers) == 1}


def _layer(name: str, layers: Mapping[str, str]) -> str:
    """Return the layer that a node is in: as its variables have it, else its scope."""
    scope = name.rpartition("/")[0]
    above = scope
    while above and above not in layers:
        above = above.rpartition("/")[0]
    return layers.get(above, scope or name)
