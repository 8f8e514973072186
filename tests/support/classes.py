"""What is a class, in every version of Python."""

from __future__ import annotations

from typing import Any, TypeGuard


def is_class(value: Any) -> TypeGuard[type[Any]]:
    """Whether a value is a class; `inspect.isclass` says so of `list[int]` up to Python 3.10."""
    return issubclass(type(value), type)
