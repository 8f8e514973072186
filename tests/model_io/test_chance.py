"""Damage at random gets no hint: whatever is said of a difference must seldom fit by chance."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks._random_damage import cases
from benchmarks.hint_nulls import counted, kind_of, lines
from ckptkit.model_io.chance import changed_points
from ckptkit.model_io.compare_outputs import compare_outputs
from ckptkit.model_io.tiers import tier_named

DRAWS = 100  # `make hint-nulls` draws more, of more cases
MOST = DRAWS // 100


def test_damage_at_random_gets_no_hint() -> None:
    counts = [counted(name, draw, DRAWS) for name, draw in cases()]
    assert not [count for count in counts if count.any_hint > MOST]
    assert sum(count.failing for count in counts) > DRAWS * len(counts) // 2
    assert any("**any**" in line for line in lines(counts))


@pytest.mark.parametrize(
    ("hint", "kind"),
    [
        ("is 255 times the recorded output", "is N times the recorded output"),
        ("is the recorded output minus 0.25", "is the recorded output plus N"),
        ("output 'z' has the recorded values", "output NAME has the recorded values"),
        ("differs in units 1, 2, 3 of the last axis", "differs in units N of the last axis"),
        ("rows in another order: now [1, 0] of those recorded", "rows in another order"),
    ],
)
def test_hints_are_counted_by_kind(hint: str, kind: str) -> None:
    assert kind_of(hint) == kind


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
