"""Filling models of Keras from any file of weights, without TensorFlow.  Child process alone.

Every variable is marked first.  Files of Keras are loaded by `load_weights`; a checkpoint goes in
along the edges of its object graph, as tf.train.Checkpoint follows them, and what has names alone
by name.  What the models then hold is written again: by Keras where it alone knows how, else as a
checkpoint that has every variable by its object path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptkit.runners.child.by_name import fill_by_name, value_for
from ckptkit.runners.child.left_out import left_out
from ckptkit.runners.child.object_bundle import write_objects
from ckptkit.runners.child.object_tree import by_unique_names
from ckptkit.runners.child.placement import (
    FileGraph,
    file_graph,
    lists_in,
    meets,
    objects_in,
    overlap,
)
from ckptkit.runners.child.restoring import Way, restored
from ckptkit.runners.child.session import Result
from ckptkit.runners.keras.model import BuiltModels, layers_of
from ckptkit.runners.keras.objects import KERAS_OBJECTS
from ckptkit.runners.marks import mark
from ckptkit.stores.locate import locate
from ckptkit.stores.registry import KERAS, LEGACY_KERAS, OBJECT_GRAPH, SAVED_MODEL, format_of

if TYPE_CHECKING:
    from ckptkit.dtypes import Array


def restore_into(
    keras: Any,
    built: BuiltModels,
    path: Path,
    out: str | None,
    place: str = "",
    *,
    value_of: Callable[[Any], Array],
) -> Result:
    """Fill the models from `path`; return RestoreResult's fields, with what they hold in `out`.

    place: of the model in the file, where the user told it.  value_of: gives the values of a
    variable.  A variable that the file has no tensor of its shape and dtype for keeps its mark.
    Raises UsageError where several places could be meant.
    """
    weights = weights_of(built)
    training = _training_variables(built, weights)
    marked = _mark_all(keras, {**training, **weights})
    way = _way(built, path, weights, place, value_of)
    return restored(
        way,
        out,
        variables={*training, *weights},
        marked=marked,
        value_of=value_of,
        has_optimizer=built.has_optimizer,
    )


def lost_weights(built: BuiltModels, found: Mapping[str, Any]) -> list[str]:
    """Return the variables of the models themselves that got no value, optimizers left aside."""
    weights = weights_of(built)
    return [name for name in found["unrestored"] if name in weights]


def weights_of(built: BuiltModels) -> dict[str, Any]:
    """Return {name: variable} of every weight."""
    paths = {
        id(variable): path
        for path, variable in KERAS_OBJECTS.variables_below(built.whole, optimizers=False).items()
    }
    found = {id(v): v for model in built.models for v in model.weights}
    return by_unique_names((paths.get(id(v), ""), v) for v in found.values())


def _training_variables(built: BuiltModels, weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return {name: variable} of all that is no weight: of optimizers, metrics and the like."""
    known = {id(variable) for variable in weights.values()}
    found = KERAS_OBJECTS.variables_below(built.whole).items()
    return by_unique_names(
        (path, variable) for path, variable in found if id(variable) not in known
    )


def _mark_all(keras: Any, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Fill the variables with their marks; return those whose dtype has one."""
    marked = {}
    for name, variable in variables.items():
        dtype = keras.backend.standardize_dtype(variable.dtype)
        value = mark(dtype, tuple(variable.shape))
        if value is not None:
            variable.assign(value)
            marked[name] = variable
    return marked


# -- the ways in which files are restored ----------------------------------------------------------


@dataclass(kw_only=True)
class _KerasWay(Way):
    """objects: {path in the file: object}, "" for the root itself."""

    objects: Mapping[str, Any]
    value_of: Callable[[Any], Array]

    def write(self, out: str) -> str:
        write_objects(out, KERAS_OBJECTS, self.objects, self.weights, self.value_of)
        return out


@dataclass(kw_only=True)
class _ObjectsWay(_KerasWay):
    """Along the edges of an object graph."""

    graph: FileGraph

    def restore(self) -> dict[str, str]:
        for path, item in self.objects.items():
            node = self.graph.node_at(path)
            if node is not None:
                self._fill(item, self.graph, node)
        return {}

    def _fill(self, item: Any, graph: FileGraph, node: int) -> None:
        # an optimizer below the model is restored with it, as tf.train.Checkpoint does
        met = overlap(KERAS_OBJECTS, item, graph, node, optimizers=True).nodes
        names = {id(variable): name for name, variable in self.weights.items()}
        for variable in KERAS_OBJECTS.variables_below(item).values():
            key = graph.key(met[id(variable)]) if id(variable) in met else None
            if key is None:
                continue
            if id(variable) in names:
                self.pairs[names[id(variable)]] = (key, "path")
            value = value_for(graph.file, key, variable)
            if value is not None:
                variable.assign(value)


@dataclass(kw_only=True)
class _KerasFileWay(_KerasWay):
    """By Keras's load_weights, which pairs by its own rules; `saves`: Keras writes it again."""

    model: Any
    path: Path
    saves: bool
    by: str = "Keras"

    def restore(self) -> dict[str, str]:
        self.model.load_weights(str(self.path))
        return {}

    def write(self, out: str) -> str:
        if not self.saves:
            return super().write(out)
        written = f"{out}.weights.h5"
        self.model.save_weights(written)
        return written

    def left_out(self, written: str | None, unrestored: list[str]) -> dict[str, str]:
        if written is None or not self.saves:
            return {}
        layers = layers_of(self.model)
        return left_out(Path(written), self.weights, layers, unrestored, self.value_of)


@dataclass(kw_only=True)
class _NamesWay(_KerasWay):
    """As names pair the file with the models: no framework loads such files."""

    path: Path

    def restore(self) -> dict[str, str]:
        paths: dict[str, Any] = {}
        for place, item in self.objects.items():
            below = KERAS_OBJECTS.variables_below(item, optimizers=False)
            paths |= {f"{place}/{path}" if place else path: v for path, v in below.items()}

        def write(prefix: str, shown: Mapping[str, Any]) -> None:
            write_objects(prefix, KERAS_OBJECTS, self.objects, shown, self.value_of)

        self.pairs = fill_by_name(write, paths, self.weights, self.path)
        return {}


def _way(
    built: BuiltModels,
    path: Path,
    weights: Mapping[str, Any],
    place: str,
    value_of: Callable[[Any], Array],
) -> _KerasWay:
    """Return how a file of this kind is restored; raises UsageError where that is open."""
    structure = format_of(locate(path).format).structure
    whole = built.objects or {"": built.whole}
    if structure in (KERAS, LEGACY_KERAS):
        model = built.to_run()
        saves = structure == KERAS
        return _KerasFileWay(
            objects={"model": model},
            weights=weights,
            value_of=value_of,
            model=model,
            path=path,
            saves=saves,
        )
    by_name = _NamesWay(objects=whole, weights=weights, value_of=value_of, path=path)
    if structure not in (OBJECT_GRAPH, SAVED_MODEL):
        return by_name
    prefix = path / "variables" / "variables" if (path / "variables").is_dir() else path
    graph = file_graph(prefix)
    if graph is None:
        return by_name
    objects = dict(built.objects)
    if not objects:
        model = built.whole
        what = f"{type(model).__name__} {model.name!r}"
        objects = objects_in(graph, KERAS_OBJECTS, model, built.optimizer, place, what, str(path))
        if not place and not meets(KERAS_OBJECTS, graph, objects):
            objects = dict(lists_in(graph, model))
    if not objects:
        return by_name
    return _ObjectsWay(
        objects=objects, weights=weights, value_of=value_of, places=list(objects), graph=graph
    )
