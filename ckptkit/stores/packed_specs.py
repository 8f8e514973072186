"""Specs of many tensors in little memory: a spec is put together when it is asked for.

A file may have a million tensors.  As tuples in a dictionary their specs take 400 bytes each; here
a tensor takes 20 bytes in arrays, and its key some five, compressed (`packed_texts`).  Dtypes and
shapes repeat, and are kept once.  Fewer tensors are kept as they are, which takes less time.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from functools import partial
from itertools import repeat

from ckptkit.stores.base import TensorSpec
from ckptkit.stores.packed_texts import PackedTexts

_MOST = (1 << 63) - 1  # an offset that an array holds
Form = tuple[str, tuple[int, ...], int, int | None]
"""What many tensors have in common: dtype, shape, bytes, shard."""
_Columns = tuple[list[str], list[tuple[int, ...]], list[int], list[int | None]]
# Makes a spec of all its fields in order, without a call of Python's.
_spec: Callable[[Iterable[object]], TensorSpec] = partial(tuple.__new__, TensorSpec)


class PackedSpecs(Mapping[str, TensorSpec]):
    """Specs by key, in the order in which they were added.

    It is filled with `add`, and asked from then on.
    """

    def __init__(self) -> None:
        self.keys_in_order = PackedTexts()
        self.forms: list[Form] = []
        self._columns: _Columns = (
            [""],
            [()],
            [0],
            [None],
        )  # of each form; of rows that have none, the last
        self._numbers: dict[Form, int] = {}
        self.form_of = array("i")  # of each row, an index into `forms`; -1: its spec is kept whole
        self._offset = array("q")
        self._crc32c = array("q")  # -1: none
        self._lacking = 0  # rows without a checksum
        self._whole: dict[int, TensorSpec] = {}

    def add(self, spec: TensorSpec) -> None:
        """Add a spec, whose key is that of no other."""
        key, dtype, shape, nbytes, shard, offset, crc32c, slices = spec
        if slices or offset is None or not 0 <= offset <= _MOST:
            self._whole[len(self.form_of)] = spec
            self.extend((key,), (-1,), (0,), (-1,))
        else:
            form = self.form(dtype, shape, nbytes, shard)
            self.extend((key,), (form,), (offset,), (-1 if crc32c is None else crc32c,))

    def add_all(self, specs: Sequence[TensorSpec]) -> None:
        """Add specs, whose keys are those of no others, together in less time."""
        if not specs:
            return
        keys, *columns, offsets, crc32cs, slices = zip(*specs, strict=True)
        forms = list(zip(*columns, strict=True))
        has_all = None not in offsets and None not in crc32cs and not any(slices)
        if has_all and min(offsets) >= 0 and max(offsets) <= _MOST:
            for form in dict.fromkeys(forms):
                self.form(*form)
            self.extend(keys, list(map(self._numbers.__getitem__, forms)), offsets, crc32cs)
            return
        for spec in specs:
            self.add(spec)

    def form(self, dtype: str, shape: tuple[int, ...], nbytes: int, shard: int | None) -> int:
        """Return the number of what many tensors have in common, for `extend`."""
        form = dtype, shape, nbytes, shard
        number = self._numbers.get(form)
        if number is None:
            number = self._numbers[form] = len(self.forms)
            self.forms.append(form)
            dtypes, shapes, sizes, shards = self._columns
            dtypes.insert(-1, dtype)
            shapes.insert(-1, shape)
            sizes.insert(-1, nbytes)
            shards.insert(-1, shard)
        return number

    def extend(
        self,
        keys: Sequence[str],
        forms: Sequence[int],
        offsets: Sequence[int],
        crc32cs: Sequence[int],
    ) -> None:
        """Add the specs of tensors whose keys are those of no others.

        forms: as `form` numbers them.  crc32cs: -1 for none.
        """
        self.keys_in_order.extend(keys)
        self.form_of.extend(forms)
        self._offset.extend(offsets)
        self._crc32c.extend(crc32cs)
        self._lacking += crc32cs.count(-1)

    def replace(self, row: int, spec: TensorSpec) -> None:
        """Put a spec in the place of another of its key."""
        self.form_of[row] = -1
        self._whole[row] = spec

    def __getitem__(self, key: str) -> TensorSpec:
        row = self.keys_in_order.find(key)
        if row is None:
            raise KeyError(key)
        return self._at(row, key)

    def at(self, row: int) -> TensorSpec:
        """Return the spec of a row."""
        return self._at(row, self.keys_in_order[row])

    def some(self, rows: Sequence[int]) -> Iterator[TensorSpec]:
        """Yield the specs of some rows."""
        keys, form_of = self.keys_in_order.__getitem__, self.form_of.__getitem__
        offset, crc32c = self._offset.__getitem__, self._crc32c.__getitem__
        forms = array("i", map(form_of, rows))
        return self._made(rows, map(keys, rows), forms, map(offset, rows), map(crc32c, rows))

    def places(self) -> Iterator[tuple[int, int]]:
        """Yield the offset of each row and how many bytes it has; -1: it lies in no one place."""
        sizes = map(self._columns[2].__getitem__, self.form_of)
        places = zip(self._offset, sizes, strict=True)
        if not self._whole:
            return places
        return (
            place if form >= 0 else _place_of(self._whole[row])
            for row, (place, form) in enumerate(zip(places, self.form_of, strict=True))
        )

    def some_places(self, rows: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Yield the offset of some rows, all of which have a form, and how many bytes each has."""
        sizes = map(self._columns[2].__getitem__, map(self.form_of.__getitem__, rows))
        return zip(map(self._offset.__getitem__, rows), sizes, strict=True)

    def checksums(self, rows: Sequence[int]) -> Iterator[int]:
        """Yield the crc32c of some rows, all of which have a form; -1: the file has none."""
        return map(self._crc32c.__getitem__, rows)

    def _at(self, row: int, key: str) -> TensorSpec:
        form = self.form_of[row]
        if form < 0:
            return self._whole[row]
        dtype, shape, nbytes, shard = self.forms[form]
        crc32c = self._crc32c[row]
        # all of the fields, in order: half the time of naming the last
        return TensorSpec(
            key, dtype, shape, nbytes, shard, self._offset[row], None if crc32c < 0 else crc32c, ()
        )

    def where(self, passes: Callable[[str, tuple[int, ...]], bool]) -> PackedSpecs:
        """Return those whose dtype and shape pass: these themselves, where all do."""
        pass_ = {passes(dtype, shape) for dtype, shape, *_rest in self.kinds()}
        if False not in pass_:
            return self
        found = PackedSpecs()
        for spec in self.values() if True in pass_ else ():
            if passes(spec.dtype, spec.shape):
                found.add(spec)
        return found

    def whole(self) -> Iterator[tuple[int, TensorSpec]]:
        """Yield the rows whose specs have nothing in common with others, and these."""
        return iter(self._whole.items())

    def count_forms(self, rows: Sequence[int]) -> Mapping[Form, int]:
        """Return how many of some rows have what in common."""
        counts = Counter(map(self.form_of.__getitem__, rows))
        whole = [row for row in rows if self.form_of[row] < 0] if counts.pop(-1, 0) else []
        found = Counter({self.forms[form]: count for form, count in counts.items()})
        found.update(self._whole[row][1:5] for row in whole)
        return found

    def kinds(self) -> Iterator[Form]:
        """Yield what tensors have in common; the same may come more than once."""
        yield from self.forms
        for _key, dtype, shape, nbytes, shard, *_rest in self._whole.values():
            yield dtype, shape, nbytes, shard

    def items(self) -> ItemsView[str, TensorSpec]:
        """Return the keys and their specs."""
        return _SpecItems(self)

    def values(self) -> ValuesView[TensorSpec]:
        """Return the specs."""
        return _SpecValues(self)

    def _each(self) -> Iterator[TensorSpec]:
        rows = range(len(self))
        return self._made(rows, self.keys_in_order, self.form_of, self._offset, self._crc32c)

    def _made(
        self,
        rows: Sequence[int],
        keys: Iterable[str],
        form_of: array[int],
        offset: Iterable[int],
        crc32c: Iterable[int],
    ) -> Iterator[TensorSpec]:
        """Put the specs of rows together from what each has of its own."""
        dtype, shape, nbytes, shard = (map(column.__getitem__, form_of) for column in self._columns)
        sums, none = self._sums(crc32c), repeat(())
        specs = map(_spec, zip(keys, dtype, shape, nbytes, shard, offset, sums, none))  # noqa: B905
        if not self._whole:
            return specs
        whole = self._whole.get
        return (whole(row, spec) for row, spec in zip(rows, specs, strict=True))

    def _sums(self, crc32c: Iterable[int]) -> Iterable[int | None]:
        """Return checksums as specs have them."""
        if not self._lacking:
            return crc32c
        if self._lacking == len(self):
            return repeat(None)
        return (None if crc < 0 else crc for crc in crc32c)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.keys_in_order.find(key) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys_in_order)

    def __len__(self) -> int:
        return len(self.form_of)

    def __repr__(self) -> str:
        return f"<specs of {len(self)} tensors>"

    def row(self, key: str) -> int | None:
        """Return the place of a tensor in the order of the file; None where there is no such."""
        return self.keys_in_order.find(key)


def specs_having(
    specs: Mapping[str, TensorSpec], passes: Callable[[str, tuple[int, ...]], bool]
) -> Mapping[str, TensorSpec]:
    """Return those whose dtype and shape pass; of packed specs, packed."""
    if isinstance(specs, PackedSpecs):
        return specs.where(passes)
    return {key: spec for key, spec in specs.items() if passes(spec.dtype, spec.shape)}


def any_key_has(specs: Mapping[str, TensorSpec], part: str) -> bool:
    """Whether a key has this in it, which is no line break."""
    if isinstance(specs, PackedSpecs):
        return specs.keys_in_order.any_has(part)
    return any(part in key for key in specs)


def _place_of(spec: TensorSpec) -> tuple[int, int]:
    return -1 if spec.slices or spec.offset is None else spec.offset, spec.nbytes


class _SpecValues(ValuesView[TensorSpec]):
    """Goes over the specs in order, which takes half the time of asking for each."""

    _mapping: PackedSpecs

    def __iter__(self) -> Iterator[TensorSpec]:
        return self._mapping._each()


class _SpecItems(ItemsView[str, TensorSpec]):
    """The same with keys."""

    _mapping: PackedSpecs

    def __iter__(self) -> Iterator[tuple[str, TensorSpec]]:
        return zip(self._mapping.keys_in_order, self._mapping._each(), strict=True)
