"""Directories that a program writes into while they are looked at.

A save takes a while, and removing an old checkpoint too: what is found in between is no fault.  So
what needs a still directory is looked at again until the directory has been still for a second
(`STILL_S`), and said only where every look finds it; and what a save leaves when it is killed
looks, while it goes on, the same.

*Young* is what was changed within the last hour (`YOUNG_S`; nobody saves for longer without writing
a byte): it may be of a save that goes on, and is a note.  Advice to delete is given only for what
is older, and only where nothing right in the directory is young, so that nobody writes there.  What
counts is the time of the last change of the content (mtime); a time in the future is young.
A directory is *in use* when anything right in it was changed within the last minute (`IN_USE_S`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ckptkit._io.file_states import FileState
from ckptkit.errors import ChangedError, PathNotFoundError
from ckptkit.operations.findings import Finding, Unit
from ckptkit.stores.base import Store

YOUNG_S = 3600.0
IN_USE_S = 60.0
STILL_S = 1.0
LOOK_AGAIN_S = 0.25
MAX_LOOKS = 12  # three seconds

FileStates = Mapping[Path, FileState | None]
"""States of the files of a unit, None for one that went."""
FindingName = tuple[Path, str, str]
"""What tells a finding from another: unit, code, where."""


# --- how old ------------------------------------------------------------------------------------


def is_young(path: Path, at_s: float) -> bool:
    """Whether a file, or anything below a directory, was changed within the hour before `at_s`.

    What went meanwhile is young: somebody has just removed it.
    """
    times = list(_changes(path))
    return not times or max(times) > at_s - YOUNG_S


def is_quiet(directory: Path, at_s: float) -> bool:
    """Whether nobody has written into a directory, or a file right in it, within the last hour."""
    return not any(changed_s > at_s - YOUNG_S for changed_s in _changes_right_in(directory))


def is_in_use(directory: Path) -> bool:
    """Whether anything right in a directory was changed within the last minute."""
    return was_changed_within(directory, IN_USE_S)


def was_changed_within(directory: Path, seconds: float, *, entries: bool = True) -> bool:
    """Whether a directory, or (with `entries`) anything right in it, changed within so long."""
    now_s = time.time()
    return any(
        changed_s > now_s - seconds for changed_s in _changes_right_in(directory, entries=entries)
    )


def _changes(path: Path) -> Iterator[float]:
    """Yield when a path, and all below it, was changed last, in seconds since 1970."""
    with suppress(OSError):
        yield path.lstat().st_mtime
    for place, names, files in os.walk(path):
        for name in (*names, *files):
            with suppress(OSError):
                yield Path(place, name).lstat().st_mtime


def _changes_right_in(directory: Path, *, entries: bool = True) -> Iterator[float]:
    with suppress(OSError):
        yield directory.stat().st_mtime
        for entry in directory.iterdir() if entries else ():
            with suppress(OSError):  # it went
                yield entry.lstat().st_mtime


# --- looking twice --------------------------------------------------------------------------------


class Look(NamedTuple):
    """What was seen of one unit.  changed: whether its files did, while they were read."""

    unit: Unit
    store: Store | None
    states: FileStates
    changed: bool = False

    @property
    def is_fine(self) -> bool:
        """Whether nothing was found that another look may take back."""
        if self.changed or isinstance(self.unit.refusal, PathNotFoundError | ChangedError):
            return False
        return not any(finding.severity != "note" for finding in self.unit.findings)


Looker = Callable[[Sequence[Look]], list[Look]]
"""Looks at everything, and may take over what earlier looks saw of files that are the same."""


def look_twice(
    look: Looker, directory: Path, needs_stillness: Callable[[Look], bool], is_whole: bool
) -> list[Look]:
    """Return what is seen, after more looks where the first one finds what may be passing.

    Args:
        look: what looks.
        directory: where the files lie; where it is still, one look is enough.
        needs_stillness: whether what is found in a unit may come of a program that writes.
        is_whole: whether all in the directory is looked at; of one file or checkpoint in it, only
            that names came or went there counts as a change.

    Returns:
        What the last look saw.  An error or warning is in it only where each look found it; where
        they do not agree, the unit is one that changed.

    Raises:
        What `look` raises.
    """
    seen = look(())
    known: set[FindingName] | None = None
    for _ in range(MAX_LOOKS):
        doubtful = [one for one in seen if not one.is_fine and needs_stillness(one)]
        if not doubtful:
            return seen
        found = {_name(one, finding) for one in seen for finding in one.unit.findings}
        known = found if known is None else known & found
        places = {directory, *(one.unit.path.parent for one in doubtful if is_whole)}
        changes = any(was_changed_within(place, STILL_S, entries=is_whole) for place in places)
        if not changes and _are_confirmed(seen, known):
            return seen
        time.sleep(LOOK_AGAIN_S)
        seen = look([one for one in seen if one.is_fine])
    known = known or set()
    return [one if _is_confirmed(one, known) else one._replace(changed=True) for one in seen]


def _are_confirmed(looks: Sequence[Look], known: set[FindingName]) -> bool:
    return all(_is_confirmed(one, known) for one in looks)


def _name(look: Look, finding: Finding) -> FindingName:
    return look.unit.path, finding.code, finding.where


def _is_confirmed(look: Look, known: set[FindingName]) -> bool:
    """Whether all that a look found was found by those before."""
    if look.changed:
        return False
    findings = (finding for finding in look.unit.findings if finding.severity != "note")
    return all(_name(look, finding) in known for finding in findings)
