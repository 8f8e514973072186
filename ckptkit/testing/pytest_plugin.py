"""A pytest plugin: `ckptkit_golden` holds a model against what was recorded of it.

    def test_export(ckptkit_golden):
        ckptkit_golden("export", on=["CPU:0", "xla:CPU:0"])

The golden lies in `goldens/NAME` beside the test's file, NAME being the test's own unless it is
given.  `pytest --ckptkit-record` writes it; without that, a golden that is not there fails the
test: one that were written in passing would pass for ever.  Tests that would keep theirs in one
place (one name in two classes or files) are refused: one would be held against the other's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ckptkit.errors import UsageError

if TYPE_CHECKING:
    from ckptkit.operations.execution.types import Path_
    from ckptkit.runners.spec import RunnerSpec

__all__ = ["GoldenCheck"]

_FIXTURE = "ckptkit_golden"
_SHARED: pytest.StashKey[dict[Path, list[str]]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --ckptkit-record."""
    parser.getgroup("ckptkit").addoption(
        "--ckptkit-record",
        action="store_true",
        help="write the goldens of ckptkit_golden anew instead of checking them",
    )


@pytest.hookimpl(tryfirst=True)  # before others deselect: what is not run has its golden, too
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Note which tests would keep their goldens in one place."""
    places: dict[Path, list[str]] = {}
    for item in items:
        if _FIXTURE in getattr(item, "fixturenames", ()):
            places.setdefault(_place_of(item), []).append(item.nodeid)
    config.stash[_SHARED] = {place: tests for place, tests in places.items() if len(tests) > 1}


def _place_of(item: pytest.Item) -> Path:
    """Return where the golden of a test lies, unless the test names it."""
    name = re.sub(r"[^\w.=-]+", "-", item.name).strip("-")
    return item.path.parent / "goldens" / name


@dataclass(frozen=True)
class GoldenCheck:
    """What `ckptkit_golden` is: call it with a model.

    directory: where goldens lie.  name: of the golden, unless the call gives one.  shared: ids of
    the tests that would have this one too.  written: goldens that this test wrote.
    """

    directory: Path
    name: str
    writes: bool
    shared: tuple[str, ...] = ()
    written: set[Path] = field(default_factory=set)

    def __call__(
        self,
        subject: Path_,
        *,
        name: str | None = None,
        on: Sequence[str | RunnerSpec] = ("CPU:0",),
        inputs: Path_ | Sequence[Path_] = (),
        seed: int = 20,
        batch: int = 8,
        cases: int = 1,
        ranges: Mapping[str, tuple[float, float]] | Sequence[str] = (),
        layers: Sequence[str] = (),
        noise: bool = True,
        signature: str | None = None,
        model: str | None = None,
        like: Path_ | None = None,
        rules: Sequence[str] = (),
        imports: Sequence[str] = (),
        float64: bool = False,
        tolerance: Path_ = "auto",
        rtol: float | None = None,
        atol: float | None = None,
        rename: Sequence[str] = (),
        strict: bool = False,
        outputs_only: bool = False,
        timeout_s: float = 600.0,
        max_rss_bytes: int | None = None,
    ) -> Path:
        """Hold a model against the golden, or write it, with `pytest --ckptkit-record`.

        Args:
            subject: a model, or a checkpoint with `model` or `like`, as `ckptkit.check` takes it.
            name: of the golden, below `goldens`; by default that of the test.
            on: where it is run, such as "CPU:0"; one runner, or several; the first is recorded.
            inputs: npz files to record, one case each; else examples are drawn.
            seed: of the examples that are drawn.
            batch: how many examples a drawn case has.
            cases: how many cases are drawn.
            ranges: what numbers are drawn within: {input: (low, high)} or `NAME=LOW:HIGH`.
            layers: globs of values inside the model that are recorded too.
            noise: whether the noise is measured for the recording.
            signature: the one to call, where the model has several.
            model: code that builds what a checkpoint is restored into.
            like: a model file whose structure a checkpoint goes into instead.
            rules: `RE=>REPL` from names of the checkpoint to those of `like`.
            imports: modules or files that define custom classes.
            float64: record the outputs in float64 too, and break ties by them.
            tolerance: "auto", "strict" or a file of `GLOB rtol=R atol=A` lines.
            rtol: relative tolerance of all outputs.
            atol: absolute tolerance of all outputs.
            rename: `OLD=NEW`, names of inputs and outputs of the golden and of the subject.
            strict: notes count as findings.
            outputs_only: weights, files and settings may be others than the golden's.
            timeout_s: seconds that each child may take.
            max_rss_bytes: memory that each child may hold; None sets no limit.

        Returns:
            The directory of the golden.

        Raises:
            AssertionError: outputs, weights or the signature differ, or no golden is there.
            UsageError: the keywords contradict each other, or inputs do not fit.
            RecordError: the model did not do what could be recorded.
            RunnerError: a device or package is not here.
        """
        __tracebackhide__ = True
        golden = self._golden(name)
        runners = [on] if isinstance(on, str) else list(on)
        if self.writes:
            from ckptkit.operations.record.api import record

            golden.parent.mkdir(parents=True, exist_ok=True)
            record(
                subject,
                golden,
                on=runners[0],
                inputs=inputs,
                seed=seed,
                batch=batch,
                cases=cases,
                ranges=ranges,
                layers=layers,
                noise=noise,
                signature=signature,
                model=model,
                like=like,
                rules=rules,
                imports=imports,
                float64=float64,
                overwrite=True,
                timeout_s=timeout_s,
                max_rss_bytes=max_rss_bytes,
            )
            return golden
        if not (golden / "manifest.json").is_file():
            raise AssertionError(f"no golden at {golden}: run pytest --ckptkit-record and keep it")
        from ckptkit.testing.assertions import assert_same_outputs

        # What drawn examples are made of is in the golden.
        assert_same_outputs(
            subject,
            golden=golden,
            on=runners,
            signature=signature,
            model=model,
            like=like,
            rules=rules,
            imports=imports,
            float64=float64,
            tolerance=tolerance,
            rtol=rtol,
            atol=atol,
            rename=rename,
            strict=strict,
            outputs_only=outputs_only,
            timeout_s=timeout_s,
            max_rss_bytes=max_rss_bytes,
        )
        return golden

    def _golden(self, name: str | None) -> Path:
        """Return where a golden lies; raises UsageError where it would be another test's too."""
        golden = self.directory / (name or self.name)
        if name is None and self.shared:
            raise UsageError(
                f"{' and '.join(self.shared[:2])} would keep one golden",
                where=str(golden),
                hint="give each a name=",
            )
        if self.writes and golden in self.written:
            raise UsageError(
                "this test has just recorded it, of another call",
                where=str(golden),
                hint="give each call a name=",
            )
        self.written.add(golden)
        return golden


@pytest.fixture
def ckptkit_golden(request: pytest.FixtureRequest) -> GoldenCheck:
    """Hold a model against a golden beside the test, or write it with --ckptkit-record."""
    place = _place_of(request.node)
    shared = request.config.stash.get(_SHARED, {}).get(place, ())
    writes = request.config.getoption("--ckptkit-record")
    return GoldenCheck(place.parent, place.name, writes, tuple(shared))
