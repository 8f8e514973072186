"""Which input (or output) here is which there: by name, never by position where that is open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ckptkit.errors import UsageError
from ckptkit.model_io.pair_names import pair_names
from ckptkit.model_io.signature import Discrepancy, ModelSignature, TensorInfo, compare_signatures
from ckptkit.operations.execution.types import finding_of
from ckptkit.operations.findings import Finding
from ckptkit.wording import say


class Pairing(NamedTuple):
    """Names of the reference to names of the subject, for inputs and outputs, and what to say."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    findings: tuple[Finding, ...] = ()

    def inputs_of(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Return arrays by the reference's input names under the subject's names."""
        return {self.inputs.get(name, name): array for name, array in arrays.items()}

    def outputs_of(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Return the subject's outputs under the reference's names."""
        back = {new: old for old, new in self.outputs.items()}
        return {back.get(name, name): array for name, array in arrays.items()}


def parse_renames(texts: Sequence[str]) -> dict[str, str]:
    """Return {old: new} of `OLD=NEW`; raises UsageError."""
    found: dict[str, str] = {}
    for text in texts:
        old, equals, new = text.partition("=")
        if not equals or not old or not new:
            raise UsageError(f"{text!r} renames nothing", hint=say("write ‹rename=OLD=NEW›"))
        if old in found or new in found.values():
            raise UsageError(say(f"‹rename={text}›: that name is there twice"))
        found[old] = new
    return found


def pair(
    reference: ModelSignature,
    subject: ModelSignature,
    renames: Mapping[str, str],
    *,
    same_contract: bool,
    where: str,
) -> Pairing:
    """Pair the names of two signatures.

    renames: names of the reference to names of the subject.  same_contract: whether both are the
    same signature of the same kind of model, so that another name breaks its callers: a finding.
    Raises UsageError for a rename that fits nothing.
    """
    sides = (reference.inputs, subject.inputs), (reference.outputs, subject.outputs)
    _check_renames(renames, [info.name for old, _ in sides for info in old])
    maps = [pair_names(old, new, renames) for old, new in sides]
    if same_contract:
        told = ModelSignature(*(tuple(_renamed(old, renames)) for old, _ in sides))
        changes = [
            change
            for change in compare_signatures(told, subject)
            if subject.outputs or not change.code.startswith("output")
        ]
        found = tuple(finding_of(change) for change in changes)
    else:
        found = tuple(_notes(maps, renames, where))
    return Pairing(maps[0], maps[1], found)


def _check_renames(renames: Mapping[str, str], known: Sequence[str]) -> None:
    for old in renames:
        if old not in known:
            raise UsageError(
                say(f"‹rename={old}={renames[old]}›: the reference has no input or output {old!r}"),
                hint=f"it has {', '.join(known)}",
            )


def _renamed(infos: Sequence[TensorInfo], renames: Mapping[str, str]) -> Iterator[TensorInfo]:
    for info in infos:
        yield info._replace(name=renames.get(info.name, info.name))


def _notes(
    maps: Sequence[Mapping[str, str]], renames: Mapping[str, str], where: str
) -> Iterator[Finding]:
    for side, names in zip(("input", "output"), maps, strict=True):
        for old, new in names.items():
            if old != new and old not in renames:
                text = f"{side} {old!r} is taken as {new!r}, the only one that fits"
                yield finding_of(
                    Discrepancy(
                        "note", f"{side}.paired", where, text, say(f"‹rename={old}={new}› says it")
                    )
                )
