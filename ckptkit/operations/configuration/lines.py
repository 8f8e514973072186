"""A configuration as lines of text: what its digest is of.

One line of JSON per layer, keys sorted, no spaces, ASCII; the lines sorted, "\\n" between them.

    path       of the layer, nested ones as "outer/inner"; "" is the model
    class      with the package that registers it, where it is a user's own
    settings   those that are not Keras's default, in the canonical form of `values`
    place      in a Sequential model, or in one of a user's own class: its number, from 0
    feeds, masks, arguments    how a functional model calls it: [layer, call, output], and what it
                               is passed by, where that is a name (these sorted); constants
    inputs, outputs            of a functional model; of a dictionary with its keys
    code       SHA-256 of what Python code says (`python_code`), by setting
    compiled   of the model: how it was compiled, where the file says it

A name that Keras made up is "#Class:N", N in the order of the numbers that Keras gave.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ckptkit.operations.configuration.calls import TensorOf, sorted_by_argument
from ckptkit.operations.configuration.node import ConfigNode
from ckptkit.operations.configuration.values import class_of, text_of
from ckptkit.text import natural


def config_lines(root: ConfigNode) -> list[str]:
    """Return the lines of a configuration, sorted."""
    name = "" if root.is_automatic else root.name
    # `.h5` does not write the package that registers the model's own class
    own = {"name": name, "compiled": root.compiled, **_own(root, {})}
    own["class"] = class_of(root.class_name)
    return sorted([text_of({"path": "", **own}), *_below(root, "")])


def _below(model: ConfigNode, above: str) -> Iterator[str]:
    names = _names(model.layers)
    is_ordered = model.kind in ("sequential", "model", "layer")
    for place, layer in enumerate(model.layers):
        path = f"{above}{names[layer.name]}"
        order = {"place": place} if is_ordered else {}
        yield text_of({"path": path, **order, **_own(layer, names)})
        yield from _below(layer, f"{path}/")


def _names(layers: Sequence[ConfigNode]) -> dict[str, str]:
    """Return {name: what stands for it}, in the order of the numbers in names."""
    found: dict[str, str] = {}
    counts: dict[str, int] = {}
    for layer in sorted(layers, key=lambda layer: natural(layer.name)):
        if layer.is_automatic:
            number = counts[layer.class_name] = counts.get(layer.class_name, -1) + 1
            found[layer.name] = f"#{layer.class_name}:{number}"
        else:
            found[layer.name] = layer.name
    return found


def _own(layer: ConfigNode, names: Mapping[str, str]) -> dict[str, Any]:
    below = _names(layer.layers)

    def tensors(found: Sequence[TensorOf], called: Mapping[str, str]) -> list[Any]:
        rows = [list(tensor.renamed(called)) for tensor in sorted_by_argument(found)]
        return [row if row[-1] else row[:-1] for row in rows]

    return {
        "class": layer.class_name,
        "settings": layer.settings,
        "feeds": tensors(layer.calls.feeds, names),
        "masks": tensors(layer.calls.masks, names),
        "arguments": dict(layer.calls.constants),
        "inputs": tensors(layer.inputs, below),
        "outputs": tensors(layer.outputs, below),
        "code": dict(layer.codes),
    }
