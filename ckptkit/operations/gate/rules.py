"""The rules of a policy, each by the operation that answers it.

A rule gives a `Check` whose findings say what was measured, what the limit is, and which command
shows more.  Notes are rules that passed; a rule that could not be told raises.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptkit._io.side_files import read_whole
from ckptkit.errors import FormatError, UnsupportedError, UsageError
from ckptkit.operations.diff.api import diff
from ckptkit.operations.diff.beside.signatures import BREAKING
from ckptkit.operations.diff.result import DiffResult
from ckptkit.operations.findings import Check, Finding
from ckptkit.operations.gate.policy import MAX_POLICY, Policy
from ckptkit.operations.ls import Listing, ls
from ckptkit.operations.scan.api import scan
from ckptkit.operations.verify.api import Verification, verify
from ckptkit.stores.registry import files_at, format_of
from ckptkit.text import count_text, list_text, parse_size

if TYPE_CHECKING:
    from concurrent.futures import Executor

_SHOWN = 3  # findings of an operation that a rule names


@dataclass
class Gate:
    """What the rules of one policy ask about one model; each operation is made once.

    baseline: the model that it is compared with, where one was given.
    """

    path: Path
    policy: Policy
    baseline: Path | None = None
    executor: Executor | None = None

    @cached_property
    def listing(self) -> Listing:
        """What is in the model, by its headers."""
        return ls(self.path)

    @cached_property
    def beside(self) -> DiffResult:
        """How the model differs from the baseline beside the weights; no values are read."""
        return diff(self._baseline, self.path, mode="structure", config=True)

    @cached_property
    def weights(self) -> DiffResult:
        """How its weights differ from those of the baseline."""
        return diff(self._baseline, self.path, roles=["weight"], executor=self.executor)

    @property
    def _baseline(self) -> Path:
        if self.baseline is None:
            raise UsageError(
                "[baseline] compares with a model, and none was given", where=str(self.policy.path)
            )
        return self.baseline

    def command(self, *words: object) -> str:
        """Return the command that shows more."""
        return f"`ckptkit {shlex.join(map(str, words))}`"

    def found(self, code: str, passes: bool, message: str, *more: object) -> Finding:
        """Return a rule's finding: a note where it passes.

        more: the command that shows more, in words.
        """
        hint = "" if passes or not more else self.command(*more)
        severity = "note" if passes else "error"
        return Finding(severity, f"gate.{code}", str(self.path), message, hint)


Rule = Callable[[Gate, Any], Iterator[Finding]]


def _formats(gate: Gate, allowed: list[str]) -> Iterator[Finding]:
    name = gate.listing.checkpoint.store.format
    passes = name in {format_of(each).name for each in allowed}
    yield gate.found("format", passes, f"{name}; allowed: {list_text(allowed, 9)}")


def bytes_of_files(listing: Listing) -> int:
    """Return how many bytes the files of a model take, data and all."""
    store = listing.checkpoint.store
    files = {*files_at(store.format, store.path), *store.shards}
    return sum(file.stat().st_size for file in files if file.is_file())


def _max_size(gate: Gate, limit: int | str) -> Iterator[Finding]:
    most = limit if isinstance(limit, int) else parse_size(limit)
    size = bytes_of_files(gate.listing)
    message = f"{size:,} bytes in files, at most {most:,}"
    yield gate.found("size", size <= most, message, "ls", gate.path, "--sort", "size")


def _max_parameters(gate: Gate, most: int) -> Iterator[Finding]:
    count = gate.listing.totals["params"]
    message = f"{count:,} parameters, at most {most:,}"
    yield gate.found("parameters", count <= most, message, "ls", gate.path, "--sort", "params")


def _dtypes(gate: Gate, allowed: list[str]) -> Iterator[Finding]:
    _refuse_no_weights(gate)
    found = {t.spec.dtype for t in gate.listing.tensors if t.naming.role == "weight"}
    others = sorted(found - set(allowed))
    message = f"weights are {list_text(sorted(found), 9)}; allowed: {list_text(allowed, 9)}"
    more = ("ls", gate.path, "--dtype", ",".join(others))
    yield gate.found("dtypes", not others, message, *more)


def _optimizer_state(gate: Gate, _no: bool) -> Iterator[Finding]:
    slots = [t for t in gate.listing.tensors if t.naming.role == "slot"]
    nbytes = sum(tensor.spec.nbytes for tensor in slots)
    message = (
        f"{count_text(len(slots), 'slot')} of an optimizer ({nbytes:,} bytes)" if slots else "none"
    )
    more = ("convert", gate.path, "NEW", "--weights-only")
    yield gate.found("optimizer-state", not slots, message, *more)


def _refuse_no_weights(gate: Gate) -> None:
    """Raise where a rule on weights would pass since there are none."""
    if not any(tensor.naming.role == "weight" for tensor in gate.listing.tensors):
        raise UnsupportedError(
            "holds no weights", where=str(gate.path), hint="`ckptkit ls` lists what a file holds"
        )


def _nonfinite(gate: Gate, _no: bool) -> Iterator[Finding]:
    _refuse_no_weights(gate)
    found = ls(gate.path, roles=["weight"], stats=True, executor=gate.executor)
    bad = [
        f"{t.naming.name} ({s.n_nan + s.n_inf:,} of {s.n:,})"
        for t in found.tensors
        if (s := (found.statistics or {}).get(t.spec.key)) is not None and s.n_nan + s.n_inf
    ]
    message = f"NaN or infinite: {list_text(bad, _SHOWN)}" if bad else "all weights are finite"
    yield gate.found("nonfinite", not bad, message, "ls", gate.path, "--stats", "--sort", "nan")


def _verify(gate: Gate, settings: Mapping[str, Any]) -> Iterator[Finding]:
    strict = bool(settings.get("strict", False))
    result = verify(gate.path, strict=strict, executor=gate.executor)
    _refuse(result)
    counted = [f for f in result.findings if strict or f.severity != "note"]
    yield from _of_findings(gate, "verify", counted, "sound")


def _scan(gate: Gate, settings: Mapping[str, Any]) -> Iterator[Finding]:
    result = scan(gate.path)
    _refuse(result)
    allowed = settings.get("allow", [])
    counted = [f for f in result.findings if f.severity != "note" and f.code not in allowed]
    yield from _of_findings(gate, "scan", counted, "nothing but what is known to be harmless")


def _refuse(result: Verification) -> None:
    """Raise why something could not be looked at: then nothing is known of it."""
    for refusal in result.refusals:
        raise refusal
    if result.exit_code == 2:
        raise UnsupportedError("nothing in it could be checked", where=str(result.path))


def _of_findings(gate: Gate, name: str, counted: list[Finding], fine: str) -> Iterator[Finding]:
    told = [f"{f.where}: {f.message} [{f.code}]" for f in counted]
    message = f"{count_text(len(told), 'finding')}: {list_text(told, _SHOWN)}" if told else fine
    yield gate.found(name, not told, message, name, gate.path)


def _compared(gate: Gate, what: str) -> list[tuple[str, bool]] | None:
    """Return (sentence, whether it breaks a caller) of each difference beside the weights.

    None where the two do not both hold such a thing.
    """
    difference = gate.beside
    for row in difference.beside:
        if row.what == what:
            effects = [change.get("effect", BREAKING) for change in row.changes]
            effects = effects or [BREAKING] * len(row.items)
            pairs = zip(row.items, effects, strict=True)
            return [(item, effect == BREAKING) for item, effect in pairs]
    return [] if what in difference.compared else None


def _of_baseline(what: str, code: str) -> Rule:
    def rule(gate: Gate, wanted: str) -> Iterator[Finding]:
        changes = _compared(gate, what)
        if changes is None:
            message = f"no {what} to compare in {gate.baseline} and {gate.path}"
            raise UnsupportedError(message)
        told = [item for item, breaks in changes if breaks or wanted == "same"]
        message = list_text(told, _SHOWN) if told else f"{wanted} as in {gate.baseline}"
        yield gate.found(code, not told, message, "diff", gate.baseline, gate.path, "--config")

    return rule


def _weights(gate: Gate, _same: str) -> Iterator[Finding]:
    told = ", ".join(f"{n} {status}" for status, n in gate.weights.counts.items() if n)
    more = ("diff", gate.baseline, gate.path, "--role", "weight")
    yield gate.found("weights", gate.weights.same, told or "there are none", *more)


def _golden(gate: Gate, settings: Mapping[str, Any]) -> Iterator[Finding]:
    from ckptkit.operations.check.api import check

    golden = gate.policy.beside(settings["path"])
    on, tolerance = settings.get("on", ["CPU:0"]), settings.get("tolerance", "auto")
    if tolerance not in ("auto", "strict"):
        tolerance = gate.policy.beside(tolerance)
    report = check(
        gate.path, golden=golden, on=on, tolerance=tolerance, model=settings.get("model")
    )
    if report.exit_code == 2:
        raise UnsupportedError(f"could not tell: {report.verdict}", where=str(golden))
    runners = [word for runner in on for word in ("--on", runner)]
    more = ("check", gate.path, "--golden", golden, *runners)
    yield gate.found("golden", report.ok, report.verdict, *more)


def _digest(gate: Gate, settings: Mapping[str, Any]) -> Iterator[Finding]:
    part = settings.get("part", "weights")
    listed = list(settings.get("listed", ()))
    if "file" in settings:
        listed += _listed_in(gate.policy.beside(settings["file"]))
    found = ls(gate.path, digest=[part], executor=gate.executor).digests.get(part)
    if found is None:
        raise UnsupportedError(f"holds no {part}", where=str(gate.path))
    passes = found in listed
    message = f"{found} is {'' if passes else 'not '}listed"
    yield gate.found("digest", passes, message, "ls", gate.path, f"--digest={part}")


def _listed_in(file: Path) -> list[str]:
    """Return the digests in a file: the first word of each line, `#` begins a remark."""
    try:
        text = read_whole(file, MAX_POLICY, "a list of digests").decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(str(file), f"a list of digests that is no text: {error}") from None
    return [line.split()[0] for line in text.splitlines() if line.strip() and line[0] != "#"]


# {table: {key: rule}}; of a table that is an operation, {"": rule}, which takes the whole table.
RULES: Mapping[str, Mapping[str, Rule]] = {
    "model": {
        "formats": _formats,
        "max-size": _max_size,
        "max-parameters": _max_parameters,
        "dtypes": _dtypes,
        "optimizer-state": _optimizer_state,
        "nonfinite": _nonfinite,
    },
    "verify": {"": _verify},
    "scan": {"": _scan},
    "baseline": {
        "config": _of_baseline("configuration", "config"),
        "signature": _of_baseline("signatures", "signature"),
        "vocabulary": _of_baseline("vocabularies", "vocabulary"),
        "weights": _weights,
    },
    "golden": {"": _golden},
    "digest": {"": _digest},
}


def checks(gate: Gate) -> Iterator[tuple[str, Callable[[], Check]]]:
    """Yield (name of the rule, what makes its check), in the order of the policy."""
    for table, settings in gate.policy.tables.items():
        for key, rule in RULES[table].items():
            if key == "" or key in settings:
                name = f"{table}.{key}" if key else table
                value = settings[key] if key else settings
                yield name, partial(_check, name, rule, gate, value)


def _check(name: str, rule: Rule, gate: Gate, value: Any) -> Check:
    return Check(name, (("rule", 1),), tuple(rule(gate, value)))
