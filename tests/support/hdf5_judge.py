"""h5py as the judge of damaged HDF5 files, in a process of its own, which it may take down.

`python -m support.hdf5_judge` answers each path on stdin with one line of JSON: {"error": text} or
{"tensors": {name: [dtype, shape, digest]}, "attributes": {name: text}}.  Every object is opened by
its name, as Keras opens it, every value and attribute is read, and the file is visited once more
from its root, since h5py finds some damage only there.
"""

from __future__ import annotations

import hashlib
import json
import select
import subprocess
import sys
from typing import Any

from support.places import environment

SECONDS = 10.0  # for one file; a sound one takes a hundredth


def read_all(path: str) -> dict[str, Any]:
    """Return all that h5py reads in a file; raises whatever it raises."""
    import h5py
    import numpy as np

    tensors: dict[str, Any] = {}
    attributes: dict[str, str] = {}

    def note(name: str, item: Any) -> None:
        for key in item.attrs:
            value = item.attrs[key]
            text = value.tolist() if isinstance(value, np.ndarray) else value
            attributes[f"{name}@{key}"] = hashlib.sha256(repr(text).encode()).hexdigest()
        if isinstance(item, h5py.Dataset):
            value = item[()]
            raw = repr(value.tolist()).encode() if item.dtype.hasobject else np.asarray(value)
            digest = hashlib.sha256(raw if isinstance(raw, bytes) else raw.tobytes()).hexdigest()
            tensors[name] = [item.dtype.str, list(item.shape), digest]

    with h5py.File(path, "r") as file:
        stack = [("", file["/"])]
        while stack:
            name, item = stack.pop()
            note(name, item)
            if isinstance(item, h5py.Group):
                if len(stack) > 10_000 or name.count("/") > 100:
                    raise ValueError("no end of groups")
                keys = list(item)
                stack.extend((f"{name}/{key}", item[key]) for key in reversed(keys))
        visited: list[str] = []
        file.visit(visited.append)
    return {"tensors": tensors, "attributes": attributes}


class Judge:
    """The process, started anew when a file ends it."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self, path: object) -> dict[str, Any]:
        """Return what h5py makes of a file; its death and its hanging are errors."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "support.hdf5_judge"],
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{path}\n".encode())
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], SECONDS)
        line = self.process.stdout.readline() if ready else b""
        if not line:
            self.close()
            return {"error": "ended" if ready else "hangs"}
        return dict(json.loads(line))

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def main() -> None:
    import resource

    import h5py  # noqa: F401  # before the limit

    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    for line in sys.stdin:
        try:
            answer = read_all(line.rstrip("\n"))
        except Exception as error:  # what it says of a damaged file may be anything
            answer = {"error": f"{type(error).__name__}: {error}"[:200]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
