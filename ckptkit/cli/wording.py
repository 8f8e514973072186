"""What the keywords of the library's messages are called at a shell."""

from __future__ import annotations

from collections.abc import Callable

import click

from ckptkit.wording import Speaker


def as_options(command_of: Callable[[str], click.Command | None]) -> Speaker:
    """Return who says a keyword as an option.

    command_of: the command of that name; of "", the one that is being run.
    """

    def speak(function: str, keyword: str, value: str | None) -> str | None:
        text, is_flag = _option(command_of(function), keyword)
        if text is None:
            return None
        if value is not None and not is_flag:
            from shlex import quote  # which most commands never need

            text += f" {quote(value)}"
        return f"`ckptkit {function} {text}`" if function else text

    return speak


def _option(command: click.Command | None, keyword: str) -> tuple[str | None, bool]:
    """Return the longest option of the parameter called `keyword`, and whether it is a flag.

    None where none is called so.

    Of a group of commands, the option of any.
    """
    if command is None:  # nothing is being run: a message of the edge itself
        return f"--{keyword.replace('_', '-')}", False
    for parameter in command.params:
        if parameter.name in (keyword, f"no_{keyword}") and isinstance(parameter, click.Option):
            return max(parameter.opts, key=len), parameter.is_flag
    inner = command.commands.values() if isinstance(command, click.Group) else ()
    found = (_option(one, keyword) for one in inner)
    return next((option for option in found if option[0] is not None), (None, False))
