"""The steps of alignment, strongest evidence first; what one pairs, the next does not touch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property

from ckptkit.align import structures
from ckptkit.align.labels import (
    abridges,
    best_label,
    ends,
    heads,
    labels,
    labels_of,
    paths_below,
    shared_labels,
    unique_labels,
)
from ckptkit.align.name_tree import is_dotted, slashed, without_counters
from ckptkit.align.numbered_names import NameMatches, match_names
from ckptkit.align.rules import Rule, apply_rules
from ckptkit.align.slots import slots_of
from ckptkit.align.types import (
    PATH_SUFFIX,
    Alignment,
    Ambiguity,
    Match,
    TensorSet,
    unique_contents,
)
from ckptkit.checkpoint.naming import Naming
from ckptkit.stores.base import KerasStructure
from ckptkit.text import lazy_pattern

_POSITION = lazy_pattern(r"(?:^|[/-])\d+(?=/|$)")
_MISC_ASSET = lazy_pattern(r"_misc_assets/\d+/")  # where Keras 3's export() puts tables
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
        self._pair_free(structures.by_listing(self.old, self.new))
        self._by_key()
        self._by_alias()
        self._below_root_child()
        self._by_attributes()
        self._by_names()
        self._by_layers()
        self._by_shared_full_name()
        self._counters()
        self._tables()
        for match in slots_of(self.old, self.new, self.pairs, (self.left, self.right)):
            self._pair(*match)
        if self.left and self.right:
            for match in structures.of_optimizers(self.old, self.new):
                self._pair(*match)
            self._pair_free(structures.of_metrics(self.old, self.new))
        return Alignment(
            tuple(pair for pair in self.pairs if pair.evidence != "content"),
            tuple(pair for pair in self.pairs if pair.evidence == "content"),
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

    def _free(self) -> tuple[list[str], list[str]]:
        """Keys still free; slots that are tied to a variable are paired by it alone."""
        return (
            [k for k in self.left if k not in self.old.owners and k not in self.undecided[0]],
            [k for k in self.right if k not in self.new.owners and k not in self.undecided[1]],
        )

    @cached_property
    def _name_matches(self) -> NameMatches:
        """What names alone would pair, and what they leave undecided."""
        sides = [
            unique_labels((k for k in side.keys if k not in side.owners), side, best_label)
            for side in (self.old, self.new)
        ]
        return match_names(sides[0], sides[1], (self.old, self.new))

    @cached_property
    def _by_label(self) -> tuple[dict[str, str], dict[str, str]]:
        """What names alone would pair: {old key: new key}, and back."""
        pairs = self._name_matches.pairs
        return {m.old: m.new for m in pairs}, {m.new: m.old for m in pairs}

    @cached_property
    def _has_dots(self) -> tuple[bool, bool]:
        """Whether the names of each side have dots where others have slashes."""
        old, new = ([side.names[key].name for key in side.keys] for side in (self.old, self.new))
        return is_dotted(old), is_dotted(new)

    @cached_property
    def _by_content(self) -> tuple[dict[str, str], dict[str, str]]:
        """The keys whose values one tensor of either side has: {old key: new key}, and back."""
        pairs = unique_contents(self.old.contents(), self.new.contents())
        return pairs, {new: old for old, new in pairs.items()}

    def _confirmed(self, left: str, right: str) -> bool:
        """Whether names alone would make this pair, too."""
        there, _back = self._by_label
        return there.get(left) == right

    def _contradicted(self, left: str, right: str, *, is_place: bool) -> bool:
        """Whether names say that a pair found by a path, or a place in a list, belongs elsewhere.

        Where names say nothing, a place gives way to types and contents that are found elsewhere.
        """
        there, back = self._by_label
        if left in there or right in back:
            if there.get(left) == right:
                return False
            others = [(left, there[left])] if left in there else []
            others += [(back[right], right)] if right in back else []
            return not self._fits(left, right) or any(self._fits(*pair) for pair in others)
        if not is_place:
            return False
        if not self._fits(left, right):
            return self._type(0, left) in self._types[1] or self._type(1, right) in self._types[0]
        return self._content_contradicts(left, right)

    def _type(self, side: int, key: str) -> tuple[str, tuple[int, ...]]:
        spec = (self.old, self.new)[side].specs[key]
        return spec.dtype, spec.shape

    @cached_property
    def _types(self) -> tuple[set[object], set[object]]:
        return (
            {self._type(0, key) for key in self.old.weights},
            {self._type(1, key) for key in self.new.weights},
        )

    def _content_contradicts(self, left: str, right: str) -> bool:
        """Whether the values of one of the two are those of another tensor of the other side."""
        there, back = self._by_content
        return there.get(left, right) != right or back.get(right, left) != left

    # -- evidence, strongest first ----------------------------------------------------------------

    def _by_key(self) -> None:
        """Pair equal keys, but for those that number something and may number it otherwise."""
        new_keys = set(self._free()[1])
        shared = [key for key in self._free()[0] if key in new_keys]
        if self._are_alike(shared):
            for key in shared:
                self._pair(key, key, "key")
            return
        counted = self._counted_otherwise(shared)
        # One place in a list that holds what was elsewhere: the whole list may have shifted.
        paths = {key: slashed(key) if all(self._has_dots) else key for key in shared}
        shifted = {
            _POSITION.sub("#", path)
            for key, path in paths.items()
            if _POSITION.search(path)
            and not self._confirmed(key, key)
            and self._content_contradicts(key, key)
        }
        for key, path in paths.items():
            if key in counted:
                continue
            if not _POSITION.search(path):
                self._pair(key, key, "key")
            elif self._contradicted(key, key, is_place=True):
                continue
            elif _POSITION.sub("#", path) not in shifted or self._confirmed(key, key):
                self._pair(key, key, "key")

    def _are_alike(self, shared: Sequence[str]) -> bool:
        """Whether both files have the same keys, names and types, so that nothing has moved.

        Layers of a Keras file may come in another order all the same, and numbered names that are
        keys give way to contents.
        """
        if not len(shared) == len(self._free()[0]) == len(self._free()[1]) or any(
            isinstance(side.structure, KerasStructure) for side in (self.old, self.new)
        ):
            return False
        old_names, new_names = self.old.names, self.new.names
        return all(
            best_label(old_names[key]) == best_label(new_names[key])
            and self._fits(key, key)
            and (
                self.old.digest(key) == self.new.digest(key)
                or key.endswith(PATH_SUFFIX)
                or not self._content_contradicts(key, key)
            )
            for key in shared
        ) and len({best_label(old_names[key]) for key in shared}) == len(shared)

    def _counted_otherwise(self, shared: Iterable[str]) -> set[str]:
        """Keys that are names with automatic counters, by which names would pair something else.

        A key of an object graph is a path of attributes, which a person chose.
        """
        counted = [
            key for key in shared if not key.endswith(PATH_SUFFIX) and without_counters(key) != key
        ]
        if not counted:
            return set()
        found = self._name_matches
        elsewhere = {key for m in found.pairs if m.old != m.new for key in (m.old, m.new)}
        elsewhere |= {key for item in found.undecided for key in (*item.old, *item.new)}
        return elsewhere.intersection(counted)

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
            paths_below({key: self.old.paths[key] for key in left if key in self.old.weights}, ""),
            paths_below({key: self.new.paths[key] for key in right if key in self.new.weights}, ""),
            "alias",
        )

    def _by_paths(
        self,
        left: Mapping[str, Iterable[str]],
        right: Mapping[str, Iterable[str]],
        evidence: str,
    ) -> None:
        """Pair keys that share a path, where each is the other's only one."""
        for left_key, right_key in shared_labels(left, right):
            roles = {self.old.names[left_key].role, self.new.names[right_key].role}
            shared = set(left[left_key]) & set(right[right_key])
            is_place = all(_POSITION.search(label) for label in shared)
            if (len(roles) == 1 or "other" in roles) and not self._contradicted(
                left_key, right_key, is_place=is_place
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
        # The two roots with most pairs, and of several with as many the ones nearest to the top;
        # where those disagree, none.
        found: dict[tuple[int, int], list[tuple[str, str, list[tuple[str, str]]]]] = {}
        for left_head in heads(sides[0], weights):
            for right_head in heads(sides[1], weights):
                if left_head != right_head:
                    shared = shared_labels(
                        paths_below(sides[0], left_head), paths_below(sides[1], right_head)
                    )
                    count = sum(self._fits(*pair) for pair in shared)
                    rank = count, -left_head.count("/") - right_head.count("/")
                    found.setdefault(rank, []).append((left_head, right_head, shared))
        if not found or max(found)[0] * 2 <= weights:
            return
        best = found[max(found)]
        if len({frozenset(shared) for _, _, shared in best}) > 1:
            return
        left_head, right_head, _ = best[0]
        # The weights below these roots first, then everything else that is below them.
        self._by_paths(paths_below(sides[0], left_head), paths_below(sides[1], right_head), "path")
        left, right = self._free()
        rest = {k: self.old.paths[k] for k in left}, {k: self.new.paths[k] for k in right}
        self._by_paths(paths_below(rest[0], left_head), paths_below(rest[1], right_head), "path")

    def _by_attributes(self) -> None:
        """Pair what lies at one place of both models' trees of objects."""
        if self._are_weights_left():
            for match in structures.by_attributes(self.old, self.new):
                self._pair(*match)

    def _by_layers(self) -> None:
        """Pair by the order of a model's variables, then by the layer that they belong to."""
        if self._are_weights_left():
            self._pair_free(structures.by_order(self.old, self.new, self._known()))
        if self._are_weights_left():
            self._pair_free(structures.by_layers(self.old, self.new))
        if self._are_weights_left():
            self._pair_free(structures.of_known_layers(self.old, self.new, self._known()))

    def _known(self) -> dict[str, str]:
        return {match.old: match.new for match in self.pairs}

    def _pair_free(self, matches: Iterable[Match]) -> None:
        """Make the pairs of which neither side is undecided."""
        free = set(self._free()[0]), set(self._free()[1])
        for match in matches:
            if match.old in free[0] and match.new in free[1]:
                self._pair(*match)

    def _are_weights_left(self) -> bool:
        """Whether either side has a weight that is not paired."""
        return bool(self.old.weights & self.left.keys() and self.new.weights & self.right.keys())

    def _by_names(self) -> None:
        """Pair by full names and readable names, then by what short names have in common."""
        full: Callable[[Naming], str] = lambda naming: naming.full_name or ""  # noqa: E731
        name: Callable[[Naming], str] = lambda naming: naming.name  # noqa: E731
        self._by_one_name([(full, full)], "full name")
        self._by_one_name([(name, name)], "name")
        self._by_one_name([(full, name), (name, full)], "name")
        left, right = self._free()
        self._by_paths(
            {key: labels(self.old, key) for key in left},
            {key: labels(self.new, key) for key in right},
            "name",
        )
        # Names that differ in what is between their ends.
        self._by_type_and(ends, abridges)

    def _by_type_and(
        self, label: Callable[[str], str | None], fits: Callable[[str, str], bool]
    ) -> None:
        """Pair weights whose labels agree, where dtype and shape leave one on either side."""
        groups: dict[tuple[object, ...], tuple[list[str], list[str]]] = {}
        for at, (side, keys) in enumerate(zip((self.old, self.new), self._free(), strict=True)):
            for key in keys:
                name = side.names[key].name
                name = slashed(name) if self._has_dots[at] else name
                label_of_key = label(name) if key in side.weights else None
                if label_of_key is not None:
                    spec = side.specs[key]
                    group = label_of_key, spec.dtype, spec.shape
                    groups.setdefault(group, ([], []))[at].append(key)
        for left, right in groups.values():
            if len(left) == len(right) == 1:
                names = [self.old.names[left[0]].name, self.new.names[right[0]].name]
                pairs = zip(names, self._has_dots, strict=True)
                if fits(*(slashed(name) if has_dots else name for name, has_dots in pairs)):
                    self._pair(left[0], right[0], "name")

    def _by_one_name(
        self,
        schemes: Sequence[tuple[Callable[[Naming], str], Callable[[Naming], str]]],
        evidence: str,
    ) -> None:
        """Pair by one name of either side; where there are two ways, by what both allow."""
        free = self._free()
        matches: dict[tuple[str, str], str] = {}
        undecided: dict[Ambiguity, None] = {}
        for left_name, right_name in schemes:
            found = match_names(
                unique_labels(free[0], self.old, left_name),
                unique_labels(free[1], self.new, right_name),
                (self.old, self.new),
            )
            for match in found.pairs:
                matches.setdefault((match.old, match.new), match.how)
            undecided.update(dict.fromkeys(found.undecided))
        partners = Counter(old for old, _ in matches), Counter(new for _, new in matches)
        for (old, new), how in matches.items():
            if partners[0][old] > 1 or partners[1][new] > 1:
                continue
            if how == "content":
                self._pair(old, new, "content")
            elif how == "place":
                self._pair(old, new, "place")
            else:
                same = "key" if old == new else evidence
                self._pair(old, new, f"{evidence}, {how}" if how else same)
        for item in undecided:
            old_keys = tuple(key for key in item.old if key in self.left)
            new_keys = tuple(key for key in item.new if key in self.right)
            if old_keys and new_keys:
                self.undecided[0].update(old_keys)
                self.undecided[1].update(new_keys)
                self.ambiguous.append(Ambiguity(old_keys, new_keys, item.reason))

    def _by_shared_full_name(self) -> None:
        """Tensors of one full name (a subclassed model's kernels): shape, then content, decides."""
        groups: dict[tuple[object, ...], tuple[list[str], list[str]]] = {}
        counts: Counter[tuple[int, object]] = Counter()
        group: tuple[object, ...]
        for at, (side, keys) in enumerate(zip((self.old, self.new), self._free(), strict=True)):
            free = set(keys)
            for key in side.keys:
                naming, spec = side.names[key], side.specs[key]
                if naming.full_name and naming.role == "weight":
                    group = naming.full_name, spec.dtype, spec.shape
                    counts[at, group] += 1
                    if key in free:
                        groups.setdefault(group, ([], []))[at].append(key)
        for group, (left, right) in groups.items():
            self._decide_group(left, right, (counts[0, group], counts[1, group]))

    def _decide_group(self, left: list[str], right: list[str], counts: tuple[int, int]) -> None:
        """Pair tensors of one full name and type; counts: of all such, paired ones included."""
        if not left or not right:
            return
        # By content, where it is unique in the group; then, of what is left, one against one.
        contents: dict[object, tuple[list[str], list[str]]] = {}
        for at, (side, keys) in enumerate(((self.old, left), (self.new, right))):
            for key in keys:
                content = side.content(key)
                if content is not None:
                    contents.setdefault(content, ([], []))[at].append(key)
        for same in contents.values():
            if len(same[0]) == len(same[1]) == 1:
                self._pair(same[0][0], same[1][0], "full name, by content")
        left, right = [k for k in left if k in self.left], [k for k in right if k in self.right]
        if len(left) == len(right) == 1 and counts[0] == counts[1]:
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

    def _tables(self) -> None:
        """A table that an export keeps by a number alone, where both sides have one of its type."""
        kinds: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
        for at, (side, keys) in enumerate(zip((self.old, self.new), self._free(), strict=True)):
            for key in keys:
                if side.names[key].role == "table":
                    part = key.rpartition("/")[2]  # "table-keys" or "table-values"
                    kind = part, side.specs[key].dtype
                    kinds.setdefault(kind, ([], []))[at].append(key)
        for left, right in kinds.values():
            if len(left) == len(right) == 1 and any(map(_MISC_ASSET.match, (left[0], right[0]))):
                self._pair(left[0], right[0], "structure")
