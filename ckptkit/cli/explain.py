"""`ckptkit explain`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from ckptkit.cli.candidates import codes
from ckptkit.cli.report_options import put_report, report_options


@click.command("explain")
@click.argument("codes", metavar="[CODE]...", nargs=-1, shell_complete=codes)
@report_options("explain")
def command(codes: tuple[str, ...], **options: Any) -> None:
    """Explain what the code of a finding or a refusal means, and what to do.

    Codes appear in JSON, JUnit, SARIF and annotations.  Without CODE, all of them are listed.

    \b
    Examples:
      ckptkit explain tensor.checksum
      ckptkit explain

    Exit code: 0, or 2 for an unknown code.
    """
    put_report(_lines(codes), options)


def _lines(codes: tuple[str, ...]) -> Iterator[str]:
    from ckptkit.reports.explanations import explain, explanations
    from ckptkit.reports.screen import folded, painted

    if not codes:
        group = ""
        for code, row in explanations().items():
            if row.group != group:
                group = row.group
                yield painted(group, "verdict")
            yield f"  {code}"
    for code, row in [(code, explain(code)) for code in codes]:  # all, before one is printed
        yield painted(code, "verdict")
        yield from folded([f"  {row.text}"])
