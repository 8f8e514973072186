"""What another distribution has done to the files of this one.

The package index has a distribution called `ckptkit`, a tool for PyTorch, whose package and script
are called as ours are.  Installed after this one it overwrites `ckptkit/__init__.py`; uninstalled,
it takes that file along.  All other modules of ours have names that it does not use.
"""

from __future__ import annotations

from pathlib import Path

DISTRIBUTION = "ckptkit-tf"
OTHER = "ckptkit"
# What a child process runs before it imports anything of this package.
CLAIM_NAME = "import ckptkit_tf; ckptkit_tf.claim_name()"
_MARK = f'__distribution__ = "{DISTRIBUTION}"'  # stands in our `__init__.py`
_METADATA = (".dist-info", ".egg-info")


def is_own_init(package: Path) -> bool:
    """Tell whether `__init__.py` in the directory `package` is the one of this distribution."""
    try:
        return _MARK in (package / "__init__.py").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def damage(package: Path) -> str:
    """Return what is wrong with the files of this installation, and how to mend it, in a line.

    Args:
        package: the directory of this distribution's modules.

    Returns:
        "" where nothing is wrong.
    """
    other, is_own = _other_beside(package), is_own_init(package)
    if not other and is_own:
        return ""
    if other:
        what = f"another distribution, {other}, is installed into the same directory"
    elif (package / "__init__.py").exists():
        what = f"__init__.py is not that of {DISTRIBUTION}"
    else:
        what = f"__init__.py is gone, as another distribution called {OTHER} leaves it"
    if not is_own:
        what += '; `ckptkit-tf` works, but "import ckptkit" does not'
    return f"{package}: {what} ({mending(OTHER if other else '')})"


def mending(other: str) -> str:
    """Return how to remove the distribution `other` (none for "") and restore this one's files."""
    remove = f"pip uninstall {other}, then " if other else ""
    return f"{remove}install {DISTRIBUTION} again, with --force-reinstall --no-deps"


def _other_beside(package: Path) -> str:
    """Return "ckptkit 0.3.0" where its metadata lies beside the package, "" where none does."""
    try:
        paths = list(package.parent.glob(f"{OTHER}-*"))
    except OSError:
        return ""
    for path in paths:
        if path.suffix in _METADATA:
            return " ".join((OTHER, *path.stem.split("-")[1:2]))
    return ""
