"""What `needs` says of a model: who wrote it, what it needs, by which calls it opens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ckptkit.results import Result


class Fact(NamedTuple):
    """One thing that the file says of itself.

    name: what ("written by", "saved", "dtype policy").  source: where in the file it stands.
    """

    name: str
    value: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class Need(Result):
    """One thing that must be there for a call to open the file.

    kind: "package", "code" (classes and functions of somebody's), "op", "file", "layer" (the
    loader lacks a class, an argument or a function that the config names), "graph" (it does not
    rebuild the model's graph), "trust" (code in the file), "name", "device", "version"
    or "values" (it cannot read those in the file).
    name: of what is needed.  version: what of it, as pip writes it ("<3", ">=2.16"); "" for any.
    where: the place in the file that asks for it.  found: what is here; "" for nothing.
    met: whether it is here; None where that could not be told.  pip: what to install for it, as pip
    takes it; "" where no package helps.
    """

    kind: str
    name: str
    reason: str = ""
    version: str = ""
    where: str = ""
    found: str = ""
    met: bool | None = False
    hint: str = ""
    pip: str = ""

    @property
    def ok(self) -> bool:
        """Whether it is here."""
        return self.met is True

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of a need.

        Returns:
            Plain values that JSON can hold.
        """
        return {
            "kind": self.kind,
            "name": self.name,
            "version": self.version or None,
            "reason": self.reason,
            "where": self.where or None,
            "found": self.found or None,
            "met": self.met,
            "hint": self.hint,
            "pip": self.pip or None,
        }


@dataclass(frozen=True, slots=True)
class OpeningCall(Result):
    """One call that opens such files, and what it needs.

    call: as one writes it in Python, PATH for the file.  gives: what it returns, in a few words.
    """

    call: str
    gives: str
    needs: tuple[Need, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all that it needs is here."""
        return all(need.met is True for need in self.needs)

    @property
    def opens(self) -> bool | None:
        """Whether it opens the file here; None where that could not be told."""
        if any(need.met is False for need in self.needs):
            return False
        return True if self.ok else None

    @property
    def missing(self) -> tuple[Need, ...]:
        """What is not here."""
        return tuple(need for need in self.needs if need.met is False)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object of a call.

        Returns:
            Plain values that JSON can hold.
        """
        return {
            "call": self.call,
            "gives": self.gives,
            "opens": self.opens,
            "needs": [need.to_json() for need in self.needs],
        }


def unique(needs: Iterable[Need]) -> tuple[Need, ...]:
    """Return needs, each once: of those that differ in their places alone, the first."""
    found: dict[tuple[str, str, str, str], Need] = {}
    for need in needs:
        found.setdefault((need.kind, need.name, need.version, need.reason), need)
    return tuple(found.values())
