"""`diff`: what changed between two sets of weights, across formats, names and dtypes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ckptkit.align.matching import Match, Side, align, align_content
from ckptkit.align.rules import Rule, parse_rule
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.checkpoint import open as open_checkpoint
from ckptkit.checkpoint.naming import ROLES
from ckptkit.checkpoint.selection import Tensor
from ckptkit.compare.statistics import comparable
from ckptkit.compare.tensors import Comparison, Delta, Pair, compare_all
from ckptkit.errors import UsageError
from ckptkit.operations.diff import checksums as _content
from ckptkit.operations.diff import hints as _hints
from ckptkit.operations.diff import participants as _select
from ckptkit.operations.diff.result import MODES, Change, DiffResult, LeftOut
from ckptkit.operations.tolerance_rules import ToleranceRule, choose, read_tolerances, tolerance
from ckptkit.text import natural

__all__ = ["Change", "DiffResult", "LeftOut", "diff"]


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
    executor: Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DiffResult:
    """Compare two checkpoints or model files, tensor by tensor; OLD is the reference.

    mode: "values" reads and checksums every byte; "quick" compares stored checksums and opens no
    data file; "structure" compares names, dtypes and shapes.  rtol, atol: an element passes when
    `|new - old| <= atol + rtol * |old|`; integers, booleans and strings are always exact.
    tolerances: rules by name pattern, or a file of them; the last that fits wins.  bitwise: equal
    means equal bits.  cast_ok: a change of dtype that loses nothing (or stays within the tolerance)
    is no difference.  roles: which to compare; by default all but counters and configuration, and
    optimizer state, averages and metrics only where both files have some; "all" for everything.
    names: globs, "!GLOB" leaves out.  rules: `RE=>REPL`, from names of OLD to names of NEW.
    executor: where to do the work, by default here.  progress: called with (bytes of OLD compared,
    bytes in all).

    Raises UsageError when a filter leaves nothing, when rules collide, when "quick" finds no
    checksums, and when a tolerance, bitwise or cast_ok is given where no values are compared; and
    what `ckptkit.open` and the stores raise.
    """
    if mode not in MODES:
        raise UsageError(f"no mode {mode!r}", hint=f"one of {', '.join(MODES)}")
    asked = {"rtol": rtol, "atol": atol, "tolerances": tolerances, "bitwise": bitwise}
    idle = [name for name, value in {**asked, "cast_ok": cast_ok}.items() if value]
    if mode != "values" and idle:
        what = "checksums" if mode == "quick" else "names, dtypes and shapes"
        raise UsageError(
            f"mode {mode!r} compares {what}, no values: {', '.join(idle)} would do nothing",
            hint="leave one of the two out",
        )
    if not isinstance(tolerances, Sequence) or isinstance(tolerances, str):
        tolerances = read_tolerances(Path(tolerances))
    work = _Diff(
        old if isinstance(old, Checkpoint) else open_checkpoint(old),
        new if isinstance(new, Checkpoint) else open_checkpoint(new),
        mode,
        (tolerance(rtol, atol), tuple(tolerances)),
        bitwise,
        cast_ok,
        executor,
        progress,
    )
    return work.run(roles, names, [parse_rule(r) if isinstance(r, str) else r for r in rules])


@dataclass
class _Diff:
    """One run of `diff`; the steps in the order of `run`."""

    old: Checkpoint
    new: Checkpoint
    mode: str
    tolerances: tuple[Any, tuple[ToleranceRule, ...]]
    bitwise: bool
    cast_ok: bool
    executor: Executor | None
    progress: Callable[[int, int], None] | None

    def run(self, roles: Sequence[str], names: Sequence[str], rules: Sequence[Rule]) -> DiffResult:
        sides = Side(self.old.specs, self.old.names), Side(self.new.specs, self.new.names)
        alignment = align(*sides, rules, content=self.mode == "quick")
        if self.mode == "values":
            sides = _content.with_digests(alignment, sides, (self.old.store, self.new.store))
            alignment = align_content(alignment, *sides)
        changes = [
            *(self._paired(match) for match in (*alignment.pairs, *alignment.renamed)),
            *(Change("removed", self._tensor(0, key), None) for key in alignment.only_left),
            *(Change("added", None, self._tensor(1, key)) for key in alignment.only_right),
        ]
        changes, left_out = _select.select(changes, roles, names, (self.old, self.new), sides)
        warnings = _select.warnings_of(alignment, changes, sides)
        warnings += self._idle_patterns(changes)
        done = self._compare(changes)
        default, by_name = self.tolerances
        options = {
            "rtol": default.rtol,
            "atol": default.atol,
            "tolerances": [(r.pattern, r.tolerance.rtol, r.tolerance.atol) for r in by_name],
            "bitwise": self.bitwise,
            "cast_ok": self.cast_ok,
            "roles": list(roles),
            "names": list(names),
            "rules": [rule.text for rule in rules],
        }
        order = {role: at for at, role in enumerate(ROLES)}
        done.sort(key=lambda change: (order[change.role], natural(change.name)))
        return DiffResult(self.old, self.new, self.mode, options, tuple(done), left_out, warnings)

    def _idle_patterns(self, changes: Iterable[Change]) -> tuple[str, ...]:
        """Return one warning per tolerance whose pattern fits nothing that is compared."""
        rules = dict.fromkeys(self.tolerances[1])
        for change in changes:
            if not rules:
                return ()
            if _has_values(change):
                names = _names_of(change)
                rules = {rule: None for rule in rules if not rule.fits(names)}
        return tuple(f"tolerance of {rule.pattern!r} fits no tensor compared" for rule in rules)

    def _tensor(self, side: int, key: str) -> Tensor:
        checkpoint = self.new if side else self.old
        return Tensor(checkpoint.specs[key], checkpoint.names[key])

    def _paired(self, match: Match) -> Change:
        """Return a pair as far as names, dtypes and shapes tell."""
        old, new = self._tensor(0, match.old), self._tensor(1, match.new)
        status = "renamed" if match.evidence == "content" else "equal"
        change = Change(status, old, new, match.evidence, method="structure")
        return change if change.same_type else replace(change, status="changed")

    # -- values ------------------------------------------------------------------------------------

    def _compare(self, changes: list[Change]) -> list[Change]:
        """Return the changes with what the mode finds out about values."""
        if self.mode == "structure":
            return [self._with_shape_hint(change, False) for change in changes]
        if self.mode == "quick":
            return _content.by_checksum(changes, (self.old, self.new))
        todo = [change for change in changes if _has_values(change)]
        rest = [
            self._with_shape_hint(change, True) for change in changes if not _has_values(change)
        ]
        # in the order of OLD's bytes, so that a cold disk is read straight through
        todo.sort(key=lambda c: (c.some.spec.shard or 0, c.some.spec.offset or 0))
        pairs = [self._pair(change) for change in todo]
        found = list(compare_all(pairs, self.executor, progress=self._report(todo)))
        hints = _hints.swapped(
            [
                _contents(change, comparison)
                for change, comparison in zip(todo, found, strict=True)
                if comparison.delta.n_diff and change.same_type
            ]
        )
        return rest + [
            self._judged(change, comparison.delta, hints.get(change.name))
            for change, comparison in zip(todo, found, strict=True)
        ]

    def _pair(self, change: Change) -> Pair:
        assert change.old is not None and change.new is not None
        default, rules = self.tolerances
        return Pair(
            self.old.store,
            change.old.spec.key,
            self.new.store,
            change.new.spec.key,
            choose(rules, default, _names_of(change)),
            self.bitwise,
        )

    def _report(self, todo: Iterable[Change]) -> Callable[[int], None] | None:
        if self.progress is None:
            return None
        report, total = self.progress, sum(change.some.spec.nbytes for change in todo)
        done = 0

        def advance(nbytes: int) -> None:
            nonlocal done
            done += nbytes
            report(done, total)

        return advance

    def _judged(self, change: Change, delta: Delta, moved: str | None) -> Change:
        """Return a pair whose values were compared, with its verdict."""
        assert change.old is not None and change.new is not None
        status = "equal" if delta.equal else "within" if delta.passes else "changed"
        cast = None
        if not change.same_type:
            lossy = "within tolerance" if delta.passes else "lossy"
            cast = "lossless" if delta.equal else lossy
            if not self.cast_ok:
                status = "changed"
        hint = moved
        if hint is None and not delta.passes:
            stores = (self.old.store, change.old.spec.key, self.new.store, change.new.spec.key)
            hint = _hints.order_hint(*stores, delta)
        if change.status == "renamed" and status == "equal":
            status = "renamed"
        hints = (*change.hints, hint) if hint else change.hints
        return replace(change, status=status, delta=delta, method="values", cast=cast, hints=hints)

    def _with_shape_hint(self, change: Change, read_values: bool) -> Change:
        if change.old is None or change.new is None:
            return change
        one, two = change.old.spec, change.new.spec
        if one.shape == two.shape:
            return change
        hint = _hints.shape_hint(self.old.store, one.key, self.new.store, two.key, read_values)
        return replace(change, hints=(*change.hints, hint)) if hint else change


def _has_values(change: Change) -> bool:
    """Whether values of the two sides can be set against each other."""
    if change.old is None or change.new is None:
        return False
    one, two = change.old.spec, change.new.spec
    return one.shape == two.shape and comparable(one.dtype, two.dtype)


def _names_of(change: Change) -> tuple[str, ...]:
    """Return what a pattern may fit: the names and keys of both sides."""
    both = [tensor for tensor in (change.old, change.new) if tensor is not None]
    return (*(tensor.naming.name for tensor in both), *(tensor.spec.key for tensor in both))


def _contents(change: Change, comparison: Comparison) -> _hints.Content:
    spec = change.some.spec
    return _hints.Content(
        change.name, spec.dtype, spec.shape, spec.nbytes, comparison.old_crc, comparison.new_crc
    )
