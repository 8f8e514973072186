"""Makes `tensorflow_ops.txt` of `needs` from wheels of TensorFlow, oldest first.

    pip download --no-deps -d DIR tensorflow-cpu==2.12.1 ...
    python tests/support/make_tensorflow_ops.py tensorflow_cpu-2.12.1-....whl ...

An op is known from the functions that are generated for it (`gen_*_ops.py`); those without one are
of the registry of the TensorFlow that is installed, and are taken to have been there always.
"""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path

from ckptkit.operations.needs import tensorflow_ops as _tensorflow_ops
from support.make_harmless_ops import registered

TARGET = Path(_tensorflow_ops.__file__).with_name("tensorflow_ops.txt")
HEAD = (
    "# Ops of TensorFlow 1.15 to 2.21, since when and until when it has them: NAME [FIRST-LAST].",
    "# From the generated gen_*_ops.py of each release; internal ops from the registries of 2.15",
    "# and 2.21.  Made by tests/support/make_tensorflow_ops.py.",
)
_GENERATED = re.compile(r"/gen_\w*\.py$")
_CALLED = re.compile(r'(?:_apply_op_helper\(\s*|_execute\.execute\(b|apply_op\(\s*)"(\w+)"')


def ops_of(wheel: Path) -> set[str]:
    """Return the ops that a wheel of TensorFlow has functions for."""
    with zipfile.ZipFile(wheel) as archive:
        return {
            name
            for member in archive.namelist()
            if _GENERATED.search(member)
            for name in _CALLED.findall(archive.read(member).decode())
        }


def rows(by_version: dict[str, set[str]], always: set[str]) -> list[str]:
    """Return the lines of the table.

    by_version: ops by version, oldest first.  always: ops that have been there all the time.
    """
    versions = list(by_version)
    lines = []
    for name in sorted(set().union(*by_version.values()) | always):
        there = [at for at, version in enumerate(versions) if name in by_version[version]]
        if not there or (there[0], there[-1]) == (0, len(versions) - 1):
            lines.append(name)
            continue
        first = versions[there[0]] if there[0] else ""
        last = versions[there[-1]] if there[-1] < len(versions) - 1 else ""
        lines.append(f"{name} {first}-{last}")
    return lines


def main(wheels: list[str]) -> None:
    """Write the table anew."""
    by_version: dict[str, set[str]] = {}
    for wheel in map(Path, wheels):
        version = ".".join(wheel.name.split("-")[1].split(".")[:2])
        by_version[version] = ops_of(wheel)
    functions = set().union(*by_version.values())
    always = {op.name for op in registered()} - functions
    text = "\n".join([*HEAD, *rows(by_version, always), ""])
    TARGET.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
