"""The order of sums is the one that is written down, whichever numpy there is."""

from __future__ import annotations

import numpy as np
import pytest

from ckptkit.compare.sums import ordered_sum, ordered_sums


def by_halves(numbers: list[float]) -> float:
    """Return the sum as plain Python takes it: eight lanes a run, runs of up to 128 in a tree."""
    n = len(numbers)
    if n > 128:
        half = n // 2 // 8 * 8
        return by_halves(numbers[:half]) + by_halves(numbers[half:])
    total, whole = 0.0, n - n % 8
    if whole:
        a, b, c, d, e, f, g, h = (from_left(numbers[lane:whole:8]) for lane in range(8))
        total = ((a + b) + (c + d)) + ((e + f) + (g + h))
    return from_left([total, *numbers[whole:]])


def from_left(numbers: list[float]) -> float:
    """Return what `sum` returned before Python 3.12, which compensates for rounding."""
    total = numbers[0]
    for number in numbers[1:]:
        total += number
    return total


SIZES = (0, 1, 7, 8, 129, 1000, 8191, 8192, 8193, 8200, 10_000, 16_385, 65_536, 70_001, 131_072)


@pytest.mark.parametrize("n", SIZES)
def test_sums_are_those_of_plain_python(n: int) -> None:
    rows = np.random.default_rng(n).standard_normal((3, n + 5))[:, :n]
    want = [by_halves(row.tolist()) for row in rows]
    assert ordered_sums(rows).tolist() == want
    assert [ordered_sum(row) for row in rows] == want
