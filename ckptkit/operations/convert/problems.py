"""Why a conversion is refused before anything is written, and what the user allows all the same."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from typing import NamedTuple

from ckptkit.checkpoint.naming import Naming
from ckptkit.errors import CkptkitError, UsageError
from ckptkit.text import list_text
from ckptkit.wording import say, useful, with_operands

_SHOWN = 4  # problems of one kind that the one-line message names


class Problem(NamedTuple):
    """A reason why the plan is not carried out.

    kind: "missing", "unused", "shape", "dtype", "ambiguous", "renamed", "asset", "stale",
    "layout".
    reason: what several problems share, said of tensors in the plural; "" where they share none.
    """

    kind: str
    name: str
    message: str
    reason: str = ""


HINTS = {
    "missing": "‹allow_missing=GLOB› keeps the values of ‹LIKE›",
    "unused": "‹drop_roles›, ‹weights_only› or ‹allow_unused=GLOB› leaves them behind",
    "shape": "‹SRC› and ‹LIKE› are not of one model",
    "dtype": "‹casts=OLD=NEW›",
    "ambiguous": "‹rules=RE=>REPL› decides",
    "renamed": "‹allow_renamed=GLOB›, if that is meant",
    "asset": "‹like› a model with the same files, or ‹allow_unused=GLOB›",
    "stale": "export the donor again",
    "layout": "load the file into the model with the Keras 2 that has both, and save it again",
}


class MismatchError(CkptkitError):
    """SRC and what is to be written do not fit; `problems` says why, one entry per tensor.

    Args:
        problems: at least one; the hint of the message is that of the first.
        where: the files that do not fit.
        hints: by kind of problem what helps here, for `say`; else what helps in general.
    """

    exit_code = 1
    code = "mismatch"

    def __init__(
        self, problems: Sequence[Problem], where: str, hints: Mapping[str, str] | None = None
    ) -> None:
        # What operands are called is known here; `lines` is read later.
        texts_by_kind = {**HINTS, **(hints or {})}
        self.hints = {kind: with_operands(text) for kind, text in texts_by_kind.items()}
        hint = say(self.hints.get(problems[0].kind, ""))
        message = "; ".join("; ".join(texts) for _, texts in _grouped(problems))
        super().__init__(message, where=where, hint=hint)
        self.problems = tuple(problems)

    def lines(self) -> list[str]:
        """Return a line per problem, many of one kind in one, and a hint per kind of problem."""
        lines = [f"{kind}: {text}" for kind, texts in _grouped(self.problems) for text in texts]
        kinds = dict.fromkeys(problem.kind for problem in self.problems)
        advice = {kind: useful(say(self.hints.get(kind, ""))) for kind in kinds}
        lines += [f"hint ({kind}): {text}" for kind, text in advice.items() if text]
        return lines


def _grouped(problems: Sequence[Problem]) -> list[tuple[str, list[str]]]:
    """Return (kind, texts), each kind's problems shortened where they are many."""
    by_reason: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        by_reason.setdefault((problem.kind, problem.reason), []).append(problem)
    groups = []
    for (kind, reason), same in by_reason.items():
        if len(same) <= _SHOWN:
            texts = [problem.message for problem in same]
        elif reason:
            names = list_text([problem.name for problem in same], _SHOWN)
            texts = [f"{len(same)} tensors {reason}: {names}"]
        else:
            texts = [problem.message for problem in same[:_SHOWN]]
            texts[-1] += f" and {len(same) - _SHOWN} more"
        groups.append((kind, texts))
    return groups


def describe(namings: Mapping[str, Naming], keys: Iterable[str]) -> str:
    """Return the names of a few tensors for a message, and how many more there are."""
    return list_text([namings[key].name for key in keys])


@dataclass
class Allowance:
    """Globs that relax one rule; the ones that never applied are an error.

    keyword: of `convert`, that gave them.  used: those that fitted a name so far.
    """

    keyword: str
    globs: Sequence[str]
    used: set[str] = field(default_factory=set)

    def lets(self, *names: str | None) -> bool:
        """Whether a glob fits any of the names; counts it as used."""
        fitting = [g for g in self.globs for n in names if n and re.match(translate(g), n)]
        self.used.update(fitting)
        return bool(fitting)

    def lets_tensor(self, key: str, naming: Naming) -> bool:
        """Whether a glob fits the tensor's name, key or full name."""
        return self.lets(naming.name, key, naming.full_name)

    def check(self) -> None:
        """Raise UsageError for a glob that allowed nothing."""
        for glob in self.globs:
            if glob not in self.used:
                raise UsageError(
                    say(f"‹{self.keyword}={glob}› allowed nothing: it is not needed, or misspelt"),
                    hint="leave it out; the plan shows what is left over",
                )
