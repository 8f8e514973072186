"""Which tensors of a file are meant: filters that every listing and comparison shares."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from operator import eq
from typing import Any, NamedTuple, overload

from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.name_patterns import glob_matcher
from ckptkit.checkpoint.naming import ROLES, Naming
from ckptkit.checkpoint.packed_names import PackedNames
from ckptkit.errors import UsageError
from ckptkit.stores.base import TensorSpec
from ckptkit.stores.packed_specs import PackedSpecs
from ckptkit.text import naturals


class Tensor(NamedTuple):
    """One tensor of a file: what lies there, and what it is called."""

    spec: TensorSpec
    naming: Naming

    @property
    def is_housekeeping(self) -> bool:
        """Whether it is TensorFlow's own record (object graph, save counter), of no use to read."""
        return (  # of one of `_RECORDS`
            self.naming.name == "save_counter"
            if self.naming.role == "counter"
            else self.naming.role == "config" and self.spec.dtype == "string"
        )


# Makes a tensor of a pair, without a call of Python's.
_tensor: Callable[[tuple[TensorSpec, Naming]], Tensor] = partial(tuple.__new__, Tensor)
_RECORDS = ("counter", "config")  # roles of what may be housekeeping
_TOGETHER = 4096  # names that are looked at together
_KEPT = 200_000  # tensors of a file, 1.5 kB each


class Tensors(Sequence[Tensor]):
    """Tensors of a file, by their keys; of many, each is put together when it is asked for.

    Of a file that is packed the keys are numbers, those of its rows.  They pickle to the tensors
    themselves, or to what is packed, so that a listing can go to another process.
    """

    def __init__(
        self,
        keys: Sequence[Any],
        tensor_of: Callable[[Any], Tensor],
        made: list[Tensor] | None = None,
    ) -> None:
        self._keys, self._tensor_of = keys, tensor_of
        self._made = made
        if made is None and len(keys) <= _KEPT:
            self._made = [tensor_of(key) for key in keys]

    def __reduce__(self) -> tuple[Any, ...]:
        if self._made is None and isinstance(self._tensor_of, _OfRow):
            return Tensors, (self._keys, self._tensor_of)
        return _kept, (list(self),)

    def kinds(self) -> Iterator[tuple[Tensor, Sequence[int]]]:
        """Yield a first tensor of each kind, and the places of all of that kind.

        They differ in name, key, place and checksum alone, and in which other tensor they belong
        to.  Where tensors are kept as they are, each is a kind of its own.
        """
        if self._made is None and isinstance(self._tensor_of, _OfRow):
            for places in self._tensor_of.kinds(self._keys):
                yield self[places[0]], places
        else:
            for at, tensor in enumerate(self):
                yield tensor, (at,)

    def without_housekeeping(self) -> Tensors:
        """Return those that are none of TensorFlow's own records, in this order."""
        left_out = {
            at
            for tensor, places in self.kinds()
            if tensor.naming.role in _RECORDS
            for at in places
            if self[at].is_housekeeping
        }
        if not left_out:
            return self
        return self.at([at for at in range(len(self)) if at not in left_out])

    def ordered(self, key: Callable[[Tensor], Any]) -> Tensors:
        """Return them sorted by a key."""
        return self._sorted_by([key(tensor) for tensor in self])

    def by_name(self) -> Tensors:
        """Return them in natural order of their names."""
        if self._made is None and isinstance(self._tensor_of, _OfRow):
            names = self._tensor_of.names_of(self._keys)
        else:
            names = (naming.name for _spec, naming in self)
        sort_keys: list[str] = []
        while some := list(islice(names, _TOGETHER)):
            sort_keys += naturals(some)
        return self._sorted_by(sort_keys)

    def _sorted_by(self, sort_keys: list[Any]) -> Tensors:
        places = sorted(range(len(sort_keys)), key=sort_keys.__getitem__)
        return self if all(map(eq, places, range(len(places)))) else self.at(places)

    def at(self, places: Sequence[int]) -> Tensors:
        """Return those at some places, in that order."""
        keys, made = self._keys, self._made
        its = None if made is None else [made[at] for at in places]
        some: Sequence[Any] = [keys[at] for at in places]
        if isinstance(keys, (array, range)):
            some = array("I", some)
        return Tensors(some, self._tensor_of, its)

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> Tensors: ...
    def __getitem__(self, index: int | slice) -> Tensor | Tensors:
        if isinstance(index, slice):
            return self.at(range(len(self))[index])
        return self._tensor_of(self._keys[index]) if self._made is None else self._made[index]

    def __iter__(self) -> Iterator[Tensor]:
        if self._made is not None:
            return iter(self._made)
        if isinstance(self._tensor_of, _OfRow):
            return self._tensor_of.each(self._keys)
        return map(self._tensor_of, self._keys)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} tensors>"


@dataclass(frozen=True, slots=True)
class _OfRow:
    """Puts a tensor of a packed file together."""

    specs: PackedSpecs
    names: PackedNames

    def __call__(self, row: int) -> Tensor:
        return Tensor(self.specs.at(row), self.names.at(row))

    def each(self, rows: Sequence[int]) -> Iterator[Tensor]:
        """Yield those of some rows, faster than one by one."""
        if rows == range(len(self.specs)):
            return map(_tensor, zip(self.specs.values(), self.names.values(), strict=True))
        return map(_tensor, zip(self.specs.some(rows), self.names.some(rows), strict=True))

    def names_of(self, rows: Sequence[int]) -> Iterator[str]:
        """Yield the names of some rows."""
        if rows == range(len(self.specs)):
            return self.names.names()
        return (naming.name for naming in self.names.some(rows))

    def kinds(self, rows: Sequence[int]) -> Iterable[array[int]]:
        """Return where among some rows those of each kind are; one kept whole is its own kind."""
        spec_form, name_form = self.specs.form_of, self.names.form_of
        found: dict[tuple[int, int], array[int]] = {}
        for at, row in enumerate(rows):
            kind = spec_form[row], name_form[row]
            if min(kind) < 0:
                kind = -1, at
            places = found.get(kind)
            if places is None:
                places = found[kind] = array("I")
            places.append(at)
        return found.values()


def _kept(tensors: list[Tensor]) -> Tensors:
    """Return tensors that are kept as they are."""
    return Tensors(range(len(tensors)), tensors.__getitem__, tensors)


@dataclass(frozen=True, slots=True)
class Selection:
    """A filter.  Empty parts let everything pass.

    roles: of `names.ROLES`.  names: globs over names, keys and full names, or their ends behind a
    "/"; "!GLOB" excludes.
    dtypes: exact dtype names.  A plain string stands for a list of one.
    """

    roles: Sequence[str] = ()
    names: Sequence[str] = ()
    dtypes: Sequence[str] = ()

    def __post_init__(self) -> None:
        for part in ("roles", "names", "dtypes"):
            if isinstance(getattr(self, part), str):
                object.__setattr__(self, part, (getattr(self, part),))
        unknown = [role for role in self.roles if role not in ROLES]
        if unknown:
            raise UsageError(f"no role {unknown[0]!r}", hint=f"roles are {', '.join(ROLES)}")

    def __bool__(self) -> bool:
        return bool(self.roles or self.names or self.dtypes)

    def _hint(self, checkpoint: Checkpoint) -> str:
        """Return what to try when nothing passes: the dtypes there are, where none was asked."""
        there = {spec.dtype for spec in checkpoint.specs.values()}
        if self.dtypes and there.isdisjoint(self.dtypes):
            return f"its dtypes are {', '.join(sorted(there))}"
        for glob in self.names:
            if glob[:1] != "!" and not any(map(glob_matcher(glob), checkpoint)):
                return checkpoint.nearest(glob)
        return "`ckptkit ls` without a filter lists them"

    def of(self, checkpoint: Checkpoint) -> Tensors:
        """Return the tensors that pass, in the order of the file.

        Raises UsageError when a filter leaves nothing of a file that holds something.
        """
        if not self:
            return _all_of(checkpoint)
        wanted = [glob_matcher(glob) for glob in self.names if glob[:1] != "!"]
        unwanted = [glob_matcher(glob[1:]) for glob in self.names if glob[:1] == "!"]
        roles, dtypes = frozenset(self.roles), frozenset(self.dtypes)
        specs = checkpoint.specs
        tensors = _all_of(checkpoint)
        passing: list[int] = []
        for at, (spec, naming) in enumerate(tensors):
            key = spec.key
            if (roles and naming.role not in roles) or (dtypes and spec.dtype not in dtypes):
                continue
            if self.names:
                called = {naming.name, key, naming.full_name or naming.name}
                if wanted and not any(match(name) for match in wanted for name in called):
                    continue
                if any(match(name) for match in unwanted for name in called):
                    continue
            passing.append(at)
        if not passing and specs:
            raise UsageError(
                f"no tensor passes the filter; the file holds {len(specs)}",
                where=str(checkpoint.path),
                hint=self._hint(checkpoint),
            )
        return tensors.at(passing)


def _all_of(checkpoint: Checkpoint) -> Tensors:
    """Return the tensors of a file in the order of the file."""
    specs, names = checkpoint.specs, checkpoint.names
    if isinstance(specs, PackedSpecs) and isinstance(names, PackedNames):
        return Tensors(range(len(specs)), _OfRow(specs, names))

    def of_key(key: str) -> Tensor:
        return Tensor(specs[key], names[key])

    made = None
    if len(names) <= _KEPT:
        pairs = zip(map(specs.__getitem__, names), names.values(), strict=True)
        made = list(map(_tensor, pairs))
    return Tensors(tuple(names), of_key, made)


def tensor_json(spec: TensorSpec, naming: Naming) -> dict[str, Any]:
    """Return the JSON row of one tensor; crc32c is eight hexadecimal digits, unmasked."""
    return {
        "key": spec.key,
        "name": naming.name,
        "full_name": naming.full_name,
        "aliases": naming.aliases,
        "role": naming.role,
        "role_inferred": naming.role_inferred,
        "slot_of": naming.slot_of,
        "slot": naming.slot,
        "duplicate_of": naming.duplicate_of,
        "dtype": spec.dtype,
        "shape": spec.shape,
        "params": spec.size,
        "bytes": spec.nbytes,
        "shard": spec.shard,
        "offset": spec.offset,
        "crc32c": None if spec.crc32c is None else f"{spec.crc32c:08x}",
        "slices": len(spec.slices),
    }
