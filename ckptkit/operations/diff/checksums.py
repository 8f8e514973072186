"""Checksums in place of values: for tensors left over by names, and for `diff --quick`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptkit.align.matching import Alignment, TensorSet
from ckptkit.align.types import basis, may_be_chance, unique_contents
from ckptkit.compare.spans import extend_crc
from ckptkit.dtypes import kind
from ckptkit.errors import UsageError
from ckptkit.operations.diff.hints import values_moved
from ckptkit.operations.diff.result import TensorDiff
from ckptkit.stores.archive_checksums import ArchiveChecksums
from ckptkit.stores.base import TensorSpec

if TYPE_CHECKING:
    from ckptkit.checkpoint.checkpoint import Checkpoint
    from ckptkit.stores.base import Store


def without_chance(
    sides: tuple[TensorSet, TensorSet], stores: tuple[Store, Store] | None
) -> tuple[TensorSet, TensorSet]:
    """Return both sides without the contents that tensors of other keys have by chance.

    stores: where values may be read, which tell; else their number does.
    """
    old, new = sides
    pairs = unique_contents(old.contents(), new.contents())
    moved = [
        (left, right)
        for left, right in pairs.items()
        if left != right and left in new.specs and right in old.specs
    ]
    if not moved:
        return sides
    changed = sum(key in new.specs and old.digest(key) != new.digest(key) for key in old.keys)
    if stores is not None:
        equal = set(values_moved(*stores, moved, changed))
        moved = [pair for pair in moved if pair not in equal]
    elif not may_be_chance(len(moved), changed):
        return sides
    keys = [frozenset(keys) for keys in zip(*moved, strict=True)] or [frozenset(), frozenset()]
    return replace(old, by_chance=keys[0]), replace(new, by_chance=keys[1])


def with_digests(
    alignment: Alignment, sides: tuple[TensorSet, TensorSet], stores: tuple[Store, Store]
) -> tuple[TensorSet, TensorSet]:
    """Return both sides with the checksums that left-over tensors lack, and which are constant.

    Only tensors that could be paired by content are read: those with a counterpart of the same
    dtype and shape, and, where both checksums are known, the same checksum.
    """
    left = [key for key in alignment.only_left if _by_content(sides[0].specs[key])]
    right = [key for key in alignment.only_right if _by_content(sides[1].specs[key])]
    leftovers = (left, right)
    types = [
        {_type(side, key) for key in keys} for side, keys in zip(sides, leftovers, strict=True)
    ]
    extended = [
        replace(side, digests={**side.digests, **_digests(side, keys, store, types[0] & types[1])})
        for side, keys, store in zip(sides, leftovers, stores, strict=True)
    ]
    # Of those that share their content, which are constant: any constant equals many others.
    contents = [
        {side.content(key) for key in keys} for side, keys in zip(extended, leftovers, strict=True)
    ]
    shared = (contents[0] & contents[1]) - {None}
    results = []
    for side, keys, store in zip(extended, leftovers, stores, strict=True):
        shared_keys = [key for key in keys if side.content(key) in shared]
        constants = side.constants | {key for key in shared_keys if _is_constant(store, key)}
        results.append(replace(side, constants=constants))
    return results[0], results[1]


def with_digests_of_doubtful(
    alignment: Alignment, sides: tuple[TensorSet, TensorSet], stores: tuple[Store, Store]
) -> tuple[TensorSet, TensorSet]:
    """Return both sides with the checksums of what numbers alone pair, or leave undecided.

    Where equal contents contradict a number, they are right.  Only tensors that something else of
    their type could be taken for are read.  Without such tensors, `sides` is returned as it is.
    """
    numbered = [m for m in alignment.pairs if basis(m.evidence) == "order"]
    doubtful = (
        [m.old for m in numbered] + [key for item in alignment.ambiguous for key in item.old],
        [m.new for m in numbered] + [key for item in alignment.ambiguous for key in item.new],
    )
    results = list(sides)
    types = [
        Counter(_type(side, key) for key in keys if _by_content(side.specs[key]))
        for side, keys in zip(sides, doubtful, strict=True)
    ]
    several = {t for t in types[0].keys() & types[1].keys() if types[0][t] + types[1][t] > 2}
    for at, (side, keys, store) in enumerate(zip(sides, doubtful, stores, strict=True)):
        digests = _digests(side, list(dict.fromkeys(keys)), store, several)
        if digests:
            results[at] = replace(side, digests={**side.digests, **digests})
    return results[0], results[1]


def _by_content(spec: TensorSpec) -> bool:
    return kind(spec.dtype) not in ("string", "opaque") and spec.size > 1


def _type(side: TensorSet, key: str) -> tuple[str, tuple[int, ...]]:
    return side.specs[key].dtype, side.specs[key].shape


def _digests(
    side: TensorSet, keys: Sequence[str], store: Store, types: set[tuple[str, tuple[int, ...]]]
) -> dict[str, int]:
    """Return the crc32c of the values of those keys of `types` for which none is known."""
    digests = {}
    archives = ArchiveChecksums()
    for key in keys:
        if _type(side, key) in types and side.digest(key) is None:
            archives.compare(store, (key,))  # what is damaged pairs with nothing
            digests[key] = 0
            for _, values in store.blocks(key):
                digests[key] = extend_crc(digests[key], values)
    return digests


def _is_constant(store: Store, key: str) -> bool:
    """Whether all elements have the same bytes; reads no further than the first that differs."""
    first: bytes | None = None
    for _, values in store.blocks(key):
        if first is None:
            first = values[:1].tobytes()
        if first * len(values) != values.tobytes():
            return False
    return True


def by_checksum(
    changes: Iterable[TensorDiff], checkpoints: tuple[Checkpoint, Checkpoint]
) -> list[TensorDiff]:
    """Judge pairs by their stored checksums; raises UsageError where there are none."""
    results, without_checksum = [], []
    for change in changes:
        if change.old is None or change.new is None or not change.same_type:
            results.append(change)
            continue
        equal = same_checksum(change.old.spec, change.new.spec)
        if equal is None:
            without_checksum.append(change)
            continue
        status = change.status if equal else "changed"
        results.append(replace(change, status=status, method="checksum"))
    if without_checksum:
        raise no_checksum(len(without_checksum), without_checksum[0].name, checkpoints)
    return results


def no_checksum(count: int, first: str, checkpoints: Sequence[Checkpoint]) -> UsageError:
    """Return the refusal of so many pairs without checksums, the first of which is called so."""
    return UsageError(
        f"no stored checksum for {count} of the tensors, first {first}",
        where=" and ".join(str(checkpoint.path) for checkpoint in checkpoints),
        hint="compare by value instead",
    )


def same_checksum(old: TensorSpec, new: TensorSpec) -> bool | None:
    """Whether the stored checksums agree; None where they say nothing."""
    if old.slices or new.slices:
        old_slices, new_slices = _slices(old), _slices(new)
        # Each slice has a checksum of its own; those of slices cut elsewhere cannot be compared.
        if [place for place, _ in old_slices] != [place for place, _ in new_slices]:
            return None
        return old_slices == new_slices
    if old.crc32c is None or new.crc32c is None:
        return None
    return old.crc32c == new.crc32c and old.nbytes == new.nbytes


def _slices(spec: TensorSpec) -> Sequence[tuple[object, int | None]]:
    return sorted(((part.start, part.shape), part.crc32c) for part in spec.slices)
