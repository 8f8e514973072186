"""The same values with their axes in another order: what converters do to images.

TensorFlow keeps channels last; ONNX and PyTorch keep them first, and an axis of one element may be
there or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ckptkit.dtypes import Array


class Layout(NamedTuple):
    """How one array becomes another: its axes are put in this order, then it gets this shape."""

    axes: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def is_plain(self) -> bool:
        """Whether the axes stay in their order."""
        return self.axes == tuple(range(len(self.axes)))

    def of(self, array: Array) -> Array:
        """Return the array in this layout."""
        return array.transpose(self.axes).reshape(self.shape)


def layouts(old: Sequence[int], new: Sequence[int]) -> list[Layout]:
    """Return the layouts in which an array of shape `old` has shape `new`, the plain one first.

    Beside axes as they are, channels may be first (`[n, h, w, c]` as `[n, c, h, w]`) or last where
    they were first.  Axes of one element do not count.
    """
    rank, first = len(old), list(range(len(old)))
    orders = [tuple(first)]
    if rank > 2:
        orders += [(0, rank - 1, *first[1:-1]), (0, *first[2:], 1)]
    found: dict[tuple[int, ...], Layout] = {}
    for axes in orders:
        if _long(old[axis] for axis in axes) == _long(new):
            found.setdefault(axes, Layout(axes, tuple(new)))
    return list(found.values())


def _long(shape: Any) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)
