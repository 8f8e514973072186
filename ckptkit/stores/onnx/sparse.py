"""Sparse tensors of ONNX: values, where they belong, and the shape of the whole.

Indices are [values], of elements in row-major order, or [values, axes].  Without values there may
be none.  Source: onnx/onnx.proto (SparseTensorProto), onnx/checker.cc (`check_sparse_tensor`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ckptkit.errors import FormatError

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

_MOST = (1 << 63) - 1


def check_parts(
    values: tuple[int, ...] | None,
    indices: tuple[int, ...] | None,
    shape: tuple[int, ...],
    where: str,
) -> None:
    """Raise FormatError where the parts of a sparse tensor are not of one.

    Args:
        values: their shape; None where there are none.
        indices: their shape, as well.
        shape: of the whole.
        where: the tensor, for messages.
    """
    if values is None or len(values) != 1:
        raise FormatError(where, "a sparse tensor without values in a row")
    if not shape or any(not 0 < size <= _MOST for size in shape):
        raise FormatError(where, f"a sparse tensor of the shape {list(shape)[:8]}")
    forms = [values, (*values, len(shape))]
    if (indices is None and values[0]) or (indices is not None and indices not in forms):
        raise FormatError(
            where,
            "the shape of its indices",
            expected=f"{list(forms[0])} or {list(forms[1])}",
            found="none" if indices is None else list(indices),
        )


def check_indices(
    start: int, values: Array, indices: tuple[int, ...], shape: tuple[int, ...], where: str
) -> None:
    """Raise FormatError where one of the indices is outside of the tensor.

    Args:
        start: of the first of them in all, in row-major order.
        values: 1-D.
        indices: the shape of all.
        shape: of the tensor.
        where: it, for messages.
    """
    import numpy as np

    limits = [math.prod(shape)] if len(indices) == 1 else shape
    most = np.array([min(limit, _MOST) for limit in limits])
    allowed = most[np.arange(start, start + len(values)) % len(most)]
    outside = np.flatnonzero((values < 0) | (values >= allowed))
    if len(outside):
        at = int(outside[0])
        raise FormatError(
            where,
            f"index {start + at} of a sparse tensor",
            expected=f"0 to {int(allowed[at]) - 1}",
            found=int(values[at]),
        )
