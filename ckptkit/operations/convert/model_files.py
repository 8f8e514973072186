"""What SavedModels and Keras archives hold beside tensors, and what becomes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from pathlib import PurePosixPath

from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.operations.convert.plan import Allowance, Problem, describe
from ckptkit.stores.assets import assets
from ckptkit.stores.saved_model import replaceable as _donor
from ckptkit.stores.saved_model.reader import SavedModel


def check_donor(like: Checkpoint, duplicates: Mapping[str, str]) -> list[Problem]:
    """Return what makes a SavedModel unfit to be a donor: its graph and its variables disagree."""
    store = like.store
    if not isinstance(store, SavedModel):
        return []
    problems = []
    twins = _undecided_twins(like, duplicates)
    for expected in _donor.variables(store):
        for key in expected.keys:
            spec = store.specs.get(key)
            reason = _donor.disagreement(expected, spec) if spec else "not among its variables"
            if reason:
                message = f"the donor is stale: {expected.name or key} is {reason}"
                problems.append(Problem("stale", expected.name or key, message))
            if expected.captured and key in twins:
                message = (
                    f"{like.names[key].name} of the donor repeats one of several equal tensors, "
                    "and its functions read it: use a donor whose weights differ (a trained one)"
                )
                problems.append(Problem("stale", like.names[key].name, message))
    for name, digest in assets(store).items():
        if digest is None:
            message = f"{name} is named in the donor's graph and is not there"
            problems.append(Problem("asset", name, message))
    return problems


def _undecided_twins(like: Checkpoint, duplicates: Mapping[str, str]) -> Container[str]:
    """Return the repeated tensors whose original could be any of several equal ones."""

    def content(key: str) -> tuple[object, ...]:
        spec = like.specs[key]
        return spec.dtype, spec.shape, spec.crc32c, like.names[key].full_name

    originals = Counter(content(key) for key in set(duplicates.values()))
    return {key for key in duplicates if originals[content(key)] > 1}


def notes_on_donor(like: Checkpoint) -> list[str]:
    """Return what does not follow the new weights: it stays as the donor has it."""
    store = like.store
    assert isinstance(store, SavedModel)
    notes = []
    constants = _donor.constants(store)
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
    tables = _donor.tables(store)
    if tables:
        plural = "" if tables == 1 else "s"
        notes.append(
            f"filled by the donor's graph when loaded: {tables} table{plural} or resources"
        )
    extra = store.path / "assets.extra"
    if extra.is_dir():
        notes.append("carried over from the donor: assets.extra")
    return notes


def notes_on_lists(source: Checkpoint, weights: Container[str]) -> list[str]:
    """Return a warning for weights that a live Keras 3 model would not be given back."""
    if not isinstance(source.store, SavedModel):
        return []
    held = [
        key
        for key in _donor.list_members(source.store)
        if key in weights and source.names[key].role == "weight"
    ]
    if not held:
        return []
    return [
        f"{describe(source.names, held)} are held in Python lists, which Keras 3 hides from "
        "tf.train.Checkpoint(model=...): they come back only through a compiled model's optimizer, "
        "and TensorFlow's asserts pass without them; .keras and .weights.h5 hold them"
    ]


def compare_assets(
    source: Checkpoint, holder: Checkpoint | None, allowance: Allowance
) -> tuple[list[Problem], list[tuple[str, str]], list[str]]:
    """Return (problems, files of SRC left behind with why, notes).

    holder: the model whose files the output will have; None where the form holds none.
    """
    own = assets(source.store)
    there = assets(holder.store) if holder is not None and holder is not source else {}
    if holder is not None and holder.store is source.store:
        there = own
    problems: list[Problem] = []
    skipped: list[tuple[str, str]] = []
    for name, digest in own.items():
        if digest is None:
            problems.append(Problem("asset", name, f"{name} is named in SRC and is not there"))
        elif digest not in there.values():
            why = _why_not_carried(name, there)
            if allowance.lets(name):
                skipped.append((name, f"{why} (allowed)"))
            else:
                problems.append(Problem("asset", name, f"{name} of SRC {why}"))
    notes = []
    if there and not own and source.store.format not in ("saved-model", "keras"):
        names = ", ".join(there)
        notes.append(f"SRC has no files to compare with those of LIKE: {names}")
    return problems, skipped, notes


def _why_not_carried(name: str, there: Mapping[str, object]) -> str:
    same_name = [other for other in there if PurePosixPath(other).name == PurePosixPath(name).name]
    if same_name:
        return f"differs from {same_name[0]} of LIKE: its words would mean other rows"
    return "would not be carried: the form holds no such file" if not there else "is not in LIKE"
