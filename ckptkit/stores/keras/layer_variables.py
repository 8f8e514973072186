"""Which variables a Keras layer owns, in the order in which `.keras` and `.weights.h5` number them.

Those files hold no variable names: a layer's values are `vars/0`, `vars/1`, … in the order of
`Layer.save_own_variables`: trainable variables as created, then the others; layers that can be
quantized have an order of their own.  Which variables exist depends on the layer's config
(`use_bias`, `scale`, …).  The rows below were taken from the behaviour of Keras 2.12 to 3.15; they
are compared with the installed Keras, class by class, in tests/stores/test_keras_names.py.

Nothing here imports Keras, and no class is ever looked up by a name found in a file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import product
from typing import Any, NamedTuple

Config = Mapping[str, Any]
Condition = Callable[[Config], bool]
Shape = tuple[int, ...]


class LayerVariable(NamedTuple):
    """One variable of a layer: name, allowed ranks (empty: any), and when it exists at all."""

    name: str
    ranks: tuple[int, ...] = ()
    when: Condition | None = None
    trainable: bool = True


class InnerLayer(NamedTuple):
    """A layer that another one makes for itself: attribute names, own name, class, config."""

    attributes: tuple[str, ...]
    name: str
    class_name: str
    config: Callable[[Config], Config]


def snake_case(name: str) -> str:
    """Return the group name that Keras makes of a class name: `Conv2D` -> `conv2d`."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


# --- conditions -----------------------------------------------------------------------------------


def _flag(key: str, default: bool = True) -> Condition:
    return lambda config: bool(config.get(key, default))


def _absent(key: str) -> Condition:
    return lambda config: config.get(key) is None


def _norm_scale(config: Config) -> bool:
    return bool(config.get("scale", True) or config.get("rms_scaling"))


def _norm_center(config: Config) -> bool:
    return bool(config.get("center", True)) and not config.get("rms_scaling")


def _mode_is_not(mode: str) -> Condition:
    return lambda config: config.get("mode", "log") != mode


_RENORM = _flag("renorm", False)


# --- rows -----------------------------------------------------------------------------------------


def _kernel_bias(rank: int, kernel: str = "kernel") -> tuple[LayerVariable, ...]:
    return LayerVariable(kernel, (rank,)), LayerVariable("bias", (1,), _flag("use_bias"))


def _separable(rank: int) -> tuple[LayerVariable, ...]:
    return LayerVariable("depthwise_kernel", (rank,)), *_kernel_bias(rank, "pointwise_kernel")


def _recurrent(rank: int, bias_ranks: tuple[int, ...] = (1,)) -> tuple[LayerVariable, ...]:
    return (
        LayerVariable("kernel", (rank,)),
        LayerVariable("recurrent_kernel", (rank,)),
        LayerVariable("bias", bias_ranks, _flag("use_bias")),
    )


_AFFINE = (
    LayerVariable("gamma", (1,), _flag("scale")),
    LayerVariable("beta", (1,), _flag("center")),
)
_BATCH = (
    *_AFFINE,
    LayerVariable("moving_mean", (1,), trainable=False),
    LayerVariable("moving_variance", (1,), trainable=False),
    LayerVariable("moving_stddev", (1,), _RENORM, trainable=False),
    LayerVariable("renorm_mean", (1,), _RENORM, trainable=False),
    LayerVariable("renorm_stddev", (1,), _RENORM, trainable=False),
)

LAYERS: Mapping[str, tuple[LayerVariable, ...]] = {
    "AdditiveAttention": (LayerVariable("scale", (1,), _flag("use_scale")),),
    "Attention": (
        LayerVariable("scale", (0,), _flag("use_scale", False)),
        LayerVariable("concat_score_weight", (0,), lambda c: c.get("score_mode") == "concat"),
    ),
    "BatchNormalization": _BATCH,
    "Conv1D": _kernel_bias(3),
    "Conv1DTranspose": _kernel_bias(3),
    "Conv2D": _kernel_bias(4),
    "Conv2DTranspose": _kernel_bias(4),
    "Conv3D": _kernel_bias(5),
    "Conv3DTranspose": _kernel_bias(5),
    "ConvLSTMCell": tuple(v._replace(ranks=()) for v in _recurrent(0)),
    "Dense": _kernel_bias(2),
    "DepthwiseConv1D": _kernel_bias(3),
    "DepthwiseConv2D": _kernel_bias(4),
    "EinsumDense": (
        LayerVariable("kernel"),
        LayerVariable("bias", (), lambda c: c.get("bias_axes") is not None),
    ),
    "Embedding": (LayerVariable("embeddings", (2,)),),
    "GRUCell": _recurrent(2, (1, 2)),
    "GroupNormalization": _AFFINE,
    "LSTMCell": _recurrent(2),
    "LayerNormalization": (
        LayerVariable("gamma", (), _norm_scale),
        LayerVariable("beta", (), _norm_center),
    ),
    "LocallyConnected1D": (LayerVariable("kernel"), LayerVariable("bias", (), _flag("use_bias"))),
    "LocallyConnected2D": (LayerVariable("kernel"), LayerVariable("bias", (), _flag("use_bias"))),
    "Normalization": (
        LayerVariable("mean", (), _absent("mean"), trainable=False),
        LayerVariable("variance", (), _absent("mean"), trainable=False),
        LayerVariable("count", (0,), _absent("mean"), trainable=False),
    ),
    "PReLU": (LayerVariable("alpha"),),
    "RMSNormalization": (LayerVariable("scale"),),
    "ReversibleEmbedding": (
        LayerVariable("embeddings", (2,)),
        LayerVariable("reverse_embeddings", (2,), lambda c: not c.get("tie_weights", True)),
    ),
    "STFTSpectrogram": (
        LayerVariable("real_kernel", (3,), _mode_is_not("imag")),
        LayerVariable("imag_kernel", (3,), _mode_is_not("real")),
    ),
    "SeparableConv1D": _separable(3),
    "SeparableConv2D": _separable(4),
    "SimpleRNNCell": _recurrent(2),
    # The wrapper tracks its layer's kernel as its own, so that is stored twice.
    "SpectralNormalization": (
        LayerVariable("kernel", (), lambda _: True, trainable=False),
        LayerVariable("vector_u", (2,), trainable=False),
    ),
    "SyncBatchNormalization": _BATCH,
}

# Keras 2 names that differ.
_KERAS2 = {
    "DepthwiseConv1D": _kernel_bias(3, "depthwise_kernel"),
    "DepthwiseConv2D": _kernel_bias(4, "depthwise_kernel"),
}

_FLOAT8 = tuple(
    LayerVariable(name)
    for name in (
        "inputs_scale",
        "inputs_amax_history",
        "kernel_scale",
        "kernel_amax_history",
        "outputs_grad_scale",
        "outputs_grad_amax_history",
    )
)


def _unsure(name: str) -> LayerVariable:
    """A variable whose existence the config does not tell (it depends on the shapes built)."""
    return LayerVariable(name, trainable=False)


def _quantized_kernel(
    mode: str, plain: tuple[LayerVariable, ...]
) -> tuple[tuple[LayerVariable, ...], ...]:
    """Return the possible rows of a quantized Dense or EinsumDense, most usual first."""
    kernel, bias = plain[0]._replace(ranks=(), trainable=False), plain[1]
    scale, zero, group = _unsure("kernel_scale"), _unsure("kernel_zero"), _unsure("g_idx")
    rows = {
        "int8": ((kernel, bias, scale),),
        "int4": ((kernel, bias, scale), (kernel, bias, scale, zero, group)),
        "float8": ((plain[0], bias, *_FLOAT8),),
        "gptq": ((bias, kernel, scale, zero, group),),
        "awq": ((bias, kernel, scale, zero, _unsure("awq_scales"), group),),
    }
    return rows.get(mode, ())


def _quantized_embedding(
    mode: str, plain: tuple[LayerVariable, ...]
) -> tuple[tuple[LayerVariable, ...], ...]:
    table = _unsure("embeddings")
    scale, zero, group = (_unsure(f"embeddings_{x}") for x in ("scale", "zero", "index"))
    group = group._replace(name="g_idx")
    rows = {
        "int8": ((table, scale),),
        "int4": ((table, scale), (table, scale, zero, group)),
    }.get(mode, ())
    if len(plain) == 1:
        return rows
    untied = plain[1].when
    reverse = tuple(
        LayerVariable(f"reverse_embeddings{x}", (), untied, False) for x in ("", "_scale", "_zero")
    )
    return tuple((*row, *reverse[: 3 if len(row) > 2 else 2]) for row in rows)


_QUANTIZED = {
    "Dense": _quantized_kernel,
    "EinsumDense": _quantized_kernel,
    "Embedding": _quantized_embedding,
    "ReversibleEmbedding": _quantized_embedding,
}


# --- names from a row -----------------------------------------------------------------------------


def variable_names(
    class_name: str,
    config: Config | None,
    shapes: Sequence[Shape],
    *,
    keras2: bool = False,
    small_ints: bool = False,
) -> tuple[LayerVariable | None, ...]:
    """Return the variable behind each of a layer's numbered values, None where it cannot be told.

    shapes: of `vars/0`, `vars/1`, … as stored.  config: of the layer, None where the file has none:
    then every combination of options that fits the number and the ranks is considered, and a name
    is given only where all of them agree; otherwise it is "" (and None where not even whether the
    variable is trainable is sure).  small_ints: whether a stored value is int8 or uint8, which
    without a config is the only sign of a quantized layer.
    """
    if config is None:  # a file may have thousands of layers, and few kinds of them
        return _names_of_kind(class_name, tuple(shapes), keras2, small_ints)
    return _names_of_layer(class_name, config, shapes, keras2, small_ints)


@lru_cache(maxsize=4096)
def _names_of_kind(
    class_name: str, shapes: tuple[Shape, ...], keras2: bool, small_ints: bool
) -> tuple[LayerVariable | None, ...]:
    return _names_of_layer(class_name, None, shapes, keras2, small_ints)


def _names_of_layer(
    class_name: str,
    config: Config | None,
    shapes: Sequence[Shape],
    keras2: bool,
    small_ints: bool,
) -> tuple[LayerVariable | None, ...]:
    rows: list[tuple[LayerVariable, ...]] = []
    for row in _rows(class_name, config, keras2, small_ints):
        for names in _variants(row, config):
            if len(names) == len(shapes) and all(
                not v.ranks or len(shape) in v.ranks for v, shape in zip(names, shapes, strict=True)
            ):
                rows.append(names)
    if not rows:
        return (None,) * len(shapes)
    if config is not None:
        return rows[0]
    return tuple(_agreed(options) for options in zip(*rows, strict=True))


def _agreed(options: tuple[LayerVariable, ...]) -> LayerVariable | None:
    first = options[0]
    if any(o.trainable != first.trainable for o in options):
        return None
    return first if all(o.name == first.name for o in options) else first._replace(name="")


_MODES = ("int8", "int4", "gptq", "awq")


def _rows(
    class_name: str, config: Config | None, keras2: bool, small_ints: bool
) -> tuple[tuple[LayerVariable, ...], ...]:
    plain = LAYERS.get(class_name)
    if plain is None:
        return ()
    if keras2 and class_name in _KERAS2:
        return (_KERAS2[class_name],)
    quantized = _QUANTIZED.get(class_name)
    if quantized is None:
        return (plain,)
    if config is not None:
        mode = quantization_mode(config)
        return quantized(mode, plain) if mode else (plain,)
    if small_ints:
        return tuple(row for mode in _MODES for row in quantized(mode, plain))
    return (plain, *quantized("float8", plain))


def _variants(
    row: tuple[LayerVariable, ...], config: Config | None
) -> Iterator[tuple[LayerVariable, ...]]:
    """Yield the lists of variables that a row stands for: one with a config, else all."""
    if config is not None:
        yield tuple(v for v in row if v.when is None or v.when(config))
        return
    conditions = list(dict.fromkeys(v.when for v in row if v.when is not None))
    for chosen in product((True, False), repeat=len(conditions)):
        on = dict(zip(conditions, chosen, strict=True))
        yield tuple(v for v in row if v.when is None or on[v.when])


def quantization_mode(config: Config) -> str | None:
    """Return int8, int4, float8, gptq or awq where the layer's dtype policy says so."""
    policy = config.get("dtype")
    if isinstance(policy, Mapping):
        inner = policy.get("config")
        policy = inner.get("mode") or inner.get("name") if isinstance(inner, Mapping) else None
    if not isinstance(policy, str):
        return None
    mode = policy.split("/")[0].split("_from_")[0]
    return mode if mode in ("int8", "int4", "float8", "gptq", "awq") else None


# --- layers within layers -------------------------------------------------------------------------


def _same(config: Config) -> Config:
    return config


def _projection(config: Config) -> Config:
    return {
        "bias_axes": "x" if config.get("use_bias", True) else None,
        "dtype": config.get("dtype"),
    }


def _projections(*parts: str) -> tuple[InnerLayer, ...]:
    return tuple(
        InnerLayer(
            (f"{part}_dense", f"_{part}_dense"),
            "attention_output" if part == "output" else part,
            "EinsumDense",
            _projection,
        )
        for part in parts
    )


def _cell(class_name: str) -> tuple[InnerLayer, ...]:
    return (InnerLayer(("cell",), snake_case(class_name), class_name, _same),)


CHILDREN: Mapping[str, tuple[InnerLayer, ...]] = {
    "ConvLSTM1D": (InnerLayer(("cell",), "conv_lstm_cell", "ConvLSTMCell", _same),),
    "ConvLSTM2D": (InnerLayer(("cell",), "conv_lstm_cell", "ConvLSTMCell", _same),),
    "ConvLSTM3D": (InnerLayer(("cell",), "conv_lstm_cell", "ConvLSTMCell", _same),),
    "GRU": _cell("GRUCell"),
    "GroupQueryAttention": _projections("query", "key", "gate", "value", "output"),
    "GroupedQueryAttention": _projections("query", "key", "gate", "value", "output"),
    "LSTM": _cell("LSTMCell"),
    "MultiHeadAttention": _projections("query", "key", "gate", "value", "output"),
    "SimpleRNN": _cell("SimpleRNNCell"),
}

# Built-in classes without variables of their own beyond these tables; needed to read a class off a
# group name.  Wrappers and containers keep their layers in their config.
_OTHERS = ("Bidirectional", "TimeDistributed", "RNN", "StackedRNNCells", "Functional", "Sequential")


@cache
def _by_group_name() -> dict[str, str]:
    classes = [*LAYERS, *CHILDREN, *_OTHERS]
    return {snake_case(name): name for name in classes} | {
        "grouped_query_attention": "GroupQueryAttention"
    }


def group_names() -> frozenset[str]:
    """Return what Keras calls the groups of the built-in layers, without counters."""
    inner = {name for rows in CHILDREN.values() for row in rows for name in row.attributes}
    return frozenset(_by_group_name()) | inner


def class_of_group(name: str) -> str | None:
    """Return the built-in class that a group or automatic name tells: `conv2d_3` -> Conv2D."""
    table = _by_group_name()
    return table.get(name) or table.get(re.sub(r"_\d+$", "", name))
