"""`ckptkit ls`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from ckptkit.cli import candidates
from ckptkit.cli.executors import executor_of, executor_options
from ckptkit.cli.options import (
    Choice,
    CommaList,
    echo_problems,
    expanded,
    filter_options,
    flat,
    operands,
)
from ckptkit.cli.report_options import needs_remarks, put_report, report_options
from ckptkit.cli.store_options import store_options
from ckptkit.errors import CkptkitError
from ckptkit.operations.ls import SORTS, Listing, ls
from ckptkit.reports import listing
from ckptkit.reports.screen import change_screen, screen
from ckptkit.reports.table import TABULATE, is_bare

if TYPE_CHECKING:
    from concurrent.futures import Executor


_PARTS = ("weights", "config", "signature", "vocabulary", "model")


class _ListingCommand(click.Command):
    """Takes `--digest` alone, too, whatever stands after it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give `--digest` its value where it has none; a file after it is no part."""
        end = args.index("--") if "--" in args else len(args)
        args = [
            "--digest=weights" if arg == "--digest" and at < end else arg
            for at, arg in enumerate(args)
        ]
        return super().parse_args(ctx, args)


@click.command("ls", cls=_ListingCommand)
@click.argument(
    "paths", nargs=-1, required=True, metavar="PATH...", shell_complete=candidates.paths
)
@click.option(
    "-l", "--long", "long_", is_flag=True, help="Also show key, full name, position and checksum."
)
@click.option("--tree", is_flag=True, help="Group the names into a tree.")
@click.option("--depth", type=click.IntRange(1), metavar="N", help="Levels of the tree to show.")
@click.option("--patterns", is_flag=True, help="Collapse layers that differ in their numbers.")
@click.option(
    "--sort",
    type=Choice((*SORTS, "step", "time")),
    default="name",
    show_default=True,
    help="Order of rows.",
)
@click.option(
    "-r", "--recursive", is_flag=True, help="One row for each checkpoint and model below PATH."
)
@filter_options
@click.option("--stats", is_flag=True, help="Read all values: extremes, mean, std, norm, zeros.")
@click.option(
    "--digest",
    is_flag=False,
    flag_value="weights",
    type=CommaList(_PARTS),
    metavar="[=PART,...]",
    help=(
        "A digest that does not depend on the format: of the weights, or of "
        f"{', '.join(_PARTS[1:])}."
    ),
)
@click.option(
    "--tags",
    type=CommaList(),
    multiple=True,
    metavar="TAG,...",
    help="List the signatures of this graph of a SavedModel.",
)
@click.option("-a", "--all", "everything", is_flag=True, help="Show TensorFlow's own records too.")
@click.option(
    "--no-path",
    "with_path",
    flag_value=False,
    default=True,
    help="Leave out the line that names the file.",
)
@executor_options
@report_options("ls")
@store_options
def command(paths: tuple[str, ...], **options: Any) -> int:
    """List the tensors of PATH: names, dtypes, shapes, sizes, roles, and totals.

    Data files are read only for --stats and --digest, and TensorFlow is not needed.  Files of
    one checkpoint (`run/ckpt-3*`) are listed once.

    \b
    Examples:
      ckptkit ls run/ckpt-3
      ckptkit ls run/ckpt-3 --role weight --name 'conv*'
      ckptkit ls export/ --format json
      ckptkit ls export/ --format latex
      ckptkit ls *.keras --digest
      ckptkit ls *.keras --digest=config,model
      ckptkit ls model.keras --stats --sort std
      ckptkit ls -r runs/ --sort step
    """
    fmt = options["fmt"]
    if options["verbose"] and not any(options[name] for name in _LAYOUTS):
        options["long_"] = True
    if options["depth"] and not options["tree"]:
        raise click.UsageError("--depth needs --tree.")
    if sum(options[name] for name in _LAYOUTS) > 1:
        raise click.UsageError("--tree, --patterns, --long and --stats exclude each other.")
    if options["tree"] and (fmt not in ("table", "json") or is_bare(fmt)):
        raise click.UsageError(f"--tree has no {fmt.removeprefix(TABULATE)} form.")
    if options["recursive"]:
        return _inventories(paths, fmt, options)
    chosen = operands(paths)
    if not options["with_path"] and (fmt in _WHOLE or len(chosen) > 1):
        raise click.UsageError("--no-path goes with the table of one file.")
    layout = next((name for name in ("tree", "patterns") if options[name]), "short")
    layout = "long" if options["long_"] else "values" if options["stats"] else layout
    if layout == "long":
        change_screen(screen()._replace(width=None))  # it is asked for all of it
    problems: list[CkptkitError] = []
    refused: list[str] = []
    reads = options["stats"] or options["digest"]
    if not reads and (options["executor"] or options["jobs"]):
        idle = "executor" if options["executor"] else "jobs"
        raise click.UsageError(f"--{idle} goes with --stats or --digest: nothing else is read.")
    with executor_of(options) if reads else nullcontext() as executor:
        results = _results(chosen, options, problems, refused, executor)
        _put(results, chosen, fmt, layout, options, refused)
    return echo_problems(problems)


_LAYOUTS = ("tree", "patterns", "long_", "stats")
_WHOLE = ("json", "jsonl", "csv", "html")  # formats that are one document, whatever is listed
_OF_ONE_FILE = (
    "tree",
    "patterns",
    "long_",
    "stats",
    "everything",
    "roles",
    "names",
    "dtypes",
    "tags",
    "executor",
    "jobs",
)


def _inventories(paths: Sequence[str], fmt: str, options: dict[str, Any]) -> int:
    """List what lies below directories, a row each."""
    from ckptkit.operations.inventory import inventory
    from ckptkit.reports import inventory as report

    given = [name for name in _OF_ONE_FILE if options[name]]
    if given or not options["with_path"]:
        raise click.UsageError("--recursive goes with --sort, --digest and --format alone.")
    if options["digest"] and options["digest"] != ["weights"]:
        raise click.UsageError("--recursive takes --digest of the weights alone.")
    found = inventory(*expanded(paths), sort=options["sort"], digest=bool(options["digest"]))
    remarks = report.remarks(found) if needs_remarks(fmt) else ()
    put_report(report.lines(found, fmt), options, paths, remarks=remarks)
    return 0 if found.ok else 2


def _put(
    results: Iterator[Listing],
    chosen: Sequence[str],
    fmt: str,
    layout: str,
    options: dict[str, Any],
    refused: Sequence[str],
) -> None:
    with_path, depth = options["with_path"], options["depth"]
    if options["quiet"] and not options["output"]:
        for _ in results:  # each is looked at all the same
            pass
    elif fmt == "html":
        from ckptkit.reports import listing_html

        put_report(listing_html.lines(list(results), refused), options, chosen)
    elif is_bare(fmt):
        listed = list(results)
        lines = listing.bare_table(listed, fmt, layout, with_path=len(chosen) > 1)
        beside = (line for each in listed for line in listing.remarks(each, with_path=with_path))
        put_report(lines, options, chosen, remarks=beside)
    elif len(chosen) > 1 or fmt in _PROGRAMS:
        lines = listing.several(results, fmt, layout, depth, lambda: refused)
        put_report(lines, options, chosen)
    elif options["tree"]:
        put_report(listing.tree(next(results), depth, with_path=with_path), options, chosen)
    else:
        lines = listing.lines(next(results), fmt, layout, with_path=with_path)
        put_report(lines, options, chosen)


_PROGRAMS = ("json", "jsonl")


def _results(
    paths: Sequence[str],
    options: dict[str, Any],
    problems: list[CkptkitError],
    refused: list[str],
    executor: Executor | None,
) -> Iterator[Listing]:
    """Yield a listing per path; of several, those that cannot be listed become problems."""
    fmt = options["fmt"]
    for path in paths:
        try:
            result = ls(
                path,
                roles=flat(options["roles"]),
                names=options["names"],
                dtypes=flat(options["dtypes"]),
                sort=options["sort"],
                everything=options["everything"] or fmt in ("json", "jsonl"),
                digest=options["digest"] or False,
                tags=flat(options["tags"]),
                stats=options["stats"],
                executor=executor,
            )
        except CkptkitError as error:
            if len(paths) == 1 and fmt != "json":
                raise
            problems.append(error)
            refused.append(str(error))
        else:
            problems += result.problems
            yield result
