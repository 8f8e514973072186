"""Two Keras configs, layer by layer: what is set in them, and which layer feeds which.

Layers are paired by name where both files have the same names.  Otherwise a name that a person gave
pairs, and of the others those that stand in the same order; the rest is named as being in one file
alone.  Names that Keras counts (`dense_7`) tell nothing: a model that is built second has others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from ckptkit.operations.diff.beside.settings import (
    class_of,
    differences,
    is_automatic,
    plain,
    settings_of,
    shown,
)
from ckptkit.stores.keras.config import LayerConfig, as_layer

_INPUT = "InputLayer"
_SHAPES = ("batch_shape", "batch_input_shape")
_OPERATIONS_OF_KERAS2 = (
    *("TFOpLambda", "TensorFlowOpLayer", "SlicingOpLambda", "ClassMethod", "InstanceMethod"),
    "InstanceProperty",
)
_OF_THE_CALL = frozenset({"training", "mask"})  # which versions write or leave out
_MAX_COMPARED = 4_000_000  # layers times layers; matching takes that many steps
Pair = tuple[LayerConfig, LayerConfig]


def configuration_differences(old: object, new: object) -> list[str]:
    """Return a sentence per setting, layer and connection that differs.

    Args:
        old: the config of a Keras model, as JSON has it; anything else says nothing.
        new: the other.
    """
    left, right = as_layer(old), as_layer(new)
    if left is None or right is None:
        return []
    own = list(_of_model(left, right))
    return [*own, *_of_layers(left, right, "")]


def _of_model(old: LayerConfig, new: LayerConfig) -> Iterator[str]:
    """Yield what differs in a subclassed model's own settings; others have their layers' alone."""
    if {old.kind, new.kind} & {"functional", "sequential"}:
        return
    names = class_of(old.class_name), class_of(new.class_name)
    if names[0] != names[1]:
        yield f"the model is of class {names[0]} → {names[1]}"
    else:
        yield from _of_settings("the model", old, new)


def _of_layers(old: LayerConfig, new: LayerConfig, above: str) -> Iterator[str]:
    layers = _layers(old), _layers(new)
    if not layers[0] or not layers[1]:
        return
    inner = [[x for x in side if x.class_name != _INPUT] for side in layers]
    if len(inner[0]) != len(inner[1]) and len(inner[0]) * len(inner[1]) > _MAX_COMPARED:
        yield f"{above or 'the model '}has {len(inner[0]):,} → {len(inner[1]):,} layers"
        return
    pairs = _paired(*inner)
    inputs = _paired_inputs(*([x for x in side if x.class_name == _INPUT] for side in layers))
    for one, other in inputs:
        yield from _of_input(above + one.name, one, other)
    for one, other in pairs:
        yield from _of_pair(above + one.name, one, other)
    paired = [{id(pair[side]) for pair in pairs} for side in (0, 1)]
    one_way = _writes_calls_as_objects(layers[0]) == _writes_calls_as_objects(layers[1])
    for side, where in ((0, "OLD"), (1, "NEW")):
        for layer in inner[side]:
            if id(layer) not in paired[side] and (one_way or not _is_operation(layer)):
                yield f"{above}{layer.name} ({class_of(layer.class_name)}) is only in {where}"
    names = {one.name: other.name for one, other in (*inputs, *pairs)}
    if all(len(paired[side]) == len(inner[side]) for side in (0, 1)):
        yield from _of_connections(above, (old, new), pairs, names)


def _layers(model: LayerConfig) -> list[LayerConfig]:
    """Return all that a model lists, operations of a functional graph (`x + 1`) included."""
    listed = model.config.get("layers")
    if isinstance(listed, Mapping):
        listed = list(listed.values())
    found = [as_layer(item) for item in listed] if isinstance(listed, list) else []
    return [layer for layer in found if layer is not None]


def _is_operation(layer: LayerConfig) -> bool:
    """Whether this is an operation between layers: Keras 2 and 3 write other ones for a model.

    Those of Keras 3 are no layers, so that nothing says whether they are trained.
    """
    return layer.class_name in _OPERATIONS_OF_KERAS2 or "trainable" not in layer.config


def _writes_calls_as_objects(layers: Sequence[LayerConfig]) -> bool:
    """Whether Keras 3 wrote these layers of a functional model."""
    nodes = [layer.node.get("inbound_nodes") for layer in layers]
    return any(isinstance(item, list) and isinstance(item[0], Mapping) for item in nodes if item)


# -- which layer is which --------------------------------------------------------------------------


def _paired(old: Sequence[LayerConfig], new: Sequence[LayerConfig]) -> list[Pair]:
    by_name = {layer.name: layer for layer in new}
    names = [layer.name for layer in old]
    if len(set(names)) == len(names) and set(names) == set(by_name) and len(new) == len(old):
        return [(layer, by_name[layer.name]) for layer in old]
    # A name that a person gave holds wherever it stands; the others are known by their order.
    given = [{x.name: x for x in side if not _is_automatic(x)} for side in (old, new)]
    named = [(given[0][name], given[1][name]) for name in given[0] if name in given[1]]
    taken = {id(layer) for pair in named for layer in pair}
    rest = [[layer for layer in side if id(layer) not in taken] for side in (old, new)]
    ordered = list(_in_order(*rest))
    whole = len(ordered) == len(rest[0]) == len(rest[1])  # all of them renamed, say
    return [*named, *(pair for pair in ordered if whole or all(map(_is_automatic, pair)))]


def _in_order(old: Sequence[LayerConfig], new: Sequence[LayerConfig]) -> Iterator[Pair]:
    """Yield layers of one class that stand in one order on both sides, as many as there are."""
    left, right = ([class_of(layer.class_name) for layer in side] for side in (old, new))
    if left == right:
        yield from zip(old, new, strict=True)
    elif len(left) * len(right) <= _MAX_COMPARED:
        for a, b, size in SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks():
            yield from zip(old[a : a + size], new[b : b + size], strict=True)


def _is_automatic(layer: LayerConfig) -> bool:
    return is_automatic(layer.name, class_of(layer.class_name))


def _paired_inputs(old: Sequence[LayerConfig], new: Sequence[LayerConfig]) -> list[Pair]:
    """Pair inputs; one that only one of two files writes (of a Sequential) has no partner."""
    return _paired(old, new) if len(old) == len(new) else []


# -- what differs in a pair ------------------------------------------------------------------------


def _of_pair(name: str, old: LayerConfig, new: LayerConfig) -> Iterator[str]:
    classes = class_of(old.class_name), class_of(new.class_name)
    nested = [bool(_layers(layer)) for layer in (old, new)]
    if classes[0] != classes[1] and not all(nested):
        yield f"{name} is of class {classes[0]} → {classes[1]}"
        return
    if all(nested):
        yield from _of_layers(old, new, f"{name}/")
    else:
        yield from _of_settings(name, old, new)


def _of_settings(name: str, old: LayerConfig, new: LayerConfig) -> Iterator[str]:
    for key, before, after in differences(settings_of(old), settings_of(new)):
        yield f"{name}: {key.removesuffix('.class')} {shown(before)} → {shown(after)}"


def _of_input(name: str, old: LayerConfig, new: LayerConfig) -> Iterator[str]:
    shapes = [plain(next(filter(None, map(x.config.get, _SHAPES)), None)) for x in (old, new)]
    dtypes = [plain(x.config.get("dtype")) for x in (old, new)]
    for key, (before, after) in (("shape", shapes), ("dtype", dtypes)):
        if before is not None and after is not None and before != after:
            yield f"{name}: {key} {shown(before)} → {shown(after)}"


# -- what feeds what -------------------------------------------------------------------------------


def _of_connections(
    above: str, models: Pair, pairs: Sequence[Pair], names: Mapping[str, str]
) -> Iterator[str]:
    if {model.kind for model in models} == {"sequential"}:
        orders = [
            [layer.name for layer in _layers(model) if layer.class_name != _INPUT]
            for model in models
        ]
        if [names.get(name, name) for name in orders[0]] != orders[1]:
            yield f"{above or 'the model '}has its layers in another order"
        return
    for old, new in pairs:
        calls = _calls(old), _calls(new)
        feeds = [names.get(name, name) for name in calls[0][0]]
        if feeds and calls[1][0] and feeds != calls[1][0]:
            yield f"{above}{old.name} is fed by {_some(calls[0][0])} → {_some(calls[1][0])}"
        for key, before, after in differences(calls[0][1], calls[1][1]):
            yield f"{above}{old.name}: argument {key} {shown(before)} → {shown(after)}"
    for key, what in (("input_layers", "inputs"), ("output_layers", "outputs")):
        ends = [list(_ends(model.config.get(key))) for model in models]
        if all(ends) and [names.get(name, name) for name in ends[0]] != ends[1]:
            yield f"{above or 'the model '}has the {what} {_some(ends[0])} → {_some(ends[1])}"


def _some(names: Sequence[str]) -> str:
    return "+".join(names[:3]) + ("+…" if len(names) > 3 else "")


def _calls(layer: LayerConfig) -> tuple[list[str], dict[str, Any]]:
    """Return the names of the layers that feed one, in order, and the constants beside them."""
    feeds: list[str] = []
    constants: dict[str, Any] = {}
    _walk(layer.node.get("inbound_nodes"), "", feeds, constants)
    return feeds, constants


def _walk(value: Any, path: str, feeds: list[str], constants: dict[str, Any]) -> None:
    """Collect layers and constants from either way of writing a call.

    Keras 2: `[["dense", 0, 0, {"y": 2.0}]]`; Keras 3: `{"args": […], "kwargs": {…}}` with
    `{"class_name": "__keras_tensor__", "config": {"keras_history": ["dense", 0, 0]}}`.
    """
    if isinstance(value, Mapping):
        history = value.get("keras_history")
        if isinstance(history, list) and history and isinstance(history[0], str):
            feeds.append(history[0])
            return
        if value.get("class_name") == "__keras_tensor__":
            value = {"config": value.get("config")}
        for key, item in value.items():
            if key not in _OF_THE_CALL:
                _walk(item, f"{path}.{key}" if path else str(key), feeds, constants)
    elif isinstance(value, list):
        if len(value) >= 3 and isinstance(value[0], str) and type(value[1]) is int:
            feeds.append(value[0])
            value = value[3:]
        for at, item in enumerate(value):
            _walk(item, f"{path}[{at}]", feeds, constants)
    elif isinstance(value, (int, float)) and path:
        constants[path.removeprefix("[0].")] = value


def _ends(value: Any) -> Iterator[str]:
    """Yield the names in `["out", 0, 0]`, `[["out", 0, 0], …]` or a dictionary of such."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _ends(item)
    elif isinstance(value, list):
        if len(value) == 3 and isinstance(value[0], str):
            yield value[0]
            return
        for item in value:
            yield from _ends(item)
