"""`verify --sample`: a few tensors of what is too large to be read, and all that frames them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptkit.errors import UsageError
from ckptkit.operations.verify.api import verify
from ckptkit.stores.tensor_bundle.writer import write_tensor_bundle
from ckptkit.stores.writing import TensorToWrite
from support import measured
from support.command_line import ckptkit
from support.goldens import golden
from support.keras_files import write_keras
from support.sparse_bundle import NBYTES, write_sparse


def test_a_sample_is_read_and_the_rest_is_said(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "c", 40, 4)
    done = verify(path, sample=5)
    assert (done.exit_code, done.units[0].tensors, done.units[0].nbytes) == (0, 5, 5 * NBYTES)
    assert done.units[0].not_checked == (
        "the values of 35 tensors of 40: a sample was read (seed 0)",
    )


def test_damage_is_found_where_it_is_drawn(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "c", 12, 2, wrong=(7,))
    codes = [verify(path, sample=3, seed=seed).exit_code for seed in range(20)]
    assert codes == [verify(path, sample=3, seed=seed).exit_code for seed in range(20)]
    assert set(codes) == {0, 1}
    assert [verify(path, sample=count).exit_code for count in (12, 99)] == [1, 1]


def test_what_frames_the_values_is_checked_whole(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "c", 12, 3)
    shard = tmp_path / "c.data-00001-of-00003"
    shard.write_bytes(bytes(4 * NBYTES - 1))
    assert "data.truncated" in {f.code for f in verify(path, sample=1).units[0].findings}
    shard.unlink()
    assert "data.missing" in {f.code for f in verify(path, sample=1).units[0].findings}


def test_a_sample_of_other_formats(tmp_path: Path) -> None:
    keras = verify(write_keras(tmp_path / "m.keras"), sample=1)
    assert (keras.exit_code, keras.units[0].tensors) == (0, 1)
    assert "the values of 2 tensors of 3" in keras.units[0].not_checked[0]
    assert (
        verify(tmp_path / "m.keras", sample=3).to_json() == verify(tmp_path / "m.keras").to_json()
    )
    saved = verify(golden("tf2.21.0/lookup/model").path, sample=1)
    assert (saved.exit_code, saved.units[0].tensors) == (0, 1)


def test_a_sample_beside_what_reads_everything_is_refused(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "c", 3, 1)
    for options in (("--values",), ("--write-manifest", tmp_path / "m"), ("--manifest", ".")):
        done = ckptkit("verify", path, "--sample", 1, *options)
        assert (done.code, "--sample excludes --values" in done.err) == (2, True)
    assert "--seed goes with --sample" in ckptkit("verify", path, "--seed", 1).err
    with pytest.raises(UsageError, match="sample 0: at least one tensor"):
        verify(path, sample=0)


@pytest.mark.slow
def test_a_hundred_gigabytes_are_listed_compared_and_sampled(tmp_path: Path) -> None:
    tensors, shards, changed = 200_000, 256, 123_456
    old = write_sparse(tmp_path / "old", tensors, shards)
    new = write_sparse(tmp_path / "new", tensors, shards, wrong=(changed,))
    commands = (
        (0, ["ls", old, "--role", "weight", "-q"]),
        (1, ["diff", "--quick", old, new]),
        (0, ["verify", old, "--sample", "50"]),
    )
    for code, command in commands:
        done = measured.run([sys.executable, "-m", "ckptkit", *map(str, command)])
        assert done.code == code, done.output
        if command[0] == "diff":
            assert f"layer_{changed}/kernel" in done.output
        if command[0] == "verify":
            assert "sound (50 tensors, 25.0 MB read)" in done.output
        assert done.peak_bytes < 1 << 30, done.peak_bytes


@pytest.mark.slow
def test_very_many_variables_take_little_memory(tmp_path: Path) -> None:
    """Twice the variables may take twice the memory, and 0.6 kB each."""
    peaks: dict[str, list[int]] = {}
    for tensors in (300_000, 600_000):
        names = [f"block_{n // 100:05d}/layer_{n % 100:02d}/kernel" for n in range(tensors)]
        listed = [TensorToWrite(name, "float32", (1,)) for name in names]
        number = {name: [at] for at, name in enumerate(names)}

        def blocks(key: str, number: dict[str, list[int]] = number) -> Iterator[tuple[int, Any]]:
            yield 0, np.array(number[key], np.float32)

        bundle, archive = tmp_path / f"b{tensors}", tmp_path / f"s{tensors}.safetensors"
        write_tensor_bundle(bundle, listed, blocks)
        entries = {
            name: {"dtype": "F32", "shape": [1], "data_offsets": [4 * at, 4 * at + 4]}
            for at, name in enumerate(names)
        }
        header = json.dumps(entries).encode()
        archive.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4 * tensors))
        for command in (
            ["ls", "-q", bundle],
            ["ls", "-q", archive],
            ["verify", bundle],
            ["verify", archive],
            ["diff", "--quick", bundle, bundle],
        ):
            done = measured.run([sys.executable, "-m", "ckptkit", *map(str, command)])
            assert done.code == 0, done.output
            what = f"{command[0]} {Path(str(command[-1])).suffix}"
            peaks.setdefault(what, []).append(done.peak_bytes)
    for what, (few, many) in peaks.items():
        assert many < (60 << 20) + 600_000 * 600, (what, many)
        assert many - few < 300_000 * 600, (what, few, many)
