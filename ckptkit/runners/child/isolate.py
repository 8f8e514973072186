"""Each value inside of a model, computed from what a reference gave before it.  Child process.

A runtime tells which values there are, and computes them; the reference's values are read from
files, and what is computed is written to files, so that memory stays bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ckptkit.errors import UsageError
from ckptkit.model_io.array_files import load_arrays
from ckptkit.model_io.layouts import Layout
from ckptkit.runners.child.session import (
    CHUNK_BYTES,
    Open,
    Request,
    Result,
    Session,
    cases_of,
    spec_of,
    wanted,
    written,
)
from ckptkit.runners.types import OUTPUT as OUTPUT

if TYPE_CHECKING:
    from ckptkit.dtypes import Array, Arrays


Keep = Callable[[str, Any], None]
"""Takes a name and an array."""


class ReferenceValues:
    """The reference's values, by the names of the model's points; read when asked for."""

    def __init__(self, sources: Sequence[Mapping[str, Any]]) -> None:
        self._sources = sources
        self._places = {
            here: (number, there)
            for number, source in enumerate(sources)
            for here, there in source["names"].items()
        }
        self._last: tuple[int, Arrays] = (-1, {})

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def load(self, names: Iterable[str]) -> dict[str, Array]:
        """Return the values of these points, in the model's layout."""
        by_file = sorted(names, key=lambda name: self._places[name])
        return {name: self._value(name) for name in by_file}

    def _value(self, name: str) -> Array:
        number, there = self._places[name]
        source = self._sources[number]
        if self._last[0] != number:
            self._last = number, load_arrays(Path(source["file"]), source["described"])
        layout = source["layouts"].get(name)
        value = self._last[1][there]
        return Layout(*layout).of(value) if layout is not None else value


class Parts(Protocol):
    """A model whose values are each computed from the reference's."""

    def rows(self) -> Sequence[Result]:
        """Return the fields of `ckptkit.runners.introspect.Point`, in the order of computation."""

    def compute(self, names: Sequence[str], keep: Keep) -> None:
        """Call `keep` with each of these points and its value."""


MakeParts = Callable[[Any, str, "Arrays", ReferenceValues], Parts]
"""Makes the parts of a session, a signature and its inputs."""


def action(start: Open, cut: MakeParts) -> Callable[[Request], Result]:
    """Return the action `isolate` of a runtime.

    Its request: as of `execute`, with one case; sources: files of the reference's values, each with
    `names` {point here: name in the file} and `layouts` {point: see Layout}, where it is another
    here; globs: which points are wanted.
    """

    def isolate(request: Request) -> Result:
        session = start(request, spec_of(request))
        if session.skipped:
            raise UsageError(session.skipped)
        ((signature, inputs),) = cases_of(request, session)
        reference = ReferenceValues(request["sources"])
        return _isolated(request, session, cut(session, signature, inputs, reference))

    return isolate


def _isolated(request: Request, session: Session, parts: Parts) -> Result:
    asked = [row for row in parts.rows() if wanted(row["name"], request["globs"])]
    names = [row["name"] for row in asked if row["fed"] or row["name"].startswith(OUTPUT)]
    chunks = _Chunks(Path(request["scratch"]))
    parts.compute(names, chunks.keep)
    return {
        "points": asked,
        "chunks": chunks.all(),
        "environment": session.environment(),
    }


class _Chunks:
    """Values, written to a file whenever there are many."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._held: dict[str, Array] = {}
        self._nbytes = 0
        self._written: list[Result] = []

    def keep(self, name: str, value: Array) -> None:
        self._held[name] = value
        self._nbytes += value.nbytes
        if self._nbytes > CHUNK_BYTES:
            self._write()

    def all(self) -> list[Result]:
        if self._held:
            self._write()
        return self._written

    def _write(self) -> None:
        file = self._scratch / f"isolated{len(self._written)}.npz"
        self._written.append(written(file, self._held))
        self._held, self._nbytes = {}, 0


def point_row(
    name: str,
    kind: str,
    dtype: str,
    *,
    policy: str = "",
    variables: Sequence[Result] = (),
    inputs: Iterable[str] = (),
    fed: bool,
    stateful: bool = False,
) -> Result:
    """Return one point as plain values: see `ckptkit.runners.introspect.Point`."""
    return {
        "name": name,
        "kind": kind,
        "policy": policy or dtype,
        "dtype": dtype,
        "variables": list(variables),
        "inputs": list(inputs),
        "fed": fed,
        "stateful": stateful,
    }
