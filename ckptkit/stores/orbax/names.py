"""Readable names and roles of the tensors of a saved tree: from its paths, and what they show.

Keras says it by the first key (`Model.get_state_tree`): `trainable_variables`,
`non_trainable_variables`, `optimizer_variables`, `metrics_variables`; what follows is the path of
the variable.  A slot is called as its weight's path, joined by "_", and the slot's name.

State of optax has no such word: it is a tree of tuples and named tuples (`mu`, `nu`, `trace`) in
which the tree of parameters stands again, once for each slot.  A branch is such a state of the
branch beside it where every array of it is called and shaped as one there, or lacks one of its
axes (a row or column sum), some of them in a tuple, and something shows that no model is meant: a
counter, or a state that holds nothing (`EmptyState`).  Such roles are marked as inferred; whatever
does not fit is a weight.
Source: keras/src/models/model.py, keras/src/optimizers/base_optimizer.py, optax/_src/base.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ckptkit.dtypes import kind
from ckptkit.stores.base import StoredNames, TensorSpec
from ckptkit.stores.orbax.tree_metadata import TreeLeaf

_TRAINABLE, _OPTIMIZER = "trainable_variables", "optimizer_variables"
_OF_MODEL = (_TRAINABLE, "non_trainable_variables")
_OF_KERAS = frozenset({*_OF_MODEL, _OPTIMIZER, "metrics_variables"})
_SEED = "seed_generator_state"  # how the names of Keras's random seeds end
_AVERAGE = "average"  # the slot in which Keras averages weights

Path = tuple[str, ...]
Entry = tuple[str, str, str | None]  # of StoredNames


class NamedLeaf(NamedTuple):
    """A leaf of the tree and the tensor that it is; None where it is none."""

    leaf: TreeLeaf
    spec: TensorSpec | None


def name_tree(leaves: Sequence[NamedLeaf]) -> StoredNames:
    """Return names and roles of the tensors of a tree."""
    firsts = {found.leaf.path[0] for found in leaves}
    if firsts <= _OF_KERAS and _TRAINABLE in firsts:
        return StoredNames(_of_keras(leaves))
    return _of_optax(leaves)


# --- Keras ----------------------------------------------------------------------------------------


def _of_keras(leaves: Sequence[NamedLeaf]) -> dict[str, Entry]:
    weights: dict[str, list[tuple[str, TensorSpec]]] = {}
    for leaf, spec in leaves:
        if leaf.path[0] == _TRAINABLE and spec is not None:
            path = leaf.path[1:]
            weights.setdefault("_".join(path), []).append(("/".join(path), spec))
    # Where one optimizer is in another, both may keep a slot of a name.
    scopes = {leaf.path[1:-1] for leaf, _ in leaves if leaf.path[0] == _OPTIMIZER} - {()}
    names: dict[str, Entry] = {}
    for leaf, spec in leaves:
        if spec is None:
            continue
        group, name = leaf.path[0], "/".join(leaf.path[1:])
        if group in _OF_MODEL:
            names[spec.key] = (name, "counter" if name.endswith(_SEED) else "weight", None)
        elif group == _OPTIMIZER:
            names[spec.key] = _state_of_keras(leaf.path[1:], spec, weights, len(scopes) > 1)
        else:
            names[spec.key] = ("/".join(leaf.path), "metric", None)
    return names


def _state_of_keras(
    path: Path,
    spec: TensorSpec,
    weights: Mapping[str, list[tuple[str, TensorSpec]]],
    are_several: bool,
) -> Entry:
    last = path[-1]
    at = len(last)
    while (at := last.rfind("_", 0, at)) > 0:  # the longest name of a weight counts
        found = [
            weight
            for weight, its in weights.get(last[:at], ())
            if spec.shape == its.shape or _is_sum_of(spec.shape, its.shape)
        ]
        if len(found) == 1:
            slot = last[at + 1 :]
            role = "ema" if slot == _AVERAGE else "slot"
            scope = "/".join((*path[:-1], "")) if are_several else ""
            return f"{found[0]}@{scope}{slot}", role, found[0]
    return "/".join(path), "slot" if spec.shape else _scalar_role(spec), None


def _scalar_role(spec: TensorSpec) -> str:
    return "counter" if _is_counter(spec) else "config"


def _is_sum_of(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Whether a shape is that of sums along one axis, as Adafactor keeps them."""
    return any(shape == (*whole[:axis], *whole[axis + 1 :]) for axis in range(len(whole))) and (
        len(whole) > 1
    )


# --- optax ----------------------------------------------------------------------------------------


class _Branch(NamedTuple):
    """What lies below one of the first keys that differ: leaves, and tensors by path below it."""

    leaves: tuple[NamedLeaf, ...]
    tensors: Mapping[Path, TensorSpec]

    @property
    def holds_arrays(self) -> bool:
        return any(spec.shape for spec in self.tensors.values())


def _of_optax(leaves: Sequence[NamedLeaf]) -> StoredNames:
    depth = _depth_of_branches(leaves)
    branches = _branches(leaves, depth)
    states = {name: _owners(name, branches, depth) for name in branches}
    others = [name for name, owners in states.items() if not owners]
    arrays = [name for name in others if branches[name].holds_arrays]
    # Where one branch holds all that is no state, names leave it out, as a file of it alone would.
    left_out = arrays[0] if len(arrays) == 1 and len(others) < len(branches) else None
    names: dict[str, Entry] = {}
    for name in others:
        for leaf, spec in branches[name].leaves:
            if spec is not None:
                path = leaf.path[depth + 1 :] if name == left_out else leaf.path
                names[spec.key] = ("/".join(path or leaf.path), "", None)
    inferred: set[str] = set()
    for name, owners in states.items():
        for leaf, spec in branches[name].leaves if owners else ():
            if spec is not None:
                found = [branches[owner].tensors for owner in owners]
                names[spec.key] = _state_of_optax(leaf, spec, depth, found, names)
                inferred.add(spec.key)
    return StoredNames(names, inferred=frozenset(inferred))


def _branches(leaves: Sequence[NamedLeaf], depth: int) -> dict[str, _Branch]:
    found: dict[str, list[NamedLeaf]] = {}
    for item in leaves:
        found.setdefault(item.leaf.path[depth], []).append(item)
    return {
        name: _Branch(
            tuple(branch),
            {leaf.path[depth + 1 :]: spec for leaf, spec in branch if spec is not None},
        )
        for name, branch in found.items()
    }


def _depth_of_branches(leaves: Sequence[NamedLeaf]) -> int:
    """Return how many keys all paths begin with: the tree may lie in dicts of one key."""
    paths = [leaf.path for leaf, _ in leaves]
    depth = 0
    while all(len(path) > depth + 1 for path in paths) and len({p[depth] for p in paths}) == 1:
        depth += 1
    return depth


def _owners(name: str, branches: Mapping[str, _Branch], depth: int) -> list[str]:
    """Return the branches of whose parameters a branch is the state of an optimizer."""
    state = branches[name]
    is_shown = any(
        leaf.kind == "nothing" if spec is None else not spec.shape and _is_counter(spec)
        for leaf, spec in state.leaves
    )
    if not is_shown or not state.holds_arrays:
        return []
    return [
        other
        for other, branch in branches.items()
        if other != name and branch.holds_arrays and _is_state(state, branch.tensors, depth)
    ]


def _is_state(state: _Branch, parameters: Mapping[Path, TensorSpec], depth: int) -> bool:
    """Whether all arrays of a branch are slots of these parameters, some of them in a tuple."""
    is_in_tuple = False
    for leaf, spec in state.leaves:
        if spec is None:
            continue
        of = _owner_of(leaf.path[depth + 1 :], spec, parameters)
        if of is not None:
            before = range(depth + 1, len(leaf.path) - len(of))
            is_in_tuple = is_in_tuple or any(place in leaf.indices for place in before)
        elif spec.shape and spec.size > 1:  # Adafactor keeps (1,) where it has nothing
            return False
    return is_in_tuple


def _is_counter(spec: TensorSpec) -> bool:
    return kind(spec.dtype) in ("int", "uint")


def _owner_of(inside: Path, spec: TensorSpec, parameters: Mapping[Path, TensorSpec]) -> Path | None:
    """Return the path of the parameter that a path of a state ends with, the longest that fits."""
    for cut in range(1, len(inside)):
        found = parameters.get(inside[cut:])
        if found is not None and (found.shape == spec.shape or _is_sum_of(spec.shape, found.shape)):
            return inside[cut:]
    return None


def _state_of_optax(
    leaf: TreeLeaf,
    spec: TensorSpec,
    depth: int,
    owners: Sequence[Mapping[Path, TensorSpec]],
    names: Mapping[str, Entry],
) -> Entry:
    whole = "/".join(leaf.path)
    of = _owner_of(leaf.path[depth + 1 :], spec, owners[0])
    if of is None:
        return whole, "slot" if spec.shape else _scalar_role(spec), None
    before = range(depth + 1, len(leaf.path) - len(of))
    fields = [leaf.path[place] for place in before if place not in leaf.indices]
    if len(owners) > 1 or not fields:  # of two trees of parameters, which is meant stands nowhere
        return whole, "slot", None
    owner = names[owners[0][of].key][0]
    return f"{owner}@{fields[-1]}", "slot", owner
