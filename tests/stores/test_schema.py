"""The messages that are read, and the parts that are parsed by hand for speed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ckptkit.stores.proto
from ckptkit.dtypes import BY_ENUM
from ckptkit.errors import FormatError
from ckptkit.stores.base import Node
from ckptkit.stores.proto.messages import message_class, parse, parse_text
from ckptkit.stores.saved_model.canonical_order import fields_with_maps
from ckptkit.stores.tensor_bundle.object_graph import parse_object_graph
from ckptkit.stores.tensor_bundle.reader import OBJECT_GRAPH_KEY, open_bundle
from support.goldens import goldens

PROTO = Path(ckptkit.stores.proto.__file__).parent


def test_the_compiled_schema_is_that_of_the_source(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    from google.protobuf import descriptor_pb2

    out = tmp_path / "schema.pb"
    # In a process of its own: beside TensorFlow, the compiler is killed by a clash of symbols.
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", "--include_imports"]
    source = str(PROTO / "schema.proto")
    subprocess.run([*protoc, f"--descriptor_set_out={out}", source], check=True, timeout=600)
    kept = (PROTO / "schema.pb").read_bytes()
    parsed = [
        descriptor_pb2.FileDescriptorSet.FromString(data) for data in (out.read_bytes(), kept)
    ]
    assert parsed[0] == parsed[1], "run: make schema"


def messages() -> list[Any]:
    """Return the descriptors of all messages of the schema, those inside of others included."""
    found = list(message_class("GraphDef").DESCRIPTOR.file.message_types_by_name.values())
    for message in found:
        found.extend(inner for inner in message.nested_types if not inner.GetOptions().map_entry)
    return found


def test_raw_messages_have_the_numbers_of_the_whole_ones() -> None:
    raws = [message for message in messages() if message.name.startswith("Raw")]
    assert len(raws) == 4
    for raw in raws:
        whole = message_class(raw.name.removeprefix("Raw")).DESCRIPTOR
        for field in raw.fields:
            twin = whole.fields_by_name[field.name]
            assert field.number == twin.number, field.full_name
            # bytes have the wire type of a message
            assert field.type == twin.type or (field.type, twin.type) == (
                field.TYPE_BYTES,
                field.TYPE_MESSAGE,
            )


@pytest.mark.needs_tf
def test_the_schema_is_tensorflow_s() -> None:
    """Every message but those of Keras, TensorFlow Serving and ONNX: names, numbers and types."""
    from google.protobuf import descriptor_pool
    from tensorflow.core.framework import graph_pb2  # noqa: F401 (puts its messages into the pool)
    from tensorflow.core.protobuf import (  # noqa: F401
        fingerprint_pb2,
        saved_model_pb2,
        tensor_bundle_pb2,
        trackable_object_graph_pb2,
    )
    from tensorflow.core.util import saved_tensor_slice_pb2  # noqa: F401

    theirs = descriptor_pool.Default()
    others = {
        *("SavedMetadata", "SavedMetadata.Object", "OnnxTensorProto", "ModelSpec"),
        *("PredictRequest", "PredictResponse", "PredictLog", "PredictionLog", "BoolValue"),
    }
    compared = 0
    for message in messages():
        name = message.full_name.removeprefix("tensorflow.")
        if name in others or name.startswith("Raw"):
            continue
        twin = theirs.FindMessageTypeByName(f"tensorflow.{name}")
        for field in message.fields:
            known = twin.fields_by_name[field.name]
            assert (field.number, field.type) == (known.number, known.type), field.full_name
            assert field.is_repeated == known.is_repeated, field.full_name
            owners = field.containing_oneof, known.containing_oneof
            assert (owners[0] is None) == (owners[1] is None), field.full_name
            compared += 1
    assert compared > 100
    numbers = {
        value.name: value.number
        for value in message_class("TensorProto")
        .DESCRIPTOR.fields_by_name["dtype"]
        .enum_type.values
    }
    their_values = theirs.FindEnumTypeByName("tensorflow.DataType").values
    assert numbers == {value.name: value.number for value in their_values}


def test_dtypes_have_the_numbers_of_the_schema() -> None:
    enum = message_class("TensorProto").DESCRIPTOR.fields_by_name["dtype"].enum_type
    numbers = {value.number for value in enum.values if not value.name.endswith("_REF")}
    assert numbers == {0, *BY_ENUM}


def test_maps_are_sorted_wherever_the_schema_has_them() -> None:
    fields = fields_with_maps(message_class("NodeDef").DESCRIPTOR)
    assert {number: tag for number, (_inner, tag) in fields.items()} == {5: 10}
    function = message_class("FunctionDef").DESCRIPTOR
    assert fields_with_maps(function).keys() == {
        function.fields_by_name[name].number
        for name in ("node_def", "ret", "attr", "control_ret", "arg_attr", "resource_arg_unique_id")
    }
    assert not fields_with_maps(message_class("TensorProto").DESCRIPTOR)


# --- text -----------------------------------------------------------------------------------------


def of_text(text: str, name: str = "SavedModel") -> Any:
    return parse_text(name, text.encode(), "x.pbtxt")


def test_text_names_dtypes_and_types() -> None:
    """As TensorFlow writes them."""
    asset = "[type.googleapis.com/tensorflow.AssetFileDef] { filename: 'words.txt' }"
    model = of_text(
        "meta_graphs { collection_def { key: 'saved_model_assets' value { any_list { value {"
        f"{asset} }} }} }} }} signature_def {{ key: 'a' value {{ inputs {{ key: 'x' value {{"
        "name: 'x:0' dtype: DT_BFLOAT16 } } } } }"
    )
    (meta,) = model.meta_graphs
    assert meta.signature_def["a"].inputs["x"].dtype == 14
    (held,) = meta.collection_def["saved_model_assets"].any_list.value
    assert parse("AssetFileDef", held.value, "x").filename == "words.txt"


@pytest.mark.parametrize(
    "text",
    [
        "versions { producer: 7 bad_consumers: [1, 2] }",
        'node { name: "a" experimental_debug_info { original_node_names: "b" } }',
        'node { name: "a" } strange: -inf, other: 0x1F; third { a: [1, 2] b < c: d > }',
        'node [{ name: "a" }, { op: "b" }]  # { { {',
    ],
)
def test_text_passes_over_what_the_schema_lacks(text: str) -> None:
    of_text(text, "GraphDef")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('node { name: "a" name: "b" }', "should not have multiple"),
        ("node { name: 7 }", "line 1, column"),
        ("node { name: 'a }", "not protobuf text of a GraphDef"),
        ("node { attr { key: 'T' value { tensor { dtype: DT_NONE } } } }", "DT_NONE"),
        ("node { name: '\\xff' }", "not protobuf text"),
        ("node { name: '\\U00110000' }", "not protobuf text"),
        ("node {" * 101, "messages nest deeper than 100"),
        ("strange <" * 1_000_000, "messages nest deeper than 100"),
        ("x" * 1_000_000, "not protobuf text"),
        ("}" * 1_000_000, "not protobuf text"),
    ],
)
def test_text_that_is_refused(text: str, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        of_text(text, "GraphDef")
    assert message in caught.value.message
    assert len(caught.value.message) < 400 and "\n" not in caught.value.message


def test_an_any_of_a_type_that_the_schema_lacks_is_refused() -> None:
    held = "value { [type.googleapis.com/tensorflow.Nothing] { a: 1 } }"
    text = f"meta_graphs {{ collection_def {{ key: 'x' value {{ any_list {{ {held} }} }} }} }}"
    with pytest.raises(FormatError, match=r"Type tensorflow\.Nothing not found"):
        of_text(text)


def test_brackets_in_strings_and_comments_open_nothing() -> None:
    graph = of_text("node { name: '" + "{" * 500 + "' op: \"it's\" } # " + "<" * 500, "GraphDef")
    assert graph.node[0].name == "{" * 500


@settings(max_examples=200)
@given(st.text(alphabet="{}<>[]:;,'\"\\# \nnodeam01-./é", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        of_text("node {" + text, "GraphDef")
    except FormatError as error:
        assert "\n" not in error.message


# --- binary ---------------------------------------------------------------------------------------


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


@settings(max_examples=300)
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
    outer = message_class("RawTrackableObjectGraph")(nodes=[raw]).SerializeToString()
    check_same(outer)


@settings(max_examples=300)
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
    check_same(message_class("RawTrackableObjectGraph")(nodes=[bytes(raw)]).SerializeToString())


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
