"""The rows of a listing: which columns a layout has, and what stands in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple, overload

from ckptkit.checkpoint.selection import Tensor
from ckptkit.reports.fitting import Fit
from ckptkit.reports.table import csv_rows
from ckptkit.reports.text import shape_text
from ckptkit.text import lazy_pattern

if TYPE_CHECKING:
    from ckptkit.operations.ls import Listing
    from ckptkit.operations.statistics import Statistics


class Columns(NamedTuple):
    """headers and align: of each column.  fit: what may be done to fit a screen."""

    headers: tuple[str, ...]
    align: tuple[str, ...]
    fit: Fit


_HEADERS = ("NAME", "DTYPE", "SHAPE", "PARAMS", "BYTES", "ROLE")
_ALIGN = ("left", "left", "left", "right", "right", "left")
_SHORT = Columns(_HEADERS, _ALIGN, Fit(("NAME",), ("PARAMS", "ROLE", "DTYPE", "BYTES")))
_LONG = Columns(
    (*_HEADERS, "KEY", "FULL NAME", "SHARD", "OFFSET", "CRC32C", "SLICES"),
    (*_ALIGN, "left", "left", "right", "right", "left", "right"),
    Fit(),
)
_VALUES = ("MIN", "MAX", "MEAN", "STD", "NORM", "ZEROS", "NAN")
_STATISTICS = Columns(
    ("NAME", "DTYPE", "SHAPE", *_VALUES),
    ("left",) * 3 + ("right",) * len(_VALUES),
    Fit(("NAME",), ("DTYPE", "NORM", "SHAPE", "NAN", "ZEROS", "MEAN")),
)
_LAYOUTS = {"short": _SHORT, "patterns": _SHORT, "long": _LONG, "values": _STATISTICS}
_NUMBER = lazy_pattern(r"\d{1,18}")  # int() refuses thousands of digits
_AROUND_NUMBERS = lazy_pattern(r"(\d{1,18})")


def columns(layout: str) -> Columns:
    """Return the columns of "short", "patterns", "long" or "values"."""
    return _LAYOUTS[layout]


def rows(listing: Listing, layout: str) -> Sequence[tuple[object, ...]]:
    """Return what stands in the columns of a layout, a row per tensor or pattern."""
    if layout == "patterns":
        return _pattern_rows(listing.tensors)
    if layout == "values":
        found = listing.statistics or {}
        return [value_row(t, found.get(t.spec.key)) for t in listing.tensors]
    return _TensorRows(listing.tensors, _long_row if layout == "long" else _row)


class _TensorRows(Sequence[tuple[object, ...]]):
    """A row per tensor, each made when it is asked for: a file may have a million."""

    def __init__(
        self, tensors: Sequence[Tensor], row: Callable[[Tensor], tuple[object, ...]]
    ) -> None:
        self._tensors, self._row = tensors, row

    def __len__(self) -> int:
        return len(self._tensors)

    @overload
    def __getitem__(self, index: int) -> tuple[object, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> _TensorRows: ...
    def __getitem__(self, index: int | slice) -> tuple[object, ...] | _TensorRows:
        if isinstance(index, slice):
            return _TensorRows(self._tensors[index], self._row)
        return self._row(self._tensors[index])

    def __iter__(self) -> Iterator[tuple[object, ...]]:
        return map(self._row, self._tensors)


def csv_lines(
    listing: Listing, layout: str, path: str | None = None, *, headed: bool = True
) -> Iterator[str]:
    """Yield CSV with plain roles, and what a tensor repeats in a last column of its own.

    path: of the file, as a first column.  headed: whether the names of the columns come first.
    """
    shape = "short" if layout == "values" else layout
    headers = [header.lower().replace(" ", "_") for header in columns(shape).headers]
    cells: Iterable[tuple[object, ...]] = rows(listing, shape)
    if layout != "patterns":
        none: Iterable[tuple[object, ...]] = repeat((), len(listing.tensors))
        more, values = ((), none) if layout != "values" else _all_values(listing)
        cells = (
            (*row[:5], tensor.naming.role, *row[6:], *value, tensor.naming.duplicate_of or "")
            for row, tensor, value in zip(cells, listing.tensors, values, strict=True)
        )
        headers += [*more, "repeats"]
    if path is not None:
        headers.insert(0, "path")
        cells = ((path, *row) for row in cells)
    table = csv_rows(cells, headers)
    if not headed:
        next(table)
    yield from table


def json_rows(tensors: Iterable[Tensor]) -> Iterator[str]:
    """Yield what `tensor_json` returns of each, as JSON: put together from few parts, most shared.

    Encoding a dictionary takes three times as long, and a file may have a million.
    """
    from json.encoder import encode_basestring_ascii as quoted

    @lru_cache(maxsize=256)
    def kind(dtype: str, shape: tuple[int, ...], nbytes: int, shard: int | None) -> str:
        return (
            f'"dtype": {quoted(dtype)}, "shape": {list(shape)}, "params": {math.prod(shape)}, '
            f'"bytes": {nbytes}, "shard": {"null" if shard is None else shard}'
        )

    @lru_cache(maxsize=256)
    def role_of(
        role: str, is_inferred: bool, owner: str | None, slot: str | None, repeated: str | None
    ) -> str:
        return (
            f'"role": {quoted(role)}, "role_inferred": {"true" if is_inferred else "false"}, '
            f'"slot_of": {optional(owner)}, "slot": {optional(slot)}, '
            f'"duplicate_of": {optional(repeated)}'
        )

    quote = '"'  # one in a replacement field would end the string before Python 3.12

    def optional(text: str | None) -> str:
        return "null" if text is None else quoted(text)

    for spec, naming in tensors:
        key, dtype, shape, nbytes, shard, offset, crc, slices = spec
        name, role, full_name, aliases, owner, slot, _optimizer, _only, repeated, inferred = naming
        called = quoted(name)
        yield (
            f'{{"key": {quoted(key)}, "name": {called}, "full_name": '
            f"{called if full_name is name else optional(full_name)}, "
            f'"aliases": [{", ".join(map(quoted, aliases)) if aliases else ""}], '
            f"{role_of(role, inferred, owner, slot, repeated)}, "
            f"{kind(dtype, shape, nbytes, shard)}, "
            f'"offset": {"null" if offset is None else offset}, '
            f'"crc32c": {"null" if crc is None else f"{quote}{crc:08x}{quote}"}, '
            f'"slices": {len(slices)}}}'
        )


_VALUE_FIELDS = ("n_nan", "n_inf", "n_zero", "minimum", "maximum", "mean", "std", "norm")


def _all_values(listing: Listing) -> tuple[Sequence[str], list[tuple[object, ...]]]:
    """Return the names and the cells of all statistics; strings have empty ones."""
    found = [(listing.statistics or {}).get(tensor.spec.key) for tensor in listing.tensors]
    return _VALUE_FIELDS, [
        tuple(getattr(one, name) if one is not None else "" for name in _VALUE_FIELDS)
        for one in found
    ]


def value_row(tensor: Tensor, found: Statistics | None) -> tuple[object, ...]:
    """Return what stands in the columns of the layout "values"."""
    return (*_row(tensor)[:3], *_value_cells(found))


def _value_cells(found: Statistics | None) -> tuple[str, ...]:
    """Return the columns of `_VALUES`; an undefined one is "-"."""
    if found is None or not found.n:
        return ("-",) * len(_VALUES)
    numbers = (found.minimum, found.maximum, found.mean, found.std, found.norm)
    return (
        *("-" if math.isnan(number) else f"{number:.4g}" for number in numbers),
        f"{100 * found.n_zero / found.n:.3g}%" if found.n_zero else "0",
        f"{found.n_nan + found.n_inf:,}",
    )


def _row(tensor: Tensor) -> tuple[object, ...]:
    spec, naming = tensor
    role = naming.role if naming.duplicate_of is None else role_text(tensor)
    return (naming.name, *_about(spec.dtype, spec.shape, spec.nbytes, role))


@lru_cache(maxsize=4096)
def _about(dtype: str, shape: tuple[int, ...], nbytes: int, role: str) -> tuple[object, ...]:
    """Return what stands behind the name, which many tensors share."""
    return dtype, shape_text(shape), math.prod(shape), nbytes, role


def role_text(tensor: Tensor) -> str:
    """Return the role of a tensor, and which one it repeats."""
    role, repeated = tensor.naming.role, tensor.naming.duplicate_of
    return f"{role} (repeats {repeated})" if repeated else role


def _long_row(tensor: Tensor) -> tuple[object, ...]:
    spec, naming = tensor
    return (
        *_row(tensor)[:5],
        role_text(tensor) + (" (inferred)" if naming.role_inferred else ""),
        spec.key,
        naming.full_name or "",
        "" if spec.shard is None else str(spec.shard),
        "" if spec.offset is None else str(spec.offset),
        "" if spec.crc32c is None else f"{spec.crc32c:08x}",
        len(spec.slices) or "",
    )


# --- patterns ---------------------------------------------------------------------------------


def _pattern_rows(tensors: Sequence[Tensor]) -> list[tuple[object, ...]]:
    """Return one row per name pattern, dtype, shape and role, in the order of first appearance."""
    groups: dict[tuple[object, ...], list[Tensor]] = {}
    for tensor in tensors:
        spec, naming = tensor
        of = spec.dtype, spec.shape, naming.role, bool(naming.duplicate_of)
        group = template(naming.name), *of
        groups.setdefault(group, []).append(tensor)
    rows = []
    for members in groups.values():
        first = _row(members[0])
        if len(members) == 1:
            rows.append(first)
            continue
        name = NamePattern()
        for tensor in members:
            name.add(tensor.naming.name)
        params = sum(t.spec.size for t in members)
        nbytes = sum(t.spec.nbytes for t in members)
        role = members[0].naming.role + (" (repeated)" if members[0].naming.duplicate_of else "")
        rows.append((f"{name.text()} ×{len(members)}", *first[1:3], params, nbytes, role))
    return rows


def template(name: str) -> str:
    """Return what names have in common that differ in their numbers: no text to print."""
    return _NUMBER.sub("\0", name)


class NamePattern:
    """Names of one template as one: `layer{0-11}/kernel`."""

    def __init__(self) -> None:
        self._first: list[str] = []  # texts, and numbers between them
        self._numbers: list[set[int]] = []

    def add(self, name: str) -> None:
        """Take one more name."""
        parts = _AROUND_NUMBERS.split(name)
        if not self._first:
            self._first = parts
            self._numbers = [set() for _ in parts[1::2]]
        for numbers, text in zip(self._numbers, parts[1::2], strict=True):
            numbers.add(int(text))

    def text(self) -> str:
        """Return the one name; a range or the first few numbers where names differ."""
        parts = list(self._first)
        for at, numbers in enumerate(self._numbers):
            if len(numbers) > 1:
                parts[2 * at + 1] = _range(sorted(numbers))
        return "".join(parts)


def _range(values: Sequence[int]) -> str:
    if values[-1] - values[0] == len(values) - 1:
        return f"{{{values[0]}-{values[-1]}}}"
    shown = ",".join(map(str, values[:4]))
    return f"{{{shown},…}}" if len(values) > 4 else f"{{{shown}}}"
