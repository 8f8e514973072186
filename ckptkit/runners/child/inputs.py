"""The inputs of a case, as the model takes them; in the child, where the model is described first.

The parent fits what a user gives to what a file tells (`ckptkit.model_io.random_inputs`); only here
is it known what a model that had to be loaded takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ckptkit.dtypes import dtype_of_numpy, numpy_dtype
from ckptkit.model_io.signature import ModelSignature, TensorInfo
from ckptkit.runners.errors import refused

if TYPE_CHECKING:
    from ckptkit.dtypes import Array, Arrays


def choose_signature(signatures: Mapping[str, ModelSignature], name: str | None) -> str:
    """Return the signature to run; raises RunnerError, which lists those that there are."""
    names = list(signatures)
    if name is not None and name in names:
        return name
    there = ", ".join(names) or "none"
    if name is not None:
        raise refused(f"no signature {name!r}; there are: {there}")
    for usual in ("serving_default", "call"):
        if usual in names:
            return usual
    if len(names) == 1:
        return names[0]
    raise refused(f"which signature? There are: {there}", "‹signature› names one")


def fit(
    arrays: Arrays, model_signature: ModelSignature, optional: Sequence[str] = ()
) -> dict[str, Array]:
    """Put inputs in the model's order and dtypes.

    Args:
        arrays: by name; the name "" stands for the model's only input.
        optional: names that may be absent.
    Raises:
        RunnerError: of kind "signature", naming what is missing, too much or does not fit.
    """
    inputs = {info.name: info for info in model_signature.inputs}
    if list(arrays) == [""] and len(inputs) == 1:
        arrays = {next(iter(inputs)): arrays[""]}
    missing = [name for name in inputs if name not in arrays and name not in optional]
    extra = [name for name in arrays if name not in inputs]
    if missing or extra:
        parts = [f"no value for {', '.join(map(repr, missing))}"] if missing else []
        parts += [f"no input {', '.join(map(repr, extra))}"] if extra else []
        raise refused(f"{'; '.join(parts)}; the model takes {_listed(model_signature.inputs)}")
    return {name: _fitted(arrays[name], info) for name, info in inputs.items() if name in arrays}


def _fitted(array: Array, info: TensorInfo) -> Array:
    """Return one input in its dtype; a cast must keep every value."""
    shape = info.shape
    if shape is not None and (
        len(shape) != array.ndim
        or any(n not in (None, m) for n, m in zip(shape, array.shape, strict=True))
    ):
        raise refused(f"input {info.name!r} is {info.text}, not of shape {list(array.shape)}")
    dtype = dtype_of_numpy(array.dtype)
    if dtype == info.dtype:
        return array
    if "string" not in (dtype, info.dtype):
        cast = array.astype(numpy_dtype(info.dtype))
        # floats may be rounded; whole numbers must come back as they were
        if dtype.startswith("float") and info.dtype.startswith(("float", "bfloat")):
            return cast
        if (cast.astype(array.dtype) == array).all():
            return cast
    quantised = dtype.startswith("float") and info.dtype in ("int8", "uint8", "int16")
    raise refused(
        f"input {info.name!r} is {info.text}, and {dtype} values do not fit it",
        "convert it with float inputs, or record it on its own runtime" if quantised else "",
    )


def signature_of(arrays: Arrays) -> ModelSignature:
    """Return a signature that these inputs fit, for a model that tells none."""
    infos = [
        TensorInfo(
            name, dtype_of_numpy(array.dtype), (None, *array.shape[1:]) if array.ndim else ()
        )
        for name, array in arrays.items()
    ]
    return ModelSignature(tuple(infos), ())


def _listed(infos: Sequence[TensorInfo]) -> str:
    return ", ".join(f"{info.name} ({info.text})" for info in infos) or "nothing"
