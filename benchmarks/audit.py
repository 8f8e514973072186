"""`python -m benchmarks.audit`: does an audit of a tolerance say what really damaged files show?

Faults that `check --audit-tolerance` tries in a reference model are written into files, which are
read again and checked: the audit must have said whether that check passes.  Three tolerances: the
one that follows from the environments, a wide one, and the one that the audit suggests.  That one
is also held against fifty further runs of the sound model, on one thread, two, and under XLA.  With
--write the tables go into docs/audit.md.  Exit code: 1 where a goal is missed.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import click

from benchmarks import _forks
from benchmarks.harness import markdown_table, put
from ckptkit.runners.child.faults import ACTIVATION, EPSILON, KINDS, LAYER, SEED, damaged

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "audit.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
MODELS = (
    *("mlp_module", "custom_layer", "subclassed", "list_of_blocks", "sequential"),
    *("functional_cnn", "multi_io", "recurrent", "transformer", "text_lookup"),
    *("mixed_precision", "partitioned_embedding", "gan"),
)
FORMS = (("model.keras",), ("saved_model", "export"))
FAULTS = 10  # of a model that are written into files
AUTO, WIDE, SUGGESTED = "auto", "wide", "suggested"
WIDE_BOUND = 1e-2
AGREEMENT = 0.98
REPEATS = 10  # of all cases, in each of the processes
RUNNERS = ("CPU:0", "CPU:0", "CPU:0,threads=1", "CPU:0,threads=2", "xla:CPU:0")


@dataclass
class Verdict:
    """What the audit and the check of a real file say of one fault, by tolerance: does it pass?"""

    kind: str
    where: str
    said: dict[str, bool]
    found: dict[str, bool]


@dataclass
class Rerun:
    """Runs of a sound model, and how many of them the suggested tolerance let pass."""

    runs: int
    passed: int


def work(name: str, form: str, folder: Path) -> tuple[list[Verdict], Rerun]:
    """Return what comes of one form of a reference model."""
    import ckptkit

    model = folder / "fixture" / form
    golden = folder / f"golden-{form}"
    options: dict[str, Any] = {"imports": _imports(name)}
    ckptkit.record(model, golden, blind=False, **options)
    suggested = folder / f"suggested-{form}.txt"
    tolerances: dict[str, dict[str, Any]] = {
        AUTO: {},
        WIDE: {"rtol": WIDE_BOUND, "atol": WIDE_BOUND},
    }
    said: dict[str, dict[tuple[str, str], bool]] = {}
    faults: dict[tuple[str, str], Any] = {}
    for label, tolerance in tolerances.items():
        report = ckptkit.check(
            model, golden=golden, outputs_only=True, audit_tolerance=True, **tolerance, **options
        )
        audit = report.audit
        if audit is None or not audit.faults:
            raise RuntimeError(f"{name} {form}: {report.verdict}")
        if label == AUTO:
            suggested.write_text("\n".join(audit.file_lines) + "\n", encoding="utf-8")
        faults |= {(fault.kind, fault.where): fault for fault in audit.faults}
        said[label] = {(f.kind, f.where): f.verdict != "seen" for f in audit.faults}
        # what passes the wide one, and would be seen by the suggested one, is told apart there
        unseen = {(f.kind, f.where): f.verdict in ("blind", "same") for f in audit.faults}
        said[SUGGESTED] = unseen
    tolerances[SUGGESTED] = {"tolerance": suggested}
    files = _forks.forked(_written, model, _some(list(faults)), faults, folder)
    checks = {key: str(file) for key, file in files.items()}
    asked = (str(golden), tolerances, options)
    found = _forks.forked(_checked, checks, *asked)
    verdicts = [
        Verdict(kind, where, {t: said[t][kind, where] for t in tolerances}, passes)
        for (kind, where), passes in found.items()
    ]
    return verdicts, _rerun(model, golden, suggested, options)


def _imports(name: str) -> tuple[str, ...]:
    return (f"ckptkit.fixtures.models.{name}",)


def _some(keys: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return some of the faults, all kinds among them."""
    import numpy as np

    order = np.random.default_rng(SEED).permutation(len(keys))
    by_kind: dict[str, list[tuple[str, str]]] = {}
    for at in order:
        by_kind.setdefault(keys[at][0], []).append(keys[at])
    found: list[tuple[str, str]] = []
    while len(found) < min(FAULTS, len(keys)):
        found += [alike.pop() for alike in by_kind.values() if alike]
    return found[:FAULTS]


def _written(
    model: Path, keys: Sequence[tuple[str, str]], faults: Mapping[tuple[str, str], Any], out: Path
) -> dict[tuple[str, str], Path]:
    """Write a file per fault: weights by `ckptkit.convert`, settings into the configuration."""
    import numpy as np

    import ckptkit
    from ckptkit.model_io.array_files import save_arrays

    lists = any(_members(model))
    ckptkit.convert(
        *(model, out / f"{model.name}.npz"),
        weights_only=True,
        overwrite=True,
        allow_unused=["assets/*"] if lists else (),
    )
    loaded = ckptkit.load(out / f"{model.name}.npz")
    values = {name: np.asarray(loaded[name]) for name in loaded}
    files = {}
    for number, key in enumerate(keys):
        fault = faults[key]
        path = out / f"{model.name.partition('.')[0]}-{number}{model.suffix}"
        if fault.kind in (EPSILON, ACTIVATION):
            if _with_setting(model, path, fault):
                files[key] = path
            continue
        named = [_key(name, values, faults) for name in fault.variables]
        known = [name for name in named if name is not None]
        if len(known) < len(named):
            continue
        changed = {
            key_of: value
            for key_of in known
            if (value := damaged(fault.kind, values[key_of])) is not None
        }
        weights = out / "damaged.npz"
        weights.unlink(missing_ok=True)
        save_arrays(weights, {**values, **changed})  # which keeps bfloat16, too
        ckptkit.convert(weights, path, like=model, weights_only=True)
        files[key] = path
    return files


def _members(model: Path) -> Iterator[str]:
    """Yield the files of a model that hold no weights: vocabularies."""
    if model.is_dir():
        yield from (str(file) for file in (model / "assets").glob("*"))
    else:
        yield from (name for name in ZipFile(model).namelist() if name.startswith("assets/"))


def _key(name: str, values: Mapping[str, Any], faults: Mapping[tuple[str, str], Any]) -> str | None:
    """Return what a variable is called in the file: of a custom layer by its place, `vars/0`."""
    if name in values:
        return name
    layer = name.rpartition("/")[0]
    layers = (fault.variables for fault in faults.values() if fault.kind == LAYER)
    members = next((names for names in layers if name in names), ())
    there = sorted(
        (key for key in values if key.startswith(f"{layer}/vars/")),
        key=lambda key: int(key.rpartition("/")[2]),
    )
    return there[members.index(name)] if len(there) == len(members) else None


def _with_setting(model: Path, out: Path, fault: Any) -> bool:
    """Write a copy with the setting of a fault; False where no one layer has its name."""
    from benchmarks import _mutants

    config = _mutants.config_of(model)
    name = fault.layer.rpartition("/")[2]
    layers = [row for row in _mutants._layers(config) if row["config"].get("name") == name]
    if len(layers) != 1 or fault.kind not in layers[0]["config"]:
        return False
    new = fault.text.rpartition(" made ")[2]
    layers[0]["config"][fault.kind] = float(new) if fault.kind == EPSILON else new
    _mutants.with_config(model, out, config)
    return True


def _checked(
    files: Mapping[tuple[str, str], str],
    golden: str,
    tolerances: Mapping[str, Mapping[str, Any]],
    options: Mapping[str, Any],
) -> dict[tuple[str, str], dict[str, bool]]:
    """Check each file by each tolerance: does it pass?  Each is run once."""
    import ckptkit
    from benchmarks import _mutation_checks

    _forks.use(_forks.run_here)
    _mutation_checks.remember_runs()
    return {
        key: {
            label: ckptkit.check(
                file, golden=golden, outputs_only=True, **tolerance, **options
            ).exit_code
            != 1
            for label, tolerance in tolerances.items()
        }
        for key, file in files.items()
    }


def _rerun(model: Path, golden: Path, suggested: Path, options: Mapping[str, Any]) -> Rerun:
    """Run the sound model fifty times, in five processes, and hold it against the golden."""
    from ckptkit.golden.golden import read_golden
    from ckptkit.model_io.compare_outputs import compare_outputs
    from ckptkit.operations.execution.subjects import ModelSource
    from ckptkit.operations.execution.tolerance import TolerancePolicy
    from ckptkit.runners.client import execute
    from ckptkit.runners.errors import RunnerError
    from ckptkit.runners.spec import parse_runner
    from ckptkit.runners.types import Limits

    known = read_golden(golden)
    subject = ModelSource().resolve(model, golden.parent, 600.0).subject
    signature = known.signature if subject.kind == "saved_model" else None
    cases = [case.inputs for case in known.cases] * REPEATS
    policy = TolerancePolicy(suggested)
    runs = passed = 0
    for runner in RUNNERS:
        spec = parse_runner(runner)
        try:
            run = execute(
                subject, spec, cases, Limits(), signature=signature, options=dict(options)
            )
        except RunnerError as error:
            if "XLA cannot compile" not in str(error):
                raise
            continue
        chosen = policy.choose(known.environment, run.environment)
        for number, outputs in enumerate(run.outputs):
            recorded = known.cases[number % len(known.cases)].outputs
            # the tolerance alone, without the noise that the golden keeps
            results = compare_outputs(recorded, outputs, chosen.tolerance)
            runs += 1
            passed += all(result.ok for result in results)
    return Rerun(runs, passed)


# --- the tables -----------------------------------------------------------------------------------


def agreeing(verdicts: Sequence[Verdict], label: str) -> int:
    """Return how often the audit said what the check of the file said."""
    return sum(verdict.said[label] == verdict.found[label] for verdict in verdicts)


def lines(verdicts: Sequence[Verdict], reruns: Mapping[str, Rerun]) -> Iterator[str]:
    """Yield the tables."""
    labels = (AUTO, WIDE, SUGGESTED)
    headers = ("fault", "files", *(f"{label}: the same" for label in labels), *labels)
    rows = []
    for kind in (*KINDS, ""):
        alike = [verdict for verdict in verdicts if kind in ("", verdict.kind)]
        if alike:
            same = (f"{agreeing(alike, label)}/{len(alike)}" for label in labels)
            passing = (f"{sum(verdict.found[label] for verdict in alike)}" for label in labels)
            rows.append((KINDS.get(kind, "**all**"), str(len(alike)), *same, *passing))
    yield from markdown_table(rows, headers, ("left", *["right"] * 7))
    yield ""
    runs, passed = (sum(getattr(r, n) for r in reruns.values()) for n in ("runs", "passed"))
    yield (
        f"{len(reruns)} files of {len(MODELS)} reference models; the suggested tolerances let "
        f"{passed:,} of {runs:,} further runs of the sound ones pass."
    )


def missed(verdicts: Sequence[Verdict], reruns: Mapping[str, Rerun]) -> list[str]:
    """Return what is short of a goal, a line each."""
    found = []
    same = sum(agreeing(verdicts, label) for label in (AUTO, WIDE, SUGGESTED))
    if same < AGREEMENT * 3 * len(verdicts):
        found.append(f"the same verdict: {same} of {3 * len(verdicts)}")
    found += [
        f"{name}: {rerun.passed} of {rerun.runs} further runs pass"
        for name, rerun in reruns.items()
        if rerun.passed < rerun.runs
    ]
    return found


@click.command()
@click.option("--write", is_flag=True, help="Put the tables into docs/audit.md.")
@click.option("--only", multiple=True, metavar="MODEL", help="These reference models.")
@click.option("--results", metavar="DIR", help="Keep verdicts there; repeat none that is there.")
@click.pass_context
def main(ctx: click.Context, write: bool, only: tuple[str, ...], results: str | None) -> None:
    """Hold audits of tolerances against really damaged files."""
    with tempfile.TemporaryDirectory(prefix="audit-") as scratch:
        kept = Path(results or scratch, "results")
        kept.mkdir(parents=True, exist_ok=True)
        _forks.preload()
        _forks.use(_forks.run_forked)
        for name in only or MODELS:
            _work_on(name, kept, Path(scratch, name))
        verdicts: list[Verdict] = []
        reruns: dict[str, Rerun] = {}
        for file in sorted(kept.glob("*.json")):
            found = json.loads(file.read_text("utf-8"))
            verdicts += [Verdict(**row) for row in found["verdicts"]]
            reruns[file.stem] = Rerun(**found["rerun"])
    table = "\n".join(lines(verdicts, reruns))
    short = missed(verdicts, reruns)
    differing = [
        f"{v.kind} {v.where}: said {v.said}, found {v.found}" for v in verdicts if v.said != v.found
    ]
    click.echo("\n".join([table, "", *short, *differing]))
    if write:
        put(DOCUMENT, table, BEGIN, END)
    ctx.exit(bool(short))


def _work_on(name: str, kept: Path, folder: Path) -> None:
    """Work on all forms of a reference model that have no results yet."""
    if all(any((kept / f"{name}.{form}.json").exists() for form in forms) for forms in FORMS):
        return
    folder.mkdir()
    _forks.forked(_made, name, folder / "fixture")
    for forms in FORMS:
        form = next((each for each in forms if (folder / "fixture" / each).exists()), None)
        if form is None or (kept / f"{name}.{form}.json").exists():
            continue
        began = time.monotonic()
        verdicts, rerun = work(name, form, folder)
        row = {"verdicts": [asdict(v) for v in verdicts], "rerun": asdict(rerun)}
        (kept / f"{name}.{form}.json").write_text(json.dumps(row, indent=1), encoding="utf-8")
        took = time.monotonic() - began
        same = min(agreeing(verdicts, label) for label in (AUTO, WIDE, SUGGESTED))
        told = f"{name} {form}: {len(verdicts)} files, {same} the same, {rerun}, {took:.0f} s"
        click.echo(told, err=True)


def _made(name: str, folder: Path) -> None:
    from ckptkit import fixtures

    fixtures.make(name, folder)


if __name__ == "__main__":
    sys.exit(main())
