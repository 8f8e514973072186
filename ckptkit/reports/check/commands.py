"""The command line that does again what a report tells of."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

# Keywords of `check` whose option is called otherwise: one value each time it is given.
_OPTIONS = {"imports": "import", "ranges": "range", "rules": "map"}


def localize_again(subject: str, again: Mapping[str, Any]) -> str:
    """Return `ckptkit check SUBJECT ... --localize` with these keywords of `check`."""
    words = ["ckptkit", "check", subject]
    keywords = dict(again)
    layers = keywords.pop("layers", [])
    for name, value in keywords.items():
        for item in value if isinstance(value, list) else [value]:
            words += [f"--{_OPTIONS.get(name, name)}", str(item)]
    words.append("--localize")
    for layer in layers:  # last, where it is easily changed
        words += ["--layer", layer]
    return shlex.join(words)
