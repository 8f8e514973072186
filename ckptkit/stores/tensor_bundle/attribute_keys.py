"""Which tensors of a checkpoint an attribute of its object graph stands for.

The key of a variable's attribute (`VARIABLE_VALUE`) is that of its tensor.  Objects that save more
than one tensor, or a state that is no variable, add to the key that the graph has: a lookup table
`-keys` and `-values`, an iterator `_STATE`.
Source: tensorflow/python/ops/lookup_ops.py (MutableHashTable, DenseHashTable: _Saveable),
tensorflow/python/data/ops/iterator_ops.py.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

_SEPARATORS = "-_"


def added_keys(stored: Iterable[str], attribute_keys: Container[str]) -> Mapping[str, list[str]]:
    """Return the tensors that are stored under more than the key of their attribute.

    Args:
        stored: keys of the checkpoint.
        attribute_keys: keys that the graph's attributes have.

    Returns:
        {key of an attribute: keys of its tensors, sorted}; those of `stored` that are the own key
        of an attribute, or nobody's, are left out.
    """
    families: dict[str, list[str]] = {}
    for key in sorted(stored):
        if key in attribute_keys:
            continue
        ends = (at for at in range(len(key) - 1, 0, -1) if key[at] in _SEPARATORS)
        stem = next((key[:at] for at in ends if key[:at] in attribute_keys), None)
        if stem is not None:
            families.setdefault(stem, []).append(key)
    return families
