"""Going on with a training run from one of its checkpoints.  Child process alone.

The callable returns (what the run saves, step): a tf.train.Checkpoint or the trackable that is its
root, and a function of one number that takes one training step.  What is restored is saved again at
once, then after each step that is asked for; nothing is seeded between.

State of the process that training changes and no checkpoint keeps is found by looking: at every
variable that is alive, and at the generators that a process has once.
"""

from __future__ import annotations

import gc
import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ckptkit.errors import UsageError
from ckptkit.runners.child.object_tree import is_variable
from ckptkit.runners.child.session import Request, Result, import_extras, spec_of
from ckptkit.runners.child.user_code import call_code
from ckptkit.runners.errors import error_text
from ckptkit.runners.tensorflow import setup
from ckptkit.runners.tensorflow.build import seed_keras
from ckptkit.runners.tensorflow.module import tensorflow
from ckptkit.runners.tensorflow.trackables import below, children_of, variables_below

_CONTRACT = "return (a tf.train.Checkpoint, a function that takes one training step)"


def resume(request: Request) -> Result:
    """The action: restore, train on, save.

    request: path, code; steps: how many; saves: after which of them (counted from 1); out: a
    directory, in which `N` is the prefix of what was there after N steps, 0 after the restore.
    """
    spec = spec_of(request)
    setup.configure(spec)
    import_extras(request)
    saves, out = set(request["saves"]), Path(request["out"])
    with setup.scope(spec):
        root, step = _called(request["model_spec"]["code"])
        try:
            # read() wants no save counter, and restores one where there is one
            root.read(request["model_spec"]["path"]).expect_partial()
        except Exception as error:  # what is wrong with the file is the answer, not an accident
            return _result(spec, raised=error_text(error))
        root.write(str(out / "0"))
        watch = ProcessState(root)
        for number in range(request["steps"]):
            step(number)
            if number == 0:
                watch.add_new()
            if number + 1 in saves:
                root.write(str(out / str(number + 1)))
        changed, metrics, generators = watch.changed()
    return _result(spec, unsaved=changed, unsaved_metrics=metrics, generators=generators)


def _result(spec: Any, **found: Any) -> Result:
    fields = {"raised": "", "unsaved": [], "unsaved_metrics": [], "generators": []}
    return {**fields, **found, "environment": setup.environment(spec)}


def _called(code: str) -> tuple[Any, Callable[[int], object]]:
    """Return (Checkpoint, step) of what the callable returns; raises UsageError."""
    tf = tensorflow()
    found = call_code(code, seed_keras)
    if not isinstance(found, tuple | list) or len(found) != 2 or not callable(found[1]):
        raise UsageError(f"returned {type(found).__name__}", where=code, hint=_CONTRACT)
    root, step = found
    if not children_of(root):
        name = type(root).__name__
        raise UsageError(f"the first of the two, {name}, saves nothing", where=code, hint=_CONTRACT)
    return root if isinstance(root, tf.train.Checkpoint) else tf.train.Checkpoint(root), step


class ProcessState:
    """What training may change, as it is now.

    root: the Checkpoint; variables that it leads to are saved, and left out here.
    """

    def __init__(self, root: Any) -> None:
        self._root = root
        # held, so that no id is given to another object
        self._variables: dict[int, Any] = {}
        self._before: dict[int, str] = {}
        self.add_new()
        self._generators = _generators()

    def add_new(self) -> None:
        """Take note of variables that were made since; their state now is the first."""
        for item in _live_variables():
            if id(item) not in self._variables and (digest := _digest(item)):
                self._variables[id(item)] = item
                self._before[id(item)] = digest

    def changed(self) -> tuple[list[str], list[str], list[str]]:
        """Return the names of what changed and no checkpoint keeps.

        Returns:
            (variables, those of metrics or set aside by their owner, generators of the process).
        """
        # asked now, since steps may have made what the Checkpoint leads to
        saved = {key for item in variables_below(self._root).values() for key in _ids(item)}
        changed = {
            key: item
            for key, item in self._variables.items()
            if key not in saved and _digest(item) != self._before[key]
        }
        set_aside = self._set_aside()
        paths, metrics = {**_keras_paths(), **set_aside}, _metric_ids() | set(set_aside)
        rows = [(paths.get(key) or _name(item), key) for key, item in changed.items()]
        generators = _generators()
        return (
            sorted(name for name, key in rows if key not in metrics),
            sorted(name for name, key in rows if key in metrics),
            [name for name, state in generators.items() if state != self._generators[name]],
        )

    def _set_aside(self) -> dict[int, str]:
        """Return {id: path} of variables that what is saved has, and decides not to have saved.

        An object tracks every variable that is its attribute, unless its class says otherwise, as
        Keras 2 does of a model's count of batches.
        """
        return {
            key: f"{path}/{name}" if path else name
            for path, item in below(self._root)
            for name, part in getattr(item, "__dict__", {}).items()
            if name.startswith("_") and issubclass(type(part), tensorflow().Variable)
            for key in _ids(part)
        }


def _live_variables() -> Iterator[Any]:
    variable = tensorflow().Variable
    for item in gc.get_objects():
        # by type: an instance may answer for another class, and be loaded to do so
        if issubclass(type(item), variable):
            yield item


def _digest(variable: Any) -> str:
    """Return a digest of the values; "" of a variable of a graph, or of none."""
    tf = tensorflow()
    try:
        value = variable.numpy()
    except (NotImplementedError, AttributeError, RuntimeError, ValueError, tf.errors.OpError):
        return ""
    data = repr(value.tolist()).encode() if value.dtype.hasobject else value.tobytes()
    return hashlib.blake2b(data).hexdigest()


def _name(variable: Any) -> str:
    return str(variable.name).removesuffix(":0")


def _ids(item: Any) -> Iterator[int]:
    """Yield the ids by which a variable may be met: its own, and of those that it is kept in.

    Keras 3 keeps one in `_value`, mixed precision of Keras 2 in `_variable`, and a strategy one for
    each replica in `values`.
    """
    yield id(item)
    copies = getattr(item, "values", ())
    inner = (getattr(item, "_value", None), getattr(item, "_variable", None))
    for part in (*inner, *(copies if isinstance(copies, tuple) else ())):
        if part is not None and part is not item and is_variable(part):
            yield from _ids(part)


def _keras_paths() -> dict[int, str]:
    """Return {id of a TensorFlow variable: path of the variable of Keras 3 that keeps it}."""
    variable = tensorflow().Variable
    found = {}
    for item in _keras_objects("KerasVariable"):
        inner = getattr(item, "_value", None)
        if issubclass(type(inner), variable):
            found[id(inner)] = str(item.path)
    return found


def _metric_ids() -> set[int]:
    """Return the ids of the variables of all metrics of Keras, which report and do not train."""
    found: set[int] = set()
    for item in _keras_objects("Metric"):
        found |= {key for each in item.variables for key in _ids(each)}
    return found


def _keras_objects(name: str) -> Iterator[Any]:
    """Yield what is alive of a class of Keras, whichever Keras it is."""
    for item in gc.get_objects():
        bases = type(item).__mro__
        if any(base.__name__ == name and "keras" in str(base.__module__) for base in bases):
            yield item


def _generators() -> Mapping[str, str]:
    """Return {what it is called: digest of its state} of the generators that a process has."""
    import numpy as np

    states: dict[str, object] = {
        "random of Python": random.getstate(),
        "numpy.random": [np.asarray(part).tolist() for part in np.random.get_state()],
    }
    try:
        from tensorflow.python.eager import context
    except ImportError:
        return {name: repr(state) for name, state in states.items()}
    own = getattr(context.context(), "_rng", None)
    if own is not None:
        states["tf.random (tf.random.set_seed)"] = own.getstate()
    return {name: repr(state) for name, state in states.items()}
