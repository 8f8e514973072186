"""What `benchmarks.restores` does in processes of its own: write files, restore them.

python -m benchmarks._restore_child write LIBRARY DIR
python -m benchmarks._restore_child restore RUNTIME FILE  (cases as JSON on stdin)
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import ckptkit
from benchmarks import _restore_models as models

CODE = str(Path(models.__file__ or ""))


def write(library: str, directory: str, *names: str) -> list[dict[str, Any]]:
    """Write every model in every form that its library has; return the cases."""
    found = []
    functions = models.BOTH + (models.KERAS_3 if library == "keras" else ())
    for function in functions:
        if names and function.__name__ not in names:
            continue
        modes: list[dict[str, str]] = [{}]
        if function is models.quantised:
            modes = [{"mode": mode} for mode in ("int8", "int4", "float8")]
        for options in modes:
            found += _write(library, Path(directory), function, options)
    return found + _pairs(library, Path(directory))


def _write(
    library: str, directory: Path, function: Callable[..., Any], options: dict[str, str]
) -> list[dict[str, Any]]:
    k = import_module(library)
    k.backend.clear_session()
    k.utils.set_random_seed(1)
    model = function(library, **options)
    name = "-".join((function.__name__, *options.values()))
    folder = directory / f"{library}-{name}"
    folder.mkdir(parents=True)
    _fill(model)
    truth: dict[str, Any] = {str(i): np.asarray(v) for i, v in enumerate(model.weights)}
    np.savez(folder / "truth.npz", **truth)
    rows = []
    for form, save in _forms(library, model, folder).items():
        try:
            with contextlib.redirect_stdout(sys.stderr):
                path = save()
        except Exception as error:
            print(f"{name} {form}: {type(error).__name__} {str(error)[:100]}", file=sys.stderr)
            continue
        rows.append(
            {"model": name, "function": function.__name__, "options": options, "form": form,
             "library": library, "file": str(path), "truth": str(folder / "truth.npz")}
        )  # fmt: skip
    return rows


def _pairs(library: str, directory: Path) -> list[dict[str, Any]]:
    """Write two models into each file, of which `net` alone is asked for."""
    import tensorflow as tf

    k = import_module(library)
    rows = []
    for other in (models.net, models.wider, models.deeper):
        k.backend.clear_session()
        one, two = models.net(library), other(library)
        folder = directory / f"{library}-two-{other.__name__}"
        folder.mkdir(parents=True)
        _fill(one)
        _fill(two, 8)
        truth: dict[str, Any] = {str(i): np.asarray(v) for i, v in enumerate(one.weights)}
        np.savez(folder / "truth.npz", **truth)
        for form, make in _containers(one, two).items():
            path = folder / form
            held = make()
            if form == "saved":
                tf.saved_model.save(held, str(path))
            elif form == "manager":
                tf.train.CheckpointManager(held, str(path), 2).save()
            else:
                held.write(str(path))
            rows.append(
                {"model": f"two-{other.__name__}", "function": "net", "options": {},
                 "form": form, "library": library, "file": str(path),
                 "truth": str(folder / "truth.npz"), "alike": other is not models.wider}
            )  # fmt: skip
            if form in ("flat", "flat, other way round"):
                npz = path.with_name(f"{form}.npz")
                ckptkit.convert(str(path), str(npz))
                rows.append({**rows[-1], "form": npz.name, "file": str(npz)})
    return rows


def _containers(one: Any, two: Any) -> dict[str, Callable[[], Any]]:
    """Return {form: what makes the object that holds both}."""
    import tensorflow as tf

    def module() -> Any:
        held = tf.Module()
        held.online, held.target = one, two
        return held

    def trainer() -> Any:
        return tf.train.Checkpoint(online=one, target=two)

    return {
        "flat": trainer,
        "flat, other way round": lambda: tf.train.Checkpoint(zeta=one, alpha=two),
        "named model": lambda: tf.train.Checkpoint(model=two, best=one),
        "nested": lambda: tf.train.Checkpoint(trainer=trainer(), step=tf.Variable(1)),
        "uneven": lambda: tf.train.Checkpoint(net=one, inner=tf.train.Checkpoint(net=two)),
        "list": lambda: tf.train.Checkpoint(nets=[one, two]),
        "dict": lambda: tf.train.Checkpoint(nets={"a": one, "b": two}),
        "module": lambda: tf.train.Checkpoint(agent=module()),
        "module as root": lambda: tf.train.Checkpoint(module()),
        "manager": trainer,
        "saved": module,
    }


def _fill(model: Any, seed: int = 7) -> None:
    """Give every variable values of its own, as training does."""
    draws = np.random.default_rng(seed)
    optimizer = getattr(model, "optimizer", None)
    variables = [*model.weights, *(() if optimizer is None else _of(optimizer))]
    for variable in variables:
        value = np.asarray(variable)
        if value.dtype.kind in "iub":
            variable.assign(draws.integers(0, 2, value.shape).astype(value.dtype))
        else:
            variable.assign(draws.uniform(0.1, 1, value.shape).astype(value.dtype))


def _of(optimizer: Any) -> list[Any]:
    found = optimizer.variables
    return list(found() if callable(found) else found)


def _forms(library: str, model: Any, folder: Path) -> dict[str, Callable[[], Path]]:
    """Return {form: what writes it}."""
    import tensorflow as tf

    def checkpoint() -> Path:
        objects = {"model": model}
        if getattr(model, "optimizer", None) is not None:
            objects["optimizer"] = model.optimizer
        return Path(tf.train.Checkpoint(**objects).write(str(folder / "ckpt")))

    def manager() -> Path:
        saved = tf.train.Checkpoint(step=tf.Variable(3, dtype=tf.int64), net=model)
        tf.train.CheckpointManager(saved, str(folder / "manager"), 2).save()
        return folder / "manager"

    def root() -> Path:
        return Path(tf.train.Checkpoint(model).write(str(folder / "root")))

    def to(form: str, save: Callable[..., Any], **options: Any) -> Callable[[], Path]:
        def run() -> Path:
            save(str(folder / form), **options)
            return folder / form

        return run

    def converted(form: str) -> Callable[[], Path]:
        def run() -> Path:
            ckptkit.convert(str(folder / "ckpt"), str(folder / form), drop_roles=_TRAINING)
            return folder / form

        return run

    found: dict[str, Callable[[], Path]] = {
        "ckpt": checkpoint,
        "manager": manager,
        "root": root,
        "model.keras": to("model.keras", model.save),
        "model.weights.h5": to("model.weights.h5", model.save_weights),
        "whole.h5": to("whole.h5", model.save),
        "saved": to("saved", lambda path: tf.saved_model.save(model, path)),
        "values.npz": converted("values.npz"),
        "values.safetensors": converted("values.safetensors"),
    }
    if library == "keras":
        found["model.weights.json"] = to(
            "model.weights.json", model.save_weights, max_shard_size=3e-7
        )
        found["export"] = to("export", model.export, verbose=False)
    else:
        found["weights.h5"] = to("weights.h5", lambda path: model.save_weights(path))
        found["weights"] = to("weights", lambda path: model.save_weights(path, save_format="tf"))
    return found


_TRAINING = ("slot", "ema", "counter", "config", "metric")


def restore(runtime: str, file: str, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Restore every case in this process; add what became of it to a file, a line each."""
    way = _tensorflow if runtime in ("tensorflow", "tf-keras") else _keras
    with Path(file).open("a", encoding="utf-8") as out:
        for case in cases:
            out.write(json.dumps({**case, **_tried(way, runtime, case)}) + "\n")
            out.flush()
    return []


def _tried(way: Callable[..., Any], runtime: str, case: dict[str, Any]) -> dict[str, Any]:
    options = {"library": case["code_library"], **case["options"]}
    code = f"{CODE}:{case['function']}?{json.dumps(options)}"
    out = str(Path(tempfile.mkdtemp(prefix="out-", dir=Path(case["truth"]).parent), "restored"))
    try:
        live, done = way(runtime, code, ckptkit.open(case["file"]).path, out)
    except Exception as error:
        text = str(error)
        return {"refused": f"{type(error).__name__}: {text}"[:2000]}
    with np.load(case["truth"]) as file:
        truth = [file[str(number)] for number in range(len(file.files))]
    held = [np.asarray(_plain(variable)) for variable in live.weights]
    if case["library"] != case["code_library"]:  # each has an order of its own
        truth, held = _sorted(truth), _sorted(held)
    same = len(truth) == len(held) and all(map(_same, truth, held))
    return {"result": done, "truth_holds": same}


def _same(one: Any, other: Any) -> bool:
    """Whether two arrays hold the same bytes; integers, of which JAX keeps 32 bits, numbers."""
    if one.shape != other.shape:
        return False
    if {one.dtype.kind, other.dtype.kind} <= {"i", "u"}:
        return bool((one == other).all())
    return bool(one.dtype == other.dtype) and one.tobytes() == other.tobytes()


def _sorted(values: list[Any]) -> list[Any]:
    return sorted(values, key=lambda value: (value.shape, value.tobytes()))


def _plain(variable: Any) -> Any:
    import keras

    is_tensor = hasattr(variable, "path") and keras.backend.backend() != "tensorflow"
    return keras.ops.convert_to_numpy(variable.value) if is_tensor else variable


def _tensorflow(runtime: str, code: str, path: Path, out: str) -> tuple[Any, dict[str, Any]]:
    from ckptkit.runners.tensorflow.build import keras
    from ckptkit.runners.tensorflow.restore import build, restore_into

    keras().backend.clear_session()
    built = build(code)
    return built.whole, restore_into(built, path, out)


def _keras(runtime: str, code: str, path: Path, out: str) -> tuple[Any, dict[str, Any]]:
    from ckptkit.runners.keras.model import build_code, keras
    from ckptkit.runners.keras.restore import restore_into

    name = runtime.removeprefix("keras-")
    module = keras(name)
    backend = getattr(import_module(f"ckptkit.runners.keras.{name}_backend"), name.title())()
    module.backend.clear_session()
    built = build_code(module, code)
    done = restore_into(module, built, path, out, value_of=lambda item: backend.array(item.value))
    return built.to_run(), done


if __name__ == "__main__":
    action, *arguments = sys.argv[1:]
    if action == "write":
        rows = write(*arguments)
    else:
        rows = restore(arguments[0], arguments[1], json.load(sys.stdin))
    print("\n" + json.dumps(rows))
