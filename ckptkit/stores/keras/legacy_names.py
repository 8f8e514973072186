"""Which layer a weight of a legacy `.h5` file is of: its group says it, not the variable's name.

TensorFlow 1 tells variables of one name apart by numbers, so a model that was loaded beside itself
and saved again has `conv2d_1_1/kernel:0` in the group `conv2d_1`, and `dense_3/kernel:0` in `dense`
where `dense_1` and `dense_2` were taken.  A nested model's group has the scopes of all its layers;
the config tells which these are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ckptkit.stores.keras.config import LayerConfig, layers_of

MAX_STEPS = 4_000_000  # of the search for scopes among layers: a second


def layers_of_scopes(
    group: str, names: Sequence[str], config: LayerConfig | None
) -> dict[str, str]:
    """Return {first scope of a listed name: the layer that it stands for}, where these differ.

    group: the layer that the names are listed for.  names: without `:0`.  config: of the layer,
    where the file has one.
    """
    paths = [name.split("/")[:-1] for name in names]
    scopes = list(dict.fromkeys(path[0] for path in paths if path and group not in path))
    if config is not None and config.kind != "layer":
        return _in_nested(scopes, list(_leaves(config)))
    if len(scopes) == 1 and _may_stand_for(scopes[0], group):
        return {scopes[0]: group}
    return {}


def _leaves(config: LayerConfig) -> Iterator[str]:
    for layer in layers_of(config):
        if layer.kind != "layer":
            yield from _leaves(layer)
        elif layer.class_name != "InputLayer":
            yield layer.name


def _may_stand_for(scope: str, layer: str) -> bool:
    return scope == layer or re.fullmatch(re.escape(layer) + r"_\d+", scope) is not None


def _in_nested(scopes: Sequence[str], layers: Sequence[str]) -> dict[str, str]:
    """Return whose the scopes are, in the order of the layers; {} where that is not certain."""
    if set(scopes) <= set(layers) or len(scopes) * len(layers) > MAX_STEPS:
        return {}
    # ways[i]: in how many ways the first i scopes are scopes of the layers so far
    ways = [1] + [0] * len(scopes)
    for layer in layers:
        for at in range(len(scopes), 0, -1):
            if _may_stand_for(scopes[at - 1], layer):
                ways[at] += ways[at - 1]
    if ways[-1] != 1:
        return {}
    rest = iter(layers)
    owners = [next(x for x in rest if _may_stand_for(scope, x)) for scope in scopes]
    return {s: layer for s, layer in zip(scopes, owners, strict=True) if s != layer}
