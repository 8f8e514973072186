"""Crafted checkpoints of the V1 format: what TensorFlow would never write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ckptkit.stores.proto.messages import message_class
from ckptkit.stores.tensor_bundle.slices import slice_key
from ckptkit.stores.tensor_bundle.table_writer import TableWriter


def write_v1(path: Path, tensors: Mapping[str, tuple[Sequence[int], npt.ArrayLike]]) -> Path:
    """Write float32 tensors, {name: (shape, values)}, whether they fit each other or not."""
    head = message_class("SavedTensorSlices")()
    items = {}
    for name, (shape, values) in tensors.items():
        tensor = head.meta.tensor.add(name=name, type=1)
        for size in shape:
            tensor.shape.dim.add(size=size)
        part = tensor.slice.add()
        for _size in shape:
            part.extent.add()
        body = message_class("SavedTensorSlices")()
        body.data.name = name
        body.data.slice.CopyFrom(part)
        body.data.data.float_val.extend(np.ravel(values))
        items[slice_key(name.encode(), [(0, -1)] * len(shape))] = body.SerializeToString()
    with path.open("wb") as sink:
        table = TableWriter(sink)
        table.add(b"", head.SerializeToString())
        for key in sorted(items):
            table.add(key, items[key])
        table.finish()
    return path
