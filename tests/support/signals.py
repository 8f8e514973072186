"""Children that Ctrl-C ends, whoever started the tests.

`nohup`, and a shell that runs a command in the background, start it with SIGINT ignored; a child
inherits that, and the command line honours it.  A test that sends SIGINT starts its child with
`preexec_fn=default_sigint`.
"""

from __future__ import annotations

import signal


def default_sigint() -> None:
    """Have SIGINT end this process, in a child between fork and exec."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def ignored_sigint() -> None:
    """Ignore SIGINT in this process and in what it executes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
