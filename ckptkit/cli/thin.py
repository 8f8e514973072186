"""`ckptkit thin`."""

from __future__ import annotations

from typing import Any

import click

from ckptkit.cli import candidates
from ckptkit.cli.report_options import needs_remarks, put_report, report_options


@click.command("thin")
@click.argument("run", metavar="RUN", shell_complete=candidates.paths)
@click.option(
    "--keep-slots",
    required=True,
    metavar="last:N",
    help="The last N checkpoints keep their optimizer state.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be done, and change nothing.")
@report_options("thin")
@click.pass_context
def command(
    ctx: click.Context, /, run: str, keep_slots: str, dry_run: bool, fmt: str, **options: Any
) -> None:
    """Remove the optimizer state from old checkpoints of a run, in place.

    RUN is a training directory.  Each old checkpoint is written anew beside itself, read again and
    compared bit for bit, and then takes its own place, so that a reader finds the old one or the
    thin one.  Weights, averages, counters and learning rates stay.  The newest checkpoint is never
    thinned, and nothing is changed while a save is under way.

    \b
    Examples:
      ckptkit thin run --keep-slots last:2 --dry-run
      ckptkit thin run --keep-slots last:2

    Exit code: 0 done, or nothing to do, 2 some or all checkpoints were refused.
    """
    from ckptkit.operations.thin.api import thin
    from ckptkit.reports.thin import lines, remarks

    if options.get("output"):
        from ckptkit.operations.input_files import refuse_inputs

        refuse_inputs([options["output"]], [run])
    result = thin(run, keep_slots, dry_run=dry_run)
    said = remarks(result) if needs_remarks(fmt, options) else ()
    put_report(lines(result, fmt), {**options, "fmt": fmt}, [run], remarks=said)
    ctx.exit(result.exit_code)
