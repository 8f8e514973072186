"""A model with one fault at a time, held against what the sound one should give.  Child alone.

Each fault (`ckptkit.runners.child.faults`) is put into the live model, the model is run, and the
fault is taken out again.  What it does to the outputs is judged as `check` judges them, by the
tolerance in use and by the tightest one above the model's noise.  A fault that even that one lets
pass is tried on other inputs: what changes nothing there either computes the same, and is no fault.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from ckptkit.errors import CkptkitError, UsageError
from ckptkit.model_io.array_files import as_array
from ckptkit.model_io.measure import compare_output
from ckptkit.model_io.sampling import Sample, load_values
from ckptkit.model_io.tiers import OutputTolerance
from ckptkit.runners.child.faults import (
    ACTIVATION,
    EPSILON,
    SEED,
    Fault,
    damaged,
    faults_of_weights,
    other_activation,
    other_epsilon,
    spread,
)
from ckptkit.runners.child.session import MAX_GAP, Request, Result, cases_of, spec_of
from ckptkit.runners.tensorflow import setup
from ckptkit.runners.tensorflow.build import is_keras, keras, layers_of
from ckptkit.runners.tensorflow.changing import assign, by_layer, read_variables
from ckptkit.runners.tensorflow.graph_session import GraphSession
from ckptkit.runners.tensorflow.graph_settings import GraphSettings
from ckptkit.runners.tensorflow.graphs import FlatGraph
from ckptkit.runners.tensorflow.session import TensorFlowSession, start

if TYPE_CHECKING:
    from ckptkit.dtypes import Array, Arrays

Call = Callable[["Arrays"], "Arrays"]
Values = Mapping[str, "Array | Sample"]
SEEN, PASSES, BLIND, SAME = "seen", "passes", "blind", "same"


def audit(request: Request) -> Result:
    """Try the faults of a model.

    request: as of `execute`; names: {name in the model: readable name}; reference: per case what
    `save_values` made of the outputs to hold it against, by the names of `outputs`, {its own:
    that}; used, tightest: {output: [rtol, atol, scaled, min_cosine]}; margins: {output: what other
    inputs may differ by, as rtol and atol}; noise: by output; seconds: after which no more are
    tried.
    """
    session = start(request, spec_of(request))
    if session.skipped:
        raise UsageError(session.skipped)
    called = list(cases_of(request, session))
    signature, cases = called[0][0], [inputs for _, inputs in called]
    with setup.scope(session.spec):
        reference = [load_values(case) for case in request["reference"]]
        trials = FaultTrials(session, signature, cases, _judge(request, reference))
        variables = dict(read_variables(session, signature, request["names"]))
        found = trials.all_of(variables, request["seconds"])
        if not trials.is_sound():
            raise CkptkitError("the model gives something else after its faults were taken out")
    return found


def sample_of_faults(
    session: TensorFlowSession | GraphSession,
    signature: str,
    cases: Sequence[Arrays],
    reference: Sequence[Values],
    variables: Mapping[str, Any],
    tolerances: Mapping[str, Sequence[Any]],
    margins: Mapping[str, float],
    *,
    most: int,
    seconds: float,
) -> list[Result]:
    """Return rows as `audit` gives them of some faults, so many of a kind, of single weights.

    tolerances: {output: [rtol, atol, scaled]}, of the outputs of this model.  margins: see `audit`.
    """
    if not most:
        return []
    judge = Judge(reference, {}, tolerances, tolerances, {}, margins)
    trials = FaultTrials(session, signature, cases, judge)
    rows: list[Result] = trials.all_of(variables, seconds, most)["faults"]
    return rows


@dataclass(frozen=True)
class Judge:
    """What outputs are held against, and how far off they may be: see `audit`."""

    reference: Sequence[Values]
    outputs: Mapping[str, str]
    used: Mapping[str, Sequence[Any]]
    tightest: Mapping[str, Sequence[Any]]
    noise: Mapping[str, Mapping[str, Any]]
    margins: Mapping[str, float]

    def verdict(self, found: Sequence[Arrays]) -> tuple[float, bool, bool]:
        """Return the tolerance that the outputs need, and whether each of the two lets them pass.

        found: the outputs of each case, by the model's own names.
        """
        needed, passes, undetected = 0.0, True, True
        for reference, outputs in zip(self.reference, found, strict=True):
            named = {self.outputs.get(name, name): value for name, value in outputs.items()}
            for name, ref in reference.items():
                noise = self.noise.get(name, {})
                new = as_array(named[name])
                result = compare_output(name, ref, new, _limit(self.used), noise)
                if result.status in ("equal", "empty"):
                    continue
                needed = max(needed, MAX_GAP if result.needed is None else result.needed)
                passes = passes and (result.ok or result.status == "meaningless")
                tight = compare_output(name, ref, new, _limit(self.tightest), noise)
                undetected = undetected and tight.ok
        return min(needed, MAX_GAP), passes, undetected

    def same(self, one: Arrays, other: Arrays) -> bool:
        """Whether two runs of the model on other inputs give the same, but for its noise."""
        for name, ref in one.items():
            margin = self.margins.get(self.outputs.get(name, name), 0.0)
            limit = OutputTolerance(margin, margin, True)
            result = compare_output(
                name, as_array(ref), as_array(other[name]), lambda *_, limit=limit: limit, {}
            )
            if not (result.ok or result.status == "empty"):
                return False
        return True


def _limit(tolerances: Mapping[str, Sequence[Any]]) -> Callable[[str, str], OutputTolerance]:
    def limit(name: str, _dtype: str) -> OutputTolerance:
        rtol, atol, scaled, *cosine = tolerances.get(name, (0.0, 0.0, True))
        return OutputTolerance(rtol, atol, scaled, "", *cosine)

    return limit


def _judge(request: Request, reference: Sequence[Values]) -> Judge:
    names = ("outputs", "used", "tightest", "noise", "margins")
    return Judge(reference, *(request[name] for name in names))


@dataclass
class FaultTrials:
    """The faults of one model, tried one after the other."""

    session: TensorFlowSession | GraphSession
    signature: str
    cases: Sequence[Arrays]
    judge: Judge
    _others: list[tuple[Arrays, Arrays]] | None = field(default=None, init=False)

    def all_of(
        self, variables: Mapping[str, Any], seconds: float, most: int | None = None
    ) -> Result:
        """Return {"faults": a row for each that was tried, "untried": one for each other}.

        variables: by readable name.  seconds: after which no more are tried.  most: of each kind,
        and of single weights alone; None tries all.
        """
        faults = [
            fault
            for layer, names in by_layer(variables, thorough=False).items()
            for fault in faults_of_weights(
                layer, {name: [int(n) for n in variables[name].shape] for name in names}
            )
        ]
        settings: list[tuple[Fault, Callable[[], Result]]] = []
        if most is not None:
            faults = spread(faults, most)
        else:
            settings = list(self._settings(variables))
            faults += [fault for fault, _ in settings]
        first = len(faults) - len(settings)
        rows: dict[int, Result] = {}
        untried: list[Result] = []
        began = time.monotonic()
        # settings last, since each of them has the model traced anew
        for at in sorted(_order(len(faults)), key=lambda at: at >= first):
            fault = faults[at]
            if time.monotonic() - began > seconds:
                untried.append({**fault._asdict(), "why": "time"})
                continue
            row: Result | None
            if at >= first:
                row = settings[at - first][1]()
            else:
                row = self._with_weights(fault, variables)
            if row is None:  # nothing to be changed, which is no fault
                continue
            if "why" in row:
                untried.append(row)
            else:
                rows[at] = row
        return {"faults": [rows[at] for at in sorted(rows)], "untried": untried}

    def _settings(
        self, variables: Mapping[str, Any]
    ) -> Iterator[tuple[Fault, Callable[[], Result]]]:
        """Yield what may be set otherwise, and what tries it: of live layers, or of a graph."""
        for fault, *change in _settings(self.session):
            yield fault, partial(self._with_setting, fault, *change)

        def owners(flat: FlatGraph) -> dict[str, str]:
            layers = {
                id(variables[name].handle): layer
                for layer, names in by_layer(variables, thorough=False).items()
                for name in names
            }
            captured = flat.captured.items()
            return {name: layers[id(value)] for name, value in captured if id(value) in layers}

        graph = GraphSettings(self.session, self.signature, self.cases)
        for fault, setting in graph.faults(owners):
            yield fault, partial(self._with_graph, fault, partial(graph.call, setting))

    def _with_weights(self, fault: Fault, variables: Mapping[str, Any]) -> Result | None:
        before = {name: variables[name].numpy() for name in fault.variables}
        values = {
            name: new
            for name, value in before.items()
            if (new := damaged(fault.kind, value)) is not None
        }
        if not values:
            return None
        try:
            for name, value in values.items():
                assign(variables[name], value)
            return self._tried(fault)
        finally:
            for name in values:
                assign(variables[name], before[name])

    def _with_setting(self, fault: Fault, layer: Any, old: Any, new: Any) -> Result:
        assert isinstance(self.session, TensorFlowSession)
        try:
            setattr(layer, fault.kind, new)
            self.session.retrace()
            row = self._tried(fault)
            # code may keep a graph of its own, which knows nothing of the change
            return {**fault._asdict(), "why": "no effect"} if row["needed"] == 0 else row
        finally:
            setattr(layer, fault.kind, old)
            self.session.retrace()

    def _with_graph(self, fault: Fault, call: Call) -> Result:
        try:
            row = self._tried(fault, call)
        except Exception as error:  # any of many; other faults tell their own
            return {**fault._asdict(), "why": type(error).__name__}
        return {**fault._asdict(), "why": "no effect"} if row["needed"] == 0 else row

    def _call(self, inputs: Arrays) -> Arrays:
        return self.session.call(self.signature, inputs)

    def _tried(self, fault: Fault, call: Call | None = None) -> Result:
        """Run the model with the fault in it, and judge what it gives.

        call: runs it, where the model is as it was.
        """
        call = call or self._call
        outputs = [call(case) for case in self.cases]
        needed, passes, undetected = self.judge.verdict(outputs)
        verdict = SEEN
        if passes:
            verdict = PASSES
            if undetected:
                verdict = SAME if self._computes_the_same(call) else BLIND
        return {**fault._asdict(), "verdict": verdict, "needed": needed}

    def _computes_the_same(self, call: Call) -> bool:
        """Whether the model, as it is now, gives on other inputs what the sound one gave."""
        others = self._others or []
        if not others:
            return False
        again = [call(inputs) for inputs, _ in others]
        return all(
            self.judge.same(sound, now) for (_, sound), now in zip(others, again, strict=True)
        )

    def __post_init__(self) -> None:
        self._others = [
            (inputs, sound)
            for inputs in other_inputs(self.cases[0])
            if (sound := self._given(inputs)) is not None
        ]

    def _given(self, inputs: Arrays) -> Arrays | None:
        """Return what the sound model gives; None where it does not take such inputs."""
        try:
            return self.session.call(self.signature, inputs)
        except Exception:  # any of many: of the runtime, or of code; others will do
            return None

    def is_sound(self) -> bool:
        """Whether every fault was taken out again."""
        outputs = [self.session.call(self.signature, case) for case in self.cases]
        _, passes, undetected = self.judge.verdict(outputs)
        return passes or undetected


def other_inputs(case: Arrays) -> Iterator[dict[str, Array]]:
    """Yield inputs that a model takes if it takes these: in another order, then drawn anew.

    Numbers of floating point are drawn twice as large as they are, of either sign; integers and
    texts mean something, and only change places.
    """
    import numpy as np

    for drawn in (False, True):
        rng = np.random.default_rng(SEED)
        found = {}
        for name, value in case.items():
            flat = np.array(value.reshape(-1))
            if drawn and value.dtype.kind not in "iubOSU":
                wide = flat.astype(np.float64)
                rms = float(np.sqrt(np.mean(wide**2))) if flat.size else 0.0
                numbers = np.asarray(2 * (rms or 1.0) * rng.standard_normal(value.shape))
                found[name] = numbers.astype(value.dtype)
            else:
                found[name] = flat[rng.permutation(flat.size)].reshape(value.shape)
        yield found


def _order(count: int) -> list[int]:
    """Return the places below `count`, so that the first ones are from everywhere."""
    import numpy as np

    return [int(at) for at in np.random.default_rng(SEED).permutation(count)]


def _settings(session: TensorFlowSession | GraphSession) -> Iterator[tuple[Fault, Any, Any, Any]]:
    """Yield (fault, layer, old value, new value) of what settings of live layers may be mistaken.

    Not of the cell of a recurrent layer, whose kernels were chosen when it was made.
    """
    model = session.loaded.model if isinstance(session, TensorFlowSession) else None
    if model is None or not is_keras(model):
        return
    activations = keras().activations
    for layer in layers_of(model):
        own = vars(layer)
        path = str(getattr(layer, "path", "") or layer.name)
        if hasattr(layer, "state_size"):
            continue
        epsilon = own.get(EPSILON)
        if isinstance(epsilon, float) and epsilon > 0:
            other = other_epsilon(epsilon)
            yield Fault(EPSILON, path, (), (epsilon, other)), layer, epsilon, other
        activation = own.get(ACTIVATION)
        name = getattr(activation, "__name__", "")
        if activation is None or getattr(activations, name, None) is not activation:
            continue
        taken = other_activation(name)
        if taken is not None:
            found = Fault(ACTIVATION, path, (), (name, taken))
            yield found, layer, activation, activations.get(taken)
