"""Variables of live models: their paths, their marking, restoring and writing.  Child process.

Before values are restored every variable is filled with its mark (`ckptkit.runners.marks`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ckptkit.errors import CkptkitError
from ckptkit.runners.child.by_name import HOLDER
from ckptkit.runners.child.object_tree import by_unique_names, is_variable
from ckptkit.runners.marks import is_marked, mark
from ckptkit.runners.tensorflow.build import is_keras
from ckptkit.runners.tensorflow.module import tensorflow
from ckptkit.runners.tensorflow.trackables import below, variables_below
from ckptkit.text import list_text

if TYPE_CHECKING:
    from ckptkit.dtypes import Array


def weights_of(model: Any) -> dict[str, Any]:
    """Return {name: variable} of every weight of a model, or of several that hang below an object.

    The name is the one that `ckptkit ls` shows of a checkpoint: the variable's own where no other
    one has it, else the object path.  What optimizers alone lead to is left out.
    """
    paths = {id(v): path for path, v in variables_below(model, optimizers=False).items()}
    return by_unique_names((paths.get(id(v), ""), v) for v in _weights(model))


def _weights(model: Any) -> list[Any]:
    """Return the weights of a model; of what is none of Keras, those of all models below it."""
    if is_keras(model):
        return list(model.weights)
    found: dict[int, Any] = {}
    inside: set[int] = set()  # what hangs below a layer of Keras, which tells its weights itself
    for _, item in below(model, optimizers=False):
        if is_keras(item) and id(item) not in inside:
            inside |= {id(child) for _, child in below(item)}
            found |= {id(variable): variable for variable in item.weights}
        elif is_variable(item) and id(item) not in inside:
            found[id(item)] = item
    return list(found.values())


def checkpoint_of(objects: Mapping[str, Any], weights: Mapping[str, Any] | None = None) -> Any:
    """Return a tf.train.Checkpoint of objects by their paths in it; "" is the root itself.

    weights: {name: variable}, shown below `HOLDER`, those in plain lists too.
    """
    tf = tensorflow()
    children: dict[str, Any] = {}
    for path, item in objects.items():
        first, _, rest = path.partition("/")
        if not rest:
            children[first] = item
            continue
        holder = children.setdefault(first, tf.Module())
        *between, last = rest.split("/")
        for edge in between:
            inner = holder._trackable_children().get(edge)
            if inner is None:
                inner = tf.Module()
                holder._track_trackable(inner, name=edge)
            holder = inner
        holder._track_trackable(item, name=last)
    if weights is not None:
        holder = tf.Module()
        for path, variable in weights.items():
            holder._track_trackable(variable, name=path)
        children[HOLDER] = holder
    root = (children.pop(""),) if "" in children else ()
    return tf.train.Checkpoint(*root, **children)


def root_of(objects: Mapping[str, Any], weights: Mapping[str, Any]) -> Any:
    """Return a Checkpoint of these objects that leads to every weight, those in lists too."""
    return checkpoint_of(objects, weights)


def usual_objects(model: Any) -> dict[str, Any]:
    """Return {"model": model}, with its optimizer where a Checkpoint can hold that."""
    objects = {"model": model}
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and hasattr(optimizer, "_trackable_children"):
        objects["optimizer"] = optimizer
    return objects


def write_weights(model: Any, out: str, *, is_legacy: bool = False) -> str:
    """Have Keras write the weights of its model; return the path, `out` with an ending.

    is_legacy: in the form that Keras 2 keeps weights in.
    """
    path = f"{out}.h5" if is_legacy else f"{out}.weights.h5"
    model.save_weights(path)
    return path


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
    return [path for path, variable in variables.items() if is_marked(value_of(variable))]


def value_of(variable: Any) -> Array:
    """Return the values of a variable."""
    import numpy as np

    return np.asarray(variable)
