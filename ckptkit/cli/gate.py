"""`ckptkit gate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ckptkit.cli import candidates
from ckptkit.cli.files import FileToRead, FileToWrite
from ckptkit.cli.options import one_operand, write_lines
from ckptkit.cli.report_options import needs_remarks, put_report, report_options


@click.command("gate")
@click.argument(
    "path",
    nargs=-1,
    required=True,
    metavar="PATH",
    callback=one_operand,
    shell_complete=candidates.paths,
)
@click.option("--policy", type=FileToRead(), metavar="FILE.toml", help="The rules.")
@click.option("--baseline", metavar="OLD", help="The model that [baseline] compares with.")
@click.option("--init", is_flag=True, help="Print a policy that PATH passes, to start from.")
@click.option("--junit", type=FileToWrite(), metavar="FILE", help="Also write JUnit XML to FILE.")
@report_options("gate")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    path: str,
    policy: str | None,
    baseline: str | None,
    init: bool,
    junit: str | None,
    fmt: str,
    **options: Any,
) -> None:
    """Decide whether a model may be released, by one file of rules.

    The rules are a TOML file: size, parameters, dtypes, no optimizer state, no NaN, verify, scan,
    comparison with a baseline, outputs as recorded, a listed digest.  Each is answered by another
    command (ls, verify, scan, diff, check).  --init prints a policy to start from.

    \b
    Examples:
      ckptkit gate model.keras --init > model.toml
      ckptkit gate model.keras --policy model.toml --baseline released.keras
      ckptkit gate export --policy model.toml --format github

    Exit code: 0 every rule passes, 1 one does not, 2 one could not be decided.
    """
    if init:
        from ckptkit.operations.gate.first_policy import first_policy

        given = [name for name in ("policy", "baseline", "junit") if ctx.params[name]]
        if given or fmt != "table":
            idle = given[0] if given else "format"
            raise click.UsageError(f"--init only prints a policy: --{idle} would do nothing.")
        put_report(first_policy(path).splitlines(), options, [path], [Path(path)])
        return
    if policy is None:
        raise click.UsageError("Missing option '--policy' (or '--init', which prints a first one).")
    from ckptkit.operations.gate.api import gate
    from ckptkit.operations.input_files import refuse_inputs
    from ckptkit.reports.gate import lines, remarks

    read = [policy, path, *([baseline] if baseline else [])]
    refuse_inputs([junit, options["output"]], read)
    result = gate(path, policy, baseline=baseline)
    if junit:
        write_lines(junit, lines(result, "junit"))
    said = remarks(result) if needs_remarks(fmt, options) else ()
    put_report(lines(result, fmt), options, [path], [Path(file) for file in read], said)
    ctx.exit(result.exit_code)
