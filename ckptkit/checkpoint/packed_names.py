"""Names of many tensors in little memory: a Naming is put together when it is asked for.

What many have in common (a role, a slot, an optimizer) is kept once; of each there are its texts,
compressed, and a number.  Where tensors are called by their keys, the texts are those of the specs.
"""

from __future__ import annotations

from array import array
from collections.abc import (
    Callable,
    ItemsView,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    ValuesView,
)
from functools import partial
from itertools import repeat, tee
from typing import NamedTuple

from ckptkit.checkpoint.naming import Naming
from ckptkit.stores.packed_specs import PackedSpecs
from ckptkit.stores.packed_texts import PackedTexts

_BETWEEN = "\0"  # texts of one naming; one that has it in a text is kept whole
# Makes a naming of all its fields in order, without a call of Python's.
_naming: Callable[[Iterable[object]], Naming] = partial(tuple.__new__, Naming)


class _NamingForm(NamedTuple):
    """What many namings have in common.

    is_full_name: whether the name is the full name.  has_more: whether texts follow the name: of
    `others` (another full name, the variable of a slot, a tensor that it repeats), then aliases.
    """

    role: str
    slot: str | None
    optimizer: str | None
    only_through_optimizer: bool
    role_inferred: bool
    is_full_name: bool
    has_more: bool
    others: tuple[bool, bool, bool]


_NO_FORM = _NamingForm("", None, None, False, False, True, False, (False, False, False))


class PackedNames(Mapping[str, Naming]):
    """The namings of packed specs by key, in the order of these."""

    def __init__(self, specs: PackedSpecs, namings: Iterable[Naming]) -> None:
        self.specs = specs
        self._texts = PackedTexts()
        self._forms: list[_NamingForm] = []
        self.form_of = array("i")  # of each row, an index into `_forms`; -1: it is kept whole
        self._whole: dict[int, Naming] = {}
        numbers: dict[_NamingForm, int] = {}
        for row, naming in enumerate(namings):
            name, role, full_name, aliases, of, slot, optimizer, only, repeated, inferred = naming
            is_full = full_name == name
            others = None if is_full else full_name, of, repeated
            texts = (*(text for text in others if text is not None), *aliases)
            text = _BETWEEN.join((name, *texts))
            if text.count(_BETWEEN) > len(texts):
                self._whole[row] = naming
                self.form_of.append(-1)
                self._texts.append("")
                continue
            has = others[0] is not None, of is not None, repeated is not None
            form = _NamingForm(role, slot, optimizer, only, inferred, is_full, bool(texts), has)
            number = numbers.get(form)
            if number is None:
                number = numbers[form] = len(self._forms)
                self._forms.append(form)
            self.form_of.append(number)
            self._texts.append(text)

    @classmethod
    def of_keys(
        cls, specs: PackedSpecs, role_of: Callable[[str], str], others: Mapping[str, Naming]
    ) -> PackedNames:
        """Return namings of tensors that are called by their keys, which are full names.

        role_of: gives the role of a dtype.  others: namings of those that are not called so.
        """
        names = cls(specs, ())
        names._texts = specs.keys_in_order
        roles = [role_of(dtype) for dtype, *_rest in specs.forms]
        names._forms = [_NO_FORM._replace(role=role) for role in dict.fromkeys(roles)]
        numbers = {form.role: number for number, form in enumerate(names._forms)}
        form_of = [*(numbers[role] for role in roles), -1]
        names.form_of = array("i", map(form_of.__getitem__, specs.form_of))
        for row, spec in specs.whole():
            key = spec.key
            names._whole[row] = Naming(key, role_of(spec.dtype), key)
        for key, naming in others.items():
            row_of_key = specs.row(key)
            assert row_of_key is not None
            names._whole[row_of_key] = naming
            names.form_of[row_of_key] = -1
        return names

    def __getitem__(self, key: str) -> Naming:
        row = self.specs.row(key)
        if row is None:
            raise KeyError(key)
        return self.at(row)

    def at(self, row: int) -> Naming:
        """Return the naming of a row of the specs."""
        form = self.form_of[row]
        return self._whole[row] if form < 0 else _named(self._texts[row], self._forms[form])

    def some(self, rows: Sequence[int]) -> Iterator[Naming]:
        """Yield the namings of some rows."""
        forms = array("i", map(self.form_of.__getitem__, rows))
        return self._made(rows, map(self._texts.__getitem__, rows), forms)

    def names(self) -> Iterator[str]:
        """Yield the names alone."""
        names = iter(self._texts)
        if any(form.has_more for form in self._forms):
            names = (text.partition(_BETWEEN)[0] for text in names)
        if not self._whole:
            return names
        whole = self._whole
        return (whole[row].name if row in whole else name for row, name in enumerate(names))

    def items(self) -> ItemsView[str, Naming]:
        """Return the keys and their namings."""
        return _NamingItems(self)

    def values(self) -> ValuesView[Naming]:
        """Return the namings."""
        return _NamingValues(self)

    def _each(self) -> Iterator[Naming]:
        return self._made(range(len(self)), self._texts, self.form_of)

    def _made(
        self, rows: Sequence[int], texts: Iterable[str], form_of: array[int]
    ) -> Iterator[Naming]:
        """Put the namings of rows together from their texts."""
        if not all(form.is_full_name and not form.has_more for form in self._forms):
            return self._made_one_by_one(rows, texts, form_of)
        columns = zip(*self._forms, _NO_FORM, strict=True)
        role, slot, optimizer, only, inferred, *_rest = (
            map(column.__getitem__, form_of) for column in columns
        )
        none, no_aliases, (names, full_names) = repeat(None), repeat(()), tee(texts)
        fields = names, role, full_names, no_aliases, none, slot, optimizer, only, none, inferred
        namings = map(_naming, zip(*fields))  # noqa: B905
        if not self._whole:
            return namings
        whole = self._whole.get
        return (whole(row, naming) for row, naming in zip(rows, namings, strict=True))

    def _made_one_by_one(
        self, rows: Iterable[int], texts: Iterable[str], form_of: Iterable[int]
    ) -> Iterator[Naming]:
        forms, whole = self._forms, self._whole
        for row, text, form in zip(rows, texts, form_of, strict=True):
            yield whole[row] if form < 0 else _named(text, forms[form])

    def __contains__(self, key: object) -> bool:
        return key in self.specs

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)


def _named(text: str, form: _NamingForm) -> Naming:
    """Return a naming from its texts and what it has in common with others."""
    role, slot, optimizer, only, inferred, is_full_name, has_more, others = form
    name, *texts = text.split(_BETWEEN) if has_more else (text,)
    full_name = name if is_full_name else None
    of = repeated = None
    if True in others:
        left = iter(texts)
        other_name, of, repeated = (next(left) if there else None for there in others)
        full_name, texts = other_name if others[0] else full_name, [*left]
    aliases = tuple(texts)
    return Naming(name, role, full_name, aliases, of, slot, optimizer, only, repeated, inferred)


class _NamingItems(ItemsView[str, Naming]):
    """Goes over names in the order of the file, which takes half the time of asking for each."""

    _mapping: PackedNames

    def __iter__(self) -> Iterator[tuple[str, Naming]]:
        return zip(self._mapping.specs, self._mapping._each(), strict=True)


class _NamingValues(ValuesView[Naming]):
    """The same without keys."""

    _mapping: PackedNames

    def __iter__(self) -> Iterator[Naming]:
        return self._mapping._each()
