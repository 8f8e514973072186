"""Options of the test suite."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# How wide and how coloured a terminal or a CI wants it: a test that is about these sets them.
for _name in ("COLUMNS", "LINES", "FORCE_COLOR", "CLICOLOR_FORCE", "NO_COLOR"):
    os.environ.pop(_name, None)

os.umask(0o022)  # a narrower one leaves nothing to change of modes

# The same examples each time, for however long a slow machine takes: a change that passes once
# passes again.  `--hypothesis-profile search` looks for others.
settings.register_profile(
    "suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("search", settings.get_profile("suite"), derandomize=False)
settings.load_profile("suite")

# Assertions of helpers say as much as those of tests.
pytest.register_assert_rewrite("support")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--regen", action="store_true", help="rewrite what the docs take from the tool"
    )


_AGAIN_S = 60.0  # after a test was ended, if that hangs as well


@pytest.hookimpl(hookwrapper=True, optionalhook=True)
def pytest_timeout_set_timer() -> Iterator[None]:
    """Let the limit of a test come again: one that hangs in a pool then waits for its processes."""
    yield
    left_s, _ = signal.getitimer(signal.ITIMER_REAL)
    if left_s:
        signal.setitimer(signal.ITIMER_REAL, left_s, _AGAIN_S)


_END_S = 600  # that Python gets to end once all tests have: it waits for threads and processes


@pytest.hookimpl(trylast=True)  # after the fixtures of tests that were interrupted
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Refuse processes of a pool that were left: Python would wait for them for ever.

    Where it waits for something else, its stacks are printed and it is ended; a worker of xdist,
    which may end long before the others, is ended by xdist.
    """
    import faulthandler
    from multiprocessing import active_children, connection

    if not hasattr(session.config, "workerinput"):
        faulthandler.dump_traceback_later(_END_S, exit=True, file=2)
    for process in active_children():
        if not connection.wait([process.sentinel], 60):  # it was told to end
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            print(f"\n{process!r} was left by a test")
            process.kill()


@pytest.fixture(scope="session", autouse=True)
def _every_code_is_explained() -> Iterator[None]:
    """Refuse a finding whose code `ckptkit explain` does not know, wherever a test makes one."""
    from ckptkit.operations.findings import Finding
    from ckptkit.reports.explanations import explanation_of

    made = Finding.__post_init__

    def explained(finding: Finding) -> None:
        made(finding)
        assert explanation_of(finding.code), f"{finding.code} is not in explanations.md"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Finding, "__post_init__", explained)
        yield


@pytest.fixture(scope="session")
def _imports() -> Iterator[Any]:
    from ckptkit.runners.fork_server import SharedImports

    imports = SharedImports(most=3)  # of models that are run, of conversions, of scripts
    yield imports
    imports.close()


@pytest.fixture(scope="module", autouse=True)
def shared_imports(_imports: Any) -> Iterator[None]:
    """Have all children of one worker share the import of TensorFlow, as those of a command do."""
    from ckptkit.runners.fork_server import sharing_imports

    with sharing_imports(_imports):
        yield


@pytest.fixture
def cold_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each child of this test started as a process of its own."""
    from ckptkit.runners import process

    monkeypatch.setattr(process, "shared_imports", lambda: None)


@pytest.fixture(autouse=True)
def nobody_writes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a first look be believed: what a test just wrote is not written any more.

    A test of directories that are in use says so by the marker `in_use`.
    """
    if request.node.get_closest_marker("in_use") is None:
        from ckptkit.operations.verify import in_use
        from ckptkit.stores import following

        monkeypatch.setattr(in_use, "STILL_S", 0.0)
        monkeypatch.setattr(following, "_STILL_S", 0.0)
