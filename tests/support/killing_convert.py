"""Kills `convert` at every one of its steps; run as a script, since it forks.

    python -m support.killing_convert FORM DIRECTORY STRIDE

At DIRECTORY lies an output of FORM with the old values.  A child converts the new ones over it and
dies just before its first, second, ... operating-system call that changes a file, until one lives
to the end.  After each death the old or the new output must be there, whole; and where there was
none, nothing or the new one.
"""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

import ckptkit
from ckptkit._io.atomic import is_temporary
from ckptkit.errors import CkptkitError
from ckptkit.operations.convert.api import convert
from support.goldens import golden
from support.killing import DIED, killed_at
from support.weights import write_bundle

DONOR = golden("tf2.21.0/module_saved_model/model").path
NAMES = {
    "checkpoint": "out",
    "saved_model": "out",
    "npz": "out.npz",
    "safetensors": "out.safetensors",
}


def source(directory: Path, fill: int) -> Path:
    """Write a checkpoint that fits the donor, all of one value."""
    arrays = {
        name: np.full(array.shape, fill, array.dtype)
        for name, array in ckptkit.open(DONOR).items()
        if array.dtype != object
    }
    return write_bundle(directory / f"src{fill}", arrays)


def state(path: Path) -> str:
    """Return "old", "new", "nothing", or what is wrong."""
    try:
        output = ckptkit.open(path)
        found = {float(a.flat[0]) for a in output.values() if a.dtype != object}
        for key in output.specs:
            for _ in output.store.blocks(key):
                pass
    except CkptkitError as error:
        index = os.path.lexists(f"{path}.index") or (path / "saved_model.pb").exists()
        return f"BROKEN {error}" if index or path.is_file() else "nothing"
    return "old" if found == {1.0} else "new" if found == {2.0} else f"MIXED {found}"


def main(form: str, root: Path, stride: int) -> None:
    like = DONOR if form == "saved_model" else None
    olds, news = source(root, 1), source(root, 2)
    verdicts: list[str] = []
    for there in (False, True):
        for step in range(0, 300, stride):
            directory = root / f"{there}{step}"
            directory.mkdir()
            out = directory / NAMES[form]
            if there:
                convert(olds, out, to=form, like=like)
            write = partial(convert, news, out, to=form, like=like, overwrite=there)
            status = killed_at(step, write, quiet=True)
            assert status in (0, DIED), (form, step, status)
            verdict = state(out)
            assert verdict in (("old", "new") if there else ("nothing", "new")), (step, verdict)
            assert status == DIED or verdict == "new"
            verdicts.append(verdict)
            for left in directory.iterdir():  # whatever else lies there is known for what it is
                known = left.name.startswith(out.name) or is_temporary(left.name)
                assert known, left
            with suppress(FileNotFoundError):
                shutil.rmtree(directory)
            if status == 0:
                break
    print(" ".join(verdicts))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
