"""What a shell offers on Tab: paths and prefixes, names of tensors, roles, runners, formats.

Each function is a `shell_complete` of click: (context, parameter, what is typed so far) -> words.
A candidate that ends in "/" is to be typed on from.  Nothing here says that anything is wrong:
where a file cannot be read, nothing is offered.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import click

from ckptkit.errors import CkptkitError

MOST = 400  # names that are offered whole; of more, the scopes that they begin with
_MEMBERS = (".index", ".data-", ".meta")

Candidates = Callable[[click.Context, click.Parameter, str], list[str]]


def paths(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Return files, directories and checkpoint prefixes; behind a "#", scopes of the file."""
    with suppress(CkptkitError, OSError):
        path, mark, scope = incomplete.rpartition("#")
        if mark and not os.path.lexists(incomplete):
            return [f"{path}#{name.rstrip('/')}" for name in _scopes(path, scope)]
        return list(_entries(incomplete))
    return []


def _entries(incomplete: str) -> Iterator[str]:
    from ckptkit.stores.tensor_bundle.state_file import prefixes

    head, part = os.path.split(incomplete)
    directory = Path(head or ".").expanduser()
    found = [prefix.name for prefix in prefixes(directory)]
    members = tuple(name + suffix for name in found for suffix in _MEMBERS)
    for entry in directory.iterdir():
        if entry.name.startswith(members) or (entry.name[:1] == "." and part[:1] != "."):
            continue
        found.append(entry.name + "/" * entry.is_dir())
    for name in sorted(set(found)):
        if name.startswith(part):
            yield incomplete[: len(incomplete) - len(part)] + name  # "~" stays as it was typed


def _scopes(path: str, begun: str) -> list[str]:
    """Return the scopes of a file's names one level below what is typed."""
    return [name for name in _by_scope(_names_of(path), begun) if name.endswith("/")]


def names_of_tensors(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return names of tensors of the file that is named on the line before."""
    given = _operands(ctx)
    with suppress(CkptkitError, OSError):
        return _offered(_names_of(given[0], incomplete), incomplete) if given else []
    return []


def _operands(ctx: click.Context) -> list[str]:
    """Return the arguments that are whole; click gives the first of `PATH... NAME` to NAME."""
    given: list[str] = []
    for param in ctx.command.params:
        value = ctx.params.get(param.name or "")
        if isinstance(param, click.Argument) and value:
            given += [value] if isinstance(value, str) else value
    return given or _words_that_lead_somewhere()


def _words_that_lead_somewhere() -> list[str]:
    """Return the paths on the line: click keeps no argument while an option lacks its value."""
    from click.shell_completion import split_arg_string

    from ckptkit.stores.locate import locate

    found = []
    for word in split_arg_string(os.environ.get("COMP_WORDS", ""))[2:]:
        with suppress(CkptkitError):
            locate(word)
            found.append(word)
    return found


def _names_of(path: str, begun: str = "") -> Iterable[str]:
    """Return names of a file's tensors: all, or of a large file those that begin so, if any do."""
    from ckptkit.stores.locate import locate
    from ckptkit.stores.registry import format_of, function_of

    place = locate(path)
    quick = format_of(place.format).begun_names
    if quick and place.subtree is None:
        found = function_of(quick)(place.path, begun)
        if found:
            return list(found)
    from ckptkit.checkpoint.checkpoint import open as open_checkpoint

    checkpoint = open_checkpoint(path)
    if checkpoint.structure is None and checkpoint.subtree is None:
        return checkpoint.specs  # names are keys: nothing is to be found out about them
    return checkpoint


def _offered(names: Iterable[str], begun: str) -> list[str]:
    """Return the names that begin so, or have an ending that does."""
    found = [name for name in names if name.startswith(begun)]
    if not found and begun:
        ends = ((name, name.rfind(f"/{begun}")) for name in names)
        found = sorted({name[place + 1 :] for name, place in ends if place >= 0})
    return found if len(found) <= MOST else _by_scope(found, begun)


def _by_scope(names: Iterable[str], begun: str) -> list[str]:
    """Return names up to the next "/" behind what is typed."""
    start = begun.rfind("/") + 1
    found = set()
    for name in names:
        if name.startswith(begun):
            scope, slash, _ = name[start:].partition("/")
            found.add(name[:start] + scope + slash)
    return sorted(found)


def listed(values: Callable[[], Iterable[str]]) -> Candidates:
    """Return candidates for a list `a,b`: the values that are not there yet."""

    def candidates(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
        before, comma, part = incomplete.rpartition(",")
        there = before.split(",")
        return [
            before + comma + value
            for value in values()
            if value.startswith(part) and value not in there
        ]

    return candidates


def roles() -> Iterable[str]:
    """Return the roles of tensors."""
    from ckptkit.checkpoint.naming import ROLES

    return ROLES


def runners(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Return runners, and behind a comma their switches."""
    from ckptkit.runners.spec import spellings, switches_after

    before, comma, part = incomplete.rpartition(",")
    if not comma:
        return [text for text in spellings() if text.startswith(incomplete)]
    with suppress(CkptkitError):
        return [f"{before},{s}" for s in switches_after(before) if s.startswith(part)]
    return []


def codes(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Return the codes that are explained."""
    from ckptkit.reports.explanations import explanations

    return [code for code in explanations() if code.startswith(incomplete)]


def formats(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Return the formats that can be written."""
    from ckptkit.stores.registry import FORMATS

    return [name for name in FORMATS if name.startswith(incomplete) and FORMATS[name].writer]


def signatures(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Return the signatures of the SavedModel that is named on the line before."""
    from ckptkit.operations.ls import ls

    with suppress(CkptkitError, OSError):
        keys = [signature.key for path in _operands(ctx)[:1] for signature in ls(path).signatures]
        return [key for key in keys if key.startswith(incomplete) and not key.startswith("__")]
    return []
