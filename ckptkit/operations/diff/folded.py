"""What a converter made of a model's parameters, so that they are no constants, proven by values.

Of a batch normalisation it leaves two numbers for each channel.  At inference
y = gamma * (x - mean) / sqrt(variance + epsilon) + beta is linear in each channel, so that a
convolution takes it over: its kernel times the factor gamma / sqrt(variance + epsilon), its bias
minus the mean, times the factor, plus beta.  What no convolution takes is multiplied by the factor,
and beta - mean * factor is added.  No epsilon is in a file of weights: it is the one that every
channel agrees on.

A layer may take over what lies before it as well: its kernel times the factors of its input, its
bias plus the product of its kernel and what is added to its input, by a normalisation, by the bias
of the layer before, or by both.  And a constant may be the negative of a parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from ckptkit.operations.diff.compared_sides import Numbers, NumbersOfSides
from ckptkit.operations.diff.deployed import HALF_STEP, MAX_TRIED, steps_of
from ckptkit.operations.diff.result import TensorDiff
from ckptkit.operations.statistics import is_numeric
from ckptkit.stores.base import Store
from ckptkit.stores.constants import StoreOfConstants

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

_PARTS = {
    "gamma": "gamma",
    "beta": "beta",
    "moving_mean": "mean",
    "moving_variance": "variance",
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "mean",
    "running_var": "variance",
}
_IN_FACTOR, _IN_SHIFT = ("gamma", "variance"), ("beta", "mean")
_EXACT = 1e-5  # of the largest value of a channel: float32 products in another order
_LARGEST_EPSILON = 0.1
_USUAL_EPSILONS = (1e-3, 1e-5)  # of Keras and of PyTorch
_AGREED = 0.02  # of the factor, between channels that were rounded to a few bits
_RESOLVED = 0.25  # of the factor: a channel that rounding may shift by more tells nothing

Stores = tuple[Store, Store]
_ByChannel = Callable[["Array"], "Array"]


class _Norm(NamedTuple):
    """A batch normalisation of one side, which the other lacks.  rows: places of its tensors."""

    name: str
    rows: Mapping[str, int]
    gamma: Array
    beta: Array
    mean: Array
    variance: Array

    def factor(self, epsilon: float) -> Array:
        import numpy as np

        factor: Array = self.gamma / np.sqrt(self.variance + epsilon)
        return factor

    def shift(self, epsilon: float, bias: Array | float = 0.0) -> Array:
        shift: Array = self.beta + (bias - self.mean) * self.factor(epsilon)
        return shift


class _Fold(NamedTuple):
    norm: _Norm
    epsilon: float
    is_rounded: bool


class _Addend(NamedTuple):
    """What is added to the input of a layer, each channel's of it.

    name: of what adds it.  sizes: of the numbers that it is the sum of, which float32 rounds.
    """

    name: str
    rows: tuple[int, ...]
    values: Array
    sizes: Array


def with_folded(
    changes: Sequence[TensorDiff], files: Stores, stores: Stores, numbers: NumbersOfSides
) -> list[TensorDiff]:
    """Return the changes, with a hint where a normalisation was folded into a kernel or a bias.

    Args:
        changes: all of a comparison by value.
        files: of OLD and NEW.
        stores: the same, as they are compared.
        numbers: of the tensors of either that are quantised.
    """
    found = list(changes)
    for deployed, model in ((1, 0), (0, 1)):
        kinds = [isinstance(files[at], StoreOfConstants) for at in (deployed, model)]
        if kinds == [True, False]:
            _Folding(found, stores, numbers, deployed).run()
    return found


@dataclass
class _Folding:
    """Finds what is folded where, and writes it into the rows of `found`."""

    found: list[TensorDiff]
    stores: Stores
    numbers: NumbersOfSides
    deployed: int

    def run(self) -> None:
        norms = list(self._norms())
        folds: dict[int, _Fold] = {}
        for row, change in enumerate(self.found):
            if change.status != "changed" or change.delta is None:
                continue
            fits = [fold for norm in norms for fold in self._folds(change, norm)]
            if len(fits) == 1:
                folds[row] = fits[0]
                self._tell(row, fits[0])
                norms.remove(fits[0].norm)
        for norm in norms:
            self._tell_left(norm)
        for row, change in enumerate(self.found):
            if change.delta is not None and len(change.some.spec.shape) > 1:
                self._tell_added(row, folds.get(row))
        self._tell_negated()

    def _norms(self) -> Iterator[_Norm]:
        """Yield the normalisations of which the deployed side has no tensor."""
        groups: dict[str, dict[str, int]] = {}
        for row, change in enumerate(self.found):
            side = (change.old, change.new)
            own = side[1 - self.deployed]
            if own is None or side[self.deployed] is not None or len(own.spec.shape) != 1:
                continue
            owner, slash, last = change.name.rpartition("/" if "/" in change.name else ".")
            if slash and last in _PARTS:
                groups.setdefault(owner, {})[_PARTS[last]] = row
        for name, rows in groups.items():
            if {"mean", "variance"} <= rows.keys():
                values = {part: self._own(row) for part, row in rows.items()}
                size = values["variance"].size
                if any(value.size != size for value in values.values()):
                    continue
                values.setdefault("gamma", values["variance"] * 0 + 1)
                values.setdefault("beta", values["variance"] * 0)
                yield _Norm(name, rows, **values)

    def _own(self, row: int) -> Array:
        import numpy as np

        change = self.found[row]
        tensor = (change.old, change.new)[1 - self.deployed]
        assert tensor is not None
        return self.stores[1 - self.deployed].read(tensor.spec.key).astype(np.float64)

    def _pair(self, change: TensorDiff) -> tuple[Array, Array]:
        """Return the values of the model and of the deployed graph."""
        import numpy as np

        assert change.old is not None and change.new is not None
        old, new = (
            store.read(side.spec.key).astype(np.float64)
            for store, side in zip(self.stores, (change.old, change.new), strict=True)
        )
        return (old, new) if self.deployed else (new, old)

    def _stored(self, change: TensorDiff) -> Numbers | None:
        side = (change.old, change.new)[self.deployed]
        return self.numbers[self.deployed].get(side.spec.key) if side is not None else None

    def _folds(self, change: TensorDiff, norm: _Norm) -> Iterator[_Fold]:
        """Yield the fold, where a changed kernel is the model's times the factors of a norm."""
        import numpy as np

        spec = change.some.spec
        if spec.size > MAX_TRIED or len(spec.shape) < 2:
            return
        for by_channel in _by_channels(spec.shape, norm.variance.size):
            own, folded = map(by_channel, self._pair(change))
            squares = (own * own).sum(axis=0)
            with np.errstate(all="ignore"):
                factors = (own * folded).sum(axis=0) / squares
                epsilons = (norm.gamma / factors) ** 2 - norm.variance
                noise = self._noise(change, own, by_channel) / squares
                known = (squares > 0) & (noise <= _RESOLVED * np.abs(factors))
            told = epsilons[np.isfinite(epsilons)]
            if not told.size:
                continue
            if 2 * np.count_nonzero(known) < np.count_nonzero(squares):
                continue  # steps so coarse prove nothing
            is_rounded = self._stored(change) is not None
            for epsilon in _epsilons(float(np.median(told)), is_rounded=is_rounded):
                factor = norm.factor(epsilon)
                allowed = _AGREED * np.abs(factor) + noise
                unlike = np.abs(factor - factors)[known] > allowed[known]
                expected = own * factor
                if not unlike.any() and self._is_explained(change, expected, folded, by_channel):
                    yield _Fold(norm, epsilon, is_rounded)
                    return

    def _noise(self, change: TensorDiff, own: Array, by_channel: _ByChannel) -> Array:
        """Return, times the sum of squares, by how much rounding may shift a channel's factor."""
        import numpy as np

        stored = self._stored(change)
        if stored is None:
            return np.zeros(own.shape[1])
        steps = by_channel(np.broadcast_to(steps_of(stored), own.size))
        noise: Array = HALF_STEP * (steps * np.abs(own)).sum(axis=0)
        return noise

    def _is_explained(
        self, change: TensorDiff, expected: Array, folded: Array, by_channel: _ByChannel
    ) -> bool:
        """Whether values are those expected, but for float32 or for the steps of integers."""
        import numpy as np

        gap = np.abs(folded - expected)
        stored = self._stored(change)
        if stored is None:
            return bool((gap <= _EXACT * np.abs(expected).max(axis=0, initial=0.0)).all())
        steps = by_channel(np.broadcast_to(steps_of(stored), gap.size))
        return bool((gap <= HALF_STEP * steps + _EXACT * np.abs(expected)).all())

    def _tell(self, row: int, fold: _Fold) -> None:
        """Write what was found into the rows of the kernel, the bias and the normalisation."""
        import numpy as np

        norm = fold.norm
        kernel = self.found[row].name
        # integers tell the epsilon roughly
        rounded = ", each value rounded to the nearest step" if fold.is_rounded else ""
        epsilon = "epsilon" if fold.is_rounded else f"{fold.epsilon:g}"
        factor = f"gamma / sqrt(variance + {epsilon})"
        told = f"{norm.name} is folded into it: each channel times {factor}{rounded}"
        self.found[row] = replace(self.found[row], hints=(told,))
        self._tell_of(norm, _IN_FACTOR, kernel)
        owner = kernel.rpartition("/")[0]
        for at, change in enumerate(self.found):
            if change.name.rpartition("/")[0] != owner or at == row or change.delta is None:
                continue
            if change.some.spec.shape != norm.variance.shape:
                continue
            own, folded = self._pair(change)
            expected = norm.shift(fold.epsilon, own)
            if self._is_explained(change, expected, folded, np.asarray):
                told = f"{norm.name} is folded into it{rounded}"
                self.found[at] = replace(change, hints=(told,))
                self._tell_of(norm, _IN_SHIFT, change.name)
        self._tell_shift(norm, fold.epsilon)

    def _tell_left(self, norm: _Norm) -> None:
        """Find the factors of a normalisation among the constants, and tell what they are."""
        import numpy as np

        fits = []
        for row, values in self._alone(self.deployed, norm.variance.size):
            with np.errstate(all="ignore"):
                epsilons = (norm.gamma / values) ** 2 - norm.variance
            told = epsilons[np.isfinite(epsilons)]
            for epsilon in _epsilons(float(np.median(told)), is_rounded=False) if told.size else ():
                factor = norm.factor(epsilon)
                if (np.abs(values - factor) <= _EXACT * np.abs(factor)).all():
                    fits.append((row, epsilon))
                    break
        if len(fits) == 1:
            row, epsilon = fits[0]
            hint = f"gamma / sqrt(variance + {epsilon:g}) of {norm.name}"
            self.found[row] = replace(self.found[row], hints=(hint,))
            self._tell_of(norm, _IN_FACTOR, self.found[row].name)
            self._tell_shift(norm, epsilon)

    def _tell_of(self, norm: _Norm, parts: Sequence[str], name: str) -> None:
        """Write into the rows of a normalisation where some of its tensors are."""
        for at in [norm.rows[part] for part in parts if part in norm.rows]:
            self.found[at] = replace(self.found[at], hints=(f"folded into {name}",))

    def _tell_shift(self, norm: _Norm, epsilon: float) -> None:
        """Tell of the constant that a normalisation adds, where there is one."""
        import numpy as np

        shift = norm.shift(epsilon)
        allowed = _EXACT * (np.abs(norm.beta) + np.abs(norm.mean * norm.factor(epsilon)))
        fits = [
            r
            for r, values in self._alone(self.deployed, norm.variance.size)
            if (np.abs(values - shift) <= allowed).all()
        ]
        if len(fits) == 1:
            told = f"beta - mean * gamma / sqrt(variance + {epsilon:g}) of {norm.name}"
            self.found[fits[0]] = replace(self.found[fits[0]], hints=(told,))
            self._tell_of(norm, _IN_SHIFT, self.found[fits[0]].name)

    def _tell_added(self, row: int, fold: _Fold | None) -> None:
        """Tell of a bias to which was added what a kernel makes of an addend to its input.

        fold: of a normalisation into the kernel.
        """
        import numpy as np

        change = self.found[row]
        *_, channels, outputs = change.some.spec.shape
        addends = [*self._addends(channels, fold)]
        if not addends or change.some.spec.size > MAX_TRIED:
            return
        targets = [*self._biases(change, outputs)]
        kernel = self._pair(change)[0].reshape(-1, channels, outputs)
        fits = []
        for addend in addends:
            added = np.einsum("i,kio->o", addend.values, kernel)
            sizes = np.einsum("i,kio->o", addend.sizes, np.abs(kernel))
            for at, own, folded in targets:
                stored = self._stored(self.found[at])
                steps = 0.0 if stored is None else HALF_STEP * steps_of(stored)
                gap = np.abs(folded - (own + added))
                if (gap <= _EXACT * (np.abs(own) + sizes) + steps).all():
                    fits.append((at, addend))
        if len(fits) == 1:
            at, addend = fits[0]
            told = f"{addend.name} is folded into it, times {change.name}"
            self.found[at] = replace(self.found[at], hints=(told,))
            for own_row in addend.rows:
                hint = f"folded into {self.found[at].name}"
                self.found[own_row] = replace(self.found[own_row], hints=(hint,))

    def _addends(self, channels: int, fold: _Fold | None) -> Iterator[_Addend]:
        """Yield what may have been added to a layer's input of so many channels."""
        import numpy as np

        biases = [
            (row, values)
            for row, values in self._alone(1 - self.deployed, channels)
            if len(self.found[row].some.spec.shape) == 1 and values.any()
        ]
        if fold is None:
            for row, values in biases:
                yield _Addend(self.found[row].name, (row,), values, np.abs(values))
            return
        norm = fold.norm
        rows = tuple(norm.rows[part] for part in _IN_SHIFT if part in norm.rows)
        if norm.variance.size != channels or any(self.found[row].hints for row in rows):
            return
        factor = norm.factor(fold.epsilon)
        sizes = np.abs(norm.beta) + np.abs(norm.mean * factor)
        yield _Addend(norm.name, rows, norm.shift(fold.epsilon), sizes)
        for row, bias in biases:
            if row not in rows:
                name = f"{norm.name} with {self.found[row].name}"
                shift = norm.shift(fold.epsilon, bias)
                yield _Addend(name, (*rows, row), shift, sizes + np.abs(bias * factor))

    def _biases(self, kernel: TensorDiff, outputs: int) -> Iterator[tuple[int, Array, Array]]:
        """Yield the row of a bias that a kernel's layer may have, the model's and the graph's."""
        owner = kernel.name.rpartition("/")[0]
        for row, change in enumerate(self.found):
            is_its = change.name.rpartition("/")[0] == owner and change.delta is not None
            if is_its and change.status == "changed" and change.some.spec.shape == (outputs,):
                yield row, *self._pair(change)
        for row, values in self._alone(self.deployed, outputs):
            yield row, values * 0, values

    def _tell_negated(self) -> None:
        """Tell of constants that are the negative of a parameter, such as the slopes of PReLU."""
        sizes = {change.some.spec.size for change in self.found if change.old is None}
        for size in sorted(size for size in sizes if 1 < size <= MAX_TRIED):
            own = [*self._alone(1 - self.deployed, size)]
            for row, values in self._alone(self.deployed, size) if own else ():
                fits = [at for at, its in own if values.any() and (values == -its).all()]
                if len(fits) == 1:
                    name = self.found[row].name
                    told = f"the negative of {self.found[fits[0]].name}"
                    self.found[row] = replace(self.found[row], hints=(told,))
                    self.found[fits[0]] = replace(self.found[fits[0]], hints=(f"{name}, negated",))

    def _alone(self, side: int, size: int) -> Iterator[tuple[int, Array]]:
        """Yield the row and the values of tensors of one side alone that have so many elements.

        Those of which something is told are left out.
        """
        import numpy as np

        for row, change in enumerate(self.found):
            own = (change.old, change.new)[side]
            if own is None or (change.old is not None and change.new is not None):
                continue
            if not change.hints and own.spec.size == size and is_numeric(own.spec.dtype):
                yield row, self.stores[side].read(own.spec.key).astype(np.float64)


def _epsilons(estimate: float, *, is_rounded: bool) -> Iterator[float]:
    """Yield numbers that a person may have chosen, near one that integers tell roughly.

    is_rounded: whether they do; then more than one may fit, and the usual ones come first.
    """
    digits = tuple(float(f"{estimate:.{count}g}") for count in (1, 2, 3))
    both = (*_USUAL_EPSILONS, *digits) if is_rounded else (*digits, *_USUAL_EPSILONS)
    yield from (e for e in dict.fromkeys(both) if 0 <= e <= _LARGEST_EPSILON)


def _by_channels(shape: tuple[int, ...], channels: int) -> Iterator[_ByChannel]:
    """Yield how the values of a kernel are laid out with a column for each channel.

    Those of its output lie along the last axis; of a depthwise kernel along two, the channels of
    the input and how many each becomes; of a transposed convolution, as those of the input of all
    others, along the last but one.
    """
    import numpy as np

    is_depthwise = len(shape) > 2 and shape[-1] * shape[-2] == channels
    if shape[-1] == channels or is_depthwise:
        yield lambda values: values.reshape(-1, channels)
    if len(shape) > 1 and shape[-2] == channels:
        yield lambda values: np.moveaxis(values.reshape(shape), -2, -1).reshape(-1, channels)
