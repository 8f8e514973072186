"""Map rules with transforms: which tensors of SRC become which, transposed, cut or joined.

A transform is resolved before anything is paired: the sources then hold, in place of the tensors
that rules transform, what these become.  Slots and averages go with the tensor that they belong to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ckptkit.align.rules import Rule, by_label, deciding
from ckptkit.align.transforms import AddInto, JoinInto, TakePart
from ckptkit.errors import UsageError
from ckptkit.operations.convert.sources import Sources, TensorTransform

Labels = Mapping[str, Sequence[str]]  # key -> names of the tensor, best first
Choices = Callable[[Sequence[str]], Iterator[tuple[Rule, str]]]
Senders = Mapping[str, Sequence[tuple[str, Rule]]]  # target -> (key of SRC, rule) sent to it


class RuleTransforms(NamedTuple):
    """What rules transform, by the key that the result goes by in `Sources.tensors`.

    targets: where the rules send each.
    unused_parts: (tensor, what of it no rule takes).
    missing_parts: (target, what of it no rule gives).
    rule_texts: of the rules that transform something.
    """

    transforms: Mapping[str, TensorTransform]
    targets: Mapping[str, str]
    unused_parts: tuple[tuple[str, str], ...]
    missing_parts: tuple[tuple[str, str], ...]
    rule_texts: frozenset[str]

    @property
    def cut_or_joined(self) -> set[str]:
        """Keys of results that are parts of one tensor, or made of several."""
        return {key for key, transform in self.transforms.items() if not transform.is_whole}


NO_TRANSFORMS = RuleTransforms({}, {}, (), (), frozenset())


def resolve_transforms(
    src: Sources, rules: Sequence[Rule], labels: Labels, template_labels: Labels
) -> RuleTransforms:
    """Return what rules transform on the way to tensors of a template.

    Args:
        src: the tensors of SRC.
        rules: of `--map`; the last that fits decides, and all that take a part of a tensor count.
        labels: names of each tensor of SRC.
        template_labels: names of each tensor of the template.

    Raises:
        UsageError: rules send two tensors to one, or their parts do not go together.
    """
    target = by_label(template_labels)
    names = {key: labels[0] for key, labels in template_labels.items() if labels}
    return _resolve(src, labels, lambda labels: deciding(rules, labels, target), names)


def resolve_by_name(
    src: Sources, rules: Sequence[Rule], names: Mapping[str, str]
) -> RuleTransforms:
    """Return what rules transform where nothing but them says what the output holds.

    Args:
        src: the tensors of SRC.
        rules: of `--map`, as in `resolve_transforms`.
        names: the name of each tensor of SRC.

    Raises:
        UsageError: as `resolve_transforms`.
    """

    def choices(labels: Sequence[str]) -> Iterator[tuple[Rule, str]]:
        for rule in reversed(rules):
            renamed = rule.apply(labels[0])
            if renamed is not None:
                yield rule, renamed

    return _resolve(src, {key: [name] for key, name in names.items()}, choices, {})


def _resolve(
    src: Sources, labels: Labels, choices: Choices, target_names: Mapping[str, str]
) -> RuleTransforms:
    """Return what rules transform; choices: the rules that fit a tensor, the deciding one first."""
    senders, ruled = _senders(labels, choices)
    transforms: dict[str, TensorTransform] = {}
    targets: dict[str, str] = {}
    missing: list[tuple[str, str]] = []
    for target, parts in senders.items():
        name = target_names.get(target, target)
        missing += [(name, part) for part in _missing_parts(src, name, parts)]
        key = _result_key(parts)
        transforms[key] = TensorTransform(
            tuple((source_key, rule.transform) for source_key, rule in parts), parts[0][1].text
        )
        targets[key] = target
    unused = tuple(_unused_parts(src, transforms))
    followers = dict(_followers(src, transforms, ruled))
    texts = frozenset(rule.text for parts in senders.values() for _, rule in parts)
    return RuleTransforms({**transforms, **followers}, targets, unused, tuple(missing), texts)


def _senders(labels: Labels, choices: Choices) -> tuple[Senders, set[str]]:
    """Return which tensors rules with transforms send where, and the keys that any rule fits."""
    senders: dict[str, list[tuple[str, Rule]]] = {}
    ruled: set[str] = set()
    for key, key_labels in labels.items():
        for rank, (rule, target) in enumerate(choices(key_labels)):
            ruled.add(key)
            takes_part = rule.transform.part is not None
            # The first rule decides; after one that takes a part, others may take more parts.
            if not rule.transform or (rank > 0 and not takes_part):
                break
            senders.setdefault(target, []).append((key, rule))
            if not takes_part:
                break
    return senders, ruled


def _result_key(parts: Sequence[tuple[str, Rule]]) -> str:
    """Return the key of what parts make: that of the first, and which part of it, if not all."""
    key, rule = parts[0]
    part = rule.transform.part
    return f"{key} [{part}]" if part is not None else key


def _missing_parts(src: Sources, name: str, parts: Sequence[tuple[str, Rule]]) -> Iterator[str]:
    """Yield the parts of a target that no rule gives; raises UsageError for what cannot be."""
    senders: dict[JoinInto | AddInto | None, str] = {}
    for key, rule in parts:
        into = rule.transform.into or rule.transform.term
        source_name = src.tensors[key].naming.name
        if into in senders:
            raise UsageError(
                f"rename rules send both {senders[into]} and {source_name} to {name}",
                hint="make the rules tell them apart",
            )
        senders[into] = source_name
    divisions = {(type(into), *into[1:]) if into is not None else None for into in senders}
    if len(divisions) > 1:
        raise UsageError(f"the parts of {name} are not of one number and one axis")
    [division] = divisions
    if division is not None:
        numbers = {into.number for into in senders if into is not None}
        count = division[1]
        what = "term" if division[0] is AddInto else "part"
        for number in sorted(set(range(1, count + 1)) - numbers):
            yield f"{what} {number}/{count}"


def _unused_parts(
    src: Sources, transforms: Mapping[str, TensorTransform]
) -> Iterator[tuple[str, str]]:
    """Yield (name, part) for the parts of tensors that no rule takes."""
    parts_of: dict[str, set[TakePart]] = {}
    for tensor_transform in transforms.values():
        for key, transform in tensor_transform.parts:
            if transform.part is not None:
                parts_of.setdefault(key, set()).add(transform.part)
    for key, parts in parts_of.items():
        name = src.tensors[key].naming.name
        divisions = {part[1:] for part in parts}
        if len(divisions) > 1:
            raise UsageError(f"the parts of {name} are not of one number and one axis")
        [(count, _)] = divisions
        for number in sorted(set(range(1, count + 1)) - {part.number for part in parts}):
            yield name, f"part {number}/{count}"


def _followers(
    src: Sources, transforms: Mapping[str, TensorTransform], ruled: set[str]
) -> Iterator[tuple[str, TensorTransform]]:
    """Yield the transforms of slots and averages: those of their variables, taken as a whole."""
    for key, owner in src.tensor_set.owners.items():
        transform = transforms.get(owner)
        if transform is None or not transform.is_whole or key in ruled:
            continue
        if src.tensors[key].spec.shape == src.tensors[owner].spec.shape:
            yield key, TensorTransform(((key, transform.parts[0][1]),), transform.rule_text)
