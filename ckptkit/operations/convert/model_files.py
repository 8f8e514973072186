"""What SavedModels and Keras archives hold beside tensors, and what becomes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from pathlib import PurePosixPath

from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.operations.convert.problems import Allowance, Problem, describe
from ckptkit.stores.assets import assets
from ckptkit.stores.registry import SAVED_MODEL, format_of
from ckptkit.text import count_text
from ckptkit.wording import operand


def check_template(template: Checkpoint, duplicates: Mapping[str, str]) -> list[Problem]:
    """Return what makes a SavedModel unfit to be a template: its graph and variables disagree.

    Args:
        template: any file; one that is no SavedModel has no such problem.
        duplicates: key of each tensor that it repeats -> key of the first.
    """
    store = template.store
    if store.format != SAVED_MODEL:
        return []
    from ckptkit.stores.saved_model import replaceable
    from ckptkit.stores.saved_model.reader import SavedModel

    assert isinstance(store, SavedModel)
    problems = []
    ambiguous = _ambiguous_duplicates(template, duplicates)
    for expected in replaceable.variables(store):
        for key in expected.keys:
            spec = store.specs.get(key)
            reason = replaceable.disagreement(expected, spec) if spec else "not among its variables"
            if reason:
                message = f"the donor is stale: {expected.name or key} is {reason}"
                problems.append(Problem("stale", expected.name or key, message))
            if expected.captured and key in ambiguous:
                name = template.names[key].name
                message = (
                    f"{name} of the donor repeats one of several equal tensors, and its functions "
                    "read it: use a donor whose weights differ (a trained one)"
                )
                problems.append(Problem("stale", name, message))
    for name, digest in assets(store).items():
        if digest is None:
            message = f"{name} is named in the donor's graph and is not there"
            problems.append(Problem("asset", name, message))
    return problems


def _ambiguous_duplicates(template: Checkpoint, duplicates: Mapping[str, str]) -> Container[str]:
    """Return the repeated tensors whose original could be any of several equal ones."""

    def content(key: str) -> tuple[object, ...]:
        spec = template.specs[key]
        return spec.dtype, spec.shape, spec.crc32c, template.names[key].full_name

    originals = Counter(content(key) for key in set(duplicates.values()))
    return {key for key in duplicates if originals[content(key)] > 1}


def notes_on_template(template: Checkpoint) -> list[str]:
    """Return what does not follow the new weights: it stays as the SavedModel has it."""
    from ckptkit.stores.saved_model import replaceable
    from ckptkit.stores.saved_model.reader import SavedModel

    store = template.store
    assert isinstance(store, SavedModel)
    notes = []
    constants = replaceable.constants(store)
    for constant in constants[:8]:
        shape = ",".join(map(str, constant.shape)) or "scalar"
        how = "captured by a function" if constant.captured else "in the graph"
        notes.append(
            f"does not follow the new weights: constant {constant.name} {constant.dtype}[{shape}], "
            f"{constant.nbytes:,} B, {how}"
        )
    if len(constants) > 8:
        notes.append(f"does not follow the new weights: {len(constants) - 8} smaller constants")
    notes += [f"does not follow the new weights: {name}" for name in assets(store)]
    tables = replaceable.tables(store)
    if tables:
        notes.append(
            f"filled by the donor's graph when loaded: {count_text(tables, 'table')} or resources"
        )
    extra = store.path / "assets.extra"
    if extra.is_dir():
        notes.append("carried over from the donor: assets.extra")
    return notes


def notes_on_lists(source: Checkpoint, weights: Container[str]) -> list[str]:
    """Return a warning for weights that a live Keras 3 model would not be given back."""
    store = source.store
    if store.format != SAVED_MODEL:
        return []
    from ckptkit.stores.saved_model import replaceable
    from ckptkit.stores.saved_model.reader import SavedModel

    assert isinstance(store, SavedModel)
    in_lists = [
        key
        for key in replaceable.list_members(store)
        if key in weights and source.names[key].role == "weight"
    ]
    if not in_lists:
        return []
    return [
        f"{describe(source.names, in_lists)} are held in Python lists, which Keras 3 hides from "
        "tf.train.Checkpoint(model=...): they come back only through a compiled model's optimizer, "
        "and TensorFlow's asserts pass without them; .keras and .weights.h5 hold them"
    ]


def compare_assets(
    source: Checkpoint, template: Checkpoint | None, allowance: Allowance
) -> tuple[list[Problem], list[tuple[str, str]], list[str]]:
    """Compare the files of SRC (vocabularies and the like) with those that the output will have.

    Args:
        source: SRC.
        template: the model whose files the output will have; None where the form holds none.
        allowance: of files that may be left behind.

    Returns:
        (problems, files of SRC that are left behind with the reason, notes).
    """
    source_assets = assets(source.store)
    output_assets: Mapping[str, str | None] = {}
    if template is not None:
        same = template.store is source.store
        output_assets = source_assets if same else assets(template.store)
    problems: list[Problem] = []
    leftovers: list[tuple[str, str]] = []
    for name, digest in source_assets.items():
        if digest is None:
            problems.append(
                Problem("asset", name, f"{name} is named in {operand('SRC')} and is not there")
            )
        elif digest not in output_assets.values():
            why = _why_not_written(name, output_assets)
            if allowance.lets(name):
                leftovers.append((name, f"{why} (allowed)"))
            else:
                problems.append(Problem("asset", name, f"{name} of {operand('SRC')} {why}"))
    notes = []
    if output_assets and not source_assets and not format_of(source.store.format).holds_model:
        names = ", ".join(output_assets)
        notes.append(
            f"{operand('SRC')} has no files to compare with those of {operand('LIKE')}: {names}"
        )
    return problems, leftovers, notes


def _why_not_written(name: str, output_assets: Mapping[str, object]) -> str:
    base = PurePosixPath(name).name
    same_name = [other for other in output_assets if PurePosixPath(other).name == base]
    if same_name:
        return f"differs from {same_name[0]} of {operand('LIKE')}: its words would mean other rows"
    if not output_assets:
        return "would not be carried: the form holds no such file"
    return f"is not in {operand('LIKE')}"
