"""Options and output that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, TypeVar

import click

from ckptkit.errors import ReaderGone
from ckptkit.names import ROLES

F = TypeVar("F", bound=Callable[..., Any])


class CommaList(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Values given as `a,b` or by repeating the option; each must be one of `choices`, if given."""

    name = "list"

    def __init__(self, choices: Iterable[str] = ()) -> None:
        self.choices = tuple(choices)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[str]:
        items = [item.strip() for item in str(value).split(",") if item.strip()]
        for item in items:
            if self.choices and item not in self.choices:
                self.fail(f"{item!r} is not one of {', '.join(self.choices)}.", param, ctx)
        return items


def flat(lists: Iterable[Iterable[str]]) -> list[str]:
    """Return the values of a repeated CommaList option as one list."""
    return [item for items in lists for item in items]


def filter_options(function: F) -> F:
    """Add --role, --name and --dtype."""
    for option in (
        click.option(
            "--dtype", "dtypes", type=CommaList(), multiple=True, help="Only these dtypes (a,b)."
        ),
        click.option(
            "--name",
            "names",
            multiple=True,
            metavar="GLOB",
            help="Only tensors whose name, key or full name fits; !GLOB leaves out.  Repeatable.",
        ),
        click.option(
            "--role",
            "roles",
            type=CommaList(ROLES),
            multiple=True,
            metavar="ROLE,...",
            help=f"Only these roles: {', '.join(ROLES)}.",
        ),
    ):
        function = option(function)
    return function


def echo_lines(lines: Iterable[str]) -> None:
    """Print lines to stdout, many at a time; when the reader goes away (`| head`), end quietly."""
    lines = iter(lines)
    try:
        while batch := list(islice(lines, 1000)):
            click.echo("\n".join(batch))
    except BrokenPipeError as error:
        raise ReaderGone from error  # click would take it for a failure, exit code 1


def echo_problems(problems: Iterable[Exception]) -> int:
    """Print each problem to stderr, one line; return the exit code that they call for."""
    from ckptkit.reports.text import printable

    code = 0
    for problem in problems:
        click.echo(f"ckptkit: {printable(str(problem))}", err=True)
        code = 2
    return code
