"""Keras files made with h5py and zipfile alone: the layouts that Keras writes, without Keras."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

VALUES: dict[str, np.ndarray[Any, Any]] = {
    "layers/conv2d/vars/0": np.arange(72, dtype="float32").reshape(3, 3, 2, 4),
    "layers/dense/vars/0": np.arange(20, dtype="float32").reshape(4, 5),
    "layers/dense/vars/1": np.arange(5, dtype="float32"),
}
NAMES = {"layers/conv2d": "stem", "layers/dense": "head", "layers/input_layer": "input_layer"}
READABLE = {"stem/kernel", "head/kernel", "head/bias"}


def write_h5(
    target: Path | io.BytesIO,
    values: Mapping[str, np.ndarray[Any, Any]] = VALUES,
    names: Mapping[str, str] = NAMES,
    **options: Any,
) -> None:
    """Write a `.weights.h5` as Keras 3 does; options go to `create_dataset`."""
    with h5py.File(target, "w") as file:
        file.create_group("vars").attrs["name"] = "functional"
        for group, name in names.items():
            file.create_group(f"{group}/vars").attrs["name"] = name
        for key, array in values.items():
            keep = options if array.shape else {}
            dataset = file.create_dataset(key, data=array, **keep)
            if array.dtype.kind == "V":
                dataset.attrs["dtype"] = array.dtype.name


def h5_bytes(**kwargs: Any) -> bytes:
    """Return what `write_h5` writes."""
    buffer = io.BytesIO()
    write_h5(buffer, **kwargs)
    return buffer.getvalue()


def layer(class_name: str, name: str, **config: Any) -> dict[str, Any]:
    """Return a built-in layer as a config holds it."""
    return {
        "module": "keras.layers",
        "class_name": class_name,
        "config": {"name": name, "trainable": True, **config},
        "registered_name": None,
    }


CONFIG: dict[str, Any] = {
    "module": "keras.src.models.functional",
    "class_name": "Functional",
    "config": {
        "name": "functional",
        "layers": [
            layer("InputLayer", "input_layer", batch_shape=[None, 8, 8, 2]),
            layer("Conv2D", "stem", use_bias=False),
            layer("Dense", "head", units=5, use_bias=True),
        ],
        "input_layers": [["input_layer", 0, 0]],
    },
    "registered_name": "Functional",
}
METADATA = {"keras_version": "3.15.1", "date_saved": "2026-01-01@00:00:00"}


def write_keras(
    path: Path,
    weights: bytes | None = None,
    config: Any = CONFIG,
    metadata: Any = METADATA,
    compression: int = zipfile.ZIP_STORED,
    extra: Mapping[str, bytes] | None = None,
) -> Path:
    """Write a `.keras` archive; config and metadata may be bytes to be put in as they are."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, value in (("metadata.json", metadata), ("config.json", config)):
            text = value if isinstance(value, bytes) else json.dumps(value).encode()
            archive.writestr(zipfile.ZipInfo(name), text, compression)
        data = h5_bytes() if weights is None else weights
        archive.writestr(zipfile.ZipInfo("model.weights.h5"), data, compression)
        for name, content in (extra or {}).items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return path


def write_legacy(path: Path, chunked: bool = False) -> Path:
    """Write weights as Keras 2 does: names in attributes, split in two when `chunked`."""
    with h5py.File(path, "w") as file:
        names = [b"stem", b"head", b"empty"]
        if chunked:
            file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:2], names[2:]
        else:
            file.attrs["layer_names"] = names
        file.attrs["keras_version"] = "2.15.0"
        file.create_group("empty").attrs["weight_names"] = []
        for group, variable, key in (
            ("stem", "kernel", "layers/conv2d/vars/0"),
            ("head", "kernel", "layers/dense/vars/0"),
            ("head", "bias", "layers/dense/vars/1"),
        ):
            file.create_dataset(f"{group}/{group}/{variable}:0", data=VALUES[key])
        file["stem"].attrs["weight_names"] = [b"stem/kernel:0"]
        file["head"].attrs["weight_names"] = [b"head/kernel:0", b"head/bias:0"]
    return path


Edit = Callable[[h5py.File], None]


def edited_h5(path: Path, edit: Edit) -> Path:
    """Write a `.weights.h5` and let `edit` spoil it."""
    write_h5(path)
    with h5py.File(path, "r+") as file:
        edit(file)
    return path
