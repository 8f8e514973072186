"""The one error of running a model; raised in the parent, and in the child that it is sent from."""

from __future__ import annotations

from ckptkit.errors import CkptkitError


class RunnerError(CkptkitError):
    """A model could not be run: the child refused, failed, hung, or died.

    Args:
        message: what happened.
        kind: "timeout", "memory", "died", "missing" (a device or package that is not here),
            "signature" (inputs or a signature that the model does not have), "safe_mode" (Keras
            does not run the code that a file holds), else the class of what the child raised.
        where: the model; "" where the message says it.
        hint: the next step; "" where there is none.
    """

    code = "runner"

    def __init__(self, message: str, *, kind: str = "", where: str = "", hint: str = "") -> None:
        super().__init__(message, where=where, hint=hint)
        self.kind = kind


def refused(message: str, hint: str = "") -> RunnerError:
    """Return the error for inputs or a signature that the model does not have."""
    return RunnerError(message, kind="signature", hint=hint)


def missing(message: str, hint: str = "") -> RunnerError:
    """Return the error for a device or package that is not here."""
    return RunnerError(message, kind="missing", hint=hint)


def safe_mode_refusal(where: str) -> RunnerError:
    """Return the error for a file of Keras that holds code, which nobody has looked at."""
    return RunnerError(
        "the file holds Python code (a Lambda), which Keras does not run in safe mode: "
        "what it computes could not be told",
        kind="safe_mode",
        where=where,
        hint="give code that builds the model and loads its weights, as package.module:function",
    )


_MAX_TEXT = 4000  # characters of an error that are kept


def error_text(error: Exception) -> str:
    """Return an error in one line of bounded length."""
    if isinstance(error, CkptkitError):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:_MAX_TEXT] or type(error).__name__


NO_VERDICTS = ("missing", "signature", "safe_mode")
"""Kinds that say nothing of the model: something is missing here, or was asked wrongly."""
