"""The SavedModel directory: a graph in `saved_model.pb`, its values in a tensor bundle.

    DIR/saved_model.pb                       meta graphs with tags, signatures, ops
    DIR/variables/variables.index, .data-*   the tensor bundle
    DIR/assets/, DIR/assets.extra/           files that the graph reads; files that nobody needs
    DIR/fingerprint.pb, DIR/keras_metadata.pb

Source: tensorflow/core/protobuf/{saved_model,meta_graph}.proto, cc/saved_model/constants.h.  The
message is read for its metadata only; the graph inside stays bytes and nothing is executed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptkit._io.file_states import unchanged
from ckptkit._io.files import file_size, read_exact
from ckptkit._io.places import can_list
from ckptkit.errors import FormatError
from ckptkit.stores.base import (
    BLOCK_ELEMENTS,
    ModelInfo,
    ObjectGraph,
    Signature,
    Structure,
    TensorSpec,
)
from ckptkit.stores.proto.messages import MAX_MESSAGE_BYTES, parse
from ckptkit.stores.reopening import pickled
from ckptkit.stores.saved_model import layers as _saved_model_layers
from ckptkit.stores.saved_model.files import MODEL_FILE, VARIABLES
from ckptkit.stores.saved_model.frozen import GraphConstants, blocks_of
from ckptkit.stores.saved_model.graph import asset_files
from ckptkit.stores.saved_model.signatures import notes_on_tags, signatures_of
from ckptkit.stores.saved_model.variable_uses import variable_uses
from ckptkit.stores.tensor_bundle.files import index_path
from ckptkit.stores.tensor_bundle.reader import TensorBundle, open_bundle

if TYPE_CHECKING:
    from ckptkit.dtypes import Array


@dataclass(frozen=True)
class SavedModel:
    """One SavedModel; made by `open_saved_model`.

    Without variables, the constants of its graph are its tensors.
    """

    path: Path
    bundle: TensorBundle | None
    model_file: Path
    format: str = "saved-model"

    def __reduce__(self) -> tuple[Any, ...]:
        return pickled(open_saved_model, self.path, self.files)

    @property
    def files(self) -> tuple[Path, ...]:
        """See `StoreOfFiles`; the folder of variables tells whether there are any."""
        others = (_saved_model_layers.METADATA_FILE, VARIABLES.parent)
        return (
            self.model_file,
            *(self.path / name for name in others),
            *(self.bundle.files if self.bundle else ()),
        )

    @property
    def style(self) -> str:
        return self.bundle.style if self.bundle else ""

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        return self.bundle.specs if self.bundle else self.constants.specs

    @property
    def shards(self) -> tuple[Path, ...]:
        return self.bundle.shards if self.bundle else (self.model_file,)

    @property
    def missing_shards(self) -> tuple[Path, ...]:
        return self.bundle.missing_shards if self.bundle else ()

    @cached_property
    def structure(self) -> Structure:
        if self.bundle is None:
            return self.constants.structure
        graph = self.bundle.structure
        if not isinstance(graph, ObjectGraph):
            return graph
        return replace(graph, uses=lambda: variable_uses(self._message, self.path / MODEL_FILE))

    @property
    def notes(self) -> tuple[str, ...]:
        return () if self.bundle else (self.constants.summary,)

    @cached_property
    def constants(self) -> GraphConstants:
        """The constants of its graphs, which are its tensors where it has no variables."""
        graphs = (
            parse("GraphDef", meta.graph_def, str(self.path / MODEL_FILE))
            for meta in self._message.meta_graphs
        )
        return GraphConstants(graphs, str(self.path))

    @property
    def producer(self) -> str | None:
        versions = {
            graph.meta_info_def.tensorflow_version for graph in self._message.meta_graphs
        } - {""}
        return f"TensorFlow {', '.join(sorted(versions))}" if versions else None

    @cached_property
    def model(self) -> ModelInfo:
        """Tags, signatures, ops and assets, as `saved_model.pb` lists them."""
        graphs = self._message.meta_graphs
        return ModelInfo(
            tags=tuple(tuple(graph.meta_info_def.tags) for graph in graphs),
            signatures=self._signatures,
            ops=tuple(
                sorted({op.name for g in graphs for op in g.meta_info_def.stripped_op_list.op})
            ),
            assets=tuple(sorted(self._assets())),
            layers=_saved_model_layers.layers(self.path, self._message, self.structure, self.specs),
            notes=notes_on_tags(tuple(tuple(graph.meta_info_def.tags) for graph in graphs)),
        )

    @cached_property
    def _signatures(self) -> tuple[Signature, ...]:
        return tuple(signatures_of(self._message.meta_graphs, str(self.path / MODEL_FILE)))

    @property
    def signatures_by_tags(self) -> dict[frozenset[str], dict[str, Signature]]:
        """The signatures of each graph by key, by the tags of the graph."""
        return {
            frozenset(graph.meta_info_def.tags): {
                signature.key: signature
                for signature in self._signatures
                if signature.tags == tuple(graph.meta_info_def.tags)
            }
            for graph in self._message.meta_graphs
        }

    def _assets(self) -> set[str]:
        """Return the names of the assets of all graphs."""
        where = str(self.path / MODEL_FILE)
        return {
            asset.filename
            for graph in self._message.meta_graphs
            for asset in asset_files(graph, where)
        }

    @cached_property
    def _message(self) -> Any:
        path = self.model_file
        size = file_size(path)
        if size > MAX_MESSAGE_BYTES:
            raise FormatError(str(path), f"{size} bytes are more than a SavedModel may have")
        message = parse("RawSavedModel", read_exact(path, 0, size), str(path))
        if not message.meta_graphs:
            raise FormatError(str(path), "holds no graph", hint="the file is damaged or unfinished")
        return message

    def mappable(self, key: str) -> bool:
        return self.bundle is not None and self.bundle.mappable(key)

    def blocks(self, key: str, max_elements: int = BLOCK_ELEMENTS) -> Iterator[tuple[int, Array]]:
        if self.bundle is not None:
            return self.bundle.blocks(key, max_elements)
        return blocks_of(self.constants, key, max_elements)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Array:
        if self.bundle is not None:
            return self.bundle.read(key, start, stop)
        return self.constants.values(key)[start:stop].copy()


def open_saved_model(path: Path) -> SavedModel:
    """Return the SavedModel in directory `path`; reads the index of its variables, no data file.

    Raises PathNotFoundError without a `saved_model.pb`, and what `open_bundle` raises.
    """
    model_file = unchanged(path / MODEL_FILE)
    file_size(model_file)  # or a path that leads nowhere would be a model of no tensors
    prefix = path / VARIABLES
    # TensorFlow 1 makes an empty folder where there are no variables.
    has_variables = index_path(prefix).is_file() or (
        prefix.parent.is_dir() and any(prefix.parent.iterdir())
    )
    return SavedModel(path, open_bundle(prefix) if has_variables else None, model_file)


_BESIDE = ("fingerprint.pb", "keras_metadata.pb", "saved_model.cpb")
_FILES = ("*.pb", "*.pbtxt", "variables/*", "assets/**/*", "assets.extra/**/*")


def files_of_saved_model(path: Path) -> list[Path]:
    """Return what a SavedModel at the directory `path` is read from."""
    if not can_list(path):
        prefix = path / VARIABLES
        index = index_path(prefix)
        variables = (index, *open_bundle(prefix).shards) if index.is_file() else ()
        model = open_saved_model(path).model
        assets = model.assets if model else ()
        named = (*_BESIDE, *(f"assets/{name}" for name in assets))
        return [path, path / MODEL_FILE, *variables, *(path / name for name in named)]
    return [path, *(file for pattern in _FILES for file in path.glob(pattern))]
