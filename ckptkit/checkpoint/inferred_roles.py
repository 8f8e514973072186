"""What the tensors of a file are for, where nothing but their names and shapes tells it.

An optimizer's state is told by its place beside the variable that it belongs to: its name extends
that one's.  `name_extensions` has the ways, and sorts extensions into families, each one kind of
state of many variables.  A model's own variables extend others too (`w` and `w/bias`, `kernel` and
`kernel_scale`, a copy of a model under another scope), so a family is believed only where evidence
tells it from those: its shapes are those of its variables, or row and column sums of them, through
the whole family; and

- its ending is a word that only optimizers use, or is written as TensorFlow's slot_creator does
  (the optimizer's name in capitals: tensorflow/python/training/slot_creator.py), or
- it does not care what a variable is: kernels, biases and gammas alike have it, where a model's own
  second variable (a mask, a scale, a bias) is of one kind of variable, or
- it lies in a scope of its own that holds nothing but such state and scalars.

Scalars that are integers or booleans are no weights.  Scalar floats are weights, unless they have a
name that only optimizers use or lie in a scope of an optimizer; one that has slots is trained.
What is known exactly of TensorFlow's own optimizers is `known`; the rest is inferred.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from ckptkit.checkpoint.name_extensions import (
    Extension,
    Family,
    extension_families,
    is_integer,
)
from ckptkit.checkpoint.optimizer_words import (
    AVERAGES,
    COUNTERS,
    HYPERPARAMETERS,
    KNOWN_SLOTS,
    LETTERS,
    OPTIMIZER,
    SETTINGS,
    SLOT_CREATOR,
    SURE_SETTINGS,
    is_average,
    is_state_word,
    known_slot,
    without_number,
)
from ckptkit.stores.base import TensorSpec
from ckptkit.stores.packed_specs import PackedSpecs, any_key_has, specs_having
from ckptkit.text import lazy_pattern

_AVERAGE = "ExponentialMovingAverage"
_SEED = "seed_generator_state"
_NAMELESS = lazy_pattern(r"((?:.*/)?Variable)(?:_\d+)?")
_STATISTICS = lazy_pattern(r"moving_(mean|variance|avg|average)\w*|(running|population)_\w+")


class InferredRole(NamedTuple):
    """What one tensor is for.

    owner: name of the variable that a slot or average belongs to.  shadowed: for an average whose
    variable is not in the file, that variable's name.  is_known: whether it is exact knowledge of
    an optimizer, not inferred from the pattern of names.
    """

    role: str
    slot: str | None = None
    owner: str | None = None
    optimizer: str | None = None
    shadowed: str | None = None
    is_known: bool = False


def infer_roles(specs: Mapping[str, TensorSpec]) -> dict[str, InferredRole]:
    """Return what the tensors are for that are no weights, by name.

    specs: by the names that the producing program gave (a file's keys, or full names).
    """
    return _Inference(specs).roles


def _any_scalar(specs: Mapping[str, TensorSpec]) -> bool:
    """Whether a tensor has one element and no axes."""
    if isinstance(specs, PackedSpecs):
        return any(shape == () for _dtype, shape, *_rest in specs.kinds())
    return any(spec.shape == () for spec in specs.values())


def _has_dots(names: Iterable[str]) -> bool:
    """Whether dots stand for slashes in a file's names: other libraries than TensorFlow wrote them.

    What extends another name there is a model's own (`weight_ih_l0_reverse` of a torch.nn.LSTM); no
    optimizer calls its state so.
    """
    dots = False
    for name in names:
        if "/" in name:
            return False
        dots = dots or "." in name
    return dots


class _Inference:
    """Sorts the names of one file into families, judges these, then the scalars that are left."""

    def __init__(self, specs: Mapping[str, TensorSpec]) -> None:
        self.specs = specs_having(specs, lambda dtype, _shape: dtype != "string")
        self.roles: dict[str, InferredRole] = {}
        self.families = {} if _has_dots(self.specs) else extension_families(self.specs)
        self.extended = {e.name for members in self.families.values() for e in members}
        self.optimizer_scopes: set[str] = set()
        self._take_families()
        self._take_averages_alone()
        self._take_nameless()
        self._take_scalars()

    # --- families ---------------------------------------------------------------------------

    def _take_families(self) -> None:
        """Accept families, those with the best evidence first; the longest owner counts."""
        accepted: dict[str, list[tuple[Family, Extension]]] = defaultdict(list)
        for key, members in self.families.items():
            for extension in self._believed(key, members):
                accepted[extension.name].append((key, extension))
        for name, found in accepted.items():
            key, extension = max(found, key=lambda item: (len(item[1].owner), item[0].way))
            if extension.owner in accepted and len(found) == 1:
                chain = {e.owner for _, e in accepted[extension.owner]}
                if name in chain:
                    continue
            self.roles[name] = self._role(key, extension)
        for name, role in list(self.roles.items()):
            if role.owner in self.roles:  # the average of a slot, and the like
                self.roles[name] = role._replace(owner=None)
        self._note_scopes(accepted)

    def _note_scopes(self, accepted: Mapping[str, list[tuple[Family, Extension]]]) -> None:
        """Note the scopes that hold nothing but state: their scalars are an optimizer's too."""
        scopes = {key.scope for found in accepted.values() for key, _ in found if key.scope}
        scopes |= {scope.rstrip("/").rpartition("/")[0] + "/" for scope in scopes} - {"/"}
        if not scopes:
            return
        for name, spec in self.specs.items():
            if name not in self.roles and spec.shape != ():
                above, slash, _last = name.rpartition("/")
                while slash:
                    scopes.discard(above + slash)
                    above, slash, _last = above.rpartition("/")
        self.optimizer_scopes = scopes

    def _role(self, key: Family, extension: Extension) -> InferredRole:
        if key.way == "scope":
            word = key.scope.rstrip("/").rpartition("/")[2]
            optimizer = key.scope.rstrip("/").rpartition("/")[0] or None
        else:
            word, optimizer = key.ending, key.scope.rstrip("/") or key.ending
        if is_average(word):
            is_known = key.way == "segment" and word in AVERAGES
            return InferredRole("ema", "ema", extension.owner, word, is_known=is_known)
        known = known_slot(word, self._is_centered(extension.owner, key))
        if known is not None and key.way == "segment":
            return InferredRole("slot", known, extension.owner, word, is_known=True)
        return InferredRole("slot", known or word, extension.owner, optimizer)

    def _is_centered(self, owner: str, key: Family) -> bool:
        """Whether RMSProp keeps three slots of a variable: of one optimizer, centered."""
        start = f"{key.scope}{owner}/RMSProp"
        return f"{start}_2" in self.specs and f"{start}_3" not in self.specs

    def _believed(self, key: Family, members: Sequence[Extension]) -> Sequence[Extension]:
        """Return the members of a family that are taken for state: all, some or none."""
        fitting = [e for e in members if e.relation != "other"]
        sized = [e for e in fitting if e.relation != "scalar"]
        if not fitting:
            return ()
        if key.way == "segment":
            base = without_number(key.ending)
            if base in KNOWN_SLOTS or base in AVERAGES:
                return [e for e in fitting if e.relation != "scalar" or base not in AVERAGES]
            if SLOT_CREATOR.fullmatch(key.ending) and base not in self._own_endings:
                alone = all(e.relation in ("row", "column") for e in sized)
                return fitting if not alone or self._has_complement(key, sized) else ()
        if not sized or len(fitting) < len(members):
            return ()
        if any(e.relation in ("row", "column") for e in sized) and not self._factored(key, sized):
            return ()
        is_convincing = {
            "segment": self._segment_convinces,
            "word": self._word_convinces,
            "flat": self._scoped_convinces,
            "scope": self._scope_convinces,
        }[key.way]
        return fitting if is_convincing(key, sized) else ()

    def _factored(self, key: Family, members: Sequence[Extension]) -> bool:
        """Whether rows and columns are an optimizer's, which keeps something of vectors too.

        A layer of a spectral norm has two such vectors, of its kernel alone.
        """
        if not self._has_complement(key, members):
            return False
        if key.scope or key.ending in KNOWN_SLOTS or not self._has_vectors:
            return True
        return any(
            extension.relation == "same" and len(self.specs[extension.name].shape) == 1
            for other, found in self.families.items()
            if other.way == key.way and not other.scope
            for extension in found
        )

    @cached_property
    def _has_vectors(self) -> bool:
        return any(
            len(spec.shape) == 1 and name not in self.extended for name, spec in self.specs.items()
        )

    def _has_complement(self, key: Family, members: Iterable[Extension]) -> bool:
        """Whether row sums have column sums beside them, as Adafactor keeps both."""
        beside = {
            e.relation
            for other, found in self.families.items()
            if other.way == key.way and other.scope == key.scope and other != key
            for e in found
        }
        wanted = {"row": "column", "column": "row"}
        return all(wanted[e.relation] in beside for e in members if e.relation in ("row", "column"))

    def _segment_convinces(self, key: Family, members: Sequence[Extension]) -> bool:
        if key.scope:
            return self._scoped_convinces(key, members)
        kinds = _kinds(members)
        if is_state_word(key.ending):
            if len(kinds) > 1 or self._is_pair(key, members):
                return True
            share = 0.99 if key.ending in LETTERS else 0.5  # a letter says little
            return len(members) > 1 and self._covers(members, share)
        if key.ending in self._own_endings:
            return False  # `bias` is a variable's name elsewhere too
        has_matrix = any(len(self.specs[e.name].shape) > 1 for e in members)
        return has_matrix and (len(kinds) > 1 or (len(members) > 1 and self._covers(members, 0.99)))

    def _word_convinces(self, key: Family, members: Sequence[Extension]) -> bool:
        if key.scope:
            return self._scoped_convinces(key, members)
        kinds = _kinds(members)
        if key.ending in LETTERS:
            return self._is_pair(key, members) and len(kinds) > 1 and self._covers(members, 0.5)
        if is_state_word(key.ending):
            return True
        has_matrix = any(len(self.specs[e.name].shape) > 1 for e in members)
        return has_matrix and len(kinds) > 2 and self._covers(members, 0.8)

    def _is_pair(self, key: Family, members: Sequence[Extension]) -> bool:
        """Whether the same variables have an `m` and a `v`, both of their own shape."""
        other = {"m": "v", "v": "m"}.get(key.ending)
        beside = self.families.get(key._replace(ending=other), ()) if other else ()
        whole = all(e.relation == "same" for e in (*members, *beside))
        return bool(beside) and whole and {e.owner for e in beside} == {e.owner for e in members}

    def _scoped_convinces(self, key: Family, members: Sequence[Extension]) -> bool:
        """Whether `SCOPE + variable + ending` is state: three things that agree."""
        last = key.scope.rstrip("/").rpartition("/")[2]
        if is_state_word(key.ending) or OPTIMIZER.fullmatch(last):
            return True
        if key.ending in self._own_endings:
            return False
        return len(_kinds(members)) > 1

    def _scope_convinces(self, key: Family, members: Sequence[Extension]) -> bool:
        """Whether copies of variables below a scope are state, and not a second model."""
        parent, _, word = key.scope.rstrip("/").rpartition("/")
        if is_average(word):
            return self._covers(members, 0.5)
        if any(_STATISTICS.fullmatch(e.owner.rpartition("/")[2]) for e in members):
            return False  # a whole model's copy: optimizers keep nothing of statistics
        beside = [
            other
            for other, found in self.families.items()
            if other.way == "scope"
            and other != key
            and other.scope.rstrip("/").rpartition("/")[0] == parent
            and {e.owner for e in found} == {e.owner for e in members}
        ]
        is_word = is_state_word(word)
        if parent:
            has_counter = parent in self._scopes_with_counters
            last = parent.rpartition("/")[2]
            is_named = OPTIMIZER.fullmatch(last) is not None and last.lower() != "training"
            if is_word:
                return is_named or has_counter
            return is_named and bool(beside) and len(members) > 1
        words = {other.scope.rstrip("/") for other in beside}
        return is_word and any(is_state_word(other) for other in words) and len(members) > 1

    @cached_property
    def _scopes_with_counters(self) -> frozenset[str]:
        return frozenset(
            name.rpartition("/")[0]
            for name, spec in self.specs.items()
            if spec.shape == () and is_integer(spec)
        )

    @cached_property
    def _own_endings(self) -> frozenset[str]:
        """Return the last segments of names that extend no other's."""
        return frozenset(n.rpartition("/")[2] for n in self.specs if n not in self.extended)

    def _covers(self, members: Sequence[Extension], share: float) -> bool:
        """Whether that share of the variables that could be trained have a member."""
        return len({e.owner for e in members}) >= share * self._trainable

    @cached_property
    def _trainable(self) -> int:
        """How many arrays extend no other name and are no statistics."""
        return sum(
            name not in self.extended
            and spec.shape != ()
            and not _STATISTICS.fullmatch(name.rpartition("/")[2])
            for name, spec in self.specs.items()
        )

    # --- what has no variable in the file -----------------------------------------------------

    def _take_averages_alone(self) -> None:
        """Take averages whose variables are not in the file, and slots like those that are tied."""
        endings = (
            name.rpartition("/")[2]
            for name, spec in self.specs.items()
            if spec.shape != () and name not in self.roles
        )
        shared = next(endings, None)
        shared = shared if all(ending == shared for ending in endings) else None
        known = {r.optimizer for r in self.roles.values() if r.is_known and r.optimizer}
        tied = {without_number(ending) for ending in known}
        if not tied and shared not in AVERAGES and not any_key_has(self.specs, _AVERAGE):
            return  # as of nearly all files
        for name in [n for n in self.specs if n not in self.roles]:
            owner, _, ending = name.rpartition("/")
            if not owner or is_integer(self.specs[name]):
                continue
            if ending == _AVERAGE or (ending in AVERAGES and shared is not None):
                self.roles[name] = InferredRole(
                    "ema", "ema", None, ending, owner, is_known=ending[0] == "E"
                )
            elif without_number(ending) in tied and SLOT_CREATOR.fullmatch(ending):
                self.roles[name] = InferredRole("slot", None, None, ending)

    def _take_nameless(self) -> None:
        """Take `Variable`, `Variable_1`, … that stand for the variables that have slots.

        Gradients that are summed over batches have no names, but the shapes of all that is trained.
        """
        trained = {role.owner for role in self.roles.values() if role.role == "slot" and role.owner}
        series: dict[str, list[str]] = defaultdict(list)
        for name in self.specs if any_key_has(self.specs, "Variable") else ():
            match = _NAMELESS.fullmatch(name) if "Variable" in name else None
            if match and name not in self.roles:
                series[match[1]].append(name)
        shapes = Counter(self.specs[name].shape for name in trained)
        for stem, names in series.items():
            scope = stem.rpartition("/")[0]
            sized = [n for n in names if self.specs[n].shape != ()]
            is_optimizer = OPTIMIZER.fullmatch(scope.rpartition("/")[2]) is not None
            same = len(trained) > 1 and Counter(self.specs[n].shape for n in names) == shapes
            if trained.isdisjoint(names) and (same or (is_optimizer and scope)):
                for name in names if same else sized:
                    self.roles[name] = InferredRole("slot", None, None, scope or None)

    # --- scalars ------------------------------------------------------------------------------

    def _take_scalars(self) -> None:
        if not any_key_has(self.specs, _SEED) and not _any_scalar(self.specs):
            return
        trained = {role.owner for role in self.roles.values() if role.owner}
        owners = {
            extension.name: extension.owner
            for key, members in self.families.items()
            for extension in members
            if key.scope and key.ending and extension.relation == "scalar"
        }
        for name, spec in self.specs.items():
            if name.endswith(_SEED):  # Keras 3's: a seed, and calls so far
                self.roles[name] = InferredRole("counter", is_known=True)
            if spec.shape != () or name in self.roles or name in trained:
                continue
            scope, _, ending = name.rpartition("/")
            if ending in COUNTERS and (is_integer(spec) or not scope or ending == "global_step"):
                self.roles[name] = InferredRole("counter", is_known=True)
            elif SETTINGS.fullmatch(ending):
                self.roles[name] = InferredRole("config", is_known=True)
            elif is_integer(spec):
                self.roles[name] = InferredRole("counter")
            elif spec.dtype == "bool" or SURE_SETTINGS.fullmatch(ending):
                self.roles[name] = InferredRole("config")
            elif any(name.startswith(start) for start in self.optimizer_scopes):
                owner = owners.get(name)  # of a scalar that is kept for each variable
                self.roles[name] = (
                    InferredRole("slot", ending, owner, scope) if owner else InferredRole("config")
                )
            elif HYPERPARAMETERS.fullmatch(ending) and OPTIMIZER.fullmatch(
                scope.rpartition("/")[2]
            ):
                self.roles[name] = InferredRole("config")


def _kinds(members: Iterable[Extension]) -> set[str]:
    """Return the last segments of the owners, without counters: kernel, bias, gamma."""
    return {without_number(e.owner.rpartition("/")[2]) for e in members}
