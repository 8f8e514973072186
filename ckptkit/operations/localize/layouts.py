"""Values inside of two models that keep their axes in another order, held against each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ckptkit.model_io.layouts import Layout, layouts
from ckptkit.operations.localize.op_names import is_converted, op_of, values_are_ops
from ckptkit.operations.localize.pairs import Shaped
from ckptkit.runners.types import owner_and_op
from ckptkit.stores.registry import CODE

if TYPE_CHECKING:
    from ckptkit.dtypes import Array
    from ckptkit.model_io.sampling import Sample

    Values = Mapping[str, Array | Sample]


def shaped(values: Values, kind: str) -> Iterator[Shaped]:
    """Yield what pairing needs of each value; kind: of the subject that has them."""
    # of code that is no Keras model, where each variable's reader is named with its owner
    owned = kind == CODE and any(owner_and_op(name)[0] for name in values)
    for name, dtype, shape in _specs(values):
        owner, op = owner_and_op(name) if kind == CODE else ("", name)
        is_op = values_are_ops(kind) or owned
        yield Shaped(name, shape, is_op, dtype, op_of(op, kind), is_converted(kind), owner)


def _specs(values: Values) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yield (name, dtype, shape); those that lie in files are not read for it."""
    from ckptkit.dtypes import dtype_of_numpy
    from ckptkit.model_io.sampling import Sample

    chunks: Any = getattr(values, "chunks", None)
    if chunks is None:
        for name, value in values.items():
            dtype = value.dtype if isinstance(value, Sample) else dtype_of_numpy(value.dtype)
            yield name, dtype, tuple(value.shape)
        return
    for chunk in chunks:
        for name in chunk["names"]:
            row = chunk["described"][name]
            yield name, row["dtype"], tuple(row["shape"])


def moved(
    known: Values, mine: Values, paired: Mapping[str, str], *, reorder: bool
) -> dict[str, Layout]:
    """Return {value here: how the reference's becomes it}, where that is not as it is.

    paired: {value here: value of the reference}.  reorder: whether axes may change places.  Of
    several orders that give the shape, the one in which the values are nearest.
    """
    new = {name: shape for name, _, shape in _specs(mine)}
    old = {name: shape for name, _, shape in _specs(known)}
    found = {}
    for here, there in paired.items():
        orders = [o for o in layouts(old[there], new[here]) if reorder or o.is_plain]
        best = orders[0]
        if len(orders) > 1 and hasattr(known[there], "transpose"):
            best = min(orders, key=lambda order: _apart(known[there], mine[here], order))
        if not best.is_plain or old[there] != new[here]:
            found[here] = best
    return found


def _apart(known: Any, mine: Any, order: Layout) -> float:
    import numpy as np

    gap = np.abs(order.of(known).astype(np.float64) - mine)
    return float(np.nansum(gap))


def same_value(values: Values, wanted: Any) -> str | None:
    """Return the last of the values that is this one, to the bit; None where none is."""
    import numpy as np

    dtype = getattr(wanted, "dtype", None)
    alike = [name for name, _, shape in _specs(values) if shape == tuple(wanted.shape)]
    for name in reversed(alike):
        value = values[name]
        if getattr(value, "dtype", None) == dtype and _same(np, value, wanted):
            return name
    return None


def _same(np: Any, one: Any, other: Any) -> bool:
    if hasattr(one, "values") or hasattr(other, "values"):  # samples
        return hasattr(one, "values") and hasattr(other, "values") and one.norms == other.norms
    return bool(np.array_equal(one, other))


class Inside(Mapping[str, "Array | Sample"]):
    """Values inside of a model, with some of its outputs, some in another layout."""

    def __init__(
        self, values: Values, outputs: Values, orders: Mapping[str, Layout] | None = None
    ) -> None:
        self._values = values
        self._outputs = outputs
        self._orders = orders or {}

    def __getitem__(self, name: str) -> Any:
        value: Any = self._outputs[name] if name in self._outputs else self._values[name]
        order = self._orders.get(name)
        return order.of(value) if order is not None and hasattr(value, "transpose") else value

    def __iter__(self) -> Iterator[str]:
        yield from self._values
        yield from self._outputs

    def __len__(self) -> int:
        return len(self._values) + len(self._outputs)
