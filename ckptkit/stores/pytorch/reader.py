"""PyTorch files: a zip archive of a pickle and of the bytes of its tensors (`.pt`, `.pth`, `.bin`).

    NAME/data.pkl          what was saved, each storage named by an id (`tensors`)
    NAME/data/KEY          the bytes of one storage, stored, not deflated
    NAME/byteorder         "little" or "big"; files of before torch 2.0 have none: little
    NAME/version           "3"
    NAME/.data/...         what tells this file from others

The pickle is read as data (`pickle_machine`): nothing of it is imported, called or run.  The
archive's CRC-32 is compared at the end of `blocks` where a tensor is all of a storage.
Files of before 1.6 hold the same pickle in another form (`old_form`), without checksums.
`pytorch_model.bin.index.json` names the files of a set, as that of safetensors does.
Source: torch/serialization.py (`_save`, `_load`), caffe2/serialize/inline_container.cc.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptkit._io.files import file_size, read_exact
from ckptkit.dtypes import DTYPES, itemsize, kind, numpy_dtype
from ckptkit.errors import FormatError, UnknownTensorError, UnsupportedError
from ckptkit.stores.base import BLOCK_ELEMENTS, ModelInfo, StoredNames, TensorSpec
from ckptkit.stores.constants import ConstantUse, Quantisation, checked
from ckptkit.stores.containers import zip_archive
from ckptkit.stores.containers.encoded_array import EncodedArray, Encoding
from ckptkit.stores.containers.member_source import SequentialMember, member_source
from ckptkit.stores.pytorch.detection import MAX_MAGIC, PICKLE, is_old_form
from ckptkit.stores.pytorch.numpy_arrays import PickledArray
from ckptkit.stores.pytorch.old_form import read_old_form, read_old_names
from ckptkit.stores.pytorch.pickle_machine import Pickle, read_as_far, read_pickle
from ckptkit.stores.pytorch.tensors import (
    QuantisedBy,
    SavedTensors,
    StridedTensor,
    list_tensors,
    storage_width,
)
from ckptkit.stores.reopening import pickled
from ckptkit.text import lazy_pattern, list_text

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

_BROKEN = 1 << 26  # bytes of a file of before 1.6 that are looked at where it is broken
MAX_PICKLE = 1 << 30  # bytes; a million tensors take 200 MB
_BITS = lazy_pattern(r"[a-z]+(?P<bits>[1-9]\d{0,2})(_[a-z0-9]+?)?(_?x(?P<count>[1-9]))?")
_PACKED = {"quint4x2": 2, "quint2x4": 4}  # elements in a byte; of other dtypes one is whole bytes
_MAX_OVERLAP = 4  # times the bytes of a file that its scales may be, all together
_MAX_REPEATS = 1000  # of a storage's elements by strides of zero, as `expand` makes them


class PytorchPart(NamedTuple):
    """Where one tensor lies: the member of its storage, and which elements of it are its own.

    width: bytes that hold `packing` elements, which is one but for a few dtypes.
    """

    member: zip_archive.Member
    tensor: StridedTensor
    is_contiguous: bool
    width: int
    packing: int = 1


class PytorchArchive(NamedTuple):
    """The members of a file, the folder in it that they lie in, and what its pickle would build.

    is_zip: whether it is an archive, whose members have checksums.  nbytes_behind: of the member
    with the pickle, behind its last opcode.
    """

    members: Mapping[str, zip_archive.Member]
    root: str
    pickle: Pickle
    is_zip: bool = True
    nbytes_behind: int = 0


@dataclass(frozen=True, slots=True)
class PytorchStore:
    """A PyTorch file; made by `open_pytorch`."""

    path: Path
    specs: Mapping[str, TensorSpec]
    structure: StoredNames | None
    notes: tuple[str, ...]
    parts: Mapping[str, PytorchPart]
    arrays: Mapping[str, PickledArray]
    byteorder: str
    is_zip: bool = True

    def __reduce__(self) -> tuple[Any, ...]:
        return pickled(open_pytorch, self.path, self.files)

    @property
    def files(self) -> tuple[Path, ...]:
        """See `StoreOfFiles`."""
        return (self.path,)

    @property
    def format(self) -> str:
        return "pytorch" if self.is_zip else "pytorch-old"

    @property
    def style(self) -> str:
        return ""

    @property
    def producer(self) -> str | None:
        return "PyTorch"

    @property
    def shards(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def missing_shards(self) -> tuple[Path, ...]:
        return ()

    @property
    def model(self) -> ModelInfo | None:
        return None

    def blocks(self, key: str, max_elements: int = BLOCK_ELEMENTS) -> Iterator[tuple[int, Array]]:
        """Yield (start, values) over the tensor; see `Store.blocks`."""
        if key in self.arrays:
            whole = self.arrays[key].values()
            for start in range(0, len(whole), max_elements):
                yield start, whole[start : start + max_elements]
            return
        spec, part = self._found(key)
        if not spec.size:
            return
        if not part.is_contiguous:
            elements = self._strided(spec, part).flat
            for start in range(0, spec.size, max_elements):
                values = elements[start : min(spec.size, start + max_elements)]
                yield start * (1 if spec.dtype in DTYPES else part.width), _as_meant(values, part)
            return
        for start, values in self._compared(spec, part, max_elements):
            yield start, _as_meant(values, part)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Array:
        """Return elements [start, stop); see `Store.read`."""
        if key in self.arrays:
            return self.arrays[key].values()[start:stop]
        spec, part = self._found(key)
        start, stop, _ = slice(start, stop).indices(spec.size)
        if part.is_contiguous or not spec.size:
            values = self._encoded(spec, part, None).read(start, max(start, stop))
        else:
            if spec.dtype not in DTYPES:
                self._encoded(spec, part, None).read(start, max(start, stop))  # which is refused
            values = self._strided(spec, part).flat[start : max(start, stop)]
        return _as_meant(values, part)

    def mappable(self, key: str) -> bool:
        """Whether the stored bytes are the values in native order."""
        if key in self.arrays:  # their bytes lie between the pickle's own
            return False
        spec, part = self._found(key)
        native = self.byteorder == sys.byteorder or itemsize(spec.dtype) == 1
        turned = part.tensor.is_conjugated or part.tensor.is_negated
        return spec.offset is not None and native and not turned

    def _found(self, key: str) -> tuple[TensorSpec, PytorchPart]:
        try:
            return self.specs[key], self.parts[key]
        except KeyError:
            raise UnknownTensorError(f"no tensor {key!r}", where=str(self.path)) from None

    def _encoded(
        self, spec: TensorSpec, part: PytorchPart, source: SequentialMember | None
    ) -> EncodedArray:
        """Return a contiguous tensor's values; its elements lie one behind the other."""
        return EncodedArray(
            source or member_source(self.path, part.member),
            part.tensor.offset * part.width // part.packing,
            spec.nbytes,
            spec.dtype,
            spec.size,
            Encoding("plain" if spec.dtype in DTYPES else "raw", self.byteorder),
            f"{self.path}:{spec.key}",
        )

    def _compared(
        self, spec: TensorSpec, part: PytorchPart, max_elements: int
    ) -> Iterator[tuple[int, Array]]:
        """Yield (start, values) of a contiguous tensor as they are stored.

        Raises ChecksumError at the end, where it is all of its storage and its CRC-32 is another.
        """
        source = None
        if spec.nbytes == part.member.nbytes and self.is_zip:
            source = SequentialMember(self.path, part.member, 0)
        yield from self._encoded(spec, part, source).blocks(max_elements)
        if source is not None:
            source.finish()

    def _strided(self, spec: TensorSpec, part: PytorchPart) -> Array:
        """Return a tensor over the bytes between its first and its last element, all read.

        Elements are bytes without a meaning (`V4`), since numpy strides over no other dtype's.
        """
        import numpy as np

        tensor, width = part.tensor, part.width
        count = _reach(tensor)
        if spec.size > _MAX_REPEATS * count:
            raise UnsupportedError(
                f"a tensor of {spec.size:,} elements that are {count:,} over and over",
                where=f"{self.path}:{spec.key}",
                hint="save a copy of it: `tensor.clone()`",
            )
        span = spec._replace(shape=(count,), nbytes=count * width)
        blocks = [values for _, values in self._encoded(span, part, None).blocks(count * width)]
        strides = tuple(step * width for step in tensor.stride)
        try:
            return np.lib.stride_tricks.as_strided(
                blocks[0].view(f"V{width}"), tensor.shape, strides, writeable=False
            )
        except ValueError as error:
            raise UnsupportedError(
                f"numpy has no array of that shape: {error}", where=f"{self.path}:{spec.key}"
            ) from None


@dataclass(frozen=True, slots=True)
class QuantisedPytorchStore(PytorchStore):
    """A PyTorch file with tensors whose integers stand for numbers; made by `open_pytorch`.

    quantised: how they do, by key.  members: of the storages of scales and zero points.
    """

    quantised: Mapping[str, QuantisedBy] = field(default_factory=dict)
    members: Mapping[str, zip_archive.Member] = field(default_factory=dict)

    def quantisations(self) -> dict[str, Quantisation]:
        """Return what the integers of tensors stand for; see `StoreOfConstants`."""
        import numpy as np

        found: dict[str, Quantisation] = {}
        known: dict[StridedTensor, Array] = {}
        left = _MAX_OVERLAP * file_size(self.path) + 4096
        for member in self.members.values():  # scales may be a part of a storage
            if self.is_zip and member.method == zip_archive.STORED:
                crc = zip_archive.crc32_of_stored(self.path, member, 0, member.nbytes)
                zip_archive.check_crc32(self.path, member, crc)
        for key, (scale, zero, axis) in self.quantised.items():
            if kind(self.specs[key].dtype) not in ("int", "uint"):
                continue
            for value in (scale, zero):
                if isinstance(value, StridedTensor) and value not in known:
                    known[value] = self._numbers(key, value)
                    left -= known[value].nbytes
                    if left < 0:
                        raise FormatError(
                            f"{self.path}:{key}", "scales that are the same bytes over and over"
                        )
            zeros = known[zero] if isinstance(zero, StridedTensor) else np.array([zero])
            if isinstance(scale, StridedTensor):
                scales = known[scale].astype(np.float64, copy=False)
            else:  # torch multiplies by a float32 then
                with np.errstate(over="ignore"):
                    scales = np.array([scale]).astype(np.float32).astype(np.float64)
            found[key] = checked(Quantisation(scales, zeros, axis), self.specs[key], str(self.path))
        return found

    def uses(self) -> dict[str, ConstantUse]:
        """Return nothing: the names are those of a model; see `StoreOfConstants`."""
        return {}

    def _numbers(self, key: str, value: StridedTensor) -> Array:
        """Return the scales or zero points of a tensor, 1-D.

        Raises:
            FormatError: they are no numbers, or more than any axis is long.
        """
        import numpy as np

        member = self.members.get(value.storage.key)
        spec, part = _checked(self.path, key, value, member)
        if kind(spec.dtype) not in ("float", "int", "uint"):
            raise FormatError(f"{self.path}:{key}", f"a quantisation by values of {spec.dtype}")
        most = max(1, *self.specs[key].shape)
        if spec.size > most:  # before they are read
            raise FormatError(
                f"{self.path}:{key}",
                "a quantisation that does not fit the tensor",
                expected=f"at most {most:,} scales",
                found=f"{spec.size:,}",
            )
        if spec.size and not part.is_contiguous:
            return _as_meant(self._strided(spec, part).flat[:], part)
        blocks = list(self._encoded(spec, part, None).blocks(max(1, spec.size)))
        return _as_meant(blocks[0][1], part) if blocks else np.zeros(0)


def _as_meant(values: Array, part: PytorchPart) -> Array:
    """Return values with the bits carried out that torch leaves for later.

    values: of the tensor's dtype, or bytes without a meaning.  Raises UnsupportedError where their
    dtype is not known.
    """
    tensor = part.tensor
    if values.dtype.kind == "V":
        known = tensor.dtype in DTYPES
        values = values.view(numpy_dtype(tensor.dtype) if known else "u1")
    if tensor.dtype not in DTYPES and (tensor.is_conjugated or tensor.is_negated):
        raise UnsupportedError(f"dtype {tensor.dtype} has no array form")
    if tensor.is_conjugated:
        values = values.conj()
    return -values if tensor.is_negated else values


def _reach(tensor: StridedTensor) -> int:
    """Return how many elements of a storage lie between a tensor's first and last, both counted."""
    if not math.prod(tensor.shape):
        return 0
    return 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride, strict=True))


def open_pytorch(path: Path) -> PytorchStore:
    """Return the store of a PyTorch file; reads the archive's directory and the pickle.

    Args:
        path: of the file.

    Raises:
        FormatError: the archive, the pickle, or a tensor's description is broken.
        TruncatedError: the file or the pickle ends early.
        ChecksumError: the pickle's CRC-32 is another.
        UnsupportedError: a TorchScript program, or a dtype that is not known.
    """
    return store_of(path, read_archive(path))


def store_of(path: Path, archive: PytorchArchive) -> PytorchStore:
    """Return the store of an archive that was read; raises as `open_pytorch` does."""
    members, root, pickle, is_zip, _ = archive
    listing = list_tensors(pickle.value, f"{path}:{root}{PICKLE}")
    order = members.get(f"{root}byteorder")
    byteorder = "little"
    if order is not None:
        byteorder = zip_archive.read_member(path, order, 16).decode("latin-1")
    if byteorder not in ("little", "big"):
        raise FormatError(
            f"{path}:{root}byteorder",
            "a byte order",
            expected="little or big",
            found=repr(byteorder),
        )
    specs: dict[str, TensorSpec] = {}
    parts: dict[str, PytorchPart] = {}
    for name, tensor in listing.tensors.items():
        member = members.get(f"{root}data/{tensor.storage.key}")
        specs[name], parts[name] = _checked(path, name, tensor, member)
    for name, array in listing.arrays.items():
        specs[name] = TensorSpec(name, array.dtype, array.shape, len(array.data), 0)
    store = PytorchStore(
        path=path,
        specs=specs,
        structure=_names(specs, listing),
        notes=(*listing.notes, *_shared(parts)),
        parts=parts,
        arrays=listing.arrays,
        byteorder=byteorder,
        is_zip=is_zip,
    )
    if not listing.quantised:
        return store
    values = {each.name: getattr(store, each.name) for each in fields(store)}
    of_scales = {
        tensor.storage.key: members[f"{root}data/{tensor.storage.key}"]
        for each in listing.quantised.values()
        for tensor in each[:2]
        if isinstance(tensor, StridedTensor) and f"{root}data/{tensor.storage.key}" in members
    }
    return QuantisedPytorchStore(**values, quantised=listing.quantised, members=of_scales)


def read_archive(path: Path) -> PytorchArchive:
    """Return what a PyTorch file is made of; raises as `open_pytorch` does."""
    if is_old_form(read_exact(path, 0, min(MAX_MAGIC, file_size(path)))):
        pickle, storages = read_old_form(path)
        members = {f"data/{key}": member for key, member in storages.items()}
        return PytorchArchive(members, "", pickle, is_zip=False)
    members = zip_archive.read_directory(path)
    root = _root_of(members, path)
    data = zip_archive.read_member(path, members[f"{root}{PICKLE}"], MAX_PICKLE)
    pickle = read_pickle(data, f"{path}:{root}{PICKLE}")
    return PytorchArchive(members, root, pickle, nbytes_behind=len(data) - pickle.end)


def names_as_far(path: Path) -> Pickle:
    """Return what the pickle of a file that cannot be read names and calls before it breaks off.

    Raises what keeps even that from being found: the archive is damaged, or has no such pickle.
    """
    if is_old_form(read_exact(path, 0, min(MAX_MAGIC, file_size(path)))):
        return read_old_names(read_exact(path, 0, min(file_size(path), _BROKEN)), str(path))
    members = zip_archive.read_directory(path)
    name = f"{_root_of(members, path)}{PICKLE}"
    data = zip_archive.read_member(path, members[name], MAX_PICKLE)
    return read_as_far(data, f"{path}:{name}")[0]


def _root_of(members: Mapping[str, zip_archive.Member], path: Path) -> str:
    """Return the folder of an archive that a PyTorch file is in, "archive/"; raises."""
    roots = [name.removesuffix(PICKLE) for name in members if PurePosixPath(name).name == PICKLE]
    roots = [root for root in roots if root.count("/") <= 1]
    if len(roots) != 1:
        raise FormatError(str(path), f"an archive with {len(roots)} members {PICKLE}")
    if any(name.startswith(f"{roots[0]}code/") for name in members):
        raise UnsupportedError(
            "a TorchScript program, whose tensors are not read",
            where=str(path),
            hint="`torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt')` keeps its weights",
        )
    return roots[0]


def _checked(
    path: Path, name: str, tensor: StridedTensor, member: zip_archive.Member | None
) -> tuple[TensorSpec, PytorchPart]:
    """Return spec and part of one tensor, its elements compared with the bytes of its storage."""
    where = f"{path}:{name}"
    if member is None:
        raise FormatError(where, f"its bytes (data/{tensor.storage.key}) are not in the archive")
    width = itemsize(tensor.dtype) or _width_of_unknown(tensor.dtype)
    if not width:
        raise UnsupportedError(f"dtype {tensor.dtype!r} is not known", where=where)
    count = _PACKED.get(tensor.dtype, 1)
    claimed = tensor.storage.length * storage_width(tensor.storage)
    if claimed != member.nbytes:
        raise FormatError(where, "bytes of its storage", expected=claimed, found=member.nbytes)
    end = -(-(tensor.offset + _reach(tensor)) * width // count)
    if end > member.nbytes:
        raise FormatError(
            where, "its elements reach past its storage", expected=member.nbytes, found=end
        )
    size = math.prod(tensor.shape)
    nbytes = -(-size * width // count)
    if nbytes >= 1 << 62:
        raise FormatError(where, f"a tensor of {size:,} elements")
    contiguous = _is_contiguous(tensor)
    if count > 1 and (tensor.offset % count or not contiguous):
        raise UnsupportedError(f"a part of a tensor of {tensor.dtype}", where=where)
    offset = None
    if contiguous and member.method == zip_archive.STORED and tensor.dtype in DTYPES:
        offset = member.offset + tensor.offset * width
    spec = TensorSpec(name, tensor.dtype, tensor.shape, nbytes, 0, offset)
    return spec, PytorchPart(member, tensor, contiguous, width, count)


def _width_of_unknown(dtype: str) -> int:
    """Return the bytes of an element of a dtype that we have no values of; 0 where none tells.

    torch's names have the bits of a number, and how many of them are one element: complex32,
    bits2x4, float4_e2m1fn_x2.  Source: c10/core/ScalarType.h.
    """
    found = _BITS.fullmatch(dtype)
    if found is None:
        return 0
    bits = int(found["bits"]) * int(found["count"] or 1)
    return 1 if bits < 8 else 0 if bits % 8 else bits // 8


def _is_contiguous(tensor: StridedTensor) -> bool:
    """Whether elements lie in row-major order; of an axis of one element no stride is asked."""
    expected = 1
    for length, step in zip(reversed(tensor.shape), reversed(tensor.stride), strict=True):
        if length == 0:
            return True
        if length > 1 and step != expected:
            return False
        expected *= length
    return True


def _names(specs: Mapping[str, TensorSpec], listing: SavedTensors) -> StoredNames | None:
    """Return names, and the roles of what optimizers keep; the others tell theirs by themselves."""
    names: dict[str, tuple[str, str, str | None]] = {}
    for key, name in listing.names.items():
        names[key] = (name, "", None)
    for key in listing.beside:
        is_counter = specs[key].dtype.startswith(("int", "uint")) and not specs[key].shape
        names[key] = (key, "counter" if is_counter else "config", None)
    for key, (parameter, slot) in listing.slots.items():
        spec = specs.get(key)
        if spec is None:
            continue
        role = "slot" if spec.shape or spec.size > 1 else "counter"
        if parameter and role == "slot":
            names[key] = (f"{parameter}@{slot}", role, parameter)
        else:
            names[key] = (key, role, None)
    return StoredNames(names) if names else None


def _shared(parts: Mapping[str, PytorchPart]) -> Iterator[str]:
    """Yield a note on tensors that are the same elements of the same storage."""
    by_place: dict[tuple[Any, ...], list[str]] = {}
    for name, part in parts.items():
        tensor = part.tensor
        if math.prod(tensor.shape):
            place = (tensor.storage.key, *tensor[1:])
            by_place.setdefault(place, []).append(name)
    for names in by_place.values():
        if len(names) > 1:
            yield f"{list_text(names)} are one tensor"
