"""What the calls in a pickle of PyTorch make: mappings, modules, parameters, tensors, optimizers.

A call is told by what it calls and by what it is given, never by running it.  Source:
torch/_utils.py, torch/_tensor.py, torch/nn/modules/module.py, Lib/pickle.py of CPython.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ckptkit.stores.pytorch.pickle_machine import Global, Persistent, PickledCall

# Of a quantised tensor these are the integers as they are stored.
OF_TENSORS = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_qtensor")
OF_TENSORS_OF_BYTES = "_rebuild_tensor_v3"
OF_PARAMETERS = ("_rebuild_parameter", "_rebuild_parameter_with_state")
OF_SUBCLASSES = ("_rebuild_from_type", "_rebuild_from_type_v2")
# Parts of a sparse tensor by its layout; the last is its shape.
_BY_ROWS = ("crow_indices", "col_indices", "values", "shape")
_BY_COLUMNS = ("ccol_indices", "row_indices", "values", "shape")
_SPARSE = {
    "sparse_coo": ("indices", "values", "shape"),
    "sparse_csr": _BY_ROWS,
    "sparse_bsr": _BY_ROWS,
    "sparse_csc": _BY_COLUMNS,
    "sparse_bsc": _BY_COLUMNS,
}
# What a module keeps its tensors in, which is in no name of `state_dict()`.
OF_MODULE = ("_parameters", "_buffers", "_modules")
_OF_MAPPINGS = ("collections", "builtins", "__builtin__")  # the last is that of Python 2
OF_TORCH = ("torch._utils", "torch._tensor")


def named_entries(entries: Iterable[tuple[Any, Any]]) -> Iterator[tuple[str, Any]]:
    """Yield (segment of the name, value) of a mapping's entries: the key, as Python writes it.

    A key that is an object (an optimizer's own state has parameters) stands for its number.
    """
    for index, (key, inner) in enumerate(entries):
        if isinstance(key, str):
            yield key, inner
        else:
            yield str(key)[:200] if _is_plain(key) else str(index), inner


def _is_plain(key: Any) -> bool:
    """Whether a key of a mapping is written as one value, and not by where it lies in memory."""
    if isinstance(key, tuple) and not isinstance(key, (Global, Persistent)):
        return all(map(_is_plain, key))
    return key is None or isinstance(key, (str, bytes, int, float, complex, Global))


def attributes_of(call: PickledCall) -> Iterator[tuple[str, Any]]:
    """Yield (segment of the name, value) of what BUILD gives an object: its attributes, mostly.

    A dict is the object's own; a pair has that, or None, and a dict of its slots.
    Source: Lib/pickle.py (`load_build`).
    """
    state = call.state
    parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    if all(part is None or isinstance(part, dict) for part in parts):
        for part in parts:
            yield "", part
    else:
        yield str(len(call.args) + len(call.values)), state


def name_of(function: Any) -> str:
    """Return the name of what a pickle names, "" of anything else."""
    return function.name if isinstance(function, Global) else ""


def module_of(function: Any) -> str:
    """Return the module of what a pickle names, "" of anything else."""
    return function.module if isinstance(function, Global) else ""


def is_mapping(call: PickledCall) -> bool:
    """Whether a call makes a mapping: an OrderedDict, a defaultdict, a Counter."""
    if module_of(call.function) not in _OF_MAPPINGS or call.values:
        return False
    is_called_so = name_of(call.function).lower().endswith(("dict", "counter"))
    return bool(call.items or (is_called_so and (not call.args or _pairs(call))))


def items_of(value: Any) -> Iterable[tuple[Any, Any]]:
    """Return the entries of a mapping; none of what is no mapping."""
    if isinstance(value, dict):
        return value.items()
    if isinstance(value, PickledCall) and is_mapping(value):
        return entries_of((*_pairs(value), *value.items))
    return ()


def entries_of(pairs: Iterable[tuple[Any, Any]]) -> Iterable[tuple[Any, Any]]:
    """Return the entries of a mapping that is given these pairs: of one key, the last."""
    found: dict[Any, tuple[Any, Any]] = {}
    for key, value in pairs:
        try:
            found[key] = (key, value)
        except TypeError:  # no key of a mapping: what reads the pickle fails on it
            found[id(key)] = (key, value)
    return found.values()


def _pairs(call: PickledCall) -> list[Any]:
    """Return the keys and values that a mapping is made of, as Python 2 pickles an OrderedDict."""
    pairs = call.args[0] if len(call.args) == 1 else None
    if isinstance(pairs, list) and all(isinstance(p, (list, tuple)) and len(p) == 2 for p in pairs):
        return pairs
    return []


def is_rebuilt(call: PickledCall) -> bool:
    """Whether a call makes a tensor of any kind, of whatever parts."""
    return name_of(call.function).startswith("_rebuild_")


def parts_of_sparse(call: PickledCall) -> list[tuple[str, Any]]:
    """Return (name, value) of what a sparse tensor is made of, its shape last; [] for others.

    Source: torch/_utils.py (`_rebuild_sparse_tensor`).
    """
    if module_of(call.function) not in OF_TORCH or len(call.args) != 2:
        return []
    layout, parts = call.args
    if name_of(call.function) != "_rebuild_sparse_tensor" or not isinstance(parts, tuple):
        return []
    if isinstance(layout, PickledCall) and len(layout.args) == 1:  # _get_layout("torch.sparse_coo")
        layout = layout.args[0]
    names = _SPARSE.get(str(layout).removeprefix("torch."), ())
    return list(zip(names, parts, strict=False)) if len(parts) >= len(names) else []


def is_parameter(call: PickledCall) -> bool:
    """Whether a call makes a parameter of a tensor, its first argument."""
    return name_of(call.function) in OF_PARAMETERS and len(call.args) > 0


def is_without_shape(call: PickledCall) -> bool:
    """Whether a call makes a parameter or buffer that a lazy module has not given a shape yet."""
    return module_of(call.function) == "torch.nn.parameter" and "Uninitialized" in name_of(
        call.function
    )


def kind_of_rebuilt(call: PickledCall) -> str:
    """Return what torch rebuilds, in words: "sparse tensor", "nested tensor", "NestedTensor"."""
    name = name_of(call.function)
    if name in OF_SUBCLASSES and len(call.args) > 1 and isinstance(call.args[1], Global):
        return call.args[1].name
    return name.removeprefix("_rebuild_").replace("_", " ")


def is_module(call: PickledCall) -> bool:
    """Whether a call makes a `torch.nn.Module`, whatever its class: by what it keeps."""
    return isinstance(call.state, dict) and all(kind in call.state for kind in OF_MODULE)


def plain_attributes(module: PickledCall) -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of what a module holds beside parameters, buffers and modules."""
    yield from named_entries(
        (key, value) for key, value in module.state.items() if key not in OF_MODULE
    )


def is_tensor(call: PickledCall) -> bool:
    """Whether a call makes one tensor, of whatever class; not: out of several others."""
    names = (*OF_TENSORS, OF_TENSORS_OF_BYTES, *OF_SUBCLASSES)
    return module_of(call.function) in OF_TORCH and name_of(call.function) in names


def is_optimizer(value: dict[Any, Any]) -> bool:
    """Whether a dict is what an optimizer's `state_dict()` gives."""
    groups, state = value.get("param_groups"), value.get("state")
    is_called = isinstance(state, PickledCall) and is_mapping(state)
    return isinstance(groups, list) and (isinstance(state, dict) or is_called)


def named_parameters(groups: list[Any]) -> Iterator[tuple[Any, str]]:
    """Yield (number, name) of the parameters of an optimizer's groups that were given names."""
    for group in groups:
        if isinstance(group, dict) and isinstance(group.get("param_names"), list):
            numbers = group.get("params")
            for number, name in zip(numbers or (), group["param_names"], strict=False):
                if isinstance(name, str) and isinstance(number, int):
                    yield number, name
