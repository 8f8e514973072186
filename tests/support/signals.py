"""Children that signals end, whoever started the tests.

`nohup`, and a shell that runs a command in the background, start it with SIGHUP or SIGINT ignored;
a child inherits that, and the command line honours it.  A test that sends one of them starts its
child with `preexec_fn=default_signals`.
"""

from __future__ import annotations

import signal
import subprocess
import sys

from support.places import environment

# the command line, on a disk that never comes to the end of a flush
_NEVER_FLUSHED = """
import os, time

def fsync(_descriptor):
    os.write(1, b"flushing\\n")
    time.sleep(600)

os.fsync = fsync
from ckptkit.cli.main import main
main()
"""


def default_signals() -> None:
    """Have SIGHUP and SIGINT end this process, in a child between fork and exec."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def ignored_sigint() -> None:
    """Ignore SIGINT in this process and in what it executes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def ended_while_flushing(number: int, *arguments: object) -> tuple[int, str]:
    """Send a signal to a command whose output is written but not named yet.

    Returns:
        The exit code, negative where the signal itself ended the process, and what it said.
    """
    with subprocess.Popen(
        [sys.executable, "-c", _NEVER_FLUSHED, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        preexec_fn=default_signals,
    ) as process:
        assert process.stdout is not None
        started = process.stdout.readline()
        process.send_signal(number)
        _, said = process.communicate()
    assert started == "flushing\n", said
    return process.returncode, said
