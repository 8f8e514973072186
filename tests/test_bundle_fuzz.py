"""Real checkpoints, damaged at random below checksums that hold: an answer or a refusal, always."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import pytest
from crafted import string_tensor, table

import ckptkit
from ckptkit.errors import CkptkitError
from ckptkit.fixtures.goldens import golden
from ckptkit.reports import listing
from ckptkit.stores._schema import message_class
from ckptkit.stores.leveldb_table import read_table
from ckptkit.stores.tensor_bundle import OBJECT_GRAPH_KEY, open_bundle

SEEDS = 250  # per golden
GOLDENS = [
    *("tf2.21.0/adam/ckpt", "tf2.15.1/legacy_adam/ckpt", "tf2.12.1/metrics/ckpt"),
    *("tf2.21.0/grid/ckpt", "tf2.12.1/saver/model.ckpt", "tf2.21.0/dtypes/ckpt"),
    *("tf2.21.0/objects/ckpt", "tf2.18.1/list/ckpt"),
]


@cache
def original(name: str) -> tuple[dict[bytes, bytes], bytes, bytes | None]:
    """Return (index entries, data, object graph) of a golden of one shard."""
    path = golden(name).path
    store = open_bundle(path)
    graph = store.read(OBJECT_GRAPH_KEY)[0] if OBJECT_GRAPH_KEY in store.specs else None
    return dict(read_table(Path(f"{path}.index"))), store.shards[0].read_bytes(), graph


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return `data` with a few bytes changed, dropped, doubled or moved."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        if not out:
            return bytes(out)
        at, size = rng.randrange(len(out)), rng.choice((1, 1, 2, 8))
        kind = rng.randrange(5)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at : at + size] = rng.randbytes(size)
        elif kind == 2:
            del out[at : at + size]
        elif kind == 3:
            out[at:at] = out[at : at + size]
        else:
            out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
    return bytes(out)


def write_mutant(prefix: Path, name: str, rng: random.Random) -> None:
    """Write a checkpoint whose entries, keys, object graph or data are damaged."""
    items, data, graph = original(name)
    items = dict(items)
    if graph is not None and rng.random() < 0.5:
        stored, crc = string_tensor(mutated(graph, rng))
        entry = message_class("BundleEntryProto").FromString(items[OBJECT_GRAPH_KEY.encode()])
        entry.offset, entry.size, entry.crc32c = len(data), len(stored), crc
        items[OBJECT_GRAPH_KEY.encode()] = entry.SerializeToString()
        data += stored
    else:
        for key in rng.sample(sorted(items), min(len(items), rng.choice((1, 1, 3)))):
            value = items.pop(key)
            if rng.random() < 0.2:
                key = mutated(key, rng)
            items[key] = mutated(value, rng)
    if rng.random() < 0.2:
        data = mutated(data, rng)
    Path(f"{prefix}.index").write_bytes(table(items, block_bytes=rng.choice((60, 1 << 18))))
    Path(f"{prefix}.data-00000-of-00001").write_bytes(data)


def use(prefix: Path) -> None:
    """Do with a checkpoint all that listing, showing and loading do."""
    checkpoint = ckptkit.open(prefix)
    found = ckptkit.ls(prefix, everything=True)
    names = [tensor.naming.name for tensor in found.tensors]
    assert len(set(names)) == len(names) == len(checkpoint.specs)
    assert all(
        checkpoint.key(name) == t.spec.key for name, t in zip(names, found.tensors, strict=True)
    )
    for layout in ("short", "long", "patterns"):
        assert all(line.isprintable() for line in listing.lines(found, "table", layout))
    assert list(listing.lines(found, "json"))
    assert list(listing.tree(found, None))
    assert found.totals["tensors"] == len(names)
    for key in checkpoint.specs:
        try:
            list(checkpoint.store.blocks(key))
            checkpoint.store.read(key)
        except CkptkitError as error:
            assert "\n" not in str(error)
    ckptkit.load(prefix)


@pytest.mark.parametrize("name", GOLDENS)
def test_mutants(name: str, tmp_path: Path) -> None:
    survived = 0
    for seed in range(SEEDS):
        rng = random.Random(f"{name} {seed}")
        write_mutant(tmp_path / "c", name, rng)
        try:
            use(tmp_path / "c")
            survived += 1
        except CkptkitError as error:
            assert error.where or error.hint, error
            assert "\n" not in str(error)
    assert 0 < survived < SEEDS  # else the damage is not of the kind that this is about


def test_the_unharmed_checkpoints_pass(tmp_path: Path) -> None:
    for name in GOLDENS:
        items, data, _graph = original(name)
        Path(f"{tmp_path}/c.index").write_bytes(table(items))
        Path(f"{tmp_path}/c.data-00000-of-00001").write_bytes(data)
        use(tmp_path / "c")
