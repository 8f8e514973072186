"""How layers of a functional model are called: the nodes of Keras 1 and 2 in the form of Keras 3.

Keras 1 and 2 write `inbound_nodes`: a list of calls, each a list of [layer, node, tensor] or
[layer, node, tensor, keyword arguments], where arguments are references of the same form; layers
that keep the structure of their input nest the references, and a call on one tensor may then be
that reference itself.  ["_CONSTANT_VALUE", -1, value, ...] is a number in place of a tensor.
Keras 3 writes {"args", "kwargs"} per call, tensors in them as {"class_name": "__keras_tensor__",
"config": {"shape", "dtype", "keras_history": [layer, node, tensor]}}.  (Facts of
keras/src/engine/functional.py of Keras 2.15 and keras/src/models/functional.py of Keras 3.15.)

Nodes of a nested model are counted from 1 by Keras 2, which counts the one between its own input
and output; in calls Keras 3 counts them from 0, in `output_layers` from 1, where it is Functional.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

CONSTANT = "_CONSTANT_VALUE"


class Reference(NamedTuple):
    """A tensor: the layer, which call of it, which of its outputs."""

    layer: str
    node: int
    tensor: int

    def to_json(self, offset: int = 0) -> dict[str, Any]:
        """Return it as an argument in the form of Keras 3; offset: what its nodes count from."""
        # Shape and dtype are those of the layer's output: whoever reads this asks the layer.
        return {
            "class_name": "__keras_tensor__",
            "config": {
                "shape": [],
                "dtype": "float32",
                "keras_history": [self.layer, self.node - offset, self.tensor],
            },
        }


@dataclass
class Call:
    """A call of a layer.

    inputs: the first argument, references and constants in its structure; kwargs: the others.
    """

    inputs: Any
    kwargs: dict[str, Any]


def calls_of(nodes: Any) -> list[Call]:
    """Return the calls of a layer; nodes: its `inbound_nodes`, a form of Keras 1 or 2.

    Raises ValueError where it is none.
    """
    if not isinstance(nodes, list):
        raise ValueError(f"inbound_nodes is no list: {nodes!r:.80}")
    return [_call(node) for node in nodes]


def _call(node: Any) -> Call:
    kwargs: dict[str, Any] = {}
    if _is_reference(node):
        inputs = _first(node, kwargs)
    elif isinstance(node, list) and len(node) == 1 and _is_reference(node[0]):
        inputs = _first(node[0], kwargs)
    else:
        inputs = _structure(node, lambda item: _first(item, kwargs))
    return Call(inputs, {name: _argument(value) for name, value in kwargs.items()})


def _first(item: list[Any], kwargs: dict[str, Any]) -> Any:
    """Return what a reference of the first argument names, and note what it says of the others."""
    if len(item) == 4 and isinstance(item[3], Mapping):
        kwargs.update(item[3])
    return item[2] if item[0] == CONSTANT else _reference(item)


def _structure(value: Any, leaf: Callable[[list[Any]], Any]) -> Any:
    if _is_reference(value):
        return leaf(value)
    if isinstance(value, list):
        return [_structure(item, leaf) for item in value]
    if isinstance(value, Mapping):
        return {key: _structure(item, leaf) for key, item in value.items()}
    raise ValueError(f"no reference to a tensor: {value!r:.80}")


def _argument(value: Any) -> Any:
    """Return a keyword argument with its references told apart from plain values."""
    if _is_reference(value):
        return value[2] if value[0] == CONSTANT else _reference(value)
    if isinstance(value, list):
        return [_argument(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _argument(item) for key, item in value.items()}
    return value


def _is_reference(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) in (3, 4)
        and isinstance(value[0], str)
        and type(value[1]) is int
        and (value[0] == CONSTANT or type(value[2]) is int)
        and (len(value) == 3 or isinstance(value[3], Mapping))
    )


def _reference(value: list[Any]) -> Reference:
    return Reference(value[0], value[1], value[2])


def references_in(value: Any) -> Iterator[Reference]:
    """Yield the tensors in the arguments of a call."""
    if isinstance(value, Reference):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from references_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from references_in(item)


def endpoints_of(value: Any) -> Any:
    """Return `input_layers` or `output_layers` with their references told apart."""
    if _is_reference(value):
        return _reference(value)
    if isinstance(value, list | tuple):
        return [endpoints_of(item) for item in value]
    if isinstance(value, Mapping):
        return {key: endpoints_of(item) for key, item in value.items()}
    raise ValueError(f"no reference to a tensor: {value!r:.80}")


def map_references(value: Any, leaf: Callable[[Reference], Any]) -> Any:
    """Return arguments or endpoints with each tensor replaced, plain values as they are."""
    if isinstance(value, Reference):
        return leaf(value)
    if isinstance(value, list):
        return [map_references(item, leaf) for item in value]
    if isinstance(value, Mapping):
        return {key: map_references(item, leaf) for key, item in value.items()}
    return value
