"""`ckptkit diff`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ckptkit.checkpoint.naming import ROLES
from ckptkit.cli import candidates
from ckptkit.cli.executors import executor_of, executor_options
from ckptkit.cli.files import FileToRead, FileToWrite, map_from_option
from ckptkit.cli.options import CommaList, echo_note, expanded, flat, operands
from ckptkit.cli.report_options import needs_remarks, put_report, report_options
from ckptkit.cli.store_options import store_options
from ckptkit.reports.screen import toned
from ckptkit.reports.table import is_bare
from ckptkit.text import count_text, list_text
from ckptkit.wording import labelled

if TYPE_CHECKING:
    from ckptkit.operations.diff.result import DiffResult

_OF_ROWS = ("table", "markdown", "csv")  # formats of some rows, not of all that is known
_ONLY = ("added", "removed", "changed", "renamed")


@click.command("diff")
@click.argument(
    "paths", nargs=-1, required=True, metavar="OLD NEW", shell_complete=candidates.paths
)
@click.option(
    "--structure", is_flag=True, help="Compare names, dtypes and shapes only; read no values."
)
@click.option(
    "--quick", is_flag=True, help="Compare stored checksums instead of values; open no data file."
)
@click.option(
    "--rtol", type=float, default=0.0, help="Relative tolerance, a share of |OLD|.  [default: 0]"
)
@click.option("--atol", type=float, default=0.0, help="Absolute tolerance.  [default: 0]")
@click.option(
    "--tol-file",
    type=FileToRead(),
    metavar="FILE",
    help="Read lines 'GLOB rtol=R atol=A'; the last one that matches counts.",
)
@click.option("--bitwise", is_flag=True, help="Compare bits: -0.0 and NaN payloads count too.")
@click.option("--cast-ok", is_flag=True, help="Accept another dtype if all values are the same.")
@click.option(
    "--role",
    "roles",
    type=CommaList((*ROLES, "all")),
    multiple=True,
    metavar="ROLE,...",
    help="Only these roles, or all.  [default: all but counters and configuration, and training "
    "state only where both files have some]",
)
@click.option(
    "--name", "names", multiple=True, metavar="GLOB", help="Only these names; !GLOB leaves out."
)
@click.option(
    "--config",
    is_flag=True,
    help="Compare configuration, signatures, vocabularies and graphs too; they count.",
)
@click.option("--only", type=CommaList(_ONLY), multiple=True, help=f"Show only {', '.join(_ONLY)}.")
@click.option("--full", is_flag=True, help="One row per tensor, equal ones too.")
@click.option("--stat", is_flag=True, help="One row per layer.")
@click.option(
    "--label", multiple=True, metavar="TEXT", help="Name to print for OLD; a second one is for NEW."
)
@click.option(
    "--map", "rules", multiple=True, metavar="RE=>REPL", help="Rename OLD before pairing."
)
@map_from_option
@click.option(
    "--write-map",
    type=FileToWrite(),
    metavar="FILE",
    help="Write how names were paired, as --map rules.",
)
@click.option("--exit-zero", is_flag=True, help="Exit 0 even if there are differences.")
@executor_options
@report_options("diff")
@click.pass_context
@store_options
def command(ctx: click.Context, /, paths: tuple[str, ...], **options: Any) -> None:
    """Compare two sets of weights, tensor by tensor, across formats, names and dtypes.

    Values are read, their checksums verified, and compared: an element passes when
    |NEW - OLD| <= atol + rtol * |OLD|; both are 0 by default.

    \b
    Examples:
      ckptkit diff run/ckpt-1 run/ckpt-2
      ckptkit diff run/ckpt-3 export/ --rtol 1e-6
      ckptkit diff old.keras new.keras --html diff.html
      ckptkit diff old.keras new.keras --config

    Exit code: 0 the same, 1 different, 2 could not tell. Only the weights decide it: other
    differences between two models (vocabularies, signatures, configuration) are listed below
    the verdict, and count with --config.
    """
    if options["verbose"] and not options["stat"]:
        options["full"] = options["full"] or options["fmt"] in _OF_ROWS or is_bare(options["fmt"])
    _check(options)
    old, new = _two(paths)
    if options["output"] or options["write_map"]:
        from ckptkit.operations.input_files import refuse_inputs

        read = (old, new, *options["map_from"], options["tol_file"])
        refuse_inputs([options["output"], options["write_map"]], read)
    # set before numpy is imported: threads are for spans of tensors, not for the sums within one
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    result = _compare(old, new, options)
    if options["write_map"]:
        _write_map(result, Path(options["write_map"]))
    _put(result, options)
    ctx.exit(0 if options["exit_zero"] else result.exit_code)


def _check(options: dict[str, Any]) -> None:
    """Refuse options that would be ignored."""
    fmt = options["fmt"]
    if options["structure"] and options["quick"]:
        raise click.UsageError("--structure and --quick exclude each other.")
    if options["full"] and options["stat"]:
        raise click.UsageError("--full and --stat exclude each other.")
    for name, formats in (
        ("full", _OF_ROWS),
        ("only", _OF_ROWS),
        ("stat", ("table", "markdown")),
        ("label", ("table", "markdown")),
    ):
        takes_bare = name != "label" and is_bare(fmt)  # what is compared is not said in a table
        if options[name] and fmt not in formats and not takes_bare:
            raise click.UsageError(f"--{name} goes with --format {' or '.join(formats)}.")
    if options["only"] and options["stat"]:
        raise click.UsageError("--only and --stat exclude each other.")
    if len(options["label"]) > 2:
        raise click.UsageError("--label goes at most twice, one for each of the two files.")


def _two(paths: tuple[str, ...]) -> tuple[str, str]:
    """Return OLD and NEW, where a shell may have given all files of each."""
    chosen = expanded(paths)
    if len(chosen) > 2:
        chosen = operands(chosen)
    if len(chosen) != 2:
        found = f"{len(chosen)}: {list_text(chosen, 4)}"
        raise click.UsageError(f"two checkpoints or models are compared, found {found}.")
    return chosen[0], chosen[1]


def _compare(old: str, new: str, options: dict[str, Any]) -> DiffResult:
    from ckptkit.align.rules import parse_rule, read_rules
    from ckptkit.operations.diff.api import diff
    from ckptkit.operations.tolerance_rules import read_tolerances

    rules = [rule for path in options["map_from"] for rule in read_rules(Path(path))]
    rules += [parse_rule(text) for text in options["rules"]]
    tolerances = read_tolerances(Path(options["tol_file"])) if options["tol_file"] else ()
    mode = "structure" if options["structure"] else "quick" if options["quick"] else "values"
    labels = dict(zip((old, new), options["label"], strict=False))
    with labelled(labels), executor_of(options) as executor:
        return diff(
            old,
            new,
            mode=mode,
            rtol=options["rtol"],
            atol=options["atol"],
            tolerances=tolerances,
            bitwise=options["bitwise"],
            cast_ok=options["cast_ok"],
            roles=flat(options["roles"]),
            names=options["names"],
            rules=rules,
            config=options["config"],
            executor=executor,
        )


def _write_map(result: DiffResult, path: Path) -> None:
    from ckptkit.align.rules import write_rules

    names = [
        (change.old.naming.name, change.new.naming.name)
        for change in result.changes
        if change.old is not None and change.new is not None
    ]
    count = write_rules(path, [pair for pair in names if pair[0] != pair[1]])
    echo_note(f"{path}: {count_text(count, 'rule')}")


def _put(result: DiffResult, options: dict[str, Any]) -> None:
    from ckptkit.reports.diff import text as diff_text
    from ckptkit.reports.text import printable

    remarks: list[str] = []
    if needs_remarks(options["fmt"], options) or options["fmt"] in ("junit", "html"):
        remarks = [toned(f"warning: {printable(text)}", err=True) for text in result.warnings]
        remarks += [diff_text.verdict(result), *diff_text.beside_lines(result)]
    put_report(_lines(result, options), options, remarks=remarks)


def _lines(result: DiffResult, options: dict[str, Any]) -> Iterable[str]:
    fmt = options["fmt"]
    if fmt == "html":
        from ckptkit.reports.diff import html

        return html.lines(result)
    if fmt == "junit":
        from ckptkit.reports.diff import junit

        return junit.lines(result)
    if fmt == "github":
        from ckptkit.reports.diff import github

        return github.lines(result)
    from ckptkit.reports.diff import text

    return text.lines(
        result,
        fmt,
        only=flat(options["only"]),
        full=options["full"],
        stat=options["stat"],
        labels=options["label"],
    )
