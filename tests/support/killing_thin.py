"""Kills `thin` at every one of its steps; run as a script, since it forks.

    python -m support.killing_thin DIRECTORY STRIDE

A child thins a run and dies just before its first, second, ... operating-system call that changes a
file (or before every STRIDE-th), until one lives to the end.  After each death every checkpoint
must be whole, the old one or the thin one, and another run must finish the work.
"""

from __future__ import annotations

import shutil
import sys
from functools import partial
from pathlib import Path

import ckptkit
from ckptkit.operations.thin.api import thin
from support.goldens import golden
from support.killing import DIED, killed_at

ADAM = golden("tf2.21.0/adam/ckpt").path


def make_run(directory: Path, count: int = 3) -> Path:
    """Write a run whose checkpoints are all the same one, with an optimizer's state."""
    directory.mkdir()
    for step in range(1, count + 1):
        for file in ADAM.parent.glob("ckpt.*"):
            shutil.copy(file, directory / f"ckpt-{step}{file.name.removeprefix('ckpt')}")
    last = f'model_checkpoint_path: "ckpt-{count}"\n'
    (directory / "checkpoint").write_text(last, encoding="utf-8")
    return directory


def state(prefix: Path) -> str:
    """Return "old" or "thin"; raises where a byte is not as it should be."""
    was, now = ckptkit.load(ADAM), ckptkit.load(prefix)
    slots = {name for name in was if "@" in name}
    missing = was.keys() - now.keys()
    assert missing in (set(), slots), sorted(missing)
    for name in now:
        if not name.startswith("_"):  # the object graph
            assert was[name].tobytes() == now[name].tobytes(), name
    return "thin" if missing else "old"


def main(root: Path, stride: int) -> None:
    verdicts: list[str] = []
    for step in range(0, 400, stride):
        run = make_run(root / str(step), 2)
        status = killed_at(step, partial(thin, run, "last:1"), quiet=True)
        assert status in (0, DIED), (step, status)
        found, newest = state(run / "ckpt-1"), state(run / "ckpt-2")
        assert newest == "old" and (status == DIED or found == "thin"), step
        verdicts.append(found)
        assert thin(run, "last:1").ok
        assert (state(run / "ckpt-1"), state(run / "ckpt-2")) == ("thin", "old"), step
        shutil.rmtree(run)
        if status == 0:
            break
    print(" ".join(verdicts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
