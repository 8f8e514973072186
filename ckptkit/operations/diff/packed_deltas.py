"""Numbers of very many pairs of tensors in little memory: a Delta is put together when asked for.

As objects they take a thousand bytes each; here a hundred and fifty: numbers are kept as a file
would keep them, and what is none (no value, the rule, whether norms agree) once for many.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

from ckptkit.compare.tensors import Delta, Worst

_FIELDS = [field.name for field in fields(Delta) if field.name != "worst"]
_fields = attrgetter(*_FIELDS)
_LETTERS = {float: "d", int: "q"}  # of `struct`; a bool is of another type than int
_NONE = "-"


class PackedDeltas:
    """Deltas by their number, in the order in which they were added."""

    def __init__(self) -> None:
        self._form_of = array("i")  # of each, an index into `_forms`; -1: it is kept whole
        self._starts = array("Q")  # in `_numbers`
        self._numbers = bytearray()
        # a letter of each value; what those are that are no numbers
        self._forms: list[tuple[str, Sequence[Any]]] = []
        self._form_numbers: dict[tuple[str, Sequence[Any]], int] = {}
        self._whole: dict[int, Delta] = {}

    def __len__(self) -> int:
        return len(self._starts)

    def append(self, delta: Delta) -> None:
        """Add the numbers of one more pair."""
        values = [*_fields(delta), *_values_of(delta.worst)]
        letters = "".join([_LETTERS.get(type(value), _NONE) for value in values])
        numbers: list[Any] = []
        rest: list[Any] = []
        for letter, value in zip(letters, values, strict=True):
            (rest if letter == _NONE else numbers).append(value)
        form = -1
        start = len(self._numbers)
        try:
            self._numbers += struct.pack(_layout(letters), *numbers)
            form = self._form((letters, tuple(rest)))
        except struct.error:  # more than 64 bits
            self._whole[len(self)] = delta
        self._starts.append(start)
        self._form_of.append(form)

    def _form(self, form: tuple[str, Sequence[Any]]) -> int:
        number = self._form_numbers.get(form)
        if number is None:
            number = self._form_numbers[form] = len(self._forms)
            self._forms.append(form)
        return number

    def __getitem__(self, number: int) -> Delta:
        form = self._form_of[number]
        if form < 0:
            return self._whole[number]
        letters, its_rest = self._forms[form]
        rest = iter(its_rest)
        numbers = iter(struct.unpack_from(_layout(letters), self._numbers, self._starts[number]))
        values = [next(rest if letter == _NONE else numbers) for letter in letters]
        its_fields = dict(zip(_FIELDS, values, strict=False))
        worst = values[len(_FIELDS) :]
        if not worst:
            return Delta(**its_fields)
        *index, old, new = worst
        return Delta(**its_fields, worst=Worst(tuple(index), old, new))


def _layout(letters: str) -> str:
    return "<" + letters.replace(_NONE, "")


def _values_of(worst: Worst | None) -> Sequence[Any]:
    return () if worst is None else (*worst.index, worst.old, worst.new)
