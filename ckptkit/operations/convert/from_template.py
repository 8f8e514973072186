"""A plan in a template's structure: its keys, dtypes, shapes and graph, with the values of SRC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ckptkit.align.cudnn_layouts import CudnnLayer, note_on
from ckptkit.align.labels import labels_of
from ckptkit.align.matching import Alignment, Match, TensorSet, align
from ckptkit.align.types import basis
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.selection import Tensor
from ckptkit.dtypes import kind
from ckptkit.errors import UsageError
from ckptkit.operations.convert.builder import (
    FIXED_STRUCTURES,
    PlanBuilder,
    is_config_text,
)
from ckptkit.operations.convert.cudnn_transforms import (
    layers_to_carry,
    layout_problems,
    transforms_of,
)
from ckptkit.operations.convert.model_files import check_template, notes_on_template
from ckptkit.operations.convert.plan import PlannedTensor
from ckptkit.operations.convert.problems import describe
from ckptkit.operations.convert.rule_transforms import (
    NO_TRANSFORMS,
    RuleTransforms,
    resolve_transforms,
)
from ckptkit.operations.convert.value_stores import ValueSource
from ckptkit.stores.registry import OBJECT_GRAPH, SAVED_MODEL, format_of
from ckptkit.stores.tensor_bundle.edit_graph import edit_graph
from ckptkit.stores.tensor_bundle.reader import OBJECT_GRAPH_KEY, graph_bytes
from ckptkit.stores.writing import TensorToWrite
from ckptkit.wording import operand, say

_BUNDLES = (OBJECT_GRAPH, SAVED_MODEL)
_STRONG_BASES = ("key", "structure", "name")


def plan_from_template(builder: PlanBuilder, template: Checkpoint) -> None:
    """Plan every tensor of a template: LIKE, SRC itself, or what a model was built with.

    Raises UsageError for rules that pair nothing or collide.
    """
    builder.uses_template = True
    _TemplatePlanner(builder, template).run()


@dataclass
class _TemplatePlanner:
    """Goes through the template, tensor by tensor.

    is_fixed: whether the structure is taken over whole.  drop_roles: those that nothing of SRC goes
    to.  not_writable: keys of the template whose values only TensorFlow makes.
    cudnn_layers: those of SRC that are carried to another layout.
    """

    builder: PlanBuilder
    template: Checkpoint

    def __post_init__(self) -> None:
        self.format = self.builder.target.format
        self.is_fixed = self.format.structure in FIXED_STRUCTURES
        self.not_writable: set[str] = set()
        self.cudnn_layers: list[CudnnLayer] = []
        self.drop_roles = self.builder.options.drop_roles | self.builder.template_drop_roles

    def run(self) -> None:
        builder, template = self.builder, self.template
        if self.is_fixed:
            builder.template = template
        whole = TensorSet(template.specs, template.names)
        alignment, tensor_set = self._align()
        matches = {match.new: match for match in (*alignment.pairs, *alignment.renamed)}
        ambiguous = {key for item in alignment.ambiguous for key in (*item.old, *item.new)}
        # Every tensor of the template once; those that it stores again follow.
        planned: dict[str, PlannedTensor] = {}
        for key in template.specs:
            if key in whole.duplicates or key == OBJECT_GRAPH_KEY:
                continue
            tensor = self._plan_tensor(key, key in tensor_set.names, matches, ambiguous)
            if tensor is not None:
                planned[key] = tensor
        builder.tensors += planned.values()
        if self.not_writable:
            names = describe(template.names, sorted(self.not_writable))
            builder.notes.append(f"not written, since only TensorFlow makes such values: {names}")
        self._plan_duplicates(whole, planned)
        self._plan_graph()
        # What is left: tensors of SRC without a place, and what a model holds beside tensors.
        self._account_for_leftovers(alignment, ambiguous)
        if template is not builder.src.last:
            builder.problems += check_template(template, whole.duplicates)
        if self.format.structure == SAVED_MODEL:
            builder.notes += notes_on_template(template)

    # -- pairing ----------------------------------------------------------------------------------

    def _align(self) -> tuple[Alignment, TensorSet]:
        """Pair SRC with what the template has of the roles that are not dropped."""
        template, src, rules = self.template, self.builder.src, self.builder.options.rules
        keys = [key for key in template.specs if template.names[key].role not in self.drop_roles]
        whole = TensorSet(template.specs, template.names, structure=template.structure)
        tensor_set = _subset(whole, keys)
        if self.builder.same_keys and not rules:
            return _align_by_keys(src.tensor_set, tensor_set), tensor_set
        # Tensors that rules cut or join are paired by them alone; everything else is aligned.
        transforms = self._apply_transforms(tensor_set)
        by_rule = transforms.cut_or_joined
        targets = {transforms.targets[key] for key in by_rule}
        alignment = align(_without(src.tensor_set, by_rule), _without(tensor_set, targets), rules)
        part_matches = [
            Match(key, transforms.targets[key], f"rule {transforms.transforms[key].rule_text}")
            for key in src.tensors
            if key in by_rule
        ]
        alignment = replace(alignment, pairs=(*alignment.pairs, *part_matches))
        unused = [text for text in alignment.unused_rules if text not in transforms.rule_texts]
        if unused:
            raise UsageError(
                f"rule {unused[0]!r} paired nothing",
                hint=say(
                    "it goes from names of ‹SRC› to names of ‹LIKE›; `ckptkit diff` tries it out"
                ),
            )
        if rules:
            self._check_contradictions(alignment, tensor_set)
        matches = {match.new: match for match in (*alignment.pairs, *alignment.renamed)}
        self.builder.problems += layout_problems(matches, src, tensor_set, self.cudnn_layers)
        return alignment, tensor_set

    def _apply_transforms(self, tensor_set: TensorSet) -> RuleTransforms:
        """Let SRC be what rules with transforms, and layouts that are known, make of it."""
        src, rules = self.builder.src, self.builder.options.rules
        transforms = NO_TRANSFORMS
        if any(rule.transform for rule in rules):
            labels = labels_of(src.tensor_set), labels_of(tensor_set)
            transforms = resolve_transforms(src, rules, *labels)
            self.builder.report_incomplete(transforms)
        self.cudnn_layers = layers_to_carry(src, tensor_set, transforms.transforms)
        by_layout = transforms_of(src, self.cudnn_layers)
        if by_layout:
            note = note_on(self.cudnn_layers)
            self.builder.notes.append(f"{operand('SRC')}: {note}; carried over as Keras 2 does")
        src.transform({**by_layout, **transforms.transforms})
        return transforms

    def _check_contradictions(self, alignment: Alignment, tensor_set: TensorSet) -> None:
        """Refuse rules that send a tensor away from one of its own name, dtype and shape."""
        source_set = self.builder.src.tensor_set
        without_rules = {
            match.old: match.new
            for match in align(source_set, tensor_set).pairs
            if basis(match.evidence) in _STRONG_BASES
        }
        for match in alignment.pairs:
            namesake = without_rules.get(match.old, match.new)
            same_shape = tensor_set.specs[namesake].shape == tensor_set.specs[match.new].shape
            if namesake == match.new or not match.evidence.startswith("rule") or not same_shape:
                continue
            naming = source_set.names[match.old]
            if not self.builder.renamed.lets_tensor(match.old, naming):
                message = (
                    f"a rule sends {naming.name} to {tensor_set.names[match.new].name}, although "
                    f"{self.builder.template_name} has {tensor_set.names[namesake].name} of the "
                    "same shape"
                )
                self.builder.add_problem("renamed", naming.name, message)

    # -- one tensor of the template ----------------------------------------------------------------

    def _plan_tensor(
        self, key: str, takes_part: bool, matches: dict[str, Match], ambiguous: set[str]
    ) -> PlannedTensor | None:
        """Return where its values come from; None where it is left out, or in doubt."""
        if kind(self.template.specs[key].dtype) == "opaque" and self.format.structure in _BUNDLES:
            self.not_writable.add(key)
            return None
        if is_config_text(self.template, key):
            return None if not self.format.structure else self._template_value(key)
        naming = self.template.names[key]
        if not takes_part:  # of a dropped role: a fixed structure has it, and what is asked for
            is_kept = self.builder.missing.lets_tensor(key, naming) or self.is_fixed
            return self._template_value(key) if is_kept else None
        match = matches.get(key)
        if match is not None:
            return self._source_value(match)
        tensor = Tensor(self.template.specs[key], naming)
        if self.builder.missing.lets_tensor(key, naming) or tensor.is_housekeeping:
            return self._template_value(key)
        if key not in ambiguous:  # those are reported together, in _account_for_leftovers
            template_name = self.builder.template_name
            source = operand("SRC")
            message = f"{naming.name} of {template_name} has no value in {source}"
            reason = f"of {template_name} have no value in {source}"
            self.builder.add_problem("missing", naming.name, message, reason)
        return None

    def _source_value(self, match: Match) -> PlannedTensor | None:
        """Return a tensor of the template with the values of SRC; None where shapes differ."""
        src = self.builder.src
        source, naming = src.tensors[match.old], self.template.names[match.new]
        shape = self.template.specs[match.new].shape
        if match.new.endswith(("-keys", "-values")) and self.format.structure in _BUNDLES:
            shape = source.spec.shape  # a table has as many entries as it has
        if source.spec.shape != shape:
            transform = src.transforms.get(match.old)
            how = f", after `{transform.parts[0][1]}`" if transform is not None else ""
            source_name = source.naming.name
            there = "it is" if source_name == naming.name else f"{naming.name} is"
            message = (
                f"{source_name} is {_shape_text(source.spec.shape)} in {operand('SRC')}{how}, "
                f"{there} {_shape_text(shape)} in {self.builder.template_name}"
            )
            self.builder.add_problem("shape", naming.name, message)
            return None
        output = self._output(match.new, shape)
        return src.plan_tensor(match.old, output, match.evidence, self.builder.problems)

    def _output(self, key: str, shape: tuple[int, ...]) -> TensorToWrite:
        """Return what is written for a tensor of the template.

        Neutral files know readable names alone.
        """
        naming, spec = self.template.names[key], self.template.specs[key]
        by_name = (
            not self.format.structure and format_of(self.template.store.format).structure != ""
        )
        output_key = naming.name if by_name else key
        return TensorToWrite(
            output_key, spec.dtype, shape, naming.name, naming.role, naming.slot_of
        )

    def _template_value(self, key: str) -> PlannedTensor:
        """Return a tensor of the template with the value that it has there."""
        output = self._output(key, self.template.specs[key].shape)
        return PlannedTensor(output, ValueSource(self.template.store, key), None, "template")

    # -- the rest ----------------------------------------------------------------------------------

    def _plan_duplicates(self, whole: TensorSet, planned: dict[str, PlannedTensor]) -> None:
        """Give tensors that the template stores twice the values of the first."""
        if not self.format.structure:
            return
        for key, original in whole.duplicates.items():
            tensor = planned.get(original)
            if tensor is not None:
                output = self._output(key, tensor.output.shape)
                self.builder.tensors.append(tensor._replace(output=output, evidence="duplicate"))

    def _plan_graph(self) -> None:
        """Take over the object graph, without what is left out."""
        template = self.template
        if self.format.structure not in _BUNDLES or OBJECT_GRAPH_KEY not in template.specs:
            return
        graph = graph_bytes(template.store)
        if (self.drop_roles or self.not_writable) and self.format.structure == OBJECT_GRAPH:
            keys = {
                key for key in template.specs if template.names[key].role not in self.drop_roles
            }
            keys = keys - self.not_writable | {tensor.key for tensor in self.builder.tensors}
            graph = edit_graph(graph, f"{template.path}: object graph", keep=keys).data
        self.builder.graph = graph

    def _account_for_leftovers(self, alignment: Alignment, ambiguous: set[str]) -> None:
        """Account for every tensor of SRC that has no place."""
        builder = self.builder
        averages = set(builder.src.averages.values())
        for key in alignment.only_left:
            tensor = builder.src.tensors[key]
            if key in averages:
                builder.src.leave_behind(tensor, say("used as the weights (‹ema›)"))
            elif tensor.is_housekeeping:
                builder.src.leave_behind(tensor, "TensorFlow's own record")
            elif key not in ambiguous:
                builder.leave_behind(tensor, f"{builder.template_name} has no place for it")
        for item in alignment.ambiguous:
            source_names = describe(builder.src.tensor_set.names, item.old)
            template_names = describe(self.template.names, item.new)
            message = (
                f"{source_names} of {operand('SRC')} against {template_names} of "
                f"{builder.template_name}: {item.reason}"
            )
            builder.add_problem("ambiguous", source_names, message)


def _subset(tensor_set: TensorSet, keys: Sequence[str]) -> TensorSet:
    """Return some tensors of a set, in the order of `keys`."""
    return TensorSet(
        {key: tensor_set.specs[key] for key in keys},
        {key: tensor_set.names[key] for key in keys},
        structure=tensor_set.structure,
    )


def _without(tensor_set: TensorSet, keys: set[str]) -> TensorSet:
    """Return a set without the tensors that are paired already."""
    if not keys:
        return tensor_set
    return _subset(tensor_set, [key for key in tensor_set.specs if key not in keys])


def _align_by_keys(old: TensorSet, new: TensorSet) -> Alignment:
    """Pair what has the same key on both sides, and nothing else."""
    return Alignment(
        tuple(Match(key, key, "key") for key in old.keys if key in new.specs),
        (),
        tuple(key for key in old.keys if key not in new.specs),
        tuple(key for key in new.keys if key not in old.specs),
    )


def _shape_text(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))})"
