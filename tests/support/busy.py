"""Commands beside a training loop, and what they must not say.

    python -m support.busy RUNS SEED DIRECTORY [sharded]

starts `support.training_loop` in DIRECTORY/run and runs commands on it, most in this process, each
20th as a process of its own.  Prints JSON: how often each command ended how, and one entry for
each that was wrong: a finding, a word of damage, advice to delete.  That a checkpoint which was
named has gone, or changed while it was read, is the truth.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ckptkit.operations.verify import in_use
from ckptkit.stores import following
from ckptkit.stores.tensor_bundle.state_file import prefixes
from support.command_line import Result, ckptkit
from support.places import environment

OWN_PROCESS = 20  # every so many runs
WORDS = re.compile(
    r"delete|damage|cut short|copy|copied|checksum|stale|left by|corrupt|Traceback|malformed", re.I
)
GONE = re.compile(r"no such file|changed while|is missing|no checkpoint in|it is gone", re.I)


@contextmanager
def training(directory: Path, *, sharded: bool) -> Iterator[subprocess.Popen[str]]:
    """Run a loop that saves into a directory, from its third checkpoint on until the end."""
    options = ["sharded"] if sharded else []
    process = subprocess.Popen(
        [sys.executable, "-m", "support.training_loop", str(directory), *options],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment(),
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "saved\n"
        yield process
        assert process.poll() is None, "the loop died"
    finally:
        process.kill()
        process.wait()


def still_copy(run: Path, place: Path) -> Path:
    """Copy a checkpoint out of a running directory; return the prefix of the copy."""
    while True:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        newest = max(prefixes(run), key=lambda prefix: int(prefix.name.rpartition("-")[2]))
        for file in run.glob(f"{newest.name}.*"):
            try:
                shutil.copy(file, place)
            except FileNotFoundError:
                break
        copy = place / newest.name
        if (place / f"{newest.name}.index").exists() and ckptkit("verify", copy).code == 0:
            return copy


def commands(run: Path, still: Path, out: Path) -> list[Sequence[object]]:
    """Return what is run on a directory and on the newest checkpoint of it."""
    newest = max(prefixes(run), key=lambda prefix: int(prefix.name.rpartition("-")[2]))
    return [
        ("ls", run),
        ("verify", run),
        ("diff", still, run),
        ("convert", run, out / "o.npz", "--overwrite"),
        ("ls", newest),
        ("verify", newest),
        ("verify", f"{newest}.index", run),
        ("convert", run, out / "ckpt", "--to", "checkpoint", "--overwrite"),
    ]


def wrong(command: Sequence[object], result: Result) -> str:
    """Return what a command should not have said, "" where all is well."""
    said = result.out + result.err
    is_different = command[0] == "diff" and result.code == 1
    if result.code == 0 or is_different:
        found = WORDS.search(said)
        return f"{found[0]}: {said}" if found else ""
    if result.code == 2 and GONE.search(said) and not WORDS.search(said):
        return ""
    return f"exit code {result.code}: {said}"


def unhurried() -> None:
    """Let a directory be still after ten minutes: a loop that the machine stops writes on later."""
    in_use.STILL_S = following._STILL_S = 600.0


def run_process(command: Sequence[object]) -> Result:
    program = "from support.busy import unhurried; unhurried(); from ckptkit_tf import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, command)],
        capture_output=True, text=True, env=environment(), check=False,
    )  # fmt: skip
    return Result(done.returncode, done.stdout, done.stderr)


def main(runs: int, seed: int, directory: Path, *, sharded: bool) -> dict[str, object]:
    unhurried()
    rng = random.Random(seed)
    run, out = directory / "run", directory / "out"
    run.mkdir()
    out.mkdir()
    ends: Counter[str] = Counter()
    refusals: Counter[str] = Counter()
    wrongs: list[str] = []
    with training(run, sharded=sharded):
        still = still_copy(run, directory / "still")
        for number in range(runs):
            command = rng.choice(commands(run, still, out))
            result = run_process(command) if number % OWN_PROCESS == 0 else ckptkit(*command)
            what = wrong(command, result)
            if what:
                wrongs.append(f"{command[0]}: {what[:600]}")
            elif result.code == 2:
                refusals[re.sub(r"\d+", "N", result.err.replace(str(directory), "")[:200])] += 1
            operand = "directory" if run in command else "checkpoint"
            ends[f"{command[0]} {operand}: {result.code}"] += 1
    return {
        "runs": runs,
        "ends": dict(sorted(ends.items())),
        "refusals": dict(refusals),
        "wrong": wrongs,
    }


if __name__ == "__main__":
    count, seed, place = sys.argv[1:4]
    print(json.dumps(main(int(count), int(seed), Path(place), sharded=sys.argv[4:] == ["sharded"])))
