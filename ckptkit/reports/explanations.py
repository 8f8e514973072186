"""What each code of a finding or a refusal means, and what to do about it.

The texts lie in `explanations.md` beside this file: a heading per group, below it one per code, or
per few codes of one meaning.  A code that ends in `*` stands for all that begin so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from ckptkit.errors import UsageError
from ckptkit.text import lazy_pattern, list_text

TEXTS = Path(__file__).with_name("explanations.md")
_HEADING = lazy_pattern(r"`([^`]+)`")


class CodeMeaning(NamedTuple):
    """What a code means.

    codes: those that it is of.  group: whose codes they are, "`verify`: bytes".
    text: a paragraph of Markdown.
    """

    codes: tuple[str, ...]
    group: str
    text: str


@cache
def explanations() -> Mapping[str, CodeMeaning]:
    """Return every explanation by its code, in the order of the file."""
    found: dict[str, CodeMeaning] = {}
    group = ""
    for part in re.split(r"(?m)^(?=#)", TEXTS.read_text(encoding="utf-8")):
        heading, _, text = part.partition("\n")
        if heading.startswith("# "):
            group = heading[2:].strip()
        elif heading:
            row = CodeMeaning(tuple(_HEADING.findall(heading)), group, " ".join(text.split()))
            found.update(dict.fromkeys(row.codes, row))
    return MappingProxyType(found)


def explanation_of(code: str) -> CodeMeaning | None:
    """Return what a code means: its own text, else that of all that begin so; None for neither."""
    known = explanations()
    if code in known:
        return known[code]
    head, _, _ = code.partition(".")
    return known.get(f"{head}.*")


def explain(code: str) -> CodeMeaning:
    """Return what a code means.

    Args:
        code: of a finding or a refusal, as in JSON, "tensor.checksum".

    Raises:
        UsageError: of a code that there is none of; the nearest are named.
    """
    found = explanation_of(code)
    if found is None:
        from difflib import get_close_matches

        near = get_close_matches(code, explanations(), n=3)
        hint = f"nearest: {list_text(near)}" if near else "`ckptkit explain` lists them"
        raise UsageError(f"no code {code!r}", hint=hint)
    return found
