"""Paths through an object graph, which may be large, shared and cyclic."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from ckptkit.stores.base import Node

MAX_ALIASES = 16  # per node; a graph can hold exponentially many paths


def _edge_cost(edge: str) -> int:
    """Edges that Keras keeps for itself make worse names than attributes that a person chose."""
    return 3 if edge.startswith("_") else 1


def path_cost(path: str) -> tuple[int, str]:
    """Return what to sort paths by, best first."""
    return sum(_edge_cost(edge) for edge in path.split("/")), path


class ObjectPaths:
    """Paths from the root to every node, never through a node in `without`.

    Best is fewest edges, those that begin with "_" counting three; ties go to the earlier edge.
    Only nodes with children are walked: a leaf's paths are those of its parents and one edge more.
    """

    def __init__(self, nodes: Sequence[Node], without: Iterable[int] = ()) -> None:
        self._nodes = nodes
        self._without = frozenset(without)
        self._parents: dict[int, list[tuple[int, str]]] = defaultdict(list)
        for parent, node in enumerate(nodes):
            if parent not in self._without:
                for edge, child in node.children:
                    self._parents[child].append((parent, edge))
        self._inner = self._walk(1)
        self._inner_all: dict[int, list[str]] = {}

    def best(self, node: int) -> str | None:
        """Return the best path to `node`, None when there is none; the root's is empty."""
        if self._nodes[node].children or node == 0:
            paths = self._inner.get(node)
            return paths[0] if paths else None
        best = None
        for parent, edge in self._parents.get(node, ()):
            above = self._inner.get(parent)
            if above and node not in self._without:
                path = f"{above[0]}/{edge}" if above[0] else edge
                if best is None or path_cost(path) < path_cost(best):
                    best = path
        return best

    def all(self, node: int) -> list[str]:
        """Return the paths to `node` without cycles, best first, at most MAX_ALIASES."""
        if not self._inner_all:
            self._inner_all = self._walk(MAX_ALIASES)
        if self._nodes[node].children:
            return self._inner_all.get(node, [])
        paths = [
            f"{above}/{edge}" if above else edge
            for parent, edge in self._parents.get(node, ())
            for above in self._inner_all.get(parent, ())
        ]
        return sorted(paths, key=path_cost)[:MAX_ALIASES] if len(paths) > 1 else paths

    def _walk(self, limit: int) -> dict[int, list[str]]:
        """Return up to `limit` paths of every node with children, in rising cost."""
        nodes = self._nodes
        paths: dict[int, list[str]] = {}
        rings: dict[int, list[tuple[int, str, tuple[int, ...]]]] = {0: [(0, "", ())]}
        cost = 0
        while rings:
            for node, path, above in rings.pop(cost, ()):
                found = paths.setdefault(node, [])
                if len(found) >= limit:
                    continue
                found.append(path)
                chain = (*above, node)
                for edge, child in nodes[node].children:
                    if not nodes[child].children or child in chain or child in self._without:
                        continue
                    if len(paths.get(child, ())) < limit:
                        step = f"{path}/{edge}" if path else edge
                        rings.setdefault(cost + _edge_cost(edge), []).append((child, step, chain))
            cost += 1
        return paths
