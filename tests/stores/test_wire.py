"""What is read of a bundle's messages without protobuf, with protobuf as the judge."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ckptkit.errors import CkptkitError
from ckptkit.stores.base import Node, TensorSpec
from ckptkit.stores.proto import wire
from ckptkit.stores.proto.messages import message_class, parse
from ckptkit.stores.tensor_bundle import reader
from ckptkit.stores.tensor_bundle.files import index_path
from ckptkit.stores.tensor_bundle.object_graph import parse_object_graph
from ckptkit.stores.tensor_bundle.table import read_table
from support.goldens import goldens

TABLES = {
    "BundleHeaderProto": wire.HEADER,
    "VersionDef": wire.VERSION,
    "BundleEntryProto": wire.ENTRY,
    "TensorShapeProto": wire.SHAPE,
    "TensorShapeProto.Dim": wire.DIM,
    "TrackableObjectGraph": wire.GRAPH,
    "TrackableObjectGraph.TrackableObject": wire.NODE,
    "TrackableObjectGraph.TrackableObject.ObjectReference": wire.CHILD,
    "TrackableObjectGraph.TrackableObject.SerializedTensor": wire.TENSOR,
    "TrackableObjectGraph.TrackableObject.SlotVariableReference": wire.SLOT,
    "BoolValue": wire.BOOL,
}


@pytest.mark.parametrize("name", TABLES)
def test_the_tags_are_those_of_the_schema(name: str) -> None:
    fields = message_class(name).DESCRIPTOR.fields_by_name
    for tag, field in TABLES[name].items():
        kind = fields[field].type
        is_number = kind in (fields[field].TYPE_INT32, fields[field].TYPE_INT64)
        is_number = is_number or kind in (fields[field].TYPE_ENUM, fields[field].TYPE_BOOL)
        is_fixed = kind == fields[field].TYPE_FIXED32
        type_ = wire.VARINT if is_number else wire.FIXED32 if is_fixed else wire.BYTES
        assert tag == fields[field].number << 3 | type_, field


# --- what protobuf says of the same bytes ---------------------------------------------------------


def header(data: bytes) -> Any:
    found = parse("BundleHeaderProto", data, "x")
    version = found.version
    told = (version.producer, version.min_consumer, tuple(version.bad_consumers))
    return found.num_shards, found.endianness, told


def entry(data: bytes) -> Any:
    found = parse("RawBundleEntryProto", data, "x")
    shape = b"".join(found.shape)
    numbers = found.dtype, shape, found.shard_id, found.offset, found.size, found.crc32c
    return *numbers, len(found.slices)


def shape(data: bytes) -> Any:
    found = parse("TensorShapeProto", data, "x")
    assert not found.unknown_rank
    return tuple(dim.size for dim in found.dim)


def node(data: bytes) -> Any:
    found = parse("TrackableObjectGraph.TrackableObject", data, "x")
    return Node(
        tuple((child.local_name, child.node_id) for child in found.children),
        tuple((a.name, a.full_name, a.checkpoint_key) for a in found.attributes),
        tuple(
            (s.original_variable_node_id, s.slot_name, s.slot_variable_node_id)
            for s in found.slot_variables
        ),
    )


def nodes(data: bytes) -> Any:
    return list(parse("RawTrackableObjectGraph", data, "x").nodes)


def _plain_entry(data: bytes) -> Any:
    found = wire.entry(data)
    return None if found is None else (found.dtype, b"".join(found.shape), *found[2:6], 0)


def _leaf(data: bytes) -> Any:
    found = wire.leaf(data)
    return None if found is None else Node((), (found,), ())


def _children(data: bytes) -> Any:
    found = wire.children(data, {})
    return None if found is None else Node(found, (), ())


def _nodes(data: bytes) -> Any:
    bounds = wire.split_nodes(data)
    if bounds is None:
        return None
    return [data[start:end] for start, end in zip(bounds[::2], bounds[1::2], strict=True)]


READERS: dict[str, tuple[Callable[[bytes], Any], Callable[[bytes], Any]]] = {
    "header": (wire.header, header),
    "entry": (_plain_entry, entry),
    "shape": (wire.shape, shape),
    "node": (wire.node, node),
    "leaf": (_leaf, node),
    "children": (_children, node),
    "nodes": (_nodes, nodes),
}


def agrees(kind: str, data: bytes) -> bool:
    """Whether the reader had an answer; it must be protobuf's."""
    ours, theirs = READERS[kind]
    found = ours(data)
    if found is None:
        return False
    assert found == theirs(data), (kind, data)
    return True


def _samples(kind: str) -> list[bytes]:
    """Return messages of a kind, as TensorFlow wrote them."""
    found: list[bytes] = []
    for golden in goldens("checkpoint")[:40]:
        items = read_table(index_path(Path(golden.path)))
        if kind == "header":
            found.append(items[0][1])
        elif kind == "entry":
            found += [value for _key, value in items[1:]]
        elif kind == "shape":
            found += [part for _k, value in items[1:] for part in entry_shape(value)]
        else:
            graph = _graph_of(Path(golden.path))
            found += [graph] if kind == "nodes" else nodes(graph)
    return [*dict.fromkeys(found)]


def entry_shape(value: bytes) -> list[bytes]:
    return list(parse("RawBundleEntryProto", value, "x").shape)


def _graph_of(prefix: Path) -> bytes:
    store = reader.open_bundle(prefix)
    if reader.OBJECT_GRAPH_KEY not in store.specs:
        return b""
    return bytes(store.read(reader.OBJECT_GRAPH_KEY)[0])


def test_what_tensorflow_writes_is_read_without_protobuf() -> None:
    """All headers, entries that are not partitioned, and nearly all nodes."""
    read = {kind: [agrees(kind, data) for data in _samples(kind)] for kind in READERS}
    for kind, least in {
        "header": 1.0,
        "entry": 0.95,
        "shape": 1.0,
        "node": 0.9,
        "nodes": 1.0,
    }.items():
        assert len(read[kind]) > (0 if kind == "header" else 10), kind
        assert sum(read[kind]) >= least * len(read[kind]), kind
    assert any(read["leaf"]) and any(read["children"])


def _mutants(data: bytes, rng: random.Random) -> Iterator[bytes]:
    for at in range(len(data)):
        yield data[:at]
        yield data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        yield data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        yield data[:at] + bytes([rng.choice((0x00, 0x7F, 0x80, 0xFF))]) + data[at:]
    yield data + data


@pytest.mark.parametrize("kind", READERS)
def test_damaged_messages_are_read_as_protobuf_reads_them_or_left_to_it(kind: str) -> None:
    rng = random.Random(kind)
    samples = _samples(kind) * (50 if kind == "header" else 1)
    rng.shuffle(samples)
    read = 0
    budget = 5_000
    for sample in samples:
        for data in _mutants(sample[:400], rng):
            read += agrees(kind, data)
            budget -= 1
        if budget < 0:
            break
    assert read > 20


PIECES = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([bytes([tag]) for table in TABLES.values() for tag in table]),
    st.sampled_from([b"\x80\x01", b"\xff" * 8 + b"\x7f", b"\xff" * 9 + b"\x01", b"\x0b\x0c"]),
)


@settings(max_examples=400)
@given(st.lists(PIECES, max_size=8).map(b"".join))
@example(b"\x0a\x05\x08\x80\x80\x80\x80")
@example(b"\x08" + b"\xff" * 9 + b"\x01")  # -1
@example(b"\x0a\x03\x12\x01\xff")  # no text
def test_any_bytes_are_read_as_protobuf_reads_them_or_left_to_it(data: bytes) -> None:
    for kind in READERS:
        agrees(kind, data)


# --- a whole entry, and a whole graph -------------------------------------------------------------


def _spec_by_protobuf(value: bytes, num_shards: int) -> TensorSpec | str:
    try:
        found = parse("RawBundleEntryProto", value, "x")
        return reader.entry_spec("k", found, num_shards, "x")
    except CkptkitError as error:
        return str(error)


def test_entries_in_the_common_form_come_to_the_same_spec() -> None:
    rng = random.Random(7)
    read = 0
    for sample in _samples("entry")[:200]:
        for value in (sample, *_mutants(sample, rng)):
            spec = reader._plain_spec("k", value, {}, 1)
            if spec is not None:
                assert spec == _spec_by_protobuf(value, 1), value
                read += 1
    assert read > 2000


def test_graphs_are_those_of_protobuf() -> None:
    compared = 0
    for golden in goldens("checkpoint"):
        data = _graph_of(Path(golden.path))
        if data:
            assert list(parse_object_graph(data, "x").nodes) == [node(raw) for raw in nodes(data)]
            compared += 1
    assert compared > 10
