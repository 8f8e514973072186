"""What lookup tables hold that are saved as tensors: their keys and values, in no order.

A MutableHashTable writes two tensors below its object, `table-keys` and `table-values`
(tensorflow/python/ops/lookup_ops.py, `MutableHashTable._Saveable`), in the order of its buckets,
which is another one in every run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ckptkit.checkpoint.checkpoint import Checkpoint

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

MAX_ENTRIES = 1 << 20  # of a table that is looked into; a larger one is compared as tensors alone
_KEYS, _VALUES = "-keys", "-values"


def saved_tables(checkpoint: Checkpoint) -> Iterator[tuple[str, tuple[bytes, ...]]]:
    """Yield (object path, entries) of each table of a file that is not empty.

    The entries are its words in the order of their numbers, where it numbers them; else each is
    "key: value", sorted.
    """
    specs = checkpoint.store.specs
    for key, naming in checkpoint.names.items():
        other = f"{key.removesuffix(_KEYS)}{_VALUES}"
        if naming.role != "table" or not key.endswith(_KEYS) or other not in specs:
            continue
        sizes = {specs[key].size, specs[other].size}
        if len(sizes) == 1 and 0 < sizes.pop() <= MAX_ENTRIES:
            keys, values = (checkpoint.store.read(name) for name in (key, other))
            where = naming.name.removesuffix(_KEYS).removesuffix(".table")
            yield where, tuple(_entries(keys, values))


def _entries(keys: Array, values: Array) -> list[bytes]:
    rows = list(zip(keys.tolist(), values.tolist(), strict=True))
    for words, numbers in ((0, 1), (1, 0)):
        texts = all(isinstance(row[words], bytes) for row in rows)
        if texts and len({row[numbers] for row in rows if type(row[numbers]) is int}) == len(rows):
            return [row[words] for row in sorted(rows, key=lambda row: row[numbers])]
    return sorted(_text(key) + b": " + _text(value) for key, value in rows)


def _text(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
