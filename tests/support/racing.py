"""Two writers of one output, started together, and a reader beside them.

    python -m support.racing FORM PAIRS SEED DIRECTORY

forks two writers and a reader per pair.  Prints JSON: the pairs, how they ended, and one line for
each that was not right: a mixture, a writer that said "done" and whose output cannot be read, a
refusal of more than one line, a temporary file that was left.  Exit codes of a writer: 0 done,
2 refused with one line; one of them has to be done.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

import ckptkit
from ckptkit._io.atomic import is_temporary
from ckptkit.errors import CkptkitError
from ckptkit.golden.golden import read_golden
from ckptkit.operations.convert.api import convert
from ckptkit.operations.verify.api import verify
from ckptkit.operations.verify.manifest import read_manifest
from support import writing

DELAY_S = 0.003  # at most, between the starts of two writers
Content = dict[str, bytes]


class Race(NamedTuple):
    """write(directory, fill) writes an output; name: of what is read."""

    write: Callable[[Path, int], None]
    name: str


def _converted(to: str, name: str, shard_size: int | None = None) -> Race:
    def write(directory: Path, fill: int) -> None:
        source = writing.checkpoint(directory, fill)
        done = convert(source, directory / name, to=to, overwrite=True, shard_size=shard_size)
        assert done.ok

    return Race(write, name)


def _known(kind: str) -> Race:
    return Race(*writing.WRITERS[kind])


def _saved_model(directory: Path, fill: int) -> None:
    writing.saved_model(directory, fill, check=True)


RACES: dict[str, Race] = {
    "checkpoint": _converted("tensor-bundle", "ckpt"),
    "checkpoint-sharded": _converted("tensor-bundle", "ckpt", 300),
    "safetensors-sharded": _converted("safetensors", "m.safetensors.index.json", 300),
    "safetensors": _converted("safetensors", "m.safetensors"),
    "saved-model": Race(_saved_model, "export"),
    "bundle": _known("bundle"),
    "set": _known("set"),
    "manifest": _known("manifest"),
    "golden": Race(writing.WRITERS["golden"][0], "golden"),
    "npz": _converted("npz", "m.npz"),
    "keras": _known("keras"),
    "weights.h5": _known("weights"),
}


def content(form: str, directory: Path) -> Content:
    """Return the values that can be read, all checksums compared; raises CkptkitError."""
    path = directory / RACES[form].name
    if form == "manifest":
        return {"": repr(read_manifest(path)).encode()}
    if form == "golden":
        return {"": repr(read_golden(path).cases[0].outputs).encode()}
    return {k: repr(v.tolist()).encode() for k, v in ckptkit.load(path, jobs=1).items()}


def is_sound(form: str, directory: Path) -> bool:
    """Whether `verify` finds nothing in what is left."""
    if form in ("manifest", "golden"):
        return True
    findings = verify(directory / RACES[form].name).findings
    # a donor's fingerprint is that of other values
    return all(f.severity == "note" or f.code == "fingerprint.stale" for f in findings)


class Child(NamedTuple):
    """A forked process, and the file that its standard error goes to."""

    pid: int
    errors: IO[bytes]

    def ended(self) -> tuple[int, str]:
        """Wait for its end; return its exit code and what it said."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.errors.seek(0)
        said = self.errors.read().decode()
        self.errors.close()
        return code, said


def forked(work: Callable[[], int], ready: int, go: int) -> Child:
    """Fork a process that does its work once the parent closes `go`, the writing end of a pipe."""
    errors = tempfile.TemporaryFile()  # noqa: SIM115
    child = os.fork()
    if not child:
        code = 3
        try:
            os.dup2(errors.fileno(), 2)
            os.close(go)
            os.read(ready, 1)
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return Child(child, errors)


def write_after(form: str, directory: Path, fill: int, delay_s: float) -> int:
    time.sleep(delay_s)
    try:
        RACES[form].write(directory, fill)
    except CkptkitError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def read_always(form: str, directory: Path, known: list[Content]) -> int:
    """Read until killed; end with 1 on seeing what nobody wrote."""
    while True:
        try:
            found = content(form, directory)
        except CkptkitError:
            continue  # replaced between two reads: refused
        if found not in known:
            print("the reader saw a mixture", file=sys.stderr)
            return 1


def race(form: str, directory: Path, known: list[Content], delays: tuple[float, float]) -> str:
    """Let two writers and a reader run; return how it ended, "wrong: ..." for what must not be."""
    ready, go = os.pipe()
    reader = forked(partial(read_always, form, directory, known), ready, go)
    writers = [
        forked(partial(write_after, form, directory, fill, delay_s), ready, go)
        for fill, delay_s in zip((1, 2), delays, strict=True)
    ]
    os.close(ready)
    os.close(go)
    ends = [writer.ended() for writer in writers]
    os.kill(reader.pid, signal.SIGKILL)
    code, said = reader.ended()
    if code != -signal.SIGKILL:
        return f"wrong: {said}"
    codes = [end[0] for end in ends]
    for code, said in ends:
        if code not in (0, 2) or said.count("\n") != (code == 2):
            return f"wrong: exit code {code}: {said}"
    if 0 not in codes:
        return f"wrong: nobody was done: {ends}"
    try:
        found = content(form, directory)
    except CkptkitError as error:
        return f"wrong: exit codes {codes} and {error}"
    if found not in known or codes[known.index(found)] != 0 or not is_sound(form, directory):
        return f"wrong: exit codes {codes}, and what lies there is not theirs"
    left = [entry.name for entry in directory.rglob("*") if is_temporary(entry.name)]
    if left:
        return f"wrong: {left} were left"
    return "both done" if codes == [0, 0] else "one refused"


def main(form: str, pairs: int, seed: int, root: Path) -> dict[str, object]:
    rng = random.Random(seed)
    known = []
    for fill in (1, 2):
        place = root / "work"
        place.mkdir()
        RACES[form].write(place, fill)
        known.append(content(form, place))
        shutil.rmtree(place)
    ends: Counter[str] = Counter()
    wrong: list[str] = []
    for number in range(pairs):
        place = root / "work"
        place.mkdir()
        if number % 2:  # over what is there, and where nothing is
            RACES[form].write(place, 1 + number // 2 % 2)
        end = race(form, place, known, (rng.random() * DELAY_S, rng.random() * DELAY_S))
        ends[end.partition(":")[0]] += 1
        wrong += [end] * end.startswith("wrong")
        shutil.rmtree(place)
    return {"form": form, "pairs": pairs, "ends": dict(ends), "wrong": wrong}


if __name__ == "__main__":
    form, pairs, seed, root = sys.argv[1:]
    print(json.dumps(main(form, int(pairs), int(seed), Path(root))))
