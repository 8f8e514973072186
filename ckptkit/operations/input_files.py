"""The files that operands are read from; no output of a command takes the place of one of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ckptkit._io.file_states import check_unchanged, unchanged
from ckptkit._io.places import is_url, path_of, text_of
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.errors import CkptkitError, OutputError, PathNotFoundError
from ckptkit.stores.locate import locate
from ckptkit.stores.registry import files_at, format_of, open_format
from ckptkit.stores.tensor_bundle.state_file import STATE_FILE

DIRECTORY = "directory"  # what `verify` calls the files of a directory that belong to no other unit
UNKNOWN = "unknown"  # what `verify` and `scan` call the format of what they could not tell

AnyPath = str | os.PathLike[str]


def files_read(format_name: str, path: Path) -> list[Path]:
    """Return the regular files that a unit of this format at `path` is read from.

    format_name: of a row of `stores.registry`, DIRECTORY or UNKNOWN.
    """
    if format_name == UNKNOWN:
        found = [path]
    else:
        found = [path / STATE_FILE] if format_name == DIRECTORY else files_at(format_name, path)
    return [file for file in found if file.is_file()]


def files_of(operand: AnyPath) -> list[Path]:
    """Return the files that an operand of any command stands for; [] where it leads to none."""
    with suppress(OSError, ValueError, PathNotFoundError):
        path = path_of(operand)
        found = [path, path / STATE_FILE]
        try:
            located = locate(operand)
        except CkptkitError:  # whoever reads it says what is wrong; some of its files may be here
            # here, since a command that finds what it is given needs no writer
            from ckptkit.stores.tensor_bundle.writer import files_of_bundle

            found += files_of_bundle(path)
        else:
            found += files_read(located.format, located.path)
            if format_of(located.format).is_index:  # whose index may call them anything
                with suppress(CkptkitError):
                    found += open_format(located.format, located.path).shards
        return [file for file in found if file.is_file()]
    return []


def fetched_operand(operand: AnyPath) -> AnyPath:
    """Return an operand whose files are on this machine: itself, or a copy of what is elsewhere.

    For libraries that open files by themselves.  Raises what locating and reading it raise.
    """
    if not is_url(operand):
        return operand
    located = locate(operand)
    place = located.path
    files = files_read(located.format, place)
    if format_of(located.format).is_index:
        files += open_format(located.format, place).shards
    top = place if place.is_dir() else place.parent
    there = list(dict.fromkeys(file for file in files if file.is_file()))
    from ckptkit._io.remote.fetched import fetched_files  # few operands are elsewhere

    directory = fetched_files(there, top)
    copy = directory if top is place else directory / place.name
    return f"{copy}#{located.subtree}" if located.subtree else copy


@contextmanager
def unchanged_inputs(*operands: AnyPath | None) -> Iterator[None]:
    """Raise ChangedError in the end where a file of an operand was replaced or written to.

    For work in which other programs read the files too, and may have read another state of them.
    None stands for an option that was not given.
    """
    given = [file for operand in operands if operand for file in files_of(operand)]
    files = [unchanged(file) for file in given if file.name != STATE_FILE]
    yield
    check_unchanged(files)


def operand_text(given: AnyPath | Checkpoint) -> str:
    """Return what an operand is called in messages: the path, and the part of the file."""
    if not isinstance(given, Checkpoint):
        return text_of(given)
    return f"{given.path}#{given.subtree}" if given.subtree else str(given.path)


def refuse_inputs(
    outputs: Sequence[AnyPath | None],
    operands: Iterable[AnyPath | None],
    files: Iterable[Path] = (),
) -> None:
    """Raise OutputError where an output would replace a file that is read, or another output.

    operands: as a user gives them, there or not yet; files: what else is read or written.  None
    stands for an option that was not given.
    """
    given = [Path(output) for output in outputs if output]
    if not given:
        return
    from ckptkit._io.atomic import same_file  # here, since most commands write nothing

    named = [operand for operand in operands if operand]
    taken = [*files, *(file for operand in named for file in files_of(operand))]
    taken += [Path(operand) for operand in named if not is_url(operand)]
    for number, output in enumerate(given):
        if any(same_file(output, file) for file in (*taken, *given[:number])):
            raise OutputError(
                "would be written over: this command reads or writes it already",
                where=str(output),
                hint="give another name",
            )
