"""Checksums in place of values: for tensors left over by names, and for `diff --quick`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptkit.align.matching import Alignment, Side
from ckptkit.compare.spans import extend_crc
from ckptkit.dtypes import kind
from ckptkit.errors import UsageError
from ckptkit.operations.diff.result import Change
from ckptkit.stores.base import TensorSpec

if TYPE_CHECKING:
    from ckptkit.checkpoint.checkpoint import Checkpoint
    from ckptkit.stores.base import Store


def with_digests(
    alignment: Alignment, sides: tuple[Side, Side], stores: tuple[Store, Store]
) -> tuple[Side, Side]:
    """Return both sides with the checksums that left-over tensors lack, and which are constant.

    Only tensors that could be paired by content are read: those with a counterpart of the same
    dtype and shape, and, where both checksums are known, the same checksum.
    """
    left = [key for key in alignment.only_left if _by_content(sides[0].specs[key])]
    right = [key for key in alignment.only_right if _by_content(sides[1].specs[key])]
    both = (left, right)
    types = [{_type(side, key) for key in keys} for side, keys in zip(sides, both, strict=True)]
    known = [
        replace(side, digests={**side.digests, **_digests(side, keys, store, types[0] & types[1])})
        for side, keys, store in zip(sides, both, stores, strict=True)
    ]
    found = [{side.content(key) for key in keys} for side, keys in zip(known, both, strict=True)]
    shared = (found[0] & found[1]) - {None}
    done = []
    for side, keys, store in zip(known, both, stores, strict=True):
        same = [key for key in keys if side.content(key) in shared]
        constants = side.constants | {key for key in same if _is_constant(store, key)}
        done.append(replace(side, constants=constants))
    return done[0], done[1]


def _by_content(spec: TensorSpec) -> bool:
    return kind(spec.dtype) not in ("string", "opaque") and spec.size > 1


def _type(side: Side, key: str) -> tuple[str, tuple[int, ...]]:
    return side.specs[key].dtype, side.specs[key].shape


def _digests(
    side: Side, keys: Sequence[str], store: Store, types: set[tuple[str, tuple[int, ...]]]
) -> dict[str, int]:
    """Return the crc32c of the values of those keys of `types` for which none is known."""
    found = {}
    for key in keys:
        if _type(side, key) in types and side.digest(key) is None:
            found[key] = 0
            for _, values in store.blocks(key):
                found[key] = extend_crc(found[key], values)
    return found


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
    changes: Iterable[Change], checkpoints: tuple[Checkpoint, Checkpoint]
) -> list[Change]:
    """Judge pairs by their stored checksums; raises UsageError where there are none."""
    done, unknown = [], []
    for change in changes:
        if change.old is None or change.new is None or not change.same_type:
            done.append(change)
            continue
        equal = _same_checksum(change.old.spec, change.new.spec)
        if equal is None:
            unknown.append(change)
            continue
        status = change.status if equal else "changed"
        done.append(replace(change, status=status, method="checksum"))
    if unknown:
        raise UsageError(
            f"no stored checksum for {len(unknown)} of the tensors, first {unknown[0].name}",
            where=" and ".join(str(checkpoint.path) for checkpoint in checkpoints),
            hint="compare by value: leave --quick out",
        )
    return done


def _same_checksum(one: TensorSpec, two: TensorSpec) -> bool | None:
    """Whether the stored checksums agree; None where they say nothing."""
    if one.slices or two.slices:
        left, right = _slices(one), _slices(two)
        return left == right if [s[0] for s in left] == [s[0] for s in right] else None
    if one.crc32c is None or two.crc32c is None:
        return None
    return one.crc32c == two.crc32c and one.nbytes == two.nbytes


def _slices(spec: TensorSpec) -> Sequence[tuple[object, int | None]]:
    return sorted(((part.start, part.shape), part.crc32c) for part in spec.slices)
