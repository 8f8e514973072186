"""Small rules behind verdicts and hints, each at its edges, with values computed by hand."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ckptkit.compare.tensors import Worst
from ckptkit.model_io import chance
from ckptkit.model_io.compare_outputs import compare_outputs, noise_of
from ckptkit.model_io.formulas import _by_distance, moved_slices, permutation_text
from ckptkit.model_io.hints import _digits, _log_orders
from ckptkit.model_io.results import OutputResult
from ckptkit.model_io.sampling import Norms, norms_of, places_of, sample
from ckptkit.model_io.tiers import OutputTolerance, tier_named, tier_of

Array = npt.NDArray[Any]
T1 = tier_named("T1", "same").tolerance
RNG = np.random.default_rng(11)


def limit(rtol: float, atol: float, scaled: bool = False) -> Any:
    """Return a chooser of one tolerance for every output."""
    return lambda name, dtype: OutputTolerance(rtol, atol, scaled)


def said(ref: Array, new: Array, tolerance: Any = T1) -> tuple[str, ...]:
    """Return the hints on a lone output."""
    [result] = compare_outputs({"y": ref}, {"y": new}, tolerance)
    return result.hints


# --- chance ---------------------------------------------------------------------------------------


def test_the_chance_of_points_is_a_power() -> None:
    assert chance.log_of_chance(5, 10) == pytest.approx(-5 * math.log(10))
    assert chance.log_of_chance(5, 2) == pytest.approx(-5 * math.log(2))
    assert chance.log_of_chance(5, 1) == chance.log_of_chance(5, 0.5) == 0.0


def test_orders_and_choices_are_counted_as_logarithms() -> None:
    for count in range(8):
        assert chance.log_factorial(count) == pytest.approx(math.log(math.factorial(count)))
        for chosen in range(count + 1):
            want = math.log(math.comb(count, chosen))
            assert chance.log_combinations(count, chosen) == pytest.approx(want, abs=1e-12)


def test_what_is_rare_is_rare_among_all_choices() -> None:
    # one of 1,000 is what a single question may be fooled by
    assert not chance.is_rare(0.0, 9, 2) and chance.is_rare(0.0, 10, 2)
    assert not chance.is_rare(math.log(2), 10, 2) and chance.is_rare(math.log(2), 11, 2)
    assert not chance.never_by_chance(0, -1e9)
    assert chance.never_by_chance(1, math.log(0.0009))
    assert not chance.never_by_chance(1, math.log(0.0011))
    assert not chance.never_by_chance(2, math.log(0.0009))


def test_kinds_are_as_many_as_can_be_told_apart() -> None:
    ref, new = np.array([3.0, -3.0, 3.0, 3.0]), np.array([1.0, 2.0, 3.0, 4.0])
    assert chance.kinds_of(ref, new, 0.0) == 5
    # steps of 2 * room in a spread of 3: few, and never fewer than two
    many = np.linspace(-5, 5, 50)
    assert chance.kinds_of(ref, many, 0.25) == 6
    assert chance.kinds_of(ref, many, 0.5) == 3
    assert chance.kinds_of(ref, many, 100.0) == 2
    assert chance.kinds_of(ref, new, 1e-6) == 5
    assert chance.kinds_of(np.array([]), new, 0.01) == 2


def test_pairs_that_are_alike_tell_of_how_many_kinds_values_are() -> None:
    for values, kinds in (
        ([1, 2, 3, 4], 7),  # six pairs, none alike
        ([1, 1, 2, 3], 7 / 2),
        ([1, 1, 1, 2], 7 / 4),
        ([1, 1, 1, 1], 1),
        ([5], 1),
    ):
        assert chance.kinds_drawn(np.array(values)) == kinds
    labels = np.random.default_rng(5).integers(0, 10, 500)
    assert chance.kinds_drawn(labels) == pytest.approx(10, rel=0.05)
    assert chance.kinds_drawn(np.array([b"a", b"b"], object)) == 2


def test_orders_that_can_be_told_apart() -> None:
    for values, orders in (([1, 2, 3], 6), ([1, 1, 2], 3), ([1, 1, 2, 2], 6), ([4, 4], 1)):
        assert _log_orders(np.array(values)) == pytest.approx(math.log(orders), abs=1e-12)


@pytest.mark.parametrize("shape", [(4, 3), (2, 4, 3), (3,)])
def test_the_last_of_probabilities_follows_from_the_others(shape: tuple[int, ...]) -> None:
    ref, new = (RNG.random(shape) for _ in range(2))
    assert chance.free_points(ref, new, 1e-6) == ref.size
    for power in (1, 2):
        one, other = (x / (x**power).sum(-1, keepdims=True) ** (1 / power) for x in (ref, new))
        assert chance.free_points(one, other, 1e-6) == ref.size // 3 * 2
        assert chance.changed_points(one, other, 1e-6) == ref.size // 3 * 2
        # one side alone says nothing, nor do sums as far apart as rounding cannot make them
        assert chance.free_points(one, new, 1e-6) == ref.size
        assert chance.free_points(one, other * 1.001, 1e-6) == ref.size
        assert chance.free_points(one, other * np.nan, 1e-6) == ref.size


def test_lone_values_are_bound_by_nothing() -> None:
    assert chance.free_points(np.array(1.0), np.array(2.0), 1e-6) == 1
    assert chance.free_points(np.ones((4, 1)), np.ones((4, 1)), 1e-6) == 4
    assert chance.changed_points(np.array([1.0, 2.0]), np.array([1.0, 2.1]), 0.2) == 0


# --- norms and samples ----------------------------------------------------------------------------


def test_norms_of_large_arrays_count_every_element_once() -> None:
    size = (1 << 18) + (1 << 17) + 5
    values = np.arange(size, dtype=np.float64) % 7 - 2
    values[-1] = 40.0
    found = norms_of(values)
    assert (found.nonfinite, found.lowest, found.highest) == (0, -2.0, 40.0)
    assert found.rms == pytest.approx(float(np.sqrt(np.mean(values**2))), rel=1e-12)
    values[: 1 << 18] = np.nan  # a whole part without a number
    found = norms_of(values)
    assert (found.nonfinite, found.lowest, found.highest) == (1 << 18, -2.0, 40.0)
    rest = values[1 << 18 :]
    assert found.rms == pytest.approx(float(np.sqrt(np.mean(rest**2))), rel=1e-12)


def test_norms_where_there_is_no_number() -> None:
    assert norms_of(np.array([np.nan, np.inf])) == Norms(2, 0.0, 0.0, 0.0)
    assert norms_of(np.zeros(0)) == Norms(0, 0.0, 0.0, 0.0)
    assert norms_of(np.array([3 + 4j, np.nan])) == Norms(1, 5.0, 5.0, 5.0)
    assert norms_of(np.array([-1e300, 1e-300])).lowest == -1e300
    assert norms_of(np.array([-3e300, -4e300])).rms == pytest.approx(3.5355339e300)


def test_places_are_one_in_each_part() -> None:
    for size, count in ((10, 10), (10, 3), (1000, 7), (5, 1)):
        places = places_of(size, count, 3)
        assert len(places) == count
        assert all(k * size // count <= p < (k + 1) * size // count for k, p in enumerate(places))


def test_a_sample_passes_where_the_whole_is_as_near_as_its_elements() -> None:
    ref = RNG.normal(size=3000)
    kept = sample(ref, seed=5, count=50)
    hidden = next(at for at in np.argsort(-np.abs(ref)) if at not in set(kept.places.tolist()))
    ref[hidden] = 50.0
    kept = sample(ref, seed=5, count=50)
    for change, status in ((1.04, "equal"), (1.2, "differs")):
        new = ref.copy()
        new[hidden] *= change
        [found] = compare_outputs({"y": kept}, {"y": new}, limit(0.05, 0.0))
        assert found.status == status
    # and as far as the model's own runs are apart
    noise = {"y": {"max_abs": 0.3}}
    for change, status in ((1.0, "equal"), (-1.3, "differs")):
        new = ref.copy()
        new[hidden] += change
        [found] = compare_outputs({"y": kept}, {"y": new}, limit(0.0, 0.0), noise=noise)
        assert found.status == status
    words = np.array([f"w{n}".encode() for n in range(200)], object)
    [found] = compare_outputs({"y": sample(words, 3, 20)}, {"y": words}, T1)
    assert found.status == "equal" and found.sampled


# --- formulas -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words", "points"),
    [
        (lambda x: x * 1.7, "is 1.7 times", 4),
        (lambda x: x * 255.01, "is 255 times", 4),
        (lambda x: x / 256.0, "times the recorded output", 4),
        (lambda x: x + 1.25, "plus 1.25", 4),
        (lambda x: x - 1.25, "minus 1.25", 4),
        (lambda x: x * 1.7 + 3, "is 1.7 times the recorded output +3", 5),
        (np.tanh, "is the tanh", 3),
        (lambda x: np.log(np.abs(x) + 2) * 0 + np.exp(x), "is the exp", 3),
        (lambda x: np.maximum(x, 0), "is the relu", 15),
    ],
)
def test_a_formula_needs_three_points_more_than_it_has_numbers(
    change: Any, words: str, points: int
) -> None:
    rng = np.random.default_rng(2)
    for count in (points - 1, points, points + 4):
        ref = rng.normal(size=count)
        ref[::2] *= -np.sign(ref[::2])  # half below zero
        ref[1::2] *= np.sign(ref[1::2])
        found = any(words in hint for hint in said(ref, change(ref)))
        assert found == (count >= points), count


def test_what_is_nearly_a_formula_is_none() -> None:
    ref = RNG.normal(size=20)
    for place, by in ((3, 0.2), (7, -0.4)):
        new = ref * 1.5
        new[place] += by
        assert not any("times the recorded" in hint for hint in said(ref, new))


def test_slices_are_paired_one_to_one() -> None:
    old = np.array([[0.0], [1.0], [10.0]])
    assert _by_distance(old, np.array([[0.4], [0.45], [9.0]])).tolist() == [0, 1, 2]  # type: ignore[union-attr]
    assert _by_distance(np.zeros((4096, 5)), np.zeros((4096, 5))) is None  # would take too long


def test_moved_slices_are_those_of_any_axis_and_not_the_identity() -> None:
    ref = RNG.normal(size=(4, 3, 5))
    for axis, order in ((0, [2, 0, 3, 1]), (1, [2, 1, 0]), (2, [4, 0, 1, 2, 3])):
        new = np.take(ref, order, axis)

        def near(a: Array, b: Array) -> bool:
            return bool(np.array_equal(a, b))

        assert moved_slices(ref, new, axis, near) == order
        assert moved_slices(ref, ref, axis, near) is None
        assert moved_slices(ref, new[:2], axis, near) is None
        assert moved_slices(ref * np.nan, new, axis, near) is None


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ([1, 0], "the pair have changed places"),
        ([2, 1, 0], "reversed"),
        ([0, 3, 2, 1], "1 and 3 have changed places"),
        ([1, 2, 3, 4, 0], "rotated by 1"),
        ([4, 0, 1, 2, 3], "rotated by -1"),
        ([2, 3, 0, 1], "rotated by 2"),
        ([1, 0, 3, 2], "now [1, 0, 3, 2] of those recorded"),
        ([1, 0, 3, 2, 5, 4, 7, 6], "now [1, 0, 3, 2, 5, 4, 7, 6] of those recorded"),
        ([1, 0, 3, 2, 5, 4, 7, 6, 8], "now [1, 0, 3, 2, 5, 4, 7, 6, ...] of those recorded"),
    ],
)
def test_permutations_in_words(places: list[int], words: str) -> None:
    assert permutation_text(places) == words


# --- hints at their edges -------------------------------------------------------------------------


def test_zeros_need_ten_values_that_were_none() -> None:
    ref = np.concatenate([np.arange(1.0, 11.0), np.zeros(5)])
    assert said(ref, ref * 0) == ("is all zeros",)
    ref[0] = 0.0
    assert "is all zeros" not in said(ref, ref * 0)


def test_one_value_everywhere_is_said_of_outputs_that_had_several() -> None:
    ref = RNG.normal(size=(3, 4))
    assert said(ref, ref * 0 + 2.5) == ("is 2.5 everywhere",)
    assert not any("everywhere" in hint for hint in said(ref * 0 + 1, ref * 0 + 2.5))
    rows = np.broadcast_to(ref[:1], ref.shape)
    assert said(ref, rows) == ("is the same for every example: the input no longer reaches it",)
    assert not any("every example" in hint for hint in said(ref[:1], ref[:1] * 1.5))


@pytest.mark.parametrize("lost", [1, 2, 4, 5])
@pytest.mark.parametrize("axis", [0, 1])
def test_up_to_four_slices_that_are_lacking_are_listed(lost: int, axis: int) -> None:
    ref = RNG.normal(size=(12, 12))
    gone = list(range(1, 2 * lost, 2))
    shorter = np.delete(ref, gone, axis)
    numbers = ", ".join(map(str, gone))
    word = "example" if axis == 0 else "unit"
    for (one, two), verb in (((ref, shorter), "lacks"), ((shorter, ref), "has also")):
        [*found] = said(one, two)
        if lost > 4:
            assert found == []
        else:
            plural = "s" if lost > 1 else ""
            tail = " of the last axis" if axis else ""
            assert found == [f"{verb} {word}{plural} {numbers}{tail}; the others agree"]


@pytest.mark.parametrize(
    ("bad", "of", "is_told"),
    [(1, 20, True), (4, 20, True), (5, 20, False), (3, 6, True), (3, 5, False), (2, 4, True)],
)
def test_a_place_is_told_of_a_few_of_many(bad: int, of: int, is_told: bool) -> None:
    ref = RNG.normal(size=(16, of))
    new = ref.copy()
    new[:, :bad] += RNG.normal(size=(16, bad)) + 3
    units = ", ".join(map(str, range(bad)))
    want = (f"differs in unit{'s' if bad > 1 else ''} {units} of the last axis only",)
    assert said(ref, new) == (want if is_told else ())


def test_a_place_is_where_the_tolerance_is_exceeded() -> None:
    ref = RNG.normal(size=(16, 8))
    new = ref + 0.5 + 0.1 * RNG.normal(size=ref.shape)
    new[:, 2] = ref[:, 2] + 1.5 + 0.1 * RNG.normal(size=16)
    assert said(ref, new, limit(0.0, 1.0)) == ("differs in unit 2 of the last axis only",)
    wide, far = ref * 30, ref * 30 + (new - ref) * 30
    unit = 1 / float(np.sqrt(np.mean(ref**2)))
    assert said(wide, far, limit(0.0, unit, True)) == ("differs in unit 2 of the last axis only",)


@pytest.mark.parametrize(
    ("digits", "count", "is_told"), [(2, 20, False), (3, 20, True), (3, 9, True), (3, 8, False)]
)
def test_binary_digits_are_told_of_more_than_eight_values(
    digits: int, count: int, is_told: bool
) -> None:
    rng = np.random.default_rng(8)
    ref = rng.normal(size=count).astype(np.float32)
    top = 1 << digits
    new = (rng.integers(top // 2, top, count) | 1) * 2.0 ** rng.integers(-3, 4, count)
    assert _digits(new) == digits
    hints = said(ref, new.astype(np.float32))
    assert (f"its values have {digits} binary digits: computed in bfloat16" in hints) == is_told


def test_zeros_have_no_binary_digits() -> None:
    assert _digits(np.zeros(3)) == 0 and _digits(np.array([0.0, 4.0])) == 1


@pytest.mark.parametrize(
    ("step", "from_", "words"),
    [
        (-1, 8, "from 8 on are 1 lower: a vocabulary line before it is gone"),
        (2, 8, "from 8 on are 2 higher: a line before it is new"),
        (-3, 0, "every number is 3 lower"),
        (5, 0, "every number is 5 higher"),
    ],
)
def test_numbers_that_moved_by_one_step(step: int, from_: int, words: str) -> None:
    ref = np.arange(20)
    [hint] = said(ref, ref + step * (ref >= from_))
    assert words in hint


@pytest.mark.parametrize(("step", "needed"), [(1, 8), (2, 6), (-1, 8), (9, 5)])
def test_a_short_step_needs_more_numbers_than_a_long_one(step: int, needed: int) -> None:
    """Each could have stayed, or moved by any step no longer, up or down."""
    for count in (needed - 1, needed):
        ref = 100 * np.arange(count)
        assert bool(said(ref, ref + step)) == (count == needed)


def test_what_everything_else_does_is_told_beside_what_is_not_a_number() -> None:
    ref = RNG.normal(size=(8, 6))
    new = ref.copy()
    new[:, 1] = np.nan
    assert said(ref, new) == ("NaN in unit 1 of the last axis only", "everything else agrees")
    assert said(ref, new * 1.5) == ("NaN in unit 1 of the last axis only",)
    assert said(new, ref) == ("finite where the recorded output is not",)
    assert said(ref, ref * np.nan) == ("NaN everywhere",)
    # of a few values it may be chance that all are bad, or that the others agree
    assert said(ref[0], ref[0] * np.nan) == ()
    few = RNG.normal(size=10)
    assert said(few, few * np.nan) == ("NaN everywhere",)
    assert said(few[:9], few[:9] * np.nan) == ()
    assert "everything else agrees" not in said(ref[:1, :3], new[:1, :3])


def test_outputs_are_known_again_by_their_values_whatever_they_hold() -> None:
    numbers = RNG.normal(size=(8, 5)).astype(np.float32)
    words = np.array([f"word {n}".encode() for n in range(40)], object)
    for values, again in (
        (numbers, (numbers * np.float32(1 + 2e-7))),
        (words, words.copy()),
        (np.arange(40), np.arange(40)),
    ):
        gone, come = compare_outputs({"a": values}, {"z": again}, T1)
        assert gone.hints == ("output 'z' has the recorded values: it was renamed",)
        assert come.hints == ("has the values recorded as 'a': it was renamed",)
    other = words[::-1].copy()
    assert not any(r.hints for r in compare_outputs({"a": words}, {"z": other}, T1))
    assert not any(r.hints for r in compare_outputs({"a": numbers}, {"z": numbers * 2}, T1))


def test_labels_that_are_known_again_by_chance_are_not_said_to_be() -> None:
    rng = np.random.default_rng(9)
    two, many = rng.integers(0, 2, 6), rng.permutation(1000)[:6]
    for ref, is_told in ((two, False), (many, True)):
        gone, _ = compare_outputs({"a": ref}, {"z": ref.copy()}, T1)
        assert bool(gone.hints) == is_told
        assert bool(said(ref, np.delete(ref, 2))) == is_told
        assert bool(said(np.delete(ref, 2), ref)) == is_told
        assert bool(said(ref, ref.reshape(2, 3))) == is_told
        assert bool(said(ref.reshape(2, 3), ref.reshape(2, 3).T)) == is_told
    # nor outputs of few values to be one value, or the same for every example
    bits = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert said(bits, np.ones((2, 2))) == said(bits, bits[:1].repeat(2, 0)) == ()


# --- verdicts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "decibels", "status"),
    [(0.05, "26 dB", "within"), (0.099, "20.1 dB", "within"), (0.101, "19.9 dB", "differs"),
     (1.0, "0 dB", "differs"), (4.0, "-12 dB", "differs")],
)  # fmt: skip
def test_a_quantised_output_has_a_ratio_of_signal_to_noise(
    factor: float, decibels: str, status: str
) -> None:
    ref = RNG.normal(size=400)
    [found] = compare_outputs(
        {"y": ref}, {"y": ref * (1 + factor)}, lambda n, d: OutputTolerance(min_cosine=0.9)
    )
    assert found.status == status and decibels in found.message
    assert (found.n_bad == 0) == (status == "within")


def test_a_quantised_output_of_nothing_but_zeros() -> None:
    t5 = tier_named("T5", "").tolerance
    [found] = compare_outputs({"y": np.zeros(4)}, {"y": np.ones(4)}, t5)
    assert found.status == "differs" and found.message == "cosine none, signal to noise -inf dB"


def test_the_share_of_rows_whose_largest_is_at_its_place() -> None:
    ref = RNG.normal(size=(2, 3, 4))
    new = ref.copy()
    new[0, 1] = -new[0, 1]
    new[1, 2] = -new[1, 2]
    [found] = compare_outputs({"y": ref}, {"y": new}, T1)
    assert found.argmax_agreement == pytest.approx(4 / 6)


def test_noise_counts_values_between_runs_of_floats() -> None:
    ref = np.ones(3, np.float32)
    other = ref.copy()
    other[1] = np.nextafter(np.nextafter(np.float32(1), np.float32(2)), np.float32(2))
    found = noise_of({"y": ref, "n": np.arange(3)}, [{"y": other, "n": np.arange(3)}])
    assert found["y"]["max_ulp"] == 2 and found["n"]["max_ulp"] is None
    assert found["y"]["max_scaled"] == found["y"]["max_abs"] == pytest.approx(2.0**-22)
    assert found["n"] == {"max_abs": 0.0, "max_scaled": 0.0, "max_ulp": None, "runs": 1}


def test_a_verdict_as_plain_values() -> None:
    result = OutputResult(
        "y", "differs", "float32", (2, 3), 6, 3, 1.5, 0.25, 7, 0.5, 0.75, 2.0, math.inf,
        OutputTolerance(1e-3, 1e-4, True, "T1"), Worst((1, 2), b"a\xff", 1 + 2j),
        "far", ("h",), True,
    )  # fmt: skip
    assert result.to_json() == {
        "name": "y", "status": "differs", "ok": False, "dtype": "float32", "shape": [2, 3],
        "n": 6, "n_bad": 3, "max_abs": 1.5, "max_rel": 0.25, "max_ulp": 7, "cosine": 0.5,
        "argmax_agreement": 0.75, "rms": 2.0, "needed": "Infinity", "rtol": 1e-3, "atol": 1e-4,
        "scaled": True, "reason": "T1", "message": "far", "hints": ["h"], "sampled": True,
        "worst": {"index": [1, 2], "ref": "a\\xff", "new": [1.0, 2.0]},
    }  # fmt: skip
    assert result.share_bad == 0.5 and OutputResult("y", "empty").share_bad == 0.0
    assert OutputResult("y", "differs", max_abs=1.0).defined_max_rel is None
    assert OutputResult("y", "equal").defined_max_rel == 0.0
    assert OutputResult("y", "equal").to_json()["worst"] is None


# --- tiers ----------------------------------------------------------------------------------------


def test_quantised_sides_say_how() -> None:
    plain = {"runtime": "tensorflow"}
    for one, other, words in (
        ("int8", "int8", "quantised to int8"),
        (True, True, "quantised"),
        ("int8", None, "quantised: int8 against full precision"),
        (None, "int8", "quantised: full against int8 precision"),
        ("int8", "int4", "quantised: int8 against int4 precision"),
    ):
        tier = tier_of({**plain, "quantized": one, "xla": True}, {**plain, "quantized": other})
        if tier.name == "T5":
            assert tier.reason.endswith(words)
    assert tier_of({**plain, "quantized": True}, {**plain, "quantized": True}).reason == "quantised"


# --- limits ---------------------------------------------------------------------------------------


def test_a_sample_keeps_65536_elements() -> None:
    """Goldens that others keep hold as many."""
    assert sample(np.arange(1 << 17), 0).values.size == 65_536
    assert sample(np.arange(1000), 0).values.size == 1000


def test_4096_changed_points_are_counted() -> None:
    ref = np.arange(5000.0)
    assert chance.changed_points(ref, ref + 1, 0.0) == 4096
    assert chance.changed_points(ref[:4000], ref[:4000] + 1, 0.0) == 4000


@pytest.mark.parametrize(("rank", "is_told"), [(5, True), (6, False)])
def test_axes_are_turned_back_up_to_five_of_them(rank: int, *, is_told: bool) -> None:
    ref = RNG.normal(size=range(2, 2 + rank))
    hints = said(ref, ref.transpose(range(rank)[::-1]))
    assert any("transposed" in hint for hint in hints) is is_told


@pytest.mark.parametrize(
    ("made", "name"),
    [(tier_named("T1", "same"), "name"), (sample(np.arange(3.0), 0), "seed"),
     (norms_of(np.arange(3.0)), "rms")],
)  # fmt: skip
def test_what_is_kept_is_not_assigned_to(made: object, name: str) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(made, name, None)
