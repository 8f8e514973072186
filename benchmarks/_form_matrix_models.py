"""What `benchmarks.form_matrix` does with TensorFlow: make the reference models, run their files.

python -m benchmarks._form_matrix_models make SEED DIR [NAME …]
python -m benchmarks._form_matrix_models judge NAME DIR SOURCE|TARGET|PATH …
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import numpy as np

import ckptkit
import ckptkit.fixtures as fixtures

# Relative to the largest output: one graph is compiled otherwise than another.
TOLERANCE = 1e-5
TOLERANCES = {"mixed_precision": 2.0**-6}  # computes in bfloat16, which has eight bits


def make(seed: str, directory: str, *names: str) -> None:
    """Train every reference model of one process, and write its forms."""
    import keras

    models = [name for name, row in fixtures.NAMES.items() if row.target.startswith("models.")]
    for name in names or models:  # whole runs write one form alone
        target = Path(directory, name)
        target.mkdir(parents=True)
        keras.utils.set_random_seed(int(seed))
        _maker(name)(target)


def _module(name: str) -> Any:
    module, _, _function = fixtures.NAMES[name].target.partition(":")
    return import_module(f"ckptkit.fixtures.{module}")


def _maker(name: str) -> Any:
    return getattr(_module(name), fixtures.NAMES[name].target.partition(":")[2])


def judge(name: str, directory: str, *files: str) -> None:
    """Print for each file whether it computes what DIR's own file of that form computes."""
    truths: dict[str, dict[str, Any] | None] = {}
    for file in files:
        source, target, path = file.split("|", 2)
        if target not in truths:
            truths[target] = _run(name, target, Path(directory, target))
        found, truth = _run(name, target, Path(path)), truths[target]
        if found is None or truth is None:  # weights without a model: as good as their values
            part = "#generator" if (name, source) == ("gan", "ckpt") else ""
            start = Path(directory, source)
            if not (start.exists() or start.with_name(f"{start.name}.index").exists()):
                continue
            result = ckptkit.diff(f"{start}{part}", path, roles=["weight"])
            said = "equal" if result.same else f"values differ: {dict(result.counts)}"
        else:
            said = _difference(truth, found, TOLERANCES.get(name, TOLERANCE))
        click.echo(f"{source} to {target}\t{said}")


def _difference(truth: Mapping[str, Any], found: Mapping[str, Any], tolerance: float) -> str:
    """Return "equal", or how outputs differ; those of one name, or the only ones."""
    names = list(truth)
    if len(truth) != len(found):
        return f"outputs {list(found)} for {names}"
    others = (
        found if found.keys() == truth.keys() else dict(zip(names, found.values(), strict=True))
    )
    worst = 0.0
    for name in names:
        one, other = np.asarray(truth[name]), np.asarray(others[name])
        if other.dtype.kind not in "fiub":  # a serving function may answer with words
            same = one.shape == other.shape and one.dtype.kind == other.dtype.kind
            return "equal" if same and (one == other).all() else "texts differ"
        one, other = one.astype("float64"), other.astype("float64")
        worst = max(worst, float(np.abs(one - other).max() / max(np.abs(one).max(), 1e-30)))
    return "equal" if worst <= tolerance else f"differ by {worst:.3g}"


def _run(name: str, form: str, path: Path) -> dict[str, Any] | None:
    """Return the outputs of a file by name; None where it cannot be run by itself."""
    import keras
    import tensorflow as tf

    if form in ("saved_model", "export"):
        loaded = tf.saved_model.load(str(path))
        function = loaded.signatures["serving_default"]
        kinds = function.structured_input_signature[1]
        inputs = dict(zip(sorted(kinds), _inputs(name, len(kinds)), strict=True))
        fixed = {k: tf.cast(v[: kinds[k].shape[0]], kinds[k].dtype) for k, v in inputs.items()}
        return (
            _named(function(**fixed))
            if all(kinds[k].shape[0] != 1 for k in kinds)
            else _each(function, kinds, inputs)
        )
    live = _live(name)
    if form == "model.keras":
        model = keras.saving.load_model(path, compile=False)
    elif form == "model.weights.h5" and live is not None:
        model = live
        model.load_weights(path)
    elif form == "ckpt" and live is not None and name != "gan":
        model = live
        optimizer = getattr(model, "optimizer", None)
        objects = {"model": model} if optimizer is not None else {name.partition("_")[0]: model}
        if optimizer is not None:
            optimizer.build(model.trainable_variables)
            objects["optimizer"] = optimizer
        tf.train.Checkpoint(**objects).restore(str(path)).expect_partial()
    else:
        return None
    several = len(_inputs(name, 1)) > 1
    return _named(model(_by_name(name) if several else _inputs(name, 1)[0]))


def _each(function: Any, kinds: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outputs of a signature that takes one example at a time."""
    import tensorflow as tf

    count = len(next(iter(inputs.values())))
    rows = [
        _named(function(**{k: tf.cast(v[n : n + 1], kinds[k].dtype) for k, v in inputs.items()}))
        for n in range(count)
    ]
    return {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}


def _named(outputs: Any) -> dict[str, Any]:
    if not isinstance(outputs, Mapping):
        outputs = {"output": outputs}
    return {name: np.asarray(outputs[name].numpy()) for name in sorted(outputs)}


def _live(name: str) -> Any:
    """Return a model that nothing was loaded into; None where the fixture has no such function."""
    module = _module(name)
    if name == "gan":
        return module.Gan().generator
    if name in ("text_lookup", "partitioned_embedding"):
        return None
    return module.build()


def _by_name(name: str) -> Any:
    return {key: value[:8] for key, value in _module(name).examples()[0].items()}


def _inputs(name: str, count: int) -> list[Any]:
    """Return the inputs of a model, eight examples each, by name in order."""
    module = _module(name)
    if name == "gan":
        return [np.random.default_rng(1).normal(size=(8, 4)).astype("float32")]
    if name == "mlp_module":
        from ckptkit.fixtures import data

        return [data.table()[0][:8]]
    if name == "partitioned_embedding":
        from ckptkit.fixtures import data

        return [data.tokens(words=1000)[0][:8]]
    inputs = module.examples()[0]
    if isinstance(inputs, Mapping):
        return [inputs[key][:8] for key in sorted(inputs)]
    return [inputs[:8]]


if __name__ == "__main__":
    {"make": make, "judge": judge}[sys.argv[1]](*sys.argv[2:])
