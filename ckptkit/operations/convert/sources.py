"""The tensors of SRC that take part, and where the values of each come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from ckptkit.align.matching import TensorSet, align
from ckptkit.align.transforms import Transform
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.selection import Selection, Tensor
from ckptkit.dtypes import kind
from ckptkit.errors import UsageError
from ckptkit.operations.convert.plan import Fill, Piece, Problem, Request, Skipped
from ckptkit.operations.convert.value_stores import Origin, average, cast, moved
from ckptkit.stores.base import StoredNames, TensorSpec
from ckptkit.stores.writing import TensorToWrite

_CAST_ROLES = frozenset({"weight", "ema", "slot"})
_AVERAGED_ROLES = frozenset({"weight", "ema"})


class Move(NamedTuple):
    """What a map rule makes of tensors of SRC: (key, transform) of each, and the rule's text."""

    pieces: tuple[tuple[str, Transform], ...]
    text: str

    @property
    def is_whole(self) -> bool:
        """Whether one tensor of SRC becomes one tensor."""
        (_, transform), *more = self.pieces
        return not more and transform.part is None and transform.into is None


@dataclass
class Sources:
    """SRC as the request narrows it; several checkpoints count as their average."""

    checkpoints: Sequence[Checkpoint]
    request: Request
    skipped: list[Skipped] = field(default_factory=list)
    used_casts: set[str] = field(default_factory=set)
    moves: Mapping[str, Move] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.last = self.checkpoints[-1]
        _check_distinct(self.checkpoints)
        self.tensors = self._select()

    def _select(self) -> dict[str, Tensor]:
        """Return the tensors that take part by key; what does not is noted in `skipped`."""
        named = None
        if self.request.names:
            chosen = Selection(names=self.request.names).of(self.last)
            named = {tensor.spec.key for tensor in chosen}
        averages = set(self.averages.values())
        found: dict[str, Tensor] = {}
        for key, naming in self.last.names.items():
            tensor = Tensor(self.last.specs[key], naming)
            if naming.role == "config" and tensor.spec.dtype == "string":
                continue  # the object graph and the like: structure, not values
            if key in self.duplicates:
                why = "stored twice in SRC"
            elif naming.role in self.request.drop_roles:
                why = f"role {naming.role} dropped"
                if key in averages:
                    why = "used as the weights (--ema)"
            elif named is not None and key not in named:
                why = "not selected by --name"
            else:
                found[key] = tensor
                continue
            self.skip(tensor, why)
        if not found:
            raise UsageError(
                "no tensor is left to convert",
                where=str(self.last.path),
                hint="`ckptkit ls` lists names and roles",
            )
        return found

    @cached_property
    def duplicates(self) -> Mapping[str, str]:
        """{key of a tensor that SRC stores again: key of the first}."""
        return TensorSet(self.last.specs, self.last.names).duplicates

    def skip(self, tensor: Tensor, why: str) -> None:
        """Note that a tensor of SRC is not in the output."""
        row = Skipped(tensor.naming.name, tensor.naming.role, tensor.spec.nbytes, why)
        self.skipped.append(row)

    @cached_property
    def side(self) -> TensorSet:
        """The tensors that take part, for alignment."""
        return TensorSet(
            {key: tensor.spec for key, tensor in self.tensors.items()},
            {key: tensor.naming for key, tensor in self.tensors.items()},
        )

    @cached_property
    def averages(self) -> dict[str, str]:
        """{key of a weight: key of its average}, for --ema; raises UsageError where none is."""
        if not self.request.ema:
            return {}
        names = self.last.names
        by_name = {naming.name: key for key, naming in names.items()}
        found = {
            by_name[naming.slot_of]: key
            for key, naming in names.items()
            if naming.role == "ema" and naming.slot_of in by_name
        }
        if not found:
            raise UsageError(
                "--ema: SRC holds no averaged variables",
                where=str(self.last.path),
                hint="`ckptkit ls --role ema` lists them",
            )
        return found

    @cached_property
    def partners(self) -> list[dict[str, str]]:
        """For each of the earlier checkpoints {key in the last: key there}."""
        found = []
        last = TensorSet(self.last.specs, self.last.names)
        for checkpoint in self.checkpoints[:-1]:
            side = TensorSet(checkpoint.specs, checkpoint.names)
            alignment = align(last, side)
            found.append({match.old: match.new for match in alignment.pairs})
        return found

    def move(self, moves: Mapping[str, Move]) -> None:
        """Let the tensors that rules move be what they become; raises UsageError."""
        if not moves:
            return
        made = {key: self._made(move) for key, move in moves.items()}
        gone = {key for move in moves.values() for key, _ in move.pieces}
        self.tensors = {key: t for key, t in self.tensors.items() if key not in gone} | made
        self.moves = moves
        del self.side

    def _made(self, move: Move) -> Tensor:
        """Return the tensor that a move makes, by the name of its first piece."""
        found = set()
        for key, transform in move.pieces:
            spec = self.tensors[key].spec
            try:
                found.add((spec.dtype, transform.shape(spec.shape)))
            except UsageError as error:
                name = self.tensors[key].naming.name
                raise UsageError(
                    f"rule {move.text!r}: {error.message}", where=f"{name} {spec.shape}"
                ) from error
        first = self.tensors[move.pieces[0][0]]
        if len(found) > 1:
            raise UsageError(
                f"rule {move.text!r}: its parts differ in dtype or shape",
                where=", ".join(self.tensors[key].naming.name for key, _ in move.pieces),
            )
        [(_, shape)] = found
        plain = TensorSpec(first.spec.key, first.spec.dtype, shape, first.spec.nbytes)
        return first._replace(spec=plain)

    def checkpoint_key(self, key: str) -> str | None:
        """Return the tensor's key in the tensor bundle that it came from, where that is known.

        A tensor whose values were moved is no longer the one that the bundle has.
        """
        if key in self.moves:
            return None
        if self.last.store.format in ("tensor-bundle", "saved-model"):
            return key
        structure = self.last.structure
        return structure.checkpoint_keys.get(key) if isinstance(structure, StoredNames) else None

    def fill(
        self, key: str, target: TensorToWrite, evidence: str, problems: list[Problem]
    ) -> Fill | None:
        """Return how `target` gets the values of `key`; None where dtypes stand in the way."""
        moves = self.moves[key].pieces if key in self.moves else ((key, Transform()),)
        origins = [self._origin(part, problems) for part, _ in moves]
        tensors = [self._stored(part) for part, _ in moves]
        (origin, count), tensor = origins[0], tensors[0]
        pieces: tuple[Piece, ...] = ()
        if key in self.moves:
            pieces = tuple(
                Piece(own[0], its, move[1])
                for own, its, move in zip(origins, tensors, moves, strict=True)
            )
            origin = moved([(piece.origin, piece.transform) for piece in pieces])
        wanted, casting, uncast = target.dtype, "", None
        if origin.spec.dtype != wanted:
            casting = f"{origin.spec.dtype}={wanted}"
            if casting not in {str(c) for c in self.request.casts}:
                message = f"{target.name or target.key} is {wanted}, SRC has {origin.spec.dtype}"
                reason = f"are {wanted}, SRC has {origin.spec.dtype}"
                problems.append(Problem("dtype", tensor.naming.name, message, reason))
                return None
            self.used_casts.add(casting)
            uncast, origin = origin, cast(origin, wanted)
        return Fill(target, origin, tensor, evidence, casting, count, uncast, pieces)

    def _stored(self, key: str) -> Tensor:
        used = self.averages.get(key, key)
        return Tensor(self.last.specs[used], self.last.names[used])

    def dtype(self, key: str) -> str:
        """Return the dtype in which a tensor is written where nothing else fixes it."""
        tensor = self.tensors[key]
        if tensor.naming.role in _CAST_ROLES:
            for rule in self.request.casts:
                if rule.old == tensor.spec.dtype:
                    return rule.new
        return tensor.spec.dtype

    def _origin(self, key: str, problems: list[Problem]) -> tuple[Origin, int]:
        naming = self.last.names[key]
        key = self.averages.get(key, key)
        own = Origin(self.last.store, key)
        is_float = kind(own.spec.dtype) in ("float", "complex")
        if len(self.checkpoints) == 1 or naming.role not in _AVERAGED_ROLES or not is_float:
            return own, 1
        parts = []
        for checkpoint, partner in zip(self.checkpoints, self.partners, strict=False):
            other = partner.get(key)
            spec = checkpoint.specs[other] if other else None
            if spec is None or (spec.dtype, spec.shape) != (own.spec.dtype, own.spec.shape):
                found = f"is {spec.dtype} {spec.shape} in" if spec else "is missing from"
                message = f"{naming.name} {found} {checkpoint.path}"
                problems.append(Problem("shape" if spec else "missing", naming.name, message))
                return own, 1
            assert other is not None
            parts.append(Origin(checkpoint.store, other))
        return average([*parts, own]), len(self.checkpoints)

    def check_casts(self, fills: Sequence[Fill], structure: str) -> None:
        """Raise UsageError for a cast that no tensor needed; structure: what fixed the dtypes."""
        for rule in self.request.casts:
            if str(rule) in self.used_casts:
                continue
            why, hint = f"no tensor to be written is {rule.old}", ""
            if any(fill.origin.spec.dtype == rule.old for fill in fills):
                why = f"no weight, average or slot is {rule.old}"
                if structure:
                    why = f"{structure} decides the dtypes, and has {rule.old} too"
                    hint = f"--like a file that has {rule.new}; safetensors and npz need no --like"
            raise UsageError(
                f"--cast {rule} changed nothing: {why}", where=str(self.last.path), hint=hint
            )


def _check_distinct(checkpoints: Sequence[Checkpoint]) -> None:
    seen: dict[str, Checkpoint] = {}
    for checkpoint in checkpoints:
        path = str(checkpoint.path.resolve())
        if path in seen:
            raise UsageError(
                "given twice; an average takes each checkpoint once", where=str(checkpoint.path)
            )
        seen[path] = checkpoint
