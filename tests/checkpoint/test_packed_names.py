"""Names of packed specs are those of specs that are not packed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptkit.checkpoint.names import name_keys
from ckptkit.checkpoint.naming import Naming
from ckptkit.checkpoint.packed_names import PackedNames
from ckptkit.stores.base import TensorSpec
from ckptkit.stores.packed_specs import PackedSpecs

NAMINGS = [
    Naming("w", "weight"),
    Naming("a/w", "weight", "a/w", ("x", "y"), None, None, None, True, "w"),
    Naming("w@m", "slot", "", (), "w", "m", "adam", role_inferred=True),
    Naming("odd\0name", "weight", "odd\0name", ("", "\0")),
    Naming("line\nbreak", "other", None, ("",), duplicate_of=""),
]


def packed(specs: list[TensorSpec]) -> PackedSpecs:
    found = PackedSpecs()
    for spec in specs:
        found.add(spec)
    return found


def test_namings_come_back_as_they_were() -> None:
    namings = [naming for naming in NAMINGS for _ in range(50)]
    keys = [f"key {number}" for number in range(len(namings))]
    names = PackedNames(packed([TensorSpec(key, "float32", (), 4) for key in keys]), namings)
    assert list(names.values()) == namings and list(names) == keys
    assert list(names.items()) == list(zip(keys, namings, strict=True))
    assert [names[key] for key in keys] == namings == [names.at(row) for row in range(len(keys))]
    assert "other" not in names and names.get("other") is None
    with pytest.raises(KeyError):
        names["other"]


SCOPES = ["", "a/", "b/", "a/dense/", "Adam/", "Adam/a/dense/", "ema/"]
ENDS = ["kernel", "bias", "kernel/Adam", "kernel/Adam_1", "a_dense_kernel_m", "kernel_slot_v"]
ENDS += ["kernel/ExponentialMovingAverage", "Variable", "Variable_1", "step", "beta1_power", "m"]
ODD = ["kernel:0", "kernel@m", "_CHECKPOINTABLE_OBJECT_GRAPH", "kernel\0bias"]
SPEC = st.tuples(
    st.sampled_from(["float32"] * 6 + ["int64", "string", "bool"]),
    st.sampled_from([(2, 3), (2, 3), (3,), (2,), ()]),
)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.builds(lambda scope, end: scope + end, st.sampled_from(SCOPES), st.sampled_from(ENDS)),
        SPEC,
        max_size=30,
    ),
    st.sampled_from([*ODD, ""]),
)
def test_names_that_keys_alone_tell(
    kinds: dict[str, tuple[str, tuple[int, ...]]], odd: str
) -> None:
    if odd:
        kinds = {**kinds, odd: ("float32", (2, 3))}
    specs = {key: TensorSpec(key, dtype, shape, 8) for key, (dtype, shape) in kinds.items()}
    names = name_keys(packed([*specs.values()]))
    assert list(names.items()) == list(name_keys(specs).items())
    assert [names[key] for key in specs] == list(names.values())
