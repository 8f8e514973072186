"""Kills a writer at every one of its steps; run as a script, since it forks.

    python -m support.killing KIND DIRECTORY

At DIRECTORY lies what KIND wrote first (the old tensors).  A child writes the new ones over it and
dies just before its first, second, ... operating-system call, until one lives to the end.  After
each death the old or the new tensors must be there, whole, with every checksum right.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ckptkit._io import atomic as _atomic
from ckptkit.stores.base import Store
from ckptkit.stores.npz.reader import open_npz
from ckptkit.stores.npz.writer import write_npz
from ckptkit.stores.safetensors.reader import open_safetensors, open_safetensors_index
from ckptkit.stores.safetensors.writer import write_safetensors
from ckptkit.stores.tensor_bundle.reader import open_bundle
from ckptkit.stores.tensor_bundle.writer import write_tensor_bundle
from support.system_calls import holders
from support.values import blocks_of, out_tensors, same_bits

CALLS = ("open", "fsync", "replace", "rename", "link", "unlink", "chmod", "mkdir", "rmdir")
DIED = 77
Tensors = dict[str, tuple[str, Any]]


def tensors(fill: int) -> Tensors:
    return {
        "a": ("float32", np.full((50, 3), fill, np.float32)),
        "b": ("int8", np.full(100, fill, np.int8)),
        "s": ("string", np.array([b"%d" % fill, b""], object)),
    }


def write_bundle(directory: Path, new: Tensors) -> None:
    write_tensor_bundle(
        directory / "ckpt", out_tensors(new), blocks_of(new), shard_size=300, overwrite=True
    )


def write_set(directory: Path, new: Tensors) -> None:
    path = directory / "m.safetensors.index.json"
    write_safetensors(path, out_tensors(new), blocks_of(new), shard_size=300, overwrite=True)


def write_file(directory: Path, new: Tensors) -> None:
    write_safetensors(directory / "m.safetensors", out_tensors(new), blocks_of(new), overwrite=True)


def write_archive(directory: Path, new: Tensors) -> None:
    write_npz(directory / "m.npz", out_tensors(new), blocks_of(new), overwrite=True)


def write_directory(directory: Path, new: Tensors) -> None:
    with _atomic.replacing_directory(directory / "dir", overwrite=True, marker="m.npz") as inner:
        write_npz(inner / "m.npz", out_tensors(new), blocks_of(new))


KINDS: dict[str, tuple[Callable[[Path, Tensors], None], Callable[[Path], Store]]] = {
    "bundle": (write_bundle, lambda directory: open_bundle(directory / "ckpt")),
    "set": (
        write_set,
        lambda directory: open_safetensors_index(directory / "m.safetensors.index.json"),
    ),
    "file": (write_file, lambda directory: open_safetensors(directory / "m.safetensors")),
    "archive": (write_archive, lambda directory: open_npz(directory / "m.npz")),
    "directory": (write_directory, lambda directory: open_npz(directory / "dir" / "m.npz")),
}


def dying_at(step: int, calls: list[str]) -> None:
    """Make the process die just before call number `step`; the calls before it go to `calls`."""

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if len(calls) == step:
                os._exit(DIED)
            calls.append(name)
            return function(*args, **options)

        return call

    for name in CALLS:
        dying = counted(name, getattr(os, name))
        for holder in holders(name):
            setattr(holder, name, dying)
    _atomic._renameat2 = counted("renameat2", _atomic._renameat2)


def killed_at(step: int, write: Callable[[], object], *, quiet: bool = False) -> int:
    """Return the exit status of a child that writes, and dies just before call number `step`."""
    child = os.fork()
    if not child:
        if quiet:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        dying_at(step, [])
        write()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def holds(store: Store, expected: Tensors) -> bool:
    """Whether the store is whole and holds these tensors; reads every checksum."""
    found = {
        key: np.concatenate([part.copy() for _, part in store.blocks(key)]) for key in store.specs
    }
    if store.missing_shards or found.keys() != expected.keys():
        return False
    return all(same_bits(found[key], expected[key][1].reshape(-1)) for key in found)


def main(kind: str, root: Path) -> None:
    write, read = KINDS[kind]
    old, new = tensors(1), tensors(2)
    verdicts: list[str] = []
    for step in range(200):
        directory = root / str(step)
        directory.mkdir()
        write(directory, old)
        status = killed_at(step, partial(write, directory, new))
        store = read(directory)
        verdicts.append("old" if holds(store, old) else "new" if holds(store, new) else "MIXED")
        assert status in (0, DIED), (kind, step, status)
        write(directory, new)  # no clean-up by hand is needed to go on
        assert holds(read(directory), new), (kind, step)
        shutil.rmtree(directory)
        if status == 0:
            break
    print(" ".join(verdicts))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
