"""Proposed maps: what is decided and by what, what is left open, and that values follow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptkit
from ckptkit.errors import UsageError
from ckptkit.operations.convert.api import convert
from ckptkit.operations.map.result import ProposedMap
from support.command_line import ckptkit as run
from support.goldens import golden
from support.keras_files import CONFIG, h5_bytes, layer, write_h5, write_keras
from support.places import ROOT
from support.pytorch_files import write_pytorch

Shapes = Mapping[str, tuple[int, ...]]
PYTORCH = ROOT / "fixtures" / "pytorch"
RNG = np.random.default_rng(27)


def file_of(path: Path, shapes: Shapes) -> Path:
    """Write tensors of these shapes, drawn, with the suffix's format."""
    arrays: dict[str, Any] = {
        name: RNG.normal(size=shape).astype("float32") for name, shape in shapes.items()
    }
    if path.suffix == ".pt":
        return write_pytorch(path, arrays)
    np.savez(path, **arrays)
    return path


def proposed(tmp_path: Path, source: Shapes, target: Shapes, end: str = ".pt") -> ProposedMap:
    """Return the map from a file of PyTorch to one whose names have slashes."""
    src, dst = file_of(tmp_path / f"src{end}", source), file_of(tmp_path / "dst.npz", target)
    return ckptkit.map(src, dst)


def decided(proposal: ProposedMap) -> dict[str, str]:
    """Return {tensor of DST: tensor of SRC, and the steps}."""
    return {rule.target: f"{rule.source} {rule.transform}".strip() for rule in proposal.rules}


def linear(name: str, into: int, out: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def dense(name: str, into: int, out: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}/kernel": (into, out), f"{name}/bias": (out,)}


# --- layouts --------------------------------------------------------------------------------------

TORCH: Shapes = {
    "stem.weight": (8, 3, 3, 2),
    "stem.bias": (8,),
    "norm.weight": (8,),
    "norm.bias": (8,),
    "norm.running_mean": (8,),
    "norm.running_var": (8,),
    "depth.weight": (16, 1, 3, 3),
    "seq.weight": (5, 8, 3),
    "embed.weight": (11, 6),
    "attn.in_proj_weight": (18, 6),
    "attn.in_proj_bias": (18,),
    "attn.out_proj.weight": (6, 6),
    "attn.out_proj.bias": (6,),
    "ln.weight": (6,),
    "ln.bias": (6,),
    "rec.weight_ih_l0": (40, 6),
    "rec.weight_hh_l0": (40, 10),
    "rec.bias_ih_l0": (40,),
    "rec.bias_hh_l0": (40,),
    "gate.weight_ih_l0": (21, 10),
    "gate.weight_hh_l0": (21, 7),
    "gate.bias_ih_l0": (21,),
    "gate.bias_hh_l0": (21,),
    "head.weight": (7, 7),
    "head.bias": (7,),
}
KERAS: Shapes = {
    "stem/kernel": (3, 2, 3, 8),
    "stem/bias": (8,),
    "norm/gamma": (8,),
    "norm/beta": (8,),
    "norm/moving_mean": (8,),
    "norm/moving_variance": (8,),
    "depth/depthwise_kernel": (3, 3, 8, 2),
    "seq/kernel": (3, 8, 5),
    "embed/embeddings": (11, 6),
    "mha/query/kernel": (6, 2, 3),
    "mha/query/bias": (2, 3),
    "mha/key/kernel": (6, 2, 3),
    "mha/key/bias": (2, 3),
    "mha/value/kernel": (6, 2, 3),
    "mha/value/bias": (2, 3),
    "mha/attention_output/kernel": (2, 3, 6),
    "mha/attention_output/bias": (6,),
    "ln/gamma": (6,),
    "ln/beta": (6,),
    "lstm/lstm_cell/kernel": (6, 40),
    "lstm/lstm_cell/recurrent_kernel": (10, 40),
    "lstm/lstm_cell/bias": (40,),
    "gru/gru_cell/kernel": (10, 21),
    "gru/gru_cell/recurrent_kernel": (7, 21),
    "gru/gru_cell/bias": (2, 21),
    "head/kernel": (7, 7),
    "head/bias": (7,),
}


def blocks(array: Any, order: tuple[int, ...]) -> Any:
    parts = np.split(array, len(order))
    return np.concatenate([parts[at] for at in order])


def expected(torch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of KERAS, written down after the documentation of both libraries."""
    query, key, value = np.split(torch["attn.in_proj_weight"], 3)
    biases = np.split(torch["attn.in_proj_bias"], 3)
    zrh = (1, 0, 2)  # of r, z, n
    found = {
        "stem/kernel": torch["stem.weight"].transpose(2, 3, 1, 0),
        "stem/bias": torch["stem.bias"],
        "norm/gamma": torch["norm.weight"],
        "norm/beta": torch["norm.bias"],
        "norm/moving_mean": torch["norm.running_mean"],
        "norm/moving_variance": torch["norm.running_var"],
        "depth/depthwise_kernel": torch["depth.weight"].reshape(8, 2, 3, 3).transpose(2, 3, 0, 1),
        "seq/kernel": torch["seq.weight"].T,
        "embed/embeddings": torch["embed.weight"],
        "mha/attention_output/kernel": torch["attn.out_proj.weight"].T.reshape(2, 3, 6),
        "mha/attention_output/bias": torch["attn.out_proj.bias"],
        "ln/gamma": torch["ln.weight"],
        "ln/beta": torch["ln.bias"],
        "lstm/lstm_cell/kernel": torch["rec.weight_ih_l0"].T,
        "lstm/lstm_cell/recurrent_kernel": torch["rec.weight_hh_l0"].T,
        "lstm/lstm_cell/bias": torch["rec.bias_ih_l0"] + torch["rec.bias_hh_l0"],
        "gru/gru_cell/kernel": blocks(torch["gate.weight_ih_l0"], zrh).T,
        "gru/gru_cell/recurrent_kernel": blocks(torch["gate.weight_hh_l0"], zrh).T,
        "gru/gru_cell/bias": np.stack(
            [blocks(torch[f"gate.bias_{of}_l0"], zrh) for of in ("ih", "hh")]
        ),
        "head/kernel": torch["head.weight"].T,
        "head/bias": torch["head.bias"],
    }
    for name, kernel, bias in zip(
        ("query", "key", "value"), (query, key, value), biases, strict=True
    ):
        found[f"mha/{name}/kernel"] = kernel.T.reshape(6, 2, 3)
        found[f"mha/{name}/bias"] = bias.reshape(2, 3)
    return found


def test_values_of_torch_go_where_keras_has_them(tmp_path: Path) -> None:
    proposal = proposed(tmp_path, TORCH, KERAS)
    assert proposal.ok and proposal.exit_code == 0, proposal.to_json()
    rules = [rule.text for rule in proposal.rules]

    done = convert(proposal.src, tmp_path / "out.npz", like=proposal.dst, rules=rules)

    assert done.ok
    torch = {name: np.asarray(array) for name, array in ckptkit.open(proposal.src).items()}
    found = ckptkit.open(tmp_path / "out.npz")
    values = expected(torch)
    assert found.keys() == values.keys() == KERAS.keys()
    for name, array in values.items():
        assert np.array_equal(found[name], array), name


def test_and_back(tmp_path: Path) -> None:
    """What the map back makes of the result is what there was, but for biases that were added."""
    source = file_of(tmp_path / "torch.pt", TORCH)
    keras = file_of(tmp_path / "keras.npz", KERAS)
    torch = {name: np.asarray(array) for name, array in ckptkit.open(source).items()}
    torch["rec.bias_hh_l0"] = np.zeros_like(torch["rec.bias_hh_l0"])
    source = write_pytorch(source, torch)

    there = ckptkit.map(source, keras)
    convert(source, tmp_path / "there.npz", like=keras, rules=[r.text for r in there.rules])
    back = ckptkit.map(tmp_path / "there.npz", source)
    assert back.ok and back.kept == ("rec.bias_hh_l0",)
    convert(
        tmp_path / "there.npz",
        tmp_path / "back.npz",
        like=source,
        rules=[rule.text for rule in back.rules],
        allow_missing=back.kept,
    )

    again = ckptkit.open(tmp_path / "back.npz")
    assert all(np.array_equal(again[name], array) for name, array in torch.items())


def test_a_second_bias_that_is_not_zero_is_no_place_to_keep(tmp_path: Path) -> None:
    back = ckptkit.map(file_of(tmp_path / "k.npz", KERAS), file_of(tmp_path / "t.pt", TORCH))
    assert not back.ok and not back.kept
    assert back.unmatched_targets == ("rec.bias_hh_l0",)
    assert "k.npz has nothing for rec.bias_hh_l0 of t.pt" in str(back)


def test_two_directions_and_levels_of_a_recurrent_module(tmp_path: Path) -> None:
    torch: dict[str, tuple[int, ...]] = {}
    keras: dict[str, tuple[int, ...]] = {}
    for level, width in ((0, 8), (1, 8)):
        for torch_end, keras_name in (("", "forward_lstm"), ("_reverse", "backward_lstm")):
            end = f"l{level}{torch_end}"
            torch |= {f"rnn.weight_ih_{end}": (16, width), f"rnn.weight_hh_{end}": (16, 4)}
            torch |= {f"rnn.bias_ih_{end}": (16,), f"rnn.bias_hh_{end}": (16,)}
            scope = f"bidirectional{'_1' * level}/{keras_name}/lstm_cell"
            keras |= {f"{scope}/kernel": (width, 16), f"{scope}/recurrent_kernel": (4, 16)}
            keras |= {f"{scope}/bias": (16,)}
    found = decided(proposed(tmp_path, torch, keras))
    assert found["bidirectional/backward_lstm/lstm_cell/kernel"] == (
        "rnn.weight_ih_l0_reverse transpose"
    )
    assert found["bidirectional_1/forward_lstm/lstm_cell/recurrent_kernel"] == (
        "rnn.weight_hh_l1 transpose"
    )
    assert len(found) == 12


def test_a_gru_that_torch_does_not_compute_is_no_partner(tmp_path: Path) -> None:
    torch = {name: shape for name, shape in TORCH.items() if name.startswith("gate")}
    keras = {name: shape for name, shape in KERAS.items() if name.startswith("gru")}
    keras["gru/gru_cell/bias"] = (21,)  # reset_after=False
    proposal = proposed(tmp_path, torch, keras)
    assert not proposal.rules and len(proposal.unmatched_targets) == 3


@pytest.mark.parametrize("shape", [(3, 3, 4, 40), (), (0, 0), (40,)])
def test_recurrent_layers_of_other_ranks_are_no_partners(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    torch = {name: size for name, size in TORCH.items() if name.startswith("rec.")}
    keras = {name: size for name, size in KERAS.items() if name.startswith("lstm")}
    keras["lstm/lstm_cell/recurrent_kernel"] = shape
    assert not proposed(tmp_path, torch, keras).rules
    assert not ckptkit.map(tmp_path / "dst.npz", tmp_path / "src.pt").rules


# --- what is open ---------------------------------------------------------------------------------

TWINS = {**linear("left", 4, 4), **linear("right", 4, 4), **linear("head", 4, 3)}
OTHERS = {**dense("first", 4, 4), **dense("second", 4, 4), **dense("head", 4, 3)}


def test_of_two_candidates_both_are_named_and_convert_stops(tmp_path: Path) -> None:
    src, dst = file_of(tmp_path / "src.pt", TWINS), file_of(tmp_path / "dst.npz", OTHERS)
    result = run("map", src, dst, "-o", tmp_path / "m.map")

    assert result.code == 1
    assert "left open: first/kernel: left.weight, right.weight: 2 layers of src.pt" in result.err
    assert "unproven" in result.err
    command = ("convert", src, tmp_path / "o.npz", "--like", dst, "--map-from", tmp_path / "m.map")
    stopped = run(*command)
    assert stopped.code == 2 and not (tmp_path / "o.npz").exists()
    assert "first/kernel is left open: left.weight (transpose) or right.weight (transp" in (
        stopped.err
    )
    text = (tmp_path / "m.map").read_text()
    for rule in (r"^left\.weight$=>first/k", r"^right\.weight$=>second/k"):
        assert f"#? {rule}" in text
        text = text.replace(f"#? {rule}", rule)
    (tmp_path / "m.map").write_text(text)
    assert "first/bias is left open: left.bias or right.bias" in run(*command).err
    for rule in (r"^left\.bias$=>first/b", r"^right\.bias$=>second/b"):
        text = text.replace(f"#? {rule}", rule)
    (tmp_path / "m.map").write_text(text)
    assert run(*command).code == 0
    there, here = ckptkit.open(tmp_path / "o.npz"), ckptkit.open(src)
    assert np.array_equal(there["second/kernel"], np.asarray(here["right.weight"]).T)


@pytest.mark.parametrize(
    ("torch", "keras"),
    [
        (("0", "2", "5"), ("dense", "dense_1", "dense_2")),
        (("fc1", "fc2", "fc10"), ("dense_4", "dense_5", "dense_6")),
        (("blocks.0.up", "blocks.1.up", "blocks.2.up"), ("b_3/fc", "b_4/fc", "b_11/fc")),
    ],
)
def test_numbers_go_in_their_order(
    torch: tuple[str, ...], keras: tuple[str, ...], tmp_path: Path
) -> None:
    source = {k: v for name in torch for k, v in linear(name, 4, 4).items()}
    target = {k: v for name in reversed(keras) for k, v in dense(name, 4, 4).items()}
    found = decided(proposed(tmp_path, source, target))
    assert [found[f"{name}/bias"] for name in keras] == [f"{name}.bias" for name in torch]


def test_numbers_that_the_order_of_the_file_contradicts_decide_nothing(tmp_path: Path) -> None:
    source = {**linear("fc2", 4, 4), **linear("fc1", 4, 4)}
    target = {**dense("dense", 4, 4), **dense("dense_1", 4, 4)}
    proposal = proposed(tmp_path, source, target)
    assert not proposal.rules and len(proposal.open) == 4


def test_the_first_of_those_that_a_program_counts_has_no_name_of_its_own(tmp_path: Path) -> None:
    source = {**linear("hidden", 4, 4), **linear("dense", 4, 4)}
    target = {**dense("dense", 4, 4), **dense("dense_1", 4, 4)}
    assert not proposed(tmp_path, source, target).rules


def test_an_order_that_is_the_same_backwards_decides_nothing(tmp_path: Path) -> None:
    source = {**linear("last", 4, 4), "m.weight": (4,), "m.bias": (4,), **linear("first", 4, 4)}
    target = {**linear("d", 4, 4), "n.weight": (4,), "n.bias": (4,), **linear("d_1", 4, 4)}
    src, dst = file_of(tmp_path / "a.pt", source), file_of(tmp_path / "b.pt", target)
    assert {item.target for item in ckptkit.map(src, dst).open} == {
        f"{name}.{end}" for name in ("d", "d_1") for end in ("weight", "bias")
    }


def test_names_come_before_numbers(tmp_path: Path) -> None:
    names = ("query", "key", "value")
    source = {
        k: v for i in (0, 1) for n in names for k, v in linear(f"layer.{i}.{n}", 4, 4).items()
    }
    target = {
        k: v for i in (1, 2) for n in sorted(names) for k, v in dense(f"b_{i}/{n}", 4, 4).items()
    }
    found = decided(proposed(tmp_path, source, target))
    assert {n: found[f"b_{i}/{n}/bias"] for i in (1,) for n in names} == {
        n: f"layer.0.{n}.bias" for n in names
    }
    assert found["b_2/key/kernel"] == "layer.1.key.weight transpose"


@pytest.mark.parametrize("are_apart", [True, False])
def test_the_order_of_both_files_decides_between_layers_that_are_known(
    are_apart: bool, tmp_path: Path
) -> None:
    middle, keras_middle = linear("neck.fc", 4, 2), dense("dense_1", 4, 2)
    after, keras_after = linear("grow.fc", 2, 4), dense("dense_2", 2, 4)
    first, last = linear("encoder.fc", 4, 4), linear("decoder.fc", 4, 4)
    source = {**first, **middle, **after, **last}
    if not are_apart:
        source = {**first, **last, **middle, **after}
    keras_first, keras_last = dense("dense", 4, 4), dense("dense_3", 4, 4)
    target = {**keras_first, **keras_middle, **keras_after, **keras_last}
    if not are_apart:
        target = {**keras_first, **keras_last, **keras_middle, **keras_after}
    renamed = {name.replace("/", "."): shape for name, shape in target.items()}
    src, dst = file_of(tmp_path / "a.pt", source), file_of(tmp_path / "b.pt", renamed)

    proposal = ckptkit.map(src, dst)

    if are_apart:
        assert decided(proposal)["dense_3.kernel"] == "decoder.fc.weight transpose"
        assert {rule.why for rule in proposal.rules} == {"shape", "order"}
    else:
        assert {item.target for item in proposal.open} == {
            f"{name}.{end}" for name in ("dense", "dense_3") for end in ("kernel", "bias")
        }


def test_words_that_contradict_one_another_decide_nothing(tmp_path: Path) -> None:
    source = {**linear("encoder.fc", 4, 4), **linear("decoder.head", 4, 4)}
    target = {**dense("decoder/fc", 4, 4), **dense("other/name", 4, 4)}
    proposal = proposed(tmp_path, source, target)
    assert not proposal.rules and len(proposal.open) == 4


def test_more_layers_on_one_side_leave_it_open(tmp_path: Path) -> None:
    source = {**linear("a", 4, 4), **linear("b", 4, 4), **linear("c", 4, 4)}
    proposal = proposed(tmp_path, source, {**dense("x", 4, 4), **dense("y", 4, 4)})
    assert not proposal.ok and not proposal.rules
    assert {len(item.candidates) for item in proposal.open} == {3}


def test_a_gap_in_the_numbers_shows_that_they_were_kept(tmp_path: Path) -> None:
    """Layers of the same names stand for themselves where one of them is missing in between."""
    names = [f"encoder/layer_{n}/{part}" for n in range(6) for part in ("query", "value")]
    whole = {k: shape for name in names for k, shape in dense(name, 4, 4).items()}
    holed = {name: shape for name, shape in whole.items() if "/layer_3/" not in name}
    for source, target in ((holed, whole), (whole, holed)):
        proposal = proposed(tmp_path, source, target, ".npz")
        assert decided(proposal) == {name: name for name in holed}
        assert {rule.why for rule in proposal.rules} == {"name"}
    # the last may be missing, or any other before all were counted anew
    shorter = {name: shape for name, shape in whole.items() if "/layer_5/" not in name}
    assert decided(proposed(tmp_path, shorter, whole, ".npz")) == {}


def test_words_on_one_side_alone_are_not_numbers_on_the_other(tmp_path: Path) -> None:
    """A shortcut has the shape of the third convolution, and stands before it in other files."""
    source = {
        "layer1.0.conv3.weight": (8, 2, 1, 1),
        "layer1.0.downsample.0.weight": (8, 2, 1, 1),
    }
    target = {"block1_0_conv/kernel": (1, 1, 2, 8), "block1_3_conv/kernel": (1, 1, 2, 8)}
    proposal = proposed(tmp_path, source, target)
    assert not proposal.rules
    assert [rule.source for rule in proposal.open[0].candidates] == list(source)


def test_numbers_mean_what_they_mean_in_the_known_pairs(tmp_path: Path) -> None:
    """A residual net: shortcuts have the shapes of the third convolutions, and stand elsewhere."""
    source: dict[str, tuple[int, ...]] = {}
    target: dict[str, tuple[int, ...]] = {}
    partner: dict[str, str] = {}
    into = 3
    for stage, width in enumerate((2, 4), 1):
        for block in (0, 1):
            shapes = {1: (width, into, 1, 1), 2: (width, width, 3, 3), 3: (4 * width, width, 1, 1)}
            scope, keras = f"layer{stage}.{block}", f"conv{stage + 1}_block{block + 1}"
            if block == 0:
                shapes[0] = (4 * width, into, 1, 1)
            for number, shape in shapes.items():
                names = (f"conv{number}", f"bn{number}")
                names = names if number else ("downsample.0", "downsample.1")
                source[f"{scope}.{names[0]}.weight"] = shape
                source |= {f"{scope}.{names[1]}.{end}": shape[:1] for end in ("weight", "bias")}
                partner[f"{keras}_{number}_conv/kernel"] = f"{scope}.{names[0]}.weight"
                partner[f"{keras}_{number}_bn/gamma"] = f"{scope}.{names[1]}.weight"
                partner[f"{keras}_{number}_bn/beta"] = f"{scope}.{names[1]}.bias"
            for number, (out, channels, *window) in sorted(shapes.items()):
                target[f"{keras}_{number}_conv/kernel"] = (*window, channels, out)
                target |= {f"{keras}_{number}_bn/{end}": (out,) for end in ("gamma", "beta")}
            into = 4 * width
    proposal = proposed(tmp_path, source, target)
    assert proposal.ok
    assert {rule.target: rule.source for rule in proposal.rules} == partner


def test_what_is_known_of_a_block_narrows_the_rest_of_it(tmp_path: Path) -> None:
    source: dict[str, tuple[int, ...]] = {}
    target: dict[str, tuple[int, ...]] = {}
    for i in (0, 1):
        scope, keras = f"model.layers.{i}", f"transformer_layer_{i}"
        source |= {f"{scope}.attn.{q}_proj.weight": (4, 4) for q in "qkvo"}
        source |= {f"{scope}.mlp.{name}_proj.weight": (9, 4) for name in ("gate", "up")}
        source |= {f"{scope}.mlp.down_proj.weight": (4, 9), f"{scope}.before_norm.weight": (4,)}
        source[f"{scope}.after_norm.weight"] = (4,)
        for name in ("query", "key", "value", "attention_output"):
            target[f"{keras}/attention/{name}/kernel"] = (4, 4)
        target |= {f"{keras}/mlp_{name}/kernel": (4, 9) for name in ("gate", "inner")}
        target[f"{keras}/mlp_outer/kernel"] = (9, 4)
        target |= {f"{keras}/{name}_norm/scale": (4,) for name in ("before", "after")}
    proposal = proposed(tmp_path, source, target)
    found = decided(proposal)
    assert found["transformer_layer_1/mlp_gate/kernel"] == (
        "model.layers.1.mlp.gate_proj.weight transpose"
    )
    assert found["transformer_layer_0/mlp_inner/kernel"] == (
        "model.layers.0.mlp.up_proj.weight transpose"
    )
    assert len(found) == 10
    assert {len(item.candidates) for item in proposal.open} == {4}  # of one block, not of both


def test_a_square_kernel_follows_the_others_of_its_file(tmp_path: Path) -> None:
    """Weights of GPT-2 are [in, out] under the name that torch.nn has for [out, in]."""
    source = {"a.weight": (4, 6), "b.weight": (6, 6)}
    target = {"a/kernel": (4, 6), "b/kernel": (6, 6)}
    assert decided(proposed(tmp_path, source, target)) == {
        "a/kernel": "a.weight",
        "b/kernel": "b.weight",
    }
    source |= {"c.weight": (5, 3)}
    target |= {"c/kernel": (3, 5)}
    proposal = proposed(tmp_path, source, target)
    [item] = proposal.open
    assert item.target == "b/kernel"
    assert [str(rule.transform) for rule in item.candidates] == ["transpose", ""]


def test_names_of_no_library_leave_the_order_of_axes_to_the_shapes(tmp_path: Path) -> None:
    source = {"hidden.w": (4, 6), "hidden.b": (6,), "out.w": (6, 6), "out.b": (6,)}
    target = {**dense("hidden", 4, 6), **dense("out", 6, 6)}
    proposal = proposed(tmp_path, source, target)
    assert decided(proposal)["out/kernel"] == "out.w"  # as the other one of its names
    alone = proposed(tmp_path, {"out.w": (6, 6), "out.b": (6,)}, dense("out", 6, 6))
    [item] = alone.open
    assert {str(rule.transform) for rule in item.candidates} == {"", "transpose"}


def test_rows_behind_a_flattened_image_may_lie_in_two_orders(tmp_path: Path) -> None:
    source = {"conv.weight": (5, 3, 3, 3), "conv.bias": (5,), **linear("fc", 20, 4)}
    target = {"conv/kernel": (3, 3, 3, 5), "conv/bias": (5,), **dense("fc", 20, 4)}
    proposal = proposed(tmp_path, source, target)
    [item] = proposal.open
    assert item.target == "fc/kernel" and "flattened" in item.why
    plain, moved = item.candidates

    rules = [*(rule.text for rule in proposal.rules), moved.text]
    convert(proposal.src, tmp_path / "o.npz", like=proposal.dst, rules=rules)
    weight = np.asarray(ckptkit.open(proposal.src)["fc.weight"])
    image = RNG.normal(size=(2, 2, 5)).astype("float32")  # height, width, channels
    in_torch = weight @ image.transpose(2, 0, 1).reshape(-1)
    in_keras = image.reshape(-1) @ np.asarray(ckptkit.open(tmp_path / "o.npz")["fc/kernel"])
    np.testing.assert_allclose(in_keras, in_torch, rtol=1e-5, atol=1e-6)
    assert str(plain.transform) == "transpose"
    # pooled over the whole image, one row a channel
    pooled = proposed(
        tmp_path,
        {"conv.weight": (5, 3, 3, 3), "conv.bias": (5,), **linear("fc", 5, 4)},
        {"conv/kernel": (3, 3, 3, 5), "conv/bias": (5,), **dense("fc", 5, 4)},
    )
    assert pooled.ok


@pytest.mark.parametrize("gates", [1, 3, 4])
def test_a_cell_is_a_recurrent_layer_of_one_level(gates: int, tmp_path: Path) -> None:
    rows = gates * 5
    ends = {"weight_ih": (rows, 3), "weight_hh": (rows, 5), "bias_ih": (rows,), "bias_hh": (rows,)}
    source = {f"cell.{end}": shape for end, shape in ends.items()}
    bias = (2, rows) if gates == 3 else (rows,)
    target = {"r/c/kernel": (3, rows), "r/c/recurrent_kernel": (5, rows), "r/c/bias": bias}
    assert proposed(tmp_path, source, target).ok


def test_a_norm_before_all_layers_tells_the_channels_of_an_image(tmp_path: Path) -> None:
    words = {"words.weight": (9, 5)}  # what they become lies in one order in both, flattened
    norm = {f"n.{end}": (5,) for end in ("weight", "bias", "running_mean", "running_var")}
    ends = ("gamma", "beta", "moving_mean", "moving_variance")
    keras_norm = {f"n.{end}": (5,) for end in ends}
    head = {"fc.kernel": (20, 4), "fc.bias": (4,)}
    for number, before in enumerate(({}, words)):
        src = file_of(tmp_path / f"a{number}.pt", {**before, **norm, **linear("fc", 20, 4)})
        dst = file_of(tmp_path / f"b{number}.pt", {**before, **keras_norm, **head})
        found = [item.target for item in ckptkit.map(src, dst).open]
        assert found == ([] if before else ["fc.kernel"])


def test_an_image_that_is_flattened_at_once_may_lie_in_two_orders(tmp_path: Path) -> None:
    def model(shape: list[int]) -> Path:
        inputs = layer("InputLayer", "image", batch_shape=[None, *shape])
        layers = [inputs, layer("Flatten", "flat"), layer("Dense", "head", units=4)]
        config = {**CONFIG, "config": {**CONFIG["config"], "layers": layers}}
        values = {
            f"layers/dense/vars/{at}": np.ones(size, "float32")
            for at, size in enumerate([(20, 4), 4])
        }
        names = {"layers/dense": "head"}
        weights = h5_bytes(values=values, names=names)
        return write_keras(tmp_path / f"{len(shape)}{shape[-1]}.keras", weights, config)

    src = file_of(tmp_path / "src.pt", linear("fc", 20, 4))
    [item] = ckptkit.map(src, model([2, 2, 5])).open
    assert item.target == "head/kernel" and "flattened" in item.why
    for shape in ([4, 5, 1], [4, 5], [20]):  # one channel, or no image
        assert ckptkit.map(src, model(shape)).ok


def test_a_bias_that_a_file_lacks_is_zero_in_the_other(tmp_path: Path) -> None:
    src = file_of(tmp_path / "src.pt", {"conv.weight": (5, 3, 3, 3), "fc.weight": (4, 5)})
    kernels = {"conv/kernel": (3, 3, 3, 5), "fc/kernel": (5, 4)}
    arrays: dict[str, Any] = {name: np.ones(shape, "float32") for name, shape in kernels.items()}
    arrays |= {"conv/bias": np.zeros(5, "float32"), "fc/bias": np.ones(4, "float32")}
    np.savez(tmp_path / "dst.npz", **arrays)
    proposal = ckptkit.map(src, tmp_path / "dst.npz")
    assert decided(proposal).keys() == kernels.keys()
    assert proposal.kept == ("conv/bias",)
    assert proposal.unmatched_targets == ("fc/bias",) and not proposal.ok


def test_classes_of_names_are_told_by_their_sizes(tmp_path: Path) -> None:
    source = {f"layer1.{i}.bn{k}.weight": (4,) for i in (0, 1) for k in (1, 2)}
    target = {f"conv2_block{i}_{k}_bn/gamma": (4,) for i in (1, 2) for k in (1, 2)}
    found = decided(
        proposed(tmp_path, {"bn1.weight": (4,), **source}, {**target, "conv1_bn/gamma": (4,)})
    )
    assert found["conv1_bn/gamma"] == "bn1.weight"
    assert found["conv2_block2_1_bn/gamma"] == "layer1.1.bn1.weight"


# --- any two forms --------------------------------------------------------------------------------


def test_files_of_one_library_are_mapped_as_they_are(tmp_path: Path) -> None:
    target = {f"module.{name}": shape for name, shape in TORCH.items()}
    src, dst = file_of(tmp_path / "src.pt", TORCH), file_of(tmp_path / "dst.pt", target)
    proposal = ckptkit.map(src, dst)
    assert proposal.ok
    assert decided(proposal) == {f"module.{name}": name for name in TORCH}


def test_tensors_without_layers_are_mapped_each_by_itself(tmp_path: Path) -> None:
    """Converted models call tensors by their ops, and keep a bias apart from its kernel."""
    source = {"net/hidden/MatMul": (4, 6), "net/hidden/Add": (6,), "net/out/MatMul": (2, 6)}
    target = {**dense("hidden", 4, 6), "out/kernel": (6, 2)}
    found = decided(proposed(tmp_path, source, target, ".npz"))
    assert found == {
        "hidden/kernel": "net/hidden/MatMul",
        "hidden/bias": "net/hidden/Add",
        "out/kernel": "net/out/MatMul transpose",
    }


def test_another_dtype_is_said(tmp_path: Path) -> None:
    src = write_pytorch(tmp_path / "a.pt", {"a.weight": np.ones((3, 2), "float64")})
    proposal = ckptkit.map(src, file_of(tmp_path / "b.npz", {"a/kernel": (2, 3)}))
    assert "a.pt has float64 where b.npz has float32: " in str(proposal)
    shown = run("map", src, tmp_path / "b.npz").out
    assert "`ckptkit convert --cast float64=float32`" in shown


def test_what_fits_nothing_is_named(tmp_path: Path) -> None:
    source = {**linear("a", 4, 3), "extra.weight": (9, 9)}
    proposal = proposed(tmp_path, source, {**dense("a", 4, 3), "other/kernel": (8, 2)})
    assert proposal.exit_code == 1
    assert proposal.unmatched_sources == ("extra.weight",)
    assert proposal.unmatched_targets == ("other/kernel",)


def test_the_document(tmp_path: Path) -> None:
    src, dst = file_of(tmp_path / "src.pt", TWINS), file_of(tmp_path / "dst.npz", OTHERS)
    document = json.loads(run("map", src, dst, "-f", "json").out)
    assert document["schema"] == "ckptkit.map/1"
    assert document["ok"] is document["proven"] is False
    assert {row["to"]: row["from"] for row in document["rules"]} == {
        "head/kernel": "head.weight",
        "head/bias": "head.bias",
    }
    assert [len(item["candidates"]) for item in document["open"]] == [2, 2, 2, 2]
    rows = run("map", src, dst, "-f", "csv").out.splitlines()
    assert rows[0] == "from,to,transform,why,rule" and len(rows) == 3


def test_what_is_no_model_is_an_error(tmp_path: Path) -> None:
    src = file_of(tmp_path / "src.pt", TWINS)
    assert run("map", src, tmp_path / "missing.keras").code == 2
    np.savez(tmp_path / "empty.npz")
    with pytest.raises(UsageError, match="holds no weights"):
        ckptkit.map(src, tmp_path / "empty.npz")


# --- files of real producers ----------------------------------------------------------------------

INTO_KERAS: Shapes = {
    "stem/kernel": (3, 3, 3, 4),
    "stem/bias": (4,),
    "bn/gamma": (4,),
    "bn/beta": (4,),
    "bn/moving_mean": (4,),
    "bn/moving_variance": (4,),
    "block/kernel": (4, 4),
    "block/bias": (4,),
    "block_1/kernel": (4, 4),
    "block_1/bias": (4,),
    "head/kernel": (4, 4),
    "head/bias": (4,),
}


@pytest.mark.parametrize("version", ["torch2.1.2", "torch2.13.0"])
def test_a_file_of_torch(version: str, tmp_path: Path) -> None:
    src = PYTORCH / version / "state_dict.pt"
    dst = file_of(tmp_path / "dst.npz", INTO_KERAS)
    proposal = ckptkit.map(src, dst)
    assert proposal.ok

    rules = [rule.text for rule in proposal.rules]
    convert(src, tmp_path / "o.npz", like=dst, rules=rules, weights_only=True)

    there, here = ckptkit.open(tmp_path / "o.npz"), ckptkit.open(src)
    moved = {
        "stem/kernel": np.asarray(here["conv.weight"]).transpose(2, 3, 1, 0),
        "bn/moving_variance": here["norm.running_var"],
        "block_1/kernel": np.asarray(here["blocks.1.weight"]).T,
        "head/kernel": np.asarray(here["head.weight"]).T,
    }
    for name, values in moved.items():
        assert np.array_equal(there[name], values), name


@pytest.mark.parametrize(
    ("golden_name", "out"),
    [
        ("tf2.21.0/adam/ckpt", "ckpt"),
        ("", "o.weights.h5"),
        ("tf2.21.0/saved_model_export/model", "export"),
    ],
)
def test_into_the_forms_of_tensorflow_and_keras(golden_name: str, out: str, tmp_path: Path) -> None:
    """What a file of PyTorch with the weights of a checkpoint becomes is that checkpoint."""
    like = golden(golden_name).path if golden_name else tmp_path / "like.weights.h5"
    if not golden_name:
        write_h5(like)
    ck = ckptkit.open(like)
    ends = {"kernel": "weight", "gamma": "weight", "beta": "bias", "bias": "bias"}
    ends |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
    arrays = {}
    for key, naming in ck.names.items():
        if naming.role == "weight" and naming.duplicate_of is None:
            scope, _, leaf = naming.name.rpartition("/")
            values = np.asarray(ck[naming.name]).reshape(ck.specs[key].shape)
            order = {2: (1, 0), 4: (3, 2, 0, 1)}.get(values.ndim)
            name = f"{scope.replace('/', '.')}.{ends[leaf]}"
            arrays[name] = np.ascontiguousarray(values.transpose(order) if order else values)
    src = write_pytorch(tmp_path / "model.pt", arrays)
    proposal = ckptkit.map(src, like)
    chosen = [item.candidates[0] for item in proposal.open]  # channels last, as they lie there
    assert not proposal.unmatched_sources and not proposal.unmatched_targets

    done = convert(
        src,
        tmp_path / out,
        to=ck.store.format,
        like=like,
        rules=[rule.text for rule in (*proposal.rules, *chosen)],
        weights_only=True,
    )

    assert done.ok
    assert ckptkit.diff(like, tmp_path / out, roles=["weight"], bitwise=True).same
