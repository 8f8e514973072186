"""On which devices the kernels of a call were, as TensorFlow says after it.  Child process alone.

Graphs: the partitions that the runtime made of them, after placement and optimisation, one per
device (they are told when a function first runs).  Eager: the device of each op's result.  Code
that XLA compiled has no partition: the ops that were compiled, and the device of the results.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ckptkit.runners.child.heavy_ops import is_heavy
from ckptkit.runners.tensorflow.graphs import count

Devices = dict[str, dict[str, int]]


@contextmanager
def watching(devices: Devices, *, eager: bool) -> Iterator[None]:
    """Add to `devices` what runs meanwhile."""
    with _eager_ops(devices) if eager else _partitions(devices):
        yield


def compiled(devices: Devices, graph: Any, outputs: Mapping[str, Any]) -> None:
    """Add the nodes of a graph that XLA compiled, where its results lie."""
    where = sorted({short(value.backing_device) for value in outputs.values()})
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    for device in where[:1]:
        _add(devices, device, count(iter(nodes)))


def short(device: str) -> str:
    """Return `CPU:0` of `/job:localhost/replica:0/task:0/device:CPU:0`."""
    return device.rpartition("device:")[2] or device


def _add(devices: Devices, device: str, counts: Mapping[str, int]) -> None:
    if any(counts.values()):
        row = devices.setdefault(device, {"ops": 0, "heavy": 0})
        for key, number in counts.items():
            row[key] += number


def add_partitions(devices: Devices, graphs: Iterable[Any]) -> None:
    """Add the ops of the partitions that the runtime made of a graph."""
    for graph in graphs:
        by_device: dict[str, list[Any]] = {}
        for node in graph.node:
            by_device.setdefault(short(node.device), []).append(node)
        for device, nodes in by_device.items():
            _add(devices, device, count(iter(nodes)))


@contextmanager
def _partitions(devices: Devices) -> Iterator[None]:
    from tensorflow.python.eager import context

    here = context.context()
    here.enable_run_metadata()
    try:
        yield
    finally:
        metadata = here.export_run_metadata()
        here.disable_run_metadata()
        add_partitions(devices, metadata.partition_graphs)


@contextmanager
def _eager_ops(devices: Devices) -> Iterator[None]:
    from tensorflow.python.framework import op_callbacks

    counts: Counter[tuple[str, str]] = Counter()

    def ran(
        op_type: Any,
        inputs: Any,
        attrs: Any,
        outputs: Any,
        op_name: Any = None,
        graph: Any = None,
    ) -> None:
        del inputs, attrs, op_name
        # within a graph the callback sees ops as they are built, not as they run
        if graph is None and outputs:
            kind = op_type.decode() if isinstance(op_type, bytes) else str(op_type)
            counts[short(outputs[0].device), kind] += 1

    op_callbacks.add_op_callback(ran)
    try:
        yield
    finally:
        op_callbacks.remove_op_callback(ran)
        for (device, kind), number in counts.items():
            if kind != "ReadVariableOp":
                heavy = number if is_heavy(kind) else 0
                _add(devices, device, {"ops": number, "heavy": heavy})
