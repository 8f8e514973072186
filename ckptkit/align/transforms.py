"""Moving the elements of a tensor: other axes, another shape, blocks in another order, cut, joined.

A transform is a chain of steps, written `STEP | STEP | ...`:

    transpose            axes reversed; `transpose 3,2,0,1` gives them, as numpy.transpose does
    reshape 4,-1         the same elements in row-major order; one size may be -1
    blocks ifco=icfo     the axis cut into as many equal blocks as there are letters, put into the
                         order on the right; of axis 0, or `blocks ifco=icfo on 1`
    part 1/2             the first of two equal parts of axis 0, or `part 1/2 on 1`
    into 1/2             becomes the first of two equal parts of a tensor, on axis 0 or `on AXIS`
    add 1/2              becomes the first of two terms, whose sum the tensor is

No step but `add` changes, drops or repeats an element, so each other has an inverse.  `part` can
only be the first step, and `into` or `add` the last: they say how one tensor becomes several, or
several one.  One more step, `sum of 2 parts`, has no inverse either, and is none that rules know:
it belongs to a layout that is told by itself (`ckptkit.align.cudnn_layouts`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ckptkit.errors import UsageError

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

Shape = tuple[int, ...]
_STEPS = "transpose, reshape, blocks, part, into or add"


class Transpose(NamedTuple):
    """axes: for each axis of the result, that of the tensor; empty for all of them reversed."""

    axes: Shape = ()

    def __str__(self) -> str:
        return f"transpose {_numbers(self.axes)}" if self.axes else "transpose"

    def _order(self, rank: int) -> Shape:
        order = self.axes or tuple(range(rank))[::-1]
        if sorted(order) != list(range(rank)):
            raise UsageError(f"`{self}` does not fit {rank} axes")
        return order

    def shape(self, shape: Shape) -> Shape:
        return tuple(shape[axis] for axis in self._order(len(shape)))

    def apply(self, array: Array) -> Array:
        return array.transpose(self._order(array.ndim))

    def inverse(self, shape: Shape) -> Step:
        if not self.axes:
            return self
        order = self._order(len(shape))
        return Transpose(tuple(order.index(axis) for axis in range(len(order))))


class Reshape(NamedTuple):
    """sizes: of the axes; one may be -1, and follows from the others."""

    sizes: Shape

    def __str__(self) -> str:
        return f"reshape {_numbers(self.sizes)}"

    def shape(self, shape: Shape) -> Shape:
        total = math.prod(shape)
        known = math.prod(size for size in self.sizes if size != -1)
        sizes = self.sizes
        if -1 in sizes and known:
            sizes = tuple(total // known if size == -1 else size for size in sizes)
        if -1 in sizes or math.prod(sizes) != total:
            raise UsageError(f"`{self}` does not hold {total} elements")
        return sizes

    def apply(self, array: Array) -> Array:
        return array.reshape(self.shape(array.shape))

    def inverse(self, shape: Shape) -> Step:
        return Reshape(shape)


class ReorderBlocks(NamedTuple):
    """Blocks of one axis, each called by a letter, in the order `old` and wanted as `new`."""

    old: str
    new: str
    axis: int = 0

    def __str__(self) -> str:
        return f"blocks {self.old}={self.new}{_on(self.axis)}"

    def shape(self, shape: Shape) -> Shape:
        _block_size(self, shape, self.axis, len(self.old))
        return shape

    def apply(self, array: Array) -> Array:
        import numpy as np

        size = _block_size(self, array.shape, self.axis, len(self.old))
        starts = [self.old.index(letter) * size for letter in self.new]
        blocks = [_cut(array, self.axis, start, start + size) for start in starts]
        return np.concatenate(blocks, axis=self.axis)

    def inverse(self, shape: Shape) -> Step:
        return ReorderBlocks(self.new, self.old, self.axis)


class TakePart(NamedTuple):
    """Equal part `number` (from 1) of `of` along an axis."""

    number: int
    of: int
    axis: int = 0

    def __str__(self) -> str:
        return f"part {self.number}/{self.of}{_on(self.axis)}"

    def shape(self, shape: Shape) -> Shape:
        size = _block_size(self, shape, self.axis, self.of)
        return *shape[: self.axis], size, *shape[self.axis + 1 :]

    def apply(self, array: Array) -> Array:
        size = _block_size(self, array.shape, self.axis, self.of)
        return _cut(array, self.axis, (self.number - 1) * size, self.number * size)

    def inverse(self, shape: Shape) -> Step:
        return JoinInto(*self)


class JoinInto(NamedTuple):
    """The tensor becomes equal part `number` (from 1) of `of` of another, along an axis."""

    number: int
    of: int
    axis: int = 0

    def __str__(self) -> str:
        return f"into {self.number}/{self.of}{_on(self.axis)}"

    def shape(self, shape: Shape) -> Shape:
        """Return the shape of the whole."""
        _block_size(self, shape, self.axis, 1)
        return *shape[: self.axis], shape[self.axis] * self.of, *shape[self.axis + 1 :]

    def apply(self, array: Array) -> Array:
        return array  # who has the other parts joins them

    def inverse(self, shape: Shape) -> Step:
        return TakePart(*self)


class AddInto(NamedTuple):
    """The tensor is term `number` (from 1) of the `of` terms of a sum: two biases become one."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"add {self.number}/{self.of}"

    def shape(self, shape: Shape) -> Shape:
        return shape

    def apply(self, array: Array) -> Array:
        return array  # who has the other terms adds them

    def inverse(self, shape: Shape) -> Step:
        raise UsageError(f"`{self}`: the terms cannot be told from their sum, so no map leads back")


class SumOfParts(NamedTuple):
    """The `of` equal parts of axis 0, added up."""

    of: int

    def __str__(self) -> str:
        return f"sum of {self.of} parts"

    def shape(self, shape: Shape) -> Shape:
        return _block_size(self, shape, 0, self.of), *shape[1:]

    def apply(self, array: Array) -> Array:
        import numpy as np

        size = _block_size(self, array.shape, 0, self.of)
        parts = [array[at * size :][:size] for at in range(self.of)]
        total: Array = np.sum(parts, axis=0, dtype=array.dtype)
        return total

    def inverse(self, shape: Shape) -> Step:
        raise UsageError(f"`{self}`: the parts cannot be told from their sum, so no map leads back")


Step = Transpose | Reshape | ReorderBlocks | TakePart | JoinInto | AddInto | SumOfParts


class Transform(NamedTuple):
    """A chain of steps; true when there is one."""

    steps: tuple[Step, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.steps)

    def __str__(self) -> str:
        return " | ".join(map(str, self.steps))

    @property
    def part(self) -> TakePart | None:
        """The first step, where it takes a part."""
        first = self.steps[0] if self.steps else None
        return first if isinstance(first, TakePart) else None

    @property
    def into(self) -> JoinInto | None:
        """The last step, where the tensor becomes a part of another."""
        last = self.steps[-1] if self.steps else None
        return last if isinstance(last, JoinInto) else None

    @property
    def term(self) -> AddInto | None:
        """The last step, where the tensor becomes a term of a sum."""
        last = self.steps[-1] if self.steps else None
        return last if isinstance(last, AddInto) else None

    @property
    def without_into(self) -> Transform:
        """The steps that are done to the tensor itself."""
        return Transform(self.steps[:-1]) if self.into is not None else self

    @property
    def without_part(self) -> Transform:
        """The steps that are done to the part."""
        return Transform(self.steps[1:]) if self.part is not None else self

    @property
    def keeps_order(self) -> bool:
        """Whether the elements stay in their row-major order."""
        return all(isinstance(step, (Reshape, JoinInto)) for step in self.steps)

    @property
    def is_invertible(self) -> bool:
        """Whether the tensor can be had back from the result."""
        return not any(isinstance(step, (SumOfParts, AddInto)) for step in self.steps)

    def shape(self, shape: Shape) -> Shape:
        """Return the shape of the result; raises UsageError where a step does not fit."""
        for step in self.steps:
            shape = step.shape(shape)
        return shape

    def apply(self, array: Array) -> Array:
        """Return the result, a view where numpy can make one."""
        for step in self.steps:
            array = step.apply(array)
        return array

    def inverse(self, shape: Shape) -> Transform:
        """Return the transform that undoes this one, which was applied to a tensor of `shape`.

        Raises UsageError where nothing undoes it.
        """
        steps: list[Step] = []
        for step in self.steps:
            steps.append(step.inverse(shape))
            shape = step.shape(shape)
        return Transform(tuple(reversed(steps)))


def parse_transform(texts: Sequence[str]) -> Transform:
    """Return the transform of some steps.

    Args:
        texts: one step each, such as "transpose 1,0" or "part 1/2".

    Raises:
        UsageError: a step is none, or stands where it cannot.
    """
    steps = tuple(_parse_step(text.strip()) for text in texts)
    for at, step in enumerate(steps):
        if isinstance(step, TakePart) and at > 0:
            raise UsageError(f"`{step}` can only be the first step")
        if isinstance(step, (JoinInto, AddInto)) and at + 1 < len(steps):
            raise UsageError(f"`{step}` can only be the last step")
    return Transform(steps)


_PARSERS = (
    (r"transpose(?: (?P<axes>\d+(?:, ?\d+)*))?", lambda m: Transpose(_ints(m["axes"] or ""))),
    (r"reshape (?P<sizes>(?:\d+|-1)(?:, ?(?:\d+|-1))*)", lambda m: Reshape(_ints(m["sizes"]))),
    (
        r"blocks (?P<old>\w+)=(?P<new>\w+)(?: on (?P<axis>\d+))?",
        lambda m: ReorderBlocks(m["old"], m["new"], int(m["axis"] or 0)),
    ),
    (
        r"part (?P<number>\d+)/(?P<of>\d+)(?: on (?P<axis>\d+))?",
        lambda m: TakePart(int(m["number"]), int(m["of"]), int(m["axis"] or 0)),
    ),
    (
        r"into (?P<number>\d+)/(?P<of>\d+)(?: on (?P<axis>\d+))?",
        lambda m: JoinInto(int(m["number"]), int(m["of"]), int(m["axis"] or 0)),
    ),
    (
        r"add (?P<number>\d+)/(?P<of>\d+)",
        lambda m: AddInto(int(m["number"]), int(m["of"])),
    ),
)


def _parse_step(text: str) -> Step:
    for pattern, make in _PARSERS:
        match = re.fullmatch(pattern, text)
        if match is not None:
            step: Step = make(match)
            _check_step(step)
            return step
    raise UsageError(f"{text!r} is no transform", hint=f"steps are {_STEPS}, such as `transpose`")


def _check_step(step: Step) -> None:
    """Raise UsageError for a step that fits no tensor."""
    if isinstance(step, Transpose) and sorted(step.axes) != list(range(len(step.axes))):
        raise UsageError(f"`{step}` does not name each axis once")
    if isinstance(step, Reshape) and step.sizes.count(-1) > 1:
        raise UsageError(f"`{step}`: only one size can follow from the others")
    if isinstance(step, ReorderBlocks) and (
        sorted(step.old) != sorted(step.new) or len(set(step.old)) < len(step.old)
    ):
        raise UsageError(f"`{step}` does not name the same blocks, each once, on both sides")
    if isinstance(step, (TakePart, JoinInto, AddInto)) and not 1 <= step.number <= step.of:
        raise UsageError(f"`{step}`: parts are numbered from 1 to {step.of}")


def _ints(text: str) -> Shape:
    return tuple(int(number) for number in text.split(",")) if text else ()


def _numbers(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


def _on(axis: int) -> str:
    return f" on {axis}" if axis else ""


def _block_size(step: Step, shape: Shape, axis: int, count: int) -> int:
    """Return the size of one of `count` equal blocks of an axis; raises UsageError."""
    if axis >= len(shape):
        raise UsageError(f"`{step}` needs an axis {axis}, and there are {len(shape)}")
    if shape[axis] % count:
        raise UsageError(f"`{step}`: axis {axis} of {shape[axis]} is not {count} equal blocks")
    return shape[axis] // count


def _cut(array: Array, axis: int, start: int, stop: int) -> Array:
    cut: Array = array[(slice(None),) * axis + (slice(start, stop),)]
    return cut
