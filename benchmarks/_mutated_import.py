"""`python -m benchmarks._mutated_import MUTANT TESTS`: tests over a module changed on import.

MUTANT: a pickled `OperatorMutant`; TESTS: a file with a test's name on each line.  Exit code: as
pytest's; the name of the first test that fails is the last line of the output.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from benchmarks._operators import OperatorMutant, mutated

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = ("-q", "--no-header", "-p", "no:cacheprovider")


class _Loader(SourceFileLoader):
    code: CodeType

    def get_code(self, fullname: str) -> CodeType:
        return self.code


class _Finder:
    def __init__(self, mutant: OperatorMutant) -> None:
        self.module = mutant.file.removesuffix(".py").replace("/", ".")
        self.mutant = mutant

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self.module:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.origin is not None:
            loader = _Loader(name, spec.origin)
            loader.code = mutated(self.mutant, ROOT)
            spec.loader = loader
        return spec


class FirstFailure:
    """Remembers the first test that fails."""

    test = ""

    def pytest_configure(self) -> None:
        quick_examples()

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.test:
            self.test = report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and not self.test:
            self.test = report.nodeid or "collection"


def quick_examples() -> None:
    """Have hypothesis look for an example that fails, and neither shrink nor remember it."""
    from hypothesis import HealthCheck, Phase, settings

    settings.register_profile(
        "mutants", database=None, deadline=None, phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck), derandomize=True,
    )  # fmt: skip
    settings.load_profile("mutants")


def main(mutant: str, tests: str, *options: str) -> int:
    """Run the tests; return pytest's exit code."""
    import pytest

    sys.meta_path.insert(0, _Finder(pickle.loads(Path(mutant).read_bytes())))
    names = Path(tests).read_text(encoding="utf-8").splitlines()
    first = FirstFailure()
    try:
        # pytest would import our package by a finder of its own, since it has a plugin
        arguments = [*OPTIONS, "-x", "--assert=plain", *options, *names]
        code = pytest.main(arguments, plugins=[first])
    except BaseException as error:  # a module that cannot be imported fails everything
        print(f"\n{type(error).__name__}")
        return 1
    print(f"\n{first.test}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
