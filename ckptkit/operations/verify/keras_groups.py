"""Names in a Keras HDF5 file, against what Keras would have called them.

No structure of HDF5 tells a name twice, so that one flipped bit in `layers` leaves a sound file
whose tensors go by other names, or are not found.  Keras chooses most of these names by rule: the
class of a layer in snake case and a counter, the number of a variable.  A name that is one bit
away from one that the rule asks for, and that is missing beside it, is a finding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ckptkit.operations.findings import Finding
from ckptkit.stores.base import KerasStructure
from ckptkit.stores.hdf5.types import H5Tree
from ckptkit.stores.keras.groups import LISTS
from ckptkit.stores.keras.layer_variables import (
    class_of_group,
    group_names,
    snake_case,
    variable_names,
)
from ckptkit.stores.keras.legacy_h5 import OPTIMIZER, TOP_LEVEL, listed_names
from ckptkit.text import lazy_pattern

# what Keras calls groups and attributes that stand for no layer
_GROUPS = (*LISTS, "vars", "optimizer", "inner_optimizer", "metrics", "cells", "forward_layer")
_MORE_GROUPS = ("backward_layer", "seed_generator", "input_layer", "layer")
_ROOT = ("model_weights", OPTIMIZER)
_ATTRIBUTES = ("name", "dtype", "layer_names", "weight_names", "model_config", "training_config")
_MORE_ATTRIBUTES = ("keras_version", "backend")
_ODD = lazy_pattern(r"[\x00-\x1f\x7f]|\\x[89a-f][0-9a-f]")  # a control character, or no UTF-8
_COUNTER = lazy_pattern(r"_\d+$")


def name_findings(
    where: str, tree: H5Tree, structure: KerasStructure | None, config: Any, *, legacy: bool
) -> Iterator[Finding]:
    """Yield a warning per name that is not what Keras writes.

    Args:
        where: the file.
        tree: of its HDF5 data.
        structure: what the reader made of the names.
        config: of the model, as JSON has it; None without one.
        legacy: whether the file lists its names in attributes, as Keras 1 and 2 do.
    """
    members: dict[str, dict[str, bool]] = {path: {} for path in tree.groups}
    for paths, is_group in ((tree.groups, True), (tree.datasets, False)):
        for path in paths:
            if path:
                above, _, name = path.rpartition("/")
                members.setdefault(above, {})[name] = is_group
    words = frozenset((*_GROUPS, *_MORE_GROUPS)) | group_names()
    classes, names = _config_words(config)
    for path, children in members.items():
        for name in children:
            if _ODD.search(name):
                yield _finding(where, path, name, "no name that Keras gives")
        if not legacy:
            yield from _by_rule(where, path, children, tree, words | classes)
        else:
            words_here = _ROOT if not path else (TOP_LEVEL,) if path == _ROOT[0] else ()
            yield from _misspelt(where, path, children, words_here)
        if path.rpartition("/")[2] == "vars":
            yield from _numbered(where, path, children)
    yield from _attributes(where, tree, names)
    if structure is not None:
        yield from _unsigned(where, tree, structure)
        if legacy:
            yield from _lists(where, tree, structure)


def _finding(where: str, path: str, name: str, what: str) -> Finding:
    return Finding(
        "warning",
        "names.odd",
        f"{where}: {path or '/'}",
        f"{repr(name)[:100]} is {what}",
        "one wrong bit does that; copy the file again",
    )


def one_bit(one: str, other: str) -> bool:
    """Whether two names are one bit apart, as they lie in a file, ended by a zero byte."""
    a, b = one.encode("utf-8", "surrogatepass"), other.encode("utf-8", "surrogatepass")
    if abs(len(a) - len(b)) > 1:
        return False
    size = max(len(a), len(b))
    difference = int.from_bytes(a.ljust(size, b"\0"), "big") ^ int.from_bytes(
        b.ljust(size, b"\0"), "big"
    )
    return difference.bit_count() == 1


def _misspelt(
    where: str, path: str, names: Iterable[str], words: Iterable[str]
) -> Iterator[Finding]:
    present = set(names)
    missing = [word for word in words if word not in present]
    for name in present.difference(words):
        for word in missing:
            if one_bit(name, word):
                yield _finding(where, path, name, f"one bit away from {word!r}, which is missing")


def _config_words(config: Any) -> tuple[frozenset[str], frozenset[str]]:
    """Return the group names of all classes in a config, and the names of all objects."""
    classes: set[str] = set()
    names: set[str] = set()
    pending = [config]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            kind, inner = item.get("class_name"), item.get("config")
            if isinstance(kind, str) and kind:
                classes.add(snake_case(kind.rpartition(">")[2]))
            if isinstance(inner, dict) and isinstance(inner.get("name"), str):
                names.add(inner["name"])
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
    return frozenset(classes), frozenset(names)


# --- groups of Keras 3 ----------------------------------------------------------------------------


def _by_rule(
    where: str, path: str, children: Mapping[str, bool], tree: H5Tree, words: frozenset[str]
) -> Iterator[Finding]:
    """Yield what is one bit from a word of Keras's, a counter, or an object's own name."""
    counts: dict[str, int] = {}
    for name in children:
        base = _COUNTER.sub("", name)
        counts[base] = counts.get(base, 0) + 1
    top = words | frozenset(_ROOT) if not path else words
    counters = {
        base: [w for w in (base, *(f"{base}_{n}" for n in range(1, count))) if w not in children]
        for base, count in counts.items()
    }
    for name, is_group in children.items():
        if not is_group:
            continue
        base = _COUNTER.sub("", name)
        tail = name[len(base) :]
        inside = f"{path}/{name}" if path else name
        wanted = list(counters[base])
        if base not in top:
            near = [word for word in top if -2 <= len(word) - len(base) <= 2]
            wanted += [word + end for word in near for end in {"", tail}]
            for other, missing in counters.items():
                if abs(len(other) - len(base)) <= 4:
                    wanted += missing
            own = tree.groups.get(f"{inside}/vars", {}).get("name")
            if isinstance(own, str):
                wanted += [own, _COUNTER.sub("", own) + tail]
        elif class_of_group(name) is not None and not _fits(inside, name, tree):
            wanted += [word + tail for word in top if _fits(inside, word, tree)]
        for word in wanted:
            if word not in children and one_bit(name, word):
                yield _finding(where, path, name, f"one bit away from {word!r}, which is missing")
                break


def _fits(path: str, name: str, tree: H5Tree) -> bool:
    """Whether the variables of a group are such as the class has that its name tells."""
    shapes: list[tuple[int, ...]] = []
    while f"{path}/vars/{len(shapes)}".lstrip("/") in tree.datasets:
        shapes.append(tree.datasets[f"{path}/vars/{len(shapes)}".lstrip("/")].shape)
    kind = class_of_group(name)
    if kind is None or not shapes:
        return kind is not None and not shapes
    return any(v is not None for v in variable_names(kind, None, shapes))


def _numbered(where: str, path: str, children: Mapping[str, bool]) -> Iterator[Finding]:
    """Yield variables that are not numbered from 0 on, where they are numbered at all."""
    numbers = {name for name in children if name.isdigit() and name.isascii()}
    expected = {str(number) for number in range(len(children))}
    missing = sorted(expected - numbers, key=int)
    for name in sorted(children.keys() - expected):
        near = [word for word in missing if one_bit(name, word)]
        if near:
            yield _finding(where, path, name, f"one bit away from {near[0]!r}, which is missing")
        elif name in numbers:
            yield _finding(where, path, name, f"the number of one of {len(children)} variables")


def _attributes(where: str, tree: H5Tree, names: frozenset[str]) -> Iterator[Finding]:
    words = (*_ATTRIBUTES, *_MORE_ATTRIBUTES)
    used = {attributes.get("name") for attributes in tree.groups.values()}
    free = names - used
    for path, attributes in tree.groups.items():
        for name in attributes:
            if _ODD.search(name):
                yield _finding(where, f"{path}@", name, "no name that Keras gives")
        yield from _misspelt(where, f"{path}@", attributes, words)
        own = attributes.get("name")
        if names and isinstance(own, str) and own not in names:
            for word in sorted(free):
                if one_bit(own, word):
                    what = f"one bit away from {word!r}, which the config has"
                    yield _finding(where, f"{path}@name", own, what)


def _unsigned(where: str, tree: H5Tree, structure: KerasStructure) -> Iterator[Finding]:
    """Yield counters that are unsigned: that is one bit of a type, and Keras has none."""
    for path, dataset in tree.datasets.items():
        variable = structure.variables.get(path)
        is_counter = variable is not None and variable.role == "counter"
        if dataset.dtype == "uint64" or (is_counter and dataset.dtype.startswith("uint")):
            yield Finding(
                "warning",
                "data.unsigned",
                f"{where}: {path}",
                f"is {dataset.dtype}, which Keras gives no variable of this kind",
                "one wrong bit makes a signed type unsigned",
                key=path,
            )


# --- lists of Keras 1 and 2 -----------------------------------------------------------------------


def _lists(where: str, tree: H5Tree, structure: KerasStructure) -> Iterator[Finding]:
    """Yield tensors that no list names, and names of the optimizer's that no tensor has."""
    for path in tree.datasets:
        if path not in structure.variables:
            yield Finding(
                "warning",
                "names.unlisted",
                f"{where}: {path}",
                "is in no list of its layer or optimizer",
                "Keras does not load it; one wrong bit in a name does that",
                key=path,
            )
    for name in listed_names(tree.groups.get(OPTIMIZER, {}), "weight_names") or []:
        if f"{OPTIMIZER}/{name}" not in tree.datasets:
            yield Finding(
                "error",
                "names.missing",
                f"{where}: {OPTIMIZER}/{name}",
                "is listed but not in the file",
                "Keras cannot load the optimizer's state; copy the file again",
            )
