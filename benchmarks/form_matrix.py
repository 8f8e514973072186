"""`python -m benchmarks.form_matrix`: reference models in every form, compared and converted.

Each reference model is trained and written twice, in two processes.  Of the first, all forms must
be the same by `diff`.  Then each form is converted into each other one that ckptkit writes, with
the second's file as `--like`, and the result is run by TensorFlow or Keras: it must compute what
the first computes.  A form that Keras cannot write is no cell.  With --write both tables go into
docs/formats.md.  Exit code: 1 where a form differs, an output differs, or too many are refused.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import click

from benchmarks.harness import ROOT, put

DOCUMENT = ROOT / "docs" / "formats.md"
BEGIN, END = "<!-- matrix: begin -->", "<!-- matrix: end -->"
MAX_REFUSED = 20
# What `fixtures` writes, and the format that a conversion into it writes.
FORMS = {
    "ckpt": "tensor-bundle",
    "model.ckpt": "tensor-bundle",
    "saved_model": "saved-model",
    "export": "saved-model",
    "model.keras": "keras",
    "model.weights.h5": "weights.h5",
    "model.h5": "",
}
# Checkpoints that hold more than the model that the other forms are of: the part to look at.
PARTS = {("gan", "ckpt"): "#generator"}
SEEDS = (20, 21)  # of the files that are converted, and of those whose structure is taken
HEADERS = ("model", "forms", "compared", "the same", "converted", "refused", "run", "equal outputs")


class Cell(NamedTuple):
    """A conversion: refused: why, or ""; path: of what was written."""

    model: str
    source: str
    target: str
    refused: str
    path: Path | None


@dataclass
class Row:
    """What was found of one model; different, unequal: what was not as it should be."""

    model: str
    forms: int
    compared: int
    different: list[str]
    cells: list[Cell]
    run: int
    unequal: list[str]

    def texts(self) -> tuple[str, ...]:
        refused = sum(bool(cell.refused) for cell in self.cells)
        numbers = (
            *(self.forms, self.compared, self.compared - len(self.different)),
            *(len(self.cells) - refused, refused, self.run, self.run - len(self.unequal)),
        )
        return (self.model, *map(str, numbers))


def forms_of(directory: Path) -> list[str]:
    """Return the native forms that a model was written in."""
    return [
        form
        for form in FORMS
        if (directory / form).exists() or (directory / f"{form}.index").exists()
    ]


def compare(name: str, directory: Path) -> Iterator[tuple[str, str]]:
    """Yield ("A against B", what differs or "") for each two forms of one instant."""
    import ckptkit

    for one, other in permutations(forms_of(directory), 2):
        parts = [f"{directory / form}{PARTS.get((name, form), '')}" for form in (one, other)]
        result = ckptkit.diff(parts[0], parts[1])
        found = {status: n for status, n in result.counts.items() if n and status != "equal"}
        yield f"{one} against {other}", "" if result.same else str(found)


def convert_all(name: str, source: Path, like: Path, scratch: Path) -> Iterator[Cell]:
    """Convert each form into each other one, with the structure of the other instance."""
    import ckptkit
    from ckptkit.errors import CkptkitError

    native = forms_of(source)
    for start, target in permutations(native, 2):
        if not FORMS[target]:
            continue
        path = f"{source / start}{PARTS.get((name, start), '')}"
        out = scratch / "out" / name / f"{start}-to" / target
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            ckptkit.convert(path, out, to=FORMS[target], like=like / target, weights_only=True)
        except CkptkitError as error:
            # forms of one model are refused for the same reasons, wherever they lie
            why = error.message.replace(path, "the source")
            why = why.replace(str(like / target), "the template")
            yield Cell(name, start, target, why, None)
        else:
            yield Cell(name, start, target, "", out)


# --- in processes with TensorFlow -----------------------------------------------------------------


def _worker(task: str, *arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks._form_matrix_models", task, *arguments]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def _outputs(name: str, source: Path, cells: Sequence[Cell]) -> tuple[int, list[str]]:
    """Return how many files of one model were run, and those that compute something else."""
    files = [f"{cell.source}|{cell.target}|{cell.path}" for cell in cells if cell.path]
    told = _worker("judge", name, str(source), *files)
    lines = [line.split("\t") for line in told.splitlines() if "\t" in line]
    unequal = [f"{name}: {what}: {said}" for what, said in lines if said != "equal"]
    return len(lines), unequal


# --- the tables -----------------------------------------------------------------------------------


def judge(name: str, scratch: Path) -> Row:
    """Return the row of one model, whose files are made."""
    source, like = (scratch / str(seed) / name for seed in SEEDS)
    compared = list(compare(name, source))
    different = [f"{name}: {what}: {how}" for what, how in compared if how]
    cells = list(convert_all(name, source, like, scratch))
    run, unequal = _outputs(name, source, cells)
    return Row(name, len(forms_of(source)), len(compared), different, cells, run, unequal)


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """Yield both tables."""
    from ckptkit.reports.table import render

    texts = [row.texts() for row in rows]
    totals = [str(sum(int(text[at]) for text in texts)) for at in range(1, len(HEADERS))]
    align = ["left", *["right"] * (len(HEADERS) - 1)]
    yield from render([*texts, ("all", *totals)], HEADERS, "markdown", align)
    yield ""
    refused = [cell for row in rows for cell in row.cells if cell.refused]
    by_reason: dict[tuple[str, str], list[str]] = {}
    for cell in refused:
        by_reason.setdefault((cell.model, _reason(cell.refused)), []).append(
            f"{cell.source} to {cell.target}"
        )
    reasons = [(model, ", ".join(what), why) for (model, why), what in by_reason.items()]
    yield from render(reasons, ("model", "refused", "why"), "markdown", ["left"] * 3)


def _reason(message: str) -> str:
    """Return the first part of a refusal, of which the others follow."""
    return message.partition("; ")[0]


@click.command()
@click.argument("names", nargs=-1)
@click.option("--write", is_flag=True, help="Put the tables into docs/formats.md.")
@click.pass_context
def main(ctx: click.Context, names: tuple[str, ...], write: bool) -> None:
    """Compare and convert all forms of the reference models NAMES (all of them)."""
    with tempfile.TemporaryDirectory(prefix="ckpt-matrix-") as directory:
        scratch = Path(directory)
        for seed in SEEDS:
            _worker("make", str(seed), str(scratch / str(seed)), *names)
        found = []
        for path in sorted((scratch / str(SEEDS[0])).iterdir()):
            if len(forms_of(path)) > 1:
                found.append(judge(path.name, scratch))
                click.echo(" ".join(found[-1].texts()), err=True)
    table = "\n".join(lines(found))
    click.echo(table)
    wrong = [line for row in found for line in (*row.different, *row.unequal)]
    for line in wrong:
        click.echo(line, err=True)
    if write:
        put(DOCUMENT, table, BEGIN, END)
    refused = sum(bool(cell.refused) for row in found for cell in row.cells)
    ctx.exit(bool(wrong) or refused > MAX_REFUSED)


if __name__ == "__main__":
    sys.exit(main())
