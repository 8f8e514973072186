"""A plan in the structure of LIKE: its keys, dtypes, shapes and graph, with the values of SRC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ckptkit.align.evidence import labels_of
from ckptkit.align.matching import Alignment, Match, TensorSet, align
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.selection import Tensor
from ckptkit.dtypes import kind
from ckptkit.errors import UsageError
from ckptkit.operations.convert import model_files as _files
from ckptkit.operations.convert.builder import FIXED_FORMS, NEUTRAL, Draft, graph_bytes, is_text
from ckptkit.operations.convert.plan import Fill, describe
from ckptkit.operations.convert.rule_transforms import NOTHING, Moves, moves_to
from ckptkit.operations.convert.value_stores import Origin
from ckptkit.stores.tensor_bundle.edit_graph import edit_graph
from ckptkit.stores.tensor_bundle.reader import OBJECT_GRAPH_KEY
from ckptkit.stores.writing import TensorToWrite

_BUNDLES = ("checkpoint", "saved_model")
_STRONG = ("key", "alias", "full name", "name")


def by_like(draft: Draft, like: Checkpoint) -> None:
    """Fill the draft; raises UsageError for rules that paired nothing or collide."""
    draft.structured = True
    _Matcher(draft, like).run()


@dataclass
class _Matcher:
    """Goes through LIKE, tensor by tensor."""

    draft: Draft
    like: Checkpoint

    def __post_init__(self) -> None:
        self.form = self.draft.target.form
        self.fixed = self.form in FIXED_FORMS
        self.unwritten: set[str] = set()
        self.drop = self.draft.request.drop_roles | self.draft.like_drop

    def run(self) -> None:
        draft, like = self.draft, self.like
        if self.fixed:
            draft.layout = like
        whole = TensorSet(like.specs, like.names)
        alignment, side = self._align()
        partner = {match.new: match for match in (*alignment.pairs, *alignment.renamed)}
        ambiguous = {key for item in alignment.ambiguous for key in (*item.old, *item.new)}
        done: dict[str, Fill] = {}
        for key in like.specs:
            if key in whole.duplicates or key == OBJECT_GRAPH_KEY:
                continue
            fill = self._fill(key, key in side.names, partner, ambiguous)
            if fill is not None:
                done[key] = fill
        draft.fills += done.values()
        if self.unwritten:
            names = describe(like.names, sorted(self.unwritten))
            draft.notes.append(f"not written, since only TensorFlow makes such values: {names}")
        self._twins(whole, done)
        self._graph()
        self._left_over(alignment, ambiguous)
        if like is not draft.src.last:
            draft.problems += _files.check_donor(like, whole.duplicates)
        if self.form == "saved_model":
            draft.notes += _files.notes_on_donor(like)

    def _align(self) -> tuple[Alignment, TensorSet]:
        """Pair SRC with what LIKE has of the roles that are not dropped."""
        like, request = self.like, self.draft.request
        keys = [key for key in like.specs if like.names[key].role not in self.drop]
        side = TensorSet({k: like.specs[k] for k in keys}, {k: like.names[k] for k in keys})
        if self.draft.same_keys and not request.rules:
            return _by_keys(self.draft.src.side, side), side
        moves = self._moves(side)
        split, taken = moves.split, {moves.targets[key] for key in moves.split}
        alignment = align(
            _without(self.draft.src.side, split), _without(side, taken), request.rules
        )
        parts = [
            Match(key, moves.targets[key], f"rule {moves.moves[key].text}")
            for key in self.draft.src.tensors
            if key in split
        ]
        alignment = replace(alignment, pairs=(*alignment.pairs, *parts))
        dead = [text for text in alignment.unused_rules if text not in moves.texts]
        if dead:
            raise UsageError(
                f"rule {dead[0]!r} paired nothing",
                hint="it goes from names of SRC to names of LIKE; `ckptkit diff` tries it out",
            )
        if request.rules:
            self._contradictions(alignment, side)
        return alignment, side

    def _moves(self, side: TensorSet) -> Moves:
        """Let SRC be what rules with transforms make of it."""
        src, rules = self.draft.src, self.draft.request.rules
        if not any(rule.transform for rule in rules):
            return NOTHING
        moves = moves_to(src, rules, labels_of(src.side), labels_of(side))
        self.draft.incomplete(moves)
        src.move(moves.moves)
        return moves

    def _contradictions(self, alignment: Alignment, side: TensorSet) -> None:
        """Refuse rules that send a tensor away from one of its own name, dtype and shape."""
        source = self.draft.src.side
        own = {m.old: m.new for m in align(source, side).pairs if m.evidence in _STRONG}
        for match in alignment.pairs:
            there = own.get(match.old, match.new)
            same_shape = side.specs[there].shape == side.specs[match.new].shape
            if there == match.new or not match.evidence.startswith("rule") or not same_shape:
                continue
            naming = source.names[match.old]
            if not self.draft.renamed.lets_tensor(match.old, naming):
                message = (
                    f"--map sends {naming.name} to {side.names[match.new].name}, although "
                    f"{self.draft.structure} has {side.names[there].name} of the same shape"
                )
                self.draft.problem("renamed", naming.name, message)

    # -- one tensor of LIKE ----------------------------------------------------------------------

    def _fill(
        self, key: str, wanted: bool, partner: dict[str, Match], ambiguous: set[str]
    ) -> Fill | None:
        """Return where its values come from; None where it is left out, or in doubt."""
        if kind(self.like.specs[key].dtype) == "opaque" and self.form in _BUNDLES:
            self.unwritten.add(key)
            return None
        if is_text(self.like, key):
            return None if self.form in NEUTRAL else self._kept(key)
        if not wanted:  # of a dropped role: a fixed structure has it all the same
            return self._kept(key) if self.fixed else None
        match = partner.get(key)
        if match is not None:
            return self._paired(match.old, key, match.evidence)
        naming = self.like.names[key]
        tensor = Tensor(self.like.specs[key], naming)
        if self.draft.missing.lets_tensor(key, naming) or tensor.is_housekeeping:
            return self._kept(key)
        if key not in ambiguous:
            structure = self.draft.structure
            message = f"{naming.name} of {structure} has no value in SRC"
            reason = f"of {structure} have no value in SRC"
            self.draft.problem("missing", naming.name, message, reason)
        return None

    def _paired(self, old: str, new: str, evidence: str) -> Fill | None:
        source, spec, naming = (
            self.draft.src.tensors[old],
            self.like.specs[new],
            self.like.names[new],
        )
        shape = spec.shape
        if new.endswith(("-keys", "-values")) and self.form in ("checkpoint", "saved_model"):
            shape = source.spec.shape  # a table has as many entries as it has
        if source.spec.shape != shape:
            move = self.draft.src.moves.get(old)
            how = f", after `{move.pieces[0][1]}`" if move is not None else ""
            names = source.naming.name, naming.name
            there = "it is" if names[0] == names[1] else f"{names[1]} is"
            message = (
                f"{names[0]} is {_text(source.spec.shape)} in SRC{how}, {there} {_text(shape)} in "
                f"{self.draft.structure}"
            )
            self.draft.problem("shape", naming.name, message)
            return None
        out = self._out(new, shape)
        return self.draft.src.fill(old, out, evidence, self.draft.problems)

    def _out(self, key: str, shape: tuple[int, ...]) -> TensorToWrite:
        """Return what is written for a tensor of LIKE; neutral files know readable names."""
        naming, spec = self.like.names[key], self.like.specs[key]
        readable = self.form in NEUTRAL and self.like.store.format not in NEUTRAL
        out = naming.name if readable else key
        return TensorToWrite(out, spec.dtype, shape, naming.name, naming.role, naming.slot_of)

    def _kept(self, key: str) -> Fill:
        out = self._out(key, self.like.specs[key].shape)
        return Fill(out, Origin(self.like.store, key), None, "kept")

    # -- the rest ----------------------------------------------------------------------------------

    def _twins(self, whole: TensorSet, done: dict[str, Fill]) -> None:
        """Give tensors that LIKE stores twice the values of the first."""
        if self.form in NEUTRAL:
            return
        for key, original in whole.duplicates.items():
            fill = done.get(original)
            if fill is not None:
                out = self._out(key, fill.tensor.shape)
                self.draft.fills.append(fill._replace(tensor=out, evidence="twin"))

    def _graph(self) -> None:
        """Take over the object graph, without what is left out."""
        like = self.like
        if self.form not in ("checkpoint", "saved_model") or OBJECT_GRAPH_KEY not in like.specs:
            return
        data = graph_bytes(like)
        if (self.drop or self.unwritten) and self.form == "checkpoint":
            keep = {key for key in like.specs if like.names[key].role not in self.drop}
            keep = keep - self.unwritten | {fill.key for fill in self.draft.fills}
            data = edit_graph(data, f"{like.path}: object graph", keep=keep).data
        self.draft.graph = data

    def _left_over(self, alignment: Alignment, ambiguous: set[str]) -> None:
        """Account for every tensor of SRC that has no place."""
        draft = self.draft
        used = set(draft.src.averages.values())
        for key in alignment.only_left:
            tensor = draft.src.tensors[key]
            if key in used:
                draft.src.skip(tensor, "used as the weights (--ema)")
            elif tensor.is_housekeeping:
                draft.src.skip(tensor, "TensorFlow's own record")
            elif key not in ambiguous:
                draft.leave(tensor, f"{draft.structure} has no place for it")
        for item in alignment.ambiguous:
            names = describe(draft.src.side.names, item.old), describe(self.like.names, item.new)
            message = f"{names[0]} of SRC against {names[1]} of {draft.structure}: {item.reason}"
            draft.problem("ambiguous", names[0], message)


def _without(side: TensorSet, keys: set[str]) -> TensorSet:
    """Return the side without the tensors that are paired already."""
    if not keys:
        return side
    return TensorSet(
        {key: spec for key, spec in side.specs.items() if key not in keys},
        {key: naming for key, naming in side.names.items() if key not in keys},
    )


def _by_keys(old: TensorSet, new: TensorSet) -> Alignment:
    """Pair what has the same key on both sides, and nothing else."""
    return Alignment(
        tuple(Match(key, key, "key") for key in old.keys if key in new.specs),
        (),
        tuple(key for key in old.keys if key not in new.specs),
        tuple(key for key in new.keys if key not in old.specs),
    )


def _text(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))})"
