"""A sample of the tensors of a file: what to read of one that is too large to be read."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import NamedTuple

from ckptkit.errors import UsageError
from ckptkit.text import count_text
from ckptkit.wording import say


class TensorSample(NamedTuple):
    """How many tensors of each file are read, and by which seed they are drawn."""

    tensors: int
    seed: int = 0

    def keys(self, keys: Iterable[str]) -> frozenset[str] | None:
        """Return the keys that are drawn, whatever their order; None where they are all of them."""
        ordered = sorted(keys)
        if len(ordered) <= self.tensors:
            return None
        return frozenset(random.Random(self.seed).sample(ordered, self.tensors))

    def left_out(self, total: int) -> str:
        """Return what is said of the tensors that were not drawn, of so many in all."""
        rest = count_text(total - self.tensors, "tensor")
        return say(f"the values of {rest} of {total}: a sample was read (‹seed› {self.seed})")


def checked_sample(sample: int | None, seed: int, *, reads_all: bool) -> TensorSample | None:
    """Return the sample that is asked for; reads_all: whether something else reads everything.

    Raises UsageError.
    """
    if sample is None:
        if seed:
            raise UsageError(say("‹seed› goes with ‹sample›"))
        return None
    if sample < 1:
        raise UsageError(say(f"‹sample› {sample}: at least one tensor is read"))
    if reads_all:
        raise UsageError(
            say("‹sample› excludes ‹values›, ‹manifest› and ‹new_manifest›, which read everything")
        )
    return TensorSample(sample, seed)
