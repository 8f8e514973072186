"""Writers under strace: killed at every write-class system call, or refused by the disk.

After each, what lies there must be the whole old file or the whole new one, sound by `verify`; an
error of the disk must leave the old one and no temporary file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import writing
from support.injecting import (
    Server,
    calls_of,
    failed_everywhere,
    flush_violations,
    killed_everywhere,
    why_not,
)

QUICK = ("bundle", "file")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    if why_not():
        pytest.skip(why_not())
    running = Server()
    yield running
    running.close()


@pytest.mark.parametrize("kind", QUICK)
def test_killed_at_some_system_calls(server: Server, kind: str, tmp_path: Path) -> None:
    killed_everywhere(server, kind, tmp_path, quick=True)


@pytest.mark.parametrize("kind", QUICK)
def test_errors_of_some_system_calls(server: Server, kind: str, tmp_path: Path) -> None:
    failed_everywhere(server, kind, tmp_path, quick=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", writing.WRITERS)
def test_killed_at_every_system_call(server: Server, kind: str, tmp_path: Path) -> None:
    killed_everywhere(server, kind, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", writing.WRITERS)
def test_errors_of_every_system_call(server: Server, kind: str, tmp_path: Path) -> None:
    failed_everywhere(server, kind, tmp_path)


@pytest.mark.parametrize("kind", writing.WRITERS)
def test_data_is_flushed_before_it_gets_its_name(server: Server, kind: str, tmp_path: Path) -> None:
    """Between the last write to a file and its final name lies a flush, and after it one more."""
    calls = calls_of(server, kind, tmp_path / "trace")
    assert any(call.name == "fsync" for call in calls)
    assert flush_violations(calls, tmp_path) == []
