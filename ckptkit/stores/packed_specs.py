"""Specs of many tensors in little memory: a spec is put together when it is asked for.

A file may have a million tensors.  As tuples in a dictionary their specs take 400 bytes each; here
a tensor takes 20 bytes in arrays, and its key some five, compressed (`packed_texts`).  Dtypes and
shapes repeat, and are kept once.  Fewer tensors are kept as they are, which takes less time.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, ItemsView, Iterator, Mapping, ValuesView

from ckptkit.stores.base import TensorSpec
from ckptkit.stores.packed_texts import PackedTexts

_MOST = (1 << 63) - 1  # an offset that an array holds
_Form = tuple[str, tuple[int, ...], int, int | None]
"""What many tensors have in common: dtype, shape, bytes, shard."""


class PackedSpecs(Mapping[str, TensorSpec]):
    """Specs by key, in the order in which they were added.

    It is filled with `add`, and asked from then on.
    """

    def __init__(self) -> None:
        self.keys_in_order = PackedTexts()
        self._forms: list[_Form] = []
        self._numbers: dict[_Form, int] = {}
        self._form = array("i")  # of each row, an index into `_forms`; -1: its spec is kept whole
        self._offset = array("q")
        self._crc32c = array("q")  # -1: none
        self._whole: dict[int, TensorSpec] = {}

    def add(self, spec: TensorSpec) -> None:
        """Add a spec, whose key is that of no other."""
        row = len(self._form)
        self.keys_in_order.append(spec.key)
        self._form.append(-1)
        self._offset.append(0)
        self._crc32c.append(-1)
        self._set(row, spec)

    def replace(self, row: int, spec: TensorSpec) -> None:
        """Put a spec in the place of another of its key."""
        self._whole.pop(row, None)
        self._set(row, spec)

    def _set(self, row: int, spec: TensorSpec) -> None:
        _key, dtype, shape, nbytes, shard, offset, crc32c, slices = spec
        if slices or offset is None or not 0 <= offset <= _MOST:
            self._form[row] = -1
            self._whole[row] = spec
            return
        form = dtype, shape, nbytes, shard
        number = self._numbers.get(form)
        if number is None:
            number = self._numbers[form] = len(self._forms)
            self._forms.append(form)
        self._form[row], self._offset[row] = number, offset
        self._crc32c[row] = -1 if crc32c is None else crc32c

    def __getitem__(self, key: str) -> TensorSpec:
        row = self.keys_in_order.find(key)
        if row is None:
            raise KeyError(key)
        return self._at(row, key)

    def at(self, row: int) -> TensorSpec:
        """Return the spec of a row."""
        return self._at(row, self.keys_in_order[row])

    def place(self, row: int) -> tuple[int | None, int]:
        """Return the offset of a row, and how many bytes it has."""
        form = self._form[row]
        if form < 0:
            spec = self._whole[row]
            return spec.offset, spec.nbytes
        return self._offset[row], self._forms[form][2]

    def dtype(self, row: int) -> str:
        """Return the dtype of a row."""
        form = self._form[row]
        return self._whole[row].dtype if form < 0 else self._forms[form][0]

    def checksum(self, row: int) -> int | None:
        """Return the crc32c of a row; None where the file has none."""
        if self._form[row] < 0:
            return self._whole[row].crc32c
        crc32c = self._crc32c[row]
        return None if crc32c < 0 else crc32c

    def _at(self, row: int, key: str) -> TensorSpec:
        form = self._form[row]
        if form < 0:
            return self._whole[row]
        dtype, shape, nbytes, shard = self._forms[form]
        crc32c = self._crc32c[row]
        # all of the fields, in order: half the time of naming the last
        return TensorSpec(
            key, dtype, shape, nbytes, shard, self._offset[row], None if crc32c < 0 else crc32c, ()
        )

    def where(self, passes: Callable[[TensorSpec], bool]) -> PackedSpecs:
        """Return those that pass: these themselves, where all do."""
        if all(map(passes, self.values())):
            return self
        found = PackedSpecs()
        for spec in filter(passes, self.values()):
            found.add(spec)
        return found

    def items(self) -> ItemsView[str, TensorSpec]:
        """Return the keys and their specs."""
        return _SpecItems(self)

    def values(self) -> ValuesView[TensorSpec]:
        """Return the specs."""
        return _SpecValues(self)

    def _each(self) -> Iterator[TensorSpec]:
        forms = self._forms
        places = zip(self.keys_in_order, self._form, self._offset, self._crc32c, strict=True)
        for row, (key, form, offset, crc32c) in enumerate(places):
            if form < 0:
                yield self._whole[row]
                continue
            dtype, shape, nbytes, shard = forms[form]
            checksum = None if crc32c < 0 else crc32c
            yield TensorSpec(key, dtype, shape, nbytes, shard, offset, checksum, ())

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.keys_in_order.find(key) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys_in_order)

    def __len__(self) -> int:
        return len(self._form)

    def __repr__(self) -> str:
        return f"<specs of {len(self)} tensors>"

    def row(self, key: str) -> int | None:
        """Return the place of a tensor in the order of the file; None where there is no such."""
        return self.keys_in_order.find(key)


class _SpecValues(ValuesView[TensorSpec]):
    """Goes over the specs in order, which takes half the time of asking for each."""

    _mapping: PackedSpecs

    def __iter__(self) -> Iterator[TensorSpec]:
        return self._mapping._each()


class _SpecItems(ItemsView[str, TensorSpec]):
    """The same with keys."""

    _mapping: PackedSpecs

    def __iter__(self) -> Iterator[tuple[str, TensorSpec]]:
        return ((spec.key, spec) for spec in self._mapping._each())
