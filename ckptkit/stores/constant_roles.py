"""What a constant of a graph is for, where only its dtype and shape tell it.

A parameter is a constant of numbers with a fraction and of one axis at least, or one of integers
that is too large to be a shape (a quantised kernel); the rest is configuration.
"""

from __future__ import annotations

from ckptkit.stores.base import TensorSpec

LARGE_CONSTANT = 256  # bytes; smaller ones are shapes, axes and epsilons


def role_of_constant(spec: TensorSpec) -> str:
    """Return weight, table or config."""
    if spec.dtype == "string":
        return "table" if spec.shape else "config"
    is_whole = spec.dtype.startswith(("int", "uint", "bool"))
    is_parameter = spec.nbytes >= LARGE_CONSTANT if is_whole else bool(spec.shape)
    return "weight" if is_parameter else "config"
