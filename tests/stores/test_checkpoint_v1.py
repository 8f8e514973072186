"""Checkpoints of the V1 format, written by the installed TensorFlow and read by both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ckptkit
from ckptkit.errors import CkptkitError, FormatError
from ckptkit.stores.tensor_bundle.v1_reader import open_checkpoint_v1
from support.command_line import ckptkit as run
from support.command_line import refused
from support.goldens import golden
from support.scripts import run_script

needs_tf = pytest.mark.needs_tf


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders single, sharded (V1) and v2, of the same variables, of every dtype that V1 takes."""
    folder = tmp_path_factory.mktemp("v1")
    run_script("-m", "support.make_checkpoint_v1", folder)
    return folder


@needs_tf
@pytest.mark.parametrize("operand", ["single/model.ckpt-1", "sharded/model.ckpt-1"])
def test_all_values_are_those_that_were_saved(saved: Path, operand: str) -> None:
    """The V2 checkpoint of the same session is what TensorFlow's own reader reads."""
    from ckptkit.runners.tensorflow.module import tensorflow

    reader = tensorflow().train.load_checkpoint(str(saved / "v2/model.ckpt-1"))
    store = ckptkit.open(saved / operand).store
    shapes = reader.get_variable_to_shape_map()
    assert store.format == "checkpoint-v1"
    assert {key: list(spec.shape) for key, spec in store.specs.items()} == shapes
    for key, spec in store.specs.items():
        theirs = np.asarray(reader.get_tensor(key))
        ours = store.read(key).reshape(spec.shape)
        whole = [values for _start, values in store.blocks(key, 7)]
        assert ours.tolist() == theirs.tolist(), key
        assert spec.dtype == reader.get_variable_to_dtype_map()[key].name
        assert [x for block in whole for x in block.tolist()] == theirs.reshape(-1).tolist(), key


@needs_tf
@pytest.mark.parametrize(
    ("operand", "shown"),
    [
        ("single", "single/model.ckpt-1"),
        ("single/checkpoint", "single/model.ckpt-1"),
        ("single/model.ckpt-1.meta", "single/model.ckpt-1"),
        ("sharded", "sharded/model.ckpt-1"),
        ("sharded/checkpoint", "sharded/model.ckpt-1"),
        ("sharded/model.ckpt-1.meta", "sharded/model.ckpt-1"),
        ("sharded/model.ckpt-1-00001-of-00002", "sharded/model.ckpt-1"),
        ("sharded/model.ckpt-1-?????-of-00002", "sharded/model.ckpt-1"),
        ("sharded/model.ckpt-1#wide", "sharded/model.ckpt-1"),
    ],
)
def test_every_path_leads_to_it(saved: Path, operand: str, shown: str) -> None:
    result = run("ls", saved / operand)
    assert result.code == 0, result
    assert f"{saved / shown}: checkpoint-v1, name-based" in result.out
    assert "wide" in result.out


@needs_tf
def test_it_is_compared_converted_and_verified(saved: Path, tmp_path: Path) -> None:
    for folder in ("single", "sharded"):
        assert run("diff", saved / folder, saved / "v2", "--role", "all").code == 0
        verified = run("verify", saved / folder)
        assert verified.code == 0
        count = len(ckptkit.open(saved / folder).specs)
        assert f"model.ckpt-1: sound ({count} tensors" in verified.out
    converted = run("convert", saved / "sharded", tmp_path / "new", "--to", "tensor-bundle")
    assert converted.code == 0, converted
    assert run("diff", tmp_path / "new", saved / "v2", "--role", "all").code == 0
    assert set(ckptkit.open(tmp_path / "new").specs) == set(ckptkit.open(saved / "v2").specs)


@needs_tf
def test_roles_and_parts_are_told(saved: Path) -> None:
    listing = ckptkit.ls(saved / "sharded")
    roles = {naming.name: naming.role for _spec, naming in listing.tensors}
    assert roles["wide"] == "weight"
    assert roles["wide@m"] == "slot"
    assert roles["global_step"] == "counter"
    assert "shards 2/2" in run("ls", saved / "sharded").out


@needs_tf
def test_a_missing_shard_costs_what_lay_in_it(saved: Path, tmp_path: Path) -> None:
    part = tmp_path / "model.ckpt-1-00001-of-00002"
    part.write_bytes((saved / "sharded" / part.name).read_bytes())
    prefix = tmp_path / "model.ckpt-1"
    listed = run("ls", prefix)
    assert listed.code == 2
    assert "wide" in listed.out
    assert "rows" not in listed.out
    assert "model.ckpt-1-00000-of-00002: this data file is missing" in listed.err
    verified = run("verify", prefix)
    assert verified.code == 1
    assert "model.ckpt-1-00000-of-00002" in verified.out
    assert "no checkpoint is complete" in run("ls", tmp_path).out


@needs_tf
def test_two_sets_of_shards_are_both_named(saved: Path, tmp_path: Path) -> None:
    data = (saved / "single/model.ckpt-1").read_bytes()
    for name in ("m-00000-of-00001", "m-00000-of-00002"):
        (tmp_path / name).write_bytes(data)
    assert "one of 1 and one of 2" in refused("ls", tmp_path / "m")


@needs_tf
def test_every_flipped_byte_is_seen(saved: Path, tmp_path: Path) -> None:
    """Blocks have checksums, and so nothing of a V1 file can change unseen but padding."""
    whole = (saved / "sharded/model.ckpt-1-00000-of-00002").read_bytes()
    path = tmp_path / "damaged"
    for at in range(0, len(whole), max(1, len(whole) // 150)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        with pytest.raises(CkptkitError):
            _read_all(path)


@needs_tf
def test_a_file_that_was_cut_is_refused(saved: Path, tmp_path: Path) -> None:
    whole = (saved / "sharded/model.ckpt-1-00000-of-00002").read_bytes()
    path = tmp_path / "cut"
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(CkptkitError):
            _read_all(path)


def _read_all(path: Path) -> None:
    store = open_checkpoint_v1(path)
    for key in store.specs:
        for _block in store.blocks(key):
            pass


def test_the_golden_of_an_old_tensorflow_is_read() -> None:
    store = ckptkit.open(golden("tf2.12.1/single_file/model.ckpt").path).store
    assert {key: (spec.dtype, spec.shape) for key, spec in store.specs.items()} == {
        "w": ("float32", (2, 2))
    }
    assert np.isfinite(store.read("w")).all()


def test_shards_that_are_other_files_are_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "train-00000-of-00002").write_bytes(b"records of something else" * 9)
    assert "no such file" in refused("ls", tmp_path / "train")


def test_it_is_not_written(tmp_path: Path) -> None:
    source = golden("tf2.12.1/single_file/model.ckpt").path
    assert "ckptkit cannot write" in refused(
        "convert", source, tmp_path / "x", "--to", "checkpoint-v1"
    )


def test_a_value_of_the_wrong_length_is_refused(tmp_path: Path) -> None:
    """A crafted table: three elements are promised, two are there."""
    from support.checkpoint_v1 import write_v1

    path = write_v1(tmp_path / "lie", {"w": ((3,), [1.0, 2.0])})
    with pytest.raises(FormatError, match="stored elements: expected 3, found 2"):
        open_checkpoint_v1(path).read("w")
    fine = write_v1(tmp_path / "fine", {"w": ((2,), [1.0, 2.0])})
    assert open_checkpoint_v1(fine).read("w").tolist() == [1.0, 2.0]
