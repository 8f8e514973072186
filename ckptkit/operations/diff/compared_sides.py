"""What a comparison by value takes: both sides, as they are aligned and read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from ckptkit.align.matching import TensorSet
from ckptkit.align.transforms import Shape, Transform

if TYPE_CHECKING:
    from ckptkit.stores.base import Store
    from ckptkit.stores.constants import Quantisation

SHORT_FLOATS = ("float16", "bfloat16")  # which a graph keeps, and computes with as float32


class Numbers(NamedTuple):
    """The integers that a tensor is stored as, and what they stand for.

    dtype, shape: of the integers.  transform: from the tensor as it is stored to the one compared.
    """

    dtype: str
    shape: Shape
    quantisation: Quantisation
    transform: Transform


NumbersOfSides = tuple[Mapping[str, Numbers], Mapping[str, Numbers]]


class ComparedSides(NamedTuple):
    """What is aligned and compared: tensors, where their values come from, and what to say.

    numbers: of either side, the tensors that are quantised, and compared as numbers.
    """

    sides: tuple[TensorSet, TensorSet]
    stores: tuple[Store, Store]
    warnings: tuple[str, ...] = ()
    numbers: NumbersOfSides = ({}, {})
