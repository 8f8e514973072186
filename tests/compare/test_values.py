"""Metrics at their edges: between blocks and spans, closest ulps, angles, complex values."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from ckptkit._io.crc32c import value
from ckptkit.compare import kernel, spans, step
from ckptkit.compare.metrics import Meter, bits_differ
from ckptkit.compare.spans import SPAN_ELEMENTS, WorkItem, WorkResult, source_of
from ckptkit.compare.statistics import (
    EXACT,
    METRIC_BLOCK,
    SAFE_HIGH,
    SAFE_LOW,
    DiffStatistics,
    ElementTolerance,
)
from ckptkit.compare.tensors import Pair, compare, cosine_of
from ckptkit.dtypes import dtype_of_numpy
from support.weights import Array, MemoryStore, bundle


def measured(old: Array, new: Array, start: int = 0, pieces: int = 1) -> DiffStatistics:
    """Measure two arrays, handed to a meter in so many pieces."""
    meter = Meter(dtype_of_numpy(old.dtype), dtype_of_numpy(new.dtype), EXACT)
    cuts = np.linspace(0, len(old), pieces + 1).astype(int)
    for low, high in pairwise(cuts):
        meter.add(start + low, old[low:high], new[low:high])
    return meter.statistics


def between(old: Array, new: Array) -> Any:
    left, right = MemoryStore({"t": old}), MemoryStore({"t": new})
    return compare(Pair(left, "t", right, "t")).delta


# --- blocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f4", "f8", "i8", "u4", "c8", "O"])
@pytest.mark.parametrize("extra", [0, 1, 700])
def test_a_worst_element_in_a_later_block_keeps_its_place(dtype: str, extra: int) -> None:
    size = METRIC_BLOCK + 1 + extra
    old = np.full(size, b"a", object) if dtype == "O" else np.ones(size, dtype)
    new = old.copy()
    new[-1] = b"b" if dtype == "O" else 3
    found = measured(old, new, start=11)
    assert found.worst is not None and found.worst[1:] == (11 + size - 1, old[-1], new[-1])
    assert (found.n, found.n_diff, found.n_outside) == (size, 1, 1)


@pytest.mark.parametrize("dtype", ["f4", "f8", "i8", "c8"])
def test_bits_that_differ_in_a_later_block_keep_their_place(dtype: str) -> None:
    old = np.zeros(METRIC_BLOCK + 5, dtype)
    new = old.copy()
    new[-2] = 0.0 if dtype == "i8" else -0.0
    new[-1] = 1
    name = dtype_of_numpy(old.dtype)
    meter = Meter(name, name, EXACT, bitwise=True)
    meter.add(3, old, new)
    found = meter.statistics
    assert found.worst is not None and found.worst[1] == 3 + len(old) - 1
    assert found.n_diff == found.n_outside == (1 if dtype == "i8" else 2)


@pytest.mark.parametrize("size", [1, 8191, 8192, 8193, 3 * 8192, 3 * 8192 + 5])
def test_sums_of_squares_do_not_depend_on_how_products_are_cut(size: int) -> None:
    rng = np.random.default_rng(size)
    old, new = (rng.normal(size=size).astype(np.float32) for _ in range(2))
    found = measured(old, new)
    wide = [x.astype(np.float64) for x in (old, new, new.astype(float) - old)]
    sums = found.sum_sq_old, found.sum_sq_new, found.sum_sq_diff
    for got, values in zip(sums, wide, strict=True):
        assert got.root().number() == pytest.approx(np.linalg.norm(values), rel=1e-12)


def test_what_differs_and_what_is_not_a_number_is_counted_in_each_piece() -> None:
    old = np.array([0.0, 1.0, math.nan, math.inf, 2.0, math.nan, -3.0])
    new = np.array([0.0, 1.5, math.nan, -math.inf, 2.0, 1.0, -3.5])
    for pieces in (1, 2, 3, 7):
        found = measured(old, new, pieces=pieces)
        assert (found.n, found.n_finite, found.n_diff, found.nonfinite) == (7, 4, 4, 2)
        assert (found.max_abs, found.max_rel, found.sum_abs) == (0.5, 0.5, 1.0)
        assert found.worst is not None and found.worst[1] == 3


def test_the_tolerance_needed_is_that_of_elements_beyond_the_absolute_one() -> None:
    """One that is 0 and just within the absolute tolerance needs nothing."""
    old, new = np.array([0.0, 1.0, -2.0]), np.array([0.5, 2.5, -2.5])
    left, right = MemoryStore({"t": old}), MemoryStore({"t": new})
    delta = compare(Pair(left, "t", right, "t", ElementTolerance(0.0, 0.5))).delta
    assert delta.needed_rtol == pytest.approx(1.0) and delta.n_outside == 1
    beyond = compare(Pair(left, "t", right, "t", ElementTolerance(0.0, 0.4))).delta
    assert beyond.needed_rtol == math.inf


# --- units in the last place ----------------------------------------------------------------------


def closest_pairs(dtype: Any, distances: list[int]) -> tuple[Array, Array]:
    """Return pairs so many values apart, of the least relative change: the hardest to tell."""
    itemsize = np.dtype(dtype).itemsize
    codes = np.arange(1 << (8 * itemsize - 1), dtype=f"u{itemsize}")
    with np.errstate(all="ignore"):
        wide = codes.view(dtype).astype(np.float64)
    good = np.isfinite(wide) & (wide > 0)
    codes, wide = codes[good], wide[good]
    olds, news = [], []
    for distance in distances:
        up = (wide[distance:] - wide[:-distance]) / wide[:-distance]
        down = (wide[distance:] - wide[:-distance]) / wide[distance:]
        one, two = int(up.argmin()), int(down.argmin())
        if up[one] < down[two]:
            olds.append(codes[one])
            news.append(codes[one + distance])
        else:
            olds.append(codes[two + distance])
            news.append(codes[two])
    unsigned = f"u{itemsize}"
    return np.array(olds, unsigned).view(dtype), np.array(news, unsigned).view(dtype)


def closest_below_two(dtype: Any, distances: list[int]) -> tuple[Array, Array]:
    """The same of wide floats, whose values are too many to look at."""
    unsigned = f"u{np.dtype(dtype).itemsize}"
    two = np.array([2], dtype).view(unsigned)
    news = two - np.array(distances, unsigned)
    return np.full(len(distances), 2, dtype), news.view(dtype)


FEW = [1, 2, 3, 5, 8, 20, 100, 1000, 100_000]


@pytest.mark.parametrize(
    ("dtype", "distances"),
    [
        ("float8_e4m3fn", list(range(1, 120))),
        ("float8_e4m3", list(range(1, 110))),
        ("float8_e3m4", list(range(1, 100))),
        ("float8_e5m2", list(range(1, 115))),
        ("float8_e4m3fnuz", list(range(1, 120))),
        ("float8_e5m2fnuz", list(range(1, 120))),
        ("float8_e4m3b11fnuz", list(range(1, 120))),
        (ml_dtypes.bfloat16, [*range(1, 300), 1000, 5000, 20000]),
        (np.float16, [*range(1, 300), *range(300, 3000, 90), 9000, 20000, 31000]),
        (np.float32, FEW),
        (np.float64, FEW),
    ],
)
def test_each_step_further_is_seen_however_close_in_value(dtype: Any, distances: list[int]) -> None:
    """Elements are looked at only where their relative change may be of more steps than so far."""
    if isinstance(dtype, str):
        dtype = getattr(ml_dtypes, dtype, None) or pytest.skip(f"this ml_dtypes has no {dtype}")
    is_wide = np.dtype(dtype).itemsize > 2
    old, new = (closest_below_two if is_wide else closest_pairs)(dtype, distances)
    meter = Meter(dtype_of_numpy(np.dtype(dtype)), dtype_of_numpy(np.dtype(dtype)), EXACT)
    for at, distance in enumerate(distances):
        # among many that are equal, and alone
        beside = np.ones(40 * (at % 2), dtype)
        pair = [np.concatenate([x[at : at + 1], beside]) for x in (old, new)]
        meter.add(0, pair[0], pair[1])
        assert meter.statistics.max_ulp == distance


def test_equal_tensors_are_no_steps_apart() -> None:
    ones = np.ones(3, np.float32)
    assert between(ones, ones).max_ulp == 0
    assert between(ones, ones.astype(np.float64)).max_ulp is None
    assert between(ones.astype(np.int32), ones.astype(np.int32)).max_ulp is None


def test_equal_files_say_the_same_as_equal_values(tmp_path: Path) -> None:
    for number, dtype in enumerate(("f4", "i4", "f8")):
        values = np.arange(5).astype(dtype)
        left, right = (bundle(tmp_path / f"{number}{side}", {"t": values}) for side in "ab")
        found = compare(Pair(left, "t", right, "t")).delta
        assert found == between(values, values)
        assert found.max_ulp == (None if dtype == "i4" else 0)


# --- angles ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ([2.0, 0.0], [1.0, 0.0]),
        ([2.0, 0.0], [6.0, 0.0]),
        ([1.0, 2.0], [2.0, 1.0]),
        ([1.0, 2.0], [0.5, 1.1]),
        ([1.0, 2.0], [-3.0, -6.0]),
        ([3.0, 4.0], [-4.0, 3.0]),
        ([1e-200, 2e-200], [3e-200, 1e-200]),
    ],
)
def test_the_cosine_is_that_of_its_definition(old: list[float], new: list[float]) -> None:
    a, b = (np.array(x) / np.abs(x).max() for x in (old, new))
    want = float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
    assert between(np.array(old), np.array(new)).cosine == pytest.approx(want, abs=1e-12)
    assert cosine_of(measured(np.array(old), np.array(new))) == pytest.approx(want, abs=1e-12)


# --- complex, opaque and bits ---------------------------------------------------------------------


def test_complex_numbers_are_the_same_only_in_both_parts() -> None:
    nan, inf = math.nan, math.inf
    old = [complex(nan, 1), complex(1, nan), complex(inf, 0), complex(2, 2), complex(nan, nan)]
    new = [complex(1, 1), complex(1, nan), complex(inf, 1), complex(2, 3), complex(nan, nan)]
    delta = between(np.array(old), np.array(new))
    assert (delta.n_diff, delta.nonfinite, delta.max_abs) == (3, 2, 1.0)
    assert delta.worst is not None and delta.worst.index == (0,)


@pytest.mark.parametrize("dtype", ["i1", "f2", "f4", "f8", "c8", "c16"])
def test_bits_differ_wherever_one_does(dtype: str) -> None:
    values = np.arange(1, 6).astype(dtype)
    for at in range(values.nbytes):
        raw = bytearray(values.tobytes())
        raw[at] ^= 0x10
        found = bits_differ(values, np.frombuffer(bytes(raw), dtype))
        assert np.flatnonzero(found).tolist() == [at // values.itemsize]


def test_opaque_values_that_one_side_has_alone_differ() -> None:
    pieces = np.array([b"ab", b"c", b"d"], object)
    for shorter, longer in ((pieces[:1], pieces), (pieces, pieces[:1])):
        left, right = MemoryStore({"t": shorter}), MemoryStore({"t": longer})
        item = WorkItem(
            0, source_of(left, "t"), source_of(right, "t"), 0, 3, "metrics", EXACT, False
        )
        [result] = spans.do_items((item,))
        assert result.statistics is not None
        assert (result.statistics.n_diff, result.statistics.n_outside) == (2, 2)


def test_differences_are_new_less_old(tmp_path: Path) -> None:
    size = METRIC_BLOCK + 9
    old = np.arange(size, dtype=np.float32)
    new = old[::-1].copy()
    for left, right in (
        (bundle(tmp_path / "old", {"t": old}), bundle(tmp_path / "new", {"t": new})),
        (MemoryStore({"t": old}, 700), MemoryStore({"t": new}, 900)),
    ):
        parts = spans.differences(source_of(left, "t"), source_of(right, "t"), size)
        found = np.concatenate([part.copy() for part in parts])
        assert found.dtype == np.float64
        assert np.array_equal(found, new.astype(np.float64) - old)


# --- spans ----------------------------------------------------------------------------------------


def items(*sizes: int) -> list[WorkItem]:
    source = source_of(MemoryStore({"t": np.zeros(1)}), "t")
    return [
        WorkItem(at, source, source, 0, size, "metrics", EXACT, False)
        for at, size in enumerate(sizes)
    ]


def test_items_are_handed_over_in_order_in_groups_that_are_worth_it() -> None:
    tiny = SPAN_ELEMENTS >> 12  # so many small ones weigh as much as a span
    sizes = [SPAN_ELEMENTS, 1, SPAN_ELEMENTS - 4096, *[4095] * tiny, 7]
    groups = list(spans.batched(iter(items(*sizes))))
    assert [item.pair for group in groups for item in group] == list(range(len(sizes)))
    assert [len(group) for group in groups] == [1, 2, tiny, 1]


def test_checksums_of_items_join_to_that_of_the_tensor() -> None:
    data = np.arange(10, dtype=np.float32)
    cuts = [(0, 4), (4, 5), (5, 10)]
    results = [
        WorkResult(0, a, b, None, value(data[a:b].tobytes()), value(data[a:b][::-1].tobytes()))
        for a, b in cuts
    ]
    turned = b"".join(data[a:b][::-1].tobytes() for a, b in cuts)
    assert spans.combined_crc(results, 4, 0) == value(data.tobytes())
    assert spans.combined_crc(results, 4, 1) == value(turned)
    assert spans.combined_crc(results[:1], 4, 0) == value(data[:4].tobytes())
    assert spans.combined_crc([], 4, 0) == 0


def test_span_bounds_tile_a_tensor() -> None:
    for size in (0, 1, SPAN_ELEMENTS, SPAN_ELEMENTS + 1, 3 * SPAN_ELEMENTS):
        bounds = list(spans.span_bounds(size))
        assert sum(stop - start for start, stop in bounds) == size
        assert all(start == at * SPAN_ELEMENTS for at, (start, _) in enumerate(bounds))


def test_a_tensor_is_cut_where_reports_that_are_kept_were_cut() -> None:
    """The last digits of sums depend on blocks; what a machine keeps in memory, on spans."""
    assert (METRIC_BLOCK, SPAN_ELEMENTS) == (65_536, 4_194_304)
    assert len(list(spans.span_bounds(4_194_305))) == 2


# --- blocks that reach what was found before ------------------------------------------------------


@pytest.mark.parametrize("by", ["numpy", ""])
def test_the_worst_so_far_is_held_against_how_far_it_was_not_against_its_place(
    monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.setenv(kernel.VARIABLE, by)
    old = np.ones(20)
    new = old.copy()
    new[7], new[15] = 1.5, 4.0
    found = measured(old, new, pieces=2)
    assert found.worst == (3.0, 15, 1.0, 4.0)


def test_what_a_block_with_a_nan_adds_does_not_hang_on_the_block_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(kernel.VARIABLE, "numpy")
    old = np.ones(20, np.float32)
    new = old.copy()
    new[9], new[10], new[12] = 1.5, np.nan, 4.0
    assert measured(old, new, pieces=2).max_rel == 3.0


def test_the_tolerance_that_a_subnormal_number_needs_is_not_rounded_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(kernel.VARIABLE, "numpy")
    least = math.ulp(0.0)
    meter = Meter("float64", "float64", ElementTolerance(0.0, least))
    meter.add(0, np.array([1.0]), np.array([1.75]))
    meter.add(1, np.array([least]), np.array([3 * least]))
    # beyond the absolute tolerance it lies 1 * least, which is all of it
    assert meter.statistics.needed_rtol == 1.0


# --- the compiled library -------------------------------------------------------------------------

compiled = pytest.mark.skipif(
    not kernel.description().startswith("compiled"), reason=kernel.description()
)


def loaded(wanted: str) -> Any:
    """Load the library anew, as the environment would want it."""
    return kernel._load.__wrapped__(wanted)


@compiled
def test_a_library_that_computes_otherwise_is_not_used() -> None:
    library = loaded("").library
    assert library is not None and kernel._is_sound(library)

    def turned(state: int, old: int, new: int, *others: int) -> int:
        return int(library.measure(state, new, old, *others))

    def short(state: int, old: int, new: int, size: int, start: int) -> int:
        return int(library.measure(state, old, new, size - 1, start)) + 1

    for measure in (turned, short):
        assert not kernel._is_sound(library._replace(measure=measure))


@compiled
def test_the_environment_says_who_measures() -> None:
    assert loaded("numpy") == (None, f"numpy: {kernel.VARIABLE} says so")
    best, plain = loaded(""), loaded("baseline")
    assert plain.library.processor == 0 <= best.library.processor
    assert plain.why == f"compiled, baseline, since {kernel.VARIABLE} says so"
    assert best.why in {f"compiled, {name}" for name in ("baseline", "avx2", "avx512")}


@compiled
def test_the_library_measures_plain_numbers_and_leaves_the_rest() -> None:
    for dtype in ("float64", "float32", "float16", "bfloat16", "int8", "uint32"):
        assert kernel.compiled_meter(dtype, dtype, EXACT) is not None
    assert kernel.compiled_meter("float32", "float64", ElementTolerance(1e-3, 1e-5)) is not None
    for old, new in (("string", "string"), ("complex64", "complex64"), ("float32", "int64")):
        assert kernel.compiled_meter(old, new, EXACT) is None
    for tolerance in (ElementTolerance(1e7, 0.0), ElementTolerance(0.0, math.inf)):
        assert kernel.compiled_meter("float32", "float32", tolerance) is None


@compiled
def test_a_step_is_measured_by_the_library_only_where_it_computes_as_python() -> None:
    measure = step._load.__wrapped__("")
    assert measure is not None and step._is_sound(measure) is True
    assert step._load.__wrapped__("numpy") is None
    assert step._is_sound(lambda address: 0) is False
    for name in ("total", "squares", "low", "high", "changes", "turns", "zeros"):

        def other(address: int, name: str = name) -> int:
            done = int(measure(address))
            block = step.StepBlock.from_address(address)
            setattr(block, name, getattr(block, name) + 1)
            return done

        assert step._is_sound(other) is False, name


SOURCE = Path(kernel.__file__).with_name("kernel.c")


@pytest.mark.skipif(not SOURCE.is_file(), reason="a wheel holds no sources in C")
def test_the_compiled_part_takes_sums_of_squares_within_the_same_bounds() -> None:
    source = SOURCE.read_text(encoding="utf-8")
    bounds = dict(re.findall(r"#define (SAFE_\w+) (\S+)", source))
    assert {name: float(bound) for name, bound in bounds.items()} == {
        "SAFE_LOW": SAFE_LOW,
        "SAFE_HIGH": SAFE_HIGH,
    }


@compiled
def test_the_environment_says_who_measures_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(kernel.VARIABLE, raising=False)
    assert step.compiled_step() is not None
    monkeypatch.setenv(kernel.VARIABLE, "numpy")
    assert step.compiled_step() is None
