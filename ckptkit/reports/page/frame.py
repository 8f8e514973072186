"""The frame of all HTML pages: one file, which fetches nothing and runs nothing but its own script.

A page is a head (files, verdict, notes) and sections.  A section is plain values with a `kind`,
which the script draws; how, says the file beside this module that is called after it (`table.js`,
`treemap.js`, ...), and a page holds those that it needs.  A content security policy forbids every
request, and lets only the style and the script run whose SHA-256 it names
(https://www.w3.org/TR/CSP3/#framework-directive-source-list).  Everything that comes from a
checkpoint is JSON in the page, which the script puts there as text, never as markup.

Colours are variables, given twice, for light and for dark, which follows the system until a person
chooses.  What is filtered, sorted, open or chosen stands behind the `#` of the address.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ckptkit._version import __version__
from ckptkit.reports.text import html_text, printable

Section = Mapping[str, Any]
"""Plain values that JSON can hold; `kind` says what they are, `id` and `title` what it is called"""

_HERE = Path(__file__).parent
# The parts of script and style that a kind of section needs, beside those of the frame.
_PARTS: Mapping[str, tuple[str, ...]] = {
    "table": ("table",),
    "treemap": ("table", "treemap"),
    "tree": ("table", "treemap"),
    "histograms": ("histogram",),
    "heat": ("heat",),
    "strip": ("table", "strip"),
    "callouts": ("table", "strip"),
    "depth": ("table", "depth"),
    "lines": (),
    "facts": (),
}


@dataclass(frozen=True)
class Page:
    """What a page shows.  All text is plain, and made printable where it is put in.

    command: whose page it is.  title: of the window.  verdict: one line; tone: "good", "bad",
    "warn" or "note"; summary: lines below it.  notes: (severity, line) pairs.  files: what it is
    about, {path, about, side}.  footer: how it was made.
    sections: see `Section`.  body: HTML that stands in the page, made by its caller and safe.
    own: a directory with `page.css` and `page.js`, where the page has a script of its own.
    values: what that script reads, beside all this.
    """

    command: str
    title: str
    verdict: str = ""
    tone: str = "note"
    summary: Sequence[str] = ()
    notes: Sequence[tuple[str, str]] = ()
    files: Sequence[Mapping[str, str]] = ()
    footer: str = ""
    sections: Sequence[Section] = ()
    body: str = ""
    own: Path | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


def lines(page: Page, plain: Iterable[str] = ()) -> Iterator[str]:
    """Yield a page.

    plain: HTML for browsers that run no script.
    """
    style, script = _joined(page, "css"), _joined(page, "js")
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    )
    parts = {
        "POLICY": policy,
        "TITLE": html_text(printable(page.title)),
        "STYLE": style,
        "COMMAND": html_text(page.command),
        "BODY": page.body,
        "PLAIN": "\n".join(plain),
        "DATA": embedded(_data(page)),
        "SCRIPT": script,
    }
    # what is put in is not looked at again: a name may look like a mark
    template = re.split("@([A-Z]+)@", _packaged("frame.html"))
    text = "".join(parts[part] if at % 2 else part for at, part in enumerate(template))
    yield from text.rstrip("\n").split("\n")


def _joined(page: Page, suffix: str) -> str:
    """Return the style or the script of all that a page shows."""
    needed = [part for section in page.sections for part in _PARTS[section["kind"]]]
    names = ["frame", *dict.fromkeys(needed)]
    texts = [
        _packaged(f"{name}.{suffix}") for name in names if (_HERE / f"{name}.{suffix}").exists()
    ]
    if page.own is not None:
        texts.append((page.own / f"page.{suffix}").read_text(encoding="utf-8"))
    if suffix == "js":
        texts.append(_packaged("end.js"))
    return "\n" + "".join(texts)


def _packaged(name: str) -> str:
    """Return the text of a file that lies beside this module."""
    return (_HERE / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """Return what a content security policy calls a script or a style of this text."""
    import base64  # here, since commands import this for pages that few ask for
    import hashlib

    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def embedded(value: Any) -> str:
    """Return JSON that no HTML parser can take for the end of its script element."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _data(page: Page) -> dict[str, Any]:
    return {
        "verdict": printable(page.verdict),
        "tone": page.tone,
        "summary": [printable(line) for line in page.summary],
        "notes": [(severity, printable(line)) for severity, line in page.notes],
        "files": [{key: printable(text) for key, text in file.items()} for file in page.files],
        "footer": printable(page.footer or made_by()),
        "sections": page.sections,
        **page.values,
    }


def made_by(more: str = "") -> str:
    """Return what stands below a page: by what it was made, and how."""
    return f"made by ckptkit {__version__}{'; ' if more else ''}{more}"
