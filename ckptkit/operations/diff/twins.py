"""Two files of very many tensors that have the same keys, names and types: compared row by row.

Alignment pairs such files key by key, whatever the values are (`Aligner._are_alike`), so nothing of
it has to be kept but which row of NEW is which of OLD.  What is not so plain is left to alignment.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from operator import add
from typing import NamedTuple, overload

from ckptkit.align.cudnn_layouts import cudnn_layers
from ckptkit.align.labels import best_label
from ckptkit.align.types import (
    PATH_SUFFIX,
    Content,
    content_of,
    may_be_chance,
    unique_contents,
)
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.naming import ROLES
from ckptkit.checkpoint.packed_names import PackedNames
from ckptkit.checkpoint.selection import Tensor
from ckptkit.compare.statistics import comparable
from ckptkit.operations.diff import checksums, participants
from ckptkit.operations.diff.hints import values_moved
from ckptkit.operations.diff.kinds import kind_of_change
from ckptkit.operations.diff.pair_values import (
    CHANGED,
    EQUAL,
    PAIR_STATUSES,
    ByValue,
    PairValues,
    compare_pairs,
)
from ckptkit.operations.diff.result import STATUSES, ChangesOnDemand, LeftOut, TensorDiff
from ckptkit.operations.tolerance_rules import idle
from ckptkit.stores.base import KerasStructure, TensorSpec
from ckptkit.stores.packed_specs import Form, PackedSpecs
from ckptkit.stores.packed_texts import PackedTexts, places_in_order
from ckptkit.text import naturals
from ckptkit.wording import say

_TOGETHER = 1 << 16  # names that are sorted at once


class TwinRows:
    """Tensors by their rows in OLD, and the row of NEW of each."""

    def __init__(self, old: Checkpoint, new: Checkpoint) -> None:
        self.old, self.new = _Side(old), _Side(new)
        self.row_of_new = array("I")  # by row of OLD

    def pairs(self, part: Sequence[int] | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the tensors of some rows of OLD, of all in their order where none are given."""
        if part is None:
            return zip(self.old.each(), self.new.some(self.row_of_new), strict=True)
        rows = array("I", map(self.row_of_new.__getitem__, part))
        return zip(self.old.some(part), self.new.some(rows), strict=True)


class _Side:
    """The tensors of one file."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        specs, names = checkpoint.specs, checkpoint.names
        assert isinstance(specs, PackedSpecs) and isinstance(names, PackedNames)
        self.specs, self.names = specs, names

    def at(self, row: int) -> Tensor:
        return Tensor(self.specs.at(row), self.names.at(row))

    def some(self, rows: Sequence[int]) -> Iterator[Tensor]:
        """Yield the tensors of some rows, which takes half the time of asking for each."""
        return map(Tensor, self.specs.some(rows), self.names.some(rows))

    def each(self) -> Iterator[Tensor]:
        """Yield all tensors, in their order."""
        return map(Tensor, self.specs.values(), self.names.values())


def are_packed(*checkpoints: Checkpoint) -> bool:
    """Whether files hold so many tensors that these are packed, of no layers that have an order."""
    return all(
        isinstance(checkpoint.specs, PackedSpecs)
        and isinstance(checkpoint.names, PackedNames)
        and not isinstance(checkpoint.structure, KerasStructure)
        for checkpoint in checkpoints
    )


def twin_rows(old: Checkpoint, new: Checkpoint, *, by_value: bool) -> TwinRows | None:
    """Return the rows of two packed files; None where alignment has more to say of them.

    They have the same keys, names, roles and types, no two tensors of one name, none that belongs
    to another or repeats it, and none that has moved: whose key is no path of objects, and whose
    values are elsewhere in the other file.

    by_value: whether values may be read.
    """
    rows = TwinRows(old, new)
    if len(rows.old.specs) != len(rows.new.specs):
        return None
    changed = array("I")
    for row, ours in enumerate(rows.old.each()):
        other = rows.new.specs.row(ours.spec.key)
        its = None if other is None else rows.new.at(other)
        if other is None or its is None or not _are_alike(ours, its):
            return None
        rows.row_of_new.append(other)
        if ours.spec.crc32c != its.spec.crc32c:
            changed.append(row)
    labels = PackedTexts(map(best_label, rows.old.names.values()))
    if next(labels.repeated(), None) is not None:
        return None
    moved = _moved(rows, changed)
    if by_value:  # equal checksums may be chance
        is_moved = bool(values_moved(old.store, new.store, moved, len(changed)))
    else:
        is_moved = not may_be_chance(len(moved), len(changed))
    return None if is_moved else rows


def _are_alike(old: Tensor, new: Tensor) -> bool:
    return (
        (old.spec.dtype, old.spec.shape) == (new.spec.dtype, new.spec.shape)
        and best_label(old.naming) == best_label(new.naming)
        and old.naming.name == new.naming.name
        and old.naming.role == new.naming.role
        and all(t.naming.slot_of is None and t.naming.duplicate_of is None for t in (old, new))
        and not old.spec.slices
        and not new.spec.slices
    )


def _moved(rows: TwinRows, changed: Sequence[int]) -> list[tuple[str, str]]:
    """Return keys of OLD whose content one other tensor of NEW has, by checksum, and of that.

    What tensors of either file have several times is left aside, and what is a path of objects.
    changed: rows whose checksums differ.
    """
    old_specs, new_specs = rows.old.specs, rows.new.specs
    held = {spec.crc32c for spec in old_specs.some(changed)}
    rows_of_new = array("I", map(rows.row_of_new.__getitem__, changed))
    shared = {spec.crc32c for spec in new_specs.some(rows_of_new) if spec.crc32c in held}
    shared.discard(None)
    del held
    if not shared:
        return []
    old, new = (
        ((spec.key, _content(spec)) for spec in specs.values() if spec.crc32c in shared)
        for specs in (old_specs, new_specs)
    )
    return [
        pair
        for pair in unique_contents(old, new).items()
        if pair[0] != pair[1] and not all(key.endswith(PATH_SUFFIX) for key in pair)
    ]


def _content(spec: TensorSpec) -> Content | None:
    return None if spec.dtype == "string" else content_of(spec, spec.crc32c)


class TwinChanges(ChangesOnDemand):
    """The changes of two such files.

    part: rows of OLD, those that take part.  is_sorted: whether they are in the order of changes,
    weights first, in natural order of names; else they are sorted when that is asked for.
    statuses: by row, a number of `PAIR_STATUSES`.  method: how they were compared.
    values: what was found by value, if so.
    """

    def __init__(
        self,
        rows: TwinRows,
        part: Sequence[int],
        statuses: bytearray,
        method: str,
        values: PairValues | None = None,
        *,
        is_sorted: bool = False,
    ) -> None:
        self._rows, self._part, self._statuses = rows, part, statuses
        self._method, self._values, self._is_sorted = method, values, is_sorted

    def _of_rows(self, part: Iterable[int], *, is_sorted: bool = False) -> TwinChanges:
        its = self._rows, array("I", part), self._statuses, self._method, self._values
        return TwinChanges(*its, is_sorted=is_sorted)

    @property
    def counts(self) -> Mapping[str, int]:
        """See `ChangesOnDemand`."""
        counts = Counter(map(self._statuses.__getitem__, self._part))
        found = {PAIR_STATUSES[status]: count for status, count in counts.items()}
        return {**dict.fromkeys(STATUSES, 0), **found}

    def forms(self) -> tuple[Mapping[Form, int], Mapping[Form, int]]:
        """See `ChangesOnDemand`."""
        rows_of_new = array("I", map(self._rows.row_of_new.__getitem__, self._part))
        old, new = self._rows.old.specs, self._rows.new.specs
        return old.count_forms(self._part), new.count_forms(rows_of_new)

    def of_weights(self) -> TwinChanges:
        """See `ChangesOnDemand`."""
        namings = self._rows.old.names.some(self._part)
        roles = zip(self._part, (naming.role for naming in namings), strict=True)
        part = (row for row, role in roles if role == "weight")
        return self._of_rows(part, is_sorted=self._is_sorted)

    def of_statuses(self, statuses: Container[str]) -> TwinChanges:
        """See `ChangesOnDemand`."""
        wanted = {at for at, status in enumerate(PAIR_STATUSES) if status in statuses}
        part = (row for row in self._part if self._statuses[row] in wanted)
        return self._of_rows(part, is_sorted=self._is_sorted)

    def at(self, places: Iterable[int]) -> TwinChanges:
        """See `ChangesOnDemand`."""
        return self._of_rows(map(self._sorted.__getitem__, places), is_sorted=True)

    def in_any_order(self) -> Iterator[TensorDiff]:
        """See `ChangesOnDemand`."""
        return self._changes(self._part)

    @cached_property
    def _sorted(self) -> Sequence[int]:
        if self._is_sorted:
            return self._part
        return _in_order(self._part, self._rows.old.names)

    def _changes(self, part: Sequence[int]) -> Iterator[TensorDiff]:
        values = self._values
        for row, (old, new) in zip(part, self._rows.pairs(part), strict=True):
            status = PAIR_STATUSES[self._statuses[row]]
            if values is None:
                yield TensorDiff(status, old, new, "key", None, self._method)
            else:
                delta, hints = values.delta(row), values.hints(row)
                yield TensorDiff(status, old, new, "key", delta, self._method, None, hints)

    def __len__(self) -> int:
        return len(self._part)

    @overload
    def __getitem__(self, index: int) -> TensorDiff: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[TensorDiff, ...]: ...
    def __getitem__(self, index: int | slice) -> TensorDiff | tuple[TensorDiff, ...]:
        if isinstance(index, slice):
            return tuple(self._changes(self._sorted[index]))
        return next(self._changes((self._sorted[index],)))

    def __iter__(self) -> Iterator[TensorDiff]:
        return self._changes(self._sorted)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} changes>"


def _in_order(rows: Sequence[int], names: PackedNames) -> Sequence[int]:
    """Return rows, which rise, in the order in which people read: by role, names by number."""
    order = {role: str(at) for at, role in enumerate(ROLES)}
    namings = names.some(rows)

    def keys() -> Iterator[list[str]]:
        while some := list(islice(namings, _TOGETHER)):
            its_names = naturals([naming.name for naming in some])
            its_roles = (order[naming.role] for naming in some)
            yield list(map(add, its_roles, its_names))

    return array("I", map(rows.__getitem__, places_in_order(keys())))


class TwinComparison(NamedTuple):
    """What comes of comparing two such files.  kind: of the change, where their values prove it."""

    changes: TwinChanges
    left_out: tuple[LeftOut, ...]
    warnings: tuple[str, ...] = ()
    kind: str | None = None


def compare_twins(
    old: Checkpoint,
    new: Checkpoint,
    mode: str,
    roles: Sequence[str],
    names: Sequence[str],
    how: ByValue,
) -> TwinComparison | None:
    """Compare two files by value, by stored checksums, or in structure alone.

    Args:
        old: the reference.
        new: what is compared with it.
        mode: "values", "quick" or "structure".
        roles: as `participants.select` takes them.
        names: likewise.
        how: to compare values.

    Returns:
        None where alignment has more to say of the files (`twin_rows`).

    Raises:
        UsageError: nothing takes part, or "quick" finds a tensor without a checksum.
        ChecksumError, TruncatedError, FormatError, UnsupportedError: values cannot be read.
    """
    if mode == "values" and not _are_plainly_compared(old):
        return None
    rows = twin_rows(old, new, by_value=mode == "values")
    if rows is None:
        return None
    called = [participants.keys_called(one, names) for one in (old, new)] if names else None
    part = array("I")
    statuses = bytearray(len(rows.row_of_new))
    left_out = Counter[tuple[str, str]]()
    without_checksum = 0
    first = ""
    for row, (ours, its) in enumerate(rows.pairs()):
        role = ours.naming.role
        if role == "config" and ours.spec.dtype == "string":
            continue  # the object graph takes no part in any comparison
        why = None if "all" in roles else participants.why_left_out(role, roles, {})
        if why is not None:
            left_out[role, why] += 1
            continue
        if called is not None and not any(ours.spec.key in keys for keys in called):
            left_out["", say("by ‹names›")] += 1
            continue
        part.append(row)
        if mode == "quick":
            equal = checksums.same_checksum(ours.spec, its.spec)
            statuses[row] = CHANGED if equal is False else EQUAL
            if equal is None:
                first = first or ours.naming.name
                without_checksum += 1
    if not part:
        raise participants.nothing_to_compare((old, new), is_filtered=bool(roles or names))
    if without_checksum:
        raise checksums.no_checksum(without_checksum, first, (old, new))
    told = participants.told(left_out)
    if mode != "values":
        method = "checksum" if mode == "quick" else "structure"
        return TwinComparison(TwinChanges(rows, part, statuses, method), told)
    stores = old.store, new.store
    values = compare_pairs(stores, part, rows.old.specs, rows.old.names, how)
    changes = TwinChanges(rows, part, values.statuses, mode, values)
    old_tensors = map(rows.old.at, part)
    warnings = idle(how.rules, ((spec.key, naming.name) for spec, naming in old_tensors))
    return TwinComparison(changes, told, warnings, kind_of_change(changes, stores, None))


def _are_plainly_compared(checkpoint: Checkpoint) -> bool:
    """Whether values of all tensors can be compared, as they are stored."""
    specs, names = checkpoint.specs, checkpoint.names
    assert isinstance(specs, PackedSpecs)
    dtypes = {dtype for dtype, *_rest in specs.kinds()}
    return all(comparable(dtype, dtype) for dtype in dtypes) and not cudnn_layers(specs, names)
