"""One set of weights in every kind of HDF5 that h5py writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from support.keras_files import NAMES, VALUES, write_legacy

# options of the file, then of its datasets
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "earliest": ({}, {}),
    "v108": ({"libver": ("v108", "v108")}, {}),
    "v110": ({"libver": ("v110", "v110")}, {}),
    "latest": ({"libver": "latest"}, {}),
    "order": ({"track_order": True}, {}),
    "order-latest": ({"track_order": True, "libver": "latest"}, {}),
    "paged": ({"fs_strategy": "page", "libver": "latest"}, {}),
    "chunked": ({}, {"chunks": True}),
    "gzip": ({}, {"compression": "gzip", "shuffle": True}),
    "gzip-fletcher": ({}, {"compression": "gzip", "fletcher32": True}),
    "lzf": ({}, {"compression": "lzf"}),
    "growing": ({}, {"maxshape": "any", "chunks": True}),
    "gzip-latest": ({"libver": "latest"}, {"compression": "gzip"}),
    "growing-latest": ({"libver": "latest"}, {"maxshape": "any", "chunks": True}),
    "filled": ({}, {"fillvalue": 1.5}),
}


def write_variant(path: Path, name: str) -> Path:
    """Write the weights of `keras_files` as one variant."""
    file_options, options = VARIANTS[name]
    with h5py.File(path, "w", **file_options) as file:
        file.create_group("vars").attrs["name"] = "functional"
        for group, own_name in NAMES.items():
            file.create_group(f"{group}/vars").attrs["name"] = own_name
        for key, array in VALUES.items():
            more = dict(options)
            if more.get("maxshape") == "any":
                more["maxshape"] = (None,) * array.ndim
            file.create_dataset(key, data=array, **more)
        file["layers"].attrs["many"] = [f"name {number}" for number in range(300)]
        file["layers"].attrs["numbers"] = np.arange(5, dtype="i2")
    return path


def write_variants(directory: Path) -> list[Path]:
    """Write all variants, and weights as Keras 2 has them; return the files."""
    files = [write_variant(directory / f"{name}.weights.h5", name) for name in VARIANTS]
    legacy = [write_legacy(directory / f"legacy-{c}.h5", chunked=c) for c in (False, True)]
    return [*files, *legacy]
