"""A graph of ops, cut at the values that a reference has: what lies between two cuts.

Names are those of tensors.  Child process alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptkit.dtypes import dtype_of_numpy
from ckptkit.runners.child.isolate import Keep, ReferenceValues, point_row
from ckptkit.runners.child.session import Result
from ckptkit.runners.types import OUTPUT

if TYPE_CHECKING:
    from ckptkit.dtypes import Array, Arrays


# Orders of axes in which TensorFlow keeps what converters keep otherwise, by rank: kernels of ONNX
# are [out, in, ...], those of LiteRT [out, ..., in].
_ORDERS = {
    2: ((1, 0),),
    3: ((2, 1, 0), (1, 2, 0)),
    4: ((2, 3, 1, 0), (1, 2, 3, 0), (2, 3, 0, 1), (1, 2, 0, 3)),
    5: ((2, 3, 4, 1, 0), (1, 2, 3, 4, 0)),
}
AT_A_TIME = 20  # values that are computed together
_STATE = ("ASSIGN", "CALL_ONCE", "READ_VARIABLE", "RandomNormal", "RandomUniform", "RANDOM")


class GraphOp(NamedTuple):
    """One op, of a kind, and the tensors that it reads and writes."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class OpRegion(NamedTuple):
    """What computes a tensor; ops: their numbers.

    reads: cuts and inputs of the model.  constants: what no op computes.
    """

    ops: tuple[int, ...]
    reads: tuple[str, ...]
    constants: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Regions:
    """Ops in the order of computation; inputs: the model's; reference: where it is cut."""

    ops: Sequence[GraphOp]
    inputs: frozenset[str]
    reference: ReferenceValues

    @cached_property
    def _makers(self) -> dict[str, int]:
        return {name: number for number, op in enumerate(self.ops) for name in op.outputs}

    def kind(self, name: str) -> str:
        """Return the kind of op that computes a tensor."""
        return self.ops[self._makers[name]].kind if name in self._makers else ""

    def _is_cut(self, name: str) -> bool:
        """Whether the reference's value stands for a tensor; of an op's outputs all, or none."""
        return all(other in self.reference for other in self.ops[self._makers[name]].outputs)

    def of(self, name: str) -> OpRegion:
        """Return what lies between the cuts and a tensor."""
        ops: dict[int, None] = {}
        reads: dict[str, None] = {}
        constants: dict[str, None] = {}
        waiting = list(self._needs(name))
        ops[self._makers[name]] = None
        # backwards from the tensor, until a cut, an input of the model or a constant
        while waiting:
            tensor = waiting.pop()
            if tensor in self.inputs or (tensor in self._makers and self._is_cut(tensor)):
                reads[tensor] = None
            elif tensor not in self._makers:
                constants[tensor] = None
            elif self._makers[tensor] not in ops:
                ops[self._makers[tensor]] = None
                waiting += self._needs(tensor)
        return OpRegion(tuple(sorted(ops)), tuple(reads), tuple(constants))

    def _needs(self, name: str) -> Iterator[str]:
        return filter(None, self.ops[self._makers[name]].inputs)

    def groups(self, names: Sequence[str]) -> Iterator[dict[str, OpRegion]]:
        """Yield tensors to compute together, none of which another of them reads."""
        waiting = {name: self.of(name) for name in names if name in self._makers}
        while waiting:
            group: dict[str, OpRegion] = {}
            reads: set[str] = set()
            for name, region in waiting.items():
                if (
                    len(group) < AT_A_TIME
                    and name not in reads
                    and group.keys().isdisjoint(region.reads)
                ):
                    group[name] = region
                    reads.update(region.reads)
            yield group
            waiting = {name: region for name, region in waiting.items() if name not in group}


def constant(name: str, value: Array) -> Result:
    """Return a constant as a variable of a row."""
    from ckptkit.stores.digest import digest_of

    orders = (tuple(range(value.ndim)), *_ORDERS.get(value.ndim, ()))
    return {
        "names": [name],
        "shape": list(value.shape),
        "dtype": dtype_of_numpy(value.dtype),
        "digests": list(dict.fromkeys(digest_of(value.transpose(order)) for order in orders)),
    }


RunOps = Callable[[Sequence[int], "Arrays", Sequence[str]], "Arrays"]
"""Runs these ops, given these tensors; returns those that are asked for."""


@dataclass(frozen=True)
class GraphParts:
    """See `ckptkit.runners.child.isolate.Parts`.

    points: {tensor: its dtype}.  outputs: {output: tensor}.  inputs: the model's, by tensor.
    value: gives the value of a constant; None of what has none.
    """

    regions: Regions
    points: Mapping[str, str]
    outputs: Mapping[str, str]
    inputs: Arrays
    value: Callable[[str], Array | None]
    run: RunOps

    def rows(self) -> list[Result]:
        ends = {f"{OUTPUT}{name}": tensor for name, tensor in self.outputs.items()}
        reference = self.regions.reference
        rows = [self._row(name, name) for name in self.points if self.regions.kind(name)]
        rows += [
            self._row(name, tensor)
            for name, tensor in ends.items()
            if tensor not in reference and self.regions.kind(tensor)
        ]
        return rows

    def _row(self, name: str, tensor: str) -> Result:
        region = self.regions.of(tensor)
        kinds = {self.regions.ops[number].kind for number in region.ops}
        values = {item: self.value(item) for item in region.constants}
        return point_row(
            name,
            self.regions.kind(tensor) if name == tensor else "output",
            self.points.get(tensor, ""),
            variables=[
                constant(item, value)
                for item, value in values.items()
                if value is not None and value.ndim and value.dtype.kind == "f"
            ],
            inputs=region.reads,
            fed=name in self.regions.reference,
            stateful=any(sign in item for item in kinds for sign in _STATE),
        )

    def compute(self, names: Sequence[str], keep: Keep) -> None:
        tensors = {self._tensor(name): name for name in names}
        # many at a time: each run of a part starts a session of the runtime
        for group in self.regions.groups(list(tensors)):
            reads = {name for region in group.values() for name in region.reads}
            values: dict[str, Any] = {
                name: self.inputs[name] for name in reads & self.inputs.keys()
            }
            values |= self.regions.reference.load(reads - self.inputs.keys())
            ops = sorted({number for region in group.values() for number in region.ops})
            for tensor, value in self.run(ops, values, list(group)).items():
                keep(tensors[tensor], value)

    def _tensor(self, name: str) -> str:
        return self.outputs[name.removeprefix(OUTPUT)] if name.startswith(OUTPUT) else name
