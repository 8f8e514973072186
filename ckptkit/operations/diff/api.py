"""`diff`: what changed between two sets of weights, across formats, names and dtypes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptkit._io.files import taking_paths
from ckptkit._io.progress import Progress, ProgressMeter
from ckptkit.align.matching import Match, TensorSet, align, align_content
from ckptkit.align.rules import Rule, parse_rule
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.checkpoint import open as open_checkpoint
from ckptkit.checkpoint.naming import ROLES, Naming
from ckptkit.checkpoint.selection import Tensor
from ckptkit.compare.statistics import ElementTolerance, comparable
from ckptkit.compare.tensors import Delta, Pair, TensorComparison, compare_all
from ckptkit.errors import UsageError
from ckptkit.operations.diff import checksums, hints, participants
from ckptkit.operations.diff.beside.result import Beside, holds_tensors_alone
from ckptkit.operations.diff.compared_sides import NumbersOfSides
from ckptkit.operations.diff.kinds import kind_of_change
from ckptkit.operations.diff.layouts import in_one_layout
from ckptkit.operations.diff.pair_values import ByValue
from ckptkit.operations.diff.result import MODES, DiffResult, LeftOut, TensorDiff
from ckptkit.operations.diff.twins import are_packed, compare_twins
from ckptkit.operations.input_files import operand_text
from ckptkit.operations.tolerance_rules import (
    ToleranceRule,
    choose,
    idle,
    read_tolerances,
    tolerance,
)
from ckptkit.stores.base import Store, TensorSpec
from ckptkit.stores.constants import StoreOfConstants
from ckptkit.stores.following import following_latest
from ckptkit.text import natural
from ckptkit.wording import operands_called

if TYPE_CHECKING:
    from concurrent.futures import Executor

__all__ = ["DiffResult", "LeftOut", "TensorDiff", "diff"]


@taking_paths
@following_latest
def diff(
    old: str | os.PathLike[str] | Checkpoint,
    new: str | os.PathLike[str] | Checkpoint,
    *,
    mode: str = "values",
    rtol: float = 0.0,
    atol: float = 0.0,
    tolerances: str | os.PathLike[str] | Sequence[ToleranceRule] = (),
    bitwise: bool = False,
    cast_ok: bool = False,
    roles: Sequence[str] = (),
    names: Sequence[str] = (),
    rules: Sequence[str | Rule] = (),
    config: bool = False,
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> DiffResult:
    """Compare two checkpoints or model files, tensor by tensor.

    Args:
        old: the reference: a path, or what `ckptkit.open` returned.
        new: what is compared with it.
        mode: "values" reads and checksums every byte; "quick" compares stored checksums and opens
            no data file; "structure" compares names, dtypes and shapes.
        rtol: an element passes when `|new - old| <= atol + rtol * |old|`; integers, booleans and
            strings are always exact.
        atol: see rtol.
        tolerances: rules by name pattern, or a file of them; the last that fits wins.
        bitwise: equal means equal bits.
        cast_ok: a change of dtype that loses nothing (or stays within the tolerance) is no
            difference.
        roles: which to compare; by default all but counters and configuration, and optimizer
            state, averages and metrics only where both files have some; "all" for everything.
        names: globs of the names to compare; "!GLOB" leaves out.
        rules: `RE=>REPL`, from names of OLD to names of NEW.
        config: also compare all that the files hold beside their tensors: the whole configuration,
            signatures, vocabularies, ops of graphs; what differs there is a difference.
        executor: where to do the work; None does it here.
        progress: called with ("compared", bytes of OLD, bytes in all).

    Returns:
        A change for each tensor or pair, equal ones included; ask `same` or `differences`.  What
        differs beside the weights of two models is in `beside`, and is no difference between
        weights.

    Raises:
        UsageError: a filter leaves nothing, rules collide, "quick" finds no checksums, `config`
            finds nothing to compare, or a tolerance, bitwise or cast_ok is given where no values
            are compared.
        PathNotFoundError, UnsupportedError, FormatError, MissingDependencyError: as `ckptkit.open`.
        ChecksumError: stored bytes are not those that were written.
    """
    if mode not in MODES:
        raise UsageError(f"no mode {mode!r}", hint=f"one of {', '.join(MODES)}")
    _refuse_idle_options(
        mode,
        rtol=rtol,
        atol=atol,
        tolerances=tolerances,
        bitwise=bitwise,
        cast_ok=cast_ok,
    )
    if not isinstance(tolerances, Sequence) or isinstance(tolerances, str):
        tolerances = read_tolerances(Path(tolerances))
    comparison = _WeightsComparison(
        old if isinstance(old, Checkpoint) else open_checkpoint(old),
        new if isinstance(new, Checkpoint) else open_checkpoint(new),
        mode,
        tolerance(rtol, atol),
        tuple(tolerances),
        bitwise,
        cast_ok,
        executor,
        progress,
        config,
    )
    parsed_rules = [parse_rule(rule) if isinstance(rule, str) else rule for rule in rules]
    with operands_called({"OLD": operand_text(old), "NEW": operand_text(new)}):
        return comparison.run(roles, names, parsed_rules)


def _refuse_idle_options(mode: str, **value_options: object) -> None:
    """Raise UsageError for options about values where the mode compares none."""
    idle = [name for name, value in value_options.items() if value]
    if mode != "values" and idle:
        what = "checksums" if mode == "quick" else "names, dtypes and shapes"
        raise UsageError(
            f"mode {mode!r} compares {what}, no values: {', '.join(idle)} would do nothing",
            hint="leave one of the two out",
        )


@dataclass
class _WeightsComparison:
    """One run of `diff`; the steps in the order of `run`.

    specs, names, stores: of either side, as they are compared (see `in_one_layout`).  numbers: of
    the tensors that are quantised, and compared by what their integers stand for.
    """

    old: Checkpoint
    new: Checkpoint
    mode: str
    default_tolerance: ElementTolerance
    tolerance_rules: tuple[ToleranceRule, ...]
    bitwise: bool
    cast_ok: bool
    executor: Executor | None
    progress: Progress | None
    config: bool = False
    specs: tuple[Mapping[str, TensorSpec], Mapping[str, TensorSpec]] = ({}, {})
    names: tuple[Mapping[str, Naming], Mapping[str, Naming]] = ({}, {})
    numbers: NumbersOfSides = ({}, {})

    def __post_init__(self) -> None:
        self.stores: tuple[Store, Store] = (self.old.store, self.new.store)

    def run(self, roles: Sequence[str], names: Sequence[str], rules: Sequence[Rule]) -> DiffResult:
        # Which tensor of OLD is which of NEW: by names, then, of those left over, by content.
        checkpoints = self.old, self.new
        if not rules:
            result = self._of_twins(roles, names)
            if result is not None:
                return result
        by_value = self.mode == "values"
        sides, self.stores, layout_warnings, self.numbers = in_one_layout(
            checkpoints, rules, by_value=by_value
        )
        self.specs = _of_stored_dtypes(sides[0], self.old), _of_stored_dtypes(sides[1], self.new)
        self.names = _stored_names(sides[0], self.old), _stored_names(sides[1], self.new)
        sides = checksums.without_chance(sides, self.stores if by_value else None)
        alignment = align(*sides, rules, content=self.mode == "quick")
        if by_value:
            known = checksums.with_digests_of_doubtful(alignment, sides, self.stores)
            if known[0] is not sides[0] or known[1] is not sides[1]:
                sides = known
                alignment = align(*sides, rules, content=False)
            sides = checksums.with_digests(alignment, sides, self.stores)
            alignment = align_content(alignment, *sides)
        # A change per pair and per tensor alone, as far as no values are needed.
        changes = [
            *(self._of_pair(match) for match in (*alignment.pairs, *alignment.renamed)),
            *(TensorDiff("removed", self._tensor(0, key), None) for key in alignment.only_left),
            *(TensorDiff("added", None, self._tensor(1, key)) for key in alignment.only_right),
        ]
        changes, left_out = participants.select(
            changes, roles, names, checkpoints, sides, may_be_none=self.config
        )
        warnings = participants.warnings_of(alignment, changes, sides)
        warnings += layout_warnings + self._idle_patterns(changes)
        # The values, and then the order in which people read: weights first, names by number.
        changes = self._compare(changes)
        files = self.old.store, self.new.store
        if by_value and any(isinstance(file, StoreOfConstants) for file in files):
            from ckptkit.operations.diff.folded import with_folded  # here, since few are graphs

            changes = with_folded(changes, files, self.stores, self.numbers)
        order = {role: at for at, role in enumerate(ROLES)}
        changes.sort(key=lambda change: (order[change.role], natural(change.name)))
        options = self._options_json(roles, names, rules)
        beside = self._beside(changes)
        return DiffResult(
            self.old,
            self.new,
            self.mode,
            options,
            tuple(changes),
            left_out,
            warnings + beside.unread,
            beside.differences,
            beside.compared,
            self.config,
            kind_of_change(changes, self.stores, beside.tree) if by_value else None,
            self.stores if by_value else (),
        )

    def _of_twins(self, roles: Sequence[str], names: Sequence[str]) -> DiffResult | None:
        """Return what comes of two files of very many tensors that need no alignment, if so."""
        if self.config or not are_packed(self.old, self.new):
            return None
        if not (holds_tensors_alone(self.old) and holds_tensors_alone(self.new)):
            return None
        how = ByValue(
            self.default_tolerance,
            self.tolerance_rules,
            self.bitwise,
            self.executor,
            self.progress,
        )
        found = compare_twins(self.old, self.new, self.mode, roles, names, how)
        if found is None:
            return None
        options = self._options_json(roles, names, ())
        files = self.old, self.new
        return DiffResult(
            *files,
            self.mode,
            options,
            found.changes,
            found.left_out,
            found.warnings,
            kind=found.kind,
            stores=self.stores if self.mode == "values" else (),
        )

    def _beside(self, changes: Sequence[TensorDiff]) -> Beside:
        """Return what differs beside the tensors; raises UsageError where nothing can."""
        found = Beside()
        if not (holds_tensors_alone(self.old) and holds_tensors_alone(self.new)):
            # here, since it brings the readers of all models, and most files hold none
            from ckptkit.operations.diff.beside.comparison import model_differences

            found = model_differences(
                self.old, self.new, paired_layers(changes), everything=self.config
            )
        if self.config and not found.compared:
            what = "; ".join(found.unread) or "nothing beside tensors is in both files"
            raise UsageError(
                f"no configuration to compare: {what}",
                where=f"{self.old.path}, {self.new.path}",
                hint="a .keras, a whole .h5 and a SavedModel hold one; a checkpoint does not",
            )
        return found

    def _options_json(
        self, roles: Sequence[str], names: Sequence[str], rules: Sequence[Rule]
    ) -> dict[str, Any]:
        """Return the options as the result and its JSON name them."""
        return {
            "rtol": self.default_tolerance.rtol,
            "atol": self.default_tolerance.atol,
            "tolerances": [
                (rule.pattern, rule.tolerance.rtol, rule.tolerance.atol)
                for rule in self.tolerance_rules
            ],
            "bitwise": self.bitwise,
            "cast_ok": self.cast_ok,
            "roles": list(roles),
            "names": list(names),
            "rules": [rule.text for rule in rules],
            "config": self.config,
        }

    def _idle_patterns(self, changes: Iterable[TensorDiff]) -> tuple[str, ...]:
        """Return one warning per tolerance whose pattern fits nothing that is compared."""
        return idle(self.tolerance_rules, map(_names_of, filter(_has_values, changes)))

    def _tensor(self, side: int, key: str) -> Tensor:
        return Tensor(self.specs[side][key], self.names[side][key])

    def _of_pair(self, match: Match) -> TensorDiff:
        """Return a pair as far as names, dtypes and shapes tell."""
        old, new = self._tensor(0, match.old), self._tensor(1, match.new)
        status = "renamed" if match.evidence == "content" else "equal"
        change = TensorDiff(status, old, new, match.evidence, method="structure")
        return change if change.same_type else replace(change, status="changed")

    # -- values ------------------------------------------------------------------------------------

    def _compare(self, changes: list[TensorDiff]) -> list[TensorDiff]:
        """Return the changes with what the mode finds out about values."""
        if self.mode == "structure":
            return [self._with_shape_hint(change, False) for change in changes]
        if self.mode == "quick":
            return checksums.by_checksum(changes, (self.old, self.new))
        comparable_changes = [change for change in changes if _has_values(change)]
        others = [
            self._with_shape_hint(change, True) for change in changes if not _has_values(change)
        ]
        # In the order of OLD's bytes, so that a cold disk is read straight through.
        comparable_changes.sort(key=lambda c: (c.some.spec.shard or 0, c.some.spec.offset or 0))
        pairs = [self._pair(change) for change in comparable_changes]
        total = sum(change.some.spec.nbytes for change in comparable_changes)
        meter = ProgressMeter(self.progress, "compared", total)
        comparisons = list(compare_all(pairs, self.executor, meter=meter))
        # Tensors that hold now what another one held before.
        swaps = hints.swapped(
            [
                _contents(change, comparison)
                for change, comparison in zip(comparable_changes, comparisons, strict=True)
                if comparison.delta.n_diff and change.same_type
            ],
            *self.stores,
        )
        return others + [
            self._with_verdict(change, comparison.delta, swaps.get(change.name))
            for change, comparison in zip(comparable_changes, comparisons, strict=True)
        ]

    def _pair(self, change: TensorDiff) -> Pair:
        assert change.old is not None and change.new is not None
        return Pair(
            self.stores[0],
            change.old.spec.key,
            self.stores[1],
            change.new.spec.key,
            choose(self.tolerance_rules, self.default_tolerance, _names_of(change)),
            self.bitwise,
        )

    def _with_verdict(self, change: TensorDiff, delta: Delta, swap_hint: str | None) -> TensorDiff:
        """Return a pair whose values were compared, with its verdict and a hint."""
        assert change.old is not None and change.new is not None
        status = "equal" if delta.equal else "within" if delta.ok else "changed"
        cast = None
        if not change.same_type:
            lossy = "within tolerance" if delta.ok else "lossy"
            cast = "lossless" if delta.equal else lossy
            if not self.cast_ok:
                status = "changed"
        hint = swap_hint
        if hint is None and any(self.numbers):
            from ckptkit.operations.diff.deployed import quantisation_hint  # as above

            hint = quantisation_hint(self.stores, self.numbers, change)
        if hint is None and not delta.ok:
            stores = (self.stores[0], change.old.spec.key, self.stores[1], change.new.spec.key)
            hint = hints.order_hint(*stores, delta)
        if change.status == "renamed" and status == "equal":
            status = "renamed"
        return replace(
            change,
            status=status,
            delta=delta,
            method="values",
            cast=cast,
            hints=(*change.hints, hint) if hint else change.hints,
        )

    def _with_shape_hint(self, change: TensorDiff, read_values: bool) -> TensorDiff:
        if change.old is None or change.new is None:
            return change
        old_spec, new_spec = change.old.spec, change.new.spec
        if old_spec.shape == new_spec.shape:
            return change
        hint = hints.shape_hint(
            self.stores[0], old_spec.key, self.stores[1], new_spec.key, read_values
        )
        return replace(change, hints=(*change.hints, hint)) if hint else change


def _of_stored_dtypes(side: TensorSet, checkpoint: Checkpoint) -> Mapping[str, TensorSpec]:
    """Return specs as they are compared, and told: a graph's integers are integers."""
    if not isinstance(checkpoint.store, StoreOfConstants):
        return side.specs
    stored = checkpoint.store.specs
    return {
        key: spec._replace(dtype=stored[key].dtype) if key in stored else spec
        for key, spec in side.specs.items()
    }


def _stored_names(side: TensorSet, checkpoint: Checkpoint) -> Mapping[str, Naming]:
    """Return the names that the file has, and those of the parts of what was cut."""
    if side.specs.keys() <= checkpoint.names.keys():
        return checkpoint.names
    return {**side.names, **checkpoint.names}


def paired_layers(changes: Iterable[TensorDiff]) -> dict[str, str]:
    """Return {path of a layer in OLD: in NEW}, of layers all of whose weights agree on it."""
    found: dict[str, set[str]] = {}
    for change in changes:
        if change.old is not None and change.new is not None and change.role == "weight":
            old, new = (side.naming.name.rpartition("/")[0] for side in (change.old, change.new))
            found.setdefault(old, set()).add(new)
    pairs = {old: min(new) for old, new in found.items() if old and len(new) == 1}
    taken = Counter(pairs.values())
    return {old: new for old, new in pairs.items() if new and taken[new] == 1}


def _has_values(change: TensorDiff) -> bool:
    """Whether values of the two sides can be set against each other."""
    if change.old is None or change.new is None:
        return False
    old, new = change.old.spec, change.new.spec
    return old.shape == new.shape and comparable(old.dtype, new.dtype)


def _names_of(change: TensorDiff) -> tuple[str, ...]:
    """Return what a pattern may fit: the names and keys of both sides."""
    both = [tensor for tensor in (change.old, change.new) if tensor is not None]
    return (*(tensor.naming.name for tensor in both), *(tensor.spec.key for tensor in both))


def _contents(change: TensorDiff, comparison: TensorComparison) -> hints.ContentChange:
    assert change.old is not None and change.new is not None
    key, dtype, shape, nbytes, *_rest = change.old.spec
    keys, crcs = (key, change.new.spec.key), (comparison.old_crc, comparison.new_crc)
    return hints.ContentChange(change.name, *keys, dtype, shape, nbytes, *crcs)
