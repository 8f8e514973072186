"""Comparing what a model gave with what it should give: one verdict per output, with its reason.

    |new - ref| <= atol * s + rtol * |ref|      s: rms of the reference if scaled, else 1

Nothing passes for want of a comparison: an output that is missing or new, another shape or dtype,
NaN or infinity in other places, no elements at all, and a tolerance of a tenth of the largest
value or more are verdicts of their own, and none of them is `ok`.  What does not pass gets hints:
what the difference looks like (`ckptkit.model_io.hints`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ckptkit.compare.tensors import Worst
from ckptkit.model_io.sampling import Sample
from ckptkit.model_io.tiers import Tolerance
from ckptkit.numbers_ import json_number

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

NONE = Tolerance()  # of outputs that were not compared
PASSING = frozenset({"equal", "within", "noise", "float64"})
STATUSES = (
    *("equal", "within", "noise", "float64", "differs", "meaningless", "missing", "extra"),
    *("shape", "dtype", "nonfinite", "empty"),
)

Chooser = Callable[[str, str], Tolerance]
"""tolerance(name, dtype) of an output; `Tier.tolerance` is one."""


@dataclass(frozen=True)
class OutputResult:
    """The verdict on one output; numbers are over pairs of finite elements.

    status: equal (NaN in the same places is), within (the tolerance), noise (within four times
    the recorded noise), float64 (as near to the model in float64 as the reference is), differs,
    meaningless (within a tolerance so wide that it says nothing), missing, extra, shape, dtype,
    nonfinite (NaN or infinity where the reference has none, or the other way round), empty (no
    elements).
    n: elements compared.  n_bad: outside the tolerance.  max_rel: largest |new - ref| / |ref|.
    max_ulp: most representable values between two elements, for floats of one dtype.
    argmax_agreement: share of rows of the last axis whose largest element is at the same place.
    rms: of the reference.  needed: the number that would pass as both rtol and atol (in units of
    s); inf if none would, None for exact dtypes.  worst: the element that is worst against the
    tolerance.  sampled: elements of a large output were compared, not all.
    """

    name: str
    status: str
    dtype: str = ""
    shape: tuple[int, ...] = ()
    n: int = 0
    n_bad: int = 0
    max_abs: float = 0.0
    max_rel: float = 0.0
    max_ulp: int | None = None
    cosine: float | None = None
    argmax_agreement: float | None = None
    rms: float = 0.0
    needed: float | None = None
    tolerance: Tolerance = NONE
    worst: Worst | None = None
    message: str = ""
    hints: tuple[str, ...] = ()
    sampled: bool = False

    @property
    def ok(self) -> bool:
        """Whether the output passes."""
        return self.status in PASSING

    @property
    def share_bad(self) -> float:
        """Elements outside the tolerance, as a share of those compared."""
        return self.n_bad / self.n if self.n else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        worst = self.worst
        return {
            "name": self.name,
            "status": self.status,
            "ok": self.ok,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "n": self.n,
            "n_bad": self.n_bad,
            "max_abs": json_number(self.max_abs),
            "max_rel": json_number(self.max_rel),
            "max_ulp": self.max_ulp,
            "cosine": json_number(self.cosine),
            "argmax_agreement": self.argmax_agreement,
            "rms": json_number(self.rms),
            "needed": json_number(self.needed),
            "rtol": self.tolerance.rtol,
            "atol": self.tolerance.atol,
            "scaled": self.tolerance.scaled,
            "reason": self.tolerance.reason,
            "worst": None
            if worst is None
            else {"index": list(worst.index), "ref": _plain(worst.old), "new": _plain(worst.new)},
            "message": self.message,
            "hints": list(self.hints),
            "sampled": self.sampled,
        }


def compare_outputs(
    reference: Mapping[str, Array | Sample],
    new: Mapping[str, Array],
    tolerance: Chooser,
    *,
    noise: Mapping[str, Mapping[str, float]] | None = None,
) -> tuple[OutputResult, ...]:
    """Return a verdict per output: those of the reference in its order, then those only in `new`.

    noise: by output, as `noise_of` measures it; {} and None mean that none is known.
    Raises UsageError for arrays of Python objects other than text.
    """
    from ckptkit.model_io import hints as _output_hints
    from ckptkit.model_io import measure as _output_measure

    known = {name: _output_measure.kept(value) for name, value in reference.items()}
    given = {name: _output_measure.kept(value) for name, value in new.items()}
    arrays = {name: value for name, value in given.items() if not isinstance(value, Sample)}
    results = []
    for name, ref in known.items():
        if name not in arrays:
            results.append(_missing(name, arrays))
            continue
        found = _output_measure.measure(
            name, ref, arrays[name], tolerance, (noise or {}).get(name, {})
        )
        if not found.ok:
            found = replace(found, hints=_output_hints.hints(name, known, arrays, found))
        results.append(found)
    for name in arrays:
        if name not in known:
            results.append(_extra(name, known))
    return _output_hints.renamed(tuple(results), known, arrays)


def _missing(name: str, arrays: Mapping[str, Array]) -> OutputResult:
    listed = ", ".join(arrays) or "none"
    return OutputResult(name, "missing", message=f"no output {name!r}; there are: {listed}")


def _extra(name: str, known: Mapping[str, Any]) -> OutputResult:
    listed = ", ".join(known) or "none"
    return OutputResult(name, "extra", message=f"output {name!r} is not recorded; those: {listed}")


def noise_of(reference: Mapping[str, Any], repeats: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return {output: {"max_abs", "max_scaled", "max_ulp", "runs"}} over repeated runs.

    max_scaled: max_abs in units of the reference's rms.  A repeat that lacks an output, or has it
    in another shape, leaves it out: that is no noise.  Infinite where NaN comes and goes.
    """
    from ckptkit.model_io import measure as _output_measure

    found: dict[str, Any] = {}
    for name, value in reference.items():
        ref = _output_measure.kept(value)
        runs = [_output_measure.kept(run[name]) for run in repeats if name in run]
        if len(runs) < len(repeats) or not runs or isinstance(ref, Sample):
            continue
        noise = _output_measure.noise(ref, [run for run in runs if not isinstance(run, Sample)])
        if noise is not None:
            found[name] = noise
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, complex):
        return [json_number(value.real), json_number(value.imag)]
    return json_number(value)


def number(value: float) -> str:
    """Return a number as messages show it."""
    return f"{value:.3g}" if math.isfinite(value) else str(value)
