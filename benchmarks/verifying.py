"""Verifying, against the bare rate: pread and crc32c of the same bytes through one buffer."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.harness import CKPTKIT, Result, inside, processes

GB, MB = 1e9, 1e6
_FUNCTIONS = "benchmarks.verifying:functions"
_TENSORS, _ELEMENTS = 40, 4 << 20  # 40 tensors of 16 MiB, 671 MB in all
_SPARSE_TENSORS, _SPARSE_ELEMENTS = 20, 1 << 28  # 20 tensors of 1 GiB, holes on the disk


def write_dense(prefix: str) -> None:
    """Write a checkpoint of 671 MB of random numbers."""
    import numpy as np

    from ckptkit.writers.base import OutTensor
    from ckptkit.writers.tensor_bundle import write_tensor_bundle

    rng = np.random.default_rng(1)
    values = rng.standard_normal(_ELEMENTS, np.float32)

    def blocks(key: str) -> Iterator[tuple[int, Any]]:
        yield 0, values

    tensors = [OutTensor(f"layer_{i}/kernel", "float32", (_ELEMENTS,)) for i in range(_TENSORS)]
    write_tensor_bundle(prefix, tensors, blocks)


def write_sparse(prefix: str) -> None:
    """Write a checkpoint of 21 GB of zeros that takes no room on the disk."""
    from ckptkit._crc_combine import crc_of_repeated
    from ckptkit.writers.base import OutTensor
    from ckptkit.writers.leveldb_table import TableWriter
    from ckptkit.writers.tensor_bundle import _Entry, index_items

    nbytes = 4 * _SPARSE_ELEMENTS
    crc = crc_of_repeated(b"\0" * 8, nbytes)
    tensors = [
        OutTensor(f"w{i:02}", "float32", (_SPARSE_ELEMENTS,)) for i in range(_SPARSE_TENSORS)
    ]
    entries = {t.key: _Entry(0, i * nbytes, nbytes, crc) for i, t in enumerate(tensors)}
    with Path(f"{prefix}.index").open("wb") as file:
        table = TableWriter(file)
        for key, value in index_items(tensors, entries, 1):
            table.add(key, value)
        table.finish()
    with Path(f"{prefix}.data-00000-of-00001").open("wb") as file:
        file.truncate(nbytes * _SPARSE_TENSORS)


def functions(prefix: str) -> dict[str, Callable[[], object]]:
    """Return the bare loop and the operation, with one thread and with two."""
    from google_crc32c import extend

    from ckptkit._files import aligned_buffer
    from ckptkit.operations.verify import verify

    shard = f"{prefix}.data-00000-of-00001"

    def bare() -> int:
        buffer = aligned_buffer(1 << 18)
        fd = os.open(shard, os.O_RDONLY)
        offset = crc = 0
        try:
            while count := os.preadv(fd, [buffer.data], offset):
                crc = extend(crc, buffer[:count])
                offset += count
        finally:
            os.close(fd)
        return crc

    def threaded() -> object:
        with ThreadPoolExecutor(2) as executor:
            return _sound(verify(prefix, executor=executor))

    return {"bare": bare, "one": lambda: _sound(verify(prefix)), "two": threaded}


def _sound(result: Any) -> Any:
    if result.exit_code:
        raise RuntimeError(str(result.findings))
    return result


def verifying() -> list[Result]:
    """Throughput on 671 MB, cached, and peak memory on 21 GB."""
    with tempfile.TemporaryDirectory() as directory:
        prefix = str(Path(directory, "ckpt"))
        write_dense(prefix)
        seconds = inside(_FUNCTIONS, prefix)
        nbytes = _TENSORS * _ELEMENTS * 4
        rate = {label: nbytes / GB / time for label, time in seconds.items()}
        sparse = str(Path(directory, "sparse"))
        write_sparse(sparse)
        commands = {
            "small": (*CKPTKIT, "verify", prefix),
            "large": (*CKPTKIT, "verify", sparse),
        }
        costs = processes(commands, rounds=1)
    peak = {label: cost.peak_bytes / MB for label, cost in costs.items()}
    bare = "pread + crc32c, one buffer"
    large = f"{4 * _SPARSE_TENSORS * _SPARSE_ELEMENTS / GB:.0f} GB"
    return [
        Result("verify", "verify 671 MB, one thread", "GB/s",
               rate["one"], rate["bare"], bare, goal=0.7),
        Result("verify", "the same, two threads", "GB/s", rate["two"], rate["bare"], bare),
        Result("verify", f"verify {large} (sparse)", "MB", peak["large"], peak["small"],
               "the same on 671 MB", goal=0.8),
    ]  # fmt: skip


BENCHMARKS = {"verify": verifying}
