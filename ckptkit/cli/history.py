"""`ckptkit history`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from ckptkit.checkpoint.naming import ROLES
from ckptkit.cli import candidates
from ckptkit.cli.executors import executor_of, executor_options
from ckptkit.cli.options import CommaList, flat, operands
from ckptkit.cli.report_options import needs_remarks, put_report, report_options
from ckptkit.cli.store_options import store_options
from ckptkit.reports.history import text as report
from ckptkit.reports.table import is_bare

if TYPE_CHECKING:
    from ckptkit.operations.history.result import History


def _thresholds(
    _ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]
) -> dict[str, float]:
    found = {}
    for value in values:
        name, equals, number = value.partition("=")
        try:
            found[name.strip()] = float(number)
        except ValueError:
            equals = ""
        if not equals:
            raise click.BadParameter(f"{value!r} is no NAME=NUMBER, such as growth=20.")
    return found


@click.command("history")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", shell_complete=candidates.paths)
@click.option(
    "--role",
    "roles",
    type=CommaList(ROLES),
    multiple=True,
    metavar="ROLE,...",
    shell_complete=candidates.listed(candidates.roles),
    help="Only these roles.  [default: all but counters and configuration]",
)
@click.option(
    "--name", "names", multiple=True, metavar="GLOB", help="Only these names; !GLOB leaves out."
)
@click.option(
    "--every",
    type=click.IntRange(1),
    default=1,
    metavar="N",
    help="Take every Nth step, and the last.",
)
@click.option("--since", type=int, metavar="STEP", help="Leave out the steps before this one.")
@click.option(
    "--first-nan", is_flag=True, help="Only find the first NaN by halving; assumes that it stays."
)
@click.option("--full", is_flag=True, help="A row per tensor, not per layer.")
@click.option(
    "--threshold",
    "thresholds",
    multiple=True,
    metavar="NAME=X",
    callback=_thresholds,
    help=(
        "Set a limit that decides what is a finding: growth, decay, still, jump, dead, saturated."
    ),
)
@click.option(
    "--cache", metavar="FILE", help="Keep measurements in FILE, and use those that are there."
)
@click.option("--no-cache", is_flag=True, help="Measure everything; keep nothing.")
@click.option(
    "--follow", is_flag=True, help="Watch a directory, and print a line for each new step."
)
@executor_options
@report_options("history")
@click.pass_context
@store_options
def command(ctx: click.Context, /, runs: tuple[str, ...], **options: Any) -> None:
    """Show what happened to every layer over a run: norms, updates, and what looks wrong.

    RUN is a training directory, or checkpoints, SavedModels, .keras or .h5 files of epochs.  They
    are ordered by the numbers in their names and by their counters of steps.

    \b
    Examples:
      ckptkit history run/
      ckptkit history run/ --html run.html
      ckptkit history model.*.keras --role weight
      ckptkit history run/ --first-nan
      ckptkit history run/ --follow

    Exit code: 0 nothing looks wrong (there may be notes), 1 findings, 2 could not tell.
    """
    if options["cache"] and options["no_cache"]:
        raise click.UsageError("--cache and --no-cache exclude each other.")
    _refuse_idle(options)
    # set before numpy is imported: threads are for spans of tensors, not for the sums within one
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if options["follow"]:
        from ckptkit.cli.following import follow_run

        follow_run(runs, options)
        return
    chosen = operands(runs, directories_are_one=False)
    if options["cache"] and options["output"]:
        from ckptkit.operations.input_files import refuse_inputs

        refuse_inputs([options["output"]], [options["cache"]])
    result = _history(chosen, options)
    remarks = report.remarks(result) if needs_remarks(options["fmt"], options) else ()
    put_report(_lines(result, options), options, chosen, _files(result), remarks)
    ctx.exit(0 if result.ok else 1)


def _refuse_idle(options: dict[str, Any]) -> None:
    """Refuse options that would be ignored."""
    fmt = options["fmt"]
    has_rows = fmt in ("table", "markdown") or is_bare(fmt)
    options["full"] = options["full"] or (options["verbose"] and has_rows)
    if options["full"] and not has_rows:
        raise click.UsageError("--full goes with a table.")
    if options["first_nan"]:
        given = [n for n in ("full", "thresholds", "cache", "follow") if options[n]]
        if given:
            name = given[0].rstrip("s").replace("_", "-")
            raise click.UsageError(f"--first-nan measures nothing: --{name} would do nothing.")
        if fmt in ("csv", "jsonl") or is_bare(fmt):
            raise click.UsageError("--first-nan has findings, and no table.")
    if options["follow"]:
        given = [n for n in ("full", "since", "output", "quiet", "verbose") if options[n]]
        if options["every"] > 1:
            given.append("every")
        if given:
            raise click.UsageError(f"--follow does not go with --{given[0]}.")
        if fmt not in ("table", "jsonl"):
            raise click.UsageError("--follow goes with --format text or jsonl.")


def _history(chosen: list[str], options: dict[str, Any]) -> History:
    from ckptkit.operations.history.api import history

    with executor_of(options) as executor:
        return history(
            *chosen,
            roles=flat(options["roles"]),
            names=options["names"],
            every=options["every"],
            since=options["since"],
            first_nan=options["first_nan"],
            cache=False if options["no_cache"] else options["cache"] or True,
            thresholds=options["thresholds"],
            executor=executor,
        )


def _lines(result: History, options: dict[str, Any]) -> Iterator[str]:
    if options["fmt"] == "html":
        from ckptkit.reports.history import html

        return html.lines(result)
    return report.lines(result, options["fmt"], full=options["full"])


def _files(result: History) -> list[Any]:
    """Return every file that was read, which no output may replace."""
    from ckptkit.operations.input_files import files_read

    return [
        file for step in result.steps if step.format for file in files_read(step.format, step.path)
    ]
