"""Writing what a plan says: into a temporary sibling first, to be proven there, then into place.

The sibling is a directory called like every temporary of `ckptkit._io.atomic`, so one that a killed
process leaves is never taken for data.  What is proven is renamed to DST, the file that makes it
whole last; what is not becomes `DST.rejected`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ckptkit._io import atomic
from ckptkit._io.small_reads import SmallReadCache
from ckptkit.errors import OutputError
from ckptkit.operations.convert.destination import Target
from ckptkit.operations.convert.plan import Plan
from ckptkit.operations.convert.value_stores import small_values
from ckptkit.stores.assets import check_copied
from ckptkit.stores.saved_model import replaceable
from ckptkit.stores.saved_model.reader import MODEL_FILE, VARIABLES
from ckptkit.stores.writing import Blocks, TensorToWrite

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

REJECTED = ".rejected"


class StagingArea(NamedTuple):
    """Where the output lies until it is proven: `path`, called as DST, in `directory`."""

    directory: Path
    path: Path


@contextmanager
def staging(target: Target) -> Iterator[StagingArea]:
    """Yield a temporary directory beside DST; it is gone afterwards.  Raises OutputError."""
    path = Path(os.path.realpath(target.path))
    directory = atomic._temporary_name(path)
    try:  # around making it too: Ctrl-C in between would leave it there
        try:
            directory.mkdir()
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputError(f"cannot write: {reason}", where=str(target.path)) from error
        yield StagingArea(directory, directory / target.path.name)
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
    _WRITERS[plan.target.form](plan, path)


def _write_checkpoint(plan: Plan, path: Path) -> None:
    _write_bundle(plan, path, destined=plan.target.path)


def _write_keras(plan: Plan, path: Path) -> None:
    from ckptkit.stores.keras import writer
    from ckptkit.stores.keras.h5_store import H5Store

    assert plan.template is not None and isinstance(plan.template.store, H5Store)
    writers = {"keras": writer.write_keras, "weights.h5": writer.write_weights_h5}
    writers[plan.target.form](path, plan.template.store, _blocks(plan))


def _write_safetensors(plan: Plan, path: Path) -> None:
    from ckptkit.stores.safetensors.writer import write_safetensors

    write_safetensors(
        path,
        _outputs(plan),
        _blocks(plan),
        shard_size=plan.options.shard_size,
        destined=plan.target.path,
    )


def _write_npz(plan: Plan, path: Path) -> None:
    from ckptkit.stores.npz.writer import write_npz

    write_npz(path, _outputs(plan), _blocks(plan))


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


def _write_bundle(plan: Plan, prefix: Path, destined: Path | None = None) -> None:
    """Write the tensor bundle of a checkpoint or SavedModel; destined: its prefix in the end."""
    from ckptkit.stores.tensor_bundle.writer import write_tensor_bundle

    write_tensor_bundle(
        prefix,
        _outputs(plan),
        _blocks(plan),
        object_graph=plan.graph,
        shard_size=plan.options.shard_size,
        destined=destined,
    )


def _write_saved_model(plan: Plan, path: Path) -> None:
    """Copy the template without its variables, and write those anew; saved_model.pb comes last."""
    assert plan.template is not None
    template = plan.template.path
    check_copied(template)
    try:
        path.mkdir()
        # Everything but the variables, the graph and the fingerprint is copied as it is.
        for entry in sorted(template.iterdir()):
            if entry.name in (VARIABLES.parts[0], MODEL_FILE, replaceable.FINGERPRINT):
                continue
            if entry.is_dir():
                shutil.copytree(entry, path / entry.name)
            else:
                shutil.copyfile(entry, path / entry.name)
        # The fingerprint names the checkpoint, which is another one now.
        fingerprint = replaceable.renewed_fingerprint(template / replaceable.FINGERPRINT)
        if fingerprint is not None:
            (path / replaceable.FINGERPRINT).write_bytes(fingerprint)
        if plan.tensors:
            (path / VARIABLES.parts[0]).mkdir()
            _write_bundle(plan, path / VARIABLES)
        shutil.copyfile(template / MODEL_FILE, path / MODEL_FILE)
    except (OSError, shutil.Error) as error:
        raise OutputError(f"cannot write: {error}", where=str(plan.target.path)) from error


_WRITERS: Mapping[str, Callable[[Plan, Path], None]] = {
    "checkpoint": _write_checkpoint,
    "saved_model": _write_saved_model,
    "keras": _write_keras,
    "weights.h5": _write_keras,
    "safetensors": _write_safetensors,
    "npz": _write_npz,
}


# -- into place ------------------------------------------------------------------------------------


def commit(area: StagingArea, target: Target, *, overwrite: bool) -> tuple[Path, ...]:
    """Move the output to DST in one step, or in an order in which the last makes it whole.

    Args:
        area: where the proven output lies.
        target: where it goes.
        overwrite: whether what lies there is replaced.

    Returns:
        The files; of a SavedModel its directory.

    Raises:
        OutputError: it cannot be put there.
    """
    if target.form == "saved_model":
        with atomic.replacing_directory(
            target.path, overwrite=overwrite, marker=MODEL_FILE
        ) as directory:
            for entry in area.path.iterdir():
                entry.replace(directory / entry.name)
        return (target.path,)
    files = _in_order(area.directory, target)
    targets = [target.path.parent / file.name for file in files]
    old = target.existing() if overwrite else []
    with atomic.replacing_files(targets, overwrite=overwrite, obsolete=old) as temporaries:
        for file, temporary in zip(files, temporaries, strict=True):
            file.replace(temporary)
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
    gone = Target(target.form, rejected)
    for old in (rejected, *(gone.existing() if target.form == "checkpoint" else ())):
        _remove(old)
    if target.form == "saved_model":
        area.path.rename(rejected)
    elif target.form == "checkpoint":
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
