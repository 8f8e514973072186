"""Outputs damaged at random: a hint that fits one of these more often than 1 in 100 says nothing.

A case draws recorded outputs and those of a damaged model, from a seeded generator.  The damage is
no function of the recorded values: numbers move, some or all are others, labels are drawn anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Outputs = dict[str, Array]
Draw = Callable[[np.random.Generator], tuple[Outputs, Outputs]]
SMALL = ((1, 2), (2, 1), (2, 2), (1, 3), (4, 3), (8, 1))
LARGER = ((1,), (5,), (3, 3), (1, 10), (8, 10), (32, 1), (2, 3, 3), (1, 6, 6, 2))


def _one(draw: Callable[[np.random.Generator], tuple[Array, Array]]) -> Draw:
    def outputs(rng: np.random.Generator) -> tuple[Outputs, Outputs]:
        ref, new = draw(rng)
        return {"y": ref}, {"y": new}

    return outputs


def softmax(x: Array) -> Array:
    power = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(power / power.sum(-1, keepdims=True))


def _unit(x: Array) -> Array:
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


_LAST: dict[str, Callable[[Array], Array]] = {
    "values": lambda x: x,
    "probabilities": softmax,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: np.asarray(1 / (1 + np.exp(-x))),
    "unit vectors": _unit,
    "hundredths": lambda x: np.round(x, 2),
    "ones and zeros": lambda x: np.asarray(x > 0, float),
}


def floats(shape: tuple[int, ...], last: str, by: float, dtype: Any = np.float32) -> Draw:
    """Draw an output, and one whose values before the last step are moved at random."""
    step = _LAST[last]

    def draw(rng: np.random.Generator) -> tuple[Array, Array]:
        before = rng.normal(size=shape)
        after = before + by * rng.normal(size=shape)
        return step(before).astype(dtype), step(after).astype(dtype)

    return _one(draw)


def factors(shape: tuple[int, ...], by: float) -> Draw:
    """Draw an output, each value of which is then multiplied by a factor of its own."""

    def draw(rng: np.random.Generator) -> tuple[Array, Array]:
        ref = rng.normal(size=shape).astype(np.float32)
        return ref, np.asarray(ref * np.exp(by * rng.normal(size=shape)), np.float32)

    return _one(draw)


def some(shape: tuple[int, ...], of: float, bad: int) -> Draw:
    """Draw an output of which some values anywhere become others, `of` times a random number."""

    def draw(rng: np.random.Generator) -> tuple[Array, Array]:
        ref = rng.normal(size=shape).astype(np.float32)
        new = ref.copy()
        at = rng.choice(ref.size, min(bad, ref.size), replace=False)
        new.flat[at] = of * rng.normal(size=len(at))
        return ref, new

    return _one(draw)


def labels(shape: tuple[int, ...], kinds: int, share: float) -> Draw:
    """Draw labels of which a share is drawn anew."""

    def draw(rng: np.random.Generator) -> tuple[Array, Array]:
        ref, other = (rng.integers(0, kinds, shape) for _ in range(2))
        return ref, np.where(rng.random(shape) < share, other, ref)

    return _one(draw)


def steps(shape: tuple[int, ...], kinds: int, most: int) -> Draw:
    """Draw integers that then move by up to `most`, each by itself."""

    def draw(rng: np.random.Generator) -> tuple[Array, Array]:
        ref = rng.integers(0, kinds, shape)
        return ref, ref + rng.integers(-most, most + 1, shape)

    return _one(draw)


def words(count: int, kinds: int, share: float = 1.0) -> Draw:
    """Draw words of which a share is drawn anew."""

    def draw(rng: np.random.Generator) -> tuple[Array, Array]:
        names = np.array([f"word {n}".encode() for n in range(kinds)], object)
        ref, new = (names[rng.integers(0, kinds, count)] for _ in range(2))
        return ref, np.where(rng.random(count) < share, new, ref)

    return _one(draw)


def not_numbers(shape: tuple[int, ...], share: float, value: float) -> Draw:
    """Draw an output, a share of which is then NaN or infinite, anywhere; the rest moves."""

    def draw(rng: np.random.Generator) -> tuple[Array, Array]:
        ref = rng.normal(size=shape).astype(np.float32)
        new = ref + np.float32(0.5) * rng.normal(size=shape).astype(np.float32)
        return ref, np.where(rng.random(shape) < share, np.float32(value), new)

    return _one(draw)


def other_shapes(one: tuple[int, ...], other: tuple[int, ...], kinds: int) -> Draw:
    """Draw an output, and another of another shape; of labels, or of floats where kinds is 0."""

    def draw(rng: np.random.Generator) -> tuple[Array, Array]:
        if kinds:
            return rng.integers(0, kinds, one), rng.integers(0, kinds, other)
        return rng.normal(size=one).astype(np.float32), rng.normal(size=other).astype(np.float32)

    return _one(draw)


def several(shape: tuple[int, ...], kinds: int, count: int, names: str) -> Draw:
    """Draw so many outputs, all of which are drawn anew; names: of the new ones, in order."""

    def draw(rng: np.random.Generator) -> tuple[Outputs, Outputs]:
        def output() -> Array:
            values = rng.integers(0, kinds, shape) if kinds else rng.normal(size=shape)
            return values if kinds else values.astype(np.float32)

        return {n: output() for n in "abcdefgh"[:count]}, {n: output() for n in names}

    return draw


def cases(shapes: tuple[tuple[int, ...], ...] = SMALL) -> Iterator[tuple[str, Draw]]:
    """Yield (what it is, draw) of damage to one output of each shape, and of words."""
    for shape in shapes:
        for by in (0.05, 5.0):
            for last in ("values", "probabilities", "relu"):
                yield f"{last} {shape} by {by}", floats(shape, last, by)
        for bad in (1, 3):
            yield f"{bad} others {shape}", some(shape, 1.0, bad)
            yield f"{bad} zeros {shape}", some(shape, 0.0, bad)
        for kinds in (2, 10):
            yield f"labels {shape} of {kinds}", labels(shape, kinds, 1.0)
            yield f"some labels {shape} of {kinds}", labels(shape, kinds, 0.2)
    for count in (1, 2, 4, 20):
        yield f"{count} words", words(count, 3)


def more_cases() -> Iterator[tuple[str, Draw]]:
    """Yield further cases: other last steps, dtypes, shapes that change, several outputs."""
    yield from cases(LARGER)
    for shape in (*SMALL, *LARGER):
        for last in ("sigmoid", "unit vectors", "hundredths", "ones and zeros"):
            for by in (0.05, 1.0):
                yield f"{last} {shape} by {by}", floats(shape, last, by)
        for dtype in (np.float16, ml_dtypes.bfloat16, np.float64):
            yield f"{np.dtype(dtype)} {shape}", floats(shape, "values", 0.5, dtype)
        yield f"factors {shape}", factors(shape, 0.02)
        yield f"large factors {shape}", factors(shape, 1.0)
        yield f"steps {shape}", steps(shape, 50, 1)
        yield f"half NaN {shape}", not_numbers(shape, 0.5, np.nan)
        yield f"few NaN {shape}", not_numbers(shape, 0.1, np.nan)
        yield f"few infinite {shape}", not_numbers(shape, 0.1, np.inf)
        for kinds in (0, 2, 10):
            word = f"labels of {kinds}" if kinds else "floats"
            yield f"three {word} {shape}", several(shape, kinds, 3, "abc")
            yield f"renamed {word} {shape}", several(shape, kinds, 2, "ax")
            yield f"two renamed {word} {shape}", several(shape, kinds, 2, "xy")
    for one, other in (((4,), (3,)), ((8, 2), (7, 2)), ((3, 2), (2, 3)), ((6,), (2, 3)),
                       ((4, 4), (4, 3)), ((2, 5), (3, 5)), ((10, 1), (8, 1))):  # fmt: skip
        for kinds in (0, 2, 5):
            word = f"labels of {kinds}" if kinds else "floats"
            yield f"{word} {one} then {other}", other_shapes(one, other, kinds)
            yield f"{word} {other} then {one}", other_shapes(other, one, kinds)
    for count in (4, 20):
        for kinds in (2, 10):
            yield f"{count} words of {kinds}, some others", words(count, kinds, 0.2)
