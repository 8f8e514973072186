"""How far apart two runs of one model may be, from what is known of where each ran.

A difference of one bit is a fault between two runs of the same program on the same machine, and
ordinary between a CPU and a GPU; a wrong graph is off by orders of magnitude more than either.  So
the bound follows from the two environments:

    T0 bits      integers, booleans and strings, in every tier; restored values
    T1 same      same device, version, compiler and switches
    T2 cross     another device, compiler, version, number of threads or replicas; full precision
    T3 reduced   TensorFloat-32, or mixed precision, on one side
    T4 runtime   another runtime (LiteRT, ONNX Runtime, Keras on JAX or PyTorch)
    T5 quantised the angle and the signal-to-noise ratio count, single elements do not

The rule is `|new - ref| <= atol * s + rtol * |ref|`, with s the root mean square of the reference,
so that units do not matter.  In a model of mixed precision, float32 outputs carry the rounding of
the dtype that it computes in, and get that dtype's bounds, also where one side alone computes in it
(a Transformer of three blocks was seen to need 0.014 in bfloat16).
Sources of the T1 row: torch's `_DTYPE_PRECISIONS` for float32 and float16; the others are wider by
what reordered sums, TensorFloat-32 (10 bits of mantissa) and other kernels were seen to give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ckptkit.dtypes import kind


class OutputTolerance(NamedTuple):
    """How far apart two numbers may be; `reason` says where that comes from.

    scaled: whether atol counts in units of the reference's root mean square.
    min_cosine: if not None, tensors pass by their angle (and a ratio of signal to noise of 20 dB),
    whatever single elements do.
    """

    rtol: float = 0.0
    atol: float = 0.0
    scaled: bool = False
    reason: str = ""
    min_cosine: float | None = None


Bounds = Mapping[str, tuple[float, float]]  # dtype -> (rtol, atol)

BOUNDS: dict[str, dict[str, tuple[float, float]]] = {
    "T0": {},
    "T1": {
        "float64": (1e-7, 1e-7),
        "float32": (1.3e-6, 1e-5),
        "float16": (1e-3, 1e-3),
        "bfloat16": (1.6e-2, 1e-2),
    },
    "T2": {
        "float64": (1e-7, 1e-7),
        "float32": (1e-4, 1e-4),
        "float16": (5e-3, 5e-3),
        "bfloat16": (3e-2, 3e-2),
    },
    "T3": {
        "float64": (1e-7, 1e-7),
        "float32": (1e-2, 1e-2),
        "float16": (1e-2, 1e-2),
        "bfloat16": (5e-2, 5e-2),
    },
    "T4": {
        "float64": (1e-7, 1e-7),
        "float32": (1e-3, 1e-4),
        "float16": (1e-2, 1e-2),
        "bfloat16": (5e-2, 5e-2),
    },
}
QUANTISED_COSINE = 0.997
_PARTS = {"complex64": "float32", "complex128": "float64"}


NOISE_MARGIN = 4.0  # times the measured noise
FLOOR_STEPS = 4.0  # in units of the dtype's precision, where no noise was measured
_EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def above_noise(noise: float, dtype: str) -> float:
    """Return the tightest tolerance above a noise: relative, and in units of the rms.

    noise: what was measured, as a tolerance.  dtype: of the output.
    """
    steps = FLOOR_STEPS * _EPS.get(_PARTS.get(dtype, dtype), _EPS["bfloat16"])
    return max(NOISE_MARGIN * noise, steps)


@dataclass(frozen=True)
class Tier:
    """A row of the table, and why it applies; compute: the dtype of a model of mixed precision."""

    name: str
    reason: str
    bounds: Bounds = field(default_factory=dict)
    compute: str = ""

    def tolerance(self, name: str, dtype: str) -> OutputTolerance:
        """Return the tolerance of the output `name`; the name only makes it a usable callback."""
        why = f"{self.name}: {self.reason}"
        if kind(dtype) not in ("float", "complex"):
            return OutputTolerance(reason="T0: equal or wrong")
        if self.name == "T5":
            return OutputTolerance(reason=why, min_cosine=QUANTISED_COSINE)
        rtol, atol = self._bound(_PARTS.get(dtype, dtype))
        if self.compute and dtype != "float64":
            wide = self._bound(self.compute)
            if wide > (rtol, atol):
                return OutputTolerance(*wide, True, f"{why}; computed in {self.compute}")
        return OutputTolerance(rtol, atol, True, why)

    def _bound(self, dtype: str) -> tuple[float, float]:
        if not self.bounds:
            return 0.0, 0.0
        return self.bounds.get(dtype, max(self.bounds.values()))


def tier_named(name: str, reason: str, compute: str = "") -> Tier:
    """Return the tier T0 to T5 of that name; raises KeyError."""
    return Tier(name, reason, {} if name == "T5" else BOUNDS[name], compute)


Environment = Mapping[str, Any]
_COARSENESS = ("", "float16", "bfloat16")  # what a model computes in, the finest first


def tier_of(one: Environment, other: Environment) -> Tier:
    """Return the tier of two runs, from the environments that a runner reports; order is free.

    A switch that one of them does not tell is taken to be as in the other.
    """
    compute = _compute(one)
    reasons: dict[str, list[str]] = {"T5": [], "T3": [], "T4": [], "T2": []}
    if one.get("runtime", "tensorflow") != other.get("runtime", "tensorflow"):
        reasons["T4"].append(f"{_runtime(one)} against {_runtime(other)}")
    if compute != _compute(other):
        texts = [text or "full" for text in (compute, _compute(other))]
        reasons["T3"].append(f"{texts[0]} against {texts[1]} precision")
        compute = max(compute, _compute(other), key=_COARSENESS.index)
    if _uses_tf32(one) or _uses_tf32(other):
        reasons["T3"].append("TensorFloat-32 is on")
    reasons["T2"] += _crossings(one, other)
    modes = [env.get("quantized") for env in (one, other)]
    told = modes[0] == modes[1] and isinstance(modes[0], str)
    # a layer of Keras that is quantised gives the same bits again from the same program; another
    # one may round an activation to the integer beside it
    if any(modes) and not (told and not any(reasons.values())):
        reasons["T5"].append(_quantised(modes))
    if reasons["T3"]:  # wider than T4: what rounds there rounds in another runtime too
        reasons["T3"] += reasons["T4"]
    for name, found in reasons.items():
        if found:
            return tier_named(name, ", ".join(found), compute)
    return tier_named("T1", "same device, versions and switches", compute)


def _quantised(modes: Sequence[object]) -> str:
    """Return which sides are quantised, and how, as far as they tell."""
    one, other = (str(mode) if isinstance(mode, str) else "" for mode in modes)
    if one == other:
        return f"quantised to {one}" if one else "quantised"
    return f"quantised: {one or 'full'} against {other or 'full'} precision"


def _runtime(env: Environment) -> str:
    return str(env.get("runtime", "tensorflow"))


def _compute(env: Environment) -> str:
    """Return the dtype that a model of mixed precision computes in, "" in full precision."""
    policy = env.get("policy")
    if isinstance(policy, str):
        for dtype in ("bfloat16", "float16"):
            if dtype in policy:
                return dtype
    return ""


def _uses_tf32(env: Environment) -> bool:
    """Whether matrix products may be rounded; the switch is on everywhere, and counts on GPUs."""
    return bool(env.get("tf32")) and str(env.get("device", "")).upper().startswith("GPU")


_SWITCHES = {
    "xla": "XLA",
    "deterministic": "op determinism",
    "threads": "threads",
    "onednn": "oneDNN",
    "replicas": "replicas",
    "eager": "eager execution",
    "machine": "machine",
    "cpu": "processor",
    "device_name": "device",
}
_PASSIVE = frozenset({"python", "ckptkit", "numpy", "protobuf"})  # packages that compute no output


def _crossings(one: Environment, other: Environment) -> list[str]:
    found = []
    devices = [str(env.get("device", "")).partition(":")[0].upper() for env in (one, other)]
    if devices[0] != devices[1] and all(devices):
        found.append(f"{devices[0]} against {devices[1]}")
    for key, words in _SWITCHES.items():
        a, b = one.get(key), other.get(key)
        if key in one and key in other and a != b:
            found.append(_difference(words, a, b))
    old, new = one.get("versions") or {}, other.get("versions") or {}
    for package in sorted(set(old) & set(new) - _PASSIVE):
        a, b = _minor(str(old[package])), _minor(str(new[package]))
        if a != b:
            found.append(f"{package} {a} against {b}")
    return found


def _difference(words: str, a: object, b: object) -> str:
    if isinstance(a, bool) or isinstance(b, bool):
        return f"{words} on one side"
    return f"{words} {a} against {b}"


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
