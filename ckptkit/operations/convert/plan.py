"""What a conversion will do, before anything is written: a plan that can be read, and refused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from pathlib import Path
from typing import Any, NamedTuple

from ckptkit.align.rules import Rule, exact_rule
from ckptkit.align.transforms import Transform
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.naming import ROLES, Naming
from ckptkit.checkpoint.selection import Tensor
from ckptkit.errors import CkptkitError, UsageError
from ckptkit.operations.convert.destination import Target
from ckptkit.operations.convert.value_stores import Cast, Origin
from ckptkit.results import Result
from ckptkit.stores.writing import TensorToWrite

# Training state: what `--weights-only` leaves behind.
TRAINING_ROLES = ("slot", "ema", "counter", "metric", "config")
_SHOWN = 4  # problems of one kind that the one-line message names


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for, beside SRC, DST and LIKE; see `ckptkit.convert`."""

    rules: tuple[Rule, ...] = ()
    names: tuple[str, ...] = ()
    drop_roles: frozenset[str] = frozenset()
    casts: tuple[Cast, ...] = ()
    ema: bool = False
    root: str | None = None
    shard_size: int | None = None
    allow_missing: tuple[str, ...] = ()
    allow_unused: tuple[str, ...] = ()
    allow_renamed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = sorted(self.drop_roles - set(ROLES))
        if unknown:
            raise UsageError(f"no role {unknown[0]!r}", hint=f"roles are {', '.join(ROLES)}")


class Piece(NamedTuple):
    """One tensor of SRC on its way: its values, averaged and not yet cast, and how they move."""

    origin: Origin
    source: Tensor
    transform: Transform


class Fill(NamedTuple):
    """One tensor of the output, and where its values come from.

    source: the tensor of SRC (of the last one, for an average); None where LIKE or this tool gives
    the values.  evidence: as in `ckptkit.align.matching`; "own" in SRC's own structure, "twin" for a
    tensor that repeats another, "kept" for a value of LIKE, "made" for one made here.
    cast: as in `--cast`, or ""; uncast: the values before it.  average: of how many sources.
    pieces: what `origin` is made of, where a map rule moves values; source is the first of them.
    """

    tensor: TensorToWrite
    origin: Origin
    source: Tensor | None
    evidence: str
    cast: str = ""
    average: int = 1
    uncast: Origin | None = None
    pieces: tuple[Piece, ...] = ()

    @property
    def key(self) -> str:
        return self.tensor.key

    @property
    def name(self) -> str:
        """The readable name of the tensor in the output."""
        return self.tensor.name or self.tensor.key


class Skipped(NamedTuple):
    """A tensor or file of SRC that is not in the output, and why."""

    name: str
    role: str
    nbytes: int
    why: str


class Problem(NamedTuple):
    """A reason why the plan is not carried out.

    kind: "missing", "unused", "shape", "dtype", "ambiguous", "renamed", "asset", "stale".
    reason: what several problems share, said of tensors in the plural; "" where they share none.
    """

    kind: str
    name: str
    message: str
    reason: str = ""


_HINTS = {
    "missing": "--allow-missing GLOB keeps the values of LIKE",
    "unused": "--drop-role, --weights-only or --allow-unused GLOB leaves them behind",
    "shape": "SRC and LIKE are not of one model",
    "dtype": "--cast OLD=NEW",
    "ambiguous": "--map 'RE=>REPL' decides",
    "renamed": "--allow-renamed GLOB, if that is meant",
    "asset": "use a LIKE with the same files, or --allow-unused GLOB",
    "stale": "export the donor again",
}


class MismatchError(CkptkitError):
    """SRC and what is to be written do not fit; `problems` says why, one entry per tensor."""

    exit_code = 1

    def __init__(self, problems: Sequence[Problem], where: str) -> None:
        hint = _HINTS.get(problems[0].kind, "")
        message = "; ".join("; ".join(texts) for _, texts in _grouped(problems))
        super().__init__(message, where=where, hint=hint)
        self.problems = tuple(problems)

    def lines(self) -> list[str]:
        """Return a line per problem, many of one kind in one, and a hint per kind of problem."""
        found = [f"{kind}: {text}" for kind, texts in _grouped(self.problems) for text in texts]
        kinds = dict.fromkeys(problem.kind for problem in self.problems)
        found += [f"hint ({kind}): {_HINTS[kind]}" for kind in kinds if kind in _HINTS]
        if len(self.problems) > len(found):
            found.append("hint: --dry-run lists all of them")
        return found


def _grouped(problems: Sequence[Problem]) -> list[tuple[str, list[str]]]:
    """Return (kind, texts), each kind's problems shortened where they are many."""
    found: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        found.setdefault((problem.kind, problem.reason), []).append(problem)
    groups = []
    for (kind, reason), same in found.items():
        if len(same) <= _SHOWN:
            texts = [problem.message for problem in same]
        elif reason:
            texts = [f"{len(same)} tensors {reason}: {_some([p.name for p in same])}"]
        else:
            texts = [problem.message for problem in same[:_SHOWN]]
            texts[-1] += f" and {len(same) - _SHOWN} more"
        groups.append((kind, texts))
    return groups


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


@dataclass(frozen=True)
class Build:
    """A model to be built: how it is named, its structure, and where scratch files may lie."""

    spec: str
    structure: Checkpoint
    scratch: Path
    timeout_s: float
    versions: Mapping[str, str]

    @property
    def filled(self) -> Path:
        """Where the structure with the values of SRC is written."""
        name = "filled.weights.h5" if self.structure.store.format == "weights.h5" else "filled"
        return self.scratch / name


@dataclass(frozen=True)
class Plan(Result):
    """Every tensor of the output, all of SRC that is left behind, and what stands in the way.

    graph: object graph of a checkpoint to be written, serialised.  layout: Keras file or donor
    SavedModel whose structure is taken over.  notes: what a person should know, a sentence each.
    build: the model to be built where the target needs TensorFlow; the fills are then those of its
    structure.  structure: what gave it, in a word or two.
    """

    sources: tuple[Checkpoint, ...]
    like: Checkpoint | None
    target: Target
    request: Request
    fills: tuple[Fill, ...]
    skipped: tuple[Skipped, ...] = ()
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    graph: bytes | None = None
    layout: Checkpoint | None = None
    build: Build | None = None
    structure: str = "LIKE"

    @property
    def source(self) -> Checkpoint:
        """SRC, the last where there are several."""
        return self.sources[-1]

    @property
    def nbytes(self) -> int:
        """Bytes of the values to be written; strings count as they are stored in SRC."""
        from ckptkit.dtypes import itemsize

        return sum(
            fill.tensor.size * itemsize(fill.tensor.dtype) or fill.origin.spec.nbytes
            for fill in self.fills
        )

    def inverse_rules(self) -> list[str]:
        """Return the map that leads from the output back to SRC: one exact rule per new name.

        Each undoes what was done to the values; a tensor that neither moved nor has another name
        needs none.
        """
        rules = []
        for fill in self.fills:
            for piece in fill.pieces:
                back = piece.transform.inverse(piece.origin.spec.shape)
                rules.append(exact_rule(fill.name, piece.source.naming.name, back))
            if not fill.pieces and fill.source is not None and fill.evidence != "twin":
                name = fill.source.naming.name
                rules += [exact_rule(fill.name, name)] if name != fill.name else []
        return rules

    @property
    def ok(self) -> bool:
        """Whether the conversion can be carried out."""
        return not self.problems

    def check(self) -> None:
        """Raise MismatchError if the plan has problems."""
        if self.problems:
            where = " and ".join(str(c.path) for c in (self.source, self.like) if c is not None)
            raise MismatchError(self.problems, where)

    def to_json(self) -> dict[str, Any]:
        """Return the document of schema ckptkit.plan/1 (docs/convert.md)."""
        return {
            "schema": "ckptkit.plan/1",
            "ok": self.ok,
            "to": self.target.form,
            "dst": str(self.target.path),
            "bytes": self.nbytes,
            "pairs": [fill_json(fill) for fill in self.fills],
            "left": [item._asdict() for item in self.skipped],
            "problems": [problem._asdict() for problem in self.problems],
            "notes": list(self.notes),
        }


def fill_json(fill: Fill) -> dict[str, Any]:
    """Return one row of a plan or receipt."""
    return {
        "key": fill.key,
        "name": fill.name,
        "from": fill.source.naming.name if fill.source else None,
        "from_key": fill.origin.key if fill.evidence != "made" else None,
        "evidence": fill.evidence,
        "pieces": [
            {"from": p.source.naming.name, "from_key": p.origin.key, "transform": str(p.transform)}
            for p in fill.pieces
        ],
        "role": fill.tensor.role,
        "dtype": fill.tensor.dtype,
        "shape": list(fill.tensor.shape),
        "cast": fill.cast or None,
        "average_of": fill.average,
    }


@dataclass
class Allowance:
    """Globs that relax one rule; the ones that never applied are an error."""

    option: str
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
                    f"{self.option} {glob!r} allowed nothing: it is not needed, or misspelt",
                    hint="leave it out; --dry-run shows what is left over",
                )


def describe(naming: Mapping[str, Naming], keys: Iterable[str]) -> str:
    """Return a few names for a message."""
    names = [naming[key].name for key in keys]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
