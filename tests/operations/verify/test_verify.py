"""`verify`: every finding, nothing else, and what was not checked."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import ckptkit as package
from ckptkit._io import crc32c as _crc32c
from ckptkit.errors import FormatError, PathNotFoundError, UsageError
from ckptkit.operations.verify import data as _verify_data
from ckptkit.operations.verify.api import verify
from ckptkit.stores.npz.writer import write_npz
from ckptkit.stores.safetensors.writer import write_safetensors
from ckptkit.stores.tensor_bundle.writer import write_tensor_bundle
from ckptkit.stores.writing import TensorToWrite
from support.command_line import ckptkit, json_results, refused
from support.damage import aged, codes, cut, data, flip, golden, index, sound, write
from support.goldens import GOLDEN, goldens
from support.odd_bundles import write_odd_bundle
from support.ticks import after_a_tick
from support.values import blocks_of, corpus, out_tensors, values_of

GOOD = ("checkpoint", "saved-model", "keras", "h5", "weights.h5", "saved-model-pbtxt")


@pytest.mark.parametrize("name", [golden.name for golden in goldens(*GOOD)])
def test_files_of_every_tensorflow_are_sound(name: str) -> None:
    result = verify(GOLDEN / name)
    assert sound(result), result.findings
    if "text_export" not in name:
        assert sum(unit.tensors for unit in result.units) > 0


# --- tensor bundles -------------------------------------------------------------------------------


def test_all_damage_is_found_not_the_first(tmp_path: Path) -> None:
    prefix = write(tmp_path / "ckpt", shard_size=400)
    shards = sorted(tmp_path.glob("ckpt.data-*"))
    assert len(shards) == 3
    flip(shards[1], 100)
    shards[2].unlink()
    (tmp_path / "ckpt.data-00000-of-00009").write_bytes(b"x")
    result = verify(prefix)
    assert sorted(f.code for f in result.findings) == [
        "data.extra",
        "data.missing",
        "tensor.checksum",
    ]
    (damaged,) = [f for f in result.findings if f.code == "tensor.checksum"]
    assert damaged.where == "ckpt.data-00001-of-00003: dense/kernel"
    assert damaged.severity == "error"


@pytest.mark.parametrize("jobs", [1, 2, 5])
@pytest.mark.parametrize("big_endian", [False, True])
def test_checksums_of_every_dtype_and_layout(tmp_path: Path, jobs: int, big_endian: bool) -> None:
    dtypes = ["float32", "complex128", "int64", "bool", "bfloat16"]
    tensors = corpus(dtypes if big_endian else [*dtypes, "string"])
    tensors["grid"] = ("float32", values_of("float32", (6, 5)))
    slices = {"grid": [[(0, 2), (0, 5)], [(2, 4), (0, 3)], [(2, 4), (3, 2)]]}
    prefix = write_odd_bundle(
        tmp_path / "odd", tensors, big_endian=big_endian, slices=slices, num_shards=3
    )
    with ThreadPoolExecutor(jobs) as executor:
        result = verify(prefix, executor=executor)
        assert result.findings == ()
        stored = sum(spec.nbytes for spec in package.open(prefix).specs.values())
        assert result.units[0].nbytes == stored
        for shard in range(3):
            flip(data(prefix, shard, 3), 8 * 3 + 1)
        flip(data(prefix, 2, 3), 8 * (data(prefix, 2, 3).stat().st_size - 1))
        found = verify(prefix, executor=executor).findings
        assert [f.code for f in found] == ["tensor.checksum"] * len(found)
        assert len(found) in (3, 4)


def test_pieces_larger_and_smaller_than_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut anywhere, the parts of a tensor join to its checksum."""
    rng = np.random.default_rng(3)
    tensors = {
        f"t{i:02}": ("uint8", rng.integers(0, 255, size, np.uint8))
        for i, size in enumerate([1, 0, 999, 1000, 1001, 4096, 7, 30_000, 2])
    }
    prefix = tmp_path / "ckpt"
    write_tensor_bundle(prefix, out_tensors(tensors), blocks_of(tensors, 1000))
    for run, read in [(1, 1), (1000, 7), (1000, 1000), (999, 1024), (4097, 512), (1 << 20, 64)]:
        monkeypatch.setattr(_verify_data, "BATCH_BYTES", run)
        monkeypatch.setattr(_verify_data, "READ_BYTES", read)
        monkeypatch.setattr(_verify_data, "_thread", type(_verify_data._thread)())
        with ThreadPoolExecutor(2) as executor:
            assert verify(prefix, executor=executor).findings == ()
    flip(data(prefix), 8 * 20_000)
    assert codes(prefix) == ["tensor.checksum"]


def test_both_ways_to_make_a_checksum_agree() -> None:
    unlocked = _crc32c.unlocked_extend()
    if unlocked is None:
        pytest.skip("google_crc32c is built without its C library")
    values = np.random.default_rng(1).integers(0, 255, 100_000, np.uint8)
    for start in (0, 1, 7, 4096):
        part = values[start:]
        assert unlocked(5, part.ctypes.data, len(part)) == _crc32c.extend(5, part.tobytes())


def test_a_damaged_index_still_tells_of_the_other_tensors(tmp_path: Path) -> None:
    """A block of the index that is lost costs its own tensors; the rest is verified."""
    tensors = {f"layer_{i:03}/kernel": ("int32", np.full(4, i, np.int32)) for i in range(300)}
    prefix = tmp_path / "ckpt"
    write_tensor_bundle(prefix, out_tensors(tensors), blocks_of(tensors), block_bytes=1000)
    flip(index(prefix), 8 * 3000)
    flip(data(prefix), 8 * 4)
    result = verify(prefix)
    assert {f.code for f in result.findings if f.severity == "error"} == {
        "index.checksum",
        "tensor.checksum",
    }
    assert 200 < result.units[0].tensors < 300
    assert any("damaged part of the index" in text for text in result.not_checked)


def test_what_a_damaged_index_does_not_list_is_not_read(tmp_path: Path) -> None:
    tensors = {"a": ("int8", np.ones(999, np.int8))}
    prefix = tmp_path / "ckpt"
    write_tensor_bundle(prefix, out_tensors(tensors), blocks_of(tensors))
    index(prefix).write_bytes(index(prefix).read_bytes()[:-1])
    result = verify(prefix)
    assert {f.code for f in result.findings} == {"index.malformed"}
    assert result.units[0].nbytes == 0


def test_a_headless_index_is_read_by_the_shards_that_lie_there(tmp_path: Path) -> None:
    tensors = {f"layer_{i:03}/kernel": ("int32", np.full(4, i, np.int32)) for i in range(300)}
    prefix = tmp_path / "ckpt"
    write_tensor_bundle(prefix, out_tensors(tensors), blocks_of(tensors), block_bytes=1000)
    flip(index(prefix), 8 * 10)
    result = verify(prefix)
    assert {f.code for f in result.findings if f.severity == "error"} >= {"index.checksum"}
    assert result.units[0].tensors > 200


def test_gaps_overlaps_and_trailing_bytes(tmp_path: Path) -> None:
    tensors = {"a": ("int8", np.arange(9, dtype=np.int8)), "b": ("int8", np.ones(9, np.int8))}
    prefix = write_odd_bundle(tmp_path / "padded", tensors, padding=7)
    result = verify(prefix)
    assert [(f.severity, f.code) for f in result.findings] == [
        ("note", "data.gap"),
        ("note", "data.trailing"),
    ]
    assert result.exit_code == 0
    assert verify(prefix, strict=True).exit_code == 1
    flip(data(prefix), 8 * 10)  # a bit of the padding: no checksum covers it
    flip(data(prefix), 8 * 30)
    found = verify(prefix).findings
    assert [(f.severity, f.code) for f in found] == [
        ("warning", "data.gap"),
        ("warning", "data.trailing"),
    ]
    assert found[0].where == "padded.data-00000-of-00001 bytes 9 to 16"
    with data(prefix).open("ab") as file:
        file.write(b"more")
    assert codes(prefix) == ["data.gap", "data.trailing"]


def test_the_end_of_a_data_file(tmp_path: Path) -> None:
    prefix = write(tmp_path / "ckpt")
    content = data(prefix).read_bytes()
    for size in range(len(content)):
        data(prefix).write_bytes(content[:size])
        found = verify(prefix).findings
        assert {f.code for f in found} == {"data.truncated"}, size
        assert found[-1].where.startswith("ckpt.data-00000-of-00001: ")


def test_data_and_index_of_two_saves(tmp_path: Path) -> None:
    prefix = write(tmp_path / "ckpt", 1)
    after_a_tick(index(prefix))
    data(write(tmp_path / "new", 2)).replace(data(prefix))
    result = verify(prefix)
    assert {f.code for f in result.findings} == {"tensor.checksum"}
    assert len(result.findings) == 4
    assert "newer than the index" in result.findings[0].hint


def test_an_index_that_is_missing(tmp_path: Path) -> None:
    prefix = write(tmp_path / "ckpt")
    index(prefix).unlink()
    for operand in (prefix, data(prefix)):
        assert codes(operand) == ["index.missing"]


def test_graph_and_tensors_must_fit(tmp_path: Path) -> None:
    from ckptkit.stores.tensor_bundle.reader import OBJECT_GRAPH_KEY

    prefix = golden(tmp_path, "tf2.21.0/adam/ckpt")
    store = package.open(prefix).store
    graph = store.read(OBJECT_GRAPH_KEY)[0]
    kept = [k for k in store.specs if k != OBJECT_GRAPH_KEY][1:]
    listed = [TensorToWrite(k, store.specs[k].dtype, store.specs[k].shape) for k in kept]
    listed.append(TensorToWrite("stranger", "float32", (2,)))

    def blocks(key: str) -> Any:
        return iter([(0, np.ones(2, np.float32))]) if key == "stranger" else store.blocks(key)

    write_tensor_bundle(tmp_path / "other", listed, blocks, object_graph=graph)
    result = verify(tmp_path / "other")
    assert [(f.severity, f.code) for f in result.findings] == [
        ("error", "graph.missing-tensor"),
        ("note", "graph.unnamed"),
    ]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """16 GB of holes in one tensor."""
    from ckptkit._io.crc32c import crc_of_repeated
    from ckptkit.stores.tensor_bundle.table_writer import TableWriter
    from ckptkit.stores.tensor_bundle.writer import _IndexEntry, index_items

    nbytes = 1 << 28  # the slow test and the benchmark take 20 GB
    tensor = TensorToWrite("w", "uint8", (nbytes,))
    entry = _IndexEntry(0, 0, nbytes, crc_of_repeated(b"\0", nbytes))
    prefix = tmp_path / "ckpt"
    with index(prefix).open("wb") as file:
        table = TableWriter(file)
        for item in index_items([tensor], {"w": entry}, 1):
            table.add(*item)
        table.finish()
    with data(prefix).open("wb") as file:
        file.truncate(nbytes)
    tracemalloc.start()
    assert verify(prefix).exit_code == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


# --- training directories -------------------------------------------------------------------------


def state(directory: Path, latest: str, *others: str) -> None:
    lines = [f'model_checkpoint_path: "{latest}"']
    lines += [f'all_model_checkpoint_paths: "{name}"' for name in (*others, latest)]
    (directory / "checkpoint").write_text("\n".join(lines) + "\n")


def test_a_training_directory_is_verified_whole(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write(tmp_path / f"ckpt-{number}", number)
    state(tmp_path, "ckpt-3", "ckpt-1", "ckpt-2")
    (tmp_path / "events.out.tfevents.1").write_bytes(b"x")
    result = verify(tmp_path)
    assert sound(result)
    assert [unit.path.name for unit in result.units[1:]] == ["ckpt-1", "ckpt-2", "ckpt-3"]
    assert any("events.out.tfevents.1" in text for text in result.not_checked)
    flip(data(tmp_path / "ckpt-2"), 77)
    assert codes(tmp_path) == ["tensor.checksum"]


@pytest.mark.parametrize(
    ("latest", "others", "expected"),
    [
        ("ckpt-9", (), ["state.stale"]),
        ("ckpt-1", ("ckpt-0",), ["state.stale"]),
        ("../ckpt-1", (), ["state.outside"]),
        ("/elsewhere/ckpt-1", (), []),
    ],
)
def test_the_state_file(
    tmp_path: Path, latest: str, others: tuple[str, ...], expected: list[str]
) -> None:
    write(tmp_path / "ckpt-1")
    state(tmp_path, latest, *others)
    assert codes(tmp_path) == expected
    if expected == ["state.stale"]:
        (finding,) = verify(tmp_path).findings
        assert finding.hint == "the newest complete one here is ckpt-1"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "state.empty"),
        (b"model_checkpoint_path 3", "state.empty"),
        (b"\xff\xfe\x00", "state.malformed"),
        (b" " * ((1 << 20) + 1), "state.malformed"),
    ],
)
def test_a_state_file_that_is_none(tmp_path: Path, content: bytes, code: str) -> None:
    write(tmp_path / "ckpt-1")
    (tmp_path / "checkpoint").write_bytes(content)
    assert codes(tmp_path) == [code]


def test_what_a_crash_leaves(tmp_path: Path) -> None:
    write(tmp_path / "ckpt-1")
    (tmp_path / "ckpt-2_temp").mkdir()
    (tmp_path / "ckpt-3.data-00000-of-00001.tempstate1234567").write_bytes(b"x")
    (tmp_path / ".ckpt-4.index.ckptkit-tmp-01234567").write_bytes(b"x")
    (tmp_path / "ckpt-5.data-00000-of-00001").write_bytes(b"x")
    (tmp_path / ("checkpoint.tmp" + "0" * 32)).write_bytes(b"x")
    aged(tmp_path)
    assert codes(tmp_path) == [
        "leftover.ckptkit",
        "leftover.data",
        "leftover.tensorflow",
        "leftover.tensorflow",
        "leftover.tensorflow",
    ]
    assert (tmp_path / "ckpt-2_temp").is_dir()  # nothing is ever deleted


def test_nothing_to_check_is_never_sound(tmp_path: Path) -> None:
    assert "nothing to verify" in refused("verify", tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    assert ckptkit("verify", tmp_path).code == 2
    assert ckptkit("verify", tmp_path / "notes.txt").code == 2
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "a"\n')
    assert ckptkit("verify", tmp_path).code == 1
    for operand in ("", "a\0b", tmp_path / "none"):
        with pytest.raises(PathNotFoundError):
            verify(operand)
    prefix = write(tmp_path / "ckpt")
    with pytest.raises(UsageError, match="not a part of it"):
        verify(f"{prefix}#dense")


def test_a_directory_of_several_formats(tmp_path: Path) -> None:
    tensors = corpus(["float32"])
    write_npz(tmp_path / "a.npz", out_tensors(tensors), blocks_of(tensors))
    write_safetensors(
        tmp_path / "m.safetensors.index.json",
        out_tensors(tensors),
        blocks_of(tensors),
        shard_size=100,
    )
    golden(tmp_path, "tf2.21.0/lookup/model")
    (tmp_path / "b.npz").write_bytes(b"damaged")
    result = verify(tmp_path)
    assert {unit.path.name for unit in result.units[1:]} == {
        "a.npz",
        "b.npz",
        "m.safetensors.index.json",
        "model",
    }
    assert [f.code for f in result.findings if f.severity == "error"] == ["file.malformed"]


# --- SavedModels ----------------------------------------------------------------------------------

LOOKUP = "tf2.21.0/lookup/model"


def test_every_bit_of_a_graph_is_covered(tmp_path: Path) -> None:
    """TensorFlow writes a fingerprint of saved_model.pb and never compares it."""
    model = golden(tmp_path, "tf2.21.0/module_saved_model/model")
    path = model / "saved_model.pb"
    bits = 8 * path.stat().st_size
    rng = np.random.default_rng(7)
    for bit in rng.integers(0, bits, 60).tolist():
        flip(path, bit)
        assert codes(model), bit
        flip(path, bit)
    assert sound(verify(model))


def test_a_stale_fingerprint(tmp_path: Path) -> None:
    model = golden(tmp_path, LOOKUP)
    prefix = model / "variables" / "variables"
    store = package.open(prefix).store
    graph = store.read("_CHECKPOINTABLE_OBJECT_GRAPH")[0]
    listed = [
        TensorToWrite(k, s.dtype, s.shape)
        for k, s in store.specs.items()
        if not k.startswith("_CHECK")
    ]
    held = {t.key: store.read(t.key) + 1 for t in listed}
    write_tensor_bundle(
        prefix, listed, lambda key: iter([(0, held[key])]), object_graph=graph, overwrite=True
    )
    assert codes(model) == ["fingerprint.stale"]
    (model / "fingerprint.pb").unlink()
    assert codes(model) == []
    assert any("no checksum" in text for text in verify(model).not_checked)


def test_assets(tmp_path: Path) -> None:
    model = golden(tmp_path, LOOKUP)
    words = model / "assets" / "words.txt"
    (model / "assets" / "other.txt").write_text("x")
    assert sound(verify(model))
    assert verify(model, strict=True).exit_code == 1
    words.unlink()
    assert codes(model) == ["asset.missing"]
    words.symlink_to("/etc/passwd")
    assert codes(model) == ["asset.path"]


def test_parts_of_a_saved_model_that_are_missing(tmp_path: Path) -> None:
    model = golden(tmp_path, LOOKUP)
    (model / "variables" / "variables.data-00000-of-00001").unlink()
    assert codes(model) == ["data.missing"]
    (model / "variables" / "variables.index").unlink()
    assert codes(model) == ["index.missing"]


def test_a_graph_that_was_never_written(tmp_path: Path) -> None:
    model = golden(tmp_path, LOOKUP)
    (model / "saved_model.pb").unlink()
    assert codes(model) == ["graph.missing"]
    (model / "saved_model.pb").write_bytes(b"")
    assert "graph.malformed" in codes(model)


def test_signatures_and_variables_of_another_graph(tmp_path: Path) -> None:
    model = golden(tmp_path, LOOKUP)
    path = model / "saved_model.pb"
    content = path.read_bytes()
    name = b"StatefulPartitionedCall:0"
    assert name in content
    path.write_bytes(content.replace(name, b"StatefulPartitionedCalm:0"))
    assert codes(model) == ["fingerprint.stale", "signature.missing-op"]
    other = golden(tmp_path, "tf2.21.0/saved_model_export/model/variables")
    path.write_bytes(content)
    for part in (model / "variables").iterdir():
        part.unlink()
    for part in other.iterdir():
        part.replace(model / "variables" / part.name)
    assert codes(model) == ["fingerprint.stale", "variables.missing-tensor"]


# --- other formats --------------------------------------------------------------------------------


def test_a_keras_archive(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    path = golden(tmp_path, "tf2.21.0/files_nested/model.keras")
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        places = {item.filename: item.header_offset for item in archive.infolist()}
    for name, offset in places.items():
        damaged = bytearray(content)
        damaged[offset + 30 + len(name) + 50] ^= 1
        path.write_bytes(damaged)
        found = verify(path).findings
        assert any(f.code.endswith(".checksum") for f in found), (name, found)


def test_weights_that_quantization_packed_into_fewer_bytes(tmp_path: Path) -> None:
    """Keras 3.15 keeps two units of a Dense of int4 in a byte, earlier ones two inputs."""
    pytest.importorskip("h5py")
    from support.keras_files import CONFIG, h5_bytes, layer, write_keras

    policy = {"class_name": "Int4DTypePolicy", "config": {"mode": "int4/128"}}
    config = json.loads(json.dumps(CONFIG))
    config["config"]["layers"] = [layer("Dense", "head", units=32, use_bias=True, dtype=policy)]
    for shape, bias, expected in (((16, 16), 32, []), ((8, 32), 32, []), ((16, 16), 4, ["bias"])):
        values = {
            "layers/dense/vars/0": np.ones(shape, np.int8),
            "layers/dense/vars/1": np.ones(bias, np.float32),
            "layers/dense/vars/2": np.ones(32, np.float32),
        }
        weights = h5_bytes(values=values, names={"layers/dense": "head"})
        found = verify(write_keras(tmp_path / "m.keras", weights, config)).findings
        wrong = [f.message.split()[0] for f in found if f.code == "config.shape"]
        assert wrong == expected, found


def test_config_and_weights_of_two_models(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    source = golden(tmp_path, "tf2.21.0/files_nested/model.keras")
    with zipfile.ZipFile(source) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    conv = next(item for item in config["config"]["layers"] if item["class_name"] == "Conv2D")

    def written(name: str) -> Path:
        parts["config.json"] = json.dumps(config).encode()
        target = tmp_path / name
        with zipfile.ZipFile(target, "w") as archive:
            for member, content in parts.items():
                archive.writestr(member, content)
        return target

    assert codes(written("same.keras")) == []
    conv["config"]["filters"] += 1
    assert set(codes(written("filters.keras"))) == {"config.shape"}
    conv["config"]["filters"] -= 1
    extra = json.loads(json.dumps(conv))
    extra["config"]["name"] = extra["name"] = "another"
    config["config"]["layers"].append(extra)
    assert codes(written("more.keras")) == ["config.missing-weights"]


@pytest.mark.parametrize("form", ["safetensors", "npz"])
def test_every_prefix_of_a_file(tmp_path: Path, form: str) -> None:
    tensors = corpus(["float32", "int8"])
    path = tmp_path / f"w.{form}"
    writer = write_npz if form == "npz" else write_safetensors
    writer(path, out_tensors(tensors), blocks_of(tensors))
    assert sound(verify(path))
    content = path.read_bytes()
    for size in {*range(0, len(content), 97), *range(len(content) - 30, len(content))}:
        path.write_bytes(content[:size])
        assert codes(path), size


def test_formats_without_checksums_say_so(tmp_path: Path) -> None:
    tensors = corpus(["float32"])
    path = tmp_path / "w.safetensors"
    write_safetensors(path, out_tensors(tensors), blocks_of(tensors))
    flip(path, 8 * (path.stat().st_size - 1))
    result = verify(path)
    assert result.exit_code == 0
    assert any("keeps no checksum" in text for text in result.not_checked)
    assert "keeps no checksum" in ckptkit("verify", path).out


def test_a_shard_of_a_set_that_is_missing(tmp_path: Path) -> None:
    tensors = corpus(["float32"])
    path = tmp_path / "m.safetensors.index.json"
    write_safetensors(path, out_tensors(tensors), blocks_of(tensors), shard_size=100)
    next(iter(tmp_path.glob("m-00001-*"))).unlink()
    assert codes(path) == ["data.missing"]


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16", "float8_e5m2"])
def test_values(tmp_path: Path, dtype: str) -> None:
    from ckptkit.dtypes import numpy_dtype

    kind = numpy_dtype(dtype)
    bad = np.arange(40).astype(kind)
    bad[[3, 5]] = np.nan
    bad[7] = np.inf
    tiny = np.ones(20).astype(kind)
    tiny.view(f"u{kind.itemsize}")[4] = 1  # the smallest denormal
    tensors = {
        "bad": (dtype, bad),
        "bias": (dtype, np.zeros(20).astype(kind)),
        "kernel": (dtype, np.zeros((4, 5)).astype(kind)),
        "small": (dtype, np.zeros((2, 2)).astype(kind)),
        "tiny": (dtype, tiny),
        "good": (dtype, np.arange(40).astype(kind)),
    }
    prefix = tmp_path / "ckpt"
    write_tensor_bundle(prefix, out_tensors(tensors), blocks_of(tensors))
    assert verify(prefix).findings == ()
    found = verify(prefix, values=True)
    assert {(f.severity, f.code, f.where) for f in found.findings} == {
        ("warning", "values.nan", "bad"),
        ("warning", "values.infinite", "bad"),
        ("note", "values.constant", "bias"),
        ("warning", "values.constant", "kernel"),
        ("note", "values.denormal", "tiny"),
    }
    assert "2 of 40 values are NaN" in str(found.findings)
    assert found.exit_code == 1


# --- manifests ------------------------------------------------------------------------------------


def test_a_manifest_is_read_by_sha256sum(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    prefix = write(directory / "ckpt\n1")
    manifest = tmp_path / "run.sha256"
    assert verify(prefix, new_manifest=manifest).exit_code == 0
    lines = manifest.read_text().splitlines()
    assert len(lines) == 2
    done = subprocess.run(
        ["sha256sum", "--strict", "-c", manifest.name], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done
    assert verify(prefix, manifest=manifest).exit_code == 0


def test_a_manifest_finds_what_the_format_cannot(tmp_path: Path) -> None:
    tensors = {
        "a": ("float32", np.arange(30, dtype=np.float32)),
        "b": ("float32", np.ones(30, np.float32)),
    }
    path, manifest = tmp_path / "w.safetensors", tmp_path / "w.sha256"
    write_safetensors(path, out_tensors(tensors), blocks_of(tensors))
    assert ckptkit("verify", path, "--write-manifest", manifest).code == 0
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert manifest.read_text().splitlines()[0] == f"{digest}  w.safetensors"
    assert ckptkit("verify", path, "--manifest", manifest).code == 0
    flip(path, 8 * (path.stat().st_size - 4))
    found = verify(path, manifest=manifest).findings
    assert [f.code for f in found] == ["manifest.digest", "manifest.tensor"]
    assert found[1].where.endswith(": b")


def test_files_that_a_manifest_lacks_or_misses(tmp_path: Path) -> None:
    write(tmp_path / "ckpt-1")
    write(tmp_path / "ckpt-2", 2)
    manifest = tmp_path / "all.sha256"
    verify(tmp_path, new_manifest=manifest)
    assert codes(tmp_path, manifest=manifest) == []
    for part in tmp_path.glob("ckpt-1.*"):
        part.unlink()
    assert codes(tmp_path, manifest=manifest) == ["manifest.missing"] * 2
    write(tmp_path / "ckpt-3", 3)
    assert codes(tmp_path, manifest=manifest) == ["manifest.extra"] * 2 + ["manifest.missing"] * 2


@pytest.mark.parametrize("text", ["", "# nothing\n", "abc  x\n", "0" * 64 + " x\n", "\xff"])
def test_what_is_no_manifest(tmp_path: Path, text: str) -> None:
    prefix = write(tmp_path / "ckpt")
    manifest = tmp_path / "m"
    with pytest.raises(PathNotFoundError, match="new_manifest makes one"):
        verify(prefix, manifest=manifest)
    manifest.write_bytes(text.encode("latin-1"))
    with pytest.raises(FormatError):
        verify(prefix, manifest=manifest)


# --- report and command ---------------------------------------------------------------------------


def test_the_command_and_its_reports(tmp_path: Path) -> None:
    good, bad = write(tmp_path / "good"), write(tmp_path / "bad", 2)
    flip(data(bad), 5)
    run = ckptkit("verify", good, bad)
    assert run.code == 1
    assert f"{good}: sound (4 tensors, 1.33 kB read)" in run.out
    assert "error: bad.data-00000-of-00001: steps: stored checksum 0x" in run.out
    assert "[tensor.checksum]" in run.out
    [document] = json_results("verify", bad)
    assert document["schema"] == "ckptkit.verify/2"
    assert document["counts"] == {"error": 1, "warning": 0, "note": 0}
    assert document["exit_code"] == 1
    both = json_results("verify", good, bad)
    assert [item["exit_code"] for item in both] == [0, 1]
    target = tmp_path / "verify.xml"
    run = ckptkit("verify", good, bad, "--format", "junit", "-o", target)
    assert run.out == ""
    assert "bad: 1 error (4 tensors" in run.err
    suites = ElementTree.parse(target).getroot()
    assert [suite.get("failures") for suite in suites] == ["0", "1"]
    assert {case.get("name") for case in suites[1]} == {"index", "data files", "checksums"}
    assert ckptkit("verify", bad, "-q").out == ""
    assert "ok  index: 4 tensors" in ckptkit("verify", good, "-v").out


def test_findings_win_over_what_could_not_be_told(tmp_path: Path) -> None:
    good, bad = write(tmp_path / "good"), write(tmp_path / "bad", 2)
    flip(data(bad), 5)
    assert ckptkit("verify", good, tmp_path / "none").code == 2
    assert ckptkit("verify", bad, tmp_path / "none").code == 1
    assert "manifest goes with one operand" in ckptkit("verify", good, bad, "--manifest", ".").err


def test_names_are_printed_escaped_and_exact_in_json(tmp_path: Path) -> None:
    name = "\x1b]0;owned\x07\u202egpj\n"
    tensors = {name: ("int8", np.ones(3, np.int8))}
    prefix = tmp_path / "ckpt"
    write_tensor_bundle(prefix, out_tensors(tensors), blocks_of(tensors))
    flip(data(prefix), 3)
    out = ckptkit("verify", prefix).out
    assert "\\x1b]0;owned\\x07\\u202egpj\\n" in out
    assert all(char.isprintable() or char == "\n" for char in out)
    finding = json_results("verify", prefix)[0]["units"][0]["findings"]
    assert finding[0]["where"].endswith(name)


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    prefix = write(tmp_path / "ckpt")

    def progress(phase: str, done: int, total: int) -> None:
        after_a_tick(data(prefix)).touch()

    result = verify(prefix, progress=progress)
    assert result.exit_code == 2
    assert [str(error.message) for error in result.refusals] == ["changed while it was read"]


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    prefix = write(tmp_path / "ckpt")
    seen: list[tuple[int, int]] = []
    verify(prefix, progress=lambda phase, done, total: seen.append((done, total)))
    assert seen
    assert seen[-1][0] <= seen[-1][1]


def test_verify_is_a_function_of_the_package(tmp_path: Path) -> None:
    assert package.verify(write(tmp_path / "ckpt")).exit_code == 0


def test_salvage(tmp_path: Path) -> None:
    prefix = write(tmp_path / "ckpt", shard_size=400)
    shards = sorted(tmp_path.glob("ckpt.data-*"))
    flip(shards[1], 100)
    cut(shards[2], 3)
    out = tmp_path / "rescued.safetensors"
    run = ckptkit("convert", prefix, out, "--salvage")
    assert run.code == 1
    assert "lost: dense/kernel: its checksum does not hold" in run.err
    assert "lost: words: ckpt.data-00002-of-00003 ends before it, at byte 3" in run.err
    rescued = package.load(out)
    whole = package.load(write(tmp_path / "same"))
    assert set(rescued) == {"dense/bias", "steps"}
    for key, values in rescued.items():
        assert values.tobytes() == whole[key].tobytes()
    assert ckptkit("convert", write(tmp_path / "fine"), tmp_path / "f.npz", "--salvage").code == 0


def test_what_cannot_be_salvaged(tmp_path: Path) -> None:
    prefix = write(tmp_path / "ckpt")
    data(prefix).unlink()
    assert "nothing can be rescued" in refused("convert", prefix, tmp_path / "o.npz", "--salvage")
    tensors = corpus(["float32"])
    path = tmp_path / "w.safetensors"
    write_safetensors(path, out_tensors(tensors), blocks_of(tensors))
    assert "no checksum for each" in refused("convert", path, tmp_path / "o.npz", "--salvage")


# --- what TensorFlow cannot take ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"dtype": 0}, "tensor.dtype"),
        ({"dtype": 99}, "tensor.dtype"),
        ({"dtype": -1}, "tensor.dtype"),
        ({"dtype": 20}, "tensor.dtype"),
        ({"shape": (0, 1 << 62), "size": 0, "crc32c": 0xA282EAD8}, "tensor.shape"),
        ({"shape": (1,) * 70 + (2,)}, "tensor.shape"),
        ({"shape": (0,), "size": 0, "crc32c": 5}, "tensor.checksum"),
    ],
)
def test_entries_that_list_well_and_that_tensorflow_cannot_read(
    tmp_path: Path, fields: dict[str, Any], code: str
) -> None:
    """TensorFlow 2.21 ends the whole process on some of these, and raises on the others."""
    from support.crafted import entry, header, table

    content = np.arange(2, dtype=np.float32).tobytes()
    good: dict[str, Any] = {"crc32c": _crc32c.mask(_crc32c.value(content))}
    prefix = tmp_path / "c"
    data(prefix).write_bytes(content)
    index(prefix).write_bytes(table({b"": header(), b"a": entry(**good)}))
    assert codes(prefix) == []
    index(prefix).write_bytes(table({b"": header(), b"a": entry(**good), b"b": entry(**fields)}))
    assert code in codes(prefix)


def test_keys_that_are_no_text(tmp_path: Path) -> None:
    from support.crafted import entry, header, table

    content = np.arange(2, dtype=np.float32).tobytes()
    good = entry(crc32c=_crc32c.mask(_crc32c.value(content)))
    prefix = tmp_path / "c"
    data(prefix).write_bytes(content)
    index(prefix).write_bytes(table({b"": header(), b"\\x": good}))
    assert codes(prefix) == []
    index(prefix).write_bytes(table({b"": header(), b"caf\xe9": good}))
    assert codes(prefix) == ["index.key"]


# --- what a person may do wrong -------------------------------------------------------------------


def test_findings_name_tensors_readably(tmp_path: Path) -> None:
    prefix = golden(tmp_path, "tf2.21.0/adam/ckpt")
    names = {n.name: key for key, n in package.open(prefix).names.items()}
    spec = package.open(prefix).specs[names["hidden/kernel@momentum"]]
    assert spec.offset is not None
    flip(data(prefix), 8 * spec.offset)
    (finding,) = verify(prefix).findings
    assert (finding.key, finding.name) == (spec.key, "hidden/kernel@momentum")
    assert f"{spec.key} (hidden/kernel@momentum): stored checksum" in ckptkit("verify", prefix).out
    row = json_results("verify", prefix)[0]["units"][0]["findings"][0]
    assert (row["key"], row["name"]) == (spec.key, "hidden/kernel@momentum")
    lost = ckptkit("convert", prefix, tmp_path / "o.npz", "--salvage").err
    assert f"lost: {spec.key} (hidden/kernel@momentum): its checksum" in lost


def test_names_where_the_graph_is_damaged_too(tmp_path: Path) -> None:
    prefix = golden(tmp_path, "tf2.21.0/adam/ckpt")
    specs = package.open(prefix).specs
    flip(data(prefix), 8 * (specs["_CHECKPOINTABLE_OBJECT_GRAPH"].offset or 0) + 80)
    victim = next(spec for spec in specs.values() if spec.nbytes == 48)
    flip(data(prefix), 8 * (victim.offset or 0))
    result = verify(prefix)
    assert [f.code for f in result.findings] == ["tensor.checksum"] * 2
    assert result.findings[0].name == victim.key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")
    assert any("the graph cannot be read" in text for text in result.not_checked)


def test_no_input_is_overwritten_by_a_report_or_manifest(tmp_path: Path) -> None:
    prefix = write(tmp_path / "ckpt")
    before = index(prefix).read_bytes(), data(prefix).read_bytes()
    for option in ("--output", "--write-manifest"):
        for path in (index(prefix), data(prefix)):
            assert str(path) in refused("verify", prefix, option, path)
    assert (index(prefix).read_bytes(), data(prefix).read_bytes()) == before
    manifest = tmp_path / "m"
    manifest.touch()
    for _ in range(2):
        assert ckptkit("verify", prefix, "--write-manifest", manifest).code == 0


def test_files_of_a_manifest_that_were_not_given(tmp_path: Path) -> None:
    write(tmp_path / "ckpt-1")
    write(tmp_path / "ckpt-2", 2)
    manifest = tmp_path / "all.sha256"
    verify(tmp_path, new_manifest=manifest)
    result = verify(tmp_path / "ckpt-1", manifest=manifest)
    assert result.exit_code == 0
    assert any("2 files of the manifest" in text for text in result.not_checked)


def test_odd_entries_of_a_directory_are_not_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "ckpt-1")
    os.mkfifo(tmp_path / "pipe.keras")
    (tmp_path / "broken.npz").symlink_to("nowhere")
    (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
    (tmp_path / "more").mkdir()
    result = verify(tmp_path)
    assert {Path(f.where).name for f in result.findings} == {
        "pipe.keras",
        "broken.npz",
        "zero.safetensors",
    }
    assert any("1 directory" in text and "more" in text for text in result.not_checked)


@pytest.mark.parametrize("whole", [False, True])
def test_a_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    """A bad sector costs the tensors that lie on it; the others are compared, and rescued."""
    tensors = {f"t{i}": ("int32", np.full(30_000, i, np.int32)) for i in range(5)}
    prefix = tmp_path / "ckpt"
    write_tensor_bundle(prefix, out_tensors(tensors), blocks_of(tensors))
    preadv, size = os.preadv, data(prefix).stat().st_size

    def failing(fd: int, buffers: list[Any], offset: int) -> int:
        nbytes = sum(len(memoryview(buffer).cast("B")) for buffer in buffers)
        bad = whole or offset < 250_000 < offset + nbytes
        if bad and os.fstat(fd).st_size == size:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", failing)
    result = verify(prefix)
    assert [f.code for f in result.findings] == ["tensor.unreadable"] * (5 if whole else 1)
    assert whole or result.findings[0].key == "t2"
    assert "Input/output error" in result.findings[0].message
    run = ckptkit("convert", prefix, tmp_path / "o.npz", "--salvage")
    assert run.code == (2 if whole else 1)
    monkeypatch.undo()
    if not whole:
        assert set(package.load(tmp_path / "o.npz")) == {"t0", "t1", "t3", "t4"}


def test_one_file_that_changes_does_not_hide_the_others(tmp_path: Path) -> None:
    for number in (1, 2):
        write(tmp_path / f"ckpt-{number}", number)

    def progress(phase: str, done: int, total: int) -> None:
        after_a_tick(data(tmp_path / "ckpt-2")).touch()
        (tmp_path / "ckpt-3.data-00000-of-00001").touch()  # a save goes on beside

    result = verify(tmp_path, progress=progress)
    assert [unit.path.name for unit in result.units if unit.refusal is not None] == ["ckpt-2"]
    assert result.units[1].tensors == 4
