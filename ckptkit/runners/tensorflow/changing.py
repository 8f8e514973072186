"""The variables that a call of a model reads, and changing them.  Child process alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ckptkit.runners.tensorflow.graph_session import GraphSession, SessionVariable
from ckptkit.runners.tensorflow.graphs import FlatGraph
from ckptkit.runners.tensorflow.isolate import variables_of, whole_names
from ckptkit.runners.tensorflow.module import tensorflow
from ckptkit.runners.tensorflow.session import TensorFlowSession

if TYPE_CHECKING:
    from ckptkit.dtypes import Array


def read_variables(
    session: TensorFlowSession | GraphSession, signature: str, readable: Mapping[str, str]
) -> Iterator[tuple[str, Any]]:
    """Yield (readable name, variable) of the numbers that a signature reads."""
    known = isinstance(session, GraphSession) or (
        session.loaded.endpoints[signature].concrete is not None
    )
    taken: set[str] = set()
    for names, variable in _read(session, signature):
        # where nothing tells what is read, integers are counters and states as likely as weights
        if not variable.dtype.is_floating and not (known and variable.dtype.is_integer):
            continue
        name = next((readable[name] for name in names if name in readable), names[-1])
        if name in taken:
            name = names[0]
        taken.add(name)
        yield name, variable


def _read(
    session: TensorFlowSession | GraphSession, signature: str
) -> Iterator[tuple[list[str], Any]]:
    """Yield (names, variable) of what a signature reads."""
    if isinstance(session, GraphSession):
        yield from (([v.name, *whole_names(v.name)], v) for v in session.variables(signature))
        return
    concrete = session.loaded.endpoints[signature].concrete
    read = None if concrete is None else {id(v) for v in FlatGraph(concrete).captured.values()}
    for names, variable in variables_of(session):
        if read is None or id(variable.handle) in read:
            yield names, variable


def by_layer(variables: Mapping[str, Any], *, thorough: bool) -> dict[str, list[str]]:
    """Return {layer: names of its variables}; where thorough, each variable by itself."""
    found: dict[str, list[str]] = {}
    for name in variables:
        layer = name if thorough else name.rpartition("/")[0] or name
        found.setdefault(layer, []).append(name)
    return found


def assign(variable: Any, value: Array) -> None:
    """Set the values of a variable."""
    plain = isinstance(variable, SessionVariable)
    variable.assign(value if plain else tensorflow().constant(value, variable.dtype))
