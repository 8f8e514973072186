"""Restoring weights into what code built, the way its users do.  Child process alone.

Every variable is marked first.  A TensorFlow checkpoint is restored where the model and its
optimizer lie in it (`ckptkit.runners.child.placement`); a callable that returns a
tf.train.Checkpoint settles that itself.  Files of Keras are loaded by `load_weights`, and what the
model then holds is written by Keras again; files of names alone are put in by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ckptkit.errors import UsageError
from ckptkit.runners.child.by_name import fill_by_name
from ckptkit.runners.child.left_out import left_out
from ckptkit.runners.child.object_tree import by_unique_names
from ckptkit.runners.child.placement import (
    COUNTER,
    FileGraph,
    file_graph,
    lists_in,
    meets,
    objects_in,
)
from ckptkit.runners.child.restoring import Way, restored
from ckptkit.runners.child.session import Request, Result, import_extras, spec_of
from ckptkit.runners.child.user_code import call_code
from ckptkit.runners.errors import error_text
from ckptkit.runners.keras.layers import arguments
from ckptkit.runners.tensorflow import setup
from ckptkit.runners.tensorflow.build import (
    checked,
    is_keras,
    is_keras_2,
    keras,
    layers_of,
    name_of,
    seed_keras,
)
from ckptkit.runners.tensorflow.module import tensorflow
from ckptkit.runners.tensorflow.trackables import TRACKABLES, is_optimizer, variables_below
from ckptkit.runners.tensorflow.variables import (
    checkpoint_of,
    mark_all,
    value_of,
    weights_of,
    write_weights,
)
from ckptkit.stores.locate import locate
from ckptkit.stores.registry import KERAS, LEGACY_KERAS, OBJECT_GRAPH, SAVED_MODEL, format_of
from ckptkit.text import count_text, list_text

_ASSERTIONS = ("assert_existing_objects_matched", "assert_consumed", "assert_nontrivial_match")


@dataclass
class BuiltObjects:
    """What a callable returned.

    whole: what is restored: a model, any trackable with variables, or a tf.train.Checkpoint.
    model: what is run, None where the Checkpoint holds several models.  objects: {edge: object} of
    the Checkpoint.  seen: {argument: spec} of the model's last call while it was built.
    """

    whole: Any
    model: Any
    objects: dict[str, Any] = field(default_factory=dict)
    seen: dict[str, Any] | None = None
    spec: str = ""

    @property
    def is_checkpoint(self) -> bool:
        return bool(self.objects)

    @property
    def optimizer(self) -> Any:
        found = getattr(self.model, "optimizer", None)
        return found if hasattr(found, "_trackable_children") else None

    @property
    def has_optimizer(self) -> bool:
        return self.optimizer is not None or any(map(is_optimizer, self.objects.values()))

    def to_run(self) -> Any:
        """Return the model; raises UsageError where several could be meant."""
        if self.model is None:
            models = [name for name, item in self.objects.items() if _is_model(item)]
            which = f"{count_text(len(models), 'model')}: {list_text(models, 5)}"
            raise UsageError(
                f"the Checkpoint holds {which}; which one is run is open",
                where=self.spec,
                hint="name it behind the checkpoint, as in run/ckpt#generator",
            )
        return self.model


def build(spec: str, place: str = "") -> BuiltObjects:
    """Call what `spec` names; raises UsageError where it returns no built model.

    place: where in the file the user wants it restored from; of a Checkpoint, the object so called.
    """
    tf = tensorflow()
    with arguments(keras()) as calls:
        value = call_code(spec, seed_keras)
    if not isinstance(value, tf.train.Checkpoint):
        return BuiltObjects(checked(value, spec), value, {}, _seen(value, calls), spec)
    objects = {k: v for k, v in value._trackable_children().items() if k != COUNTER}
    if place:
        if place not in objects:
            names = list_text(list(objects), 5)
            raise UsageError(f"the Checkpoint holds no {place!r}, but {names}", where=spec)
        chosen = objects[place]
        return BuiltObjects(checked(chosen, spec), chosen, {}, _seen(chosen, calls), spec)
    models = [item for item in objects.values() if _is_model(item)]
    for model in models:
        checked(model, spec)
    if not weights_of(value):
        raise UsageError("the Checkpoint holds no variables of a model", where=spec)
    model = models[0] if len(models) == 1 else None
    seen = None if model is None else _seen(model, calls)
    return BuiltObjects(value, model, objects, seen, spec)


def _is_model(item: Any) -> bool:
    """Whether an object of a Checkpoint could be run: it is called, and has weights."""
    return callable(item) and not is_optimizer(item) and bool(weights_of(item))


def _seen(model: Any, calls: Mapping[int, tuple[Any, Any, Any]]) -> dict[str, Any] | None:
    """Return {argument: spec} of the last call of a model; None where it had other than tensors."""
    import inspect

    tf = tensorflow()
    if id(model) not in calls:
        return None
    _, args, options = calls[id(model)]
    try:
        bound = inspect.signature(model.call).bind(*args, **options).arguments
    except TypeError:
        return None
    specs = {}
    for name, value in bound.items():
        if name in ("training", "mask"):
            continue
        shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
        if shape is None or dtype is None:
            return None
        if getattr(dtype, "kind", "") in ("S", "U", "O"):  # of numpy
            dtype = tf.string
        axes = tf.TensorShape(shape).as_list()
        specs[name] = tf.TensorSpec([None, *axes[1:]] if axes else [], dtype, name)
    return specs or None


def restore(request: Request) -> Result:
    """The action: build, restore, write what then is there to `out`."""
    spec = spec_of(request)
    setup.configure(spec)
    import_extras(request)
    model_spec = request["model_spec"]
    with setup.scope(spec):
        built = build(model_spec["code"], model_spec["place"])
        path = Path(model_spec["path"])
        found = restore_into(built, path, request["out"], model_spec["place"])
    return {"restored": {**found, "environment": setup.environment(spec)}}


def restore_into(built: BuiltObjects, path: Path, out: str | None, place: str = "") -> Result:
    """Mark every variable, restore, write all of them to `out`; return RestoreResult's fields.

    place: of the model in the file, where the user told it.  Raises UsageError where several
    places could be meant, and where the file is of a kind that goes into no such model.
    """
    weights = weights_of(built.whole)
    training = _training_variables(built, weights)
    marked = mark_all({**training, **weights})
    way = _way(built, path, weights, place)
    return restored(
        way,
        out,
        variables={*training, *weights},
        marked=marked,
        value_of=value_of,
        has_optimizer=built.has_optimizer,
    )


def lost_weights(built: BuiltObjects, found: Mapping[str, Any]) -> list[str]:
    """Return the unrestored variables of the model itself, its optimizer left aside."""
    weights = weights_of(built.whole)
    return [path for path in found["unrestored"] if path in weights]


def _training_variables(built: BuiltObjects, weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return {name: variable} of all that is no weight: of optimizers, metrics and the like."""
    found = variables_below(built.whole)
    if built.optimizer is not None:
        found |= {f"optimizer/{k}": v for k, v in variables_below(built.optimizer).items()}
    known = {id(variable) for variable in weights.values()}
    others = {
        id(variable): (path, variable)
        for path, variable in found.items()
        if id(variable) not in known and path != COUNTER
    }
    return by_unique_names(others.values())


# -- the ways in which files are restored ----------------------------------------------------------


@dataclass(kw_only=True)
class _FromCheckpoint(Way):
    """By tf.train.Checkpoint; objects: {path in the file: object}, "" for the root itself."""

    prefix: str
    objects: Mapping[str, Any]
    graph: FileGraph | None
    by: str = "TensorFlow"

    def restore(self) -> dict[str, str]:
        root = checkpoint_of(self.objects)
        # restore() expects a save counter of the file, read() none
        has_counter = self.graph is not None and self.graph.has_counter
        return _verdicts((root.restore if has_counter else root.read)(self.prefix))

    def write(self, out: str) -> str:
        checkpoint_of(self.objects, self.weights).write(out)
        return out


@dataclass(kw_only=True)
class _FromKerasFile(Way):
    """By Keras's load_weights, which pairs by its own rules; Keras writes the result, too."""

    model: Any
    path: Path
    is_legacy: bool
    by: str = "Keras"

    def restore(self) -> dict[str, str]:
        self.model.load_weights(str(self.path))
        return {}

    def write(self, out: str) -> str:
        if self.is_legacy and not is_keras_2(keras()):
            # Keras 3 writes no such files of weights alone
            checkpoint_of({"model": self.model}, self.weights).write(out)
            return out
        return write_weights(self.model, out, is_legacy=self.is_legacy)

    def left_out(self, written: str | None, unrestored: list[str]) -> dict[str, str]:
        if written is None or self.is_legacy:
            return {}
        layers = layers_of(self.model)
        return left_out(Path(written), self.weights, layers, unrestored, value_of)


@dataclass(kw_only=True)
class _ByName(Way):
    """By this package, as names pair the file with the model: no framework loads such files."""

    whole: Any
    path: Path

    def restore(self) -> dict[str, str]:
        def write(prefix: str, shown: Mapping[str, Any]) -> None:
            checkpoint_of({"": self.whole}, shown or None).write(prefix)

        paths = variables_below(self.whole, optimizers=False)
        self.pairs = fill_by_name(write, paths, self.weights, self.path)
        return {}

    def write(self, out: str) -> str:
        checkpoint_of({"model": self.whole}, self.weights).write(out)
        return out


def _way(built: BuiltObjects, path: Path, weights: Mapping[str, Any], place: str) -> Way:
    """Return how a file of this kind is restored; raises UsageError where that is open."""
    by_name = _ByName(whole=built.whole, path=path, weights=weights)
    structure = format_of(locate(path).format).structure
    if structure in (OBJECT_GRAPH, SAVED_MODEL):
        prefix = _prefix(path)
        graph = file_graph(prefix)
        objects = _objects(built, graph, path, place)
        if structure == SAVED_MODEL and graph is not None and not meets(TRACKABLES, graph, objects):
            objects = {} if built.is_checkpoint else lists_in(graph, built.whole)
        if objects:
            places = list(objects)
            return _FromCheckpoint(
                prefix=prefix, objects=objects, weights=weights, graph=graph, places=places
            )
        return by_name
    if structure not in (KERAS, LEGACY_KERAS):
        return by_name
    model = built.to_run()
    if not is_keras(model):
        raise UsageError(
            f"a {name_of(model)} is no model of Keras, which alone loads such a file",
            where=str(path),
            hint="let the code return the model of Keras that the file was saved from",
        )
    return _FromKerasFile(
        model=model, path=path, weights=weights, is_legacy=structure == LEGACY_KERAS
    )


def _prefix(path: Path) -> str:
    """Return the prefix of a checkpoint; of a SavedModel, that of its variables."""
    if (path / "variables").is_dir():
        return str(path / "variables" / "variables")
    return str(path.with_suffix("")) if path.suffix == ".index" else str(path)


def _verdicts(status: Any) -> dict[str, str]:
    """Return what TensorFlow's own assertions say of a restore."""
    found = {}
    for name in _ASSERTIONS:
        check = getattr(status, name, None)
        if check is None:
            continue
        try:
            check()
            found[name] = ""
        except Exception as error:
            found[name] = error_text(error)
    with suppress(AttributeError):
        status.expect_partial()  # no second report when it is deleted
    return found


# -- where the model lies in the file --------------------------------------------------------------


def _objects(
    built: BuiltObjects, graph: FileGraph | None, path: Path, place: str
) -> dict[str, Any]:
    """Return {path in the file: object}; "" where the root is the model itself.

    Raises UsageError where several places could be meant, or the one that is named is none.
    """
    if built.is_checkpoint:
        return built.objects
    model, optimizer = built.whole, built.optimizer
    if graph is not None:
        what = name_of(model)
        return objects_in(graph, TRACKABLES, model, optimizer, place, what, str(path))
    objects = {place or "model": model}
    return objects if optimizer is None else {**objects, "optimizer": optimizer}
