"""A plan in the making, and what all ways of making one share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.selection import Tensor
from ckptkit.dtypes import kind
from ckptkit.operations.convert.destination import Target
from ckptkit.operations.convert.plan import ConvertOptions, Plan, PlannedTensor
from ckptkit.operations.convert.problems import Allowance, Problem
from ckptkit.operations.convert.rule_transforms import RuleTransforms
from ckptkit.operations.convert.sources import Sources
from ckptkit.stores.constants import StoreOfConstants
from ckptkit.stores.registry import KERAS, SAVED_MODEL
from ckptkit.stores.writing import TensorToWrite
from ckptkit.text import list_text
from ckptkit.wording import operand

# Structures that are taken over whole: every tensor of the template is in the output.
FIXED_STRUCTURES = (SAVED_MODEL, KERAS)


@dataclass
class PlanBuilder:
    """Collects tensors, problems and notes; `plan` puts them together.

    template_drop_roles: roles of the template that nothing of SRC goes to, beside those that the
    options drop.
    same_keys: the template was made to have the keys of SRC, so no other evidence is looked for.
    template_name: what the template is to the person who reads messages.
    uses_template: whether tensors were planned in the structure of a template.
    graph, template: see `Plan`.
    """

    src: Sources
    like: Checkpoint | None
    target: Target
    options: ConvertOptions
    template_drop_roles: frozenset[str] = frozenset()
    same_keys: bool = False
    template_name: str = ""
    uses_template: bool = False
    tensors: list[PlannedTensor] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    graph: bytes | None = None
    template: Checkpoint | None = None

    def __post_init__(self) -> None:
        self.template_name = self.template_name or operand("LIKE")
        self.missing = Allowance("allow_missing", self.options.allow_missing)
        self.unused = Allowance("allow_unused", self.options.allow_unused)
        self.renamed = Allowance("allow_renamed", self.options.allow_renamed)

    def plan(self) -> Plan:
        """Return the plan; raises UsageError for relaxations and casts that did nothing."""
        for allowance in (self.missing, self.unused, self.renamed):
            allowance.check()
        self.src.check_casts(self.tensors, self.template_name if self.uses_template else "")
        return Plan(
            sources=tuple(self.src.checkpoints),
            like=self.like,
            target=self.target,
            options=self.options,
            tensors=tuple(self.tensors),
            leftovers=tuple(self.src.leftovers),
            problems=tuple(self.problems),
            notes=(*self.notes, *self._notes_on_integers()),
            graph=self.graph,
            template=self.template,
            template_name=self.template_name,
        )

    def _notes_on_integers(self) -> Iterator[str]:
        """Yield a note on tensors whose integers mean nothing without what the source tells."""
        stores = [checkpoint.store for checkpoint in self.src.checkpoints]
        quantised = {
            key
            for each in stores
            if isinstance(each, StoreOfConstants)
            for key in each.quantisations()
        }
        written = [
            planned.output.key
            for planned in self.tensors
            if planned.source is not None and planned.source.spec.key in quantised
        ]
        if written:
            yield (
                "written as the integers that are stored; the output does not say what they stand "
                f"for (scales, zero points): {list_text(written)}"
            )

    def add(self, key: str, output: TensorToWrite, evidence: str) -> None:
        """Plan `output` with the values of `key` of SRC; a dtype that differs is a problem."""
        tensor = self.src.plan_tensor(key, output, evidence, self.problems)
        if tensor is not None:
            self.tensors.append(tensor)

    def add_problem(self, kind: str, name: str, message: str, reason: str = "") -> None:
        """Note why the plan is not carried out; reason: see `Problem`."""
        self.problems.append(Problem(kind, name, message, reason))

    def report_incomplete(self, transforms: RuleTransforms) -> None:
        """Note parts of tensors that rules with transforms leave without a place or a value."""
        for name, part in transforms.unused_parts:
            self.add_problem(
                "unused", name, f"{part} of {name} of {operand('SRC')}: no rule takes it"
            )
        for name, part in transforms.missing_parts:
            self.add_problem("missing", name, f"{part} of {name}: no rule sends a tensor there")

    def can_write(self, tensor: Tensor) -> bool:
        """Whether the values can be written at all; if not, the tensor counts as unused."""
        if kind(tensor.spec.dtype) != "opaque":
            return True
        self.leave_behind(tensor, f"{tensor.spec.dtype} values have no form in other formats")
        return False

    def leave_behind(self, tensor: Tensor, why: str) -> None:
        """Leave a tensor of SRC behind where that is allowed, else note a problem."""
        if self.unused.lets_tensor(tensor.spec.key, tensor.naming):
            self.src.leave_behind(tensor, f"{why} (allowed)")
        else:
            name = tensor.naming.name
            of = f"of {operand('SRC')}: {why}"
            self.add_problem("unused", name, f"{name} {of}", of)


def is_config_text(checkpoint: Checkpoint, key: str) -> bool:
    """Whether a tensor is a string of configuration, which is structure."""
    return checkpoint.names[key].role == "config" and checkpoint.specs[key].dtype == "string"
