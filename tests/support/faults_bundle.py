"""Rows 1 to 29: tensor bundles, SavedModels' protobufs, training directories."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import ckptkit as package
from ckptkit._io import crc32c as _crc32c
from ckptkit.errors import CkptkitError
from ckptkit.operations.verify.api import verify
from ckptkit.stores.proto.messages import message_class
from ckptkit.stores.tensor_bundle.slices import slice_key
from ckptkit.stores.tensor_bundle.table_writer import varint
from ckptkit.stores.tensor_bundle.writer import write_tensor_bundle
from support.catalogue import fault, found, is_listed, neither
from support.command_line import ckptkit, refused
from support.crafted import (
    EDGES,
    GOOD,
    block,
    entry,
    entry_bytes,
    frugal,
    graph_bytes,
    handle,
    header,
    raw_table,
    sliced,
    string_tensor,
    write_graph,
    write_index,
)
from support.damage import aged, data, flip, golden, index, tensors, write
from support.odd_bundles import write_odd_bundle
from support.values import blocks_of, out_tensors

TWO = np.arange(2, dtype=np.float32).tobytes()
GOOD_CRC = _crc32c.mask(_crc32c.value(TWO))


def several_blocks(directory: Path) -> Path:
    """Write a checkpoint whose index has several data blocks."""
    made = {f"layer_{i:02}/kernel": ("int32", np.full(4, i, np.int32)) for i in range(12)}
    prefix = directory / "blocks"
    write_tensor_bundle(prefix, out_tensors(made), blocks_of(made), block_bytes=150)
    return prefix


def regions(content: bytes) -> dict[str, range]:
    """Return where the parts of an index lie, in bytes, read from its footer."""
    numbers, at = [], len(content) - 48
    start = at
    for _ in range(4):
        value = shift = 0
        while True:
            byte = content[at]
            at, value, shift = at + 1, value | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                break
        numbers.append(value)
    metaindex, top = numbers[0], numbers[2]
    return {
        "data": range(metaindex),
        "metaindex": range(metaindex, top),
        "top": range(top, start),
        "handles": range(start, at),
        "padding": range(at, len(content) - 8),
        "magic": range(len(content) - 8, len(content)),
    }


def flips_are_noticed(prefix: Path, parts: list[str], step: int) -> None:
    """Flip every step-th bit of parts of an index: neither `ls` nor `verify` may pass."""
    path = index(prefix)
    places = regions(path.read_bytes())
    for part in parts:
        bits = [8 * byte + bit for byte in places[part] for bit in range(8)]
        assert bits, part
        for bit in bits[:: step if len(bits) > 100 else 1]:
            flip(path, bit)
            neither(prefix)
            flip(path, bit)
    assert verify(prefix).exit_code == 0


def crafted(directory: Path, content: bytes | dict[bytes, bytes], values: bytes = TWO) -> Path:
    return write_index(directory / "c", content, values)


def both_files(prefix: Path) -> tuple[Path, Path]:
    return index(prefix), data(prefix)


# --- data files -----------------------------------------------------------------------------------


@fault(1, "bit flip in `.data` inside a tensor")
def _(tmp_path: Path) -> None:
    """verify names the tensor, the stored and the computed checksum, and goes on with the rest."""
    prefix = write(tmp_path / "ckpt")
    names = {spec.offset: key for key, spec in package.open(prefix).specs.items()}
    for bit in range(0, 8 * data(prefix).stat().st_size, 211):
        flip(data(prefix), bit)
        (finding,) = verify(prefix).findings
        offset = max(at for at in names if at is not None and at <= bit // 8)
        assert (finding.code, finding.key) == ("tensor.checksum", names[offset])
        flip(data(prefix), bit)
    for start in names:
        flip(data(prefix), 8 * (start or 0))
    assert found(prefix) == ["tensor.checksum"] * len(names)


@fault(2, "bit flip in bytes that no tensor covers")
def _(tmp_path: Path) -> None:
    """zero padding is a note (`--strict`: a finding); anything else in it is a warning."""
    made = {"a": ("int8", np.arange(9, dtype=np.int8)), "b": ("int8", np.ones(9, np.int8))}
    prefix = write_odd_bundle(tmp_path / "padded", made, padding=7)
    assert verify(prefix).exit_code == 0
    assert verify(prefix, strict=True).exit_code == 1
    for byte in (*range(9, 16), *range(25, 32)):
        for bit in range(8):
            flip(data(prefix), 8 * byte + bit)
            found(prefix, "data.gap" if byte < 16 else "data.trailing")
            flip(data(prefix), 8 * byte + bit)


# --- the index ------------------------------------------------------------------------------------


@fault(3, "bit flip in a data block of the index, first or later")
def _(tmp_path: Path) -> None:
    """ls refuses it too; never a shorter list."""
    flips_are_noticed(several_blocks(tmp_path), ["data"], 29)


@fault(4, "bit flip in the index block or the magic number")
def _(tmp_path: Path) -> None:
    """ls and verify refuse it."""
    flips_are_noticed(several_blocks(tmp_path), ["top", "magic"], 7)


@fault(5, "bit flip in the metaindex block, its handle, or the footer's padding")
def _(tmp_path: Path) -> None:
    """ls and verify refuse it, though TensorFlow never reads these bytes."""
    flips_are_noticed(several_blocks(tmp_path), ["metaindex", "handles", "padding"], 3)


@fault(6, "`.index` cut short at any length")
def _(tmp_path: Path) -> None:
    """ls and verify refuse it."""
    prefix = write(tmp_path / "ckpt")
    content = index(prefix).read_bytes()
    for size in range(len(content)):
        index(prefix).write_bytes(content[:size])
        neither(prefix)


@fault(7, "`.data` cut short at any length")
def _(tmp_path: Path) -> None:
    """ls says so from the sizes alone; verify names every tensor that lost bytes."""
    prefix = write(tmp_path / "ckpt", shard_size=400)
    for shard in sorted(tmp_path.glob("ckpt.data-*")):
        content = shard.read_bytes()
        for size in range(0, len(content), 7):
            shard.write_bytes(content[:size])
            assert not is_listed(prefix), size
        found(prefix, "data.truncated")
        shard.write_bytes(content)


@fault(8, "bytes behind the last tensor, or behind the footer")
def _(tmp_path: Path) -> None:
    """behind the footer an error; behind the data a warning, a note where they are all zero."""
    for tail in (b"\1", b"\0" * 3 + b"x", b"\xff" * (1 << 20)):
        prefix = write(tmp_path / f"ckpt{len(tail)}")
        with data(prefix).open("ab") as file:
            file.write(tail)
        found(prefix, "data.trailing")
        with index(prefix).open("ab") as file:
            file.write(tail)
        neither(prefix)
    prefix = write(tmp_path / "zero")
    with data(prefix).open("ab") as file:
        file.write(bytes(8))
    assert [f.severity for f in verify(prefix).findings] == ["note"]


@fault(9, "data file missing, superfluous, or of another count")
def _(tmp_path: Path) -> None:
    """an error that names the missing file; a warning for one that the index does not mention."""
    prefix = write(tmp_path / "ckpt", shard_size=400)
    shards = sorted(tmp_path.glob("ckpt.data-*"))
    assert len(shards) == 3
    for shard in shards:
        content = shard.read_bytes()
        shard.unlink()
        (finding,) = (f for f in verify(prefix).findings if f.code == "data.missing")
        assert shard.name in finding.where
        assert not is_listed(prefix)
        other = shard.with_name(shard.name.replace("-of-00003", "-of-00004"))
        other.write_bytes(content)
        found(prefix, "data.missing", "data.extra")
        other.replace(shard)
    (tmp_path / "ckpt.data-00003-of-00004").write_bytes(b"x")
    assert found(prefix) == ["data.extra"]


@fault(10, "data and index of two saves")
def _(tmp_path: Path) -> None:
    """checksums fail, and the hint says that the data is newer than the index."""
    prefix = write(tmp_path / "ckpt", 1)
    data(write(tmp_path / "new", 2)).replace(data(prefix))
    os.utime(index(prefix), ns=(1, 1))
    assert set(found(prefix)) == {"tensor.checksum"}
    assert "newer than the index" in verify(prefix).findings[0].hint


@fault(11, "two data files of one size, swapped")
def _(tmp_path: Path) -> None:
    """checksums fail."""
    made = {f"t{i}": ("int32", np.full(50, i, np.int32)) for i in range(2)}
    prefix = tmp_path / "ckpt"
    write_tensor_bundle(prefix, out_tensors(made), blocks_of(made), shard_size=200)
    one, two = data(prefix, 0, 2), data(prefix, 1, 2)
    assert one.stat().st_size == two.stat().st_size
    one.rename(tmp_path / "x")
    two.rename(one)
    (tmp_path / "x").rename(two)
    assert found(prefix) == ["tensor.checksum"] * 2


@fault(12, "content changed and checksums made anew")
def _(tmp_path: Path) -> None:
    """a checksum is no proof of origin: a manifest finds it; structure is checked all the same."""
    prefix, manifest = write(tmp_path / "ckpt", 1), tmp_path / "m.sha256"
    verify(prefix, new_manifest=manifest)
    for new, old in zip(both_files(write(tmp_path / "new", 2)), both_files(prefix), strict=True):
        new.replace(old)
    assert verify(prefix).exit_code == 0
    result = verify(prefix, manifest=manifest)
    assert {f.code for f in result.findings} == {"manifest.digest"}
    neither(crafted(tmp_path, {b"": header(), b"a": entry((3,), size=8, crc32c=GOOD_CRC)}))


@fault(13, "block handles that are huge, overlap, repeat or point at themselves")
def _(tmp_path: Path) -> None:
    """refused before anything is allocated; every block is visited once."""
    for number, slot in product(EDGES, range(4)):
        numbers = [0, 8, 13, 8]
        numbers[slot] = number
        with frugal():
            neither(crafted(tmp_path, raw_table([GOOD], footer=b"".join(map(varint, numbers)))))
    for handles in ([handle(0, len(GOOD))] * 2, [handle(n, 8) for n in EDGES], []):
        with frugal():
            neither(crafted(tmp_path, raw_table([GOOD], handles=handles)))


@fault(14, "varints that are too long, overlong or cut")
def _(tmp_path: Path) -> None:
    """refused."""
    for bad in (b"\x80\x00", b"\x80" * 10, b"\xff" * 9 + b"\x02", b"\xff" * 40):
        for content in (
            raw_table([GOOD], footer=bad.ljust(40, b"\0")[:40]),
            raw_table([GOOD], handles=[bad]),
            raw_table([block([bad])]),
            raw_table([block([b"\0\0" + bad])]),
        ):
            neither(crafted(tmp_path, content))


@fault(15, "entries that share more than there is, restarts out of range or none")
def _(tmp_path: Path) -> None:
    """refused."""
    for bad in (
        block([entry_bytes(1, b"a", b"")]),
        block([entry_bytes(0, b"a", b"", length=(1 << 64) - 1)]),
        block([], restarts=[]),
        block([], count=0xFFFFFFFF),
        block([entry_bytes(0, b"a", b"1")], restarts=[0, 6]),
    ):
        neither(crafted(tmp_path, raw_table([bad])))
        neither(crafted(tmp_path, raw_table([GOOD], index=bad)))


@fault(16, "keys out of order or twice")
def _(tmp_path: Path) -> None:
    """refused; TensorFlow does not look."""
    first = entry_bytes(0, b"", header())
    a, b = entry_bytes(0, b"a", entry()), entry_bytes(0, b"b", entry())
    for blocks in ([block([first, b, a])], [block([first, a, a])], [block([first, b]), block([a])]):
        neither(crafted(tmp_path, raw_table(blocks)))


@fault(17, "snappy block that is a bomb, of a wrong length, or damaged")
def _(tmp_path: Path) -> None:
    """output is bounded by what is declared and by the input; refused."""
    pytest.importorskip("cramjam")
    for bad in (varint((1 << 32) - 1) + b"\0", varint(1 << 30) + b"\xfe\x01\0" * 1000,
                varint(100) + b"\0a", varint(0) + b"\0a", b"\xff" * 12, b""):  # fmt: skip
        with frugal():
            neither(crafted(tmp_path, raw_table([bad], kinds=[1])))


@fault(18, "compression byte that nobody knows")
def _(tmp_path: Path) -> None:
    """refused, for each of the 254."""
    for kind in range(2, 256):
        neither(crafted(tmp_path, raw_table([GOOD], kinds=[kind])))


@fault(19, "header missing, unreadable, of a newer version or another byte order")
def _(tmp_path: Path) -> None:
    """refused; a newer version exits 2 and says what is needed; big-endian is read."""
    neither(crafted(tmp_path, {b"a": entry()}))
    neither(crafted(tmp_path, {b"": b"\xff\xff", b"a": entry()}))
    neither(crafted(tmp_path, {b"": header(endianness=5), b"a": entry(crc32c=GOOD_CRC)}))
    newer = crafted(tmp_path, {b"": header(min_consumer=99), b"a": entry(crc32c=GOOD_CRC)})
    assert ckptkit("ls", newer).code == 2
    assert verify(newer).exit_code == 2
    made = tensors()
    del made["words"]
    assert verify(write_odd_bundle(tmp_path / "big", made, big_endian=True)).exit_code == 0


@fault(20, "numbers of data files that cannot be")
def _(tmp_path: Path) -> None:
    """refused: a shard outside of the count, a count below 1 or above 100,000."""
    for number in (0, -1, 100_001, (1 << 31) - 1):
        neither(crafted(tmp_path, {b"": header(num_shards=number), b"a": entry()}))
    for shard in (-1, 1, (1 << 31) - 1):
        neither(crafted(tmp_path, {b"": header(), b"a": entry(shard_id=shard)}))


@fault(21, "shapes: negative, overflowing, of too many axes, of unknown rank")
def _(tmp_path: Path) -> None:
    """refused by ls too (TensorFlow's process is aborted); the product is never a machine word."""
    for shape, size in (((-1,), 8), ((1 << 62, 4), 0), ((1 << 32, 1 << 32), 8), ((1,) * 255, 4)):
        with frugal():
            neither(crafted(tmp_path, {b"": header(), b"a": entry(shape, size=size)}))
    unknown = message_class("BundleEntryProto")(dtype=1, size=8)
    unknown.shape.unknown_rank = True
    neither(crafted(tmp_path, {b"": header(), b"a": unknown.SerializeToString()}))


@fault(22, "size that is not shape times dtype; dtype that nobody knows")
def _(tmp_path: Path) -> None:
    """a wrong size is refused; an unknown dtype is listed by number, and an error to verify."""
    for size in (0, 7, 9, -8, 1 << 62):
        neither(crafted(tmp_path, {b"": header(), b"a": entry(size=size)}))
    prefix = crafted(tmp_path, {b"": header(), b"a": entry(dtype=99, crc32c=GOOD_CRC)})
    assert package.ls(prefix).tensors[0].spec.dtype == "dtype#99"
    found(prefix, "tensor.dtype")
    with pytest.raises(CkptkitError, match="dtype#99 tensors hold objects"):
        package.open(prefix).store.read("a")


@fault(23, "strings: huge lengths, a wrong checksum of lengths, lengths beyond the tensor")
def _(tmp_path: Path) -> None:
    """the sum of lengths is compared with the size before anything is allocated."""
    stored, crc = string_tensor(b"hello")
    good = {b"": header(), b"a": entry((), 7, len(stored), crc32c=crc)}
    assert verify(crafted(tmp_path, good, stored)).exit_code == 0
    for number in (*EDGES, 6, 4):
        lying = varint(number) + stored[1:]
        items = {b"": header(), b"a": entry((), 7, len(lying), crc32c=crc)}
        with frugal():
            found(crafted(tmp_path, items, lying))
    wrong = stored[:1] + bytes([stored[1] ^ 1]) + stored[2:]
    found(crafted(tmp_path, good, wrong), "tensor.checksum")
    many = {b"": header(), b"a": entry((1 << 40,), 7, len(stored), crc32c=crc)}
    with frugal():
        found(crafted(tmp_path, many, stored))


@fault(24, "tensors that overlap")
def _(tmp_path: Path) -> None:
    """verify names both and reads no more than 4 times the file; ls exits 2, convert refuses."""
    items = {b"t%02d" % i: entry((1000,), size=4000) for i in range(50)}
    prefix = crafted(tmp_path, {b"": header(), **items}, bytes(4000))
    codes = found(prefix, "data.overlap")
    assert codes.count("data.overlap") == 50
    result = ckptkit("ls", prefix)
    assert result.code == 2
    assert "tensors overlap" in result.out + result.err
    refused("convert", prefix, tmp_path / "o.npz")
    assert not (tmp_path / "o.npz").exists()


@fault(25, "slices missing, overlapping, or not the whole")
def _(tmp_path: Path) -> None:
    """an error that names the variable."""
    cases: list[tuple[tuple[int, ...], list[list[tuple[int, int] | None]]]] = [
        ((4,), [[(0, 2)]]),
        ((4,), [[(0, 2)], [(1, 3)]]),
        ((4,), [[(0, 2)], [(2, 3)]]),
        ((4, 4), [[(0, 2), None], [(2, 2), (0, 3)]]),
    ]
    for shape, slices in cases:
        prefix = crafted(tmp_path, sliced(shape, slices), bytes(64))
        neither(prefix)
        assert any("w" in f.where + f.message for f in verify(prefix).findings)
    items = sliced((4,), [[(0, 2)], [(2, 2)]])
    del items[slice_key(b"w", [(2, 2)])]
    neither(crafted(tmp_path, items, bytes(64)))


# --- protobufs ------------------------------------------------------------------------------------


@fault(26, "protobufs nested deeply, or giant")
def _(tmp_path: Path) -> None:
    """bounded in depth and size, without recursion: refused."""
    prefix = write_graph(tmp_path / "graph", b"\x0b" * 1_000_000)
    with frugal():
        found(prefix, "graph.malformed")
    model = golden(tmp_path, "tf2.21.0/lookup/model")
    for content in (b"\x12\x80\x80\x80\x80\x08", b"\x0b" * 1_000_000, b"\xff" * 100):
        (model / "saved_model.pb").write_bytes(content)
        with frugal():
            found(model)
    (model / "saved_model.pb").unlink()
    (model / "saved_model.pbtxt").write_text("meta_graphs {" * 1_000_000)
    with frugal():
        found(model, "graph.malformed")


@fault(27, "object graphs with cycles, children that are not there, or no attributes")
def _(tmp_path: Path) -> None:
    """cycles are walked once; a child that is not there is an error; a lost variable is named."""
    cycle = write_graph(tmp_path / "a", graph_bytes([{"x": 1}, {"y": 0, "z": 1}], {1: "v"}), ["v"])
    assert verify(cycle).exit_code == 0
    for child in (-1, 2, 1 << 30):
        found(write_graph(tmp_path / "b", graph_bytes([{"x": child}, {}], {1: "v"}), ["v"]))
    missing = write_graph(tmp_path / "c", graph_bytes([{"x": 1}, {}], {1: "gone"}), ["v"])
    found(missing, "graph.missing-tensor")
    found(write_graph(tmp_path / "d", graph_bytes([]), ["v"]), "graph.empty")


# --- training directories -------------------------------------------------------------------------


def state_files() -> Iterator[tuple[bytes, str]]:
    yield b'model_checkpoint_path: "gone-7"\n', "state.stale"
    yield b"", "state.empty"
    yield b'model_checkpoint_path: "../x"\n', "state.outside"
    yield b'model_checkpoint_path: "a/../../x"\n', "state.outside"
    yield b'model_checkpoint_path: "a\\000b"\n', "state.outside"
    yield b" " * ((1 << 20) + 1), "state.malformed"
    yield b"\xff\xfe", "state.malformed"


@fault(28, "`checkpoint` file that is empty, huge, stale, or leads outside")
def _(tmp_path: Path) -> None:
    """never followed out of the directory; the newest complete checkpoint is suggested."""
    (tmp_path / "run").mkdir()
    write(tmp_path / "run" / "ckpt-1")
    (tmp_path / "x.index").write_bytes(b"")
    for content, code in state_files():
        (tmp_path / "run" / "checkpoint").write_bytes(content)
        assert found(tmp_path / "run") == [code]
        if code == "state.stale":
            assert verify(tmp_path / "run").findings[0].hint.endswith("ckpt-1")
    (tmp_path / "run" / "checkpoint").write_bytes(b'model_checkpoint_path: "/etc/passwd"\n')
    assert package.open(tmp_path / "run").path.name == "ckpt-1"


@fault(29, "what a killed save leaves")
def _(tmp_path: Path) -> None:
    """reported as unfinished, never taken for the latest, never deleted."""
    write(tmp_path / "ckpt-1")
    left = ["ckpt-2.data-00000-of-00001.tempstate123", ".ckpt-4.index.ckptkit-tmp-01234567",
            "ckpt-5.data-00000-of-00001", "checkpoint.tmp" + "0" * 32]  # fmt: skip
    for name in left:
        (tmp_path / name).write_bytes(b"x")
    shutil.copytree(tmp_path, tmp_path / "ckpt-9_temp")
    assert verify(tmp_path).exit_code == 0  # while a save may go on these are notes
    aged(tmp_path)
    codes = found(tmp_path)
    assert sorted(codes) == ["leftover.ckptkit", "leftover.data", *["leftover.tensorflow"] * 3]
    assert package.open(tmp_path).path.name == "ckpt-1"
    assert all((tmp_path / name).exists() for name in [*left, "ckpt-9_temp"])
