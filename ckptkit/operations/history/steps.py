"""Which checkpoints a run is made of, and in which order.

Names alone put `ckpt-10` before `ckpt-9`, and a training loop may call its files anything.  So the
order is that of numbers: in the names, where they are called by one pattern and nothing that the
files count contradicts it; else of the training step that the files' counters say, else of
TensorFlow's count of saves.  The names go first because counters are what a fault changes: an
optimizer that was not restored counts from 0 again, an older checkpoint that was copied over a
newer one brings its own.  What nothing puts in order is named, and left out or refused.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ckptkit._io.files import read_exact
from ckptkit._io.places import names_in, path_of
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.checkpoint import open as open_checkpoint
from ckptkit.checkpoint.naming import Naming
from ckptkit.compare.spans import FileSpan, source_of
from ckptkit.errors import ChangedError, CkptkitError, PathNotFoundError, UsageError
from ckptkit.operations.quantised import numbers_store
from ckptkit.stores.base import KerasStructure, Store
from ckptkit.stores.constants import quantisations_of
from ckptkit.stores.directories import contents_of, directories_below, is_model_directory
from ckptkit.stores.following import opened_still
from ckptkit.stores.tensor_bundle.state_file import is_unfinished, prefix_name
from ckptkit.text import lazy_pattern, list_text, natural

# A whole number; "0.83" is a measure, and tells no order.
_NUMBER = lazy_pattern(r"(?<![\d.])(\d{1,18})(?!\d|\.\d)|(?<=[^\d]\.)(\d{1,18})(?!\d|\.\d)")


@dataclass(frozen=True)
class RunFile:
    """One checkpoint or model that may be a step: open, or with why it is not.

    values: what is measured: quantised tensors as the numbers that they stand for.
    signature: what files share whose tensors are called the same, key by key.
    given: whether it was named, not found in a directory.  gone: it went while it was looked at.
    """

    path: Path
    checkpoint: Checkpoint | None = None
    values: Store | None = None
    signature: object = None
    counters: Mapping[str, int] = field(default_factory=dict)
    save_counter: int | None = None
    problem: str = ""
    given: bool = True
    gone: bool = False

    @property
    def training_step(self) -> int | None:
        """What all counters say; None where they differ or there are none."""
        values = set(self.counters.values())
        return values.pop() if len(values) == 1 else None


class OrderedRun(NamedTuple):
    """Files in the order of the run, with the number that each is called by.

    name_numbers: by path.  how: what the order rests on.  notes: what is worth knowing of it.
    """

    files: tuple[tuple[int, RunFile], ...]
    name_numbers: Mapping[Path, int]
    how: str
    notes: tuple[str, ...] = ()


# --- finding --------------------------------------------------------------------------------------


def places_of(runs: Iterable[str | os.PathLike[str]], notes: list[str]) -> list[tuple[Path, bool]]:
    """Return the path of each checkpoint and model that is meant, and whether it was named itself.

    notes: directories that may not be listed beside those are added: one may be a model.
    Raises PathNotFoundError for a directory with nothing in it.
    """
    found: dict[Path, bool] = {}
    for run in runs:
        path = path_of(run)
        if path.is_dir() and not is_model_directory(path):
            for place in _in_directory(path, notes):
                found.setdefault(place, False)
        else:
            found[path] = True
    return list(found.items())


def _in_directory(directory: Path, notes: list[str]) -> Iterator[Path]:
    """Yield what lies right in a directory, else what lies below it."""
    failed: list[OSError] = []
    is_empty = True
    for place, names in directories_below(directory, is_model_directory, failed.append):
        contents = contents_of(place)
        found = [*contents.checkpoints, *contents.models, *_without_index(place)]
        yield from found
        is_empty = is_empty and not found
        if place == directory and found:
            notes += filter(None, (_unlisted(place / name) for name in names))
            return
    if failed:
        where = str(failed[0].filename or directory)
        raise CkptkitError(failed[0].strerror or "cannot be listed", where=where)
    if is_empty:
        raise PathNotFoundError("no checkpoint and no model lies in it", where=str(directory))


def _unlisted(directory: Path) -> str:
    """Say that a directory cannot be listed; "" where it can."""
    try:
        names_in(directory)
    except OSError as error:
        return f"{directory.name} cannot be listed: {error.strerror}"
    return ""


def _without_index(directory: Path) -> list[Path]:
    """Return the prefixes of checkpoints of which only data files are there."""
    names = [entry.name for entry in directory.iterdir() if not is_unfinished(entry.name)]
    prefixes = {prefix for name in names for prefix in (prefix_name(name),) if prefix}
    return sorted(directory / prefix for prefix in prefixes if f"{prefix}.index" not in names)


KnownNames = dict[object, Mapping[str, Naming]]
"""The names of tensors by signature: most files of a run are called alike."""


def opened(path: Path, given: bool, known: KnownNames, *, patient: bool = True) -> RunFile:
    """Return a file as far as it can be read without its tensors.

    known: names of files that were opened before; this one's are added.
    patient: whether a checkpoint that is being written or removed is looked at again.
    """
    try:
        if patient:
            checkpoint, problems = opened_still(lambda: open_checkpoint(path))
        else:
            checkpoint = open_checkpoint(path)
            problems = checkpoint.problems()
        if problems:
            return RunFile(path, problem=_line(problems[0], path), given=given)
        signature = _signature(checkpoint)
        if signature not in known:
            known[signature] = checkpoint.names
        counters = dict(_counters(checkpoint, known[signature]))
        values = numbers_store(checkpoint.store, quantisations_of(checkpoint.store))
    except (ChangedError, CkptkitError, OSError) as error:
        gone = isinstance(error, ChangedError) or not (given or _is_there(path))
        text = _line(error, path) if isinstance(error, CkptkitError) else str(error)
        return RunFile(path, problem=text, given=given, gone=gone)
    saves = counters.pop("save_counter", None)
    return RunFile(checkpoint.path, checkpoint, values, signature, counters, saves, given=given)


def _signature(checkpoint: Checkpoint) -> object:
    """Return what two files share whose tensors are called the same, key by key.

    An object graph that decides names is a string of the file, whose checksum counts; of a Keras
    file, its structure does.
    """
    store = checkpoint.store
    kinds = tuple(
        (spec.key, spec.dtype, spec.shape, spec.crc32c if spec.dtype == "string" else None)
        for spec in store.specs.values()
    )
    has_checksums = any(spec.crc32c is not None for spec in store.specs.values())
    structure = None if has_checksums else store.structure
    shown = repr(structure) if isinstance(structure, KerasStructure) else None
    return store.format, checkpoint.subtree, kinds, shown


def _is_there(path: Path) -> bool:
    if path.exists():
        return True
    try:
        return any(prefix_name(entry.name) == path.name for entry in path.parent.iterdir())
    except OSError:
        return False


def _line(error: CkptkitError, path: Path) -> str:
    where = "" if error.where in ("", str(path)) else f"{Path(error.where).name}: "
    return f"{where}{error.message}"


def _counters(checkpoint: Checkpoint, names: Mapping[str, Naming]) -> Iterator[tuple[str, int]]:
    """Yield name and value of every counter of a checkpoint."""
    for key, naming in names.items():
        spec = checkpoint.specs[key]
        if naming.role == "counter" and spec.shape == () and "int" in spec.dtype:
            yield naming.name, _scalar(checkpoint, key)


def _scalar(checkpoint: Checkpoint, key: str) -> int:
    """Return an integer; where its bytes lie as they are, without numpy."""
    source = source_of(checkpoint.store, key)
    if not isinstance(source, FileSpan):
        return int(checkpoint.store.read(key)[0])
    data = read_exact(source.path, source.offset, source.nbytes)
    signed = not source.dtype.startswith("u")
    return int.from_bytes(data, "little" if sys.byteorder == "little" else "big", signed=signed)


# --- order ----------------------------------------------------------------------------------------


class _Pattern(NamedTuple):
    """Files whose names differ in numbers alone.  numbers: of each file, as they come in it."""

    text: str
    files: list[RunFile]
    numbers: list[tuple[int, ...]]


def ordered(files: Sequence[RunFile]) -> OrderedRun:
    """Return the files of a run in order.

    Raises UsageError where two orders are as good as each other, or nothing tells one.
    """
    files = list({file.path: file for file in files}.values())
    notes: list[str] = []
    patterns = _patterns(files)
    several = [pattern for pattern in patterns if len(pattern.files) > 1]
    by_name: dict[Path, int] = {}
    if len(several) == 1:
        by_name = _numbers_of(several[0])
    elif not several and len(files) == 1:
        by_name = _number_of_one(patterns[0])
    rest = [file for file in files if file.path not in by_name]
    if by_name and not rest:
        if _agrees(files, by_name):
            return _numbered(files, by_name, by_name, "number in the name", notes)
        notes.append("the numbers in the names are not in the order of the training steps")
    for kind, number in _COUNTS:
        left = [file for file in files if number(file) is None]
        if len(left) == len(files) or (left and not by_name and not _may_be_left(left)):
            continue
        if by_name and any(file.path in by_name and file.checkpoint is not None for file in left):
            continue
        found = _by_count(files, left, by_name, number, kind, notes, several)
        if found is not None:
            return found
    if by_name:
        _leave_out(rest, "nothing tells its step", notes)
        kept = [file for file in files if file.path in by_name]
        return _numbered(kept, by_name, by_name, "number in the name", notes)
    if len(several) > 1:
        series = [f"{pattern.text} ({len(pattern.files)})" for pattern in several]
        raise UsageError(
            f"{len(series)} series, which no counter puts in one order: {list_text(series, 5)}",
            hint="name the files of one",
        )
    if len(files) > 1 and not all(file.given for file in files):
        raise UsageError(
            "nothing tells the order of " + list_text([file.path.name for file in files], 4),
            hint="no counters in them, no numbers in their names; name them in their order",
        )
    if len(files) > 1:
        notes.append("nothing in files or names tells their order: it is that of the command")
    numbers = {file.path: index for index, file in enumerate(files)}
    return _numbered(files, numbers, {}, "order given", notes)


_COUNTS: tuple[tuple[str, Callable[[RunFile], int | None]], ...] = (
    ("training step", lambda file: file.training_step),
    ("save counter", lambda file: file.save_counter),
)


def _may_be_left(files: Sequence[RunFile]) -> bool:
    """Whether files have no number only because they cannot be read."""
    return all(file.checkpoint is None for file in files)


def _by_count(
    files: Sequence[RunFile],
    left: Sequence[RunFile],
    by_name: Mapping[Path, int],
    number: Callable[[RunFile], int | None],
    kind: str,
    notes: list[str],
    several: Sequence[_Pattern],
) -> OrderedRun | None:
    """Return files in the order of a count; None where it does not tell one from another."""
    known = [file for file in files if number(file) is not None]
    numbers = {file.path: number(file) or 0 for file in known}
    shared = [n for n, count in Counter(numbers.values()).items() if count > 1]
    if shared and by_name:
        # Within the one series that has numbers in its names these decide; what lies beside it at
        # the same step (`best`, `final`) repeats it.
        in_series = {numbers[file.path] for file in known if file.path in by_name}
        twice = [f for f in known if f.path not in by_name and numbers[f.path] in in_series]
        if not twice:
            return None
        _leave_out(twice, f"another one is of the same {kind}", notes)
        _leave_out([f for f in left if f.path not in by_name], "nothing tells its step", notes)
        kept = [file for file in files if file not in twice and file not in left]
        rest = [file for file in kept if file.path not in by_name]
        if not rest:
            return _numbered(kept, by_name, by_name, "number in the name", notes)
        numbers = {file.path: numbers[file.path] for file in kept}
        shared = [n for n, count in Counter(numbers.values()).items() if count > 1]
    if shared:
        if len(several) > 1:
            same = [file.path.name for file in known if numbers[file.path] == shared[0]]
            raise UsageError(
                f"{list_text(same, 4)} are all of {kind} {shared[0]:,}",
                hint="name the files of one run",
            )
        return None
    _leave_out([f for f in left if f.checkpoint is not None], "nothing tells its step", notes)
    unread = [file for file in left if file.checkpoint is None]
    kept = [file for file in files if file.path in numbers]
    run = _numbered(kept, numbers, by_name, kind, notes)
    return run._replace(files=(*run.files, *((-1, file) for file in unread)))


def _leave_out(files: Sequence[RunFile], why: str, notes: list[str]) -> None:
    given = [file for file in files if file.given and file.checkpoint is not None]
    if given:
        raise UsageError(
            f"cannot be put in order with the others: {why}",
            where=str(given[0].path),
            hint="leave it out, or give the files of one series",
        )
    notes += [f"left out {file.path.name}: {why}" for file in files]


def _numbered(
    files: Sequence[RunFile],
    numbers: Mapping[Path, int],
    name_numbers: Mapping[Path, int],
    how: str,
    notes: Sequence[str],
) -> OrderedRun:
    """Return files in the order of their numbers, called by training steps where these rise."""
    inside = sorted(files, key=lambda file: (numbers[file.path], natural(str(file.path))))
    shown = [numbers[file.path] for file in inside]
    steps = [file.training_step for file in inside if file.checkpoint is not None]
    if None not in steps and len(steps) == len(inside) and _rises(steps):
        shown = [step or 0 for step in steps]
    return OrderedRun(tuple(zip(shown, inside, strict=True)), dict(name_numbers), how, tuple(notes))


def _rises(values: Sequence[int | None]) -> bool:
    known = [value for value in values if value is not None]
    return all(a < b for a, b in itertools.pairwise(known))


def _agrees(files: Sequence[RunFile], numbers: Mapping[Path, int]) -> bool:
    """Whether training steps and save counters rise along the names more often than they fall."""
    inside = sorted(files, key=lambda file: numbers[file.path])
    for _kind, number in _COUNTS:
        known = [value for value in map(number, inside) if value is not None]
        pairs = list(itertools.pairwise(known))
        rising = sum(a < b for a, b in pairs)
        falling = sum(a > b for a, b in pairs)
        if rising or falling:
            return rising >= falling
    return True


def _patterns(files: Sequence[RunFile]) -> list[_Pattern]:
    """Return the files by their names with the numbers taken out."""
    paths = [str(file.path.absolute()) for file in files]
    parents = [path.rpartition("/")[0] for path in paths]
    top = os.path.commonpath(parents) if len({path[:1] for path in paths}) == 1 else ""
    patterns: dict[str, _Pattern] = {}
    for file, path in zip(files, paths, strict=True):
        name = os.path.relpath(path, top) if top else path
        parts = [match[1] or match[2] for match in _NUMBER.finditer(name)]
        text = re.sub(r"\d+(\.\d+)+", "#.#", _NUMBER.sub("*", name))
        pattern = patterns.setdefault(text, _Pattern(text, [], []))
        pattern.files.append(file)
        pattern.numbers.append(tuple(map(int, parts)))
    return list(patterns.values())


def _numbers_of(pattern: _Pattern) -> dict[Path, int]:
    """Return the number of each file of a pattern; {} where none differs for all.

    Raises UsageError where two numbers put the files in different orders, and no counter decides.
    """
    columns = [c for c in zip(*pattern.numbers, strict=True) if len(set(c)) == len(c)]
    if not columns:
        return {}
    found = [dict(zip((f.path for f in pattern.files), c, strict=True)) for c in columns]
    orders = {tuple(sorted(numbers, key=numbers.__getitem__)) for numbers in found}
    if len(orders) > 1:
        agreeing = [numbers for numbers in found if _fully_agrees(pattern.files, numbers)]
        orders = {tuple(sorted(numbers, key=numbers.__getitem__)) for numbers in agreeing}
        if len(orders) != 1:
            raise UsageError(
                f"{pattern.text}: two numbers in the names put the files in different orders, and "
                "no counter in them decides",
                hint="name them by one number",
            )
        found = agreeing
    return found[-1]


def _fully_agrees(files: Sequence[RunFile], numbers: Mapping[Path, int]) -> bool:
    inside = sorted(files, key=lambda file: numbers[file.path])
    for _kind, number in _COUNTS:
        known = [number(file) for file in inside]
        if None not in known:
            return _rises(known)
    return False


def _number_of_one(pattern: _Pattern) -> dict[Path, int]:
    numbers = pattern.numbers[0]
    return {pattern.files[0].path: numbers[0]} if len(numbers) == 1 else {}
