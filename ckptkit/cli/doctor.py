"""`ckptkit doctor`."""

from __future__ import annotations

from typing import Any

import click

from ckptkit.cli.main import ADDED
from ckptkit.cli.report_options import needs_remarks, put_report, report_options
from ckptkit.reports import doctor_text


@click.command("doctor")
@report_options("doctor")
@click.pass_context
def command(ctx: click.Context, /, fmt: str, **options: Any) -> None:
    """Show which runtimes and devices are available, their versions, and what is wrong.

    Each runtime is tried in a process of its own.

    Exit code: 0 models can be run here, 1 something is wrong (another package called ckptkit),
    2 no model can be run here.
    """
    from ckptkit.operations.doctor import doctor

    diagnosis = doctor(tables=[ADDED])
    lines = doctor_text.lines(diagnosis, fmt, verbose=options["verbose"])
    remarks = doctor_text.remarks(diagnosis) if needs_remarks(fmt) else ()
    put_report(lines, options, remarks=remarks)
    ctx.exit(diagnosis.exit_code)
