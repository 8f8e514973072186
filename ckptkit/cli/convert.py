"""`ckptkit convert`."""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ckptkit.checkpoint.naming import ROLES
from ckptkit.cli import candidates
from ckptkit.cli.executors import executor_of, executor_options
from ckptkit.cli.files import CodeToRead, FileToRead, FileToWrite, code_file, map_from_option
from ckptkit.cli.options import (
    CommaList,
    LeadingOperands,
    echo_error,
    echo_note,
    expanded,
    flagged_models_noted,
    flat,
    operands,
    timeout_option,
    trust_option,
)
from ckptkit.cli.report_options import needs_remarks, put_report, report_options
from ckptkit.cli.store_options import store_options
from ckptkit.text import list_text

if TYPE_CHECKING:
    from ckptkit.operations.convert.api import MismatchError

# options that `plan` and `convert` take as they are
_COMMON_OPTIONS = (
    *(
        "to",
        "like",
        "graph",
        "model",
        "root",
        "names",
        "weights_only",
        "casts",
        "ema",
        "shard_size",
        "shards",
    ),
    *("allow_missing", "allow_unused", "allow_renamed", "timeout_s"),
)


@click.command("convert")
@click.argument(
    "src", cls=LeadingOperands, nargs=-1, required=True, shell_complete=candidates.paths
)
@click.argument("dst", shell_complete=candidates.paths)
@click.option(
    "--to",
    shell_complete=candidates.formats,
    metavar="FORMAT",
    help=(
        "Format to write, if the name of DST does not show it: as `ls` prints it, such as "
        "tensor-bundle or saved-model."
    ),
)
@click.option(
    "--like",
    metavar="PATH",
    shell_complete=candidates.paths,
    help="Take keys, dtypes, shapes and graph from this file.",
)
@click.option(
    "--graph",
    type=FileToRead(),
    metavar="META",
    help="Make a SavedModel with this graph of TensorFlow 1 (PREFIX.meta).",
)
@click.option(
    "--inputs",
    type=CommaList(),
    multiple=True,
    metavar="NAME,...",
    help="Inputs of the graph: names of tensors, or KEY=NAME.",
)
@click.option(
    "--outputs",
    type=CommaList(),
    multiple=True,
    metavar="NAME,...",
    help="Outputs of the graph, likewise.",
)
@click.option(
    "--tags",
    type=CommaList(),
    multiple=True,
    metavar="TAG,...",
    help="Write only this graph of a SavedModel that has several.",
)
@click.option(
    "--model",
    type=CodeToRead(is_callable=True),
    metavar="MODULE:CALLABLE[?JSON]",
    help="Build the model with this code, in a child process.  Also FILE.py:CALLABLE.",
)
@click.option("--root", metavar="NAME", help="Put the object graph under a child of a new root.")
@click.option(
    "--map",
    "rules",
    multiple=True,
    metavar="RE=>REPL",
    help=(
        "Rename tensors of SRC before pairing; 'RE=>REPL | transpose' and the like also "
        "rearrange values."
    ),
)
@map_from_option
@click.option(
    "--drop-role",
    "drop_roles",
    type=CommaList(ROLES),
    multiple=True,
    metavar="ROLE,...",
    help=f"Leave these roles behind: {', '.join(ROLES)}.",
)
@click.option(
    "--weights-only", is_flag=True, help="Leave slots, averages, counters, tables, ... behind."
)
@click.option(
    "--name", "names", multiple=True, metavar="GLOB", help="Only these tensors; !GLOB leaves out."
)
@click.option(
    "--cast", "casts", multiple=True, metavar="OLD=NEW", help="Change a dtype: float32=bfloat16."
)
@click.option("--ema", is_flag=True, help="Use the averaged variables as the weights.")
@click.option("--shard-size", metavar="SIZE", help="Begin a new data file after 500MB, 2GiB, ...")
@click.option(
    "--shards", type=click.IntRange(1), metavar="N", help="Write N data files of similar size."
)
@click.option(
    "--allow-missing",
    multiple=True,
    metavar="GLOB",
    help="Tensors that may keep the values of LIKE.",
)
@click.option(
    "--allow-unused", multiple=True, metavar="GLOB", help="Tensors of SRC that may be left out."
)
@click.option(
    "--allow-renamed",
    multiple=True,
    metavar="GLOB",
    help="Tensors that --map may rename although the output has their name too.",
)
@click.option(
    "--salvage", "rescue", is_flag=True, help="Convert what is intact in a damaged checkpoint."
)
@click.option(
    "--dry-run", is_flag=True, help="Print the plan (pairs, leftovers, bytes); write nothing."
)
@click.option("--overwrite", is_flag=True, help="Replace what is at DST, even if it is SRC.")
@click.option(
    "--receipt",
    type=FileToWrite(),
    metavar="FILE",
    help="Write what was done and proven to FILE, as JSON.",
)
@click.option(
    "--inverse",
    type=FileToWrite(),
    metavar="FILE",
    help="Write the --map rules that lead back to SRC.",
)
@click.option("--no-check", is_flag=True, help="Skip the proof: do not read the output back.")
@click.option(
    "--check-outputs",
    is_flag=True,
    help="Also compare what SRC and DST compute, if both can be run.",
)
@trust_option
@timeout_option
@executor_options
@report_options("convert", "Output format: json is the receipt, or the plan of a dry run.")
@click.pass_context
@store_options
def command(ctx: click.Context, /, src: tuple[str, ...], dst: str, **options: Any) -> None:
    """Write SRC to DST in another format, and prove it: the output is read back and compared.

    Several SRC are averaged.  If tensors do not fit, they are named and nothing is written; if
    the proof fails, the output is left as DST.rejected.

    \b
    Examples:
      ckptkit convert run/ckpt-3 weights.safetensors --weights-only
      ckptkit convert run/ckpt-3 export-3 --to saved_model --like export-2 --weights-only
      ckptkit convert saved run/ckpt --to checkpoint --root model
      ckptkit convert run/ckpt-3 model.keras --model package.module:build

    Exit code: 0 done and proven, 1 SRC and LIKE do not fit or the proof failed, 2 could not tell.
    """
    fmt = options["fmt"]
    # set before numpy is imported: threads are for spans of tensors, not for sums within one
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # a plan has ten small values per tensor, none of them garbage: looking for some took a fifth
    gc.set_threshold(200_000, 20, 100)
    from ckptkit.operations.convert.api import MismatchError, convert, plan, write_inverse

    src = tuple(expanded(src))
    if len(set(src)) == len(src):  # one that is given twice counts twice in an average
        src = tuple(operands(src))
    keywords = _keywords(options)
    if options["receipt"] or options["inverse"] or options["output"]:
        from ckptkit.operations.input_files import refuse_inputs

        read = (*src, options["like"], *options["map_from"], code_file(options["model"] or ""))
        refuse_inputs([options["receipt"], options["inverse"]], read)
        if options["output"]:
            others = (dst, options["receipt"], options["inverse"])
            refuse_inputs([options["output"]], (*read, *others))
    sources, lost = _sources(src, options)
    if options["dry_run"]:
        from ckptkit.reports import plan as report

        conversion = plan(sources, dst, **keywords)
        if options["inverse"]:
            write_inverse(conversion, Path(options["inverse"]), overwrite=options["overwrite"])
        beside = report.plan_remarks(conversion) if needs_remarks(fmt) else ()
        put_report(report.plan_lines(conversion, fmt), options, remarks=beside)
        ctx.exit(1 if conversion.problems or lost else 0)
    try:
        with flagged_models_noted(), executor_of(options) as executor:
            receipt = convert(
                sources,
                dst,
                overwrite=options["overwrite"],
                check=not options["no_check"],
                check_outputs=options["check_outputs"],
                trust=options["trust"],
                receipt=options["receipt"],
                inverse=options["inverse"],
                digests=fmt in ("json", "jsonl", "csv"),
                executor=executor,
                **keywords,
            )
    except MismatchError as error:
        _report_mismatch(error, options)
        ctx.exit(error.exit_code)
    from ckptkit.reports import plan as report  # here, so that the disk has not to wait for it

    beside = report.receipt_remarks(receipt) if needs_remarks(fmt, options) else ()
    lines = report.receipt_lines(receipt, fmt, verbose=options["verbose"])
    put_report(lines, options, [dst], remarks=beside)
    ctx.exit(receipt.exit_code or int(lost))


def _keywords(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords that `plan` and `convert` share."""
    from ckptkit.align.rules import parse_rule, read_rules

    rules = [
        rule for path in options["map_from"] for rule in read_rules(Path(path), transforms=True)
    ]
    rules += [parse_rule(text, transforms=True) for text in options["rules"]]
    keywords = {name: options[name] for name in _COMMON_OPTIONS}
    keywords.update({name: flat(options[name]) for name in ("inputs", "outputs", "tags")})
    return {**keywords, "rules": rules, "drop_roles": flat(options["drop_roles"])}


def _report_mismatch(error: MismatchError, options: Mapping[str, Any]) -> None:
    """Name what does not fit: on stderr, and as JSON where that was asked for."""
    from ckptkit.reports.plan import refusal_lines
    from ckptkit.reports.text import printable

    if options["fmt"] == "json":
        put_report(refusal_lines(error), options)
    lines = error.lines()
    if len(error.problems) > len(lines):
        lines.append("hint: --dry-run lists all of them")
    for line in lines:
        echo_error(printable(line))


def _sources(src: tuple[str, ...], options: dict[str, Any]) -> tuple[list[Any], bool]:
    """Return the sources, and whether anything of a damaged one was lost; say what."""
    if not options["rescue"]:
        return [*src], False
    if len(src) > 1:
        raise click.UsageError(f"--salvage takes one checkpoint, found {list_text([*src], 4)}.")
    from ckptkit.operations.verify.salvage import salvage

    with executor_of(options) as executor:
        rescued = salvage(src[0], executor=executor)
    for key, reason, name in rescued.lost:
        what = f"{key} ({name})" if name else key
        echo_note(f"lost: {what}: {reason}" if key else f"lost: {reason}")
    for note in rescued.checkpoint.notes:
        echo_note(note)
    return [rescued.checkpoint], bool(rescued.lost)
