"""Each value inside of a model, computed from what a reference gave before it.  Child process.

A difference that one layer makes is carried on by all that follow.  Fed with the reference's values
of what comes before it, every layer shows its own difference alone.

A runtime tells which values there are, and computes them (`Parts`); the reference's values are read
from files, and what is computed is written to files, so that memory stays bounded.
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
    """A model cut at the values that a reference has: what a runtime implements for `isolate`.

    A point is a value inside of the model; an output that is no other point goes by OUTPUT and its
    name.  What lies between two cuts is computed from the reference's values alone.
    """

    def rows(self) -> Sequence[Result]:
        """Describe every point, in the order of computation.

        Returns:
            The fields of `ckptkit.runners.introspect.Point`, as `point_row` makes them.
        """

    def compute(self, names: Sequence[str], keep: Keep) -> None:
        """Compute points from the reference's values of what they read.

        Args:
            names: of points that `rows` described.
            keep: is called once with each of them and its array; it may write the array to a file,
                so none needs to be held afterwards.
        """


MakeParts = Callable[[Any, str, "Arrays", ReferenceValues], Parts]
"""Cuts the model of a session, for a signature and its inputs, where the reference has values."""


def action(start: Open, subgraphs: MakeParts) -> Callable[[Request], Result]:
    """Make the action `isolate` of a runtime.

    Its request is that of `execute` with one case, and
        sources: files of the reference's values, each with `names` {point here: name in the file}
            and `layouts` {point: see `ckptkit.model_io.layouts`}, where axes are in another order.
        globs: which points are wanted.

    Args:
        start: opens a session for a request.
        subgraphs: cuts the model of a session.
    Returns:
        What carries the action out.
    """

    def isolate(request: Request) -> Result:
        session = start(request, spec_of(request))
        if session.skipped:
            raise UsageError(session.skipped)
        ((signature, inputs),) = cases_of(request, session)
        reference = ReferenceValues(request["sources"])
        return _isolated(request, session, subgraphs(session, signature, inputs, reference))

    return isolate


def _isolated(request: Request, session: Session, parts: Parts) -> Result:
    rows = [row for row in parts.rows() if wanted(row["name"], request["globs"])]
    # a value that the reference has not cannot be compared; the outputs are, by another way
    names = [row["name"] for row in rows if row["fed"] or row["name"].startswith(OUTPUT)]
    chunks = _Chunks(Path(request["scratch"]))
    parts.compute(names, chunks.keep)
    return {
        "points": rows,
        "chunks": chunks.all(),
        "environment": session.environment(),
    }


class _Chunks:
    """Values, written to a file whenever there are many."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._values: dict[str, Array] = {}
        self._nbytes = 0
        self._written: list[Result] = []

    def keep(self, name: str, value: Array) -> None:
        self._values[name] = value
        self._nbytes += value.nbytes
        if self._nbytes > CHUNK_BYTES:
            self._write()

    def all(self) -> list[Result]:
        if self._values:
            self._write()
        return self._written

    def _write(self) -> None:
        file = self._scratch / f"isolated{len(self._written)}.npz"
        self._written.append(written(file, self._values))
        self._values, self._nbytes = {}, 0


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
