"""What a layer's bias took over of what was added to the layer's input, proven by values.

Its bias plus the product of its kernel and what is added to its input: by a normalisation, by the
bias of the layer before, or by both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ckptkit.operations.diff.deployed import MAX_TRIED
from ckptkit.operations.diff.rows import EXACT, IN_SHIFT, DeployedRows, Fold
from ckptkit.text import list_text

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

_MAX_TRIALS = 256  # of addends with biases, for each kernel: of so many, chance may find one


class _Addend(NamedTuple):
    """What is added to the input of a layer, each channel's of it.

    name: of what adds it.  sizes: of the numbers that it is the sum of, which float32 rounds.
    """

    name: str
    rows: tuple[int, ...]
    values: Array
    sizes: Array


class _TakenOver(NamedTuple):
    """A bias to which was added what a kernel makes of an addend.  Both are given by their rows."""

    kernel: int
    bias: int
    addend: _Addend


def tell_added(rows: DeployedRows, folds: Mapping[int, Fold]) -> None:
    """Tell of biases to which was added what a kernel makes of an addend to its input.

    Where two claims have a kernel or a bias in common, neither is told; an addend may go into
    several layers.

    Args:
        rows: of the comparison.
        folds: of normalisations into kernels, by the rows of these.
    """
    claims = [
        claim
        for row, change in enumerate(rows.found)
        if change.delta is not None and len(change.some.spec.shape) > 1
        for claim in _claims(rows, row, folds.get(row))
    ]
    counts = Counter(row for claim in claims for row in (claim.kernel, claim.bias))
    taken: dict[int, list[str]] = {}
    for claim in claims:
        if counts[claim.kernel] == counts[claim.bias] == 1:
            kernel, bias = rows.found[claim.kernel].name, rows.found[claim.bias].name
            rows.tell(claim.bias, f"{claim.addend.name} is folded into it, times {kernel}")
            for row in claim.addend.rows:
                taken.setdefault(row, []).append(bias)
    for row, biases in taken.items():
        rows.tell(row, f"folded into {list_text(biases)}")


def _claims(rows: DeployedRows, row: int, fold: Fold | None) -> Iterator[_TakenOver]:
    """Yield what proves true of a kernel, into which a normalisation may be folded."""
    import numpy as np

    spec = rows.found[row].some.spec
    *_, channels, outputs = spec.shape
    before = [
        at
        for at in rows.alone_rows(rows.model, channels)
        if len(rows.found[at].some.spec.shape) == 1
    ]
    changed = [
        at
        for at in rows.beside(rows.found[row].name, outputs)
        if rows.found[at].status == "changed"
    ]
    added = rows.alone_rows(rows.deployed, outputs)
    trials = (len(before) + (fold is not None)) * (len(changed) + len(added))
    is_large = max(spec.size, trials * max(channels, outputs)) > MAX_TRIED
    if not trials or trials > _MAX_TRIALS or is_large:
        return
    targets = [(at, *rows.pair(rows.found[at])) for at in changed]
    targets += [(at, np.zeros(outputs), rows.vector(at)) for at in added]
    kernel = rows.own(row).reshape(-1, channels, outputs)
    weights, sizes = kernel.sum(axis=0), np.abs(kernel).sum(axis=0)
    for addend in _addends(rows, before, channels, fold):
        product = addend.values @ weights
        rounding = EXACT * (addend.sizes @ sizes)
        for at, own, folded in targets:
            allowed = EXACT * np.abs(own) + rounding + rows.rounding(rows.found[at], folded)
            # A product that rounding hides proves nothing.
            is_seen = (np.abs(product) > allowed).any()
            if is_seen and (np.abs(folded - (own + product)) <= allowed).all():
                yield _TakenOver(row, at, addend)


def _addends(
    rows: DeployedRows, before: Sequence[int], channels: int, fold: Fold | None
) -> Iterator[_Addend]:
    """Yield what may have been added to a layer's input of so many channels.

    before: the rows of what may be biases of the layer before.
    """
    import numpy as np

    biases = [(row, rows.vector(row)) for row in before if rows.vector(row).any()]
    if fold is None:
        for row, values in biases:
            yield _Addend(rows.found[row].name, (row,), values, np.abs(values))
        return
    norm = fold.norm
    own = tuple(norm.rows[part] for part in IN_SHIFT if part in norm.rows)
    if norm.variance.size != channels or any(rows.found[row].hints for row in own):
        return
    factor = norm.factor(fold.epsilon)
    sizes = np.abs(norm.beta) + np.abs(norm.mean * factor)
    yield _Addend(norm.name, own, norm.shift(fold.epsilon), sizes)
    for row, bias in biases:
        if row not in own:
            name = f"{norm.name} with {rows.found[row].name}"
            shift = norm.shift(fold.epsilon, bias)
            yield _Addend(name, (*own, row), shift, sizes + np.abs(bias * factor))
