"""Runs the hostile corpus under an audit hook and counts what must never happen.

    PYTHONPATH=tests python -m support.audit DIRECTORY MUTANTS

Prints one line of JSON: files used, forbidden events, and which.  Modules are imported beforehand,
by the row of every format and by reading files of each, so that any import, any code that is run
from data, any unpickling, process, socket, or file opened for writing counts.  One process may be
started: the one in which libhdf5 reads, by its exact command.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from ckptkit.errors import CkptkitError
from ckptkit.operations.scan.api import scan
from ckptkit.operations.scan.keras import config_findings
from ckptkit.operations.verify.api import verify
from ckptkit.stores.hdf5 import client as _hdf5_child
from ckptkit.stores.registry import FORMATS, function_of
from support.bombs import BOMBS
from support.fuzz import nobody_writes
from support.fuzz.readers import READERS, read_everything
from support.fuzz.targets import mutants
from support.hostile_models import HOSTILE_CONFIGS, HOSTILE_OPS, keras_file, model_with, nested
from support.hostile_models import write_model as write_saved_model

FORBIDDEN = (
    *("compile", "exec", "import", "marshal.loads", "marshal.load", "code.__new__"),
    *("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"),
    *("os.fork", "os.forkpty", "os.spawn", "os.startfile", "pty.spawn", "ctypes.dlopen"),
    *("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.__new__"),
    *("urllib.Request", "ftplib.connect", "http.client.connect", "webbrowser.open"),
    *("os.remove", "os.rename", "os.link", "os.symlink", "os.mkdir", "os.rmdir", "os.truncate"),
    *("shutil.rmtree", "shutil.copyfile", "shutil.move", "shutil.unpack_archive", "os.chmod"),
)
HDF5_CHILD = [sys.executable, "-I", "-c", _hdf5_child.PROGRAM, json.dumps(sys.path)]
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Watch:
    """Counts forbidden events while it is armed."""

    def __init__(self) -> None:
        self.armed = False
        self.seen: Counter[str] = Counter()
        sys.addaudithook(self._event)

    def _event(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.armed or (event == "subprocess.Popen" and list(args[1]) == HDF5_CHILD):
            return
        if event in FORBIDDEN:
            self.seen[f"{event} {args[0]!r:.80}"] += 1
        elif event == "open":
            path, _mode, flags = args
            # An unnamed temporary file, in which a deflated member is spooled, opens as a
            # directory; a number is a descriptor that is open already.
            harmless = isinstance(path, int) or path == os.devnull or os.path.isdir(path)  # noqa: PTH112
            if isinstance(flags, int) and flags & _WRITING and not harmless:
                self.seen[f"open for writing {path!r:.80}"] += 1


def use(watch: Watch, path: Path) -> None:
    """Read one file in every way, watched."""
    watch.armed = True
    try:
        in_every_way(path)
    finally:
        watch.armed = False


def in_every_way(path: Path) -> None:
    """Read one file in every way."""
    for read in (partial(verify, values=True), scan, read_everything):
        with suppress(CkptkitError):
            read(path)


def main(directory: Path, count: int) -> None:
    watch, files = Watch(), 0
    for row in FORMATS.values():  # imports whatever reading takes
        for named in row:
            if isinstance(named, str) and named.startswith("ckptkit.") and ":" in named:
                function_of(named)
    for name in READERS:
        for _seed, path in mutants(name, directory / "warm", range(6)):
            in_every_way(path)
    for name in READERS:
        for _seed, path in mutants(name, directory / "mutants", range(50_000, 50_000 + count)):
            use(watch, path)
            files += 1
    for name, maker in BOMBS.items():
        if name != "bundle_overlaps":  # loading it for real is what a person asks for
            place = directory / name
            place.mkdir()
            path = maker(place)
            watch.armed = True
            with suppress(CkptkitError):
                verify(path, values=True)
            with suppress(CkptkitError):
                scan(path)
            watch.armed = False
            files += 1
    for name, config in HOSTILE_CONFIGS.items():
        path = keras_file(directory / f"{name.replace(' ', '_')}.keras", nested(config, 3))
        use(watch, path)
        watch.armed = True
        list(config_findings(config, "x"))
        watch.armed = False
        files += 1
    for op in HOSTILE_OPS:
        for form in ("pb", "pbtxt"):
            place = directory / f"{op}-{form}"
            use(watch, write_saved_model(place, model_with(op, "nested function"), form))
            files += 1
    print(json.dumps({"files": files, "forbidden": sum(watch.seen.values()), "seen": watch.seen}))


if __name__ == "__main__":
    with nobody_writes():
        main(Path(sys.argv[1]), int(sys.argv[2]))
