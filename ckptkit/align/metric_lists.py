"""Pairing of what metrics keep, between a file of Keras and an object graph of the same model.

A file of Keras calls a metric by its class, the object graph of a SavedModel by its number in
`Model.metrics`; both have them in that order.
"""

from __future__ import annotations

from ckptkit.align.types import TensorSet
from ckptkit.stores.base import KerasStructure, ObjectGraph
from ckptkit.text import natural

_Metric = dict[str, str]  # {name of a variable in it: key}


def join_metrics(old: TensorSet, new: TensorSet) -> list[tuple[str, str]]:
    """Return (old key, new key) of the state of metrics, where all of it fits, one by one."""
    kinds = {type(side.structure) for side in (old, new)}
    lists = _metrics(old), _metrics(new)
    if kinds != {KerasStructure, ObjectGraph} or len(lists[0]) != len(lists[1]):
        return []
    pairs = []
    for one, other in zip(*lists, strict=True):
        if one.keys() != other.keys():
            return []
        pairs += [(one[name], other[name]) for name in one]
    return pairs if all(old.specs[a][1:3] == new.specs[b][1:3] for a, b in pairs) else []


def _metrics(side: TensorSet) -> list[_Metric]:
    """Return the metrics of a file in the order of its model."""
    keys = [key for key in side.keys if side.names[key].role == "metric"]
    if isinstance(side.structure, KerasStructure):
        places = {key: at for at, key in enumerate(side.structure.written)}
        if not places.keys() >= {*keys}:
            return []
        keys.sort(key=places.__getitem__)
    else:
        keys.sort(key=lambda key: natural(side.names[key].name))
    metrics: dict[str, _Metric] = {}
    for key in keys:
        metric, _, own = side.names[key].name.rpartition("/")
        metrics.setdefault(metric, {})[own] = key
    return [*metrics.values()]
