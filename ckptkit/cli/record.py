"""`ckptkit record`."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ckptkit.cli import candidates
from ckptkit.cli.model_options import input_options, model_options
from ckptkit.cli.options import flagged_models_noted, one_operand
from ckptkit.cli.report_options import needs_remarks, put_report, report_options

if TYPE_CHECKING:
    from ckptkit.golden.golden import Golden


@click.command("record")
@click.argument(
    "subject",
    nargs=-1,
    required=True,
    metavar="SUBJECT",
    callback=one_operand,
    shell_complete=candidates.paths,
)
@click.option("-o", "--output", "out", required=True, metavar="DIR", help="Where the golden goes.")
@click.option(
    "--on",
    shell_complete=candidates.runners,
    default="CPU:0",
    metavar="RUNNER",
    help="Where to run it, as for `check`.  [default: CPU:0]",
)
@input_options
@click.option(
    "--batch", type=click.IntRange(1), default=8, help="Examples to draw per case.  [default: 8]"
)
@click.option("--cases", type=click.IntRange(1), default=1, help="Cases to draw.  [default: 1]")
@model_options
@click.option(
    "--layers",
    multiple=True,
    metavar="GLOB",
    help="Also record these values inside the model; '*' for all.",
)
@click.option("--no-noise", is_flag=True, help="Do not measure how noisy the outputs are.")
@click.option(
    "--no-blind", is_flag=True, help="Do not look for variables that no output depends on."
)
@click.option(
    "--thorough", is_flag=True, help="Look for these variables one by one, not layer by layer."
)
@click.option(
    "--min-coverage",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Exit 1 if the outputs depend on a smaller share of the variables: 0.95.",
)
@click.option("--float64", is_flag=True, help="Also record what a Keras model computes in float64.")
@click.option("--overwrite", is_flag=True, help="Replace a golden, and print what changes.")
@report_options("record")
@click.pass_context
def command(ctx: click.Context, /, subject: str, **options: Any) -> None:
    """Run SUBJECT and write what it computes to a directory, for `ckptkit check --golden`.

    SUBJECT is a SavedModel, a .keras file, or a checkpoint with --model or --like.  The golden
    holds inputs, outputs, the signature, versions and devices, hashes of all weights and files, and
    the measured noise: the same inputs again, one at a time, on one thread, under XLA.

    \b
    Examples:
      ckptkit record export -o golden
      ckptkit record run/ckpt-3 --model package.module:build -o golden
      ckptkit record export --inputs digits.npz -o golden --overwrite

    Exit code: 0 recorded, 1 the model died or was not wholly restored, 2 could not tell.
    """
    from ckptkit.operations.record.api import record
    from ckptkit.operations.record.changes import changes
    from ckptkit.reports import golden as report
    from ckptkit.reports.text import printable

    out = Path(options["out"])
    shown = {name: options.pop(name) for name in ("fmt", "quiet", "verbose")}
    before = _earlier(out) if options["overwrite"] else None
    for name in ("noise", "blind"):
        options[name] = not options.pop(f"no_{name}")
    with flagged_models_noted():
        golden = record(subject, options.pop("out"), **options)
    changed: list[str] = []
    if before is not None:
        changed = [f"changed: {line}" for line in changes(before, golden)] or ["nothing changed"]
        changed = list(map(printable, changed))
    fmt = shown["fmt"]
    read = [subject, options["like"], *options["inputs"]]  # no page may take their place
    lines = report.lines(golden, out, fmt, verbose=shown["verbose"])
    if fmt == "table":
        put_report(chain(changed, lines), shown)
    else:  # which has no place for what changed
        beside = report.remarks(golden, out) if needs_remarks(fmt) else ()
        put_report(lines, shown, read, out.rglob("*"), chain(changed, beside))


def _earlier(out: Path) -> Golden | None:
    """Return the golden that will be replaced; None where there is none that can be read."""
    from ckptkit.errors import CkptkitError
    from ckptkit.golden.golden import read_golden

    try:
        return read_golden(out)
    except CkptkitError:
        return None
