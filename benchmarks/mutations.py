"""`python -m benchmarks.mutations`: how much of what can go wrong with a model `check` finds.

Every reference model is made anew and damaged in every way that applies to it; each damaged model,
a real file, is held against a golden of the sound one.  Beside it: sound models saved again,
converted, and run in other ways, which must not be blamed.  Each reference model is worked on in a
fork of a process that has TensorFlow imported (`benchmarks._forks`).  With --write the tables go
into docs/mutations.md.  Exit code: 1 where a goal is missed.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import click

from benchmarks import _forks
from benchmarks._architecture_mutants import ARCHITECTURES
from benchmarks._mutants import KINDS
from benchmarks._mutation_checks import Alarm, Verdict
from benchmarks._mutation_models import MODELS
from benchmarks.harness import put

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "mutations.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
HEADERS = (
    *("damage", "mutants", "caught", "named", "outputs only: caught", "cause told"),
    *("layer first", "TensorFlow's asserts", "KerasFileEditor", "np.allclose"),
)
COLUMNS = ("caught", "named", "blind", "cause", "first", "asserts", "editor", "allclose")
ALL = (*MODELS, *ARCHITECTURES)
FURTHER_GOALS = {"caught": 1.0, "named": 0.98, "first": 0.98}
GOALS = {"caught": 1.0, "named": 1.0, "first": 0.95}


def work(name: str, scratch: str) -> tuple[list[Verdict], list[Alarm]]:
    """Return all that is to be said of one reference model and its mutants."""
    from benchmarks import _mutation_checks, _mutation_models

    folder = Path(scratch, name)
    folder.mkdir()
    bases, mutants = _forks.forked(_mutation_models.make, name, folder)
    goldens: dict[str, str] = {}
    alarms: list[Alarm] = []
    for base in bases:
        if base.form == "whole":
            alarms.append(_mutation_checks.whole_alarm(name, base))
            continue
        goldens[base.name] = str(folder / f"golden-{base.name}")
        _mutation_checks.record(base, Path(goldens[base.name]))
        alarms += _mutation_checks.alarms(name, base, goldens[base.name])
    by_name = {base.name: base for base in bases}
    verdicts = _forks.forked(_mutation_checks.judge, name, by_name, mutants, goldens)
    return verdicts, alarms


def work_on_architecture(name: str, scratch: str) -> tuple[list[Verdict], list[Alarm]]:
    """Return all that is to be said of one further model and its mutants."""
    from benchmarks import _architecture_mutants, _mutation_checks

    folder = Path(scratch, name)
    folder.mkdir()
    [base], mutants = _forks.forked(_architecture_mutants.make, name, folder)
    golden = folder / "golden"
    # code may be another when the golden is asked
    _mutation_checks.record(base, golden, ("*",) if base.form == "code" else ())
    alarms = _mutation_checks.alarms(name, base, str(golden))
    limit_s = _forks.LIMIT_S + 120 * len(mutants)  # on a machine that has other work, too
    judge = _mutation_checks.judge_once
    verdicts = _forks.forked(judge, name, base, mutants, str(golden), limit_s=limit_s)
    return verdicts, alarms


def _started(name: str, scratch: str) -> tuple[list[Verdict], list[Alarm], float]:
    began = time.monotonic()
    do = work_on_architecture if name in ARCHITECTURES else work
    verdicts, alarms = do(name, scratch)
    return verdicts, alarms, time.monotonic() - began


def run(
    names: Sequence[str], jobs: int, results: Path, verbose: bool = False
) -> tuple[list[Verdict], list[Alarm]]:
    """Work on reference models, so many at a time; results: a directory, one file per model.

    What has a file there is not worked on again.
    """
    results.mkdir(parents=True, exist_ok=True)
    missing = [name for name in names if not (results / f"{name}.json").exists()]
    if missing:
        _forks.preload()
    with (
        tempfile.TemporaryDirectory(prefix="mutations-") as scratch,
        ProcessPoolExecutor(jobs, get_context("fork")) as pool,
    ):
        tasks = {pool.submit(_started, name, scratch): name for name in missing}
        for task in as_completed(tasks):
            name = tasks[task]
            try:
                told, alarms, took = task.result()
            except RuntimeError as error:  # the others go on
                click.echo(f"{name}: {error}", err=True)
                continue
            click.echo(f"{name}: {len(told)} mutants, {took:.0f} s", err=True)
            if verbose:
                click.echo("\n".join(_details(told)))
            found = {"mutants": [asdict(v) for v in told], "sound": [asdict(a) for a in alarms]}
            (results / f"{name}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    files = [results / f"{name}.json" for name in names]
    known = [json.loads(file.read_text("utf-8")) for file in files if file.exists()]
    return (
        [Verdict(**row) for found in known for row in found["mutants"]],
        [Alarm(**row) for found in known for row in found["sound"]],
    )


# --- the tables -----------------------------------------------------------------------------------


def score(verdicts: Sequence[Verdict], column: str) -> tuple[int, int]:
    """Return how many of those that a question applies to it is answered well for, and all."""
    answers = [getattr(verdict, column) for verdict in verdicts]
    applies = [answer for answer in answers if answer is not None]
    return sum(applies), len(applies)


def _share(verdicts: Sequence[Verdict], column: str) -> str:
    good, count = score(verdicts, column)
    return f"{good}/{count}" if count else ""


def rows(verdicts: Sequence[Verdict]) -> Iterator[tuple[str, ...]]:
    """Yield the cells of each kind, then those of all."""
    for key, kind in KINDS.items():
        of_kind = [verdict for verdict in verdicts if verdict.kind == key]
        if of_kind:
            shares = (_share(of_kind, column) for column in COLUMNS)
            yield kind.what, str(len(of_kind)), *shares
    yield "**all**", str(len(verdicts)), *(_share(verdicts, column) for column in COLUMNS)


FURTHER = (
    *("model", "mutants", "caught", "named", "of the code: caught", "object named"),
    "layer first",
)


def further_rows(verdicts: Sequence[Verdict]) -> Iterator[tuple[str, ...]]:
    """Yield the cells of each further architecture, then those of all."""
    for name in (*ARCHITECTURES, ""):
        of_model = [verdict for verdict in verdicts if name in (verdict.model, "")]
        if not of_model:
            continue
        code = [verdict for verdict in of_model if verdict.kind == "fault"]
        rest = [verdict for verdict in of_model if verdict.kind != "fault"]
        yield (
            *(name.replace("_", " ") or "**all**", str(len(of_model))),
            *(_share(rest, "caught"), _share(rest, "named")),
            *(_share(code, "caught"), _share(code, "named"), _share(of_model, "first")),
        )


def alarm_rows(alarms: Sequence[Alarm]) -> Iterator[tuple[str, ...]]:
    """Yield (what, checks, false alarms)."""
    for what in dict.fromkeys(alarm.what for alarm in alarms):
        same = [alarm for alarm in alarms if alarm.what == what]
        yield what, str(len(same)), str(sum(bool(alarm.false) for alarm in same))
    yield "**all**", str(len(alarms)), str(sum(bool(alarm.false) for alarm in alarms))


def missed(verdicts: Sequence[Verdict], alarms: Sequence[Alarm]) -> list[str]:
    """Return what is short of a goal, one line each."""
    lines = []
    further = [verdict for verdict in verdicts if verdict.model in ARCHITECTURES]
    fixtures = [verdict for verdict in verdicts if verdict.model not in ARCHITECTURES]
    for goals, judged in ((GOALS, fixtures), (FURTHER_GOALS, further)):
        for column, goal in goals.items():
            good, count = score(judged, column)
            if count and good < goal * count:
                lines.append(f"{column}: {good} of {count}")
    lines += [f"false alarm: {a.model} {a.base} {a.what}: {a.false}" for a in alarms if a.false]
    return lines


def lines(verdicts: Sequence[Verdict], alarms: Sequence[Alarm]) -> Iterator[str]:
    """Yield the tables, and what they depend on."""
    from benchmarks.harness import markdown_table

    further = [verdict for verdict in verdicts if verdict.model in ARCHITECTURES]
    fixtures = [verdict for verdict in verdicts if verdict.model not in ARCHITECTURES]
    for headers, cells in ((HEADERS, list(rows(fixtures))), (FURTHER, list(further_rows(further)))):
        align = ("left", *["right"] * (len(headers) - 1))
        yield from markdown_table(cells, headers, align)
        yield ""
    sound = ("sound model", "checks", "false alarms")
    yield from markdown_table(alarm_rows(alarms), sound, ("left", "right", "right"))
    yield ""
    names = ("tensorflow", "keras", "numpy")
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    count, others = (len({v.model for v in part}) for part in (fixtures, further))
    yield (
        f"{count} reference models, {others} others; {os.cpu_count()} processors, "
        f"{platform.machine()}, Python {platform.python_version()}, {packages}"
    )


def _details(verdicts: Sequence[Verdict]) -> Iterator[str]:
    for verdict in verdicts:
        short = [
            c
            for c in ("caught", "named", "blind", "cause", "first")
            if getattr(verdict, c) is False
        ]
        if short:
            yield f"{verdict.model} {verdict.base} {verdict.kind}: not {', '.join(short)}"
            yield from (f"    {text}" for text in verdict.said)


@click.command()
@click.option("--write", is_flag=True, help="Put the tables into docs/mutations.md.")
@click.option("--only", multiple=True, metavar="MODEL", help="These reference models.")
@click.option("--jobs", default=2, show_default=True, help="Reference models at a time.")
@click.option("--results", metavar="DIR", help="Keep verdicts there; repeat none that is there.")
@click.option("-v", "--verbose", is_flag=True, help="Show what was missed, with what was said.")
@click.pass_context
def main(
    ctx: click.Context,
    write: bool,
    only: tuple[str, ...],
    jobs: int,
    results: str | None,
    verbose: bool,
) -> None:
    """Damage reference models, and see what `check` says."""
    unknown = [name for name in only if name not in ALL]
    if unknown or (write and only):
        raise click.UsageError("--write takes all models" if write else f"no model {unknown[0]}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutations-") as scratch:
        verdicts, alarms = run(only or ALL, jobs, Path(results or scratch), verbose)
    table = list(lines(verdicts, alarms))
    short = missed(verdicts, alarms)
    done = {verdict.model for verdict in verdicts}
    short += [f"no verdicts: {name}" for name in only or ALL if name not in done]
    click.echo("\n".join([*table, "", *short, f"{time.monotonic() - began:.0f} s"]))
    if write and done == set(ALL):
        put(DOCUMENT, "\n".join(table), BEGIN, END)
    ctx.exit(bool(short))


if __name__ == "__main__":
    sys.exit(main())
