"""The values that alignment takes and gives."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple

from ckptkit._io.crc32c import crc_of_repeated
from ckptkit.align.name_tree import places
from ckptkit.checkpoint.naming import Naming
from ckptkit.dtypes import itemsize
from ckptkit.stores.base import KerasStructure, Structure, TensorSpec

_WHOLE_MODEL = "model_weights/"  # where `.h5` files of whole models keep their layers
PATH_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_ONE = {"float32": b"\0\0\x80?", "float64": b"\0\0\0\0\0\0\xf0?", "bfloat16": b"\x80?"}


@dataclass(frozen=True)
class TensorSet:
    """The tensors of one file, as alignment sees them.

    specs, names: of all keys.  digests: crc32c of the values by key, where known beyond the index.
    constants: keys whose elements are all equal, where known beyond the index.
    by_chance: keys whose checksums others have by chance.
    structure: what the file says of objects and their order, beyond names.
    """

    specs: Mapping[str, TensorSpec]
    names: Mapping[str, Naming]
    digests: Mapping[str, int] = field(default_factory=dict)
    constants: frozenset[str] = frozenset()
    by_chance: frozenset[str] = frozenset()
    structure: Structure = None

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
        paths_by_key: dict[str, list[str]] = {key: [] for key in self.keys}
        for key in self.specs:
            original = self.duplicates.get(key, key)
            if original in paths_by_key:
                object_path = [key.removesuffix(PATH_SUFFIX)] if key.endswith(PATH_SUFFIX) else []
                paths_by_key[original] += [*object_path, *self.names[key].aliases]
        return {key: tuple(dict.fromkeys(paths)) for key, paths in paths_by_key.items()}

    @cached_property
    def _places(self) -> dict[str, Mapping[str, int]]:
        return {}

    def places(self, key: str) -> Mapping[str, int]:
        """Return {list: position} for every list that an object path of `key` goes through.

        The layers of a Keras file are such a list, too.
        """
        if key not in self._places:
            place = self._layer_places.get(key)
            layer = {} if place is None else {"(layers)": place}
            self._places[key] = places(self.paths[key]) | layer
        return self._places[key]

    @cached_property
    def _layer_places(self) -> Mapping[str, int]:
        """Where in the order of the model's layers each weight of a Keras file belongs.

        A legacy file lists what is trainable first within each of its layers (a nested model is one
        of them), which is no order of layers: there, only the layers themselves have places.
        """
        structure = self.structure
        if not isinstance(structure, KerasStructure):
            return {}
        if structure.layers:
            return {key: place for place, (key, _) in enumerate(structure.order)}
        groups = {key: key.removeprefix(_WHOLE_MODEL).split("/")[0] for key in structure.variables}
        order = {group: place for place, group in enumerate(dict.fromkeys(groups.values()))}
        return {key: order[group] for key, group in groups.items()}

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

    def content(self, key: str) -> Content | None:
        """Return what equal tensors share; None for constants and where nothing is known."""
        if key in self.constants or key in self.by_chance:
            return None
        return content_of(self.specs[key], self.digest(key))

    def contents(self) -> Iterator[tuple[str, Content | None]]:
        """Yield the keys that take part, and the content of each."""
        return ((key, self.content(key)) for key in self.keys)


Content = tuple[str, tuple[int, ...], int]
"""What equal tensors share: dtype, shape and crc32c."""


def content_of(spec: TensorSpec, digest: int | None) -> Content | None:
    """Return what equal tensors share; None for constants and where no digest is known."""
    if digest is None or spec.size <= 1 or digest in constant_digests(spec.dtype, spec.nbytes):
        return None
    return spec.dtype, spec.shape, digest


def unique_contents(
    old: Iterable[tuple[str, Content | None]], new: Iterable[tuple[str, Content | None]]
) -> dict[str, str]:
    """Return {key of OLD: key of NEW} for contents that one tensor of either side has."""
    groups: dict[Content, tuple[list[str], list[str]]] = {}
    for at, side in enumerate((old, new)):
        for key, content in side:
            if content is not None:
                groups.setdefault(content, ([], []))[at].append(key)
    return {left[0]: right[0] for left, right in groups.values() if len(left) == len(right) == 1}


def may_be_chance(found: int, changed: int) -> bool:
    """Whether so many pairs of equal checksums of 32 bits are what chance gives.

    Of a hundred thousand tensors that changed, two or three have the checksum of another.
    """
    expected = changed * changed / (1 << 32)
    return found <= expected + 5 * math.sqrt(expected)


# What a pairing may rest on; `basis` says which of these a piece of evidence is.
BASES = ("key", "rule", "structure", "name", "order", "content", "variable")
_BASIS_OF_FIRST_WORD = {"alias": "structure", "path": "structure", "full": "name", "place": "order"}


def basis(evidence: str) -> str:
    """Return what a piece of evidence comes down to.

    Args:
        evidence: as `Match` has it.

    Returns:
        One of BASES: "key", the same key in both files; "rule", a person said so; "structure", a
        path through objects; "name"; "order", a number or a place in a list; "content", equal
        values; "variable", a slot goes with its variable.  Any other word is returned as it is.
    """
    words = evidence.replace(",", "").split()
    if not words:
        return ""
    if words[0] != "rule" and words[-1] in ("renumbered", "order"):
        return "order"
    if words[0] != "rule" and words[-1] == "content":
        return "content"
    return _BASIS_OF_FIRST_WORD.get(words[0], words[0])


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
    unused_rules: tuple[str, ...] = ()


@lru_cache(maxsize=4096)
def constant_digests(dtype: str, nbytes: int) -> frozenset[int]:
    """Return the crc32c of that many bytes of zeros and of ones, as values of `dtype`."""
    width = itemsize(dtype)
    patterns = (bytes(width), _ONE.get(dtype, (1).to_bytes(width or 1, "little")))
    return frozenset(crc_of_repeated(p, nbytes) for p in patterns if len(p) == width)
