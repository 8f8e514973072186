"""Readable names and roles of tensors, from what the file itself says of them."""

from __future__ import annotations

from typing import NamedTuple

ROLES = ("weight", "slot", "ema", "counter", "metric", "table", "config", "other")


class Naming(NamedTuple):
    """What to call one tensor, and what it is for.

    name: readable and unique within the file; a slot reads `conv1/kernel@momentum`.
    role: one of ROLES.  full_name: the name a TF1 saver would use, or None.
    aliases: other object paths that lead to the same tensor.
    slot_of: name of the variable a slot (or average) belongs to; slot: "m", "momentum", ...;
    optimizer: path or name of the optimizer that owns it.
    only_through_optimizer: a weight that no path outside an optimizer reaches.
    """

    name: str
    role: str
    full_name: str | None = None
    aliases: tuple[str, ...] = ()
    slot_of: str | None = None
    slot: str | None = None
    optimizer: str | None = None
    only_through_optimizer: bool = False
