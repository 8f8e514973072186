"""Processes that others started are found and ended, of whatever session they are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ckptkit._io.processes import descendants, end_descendants, end_marked, end_processes

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="/proc tells what a process has started"
)
# starts another in a session of its own, says so, and waits
STARTER = """
import subprocess, sys
code = "import time; print('ready', flush=True); time.sleep(600)"
inner = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
inner.wait()
"""


def started(**variables: str) -> tuple[subprocess.Popen[bytes], int]:
    """Return a process, and the number of the one that it started."""
    environment = {**os.environ, **variables}
    command = [sys.executable, "-c", STARTER]
    outer = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    assert outer.stdout is not None and outer.stdout.readline() == b"ready\n"
    (inner,) = descendants(outer.pid)
    return outer, inner


def wait_for_the_end(pid: int) -> None:
    deadline = time.monotonic() + 600
    while _is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except OSError:
        return False
    return state != b"Z"


def test_what_a_process_started_in_a_session_of_its_own_is_ended() -> None:
    outer, inner = started()
    with outer:
        end_descendants(outer.pid, but=inner)
        assert _is_running(inner)
        end_descendants(outer.pid)
        wait_for_the_end(inner)
    assert outer.returncode == 0  # it went on


def test_what_was_known_of_a_process_is_ended_after_it() -> None:
    outer, inner = started()
    known = descendants(outer.pid)
    with outer:
        outer.kill()
    assert descendants(outer.pid) == {}
    end_processes({inner: known[inner] + 1})  # another that has its number now
    end_processes(known, but=inner)
    assert _is_running(inner)
    end_processes(known)
    wait_for_the_end(inner)
    end_processes(known)  # nobody is there


def test_descendants_are_those_below_alone() -> None:
    outer, inner = started()
    with outer:
        mine = descendants(os.getpid())
        assert {outer.pid, inner} <= mine.keys() and os.getpid() not in mine
        assert descendants(inner) == {}
        outer.send_signal(signal.SIGKILL)
    end_processes({inner: mine[inner]})
    wait_for_the_end(inner)


def test_what_nobody_tells_of_any_more_is_found_by_its_mark() -> None:
    own = os.urandom(8).hex()  # other runs of this test may be under way
    outer, inner = started(WITHIN_FOR_TEST=f"{own}/b/")
    with outer:
        outer.kill()
    for mark in ("b/", f"{own}/c/", f"{own}/b/c/"):
        end_marked("WITHIN_FOR_TEST", mark)
    end_marked("WITHIN", f"{own}/")
    assert _is_running(inner)
    end_marked("WITHIN_FOR_TEST", f"{own}/")
    wait_for_the_end(inner)
    end_marked("WITHIN_FOR_TEST", f"{own}/")  # nobody is there
