"""Reading every tensor of a 553 MB checkpoint, against TensorFlow's reader; the file is cached.

All functions run in turns in one process; memory is measured in a process of its own for each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.harness import Result, alone, inside, processes
from benchmarks.inputs import path

MB, GB = 1e6, 1e9
_READERS = "benchmarks.loading:readers"
_PEER = "tf.train.load_checkpoint().get_tensor"


def readers(prefix: str) -> dict[str, Callable[[], object]]:
    """Return the ways to read a checkpoint whole."""

    def load() -> Any:
        import ckptkit

        return ckptkit.load(prefix)

    def mapped() -> Any:
        import ckptkit

        return ckptkit.load(prefix, copy=False)

    def stream() -> int:
        import ckptkit

        store = ckptkit.open(prefix).store
        return sum(values.nbytes for key in store.specs for _start, values in store.blocks(key))

    def view() -> int:
        import ckptkit

        checkpoint = ckptkit.open(prefix)
        return sum(_touch(checkpoint[name]) for name in checkpoint)

    def bare() -> Any:
        import numpy as np

        return np.fromfile(f"{prefix}.data-00000-of-00001", np.uint8)

    def peer() -> Any:
        import tensorflow as tf

        reader = tf.train.load_checkpoint(prefix)
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}

    def peer_touched() -> int:
        return sum(_touch(array) for array in peer().values())

    return {
        "load": load,
        "mapped": mapped,
        "stream": stream,
        "view": view,
        "bare": bare,
        "peer": peer,
        "peer-touched": peer_touched,
    }


def _touch(array: Any) -> int:
    """Read one byte of every page of an array, since a view of a mapped file reads none itself."""
    import numpy as np

    if not isinstance(array, np.ndarray) or array.dtype == object:
        return 0
    return int(array.reshape(-1).view(np.uint8)[::4096].sum())


def loading() -> list[Result]:
    """Throughput and peak memory of each way to read, checksums compared (but not by views)."""
    prefix = path("vgg16", "ckpt")
    nbytes = prefix.with_name("ckpt.data-00000-of-00001").stat().st_size
    seconds = inside(_READERS, str(prefix))
    rate = {label: nbytes / GB / time for label, time in seconds.items()}
    labels = ("load", "mapped", "stream", "view", "peer")
    costs = processes({label: alone(_READERS, label, str(prefix)) for label in labels}, rounds=1)
    peak = {label: cost.peak_bytes / MB for label, cost in costs.items()}
    works = {
        "load": "load 553 MB into new arrays, checksums compared",
        "mapped": "load 553 MB with copy=False, checksums compared",
        "stream": "stream 553 MB, checksums compared",
        "view": "view 553 MB mapped, every page touched",
    }
    results: list[Result] = []
    for label, work in works.items():
        beside = rate["peer-touched" if label == "view" else "peer"]
        results += [
            Result("load", work, "GB/s", rate[label], beside, _PEER),
            Result("load", "the same", "MB", peak[label], peak["peer"], _PEER),
        ]
    fresh = "numpy.fromfile: fresh memory, no checksums"
    results.insert(1, Result("load", "the same", "GB/s", rate["load"], rate["bare"], fresh))
    return results


BENCHMARKS = {"load": loading}
