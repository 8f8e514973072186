"""What runs in the child of a run is told from what the parent does: neither imports the other."""

from __future__ import annotations

from pathlib import Path

import ckptkit
from benchmarks.house import House

RUNNERS = "ckptkit.runners"
PARENT = {
    f"{RUNNERS}.{name}"
    for name in ("client", "introspect", "process", "fork_server", "chunks", "environment")
}
SHARED = {
    f"{RUNNERS}.{name}"
    for name in ("types", "spec", "errors", "registry", "limits", "marks", "doing")
}


def test_parent_and_child_do_not_import_each_other() -> None:
    imports = House(Path(ckptkit.__file__).parent).imports
    ours = {name for name in imports if name.startswith(f"{RUNNERS}.")} - {f"{RUNNERS}.__init__"}
    child = {name for name in ours if name.count(".") > 2}  # in packages of its own
    assert ours - child == PARENT | SHARED
    for module in ours:
        below = reached(imports, module) & ours
        if module in child:
            assert not below & PARENT, module
        else:
            assert not below & child, module
        if module in SHARED:
            assert not below & PARENT, module


def reached(imports: dict[str, set[str]], module: str) -> set[str]:
    """Return all modules that importing one brings in."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        new = imports[waiting.pop()] - found
        found |= new
        waiting += new
    return found
