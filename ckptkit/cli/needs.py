"""`ckptkit needs`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ckptkit._io.places import is_url, path_of
from ckptkit.cli import candidates
from ckptkit.cli.options import echo_error, operands
from ckptkit.cli.report_options import needs_remarks, put_report, report_options
from ckptkit.errors import CkptkitError, UsageError
from ckptkit.reports import needs as report

if TYPE_CHECKING:
    from ckptkit.operations.needs.api import Needs


@click.command("needs")
@click.argument(
    "paths", nargs=-1, required=True, metavar="PATH...", shell_complete=candidates.paths
)
@click.option("-r", "--recursive", is_flag=True, help="Every model in a directory and below it.")
@click.option(
    "--with",
    "environment",
    multiple=True,
    metavar="NAME==VERSION",
    help="Assume this version instead of the installed one.  Repeatable.",
)
@report_options("needs")
@click.pass_context
def command(
    ctx: click.Context, /, paths: tuple[str, ...], environment: tuple[str, ...], **options: Any
) -> None:
    """Show who wrote a model, which calls open it, and what is missing for them.

    A directory stands for its latest checkpoint, with -r for all checkpoints and models below it.
    Nothing is loaded or run, and no package is imported: classes, arguments, ops and files that
    the model names are compared with what each Keras and TensorFlow has, and with what is
    installed here, or in the environment that --with describes.

    \b
    Examples:
      ckptkit needs old.h5
      ckptkit needs model.keras --with keras==3.3
      ckptkit needs export/ --format requirements > requirements.txt

    Exit code: 0 some call opens it here, 1 something is missing, 2 could not tell.
    """
    from ckptkit.operations.needs.api import needs
    from ckptkit.reports.text import printable

    results: list[Needs] = []
    refused: list[str] = []
    for path in _below(paths, refused) if options["recursive"] else operands(paths):
        try:
            results.append(needs(path, environment=environment))
        except UsageError:
            raise
        except CkptkitError as error:
            refused.append(printable(str(error)))
    fmt = options["fmt"]
    lines = report.lines(results, fmt, verbose=options["verbose"], refused=refused)
    remarks = report.remarks(results) if needs_remarks(fmt, options) else ()
    put_report(lines, options, paths, remarks=remarks)
    for text in refused:
        echo_error(text)
    codes = [result.exit_code for result in results] + [2] * bool(refused)
    ctx.exit(1 if 1 in codes else max(codes))


def _below(paths: Sequence[str], refused: list[str]) -> Iterator[str]:
    """Yield what lies in directories and below; a file is itself.  Other paths are refused."""
    from ckptkit.operations.inventory import places_below
    from ckptkit.reports.text import printable

    for path in operands(paths, directories_are_one=False):
        try:
            is_directory = not is_url(path) and path_of(path).is_dir()
        except CkptkitError:  # whoever reads it says so
            is_directory = False
        if not is_directory:
            yield path
            continue
        failed: list[OSError] = []
        try:
            yield from map(str, places_below(Path(path), failed))
        except CkptkitError as error:
            refused.append(printable(str(error)))
        refused += [printable(f"{error.filename}: {error.strerror}") for error in failed]
