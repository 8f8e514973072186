"""Whether the outputs of a model see each of its variables.  Child process alone.

A layer's variables are changed by a percent, each element up or down at random (a factor alone
would go unseen before a normalisation), the outputs are compared, and the values are put back.
Integers, as the kernels of a quantised model are, change by one, and stay between the least and the
largest of them, since some are places in a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ckptkit.errors import CkptkitError, UsageError
from ckptkit.runners.child.session import Request, Result, cases_of, largest_gap, spec_of
from ckptkit.runners.tensorflow import setup
from ckptkit.runners.tensorflow.graph_session import GraphSession, SessionVariable
from ckptkit.runners.tensorflow.graphs import FlatGraph
from ckptkit.runners.tensorflow.isolate import variables_of, whole_names
from ckptkit.runners.tensorflow.module import tensorflow
from ckptkit.runners.tensorflow.session import TensorFlowSession, start

if TYPE_CHECKING:
    from ckptkit.dtypes import Array, Arrays


SEED = 20


def perturb(request: Request) -> Result:
    """Change variables by `amount` of themselves, and say which changes the outputs show.

    request: as of `execute`; amount; thorough: one variable at a time, not one layer; names:
    {name in the model: readable name}; tolerances: {output: [rtol, atol, scaled]}.
    """
    session = start(request, spec_of(request))
    if session.skipped:
        raise UsageError(session.skipped)
    called = list(cases_of(request, session))
    signature, cases = called[0][0], [inputs for _, inputs in called]
    with setup.scope(session.spec):
        read = dict(_variables(session, signature, request["names"]))
        variables = {name: v for name, v in read.items() if _can_change(v, request["amount"])}
        groups = _groups(variables, thorough=request["thorough"])
        reference = [session.call(signature, case) for case in cases]
        rows = [
            _perturbed(session, signature, cases, reference, request, layer, names, variables)
            for layer, names in groups.items()
        ]
        # values that were not put back would make every later answer wrong
        untried = [name for name in read if name not in variables]
        rows += [_untried(untried)] if untried else []
        again = [session.call(signature, case) for case in cases]
    if any(largest_gap(one, two)[0] > _NOISY for one, two in zip(reference, again, strict=True)):
        raise CkptkitError("the model gives something else after its values were put back")
    return {"rows": rows}


_NOISY = 1e-3  # in units of the output's rms: no repeated run differs by so much


def _variables(
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


def _can_change(variable: Any, amount: float) -> bool:
    """Whether the values can be changed a little: not where integers are all the same."""
    if variable.dtype.is_floating:
        return True
    value = variable.numpy()
    return bool((changed(value, amount) != value).any())


def _untried(names: Sequence[str]) -> Result:
    return {"layer": "", "variables": list(names), "seen": False, "needed": 0.0, "tried": False}


def _groups(variables: Mapping[str, Any], *, thorough: bool) -> dict[str, list[str]]:
    """Return {layer: names of its variables}; where thorough, each variable by itself."""
    found: dict[str, list[str]] = {}
    for name in variables:
        layer = name if thorough else name.rpartition("/")[0] or name
        found.setdefault(layer, []).append(name)
    return found


def _perturbed(
    session: TensorFlowSession | GraphSession,
    signature: str,
    cases: Sequence[Arrays],
    reference: Sequence[Arrays],
    request: Request,
    layer: str,
    names: Sequence[str],
    variables: Mapping[str, Any],
) -> Result:
    """Change the variables of one layer, call the model, put them back."""
    before = {name: variables[name].numpy() for name in names}
    try:
        for name, value in before.items():
            _assign(variables[name], changed(value, request["amount"]))
        gaps = [
            largest_gap(one, session.call(signature, case), request["tolerances"])
            for one, case in zip(reference, cases, strict=True)
        ]
    finally:
        for name, value in before.items():
            _assign(variables[name], value)
    return {
        "layer": layer,
        "variables": list(names),
        "seen": any(seen for _, seen in gaps),
        "needed": max(needed for needed, _ in gaps),
        "tried": True,
    }


def _assign(variable: Any, value: Array) -> None:
    plain = isinstance(variable, SessionVariable)
    variable.assign(value if plain else tensorflow().constant(value, variable.dtype))


def changed(value: Array, amount: float) -> Array:
    """Return the values, each up or down by `amount` of itself; zeros by that of the rms.

    Integers go up or down by one, within the range that they have.
    """
    import numpy as np

    if value.dtype.kind in "iu":
        if not value.size:
            return value
        up = np.random.default_rng(SEED).choice((True, False), value.shape)
        higher = np.where(value < value.max(), value + 1, value)
        lower = np.where(value > value.min(), value - 1, value)
        return np.asarray(np.where(up, higher, lower))
    wide = value.astype(np.float64)
    rms = float(np.sqrt(np.mean(wide**2))) if wide.size else 0.0
    signs = np.random.default_rng(SEED).choice((-1.0, 1.0), wide.shape)
    size = np.where(wide == 0, rms or 1.0, np.abs(wide))
    return np.asarray(wide + amount * signs * size).astype(value.dtype)
