"""Filling a live model from a file that has names alone (npz, safetensors).  Child process alone.

What the model holds is written as a checkpoint, and paired with the file as `ckptkit.align` pairs
any two; a tensor of the same shape and dtype is then the variable's value.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ckptkit.align.matching import TensorSet, align
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.checkpoint import open as open_checkpoint
from ckptkit.dtypes import kind
from ckptkit.runners.tensorflow.variables import HOLDER, checkpoint_of


def fill_by_name(model: Any, weights: Mapping[str, Any], path: Path) -> None:
    """Give every weight the value of its tensor in the file; one that has none keeps its own.

    weights: {name: variable}.  Raises what reading the file raises.
    """
    file = open_checkpoint(path)
    with tempfile.TemporaryDirectory(prefix="ckptkit-fill-") as scratch:
        structure = Path(scratch) / "structure"
        checkpoint_of({"model": model}, weights).write(str(structure))
        holder = open_checkpoint(structure)
        for match in align(_side(file), _side(holder), content=False).pairs:
            old, new = file.specs[match.old], holder.specs[match.new]
            variable = _variable(holder, match.new, weights)
            if variable is not None and (old.shape, old.dtype) == (new.shape, new.dtype):
                variable.assign(file[file.names[match.old].name])


def _variable(holder: Checkpoint, key: str, weights: Mapping[str, Any]) -> Any:
    """Return the live variable behind a key of the structure, None where it is no weight."""
    naming = holder.names[key]
    below = f"{HOLDER}/"
    for path in (naming.name, *naming.aliases):
        if path.startswith(below) and path.removeprefix(below) in weights:
            return weights[path.removeprefix(below)]
    return None


def _side(checkpoint: Checkpoint) -> TensorSet:
    keys = [key for key, spec in checkpoint.specs.items() if kind(spec.dtype) != "opaque"]
    return TensorSet(
        {key: checkpoint.specs[key] for key in keys},
        {key: checkpoint.names[key] for key in keys},
        structure=checkpoint.structure,
    )
