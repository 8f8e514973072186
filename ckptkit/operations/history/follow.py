"""A run that goes on: what is new in a directory, whenever something whole has come.

Checkpoints come and go while they are looked at, and neither is a fault here: what is not whole is
looked at again, what went is forgotten.  Nothing is written, and files may be removed meanwhile.
TensorFlow gives an index its name when the data are there, so a checkpoint that can be opened and
lacks nothing is whole; a file of another format counts once two looks find it the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ckptkit._io.file_states import FileState, file_state
from ckptkit._io.places import is_url, path_of, text_of
from ckptkit.errors import (
    ChangedError,
    CkptkitError,
    PathNotFoundError,
    UnsupportedError,
    UsageError,
)
from ckptkit.operations.history.api import measured_run
from ckptkit.operations.history.cache import MeasuredBefore
from ckptkit.operations.history.result import History
from ckptkit.operations.history.steps import KnownNames, RunFile, opened, ordered, places_of
from ckptkit.operations.history.types import WENT, HistoryThresholds, thresholds_of
from ckptkit.stores.registry import files_at
from ckptkit.text import without_secrets
from ckptkit.wording import say

if TYPE_CHECKING:
    from concurrent.futures import Executor

LOOK_EVERY_S = 0.5


def follow(
    directory: str | os.PathLike[str],
    *,
    roles: Sequence[str] = (),
    names: Sequence[str] = (),
    cache: Path | None = None,
    thresholds: Mapping[str, float] | HistoryThresholds | None = None,
    executor: Executor | None = None,
    look_every_s: float = LOOK_EVERY_S,
    goes_on: Callable[[], bool] = lambda: True,
) -> Iterator[tuple[History, tuple[Path, ...]]]:
    """Yield the history of a run so far, and which steps are new, as checkpoints come.

    Args:
        directory: of a run; it need not hold anything yet.
        roles: as `history` has it.
        names: as `history` has it.
        cache: a file in which measurements are kept.
        thresholds: as `history` has it.
        executor: where the work is done; None does it here.
        look_every_s: seconds between two looks.
        goes_on: asked after each look that found nothing new; once false, the run has ended.

    Yields:
        (history, paths of the steps that were not in the one before).

    Raises:
        PathNotFoundError: no such directory.
        UnsupportedError: it is elsewhere.
        UsageError: nothing tells one order of the files.
    """
    if is_url(directory):
        raise UnsupportedError(
            "a run elsewhere is not followed",
            where=without_secrets(text_of(directory)),
            hint=say("look at its history again; with ‹cache›, only what is new is read then"),
        )
    place = path_of(directory)
    if not place.is_dir():
        raise PathNotFoundError("no such directory", where=str(place))
    limits = (
        thresholds if isinstance(thresholds, HistoryThresholds) else thresholds_of(thresholds or {})
    )
    measured = MeasuredBefore(cache, limits.saturated)
    looker = _Looker(place)
    told: set[Path] = set()
    is_waiting = False  # for a result, of what was whole when it was looked at
    while True:
        if not looker.look() and not is_waiting:
            if not goes_on():
                return
            time.sleep(look_every_s)
            continue
        try:
            result = measured_run(
                (place,), ordered(looker.files), roles, names, limits, measured, executor
            )
            measured.save()
            gone = {step.path for step in result.steps if step.problem == WENT}
        except ChangedError as error:  # removed, or written anew, as its values were read
            gone = {file.path for file in looker.files if _is_of(Path(error.where), file.path)}
            if not gone:
                raise
        if gone:  # the rest is measured again, of which most is known by now
            looker.forget(gone)
            is_waiting = bool(looker.files)
            continue
        is_waiting = False
        new = tuple(step.path for step in result.steps if step.path not in told)
        told.update(new)
        if new:
            yield result, new


def _is_of(file: Path, checkpoint: Path) -> bool:
    """Whether a file is one of those that a checkpoint, by its prefix, or a model is made of."""
    is_beside = file.parent == checkpoint.parent and file.name.startswith(f"{checkpoint.name}.")
    return file == checkpoint or is_beside or checkpoint in file.parents


class _Looker:
    """Knows which checkpoints of a directory were whole when they were looked at."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._names: KnownNames = {}
        self._files: dict[Path, RunFile] = {}
        self._passing: dict[Path, Mapping[Path, FileState | None]] = {}

    @property
    def files(self) -> list[RunFile]:
        """All that was whole so far, there still or not."""
        return list(self._files.values())

    def forget(self, paths: set[Path]) -> None:
        """Leave out what went before it was read."""
        for path in paths:
            self._files.pop(path, None)

    def look(self) -> bool:
        """Look once; return whether something whole is new."""
        try:
            places = places_of([self._directory], [])
        except (PathNotFoundError, OSError):
            return False
        is_new = False
        for path, _given in places:
            if path in self._files:
                continue
            try:
                file = opened(path, False, self._names, patient=False)
            except UsageError:
                continue
            if file.checkpoint is None or not self._is_still(file):
                continue
            self._files[path] = file
            is_new = True
        return is_new

    def _is_still(self, file: RunFile) -> bool:
        """Whether a file is sure to be whole: by its index, or since it is as it was before."""
        assert file.checkpoint is not None
        store = file.checkpoint.store
        if any(spec.crc32c is not None for spec in store.specs.values()):
            return True
        try:
            states = {one: file_state(one) for one in files_at(store.format, file.path)}
        except CkptkitError:
            return False
        was = self._passing.get(file.path)
        self._passing[file.path] = states
        return was == states
