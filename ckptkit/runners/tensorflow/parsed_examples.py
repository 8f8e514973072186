"""Which inputs of a graph are serialized tf.train.Example, and of which features.  Child process.

What parses them names the features in constants.
Source: tensorflow/core/ops/parsing_ops.cc (ParseExample, ParseExampleV2, ParseSingleExample).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ckptkit.model_io.tf_examples import KINDS, Feature
from ckptkit.runners.tensorflow.module import tensorflow

_OPS = ("ParseExample", "ParseExampleV2", "ParseSingleExample")
_UNCHANGED = ("Identity", "PlaceholderWithDefault", "Reshape", "ExpandDims", "Squeeze")


def parsed_examples(graph: Any, inputs: Mapping[str, str]) -> dict[str, tuple[Feature, ...]]:
    """Return {input: features} of the inputs that a graph parses.

    Args:
        graph: a GraphDef, with all calls inlined.
        inputs: {node that is fed: name of the input}.
    """
    nodes = {node.name: node for node in graph.node}
    found: dict[str, dict[str, Feature]] = {}
    for node in graph.node:
        if node.op in _OPS:
            name = inputs.get(_source(node.input[0], nodes, inputs))
            if name is not None:
                features = found.setdefault(name, {})
                features |= {item.name: item for item in _features(node, nodes)}
    return {name: tuple(features.values()) for name, features in found.items()}


def _source(name: str, nodes: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    name = name.partition(":")[0]
    while name not in inputs and name in nodes and nodes[name].op in _UNCHANGED:
        name = nodes[name].input[0].partition(":")[0]
    return name


def _features(node: Any, nodes: Mapping[str, Any]) -> Iterator[Feature]:
    sparse, ragged, dense = _keys(node, nodes)
    for names, types in (
        (sparse, node.attr["sparse_types"].list.type),
        (ragged, node.attr["ragged_value_types"].list.type),
    ):
        for name, number in zip(names, types, strict=False):
            yield from _feature(name, number, None)
    shapes = node.attr["dense_shapes"].list.shape
    for name, number, shape in zip(dense, node.attr["Tdense"].list.type, shapes, strict=False):
        sizes = [dim.size for dim in shape.dim]
        # of a sequence the first axis is open: one of its elements is a row
        rows = [1 if size < 0 else size for size in sizes]
        yield from _feature(name, number, math.prod(rows))


def _feature(name: bytes, number: int, size: int | None) -> Iterator[Feature]:
    dtype = tensorflow().as_dtype(number).name
    if dtype in KINDS:
        yield Feature(name.decode("utf-8", "replace"), dtype, size)


def _keys(node: Any, nodes: Mapping[str, Any]) -> tuple[Sequence[bytes], ...]:
    """Return the names of the sparse, the ragged and the dense features."""
    if node.op == "ParseSingleExample":
        return tuple(node.attr[key].list.s for key in ("sparse_keys", "", "dense_keys"))
    if node.op == "ParseExampleV2":
        sparse, dense, ragged = (_constant(name, nodes) for name in node.input[2:5])
        return sparse, ragged, dense
    count, more = node.attr["Nsparse"].i, node.attr["Ndense"].i
    keys = [text for name in node.input[2 : 2 + count + more] for text in _constant(name, nodes)]
    return keys[:count], (), keys[count:]


def _constant(name: str, nodes: Mapping[str, Any]) -> Sequence[bytes]:
    node = nodes.get(_source(name, nodes, {}))
    if node is None or node.op != "Const":
        return ()
    return [bytes(item) for item in tensorflow().make_ndarray(node.attr["value"].tensor).flat]
