"""Files of very many tensors are kept packed; what is said of them is the same."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import ckptkit
from ckptkit.checkpoint import selection
from ckptkit.checkpoint.naming import Naming
from ckptkit.checkpoint.packed_names import PackedNames
from ckptkit.operations.verify import data as verify_data
from ckptkit.operations.verify import ranges
from ckptkit.reports import table
from ckptkit.stores.base import Slice, TensorSpec
from ckptkit.stores.packed_specs import PackedSpecs
from ckptkit.stores.proto.messages import message_class
from ckptkit.stores.tensor_bundle import object_graph, reader
from ckptkit.stores.tensor_bundle.table import read_table
from ckptkit.stores.tensor_bundle.table_writer import TableWriter
from ckptkit.stores.tensor_bundle.writer import write_tensor_bundle
from ckptkit.stores.writing import TensorToWrite
from support.command_line import ckptkit as run
from support.damage import cut, data, flip, index
from support.goldens import goldens
from support.odd_bundles import write_odd_bundle

SPECS = [
    TensorSpec("plain", "float32", (2, 3), 24, 0, 0, 0),
    TensorSpec("next", "float32", (2, 3), 24, 0, 24, (1 << 32) - 1),
    TensorSpec("elsewhere", "float32", (2, 3), 24, 1, 24, 7),
    TensorSpec("without checksum", "int8", (), 1, 0, (1 << 63) - 1, None),
    TensorSpec("without a place", "float32", (2,), 8, None, None, None),
    TensorSpec("in no shard", "float32", (2,), 8, None, 8, None),
    TensorSpec("far off", "float32", (2,), 8, 0, 1 << 63, 1),
    TensorSpec("sliced", "float32", (2,), 8, slices=(Slice((0,), (2,), 0, 0, 8, 1),)),
]


def packed(specs: list[TensorSpec]) -> PackedSpecs:
    found = PackedSpecs()
    for spec in specs:
        found.add(spec)
    return found


def test_specs_come_back_as_they_were() -> None:
    found = packed(SPECS)
    assert list(found) == [spec.key for spec in SPECS] and len(found) == len(SPECS)
    assert [found[spec.key] for spec in SPECS] == SPECS
    assert list(found.values()) == SPECS
    assert list(found.items()) == [(spec.key, spec) for spec in SPECS]
    assert [found.row(spec.key) for spec in SPECS] == list(range(len(SPECS)))
    assert "other" not in found and found.get("other") is None and found.row("other") is None


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.key)
def test_a_spec_that_is_put_in_the_place_of_another_is_the_one_there(spec: TensorSpec) -> None:
    for before in SPECS:
        found = packed([before._replace(key=spec.key), SPECS[0]._replace(key="last")])
        found.replace(0, spec)
        assert list(found.values()) == [spec, SPECS[0]._replace(key="last")]


def tree(prefix: Path) -> Path:
    """Write a checkpoint whose object graph is a plain tree, as large ones are."""
    graph = message_class("TrackableObjectGraph")()
    keys = []

    def node(parent: int | None, edge: str) -> int:
        graph.nodes.add()
        number = len(graph.nodes) - 1
        if parent is not None:
            graph.nodes[parent].children.add(node_id=number, local_name=edge)
        return number

    root = node(None, "")
    layers = node(node(root, "model"), "layers")
    places = [(node(layers, str(n)), f"model/layers/{n}", f"layer_{n}") for n in range(12)]
    for number, path, scope in places:
        for edge in ("kernel", "bias"):
            key = f"{path}/{edge}/.ATTRIBUTES/VARIABLE_VALUE"
            name = f"{scope}/{edge}"
            graph.nodes[node(number, edge)].attributes.add(
                name="VARIABLE_VALUE", full_name=name, checkpoint_key=key
            )
            keys.append(key)
    counter = "save_counter/.ATTRIBUTES/VARIABLE_VALUE"
    graph.nodes[node(root, "save_counter")].attributes.add(
        name="VARIABLE_VALUE", full_name="save_counter", checkpoint_key=counter
    )
    tensors = [TensorToWrite(key, "float32", (1, 2)) for key in keys]
    write_tensor_bundle(
        prefix,
        [*tensors, TensorToWrite(counter, "int64", ())],
        lambda key: iter([(0, np.ones(1, np.int64) if key == counter else np.ones(2, np.float32))]),
        object_graph=graph.SerializeToString(),
    )
    return prefix


def said(path: Path) -> list[str]:
    commands = (
        ("ls", path),
        ("ls", path, "--long", "--all"),
        ("ls", path, "--format", "json"),
        ("ls", path, "--format", "csv", "--sort", "size"),
        ("ls", path, "--role", "weight", "--format", "markdown"),
        ("diff", path, path, "--quick", "--full"),
        ("verify", path, "--format", "json"),
        ("verify", path, "--sample", 3),
    )
    return [run(*command).out for command in commands]


def test_what_is_said_of_large_files_is_what_is_said_of_small_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tree(tmp_path / "ckpt"), *(Path(g.path) for g in goldens("checkpoint")[::12])]
    before = [said(path) for path in paths]
    for module, limit in (
        (reader, "_LARGE_INDEX"),
        (object_graph, "_KEPT"),
        (selection, "_KEPT"),
        (table, "_KEPT_ROWS"),
    ):
        monkeypatch.setattr(module, limit, 0)
    assert [said(path) for path in paths] == before
    opened = [ckptkit.open(path) for path in paths]
    assert all(isinstance(checkpoint.specs, PackedSpecs) for checkpoint in opened)
    assert isinstance(opened[0].names, PackedNames)
    assert opened[0].names["model/layers/10/bias/.ATTRIBUTES/VARIABLE_VALUE"] == Naming(
        "layer_10/bias", "weight", "layer_10/bias", ("model/layers/10/bias",)
    )


def moved(prefix: Path, key: bytes, nbytes: int) -> None:
    """Have the index say of a tensor that it lies some bytes further on, or before."""
    items = dict(read_table(index(prefix)))
    entry = message_class("BundleEntryProto").FromString(items[key])
    entry.offset += nbytes
    items[key] = entry.SerializeToString()
    with index(prefix).open("wb") as file:
        writer = TableWriter(file)
        for item in items.items():
            writer.add(*item)
        writer.finish()


DAMAGE: dict[str, Callable[[Path], None]] = {
    "none": lambda prefix: None,
    "a bit of one among neighbours": lambda prefix: flip(data(prefix), 8 * 21 + 3),
    "a bit of the last": lambda prefix: flip(data(prefix), 8 * data(prefix).stat().st_size - 1),
    "cut short": lambda prefix: cut(data(prefix), 101),
    "two that share bytes": lambda prefix: moved(prefix, b"t07", -4),
    "a gap, and two that share bytes": lambda prefix: moved(prefix, b"t07", 4),
    "bytes behind the last": lambda prefix: append(data(prefix), b"more"),
}


def append(path: Path, more: bytes) -> None:
    path.write_bytes(path.read_bytes() + more)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_is_found_in_large_files_is_what_is_found_in_small_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
) -> None:
    rng = np.random.default_rng(1)
    sizes = [2, 2, 2, 0, 40, 2, 2, 2, 9, 2, 2]
    tensors = {
        f"t{number:02d}": ("float32", rng.standard_normal(size).astype(np.float32))
        for number, size in enumerate(sizes)
    }
    words = {"t05": ("string", np.array([b"one", b"", b"three"], object))}
    prefix = write_odd_bundle(
        tmp_path / "ckpt", tensors | words, slices={"t08": [[(0, 4)], [(4, 5)]]}
    )
    damage(prefix)
    before = ckptkit.verify(prefix).to_json(), ckptkit.verify(prefix, sample=4).to_json()
    monkeypatch.setattr(reader, "_LARGE_INDEX", 0)
    for module, name, limit in (
        (verify_data, "BATCH_BYTES", 90),
        (verify_data, "BATCH_PARTS", 3),
        (verify_data, "READ_BYTES", 25),
        (ranges, "_ROWS", 2),
    ):
        after = ckptkit.verify(prefix).to_json(), ckptkit.verify(prefix, sample=4).to_json()
        assert after == before, name
        monkeypatch.setattr(module, name, limit)
    with ThreadPoolExecutor(2) as executor:
        assert ckptkit.verify(prefix, executor=executor).to_json() == before[0]


@pytest.mark.parametrize("are_kept", [True, False])
def test_a_listing_goes_to_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, are_kept: bool
) -> None:
    path = tree(tmp_path / "ckpt")
    if not are_kept:
        monkeypatch.setattr(reader, "_LARGE_INDEX", 0)
        monkeypatch.setattr(selection, "_KEPT", 0)
    listing = ckptkit.ls(path)
    for tensors in (listing.tensors, listing.tensors[3:9], listing.tensors[:0]):
        found = pickle.loads(pickle.dumps(tensors))
        assert found == tensors and list(found[1:]) == list(tensors[1:])
    there = pickle.loads(pickle.dumps(listing))
    assert there == listing and there.to_json() == listing.to_json()


@pytest.mark.parametrize("name", ["plain", "wide: 値段", "combining: e\u0301"])
def test_rows_that_are_not_kept_are_padded_alike(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    rows = [(name, 1_234_567), ("x", 5)]
    before = list(table.render(rows, ["NAME", "BYTES"], align=["left", "right"]))
    monkeypatch.setattr(table, "_KEPT_ROWS", 0)
    assert list(table.render(rows, ["NAME", "BYTES"], align=["left", "right"])) == before
