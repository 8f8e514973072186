"""Measuring: whole processes, or functions inside one process, taken in turns.

Machines are noisy, and the noise changes slowly: A B A B A B with medians compares like with like,
A A A B B B does not.  Only ratios within one run mean anything.

This process must stay small (no numpy, no TensorFlow): what Linux reports as the peak memory of a
child starts from the memory of the process that forked it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
CKPTKIT = (PYTHON, "-m", "ckptkit")


@dataclass(frozen=True)
class Result:
    """One line of the table.

    measure: "s", "CPU s" (of all processes together), "MB" (peak resident memory; less is better)
        or "GB/s" (more is better).
    ratio: how many times better than the peer.  goal: of the ratio, or of `ours`.
    """

    name: str
    work: str
    measure: str
    ours: float
    peer: float | None = None
    peer_name: str = ""
    goal: float | None = None
    goal_is_of_ratio: bool = True

    @property
    def ratio(self) -> float | None:
        if self.peer is None:
            return None
        return self.ours / self.peer if self.measure == "GB/s" else self.peer / self.ours

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is met; None where there is none."""
        if self.goal is None:
            return None
        if self.goal_is_of_ratio:
            return self.ratio is not None and self.ratio >= self.goal
        return self.ours >= self.goal if self.measure == "GB/s" else self.ours <= self.goal

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio, "is_met": self.is_met}


class Cost(NamedTuple):
    """What a process took: median wall seconds, greatest peak resident memory in bytes.

    cpu_seconds: the median of what it and all processes below it took of the processors.
    """

    seconds: float
    peak_bytes: int
    cpu_seconds: float


def processes(
    commands: Mapping[str, Sequence[str]], rounds: int = 5, codes: Mapping[str, int] | None = None
) -> dict[str, Cost]:
    """Run commands in turns, after one round that warms caches.

    codes: the exit codes that are expected, where not 0.  Raises RuntimeError for any other.
    """
    codes = codes or {}
    for label, command in commands.items():
        _run(command, codes.get(label, 0))
    runs: dict[str, list[Cost]] = {label: [] for label in commands}
    for _ in range(rounds):
        for label, command in commands.items():
            runs[label].append(_run(command, codes.get(label, 0)))
    return {
        label: Cost(
            statistics.median(cost.seconds for cost in costs),
            max(cost.peak_bytes for cost in costs),
            statistics.median(cost.cpu_seconds for cost in costs),
        )
        for label, costs in runs.items()
    }


def _run(command: Sequence[str], code: int) -> Cost:
    start = time.perf_counter()
    with subprocess.Popen(
        command, cwd=ROOT, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        _pid, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != code:
        raise RuntimeError(f"exit code {process.returncode}: {' '.join(command)}")
    peak_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Cost(seconds, peak_bytes, usage.ru_utime + usage.ru_stime)


def _environment() -> dict[str, str]:
    """Return this process's environment, but with what users have: compiled modules on disk."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment.pop("PYTHONUNBUFFERED", None)
    return environment


# --- inside one process -----------------------------------------------------------------------


def inside(maker: str, *arguments: str, rounds: int = 7) -> dict[str, float]:
    """Return the median seconds of each function that `maker` ("module:function") returns.

    They run in turns in one child process, each once before for warmth.
    """
    command = (PYTHON, "-m", "benchmarks.harness", maker, str(rounds), "", *arguments)
    done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr.decode()}")
    times: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return {label: statistics.median(seconds) for label, seconds in times.items()}


def alone(maker: str, label: str, *arguments: str) -> tuple[str, ...]:
    """Return the command that runs one of `maker`'s functions once, in a process of its own."""
    return PYTHON, "-m", "benchmarks.harness", maker, "0", label, *arguments


def _child(maker: str, rounds: str, only: str, *arguments: str) -> None:
    from importlib import import_module

    module, _, function = maker.partition(":")
    functions: dict[str, Callable[[], object]] = getattr(import_module(module), function)(
        *arguments
    )
    chosen = {label: run for label, run in functions.items() if only in ("", label)}
    for run in chosen.values():
        run()
    times: dict[str, list[float]] = {label: [] for label in chosen}
    for _ in range(int(rounds)):
        for label, run in chosen.items():
            start = time.perf_counter()
            run()  # the result is dropped before the next one starts
            times[label].append(time.perf_counter() - start)
    print(json.dumps(times))


if __name__ == "__main__":
    _child(*sys.argv[1:])


def markdown_table(
    rows: Iterable[Sequence[object]], headers: Sequence[str], align: Sequence[str]
) -> Iterator[str]:
    """Yield the lines of a table whose cells are Markdown of our own: nothing is escaped."""
    from tabulate import tabulate

    texts = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    yield from tabulate(
        texts, list(headers), tablefmt="github", colalign=list(align), disable_numparse=True
    ).split("\n")


def put(document: Path, body: str, begin: str, end: str) -> None:
    """Put text between two marks of a document."""
    before, _, rest = document.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    document.write_text(f"{before}{begin}\n{body}\n{end}{after}", encoding="utf-8")
