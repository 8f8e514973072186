"""Tolerances per tensor: a default, and patterns of which the last that fits wins."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from fnmatch import translate
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ckptkit._io.side_files import rule_lines
from ckptkit.compare.statistics import ElementTolerance
from ckptkit.errors import UsageError


class ToleranceRule(NamedTuple):
    """A glob over readable names and keys, and the tolerance of what it fits."""

    pattern: str
    tolerance: ElementTolerance

    def fits(self, names: Iterable[str]) -> bool:
        """Whether any of `names` fits the pattern."""
        return any(map(_matcher(self.pattern), names))


@lru_cache
def _matcher(pattern: str) -> Callable[[str], object]:
    return re.compile(translate(pattern)).match


def tolerance(rtol: float, atol: float, rule: str = "default") -> ElementTolerance:
    """Return a Tolerance; raises UsageError for a negative one or NaN."""
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not value >= 0 or math.isinf(value):
            raise UsageError(f"{name} is {value}", hint="a tolerance is a number from 0 up")
    return ElementTolerance(rtol, atol, rule)


def read_tolerances(path: Path) -> list[ToleranceRule]:
    """Return the rules of a file: one a line, `GLOB rtol=R atol=A`; `#` starts a comment line.

    Either may be left out, and is 0 then.  Raises UsageError, naming the line; PathNotFoundError.
    """
    return [_rule(line.split(), where) for line, where in rule_lines(path)]


def _rule(words: list[str], where: str) -> ToleranceRule:
    values = {"rtol": 0.0, "atol": 0.0}
    for word in words[1:]:
        name, equals, number = word.partition("=")
        try:
            if not equals or name not in values:
                raise ValueError
            values[name] = float(number)
        except ValueError:
            raise UsageError(
                f"cannot read {word!r}", where=where, hint="write 'GLOB rtol=1e-3 atol=1e-6'"
            ) from None
    if len(words) == 1:
        raise UsageError("no tolerance after the pattern", where=where, hint="add rtol= or atol=")
    try:
        return ToleranceRule(words[0], tolerance(**values, rule=words[0]))
    except UsageError as error:
        raise UsageError(error.message, where=where, hint=error.hint) from error


def choose(
    rules: Iterable[ToleranceRule], default: ElementTolerance, names: Iterable[str]
) -> ElementTolerance:
    """Return the tolerance of the last rule that fits, else the default."""
    names = tuple(names)
    chosen = default
    for rule in rules:
        if rule.fits(names):
            chosen = rule.tolerance
    return chosen


def idle(rules: Iterable[ToleranceRule], names: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Return one warning per rule that fits nothing.  names: of each tensor that is compared."""
    left = dict.fromkeys(rules)
    for its_names in names if left else ():
        left = {rule: None for rule in left if not rule.fits(its_names)}
        if not left:
            break
    return tuple(f"tolerance of {rule.pattern!r} fits no tensor compared" for rule in left)
