"""How the layers of a Keras model are quantised.  Child process alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def quantisation_of(layers: Iterable[Any]) -> str:
    """Return the modes of the layers that are quantised, "int8"; "" where none is."""
    modes = (getattr(layer, "quantization_mode", None) for layer in layers)
    return ", ".join(sorted({str(mode) for mode in modes if mode}))
