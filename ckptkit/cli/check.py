"""`ckptkit check`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from ckptkit.cli import candidates
from ckptkit.cli.files import CodeToRead, FileToRead, FileToWrite, code_file
from ckptkit.cli.model_options import input_options, model_options
from ckptkit.cli.options import flagged_models_noted, one_operand, write_lines
from ckptkit.cli.report_options import needs_remarks, put_report, report_options
from ckptkit.cli.store_options import store_options
from ckptkit.reports.check.lines import lines, remarks
from ckptkit.reports.text import printable


@click.command("check")
@click.argument(
    "subject",
    nargs=-1,
    required=True,
    metavar="SUBJECT",
    callback=one_operand,
    shell_complete=candidates.paths,
)
@click.option(
    "--on",
    shell_complete=candidates.runners,
    multiple=True,
    default=["CPU:0"],
    metavar="RUNNER",
    help="Where to run: CPU:0, GPU:0, xla:CPU:0, mirrored:CPUx2; then ,threads=N ,deterministic "
    ",tf32 ,eager.  onnx:GPU:0 names the runtime, too; the default is that of the kind of model.  "
    "Repeatable.  [default: CPU:0]",
)
@click.option("--against", metavar="MODEL", help="Compare the outputs with this model's.")
@click.option(
    "--golden",
    type=FileToRead(hint="`ckptkit record MODEL -o DIR` makes one"),
    metavar="DIR",
    help="Compare the outputs with those that `ckptkit record` wrote.",
)
@click.option(
    "--resume",
    type=CodeToRead(is_callable=True),
    metavar="CODE",
    help=(
        "Resume training from the checkpoint SUBJECT with this code, and compare with the "
        "checkpoint --against: package.module:callable, which returns (Checkpoint, step)."
    ),
)
@click.option("--steps", type=int, metavar="N", help="With --resume: how many steps to take.")
@click.option(
    "--outputs-only",
    is_flag=True,
    help="With --golden: weights, files and settings may have changed.",
)
@input_options
@model_options
@click.option(
    "--tolerance",
    type=FileToRead(words=("auto", "strict")),
    default="auto",
    metavar="auto|strict|FILE",
    help=(
        "auto: by device and dtype; strict: every bit; FILE: lines 'GLOB rtol=R atol=A'.  "
        "[default: auto]"
    ),
)
@click.option("--rtol", type=float, help="Relative tolerance of all outputs.")
@click.option("--atol", type=float, help="Absolute tolerance of all outputs.")
@click.option(
    "--rename",
    multiple=True,
    metavar="OLD=NEW",
    help="Input or output OLD of the reference is called NEW in SUBJECT.",
)
@click.option(
    "--float64",
    is_flag=True,
    help="Break ties by the reference's model in float64 (Keras models, and goldens with it).",
)
@click.option(
    "--localize", is_flag=True, help="Name the layer, or the switch, that makes outputs differ."
)
@click.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="GLOB",
    help="With --localize: look only at these values of SUBJECT.",
)
@click.option(
    "--audit-tolerance",
    is_flag=True,
    help="Put faults into the model, one at a time: which would pass the tolerance?",
)
@click.option(
    "--suggest",
    type=FileToWrite(),
    metavar="FILE",
    help="With --audit-tolerance: write the tightest tolerance there, for --tolerance.",
)
@click.option("--strict", is_flag=True, help="Notes count as findings.")
@click.option("--junit", type=FileToWrite(), metavar="FILE", help="Also write JUnit XML to FILE.")
@report_options("check")
@click.pass_context
@store_options
def command(ctx: click.Context, /, subject: str, **options: Any) -> None:
    """Run SUBJECT and say whether it computes what it should, and whether all of it was restored.

    SUBJECT is a SavedModel, a .keras file, or a checkpoint with --model or --like.  Without
    --against and --golden every runner is compared with the first, and a checkpoint with one runner
    is restored: every variable, bit for bit.  Each run is a process of its own.

    \b
    Examples:
      ckptkit check run/ckpt-3 --model package.module:build
      ckptkit check export --on CPU:0 --on xla:CPU:0
      ckptkit check export-2 --against export-1
      ckptkit check export --golden golden --on GPU:0 --junit check.xml
      ckptkit check export --audit-tolerance --rtol 1e-3 --suggest tolerance.txt
      ckptkit check run/ckpt-100 --resume train.py:run --steps 10 --against run/ckpt-110

    Exit code: 0 the same, 1 differences or findings, 2 could not tell (nothing was compared, or a
    device or package is missing).
    """
    from ckptkit.operations.check.api import check

    shown = {name: options.pop(name) for name in ("fmt", "output", "junit", "quiet", "verbose")}
    suggest = options.pop("suggest")
    if suggest and not options["audit_tolerance"]:
        raise click.UsageError("--suggest is for --audit-tolerance.")
    outputs = [shown["output"], shown["junit"], suggest]
    if any(outputs):
        _refuse_inputs(outputs, subject, options)
    with flagged_models_noted():
        report = check(subject, **options)
    if suggest and report.audit is not None and report.audit.file_lines:
        write_lines(suggest, report.audit.file_lines)
    if shown["junit"]:
        write_lines(shown["junit"], lines(report, "junit"))
    if shown["fmt"] == "github":
        _summarise(report)
    fmt = shown["fmt"]
    beside: Iterable[str] = [printable(report.verdict)] if shown["output"] else ()
    if needs_remarks(fmt):
        beside = remarks(report, verbose=shown["verbose"])
    put_report(lines(report, fmt, verbose=shown["verbose"]), shown, remarks=beside)
    ctx.exit(report.exit_code)


def _refuse_inputs(outputs: list[str | None], subject: str, options: dict[str, Any]) -> None:
    """Raise OutputError where a report would replace a file that is read."""
    from ckptkit.operations.input_files import refuse_inputs

    code = (subject, options["against"] or "", options["model"] or "", options["resume"] or "")
    operands = (subject, options["against"], options["like"], options["tolerance"])
    several = (*options["inputs"], *options["imports"], *map(code_file, code))
    golden = list(Path(options["golden"]).glob("*")) if options["golden"] else []
    refuse_inputs(outputs, (*operands, *several), golden)


def _summarise(report: Any) -> None:
    """Append to the summary of the step, where a workflow runs; the file may hold others' text."""
    from ckptkit._io.file_states import os_error
    from ckptkit.reports.check.github import SUMMARY_BYTES, summary

    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return
    try:
        with Path(path).open("a", encoding="utf-8") as file:
            room = SUMMARY_BYTES - os.fstat(file.fileno()).st_size
            file.writelines(f"{line}\n" for line in summary(report, room))
    except OSError as error:
        raise os_error(Path(path), error) from error
