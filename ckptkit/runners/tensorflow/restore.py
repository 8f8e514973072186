"""Restoring a checkpoint into a built model the way TensorFlow's users do.  Child process alone.

Every variable is marked first.  The names that the file's root gives its children say where the
model and its optimizer lie in it (`tf.train.Checkpoint(net=..., opt=...)`, or the model itself as
the root); a callable that returns a tf.train.Checkpoint settles that itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ckptkit.errors import CkptkitError, UsageError
from ckptkit.runners.child.session import Request, Result, import_extras, spec_of
from ckptkit.runners.child.user_code import call_code
from ckptkit.runners.keras.layers import arguments
from ckptkit.runners.tensorflow import setup
from ckptkit.runners.tensorflow.build import checked, keras, seed_keras
from ckptkit.runners.tensorflow.module import tensorflow
from ckptkit.runners.tensorflow.variables import mark_all, root_of, still_marked, weights_of
from ckptkit.stores.registry import OBJECT_GRAPH, format_of_name

_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
_COUNTER = "save_counter"
_ASSERTIONS = ("assert_existing_objects_matched", "assert_consumed", "assert_nontrivial_match")
_MAX_TEXT = 4000  # characters of an error that are kept


@dataclass
class BuiltObjects:
    """What a callable returned: the model, what else a checkpoint holds, how it was called.

    root: the tf.train.Checkpoint that was returned, if any.  seen: {argument: spec} of the model's
    last call while it was built.
    """

    model: Any
    objects: dict[str, Any] = field(default_factory=dict)
    root: Any = None
    seen: dict[str, Any] | None = None

    @property
    def optimizer(self) -> Any:
        found = getattr(self.model, "optimizer", None)
        return found if hasattr(found, "_trackable_children") else None


def build(spec: str) -> BuiltObjects:
    """Call what `spec` names; raises UsageError where it returns no built model."""
    tf = tensorflow()
    with arguments(keras()) as calls:
        value = call_code(spec, seed_keras)
    if not isinstance(value, tf.train.Checkpoint):
        return BuiltObjects(checked(value, spec), seen=_seen(value, calls))
    objects = {k: v for k, v in value._trackable_children().items() if k != _COUNTER}
    models = [item for item in objects.values() if callable(item) and hasattr(item, "variables")]
    if len(models) != 1:
        raise UsageError(f"the Checkpoint holds {len(models)} models, not one", where=spec)
    return BuiltObjects(checked(models[0], spec), objects, value, _seen(models[0], calls))


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
    """The action: build, restore, write the bundle `out`."""
    spec = spec_of(request)
    setup.configure(spec)
    import_extras(request)
    with setup.scope(spec):
        built = build(request["model_spec"]["code"])
        found = restore_into(built, Path(request["model_spec"]["path"]), request["out"])
    return {"restored": {**found, "environment": setup.environment(spec)}}


def restore_into(built: BuiltObjects, path: Path, out: str | None) -> Result:
    """Mark every variable, restore, write all of them to `out`; return RestoreResult's fields."""
    weights = weights_of(built.model)
    variables = {**_optimizer_variables(built), **weights}
    marked = mark_all(variables)
    objects: dict[str, Any] = built.objects
    error: Exception | None = None
    verdicts: dict[str, str] = {}
    try:
        row = format_of_name(path.name)  # None: the prefix of a checkpoint has any name
        if row is not None and row.structure != OBJECT_GRAPH:
            objects = objects or _objects(built, None)
            built.model.load_weights(str(path))
        else:
            prefix = _prefix(path)
            graph = _file_graph(prefix)
            objects = objects or _objects(built, graph)
            root = built.root or _checkpoint(objects)
            # restore() expects a save counter of the file, read() none
            has_counter = graph is not None and _COUNTER in _children(graph)
            verdicts = _verdicts((root.restore if has_counter else root.read)(prefix))
    except Exception as raised:  # what is wrong with the file is the answer, not an accident
        error = raised
    if out is not None:
        _write(objects or _objects(built, None), weights, out)
    return {
        "path": out,
        "error": _text(error) if error else "",
        "error_kind": type(error).__name__ if error else "",
        "unrestored": still_marked(marked),
        "unmarked": sorted(set(variables) - set(marked)),
        "optimizer": built.optimizer is not None,
        "root_children": list(objects),
        "verdicts": verdicts,
    }


def lost_weights(built: BuiltObjects, found: Mapping[str, Any]) -> list[str]:
    """Return the unrestored variables of the model itself, its optimizer left aside."""
    weights = weights_of(built.model)
    return [path for path in found["unrestored"] if path in weights]


def _optimizer_variables(built: BuiltObjects) -> dict[str, Any]:
    """Return {path: variable} of the optimizer."""
    variables = getattr(built.optimizer, "variables", ())
    found: dict[str, Any] = {}
    for variable in variables() if callable(variables) else variables:
        path = getattr(variable, "path", None) or variable.name.partition(":")[0]
        found[path if path not in found else f"{path}#{len(found)}"] = variable
    return found


def _checkpoint(objects: Mapping[str, Any]) -> Any:
    """Return a Checkpoint of the objects; "" is the root itself."""
    others = {name: item for name, item in objects.items() if name}
    root = (objects[""],) if "" in objects else ()
    return tensorflow().train.Checkpoint(*root, **others)


def _write(objects: Mapping[str, Any], weights: Mapping[str, Any], out: str) -> None:
    if "" in objects:
        holder = tensorflow().Module()
        for path, variable in weights.items():
            holder._track_trackable(variable, name=path)
        _checkpoint({**objects, "weights": holder}).write(out)
    else:
        root_of(objects, weights).write(out)


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
            found[name] = _text(error)
    with suppress(AttributeError):
        status.expect_partial()  # no second report when it is deleted
    return found


def _text(error: Exception) -> str:
    if isinstance(error, CkptkitError):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:_MAX_TEXT] or type(error).__name__


# -- where the model lies in the file --------------------------------------------------------------


def _file_graph(prefix: str) -> Any:
    """Return the object graph of a checkpoint; None of one that has names alone."""
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    reader = tensorflow().train.load_checkpoint(prefix)
    if not reader.has_tensor(_GRAPH_KEY):
        return None
    message = trackable_object_graph_pb2.TrackableObjectGraph
    return message.FromString(reader.get_tensor(_GRAPH_KEY))


def _objects(built: BuiltObjects, graph: Any) -> dict[str, Any]:
    """Return {child of the file's root: object}; "" where the root is the model itself."""
    model, optimizer = built.model, built.optimizer
    places = {"": 0}
    if graph is not None:
        places |= {n: at for n, at in _children(graph).items() if at and n != _COUNTER}
    scores = {n: _overlap(model, graph, at) for n, at in places.items()} if graph else {}
    best = max(scores, key=lambda name: (scores[name], name != ""), default="model")
    objects = {best if scores.get(best) else "model": model}
    if optimizer is not None:
        scores = {
            n: _overlap(optimizer, graph, at) for n, at in places.items() if n and n not in objects
        }
        best = max(scores, key=lambda name: scores[name], default="optimizer")
        objects[best if scores.get(best) else "optimizer"] = optimizer
    if "" in objects and objects.get("optimizer") is getattr(model, "optimizer", None):
        objects.pop("optimizer", None)  # it hangs below the model already
    return objects


def _children(graph: Any) -> dict[str, int]:
    """Return {name: node} of what the root of a file leads to."""
    return {child.local_name: child.node_id for child in graph.nodes[0].children}


def _overlap(item: Any, graph: Any, at: int) -> int:
    """Return how many variables of a live object a node of the file leads to, by the same paths."""
    waiting, visited, found = [(item, at)], set(), 0
    while waiting:
        live, number = waiting.pop()
        if id(live) in visited:
            continue
        visited.add(id(live))
        node = graph.nodes[number]
        if node.attributes:
            found += 1
        children = live._trackable_children() if hasattr(live, "_trackable_children") else {}
        for child in node.children:
            if child.local_name in children:
                waiting.append((children[child.local_name], child.node_id))
    return found
