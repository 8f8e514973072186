"""libhdf5 in a process of its own: what runs there.  `client` is the other side.

Requests come as lines of JSON on stdin: {"do": "scan" or "read", "range": ..., "seconds": ...,
"directory": ...}; a read also names the dataset and elements [start, stop).  Each is answered by a
line of JSON and, after it, as many bytes as its "nbytes" says.  seconds: processor time that a
request may take; then the system ends the process.  directory: that paths start from.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import ExitStack, suppress
from typing import Any

from ckptkit._io.file_states import FileState, file_state
from ckptkit.errors import CkptkitError, FormatError
from ckptkit.stores.containers.byte_range import ByteRange
from ckptkit.stores.hdf5 import reader as hdf5
from ckptkit.stores.hdf5 import values as _hdf5_values
from ckptkit.stores.hdf5.client import dataset_of, range_of
from ckptkit.stores.hdf5.file_object import guard
from ckptkit.stores.hdf5.types import H5Dataset, H5Tree

MAX_ADDRESS_SPACE = 6 << 30  # bytes; most of it is never touched

Answer = tuple[dict[str, Any], list[Any]]


class _OpenDataset:
    """The dataset that was read last, kept open: spans of one dataset come one after the other.

    libhdf5 keeps chunks in memory, so a file that changed, or may have, is opened anew.
    """

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.key: tuple[ByteRange, str, FileState | None] | None = None
        self.handle: Any = None

    def of(self, byte_range: ByteRange, dataset: H5Dataset) -> Any:
        state = file_state(byte_range.path)
        if self.key != (byte_range, dataset.path, state):
            self.close()
            started_ns = time.time_ns()
            self.handle = self.stack.enter_context(_hdf5_values.open_dataset(byte_range, dataset))
            if state is not None and state.is_settled(started_ns):
                self.key = byte_range, dataset.path, state
        return self.handle

    def close(self) -> None:
        self.key = None
        self.stack.close()


def main() -> None:
    """Answer requests until stdin ends."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    _limit("RLIMIT_CORE", 0)
    _limit("RLIMIT_AS", MAX_ADDRESS_SPACE)
    with suppress(Exception):  # whoever needs it says so; its import is no part of a request
        hdf5.h5py_module()
    last = _OpenDataset()
    for line in sys.stdin.buffer:
        head, parts = _answer(json.loads(line), last)
        out.write(json.dumps(head).encode() + b"\n")
        for part in parts:
            out.write(part)
        out.flush()


def _limit(name: str, value: int) -> None:
    """Lower a limit of this process, where the system has it."""
    with suppress(ImportError, AttributeError, ValueError, OSError):
        import resource

        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (value if hard < 0 else min(value, hard), hard))


def _answer(request: dict[str, Any], last: _OpenDataset) -> Answer:
    used = sum(os.times()[:2])
    _limit("RLIMIT_CPU", int(used + request["seconds"]) + 1)
    with suppress(OSError):
        os.chdir(request["directory"])
    byte_range = range_of(request["range"])
    try:
        if request["do"] == "scan":
            last.close()
            return _tree(hdf5.scan_here(byte_range))
        dataset = dataset_of(request["dataset"])
        handle = last.of(byte_range, dataset)
        with guard(byte_range.path):
            values = _hdf5_values.read_here(handle, dataset, request["start"], request["stop"])
    except CkptkitError as error:
        last.close()
        return {"error": type(error).__name__, "fields": error.__dict__, "nbytes": 0}, []
    except MemoryError:
        last.close()
        refusal = FormatError(str(byte_range.path), "libhdf5 asks for more memory than it may have")
        return {"error": "FormatError", "fields": refusal.__dict__, "nbytes": 0}, []
    if dataset.dtype == "string":
        texts = values.tolist()
        lengths = [len(text) for text in texts]
        return {"nbytes": sum(lengths), "lengths": lengths}, texts
    import numpy as np

    return {"nbytes": values.nbytes}, [np.ascontiguousarray(values).view(np.uint8).data]


def _tree(tree: H5Tree) -> Answer:
    groups = {path: dict(attributes) for path, attributes in tree.groups.items()}
    text = json.dumps([groups, [list(dataset) for dataset in tree.datasets.values()]]).encode()
    return {"nbytes": len(text)}, [text]
