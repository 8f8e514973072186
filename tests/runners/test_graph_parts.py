"""Graphs of ops cut where a reference has values; names and layouts of what converters write."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptkit.model_io.layouts import layouts
from ckptkit.operations.localize.op_names import is_moved, op_of
from ckptkit.operations.localize.pairs import Shaped, pair_points
from ckptkit.runners.child.graph_parts import GraphOp, Regions
from ckptkit.runners.child.isolate import ReferenceValues
from ckptkit.runners.litert.flatbuffer import fitting, float_of

# x -> a -> b -> c, d = a + c; s gives two values, of which e reads one and f the other.
OPS = [
    GraphOp("Conv", ("x", "kernel"), ("a",)),
    GraphOp("Relu", ("a",), ("b",)),
    GraphOp("MatMul", ("b", "weights"), ("c",)),
    GraphOp("Add", ("a", "c"), ("d",)),
    GraphOp("Split", ("d",), ("left", "right")),
    GraphOp("Neg", ("left",), ("e",)),
    GraphOp("Neg", ("right",), ("f",)),
]


def regions(*fed: str) -> Regions:
    source = {"file": "", "described": {}, "names": {name: name for name in fed}, "layouts": {}}
    return Regions(OPS, frozenset({"x"}), ReferenceValues([source]))


def test_a_region_ends_at_the_values_before() -> None:
    cut = regions("a", "b", "c")

    assert cut.of("c") == ((2,), ("b",), ("weights",))
    assert cut.of("d").reads == ("c", "a")
    assert regions().of("c") == ((0, 1, 2), ("x",), ("weights", "kernel"))


def test_an_op_is_cut_at_all_of_its_outputs_or_at_none() -> None:
    assert regions("left").of("e").reads == ("x",)
    assert regions("left", "right").of("e").reads == ("left",)


@given(st.sets(st.sampled_from([name for op in OPS for name in op.outputs])))
def test_what_is_computed_together_reads_nothing_of_each_other(fed: set[str]) -> None:
    cut = regions(*fed)
    names = [name for op in OPS for name in op.outputs]
    groups = list(cut.groups(names))

    assert sorted(name for group in groups for name in group) == sorted(names)
    for group in groups:
        for region in group.values():
            assert not set(region.reads) & set(group)


@given(st.lists(st.integers(1, 4), max_size=5), st.randoms())
def test_a_layout_gives_the_shape_and_keeps_every_value(shape: list[int], rng: object) -> None:
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    first = array if array.ndim < 3 else np.moveaxis(array, -1, 1)
    for new in (array, array.squeeze(), first, first[..., None]):
        found = layouts(shape, new.shape)
        assert any(np.array_equal(layout.of(array), new) for layout in found)
        assert all(sorted(layout.of(array).flat) == sorted(array.flat) for layout in found)
    assert not layouts([*shape, 7], [*shape, 11])


@pytest.mark.parametrize(
    ("name", "kind", "op"),
    [
        ("net/up/Relu:0", "onnx", "net/up/Relu"),
        ("StatefulPartitionedCall/net/up/Relu:0", "onnx", "net/up/Relu"),
        ("net/up/Relu;net/up/BiasAdd;net/up/convolution", "tflite", "net/up/Relu"),
        ("net/up/MatMul;net/up/Relu;net/up/BiasAdd", "tflite", "net/up/Relu"),
        ("net/up/MatMul;net/up/ReadVariableOp", "tflite", "net/up/MatMul"),
        ("net/words/GatherV2;", "tflite", "net/words/GatherV2"),
        ("net/up/Relu", "saved_model", "net/up/Relu"),
    ],
)
def test_the_op_that_a_converted_value_is(name: str, kind: str, op: str) -> None:
    assert op_of(name, kind) == op


def test_a_loop_that_became_one_op_ends_where_its_value_is_moved() -> None:
    assert is_moved("net/lstm/strided_slice_3__132")
    assert not is_moved("net/lstm/MatMul_1")
    reference = [
        Shaped("net/words/Gather", (8, 7, 4), True),
        Shaped("net/lstm/Stack/TensorListStack", (1, 8, 10), True),
        Shaped("net/head/Softmax", (8, 3), True),
    ]
    new = [
        Shaped("net/words/Gather:0", (8, 7, 4), True, op="net/words/Gather", moves=True),
        Shaped("LSTM__1:0", (7, 1, 8, 10), True, op="LSTM__1", moves=True),
        Shaped("net/lstm/slice_3__9:0", (8, 10), True, op="net/lstm/Slice_3__9", moves=True),
        Shaped("net/head/BiasAdd:0", (8, 3), True, op="net/head/BiasAdd", moves=True),
    ]
    assert pair_points(reference, new) == {
        "net/words/Gather:0": "net/words/Gather",
        "net/lstm/slice_3__9:0": "net/lstm/Stack/TensorListStack",
    }


def test_channels_may_be_first_in_a_converted_model_alone() -> None:
    reference = [Shaped("net/conv/Relu", (8, 5, 5, 3), True)]
    converted = Shaped("net/conv/Relu:0", (8, 3, 5, 5), True, op="net/conv/Relu", moves=True)

    assert pair_points(reference, [converted])
    assert not pair_points(reference, [Shaped("net/conv/Relu", (8, 3, 5, 5), True)])


def test_quantised_values_come_back_as_numbers() -> None:
    details = {"dtype": np.int8, "quantization": (0.5, 3)}
    numbers = np.array([-2.0, 0.0, 0.5, 100.0], np.float32)

    assert fitting(numbers, details).tolist() == [-1, 3, 4, 127]
    assert float_of(fitting(numbers, details), details).tolist() == [-2.0, 0.0, 0.5, 62.0]
    plain = {"dtype": np.float32, "quantization": (0.0, 0)}
    assert float_of(numbers, plain) is numbers
