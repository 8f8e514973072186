"""Names in the package: one class, one name."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import ckptkit

PACKAGE = Path(ckptkit.__file__).parent


def test_no_two_classes_have_one_name() -> None:
    owners: dict[str, list[str]] = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        # the reference models are files of their own, as users write them
        if PACKAGE / "fixtures" in path.parents:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                # a leading underscore says whose a name is, not what it means
                owners[node.name.lstrip("_")].append(path.relative_to(PACKAGE).as_posix())
    assert not {name: where for name, where in owners.items() if len(where) > 1}
