"""What `benchmarks.reliability` measures of mutants: files damaged below checksums that hold."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks._rows import MB, Row, told
from benchmarks.harness import markdown_table
from support.tf_reader import Peer

# all of them read without an error by TensorFlow before they are damaged
MUTATED = (
    *("tf2.21.0/adam/ckpt", "tf2.15.1/legacy_adam/ckpt", "tf2.12.1/metrics/ckpt"),
    *("tf2.21.0/grid/ckpt", "tf2.12.1/saver/model.ckpt", "tf2.21.0/dtypes/ckpt"),
    *("tf2.18.1/list/ckpt", "tf2.21.0/gan/ckpt"),
)
# targets of tests/support/fuzz, and what each mutant is read by
OTHERS = {
    **dict.fromkeys(
        ("keras", "h5", "npz", "safetensors", "saved-model", "state"),
        "by verify, scan, ls and load in every report",
    ),
    **dict.fromkeys(("index", "snappy"), "read as a table"),
    **dict.fromkeys(("graph", "graph-text"), "by scan"),
}
GOAL, GOAL_IN_A_CHILD = 100_000, 2_000  # mutants of a target
IN_A_CHILD = ("beside-tensorflow", "libhdf5")  # which another process reads
MAX_SECONDS, MAX_BYTES = 5.0, 256 << 20  # that one file may take


class _Cost:
    """The most that one file took: seconds of the processor, and growth of resident memory."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.nbytes = 0
        self.wrong = Counter[str]()

    def of(self, use: Callable[[], Any]) -> Any:
        """Call a function and return what it returns; None for an exception, which is noted."""
        before = _reset_peak()
        start = time.process_time()
        try:
            return use()
        except Exception as error:  # what is looked for: a bug of ours
            self.wrong[type(error).__name__] += 1
            return None
        finally:
            self.seconds = max(self.seconds, time.process_time() - start)
            self.nbytes = max(self.nbytes, _peak() - before)

    @property
    def is_small(self) -> bool:
        fits = self.seconds <= MAX_SECONDS and self.nbytes <= MAX_BYTES
        return fits and not self.wrong

    def __str__(self) -> str:
        wrong = told(self.wrong) if self.wrong else "no traceback"
        return (
            f"{wrong}; at most {self.seconds:.2f} s of the processor and "
            f"{self.nbytes / MB:.0f} MB more memory"
        )


def _status(field: str) -> int:
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return int(text.partition(f"{field}:")[2].split()[0]) * 1024


def _reset_peak() -> int:
    """Begin to measure peak memory anew (Linux); return the resident memory."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _status("VmHWM")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def mutants(directory: Path, peer: Peer, quick: bool) -> Iterator[Row]:
    """Checkpoints damaged below checksums that hold, judged by both."""
    from ckptkit.operations.verify.api import verify
    from support.fuzz import mutators, nobody_writes
    from support.goldens import GOLDEN

    count = 150 if quick else 6_000
    cells = Counter[tuple[str, str]]()
    cost = _Cost()
    place = directory / "mutants"
    for seed in range(count):
        rng = random.Random(f"mutant {seed}")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        files = mutators.golden_files(GOLDEN / rng.choice(MUTATED))
        for name, content in mutators.bundle(files, rng).items():
            (place / name).write_bytes(content)
        prefix = place / "c"
        with nobody_writes():
            result = cost.of(partial(verify, prefix))
        code = 2 if result is None else result.exit_code
        verdict = peer(prefix)
        theirs = "error" if verdict["error"] else "read"
        if verdict["end"]:
            theirs = f"ended by {verdict['end']}"
        cells[("sound", "findings", "could not tell")[code], theirs] += 1
    ours, others = Counter[str](), Counter[str]()
    for (one, other), number in cells.items():
        ours[one] += number
        others[other] += number
    yield Row("mutants whose checksums hold (entries, keys, shapes, object graph, data)", count,
              f"{told(ours)}; {cost}", told(others), cost.is_small)  # fmt: skip
    wrong = sum(n for (mine, other), n in cells.items() if mine == "sound" and other != "read")
    yield Row("of these: ckptkit says sound, TensorFlow fails", count, f"{wrong}", "", wrong == 0)
    quiet = sum(n for (mine, other), n in cells.items() if mine != "sound" and other == "read")
    yield Row("of these: TensorFlow reads all, ckptkit has findings", count, f"{quiet:,}")


def counts_table() -> Iterator[str]:
    """Yield a table of what `make fuzz` has run so far, one row for each target."""
    from support.fuzz.__main__ import read_counts
    from support.fuzz.targets import TARGETS

    counts = read_counts()
    rows = []
    for name in sorted(TARGETS):
        found = counts.get(name, {})
        read, refused, failed = (found.get(key, 0) for key in ("read", "refused", "failed"))
        goal = GOAL_IN_A_CHILD if name in IN_A_CHILD else GOAL
        total = read + refused + failed
        is_met = total >= goal and not failed
        cost = f"{found.get('max_seconds', 0.0):.2f} s, {found.get('max_bytes', 0) / MB:.0f} MB"
        rows.append((name, total, read, refused, failed, cost, "met" if is_met else f"{goal:,}"))
    headers = ("target", "mutants", "read", "refused", "failed", "the most one cost", "goal")
    yield from markdown_table(rows, headers, ("left", *["right"] * 4, "left", "right"))


def other_mutants(directory: Path, peer: Peer, quick: bool) -> Iterator[Row]:
    """Mutants of the other formats: verified, scanned, listed, loaded."""
    del peer
    from support.fuzz.targets import judged
    from support.fuzz.targets import mutants as made

    for name, use in OTHERS.items():
        count = 10 if quick else 400
        cost = _Cost()
        for _seed, path in made(name, directory / name, range(100_000, 100_000 + count)):
            cost.of(partial(judged, name, path))
        ours = f"read, or refused in one line; {cost}"
        yield Row(f"mutants: {name}, {use}", count, ours, "", cost.is_small)
