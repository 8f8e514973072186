"""The structure of the package in figures: rooms, floors, circles, arrows that go upward.

    python -m benchmarks.house [PACKAGE_DIRECTORY]

An arrow is an import, wherever it stands: at the top of a module, in a function, or for type
checkers alone.  A *room* is a module or package directly in `ckptkit/`; its *floor* is the length
of the longest chain of imports below it.  A *circle* is a set of modules, or of siblings in one
folder, each of which reaches all the others.  An arrow goes *upward* when it leads to a room that
FLOORS, which docs/design.md explains, has above its own.  Names in strings (tables of commands,
formats and runners, which are imported on demand) are no arrows.  `tests/test_imports.py` holds
these figures.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

# From the ground up; a room may import from its own floor and from all floors below.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("_version", "installation", "errors", "dtypes", "text", "results", "wording", "plugins"),
    ("_io",),
    ("stores",),
    ("checkpoint",),
    ("align", "compare"),
    ("model_io",),
    ("golden",),
    ("runners",),
    ("operations",),
    ("reports",),
    ("testing", "fixtures"),
    ("cli",),
    ("__init__", "__main__"),
)

Graph = Mapping[str, set[str]]


class House:
    """The modules of a package by full name, and what each imports."""

    def __init__(self, package: Path) -> None:
        self.package = package
        self.name = package.name
        self.paths = {
            ".".join((self.name, *path.relative_to(package).with_suffix("").parts)): path
            for path in sorted(package.rglob("*.py"))
        }

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        """Module -> modules of this package that it imports, by full name."""
        return {
            module: {name for name in self._imports(path) if name != module}
            for module, path in self.paths.items()
        }

    @cached_property
    def rooms(self) -> dict[str, set[str]]:
        """Room -> rooms that it imports."""
        return self.siblings(self.name)

    def siblings(self, parent: str) -> dict[str, set[str]]:
        """Return what stands directly in the package `parent`, and what of it each imports.

        `__init__` stands for what it holds itself; its children do not count as its own.
        """
        prefix = parent + "."
        graph: dict[str, set[str]] = {}
        for module, targets in self.imports.items():
            if module.startswith(prefix):
                child = module[len(prefix) :].partition(".")[0]
                graph.setdefault(child, set()).update(
                    name[len(prefix) :].partition(".")[0]
                    for name in targets
                    if name.startswith(prefix)
                )
        for child, below in graph.items():
            below.discard(child)
        return graph

    def circles(self) -> list[list[str]]:
        """Return the circles of modules, then those among siblings, by full name."""
        found = circles(self.imports)
        for parent in sorted({module.rpartition(".")[0] for module in self.paths}):
            # `__init__` re-exports what its children define; whom they import is told by modules.
            graph = {
                child: {name for name in below if name != "__init__"}
                for child, below in self.siblings(parent).items()
                if child != "__init__"
            }
            found += [[f"{parent}.{child}" for child in circle] for circle in circles(graph)]
        return [list(names) for names in dict.fromkeys(map(tuple, found))]

    def upward(self) -> list[tuple[str, str]]:
        """Return the arrows (module, module) that lead to a room on a higher floor."""
        floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
        return [
            (module, name)
            for module, targets in self.imports.items()
            for name in sorted(targets)
            if floor[name.split(".")[1]] > floor[module.split(".")[1]]
        ]

    def _imports(self, path: Path) -> Iterator[str]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names: Iterable[str] = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                if module := self._module(name):
                    yield module

    def _module(self, name: str) -> str:
        """Return the module that a dotted name means or lies in, "" outside of the package."""
        while name.split(".")[0] == self.name:
            for candidate in (name, f"{name}.__init__"):
                if candidate in self.paths:
                    return candidate
            name = name.rpartition(".")[0]
        return ""


def circles(graph: Graph) -> list[list[str]]:
    """Return the strongly connected components of more than one node (Tarjan), largest first."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(graph.get(node, ())):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1:
                found.append(sorted(component))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return sorted(found, key=len, reverse=True)


def heights(graph: Graph) -> dict[str, int]:
    """Return node -> floor from 1; the members of a circle share the floor of its lowest chain."""
    member = {node: circle[0] for circle in circles(graph) for node in circle}
    below: dict[str, set[str]] = defaultdict(set)
    for node, targets in graph.items():
        here = member.get(node, node)
        below[here] |= {member.get(target, target) for target in targets} - {here}
    known: dict[str, int] = {}

    def height(node: str) -> int:
        if node not in known:
            known[node] = 1 + max(map(height, below[node]), default=0)
        return known[node]

    return {node: height(member.get(node, node)) for node in graph}


def report(house: House) -> Iterator[str]:
    """Yield the figures, then each circle and each arrow that goes upward, a line each."""
    floor = heights(house.rooms)
    arrows = sum(map(len, house.rooms.values()))
    found = house.circles()
    planned = {room for rooms in FLOORS for room in rooms}
    upward = house.upward() if planned >= set(house.rooms) else None
    inside = [room for room in house.rooms if room != "__init__"]
    yield f"modules   {len(house.paths)}"
    yield f"rooms     {len(inside)}"
    yield f"floors    {max(floor.values())}"
    yield f"arrows    {arrows} between rooms"
    yield f"circles   {len(found)}, the largest of {max(map(len, found), default=0)}"
    yield f"upward    {'?' if upward is None else len(upward)}"
    for number in range(max(floor.values()), 0, -1):
        yield f"  {number:2}  {' '.join(sorted(r for r, n in floor.items() if n == number))}"
    yield from (f"circle: {', '.join(circle)}" for circle in found)
    yield from (f"upward: {module} -> {name}" for module, name in upward or ())
    if upward is None:
        yield f"no floor is planned for: {' '.join(sorted(set(house.rooms) - planned))}"


def main() -> None:
    """Print the figures of the package, by default this checkout's."""
    default = Path(__file__).resolve().parents[1] / "ckptkit"
    print("\n".join(report(House(Path(sys.argv[1]) if sys.argv[1:] else default))))


if __name__ == "__main__":
    main()
