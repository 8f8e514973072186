"""The rows of `benchmarks.gpu`: what is checked, in the order of what matters most.

A row is one `ckptkit check` in a process of its own.  Needs nothing but Python.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PRECISIONS = ("bfloat16", "float16")
RUNTIMES = {"tensorflow": "tensorflow", "keras-jax": "jax", "keras-torch": "torch"}  # -> its module
NAMES = ("functional_cnn", "transformer", "recurrent", "multi_io")
AS_CODE = (
    "functional_cnn",
    "transformer",
    "recurrent",
)  # also checked as a file of weights, with code

WITHIN, BEYOND, FAILED, NOT_RUN = "within", "beyond", "failed", "not run"
COMPARED = (WITHIN, BEYOND)


@dataclass(frozen=True)
class Row:
    """One check.

    way: what is special about it.  subject, golden: below the carried directory.  switches: of the
    runner.  options: more of `ckptkit check`.
    """

    model: str
    runtime: str
    way: str
    subject: str
    golden: str
    switches: str = ""
    options: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What tells it from every other row."""
        return f"{self.runtime} {self.model} {self.way}"

    def runner(self, device: str) -> str:
        """Return the runner's text on a device."""
        runtime = "" if self.runtime == "tensorflow" else f"{self.runtime}:"
        xla, switches = ("xla:", "") if self.switches == "xla" else ("", self.switches)
        return f"{runtime}{xla}{device}{f',{switches}' if switches else ''}"


@dataclass(frozen=True)
class Outcome:
    """What became of a row.

    outcome: "within" its tolerances, "beyond", "failed" (it gave nothing to compare) or "not run".
    why: of the last two.  outputs, run: as `ckptkit.check/1` has them.
    """

    key: str
    outcome: str
    why: str = ""
    outputs: tuple[dict[str, Any], ...] = ()
    run: dict[str, Any] | None = None
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def rows(runtimes: tuple[str, ...], gpu: bool) -> list[Row]:
    """Return all rows, those that matter most first; gpu: whether there may be TF32."""
    ways = [_plain, *([_tf32] if gpu else []), *map(_mixed, PRECISIONS)]
    ways += [*map(_mixed_against_full, PRECISIONS), _weights_and_code, _checkpoint_and_code]
    ways += [_deterministic, _xla]
    return [
        row for way in ways for name in NAMES for runtime in runtimes for row in way(name, runtime)
    ]


def _plain(name: str, runtime: str) -> Iterator[Row]:
    yield _keras(name, runtime, "float32")


def _tf32(name: str, runtime: str) -> Iterator[Row]:
    yield _keras(name, runtime, "TF32", switches="tf32")


def _mixed(precision: str) -> Any:
    def way(name: str, runtime: str) -> Iterator[Row]:
        yield _keras(name, runtime, f"mixed {precision}", suffix=f"-{precision}")

    return way


def _mixed_against_full(precision: str) -> Any:
    """What a switch of the policy costs: recorded in float32, run in the mixed policy."""

    def way(name: str, runtime: str) -> Iterator[Row]:
        yield _keras(
            name,
            runtime,
            f"mixed {precision}, recorded in float32",
            suffix=f"-{precision}",
            golden=name,
            options=("--outputs-only",),
        )

    return way


def _weights_and_code(name: str, runtime: str) -> Iterator[Row]:
    yield from _code(name, runtime, ".weights.h5 and code", f"models/{name}.weights.h5")


def _checkpoint_and_code(name: str, runtime: str) -> Iterator[Row]:
    yield from _code(name, runtime, "checkpoint and code", f"models/{name}.ckpt")


def _deterministic(name: str, runtime: str) -> Iterator[Row]:
    yield _keras(name, runtime, "deterministic", switches="deterministic")


def _xla(name: str, runtime: str) -> Iterator[Row]:
    if runtime == "tensorflow":
        yield _keras(name, runtime, "XLA", switches="xla")


def _keras(
    name: str,
    runtime: str,
    way: str,
    *,
    suffix: str = "",
    golden: str = "",
    switches: str = "",
    options: tuple[str, ...] = (),
) -> Row:
    if name == "transformer":  # has a layer of its own, which the file only names
        options = (*options, "--import", "ckptkit.fixtures.models.transformer")
    subject, recorded = f"models/{name}{suffix}.keras", f"goldens/{golden or name + suffix}"
    return Row(name, runtime, way, subject, recorded, switches, options)


def _code(name: str, runtime: str, way: str, subject: str) -> Iterator[Row]:
    if name in AS_CODE:
        options = ("--model", f"benchmarks._gpu_models:{name}")
        yield Row(name, runtime, way, subject, f"goldens/{name}", "", options)


def command(row: Row, carried: Path, device: str, seconds: float) -> list[str]:
    """Return the command of a row."""
    return [
        *(sys.executable, "-m", "ckptkit", "check", str(carried / row.subject)),
        *("--golden", str(carried / row.golden), "--on", row.runner(device)),
        *("--format", "json", "--timeout", f"{seconds:g}", *row.options),
    ]


def say(text: str) -> None:
    """Print progress; not into what is written."""
    print(text, file=sys.stderr, flush=True)
