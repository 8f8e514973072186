"""Finding where two runs part: values inside both models, paired, compared, fed to each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptkit._layouts import Layout
from ckptkit.binding import Binding
from ckptkit.operations._check_names import Pairing
from ckptkit.operations._check_runs import Runs
from ckptkit.operations._check_subjects import Resolved
from ckptkit.operations._localize_layouts import Inside, moved, same_value, shaped
from ckptkit.operations._localize_names import CONVERTED
from ckptkit.operations._localize_pairs import pair_points
from ckptkit.operations._localize_paths import Paths
from ckptkit.operations._localize_values import (
    Layer,
    Localization,
    Stats,
    VariableGap,
    error_of,
    stats,
)
from ckptkit.operations._localize_weights import Weights, owner_of, weights_between
from ckptkit.outputs import Chooser, OutputResult
from ckptkit.runners import inside
from ckptkit.runners.base import RunnerError
from ckptkit.runners.inside import Isolated, Point
from ckptkit.runners.spec import RunnerSpec
from ckptkit.runners.subjects import Run

if TYPE_CHECKING:
    import numpy as np

    from ckptkit._sample import Sample

    Array = np.ndarray[Any, Any]
    Values = Mapping[str, Array | Sample]

_EXPLAINED = 3  # layers that get statistics and hints


@dataclass(frozen=True)
class Side:
    """One of the two: a model on a runner, or what a golden kept (`what` is None).

    inputs, outputs: of the case, by the names of this side.  layers: those that a golden kept.
    """

    what: Resolved | None
    spec: RunnerSpec
    inputs: Mapping[str, Any]
    outputs: Values
    signature: str | None
    kind: str
    layers: Values | None = None
    weights: Path | Binding | None = None


@dataclass
class Work:
    """One localisation.  tolerance: the bar; globs: which values of the subject."""

    runs: Runs
    reference: Side
    new: Side
    pairing: Pairing | None
    tolerance: Chooser
    differs: bool
    globs: Sequence[str] = ("*",)
    notes: list[str] = field(default_factory=list)

    def layers(self) -> Localization:
        """Compare what is inside; raises nothing that a model may raise: a note says it."""
        theirs, own = self._values(self.reference), self._values(self.new)
        if not theirs or not own:
            return self._weights_alone()
        paired = self._pairs(theirs, own)
        if not paired:
            self.notes.append(
                "no value inside one model has the name and shape of one in the other"
            )
            return self._weights_alone()
        orders = self._orders(theirs, own, paired)
        isolated = self._isolated(theirs, own, paired, orders)
        ends = self._ends(isolated)
        self._last = {end: same_value(theirs, value) for end, (value, _) in ends.items()}
        by_name = {paired[here]: order for here, order in orders.items()}
        known = Inside(theirs, {end: value for end, (value, _) in ends.items()}, by_name)
        mine = Inside(own, {end: value for end, (_, value) in ends.items()})
        paired |= {end: end for end in ends}
        propagated = self._propagated(known, mine, paired)
        if isolated is None and not propagated:
            return self._weights_alone()
        rows = tuple(self._rows(known, mine, paired, isolated, propagated))
        done = Localization(
            self.differs,
            "propagated" if isolated is None else "isolated",
            rows,
            known=len(own),
            notes=(),
        )
        rows = tuple(self._explained(done, known, mine))
        unseen = self._unseen(rows)
        return replace(
            done, layers=rows, unseen=unseen, owners=self._owners(), notes=tuple(self.notes)
        )

    # -- values ------------------------------------------------------------------------------------

    def _values(self, side: Side) -> Values:
        """Return the values inside of a side; {} with a note where there are none."""
        if side.what is None:
            if not side.layers:
                self.notes.append("the golden keeps no layers: `ckptkit record --layers '*'` does")
            return side.layers or {}
        run = self._exposed(side)
        if run is None:
            self.notes.append(f"{side.what.subject} on {side.spec.text} cannot be looked into")
            return {}
        if run.exposed_equal and run.exposed_equal[0] is False:
            self._hidden = True
            self.notes.append(
                f"{side.what.subject} on {side.spec.text} gives other outputs when its layers are "
                "looked at, so the difference may hide: each layer is judged alone"
            )
        return run.layers[0] if run.layers else {}

    _hidden: bool = False
    _last: Mapping[str, str | None] = field(default_factory=dict)

    def _exposed(self, side: Side) -> Run | None:
        assert side.what is not None
        globs = ("*",)
        return self.runs.execute(
            side.what, side.spec, [side.inputs], side.signature, layers=globs, quiet=True
        )

    def _pairs(self, known: Values, mine: Values) -> dict[str, str]:
        """Return {value here: value of the reference}."""
        return pair_points(
            list(shaped(known, self.reference.kind)), list(shaped(mine, self.new.kind))
        )

    def _orders(self, known: Values, mine: Values, paired: Mapping[str, str]) -> dict[str, Layout]:
        """Return how the axes of the reference's values are moved: only converters reorder them."""
        converted = {self.reference.kind, self.new.kind} & set(CONVERTED)
        return moved(known, mine, paired, reorder=bool(converted))

    # -- one layer alone ---------------------------------------------------------------------------

    def _isolated(
        self,
        known: Values,
        mine: Values,
        paired: Mapping[str, str],
        orders: Mapping[str, Layout],
    ) -> tuple[Isolated, bool] | None:
        """Return what each point gives on the other side's values, and whether that is the new's.

        The subject is fed with the reference's values; where its runtime cannot do that, the
        reference is fed with the subject's.
        """
        back = {there: here for here, there in paired.items() if here not in orders}
        sides: tuple[tuple[Side, Values, Mapping[str, str], Mapping[str, Layout]], ...]
        sides = ((self.new, known, paired, orders), (self.reference, mine, back, {}))
        for side, values, names, layout in sides:
            if side.what is None:
                continue
            found = self._fed(side, values, names, layout)
            if found is not None:
                return found, side is self.new
        self.notes.append(
            "no layer could be run alone: errors are those that each side makes and inherits"
        )
        return None

    def _fed(
        self,
        side: Side,
        values: Values,
        names: Mapping[str, str],
        orders: Mapping[str, Layout],
    ) -> Isolated | None:
        from ckptkit._sample import Sample

        assert side.what is not None
        spec = side.spec
        if spec.eager or spec.replicas > 1:
            spec = replace(spec, eager=False, replicas=1)
            self.notes.append(f"layers were run alone on {spec.text}")
        usable = (
            {here: there for here, there in names.items() if not isinstance(values[there], Sample)}
            if not hasattr(values, "chunks")
            else dict(names)
        )
        if len(usable) < len(names):
            self.notes.append(
                f"{len(names) - len(usable)} layers are too large to be kept whole in the golden"
            )
        scratch = self.runs.scratch / f"layers-{len(list(self.runs.scratch.iterdir()))}"
        scratch.mkdir()
        try:
            return inside.isolate(
                side.what.subject,
                spec,
                side.inputs,
                inside.sources_of(values, usable, orders, scratch),  # type: ignore[arg-type]
                self.runs.limits,
                signature=side.signature,
                globs=self.globs if side is self.new else ("*",),
                options=self.runs.options,
            )
        except RunnerError as error:
            self.notes.append(f"no layer of {side.what.subject} ran alone: {error.message}")
            return None

    # -- comparing ---------------------------------------------------------------------------------

    def _propagated(
        self, known: Values, mine: Values, paired: Mapping[str, str]
    ) -> dict[str, OutputResult]:
        if self._hidden:
            return {}
        return {
            here: self._measured(here, known[there], mine[here])
            for here, there in self._in_order(mine, paired)
        }

    def _in_order(self, mine: Values, paired: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        for name in mine:
            if name in paired:
                yield name, paired[name]

    def _measured(self, name: str, ref: Any, new: Any) -> OutputResult:
        from ckptkit import _output_measure

        return _output_measure.measure(
            name, _output_measure.kept(ref), _as_array(new), self.tolerance, {}
        )

    def _rows(
        self,
        known: Values,
        mine: Values,
        paired: Mapping[str, str],
        isolated: tuple[Isolated, bool] | None,
        propagated: Mapping[str, OutputResult],
    ) -> Iterator[Layer]:
        alone = dict(self._alone(known, mine, paired, isolated)) if isolated else {}
        points = self._points(paired, isolated)
        paths = Paths(self.reference.kind, self.new.kind, self.weights, self._last)
        order = [name for name, _ in self._in_order(mine, paired)]
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
            path, *fused = paths.of(name, paired[name], variables)
            yield Layer(
                name=name,
                reference=paired[name],
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

    def _ends(self, isolated: tuple[Isolated, bool] | None) -> dict[str, tuple[Any, Any]]:
        """Return {point: the output there and here} of outputs that are no other point."""
        if isolated is None or not isolated[1]:
            return {}
        outputs = self.pairing.outputs_of if self.pairing is not None else dict
        found = {}
        for name in isolated[0].values:
            if name.startswith(inside.OUTPUT):
                own = name.removeprefix(inside.OUTPUT)
                there = next(iter(outputs({own: own})))
                if there in self.reference.outputs:
                    found[name] = self.reference.outputs[there], self.new.outputs[own]
        return found

    def _points(
        self, paired: Mapping[str, str], isolated: tuple[Isolated, bool] | None
    ) -> dict[str, Point]:
        """Return what is known of each point, by the names of the subject."""
        if isolated is None:
            return {}
        found, is_new = isolated
        if is_new:
            return {point.name: point for point in found.points}
        back = {there: here for here, there in paired.items()}
        return {
            back[point.name]: point._replace(
                variables=(), inputs=tuple(back.get(name, name) for name in point.inputs)
            )
            for point in found.points
            if point.name in back
        }

    def _alone(
        self,
        known: Values,
        mine: Values,
        paired: Mapping[str, str],
        isolated: tuple[Isolated, bool],
    ) -> Iterator[tuple[str, OutputResult]]:
        """Yield the isolated error of each point, by the names of the subject."""
        found, is_new = isolated
        back = {there: here for here, there in paired.items()}
        for name in found.values:
            if is_new and name in paired:
                yield name, self._measured(name, known[paired[name]], found.values[name])
            elif name in back:
                yield back[name], self._measured(back[name], found.values[name], mine[back[name]])

    # -- explaining --------------------------------------------------------------------------------

    @cached_property
    def weights(self) -> Weights:
        """The variables of the subject, and which of them differ."""
        new = self.new.weights
        return weights_between(self.reference.weights, new if isinstance(new, Path) else None)

    def _explained(self, done: Localization, known: Values, mine: Values) -> Iterator[Layer]:
        """Yield the layers, the first of the ranking with statistics and hints."""
        from ckptkit.outputs import compare_outputs

        chosen = {layer.name for layer in done.ranked[:_EXPLAINED]}
        paired = {layer.name: layer.reference for layer in done.layers}
        for layer in done.layers:
            if layer.name not in chosen or layer.name not in mine:
                yield layer
                continue
            ref, new = known[layer.reference], _as_array(mine[layer.name])
            inputs = {name: self._stats_of(name, known, paired) for name in layer.inputs}
            hints: tuple[str, ...] = ()
            if layer.isolated is None and layer.propagated is not None:
                found = compare_outputs({layer.name: ref}, {layer.name: new}, self.tolerance)
                hints = found[0].hints
            yield replace(layer, inputs=inputs, output=(stats(ref), stats(new)), hints=hints)

    def _stats_of(self, name: str, known: Values, paired: Mapping[str, str]) -> Stats | None:
        if paired.get(name, name) in known:
            return stats(known[paired.get(name, name)])
        return stats(self.new.inputs[name]) if name in self.new.inputs else None

    def _unseen(self, rows: Sequence[Layer]) -> tuple[VariableGap, ...]:
        """Return the variables that differ and that no layer beyond the tolerance reads."""
        shown = {gap.name for row in rows if row.is_beyond for gap in row.changed}
        return tuple(gap for name, gap in self.weights.gaps.items() if name not in shown)

    def _owners(self) -> dict[str, str]:
        return {name: owner_of(name) or name for name in self.weights.gaps}

    def _weights_alone(self) -> Localization:
        return Localization(
            self.differs,
            "weights",
            unseen=tuple(self.weights.gaps.values()),
            owners=self._owners(),
            notes=tuple(self.notes),
        )


def _as_array(value: Any) -> Any:
    from ckptkit._arrays import as_array

    return as_array(value)
