"""Load published files with Keras and save them again; a script, run by `benchmarks.published`.

    python benchmarks/published_producer.py {keras | tf_keras} save SOURCE FOLDER
    python benchmarks/published_producer.py {keras | tf_keras} compare SOURCE CONVERTED

SOURCE is a model, or FILE@MODULE.py:FUNCTION where FILE holds weights alone: that function of the
package builds the model that they are loaded into.

`save` writes into FOLDER what Keras itself makes of SOURCE: again.h5, and where this Keras writes
them again.keras, again.weights.h5; and blank.keras, blank.h5: the same model with other values.
`compare` prints how many arrays of two files that Keras loads are equal, and of how many.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if sys.argv[1:2] == ["tf_keras"]:
    os.environ["TF_USE_LEGACY_KERAS"] = "1"  # what a builder imports from TensorFlow is that Keras

import numpy as np


def save(keras: Any, source: str, folder: Path) -> None:
    """Save a model in every form of this Keras, and once more with other values."""
    model = _loaded(keras, source)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("again.h5", "again.keras"):
        model.save(folder / name)
    model.save_weights(folder / "again.weights.h5")
    if keras.__name__ == "tf_keras":
        model.save(folder / "again", save_format="tf")
    else:
        model.export(folder / "again", verbose=False)
    model.set_weights([np.full_like(value, 0.5) for value in model.get_weights()])
    for name in ("blank.keras", "blank.h5"):
        model.save(folder / name)


def compare(keras: Any, source: str, converted: str) -> None:
    """Print "EQUAL/ALL" of the arrays of two files."""
    left, right = (_loaded(keras, path).get_weights() for path in (source, converted))
    equal = sum(
        a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True)
        for a, b in zip(left, right, strict=True)
    )
    print(f"{equal}/{len(left)}")


def _loaded(keras: Any, source: str) -> Any:
    """Load a model; what it was trained with does not matter."""
    path, _, builder = source.partition("@")
    if builder:
        module, _, function = builder.rpartition(":")
        model = getattr(SourceFileLoader("builder", module).load_module(), function)()
        model.load_weights(path)
        return model
    # Functions without a name cannot be loaded; which one it is makes no difference to weights.
    unnamed = {"<lambda>": keras.activations.relu}
    return keras.models.load_model(path, compile=False, custom_objects=unnamed)


if __name__ == "__main__":
    package, command, *paths = sys.argv[1:]
    loader = import_module(package)
    if command == "save":
        save(loader, paths[0], Path(paths[1]))
    else:
        compare(loader, *paths)
