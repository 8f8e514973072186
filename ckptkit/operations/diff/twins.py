"""Two files of very many tensors that have the same keys, names and types: compared row by row.

Alignment pairs such files key by key, whatever the values are (`Aligner._are_alike`), so nothing of
it has to be kept but which row of NEW is which of OLD.  What is not so plain is left to alignment.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple, overload

from ckptkit.align.cudnn_layouts import cudnn_layers
from ckptkit.align.labels import best_label
from ckptkit.align.types import PATH_SUFFIX, constant_digests
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.naming import ROLES
from ckptkit.checkpoint.packed_names import PackedNames
from ckptkit.checkpoint.selection import Tensor
from ckptkit.compare.statistics import comparable
from ckptkit.operations.diff import checksums, participants
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
from ckptkit.stores.packed_specs import PackedSpecs
from ckptkit.stores.packed_texts import PackedTexts
from ckptkit.text import natural
from ckptkit.wording import say


class TwinRows:
    """Tensors by their rows in OLD, and the row of NEW of each."""

    def __init__(self, old: Checkpoint, new: Checkpoint) -> None:
        self.old, self.new = _Side(old), _Side(new)
        self.row_of_new = array("I")  # by row of OLD

    def pair(self, row: int) -> tuple[Tensor, Tensor]:
        """Return the tensors of a row of OLD."""
        return self.old.at(row), self.new.at(self.row_of_new[row])

    def pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield those of all rows."""
        return map(self.pair, range(len(self.row_of_new)))


class _Side:
    """The tensors of one file."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        specs, names = checkpoint.specs, checkpoint.names
        assert isinstance(specs, PackedSpecs) and isinstance(names, PackedNames)
        self.specs, self.names = specs, names

    def at(self, row: int) -> Tensor:
        return Tensor(self.specs.at(row), self.names.at(row))


def are_packed(*checkpoints: Checkpoint) -> bool:
    """Whether files hold so many tensors that these are packed, of no layers that have an order."""
    return all(
        isinstance(checkpoint.specs, PackedSpecs)
        and isinstance(checkpoint.names, PackedNames)
        and not isinstance(checkpoint.structure, KerasStructure)
        for checkpoint in checkpoints
    )


def twin_rows(old: Checkpoint, new: Checkpoint) -> TwinRows | None:
    """Return the rows of two packed files; None where alignment has more to say of them.

    They have the same keys, names, roles and types, no two tensors of one name, none that belongs
    to another or repeats it, and no place that may have moved: a key that is no path of objects,
    and whose values are elsewhere in the other file.
    """
    rows = TwinRows(old, new)
    if len(rows.old.specs) != len(rows.new.specs):
        return None
    for ours in map(Tensor, rows.old.specs.values(), rows.old.names.values()):
        other = rows.new.specs.row(ours.spec.key)
        if other is None or not _are_alike(ours, rows.new.at(other)):
            return None
        rows.row_of_new.append(other)
    labels = PackedTexts(map(best_label, rows.old.names.values()))
    if next(labels.repeated(), None) is not None or _may_have_moved(rows):
        return None
    return rows


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


def _may_have_moved(rows: TwinRows) -> bool:
    """Whether the values of a tensor that changed may be those of another on the other side."""
    before: set[int | None] = set()
    after: set[int | None] = set()
    for old, new in rows.pairs():
        if old.spec.crc32c != new.spec.crc32c and not old.spec.key.endswith(PATH_SUFFIX):
            before.add(_content(old.spec))
            after.add(_content(new.spec))
    before.discard(None)
    after.discard(None)
    return bool(before or after) and (
        any(_content(spec) in before for spec in rows.new.specs.values())
        or any(_content(spec) in after for spec in rows.old.specs.values())
    )


def _content(spec: TensorSpec) -> int | None:
    """Return what tensors of one content share; None of those that many others equal."""
    crc = spec.crc32c
    if crc is None or spec.size <= 1 or spec.dtype == "string":
        return None
    is_constant = crc in constant_digests(spec.dtype, spec.nbytes)
    return None if is_constant else hash((spec.dtype, spec.shape, crc))


class TwinChanges(ChangesOnDemand):
    """The changes of two such files, weights first, in natural order of names.

    part: rows of OLD, those that take part; they are sorted when their order is asked for.
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
    ) -> None:
        self._rows, self._part, self._statuses = rows, part, statuses
        self._method, self._values = method, values

    def _of_rows(self, part: Iterable[int]) -> TwinChanges:
        return TwinChanges(self._rows, array("I", part), self._statuses, self._method, self._values)

    @property
    def differences(self) -> TwinChanges:
        """See `ChangesOnDemand`."""
        return self._of_rows(row for row in self._part if self._statuses[row] == CHANGED)

    @property
    def counts(self) -> Mapping[str, int]:
        """See `ChangesOnDemand`."""
        counts = Counter(map(self._statuses.__getitem__, self._part))
        found = {PAIR_STATUSES[status]: count for status, count in counts.items()}
        return {**dict.fromkeys(STATUSES, 0), **found}

    def of_weights(self) -> TwinChanges:
        """See `ChangesOnDemand`."""
        role_of = self._rows.old.names.at
        return self._of_rows(row for row in self._part if role_of(row).role == "weight")

    def unequal(self) -> TwinChanges:
        """See `ChangesOnDemand`."""
        return self._of_rows(row for row in self._part if self._statuses[row] != EQUAL)

    def in_any_order(self) -> Iterator[TensorDiff]:
        """See `ChangesOnDemand`."""
        return map(self._change, self._part)

    @cached_property
    def _sorted(self) -> Sequence[int]:
        order = {role: at for at, role in enumerate(ROLES)}
        namings = map(self._rows.old.names.at, self._part)
        keys = [f"{order[naming.role]}{natural(naming.name)}" for naming in namings]
        places = sorted(range(len(keys)), key=keys.__getitem__)
        return array("I", [self._part[at] for at in places])

    def _change(self, row: int) -> TensorDiff:
        old, new = self._rows.pair(row)
        status = PAIR_STATUSES[self._statuses[row]]
        if self._values is None:
            return TensorDiff(status, old, new, "key", method=self._method)
        delta, hints = self._values.delta(row), self._values.hints(row)
        return TensorDiff(status, old, new, "key", delta, self._method, hints=hints)

    def __len__(self) -> int:
        return len(self._part)

    @overload
    def __getitem__(self, index: int) -> TensorDiff: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[TensorDiff, ...]: ...
    def __getitem__(self, index: int | slice) -> TensorDiff | tuple[TensorDiff, ...]:
        if isinstance(index, slice):
            return tuple(map(self._change, self._sorted[index]))
        return self._change(self._sorted[index])

    def __iter__(self) -> Iterator[TensorDiff]:
        return map(self._change, self._sorted)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} changes>"


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
    rows = twin_rows(old, new)
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
