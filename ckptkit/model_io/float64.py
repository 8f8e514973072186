"""The tie-break by float64: is the new output as near to the true one as the reference is?

    rms(new - float64) <= k * rms(reference - float64) + tolerance / 10

k is 2 for float32, and 3 for float16, bfloat16 and outputs of less than 1000 elements, whose errors
scatter more: the rule and the numbers are those of PyTorch's `torch._dynamo.utils.same`.  It judges
only what lies between the tolerance of the tier and that of reduced precision (T3): beyond that no
rounding explains a difference.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptkit.model_io.results import OutputResult, number
from ckptkit.model_io.sampling import Sample
from ckptkit.model_io.tiers import BOUNDS

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

FACTOR, WIDE_FACTOR = 2.0, 3.0
FEW = 1000  # elements
_LOW = ("float16", "bfloat16")


def tie_break(
    result: OutputResult, reference: Array | Sample, new: Array, exact: Array | Sample
) -> OutputResult:
    """Return the result, with status "float64" where the rule lets it pass.

    result: of comparing `new` with `reference`; exact: the output in float64, sampled as the
    reference is.  A result that is no difference of numbers is returned as it is.
    """
    if result.status != "differs" or result.needed is None or result.tolerance.min_cosine:
        return result
    most = max(BOUNDS["T3"].get(result.dtype, (0.0, 0.0)))
    if result.needed > most:
        return result
    arrays = _same_elements(reference, new, exact)
    if arrays is None:
        return result
    ref_values, new_values, true = arrays
    errors = _rmse(ref_values, true), _rmse(new_values, true)
    # few elements, and coarse ones, scatter more
    few = result.n < FEW or result.dtype in _LOW
    factor = WIDE_FACTOR if few else FACTOR
    scale = result.rms if result.tolerance.scaled else 1.0
    allowed = factor * errors[0] + result.tolerance.atol * scale / 10
    errors_text = (
        f"against float64 its error is {number(errors[1])}, the reference's {number(errors[0])}"
    )
    if errors[1] <= allowed:
        return replace(result, status="float64", message=f"{errors_text}: no worse", hints=())
    return replace(result, message="; ".join(filter(None, (result.message, errors_text))))


def _same_elements(
    reference: Array | Sample, new: Array, exact: Array | Sample
) -> tuple[Any, Any, Any] | None:
    """Return the three as flat float64 arrays of the same elements; None where they do not fit."""
    import numpy as np

    if isinstance(reference, Sample) or isinstance(exact, Sample):
        if not (isinstance(reference, Sample) and isinstance(exact, Sample)):
            return None
        if (reference.seed, reference.shape) != (exact.seed, exact.shape):
            return None
        parts = reference.values, new.reshape(-1)[reference.places], exact.values
    else:
        if reference.shape != exact.shape or reference.shape != new.shape:
            return None
        parts = reference, new, exact
    ref, late, true = (np.asarray(part, np.float64).reshape(-1) for part in parts)
    finite = np.isfinite(ref) & np.isfinite(late) & np.isfinite(true)
    return ref[finite], late[finite], true[finite]


def _rmse(values: Any, true: Any) -> float:
    import numpy as np

    return float(np.sqrt(np.mean((values - true) ** 2))) if values.size else 0.0
