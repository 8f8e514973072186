"""How long a run may take; apart from what else a run is about, which takes longer to import."""

from __future__ import annotations

from ckptkit.errors import UsageError
from ckptkit.text import parse_seconds
from ckptkit.wording import say


def time_limit(timeout_s: float) -> float:
    """Return the seconds that a run may take; an infinite number is no limit.

    Raises UsageError for what is no number above 0.
    """
    try:
        return parse_seconds(timeout_s)
    except ValueError as error:
        raise UsageError(say(f"‹timeout_s›: {error}")) from error
