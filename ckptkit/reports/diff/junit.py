"""A comparison as JUnit XML, for CI systems that show test results: one test case per tensor.

With `config`, one more for each thing beside the tensors that was compared.
"""

from __future__ import annotations

from collections.abc import Iterator

from ckptkit.operations.diff.result import DiffResult, TensorDiff
from ckptkit.operations.input_files import operand_text
from ckptkit.reports.diff.rows import dtype_text, shape_change, worst_text
from ckptkit.reports.diff.text import beside_lines, verdict
from ckptkit.reports.junit import JUnitCase, JUnitSuite, document
from ckptkit.reports.text import shape_text


def lines(result: DiffResult) -> Iterator[str]:
    """Yield the document; a difference is a failure, a tensor left out is not mentioned by name."""
    options = [(name, str(value)) for name, value in result.options.items()]
    left_out = [("left out", str(item)) for item in result.left_out]
    # where they count, they are cases
    told = () if result.config else result.beside
    beside = [(f"beside the weights: {row.what}", "; ".join(row.items)) for row in told]
    names = names_of_sides(result)
    return document(
        JUnitSuite(
            f"ckptkit diff {result.old.path} {result.new.path}",
            [*(_case(change, names) for change in result.changes), *_cases_beside(result)],
            [("mode", result.mode), *options, *left_out, *beside],
            "; ".join((verdict(result), *beside_lines(result))),
        )
    )


def names_of_sides(result: DiffResult) -> tuple[str, str]:
    """Return what the two files are called."""
    return operand_text(result.old), operand_text(result.new)


def _cases_beside(result: DiffResult) -> Iterator[JUnitCase]:
    differs = {row.what: row.items for row in result.beside}
    for what in result.compared if result.config else ():
        yield JUnitCase("model", what, [("different", item) for item in differs.get(what, ())])


def _case(change: TensorDiff, names: tuple[str, str]) -> JUnitCase:
    failures = [(change.status, failure_text(change, names))] if change.is_difference else []
    return JUnitCase(change.role, change.name, failures)


def failure_text(change: TensorDiff, names: tuple[str, str]) -> str:
    """Return one line on a difference: what, how much, where it is worst.

    names: what the two files are called.
    """
    if change.old is None or change.new is None:
        where = f"missing from {names[1]}" if change.new is None else f"only in {names[1]}"
        spec = change.some.spec
        return f"{where}: {spec.dtype} [{shape_text(spec.shape)}]"
    parts = []
    if change.old.naming.name != change.new.naming.name:
        parts.append(f"in {names[1]} {change.new.naming.name}")
    old, new = change.old.spec, change.new.spec
    if old.shape != new.shape:
        parts.append(f"shape {shape_change(old.shape, new.shape)}")
    if old.dtype != new.dtype:
        parts.append(f"dtype {dtype_text(change)}")
    delta = change.delta
    if delta is not None and delta.n_diff:
        parts.append(
            f"{delta.n_diff:,} of {delta.n:,} elements differ, {delta.n_outside:,} beyond rtol "
            f"{delta.rtol:g} atol {delta.atol:g}; max abs {delta.max_abs:.4g}, "
            f"max rel {'-' if delta.defined_max_rel is None else f'{delta.max_rel:.4g}'}"
        )
        if delta.worst is not None:
            parts.append(f"worst {worst_text(delta.worst)}")
    elif change.method == "checksum" and change.status == "changed":
        parts.append("stored checksums differ")
    return "; ".join((*parts, *change.hints)) or change.status
