"""Which tensors of a file are meant: filters that every listing and comparison shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.name_patterns import glob_matcher
from ckptkit.checkpoint.naming import ROLES, Naming
from ckptkit.errors import UsageError
from ckptkit.stores.base import TensorSpec


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
    """Tensors of a file, by their keys; of many, each is put together when it is asked for."""

    def __init__(
        self,
        keys: Sequence[str],
        specs: Mapping[str, TensorSpec],
        names: Mapping[str, Naming],
        made: list[Tensor] | None = None,
        *,
        is_whole: bool = False,
    ) -> None:
        self._keys, self._specs, self._names = keys, specs, names
        self._is_whole = is_whole  # all that have names, in the order of the names
        self._made = made
        if made is None and len(keys) <= _KEPT:
            self._made = [Tensor(specs[key], names[key]) for key in keys]

    def where(self, passes: Callable[[Tensor], bool]) -> Tensors:
        """Return those that pass, in this order."""
        made, specs, names = self._made, self._specs, self._names
        if made is not None:
            made = [tensor for tensor in made if passes(tensor)]
            return Tensors([tensor.spec.key for tensor in made], specs, names, made)
        return Tensors([tensor.spec.key for tensor in self if passes(tensor)], specs, names)

    def ordered(self, key: Callable[[Tensor], Any]) -> Tensors:
        """Return them sorted by a key."""
        made, specs, names = self._made, self._specs, self._names
        if made is not None:
            made = sorted(made, key=key)
            return Tensors([tensor.spec.key for tensor in made], specs, names, made)
        keys = sorted(self._keys, key=lambda k: key(Tensor(specs[k], names[k])))
        return Tensors(keys, specs, names)

    def _of(self, places: Sequence[int]) -> Tensors:
        keys, made = self._keys, self._made
        its = None if made is None else [made[at] for at in places]
        return Tensors([keys[at] for at in places], self._specs, self._names, its)

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> Tensors: ...
    def __getitem__(self, index: int | slice) -> Tensor | Tensors:
        if isinstance(index, slice):
            return self._of(range(len(self))[index])
        if self._made is not None:
            return self._made[index]
        key = self._keys[index]
        return Tensor(self._specs[key], self._names[key])

    def __iter__(self) -> Iterator[Tensor]:
        if self._made is not None:
            return iter(self._made)
        specs, names = self._specs, self._names
        if self._is_whole:
            return (Tensor(specs[key], naming) for key, naming in names.items())
        return (Tensor(specs[key], names[key]) for key in self._keys)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} tensors>"


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
            specs, names = checkpoint.specs, checkpoint.names
            made = [Tensor(specs[k], n) for k, n in names.items()] if len(names) <= _KEPT else None
            return Tensors(tuple(names), specs, names, made, is_whole=True)
        wanted = [glob_matcher(glob) for glob in self.names if glob[:1] != "!"]
        unwanted = [glob_matcher(glob[1:]) for glob in self.names if glob[:1] == "!"]
        roles, dtypes = frozenset(self.roles), frozenset(self.dtypes)
        specs = checkpoint.specs
        passing: list[str] = []
        for key, naming in checkpoint.names.items():
            spec = specs[key]
            if (roles and naming.role not in roles) or (dtypes and spec.dtype not in dtypes):
                continue
            if self.names:
                called = {naming.name, key, naming.full_name or naming.name}
                if wanted and not any(match(name) for match in wanted for name in called):
                    continue
                if any(match(name) for match in unwanted for name in called):
                    continue
            passing.append(key)
        if not passing and specs:
            raise UsageError(
                f"no tensor passes the filter; the file holds {len(specs)}",
                where=str(checkpoint.path),
                hint=self._hint(checkpoint),
            )
        return Tensors(passing, specs, checkpoint.names)


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
