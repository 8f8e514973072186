"""Tables that installed packages can add rows to, by entry points.

    RUNNERS = Registry("ckptkit.runners", Runtime, {"tensorflow": Runtime(...), ...})
    RUNNERS["tensorflow"]       built in: no other package is looked for
    RUNNERS["tpu"]              not built in: the entry point `tpu` of the group ckptkit.runners
    list(RUNNERS)               all of them, those of other packages behind the built-in ones

An entry point names an object of the row's type.  What is built in cannot be replaced: a package
that takes the name of a built-in row is not asked.  Looking for entry points takes `ls` a quarter
more time, so it is done only where nothing built in answers, once in a process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any, Generic, TypeVar

from ckptkit.errors import UnsupportedError

Row = TypeVar("Row")


class Registry(Mapping[str, Row], Generic[Row]):
    """Rows by name: those built in, then those of installed packages.

    A row of another package that cannot be loaded, or is of another type, raises UnsupportedError
    when it is asked for, with the name of the distribution; it stands in no one else's way.

    Args:
        group: of entry points, such as "ckptkit.formats".
        kind: the type that every row has.
        built_in: {name: row} of this package, in the order in which they are asked.
    """

    def __init__(self, group: str, kind: type[Row], built_in: Mapping[str, Row]) -> None:
        self.group = group
        self.kind = kind
        self.built_in = dict(built_in)
        self._loaded: dict[str, Row] = {}

    def __getitem__(self, name: str) -> Row:
        if name in self.built_in:
            return self.built_in[name]
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        yield from self.built_in
        yield from self._entry_points

    def __len__(self) -> int:
        return len(self.built_in) + len(self._entry_points)

    def __contains__(self, name: object) -> bool:
        return name in self.built_in or name in self._entry_points

    def matching(self, fits: Callable[[Row], bool]) -> list[str]:
        """Name the rows that fit: of those built in, and only where none does, of the others.

        Args:
            fits: says whether a row does.

        Returns:
            Names, in the order of the table.
        """
        found = [name for name, row in self.built_in.items() if fits(row)]
        return found or [name for name, row in self._usable() if fits(row)]

    def first(self, fits: Callable[[Row], bool]) -> Row | None:
        """Return the first row that fits: of those built in, else of the others.

        Args:
            fits: says whether a row does.

        Returns:
            The row; None where none fits.
        """
        found = next((row for row in self.built_in.values() if fits(row)), None)
        return found or next((row for _, row in self._usable() if fits(row)), None)

    def distribution_of(self, name: str) -> str:
        """Say which installed distribution brings a row.

        Args:
            name: of a row.

        Returns:
            Its name and version; "" for a built-in row, "?" where the metadata does not say.
        """
        point = None if name in self.built_in else self._entry_points.get(name)
        if point is None:
            return ""
        return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "?"

    def added(self) -> dict[str, str]:
        """Name the rows that other packages bring.

        Returns:
            {name of a row that is not built in: its distribution}.
        """
        return {name: self.distribution_of(name) for name in self._entry_points}

    @cached_property
    def _entry_points(self) -> dict[str, Any]:
        """{name: importlib.metadata.EntryPoint} of what is not built in, sorted by name."""
        from importlib.metadata import entry_points  # takes as long as a quarter of `ls`

        found = sorted(entry_points(group=self.group), key=lambda point: point.name)
        return {point.name: point for point in found if point.name not in self.built_in}

    def _usable(self) -> Iterator[tuple[str, Row]]:
        """Yield the rows of other packages; `doctor` names those that cannot be loaded."""
        for name in self._entry_points:
            with suppress(UnsupportedError):
                yield name, self[name]

    def _load(self, name: str) -> Row:
        point = self._entry_points.get(name)
        if point is None:
            raise KeyError(name)
        whose = f"entry point {self.group}: {name} of {self.distribution_of(name)}"
        try:
            row = point.load()
        except Exception as error:  # whatever another package's module raises when imported
            raise UnsupportedError(
                f"cannot be loaded: {type(error).__name__}: {error}",
                where=whose,
                hint="update or remove that package",
            ) from error
        if not isinstance(row, self.kind):
            raise UnsupportedError(
                f"is a {type(row).__name__}, and a {self.kind.__name__} was expected",
                where=whose,
                hint="update or remove that package",
            )
        return row
