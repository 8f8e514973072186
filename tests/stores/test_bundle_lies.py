"""Indexes whose checksums hold and whose content lies: refused, with a place, at little cost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import ckptkit
from ckptkit._io import crc32c as _crc32c
from ckptkit.errors import ChecksumError, FormatError, TruncatedError, UnsupportedError
from ckptkit.stores.proto.messages import message_class
from ckptkit.stores.tensor_bundle.reader import open_bundle
from ckptkit.stores.tensor_bundle.slices import slice_key
from ckptkit.stores.tensor_bundle.table import parse_table
from ckptkit.stores.tensor_bundle.table_writer import varint
from support.crafted import (
    EDGES,
    GOOD,
    block,
    bundle_items,
    entry,
    entry_bytes,
    frugal,
    graph_bytes,
    handle,
    header,
    raw_table,
    sliced,
    string_tensor,
    table,
    write_graph,
    write_index,
)


def refuse_table(data: bytes, match: str | None = None) -> FormatError:
    with frugal(), pytest.raises(FormatError, match=match) as caught:
        parse_table(data, "x.index")
    assert caught.value.where.startswith("x.index")
    return caught.value


def test_the_crafted_table_without_a_lie_is_read() -> None:
    assert dict(parse_table(raw_table([GOOD]), "x")) == {b"": header(), b"a": entry()}
    two = [block([entry_bytes(0, b"a", b"1"), entry_bytes(1, b"b", b"2")]), block([])]
    assert parse_table(raw_table(two), "x") == [(b"a", b"1"), (b"ab", b"2")]


# --- places of blocks -----------------------------------------------------------------------------


@pytest.mark.parametrize("number", EDGES)
@pytest.mark.parametrize("slot", range(4))
def test_huge_handles_in_the_footer(number: int, slot: int) -> None:
    numbers = [0, 8, 13, 8]
    numbers[slot] = number
    refuse_table(raw_table([GOOD], footer=b"".join(map(varint, numbers))))


@pytest.mark.parametrize("number", EDGES)
def test_huge_handles_in_the_index_block(number: int) -> None:
    refuse_table(raw_table([GOOD], handles=[handle(number, len(GOOD))]))
    refuse_table(raw_table([GOOD], handles=[handle(0, number)]), "reaches past the end")


def test_handles_that_overlap_repeat_or_skip() -> None:
    size = len(GOOD)
    place = size + 5
    for handles in (
        [handle(0, size), handle(0, size)],
        [handle(place, size)],
        [handle(place, size), handle(0, size)],
        [handle(0, size)],
        [],
    ):
        refuse_table(raw_table([GOOD, GOOD], handles=handles))
    refuse_table(raw_table([GOOD], handles=[handle(0, size) + b"\0"]))


def test_the_index_block_points_at_itself() -> None:
    start = len(raw_table([])) - 48 - 13
    refuse_table(raw_table([], index=block([entry_bytes(0, b"a", handle(start, 20))])))


def test_footer_padding_is_zero() -> None:
    data = bytearray(raw_table([GOOD]))
    data[-9] = 1
    refuse_table(bytes(data), "padding")


@pytest.mark.parametrize(
    "bad",
    [b"\x80\x00", b"\x81\x80\x00", b"\x80" * 10, b"\xff" * 9 + b"\x02", b"\x80" * 20, b"\xff" * 40],
)
def test_bad_varints(bad: bytes) -> None:
    refuse_table(raw_table([GOOD], footer=bad.ljust(40, b"\0")[:40]))
    refuse_table(raw_table([GOOD], handles=[bad]))
    refuse_table(raw_table([block([bad])]))
    refuse_table(raw_table([block([b"\0" + bad])]))
    refuse_table(raw_table([block([b"\0\0" + bad])]))


def test_unknown_compression() -> None:
    for kind in range(2, 256):
        refuse_table(raw_table([GOOD], kinds=[kind]), f"compression {kind}$")


# --- inside of blocks -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        block([entry_bytes(1, b"a", b"")]),  # shares with nothing
        block([entry_bytes(0, b"a", b""), entry_bytes(2, b"b", b"")]),
        block([entry_bytes(0, b"a", b"", length=1)]),
        block([entry_bytes(0, b"a", b"", length=(1 << 64) - 1)]),
        block([varint(0) + varint(1 << 40) + varint(0)]),
        block([b"\0"]),
        block([b"\0\0"]),
        block([], restarts=[]),
        block([], count=0),
        block([], count=2),
        block([], count=0xFFFFFFFF),
        block([entry_bytes(0, b"a", b"1")], restarts=[1]),
        block([entry_bytes(0, b"a", b"1")], restarts=[0, 6]),
        block([entry_bytes(0, b"a", b"1")], restarts=[0, 3, 2]),
        block([entry_bytes(0, b"a", b"1")], restarts=[0, 0]),
        b"",
        b"\0\0\0",
    ],
)
def test_entries_and_restarts_that_leave_their_block(bad: bytes) -> None:
    refuse_table(raw_table([bad]))
    refuse_table(raw_table([GOOD], index=bad))
    refuse_table(raw_table([GOOD], metaindex=bad))


def test_keys_out_of_order() -> None:
    a, b = entry_bytes(0, b"a", b""), entry_bytes(0, b"b", b"")
    for blocks in ([block([b, a])], [block([a, a])], [block([b]), block([a])], [block([a])] * 2):
        refuse_table(raw_table(blocks), "out of order")


def test_keys_that_expand_without_end() -> None:
    """200 kB of entries that each share 100 kB with the key before: 5 GB of keys."""
    first = entry_bytes(0, b"k" * 100_000, b"")
    rest = [entry_bytes(100_000, n.to_bytes(3, "big"), b"") for n in range(50_000)]
    refuse_table(raw_table([block([first, *rest])]), "keys")


def test_many_long_keys_with_shared_beginnings_are_fine() -> None:
    items = {b"scope/" * 100 + b"%06d" % number: b"v" for number in range(5000)}
    assert dict(parse_table(table(items), "x")) == items


@pytest.mark.parametrize(
    "bad",
    [
        varint((1 << 32) - 1) + b"\0",
        varint(1 << 30) + b"\xfe\x01\x00" * 1000,
        varint(100) + b"\0a",
        varint(3) + b"\0a",
        varint(0) + b"\0a",
        b"\xff" * 12,
        varint(1 << 34) + b"\0" * 100,
        varint(10) + b"\x01\x00",
        b"",
    ],
)
def test_lying_snappy_blocks(bad: bytes) -> None:
    pytest.importorskip("cramjam")
    refuse_table(raw_table([bad], kinds=[1]))


# --- header and entries ---------------------------------------------------------------------------


def refuse(prefix: Path, match: str | None = None) -> FormatError:
    """Opening and listing raise the same FormatError, which names the file."""
    with frugal(), pytest.raises(FormatError, match=match) as caught:
        open_bundle(prefix)
    assert f"{prefix}.index" in caught.value.where
    with pytest.raises(FormatError):
        ckptkit.ls(prefix)
    return caught.value


@pytest.mark.parametrize("number", [0, -1, 100_001, (1 << 31) - 1, -(1 << 31)])
def test_numbers_of_shards(tmp_path: Path, number: int) -> None:
    refuse(write_index(tmp_path / "c", {b"": header(number), b"a": entry()}), "number of shards")


def test_header_that_is_missing_or_not_a_header(tmp_path: Path) -> None:
    refuse(write_index(tmp_path / "a", {b"a": entry()}), "first entry is not a bundle header")
    refuse(write_index(tmp_path / "b", {}), "first entry is not a bundle header")
    refuse(write_index(tmp_path / "c", {b"": b"\xff\xff", b"a": entry()}), "not a BundleHeader")
    refuse(write_index(tmp_path / "d", {b"": b"", b"a": entry()}), "number of shards")
    refuse(write_index(tmp_path / "e", {b"": header(endianness=2)}), "endianness")


def test_versions(tmp_path: Path) -> None:
    newer = write_index(tmp_path / "newer", {b"": header(min_consumer=2), b"a": entry()})
    with pytest.raises(UnsupportedError, match="version 2 or newer"):
        open_bundle(newer)
    message = message_class("BundleHeaderProto").FromString(header())
    message.version.bad_consumers.append(1)
    barred = write_index(tmp_path / "barred", {b"": message.SerializeToString()})
    with pytest.raises(UnsupportedError, match="must not read"):
        open_bundle(barred)
    assert not open_bundle(write_index(tmp_path / "now", {b"": header(min_consumer=1)})).specs


@pytest.mark.parametrize("shard", [-1, 1, 2, (1 << 31) - 1])
def test_shards_that_are_not(tmp_path: Path, shard: int) -> None:
    refuse(write_index(tmp_path / "c", bundle_items(a=entry(shard_id=shard))), "shard: expected 0")


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((-1,), 8),
        ((2, -1, -1), 8),
        ((1 << 62, 1 << 62), 8),
        ((1 << 62, 2), 8),
        (((1 << 63) - 1,) * 200, 8),
        ((1,) * 255, 4),
        ((-(1 << 63),), 0),
    ],
)
def test_impossible_shapes(tmp_path: Path, shape: tuple[int, ...], size: int) -> None:
    error = refuse(
        write_index(tmp_path / "c", bundle_items(a=entry(shape, size=size))), "shape|rank"
    )
    assert error.where.endswith("c.index: a")
    assert len(str(error)) < 5000


def test_a_hundred_thousand_axes(tmp_path: Path) -> None:
    dims = entry(((1 << 63) - 1,) * 100_000)
    error = refuse(write_index(tmp_path / "c", bundle_items(a=dims)), "rank")
    assert len(str(error)) < 1000


def test_shapes_that_are_odd_and_possible(tmp_path: Path) -> None:
    items = bundle_items(
        a=entry((1,) * 254, size=4), b=entry((0, 1 << 62, 1 << 62), size=0), c=entry((), size=4)
    )
    specs = open_bundle(write_index(tmp_path / "c", items, bytes(8))).specs
    assert [spec.size for spec in specs.values()] == [1, 0, 1]


def test_unknown_rank(tmp_path: Path) -> None:
    message = message_class("BundleEntryProto").FromString(entry())
    message.shape.unknown_rank = True
    refuse(write_index(tmp_path / "c", bundle_items(a=message.SerializeToString())), "rank")


@pytest.mark.parametrize("size", [0, 7, 9, -8, 1 << 62, -(1 << 63)])
def test_sizes_that_are_not_shape_times_dtype(tmp_path: Path, size: int) -> None:
    error = refuse(write_index(tmp_path / "c", bundle_items(a=entry(size=size))), "expected 8")
    assert error.found == str(size)


@pytest.mark.parametrize(("dtype", "size"), [(7, 5), (7, 0), (7, -1), (20, -1), (21, -4), (99, -1)])
def test_sizes_of_strings_and_opaque_tensors(tmp_path: Path, dtype: int, size: int) -> None:
    refuse(write_index(tmp_path / "c", bundle_items(a=entry((2,), dtype, size))), "stored bytes")


@pytest.mark.parametrize("offset", [-1, (1 << 63) - 1, (1 << 63) - 8, -(1 << 63)])
def test_offsets_that_are_no_place(tmp_path: Path, offset: int) -> None:
    refuse(write_index(tmp_path / "c", bundle_items(a=entry(offset=offset))), "impossible place")


def test_entries_that_do_not_parse(tmp_path: Path) -> None:
    for number, bad in enumerate([b"\xff", b"\x12\x7f", b"\x0a\x01\x01\xff"]):
        refuse(write_index(tmp_path / f"c{number}", bundle_items(a=bad)), r"not a .* message")


def test_unknown_dtypes_are_listed_and_not_read(tmp_path: Path) -> None:
    prefix = write_index(tmp_path / "c", bundle_items(a=entry(dtype=99, size=5)), b"12345")
    checkpoint = ckptkit.open(prefix)
    assert checkpoint.specs["a"].dtype == "dtype#99"
    for dtype in ("reading a dtype#99",):
        with pytest.raises(UnsupportedError, match="dtype#99"):
            checkpoint["a"]
        assert dtype
    with pytest.raises(ChecksumError):
        list(checkpoint.store.blocks("a"))


def test_keys_that_cannot_be_told_apart(tmp_path: Path) -> None:
    """Two keys of different bytes that would read the same must not become one tensor."""
    items = {b"": header(), b"a\\xff": entry(), b"a\xff": entry(), b"b": entry()}
    prefix = write_index(tmp_path / "c", items, bytes(8))
    try:
        specs = open_bundle(prefix).specs
    except FormatError:
        return
    assert len(specs) == 3


def test_keys_that_are_not_text_are_listed(tmp_path: Path) -> None:
    items = {b"": header(), b"caf\xe9": entry(), b"z": entry()}
    assert len(ckptkit.ls(write_index(tmp_path / "c", items, bytes(8))).tensors) == 2


# --- huge promises --------------------------------------------------------------------------------


def test_a_huge_tensor_in_a_small_file_allocates_nothing(tmp_path: Path) -> None:
    size = 1 << 40
    items = bundle_items(a=entry((size,), size=4 * size), b=entry((1, size), size=4 * size))
    prefix = write_index(tmp_path / "c", items, bytes(100))
    checkpoint = ckptkit.open(prefix)
    assert len(ckptkit.ls(prefix).problems) == 1
    with frugal():
        for name in ("a", "b"):
            with pytest.raises(TruncatedError):
                checkpoint[name]
            with pytest.raises(TruncatedError):
                list(checkpoint.store.blocks(name))
            with pytest.raises(TruncatedError):
                list(checkpoint.store.blocks(name, size))
            with pytest.raises(TruncatedError):
                checkpoint.store.read(name)
            with pytest.raises(TruncatedError):
                ckptkit.show(prefix, name)
        with pytest.raises(TruncatedError):
            ckptkit.load(prefix)


@pytest.mark.parametrize("dtype", [7, 21])
@pytest.mark.parametrize("elements", [1 << 40, 1 << 20])
def test_huge_numbers_of_strings_and_variants(tmp_path: Path, dtype: int, elements: int) -> None:
    items = bundle_items(a=entry((elements,), dtype, elements + 4 if dtype == 7 else 30))
    store = open_bundle(write_index(tmp_path / "c", items, bytes(30)))
    with frugal(), pytest.raises(FormatError):
        list(store.blocks("a"))


@pytest.mark.parametrize("length", EDGES)
def test_huge_string_lengths(tmp_path: Path, length: int) -> None:
    width = 4 if length < 1 << 32 else 8
    crc = _crc32c.mask(_crc32c.value(length.to_bytes(width, "little"))).to_bytes(4, "little")
    data = varint(length) + crc + b"abc"
    items = bundle_items(a=entry((), 7, len(data)))
    store = open_bundle(write_index(tmp_path / "c", items, data))
    with frugal(), pytest.raises(FormatError, match="string lengths: expected at most"):
        list(store.blocks("a"))


def test_string_lengths_are_checksummed_and_fill_the_tensor(tmp_path: Path) -> None:
    data, crc = string_tensor(b"hello")
    damaged = bytes([data[0] - 1]) + data[1:]
    short = data + b"!"
    for number, stored in enumerate([damaged, short, data[:2] + b"\0" + data[3:]]):
        items = bundle_items(a=entry((), 7, len(stored), crc32c=crc))
        store = open_bundle(write_index(tmp_path / f"c{number}", items, stored))
        with pytest.raises(FormatError):
            list(store.blocks("a"))


# --- slices ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "slices", "match"),
    [
        ((4,), [[(0, 2)]], "do not cover"),
        ((4,), [[(0, 2)], [(1, 3)]], "overlap"),
        ((4,), [[(0, 2)], [(3, 1)]], "do not cover"),
        ((4,), [[(0, 2)], [(2, 3)]], "leaves the tensor"),
        ((4,), [[(-1, 5)]], "leaves the tensor|impossible"),
        ((4,), [[(0, 4)], [(4, 0)], [(2, 1)]], "overlap"),
        ((4, 4), [[(0, 2), None], [(2, 2), (0, 3)]], "do not cover"),
        ((4, 4), [[(0, 2), None], [(1, 3), (0, 2)], [(2, 2), (2, 2)]], "overlap"),
        ((4, 4), [[(0, 4)]], "rank 1"),
        ((), [[]], None),
        ((4,), [[(0, -5)]], None),
    ],
)
def test_slices_that_do_not_make_the_whole(
    tmp_path: Path,
    shape: tuple[int, ...],
    slices: list[list[tuple[int, int] | None]],
    match: str | None,
) -> None:
    refuse(write_index(tmp_path / "c", sliced(shape, slices), bytes(64)), match)


def test_a_slice_that_the_index_lacks(tmp_path: Path) -> None:
    items = sliced((4,), [[(0, 2)], [(2, 2)]])
    del items[slice_key(b"w", [(2, 2)])]
    refuse(write_index(tmp_path / "c", items), "not in the index")


def test_a_slice_of_another_dtype_or_shape(tmp_path: Path) -> None:
    for number, other in enumerate([entry((2,), 3), entry((1, 2))]):
        items = sliced((4,), [[(0, 2)], [(2, 2)]])
        items[slice_key(b"w", [(2, 2)])] = other
        refuse(write_index(tmp_path / f"c{number}", items), r"slice at \(2,\)")


def test_partitioned_strings_are_refused(tmp_path: Path) -> None:
    items = sliced((4,), [[(0, 4)]])
    whole = message_class("BundleEntryProto").FromString(items[b"w"])
    whole.dtype = 7
    items[b"w"] = whole.SerializeToString()
    items[slice_key(b"w", [(0, 4)])] = entry((4,), 7, 8)
    refuse(write_index(tmp_path / "c", items), "cannot be partitioned")


@pytest.mark.parametrize("axis", [0, 2])
def test_many_slices_are_checked_quickly(tmp_path: Path, axis: int) -> None:
    shape = tuple(2000 if index == axis else 3 for index in range(3))
    parts = [[(n, 1) if index == axis else None for index in range(3)] for n in range(2000)]
    with frugal():
        assert len(open_bundle(write_index(tmp_path / "c", sliced(shape, parts))).specs) == 1
    with frugal():
        refuse(write_index(tmp_path / "d", sliced(shape, parts[:-1])), "do not cover")
    with frugal():
        refuse(write_index(tmp_path / "e", sliced((1, 1, 1), [[None] * 3] * 2001)), "at most 2000")


def test_huge_slices_in_a_small_file(tmp_path: Path) -> None:
    size = 1 << 36
    prefix = write_index(tmp_path / "c", sliced((2, size), [[None, None]]), bytes(100))
    with frugal():
        store = open_bundle(prefix)
        for max_elements in (1000, 2 * size):
            with pytest.raises(TruncatedError):
                list(store.blocks("w", max_elements))
        with pytest.raises(TruncatedError):
            ckptkit.load(prefix)


def test_a_slice_of_no_tensor(tmp_path: Path) -> None:
    items = {**bundle_items(a=entry()), slice_key(b"gone", [(0, 2)]): entry()}
    with pytest.raises(FormatError, match="a slice of 'gone'"):
        open_bundle(write_index(tmp_path / "c", items))


# --- object graphs --------------------------------------------------------------------------------


def names_of(prefix: Path) -> dict[str, str]:
    with frugal(256 << 20):
        return {key: naming.name for key, naming in ckptkit.open(prefix).names.items()}


def test_cyclic_graph(tmp_path: Path) -> None:
    graph = graph_bytes([{"a": 1, "self": 0, "v": 2}, {"back": 0, "b": 1, "v": 2}, {}], {2: "k"})
    assert names_of(write_graph(tmp_path / "c", graph, ["k"]))["k"] == "v"


def test_a_dense_graph_has_few_aliases(tmp_path: Path) -> None:
    nodes = [{f"e{other}": other for other in range(40)} for _ in range(40)] + [{}]
    nodes[39] = {**nodes[39], "v": 40}
    prefix = write_graph(tmp_path / "c", graph_bytes(nodes, {40: "k"}), ["k"])
    assert names_of(prefix)["k"] == "e39/v"
    assert len(ckptkit.open(prefix).names["k"].aliases) <= 16


@pytest.mark.parametrize("edge", ["n", "n" * 1000])
def test_a_graph_as_deep_as_the_file_allows(tmp_path: Path, edge: str) -> None:
    depth = 20_000 if len(edge) == 1 else 2000
    nodes = [{edge: number + 1} for number in range(depth)] + [{}]
    names = names_of(write_graph(tmp_path / "c", graph_bytes(nodes, {depth: "k"}), ["k"]))
    assert names["k"] == "k"  # no path that a person would read


def test_a_wide_graph_below_a_long_edge(tmp_path: Path) -> None:
    count = 5000
    nodes: list[dict[str, int]] = [{"x" * 100_000: 1}]
    nodes.append({f"c{number}": 2 + number for number in range(count)})
    nodes += [{"v": 2 + count} for _ in range(count)] + [{}]
    names = names_of(write_graph(tmp_path / "c", graph_bytes(nodes, {2 + count: "k"}), ["k"]))
    assert len(names) == 2


@pytest.mark.parametrize("child", [-1, 2, 1 << 30])
def test_children_that_are_not_there(tmp_path: Path, child: int) -> None:
    prefix = write_graph(tmp_path / "c", graph_bytes([{"a": 1, "b": child}, {}]))
    with pytest.raises(FormatError, match="child 'b' of node 0"):
        ckptkit.ls(prefix)


@pytest.mark.parametrize(("original", "slot"), [(-1, 0), (0, 5), (1 << 30, 0)])
def test_slots_that_are_not_there(tmp_path: Path, original: int, slot: int) -> None:
    graph = message_class("TrackableObjectGraph").FromString(graph_bytes([{}]))
    graph.nodes[0].slot_variables.add(
        original_variable_node_id=original, slot_name="m", slot_variable_node_id=slot
    )
    with pytest.raises(FormatError, match="slot 'm' of node 0"):
        ckptkit.ls(write_graph(tmp_path / "c", graph.SerializeToString()))


@pytest.mark.parametrize("graph", [b"\xff\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xff"])
def test_graphs_that_do_not_parse(tmp_path: Path, graph: bytes) -> None:
    with pytest.raises(FormatError, match=r"not a .* message"):
        ckptkit.ls(write_graph(tmp_path / "c", graph))


@pytest.mark.parametrize("graph", [b"", graph_bytes([]), graph_bytes([{}])])
def test_graphs_that_say_nothing(tmp_path: Path, graph: bytes) -> None:
    listing = ckptkit.ls(write_graph(tmp_path / "c", graph, ["k"]), everything=True)
    assert {t.naming.name: t.naming.role for t in listing.tensors}["k"] == "other"


def test_the_graph_is_a_scalar_string(tmp_path: Path) -> None:
    items = bundle_items(_CHECKPOINTABLE_OBJECT_GRAPH=entry())
    with pytest.raises(FormatError, match="not a scalar string"):
        ckptkit.ls(write_index(tmp_path / "c", items, bytes(8)))


def test_edges_named_by_endless_numbers(tmp_path: Path) -> None:
    digits = "9" * 5000
    nodes: list[dict[str, int]] = [
        {"opt": 1},
        {"_variables": 2, "_iterations": 3, "_trainable_variables": 4},
        {digits: 5, "\u0665": 6},
        {},
        {digits: 5},
        {},
        {},
    ]
    names = names_of(write_graph(tmp_path / "c", graph_bytes(nodes, {5: "k", 6: "l"}), ["k", "l"]))
    assert len(set(names.values())) == 3


def test_keys_with_endless_numbers_sort_and_collapse(tmp_path: Path) -> None:
    keys = [f"w/Adam_{'9' * 5000}", "w", f"layer{'1' * 6000}", f"layer{'2' * 6000}"]
    items = bundle_items(**dict.fromkeys(keys, entry()))
    listing = ckptkit.ls(write_index(tmp_path / "c", items, bytes(8)))
    assert len(listing.tensors) == 4
    from ckptkit.reports.listing import lines

    for layout in ("short", "long", "patterns"):
        assert list(lines(listing, "table", layout))


def test_names_stay_unique_whatever_the_graph_calls_them(tmp_path: Path) -> None:
    graph = message_class("TrackableObjectGraph")()
    root = graph.nodes.add()
    for number, (edge, key, full_name) in enumerate(
        [("a", "k", "l"), ("b", "l", "k"), ("c", "m", "k"), ("a", "n", "n"), ("x", "o", "a")]
    ):
        root.children.add(local_name=edge, node_id=number + 1)
        node = graph.nodes.add()
        node.attributes.add(name="VARIABLE_VALUE", checkpoint_key=key, full_name=full_name)
    prefix = write_graph(tmp_path / "c", graph.SerializeToString(), list("klmno"))
    names = names_of(prefix)
    assert len(set(names.values())) == len(names) == 6


@pytest.mark.parametrize("more", [[], ["w@m"], ["w/Adam (key)"]])
def test_names_of_slots_stay_unique(tmp_path: Path, more: list[str]) -> None:
    keys = ["w", "w/Adam", "train/w/Adam", "other/train/w/Adam", *more]
    names = names_of(
        write_index(tmp_path / "c", bundle_items(**dict.fromkeys(keys, entry())), bytes(8))
    )
    assert len(set(names.values())) == len(keys)


def test_a_stale_file_between_index_and_data_is_seen(tmp_path: Path) -> None:
    """Data of one save under the index of another: the checksum tells."""
    prefix = write_index(tmp_path / "c", bundle_items(a=entry(crc32c=1)), bytes(8))
    with pytest.raises(ChecksumError, match="belongs to another save") as caught:
        ckptkit.load(prefix)
    assert caught.value.where == f"{prefix}.data-00000-of-00001: a"
    os.truncate(f"{prefix}.data-00000-of-00001", 7)
    with pytest.raises(TruncatedError):
        ckptkit.load(prefix)
