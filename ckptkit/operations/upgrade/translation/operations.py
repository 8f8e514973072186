"""TensorFlow's functions between the layers of a functional model, as operations of Keras 3.

Keras 2 keeps them as layers of four classes: TFOpLambda (a function by its public name, such as
`math.add`), SlicingOpLambda (`x[...]`), and TensorFlowOpLayer (of TensorFlow 2.0 to 2.3, which
holds the NodeDef of an op); ClassMethod, InstanceMethod and InstanceProperty call what has no
counterpart.  Keras 3 keeps an operation as an object of its class (`keras.src.ops.numpy.Add`), with
the settings that its constructor takes, called as any layer is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ckptkit.operations.upgrade.translation.account import Account
from ckptkit.operations.upgrade.translation.calls import Call, references_in

Path = tuple[str, ...]
_OPERATIONS = "keras.src.ops."

OP_CLASSES = frozenset(
    {
        "TFOpLambda",
        "SlicingOpLambda",
        "TensorFlowOpLayer",
        "ClassMethod",
        "InstanceMethod",
        "InstanceProperty",
    }
)


class NoCounterpartError(ValueError):
    """Keras 3 has nothing that computes the same; the message says why."""


class Counterpart(NamedTuple):
    """An operation of Keras 3: module below `keras.src.ops` and class, settings, arguments."""

    operation: str
    settings: dict[str, Any]
    args: list[Any]

    def to_json(self, name: str) -> dict[str, Any]:
        """Return it serialised, without its calls."""
        module, _, class_name = self.operation.rpartition(".")
        is_layer = module == "layers"
        return {
            "module": "keras.layers" if is_layer else _OPERATIONS + module,
            "class_name": class_name,
            "config": {"name": name, **self.settings},
            "registered_name": None if is_layer else class_name,
        }


@dataclass(frozen=True)
class _FunctionRule:
    """How a function becomes an operation.

    tensors: names of the arguments that are tensors, the first among them.  settings: keyword of
    TensorFlow -> setting of Keras 3.  fixed: settings that the function's name implies.
    harmless: keywords that may be left out where they have this value, beside `name`.
    """

    operation: str
    tensors: tuple[str, ...] = ("x",)
    settings: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    harmless: Mapping[str, Any] = field(default_factory=dict)


_REDUCED = {"axis": "axis", "keepdims": "keepdims", "keep_dims": "keepdims"}
_XY = ("x", "y")


def _reduction(operation: str) -> _FunctionRule:
    return _FunctionRule(
        operation, ("input_tensor",), _REDUCED, harmless={"reduction_indices": None}
    )


_UNARY = {
    "math.abs": "numpy.Absolute",
    "math.negative": "numpy.Negative",
    "math.exp": "numpy.Exp",
    "math.expm1": "numpy.Expm1",
    "math.log": "numpy.Log",
    "math.log1p": "numpy.Log1p",
    "math.sqrt": "numpy.Sqrt",
    "math.rsqrt": "math.Rsqrt",
    "math.square": "numpy.Square",
    "math.sign": "numpy.Sign",
    "math.floor": "numpy.Floor",
    "math.ceil": "numpy.Ceil",
    "math.round": "numpy.Round",
    "math.sin": "numpy.Sin",
    "math.cos": "numpy.Cos",
    "math.tan": "numpy.Tan",
    "math.sinh": "numpy.Sinh",
    "math.cosh": "numpy.Cosh",
    "math.tanh": "numpy.Tanh",
    "math.asin": "numpy.Arcsin",
    "math.acos": "numpy.Arccos",
    "math.atan": "numpy.Arctan",
    "math.erf": "math.Erf",
    "math.reciprocal": "numpy.Reciprocal",
    "math.sigmoid": "nn.Sigmoid",
    "math.softplus": "nn.Softplus",
    "math.is_nan": "numpy.Isnan",
    "math.is_finite": "numpy.Isfinite",
    "math.is_inf": "numpy.Isinf",
    "math.logical_not": "numpy.LogicalNot",
    "nn.relu": "nn.Relu",
    "nn.relu6": "nn.Relu6",
    "nn.selu": "nn.Selu",
    "nn.elu": "nn.Elu",
    "nn.softsign": "nn.Softsign",
    "identity": "layers.Identity",
    "stop_gradient": "core.StopGradient",
    "ones_like": "numpy.OnesLike",
    "zeros_like": "numpy.ZerosLike",
}
_BINARY = {
    "math.add": "numpy.Add",
    "__operators__.add": "numpy.Add",
    "math.subtract": "numpy.Subtract",
    "math.multiply": "numpy.Multiply",
    "math.divide": "numpy.TrueDivide",
    "math.truediv": "numpy.TrueDivide",
    "math.floordiv": "numpy.FloorDivide",
    "math.floormod": "numpy.Mod",
    "math.divide_no_nan": "numpy.DivideNoNan",
    "math.pow": "numpy.Power",
    "math.maximum": "numpy.Maximum",
    "math.minimum": "numpy.Minimum",
    "math.greater": "numpy.Greater",
    "math.greater_equal": "numpy.GreaterEqual",
    "math.less": "numpy.Less",
    "math.less_equal": "numpy.LessEqual",
    "math.equal": "numpy.Equal",
    "math.not_equal": "numpy.NotEqual",
    "math.logical_and": "numpy.LogicalAnd",
    "math.logical_or": "numpy.LogicalOr",
    "math.logical_xor": "numpy.LogicalXor",
    "math.atan2": "numpy.Arctan2",
}
_REDUCTIONS = {
    "math.reduce_mean": "numpy.Mean",
    "math.reduce_sum": "numpy.Sum",
    "math.reduce_max": "numpy.Max",
    "math.reduce_min": "numpy.Min",
    "math.reduce_prod": "numpy.Prod",
    "math.reduce_any": "numpy.Any",
    "math.reduce_all": "numpy.All",
    "math.reduce_std": "numpy.Std",
    "math.reduce_variance": "numpy.Var",
    "math.reduce_logsumexp": "math.Logsumexp",
}
_RULES: dict[str, _FunctionRule] = {
    **{name: _FunctionRule(operation) for name, operation in _UNARY.items()},
    **{name: _FunctionRule(operation, _XY) for name, operation in _BINARY.items()},
    **{name: _reduction(operation) for name, operation in _REDUCTIONS.items()},
    "math.scalar_mul": _FunctionRule("numpy.Multiply", ("scalar", "x")),
    "nn.leaky_relu": _FunctionRule(
        "nn.LeakyRelu", ("features",), {"alpha": "negative_slope"}, {"negative_slope": 0.2}
    ),
    "nn.gelu": _FunctionRule(
        "nn.Gelu", ("features",), {"approximate": "approximate"}, {"approximate": False}
    ),
    "nn.silu": _FunctionRule("nn.Silu", ("features",), harmless={"beta": 1.0}),
    "nn.softmax": _FunctionRule("nn.Softmax", ("logits",), {"axis": "axis"}),
    "nn.log_softmax": _FunctionRule("nn.LogSoftmax", ("logits",), {"axis": "axis"}),
    "concat": _FunctionRule("numpy.Concatenate", ("values",), {"axis": "axis"}),
    "stack": _FunctionRule("numpy.Stack", ("values",), {"axis": "axis"}),
    "unstack": _FunctionRule("core.Unstack", ("value",), {"num": "num", "axis": "axis"}),
    "reshape": _FunctionRule("numpy.Reshape", ("tensor",), {"shape": "newshape"}),
    "transpose": _FunctionRule(
        "numpy.Transpose", ("a",), {"perm": "axes"}, harmless={"conjugate": False}
    ),
    "expand_dims": _FunctionRule("numpy.ExpandDims", ("input",), {"axis": "axis"}),
    "squeeze": _FunctionRule("numpy.Squeeze", ("input",), {"axis": "axis", "squeeze_dims": "axis"}),
    "cast": _FunctionRule("core.Cast", ("x",), {"dtype": "dtype"}),
    "clip_by_value": _FunctionRule(
        "numpy.Clip", ("t",), {"clip_value_min": "x_min", "clip_value_max": "x_max"}
    ),
    "tile": _FunctionRule("numpy.Tile", ("input",), {"multiples": "repeats"}),
    "repeat": _FunctionRule("numpy.Repeat", ("input",), {"repeats": "repeats", "axis": "axis"}),
    "reverse": _FunctionRule("numpy.Flip", ("tensor",), {"axis": "axis"}),
    "roll": _FunctionRule("numpy.Roll", ("input",), {"shift": "shift", "axis": "axis"}),
    "gather": _FunctionRule(
        "numpy.Take",
        ("params", "indices"),
        {"axis": "axis"},
        {"axis": 0},
        {"batch_dims": 0, "validate_indices": None},
    ),
    "where": _FunctionRule("numpy.Where", ("condition", "x", "y")),
    "one_hot": _FunctionRule(
        "nn.OneHot",
        ("indices",),
        {"depth": "num_classes", "axis": "axis", "dtype": "dtype"},
        harmless={"on_value": None, "off_value": None},
    ),
    "math.argmax": _FunctionRule(
        "numpy.Argmax", ("input",), {"axis": "axis"}, {"axis": 0}, {"dimension": None}
    ),
    "math.argmin": _FunctionRule(
        "numpy.Argmin", ("input",), {"axis": "axis"}, {"axis": 0}, {"dimension": None}
    ),
    "math.cumsum": _FunctionRule(
        "numpy.Cumsum",
        ("x",),
        {"axis": "axis"},
        {"axis": 0},
        {"exclusive": False, "reverse": False},
    ),
    "math.top_k": _FunctionRule("math.TopK", ("input",), {"k": "k", "sorted": "sorted"}, {"k": 1}),
    "image.resize": _FunctionRule(
        "image.Resize",
        ("images",),
        {"size": "size", "method": "interpolation", "antialias": "antialias"},
        {"data_format": "channels_last"},
        {"preserve_aspect_ratio": False},
    ),
    "image.rgb_to_grayscale": _FunctionRule("image.RGBToGrayscale", ("images",)),
    "nn.depth_to_space": _FunctionRule(
        "nn.DepthToSpace",
        ("input",),
        {"block_size": "block_size"},
        {"data_format": "channels_last"},
        {"data_format": "NHWC"},
    ),
    "nn.space_to_depth": _FunctionRule(
        "nn.SpaceToDepth",
        ("input",),
        {"block_size": "block_size"},
        {"data_format": "channels_last"},
        {"data_format": "NHWC"},
    ),
}
# Where TensorFlow has one function under several names.
_ALIASES = {
    "abs": "math.abs",
    "add": "math.add",
    "add_n": "math.add_n",
    "subtract": "math.subtract",
    "multiply": "math.multiply",
    "divide": "math.divide",
    "math.div_no_nan": "math.divide_no_nan",
    "realdiv": "math.truediv",
    "truediv": "math.truediv",
    "pow": "math.pow",
    "maximum": "math.maximum",
    "minimum": "math.minimum",
    "exp": "math.exp",
    "sqrt": "math.sqrt",
    "square": "math.square",
    "tanh": "math.tanh",
    "sigmoid": "math.sigmoid",
    "nn.sigmoid": "math.sigmoid",
    "nn.tanh": "math.tanh",
    "nn.softplus": "math.softplus",
    "nn.swish": "nn.silu",
    "matmul": "linalg.matmul",
    "reduce_mean": "math.reduce_mean",
    "reduce_sum": "math.reduce_sum",
    "reduce_max": "math.reduce_max",
    "reduce_min": "math.reduce_min",
    "nn.l2_normalize": "math.l2_normalize",
    "linalg.l2_normalize": "math.l2_normalize",
    "nn.top_k": "math.top_k",
    "math.softmax": "nn.softmax",
    "math.log_softmax": "nn.log_softmax",
    "argmax": "math.argmax",
    "image.resize_bilinear": "image.resize",
    "where_v2": "where",
    "split": "split",
}
_PREFIXES = ("tf.", "compat.v1.", "compat.v2.", "_api.v2.")


def operation_of(
    class_name: str, config: Mapping[str, Any], calls: Sequence[Call], path: Path, account: Account
) -> Counterpart | None:
    """Return what Keras 3 has for one of OP_CLASSES; None where nothing, which is then noted.

    Args:
        class_name: of Keras 2.
        config: of the layer.
        calls: how it is called; Keras 2 calls such a layer once.
        path: of the layer.
        account: where changes and obstacles are noted.
    """
    name = _name_of(class_name, config)
    try:
        if len(calls) != 1:
            raise NoCounterpartError(f"it is called {len(calls)} times")
        if class_name == "TensorFlowOpLayer":
            found = _of_node(config, calls[0])
        elif class_name in ("TFOpLambda", "SlicingOpLambda"):
            found = _of_function(name, calls[0])
        else:
            raise NoCounterpartError("it reads a property or calls a method of a tensor")
    except NoCounterpartError as error:
        account.refuse(path, f"{name or class_name} has no counterpart in Keras 3: {error}")
        return None
    account.changed(path, f"{name} is keras.ops' {found.operation.rpartition('.')[2]}")
    return found


def _name_of(class_name: str, config: Mapping[str, Any]) -> str:
    if class_name == "TensorFlowOpLayer":
        return str(_node_def(config).get("op", ""))
    name = config.get("function") or config.get("method_name") or config.get("attr_name")
    return f"tf.{name}" if isinstance(name, str) else class_name


# -- functions -------------------------------------------------------------------------------------


def _of_function(name: str, call: Call) -> Counterpart:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    name = _ALIASES.get(name, name)
    special = _SPECIAL.get(name)
    if special is not None:
        return special(call.inputs, _plain(call.kwargs))
    rule = _RULES.get(name)
    if rule is None:
        raise NoCounterpartError("no operation of Keras is known to compute it")
    return _by_rule(rule, call.inputs, _plain(call.kwargs))


def _plain(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return keyword arguments but for the name that a caller gave the op."""
    return {key: value for key, value in kwargs.items() if key != "name"}


def _by_rule(rule: _FunctionRule, first: Any, kwargs: dict[str, Any]) -> Counterpart:
    args = [first]
    for position, tensor in enumerate(rule.tensors[1:], 1):
        if tensor not in kwargs:
            raise NoCounterpartError(f"argument {tensor!r} (number {position + 1}) is not given")
        args.append(kwargs.pop(tensor))
    settings = dict(rule.fixed)
    for keyword, value in kwargs.items():
        setting = rule.settings.get(keyword)
        if keyword in rule.harmless and value == rule.harmless[keyword]:
            continue
        if setting is None:
            if value is None:
                continue
            raise NoCounterpartError(f"argument {keyword}={value!r:.40} has none")
        if any(True for _ in references_in(value)):
            raise NoCounterpartError(f"argument {keyword} is computed by the model")
        if value is not None or setting not in settings:
            settings[setting] = value
    if any(arg is None for arg in args):
        raise NoCounterpartError("an argument is None")
    return Counterpart(rule.operation, _checked(rule.operation, settings), args)


def _checked(operation: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings without those that are None, which Keras gives itself."""
    found = {key: value for key, value in settings.items() if value is not None}
    if operation == "core.Cast" and not isinstance(found.get("dtype"), str):
        raise NoCounterpartError("the dtype is not told by name")
    return found


def _getitem(first: Any, kwargs: dict[str, Any]) -> Counterpart:
    if any(True for _ in references_in(kwargs)):
        raise NoCounterpartError("an index is computed by the model")
    spec = kwargs.pop("slice_spec", None)
    if kwargs or spec is None:
        raise NoCounterpartError(f"arguments {', '.join(kwargs) or 'are missing'}")
    items = spec if isinstance(spec, list) else [spec]
    return Counterpart("numpy.GetItem", {}, [first, [_index(item) for item in items]])


def _index(item: Any) -> Any:
    """Return one index in the form of Keras 3."""
    if isinstance(item, Mapping) and set(item) == {"start", "stop", "step"}:
        return {"class_name": "__slice__", "config": dict(item)}
    if item in ("...", "Ellipsis") or (
        isinstance(item, Mapping) and item.get("type") == "Ellipsis"
    ):
        return {"class_name": "__ellipsis__", "config": {}}
    if item is None or type(item) is int:
        return item
    raise NoCounterpartError(f"index {item!r:.40}")


def _matmul(first: Any, kwargs: dict[str, Any]) -> Counterpart:
    other = kwargs.pop("b", None)
    turned = [bool(kwargs.pop(f"transpose_{side}", False)) for side in "ab"]
    if other is None or any(value not in (None, False) for value in kwargs.values()):
        raise NoCounterpartError("such a matrix product")
    if not any(turned):
        return Counterpart("numpy.Matmul", {}, [first, other])
    left, right = "ji" if turned[0] else "ij", "kj" if turned[1] else "jk"
    settings = {"subscripts": f"...{left},...{right}->...ik"}
    return Counterpart("numpy.Einsum", settings, [first, other])


def _l2_normalize(first: Any, kwargs: dict[str, Any]) -> Counterpart:
    axis = kwargs.pop("axis", None)
    axis = kwargs.pop("dim", None) if axis is None else axis
    # TensorFlow bounds the sum of squares from below, Keras its root
    epsilon = math.sqrt(kwargs.pop("epsilon", None) or 1e-12)
    if kwargs and any(value is not None for value in kwargs.values()):
        raise NoCounterpartError(f"argument {next(iter(kwargs))}")
    return Counterpart("nn.Normalize", {"axis": axis, "order": 2, "epsilon": epsilon}, [first])


def _split(first: Any, kwargs: dict[str, Any]) -> Counterpart:
    sizes, axis = kwargs.pop("num_or_size_splits", None), kwargs.pop("axis", 0)
    if any(value is not None for key, value in kwargs.items() if key != "num"):
        raise NoCounterpartError("such a split")
    if isinstance(sizes, list) and all(type(size) is int and size >= 0 for size in sizes):
        sections: Any = [sum(sizes[: end + 1]) for end in range(len(sizes) - 1)]
    elif type(sizes) is int:
        sections = sizes
    else:
        raise NoCounterpartError("the sizes are computed by the model")
    return Counterpart("numpy.Split", {"indices_or_sections": sections, "axis": axis}, [first])


def _pad(first: Any, kwargs: dict[str, Any]) -> Counterpart:
    widths, mode = kwargs.pop("paddings", None), str(kwargs.pop("mode", "CONSTANT")).lower()
    value = kwargs.pop("constant_values", 0)
    if kwargs or not isinstance(widths, list) or any(True for _ in references_in(widths)):
        raise NoCounterpartError("the padding is computed by the model")
    if value not in (0, 0.0, None):
        raise NoCounterpartError(f"argument constant_values={value!r}")
    return Counterpart("numpy.Pad", {"pad_width": widths, "mode": mode}, [first])


def _norm(first: Any, kwargs: dict[str, Any]) -> Counterpart:
    order = kwargs.pop("ord", "euclidean")
    axis, keepdims = kwargs.pop("axis", None), kwargs.pop("keepdims", False)
    if order not in ("euclidean", 2, 2.0) or type(axis) is not int or any(kwargs.values()):
        raise NoCounterpartError("such a norm")
    settings = {"ord": 2, "axis": axis, "keepdims": bool(keepdims)}
    return Counterpart("linalg.Norm", settings, [first])


_SPECIAL: dict[str, Callable[[Any, dict[str, Any]], Counterpart]] = {
    "__operators__.getitem": _getitem,
    "linalg.matmul": _matmul,
    "math.l2_normalize": _l2_normalize,
    "split": _split,
    "pad": _pad,
    "linalg.norm": _norm,
    "norm": _norm,
}

# -- nodes of graphs -------------------------------------------------------------------------------

_NODES = {
    "Add": "math.add",
    "AddV2": "math.add",
    "Sub": "math.subtract",
    "Mul": "math.multiply",
    "RealDiv": "math.truediv",
    "Maximum": "math.maximum",
    "Minimum": "math.minimum",
    "Pow": "math.pow",
    "Greater": "math.greater",
    "Less": "math.less",
    "Relu": "nn.relu",
    "Relu6": "nn.relu6",
    "Elu": "nn.elu",
    "Selu": "nn.selu",
    "Sigmoid": "math.sigmoid",
    "Tanh": "math.tanh",
    "Softplus": "math.softplus",
    "Exp": "math.exp",
    "Log": "math.log",
    "Neg": "math.negative",
    "Abs": "math.abs",
    "Sqrt": "math.sqrt",
    "Rsqrt": "math.rsqrt",
    "Square": "math.square",
    "Identity": "identity",
    "StopGradient": "stop_gradient",
    "Softmax": "nn.softmax",
}
_REDUCING_NODES = {
    "Mean": "math.reduce_mean",
    "Sum": "math.reduce_sum",
    "Max": "math.reduce_max",
    "Min": "math.reduce_min",
    "Prod": "math.reduce_prod",
}


def _node_def(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the NodeDef that a TensorFlowOpLayer holds, as JSON in its text form or parsed."""
    node = config.get("node_def")
    if isinstance(node, str):
        try:
            node = json.loads(node)
        except ValueError:
            return {}
    return node if isinstance(node, Mapping) else {}


def _of_node(config: Mapping[str, Any], call: Call) -> Counterpart:
    node = _node_def(config)
    op, attributes = str(node.get("op", "")), node.get("attr")
    inputs = call.inputs if isinstance(call.inputs, list) else [call.inputs]
    constants = {int(place): value for place, value in (config.get("constants") or {}).items()}
    values, tensors = [], iter(inputs)
    for place in range(len(inputs) + len(constants)):
        values.append(constants[place] if place in constants else next(tensors, None))
    if op in _REDUCING_NODES and len(values) == 2 and 1 in constants:
        kept = isinstance(attributes, Mapping) and attributes.get("keep_dims", {})
        keepdims = bool(kept.get("b", False)) if isinstance(kept, Mapping) else False
        settings = {"axis": constants[1], "keepdims": keepdims}
        return _by_rule(_RULES[_REDUCING_NODES[op]], values[0], settings)
    if op == "Reshape" and len(values) == 2 and 1 in constants:
        return _by_rule(_RULES["reshape"], values[0], {"shape": constants[1]})
    rule = _RULES.get(_NODES.get(op, ""))
    if rule is None or len(values) != len(rule.tensors):
        raise NoCounterpartError(f"op {op} with {len(values)} inputs")
    rest = dict(zip(rule.tensors[1:], values[1:], strict=True))
    return _by_rule(rule, values[0], rest)
