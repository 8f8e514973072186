"""The verdict on one output of a model: its status, the numbers behind it, and what it looks like.

Only the statuses in PASSING are `ok`.  Nothing passes for want of a comparison: an output that is
missing or new, has another shape or dtype, or no elements at all, has a status of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ckptkit.compare.tensors import Worst
from ckptkit.model_io.tiers import OutputTolerance
from ckptkit.results import Result
from ckptkit.text import json_number

NONE = OutputTolerance()  # of outputs that were not compared
PASSING = frozenset({"equal", "within", "noise", "float64"})
STATUSES = (
    *("equal", "within", "noise", "float64", "differs", "meaningless", "missing", "extra"),
    *("shape", "dtype", "nonfinite", "empty"),
)

Chooser = Callable[[str, str], OutputTolerance]
"""tolerance(name, dtype) of an output; `Tier.tolerance` is one."""


@dataclass(frozen=True)
class OutputResult(Result):
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
    tolerance: OutputTolerance = NONE
    worst: Worst | None = None
    message: str = ""
    hints: tuple[str, ...] = ()
    sampled: bool = False

    @property
    def ok(self) -> bool:
        """Whether the output passes."""
        return self.status in PASSING

    @property
    def defined_max_rel(self) -> float | None:
        """`max_rel`, or None where nothing that differs has a relative change.

        What is 0 in the reference has none, nor has what is NaN or infinite on one side alone.
        """
        return None if (self.max_abs or self.n_bad) and not self.max_rel else self.max_rel

    @property
    def share_bad(self) -> float:
        """Elements outside the tolerance, as a share of those compared."""
        return self.n_bad / self.n if self.n else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the verdict on an output as plain values.

        Returns:
            Plain values that JSON can hold; numbers that it cannot are strings.
        """
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
            "max_rel": json_number(self.defined_max_rel),
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


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, complex):
        return [json_number(value.real), json_number(value.imag)]
    return json_number(value)


def number(value: float) -> str:
    """Return a number as messages show it."""
    return f"{value:.3g}" if math.isfinite(value) else str(value)
