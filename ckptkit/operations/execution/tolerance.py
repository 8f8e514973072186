"""How far apart outputs may be in one check: by tier, every bit, by a file, or as told."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ckptkit.errors import UsageError
from ckptkit.model_io.tiers import OutputTolerance, Tier, tier_of
from ckptkit.operations.tolerance_rules import ToleranceRule, read_tolerances
from ckptkit.operations.tolerance_rules import tolerance as checked
from ckptkit.wording import say

AUTO, STRICT = "auto", "strict"


class ChosenTolerance(NamedTuple):
    """The tolerance of each output, by name and dtype, the tier behind it, and whether noise
    that was recorded may widen it.
    """

    tolerance: Callable[[str, str], OutputTolerance]
    tier: str
    takes_noise: bool


@dataclass(frozen=True)
class TolerancePolicy:
    """What was asked for: "auto", "strict" or a file of rules; rtol, atol: of all the rest."""

    tolerance: str | os.PathLike[str] = AUTO
    rtol: float | None = None
    atol: float | None = None

    def __post_init__(self) -> None:
        if self.has_explicit_bounds and self.tolerance == STRICT:
            raise UsageError(say("‹tolerance› strict and ‹rtol› or ‹atol› exclude each other"))
        if self.has_explicit_bounds:
            checked(self.rtol or 0.0, self.atol or 0.0)

    @property
    def has_explicit_bounds(self) -> bool:
        return self.rtol is not None or self.atol is not None

    @cached_property
    def rules(self) -> list[ToleranceRule]:
        """The rules of the file, if one was given."""
        return [] if self.tolerance in (AUTO, STRICT) else read_tolerances(Path(self.tolerance))

    def choose(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> ChosenTolerance:
        """Return what applies between two environments."""
        if self.tolerance == STRICT:
            return ChosenTolerance(
                lambda _name, _dtype: OutputTolerance(reason="strict: every bit"), "T0", False
            )
        tier = tier_of(one, other)
        return ChosenTolerance(
            lambda name, dtype: self._of(tier, name, dtype),
            "" if self.has_explicit_bounds else tier.name,
            not self.has_explicit_bounds,
        )

    def _of(self, tier: Tier, name: str, dtype: str) -> OutputTolerance:
        found = tier.tolerance(name, dtype)
        if self.has_explicit_bounds:
            found = OutputTolerance(
                self.rtol or 0.0, self.atol or 0.0, False, say("‹rtol›, ‹atol›")
            )
        for rule in self.rules:
            if rule.fits([name]):
                found = OutputTolerance(
                    rule.tolerance.rtol, rule.tolerance.atol, False, rule.pattern
                )
        return found
