"""A plan in the making, and what all ways of making one share."""

from __future__ import annotations

from dataclasses import dataclass, field

from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.selection import Tensor
from ckptkit.dtypes import kind
from ckptkit.operations.convert.destination import Target
from ckptkit.operations.convert.plan import Allowance, Fill, Plan, Problem, Request
from ckptkit.operations.convert.rule_transforms import Moves
from ckptkit.operations.convert.sources import Sources
from ckptkit.stores.tensor_bundle.reader import OBJECT_GRAPH_KEY
from ckptkit.stores.writing import TensorToWrite

NEUTRAL = ("safetensors", "npz")
# Structures that are taken over whole: every tensor of LIKE is in the output.
FIXED_FORMS = ("saved_model", "keras", "weights.h5")


@dataclass
class Draft:
    """Collects fills, problems and notes; `plan` puts them together.

    like_drop: roles of LIKE that nothing of SRC goes to, beside those that the request drops.
    same_keys: LIKE was made to have the keys of SRC, so that no other evidence is asked for.
    structure: what LIKE is to the person who asked, for messages; structured: it was used.
    """

    src: Sources
    like: Checkpoint | None
    target: Target
    request: Request
    like_drop: frozenset[str] = frozenset()
    same_keys: bool = False
    structure: str = "LIKE"
    structured: bool = False
    fills: list[Fill] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    graph: bytes | None = None
    layout: Checkpoint | None = None

    def __post_init__(self) -> None:
        self.missing = Allowance("--allow-missing", self.request.allow_missing)
        self.unused = Allowance("--allow-unused", self.request.allow_unused)
        self.renamed = Allowance("--allow-renamed", self.request.allow_renamed)

    def plan(self) -> Plan:
        """Return the plan; raises UsageError for relaxations and casts that did nothing."""
        for allowance in (self.missing, self.unused, self.renamed):
            allowance.check()
        by = self.structure if self.structured else ""
        self.src.check_casts(self.fills, by)
        return Plan(
            tuple(self.src.checkpoints),
            self.like,
            self.target,
            self.request,
            tuple(self.fills),
            tuple(self.src.skipped),
            tuple(self.problems),
            tuple(self.notes),
            self.graph,
            self.layout,
            structure=self.structure,
        )

    def fill(self, key: str, target: TensorToWrite, evidence: str) -> None:
        """Write the values of `key` of SRC as `target`."""
        fill = self.src.fill(key, target, evidence, self.problems)
        if fill is not None:
            self.fills.append(fill)

    def problem(self, kind_: str, name: str, message: str, reason: str = "") -> None:
        """Note why the plan is not carried out; reason: see `Problem`."""
        self.problems.append(Problem(kind_, name, message, reason))

    def incomplete(self, moves: Moves) -> None:
        """Note parts of tensors that rules with transforms leave without a place or a value."""
        for name, part in moves.lost:
            self.problem("unused", name, f"{part} of {name} of SRC: no rule takes it")
        for name, part in moves.lacking:
            self.problem("missing", name, f"{part} of {name}: no rule sends a tensor there")

    def writable(self, tensor: Tensor) -> bool:
        """Whether the values can be written at all; if not, they count as unused."""
        if kind(tensor.spec.dtype) != "opaque":
            return True
        self.leave(tensor, f"{tensor.spec.dtype} values have no form outside TensorFlow")
        return False

    def leave(self, tensor: Tensor, why: str) -> None:
        """Leave a tensor of SRC behind, if that is allowed."""
        if self.unused.lets_tensor(tensor.spec.key, tensor.naming):
            self.src.skip(tensor, f"{why} (allowed)")
        else:
            name = tensor.naming.name
            self.problem("unused", name, f"{name} of SRC: {why}", f"of SRC: {why}")


def is_text(checkpoint: Checkpoint, key: str) -> bool:
    """Whether a tensor is a string of configuration, which is structure."""
    return checkpoint.names[key].role == "config" and checkpoint.specs[key].dtype == "string"


def graph_bytes(checkpoint: Checkpoint) -> bytes:
    """Return the serialised object graph of a checkpoint that has one."""
    [(_, values)] = checkpoint.store.blocks(OBJECT_GRAPH_KEY)
    data: bytes = values[0]
    return data
