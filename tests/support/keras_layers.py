"""Every built-in layer of the installed Keras, in the configurations that change what it stores.

`variants()` yields (id, function that gives a small built model).  A class that Keras exports and
that is neither made here nor listed as weightless fails tests/stores/test_keras_names.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

# Classes that never own a variable.  `Layer`, `Wrapper` and `InputSpec` are no layers to use.
WEIGHTLESS = frozenset(
    """
    Activation ActivityRegularization AdaptiveAveragePooling1D AdaptiveAveragePooling2D
    AdaptiveAveragePooling3D AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D Add
    AlphaDropout AugMix AutoContrast Average AveragePooling1D AveragePooling2D AveragePooling3D
    CategoryEncoding CenterCrop Concatenate ContrastLimitedAdaptiveHistogramEqualization Cropping1D
    Cropping2D Cropping3D CutMix Discretization Dot Dropout ELU Equalization Flatten
    GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D
    GlobalAveragePooling3D GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D HashedCrossing
    Hashing Identity InputLayer InputSpec IntegerLookup Lambda Layer LeakyReLU Masking
    MaxNumBoundingBoxes MaxPooling1D MaxPooling2D MaxPooling3D Maximum MelSpectrogram Minimum MixUp
    Multiply Permute Pipeline RandAugment RandomBrightness RandomColorDegeneration
    RandomColorJitter RandomContrast RandomCrop RandomElasticTransform RandomErasing RandomFlip
    RandomGaussianBlur RandomGrayscale RandomHue RandomInvert RandomPerspective RandomPosterization
    RandomRotation RandomSaturation RandomSharpness RandomShear RandomTranslation RandomZoom ReLU
    RepeatVector Rescaling Reshape Resizing Softmax Solarization SpatialDropout1D SpatialDropout2D
    SpatialDropout3D StringLookup Subtract TextVectorization UnitNormalization UpSampling1D
    UpSampling2D UpSampling3D Wrapper ZeroPadding1D ZeroPadding2D ZeroPadding3D
    """.split()  # noqa: SIM905 (a table of words)
)
# Classes whose variables' names cannot be told: they wrap code or variables of another framework.
UNDERIVABLE = frozenset({"FlaxLayer", "JaxLayer", "TFSMLayer", "TorchModuleWrapper"})

Make = Callable[[], Any]


def variants() -> Iterator[tuple[str, Make]]:
    """Yield (id, maker of a built model); importing Keras is left to the maker."""
    for class_name, shape, configs in _PLAIN:
        for number, config in enumerate(configs):
            yield f"{class_name}-{number}", _plain(class_name, shape, config)
    yield from _COMPOSITE.items()


def _plain(class_name: str, shape: tuple[int, ...], config: dict[str, Any]) -> Make:
    def make() -> Any:
        import keras

        dtype = "int32" if "Embedding" in class_name else "float32"
        inputs = keras.Input(shape, dtype=dtype)
        layer = getattr(keras.layers, class_name)(**config)
        return keras.Model(inputs, layer(inputs))

    return make


_BIAS: list[dict[str, Any]] = [{}, {"use_bias": False}]
_NAMED = {"name": "my_own"}
_AFFINE: list[dict[str, Any]] = [
    {},
    {"scale": False},
    {"center": False},
    {"scale": False, "center": False},
    _NAMED,
]


def _with(base: dict[str, Any], *more: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**base, **extra} for extra in (*_BIAS, _NAMED, *more)]


_CONV = {"filters": 4, "kernel_size": 2}
_QUANTIZED = [{"dtype": "int8_from_float32"}, {"dtype": "float8_from_float32"}]

_PLAIN: list[tuple[str, tuple[int, ...], list[dict[str, Any]]]] = [
    ("BatchNormalization", (4, 3), [*_AFFINE, {"renorm": True}, {"renorm": True, "scale": False}]),
    ("Conv1D", (6, 2), _with(_CONV, {"lora_rank": 2})),
    ("Conv1DTranspose", (6, 2), _with(_CONV)),
    ("Conv2D", (6, 6, 2), _with(_CONV, {"groups": 2})),
    ("Conv2DTranspose", (6, 6, 2), _with(_CONV)),
    ("Conv3D", (4, 4, 4, 2), _with(_CONV)),
    ("Conv3DTranspose", (4, 4, 4, 2), _with(_CONV)),
    ("ConvLSTM1D", (3, 6, 2), _with(_CONV, {"stateful": False, "unit_forget_bias": False})),
    ("ConvLSTM2D", (3, 6, 6, 2), _with(_CONV)),
    ("ConvLSTM3D", (3, 4, 4, 4, 2), _with(_CONV)),
    (
        "Dense",
        (6,),
        _with(
            {"units": 4},
            *_QUANTIZED,
            {"dtype": "int8_from_float32", "use_bias": False},
            {"dtype": "int4_from_float32"},
            {"lora_rank": 2},
            {"dtype": "bfloat16"},
            {"dtype": "mixed_bfloat16"},
            {"trainable": False},
        ),
    ),
    ("DepthwiseConv1D", (6, 2), _with({"kernel_size": 2})),
    ("DepthwiseConv2D", (6, 6, 2), _with({"kernel_size": 2, "depth_multiplier": 2})),
    (
        "EinsumDense",
        (3, 4),
        [
            {"equation": "abc,cd->abd", "output_shape": (None, 5), **extra}
            for extra in ({}, {"bias_axes": "d"}, _NAMED, *_QUANTIZED)
        ],
    ),
    ("Embedding", (3,), [{"input_dim": 5, "output_dim": 4, **e} for e in ({}, *_QUANTIZED[:1])]),
    ("GRU", (4, 3), _with({"units": 2}, {"reset_after": False}, {"return_sequences": True})),
    ("GroupNormalization", (4, 4), [{"groups": 2, **extra} for extra in _AFFINE]),
    ("LSTM", (4, 3), _with({"units": 2})),
    ("LayerNormalization", (4, 3), [*_AFFINE, {"rms_scaling": True}, {"axis": [1, 2]}]),
    ("Normalization", (3,), [{}, {"mean": 0.5, "variance": 2.0}, {"axis": None}, _NAMED]),
    ("PReLU", (4, 3), [{}, {"shared_axes": [1]}]),
    ("RMSNormalization", (4, 3), [{}, _NAMED]),
    (
        "ReversibleEmbedding",
        (3,),
        [
            {"input_dim": 5, "output_dim": 4, **extra}
            for extra in ({}, {"tie_weights": False}, {"dtype": "int8_from_float32"})
        ],
    ),
    ("STFTSpectrogram", (400, 1), [{"mode": "log"}, {"mode": "real"}, {"mode": "imag"}]),
    ("SeparableConv1D", (6, 2), _with(_CONV)),
    ("SeparableConv2D", (6, 6, 2), _with(_CONV)),
    ("SimpleRNN", (4, 3), _with({"units": 2})),
]


def _layers() -> Any:
    import keras

    return keras.layers


def _sequence(*layers: Any, shape: tuple[int, ...] = (4, 3)) -> Any:
    import keras

    inputs = outputs = keras.Input(shape)
    for layer in layers:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs)


def _attention(make_layer: Callable[[], Any], inputs: int = 2) -> Make:
    def make() -> Any:
        import keras

        tensors = [keras.Input((4, 6)) for _ in range(inputs)]
        return keras.Model(tensors, make_layer()(list(tensors)))

    return make


def _multi_head(class_name: str, /, **config: Any) -> Make:
    def make() -> Any:
        import keras

        tensor = keras.Input((4, 6))
        return keras.Model(tensor, getattr(keras.layers, class_name)(**config)(tensor, tensor))

    return make


def _cells() -> Any:
    layers = _layers()
    cells = [layers.LSTMCell(2), layers.GRUCell(3), layers.LSTMCell(2, use_bias=False)]
    return _sequence(layers.RNN(cells, return_sequences=True), layers.RNN(layers.SimpleRNNCell(2)))


def _stacked() -> Any:
    layers = _layers()
    return _sequence(layers.RNN(layers.StackedRNNCells([layers.GRUCell(2), layers.GRUCell(3)])))


def _wrapped() -> Any:
    layers = _layers()
    inner = layers.Bidirectional(layers.GRU(2, return_sequences=True), name="both")
    return _sequence(
        inner,
        layers.Bidirectional(
            layers.LSTM(2, return_sequences=True),
            backward_layer=layers.LSTM(3, return_sequences=True, go_backwards=True, name="bw"),
        ),
        layers.TimeDistributed(layers.Dense(3, use_bias=False)),
        layers.TimeDistributed(layers.LayerNormalization(), name="each"),
        layers.SpectralNormalization(layers.Conv1D(2, 2)),
        layers.SpectralNormalization(layers.Dense(2, name="inner"), name="spectral"),
    )


def _nested() -> Any:
    import keras

    layers = keras.layers
    inner_in = keras.Input((3,))
    inner = keras.Model(inner_in, layers.Dense(3, name="deep")(inner_in), name="inner")
    plain = keras.Sequential([layers.Dense(4), layers.BatchNormalization()], name="block")
    outer_in = keras.Input((3,))
    outer = inner(outer_in) + 1.0
    outer = plain(outer)
    return keras.Model(outer_in, layers.Dense(2)(outer))


def _sequential() -> Any:
    import keras

    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3),
            layers.Dropout(0.5),
            keras.Sequential([layers.Dense(3)]),
            keras.Sequential([keras.Input((3,)), layers.Dense(2)]),
            layers.Dense(1, name="last"),
        ]
    )


def _shared() -> Any:
    import keras

    layer = keras.layers.Dense(3)
    inputs = keras.Input((3,))
    return keras.Model(inputs, layer(layer(inputs)))


_COMPOSITE: dict[str, Make] = {
    "AdditiveAttention": _attention(lambda: _layers().AdditiveAttention()),
    "AdditiveAttention-bare": _attention(lambda: _layers().AdditiveAttention(use_scale=False)),
    "Attention": _attention(lambda: _layers().Attention()),
    "Attention-scale": _attention(lambda: _layers().Attention(use_scale=True)),
    "Attention-concat": _attention(lambda: _layers().Attention(score_mode="concat")),
    "Attention-both": _attention(lambda: _layers().Attention(score_mode="concat", use_scale=True)),
    "MultiHeadAttention": _multi_head("MultiHeadAttention", num_heads=2, key_dim=3),
    "MultiHeadAttention-bare": _multi_head(
        "MultiHeadAttention", num_heads=2, key_dim=3, value_dim=2, use_bias=False, name="heads"
    ),
    "MultiHeadAttention-gate": _multi_head(
        "MultiHeadAttention", num_heads=2, key_dim=3, use_gate=True
    ),
    "GroupQueryAttention": _multi_head(
        "GroupQueryAttention", head_dim=2, num_query_heads=4, num_key_value_heads=2
    ),
    "GroupQueryAttention-gate": _multi_head(
        "GroupQueryAttention",
        head_dim=2,
        num_query_heads=4,
        num_key_value_heads=2,
        use_bias=False,
        use_gate=True,
    ),
    "RNN, LSTMCell, GRUCell, SimpleRNNCell": _cells,
    "StackedRNNCells": _stacked,
    "Bidirectional, TimeDistributed, SpectralNormalization": _wrapped,
    "nested": _nested,
    "sequential": _sequential,
    "shared": _shared,
}


def covered() -> frozenset[str]:
    """Return the class names that `variants` makes."""
    names = {class_name for class_name, _, _ in _PLAIN}
    for key in _COMPOSITE:
        names |= {part.strip().partition("-")[0] for part in key.split(",")}
    return frozenset(names | {"GroupedQueryAttention"})  # the class behind GroupQueryAttention
