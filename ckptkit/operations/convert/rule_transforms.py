"""Map rules that move values: which tensors of SRC become which, transposed, cut or joined.

A transform is resolved before anything is paired: the sources then hold, in place of the tensors
that rules move, what these become.  Slots and averages go with the tensor that they belong to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ckptkit.align.rules import Rule, by_label, deciding
from ckptkit.align.transforms import JoinInto, TakePart
from ckptkit.errors import UsageError
from ckptkit.operations.convert.sources import Move, Sources

Labels = Mapping[str, Sequence[str]]
Choices = Callable[[Sequence[str]], Iterator[tuple[Rule, str]]]


class Moves(NamedTuple):
    """What the rules move: by the key that the result goes by in `Sources.tensors`.

    targets: where the rules send each.  lost: (tensor, what of it nothing takes); lacking: (target,
    what of it nothing gives).  texts: of the rules that move something.
    """

    moves: Mapping[str, Move]
    targets: Mapping[str, str]
    lost: tuple[tuple[str, str], ...]
    lacking: tuple[tuple[str, str], ...]
    texts: frozenset[str]

    @property
    def split(self) -> set[str]:
        """Keys of results that are parts of one tensor, or made of several."""
        return {key for key, move in self.moves.items() if not move.is_whole}


def moves_to(src: Sources, rules: Sequence[Rule], labels: Labels, new: Labels) -> Moves:
    """Return what rules move to the tensors of LIKE; labels, new: the names of either side."""
    target = by_label(new)
    names = {key: some[0] for key, some in new.items() if some}
    return _moves(src, labels, lambda some: deciding(rules, some, target), names)


def moves_by_name(src: Sources, rules: Sequence[Rule], names: Mapping[str, str]) -> Moves:
    """Return what rules move where nothing but them says what the output holds."""

    def choices(some: Sequence[str]) -> Iterator[tuple[Rule, str]]:
        for rule in reversed(rules):
            renamed = rule.apply(some[0])
            if renamed is not None:
                yield rule, renamed

    return _moves(src, {key: [name] for key, name in names.items()}, choices, {})


def _moves(src: Sources, labels: Labels, choices: Choices, names: Mapping[str, str]) -> Moves:
    sent: dict[str, list[tuple[str, Rule]]] = {}
    ruled: set[str] = set()
    for key, some in labels.items():
        for at, (rule, wanted) in enumerate(choices(some)):
            ruled.add(key)
            if not rule.transform or (at > 0 and rule.transform.part is None):
                break
            sent.setdefault(wanted, []).append((key, rule))
            if rule.transform.part is None:
                break
    found: dict[str, Move] = {}
    targets: dict[str, str] = {}
    lacking: list[tuple[str, str]] = []
    for wanted, pieces in sent.items():
        name = names.get(wanted, wanted)
        lacking += [(name, what) for what in _check_pieces(src, name, pieces)]
        key = _key(pieces)
        found[key] = Move(tuple((k, rule.transform) for k, rule in pieces), pieces[0][1].text)
        targets[key] = wanted
    lost = tuple(_lost(src, found))
    followers = dict(_followers(src, found, ruled))
    texts = frozenset(rule.text for pieces in sent.values() for _, rule in pieces)
    return Moves({**found, **followers}, targets, lost, tuple(lacking), texts)


def _key(pieces: Sequence[tuple[str, Rule]]) -> str:
    key, rule = pieces[0]
    part = rule.transform.part
    return f"{key} [{part}]" if part is not None else key


def _check_pieces(src: Sources, name: str, pieces: Sequence[tuple[str, Rule]]) -> Iterator[str]:
    """Yield the parts of a target that nothing gives; raises UsageError for what cannot be."""
    found: dict[JoinInto | None, str] = {}
    for key, rule in pieces:
        into, own = rule.transform.into, src.tensors[key].naming.name
        if into in found:
            raise UsageError(
                f"rename rules send both {found[into]} and {own} to {name}",
                hint="make the rules tell them apart",
            )
        found[into] = own
    steps = {into[1:] if into is not None else None for into in found}
    if len(steps) > 1:
        raise UsageError(f"the parts of {name} are not of one number and one axis")
    [step] = steps
    if step is not None:
        given = {into.number for into in found if into is not None}
        for number in sorted(set(range(1, step[0] + 1)) - given):
            yield f"part {number}/{step[0]}"


def _lost(src: Sources, found: Mapping[str, Move]) -> Iterator[tuple[str, str]]:
    """Yield (name, part) for the parts of tensors that no rule takes."""
    taken: dict[str, set[TakePart]] = {}
    for move in found.values():
        for key, transform in move.pieces:
            if transform.part is not None:
                taken.setdefault(key, set()).add(transform.part)
    for key, parts in taken.items():
        name = src.tensors[key].naming.name
        kinds = {part[1:] for part in parts}
        if len(kinds) > 1:
            raise UsageError(f"the parts of {name} are not of one number and one axis")
        [(of, _)] = kinds
        for number in sorted(set(range(1, of + 1)) - {part[0] for part in parts}):
            yield name, f"part {number}/{of}"


def _followers(
    src: Sources, found: Mapping[str, Move], ruled: set[str]
) -> Iterator[tuple[str, Move]]:
    """Yield the moves of slots and averages of what is moved as a whole."""
    for key, owner in src.side.owners.items():
        move = found.get(owner)
        if move is None or not move.is_whole or key in ruled:
            continue
        if src.tensors[key].spec.shape == src.tensors[owner].spec.shape:
            yield key, Move(((key, move.pieces[0][1]),), move.text)


NOTHING = Moves({}, {}, (), (), frozenset())
