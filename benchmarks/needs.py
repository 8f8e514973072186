"""What `needs` says of files, against opening them.

    python -m benchmarks.needs [--python PYTHON]... [--write] [FILE...]

For each file (by default all golden models and checkpoints) and each call that `needs` names, the
call is made by each interpreter, in a process of its own: what is said to open must open, and what
is said not to must raise.  `--python` names interpreters of other environments (Keras 2.15;
tf_keras beside Keras 3), whose versions are asked about.  `benchmarks/_needs_models.py` and
`benchmarks/_upgrade_zoo.py` make more files to give here.  `--write` puts the rows in the docs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click

from benchmarks.harness import ROOT, markdown_table, put
from ckptkit.errors import CkptkitError
from ckptkit.operations.needs.api import needs

DOCUMENT = ROOT / "docs" / "needs.md"
BEGIN, END = "<!-- needs -->", "<!-- /needs -->"
OPENER = Path(__file__).with_name("_open_files.py")
GOLDEN = ROOT / "fixtures" / "golden"
_SUFFIXES = (".keras", ".h5", ".hdf5", ".tflite", ".npz", ".safetensors", ".meta")
_NOT_MADE = ("MODEL.", "SHARD", "ckptkit.", "onnxruntime.", "PATH + ", "any")
_HOUR = 3600.0


class Verdict(NamedTuple):
    """What was said of a call on a file, and what came of it ("" where it opened)."""

    environment: str
    file: str
    call: str
    said: bool | None
    why: str
    came: str

    @property
    def is_right(self) -> bool | None:
        """Whether it was said; None where nothing was."""
        return None if self.said is None else self.said == (self.came == "")


def files_of(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield models and checkpoints: those given, and those in directories that are none."""
    for path in paths:
        if not path.is_dir() or _is_saved_model(path):
            yield path
            continue
        models = {file.parent for file in path.rglob("saved_model.pb*")}
        yield from sorted(models)
        inside = [p for p in path.rglob("*") if not any(m in p.parents for m in models)]
        yield from sorted(p for p in inside if p.name.endswith(_SUFFIXES))
        yield from sorted(p.with_suffix("") for p in inside if p.suffix == ".index")


def _is_saved_model(path: Path) -> bool:
    return any((path / name).exists() for name in ("saved_model.pb", "saved_model.pbtxt"))


def judged(python: str, files: Sequence[Path]) -> list[Verdict]:
    """Return what was said of each call in an environment, and what came of it."""
    command = [python, str(OPENER)]
    told = subprocess.run([*command, "versions"], capture_output=True, text=True, check=True)
    versions = json.loads(told.stdout)
    asked = [f"{name}=={version}" for name, version in versions.items()]
    main = [name for name in ("tensorflow", "keras", "tf_keras") if name in versions]
    shown = ", ".join(f"{name} {versions[name]}" for name in main)
    calls = []
    for file in files:
        try:
            found = needs(file, environment=asked)
        except CkptkitError as error:
            print(f"{file}: {error}", file=sys.stderr)
            continue
        calls += [(file, one) for one in found.loaders if not one.call.startswith(_NOT_MADE)]
    calls = [(f, c) for f, c in calls if not any(word in c.call for word in _NOT_MADE)]
    with tempfile.TemporaryDirectory() as scratch:
        jobs, results = Path(scratch, "jobs.json"), Path(scratch, "results.json")
        jobs.write_text(json.dumps([[c.call, str(f)] for f, c in calls]), encoding="utf-8")
        subprocess.run([*command, str(jobs), str(results)], check=True, timeout=_HOUR)
        came = json.loads(results.read_text(encoding="utf-8"))
    return [
        Verdict(shown, _name(file), call.call, call.opens, _why(call.missing), text)
        for (file, call), text in zip(calls, came, strict=True)
    ]


def _why(missing: Sequence[object]) -> str:
    return "; ".join(f"{getattr(n, 'name', '')}: {getattr(n, 'reason', '')}" for n in missing)


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def lines(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Yield a row per environment and call, and all that was wrong."""
    groups: dict[tuple[str, str], Counter[str]] = {}
    for item in verdicts:
        call = item.call.partition("(")[0].rpartition("; ")[2]
        counts = groups.setdefault((item.environment, call), Counter())
        counts["files"] += 1
        if item.is_right is None:
            counts["not told"] += 1
        elif item.is_right:
            counts["opened, as said" if item.said else "did not, as said"] += 1
        else:
            counts["wrong"] += 1
    names = ("files", "opened, as said", "did not, as said", "not told", "wrong")
    rows = [(*key, *(str(counts[name]) for name in names)) for key, counts in groups.items()]
    align = ("left", "left", *["right"] * len(names))
    yield from markdown_table(rows, ("environment", "call", *names), align)
    wrong = [item for item in verdicts if item.is_right is False]
    yield ""
    yield f"{len(verdicts)} calls, {len(wrong)} of which did not end as said."
    for item in wrong:
        came = item.came[:200] or "opened"
        yield f"- {item.file}, `{item.call}`: {item.why or 'nothing missing'}; {came}"


@click.command()
@click.option("--python", "pythons", multiple=True, help="Interpreters; by default this one.")
@click.option("--write", is_flag=True, help="Put the table into docs/needs.md.")
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
def main(pythons: tuple[str, ...], write: bool, paths: tuple[Path, ...]) -> None:
    """Compare what `needs` says of files with opening them."""
    files = list(files_of([*paths] or [GOLDEN]))
    verdicts = [v for python in pythons or (sys.executable,) for v in judged(python, files)]
    text = list(lines(verdicts))
    print("\n".join(text))
    if write:
        put(DOCUMENT, "\n".join(text), BEGIN, END)
    sys.exit(any(verdict.is_right is False for verdict in verdicts))


if __name__ == "__main__":
    main()
