"""What the files of a subject and of another model say beside their weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.checkpoint import open as open_checkpoint
from ckptkit.errors import CkptkitError
from ckptkit.operations.diff.beside.comparison import model_differences
from ckptkit.operations.execution.subjects import ResolvedSubject
from ckptkit.operations.findings import Finding


def beside_weights(
    reference: ResolvedSubject, subject: ResolvedSubject, *, differs: bool
) -> Iterator[Finding]:
    """Yield a finding for each thing that two files hold otherwise: vocabularies, settings, graphs.

    Args:
        reference, subject: the models; of live code without a file nothing is known.
        differs: whether the outputs do, which this may explain; else it is worth knowing.
    """
    files = _file(reference), _file(subject)
    if files[0] is None or files[1] is None or files[0] == files[1]:
        return
    old, new = (_opened(file) for file in files if file is not None)
    if old is None or new is None:
        return
    for difference in model_differences(old, new).differences:
        yield Finding(
            "warning" if differs else "note",
            f"model.{difference.what}",
            str(subject.subject),
            f"{difference} (of {reference.subject} → here)",
        )


def _file(resolved: ResolvedSubject) -> Path | None:
    return resolved.file.path if resolved.file is not None else resolved.subject.path


def _opened(path: Path) -> Checkpoint | None:
    """Return a file's tensors and structure; None of one that holds none, or cannot be read."""
    try:
        return open_checkpoint(path)
    except (CkptkitError, OSError):  # whatever is wrong with it, running it says so
        return None
