"""What changed of a model beside its variables: files, constants in the graph, settings of layers.

Constants are compared by content, since a graph that is saved again numbers its nodes anew.  Only
one that has a counterpart of other content is a finding; single floats (a scale, an epsilon) are
no more than a note, as versions of TensorFlow add and remove some.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ckptkit.golden.line_sketch import LineSketch, explain_lines, split_text
from ckptkit.model_io.signature import Discrepancy
from ckptkit.stores.registry import FORMATS

if TYPE_CHECKING:
    from ckptkit.golden.binding import Binding, ConstantSketch
    from ckptkit.stores.saved_model.constants import ConstantValue

_MAX_SCALARS = 8  # single floats that changed, beyond which another compiler wrote the graph
_FEW = 4


def file_changes(recorded: Binding, now: Binding) -> Iterator[Discrepancy]:
    """Yield what changed in assets, constants, single floats and layer settings."""
    from ckptkit.golden.keras_config import compare_layers

    yield from _assets(recorded, now)
    if recorded.form == now.form:
        yield from _constants(recorded, now)
        yield from _scalars(recorded.scalars, now.scalars)
    path = now.source.path if now.source is not None else None
    yield from compare_layers(recorded.layers, now.layers, path, now.form)


def _assets(recorded: Binding, now: Binding) -> Iterator[Discrepancy]:
    rows = [FORMATS.get(form) for form in (recorded.form, now.form)]
    if not all(row is not None and row.holds_model for row in rows):
        return
    old = dict(recorded.assets)
    new = dict(now.assets)
    for name, asset in list(old.items()):
        twin = name if new.get(name) == asset else _with_content(new, asset.sha256)
        if twin is not None:
            del old[name], new[twin]
    for name, asset in old.items():
        other = _counterpart(name, old, new)
        if other is None:
            yield Discrepancy("error", "asset.missing", name, f"no file like {name!r}")
        elif not new[other].sha256:
            yield Discrepancy("error", "asset.missing", other, f"the file {other!r} is missing")
        else:
            yield Discrepancy("error", "asset.changed", other, _file_text(asset, now, other))
        new.pop(other or "", None)
    for name in new:
        yield Discrepancy("warning", "asset.added", name, f"the file {name!r} is new")


def _with_content(files: Mapping[str, LineSketch], sha256: str) -> str | None:
    return next((name for name, asset in files.items() if asset.sha256 == sha256), None)


def _counterpart(
    name: str, old: Mapping[str, LineSketch], new: Mapping[str, LineSketch]
) -> str | None:
    """Return the file of that name, or of that last name, or the only one that is left."""
    if name in new:
        return name
    last = name.rpartition("/")[2]
    same = [other for other in new if other.rpartition("/")[2] == last]
    if len(same) == 1:
        return same[0]
    return next(iter(new)) if len(old) == len(new) == 1 else None


def _file_text(old: LineSketch, now: Binding, name: str) -> str:
    from ckptkit.stores.assets import small_asset

    data = small_asset(now.source.store, name) if now.source is not None else None
    if data is None or old.lines < 0:
        return "the file's content differs"
    return explain_lines(old, split_text(data))


# --- constants ------------------------------------------------------------------------------------


def _constants(recorded: Binding, now: Binding) -> Iterator[Discrepancy]:
    recorded_contents = {_content(constant) for constant in recorded.constants.values()}
    contents_now = {_content(constant) for constant in now.constants.values()}
    removed = {name: c for name, c in recorded.constants.items() if _content(c) not in contents_now}
    added = {name: c for name, c in now.constants.items() if _content(c) not in recorded_contents}
    # pairs of which neither has another candidate, by ever weaker likeness
    for alike in (_same_name, _same_shape, _both_text):
        for name, constant in list(removed.items()):
            twins = [other for other in added if alike(name, constant, other, added[other])]
            rivals = [other for other in removed if alike(other, removed[other], name, constant)]
            if len(twins) == 1 and len(rivals) == 1:
                yield _changed(name, constant, added[twins[0]], now, twins[0])
                del removed[name], added[twins[0]]
    for name, constant in removed.items():
        yield Discrepancy("note", "constant.gone", name, f"the graph's {_text(constant)} is gone")
    for name, constant in added.items():
        yield Discrepancy("note", "constant.new", name, f"{_text(constant)} is new in the graph")


def _content(constant: ConstantSketch) -> tuple[str, tuple[int, ...], str]:
    return constant.dtype, constant.shape, constant.content.sha256


def _same_name(name: str, old: ConstantSketch, name_now: str, new: ConstantSketch) -> bool:
    return name == name_now and old.dtype == new.dtype and len(old.shape) == len(new.shape)


def _same_shape(name: str, old: ConstantSketch, name_now: str, new: ConstantSketch) -> bool:
    return old.dtype == new.dtype and old.shape == new.shape


def _both_text(name: str, old: ConstantSketch, name_now: str, new: ConstantSketch) -> bool:
    return old.dtype == new.dtype == "string"


def _changed(
    name: str, old: ConstantSketch, new: ConstantSketch, now: Binding, other: str
) -> Discrepancy:
    message = f"the graph's {_text(old)} holds other values"
    hint = "constants stay as they are when the weights of a SavedModel are replaced"
    value = _value(now, new)
    if old.dtype == "string" and value is not None:
        message = (
            f"texts in the graph: {explain_lines(old.content, value.values.reshape(-1).tolist())}"
        )
        hint = "a vocabulary that is part of the graph"
    elif old.shape != new.shape:
        message = f"the graph's {_text(old)} is {_text(new)} now"
    severity = "error" if old.captured or new.captured else "warning"
    return Discrepancy(severity, "constant.changed", name, message, hint)


def _value(now: Binding, wanted: ConstantSketch) -> ConstantValue | None:
    """Return a constant's values, read again."""
    from ckptkit.stores.saved_model.constants import constant_values
    from ckptkit.stores.saved_model.reader import SavedModel

    if wanted.dtype != "string" or now.source is None:
        return None
    store = now.source.store
    if not isinstance(store, SavedModel):
        return None
    from ckptkit.golden.line_sketch import sketch_lines

    for value in constant_values(store):
        if value.dtype != "string" or value.shape != wanted.shape:
            continue
        if sketch_lines(value.values.reshape(-1).tolist()).sha256 == wanted.content.sha256:
            return value
    return None


def _text(constant: ConstantSketch) -> str:
    kind = "captured constant" if constant.captured else "constant"
    return f"{kind} {constant.dtype} {list(constant.shape)}"


def _scalars(old: Mapping[str, int], new: Mapping[str, int]) -> Iterator[Discrepancy]:
    removed, added = sorted(set(old) - set(new)), sorted(set(new) - set(old))
    if not old or not new or not 0 < len(removed) + len(added) <= _MAX_SCALARS:
        return
    parts = [f"{text} is gone" for text in removed[:_FEW]] + [
        f"{text} is new" for text in added[:_FEW]
    ]
    message = f"single floats in the graph: {', '.join(parts)}"
    yield Discrepancy("note", "constant.scalar", "", message, "a scale, a rate or an epsilon")
