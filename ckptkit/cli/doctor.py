"""`ckptkit doctor`."""

from __future__ import annotations

import click

from ckptkit.cli.options import echo_lines
from ckptkit.reports import doctor_text


@click.command("doctor")
@click.option(
    "--format",
    "fmt",
    type=click.Choice(doctor_text.FORMATS),
    default="table",
    help="Output format.",
)
@click.pass_context
def command(ctx: click.Context, /, fmt: str) -> None:
    """Tell which runtimes and devices are here, with versions, and what stands in the way.

    Each runtime is looked at in a process of its own.

    Exit code: 0 models can be run here, 1 something is wrong (another package called ckptkit),
    2 no model can be run here.
    """
    from ckptkit.operations.doctor import doctor

    found = doctor()
    echo_lines(doctor_text.lines(found, fmt))
    ctx.exit(found.exit_code)
