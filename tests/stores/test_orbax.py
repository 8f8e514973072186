"""Orbax: every array as TensorStore reads it, names and roles, the latest step, lies told."""

from __future__ import annotations

import hashlib
import json
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ckptkit
from ckptkit.checkpoint.names import name_tensors
from ckptkit.errors import CkptkitError, FormatError
from ckptkit.stores.base import TensorSpec
from ckptkit.stores.orbax.codecs import decompress
from ckptkit.stores.orbax.names import NamedLeaf, name_tree
from ckptkit.stores.orbax.ocdbt import read_database
from ckptkit.stores.orbax.reader import open_orbax
from ckptkit.stores.orbax.tree_metadata import TreeLeaf
from support import ocdbt_bytes
from support.command_line import ckptkit as run
from support.command_line import refused
from support.fuzz.mutators import noise
from support.ocdbt_bytes import Place
from support.places import ROOT

pytest.importorskip("cramjam")

FOLDERS = sorted(ROOT.glob("fixtures/orbax/orbax*"))
NEWEST = FOLDERS[0]
ITEMS = [
    (folder, item)
    for folder in FOLDERS
    for item in json.loads((folder / "expected.json").read_text(encoding="utf-8"))["items"]
]


@pytest.mark.parametrize(("folder", "item"), ITEMS, ids=lambda value: getattr(value, "name", value))
def test_arrays_are_what_tensorstore_reads(folder: Path, item: str) -> None:
    told = json.loads((folder / "expected.json").read_text(encoding="utf-8"))["items"][item]
    store = open_orbax(folder / item)
    assert told.keys() == store.specs.keys() - store.texts.keys()
    for key, (dtype, shape, digest) in told.items():
        spec = store.specs[key]
        assert (spec.dtype, list(spec.shape)) == (dtype, shape), key
        whole = store.read(key)
        assert hashlib.sha256(whole.tobytes()).digest()[:16].hex() == digest, key
        blocks = b"".join(values.tobytes() for _, values in store.blocks(key, 5))
        assert blocks == whole.tobytes(), key
        assert store.read(key, 1, 4).tobytes() == whole[1:4].tobytes(), key


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_names_are_paths_and_texts_are_listed(folder: Path) -> None:
    for form in ("database_2", "database_3", "directories_2", "directories_3"):
        ck = ckptkit.open(folder / form)
        names = {key: naming.name for key, naming in ck.names.items()}
        assert names["layers.0.w"] == "layers/0/w"
        assert names["a.b/c d"] == "a.b/c d"
        assert "empty" not in names and "nothing" not in names
        assert ck.store.read("text").tolist() == ["t\u00e9xt".encode()]
    both = [run("ls", "--digest", folder / form).out for form in ("database_2", "directories_3")]
    assert both[0].split()[0] == both[1].split()[0]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_state_of_optax_is_told_from_weights(folder: Path) -> None:
    ck = ckptkit.open(folder / "run/10")
    found = {naming.name: (naming.role, naming.slot_of) for naming in ck.names.values()}
    assert found["dense/kernel"] == ("weight", None)
    assert found["dense/kernel@mu"] == ("slot", "dense/kernel")
    assert found["out/kernel@nu"] == ("slot", "out/kernel")
    assert found["opt_state/0/count"][0] == found["step"][0] == "counter"
    assert all(naming.role_inferred for naming in ck.names.values() if naming.role == "slot")


def test_the_latest_finished_step_is_read(tmp_path: Path) -> None:
    place = tmp_path / "run"
    shutil.copytree(NEWEST / "run", place)
    assert [path.name for path in sorted(place.iterdir())] == ["10", "9"]
    assert ckptkit.open(place).store.path.name == "10"
    (place / "10").rename(place / "10.orbax-checkpoint-tmp")
    found = ckptkit.open(place)
    assert found.store.path.name == "9"
    assert "passed over 10.orbax-checkpoint-tmp" in " ".join(found.notes)
    assert "not finished" in refused("ls", place / "10.orbax-checkpoint-tmp")
    assert "leftover.jax" in run("verify", place, "-v").out
    assert "run/9" in run("ls", "-r", tmp_path).out
    assert "orbax-checkpoint-tmp" not in run("ls", "-r", tmp_path).out


def test_a_step_without_its_time_is_not_finished(tmp_path: Path) -> None:
    place = tmp_path / "run"
    shutil.copytree(NEWEST / "run", place)
    metadata = place / "10/_CHECKPOINT_METADATA"
    told = json.loads(metadata.read_text(encoding="utf-8"))
    metadata.write_text(json.dumps(told | {"commit_timestamp_nsecs": None}), encoding="utf-8")
    assert ckptkit.open(place).store.path.name == "10"  # the marker is there
    (place / "10/commit_success.txt").unlink()
    assert ckptkit.open(place).store.path.name == "9"
    metadata.unlink()  # nothing tells but that others have the marker
    assert ckptkit.open(place).store.path.name == "9"


def test_steps_that_no_order_follows_from_are_named(tmp_path: Path) -> None:
    for name in ("ckpt_9", "best_10"):
        shutil.copytree(NEWEST / "run/9", tmp_path / name)
    said = refused("ls", tmp_path)
    assert "ckpt_9" in said and "best_10" in said
    shutil.rmtree(tmp_path / "best_10")
    shutil.copytree(NEWEST / "run/9", tmp_path / "ckpt_009")
    assert "one step" in refused("ls", tmp_path)


def test_several_items_with_arrays_are_told_apart(tmp_path: Path) -> None:
    shutil.copytree(NEWEST / "run/10", tmp_path / "10")
    shutil.copytree(NEWEST / "sharded_2", tmp_path / "10/more")
    (tmp_path / "10/more/_CHECKPOINT_METADATA").unlink()
    store = open_orbax(tmp_path / "10")
    assert {"state/params.dense.kernel", "more/parts"} <= store.specs.keys()
    assert store.read("more/rows").tolist() == list(range(12))


def test_commands() -> None:
    assert run("verify", NEWEST / "run").code == 0
    assert run("scan", NEWEST / "run").code == 0
    assert run("needs", NEWEST / "run").code == 0
    forms = [NEWEST / name for name in ("database_2", "directories_3")]
    assert run("diff", *forms).code == 0
    assert run("ls", NEWEST / "run/10/state/_METADATA").out.startswith("NAME")
    history = run("history", NEWEST / "run")
    assert history.code in (0, 1), history.out


def test_keras_on_jax_beside_its_own_file() -> None:
    diff = run("diff", NEWEST / "model.keras", NEWEST / "keras")
    assert diff.code == 0, diff.out
    assert "20 equal by value" in diff.out
    assert run("diff", "--config", NEWEST / "model.keras", NEWEST / "keras").code == 0
    earlier = run("diff", NEWEST / "model.keras", NEWEST / "keras/0")
    assert earlier.code == 1


def test_slots_of_an_optimizer_in_another_say_whose_they_are() -> None:
    paths = [
        ("trainable_variables", "a", "kernel"),
        ("trainable_variables", "a_b", "kernel"),
        ("optimizer_variables", "adam", "a_kernel_momentum"),
        ("optimizer_variables", "adam", "a_b_kernel_momentum"),
        ("optimizer_variables", "scale", "a_kernel_average"),
        ("optimizer_variables", "adam", "learning_rate"),
    ]
    leaves = [TreeLeaf(path, frozenset(), "array") for path in paths]
    specs = [TensorSpec(leaf.array_name, "float32", (2,), 8) for leaf in leaves]
    specs[-1] = specs[-1]._replace(shape=())
    found = name_tree([NamedLeaf(*pair) for pair in zip(leaves, specs, strict=True)])
    namings = name_tensors({spec.key: spec for spec in specs}, found)
    told = {n.name: (n.role, n.slot_of, n.slot, n.optimizer) for n in namings.values()}
    assert told["a/kernel@adam/momentum"] == ("slot", "a/kernel", "momentum", "adam")
    assert told["a_b/kernel@adam/momentum"] == ("slot", "a_b/kernel", "momentum", "adam")
    assert told["a/kernel@scale/average"] == ("ema", "a/kernel", "average", "scale")
    assert told["adam/learning_rate"][0] == "config"


def test_a_checkpoint_becomes_a_file_of_another_form(tmp_path: Path) -> None:
    for name in ("out.npz", "out.safetensors"):
        assert run("convert", NEWEST / "keras", tmp_path / name).code == 0
        assert run("diff", NEWEST / "keras", tmp_path / name).code == 0
    model = tmp_path / "out.keras"
    options = ("--like", NEWEST / "model.keras", "--drop-role", "metric", "--allow-unused", "seed*")
    done = run("convert", NEWEST / "keras", model, *options)
    assert done.code == 0, done.err
    assert run("diff", NEWEST / "model.keras", model).code == 0


def test_stores_are_sent_by_path() -> None:
    store = open_orbax(NEWEST / "database_2")
    again = pickle.loads(pickle.dumps(store))
    assert again.read("dense.kernel").tolist() == store.read("dense.kernel").tolist()


# -- lost and damaged ------------------------------------------------------------------------------


def copied(tmp_path: Path, name: str) -> Path:
    place = tmp_path / name
    shutil.copytree(NEWEST / name, place)
    return place


def test_an_array_that_is_gone_is_told(tmp_path: Path) -> None:
    place = copied(tmp_path, "directories_2")
    shutil.rmtree(place / "dense.kernel")
    listed = run("ls", place)
    assert listed.code == 2
    assert "dense.kernel" in listed.err
    assert "dense/bias" in listed.out


def test_a_text_that_is_gone_is_told(tmp_path: Path) -> None:
    place = copied(tmp_path, "database_2")
    (place / "_strings.json").unlink()
    assert "no text of a leaf" in refused("ls", place)


def test_a_chunk_that_is_gone_is_never_zeros(tmp_path: Path) -> None:
    place = copied(tmp_path, "directories_2")
    (place / "dense.kernel/0.0").unlink()
    assert "a chunk of values is missing" in run("verify", place).out
    assert run("diff", NEWEST / "directories_2", place).code == 2


def test_chunks_that_old_versions_left_out_are_the_fill_value() -> None:
    old = open_orbax(FOLDERS[-1] / "database_3")
    assert "0.5" in FOLDERS[-1].name
    assert old.read("zeros").tolist() == [0] * 6


@pytest.mark.parametrize("change", ["cut", "flip", "gone"])
def test_a_damaged_tree_is_told(tmp_path: Path, change: str) -> None:
    place = copied(tmp_path, "database_2")
    [node] = (place / "d").iterdir()
    data = bytearray(node.read_bytes())
    data[len(data) // 2] ^= 4
    node.write_bytes(data[:-9] if change == "cut" else data)
    if change == "gone":
        node.unlink()
    assert run("ls", place).code == 2
    assert run("verify", place).code == 1


def test_without_a_decoder_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "cramjam", None)
    said = refused("ls", NEWEST / "database_2")
    assert "cramjam" in said and "ckptkit-tf[orbax]" in said


# -- hostile ---------------------------------------------------------------------------------------

ZARRAY = {
    "chunks": [4],
    "compressor": None,
    "dimension_separator": ".",
    "dtype": "<f4",
    "fill_value": None,
    "filters": None,
    "order": "C",
    "shape": [4],
    "zarr_format": 2,
}


def one_array(directory: Path, chunk: bytes = bytes(16), **changes: Any) -> Path:
    metadata = json.dumps(ZARRAY | changes).encode()
    node = ocdbt_bytes.leaf({b"w/.zarray": metadata, b"w/0": chunk})
    return ocdbt_bytes.database(directory, node, Place(0, 0, len(node)), 0)


def test_a_tree_of_ones_own(tmp_path: Path) -> None:
    leaf = ocdbt_bytes.leaf({b"/a": b"1", b"/b": Place(0, 0, 3)}, ["x"])
    top = ocdbt_bytes.interior(1, {b"p": Place(0, 0, len(leaf))}, common=[1])
    place = ocdbt_bytes.database(tmp_path, leaf + top, Place(0, len(leaf), len(top)), 1)
    values = read_database(place).values
    assert values[b"p/a"].inline == b"1"
    assert values[b"p/b"].path == tmp_path / "x"


@pytest.mark.parametrize(
    ("children", "height", "said"),
    [
        (lambda n: {b"a": Place(0, 0, n), b"b": Place(0, 0, n)}, 1, "two parents"),
        (lambda n: {b"a": Place(0, 0, n)}, 2, "height"),
        (lambda n: {b"b": Place(0, 0, n)}, 1, "do not rise"),
        (lambda n: {b"a": Place(7, 0, n)}, 1, "data file 7"),
        (lambda n: {b"a": Place(0, 1, n)}, 1, "magic"),
        (lambda n: {b"a": Place(0, 0, n - 1)}, 1, "length"),
        (lambda _: {b"a": Place(0, 1 << 40, 99)}, 1, "past the end"),
        (lambda _: {b"a": Place(0, 0, 1 << 60)}, 1, "no manifest or node"),
    ],
)
def test_trees_that_lie(
    tmp_path: Path, children: Callable[[int], Any], height: int, said: str
) -> None:
    leaf = ocdbt_bytes.leaf({b"a": b"1"})
    top = ocdbt_bytes.interior(height, children(len(leaf)))
    place = ocdbt_bytes.database(tmp_path, leaf + top, Place(0, len(leaf), len(top)), height)
    with pytest.raises(FormatError, match=said):
        read_database(place)


def test_a_node_above_itself_ends(tmp_path: Path) -> None:
    node = ocdbt_bytes.interior(1, {b"a": Place(0, 0, 50)})
    place = Place(0, 0, len(node))
    node = ocdbt_bytes.interior(1, {b"a": place})
    assert len(node) == place.nbytes
    with pytest.raises(FormatError, match="two parents"):
        read_database(ocdbt_bytes.database(tmp_path, node, place, 1))


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a//b", "d/./0", "x\0y"])
def test_data_files_lie_in_the_database(tmp_path: Path, name: str) -> None:
    node = ocdbt_bytes.leaf({b"w/0": Place(0, 0, 3)}, [name])
    place = ocdbt_bytes.database(tmp_path, node, Place(0, 0, len(node)), 0)
    with pytest.raises(FormatError, match="outside of the database"):
        open_orbax(place)
    assert run("scan", place).code in (1, 2)


def test_an_array_of_ones_own(tmp_path: Path) -> None:
    assert open_orbax(one_array(tmp_path)).read("w").tolist() == [0] * 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shape": [1 << 50]}, "far more than is stored"),
        ({"chunks": [1 << 50]}, "far more than is stored"),
        ({"shape": [1 << 40], "chunks": [1]}, "far more than is stored"),
        ({"compressor": {"id": "rar"}}, "rar"),
        ({"filters": [{"id": "delta"}]}, "filters"),
        ({"dtype": "<M8[s]"}, "no array form"),
        ({"dtype": "<f8"}, "bytes of a chunk"),
        ({"compressor": {"id": "zstd"}}, "damaged zstd"),
        ({"compressor": {"id": "gzip"}}, "damaged gzip"),
    ],
)
def test_arrays_that_cannot_be_read_are_listed(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    store = open_orbax(one_array(tmp_path, **changes))
    with pytest.raises(CkptkitError, match=said):
        store.read("w", 0, 1)
    verified = run("verify", tmp_path)
    assert verified.code in (1, 2) or "not checked: 1 tensor" in verified.out


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [-1]},
        {"shape": [4, 4]},
        {"chunks": [0]},
        {"shape": [1 << 62]},
        {"shape": "4"},
        {"order": "X"},
        {"zarr_format": 3},
        {"shape": [1] * 33, "chunks": [1] * 33},
        {"dimension_separator": "x"},
    ],
)
def test_metadata_that_lies_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        open_orbax(one_array(tmp_path, **changes))


def test_zstd_of_many_zeros_is_bounded(tmp_path: Path) -> None:
    import cramjam

    packed = bytes(cramjam.zstd.compress(bytes(1 << 28)))
    many = 1 << 26
    place = one_array(tmp_path, packed, shape=[many], chunks=[many], compressor={"id": "zstd"})
    with pytest.raises(FormatError, match="far more than is stored"):
        open_orbax(place).read("w", 0, 1)
    body = bytes(cramjam.zstd.compress(bytes(1 << 29)))
    (tmp_path / "manifest.ocdbt").write_bytes(
        ocdbt_bytes.framed(ocdbt_bytes.MANIFEST_MAGIC, body, compression=1)
    )
    with pytest.raises(FormatError):
        open_orbax(place)


@pytest.mark.parametrize("codec", ["zstd", "gzip", "zlib", "bz2", "blosc"])
def test_damaged_chunks_are_refused_or_as_long_as_they_must_be(codec: str) -> None:
    import bz2
    import gzip
    import zlib

    import cramjam

    plain = bytes(range(200)) * 3
    lz4 = bytes(cramjam.lz4.compress_block(plain, store_size=False))
    chunk = (20 + 4 + len(lz4)).to_bytes(4, "little")
    size = len(plain).to_bytes(4, "little")
    header = bytes([2, 1, 0x10 | 1 << 5, 4]) + size + size + chunk + (20).to_bytes(4, "little")
    packed = {
        "zstd": bytes(cramjam.zstd.compress(plain)),
        "gzip": gzip.compress(plain),
        "zlib": zlib.compress(plain),
        "bz2": bz2.compress(plain),
        "blosc": header + len(lz4).to_bytes(4, "little") + lz4,
    }[codec]
    assert bytes(decompress(codec, packed, len(plain), "x")) == plain
    for wrong in (len(plain) - 1, len(plain) + 1, 0):
        with pytest.raises(FormatError):
            decompress(codec, packed, wrong, "x")
    rng = random.Random(codec)
    for _ in range(200):
        try:
            found = decompress(codec, noise(packed, rng), len(plain), "x")
        except CkptkitError:
            continue
        assert len(found) == len(plain)


def test_damaged_metadata_is_read_or_refused(tmp_path: Path) -> None:
    place = copied(tmp_path, "directories_3")
    files = [path for path in place.rglob("*") if path.is_file() and path.stat().st_size]
    rng = random.Random(3)
    for _ in range(150):
        file = rng.choice(files)
        good = file.read_bytes()
        file.write_bytes(noise(good, rng))
        try:
            store = open_orbax(place)
            for key in store.specs:
                store.read(key)
        except CkptkitError as error:
            assert "\n" not in str(error)
        file.write_bytes(good)
