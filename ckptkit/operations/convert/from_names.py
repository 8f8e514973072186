"""A plan without structure: every tensor under its readable name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ckptkit.align.rules import Rule
from ckptkit.errors import UsageError
from ckptkit.operations.convert.builder import PlanBuilder
from ckptkit.operations.convert.rule_transforms import resolve_by_name
from ckptkit.stores.writing import TensorToWrite
from ckptkit.wording import operand, say

_TIED_ROLES = ("slot", "ema")  # go by the name of their variable


def plan_from_names(builder: PlanBuilder) -> None:
    """Plan a safetensors, npz or name-based checkpoint file.

    Raises UsageError for a root, for rules that fit nothing, and for rules that send two tensors to
    one name.
    """
    src, target = builder.src, builder.target
    if builder.options.root:
        raise UsageError(
            say("‹root› needs an object graph, which ‹SRC› lacks, and a checkpoint to write")
        )
    output_keys = _output_keys(builder)
    owners = src.tensor_set.owners
    averages = set(src.averages.values())
    for key, tensor in src.tensors.items():
        if key in averages:
            src.leave_behind(tensor, say("used as the weights (‹ema›)"))
            continue
        if not builder.can_write(tensor):
            continue
        output = TensorToWrite(
            output_keys[key],
            src.dtype(key),
            tensor.spec.shape,
            tensor.naming.name if not target.format.structure and not builder.options.rules else "",
            tensor.naming.role,
            output_keys.get(owners.get(key, ""), tensor.naming.slot_of),
            src.checkpoint_key(key),
        )
        builder.add(key, output, "source")
    if target.is_bundle:
        builder.notes.append(
            say(
                "‹SRC› has no object graph: the checkpoint restores by name, with "
                "tf.compat.v1.train.Saver; ‹like=CHECKPOINT› gives one"
            )
        )


def _output_keys(builder: PlanBuilder) -> dict[str, str]:
    """Return the key of each tensor in the output, rules applied."""
    src, rules = builder.src, builder.options.rules
    names = {key: tensor.naming.name for key, tensor in src.tensors.items()}
    if builder.target.is_bundle:
        names = _tensorflow1_names(builder)
    for rule in rules:
        if not any(rule.apply(name) is not None for name in names.values()):
            raise UsageError(f"rule {rule.text!r} fits no tensor of {operand('SRC')}")
    # Rules with transforms first: from here on, `src.tensors` are what these make of them.
    transforms = resolve_by_name(src, rules, names)
    builder.report_incomplete(transforms)
    owners = src.tensor_set.owners
    src.transform(transforms.transforms)
    source_keys: dict[str, str] = {}
    for key in src.tensors:
        name = names.get(key, key)
        new_name = transforms.targets.get(key) or renamed(name, rules)
        if key in transforms.transforms and key not in transforms.targets:
            # A slot, which was transformed with its variable and keeps its name.
            new_name = f"{transforms.targets[owners[key]]}@{name.rpartition('@')[2]}"
        if new_name in source_keys:
            other = names.get(source_keys[new_name], source_keys[new_name])
            raise UsageError(
                f"rename rules send both {other} and {name} to {new_name}",
                hint="make the rules tell them apart",
            )
        source_keys[new_name] = key
    return {key: name for name, key in source_keys.items()}


def renamed(name: str, rules: Sequence[Rule]) -> str:
    """Return the name that the last fitting rule gives, or the name as it is."""
    for rule in reversed(rules):
        new = rule.apply(name)
        if new is not None:
            return new
    return name


def _tensorflow1_names(builder: PlanBuilder) -> dict[str, str]:
    """Return the names that a TF1 saver would use: full names where they are unique.

    A tensor from a name-based checkpoint keeps its key; slots read `conv1/kernel@momentum`.
    """
    src = builder.src
    full_names = {key: tensor.naming.full_name for key, tensor in src.tensors.items()}
    counts = Counter(full_names.values())
    names: dict[str, str] = {}
    for key, tensor in src.tensors.items():
        stored_name, full_name = _name_in_file(src.checkpoint_key(key)), full_names[key]
        if stored_name is not None:
            names[key] = stored_name
        elif full_name and counts[full_name] == 1 and tensor.naming.role not in _TIED_ROLES:
            names[key] = full_name
        else:
            names[key] = tensor.naming.name
    for key, owner in src.tensor_set.owners.items():
        if _name_in_file(src.checkpoint_key(key)) is None:
            names[key] = f"{names[owner]}@{src.tensors[key].naming.name.rpartition('@')[2]}"
    return names


def _name_in_file(checkpoint_key: str | None) -> str | None:
    """Return the key that a name-based checkpoint has; None where it is an object path, or none."""
    is_name = checkpoint_key is not None and "/.ATTRIBUTES/" not in checkpoint_key
    return checkpoint_key if is_name else None
