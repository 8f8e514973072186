"""In which order a model has its layers, as far as its file tells."""

from __future__ import annotations

from collections.abc import Mapping

from ckptkit.align.types import TensorSet
from ckptkit.align.variable_lists import model_order
from ckptkit.checkpoint.checkpoint import Checkpoint


def model_positions(checkpoint: Checkpoint) -> Mapping[str, int]:
    """Return the place of each weight in the order in which the model has its variables.

    Lists of trainable variables and of the others are not ordered against each other, so the places
    are those in the longest list alone.

    Args:
        checkpoint: of which its structure is asked.

    Returns:
        {key: place}; empty where the file tells no order.  Weights may lack.
    """
    side = TensorSet(checkpoint.specs, checkpoint.names, structure=checkpoint.structure)
    order = model_order(side)
    first = max(order.mixed or order.trained, key=len, default=())
    return {key: place for place, key in enumerate(first)}
