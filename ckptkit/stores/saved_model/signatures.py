"""Signatures of a SavedModel: what each takes and gives, and of which MetaGraph it is.

A TensorInfo names one dense tensor, the three of a sparse one, or the components of a composite one
with a TypeSpec, whose state holds shape and dtype.  A default is what an input has where a caller
leaves it out.  TensorFlow before 1.1 wrote an empty shape for
one that it did not know; the graph's placeholder may know it.
Source: tensorflow/core/protobuf/{meta_graph,struct}.proto, python/framework/type_spec.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from ckptkit.dtypes import dtype_of_enum
from ckptkit.errors import UsageError
from ckptkit.stores.base import Signature
from ckptkit.stores.proto.messages import parse
from ckptkit.stores.proto.tensors import numbers_of, text_of
from ckptkit.text import lazy_pattern
from ckptkit.wording import say

SERVE = "serve"  # tag_constants.SERVING
_UNSURE_OF_SHAPES = lazy_pattern(r"(0|1\.0)\.")  # versions of TensorFlow
_FEW_VALUES = 8
_LONG_TEXT = 400  # characters
_MOST_VALUES = 1 << 20
_FEW_REPEATED = 1 << 10
_Shape = tuple[int | None, ...] | None


def signatures_of(graphs: Any, where: str) -> Iterator[Signature]:
    """Yield the signatures of all MetaGraphs, each with the tags of its own.

    Args:
        graphs: RawMetaGraphDefs.
        where: their file, for refusals.
    """
    for graph in graphs:
        tags = tuple(graph.meta_info_def.tags)
        shapes = _shapes_of(graph, where)
        for key in sorted(graph.signature_def):
            message = graph.signature_def[key]
            inputs, outputs = (
                tuple((name, *_type_of(infos[name], shapes)) for name in sorted(infos))
                for infos in (message.inputs, message.outputs)
            )
            defaults = tuple(
                (name, _values_text(message.defaults[name])) for name in sorted(message.defaults)
            )
            yield Signature(key, inputs, outputs, message.method_name, tags, defaults)


def is_called(message: Any) -> bool:
    """Whether a SignatureDef is for callers; those of loaders name ops, which give nothing.

    Source: tensorflow/python/saved_model/signature_def_utils_impl.py (op_signature_def).
    """
    encodings = [(info.WhichOneof("encoding"), info.name) for info in message.outputs.values()]
    return all(kind != "name" or ":" in name for kind, name in encodings)


def notes_on_tags(tags: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    """Return a warning where no MetaGraph has the tag that loaders ask for."""
    if any(SERVE in graph for graph in tags):
        return ()
    there = "; ".join(", ".join(graph) or "none" for graph in tags)
    letters = any(len(graph) > 1 and all(len(tag) == 1 for tag in graph) for graph in tags)
    why = " (a tag for each letter: a text was given where a list is wanted)" if letters else ""
    return (
        f"no graph is tagged {SERVE!r}, as servers and tf.saved_model.load ask for; tags: "
        f"{there}{why}",
    )


def graph_with(tags: Iterable[str], there: Sequence[Sequence[str]], where: str) -> frozenset[str]:
    """Return the tags of the one graph that has just these.

    Args:
        tags: those that were asked for.
        there: the tags of each graph of the file; none for a file without graphs.
        where: the file.

    Raises:
        UsageError: no graph has them; the hint lists those there.
    """
    wanted = frozenset(tags)
    if not any(wanted == {*graph} for graph in there):
        hint = "only SavedModels have graphs with tags"
        raise UsageError(
            f"no graph has the tags {','.join(sorted(wanted)) or '(none)'}",
            where=where,
            hint=f"those there: {_tags_text(there)}" if there else hint,
        )
    return wanted


def graph_to_run(tags: Iterable[str], there: Sequence[Sequence[str]], where: str) -> frozenset[str]:
    """Return the tags of the graph that is run: those asked for, `serve`, or the only one's.

    Raises UsageError as `graph_with` does, and where several graphs could be meant.
    """
    wanted = frozenset(tags)
    if wanted:
        return graph_with(wanted, there, where)
    if len(there) == 1:
        return frozenset(there[0])
    if any({*graph} == {SERVE} for graph in there):
        return frozenset([SERVE])
    raise UsageError(
        f"holds {len(there)} graphs, and none of the tag {SERVE!r} alone",
        where=where,
        hint=say(f"‹tags=TAG,...› chooses one; those there: {_tags_text(there)}"),
    )


def _tags_text(there: Sequence[Sequence[str]]) -> str:
    return "; ".join(",".join(graph) or "none" for graph in there)


def _type_of(info: Any, shapes: Callable[[], Mapping[str, _Shape]]) -> tuple[str, _Shape]:
    """Return dtype and shape of an input or output; "sparse float32" where it is not dense."""
    encoding = info.WhichOneof("encoding")
    if encoding == "composite_tensor":
        return _type_of_composite(info.composite_tensor, shapes)
    dtype, shape = dtype_of_enum(info.dtype), _shape(info.tensor_shape)
    if encoding == "coo_sparse":
        return f"sparse {dtype}", shape
    unsure = not info.HasField("tensor_shape") or shape == ()
    if unsure:
        shape = shapes().get(info.name.partition(":")[0], shape)
    return dtype, shape


def _type_of_composite(
    composite: Any, shapes: Callable[[], Mapping[str, _Shape]]
) -> tuple[str, _Shape]:
    spec = composite.type_spec
    kinds = spec.DESCRIPTOR.fields_by_name["type_spec_class"].enum_type.values_by_number
    kind = kinds[spec.type_spec_class].name if spec.type_spec_class in kinds else "UNKNOWN"
    word = re.sub(r"_(TENSOR_)?SPEC$", "", kind).lower().replace("_", " ")
    if kind in ("UNKNOWN", "REGISTERED_TYPE_SPEC", "EXTENSION_TYPE_SPEC"):
        word = spec.type_spec_class_name.rpartition(".")[2] or "composite"
    dtype, shape = _state(spec.type_state)
    if dtype is None:  # a type of somebody's own: what it is made of is all that is known
        parts = {_type_of(part, shapes)[0] for part in composite.components}
        dtype = " and ".join(sorted(parts)) or "?"
    return f"{word} {dtype}", shape


def _values_text(tensor: Any) -> str:
    """Return the values of a TensorProto as text: a few themselves, many as their SHA-256."""
    import hashlib  # here: few signatures have any
    import json

    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    dtype, size = dtype_of_enum(tensor.dtype), math.prod(shape)
    # one that is written for very many others costs what they all would
    most = min(_MOST_VALUES, _FEW_REPEATED + tensor.ByteSize())
    is_plain = 0 <= size <= most and all(axis >= 0 for axis in shape)
    values = None
    if is_plain:
        values = text_of(tensor, size) if dtype == "string" else numbers_of(tensor, dtype, size)
    if values is None:  # too many, or not to be read
        data = tensor.SerializeToString(deterministic=True)
        return f"sha256:{hashlib.sha256(data).hexdigest()}"
    if size > _FEW_VALUES and dtype != "string":
        stored = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
        text = f"sha256:{hashlib.sha256(stored).hexdigest()}"
    else:
        plain = [_plain(value) for value in values]
        text = json.dumps(plain if shape else plain[0])
        if size > _FEW_VALUES or len(text) > _LONG_TEXT:
            text = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    return f"{text} as [{','.join(map(str, shape))}]" if len(shape) > 1 else text


def _plain(value: Any) -> bool | int | float | str:
    """Return an element of an array for JSON: a number that is written as its dtype writes it."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    number = value.item()
    if isinstance(number, bool | int):
        return number
    return float(str(value)) if isinstance(number, float) else str(number)


def _state(value: Any) -> tuple[str | None, _Shape]:
    """Return the first dtype and the first shape in the state of a TypeSpec."""
    dtype: str | None = None
    shape: _Shape = None
    pending, has_shape = [value], False
    while pending:
        item = pending.pop(0)
        kind = item.WhichOneof("kind")
        if kind == "tensor_dtype_value" and dtype is None:
            dtype = dtype_of_enum(item.tensor_dtype_value)
        elif kind == "tensor_shape_value" and not has_shape:
            shape, has_shape = _shape(item.tensor_shape_value), True
        elif kind in ("list_value", "tuple_value"):
            pending += getattr(item, kind).values
        elif kind == "named_tuple_value":
            pending += [pair.value for pair in item.named_tuple_value.values]
        elif kind == "dict_value":
            fields = item.dict_value.fields
            pending += [fields[key] for key in sorted(fields)]
    return dtype, shape


def _shape(message: Any) -> _Shape:
    if message.unknown_rank:
        return None
    return tuple(None if dim.size < 0 else dim.size for dim in message.dim)


def _shapes_of(graph: Any, where: str) -> Callable[[], Mapping[str, _Shape]]:
    """Return a function that gives what the ops of a graph say of their first output's shape.

    Only for a graph of a TensorFlow that wrote unknown shapes as empty ones: else nothing is read.
    """

    @cache
    def shapes() -> Mapping[str, _Shape]:
        if not _UNSURE_OF_SHAPES.match(graph.meta_info_def.tensorflow_version):
            return {}
        found: dict[str, _Shape] = {}
        for node in parse("GraphDef", graph.graph_def, where).node:
            listed = node.attr["_output_shapes"].list.shape if "_output_shapes" in node.attr else ()
            if listed:
                found[node.name] = _shape(listed[0])
            elif "shape" in node.attr and node.op.startswith("Placeholder"):
                # an empty one is "unknown" here as well
                found[node.name] = _shape(node.attr["shape"].shape) or None
            else:
                found[node.name] = None
        return found

    return shapes
