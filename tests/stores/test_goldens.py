"""Real files: every tensor that a producer's own reader saw is read here, with the same bytes."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

import ckptkit
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.naming import ROLES
from ckptkit.errors import UnsupportedError
from support.goldens import Golden, digest, golden, goldens

READABLE = goldens("checkpoint", "saved-model", "keras", "weights.h5", "h5")
BUNDLES = goldens("checkpoint", "saved-model")


def by_name(item: Golden) -> str:
    return f"{item.name}:{item.kind}"


def open_golden(item: Golden) -> Checkpoint:
    return ckptkit.open(item.path)


@pytest.mark.parametrize("item", READABLE, ids=by_name)
def test_keys_dtypes_shapes_and_bytes(item: Golden) -> None:
    checkpoint = open_golden(item)
    assert set(checkpoint.specs) == set(item.tensors)
    assert not checkpoint.problems()
    for key, expected in item.tensors.items():
        spec = checkpoint.specs[key]
        assert (spec.key, spec.dtype, spec.shape) == (key, expected.dtype, expected.shape)
        blocks = list(checkpoint.store.blocks(key))  # to the end, where the checksum is compared
        if expected.digest is not None:
            assert sum(len(values) for _start, values in blocks) == spec.size, key
            assert digest(checkpoint.store.read(key).reshape(spec.shape)) == expected.digest, key
            assert digest(checkpoint[checkpoint.names[key].name]) == expected.digest, key


@pytest.mark.parametrize("item", READABLE, ids=by_name)
def test_loading_gives_the_same_bytes(item: Golden) -> None:
    names = open_golden(item).names
    loaded = ckptkit.load(item.path)
    known = {key: row.digest for key, row in item.tensors.items() if row.digest is not None}
    assert {names[key].name for key in known} == set(loaded)
    for key, expected in known.items():
        assert digest(loaded[names[key].name]) == expected


@pytest.mark.parametrize("item", READABLE, ids=by_name)
def test_roles(item: Golden) -> None:
    names = open_golden(item).names
    for key, expected in item.tensors.items():
        allowed = {"scalar": {"counter", "config"}, "": set(ROLES)}
        assert names[key].role in allowed.get(expected.role, {expected.role}), key


@pytest.mark.parametrize("item", READABLE, ids=by_name)
def test_slots_belong_to_their_variable(item: Golden) -> None:
    names = open_golden(item).names
    keys = defaultdict(list)
    for key, expected in item.tensors.items():
        keys[expected.variable].append(key)
    for key, expected in item.tensors.items():
        if not expected.slot_of:
            assert names[key].slot_of is None or not expected.role, key
            continue
        owners = [names[owner].name for owner in keys[expected.slot_of]]
        if owners:
            assert names[key].slot_of in owners, key
            assert names[key].name.startswith(f"{names[key].slot_of}@"), key
        else:
            assert names[key].slot_of is None, f"{key}: its variable is not in the file"


@pytest.mark.parametrize("item", READABLE, ids=by_name)
def test_names_are_unique_and_lead_back(item: Golden) -> None:
    checkpoint = open_golden(item)
    names = Counter(naming.name for naming in checkpoint.names.values())
    assert set(names.values()) == {1}
    assert set(checkpoint) == set(names)
    for key, naming in checkpoint.names.items():
        assert checkpoint.key(naming.name) == key
        assert checkpoint.key(key) == key or key in names


@pytest.mark.parametrize("item", BUNDLES, ids=by_name)
def test_names_are_those_of_the_program_where_the_file_has_them(item: Golden) -> None:
    names = open_golden(item).names
    weights = {key: row.variable for key, row in item.tensors.items() if row.role == "weight"}
    full_names = Counter(names[key].full_name for key in weights)
    told = all(full_names[variable] == 1 for variable in weights.values())
    for key, variable in weights.items():
        naming = names[key]
        if told:
            assert naming.name == variable
        elif not (naming.duplicate_of or naming.only_through_optimizer):
            own = variable.rpartition("/")[2]  # `kernel`; a variable of a list is just a number
            assert naming.name.rpartition("/")[2] == own or own.isdecimal() or naming.name == key


def test_weights_that_only_the_optimizer_holds_are_flagged() -> None:
    """The list-of-layers trap: Keras 3 leaves such layers out of the model's own tree."""
    flagged = {
        name: {n.name for n in open_golden(golden(name)).names.values() if n.only_through_optimizer}
        for name in ("tf2.21.0/list/ckpt", "tf2.21.0/adam/ckpt", "tf2.15.1/list/ckpt")
    }
    assert len(flagged["tf2.21.0/list/ckpt"]) == 6
    assert not flagged["tf2.21.0/adam/ckpt"] | flagged["tf2.15.1/list/ckpt"]


def test_an_export_holds_its_weights_twice() -> None:
    names = open_golden(golden("tf2.21.0/saved_model_export/model")).names
    repeats = [naming for naming in names.values() if naming.duplicate_of]
    assert repeats
    assert {naming.duplicate_of for naming in repeats} <= {n.name for n in names.values()}


@pytest.mark.parametrize("item", goldens("saved-model-pbtxt"), ids=by_name)
def test_what_is_not_read_is_named(item: Golden) -> None:
    with pytest.raises(UnsupportedError, match="text form") as caught:
        open_golden(item)
    assert caught.value.hint
