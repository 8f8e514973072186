"""Names of many tensors in little memory: a Naming is put together when it is asked for.

What many have in common (a role, a slot, an optimizer) is kept once; of each there are its texts,
compressed, and a number.
"""

from __future__ import annotations

from array import array
from collections.abc import ItemsView, Iterable, Iterator, Mapping, ValuesView

from ckptkit.checkpoint.naming import Naming
from ckptkit.stores.packed_specs import PackedSpecs
from ckptkit.stores.packed_texts import PackedTexts

_BETWEEN = "\0"  # texts of one naming; one that has it in a text is kept whole
_Form = tuple[str, str | None, str | None, bool, bool, bool, bool, bool]
"""Role, slot, optimizer, only_through_optimizer, role_inferred; whether there is a full name, a
variable of the slot, and a tensor that it repeats."""


class PackedNames(Mapping[str, Naming]):
    """The namings of packed specs by key, in the order of these."""

    def __init__(self, specs: PackedSpecs, namings: Iterable[Naming]) -> None:
        self.specs = specs
        self._texts = PackedTexts()
        self._forms: list[_Form] = []
        self._form = array("i")  # of each row, an index into `_forms`; -1: it is kept whole
        self._whole: dict[int, Naming] = {}
        numbers: dict[_Form, int] = {}
        for row, naming in enumerate(namings):
            name, role, full_name, aliases, of, slot, optimizer, only, repeated, inferred = naming
            has = full_name is not None, of is not None, repeated is not None
            form = (role, slot, optimizer, only, inferred, *has)
            texts = (name, full_name or "", of or "", repeated or "", *aliases)
            text = _BETWEEN.join(texts)
            if text.count(_BETWEEN) >= len(texts):
                self._whole[row] = naming
                self._form.append(-1)
                self._texts.append("")
                continue
            number = numbers.get(form)
            if number is None:
                number = numbers[form] = len(self._forms)
                self._forms.append(form)
            self._form.append(number)
            self._texts.append(text)

    def __getitem__(self, key: str) -> Naming:
        row = self.specs.row(key)
        if row is None:
            raise KeyError(key)
        return self.at(row)

    def at(self, row: int) -> Naming:
        """Return the naming of a row of the specs."""
        form = self._form[row]
        return self._whole[row] if form < 0 else self._naming(self._texts[row], self._forms[form])

    def _naming(self, text: str, form: _Form) -> Naming:
        role, slot, optimizer, only, inferred, has_full_name, has_owner, is_repeated = form
        name, full_name, of, repeated, *aliases = text.split(_BETWEEN)
        return Naming(
            name,
            role,
            full_name if has_full_name else None,
            tuple(aliases),
            of if has_owner else None,
            slot,
            optimizer,
            only,
            repeated if is_repeated else None,
            inferred,
        )

    def items(self) -> ItemsView[str, Naming]:
        """Return the keys and their namings."""
        return _NamingItems(self)

    def values(self) -> ValuesView[Naming]:
        """Return the namings."""
        return _NamingValues(self)

    def _each(self) -> Iterator[Naming]:
        forms, whole, naming = self._forms, self._whole, self._naming
        for row, (form, text) in enumerate(zip(self._form, self._texts, strict=True)):
            yield whole[row] if form < 0 else naming(text, forms[form])

    def __contains__(self, key: object) -> bool:
        return key in self.specs

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)


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
