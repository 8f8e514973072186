"""Load upgraded models in Keras 3, and set what they compute against what Keras 2 computed.

Run by an interpreter with Keras 3: `KERAS_BACKEND=jax python _upgrade_loads.py ZOO NEW [NAME ...]`
prints a line of JSON per model of the folder NEW: its name, and the largest difference, or why
there is none.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np


def loaded(path: Path, recorded: Path) -> dict[str, Any]:
    """Return what became of one model; recorded: where inputs and outputs of Keras 2 lie."""
    inputs, expected = np.load(recorded / "inputs.npz"), np.load(recorded / "outputs.npz")
    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    structure = getattr(model, "_inputs_struct", None)
    structure = model._functional._inputs_struct if structure is None else structure
    names = [tensor._keras_history.operation.name for tensor in keras.tree.flatten(structure)]
    values = [_tensor(inputs[name]) for name in names]
    if any(value is None for value in values):
        return {"note": "takes text, which this backend does not"}
    given: Any = dict(zip(names, values, strict=True)) if isinstance(structure, dict) else values
    given = given if isinstance(structure, dict) or len(values) > 1 else values[0]
    outputs = model(given, training=False)
    named = outputs if isinstance(outputs, dict) else dict(enumerate(keras.tree.flatten(outputs)))
    gaps = [
        float(np.max(np.abs(_floats(value) - expected[str(key)].astype("float64")), initial=0.0))
        for key, value in named.items()
    ]
    return {"gap": max(gaps)}


def _tensor(array: Any) -> Any:
    if array.dtype.kind != "S":
        return keras.ops.convert_to_tensor(array)
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    return tf.constant(array.tolist())


def _floats(value: Any) -> Any:
    return np.asarray(keras.ops.convert_to_numpy(value)).astype("float64")


if __name__ == "__main__":
    zoo, new = map(Path, sys.argv[1:3])
    sys.path.insert(0, str(Path(__file__).parent))
    __import__("upgrade_classes")
    for file in sorted(new.glob("*.keras")):
        if sys.argv[3:] and file.stem not in sys.argv[3:]:
            continue
        try:
            result = loaded(file, zoo / file.stem)
        except Exception as error:  # whatever Keras raises is the result
            result = {"error": f"{type(error).__name__}: {error}"[-300:]}
        print(json.dumps({"name": file.stem, **result}), flush=True)
