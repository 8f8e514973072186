"""Directories of Orbax: a run of steps, one checkpoint, its items.

    RUN/                       a directory of steps: `N`, `NAME_N`, `0000N`
    RUN/N/                     a checkpoint: `_CHECKPOINT_METADATA` (JSON), and its items
    RUN/N/ITEM/                an item: a tree of arrays (`_METADATA`), or JSON, or other things
    RUN/N.orbax-checkpoint-tmp a save that was not finished

A checkpoint of one tree may be the item itself.  A save is finished where its directory was given
its name; newer versions write `commit_success.txt` as well, and the time into
`_CHECKPOINT_METADATA`.  On stores that cannot rename a directory the marker alone tells.
Source: orbax/checkpoint/_src/path/{step,atomicity}.py, _src/metadata/checkpoint.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ckptkit._io.file_states import is_file
from ckptkit._io.places import can_list, entries_known, names_in
from ckptkit.errors import CkptkitError, PathNotFoundError, UsageError
from ckptkit.text import lazy_pattern, list_text

CHECKPOINT_METADATA = "_CHECKPOINT_METADATA"
TREE_METADATA, STRINGS = "_METADATA", "_strings.json"
MANIFEST = "manifest.ocdbt"
ZARRAY, ZARR_JSON = ".zarray", "zarr.json"
COMMITTED = "commit_success.txt"
UNFINISHED = ".orbax-checkpoint-tmp"
_OLD_TREE = "checkpoint"  # msgpack, of before `_METADATA`
_MAPS = (*(bytes([first]) for first in range(0x80, 0x90)), b"\xde", b"\xdf")  # how they begin
_STEP = lazy_pattern(r"(.*?)(\d{1,18})", re.S)


class Steps(NamedTuple):
    """The finished checkpoints of a run, oldest first, and those that are passed over, with why."""

    finished: tuple[Path, ...]
    passed_over: tuple[tuple[Path, str], ...]


def is_item(directory: Path) -> bool:
    """Whether a directory holds arrays, or a tree of leaves, as Orbax writes them."""
    return any((directory / name).is_file() for name in (TREE_METADATA, MANIFEST)) or (
        _holds_old_tree(directory)
    )


def _holds_old_tree(directory: Path) -> bool:
    """Whether arrays lie beside the file in which versions of before `_METADATA` kept the tree.

    TensorFlow's state file has the same name, and is text.
    """
    tree = directory / _OLD_TREE
    if not tree.is_file():
        return False
    try:
        with tree.open("rb") as file:
            if file.read(1) not in _MAPS:
                return False
    except OSError:  # the entries tell whose it is; whoever reads it says what is wrong
        pass
    return any(
        (entry / name).is_file()
        for entry in entries_known(directory)
        for name in (ZARRAY, ZARR_JSON)
    )


def is_checkpoint(directory: Path) -> bool:
    """Whether a directory is one checkpoint of Orbax, finished or not, and not a run of them."""
    if (directory / CHECKPOINT_METADATA).is_file() or is_item(directory):
        return True
    if not _STEP.fullmatch(directory.name):
        return False
    try:
        return bool(_old_items(directory))
    except OSError:  # an entry that nobody may look into, such as the lost+found of a disk
        if any(name.endswith(".index") for name, _ in names_in(directory)):
            return False  # a run of TensorFlow
        raise


def is_unfinished(name: str) -> bool:
    """Whether a directory is called as a save that was not finished."""
    return UNFINISHED in name


def items_of(checkpoint: Path) -> tuple[Path, ...]:
    """Return the items of a checkpoint that may hold arrays, by name; itself where it is one."""
    if is_item(checkpoint):
        return (checkpoint,)
    return tuple(sorted(entry for entry in _directories(checkpoint) if is_item(entry)))


def _old_items(directory: Path) -> list[Path]:
    """Return items directly below that are no checkpoints of their own, as versions wrote them."""
    return [
        entry
        for entry in _directories(directory)
        if is_item(entry) and not (entry / CHECKPOINT_METADATA).is_file()
    ]


def _directories(directory: Path) -> list[Path]:
    if not can_list(directory):
        return [directory / name for name in _named_items(directory)]
    return [
        directory / name
        for name, is_directory in names_in(directory, follow=True)
        if is_directory and not is_unfinished(name)
    ]


def _named_items(checkpoint: Path) -> list[str]:
    """Return the items that a checkpoint, which cannot be listed, says it has; [] if it does not.

    `_CHECKPOINT_METADATA` has them as keys of "item_handlers", where it has more than one tree.
    """
    handlers = _told(checkpoint).get("item_handlers")
    names = handlers if isinstance(handlers, dict) else {}
    return sorted(name for name in names if name and "/" not in name and name not in (".", ".."))


def why_unfinished(checkpoint: Path, siblings: Iterable[Path] = ()) -> str | None:
    """Return why a checkpoint does not count as finished; None where it does.

    siblings: the other checkpoints of its run.
    """
    if is_unfinished(checkpoint.name):
        return "the save was not finished: its directory has not got its name"
    if is_file(checkpoint / COMMITTED):
        return None
    committed = _commit_time(checkpoint)
    if committed == "none":
        return f"the save was not finished: {CHECKPOINT_METADATA} has no time of it"
    if committed == "unknown" and any(is_file(other / COMMITTED) for other in siblings):
        return f"the save was not finished: no {COMMITTED}, which others have"
    return None


def _commit_time(checkpoint: Path) -> str:
    """Return "some", "none" where the file says that there is none yet, or "unknown"."""
    found = _told(checkpoint)
    if "commit_timestamp_nsecs" not in found:
        return "unknown"
    return "some" if found["commit_timestamp_nsecs"] is not None else "none"


def _told(checkpoint: Path) -> dict[str, Any]:
    """Return what a checkpoint says of itself; {} where it does not, or not so that it is read."""
    path = checkpoint / CHECKPOINT_METADATA
    if not is_file(path):
        return {}
    from ckptkit.stores.containers import strict_json  # here, as every command asks what lies where

    try:
        found = strict_json.load(path, max_bytes=1 << 24)
    except CkptkitError:  # whoever opens it says what is wrong
        return {}
    return found if isinstance(found, dict) else {}


def steps_in(directory: Path) -> Steps | None:
    """Return the checkpoints of a run, by step; None where no step lies in the directory.

    Raises UsageError where they are called in several ways, so that no order follows.
    """
    found: dict[Path, tuple[str, int]] = {}
    begun: list[tuple[Path, str]] = []
    names = [name for name, is_directory in names_in(directory, follow=True) if is_directory]
    for name in names:
        path = directory / name
        if is_unfinished(name):
            begun.append((path, "the save was not finished"))
            continue
        step = _STEP.fullmatch(name)
        if step and is_checkpoint(path):
            found[path] = (step[1], int(step[2]))
    if not found:
        return None
    stems = {stem for stem, _ in found.values()}
    if len(stems) > 1:
        raise UsageError(
            f"holds checkpoints of Orbax that are called in {len(stems)} ways: "
            f"{list_text([path.name for path in found])}",
            where=str(directory),
            hint=f"give one of them, such as {next(iter(found))}",
        )
    ordered = sorted(found, key=lambda path: (found[path][1], path.name))
    passed = [(path, why_unfinished(path, ordered)) for path in ordered]
    return Steps(
        tuple(path for path, why in passed if why is None),
        (*((path, why) for path, why in passed if why is not None), *begun),
    )


def latest_step(directory: Path) -> tuple[Path, tuple[str, ...]] | None:
    """Return (the newest finished checkpoint of a run, notes); None where none lies there.

    Raises UsageError as `steps_in` does, and where two are of one step, and PathNotFoundError where
    none is finished.
    """
    steps = steps_in(directory)
    if steps is None:
        return None
    notes = [f"passed over {path.name}: {why}" for path, why in steps.passed_over]
    if not steps.finished:
        raise PathNotFoundError(
            f"no finished checkpoint of Orbax: {'; '.join(notes)}", where=str(directory)
        )
    latest = steps.finished[-1]
    same = [path for path in steps.finished if _number(path) == _number(latest)]
    if len(same) > 1:
        raise UsageError(
            f"two checkpoints of one step: {list_text([path.name for path in same])}",
            where=str(directory),
            hint=f"give one of them, such as {latest}",
        )
    of = f" of {len(steps.finished)} (by step)" if len(steps.finished) > 1 else ""
    return latest, (f"latest finished checkpoint{of}: {latest.name}", *notes)


def _number(path: Path) -> int:
    step = _STEP.fullmatch(path.name)
    return int(step[2]) if step else -1
