"""The ops of a LiteRT graph, as far as they tell what its constants are.

Source: tensorflow/compiler/mlir/lite/schema/schema.fbs; the order of the axes of each op's weights,
tensorflow/lite/core/c/builtin_op_data.h and tensorflow/lite/kernels/*.cc.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ckptkit.stores.base import TensorSpec
from ckptkit.stores.constants import (
    BIAS,
    KERNEL,
    TABLE,
    ConstantUse,
    Quantisation,
    checked,
    layer_of,
)
from ckptkit.stores.litert.flatbuffer import Flatbuffer

CODES, SUBGRAPHS = 1, 2  # fields of Model
TENSORS, _OPERATORS = 0, 3  # fields of SubGraph
NAME = 3  # field of Tensor
_OPCODE, _INPUTS, _OUTPUTS, _OPTIONS = 0, 1, 2, 4  # fields of Operator
_OLD_CODE, _CODE = 0, 3  # fields of OperatorCode; the first holds no more than 127
SCALE, ZERO_POINT, DETAILS_TYPE, DETAILS, AXIS = 2, 3, 4, 5, 6  # of QuantizationParameters
BLOCKWISE = 2  # type of details: BlockwiseQuantization
BLOCK_SCALES, BLOCK_ZEROS, BLOCK_SIZE = 0, 1, 2  # its fields; tensors by number, -1 for none
_ADJOINT_Y = 1  # field of BatchMatMulOptions


class _LitertOperands(NamedTuple):
    """Where an op takes its kernel and its bias (-1: nowhere); axes: see `ConstantUse`."""

    kernel: int
    bias: int = -1
    axes: tuple[int, ...] = ()
    parameter: str = KERNEL


_IS_ADDED = {0: True, 41: True, 18: False, 42: False}  # ADD, SUB, MUL, DIV
_ADD, _DEQUANTIZE, _DENSIFY, _BATCH_MATMUL = 0, 6, 124, 126
_OPS = {
    3: _LitertOperands(1, 2, (1, 2, 3, 0)),  # CONV_2D: out, height, width, in
    4: _LitertOperands(1, 2, (1, 2, 3, 0)),  # DEPTHWISE_CONV_2D: 1, height, width, in * multiplier
    7: _LitertOperands(1, parameter=TABLE),  # EMBEDDING_LOOKUP
    9: _LitertOperands(1, 2, (1, 0)),  # FULLY_CONNECTED: out, in
    36: _LitertOperands(0, parameter=TABLE),  # GATHER
    67: _LitertOperands(1, 3, (1, 2, 0, 3)),  # TRANSPOSE_CONV: out, height, width, in
    _BATCH_MATMUL: _LitertOperands(1),
    132: _LitertOperands(1, 2),  # CONV_3D: depth, height, width, in, out
}


def read_quantisation(file: Flatbuffer, table: int, spec: TensorSpec) -> Quantisation:
    """Return what the integers of a tensor stand for.

    Args:
        file: the model.
        table: place of the tensor's QuantizationParameters.
        spec: of the tensor.

    Raises:
        FormatError: there are not as many scales as the axis is long, nor zero points as scales.
    """
    import numpy as np

    scales = np.array(file.vector(table, SCALE, "f"), np.float64)
    zeros = np.array(file.vector(table, ZERO_POINT, "q"), np.int64)
    axis = file.scalar(table, AXIS, "i")
    zeros = np.zeros(len(scales), np.int64) if not len(zeros) else zeros
    return checked(Quantisation(scales, zeros, axis), spec, str(file.path))


def constant_uses(
    file: Flatbuffer, graph: int, codes: list[int], keys: Mapping[int, str]
) -> Iterator[tuple[str, ConstantUse]]:
    """Yield (key, whose parameter it is) for the constants that ops of a graph take.

    Args:
        file: the model.
        graph: place of a subgraph.
        codes: places of the model's operator codes.
        keys: of the subgraph's constants, by their number.
    """
    names = [file.text(tensor, NAME) for tensor in file.tables(graph, TENSORS)]
    uses: list[tuple[int, ConstantUse]] = []
    added: list[tuple[int, ConstantUse]] = []
    untold: dict[int, ConstantUse] = {}
    same: dict[int, int] = {}  # what is a constant in another form, by its number
    for op in file.tables(graph, _OPERATORS):
        number = file.scalar(op, _OPCODE, "I")
        code = _builtin(file, codes[number]) if number < len(codes) else -1
        inputs = tuple(same.get(at, at) for at in file.vector(op, _INPUTS, "i"))
        places = file.vector(op, _OUTPUTS, "i")
        outputs = [names[at] for at in places if 0 <= at < len(names)]
        if (
            code in (_DEQUANTIZE, _DENSIFY)
            and len(inputs) == len(places) == 1
            and inputs[0] in keys
        ):
            same[places[0]] = inputs[0]
        if code == _ADD:
            added += _added(inputs, names, keys)
        if code in _IS_ADDED:
            how = ConstantUse("", "", is_added=_IS_ADDED[code])
            untold.update({at: how for at in inputs if at in keys})
        if code not in _OPS or len(inputs) <= _OPS[code].kernel:
            continue
        operands = _OPS[code]
        kernel = inputs[operands.kernel]
        own = names[kernel] if 0 <= kernel < len(names) else ""
        bias = inputs[operands.bias] if 0 < operands.bias < len(inputs) else -1
        layer = layer_of(own, ([names[bias]] if 0 <= bias < len(names) else []) + outputs)
        if kernel in keys:
            axes = operands.axes
            options = file.child(op, _OPTIONS)
            if code == _BATCH_MATMUL and options and file.scalar(options, _ADJOINT_Y, "B"):
                axes = (1, 0)
            uses.append((kernel, ConstantUse(layer, operands.parameter, axes)))
        if bias in keys:
            uses.append((bias, ConstantUse(layer, BIAS)))
    # Behind an op that the converter took apart a layer's bias is added by an op of its own.
    layers = {use.layer for _, use in uses if use.layer}
    for at, use in (*uses, *added):
        if use.parameter != BIAS or use.layer in layers or "BiasAdd" in names[at]:
            untold.pop(at, None)
            yield keys[at], use
    for at, use in untold.items():
        yield keys[at], use


def _added(
    inputs: tuple[int, ...], names: list[str], keys: Mapping[int, str]
) -> Iterator[tuple[int, ConstantUse]]:
    """Yield what an ADD of its own may give to a layer as a bias."""
    for at in inputs:
        if at in keys and "/" in names[at]:
            yield at, ConstantUse(layer_of(names[at], ()), BIAS)


def _builtin(file: Flatbuffer, code: int) -> int:
    """Return the number of a builtin op; old files keep it in a field of one byte."""
    return int(max(file.scalar(code, _OLD_CODE, "b"), file.scalar(code, _CODE, "i")))
