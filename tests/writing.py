"""Writes one file or set of files over what lies there; run under strace by test_injection.

    python writing.py KIND DIRECTORY FILL

Exit code: 0 done, 2 refused with one line on stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import killing
import numpy as np

from ckptkit.errors import CkptkitError
from ckptkit.fixtures.goldens import GOLDEN
from ckptkit.operations.convert import convert
from ckptkit.stores import open_format

KERAS = GOLDEN / "tf2.21.0" / "files_nested" / "model.keras"
MODEL = GOLDEN / "tf2.21.0" / "module_saved_model" / "model"


def _keras(form: str) -> Callable[[Path, int], None]:
    def write(directory: Path, fill: int) -> None:
        from ckptkit.writers.keras_h5 import write_keras, write_weights_h5

        like: Any = open_format("keras", KERAS)

        def blocks(key: str) -> Iterator[tuple[int, Any]]:
            for start, values in like.blocks(key):
                yield start, np.full_like(values, fill)

        writer = write_keras if form == "keras" else write_weights_h5
        writer(directory / f"m.{form}", like, blocks, overwrite=True)

    return write


def _saved_model(directory: Path, fill: int) -> None:
    """Replace an export by one with other values, by way of a checkpoint of them."""
    source = open_format("saved-model", MODEL)
    from ckptkit.writers.base import OutTensor
    from ckptkit.writers.tensor_bundle import write_tensor_bundle

    graph = source.read("_CHECKPOINTABLE_OBJECT_GRAPH")[0]
    specs = [s for s in source.specs.values() if s.dtype != "string"]

    def blocks(key: str) -> Iterator[tuple[int, Any]]:
        for start, values in source.blocks(key):
            yield start, np.full_like(values, fill)

    tensors = [OutTensor(s.key, s.dtype, s.shape) for s in specs]
    scratch = directory.parent / f"{directory.name}-values" / "c"
    scratch.parent.mkdir(exist_ok=True)
    write_tensor_bundle(scratch, tensors, blocks, object_graph=graph, overwrite=True)
    convert(
        scratch, directory / "export", to="saved_model", like=MODEL, overwrite=True, check=False
    )


def _known(kind: str) -> Callable[[Path, int], None]:
    return lambda directory, fill: killing.KINDS[kind][0](directory, killing.tensors(fill))


# kind -> (what writes it, what to read)
WRITERS: dict[str, tuple[Callable[[Path, int], None], str]] = {
    "bundle": (_known("bundle"), "ckpt"),
    "set": (_known("set"), "m.safetensors.index.json"),
    "file": (_known("file"), "m.safetensors"),
    "archive": (_known("archive"), "m.npz"),
    "directory": (_known("directory"), "dir/m.npz"),
    "keras": (_keras("keras"), "m.keras"),
    "weights": (_keras("weights.h5"), "m.weights.h5"),
    "saved-model": (_saved_model, "export"),
}


def main(kind: str, directory: Path, fill: int) -> int:
    try:
        WRITERS[kind][0](directory, fill)
    except CkptkitError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
