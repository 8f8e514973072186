"""Commands on a real terminal, many in one child: how wide it is the system says, not COLUMNS."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from ckptkit.cli.main import main
from support.linear import linear_model
from support.places import environment

_NEXT = "--- the next command ---"


def printed_at(columns: int, commands: Sequence[Sequence[object]], folder: Path) -> list[str]:
    """Return what each command prints on a terminal that is so wide.

    folder: where the child works; `m.linear.json` is a model there, which the runner `linear` runs.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    variables = environment(TERM="xterm", NO_COLOR="1")
    variables.pop("COLUMNS", None)
    child = subprocess.Popen(
        [sys.executable, "-m", "support.terminal"],
        stdin=subprocess.PIPE,
        stdout=theirs,
        stderr=theirs,
        env=variables,
        cwd=folder,
        text=True,
    )
    os.close(theirs)
    assert child.stdin is not None
    with child.stdin as file:
        json.dump([[str(word) for word in command] for command in commands], file)
    printed = b""
    with suppress(OSError):  # its end, on Linux
        while part := os.read(ours, 1 << 16):
            printed += part
    os.close(ours)
    assert child.wait() == 0, printed[-2000:]
    texts = printed.decode().replace("\r\n", "\n").split(f"{_NEXT}\n")
    assert len(texts) == len(commands) + 1
    return texts[:-1]


def _run(commands: Sequence[Sequence[str]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        linear_model(Path.cwd(), patch)
        for command in commands:
            sys.argv = ["ckptkit", *command]
            with suppress(SystemExit):
                main()
            print(_NEXT, flush=True)


if __name__ == "__main__":
    _run(json.load(sys.stdin))
