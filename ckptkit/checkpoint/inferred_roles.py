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

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple

from ckptkit.checkpoint.name_extensions import (
    Extension,
    Family,
    extension_families,
    is_integer,
)
from ckptkit.stores.base import TensorSpec

AVERAGES = frozenset({"ExponentialMovingAverage", "moving_average", "ema", "EMA"})
# TensorFlow 1 optimizers (and BERT's) add a suffix to the variable's name, with a number for the
# second slot: Adam's m and v are `w/Adam` and `w/Adam_1`; another optimizer counts on.
# Source: tensorflow/python/training/*.py, google-research/bert optimization.py, tensor2tensor.
_KNOWN: Mapping[str, tuple[str, ...]] = {
    "Adam": ("m", "v"),
    "AdamOptimizer": ("m", "v"),
    "AdamW": ("m", "v"),
    "AdaMax": ("m", "v"),
    "LazyAdam": ("m", "v"),
    "Nadam": ("m", "v"),
    "RMSProp": ("rms", "momentum"),
    "Ftrl": ("accumulator", "linear"),
    "Adadelta": ("accum_grad", "accum_var"),
    "Momentum": ("momentum",),
    "Adagrad": ("accumulator",),
    "AdagradDA": ("gradient_accumulator", "gradient_squared_accumulator"),
    "adam_m": ("m",),
    "adam_v": ("v",),
    "lamb_m": ("m",),
    "lamb_v": ("v",),
    "slot_m": ("m",),
    "slot_v": ("v",),
    "vr": ("vr",),
    "vc": ("vc",),
    "slot_vr": ("vr",),
    "slot_vc": ("vc",),
}
_CENTERED = ("rms", "mg", "momentum")  # RMSProp's three, where it is centered
# Words of slots, as Keras and TensorFlow's optimizers use them; one letter says little by itself.
_LETTERS = frozenset({"m", "v", "u", "r", "c", "n", "d", "s"})
_WORDS = frozenset(
    (
        *("accum", "accumulator", "accumulated", "adam", "adagrad", "adafactor", "ema", "hessian"),
        *("lamb", "lion", "momentum", "moment", "momentums", "mg", "rms", "slot", "slots", "vhat"),
        *("velocity", "velocities", "vr", "vc", "mu", "nu", "norm", "linear", "variance"),
    )
)
# Of these, those that name a variable of a layer as well: they say something in a scope alone.
_COMMON = frozenset({"norm", "linear", "variance", "mu", "nu", "lion", "lamb"})
_OPTIMIZERS = re.compile(
    r"(?:\w*(?:adam|adagrad|adadelta|adafactor|adamax|adabelief|momentum|optimi[sz]er|rmsprop)\w*"
    r"|sgd\w*|ftrl|lamb|lars|lion|muon|shampoo|sophia|yogi|training)(?:_\d+)?",
    re.IGNORECASE,
)
_SLOT_CREATOR = re.compile(
    r"(?=.*[a-z])[A-Z][A-Za-z0-9]{2,}(?:_\d+)?|[A-Z]{3,}[A-Za-z0-9]*(?:_\d+)?"
)
_COUNTERS = frozenset({"global_step", "step", "save_counter", "iterations", "iter", "epoch"})
_SETTINGS = re.compile(r"(beta[12]_power|learning_rate|decay)(_\d+)?")
_SURE_SETTINGS = re.compile(
    r"(beta[12]_power|(\w+_)?learning_rate(_power)?|(current_)?loss_scale)(_\d+)?", re.IGNORECASE
)
_HYPERPARAMETERS = re.compile(
    r"(beta(_?[12])?(_power)?|lr|decay|weight_decay|rho|momentum|momentum_cache|epsilon|u_product"
    r"|l[12]_regularization_strength|initial_accumulator_value|clip\w*|dynamic_scale)(_\d+)?"
)
_NUMBERED = re.compile(r"(.+?)(?:_(\d{1,9}))?")
_NAMELESS = re.compile(r"((?:.*/)?Variable)(?:_\d+)?")
_STATISTICS = re.compile(r"moving_(mean|variance|avg|average)\w*|(running|population)_\w+")


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


class _Inference:
    """Sorts the names of one file into families, judges these, then the scalars that are left."""

    def __init__(self, specs: Mapping[str, TensorSpec]) -> None:
        self.specs = {name: spec for name, spec in specs.items() if spec.dtype != "string"}
        self.roles: dict[str, InferredRole] = {}
        self.families = extension_families(self.specs)
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
                cut = name.find("/")
                while cut >= 0:
                    scopes.discard(name[: cut + 1])
                    cut = name.find("/", cut + 1)
        self.optimizer_scopes = scopes

    def _role(self, key: Family, extension: Extension) -> InferredRole:
        if key.way == "scope":
            word = key.scope.rstrip("/").rpartition("/")[2]
            optimizer = key.scope.rstrip("/").rpartition("/")[0] or None
        else:
            word, optimizer = key.ending, key.scope.rstrip("/") or key.ending
        if word in AVERAGES:
            is_known = key.way == "segment"
            return InferredRole("ema", "ema", extension.owner, word, is_known=is_known)
        known = _known_slot(word, self._is_centered(extension.owner, key))
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
            base = _base(key.ending)
            if base in _KNOWN or base in AVERAGES:
                return [e for e in fitting if e.relation != "scalar" or base not in AVERAGES]
            if _SLOT_CREATOR.fullmatch(key.ending):
                return fitting
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

    def _factored(self, key: Family, members: Iterable[Extension]) -> bool:
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
            return len(kinds) > 1 or (len(members) > 1 and self._covers(members, 0.5))
        if key.ending in self._own_endings:
            return False  # `bias` is a variable's name elsewhere too
        has_matrix = any(len(self.specs[e.name].shape) > 1 for e in members)
        return has_matrix and (len(kinds) > 1 or (len(members) > 1 and self._covers(members, 0.99)))

    def _word_convinces(self, key: Family, members: Sequence[Extension]) -> bool:
        if key.scope:
            return self._scoped_convinces(key, members)
        kinds = _kinds(members)
        if key.ending in _LETTERS:
            pair = {"m": "v", "v": "m"}.get(key.ending)
            beside = self.families.get(key._replace(ending=pair or ""), ())
            both = {e.owner for e in beside} == {e.owner for e in members}
            return both and len(kinds) > 1 and self._covers(members, 0.5)
        if is_state_word(key.ending):
            return True
        has_matrix = any(len(self.specs[e.name].shape) > 1 for e in members)
        return has_matrix and len(kinds) > 2 and self._covers(members, 0.8)

    def _scoped_convinces(self, key: Family, members: Sequence[Extension]) -> bool:
        """Whether `SCOPE + variable + ending` is state: three things that agree."""
        last = key.scope.rstrip("/").rpartition("/")[2]
        if is_state_word(key.ending) or _OPTIMIZERS.fullmatch(last):
            return True
        if key.ending in self._own_endings:
            return False
        return len(_kinds(members)) > 1

    def _scope_convinces(self, key: Family, members: Sequence[Extension]) -> bool:
        """Whether copies of variables below a scope are state, and not a second model."""
        parent, _, word = key.scope.rstrip("/").rpartition("/")
        if word in AVERAGES:
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
            is_optimizer = has_counter or (
                _OPTIMIZERS.fullmatch(last) is not None and last.lower() != "training"
            )
            return is_optimizer and (is_word or (bool(beside) and len(members) > 1))
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
        arrays = [n for n, s in self.specs.items() if s.shape != () and n not in self.roles]
        shared = {name.rpartition("/")[2] for name in arrays}
        tied = {_base(r.optimizer) for r in self.roles.values() if r.is_known and r.optimizer}
        for name in [n for n in self.specs if n not in self.roles]:
            owner, _, ending = name.rpartition("/")
            if not owner or is_integer(self.specs[name]):
                continue
            if ending == "ExponentialMovingAverage" or (ending in AVERAGES and len(shared) == 1):
                self.roles[name] = InferredRole(
                    "ema", "ema", None, ending, owner, is_known=ending[0] == "E"
                )
            elif _base(ending) in tied and _SLOT_CREATOR.fullmatch(ending):
                self.roles[name] = InferredRole("slot", None, None, ending)

    def _take_nameless(self) -> None:
        """Take `Variable`, `Variable_1`, … that stand for the variables that have slots.

        Gradients that are summed over batches have no names, but the shapes of all that is trained.
        """
        trained = {role.owner for role in self.roles.values() if role.role == "slot" and role.owner}
        series: dict[str, list[str]] = defaultdict(list)
        for name in self.specs:
            match = _NAMELESS.fullmatch(name)
            if match and name not in self.roles:
                series[match[1]].append(name)
        shapes = Counter(self.specs[name].shape for name in trained)
        for stem, names in series.items():
            scope = stem.rpartition("/")[0]
            sized = [n for n in names if self.specs[n].shape != ()]
            is_optimizer = _OPTIMIZERS.fullmatch(scope.rpartition("/")[2]) is not None
            same = len(trained) > 1 and Counter(self.specs[n].shape for n in names) == shapes
            if trained.isdisjoint(names) and (same or (is_optimizer and scope)):
                for name in names if same else sized:
                    self.roles[name] = InferredRole("slot", None, None, scope or None)

    # --- scalars ------------------------------------------------------------------------------

    def _take_scalars(self) -> None:
        trained = {role.owner for role in self.roles.values() if role.owner}
        owners = {
            extension.name: extension.owner
            for key, members in self.families.items()
            for extension in members
            if key.scope and key.ending and extension.relation == "scalar"
        }
        for name, spec in self.specs.items():
            if spec.shape != () or name in self.roles or name in trained:
                continue
            scope, _, ending = name.rpartition("/")
            if ending in _COUNTERS:
                self.roles[name] = InferredRole("counter", is_known=True)
            elif _SETTINGS.fullmatch(ending):
                self.roles[name] = InferredRole("config", is_known=True)
            elif is_integer(spec):
                self.roles[name] = InferredRole("counter")
            elif spec.dtype == "bool" or _SURE_SETTINGS.fullmatch(ending):
                self.roles[name] = InferredRole("config")
            elif any(name.startswith(start) for start in self.optimizer_scopes):
                owner = owners.get(name)  # of a scalar that is kept for each variable
                self.roles[name] = (
                    InferredRole("slot", ending, owner, scope) if owner else InferredRole("config")
                )
            elif _HYPERPARAMETERS.fullmatch(ending) and _OPTIMIZERS.fullmatch(
                scope.rpartition("/")[2]
            ):
                self.roles[name] = InferredRole("config")


@lru_cache(maxsize=4096)
def _base(ending: str) -> str:
    """Return `Adam` for `Adam_1`."""
    if ending in _KNOWN:
        return ending
    match = _NUMBERED.fullmatch(ending)
    return match[1] if match else ending


@lru_cache(maxsize=4096)
def _known_slot(ending: str, is_centered: bool) -> str | None:
    """Return "v" for `Adam_1`, "m_1" for `Adam_2` (a second optimizer's), None where unknown."""
    base = _base(ending)
    slots = _KNOWN.get(base)
    if slots is None:
        return None
    number = int(ending[len(base) + 1 :]) if ending != base else 0
    if base == "RMSProp" and is_centered:
        slots = _CENTERED
    if len(slots) == 1 and base[0].islower() and number:
        return None
    again = number // len(slots)
    return slots[number % len(slots)] + (f"_{again}" if again else "")


def is_state_word(ending: str) -> bool:
    """Whether a segment or word is one that slots are called."""
    if ending in _LETTERS or ending in _KNOWN:
        return True
    words = _base(ending).lower().strip("_").split("_")
    return not _WORDS.isdisjoint(words) and not (len(words) == 1 and words[0] in _COMMON)


def is_setting(name: str) -> bool:
    """Whether a scalar's name, without scope, is one that only optimizers use."""
    return bool(_SETTINGS.fullmatch(name) or _SURE_SETTINGS.fullmatch(name))


def _kinds(members: Iterable[Extension]) -> set[str]:
    """Return the last segments of the owners, without counters: kernel, bias, gamma."""
    return {_base(e.owner.rpartition("/")[2]) for e in members}
