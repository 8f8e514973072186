"""The base of all results: `.ok`, and no truth value.

A result that were true whenever there is one would make `assert ckptkit.check(...)` pass for ever;
one that were false on a finding would make `if ckptkit.diff(a, b):` mean its opposite to half of
its readers.  So it is neither, and says what to write instead.

`ckptkit.open` and `ckptkit.load` return mappings from names to arrays.  Those keep the truth value
of every mapping, whether they hold anything: they judge nothing, since what is not as it should be
raises there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar, NoReturn


class Result(ABC):
    """What a function of the library found out, or a part of it that is good or bad for itself."""

    __slots__ = ()
    ASK: ClassVar[str] = ".ok"  # what to write in place of the result's truth value

    @property
    @abstractmethod
    def ok(self) -> bool:
        """Whether all is as it should be; a command that prints this result exits 0 then."""

    def __bool__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__}: a result is neither true nor false, ask {self.ASK}"
        )


class Document(Result):
    """What a command prints: a result with a text, a table and a JSON document of its own.

    `print(result)` shows what the command prints, a notebook the same as HTML.
    """

    __slots__ = ()
    ROWS: ClassVar[str] = ""  # the list of the JSON document that is its table, where it has one

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return the document that `--format json` prints, or this result's part of it.

        Returns:
            Plain values that JSON can hold.
        """

    @property
    def exit_code(self) -> int:
        """What a command that prints it exits with: 0 where all is as it should be."""
        return 0 if self.ok else 1

    def streamed(self) -> Mapping[str, Any]:
        """Return the document, whose rows may come one at a time from an iterator.

        Returns:
            As `to_json`; what is under `ROWS` is gone over once.
        """
        return self.to_json()

    def records(self) -> list[dict[str, Any]]:
        """Return the rows of the table, with all that the document says of each.

        Returns:
            A dictionary per row, of plain values.
        """
        return list(self.to_json()[self.ROWS])

    def to_frame(self) -> Any:
        """Return `records()` as a table of pandas.

        Returns:
            A `pandas.DataFrame`, one row per record.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        try:
            pandas = import_module("pandas")
        except ImportError as error:
            from ckptkit.errors import MissingDependencyError

            raise MissingDependencyError(
                "a frame needs pandas, which is not installed", hint="pip install pandas"
            ) from error
        return pandas.DataFrame.from_records(self.records())

    def __str__(self) -> str:
        return "\n".join(_reports().text_of(self))

    def _repr_html_(self) -> str:
        return str(_reports().html_of(self))


def _reports() -> Any:
    """Return the module that prints results; it is above them, and imported when one is printed."""
    return import_module("ckptkit.reports.presentation")
