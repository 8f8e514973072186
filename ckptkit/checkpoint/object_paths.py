"""Paths through an object graph, which may be large, shared and cyclic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from ckptkit.stores.base import Node

MAX_ALIASES = 16  # per node; a graph can hold exponentially many paths
MAX_DEPTH = 500  # edges of a path; a deeper object is reached by its key alone
# Characters of all paths together.  A megabyte of hostile graph could ask for terabytes of them;
# real graphs have fewer than a hundred per edge.
_BASE_CHARACTERS = 1 << 24
_CHARACTERS_PER_EDGE = 256


def _edge_cost(edge: str) -> int:
    """Edges that Keras keeps for itself make worse names than attributes that a person chose."""
    return 3 if edge.startswith("_") else 1


def path_cost(path: str) -> tuple[int, str]:
    """Return what to sort paths by, best first."""
    edges = 1 + path.count("/")
    return edges + 2 * (path.startswith("_") + path.count("/_")), path  # as `_edge_cost` has it


def max_characters(edges: int) -> int:
    """Return how many characters the paths of a graph with so many edges may have together."""
    return _BASE_CHARACTERS + _CHARACTERS_PER_EDGE * edges


class ObjectPaths:
    """Paths from the root to every node, never through a node in `without`.

    Best is fewest edges, those that begin with "_" counting three; ties go to the earlier edge.
    Only nodes with children are walked: a leaf's paths are those of its parents and one edge more.
    """

    def __init__(self, nodes: Sequence[Node], without: Iterable[int] = ()) -> None:
        self._nodes = nodes
        self._without = frozenset(without)
        edges = sum(len(node.children) for node in nodes)
        self._max_characters = max_characters(edges)
        self._inner, self._inner_is_tree = self._walk(1)
        self._is_tree = self._inner_is_tree  # every node has one path
        self._best = {node: paths[0] for node, paths in self._inner.items()}
        for node, path in self._leaf_paths(self._inner):
            known = self._best.setdefault(node, path)
            if known is not path:
                self._is_tree = False
                if path_cost(path) < path_cost(known):
                    self._best[node] = path
        self._all: dict[int, tuple[str, ...]] = {}

    def best(self, node: int) -> str | None:
        """Return the best path to `node`, None when there is none; the root's is empty."""
        return self._best.get(node)

    def all(self, node: int) -> tuple[str, ...]:
        """Return the paths to `node` without cycles, best first, at most MAX_ALIASES."""
        if self._is_tree:
            path = self._best.get(node)
            return () if path is None else (path,)
        if not self._all:
            self._all = self._every_path()
        return self._all.get(node, ())

    def _every_path(self) -> dict[int, tuple[str, ...]]:
        inner = self._inner if self._inner_is_tree else self._walk(MAX_ALIASES)[0]
        every = {node: tuple(paths) for node, paths in inner.items()}
        shared: dict[int, list[str]] = {}
        for node, path in self._leaf_paths(inner):
            known = every.setdefault(node, (path,))
            if known[0] is not path:
                shared.setdefault(node, [known[0]]).append(path)
        for node, paths in shared.items():
            every[node] = tuple(sorted(paths, key=path_cost)[:MAX_ALIASES])
        return every

    def _leaf_paths(self, inner: Mapping[int, Sequence[str]]) -> Iterator[tuple[int, str]]:
        """Yield (node, path) of every edge to a node without children, for each path above it."""
        nodes, without, left = self._nodes, self._without, self._max_characters
        for parent, paths in inner.items():
            for above in paths:
                start = f"{above}/" if above else ""
                for edge, child in nodes[parent].children:
                    if not nodes[child].children and child not in without:
                        left -= len(start) + len(edge)
                        if left < 0:
                            return
                        yield child, start + edge

    def _walk(self, limit: int) -> tuple[dict[int, list[str]], bool]:
        """Return up to `limit` paths of every node with children, in rising cost.

        And whether these are all paths, so that a higher limit would find no others.
        """
        nodes, without, left = self._nodes, self._without, self._max_characters
        is_complete = True
        paths: dict[int, list[str]] = {}
        rings: dict[int, list[tuple[int, str, tuple[int, ...]]]] = {}
        if nodes:
            rings[0] = [(0, "", ())]
        cost = 0
        while rings:
            for node, path, above in rings.pop(cost, ()):
                found = paths.setdefault(node, [])
                if len(found) >= limit:
                    is_complete = False
                    continue
                found.append(path)
                if len(above) == MAX_DEPTH:
                    continue
                chain = (*above, node)
                for edge, child in nodes[node].children:
                    if not nodes[child].children or child in chain or child in without:
                        continue
                    left -= len(path) + len(edge)
                    if len(paths.get(child, ())) < limit and left >= 0:
                        step = f"{path}/{edge}" if path else edge
                        rings.setdefault(cost + _edge_cost(edge), []).append((child, step, chain))
                    else:
                        is_complete = False
            cost += 1
        return paths, is_complete
