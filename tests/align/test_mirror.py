"""Alignment knows no direction: `align(a, b)` is the exact mirror of `align(b, a)`.

Whatever looks for one side's partner among the other's tensors, and forgets that this partner has
others that fit as well, is found by this: it guesses in one direction and is silent in the other.
"""

from __future__ import annotations

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ckptkit._io.crc32c import value
from ckptkit.align.matching import Alignment, TensorSet, align
from ckptkit.align.types import BASES, basis
from ckptkit.checkpoint.naming import Naming
from ckptkit.stores.base import TensorSpec

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
SCOPES = st.sampled_from(
    [
        *("", "", "model", "sequential", "sequential_1", "variables", "layers", "net", "mix"),
        *("dense", "dense_1", "dense_2", "dense_3", "block_1", "time_distributed", "layer-1"),
    ]
)
LEAVES = st.sampled_from(["kernel", "bias", "kernel_1", "0", "1", "2", "vars/0", "vars/1", "w"])
SHAPES = st.sampled_from([(2, 3), (2, 3), (3, 3), (3,), (), (4, 0)])
# Few digests, so that they repeat; those of zeros; none at all.
ZEROS = tuple(value(bytes(4 * size)) for size in (6, 9, 3))
DIGESTS = st.sampled_from([None, 5, 6, 7, 8, *ZEROS])


@st.composite
def names(draw: st.DrawFn) -> str:
    parts = [part for part in (draw(SCOPES), draw(SCOPES)) if part]
    return "/".join((*parts, draw(LEAVES)))


@st.composite
def files(draw: st.DrawFn) -> TensorSet:
    """One file: weights, slots of some of them, tensors stored twice."""
    specs: dict[str, TensorSpec] = {}
    namings: dict[str, Naming] = {}
    taken: set[str] = set()
    named = draw(st.booleans())  # a file of full names alone, or with an object graph
    for path in draw(st.lists(names(), max_size=8, unique=True)):
        full_name = path if named else draw(st.none() | names())
        name = draw(st.sampled_from([path, full_name or path]))
        name = path if name in taken else name
        if name in taken:
            continue
        taken.add(name)
        key = path if named else path + SUFFIX
        shape, digest = draw(SHAPES), draw(DIGESTS)
        nbytes = 4
        for axis in shape:
            nbytes *= axis
        role = draw(st.sampled_from(["weight"] * 6 + ["counter", "other", "metric"]))
        aliases = tuple(draw(st.lists(names(), max_size=2)))
        owners = [n for n in namings.values() if n.role == "weight" and n.duplicate_of is None]
        slot_of = slot = optimizer = duplicate_of = None
        if owners and draw(st.integers(0, 5)) == 0:
            slot_of, role = draw(st.sampled_from(owners)).name, "slot"
            slot = draw(st.sampled_from(["m", "v", "momentum"]))
            optimizer = draw(st.sampled_from([None, "o1", "o2"]))
            full_name = None
        elif owners and draw(st.integers(0, 9)) == 0:
            duplicate_of = draw(st.sampled_from(owners)).name
        specs[key] = TensorSpec(key, "float32", shape, nbytes, 0, 0, digest)
        namings[key] = Naming(
            name, role, full_name, aliases, slot_of, slot, optimizer, False, duplicate_of
        )
    digests = {key: 9 for key in specs if draw(st.integers(0, 9)) == 0}
    constants = frozenset(key for key in specs if draw(st.integers(0, 9)) == 0)
    return TensorSet(specs, namings, digests, constants)


def found(alignment: Alignment, *, mirrored: bool = False) -> tuple[object, ...]:
    """Return what an alignment says, without the order in which it says it."""
    at = (1, 0) if mirrored else (0, 1)
    alone = alignment.only_left, alignment.only_right
    return (
        {(m[at[0]], m[at[1]], m.evidence) for m in alignment.pairs},
        {(m[at[0]], m[at[1]], m.evidence) for m in alignment.renamed},
        set(alone[at[0]]),
        set(alone[at[1]]),
        {(frozenset(a[at[0]]), frozenset(a[at[1]]), a.reason) for a in alignment.ambiguous},
    )


def kernels(*tensors: tuple[str, str | None, int]) -> TensorSet:
    """A file of tensors (path, full name, digest)."""
    specs = {
        path + SUFFIX: TensorSpec(path + SUFFIX, "float32", (2, 3), 24, 0, 0, digest)
        for path, _, digest in tensors
    }
    return TensorSet(
        specs, {path + SUFFIX: Naming(path, "weight", full_name) for path, full_name, _ in tensors}
    )


@settings(max_examples=400, suppress_health_check=list(HealthCheck))
@given(files(), files())
@example(
    kernels(("model/mix/kernel", "net/kernel", 5)),
    kernels(*((f"variables/{i}", "net/kernel", digest) for i, digest in enumerate((5, 6, 7)))),
)
def test_alignment_is_its_own_mirror(old: TensorSet, new: TensorSet) -> None:
    there, back = align(old, new), align(new, old)
    assert found(there) == found(back, mirrored=True)
    for alignment in (there, back):
        matches = (*alignment.pairs, *alignment.renamed)
        assert len({m.old for m in matches}) == len({m.new for m in matches}) == len(matches)
    # every tensor that takes part is paired once or alone
    paired = {m.old for m in (*there.pairs, *there.renamed)}
    assert paired.isdisjoint(there.only_left) and paired | {*there.only_left} == {*old.keys}
    for item in there.ambiguous:
        assert set(item.old) <= {*there.only_left} and set(item.new) <= {*there.only_right}


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(files())
def test_a_file_against_itself_pairs_nothing_otherwise(file: TensorSet) -> None:
    """A tensor goes with itself or is alone; with no other tensor of its own file."""
    result = align(file, file)
    assert all(m.old == m.new for m in (*result.pairs, *result.renamed)), result


def test_one_of_three_of_one_name_goes_with_its_own() -> None:
    """Layers of a dict are not in the checkpoint of a subclassed model, and are in its export."""
    old = kernels(("model/mix/kernel", "net/kernel", 5))
    new = kernels(*((f"variables/{i}", "net/kernel", digest) for i, digest in enumerate((5, 6, 7))))
    for one, two in ((old, new), (new, old)):
        result = align(one, two)
        [pair] = result.pairs
        assert {pair.old, pair.new} == {"model/mix/kernel" + SUFFIX, "variables/0" + SUFFIX}


def test_three_of_one_name_are_never_guessed_once_values_differ() -> None:
    old = kernels(("model/mix/kernel", "net/kernel", 50))
    new = kernels(*((f"variables/{i}", "net/kernel", digest) for i, digest in enumerate((5, 6, 7))))
    for one, two in ((old, new), (new, old)):
        result = align(one, two)
        assert result.pairs == result.renamed == () and len(result.ambiguous) == 1


def test_what_pairings_come_down_to_is_a_closed_list() -> None:
    words = {
        "key": "key",
        "rule ^a$=>b by content": "rule",
        "alias": "structure",
        "path": "structure",
        "structure": "structure",
        "order": "order",
        "place": "order",
        "full name": "name",
        "name": "name",
        "full name, renumbered": "order",
        "name, by order": "order",
        "full name, by content": "content",
        "content": "content",
        "variable": "variable",
    }
    assert {evidence: basis(evidence) for evidence in words} == words
    assert set(words.values()) == set(BASES) and basis("") == ""
