"""The names of tensors as alignment asks for them, and what two sides' names have in common."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping

from ckptkit.align.types import TensorSet
from ckptkit.checkpoint.naming import Naming
from ckptkit.text import lazy_pattern

_PRIVATE = lazy_pattern(r"(?:^|(?<=/))_+(?=[a-z])")


def labels_of(side: TensorSet) -> dict[str, list[str]]:
    """Return the names by which a rule may call each tensor, best first."""
    return {key: labels(side, key) for key in side.keys}


def labels(side: TensorSet, key: str) -> list[str]:
    """Return the names of one tensor, best first: readable name, full name, object paths."""
    naming = side.names[key]
    return [name for name in (naming.name, naming.full_name, *side.paths[key]) if name]


def best_label(naming: Naming) -> str:
    """Return the name that the producing program gave, else the readable one."""
    return naming.full_name or naming.name


def ends(name: str) -> str | None:
    """Return the first and last part of a name; old HDF5 files leave out what is between."""
    parts = name.split("/")
    return f"{parts[0]}/{parts[-1]}" if len(parts) > 1 else None


def abridges(left: str, right: str) -> bool:
    """Whether one name is the other with some of its parts left out."""
    short, long = sorted((left.split("/"), right.split("/")), key=len)
    rest = iter(long)
    return all(part in rest for part in short)


def unique_labels(
    keys: Iterable[str], side: TensorSet, name: Callable[[Naming], str]
) -> dict[str, str]:
    """Return {name: key} for the names that only one key has."""
    keys_by_name: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        keys_by_name[name(side.names[key])].append(key)
    return {
        label: same_name[0]
        for label, same_name in keys_by_name.items()
        if label and len(same_name) == 1
    }


def shared_labels(
    left: Mapping[str, Iterable[str]], right: Mapping[str, Iterable[str]]
) -> list[tuple[str, str]]:
    """Return the pairs of keys that share a label, where each is the other's only one.

    A label that several tensors of one side have says nothing.
    """
    owners = [_owners(labels) for labels in (left, right)]
    partners: dict[str, set[str]] = defaultdict(set)
    back: dict[str, set[str]] = defaultdict(set)
    for label, left_key in owners[0].items():
        right_key = owners[1].get(label)
        if left_key is not None and right_key is not None:
            partners[left_key].add(right_key)
            back[right_key].add(left_key)
    return [
        (key, other)
        for key, others in partners.items()
        if len(others) == 1
        for other in others
        if len(back[other]) == 1
    ]


def _owners(labels: Mapping[str, Iterable[str]]) -> dict[str, str | None]:
    """Return {label: the key that has it}, None where several have it."""
    owners: dict[str, str | None] = {}
    for key, key_labels in labels.items():
        for label in key_labels:
            owners[label] = key if owners.get(label, key) == key else None
    return owners


def heads(paths: Mapping[str, Iterable[str]], weights: int) -> list[str]:
    """Return "" and the first one and two steps that more than half of the weights lie below."""
    counts: Counter[str] = Counter()
    for key_paths in paths.values():
        found: set[str] = set()
        for path in key_paths:
            steps = path.split("/")
            found.update("/".join(steps[:depth]) + "/" for depth in (1, 2) if len(steps) > depth)
        counts.update(found)
    large = [head for head, count in counts.items() if count * 2 > weights]
    return ["", *sorted(large, key=lambda head: (head.count("/"), head))]


def paths_below(paths: Mapping[str, Iterable[str]], head: str) -> dict[str, list[str]]:
    """Return the paths below `head`; `_layers` and `layers` are one edge (Keras keeps both)."""
    return {
        key: [_PRIVATE.sub("", path[len(head) :]) for path in key_paths if path.startswith(head)]
        for key, key_paths in paths.items()
    }
