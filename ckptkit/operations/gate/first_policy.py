"""A first policy for a model, made of what it is: the model passes it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from ckptkit.dtypes import kind
from ckptkit.operations.gate.rules import bytes_of_files
from ckptkit.operations.ls import ls
from ckptkit.operations.scan.api import scan

_ROOM = 1.1  # of a limit, above what is there


def first_policy(path: str | os.PathLike[str]) -> str:
    """Return the text of a policy that a model passes, with a remark on each rule.

    Args:
        path: of the model.

    Raises:
        PathNotFoundError: it is not there.
    """
    return "\n".join(_lines(Path(path))) + "\n"


def _lines(path: Path) -> Iterator[str]:
    listing = ls(path)
    weights = [tensor for tensor in listing.tensors if tensor.naming.role == "weight"]
    dtypes = sorted({tensor.spec.dtype for tensor in weights})
    yield "# What a model must be before it goes out: ckptkit gate MODEL --policy THIS_FILE"
    yield ""
    yield "[model]"
    yield f'formats = ["{listing.checkpoint.store.format}"]'
    yield f'max-size = {_rounded(bytes_of_files(listing))}  # bytes of all files, or "500 MB"'
    yield f"max-parameters = {_rounded(listing.totals['params'])}"
    if dtypes:
        yield f"dtypes = {json.dumps(dtypes)}"
    slots = any(tensor.naming.role == "slot" for tensor in listing.tensors)
    yield f"{'# ' if slots else ''}optimizer-state = false{'  # it has some' if slots else ''}"
    unread = [dtype for dtype in dtypes if kind(dtype) == "opaque"]
    if unread:
        yield f"# nonfinite = false  # values of {json.dumps(unread[0])} are not read"
    elif dtypes:
        yield "nonfinite = false  # reads every weight"
    yield ""
    yield "[verify]  # every checksum"
    yield ""
    yield "[scan]  # what it could do when it is loaded or run"
    codes = sorted({f.code for f in scan(path).findings if f.severity != "note"})
    if codes:
        yield f"allow = [{', '.join(f'{code!r}' for code in codes)}]".replace("'", '"')
    yield ""
    yield "# [baseline]  # with --baseline OLD"
    yield '# config = "same"'
    yield '# signature = "compatible"  # or "same"'
    yield ""
    yield "# [golden]  # what `ckptkit record` wrote; the path begins where this file lies"
    yield '# path = "golden"'
    yield '# on = ["CPU:0"]'
    yield ""
    yield "# [digest]  # those that may go out"
    yield '# part = "weights"'
    yield '# file = "digests.txt"'


def _rounded(number: int) -> int:
    """Return a number with some room above, in two digits that count."""
    room = int(number * _ROOM) + 1
    unit: int = 10 ** max(0, len(str(room)) - 2)
    return -(-room // unit) * unit
