"""`ls -r`: the checkpoints and models below a directory, a row each."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ckptkit._io.places import path_of
from ckptkit._io.progress import numbered
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.errors import CkptkitError, PathNotFoundError, UsageError
from ckptkit.operations.ls import ls
from ckptkit.results import Document
from ckptkit.stores.directories import contents_of, directories_below, is_model_directory
from ckptkit.stores.locate import locate
from ckptkit.stores.registry import files_at
from ckptkit.text import natural

SCHEMA = "ckptkit.inventory/1"
SORTS = ("name", "size", "params", "step", "time")


@dataclass(frozen=True)
class InventoryRow:
    """One checkpoint or model.

    path: as it can be given to other commands.  step: what all its counters of steps say, None
    where they differ or there is none.  params: elements of weights.  nbytes: of all tensors.
    modified: of the newest of its files, in seconds since the epoch.  problems: what is missing, or
    why it is not read.
    """

    path: Path
    format: str
    step: int | None = None
    tensors: int | None = None
    params: int | None = None
    nbytes: int | None = None
    modified: float | None = None
    digest: str | None = None
    problems: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values that JSON can hold.

        Returns:
            The fields by name; the time as text, in UTC.
        """
        return {
            **self.__dict__,
            "path": str(self.path),
            "modified": time_text(self.modified) if self.modified is not None else None,
            "problems": list(self.problems),
        }


@dataclass(frozen=True, repr=False)
class Inventory(Document):
    """What lies below directories.  not_listed: directories that could not be looked into."""

    ROWS: ClassVar[str] = "rows"

    paths: tuple[Path, ...]
    rows: tuple[InventoryRow, ...]
    not_listed: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everything there is complete, and could be read."""
        return not self.not_listed and not any(row.problems for row in self.rows)

    @property
    def exit_code(self) -> int:
        """0 all is complete, 2 where some of it could not be told."""
        return 0 if self.ok else 2

    def __repr__(self) -> str:
        below = ", ".join(map(str, self.paths))
        return f"<Inventory of {len(self.rows)} checkpoints and models below {below}>"

    def to_json(self) -> dict[str, Any]:
        """Return the document of schema ckptkit.inventory/1 (docs/json.md).

        Returns:
            Plain values that JSON can hold.
        """
        return {
            "schema": SCHEMA,
            "paths": [str(path) for path in self.paths],
            "not_listed": list(self.not_listed),
            "rows": [row.to_json() for row in self.rows],
        }


def inventory(
    *paths: str | os.PathLike[str], sort: str = "name", digest: bool = False
) -> Inventory:
    """List the checkpoints and models in directories and below; headers and counters are read.

    Args:
        *paths: directories; links below them are not followed.  A checkpoint or model is itself.
        sort: "name" (natural order of the paths), "size" (bytes, largest first), "params", "step"
            or "time" (of the last change; the newest first, as the highest step).
        digest: also read all values, for the digest of the weights of each.

    Returns:
        A row each; what cannot be read has its reason as a problem.

    Raises:
        PathNotFoundError: no such directory, or nothing lies in it.
        UsageError: there is no such order.
    """
    if sort not in SORTS:
        raise UsageError(f"cannot sort by {sort!r}", hint=f"one of {', '.join(SORTS)}")
    failed: list[OSError] = []
    tops = tuple(map(path_of, paths))
    places = [place for top in tops for place in places_below(top, failed)]
    rows = [_row(place, digest) for place in numbered(places)]
    not_listed = tuple(f"{error.filename}: {error.strerror}" for error in failed)
    return Inventory(tops, tuple(sorted(rows, key=_ORDERS[sort])), not_listed)


_ORDERS: dict[str, Any] = {
    "name": lambda row: natural(str(row.path)),
    "size": lambda row: (-(row.nbytes or 0), natural(str(row.path))),
    "params": lambda row: (-(row.params or 0), natural(str(row.path))),
    "step": lambda row: (-(row.step if row.step is not None else -1), natural(str(row.path))),
    "time": lambda row: (-(row.modified or 0.0), natural(str(row.path))),
}


def places_below(top: Path, failed: list[OSError]) -> Iterator[Path]:
    """Yield the checkpoints and models in a directory and below, each as an operand.

    Args:
        top: the directory; links below it are not followed.  Any other operand is itself.
        failed: gets an error for each directory that could not be looked into.

    Yields:
        The path of each.

    Raises:
        PathNotFoundError: there is no such directory, or nothing lies in it.
        UnsupportedError, FormatError: of another operand, as `ckptkit.open`.
    """
    if not top.is_dir():
        locate(top)  # which says what is wrong where nothing lies there
        yield top
        return
    if is_model_directory(top):
        yield top
        return
    failed_before, is_empty = len(failed), True
    for place, _names in directories_below(top, is_model_directory, failed.append):
        contents = contents_of(place)
        for found in (*contents.checkpoints, *contents.models):
            is_empty = False
            yield found
    if is_empty and len(failed) == failed_before:
        raise PathNotFoundError("no checkpoint and no model lies in it or below", where=str(top))


def _row(place: Path, digest: bool) -> InventoryRow:
    try:
        listing = ls(place, digest=digest)
    except (CkptkitError, OSError) as error:
        text = error.message if isinstance(error, CkptkitError) else str(error)
        return InventoryRow(place, "", problems=(text,))
    problems = [problem.message for problem in listing.problems]
    step = None
    try:
        step = training_step(listing.checkpoint)
    except CkptkitError as error:
        problems = problems or [error.message]
    totals, store = listing.totals, listing.checkpoint.store
    return InventoryRow(
        place,
        store.format,
        step,
        totals["tensors"],
        totals["params"],
        totals["bytes"],
        _modified(store.format, place),
        listing.digest,
        tuple(problems),
    )


def training_step(checkpoint: Checkpoint) -> int | None:
    """Return the number of steps that all counters of optimizers and programs say; None else.

    TensorFlow's own count of saves (`save_counter`) is none of them.
    """
    steps = set()
    for key, naming in checkpoint.names.items():
        spec = checkpoint.specs[key]
        if naming.role != "counter" or naming.name == "save_counter" or spec.shape != ():
            continue
        if "int" in spec.dtype:
            steps.add(int(checkpoint.store.read(key)[0]))
    return steps.pop() if len(steps) == 1 else None


def _modified(format_: str, place: Path) -> float | None:
    times = []
    for file in files_at(format_, place):
        try:
            times.append(file.stat().st_mtime)
        except OSError:  # it is told by `problems`
            continue
    return max(times, default=None)


def time_text(seconds: float) -> str:
    """Return a time as "2026-11-27 17:08:49Z"."""
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds))
