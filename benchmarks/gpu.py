"""`python -m benchmarks.gpu`: what TensorFlow recorded on a CPU, checked on this machine's GPU.

Goldens of four models, recorded by TensorFlow on a CPU, are checked on GPU:0 with TensorFlow, and
with Keras on JAX and on PyTorch, whichever of them are installed here: in float32, with TF32, by
the mixed policies of bfloat16 and float16, as `.keras` files and as weights with code.  Models,
goldens, and wheels of Keras and of what it needs come along in one directory.  It is made where
TensorFlow is installed; --python and --machine are those of the other machine:

    python -m benchmarks.gpu --prepare build/gpu --python 3.12 --machine x86_64

A machine that has this checkout, that directory, JAX and PyTorch, and no network, runs

    python3 -m benchmarks.gpu --carried build/gpu --jobs 4 --seconds 480 \\
        --results out/gpu.json --page out/gpu.md

Each row is `ckptkit check` in a process of its own with a time limit: one that dies, hangs or finds
no memory is noted, and the others go on.  The results are written after every row; run again, the
rows that compared something are not run once more.  The page says first what was not run.
Exit code: 0 all that ran is within its tolerances, 1 something is not, 2 nothing ran.
"""

from __future__ import annotations

# Nothing but Python here: other packages may have to be installed first.
import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

from benchmarks._gpu_page import page
from benchmarks._gpu_rows import (
    BEYOND,
    COMPARED,
    FAILED,
    NOT_RUN,
    RUNTIMES,
    WITHIN,
    Outcome,
    Row,
    command,
    rows,
    say,
)

ROOT = Path(__file__).resolve().parents[1]
LEAST_S = 5.0  # in which a row can be done
_GRACE_S = 10.0  # that `ckptkit check` gets beyond its own limit, to say where the model hung
# what is kept of `ckptkit.check/1`
_OF_OUTPUT = ("output", "dtype", "shape", "status", "ok", "tier", "reason", "rtol", "atol")
_MEASURED = ("needed", "max_abs", "max_rel", "rms", "cosine")
_OF_RUN = ("runner", "seconds", "devices")
_OF_ENVIRONMENT = ("runtime", "versions", "python", "device_name", "tf32", "policy")
_TAIL = 300  # characters of what a row printed


@dataclass
class Measuring:
    """The run of all rows: what is known so far, kept in a file.

    deadline: of the monotonic clock.  site: where carried packages were installed.
    """

    carried: Path
    device: str
    results: Path
    deadline: float
    row_s: float
    site: Path
    done: dict[str, Outcome] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def plan(self, todo: Iterable[Row]) -> None:
        """Note all rows in their order, as not run where nothing is known of them."""
        known = self.done
        self.done = {row.key: Outcome(row.key, NOT_RUN, "it was not come to") for row in todo}
        self.done |= {key: outcome for key, outcome in known.items() if key in self.done}

    def run(self, todo: Iterable[Row], jobs: int) -> None:
        """Run the rows, `jobs` at a time."""
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(self._row, todo))

    def _row(self, row: Row) -> None:
        before = self.done.get(row.key)
        if before is not None and before.outcome in COMPARED:
            return
        left = min(self.row_s, self.deadline - time.monotonic())
        if left < LEAST_S:
            self.note(Outcome(row.key, NOT_RUN, "no time was left"))
            return
        limit = max(LEAST_S, left - _GRACE_S)
        asked = command(row, self.carried, self.device, limit)
        status, printed, seconds = limited(asked, left, self.site)
        outcome = judged(row.key, status, printed, seconds)
        say(f"{row.key}: {outcome.outcome}{f', {outcome.why}' if outcome.why else ''}")
        self.note(outcome)

    def note(self, outcome: Outcome) -> None:
        """Keep an outcome, in the file too."""
        with self._lock:
            self.done[outcome.key] = outcome
            new = self.results.with_suffix(".new")
            new.write_text(text_of(self.to_json()), encoding="utf-8")
            new.replace(self.results)

    def to_json(self) -> dict[str, Any]:
        return {
            "device": self.device,
            "carried": fingerprint(self.carried),
            "recorded_with": json.loads((self.carried / "prepared.json").read_text("utf-8")),
            "rows": [outcome.to_json() for outcome in self.done.values()],
        }

    def resume(self) -> None:
        """Take up what an earlier run found with the same goldens on the same device."""
        try:
            found = json.loads(self.results.read_text("utf-8"))
        except (OSError, ValueError):
            return
        if (found["device"], found["carried"]) == (self.device, fingerprint(self.carried)):
            self.done = {
                row["key"]: Outcome(**{**row, "outputs": tuple(row["outputs"])})
                for row in found["rows"]
            }


def text_of(results: Mapping[str, Any]) -> str:
    """Return results as JSON, a line per row."""
    head = json.dumps({key: value for key, value in results.items() if key != "rows"}, indent=1)
    rows = ",\n".join(map(json.dumps, results["rows"]))
    return f'{head[:-2]},\n "rows": [\n{rows}\n ]\n}}\n'


def fingerprint(carried: Path) -> str:
    """Return a digest of the goldens that are carried."""
    manifests = sorted(carried.glob("goldens/*/manifest.json"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in manifests)).hexdigest()


def limited(asked: Sequence[str], seconds: float, site: Path) -> tuple[int | None, str, float]:
    """Run a command; return (exit code, what it printed, seconds).

    The code is None where it was ended because its time was up.
    """
    paths = [str(ROOT), str(site), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    began = time.monotonic()
    process = subprocess.Popen(
        asked,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that all of it can be ended
    )
    try:
        told, said = process.communicate(timeout=seconds)
        status: int | None = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        told, said = process.communicate()
        status = None
    return status, told or said, time.monotonic() - began


def judged(key: str, status: int | None, printed: str, seconds: float) -> Outcome:
    """Return what an exit code and a report of `ckptkit check` mean."""
    if status is None:
        return Outcome(key, FAILED, f"ended after {seconds:.0f} s", seconds=seconds)
    try:
        report = json.loads(printed)
        outputs = tuple(_part(item, *_OF_OUTPUT, *_MEASURED) for item in report["outputs"])
        ran = _ran(report["runs"][-1]) if report["runs"] else None
        found = [item["message"] for item in report["findings"] if item["severity"] == "error"]
    except (ValueError, KeyError, TypeError):
        outcome = NOT_RUN if status == 2 else FAILED
        return Outcome(key, outcome, printed.strip()[-_TAIL:], seconds=seconds)
    if status == 0 and outputs:
        return Outcome(key, WITHIN, "", outputs, ran, seconds)
    outcome = BEYOND if any(not item["ok"] for item in outputs) else FAILED
    return Outcome(key, outcome, "; ".join(found)[:_TAIL], outputs, ran, seconds)


def _part(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}


def _ran(run: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **_part(run, *_OF_RUN),
        "environment": _part(run["environment"], *_OF_ENVIRONMENT),
    }


def install(wheels: Path, site: Path) -> None:
    """Install those carried wheels whose package is not here."""
    needed = [path for path in sorted(wheels.glob("*.whl")) if not _is_here(path)]
    if needed:
        say(f"installing {', '.join(path.name.split('-')[0] for path in needed)}")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        subprocess.run([*pip, "--no-compile", f"--target={site}", *map(str, needed)], check=True)


def _is_here(wheel: Path) -> bool:
    try:
        return bool(version(wheel.name.split("-")[0].replace("_", "-")))
    except PackageNotFoundError:
        return False


def measure(options: argparse.Namespace, site: Path) -> Measuring:
    """Run all rows for which there is a runtime, a device and time."""
    began = time.monotonic()
    install(options.carried / "wheels", site)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    deadline = began + options.seconds
    measuring = Measuring(
        options.carried, options.device, options.results, deadline, options.row_seconds, site
    )
    measuring.resume()
    able: dict[str, list[Row]] = {}
    todo = rows(tuple(RUNTIMES), options.device.upper().startswith("GPU"))
    # so that the page says what was not come to, whatever ends the script
    measuring.plan(todo)
    for runtime, module in RUNTIMES.items():
        mine = [row for row in todo if row.runtime == runtime]
        if runtime not in options.runtime:
            _skip(measuring, mine, "it was not asked for")
        elif find_spec(module) is None:
            _skip(measuring, mine, f"{module} is not installed there")
        else:
            able[runtime] = mine
    # where a runtime cannot run its first row it has no such device, and every row would say so
    first = [mine[0] for mine in able.values()]
    measuring.run(first, options.jobs)
    for row in first:
        found = measuring.done[row.key]
        if found.outcome == NOT_RUN:
            _skip(measuring, able.pop(row.runtime), found.why)
    rest = [row for row in todo if row.runtime in able and row not in first]
    measuring.run(rest, options.jobs)
    return measuring


def _skip(measuring: Measuring, mine: Iterable[Row], why: str) -> None:
    for row in mine:
        if measuring.done.get(row.key, Outcome("", NOT_RUN)).outcome == NOT_RUN:
            measuring.note(Outcome(row.key, NOT_RUN, why))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    add = parser.add_argument
    add("--prepare", type=Path, metavar="DIR", help="make what is carried; needs TensorFlow")
    add("--python", default=here, help="of the carried wheels [%(default)s]")
    add("--machine", default="x86_64", help="of the carried wheels [%(default)s]")
    add("--carried", type=Path, default=ROOT / "build" / "gpu", metavar="DIR")
    add("--device", default="GPU:0")
    add("--runtime", action="append", choices=tuple(RUNTIMES), help="these alone [all]")
    add("--jobs", type=int, default=2, help="rows at a time [%(default)s]")
    add("--seconds", type=float, default=480.0, help="for all rows [%(default)s]")
    add("--row-seconds", type=float, default=120.0, help="for one row [%(default)s]")
    add("--results", type=Path, default=ROOT / "docs" / "gpu.json", metavar="FILE")
    add("--page", type=Path, default=ROOT / "docs" / "gpu.md", metavar="FILE")
    add("--only-page", action="store_true", help="write the page of results that are there")
    options = parser.parse_args()
    options.runtime = options.runtime or list(RUNTIMES)
    return options


def main() -> int:
    """Prepare, or measure and write the page."""
    options = _options()
    if options.prepare is not None:
        from benchmarks._gpu_prepare import prepare

        prepare(options.prepare, options.python, options.machine)
        return 0
    if not options.only_page:
        if not (options.carried / "prepared.json").is_file():
            sys.exit(f"{options.carried}: nothing is carried there; --prepare makes it")
        with tempfile.TemporaryDirectory(prefix="gpu-site-") as site:
            measure(options, Path(site))
    results = json.loads(options.results.read_text("utf-8"))
    options.page.write_text(page(results), encoding="utf-8")
    print(options.page.read_text("utf-8"))
    outcomes = [row["outcome"] for row in results["rows"]]
    if not any(outcome in COMPARED for outcome in outcomes):
        return 2
    return int(any(outcome in (BEYOND, FAILED) for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
