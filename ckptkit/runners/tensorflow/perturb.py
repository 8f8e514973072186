"""Whether the outputs of a model see each of its variables.  Child process alone.

A layer's variables are changed by a percent, each element up or down at random (a factor alone
would go unseen before a normalisation), the outputs are compared, and the values are put back.
Integers, as the kernels of a quantised model are, change by one, and stay between the least and the
largest of them, since some are places in a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ckptkit.errors import CkptkitError, UsageError
from ckptkit.runners.child.faults import changed
from ckptkit.runners.child.session import Request, Result, cases_of, largest_gap, spec_of
from ckptkit.runners.tensorflow import setup
from ckptkit.runners.tensorflow.changing import assign, by_layer, read_variables
from ckptkit.runners.tensorflow.faults import sample_of_faults
from ckptkit.runners.tensorflow.graph_session import GraphSession
from ckptkit.runners.tensorflow.session import TensorFlowSession, start

if TYPE_CHECKING:
    from ckptkit.dtypes import Arrays


def perturb(request: Request) -> Result:
    """Change variables by `amount` of themselves, and say which changes the outputs show.

    request: as of `execute`; amount; thorough: one variable at a time, not one layer; names:
    {name in the model: readable name}; tolerances: {output: [rtol, atol, scaled]}; faults: how many
    of each kind are tried besides (`ckptkit.runners.tensorflow.faults`), by which margins, for how
    many seconds.
    """
    session = start(request, spec_of(request))
    if session.skipped:
        raise UsageError(session.skipped)
    called = list(cases_of(request, session))
    signature, cases = called[0][0], [inputs for _, inputs in called]
    with setup.scope(session.spec):
        read = dict(read_variables(session, signature, request["names"]))
        variables = {name: v for name, v in read.items() if _can_change(v, request["amount"])}
        groups = by_layer(variables, thorough=request["thorough"])
        reference = [session.call(signature, case) for case in cases]
        rows = [
            _perturbed(session, signature, cases, reference, request, layer, names, variables)
            for layer, names in groups.items()
        ]
        # values that were not put back would make every later answer wrong
        untried = [name for name in read if name not in variables]
        rows += [_untried(untried)] if untried else []
        faults = sample_of_faults(
            session,
            signature,
            cases,
            reference,
            variables,
            request["tolerances"],
            request["margins"],
            most=request["faults"],
            seconds=request["seconds"],
        )
        again = [session.call(signature, case) for case in cases]
    if any(largest_gap(one, two)[0] > _NOISY for one, two in zip(reference, again, strict=True)):
        raise CkptkitError("the model gives something else after its values were put back")
    return {"rows": rows, "faults": faults}


_NOISY = 1e-3  # in units of the output's rms: no repeated run differs by so much


def _can_change(variable: Any, amount: float) -> bool:
    """Whether the values can be changed a little: not where integers are all the same."""
    if variable.dtype.is_floating:
        return True
    value = variable.numpy()
    return bool((changed(value, amount) != value).any())


def _untried(names: Sequence[str]) -> Result:
    return {"layer": "", "variables": list(names), "seen": False, "needed": 0.0, "tried": False}


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
            assign(variables[name], changed(value, request["amount"]))
        gaps = [
            largest_gap(one, session.call(signature, case), request["tolerances"])
            for one, case in zip(reference, cases, strict=True)
        ]
    finally:
        for name, value in before.items():
            assign(variables[name], value)
    return {
        "layer": layer,
        "variables": list(names),
        "seen": any(seen for _, seen in gaps),
        "needed": max(needed for needed, _ in gaps),
        "tried": True,
    }
