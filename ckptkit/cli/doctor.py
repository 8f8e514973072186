"""`ckptkit doctor`."""

from __future__ import annotations

import click

from ckptkit.cli.main import ADDED
from ckptkit.cli.options import (
    echo_lines,
    format_option,
    output_option,
    put_lines,
    screen_options,
)
from ckptkit.reports import doctor_text
from ckptkit.reports.table import is_bare


@click.command("doctor")
@format_option(doctor_text.FORMATS)
@output_option
@screen_options
@click.pass_context
def command(ctx: click.Context, /, fmt: str, output: str | None) -> None:
    """Tell which runtimes and devices are here, with versions, and what stands in the way.

    Each runtime is looked at in a process of its own.

    Exit code: 0 models can be run here, 1 something is wrong (another package called ckptkit),
    2 no model can be run here.
    """
    from ckptkit.operations.doctor import doctor

    diagnosis = doctor(tables=[ADDED])
    put_lines(doctor_text.lines(diagnosis, fmt), output, [])
    if is_bare(fmt):
        echo_lines(doctor_text.remarks(diagnosis), err=True)
    ctx.exit(diagnosis.exit_code)
