"""What is said of a model before it is run: what a scan flags of it, in one line.

A model that writes files, or runs code of its own, does so with the rights of whoever runs it.  It
is run all the same: who asks for that has decided, and a pipeline has nobody to ask.  A class that
is merely not Keras's own is none of it: whoever runs the model has imported that.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from ckptkit.errors import CkptkitError
from ckptkit.operations.findings import Finding
from ckptkit.text import count_text, shortened
from ckptkit.wording import say

_SHOWN = 2  # kinds of findings that are told
_MOST = 160  # characters of each


class FlaggedModelWarning(UserWarning):
    """A model is about to run that does more than compute, as far as a scan can tell."""


def warn_of_model(path: Path) -> None:
    """Warn of a model that is about to run, where a scan flags something."""
    text = flagged(path)
    if text:
        warnings.warn(text, FlaggedModelWarning, stacklevel=2)


def flagged(path: Path) -> str:
    """Return the errors that a scan finds in a model, as one line.

    Args:
        path: of a model that is about to run.

    Returns:
        The line; "" where nothing is flagged, and for what cannot be scanned: loading it says why.
    """
    from ckptkit.operations.scan.api import scan  # here, since it knows every format

    try:
        found = scan(path)
    except CkptkitError:
        return ""
    findings = [
        finding
        for unit in found.units
        for check in unit.checks
        for finding in check.findings
        if finding.severity == "error"
    ]
    if not findings:
        return ""
    by_code = {finding.code: finding for finding in reversed(findings)}
    first = [finding for finding in findings if by_code[finding.code] is finding]
    told = [shortened(_told(finding), _MOST) for finding in first[:_SHOWN]]
    more = len(findings) - len(told)
    told += [f"{count_text(more, 'finding')} more"] if more else []
    hint = say("`ckptkit scan` tells all; ‹trust› leaves this out")
    return f"{path}: about to be run, and flagged: {'; '.join(told)} ({hint})"


def _told(finding: Finding) -> str:
    """Return what a finding says, of the op or the part of a configuration that it is about."""
    return f"{finding.where.rpartition(': ')[2]} {finding.message}"
