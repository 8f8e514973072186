"""JUnit XML, as the CI systems that show test results read it.  The only writer of it.

There is no standard; what is written is what Jenkins, GitLab and pytest have in common: suites of
cases, each with its failures or an error.  XML has no form for most control characters, escaped or
not, so all text is made printable first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ckptkit.text import printable


class JUnitCase(NamedTuple):
    """One test case; it passes where it has neither failures nor an error.

    failures: (type, message) of each.  error: why it could not be told, or None.
    """

    class_name: str
    name: str
    failures: Sequence[tuple[str, str]] = ()
    error: str | None = None


class JUnitSuite(NamedTuple):
    """One test suite.  properties: (name, value) of each; output: what the suite printed."""

    name: str
    cases: Sequence[JUnitCase]
    properties: Sequence[tuple[str, str]] = ()
    output: str = ""

    @property
    def counts(self) -> str:
        """Return the attributes that count its cases; a case with many failures counts once."""
        failures = sum(1 for case in self.cases if case.failures)
        errors = sum(1 for case in self.cases if case.error is not None)
        return f'tests="{len(self.cases)}" failures="{failures}" errors="{errors}"'


def document(suite: JUnitSuite) -> Iterator[str]:
    """Yield the lines of a document with one suite, which is counted at the top too."""
    return _document(suite.counts, [suite])


def document_of_suites(name: str, suites: Iterable[JUnitSuite]) -> Iterator[str]:
    """Yield the lines of a document called `name`, a suite at a time; none of them is kept."""
    return _document(f"name={_attribute(name)}", suites)


def _document(attributes: str, suites: Iterable[JUnitSuite]) -> Iterator[str]:
    yield '<?xml version="1.0" encoding="UTF-8"?>'
    yield f"<testsuites {attributes}>"
    for suite in suites:
        yield from _suite(suite)
    yield "</testsuites>"


def _suite(suite: JUnitSuite) -> Iterator[str]:
    yield f"<testsuite name={_attribute(suite.name)} {suite.counts}>"
    if suite.properties:
        yield "<properties>"
        for name, value in suite.properties:
            yield f"<property name={_attribute(name)} value={_attribute(value)}/>"
        yield "</properties>"
    for case in suite.cases:
        yield from _case(case)
    if suite.output:
        yield f"<system-out>{_escaped(suite.output)}</system-out>"
    yield "</testsuite>"


def _case(case: JUnitCase) -> Iterator[str]:
    head = f"<testcase classname={_attribute(case.class_name)} name={_attribute(case.name)}"
    if case.error is not None:
        yield f"{head}><error message={_attribute(case.error)}/></testcase>"
    elif case.failures:
        yield f"{head}>"
        for kind, message in case.failures:
            yield f"<failure type={_attribute(kind)} message={_attribute(message)}/>"
        yield "</testcase>"
    else:
        yield f"{head}/>"


def _escaped(text: str) -> str:
    from xml.sax.saxutils import escape  # here and below: it imports clients of the web

    return escape(printable(text))


def _attribute(text: str) -> str:
    from xml.sax.saxutils import quoteattr

    return quoteattr(printable(text))
