"""Verdicts on outputs, with what is said of a difference, change on purpose alone.

Numbers are kept to three digits, since processors add in different orders.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from ckptkit.model_io.compare_outputs import compare_outputs, noise_of
from ckptkit.model_io.results import OutputResult
from ckptkit.model_io.sampling import sample
from ckptkit.model_io.tiers import tier_named
from support import pinned

HERE = Path(__file__).parent
Array = Any


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _with(at: Any, value: Any) -> Callable[[Array], Array]:
    def change(x: Array) -> Array:
        x = x.copy()
        x[at] = value
        return x

    return change


CHANGES: dict[str, Callable[[Array], Array]] = {
    "same": lambda x: x.copy(),
    "a little": lambda x: x * (1 + 2e-7),
    "little": lambda x: x * (1 + 3e-6),
    "1e-4": lambda x: x + 1e-4,
    "scaled": lambda x: x * 1.01,
    "doubled": lambda x: x * 2,
    "moved": lambda x: x + 0.5,
    "both": lambda x: x * 3 - 1,
    "negative": lambda x: -x,
    "255": lambda x: x * 255,
    "softmax": _softmax,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "log": lambda x: np.log(np.abs(x) + 1e-3),
    "zero": np.zeros_like,
    "constant": lambda x: np.full_like(x, 0.25),
    "one row for all": lambda x: np.broadcast_to(x[:1], x.shape).copy(),
    "columns turned": lambda x: x[..., ::-1].copy(),
    "two columns": lambda x: x[..., [1, 0, *range(2, x.shape[-1])]],
    "rows turned": lambda x: x[::-1].copy(),
    "rows shifted": lambda x: np.roll(x, 1, axis=0),
    "one column": lambda x: np.where(np.arange(x.shape[-1]) == 1, x * 1.5, x),
    "one row": lambda x: np.concatenate([x[:2], x[2:3] + 1, x[3:]]),
    "one element": _with((2, 1), 9.0),
    "half": lambda x: x.astype(np.float16).astype(x.dtype),
    "bfloat16": lambda x: x.astype(ml_dtypes.bfloat16).astype(x.dtype),
    "rounded": lambda x: np.round(x, 2),
    "NaN": _with((1, 2), np.nan),
    "NaN in a column": _with((slice(None), 2), np.nan),
    "all NaN": lambda x: np.full_like(x, np.nan),
    "infinite": _with((0, 0), np.inf),
    "float64": lambda x: x.astype(np.float64),
    "float16": lambda x: x.astype(np.float16),
    "whole": lambda x: np.round(x).astype(np.int32),
    "transposed": lambda x: x.T.copy(),
    "flat": lambda x: x.reshape(-1),
    "a row less": lambda x: x[:-1],
    "a column more": lambda x: np.concatenate([x, x[..., :1]], axis=-1),
    "an axis more": lambda x: x[:, None],
    "empty": lambda x: x[:0],
    "tiny": lambda x: x * 1e-12,
    "noise": lambda x: x + np.random.RandomState(9).standard_normal(x.shape) * 0.3,
}


def references() -> dict[str, Array]:
    rng = np.random.RandomState(4)
    plain = rng.standard_normal((8, 5))
    return {
        "plain": plain.astype(np.float32),
        "wide": rng.standard_normal((4, 40)).astype(np.float32) * 30,
        "shares": _softmax(plain).astype(np.float32),
        "double": plain,
        "half": plain.astype(np.float16),
        "bfloat16": plain.astype(ml_dtypes.bfloat16),
        "with NaN": np.where(plain > 1.5, np.nan, plain).astype(np.float32),
        "square": rng.standard_normal((6, 6)).astype(np.float32),
    }


def told(result: OutputResult) -> str:
    """Return the verdict as text, numbers to three digits."""
    names = ("max_abs", "max_rel", "rms", "needed", "cosine", "argmax_agreement")
    values = [getattr(result, name) for name in names]
    numbers = [value if value is None else float(f"{value:.3g}") for value in values]
    worst = None if result.worst is None else result.worst.index
    rest = (result.dtype, result.shape, result.n, result.n_bad, result.max_ulp, worst)
    whole = pinned.digest(numbers, rest, result.tolerance, result.sampled)
    return f"{result.status}, {result.n_bad} bad; {'; '.join(result.hints)}: {whole}"


def test_made_outputs(request: pytest.FixtureRequest) -> None:
    answers = {}
    for name, ref in references().items():
        for what, change in CHANGES.items():
            with np.errstate(all="ignore"):
                new = np.asarray(change(ref.astype(np.float32) if what != "same" else ref))
            if new.dtype == np.float32 and ref.dtype != np.float32:
                with np.errstate(all="ignore"):
                    new = new.astype(ref.dtype)
            tier = tier_named(f"T{len(what) % 4 + 1}", "why")
            [result] = compare_outputs({"x": ref}, {"x": new}, tier.tolerance)
            answers[f"{name}: {what}"] = told(result)
    pinned.check(HERE / "pinned_outputs.json", answers, request.config.getoption("--regen"))


OTHERS: dict[str, tuple[Any, Any]] = {
    "whole numbers": (np.arange(12).reshape(4, 3), np.arange(12).reshape(4, 3) + 1),
    "one class": (np.arange(6), np.array([0, 1, 2, 3, 5, 5])),
    "classes turned": (np.arange(6) % 3, (np.arange(6) + 1) % 3),
    "unsigned": (np.array([250, 3], np.uint8), np.array([3, 250], np.uint8)),
    "truth": (np.array([True, False, True]), np.array([True, True, True])),
    "words": (np.array([b"a", b"bc"], object), np.array([b"a", b"bd"], object)),
    "words turned": (np.array([b"a", b"bc"], object), np.array([b"bc", b"a"], object)),
    "complex": (np.array([1 + 2j, 3]), np.array([1 + 2j, 3 + 1j])),
    "complex, close": (np.array([1 + 2j, 3], np.complex64), np.array([1 + 2.000001j, 3], "c8")),
    "one number": (np.float32(2.0), np.float32(2.5)),
    "nothing": (np.zeros((0, 3), "f4"), np.zeros((0, 3), "f4")),
    "infinite": (np.array([np.inf, 1, 2], "f4"), np.array([-np.inf, 1, 2], "f4")),
    "subnormal": (np.array([1e-42, 0], "f4"), np.array([2e-42, 0], "f4")),
    "huge": (np.array([3e38, -3e38], "f4"), np.array([-3e38, 3e38], "f4")),
}


def test_other_dtypes_and_several_outputs(request: pytest.FixtureRequest) -> None:
    answers = {}
    for tier in ("T0", "T1", "T5"):
        for what, (ref, new) in OTHERS.items():
            found = compare_outputs({"x": ref}, {"x": new}, tier_named(tier, "why").tolerance)
            answers[f"{tier} {what}"] = told(found[0])
    refs = references()
    sides = {
        "turned": ({"a": refs["plain"], "b": refs["shares"]},
                   {"a": refs["shares"], "b": refs["plain"]}),
        "renamed": ({"a": refs["plain"], "b": refs["wide"]},
                    {"c": refs["plain"], "b": refs["wide"]}),
        "missing": ({"a": refs["plain"], "b": refs["wide"]}, {"a": refs["plain"]}),
        "more": ({"a": refs["plain"]}, {"a": refs["plain"], "b": refs["wide"]}),
    }  # fmt: skip
    chooser = tier_named("T1", "why").tolerance
    for what, (old, now) in sides.items():
        for result in compare_outputs(old, now, chooser):
            answers[f"{what} {result.name}"] = f"{told(result)} {result.message}"
    large = np.random.RandomState(1).standard_normal(30_000).astype(np.float32)
    for what, new in {"same": large, "scaled": large * 1.5, "one": _with(7, 99.0)(large)}.items():
        found = compare_outputs({"x": sample(large, 3, 500)}, {"x": new}, chooser)
        answers[f"sampled {what}"] = told(found[0])
    noise = noise_of({"x": refs["plain"]}, [{"x": refs["plain"] * np.float32(1.001)}])
    for factor in (1.003, 1.005):
        new = {"x": refs["plain"] * np.float32(factor)}
        found = compare_outputs({"x": refs["plain"]}, new, chooser, noise=noise)
        answers[f"noise {factor}"] = told(found[0])
    pinned.check(HERE / "pinned_others.json", answers, request.config.getoption("--regen"))
