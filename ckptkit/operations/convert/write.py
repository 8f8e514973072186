"""Writing what a plan says: into a temporary sibling first, to be proven there, then into place.

The sibling is a directory called like every temporary of `ckptkit._io.atomic`, so one that a killed
process leaves is never taken for data.  What is proven is renamed to DST, the file that makes it
whole last; what is not becomes `DST.rejected`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ckptkit._io import atomic as _atomic
from ckptkit._io.small_reads import SmallReadCache
from ckptkit.errors import OutputError
from ckptkit.operations.convert.destination import Target
from ckptkit.operations.convert.plan import Plan
from ckptkit.operations.convert.value_stores import small_values
from ckptkit.stores.assets import check_copied
from ckptkit.stores.saved_model import replaceable as _donor
from ckptkit.stores.saved_model.reader import MODEL_FILE, VARIABLES
from ckptkit.stores.writing import Blocks, TensorToWrite

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

REJECTED = ".rejected"


class Staged(NamedTuple):
    """Where the output lies until it is proven: `path`, called as DST, in `directory`."""

    directory: Path
    path: Path


@contextmanager
def staging(target: Target) -> Iterator[Staged]:
    """Yield a temporary directory beside DST; it is gone afterwards.  Raises OutputError."""
    path = Path(os.path.realpath(target.path))
    directory = _atomic._temporary_name(path)
    try:  # around making it too: Ctrl-C in between would leave it there
        try:
            directory.mkdir()
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputError(f"cannot write: {reason}", where=str(target.path)) from error
        yield Staged(directory, directory / target.path.name)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def write(plan: Plan, path: Path) -> None:
    """Write the output at `path`; raises OutputError, and what reading the sources raises."""
    blocks = _blocks(plan)
    form = plan.target.form
    tensors = [fill.tensor for fill in plan.fills]
    if form == "checkpoint":
        _write_bundle(plan, path, tensors, destined=plan.target.path)
    elif form == "saved_model":
        _write_saved_model(plan, path, tensors)
    elif form in ("keras", "weights.h5"):
        from ckptkit.stores.keras import writer as keras_h5
        from ckptkit.stores.keras.h5_store import H5Store

        assert plan.layout is not None and isinstance(plan.layout.store, H5Store)
        writer = keras_h5.write_keras if form == "keras" else keras_h5.write_weights_h5
        writer(path, plan.layout.store, blocks)
    elif form == "safetensors":
        from ckptkit.stores.safetensors.writer import write_safetensors

        size, destined = plan.request.shard_size, plan.target.path
        write_safetensors(path, tensors, blocks, shard_size=size, destined=destined)
    else:
        from ckptkit.stores.npz.writer import write_npz

        write_npz(path, tensors, blocks)


def _blocks(plan: Plan) -> Blocks:
    """Return where a writer gets the values of a key: small ones out of blocks of their file."""
    origins = {fill.key: fill.origin for fill in plan.fills}
    small_reads = SmallReadCache()

    def blocks(key: str) -> Iterator[tuple[int, Array]]:
        origin = origins[key]
        values = small_values(origin, small_reads)
        return origin.blocks() if values is None else iter(((0, values),))

    return blocks


def _write_bundle(
    plan: Plan, prefix: Path, tensors: Sequence[TensorToWrite], destined: Path | None = None
) -> None:
    from ckptkit.stores.tensor_bundle.writer import write_tensor_bundle

    write_tensor_bundle(
        prefix,
        tensors,
        _blocks(plan),
        object_graph=plan.graph,
        shard_size=plan.request.shard_size,
        destined=destined,
    )


def _write_saved_model(plan: Plan, path: Path, tensors: Sequence[TensorToWrite]) -> None:
    """Copy the donor without its variables, and write those anew; saved_model.pb comes last."""
    assert plan.layout is not None
    donor = plan.layout.path
    check_copied(donor)
    try:
        path.mkdir()
        for entry in sorted(donor.iterdir()):
            if entry.name in (VARIABLES.parts[0], MODEL_FILE, _donor.FINGERPRINT):
                continue
            if entry.is_dir():
                shutil.copytree(entry, path / entry.name)
            else:
                shutil.copyfile(entry, path / entry.name)
        fingerprint = _donor.renewed_fingerprint(donor / _donor.FINGERPRINT)
        if fingerprint is not None:
            (path / _donor.FINGERPRINT).write_bytes(fingerprint)
        if tensors:
            (path / VARIABLES.parts[0]).mkdir()
            _write_bundle(plan, path / VARIABLES, tensors)
        shutil.copyfile(donor / MODEL_FILE, path / MODEL_FILE)
    except (OSError, shutil.Error) as error:
        raise OutputError(f"cannot write: {error}", where=str(plan.target.path)) from error


# -- into place ------------------------------------------------------------------------------------


def commit(staged: Staged, target: Target, *, overwrite: bool) -> tuple[Path, ...]:
    """Move the output to DST in one step, or in an order in which the last makes it whole.

    Returns the files (of a SavedModel its directory).  Raises OutputError.
    """
    if target.form == "saved_model":
        with _atomic.replacing_directory(
            target.path, overwrite=overwrite, marker=MODEL_FILE
        ) as directory:
            for entry in staged.path.iterdir():
                entry.replace(directory / entry.name)
        return (target.path,)
    files = _in_order(staged.directory, target)
    targets = [target.path.parent / file.name for file in files]
    old = target.existing() if overwrite else []
    with _atomic.replacing_files(targets, overwrite=overwrite, obsolete=old) as temporaries:
        for file, temporary in zip(files, temporaries, strict=True):
            file.replace(temporary)
    return tuple(targets)


def _in_order(directory: Path, target: Target) -> list[Path]:
    """Return the files of the output, the index last."""
    last = (target.index_file.name, target.path.name)
    return sorted(directory.iterdir(), key=lambda file: (file.name in last, file.name))


def reject(staged: Staged, target: Target) -> Path:
    """Put what failed its proof at DST.rejected, in place of an older one; return that path.

    A SavedModel and several safetensors files become a directory of that name.
    """
    rejected = target.path.with_name(target.path.name + REJECTED)
    gone = Target(target.form, rejected)
    for old in (rejected, *(gone.existing() if target.form == "checkpoint" else ())):
        _remove(old)
    if target.form == "saved_model":
        staged.path.rename(rejected)
    elif target.form == "checkpoint":
        for file in _in_order(staged.directory, target):
            suffix = file.name.removeprefix(target.path.name)
            file.rename(rejected.with_name(rejected.name + suffix))
    elif len(files := _in_order(staged.directory, target)) > 1:
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
