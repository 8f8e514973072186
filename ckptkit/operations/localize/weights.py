"""Which variables of a subject differ from those of the reference, by the names of its layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ckptkit.checkpoint.checkpoint import open as open_checkpoint
from ckptkit.checkpoint.naming import Naming
from ckptkit.errors import CkptkitError
from ckptkit.golden.binding import Binding, bind
from ckptkit.golden.changes import compare_bindings
from ckptkit.operations.diff.api import diff
from ckptkit.operations.diff.result import TensorDiff
from ckptkit.operations.execution.subjects import whole_file_format
from ckptkit.operations.localize.values import VariableGap
from ckptkit.runners.introspect import Point, ReadVariable
from ckptkit.stores.registry import format_of_name

_ATTRIBUTE = "/.ATTRIBUTES/"
_ROLES = ("weight", "ema", "table", "other")
_OWN_ENDINGS = ("/vars",)


@dataclass
class WeightGaps:
    """The variables of a subject's file; gaps: by readable name, for those that differ.

    known: whether values were compared at all.  layers: paths of those that own variables; the
    reference's, where the subject's file does not tell them.  digests: names of the reference's
    weights by the digest of their values, where the subject is converted.
    """

    known: bool = False
    gaps: dict[str, VariableGap] = field(default_factory=dict)
    namings: list[tuple[str, Naming, tuple[int, ...]]] = field(default_factory=list)
    layers: frozenset[str] = frozenset()
    digests: dict[str, list[str]] = field(default_factory=dict)

    def of(self, owned: Iterable[ReadVariable]) -> tuple[VariableGap, ...]:
        """Return the variables that a layer reads, by the names of the file."""
        return tuple(self._gap(item) for item in owned)

    def of_constants(self, owned: Iterable[ReadVariable]) -> tuple[VariableGap, ...]:
        """Return the constants of a converted model, by the reference's names where it has them."""
        return tuple(map(self._constant, owned))

    def lacking(self, points: Iterable[Point]) -> frozenset[str]:
        """Return the layers, and those around them, of which a weight is in no constant."""
        constants = (self._constant(item) for point in points for item in point.variables)
        there = {gap.name for gap in constants if gap.differs is False}
        names = {name for names in self.digests.values() for name in names}
        return with_outer(_owners(names - there))

    def _constant(self, item: ReadVariable) -> VariableGap:
        same = {name for digest in item.digests for name in self.digests.get(digest, ())}
        if len(same) == 1:
            return VariableGap(same.pop(), False)
        text = "not as it is in the reference: changed, or computed from several weights"
        return VariableGap(item.names[0], None, "" if same or not self.digests else text)

    def _gap(self, item: ReadVariable) -> VariableGap:
        name = self._name(item)
        if name is None:
            return VariableGap(item.names[0] if item.names else "?", None)
        gap = self.gaps.get(name)
        return gap or VariableGap(name, False if self.known else None)

    def _name(self, item: ReadVariable) -> str | None:
        """Return the readable name of the file's tensor that a live variable came from."""
        index = self._index
        for name in item.names:
            found = index.get(name, ())
            if len(found) == 1:
                return found[0]
        for name in item.names:  # a model within the model, whose name the live path lacks
            inner = [r for r, _, shape in self.namings if shape == item.shape]
            inner = [readable for readable in inner if readable.endswith(f"/{name}")]
            if len(inner) == 1:
                return inner[0]
        for name in item.names:  # the file tells the layer, and not what its variables are called
            owner, _, own = name.rpartition("/")
            shaped = [
                readable
                for readable, naming, shape in self.namings
                if shape == item.shape and owner in map(owner_of, (naming.name, *naming.aliases))
            ]
            exact = [readable for readable in shaped if readable.rpartition("/")[2] == own]
            if len(exact or shaped) == 1:
                return (exact or shaped)[0]
        return None

    def names(self) -> dict[str, str]:
        """Return {any name that means one variable: its readable name}."""
        return {alias: found[0] for alias, found in self._index.items() if len(found) == 1}

    @cached_property
    def _index(self) -> Mapping[str, list[str]]:
        found: dict[str, list[str]] = {}
        for readable, naming, _ in self.namings:
            for alias in {naming.name, naming.full_name, *naming.aliases} - {None}:
                known = found.setdefault(str(alias), [])
                if readable not in known:
                    known.append(readable)
        return found


def owner_of(name: str) -> str:
    """Return the path of the layer that owns a variable."""
    owner = name.rpartition("/")[0]
    for ending in _OWN_ENDINGS:
        owner = owner.removesuffix(ending)
    return owner


def readable_names(path: Path | None) -> dict[str, str]:
    """Return {any name that means one variable of a file: its readable name}.

    Those of a file that is a whole model are its own already: {}.
    """
    if path is None or whole_file_format(path) is not None:
        return {}
    return weights_between(None, path).names()


def weights_between(reference: Path | Binding | None, new: Path | None) -> WeightGaps:
    """Compare two files of weights, or a file with what a golden is bound to."""
    if new is None or not _holds_tensors(new):
        return _of_converted(reference)
    namings = list(_namings(new))
    found = WeightGaps(namings=namings, layers=_owners(readable for readable, _, _ in namings))
    try:
        if isinstance(reference, Binding):
            found.gaps = dict(_of_binding(reference, new))
            found.known = bool(reference.variables)
        elif reference is not None and _holds_tensors(reference):
            found.gaps = {} if reference == new else dict(_of_files(reference, new))
            if found.gaps and reference.suffix == new.suffix:  # what it looks like: zeroed, swapped
                named = dict(_of_binding(bind(reference), new))
                found.gaps |= {name: gap for name, gap in named.items() if name in found.gaps}
            found.known = True
    except CkptkitError:
        found.known = False
    return found


def _of_converted(reference: Path | Binding | None) -> WeightGaps:
    """Return what the reference tells of a subject whose own names tell little."""
    if isinstance(reference, Path):
        try:
            reference = bind(reference, full=False) if _holds_tensors(reference) else None
        except CkptkitError:
            reference = None
    if reference is None:
        return WeightGaps()
    kept = {name: s for name, s in reference.variables.items() if s.role in _ROLES}
    found = WeightGaps(layers=_owners(kept))
    for name, sketch in kept.items():
        found.digests.setdefault(sketch.sha256, []).append(name)
    return found


def with_outer(layers: Iterable[str]) -> frozenset[str]:
    """Return paths of layers with those of the layers around them."""
    parts = [layer.split("/") for layer in layers]
    return frozenset("/".join(part[:end]) for part in parts for end in range(1, len(part) + 1))


def _owners(names: Iterable[str]) -> frozenset[str]:
    return frozenset(map(owner_of, names)) - {""}


def _holds_tensors(path: Path) -> bool:
    row = format_of_name(path.name)
    return row is None or not row.is_run_as_file


def _namings(path: Path) -> Iterator[tuple[str, Naming, tuple[int, ...]]]:
    checkpoint = open_checkpoint(path)
    for key, naming in checkpoint.names.items():
        if naming.role in _ROLES:
            shape = checkpoint.store.specs[key].shape
            yield naming.duplicate_of or naming.name, naming, tuple(shape)


def _of_files(reference: Path, new: Path) -> Iterator[tuple[str, VariableGap]]:
    for change in diff(reference, new, roles=("weight", "table"), cast_ok=True).differences:
        tensor = change.new or change.old
        if tensor is None or tensor.naming.duplicate_of is not None:
            continue
        if change.status == "renamed":  # the same values under another name
            continue
        yield tensor.naming.name, VariableGap(tensor.naming.name, True, _said(change))


def _said(change: TensorDiff) -> str:
    if change.new is None or change.old is None:
        return "only in the reference" if change.new is None else "not in the reference"
    if change.hints:
        return "; ".join(change.hints)
    delta = change.delta
    if delta is None:
        return change.status
    return f"{delta.n_diff:,} of {delta.n:,} elements, by up to {delta.max_abs:.3g}"


def _of_binding(recorded: Binding, new: Path) -> Iterator[tuple[str, VariableGap]]:
    for change in compare_bindings(recorded, bind(new, full=False)):
        if change.severity == "note":
            continue
        if change.code.startswith("weight.") and change.where:
            yield change.where, VariableGap(change.where, True, change.message)
        elif change.code.startswith("layer."):
            for name in recorded.variables:
                if owner_of(name) == change.where:
                    yield name, VariableGap(name, True, change.message)
