"""What a restore-coverage check finds: one row per variable, and a verdict that groups them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ckptkit.operations.findings import Finding
from ckptkit.results import Result
from ckptkit.text import count_text

# What can become of a variable, in the order of a report; "restored" is the only good end.
STATUSES = (
    "restored",
    "missing",  # the file has no tensor for it
    "not restored",  # the file has one, and the variable did not get it
    "shape",
    "dtype",
    "values",  # restored, and not with the bytes of its tensor
    "not reached",  # the restore stopped at something else
    "merged",  # a factor of LoRA, which Keras adds to its kernel when it saves
    "left out",  # Keras keeps it in no file; what loads it set it
    "unused",  # a tensor of the file that no variable takes
)
_SHOWN = 6  # layers of one group that are named in a line


class Variable(NamedTuple):
    """One variable of the model (or one tensor of the file that none takes) and what became of it.

    name: as the model calls it; `layer` and `leaf` are its two parts.  role: of `names.ROLES`.
    status: one of STATUSES.  severity: "" where all is well, else "error" or "note".
    dtype, shape: of the variable; file_*: of the tensor that belongs to it, "" and None without.
    evidence: what ties the two, as in `ckptkit.align.matching`.  message: more on a bad end.
    """

    name: str
    role: str
    status: str
    severity: str = ""
    dtype: str = ""
    shape: tuple[int, ...] | None = None
    file_name: str = ""
    file_dtype: str = ""
    file_shape: tuple[int, ...] | None = None
    evidence: str = ""
    message: str = ""

    @property
    def of_another(self) -> bool:
        """Whether a tensor that none takes is a weight of an object that the code does not make."""
        return self.status == "unused" and self.severity == "note" and self.role == "weight"

    @property
    def layer(self) -> str:
        """The scope of the variable; a slot's is that of its variable."""
        return self.name.partition("@")[0].rpartition("/")[0]

    @property
    def leaf(self) -> str:
        """The last part of the name; of a slot with the slot's name."""
        before, at, slot = self.name.partition("@")
        return before.rpartition("/")[2] + at + slot

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain values."""
        row = self._asdict()
        for key in ("shape", "file_shape"):
            row[key] = None if row[key] is None else list(row[key])
        return row


@dataclass(frozen=True)
class RestoreCoverage(Result):
    """What a restore covered.

    path: of the file.  variables: of the model first, in its order, then unused tensors.
    by: what restored ("TensorFlow", or "ckptkit" where a file gives the structure).
    error: what the restore raised, in its words.  extra: findings beside the variables'.
    compared: whether the restored bytes were compared with the file's.
    asserts: what the runtime's own assertions say: "" where one passed.
    """

    path: str
    variables: tuple[Variable, ...]
    by: str = "TensorFlow"
    error: str = ""
    extra: tuple[Finding, ...] = ()
    compared: bool = True
    asserts: Mapping[str, str] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """Number of variables per status, those that occur."""
        found = Counter(item.status for item in self.variables)
        return {status: found[status] for status in STATUSES if found[status]}

    @property
    def total(self) -> int:
        """Number of variables of the model and its optimizer."""
        return sum(item.status != "unused" for item in self.variables)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """One finding per kind of trouble, each naming what it is about by layers."""
        return (*self._grouped("error"), *self.extra, *self._grouped("note"))

    @property
    def ok(self) -> bool:
        """Whether nothing but notes was found, and anything was looked at."""
        return bool(self.total) and all(f.severity == "note" for f in self.findings)

    @property
    def unrestored(self) -> tuple[Variable, ...]:
        """Variables of the model itself that hold no value of the file."""
        without = ("missing", "not restored", "shape", "dtype", "not reached")
        return tuple(v for v in self.variables if v.status in without and v.severity == "error")

    @property
    def verdict(self) -> str:
        """One line with the counts."""
        bad = Counter(v.status for v in self.variables if v.severity == "error")
        notes = Counter(v.status for v in self.variables if v.severity == "note")
        unused, spare = bad.pop("unused", 0), notes.pop("unused", 0)
        same = " with the file's bytes" if self.compared else ""
        parts = [f"{self.counts.get('restored', 0)} of {count_text(self.total, 'variable')}{same}"]
        parts += [f"{bad[s]} {_WORDS.get(s, s)}" for s in STATUSES if bad[s]]
        merged, left_out = notes.pop("merged", 0), notes.pop("left out", 0)
        if sum(notes.values()):
            parts.append(f"{sum(notes.values())} of training left as built")
        if merged:
            parts.append(f"{count_text(merged, 'factor')} of LoRA merged into kernels")
        if left_out:
            parts.append(f"{left_out} in no file of Keras")
        if unused:
            parts.append(f"{count_text(unused, 'tensor')} of the file unused")
        others = sum(v.of_another for v in self.variables)
        if spare > others:
            parts.append(f"{count_text(spare - others, 'tensor')} of training unused")
        if others:
            parts.append(f"{count_text(others, 'tensor')} of other objects unused")
        return ", ".join(parts)

    def _grouped(self, severity: str) -> Iterator[Finding]:
        groups: dict[tuple[str, str], list[Variable]] = {}
        for item in self.variables:
            if item.severity == severity:
                groups.setdefault((item.status, item.message), []).append(item)
        for (status, message), items in sorted(groups.items(), key=_in_order):
            words = f"{count_text(len(items), _NOUNS.get(status, 'variable'))} {_SAID[status]}"
            text = f"{words}: {by_layer(items, _SHOWN if severity == 'error' else 1)}"
            code = f"restore.{status.replace(' ', '_')}"
            yield Finding(severity, code, self.path, f"{text} ({message})" if message else text)

    def to_json(self) -> dict[str, Any]:
        """Return the coverage as plain values.

        Returns:
            Plain values that JSON can hold.
        """
        return {
            "ok": self.ok,
            "verdict": self.verdict,
            "by": self.by,
            "error": self.error,
            "compared": self.compared,
            "asserts": dict(self.asserts),
            "counts": {"total": self.total, **self.counts},
            "variables": [item.to_json() for item in self.variables],
        }


_WORDS = {"shape": "of another shape", "dtype": "of another dtype", "values": "with other bytes"}
_NOUNS = {"unused": "tensor"}
_SAID = {
    "missing": "not in the file",
    "not restored": "in the file and not restored",
    "shape": "of another shape in the file",
    "dtype": "of another dtype in the file",
    "values": "with other bytes than the file's",
    "not reached": "not reached by the restore",
    "merged": "of LoRA, which Keras merged into kernels when it wrote the file and sets to 0 when "
    "it loads: the outputs are the same, and training of these would start afresh",
    "left out": "that Keras keeps in no file, and set when it loaded this one",
    "unused": "of the file that no variable takes",
    "restored": "restored",
}


def _in_order(item: tuple[tuple[str, str], list[Variable]]) -> tuple[int, str]:
    (status, message), _ = item
    return STATUSES.index(status), message


def by_layer(items: Iterable[Variable], most: int = _SHOWN) -> str:
    """Return "conv1: kernel, bias; head: kernel", with shapes and dtypes where they are at odds."""
    layers: dict[str, list[str]] = {}
    slots: Counter[str] = Counter()
    for item in items:
        leaves = layers.setdefault(item.layer, [])
        if "@" in item.leaf:
            slots[item.layer] += 1
        else:
            leaves.append(item.leaf + _odds(item))
    for layer, number in slots.items():
        layers[layer].append(count_text(number, "slot"))
    texts = [
        f"{layer}: {', '.join(leaves)}" if layer else ", ".join(leaves)
        for layer, leaves in layers.items()
    ]
    more = f"; and {count_text(len(texts) - most, 'more layer')}" if len(texts) > most else ""
    return "; ".join(texts[:most]) + more


def _odds(item: Variable) -> str:
    if item.status == "shape":
        return f" {_shape(item.shape)}, in the file {_shape(item.file_shape)}"
    if item.status == "dtype":
        return f" {item.dtype}, in the file {item.file_dtype}"
    return ""


def _shape(shape: tuple[int, ...] | None) -> str:
    return f"[{','.join(map(str, shape or ()))}]"
