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
from typing import ClassVar, NoReturn


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
