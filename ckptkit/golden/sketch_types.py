"""A sketch as a plain value, and as JSON; how it is made stands in `ckptkit.golden.sketch`."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ckptkit.errors import FormatError
from ckptkit.text import json_number

SAMPLED = 24  # elements whose values are kept


class Sketch(NamedTuple):
    """What is kept of one tensor; everything after `sha256` is missing where places is None.

    low, high, rms: of the finite elements (of complex ones, of their size).  sampled: elements at
    `places_of(size, len(sampled), 0)`.  coarse: dtypes that hold every value exactly.
    role, full_name, aliases, slot_of: as in `names.Naming`.  hidden: only lists of layers or an
    optimizer lead to it, which tf.train.Checkpoint may not see.
    """

    dtype: str
    shape: tuple[int, ...]
    sha256: str
    role: str = "weight"
    full_name: str | None = None
    aliases: tuple[str, ...] = ()
    slot_of: str | None = None
    hidden: bool = False
    places: int | None = None
    values: int = 0
    rows: int | None = None
    columns: int | None = None
    blocks: tuple[int, ...] = ()
    units: tuple[int, ...] = ()
    coarse: tuple[str, ...] = ()
    sums: tuple[int, ...] = ()
    low: float = 0.0
    high: float = 0.0
    rms: float = 0.0
    nonfinite: int = 0
    zeros: int = 0
    sampled: tuple[float, ...] = ()

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def is_constant(self) -> bool:
        """Whether all elements are one finite number."""
        return self.places is not None and not self.nonfinite and self.low == self.high

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON; sums in hex, nothing that is empty."""
        plain: dict[str, Any] = {
            "dtype": self.dtype,
            "shape": list(self.shape),
            "sha256": self.sha256,
            "role": self.role,
        }
        for name in ("full_name", "slot_of", "hidden"):
            if getattr(self, name):
                plain[name] = getattr(self, name)
        if self.aliases:
            plain["aliases"] = list(self.aliases)
        if self.places is None:
            return plain
        plain["places"], plain["values"] = _hex(self.places), _hex(self.values)
        if self.rows is not None and self.columns is not None:
            plain["rows"], plain["columns"] = _hex(self.rows), _hex(self.columns)
        plain["blocks"] = "".join(f"{x:08x}" for x in self.blocks)
        if self.units:
            plain["units"] = "".join(f"{x:08x}" for x in self.units)
        if self.coarse:
            plain["coarse"] = list(self.coarse)
        plain["sums"] = [_hex(x) for x in self.sums]
        plain["range"] = [json_number(x) for x in (self.low, self.high, self.rms)]
        plain["counts"] = [self.nonfinite, self.zeros]
        plain["sampled"] = [json_number(x) for x in self.sampled]
        return plain

    @classmethod
    def from_json(cls, value: Any, where: str) -> Sketch:
        """Return the sketch that `to_json` described; raises FormatError."""
        try:
            return _parsed(value)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(
                where, f"no description of a tensor: {type(error).__name__} {error}"
            ) from None


def _parsed(value: Any) -> Sketch:
    shape = tuple(_whole(n) for n in value["shape"])
    plain = Sketch(
        _text(value["dtype"]),
        shape,
        _text(value["sha256"]),
        _text(value["role"]),
        None if value.get("full_name") is None else _text(value["full_name"]),
        tuple(_text(alias) for alias in value.get("aliases", ())),
        None if value.get("slot_of") is None else _text(value["slot_of"]),
        bool(value.get("hidden", False)),
    )
    # only its SHA-256 was made: a slot, or text
    if "places" not in value:
        return plain
    low, high, rms = (float_of(x) for x in value["range"])
    nonfinite, zeros = (_whole(x) for x in value["counts"])
    return plain._replace(
        places=int(value["places"], 16),
        values=int(value["values"], 16),
        rows=int(value["rows"], 16) if "rows" in value else None,
        columns=int(value["columns"], 16) if "columns" in value else None,
        blocks=_split(value["blocks"]),
        units=_split(value.get("units", "")),
        coarse=tuple(_text(x) for x in value.get("coarse", ())),
        sums=tuple(int(x, 16) for x in value["sums"]),
        low=low,
        high=high,
        rms=rms,
        nonfinite=nonfinite,
        zeros=zeros,
        sampled=tuple(float_of(x) for x in value["sampled"]),
    )


def float_of(value: Any) -> float:
    """Return a number that `json_number` may have written as text; raises ValueError, TypeError."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError(f"{value!r} is no number")
    if isinstance(value, str) and value not in ("NaN", "Infinity", "-Infinity"):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _hex(value: int) -> str:
    return f"{value:016x}"


def _split(text: str) -> tuple[int, ...]:
    return tuple(int(text[at : at + 8], 16) for at in range(0, len(text), 8))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r} is no size")
    return value
