"""Where the weights of the new model come from: a plan of `convert`, into what Keras 3 made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from glob import escape
from typing import TYPE_CHECKING, Any

from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.operations.convert.destination import Target
from ckptkit.operations.convert.plan import NOT_WEIGHTS, ConvertOptions, Plan
from ckptkit.operations.convert.planner import make_plan
from ckptkit.operations.convert.problems import Problem
from ckptkit.operations.convert.value_stores import ComputedStore, ValueSource
from ckptkit.operations.upgrade.source import OldModel
from ckptkit.operations.upgrade.translation.account import Scaling
from ckptkit.operations.upgrade.translation.objects import HARD_SIGMOID_FACTOR
from ckptkit.operations.upgrade.vocabularies import is_vocabulary
from ckptkit.stores.assets import assets
from ckptkit.stores.base import BLOCK_ELEMENTS, TensorSpec

if TYPE_CHECKING:
    from ckptkit.dtypes import Array


SCALED = "scaled"
# in the object graph of a SavedModel: of stateful recurrent layers, of layers that draw at random
_STATES = ("/states/", "/StateVar")


def plan_weights(
    old: OldModel, template: Checkpoint, target: Target, scalings: Sequence[Scaling]
) -> Plan:
    """Return which weight of the old model goes where in the new one.

    Args:
        old: the old model.
        template: the new one, as Keras 3 made it.
        target: what is written.
        scalings: weights that are multiplied on the way.

    Returns:
        The plan; its `problems` are for the caller to raise.
    """
    source = old.checkpoint
    # words are in the config of the new model; states of recurrent layers start anew, as zeros
    unused = (
        [name for name in assets(source.store) if is_vocabulary(name)] if old.vocabularies else []
    )
    unused += [
        escape(naming.name)
        for naming in source.names.values()
        if any(state in f"/{naming.name}" for state in _STATES)
    ]
    options = ConvertOptions(
        drop_roles=frozenset(NOT_WEIGHTS), allow_unused=tuple(dict.fromkeys(unused))
    )
    plan = make_plan([source], template, target, options, template_name="the new model")
    return _scaled(plan, scalings) if scalings and plan.ok else plan


def _scaled(plan: Plan, scalings: Sequence[Scaling]) -> Plan:
    """Return the plan with some values multiplied; one that is not found is a problem of it."""
    gates = {scaling.variable: scaling for scaling in scalings}
    names = Counter(tensor.name for tensor in plan.tensors)
    problems = [
        Problem("layout", name, f"{name} is to be multiplied, and its place cannot be told")
        for name in gates
        if names[name] != 1
    ]
    tensors = tuple(
        tensor._replace(values=scaled_source(tensor.values, gates[tensor.name]))
        if tensor.name in gates
        else tensor
        for tensor in plan.tensors
    )
    return replace(plan, tensors=tensors, problems=(*plan.problems, *problems))


@dataclass(frozen=True)
class ScaledStore(ComputedStore):
    """Tensors of which some blocks of the last axis are multiplied, in float64, then rounded."""

    format: str = SCALED
    sources: Mapping[str, tuple[ValueSource, Scaling]] = field(default_factory=dict)

    def blocks(self, key: str, max_elements: int = BLOCK_ELEMENTS) -> Iterator[tuple[int, Array]]:
        import numpy as np

        source, scaling = self.sources[key]
        width = source.spec.shape[-1] if source.spec.shape else 1
        count = len(scaling.gates)
        factors = np.repeat(
            [HARD_SIGMOID_FACTOR if gate else 1.0 for gate in scaling.gates], width // count
        )
        for start, values in source.blocks(max_elements):
            columns = np.arange(start, start + len(values)) % width
            wide: Any = values.astype(np.float64) * factors[columns]
            yield start, wide.astype(values.dtype)


def scaled_source(source: ValueSource, scaling: Scaling) -> ValueSource:
    """Return a tensor with some blocks of its last axis multiplied.

    Args:
        source: the tensor.
        scaling: which blocks, and by what.
    """
    spec = source.spec
    plain = TensorSpec(spec.key, spec.dtype, spec.shape, spec.nbytes)
    store = ScaledStore(
        source.store.path, {plain.key: plain}, sources={plain.key: (source, scaling)}
    )
    return ValueSource(store, plain.key)
