"""Running two models on the same inputs; imported in the child process alone.

Inputs are drawn from a seed by the model's own signature.  Floats agree when
`|new - old| <= ATOL * rms(old) + RTOL * |old|`, since one graph may be compiled in two ways; all
other values must be equal, and so must be where there are NaNs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ckptkit._tf import tensorflow

SEED = 20
BATCH = 2
SIZES = (8, 32, 4)  # tried, in this order, for sizes that the signature leaves open
RTOL, ATOL = 1e-5, 1e-6
_WORDS = (b"good", b"day", b"", b"unseen")

Inputs = dict[str, Any]
Call = Callable[[Inputs], Mapping[str, Any]]


def file_against_file(old: str, new: str) -> dict[str, Any]:
    """Compare the signatures of two SavedModels, or two `.keras` models."""
    if old.endswith(".keras"):
        models = [_load_keras(path) for path in (old, new)]
        specs = _keras_specs(models[0])
        if specs is None:
            return _none("the model does not tell its inputs")
        return _compare({"call": (specs, _keras_call(models[0]), _keras_call(models[1]))})
    tf = tensorflow()
    sides = [tf.saved_model.load(path) for path in (old, new)]
    shared = sorted(set(sides[0].signatures) & set(sides[1].signatures))
    if not shared:
        return _none("the two have no signature in common")
    cases = {}
    for key in shared:
        functions = [side.signatures[key] for side in sides]
        specs = dict(functions[0].structured_input_signature[1])
        cases[key] = (specs, _signature_call(functions[0]), _signature_call(functions[1]))
    return _compare(cases, keep=sides)


def live_against_file(model: Any, form: str, path: str) -> dict[str, Any]:
    """Compare a live model with the file that was written of it."""
    if form == "keras":
        specs = _keras_specs(model)
        if specs is None:
            return _none("the model does not tell its inputs")
        return _compare({"call": (specs, _keras_call(model), _keras_call(_load_keras(path)))})
    if form != "saved_model":
        return _none(f"a {form} does not run")
    loaded = tensorflow().saved_model.load(path)
    function = loaded.signatures.get("serving_default")
    if function is None:
        return _none("the output has no signature serving_default")
    specs = dict(function.structured_input_signature[1])
    if len(specs) != 1:
        names = _keras_specs(model)
        if names is None or set(names) != set(specs):
            return _none("the signature's inputs are not called as the model's")
    case = (specs, _keras_call(model), _signature_call(function))
    return _compare({"serving_default": case}, by_order=True, keep=[loaded])


def _none(why: str) -> dict[str, Any]:
    return {"why_not": why}


def _load_keras(path: str) -> Any:
    from importlib import import_module

    return import_module("keras").models.load_model(path, safe_mode=True, compile=False)


def _keras_specs(model: Any) -> dict[str, Any] | None:
    """Return {name: spec} of the inputs of a Functional or Sequential model, else None."""
    tf = tensorflow()
    try:
        inputs = tf.nest.flatten(model.inputs)
    except (AttributeError, ValueError):
        return None
    specs = {item.name: tf.TensorSpec(item.shape, item.dtype) for item in inputs}
    return specs if inputs and len(specs) == len(inputs) else None


def _keras_call(model: Any) -> Call:
    def call(inputs: Inputs) -> dict[str, Any]:
        values = list(inputs.values())
        argument = values[0] if len(values) == 1 else _arranged(model, inputs)
        options = {"training": False} if hasattr(model, "built") else {}
        flat = tensorflow().nest.flatten(model(argument, **options))
        return {f"output_{number}": value for number, value in enumerate(flat)}

    return call


def _arranged(model: Any, inputs: Inputs) -> Any:
    """Return several inputs in the order of the model."""
    return [inputs[item.name] for item in tensorflow().nest.flatten(model.inputs)]


def _signature_call(function: Any) -> Call:
    return lambda inputs: function(**inputs)


def _compare(
    cases: Mapping[str, tuple[Mapping[str, Any], Call, Call]],
    *,
    by_order: bool = False,
    keep: Sequence[Any] = (),
) -> dict[str, Any]:
    """Run every case on both sides; keep: objects that must live as long."""
    rows: list[dict[str, Any]] = []
    for key, (specs, old, new) in cases.items():
        try:
            left, right = _run(specs, old, new)
        except Exception as error:  # a model may refuse any input, in any way
            line = (str(error).splitlines() or [""])[0]
            return _none(f"{key} does not run on made-up inputs: {type(error).__name__}: {line}")
        if by_order:
            ordered = [right[name] for name in sorted(right, key=_natural)]
            right = dict(zip(left, ordered, strict=False)) if len(left) == len(ordered) else right
        for name in sorted(left.keys() | right.keys()):
            rows.append(_row(f"{key}/{name}", left.get(name), right.get(name)))
    del keep
    return {"why_not": "", "rows": rows, "seed": SEED, "rtol": RTOL, "atol": ATOL}


def _natural(name: str) -> tuple[int, str]:
    return len(name), name


def _run(
    specs: Mapping[str, Any], old: Call, new: Call
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return both sides' outputs, for the first size that the old side takes."""
    for size in SIZES:
        inputs = {name: _draw(spec, size) for name, spec in specs.items()}
        try:
            left = old(inputs)
        except Exception:
            if size == SIZES[-1]:
                raise
            continue
        return left, new(inputs)
    raise AssertionError("unreachable")


def _draw(spec: Any, size: int) -> Any:
    """Return a tensor for a signature: floats from a normal distribution, small integers, words."""
    import numpy as np

    tf = tensorflow()
    rng = np.random.default_rng(SEED)
    axes = list(spec.shape) if spec.shape.rank is not None else [None, None]
    shape = [
        (BATCH if axis == 0 else size) if length is None else length
        for axis, length in enumerate(axes)
    ]
    if spec.dtype == tf.string:
        return tf.constant(rng.choice(np.array(_WORDS, object), shape))
    if spec.dtype == tf.bool:
        return tf.constant(rng.integers(0, 2, shape).astype(bool))
    if spec.dtype.is_integer:
        return tf.cast(rng.integers(0, 2, shape), spec.dtype)
    return tf.cast(rng.normal(size=shape), spec.dtype)


def _row(name: str, old: Any, new: Any) -> dict[str, Any]:
    """Return the comparison of one output."""
    import numpy as np

    if old is None or new is None:
        return {"output": name, "ok": False, "message": "only on one side"}
    left, right = np.asarray(old), np.asarray(new)
    if left.shape != right.shape or left.dtype != right.dtype:
        message = f"{left.dtype} {left.shape} became {right.dtype} {right.shape}"
        return {"output": name, "ok": False, "message": message}
    if not tensorflow().as_dtype(left.dtype).is_floating:
        same = bool(np.array_equal(left, right))
        message = "" if same else "values differ"
        return {"output": name, "ok": same, "n": left.size, "bits": same, "message": message}
    a, b = left.astype(np.float64), right.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    matched = np.array_equal(a[~finite], b[~finite], equal_nan=True)
    gap = np.abs(a[finite] - b[finite])
    rms = float(np.sqrt(np.mean(a[finite] ** 2))) if finite.any() else 0.0
    within = bool((gap <= ATOL * rms + RTOL * np.abs(a[finite])).all())
    worst = float(gap.max()) if gap.size else 0.0
    ok = matched and within and left.size > 0
    return {
        "output": name,
        "ok": ok,
        "n": int(left.size),
        "bits": left.tobytes() == right.tobytes(),
        "max_abs": worst,
        "rms": rms,
        "message": "" if ok else f"differs by up to {worst:.3g}, where outputs are about {rms:.3g}",
    }
