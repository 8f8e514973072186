"""Whether `diff --config` names every change, and nothing between versions and forms of one model.

    python -m benchmarks.configs [--keras DIR]... [--upgrades DIR]... [--write]

1. Changes drawn of the configurations of the reference models (`_config_mutants.py`), each written
   into a file: the layer and the setting have to be named, and the digest is another one.
2. The models as the installed Keras writes them: `.keras`, `.h5`, export.
3. The models as other versions wrote them, and saved again what the oldest of these wrote; each
   DIR of `--keras` has a Keras in it (`pip install --no-deps --target DIR keras==VERSION`).
4. Models of Keras 2 and what `upgrade` made of them; a DIR of `--upgrades` has NAME/model.keras,
   NAME/model.h5, NAME/saved, as `_upgrade_zoo.py` writes them, and NAME.keras, the upgraded one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

import ckptkit
from benchmarks._config_mutants import drawn, is_named, read, write
from benchmarks.harness import markdown_table, put
from ckptkit.operations.configuration.read import config_tree
from ckptkit.operations.diff.beside.configuration import configuration_changes
from ckptkit.operations.digests import digests_of

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "diff.md"
BEGIN, END = "<!-- configs -->", "<!-- /configs -->"
DRAWN, SEED = 200, 23
Row = tuple[str, int, int, str]


def produce(target: Path, keras: Path | None, written: Path | None = None) -> Path:
    """Have a Keras write the reference models, or save again what another one wrote."""
    first = [str(keras)] if keras is not None else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*first, str(ROOT)])}
    command = [sys.executable, "-m", "benchmarks._config_producer", str(target)]
    log = target.parent / f"{target.name}.log"
    with log.open("w", encoding="utf-8") as file:
        subprocess.run(
            [*command, *([str(written)] if written else [])],
            check=True,
            env=environment,
            stdout=file,
            stderr=file,
        )
    return target


def compared(old: Path, new: Path) -> tuple[list[str], bool]:
    """Return what `diff --config` says of two files, and whether their digests are one."""
    result = ckptkit.diff(old, new, config=True)
    said = [str(item) for row in result.beside for item in row.items]
    parts = ["config", "signature", "vocabulary"]  # custom layers name their weights by the form
    both = [digests_of(ckptkit.open(path), parts) for path in (old, new)]
    held = [part for part in parts if None not in (both[0][part], both[1][part])]
    return said, all(both[0][part] == both[1][part] for part in held)


def drawn_rows(made: Path, scratch: Path) -> Iterator[Row]:
    """Yield a row per kind of change."""
    configs = {path.stem: read(path) for path in sorted(made.glob("*.keras"))}
    counts: dict[str, list[int]] = {}
    for name, kind, mutant in drawn(configs, DRAWN, SEED):
        changed = scratch / "changed.keras"
        write(made / f"{name}.keras", changed, mutant.config)
        both = [ckptkit.open(path) for path in (made / f"{name}.keras", changed)]
        found = configuration_changes(config_tree(both[0]), config_tree(both[1]))
        is_told = any(is_named(change, mutant) for change in found)
        is_told &= bool(ckptkit.diff(*both, mode="structure", config=True).beside)
        digests = {digests_of(checkpoint, ["config"])["config"] for checkpoint in both}
        count = counts.setdefault(kind, [0, 0, 0])
        for at, value in enumerate((True, is_told, len(digests) == 2)):
            count[at] += value
        if not is_told or len(digests) == 1:
            print(f"missed: {name} {mutant.where} {mutant.option} {mutant.old} {mutant.new}")
    for kind, (number, told, other) in sorted(counts.items()):
        yield f"drawn changes: {kind}", number, told, f"{other} of {number}"


def row_of(what: str, pairs: Sequence[tuple[Path, Path]]) -> Row:
    """Return the row of pairs that are one model: how many, how many with a difference."""
    differ = same = 0
    for old, new in pairs:
        said, is_one = compared(old, new)
        differ += bool(said)
        same += is_one
        if said or not is_one:
            print(f"{old} {new}: {said[:3]}, digests {'equal' if is_one else 'differ'}")
    return what, len(pairs), differ, f"{same} of {len(pairs)}"


def form_rows(made: Path, name: str) -> Iterator[Row]:
    """Yield a row per form that a Keras wrote beside `.keras`."""
    archives = sorted(made.glob("*.keras"))
    for what, suffix in ((".h5", ".h5"), ("export", "_export")):
        # of a class of its own nothing but the weights is in both
        pairs = [(x, made / f"{x.stem}{suffix}") for x in archives if x.stem != "subclassed"]
        yield row_of(f"{name}: `.keras` and {what}", [pair for pair in pairs if pair[1].exists()])


def version_rows(directories: Sequence[Path], made: Path, scratch: Path) -> Iterator[Row]:
    """Yield a row per other Keras: what it wrote, and what it saved again of the oldest."""
    oldest = None
    for directory in directories:
        version = directory.name
        here = produce(scratch / f"made-{version}", directory)
        pairs = [(path, made / path.name) for path in sorted(here.glob("*.keras"))]
        yield row_of(f"Keras {version} and the installed one", pairs)
        yield from form_rows(here, f"Keras {version}")
        if oldest is not None:
            again = produce(scratch / f"again-{version}", directory, oldest)
            pairs = [(oldest / path.name, path) for path in sorted(again.glob("*.keras"))]
            yield row_of(
                f"{oldest.name.replace('made-', 'Keras ')} saved again by {version}", pairs
            )
        oldest = oldest or here
    if oldest is not None:
        again = produce(scratch / "again", None, oldest)
        pairs = [(oldest / path.name, path) for path in sorted(again.glob("*.keras"))]
        yield row_of(
            f"{oldest.name.replace('made-', 'Keras ')} saved again by the installed", pairs
        )


def upgrade_row(directory: Path) -> Row:
    """Return the row of old models and their upgrades; how they were compiled is set aside."""
    number = differ = 0
    for new in sorted(directory.glob("*.keras")):
        for form in ("model.keras", "model.h5", "saved"):
            old = directory / new.stem / form
            if not old.exists():
                continue
            trees = [config_tree(ckptkit.open(path)) for path in (old, new)]
            changes = configuration_changes(trees[0], trees[1])
            found = [change for change in changes if change.what != "compiled"]
            number += 1
            differ += bool(found)
            if found:
                print(f"{old}: {[str(change) for change in found[:3]]}")
    return "Keras 2 and its upgrade", number, differ, "-"


@click.command()
@click.option("--keras", multiple=True, type=click.Path(exists=True, path_type=Path))
@click.option("--upgrades", multiple=True, type=click.Path(exists=True, path_type=Path))
@click.option("--write", "is_written", is_flag=True, help="Put the table into docs/diff.md.")
def main(keras: tuple[Path, ...], upgrades: tuple[Path, ...], is_written: bool) -> None:
    """Measure `diff --config` and the digest of configurations."""
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        made = produce(scratch / "made", None)
        changes = list(drawn_rows(made, scratch))
        models = [*form_rows(made, "the installed Keras"), *version_rows(keras, made, scratch)]
        models += [upgrade_row(path) for path in upgrades]
    align = ("left", "right", "right", "right")
    tables = [
        *markdown_table(changes, ("CHANGES", "DRAWN", "NAMED", "DIGEST"), align),
        "",
        *markdown_table(models, ("ONE MODEL", "PAIRS", "DIFFERENT", "DIGEST"), align),
    ]
    print("\n".join(tables))
    if is_written:
        put(DOCUMENT, "\n".join(tables), BEGIN, END)
    missed = sum(number - told for _, number, told, _ in changes)
    sys.exit(bool(missed or sum(differ for _, _, differ, _ in models)))


if __name__ == "__main__":
    main()
