"""Groups of commands that know what a mistyped one may have been; what they run shows it works."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from functools import wraps
from typing import Any

import click

from ckptkit.cli.progress import working
from ckptkit.text import nearest_text

_OURS = "ckptkit."
_PATHS = frozenset({"FILE", "DIR", "PATH"})  # what help calls paths


class NearGroup(click.Group):
    """A group whose refusal of an unknown command names those that are called nearly so."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            name, command, rest = super().resolve_command(ctx, args)
        except click.UsageError:
            hint = self.hint(args[0]) or nearest_text(args[0], self.list_commands(ctx))
            raise click.UsageError(f"no command {args[0]!r}; {hint}".rstrip("; "), ctx) from None

        return name, command and _with_sign_of_life(command), rest

    def hint(self, name: str) -> str:
        """Return what else to say of a name that is no command, by default nothing."""
        return ""


def _with_sign_of_life(command: click.Command) -> click.Command:
    """Return a command that shows that it works.

    One of another package prints by itself, into the line: of it only what we do for it is shown.
    """
    callback = command.callback
    if callback is None or isinstance(command, click.Group):
        return command
    if not callback.__module__.startswith(_OURS):
        return command
    shown = copy(command)
    shown.callback = _working(callback, command.params)
    return shown


def _refuse_empty_paths(params: Sequence[click.Parameter], options: dict[str, Any]) -> None:
    """Refuse an empty text where a path is asked for: a variable of the shell that is not set.

    It would otherwise count as an option that was not given, or as the working directory.
    """
    for param in params:
        if (param.metavar or "").strip("[]") in _PATHS and options.get(param.name or "") == "":
            name = param.opts[-1] if isinstance(param, click.Option) else param.metavar
            raise click.UsageError(f"{name} '': empty path.")


def _working(callback: Callable[..., Any], params: Sequence[click.Parameter]) -> Callable[..., Any]:
    @wraps(callback)
    def run(*args: Any, **options: Any) -> Any:
        _refuse_empty_paths(params, options)
        with working(quiet=bool(options.get("quiet"))):
            return callback(*args, **options)

    return run
