"""Sorting the maps of a damaged SavedModel: an order, or a refusal."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest

from ckptkit.errors import FormatError
from ckptkit.stores.proto.messages import message_class
from ckptkit.stores.saved_model.canonical_order import in_c_order
from support.fuzz import mutators
from support.goldens import GOLDEN
from support.hostile_models import varint


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def model_with(*entries: bytes) -> bytes:
    """Return a SavedModel of one node whose map of attributes has these entries."""
    node = b"".join(field(5, entry) for entry in entries)
    numbers = {
        message: {f.name: f.number for f in message_class(message).DESCRIPTOR.fields}
        for message in ("SavedModel", "MetaGraphDef", "GraphDef")
    }
    graph = field(numbers["GraphDef"]["node"], node)
    meta = field(numbers["MetaGraphDef"]["graph_def"], graph)
    return field(numbers["SavedModel"]["meta_graphs"], meta)


KEYS = {
    "text": b"\x0a\x01b",
    "number in place of text": b"\x08\x07",
    "none": b"",
    "fixed32": b"\x0d\x01\x02\x03\x04",
    "of another field": b"\x1a\x01z",
}


@pytest.mark.parametrize("one", KEYS)
@pytest.mark.parametrize("two", KEYS)
def test_keys_of_another_type_are_no_keys(one: str, two: str) -> None:
    """As to protobuf, for which such an entry has the default key: it goes first."""
    entries = [b"\x0a\x01c" + b"\x12\x00", KEYS[one] + b"\x12\x00", KEYS[two] + b"\x12\x00"]
    ordered = sorted(entries, key=lambda entry: entry[2:3] if entry[:1] == b"\x0a" else b"")
    same_place = KEYS[one][:1] != b"\x0a" and KEYS[two][:1] != b"\x0a"
    found = in_c_order(model_with(*entries))
    swapped = in_c_order(model_with(*entries[::-1]))
    assert len(found) == len(model_with(*entries))
    assert found == model_with(*ordered) or same_place
    assert sorted(found) == sorted(swapped)


@pytest.mark.parametrize("name", ["lookup/model", "saved_model_export/model"])
def test_mutants_are_ordered_or_refused(name: str) -> None:
    good = (GOLDEN / "tf2.21.0" / name / "saved_model.pb").read_bytes()
    for seed in range(40):
        rng = random.Random(f"order {seed}")
        with suppress(FormatError):
            in_c_order(mutators.noise(good, rng))
