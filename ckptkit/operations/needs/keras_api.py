"""Which classes each Keras has, under which names, and which arguments they take.

`keras_api.txt` says it for Keras 2.13 to 3.15 and tf_keras; it was read off these packages
(`tests/support/make_keras_api.py`).  A name is one that configs have: an exported one
(`keras.layers.Dense`), that of a module and a class in it, or `.Dense`, which is how HDF5 files
call it.  Of a Keras newer than the table, what the newest in it has is taken to be there still.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ckptkit.operations.needs.environment import release

HEAD = (
    "# Classes of Keras by version, and the arguments that their configs may have.",
    "# class PATH[:RANGES] ARGUMENT[:RANGES]... ** for any; name NAME[:RANGES] PATH;",
    "# function NAME[:RANGES].  A range is FIRST-LAST, open where the newest has it.",
    "# Made by tests/support/make_keras_api.py.",
)
ANYTHING = "**"
_MOVED = (
    2,
    13,
)  # up to 2.12 modules were keras.layers.core..., since then keras.src.layers.core...


class KerasApi:
    """The classes of one version of Keras, or of tf_keras.

    Args:
        version: of the package, such as "3.15.1".
    """

    def __init__(self, version: str) -> None:
        self.version = version
        wanted = release(version)[:2]
        rows, known = _table()
        below = [v for v in known if release(v) <= wanted]
        self._column = known.index(below[-1]) if below else 0
        self._rows = rows
        self._known = known
        self.generation = wanted[0] if wanted else 0
        self.is_before_the_move = wanted < _MOVED

    def path(self, name: str) -> str | None:
        """Return the path of the class that a name stands for; None where there is none."""
        if name.startswith("tf_keras."):
            name = name.removeprefix("tf_")
        if self.is_before_the_move and name.startswith("keras.src."):
            return None
        for path, ranges in self._rows["name"].get(name, ()):
            if self._holds(ranges):
                return path
        if self.is_before_the_move and name.startswith("keras.") and name.count(".") > 2:
            name = f"keras.src.{name.removeprefix('keras.')}"
        for _path, ranges in self._rows["class"].get(name, ()):
            if self._holds(ranges):
                return name
        return None

    def arguments(self, path: str) -> frozenset[str] | None:
        """Return the names that the config of a class may have; None where any may be there."""
        found: set[str] = set()
        for item in self._rows["arguments"].get(path, ()):
            name, ranges = item
            if self._holds(ranges):
                found.add(name)
        return None if ANYTHING in found else frozenset(found)

    def has_function(self, name: str) -> bool:
        """Whether there is a function of that name: `keras.losses.mse`, or `.dot` of layers."""
        return any(self._holds(ranges) for _name, ranges in self._rows["function"].get(name, ()))

    def _holds(self, ranges: str) -> bool:
        return self._column in _columns(ranges, self._known)


_Rows = dict[str, dict[str, list[tuple[str, str]]]]


@cache
def _columns(ranges: str, known: tuple[str, ...]) -> range | frozenset[int]:
    """Return the numbers of the versions in some ranges."""
    if not ranges:
        return range(len(known))
    found: set[int] = set()
    for span in ranges.split(","):
        first, _, last = span.partition("-")
        end = known.index(last) if last else len(known) - 1
        found.update(range(known.index(first), end + 1))
    return frozenset(found)


@cache
def _table() -> tuple[_Rows, tuple[str, ...]]:
    """Return the rows of the table by kind and name, each with its ranges, and the versions."""
    rows: _Rows = {"class": {}, "arguments": {}, "name": {}, "function": {}}
    known: tuple[str, ...] = ()
    text = Path(__file__).with_name("keras_api.txt").read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("#") or not line:
            continue
        kind, *words = line.split()
        if kind == "versions":
            known = tuple(words)
            continue
        name, _, ranges = words[0].partition(":")
        if kind == "class":
            rows["class"].setdefault(name, []).append((name, ranges))
            pairs = (word.partition(":") for word in words[1:])
            rows["arguments"].setdefault(name, []).extend((key, at) for key, _, at in pairs)
        else:
            rows[kind].setdefault(name, []).append((words[1] if len(words) > 1 else "", ranges))
    return rows, known
