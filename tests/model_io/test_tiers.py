"""Which tolerance two environments give."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptkit.model_io.tiers import BOUNDS, tier_named, tier_of

CPU: dict[str, Any] = {
    "runtime": "tensorflow",
    "versions": {"tensorflow": "2.21.0", "keras": "3.15.1", "numpy": "2.4.6"},
    "machine": "x86_64",
    "cpu": "a processor",
    "device": "CPU:0",
    "device_name": "CPU",
    "tf32": True,
    "xla": False,
    "deterministic": False,
    "threads": None,
    "onednn": True,
    "replicas": 1,
    "eager": False,
    "policy": "float32",
}
GPU = {**CPU, "device": "GPU:0", "device_name": "H200", "tf32": False}


@pytest.mark.parametrize(
    ("change", "name", "reason"),
    [
        ({}, "T1", "same"),
        ({"device": "CPU:1"}, "T1", "same"),
        (
            {"versions": {"tensorflow": "2.21.3", "keras": "3.15.1", "numpy": "1.26.0"}},
            "T1",
            "same",
        ),
        ({"versions": {"tensorflow": "2.20.0"}}, "T2", "tensorflow 2.21 against 2.20"),
        ({"xla": True}, "T2", "XLA on one side"),
        ({"threads": 1}, "T2", "threads None against 1"),
        ({"replicas": 2}, "T2", "replicas 1 against 2"),
        ({"machine": "aarch64"}, "T2", "machine"),
        ({"device": "GPU:0", "tf32": False}, "T2", "CPU against GPU"),
        ({"device": "GPU:0", "tf32": True}, "T3", "TensorFloat-32 is on"),
        ({"policy": "mixed_bfloat16"}, "T3", "full against bfloat16 precision"),
        ({"runtime": "litert"}, "T4", "tensorflow against litert"),
        ({"runtime": "litert", "policy": "float16 weights"}, "T3", "full against float16"),
        (
            {"runtime": "onnx", "device": "GPU:0", "tf32": True},
            "T3",
            "TensorFloat-32 is on, tensorflow against onnx",
        ),
        ({"runtime": "onnx", "quantized": True}, "T5", "quantised"),
    ],
)
def test_the_environments_give_the_tier(change: dict[str, Any], name: str, reason: str) -> None:
    other = {**CPU, **change}
    for tier in (tier_of(CPU, other), tier_of(other, CPU)):
        assert tier.name == name
        parts = reason.split(" against ")
        assert all(part.split()[-1] in tier.reason for part in parts)


def test_the_switch_of_tf32_counts_on_a_gpu_alone() -> None:
    assert tier_of(CPU, {**CPU, "tf32": False}).name == "T1"
    assert tier_of(GPU, {**GPU, "tf32": True}).name == "T3"


def test_what_one_side_does_not_tell_is_taken_as_equal() -> None:
    assert tier_of(CPU, {}).name == "T1"


@pytest.mark.parametrize("tier", ["T0", "T1", "T2", "T3", "T4", "T5"])
@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "bool", "string"])
def test_whole_numbers_and_text_are_exact_everywhere(tier: str, dtype: str) -> None:
    limit = tier_named(tier, "").tolerance("x", dtype)
    assert (limit.rtol, limit.atol, limit.min_cosine) == (0.0, 0.0, None)


@pytest.mark.parametrize(
    ("policies", "compute", "bound"),
    [
        (("float32", "mixed_bfloat16"), "bfloat16", 5e-2),
        (("mixed_bfloat16", "float32"), "bfloat16", 5e-2),
        (("mixed_float16", "float32"), "float16", 1e-2),
        (("mixed_float16", "bfloat16, float16"), "bfloat16", 5e-2),
    ],
)
def test_mixed_precision_on_one_side_gets_the_bounds_of_the_coarser(
    policies: tuple[str, str], compute: str, bound: float
) -> None:
    tier = tier_of(*({**CPU, "policy": policy} for policy in policies))
    assert (tier.name, tier.compute) == ("T3", compute)
    for dtype in ("float32", "float16", compute):
        assert tier.tolerance("y", dtype).atol == bound
    assert tier.tolerance("y", "float64").atol == 1e-7
    assert tier.tolerance("y", "int32") == tier_of(CPU, CPU).tolerance("y", "int32")


def test_a_model_of_mixed_precision_gets_the_bounds_of_what_it_computes_in() -> None:
    mixed = {**CPU, "policy": "mixed_bfloat16"}
    tier = tier_of(mixed, mixed)
    limit = tier.tolerance("x", "float32")
    assert (limit.rtol, limit.atol) == BOUNDS["T1"]["bfloat16"]
    assert "bfloat16" in limit.reason
    assert tier.tolerance("x", "float64").rtol == BOUNDS["T1"]["float64"][0]


@given(st.sampled_from(["float64", "float32", "float16", "bfloat16", "complex64", "float8_e5m2"]))
def test_a_higher_tier_is_never_tighter(dtype: str) -> None:
    limits = [tier_named(f"T{n}", "").tolerance("x", dtype) for n in range(4)]
    for one, other in pairwise(limits):
        assert one.rtol <= other.rtol
        assert one.atol <= other.atol
        assert other.scaled
