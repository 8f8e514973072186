"""Damaged models: real files, made from the files of the reference models.

A `Base` is a sound model that a golden is recorded of; a `Mutant` is it with one kind of damage.
How each kind is judged is told by its row of `KINDS`: a mutant is *named* if, for every target (a
layer, an input, an output, a word), a finding or a failing output has a code that fits `codes` and
says the target's name, and no finding has a code that fits `never`.
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

FALSE_NAMES = r"layer\.fresh|weights\.(fresh|optimizer-only)|layer\.swapped"


class Kind(NamedTuple):
    """How one kind of damage is judged.

    codes: of findings (`output.STATUS` of failing outputs) that may name it; None where only
    `check --localize` can: then the layer that it names counts.  cause: the same for outputs alone,
    with the words that must be said; None where outputs cannot tell the cause.
    layer: whether one layer is damaged, which --localize should then name first.
    """

    what: str
    codes: str | None
    cause: tuple[str, str] | None = None
    layer: bool = False
    never: str = FALSE_NAMES


W = r"weight\."
KINDS: Mapping[str, Kind] = {
    "swap": Kind("two layers of one shape swapped", rf"layer\.swapped|{W}swapped", None, False,
                 r"layer\.fresh|weights\."),
    "transpose": Kind("square kernel transposed", rf"{W}transposed", None, True),
    "mean": Kind("mean of a BatchNorm zeroed", rf"{W}constant\.zero", None, True),
    "off": Kind("one weight off by 1e-3", rf"{W}element", None, True),
    "nan": Kind("NaN in one unit of a layer", rf"{W}nonfinite",
                (r"output\.nonfinite", "NaN"), True),
    "bfloat16": Kind("weights cast to bfloat16 and back", rf"{W}rounded"),
    "float16": Kind("weights cast to float16 and back", rf"{W}rounded"),
    "lstm": Kind("gates of an LSTM in another order", rf"{W}gates", None, True),
    "gru": Kind("gates of a GRU in another order", rf"{W}gates", None, True),
    "directions": Kind("two directions of an RNN swapped", rf"layer\.swapped|{W}swapped", None,
                       True, r"layer\.fresh|weights\."),
    "fresh": Kind("layer not restored: as initialised", r"layer\.fresh", None, True, r"weights\."),
    "bias": Kind("bias dropped", rf"{W}constant\.zero", None, True),
    "flip": Kind("kernel flipped along an axis", rf"{W}reordered", None, True),
    "scale": Kind("kernel scaled by 1.01", rf"{W}scaled", None, True),
    "units": Kind("output units in another order", rf"{W}reordered",
                  (r"output\.differs", "columns .* in another order"), True),
    "rows": Kind("rows of an embedding shifted by one", rf"{W}reordered", None, True),
    "later": Kind("wrong checkpoint of two: trained on", rf"{W}\w+"),
    "average": Kind("averaged weights in place of the weights", rf"{W}(averaged|moved)"),
    "activation": Kind("activation of a layer changed", r"layer\.(config|class)", None, True),
    "epsilon": Kind("epsilon of a normalisation changed", r"layer\.config", None, True),
    "pooling": Kind("maximum pooling made average", r"layer\.(config|class)", None, True),
    "vocabulary": Kind("line of a vocabulary dropped", r"layer\.config|asset\.changed"),
    "inputs": Kind("input renamed", r"input\.renamed", (r"input\.renamed", "")),
    "outputs": Kind("two outputs permuted", r"output\.differs",
                    (r"output\.differs", "equals recorded output")),
    "times255": Kind("input scaled by 255 in the graph", r"input\.scaled",
                     (r"input\.scaled", "255")),
    "constant": Kind("stale constant of a donor's graph", r"constant\.changed"),
    "training": Kind("exported with training=True", r"output\.(random|batch)",
                     (r"output\.(random|batch)", "")),
    "dropout": Kind("dropout active at inference", r"output\.random", (r"output\.random", "")),
    "softmax": Kind("softmax over another axis", r"output\.differs"),
    "dtype": Kind("output in another dtype", r"output\.dtype", (r"output\.dtype", "")),
    "code": Kind("activation changed in the code", None, None, True),
    "scale2": Kind("kernel scaled by 1.02", rf"{W}scaled", None, True),
    "line": Kind("two rows of a kernel exchanged", rf"{W}\w+", None, True),
    "part": Kind("last quarter of a kernel's columns from elsewhere", rf"{W}\w+", None, True),
    "negative": Kind("sign of a kernel turned", rf"{W}\w+", None, True),
    "setting": Kind("another setting of a layer changed", r"layer\.config", None, True),
    "order": Kind("two words of a vocabulary exchanged", r"layer\.config|asset\.changed"),
    "fault": Kind("a fault in the code", None, None, True),
    "list": Kind("layers in a Python list, not saved", r"restore\.\w+", None, False, ""),
    "optimizer": Kind("only the optimizer restored", r"weights\.optimizer-only|restore\.\w+", None,
                      False, ""),
    "absent": Kind("layer that the checkpoint lacks", r"restore\.\w+", None, False, ""),
}  # fmt: skip


@dataclass
class Base:
    """A sound model; form: "keras", "saved_model" or "code" (then `model` builds it).

    The form "whole" is a checkpoint of several models that `model` builds: all of it is restored.
    """

    name: str
    form: str
    path: str
    model: str | None = None
    imports: tuple[str, ...] = ()
    twins: dict[str, str] = field(default_factory=dict)  # unmodified re-saves: what, path


@dataclass
class Mutant:
    """One damaged model; see KINDS.

    base: name of its base.  asserts: whether an assertion of TensorFlow fails after a restore of
    its weights, None where there is no restore; editor: whether KerasFileEditor finds an error.
    """

    kind: str
    base: str
    path: str
    targets: tuple[str, ...]
    model: str | None = None
    inside: tuple[str, ...] = ()  # the layer and those around it, of a layer mutant
    asserts: bool | None = None
    editor: bool | None = None


class Weight(NamedTuple):
    """A variable: owner is the layer's own name, cls its class."""

    path: str
    owner: str
    cls: str
    leaf: str
    value: Any


Damage = Iterator[tuple[str, dict[str, Any], tuple[str, ...]]]
"""(kind, new values by path, names of what was damaged)"""


# --- damage to weights ----------------------------------------------------------------------------


def damages(weights: Sequence[Weight], fresh: Mapping[str, Any]) -> Damage:
    """Yield one damage of every kind that applies; fresh: first values of the weights."""
    import numpy as np

    kernels = [w for w in weights if w.value.ndim > 1 and w.leaf != "embeddings" and _varies(w)]
    yield from _swaps(weights)
    for w in kernels:
        turned = _transposed(w.value)
        if turned is not None and not np.array_equal(turned, w.value):
            yield "transpose", {w.path: turned}, (w.owner,)
            break
    for w in kernels[len(kernels) // 2 :][:1]:
        value = w.value.copy()
        value[_largest(value)] += np.asarray(1e-3, value.dtype)
        yield "off", {w.path: value}, (w.owner,)
        value = w.value.copy()
        value[..., value.shape[-1] // 2] = np.nan
        yield "nan", {w.path: value}, (w.owner,)
        yield "scale", {w.path: (w.value * 1.01).astype(w.value.dtype)}, (w.owner,)
        axis = next(axis for axis, size in enumerate(w.value.shape) if size > 1)
        yield "flip", {w.path: np.ascontiguousarray(np.flip(w.value, axis))}, (w.owner,)
    floats = [w for w in weights if w.value.dtype == np.float32 and _varies(w)]
    for dtype in ("bfloat16", "float16"):
        yield dtype, {w.path: _cast(w.value, dtype) for w in floats}, (dtype,)
    yield from _by_leaf(weights)
    yield from _unrestored(weights, fresh)


def _varies(w: Weight) -> bool:
    return bool(
        w.value.dtype.kind == "f" and w.value.size > 1 and (w.value != w.value.flat[0]).any()
    )


def _largest(value: Any) -> tuple[int, ...]:
    import numpy as np

    return tuple(int(i) for i in np.unravel_index(np.abs(value).argmax(), value.shape))


def _transposed(value: Any) -> Any:
    import numpy as np

    if value.ndim == 2 and value.shape[0] == value.shape[1]:
        return np.ascontiguousarray(value.T)
    if value.ndim == 4 and value.shape[0] == value.shape[1] > 1:
        return np.ascontiguousarray(value.transpose(1, 0, 2, 3))
    return None


def _cast(value: Any, dtype: str) -> Any:
    import ml_dtypes
    import numpy as np

    narrow = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16
    return value.astype(narrow).astype(value.dtype)


def _by_owner(weights: Sequence[Weight]) -> dict[str, list[Weight]]:
    owners: dict[str, list[Weight]] = {}
    for w in weights:
        owners.setdefault(w.path.rpartition("/")[0], []).append(w)
    return owners


def _swaps(weights: Sequence[Weight]) -> Damage:
    """Two layers whose weights have the same shapes; then the directions of an RNN."""
    groups: dict[Any, list[list[Weight]]] = {}
    for members in _by_owner(weights).values():
        key = tuple((w.leaf, w.value.shape, str(w.value.dtype)) for w in members)
        groups.setdefault(key, []).append(members)
    for alike in groups.values():
        one, two = alike[0], alike[-1]
        moved = [(a, b) for a, b in zip(one, two, strict=True) if _varies(a) and _varies(b)]
        if one is two or not moved:
            continue
        values = {
            w.path: v.value for a, b in zip(one, two, strict=True) for w, v in ((a, b), (b, a))
        }
        kind = "directions" if one[0].owner.startswith("forward") else "swap"
        yield kind, values, (one[0].owner, two[0].owner)
        return


def more_damages(weights: Sequence[Weight]) -> Damage:
    """Yield further damage to one kernel, another than `damages` takes where there are several."""
    import numpy as np

    kernels = [w for w in weights if w.value.ndim > 1 and w.leaf != "embeddings" and _varies(w)]
    for w in kernels[-1:]:
        yield "scale2", {w.path: (w.value * 1.02).astype(w.value.dtype)}, (w.owner,)
        yield "negative", {w.path: -w.value}, (w.owner,)
    for w in kernels[:1]:
        rows = w.value.reshape(-1, w.value.shape[-1]).copy()
        rows[[0, -1]] = rows[[-1, 0]]
        yield "line", {w.path: rows.reshape(w.value.shape)}, (w.owner,)
    for w in kernels[len(kernels) // 3 :][:1]:
        value = w.value.copy()
        at = value.shape[-1] - max(1, value.shape[-1] // 4)
        value[..., at:] = np.roll(value[..., at:], 1, axis=0) * 0.7
        yield "part", {w.path: value}, (w.owner,)


_GATES = {"lstm": (4, (0, 2, 1, 3)), "gru": (3, (1, 0, 2))}  # i f c o -> i c f o; z r h -> r z h


def _by_leaf(weights: Sequence[Weight]) -> Damage:
    """Damage to variables that only some layers have."""
    import numpy as np

    done: set[str] = set()
    for path, members in _by_owner(weights).items():
        for kind, (count, order) in _GATES.items():
            if f"{kind}_cell" in path and kind not in done:
                done.add(kind)
                values = {
                    w.path: np.concatenate(
                        [np.split(w.value, count, -1)[at] for at in order], axis=-1
                    )
                    for w in members
                }
                yield kind, values, (members[0].owner,)
        for w in members:
            if w.leaf == "moving_mean" and "mean" not in done:
                done.add("mean")
                yield "mean", {w.path: np.zeros_like(w.value)}, (w.owner,)
            if w.leaf in ("bias", "b") and "bias" not in done and _varies(w) and w.value.ndim == 1:
                done.add("bias")
                yield "bias", {w.path: np.zeros_like(w.value)}, (w.owner,)
            if w.leaf in ("embeddings", "embedding") and "rows" not in done:
                done.add("rows")
                yield "rows", {w.path: np.roll(w.value, 1, axis=0)}, (w.owner,)


def _unrestored(weights: Sequence[Weight], fresh: Mapping[str, Any]) -> Damage:
    """One layer as initialised; the units of the last layer in another order."""
    import numpy as np

    owners = [
        members
        for members in _by_owner(weights).values()
        if all(w.path in fresh for w in members) and any(w.value.ndim > 1 for w in members)
    ]
    for members in owners[len(owners) // 2 :][:1]:
        yield "fresh", {w.path: fresh[w.path] for w in members}, (members[0].owner,)
    heads = [m for m in owners if any(w.leaf == "kernel" and w.value.ndim == 2 for w in m)]
    for members in heads[-1:]:
        if 1 < members[0].value.shape[-1] <= 10 and "cell" not in members[0].path:
            values = {w.path: np.ascontiguousarray(np.flip(w.value, -1)) for w in members}
            yield "units", values, (members[0].owner,)


# --- damage to settings ---------------------------------------------------------------------------


_OTHER = {"relu": "tanh", "tanh": "relu", "gelu": "relu", "sigmoid": "tanh", "linear": "tanh"}
_INNER = frozenset({"LSTM", "GRU", "Bidirectional", "MultiHeadAttention"})


def settings(config: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], tuple[str, ...]]]:
    """Yield (kind, changed config, targets) of a `.keras` file's config."""
    done: set[str] = set()
    layers = list(_layers(config))
    for at, layer in enumerate(layers):
        for kind, word, change in _changes(layer):
            if kind not in done:
                done.add(kind)
                copy = json.loads(json.dumps(config))
                change(list(_layers(copy))[at])
                yield kind, copy, (layer["config"]["name"], word)


def _layers(config: Any) -> Iterator[dict[str, Any]]:
    for layer in config.get("config", {}).get("layers", ()):
        if isinstance(layer, dict):
            yield layer
            yield from _layers(layer)


# Settings that leave shapes as they are.
_OTHER_SETTINGS: dict[str, Any] = {
    "mask_zero": False, "normalize": False, "go_backwards": True, "rate": 0.25, "power": 2,
    "negative_slope": 0.05, "interpolation": "bilinear", "dilation_rate": [2, 2],
}  # fmt: skip
_SHAPED = frozenset({"SeparableConv2D", "Conv2DTranspose", "Dropout", "Bidirectional"})


def _setting(word: str, new: Any) -> Callable[[Any], None]:
    return lambda row: row["config"].update({word: new})


def _changes(layer: Mapping[str, Any]) -> Iterator[tuple[str, str, Callable[[Any], None]]]:
    own = layer["config"]
    if own.get("activation") in _OTHER and layer["class_name"] not in _INNER:
        new = _OTHER[own["activation"]]
        yield "activation", "activation", lambda row: row["config"].update(activation=new)
    if "epsilon" in own:
        yield "epsilon", "epsilon", lambda row: row["config"].update(epsilon=10 * own["epsilon"])
    if layer["class_name"] == "MaxPooling2D":
        yield "pooling", "AveragePooling2D", lambda row: row.update(class_name="AveragePooling2D")
    for word, new in _OTHER_SETTINGS.items():
        if word in own and own[word] != new and layer["class_name"] not in _SHAPED:
            yield "setting", word, _setting(word, new)
    words = own.get("vocabulary")
    if isinstance(words, list) and len(words) > 2:
        turned = [words[1], words[0], *words[2:]]
        yield "order", layer["config"]["name"], _setting("vocabulary", turned)
    if isinstance(words, list):
        drop = words[len(words) // 2]
        yield "vocabulary", drop, lambda row: row["config"]["vocabulary"].remove(drop)


def with_config(model: Path, out: Path, config: Any) -> None:
    """Write a copy of a `.keras` file with another config."""
    with zipfile.ZipFile(model) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            content = old.read(info)
            if info.filename == "config.json":
                content = json.dumps(config).encode()
            new.writestr(info, content)


def config_of(model: Path) -> Any:
    """Return the config of a `.keras` file."""
    with zipfile.ZipFile(model) as archive:
        return json.loads(archive.read("config.json"))


# --- damage to checkpoints and SavedModels --------------------------------------------------------


def weights_of(path: Path) -> list[Weight]:
    """Return the weights of a checkpoint or SavedModel, by readable name."""
    import ckptkit

    checkpoint = ckptkit.open(path)
    found = []
    for key, naming in checkpoint.names.items():
        if naming.role == "weight" and naming.duplicate_of is None:
            value = checkpoint.store.read(key).reshape(checkpoint.store.specs[key].shape)
            owner, _, leaf = naming.name.rpartition("/")
            found.append(Weight(naming.name, owner or leaf, "", leaf, value))
    return found


def rewritten(model: Path, out: Path, values: Mapping[str, Any]) -> None:
    """Write a copy of a SavedModel with other values of some weights."""
    shutil.copytree(model, out)
    with_values(model, out / "variables" / "variables", values)


def with_values(model: Path, out: Path, values: Mapping[str, Any]) -> None:
    """Write the tensors of a checkpoint or SavedModel, with other values of some weights."""
    import tensorflow as tf

    import ckptkit

    names = ckptkit.open(model).names
    is_directory = model.is_dir()
    reader = tf.train.load_checkpoint(
        str(model / "variables" / "variables" if is_directory else model)
    )
    dtypes = reader.get_variable_to_dtype_map()
    everything = {key: reader.get_tensor(key) for key in dtypes}
    for key, naming in names.items():
        name = naming.duplicate_of or naming.name
        if naming.role == "weight" and name in values:
            everything[key] = values[name]
    tf.raw_ops.SaveV2(
        prefix=str(out),
        tensor_names=list(everything),
        shape_and_slices=[""] * len(everything),
        tensors=[tf.constant(value, dtypes[key]) for key, value in everything.items()],
    )


def dropped_line(model: Path, out: Path) -> str:
    """Write a copy of a SavedModel whose vocabulary lacks a line; return which: "line 8"."""
    shutil.copytree(model, out)
    asset = next((out / "assets").iterdir())
    lines = asset.read_text(encoding="utf-8").splitlines()
    gone = len(lines) // 2
    del lines[gone]
    asset.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"line {gone + 1}"


def mentions(text: str, target: str) -> bool:
    """Whether a text has the target as a whole word or part of a path."""
    return re.search(rf"(?<![\w]){re.escape(target)}(?![\w])", text) is not None
