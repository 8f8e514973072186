"""Writing what a plan says: into a temporary sibling first, to be proven there, then into place.

One process at a time writes DST (`ckptkit._io.claims`).  The sibling is a directory called like
every temporary of its claim, so one that a killed process leaves is never taken for data, and the
next conversion to DST removes it.  What is proven is renamed to DST, the file that makes it whole
last, and is read there once more; what is not becomes `DST.rejected`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptkit._io.atomic import replacing_directory, replacing_files
from ckptkit._io.claims import Claim, claiming
from ckptkit._io.output_paths import refusing
from ckptkit._io.small_reads import SmallReadCache
from ckptkit.operations.convert.destination import Target
from ckptkit.operations.convert.plan import Plan
from ckptkit.operations.convert.second_look import DiskReading, compare_with_proven, files_below
from ckptkit.operations.convert.value_stores import small_values
from ckptkit.stores.registry import KERAS, OBJECT_GRAPH, SAVED_MODEL, function_of
from ckptkit.stores.saved_model.reader import MODEL_FILE
from ckptkit.stores.writing import Blocks, TensorToWrite

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

Writer = Callable[..., Any]
REJECTED = ".rejected"


class StagingArea(NamedTuple):
    """Where the output lies until it is proven: `path`, called as DST, in `directory`."""

    directory: Path
    path: Path
    claim: Claim


@contextmanager
def claimed(target: Target) -> Iterator[Claim]:
    """Hold the claim to DST; raises OutputError where another process may write it."""
    with claiming(target.commit_path) as claim:
        yield claim


@contextmanager
def staging(target: Target, claim: Claim) -> Iterator[StagingArea]:
    """Yield a temporary directory beside DST; it is gone afterwards.  Raises OutputError."""
    directory = claim.temporary(Path(os.path.realpath(target.path)))
    try:  # around making it too: Ctrl-C in between would leave it there
        with refusing(target.path):
            directory.mkdir()
        yield StagingArea(directory, directory / target.path.name, claim)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def write(plan: Plan, path: Path) -> None:
    """Write the output that a plan describes.

    Args:
        plan: one without problems.
        path: where the output lies until it is proven, under the name that it will have.

    Raises:
        OutputError: it cannot be written.
        FormatError, ChecksumError and others: as reading the sources raises them.
    """
    _WRITERS[plan.target.format.structure](plan, path, function_of(plan.target.format.writer))


def _write_names_and_values(plan: Plan, path: Path, writer: Writer) -> None:
    """Write a format of names and values alone; only one of several files takes their size."""
    options: dict[str, Any] = {}
    if plan.target.format.is_index or plan.options.shard_size is not None:
        options = {"shard_size": plan.options.shard_size, "destined": plan.target.path}
    writer(path, _outputs(plan), _blocks(plan), **options)


def _write_checkpoint(plan: Plan, path: Path, writer: Writer) -> None:
    writer(
        path,
        _outputs(plan),
        _blocks(plan),
        object_graph=plan.graph,
        shard_size=plan.options.shard_size,
        destined=plan.target.path,
    )


def _write_keras(plan: Plan, path: Path, writer: Writer) -> None:
    assert plan.template is not None
    writer(path, plan.template.store, _blocks(plan))


def _write_saved_model(plan: Plan, path: Path, writer: Writer) -> None:
    assert plan.template is not None
    writer(
        path,
        _outputs(plan),
        _blocks(plan),
        template=plan.template.path,
        object_graph=plan.graph,
        shard_size=plan.options.shard_size,
    )


def _outputs(plan: Plan) -> list[TensorToWrite]:
    return [tensor.output for tensor in plan.tensors]


def _blocks(plan: Plan) -> Blocks:
    """Return where a writer gets the values of a key: small ones out of blocks of their file."""
    sources = {tensor.key: tensor.values for tensor in plan.tensors}
    small_reads = SmallReadCache()

    def blocks(key: str) -> Iterator[tuple[int, Array]]:
        source = sources[key]
        values = small_values(source, small_reads)
        return source.blocks() if values is None else iter(((0, values),))

    return blocks


# By what a format's files hold beside names and values.
_WRITERS: Mapping[str, Callable[[Plan, Path, Writer], None]] = {
    "": _write_names_and_values,
    OBJECT_GRAPH: _write_checkpoint,
    SAVED_MODEL: _write_saved_model,
    KERAS: _write_keras,
}


# -- into place ------------------------------------------------------------------------------------


def files_of(area: StagingArea, target: Target) -> dict[str, Path]:
    """Return the files of the output that lies in an area, by their names at DST."""
    return files_below(area.path if target.format.is_directory else area.directory)


def commit(
    area: StagingArea,
    target: Target,
    *,
    overwrite: bool,
    disk: DiskReading | None,
    executor: Executor | None = None,
) -> tuple[Path, ...]:
    """Move the output to DST in one step, or in an order in which the last makes it whole.

    Args:
        area: where the proven output lies.
        target: where it goes.
        overwrite: whether what lies there is replaced.
        disk: what reads the output from the disk; DST is read again afterwards, and set against
            that.  None where nothing was proven.
        executor: where that is done; None does it here.

    Returns:
        The files; of a SavedModel its directory.

    Raises:
        OutputError: it cannot be put there, or what lies there then is not what was proven.
    """
    proven = disk.checksums() if disk is not None else None
    if target.format.is_directory:
        with replacing_directory(
            target.path, overwrite=overwrite, marker=MODEL_FILE, claim=area.claim
        ) as directory:
            for entry in area.path.iterdir():
                entry.replace(directory / entry.name)
        if proven is not None:
            compare_with_proven(proven, target.path, files_below(target.path), executor)
        return (target.path,)
    files = _in_order(area.directory, target)
    targets = [target.path.parent / file.name for file in files]
    old = target.existing() if overwrite else []
    with replacing_files(
        targets, overwrite=overwrite, obsolete=old, claim=area.claim
    ) as temporaries:
        for file, temporary in zip(files, temporaries, strict=True):
            file.replace(temporary)
    if proven is not None:
        compare_with_proven(proven, target.path, {path.name: path for path in targets}, executor)
    return tuple(targets)


def _in_order(directory: Path, target: Target) -> list[Path]:
    """Return the files of the output, the index last."""
    last = (target.index_file.name, target.path.name)
    return sorted(directory.iterdir(), key=lambda file: (file.name in last, file.name))


def reject(area: StagingArea, target: Target) -> Path:
    """Put what failed its proof at DST.rejected, in place of an older one; return that path.

    A SavedModel and several safetensors files become a directory of that name.
    """
    rejected = target.path.with_name(target.path.name + REJECTED)
    gone = Target(target.format, rejected)
    for old in (rejected, *(gone.existing() if target.is_bundle else ())):
        _remove(old)
    if target.format.is_directory:
        area.path.rename(rejected)
    elif target.is_bundle:
        for file in _in_order(area.directory, target):
            suffix = file.name.removeprefix(target.path.name)
            file.rename(rejected.with_name(rejected.name + suffix))
    elif len(files := _in_order(area.directory, target)) > 1:
        rejected.mkdir()
        for file in files:
            file.rename(rejected / file.name)
    else:
        files[0].rename(rejected)
    return rejected


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
