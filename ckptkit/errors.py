"""Every refusal of ckptkit, as one tree::

    CkptkitError
    ├── UsageError                what was asked for makes no sense (or matched nothing)
    ├── PathNotFoundError         nothing at that path
    ├── UnsupportedError          recognised, but not readable here; the hint says what to do
    ├── UnknownTensorError        no tensor of that name
    ├── MissingDependencyError    an optional package is needed
    ├── WorkerLostError           a process that worked for this one ended too early
    ├── ChangedError              a file was replaced or written to while it was read
    ├── OutputError               a file could not be written
    └── FormatError               the bytes break the format
        ├── TruncatedError        fewer bytes than the format promises
        └── ChecksumError         the bytes are not those that were written

A refusal says what, where, what was expected, what was found, and the next step.  All of them
survive pickling, so that a worker process can raise them.
"""

from __future__ import annotations

from ckptkit.text import printable, without_secrets
from ckptkit.wording import useful


class ReaderGone(Exception):
    """Whoever read our output went away (`| head`).  Not an error, and not in the tree."""


class CkptkitError(Exception):
    """Base of all errors raised on purpose.  `str(error)` is one line, ready for a terminal.

    Args:
        message: what is wrong, in words that begin in lower case.
        where: the file, tensor or line that it is about; "" where there is none.
        hint: the next step; "" where there is none.
    """

    exit_code = 2
    code = "error"
    """What kind of refusal it is, for programs: stable, dotted, one for each class."""

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = useful(hint)

    @property
    def keywords(self) -> tuple[str, ...]:
        """The keywords of the called function that the message and the hint name, in order.

        Returns:
            Their names, each once.
        """
        said = [*getattr(self.message, "keywords", ()), *getattr(self.hint, "keywords", ())]
        return tuple(dict.fromkeys(said))

    def __str__(self) -> str:
        line = f"{self.where}: {self.message}" if self.where else self.message
        return printable(without_secrets(f"{line} ({self.hint})" if self.hint else line))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.__dict__.copy())


def _rebuild(cls: type[CkptkitError], fields: dict[str, object]) -> CkptkitError:
    error = cls.__new__(cls)
    Exception.__init__(error, fields["message"])
    error.__dict__.update(fields)
    return error


class UsageError(CkptkitError):
    """The request cannot be carried out as put."""

    code = "usage"


class PathNotFoundError(CkptkitError):
    """Nothing lies at the path."""

    code = "path.missing"


class UnsupportedError(CkptkitError):
    """The file is recognised, but this tool (or this installation) does not read it."""

    code = "unsupported"


class UnknownTensorError(CkptkitError, KeyError):
    """No tensor answers to that name; a KeyError too, as mappings raise."""

    code = "tensor.unknown"


class MissingDependencyError(CkptkitError):
    """An optional package is needed; the hint holds the pip command."""

    code = "dependency.missing"


class WorkerLostError(CkptkitError):
    """A worker, or the process of libhdf5, ended before its work was done, or cannot do it."""

    code = "worker.lost"


class ChangedError(CkptkitError):
    """A file was replaced or written to since it was opened: what is read would be of two states.

    Args:
        path: the file.
    """

    code = "changed"

    def __init__(self, path: object) -> None:
        super().__init__(
            "changed while it was read",
            where=str(path),
            hint="open it again when nothing writes to it",
        )


class OutputError(CkptkitError):
    """An output file cannot be written."""

    code = "output"


class FormatError(CkptkitError):
    """The bytes at `where` are not what the format demands.

    Args:
        where: the file, and what of it.
        message: what is wrong.
        expected: what the format demands there; "" where that says nothing more.
        found: what is there instead.
        hint: the next step; "" where there is none.
    """

    code = "format"

    def __init__(
        self, where: str, message: str, *, expected: object = "", found: object = "", hint: str = ""
    ) -> None:
        sides = {"expected": expected, "found": found}
        told = ", ".join(f"{side} {value}" for side, value in sides.items() if value != "")
        message = f"{message}: {told}" if told else message
        super().__init__(message, where=where, hint=hint)
        self.expected = str(expected)
        self.found = str(found)


class TruncatedError(FormatError):
    """The file ends before the bytes that it promises."""

    code = "format.truncated"


class ChecksumError(FormatError):
    """Stored and computed checksum differ."""

    code = "format.checksum"
