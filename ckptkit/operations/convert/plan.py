"""What a conversion will do, before anything is written: a plan that can be read, and refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from ckptkit.align.rules import Rule, exact_rule
from ckptkit.align.transforms import Transform
from ckptkit.align.types import BASES, basis
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.naming import ROLES
from ckptkit.checkpoint.selection import Tensor
from ckptkit.dtypes import itemsize
from ckptkit.errors import UsageError
from ckptkit.operations.convert.destination import Target
from ckptkit.operations.convert.problems import MismatchError, Problem
from ckptkit.operations.convert.value_stores import Cast, ValueSource
from ckptkit.results import Document
from ckptkit.stores.registry import format_of
from ckptkit.stores.writing import TensorToWrite
from ckptkit.wording import say

# Training state: what `--weights-only` leaves behind.
TRAINING_ROLES = ("slot", "ema", "counter", "metric", "config")
NOT_WEIGHTS = (*TRAINING_ROLES, "table")  # what `weights_only` leaves behind


class GraphToServe(NamedTuple):
    """A graph that gives SRC the form of a SavedModel: its file, and names of tensors."""

    path: Path
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


class ChosenGraph(NamedTuple):
    """One graph of a SavedModel that has several: its file, and the tags of the graph."""

    path: Path
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """How to convert, beside SRC, DST and LIKE; the fields are the keywords of `ckptkit.convert`.

    Raises UsageError for a role that does not exist, and for two ways to cut the output.
    """

    rules: tuple[Rule, ...] = ()
    names: tuple[str, ...] = ()
    drop_roles: frozenset[str] = frozenset()
    casts: tuple[Cast, ...] = ()
    ema: bool = False
    root: str | None = None
    shard_size: int | None = None
    shards: int | None = None
    allow_missing: tuple[str, ...] = ()
    allow_unused: tuple[str, ...] = ()
    allow_renamed: tuple[str, ...] = ()
    graph: GraphToServe | None = None
    chosen: ChosenGraph | None = None

    @property
    def is_cut(self) -> bool:
        """Whether the output is asked for in several files."""
        return self.shard_size is not None or self.shards is not None

    def __post_init__(self) -> None:
        if self.shard_size is not None and self.shards is not None:
            raise UsageError(say("‹shard_size› and ‹shards› exclude each other"))
        if self.shards is not None and self.shards < 1:
            raise UsageError(say(f"‹shards› {self.shards}: at least one file is written"))
        unknown = sorted(self.drop_roles - set(ROLES))
        if unknown:
            raise UsageError(f"no role {unknown[0]!r}", hint=f"roles are {', '.join(ROLES)}")


class SourcePart(NamedTuple):
    """One tensor of SRC that a map rule transforms.

    values: averaged, neither transformed nor cast.  source: the tensor (of the last SRC, for an
    average).  transform: what the rule does to it.
    """

    values: ValueSource
    source: Tensor
    transform: Transform


class PlannedTensor(NamedTuple):
    """One tensor of the output, and where its values come from.

    output: key, dtype, shape and names to be written.
    values: what is written, averaged, transformed and cast.
    source: the tensor of SRC (of the last one, for an average); None where LIKE or this tool gives
    the values.
    evidence: why `source` belongs here, as in `ckptkit.align.matching`; "source" in SRC's own
    structure, "duplicate" for a tensor that repeats another, "template" for a value of LIKE,
    "generated" for one made here.
    cast: as in `--cast`, or "".  uncast_values: the values before it.
    source_count: of how many sources the values are the mean.
    parts: what `values` are made of, where a map rule transforms them; `source` is the first.
    """

    output: TensorToWrite
    values: ValueSource
    source: Tensor | None
    evidence: str
    cast: str = ""
    source_count: int = 1
    uncast_values: ValueSource | None = None
    parts: tuple[SourcePart, ...] = ()

    @property
    def key(self) -> str:
        return self.output.key

    @property
    def basis(self) -> str | None:
        """What pairing it with SRC rests on, one of `align.types.BASES`.

        "source" where the output keeps the structure of SRC, so that nothing was paired; None where
        the values are not of SRC.
        """
        if self.evidence == "duplicate":
            return None
        return basis(self.evidence) if self.source is not None else None

    @property
    def name(self) -> str:
        """The readable name of the tensor in the output."""
        return self.output.name or self.output.key

    @property
    def nbytes(self) -> int:
        """Bytes of the values to be written; strings count as they are stored in SRC."""
        return self.output.size * itemsize(self.output.dtype) or self.values.spec.nbytes

    def to_json(self) -> dict[str, Any]:
        """Return the row of a plan or receipt (docs/convert.md)."""
        return {
            "key": self.key,
            "name": self.name,
            "from": self.source.naming.name if self.source else None,
            "from_key": self.values.key if self.evidence != "generated" else None,
            "evidence": self.evidence,
            "basis": self.basis,
            "pieces": [
                {
                    "from": part.source.naming.name,
                    "from_key": part.values.key,
                    "transform": str(part.transform),
                }
                for part in self.parts
            ],
            "role": self.output.role,
            "dtype": self.output.dtype,
            "shape": list(self.output.shape),
            "cast": self.cast or None,
            "average_of": self.source_count,
        }


class Leftover(NamedTuple):
    """A tensor or file of SRC that is not in the output, and why."""

    name: str
    role: str
    nbytes: int
    why: str


@dataclass(frozen=True)
class ModelBuild:
    """A model to be built: how it is named, its structure, and where scratch files may lie.

    spec: code or a `.keras` file.  structure: the checkpoint that the first build wrote.
    timeout_s: for each run of the child.  versions: of what built it.
    """

    spec: str
    structure: Checkpoint
    scratch: Path
    timeout_s: float
    versions: Mapping[str, str]

    @property
    def filled(self) -> Path:
        """Where the structure with the values of SRC is written."""
        suffixes = format_of(self.structure.store.format).suffixes
        return self.scratch / f"filled{suffixes[0]}"


@dataclass(frozen=True)
class Plan(Document):
    """Every tensor of the output, all of SRC that is left behind, and what stands in the way.

    tensors: of the output, in the order of its structure.
    notes: what a person should know, a sentence each.
    graph: object graph of a checkpoint to be written, serialised.
    template: Keras file or SavedModel whose structure is taken over whole.
    build: the model to be built where the target needs TensorFlow; `tensors` are then those of its
    structure.
    template_name: what LIKE is to the person who reads messages.
    hints: what helps against each kind of problem, for `say`.
    """

    ROWS: ClassVar[str] = "pairs"

    sources: tuple[Checkpoint, ...]
    like: Checkpoint | None
    target: Target
    options: ConvertOptions
    tensors: tuple[PlannedTensor, ...]
    leftovers: tuple[Leftover, ...] = ()
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    graph: bytes | None = None
    template: Checkpoint | None = None
    build: ModelBuild | None = None
    template_name: str = ""
    hints: Mapping[str, str] = field(default_factory=dict)

    @property
    def source(self) -> Checkpoint:
        """SRC, the last where there are several."""
        return self.sources[-1]

    @property
    def bases(self) -> Mapping[str, int]:
        """What the pairings rest on, and how many on each (see `PlannedTensor.basis`)."""
        counts = Counter(tensor.basis for tensor in self.tensors)
        return {name: counts[name] for name in (*BASES, "source") if counts[name]}

    @property
    def nbytes(self) -> int:
        """Bytes of the values to be written; strings count as they are stored in SRC."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def inverse_rules(self) -> list[str]:
        """Return the map that leads from the output back to SRC.

        Each rule undoes what was done to the values; a tensor that neither moved nor has another
        name needs none.

        Returns:
            One exact rule per new name, as `convert` takes them.

        Raises:
            UsageError: something that was done cannot be undone.
        """
        rules = []
        for tensor in self.tensors:
            for part in tensor.parts:
                inverse = part.transform.inverse(part.values.spec.shape)
                rules.append(exact_rule(tensor.name, part.source.naming.name, inverse))
            if not tensor.parts and tensor.source is not None and tensor.evidence != "duplicate":
                name = tensor.source.naming.name
                rules += [exact_rule(tensor.name, name)] if name != tensor.name else []
        return rules

    @property
    def is_invertible(self) -> bool:
        """Whether a map can lead from the output back to SRC."""
        return all(part.transform.is_invertible for tensor in self.tensors for part in tensor.parts)

    @property
    def ok(self) -> bool:
        """Whether the conversion can be carried out."""
        return not self.problems

    def check(self) -> None:
        """Refuse a plan that has problems.

        Raises:
            MismatchError: it has some; `.problems` are those of the plan.
        """
        if not self.ok:
            where = " and ".join(str(c.path) for c in (self.source, self.like) if c is not None)
            raise MismatchError(self.problems, where, self.hints)

    def to_json(self) -> dict[str, Any]:
        """Return the document of schema ckptkit.plan/1 (docs/convert.md).

        Returns:
            Plain values that JSON can hold.
        """
        return {
            "schema": "ckptkit.plan/1",
            "ok": self.ok,
            "to": self.target.format.name,
            "dst": str(self.target.path),
            "bytes": self.nbytes,
            "paired_by": dict(self.bases),
            "pairs": [tensor.to_json() for tensor in self.tensors],
            "left": [item._asdict() for item in self.leftovers],
            "problems": [problem._asdict() for problem in self.problems],
            "notes": list(self.notes),
        }
