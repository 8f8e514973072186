"""Files that options name: what is wrong with one is told before anything else is done.

Running a model takes seconds, and importing what does so most of one; a slip in a name costs none
of that.  Whoever opens a file later checks it for himself, as for callers of the library.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ckptkit._io.file_states import os_error
from ckptkit._io.places import is_url, local_path
from ckptkit.cli import candidates
from ckptkit.errors import OutputError, PathNotFoundError, UsageError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class _FileName(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """The name of a file; it stays the text that was typed."""

    name = "file"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem  # here, since a shell seldom asks

        return [CompletionItem(path) for path in candidates.paths(ctx, param, incomplete)]


class FileToRead(_FileName):
    """A file that is there.

    words: what may be given in place of one.  is_elsewhere: whether a URL may be.
    hint: the next step where nothing is there.
    """

    def __init__(
        self, *, words: tuple[str, ...] = (), is_elsewhere: bool = False, hint: str = ""
    ) -> None:
        self.words, self.is_elsewhere, self.hint = words, is_elsewhere, hint

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text.  Raises PathNotFoundError, UsageError for a URL, CkptkitError."""
        text = str(value)
        if text not in self.words and not (self.is_elsewhere and is_url(text)):
            option = param.opts[-1] if param is not None else ""
            _check_there(text, self.hint or f"{option} names it", option)
        return text


class CodeToRead(_FileName):
    """A module or a file.py; with `callable`, one of what is called in it: FILE.py:CALLABLE."""

    def __init__(self, *, is_callable: bool = False) -> None:
        self.is_callable = is_callable

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text.  Raises PathNotFoundError for a file that is not there, CkptkitError."""
        text = str(value)
        file = code_file(text) if self.is_callable else text
        if file.endswith(".py"):
            option = param.opts[-1] if param is not None else ""
            _check_there(file, f"{option} names it", option)
        return text


class FileToWrite(_FileName):
    """A file that will be written, in a directory that is there (`check_files_to_write`)."""


map_from_option = click.option(
    "--map-from",
    type=FileToRead(),
    multiple=True,
    metavar="FILE",
    help="Read --map rules from a file, one per line.",
)


def code_file(spec: str) -> str:
    """Return the path in `file.py:callable?json`; of a module's name, nothing that is a file."""
    return spec.partition("?")[0].rpartition(":")[0]


def _check_there(text: str, hint: str, option: str) -> None:
    if is_url(text):
        raise UsageError(
            "is elsewhere", where=text, hint=f"download it: {option} takes a file of this machine"
        )
    path = local_path(text)
    try:
        path.stat()
    except FileNotFoundError:
        raise PathNotFoundError("no such file", where=text, hint=hint) from None
    except OSError as error:
        raise os_error(path, error) from error


def check_files_to_write(context: click.Context) -> None:
    """Raise OutputError where a file that an option names cannot be written."""
    texts = [value for value in context.params.values() if isinstance(value, str) and value]
    for param in context.command.params:
        text = context.params.get(param.name or "")
        if isinstance(param.type, FileToWrite) and text:
            _check_can_be_written(Path(text), [Path(other) for other in texts if other != text])


def _check_can_be_written(path: Path, others: list[Path]) -> None:
    """Raise OutputError, but for a directory that is not there and may be about to be made."""
    from ckptkit._io.atomic import check_target

    parent = Path(os.path.realpath(path)).parent
    if not parent.exists() and any(
        parent.is_relative_to(os.path.realpath(other)) for other in others
    ):
        return
    check_target(path)
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError("cannot write: its directory does not allow it", where=str(path))
