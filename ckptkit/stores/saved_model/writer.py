"""Writing a SavedModel: another one with other variables.

The graph, the assets and all else are those of a template, byte for byte; `variables/` is a tensor
bundle that is written anew, and `fingerprint.pb` names it.  `saved_model.pb` comes last, so that a
directory without it is known to be unfinished.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from ckptkit.errors import OutputError
from ckptkit.stores.assets import check_copied
from ckptkit.stores.saved_model import replaceable
from ckptkit.stores.saved_model.files import MODEL_FILE, VARIABLES
from ckptkit.stores.tensor_bundle.writer import write_tensor_bundle
from ckptkit.stores.writing import Blocks, TensorToWrite


def write_saved_model(
    path: Path,
    tensors: Sequence[TensorToWrite],
    blocks: Blocks,
    *,
    template: Path,
    object_graph: bytes | None = None,
    shard_size: int | None = None,
) -> None:
    """Write the SavedModel `template` with other values to the new directory `path`.

    Args:
        path: of the directory, which does not exist.
        tensors: those of `variables/`, by their checkpoint keys; none for a model without any.
        blocks: gives the values of a key.
        template: the directory of the SavedModel whose graph and files are copied.
        object_graph: the serialised TrackableObjectGraph of the bundle, None for none.
        shard_size: bytes of values in one data file; None for a single file.

    Raises:
        OutputError: it cannot be written.
    """
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
        if tensors:
            (path / VARIABLES.parts[0]).mkdir()
            write_tensor_bundle(
                path / VARIABLES, tensors, blocks, object_graph=object_graph, shard_size=shard_size
            )
        shutil.copyfile(template / MODEL_FILE, path / MODEL_FILE)
    except (OSError, shutil.Error) as error:
        raise OutputError(f"cannot write: {error}", where=str(path)) from error
