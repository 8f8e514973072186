"""State in an object graph that no known optimizer holds, told by names, lists and shapes.

Optimizers that are none of Keras's (Sonnet's, one's own) are plain objects: a list of variables for
each kind of slot, a counter, settings.  To the graph these are variables as any; so are those that
a program saves by themselves (`Checkpoint(variables=[…])`).  A *loose* variable is one that lies in
a list, or directly below the root, where no layer holds it; only loose variables are judged:

- by their full names, as in a file without a graph (`inferred_roles`);
- a whole list, where every item has the name and shape of another variable, below one scope, and
  beside the list is a counter or a second such list;
- lists without names, where two or more beside a counter have the shapes of other variables.

Integers and booleans as scalars are no weights, unless a layer of Keras holds them: Keras counts
them among its weights (keras/src/layers/preprocessing/normalization.py has `count`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ckptkit.checkpoint.name_extensions import is_integer
from ckptkit.checkpoint.optimizer_words import is_setting, is_state_word
from ckptkit.stores.base import TensorSpec
from ckptkit.text import lazy_pattern

_NAMELESS = lazy_pattern(r"(.*/)?Variable(_\d+)?")


class ObjectVariable(NamedTuple):
    """A variable that no known optimizer or metric holds: its node, best path, name and spec."""

    node: int
    path: str
    full_name: str
    spec: TensorSpec

    @property
    def holder(self) -> str:
        """Path of the object, or of the list, that has it."""
        return self.path.rpartition("/")[0]

    @property
    def is_listed(self) -> bool:
        """Whether it is an item of a list."""
        return self.path.rpartition("/")[2].isdecimal()


class ObjectRole(NamedTuple):
    """role: as of `Naming`.  slot, of: of a slot its kind, and the node of its variable."""

    role: str
    slot: str | None = None
    of: int | None = None
    optimizer: str = ""


def infer_object_roles(
    variables: Sequence[ObjectVariable], *, has_keras: bool
) -> dict[int, ObjectRole]:
    """Return, by node, the roles of those variables that are no weights.

    has_keras: whether Keras made the graph; its layers' integers are weights.
    """
    arrays = [v for v in variables if v.spec.shape != () and v.spec.dtype != "string"]
    found = _by_lists(arrays, variables)
    found |= _by_names([v for v in arrays if v.node not in found])
    holders = {role.optimizer for role in found.values() if role.optimizer}
    for variable in variables:
        role = _scalar_role(variable, holders, has_keras)
        if role and variable.node not in found:
            found[variable.node] = ObjectRole(role)
    return found


def _scalar_role(variable: ObjectVariable, holders: set[str], has_keras: bool) -> str | None:
    spec, path = variable.spec, variable.path
    if spec.dtype == "string":
        return "table"  # words are no parameters
    if spec.shape != ():
        return None
    is_optimizers = variable.holder in holders and variable.holder
    if is_integer(spec) or spec.dtype == "bool":
        if "/" in path and has_keras and not is_optimizers:
            return None
        return "counter" if is_integer(spec) else "config"
    return "config" if is_optimizers or is_setting(path.rpartition("/")[2]) else None


def _by_names(arrays: Sequence[ObjectVariable]) -> dict[int, ObjectRole]:
    by_name: dict[str, list[ObjectVariable]] = defaultdict(list)
    for variable in arrays:
        if variable.full_name and not _NAMELESS.fullmatch(variable.full_name):
            by_name[variable.full_name].append(variable)
    unique = {name: found[0] for name, found in by_name.items() if len(found) == 1}
    loose = {n for n, v in unique.items() if v.is_listed or "/" not in v.path}
    if not loose:
        return {}
    from ckptkit.checkpoint.inferred_roles import infer_roles  # here, since few are loose

    roles: dict[int, ObjectRole] = {}
    for name, role in infer_roles({name: v.spec for name, v in unique.items()}).items():
        variable = unique[name]
        if name in loose and role.role in ("slot", "ema") and role.owner is not None:
            holder = _object_of(variable)
            roles[variable.node] = ObjectRole(
                role.role, role.slot, unique[role.owner].node, holder or role.optimizer or ""
            )
    return roles


def _object_of(variable: ObjectVariable) -> str:
    """Return the path of the object that has the list in which a variable is."""
    return variable.holder.rpartition("/")[0] if variable.is_listed else ""


def _by_lists(
    arrays: Sequence[ObjectVariable], variables: Sequence[ObjectVariable]
) -> dict[int, ObjectRole]:
    """Return the roles of whole lists; other variables of the graph are what they stand for."""
    lists: dict[str, list[ObjectVariable]] = defaultdict(list)
    for variable in arrays:
        if variable.is_listed:
            lists[variable.holder].append(variable)
    by_object: dict[str, list[str]] = defaultdict(list)
    for path in lists:
        if "/" in path:
            by_object[path.rpartition("/")[0]].append(path)
    counted = {v.holder for v in variables if v.spec.shape == () and is_integer(v.spec)}
    roles: dict[int, ObjectRole] = {}
    for holder, paths in by_object.items():
        below = f"{holder}/"
        others = [v for v in arrays if not v.path.startswith(below)]
        named = {path: _owners(lists[path], others) for path in paths}
        for path in paths:
            owners = named[path]
            if owners is None:
                continue
            word = path.rpartition("/")[2].strip("_")
            beside = [p for p in paths if p != path and named[p] == owners]
            if holder in counted or beside or is_state_word(word):
                for variable, owner in zip(lists[path], owners, strict=True):
                    roles[variable.node] = ObjectRole("slot", word, owner, holder)
        if holder in counted and not any(named.values()) and len(paths) > 1:
            roles |= _by_shapes(holder, {path: lists[path] for path in paths}, others)
    return roles


def _owners(
    items: Sequence[ObjectVariable], others: Sequence[ObjectVariable]
) -> list[int | None] | None:
    """Return the nodes that a list's names extend, all below one scope; None where one does not.

    Of several variables of one name and shape it cannot be told which: the node is None.
    """
    nodes: dict[tuple[str, tuple[int, ...]], list[int]] = defaultdict(list)
    for variable in others:
        nodes[variable.full_name, variable.spec.shape].append(variable.node)
    first = items[0].full_name
    cuts = [at + 1 for at, letter in enumerate(first) if letter == "/"]
    for cut in cuts:  # Sonnet says `adam/m/linear/w`
        if not all(item.full_name.startswith(first[:cut]) for item in items):
            return None
        keys = [(item.full_name[cut:], item.spec.shape) for item in items]
        if all(len(nodes.get(key, ())) >= count for key, count in Counter(keys).items()):
            return [nodes[key][0] if len(nodes[key]) == 1 else None for key in keys]
    return None


def _by_shapes(
    holder: str,
    lists: Mapping[str, Sequence[ObjectVariable]],
    others: Sequence[ObjectVariable],
) -> dict[int, ObjectRole]:
    """Return lists of one sequence of shapes, all of which other variables have as often.

    One is tied to a variable only where its shape is that of no other, here and there.
    """
    sequences = {tuple(v.spec.shape for v in items) for items in lists.values()}
    if len(sequences) != 1:
        return {}
    [shapes] = sequences
    wanted, there = Counter(shapes), Counter(v.spec.shape for v in others)
    if wanted - there:
        return {}
    owner = {v.spec.shape: v.node for v in others if there[v.spec.shape] == 1}
    return {
        item.node: ObjectRole(
            "slot",
            path.rpartition("/")[2].strip("_"),
            owner.get(item.spec.shape) if wanted[item.spec.shape] == 1 else None,
            holder,
        )
        for path, items in lists.items()
        for item in items
    }
