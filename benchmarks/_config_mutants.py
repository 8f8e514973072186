"""Drawn changes of Keras configs, each with the layer and the setting that a diff has to name."""

from __future__ import annotations

import copy
import json
import random
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ckptkit.operations.diff.beside.configuration import ConfigChange

Config = dict[str, Any]
# State of the build and what is told by other means; a counted name tells nothing.
_NOT_SETTINGS = {"name", "layers", "input_layers", "output_layers", "build_input_shape"}
_NOT_SETTINGS |= {"vocabulary", "vocabulary_size"}
_WORDS = {
    "activation": ("relu", "tanh", "sigmoid", "linear"),
    "recurrent_activation": ("sigmoid", "tanh"),
    "padding": ("same", "valid"),
    "data_format": ("channels_last", "channels_first"),
    "merge_mode": ("concat", "sum"),
    "dtype": ("float16", "float32", "float64"),
}


class Mutant(NamedTuple):
    """One changed config.

    where: the path of the layer, "" for the model.  option: the setting, argument or kind of change
    that is to be named.  old, new: its values in the file.
    """

    config: Config
    where: str
    option: str
    old: Any
    new: Any


class Place(NamedTuple):
    """A dictionary of settings in a config: of a layer, of an object in it, or of the compile."""

    settings: Config
    where: str
    prefix: str


def read(path: Path) -> Config:
    """Return the config of a `.keras` archive."""
    with zipfile.ZipFile(path) as archive:
        found: Config = json.loads(archive.read("config.json"))
    return found


def write(source: Path, target: Path, config: Config) -> None:
    """Write an archive again with another config."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for item in old.infolist():
            data = json.dumps(config) if item.filename == "config.json" else old.read(item)
            new.writestr(item, data)


def places(config: Config) -> Iterator[Place]:
    """Yield every dictionary of settings, with the path that a diff calls it by."""
    yield Place(config["config"], "", "")
    yield from _of_layers(config["config"], "")
    compiled = config.get("compile_config")
    if compiled:
        yield Place(compiled, "", "")
        optimizer = compiled.get("optimizer")
        if isinstance(optimizer, dict):
            yield Place(optimizer["config"], "", "optimizer.")
        loss = compiled.get("loss")
        if isinstance(loss, dict) and "class_name" in loss:
            yield Place(loss["config"], "", "loss.")


def _of_layers(config: Config, above: str) -> Iterator[Place]:
    for layer in config.get("layers", ()):
        path = f"{above}{layer['config'].get('name') or layer.get('name')}"
        if layer["class_name"] == "InputLayer" and "inbound_nodes" not in layer:
            continue  # of a Sequential model, whose own setting the diff calls it
        yield Place(layer["config"], path, "")
        for key, value in layer["config"].items():
            if isinstance(value, dict) and isinstance(value.get("config"), dict):
                yield Place(value["config"], path, f"{key}.")
        yield from _of_layers(layer["config"], f"{path}/")


def other_value(key: str, value: Any, draw: random.Random) -> Any:
    """Return another value of a setting; None where there is none to tell apart."""
    last = key.rpartition(".")[2]
    if last in _WORDS:
        now = _policy(value)
        return draw.choice([word for word in _WORDS[last] if word != now])
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + draw.randint(1, 3)
    if isinstance(value, float):
        return round(value * 1.5 + 0.25, 6)
    if isinstance(value, list) and value and type(value[-1]) is int:
        return [*value[:-1], value[-1] + 1]
    if value is None and last.endswith("_regularizer"):
        return {"module": "keras.regularizers", "class_name": "L2", "config": {"l2": 0.02}}
    if value is None and last.endswith("_constraint"):
        return {"module": "keras.constraints", "class_name": "NonNeg", "config": {}}
    if value is None and last == "seed":
        return draw.randint(1, 99)
    if isinstance(value, dict) and last.endswith("_initializer"):
        kinds = [k for k in ("HeNormal", "Ones", "Zeros") if k != value["class_name"]]
        return {"module": "keras.initializers", "class_name": draw.choice(kinds), "config": {}}
    return f"{value}_too" if isinstance(value, str) else None


def _policy(value: Any) -> Any:
    return value["config"].get("name") if isinstance(value, dict) else value


def setting_mutant(config: Config, draw: random.Random) -> Mutant | None:
    """Change one setting, anywhere."""
    changed = copy.deepcopy(config)
    place = draw.choice(list(places(changed)))
    keys = [key for key in place.settings if key not in _NOT_SETTINGS]
    if not keys:
        return None
    key = draw.choice(keys)
    old = place.settings[key]
    new = other_value(place.prefix + key, old, draw)
    if new is None or _policy(old) == new:
        return None
    place.settings[key] = new
    option = {"batch_shape": "shape"}.get(key, key)
    return Mutant(changed, place.where, place.prefix + option, old, new)


def rename_mutant(config: Config, draw: random.Random) -> Mutant | None:
    """Call a layer of a functional model otherwise, wherever it is named."""
    changed = copy.deepcopy(config)
    layers = changed["config"].get("layers", [])
    named = [layer for layer in layers if layer["class_name"] != "InputLayer"]
    if not named:
        return None
    name = draw.choice(named)["config"].get("name")
    if not name:
        return None
    text = json.dumps(changed["config"]).replace(json.dumps(name), json.dumps(f"{name}_renamed"))
    changed["config"] = json.loads(text)
    return Mutant(changed, name, "renamed", name, f"{name}_renamed")


def order_mutant(config: Config, draw: random.Random) -> Mutant | None:
    """Change what feeds a layer of a functional model, or the order of a Sequential one."""
    changed = copy.deepcopy(config)
    layers = changed["config"].get("layers", [])
    if changed["class_name"] == "Sequential":
        places_ = [at for at, layer in enumerate(layers) if layer["class_name"] != "InputLayer"]
        if len(places_) < 2:
            return None
        at = draw.choice(places_[:-1])
        layers[at], layers[at + 1] = layers[at + 1], layers[at]
        names = [layer["config"]["name"] for layer in (layers[at], layers[at + 1])]
        return Mutant(changed, "|".join(names), "moved", None, None)
    fed = [layer for layer in layers if layer.get("inbound_nodes")]
    if changed["class_name"] != "Functional" or len(fed) < 2:
        return None
    layer = draw.choice(fed)
    history = _first_history(layer["inbound_nodes"])
    name = layer["name"]
    others = [x["name"] for x in layers if x["name"] not in (name, history[0] if history else "")]
    if history is None or not others:
        return None
    old, history[0] = history[0], draw.choice(others)
    return Mutant(changed, name, "inputs", old, history[0])


def _first_history(value: Any) -> list[Any] | None:
    if isinstance(value, Mapping):
        if "keras_history" in value:
            found: list[Any] = value["keras_history"]
            return found
        value = list(value.values())
    if isinstance(value, list):
        return next(filter(None, map(_first_history, value)), None)
    return None


def removed_mutant(config: Config, draw: random.Random) -> Mutant | None:
    """Take one layer out of a Sequential model, at the root or nested."""
    changed = copy.deepcopy(config)
    models = [("", changed["config"])] if changed["class_name"] == "Sequential" else []
    for layer in changed["config"].get("layers", ()):
        if layer["class_name"] == "Sequential":
            models.append((f"{layer['config']['name']}/", layer["config"]))
    if not models:
        return None
    above, model = draw.choice(models)
    layers = [layer for layer in model["layers"] if layer["class_name"] != "InputLayer"]
    if len(layers) < 2:
        return None
    layer = draw.choice(layers)
    model["layers"].remove(layer)
    return Mutant(
        changed, f"{above}{layer['config']['name']}", "removed", layer["class_name"], None
    )


def metric_mutant(config: Config, draw: random.Random) -> Mutant | None:
    """Compile with another loss or other metrics."""
    changed = copy.deepcopy(config)
    compiled = changed.get("compile_config")
    if not compiled:
        return None
    key = draw.choice(("loss", "metrics", "loss_weights", "steps_per_execution"))
    new = {"loss": "cosine_similarity", "metrics": ["mse"], "loss_weights": [0.25]}.get(key, 7)
    old, compiled[key] = compiled.get(key), new
    return None if old == new else Mutant(changed, "", key, old, new)


KINDS: tuple[Callable[[Config, random.Random], Mutant | None], ...] = (
    *([setting_mutant] * 7),
    rename_mutant,
    order_mutant,
    removed_mutant,
    metric_mutant,
)


def is_named(change: ConfigChange, mutant: Mutant) -> bool:
    """Whether a change that was found is the one that was made: the layer and the setting."""
    if change.where not in mutant.where.split("|"):
        return False
    if mutant.option in (change.what, change.option):
        return True
    return bool(change.option) and (
        change.option.startswith(mutant.option) or mutant.option.startswith(change.option)
    )


def drawn(
    configs: Mapping[str, Config], count: int, seed: int
) -> Iterator[tuple[str, str, Mutant]]:
    """Yield (model, kind, mutant) of as many changes as are wanted."""
    draw = random.Random(seed)
    names = sorted(configs)
    while count:
        name, kind = draw.choice(names), draw.choice(KINDS)
        mutant = kind(configs[name], draw)
        if mutant is not None:
            count -= 1
            yield name, kind.__name__.removesuffix("_mutant"), mutant
