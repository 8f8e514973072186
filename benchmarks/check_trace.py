"""Which packages one `check` enters, in order, and in which of its steps.

    python -m benchmarks.check_trace [SUBJECT [AGAINST]]

A step is a function that `operations.check.pipeline.run_check` calls.  A package is entered when
a function of it is called from another one.  Printed are, for each step, the packages that it
enters, in the order of their first call; then how many there are in all, and which *step packages*
(those of `operations`, which do the work of a step) are entered again by a later step that is not
the next.  What all steps stand on (files, stores, names, runners) is no step's own.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import ckptkit
from ckptkit.operations.check import pipeline

PACKAGE = Path(ckptkit.__file__).resolve().parent
SAMPLE = Path(__file__).resolve().parents[1] / "fixtures/golden/tf2.21.0/module_saved_model/model"
RUN_CHECK = pipeline.run_check.__code__


def package_of(frame: FrameType) -> str:
    """Return "stores", or "operations.check" below operations; "" outside of ckptkit."""
    path = Path(frame.f_code.co_filename)
    if not path.is_relative_to(PACKAGE):
        return ""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:2]) if parts[0] == "operations" else parts[0]


class Trace:
    """The packages that each step enters, by name of the step, in order."""

    def __init__(self) -> None:
        self.steps: dict[str, list[str]] = {}
        self._step = ""

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> None:
        if event != "call":
            return
        package = package_of(frame)
        if not package:
            return
        caller = frame.f_back
        if caller is not None and caller.f_code is RUN_CHECK and package != "results":
            self._step = f"{package}.{frame.f_code.co_name}"
        if self._step and package not in self.steps.setdefault(self._step, []):
            self.steps[self._step].append(package)


def traced(subject: str, against: str) -> dict[str, list[str]]:
    """Return {step: packages that it enters} of one check."""
    trace = Trace()
    threading.setprofile(trace)
    sys.setprofile(trace)
    try:
        ckptkit.check(subject, against=against, localize="always")
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    # What enters nothing but its own package (a property of the request) is no step.
    return {step: names for step, names in trace.steps.items() if len(names) > 1}


def report(steps: dict[str, list[str]]) -> Iterator[str]:
    """Yield the table of steps, and the two figures."""
    for step, packages in steps.items():
        yield f"{step:45} {' '.join(packages)}"
    everything = list(dict.fromkeys(name for packages in steps.values() for name in packages))
    yield f"packages: {len(everything)}: {' '.join(everything)}"
    last: dict[str, int] = {}
    again = set()
    for number, packages in enumerate(steps.values()):
        for name in packages:
            if name.startswith("operations.") and number - last.get(name, number) > 1:
                again.add(name)
            last[name] = number
    yield f"step packages entered anew: {len(again)}: {' '.join(sorted(again)) or 'none'}"


def main() -> None:
    """Trace a check of one SavedModel against another, by default a golden against itself."""
    subject = sys.argv[1] if len(sys.argv) > 1 else str(SAMPLE)
    against = sys.argv[2] if len(sys.argv) > 2 else subject
    print("\n".join(report(traced(subject, against))))


if __name__ == "__main__":
    main()
