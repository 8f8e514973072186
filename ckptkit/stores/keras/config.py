"""A Keras model's config as data: the tree of layers, and what a person asks of it first.

A config is JSON: `{"module", "class_name", "config": {…}, "registered_name", "build_config"}` per
object, with `config.layers` for Functional and Sequential models (Keras 2 lacks `module` and
`registered_name` in legacy files).  Nothing is ever built, imported or called from it; class names
are compared with a list, and what is not on it is called custom, never safe.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from ckptkit.stores.base import ModelLayer
from ckptkit.stores.keras.layer_variables import Config, snake_case

Shape = tuple[int | None, ...]

# Layers whose loading runs code or opens files beyond the weights.
UNSAFE = {
    "Lambda": "Python code in the config",
    "TorchModuleWrapper": "a pickled PyTorch module",
    "TFSMLayer": "loads another SavedModel",
    "JaxLayer": "Python functions in the config",
    "FlaxLayer": "Python functions in the config",
}
# Classes of Keras 1 and 2 whose configs name no module; others in such configs are custom.
LEGACY_CLASSES = frozenset(
    """
    Activation ActivityRegularization Add AdditiveAttention AlphaDropout Attention Average
    AveragePooling1D AveragePooling2D AveragePooling3D BatchNormalization Bidirectional
    CategoryEncoding CenterCrop Concatenate Conv1D Conv1DTranspose Conv2D Conv2DTranspose Conv3D
    Conv3DTranspose ConvLSTM1D ConvLSTM2D ConvLSTM3D Convolution1D Convolution2D Convolution3D
    Cropping1D Cropping2D Cropping3D CuDNNGRU CuDNNLSTM Dense DenseFeatures DepthwiseConv1D
    DepthwiseConv2D Discretization Dot Dropout ELU EinsumDense Embedding Flatten Functional GRU
    GRUCell GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D
    GlobalAveragePooling3D GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D
    GroupNormalization HashedCrossing Hashing Identity InputLayer IntegerLookup LSTM LSTMCell
    Lambda LayerNormalization LeakyReLU LocallyConnected1D LocallyConnected2D Masking MaxPooling1D
    MaxPooling2D MaxPooling3D Maximum Merge Minimum Model MultiHeadAttention Multiply
    Normalization PReLU Permute RNN RandomBrightness RandomContrast RandomCrop RandomFlip
    RandomHeight RandomRotation RandomTranslation RandomWidth RandomZoom ReLU RepeatVector
    Rescaling Reshape Resizing SeparableConv1D SeparableConv2D Sequential SimpleRNN SimpleRNNCell
    Softmax SpatialDropout1D SpatialDropout2D SpatialDropout3D SpectralNormalization
    StackedRNNCells StringLookup Subtract SyncBatchNormalization TFOpLambda TextVectorization
    ThresholdedReLU TimeDistributed UnitNormalization UpSampling1D UpSampling2D UpSampling3D
    ZeroPadding1D ZeroPadding2D ZeroPadding3D
    """.split()  # noqa: SIM905 (a table of words)
)
_PATH_KEYS = ("vocabulary", "filepath")  # a file name here is opened when the layer is built


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """One serialized object of a config; `config` is its own settings."""

    name: str
    class_name: str
    module: str
    registered_name: str
    config: Config
    build_config: Config
    node: Config

    @property
    def built_in(self) -> bool:
        """Whether the class is Keras's own (by what the file says, which proves nothing)."""
        if "module" in self.node:  # every object since Keras 2.12; null for registered classes
            return f"{self.module}.".startswith(("keras.", "tf_keras."))
        return self.class_name in LEGACY_CLASSES

    @property
    def kind(self) -> str:
        """`functional`, `sequential`, `model` (subclassed, with a list of layers) or `layer`."""
        if self.built_in and self.class_name in ("Functional", "Sequential"):
            return self.class_name.lower()
        if not isinstance(self.config.get("layers"), list):
            return "layer"
        return "functional" if "input_layers" in self.config else "model"

    @property
    def is_layer(self) -> bool:
        """Whether this is a layer; operations of a functional graph (`x + 1`) are not."""
        return ".ops." not in f".{self.module}."


def as_layer(value: object) -> LayerConfig | None:
    """Return the serialized object behind a JSON value, None where it is none."""
    if not isinstance(value, Mapping):
        return None
    class_name, config = value.get("class_name"), value.get("config")
    if not isinstance(class_name, str) or not isinstance(config, Mapping):
        return None
    build = value.get("build_config")
    name = config.get("name") or value.get("name")
    return LayerConfig(
        name=name if isinstance(name, str) else "",
        class_name=class_name,
        module=_string(value.get("module")),
        registered_name=_string(value.get("registered_name")),
        config=config,
        build_config=build if isinstance(build, Mapping) else {},
        node=value,
    )


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def layers_of(model: LayerConfig) -> list[LayerConfig]:
    """Return the layers that a Functional or Sequential model lists, in its order."""
    listed = model.config.get("layers")
    if isinstance(listed, Mapping):  # Keras 1 wrote {"layers": {...}} for some models
        listed = list(listed.values())
    if not isinstance(listed, list):
        return []
    layers = [as_layer(item) for item in listed]
    return [layer for layer in layers if layer is not None and layer.is_layer]


def group_names(layers: list[LayerConfig]) -> dict[str, LayerConfig]:
    """Return group name -> layer as files number them per class: `dense`, `dense_1`, …."""
    used: dict[str, int] = {}
    named: dict[str, LayerConfig] = {}
    for layer in layers:
        base = snake_case(layer.class_name.rpartition(">")[2])
        used[base] = used.get(base, -1) + 1
        named[f"{base}_{used[base]}" if used[base] else base] = layer
    return named


# --- the list of layers ---------------------------------------------------------------------------


Params = Mapping[tuple[str, ...], int | None]


def layer_rows(
    root: LayerConfig, params: Params, names: Mapping[int, str] | None = None
) -> tuple[ModelLayer, ...]:
    """Return every layer of a model, nested models flattened as `outer/inner`.

    params: elements of all weights at or below a layer, by its path (real names, outermost first,
    without the root); None where they cannot be told.  names: real names by id of a config's node,
    for the classes whose config has none; such a layer is else called by its class, in parentheses.
    """
    return tuple(_rows(root, (), params, names or {}))


def _rows(
    model: LayerConfig, path: tuple[str, ...], params: Params, names: Mapping[int, str]
) -> Iterator[ModelLayer]:
    layers = layers_of(model)
    shapes = _output_shapes(model, layers)
    for layer in layers:
        name = layer.name or names.get(id(layer.node), "")
        here = (*path, name or f"({layer.class_name})")
        yield ModelLayer(
            name="/".join(here),
            class_name=layer.class_name,
            output_shape=shapes.get(layer.name),
            params=params.get(here, 0 if name else None),
            flag=flag(layer),
        )
        if layer.kind != "layer":
            yield from _rows(layer, here, params, names)


def flag(layer: LayerConfig) -> str:
    """Return what a person should know of a layer before loading it: "", custom or unsafe: …"""
    reasons = sorted({f"{c} ({UNSAFE[c]})" for c in _unsafe_classes(layer)})
    for key in _PATH_KEYS:
        if isinstance(layer.config.get(key), str):
            reasons.append(f"{key} names a file: {layer.config[key]!r}")
    if reasons:
        return "unsafe: " + "; ".join(reasons)
    return "" if layer.built_in else "custom"


def _unsafe_classes(layer: LayerConfig) -> Iterator[str]:
    """Yield unsafe classes of a layer and of what its own settings hold (a wrapped Lambda)."""
    if layer.class_name in UNSAFE:
        yield layer.class_name
    skip = "layers" if layer.kind != "layer" else None  # nested models report their own layers
    pending: list[object] = [v for k, v in layer.config.items() if k != skip]
    while pending:
        item = pending.pop()
        if isinstance(item, Mapping):
            name = item.get("class_name")
            if name == "__lambda__":
                yield "Lambda"
            elif isinstance(name, str) and name in UNSAFE:
                yield name
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)


def _output_shapes(model: LayerConfig, layers: list[LayerConfig]) -> dict[str, Shape]:
    """Return output shapes by layer name, as far as the config tells them.

    Functional (Keras 3): each use of an output carries its shape.  Sequential: what the next layer
    was built on.  Otherwise from the layer itself, where that is plain.
    """
    shapes: dict[str, Shape] = {}
    for layer in layers:
        for name, shape in _used_outputs(layer.node.get("inbound_nodes")):
            shapes.setdefault(name, shape)
    if model.kind == "sequential":
        for layer, following in pairwise(layers):
            built_on = _shape(following.build_config.get("input_shape"))
            if built_on is not None:
                shapes.setdefault(layer.name, built_on)
    for layer in layers:
        if layer.name not in shapes:
            own = _own_output(layer)
            if own is not None:
                shapes[layer.name] = own
    return shapes


def _used_outputs(nodes: object) -> Iterator[tuple[str, Shape]]:
    """Yield (layer, shape) of the first output of each layer that `inbound_nodes` refers to."""
    pending = [nodes]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, Mapping):
            if item.get("class_name") == "__keras_tensor__" and isinstance(
                item.get("config"), Mapping
            ):
                history = item["config"].get("keras_history")
                shape = _shape(item["config"].get("shape"))
                if shape is not None and isinstance(history, list) and len(history) == 3:
                    name, _, output = history
                    if output == 0 and isinstance(name, str):
                        yield name, shape
            else:
                pending.extend(item.values())


_SHAPELESS = ("Activation", "ActivityRegularization", "Dropout", "GaussianNoise", "ReLU", "Softmax")


def _own_output(layer: LayerConfig) -> Shape | None:
    """Return the output shape that follows from a layer's own config, for the plainest classes."""
    config = layer.config
    if layer.class_name == "InputLayer":
        return _shape(config.get("batch_shape", config.get("batch_input_shape")))
    built_on = _shape(layer.build_config.get("input_shape"))
    if built_on is None or not layer.built_in:
        return None
    if layer.class_name == "Dense" and isinstance(config.get("units"), int):
        return (*built_on[:-1], config["units"])
    if layer.class_name in _SHAPELESS or layer.class_name.endswith("Normalization"):
        return built_on
    if layer.class_name == "Flatten" and None not in built_on[1:]:
        size = 1
        for n in built_on[1:]:
            size *= n or 0
        return (built_on[0], size)
    return None


def _shape(value: object) -> Shape | None:
    if not isinstance(value, list) or not all(n is None or type(n) is int for n in value):
        return None
    return tuple(value)


def custom_classes(root: LayerConfig) -> list[str]:
    """Return the names of classes that are not Keras's own, sorted, each once."""
    found: set[str] = set()
    pending = [root]
    while pending:
        layer = pending.pop()
        if not layer.built_in:
            found.add(layer.registered_name or layer.class_name)
        pending.extend(layers_of(layer))
    return sorted(found)
