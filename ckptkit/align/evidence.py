"""The steps of alignment, strongest evidence first; what one pairs, the next does not touch."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property

from ckptkit.align.numbered_names import disordered, match_names, without_counters
from ckptkit.align.rules import Rule, apply_rules
from ckptkit.align.slots import slots_of
from ckptkit.align.types import Alignment, Ambiguity, Match, TensorSet
from ckptkit.checkpoint.naming import Naming

_POSITION = re.compile(r"(?:^|[/-])\d+(?=/|$)")
_NAMELESS = re.compile(r"/vars/\d+$")
_PRIVATE = re.compile(r"(?:^|(?<=/))_+(?=[a-z])")
_COUNTER_NAMES = {"iter": "iterations", "_iterations": "iterations", "iteration": "iterations"}


class Aligner:
    """Goes through the evidence; `left` and `right` are the keys that are not yet paired."""

    def __init__(self, old: TensorSet, new: TensorSet) -> None:
        self.old, self.new = old, new
        self.left = dict.fromkeys(old.keys)
        self.right = dict.fromkeys(new.keys)
        self.pairs: list[Match] = []
        self.ambiguous: list[Ambiguity] = []
        self.undecided: tuple[set[str], set[str]] = (set(), set())

    def run(self, rules: Sequence[Rule]) -> Alignment:
        """Return what all evidence but content pairs; raises UsageError where rules collide."""
        unused_rules: tuple[str, ...] = ()
        if rules:
            matches = apply_rules(rules, labels_of(self.old), labels_of(self.new))
            unused_rules = matches.unused
            for left, right, text in matches.pairs:
                self._pair(left, right, f"rule {text}")
        self._by_key()
        self._by_alias()
        self._below_root_child()
        self._by_names()
        self._by_shared_full_name()
        self._counters()
        for match in slots_of(self.old, self.new, self.pairs, (self.left, self.right)):
            self._pair(*match)
        return Alignment(
            tuple(self.pairs),
            (),
            tuple(self.left),
            tuple(self.right),
            tuple(self.ambiguous),
            unused_rules,
        )

    # -- helpers ----------------------------------------------------------------------------------

    def _pair(self, left: str, right: str, evidence: str) -> None:
        if left in self.left and right in self.right:
            del self.left[left], self.right[right]
            self.pairs.append(Match(left, right, evidence))

    def _fits(self, left: str, right: str) -> bool:
        old_spec, new_spec = self.old.specs[left], self.new.specs[right]
        return old_spec.dtype == new_spec.dtype and old_spec.shape == new_spec.shape

    def _fit(self, left: str, right: str) -> tuple[int, int]:
        fits = self._fits(left, right)
        digest = self.old.digest(left)
        return int(fits), int(fits and digest is not None and digest == self.new.digest(right))

    def _free(self) -> tuple[list[str], list[str]]:
        """Keys still free; slots that are tied to a variable are paired by it alone."""
        return (
            [k for k in self.left if k not in self.old.owners and k not in self.undecided[0]],
            [k for k in self.right if k not in self.new.owners and k not in self.undecided[1]],
        )

    @cached_property
    def _by_label(self) -> tuple[dict[str, str], dict[str, str]]:
        """What names alone would pair: {old key: new key}, and back."""
        sides = [
            _unique((k for k in side.keys if k not in side.owners), side, _label)
            for side in (self.old, self.new)
        ]
        matches = match_names(sides[0], sides[1], self._fit)
        return {m.old: m.new for m in matches}, {m.new: m.old for m in matches}

    def _contradicted(self, left: str, right: str) -> bool:
        """Whether names say that a pair found by its position in a list belongs elsewhere."""
        there, back = self._by_label
        if there.get(left, right) == right and back.get(right, left) == left:
            return False
        others = [(left, there[left])] if left in there else []
        others += [(back[right], right)] if right in back else []
        return not self._fits(left, right) or any(self._fits(*pair) for pair in others)

    # -- evidence, strongest first ----------------------------------------------------------------

    def _by_key(self) -> None:
        """Pair equal keys, but for those that number something and may number it otherwise."""
        counted = self._counted_keys()
        for key in self._free()[0]:
            if key not in self.right or key in self.new.owners or key in counted:
                continue
            if not _POSITION.search(key) or not self._contradicted(key, key):
                self._pair(key, key, "key")

    def _counted_keys(self) -> set[str]:
        """Keys that are themselves names with automatic counters, where the two sets differ.

        These are left to the matching of names, which knows about counters.
        """
        families: dict[str, tuple[set[str], set[str]]] = {}
        for at, side in enumerate((self.old, self.new)):
            for key in side.keys:
                if side.names[key].full_name == key:
                    families.setdefault(without_counters(key), (set(), set()))[at].add(key)
        return {
            key
            for old_keys, new_keys in families.values()
            if old_keys and new_keys and old_keys != new_keys
            for key in old_keys & new_keys
        }

    def _by_alias(self) -> None:
        """Pair keys that share an object path, then those that share one but for underscores."""
        left, right = self._free()
        self._by_paths(
            {key: self.old.paths[key] for key in left},
            {key: self.new.paths[key] for key in right},
            "alias",
        )
        left, right = self._free()
        # Keras turned `kernel` into a property over `_kernel`.
        self._by_paths(
            _below({key: self.old.paths[key] for key in left if key in self.old.weights}, ""),
            _below({key: self.new.paths[key] for key in right if key in self.new.weights}, ""),
            "alias",
        )

    def _by_paths(
        self,
        left: Mapping[str, Iterable[str]],
        right: Mapping[str, Iterable[str]],
        evidence: str,
    ) -> None:
        """Pair keys that share a path, where each is the other's only one."""
        for left_key, right_key in _shared_paths(left, right):
            roles = {self.old.names[left_key].role, self.new.names[right_key].role}
            if (len(roles) == 1 or "other" in roles) and not self._contradicted(
                left_key, right_key
            ):
                self._pair(left_key, right_key, evidence)

    def _below_root_child(self) -> None:
        """Try `x/...` against `y/...` and `...`, and keep the roots that pair most weights."""
        weights = min(len(side.weights) for side in (self.old, self.new))
        left, right = self._free()
        sides = (
            {k: self.old.paths[k] for k in left if k in self.old.weights},
            {k: self.new.paths[k] for k in right if k in self.new.weights},
        )
        # The two roots with most pairs, and of several with as many the ones nearest to the top.
        best: tuple[int, int, str, str] | None = None
        for left_head in _heads(sides[0], weights):
            for right_head in _heads(sides[1], weights):
                if left_head == right_head:
                    continue
                shared = _shared_paths(_below(sides[0], left_head), _below(sides[1], right_head))
                count = sum(self._fits(*pair) for pair in shared)
                rank = (count, -left_head.count("/") - right_head.count("/"), left_head, right_head)
                if best is None or rank[:2] > best[:2]:
                    best = rank
        if best is None or best[0] * 2 <= weights:
            return
        # The weights below these roots first, then everything else that is below them.
        self._by_paths(_below(sides[0], best[2]), _below(sides[1], best[3]), "path")
        left, right = self._free()
        rest = {k: self.old.paths[k] for k in left}, {k: self.new.paths[k] for k in right}
        self._by_paths(_below(rest[0], best[2]), _below(rest[1], best[3]), "path")

    def _by_names(self) -> None:
        """Pair by full names and readable names, then by what short names have in common."""
        full: Callable[[Naming], str] = lambda naming: naming.full_name or ""  # noqa: E731
        name: Callable[[Naming], str] = lambda naming: naming.name  # noqa: E731
        for left_name, right_name, evidence in (
            (full, full, "full name"),
            (name, name, "name"),
            (full, name, "name"),
            (name, full, "name"),
        ):
            self._by_one_name(left_name, right_name, evidence)
        left, right = self._free()
        self._by_paths(
            {key: _labels(self.old, key) for key in left},
            {key: _labels(self.new, key) for key in right},
            "name",
        )
        # Names that differ in what is between their ends, or that a file without config lacks.
        self._by_type_and(_ends, _abridges)
        self._by_type_and(_layer, _either_nameless)

    def _by_type_and(
        self, label: Callable[[str], str | None], fits: Callable[[str, str], bool]
    ) -> None:
        """Pair weights whose labels agree, where dtype and shape leave one on either side."""
        groups: dict[tuple[object, ...], tuple[list[str], list[str]]] = {}
        for at, (side, keys) in enumerate(zip((self.old, self.new), self._free(), strict=True)):
            for key in keys:
                label_of_key = label(side.names[key].name) if key in side.weights else None
                if label_of_key is not None:
                    spec = side.specs[key]
                    group = label_of_key, spec.dtype, spec.shape
                    groups.setdefault(group, ([], []))[at].append(key)
        for left, right in groups.values():
            if len(left) == len(right) == 1:
                names = self.old.names[left[0]].name, self.new.names[right[0]].name
                if fits(*names):
                    self._pair(left[0], right[0], "name")

    def _by_one_name(
        self, left_name: Callable[[Naming], str], right_name: Callable[[Naming], str], evidence: str
    ) -> None:
        left = _unique(self._free()[0], self.old, left_name)
        right = _unique(self._free()[1], self.new, right_name)
        matches = match_names(left, right, self._fit)
        # Where counters in names and the order of layers disagree, only equal contents decide.
        wrong = disordered(
            matches,
            ({k: n for n, k in left.items()}, {k: n for n, k in right.items()}),
            (self.old.paths, self.new.paths),
        )
        doubtful = {m for m in wrong if self._fit(m.old, m.new) != (1, 1)}
        for match in matches:
            if match not in doubtful:
                same = match.old == match.new
                how = f"{evidence}, renumbered" if match.renumbered else evidence
                self._pair(match.old, match.new, "key" if same else how)
        if doubtful:
            self.undecided[0].update(m.old for m in doubtful)
            self.undecided[1].update(m.new for m in doubtful)
            self.ambiguous.append(
                Ambiguity(
                    tuple(m.old for m in matches if m in doubtful),
                    tuple(m.new for m in matches if m in doubtful),
                    "numbered names and structural order disagree",
                )
            )

    def _by_shared_full_name(self) -> None:
        """Tensors of one full name (a subclassed model's kernels): shape, then content, decides."""
        groups: dict[tuple[object, ...], tuple[list[str], list[str]]] = {}
        for at, (side, keys) in enumerate(zip((self.old, self.new), self._free(), strict=True)):
            for key in keys:
                naming, spec = side.names[key], side.specs[key]
                if naming.full_name and naming.role == "weight":
                    group = naming.full_name, spec.dtype, spec.shape
                    groups.setdefault(group, ([], []))[at].append(key)
        for left, right in groups.values():
            self._decide_group(left, right)

    def _decide_group(self, left: list[str], right: list[str]) -> None:
        if not left or not right:
            return
        # By content, where it is unique in the group; then, of what is left, one against one.
        contents = defaultdict(list)
        for key in right:
            contents[self.new.content(key)].append(key)
        left_counts = Counter(self.old.content(key) for key in left)
        for key in left:
            content = self.old.content(key)
            if content is not None and left_counts[content] == len(contents[content]) == 1:
                self._pair(key, contents[content][0], "full name")
        left, right = [k for k in left if k in self.left], [k for k in right if k in self.right]
        if len(left) == len(right) == 1:
            self._pair(left[0], right[0], "full name")
        elif left and right:
            why = "several have the same full name and shape"
            self.ambiguous.append(Ambiguity(tuple(left), tuple(right), why))

    def _counters(self) -> None:
        """Step counters are called differently by each generation of optimizers."""
        groups: dict[str, tuple[list[str], list[str]]] = {}
        for at, (side, keys) in enumerate(zip((self.old, self.new), self._free(), strict=True)):
            for key in keys:
                if side.names[key].role == "counter":
                    last = (side.paths[key] or (side.names[key].name,))[0].rpartition("/")[2]
                    name = _COUNTER_NAMES.get(last, last)
                    groups.setdefault(name, ([], []))[at].append(key)
        for left, right in groups.values():
            if len(left) == len(right) == 1:
                self._pair(left[0], right[0], "name")


def labels_of(side: TensorSet) -> dict[str, list[str]]:
    """Return the names by which a rule may call each tensor, best first."""
    return {key: _labels(side, key) for key in side.keys}


def _labels(side: TensorSet, key: str) -> list[str]:
    naming = side.names[key]
    return [name for name in (naming.name, naming.full_name, *side.paths[key]) if name]


def _label(naming: Naming) -> str:
    return naming.full_name or naming.name


def _ends(name: str) -> str | None:
    """Return the first and last part of a name; old HDF5 files leave out what is between."""
    parts = name.split("/")
    return f"{parts[0]}/{parts[-1]}" if len(parts) > 1 else None


def _abridges(left: str, right: str) -> bool:
    """Whether one name is the other with some of its parts left out."""
    short, long = sorted((left.split("/"), right.split("/")), key=len)
    rest = iter(long)
    return all(part in rest for part in short)


def _layer(name: str) -> str | None:
    """Return `bn` for `bn/beta`, and for `bn/vars/0`: a file without config has no better name."""
    return (_NAMELESS.sub("", name) if _NAMELESS.search(name) else name.rpartition("/")[0]) or None


def _either_nameless(left: str, right: str) -> bool:
    return bool(_NAMELESS.search(left) or _NAMELESS.search(right))


def _unique(keys: Iterable[str], side: TensorSet, name: Callable[[Naming], str]) -> dict[str, str]:
    """Return {name: key} for the names that only one key has."""
    keys_by_name: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        keys_by_name[name(side.names[key])].append(key)
    return {
        label: same_name[0]
        for label, same_name in keys_by_name.items()
        if label and len(same_name) == 1
    }


def _shared_paths(
    left: Mapping[str, Iterable[str]], right: Mapping[str, Iterable[str]]
) -> list[tuple[str, str]]:
    """Return the pairs of keys that share a path, where each is the other's only one."""
    right_by_path = {path: key for key, paths in right.items() for path in paths}
    partners = {
        key: {right_by_path[path] for path in paths if path in right_by_path}
        for key, paths in left.items()
    }
    times_found = Counter(other for others in partners.values() for other in others)
    return [
        (key, other)
        for key, others in partners.items()
        if len(others) == 1
        for other in others
        if times_found[other] == 1
    ]


def _heads(paths: Mapping[str, Iterable[str]], weights: int) -> list[str]:
    """Return "" and the first one and two steps that more than half of the weights lie below."""
    counts: Counter[str] = Counter()
    for key_paths in paths.values():
        heads: set[str] = set()
        for path in key_paths:
            steps = path.split("/")
            heads.update("/".join(steps[:depth]) + "/" for depth in (1, 2) if len(steps) > depth)
        counts.update(heads)
    large = [head for head, count in counts.items() if count * 2 > weights]
    return ["", *sorted(large, key=lambda head: (head.count("/"), head))]


def _below(paths: Mapping[str, Iterable[str]], head: str) -> dict[str, list[str]]:
    """Return the paths below `head`; `_layers` and `layers` are one edge (Keras keeps both)."""
    return {
        key: [_PRIVATE.sub("", path[len(head) :]) for path in key_paths if path.startswith(head)]
        for key, key_paths in paths.items()
    }
