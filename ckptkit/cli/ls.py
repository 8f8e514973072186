"""`ckptkit ls`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import click

from ckptkit.cli.options import (
    CommaList,
    echo_lines,
    echo_problems,
    filter_options,
    flat,
    format_option,
    operands,
    screen_options,
)
from ckptkit.errors import CkptkitError
from ckptkit.operations.ls import SORTS, Listing, ls
from ckptkit.reports import listing
from ckptkit.reports.screen import change_screen, screen
from ckptkit.reports.table import FORMATS, TABULATE, is_bare


@click.command("ls")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("-l", "--long", "long_", is_flag=True, help="Add key, full name, place, checksum.")
@click.option("--tree", is_flag=True, help="Group the names into a tree.")
@click.option("--depth", type=click.IntRange(1), metavar="N", help="Levels of the tree to show.")
@click.option("--patterns", is_flag=True, help="Collapse layers that differ in their numbers.")
@click.option(
    "--sort", type=click.Choice(SORTS), default="name", show_default=True, help="Order of rows."
)
@filter_options
@click.option("--digest", is_flag=True, help="One digest of the weights, not of the format.")
@click.option(
    "--tags",
    type=CommaList(),
    multiple=True,
    metavar="TAG,...",
    help="The graph of a SavedModel whose signatures are listed.",
)
@click.option("-a", "--all", "everything", is_flag=True, help="Show TensorFlow's own records too.")
@click.option(
    "--no-path", "with_path", flag_value=False, default=True, help="Do not name the file."
)
@format_option(FORMATS)
@screen_options
def command(paths: tuple[str, ...], fmt: str, **options: Any) -> int:
    """List the tensors of PATH: names, dtypes, shapes, sizes, roles, and totals.

    No data file is read (but for --digest), and no TensorFlow is needed.  Of several PATHs, those
    that belong to one checkpoint (`run/ckpt-3*`) are listed once.

    \b
    Examples:
      ckptkit ls run/ckpt-3
      ckptkit ls run/ckpt-3 --role weight --name 'conv*'
      ckptkit ls export/ --format json
      ckptkit ls export/ --format latex
      ckptkit ls *.keras --digest
    """
    if options["depth"] and not options["tree"]:
        raise click.UsageError("--depth needs --tree.")
    if sum(options[name] for name in ("tree", "patterns", "long_")) > 1:
        raise click.UsageError("--tree, --patterns and --long exclude each other.")
    if options["tree"] and (fmt in ("csv", "markdown") or is_bare(fmt)):
        raise click.UsageError(f"--tree has no {fmt.removeprefix(TABULATE)} form.")
    chosen = operands(paths)
    if not options["with_path"] and (fmt in ("json", "csv") or len(chosen) > 1):
        raise click.UsageError("--no-path goes with the table of one PATH.")
    layout = next((name for name in ("tree", "patterns") if options[name]), "short")
    layout = "long" if options["long_"] else layout
    if layout == "long":
        change_screen(replace(screen(), width=None))  # it is asked for all of it
    problems: list[CkptkitError] = []
    results = _results(chosen, fmt, options, problems)
    if is_bare(fmt):
        listed = list(results)
        echo_lines(listing.bare_table(listed, fmt, layout, with_path=len(chosen) > 1))
        for result in listed:
            echo_lines(listing.remarks(result, with_path=options["with_path"]), err=True)
    elif len(chosen) > 1:
        echo_lines(listing.several(results, fmt, layout, options["depth"]))
    elif options["tree"] and fmt != "json":
        echo_lines(listing.tree(next(results), options["depth"], with_path=options["with_path"]))
    else:
        echo_lines(listing.lines(next(results), fmt, layout, with_path=options["with_path"]))
    return echo_problems(problems)


def _results(
    paths: Sequence[str], fmt: str, options: dict[str, Any], problems: list[CkptkitError]
) -> Iterator[Listing]:
    """Yield a listing per path; of several, those that cannot be listed become problems."""
    for path in paths:
        try:
            result = ls(
                path,
                roles=flat(options["roles"]),
                names=options["names"],
                dtypes=flat(options["dtypes"]),
                sort=options["sort"],
                everything=options["everything"] or fmt == "json",
                digest=options["digest"],
                tags=flat(options["tags"]),
            )
        except CkptkitError as error:
            if len(paths) == 1:
                raise
            problems.append(error)
        else:
            problems += result.problems
            yield result
