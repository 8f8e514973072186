"""Models in every form, restored on every runner: does `check` say what is so?

    python -m benchmarks.restores [--only MODEL] [--runtime RUNTIME] [--out DIR] [--write]

Truth is what the live model holds after the restore, beside what it held when the file was written.
Factors of LoRA are in the kernels that Keras saves, and 0 after it loads them: there, that is so.
A false alarm is a restore of every variable of which `check` says something else; a false pass the
other way round.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

import ckptkit
from ckptkit.operations.execution.coverage import coverage
from ckptkit.runners.marks import is_marked
from ckptkit.runners.registry import RUNNERS

PAGE = Path(__file__).parent.parent / "docs" / "mutations.md"
BEGIN, END = "<!-- restores: begin -->", "<!-- restores: end -->"
RUNTIMES = ("tensorflow", "keras-jax", "keras-torch", "tf-keras")
_ROOT = Path(__file__).parent.parent


def child(arguments: list[str], environment: dict[str, str], cases: Any = None) -> Any:
    """Run `benchmarks._restore_child`; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks._restore_child", *arguments],
        input=json.dumps(cases),
        env={
            **os.environ,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "CUDA_VISIBLE_DEVICES": "-1",
            **environment,
        },
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise click.ClickException(f"{' '.join(arguments)}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def verdict_of(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row with what `check` says of it, judged."""
    if "refused" in row:
        return {**row, "said": row["refused"], "judged": "refused"}
    done = row["result"]
    try:
        found = coverage(
            ckptkit.open(row["file"]),
            ckptkit.open(done["path"]),
            is_marked,
            error=done["error"],
            places=done["root_children"],
            by=done["by"],
            pairs=done["pairs"],
            left_out=done["left_out"],
        )
    except ckptkit.CkptkitError as error:
        return {**row, "said": str(error), "judged": "error"}
    said = "; ".join(f"{f.severity} {f.code}: {f.message}" for f in found.findings)
    judged = {
        (True, True): "right",
        (False, False): "right: lacks",
        (True, False): "FALSE ALARM",
        (False, True): "FALSE PASS",
    }[row["truth_holds"] or "merged" in found.counts, found.ok]
    return {**row, "said": f"{found.verdict} | {said}", "judged": judged, "by": done["by"]}


def written(folder: Path) -> list[dict[str, Any]]:
    """Return the cases, made in `folder` where they are not there."""
    told = folder / "cases.json"
    if not told.exists():
        cases = child(["write", "keras", str(folder)], {"KERAS_BACKEND": "tensorflow"})
        if find_spec("tf_keras") is not None:
            environment = {"TF_USE_LEGACY_KERAS": "1"}
            cases += child(["write", "tf_keras", str(folder)], environment)
        told.write_text(json.dumps(cases))
    found: list[dict[str, Any]] = json.loads(told.read_text())
    return found


def run(folder: Path, runtimes: Sequence[str], only: Sequence[str]) -> list[dict[str, Any]]:
    """Return the judged rows of all runtimes."""
    cases = written(folder)
    cases = [case for case in cases if not only or case["model"] in only]
    rows = []
    for runtime in runtimes:
        library = "tf_keras" if runtime == "tf-keras" else "keras"
        mine = [{**case, "code_library": library} for case in cases if _fits(case, library)]
        file = folder / f"{runtime}.jsonl"
        done = {_id(row) for row in _lines(file)}
        left = [case for case in mine if _id(case) not in done]
        if left:
            child(["restore", runtime, str(file)], dict(RUNNERS[runtime].environment), left)
        wanted = {_id(case) for case in mine}
        judged = (verdict_of(row) for row in _lines(file) if _id(row) in wanted)
        rows += [{**row, "runtime": runtime} for row in judged]
    return rows


def _id(row: dict[str, Any]) -> tuple[str, ...]:
    return row["library"], row["model"], row["form"]


def _lines(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _fits(case: dict[str, Any], library: str) -> bool:
    return case["library"] == library or (
        library == "keras" and case["form"] in ("weights.h5", "whole.h5", "model.keras")
    )


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the table of all restores, by runner and by who wrote the file."""
    lines = [
        "| runner | files of | restores | whole, and said so | not whole, and said so "
        "| asked which is meant | false alarms | false passes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], Counter[str]] = {}
    for row in rows:
        groups.setdefault((row["runtime"], row["library"]), Counter())[row["judged"]] += 1
    order = ("right", "right: lacks", "refused", "FALSE ALARM", "FALSE PASS")
    for (runtime, library), counts in groups.items():
        numbers = [str(counts[judged]) for judged in order]
        lines.append(f"| {runtime} | {library} | {counts.total()} | {' | '.join(numbers)} |")
    return lines


def write(rows: list[dict[str, Any]], page: Path = PAGE) -> None:
    """Put the table into the page, between its marks."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    page.write_text("\n".join([before + BEGIN, *table(rows), END + after]), encoding="utf-8")


@click.command()
@click.option("--only", multiple=True, help="Names of models.")
@click.option("--runtime", "runtimes", multiple=True, default=RUNTIMES)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Keeps files and results, and goes on."
)
@click.option("--write", "rewrites", is_flag=True, help="Rewrite docs/mutations.md.")
def main(
    only: tuple[str, ...], runtimes: tuple[str, ...], out: Path | None, rewrites: bool
) -> None:
    """Restore all models in all forms, and print what is said wrongly; exit 1 where anything is."""
    with tempfile.TemporaryDirectory(prefix="ckptkit-restores-") as scratch:
        folder = out or Path(scratch)
        rows = run(folder, [name for name in runtimes if is_here(name)], only)
    for row in rows:
        if row["judged"] != "right":
            columns = ("judged", "runtime", "library", "model", "form")
            click.echo(f"{' '.join(row[key] for key in columns)}: {row['said'][:300]}")
    for line in table(rows):
        click.echo(line)
    if rewrites:
        write(rows)
    if any(row["judged"] in ("FALSE ALARM", "FALSE PASS", "error") for row in rows):
        raise SystemExit(1)


def is_here(runtime: str) -> bool:
    """Whether the package of a runtime is installed."""
    return find_spec(RUNNERS[runtime].package) is not None


if __name__ == "__main__":
    main()
