"""`ckptkit upgrade`."""

from __future__ import annotations

from typing import Any

import click

from ckptkit.cli import candidates
from ckptkit.cli.files import CodeToRead, FileToRead
from ckptkit.cli.options import Choice, LeadingOperands, echo_note, expanded, timeout_option
from ckptkit.cli.report_options import needs_remarks, put_report, report_options
from ckptkit.stores.registry import KERAS, SAVED_MODEL


@click.command("upgrade")
@click.argument(
    "src",
    cls=LeadingOperands,
    nargs=-1,
    required=True,
    metavar="SRC...",
    shell_complete=candidates.paths,
)
@click.argument("dst", shell_complete=candidates.paths)
@click.option(
    "-r", "--recursive", is_flag=True, help="Upgrade every model in the directories SRC and below."
)
@click.option(
    "--to",
    type=Choice([KERAS, SAVED_MODEL]),
    default=KERAS,
    help="What to write.  [default: keras]",
)
@click.option(
    "--import",
    "imports",
    type=CodeToRead(),
    multiple=True,
    metavar="MODULE",
    help="Import this module or file.py first: it defines custom classes, for Keras 3.",
)
@click.option(
    "--trust", is_flag=True, help="Keep the Python code that SRC contains (Lambda), and run it."
)
@click.option(
    "--inputs",
    type=FileToRead(),
    multiple=True,
    metavar="FILE.npz",
    help="Compare outputs on these inputs; each file is a case.",
)
@click.option("--seed", type=int, default=20, help="Seed for the randomly drawn inputs.")
@click.option(
    "--range",
    "ranges",
    multiple=True,
    metavar="NAME=LOW:HIGH",
    help="Draw the values of an input from this range.",
)
@click.option("--overwrite", is_flag=True, help="Replace what is at DST.")
@timeout_option
@report_options("upgrade", "Output format: json has every change, and where each weight came from.")
@click.pass_context
def command(ctx: click.Context, /, src: tuple[str, ...], dst: str, **options: Any) -> None:
    """Write models of Keras 1 and 2 as models that Keras 3 loads, and prove it.

    SRC is a whole model: an .h5 file, a .keras archive, or a SavedModel that Keras 2 wrote.  Its
    configuration is translated, its weights are moved and read again, bit for bit, and both models
    are run on the same inputs where tf_keras is installed.  What has no counterpart is named, and
    nothing is written.  Several SRC, and directories with -r, go into the directory DST.

    \b
    Examples:
      ckptkit upgrade old.h5 new.keras
      ckptkit upgrade old.h5 new.keras --import my_layers
      ckptkit upgrade -r models/ models-keras3/
      ckptkit upgrade saved_model/ export/ --to saved-model

    Exit code: 0 done and proven, 1 a proof failed or some of several were refused, 2 could not
    upgrade.
    """
    from ckptkit.operations.convert.api import MismatchError
    from ckptkit.operations.input_files import refuse_inputs
    from ckptkit.operations.upgrade.api import files_of_rows, upgrade
    from ckptkit.reports.text import printable
    from ckptkit.reports.upgrade import report_lines

    shown = {name: options.pop(name) for name in ("fmt", "output", "quiet", "verbose")}
    if shown["output"]:
        refuse_inputs([shown["output"]], [*src, dst, *options["inputs"], *options["imports"]])
    try:
        report = upgrade(expanded(src), dst, **options)
    except MismatchError as error:
        for line in error.lines():
            echo_note(f"ckptkit: {printable(line)}")
        ctx.exit(2)
    lines = report_lines(report, shown["fmt"], verbose=shown["verbose"])
    remarks = [printable(report.verdict)] if needs_remarks(shown["fmt"], shown) else ()
    put_report(lines, shown, [*src, dst], files_of_rows(report), remarks)
    ctx.exit(report.exit_code)
