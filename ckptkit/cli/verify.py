"""`ckptkit verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ckptkit.cli import candidates
from ckptkit.cli.executors import executor_of, executor_options
from ckptkit.cli.files import FileToRead, FileToWrite
from ckptkit.cli.options import echo_error, operands
from ckptkit.cli.report_options import needs_remarks, put_report, report_options
from ckptkit.cli.store_options import store_options
from ckptkit.errors import CkptkitError
from ckptkit.reports import findings
from ckptkit.text import list_text

if TYPE_CHECKING:
    from ckptkit.operations.verify.api import Verification


@click.command("verify")
@click.argument(
    "paths", nargs=-1, required=True, metavar="PATH...", shell_complete=candidates.paths
)
@click.option("--values", is_flag=True, help="Also look for NaN, infinities, constants, denormals.")
@click.option(
    "--manifest",
    type=FileToRead(is_elsewhere=True, hint="--write-manifest makes one"),
    metavar="FILE",
    help="Compare with the SHA-256 digests in FILE.",
)
@click.option(
    "--write-manifest",
    "new_manifest",
    type=FileToWrite(),
    metavar="FILE",
    help="Write SHA-256 digests, as `sha256sum -c` reads them.",
)
@click.option("-r", "--recursive", is_flag=True, help="Also check everything below a directory.")
@click.option(
    "--sample",
    type=click.IntRange(1),
    metavar="N",
    help="Read the values of N tensors of each file, and all indexes, sizes and graphs.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, metavar="S", help="Draw other tensors."
)
@click.option("--strict", is_flag=True, help="Notes count as findings.")
@executor_options
@report_options("verify")
@click.pass_context
@store_options
def command(ctx: click.Context, /, paths: tuple[str, ...], **options: Any) -> None:
    """Check every byte of files: structure, checksums, completeness.  All findings are reported,
    not only the first.

    PATH is a checkpoint, a SavedModel, a Keras, safetensors or npz file, or a directory, which
    stands for each checkpoint and model in it.  Every byte is read; nothing in a file is run.

    \b
    Examples:
      ckptkit verify run/ckpt-3
      ckptkit verify run/ export/ --format junit -o verify.xml
      ckptkit verify huge/ckpt-9 --sample 1000
      ckptkit verify model.safetensors --write-manifest model.sha256

    Exit code: 0 sound, 1 findings, 2 could not tell (or nothing was checked).
    """
    if len(paths) > 1 and (options["manifest"] or options["new_manifest"]):
        given = list_text([*paths], 4)
        raise click.UsageError(
            f"a manifest goes with one operand, found {len(paths)}: {given}; give their directory."
        )
    if options["output"] or options["new_manifest"]:
        from ckptkit.operations.input_files import refuse_inputs

        refuse_inputs([options["output"], options["new_manifest"]], paths)
        refuse_inputs([options["output"]], [options["manifest"]])
    results, refused = _verify(paths, options)
    _put(results, refused, options)
    for error in refused:
        echo_error(error)
    codes = [result.exit_code for result in results] + [2] * bool(refused)
    ctx.exit(1 if 1 in codes else max(codes))


def _verify(
    paths: tuple[str, ...], options: dict[str, Any]
) -> tuple[list[Verification], list[str]]:
    """Return the results, and one line per path that could not be verified."""
    from ckptkit.operations.verify.api import verify
    from ckptkit.reports.text import printable

    results: list[Verification] = []
    refused: list[str] = []
    with executor_of(options) as executor:
        for path in operands(paths, directories_are_one=False):
            try:
                result = verify(
                    path,
                    values=options["values"],
                    manifest=options["manifest"],
                    new_manifest=options["new_manifest"],
                    strict=options["strict"],
                    recursive=options["recursive"],
                    sample=options["sample"],
                    seed=options["seed"],
                    executor=executor,
                )
            except CkptkitError as error:
                refused.append(printable(str(error)))
            else:
                results.append(result)
    return results, refused


def _read(results: list[Verification]) -> list[Path]:
    """Return every file of what was verified; a directory stands for many checkpoints."""
    from ckptkit.operations.input_files import files_read

    units = (unit for result in results for unit in result.units)
    return [file for unit in units for file in files_read(unit.format, unit.path)]


def _put(results: list[Verification], refused: list[str], options: dict[str, Any]) -> None:
    fmt = options["fmt"]
    if fmt == "html":
        from ckptkit.reports import findings_html

        lines = findings_html.lines(results, refused=refused)
    else:
        lines = findings.lines(results, fmt, verbose=options["verbose"], refused=refused)
    remarks = findings.remarks(results) if needs_remarks(fmt, options) else ()
    put_report(lines, options, (), _read(results), remarks)
