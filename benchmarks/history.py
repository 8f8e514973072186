"""`ckptkit history` on runs of 40 checkpoints, and what it costs on 20 of 100 MB.

    python -m benchmarks.history [--write] [DIRECTORY]

What was planted is set against what is found, sound runs against no finding; the CPU time of a step
against `diff` of two neighbours of the same run, with the compiled library and without.  DIRECTORY
keeps the runs for the next time.  With --write the figures go into docs/history.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

import ckptkit
from benchmarks import _history_runs as runs
from benchmarks.harness import Cost, markdown_table, processes, put
from ckptkit.compare.kernel import VARIABLE

PAGE = Path(__file__).resolve().parents[1] / "docs" / "history.md"
BEGIN, END = "<!-- measured -->", "<!-- /measured -->"
CODES = {
    "dead": "units.dead",
    "reinitialised": "layer.reinitialised",
    "older": "checkpoint.older",
    "frozen": "layer.stopped",
    "nan": "weight.nan",
    "optimizer": "optimizer.reset",
    "exploding": "norm.exploding",
    "rate of zero": "weights.stopped",
}
LARGE_STEPS, LARGE_LAYERS, WIDTH = 20, 24, 1024  # 24 kernels of 4 MiB


def planted(top: Path) -> Iterator[tuple[str, str, int, str, str]]:
    """Yield run, fault, step and layer that was planted, and what was found of it."""
    for name, faults in runs.FAULTS.items():
        history = ckptkit.history(top / name)
        steps = {step.number: step.name_number for step in history.steps}
        for kind, number, layer in faults:
            found = [
                finding
                for finding in history.findings
                if finding.code == CODES[kind]
                and finding.step is not None
                and steps[finding.step] == number
                and (not layer or layer in finding.layers)
            ]
            yield name, kind, number, layer, found[0].code if found else "not found"


def sound(top: Path) -> Iterator[tuple[str, int, int, str]]:
    """Yield run, tensors, steps, and what was found."""
    for name in runs.SOUND:
        history = ckptkit.history(top / "sound" / name)
        found = [f"{f.code}: {f.message}" for f in history.findings if f.severity != "note"]
        yield name, len(history.tensors), len(history.steps), "; ".join(found) or "no findings"


def make_large(directory: Path) -> None:
    """Write a run of 20 checkpoints of 100 MB."""
    import numpy as np

    from ckptkit.dtypes import Array
    from ckptkit.stores.tensor_bundle.writer import write_tensor_bundle
    from ckptkit.stores.writing import TensorToWrite

    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    shape = (WIDTH, WIDTH)
    names = [f"layer_{number}/kernel" for number in range(LARGE_LAYERS)]
    arrays = {name: 0.03 * rng.standard_normal(shape, np.float32) for name in names}

    def blocks(key: str) -> Iterator[tuple[int, Array]]:
        yield 0, arrays[key].reshape(-1)

    for step in range(LARGE_STEPS):
        if (directory / f"ckpt-{step}.index").exists():
            continue
        for name in names:
            arrays[name] += 1e-3 * rng.standard_normal(shape, np.float32)
        tensors = [TensorToWrite(name, "float32", shape) for name in names]
        write_tensor_bundle(directory / f"ckpt-{step}", tensors, blocks)


def costs(directory: Path) -> dict[str, Cost]:
    """Return what history, diff and ls cost, with the library that is here."""
    python = [sys.executable, "-m", "ckptkit"]
    old, new = (str(directory / f"ckpt-{step}") for step in (3, 4))
    cache = str(directory / "cache.json")
    ones = ["--jobs", "1"]
    return processes(
        {
            "history": [*python, "history", str(directory), "--no-cache", *ones],
            "history again": [*python, "history", str(directory), "--cache", cache],
            "diff": [*python, "diff", old, new, *ones],
            "ls": [*python, "ls", old],
        },
        rounds=3,
        codes={"diff": 1},
    )


def page(top: Path) -> Iterator[str]:
    """Yield the figures as Markdown."""
    yield from markdown_table(
        planted(top),
        ("run", "planted", "at save", "in", "found"),
        ("left", "left", "right", "left", "left"),
    )
    yield ""
    yield from markdown_table(
        sound(top), ("sound run", "tensors", "steps", "found"), ("left", "right", "right", "left")
    )
    yield ""
    yield f"{LARGE_STEPS} checkpoints of 100 MB, one thread, seconds of CPU:"
    yield ""
    rows = []
    before = os.environ.get(VARIABLE)
    for label, kernel in (("compiled", ""), ("numpy", "numpy")):
        os.environ[VARIABLE] = kernel
        found = costs(top / "large")
        step = found["history"].cpu_seconds / LARGE_STEPS
        diff, again, ls = (found[n].cpu_seconds for n in ("diff", "history again", "ls"))
        rows.append(
            (
                *(label, f"{step:.3f}", f"{diff:.3f}", f"{step / diff:.2f}"),
                f"{found['history'].peak_bytes / 1e6:.0f} MB",
                f"{again:.2f}, {again / ls:.1f} times `ls` of one",
            )
        )
    os.environ.pop(VARIABLE) if before is None else os.environ.update({VARIABLE: before})
    headers = ("measured by", "a step", "`diff` of two", "ratio", "memory", "again, all 20 steps")
    yield from markdown_table(rows, headers, ("left", *["right"] * 5))


@click.command()
@click.option("--write", is_flag=True, help="Put the figures into docs/history.md.")
@click.argument("directory", required=False, type=click.Path(path_type=Path))
def main(write: bool, directory: Path | None) -> None:
    """Measure, and print or write the figures."""
    with tempfile.TemporaryDirectory() as scratch:
        top = directory or Path(scratch)
        command = [sys.executable, "-m", "benchmarks._history_runs", str(top)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        # in a process of its own: a child is charged with what its parent holds when it starts
        code = "import sys; from benchmarks.history import *; make_large(Path(sys.argv[1]))"
        subprocess.run([sys.executable, "-c", code, str(top / "large")], check=True)
        text = "\n".join(page(top))
    print(text)
    if write:
        put(PAGE, text, BEGIN, END)


if __name__ == "__main__":
    main()
