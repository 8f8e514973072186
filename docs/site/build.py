"""The documentation as a site: `make site` writes build/site, which is read without a network.

The pages are those of the repository (README.md, docs/*.md and what stands beside them), with their
links turned to where the pages lie in the site; the reference of the Python API is taken from the
docstrings.  Warnings of Sphinx are errors, and so is a link or an anchor that leads nowhere.
"""

from __future__ import annotations

import argparse
import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]
# {page of the repository: page of the site}; those of docs/ keep their names.
BESIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "fixtures/README.md": "fixtures.md",
}
SCHEMAS = "docs/schemas"  # which the reference of JSON offers as files
_LINK = re.compile(r"(!?\[[^\]]*\])\(([^)\s]+)\)")
_ELSEWHERE = re.compile(r"[a-z]+:|#")
_CODE = re.compile(r"(?ms)^```.*?^```|`[^`\n]*`")


def pages() -> dict[str, str]:
    """Return {page of the repository: page of the site}."""
    docs = [path.relative_to(ROOT) for path in sorted((ROOT / "docs").rglob("*.md"))]
    own = {path.as_posix(): path.relative_to("docs").as_posix() for path in docs}
    return {**BESIDE, **own}


def moved(text: str, page: str, places: dict[str, str]) -> str:
    """Return a page with its links as they are in the site.

    A link to a file that is no page of the site (a program, a table of figures) becomes its text.

    Args:
        text: of the page.
        page: where it is in the repository.
        places: as `pages` returns them.
    """

    def link(match: re.Match[str]) -> str:
        label, target = match.groups()
        if _ELSEWHERE.match(target):
            return match[0]
        path, mark, anchor = target.partition("#")
        there = _joined(PurePosixPath(page).parent, path)
        if there in places:
            up = "../" * (len(PurePosixPath(places[page]).parts) - 1)
            return f"{label}({up}{places[there]}{mark}{anchor})"
        if label.startswith("!") or there.startswith(SCHEMAS):
            return f"{label}({there.removeprefix('docs/')})"
        return label[1:-1]

    kept: list[str] = []

    def hide(match: re.Match[str]) -> str:
        kept.append(match[0])
        return f"\0{len(kept) - 1}\0"

    linked = _LINK.sub(link, _CODE.sub(hide, text))
    while "\0" in linked:  # a label may hold code
        linked = re.sub("\0(\\d+)\0", lambda m: kept[int(m[1])], linked)
    return linked


def _joined(folder: PurePosixPath, path: str) -> str:
    parts: list[str] = []
    for part in (folder / path).parts:
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def reference() -> Iterator[tuple[str, str]]:
    """Yield (page, text) of the Python API: what `import ckptkit` exports, and the rest."""
    exports = _exports(ROOT / "ckptkit" / "__init__.py")
    lines = ["# Python", "", "What `import ckptkit` has. Names are imported on first use.", ""]
    for name, module in exports.items():
        if module in ("ckptkit.errors", "ckptkit.results"):  # which have pages of their own
            continue
        kind = "autoclass" if name[0].isupper() else "autofunction"
        options = [":members:", ":undoc-members:"] if kind == "autoclass" else []
        lines += [f"## ckptkit.{name}", "", *_directive(kind, f"{module}.{name}", options)]
    yield "api/index.md", "\n".join(lines)
    for title, module in (("Refusals", "ckptkit.errors"), ("Bases", "ckptkit.results")):
        members = _directive("automodule", module, [":members:"])
        yield f"api/{title.lower()}.md", "\n".join([f"# {title}", "", *members])
    lines = ["# Testing", ""]
    for path in sorted((ROOT / "ckptkit" / "testing").glob("[a-z]*.py")):
        module = f"ckptkit.testing.{path.stem}"
        lines += [f"## {module}", "", *_directive("automodule", module, [":members:"])]
    yield "api/testing.md", "\n".join(lines)


def _directive(kind: str, name: str, options: list[str]) -> list[str]:
    return [
        "```{eval-rst}",
        f".. {kind}:: {name}",
        *(f"   {option}" for option in options),
        "```",
        "",
    ]


# The order in which one reads: {heading: pages}.
CONTENTS = {
    "Learn": "tutorial transcripts",
    "By task": (
        "diff history digests convert upgrade needs verify gate check localize runtimes pytorch git"
        " troubleshooting"
    ),
    "Reference": (
        "cli results pages api/index api/bases api/refusals api/testing json formats"
        " examples/README fixtures"
    ),
    "Measured": "performance reliability mutations gpu published",
    "The project": "trust design security contributing changelog",
}


def contents(written: Iterable[str]) -> str:
    """Return the tables of contents, which the first page ends with, unseen.

    Args:
        written: every page of the site; one that no table names goes to the end of those by task.
    """
    named = {page for pages in CONTENTS.values() for page in pages.split()}
    others = sorted({page.removesuffix(".md") for page in written} - named - {"index"})
    lines: list[str] = []
    for heading, names in CONTENTS.items():
        more = others if heading == "By task" else []
        lines += ["```{toctree}", ":hidden:", f":caption: {heading}", "", *names.split(), *more]
        lines += ["```", ""]
    return "\n".join(lines)


def _exports(path: Path) -> dict[str, str]:
    """Return {name: module} of what the package imports on first use, without importing it."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_EXPORTS":
            found: dict[str, str] = ast.literal_eval(node.value)
            return found
    raise SystemExit(f"{path} has no _EXPORTS")


def gather(source: Path) -> None:
    """Write all that Sphinx reads to a directory, anew."""
    shutil.rmtree(source, ignore_errors=True)
    places = pages()
    for page, place in places.items():
        target = source / place
        target.parent.mkdir(parents=True, exist_ok=True)
        text = (ROOT / page).read_text(encoding="utf-8")
        target.write_text(moved(text, page, places), encoding="utf-8")
    for page, text in reference():
        (source / page).parent.mkdir(parents=True, exist_ok=True)
        (source / page).write_text(text, encoding="utf-8")
    written = [path.relative_to(source).as_posix() for path in source.rglob("*.md")]
    with (source / "index.md").open("a", encoding="utf-8") as file:
        file.write("\n" + contents(written))
    for file in sorted((ROOT / "docs").rglob("*")):
        if file.suffix in (".svg", ".png", ".webp") or file.parent == ROOT / SCHEMAS:
            target = source / file.relative_to(ROOT / "docs")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)


def main() -> None:
    """Build the site."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gather", action="store_true", help="write the pages, build nothing")
    gather(ROOT / "build" / "site-source")
    if not parser.parse_args().gather:
        here, built = str(Path(__file__).parent), ROOT / "build" / "site"
        shutil.rmtree(built, ignore_errors=True)
        command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet"]
        command += ["-b", "html", "-c", here, str(ROOT / "build" / "site-source"), str(built)]
        sys.exit(subprocess.run(command, cwd=ROOT, check=False).returncode)


if __name__ == "__main__":
    main()
