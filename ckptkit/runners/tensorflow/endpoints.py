"""What of a model can be called, by which names its inputs and outputs go.  Child process alone.

Outputs go by the names of `ckptkit.runners.child.trees`; a ragged or sparse one comes as its parts:
`name/values`, `name/row_splits`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ckptkit.errors import UnsupportedError
from ckptkit.model_io.signature import ModelSignature, TensorInfo
from ckptkit.runners.child import trees as _trees
from ckptkit.runners.tensorflow.build import is_keras
from ckptkit.runners.tensorflow.composites import (
    assembled,
    exported_functions,
    grouped,
    info_of,
    is_composite,
    parts_of,
)
from ckptkit.runners.tensorflow.module import tensorflow

CALL = "call"

Tensors = Mapping[str, Any]


@dataclass(frozen=True)
class Endpoint:
    """One way to call a model.

    call: takes {name: tensor}, returns {name: tensor}.  inputs: None where the model tells none.
    outputs: empty where they are not known before it runs.  concrete: the graph that is called, of
    a SavedModel.  optional: inputs that may be left out.
    """

    name: str
    call: Callable[[Tensors], dict[str, Any]]
    inputs: tuple[TensorInfo, ...] | None
    outputs: tuple[TensorInfo, ...] = ()
    concrete: Any = None
    optional: tuple[str, ...] = ()

    @property
    def model_signature(self) -> ModelSignature | None:
        return None if self.inputs is None else ModelSignature(self.inputs, self.outputs)


# -- SavedModels -----------------------------------------------------------------------------------


def signatures_of(loaded: Any) -> dict[str, Endpoint]:
    """Return the signatures of a SavedModel; of one without, its functions that have one graph."""
    functions = dict(loaded.signatures) or dict(_lone_functions(loaded))
    exported = exported_functions(loaded)
    return {key: _of_concrete(key, item, exported) for key, item in sorted(functions.items())}


def _lone_functions(loaded: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a SavedModel without signatures can be called by."""
    for name in dir(loaded):
        if name.startswith("_") and name != "__call__":
            continue
        graphs: Any = getattr(getattr(loaded, name, None), "concrete_functions", ())
        if len(graphs) == 1:
            yield (CALL if name == "__call__" else name), graphs[0]


def _of_concrete(key: str, function: Any, exported: Mapping[str, Any] | None = None) -> Endpoint:
    tf = tensorflow()
    structure: Any = function.structured_input_signature
    leaves = tf.nest.flatten(structure, expand_composites=False)
    specs = _named_specs(function, structure)
    infos = [
        info
        for name, spec in specs.items()
        for info in (parts_of(name, spec) if is_composite(spec) else [info_of(name, spec)])
    ]

    def call(inputs: Tensors) -> dict[str, Any]:
        values = iter(
            assembled(name, spec, inputs) if is_composite(spec) else inputs[name]
            for name, spec in specs.items()
        )
        if set(specs) <= set(structure[1]):  # all by keyword
            return named(function(**dict(zip(specs, values, strict=True))))
        flat = [next(values) if isinstance(leaf, tf.TypeSpec) else leaf for leaf in leaves]
        args, options = tf.nest.pack_sequence_as(structure, flat, expand_composites=False)
        return named(function(*args, **options))

    outputs = _infos(named(function.structured_outputs))
    return Endpoint(key, call, grouped(infos, function, exported or {}), outputs, concrete=function)


def _named_specs(function: Any, structure: Any) -> dict[str, Any]:
    """Return {name: TypeSpec} of what a function takes, in the order in which tf.nest has it.

    A keyword goes by itself.  Others go by the name of their TensorSpec, which has that of the
    argument in it; composite ones, and those that share a name, by the path to them: `x/a/0`.
    """
    from tensorflow.python.util import nest

    args, options = structure
    parameters = list(getattr(getattr(function, "function_type", None), "parameters", {}))
    found: dict[str, Any] = {}
    for (side, first, *rest), spec in nest.flatten_with_tuple_paths([list(args), options]):
        if not isinstance(spec, tensorflow().TypeSpec):
            continue
        argument = str(first)
        if side == 0:
            argument = parameters[first] if first < len(parameters) else f"input_{first}"
        whole = "/".join([argument, *map(str, rest)])
        own = getattr(spec, "name", None) if side == 0 or rest else whole
        name = own if own and not is_composite(spec) and own not in found else whole
        found[name] = spec
    return found


# -- live models -----------------------------------------------------------------------------------


def calls_of(model: Any, seen: Mapping[str, Any] | None = None) -> dict[str, Endpoint]:
    """Return the ways to call a live model; seen: specs of what it was built with, by argument."""
    tf = tensorflow()
    if is_keras(model):
        return {CALL: _keras_call(model, seen)}
    found = {}
    for name in ("__call__", *(n for n in dir(type(model)) if not n.startswith("_"))):
        method = getattr(model, name, None)
        signature = getattr(method, "input_signature", None)
        if isinstance(method, tf.types.experimental.PolymorphicFunction) and signature is not None:
            key = CALL if name == "__call__" else name
            found[key] = _of_concrete(key, method.get_concrete_function())
    if not found and callable(model):
        specs = None if seen is None else {n: info_of(n, spec) for n, spec in seen.items()}
        found[CALL] = Endpoint(
            CALL, _plain_call(model), None if specs is None else tuple(specs.values())
        )
    return found


def _plain_call(model: Any) -> Callable[[Tensors], dict[str, Any]]:
    options = _inference(model)

    def call(inputs: Tensors) -> dict[str, Any]:
        if len(inputs) == 1:
            return named(model(*inputs.values(), **options))
        return named(model(**inputs, **options))

    return call


def _inference(model: Any) -> dict[str, Any]:
    """Return {"training": False} for a model that takes it."""
    if is_keras(model):
        return {"training": False}
    try:
        parameters = inspect.signature(model.__call__).parameters
    except (TypeError, ValueError):
        return {}
    return {"training": False} if "training" in parameters else {}


def _keras_call(model: Any, seen: Mapping[str, Any] | None) -> Endpoint:
    tree = _inputs_tree(model)
    if tree is None:
        specs = seen if seen is not None else _built_with(model)
        infos = None
        if specs is not None:
            infos = tuple(info_of(name, spec) for name, spec in specs.items())
        return Endpoint(CALL, _plain_call(model), infos)
    tf = tensorflow()
    names = [_input_name(tensor) for tensor in tf.nest.flatten(tree)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UnsupportedError(f"several inputs of the model are called {twice[0]!r}")
    specs = {_input_name(tensor): _input_spec(tensor) for tensor in tf.nest.flatten(tree)}
    parts = {n: _infos_of(n, tensor, specs[n]) for n, tensor in _by_name(tree).items()}
    optional = tuple(
        info.name
        for tensor in tf.nest.flatten(tree)
        if _operation(tensor, "optional")
        for info in parts[_input_name(tensor)]
    )

    def value(tensor: Any, inputs: Tensors) -> Any:
        name = _input_name(tensor)
        if specs[name] is None:
            return inputs.get(name)
        given = all(info.name in inputs for info in parts[name])
        return assembled(name, specs[name], inputs) if given else None

    def call(inputs: Tensors) -> dict[str, Any]:
        values = tf.nest.map_structure(lambda tensor: value(tensor, inputs), tree)
        return named(model(values, training=False), _output_names(model))

    infos = tuple(info for name in names for info in parts[name])
    return Endpoint(CALL, call, infos, _keras_outputs(model), optional=optional)


def _by_name(tree: Any) -> dict[str, Any]:
    return {_input_name(tensor): tensor for tensor in tensorflow().nest.flatten(tree)}


def _infos_of(name: str, tensor: Any, spec: Any) -> Sequence[TensorInfo]:
    return [info_of(name, tensor)] if spec is None else parts_of(name, spec)


def _inputs_tree(model: Any) -> Any:
    """Return the nested inputs of a Functional or Sequential model; None of others."""
    tree = getattr(model, "_inputs_struct", None)
    if tree is None:
        tree = getattr(getattr(model, "_functional", None), "_inputs_struct", None)
    if tree is None:  # Keras 2
        try:
            tree = getattr(model, "_nested_inputs", None)  # a symbolic tensor has no truth value
            tree = model.inputs if tree is None else tree
        except (AttributeError, ValueError):
            return None
    if isinstance(tree, (list, tuple)) and len(tree) == 1:
        tree = tree[0]
    return tree


def _operation(tensor: Any, attribute: str) -> Any:
    history = getattr(tensor, "_keras_history", None)
    operation = getattr(history, "operation", None) or getattr(history, "layer", None)
    return getattr(operation, attribute, None)


def _input_name(tensor: Any) -> str:
    """Return the name of an input's layer, which files keep, unlike that of its tensor."""
    return str(_operation(tensor, "name") or tensor.name)


def _input_spec(tensor: Any) -> Any:
    """Return the TypeSpec of a sparse or ragged input of Keras; None of a dense one."""
    tf = tensorflow()
    own = getattr(tensor, "type_spec", None)  # Keras 2
    if own is not None and is_composite(own):
        return own
    shape, dtype = tf.TensorShape(tensor.shape), tf.as_dtype(tensor.dtype)
    if getattr(tensor, "sparse", False) or _operation(tensor, "sparse"):
        return tf.SparseTensorSpec(shape, dtype)
    if getattr(tensor, "ragged", False) or _operation(tensor, "ragged"):
        # Keras 3 keeps no ragged rank: the last axis of open length is the innermost ragged one
        open_axes = [axis for axis, size in enumerate(shape.as_list()) if size is None and axis]
        return tf.RaggedTensorSpec(shape, dtype, ragged_rank=max(open_axes, default=1))
    return None


def _built_with(model: Any) -> dict[str, Any] | None:
    """Return specs by argument of what a subclassed Keras 3 model was built with."""
    tf = tensorflow()
    shapes = getattr(model, "_build_shapes_dict", None)
    if shapes is None and hasattr(model, "save_spec"):
        return _called_with(model)
    if not isinstance(shapes, Mapping) or not shapes:
        return None
    names = [name.removesuffix("_shape") for name in shapes]
    if names == ["input"]:
        names = list(inspect.signature(model.call).parameters)[:1] or ["input"]
    specs = {}
    for name, shape in zip(names, shapes.values(), strict=True):
        if not _is_shape(shape):
            raise UnsupportedError(
                f"input {name!r} is nested, in a subclassed model: its parts have no names",
                hint="give the model an argument for each, or make it Functional",
            )
        specs[name] = tf.TensorSpec([None, *tuple(shape)[1:]], model.input_dtype, name)
    return specs


def _called_with(model: Any) -> dict[str, Any] | None:
    """Return specs by argument of the last call of a Keras 2 model; None where it was not called.

    https://www.tensorflow.org/api_docs/python/tf/keras/Model#save_spec
    """
    tf = tensorflow()
    try:
        spec = model.save_spec()
    except ValueError:  # called with something else than tensors
        return None
    if spec is None:
        return None
    bound = inspect.signature(model.call).bind(*spec[0], **spec[1]).arguments
    specs = {name: spec for name, spec in bound.items() if name not in ("training", "mask")}
    return specs if all(isinstance(spec, tf.TensorSpec) for spec in specs.values()) else None


def _is_shape(value: Any) -> bool:
    sizes = isinstance(value, (list, tuple)) and all(n is None or type(n) is int for n in value)
    return sizes and len(value) > 0


def _output_names(model: Any) -> Sequence[str] | None:
    inner = getattr(model, "_functional", None)
    names = getattr(model, "output_names", None) or getattr(inner, "output_names", None)
    return list(names) if names else None


def _keras_outputs(model: Any) -> tuple[TensorInfo, ...]:
    tree = getattr(model, "_outputs_struct", None)
    if tree is None:
        tree = getattr(getattr(model, "_functional", None), "_outputs_struct", None)
    return () if tree is None else _infos(named(tree, _output_names(model)))


# -- names -----------------------------------------------------------------------------------------


def named(value: Any, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Return {name: tensor} of whatever a model gave; names: of Keras, for outputs in a list."""
    return _trees.named(value, names, _parts)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield (name of the part, tensor) of a ragged or sparse value; ("", value) of a dense one."""
    tf = tensorflow()
    if isinstance(value, (tf.RaggedTensor, tf.RaggedTensorSpec)) and hasattr(value, "flat_values"):
        yield "values", value.flat_values
        for number, splits in enumerate(value.nested_row_splits):
            yield "row_splits" + (f"_{number}" if number else ""), splits
    elif isinstance(value, tf.SparseTensor):
        yield from (("indices", value.indices), ("values", value.values))
        yield "dense_shape", value.dense_shape
    elif isinstance(value, tf.IndexedSlices):
        yield "", tf.convert_to_tensor(value)
    else:
        yield "", value


def _infos(tensors: Tensors) -> tuple[TensorInfo, ...]:
    return tuple(info_of(name, t) for name, t in tensors.items() if hasattr(t, "dtype"))
