"""Numbers on their way to JSON."""

from __future__ import annotations

import math
from typing import Any


def json_number(value: Any) -> Any:
    """Return a number that JSON can hold: non-finite ones become "NaN", "Infinity", "-Infinity"."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
