"""What hangs below an object of Keras, on a backend that has no trackables.  Child process alone.

On TensorFlow the attributes of a layer are the edges of a checkpoint's object graph.  Here they are
told in the same way: attributes that lead to variables, layers, optimizers, and lists and dicts of
these.  What every layer has is Keras's own account of it (`_layers`), and no edge there either.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from ckptkit.runners.child.object_tree import ObjectTree, is_variable


def children_of(item: Any) -> Mapping[str, Any]:
    """Return {edge: child} of an object of Keras, a list or a dict; {} of anything else."""
    if is_variable(item):
        return {}
    if isinstance(item, Mapping):
        found = {key: child for key, child in item.items() if isinstance(key, str)}
    elif isinstance(item, (list, tuple)):
        found = {str(place): child for place, child in enumerate(item)}
    elif _is_saved(item):
        own = _of_every_layer() if callable(item) else frozenset()
        found = {edge: child for edge, child in _attributes(item).items() if edge not in own}
    else:
        return {}
    return {edge: child for edge, child in found.items() if _may_lead_on(child)}


def _attributes(item: Any) -> Mapping[str, Any]:
    """Return all attributes; on PyTorch a layer is a Module, which keeps its layers elsewhere."""
    modules = vars(item).get("_modules")
    return {**vars(item), **modules} if isinstance(modules, Mapping) else vars(item)


def _is_saved(item: Any) -> bool:
    """Whether it is a layer, an optimizer, a metric: what Keras saves the variables of."""
    return callable(getattr(item, "save_own_variables", None)) and not isinstance(item, type)


def _may_lead_on(item: Any) -> bool:
    return is_variable(item) or _is_saved(item) or isinstance(item, (Mapping, list, tuple))


@cache
def _of_every_layer() -> frozenset[str]:
    import keras

    return frozenset(vars(keras.layers.Layer())) | frozenset(vars(keras.Model()))


KERAS_OBJECTS = ObjectTree(children_of)
