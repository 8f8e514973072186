"""`python -m benchmarks.conversions`: does `check --localize` name what a conversion damaged?

Small models are written as `.tflite`, `.onnx` and `.keras`; every weight of each file is damaged in
turn, and the file is held against a golden that TensorFlow recorded.  Needs the runtimes.  With
--write the table goes into docs/runtimes.md.  Exit code: 1 where the goal is missed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

from benchmarks import _forks
from benchmarks._conversion_models import ENDINGS, MODELS, damaged, make
from benchmarks.harness import ROOT, markdown_table, put
from ckptkit.runners.registry import RUNNERS

DOCUMENT = ROOT / "docs" / "runtimes.md"
BEGIN, END = "<!-- conversions: begin -->", "<!-- conversions: end -->"
HEADERS = ("runner", "model", "damaged", "outputs differ", "layer first", "beside it")
GOAL = 0.95  # of those that the outputs show, named first or beside the first
_OWN = "--worker"


def judge(name: str, runtime: str, directory: Path) -> Counter[str]:
    """Damage one file in every way; count what was said.  In a process with that backend."""
    import ckptkit

    _forks.use(_forks.run_here)
    found: Counter[str] = Counter()
    path = directory / f"{name}{ENDINGS[runtime]}"
    bug = directory / "damaged" / path.name
    bug.parent.mkdir(exist_ok=True)
    golden = directory / f"{name}.golden"
    for item in damaged(path, runtime):
        bug.write_bytes(item.data)
        report = ckptkit.check(
            bug, golden=golden, on=[f"{runtime}:CPU:0"], outputs_only=True, localize=True
        )
        found["damaged"] += 1
        if report.localization is None:
            continue
        found["outputs differ"] += 1
        first = report.localization.first
        named = [] if first is None else [first.path, *first.fused]
        hits = [bool(item.layers & set(path.split("/"))) for path in named]
        found["layer first"] += hits[:1] == [True]
        found["beside it"] += any(hits) and not hits[0]
        if not any(hits):
            click.echo(
                f"  {name} {runtime}: {item.weight}: {named} for {set(item.layers)}", err=True
            )
    return found


def _workers(directory: Path) -> Iterator[tuple[str, str, Counter[str]]]:
    for name in MODELS:
        _worker(["make", name, str(directory)], "tensorflow")
        for runtime in ENDINGS:
            click.echo(f"{runtime}: {name} ...", err=True)
            told = _worker(["judge", name, str(directory), runtime], runtime)
            yield name, runtime, Counter(json.loads(told.splitlines()[-1]))


def _worker(arguments: list[str], runtime: str) -> str:
    """Run this module in a process whose Keras has the runtime's backend; return what it prints."""
    environment = {**os.environ, **RUNNERS[runtime].environment, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "benchmarks.conversions", _OWN, json.dumps(arguments)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def _work(task: str, name: str, directory: str, *runtime: str) -> None:
    if task == "make":
        make(name, Path(directory))
    else:
        click.echo(json.dumps(judge(name, runtime[0], Path(directory))))


@click.command()
@click.option("--write", is_flag=True, help="Put the table into docs/runtimes.md.")
@click.option(_OWN, "worker", hidden=True)
@click.pass_context
def main(ctx: click.Context, write: bool, worker: str | None) -> None:
    """Damage converted models and localise."""
    if worker is not None:
        _work(*json.loads(worker))
        return
    rows = []
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="conversions-") as directory:
        for name, runtime, found in _workers(Path(directory)):
            total += found
            rows.append((f"`{runtime}`", name, *(str(found[key]) for key in HEADERS[2:])))
    rows.append(("**all**", "", *(str(total[key]) for key in HEADERS[2:])))
    align = ["left", "left", *["right"] * (len(HEADERS) - 2)]
    table = "\n".join(markdown_table(rows, HEADERS, align))
    click.echo(table)
    if write:
        put(DOCUMENT, table, BEGIN, END)
    named = total["layer first"] + total["beside it"]
    ctx.exit(named < GOAL * total["outputs differ"])


if __name__ == "__main__":
    sys.exit(main())
