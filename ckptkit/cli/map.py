"""`ckptkit map`."""

from __future__ import annotations

from typing import Any

import click

from ckptkit.cli import candidates
from ckptkit.cli.report_options import needs_remarks, put_report, report_options


@click.command("map")
@click.argument("src", metavar="SRC", shell_complete=candidates.paths)
@click.argument("dst", metavar="DST", shell_complete=candidates.paths)
@report_options("map", "Output format: text is the map, as `convert --map-from` takes it.")
@click.pass_context
def command(ctx: click.Context, /, src: str, dst: str, fmt: str, **options: Any) -> None:
    """Propose which tensor of SRC becomes which of DST, and how its values are moved.

    SRC has the values, DST the structure: a file of the model that they are to go into.  Names,
    shapes, the layouts of both libraries, and order say what belongs together; where several
    tensors fit, each is named and none is taken.  Nothing is run, so the map is unproven until
    `check --against` has compared what both models compute.

    \b
    Examples:
      ckptkit map model.pt untrained.keras -o m.map
      ckptkit convert model.pt model.keras --like untrained.keras --map-from m.map --weights-only

    Exit code: 0 every weight has its place, 1 some are left open, 2 could not tell.
    """
    from ckptkit.operations.map.api import map as propose
    from ckptkit.reports.map import lines, remarks

    result = propose(src, dst)
    said = remarks(result) if needs_remarks(fmt, options) else ()
    put_report(lines(result, fmt), {**options, "fmt": fmt}, [src, dst], remarks=said)
    ctx.exit(result.exit_code)
