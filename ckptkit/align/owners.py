"""Pairing what is left of a layer of which other variables are paired already."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ckptkit.align.numbered_layers import numbered_layers
from ckptkit.align.objects import Objects
from ckptkit.align.own_variables import OwnVariable, pair_own
from ckptkit.align.types import TensorSet
from ckptkit.align.variable_lists import own_name
from ckptkit.stores.base import KerasStructure, ObjectGraph


class Owner(NamedTuple):
    """The own variables of one layer.

    is_numbered: in the order of `Layer.save_own_variables`.  is_ordered: in the order in which they
    were made.  With neither, they are in no order.
    """

    variables: tuple[OwnVariable, ...]
    is_numbered: bool = False
    is_ordered: bool = False


def owners(side: TensorSet) -> list[Owner]:
    """Return the layers of a file that have variables, each with all of its own."""
    root = numbered_layers(side)
    if root is not None:
        return [Owner(tuple(layer.own), is_numbered=True) for layer in root.layers() if layer.own]
    structure = side.structure
    if isinstance(structure, ObjectGraph):
        objects = Objects(side, structure)
        found = [
            objects.own(node) for node in range(len(structure.nodes)) if _is_layer(objects, node)
        ]
        return [Owner(tuple(own), is_ordered=True) for own in found if own]
    # A legacy file lists the trainable variables of a layer first, as the others number them.
    is_legacy = isinstance(structure, KerasStructure)
    order = list(structure.variables) if isinstance(structure, KerasStructure) else side.keys
    scopes: dict[str, list[OwnVariable]] = defaultdict(list)
    for key in order:
        if key in side.weights:
            naming, spec = side.names[key], side.specs[key]
            scope = (naming.full_name or naming.name).rpartition("/")[0]
            scopes[scope].append(
                OwnVariable(key, (spec.dtype, spec.shape), own_name(side, key), None)
            )
    return [Owner(tuple(own), is_numbered=is_legacy) for own in scopes.values()]


def _is_layer(objects: Objects, node: int) -> bool:
    """Whether a node is an object with attributes, not a list of variables or an optimizer."""
    edges = [edge for edge, child in objects.graph.nodes[node].children if child in objects.key_of]
    return bool(edges) and node not in objects.optimizers and not any(e.isdecimal() for e in edges)


def rest_of_layers(
    old: TensorSet, new: TensorSet, known: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Yield (old key, new key) of layers that are known to be the same by other variables.

    known: {old key: new key} of what is paired.
    """
    owner_of = [_by_key(owners(side)) for side in (old, new)]
    partners: dict[int, set[int]] = defaultdict(set)
    back: dict[int, set[int]] = defaultdict(set)
    layers: dict[int, Owner] = {}
    for one, other in known.items():
        here, there = owner_of[0].get(one), owner_of[1].get(other)
        if here is not None and there is not None:
            partners[id(here)].add(id(there))
            back[id(there)].add(id(here))
            layers[id(here)], layers[id(there)] = here, there
    for one_id, other_ids in partners.items():
        [other_id, *more] = other_ids
        if more or len(back[other_id]) > 1:
            continue
        yield from _rest(layers[one_id], layers[other_id], known)


def _by_key(found: Sequence[Owner]) -> dict[str, Owner]:
    by_key: dict[str, Owner] = {}
    for owner in found:
        for variable in owner.variables:
            by_key.setdefault(variable.key, owner)
    return by_key


def _rest(here: Owner, there: Owner, known: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    if there.is_numbered and not here.is_numbered:
        back = {other: one for one, other in known.items()}
        yield from ((one, other) for other, one in _rest(there, here, back))
        return
    found = pair_own(
        here.variables, _in_order(there), ordered=here.is_numbered and _has_order(there)
    )
    # the pairs that were known must be among them
    said = dict(found)
    if all(said.get(v.key, known[v.key]) == known[v.key] for v in here.variables if v.key in known):
        yield from ((one, other) for one, other in found if one not in known)


def _has_order(owner: Owner) -> bool:
    return owner.is_numbered or owner.is_ordered


def _in_order(owner: Owner) -> list[OwnVariable]:
    """Return variables as `pair_own` takes them; numbered ones are as they were made already."""
    if not owner.is_numbered:
        return list(owner.variables)
    return [v._replace(trainable=True) for v in owner.variables]
