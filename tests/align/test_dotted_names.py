"""Names with dots for slashes, as modules of PyTorch have them, and the scopes around them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ckptkit.align.matching import Alignment, TensorSet, align
from ckptkit.checkpoint.naming import Naming
from ckptkit.cli.main import cli
from ckptkit.stores.base import TensorSpec
from support.pytorch_files import write_pytorch

Shapes = Mapping[str, tuple[int, ...]]
NET: Shapes = {
    "conv.weight": (4, 3, 3, 3),
    "conv.bias": (4,),
    "blocks.0.fc.weight": (4, 4),
    "blocks.1.fc.weight": (4, 4),
    "head.weight": (2, 4),
}
ONE_ROOT: Shapes = {"net.0.weight": (4, 3), "net.0.bias": (4,), "net.2.weight": (4, 4)}
LAYER: Shapes = {"weight": (3, 3), "bias": (3,)}


def side(shapes: Shapes) -> TensorSet:
    specs = {
        name: TensorSpec(name, "float32", shape, 4 * int(np.prod(shape)))
        for name, shape in shapes.items()
    }
    return TensorSet(specs, {name: Naming(name, "weight") for name in shapes})


def within(scope: str, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    return {f"{scope}.{name}": shape for name, shape in shapes.items()}


def both_ways(one: Shapes, other: Shapes) -> Alignment:
    """Return how two files are paired, which is the same in both directions."""
    there, back = align(side(one), side(other)), align(side(other), side(one))
    assert {(m.old, m.new) for m in there.pairs} == {(m.new, m.old) for m in back.pairs}
    assert [(a.old, a.new) for a in there.ambiguous] == [(a.new, a.old) for a in back.ambiguous]
    return there


@pytest.mark.parametrize("net", [NET, ONE_ROOT, LAYER], ids=["net", "one root", "layer"])
@pytest.mark.parametrize("scope", ["module", "_orig_mod", "module._orig_mod", "any.name.at.all"])
def test_a_scope_around_everything_is_looked_through(scope: str, net: Shapes) -> None:
    found = both_ways(net, within(scope, net))

    assert {(m.old, m.new) for m in found.pairs} == {(name, f"{scope}.{name}") for name in net}
    assert {m.evidence for m in found.pairs} <= {"name", "place"}


def test_two_scopes_around_one_model_are_the_same_model() -> None:
    found = both_ways(within("module", NET), within("_orig_mod", NET))
    assert {(m.old, m.new) for m in found.pairs} == {
        (f"module.{name}", f"_orig_mod.{name}") for name in NET
    }
    # a layer of another name is another layer
    assert not both_ways(within("hidden", LAYER), within("logits", LAYER)).pairs


def test_a_scope_around_one_layer_is_looked_through() -> None:
    compiled = {name.replace("0.fc.", "0.fc._orig_mod."): shape for name, shape in NET.items()}
    found = both_ways(NET, compiled)
    assert ("blocks.0.fc.weight", "blocks.0.fc._orig_mod.weight") in {m[:2] for m in found.pairs}
    assert not found.only_left and not found.only_right


def test_what_a_wrapped_file_has_beside_is_added() -> None:
    found = both_ways(NET, {**within("module", NET), "loss.scale.value": (2,)})
    assert len(found.pairs) == len(NET)
    assert found.only_right == ("loss.scale.value",)


def test_two_candidates_are_named_and_not_paired(tmp_path: Path) -> None:
    several = {**within("model", NET), **within("ema", NET)}
    found = both_ways(several, NET)

    assert not found.pairs
    [ambiguity] = found.ambiguous
    assert set(ambiguity.old) == set(several)
    assert set(ambiguity.new) == set(NET)
    rng = np.random.default_rng(1)
    for name, shapes in (("several.pt", several), ("one.pt", NET)):
        arrays = {key: rng.normal(size=s).astype("float32") for key, s in shapes.items()}
        write_pytorch(tmp_path / name, arrays)
    files = [str(tmp_path / "several.pt"), str(tmp_path / "one.pt")]
    result = CliRunner().invoke(cli, ["diff", *files])
    assert result.exit_code == 1
    assert "not paired, model, ema hold the same names: model.conv.weight" in result.output
    result = CliRunner().invoke(cli, ["diff", *files, "--map", r"^ema\.=>"])
    assert "5 changed" in result.output


def test_of_two_scopes_the_one_that_fits_is_taken() -> None:
    other = {name: (9, *shape) for name, shape in within("other", NET).items()}
    found = both_ways({**within("model", NET), **other}, NET)
    assert {m.old for m in found.pairs} == set(within("model", NET))


def test_dots_and_slashes_are_one_path() -> None:
    slashes = {name.replace(".", "/"): shape for name, shape in NET.items()}
    found = both_ways(NET, slashes)
    assert {(m.old, m.new) for m in found.pairs} == {(n, n.replace(".", "/")) for n in NET}


def test_dots_within_names_with_slashes_are_letters() -> None:
    versions = {"v1.5/kernel": (2, 3), "v1.6/kernel": (2, 3)}
    assert both_ways(versions, {"v1/5/kernel": (2, 3)}).pairs == ()
