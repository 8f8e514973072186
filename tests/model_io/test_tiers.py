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


@pytest.mark.parametrize(
    ("one", "other", "name", "reason"),
    [
        ("int8", {"quantized": "int8"}, "T1", "same"),
        ("int8", {"quantized": "int8", "xla": True}, "T5", "quantised to int8"),
        ("int8", {"quantized": "int8", "runtime": "keras-jax"}, "T5", "quantised to int8"),
        ("int8", {"quantized": "int4"}, "T5", "int8 against int4 precision"),
        ("int8", {}, "T5", "int8 against full precision"),
    ],
)
def test_a_quantised_model_of_keras_gives_its_bits_again(
    one: str, other: dict[str, Any], name: str, reason: str
) -> None:
    tier = tier_of({**CPU, "quantized": one}, {**CPU, **other})
    assert tier.name == name and reason in tier.reason


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


PINNED = {  # rtol / atol of float64, float32, float16, bfloat16
    "T1": [(1e-7, 1e-7), (1.3e-6, 1e-5), (1e-3, 1e-3), (1.6e-2, 1e-2)],
    "T2": [(1e-7, 1e-7), (1e-4, 1e-4), (5e-3, 5e-3), (3e-2, 3e-2)],
    "T3": [(1e-7, 1e-7), (1e-2, 1e-2), (1e-2, 1e-2), (5e-2, 5e-2)],
    "T4": [(1e-7, 1e-7), (1e-3, 1e-4), (1e-2, 1e-2), (5e-2, 5e-2)],
}


@pytest.mark.parametrize("name", sorted(PINNED))
def test_bounds_are_changed_on_purpose_alone(name: str) -> None:
    dtypes = ("float64", "float32", "float16", "bfloat16")
    tier = tier_named(name, "why")
    for dtype, (rtol, atol) in zip(dtypes, PINNED[name], strict=True):
        assert tier.tolerance("x", dtype) == (rtol, atol, True, f"{name}: why", None)
    assert tier.tolerance("x", "complex64") == tier.tolerance("x", "float32")
    assert tier.tolerance("x", "complex128") == tier.tolerance("x", "float64")
    assert tier.tolerance("x", "float8_e5m2") == tier.tolerance("x", "bfloat16")  # the widest


def test_the_strictest_tier_lets_nothing_pass_and_that_of_quantised_models_goes_by_the_angle() -> (
    None
):
    assert tier_named("T0", "why").tolerance("x", "float32") == (0.0, 0.0, True, "T0: why", None)
    assert tier_named("T5", "why").tolerance("x", "float32") == (0, 0, False, "T5: why", 0.997)
    exact = tier_named("T5", "why").tolerance("x", "int8")
    assert exact == (0, 0, False, "T0: equal or wrong", None)
    with pytest.raises(KeyError):
        tier_named("T6", "why")


def test_the_dtype_computed_in_counts_where_it_is_wider() -> None:
    tier = tier_named("T1", "why", "float16")
    assert tier.tolerance("x", "float32") == (
        1e-3,
        1e-3,
        True,
        "T1: why; computed in float16",
        None,
    )
    assert tier.tolerance("x", "complex64").rtol == 1e-3
    assert tier.tolerance("x", "float64") == (1e-7, 1e-7, True, "T1: why", None)
    # in T3 both have the same bounds: nothing more is said
    assert tier_named("T3", "why", "float16").tolerance("x", "float32").reason == "T3: why"
    assert tier.tolerance("x", "bfloat16") == (1.6e-2, 1e-2, True, "T1: why", None)


@pytest.mark.parametrize(
    ("one", "other", "name", "reason"),
    [
        ({}, {}, "T1", "same device, versions and switches"),
        ({"runtime": "litert"}, {"runtime": "onnx"}, "T4", "litert against onnx"),
        ({}, {"runtime": "tensorflow"}, "T1", "same device, versions and switches"),
        ({"device": "gpu:0"}, {"device": "GPU:1"}, "T1", "same device, versions and switches"),
        ({"device": "CPU:0"}, {"device": ""}, "T1", "same device, versions and switches"),
        ({"device": "CPU:0"}, {"device": "GPU:0"}, "T2", "CPU against GPU"),
        ({"eager": False}, {"eager": True}, "T2", "eager execution on one side"),
        ({"xla": None}, {"xla": True}, "T2", "XLA on one side"),
        ({"deterministic": True}, {}, "T1", "same device, versions and switches"),
        ({"onednn": True}, {"onednn": False}, "T2", "oneDNN on one side"),
        ({"cpu": "a"}, {"cpu": "b"}, "T2", "processor a against b"),
        ({"device_name": "a"}, {"device_name": "b"}, "T2", "device a against b"),
        ({"machine": "a", "threads": 1}, {"machine": "b", "threads": 2}, "T2",
         "threads 1 against 2, machine a against b"),
        ({"versions": {"keras": "3.9.0", "jax": "1.0"}},
         {"versions": {"keras": "3.10.0", "torch": "2"}}, "T2", "keras 3.9 against 3.10"),
        ({"versions": {"ckptkit": "1.0", "python": "3.10", "protobuf": "5.0", "numpy": "1.0"}},
         {"versions": {"ckptkit": "2.0", "python": "3.11", "protobuf": "6.0", "numpy": "2.0"}},
         "T1", "same device, versions and switches"),
        ({"versions": None}, {"versions": {"keras": "3"}}, "T1",
         "same device, versions and switches"),
        ({"quantized": True}, {"runtime": "onnx", "xla": True}, "T5", "quantised"),
        ({"policy": "mixed_float16"}, {"policy": "mixed_bfloat16"}, "T3",
         "float16 against bfloat16 precision"),
        ({"policy": "float32"}, {"policy": None}, "T1", "same device, versions and switches"),
        ({"tf32": True, "device": "CPU:0"}, {"tf32": True, "device": "CPU:0"}, "T1",
         "same device, versions and switches"),
        ({"tf32": False, "device": "GPU:0"}, {"tf32": True, "device": "gpu:0"}, "T3",
         "TensorFloat-32 is on"),
        ({"tf32": True, "device": "GPU:0"}, {"runtime": "onnx", "device": "GPU:0"}, "T3",
         "TensorFloat-32 is on, tensorflow against onnx"),
    ],
)  # fmt: skip
def test_the_reason_says_what_differs(
    one: dict[str, Any], other: dict[str, Any], name: str, reason: str
) -> None:
    tier = tier_of(one, other)
    assert (tier.name, tier.reason) == (name, reason)


def test_two_precisions_are_held_to_the_coarser() -> None:
    mixed, full, brain = ({"policy": p} for p in ("mixed_float16", "float32", "mixed_bfloat16"))
    assert tier_of(mixed, full).compute == tier_of(full, mixed).compute == "float16"
    assert tier_of(mixed, brain).compute == tier_of(brain, mixed).compute == "bfloat16"
    assert tier_of(mixed, mixed).compute == "float16"


@given(st.sampled_from(["float64", "float32", "float16", "bfloat16", "complex64", "float8_e5m2"]))
def test_a_higher_tier_is_never_tighter(dtype: str) -> None:
    limits = [tier_named(f"T{n}", "").tolerance("x", dtype) for n in range(4)]
    for one, other in pairwise(limits):
        assert one.rtol <= other.rtol
        assert one.atol <= other.atol
        assert other.scaled
