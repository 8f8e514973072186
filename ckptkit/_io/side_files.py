"""Files that stand beside a model and are read whole: rules, a manifest, code, text of a person."""

from __future__ import annotations

from pathlib import Path

from ckptkit._io.files import handle_of, read_of
from ckptkit.errors import FormatError, UsageError

MAX_RULES_BYTES = 64 << 20  # a rule of 200 bytes for each of 300,000 tensors


def read_whole(path: Path, max_bytes: int, what: str) -> bytes:
    """Return all bytes of a regular file that stands beside a model: rules, a manifest, code.

    Its size is compared before anything is read, so that no device, pipe or giant is.

    Args:
        path: the file; links are followed.
        max_bytes: more is refused.
        what: the noun for messages, with its article: "a manifest".

    Raises:
        PathNotFoundError: nothing lies there.
        FormatError: it is no regular file, or too large.
        TruncatedError: it shrank while it was read.
    """
    handle = handle_of(path)  # one for size and bytes, since the file may be replaced in between
    if handle.size > max_bytes:
        raise FormatError(
            str(path),
            f"too large for {what}",
            expected=f"at most {max_bytes:,} bytes",
            found=handle.size,
        )
    return read_of(path, handle, 0, handle.size)


def rule_lines(path: Path, beside: str = "") -> list[tuple[str, str]]:
    """Return (rule, "path, line N") of a text file that a person wrote: one a line.

    Empty lines, and comment lines that `#` starts, are left out, but for those that `beside`
    starts.
    Raises UsageError where it is not text, and what `read_whole` raises.
    """
    try:
        lines = read_whole(path, MAX_RULES_BYTES, "a file of rules").decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError("not a text file", where=str(path)) from error
    stripped = ((line.strip(), f"{path}, line {number}") for number, line in enumerate(lines, 1))
    return [
        (line, where)
        for line, where in stripped
        if line and (not line.startswith("#") or (beside and line.startswith(beside)))
    ]
