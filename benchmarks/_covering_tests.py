"""Which tests run which lines, and running the right ones over changed code; inside pytest.

Everything here runs in forks of a pytest process that has collected the tests: a fork changes a
function's code, runs the tests that reach the changed line, and ends.
"""

from __future__ import annotations

import functools
import gc
import os
import pickle
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest

from benchmarks._operators import OperatorMutant, mutated


@dataclass
class Table:
    """What a run of all tests told: seconds and lines of those that pass.

    lines: {test: {file: lines}}, files relative to the repository.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    lines: dict[str, dict[str, frozenset[int]]] = field(default_factory=dict)

    def covering(self, mutant: OperatorMutant) -> list[str]:
        """Return the tests that run the statement; those of the file, where it runs on import."""
        wanted = set(range(mutant.first, mutant.last + 1))
        return [
            test
            for test, files in self.lines.items()
            if mutant.file in files and (not mutant.function or files[mutant.file] & wanted)
        ]

    def ordered(self, mutant: OperatorMutant, budget_s: float) -> list[str]:
        """Return those within a time, modules of many quick tests first.

        A module's tests stay together, because they share what it sets up.
        """
        modules: dict[str, list[str]] = {}
        for test in sorted(self.covering(mutant), key=self.seconds.__getitem__):
            modules.setdefault(test.partition("::")[0], []).append(test)
        # the room's own tests, then those that cost least
        room = Path(mutant.file).parent.name
        cost = {
            module: (f"/{room}/" not in module, self.seconds[tests[len(tests) // 2]])
            for module, tests in modules.items()
        }
        chosen: list[str] = []
        left = budget_s
        for module in sorted(modules, key=cost.__getitem__):
            for test in modules[module]:
                if self.seconds[test] <= left or not chosen:
                    chosen.append(test)
                    left -= self.seconds[test]
        return chosen

    def write(self, path: Path) -> None:
        path.write_bytes(pickle.dumps(self))


@dataclass
class Outcome:
    """How one mutant fared: status "killed", "survived", "time limit" or "not run"."""

    mutant: OperatorMutant
    status: str
    test: str = ""  # that failed
    tests: int = 0  # that were chosen
    seconds: float = 0.0


# --- tracing --------------------------------------------------------------------------------------


class _Lines:
    """Lines of the files below `root` that run between two calls of `taken`."""

    def __init__(self, files: Sequence[str], root: Path) -> None:
        self._names = {str(root / file): file for file in files}
        self._seen: dict[str, set[int]] = {}

    def start(self) -> None:
        threading.settrace(self._call)
        sys.settrace(self._call)

    def taken(self) -> dict[str, frozenset[int]]:
        found = {self._names[name]: frozenset(lines) for name, lines in self._seen.items()}
        self._seen = {}
        return found

    def _call(self, frame: FrameType, event: str, argument: object) -> Any:
        return self._line if frame.f_code.co_filename in self._names else None

    def _line(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "line":
            self._seen.setdefault(frame.f_code.co_filename, set()).add(frame.f_lineno)
        return self._line


def traced(items: Sequence[pytest.Item], files: Sequence[str], root: Path) -> Table:
    """Run tests and return which lines of `files` they ran."""
    table, lines = Table(), _Lines(files, root)
    lines.start()
    for at, item in enumerate(items):
        began = time.process_time()
        passed = not _failure(item, _next(items, at))
        ran = lines.taken()
        if passed and ran:
            table.seconds[item.nodeid] = time.process_time() - began
            table.lines[item.nodeid] = ran
        lines.start()  # some tests take the tracer away
    sys.settrace(None)
    return table


def _next(items: Sequence[pytest.Item], at: int) -> pytest.Item | None:
    return items[at + 1] if at + 1 < len(items) else None


def _failure(item: pytest.Item, following: pytest.Item | None) -> bool:
    from _pytest.runner import runtestprotocol

    item._initrequest()  # type: ignore[attr-defined]  # as pytest does before each run
    reports = runtestprotocol(item, log=False, nextitem=following)
    return any(report.failed for report in reports)


# --- changing code --------------------------------------------------------------------------------


def functions_by_place() -> dict[tuple[str, str], list[FunctionType]]:
    """Return {(file, qualified name): functions} of all that are loaded."""
    found: dict[tuple[str, str], list[FunctionType]] = {}
    for each in gc.get_objects():
        if type(each) is FunctionType and each.__code__.co_filename.endswith(".py"):
            found.setdefault((each.__code__.co_filename, each.__qualname__), []).append(each)
    return found


def change(
    mutant: OperatorMutant, root: Path, known: dict[tuple[str, str], list[FunctionType]]
) -> bool:
    """Give a function its changed code; False where only a new import can."""
    functions = known.get((str(root / mutant.file), mutant.function), [])
    code = _code(mutated(mutant, root), mutant.function.split("."))
    if not functions or code is None:
        return False
    try:
        for function in functions:
            function.__code__ = code
    except ValueError:  # it closes over other variables
        return False
    return True


def caches() -> list[Any]:
    """Return every cache of a function's results: some were filled while tests were collected."""
    return [each for each in gc.get_objects() if isinstance(each, functools._lru_cache_wrapper)]


def _code(module: CodeType, names: Sequence[str]) -> CodeType | None:
    found: CodeType | None = module
    for name in names:
        constants = found.co_consts if found is not None else ()
        found = next(
            (each for each in constants if isinstance(each, CodeType) and each.co_name == name),
            None,
        )
    return found


# --- forks ----------------------------------------------------------------------------------------


def forked(work: Callable[[], Any], folder: Path, cpu_s: float) -> tuple[int, Path]:
    """Start a fork that pickles what `work` returns; return (process, the pickle's path)."""
    answer = Path(tempfile.mkdtemp(dir=folder), "answer")
    process = os.fork()
    if process:
        return process, answer
    try:
        os.setpgrp()
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_s) + 1, int(cpu_s) + 10))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        result = work()
        answer.with_suffix(".part").write_bytes(pickle.dumps(result))
        answer.with_suffix(".part").rename(answer)
    finally:
        os._exit(0)


def results_of(
    tasks: Iterator[tuple[Any, Callable[[], Any], float]], jobs: int, folder: Path
) -> Iterator[tuple[Any, Any]]:
    """Yield (key, result) of tasks (key, work, seconds of CPU); None where a limit ended it.

    The wall clock ends what waits for ever: ten times the processor's limit, and a minute.
    """
    running: dict[int, tuple[Any, Path, float]] = {}
    more = True
    while more or running:
        while more and len(running) < jobs:
            task = next(tasks, None)
            if task is None:
                more = False
                break
            key, work, cpu_s = task
            process, answer = forked(work, folder, cpu_s)
            running[process] = key, answer, time.monotonic() + 60 + 10 * cpu_s
        for process in list(running):
            key, answer, until = running[process]
            ended = os.waitpid(process, os.WNOHANG)[0]
            if not ended and time.monotonic() < until:
                continue
            if not ended:
                os.killpg(process, signal.SIGKILL)
                os.waitpid(process, 0)
            else:
                _end_group(process)
            del running[process]
            yield key, pickle.loads(answer.read_bytes()) if answer.exists() else None
            shutil.rmtree(answer.parent, ignore_errors=True)
        time.sleep(0.02)


def _end_group(process: int) -> None:
    """End what a fork left behind, such as servers that its tests started."""
    try:
        os.killpg(process, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


class Runs:
    """The tests that were collected, to be run in forks of this process."""

    def __init__(self, session: pytest.Session, root: Path, folder: Path) -> None:
        self.items = {item.nodeid: item for item in session.items}
        self.root, self.folder = root, folder
        self.functions = functions_by_place()
        self.caches = caches()
        gc.freeze()  # or the first collection in a fork would copy all that it shares

    def tables(
        self, modules: Sequence[str], files: Sequence[str], jobs: int
    ) -> Iterator[tuple[str, Table | None]]:
        """Run the tests of modules once each; yield (module, what each test ran)."""

        def tasks() -> Iterator[tuple[str, Callable[[], Any], float]]:
            for module in modules:
                items = [i for i in self.items.values() if i.nodeid.startswith(f"{module}::")]
                yield module, functools.partial(self._traced, items, files), 600.0

        yield from results_of(tasks(), jobs, self.folder)

    def _traced(self, items: Sequence[pytest.Item], files: Sequence[str]) -> Table:
        self._own_folder(items[0])
        return traced(items, files, self.root)

    def killers(
        self, chosen: Iterator[tuple[OperatorMutant, list[str]]], table: Table, jobs: int
    ) -> Iterator[Outcome]:
        """Yield how each mutant fares with the tests chosen for it."""

        def tasks() -> Iterator[tuple[Any, Callable[[], Any], float]]:
            for mutant, tests in chosen:
                known = [test for test in tests if test in self.items]
                limit = 15 + 5 * sum(table.seconds[test] for test in known)
                yield (mutant, len(known)), functools.partial(self._run, mutant, known), limit

        for (mutant, count), answer in results_of(tasks(), jobs, self.folder):
            if answer is None:
                yield Outcome(mutant, "time limit", "", count)
            else:
                yield Outcome(mutant, answer[0], answer[1], count, answer[2])

    def _run(self, mutant: OperatorMutant, tests: Sequence[str]) -> tuple[str, str, float]:
        """Run tests until one fails over the change, and does not without it."""
        began = time.process_time()
        if not tests:
            return "survived", "", 0.0
        self._own_folder(self.items[tests[0]])
        if not mutant.function or not change(mutant, self.root, self.functions):
            return "not run", "", 0.0
        for cache in self.caches:
            cache.cache_clear()
        items = [self.items[test] for test in tests]
        for at, item in enumerate(items):
            if _failure(item, _next(items, at)):
                return "killed", item.nodeid, time.process_time() - began
        return "survived", "", time.process_time() - began

    def fails_alone(self, tests: Sequence[str], jobs: int) -> set[str]:
        """Return those of the tests that fail over code that nobody changed."""

        def alone(test: str) -> bool:
            self._own_folder(self.items[test])
            return _failure(self.items[test], None)

        tasks = ((test, functools.partial(alone, test), 120.0) for test in tests)
        return {
            test for test, failed in results_of(tasks, jobs, self.folder) if failed is not False
        }

    def _own_folder(self, item: pytest.Item) -> None:
        factory: Any = item.config._tmp_path_factory  # type: ignore[attr-defined]
        factory._basetemp = Path(tempfile.mkdtemp(dir=self.folder))
