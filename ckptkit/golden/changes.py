"""What changed between two bindings: pairing, and the rows that sum up what belongs together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptkit.golden.explain import Explanation, explain
from ckptkit.golden.file_changes import file_changes
from ckptkit.golden.initial_values import CONSTANT, MIN_SIZE
from ckptkit.golden.sketch_types import Sketch
from ckptkit.model_io.signature import Discrepancy
from ckptkit.stores.registry import FORMATS
from ckptkit.text import list_text

if TYPE_CHECKING:
    from ckptkit.align.matching import TensorSet
    from ckptkit.golden.binding import Binding

_COMPARED = frozenset({"weight", "table"})  # roles that outputs depend on
_SHOWN = 4  # names in one sentence
_SUMMED = ("weight.rounded", "weight.cast")  # codes of which many are one row
_LISTS = "they are in a Python list or dict, which tf.train.Checkpoint may pass by"


def compare_bindings(recorded: Binding, now: Binding) -> tuple[Discrepancy, ...]:
    """Compare what a golden is bound to with the model as it is now; runs nothing.

    Args:
        recorded: of the golden.
        now: best fresh from `bind`, so that changed values can be looked at.
    Returns:
        What changed, by name; rows that sum up others come first.

    Nothing is said of what an unmodified re-save changes: form, names where alignment finds the
    counterpart, tensors that are stored twice, settings that only one version of Keras writes.
    """
    return tuple(_changes(recorded, now))


def _is_whole_file(form: str) -> bool:
    """Whether a model of this form is bound by its bytes."""
    row = FORMATS.get(form)
    return row is not None and row.is_run_as_file


def _changes(recorded: Binding, now: Binding) -> Iterator[Discrepancy]:
    if not recorded.digest:  # bound to nothing: code, or values of another tool
        return
    if any(_is_whole_file(form) for form in (recorded.form, now.form)):
        if recorded.form == now.form and recorded.digest != now.digest:
            yield Discrepancy("note", "file.changed", "", "the file's bytes are not those recorded")
        return
    if recorded.digest != now.digest or set(recorded.variables) != set(now.variables):
        yield from _Weights(recorded, now).rows()
    yield from file_changes(recorded, now)


@dataclass
class _Weights:
    """The variables of both sides, paired, with what is known of each changed pair."""

    recorded: Binding
    now: Binding
    pairs: dict[str, str] = field(default_factory=dict)  # recorded name -> name now
    changed: dict[str, Explanation] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)  # recorded names that a row speaks of

    def rows(self) -> Iterator[Discrepancy]:
        self.pairs = _paired(self.recorded, self.now)
        compared = {
            name: other for name, other in self.pairs.items() if self._old(name).role in _COMPARED
        }
        differing = {
            name: other
            for name, other in compared.items()
            if self._old(name).sha256 != self.now.variables[other].sha256
            or self._old(name).shape != self.now.variables[other].shape
        }
        # first what explains several variables at once, so that no row says it again of each
        moves = self._moves(differing)
        yield from self._swapped(moves)
        yield from self._averaged(differing)
        yield from self._merged(compared)
        for name, other in differing.items():
            if name not in self.done:
                self.changed[name] = explain(self._old(name), self.now, other)
        yield from self._fresh(compared)
        yield from self._summed()
        for name, explanation in self.changed.items():
            if name not in self.done:
                yield Discrepancy(
                    "error", explanation.code, name, explanation.text, explanation.hint
                )
        yield from self._absent()

    def _old(self, name: str) -> Sketch:
        return self.recorded.variables[name]

    # -- values in another place -------------------------------------------------------------------

    def _moves(self, differing: Mapping[str, str]) -> dict[str, str]:
        """Return {name: recorded name whose values it holds now}, where that is certain."""
        by_content: dict[tuple[object, ...], list[str]] = defaultdict(list)
        for name, sketch in self.recorded.variables.items():
            if sketch.role in _COMPARED and not sketch.is_constant and sketch.size > 1:
                by_content[sketch.dtype, sketch.shape, sketch.sha256].append(name)
        moves = {}
        for name, other in differing.items():
            sketch = self.now.variables[other]
            sources = by_content.get((sketch.dtype, sketch.shape, sketch.sha256), [])
            if len(sources) == 1 and sources[0] != name:
                moves[name] = sources[0]
        return moves

    def _swapped(self, moves: Mapping[str, str]) -> Iterator[Discrepancy]:
        by_layers: dict[tuple[str, str], list[str]] = defaultdict(list)
        for name, source in moves.items():
            if moves.get(source) == name and name < source:
                by_layers[layer_of(name), layer_of(source)].append(name)
        for (one, other), names in by_layers.items():
            self.done.update(names, (moves[name] for name in names))
            ends = [name.rpartition("/")[2] for name in names]
            if one != other and ends == [moves[name].rpartition("/")[2] for name in names]:
                message = (
                    f"layers {one!r} and {other!r} have changed places ({list_text(ends, _SHOWN)})"
                )
                yield Discrepancy("error", "layer.swapped", one, message)
                continue
            for name in names:
                message = f"{name} and {moves[name]} have changed places"
                yield Discrepancy("error", "weight.swapped", name, message)
        for name, source in moves.items():
            if name not in self.done:
                self.done.add(name)
                message = f"holds the values that were recorded of {source}"
                yield Discrepancy("error", "weight.moved", name, message)

    def _averaged(self, differing: Mapping[str, str]) -> Iterator[Discrepancy]:
        """Weights that hold what was recorded as an optimizer's average of weights."""
        averages = {
            (sketch.dtype, sketch.shape, sketch.sha256)
            for sketch in self.recorded.variables.values()
            if sketch.role == "ema"
        }
        averaged = []
        for name, other in differing.items():
            sketch = self.now.variables[other]
            if name not in self.done and (sketch.dtype, sketch.shape, sketch.sha256) in averages:
                averaged.append(name)
        self.done.update(averaged)
        layers = list(dict.fromkeys(map(layer_of, averaged)))
        if averaged:
            message = (
                f"{len(averaged)} weights hold averages that the optimizer kept (use_ema), of "
            )
            hint = "after training, finalize_variable_values puts averages in place of weights"
            yield Discrepancy(
                "error", "weight.averaged", "", message + list_text(layers, _SHOWN), hint
            )

    # -- layers without values ---------------------------------------------------------------------

    def _fresh(self, compared: Mapping[str, str]) -> Iterator[Discrepancy]:
        layers: dict[str, list[str]] = defaultdict(list)
        for name in compared:
            layers[layer_of(name)].append(name)
        fresh = {layer: names for layer, names in layers.items() if self._is_fresh(names)}
        names = [name for members in fresh.values() for name in members]
        trained = [name for name in compared if not self._old(name).is_constant]
        if len(fresh) > 1 and set(trained) <= set(names):
            self.done.update(names)
            yield self._nothing_restored(len(names))
            return
        if self._is_retrained(layers, fresh):
            fresh = {layer: names for layer, names in fresh.items() if self._has_reset(names)}
        hidden = all(self._is_hidden(name) for members in fresh.values() for name in members)
        for layer, members in fresh.items():
            self.done.update(members)
            parts = [
                f"{name.rpartition('/')[2]} {self.changed[name].initial}"
                for name in members
                if name in self.changed
            ]
            values = list_text(parts, _SHOWN)
            message = f"layer {layer!r} looks freshly initialised, not restored: {values}"
            yield Discrepancy("error", "layer.fresh", layer, message, _LISTS if hidden else "")

    def _is_fresh(self, names: Sequence[str]) -> bool:
        """Whether all of a layer's variables look like first values, and not as recorded."""
        changed = [name for name in names if name in self.changed]
        if not changed or any(self.changed[name].initial is None for name in changed):
            return False
        unchanged = (name for name in names if name not in self.changed)
        if not all(self._old(name).is_constant for name in unchanged):
            return False
        if self._has_reset(names):
            return len(changed) > 1
        return any(self.now.variables[self.pairs[name]].size >= MIN_SIZE for name in changed)

    def _is_retrained(
        self, layers: Mapping[str, Sequence[str]], fresh: Mapping[str, Sequence[str]]
    ) -> bool:
        """Whether most of the other layers have other values too: then a kernel that is spread as
        an initialiser would leave it may just have been trained to that.
        """
        rest = [
            any(name in self.changed or name in self.done for name in names)
            for layer, names in layers.items()
            if layer not in fresh and not all(self._old(name).is_constant for name in names)
        ]
        return 2 * sum(rest) > len(rest)

    def _has_reset(self, names: Sequence[str]) -> bool:
        """Whether a variable that training had moved is back at a constant, as a bias at zero."""
        return any(
            name in self.changed and self.changed[name].initial in CONSTANT for name in names
        )

    def _is_hidden(self, name: str) -> bool:
        return self._old(name).hidden or self.now.variables[self.pairs[name]].hidden

    def _nothing_restored(self, count: int) -> Discrepancy:
        slots = [
            (self._old(name), self.now.variables[other])
            for name, other in self.pairs.items()
            if self._old(name).role == "slot"
        ]
        message = f"no weight is as recorded: all {count} look freshly initialised"
        if slots and all(old.sha256 == new.sha256 for old, new in slots):
            message += f"; the {len(slots)} slots of the optimizer are as recorded"
            hint = "only the optimizer was restored: the model's part of the checkpoint was not"
            return Discrepancy("error", "weights.optimizer-only", "", message, hint)
        return Discrepancy("error", "weights.fresh", "", message, "the restore matched nothing")

    # -- the rest ----------------------------------------------------------------------------------

    def _merged(self, compared: Mapping[str, str]) -> Iterator[Discrepancy]:
        """Yield a note of each kernel that one side has with the factors of LoRA merged into it.

        Keras does that when it saves a model that is being adapted: both compute the same, which
        the outputs tell, and the values here cannot.
        """
        taken = set(self.pairs.values())
        sides = (
            [name for name in self.recorded.variables if name not in self.pairs],
            [name for name in self.now.variables if name not in taken],
        )
        for alone, owner in zip(sides, ("the golden", "this model"), strict=True):
            for name in compared:
                layer, _, variable = name.rpartition("/")
                factors = [f"{layer}/lora_{variable}_{factor}" for factor in ("a", "b")]
                if layer and set(factors) <= set(alone):
                    self.done |= {name, *factors}
                    message = (
                        f"{owner} has factors of LoRA beside it, which Keras merges into it when "
                        "it saves: what the outputs say counts"
                    )
                    yield Discrepancy("note", "weight.merged", name, message)

    def _summed(self) -> Iterator[Discrepancy]:
        groups: dict[tuple[str, str], list[str]] = defaultdict(list)
        for name, explanation in self.changed.items():
            if explanation.code in _SUMMED and name not in self.done:
                groups[explanation.code, explanation.group].append(name)
        for (code, group), names in groups.items():
            if len(names) > 1:
                self.done.update(names)
                message = f"{len(names)} weights are {group}: {list_text(names, _SHOWN)}"
                yield Discrepancy("error", code, "", message)

    def _absent(self) -> Iterator[Discrepancy]:
        contents_now = {sketch.sha256 for sketch in self.now.variables.values()}
        recorded_contents = {sketch.sha256 for sketch in self.recorded.variables.values()}
        layers: dict[str, list[str]] = defaultdict(list)
        for name, sketch in self.recorded.variables.items():
            if (
                name not in self.pairs
                and name not in self.done
                and sketch.role in _COMPARED
                and sketch.sha256 not in contents_now
            ):
                layers[layer_of(name)].append(name)
        for layer, names in layers.items():
            hint = _LISTS if all(self._old(name).hidden for name in names) else ""
            if len(names) > 1 and layer:
                ends = list_text([name.rpartition("/")[2] for name in names], _SHOWN)
                yield Discrepancy(
                    "error", "layer.missing", layer, f"no values for layer {layer!r}: {ends}", hint
                )
            else:
                for name in names:
                    yield Discrepancy("error", "weight.missing", name, f"no weight {name}", hint)
        taken = set(self.pairs.values())
        for name, sketch in self.now.variables.items():
            if (
                name not in taken
                and name not in self.done
                and sketch.role in _COMPARED
                and sketch.sha256 not in recorded_contents
            ):
                yield Discrepancy("warning", "weight.added", name, f"weight {name} is new")


def layer_of(name: str) -> str:
    """Return the layer that a variable's readable name begins with."""
    return name.rpartition("/")[0]


def _paired(recorded: Binding, now: Binding) -> dict[str, str]:
    """Return {recorded name: name now}: by name, else as alignment finds it, else by content."""
    if set(recorded.variables) == set(now.variables):
        return {name: name for name in recorded.variables}
    from ckptkit.align.matching import align

    alignment = align(_side(recorded), _side(now), content=False)
    pairs = {match.old: match.new for match in alignment.pairs}
    taken = set(pairs.values())
    groups: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for name, sketch in recorded.variables.items():
        if name not in pairs and not sketch.is_constant:
            groups[sketch.sha256][0].append(name)
    for name, sketch in now.variables.items():
        if name not in taken:
            groups[sketch.sha256][1].append(name)
    for left, right in groups.values():
        if len(left) == len(right) == 1:
            pairs[left[0]] = right[0]
    return pairs


def _side(binding: Binding) -> TensorSet:
    from ckptkit.align.matching import TensorSet
    from ckptkit.checkpoint.naming import Naming
    from ckptkit.stores.base import TensorSpec

    specs, names = {}, {}
    for name, sketch in binding.variables.items():
        specs[name] = TensorSpec(name, sketch.dtype, sketch.shape, 0)
        names[name] = Naming(
            name, sketch.role, sketch.full_name or name, sketch.aliases, sketch.slot_of
        )
    return TensorSet(specs, names)
