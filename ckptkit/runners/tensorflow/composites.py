"""Sparse, ragged and other composite inputs: as the dense parts that are given.  Child process.

    x/indices, x/values, x/dense_shape     a sparse input x (tf.SparseTensor)
    x/values, x/row_splits, x/row_splits_1 a ragged one (tf.RaggedTensor), the outer splits first
    x/0, x/1, ...                          any other one, in the order of its TypeSpec

A signature that TensorFlow 2 saved has no composite inputs: it takes the parts as inputs of their
own, `x`, `x_1` and `x_2`.  What the exported function was called with tells which belong together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ckptkit.model_io.signature import InputPart, TensorInfo
from ckptkit.runners.tensorflow.module import tensorflow

SPARSE, RAGGED = "sparse", "ragged"
SPARSE_ROLES = ("indices", "values", "dense_shape")
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_SPLITS = ("int64", "int32")


def info_of(name: str, spec: Any, part: InputPart | None = None) -> TensorInfo:
    """Return the info of a TensorSpec, a tensor or a Keras tensor."""
    tf = tensorflow()
    shape = tf.TensorShape(spec.shape)
    sizes = None if shape.rank is None else tuple(shape.as_list())
    return TensorInfo(name, str(tf.as_dtype(spec.dtype).base_dtype.name), sizes, part)


def is_composite(spec: Any) -> bool:
    """Whether a TypeSpec is of several tensors."""
    tf = tensorflow()
    return isinstance(spec, tf.TypeSpec) and not isinstance(spec, tf.TensorSpec)


def parts_of(name: str, spec: Any) -> list[TensorInfo]:
    """Return the dense parts of a composite TypeSpec, in the order in which tf.nest has them."""
    tf = tensorflow()
    flat = tf.nest.flatten(spec, expand_composites=True)
    if isinstance(spec, tf.SparseTensorSpec):
        return sparse_parts(name, info_of(name, spec))
    if isinstance(spec, tf.RaggedTensorSpec):
        return list(_ragged(name, [info_of(name, item) for item in flat]))
    return [info_of(f"{name}/{number}", item) for number, item in enumerate(flat)]


def sparse_parts(name: str, whole: TensorInfo) -> list[TensorInfo]:
    """Return the three parts of a sparse tensor; whole: its dtype and shape."""
    rank = None if whole.shape is None else len(whole.shape)
    described = (("int64", (None, rank)), (whole.dtype, (None,)), ("int64", (rank,)))
    return [
        TensorInfo(f"{name}/{role}", dtype, shape, InputPart(name, SPARSE, role, whole.shape))
        for role, (dtype, shape) in zip(SPARSE_ROLES, described, strict=True)
    ]


def ragged_parts(name: str, parts: Sequence[TensorInfo]) -> list[TensorInfo]:
    """Return the parts of a ragged tensor under their names; parts: values, then splits."""
    return list(_ragged(name, parts))


def _ragged(name: str, parts: Sequence[TensorInfo]) -> Iterator[TensorInfo]:
    for number, info in enumerate(parts):
        role = "row_splits" if number else "values"
        suffix = f"_{number - 1}" if number > 1 else ""
        yield info._replace(name=f"{name}/{role}{suffix}", part=InputPart(name, RAGGED, role))


# -- what the flat inputs of a signature are parts of ----------------------------------------------


def exported_functions(loaded: Any) -> dict[str, Any]:
    """Return {name: ConcreteFunction} of the functions that a loaded SavedModel leads to."""
    from tensorflow.python.checkpoint.trackable_view import TrackableView

    found: dict[str, Any] = {}
    waiting, seen = [loaded], {id(loaded)}
    while waiting:
        item = waiting.pop()
        for function in getattr(item, "concrete_functions", ()):
            found[_text(function.name)] = function
        try:
            children = TrackableView.children(item).values()
        except (AttributeError, NotImplementedError, TypeError):
            continue
        new = [child for child in children if id(child) not in seen]
        seen |= {id(child) for child in new}
        waiting += new
    return found


def grouped(
    infos: Sequence[TensorInfo], function: Any, exported: Mapping[str, Any]
) -> tuple[TensorInfo, ...]:
    """Return the inputs of a signature, each told which part of a composite tensor it is.

    A signature calls the function that was exported.  Where that is one of `exported`, it tells;
    else its arguments carry the name of the parameter that they were given as, and those of one
    parameter are taken for a sparse or ragged tensor where dtypes and shapes are those of its
    parts.

    function: the ConcreteFunction of the signature.
    """
    by_name = {info.name: info for info in infos}
    for name, members, spec in _arguments(function, exported):
        inputs = [by_name[member] for member in members if member in by_name]
        if spec is None:
            by_name |= {info.name: info for info in _as_parts(name, inputs)}
        else:
            parts = [info.part for info in parts_of(name, spec)]
            pairs = zip(inputs, parts, strict=True)
            by_name |= {info.name: info._replace(part=part) for info, part in pairs}
    return tuple(by_name[info.name] for info in infos)


def _arguments(function: Any, exported: Mapping[str, Any]) -> Iterator[tuple[str, list[str], Any]]:
    """Yield (parameter, the signature's inputs that are passed for it, composite TypeSpec or None).

    Without what goes by one input.
    """
    graph = function.graph.as_graph_def()
    functions = {item.signature.name: item for item in graph.library.function}
    names = {tensor.op.name: tensor.op.name for tensor in function.graph.inputs}
    calls = [node for node in graph.node if node.op in _CALLS]
    # a signature is a call of a call: names go through as long as there is one call alone
    while len(calls) == 1:
        inner = functions[calls[0].attr["f"].func.name]
        passed = [item.partition(":")[0] for item in calls[0].input if not item.startswith("^")]
        inside = [argument.name for argument in inner.signature.input_arg]
        names = {
            argument: names[given]
            for argument, given in zip(inside, passed, strict=True)
            if given in names
        }
        if inner.signature.name in exported:
            there = exported[inner.signature.name]
            yield from _by_specs(there.structured_input_signature, [names.get(n) for n in inside])
            return
        groups: dict[str, list[str]] = {}
        for number, argument in enumerate(inside):
            user = inner.arg_attr[number].attr["_user_specified_name"].s.decode()
            if argument in names and user:
                groups.setdefault(user, []).append(names[argument])
        if any(len(members) > 1 for members in groups.values()):
            yield from ((user, members, None) for user, members in groups.items())
            return
        calls = [node for node in inner.node_def if node.op in _CALLS]


def _by_specs(structure: Any, names: Sequence[str | None]) -> Iterator[tuple[str, list[str], Any]]:
    """Yield the composite ones; names: of the inputs in flat order, None for what is captured."""
    tf = tensorflow()
    at = 0
    for spec in tf.nest.flatten(structure, expand_composites=False):
        if not isinstance(spec, tf.TypeSpec):
            continue
        width = len(tf.nest.flatten(spec, expand_composites=True))
        members = [name for name in names[at : at + width] if name is not None]
        at += width
        if is_composite(spec) and len(members) == width:
            yield members[0], members, spec


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _as_parts(name: str, infos: Sequence[TensorInfo]) -> Iterator[TensorInfo]:
    """Yield the inputs with their parts, where they are those of one sparse or ragged tensor."""
    dtypes = [info.dtype for info in infos]
    shapes = [info.shape or () for info in infos]
    ranks = [len(shape) for shape in shapes]
    if ranks == [2, 1, 1] and dtypes[0] == dtypes[2] == "int64" and shapes[0][1] == shapes[2][0]:
        for info, role in zip(infos, SPARSE_ROLES, strict=True):
            whole = (None,) * (shapes[2][0] or 0) or None
            yield info._replace(part=InputPart(name, SPARSE, role, whole))
    elif len(infos) > 1 and ranks[0] and {*shapes[1:]} == {(None,)} and _are_splits(dtypes[1:]):
        for number, info in enumerate(infos):
            yield info._replace(part=InputPart(name, RAGGED, "row_splits" if number else "values"))


def _are_splits(dtypes: Sequence[str]) -> bool:
    return len({*dtypes}) == 1 and dtypes[0] in _SPLITS


# -- putting parts together ------------------------------------------------------------------------


def assembled(name: str, spec: Any, tensors: Mapping[str, Any]) -> Any:
    """Return the composite tensor of a TypeSpec, of its parts by name."""
    tf = tensorflow()
    parts = [tensors[info.name] for info in parts_of(name, spec)]
    if isinstance(spec, tf.SparseTensorSpec):
        return tf.SparseTensor(*parts)
    if isinstance(spec, tf.RaggedTensorSpec):
        return tf.RaggedTensor.from_nested_row_splits(parts[0], parts[1:], validate=True)
    return tf.nest.pack_sequence_as(spec, parts, expand_composites=True)
