"""What `map` proposes: rules, what is left open with its candidates, and what has no partner."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptkit.align.rules import exact_rule
from ckptkit.align.transforms import Transform
from ckptkit.results import Document
from ckptkit.text import count_text

SCHEMA = "ckptkit.map/1"


@dataclass(frozen=True, slots=True)
class MapRule:
    """One tensor of SRC that becomes (a part of) one of DST.

    source, target: names.  transform: what is done to the values.  why: what it rests on.
    """

    source: str
    target: str
    transform: Transform
    why: str

    @property
    def text(self) -> str:
        """The rule as `convert` takes it."""
        return exact_rule(self.source, self.target, self.transform)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON row.

        Returns:
            Plain values that JSON can hold.
        """
        return {
            "from": self.source,
            "to": self.target,
            "transform": str(self.transform),
            "why": self.why,
            "rule": self.text,
        }


@dataclass(frozen=True, slots=True)
class OpenTensor:
    """A tensor of DST for which there is more than one candidate, and why none is taken."""

    target: str
    shape: tuple[int, ...]
    candidates: tuple[MapRule, ...]
    why: str

    def to_json(self) -> dict[str, Any]:
        """Return the JSON row.

        Returns:
            Plain values that JSON can hold.
        """
        return {
            "to": self.target,
            "shape": list(self.shape),
            "why": self.why,
            "candidates": [rule.to_json() for rule in self.candidates],
        }


@dataclass(frozen=True, slots=True, repr=False)
class ProposedMap(Document):
    """A map from the tensors of SRC to those of DST, which nothing has proven yet.

    rules: what is decided, in the order of DST.  open: what is not.  unmatched_sources: weights of
    SRC that nothing of DST fits; unmatched_targets: the other way round.  kept: weights of DST that
    have no counterpart and may stay what they are there.  notes: what a person should know.
    """

    ROWS = "rules"

    src: Path
    dst: Path
    rules: tuple[MapRule, ...]
    open: tuple[OpenTensor, ...] = ()
    unmatched_sources: tuple[str, ...] = ()
    unmatched_targets: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every weight of either file has its place."""
        return not (self.open or self.unmatched_sources or self.unmatched_targets)

    def __repr__(self) -> str:
        left = len(self.open) + len(self.unmatched_sources) + len(self.unmatched_targets)
        return (
            f"<ProposedMap from {str(self.src)!r} to {str(self.dst)!r}: "
            f"{count_text(len(self.rules), 'rule')}, {left} left open>"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the document of schema ckptkit.map/1 (docs/json.md).

        Returns:
            Plain values that JSON can hold.
        """
        return {
            "schema": SCHEMA,
            "ok": self.ok,
            "proven": False,
            "src": str(self.src),
            "dst": str(self.dst),
            "open": [item.to_json() for item in self.open],
            "unmatched_sources": list(self.unmatched_sources),
            "unmatched_targets": list(self.unmatched_targets),
            "kept": list(self.kept),
            "notes": list(self.notes),
            "rules": [rule.to_json() for rule in self.rules],
        }
