"""Variables of live models: their paths, their marking, restoring and writing.  Child process.

Before values are restored every variable is filled with its mark (`ckptkit.runners.marks`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckptkit.errors import CkptkitError
from ckptkit.runners.marks import is_marked, mark
from ckptkit.runners.tensorflow.build import is_keras
from ckptkit.runners.tensorflow.module import tensorflow
from ckptkit.text import list_text

HOLDER = "weights"  # edge of the root under which every weight is found by its path


def weights_of(model: Any) -> dict[str, Any]:
    """Return {path: variable} of every weight, paths made unique."""
    found: dict[str, Any] = {}
    for variable in model.weights if is_keras(model) else model.variables:
        path = getattr(variable, "path", None) or variable.name.partition(":")[0]
        name, number = path, 1
        while name in found:
            number += 1
            name = f"{path}#{number}"
        found[name] = variable
    return found


def root_of(objects: Mapping[str, Any], weights: Mapping[str, Any]) -> Any:
    """Return a Checkpoint of these objects that leads to every weight, those in lists too."""
    tf = tensorflow()
    holder = tf.Module()
    for path, variable in weights.items():
        holder._track_trackable(variable, name=path)
    return tf.train.Checkpoint(**objects, **{HOLDER: holder})


def usual_objects(model: Any) -> dict[str, Any]:
    """Return {"model": model}, with its optimizer where a Checkpoint can hold that."""
    objects = {"model": model}
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and hasattr(optimizer, "_trackable_children"):
        objects["optimizer"] = optimizer
    return objects


def write_structure(model: Any, out: str) -> None:
    """Write all weights, as they are, to a checkpoint or a `.weights.h5`."""
    if out.endswith(".weights.h5"):
        model.save_weights(out)
    else:
        root_of(usual_objects(model), weights_of(model)).write(out)


def fill(model: Any, filled: str) -> None:
    """Put the values of `write_structure`'s file in; raises CkptkitError naming those left out."""
    weights = weights_of(model)
    marked = mark_all(weights)
    if filled.endswith(".weights.h5"):
        model.load_weights(filled)
    else:
        root_of(usual_objects(model), weights).read(filled)
    left = still_marked(marked)
    if left:
        raise CkptkitError(f"not restored: {list_text(left, 5)}")


def mark_all(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Fill the variables with their marks; return those whose dtype has one."""
    marked = {}
    for path, variable in variables.items():
        dtype = tensorflow().as_dtype(variable.dtype).name
        value = mark(dtype, tuple(variable.shape))
        if value is not None:
            variable.assign(value)
            marked[path] = variable
    return marked


def still_marked(variables: Mapping[str, Any]) -> list[str]:
    """Return the paths of the variables that hold nothing but their mark."""
    import numpy as np

    return [path for path, variable in variables.items() if is_marked(np.asarray(variable))]
