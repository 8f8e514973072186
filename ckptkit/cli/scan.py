"""`ckptkit scan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ckptkit._io.file_states import is_local
from ckptkit.cli import candidates
from ckptkit.cli.options import echo_error, operands
from ckptkit.cli.report_options import needs_remarks, put_report, report_options
from ckptkit.cli.store_options import store_options
from ckptkit.errors import CkptkitError
from ckptkit.reports import findings

if TYPE_CHECKING:
    from ckptkit.operations.findings import Unit
    from ckptkit.operations.scan.api import Scan


@click.command("scan")
@click.argument(
    "paths", nargs=-1, required=True, metavar="PATH...", shell_complete=candidates.paths
)
@click.option("-r", "--recursive", is_flag=True, help="Also check everything below a directory.")
@report_options("scan")
@click.pass_context
@store_options
def command(ctx: click.Context, /, paths: tuple[str, ...], fmt: str, **options: Any) -> None:
    """Show what a model could do when it is loaded or run; nothing is loaded or run.

    PATH is a SavedModel, a graph (.pb, .pbtxt, .meta), a .keras or .h5 file, weights, or a
    directory, which stands for each checkpoint and model in it.  Ops and classes are compared with
    a list of those that only compute; the others are reported: as an "error" if they are known
    to act on files, network or code, as a "warning" if they are unknown.

    \b
    Examples:
      ckptkit scan export/
      ckptkit scan model.keras --format json
      ckptkit scan -r downloads/
      ckptkit scan -r models/ --format sarif > scan.sarif

    Exit code: 0 nothing but known harmless ops and classes, 1 findings, 2 could not tell.
    """
    from ckptkit.operations.scan.api import scan
    from ckptkit.reports.text import printable

    results: list[Scan] = []
    refused: list[str] = []
    for path in operands(paths, directories_are_one=False):
        try:
            results.append(scan(path, recursive=options["recursive"]))
        except CkptkitError as error:
            refused.append(printable(str(error)))
    if fmt == "html":
        from ckptkit.reports import findings_html

        lines = findings_html.lines(results, findings.SCAN, refused)
    else:
        lines = findings.lines(
            results, fmt, verbose=options["verbose"], words=findings.SCAN, refused=refused
        )
    read = [file for result in results for unit in result.units for file in _files(unit)]
    said = needs_remarks(fmt, options)
    remarks = findings.remarks(results, findings.SCAN) if said else ()
    put_report(lines, options, paths, read, remarks)
    for text in refused:
        echo_error(text)
    codes = [result.exit_code for result in results] + [2] * bool(refused)
    ctx.exit(1 if 1 in codes else max(codes))


def _files(unit: Unit) -> list[Path]:
    """Return the files of what was scanned: a directory holds them all."""
    if not is_local(unit.path):
        return []
    return list(unit.path.rglob("*")) if unit.path.is_dir() else [unit.path]
