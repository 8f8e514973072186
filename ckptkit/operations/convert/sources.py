"""The tensors of SRC that take part, and where the values of each come from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from ckptkit.align.matching import TensorSet, align
from ckptkit.align.transforms import Transform
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.naming import Naming
from ckptkit.checkpoint.selection import Selection, Tensor
from ckptkit.dtypes import itemsize, kind
from ckptkit.errors import UsageError
from ckptkit.operations.convert.plan import ConvertOptions, Leftover, PlannedTensor, SourcePart
from ckptkit.operations.convert.problems import Problem
from ckptkit.operations.convert.value_stores import (
    ValueSource,
    cast_source,
    mean_source,
    transform_source,
)
from ckptkit.stores.base import StoredNames, TensorSpec
from ckptkit.stores.registry import OBJECT_GRAPH, SAVED_MODEL, format_of
from ckptkit.stores.writing import TensorToWrite
from ckptkit.wording import operand, say

STORED_TWICE = "stored twice"
_CAST_ROLES = frozenset({"weight", "ema", "slot"})
_AVERAGED_ROLES = frozenset({"weight", "ema"})


class TensorTransform(NamedTuple):
    """What a map rule, or a layout that is known, makes of tensors of SRC.

    parts: (key, transform) of each.  rule_text: of the rule.  naming: what the result is called,
    where that is not what the first part is called.
    """

    parts: tuple[tuple[str, Transform], ...]
    rule_text: str
    naming: Naming | None = None

    @property
    def is_whole(self) -> bool:
        """Whether one tensor of SRC becomes one tensor."""
        (_, transform), *others = self.parts
        ends = transform.part, transform.into, transform.term
        return not others and all(step is None for step in ends)


@dataclass
class Sources:
    """SRC as the options narrow it; several checkpoints count as their average.

    checkpoints: the last gives everything that is not averaged.
    leftovers: what of SRC is not in the output.  used_casts: casts that changed a dtype, as text.
    transforms: of `tensors` that rules made, by key.
    tensors: those that take part, by key; where rules transform, what the rules make of them.
    """

    checkpoints: Sequence[Checkpoint]
    options: ConvertOptions
    leftovers: list[Leftover] = field(default_factory=list)
    used_casts: set[str] = field(default_factory=set)
    transforms: Mapping[str, TensorTransform] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.last = self.checkpoints[-1]
        _check_distinct(self.checkpoints)
        self.tensors = self._select()

    def _select(self) -> dict[str, Tensor]:
        """Return the tensors that take part by key; what does not is noted in `leftovers`."""
        selected = None
        if self.options.names:
            chosen = Selection(names=self.options.names).of(self.last)
            selected = {tensor.spec.key for tensor in chosen}
        averages = set(self.averages.values())
        tensors: dict[str, Tensor] = {}
        for key, naming in self.last.names.items():
            tensor = Tensor(self.last.specs[key], naming)
            if key in self.shadows:
                tensor = tensor._replace(naming=self.shadows[key])
                naming = tensor.naming
            if naming.role == "config" and tensor.spec.dtype == "string":
                continue  # the object graph and the like: structure, not values
            if key in self.duplicates:
                why = STORED_TWICE
            elif naming.role in self.options.drop_roles:
                why = f"role {naming.role} dropped"
                if key in averages:
                    why = say("used as the weights (‹ema›)")
            elif selected is not None and key not in selected:
                why = say("not selected by ‹names›")
            else:
                tensors[key] = tensor
                continue
            self.leave_behind(tensor, why)
        if not tensors:
            has_averages = any(naming.role == "ema" for naming in self.last.names.values())
            raise UsageError(
                "no tensor is left to convert",
                where=str(self.last.path),
                hint=say("‹ema› takes its averages for the weights")
                if has_averages
                else "`ckptkit ls` lists names and roles",
            )
        return tensors

    @cached_property
    def duplicates(self) -> Mapping[str, str]:
        """{key of a tensor that SRC stores again: key of the first}."""
        return TensorSet(self.last.specs, self.last.names).duplicates

    def leave_behind(self, tensor: Tensor, why: str) -> None:
        """Note that a tensor of SRC is not in the output."""
        row = Leftover(tensor.naming.name, tensor.naming.role, tensor.spec.nbytes, why)
        self.leftovers.append(row)

    @cached_property
    def tensor_set(self) -> TensorSet:
        """The tensors that take part, for alignment."""
        return TensorSet(
            {key: tensor.spec for key, tensor in self.tensors.items()},
            {key: tensor.naming for key, tensor in self.tensors.items()},
            structure=self.last.structure,
        )

    @cached_property
    def shadows(self) -> dict[str, Naming]:
        """{key of an average whose variable is not in SRC: what that is called}, for --ema."""
        if not self.options.ema:
            return {}
        names = {
            key: naming.name.removesuffix(f"@{naming.slot}")
            for key, naming in self.last.names.items()
            if naming.role == "ema" and naming.slot_of is None and naming.slot
        }
        taken = {naming.name for naming in self.last.names.values()}
        return {
            key: Naming(name, "weight", name)
            for key, name in names.items()
            if name not in taken and f"{name}@{self.last.names[key].slot}" in taken
        }

    @cached_property
    def averages(self) -> dict[str, str]:
        """{key of a weight: key of its average}, for --ema; raises UsageError where none is."""
        if not self.options.ema:
            return {}
        names = self.last.names
        by_name = {naming.name: key for key, naming in names.items()}
        averages = {
            by_name[naming.slot_of]: key
            for key, naming in names.items()
            if naming.role == "ema" and naming.slot_of in by_name
        }
        if not averages and not self.shadows:
            raise UsageError(
                say("‹ema›: ‹SRC› holds no averaged variables"),
                where=str(self.last.path),
                hint=say("‹ls.roles=ema› lists them"),
            )
        return averages

    @cached_property
    def partners(self) -> list[dict[str, str]]:
        """For each of the earlier checkpoints {key in the last: key there}."""
        partners = []
        last = TensorSet(self.last.specs, self.last.names, structure=self.last.structure)
        for checkpoint in self.checkpoints[:-1]:
            earlier = TensorSet(checkpoint.specs, checkpoint.names, structure=checkpoint.structure)
            alignment = align(last, earlier)
            partners.append({match.old: match.new for match in alignment.pairs})
        return partners

    def transform(self, transforms: Mapping[str, TensorTransform]) -> None:
        """Put what rules make of tensors in the place of these.

        Args:
            transforms: by the key that each result will go by.

        Raises:
            UsageError: a step does not fit its tensor, or parts differ in dtype or shape.
        """
        if not transforms:
            return
        results = {key: self._result_of(transform) for key, transform in transforms.items()}
        consumed = {key for transform in transforms.values() for key, _ in transform.parts}
        others = {key: tensor for key, tensor in self.tensors.items() if key not in consumed}
        self.tensors = others | results
        self.transforms = transforms
        del self.tensor_set  # made anew when it is next asked for

    def _result_of(self, tensor_transform: TensorTransform) -> Tensor:
        """Return the tensor that a transform makes, by the name of its first part."""
        rule = f"rule {tensor_transform.rule_text!r}"
        types = set()
        for key, transform in tensor_transform.parts:
            spec = self.tensors[key].spec
            try:
                types.add((spec.dtype, transform.shape(spec.shape)))
                if transform.term is not None and kind(spec.dtype) not in ("float", "complex"):
                    raise UsageError(f"`{transform.term}`: {spec.dtype} values are not added")
            except UsageError as error:
                where = f"{self.tensors[key].naming.name} {spec.shape}"
                raise UsageError(f"{rule}: {error.message}", where=where) from error
        first = self.tensors[tensor_transform.parts[0][0]]
        if len(types) > 1:
            raise UsageError(
                f"{rule}: its parts differ in dtype or shape",
                where=", ".join(self.tensors[key].naming.name for key, _ in tensor_transform.parts),
            )
        [(_, shape)] = types
        dtype = first.spec.dtype
        nbytes = math.prod(shape) * itemsize(dtype) or first.spec.nbytes
        spec = TensorSpec(first.spec.key, dtype, shape, nbytes)
        return Tensor(spec, tensor_transform.naming or first.naming)

    def checkpoint_key(self, key: str) -> str | None:
        """Return the tensor's key in the tensor bundle that it came from, where that is known.

        A tensor that a rule transformed is no longer the one that the bundle has.
        """
        if key in self.transforms or key in self.shadows:
            return None
        store = self.last.store
        if store.style or format_of(store.format).structure in (OBJECT_GRAPH, SAVED_MODEL):
            return key
        structure = self.last.structure
        return structure.checkpoint_keys.get(key) if isinstance(structure, StoredNames) else None

    def plan_tensor(
        self, key: str, output: TensorToWrite, evidence: str, problems: list[Problem]
    ) -> PlannedTensor | None:
        """Return how `output` gets the values of `key`.

        Args:
            key: of `tensors`.
            output: what is to be written.
            evidence: why the two belong together; see `PlannedTensor`.
            problems: takes what stands in the way.

        Returns:
            The planned tensor; None where the dtypes differ and no cast leads from one to the
            other.
        """
        # What SRC has, averaged where there are several.
        is_transformed = key in self.transforms
        steps = self.transforms[key].parts if is_transformed else ((key, Transform()),)
        averaged = [self._averaged(part_key, problems) for part_key, _ in steps]
        tensors = [self._stored_tensor(part_key) for part_key, _ in steps]
        (values, source_count), tensor = averaged[0], tensors[0]
        # What a rule makes of it.
        parts: tuple[SourcePart, ...] = ()
        if is_transformed:
            parts = tuple(
                SourcePart(part_values, part_tensor, transform)
                for (part_values, _), part_tensor, (_, transform) in zip(
                    averaged, tensors, steps, strict=True
                )
            )
            values = transform_source([(part.values, part.transform) for part in parts])
        # Last, the cast.
        dtype, cast, uncast_values = values.spec.dtype, "", None
        if dtype != output.dtype:
            cast = f"{dtype}={output.dtype}"
            if cast not in {str(rule) for rule in self.options.casts}:
                there = f"{operand('SRC')} has {dtype}"
                message = f"{output.name or output.key} is {output.dtype}, {there}"
                reason = f"are {output.dtype}, {there}"
                problems.append(Problem("dtype", tensor.naming.name, message, reason))
                return None
            self.used_casts.add(cast)
            uncast_values, values = values, cast_source(values, output.dtype)
        return PlannedTensor(
            output, values, tensor, evidence, cast, source_count, uncast_values, parts
        )

    def _stored_tensor(self, key: str) -> Tensor:
        """Return the tensor whose values are written for `key`: with --ema, its average."""
        stored_key = self.averages.get(key, key)
        return Tensor(self.last.specs[stored_key], self.last.names[stored_key])

    def dtype(self, key: str) -> str:
        """Return the dtype in which a tensor is written where nothing else fixes it."""
        tensor = self.tensors[key]
        if tensor.naming.role in _CAST_ROLES:
            for rule in self.options.casts:
                if rule.old == tensor.spec.dtype:
                    return rule.new
        return tensor.spec.dtype

    def _averaged(self, key: str, problems: list[Problem]) -> tuple[ValueSource, int]:
        """Return the values of a tensor, and of how many checkpoints they are the mean."""
        naming = self.last.names[key]
        key = self.averages.get(key, key)
        values = ValueSource(self.last.store, key)
        is_float = kind(values.spec.dtype) in ("float", "complex")
        if len(self.checkpoints) == 1 or naming.role not in _AVERAGED_ROLES or not is_float:
            return values, 1
        earlier = []
        for checkpoint, partner in zip(self.checkpoints, self.partners, strict=False):
            other_key = partner.get(key)
            spec = checkpoint.specs[other_key] if other_key else None
            if spec is None or (spec.dtype, spec.shape) != (values.spec.dtype, values.spec.shape):
                state = f"is {spec.dtype} {spec.shape} in" if spec else "is missing from"
                message = f"{naming.name} {state} {checkpoint.path}"
                problems.append(Problem("shape" if spec else "missing", naming.name, message))
                return values, 1
            assert other_key is not None
            earlier.append(ValueSource(checkpoint.store, other_key))
        return mean_source([*earlier, values]), len(self.checkpoints)

    def check_casts(self, tensors: Sequence[PlannedTensor], template_name: str) -> None:
        """Raise UsageError for a cast that no tensor needed.

        template_name: what fixed the dtypes, for the message; "" where nothing did.
        """
        for rule in self.options.casts:
            if str(rule) in self.used_casts:
                continue
            why, hint = f"no tensor to be written is {rule.old}", ""
            if any(tensor.values.spec.dtype == rule.old for tensor in tensors):
                why = f"no weight, average or slot is {rule.old}"
                if template_name:
                    why = f"{template_name} decides the dtypes, and has {rule.old} too"
                    hint = say(
                        f"‹like=FILE› that has {rule.new} does; safetensors and npz need no ‹like›"
                    )
            raise UsageError(
                f"{say(f'‹casts={rule}›')} changed nothing: {why}",
                where=str(self.last.path),
                hint=hint,
            )


def _check_distinct(checkpoints: Sequence[Checkpoint]) -> None:
    paths: set[str] = set()
    for checkpoint in checkpoints:
        path = str(checkpoint.path.resolve())
        if path in paths:
            raise UsageError(
                "given twice; an average takes each checkpoint once", where=str(checkpoint.path)
            )
        paths.add(path)
