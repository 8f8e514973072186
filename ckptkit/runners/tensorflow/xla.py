"""What XLA says that it cannot compile.  Child process alone."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ckptkit.errors import UnsupportedError

_NO_KERNEL = re.compile(r"(\w+) \(No registered '\w+' OpKernel for XLA")


def not_compiled(error: Exception) -> UnsupportedError | None:
    """Return the refusal for a model that XLA has no kernels for; None for any other error."""
    lacking = _NO_KERNEL.search(str(error))
    if lacking is None:
        return None
    return _refusal("inputs of such a dtype" if lacking[1] == "_Arg" else lacking[1])


def refuse_text(dtypes: Iterable[str]) -> None:
    """Raise UnsupportedError for text among the inputs, which may end the process inside of XLA."""
    if "string" in dtypes:
        raise _refusal("inputs of such a dtype")


def _refusal(what: str) -> UnsupportedError:
    return UnsupportedError(
        f"XLA cannot compile the model: it has no kernel for {what}", hint="run it without xla:"
    )
