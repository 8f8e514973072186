"""Judging mutants: what `check` says of each, and the peers' verdicts beside it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import _forks
from benchmarks._mutants import KINDS, Base, Mutant, mentions

CLOSE = 1e-5  # rtol and atol of np.allclose
RUNNERS = ("CPU:0", "xla:CPU:0", "CPU:0,threads=1", "CPU:0,eager")


@dataclass
class Verdict:
    """How one mutant fared; None where a question does not apply.

    caught, named: by `check --golden`.  blind_*: with --outputs-only; cause: whether the output
    alone tells what was done.  first: whether --localize names the damaged layer first.
    asserts, editor, allclose: whether TensorFlow's assertions, KerasFileEditor.compare and
    np.allclose found it.  said: the texts, for whoever looks into a verdict.
    """

    model: str
    base: str
    kind: str
    caught: bool = False
    named: bool = False
    blind: bool | None = None
    cause: bool | None = None
    first: bool | None = None
    asserts: bool | None = None
    editor: bool | None = None
    allclose: bool | None = None
    said: list[str] = field(default_factory=list)


@dataclass
class Alarm:
    """One check of a model that is sound; false is what was said of it, "" for nothing."""

    model: str
    base: str
    what: str
    false: str


def remember_runs() -> None:
    """Run the same model on the same inputs once, however many checks ask for it."""
    from ckptkit.operations.execution import runs

    module: Any = runs  # its own name for `execute` is replaced
    known: dict[Any, Any] = {}
    execute = module.execute

    def remembered(
        subject: Any, spec: Any, cases: Sequence[Mapping[str, Any]], limits: Any, **options: Any
    ) -> Any:
        if options.get("out") is not None or options.get("layers"):
            return execute(subject, spec, cases, limits, **options)
        digest = hashlib.sha256()
        for case in cases:
            for name, array in case.items():
                content = repr(array.tolist()) if array.dtype == object else array.tobytes()
                digest.update(f"{name}{array.shape}{array.dtype}{content!r}".encode())
        key = (str(subject.path), subject.code, spec, options.get("signature"), digest.digest())
        if key not in known:
            known[key] = execute(subject, spec, cases, limits, **options)
        return known[key]

    module.execute = remembered


# --- mutants --------------------------------------------------------------------------------------


def judge(
    name: str, bases: Mapping[str, Base], mutants: Sequence[Mutant], goldens: Mapping[str, str]
) -> list[Verdict]:
    """Return the verdicts on the mutants of one reference model; TensorFlow may start here."""
    _forks.use(_forks.run_here)
    remember_runs()
    return [judged(name, bases[m.base], m, goldens.get(m.base, "")) for m in mutants]


def judge_once(name: str, base: Base, mutants: Sequence[Mutant], golden: str) -> list[Verdict]:
    """Return the verdicts on mutants by one check each, with a golden and --localize."""
    _forks.use(_forks.run_here)
    remember_runs()
    found = []
    for mutant in mutants:
        kind = KINDS[mutant.kind]
        report = _checked(base, mutant, golden=golden, localize="always")
        verdict = Verdict(name, base.name, mutant.kind, report.exit_code == 1)
        verdict.said = [f"{code}: {text}" for code, text in _said(report)][:8] or [report.mode]
        if kind.layer:
            verdict.first = _first(report, mutant)
            if not verdict.first:
                local = report.localization
                told = f"{local.suspects} {local.notes}" if local is not None else report.mode
                verdict.said.append(f"localized: {told}, damaged: {mutant.inside}")
        verdict.named = (
            bool(verdict.first)
            if kind.codes is None
            else _names(report, kind.codes, mutant.targets, kind.never)
        )
        found.append(verdict)
    return found


def judged(
    name: str, base: Base, mutant: Mutant, golden: str, *, localized: bool = True
) -> Verdict:
    """Return the verdict on one mutant; localized: whether --localize is asked too."""
    kind = KINDS[mutant.kind]
    found = Verdict(name, base.name, mutant.kind, asserts=mutant.asserts, editor=mutant.editor)
    if base.form == "whole":  # restored and not run
        report = _checked(base, mutant)
        found.caught = report.exit_code == 1
        found.said = [f"{code}: {text}" for code, text in _said(report)][:8] or [report.mode]
        assert kind.codes is not None
        found.named = _names(report, kind.codes, mutant.targets, kind.never)
        return found
    report = _checked(base, mutant, golden=golden)
    found.caught = report.exit_code == 1
    found.said = [f"{code}: {text}" for code, text in _said(report)][:8] or [report.mode]
    if kind.codes is not None:
        found.named = _names(report, kind.codes, mutant.targets, kind.never)
    if mutant.base == "code" and kind.codes is not None and kind.codes.startswith(r"restore"):
        return found  # the model is not run: there are no outputs to look at
    blind = _checked(base, mutant, golden=golden, outputs_only=True)
    found.blind = blind.exit_code == 1
    if kind.cause is not None:
        codes, words = kind.cause
        found.cause = any(re.match(codes, c) and re.search(words, t) for c, t in _said(blind))
    found.allclose = not _allclose(base, golden, mutant)
    if kind.layer and localized:
        local = _checked(base, mutant, against=_reference(base), localize="always")
        found.first = _first(local, mutant)
        if not found.first:
            suspects = local.localization.suspects if local.localization is not None else local.mode
            found.said.append(f"localized: {suspects}, damaged: {mutant.inside}")
        if kind.codes is None:
            found.named = found.first
    return found


def _checked(base: Base, mutant: Mutant, **options: Any) -> Any:
    """Return the report; one that found nothing where `check` could not tell (exit code 2)."""
    from ckptkit import check
    from ckptkit.errors import CkptkitError
    from ckptkit.operations.check.report import Report

    try:
        return check(mutant.path, model=mutant.model, imports=base.imports, **options)
    except CkptkitError as error:
        return Report(mutant.path, f"refused: {error}")


def _reference(base: Base) -> str:
    """Return what a mutant is localised against: the sound model, or the sound code's `.keras`."""
    return base.path if base.model is None else str(Path(base.path).with_name("model.keras"))


def _said(report: Any) -> Iterator[tuple[str, str]]:
    """Yield (code, text) of what counts in a report."""
    for finding in report.failing_findings:
        yield finding.code, f"{finding.where}: {finding.message} {finding.hint}"
    for row in report.failed:
        result = row.result
        text = f"{result.name}: {result.message} {' '.join(result.hints)}"
        yield f"output.{result.status}", text


def _names(report: Any, codes: str, targets: Sequence[str], never: str) -> bool:
    said = list(_said(report))
    if never and any(re.match(never, code) for code, _ in said):
        return False
    fitting = [text for code, text in said if re.fullmatch(codes, code)]
    return bool(fitting) and all(
        any(mentions(text, name) for text in fitting for name in target.split("|"))
        for target in targets
    )


def _first(report: Any, mutant: Mutant) -> bool:
    """Whether --localize names the damaged layer, one inside it or the one around it, first."""
    found = report.localization
    suspects: Sequence[str] = found.suspects if found is not None else ()
    damaged = {*mutant.inside, *mutant.targets}
    first = re.sub(r"[.\[]", "/", suspects[0].replace("]", "")) if suspects else ""
    return any(f"/{name}/" in f"/{first}/" for name in damaged)


def _allclose(base: Base, golden: str, mutant: Mutant) -> bool:
    """Whether np.allclose takes the outputs, by name, for the same: a script of a few lines."""
    import numpy as np

    from ckptkit.golden.golden import read_golden
    from ckptkit.operations.execution import runs
    from ckptkit.runners.errors import RunnerError
    from ckptkit.runners.spec import RunnerSpec
    from ckptkit.runners.types import Limits, ModelSpec

    known = read_golden(golden)
    subject = ModelSpec(base.form, Path(mutant.path), mutant.model)
    signature = known.signature if base.form == "saved_model" else None
    cases = [case.inputs for case in known.cases]
    module: Any = runs  # whose `execute` remembers
    options = {"imports": list(base.imports)}
    try:
        run = module.execute(
            subject, RunnerSpec(), cases, Limits(), signature=signature, options=options
        )
    except RunnerError:
        return False
    for case, given in zip(known.cases, run.outputs, strict=False):
        for output, value in case.outputs.items():
            if output not in given or not _close(np, value, given[output]):
                return False
    return len(run.outputs) == len(known.cases)


def _close(np: Any, one: Any, other: Any) -> bool:
    if one.dtype == object:
        return bool(np.array_equal(one, other))
    wide = [x.astype(np.float64) for x in (one, other)]
    try:
        return bool(np.allclose(wide[1], wide[0], rtol=CLOSE, atol=CLOSE))
    except ValueError:  # shapes that do not go together
        return False


# --- sound models ---------------------------------------------------------------------------------


def record(base: Base, out: Path, layers: Sequence[str] = ()) -> None:
    """Record a golden of a base, with its noise; every run in a fork."""
    import ckptkit

    _forks.use(_forks.run_forked)
    ckptkit.record(base.path, out, model=base.model, imports=base.imports, layers=layers)


def alarms(name: str, base: Base, golden: str) -> list[Alarm]:
    """Check what is sound: re-saves, conversions, other runners, and batches that are split."""
    import ckptkit
    from ckptkit.runners.errors import RunnerError

    _forks.use(_forks.run_forked)
    found = []
    for runner in RUNNERS:
        if runner.endswith("eager") and base.form == "saved_model":
            continue  # graphs do not run eagerly
        try:
            report = ckptkit.check(
                base.path, model=base.model, imports=base.imports, golden=golden, on=runner
            )
        except RunnerError as error:
            if "XLA cannot compile" not in str(error):
                raise
            continue
        found.append(_alarm(name, base, f"on {runner}", report))
    for what, path in base.twins.items():
        report = ckptkit.check(path, model=base.model, imports=base.imports, golden=golden)
        found.append(_alarm(name, base, what, report))
    found.append(_split(name, base, golden))
    return found


def whole_alarm(name: str, base: Base) -> Alarm:
    """Check that all of a checkpoint of several models comes back."""
    import ckptkit

    _forks.use(_forks.run_forked)
    return _alarm(name, base, "restored whole", ckptkit.check(base.path, model=base.model))


def _alarm(name: str, base: Base, what: str, report: Any) -> Alarm:
    said = "; ".join(f"{code} {text}" for code, text in _said(report))
    return Alarm(name, base.name, what, said if report.exit_code else "")


def _split(name: str, base: Base, golden: str) -> Alarm:
    """Each example alone, held against the recorded batch."""
    from ckptkit.golden.golden import read_golden
    from ckptkit.model_io.compare_outputs import compare_outputs
    from ckptkit.model_io.tiers import tier_of
    from ckptkit.operations.execution.inputs import joined, split_cases
    from ckptkit.operations.execution.subjects import resolve
    from ckptkit.runners.client import execute
    from ckptkit.runners.spec import RunnerSpec
    from ckptkit.runners.types import Limits

    known = read_golden(golden)
    what = resolve(base.path, Path(golden), model=base.model)
    case = known.cases[0]
    parts = split_cases([case.inputs], known.model_signature)[0]
    signature = known.signature if base.form == "saved_model" else None
    options = {"imports": list(base.imports)}
    if not parts:
        return Alarm(name, base.name, "batch split", "")
    run = execute(what.subject, RunnerSpec(), parts, Limits(), signature=signature, options=options)
    whole: dict[str, Any] = dict(case.outputs)  # small models: no output is kept as a sample
    together = joined(run.outputs, whole) or {}
    chosen = tier_of(known.environment, run.environment).tolerance
    results = compare_outputs(case.outputs, together, chosen, noise=known.noise)
    bad = [f"{r.name}: {r.message}" for r in results if not r.ok and r.status != "meaningless"]
    return Alarm(name, base.name, "batch split", "; ".join(bad))
