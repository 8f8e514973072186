"""Finding where two runs part: values inside both models, paired, compared, fed to each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptkit.errors import UsageError
from ckptkit.golden.binding import Binding
from ckptkit.model_io.layouts import Layout
from ckptkit.model_io.results import Chooser, OutputResult
from ckptkit.operations.execution.input_names import Pairing
from ckptkit.operations.execution.runs import Runs
from ckptkit.operations.execution.subjects import ResolvedSubject
from ckptkit.operations.localize.layouts import Inside, moved, same_value, shaped
from ckptkit.operations.localize.neighbours import with_neighbours, with_variables_around
from ckptkit.operations.localize.op_names import is_converted, values_are_ops
from ckptkit.operations.localize.owned_pairs import is_owned, pair_by_owners, pair_unscoped
from ckptkit.operations.localize.pairs import pair_points
from ckptkit.operations.localize.paths import Paths
from ckptkit.operations.localize.values import (
    Layer,
    Localization,
    Stats,
    VariableGap,
    error_of,
    stats,
)
from ckptkit.operations.localize.weights import WeightGaps, owner_of, weights_between
from ckptkit.runners import introspect
from ckptkit.runners.errors import RunnerError
from ckptkit.runners.introspect import IsolationResult, ReadVariable
from ckptkit.runners.spec import RunnerSpec
from ckptkit.runners.types import OUTPUT, ExecutionResult
from ckptkit.stores.registry import CODE
from ckptkit.wording import say

if TYPE_CHECKING:
    from ckptkit.dtypes import Array
    from ckptkit.model_io.sampling import Sample

    Values = Mapping[str, Array | Sample]

_PART = 0.1  # of the tolerance, above which a change may hide a difference
_EXPLAINED = 3  # layers that get statistics and hints


@dataclass(frozen=True)
class ModelRun:
    """One of the two: a model on a runner, or what a golden kept (`what` is None).

    inputs, outputs: of the case, by the names of this side.  layers: those that a golden kept.
    """

    resolved: ResolvedSubject | None
    spec: RunnerSpec
    inputs: Mapping[str, Any]
    outputs: Values
    signature: str | None
    kind: str
    layers: Values | None = None
    weights: Path | Binding | None = None


class PairedValues(NamedTuple):
    """The values inside of both sides, in the subject's layouts, with outputs that are no layer's.

    paired: {value here: value of the reference}.  ends: {point that is an output: the reference's
    value that it is}.
    """

    known: Values
    mine: Values
    paired: Mapping[str, str]
    ends: Mapping[str, str | None]

    def in_order(self) -> Iterator[tuple[str, str]]:
        """Yield the pairs in the subject's order of computation."""
        for name in self.mine:
            if name in self.paired:
                yield name, self.paired[name]

    def between(self) -> dict[str, list[str]]:
        """Return {value of the reference: those just before it that the subject does not have}."""
        there = set(self.paired.values()) | set(self.ends.values())
        found: dict[str, list[str]] = {}
        lost: list[str] = []
        for name in self.known:
            if name in there:
                found[name], lost = lost, []
            else:
                lost.append(name)
        return found


@dataclass
class Localizer:
    """One localisation.  tolerance: the bar; globs: which values of the subject."""

    runs: Runs
    reference: ModelRun
    new: ModelRun
    pairing: Pairing | None
    tolerance: Chooser
    differs: bool
    globs: Sequence[str] = ("*",)
    notes: list[str] = field(default_factory=list)
    layers_of_variables: dict[str, str] = field(default_factory=dict)

    def layers(self) -> Localization:
        """Compare what is inside; raises nothing that a model may raise: a note says it."""
        theirs, own = self._values(self.reference), self._values(self.new)
        if not theirs or not own:
            return self._weights_alone()
        self._check_globs(own)
        paired = self._pairs(theirs, own)
        if not paired:
            self.notes.append(
                "no value inside one model has the name and shape of one in the other"
            )
            return self._weights_alone()
        orders = self._orders(theirs, own, paired)
        isolated = self._isolated(theirs, paired, orders)
        both = self._both(theirs, own, paired, orders, isolated)
        propagated = {} if self._hidden else dict(self._propagated(both))
        if isolated is None and not propagated:
            return self._weights_alone()
        rows = tuple(self._rows(both, isolated, propagated))
        if values_are_ops(self.new.kind) and not is_converted(self.new.kind):
            rows = with_neighbours(rows)
        elif self.new.kind == CODE:
            rows = with_variables_around(rows)
        mode = "propagated" if isolated is None else "isolated"
        done = Localization(self.differs, mode, rows, known=len(own), notes=())
        rows = tuple(self._explained(done, both))
        unseen = self._unseen(rows)
        return replace(
            done, layers=rows, unseen=unseen, owners=self._owners(), notes=tuple(self.notes)
        )

    def _check_globs(self, own: Values) -> None:
        names = [*own, *(f"{OUTPUT}{name}" for name in self.new.outputs)]
        if not any(fnmatchcase(name, glob) for glob in self.globs for name in names):
            raise UsageError(
                f"no value inside of the subject is called {' or '.join(self.globs)}",
                hint=f"there are {len(own)}, such as {', '.join(list(own)[:3])}",
            )

    # -- values ------------------------------------------------------------------------------------

    def _values(self, side: ModelRun) -> Values:
        """Return the values inside of a side; {} with a note where there are none."""
        if side.resolved is None:
            if not side.layers:
                self.notes.append(
                    say(
                        "the golden keeps no layers (‹record.layers=*› does), "
                        "and its model is not beside it as it was"
                    )
                )
            return side.layers or {}
        run = self._exposed(side)
        if run is None:
            self.notes.append(f"{side.resolved.subject} on {side.spec.text} cannot be looked into")
            return {}
        if run.intermediates_gap and (run.intermediates_gap[0] or 0.0) > self._noticed(run):
            self._hidden = True
            self.notes.append(
                f"{side.resolved.subject} on {side.spec.text} gives other outputs when its layers "
                "are looked at, so the difference may hide: each layer is judged alone"
            )
        return run.layers[0] if run.layers else {}

    _hidden: bool = False

    def _noticed(self, run: ExecutionResult) -> float:
        """Return how far outputs may move by being looked at: a part of what is allowed."""
        from ckptkit.dtypes import dtype_of_numpy

        allowed = (
            self.tolerance(name, dtype_of_numpy(value.dtype))
            for name, value in run.outputs[0].items()
        )
        return _PART * min(max(item.rtol, item.atol) for item in allowed)

    def _exposed(self, side: ModelRun) -> ExecutionResult | None:
        assert side.resolved is not None
        globs = ("*",)
        return self.runs.execute(
            side.resolved, side.spec, [side.inputs], side.signature, layers=globs, quiet=True
        )

    def _pairs(self, known: Values, mine: Values) -> dict[str, str]:
        """Return {value here: value of the reference}."""
        reference = list(shaped(known, self.reference.kind))
        new = list(shaped(mine, self.new.kind))
        if is_owned(reference) and is_owned(new):
            return pair_by_owners(reference, new)
        found = pair_points(reference, new)
        laid = pair_unscoped(reference, new)
        taken = set(laid.values())
        unscoped = {item.name for item in new if "/" not in item.op} if laid else set()
        rest = {h: t for h, t in found.items() if h not in unscoped and t not in taken}
        return {**rest, **laid}

    def _orders(self, known: Values, mine: Values, paired: Mapping[str, str]) -> dict[str, Layout]:
        """Return how the axes of the reference's values are moved: only converters reorder them."""
        converted = any(map(is_converted, (self.reference.kind, self.new.kind)))
        return moved(known, mine, paired, reorder=converted)

    # -- one layer alone ---------------------------------------------------------------------------

    def _isolated(
        self, known: Values, paired: Mapping[str, str], orders: Mapping[str, Layout]
    ) -> IsolationResult | None:
        """Return what each point of the subject gives on the reference's values."""
        from ckptkit.model_io.sampling import Sample

        side, spec = self.new, self.new.spec
        assert side.resolved is not None
        if spec.eager or spec.replicas > 1:
            spec = replace(spec, eager=False, replicas=1)
            self.notes.append(f"layers were run alone on {spec.text}")
        usable = dict(paired)
        if not hasattr(known, "chunks"):
            usable = {h: t for h, t in paired.items() if not isinstance(known[t], Sample)}
        if len(usable) < len(paired):
            self.notes.append(
                f"{len(paired) - len(usable)} layers are too large to be kept whole in the golden"
            )
        scratch = self.runs.scratch / f"layers-{len(list(self.runs.scratch.iterdir()))}"
        scratch.mkdir()
        try:
            with self.runs.counted(f"layers alone on {spec.text}"):
                return introspect.isolate(
                    side.resolved.subject,
                    spec,
                    side.inputs,
                    introspect.value_files(known, usable, orders, scratch),  # type: ignore[arg-type]
                    self.runs.limits,
                    signature=side.signature,
                    globs=self.globs,
                    options=self.runs.options,
                )
        except RunnerError as error:
            self.notes.append(
                f"no layer of {side.resolved.subject} ran alone, so errors are those that it makes "
                f"and inherits: {error.message}"
            )
            return None

    # -- comparing ---------------------------------------------------------------------------------

    def _both(
        self,
        theirs: Values,
        own: Values,
        paired: Mapping[str, str],
        orders: Mapping[str, Layout],
        isolated: IsolationResult | None,
    ) -> PairedValues:
        """Return the values of both sides, with the outputs that are points of their own."""
        outputs = self.pairing.outputs_of if self.pairing is not None else dict
        known, mine = {}, {}
        for end in isolated.values if isolated is not None else ():
            if end.startswith(OUTPUT):
                name = end.removeprefix(OUTPUT)
                there = next(iter(outputs({name: name})))
                if there in self.reference.outputs:
                    known[end], mine[end] = self.reference.outputs[there], self.new.outputs[name]
        return PairedValues(
            Inside(theirs, known, {paired[here]: order for here, order in orders.items()}),
            Inside(own, mine),
            {**paired, **{end: end for end in known}},
            {end: same_value(theirs, value) for end, value in known.items()},
        )

    def _propagated(self, both: PairedValues) -> Iterator[tuple[str, OutputResult]]:
        for here, there in both.in_order():
            yield here, self._measured(here, both.known[there], both.mine[here])

    def _measured(self, name: str, ref: Any, new: Any) -> OutputResult:
        from ckptkit.model_io.measure import comparable_form, compare_output

        return compare_output(name, comparable_form(ref), _as_array(new), self.tolerance, {})

    def _rows(
        self,
        both: PairedValues,
        isolated: IsolationResult | None,
        propagated: Mapping[str, OutputResult],
    ) -> Iterator[Layer]:
        alone = dict(self._alone(both, isolated)) if isolated is not None else {}
        points = {p.name: p for p in isolated.points} if isolated is not None else {}
        paths = Paths(
            self.reference.kind,
            self.new.kind,
            self.weights,
            both.ends,
            both.between(),
            self.layers_of_variables,
        )
        lacking = self.weights.lacking(points.values())
        order = [name for name, _ in both.in_order()]
        for number, name in enumerate(order):
            if isolated is not None and name not in alone:
                continue  # the same tensor as another point, or not asked for
            point = points.get(name)
            if point is not None and point.stateful:
                self.notes.append(f"{name} reads what each call changes: not compared")
                continue
            inputs = point.inputs if point is not None else ()
            before = max((error_of(propagated[i]) for i in inputs if i in propagated), default=0.0)
            if point is None and number:
                earlier = order[number - 1]
                before = error_of(propagated[earlier]) if earlier in propagated else 0.0
            variables = self.weights.of(point.variables) if point is not None else ()
            read = point.variables if point is not None else ()
            self.layers_of_variables.update(_layers_told(read, variables))
            path, *fused = paths.of(name, both.paired[name], variables)
            if point is not None and is_converted(self.new.kind):
                variables = self.weights.of_constants(point.variables)
                path, *fused = sorted((path, *fused), key=lambda layer: layer not in lacking)
            yield Layer(
                name=name,
                reference=both.paired[name],
                path=path,
                fused=tuple(fused),
                kind=point.kind if point is not None else "",
                policy=point.policy if point is not None else "",
                order=number,
                propagated=propagated.get(name),
                isolated=alone.get(name),
                variables=variables,
                inputs=dict.fromkeys(inputs),
                before=before,
            )

    def _alone(
        self, both: PairedValues, isolated: IsolationResult
    ) -> Iterator[tuple[str, OutputResult]]:
        """Yield the isolated error of each point."""
        for name, value in isolated.values.items():
            if name in both.paired:
                yield name, self._measured(name, both.known[both.paired[name]], value)

    # -- explaining --------------------------------------------------------------------------------

    @cached_property
    def weights(self) -> WeightGaps:
        """The variables of the subject, and which of them differ."""
        new = self.new.weights
        return weights_between(self.reference.weights, new if isinstance(new, Path) else None)

    def _explained(self, done: Localization, both: PairedValues) -> Iterator[Layer]:
        """Yield the layers, the first of the ranking with statistics and hints."""
        from ckptkit.model_io.compare_outputs import compare_outputs

        chosen = {layer.name for layer in done.ranked[:_EXPLAINED]}
        for layer in done.layers:
            if layer.name not in chosen:
                yield layer
                continue
            ref, new = both.known[layer.reference], _as_array(both.mine[layer.name])
            inputs = {name: self._stats_of(name, both) for name in layer.inputs}
            hints: tuple[str, ...] = ()
            if layer.isolated is None and layer.propagated is not None:
                found = compare_outputs({layer.name: ref}, {layer.name: new}, self.tolerance)
                hints = found[0].hints
            yield replace(layer, inputs=inputs, output=(stats(ref), stats(new)), hints=hints)

    def _stats_of(self, name: str, both: PairedValues) -> Stats | None:
        if name in both.paired:
            return stats(both.known[both.paired[name]])
        return stats(self.new.inputs[name]) if name in self.new.inputs else None

    def _unseen(self, rows: Sequence[Layer]) -> tuple[VariableGap, ...]:
        """Return the variables that differ and that no layer beyond the tolerance reads."""
        shown = {gap.name for row in rows if row.is_beyond for gap in row.changed}
        return tuple(gap for name, gap in self.weights.gaps.items() if name not in shown)

    def _owners(self) -> dict[str, str]:
        known = self.layers_of_variables
        return {name: known.get(name) or owner_of(name) or name for name in self.weights.gaps}

    def _weights_alone(self) -> Localization:
        return Localization(
            self.differs,
            "weights",
            unseen=tuple(self.weights.gaps.values()),
            owners=self._owners(),
            notes=tuple(self.notes),
        )


def _layers_told(
    read: Sequence[ReadVariable], gaps: Sequence[VariableGap]
) -> Iterator[tuple[str, str]]:
    """Yield (variable, its layer) of those whose layers the model itself told."""
    for item, gap in zip(read, gaps, strict=True):
        if item.layer:
            yield gap.name, item.layer


def _as_array(value: Any) -> Any:
    from ckptkit.model_io.array_files import as_array

    return as_array(value)
