"""Options and output that several commands share."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TextIO, TypeVar

import click

from ckptkit.cli import candidates
from ckptkit.cli.progress import clear_line
from ckptkit.errors import CkptkitError, ReaderGone
from ckptkit.reports.screen import (
    COLOR_CHOICES,
    PAPER,
    change_screen,
    painted,
    screen,
    shown_on,
    toned,
)
from ckptkit.text import nearest_text, parse_seconds

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
                self.fail(_unknown(item, self.choices), param, ctx)
        return items


class Choice(click.Choice[str]):
    """One of `choices`; a refusal names those that are called nearly so."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        return _unknown(str(value), self.choices)


class LeadingOperands(click.Argument):
    """All operands but the last: where there is but one, the last is said to be missing."""

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        last = ctx.command.params[ctx.command.params.index(self) + 1]
        sources, operand = (opts.get(param.name or "") for param in (self, last))
        is_alone = isinstance(operand, str) and not (isinstance(sources, Sequence) and sources)
        if is_alone and not ctx.resilient_parsing:
            raise click.MissingParameter(ctx=ctx, param=last)
        return super().handle_parse_result(ctx, opts, args)


def _unknown(value: str, choices: Sequence[str]) -> str:
    """Return what to say of a value that is none of the choices."""
    text = f"{value!r} is not one of {', '.join(choices)}"
    return "; ".join(filter(None, (text, nearest_text(value, choices))))


def flat(lists: Iterable[Iterable[str]]) -> list[str]:
    """Return the values of a repeated CommaList option as one list."""
    return [item for items in lists for item in items]


def filter_options(function: F) -> F:
    """Add --role, --name and --dtype."""
    from ckptkit.checkpoint.naming import ROLES  # here, since every start imports this module

    for option in (
        click.option(
            "--dtype", "dtypes", type=CommaList(), multiple=True, help="Only these dtypes (a,b)."
        ),
        click.option(
            "--name",
            "names",
            multiple=True,
            metavar="GLOB",
            shell_complete=candidates.names_of_tensors,
            help="Only tensors whose name, key or full name fits; !GLOB leaves out.  Repeatable.",
        ),
        click.option(
            "--role",
            "roles",
            type=CommaList(ROLES),
            multiple=True,
            metavar="ROLE,...",
            shell_complete=candidates.listed(candidates.roles),
            help=f"Only these roles: {', '.join(ROLES)}.",
        ),
    ):
        function = option(function)
    return function


def _set_color(_ctx: click.Context, _param: click.Parameter, choice: str) -> None:
    if choice != "auto":
        shown = choice == "always"
        change_screen(screen()._replace(color=shown, colors_errors=shown))


def _set_wide(_ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        change_screen(screen()._replace(width=None))


color_option = click.option(
    "--color",
    type=Choice(COLOR_CHOICES),
    default="auto",
    is_eager=True,
    expose_value=False,
    callback=_set_color,
    help="When to use colour.  [default: auto, on a terminal]",
)


def screen_options(function: F) -> F:
    """Add --wide and --color, for commands that print tables."""
    wide = click.option(
        "--wide",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_set_wide,
        help="Print tables in full, even if they are wider than the terminal.",
    )
    return wide(color_option(function))


def operands(paths: Sequence[str], *, directories_are_one: bool = True) -> list[str]:
    """Return paths without those that mean the same as an earlier one.

    A shell makes `run/ckpt-1*` the index and data files of one checkpoint; where it leaves the
    pattern to the program, as on Windows, it is expanded here.  A path that leads nowhere is kept,
    for whoever opens it to say so.
    directories_are_one: whether a directory means one checkpoint, not each that lies in it.
    """
    paths = expanded(paths)
    if len(paths) == 1:
        return paths
    from ckptkit._io.places import path_of
    from ckptkit.stores.locate import locate

    found: dict[object, str] = {}
    for path in paths:
        try:
            if not directories_are_one and path_of(path).is_dir():
                found.setdefault(path, path)
                continue
            place = locate(path)
        except CkptkitError:
            found.setdefault(path, path)
        else:
            found.setdefault((place.format, place.path.absolute(), place.subtree), path)
    return list(found.values())


def expanded(paths: Iterable[str]) -> list[str]:
    """Return paths with each pattern, which a shell left to the program, as the files that it fits.

    A pattern that fits nothing is kept, as is a file whose name looks like one.
    """
    return [match for path in paths for match in _matches(path)]


def _matches(path: str) -> list[str]:
    """Return what a pattern fits, sorted, each with the part of the file that stands behind it."""
    if not any(letter in path for letter in "*?[") or "://" in path or os.path.lexists(path):
        return [path]
    from glob import glob

    for pattern, part in ((path, ""), path.rsplit("#", 1) if "#" in path else (path, "")):
        found = sorted(glob(pattern))  # noqa: PTH207 (a Path would not keep what was typed)
        if not found:  # prefixes of checkpoints, which are no files
            indexes = glob(f"{pattern}.index")  # noqa: PTH207
            found = sorted(index.removesuffix(".index") for index in indexes)
        if found:
            return [f"{match}#{part}" if part else match for match in found]
    return [path]


def one_operand(ctx: click.Context, _param: click.Parameter, paths: tuple[str, ...]) -> str:
    """Return the one thing that is meant by an argument: all files of one checkpoint are one."""
    chosen = list(paths[:1]) if ctx.resilient_parsing else operands(paths)
    if len(chosen) > 1:
        from ckptkit.text import list_text

        raise click.UsageError(
            f"one model or checkpoint, please; these are {len(chosen)}: {list_text(chosen, 4)}."
        )
    return chosen[0] if chosen else ""


def echo_lines(lines: Iterable[str], *, err: bool = False) -> None:
    """Print lines to stdout, many at a time; when the reader goes away (`| head`), end quietly.

    err: to stderr instead.
    """
    from ckptkit.reports.text import stand_ins

    lines = iter(lines)
    stream = sys.stderr if err else sys.stdout
    if stream is None:  # started with it closed: nobody is there to read
        return
    table = stand_ins(stream.encoding or "utf-8")
    try:
        while batch := list(islice(lines, 1000)):
            text = "\n".join(batch)
            text = text.translate(table) if table else text
            clear_line()
            click.echo(text, err=err, color=_is_painted(err))
    except BrokenPipeError as error:
        raise ReaderGone from error  # click would take it for a failure, exit code 1


def _is_painted(err: bool) -> bool:
    """Whether escapes are meant: click would take them away where it sees no terminal."""
    return screen().colors_errors if err else screen().color


def write_lines(path: str | os.PathLike[str], lines: Iterable[str]) -> None:
    """Write lines to a file, whole or not at all."""
    from ckptkit._io.atomic import replacing

    with (
        shown_on(PAPER),
        replacing(Path(path), overwrite=True) as beside,
        beside.open("w", encoding="utf-8") as file,
    ):
        file.writelines(f"{line}\n" for line in lines)


def echo_note(text: str) -> None:
    """Print one line to stderr, with what a terminal would act upon escaped."""
    from ckptkit.reports.text import printable

    clear_line()
    click.echo(toned(printable(text), err=True), err=True, color=_is_painted(True))


@contextmanager
def flagged_models_noted() -> Iterator[None]:
    """Print what is flagged of models that are about to run as notes, one line each."""
    from ckptkit.operations.scan.before_running import FlaggedModelWarning

    usual = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, FlaggedModelWarning):
            echo_note(f"note: {message}")
        else:
            usual(message, category, filename, lineno, file, line)

    with warnings.catch_warnings():
        warnings.simplefilter("always", FlaggedModelWarning)
        warnings.showwarning = show
        yield


def trust_option(function: F) -> F:
    """Add what silences that note."""
    text = "Do not warn about what `ckptkit scan` finds in a model before it runs."
    return click.option("--trust", is_flag=True, help=text)(function)


class Seconds(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A number of seconds that is more than none."""

    name = "seconds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            return parse_seconds(value)
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


def timeout_option(function: F) -> F:
    """Add how long a model may run."""
    text = "Seconds that one run of a model may take."
    return click.option("--timeout", "timeout_s", type=Seconds(), default=600.0, help=text)(
        function
    )


def echo_problems(problems: Iterable[Exception]) -> int:
    """Print each problem to stderr, one line; return the exit code that they call for."""
    from ckptkit.reports.text import printable

    code = 0
    for problem in problems:
        echo_error(printable(str(problem)))
        code = 2
    return code


def echo_error(text: str) -> None:
    """Print one line on what went wrong to stderr; `text` is safe to print."""
    line = painted(f"ckptkit: {text}", "error", err=True)
    clear_line()
    click.echo(line, err=True, color=_is_painted(True))
