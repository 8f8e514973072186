"""How work on many shards is cut and handed out, by simulation."""

from __future__ import annotations

import pytest

from support.waiting_workers import efficiency


@pytest.mark.parametrize("workers", [8, 64])
def test_workers_are_at_work(workers: int) -> None:
    """A thousand shards; the rest is what a worker has not to do at the end."""
    assert efficiency(workers) >= 0.85
