"""The messages that are read, and the parts that are parsed by hand for speed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ckptkit.stores
from ckptkit.errors import FormatError
from ckptkit.stores.base import Node
from ckptkit.stores.proto.messages import message_class, parse
from ckptkit.stores.tensor_bundle.object_graph import parse_object_graph
from ckptkit.stores.tensor_bundle.reader import OBJECT_GRAPH_KEY, open_bundle
from support.goldens import goldens

STORES = Path(ckptkit.stores.__file__).parent


def test_the_compiled_schema_is_that_of_the_source(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    from google.protobuf import descriptor_pb2

    out = tmp_path / "schema.pb"
    # In a process of its own: beside TensorFlow, the compiler is killed by a clash of symbols.
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{STORES}"]
    source = str(STORES / "schema.proto")
    subprocess.run([*protoc, f"--descriptor_set_out={out}", source], check=True, timeout=60)
    kept = (STORES / "schema.pb").read_bytes()
    parsed = [
        descriptor_pb2.FileDescriptorSet.FromString(data) for data in (out.read_bytes(), kept)
    ]
    assert parsed[0] == parsed[1], "run: make schema"
    assert len(parsed[1].file) == 1  # as `_schema` takes it to be


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05ab", b"\x0a\xff\xff\xff\xff\x0f", b"\x07"])
def test_bytes_that_are_no_message(data: bytes) -> None:
    with pytest.raises(FormatError, match="not a TrackableObjectGraph message") as caught:
        parse("TrackableObjectGraph", data, "x: graph")
    assert caught.value.where == "x: graph"


def slowly(data: bytes) -> list[Node]:
    """Parse a graph with the message class alone."""
    graph = message_class("TrackableObjectGraph").FromString(data)
    return [
        Node(
            tuple((child.local_name, child.node_id) for child in node.children),
            tuple((a.name, a.full_name, a.checkpoint_key) for a in node.attributes),
            tuple(
                (s.original_variable_node_id, s.slot_name, s.slot_variable_node_id)
                for s in node.slot_variables
            ),
        )
        for node in graph.nodes
    ]


@pytest.mark.parametrize("item", goldens("checkpoint"), ids=lambda item: item.name)
def test_graphs_of_goldens_parse_as_the_message_class_does(item) -> None:  # type: ignore[no-untyped-def]
    store = open_bundle(item.path)
    if OBJECT_GRAPH_KEY in store.specs:
        data = store.read(OBJECT_GRAPH_KEY)[0]
        assert list(parse_object_graph(data, "x").nodes) == slowly(data)


_TEXT = st.text(max_size=4) | st.sampled_from(["x" * 126, "x" * 127, "x" * 128, "x" * 300])


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["VARIABLE_VALUE", "", "OTHER"]), _TEXT, _TEXT), max_size=2),
    st.sampled_from([None, True, False]),
    st.binary(max_size=3),
)
def test_variables_cut_out_by_hand(
    attributes: list[tuple[str, str, str]], has_values: bool | None, tail: bytes
) -> None:
    """Any node parses as the message class parses it, or both refuse it."""
    graph = message_class("TrackableObjectGraph")()
    node = graph.nodes.add()
    for name, full_name, key in attributes:
        node.attributes.add(name=name, full_name=full_name, checkpoint_key=key)
    if has_values is not None:
        node.has_checkpoint_values.value = has_values
    raw = node.SerializeToString() + tail
    outer = message_class("RawObjectGraph")(nodes=[raw]).SerializeToString()
    check_same(outer)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_variables_cut_out_by_hand(data: st.DataObject) -> None:
    graph = message_class("TrackableObjectGraph")()
    node = graph.nodes.add()
    node.attributes.add(name="VARIABLE_VALUE", full_name="dense/kernel", checkpoint_key="k/.A/V")
    node.has_checkpoint_values.value = True
    raw = bytearray(node.SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.integers(0, len(raw))) :]
    check_same(message_class("RawObjectGraph")(nodes=[bytes(raw)]).SerializeToString())


def check_same(data: bytes) -> None:
    from google.protobuf.message import DecodeError

    try:
        expected: list[Node] | None = slowly(data)
    except DecodeError:
        expected = None
    try:
        found: list[Node] | None = list(parse_object_graph(data, "x").nodes)
    except FormatError as error:
        found = None
        if "not a" not in error.message:  # a child that is not there: beyond the message's concern
            return
    assert found == expected
