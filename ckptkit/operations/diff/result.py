"""What `diff` found: the result, a change per tensor, and both as JSON of schema ckptkit.diff/1."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from ckptkit.align.types import basis
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.selection import Tensor, tensor_json
from ckptkit.compare.tensors import Delta
from ckptkit.operations.diff.beside.result import ModelDifference
from ckptkit.results import Document, Result
from ckptkit.stores.base import Store
from ckptkit.stores.packed_specs import Form
from ckptkit.text import count_text, json_number

SCHEMA = "ckptkit.diff/1"
_NUMBERS = (
    *("n", "n_diff", "n_outside", "nonfinite", "max_abs", "max_rel", "mean_abs", "rmse"),
    *("max_ulp", "rel_l2", "cosine", "needed_rtol", "rtol", "atol", "rule"),
)
MODES = ("values", "quick", "structure")
STATUSES = ("equal", "within", "changed", "added", "removed", "renamed")
DIFFERENT = frozenset({"changed", "added", "removed", "renamed"})


@dataclass(frozen=True, slots=True)
class TensorDiff(Result):
    """What became of one tensor.

    status: one of STATUSES; "within": it differs, but by no more than the tolerance.
    old, new: None where that side has no such tensor.  evidence: why the two belong together (see
    `ckptkit.align.matching`).  delta: the numbers, where values were compared.
    method: "values" (read and compared), "checksum" (stored crc32c only), "structure" (neither) or
    "" (one-sided).
    cast: where the dtype changed and values were compared: "lossless", "within tolerance" or
    "lossy".  hints: sentences for a person.
    """

    status: str
    old: Tensor | None
    new: Tensor | None
    evidence: str = ""
    delta: Delta | None = None
    method: str = ""
    cast: str | None = None
    hints: tuple[str, ...] = ()

    @property
    def some(self) -> Tensor:
        """The tensor of OLD, or of NEW where OLD has none."""
        tensor = self.old or self.new
        assert tensor is not None
        return tensor

    @property
    def name(self) -> str:
        """The readable name in OLD, or in NEW where OLD has none."""
        return self.some.naming.name

    @property
    def role(self) -> str:
        """What the tensor is for in OLD, or in NEW where OLD has none: "weight", "slot", ..."""
        return self.some.naming.role

    @property
    def ok(self) -> bool:
        """Whether it does not make the two files different."""
        return not self.is_difference

    @property
    def is_difference(self) -> bool:
        """Whether it makes the two files different."""
        return self.status in DIFFERENT

    @property
    def same_type(self) -> bool:
        """Whether dtype and shape agree."""
        if self.old is None or self.new is None:
            return False
        old, new = self.old.spec, self.new.spec
        return old.dtype == new.dtype and old.shape == new.shape


class ChangesOnDemand(Sequence[TensorDiff]):
    """Changes of very many pairs of tensors, each put together when it is asked for."""

    @property
    @abstractmethod
    def counts(self) -> Mapping[str, int]:
        """How many there are of each status."""

    @abstractmethod
    def forms(self) -> tuple[Mapping[Form, int], Mapping[Form, int]]:
        """Return how many tensors there are of each dtype, shape and so on, of OLD and of NEW."""

    @abstractmethod
    def of_weights(self) -> ChangesOnDemand:
        """Return those of weights."""

    @abstractmethod
    def of_statuses(self, statuses: Container[str]) -> ChangesOnDemand:
        """Return those that have one of some statuses."""

    @abstractmethod
    def at(self, places: Iterable[int]) -> ChangesOnDemand:
        """Return those at some places, in that order."""

    @abstractmethod
    def in_any_order(self) -> Iterator[TensorDiff]:
        """Yield all of them; nothing is sorted for it."""


def of_statuses(changes: Sequence[TensorDiff], statuses: Container[str]) -> Sequence[TensorDiff]:
    """Return the changes that have one of some statuses."""
    if isinstance(changes, ChangesOnDemand):
        return changes.of_statuses(statuses)
    return tuple(change for change in changes if change.status in statuses)


def at_places(changes: Sequence[TensorDiff], places: Iterable[int]) -> Sequence[TensorDiff]:
    """Return the changes at some places, in that order."""
    if isinstance(changes, ChangesOnDemand):
        return changes.at(places)
    return [changes[place] for place in places]


@dataclass(frozen=True, repr=False)
class DiffResult(Document):
    """The comparison of two files.

    changes: one per tensor or pair, weights first, in natural order of names.  left_out: what took
    no part.  warnings: rules that paired nothing, tensors that could pair in several ways, rules
    that would pair more.  beside: what differs beside the weights, of two models: vocabularies,
    signatures, configuration.  compared: which of these both files hold.  config: whether they were
    asked for, so that they count in `same`; else they make no difference to it.  kind: one line on
    what kind of change the weights went through, where their values prove it.  stores: what the
    values of either side were read from, in one layout and as numbers; () where none were.
    """

    ROWS: ClassVar[str] = "entries"

    old: Checkpoint
    new: Checkpoint
    mode: str
    options: Mapping[str, Any]
    changes: Sequence[TensorDiff]
    left_out: tuple[LeftOut, ...] = ()
    warnings: tuple[str, ...] = ()
    beside: tuple[ModelDifference, ...] = ()
    compared: tuple[str, ...] = ()
    config: bool = False
    kind: str | None = None
    stores: tuple[Store, ...] = ()
    ASK: ClassVar[str] = ".ok, .same or .differences"

    def __repr__(self) -> str:
        counts = [f"{n} {status}" for status, n in self.counts.items() if n]
        verdict = "same" if self.same else "different"
        return (
            f"<DiffResult {verdict}: {', '.join(counts)}; {self.old.path} against {self.new.path}>"
        )

    @property
    def ok(self) -> bool:
        """Whether the two are the same, `same` by another name."""
        return self.same

    @property
    def same(self) -> bool:
        """Whether nothing differs beyond what the options allow."""
        return self.same_weights and not (self.config and self.beside)

    @property
    def same_weights(self) -> bool:
        """Whether no tensor differs, whatever else does."""
        return not self.differences

    @cached_property
    def differences(self) -> Sequence[TensorDiff]:
        """The changes that make the two files different."""
        return of_statuses(self.changes, DIFFERENT)

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many changes there are of each status."""
        if isinstance(self.changes, ChangesOnDemand):
            return dict(self.changes.counts)
        counts = Counter(change.status for change in self.changes)
        return {status: counts[status] for status in STATUSES}

    @property
    def exit_code(self) -> int:
        """0 the same, 1 different."""
        return 0 if self.same else 1

    def to_json(self) -> dict[str, Any]:
        """Return the document of schema ckptkit.diff/1 (docs/diff.md).

        Returns:
            Plain values; numbers that JSON cannot hold are strings.
        """
        return {**heading(self), "entries": [entry(change) for change in self.changes]}

    def streamed(self) -> Mapping[str, Any]:
        """Return the document; large models have many tensors, so they come one at a time.

        Returns:
            As `to_json`, with an iterator under `entries`.
        """
        return {**heading(self), "entries": map(entry, self.changes)}


class Totals(NamedTuple):
    """How much of one file took part; nbytes as they are stored."""

    tensors: int
    elements: int
    nbytes: int


def totals_of(changes: Sequence[TensorDiff]) -> tuple[Totals, Totals]:
    """Return how much took part, of OLD and of NEW."""
    old, new = forms_of(changes)
    return _total(old), _total(new)


def forms_of(changes: Sequence[TensorDiff]) -> tuple[Mapping[Form, int], Mapping[Form, int]]:
    """Return how many tensors there are of each dtype, shape and so on, of OLD and of NEW."""
    if isinstance(changes, ChangesOnDemand):
        return changes.forms()
    found = Counter[Form](), Counter[Form]()
    for change in changes:
        for forms, tensor in zip(found, (change.old, change.new), strict=True):
            if tensor is not None:
                forms[tensor.spec[1:5]] += 1
    return found


def _total(forms: Mapping[Form, int]) -> Totals:
    tensors = elements = size = 0
    for (_dtype, shape, nbytes, _shard), count in forms.items():
        tensors += count
        elements += count * math.prod(shape)
        size += count * nbytes
    return Totals(tensors, elements, size)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Tensors that took no part: how many, of what role, and why."""

    count: int
    what: str
    why: str

    def __str__(self) -> str:
        return f"{count_text(self.count, f'{self.what} tensor')} ({self.why})"


def heading(result: DiffResult) -> dict[str, Any]:
    """Return what docs/diff.md describes but the entries."""
    return {
        "schema": SCHEMA,
        "old": _file(result.old),
        "new": _file(result.new),
        "mode": result.mode,
        "options": dict(result.options),
        "summary": {
            **result.counts,
            "verdict": "same" if result.same else "different",
            "exit": result.exit_code,
        },
        "left_out": [
            {"count": item.count, "what": item.what, "why": item.why} for item in result.left_out
        ],
        "warnings": list(result.warnings),
        "kind": result.kind,
        "compared": list(result.compared),
        "beside": [difference.to_json() for difference in result.beside],
    }


def _file(checkpoint: Checkpoint) -> dict[str, Any]:
    store = checkpoint.store
    return {
        "path": str(store.path),
        "subtree": checkpoint.subtree,
        "format": store.format,
        "style": store.style or None,
        "producer": store.producer,
        "notes": list(checkpoint.notes),
    }


def entry(change: TensorDiff) -> dict[str, Any]:
    """Return the JSON row of one change."""
    return {
        "status": change.status,
        "name": change.name,
        "role": change.role,
        "evidence": change.evidence or None,
        "basis": basis(change.evidence) or None,
        "method": change.method or None,
        "cast": change.cast,
        "hints": list(change.hints),
        "old": _tensor(change.old),
        "new": _tensor(change.new),
        "values": _values(change.delta) if change.delta is not None else None,
    }


def _tensor(tensor: Tensor | None) -> dict[str, Any] | None:
    if tensor is None:
        return None
    row = tensor_json(*tensor)
    columns = ("name", "key", "full_name", "role", "dtype", "shape", "params", "bytes", "crc32c")
    return {column: row[column] for column in columns}


def _values(delta: Delta) -> dict[str, Any]:
    row = {name: json_number(getattr(delta, name)) for name in _NUMBERS}
    row["max_rel"] = json_number(delta.defined_max_rel)
    worst = delta.worst
    row["worst"] = worst and {
        "index": list(worst.index),
        "old": _scalar(worst.old),
        "new": _scalar(worst.new),
    }
    return row


def _scalar(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, complex):
        return [json_number(value.real), json_number(value.imag)]
    return json_number(value)
