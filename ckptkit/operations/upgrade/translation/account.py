"""What a translation did, and what it could not do: one row each, by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Change(NamedTuple):
    """A setting or class that Keras 3 has in another form.

    where: the layer, nested ones as `outer/inner`.  what: what became of it.
    """

    where: str
    what: str


class Obstacle(NamedTuple):
    """What has no counterpart in Keras 3: the layer, and why."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


class Scaling(NamedTuple):
    """A variable of the new model whose values are multiplied on the way to it.

    variable: its path in Keras 3.  gates: for each equal block of the last axis, whether it is
    multiplied; one stands for all of it.
    """

    variable: str
    gates: tuple[bool, ...]


@dataclass
class Account:
    """Collects what is to be told of a translation.

    is_trusted: whether Python code that the file holds may be run.
    vocabularies: words of lookup layers that the file keeps beside its config, by layer path.
    hard_sigmoids: layers with that activation, whose weights are to be multiplied.
    is_keras1: whether the file says that Keras 1 wrote it.
    holds_code: whether Python code was met.
    is_random: whether a layer is called as in training, so that it may draw at random.
    """

    is_trusted: bool = False
    vocabularies: Mapping[str, list[Any]] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    obstacles: list[Obstacle] = field(default_factory=list)
    hard_sigmoids: list[str] = field(default_factory=list)
    is_keras1: bool = False
    holds_code: bool = False
    is_random: bool = False

    def changed(self, path: tuple[str, ...], what: str) -> None:
        """Note a change; the same is noted once."""
        row = Change("/".join(path), what)
        if row not in self.changes:
            self.changes.append(row)

    def refuse(self, path: tuple[str, ...], what: str) -> None:
        """Note what has no counterpart."""
        row = Obstacle("/".join(path), what)
        if row not in self.obstacles:
            self.obstacles.append(row)
