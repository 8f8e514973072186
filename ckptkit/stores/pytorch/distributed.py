"""Tensors that several processes share: a file of `torch.save` has this process's part of them.

A DTensor is rebuilt of `_local_tensor` and `_spec` (a mesh of processes; one placement for each
axis of it), a ShardedTensor of a list of shards, each with its offsets.  A part is called by the
elements that it is, `weight[0:512]`, so that it is nowhere taken for the whole.
Source: torch/distributed/tensor/_api.py, torch/distributed/_shard/sharded_tensor/api.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ckptkit.stores.pytorch.pickle_machine import PickledCall
from ckptkit.stores.pytorch.pickled_kinds import OF_SUBCLASSES, name_of

_Range = tuple[int, int]


class ProcessPart(NamedTuple):
    """What one process holds of a tensor.

    tensor: the call that makes it.  suffix: of its name, "" where it is the whole tensor.
    whole: the shape of all parts together.
    """

    tensor: PickledCall
    suffix: str
    whole: tuple[int, ...]


def process_parts(call: PickledCall) -> list[ProcessPart]:
    """Return the parts of a tensor that processes share; [] of what is no such tensor.

    Args:
        call: of a pickle.
    """
    if name_of(call.function) not in OF_SUBCLASSES or len(call.args) < 4:
        return []
    _, _, made_of, state = call.args[:4]
    whole = _shape(made_of[2]) if isinstance(made_of, tuple) and len(made_of) > 2 else None
    if whole is None:
        return []
    if isinstance(state, tuple) and state and isinstance(state[0], list):
        return list(_shards(state[0], whole))
    inner = _of_state(state)
    tensor = inner.get("_local_tensor")
    if not isinstance(tensor, PickledCall) or "_spec" not in inner:
        return []
    return [ProcessPart(tensor, _suffix(_fields(inner["_spec"]), _local(tensor), whole), whole)]


def _shards(shards: Sequence[Any], whole: tuple[int, ...]) -> Iterator[ProcessPart]:
    """Yield the shards of a ShardedTensor that are in this file."""
    for shard in shards:
        inner = _fields(shard)
        place = _fields(inner.get("metadata"))
        offsets, sizes = (_shape(place.get(name)) for name in ("shard_offsets", "shard_sizes"))
        if isinstance(inner.get("tensor"), PickledCall):
            ranges = None
            if offsets is not None and sizes is not None and len(offsets) == len(sizes):
                ranges = [(start, start + n) for start, n in zip(offsets, sizes, strict=True)]
            yield ProcessPart(inner["tensor"], _bracket(ranges, whole), whole)


def _suffix(spec: dict[str, Any], local: tuple[int, ...] | None, whole: tuple[int, ...]) -> str:
    """Return what is added to the name of a DTensor's part.  local: the part's shape."""
    placements = spec.get("placements")
    kinds = [
        name_of(each.function) if isinstance(each, PickledCall) else ""
        for each in (placements if isinstance(placements, (tuple, list)) else (None,))
    ]
    if any("Partial" in kind for kind in kinds):
        return "[to be reduced]"
    if local == whole and all(kind == "Replicate" or "Shard" in kind for kind in kinds):
        return ""
    ranges = [(0, n) for n in whole]
    mesh = _fields(spec.get("mesh"))
    places, counts = mesh.get("_coordinate_on_dim"), _mesh_shape(mesh)
    axes = [_fields(each).get("dim") for each in placements or ()]
    for kind, axis, place, count in zip(kinds, axes, places or (), counts or (), strict=False):
        if kind != "Shard" or not isinstance(axis, int) or axes.count(axis) > 1:
            continue
        if 0 <= axis < len(whole) and isinstance(place, int) and count > 0:
            step = -(-whole[axis] // count)  # as torch.chunk
            start = min(whole[axis], place * step)
            ranges[axis] = start, min(whole[axis], start + step)
    is_told = local == tuple(stop - start for start, stop in ranges)
    return _bracket(ranges if is_told else None, whole)


def _bracket(ranges: Sequence[_Range] | None, whole: tuple[int, ...]) -> str:
    """Return a part as Python writes a slice: "[0:3]", "[:, 4:8]"; "" of the whole."""
    if ranges is None or len(ranges) != len(whole):
        return f"[part of {','.join(map(str, whole))}]"
    cut = [axis for axis, (span, n) in enumerate(zip(ranges, whole, strict=True)) if span != (0, n)]
    if not cut:
        return ""
    texts = [f"{start}:{stop}" if at in cut else ":" for at, (start, stop) in enumerate(ranges)]
    return f"[{','.join(texts[: cut[-1] + 1])}]"


def _mesh_shape(mesh: dict[str, Any]) -> list[int] | None:
    """Return how many processes a mesh has along each of its axes: by its layout, or its tensor."""
    axes = _fields(mesh.get("_layout")).get("axes")
    if isinstance(axes, tuple):
        shapes = [_shape(_fields(axis).get("shape")) for axis in axes]
        return [0 if shape is None else math.prod(shape) for shape in shapes]
    shape = _local(mesh.get("mesh"))
    return None if shape is None else list(shape)


def _local(tensor: Any) -> tuple[int, ...] | None:
    """Return the shape of a plain tensor: `_rebuild_tensor_v2(storage, offset, shape, ...)`."""
    if isinstance(tensor, PickledCall) and len(tensor.args) > 2:
        return _shape(tensor.args[2])
    return None


def _shape(value: Any) -> tuple[int, ...] | None:
    """Return a shape or offsets, as a tuple, a list or torch.Size; None of anything else."""
    if isinstance(value, PickledCall) and len(value.args) == 1:
        value = value.args[0]
    if isinstance(value, (tuple, list)) and all(type(n) is int and n >= 0 for n in value):
        return tuple(value)
    return None


def _fields(value: Any) -> dict[str, Any]:
    """Return the attributes of an object."""
    return _of_state(value.state) if isinstance(value, PickledCall) else {}


def _of_state(state: Any) -> dict[str, Any]:
    """Return the attributes in what BUILD gives an object: a dict, or two of which one may lack."""
    parts = state if isinstance(state, tuple) else (state,)
    return {k: v for part in parts if isinstance(part, dict) for k, v in part.items()}
