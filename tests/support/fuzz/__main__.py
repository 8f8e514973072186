"""`make fuzz`: mutants of every reader and public function, until the time is up.

    PYTHONPATH=tests python -m support.fuzz [--seconds S] [--target NAME] [--start SEED] [--count N]

Each target goes on from the seed at which it stopped: `counts.json` beside this file keeps, for
each, how many mutants were made, what became of them, and the most that one of them cost.  A mutant
that ends in another exception than a refusal, takes more than 5 s of the processor or makes the
process grow is kept below tests/support/fuzz/crashes/NAME-SEED and printed; the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from support.fuzz import nobody_writes
from support.fuzz.targets import MAX_SECONDS, TARGETS, judged, mutants
from support.places import SUPPORT

MAX_BYTES = 256 << 20  # that the peak memory of the process may grow by on one mutant
COUNTS = SUPPORT / "fuzz" / "counts.json"
_KEPT_EVERY_S = 60.0


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=60.0)
    options.add_argument("--target", choices=sorted(TARGETS), action="append")
    options.add_argument("--start", type=int, help="a seed; by default the one to go on from")
    options.add_argument("--count", type=int, default=1 << 62)
    options.add_argument("--counts", type=Path, default=COUNTS, help="where they are kept")
    asked = options.parse_args()
    names = asked.target or sorted(TARGETS)
    failures = 0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        for name in names:
            run = Run(name, asked.counts, asked.start)
            failures += run.until(Path(scratch), asked.seconds / len(names), asked.count)
    return 1 if failures else 0


def read_counts(path: Path = COUNTS) -> dict[str, dict[str, Any]]:
    """Return what has been run, by target: next (seed), mutants, read, refused, failed, ..."""
    return dict(json.loads(path.read_text("utf-8"))) if path.exists() else {}


class Run:
    """One target, from a seed on; seeds that are asked for by number are not counted."""

    def __init__(self, name: str, counts: Path, start: int | None) -> None:
        self.name, self.counts, self.is_counted = name, counts, start is None
        known = read_counts(counts).get(name, {}) if start is None else {}
        self.start = self.next = start if start is not None else int(known.get("next", 0))
        self.verdicts = Counter({key: int(known.get(key, 0)) for key in _VERDICTS})
        self.max_seconds = float(known.get("max_seconds", 0.0))
        self.max_bytes = int(known.get("max_bytes", 0))

    def until(self, scratch: Path, seconds: float, count: int) -> int:
        """Run mutants until the time is up; return the number of failures."""
        signal.signal(signal.SIGPROF, _too_long)
        before = self.verdicts["failed"]
        end = time.monotonic() + seconds
        kept = time.monotonic()
        for seed, path in mutants(self.name, scratch, range(self.start, self.start + count)):
            self._one(seed, path, scratch)
            self.next = seed + 1
            if time.monotonic() > end:
                break
            if time.monotonic() > kept + _KEPT_EVERY_S:
                self._keep()
                kept = time.monotonic()
        self._keep()
        told = {key: number for key, number in self.verdicts.items() if number}
        print(f"{self.name}: seeds {self.start} to {self.next - 1}, in all {told}", flush=True)
        return self.verdicts["failed"] - before

    def _one(self, seed: int, path: Path, scratch: Path) -> None:
        peak, start = _peak(), time.process_time()
        signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
        try:
            self.verdicts[judged(self.name, path)] += 1
            grown = _peak() - peak
            self.max_bytes = max(self.max_bytes, grown)
            assert grown < MAX_BYTES, f"grew by {grown} bytes"
        except Exception:
            self.verdicts["failed"] += 1
            keep = SUPPORT / "fuzz" / "crashes" / f"{self.name}-{seed}"
            shutil.copytree(scratch / "mutant", keep, dirs_exist_ok=True)
            print(f"{self.name} {seed}: kept at {keep}\n{traceback.format_exc()}", flush=True)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            self.max_seconds = max(self.max_seconds, time.process_time() - start)

    def _keep(self) -> None:
        if not self.is_counted:
            return
        found = read_counts(self.counts)
        found[self.name] = {
            "next": self.next,
            **{key: self.verdicts[key] for key in _VERDICTS},
            "max_seconds": round(self.max_seconds, 2),
            "max_bytes": self.max_bytes,
        }
        lines = [f" {json.dumps(name)}: {json.dumps(found[name])}" for name in sorted(found)]
        self.counts.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


_VERDICTS = ("read", "refused", "failed")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _too_long(*_: object) -> None:
    raise TimeoutError(f"more than {MAX_SECONDS} s of the processor")


if __name__ == "__main__":
    with nobody_writes():
        sys.exit(main())
