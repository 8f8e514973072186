"""`python -m benchmarks.operator_mutants`: would the tests notice if the code were wrong?

Mutants of the code that says which tensor is which, what it is called, what two tensors and two
outputs differ by and how far they may: one operator, constant, call or return is changed, and the
tests that run that line are run, the quickest first, until one fails.  They are drawn with a fixed
seed, the same number of each part.  Only tests of `make test` that need no TensorFlow count.

What was found lies in benchmarks/.cache and docs/, and is gone on with: a mutant that was killed is
not tried again, one that survived is, unless a reason is known why no test could notice it.
With --write: docs/operator-mutants.json, where the reason beside each survivor is kept, and the
table of docs/mutations.md.  Exit code: 1 where fewer than 95% of a draw are killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest

from benchmarks._covering_tests import Outcome, Runs, Table
from benchmarks._mutated_import import OPTIONS, quick_examples
from benchmarks._operators import OperatorMutant, draw, mutants_of
from benchmarks.harness import markdown_table, put

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "mutations.md"
RESULTS = ROOT / "docs" / "operator-mutants.json"
CACHE = ROOT / "benchmarks" / ".cache" / "operator-mutants"
ALL = "**all**"
BEGIN, END = "<!-- operators: begin -->", "<!-- operators: end -->"
SEED = 17
EACH = 120
GOAL = 0.95
MARKS = "not needs_tf and not slow and not runtimes and not in_use"
NEAR = (
    *("align/", "checkpoint/", "compare/", "model_io/", "operations/diff/", "stores/test_npz.py"),
    *("operations/convert/test_cudnn_layouts.py", "operations/convert/test_convert_transforms.py"),
    *("stores/test_legacy_names.py", "stores/test_checkpoint_v1.py", "stores/test_goldens.py"),
)
ROOMS = ("align/", "checkpoint/", "compare/", "model_io/", "operations/", "stores/", "golden/")
BUDGET_S = 4.0  # of tests for one mutant; for one that survives these, THOROUGH_S
THOROUGH_S = 120.0
NO_TEST = "no test notices it yet"

Parts = dict[str, list[OperatorMutant]]
PARTS = {
    "align": ("align/*.py",),
    "names": ("checkpoint/*.py", "stores/keras/legacy_names.py", "stores/npz/npy.py"),
    "compare": ("compare/*.py",),
    "tiers": ("model_io/tiers.py", "model_io/chance.py", "model_io/sampling.py"),
    "outputs": ("model_io/compare_outputs.py", "model_io/measure.py", "model_io/results.py",
                "model_io/pair_names.py", "model_io/hints.py", "model_io/formulas.py"),
}  # fmt: skip
# Mutants that once no test killed: (file, function, operator, what it changes).
ALWAYS = (
    ("checkpoint/optimizer_words.py", "known_slot", "condition negated", "again"),
    ("align/evidence.py", "", "and/or", "old_spec.dtype == new_spec.dtype and"),
    ("stores/npz/npy.py", "decode_descr", "", "code[1:]"),
)


def all_mutants() -> Parts:
    """Return {part: every mutant of its files}."""
    return {
        part: [
            mutant
            for pattern in patterns
            for path in sorted((ROOT / "ckptkit").glob(pattern))
            for mutant in mutants_of(path, ROOT)
        ]
        for part, patterns in PARTS.items()
    }


def drawn(
    everything: dict[str, list[OperatorMutant]], each: int, seed: int
) -> dict[str, list[OperatorMutant]]:
    """Return {part: so many of its mutants}, and those that are always among them."""
    return {
        part: [*(chosen := draw(mutants, each, seed)),
               *(m for m in mutants if _is_always(m) and m not in chosen)]
        for part, mutants in everything.items()
    }  # fmt: skip


def _is_always(mutant: OperatorMutant) -> bool:
    return any(
        mutant.file.endswith(file)
        and function in mutant.function
        and operator in mutant.operator
        and what in mutant.before
        for file, function, operator, what in ALWAYS
    )


# --- what is known --------------------------------------------------------------------------------


class Known:
    """Outcomes of earlier runs, one line each; the last of a mutant counts.

    documented: rows of docs/operator-mutants.json, for what was found on another machine.
    """

    def __init__(self, folder: Path, documented: Sequence[dict[str, Any]] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "outcomes.jsonl"
        self.rows: dict[str, dict[str, Any]] = {row["name"]: row for row in documented}
        self._reasons = {row["name"]: row["reason"] for row in documented if row.get("reason")}
        if self._file.exists():
            for line in self._file.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                self.rows[row["name"]] = row

    def add(self, outcome: Outcome) -> None:
        row = {"name": outcome.mutant.name, "status": outcome.status,
               "test": outcome.test, "tests": outcome.tests}  # fmt: skip
        self.rows[outcome.mutant.name] = row
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def is_killed(self, mutant: OperatorMutant) -> bool:
        return self.status(mutant) in ("killed", "time limit")

    def is_settled(self, mutant: OperatorMutant) -> bool:
        """Whether there is nothing more to try: a test kills it, or none could."""
        reason = self._reasons.get(mutant.name, NO_TEST)
        return self.is_killed(mutant) or reason != NO_TEST

    def status(self, mutant: OperatorMutant) -> str:
        return str(self.rows.get(mutant.name, {}).get("status", "not run"))


def known_table(
    runs: Runs, files: Sequence[str], rooms: Sequence[str], jobs: int, folder: Path
) -> Table:
    """Return which tests of the rooms run which lines; what nothing changed since is known."""
    digest = hashlib.sha256()
    for file in files:
        digest.update((ROOT / file).read_bytes())
    table, place = Table(), folder / "lines"
    place.mkdir(exist_ok=True)
    modules: dict[str, list[str]] = {}
    for test in runs.items:
        module = test.partition("::")[0]
        if module.startswith(tuple(f"tests/{room}" for room in rooms)):
            modules.setdefault(module, []).append(test)
    paths = {}
    for module, tests in modules.items():
        content = digest.copy()
        content.update((ROOT / module).read_bytes())
        content.update("\n".join(tests).encode())
        paths[module] = place / f"{content.hexdigest()[:20]}.pickle"
    missing = [module for module in modules if not paths[module].exists()]
    for module, part in runs.tables(missing, files, jobs):
        if part is None:
            click.echo(f"not traced: {module}", err=True)
            continue
        part.write(paths[module])
    for path in paths.values():
        if path.exists():
            part = pickle.loads(path.read_bytes())
            table.seconds.update(part.seconds)
            table.lines.update(part.lines)
    return table


# --- runs -----------------------------------------------------------------------------------------


class _Plugin:
    """Runs mutants in place of the tests that pytest collected."""

    def __init__(
        self, mutants: Sequence[OperatorMutant], known: Known, jobs: int, near_only: bool
    ) -> None:
        self.mutants, self.known, self.jobs = mutants, known, jobs
        self.near_only = near_only
        self.table = Table()

    def pytest_configure(self) -> None:
        quick_examples()

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        scratch = Path(tempfile.mkdtemp(prefix="operator-mutants-"))
        try:
            self._run(session, scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return True

    def _run(self, session: pytest.Session, scratch: Path) -> None:
        files = sorted({mutant.file for mutant in self.mutants})
        for file in files:  # or what is imported on demand could not be changed
            import_module(file.removesuffix(".py").replace("/", "."))
        runs = Runs(session, ROOT, scratch)
        for rooms, budget in ((NEAR, BUDGET_S), (ROOMS, THOROUGH_S)):
            left = [m for m in self.mutants if m.function and not self.known.is_settled(m)]
            self.table = known_table(runs, files, rooms, self.jobs, CACHE)
            click.echo(f"{len(left)} mutants, {len(self.table.lines)} tests", err=True)
            chosen = ((m, self.table.ordered(m, budget)) for m in left)
            for outcome in runs.killers(chosen, self.table, self.jobs):
                _tell(outcome)
                self.known.add(outcome)
            tried = [m for m in left if self.known.status(m) == "killed"]
            killers = {m.name: self.known.rows[m.name]["test"] for m in tried}
            unsteady = runs.fails_alone(sorted(set(killers.values())), self.jobs)
            for mutant in tried:
                if killers[mutant.name] in unsteady:
                    click.echo(f"fails by itself: {killers[mutant.name]}", err=True)
                    self.known.add(Outcome(mutant, "not run"))
            if self.near_only:
                break


def _tell(outcome: Outcome) -> None:
    m = outcome.mutant
    how = f"{outcome.test}, {outcome.tests} tests, {outcome.seconds:.1f} s"
    click.echo(f"{outcome.status} {m.file}:{m.line} {m.before} -> {m.after} [{how}]", err=True)


def run_fresh(mutant: OperatorMutant, tests: Sequence[str], seconds: float) -> Outcome:
    """Run tests in a process of its own, which imports the changed module."""
    if not tests:
        return Outcome(mutant, "survived")
    with tempfile.TemporaryDirectory(prefix="operator-mutants-") as scratch:
        change, names = Path(scratch, "mutant"), Path(scratch, "tests")
        change.write_bytes(pickle.dumps(mutant))
        names.write_text("\n".join(tests), encoding="utf-8")
        command = [sys.executable, "-m", "benchmarks._mutated_import", str(change), str(names)]
        try:
            ran = subprocess.run(
                [*command, f"--basetemp={scratch}/base"], cwd=ROOT, capture_output=True, text=True,
                timeout=120 + 20 * seconds, check=False, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Outcome(mutant, "time limit", "", len(tests))
    if ran.returncode == 0:
        return Outcome(mutant, "survived", "", len(tests))
    if ran.returncode < 0:  # a crash, as of compiled code that is given something else
        return Outcome(mutant, "killed", signal.Signals(-ran.returncode).name, len(tests))
    if ran.returncode not in (1, 2):  # failures, or errors while tests were collected
        return Outcome(mutant, "not run", "", len(tests))
    return Outcome(mutant, "killed", ran.stdout.strip().rpartition("\n")[2], len(tests))


def run(
    mutants: Sequence[OperatorMutant], known: Known, jobs: int, near_only: bool = False
) -> None:
    """Try the mutants that are not known to be killed."""
    if all(known.is_settled(mutant) for mutant in mutants):
        return
    plugin = _Plugin(mutants, known, jobs, near_only)
    code = pytest.main(
        [*OPTIONS, "-m", MARKS, *(str(ROOT / "tests" / room) for room in ROOMS)], plugins=[plugin]
    )
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise click.ClickException(f"pytest: {code!r}")
    from concurrent.futures import ThreadPoolExecutor

    # constants of modules, and what runs while modules are imported
    left = [
        mutant
        for mutant in mutants
        if not known.is_settled(mutant)
        and (not mutant.function or known.status(mutant) == "not run")
    ]

    def fresh(mutant: OperatorMutant) -> Outcome:
        # a new process costs as much as many tests
        tests = plugin.table.ordered(mutant, 4 * BUDGET_S)
        return run_fresh(mutant, tests, 4 * BUDGET_S)

    with ThreadPoolExecutor(jobs) as pool:
        for outcome in pool.map(fresh, left):
            _tell(outcome)
            known.add(outcome)


# --- what is written ------------------------------------------------------------------------------


SHOWN = ("file", "line", "function", "operator", "before", "after")
KILLED = ("killed", "time limit")


def written() -> list[dict[str, Any]]:
    """Return the rows that docs/operator-mutants.json has."""
    rows: list[dict[str, Any]] = []
    if RESULTS.exists():
        rows = json.loads(RESULTS.read_text("utf-8"))["mutants"]
    return rows


def documented(parts: Parts, known: Known) -> list[dict[str, Any]]:
    """Return a row for each mutant, with the reasons that the document already gives."""
    reasons = {row["name"]: row["reason"] for row in written() if row.get("reason")}
    rows = []
    for part, mutants in parts.items():
        for mutant in mutants:
            found = known.rows.get(mutant.name, {})
            row = {"name": mutant.name, "part": part}
            row |= {word: getattr(mutant, word) for word in SHOWN}
            row |= {"status": known.status(mutant), "test": found.get("test", "")}
            if row["status"] == "survived":
                row["reason"] = reasons.get(mutant.name, NO_TEST)
            rows.append(row)
    return rows


def lines(rows: Sequence[dict[str, Any]], counts: dict[str, int], seed: int) -> Iterator[str]:
    """Yield the table, and the survivors with the reason of each."""
    table = []
    for part in (*counts, ALL):
        of_part = [row for row in rows if part in (row["part"], ALL)]
        tried = [row for row in of_part if row["status"] != "not run"]
        killed = sum(row["status"] in KILLED for row in tried)
        count = counts.get(part, sum(counts.values()))
        share = f"{killed} ({killed / len(tried):.1%})" if tried else ""
        table.append((part, f"{count:,}", str(len(of_part)), str(len(tried)), share))
    headers = ("part", "mutants there are", "drawn", "tried", "killed")
    yield from markdown_table(table, headers, ("left", *["right"] * 4))
    yield ""
    cells = []
    for row in rows:
        if row["status"] == "survived" and row["reason"] != NO_TEST:
            where = f"`{row['file'].removeprefix('ckptkit/')}` `{row['function']}`"
            change = f"`{_cell(row['before'])}` → `{_cell(row['after'])}`"
            cells.append((where, change, _cell(row["reason"], 200)))
    if cells:
        headers_left = ("survivor", "change", "why")
        yield from markdown_table(cells, headers_left, ("left", "left", "left"))
        yield ""
    open_ones = sum(row.get("reason") == NO_TEST for row in rows)
    if open_ones:
        yield f"{open_ones} more survived; no test was there that notices them."
        yield ""
    name = RESULTS.name
    yield f"Seed {seed}; every mutant, with the test that kills it: [{name}]({name})."


def _cell(text: str, longest: int = 60) -> str:
    text = " ".join(text.split()).replace("|", "\\|")
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


@click.command()
@click.option("--write", is_flag=True, help="Put what was found into docs/.")
@click.option("--seed", default=SEED, show_default=True)
@click.option("--each", default=EACH, show_default=True, help="Mutants of each part.")
@click.option("--jobs", default=2, show_default=True, help="Forks at a time.")
@click.option("--part", "only", type=click.Choice(list(PARTS)), multiple=True)
@click.option("--dry", is_flag=True, help="Run nothing; say what is known.")
@click.option("--near", is_flag=True, help="Leave survivors of the nearest tests at that.")
@click.pass_context
def main(
    ctx: click.Context,
    write: bool,
    seed: int,
    each: int,
    jobs: int,
    only: tuple[str, ...],
    dry: bool,
    near: bool,
) -> None:
    """Change the code, and see which tests notice."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    everything = {part: each for part, each in all_mutants().items() if not only or part in only}
    parts = drawn(everything, each, seed)
    known = Known(CACHE, written())
    if not dry:
        run([mutant for mutants in parts.values() for mutant in mutants], known, jobs, near)
    rows = documented(parts, known)
    found = list(lines(rows, {part: len(mutants) for part, mutants in everything.items()}, seed))
    click.echo("\n".join(found))
    if write:
        content = {"seed": seed, "each": each, "mutants": rows}
        RESULTS.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
        put(DOCUMENT, "\n".join(found), BEGIN, END)
    killed = sum(known.is_killed(mutant) for mutants in parts.values() for mutant in mutants)
    ctx.exit(killed < GOAL * len(rows))


if __name__ == "__main__":
    sys.exit(main())
