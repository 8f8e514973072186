"""The fault catalogue: every way a file, a disk or a person fails, and what is done then.

Each row is a function of the modules `faults_*`, by its number; its docstring says what is done.
`test_catalogue` runs them all, and docs/reliability.md lists them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ckptkit.errors import CkptkitError
from ckptkit.operations.ls import ls
from ckptkit.operations.verify.api import verify
from support.damage import still

COUNT = 53  # rows


class Fault(NamedTuple):
    """One row: what goes wrong, what is done, and the test that makes it happen."""

    name: str
    behaviour: str
    happens: Callable[[Path], None]


FAULTS: dict[int, Fault] = {}


def fault(number: int, name: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Enter a test into the catalogue."""

    def enter(happens: Callable[[Path], None]) -> Callable[[Path], None]:
        assert number not in FAULTS, number
        assert happens.__doc__, number
        FAULTS[number] = Fault(name, " ".join(happens.__doc__.split()), happens)
        return happens

    return enter


def is_listed(path: Path) -> bool:
    """Whether `ls` lists a file without an error; damage that it sees counts as one."""
    try:
        return not ls(path).problems
    except CkptkitError:
        return False


def found(path: Path, *codes: str) -> list[str]:
    """Verify: there must be findings, with these codes among them; return all codes."""
    result = verify(still(path))
    assert result.exit_code == 1, result
    seen = [finding.code for finding in result.findings]
    assert set(codes) <= set(seen), seen
    return seen


def neither(path: Path, *codes: str) -> None:
    """Assert that a file is neither listed nor sound."""
    assert not is_listed(path), path
    found(path, *codes)
