"""For tests of your own: assert what files hold, what restores, and what models compute.

    assert_same_weights(old, new)                        tensors against tensors
    assert_restores("run/ckpt-3", model="app.net:build") every variable comes back, bit for bit
    assert_same_outputs("export-2", against="export-1")  outputs against outputs

Models run in processes of their own; TensorFlow is not imported here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckptkit.checkpoint.checkpoint import Checkpoint
    from ckptkit.operations.check.report import Report


def assert_same_weights(
    old: str | os.PathLike[str] | Checkpoint,
    new: str | os.PathLike[str] | Checkpoint,
    *,
    rtol: float = 0.0,
    atol: float = 0.0,
    roles: Sequence[str] = (),
    names: Sequence[str] = (),
    rules: Sequence[str] = (),
    **options: Any,
) -> None:
    """Raise AssertionError, with the table that `ckptkit diff` prints, unless the weights agree.

    OLD is the reference: an element passes when `|new - old| <= atol + rtol * |old|`.  The other
    options are those of `ckptkit.diff`.  Raises UsageError where nothing would be compared.
    """
    __tracebackhide__ = True  # pytest shows the caller's line
    from ckptkit.operations.diff.api import diff
    from ckptkit.reports.diff.text import lines

    result = diff(old, new, rtol=rtol, atol=atol, roles=roles, names=names, rules=rules, **options)
    if not result.same:
        raise AssertionError("the weights differ\n" + "\n".join(lines(result)))


def assert_restores(
    checkpoint: str | os.PathLike[str],
    *,
    model: str | None = None,
    like: str | os.PathLike[str] | None = None,
    **options: Any,
) -> None:
    """Raise AssertionError, with what `ckptkit check` prints, unless all of a model is restored.

    model: `package.module:callable` or `file.py:callable`, which returns the built model; like: a
    SavedModel or `.keras` file instead.  The other options are those of `ckptkit.check`.
    Raises UsageError where there is nothing to restore into.
    """
    __tracebackhide__ = True
    from ckptkit.errors import UsageError
    from ckptkit.operations.check.api import check

    taken = {"on", "golden", "against"} & options.keys()
    if taken:
        raise UsageError(f"{taken.pop()} is for assert_same_outputs")
    _assert_ok(check(checkpoint, model=model, like=like, **options))


def assert_same_outputs(
    subject: str | os.PathLike[str],
    *,
    against: str | os.PathLike[str] | None = None,
    golden: str | os.PathLike[str] | None = None,
    on: str | Sequence[str] = ("CPU:0",),
    **options: Any,
) -> None:
    """Raise AssertionError, with what `ckptkit check` prints, unless a model computes the same.

    against: another model; golden: what `ckptkit.record` wrote; else every runner of `on` is held
    against the first.  The other options are those of `ckptkit.check`.
    Raises UsageError where nothing would be compared, RunnerError where a device is not here.
    """
    __tracebackhide__ = True
    from ckptkit.operations.check.api import check

    runners = [on] if isinstance(on, str) else list(on)
    _assert_ok(check(subject, against=against, golden=golden, on=runners, **options))


def _assert_ok(report: Report) -> None:
    """Raise AssertionError with the report, unless it is fine; "could not tell" is not fine."""
    __tracebackhide__ = True
    if not report.ok:
        from ckptkit.reports.check.lines import lines

        *told, verdict = lines(report)
        raise AssertionError("\n".join((verdict, *told)))
