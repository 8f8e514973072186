"""Which tensors of a file are meant: filters that every listing and comparison shares."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.name_patterns import glob_matcher
from ckptkit.checkpoint.naming import ROLES, Naming
from ckptkit.checkpoint.packed_names import PackedNames
from ckptkit.errors import UsageError
from ckptkit.stores.base import TensorSpec
from ckptkit.stores.packed_specs import PackedSpecs


class Tensor(NamedTuple):
    """One tensor of a file: what lies there, and what it is called."""

    spec: TensorSpec
    naming: Naming

    @property
    def is_housekeeping(self) -> bool:
        """Whether it is TensorFlow's own record (object graph, save counter), of no use to read."""
        return (
            self.naming.name == "save_counter"
            if self.naming.role == "counter"
            else self.naming.role == "config" and self.spec.dtype == "string"
        )


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
        *,
        each: Callable[[], Iterator[Tensor]] | None = None,
    ) -> None:
        self._keys, self._tensor_of = keys, tensor_of
        self._each = each  # goes over all of these faster
        self._made = made
        if made is None and len(keys) <= _KEPT:
            self._made = [tensor_of(key) for key in keys]

    def __reduce__(self) -> tuple[Any, ...]:
        if self._made is None and isinstance(self._tensor_of, _OfRow):
            return _packed, (self._keys, self._tensor_of, self._each is not None)
        return _kept, (list(self),)

    def where(self, passes: Callable[[Tensor], bool]) -> Tensors:
        """Return those that pass, in this order."""
        return self.at([at for at, tensor in enumerate(self) if passes(tensor)])

    def ordered(self, key: Callable[[Tensor], Any]) -> Tensors:
        """Return them sorted by a key."""
        sort_keys = [key(tensor) for tensor in self]
        return self.at(sorted(range(len(sort_keys)), key=sort_keys.__getitem__))

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
        return map(self._tensor_of, self._keys) if self._each is None else self._each()

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

    def each(self) -> Iterator[Tensor]:
        """Yield those of all rows."""
        return map(Tensor, self.specs.values(), self.names.values())


def _packed(rows: Sequence[int], of_row: _OfRow, is_whole: bool) -> Tensors:
    """Return the tensors of some rows; is_whole: they are all, in order."""
    return Tensors(rows, of_row, each=of_row.each if is_whole else None)


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
        return _packed(range(len(specs)), _OfRow(specs, names), True)

    def of_key(key: str) -> Tensor:
        return Tensor(specs[key], names[key])

    made = [Tensor(specs[k], n) for k, n in names.items()] if len(names) <= _KEPT else None
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
