"""A training directory as `thin` needs it: which of its checkpoints are old, and who writes there.

What is thinned cannot be had back, so nothing here is a guess: two answers to which checkpoint is
the newest are a refusal that names both.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import NamedTuple

from ckptkit.errors import CkptkitError, PathNotFoundError, UnsupportedError, UsageError
from ckptkit.operations.verify.in_use import is_young
from ckptkit.stores.directories import is_saved_model, models_in
from ckptkit.stores.tensor_bundle.files import index_path
from ckptkit.stores.tensor_bundle.state_file import (
    STATE_FILE,
    incomplete,
    is_unfinished,
    modified_ns,
    prefix_name,
    prefixes,
    read_state,
)
from ckptkit.stores.tensor_bundle.v1_files import prefix_of
from ckptkit.text import lazy_pattern, list_text
from ckptkit.wording import say

_KEEP = lazy_pattern(r"last:([1-9][0-9]{0,8})")
_STEP = lazy_pattern(r"(.*)-(\d{1,18})", re.S)


class Run(NamedTuple):
    """The checkpoints of a training directory.

    prefixes: of all that are complete, oldest first.  incomplete: the others, and what they lack.
    order: how it was told which is newer: "by step", "by the state file" or "by time".
    """

    prefixes: tuple[Path, ...]
    incomplete: dict[Path, str]
    order: str


def kept_count(keep_slots: str) -> int:
    """Return N of "last:N"; raises UsageError for anything else, and for less than 1."""
    match = _KEEP.fullmatch(keep_slots)
    if match is None:
        raise UsageError(
            say(f"‹keep_slots={keep_slots}› does not say which checkpoints keep their state"),
            hint=say("‹keep_slots=last:2› keeps that of the last two; the newest always keeps it"),
        )
    return int(match[1])


def read_run(directory: Path, kept: int) -> Run:
    """Return the checkpoints of a training directory, in their order.

    Args:
        directory: of the run.
        kept: how many of the last keep their state: where the order may be wrong matters there.

    Raises:
        PathNotFoundError: there is no such directory, or no checkpoint in it.
        UsageError: it is no training directory, or does not say which checkpoint is the newest.
        UnsupportedError: its models are files that cannot be thinned in place.
    """
    _refuse_others(directory)
    found = prefixes(directory)
    if not found:
        _refuse_models(directory)
        raise PathNotFoundError("no checkpoint in this directory", where=str(directory))
    lacking = {prefix: why for prefix in found if (why := incomplete(prefix)) is not None}
    whole = [prefix for prefix in found if prefix not in lacking]
    if not whole:
        raise PathNotFoundError("no checkpoint in it is complete", where=str(directory))
    ordered, order = _ordered(directory, whole, kept)
    latest = _named_latest(directory)
    if latest is not None and latest != ordered[-1]:
        lacks = "" if latest in whole else ", which is not complete"
        raise UsageError(
            f"which checkpoint is the newest is not clear: its state file says {latest.name}"
            f"{lacks}; {order} it is {ordered[-1].name}",
            where=str(directory),
            hint="nothing is thinned; move checkpoints of another run away",
        )
    return Run(tuple(ordered), lacking, order)


def refuse_save(directory: Path, run: Run) -> None:
    """Raise UsageError where a save is under way, or was killed within the last hour.

    A save shows by files of temporary names, by data files whose index is not there yet, and by a
    newest checkpoint that is not complete.
    """
    now_s = time.time()
    newest_ns = modified_ns(run.prefixes[-1])  # others may have been written in the same moment
    for prefix in run.incomplete:
        index = index_path(prefix)
        if index.exists() and is_young(index, now_s) and index.stat().st_mtime_ns >= newest_ns:
            raise _save_under_way(directory, index.name)
    try:
        names = sorted(entry.name for entry in directory.iterdir())
    except OSError as error:
        raise PathNotFoundError(str(error.strerror), where=str(directory)) from error
    for name in names:
        begun_one = prefix_name(name)
        begun = begun_one is not None and not index_path(directory / begun_one).exists()
        if (begun or is_unfinished(name)) and is_young(directory / name, now_s):
            raise _save_under_way(directory, name)


def _save_under_way(directory: Path, name: str) -> UsageError:
    return UsageError(
        f"a save is under way, or was killed within the last hour: {name}",
        where=str(directory),
        hint="thin when it is done; where nothing is training, remove what the save left",
    )


def _refuse_others(directory: Path) -> None:
    """Refuse what is no directory, and one that is a model."""
    if not directory.is_dir():
        is_there = directory.exists() or index_path(directory).exists()
        if not is_there:
            raise PathNotFoundError("no such directory", where=str(directory))
        raise UsageError(
            "not a training directory: old checkpoints of a run are thinned, never one by itself",
            where=str(directory),
            hint="give the directory; `ckptkit convert` writes a copy without optimizer state",
        )
    if is_saved_model(directory):
        raise UsageError(
            "a SavedModel, not a training directory",
            where=str(directory),
            hint="a SavedModel is one model: there are no older ones in it to thin",
        )


def _refuse_models(directory: Path) -> None:
    """Refuse a directory of files of epochs, with the reason."""
    models = models_in(directory)
    if models:
        raise UnsupportedError(
            f"no checkpoint in this directory, but {list_text([m.name for m in models])}: the "
            "optimizer state of such a file is not thinned in place, since Keras loads the whole "
            "file or nothing",
            where=str(directory),
            hint="`ckptkit convert` writes the weights alone, to another file",
        )


def _named_latest(directory: Path) -> Path | None:
    """Return the prefix that the state file calls the latest, if there is one."""
    state = directory / STATE_FILE
    if not state.is_file():
        return None
    latest, _all = read_state(state)
    return None if latest is None else _beside(directory, latest)


def _beside(directory: Path, written: str) -> Path:
    return prefix_of(directory / Path(written.replace("\\", "/")).name)


def _ordered(directory: Path, found: list[Path], kept: int) -> tuple[list[Path], str]:
    """Return prefixes, oldest first, and how that was told.

    By step where all are called `STEM-N` with one stem, as TensorFlow calls them; else by the state
    file where it lists them all; else by the times of the files, if these differ.
    """
    if len(found) == 1:
        return found, "as the only one"
    steps = [_STEP.fullmatch(prefix.name) for prefix in found]
    if all(steps) and len({step[1] for step in steps if step}) == 1:
        numbers = {path: int(step[2]) for path, step in zip(found, steps, strict=True) if step}
        if len({*numbers.values()}) == len(found):
            return sorted(found, key=numbers.__getitem__), "by step"
    state = directory / STATE_FILE
    listed = [_beside(directory, path) for path in read_state(state)[1]] if state.is_file() else []
    if {*found} <= {*listed}:
        last = {prefix: number for number, prefix in enumerate(listed)}
        return sorted(found, key=last.__getitem__), "by the state file"
    times = {prefix: modified_ns(prefix) for prefix in found}
    ordered = sorted(found, key=times.__getitem__)
    if len(ordered) > kept and times[ordered[-kept]] == times[ordered[-kept - 1]]:
        raise UsageError(
            "which checkpoint is newer is not clear: neither names nor a state file tell, and "
            f"{ordered[-kept - 1].name} and {ordered[-kept].name} are of one time",
            where=str(directory),
            hint="nothing is thinned",
        )
    return ordered, "by time"


def reason(error: CkptkitError) -> str:
    """Return why a checkpoint was refused, in one line without its path."""
    return f"{error.message} ({error.hint})" if error.hint else error.message
