"""Every store goes to another process as a format and a path, and is opened there once."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import ckptkit
from ckptkit._io import file_states
from ckptkit._io.file_states import file_state, path_in_state, unchanged
from ckptkit._io.files import read_exact
from ckptkit._io.workers import UnsuitableWorkerError
from ckptkit.align.transforms import parse_transform
from ckptkit.errors import ChangedError, ChecksumError, PathNotFoundError
from ckptkit.operations.convert import value_stores
from ckptkit.operations.verify.api import verify
from ckptkit.stores.base import Store
from ckptkit.stores.npz.reader import open_npz
from ckptkit.stores.npz.writer import write_npz
from ckptkit.stores.proto.messages import message_class
from ckptkit.stores.pytorch.detection import MAGIC
from ckptkit.stores.registry import FORMATS, open_format
from ckptkit.stores.reopening import STORES_KEPT, forget_stores, reopen
from ckptkit.stores.safetensors.writer import write_safetensors
from ckptkit.stores.tensor_bundle.reader import open_bundle
from ckptkit.stores.tensor_bundle.recovery import survey
from support import keras_files, ocdbt_bytes
from support.checkpoint_v1 import write_v1
from support.flatbuffer_bytes import Constant, litert_model
from support.goldens import GOLDEN
from support.in_workers import believe_fresh_files, content, identity, read
from support.ocdbt_bytes import Place
from support.proto_bytes import onnx_model, onnx_tensor
from support.ticks import after_a_tick
from support.values import blocks_of, out_tensors
from support.weights import Array, write_bundle

COUNT = 300  # tensors: by value, the smallest of these stores would take 15 kB
LARGEST = 1000  # bytes of a pickled store, beside its path
OVERHEAD = 600  # bytes more that a store takes which is computed from another


def values(fill: int) -> dict[str, Array]:
    """Return tensors whose sizes do not depend on `fill`, only their values do."""
    return {
        f"layers/dense_{number}/vars/0": np.full((2, 3), fill + number, np.float32)
        for number in range(COUNT)
    }


def _h5(path: Path, fill: int, **options: Any) -> Path:
    names = {key.removesuffix("/vars/0"): key.split("/")[1] for key in values(fill)}
    keras_files.write_h5(path, values(fill), names, **options)
    return path


def _legacy(path: Path, fill: int) -> Path:
    with h5py.File(path, "w") as file:
        layers = {key.split("/")[1]: array for key, array in values(fill).items()}
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        file.attrs["keras_version"] = "2.15.0"
        for layer, array in layers.items():
            file.create_group(layer).attrs["weight_names"] = [f"{layer}/kernel:0".encode()]
            file[layer][f"{layer}/kernel:0"] = array
    return path


def _keras(path: Path, fill: int) -> Path:
    inner = _h5(path.with_suffix(".h5"), fill)
    keras_files.write_keras(path, inner.read_bytes())
    inner.unlink()
    return path


def _weights_json(path: Path, fill: int) -> Path:
    _h5(path.with_name("model_00000.weights.h5"), fill)
    text = '{"metadata": {"total_size": 1}, "weight_map": {"/layers": "model_00000.weights.h5"}}'
    path.write_text(text, "utf-8")
    return path


def _neutral(path: Path, fill: int, write: Callable[..., Any], **options: Any) -> Path:
    tensors = {key: ("float32", array) for key, array in values(fill).items()}
    write(path, out_tensors(tensors), blocks_of(tensors), **options)
    return path


def _saved_model(path: Path, fill: int) -> Path:
    model = GOLDEN / "tf2.21.0" / "module_saved_model" / "model"
    (path / "variables").mkdir(parents=True)
    shutil.copy(model / "saved_model.pb", path)
    write_bundle(path / "variables" / "variables", values(fill))
    return path


def _v1(path: Path, fill: int) -> Path:
    return write_v1(path, {key: (array.shape, array) for key, array in values(fill).items()})


def _graph(path: Path, fill: int) -> Path:
    graph = message_class("GraphDef")()
    for key, array in values(fill).items():
        tensor = graph.node.add(name=key, op="Const").attr["value"].tensor
        tensor.dtype = 1
        for size in array.shape:
            tensor.tensor_shape.dim.add(size=size)
        tensor.tensor_content = array.tobytes()
    path.write_bytes(graph.SerializeToString())
    return path


def _pickled_tensors(fill: int) -> bytes:
    """Return what torch.save pickles of a dict of tensors, in the form of protocol 0."""
    items = []
    for number, (key, array) in enumerate(values(fill).items()):
        storage = f"(Vstorage\nctorch\nFloatStorage\nV{number}\nVcpu\nI{array.size}\ntQ"
        shape = "".join(f"I{size}\n" for size in array.shape)
        steps = "".join(f"I{step // array.itemsize}\n" for step in array.strides)
        call = f"ctorch._utils\n_rebuild_tensor_v2\n({storage}I0\n({shape}t({steps}tI00\nNtR"
        items.append(f"V{key}\n{call}s")
    return ("}" + "".join(items) + ".").encode()


def _pytorch(path: Path, fill: int) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for number, array in enumerate(values(fill).values()):
            archive.writestr(f"archive/data/{number}", array.tobytes())
        archive.writestr("archive/data.pkl", _pickled_tensors(fill))
    return path


def _old_pytorch(path: Path, fill: int) -> Path:
    arrays = [*values(fill).values()]
    keys = pickle.dumps([str(number) for number in range(len(arrays))], 2)
    parts = [MAGIC, pickle.dumps(1001, 2), pickle.dumps({}, 2), _pickled_tensors(fill), keys]
    parts += [array.size.to_bytes(8, "little") + array.tobytes() for array in arrays]
    path.write_bytes(b"".join(parts))
    return path


def _pytorch_index(path: Path, fill: int) -> Path:
    shard = _pytorch(path.with_name("pytorch_model-00001-of-00001.bin"), fill)
    weight_map = dict.fromkeys(values(fill), shard.name)
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), "utf-8")
    return path


def _litert(path: Path, fill: int) -> Path:
    tensors = values(fill).items()
    parts = (Constant(key, 0, array.shape, array.tobytes()) for key, array in tensors)
    path.write_bytes(litert_model(*parts))
    return path


def _onnx(path: Path, fill: int) -> Path:
    tensors = values(fill).items()
    parts = [onnx_tensor(key, 1, array.shape, array.tobytes()) for key, array in tensors]
    path.write_bytes(onnx_model(*parts))
    return path


def _orbax(path: Path, fill: int) -> Path:
    """Write a database of OCDBT whose values lie in its data file, before the tree."""
    array: dict[str, Any] = {"shape": [2, 3], "chunks": [2, 3], "dtype": "<f4", "order": "C"}
    array |= {"compressor": None, "filters": None, "fill_value": None, "zarr_format": 2}
    metadata = json.dumps(array).encode()
    stored: dict[bytes, bytes | Place] = {}
    data = b""
    for key, tensor in values(fill).items():
        stored[f"{key}/.zarray".encode()] = metadata
        stored[f"{key}/0.0".encode()] = Place(0, len(data), tensor.nbytes)
        data += tensor.tobytes()
    node = ocdbt_bytes.leaf(dict(sorted(stored.items())), ["d/0"])
    return ocdbt_bytes.database(path, data + node, Place(0, len(data), len(node)), 0)


# Per format: what its path is called, and who writes it there.
WRITERS: dict[str, tuple[str, Callable[[Path, int], Path]]] = {
    "h5": ("model.h5", _legacy),
    "keras": ("model.keras", _keras),
    "npz": ("model.npz", partial(_neutral, write=write_npz)),
    "safetensors": ("model.safetensors", partial(_neutral, write=write_safetensors)),
    "safetensors-index": (
        "model.safetensors.index.json",
        partial(_neutral, write=write_safetensors, shard_size=4000),
    ),
    "pytorch": ("model.pt", _pytorch),
    "pytorch-old": ("old.pt", _old_pytorch),
    "pytorch-index": ("pytorch_model.bin.index.json", _pytorch_index),
    "orbax": ("checkpoint", _orbax),
    "saved-model": ("export", _saved_model),
    "tensor-bundle": ("ckpt", lambda path, fill: write_bundle(path, values(fill))),
    "checkpoint-v1": ("model.ckpt-1", _v1),
    "frozen-graph": ("frozen.pb", _graph),
    "weights.h5": ("model.weights.h5", _h5),
    "weights.json": ("model.weights.json", _weights_json),
    "tflite": ("model.tflite", _litert),
    "onnx": ("model.onnx", _onnx),
}


FROM_MEMORY = ("frozen-graph",)  # read whole when it is opened


def written(format_name: str, folder: Path, fill: int) -> Path:
    folder.mkdir()
    name, write = WRITERS[format_name]
    return write(folder / name, fill)


def replace_files(old: Path, new: Path) -> None:
    """Put each file of folder `new` in the place of the one of that name in folder `old`."""
    for file in [path for path in new.rglob("*") if path.is_file()]:
        file.replace(old / file.relative_to(new))


def rewrite_files(old: Path, new: Path) -> None:
    """Write the bytes of `new` into the files of `old`: same inode, same size, same times."""
    for file in [path for path in new.rglob("*") if path.is_file()]:
        target = old / file.relative_to(new)
        status = target.stat()
        assert file.stat().st_size == status.st_size
        after_a_tick(target).write_bytes(file.read_bytes())
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture(scope="module")
def worker() -> Iterator[Executor]:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="module")
def keeping_worker() -> Iterator[Executor]:
    with ProcessPoolExecutor(1, get_context("spawn"), believe_fresh_files) as pool:
        yield pool


# --- every format ---------------------------------------------------------------------------------


def test_every_format_is_here() -> None:
    assert list(WRITERS) == [name for name, row in FORMATS.built_in.items() if row.is_readable]


@pytest.mark.parametrize("format_name", WRITERS)
def test_a_store_is_as_small_as_its_path(format_name: str, tmp_path: Path) -> None:
    store = open_format(format_name, written(format_name, tmp_path / "a", 1))
    assert len(store.specs) == COUNT
    assert len(pickle.dumps(store)) < LARGEST + len(str(store.path))
    checkpoint = ckptkit.open(store.path)
    assert len(pickle.dumps(checkpoint)) < LARGEST + OVERHEAD + len(str(store.path))


@pytest.mark.parametrize("format_name", WRITERS)
def test_a_store_holds_the_same_in_another_process(
    format_name: str, tmp_path: Path, worker: Executor
) -> None:
    store = open_format(format_name, written(format_name, tmp_path / "a", 1))
    assert worker.submit(content, store).result() == content(store)


@pytest.mark.parametrize("replace", [replace_files, rewrite_files])
@pytest.mark.parametrize("format_name", WRITERS)
def test_a_file_that_changed_between_two_tasks_is_not_read_on(
    format_name: str, replace: Callable[[Path, Path], None], tmp_path: Path, worker: Executor
) -> None:
    path = written(format_name, tmp_path / "a", 1)
    store = open_format(format_name, path)
    before = worker.submit(content, store).result()
    expected = content(open_format(format_name, written(format_name, tmp_path / "b", 2)))
    assert expected != before
    replace(tmp_path / "a", tmp_path / "b")
    with pytest.raises(ChangedError, match="changed while it was read"):
        worker.submit(content, store).result()
    assert worker.submit(content, open_format(format_name, path)).result() == expected


@pytest.mark.parametrize("replace", [replace_files, rewrite_files])
@pytest.mark.parametrize("format_name", WRITERS)
def test_what_is_open_is_not_read_on_in_a_file_that_changed(
    format_name: str, replace: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    path = written(format_name, tmp_path / "a", 1)
    checkpoint = ckptkit.open(path)
    store, [first, *_, last] = checkpoint.store, checkpoint
    old = checkpoint[first].copy()
    written(format_name, tmp_path / "b", 2)
    replace(tmp_path / "a", tmp_path / "b")
    if format_name in FROM_MEMORY:
        assert checkpoint[last].shape == old.shape
        return
    for _ in range(2):
        with pytest.raises(ChangedError, match="changed while it was read"):
            checkpoint[last]
    with pytest.raises(ChangedError):
        list(store.blocks(checkpoint.key(last)))
    assert (ckptkit.open(path)[first] != old).all()


@pytest.mark.parametrize("format_name", WRITERS)
def test_a_kept_store_is_let_go_when_its_files_are_replaced(
    format_name: str, tmp_path: Path, keeping_worker: Executor
) -> None:
    path = written(format_name, tmp_path / "a", 1)
    store = open_format(format_name, path)
    ids = [keeping_worker.submit(identity, store).result() for _ in range(3)]
    assert len(set(ids)) == 1  # opened once
    expected = content(open_format(format_name, written(format_name, tmp_path / "b", 2)))
    replace_files(tmp_path / "a", tmp_path / "b")
    assert keeping_worker.submit(content, open_format(format_name, path)).result() == expected


def test_a_state_of_another_machine_is_told_by_size_and_time(tmp_path: Path) -> None:
    path = written("npz", tmp_path / "a", 1)
    store = open_format("npz", path)
    state = file_state(path)
    assert state is not None
    moved = state._replace(inode=7, changed_ns=7)
    assert content(reopen(open_npz, unchanged(path), (moved,), "elsewhere")) == content(store)
    with pytest.raises(ChangedError):
        content(reopen(open_npz, unchanged(path), (moved,), None))
    # A worker elsewhere that sees another file says nothing about the content of this one.
    with pytest.raises(UnsuitableWorkerError, match=r"does not find .*model\.npz as it is here"):
        content(reopen(open_npz, unchanged(path), (moved._replace(modified_ns=7),), "elsewhere"))
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(UnsuitableWorkerError):
        content(reopen(open_npz, path, (moved,), "elsewhere"))
    with pytest.raises(UnsuitableWorkerError):
        read_exact(path_in_state(str(path), moved, "elsewhere"), 0, 1)


def test_other_tensors_in_the_place_of_the_file_are_noticed(
    tmp_path: Path, worker: Executor
) -> None:
    store = open_bundle(write_bundle(tmp_path / "c", {"v": np.arange(3, dtype=np.float32)}))
    (tmp_path / "new").mkdir()
    write_bundle(tmp_path / "new" / "c", {"w": np.arange(5, dtype=np.float32)})
    replace_files(tmp_path, tmp_path / "new")
    with pytest.raises(ChangedError):
        worker.submit(read, store, "v").result()


@pytest.mark.parametrize("format_name", WRITERS)
def test_a_file_that_is_gone_is_an_error_and_the_worker_lives(
    format_name: str, tmp_path: Path, worker: Executor
) -> None:
    store = open_format(format_name, written(format_name, tmp_path / "a", 1))
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(PathNotFoundError):
        worker.submit(content, store).result()
    assert worker.submit(len, "alive").result() == 5


# --- the cache ------------------------------------------------------------------------------------


def test_a_store_of_old_files_is_opened_once(worker: Executor) -> None:
    path = GOLDEN / "tf2.21.0" / "files_nested" / "model.keras"
    store = ckptkit.open(path).store
    assert len({worker.submit(identity, store).result() for _ in range(3)}) == 1


def test_the_cache_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_states, "_SETTLED_NS", 0)
    forget_stores()
    paths = [
        write_bundle(tmp_path / f"c{number}", {"v": np.zeros(1, np.float32)})
        for number in range(STORES_KEPT + 1)
    ]
    first, *_others, last = [reopen(open_bundle, path) for path in paths]
    assert reopen(open_bundle, paths[-1]) is last
    assert reopen(open_bundle, paths[0]) is not first
    forget_stores()
    assert reopen(open_bundle, paths[-1]) is not last


# --- stores that are made from stores -------------------------------------------------------------


def computed(store: Store) -> dict[str, value_stores.ValueSource]:
    """Return a tensor of each kind of computed store."""
    keys = list(store.specs)[:2]
    origins = [value_stores.ValueSource(store, key) for key in keys]
    return {
        "plain": origins[0],
        "cast": value_stores.cast_source(origins[0], "bfloat16"),
        "average": value_stores.mean_source(origins),
        "moved": value_stores.transform_source([(origins[0], parse_transform(["transpose"]))]),
        "made": value_stores.constant_source("step", "int64", 3),
    }


@pytest.mark.parametrize("kind", ["plain", "cast", "average", "moved", "made"])
def test_a_computed_store_is_small_and_computes_the_same(
    kind: str, tmp_path: Path, worker: Executor
) -> None:
    store, key = computed(open_format("keras", written("keras", tmp_path / "a", 1)))[kind]
    assert len(pickle.dumps(store)) < LARGEST + OVERHEAD + 2 * len(str(tmp_path))
    assert worker.submit(read, store, key).result().tolist() == store.read(key).tolist()


def test_a_subtree_travels(tmp_path: Path, worker: Executor) -> None:
    checkpoint = ckptkit.open(f"{GOLDEN / 'tf2.21.0' / 'adam' / 'ckpt'}#model")
    assert worker.submit(list, checkpoint).result() == list(checkpoint)


def test_what_is_left_of_a_damaged_bundle_travels(tmp_path: Path, worker: Executor) -> None:
    prefix = write_bundle(tmp_path / "c", values(1))
    index = tmp_path / "c.index"
    data = bytearray(index.read_bytes())
    data[100] ^= 1
    index.write_bytes(data)
    with pytest.raises(ChecksumError):
        open_bundle(prefix)
    rest = survey(prefix).bundle
    assert len(rest.specs) < COUNT
    assert worker.submit(content, rest).result() == content(rest)


@pytest.mark.parametrize("format_name", WRITERS)
def test_verify_in_a_worker_says_what_it_says_here(
    format_name: str, tmp_path: Path, worker: Executor
) -> None:
    path = written(format_name, tmp_path / "a", 1)
    assert verify(path, values=True, executor=worker) == verify(path, values=True)


@pytest.mark.parametrize("format_name", WRITERS)
def test_a_relative_path_is_found_from_another_directory(
    format_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker of a cluster is in a directory of its own."""
    path = written(format_name, tmp_path / "a", 1)
    monkeypatch.chdir(tmp_path)
    store = open_format(format_name, path.relative_to(tmp_path))
    expected, sent = content(store), pickle.dumps(store)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    forget_stores()
    assert content(pickle.loads(sent)) == expected
