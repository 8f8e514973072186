"""Readable names and roles of tensors, from what the file itself says of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ckptkit.checkpoint.naming import Naming
from ckptkit.stores.base import KerasStructure, ObjectGraph, StoredNames, TensorSpec

if TYPE_CHECKING:
    from ckptkit.stores.base import Structure


def name_tensors(specs: Mapping[str, TensorSpec], structure: Structure) -> dict[str, Naming]:
    """Return a Naming for every key of `specs`; names are unique."""
    namings = _named(specs, structure)
    if len({naming.name for naming in namings.values()}) < len(namings):
        _tell_apart(namings)
    return namings


def _tell_apart(namings: dict[str, Naming]) -> None:
    """Give tensors of one name their keys for names, or, where even that is taken, a number."""
    repeated = {name for name, n in Counter(n.name for n in namings.values()).items() if n > 1}
    taken = {naming.name for naming in namings.values()}
    for key, naming in namings.items():
        if naming.name in repeated:
            name, number = key, 1
            while name in taken:
                number += 1
                name = f"{key} ({number})"
            taken.add(name)
            namings[key] = naming._replace(name=name)


def _named(specs: Mapping[str, TensorSpec], structure: Structure) -> dict[str, Naming]:
    if isinstance(structure, ObjectGraph):
        from ckptkit.checkpoint.object_names import name_objects

        return name_objects(specs, structure)
    if isinstance(structure, KerasStructure):
        from ckptkit.checkpoint.keras_names import name_keras

        return name_keras(specs, structure)
    if isinstance(structure, StoredNames):
        return _stored(specs, structure)
    return name_keys(specs)


def _stored(specs: Mapping[str, TensorSpec], stored: StoredNames) -> dict[str, Naming]:
    namings = name_keys(specs)
    for key, (name, role, slot_of) in stored.names.items():
        if key in specs:
            _, at, slot = name.rpartition("@")
            namings[key] = Naming(name, role, slot_of=slot_of, slot=slot if at else None)
    return namings


# TensorFlow 1 optimizers (and BERT's) add a suffix to the variable's name, with a number for the
# second slot: Adam's m and v are `w/Adam` and `w/Adam_1`; another optimizer counts on.
_SLOT_SUFFIXES = {
    "Adam": ("m", "v"),
    "AdamOptimizer": ("m", "v"),
    "LazyAdam": ("m", "v"),
    "RMSProp": ("rms", "momentum"),
    "Ftrl": ("accumulator", "linear"),
    "Adadelta": ("accum_grad", "accum_var"),
    "Momentum": ("momentum",),
    "Adagrad": ("accumulator",),
    "AdagradDA": ("gradient_accumulator",),
    "adam_m": ("m",),
    "adam_v": ("v",),
    "lamb_m": ("m",),
    "lamb_v": ("v",),
    "vr": ("vr",),
    "vc": ("vc",),
}
_AVERAGES = ("ExponentialMovingAverage", "moving_average")
_NUMBERED = re.compile(r"(.+?)(?:_(\d{1,9}))?")
_COUNTERS = frozenset({"global_step", "step", "save_counter", "iterations", "epoch"})
_CONFIG = re.compile(r"(beta[12]_power|learning_rate|decay)(_\d+)?")


def name_keys(specs: Mapping[str, TensorSpec]) -> dict[str, Naming]:
    """Name the tensors of a file that says nothing but its keys, by TensorFlow 1's conventions.

    A slot is recognised only where the variable that it would belong to is there too.
    """
    return {key: _name_key(key, spec, specs) for key, spec in specs.items()}


def _name_key(key: str, spec: TensorSpec, specs: Mapping[str, TensorSpec]) -> Naming:
    if key == "_CHECKPOINTABLE_OBJECT_GRAPH":
        return Naming(key, "config")
    tied, at, slot_name = key.rpartition("@")
    if at and tied in specs:  # as `ckptkit convert` calls a slot
        role = "ema" if slot_name in ("ema", "average") else "slot"
        return Naming(key, role, key, (), tied, slot_name)
    owner, _, last = key.rpartition("/")
    if spec.shape == ():
        if last in _COUNTERS:
            return Naming(key, "counter", key)
        if _CONFIG.fullmatch(last):
            return Naming(key, "config", key)
    slot = _slot_of_suffix(last)
    variable = _owner(owner, specs) if slot else None
    if slot and variable:
        role = "ema" if slot[0] == "ema" else "slot"
        name = f"{variable}@{slot[0]}" + (f"_{slot[1]}" if slot[1] else "")
        return Naming(name if name not in specs else key, role, key, (), variable, slot[0], last)
    return Naming(key, "weight" if spec.dtype != "string" else "table", key)


def _slot_of_suffix(last: str) -> tuple[str, int] | None:
    """Return (slot name, number of the optimizer) for `Adam_1` -> ("v", 0), else None."""
    if last in _AVERAGES:
        return "ema", 0
    if last in _SLOT_SUFFIXES:
        return _SLOT_SUFFIXES[last][0], 0
    match = _NUMBERED.fullmatch(last)
    if match is None or match[1] not in _SLOT_SUFFIXES or match[2] is None:
        return None
    slots = _SLOT_SUFFIXES[match[1]]
    number = int(match[2])
    return slots[number % len(slots)], number // len(slots)


def _owner(owner: str, specs: Mapping[str, TensorSpec]) -> str | None:
    """Return the variable a slot's name points at: `owner`, or `owner` without outer scopes."""
    while owner:
        if owner in specs:
            return owner
        _, _, owner = owner.partition("/")
    return None
