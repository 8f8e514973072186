"""Damage at random gets no hint: whatever is said of a difference must seldom fit by chance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptkit.model_io.chance import changed_points
from ckptkit.model_io.compare_outputs import compare_outputs
from ckptkit.model_io.tiers import tier_named

Array = npt.NDArray[Any]
Draw = Callable[[np.random.Generator], tuple[Array, Array]]
SEEDS = 100
MOST = SEEDS // 100


def softmax(x: Array) -> Array:
    power = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(power / power.sum(-1, keepdims=True))


def floats(shape: tuple[int, ...], last: Callable[[Array], Array], by: float) -> Draw:
    """Draw an output, and one whose values before the last step are moved at random."""

    def draw(rng: np.random.Generator) -> tuple[Array, Array]:
        before = rng.normal(size=shape)
        after = before + by * rng.normal(size=shape)
        return last(before).astype(np.float32), last(after).astype(np.float32)

    return draw


def some(shape: tuple[int, ...], of: float, bad: int) -> Draw:
    """Draw an output of which some values anywhere become others, `of` times a random number."""

    def draw(rng: np.random.Generator) -> tuple[Array, Array]:
        ref = rng.normal(size=shape).astype(np.float32)
        new = ref.copy()
        at = rng.choice(ref.size, min(bad, ref.size), replace=False)
        new.flat[at] = of * rng.normal(size=len(at))
        return ref, new

    return draw


def labels(shape: tuple[int, ...], kinds: int, share: float) -> Draw:
    """Draw labels of which a share is drawn anew."""

    def draw(rng: np.random.Generator) -> tuple[Array, Array]:
        ref, other = (rng.integers(0, kinds, shape) for _ in range(2))
        return ref, np.where(rng.random(shape) < share, other, ref)

    return draw


def words(count: int, kinds: int) -> Draw:
    def draw(rng: np.random.Generator) -> tuple[Array, Array]:
        names = np.array([f"word {n}".encode() for n in range(kinds)], object)
        return names[rng.integers(0, kinds, count)], names[rng.integers(0, kinds, count)]

    return draw


def plain(x: Array) -> Array:
    return x


def cases() -> Iterator[tuple[str, Draw]]:
    shapes = [(1, 2), (2, 1), (2, 2), (1, 3), (4, 3), (8, 1)]
    for shape in shapes:
        for by in (0.05, 5.0):
            yield f"values {shape} by {by}", floats(shape, plain, by)
            yield f"probabilities {shape} by {by}", floats(shape, softmax, by)
            yield f"relu {shape} by {by}", floats(shape, lambda x: np.maximum(x, 0), by)
        for bad in (1, 3):
            yield f"{bad} others {shape}", some(shape, 1.0, bad)
            yield f"{bad} zeros {shape}", some(shape, 0.0, bad)
        for kinds in (2, 10):
            yield f"labels {shape} of {kinds}", labels(shape, kinds, 1.0)
            yield f"some labels {shape} of {kinds}", labels(shape, kinds, 0.2)
    for count in (1, 2, 4, 20):
        yield f"{count} words", words(count, 3)


def test_damage_at_random_gets_no_hint() -> None:
    limit = tier_named("T3", "").tolerance  # the widest: most fits within it
    fitted = {}
    for name, draw in cases():
        said = []
        for seed in range(SEEDS):
            ref, new = draw(np.random.default_rng(seed))
            [result] = compare_outputs({"y": ref}, {"y": new}, limit)
            said += [result.hints] if result.hints and not result.ok else []
        if len(said) > MOST:
            fitted[name] = (len(said), said[:3])
    assert not fitted


def test_what_follows_from_other_values_is_no_evidence() -> None:
    ref, new = np.array([[0.3, 0.7]]), np.array([[0.4, 0.6]])
    assert changed_points(ref, new, 1e-6) == 1
    assert changed_points(ref, new * 2, 1e-6) == 2
    lengths = np.array([[0.6, 0.8], [1.0, 0.0]])
    assert changed_points(lengths, lengths[::-1], 1e-6) == 2
    assert changed_points(np.zeros(9), np.ones(9), 1e-6) == 1


def test_noise_moves_no_value_to_another_place() -> None:
    """Where only the last bits differ, the sorted values agree as those in place do."""
    rng = np.random.default_rng(3)
    ref = rng.normal(size=(8, 10)).astype(np.float32)
    new = np.asarray(ref * (1 + 2e-7 * rng.normal(size=ref.shape)), np.float32)
    [result] = compare_outputs({"y": ref}, {"y": new}, tier_named("T0", "").tolerance)
    assert not result.ok and not result.hints
