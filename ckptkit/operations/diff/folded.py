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
from typing import TYPE_CHECKING, NamedTuple

from ckptkit.dtypes import numpy_dtype
from ckptkit.operations.diff.addends import tell_added
from ckptkit.operations.diff.compared_sides import SHORT_FLOATS, NumbersOfSides
from ckptkit.operations.diff.deployed import MAX_TRIED
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
            fits = self._folds(change, norms)
            if len(fits) == 1:
                folds[row] = fits[0]
                self._tell(row, fits[0])
                norms.remove(fits[0].norm)
        for norm in norms:
            self._tell_left(norm)
        tell_added(self.rows, folds)
        self._tell_alike()

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

    def _folds(self, change: TensorDiff, norms: Sequence[Norm]) -> list[Fold]:
        """Return the folds of norms of which a changed kernel is the model's times the factors."""
        spec = change.some.spec
        if spec.size > MAX_TRIED or len(spec.shape) < 2:
            return []
        found: dict[str, Fold] = {}
        for channels in {norm.variance.size for norm in norms}:
            for by_channel in _by_channels(spec.shape, channels):
                scaled = _ScaledKernel.of(self.rows, change, by_channel)
                if scaled is None:
                    continue
                for norm in norms:
                    if norm.variance.size == channels and norm.name not in found:
                        epsilon = scaled.epsilon_of(norm)
                        if epsilon is not None:
                            found[norm.name] = Fold(norm, epsilon, self.rows.rounded_to(change))
        return list(found.values())

    def _tell(self, row: int, fold: Fold) -> None:
        """Write what was found into the rows of the kernel, the bias and the normalisation."""
        norm = fold.norm
        kernel = self.rows.found[row].name
        # rounded values tell the epsilon roughly
        rounded = f", each value rounded to {fold.rounded_to}" if fold.rounded_to else ""
        epsilon = "epsilon" if fold.rounded_to else f"{fold.epsilon:g}"
        factor = f"gamma / sqrt(variance + {epsilon})"
        told = f"{norm.name} is folded into it: each channel times {factor}{rounded}"
        self.rows.tell(row, told)
        self._tell_of(norm, _IN_FACTOR, kernel)
        for at in self.rows.beside(kernel, norm.variance.size):
            change = self.rows.found[at]
            own, folded = self.rows.pair(change)
            expected = norm.shift(fold.epsilon, own)
            if _is_explained(expected, folded, self.rows.rounding(change, folded)):
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
            row
            for row, values in self.rows.alone(self.rows.deployed, norm.variance.size)
            for rounding in (self.rows.rounding(self.rows.found[row], values),)
            if (np.abs(values - shift) <= allowed + rounding).all()
        ]
        if len(fits) == 1:
            told = f"beta - mean * gamma / sqrt(variance + {epsilon:g}) of {norm.name}"
            self.rows.tell(fits[0], told)
            self._tell_of(norm, IN_SHIFT, self.rows.found[fits[0]].name)

    def _tell_alike(self) -> None:
        """Tell of constants that are a parameter, rounded, or its negative, such as PReLU's slopes.

        One number throughout is no proof, nor is what several tensors could be.
        """
        constants: dict[bytes, list[tuple[int, str]]] = {}
        dtypes = {"": 0}
        for row, values in self.rows.heads_alone(self.rows.deployed, MAX_TRIED):
            rounded_to = self.rows.rounded_to(self.rows.found[row])
            if rounded_to in ("", *SHORT_FLOATS):
                constants.setdefault(_digest(values), []).append((row, rounded_to))
                dtypes[rounded_to] = 0
        parameters: dict[bytes, list[tuple[int, int]]] = {}
        for row, values in self.rows.heads_alone(self.rows.model, MAX_TRIED):
            for dtype in dtypes:
                for sign in (-1, 1):
                    digest = _digest(_rounded(sign * values, dtype))
                    parameters.setdefault(digest, []).append((row, sign))
        for digest in constants.keys() & parameters.keys():
            if len(constants[digest]) == len(parameters[digest]) == 1:
                (at, dtype), (own, sign) = constants[digest][0], parameters[digest][0]
                values, expected = self.rows.vector(at), sign * self.rows.vector(own)
                is_told = values.min() < values.max() and values.size == expected.size
                if is_told and (values == _rounded(expected, dtype)).all():
                    self._tell_of_one(at, own, sign, dtype)

    def _tell_of_one(self, at: int, own: int, sign: int, dtype: str) -> None:
        """Write that a constant is a parameter into the rows of both."""
        parameter, constant = self.rows.found[own].name, self.rows.found[at].name
        rounded = f", each value rounded to {dtype}" if dtype else ""
        self.rows.tell(at, f"{'the negative of ' if sign < 0 else ''}{parameter}{rounded}")
        self.rows.tell(own, f"{constant}, negated" if sign < 0 else f"kept as {constant}")


def _digest(values: Array) -> bytes:
    return sha256((values + 0.0).tobytes()).digest()  # of -0.0 as of 0.0


def _rounded(values: Array, dtype: str) -> Array:
    """Return values as a dtype has them; as they are for ""."""
    import numpy as np

    if not dtype:
        return values
    with np.errstate(over="ignore"):
        return values.astype(numpy_dtype(dtype)).astype(np.float64)


class _ScaledKernel(NamedTuple):
    """A kernel beside that of a model, with a column for each channel.

    factors: what comes nearest to the one divided by the other, in each channel.  noise: by how
    much rounding may shift them.  rounding: of each value.  known: the channels that tell anything.
    """

    own: Array
    folded: Array
    rounding: Array
    factors: Array
    noise: Array
    known: Array
    is_rounded: bool

    @classmethod
    def of(
        cls, rows: DeployedRows, change: TensorDiff, by_channel: _Values
    ) -> _ScaledKernel | None:
        """Return the two kernels of a pair; None where steps so coarse prove nothing."""
        import numpy as np

        values = rows.pair(change)
        own, folded = map(by_channel, values)
        steps = rows.rounding(change, values[1]).reshape(-1)
        rounding = by_channel(np.broadcast_to(steps, own.size))
        squares = (own * own).sum(axis=0)
        with np.errstate(all="ignore"):
            factors = (own * folded).sum(axis=0) / squares
            noise = (rounding * np.abs(own)).sum(axis=0) / squares
            known = (squares > 0) & (noise <= _RESOLVED * np.abs(factors))
        if 2 * np.count_nonzero(known) < np.count_nonzero(squares):
            return None
        is_rounded = bool(rows.rounded_to(change))
        return cls(own, folded, rounding, factors, noise, known, is_rounded)

    def epsilon_of(self, norm: Norm) -> float | None:
        """Return the epsilon with which the factors are those of a norm; None where they are not.

        All values are looked at where the factors of the channels fit, and so of one norm mostly.
        """
        import numpy as np

        with np.errstate(all="ignore"):
            epsilons = (norm.gamma / self.factors) ** 2 - norm.variance
        told = epsilons[np.isfinite(epsilons)]
        if not told.size:
            return None
        for epsilon in _epsilons(float(np.median(told)), is_rounded=self.is_rounded):
            factor = norm.factor(epsilon)
            allowed = _AGREED * np.abs(factor) + self.noise
            unlike = np.abs(factor - self.factors)[self.known] > allowed[self.known]
            if not unlike.any() and _is_explained(self.own * factor, self.folded, self.rounding):
                return epsilon
        return None


def _is_explained(expected: Array, folded: Array, rounding: Array) -> bool:
    """Whether values are those expected, but for float32 and for how they were rounded after it."""
    import numpy as np

    gap = np.abs(folded - expected)
    if not rounding.any():
        return bool((gap <= EXACT * np.abs(expected).max(axis=0, initial=0.0)).all())
    return bool((gap <= rounding + EXACT * np.abs(expected)).all())


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
