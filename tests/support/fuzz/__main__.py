"""`make fuzz`: mutants of every reader, until the time is up.

    PYTHONPATH=tests python -m support.fuzz [--seconds S] [--target NAME] [--start SEED] [--count N]

A mutant that ends in another exception than a refusal, takes more than 5 s of the
processor or makes the process
grow is kept below tests/support/fuzz/crashes/NAME-SEED and printed; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from support.fuzz.targets import MAX_SECONDS, TARGETS, judged, mutants
from support.places import SUPPORT

MAX_BYTES = 256 << 20  # that the peak memory of the process may grow by on one mutant


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=60.0)
    options.add_argument("--target", choices=sorted(TARGETS), action="append")
    options.add_argument("--start", type=int, default=0)
    options.add_argument("--count", type=int, default=1 << 62)
    asked = options.parse_args()
    names = asked.target or sorted(TARGETS)
    failures = 0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        for name in names:
            failures += fuzz(
                name, Path(scratch), asked.seconds / len(names), asked.start, asked.count
            )
    return 1 if failures else 0


def fuzz(name: str, scratch: Path, seconds: float, start: int, count: int) -> int:
    """Run one target until the time is up; return the number of failures."""
    verdicts: Counter[str] = Counter()
    signal.signal(signal.SIGPROF, _too_long)
    end = time.monotonic() + seconds
    for seed, path in mutants(name, scratch, range(start, start + count)):
        before = _peak()
        signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
        try:
            verdicts[judged(name, path)] += 1
            assert _peak() - before < MAX_BYTES, f"grew by {_peak() - before} bytes"
        except Exception:
            verdicts["FAILED"] += 1
            keep = SUPPORT / "fuzz" / "crashes" / f"{name}-{seed}"
            shutil.copytree(scratch / "mutant", keep, dirs_exist_ok=True)
            print(f"{name} {seed}: kept at {keep}\n{traceback.format_exc()}", flush=True)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        if time.monotonic() > end:
            break
    print(
        f"{name}: {sum(verdicts.values())} mutants from seed {start}, {dict(verdicts)}", flush=True
    )
    return verdicts["FAILED"]


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _too_long(*_: object) -> None:
    raise TimeoutError(f"more than {MAX_SECONDS} s of the processor")


if __name__ == "__main__":
    sys.exit(main())
