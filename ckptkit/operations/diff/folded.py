"""What a converter made of a model's parameters, so that they are no constants, proven by values.

Of a batch normalisation it leaves two numbers for each channel.  At inference
y = gamma * (x - mean) / sqrt(variance + epsilon) + beta is linear in each channel, so that a
convolution takes it over: its kernel times the factor gamma / sqrt(variance + epsilon), its bias
minus the mean, times the factor, plus beta.  What no convolution takes is multiplied by the factor,
and beta - mean * factor is added.  No epsilon is in a file of weights: it is the one that every
channel agrees on.

A layer may take over what lies before it as well: its kernel times the factors of its input
(what is added to its input is found by `addends`).  And a constant may be the negative of a
parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from ckptkit.operations.diff.addends import tell_added
from ckptkit.operations.diff.compared_sides import NumbersOfSides
from ckptkit.operations.diff.deployed import HALF_STEP, MAX_TRIED, steps_of
from ckptkit.operations.diff.result import TensorDiff
from ckptkit.operations.diff.rows import EXACT, IN_SHIFT, DeployedRows, Fold, Norm, Stores
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
_IN_FACTOR = ("gamma", "variance")
_LARGEST_EPSILON = 0.1
_USUAL_EPSILONS = (1e-3, 1e-5)  # of Keras and of PyTorch
_AGREED = 0.02  # of the factor, between channels that were rounded to a few bits
_RESOLVED = 0.25  # of the factor: a channel that rounding may shift by more tells nothing
_MAX_NEGATED = 1 << 16  # elements: slopes are those of channels, or of the places of a small image

_Values = Callable[["Array"], "Array"]


def with_folded(
    changes: Sequence[TensorDiff], files: Stores, stores: Stores, numbers: NumbersOfSides
) -> list[TensorDiff]:
    """Return the changes, with a hint where a converter made one tensor of others.

    It folds a normalisation or a bias into a kernel or a bias, and stores a parameter's negative.

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
            _Folding(DeployedRows(found, stores, numbers, deployed)).run()
    return found


@dataclass
class _Folding:
    """Finds what is folded where, and tells it in the rows of both."""

    rows: DeployedRows

    def run(self) -> None:
        norms = list(self._norms())
        folds: dict[int, Fold] = {}
        for row, change in enumerate(self.rows.found):
            if change.status != "changed" or change.delta is None:
                continue
            fits = [fold for norm in norms for fold in self._folds(change, norm)]
            if len(fits) == 1:
                folds[row] = fits[0]
                self._tell(row, fits[0])
                norms.remove(fits[0].norm)
        for norm in norms:
            self._tell_left(norm)
        tell_added(self.rows, folds)
        self._tell_negated()

    def _norms(self) -> Iterator[Norm]:
        """Yield the normalisations of which the deployed side has no tensor."""
        groups: dict[str, dict[str, int]] = {}
        for row, change in enumerate(self.rows.found):
            side = (change.old, change.new)
            own = side[self.rows.model]
            if own is None or side[self.rows.deployed] is not None or len(own.spec.shape) != 1:
                continue
            owner, slash, last = change.name.rpartition("/" if "/" in change.name else ".")
            if slash and last in _PARTS:
                groups.setdefault(owner, {})[_PARTS[last]] = row
        for name, rows in groups.items():
            if {"mean", "variance"} <= rows.keys():
                values = {part: self.rows.own(row) for part, row in rows.items()}
                size = values["variance"].size
                if any(value.size != size for value in values.values()):
                    continue
                values.setdefault("gamma", values["variance"] * 0 + 1)
                values.setdefault("beta", values["variance"] * 0)
                yield Norm(name, rows, **values)

    def _folds(self, change: TensorDiff, norm: Norm) -> Iterator[Fold]:
        """Yield the fold, where a changed kernel is the model's times the factors of a norm."""
        import numpy as np

        spec = change.some.spec
        if spec.size > MAX_TRIED or len(spec.shape) < 2:
            return
        for by_channel in _by_channels(spec.shape, norm.variance.size):
            own, folded = map(by_channel, self.rows.pair(change))
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
            is_rounded = self.rows.stored(change) is not None
            for epsilon in _epsilons(float(np.median(told)), is_rounded=is_rounded):
                factor = norm.factor(epsilon)
                allowed = _AGREED * np.abs(factor) + noise
                unlike = np.abs(factor - factors)[known] > allowed[known]
                expected = own * factor
                if not unlike.any() and self._is_explained(change, expected, folded, by_channel):
                    yield Fold(norm, epsilon, is_rounded)
                    return

    def _noise(self, change: TensorDiff, own: Array, by_channel: _Values) -> Array:
        """Return, times the sum of squares, by how much rounding may shift a channel's factor."""
        import numpy as np

        stored = self.rows.stored(change)
        if stored is None:
            return np.zeros(own.shape[1])
        steps = by_channel(np.broadcast_to(steps_of(stored), own.size))
        noise: Array = HALF_STEP * (steps * np.abs(own)).sum(axis=0)
        return noise

    def _is_explained(
        self, change: TensorDiff, expected: Array, folded: Array, by_channel: _Values
    ) -> bool:
        """Whether values are those expected, but for float32 or for the steps of integers."""
        import numpy as np

        gap = np.abs(folded - expected)
        stored = self.rows.stored(change)
        if stored is None:
            return bool((gap <= EXACT * np.abs(expected).max(axis=0, initial=0.0)).all())
        steps = by_channel(np.broadcast_to(steps_of(stored), gap.size))
        return bool((gap <= HALF_STEP * steps + EXACT * np.abs(expected)).all())

    def _tell(self, row: int, fold: Fold) -> None:
        """Write what was found into the rows of the kernel, the bias and the normalisation."""
        import numpy as np

        norm = fold.norm
        kernel = self.rows.found[row].name
        # integers tell the epsilon roughly
        rounded = ", each value rounded to the nearest step" if fold.is_rounded else ""
        epsilon = "epsilon" if fold.is_rounded else f"{fold.epsilon:g}"
        factor = f"gamma / sqrt(variance + {epsilon})"
        told = f"{norm.name} is folded into it: each channel times {factor}{rounded}"
        self.rows.tell(row, told)
        self._tell_of(norm, _IN_FACTOR, kernel)
        for at in self.rows.beside(kernel, norm.variance.size):
            change = self.rows.found[at]
            own, folded = self.rows.pair(change)
            expected = norm.shift(fold.epsilon, own)
            if self._is_explained(change, expected, folded, np.asarray):
                told = f"{norm.name} is folded into it{rounded}"
                self.rows.tell(at, told)
                self._tell_of(norm, IN_SHIFT, change.name)
        self._tell_shift(norm, fold.epsilon)

    def _tell_left(self, norm: Norm) -> None:
        """Find the factors of a normalisation among the constants, and tell what they are."""
        import numpy as np

        fits = []
        for row, values in self.rows.alone(self.rows.deployed, norm.variance.size):
            with np.errstate(all="ignore"):
                epsilons = (norm.gamma / values) ** 2 - norm.variance
            told = epsilons[np.isfinite(epsilons)]
            for epsilon in _epsilons(float(np.median(told)), is_rounded=False) if told.size else ():
                factor = norm.factor(epsilon)
                if (np.abs(values - factor) <= EXACT * np.abs(factor)).all():
                    fits.append((row, epsilon))
                    break
        if len(fits) == 1:
            row, epsilon = fits[0]
            hint = f"gamma / sqrt(variance + {epsilon:g}) of {norm.name}"
            self.rows.tell(row, hint)
            self._tell_of(norm, _IN_FACTOR, self.rows.found[row].name)
            self._tell_shift(norm, epsilon)

    def _tell_of(self, norm: Norm, parts: Sequence[str], name: str) -> None:
        """Write into the rows of a normalisation where some of its tensors are."""
        for at in [norm.rows[part] for part in parts if part in norm.rows]:
            self.rows.tell(at, f"folded into {name}")

    def _tell_shift(self, norm: Norm, epsilon: float) -> None:
        """Tell of the constant that a normalisation adds, where there is one."""
        import numpy as np

        shift = norm.shift(epsilon)
        allowed = EXACT * (np.abs(norm.beta) + np.abs(norm.mean * norm.factor(epsilon)))
        fits = [
            r
            for r, values in self.rows.alone(self.rows.deployed, norm.variance.size)
            if (np.abs(values - shift) <= allowed).all()
        ]
        if len(fits) == 1:
            told = f"beta - mean * gamma / sqrt(variance + {epsilon:g}) of {norm.name}"
            self.rows.tell(fits[0], told)
            self._tell_of(norm, IN_SHIFT, self.rows.found[fits[0]].name)

    def _tell_negated(self) -> None:
        """Tell of constants that are the negative of a parameter, such as the slopes of PReLU."""
        constants = self._small(self.rows.deployed, lambda values: values + 0.0)
        parameters = self._small(self.rows.model, lambda values: 0.0 - values)
        for digest in constants.keys() & parameters.keys():
            if len(constants[digest]) == len(parameters[digest]) == 1:
                (at,), (own,) = constants[digest], parameters[digest]
                self.rows.tell(at, f"the negative of {self.rows.found[own].name}")
                self.rows.tell(own, f"{self.rows.found[at].name}, negated")

    def _small(self, side: int, changed: _Values) -> dict[bytes, list[int]]:
        """Return the rows of small tensors of one side alone, by a digest of what they become.

        Those of one number throughout are left out: it is no proof.
        """
        rows: dict[bytes, list[int]] = {}
        for row, values in self.rows.alone_up_to(side, _MAX_NEGATED):
            if values.min() < values.max():
                rows.setdefault(sha256(changed(values).tobytes()).digest(), []).append(row)
        return rows


def _epsilons(estimate: float, *, is_rounded: bool) -> Iterator[float]:
    """Yield numbers that a person may have chosen, near one that integers tell roughly.

    is_rounded: whether they do; then more than one may fit, and the usual ones come first.
    """
    digits = tuple(float(f"{estimate:.{count}g}") for count in (1, 2, 3))
    both = (*_USUAL_EPSILONS, *digits) if is_rounded else (*digits, *_USUAL_EPSILONS)
    yield from (e for e in dict.fromkeys(both) if 0 <= e <= _LARGEST_EPSILON)


def _by_channels(shape: tuple[int, ...], channels: int) -> Iterator[_Values]:
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
