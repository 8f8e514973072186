"""The part of a Keras config that decides what a model computes, layer by layer.

Versions of Keras write different configs for one model: fields come and go, dtypes are names or
objects, initialisers and regularisers concern training alone.  So what is kept are the settings
that every version writes as plain values, and two configs are compared on the settings that both
have.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ckptkit.errors import FormatError
from ckptkit.golden.line_sketch import LineSketch, explain_lines, sketch_lines
from ckptkit.model_io.signature import Discrepancy
from ckptkit.stores.keras.config import LayerConfig, as_layer, layers_of
from ckptkit.stores.registry import model_config

Layers = Mapping[str, Mapping[str, Any]]

_LONG = 16  # items of a list from which on only a sketch is kept
# Settings of training, of how (not what) is computed, and of shapes that the signature tells.
_PASSIVE = frozenset(
    """
    name trainable batch_shape batch_input_shape sparse ragged optional seed layers
    input_layers output_layers implementation unroll use_cudnn time_major synchronized renorm
    renorm_momentum momentum fused virtual_batch_size adjustment input_length input_dim build_config
    activity_regularizer dynamic autocast pad_to_max_tokens registered_name module
    flash_attention lora_rank lora_alpha gptq_unpacked_column_size quantization_config
    vocabulary_size has_vocabulary batch_size
    """.split()  # noqa: SIM905 (a table of words)
)
_PASSIVE_ENDS = ("_initializer", "_regularizer", "_constraint")


def read_config(path: Path, form: str) -> Layers:
    """Return {layer path: {"class", "inputs", settings}} of a Keras file; {} where it has none.

    Raises FormatError.
    """
    root = as_layer(model_config(form, path))
    return dict(_layers(root, "")) if root is not None else {}


def _layers(model: LayerConfig, prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for layer in layers_of(model):
        path = f"{prefix}{layer.name}"
        settings = {
            key: _setting(key, value) for key, value in sorted(layer.config.items()) if decides(key)
        }
        inputs = list(_inbound(layer.node.get("inbound_nodes")))
        yield path, {"class": layer.class_name, "inputs": inputs, "settings": settings}
        yield from _layers(layer, f"{path}/")


def _setting(key: str, value: Any) -> Any:
    """Return a setting in the form that all versions can be brought to."""
    if key == "dtype":  # a name, or an object: a policy
        config = value.get("config") if isinstance(value, Mapping) else None
        if not isinstance(config, Mapping):
            return value
        if config.get("name") is not None:
            return config["name"]
        # of a quantised layer: the class's own name of it, `int8_from_float32`, is put together so
        parts = [str(config[part]) for part in ("mode", "source_name") if config.get(part)]
        return "_from_".join(parts) or _plain(config)
    if key == "axis" and isinstance(value, list) and len(value) == 1:  # Keras 2: [3] for -1
        return _plain(value[0])
    return _plain(value)


def decides(key: str) -> bool:
    """Whether a setting of this name decides what a layer computes, in every version of Keras."""
    return key not in _PASSIVE and not key.endswith(_PASSIVE_ENDS)


def _plain(value: Any) -> Any:
    """Return a setting in a form that versions agree on; long lists as a sketch."""
    if isinstance(value, Mapping):
        if "class_name" in value:  # a serialized object: an activation, a cell, a wrapped layer
            config = value.get("config")
            inner = config if isinstance(config, Mapping) else {}
            return {
                "class": value["class_name"],
                **{k: _setting(k, v) for k, v in sorted(inner.items()) if decides(k)},
            }
        return {str(k): _setting(k, v) for k, v in sorted(value.items()) if decides(k)}
    if isinstance(value, list):
        if len(value) > _LONG:
            return {"lines": sketch_lines(texts_of(value)).to_json()}
        return [_plain(item) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, (int, float)):
        return float(value) if value != int(value) else int(value)
    return value


def texts_of(values: Sequence[Any]) -> list[bytes]:
    """Return each item of a list as text."""
    return [
        (item if isinstance(item, str) else json.dumps(item, sort_keys=True)).encode(
            "utf-8", "surrogatepass"
        )
        for item in values
    ]


def _inbound(nodes: Any) -> Iterator[str]:
    """Yield the names of the layers that feed one, in order, from either way of writing them."""
    if isinstance(nodes, Mapping):
        history = nodes.get("keras_history")
        if isinstance(history, list) and history and isinstance(history[0], str):
            yield history[0]
            return
        for value in nodes.values():
            yield from _inbound(value)
    elif isinstance(nodes, list):
        if len(nodes) >= 3 and isinstance(nodes[0], str) and type(nodes[1]) is int:
            yield nodes[0]
            for value in nodes[3:]:
                yield from _inbound(value)
            return
        for value in nodes:
            yield from _inbound(value)


# --- comparing ------------------------------------------------------------------------------------


def compare_layers(
    old: Layers, new: Layers, source: Path | None, form: str
) -> Iterator[Discrepancy]:
    """Yield a row per layer whose settings, class or inputs changed.

    Layers are paired by name, or in order where no name is shared and the classes agree.
    """
    if not old or not new:
        return
    names = _paired(old, new)
    for name in (name for name in old if name not in names):
        yield Discrepancy(
            "error", "layer.missing", name, f"no layer {name!r} ({old[name].get('class')})"
        )
    taken = set(names.values())
    for name in (name for name in new if name not in taken):
        yield Discrepancy(
            "error", "layer.added", name, f"layer {name!r} is new ({new[name]['class']})"
        )
    for name, other in names.items():
        yield from _changed(name, old[name], new[other], names, (source, form, other))


def _paired(old: Layers, new: Layers) -> dict[str, str]:
    shared = {name: name for name in old if name in new}
    if len(shared) == len(old) or len(old) != len(new):
        return shared
    old_classes, new_classes = (
        [layer.get("class") for layer in side.values()] for side in (old, new)
    )
    return dict(zip(old, new, strict=True)) if old_classes == new_classes else shared


def _changed(
    name: str,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    names: Mapping[str, str],
    source: tuple[Path | None, str, str],
) -> Iterator[Discrepancy]:
    if old.get("class") != new["class"]:
        message = f"layer is a {new['class']}, recorded as {old.get('class')}"
        yield Discrepancy("error", "layer.class", name, message)
        return
    old_settings, new_settings = old.get("settings") or {}, new["settings"]
    for key, before, after in _differences(old_settings, new_settings, ""):
        message = f"{key} is {_shown(after)}, recorded as {_shown(before)}"
        if _is_lines(before) and _is_lines(after):
            message = f"{key}: {_lines(before, key, *source)}"
        yield Discrepancy("error", "layer.config", name, message)
    inputs = [names.get(layer, layer) for layer in old.get("inputs") or []]
    if inputs != new["inputs"] and bool(inputs) == bool(new["inputs"]):
        message = f"fed by {', '.join(new['inputs'])}, recorded {', '.join(inputs)}"
        yield Discrepancy("error", "layer.inputs", name, message)


def _differences(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield (path, recorded, now) of the settings that both have and that differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping) and not _is_lines(old):
        for key in sorted(set(old) & set(new)):
            yield from _differences(old[key], new[key], f"{path}.{key}" if path else key)
    elif not _same(old, new, path.rpartition(".")[2]):
        yield path, old, new


def _same(old: Any, new: Any, key: str) -> bool:
    if isinstance(old, Mapping) and isinstance(new, str):
        return old.get("class") == new or old.get("name") == new
    if isinstance(new, Mapping) and isinstance(old, str):
        return _same(new, old, key)
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and not any(
            any(_differences(a, b, key)) for a, b in zip(old, new, strict=True)
        )
    if key == "axis" and type(old) is type(new) is int and (old < 0) != (new < 0):
        return True  # counted from the other end; the rank is not known
    return bool(old == new)


def _is_lines(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"lines"}


def _lines(recorded: Any, key: str, path: Path | None, form: str, layer: str) -> str:
    """Say which entry of a long list changed, from the file as it is now."""
    try:
        old = LineSketch.from_json(recorded["lines"], key)
    except FormatError:
        return "the list differs"
    now = _list_in(path, form, layer, key) if path is not None else None
    return explain_lines(old, now) if now is not None else "the list differs"


def _list_in(path: Path, form: str, wanted: str, key: str) -> list[bytes] | None:
    model = as_layer(model_config(form, path))
    for part in wanted.split("/"):
        layers = layers_of(model) if model is not None else []
        model = next((layer for layer in layers if layer.name == part), None)
    value = model.config.get(key) if model is not None else None
    return texts_of(value) if isinstance(value, list) else None


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 60 else text[:57] + "..."
