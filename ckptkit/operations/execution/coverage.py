"""Restore coverage: which variables of a model a checkpoint fills, and with which bytes.

Two files are compared: the checkpoint, and a bundle that the restored model wrote of all its
variables.  Before the restore every variable was filled with a mark, a NaN or integer that no
training makes; a variable that still holds it was not restored, whatever the restore said.  The
bytes of the others must be those of their tensor in the file, read by this package's own reader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from itertools import takewhile
from typing import TYPE_CHECKING

from ckptkit.align.matching import Alignment, Match, Rule, TensorSet, align
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.naming import Naming
from ckptkit.compare.tensors import Pair, compare_all
from ckptkit.dtypes import kind
from ckptkit.operations.execution.coverage_types import RestoreCoverage, Variable
from ckptkit.operations.findings import Finding
from ckptkit.runners.marks import MARKS
from ckptkit.stores.registry import OBJECT_GRAPH, SAVED_MODEL, format_of

if TYPE_CHECKING:
    from ckptkit.dtypes import Array
    from ckptkit.stores.base import TensorSpec


HOLDER = "weights/"  # below it the restored bundle shows every weight of the model by its path
_TRAINING = ("slot", "ema", "counter", "config", "metric")
_IN_LIST = (
    "they hang in a plain Python list or dict, where tf.train.Checkpoint does not look; hold them "
    "as attributes, or save with .keras or .weights.h5"
)

_MADE_BY_A_STEP = frozenset({"slot", "ema"})
_AFRESH = "the file holds no optimizer state: training would start afresh"
_NO_STEP = "the optimizer in the file made no step: training would start afresh"

_NO_OPTIMIZER = (
    "load_weights of Keras loads no optimizer state of such a file: training would start afresh"
)

IsMarked = Callable[["Array"], bool]
"""Whether every element of a 1-D array is the mark of its dtype."""


def coverage(
    file: Checkpoint,
    restored: Checkpoint,
    is_marked: IsMarked,
    *,
    error: str = "",
    rules: Sequence[Rule] = (),
    asserts: Mapping[str, str] | None = None,
    places: Sequence[str] = (),
    by: str = "TensorFlow",
    pairs: Mapping[str, Sequence[str]] | None = None,
    left_out: Mapping[str, str] | None = None,
) -> RestoreCoverage:
    """Return what became of every variable.

    file: what was restored.  restored: a bundle of all variables of the model and its optimizer
    after the restore, every weight below `HOLDER` too.  is_marked: tells an unrestored variable.
    error: what the restore raised.  rules: names of the file to names of the model.
    asserts: what the runtime's own assertions say: "" where one passed.
    places: children of the file's root that objects were restored into, if known ("" is the root):
    what lies below another one belongs to something that the code does not make.
    by: what restored.
    pairs: {name below `HOLDER`: (key of the file, evidence)}, as far as what restored tells it.
    left_out: {name of a weight that `restored` does not have, since Keras keeps it in no file:
    status of its row}.
    Raises what reading the two raises (ChecksumError, TruncatedError, FormatError).
    """
    cover = _CoverageBuilder(file, restored, is_marked, rules, places=places, by=by)
    cover.told, cover.left_out = dict(pairs or {}), dict(left_out or {})
    found = cover.coverage(error)
    return replace(found, asserts=dict(asserts or {}))


def structure_coverage(
    file: Checkpoint, like: Checkpoint, rules: Sequence[Rule] = (), *, weights_only: bool = True
) -> RestoreCoverage:
    """Return which tensors of LIKE's structure the file fills; no value is read.

    weights_only: whether training state of LIKE keeps its own values, and is not looked at.
    """
    cover = _CoverageBuilder(file, like, None, rules)
    cover.keep_training = weights_only
    return cover.coverage("")


@dataclass
class _CoverageBuilder:
    """One coverage in the making."""

    file: Checkpoint
    model: Checkpoint
    is_marked: IsMarked | None
    rules: Sequence[Rule]
    keep_training: bool = False
    places: Sequence[str] = ()
    by: str = "TensorFlow"
    told: Mapping[str, Sequence[str]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)  # keys of the file that content alone pairs

    @cached_property
    def sides(self) -> tuple[TensorSet, TensorSet]:
        return _side(self.file), _side(self.model)

    @cached_property
    def alignment(self) -> Alignment:
        found = align(*self.sides, self.rules, content=False)
        return self._as_told(found) if self.told else found

    def _as_told(self, found: Alignment) -> Alignment:
        """Return the alignment with the pairs that what restored has told in place of its own."""
        by_path = {
            path: key
            for key, naming in self.model.names.items()
            for path in (naming.name, *naming.aliases)
        }
        told = [
            Match(old, by_path[f"{HOLDER}{name}"], evidence)
            for name, (old, evidence) in self.told.items()
        ]
        olds, news = {match.old for match in told}, {match.new for match in told}
        rest = [pair for pair in found.pairs if pair.old not in olds and pair.new not in news]
        olds |= {pair.old for pair in rest}
        left = [key for key in self.sides[0].keys if key not in olds]
        return replace(found, pairs=(*told, *rest), only_left=tuple(left))

    @cached_property
    def partners(self) -> Mapping[str, Match]:
        """{key of the model: what pairs it with the file}."""
        return {match.new: match for match in self.alignment.pairs}

    @cached_property
    def marked(self) -> frozenset[str]:
        """Keys of the model's variables that still hold their mark."""
        if self.is_marked is None:
            return frozenset()
        store = self.model.store
        return frozenset(
            key
            for key in self.sides[1].keys
            if self.model.specs[key].size
            and all(self.is_marked(values) for _, values in store.blocks(key))
        )

    @cached_property
    def marks_known(self) -> bool:
        return self.is_marked is not None

    @cached_property
    def contents(self) -> Mapping[tuple[object, ...], list[str]]:
        """{content: names of the tensors of the file that hold it}, where a crc32c tells it."""
        found: dict[tuple[object, ...], list[str]] = {}
        for key in self.sides[0].keys:
            spec = self.file.specs[key]
            if spec.crc32c is not None and spec.size:
                name = self.file.names[key].name
                found.setdefault((spec.dtype, spec.shape, spec.crc32c), []).append(name)
        return found

    @cached_property
    def unpaired(self) -> dict[tuple[object, ...], list[str]]:
        """{content: keys of the file's tensors} of those that names pair with no variable."""
        found: dict[tuple[object, ...], list[str]] = {}
        for key in self.alignment.only_left:
            if self.file.specs[key].size and self.file.specs[key].dtype in MARKS:
                found.setdefault(_content(self.file, key), []).append(key)
        return found

    def coverage(self, error: str) -> RestoreCoverage:
        rows = dict(self._paired())
        for key in self.sides[1].keys:
            if key not in rows and not self._is_housekeeping(self.model, key):
                rows[key] = self._alone(key)
        ordered = [rows[key] for key in self.sides[1].keys if key in rows]
        if self.keep_training:
            ordered = [item for item in ordered if not self._is_training(item)]
        ordered = self._judged(ordered, bool(error))
        beside = [
            Variable(name, "weight", status, "error" if status == "missing" else "note")
            for name, status in self.left_out.items()
        ]
        found = [*ordered, *beside, *self._unused(ordered)]
        explained = any(item.status in ("shape", "dtype") for item in found)
        extra: tuple[Finding, ...] = ()
        if error and not explained:
            extra = (Finding("error", "restore.raised", str(self.file.path), error),)
        return RestoreCoverage(
            str(self.file.path),
            tuple(found),
            by=self.by if self.marks_known else "ckptkit",
            error=error,
            extra=extra,
            compared=self.marks_known,
        )

    # --- variables of the model ---------------------------------------------------------------

    def _paired(self) -> Iterator[tuple[str, Variable]]:
        """Yield the variables that the file has a tensor for, compared."""
        equal: list[Match] = []
        for match in self.alignment.pairs:
            if self._is_housekeeping(self.model, match.new):
                continue
            old, new = self.file.specs[match.old], self.model.specs[match.new]
            if old.shape != new.shape:
                yield match.new, self._row(match.new, "shape", match)
            elif old.dtype != new.dtype and not self._same_integers(match):
                yield match.new, self._row(match.new, "dtype", match)
            elif old.dtype != new.dtype:
                yield match.new, self._row(match.new, "restored", match)
            elif match.new in self.marked:
                yield match.new, self._row(match.new, "not restored", match)
            elif not self.marks_known:
                yield match.new, self._row(match.new, "restored", match)
            else:
                equal.append(match)
        pairs = [Pair(self.file.store, m.old, self.model.store, m.new, bitwise=True) for m in equal]
        for match, done in zip(equal, compare_all(pairs), strict=True):
            if done.delta.equal:
                yield match.new, self._row(match.new, "restored", match)
            else:
                message = self._whose(match, done.new_crc)
                if not message:
                    message = f"{done.delta.n_diff:,} of {done.delta.n:,} elements differ"
                yield match.new, self._row(match.new, "values", match, message)

    def _same_integers(self, match: Match) -> bool:
        """Whether two tensors hold the same integers, in dtypes of another width: see JAX."""
        dtypes = {self.file.specs[match.old].dtype, self.model.specs[match.new].dtype}
        if not self.marks_known or not {"int", "uint"} >= {*map(kind, dtypes)}:
            return False
        names = self.file.names[match.old].name, self.model.names[match.new].name
        same = (self.file[names[0]] == self.model[names[1]]).all()
        return bool(same) and match.new not in self.marked

    def _whose(self, match: Match, crc: int) -> str:
        """Return which other tensor of the file the variable's bytes are, if any."""
        spec = self.model.specs[match.new]
        names = self.contents.get((spec.dtype, spec.shape, crc), [])
        return f"it holds {names[0]} of the file" if names else ""

    def _alone(self, key: str) -> Variable:
        """Return the row of a variable that no tensor of the file is paired with."""
        spec, naming = self.model.specs[key], self.model.names[key]
        lost_its_mark = spec.dtype in MARKS and spec.size and key not in self.marked
        if self.marks_known and lost_its_mark and self.unpaired:
            keys = self.unpaired.get(_content(self.model, key))
            if keys:  # restored in a way that names do not show
                taken = keys.pop(0)
                self.taken.add(taken)
                row = Variable(self._name(key), naming.role, "restored", "", spec.dtype, spec.shape)
                return row._replace(file_name=self.file.names[taken].name, evidence="content")
        return self._row(key, "missing", None, self._why_missing(key))

    def _why_missing(self, key: str) -> str:
        """Return a reason why the file has nothing for a variable, where one shows."""
        naming = self.model.names[key]
        paths = [path for path in naming.aliases if not path.startswith(HOLDER)]
        seen = [path for path in paths if "/_trainable_variables/" not in path]
        is_shown = len(paths) < len(naming.aliases)
        return _IN_LIST if is_shown and not seen and self.marks_known else ""

    def _row(self, key: str, status: str, match: Match | None, message: str = "") -> Variable:
        spec, role = self.model.specs[key], self.model.names[key].role
        row = Variable(self._name(key), role, status, "", spec.dtype, spec.shape, message=message)
        if match is None:
            return row
        old: TensorSpec = self.file.specs[match.old]
        return row._replace(
            file_name=self.file.names[match.old].name,
            file_dtype=old.dtype,
            file_shape=old.shape,
            evidence=match.evidence,
        )

    def _name(self, key: str) -> str:
        """Return what the model calls a variable, a slot by its variable."""
        naming = self.model.names[key]
        owner = naming.slot_of
        if owner is not None and owner in self._by_name:
            _, at, slot = naming.name.rpartition("@")
            return self._path(self._by_name[owner]) + at + slot
        return self._path(key)

    @cached_property
    def _by_name(self) -> Mapping[str, str]:
        return {naming.name: key for key, naming in self.model.names.items()}

    def _path(self, key: str) -> str:
        # as `ls` shows it; the holder's path is told where no other one leads to it
        naming: Naming = self.model.names[key]
        return naming.name.removeprefix(HOLDER)

    @staticmethod
    def _is_housekeeping(side: Checkpoint, key: str) -> bool:
        naming = side.names[key]
        last = naming.name.rpartition("/")[2]
        return naming.role == "counter" and last == "save_counter"

    # --- severities ---------------------------------------------------------------------------

    def _is_training(self, item: Variable) -> bool:
        """Whether a variable is the optimizer's, not the model's."""
        return item.role in _TRAINING and not self._is_the_models(item)

    def _is_the_models(self, item: Variable) -> bool:
        return item.role in ("counter", "config") and item.name in self._names_below_holder

    @cached_property
    def _names_below_holder(self) -> frozenset[str]:
        """Names of what lies below the holder: the model's own, whatever their role."""
        return frozenset(
            self._path(key)
            for key, naming in self.model.names.items()
            if any(path.startswith(HOLDER) for path in (naming.name, *naming.aliases))
        )

    def _judged(self, rows: Sequence[Variable], stopped: bool) -> list[Variable]:
        """Return the rows with their severities; rows that a stopped restore left out are told."""
        training = [item for item in rows if self._is_training(item)]
        without = ("missing", "not restored", "dtype") if self.by == "Keras" else ("missing",)
        afresh = bool(training) and all(item.status in without for item in training)
        why = _AFRESH
        if any(item.status != "missing" for item in training):
            why = _NO_OPTIMIZER
        left = training
        if not afresh and self._stepped_never(training):
            made = [item for item in training if item.role in _MADE_BY_A_STEP]
            afresh = bool(made) and all(item.status == "missing" for item in made)
            # Keras loads nothing of an optimizer that has another number of variables in the file
            left = [item for item in training if item.status in ("missing", "not restored")]
            why = _NO_STEP
        misfits = any(item.status in ("shape", "dtype") for item in rows)
        judged = []
        for item in rows:
            if item.status == "not restored" and stopped and misfits:
                item = item._replace(status="not reached", message="it stopped at the misfit")
            severity = "" if item.status == "restored" else "error"
            if afresh and severity and item in left:
                severity = "note"
                item = item._replace(message=why)
            judged.append(item._replace(severity=severity))
        return judged

    def _stepped_never(self, training: Sequence[Variable]) -> bool:
        """Whether the optimizer in the file counts no step: it may have been saved without slots.

        Keras 3 makes them with the first step, and its counter and learning rate before.
        """
        counters = {item.name for item in training if item.role == "counter" and item.file_name}
        keys = [match.old for key, match in self.partners.items() if self._name(key) in counters]
        blocks = (values for key in keys for _, values in self.file.store.blocks(key))
        return bool(keys) and not any(values.any() for values in blocks)

    def _unused(self, rows: Sequence[Variable]) -> Iterator[Variable]:
        """Yield the tensors of the file that nothing takes."""
        whole = not any(item.severity == "error" for item in rows)
        learns = not self.keep_training and any(item.role == "slot" for item in rows)
        for key in self.alignment.only_left:
            spec, naming = self.file.specs[key], self.file.names[key]
            if key in self.taken or self._is_housekeeping(self.file, key) or self._repeats(key):
                continue
            message = ""
            severity = "error"
            elsewhere = self._elsewhere(key) if whole else ""
            if elsewhere:
                severity = "note"
                message = f"{elsewhere!r} of the file, which the code makes no object for"
            elif naming.role in ("slot", "ema", "counter", "config") and not learns:
                severity, message = "note", self._no_place()
            elif naming.role in ("metric", "counter", "config") or _is_generator_state(naming):
                severity, message = "note", "no weights"
            row = Variable(naming.name, naming.role, "unused", severity, message=message)
            yield row._replace(file_name=naming.name, file_dtype=spec.dtype, file_shape=spec.shape)

    def _repeats(self, key: str) -> bool:
        """Whether a tensor is stored a second time, and a variable took the other copy.

        What TensorFlow saves has a key per variable, and where it does repeat one, names tell it;
        two variables of equal values, as new layers or a target network have, are two.  A legacy
        `.h5` file has a shared variable in the group of each layer that holds it, and other forms
        do not tell either: there equal values do, though equal constants only where the variables
        are called alike.
        """
        naming = self.file.names[key]
        tells = format_of(self.file.store.format).structure in (OBJECT_GRAPH, SAVED_MODEL)
        content = () if tells else _content(self.file, key)
        taken = {match.old for match in self.alignment.pairs} | self.taken
        for other in self._same_shape(key) & taken:
            twin = self.file.names[other]
            if (naming.duplicate_of or naming.name) == (twin.duplicate_of or twin.name):
                return True
            if tells:
                continue
            alike = naming.name.rpartition("/")[2] == twin.name.rpartition("/")[2]
            if (alike or not _is_constant(self.file, key)) and _content(
                self.file, other
            ) == content:
                return True
        return False

    def _same_shape(self, key: str) -> set[str]:
        spec = self.file.specs[key]
        return {
            other
            for other in self.sides[0].keys
            if (self.file.specs[other].shape, self.file.specs[other].dtype)
            == (spec.shape, spec.dtype)
        }

    def _elsewhere(self, key: str) -> str:
        """Return the child of the file's root that holds a tensor, if nothing went into it."""
        if not self.places or "" in self.places:
            return ""
        paths = self.sides[0].paths.get(key, ())
        naming = self.file.names[key]
        if naming.role == "table":  # `words.table-keys`: what follows the object is no path
            paths = tuple(path.rpartition(".")[0] for path in (naming.name, *naming.aliases))
        if any(f"{path}/".startswith(f"{place}/") for path in paths for place in self.places):
            return ""
        shared = max((_shared(path, place) for path in paths for place in self.places), default=0)
        return min(("/".join(path.split("/")[: shared + 1]) for path in paths), default="")

    def _no_place(self) -> str:
        return "training state" + ("" if self.keep_training else "; the model has no optimizer")


def _is_generator_state(naming: Naming) -> bool:
    """Whether a tensor is the state of a tf.random.Generator: seed and calls so far.

    Source: tensorflow/python/ops/stateful_random_ops.py, `_state_var`.
    """
    return any(path.rpartition("/")[2] == "_state_var" for path in naming.aliases)


def _shared(path: str, place: str) -> int:
    """Return how many edges two paths have in common at their beginning."""
    pairs = zip(path.split("/"), place.split("/"), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _content(checkpoint: Checkpoint, key: str) -> tuple[object, ...]:
    """Return what a tensor holds, as a value that only equal tensors share."""
    spec, found = checkpoint.specs[key], sha256()
    for _, values in checkpoint.store.blocks(key):
        found.update(values.tobytes())
    return spec.dtype, spec.shape, found.digest()


def _is_constant(checkpoint: Checkpoint, key: str) -> bool:
    """Whether all elements of a tensor are the same."""
    firsts = [
        (values[:1], (values == values[:1]).all()) for _, values in checkpoint.store.blocks(key)
    ]
    return all(same and (first == firsts[0][0]).all() for first, same in firsts)


def _side(checkpoint: Checkpoint) -> TensorSet:
    keys = [key for key, spec in checkpoint.specs.items() if kind(spec.dtype) != "opaque"]
    return TensorSet(
        {key: checkpoint.specs[key] for key in keys},
        {key: checkpoint.names[key] for key in keys},
        structure=checkpoint.structure,
    )
