"""Roles where nothing but names tells them: whose state, and that a model's own variables stay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from ckptkit.checkpoint.inferred_roles import infer_roles
from ckptkit.checkpoint.names import name_tensors
from ckptkit.checkpoint.naming import Naming
from ckptkit.stores.base import TensorSpec

Shape = tuple[int, ...]


def spec(key: str, shape: Shape, dtype: str = "float32") -> TensorSpec:
    """Return what an index would say of a tensor."""
    return TensorSpec(key, dtype, shape, 0)


# A network with what optimizers train, what they do not, and a scalar.
NET: Mapping[str, Shape] = {
    "net/emb/embeddings": (9, 3),
    "net/conv/kernel": (3, 3, 3, 4),
    "net/conv/bias": (4,),
    "net/norm/gamma": (4,),
    "net/norm/beta": (4,),
    "net/norm/moving_mean": (4,),
    "net/norm/moving_variance": (4,),
    "net/logits/kernel": (4, 2),
    "net/temperature": (),
}
TRAINED = {name: shape for name, shape in NET.items() if "moving_" not in name}


def namings(shapes: Mapping[str, Shape], dtypes: Mapping[str, str] = {}) -> Mapping[str, Naming]:
    """Return the namings of a file without structure."""
    specs = {key: spec(key, shape, dtypes.get(key, "float32")) for key, shape in shapes.items()}
    return name_tensors(specs, None)


def weights(shapes: Mapping[str, Shape], dtypes: Mapping[str, str] = {}) -> set[str]:
    return {key for key, n in namings(shapes, dtypes).items() if n.role == "weight"}


def with_slots(patterns: Iterable[str], of: Mapping[str, Shape] = TRAINED) -> dict[str, Shape]:
    """Return the network and, for each pattern ("{}" is a variable), a slot of each variable."""
    flat = {name: name.replace("/", "_") for name in of}
    slots = {p.format(n, flat=flat[n]): shape for p in patterns for n, shape in of.items()}
    return {**NET, **slots}


@pytest.mark.parametrize(
    "patterns",
    [
        ("{}/Adam", "{}/Adam_1"),
        ("{}/AdamW", "{}/AdamW_1"),
        ("{}/Nadam", "{}/Nadam_1"),
        ("{}/AdaBelief", "{}/AdaBelief_1", "{}/AdaBelief_2"),
        ("{}/LAMBOptimizer", "{}/LAMBOptimizer_1"),
        ("{}/DistributedMomentum",),
        ("OptimizeLoss/{}/Adam", "OptimizeLoss/{}/Adam_1"),
        ("net/{}/Adagrad",),
        ("{}/adam_m", "{}/adam_v"),
        ("{}/lamb_m", "{}/lamb_v"),
        ("{}/fancy_state",),
        ("{}/first", "{}/second"),
        ("{}/grad_accum",),
        ("{}/accum",),
        ("{}/m", "{}/v"),
        ("{}/momentum",),
        ("deepq_1/{}/Adam", "deepq_1/{}/Adam_1"),
        ("{}_slot_m", "{}_slot_v"),
        ("{}_adam_m", "{}_adam_v"),
        ("{}_m", "{}_v"),
        ("{}_running_direction",),
        ("training/Adam/{}/m", "training/Adam/{}/v"),
        ("training/Adagrad/{}/accumulator",),
        ("training_1/Novel/{}/direction",),
        ("Adam/{}/m", "Adam/{}/v", "Adam/{}/vhat"),
        ("Adam/m/{}", "Adam/v/{}"),
        ("optimizer/m/{}", "optimizer/v/{}"),
        ("optimizer/novel_a/{}", "optimizer/novel_b/{}"),
        ("m/{}", "v/{}"),
        ("adam/{flat}_momentum", "adam/{flat}_velocity"),
        ("novel/{flat}_direction",),
        ("Novel/{}_direction",),
    ],
    ids=str,
)
def test_state_of_optimizers(patterns: tuple[str, ...]) -> None:
    shapes = with_slots(patterns)
    found = namings(shapes)
    assert weights(shapes) == set(NET)
    slots = {key: n for key, n in found.items() if n.role == "slot"}
    assert set(slots) == set(shapes) - set(NET)
    for pattern in patterns:
        for name in TRAINED:
            key = pattern.format(name, flat=name.replace("/", "_"))
            assert slots[key].slot_of == name
            assert slots[key].name.startswith(f"{name}@"), key
    assert len({n.name for n in found.values()}) == len(shapes)


@pytest.mark.parametrize("of", ["net/logits/kernel", "net/norm/gamma"])
@pytest.mark.parametrize(
    "pattern", ["{}/Adam", "{}/Yogi", "{}/adam_m", "training/Adam/{}/m", "{}_slot_v"]
)
def test_slots_of_a_single_variable(pattern: str, of: str) -> None:
    shapes = with_slots([pattern], {of: NET[of]})
    assert weights(shapes) == set(NET)


def test_only_a_head_is_trained() -> None:
    head = {name: NET[name] for name in ("net/logits/kernel", "net/norm/beta")}
    for pattern in ("{}/novel", "{}/Novel", "novel/{}/direction"):
        assert weights(with_slots([pattern], head)) == set(NET), pattern


def factored(row: str, column: str, whole: str) -> dict[str, Shape]:
    shapes = dict(NET)
    for name, shape in TRAINED.items():
        if len(shape) > 1:
            shapes[row.format(name)] = shape[:-1]
            shapes[column.format(name)] = (*shape[:-2], shape[-1])
        else:
            shapes[whole.format(name)] = shape
    return shapes


@pytest.mark.parametrize(
    ("row", "column", "whole"),
    [
        ("{}/Adafactor", "{}/Adafactor_1", "{}/Adafactor"),
        ("{}_slot_vr", "{}_slot_vc", "{}_slot_v"),
        ("{}/vr", "{}/vc", "{}/v"),
        ("{}/slot_vr", "{}/slot_vc", "{}/slot_v"),
        ("Sm3/{}/rows", "Sm3/{}/columns", "Sm3/{}/whole"),
        ("training/Adafactor/{}/row_accumulator", "training/Adafactor/{}/col_accumulator", "{}/v"),
    ],
)
def test_factored_state(row: str, column: str, whole: str) -> None:
    shapes = factored(row, column, whole)
    assert weights(shapes) == set(NET)


def test_scalar_state_of_each_variable() -> None:
    shapes = with_slots(["Novel/{}/direction"])
    shapes |= {f"Novel/{name}/age": () for name in TRAINED}
    assert weights(shapes) == set(NET)


@pytest.mark.parametrize(
    "extra",
    [
        {"net/conv/kernel_scale": (4,), "net/logits/kernel_scale": (2,)},
        {"net/conv/kernel_scale": (3, 3, 3, 4), "net/logits/kernel_scale": (4, 2)},
        {"net/conv/kernel_mask": (3, 3, 3, 4), "net/logits/kernel_mask": (4, 2)},
        {"net/conv/kernel_sigma": (3, 3, 3, 4), "net/conv/bias_sigma": (4,)},
        {"net/norm/gamma_2": (4,), "net/norm/beta_2": (4,)},
        {"net/conv/kernel_1": (3, 3, 3, 4), "net/conv/bias_1": (4,), "net/logits/kernel_1": (4, 2)},
        {"net/emb/embeddings_1": (9, 3), "net/emb/embeddings_table": (9, 3)},
        {"net/logits/kernel/bias": (2,), "net/conv/kernel/bias": (4,)},
        {"net/conv/kernel/u": (1, 4), "net/logits/kernel/u": (1, 2)},
        {"net/conv/kernel_u": (1, 4), "net/logits/kernel_u": (1, 2)},
        {"net/conv/kernel/g": (4,), "net/logits/kernel/g": (2,)},
        {"net/logits/kernel/u": (2,), "net/logits/kernel/v": (4,)},
        {"net/logits/kernel/rows": (4,), "net/logits/kernel/columns": (2,)},
        {"net/conv/kernel/m": (3, 3, 3, 4), "net/logits/kernel/m": (4, 2)},
        {"net/conv/kernel/Bias": (4,), "net/logits/kernel/Bias": (2,)},
        {"net/conv/kernel/lora_a": (3, 2), "net/conv/kernel/lora_b": (2, 4)},
        {"net/logits/kernel_lora_a": (4, 1), "net/logits/kernel_lora_b": (1, 2)},
        {"net/conv/kernel/scale": (), "net/logits/kernel/scale": ()},
        {"net/conv/kernel_min": (), "net/conv/kernel_max": ()},
        {"net/conv/alpha": (4,), "net/logits/alpha": ()},
        {f"teacher/{name}": shape for name, shape in NET.items()},
        {f"momentum/{name}": shape for name, shape in NET.items()},
        {f"target_network/{name}": shape for name, shape in TRAINED.items()},
        {"adam/kernel": (4, 4), "adam/bias": (4,), "adam/alpha": ()},
        {"m/kernel": (4, 4), "v/kernel": (4, 4), "momentum/kernel": (4, 4)},
        {"net/block/m": (4, 4), "net/block/v": (4, 4), "net/block/momentum": (4,)},
        {"training/dense/kernel": (4, 4), "training/dense/bias": (4,)},
        {"net/attn": (4,), "net/attn/bias": (4,), "net/mlp": (6,), "net/mlp/bias": (6,)},
        {"codebook": (8, 4), "codebook/cluster_size": (8,)},
        {"logit_scale": (), "net/logits/epsilon": (), "gate/momentum": ()},
        {"net/gate/decay": (), "net/conv/step": (), "net/conv/epoch": ()},
        {"Variable": (3, 4), "Variable_1": (4,), "Variable_2": (4, 2)},
        {"quantized": (4, 4), "quantized/scale": (4,), "other": (4, 8), "other/scale": (8,)},
    ],
    ids=lambda extra: ",".join(sorted(extra)[:2]),
)
@pytest.mark.parametrize("is_training", [False, True], ids=["weights", "training"])
def test_variables_of_a_model_stay_weights(extra: dict[str, Shape], is_training: bool) -> None:
    """The same names are weights alone, and trained with an optimizer that keeps slots of all."""
    shapes = {**NET, **extra}
    assert weights(shapes) == set(shapes)
    for pattern in ("{}/Adam", "training/Novel/{}/direction", "{}/adam_v") if is_training else ():
        trained = {name: shape for name, shape in shapes.items() if "moving_" not in name}
        slots = {pattern.format(name): shape for name, shape in trained.items()}
        assert weights({**shapes, **slots}) == set(shapes), pattern


@pytest.mark.parametrize("of", [NET, TRAINED], ids=["whole", "trained"])
def test_two_more_networks_beside_a_counter_stay_weights(of: Mapping[str, Shape]) -> None:
    copies = {f"agent/{who}/{name}": shape for who in "ab" for name, shape in of.items()}
    shapes = {**NET, **copies, "agent/step": ()}
    assert weights(shapes, {"agent/step": "int64"}) == {*NET, *copies}


def test_a_seed_is_a_counter() -> None:
    found = namings({"seed_generator/seed_generator_state": (2,), "w": (2,)})
    assert found["seed_generator/seed_generator_state"].role == "counter"


def test_integers_and_booleans_are_no_weights_as_scalars_alone() -> None:
    shapes: dict[str, Shape] = {"w": (2, 2), "Global_Step": (), "is_training": (), "ids": (2, 2)}
    dtypes = {"Global_Step": "int64", "is_training": "bool", "ids": "int32"}
    found = namings(shapes, dtypes)
    assert {key: n.role for key, n in found.items()} == {
        "w": "weight",
        "Global_Step": "counter",
        "is_training": "config",
        "ids": "weight",
    }
    assert found["Global_Step"].role_inferred
    assert not found["w"].role_inferred


def test_scalars_of_optimizers() -> None:
    shapes = with_slots(["training/Adam/{}/m"])
    scalars = {
        **dict.fromkeys(("training/Adam/beta_1", "training/Adam/decay", "SGD/momentum"), "float32"),
        **dict.fromkeys(("beta1_power", "beta2_power_1", "current_loss_scale"), "float32"),
        **dict.fromkeys(("loss_scale", "training/Adam/learning_rate"), "float32"),
        **dict.fromkeys(("training/Adam/odd", "LossScaleOptimizer/beta1_power"), "float32"),
        **dict.fromkeys(("training/Adam/iter", "good_steps", "Adam/iterations"), "int64"),
    }
    found = namings({**shapes, **dict.fromkeys(scalars, ())}, scalars)
    for key, dtype in scalars.items():
        assert found[key].role == ("config" if dtype == "float32" else "counter"), key
    assert {key for key, n in found.items() if n.role == "weight"} == set(NET)


def test_a_scalar_that_is_trained_is_a_weight() -> None:
    shapes: dict[str, Shape] = {"w": (2,), "scale/beta_1": (), "loss_scale": ()}
    shapes |= {f"{name}/Adam": shape for name, shape in list(shapes.items())}
    assert weights(shapes) == {"w", "scale/beta_1", "loss_scale"}


def test_averages_whose_variables_are_elsewhere() -> None:
    shapes = {f"{name}/ExponentialMovingAverage": shape for name, shape in NET.items()}
    found = namings(shapes)
    assert {n.role for n in found.values()} == {"ema"}
    assert {n.name for n in found.values()} == {f"{name}@ema" for name in NET}
    assert {n.slot_of for n in found.values()} == {None}


@pytest.mark.parametrize(
    "pattern",
    [
        *("{}/ExponentialMovingAverage", "ema/{}", "EMA/{}", "{}/moving_average"),
        *("{}/ema_b999900", "SWA/{}/average", "{}_ema", "optimizer/average/{}"),
    ],
)
def test_averages(pattern: str) -> None:
    shapes = {**NET, **{pattern.format(name): shape for name, shape in NET.items()}}
    found = namings(shapes)
    assert weights(shapes) == set(NET)
    assert {n.slot_of for n in found.values() if n.role == "ema"} == set(NET)


def test_summed_gradients_without_names() -> None:
    shapes = with_slots(["{}/Adam", "{}/Adam_1"])
    sums = {"Variable" + (f"_{i}" if i else ""): s for i, s in enumerate(TRAINED.values())}
    found = namings({**shapes, **sums})
    assert {found[key].role for key in sums} == {"slot"}
    assert {found[key].slot_of for key in sums} == {None}


def test_parts_of_a_partitioned_variable() -> None:
    shapes: dict[str, Shape] = {
        "linear/weights": (10, 1),
        "training/Ftrl/linear/weights/part_0/accumulator": (4, 1),
        "training/Ftrl/linear/weights/part_1/accumulator": (6, 1),
        "plain/part_0": (2, 3),
        "plain/part_1": (2, 3),
        "training/Ftrl/plain/part_0/accumulator": (2, 3),
        "training/Ftrl/plain/part_1/accumulator": (2, 3),
    }
    found = namings(shapes)
    assert weights(shapes) == {"linear/weights", "plain/part_0", "plain/part_1"}
    assert found["training/Ftrl/linear/weights/part_1/accumulator"].slot_of == "linear/weights"
    assert found["training/Ftrl/plain/part_1/accumulator"].slot_of == "plain/part_1"


def test_centered_rmsprop() -> None:
    found = namings(with_slots(["{}/RMSProp", "{}/RMSProp_1", "{}/RMSProp_2"]))
    of = "net/conv/bias"
    assert {n.name for n in found.values() if n.slot_of == of} == {
        f"{of}@rms",
        f"{of}@mg",
        f"{of}@momentum",
    }


def test_names_of_numpy_files() -> None:
    shapes = {f"{key}:0": shape for key, shape in with_slots(["training/Adam/{}/m"]).items()}
    assert weights(shapes) == {f"{key}:0" for key in NET}


def test_what_is_known_is_not_marked_as_inferred() -> None:
    found = namings(with_slots(["{}/Adam", "{}/Novel"]))
    marked = {key for key, n in found.items() if n.role_inferred}
    assert marked == {f"{name}/Novel" for name in TRAINED}


def test_specs_may_be_many() -> None:
    specs = {}
    for i in range(3000):
        for leaf, shape in (("kernel", (2, 2)), ("bias", (2,))):
            for ending in ("", "/Novel", "/Novel_1"):
                key = f"net/layer_{i}/{leaf}{ending}"
                specs[key] = spec(key, shape)
    assert len(infer_roles(specs)) == 12000


@pytest.mark.parametrize("words", [("foo", "bar"), ("m", "v")])
def test_one_variable_is_thin_evidence_for_scopes_of_state(words: tuple[str, str]) -> None:
    """`m/w` and `v/w` beside `w` may be towers; beside two variables they are an optimizer's."""
    root = "Adam/" if words[0] == "foo" else ""
    for names, is_state in ((("w",), False), (("w", "b"), True)):
        shapes: dict[str, Shape] = dict.fromkeys(names, (3, 2))
        shapes |= {f"{root}{word}/{name}": (3, 2) for word in words for name in names}
        assert weights(shapes) == (set(names) if is_state else set(shapes))


def test_rows_and_columns_of_a_kernel_alone_are_no_optimizers_where_there_are_biases() -> None:
    kernel: dict[str, Shape] = {"a/kernel": (4, 6), "b/kernel": (5, 7)}
    vectors: dict[str, Shape] = {
        "a/kernel/row": (4,), "a/kernel/col": (6,), "b/kernel/row": (5,), "b/kernel/col": (7,),
    }  # fmt: skip
    biases: dict[str, Shape] = {"a/bias": (6,), "b/bias": (7,)}
    assert weights({**kernel, **vectors, **biases}) == {*kernel, *vectors, *biases}


def test_rows_and_columns_are_an_optimizers_where_it_keeps_something_of_vectors_too() -> None:
    """Words of state alone do not tell a spectral norm's vectors from Adafactor's."""
    own: dict[str, Shape] = {"a/kernel": (4, 6), "b/weights": (5, 7)}
    factors: dict[str, Shape] = {
        "a/kernel/row_norm": (4,), "a/kernel/col_norm": (6,),
        "b/weights/row_norm": (5,), "b/weights/col_norm": (7,),
    }  # fmt: skip
    biases: dict[str, Shape] = {"a/bias": (6,), "b/offset": (7,)}
    assert weights({**own, **factors, **biases}) == {*own, *factors, *biases}
    whole: dict[str, Shape] = {"a/bias/all_norm": (6,), "b/offset/all_norm": (7,)}
    assert weights({**own, **factors, **biases, **whole}) == {*own, *biases}
    # and where there are no vectors, there is nothing that it would keep
    assert weights({**own, **factors}) == set(own)


@pytest.mark.parametrize("scope", ["Novel/m/", "training/Novel/m/"])
def test_scalars_of_the_scope_around_slots_are_settings(scope: str) -> None:
    slots = {f"{scope}{name}": shape for name, shape in TRAINED.items() if shape}
    above = scope.removesuffix("m/")
    scalars: dict[str, Shape] = {f"{above}count": (), f"{above}warmth": (), f"{scope}heat": ()}
    found = namings({**NET, **slots, **scalars}, {f"{above}count": "int64"})
    assert {key for key, n in found.items() if n.role == "weight"} == set(NET)
    assert found[f"{above}warmth"].role == found[f"{scope}heat"].role == "config"
    # where the scope has a weight too, a scalar in it may be one
    mixed = {**NET, **slots, **scalars, f"{above}gain": (8, 8)}
    assert f"{above}warmth" in weights(mixed, {f"{above}count": "int64"})


@pytest.mark.parametrize("scope", ["Adam", "training/Adam", "training"])
def test_nameless_variables_in_an_optimizers_scope_are_its_own(scope: str) -> None:
    extra: dict[str, Shape] = {f"{scope}/Variable": (7,), f"{scope}/Variable_1": (8, 8)}
    assert weights({**NET, **extra}) == set(NET)
    for other in ("block", "Adam/block"):
        inner: dict[str, Shape] = {f"{other}/Variable": (7,), f"{other}/Variable_1": (8, 8)}
        assert weights({**NET, **inner}) == {*NET, *inner}


def test_a_word_that_only_vectors_have_is_no_optimizers() -> None:
    vectors: dict[str, Shape] = {"a/x": (4,), "b/y": (5,), "c/z": (6,)}
    novel = {f"{name}_novel": shape for name, shape in vectors.items()}
    assert weights({**vectors, **novel}) == {*vectors, *novel}
    matrices: dict[str, Shape] = {"a/x": (4, 2), "b/y": (5, 2), "c/z": (6,)}
    assert weights({**matrices, **{f"{n}_novel": s for n, s in matrices.items()}}) == set(matrices)
