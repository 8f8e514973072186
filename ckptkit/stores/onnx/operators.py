"""The ops of an ONNX graph, as far as they tell what its constants are.

Of the main graph alone: the branches of an `If` hold few weights.  Source: onnx/onnx.proto,
onnx/defs/nn/defs.cc, onnx/defs/math/defs.cc, onnx/defs/quantization/defs.cc, ONNX Runtime's
docs/ContribOperators.md (the order of operands and of their axes).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ckptkit.stores.base import TensorSpec
from ckptkit.stores.constants import (
    BIAS,
    KERNEL,
    RECURRENT,
    TABLE,
    ConstantUse,
    Recurrence,
    layer_of,
)
from ckptkit.stores.onnx.graph import WHAT
from ckptkit.stores.proto.fields import BYTES, VARINT, Field, FileMessage

_GRAPH = 7  # field of ModelProto
_NODE = 1  # field of GraphProto
_INPUT, _OUTPUT, _NAME, _OP, _ATTRIBUTE, _DOMAIN = 1, 2, 3, 4, 5, 7  # fields of NodeProto
_KEY, _INTEGER = 1, 3  # fields of AttributeProto
_DEFAULT_AXIS = 1  # of DequantizeLinear


@dataclass
class _OnnxNode:
    op: str = ""
    name: str = ""
    domain: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    integers: dict[str, int] = field(default_factory=dict)

    def input(self, at: int) -> str:
        return self.inputs[at] if at < len(self.inputs) else ""


class Scaled(NamedTuple):
    """Which tensors give the scales and the zero points of another.

    scales: whose product each scale is.  zero_points: "" where all are 0.  axis: from the end where
    negative; of one scale, any.  block: as in `Quantisation`.
    """

    scales: tuple[str, ...]
    zero_points: str
    axis: int
    block: int = 0


_OF_TWO = ("com.microsoft.QLinearAdd", "com.microsoft.QLinearMul")
# op: (input that is quantised, its scales, its zero point, axis); see each op's definition
_QUANTISED = {
    "QLinearConv": ((3, (4,), 5, 0), (8, (1, 4), -1, 0)),
    "QLinearMatMul": ((0, (1,), 2, -2), (3, (4,), 5, -1)),
    **dict.fromkeys(_OF_TWO, ((0, (1,), 2, -1), (3, (4,), 5, -1))),
    "com.microsoft.QGemm": ((3, (4,), 5, 0), (6, (1, 4), -1, 0)),
}
_INTEGER_PRODUCTS = {"MatMulInteger": -1, "ConvInteger": 0}  # axis of the kernel's scales
# inputs that are scales and zero points
_SCALES = {
    "DequantizeLinear": (1, 2),
    "QuantizeLinear": (1, 2),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    **dict.fromkeys(_OF_TWO, (1, 2, 4, 5, 6, 7)),
    "com.microsoft.QGemm": (1, 2, 4, 5, 7, 8),
    "MatMulInteger": (2, 3),
    "ConvInteger": (2, 3),
}


class _OnnxOperands(NamedTuple):
    kernel: int
    bias: int = -1
    parameter: str = KERNEL


_OPS = {
    "Conv": _OnnxOperands(1, 2),
    "ConvTranspose": _OnnxOperands(1, 2),
    "ConvInteger": _OnnxOperands(1),
    "QLinearConv": _OnnxOperands(3, 8),
    "Gemm": _OnnxOperands(1, 2),
    "MatMul": _OnnxOperands(1),
    "MatMulInteger": _OnnxOperands(1),
    "QLinearMatMul": _OnnxOperands(3),
    "com.microsoft.QGemm": _OnnxOperands(3, 6),
    "Gather": _OnnxOperands(0, parameter=TABLE),
}


# op: (the cell that Keras calls so, gates as the op has them, as Keras has them)
_CELLS = {
    "LSTM": ("lstm_cell", "iofc", "ifco"),
    "GRU": ("gru_cell", "zrh", "zrh"),
    "RNN": ("simple_rnn_cell", "h", "h"),
}


_IS_ADDED = {"Add": True, "Sub": True, "Mul": False, "Div": False}


class OnnxOperators:
    """What the nodes of a model say of its constants.

    Args:
        path: of the model.
        specs: of its tensors.

    Raises what `graph.read_graph` does.
    """

    def __init__(self, path: Path, specs: Mapping[str, TensorSpec]) -> None:
        self.specs = specs
        self.nodes = list(_nodes(FileMessage(path, WHAT)))
        self.scaled: dict[str, Scaled] = {}
        self._scaled_twice: dict[str, set[Scaled]] = {}
        same: dict[str, str] = {}  # what a constant is called after DequantizeLinear or Identity
        for node in self.nodes:
            if node.op == "Identity" and node.outputs:
                same[node.outputs[0]] = node.input(0)
            elif node.op == "DequantizeLinear" and node.outputs:
                same[node.outputs[0]] = node.input(0)
                self._dequantised(node)
            for at, scales, zero, axis in _QUANTISED.get(node.op, ()):
                names = tuple(node.input(number) for number in scales)
                if node.input(at) in specs and all(name in specs for name in names):
                    zeros = node.input(zero) if zero >= 0 else ""
                    self._scale(node.input(at), Scaled(names, zeros, axis))
        self._integer_products()
        for name in self._scaled_twice:
            del self.scaled[name]
        for node in self.nodes:
            node.inputs = [same.get(name, name) for name in node.inputs]

    def _scale(self, name: str, how: Scaled) -> None:
        """Note how a tensor is scaled; what is scaled in two ways stands for no one number."""
        first = self.scaled.setdefault(name, how)
        if first != how:
            self._scaled_twice.setdefault(name, {first}).add(how)

    def _dequantised(self, node: _OnnxNode) -> None:
        constant, scale = node.input(0), node.input(1)
        if constant in self.specs and scale in self.specs:
            axis = node.integers.get("axis", _DEFAULT_AXIS)
            block = node.integers.get("block_size", 0)
            self._scale(constant, Scaled((scale,), node.input(2), axis, block))

    def _integer_products(self) -> None:
        """Find the scales of kernels whose product with integers is scaled afterwards.

        As ONNX Runtime's dynamic quantisation writes it: the product is cast, and multiplied by the
        product of the input's scale, which is computed, and the kernel's.
        """
        made = {name: node for node in self.nodes for name in node.outputs}
        takers: dict[str, list[_OnnxNode]] = {}
        for node in self.nodes:
            for name in node.inputs:
                takers.setdefault(name, []).append(node)
        for node in self.nodes:
            if node.op not in _INTEGER_PRODUCTS or node.input(1) not in self.specs:
                continue
            ends = [end for name in node.outputs for end in takers.get(name, ())]
            ends = [
                end for cast in ends if cast.op == "Cast" for end in takers.get(cast.outputs[0], ())
            ]
            factors = [
                name
                for end in ends
                if end.op == "Mul"
                for factor in end.inputs
                if factor in made and made[factor].op == "Mul"
                for name in made[factor].inputs
                if name in self.specs
            ]
            if len(set(factors)) == 1:
                axis = _INTEGER_PRODUCTS[node.op]
                self._scale(node.input(1), Scaled((factors[0],), node.input(3), axis))

    def scales(self) -> frozenset[str]:
        """Return the names of the tensors that hold scales and zero points of others.

        Those of a constant that is scaled in two ways are not among them: its integers are what is
        compared, so that they have to be compared too.
        """
        found = {node.input(at) for node in self.nodes for at in _SCALES.get(node.op, ())}
        found.update(name for how in self.scaled.values() for name in how.scales)
        for ways in self._scaled_twice.values():
            found.difference_update(name for how in ways for name in (*how.scales, how.zero_points))
        return frozenset(found & self.specs.keys())

    def uses(self) -> dict[str, ConstantUse]:
        """Return, by name, whose parameter each constant is that an op of a layer takes."""
        found: dict[str, ConstantUse] = {}
        for node in self.nodes:
            operands = _OPS.get(node.op)
            if node.op in _CELLS:
                self._recurrent(node, found)
            if operands is None:
                self._added(node, found)
                continue
            kernel, bias = node.input(operands.kernel), ""
            if operands.bias > 0:
                bias = node.input(operands.bias)
            layer = layer_of(node.name, [kernel, bias, *node.outputs])
            if kernel in self.specs:
                use = ConstantUse(layer, operands.parameter, self._axes(node, self.specs[kernel]))
                found.setdefault(kernel, use)
            # a convolution without a bias takes what a normalisation behind it would add
            if bias in self.specs and layer_of(bias, ()) in ("", layer):
                found.setdefault(bias, ConstantUse(layer, BIAS))
        for node in self.nodes:
            for name in node.inputs:
                if name in self.specs and name not in found:
                    found[name] = ConstantUse(node.name, "", is_added=_IS_ADDED.get(node.op))
        return found

    def _added(self, node: _OnnxNode, found: dict[str, ConstantUse]) -> None:
        """Add the bias that an Add of its own gives to a layer."""
        if node.op not in ("Add", "com.microsoft.QLinearAdd"):
            return
        for name in node.inputs:
            is_vector = name in self.specs and self.specs[name].size in self.specs[name].shape
            if is_vector and any("BiasAdd" in text for text in (node.name, name)):
                found.setdefault(name, ConstantUse(layer_of(node.name, [name]), BIAS))

    def _recurrent(self, node: _OnnxNode, found: dict[str, ConstantUse]) -> None:
        """Add the constants of a recurrent op.

        What makes its input, with time first, is in the scope of its layer; of two directions, of
        the forward one.
        """
        cell, gates, kept = _CELLS[node.op]
        scope = node.input(0).rpartition("/")[0]
        is_together = node.op == "GRU" and bool(node.integers.get("linear_before_reset"))
        for at, parameter in ((1, KERNEL), (2, RECURRENT), (3, BIAS)):
            name = node.input(at)
            shape = self.specs[name].shape if name in self.specs else ()
            n_blocks = len(gates) * (2 if parameter == BIAS else 1)
            if len(shape) != (2 if parameter == BIAS else 3) or shape[1] % n_blocks:
                continue
            scopes = (scope, scope.replace("/forward_", "/backward_"))
            layers = tuple(f"{s}/{cell}" if s else "" for s in scopes[: shape[0]])
            biases = (1 if is_together else 2) if parameter == BIAS else 0
            recurrence = Recurrence(layers, (gates, kept), biases)
            if 0 < len(layers) == shape[0]:
                found[name] = ConstantUse(layers[0], parameter, recurrence=recurrence)

    def _axes(self, node: _OnnxNode, kernel: TensorSpec) -> tuple[int, ...]:
        """Return, for each axis as Keras has it, that of a kernel."""
        spatial = tuple(range(2, len(kernel.shape)))
        if "Gemm" in node.op:
            return (1, 0) if node.integers.get("transB") else ()
        if "Conv" not in node.op or len(kernel.shape) < 2:
            return ()
        # out, in / group, ... for Conv, depthwise where each group has one; in, out, ... transposed
        is_depthwise = node.integers.get("group", 1) > 1 and kernel.shape[1] == 1
        return (*spatial, 0, 1) if is_depthwise else (*spatial, 1, 0)


def _nodes(file: FileMessage) -> Iterator[_OnnxNode]:
    """Yield the nodes of the main graph."""
    for item in file.fields():
        if item.number == _GRAPH and item.wire == BYTES:
            places = [
                inner
                for inner in file.fields(item.start, item.end)
                if inner.number == _NODE and inner.wire == BYTES
            ]
            yield from (_node(file, place) for place in places)


def _node(file: FileMessage, place: Field) -> _OnnxNode:
    found = _OnnxNode()
    attributes: list[Field] = []
    for item in file.fields(place.start, place.end):
        if item.wire != BYTES:
            continue
        if item.number == _INPUT:
            found.inputs.append(file.text(item))
        elif item.number == _OUTPUT:
            found.outputs.append(file.text(item))
        elif item.number == _NAME:
            found.name = file.text(item)
        elif item.number == _OP:
            found.op = file.text(item)
        elif item.number == _DOMAIN:
            found.domain = file.text(item)
        elif item.number == _ATTRIBUTE:
            attributes.append(item)
    for item in attributes:
        key, value = "", None
        for part in file.fields(item.start, item.end):
            if part.number == _KEY and part.wire == BYTES:
                key = file.text(part)
            elif part.number == _INTEGER and part.wire == VARINT:
                value = part.value - (1 << 64) if part.value >> 63 else part.value
        if value is not None:
            found.integers[key] = value
    if found.domain not in ("", "ai.onnx"):
        found.op = f"{found.domain}.{found.op}"
    return found
