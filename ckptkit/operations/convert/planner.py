"""Making the plan: which tensor of SRC goes where, in LIKE's structure, SRC's own, or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.errors import UsageError
from ckptkit.operations.convert.builder import FIXED_STRUCTURES, PlanBuilder
from ckptkit.operations.convert.destination import Target
from ckptkit.operations.convert.model_files import compare_assets
from ckptkit.operations.convert.plan import ConvertOptions, Leftover, Plan
from ckptkit.operations.convert.sources import Sources
from ckptkit.operations.convert.ways_out import hints_for
from ckptkit.stores.registry import KERAS, SAVED_MODEL, Format
from ckptkit.stores.tensor_bundle.reader import OBJECT_GRAPH_KEY
from ckptkit.wording import operand, say


def make_plan(
    sources: Sequence[Checkpoint],
    like: Checkpoint | None,
    target: Target,
    options: ConvertOptions,
    *,
    template_drop_roles: frozenset[str] = frozenset(),
    same_keys: bool = False,
    asset_model: Checkpoint | None = None,
    template_name: str = "",
    with_hints: bool = True,
) -> Plan:
    """Return what a conversion would do.

    Args:
        sources: the checkpoints of SRC; several count as their average.
        like: the file whose structure the output takes; None for SRC's own structure, or none.
        target: what is written, and where.
        options: how to convert.
        template_drop_roles, same_keys, template_name: see `PlanBuilder`.
        asset_model: the model whose files (vocabularies) the output will have, where that is not
            the template.
        with_hints: whether to look for what helps where the plan has problems.

    Returns:
        The plan; its `problems` are for the caller to raise.

    Raises:
        UsageError: the options make no sense: a form that needs LIKE, a relaxation or a rule that
            did nothing.
    """
    if like is None:
        template_name = f"the {target.format.name} layout of {operand('SRC')}"
    builder = PlanBuilder(
        Sources(sources, options),
        like,
        target,
        options,
        template_drop_roles,
        same_keys,
        template_name,
    )
    template = _source_as_template(builder) if like is None else like
    _plan_tensors(builder, template)
    # The files of SRC beside tensors: by default they must be among those of the template.
    if asset_model is None and target.format.holds_model:
        asset_model = template
    _plan_assets(builder, asset_model)
    plan = builder.plan()
    if plan.ok or not with_hints:
        return plan

    def replan(other_options: ConvertOptions) -> Plan:
        return make_plan(
            sources,
            like,
            target,
            other_options,
            template_drop_roles=template_drop_roles,
            same_keys=same_keys,
            asset_model=asset_model,
            template_name=template_name,
            with_hints=False,
        )

    return replace(plan, hints=hints_for(plan, template, replan))


def _plan_tensors(builder: PlanBuilder, template: Checkpoint | None) -> None:
    """Plan every tensor, in one of three ways; only that one is imported."""
    if template is not None:
        from ckptkit.operations.convert.from_template import plan_from_template

        _check_template(builder, template)
        plan_from_template(builder, template)
    elif builder.target.is_bundle and OBJECT_GRAPH_KEY in builder.src.last.store.specs:
        from ckptkit.operations.convert.from_object_graph import plan_from_object_graph

        plan_from_object_graph(builder)
    else:
        from ckptkit.operations.convert.from_names import plan_from_names

        plan_from_names(builder)


def _source_as_template(builder: PlanBuilder) -> Checkpoint | None:
    """Return SRC where it can itself be the template of the output; None where none is needed.

    Raises UsageError where LIKE is missing.
    """
    row, last = builder.target.format, builder.src.last
    if row.structure not in FIXED_STRUCTURES:
        return None
    if last.store.format in row.templates:
        return Checkpoint(last.store)
    from ckptkit.operations.convert.from_meta_graph import graph_beside  # here, since few need it

    graph = graph_beside(last) if row.structure == SAVED_MODEL else None
    beside = say(f"‹graph={graph}›, the graph that lies beside it; or ") if graph else ""
    raise UsageError(
        _no_structure(last, row), where=str(last.path), hint=beside + _template_hint(row, last)
    )


def _no_structure(last: Checkpoint, row: Format) -> str:
    """Say why a file cannot give the structure of a format: it may hold one of another kind."""
    name = last.store.format
    if not _holds_old_model(last, row):
        return f"{name} holds no structure for {row.name}"
    from ckptkit.operations.needs.api import needs  # here, since it knows every format

    writer = needs(last.store.path).writer
    by = f"written by {writer}, " if writer else ""
    return f"{by}holds a model in the form of {name}, not in that of {row.name}"


def _holds_old_model(last: Checkpoint, row: Format) -> bool:
    """Whether a file holds a model of Keras whose config Keras 3 has another form for."""
    model = last.store.model
    return row.structure == KERAS and model is not None and any(x.class_name for x in model.layers)


def _template_hint(row: Format, last: Checkpoint) -> str:
    """Say which files give the structure of a format, or what translates that of SRC."""
    files = " or ".join(row.templates)
    if _holds_old_model(last, row):
        text = f"`ckptkit upgrade {last.path} NEW.keras` translates it; or ‹like› a {files} of it"
        return say(text)
    if row.structure == SAVED_MODEL:
        files += " of the model (a donor), or its .keras file"
    else:
        files += " of the model"
    return say(f"‹like› a {files}, or ‹model=package.module:function›")


def _is_frozen(template: Checkpoint) -> bool:
    """Whether the tensors of a template are no variables."""
    if template.store.format != SAVED_MODEL:
        return False
    from ckptkit.stores.saved_model.reader import SavedModel

    return isinstance(template.store, SavedModel) and template.store.bundle is None


def _check_template(builder: PlanBuilder, template: Checkpoint) -> None:
    """Raise UsageError for a template of which the form cannot be written."""
    row = builder.target.format
    if row.templates and template.store.format not in row.templates:
        raise UsageError(
            f"{say('‹like›')} is {template.store.format}; {row.name} needs "
            f"{' or '.join(row.templates)}",
            where=str(template.path),
        )
    if _is_frozen(template):
        what = "its weights are constants of its graph" if template.specs else "it has no variables"
        raise UsageError(
            f"{what}: there is nothing that other values could be put into",
            where=str(template.path),
            hint="use the model as it was before it was frozen, with variables/, as the donor",
        )
    if template.subtree is not None:
        raise UsageError(
            say("‹like› takes a whole file, not a part of one"), where=str(template.path)
        )
    if builder.options.root is not None:
        raise UsageError(say("‹root› and ‹like› exclude each other: ‹LIKE› has a root of its own"))


def _plan_assets(builder: PlanBuilder, asset_model: Checkpoint | None) -> None:
    """Account for the files of SRC; asset_model: the model whose files the output will have."""
    problems, leftovers, notes = compare_assets(builder.src.last, asset_model, builder.unused)
    builder.problems += problems
    builder.src.leftovers += [Leftover(name, "asset", 0, why) for name, why in leftovers]
    builder.notes += notes
