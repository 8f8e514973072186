"""`ckptkit demo`."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import click

from ckptkit._io.places import local_path
from ckptkit._io.progress import phase
from ckptkit.cli.options import echo_error, echo_lines
from ckptkit.cli.progress import others_print
from ckptkit.errors import CkptkitError, MissingDependencyError, OutputError

MARK = ".ckptkit-demo"  # tells an earlier demo's directory from somebody's data


@click.command("demo")
@click.argument("directory", metavar="[DIR]", default="demo")
def command(directory: str) -> int:
    """Train a small model on real data and walk through what the tool does.

    DIR (by default `demo`) receives the files; it must be new, empty, or an earlier demo.
    Needs TensorFlow and scikit-learn: pip install 'ckptkit-tf[fixtures]'.
    """
    from ckptkit.fixtures.demo import STEPS

    _need("tensorflow", "sklearn")
    root = _prepare(local_path(directory))
    echo_lines(["Training a convolutional network on scikit-learn's digits ..."])
    with phase("training"):
        trained = _train(root)
    echo_lines([f"{trained}  The files are in {root}/."])
    for step in STEPS:
        remark = [f"# {step.remark}"] if step.remark else []
        echo_lines(["", *remark, f"$ ckptkit {shlex.join(step.arguments)}"])
        sys.stdout.flush()  # before what the command prints
        with others_print():
            code = subprocess.run(
                [sys.executable, "-m", "ckptkit_tf", *step.arguments], cwd=root, check=False
            ).returncode
        if code != step.exit_code:
            echo_error(f"exit code {code}, expected {step.exit_code}")
            return 1
    echo_lines(["", f"That was it.  Try more in {root}/, or `ckptkit --help`."])
    return 0


def _need(*modules: str) -> None:
    for module in modules:
        if find_spec(module) is None:
            raise MissingDependencyError(
                f"the demo needs {module}", hint="pip install 'ckptkit-tf[fixtures]'"
            )


def _train(root: Path) -> str:
    """Train in a child process, whose start-up chatter is shown only if it fails."""
    child = subprocess.run(
        [sys.executable, "-m", "ckptkit.fixtures.demo", str(root)],
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        echo_lines([child.stderr], err=True)
        raise CkptkitError("the training failed", hint="what it said is above")
    return child.stdout.strip().splitlines()[-1]


def _prepare(root: Path) -> Path:
    """Make the directory empty; refuse one that holds anything but an earlier demo."""
    if root.exists() and not root.is_dir():
        raise OutputError("is not a directory", where=str(root))
    if root.is_dir() and any(root.iterdir()):
        if not (root / MARK).is_file():
            raise OutputError(
                "is not empty, and no earlier demo", where=str(root), hint="name another directory"
            )
        shutil.rmtree(root)
    root.mkdir(parents=True, exist_ok=True)
    (root / MARK).touch()
    return root
