"""Which tensors of a file are meant: filters that every listing and comparison shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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

    def of(self, checkpoint: Checkpoint) -> list[Tensor]:
        """Return the tensors that pass, in the order of the file.

        Raises UsageError when a filter leaves nothing of a file that holds something.
        """
        if not self:
            specs = checkpoint.specs
            return [Tensor(specs[key], naming) for key, naming in checkpoint.names.items()]
        wanted = [glob_matcher(glob) for glob in self.names if glob[:1] != "!"]
        unwanted = [glob_matcher(glob[1:]) for glob in self.names if glob[:1] == "!"]
        roles, dtypes = frozenset(self.roles), frozenset(self.dtypes)
        specs = checkpoint.specs
        passing = []
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
            passing.append(Tensor(spec, naming))
        if not passing and specs:
            raise UsageError(
                f"no tensor passes the filter; the file holds {len(specs)}",
                where=str(checkpoint.path),
                hint=self._hint(checkpoint),
            )
        return passing


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
