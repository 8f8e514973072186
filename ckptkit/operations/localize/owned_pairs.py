"""Which value of a live model is which of another, where the objects that compute them are known.

Plain modules have no scopes, so TensorFlow counts their ops through the whole graph: one op more in
the first layer, and `matmul_3` is `matmul_4` in all that follow.  Within one object the ops are
counted from its own first, and two sequences of them are laid side by side: what both have, in the
same order, is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ckptkit.operations.localize.pairs import Shaped, uncounted

MOST_CELLS = 4_000_000  # of a table of two sequences; longer ones pair by their counted names


def is_owned(values: Sequence[Shaped]) -> bool:
    """Whether the objects that compute these values are known."""
    return any(item.owner for item in values)


def pair_by_owners(reference: Sequence[Shaped], new: Sequence[Shaped]) -> dict[str, str]:
    """Return {name in `new`: name in `reference`}, one to one; values that do not fit never pair.

    The last values of an object pair whatever computes them: an activation may be another, a factor
    may have come behind it, a bias may be gone.
    """
    before, after = _by_owner(reference), _by_owner(new)
    places = [{item.name: at for at, item in enumerate(side)} for side in (reference, new)]
    found: dict[str, str] = {}
    for owner, items in after.items():
        known = before.get(owner, [])
        if not known:
            continue
        pairs = _side_by_side(known, items)
        ends = known[-1], items[-1]
        if ends[0].fits(ends[1]) and ends not in pairs[-1:]:
            free = not pairs or (pairs[-1][0] is not ends[0] and pairs[-1][1] is not ends[1])
            if free:
                pairs.append(ends)
            # what an object does to a value at once, it does before it gives the value
            elif owner and all(
                _follows_at_once(*each)
                for each in zip(places, (known, items), pairs[-1], ends, strict=True)
            ):
                pairs[-1] = ends
        found |= {b.name: a.name for a, b in pairs}
    return found


def _follows_at_once(
    place: Mapping[str, int], items: Sequence[Shaped], one: Shaped, last: Shaped
) -> bool:
    """Whether no other object's value lies between two of one object."""
    return place[last.name] - place[one.name] == items.index(last) - items.index(one)


def pair_unscoped(reference: Sequence[Shaped], new: Sequence[Shaped]) -> dict[str, str]:
    """Return the pairs of ops outside of all scopes of two graphs, of which nothing tells more.

    {} where both graphs have the same: then their names pair them.
    """
    known, mine = ([item for item in side if _is_unscoped(item)] for side in (reference, new))
    if {item.op for item in known} == {item.op for item in mine}:
        return {}
    return {b.name: a.name for a, b in _side_by_side(known, mine)}


def _is_unscoped(item: Shaped) -> bool:
    return item.is_op and not item.moves and not item.owner and "/" not in item.op


def _by_owner(values: Sequence[Shaped]) -> dict[str, list[Shaped]]:
    found: dict[str, list[Shaped]] = {}
    for item in values:
        found.setdefault(item.owner, []).append(item)
    return found


def _side_by_side(known: Sequence[Shaped], new: Sequence[Shaped]) -> list[tuple[Shaped, Shaped]]:
    """Return the pairs of a longest common subsequence, of several the one whose pairs come last.

    What is put in between, such as a factor behind a sum, comes before what reads it: so of two
    equal ops the later gives what the one did.
    """
    if len(known) * len(new) > MOST_CELLS:
        by_name = {item.op: item for item in known}
        pairs = [(by_name[item.op], item) for item in new if item.op in by_name]
        return [(one, other) for one, other in pairs if one.fits(other)]
    alike = [[_is_alike(a, b) for b in new] for a in known]
    # longest[i][j]: of the first i and the first j
    longest = [[0] * (len(new) + 1) for _ in range(len(known) + 1)]
    for i, row in enumerate(alike):
        for j, same in enumerate(row):
            longest[i + 1][j + 1] = (
                longest[i][j] + 1 if same else max(longest[i][j + 1], longest[i + 1][j])
            )
    pairs, i, j = [], len(known), len(new)
    while i and j:
        if alike[i - 1][j - 1] and longest[i][j] == longest[i - 1][j - 1] + 1:
            i, j = i - 1, j - 1
            pairs.append((known[i], new[j]))
        elif longest[i - 1][j] >= longest[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return pairs[::-1]


def _is_alike(one: Shaped, other: Shaped) -> bool:
    return _kind(one) == _kind(other) and one.fits(other)


def _kind(item: Shaped) -> tuple[str, ...]:
    """Return the op without its counters: `Gelu_2/mul_1` is `Gelu/mul`."""
    return uncounted(tuple(item.op.split("/")))
