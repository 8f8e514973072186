"""The layout of CuDNN's layers, as `_convert_rnn_weights` of Keras 2 undoes it."""

from __future__ import annotations

import numpy as np
import pytest

from ckptkit.align.cudnn_layouts import (
    CudnnLayer,
    carrying_transforms,
    cudnn_layers,
    kernels_of_other_grus,
    note_on,
    standard_names,
)
from ckptkit.checkpoint.naming import Naming
from ckptkit.stores.base import TensorSpec

U, IN = 3, 5


def named(*names: str, role: str = "weight") -> dict[str, Naming]:
    return {name: Naming(name, role) for name in names}


def specs_of(**shapes: tuple[int, ...]) -> dict[str, TensorSpec]:
    return {k.replace("__", "/"): TensorSpec(k, "float32", s, 0) for k, s in shapes.items()}


def layer(kind: str, name: str = "rnn") -> CudnnLayer:
    keys = tuple(f"{name}/{last}" for last in ("kernel", "recurrent_kernel", "bias"))
    return CudnnLayer(name, kind, keys, U, IN)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3)])
def test_each_gate_is_turned(kind: str, gates: int) -> None:
    rng = np.random.default_rng(0)
    one = layer(kind)
    kernel, recurrent_kernel, bias = one.keys
    steps = one.transforms()
    stored = rng.standard_normal((IN, gates * U))
    wanted = np.concatenate(
        [gate.reshape(U, IN).T for gate in np.split(stored, gates, axis=1)], axis=1
    )
    assert np.array_equal(steps[kernel].apply(stored), wanted)
    stored = rng.standard_normal((U, gates * U))
    wanted = np.concatenate([gate.T for gate in np.split(stored, gates, axis=1)], axis=1)
    assert np.array_equal(steps[recurrent_kernel].apply(stored), wanted)
    stored = rng.standard_normal(2 * gates * U)
    wanted = stored.reshape(2, -1)
    assert np.array_equal(
        steps[bias].apply(stored), wanted.sum(axis=0) if kind == "LSTM" else wanted
    )


@pytest.mark.parametrize(
    ("kernel", "recurrent", "bias", "kind"),
    [
        ((IN, 12), (U, 12), (24,), "LSTM"),
        ((IN, 9), (U, 9), (18,), "GRU"),
        ((IN, 12), (U, 12), (12,), None),  # an LSTM
        ((IN, 9), (U, 9), (2, 9), None),  # a GRU
        ((IN, 9), (U, 12), (24,), None),
        ((IN, 12), (U, 12), (25,), None),
        ((IN, 6), (U, 6), (12,), None),  # two gates: neither
        ((IN, 0), (0, 0), (0,), None),
        ((1, IN, 12), (U, 12), (24,), None),
    ],
)
def test_the_bias_tells_the_layout(
    kernel: tuple[int, ...], recurrent: tuple[int, ...], bias: tuple[int, ...], kind: str | None
) -> None:
    specs = specs_of(a__kernel=kernel, a__recurrent_kernel=recurrent, a__bias=bias)
    found = cudnn_layers(specs, named(*specs))
    keys = ("a/kernel", "a/recurrent_kernel", "a/bias")
    assert found == ([CudnnLayer("a", kind, keys, U, IN)] if kind else [])


def test_a_layer_needs_its_three_weights() -> None:
    specs = specs_of(a__kernel=(IN, 12), a__recurrent_kernel=(U, 12), a__bias=(24,))
    assert not cudnn_layers(specs, named("a/kernel", "a/bias"))
    assert not cudnn_layers(specs, named("a/kernel", "a/recurrent_kernel"))
    assert not cudnn_layers(specs, named(*specs, role="slot"))
    assert not cudnn_layers({}, named(*specs))


def test_slots_follow_where_a_map_leads_back() -> None:
    one = layer("LSTM")
    kernel, _, bias = one.keys
    shapes = {kernel: (IN, 12), bias: (24,), "m": (IN, 12), "v": (IN, 1), "b": (24,)}
    specs = {key: TensorSpec(key, "float32", shape, 0) for key, shape in shapes.items()}
    owners = {"m": kernel, "v": kernel, "b": bias, "x": "other"}
    found = carrying_transforms([one], specs, owners)
    assert found["m"] == found[kernel] and set(found) == {*one.keys, "m"}


def test_layers_are_named_up_to_four() -> None:
    layers = [layer("LSTM", name) for name in "abcde"]
    text = note_on([*layers[:1], layer("GRU", "g")])
    assert (
        text == "a, g: in CuDNN's layout (CuDNNLSTM, CuDNNGRU), which is not that of LSTM and GRU"
    )
    assert note_on(layers).startswith("a, b, c, d and 1 more: in CuDNN's layout (CuDNNLSTM), ")
    assert note_on(layers[:4]).startswith("a, b, c, d: ")


def test_names_become_those_of_the_other_class() -> None:
    one = layer("LSTM", "cu_dnnlstm_1")
    names = {key: Naming(key, "weight", f"full/{key}", (f"path/{key}",)) for key in one.keys}
    kernel = one.keys[0]
    names["slot"] = Naming(f"{kernel}@m", "slot", slot_of=kernel, slot="m")
    names["odd"] = Naming("average of it", "ema", slot_of=kernel)
    names["other"] = Naming("dense/kernel", "weight")
    found = standard_names([one], names)
    assert found[kernel] == Naming(
        "lstm_1/lstm_cell/kernel", "weight", None, (f"path/{kernel}", kernel)
    )
    assert (found["slot"].name, found["slot"].slot_of) == ("lstm_1/lstm_cell/kernel@m",
                                                           "lstm_1/lstm_cell/kernel")  # fmt: skip
    assert found["odd"].name == "average of it"
    assert found["odd"].slot_of == "lstm_1/lstm_cell/kernel"
    assert "other" not in found and len(found) == 5


def test_a_name_that_is_taken_stays() -> None:
    one = layer("GRU", "cu_dnngru")
    names = {**named(*one.keys), **named("gru/kernel")}
    found = standard_names([one], names)
    assert found[one.keys[2]].name == "cu_dnngru/gru_cell/bias"
    mine = layer("GRU", "mine")
    assert standard_names([mine], named(*mine.keys))[mine.keys[0]].name == "mine/gru_cell/kernel"
    bare = CudnnLayer("", "GRU", ("kernel", "recurrent_kernel", "bias"), U, IN)
    assert standard_names([bare], named(*bare.keys))["bias"].name == "gru_cell/bias"


@pytest.mark.parametrize(
    ("recurrent", "bias", "is_one"),
    [((U, 9), (9,), True), ((U, 9), (2, 9), False), ((U, 12), (12,), False), ((U, 9), (18,), False),
     ((9,), (9,), False), ((U, 12), (9,), False)],
)  # fmt: skip
def test_a_gru_that_resets_before_is_told_by_its_bias(
    recurrent: tuple[int, ...], bias: tuple[int, ...], is_one: bool
) -> None:
    specs = specs_of(a__kernel=(IN, 9), a__recurrent_kernel=recurrent, a__bias=bias)
    assert kernels_of_other_grus(specs, named(*specs)) == ({"a/kernel"} if is_one else set())
    fewer = named("a/kernel", "a/bias")
    assert not kernels_of_other_grus(specs, fewer)
    assert not kernels_of_other_grus(specs, named("a/kernel", "a/recurrent_kernel"))
