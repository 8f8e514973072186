"""Filling a Keras model from any checkpoint, without TensorFlow.  Child process alone.

The model is marked and its weights are written as `.weights.h5`; the tensors of the checkpoint,
read by this package's own reader, are put into that file's places as `ckptkit.align.matching` pairs
them; Keras loads the result.  What then still holds its mark got no value.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptkit.align.matching import TensorSet, align
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.checkpoint import open as open_checkpoint
from ckptkit.dtypes import kind
from ckptkit.errors import CkptkitError
from ckptkit.runners.child.session import Result
from ckptkit.runners.keras.model import CallableModel
from ckptkit.runners.marks import is_marked, mark
from ckptkit.stores.keras.h5_store import H5Store
from ckptkit.stores.keras.writer import write_weights_h5

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

ENDING = ".weights.h5"


def restore_into(keras: Any, built: CallableModel, path: Path, out: str | None) -> Result:
    """Fill the model from `path`; return RestoreResult's fields, with what it then holds in `out`.

    A variable that the file has no tensor of its shape and dtype for keeps its mark.
    """
    model = built.model
    variables = _by_path(model.weights)
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None:
        variables |= _by_path(optimizer.variables)
    marked = _mark_all(keras, variables)
    error: Exception | None = None
    try:
        with tempfile.TemporaryDirectory(prefix="ckptkit-fill-") as scratch:
            _fill(model, open_checkpoint(path), Path(scratch))
    except CkptkitError as raised:  # what is wrong with the file is the answer
        error = raised
    written = None
    if out is not None:
        written = out if out.endswith(ENDING) else out + ENDING
        model.save_weights(written)
    return {
        "path": written,
        "error": str(error) if error else "",
        "error_kind": type(error).__name__ if error else "",
        "unrestored": [name for name, item in marked.items() if is_marked(_value(keras, item))],
        "unmarked": sorted(set(variables) - set(marked)),
        "optimizer": optimizer is not None,
        "root_children": [],
        "verdicts": {},
        "by": "ckptkit",
    }


def lost_weights(built: CallableModel, found: Result) -> list[str]:
    """Return the variables of the model itself that got no value, its optimizer left aside."""
    weights = _by_path(built.model.weights)
    return [path for path in found["unrestored"] if path in weights]


def _by_path(variables: Iterable[Any]) -> dict[str, Any]:
    """Return {path: variable}, paths made unique."""
    found: dict[str, Any] = {}
    for variable in variables:
        name, number = str(variable.path), 1
        while name in found:
            number += 1
            name = f"{variable.path}#{number}"
        found[name] = variable
    return found


def _mark_all(keras: Any, variables: dict[str, Any]) -> dict[str, Any]:
    """Fill the variables with their marks; return those whose dtype has one."""
    marked = {}
    for path, variable in variables.items():
        dtype = keras.backend.standardize_dtype(variable.dtype)
        value = mark(dtype, tuple(variable.shape))
        if value is not None:
            variable.assign(value)
            marked[path] = variable
    return marked


def _value(keras: Any, variable: Any) -> Array:
    import numpy as np

    return np.asarray(keras.ops.convert_to_numpy(variable.value))


def _fill(model: Any, file: Checkpoint, scratch: Path) -> None:
    # the structure as Keras itself writes it, values replaced where a tensor fits
    structure, filled = scratch / f"structure{ENDING}", scratch / f"filled{ENDING}"
    model.save_weights(structure)
    holder = open_checkpoint(structure)
    store = holder.store
    assert isinstance(store, H5Store)
    sources = {}
    for match in align(_side(file), _side(holder), content=False).pairs:
        old, new = file.specs[match.old], holder.specs[match.new]
        if (old.shape, old.dtype) == (new.shape, new.dtype):
            sources[match.new] = match.old

    def values(key: str) -> Iterator[tuple[int, Array]]:
        if key in sources:
            return file.store.blocks(sources[key])
        return store.blocks(key)

    write_weights_h5(filled, store, values)
    model.load_weights(filled)


def _side(checkpoint: Checkpoint) -> TensorSet:
    keys = [key for key, spec in checkpoint.specs.items() if kind(spec.dtype) != "opaque"]
    return TensorSet({k: checkpoint.specs[k] for k in keys}, {k: checkpoint.names[k] for k in keys})
