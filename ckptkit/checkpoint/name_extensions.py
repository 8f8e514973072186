"""Names that extend other names of a file: what is one tensor's name and something more.

    segment   `w/Adam_1`, `training/Adagrad/w/accumulator`     a scope, the name, one segment
    word      `w_slot_vr`, `Adam/w_m`                          a scope, the name, a word
    flat      `adam/dense_kernel_momentum`                     a scope, the name with "_" for "/"
    scope     `Adam/m/w`, `ema/w`                              a scope, the name

Extensions alike in way, scope and ending are a *family*: `inferred_roles` judges what these are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import islice
from typing import NamedTuple

from ckptkit.stores.base import TensorSpec
from ckptkit.stores.packed_specs import PackedSpecs
from ckptkit.stores.packed_texts import PackedTexts
from ckptkit.text import lazy_pattern

_PART = lazy_pattern(r"part_\d+")
_INTEGERS = lazy_pattern(r"q?u?int\d+")


class Extension(NamedTuple):
    """A name, the name that it extends, and how their shapes relate."""

    name: str
    owner: str
    relation: str  # "same", "row", "column", "part", "scalar" or "other"


class Family(NamedTuple):
    """What extensions of many names have in common."""

    way: str  # "segment", "word", "flat" or "scope"
    scope: str  # what comes before the variable's name, with its "/", or ""
    ending: str  # the segment or word after it, or ""


class _KnownNames:
    """The names of a file, for looking up what another name extends."""

    def __init__(self, specs: Mapping[str, TensorSpec]) -> None:
        """heads: the first segments of all names."""
        self.specs = specs
        self.heads = frozenset(name.partition("/")[0] for name in specs)
        self._scope: tuple[str | None, list[int], tuple[int, str] | None] = None, [], None

    def flattened(self, text: str) -> str | None:
        """Return the one name that reads so with "_" for "/"."""
        if isinstance(self.specs, PackedSpecs):
            return self._packed_flat.get(text)
        names = self._flat.get(text, ())
        return names[0] if len(names) == 1 else None

    @cached_property
    def _packed_flat(self) -> _PackedFlatNames:
        return _PackedFlatNames(self.specs)

    @cached_property
    def _flat(self) -> Mapping[str, Sequence[str]]:
        flat: dict[str, list[str]] = defaultdict(list)
        for name in self.specs:
            if "/" in name:
                flat[name.replace("/", "_")].append(name)
        return flat

    @cached_property
    def flat_heads(self) -> frozenset[str]:
        """The first words of names with "_" for "/"."""
        return frozenset(
            name.replace("/", "_").partition("_")[0] for name in self.specs if "/" in name
        )

    def scope(self, above: str) -> tuple[list[int], tuple[int, str] | None]:
        """Return, of what is before a name's last "/", where another name may begin in it.

        And (start, name) of the longest that ends where it ends.  The last answer is kept: the
        names of a scope follow each other.
        """
        known, starts, owner = self._scope
        if known != above:
            starts = _starts(above, self.heads)
            owner = self._owner(above, starts)
            self._scope = above, starts, owner
        return starts, owner

    def _owner(self, above: str, starts: Sequence[int]) -> tuple[int, str] | None:
        for start in starts:  # w/Adam
            owner = above[start:]
            if owner in self.specs:
                return start, owner
            whole, _, last = owner.rpartition("/")  # of a part of a variable that is stored whole
            if "part_" in last and _PART.fullmatch(last) and whole in self.specs:
                return start, whole
        return None


class _PackedFlatNames:
    """The names of packed specs with "_" for "/"."""

    def __init__(self, specs: Mapping[str, TensorSpec]) -> None:
        self._names = PackedTexts(name for name in specs if "/" in name)
        self._flat = PackedTexts(name.replace("/", "_") for name in self._names)
        self._several = frozenset(self._flat.repeated())

    def get(self, text: str) -> str | None:
        """Return the one name that reads so."""
        row = None if text in self._several else self._flat.find(text)
        return None if row is None else self._names[row]


def extension_families(specs: Mapping[str, TensorSpec]) -> dict[Family, list[Extension]]:
    """Return the extensions of other tensors' names, in families."""
    names = _KnownNames(specs)
    families: dict[Family, list[Extension]] = defaultdict(list)
    for name, spec in specs.items():
        for way, scope, ending, owner in _extensions(name, names):
            relation = _relation(spec, specs[owner])
            families[Family(way, scope, ending)].append(Extension(name, owner, relation))
    return families


def _extensions(name: str, names: _KnownNames) -> list[tuple[str, str, str, str]]:
    """Return (way, scope, ending, owner) of the longest owner of each way."""
    found: list[tuple[str, str, str, str]] = []
    above, slash, last = name.rpartition("/")
    starts = [0]
    if slash:
        starts, owner = names.scope(above)
        if last in names.heads:
            starts = [*starts, len(above) + 1]
        if owner is not None:
            found.append(("segment", name[: owner[0]], last, owner[1]))
        for start in starts[1:]:  # Adam/m/w
            if name[start:] in names.specs:
                found.append(("scope", name[:start], "", name[start:]))
                break
    if "_" in last:
        found += _extensions_by_word(name, names, starts)
    return found


def _starts(name: str, heads: Container[str]) -> list[int]:
    """Return where in `name` another name may begin: at 0, and after a scope."""
    starts, at = [0], 0
    before, *others = name.split("/")
    for segment in others:
        at += len(before) + 1
        if segment in heads:
            starts.append(at)
        before = segment
    return starts


def _extensions_by_word(
    name: str, names: _KnownNames, starts: Sequence[int]
) -> Iterator[tuple[str, str, str, str]]:
    end = name.rfind("/") + 1
    cuts = [
        cut
        for cut in range(len(name) - 2, end, -1)
        if name[cut] == "_" and not name[cut + 1 :].isdecimal()
    ]
    words = (
        ("word", name[:start], name[cut + 1 :], name[start:cut])
        for cut in cuts  # w_slot_vr
        for start in (starts if name[end:cut] not in names.heads else sorted({*starts, end}))
        if name[start:cut] in names.specs
    )
    yield from islice(words, 1)
    if end and name[end:].partition("_")[0] in names.flat_heads:
        flat = (
            ("flat", name[:end], name[cut + 1 :], owner)
            for cut in cuts  # adam/dense_kernel_momentum
            for owner in (names.flattened(name[end:cut]),)
            if owner is not None
        )
        yield from islice(flat, 1)


def _relation(spec: TensorSpec, owner: TensorSpec) -> str:
    """Return how a shape relates to that of the variable it may belong to."""
    shape, whole = spec.shape, owner.shape
    if is_integer(spec) != is_integer(owner) or (spec.dtype == "bool") != (owner.dtype == "bool"):
        return "scalar" if shape == () else "other"
    if shape == whole:
        return "same"
    if shape == ():
        return "scalar"
    if len(whole) > 1:
        if shape == whole[:-1]:
            return "row"
        if shape == (*whole[:-2], whole[-1]):
            return "column"
    differing = [(a, b) for a, b in zip(shape, whole, strict=False) if a != b]
    is_part = len(shape) == len(whole) and len(differing) == 1 and differing[0][0] < differing[0][1]
    return "part" if is_part and _PART.search(spec.key) else "other"


def is_integer(spec: TensorSpec) -> bool:
    """Whether the elements are integers; booleans are none."""
    return _is_integer_dtype(spec.dtype)


@lru_cache(maxsize=256)
def _is_integer_dtype(dtype: str) -> bool:
    return _INTEGERS.fullmatch(dtype) is not None
