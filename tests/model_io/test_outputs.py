"""Verdicts on outputs, and what a difference is said to look like."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ckptkit.model_io.compare_outputs import compare_outputs, noise_of
from ckptkit.model_io.results import OutputResult
from ckptkit.model_io.sampling import sample
from ckptkit.model_io.signature import ModelSignature, TensorInfo, compare_signatures
from ckptkit.model_io.tiers import OutputTolerance, tier_named

Array = npt.NDArray[Any]
T1 = tier_named("T1", "same").tolerance
RNG = np.random.default_rng(7)
A, B = (RNG.normal(size=(8, 5)).astype(np.float32) for _ in range(2))
WORDS = np.array([b"a", b"b", b"c", b"d", b"e"], object)
WORDS_12 = np.array([f"word {n}".encode() for n in range(12)], object)
WORDS_2 = np.resize(WORDS, (8, 5))


def exact(name: str, dtype: str) -> OutputTolerance:
    """Return no tolerance at all."""
    return OutputTolerance()


def one(ref: Any, new: Any, limit: Any = T1, **options: Any) -> OutputResult:
    """Return the verdict on a lone output."""
    [result] = compare_outputs({"y": ref}, {"y": new}, limit, **options)
    return result


# --- verdicts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ref", "new", "status"),
    [
        (A, A.copy(), "equal"),
        (A, A * np.float32(1 + 3e-7), "within"),
        (A, A + 1, "differs"),
        (A, A[:4], "shape"),
        (A, A.astype(np.float64), "dtype"),
        (A, A.astype(np.int32), "dtype"),
        (A, WORDS, "shape"),
        (A[:, 0], np.resize(WORDS, 8), "dtype"),
        (A[:0], A[:0], "empty"),
        (np.float32(1), np.float32(1), "equal"),
        (np.array([np.nan, np.inf, 1]), np.array([np.nan, np.inf, 1]), "equal"),
        (np.array([1.0, 2]), np.array([np.nan, 2]), "nonfinite"),
        (np.array([np.nan, 2]), np.array([1.0, 2]), "nonfinite"),
        (np.array([np.inf, 2]), np.array([-np.inf, 2]), "nonfinite"),
        (np.arange(5), np.arange(5), "equal"),
        (np.arange(5), np.array([0, 1, 2, 3, 5]), "differs"),
        (np.array([True, False]), np.array([True, True]), "differs"),
        (WORDS, WORDS.copy(), "equal"),
        (WORDS, WORDS[::-1], "differs"),
        (np.zeros(3), np.array([0, 0, 1e-30]), "differs"),
    ],
)
def test_statuses(ref: Any, new: Any, status: str) -> None:
    found = one(ref, new)
    assert found.status == status
    assert found.ok == (status in ("equal", "within"))
    json.dumps(found.to_json(), allow_nan=False)


def test_what_is_missing_and_what_is_extra_never_passes() -> None:
    results = compare_outputs({"a": A, "b": B}, {"b": B, "c": A + 9}, T1)
    assert [(r.name, r.status, r.ok) for r in results] == [
        ("a", "missing", False),
        ("b", "equal", True),
        ("c", "extra", False),
    ]


def test_nothing_at_all_gives_no_verdict() -> None:
    assert compare_outputs({}, {}, T1) == ()


@pytest.mark.parametrize("size", [1e-13, 1.0, 1e13])
def test_the_scale_does_not_matter(size: float) -> None:
    near = A + 2e-6 * np.sqrt(np.mean(A**2))
    assert one(A * size, near.astype(np.float32) * size).status == "within"
    assert one(A * size, B * size).status == "differs"


def test_a_tolerance_that_says_nothing_does_not_pass() -> None:
    def wide(name: str, dtype: str) -> OutputTolerance:
        return OutputTolerance(0.0, 1e-5)

    assert one(A * 1e-12, B * 1e-12, wide).status == "meaningless"
    assert one(A * 1e-12, A * 1e-12, wide).status == "equal"
    assert one(A, A + 1e-7, wide).status == "within"
    assert one(A * 1e-12, B, wide).status == "differs"


def test_noise_is_tolerated_four_times_over_and_no_more() -> None:
    step = np.float32(1e-4)
    noise = {"y": {"max_abs": 2e-4}}
    assert one(A, A + step).status == "differs"
    assert one(A, A + 7 * step, noise=noise).status == "noise"
    assert one(A, A + 9 * step, noise=noise).status == "differs"
    huge = {"y": {"max_abs": 10.0}}
    assert one(A, A + 1, noise=huge).status == "differs"  # bounded by the third tier


def test_noise_is_measured_over_repeats() -> None:
    runs = [{"y": A + np.float32(x)} for x in (0, 1e-3, -2e-3)]
    found = noise_of({"y": A, "words": WORDS, "gone": A}, [{**r, "words": WORDS} for r in runs])
    assert set(found) == {"y"}
    assert found["y"]["max_abs"] == pytest.approx(2e-3, rel=1e-3)
    assert found["y"]["runs"] == 3
    assert noise_of({"y": A}, []) == {}
    assert noise_of({"y": A}, [{"y": A * np.nan}])["y"]["max_abs"] == math.inf


def test_quantised_outputs_pass_by_their_angle() -> None:
    limit = tier_named("T5", "").tolerance
    assert one(A, np.round(A * 32) / 32, limit).status == "within"
    assert one(A, np.round(A), limit).status == "differs"


@settings(max_examples=60)
@given(
    hnp.arrays(np.float32, 12, elements=st.floats(-1e6, 1e6, width=32)),
    hnp.arrays(np.float32, 12, elements=st.floats(-1e6, 1e6, width=32)),
    st.booleans(),
)
def test_the_tolerance_needed_passes_and_less_does_not(
    ref: Array, new: Array, scaled: bool
) -> None:
    found = one(ref, new, lambda name, dtype: OutputTolerance(0.0, 0.0, scaled))
    needed = found.needed
    assert needed is not None
    if not math.isfinite(needed):
        return
    for share, bad in ((1 + 1e-9, False), (1 - 1e-6, found.status != "equal")):
        limit = OutputTolerance(needed * share, needed * share, scaled)
        again = one(ref, new, lambda name, dtype, limit=limit: limit)
        assert (again.status == "differs") == bad


@settings(max_examples=60)
@given(
    hnp.arrays(np.float64, (3, 4), elements=st.floats(width=64)),
    hnp.arrays(np.float64, (3, 4), elements=st.floats(width=64)),
)
def test_verdicts_agree_with_numpy(ref: Array, new: Array) -> None:
    limit = OutputTolerance(1e-3, 1e-3)
    found = one(ref, new, lambda name, dtype: limit)
    with np.errstate(all="ignore"):
        close = bool(np.isclose(new, ref, 1e-3, 1e-3, equal_nan=True).all())
    assert (found.status in ("equal", "within", "meaningless")) == close


def test_numbers_of_a_verdict() -> None:
    ref = np.array([[1.0, 2.0], [4.0, 3.0]], np.float32)
    new = np.array([[1.0, 2.5], [2.0, 3.0]], np.float32)
    found = one(ref, new, exact)
    assert (found.n, found.n_bad, found.max_abs, found.max_rel) == (4, 2, 2.0, 0.5)
    assert found.share_bad == 0.5
    assert found.argmax_agreement == 0.5
    assert found.max_ulp == 1 << 23
    assert found.worst is not None
    assert (found.worst.index, found.worst.old, found.worst.new) == ((1, 0), 4.0, 2.0)
    assert "[1, 0]" in found.message


# --- samples --------------------------------------------------------------------------------------


def test_a_sample_finds_what_it_sees_and_norms_find_the_rest() -> None:
    ref = RNG.normal(size=(1000, 30)).astype(np.float32)
    kept = sample(ref, seed=3, count=500)
    assert len(kept.values) == 500
    assert np.array_equal(kept.values, ref.reshape(-1)[kept.places])
    assert one(kept, ref).status == "equal"
    assert one(kept, ref).sampled
    far = one(kept, ref + 1)
    assert far.status == "differs"
    assert far.worst is not None
    assert far.worst.old == ref[far.worst.index]
    unseen = next(at for at in range(ref.size) if at not in set(kept.places.tolist()))
    for value, status in ((np.nan, "nonfinite"), (100.0, "differs")):
        new = ref.copy()
        new.reshape(-1)[unseen] = value
        assert one(kept, new).status == status
    assert one(kept, ref[:999]).status == "shape"
    assert "255 times" in one(kept, ref * 255).hints[0]


# --- hints ----------------------------------------------------------------------------------------


def changed(values: Array, index: Any, value: Any) -> Array:
    """Return a copy with one part set."""
    new = values.copy()
    new[index] = value
    return new


def softmax(x: Array) -> Array:
    power = np.exp(x)
    return np.asarray(power / power.sum(-1, keepdims=True))


HINTS: list[tuple[str, Any, Any, str]] = [
    ("scaled", A, A * 255, "is 255 times the recorded output"),
    ("scaled down", A, A / np.float32(127.5), "is 1/127.5 times the recorded output"),
    ("negated", A, -A, "is the negative of the recorded output"),
    ("shifted", A, A + 3, "is the recorded output plus 3"),
    ("affine", A, A * 2 - 1, "is 2 times the recorded output -1"),
    ("softmax lost", softmax(A), A, "lacks the softmax"),
    ("softmax twice", A, softmax(A), "is the softmax of the recorded output"),
    ("relu", A, np.maximum(A, 0), "is the relu of the recorded output"),
    ("rows", A, A[[3, 5, 4, 7, 0, 2, 1, 6]], "rows (examples) in another order: now [3, 5, 4, 7,"),
    ("reversed", A, A[:, ::-1], "columns (units of the last axis) in another order: reversed"),
    ("swapped", A, A[:, [0, 3, 2, 1, 4]], "1 and 3 have changed places"),
    ("rolled", A, np.roll(A, -2, 0), "rotated by 2"),
    ("transposed", A[:5], A[:5].T, "transposed (1, 0)"),
    ("turned", A, A.T, "transposed (1, 0)"),
    ("reshaped", A, A.reshape(4, 10), "the recorded values in another shape"),
    ("shorter", A, np.delete(A, 3, 1), "lacks unit 3 of the last axis; the others agree"),
    ("NaN unit", A, changed(A, np.s_[:, 2], np.nan), "NaN in unit 2 of the last axis only"),
    ("NaN rows", A, changed(A, 6, np.inf), "NaN or infinite in example 6 only"),
    ("NaN", A, A * np.nan, "NaN everywhere"),
    ("unit", A, changed(A, np.s_[:, 2], 9), "differs in unit 2 of the last axis only"),
    ("example", A, changed(A, 1, 9), "differs in example 1 only"),
    ("zero", A, A * 0, "is all zeros"),
    ("one value", A, A * 0 + 2, "is 2 everywhere"),
    ("dead input", A, np.broadcast_to(A[:1], A.shape), "the same for every example"),
    ("bf16", A, A.astype(ml_dtypes.bfloat16), "rounded to bfloat16"),
    ("bf16 inside", A, B.astype(ml_dtypes.bfloat16).astype(np.float32), "computed in bfloat16"),
    ("f16", A, A.astype(np.float16).astype(np.float32), "rounded to float16"),
    ("ids", np.arange(20), np.arange(20) - (np.arange(20) > 7), "from 8 on are 1 lower"),
    ("ids up", np.arange(20), np.arange(20) + 1, "every number is 1 higher"),
    (
        "text",
        WORDS_2,
        changed(WORDS_2, np.s_[:, 1], b"z"),
        "differs in unit 1 of the last axis only",
    ),
    ("text order", WORDS_12, WORDS_12[::-1], "recorded values in another order"),
]


@pytest.mark.parametrize(("ref", "new", "said"), [h[1:] for h in HINTS], ids=[h[0] for h in HINTS])
def test_hints(ref: Array, new: Array, said: str) -> None:
    if ref.dtype == np.float32 and new.dtype in (np.float16, np.float64):
        new = new.astype(np.float32)
    found = one(ref, new)
    assert not found.ok
    assert said in "; ".join(found.hints)


def test_what_passes_gets_no_hint() -> None:
    assert one(A, A * np.float32(1 + 3e-7)).hints == ()


def test_outputs_that_changed_places_or_names() -> None:
    swapped = compare_outputs({"a": A, "b": B}, {"a": B, "b": A}, T1)
    assert [r.hints for r in swapped] == [
        ("equals recorded output 'b'",),
        ("equals recorded output 'a'",),
    ]
    gone, come = compare_outputs({"a": A}, {"z": A}, T1)
    assert gone.hints == ("output 'z' has the recorded values: it was renamed",)
    assert come.hints == ("has the values recorded as 'a': it was renamed",)
    twins = compare_outputs({"a": A}, {"y": A, "z": A}, T1)
    assert not any(result.hints for result in twins)  # undecided, so unsaid


@settings(max_examples=60)
@given(
    hnp.arrays(np.float32, (4, 5), elements=st.floats(-100, 100, width=32)),
    hnp.arrays(np.float32, (4, 5), elements=st.floats(width=32)),
)
def test_any_pair_of_arrays_gets_a_verdict(ref: Array, new: Array) -> None:
    assert one(ref, new).status in ("equal", "within", "differs", "nonfinite")


@settings(max_examples=60)
@given(st.permutations(range(6)), st.permutations(range(7)))
def test_permutations_are_found(rows: list[int], columns: list[int]) -> None:
    ref = np.random.default_rng(1).normal(size=(6, 7))
    for new, moved, word in (
        (ref[rows], rows, "rows"),
        (ref[:, columns], columns, "columns"),
    ):
        found = one(ref, new)
        assert found.ok == (moved == sorted(moved))
        assert found.ok or word in found.hints[0]


# --- signatures -----------------------------------------------------------------------------------

X = TensorInfo("x", "float32", (None, 4))
Y = TensorInfo("y", "float32", (None, 2))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda i: i, []),
        (lambda i: i._replace(inputs=(X._replace(name="image"),)), [("error", "input.renamed")]),
        (lambda i: i._replace(outputs=(Y, X)), [("error", "output.added")]),
        (lambda i: i._replace(outputs=()), [("error", "output.missing")]),
        (lambda i: i._replace(inputs=(X._replace(dtype="int32"),)), [("error", "input.dtype")]),
        (lambda i: i._replace(inputs=(X._replace(shape=(1, 4)),)), [("note", "input.shape")]),
        (lambda i: i._replace(inputs=(X._replace(shape=(None, 5)),)), [("error", "input.shape")]),
    ],
)
def test_changes_of_the_interface(
    change: Callable[[ModelSignature], ModelSignature], expected: list[tuple[str, str]]
) -> None:
    recorded = ModelSignature((X,), (Y,))
    found = compare_signatures(recorded, change(recorded))
    assert [(row.severity, row.code) for row in found] == expected


def test_an_interface_survives_json() -> None:
    recorded = ModelSignature((X, TensorInfo("t", "string", None)), (Y,))
    assert ModelSignature.from_json(json.loads(json.dumps(recorded.to_json())), "x") == recorded
