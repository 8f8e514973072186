"""Comparing tensors by value: rules of equality, metrics, checksums, spans, speed paths."""

from __future__ import annotations

import math
import os
import random
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ckptkit._io.crc32c import combine, crc_of_repeated, value
from ckptkit._io.progress import ProgressMeter
from ckptkit.compare import spans
from ckptkit.compare.tensors import (
    Delta,
    ElementTolerance,
    Pair,
    TensorComparison,
    compare,
    compare_all,
    unravel,
)
from ckptkit.errors import ChecksumError, UsageError
from ckptkit.stores.tensor_bundle.reader import open_bundle
from support.weights import Array, MemoryStore, bundle

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT_DTYPES = [
    np.float32,
    np.float64,
    np.float16,
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e5m2,
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e4m3b11fnuz,
]


def in_memory(old: Any, new: Any, rtol: float = 0, atol: float = 0, bitwise: bool = False) -> Delta:
    """Compare two arrays through stores that stream."""
    left, right = MemoryStore({"t": np.asarray(old)}, 7), MemoryStore({"t": np.asarray(new)}, 5)
    return compare(Pair(left, "t", right, "t", ElementTolerance(rtol, atol), bitwise)).delta


def in_files(
    folder: Path, old: Array, new: Array, rtol: float = 0, atol: float = 0, bitwise: bool = False
) -> TensorComparison:
    """Compare two arrays through bundles on disk."""
    left, right = bundle(folder / "old", {"t": old}), bundle(folder / "new", {"t": new})
    return compare(Pair(left, "t", right, "t", ElementTolerance(rtol, atol), bitwise))


def reference(old: Array, new: Array, rtol: float, atol: float) -> dict[str, Any]:
    """The metrics, straight from their definitions, in long double."""
    a, b = old.astype(np.longdouble).ravel(), new.astype(np.longdouble).ravel()
    finite = np.isfinite(a) & np.isfinite(b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    bad = ~finite & ~same
    with np.errstate(all="ignore"):
        gap = np.abs(b - a)
        inside = np.where(finite, gap <= atol + rtol * np.abs(a), same)
    f, g = a[finite], gap[finite]
    nonzero = f != 0
    return {
        "n": a.size,
        "n_diff": int((~same).sum()),
        "n_outside": int((~inside).sum()),
        "nonfinite": int(bad.sum()),
        "max_abs": float(g.max(initial=0)),
        "max_rel": float((g[nonzero] / np.abs(f[nonzero])).max(initial=0)),
        "mean_abs": float(g.mean()) if g.size else 0.0,
        "rmse": float(np.sqrt((g * g).mean())) if g.size else 0.0,
    }


ELEMENTS = st.one_of(
    st.floats(-1e3, 1e3, width=32),
    st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf, 1e-20, -1e-20]),
)


@settings(max_examples=150)
@given(
    pair=hnp.array_shapes(max_dims=3, max_side=6).flatmap(
        lambda shape: st.tuples(
            hnp.arrays(np.float32, shape, elements=ELEMENTS),
            hnp.arrays(np.float32, shape, elements=ELEMENTS),
        )
    ),
    rtol=st.sampled_from([0.0, 1e-3, 0.5]),
    atol=st.sampled_from([0.0, 1e-6, 1.0]),
)
def test_metrics_follow_their_definitions(
    pair: tuple[Array, Array], rtol: float, atol: float
) -> None:
    old, new = pair
    delta = in_memory(old, new, rtol, atol)
    want = reference(old, new, rtol, atol)
    for name in ("n", "n_diff", "n_outside", "nonfinite"):
        assert getattr(delta, name) == want[name], name
    for name in ("max_abs", "max_rel", "mean_abs", "rmse"):
        assert getattr(delta, name) == pytest.approx(want[name], rel=1e-12), name


@settings(max_examples=150)
@given(
    pair=st.integers(1, 20).flatmap(
        lambda n: st.tuples(
            hnp.arrays(np.float32, n, elements=st.floats(-1e3, 1e3, width=32)),
            hnp.arrays(np.float32, n, elements=st.floats(-1e3, 1e3, width=32)),
        )
    ),
    atol=st.sampled_from([0.0, 1e-3, 1.0]),
)
def test_needed_rtol_is_the_smallest_that_passes(pair: tuple[Array, Array], atol: float) -> None:
    old, new = pair
    needed = in_memory(old, new, 0.0, atol).needed_rtol
    assert needed is not None
    if math.isinf(needed):
        assert not in_memory(old, new, 1e300, atol).ok
        return
    assert in_memory(old, new, needed, atol).ok
    # what a bound of this size tells apart, as a relative tolerance of the smallest element
    least = float(np.abs(old[old != 0], dtype=np.float64).min(initial=math.inf))
    step = 4 * float(np.spacing(np.abs(new.astype(np.float64) - old).max())) / least
    less = needed - max(needed * 1e-9, step)
    if less > 1e-12:
        assert not in_memory(old, new, less, atol).ok


def test_nan_is_equal_only_in_the_same_place() -> None:
    same = in_memory([1.0, math.nan], [1.0, math.nan])
    assert same.equal and same.nonfinite == 0
    moved = in_memory([math.nan, 1.0, 2.0], [1.0, math.nan, 2.0])
    assert (moved.n_diff, moved.nonfinite, moved.max_abs) == (2, 2, 0.0)
    assert moved.worst is not None and moved.worst.index == (0,)
    assert math.isnan(moved.worst.old) and moved.worst.new == 1.0
    assert moved.needed_rtol == math.inf


def test_infinities_are_equal_by_sign() -> None:
    assert in_memory([math.inf, -math.inf], [math.inf, -math.inf]).equal
    assert in_memory([math.inf], [-math.inf], rtol=1, atol=1e9).nonfinite == 1
    assert not in_memory([1.0], [math.inf], rtol=1e300).ok


def test_signed_zeros_differ_only_in_bits(tmp_path: Path) -> None:
    old, new = np.zeros(3, np.float32), np.array([0, -0.0, 0], np.float32)
    assert in_memory(old, new).equal
    assert in_files(tmp_path, old, new).delta.equal
    bits = in_memory(old, new, bitwise=True)
    assert bits.n_diff == 1 and bits.max_abs == 0 and bits.max_ulp == 0
    assert bits.worst is not None and bits.worst.index == (1,)


def test_bitwise_sees_the_payload_of_a_nan_and_knows_no_tolerance() -> None:
    old = np.array([0x7FC00000, 0x3F800000], np.uint32).view(np.float32)
    new = np.array([0x7FC00001, 0x3F800001], np.uint32).view(np.float32)
    assert in_memory(old, new, rtol=1e-3).n_outside == 0
    delta = in_memory(old, new, rtol=1e-3, bitwise=True)
    assert (delta.n_diff, delta.n_outside) == (2, 2)


def test_one_element_of_a_bfloat16_tensor(tmp_path: Path) -> None:
    old = np.linspace(-1, 1, 500).astype(BFLOAT16).reshape(20, 25)
    new = old.copy()
    new[7, 3] = np.nextafter(new[7, 3], BFLOAT16.type(9))
    delta = in_files(tmp_path, old, new).delta
    assert (delta.n_diff, delta.n, delta.max_ulp) == (1, 500, 1)
    assert delta.worst is not None and delta.worst.index == (7, 3)


def test_a_permuted_tensor_differs_though_its_statistics_agree() -> None:
    old = np.arange(1, 13, dtype=np.float32).reshape(4, 3)
    delta = in_memory(old, old[::-1].copy())
    assert delta.n_diff == 12 and delta.same_norm


def test_tiny_values_with_large_relative_change() -> None:
    old = np.full(10, 1e-20, np.float32)
    delta = in_memory(old, old * 2)
    assert delta.n_diff == 10
    assert delta.max_rel == pytest.approx(1.0)
    assert delta.rel_l2 == pytest.approx(1.0)
    assert delta.max_ulp == 1 << 23


@pytest.mark.parametrize("scale", [1e-300, 1e300, 5e-324])
def test_norms_neither_underflow_nor_overflow(scale: float) -> None:
    old = np.array([3.0, 4.0]) * scale
    delta = in_memory(old, old * 2)
    assert delta.rel_l2 == pytest.approx(1.0)
    assert delta.cosine == pytest.approx(1.0)
    assert delta.rmse == pytest.approx(math.sqrt(12.5) * scale, rel=1e-9, abs=5e-324)


def test_a_difference_that_overflows_is_infinite_not_missing() -> None:
    delta = in_memory(np.array([-1.7e308]), np.array([1.7e308]))
    assert delta.n_diff == 1 and delta.max_abs == math.inf and delta.nonfinite == 0


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_ulps_count_representable_values(dtype: Any) -> None:
    dtype = np.dtype(dtype)
    top = {1: 0x7F, 2: 0x7FFF, 4: 0x7FFFFFFF, 8: (1 << 63) - 1}[dtype.itemsize]
    unsigned = np.dtype(f"u{dtype.itemsize}")
    codes = random.Random(3).sample(range(1, min(top, 1 << 30) // 2), 20)
    for one, two in zip(codes[::2], codes[1::2], strict=True):
        positive = np.array([one, two], unsigned).view(dtype)
        assert in_memory(positive[:1], positive[1:]).max_ulp == abs(one - two)
        assert in_memory(-positive[:1], positive[1:]).max_ulp == one + two
        assert in_memory(-positive[:1], -positive[1:]).max_ulp == abs(one - two)


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_the_largest_ulp_is_found_among_many(dtype: Any) -> None:
    """Most elements are not looked at closely; none that counts may be among those."""
    dtype = np.dtype(dtype)
    rng = np.random.default_rng(5)
    unsigned = np.dtype(f"u{dtype.itemsize}")
    half = 1 << (8 * dtype.itemsize - 2)
    old = rng.integers(0, half, 3000, dtype=unsigned)
    steps = rng.integers(0, 6, 3000).astype(unsigned)
    values, others = old.view(dtype), (old + steps).view(dtype)
    left, right = MemoryStore({"t": values}, 100), MemoryStore({"t": others}, 100)
    delta = compare(Pair(left, "t", right, "t")).delta
    finite = np.isfinite(values.astype(float)) & np.isfinite(others.astype(float))
    assert delta.max_ulp == steps[finite].max()


def test_ulps_across_zero_in_a_block_with_other_signs() -> None:
    tiny = np.float32(1e-45)  # the smallest subnormal
    delta = in_memory(np.array([-tiny, 1, -2]), np.array([tiny, 1, -2], np.float64))
    assert delta.max_ulp is not None and delta.max_ulp > 2
    old, new = np.array([-tiny, 1, -2], np.float32), np.array([tiny, 1, -2], np.float32)
    assert in_memory(old, new).max_ulp == 2


def test_dtypes_without_sign_or_of_four_bits_have_ulps_too() -> None:
    if not hasattr(ml_dtypes, "float8_e8m0fnu"):
        pytest.skip("this ml_dtypes has no float8_e8m0fnu")
    powers = np.array([1.0, 2.0, 8.0]).astype(ml_dtypes.float8_e8m0fnu)
    assert in_memory(powers[:1], powers[2:]).max_ulp == 3
    four = np.array([0.5, -0.5, 6.0]).astype(ml_dtypes.float4_e2m1fn)
    assert in_memory(four[:1], four[1:2]).max_ulp == 2
    assert in_memory(four[:1], four[2:]).max_ulp == 6


def test_integers_are_exact_whatever_the_tolerance() -> None:
    delta = in_memory(np.array([1, 2, 3]), np.array([1, 2, 4]), rtol=10, atol=10)
    assert (delta.n_diff, delta.n_outside, delta.max_abs) == (1, 1, 1)
    assert isinstance(delta.max_abs, int) and delta.needed_rtol is None


@pytest.mark.parametrize(
    ("dtype", "old", "new"),
    [
        (np.int64, 2**60, 2**60 + 1),
        (np.int64, -(2**63), 2**63 - 1),
        (np.uint64, 2**64 - 2, 2**64 - 1),
        (np.uint64, 0, 2**64 - 1),
    ],
)
def test_64_bit_integers_lose_nothing(dtype: Any, old: int, new: int) -> None:
    delta = in_memory(np.array([5, old], dtype), np.array([5, new], dtype))
    assert delta.n_diff == 1
    assert delta.max_abs == new - old
    assert delta.worst is not None and (delta.worst.old, delta.worst.new) == (old, new)


def test_booleans_and_strings() -> None:
    delta = in_memory([True, False], [True, True])
    assert delta.n_diff == 1 and delta.worst is not None and delta.worst.new is True
    words = in_memory(np.array([b"a", b"b"], object), np.array([b"a", b"c"], object))
    assert words.n_diff == 1 and words.worst is not None
    assert (words.worst.index, words.worst.old, words.worst.new) == ((1,), b"b", b"c")
    assert words.max_ulp is None and words.needed_rtol is None


def test_complex_numbers() -> None:
    old = np.array([3 + 4j, complex(math.nan, 1)], np.complex64)
    assert in_memory(old, old.copy()).equal
    new = np.array([3 + 5j, complex(math.nan, 2)], np.complex64)
    delta = in_memory(old, new)
    assert (delta.n_diff, delta.nonfinite, delta.max_abs) == (2, 1, 1.0)
    assert delta.max_rel == pytest.approx(0.2)
    assert in_memory([3 + 4j], [3 + 4.5j], atol=0.5).ok


def test_empty_and_scalar_tensors(tmp_path: Path) -> None:
    empty = np.zeros((0, 4), np.float32)
    delta = in_files(tmp_path, empty, empty).delta
    assert delta.equal and delta.n == 0
    assert in_memory(empty, empty).equal
    scalar = in_memory(np.float32(1), np.float32(2))
    assert scalar.worst is not None and scalar.worst.index == ()


def test_other_dtypes_are_compared_after_an_exact_upcast() -> None:
    half = np.array([1.5, 2.25], np.float16)
    assert in_memory(half, half.astype(np.float32)).equal
    assert in_memory(half, half.astype(np.float32)).max_ulp is None
    rounded = in_memory(np.array([1.1], np.float64), np.array([1.1], np.float32))
    assert rounded.n_diff == 1
    assert in_memory(np.array([2**53 + 1]), np.array([2.0**53])).n_diff == 1
    assert in_memory(np.array([2**53]), np.array([2.0**53])).equal
    for dtype in (np.complex64, np.complex128):
        floats = np.array([2.0**53, 2.0**53], dtype)
        assert in_memory(np.array([2**53 + 1, 2**53]), floats).n_diff == 1
        assert in_memory(floats, np.array([2**53 + 1, 2**53])).n_diff == 1
    assert in_memory(np.array([True]), np.array([1], np.int8)).equal
    assert in_memory(np.array([2**63], np.uint64), np.array([-1])).n_diff == 1


def test_shapes_are_never_broadcast_and_strings_never_numbers() -> None:
    with pytest.raises(UsageError, match=r"\(1, 3\).*\(3,\)"):
        in_memory(np.zeros((1, 3)), np.zeros(3))
    with pytest.raises(UsageError, match="string"):
        in_memory(np.zeros(1), np.array([b"0"], object))


def test_worst_is_measured_against_the_tolerance_not_in_absolute_terms() -> None:
    old, new = np.array([1000.0, 1.0]), np.array([1000.5, 1.1])
    delta = in_memory(old, new, rtol=1e-3)
    assert delta.max_abs == 0.5
    assert (delta.n_diff, delta.n_outside) == (2, 1)
    assert delta.worst is not None and delta.worst.index == (1,)


def test_worst_is_never_an_element_that_is_equal() -> None:
    delta = in_memory(np.array([0.0, 10.0]), np.array([0.0, 10.1]), rtol=0.1)
    assert delta.ok and delta.worst is not None and delta.worst.index == (1,)


def test_cosine_and_relative_change() -> None:
    delta = in_memory(np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    assert delta.cosine == pytest.approx(0.0, abs=1e-15)
    assert delta.rel_l2 == pytest.approx(math.sqrt(2))
    assert in_memory(np.array([1.0, 2.0]), np.array([-1.0, -2.0])).cosine == pytest.approx(-1.0)
    assert in_memory(np.zeros(2), np.ones(2)).cosine is None
    assert in_memory(np.zeros(2), np.ones(2)).rel_l2 == math.inf


# -- files: spans, checksums, executors ------------------------------------------------------------


@pytest.fixture
def small_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "SPAN_ELEMENTS", 1 << 15)


@pytest.mark.usefixtures("small_spans")
def test_spans_give_what_one_pass_gives(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    old = rng.standard_normal(200_001).astype(np.float32)
    for changed in (slice(0, 1), slice(150_000, 150_010), slice(200_000, None), slice(None)):
        new = old.copy()
        new[changed] *= 1.5
        new[changed][:1] = math.nan
        left, right = MemoryStore({"t": old}, 4000), MemoryStore({"t": new}, 7000)
        streamed = compare(Pair(left, "t", right, "t", ElementTolerance(0.1))).delta
        spanned = in_files(tmp_path, old, new, rtol=0.1)
        for file in tmp_path.iterdir():
            file.unlink()
        for name in ("n", "n_diff", "n_outside", "nonfinite", "max_abs", "max_ulp"):
            assert getattr(spanned.delta, name) == getattr(streamed, name), name
        for name in ("rel_l2", "cosine", "mean_abs", "rmse"):
            want = getattr(streamed, name)
            assert getattr(spanned.delta, name) == pytest.approx(want, rel=1e-9), name
        assert spanned.delta.worst is not None and streamed.worst is not None
        assert spanned.delta.worst.index == streamed.worst.index
        assert spanned.old_crc == value(old.tobytes())
        assert spanned.new_crc == value(new.tobytes())


@pytest.mark.usefixtures("small_spans")
@pytest.mark.parametrize("kind", ["none", "threads", "processes"])
def test_every_executor_gives_the_same(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(1)
    arrays = {f"t{i:02}": rng.standard_normal(1 + i * 7919).astype(np.float32) for i in range(12)}
    changed = {k: a + (np.arange(a.size) > 40_000).astype(np.float32) for k, a in arrays.items()}
    old, new = bundle(tmp_path / "old", arrays), bundle(tmp_path / "new", changed)
    pairs = [Pair(old, key, new, key) for key in arrays]
    plain = list(compare_all(pairs))
    total = sum(a.nbytes for a in arrays.values())
    calls: list[tuple[str, int, int]] = []
    meter = ProgressMeter(lambda *call: calls.append(call), "compared", total)
    if kind == "none":
        found = list(compare_all(pairs, None, meter=meter))
    elif kind == "threads":
        with ThreadPoolExecutor(3) as threads:
            found = list(compare_all(pairs, threads, meter))
    else:
        with ProcessPoolExecutor(2, get_context("spawn")) as processes:
            found = list(compare_all(pairs, processes, meter))
    assert found == plain
    assert calls[-1] == ("compared", total, total)
    assert [c.delta.equal for c in found] == [a.size <= 40_001 for a in arrays.values()]


def flip(path: Path, at: int) -> None:
    """Flip one bit of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


@pytest.mark.usefixtures("small_spans")
@pytest.mark.parametrize("side", ["old", "new"])
@pytest.mark.parametrize("equal", [True, False])
def test_damage_is_an_error_not_a_difference(tmp_path: Path, side: str, equal: bool) -> None:
    old = np.arange(100_000, dtype=np.float32)
    bundle(tmp_path / "old", {"t": old})
    bundle(tmp_path / "new", {"t": old if equal else old + 1})
    flip(tmp_path / f"{side}.data-00000-of-00001", 399_999)
    stores = {name: open_bundle(tmp_path / name) for name in ("old", "new")}
    with pytest.raises(ChecksumError, match=f"{side}.data.*verify"):
        compare(Pair(stores["old"], "t", stores["new"], "t"))


def test_the_same_damage_on_both_sides_is_found(tmp_path: Path) -> None:
    old = np.arange(1000, dtype=np.float32)
    for side in ("old", "new"):
        bundle(tmp_path / side, {"t": old})
        flip(tmp_path / f"{side}.data-00000-of-00001", 77)
    left, right = open_bundle(tmp_path / "old"), open_bundle(tmp_path / "new")
    with pytest.raises(ChecksumError):
        compare(Pair(left, "t", right, "t"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_stays_flat(tmp_path: Path) -> None:
    """Two sparse files of 512 MiB; the limit is far below either."""
    import subprocess
    import sys

    size = 512 << 20
    for side in ("old", "new"):
        bundle(tmp_path / side, {"t": np.zeros(4, np.float32)})
        os.truncate(tmp_path / f"{side}.data-00000-of-00001", size)
    code = """
import re, sys
from pathlib import Path
from ckptkit.compare.spans import FileSpan, WorkItem, do_items
from ckptkit.compare.tensors import EXACT
runs = [FileSpan(Path(p), 0, 512 << 20, "float32", None) for p in sys.argv[1:]]
part = do_items((WorkItem(0, *runs, 0, 128 << 20, "equality", EXACT, False),))[0]
part2 = do_items((WorkItem(0, *runs, 0, 1 << 22, "metrics", EXACT, False),))[0]
assert part.statistics is None and part2.statistics.n == 1 << 22
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""
    paths = [str(tmp_path / f"{side}.data-00000-of-00001") for side in ("old", "new")]
    done = subprocess.run(
        [sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 100_000  # KiB


# -- checksums of parts ----------------------------------------------------------------------------


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_checksums_of_parts_join(first: bytes, second: bytes) -> None:
    assert combine(value(first), value(second), len(second)) == value(first + second)


@pytest.mark.parametrize("pattern", [b"\0", b"\0\0\x80?", b"abc"])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 1000])
def test_checksum_of_a_repeated_pattern(pattern: bytes, count: int) -> None:
    assert crc_of_repeated(pattern, count * len(pattern)) == value(pattern * count)


def test_unravel_is_row_major() -> None:
    shape = (3, 4, 5)
    for flat in (0, 17, 59):
        assert unravel(flat, shape) == tuple(map(int, np.unravel_index(flat, shape)))
    assert unravel(0, ()) == ()
