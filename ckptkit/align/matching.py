"""Which tensor here is which tensor there: one answer for `diff`, `convert` and `check`.

Evidence is tried in this order; what one kind has paired, the next does not touch:

    rule        the user says so (`--map`)
    key         the same key in both files
    alias       an object path of one is an object path of the other
    path        the same object path below the best child of each root (`model/...` against `...`)
    structure   one place in both trees of objects: attributes, members of lists in their order
    full name   the name that a TF1 saver would use, one-to-one and in structural order
    name        the readable name; also one file's readable name against the other's full name
    order       one place in both lists of a model's trainable variables, or of an optimizer's
    place       the same number in lists whose names match
    variable    a slot goes with its variable: the same slot of paired variables
    content     dtype, shape and crc32c, unique on both sides and not constant: `renamed`,
                unless names are the same as far as they go, or one side has a place and no name

A name may be followed by how a number in it was overcome: `renumbered`, `by order`, `by content`
(see `ckptkit.align.families`).  No step has a direction: `align(a, b)` mirrors `align(b, a)`.  A
key or path that is only a position in a list (`variables/3`, `layer-2/kernel`) does not count where
names contradict it.  Tensors that a file stores twice count once.  The object graph and other
strings of configuration are not aligned at all.  What stays undecided is listed, never guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ckptkit.align.evidence import Aligner
from ckptkit.align.name_tree import without_counters
from ckptkit.align.numbered_layers import LISTS
from ckptkit.align.rules import Rule
from ckptkit.align.slots import slots_of
from ckptkit.align.types import Alignment, Ambiguity, Match, TensorSet, constant_digests
from ckptkit.align.variable_lists import own_name
from ckptkit.checkpoint.naming import Naming
from ckptkit.stores.base import KerasStructure

__all__ = [
    "Alignment",
    "Ambiguity",
    "Match",
    "Rule",
    "TensorSet",
    "align",
    "align_content",
    "constant_digests",
]


def align(
    old: TensorSet, new: TensorSet, rules: Sequence[Rule] = (), *, content: bool = True
) -> Alignment:
    """Pair the tensors of two files.

    Args:
        old: the tensors of one file.
        new: the tensors of the other.
        rules: renames from names of OLD to names of NEW; the last that fits a name decides.
        content: whether tensors left over are paired by the checksums that the two sets know; a
            caller who can find out more calls `align_content` later.

    Returns:
        Which keys belong together and why, which are alone, and what could not be decided.

    Raises:
        UsageError: rules send two tensors to one.
    """
    alignment = Aligner(old, new).run(rules)
    return align_content(alignment, old, new) if content else alignment


def align_content(alignment: Alignment, old: TensorSet, new: TensorSet) -> Alignment:
    """Pair what is left over by content that only one tensor on either side has.

    Args:
        alignment: what other evidence found.
        old: the tensors of one file, with all digests that are known by now.
        new: the tensors of the other.

    Returns:
        The alignment with more pairs, and the slots that follow them: those found by content are
        `renamed`, but for those whose names are the same as far as they go.
    """
    if not alignment.only_left or not alignment.only_right:
        return alignment
    # Tensors of the same content on both sides; slots are paired by their variable alone.
    groups: dict[tuple[object, ...], tuple[list[str], list[str]]] = {}
    free = (set(alignment.only_left), set(alignment.only_right))
    for at, side in enumerate((old, new)):
        for key in side.keys:
            content = side.content(key)
            if content is not None and key not in side.owners:
                groups.setdefault(content, ([], []))[at].append(key)
    found: list[Match] = []
    ambiguous = list(alignment.ambiguous)
    for left, right in groups.values():
        free_keys = [k for k in left if k in free[0]], [k for k in right if k in free[1]]
        if not free_keys[0] or not free_keys[1]:
            continue
        if len(left) == len(right) == 1:
            is_named_alike = _abridges_full_name(old, left[0], new, right[0])
            evidence = "full name, by content" if is_named_alike else "content"
            found.append(Match(left[0], right[0], evidence))
        else:
            ambiguous.append(
                Ambiguity(tuple(free_keys[0]), tuple(free_keys[1]), "several have the same content")
            )
    # Where all weights have a partner, a variable that is called by its place alone had no other
    # name before.
    is_whole = old.weights <= {m.old for m in (*alignment.pairs, *found)} and new.weights <= {
        m.new for m in (*alignment.pairs, *found)
    }
    if is_whole and not alignment.renamed:
        found = [
            m._replace(evidence="place, by content")
            if m.evidence == "content" and _is_nameless(old, m.old) != _is_nameless(new, m.new)
            else m
            for m in found
        ]
    # A slot goes with the variable that was just paired.
    paired = {m.old for m in found}, {m.new for m in found}
    slots = slots_of(old, new, found, free)
    paired[0].update(m.old for m in slots)
    paired[1].update(m.new for m in slots)
    return replace(
        alignment,
        renamed=(*alignment.renamed, *(m for m in found if m.evidence == "content")),
        pairs=(*alignment.pairs, *(m for m in found if m.evidence != "content"), *slots),
        only_left=tuple(k for k in alignment.only_left if k not in paired[0]),
        only_right=tuple(k for k in alignment.only_right if k not in paired[1]),
        ambiguous=tuple(
            Ambiguity(old_keys, new_keys, item.reason)
            for item in ambiguous
            for old_keys in (tuple(key for key in item.old if key not in paired[0]),)
            for new_keys in (tuple(key for key in item.new if key not in paired[1]),)
            if old_keys and new_keys
        ),
    )


def _abridges_full_name(old: TensorSet, old_key: str, new: TensorSet, new_key: str) -> bool:
    """Whether one of two full names is the other with inner layers left out, numbers aside.

    Keras 3 leaves the layers that a layer is made of out of the full names in a checkpoint, so that
    several variables of a layer are all `block/kernel`; in a Keras file one is
    `block/dense/kernel`.  A full name that one variable alone has leaves nothing out.
    """
    short, long = sorted((old.names[old_key], new.names[new_key]), key=_depth)
    if not short.full_name or not long.full_name or short.name == short.full_name:
        return False
    rest = iter(_uncounted_parts(long.full_name))
    parts = _uncounted_parts(short.full_name)
    return all(part in rest for part in parts)


def _is_nameless(side: TensorSet, key: str) -> bool:
    """Whether a weight is called by its place alone: in a layer (`block/vars/0`), or of its layer.

    Where a Keras file has no names of layers, `layers/dense_1` is the second Dense of a list; what
    an attribute leads to has the name of that.
    """
    structure = side.structure
    is_nameless = isinstance(structure, KerasStructure) and structure.is_nameless
    is_place = is_nameless and not {*key.split("/")}.isdisjoint(LISTS)
    return key in side.weights and (is_place or own_name(side, key) is None)


def _depth(naming: Naming) -> int:
    return (naming.full_name or "").count("/")


def _uncounted_parts(name: str) -> list[str]:
    return without_counters(name).split("/")
