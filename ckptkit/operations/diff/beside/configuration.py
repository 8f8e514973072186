"""Two Keras configs, layer by layer: what is set in them, and which layer feeds which.

Layers are paired by name where both files have the same names.  Otherwise a name that a person gave
pairs, then what the pairing of tensors says of their layers, and of the others those that stand in
the same order; the rest is named as being in one file alone, or moved.  Names that Keras counts
(`dense_7`) tell nothing: a model that is built second has others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from ckptkit.golden.keras_config import decides
from ckptkit.operations.configuration.calls import (
    Calls,
    TensorOf,
    sorted_by_argument,
    without_arguments,
)
from ckptkit.operations.configuration.casts import without_masks
from ckptkit.operations.configuration.defaults import folded
from ckptkit.operations.configuration.node import ConfigNode
from ckptkit.operations.configuration.tree import tree_of
from ckptkit.operations.configuration.values import (
    Settings,
    class_of,
    defaults_below,
    family_of,
    is_same,
    mirrored,
    text_of,
)
from ckptkit.wording import operand

_MAX_COMPARED = 4_000_000  # layers times layers; matching takes that many steps
_MAX_WEIGHED = 90_000  # of these, where settings and names are weighed too
_MAX_SHOWN = 40
_FEW = 8  # items of a list that is shown whole
_NOT_SET = "(not set)"
_SPECIAL = "@"  # of rows that are no setting
Pair = tuple[ConfigNode, ConfigNode]


class ConfigChange(NamedTuple):
    """One thing that two configurations differ by.

    where: the path of the layer in OLD, or in NEW where OLD has none; "" is the model.
    what: "option", "class", "added", "removed", "moved", "renamed", "inputs" (what feeds it, or
    what goes into the model), "outputs", "argument", "code", "compiled" or "layers".
    option: the setting or argument, dotted.  old, new: plain values; None where there is none.
    computes: whether it decides what is computed, and not only how a model is trained or called.
    """

    where: str
    what: str
    option: str
    old: Any
    new: Any
    computes: bool

    def __str__(self) -> str:
        old, new = shown(self.old), shown(self.new)
        where = self.where or "the model"
        has = f"{self.where}/has" if self.where else "the model has"
        texts = {
            "class": f"{where} is of class {old} → {new}",
            "added": f"{where} ({new}) is only in {operand('NEW')}",
            "removed": f"{where} ({old}) is only in {operand('OLD')}",
            "moved": f"{where} is moved: {old} → {new}",
            "renamed": f"{where} is renamed: {old} → {new}",
            "inputs": f"{where} is fed by {old} → {new}",
            "argument": f"{where}: argument {self.option} {old} → {new}",
            "code": f"{where}: the Python code of {self.option} has other bytes",
            "compiled": f"compiled: {self.option} {old} → {new}",
            "layers": f"{where} has {old} → {new} layers",
        }
        if self.what in ("inputs", "outputs") and self.option == _SPECIAL:
            return f"{has} the {self.what} {old} → {new}"
        return texts.get(self.what, f"{where}: {self.option} {old} → {new}")

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        option = None if self.option in ("", _SPECIAL) else self.option
        return {
            "where": self.where or None,
            "what": self.what,
            "option": option,
            "old": self.old,
            "new": self.new,
            "computes": self.computes,
        }


def configuration_differences(old: object, new: object) -> list[str]:
    """Return a sentence per setting, layer and connection that decides what is computed.

    Args:
        old: the config of a Keras model, as JSON has it; anything else says nothing.
        new: the other.
    """
    return [
        str(change)
        for change in configuration_changes(tree_of(old), tree_of(new))
        if change.computes
    ]


def configuration_changes(
    old: ConfigNode | None, new: ConfigNode | None, layers: Mapping[str, str] | None = None
) -> list[ConfigChange]:
    """Return all that two configurations differ by.

    Args:
        old: the tree of the one; None says nothing.
        new: the tree of the other.
        layers: which layer of OLD is which of NEW, by path, as far as tensors tell.
    """
    if old is None or new is None:
        return []
    comparison = _Comparison(dict(layers or {}), old.is_old != new.is_old)
    return list(comparison.of_models(old, new))


@dataclass
class _Comparison:
    """One comparison under way.

    by_tensors: path in OLD -> path in NEW.  is_translated: whether one of the two is of Keras 1 or
    2.  removed, added: layers without a partner so far.
    """

    by_tensors: Mapping[str, str]
    is_translated: bool
    removed: list[tuple[str, ConfigNode]] = field(default_factory=list)
    added: list[tuple[str, ConfigNode]] = field(default_factory=list)

    def of_models(self, old: ConfigNode, new: ConfigNode) -> Iterator[ConfigChange]:
        yield from _of_root(old, new, is_translated=self.is_translated)
        yield from self.of_layers(old, new, "", "")
        yield from self.of_the_rest()
        yield from _of_compiled(old.compiled, new.compiled)

    def of_layers(
        self, old: ConfigNode, new: ConfigNode, above: str, above_new: str
    ) -> Iterator[ConfigChange]:
        """Compare the layers of two models; above: their paths, "outer/", "" for the root."""
        if not old.layers or not new.layers:
            return
        sides = [list(side.layers) for side in (old, new)]
        if self.is_translated:
            sides = [without_masks(side.layers, side.outputs) for side in (old, new)]
        inner = [[x for x in side if not x.is_input] for side in sides]
        if len(inner[0]) != len(inner[1]) and len(inner[0]) * len(inner[1]) > _MAX_COMPARED:
            sizes = [f"{len(side):,}" for side in inner]
            yield ConfigChange(above.rstrip("/"), "layers", "", sizes[0], sizes[1], True)
            return
        pairs = self.paired(inner[0], inner[1], above, above_new)
        inputs = _paired_inputs(*([x for x in side.layers if x.is_input] for side in (old, new)))
        for one, other in (*inputs, *pairs):
            yield from self.of_pair(one, other, above + one.name, above_new + other.name)
        paired = [{id(pair[side]) for pair in pairs} for side in (0, 1)]
        for side, where, alone in ((0, above, self.removed), (1, above_new, self.added)):
            alone += [(where + x.name, x) for x in inner[side] if id(x) not in paired[side]]
        names = {one.name: other.name for one, other in (*inputs, *pairs)}
        is_whole = all(len(paired[side]) == len(inner[side]) for side in (0, 1))
        yield from _of_connections(
            above, (old, new), pairs, names, is_whole=is_whole, is_translated=self.is_translated
        )

    def of_pair(
        self, old: ConfigNode, new: ConfigNode, path: str, new_path: str
    ) -> Iterator[ConfigChange]:
        nested = bool(old.layers) and bool(new.layers)
        if old.class_name != new.class_name:
            is_one = class_of(old.class_name) == class_of(new.class_name)
            if not nested or {old.kind, new.kind} <= {"sequential", "functional"}:
                yield ConfigChange(
                    path, "class", "", old.class_name, new.class_name, not (nested or is_one)
                )
            if not nested:
                return
        if old.name != new.name and not (old.is_automatic and new.is_automatic):
            yield ConfigChange(path, "renamed", "", old.name, new.name, False)
        yield from _of_settings(path, old, new, is_translated=self.is_translated)
        if nested:
            yield from self.of_layers(old, new, f"{path}/", f"{new_path}/")

    def of_the_rest(self) -> Iterator[ConfigChange]:
        """Yield what is in one file alone; what stands elsewhere in the other is moved."""
        left = list(self.removed)
        for path, layer in left:
            place = self.by_tensors.get(path)
            twins = [
                item
                for item in self.added
                if item[1].class_name == layer.class_name
                and (item[0] == place if place else item[1].name == layer.name)
                and not (place is None and layer.is_automatic)
            ]
            if len(twins) == 1:
                self.added.remove(twins[0])
                self.removed.remove((path, layer))
                yield ConfigChange(path, "moved", "", path, twins[0][0], True)
                yield from self.of_pair(layer, twins[0][1], path, twins[0][0])
        for path, layer in self.removed:
            yield ConfigChange(path, "removed", "", layer.class_name, None, True)
        for path, layer in self.added:
            yield ConfigChange(path, "added", "", None, layer.class_name, True)

    def paired(
        self, old: Sequence[ConfigNode], new: Sequence[ConfigNode], above: str, above_new: str
    ) -> list[Pair]:
        by_name = {layer.name: layer for layer in new}
        names = [layer.name for layer in old]
        if len(set(names)) == len(names) and set(names) == set(by_name) and len(new) == len(old):
            return [(layer, by_name[layer.name]) for layer in old]
        # A name that a person gave holds wherever it stands; then tensors tell whose layer is whose
        # and the others are known by their order.
        given = [{x.name: x for x in side if not x.is_automatic} for side in (old, new)]
        pairs = [(given[0][name], given[1][name]) for name in given[0] if name in given[1]]
        taken = {id(layer) for pair in pairs for layer in pair}
        for layer in old:
            place = self.by_tensors.get(above + layer.name, "")
            other = by_name.get(place.removeprefix(above_new)) if place else None
            if other is not None and id(layer) not in taken and id(other) not in taken:
                pairs.append((layer, other))
                taken |= {id(layer), id(other)}
        rest = [[layer for layer in side if id(layer) not in taken] for side in (old, new)]
        ordered = list(_in_order(*rest))
        whole = len(ordered) == len(rest[0]) == len(rest[1])  # all of them renamed, say
        return [
            *pairs,
            *(pair for pair in ordered if whole or all(layer.is_automatic for layer in pair)),
        ]


# -- which layer is which --------------------------------------------------------------------------


def _in_order(old: Sequence[ConfigNode], new: Sequence[ConfigNode]) -> Iterator[Pair]:
    """Yield layers of one class that stand in one order on both sides, as many as there are.

    Of several ways to pair them, the one in which most have the same settings, then the same name.
    """
    left, right = ([class_of(layer.class_name) for layer in side] for side in (old, new))
    if left == right:
        yield from zip(old, new, strict=True)
    elif len(left) * len(right) <= _MAX_WEIGHED:
        for at, other in _weighed(*([_looks(layer) for layer in side] for side in (old, new))):
            yield old[at], new[other]
    elif len(left) * len(right) <= _MAX_COMPARED:
        for a, b, size in SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks():
            yield from zip(old[a : a + size], new[b : b + size], strict=True)


def _looks(layer: ConfigNode) -> tuple[str, str, str]:
    return class_of(layer.class_name), text_of(layer.settings), layer.name


def _weighed(
    old: Sequence[tuple[str, ...]], new: Sequence[tuple[str, ...]]
) -> list[tuple[int, int]]:
    """Return the longest common subsequence by class, weighed by what else is equal."""
    best = [[0] * (len(new) + 1) for _ in range(len(old) + 1)]
    for i in range(len(old) - 1, -1, -1):
        for j in range(len(new) - 1, -1, -1):
            paired = best[i + 1][j + 1] + _likeness(old[i], new[j])
            best[i][j] = max(best[i + 1][j], best[i][j + 1], paired)
    pairs, i, j = [], 0, 0
    while i < len(old) and j < len(new):
        likeness = _likeness(old[i], new[j])
        if likeness and best[i][j] == best[i + 1][j + 1] + likeness:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return pairs


def _likeness(old: tuple[str, ...], new: tuple[str, ...]) -> int:
    """Return 0 for layers of two classes, else 8 and more: a pair more counts most."""
    return (8 + 4 * (old[1] == new[1]) + (old[2] == new[2])) if old[0] == new[0] else 0


def _paired_inputs(old: Sequence[ConfigNode], new: Sequence[ConfigNode]) -> list[Pair]:
    """Pair inputs: the same names, else in order where there are as many."""
    by_name = {layer.name: layer for layer in new}
    if {layer.name for layer in old} == set(by_name):
        return [(layer, by_name[layer.name]) for layer in old]
    return list(zip(old, new, strict=True)) if len(old) == len(new) else []


# -- what differs in a pair ------------------------------------------------------------------------


def _of_root(old: ConfigNode, new: ConfigNode, *, is_translated: bool) -> Iterator[ConfigChange]:
    """Yield what differs in the models themselves."""
    kinds = {old.kind, new.kind}
    if class_of(old.class_name) != class_of(new.class_name):
        computes = not kinds & {"functional", "sequential"}
        yield ConfigChange("", "class", "", old.class_name, new.class_name, computes)
        return
    if old.name != new.name and not (old.is_automatic and new.is_automatic):
        yield ConfigChange("", "renamed", "", old.name, new.name, False)
    yield from _of_settings("", old, new, is_translated=is_translated)


def _may_be_one_axis(old: Any, new: Any, rank: int | None) -> bool:
    """Whether two axes may be one, counted from either end: Keras 2 saves the number from 0."""
    if type(old) is not int or type(new) is not int or (old < 0) == (new < 0):
        return False
    return rank is None or old % rank == new % rank


def _are_floats(old: Any, new: Any) -> bool:
    """Whether both dtypes are: Keras 2 gives a layer that looks words up that of its output."""
    return all("float" in str(value) for value in (old, new))


def _of_settings(
    path: str, old: ConfigNode, new: ConfigNode, *, is_translated: bool = False
) -> Iterator[ConfigChange]:
    is_container = {old.kind, new.kind} <= {"functional", "sequential"}
    for key, before, after in differences(old.settings, new.settings, old.defaults, new.defaults):
        parts = [part.partition("[")[0] for part in key.split(".")]
        computes = all(map(decides, parts)) and _NOT_SET not in (before, after)
        computes &= not is_container or parts[0] == "input"  # the rest is that of their layers
        if _NOT_SET in (before, after) and parts[0] == "input":
            continue  # a Sequential model that is not built does not know it
        if is_translated and key == "dtype" and (is_container or not _are_floats(before, after)):
            continue
        if parts[-1] == "axis" and _may_be_one_axis(before, after, new.rank or old.rank):
            if is_translated:
                continue
            computes = False
        where, option = path, key.removesuffix(".class")
        if is_container and parts[0] == "input" and old.input_name:
            where, option = f"{path}/{old.input_name}".lstrip("/"), key.removeprefix("input.")
        yield ConfigChange(where, "option", option, before, after, computes)
    for key in sorted(set(old.codes) & set(new.codes)):
        if old.codes[key] != new.codes[key]:
            yield ConfigChange(path, "code", key, old.codes[key], new.codes[key], False)


def _of_compiled(old: Settings | None, new: Settings | None) -> Iterator[ConfigChange]:
    if old is None and new is None:
        return
    if old is None or new is None:
        sides = ["not compiled" if side is None else "compiled" for side in (old, new)]
        yield ConfigChange("", "compiled", "the model is", sides[0], sides[1], False)
        return
    for key, before, after in differences(old, new, {}, {}):
        yield ConfigChange("", "compiled", key.removesuffix(".class"), before, after, False)


# -- what feeds what -------------------------------------------------------------------------------


def _of_connections(
    above: str,
    models: Pair,
    pairs: Sequence[Pair],
    names: Mapping[str, str],
    *,
    is_whole: bool,
    is_translated: bool,
) -> Iterator[ConfigChange]:
    if {model.kind for model in models} == {"sequential"}:
        if is_whole:
            yield from _of_order(above, models, names)
        return
    known = set(names), set(names.values())
    are_one = _are_one_of_two_kerases if is_translated else _are_one
    for old, new in pairs:
        feeds = [feed.renamed(names) for feed in old.calls.feeds], new.calls.feeds
        is_known = all(
            feed.layer in known[side]
            for side, layer in ((0, old), (1, new))
            for feed in layer.calls.feeds
        )
        if all(feeds) and not are_one(*feeds) and (is_whole or is_known):
            sides = _some(old.calls.feeds), _some(new.calls.feeds)
            yield ConfigChange(above + old.name, "inputs", "", *sides, True)
        masks = [mask.renamed(names) for mask in old.calls.masks]
        if masks != list(new.calls.masks) and is_whole and not is_translated:
            sides = _some(old.calls.masks), _some(new.calls.masks)
            yield ConfigChange(above + old.name, "argument", "mask", *sides, False)
        yield from _of_arguments(above + old.name, old.calls, new.calls)
    if not is_whole:
        return
    for what in ("inputs", "outputs"):
        ends: list[Sequence[TensorOf]] = [getattr(model, what) for model in models]
        if all(ends) and not are_one([end.renamed(names) for end in ends[0]], ends[1]):
            sides = _some(ends[0]), _some(ends[1])
            yield ConfigChange(above.rstrip("/"), what, _SPECIAL, *sides, True)


def _are_one(old: Sequence[TensorOf], new: Sequence[TensorOf]) -> bool:
    """Whether two calls pass the same by the same places and names."""
    return sorted_by_argument(old) == sorted_by_argument(new)


def _are_one_of_two_kerases(old: Sequence[TensorOf], new: Sequence[TensorOf]) -> bool:
    """Whether a call of Keras 2 passes the same as one of Keras 3, which may name what it passes.

    Keras 2 lists the states of a recurrent layer after what it is called with.
    """
    return _are_one(old, new) or (
        any(tensor.argument for tensor in old) != any(tensor.argument for tensor in new)
        and without_arguments(old) == without_arguments(new)
    )


def _of_arguments(path: str, old: Calls, new: Calls) -> Iterator[ConfigChange]:
    for key in sorted({*old.constants, *new.constants}):
        before, after = old.constants.get(key, _NOT_SET), new.constants.get(key, _NOT_SET)
        if not is_same(before, after):
            computes = _NOT_SET not in (before, after) and not key.endswith(("training", "mask"))
            yield ConfigChange(path, "argument", key, before, after, computes)


def _of_order(above: str, models: Pair, names: Mapping[str, str]) -> Iterator[ConfigChange]:
    """Yield the layers of a Sequential model that stand elsewhere in the other: as few as can be.

    What keeps its order is a longest common subsequence.
    """
    orders = [[x.name for x in model.layers if not x.is_input] for model in models]
    orders[0] = [names.get(name, name) for name in orders[0]]
    if orders[0] == orders[1]:
        return
    back = {new: old for old, new in names.items()}
    blocks = SequenceMatcher(None, orders[0], orders[1], autojunk=False).get_matching_blocks()
    kept = {name for start, _, size in blocks for name in orders[0][start : start + size]}
    for at, name in enumerate(orders[0]):
        if name not in kept:
            places = f"place {at + 1}", f"place {orders[1].index(name) + 1}"
            yield ConfigChange(above + back.get(name, name), "moved", "", *places, True)


def _some(tensors: Sequence[TensorOf]) -> str:
    names = [str(tensor) for tensor in tensors]
    return "+".join(names[:3]) + ("+…" if len(names) > 3 else "") or "none"


# -- settings --------------------------------------------------------------------------------------


def differences(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    old_defaults: Mapping[str, Any],
    new_defaults: Mapping[str, Any],
) -> Iterator[tuple[str, Any, Any]]:
    """Yield (path, of OLD, of NEW) of the settings that differ; one left out has its default."""
    old, new = _with_second(old, new), _with_second(new, old)
    for key in sorted({*old, *new}):
        before = old.get(key, old_defaults.get(key, _NOT_SET))
        after = new.get(key, new_defaults.get(key, _NOT_SET))
        yield from _of_values(before, after, key)


def _of_values(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        if old.get("class") != new.get("class"):
            yield path, old.get("class", _NOT_SET), new.get("class", _NOT_SET)
            return
        old, new = _with_second(old, new), _with_second(new, old)
        name = path.rpartition(".")[2].partition("[")[0]
        defaults = defaults_below(str(old["class"]), name) if "class" in old else {}
        for key in sorted({*old, *new}):
            default = defaults.get(key, _NOT_SET)
            below = f"{path}.{key}"
            yield from _of_values(old.get(key, default), new.get(key, default), below)
    elif isinstance(old, Mapping) != isinstance(new, Mapping):
        # one version wrote the object, the other its name alone
        sides = [_named(value, other, path) for value, other in ((old, new), (new, old))]
        if all(isinstance(side, Mapping) for side in sides):
            yield from _of_values(sides[0], sides[1], path)
        else:
            yield path, old, new
    elif _are_alike_lists(old, new):
        for at, (left, right) in enumerate(zip(old, new, strict=True)):
            yield from _of_values(left, right, f"{path}[{at}]")
    elif not _same(old, new, path.rpartition(".")[2]):
        yield path, old, new


def _with_second(settings: Mapping[str, Any], others: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return settings of Bidirectional with the second layer that it makes of its first one.

    As they are, where `others` leave theirs out as well: so `values.settings_of` has it.
    """
    first = settings.get("layer")
    if "backward_layer" in settings or "backward_layer" not in others:
        return settings
    return {**settings, "backward_layer": mirrored(first)} if isinstance(first, dict) else settings


def _are_alike_lists(old: Any, new: Any) -> bool:
    """Whether to compare item by item: lists of one length, of more than a few plain values."""
    if not isinstance(old, list) or not isinstance(new, list) or len(old) != len(new):
        return False
    is_plain = not any(isinstance(item, (list, Mapping)) for item in (*old, *new))
    return not is_plain or len(old) > _FEW


def _named(value: Any, other: Any, path: str) -> Any:
    """Return the name of an object as that object without settings, where the other one is it.

    Of an activation by the very name: a function and a layer may differ in letters' case alone
    (`relu`, `ReLU`).
    """
    if isinstance(value, str) and isinstance(other, Mapping):
        kind = str(other.get("class"))
        is_activation = family_of(path.rpartition(".")[2]) == "activations"
        same = value == kind if is_activation else folded(value) == folded(kind)
        return {"class": kind} if same else value
    return value


def _same(old: Any, new: Any, key: str) -> bool:
    if isinstance(old, list) != isinstance(new, list):
        # `kernel_size=3` and `[3, 3]` are one setting of old and new versions
        many, one = (old, new) if isinstance(old, list) else (new, old)
        return bool(many) and all(is_same(item, one) for item in many)
    return is_same(old, new)


def shown(value: Any) -> str:
    """Return a setting as one short word or so."""
    if isinstance(value, Mapping) and "class" in value:
        settings = ", ".join(f"{k}={text_of(v)}" for k, v in value.items() if k != "class")
        value = f"{value['class']}({settings})" if settings else value["class"]
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"
