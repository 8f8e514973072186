"""A Keras model rebuilt in float64: the reference that tells which of two roundings is nearer.

A Keras file is rebuilt from its config with every float dtype in it made float64; code is called
again under Keras's float64 policy.  Values are copied in order.  What still computes in something
else (a layer that names its dtype in code, an op of fixed dtype) is refused: half of a reference
would be none.  Child process alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptkit.errors import UnsupportedError, UsageError
from ckptkit.runners.child.session import Request, Result, cases_of, spec_of, written
from ckptkit.runners.tensorflow import setup
from ckptkit.runners.tensorflow.build import is_keras, keras, layers_of
from ckptkit.runners.tensorflow.endpoints import Endpoint, calls_of
from ckptkit.runners.tensorflow.graph_session import GraphSession
from ckptkit.runners.tensorflow.module import tensorflow
from ckptkit.runners.tensorflow.restore import build
from ckptkit.runners.tensorflow.session import TensorFlowSession, arrays_of, start

if TYPE_CHECKING:
    from ckptkit.dtypes import Array, Arrays


FLOAT64 = "float64"
_OTHER = 0.2  # of the output's rms: more than bfloat16 rounds
_FLOATS = ("float", "bfloat", "mixed_")


def float64_outputs(request: Request) -> Result:
    """Write the outputs of the model in float64, per case."""
    session = start(request, spec_of(request))
    if session.skipped:
        raise UsageError(session.skipped)
    model = session.loaded.model
    if isinstance(session, GraphSession) or model is None or not is_keras(model):
        why = "a SavedModel's graph has its dtypes built in" if model is None else "no Keras model"
        raise UnsupportedError(
            f"it cannot be rebuilt in float64: {why}", hint="use the .keras file, or ‹model›"
        )
    rebuilt, seen = _rebuilt(session, request)
    _copy(model, rebuilt)
    endpoints = calls_of(rebuilt, seen)
    cases = []
    for number, (signature, inputs) in enumerate(cases_of(request, session)):
        with setup.scope(session.spec):
            outputs = _call(endpoints[signature], inputs)
            _check(outputs, session.call(signature, inputs))
        cases.append(written(Path(request["scratch"]) / f"float64_{number}.npz", outputs))
    return {"cases": cases}


def _rebuilt(session: TensorFlowSession, request: Request) -> tuple[Any, Any]:
    """Return the model in float64, values as built, and the specs it was built with."""
    here = keras()
    model_spec = request["model_spec"]
    with _in_float64(here):  # layers that a layer makes itself take their dtype from here
        if model_spec["kind"] == "code":
            built = build(model_spec["code"], model_spec["place"])
            model, seen = built.to_run(), built.seen
        else:
            plain = widened(here.saving.serialize_keras_object(session.loaded.model))
            model, seen = here.saving.deserialize_keras_object(plain, safe_mode=True), None
    for layer in layers_of(model):
        if isinstance(layer, here.layers.InputLayer):  # computes nothing
            continue
        policy = getattr(layer, "dtype_policy", None)
        compute = getattr(policy, "compute_dtype", None)
        if compute not in (None, FLOAT64) and str(compute).startswith(_FLOATS):
            raise UnsupportedError(
                f"it cannot be rebuilt in float64: layer {layer.name!r} stays in {compute}"
            )
    return model, seen


@contextmanager
def _in_float64(here: Any) -> Iterator[None]:
    """Have Keras make everything in float64 meanwhile."""
    before = here.config.floatx(), here.config.dtype_policy()
    here.config.set_floatx(FLOAT64)
    here.config.set_dtype_policy(FLOAT64)
    try:
        yield
    finally:
        here.config.set_floatx(before[0])
        here.config.set_dtype_policy(before[1])


def widened(config: Any) -> Any:
    """Return a Keras config with every float dtype and dtype policy made float64."""
    if isinstance(config, list):
        return [widened(item) for item in config]
    if not isinstance(config, dict):
        return config
    if str(config.get("class_name", "")).endswith("DTypePolicy"):
        return {**config, "class_name": "DTypePolicy", "config": {"name": FLOAT64}}
    found = {}
    for key, value in config.items():
        is_float = isinstance(value, str) and value.startswith(_FLOATS)
        found[key] = FLOAT64 if key == "dtype" and is_float else widened(value)
    return found


def _copy(model: Any, rebuilt: Any) -> None:
    """Give the rebuilt model the values; raises UnsupportedError where they have no place."""
    old, new = list(model.variables), list(rebuilt.variables)
    shapes = [[tuple(variable.shape) for variable in variables] for variables in (old, new)]
    if shapes[0] != shapes[1]:
        raise UnsupportedError(
            f"it cannot be rebuilt in float64: it has {len(old)} variables, rebuilt {len(new)}"
        )
    for one, two in zip(old, new, strict=True):
        if str(one.dtype).startswith(_FLOATS) and str(two.dtype) != FLOAT64:
            raise UnsupportedError(
                f"it cannot be rebuilt in float64: {two.path} stays in {two.dtype}"
            )
        two.assign(tensorflow().cast(tensorflow().convert_to_tensor(one), two.dtype))


def _wide(inputs: Arrays) -> dict[str, Any]:
    tf = tensorflow()
    found = {}
    for name, value in inputs.items():
        tensor = tf.constant(value)
        found[name] = tf.cast(tensor, tf.float64) if tensor.dtype.is_floating else tensor
    return found


def _call(endpoint: Endpoint, inputs: Arrays) -> dict[str, Array]:
    try:
        return arrays_of(endpoint.call(_wide(inputs)))
    except Exception as error:  # what a model that was rebuilt raises is not ours to foresee
        line = next((line for line in str(error).splitlines() if line.strip()), "")
        raise UnsupportedError(
            f"it cannot be rebuilt in float64: {type(error).__name__}: {line}"
        ) from error


def _check(outputs: Arrays, plain: Arrays) -> None:
    """Refuse outputs that are not in float64, or are another model's; plain: the model's own."""
    import numpy as np

    for name, value in outputs.items():
        if value.dtype.kind not in "fV":
            continue
        if value.dtype.name != FLOAT64:
            raise UnsupportedError(
                f"it cannot be rebuilt in float64: output {name!r} is {value.dtype.name}"
            )
        expected = np.asarray(plain[name], np.float64)
        rms = (
            float(np.sqrt(np.mean(expected[np.isfinite(expected)] ** 2))) if expected.size else 0.0
        )
        gap = float(np.nanmax(np.abs(expected - value), initial=0.0))
        if gap > _OTHER * max(rms, 1e-30):
            raise UnsupportedError(
                f"it cannot be rebuilt in float64: rebuilt, output {name!r} is another "
                f"(by {gap:.3g}); layers in plain lists are not rebuilt with their values"
            )
