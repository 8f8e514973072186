"""What comparing very many pairs of tensors by value comes to, in little memory.

Of a pair that is equal a number is kept, since many have the same `Delta`; of one that differs, its
numbers, packed, and a hint where there is one.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from ckptkit._io.progress import Progress, ProgressMeter
from ckptkit.compare.statistics import ElementTolerance
from ckptkit.compare.tensors import Delta, Pair, compare_all
from ckptkit.operations.diff import hints
from ckptkit.operations.diff.packed_deltas import PackedDeltas
from ckptkit.operations.tolerance_rules import choose

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ckptkit.checkpoint.packed_names import PackedNames
    from ckptkit.operations.tolerance_rules import ToleranceRule
    from ckptkit.stores.base import Store
    from ckptkit.stores.packed_specs import PackedSpecs

PAIR_STATUSES = ("equal", "within", "changed")  # of a pair, by number
EQUAL, WITHIN, CHANGED = range(len(PAIR_STATUSES))
_TOGETHER = 1 << 13  # pairs that are handed over at once


class PairValues:
    """What was found of pairs, by a number that each has.

    statuses: a number of `PAIR_STATUSES` each.
    """

    def __init__(self, pairs: int) -> None:
        self.statuses = bytearray(pairs)
        self._delta = array(
            "i", bytes(4 * pairs)
        )  # an index into `_equal`, or -1 - into `_differing`
        self._equal: list[Delta] = []
        self._numbers: dict[Delta, int] = {}
        self._differing = PackedDeltas()
        self._hints: dict[int, str] = {}

    def put(self, pair: int, delta: Delta, hint: str | None) -> None:
        """Keep what was found of a pair."""
        if hint:
            self._hints[pair] = hint
        if not delta.equal:
            self.statuses[pair] = WITHIN if delta.ok else CHANGED
            self._differing.append(delta)
            self._delta[pair] = -len(self._differing)
            return
        number = self._numbers.get(delta)
        if number is None:
            number = self._numbers[delta] = len(self._equal)
            self._equal.append(delta)
        self._delta[pair] = number

    def delta(self, pair: int) -> Delta:
        """Return the numbers between the two."""
        number = self._delta[pair]
        if number >= 0:
            return self._equal[number]
        return self._differing[-1 - number]

    def hints(self, pair: int) -> tuple[str, ...]:
        """Return what is said of the two beside the numbers."""
        hint = self._hints.get(pair)
        return () if hint is None else (hint,)

    def put_hint(self, pair: int, hint: str) -> None:
        """Keep a hint on a pair, in the place of any other."""
        self._hints[pair] = hint


class ByValue(NamedTuple):
    """How pairs are compared by value, and where; executor None does it here.

    tolerance: of those that no rule fits.
    """

    tolerance: ElementTolerance
    rules: tuple[ToleranceRule, ...]
    bitwise: bool
    executor: Executor | None
    progress: Progress | None


def compare_pairs(
    stores: tuple[Store, Store],
    part: Sequence[int],
    specs: PackedSpecs,
    names: PackedNames,
    how: ByValue,
) -> PairValues:
    """Compare tensors with those of the same key, type and shape; raises as `compare_all` does.

    Args:
        stores: OLD and NEW.
        part: rows of OLD, which rise: the numbers of the pairs.
        specs: of OLD.
        names: of OLD.
        how: to compare them.
    """
    found = PairValues(part[-1] + 1)
    crcs = array("I", bytes(4 * (part[-1] + 1))), array("I", bytes(4 * (part[-1] + 1)))
    total, places = 0, []
    for spec in specs.some(part):
        total += spec.nbytes
        places.append((spec.shard or 0) << 64 | (spec.offset or 0))
    meter = ProgressMeter(how.progress, "compared", total)
    # In the order of OLD's bytes, so that a cold disk is read straight through.
    order = iter(array("I", sorted(range(len(part)), key=places.__getitem__)))
    del places
    while some := [part[at] for at in islice(order, _TOGETHER)]:
        keys = [spec.key for spec in specs.some(some)]
        tolerances = [how.tolerance] * len(keys)
        if how.rules:
            called = ((names.at(number).name, key) for number, key in zip(some, keys, strict=True))
            tolerances = [choose(how.rules, how.tolerance, its_names) for its_names in called]
        pairs = [
            Pair(stores[0], key, stores[1], key, allowed, how.bitwise)
            for key, allowed in zip(keys, tolerances, strict=True)
        ]
        comparisons = compare_all(pairs, how.executor, meter=meter)
        for number, pair, comparison in zip(some, pairs, comparisons, strict=True):
            delta, crcs[0][number], crcs[1][number] = comparison
            found.put(number, delta, None if delta.ok else hints.order_hint(*pair[:4], delta))
    differing = [number for number in part if found.statuses[number] != EQUAL]
    for number, hint in _swapped(differing, crcs, specs, names, stores):
        found.put_hint(number, hint)
    return found


def _swapped(
    numbers: Sequence[int],
    crcs: tuple[array[int], array[int]],
    specs: PackedSpecs,
    names: PackedNames,
    stores: tuple[Store, Store],
) -> Iterator[tuple[int, str]]:
    """Yield hints on pairs that differ, and now hold what another one held.

    numbers: of all that differ.  crcs: of their values, in OLD and in NEW.
    """
    before, after = crcs
    held = {before[number] for number in numbers}
    wanted = {after[number] for number in numbers if after[number] in held}
    # of few: those that may hold what another held, and those that held it
    contents = {}
    for number in numbers:
        if before[number] in wanted or after[number] in wanted:
            key, dtype, shape, nbytes, *_rest = specs.at(number)
            its_name, its_crcs = names.at(number).name, (before[number], after[number])
            contents[number] = hints.ContentChange(
                its_name, key, key, dtype, shape, nbytes, *its_crcs
            )
    found = hints.swapped([*contents.values()], *stores)
    return (
        (number, found[content.name])
        for number, content in contents.items()
        if content.name in found
    )
