"""A set of PyTorch files under an index, `pytorch_model.bin.index.json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptkit._io.file_states import is_file, unchanged_part
from ckptkit.errors import UnknownTensorError
from ckptkit.stores.base import BLOCK_ELEMENTS, ModelInfo, Structure, TensorSpec
from ckptkit.stores.constants import ConstantUse, Quantisation, StoreOfConstants
from ckptkit.stores.containers.weight_map import index_notes, read_weight_map, wanted_specs
from ckptkit.stores.pytorch.detection import INDEX_SUFFIX
from ckptkit.stores.pytorch.reader import PytorchStore, open_pytorch
from ckptkit.stores.reopening import pickled

if TYPE_CHECKING:
    from ckptkit.dtypes import Array


@dataclass(frozen=True, slots=True)
class PytorchSetStore:
    """The files of a set; made by `open_pytorch_index`."""

    path: Path
    shards: tuple[Path, ...]
    missing_shards: tuple[Path, ...]
    specs: Mapping[str, TensorSpec]
    notes: tuple[str, ...]
    parts: Mapping[int, PytorchStore]

    def __reduce__(self) -> tuple[Any, ...]:
        return pickled(open_pytorch_index, self.path, self.files)

    @property
    def files(self) -> tuple[Path, ...]:
        """See `StoreOfFiles`."""
        return (self.path, *self.shards)

    @property
    def format(self) -> str:
        return "pytorch-index"

    @property
    def style(self) -> str:
        return ""

    @property
    def producer(self) -> str | None:
        return "PyTorch"

    @property
    def structure(self) -> Structure:
        return None

    @property
    def model(self) -> ModelInfo | None:
        return None

    def blocks(self, key: str, max_elements: int = BLOCK_ELEMENTS) -> Iterator[tuple[int, Array]]:
        """Yield (start, values) over the tensor; see `Store.blocks`."""
        yield from self._part(key).blocks(key, max_elements)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Array:
        """Return elements [start, stop); see `Store.read`."""
        return self._part(key).read(key, start, stop)

    def mappable(self, key: str) -> bool:
        """Whether the stored bytes are the values in native order."""
        return self._part(key).mappable(key)

    def _part(self, key: str) -> PytorchStore:
        spec = self.specs.get(key)
        if spec is None or spec.shard is None:
            raise UnknownTensorError(f"no tensor {key!r}", where=str(self.path))
        return self.parts[spec.shard]


@dataclass(frozen=True, slots=True)
class QuantisedPytorchSetStore(PytorchSetStore):
    """A set with tensors whose integers stand for numbers; made by `open_pytorch_index`."""

    def quantisations(self) -> dict[str, Quantisation]:
        """Return what the integers of tensors stand for; see `StoreOfConstants`."""
        found: dict[str, Quantisation] = {}
        for number, part in self.parts.items():
            if isinstance(part, StoreOfConstants):
                own = part.quantisations().items()
                found.update(
                    (key, how)
                    for key, how in own
                    if key in self.specs and self.specs[key].shard == number
                )
        return found

    def uses(self) -> dict[str, ConstantUse]:
        """Return nothing: the names are those of a model; see `StoreOfConstants`."""
        return {}


def open_pytorch_index(path: Path) -> PytorchSetStore:
    """Return the store of a `*.bin.index.json` and the files that it names.

    Names of a missing file are not in `specs`, since no one knows their shapes; a note says so.

    Args:
        path: of the index.

    Raises:
        FormatError: the index is broken, or names what is not in its files.
    """
    weight_map, total = read_weight_map(path)
    files = sorted(set(weight_map.values()))
    shards = tuple(unchanged_part(path.with_name(file)) for file in files)
    missing = tuple(shard for shard in shards if not is_file(shard))
    notes: list[str] = []
    specs: dict[str, TensorSpec] = {}
    parts: dict[int, PytorchStore] = {}
    for number, shard in enumerate(shards):
        wanted = {name for name, file in weight_map.items() if file == files[number]}
        if shard in missing:
            notes.append(f"{shard.name} is missing: its {len(wanted)} tensors cannot be listed")
            continue
        parts[number] = part = open_pytorch(shard)
        own = {key: spec._replace(shard=number) for key, spec in part.specs.items()}
        specs.update(wanted_specs(own, wanted, shard, path, notes))
        notes.extend(part.notes)
    notes.extend(index_notes(path, INDEX_SUFFIX, files, total, specs, missing))
    is_quantised = any(isinstance(part, StoreOfConstants) for part in parts.values())
    kind = QuantisedPytorchSetStore if is_quantised else PytorchSetStore
    return kind(
        path=path,
        shards=shards,
        missing_shards=missing,
        specs={name: specs[name] for name in weight_map if name in specs},
        notes=tuple(notes),
        parts=parts,
    )
