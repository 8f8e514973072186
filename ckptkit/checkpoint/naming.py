"""What to call a tensor, and what it is for: the value that all rules of naming make."""

from __future__ import annotations

from typing import NamedTuple

from ckptkit.stores.base import ROLES as ROLES


class Naming(NamedTuple):
    """What to call one tensor, and what it is for.

    name: readable and unique within the file; a slot reads `conv1/kernel@momentum`.
    role: one of ROLES.  full_name: the name a TF1 saver would use, or None.
    aliases: all object paths that lead to the tensor (a bounded number), best first.
    slot_of: name of the variable a slot (or average) belongs to; slot: "m", "momentum", ...;
    optimizer: path or name of the optimizer that owns it.
    only_through_optimizer: a weight that no path outside an optimizer reaches.
    duplicate_of: name of the tensor that this one repeats (a file may store a weight twice).
    role_inferred: the role rests on names and shapes alone, by the rules of `inferred_roles`.
    """

    name: str
    role: str
    full_name: str | None = None
    aliases: tuple[str, ...] = ()
    slot_of: str | None = None
    slot: str | None = None
    optimizer: str | None = None
    only_through_optimizer: bool = False
    duplicate_of: str | None = None
    role_inferred: bool = False
