"""Filling a model from a file that has names alone (npz, safetensors).  Child process alone.

What the model holds is written as a checkpoint, and paired with the file as `ckptkit.align` pairs
any two; a tensor of the same shape and dtype is then the variable's value.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ckptkit.align.matching import TensorSet, align
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.checkpoint import open as open_checkpoint
from ckptkit.dtypes import kind, numpy_dtype

if TYPE_CHECKING:
    from ckptkit.dtypes import Array


class HasShape(Protocol):
    """What has a shape and a dtype: a variable, or what a file says of a tensor."""

    @property
    def shape(self) -> Any:
        """Sizes of its axes."""

    @property
    def dtype(self) -> Any:
        """Its dtype, or the name of that."""


HOLDER = "weights"  # edge of the root under which every weight is found by its path


WriteStructure = Callable[[str, Mapping[str, Any]], None]
"""Writes the model as a checkpoint to a prefix, with the weights of a dict shown below HOLDER."""


def fill_by_name(
    write_structure: WriteStructure,
    paths: Mapping[str, Any],
    weights: Mapping[str, Any],
    path: Path,
) -> dict[str, tuple[str, str]]:
    """Give every weight the value of its tensor in the file; one that has none keeps its own.

    paths: {path in what `write_structure` writes: variable}.  weights: {name: variable}.
    Returns {name of a weight: (key in the file, evidence)}.
    Raises what reading the file raises.
    """
    file = open_checkpoint(path)
    names = {id(variable): name for name, variable in weights.items()}
    pairs: dict[str, tuple[str, str]] = {}
    with tempfile.TemporaryDirectory(prefix="ckptkit-fill-") as scratch:
        # first as `ls` names the model's variables, then those that no path leads to
        for number, known in enumerate(({}, weights)):
            hidden = {name: v for name, v in known.items() if name not in pairs}
            if number and not hidden:
                break
            structure = str(Path(scratch) / f"structure-{number}")
            write_structure(structure, hidden)
            holder = open_checkpoint(structure)
            live = {**paths, **{f"{HOLDER}/{name}": v for name, v in hidden.items()}}
            taken = {key for key, _ in pairs.values()}
            for match in align(_side(file, taken), _side(holder), content=False).pairs:
                name = names.get(id(_variable(holder, match.new, live)))
                if name is None or name in pairs:
                    continue
                pairs[name] = (match.old, match.evidence)
                value = value_for(file, match.old, holder.specs[match.new])
                if value is not None:
                    weights[name].assign(value)
    return pairs


def value_for(file: Checkpoint, key: str, wanted: HasShape) -> Array | None:
    """Return the values of a tensor of the file for a variable; None where they do not fit it.

    wanted: has its shape and dtype.  The same integers in fewer bits fit: JAX has no 64 bits unless
    it is told to.
    """
    spec, dtype = file.specs[key], str(wanted.dtype)
    if spec.shape != tuple(wanted.shape):
        return None
    if spec.dtype == dtype:
        return file[file.names[key].name]
    if not {"int", "uint"} >= {kind(spec.dtype), kind(dtype)}:
        return None
    values = file[file.names[key].name]
    narrow = values.astype(numpy_dtype(dtype))
    return narrow if (narrow == values).all() else None


def _variable(holder: Checkpoint, key: str, known: Mapping[str, Any]) -> Any:
    """Return the live variable behind a key of the structure, None where it is no weight."""
    naming = holder.names[key]
    for path in (naming.name, *naming.aliases):
        if path in known:
            return known[path]
    return None


def _side(checkpoint: Checkpoint, without: Collection[str] = ()) -> TensorSet:
    keys = [
        key
        for key, spec in checkpoint.specs.items()
        if kind(spec.dtype) != "opaque" and key not in without
    ]
    return TensorSet(
        {key: checkpoint.specs[key] for key in keys},
        {key: checkpoint.names[key] for key in keys},
        structure=checkpoint.structure,
    )
