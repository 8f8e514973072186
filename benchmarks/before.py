"""This checkout against the same project at an earlier commit, in turns.

CPU seconds, which hold on a busy machine; the earlier commit is checked out below
`benchmarks/.cache`, and both are compiled before anything is timed.
"""

from __future__ import annotations

import compileall
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import PYTHON, ROOT, Result, processes
from benchmarks.inputs import CACHE, path

_START = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); sys.argv[0] = 'ckptkit'\n"
    "import ckptkit_tf; ckptkit_tf.main()"
)


def compiled(checkout: Path) -> Path:
    """Compile the modules of a checkout, which would be compiled at each start where it may not."""
    compileall.compile_dir(checkout / "ckptkit", quiet=1)
    compileall.compile_file(checkout / "ckptkit_tf.py", quiet=1)
    return checkout


def checked_out(commit: str) -> Path:
    """Return a directory with the files of a commit, compiled."""
    told = subprocess.run(
        ("git", "rev-parse", "--short=12", f"{commit}^{{commit}}"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    name = told.stdout.strip()
    directory = CACHE / f"checkout-{name}"
    if not directory.is_dir():
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            archive = Path(scratch, "archive.tar")
            subprocess.run(
                ("git", "archive", "-o", archive, name, "ckptkit", "ckptkit_tf.py"),
                cwd=ROOT,
                check=True,
            )
            inside = Path(scratch, "files")
            inside.mkdir()
            subprocess.run(("tar", "-xf", archive, "-C", inside), check=True)
            inside.rename(directory)
    return compiled(directory)


def against(commit: str) -> Iterator[Result]:
    """Yield the rows: each command here and there."""
    there = checked_out(commit)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        for work, words, code in _works(Path(scratch)):
            costs = processes(
                {
                    label: (PYTHON, "-c", _START, str(checkout), *words)
                    for label, checkout in (("here", ROOT), ("there", there))
                },
                rounds=5,
                codes={"here": code, "there": code},
            )
            here, before = costs["here"], costs["there"]
            peer = f"ckptkit at {there.name.removeprefix('checkout-')}"
            memory = here.peak_bytes / 1e6, before.peak_bytes / 1e6
            yield Result("before", work, "CPU s", here.cpu_seconds, before.cpu_seconds, peer)
            yield Result("before", "the same", "MB", *memory, peer)


def _works(scratch: Path) -> list[tuple[str, tuple[str, ...], int]]:
    """Return what is run: its name, the arguments, the exit code."""
    resnet, small = str(path("resnet50", "ckpt")), str(path("small_model", "model.keras"))
    many, large = str(path("variables", "ckpt")), str(path("vgg16", "ckpt"))
    a, c = (str(path("pair", name)) for name in "AC")
    output, golden = str(scratch / "out.safetensors"), str(scratch / "golden")
    return [
        ("list 750 tensors", ("ls", resnet), 0),
        ("list a .keras of 308 MB", ("ls", str(path("resnet50", "model.keras"))), 0),
        ("list 100,000 variables as JSON", ("ls", "--format", "json", many), 0),
        ("diff 497 MB, all different", ("diff", "--quiet", a, c), 1),
        ("convert 553 MB to safetensors", ("convert", large, output, "--overwrite"), 0),
        ("record a small model", ("record", small, "-o", golden, "--overwrite"), 0),
    ]
