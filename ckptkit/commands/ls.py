"""`ckptkit ls`."""

from __future__ import annotations

from typing import Any

import click

from ckptkit.commands._options import echo_lines, echo_problems, filter_options, flat
from ckptkit.operations.ls import SORTS, ls
from ckptkit.reports import listing
from ckptkit.reports.table import FORMATS


@click.command("ls")
@click.argument("path")
@click.option("-l", "--long", "long_", is_flag=True, help="Add key, full name, place, checksum.")
@click.option("--tree", is_flag=True, help="Group the names into a tree.")
@click.option("--depth", type=click.IntRange(1), metavar="N", help="Levels of the tree to show.")
@click.option("--patterns", is_flag=True, help="Collapse layers that differ in their numbers.")
@click.option(
    "--sort", type=click.Choice(SORTS), default="name", show_default=True, help="Order of rows."
)
@filter_options
@click.option("--digest", is_flag=True, help="One digest of the weights, the same in every format.")
@click.option("-a", "--all", "everything", is_flag=True, help="Show TensorFlow's own records too.")
@click.option("--format", "fmt", type=click.Choice(FORMATS), default="table", help="Output format.")
def command(path: str, fmt: str, **options: Any) -> int:
    """List the tensors of PATH: names, dtypes, shapes, sizes, roles, and totals.

    No data file is read (but for --digest), and no TensorFlow is needed.

    \b
    Examples:
      ckptkit ls run/ckpt-3
      ckptkit ls run/ckpt-3 --role weight --name 'conv*'
      ckptkit ls export/ --format json
    """
    if options["depth"] and not options["tree"]:
        raise click.UsageError("--depth needs --tree.")
    if sum(options[name] for name in ("tree", "patterns", "long_")) > 1:
        raise click.UsageError("--tree, --patterns and --long exclude each other.")
    if options["tree"] and fmt in ("csv", "markdown"):
        raise click.UsageError(f"--tree has no {fmt} form.")
    result = ls(
        path,
        roles=flat(options["roles"]),
        names=options["names"],
        dtypes=flat(options["dtypes"]),
        sort=options["sort"],
        everything=options["everything"] or fmt == "json",
        digest=options["digest"],
    )
    layout = "long" if options["long_"] else "patterns" if options["patterns"] else "short"
    if options["tree"] and fmt != "json":
        echo_lines(listing.tree(result, options["depth"]))
    else:
        echo_lines(listing.lines(result, fmt, layout))
    return echo_problems(result.problems)
