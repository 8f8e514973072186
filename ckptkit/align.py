"""Which tensor here is which tensor there: one answer for `diff`, `convert` and `check`.

Evidence is tried in this order; what one kind has paired, the next does not touch:

    rule        the user says so (`--map`)
    key         the same key in both files
    alias       an object path of one is an object path of the other
    path        the same object path below the best child of each root (`model/...` against `...`)
    full name   the name that a TF1 saver would use, one-to-one and in structural order
    name        the readable name; also one file's readable name against the other's full name
    variable    a slot goes with its variable: the same slot of paired variables
    content     dtype, shape and crc32c, unique on both sides and not constant: `renamed`

A key or path that is only a position in a list (`variables/3`, `layer-2/kernel`) does not count
where names contradict it.  Tensors that a file stores twice count once.  The object graph and other
strings of configuration are not aligned at all.  What stays undecided is listed, never guessed.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

from ckptkit._align_names import disordered, match_names, without_counters
from ckptkit._align_rules import Rule, apply_rules
from ckptkit._crc_combine import crc_of_repeated
from ckptkit.dtypes import itemsize
from ckptkit.names import Naming
from ckptkit.stores.base import TensorSpec

__all__ = ["Alignment", "Ambiguity", "Match", "Rule", "Side", "align", "align_content"]

_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_POSITION = re.compile(r"(?:^|[/-])\d+(?=/|$)")
_PRIVATE = re.compile(r"(?:^|(?<=/))_+(?=[a-z])")
_SLOT_NAMES = {"momentum": "m", "momentums": "m", "velocity": "v", "velocitys": "v"}
_COUNTER_NAMES = {"iter": "iterations", "_iterations": "iterations", "iteration": "iterations"}
_ONE = {"float32": b"\0\0\x80?", "float64": b"\0\0\0\0\0\0\xf0?", "bfloat16": b"\x80?"}


@dataclass(frozen=True)
class Side:
    """One file, as alignment sees it.

    specs, names: of all keys.  digests: crc32c of the values by key, where known beyond the index.
    constants: keys whose elements are all equal, where known beyond the index.
    """

    specs: Mapping[str, TensorSpec]
    names: Mapping[str, Naming]
    digests: Mapping[str, int] = field(default_factory=dict)
    constants: frozenset[str] = frozenset()

    @cached_property
    def duplicates(self) -> Mapping[str, str]:
        """{key: key of the tensor that it repeats}."""
        by_name = {naming.name: key for key, naming in self.names.items()}
        return {
            key: by_name[naming.duplicate_of]
            for key, naming in self.names.items()
            if naming.duplicate_of is not None and naming.duplicate_of in by_name
        }

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Keys that take part: no repeated tensors, no strings of configuration."""
        return tuple(
            key
            for key, spec in self.specs.items()
            if key not in self.duplicates
            and not (self.names[key].role == "config" and spec.dtype == "string")
        )

    @cached_property
    def weights(self) -> frozenset[str]:
        """Keys of the weights that take part."""
        return frozenset(key for key in self.keys if self.names[key].role == "weight")

    @cached_property
    def paths(self) -> Mapping[str, tuple[str, ...]]:
        """Object paths by key, those of the tensors that repeat it included.

        The keys of a name-based file are names, not paths.
        """
        found: dict[str, list[str]] = {key: [] for key in self.keys}
        for key in self.specs:
            original = self.duplicates.get(key, key)
            if original in found:
                own = [key.removesuffix(_SUFFIX)] if key.endswith(_SUFFIX) else []
                found[original] += [*own, *self.names[key].aliases]
        return {key: tuple(dict.fromkeys(paths)) for key, paths in found.items()}

    @cached_property
    def owners(self) -> Mapping[str, str]:
        """{key of a slot or average: key of its variable}."""
        by_name = {self.names[key].name: key for key in self.keys}
        return {
            key: by_name[owner]
            for key in self.keys
            for owner in (self.names[key].slot_of,)
            if owner is not None and owner in by_name
        }

    def digest(self, key: str) -> int | None:
        """Return the crc32c of the values, or None where it is not known."""
        spec = self.specs[key]
        if spec.dtype == "string" or spec.slices:
            return self.digests.get(key)
        return self.digests.get(key, spec.crc32c)

    def content(self, key: str) -> tuple[object, ...] | None:
        """Return what equal tensors share; None for constants and where nothing is known."""
        spec, digest = self.specs[key], self.digest(key)
        if digest is None or spec.size <= 1 or key in self.constants or _is_constant(spec, digest):
            return None
        return spec.dtype, spec.shape, digest


class Match(NamedTuple):
    """Two keys that belong together, and why."""

    old: str
    new: str
    evidence: str


class Ambiguity(NamedTuple):
    """Tensors that could be paired in more than one way; keys of either side."""

    old: tuple[str, ...]
    new: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Alignment:
    """The answer; keys throughout.

    pairs: found by anything but content.  renamed: found by content alone.  only_left, only_right:
    the rest, in file order.  ambiguous: which of those could not be decided.  dead_rules: rules
    that paired nothing.
    """

    pairs: tuple[Match, ...]
    renamed: tuple[Match, ...]
    only_left: tuple[str, ...]
    only_right: tuple[str, ...]
    ambiguous: tuple[Ambiguity, ...] = ()
    dead_rules: tuple[str, ...] = ()


def align(old: Side, new: Side, rules: Sequence[Rule] = ()) -> Alignment:
    """Pair the tensors of two files; raises UsageError when rules send two tensors to one."""
    return align_content(_Aligner(old, new).run(rules), old, new)


def align_content(alignment: Alignment, old: Side, new: Side) -> Alignment:
    """Pair what is left over by unique exact content, with the digests that the sides now have."""
    if not alignment.only_left or not alignment.only_right:
        return alignment
    groups: dict[tuple[object, ...], tuple[list[str], list[str]]] = {}
    free = (set(alignment.only_left), set(alignment.only_right))
    for at, side in enumerate((old, new)):
        for key in side.keys:
            content = side.content(key)
            if content is not None and key not in side.owners:
                groups.setdefault(content, ([], []))[at].append(key)
    renamed: list[Match] = []
    ambiguous = list(alignment.ambiguous)
    for left, right in groups.values():
        waiting = [k for k in left if k in free[0]], [k for k in right if k in free[1]]
        if not waiting[0] or not waiting[1]:
            continue
        if len(left) == len(right) == 1:
            renamed.append(Match(left[0], right[0], "content"))
        else:
            ambiguous.append(
                Ambiguity(tuple(waiting[0]), tuple(waiting[1]), "several have the same content")
            )
    done = {m.old for m in renamed}, {m.new for m in renamed}
    slots = _slots_of(old, new, renamed, free)
    done[0].update(m.old for m in slots)
    done[1].update(m.new for m in slots)
    return replace(
        alignment,
        renamed=(*alignment.renamed, *renamed),
        pairs=(*alignment.pairs, *slots),
        only_left=tuple(k for k in alignment.only_left if k not in done[0]),
        only_right=tuple(k for k in alignment.only_right if k not in done[1]),
        ambiguous=tuple(a for a in ambiguous if not (set(a.old) & done[0] or set(a.new) & done[1])),
    )


def _is_constant(spec: TensorSpec, digest: int) -> bool:
    """Whether the checksum is that of all zeros or all ones."""
    return digest in constant_digests(spec.dtype, spec.nbytes)


@lru_cache(maxsize=4096)
def constant_digests(dtype: str, nbytes: int) -> frozenset[int]:
    """Return the crc32c of that many bytes of zeros and of ones, as values of `dtype`."""
    width = itemsize(dtype)
    patterns = (bytes(width), _ONE.get(dtype, (1).to_bytes(width or 1, "little")))
    return frozenset(crc_of_repeated(p, nbytes) for p in patterns if len(p) == width)


class _Aligner:
    """Holds what is still free on either side while the evidence is gone through."""

    def __init__(self, old: Side, new: Side) -> None:
        self.old, self.new = old, new
        self.left = dict.fromkeys(old.keys)
        self.right = dict.fromkeys(new.keys)
        self.pairs: list[Match] = []
        self.ambiguous: list[Ambiguity] = []
        self.undecided: tuple[set[str], set[str]] = (set(), set())

    def run(self, rules: Sequence[Rule]) -> Alignment:
        matches = apply_rules(rules, self._labels(self.old), self._labels(self.new))
        for left, right, text in matches.pairs:
            self._pair(left, right, f"rule {text}")
        self._by_key()
        self._by_alias()
        self._below_root_child()
        self._by_names()
        self._by_shared_full_name()
        self._counters()
        for match in _slots_of(self.old, self.new, self.pairs, (self.left, self.right)):
            self._pair(*match)
        return Alignment(
            tuple(self.pairs),
            (),
            tuple(self.left),
            tuple(self.right),
            tuple(self.ambiguous),
            matches.dead,
        )

    # -- helpers ----------------------------------------------------------------------------------

    def _pair(self, left: str, right: str, evidence: str) -> None:
        if left in self.left and right in self.right:
            del self.left[left], self.right[right]
            self.pairs.append(Match(left, right, evidence))

    def _labels(self, side: Side) -> dict[str, list[str]]:
        """Names by which a rule may call a tensor."""
        return {
            key: [side.names[key].name, side.names[key].full_name or "", *side.paths[key]]
            for key in side.keys
        }

    def _fits(self, left: str, right: str) -> bool:
        one, two = self.old.specs[left], self.new.specs[right]
        return one.dtype == two.dtype and one.shape == two.shape

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
            key for one, two in families.values() if one and two and one != two for key in one & two
        }

    def _by_alias(self) -> None:
        left, right = self._free()
        self._by_paths(
            {key: self.old.paths[key] for key in left},
            {key: self.new.paths[key] for key in right},
            "alias",
        )

    def _by_paths(
        self,
        left: Mapping[str, Iterable[str]],
        right: Mapping[str, Iterable[str]],
        evidence: str,
    ) -> None:
        """Pair keys that share a path, where each is the other's only one."""
        for one, two in _shared_paths(left, right):
            roles = {self.old.names[one].role, self.new.names[two].role}
            if (len(roles) == 1 or "other" in roles) and not self._contradicted(one, two):
                self._pair(one, two, evidence)

    def _below_root_child(self) -> None:
        """Try `x/...` against `y/...` and `...`, and keep the roots that pair most weights."""
        weights = min(len(side.weights) for side in (self.old, self.new))
        left, right = self._free()
        sides = (
            {k: self.old.paths[k] for k in left if k in self.old.weights},
            {k: self.new.paths[k] for k in right if k in self.new.weights},
        )
        best: tuple[int, int, str, str] | None = None
        for one in _heads(sides[0], weights):
            for two in _heads(sides[1], weights):
                if one == two:
                    continue
                shared = _shared_paths(_below(sides[0], one), _below(sides[1], two))
                count = sum(self._fits(*pair) for pair in shared)
                rank = (count, -one.count("/") - two.count("/"), one, two)
                if best is None or rank[:2] > best[:2]:
                    best = rank
        if best is None or best[0] * 2 <= weights:
            return
        self._by_paths(_below(sides[0], best[2]), _below(sides[1], best[3]), "path")
        left, right = self._free()
        rest = {k: self.old.paths[k] for k in left}, {k: self.new.paths[k] for k in right}
        self._by_paths(_below(rest[0], best[2]), _below(rest[1], best[3]), "path")

    def _by_names(self) -> None:
        full: Callable[[Naming], str] = lambda naming: naming.full_name or ""  # noqa: E731
        name: Callable[[Naming], str] = lambda naming: naming.name  # noqa: E731
        for one, two, evidence in (
            (full, full, "full name"),
            (name, name, "name"),
            (full, name, "name"),
            (name, full, "name"),
        ):
            self._by_one_name(one, two, evidence)

    def _by_one_name(
        self, one: Callable[[Naming], str], two: Callable[[Naming], str], evidence: str
    ) -> None:
        left = _unique(self._free()[0], self.old, one)
        right = _unique(self._free()[1], self.new, two)
        matches = match_names(left, right, self._fit)
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
        contents = defaultdict(list)
        for key in right:
            contents[self.new.content(key)].append(key)
        own = Counter(self.old.content(key) for key in left)
        for key in left:
            content = self.old.content(key)
            if content is not None and own[content] == len(contents[content]) == 1:
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


def _label(naming: Naming) -> str:
    return naming.full_name or naming.name


def _unique(keys: Iterable[str], side: Side, name: Callable[[Naming], str]) -> dict[str, str]:
    """Return {name: key} for the names that only one key has."""
    found: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        found[name(side.names[key])].append(key)
    return {label: same[0] for label, same in found.items() if label and len(same) == 1}


def _shared_paths(
    left: Mapping[str, Iterable[str]], right: Mapping[str, Iterable[str]]
) -> list[tuple[str, str]]:
    """Return the pairs of keys that share a path, where each is the other's only one."""
    at = {path: key for key, paths in right.items() for path in paths}
    found = {key: {at[path] for path in paths if path in at} for key, paths in left.items()}
    back = Counter(other for others in found.values() for other in others)
    return [
        (key, other)
        for key, others in found.items()
        if len(others) == 1
        for other in others
        if back[other] == 1
    ]


def _heads(paths: Mapping[str, Iterable[str]], weights: int) -> list[str]:
    """Return "" and the first one and two steps that more than half of the weights lie below."""
    counts: Counter[str] = Counter()
    for some in paths.values():
        heads: set[str] = set()
        for path in some:
            steps = path.split("/")
            heads.update("/".join(steps[:depth]) + "/" for depth in (1, 2) if len(steps) > depth)
        counts.update(heads)
    large = [head for head, count in counts.items() if count * 2 > weights]
    return ["", *sorted(large, key=lambda head: (head.count("/"), head))]


def _below(paths: Mapping[str, Iterable[str]], head: str) -> dict[str, list[str]]:
    """Return the paths below `head`; `_layers` and `layers` are one edge (Keras keeps both)."""
    return {
        key: [_PRIVATE.sub("", path[len(head) :]) for path in some if path.startswith(head)]
        for key, some in paths.items()
    }


def _slots_of(
    old: Side,
    new: Side,
    pairs: Iterable[Match],
    free: tuple[Iterable[str], Iterable[str]],
) -> list[Match]:
    """Pair the slots and averages of paired variables, by the slot's name."""
    partner = {match.old: match.new for match in pairs}
    groups: dict[tuple[str, str, str], tuple[list[str], list[str]]] = {}
    free = set(free[0]), set(free[1])
    for at, side in enumerate((old, new)):
        for key, owner in side.owners.items():
            to = partner.get(owner) if at == 0 else owner
            if key in free[at] and to is not None:
                naming = side.names[key]
                slot = _SLOT_NAMES.get(naming.slot or "", naming.slot or "")
                groups.setdefault((to, naming.role, slot), ([], []))[at].append(key)
    found: list[Match] = []
    for left, right in groups.values():
        if len(left) == len(right) == 1:
            found.append(Match(left[0], right[0], "variable"))
            continue
        optimizers = {new.names[key].optimizer: key for key in right}
        for key in left:  # two optimizers train one variable
            optimizer = old.names[key].optimizer
            if optimizer is not None and optimizer in optimizers:
                found.append(Match(key, optimizers[optimizer], "variable"))
    return found
