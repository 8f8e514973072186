"""A pytest plugin: `ckptkit_golden` holds a model against what was recorded of it.

    def test_export(ckptkit_golden):
        ckptkit_golden("export", on=["CPU:0", "xla:CPU:0"])

The golden lies in `goldens/NAME` beside the test's file, NAME being the test's own unless it is
given.  `pytest --ckptkit-record` writes it; without that, a golden that is not there fails the
test: one that were written in passing would pass for ever.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_OF_CHECK = frozenset({"on", "tolerance", "rtol", "atol", "rename", "strict"})
_OF_RECORD = frozenset({"inputs", "seed", "batch", "cases", "ranges", "layers", "noise"})


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --ckptkit-record."""
    parser.getgroup("ckptkit").addoption(
        "--ckptkit-record",
        action="store_true",
        help="write the goldens of ckptkit_golden anew instead of checking them",
    )


@dataclass(frozen=True)
class GoldenCheck:
    """What `ckptkit_golden` is: call it with a model.

    directory: where goldens lie.  name: of the golden, unless the call gives one.
    """

    directory: Path
    name: str
    writes: bool

    def __call__(
        self,
        subject: str | os.PathLike[str],
        *,
        name: str | None = None,
        on: str | Sequence[str] = ("CPU:0",),
        **options: Any,
    ) -> Path:
        """Hold `subject` against the golden, or write it; return the golden's directory.

        options: of `ckptkit.check`, and of `ckptkit.record` what the golden is made of (inputs,
        seed, batch, cases, ranges, layers, noise).  The first runner of `on` is recorded.
        Raises AssertionError where outputs, weights or the signature differ, or no golden is there.
        """
        __tracebackhide__ = True
        golden = self.directory / (name or self.name)
        runners = [on] if isinstance(on, str) else list(on)
        if self.writes:
            from ckptkit.operations.record.api import record

            kept = {key: value for key, value in options.items() if key not in _OF_CHECK}
            golden.parent.mkdir(parents=True, exist_ok=True)
            record(subject, golden, on=runners[0], overwrite=True, **kept)
            return golden
        if not (golden / "manifest.json").is_file():
            raise AssertionError(f"no golden at {golden}: run pytest --ckptkit-record and keep it")
        from ckptkit.testing.assertions import assert_same_outputs

        asked = {key: value for key, value in options.items() if key not in _OF_RECORD}
        assert_same_outputs(subject, golden=golden, on=runners, **asked)
        return golden


@pytest.fixture
def ckptkit_golden(request: pytest.FixtureRequest) -> GoldenCheck:
    """Hold a model against a golden beside the test, or write it with --ckptkit-record."""
    name = re.sub(r"[^\w.=-]+", "-", request.node.name).strip("-")
    directory = Path(request.path).parent / "goldens"
    return GoldenCheck(directory, name, request.config.getoption("--ckptkit-record"))
