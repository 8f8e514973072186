"""Pairing by structure: where in a model a variable lies, whatever either file calls it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ckptkit.align.layer_scopes import LayerScopes, join_flat_paths
from ckptkit.align.layer_trees import join_trees
from ckptkit.align.metric_lists import join_metrics
from ckptkit.align.numbered_layers import numbered_layers
from ckptkit.align.objects import Objects
from ckptkit.align.owners import rest_of_layers
from ckptkit.align.types import Match, TensorSet
from ckptkit.align.variable_lists import (
    join_listings,
    join_nameless,
    join_optimizers,
    join_orders,
)
from ckptkit.stores.base import ObjectGraph


def by_attributes(old: TensorSet, new: TensorSet) -> Iterator[Match]:
    """Yield what the attributes of a model's objects pair: groups of HDF5 and an object graph."""
    for one, other, is_turned in _both_ways(old, new):
        if isinstance(other.structure, ObjectGraph):
            root = numbered_layers(one)
            if root is not None:
                pairs = join_trees(root, Objects(other, other.structure))
                yield from _matches(pairs, is_turned, "structure")


def by_layers(old: TensorSet, new: TensorSet) -> Iterator[Match]:
    """Yield what the layers pair that numbered variables belong to, as far as both sides tell."""
    yield from _matches(join_flat_paths(old, new), False, "full name")
    for one, other, is_turned in _both_ways(old, new):
        root = numbered_layers(one)
        if root is None:
            continue
        scopes = LayerScopes(one, root)
        yield from _matches(scopes.by_names(other), is_turned, "name")
        if isinstance(other.structure, ObjectGraph):
            yield from _matches(scopes.by_slots(other, other.structure), is_turned, "name")
            yield from _matches(scopes.by_ops(other, other.structure), is_turned, "structure")


def by_listing(old: TensorSet, new: TensorSet) -> Iterator[Match]:
    """Yield what the lists of two files pair, where numbers in names do not tell which is which."""
    yield from _matches(join_listings(old, new), False, "order")
    for one, other, is_turned in _both_ways(old, new):
        yield from _matches(join_nameless(one, other), is_turned, "order")


def by_order(old: TensorSet, new: TensorSet, known: Mapping[str, str]) -> Iterator[Match]:
    """Yield what the order of a model's variables pairs.  known: pairs so far."""
    known_back = {new_key: old_key for old_key, new_key in known.items()}
    yield from _matches(join_orders(old, new, known, known_back), False, "order")


def of_known_layers(old: TensorSet, new: TensorSet, known: Mapping[str, str]) -> Iterator[Match]:
    """Yield what is left of layers that other variables pair.  known: pairs so far."""
    yield from _matches(rest_of_layers(old, new, known), False, "structure")


def of_metrics(old: TensorSet, new: TensorSet) -> Iterator[Match]:
    """Yield what the order of a model's metrics pairs."""
    yield from _matches(join_metrics(old, new), False, "order")


def of_optimizers(old: TensorSet, new: TensorSet) -> Iterator[Match]:
    """Yield what the order of an optimizer's variables pairs."""
    yield from _matches(join_optimizers(old, new), False, "order")


def _both_ways(old: TensorSet, new: TensorSet) -> tuple[tuple[TensorSet, TensorSet, bool], ...]:
    return (old, new, False), (new, old, True)


def _matches(pairs: Iterable[tuple[str, str]], is_turned: bool, evidence: str) -> Iterator[Match]:
    for one, other in pairs:
        yield Match(other, one, evidence) if is_turned else Match(one, other, evidence)
