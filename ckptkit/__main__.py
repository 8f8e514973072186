"""`python -m ckptkit`, and the `ckptkit` script: where a process begins.

Importing the command line takes a tenth of a second, in which Ctrl-C may well come.  Nothing is
under way yet, so the process then ends as programs do that were interrupted, and says nothing.
"""

from __future__ import annotations

import os
import sys

INTERRUPTED = 130  # what a shell reports of a program that SIGINT ended


def main() -> None:
    """Run the command line and exit."""
    try:
        # A failing callback of the import system would print and swallow a KeyboardInterrupt.
        unraisable, sys.unraisablehook = sys.unraisablehook, _unraisable
        from ckptkit.cli.main import main as run

        sys.unraisablehook = unraisable
        run()
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)
    except SystemExit as exit_:
        if exit_.code == INTERRUPTED:  # else Python may end itself by the signal all the same
            os._exit(INTERRUPTED)
        raise


def _unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        os._exit(INTERRUPTED)
    sys.__unraisablehook__(unraisable)


if __name__ == "__main__":
    main()
