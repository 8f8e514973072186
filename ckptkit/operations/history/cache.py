"""What was measured before, by content: a plain file that may be deleted at any time.

JSON: `{"schema": "ckptkit.history-cache/1", "saturated": X, "files": {STATE: {KEY: CONTENT}},
"tensors": {NAME: {"values": {CONTENT: [...]}, "updates": {"CONTENT>CONTENT": [norm, still]},
"turns": {"CONTENT>CONTENT>CONTENT": cosine}}}}`.

CONTENT is the crc32c of a tensor's values and their dtype.  STATE tells one content of the files of
a checkpoint from another: sizes, times and inodes; where the format stores no checksums of tensors,
also the crc32c of each whole file.  What was measured counts only for files that are in a state
that was seen: a file that changed is read again, whatever its index says of checksums.  A file that
changed within the two seconds before it was measured is not remembered, since the clock of a file
system may not tell two changes apart.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections import ChainMap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ckptkit._io.atomic import replacing
from ckptkit._io.file_states import file_state, is_file
from ckptkit._io.files import Extent, file_size
from ckptkit._io.side_files import read_whole
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.errors import CkptkitError, FormatError
from ckptkit.operations.history.types import TensorMeasurement, TensorUpdate
from ckptkit.operations.statistics import Statistics
from ckptkit.stores.registry import files_at
from ckptkit.text import json_number, lazy_pattern

SCHEMA = "ckptkit.history-cache/1"
_BEGINNING = lazy_pattern(rb'\s*\{\s*"schema"\s*:\s*"' + re.escape(SCHEMA.encode()) + rb'"')
MAX_BYTES = 1 << 30
_SPECIAL = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
_READ_AT_ONCE = 1 << 20


class MeasuredBefore:
    """The cache of one run.

    What this process measured counts for as long as it lasts, whatever becomes of the files.

    path: None keeps nothing for the next one.  saturated: the threshold that counts of saturated
    units rest on.
    """

    def __init__(self, path: Path | None, saturated: float) -> None:
        self.path = path
        self._saturated = saturated
        self._states: dict[Path, str | None] = {}
        self._here: dict[Path, dict[str, str]] = {}
        self._old: dict[str, Any] = {"files": {}, "tensors": {}}
        self._new: dict[str, Any] = {"files": {}, "tensors": {}}
        if path is not None and os.path.exists(path):  # noqa: PTH110  # its own raises EACCES
            self._load(path)

    def _load(self, path: Path) -> None:
        """Take what the file says; a cache that is cut short is as good as none.

        What does not begin as a cache is somebody else's, and is not written over.
        """
        data = read_whole(path, MAX_BYTES, "a cache")
        if data and not _BEGINNING.match(data):
            raise FormatError(
                str(path),
                "is no cache of a history",
                hint="it is left as it is: name another file",
            )
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            return
        is_whole = all(isinstance(found.get(part), dict) for part in self._old)
        if is_whole and found.get("saturated") == self._saturated:
            self._old = found

    def contents(self, checkpoint: Checkpoint) -> Mapping[str, str]:
        """Return the content of each tensor by key, where the files are as they were measured."""
        here = self._here.get(checkpoint.path)
        if here is not None or self.path is None:
            return here or {}
        state = self._states.setdefault(checkpoint.path, _state(checkpoint))
        found = self._old["files"].get(state) if state else None
        return found if isinstance(found, dict) else {}

    def remember(self, checkpoint: Checkpoint, contents: Mapping[str, str]) -> None:
        """Keep what the tensors of a checkpoint hold, by key."""
        known = {**self.contents(checkpoint), **contents}
        self._here[checkpoint.path] = known
        state = self._states.get(checkpoint.path)
        if state is not None:
            self._new["files"][state] = known

    def values(self, name: str, content: str) -> TensorMeasurement | None:
        """Return what was measured of a tensor, its update left out; None where it was not."""
        row: Any = self._part(name, "values").get(content)
        try:
            numbers = [_SPECIAL.get(value, value) for value in row[:9]]
            statistics = Statistics(*numbers)
            return TensorMeasurement(content, statistics, int(row[9], 16), int(row[10]))
        except (TypeError, ValueError, IndexError):
            return None

    def update(self, name: str, before: str, content: str) -> tuple[TensorUpdate | None] | None:
        """Return the update from one content to the next, without its angle, in a tuple; else None.

        (None,) is of one that could not be measured, since the file before was gone.
        """
        updates, pair = self._part(name, "updates"), f"{before}>{content}"
        if pair not in updates:
            return None
        row = updates[pair]
        try:
            number = float(_SPECIAL.get(row[0], row[0])) if row is not None else 0.0
            return (None if row is None else TensorUpdate(number, None, int(row[1], 16)),)
        except (TypeError, ValueError, IndexError):
            return None

    def turn(self, name: str, contents: tuple[str, str, str]) -> tuple[float | None] | None:
        """Return the angle between the updates along three contents, in a tuple; else None."""
        found = self._part(name, "turns").get(">".join(contents))
        if found == "none":
            return (None,)
        return (found,) if isinstance(found, float | int) else None

    def keep(
        self, name: str, measured: TensorMeasurement, before: str | None, earlier: str | None
    ) -> None:
        """Keep what was measured.  before, earlier: the contents one and two steps ago."""
        parts = self._new["tensors"].setdefault(name, {"values": {}, "updates": {}, "turns": {}})
        s = measured.statistics
        numbers = (s.n, s.n_nan, s.n_inf, s.n_zero, s.minimum, s.maximum, s.mean, s.std, s.norm)
        parts["values"][measured.content] = [
            *map(json_number, numbers),
            f"{measured.zero_units:x}",
            measured.saturated_units,
        ]
        update = measured.update
        if before is None:
            return
        pair = f"{before}>{measured.content}"
        if update is None:
            parts["updates"][pair] = None
            return
        parts["updates"][pair] = [json_number(update.norm), f"{update.still_units:x}"]
        if earlier is not None:
            parts["turns"][f"{earlier}>{pair}"] = "none" if update.turn is None else update.turn

    def _part(self, name: str, part: str) -> Mapping[str, Any]:
        """Return what is known of a tensor: of this process before what the file has."""
        new, old = (self._inner(side, name, part) for side in (self._new, self._old))
        return ChainMap(new, old) if new and old else new or old

    @staticmethod
    def _inner(side: dict[str, Any], name: str, part: str) -> dict[str, Any]:
        found = side["tensors"].get(name)
        inner = found.get(part) if isinstance(found, dict) else None
        return inner if isinstance(inner, dict) else {}

    def save(self) -> str:
        """Write what this run measured, beside what was there of files that it did not look at.

        A cache that cannot be written is none, and what kept it from that is returned: the next
        run measures again.
        """
        if self.path is None or self._new == {"files": {}, "tensors": {}}:
            return ""
        document = {"schema": SCHEMA, "saturated": self._saturated, **self._merged()}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path, overwrite=True) as beside:
                beside.write_text(json.dumps(document, separators=(",", ":")), "utf-8")
        except OSError as error:
            return f"{self.path}: {error.strerror}"
        except CkptkitError as error:
            return str(error)
        return ""

    def _merged(self) -> dict[str, Any]:
        files = {**self._old["files"], **self._new["files"]}
        tensors = dict(self._old["tensors"])
        for name, parts in self._new["tensors"].items():
            old = tensors.get(name)
            old = old if isinstance(old, dict) else {}
            tensors[name] = {
                part: {**(old.get(part) or {}), **{k: v for k, v in new.items() if v is not None}}
                for part, new in parts.items()
            }
        return {"files": files, "tensors": tensors}


def default_path(first: Path) -> Path | None:
    """Return where the cache of a run lies that begins with the file or directory `first`.

    None where the user has no home.

    Below $XDG_CACHE_HOME, or ~/.cache: https://specifications.freedesktop.org/basedir-spec
    """
    base = os.environ.get("XDG_CACHE_HOME") or ""
    try:
        top = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    name = hashlib.sha256(os.fsencode(str(first.absolute()))).hexdigest()[:20]
    return top / "ckptkit" / "history" / f"{name}.json"


def _state(checkpoint: Checkpoint) -> str | None:
    """Return what tells one content of a checkpoint's files from another; None where too young."""
    now_ns = time.time_ns()
    store = checkpoint.store
    parts = []
    has_checksums = any(spec.crc32c is not None for spec in store.specs.values())
    for file in sorted({*store.shards, *files_at(store.format, checkpoint.path)}):
        if not is_file(file):
            continue
        state = file_state(file)
        if state is None or not state.is_settled(now_ns):
            return None
        text = f"{file.name}:{state.size}:{state.modified_ns}"
        # The time at which an inode changed cannot be set back; without checksums, a hash counts.
        parts.append(
            f"{text}:{state.inode}:{state.changed_ns}" if has_checksums else f"{text}:{_crc(file)}"
        )
    return "|".join(parts) if parts else None


def _crc(file: Path) -> str:
    """Return the crc32c of a whole file, in hex."""
    from ckptkit._io.read_buffer import ReadBuffer

    size, crc = file_size(file), 0
    extent, buffer = Extent(file, 0, size), ReadBuffer(_READ_AT_ONCE)
    for start in range(0, size, _READ_AT_ONCE):
        count = min(_READ_AT_ONCE, size - start)
        extent.read_into(start, buffer.view[:count])
        crc = buffer.crc(crc, count)
    return f"{crc:08x}"
