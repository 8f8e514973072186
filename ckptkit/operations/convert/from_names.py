"""A plan without structure: every tensor under its readable name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ckptkit.align.rules import Rule
from ckptkit.errors import UsageError
from ckptkit.operations.convert.builder import NEUTRAL, Draft
from ckptkit.operations.convert.rule_transforms import moves_by_name
from ckptkit.stores.writing import TensorToWrite

_TIED = ("slot", "ema")


def by_name(draft: Draft) -> None:
    """Fill the draft of a safetensors, npz or name-based checkpoint file."""
    src, form = draft.src, draft.target.form
    if draft.request.root:
        raise UsageError("--root needs a SRC with an object graph, and a checkpoint as DST")
    names = _keys(draft)
    owners = src.side.owners
    averages = set(src.averages.values())
    for key, tensor in src.tensors.items():
        if key in averages:
            src.skip(tensor, "used as the weights (--ema)")
            continue
        if not draft.writable(tensor):
            continue
        out = TensorToWrite(
            names[key],
            src.dtype(key),
            tensor.spec.shape,
            tensor.naming.name if form in NEUTRAL and not draft.request.rules else "",
            tensor.naming.role,
            names.get(owners.get(key, ""), tensor.naming.slot_of),
            src.checkpoint_key(key),
        )
        draft.fill(key, out, "own")
    if form == "checkpoint":
        draft.notes.append(
            "SRC has no object graph: the checkpoint restores by name, with "
            "tf.compat.v1.train.Saver; --like CHECKPOINT gives one"
        )


def _keys(draft: Draft) -> dict[str, str]:
    """Return the key of each tensor in the output, rules applied."""
    src, rules = draft.src, draft.request.rules
    names = {key: tensor.naming.name for key, tensor in src.tensors.items()}
    if draft.target.form == "checkpoint":
        names = _tensorflow1_names(draft)
    for rule in rules:
        if not any(rule.apply(name) is not None for name in names.values()):
            raise UsageError(f"rule {rule.text!r} fits no tensor of SRC")
    moves = moves_by_name(src, rules, names)
    draft.incomplete(moves)
    owners, before = src.side.owners, names
    src.move(moves.moves)
    taken: dict[str, str] = {}
    for key in src.tensors:
        name = before.get(key, key)
        new = moves.targets.get(key) or renamed(name, rules)
        if key in moves.moves and key not in moves.targets:  # a slot, gone with its variable
            new = f"{moves.targets[owners[key]]}@{name.rpartition('@')[2]}"
        if new in taken:
            raise UsageError(
                f"rename rules send both {names[taken[new]]} and {name} to {new}",
                hint="make the rules tell them apart",
            )
        taken[new] = key
    return {key: name for name, key in taken.items()}


def renamed(name: str, rules: Sequence[Rule]) -> str:
    """Return the name that the last fitting rule gives."""
    for rule in reversed(rules):
        new = rule.apply(name)
        if new is not None:
            return new
    return name


def _tensorflow1_names(draft: Draft) -> dict[str, str]:
    """Return the names that a TF1 saver would use: full names where they are unique.

    A tensor from a name-based checkpoint keeps its key; slots read `conv1/kernel@momentum`.
    """
    src = draft.src
    full = {key: tensor.naming.full_name for key, tensor in src.tensors.items()}
    counts = Counter(full.values())
    names: dict[str, str] = {}
    for key, tensor in src.tensors.items():
        own, name = src.checkpoint_key(key), full[key]
        if own is not None and "/.ATTRIBUTES/" not in own:
            names[key] = own
        elif name and counts[name] == 1 and tensor.naming.role not in _TIED:
            names[key] = name
        else:
            names[key] = tensor.naming.name
    for key, owner in src.side.owners.items():
        own = src.checkpoint_key(key)
        if own is None or "/.ATTRIBUTES/" in own:
            names[key] = f"{names[owner]}@{src.tensors[key].naming.name.rpartition('@')[2]}"
    return names
