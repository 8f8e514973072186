"""The names of values inside of a model, as the op or the layer that they mean.

A SavedModel, and what converters make of one, names the ops of a graph; Keras names layers.
Converters keep TensorFlow's names: ONNX with the number of the output behind it, `.tflite` with all
the ops that became one, `relu/Relu;norm/batchnorm/add_1;conv/BiasAdd`.
"""

from __future__ import annotations

from ckptkit.dtypes import kind as kind_of
from ckptkit.stores.registry import format_of_kind
from ckptkit.text import lazy_pattern

_CALLS = lazy_pattern(r"(^|/)(Stateful)?PartitionedCall/")
_OUTPUT = lazy_pattern(r":\d+$")
_COUNTED = lazy_pattern(r"(_?\d+|__\d+)$")
# What begins a fused op, or only moves values, so that another op of it gives the value.
_FIRST = ("MatMul", "convolution", "Conv2D", "Conv1D", "Conv3D", "depthwise", "Squeeze", "Reshape")
_READS = ("ReadVariableOp", "ExpandDims")
_MOVES = frozenset(
    {
        *("strided_slice", "Slice", "Squeeze", "ExpandDims", "Reshape", "transpose", "Transpose"),
        *("TensorListStack", "Identity", "unstack", "Unsqueeze"),
    }
)


def values_are_ops(kind: str) -> bool:
    """Whether the values inside of a model of this kind go by the names of ops, not of layers."""
    row = format_of_kind(kind)
    return row is not None and row.values_are_ops


def is_converted(kind: str) -> bool:
    """Whether models of this kind are made from another model."""
    row = format_of_kind(kind)
    return row is not None and row.is_converted


def op_of(name: str, kind: str) -> str:
    """Return the op whose value goes by this name in a subject of this kind."""
    if not is_converted(kind):
        return name
    ops = ops_of(name)
    last = [op for op in ops if not _is(op, _FIRST)]
    return (last or ops or [name])[0]


def ops_of(name: str) -> list[str]:
    """Return all ops that one op of a converted model stands for."""
    return [op for op in all_ops_of(name) if not _is(op, _READS)]


def all_ops_of(name: str) -> list[str]:
    """Return the same with those that only read a variable."""
    found = (_CALLS.sub(r"\1", _OUTPUT.sub("", part)) for part in name.split(";"))
    return list(filter(None, found))


def is_first(name: str) -> bool:
    """Whether an op is a product or a convolution, after which others may be fused."""
    return _is(name, _FIRST)


def is_begun(name: str) -> bool:
    """Whether an op is the first of a layer's, or adds its bias: more of the layer may follow."""
    return _is(name, (*_FIRST, "BiasAdd"))


def _is(name: str, kinds: tuple[str, ...]) -> bool:
    return _COUNTED.sub("", name.rpartition("/")[2]).startswith(kinds)


def is_moved(name: str) -> bool:
    """Whether an op only gives what it was given, in another place or shape."""
    word = name.rpartition("/")[2]
    while word not in _MOVES and _COUNTED.search(word):
        word = _COUNTED.sub("", word)
    return word in _MOVES


def alike(one: str, other: str) -> bool:
    """Whether values of these dtypes can be held against each other."""
    return one == other or kind_of(one) == kind_of(other) == "float"
