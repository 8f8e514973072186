"""What every command's report can be: its format, where it goes, how much it says.

`OFFERS` is the one place that says which command has which format and option; `report_options` adds
them to it, and `put_report` brings the report where it is to go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import click
from click.core import ParameterSource

from ckptkit.cli.files import FileToWrite, check_files_to_write
from ckptkit.cli.options import echo_lines, echo_note, screen_options, write_lines
from ckptkit.reports.screen import folded
from ckptkit.text import nearest_text

if TYPE_CHECKING:  # which takes a while, and a shell asks for it alone
    from click.shell_completion import CompletionItem

F = TypeVar("F", bound=Callable[..., Any])

TEXT = "text"  # the report for people; "table" is an older name of it, and what reports call it
_REPORTS_TEXT = "table"
_ROWS = (TEXT, "json", "jsonl", "csv", "markdown", "html")
_JUDGED = (*_ROWS, "junit", "github")
_FOUND = (*_JUDGED, "sarif")


class Offer(NamedTuple):
    """What one command has.

    formats: of its own; none where it prints nothing but a line or two that say what was done.
    tables: whether the table formats of tabulate are among them, too.
    output, quiet: whether it has --output and --quiet.
    verbose: what --verbose adds, for its help; "" where the command has nothing more to say.
    """

    formats: Sequence[str] = ()
    tables: bool = True
    output: bool = True
    quiet: bool = True
    verbose: str = ""


OFFERS: Mapping[str, Offer] = {
    # A listing judges nothing, so it has no form for test results or annotations.
    "ls": Offer(_ROWS, verbose="The same as --long."),
    # All that is known of a tensor is shown as it is; more values are asked for by --slice.
    "show": Offer(_ROWS),
    # A difference is no finding about one file, which every result of SARIF must name.
    "diff": Offer(_JUDGED, verbose="Show equal tensors too, as --full."),
    "history": Offer(_JUDGED, verbose="The same as --full."),
    # Its text is a file of rules, which `convert` takes.
    "map": Offer(_ROWS),
    # Done or refused: one line says it, and there is nothing for test results.
    "convert": Offer(_ROWS, verbose="Show where every tensor came from."),
    "upgrade": Offer(_ROWS, verbose="Show every change and every weight, not their counts."),
    # Done or refused, as convert.
    "thin": Offer(_ROWS),
    "verify": Offer(_FOUND, verbose="Also show the checks that found nothing."),
    "scan": Offer(_FOUND, verbose="Also show what was looked at."),
    "gate": Offer(_FOUND),
    "needs": Offer(
        (*_JUDGED, "requirements"), verbose="Also show what is installed, and every need."
    ),
    # --output is where the golden goes; its report is for whoever waits, and can be read again.
    "record": Offer(_ROWS, output=False, verbose="Show where it ran, with what, how long."),
    "check": Offer(_FOUND, verbose="Show every run: where, with what, how long."),
    # --output is where the files go, and one line says what went there.
    "golden export": Offer(output=False),
    "golden import": Offer(output=False),
    "doctor": Offer(_ROWS, verbose="Show why a runtime is not available."),
    # What it prints is for people to read, at any length: there is nothing to be quiet about.
    "explain": Offer(quiet=False),
    # Names and what they are, for people who try things out.
    "fixtures list": Offer(),
    # DIR is the output, and the paths in it are all that is said.
    "fixtures make": Offer(output=False),
    "sample": Offer(output=False),
    # What it prints is the result, for a shell to read.
    "completion": Offer(quiet=False),
    # It shows the output of other commands while they run; none of it is its own.
    "demo": Offer(output=False, quiet=False),
}


class ReportFormat(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A format of the command's own, or one of tabulate's: `NAME`, or `table:NAME` for sure.

    Of two with one name the command's own is meant.  tabulate is asked only for other names, since
    importing it takes longer than most commands.
    """

    name = "format"

    def __init__(self, offer: Offer) -> None:
        self.own, self.tables = tuple(offer.formats), offer.tables

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{'|'.join((*self.own, *(['NAME'] if self.tables else [])))}]"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(name) for name in self.own if name.startswith(incomplete)]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return what reports call it: "table" for text, a name of `own`, or "table:NAME"."""
        from ckptkit.reports.table import TABULATE, tabulate_formats

        if value in (TEXT, _REPORTS_TEXT):
            return _REPORTS_TEXT
        if value in self.own:
            return str(value)
        name = str(value).removeprefix(TABULATE)
        known = tabulate_formats() if self.tables else []
        if name not in known:
            near = nearest_text(name, [*self.own, *known])
            hint = f"; {near}" if near else ""
            more = " or a table format such as fancy_grid, latex, rst" if self.tables else ""
            self.fail(f"{value!r} is none of {', '.join(self.own)}{more}{hint}", param, ctx)
        return f"{TABULATE}{name}"


def report_options(command: str, text: str = "Output format.") -> Callable[[F], F]:
    """Add what `OFFERS` says of a command, and the options of the screen.

    text: what its formats are, where there is more to say.
    """
    offer = OFFERS[command]

    def decorate(function: F) -> F:
        options = []
        function = _with_files_checked(function)
        if "html" in offer.formats:
            function = _with_page(function, offer)
        if offer.quiet:
            quiet = "Print nothing; the exit code gives the result."
            options.append(click.option("-q", "--quiet", is_flag=True, help=quiet))
        if offer.verbose:
            options.append(click.option("-v", "--verbose", is_flag=True, help=offer.verbose))
        if offer.formats:
            options.append(_format_option(offer, text))
        if offer.output:
            where = "Write to FILE instead of the terminal."
            options.append(
                click.option(
                    "-o",
                    "--output",
                    type=FileToWrite(),
                    metavar="FILE",
                    callback=_given_file,
                    help=where,
                )
            )
        if "html" in offer.formats:
            page = "Write the report to FILE as an HTML page."
            options.append(click.option("--html", type=FileToWrite(), metavar="FILE", help=page))
            opened = "Show the report as a page in the browser."
            options.append(click.option("--open", "opened", is_flag=True, help=opened))
        if offer.formats:
            function = screen_options(function)
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


_PAGE = (
    "ckptkit.page"  # where a run keeps that its report is a page, and what is to be done with it
)


class _PageWanted(NamedTuple):
    """file: where the page goes.  opened: whether a browser is to show it.  kept: by its name."""

    file: str
    opened: bool
    kept: bool


def _with_files_checked(function: F) -> F:
    """Have a file that cannot be written told before the work is done that it is for."""

    @wraps(function)
    def command(*args: Any, **options: Any) -> Any:
        check_files_to_write(click.get_current_context())
        return function(*args, **options)

    return cast(F, command)


def _with_page(function: F, offer: Offer) -> F:
    """Let --html and --open stand for --format html, and a place to write it."""

    @wraps(function)
    def command(*args: Any, html: str | None, opened: bool, **options: Any) -> Any:
        if html is None and not opened:
            return function(*args, **options)
        context = click.get_current_context()
        asked = context.get_parameter_source("fmt") is not ParameterSource.DEFAULT
        if asked and options["fmt"] != "html":
            given = "--html" if html is not None else "--open"
            raise click.UsageError(f"{given} and --format exclude each other.")
        output = options.get("output") if offer.output else None
        if html is not None and output:
            raise click.UsageError("--html and --output exclude each other.")
        if html == "-":
            raise click.UsageError(
                "--html -: a page is written to a file; --format html alone prints it."
            )
        file = html or output or _new_page(context)
        context.meta[_PAGE] = _PageWanted(file, opened, kept=bool(html or output))
        options["fmt"] = "html"
        if offer.output:
            options["output"] = file
        return function(*args, **options)

    return cast(F, command)


def _given_file(_context: click.Context, _option: click.Parameter, given: str | None) -> str | None:
    """Return the file of --output; None for "-", which is the terminal in other programs too."""
    return None if given == "-" else given


def _new_page(context: click.Context) -> str:
    """Return the path of a new file for a page without a place of its own; gone if none comes."""
    import tempfile

    with tempfile.NamedTemporaryFile(
        prefix=f"ckptkit-{context.info_name}-", suffix=".html", delete=False
    ) as file:
        path = Path(file.name)

    def remove_empty() -> None:
        if path.exists() and not path.stat().st_size:
            path.unlink()

    context.call_on_close(remove_empty)
    return file.name


def _shown_in_browser(wanted: _PageWanted, *, quiet: bool) -> None:
    """Open a page in the browser; where there is none, say where it is."""
    import webbrowser

    if not webbrowser.open(Path(wanted.file).absolute().as_uri()):
        echo_note(f"warning: no browser opened; the page is {wanted.file}")
    elif not quiet and not wanted.kept:
        echo_note(f"note: the page is {wanted.file}")


def _format_option(offer: Offer, text: str) -> Callable[[F], F]:
    named = (
        "  NAME: only the table, in a format of tabulate (grid, latex, rst, ...)."
        if offer.tables
        else ""
    )
    return click.option(
        "-f",
        "--format",
        "fmt",
        type=ReportFormat(offer),
        default=TEXT,
        help=text + named,
    )


def needs_remarks(fmt: str, options: Mapping[str, Any] | None = None) -> bool:
    """Whether a person has to be told beside the report what it comes to.

    That is where the format has rows and nothing else, and where the report goes to a file.
    """
    from ckptkit.reports.table import is_bare

    return fmt in ("csv", "jsonl") or is_bare(fmt) or bool(options and options.get("output"))


def put_report(
    lines: Iterable[str],
    options: Mapping[str, Any],
    read: Sequence[str | Path | None] = (),
    files: Iterable[Path] = (),
    remarks: Iterable[str] = (),
) -> None:
    """Print a report, or write it to the file of --output, which is none of those that are read.

    options: of the command; quiet: nothing is printed, a file is written all the same.
    read: as a user gives them.  files: what else was read.  remarks: what people should know that
    the report's format has no place for, or that a file takes out of their sight.
    """
    context = click.get_current_context(silent=True)
    wanted: _PageWanted | None = context.meta.get(_PAGE) if context is not None else None
    output = wanted.file if wanted is not None else options.get("output")
    if output:
        from ckptkit.operations.input_files import refuse_inputs

        refuse_inputs([output], read, files)
        write_lines(output, lines)
    elif not options.get("quiet"):
        is_text = options.get("fmt") == _REPORTS_TEXT  # a script of `completion` has no format
        echo_lines(folded(lines) if is_text else lines)
    if not options.get("quiet"):
        echo_lines(remarks, err=True)
    if wanted is not None and wanted.opened:
        _shown_in_browser(wanted, quiet=bool(options.get("quiet")))
