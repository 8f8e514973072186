"""What XLA says that it cannot compile.  Child process alone."""

from __future__ import annotations

import re

from ckptkit.errors import UnsupportedError

_NO_KERNEL = re.compile(r"(\w+) \(No registered '\w+' OpKernel for XLA")


def not_compiled(error: Exception) -> UnsupportedError | None:
    """Return the refusal for a model that XLA has no kernels for; None for any other error."""
    lacking = _NO_KERNEL.search(str(error))
    if lacking is None:
        return None
    op = "inputs of such a dtype" if lacking[1] == "_Arg" else lacking[1]
    return UnsupportedError(
        f"XLA cannot compile the model: it has no kernel for {op}", hint="run it without xla:"
    )
