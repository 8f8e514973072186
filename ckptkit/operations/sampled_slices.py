"""Pictures of a tensor: values of its last two axes, some slices of it, thinned to a few rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from ckptkit.dtypes import kind
from ckptkit.operations.show import (
    Index,
    TensorSummary,
    corner,
    parse_slice,
    read_slice,
    slice_text,
    valued_checkpoint,
)
from ckptkit.text import json_number

POINTS = 48  # rows and columns of one picture at most
MOST = 6  # slices
_MOST_WALKED = 1 << 22  # elements of a tensor that can only be read from its beginning, each time


class SampledSlice(NamedTuple):
    """Values of two axes.

    title: which slice, as numpy writes it.  rows, columns: the indices that were read; rows is None
    where the tensor has one axis.  values: a list of rows.  step: how far the indices are apart.
    """

    title: str
    rows: tuple[int, ...] | None
    columns: tuple[int, ...]
    values: list[list[Any]]
    step: tuple[int, int]


def sampled_slices(summary: TensorSummary) -> list[SampledSlice]:
    """Return pictures of the slice that was asked for, or of the whole tensor.

    Args:
        summary: of a tensor of any shape.

    Returns:
        Slices spread over all axes but the last two; none of strings, of complex numbers, of an
        empty tensor or of one value alone.

    Raises:
        FormatError, TruncatedError, ChangedError: as the store raises them, which is read again.
    """
    spec = summary.spec
    if kind(spec.dtype) not in ("float", "int", "uint", "bool") or not spec.size > 1:
        return []
    asked = summary.slice_text != slice_text(corner(spec.shape), spec.shape)
    indices: list[Index] = [slice(None)] * len(spec.shape)
    if asked:
        indices = parse_slice(summary.slice_text, spec.shape) if summary.slice_text else indices
    axes = [_axis(size, index) for size, index in zip(spec.shape, indices, strict=True)]
    if not all(axes):
        return []
    walked = spec.offset is None and spec.size > _MOST_WALKED
    shown = [at for at, index in enumerate(indices) if not isinstance(index, int)][-2:]
    if not shown:
        return []
    others = [axes[at] if at not in shown else [0] for at in range(len(axes))]
    return [
        _picture(summary, fixed, axes, shown) for fixed in _spread(others, 1 if walked else MOST)
    ]


def _axis(size: int, index: Index) -> range:
    return range(size)[index : index + 1 or None] if isinstance(index, int) else range(size)[index]


def _spread(axes: Sequence[Sequence[int]], most: int) -> list[tuple[int, ...]]:
    """Return some of the combinations of indices, evenly spread over all of them."""
    count = math.prod(map(len, axes))
    wanted = sorted({at * count // most for at in range(most)} if count > most else range(count))
    if count <= 1 << 16:
        every = list(itertools.product(*axes))
        return [every[at] for at in wanted]
    found = []
    for place in wanted:
        chosen: list[int] = []
        for axis in reversed(axes):
            place, at = divmod(place, len(axis))
            chosen.append(axis[at])
        found.append(tuple(reversed(chosen)))
    return found


def _picture(
    summary: TensorSummary, fixed: Sequence[int], axes: Sequence[range], shown: Sequence[int]
) -> SampledSlice:
    steps = {at: -(-len(axes[at]) // POINTS) for at in shown}
    taken = {at: axes[at][:: steps[at]] for at in shown}
    indices: list[Index] = [
        slice(taken[at].start, taken[at].stop, taken[at].step) if at in taken else index
        for at, index in enumerate(fixed)
    ]
    key = summary.spec.key
    valued = valued_checkpoint(summary.checkpoint, key, summary.quantisation)
    values = read_slice(valued, key, indices).astype("f8")
    table = values.reshape(-1, len(taken[shown[-1]])).tolist()
    title = ",".join(":" if at in taken else str(index) for at, index in enumerate(fixed))
    return SampledSlice(
        f"[{title}]",
        tuple(taken[shown[0]]) if len(shown) > 1 else None,
        tuple(taken[shown[-1]]),
        [[json_number(float(f"{value:.4g}")) for value in row] for row in table],
        (steps[shown[0]], steps[shown[-1]]),
    )
