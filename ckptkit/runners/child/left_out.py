"""What a model holds and a file that Keras writes of it does not.  Child process alone.

Keras merges the factors of LoRA into the kernels when it saves, and sets them to 0 when it loads; a
layer with a way to save of its own may leave out what it likes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptkit.checkpoint.checkpoint import open as open_checkpoint

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

MERGED, MISSING, LEFT_OUT = "merged", "missing", "left out"


def left_out(
    written: Path,
    weights: Mapping[str, Any],
    layers: Iterable[Any],
    unrestored: Collection[str],
    value_of: Callable[[Any], Array],
) -> dict[str, str]:
    """Return {name: status} of the weights whose values are nowhere in a file that Keras wrote.

    weights: {name: variable}.  layers: of the model, those inside of others too.  unrestored: names
    of weights that still hold their mark.  The status is MERGED (a factor of LoRA), MISSING where
    the load did not set it, else LEFT_OUT.
    Nothing is read where the file has as many weights as the model.
    """
    file = open_checkpoint(written)
    kept = sum(naming.role == "weight" for naming in file.names.values())
    if kept >= len(weights):
        return {}
    contents = Counter(_content(file[naming.name]) for naming in file.names.values())
    adapted = {
        id(variable)
        for layer in layers
        if getattr(layer, "lora_enabled", False)
        for variable in layer.variables
    }
    found = {}
    for name, variable in weights.items():
        content = _content(value_of(variable))
        if contents[content]:
            contents[content] -= 1
        elif name in unrestored:
            found[name] = MISSING
        else:
            found[name] = MERGED if id(variable) in adapted else LEFT_OUT
    return found


def _content(values: Array) -> tuple[tuple[int, ...], bytes]:
    return values.shape, sha256(values.tobytes()).digest()
