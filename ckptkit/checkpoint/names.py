"""Readable names and roles of tensors, from what the file itself says of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING

from ckptkit.checkpoint.naming import Naming
from ckptkit.checkpoint.packed_names import PackedNames
from ckptkit.stores.base import KerasStructure, ObjectGraph, StoredNames, TensorSpec
from ckptkit.stores.packed_specs import PackedSpecs
from ckptkit.text import lazy_pattern

if TYPE_CHECKING:
    from ckptkit.checkpoint.inferred_roles import InferredRole
    from ckptkit.stores.base import Structure

_OBJECT_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
_OUTPUT = lazy_pattern(r":\d+$")


def name_tensors(specs: Mapping[str, TensorSpec], structure: Structure) -> Mapping[str, Naming]:
    """Return a Naming for every key of `specs`; names are unique."""
    namings = _named(specs, structure)
    if not isinstance(namings, dict):  # names of a tree: none is there twice
        return namings
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


def _named(specs: Mapping[str, TensorSpec], structure: Structure) -> Mapping[str, Naming]:
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
    namings = dict(name_keys(specs))
    for key, (name, role, slot_of) in stored.names.items():
        if key in specs and not role:
            namings[key] = namings[key]._replace(name=name)
        elif key in specs:
            _, at, text = name.rpartition("@")
            optimizer, _, slot = text.rpartition("/")  # where one is in another, its name is told
            namings[key] = Naming(
                name,
                role,
                slot_of=slot_of,
                slot=slot if at else None,
                optimizer=optimizer if at and optimizer else None,
                role_inferred=key in stored.inferred,
            )
    return namings


def name_keys(specs: Mapping[str, TensorSpec]) -> Mapping[str, Naming]:
    """Name the tensors of a file that says nothing but its keys (`inferred_roles`).

    A slot is recognised only where the variable that it would belong to is there too.
    """
    from ckptkit.checkpoint.inferred_roles import infer_roles  # here, since many say more than keys

    if isinstance(specs, PackedSpecs):
        packed = _packed_keys(specs)
        if packed is not None:
            return packed
    # numpy files keep TensorFlow's `w:0`; what `ckptkit convert` calls a slot is `w@m`.
    odd = {key for key in specs if ":" in key or "@" in key}
    tied = {key for key in odd if "@" in key and key.rpartition("@")[0] in specs}
    keys = {_OUTPUT.sub("", key) if key in odd else key: key for key in specs if key not in tied}
    if len(keys) + len(tied) < len(specs):
        keys = {key: key for key in specs if key not in tied}
    roles = infer_roles({name: specs[key] for name, key in keys.items()})
    called = {key: name for name, key in keys.items()} if odd else keys
    namings: dict[str, Naming] = {}
    for key, spec in specs.items():
        role = roles.get(called.get(key, ""))
        if role is None and key not in odd and key != _OBJECT_GRAPH_KEY:  # nearly all
            kind = _role_of(spec.dtype)
            namings[key] = Naming(key, kind, key, (), None, None, None, False, None, False)
        else:
            namings[key] = _name_key(key, spec, specs, keys, role)
    return namings


def _packed_keys(specs: PackedSpecs) -> PackedNames | None:
    """Return what `name_keys` does of packed specs; None where keys are not all names.

    Nearly all are called by their keys; only those that are not are kept.
    """
    if any(map(specs.keys_in_order.any_has, ":@")):
        return None
    from ckptkit.checkpoint.inferred_roles import infer_roles

    roles = infer_roles(specs)
    others = {
        key: _name_key(key, specs[key], specs, None, role)
        for key, role in chain([(_OBJECT_GRAPH_KEY, None)], roles.items())
        if key in specs
    }
    names = [naming.name for key, naming in others.items() if naming.name != key]
    if len({*names}) < len(names) or any(name in specs for name in names):
        return None  # to be told apart

    return PackedNames.of_keys(specs, _role_of, others)


def _role_of(dtype: str) -> str:
    """Return what a tensor is for of which only its dtype tells."""
    return "weight" if dtype != "string" else "table"


def _name_key(
    key: str,
    spec: TensorSpec,
    specs: Mapping[str, TensorSpec],
    keys: Mapping[str, str] | None,
    found: InferredRole | None,
) -> Naming:
    """Return the naming of one key.  keys: of names that are none themselves; None: all are."""
    if key == _OBJECT_GRAPH_KEY:
        return Naming(key, "config")
    owner, at, slot = key.rpartition("@")
    if at and owner in specs:
        role = "ema" if slot in ("ema", "average") else "slot"
        return Naming(key, role, key, (), owner, slot)
    if found is None:
        return Naming(key, _role_of(spec.dtype), key)
    naming = Naming(
        key,
        found.role,
        key,
        slot_of=found.owner if keys is None or found.owner is None else keys[found.owner],
        slot=found.slot,
        optimizer=found.optimizer,
        role_inferred=not found.is_known,
    )
    of = naming.slot_of or found.shadowed
    name = f"{of}@{found.slot}"
    return naming._replace(name=name) if of and found.slot and name not in specs else naming
