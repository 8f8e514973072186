"""Which input or output of one model is which of another: by name, never by position.

What a converter adds to a name says nothing: `serving_default_image:0`, `image:0` and `image` are
one name, where no other shortens to the same.  Names that say nothing are paired only where one
partner can be meant: the last one left, or the only one of its dtype and shape.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ckptkit.model_io.signature import TensorInfo, fits
from ckptkit.text import lazy_pattern

_ADDED = lazy_pattern(r"^(?:serving_default_)?(.+?)(?::\d{1,4})?$", re.DOTALL)


def pair_names(
    old: Sequence[TensorInfo], new: Sequence[TensorInfo], renames: Mapping[str, str]
) -> dict[str, str]:
    """Return {old name: new name}, as far as it is told or only one can be meant.

    renames: what the user says, {old: new}.
    """
    taken = {info.name for info in new}
    found = {i.name: renames[i.name] for i in old if renames.get(i.name) in taken}
    for info in old:
        if info.name not in found and info.name in taken - set(found.values()):
            found[info.name] = info.name
    left, free = _rest(old, new, found)
    # then by what is left of a name without what converters add
    old_plain, new_plain = _plain(left), _plain(free)
    found |= {old_plain[name]: new_plain[name] for name in old_plain if name in new_plain}
    left, free = _rest(old, new, found)
    # the last one left of each side can only be the other
    if len(left) == len(free) == 1:
        found[left[0].name] = free[0].name
        return found
    # by dtype and shape only where neither has another candidate
    for info in left:
        twins = [other for other in free if fits(info, other)]
        rivals = [other for other in left if any(fits(other, twin) for twin in twins)]
        if len(twins) == 1 and len(rivals) == 1:
            (twin,) = twins
            found[info.name] = twin.name
    return found


def _rest(
    old: Sequence[TensorInfo], new: Sequence[TensorInfo], found: Mapping[str, str]
) -> tuple[list[TensorInfo], list[TensorInfo]]:
    done = set(found.values())
    return [i for i in old if i.name not in found], [i for i in new if i.name not in done]


def _plain(infos: Iterable[TensorInfo]) -> dict[str, str]:
    """Return {name without what converters add: name}, of those that stay apart."""
    plain = {info.name: _ADDED.sub(r"\1", info.name) for info in infos}
    counts = Counter(plain.values())
    return {short: name for name, short in plain.items() if counts[short] == 1}
