"""A comparison as JUnit XML, for CI systems that show test results: one test case per tensor."""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape, quoteattr

from ckptkit.operations.diff.result import DiffResult, TensorDiff
from ckptkit.reports.diff.text import dtype_text, shape_change, verdict, worst_text
from ckptkit.reports.text import printable, shape_text


def lines(result: DiffResult) -> Iterator[str]:
    """Yield the document; a difference is a failure, a tensor left out is not mentioned by name."""
    suite = f"ckptkit diff {result.old.path} {result.new.path}"
    counts = f'tests="{len(result.changes)}" failures="{len(result.differences)}" errors="0"'
    yield '<?xml version="1.0" encoding="UTF-8"?>'
    yield f"<testsuites {counts}>"
    yield f"<testsuite name={_attribute(suite)} {counts}>"
    yield "<properties>"
    for name, value in (("mode", result.mode), *result.options.items()):
        yield f"<property name={_attribute(name)} value={_attribute(str(value))}/>"
    for item in result.left_out:
        yield f'<property name="left out" value={_attribute(str(item))}/>'
    yield "</properties>"
    for change in result.changes:
        case = f"<testcase classname={_attribute(change.role)} name={_attribute(change.name)}"
        if change.is_difference:
            yield f"{case}>"
            message = failure_text(change)
            yield f"<failure type={_attribute(change.status)} message={_attribute(message)}/>"
            yield "</testcase>"
        else:
            yield f"{case}/>"
    yield f"<system-out>{escape(verdict(result))}</system-out>"
    yield "</testsuite>"
    yield "</testsuites>"


def _attribute(text: str) -> str:
    # XML has no form for most control characters, escaped or not
    return quoteattr(printable(text))


def failure_text(change: TensorDiff) -> str:
    """Return one line on a difference: what, how much, where it is worst."""
    if change.old is None or change.new is None:
        where = "missing from NEW" if change.new is None else "only in NEW"
        spec = change.some.spec
        return f"{where}: {spec.dtype} [{shape_text(spec.shape)}]"
    parts = []
    if change.old.naming.name != change.new.naming.name:
        parts.append(f"in NEW {change.new.naming.name}")
    one, two = change.old.spec, change.new.spec
    if one.shape != two.shape:
        parts.append(f"shape {shape_change(one.shape, two.shape)}")
    if one.dtype != two.dtype:
        parts.append(f"dtype {dtype_text(change)}")
    delta = change.delta
    if delta is not None and delta.n_diff:
        parts.append(
            f"{delta.n_diff:,} of {delta.n:,} elements differ, {delta.n_outside:,} beyond rtol "
            f"{delta.rtol:g} atol {delta.atol:g}; max abs {delta.max_abs:.4g}, "
            f"max rel {delta.max_rel:.4g}"
        )
        if delta.worst is not None:
            parts.append(f"worst {worst_text(delta.worst)}")
    elif change.method == "checksum" and change.status == "changed":
        parts.append("stored checksums differ")
    return "; ".join((*parts, *change.hints)) or change.status
