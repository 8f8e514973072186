"""The scripts `ckptkit-tf` and `ckptkit`, and `python -m ckptkit`: where a process begins.

Another distribution may have overwritten or removed `ckptkit/__init__.py` (see
`ckptkit.installation`).  Nobody else has a module of this name, so this one finds its own package
beside itself and makes it `ckptkit` in this process, whatever is there by that name.

Importing the command line takes a tenth of a second, in which Ctrl-C may well come.  Nothing is
under way yet, so the process then ends as programs do that were interrupted, and says nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import NoReturn

DISTRIBUTION = "ckptkit-tf"
INTERRUPTED = 130  # what a shell reports of a program that SIGINT ended


def main() -> None:
    """Run the command line and exit."""
    # What is imported lives until the end: looking for garbage among it finds none.
    gc.disable()
    _open_closed_streams()
    try:
        # A failing callback of the import system would print and swallow a KeyboardInterrupt.
        unraisable, sys.unraisablehook = sys.unraisablehook, _unraisable
        package = claim_name()
        from ckptkit.cli.main import GC_THRESHOLDS
        from ckptkit.cli.main import main as run
        from ckptkit.installation import damage

        sys.unraisablehook = unraisable
        gc.set_threshold(*GC_THRESHOLDS)  # else all of it would be looked through right now
        gc.enable()
        found = damage(package)
        if found and sys.stderr is not None:
            sys.stderr.write(f"{DISTRIBUTION}: {found}\n")
        run()
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)
    except SystemExit as exit_:
        if exit_.code == INTERRUPTED:
            _end_interrupted()
        gc.freeze()  # the process ends: Python would look for garbage once more
        raise


def _open_closed_streams() -> None:
    """Let a process that was started without standard streams (`<&- >&- 2>&-`) have some.

    Nothing comes from them, and what goes there is lost.  Otherwise the next file that is opened
    would have one of their numbers, and hold what libraries and children print.
    """
    with contextlib.suppress(OSError):  # there may be no such device
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(number, True)
        os.close(number)


def _end_interrupted() -> NoReturn:
    """End the process by itself: Python may have the signal end it all the same.

    What waits for the end of the process, such as temporary directories whose values are still
    held, is removed; another Ctrl-C ends it at once.
    """
    try:
        sys.unraisablehook = _unraisable
        atexit._run_exitfuncs()
    finally:
        os._exit(INTERRUPTED)


def claim_name() -> Path:
    """Make the package beside this module `ckptkit` in this process, and return its directory.

    Where its `__init__.py` is not ours it has no names of its own, but all of its modules.
    """
    from pathlib import Path

    directory = Path(__file__).resolve().parent / "ckptkit"
    if getattr(sys.modules.get("ckptkit"), "__distribution__", "") == DISTRIBUTION:
        return directory
    # What stands there is another distribution's, or a directory without `__init__.py`.
    for name in [name for name in sys.modules if name.partition(".")[0] == "ckptkit"]:
        del sys.modules[name]
    from importlib.util import module_from_spec, spec_from_file_location

    init = directory / "__init__.py"
    spec = spec_from_file_location("ckptkit", init, submodule_search_locations=[str(directory)])
    assert spec is not None
    assert spec.loader is not None
    package = module_from_spec(spec)
    sys.modules["ckptkit"] = package
    from ckptkit.installation import is_own_init

    if is_own_init(directory):
        spec.loader.exec_module(package)
    else:
        package.__distribution__ = DISTRIBUTION  # type: ignore[attr-defined]
    return directory


def begin_worker() -> None:
    """Make this process, which works for another, one of this package."""
    claim_name()
    from ckptkit._io.worker_processes import prepare

    prepare()


def _unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        os._exit(INTERRUPTED)
    sys.__unraisablehook__(unraisable)


if __name__ == "__main__":
    main()
