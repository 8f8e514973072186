"""What every format gives to the rest of the package: specs, a structure, and blocks of values.

A store is a small frozen value.  Making one reads headers; bytes of tensors are read only by
`blocks` and `read`, which open files through a small cache of handles (`ckptkit._io.files`), so a
store can be pickled to a worker.  Keys are those of the file, exact; readable names are made by
`ckptkit.checkpoint.names`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from ckptkit.errors import UnsupportedError

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

# What a tensor is for; given to it by `ckptkit.checkpoint.names`, kept by formats with metadata.
ROLES = ("weight", "slot", "ema", "counter", "metric", "table", "config", "other")
BLOCK_ELEMENTS = 1 << 20  # default span of `blocks`: 4 MiB of float32


class Slice(NamedTuple):
    """One stored rectangle of a partitioned tensor; `start` and `shape` have one item per axis."""

    start: tuple[int, ...]
    shape: tuple[int, ...]
    shard: int
    offset: int
    nbytes: int
    crc32c: int | None


class TensorSpec(NamedTuple):
    """What the file says of one tensor, and where its bytes lie; nothing open, nothing lazy.

    key: the file's own name of the tensor.  dtype: see `ckptkit.dtypes`.  shape: elements per axis.
    nbytes: bytes stored.  shard: index into `Store.shards`.  offset: bytes from the shard's start,
    None where the values are not one run of bytes (compressed, chunked or sliced).
    crc32c: of the stored bytes, unmasked; None where the format keeps none.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    shard: int | None = None
    offset: int | None = None
    crc32c: int | None = None
    slices: tuple[Slice, ...] = ()

    @property
    def size(self) -> int:
        """Number of elements: 1 for a scalar, 0 when any axis is empty."""
        return math.prod(self.shape)


class Signature(NamedTuple):
    """One SignatureDef: its key and, per input and output, (name, dtype, shape; None = unknown).

    A dtype is "sparse float32" or "ragged int64" where that is no dense tensor.  tags: those of the
    MetaGraph that it belongs to.  defaults: (name, values as text) of the inputs that a caller may
    leave out.
    """

    key: str
    inputs: tuple[tuple[str, str, tuple[int | None, ...] | None], ...]
    outputs: tuple[tuple[str, str, tuple[int | None, ...] | None], ...]
    method_name: str = ""
    tags: tuple[str, ...] = ()
    defaults: tuple[tuple[str, str], ...] = ()


class ModelLayer(NamedTuple):
    """One layer of a Keras model, as its config or metadata tells it."""

    name: str
    class_name: str
    output_shape: tuple[int | None, ...] | None
    params: int | None
    flag: str = ""  # "custom" | "unsafe: …" | ""


class ModelInfo(NamedTuple):
    """What a file holds beside its tensors: a graph or an architecture."""

    tags: tuple[tuple[str, ...], ...] = ()
    signatures: tuple[Signature, ...] = ()
    ops: tuple[str, ...] = ()
    assets: tuple[str, ...] = ()
    layers: tuple[ModelLayer, ...] = ()
    notes: tuple[str, ...] = ()


class Node(NamedTuple):
    """One object of a TrackableObjectGraph.

    children: (edge name, node id).  attributes: (attribute name, full name, checkpoint key).
    slots: (node id of the original variable, slot name, node id of the slot variable).
    """

    children: tuple[tuple[str, int], ...]
    attributes: tuple[tuple[str, str, str], ...]
    slots: tuple[tuple[int, str, int], ...]


class VariableUse(NamedTuple):
    """What a SavedModel's graph says of a variable: the names of the ops that take it."""

    trainable: bool
    ops: tuple[str, ...]


def _no_uses() -> Mapping[int, VariableUse]:
    return {}


@dataclass(frozen=True, slots=True)
class ObjectGraph:
    """The object graph that a TF2 checkpoint carries; node 0 is the root.

    uses: gives, by node, how the functions of a SavedModel use its variables; reads them first.
    """

    nodes: Sequence[Node]
    uses: Callable[[], Mapping[int, VariableUse]] = field(
        default=_no_uses, compare=False, repr=False
    )


class KerasVariable(NamedTuple):
    """What a Keras file (or its config) says of one tensor.

    layers: name scopes of the variable, outermost first, as Keras puts them before its name.
    name: the variable's own name, None where nothing tells it.  aliases: other paths to it.
    optimizer: for optimizer state the optimizer's name; slot and slot_of as far as known.
    duplicate_of: key of the tensor that this one repeats (a wrapper stores its layer's too).
    """

    layers: tuple[str, ...]
    name: str | None
    aliases: tuple[str, ...] = ()
    role: str = "weight"
    optimizer: str | None = None
    slot: str | None = None
    slot_of: str | None = None  # key of the variable that the slot belongs to
    duplicate_of: str | None = None


class KerasStructure(NamedTuple):
    """Names and roles by key, read from a Keras file's groups, attributes and config.

    layers: paths of the groups that stand for one object each, not for a list or dict of objects.
    order: (key, whether it is trainable, None where that is not known) of the model's weights in
    the order of `Model.weights`; empty where the file does not tell it.
    written: keys in the order in which they were written, each file of a set for itself; Keras goes
    through a list of layers in its order.
    is_nameless: layers are called by their groups (`dense_1`: the second Dense of a list), since
    nothing in the file has their names.
    """

    variables: Mapping[str, KerasVariable]
    layers: frozenset[str] = frozenset()
    order: tuple[tuple[str, bool | None], ...] = ()
    written: tuple[str, ...] = ()
    is_nameless: bool = False


@dataclass(frozen=True, slots=True)
class StoredNames:
    """Names that stand in a file of names and values: key -> (name, role, slot_of).

    ckptkit writes them into a neutral file's metadata.  A role "" is told by the names.
    `slot_of` is the readable name of the variable that a slot belongs to.
    checkpoint_keys: key -> the tensor's key in the tensor bundle that it came from, if from one.
    inferred: keys whose roles were told by evidence, and not by a word for them.
    """

    names: Mapping[str, tuple[str, str, str | None]]
    checkpoint_keys: Mapping[str, str] = field(default_factory=dict)
    inferred: frozenset[str] = frozenset()


Structure = ObjectGraph | KerasStructure | StoredNames | None


def shaped(values: Array, shape: tuple[int, ...], where: str) -> Array:
    """Return 1-D values in their shape.

    Raises UnsupportedError for what numpy cannot hold: more than 64 axes (32 before numpy 2), or an
    empty tensor one of whose axes is longer than memory.
    """
    try:
        return values.reshape(shape)
    except (ValueError, OverflowError) as error:
        raise UnsupportedError(
            f"numpy has no array of that shape: {error}",
            where=where,
            hint="its elements can be read with `blocks`",
        ) from None


@runtime_checkable
class StoreOfChunks(Protocol):
    """A store of tensors in chunks, whose specs say which file has the first, and not where."""

    def begins_at(self, key: str) -> int:
        """Return where a tensor begins.

        Args:
            key: of the tensor.

        Returns:
            The byte of its file at which its first chunk begins; 0 where it has none in a file.
        """


@runtime_checkable
class StoreOfParts(Protocol):
    """A store that makes its values of those of other stores."""

    def made_of(self, key: str) -> Sequence[tuple[Store, str]]:
        """Return what the values of a tensor are made of.

        Args:
            key: of the tensor.

        Returns:
            Stores, which may be of parts themselves, and the key in each; none where the values are
            in no file.
        """


class Store(Protocol):
    """A set of tensors in a file or files of one format."""

    @property
    def format(self) -> str:
        """The name of the format's row, such as "npz" (`ckptkit.stores.registry.FORMATS`)."""

    @property
    def style(self) -> str:
        """ "object-based" or "name-based" for TensorFlow checkpoints, else ""."""

    @property
    def path(self) -> Path:
        """What to show for it: the file, the directory, or the prefix of a checkpoint."""

    @property
    def shards(self) -> tuple[Path, ...]:
        """Its data files, in order; `TensorSpec.shard` is an index into them."""

    @property
    def missing_shards(self) -> tuple[Path, ...]:
        """Those of `shards` that are not there."""

    @property
    def producer(self) -> str | None:
        """What wrote it, as far as the file says; None where it does not."""

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """What the file says of each tensor, by the file's own key, in the order of the file."""

    @property
    def structure(self) -> Structure:
        """What the file says of names: an object graph, a Keras structure, names, or nothing."""

    @property
    def model(self) -> ModelInfo | None:
        """The graph or architecture that lies beside the tensors; None for tensors alone."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Things a user should know of how the file was found or read, one sentence each."""

    def blocks(self, key: str, max_elements: int = BLOCK_ELEMENTS) -> Iterator[tuple[int, Array]]:
        """Yield the values of a tensor, in order, a block at a time.

        The stored checksum, where there is one, is compared after the last block.

        Args:
            key: of `specs`.
            max_elements: the most elements of a block; a store may give fewer.

        Yields:
            (start, values) over the whole tensor: 1-D, row-major, native byte order.  An array may
            share a buffer that the next step overwrites.  Strings come as object arrays of bytes;
            opaque tensors as the stored bytes (uint8).  An empty tensor yields nothing.

        Raises:
            TruncatedError: the file ends before the values do.
            ChecksumError: the bytes are not those that were written.
            FormatError: they break the format.
            UnsupportedError: they are stored in a way that is not read.
        """

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Array:
        """Return a run of a tensor's elements as a new array; no checksum is compared.

        Args:
            key: of `specs`.
            start: the first element, in row-major order.
            stop: the element after the last; None for all to the end.

        Returns:
            Elements [start, stop): 1-D, native byte order.

        Raises:
            TruncatedError: the file ends before the values do.
            FormatError: the bytes break the format.
            UnsupportedError: opaque dtypes, and values stored in a way that is not read.
        """

    def mappable(self, key: str) -> bool:
        """Say whether the file's bytes are the values, so that the mapped file can be handed out.

        Args:
            key: of `specs`.

        Returns:
            Whether bytes [offset, offset + nbytes) of the shard are the values in native order.
        """
