"""Mutants of Orbax checkpoints, most of them damaged below checksums that hold, and their judge."""

from __future__ import annotations

import importlib
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import ckptkit
from ckptkit.errors import CkptkitError
from ckptkit.operations.verify.api import verify
from ckptkit.stores.orbax.codecs import decompress_unsized
from ckptkit.stores.orbax.layout import items_of
from ckptkit.stores.orbax.ocdbt import MAX_NODE_BYTES, read_database
from support import ocdbt_bytes
from support.fuzz.mutators import NUMBERS, noise
from support.ocdbt_bytes import Place
from support.places import ROOT

NEWEST = ROOT / "fixtures/orbax/orbax0.12.8"
SOURCES = (
    *("database_2", "database_3", "directories_2", "directories_3", "sharded_2", "sharded_3"),
    *("run/10", "keras/1"),
)
# Words of metadata, and what may stand there instead.
_WORDS = (
    *(b"<f4", b"<i4", b">f4", b"|u1", b"|b1", b"<f2", b"float32", b"int32", b"bfloat16", b"bool"),
    *(b"zstd", b"gzip", b"zlib", b"bz2", b"blosc", b"crc32c", b"bytes", b"transpose", b"default"),
    *(b'"C"', b'"F"', b'"."', b'"/"', b"little", b"big", b"null", b"true", b"v2", b"end", b"start"),
)


def write(directory: Path, rng: random.Random) -> Path:
    """Put a mutant below a directory; return the checkpoint."""
    place = directory / "c"
    shutil.copytree(NEWEST / rng.choice(SOURCES), place)
    item = _item_with_arrays(place)
    kind = rng.random()
    if not (item / "manifest.ocdbt").is_file() or kind < 0.2:
        files = sorted(path for path in item.rglob("*") if path.is_file() and path.stat().st_size)
        path = rng.choice(files)
        mutate = _in_other_words if path.suffix in (".zarray", ".json") else noise
        path.write_bytes(mutate(path.read_bytes(), rng))
    elif kind < 0.5:
        _with_node(item, rng)
    else:
        _with_values(item, rng)
    return place


def _item_with_arrays(checkpoint: Path) -> Path:
    items = items_of(checkpoint)
    return next((item for item in items if (item / "manifest.ocdbt").is_file()), items[0])


def _in_other_words(data: bytes, rng: random.Random) -> bytes:
    """Return JSON in which some numbers and words are others, or with bytes changed anywhere."""
    if rng.random() < 0.2:
        return noise(data, rng)
    for _ in range(rng.choice((1, 1, 2, 4))):
        tokens = [*re.finditer(rb"-?\d+|" + b"|".join(map(re.escape, _WORDS)), data)]
        if not tokens:
            break
        token = rng.choice(tokens)
        small = rng.choice((0, 1, 2, 3, 4, 5, 6, 8))
        number = small if rng.random() < 0.8 else rng.choice(NUMBERS)
        is_number = token[0].lstrip(b"-").isdigit()
        new = b"%d" % number if is_number else rng.choice(_WORDS)
        data = data[: token.start()] + new + data[token.end() :]
    return data


def _with_node(item: Path, rng: random.Random) -> None:
    """Damage the root of the tree, and give it a length and checksum that hold."""
    [path] = sorted((item / "d").iterdir())
    node = path.read_bytes()
    body = decompress_unsized(node[14:-4], MAX_NODE_BYTES, "golden")
    new = ocdbt_bytes.framed(ocdbt_bytes.NODE_MAGIC, noise(body, rng))
    ocdbt_bytes.database(item, new, Place(0, 0, len(new)), 0)


def _with_values(item: Path, rng: random.Random) -> None:
    """Write the tree anew, with some values changed, dropped or called otherwise."""
    values: dict[bytes, bytes | Place] = {}
    for key, stored in read_database(item).values.items():
        values[key] = stored.inline
        if stored.path is not None:
            data = stored.path.read_bytes()
            values[key] = data[stored.offset : stored.offset + stored.nbytes]
    for key in rng.sample(sorted(values), rng.choice((1, 1, 3))):
        value = values.pop(key)
        assert isinstance(value, bytes)
        is_metadata = key.endswith((b".zarray", b"zarr.json"))
        if is_metadata or rng.random() < 0.8:
            values[key] = (_in_other_words if is_metadata else noise)(value, rng)
        elif rng.random() < 0.5:
            values[noise(key, rng)] = value
    node = ocdbt_bytes.leaf(dict(sorted(values.items())))
    ocdbt_bytes.database(item, node, Place(0, 0, len(node)), 0)


# --- beside TensorStore ---------------------------------------------------------------------------


def beside_tensorstore(path: Path) -> None:
    """Whatever is sound here has the same values in TensorStore, where that reads it."""
    if not verify(path).ok:
        raise CkptkitError("has findings", where=str(path))
    item = _item_with_arrays(path)
    for key, spec in ckptkit.open(path).specs.items():
        for array in _by_tensorstore(item, key):
            assert array.shape == spec.shape, key
            assert array.dtype.name == spec.dtype, (key, array.dtype, spec.dtype)
            assert array.tobytes() == ckptkit.open(path).store.read(key).tobytes(), key


def _by_tensorstore(item: Path, key: str) -> Iterator[np.ndarray[Any, Any]]:
    """Yield what TensorStore reads of an array, if it does."""
    tensorstore = importlib.import_module("tensorstore")

    base = {"driver": "file", "path": f"{item}/"}
    root = {"driver": "file", "path": f"{item}/{key}/"}
    if (item / "manifest.ocdbt").is_file():
        root = {"driver": "ocdbt", "base": base, "path": f"{key}/"}  # type: ignore[dict-item]
    for driver in ("zarr", "zarr3"):
        try:
            opened = tensorstore.open({"driver": driver, "kvstore": root}, open=True).result()
            yield np.asarray(opened.read().result())
        except ValueError:
            continue
