"""Which layer a value inside of a model belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ckptkit.operations.localize.op_names import (
    all_ops_of,
    is_converted,
    is_first,
    op_of,
    ops_of,
    values_are_ops,
)
from ckptkit.operations.localize.pairs import layer_of_scope, scope_of
from ckptkit.operations.localize.values import VariableGap
from ckptkit.operations.localize.weights import WeightGaps, owner_of, with_outer
from ckptkit.runners.types import MODEL, owner_and_op
from ckptkit.stores.registry import CODE
from ckptkit.text import lazy_pattern

_REPEATED = lazy_pattern(r"#\d+|\[\d+\]")


@dataclass(frozen=True)
class Paths:
    """Finds layers by names; reference, new: kinds of the two subjects.

    ends: {point that is an output: the reference's value that it is}, where there is one.
    between: {value of the reference: those just before it that the subject has not}.
    layers: {variable: its layer}, as far as the model itself tells.
    """

    reference: str
    new: str
    weights: WeightGaps
    ends: Mapping[str, str | None]
    between: Mapping[str, Sequence[str]]
    layers: Mapping[str, str] = field(default_factory=dict)

    def of(self, name: str, there: str, variables: Sequence[VariableGap]) -> tuple[str, ...]:
        """Return the path of a value's layer, then those of others that are one op with it.

        there: what the reference calls the value.  variables: those that are read between it and
        the values before it; what a converter calls them tells their layers.
        """
        if self.new == CODE and (self.layers or owner_and_op(name)[0]):
            return self._told(name, there, variables)
        if name not in self.ends and not is_converted(self.new):
            return (self._own(name, variables),)
        meant, read = self._meant(name, there), self._read(variables)
        first = [meant] if meant and (not read or self._owns(meant)) else read
        if not first or (meant is None and len(read) > 1):
            first = [MODEL]
        skipped = map(self._of_reference, self.between.get(self.ends.get(name) or there, ()))
        rest = (*read, meant, *self._layers(ops_of(name)), *filter(self._owns, skipped))
        inner = f"{first[0]}/"
        others = [layer for layer in rest if layer and not layer.startswith(inner)]
        return tuple(dict.fromkeys([*first, *others]))

    def _owns(self, path: str) -> bool:
        """Whether a layer, or one inside of it, has variables."""
        return path in self._known

    def _meant(self, name: str, there: str) -> str | None:
        """Return the layer that the value's name tells; of ops that became one, the product's."""
        if name in self.ends:
            last = self.ends[name]
            return None if last is None else self._of_reference(last)
        first = [op for op in ops_of(name) if is_first(op)]
        return self._of_op(first[0]) if first else self._of_reference(there)

    def _read(self, variables: Sequence[VariableGap]) -> list[str]:
        """Return the layers whose variables are read."""
        names = [gap.name for gap in variables]
        if is_converted(self.new):
            return self._layers(op for name in names for op in all_ops_of(name))
        return list(dict.fromkeys(filter(None, map(owner_of, names))))

    def _told(self, name: str, there: str, variables: Sequence[VariableGap]) -> tuple[str, ...]:
        """Return the layers of a value of which the model itself tells them.

        Those of variables that differ come first: weights are another layer's than the code that
        reads them, where they are tied.  Where no layer is told, those of what the reference does
        just before it and the subject does not: a bias that was left out.
        """
        owner = owner_and_op(name)[0] if name not in self.ends else ""
        read = {gap: self.layers.get(gap.name) or owner_of(gap.name) for gap in variables}
        damaged = [layer for gap, layer in read.items() if gap.differs and layer]
        within = [owner] if owner else [layer for layer in read.values() if layer]
        lost = self.between.get(self.ends.get(name) or there, ()) if self.reference == CODE else ()
        left_out = [owner for owner, _op in map(owner_and_op, lost) if owner]
        return tuple(dict.fromkeys(damaged or within or left_out or [MODEL]))

    def _own(self, name: str, variables: Sequence[VariableGap]) -> str:
        if not values_are_ops(self.new):
            return _called_once(name)
        owners = {owner_of(variable.name) or variable.name for variable in variables}
        scope = scope_of(name)
        owner = owners.pop() if len(owners) == 1 else ""
        if owner and (not scope or owner.split("/")[-1] in scope):
            return owner
        path = layer_of_scope(scope, self.weights.layers) or name
        return path if path in self.weights.layers else owner or path

    def _layers(self, ops: Iterable[str]) -> list[str]:
        """Return the layers of these ops; one outside of all scopes is of none."""
        return list(dict.fromkeys(filter(None, (self._of_op(op) for op in ops if "/" in op))))

    def _of_reference(self, there: str) -> str:
        owner, op = owner_and_op(there)
        if self.reference == CODE and owner:
            return owner
        if not values_are_ops(self.reference):
            return _called_once(op)
        return self._of_op(op_of(there, self.reference)) or there

    def _of_op(self, op: str) -> str:
        path = layer_of_scope(scope_of(op), self.weights.layers)
        longer = [layer for layer in self._known if layer.endswith(f"/{path}")]
        return longer[0] if path not in self._known and len(longer) == 1 else path

    @cached_property
    def _known(self) -> frozenset[str]:
        """The layers that own variables, and those around them."""
        return with_outer(self.weights.layers)


def _called_once(name: str) -> str:
    """Return the path of a layer that is called twice, or gives several values."""
    return _REPEATED.sub("", name)
