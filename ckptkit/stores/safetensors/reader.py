"""safetensors: one file of tensors with a JSON header, or several under an index.

    bytes 0-7   N, the size of the header (uint64 little-endian), at most 100,000,000
    N bytes     JSON (UTF-8): {"NAME": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
                ..., "__metadata__": {"key": "value", ...}}, padded with spaces
    the rest    the values, little-endian, row-major; offsets count from here

The ranges must follow each other without gap or overlap from 0 to the end of the file, and each
must be as long as shape and dtype say.  Shapes may be empty ([]: a scalar) and hold zeros.  F4
packs two elements to a byte, the first in the low four bits (as torch.float4_e2m1fn_x2 does).

What is accepted and refused is what the reference reader (the `safetensors` package) accepts and
refuses, down to forms that only its JSON parser knows, with one exception: a name that occurs twice
is refused, as the format demands ("Duplicate keys are disallowed"), while the reference keeps the
last.  Source: safetensors/README.md, safetensors/src/tensor.rs.

`model.safetensors.index.json` is {"metadata": {...}, "weight_map": {"NAME": "FILE", ...}}; the
files lie beside it.  The format keeps no checksums.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptkit._io.file_states import is_file, unchanged_part
from ckptkit.dtypes import itemsize, kind
from ckptkit.errors import FormatError, UnknownTensorError
from ckptkit.stores import metadata as tensor_metadata
from ckptkit.stores.base import BLOCK_ELEMENTS, ModelInfo, StoredNames, TensorSpec
from ckptkit.stores.containers.weight_map import index_notes, read_weight_map, wanted_specs
from ckptkit.stores.reopening import pickled
from ckptkit.stores.safetensors.header import CODES, METADATA, Header, read_header
from ckptkit.stores.safetensors.large_header import read_large_header

if TYPE_CHECKING:
    from ckptkit.dtypes import Array
    from ckptkit.stores.containers.encoded_array import EncodedArray

INDEX_SUFFIX = ".safetensors.index.json"


@dataclass(frozen=True, slots=True)
class SafetensorsStore:
    """A safetensors file, or the set of files under an index."""

    path: Path
    shards: tuple[Path, ...]
    missing_shards: tuple[Path, ...]
    producer: str | None
    specs: Mapping[str, TensorSpec]
    structure: StoredNames | None
    notes: tuple[str, ...]

    def __reduce__(self) -> tuple[Any, ...]:
        one_file = self.shards == (self.path,)
        return pickled(
            open_safetensors if one_file else open_safetensors_index, self.path, self.files
        )

    @property
    def files(self) -> tuple[Path, ...]:
        """See `StoreOfFiles`."""
        return (self.path, *self.shards)

    @property
    def format(self) -> str:
        return "safetensors"

    @property
    def style(self) -> str:
        return ""

    @property
    def model(self) -> ModelInfo | None:
        return None

    def blocks(self, key: str, max_elements: int = BLOCK_ELEMENTS) -> Iterator[tuple[int, Array]]:
        """Yield (start, values) over the tensor; see `Store.blocks`.  There is no checksum."""
        return self._encoded(key).blocks(max_elements)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Array:
        """Return elements [start, stop); see `Store.read`."""
        encoded = self._encoded(key)
        start, stop, _ = slice(start, stop).indices(encoded.size)
        return encoded.read(start, max(start, stop))

    def mappable(self, key: str) -> bool:
        """Whether the stored bytes are the values in native order."""
        spec = self._spec(key)
        return _form(spec) == "plain" and sys.byteorder == "little"

    def _spec(self, key: str) -> TensorSpec:
        try:
            return self.specs[key]
        except KeyError:
            raise UnknownTensorError(f"no tensor {key!r}", where=str(self.path)) from None

    def _encoded(self, key: str) -> EncodedArray:
        # here, since a list reads no values
        from ckptkit.stores.containers.byte_range import ByteRange
        from ckptkit.stores.containers.encoded_array import EncodedArray, Encoding

        spec = self._spec(key)
        assert spec.shard is not None and spec.offset is not None
        path = self.shards[spec.shard]
        return EncodedArray(
            ByteRange(path, spec.offset, spec.nbytes),
            0,
            spec.nbytes,
            spec.dtype,
            spec.size,
            Encoding(_form(spec)),
            f"{path}:{key}",
        )


def _form(spec: TensorSpec) -> str:
    """Return how the elements lie in the bytes, as `Encoding` says it."""
    if spec.dtype == "string":
        return "strings"
    if kind(spec.dtype) == "opaque":
        return "raw"
    return "nibbles" if spec.nbytes < spec.size * itemsize(spec.dtype) else "plain"


def open_safetensors(path: Path) -> SafetensorsStore:
    """Return the store of a `.safetensors` file.

    Raises FormatError, TruncatedError, PathNotFoundError.
    """
    specs: Mapping[str, TensorSpec]
    notes: list[str] = []
    large = read_large_header(path)
    if large is not None and tensor_metadata.KEY not in large.metadata:
        specs, metadata, entries = large.specs, large.metadata, None
    else:
        header = read_header(path)
        metadata = header.metadata
        entries, notes = _metadata_in(metadata, path)
        specs = _specs(header, 0, entries, path, notes)
    return SafetensorsStore(
        path=path,
        shards=(path,),
        missing_shards=(),
        producer=_producer(metadata),
        specs=specs,
        structure=None if entries is None else tensor_metadata.stored_names(entries, specs),
        notes=tuple(notes),
    )


def open_safetensors_index(path: Path) -> SafetensorsStore:
    """Return the store of a `*.safetensors.index.json` and the files that it names.

    Names of a missing file are not in `specs`, since no one knows their shapes; a note says so.
    Raises as `open_safetensors` does.
    """
    weight_map, total = read_weight_map(path)
    files = sorted(set(weight_map.values()))
    shards = tuple(unchanged_part(path.with_name(file)) for file in files)
    missing = tuple(shard for shard in shards if not is_file(shard))
    notes: list[str] = []
    specs: dict[str, TensorSpec] = {}
    names: dict[str, tensor_metadata.TensorMetadata] = {}
    ours = False
    producer: str | None = None
    for number, shard in enumerate(shards):
        wanted = {name for name, file in weight_map.items() if file == files[number]}
        if shard in missing:
            notes.append(f"{shard.name} is missing: its {len(wanted)} tensors cannot be listed")
            continue
        header = read_header(shard)
        entries, found = _metadata_in(header.metadata, shard)
        ours = ours or entries is not None
        names.update(entries or {})
        producer = producer or _producer(header.metadata)
        its_specs = _specs(header, number, entries, shard, found)
        specs.update(wanted_specs(its_specs, wanted, shard, path, found))
        notes.extend(found)
    notes.extend(index_notes(path, INDEX_SUFFIX, files, total, specs, missing))
    return SafetensorsStore(
        path=path,
        shards=shards,
        missing_shards=missing,
        producer=producer,
        specs={name: specs[name] for name in weight_map if name in specs},
        structure=tensor_metadata.stored_names(names, specs) if ours else None,
        notes=tuple(notes),
    )


def _metadata_in(
    metadata: Mapping[str, str], path: Path
) -> tuple[dict[str, tensor_metadata.TensorMetadata] | None, list[str]]:
    """Return what ckptkit kept in the metadata (None: nothing), and notes."""
    text = metadata.get(tensor_metadata.KEY)
    if text is None:
        return None, []
    try:
        return tensor_metadata.load(text.encode("utf-8"), f"{path.name}: {METADATA}"), []
    except FormatError as error:
        return None, [f"names in the metadata are ignored: {error.message}"]


def _specs(
    header: Header,
    shard: int,
    entries: dict[str, tensor_metadata.TensorMetadata] | None,
    path: Path,
    notes: list[str],
) -> dict[str, TensorSpec]:
    specs: dict[str, TensorSpec] = {}
    for name, info in header.tensors.items():
        dtype, shape, nbytes = CODES[info.code].dtype, info.shape, info.end - info.begin
        entry = entries.get(name) if entries else None
        if entry is not None and entry.dtype is not None:
            if tensor_metadata.can_encode(entry, dtype, shape, nbytes):
                assert entry.shape is not None
                dtype, shape = entry.dtype, entry.shape
            else:
                notes.append(f"{name!r} in {path.name} does not hold the {entry.dtype} it claims")
        offset = header.data_start + info.begin
        specs[name] = TensorSpec(name, dtype, shape, nbytes, shard, offset)
    return specs


def _producer(metadata: Mapping[str, str]) -> str | None:
    if tensor_metadata.KEY in metadata:
        return "ckptkit"
    framework = metadata.get("format")
    return f"safetensors ({framework})" if framework else None


# --- the index of several files -------------------------------------------------------------------
