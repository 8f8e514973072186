"""Making the plan: which tensor of SRC goes where, in LIKE's structure, SRC's own, or none."""

from __future__ import annotations

from collections.abc import Sequence

from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.errors import UsageError
from ckptkit.operations.convert import model_files as _files
from ckptkit.operations.convert.builder import FIXED_FORMS, Draft
from ckptkit.operations.convert.destination import Target
from ckptkit.operations.convert.from_names import by_name
from ckptkit.operations.convert.from_object_graph import by_own_graph
from ckptkit.operations.convert.from_template import by_like
from ckptkit.operations.convert.plan import Plan, Request, Skipped
from ckptkit.operations.convert.sources import Sources
from ckptkit.stores.tensor_bundle.reader import OBJECT_GRAPH_KEY

_LIKE_FORMATS = {
    "saved_model": ("saved-model",),
    "checkpoint": ("tensor-bundle", "saved-model"),
    "keras": ("keras",),
    "weights.h5": ("weights.h5", "keras"),
}
_MODEL = "--model package.module:function"
_HINTS = {
    "saved_model": f"--like a SavedModel of the model (a donor), or its .keras file, or {_MODEL}",
    "keras": f"--like a .keras file of the model, or {_MODEL}",
    "weights.h5": f"--like a .weights.h5 or .keras file of the model, or {_MODEL}",
}


def make_plan(
    sources: Sequence[Checkpoint],
    like: Checkpoint | None,
    target: Target,
    request: Request,
    *,
    like_drop: frozenset[str] = frozenset(),
    same_keys: bool = False,
    holder: Checkpoint | None = None,
    structure: str = "LIKE",
) -> Plan:
    """Return the plan; its `problems` are for the caller to raise.

    like_drop, same_keys, structure: see `Draft`.  holder: the model whose files (vocabularies) the
    output will have, where that is not LIKE.
    Raises UsageError for a request that makes no sense: a form that needs LIKE, a relaxation or a
    rule that did nothing.
    """
    if like is None:
        structure = f"the {target.form} layout of SRC"
    draft = Draft(Sources(sources, request), like, target, request, like_drop, same_keys, structure)
    layout = _own_layout(draft) if like is None else like
    if layout is not None:
        _check_like(draft, layout)
        by_like(draft, layout)
    elif target.form == "checkpoint" and OBJECT_GRAPH_KEY in draft.src.last.store.specs:
        by_own_graph(draft)
    else:
        by_name(draft)
    _assets(draft, layout if holder is None else holder, kept=holder is not None)
    return draft.plan()


def _own_layout(draft: Draft) -> Checkpoint | None:
    """Return SRC where it can itself be the layout of the output; None where none is needed.

    Raises UsageError where LIKE is missing.
    """
    form, last = draft.target.form, draft.src.last
    if form not in FIXED_FORMS:
        return None
    if last.store.format in _LIKE_FORMATS[form]:
        return Checkpoint(last.store)
    raise UsageError(
        f"{last.store.format} holds no structure for {form}",
        where=str(last.path),
        hint=_HINTS[form],
    )


def _check_like(draft: Draft, like: Checkpoint) -> None:
    wanted = _LIKE_FORMATS.get(draft.target.form)
    if wanted is not None and like.store.format not in wanted:
        raise UsageError(
            f"--like is {like.store.format}; {draft.target.form} needs {' or '.join(wanted)}",
            where=str(like.path),
        )
    if like.subtree is not None:
        raise UsageError("--like takes a whole file, not a part of one", where=str(like.path))
    if draft.request.root is not None:
        raise UsageError("--root and --like exclude each other: LIKE has a root of its own")


def _assets(draft: Draft, layout: Checkpoint | None, *, kept: bool) -> None:
    holder = layout if kept or draft.target.form in ("saved_model", "keras") else None
    problems, skipped, notes = _files.compare_assets(draft.src.last, holder, draft.unused)
    draft.problems += problems
    draft.src.skipped += [Skipped(name, "asset", 0, why) for name, why in skipped]
    draft.notes += notes
