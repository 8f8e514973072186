"""Writes the reference models by the Keras that runs it, and saves again what another one wrote.

`python -m benchmarks._config_producer DIRECTORY [WRITTEN]`: NAME.keras, NAME.h5 and NAME_export of
each model in DIRECTORY; with WRITTEN, a directory of an older Keras, its models loaded and saved
again instead, as NAME.keras.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import keras

from ckptkit.fixtures import saving

NAMES = (
    *("functional_cnn", "multi_io", "recurrent", "sequential", "mixed_precision", "transformer"),
    *("text_lookup", "custom_layer", "subclassed"),
)


def model_of(name: str) -> Any:
    """Return a reference model, compiled and not trained."""
    keras.utils.set_random_seed(5)
    keras.backend.clear_session()
    return importlib.import_module(f"ckptkit.fixtures.models.{name}").build()


def main(target: Path, written: Path | None) -> None:
    """Write the models; what this Keras does not write is said."""
    target.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        try:
            if written is not None:
                importlib.import_module(f"ckptkit.fixtures.models.{name}")  # registers classes
                model = keras.models.load_model(written / f"{name}.keras")
                model.save(target / f"{name}.keras")
                continue
            model = model_of(name)
            with saving.quiet():
                model.save(target / f"{name}.keras")
                if name != "subclassed":
                    model.save(target / f"{name}.h5")
            saving.write(model, target, ["export"])
            (target / "export").rename(target / f"{name}_export")
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {str(error)[:160]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
