"""Findings about tensors that come, go, or change their shape; and about pairs left open."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from ckptkit.operations.history.record import MeasuredRun, names_text
from ckptkit.operations.history.types import HistoryFinding, TensorHistory
from ckptkit.text import list_text


def structure_findings(
    run: MeasuredRun, ambiguous: Sequence[tuple[int, tuple[str, ...]]]
) -> Iterator[HistoryFinding]:
    """Yield what appeared, vanished, changed its shape or dtype, or could not be paired.

    Optimizer state that some files lack is a note, and so is what another format does not hold.
    """
    changes: dict[tuple[int, str, bool], list[TensorHistory]] = {}
    whole = [at for at, step in enumerate(run.steps) if not step.problem]
    for tensor in run.tensors:
        for before, at in itertools.pairwise(whole):
            was, is_there = before in tensor.shapes, at in tensor.shapes
            code = ""
            if was != is_there:
                code = "tensor.appeared" if is_there else "tensor.vanished"
            elif is_there and tensor.shapes[before] != tensor.shapes[at]:
                code = "tensor.reshaped"
            elif is_there and tensor.dtypes[before] != tensor.dtypes[at]:
                code = "tensor.cast"
            if code:
                same_format = run.steps[before].format == run.steps[at].format
                counts = tensor.role == "weight" and same_format and code != "tensor.cast"
                changes.setdefault((at, code, counts), []).append(tensor)
    verbs = {
        "tensor.appeared": "first seen at",
        "tensor.vanished": "gone at",
        "tensor.reshaped": "of another shape from",
        "tensor.cast": "of another dtype from",
    }
    for (at, code, counts), tensors in sorted(changes.items(), key=lambda item: item[0][:2]):
        text = f"{verbs[code]} step {run.number(at)}: {names_text(tensors)}"
        yield run.finding("warning" if counts else "note", code, at, text, tensors)
    for at, names in ambiguous:
        yield run.finding(
            "warning",
            "tensor.ambiguous",
            at,
            f"cannot be paired with those of the steps before: {list_text(names, 6)}",
        )
