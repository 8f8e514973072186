"""For tests of your own: assert that two files hold the same weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckptkit.checkpoint import Checkpoint


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
    from ckptkit.operations.diff import diff
    from ckptkit.reports.diff_text import lines

    result = diff(old, new, rtol=rtol, atol=atol, roles=roles, names=names, rules=rules, **options)
    if not result.same:
        raise AssertionError("the weights differ\n" + "\n".join(lines(result)))
