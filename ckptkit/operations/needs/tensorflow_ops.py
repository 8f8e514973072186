"""Which ops each TensorFlow registers, so that an op of somebody else's is known by its absence.

`tensorflow_ops.txt` has the ops of TensorFlow 1.15 to 2.21; `tests/support/make_tensorflow_ops.py`
made it.  A graph is loaded only where each of its ops is registered: by TensorFlow itself, or by a
library that was loaded before ("Op type not registered").
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ckptkit.operations.needs.environment import release

NEWEST = (2, 21)
_OLDEST = (1, 15)


@cache
def _table() -> dict[str, str]:
    text = Path(__file__).with_name("tensorflow_ops.txt").read_text(encoding="utf-8")
    rows = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return {name: "".join(span) for name, *span in rows}


def span_of(op: str) -> str | None:
    """Return the versions that register an op, as pip writes it ("" for all); None for none."""
    span = _table().get(op)
    if not span:
        return span
    first, _, last = span.partition("-")
    parts = [f">={first}"] if first else []
    if last:
        major, minor = release(last)
        parts.append("<2" if (major, minor) == _OLDEST else f"<{major}.{minor + 1}")
    return ",".join(parts)
