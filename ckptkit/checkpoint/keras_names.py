"""Readable, unique names for the tensors of a Keras file.

A weight is called what Keras calls it (`variable.path`: `conv1_conv/kernel`), which is also its
full name in a TensorFlow checkpoint of the same model; a slot is called
`conv1_conv/kernel@momentum`.  Where tensors would share a name, those that have another (all
their layers joined, the attributes that lead to them) take that; a name that still has two owners
goes to neither, and each is called by its key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ckptkit.checkpoint.naming import Naming
from ckptkit.stores.base import KerasStructure, KerasVariable, TensorSpec


def name_keras(specs: Mapping[str, TensorSpec], structure: KerasStructure) -> dict[str, Naming]:
    """Return a Naming for every key of `specs`, in its order; all names differ."""
    variables = {key: structure.variables.get(key) for key in specs}
    wanted = {key: _candidates(key, v) for key, v in variables.items() if not _has_owner(v)}
    names = _unique(wanted, set())
    slots = {
        key: _slot_candidates(key, v, names[v.slot_of])
        for key, v in variables.items()
        if v is not None and _has_owner(v) and v.slot_of in names
    }
    names |= _unique(slots, set(names.values()))
    lost = {key: [key] for key in specs if key not in names}
    names |= _unique(lost, set(names.values()))
    return {key: _naming(names, key, variable) for key, variable in variables.items()}


def _has_owner(variable: KerasVariable | None) -> bool:
    return variable is not None and variable.slot_of is not None


def _path(key: str, variable: KerasVariable) -> str:
    """Return the name that Keras gives: scopes and variable, `vars/N` where that is not known."""
    tail = variable.name or "/".join(key.rsplit("/", 2)[-2:])
    return "/".join((*variable.layers, tail))


def _candidates(key: str, variable: KerasVariable | None) -> list[str]:
    if variable is None:
        return [key]
    return [_path(key, variable), *variable.aliases, key]


def _slot_candidates(key: str, variable: KerasVariable, owner: str) -> list[str]:
    slot = variable.slot or "slot"
    return [f"{owner}@{slot}", f"{owner}@{variable.optimizer}/{slot}", key]


def _unique(wanted: Mapping[str, Iterable[str]], taken: set[str]) -> dict[str, str]:
    """Return key -> name, all different and none in `taken`; the last candidate is the key."""
    candidates = {key: list(dict.fromkeys(c)) for key, c in wanted.items()}
    claims: dict[str, list[str]] = {}
    for key, options in candidates.items():
        claims.setdefault(options[0], []).append(key)
    taken = set(taken)
    names: dict[str, str] = {}

    def give(key: str, name: str) -> None:
        names[key] = name
        taken.add(name)

    contested: list[tuple[str, list[str]]] = []
    for name, keys in claims.items():  # sole claims first, so that they never give way
        if len(keys) == 1 and name not in taken:
            give(keys[0], name)
        else:
            contested.append((name, keys))
    for name, keys in contested:
        left = []
        for key in keys:
            other = _free(candidates[key][:-1], taken, claims)
            if other is not None:
                give(key, other)
            else:
                left.append(key)
        if len(left) == 1 and name not in taken:
            give(left.pop(), name)
        for key in left:
            give(key, _numbered(key, taken))
    return names


def _free(options: list[str], taken: set[str], claims: Mapping[str, list[str]]) -> str | None:
    return next((o for o in options if o not in taken and o not in claims), None)


def _numbered(key: str, taken: set[str]) -> str:
    """Return the key, with a number where even that is some other tensor's name."""
    name, number = key, 1
    while name in taken:
        number += 1
        name = f"{key}#{number}"
    return name


def _naming(names: Mapping[str, str], key: str, variable: KerasVariable | None) -> Naming:
    name = names[key]
    if variable is None:
        return Naming(name, "other")
    known = variable.name is not None or variable.slot is not None
    owner = names.get(variable.slot_of) if variable.slot_of else None
    full_name = _path(key, variable) if known and variable.slot is None else None
    aliases = tuple(a for a in _candidates(key, variable)[:-1] if a != name)
    return Naming(
        name=name,
        role=variable.role,
        full_name=full_name,
        aliases=aliases if variable.slot is None else (),
        slot_of=owner,
        slot=variable.slot,
        optimizer=variable.optimizer,
        duplicate_of=names.get(variable.duplicate_of) if variable.duplicate_of else None,
    )
