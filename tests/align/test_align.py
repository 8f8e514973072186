"""Which tensor is which: alignment over synthetic names, one piece of evidence at a time."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import ckptkit
from ckptkit._io.crc32c import value
from ckptkit.align.matching import Alignment, Match, TensorSet, align, align_content
from ckptkit.align.name_tree import places, uncounted
from ckptkit.align.numbered_names import match_names
from ckptkit.align.rules import apply_rules, parse_rule, read_rules, suggest_rules, write_rules
from ckptkit.checkpoint.naming import Naming
from ckptkit.errors import PathNotFoundError, UsageError
from ckptkit.stores.base import TensorSpec
from support.goldens import GOLDEN

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


def tensor(
    path: str,
    full_name: str | None = None,
    *,
    name: str | None = None,
    role: str = "weight",
    aliases: Sequence[str] = (),
    shape: tuple[int, ...] = (2, 3),
    dtype: str = "float32",
    crc: int | None = 0,
    slot_of: str | None = None,
    slot: str | None = None,
    optimizer: str | None = None,
    duplicate_of: str | None = None,
) -> tuple[TensorSpec, Naming]:
    """One tensor of an object-based file; its content is its own unless `crc` says otherwise."""
    key = path + SUFFIX
    nbytes = 4
    for axis in shape:
        nbytes *= axis
    crc = value(f"{path} {full_name}".encode()) if crc == 0 else crc
    naming = Naming(
        name or full_name or path,
        role,
        full_name,
        tuple(aliases),
        slot_of,
        slot,
        optimizer,
        False,
        duplicate_of,
    )
    return TensorSpec(key, dtype, shape, nbytes, 0, 0, crc), naming


def named(name: str, **options: object) -> tuple[TensorSpec, Naming]:
    """One tensor of a name-based file: its key is its name."""
    spec, naming = tensor(name, name, **options)  # type: ignore[arg-type]
    return spec._replace(key=name), naming


def side(
    *tensors: tuple[TensorSpec, Naming], digests: Mapping[str, int] | None = None
) -> TensorSet:
    specs = {spec.key: spec for spec, _ in tensors}
    names = {spec.key: naming for spec, naming in tensors}
    return TensorSet(specs, names, digests or {})


def short(matches: Sequence[Match]) -> dict[str, tuple[str, str]]:
    """{old path: (new path, evidence)}."""
    return {m.old.removesuffix(SUFFIX): (m.new.removesuffix(SUFFIX), m.evidence) for m in matches}


def left_over(alignment: Alignment) -> tuple[list[str], list[str]]:
    return (
        [key.removesuffix(SUFFIX) for key in alignment.only_left],
        [key.removesuffix(SUFFIX) for key in alignment.only_right],
    )


# -- key, alias, path --------------------------------------------------------------------------


def test_equal_keys_are_pairs_whatever_their_shapes() -> None:
    result = align(side(tensor("a/kernel", shape=(2,))), side(tensor("a/kernel", shape=(3,))))
    assert short(result.pairs) == {"a/kernel": ("a/kernel", "key")}


def test_any_alias_of_one_may_be_any_alias_of_the_other() -> None:
    old = side(tensor("opt/_trainable_variables/0", aliases=["model/layer-1/w", "model/dense/w"]))
    new = side(tensor("model/layers/3/w", aliases=["model/dense/w"]))
    assert short(align(old, new).pairs) == {
        "opt/_trainable_variables/0": ("model/layers/3/w", "alias")
    }


def test_an_alias_that_two_tensors_share_decides_nothing() -> None:
    old = side(tensor("x", aliases=["p", "q"], shape=(5,)))
    new = side(tensor("y", aliases=["p"]), tensor("z", aliases=["q"]))
    assert align(old, new).pairs == ()


@pytest.mark.parametrize(
    ("one", "two"), [("model/", "net/"), ("model/", ""), ("", "model/"), ("a/b/", "c/")]
)
def test_paths_below_the_best_root_child(one: str, two: str) -> None:
    leaves = ["conv/kernel", "conv/bias", "dense/kernel"]
    old = side(*(tensor(one + leaf) for leaf in leaves))
    new = side(*(tensor(two + leaf) for leaf in leaves))
    assert short(align(old, new).pairs) == {one + leaf: (two + leaf, "path") for leaf in leaves}


def test_a_root_that_few_share_is_no_evidence() -> None:
    old = side(*(tensor(f"a{i}/kernel", crc=None) for i in range(4)))
    new = side(*(tensor(f"b{i}/kernel", crc=None) for i in range(4)))
    assert align(old, new).pairs == ()


def test_a_position_in_a_list_gives_way_to_names() -> None:
    """A layer was put in first, so that all positions moved by one."""
    old = side(*(tensor(f"variables/{i}", f"{n}/kernel") for i, n in enumerate("abc")))
    new = side(*(tensor(f"variables/{i}", f"{n}/kernel") for i, n in enumerate("xabc")))
    assert short(align(old, new).pairs) == {
        "variables/0": ("variables/1", "full name"),
        "variables/1": ("variables/2", "full name"),
        "variables/2": ("variables/3", "full name"),
    }
    assert left_over(align(old, new)) == ([], ["variables/0"])


def test_a_position_stands_where_names_were_only_changed() -> None:
    old = side(*(tensor(f"variables/{i}", f"{n}/kernel") for i, n in enumerate("abc")))
    new = side(*(tensor(f"variables/{i}", f"{n}/kernel") for i, n in enumerate("axc")))
    assert short(align(old, new).pairs)["variables/1"] == ("variables/1", "key")


# -- names, counters, order --------------------------------------------------------------------


def test_object_based_meets_name_based_by_full_name() -> None:
    old = side(tensor("model/layer-1/kernel", "dense/kernel"))
    new = side(named("dense/kernel"))
    assert short(align(old, new).pairs) == {"model/layer-1/kernel": ("dense/kernel", "full name")}


def dense(count: int, first: int, prefix: str = "") -> list[tuple[TensorSpec, Naming]]:
    """The kernels of a model whose Dense layers were numbered from `first` on; sizes differ."""
    return [
        named(f"{prefix}dense{f'_{i}' if i else ''}/kernel", shape=(4, i - first + 1))
        for i in range(first, first + count)
    ]


@pytest.mark.parametrize("first", [0, 1, 3])
@pytest.mark.parametrize("prefix", ["", "encoder/"])
def test_a_model_built_second_is_renumbered(first: int, prefix: str) -> None:
    result = align(side(*dense(3, 0, prefix)), side(*dense(3, first, prefix)))
    for i, match in enumerate(result.pairs):
        assert match.new == f"{prefix}dense{f'_{i + first}' if i + first else ''}/kernel"
        assert match.evidence == ("full name, renumbered" if first else "key")
    assert len(result.pairs) == 3 and left_over(result) == ([], [])


def test_equal_shapes_are_renumbered_all_the_same() -> None:
    """With raw names, two pairs would match and shift every layer by one."""
    old = side(*(named(f"dense{s}/kernel", crc=None) for s in ("", "_1", "_2")))
    new = side(*(named(f"dense{s}/kernel", crc=None) for s in ("_1", "_2", "_3")))
    assert short(align(old, new).pairs) == {
        "dense/kernel": ("dense_1/kernel", "full name, renumbered"),
        "dense_1/kernel": ("dense_2/kernel", "full name, renumbered"),
        "dense_2/kernel": ("dense_3/kernel", "full name, renumbered"),
    }


def test_a_layer_taken_out_does_not_shift_the_others() -> None:
    old = side(*(named(f"dense{s}/kernel") for s in ("", "_1", "_2")))
    new = side(*(named(f"dense{s}/kernel") for s in ("", "_2")))
    result = align(old, new)
    assert set(short(result.pairs)) == {"dense/kernel", "dense_2/kernel"}
    assert all(match.old == match.new for match in result.pairs)
    assert left_over(result) == (["dense_1/kernel"], [])


def test_scopes_are_renumbered_before_what_they_hold() -> None:
    names = ["block{}/dense{}/kernel", "block{}/dense{}/bias"]
    old, new = [n.format("", "") for n in names], [n.format("_1", "_4") for n in names]
    sides = tuple(side(*(named(n, crc=None) for n in side_names)) for side_names in (old, new))
    found = match_names({n: n for n in old}, {n: n for n in new}, (sides[0], sides[1]))
    assert found.pairs == [(one, two, "renumbered") for one, two in zip(old, new, strict=True)]


def test_numbered_names_against_the_structure_are_ambiguous() -> None:
    """The same two layers, but numbered the other way round: names or positions, which is right?"""
    old = side(
        tensor("layers/0/w", "dense/kernel"),
        tensor("layers/1/w", "dense_1/kernel"),
    )
    new = side(
        tensor("blocks/0/v", "dense_1/kernel"),
        tensor("blocks/1/v", "dense/kernel"),
    )
    result = align(old, new)
    assert result.pairs == ()
    assert len(result.ambiguous) == 1 and "order" in result.ambiguous[0].reason


def test_numbered_names_against_the_structure_are_settled_by_content() -> None:
    old = side(
        tensor("layers/0/w", "dense/kernel", crc=11), tensor("layers/1/w", "dense_1/kernel", crc=22)
    )
    new = side(
        tensor("blocks/0/v", "dense_1/kernel", crc=22), tensor("blocks/1/v", "dense/kernel", crc=11)
    )
    assert short(align(old, new).pairs) == {
        "layers/0/w": ("blocks/1/v", "full name"),
        "layers/1/w": ("blocks/0/v", "full name"),
    }


def test_places_of_numbered_steps() -> None:
    assert places(["model/layer-3/kernel", "a/_operations/12/w", "plain"]) == {
        "model/layer-#": 3,
        "a/_operations/#": 12,
    }
    assert uncounted("dense_7") == ("dense", 7) and uncounted("conv2d") == ("conv2d", 0)


# -- one full name for many ------------------------------------------------------------------------


def test_one_full_name_for_all_kernels_is_decided_by_shape() -> None:
    old = side(
        *(
            tensor(f"m/{n}/w", "sub/kernel", name=f"m/{n}", shape=(i + 1,))
            for i, n in enumerate("abc")
        )
    )
    new = side(*(tensor(f"v/{i}", "sub/kernel", name=f"v/{i}", shape=(i + 1,)) for i in range(3)))
    assert short(align(old, new).pairs) == {
        f"m/{n}/w": (f"v/{i}", "full name") for i, n in enumerate("abc")
    }


def test_one_full_name_and_shape_is_decided_by_content_but_never_guessed() -> None:
    old = side(
        *(tensor(f"m/{n}/w", "sub/kernel", name=f"m/{n}", crc=7 + i) for i, n in enumerate("abcd"))
    )
    new = side(
        *(
            tensor(f"v/{i}", "sub/kernel", name=f"v/{i}", crc=c)
            for i, c in enumerate([9, 99, 7, 98])
        )
    )
    result = align(old, new)
    assert short(result.pairs) == {
        "m/a/w": ("v/2", "full name, by content"),
        "m/c/w": ("v/0", "full name, by content"),
    }
    assert left_over(result) == (["m/b/w", "m/d/w"], ["v/1", "v/3"])
    assert "same full name" in result.ambiguous[0].reason


# -- content -----------------------------------------------------------------------------------


def test_content_pairs_are_renamed_and_nothing_else_is() -> None:
    old = side(named("bert/w", crc=5), named("same", crc=6))
    new = side(named("encoder/w", crc=5), named("same", crc=7))
    result = align(old, new)
    assert short(result.renamed) == {"bert/w": ("encoder/w", "content")}
    assert short(result.pairs) == {"same": ("same", "key")}


@pytest.mark.parametrize("pattern", [bytes(24), b"\0\0\x80?" * 6])
def test_constants_are_never_matched_by_content(pattern: bytes) -> None:
    crc = value(pattern)
    result = align(side(named("a/bias", crc=crc)), side(named("b/beta", crc=crc)))
    assert result.renamed == () and left_over(result) == (["a/bias"], ["b/beta"])


def test_scalars_are_never_matched_by_content() -> None:
    result = align(side(named("a", shape=(), crc=5)), side(named("b", shape=(), crc=5)))
    assert result.renamed == ()


@pytest.mark.parametrize("other", [{"shape": (3, 2)}, {"dtype": "int32"}])
def test_content_is_dtype_shape_and_checksum(other: dict[str, object]) -> None:
    assert align(side(named("a", crc=5)), side(named("b", crc=5, **other))).renamed == ()


def test_content_that_is_not_unique_is_ambiguous() -> None:
    old = side(named("x/a", crc=5), named("x/b", crc=5))
    new = side(named("y/a", crc=5))
    result = align(old, new)
    assert result.renamed == ()
    assert result.ambiguous[0].old == ("x/a", "x/b") and result.ambiguous[0].new == ("y/a",)


def test_content_already_used_by_a_pair_is_not_unique() -> None:
    old = side(named("kept", crc=5), named("gone", crc=5))
    new = side(named("kept", crc=5), named("fresh", crc=5))
    result = align(old, new)
    assert short(result.pairs) == {"kept": ("kept", "key")} and result.renamed == ()


def test_content_of_a_tensor_that_has_a_partner_is_no_new_name() -> None:
    old = side(named("kept", crc=5))
    new = side(named("kept", crc=7), named("fresh", crc=5))
    for result in (align(old, new), align(new, old)):
        assert short(result.pairs) == {"kept": ("kept", "key")} and result.renamed == ()


def test_what_is_neither_weight_nor_slot_goes_by_its_path_with_any_role() -> None:
    old = side(tensor("a", aliases=["p"], role="other"))
    new = side(tensor("b", aliases=["p"]))
    assert short(align(old, new).pairs) == {"a": ("b", "alias")}
    assert short(align(new, old).pairs) == {"b": ("a", "alias")}
    counter = side(tensor("a", aliases=["p"], role="counter"))
    assert align(counter, new).pairs == ()


def test_content_found_out_later_pairs_what_is_left() -> None:
    old, new = side(named("a", crc=None)), side(named("b", crc=None))
    first = align(old, new)
    assert first.renamed == ()
    known = align_content(
        first,
        side(named("a", crc=None), digests={"a": 5}),
        side(named("b", crc=None), digests={"b": 5}),
    )
    assert short(known.renamed) == {"a": ("b", "content")}


def test_a_full_name_without_inner_layers_is_no_other_name() -> None:
    # Keras 3 calls the kernels of both Dense layers in a block `block/kernel` in a checkpoint.
    graph = side(
        tensor("m/b/_kernel", "net/block/kernel", name="m/b/kernel", crc=5),
        tensor("m/a/_kernel", "net/block/kernel", name="m/a/kernel", crc=6),
    )
    first, second = "net_1/block_3/dense_8/kernel", "net_1/block_3/dense_9/kernel"
    layers = side(named(first, crc=5), named(second, crc=6))
    for result in (align(graph, layers), align(layers, graph)):
        assert result.renamed == ()
        assert {match.evidence for match in result.pairs} == {"full name, by content"}
    other = side(named("net_1/head/dense_8/kernel", crc=5), named(second, crc=6))
    assert len(align(graph, other).renamed) == 1


def test_a_place_alone_is_no_name_that_was_changed() -> None:
    # Keras 2 writes no names to `.keras`: `block/a/vars/0` had no other name before.
    places = [named(f"block/{part}/vars/0", crc=crc) for part, crc in (("a", 5), ("b", 6))]
    names = [named(f"net/dense_{n}/kernel", crc=crc) for n, crc in ((8, 6), (9, 5))]
    for result in (align(side(*places), side(*names)), align(side(*names), side(*places))):
        assert result.renamed == ()
        assert [match.evidence for match in result.pairs] == ["place, by content"] * 2
    # Where one weight has no partner, or both files have places, contents are all there is.
    assert len(align(side(*places), side(*names, named("net/w", crc=7))).renamed) == 2
    moved = named("other/a/vars/0", crc=5), named("other/b/vars/0", crc=6)
    assert {m.evidence for m in align(side(*places), side(*moved)).renamed} <= {"content"}


# -- duplicates, config, slots -----------------------------------------------------------------


def test_tensors_stored_twice_are_one_with_all_its_paths() -> None:
    old = side(
        tensor("variables/0", "a/w", crc=5),
        tensor("_all_variables/0", name="_all_variables/0", crc=5, duplicate_of="a/w"),
    )
    new = side(tensor("_all_variables/0", "z/w", crc=5))
    result = align(old, new)
    assert short(result.pairs) == {"variables/0": ("_all_variables/0", "alias")}
    assert left_over(result) == ([], [])


def test_strings_of_configuration_take_no_part() -> None:
    graph = tensor("_CHECKPOINTABLE_OBJECT_GRAPH", role="config", dtype="string", shape=())
    result = align(side(graph), side(tensor("w")))
    assert left_over(result) == ([], ["w"])


def slot(path: str, of: str, kind: str, optimizer: str | None = None) -> tuple[TensorSpec, Naming]:
    name = f"{of}@{kind}"
    return tensor(path, name=name, role="slot", slot_of=of, slot=kind, optimizer=optimizer)


def test_slots_follow_their_variable_and_not_their_position() -> None:
    old = side(
        *(tensor("m/a", "a/w"), tensor("m/b", "b/w")),
        *(slot("opt/_variables/2", "a/w", "m"), slot("opt/_variables/3", "b/w", "m")),
    )
    new = side(
        *(tensor("m/a", "a/w"), tensor("m/b", "b/w")),
        *(slot("opt/_variables/3", "a/w", "momentum"), slot("opt/_variables/2", "b/w", "momentum")),
    )
    pairs = short(align(old, new).pairs)
    assert pairs["opt/_variables/2"] == ("opt/_variables/3", "variable")
    assert pairs["opt/_variables/3"] == ("opt/_variables/2", "variable")


def test_slots_of_a_renamed_variable_go_with_it() -> None:
    old = side(named("x/w", crc=5), slot("o/0", "x/w", "v"))
    new = side(named("y/w", crc=5), slot("p/0", "y/w", "v"))
    result = align(old, new)
    assert short(result.renamed) == {"x/w": ("y/w", "content")}
    assert short(result.pairs) == {"o/0": ("p/0", "variable")}


def test_two_optimizers_of_one_variable_are_told_apart() -> None:
    old = side(
        tensor("m/a", "a/w"),
        *(slot(f"o{i}/0", "a/w", "m", optimizer=f"o{i}") for i in (1, 2)),
    )
    result = short(align(old, old).pairs)
    assert result["o1/0"] == ("o1/0", "variable") and result["o2/0"] == ("o2/0", "variable")


def test_slots_without_optimizers_are_told_apart_by_kind_alone() -> None:
    def two(one: str, other: str) -> TensorSet:
        slots = (tensor(f"o{at}/0", name=f"a/w@{kind}{at}", role="slot", slot_of="a/w", slot=kind)
                 for at, kind in enumerate((one, other)))  # fmt: skip
        return side(tensor("m/a", "a/w"), *slots)

    assert short(align(two("m", "v"), two("v", "m")).pairs) == {
        "m/a": ("m/a", "key"),
        "o0/0": ("o1/0", "variable"),
        "o1/0": ("o0/0", "variable"),
    }
    for old, new in ((two("m", "m"), two("m", "v")), (two("m", "v"), two("m", "m"))):
        assert short(align(old, new).pairs) == {"m/a": ("m/a", "key")}


def test_step_counters_of_all_generations_are_one() -> None:
    old = side(tensor("optimizer/iter", role="counter", shape=(), dtype="int64"))
    new = side(tensor("model/optimizer/_iterations", role="counter", shape=(), dtype="int64"))
    assert short(align(old, new).pairs) == {
        "optimizer/iter": ("model/optimizer/_iterations", "name")
    }


# -- rules -------------------------------------------------------------------------------------


def test_rules_come_before_all_other_evidence() -> None:
    old, new = side(named("a"), named("b")), side(named("a"), named("b"))
    rules = [parse_rule("^a$=>b"), parse_rule("^b$=>a")]
    assert short(align(old, new, rules).pairs) == {
        "a": ("b", "rule ^a$=>b"),
        "b": ("a", "rule ^b$=>a"),
    }


def test_rules_with_groups_and_the_last_that_fits() -> None:
    old = side(named("layer_3/w", crc=None))
    new = side(named("blocks/3/w", crc=None), named("other", crc=None))
    rules = [parse_rule("layer=>other"), parse_rule(r"layer_(\d+)=>blocks/\1")]
    result = align(old, new, rules)
    assert short(result.pairs)["layer_3/w"][0] == "blocks/3/w"
    assert result.unused_rules == ("layer=>other",)


def test_rules_that_collide_are_refused() -> None:
    old, new = side(named("x/w"), named("y/w")), side(named("z/w"))
    with pytest.raises(UsageError, match=r"x/w and y/w to z/w"):
        align(old, new, [parse_rule("^[xy]=>z")])


@pytest.mark.parametrize("text", ["", "a", "=>b", "(=>b", r"a=>\2"])
def test_rules_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_rule(text)


def test_rule_files(tmp_path: Path) -> None:
    file = tmp_path / "rules"
    file.write_text("# a comment\n\n  ^a/=>b/  \n", "utf-8")
    assert [rule.text for rule in read_rules(file)] == ["^a/=>b/"]
    file.write_text("^a/=>b/\noops\n", "utf-8")
    with pytest.raises(UsageError, match="line 2"):
        read_rules(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not a text file"):
        read_rules(file)
    with pytest.raises(PathNotFoundError):
        read_rules(tmp_path / "missing")


def test_written_rules_say_exactly_what_was_paired(tmp_path: Path) -> None:
    names = [("a.b/c", r"x\1/y"), ("a+b", "c")]
    assert write_rules(tmp_path / "map", names) == 2
    rules = read_rules(tmp_path / "map")
    for old, new in names:
        found = [rule.apply(old) for rule in rules if rule.apply(old) is not None]
        assert found == [new]
    assert all(rule.apply("axb/c") is None for rule in rules)


def test_a_rule_finds_a_tensor_by_name_full_name_or_path() -> None:
    found = apply_rules(
        [parse_rule("^model/(.*)=>net/\\1")],
        {"k1": ["conv/w", "c/w", "model/conv/w"]},
        {"k2": ["kernel", "net/conv/w"]},
    )
    assert found.pairs == (("k1", "k2", "^model/(.*)=>net/\\1"),)


def test_a_scope_that_was_renamed_and_trained_is_proposed_as_a_rule() -> None:
    kind = ("float32", (2, 3))
    old = {f"bert/layer_{i}/{v}": (kind, v) for i in range(4) for v in ("kernel", "bias")}
    new = {f"encoder/x/layer_{i}/{v}": (kind, v) for i in range(4) for v in ("kernel", "bias")}
    assert suggest_rules(old, new) == [("^bert/=>encoder/x/", 8)]
    rule = parse_rule(suggest_rules(old, new)[0][0])
    assert {rule.apply(name) for name in old} == set(new)


def test_no_rule_is_proposed_on_thin_evidence() -> None:
    kind = ("float32", (2, 3))
    assert suggest_rules({"a/w": kind, "b/w": kind}, {"c/w": kind, "d/w": kind}) == []


def lines_run(work: Callable[[], object]) -> int:
    """Return how many lines of Python `work` runs: what it costs, on any machine."""
    count = 0

    def trace(_frame: object, event: str, _argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def test_alignment_costs_as_much_more_as_there_are_more_names() -> None:
    def renumbered(count: int) -> tuple[Any, Any]:
        old = side(*(named(f"l{i}/dense_{i}/kernel", crc=None) for i in range(count)))
        new = side(*(named(f"l{i}/dense_{i + 1}/kernel", crc=None) for i in range(count)))
        return old, new

    result = align(*renumbered(20_000))
    assert len(result.pairs) == 20_000
    assert re.fullmatch("full name, renumbered", result.pairs[0].evidence)
    few, many = renumbered(300), renumbered(2400)
    assert lines_run(lambda: align(*many)) < 12 * lines_run(lambda: align(*few))


# -- files that TensorFlow and Keras wrote -----------------------------------------------------


def golden_groups() -> list[list[str]]:
    """Goldens whose live models had the same weights, by name."""
    goldens = json.loads((GOLDEN / "MANIFEST.json").read_text("utf-8"))["goldens"]
    groups: dict[tuple[str, ...], list[str]] = {}
    for path, golden in goldens.items():
        if golden.get("weights") and golden.get("tensors"):
            groups.setdefault(tuple(sorted(golden["weights"])), []).append(path)
    return [paths for paths in groups.values() if len(paths) > 1]


@pytest.mark.parametrize("paths", golden_groups(), ids=lambda paths: paths[0])
def test_real_files_of_one_model_pair_variable_with_variable(paths: list[str]) -> None:
    """Across TensorFlow 2.12 to 2.21, Keras 2 and 3, and every format: judged by the live names."""
    goldens = json.loads((GOLDEN / "MANIFEST.json").read_text("utf-8"))["goldens"]
    sides, variables = {}, {}
    for path in paths:
        opened = ckptkit.open(GOLDEN / path)
        sides[path] = TensorSet(opened.specs, opened.names)
        variables[path] = {k: t.get("variable") for k, t in goldens[path]["tensors"].items()}
    for one, two in itertools.permutations(paths, 2):
        old, new, result = sides[one], sides[two], align(sides[one], sides[two])
        found = [m for m in (*result.pairs, *result.renamed) if m.old in old.weights]
        for match in found:
            assert variables[one][match.old] == variables[two][match.new], (one, two, match)
        both = {variables[one][k] for k in old.weights} & {variables[two][k] for k in new.weights}
        assert both == both & {variables[one][m.old] for m in found}, (one, two)
        doubtful = {key for item in result.ambiguous for key in item.old}
        assert not doubtful & old.weights  # settings of two optimizers may be
        # a full name that all blocks of a plain list share says nothing; their bytes do
        assert not result.renamed or "list" in one + two
