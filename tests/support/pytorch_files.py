"""PyTorch files without torch: what `torch.save` of a dict of tensors writes."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_CLASSES = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "int64": "LongStorage",
    "qint8": "QInt8Storage",
    "quint4x2": "QUInt4x2Storage",
    "complex64": "ComplexFloatStorage",
    "": "UntypedStorage",
}


class Storage:
    """What the pickle names by a persistent id: ("storage", class, key, device, elements)."""

    def __init__(self, key: str, length: int, dtype: str = "float32") -> None:
        self.key, self.length, self.dtype = key, length, dtype


class Tensor:
    """A call of `torch._utils._rebuild_tensor_v2`."""

    def __init__(self, storage: Storage, offset: Any, size: Any, stride: Any) -> None:
        self.arguments: tuple[Any, ...] = storage, offset, size, stride, False, OrderedDict()

    def __reduce__(self) -> Any:
        return _rebuild, self.arguments


def _rebuild() -> None: ...


class TensorOfBytes(Tensor):
    """A call of `torch._utils._rebuild_tensor_v3`, of newer dtypes; its storage has no dtype."""

    def __init__(
        self, storage: Storage, size: Any, stride: Any, dtype: str, offset: int = 0
    ) -> None:
        super().__init__(storage, offset, size, stride)
        self.arguments = *self.arguments, _Global("torch", dtype)

    def __reduce__(self) -> Any:
        return _rebuild_of_bytes, self.arguments


def _rebuild_of_bytes() -> None: ...


class QuantisedTensor(Tensor):
    """A call of `torch._utils._rebuild_qtensor`; how: scheme, scale(s), zero point(s)[, axis]."""

    def __init__(self, storage: Storage, size: Any, how: tuple[Any, ...], stride: Any) -> None:
        arguments = storage, 0, size, stride, (_Global("torch", how[0]), *how[1:])
        self.arguments = *arguments, False, OrderedDict()

    def __reduce__(self) -> Any:
        return _rebuild_quantised, self.arguments


def _rebuild_quantised() -> None: ...


class _Global:
    def __init__(self, module: str, name: str) -> None:
        self.text = f"c{module}\n{name}\n".encode()


_PythonPickler: Any = pickle._Pickler  # which a name can be given to


class _Pickler(_PythonPickler):  # type: ignore[misc]
    def save(self, obj: Any, save_persistent_id: bool = True) -> Any:
        if obj is _rebuild:
            obj = _Global("torch._utils", "_rebuild_tensor_v2")
        elif obj is _rebuild_of_bytes:
            obj = _Global("torch._utils", "_rebuild_tensor_v3")
        elif obj is _rebuild_quantised:
            obj = _Global("torch._utils", "_rebuild_qtensor")
        if isinstance(obj, _Global):
            self.write(obj.text)
            return None
        return super().save(obj, save_persistent_id)

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, Storage):
            return None
        kind = _Global("torch", _CLASSES[obj.dtype])
        return ("storage", kind, obj.key, "cpu", obj.length)


def write_archive(path: Path, value: Any, data: Mapping[str, bytes]) -> Path:
    """Write an archive of a pickle, and the bytes of each storage by its key."""
    buffer = io.BytesIO()
    _Pickler(buffer, 2).dump(value)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", buffer.getvalue())
        archive.writestr("archive/version", "3\n")
        for key, content in data.items():
            archive.writestr(f"archive/data/{key}", content)
    return path


def write_pytorch(path: Path, tensors: Mapping[str, np.ndarray[Any, Any]]) -> Path:
    """Write tensors by name, each with a storage of its own."""
    value, data = {}, {}
    for number, (name, array) in enumerate(tensors.items()):
        storage = Storage(str(number), array.size, str(array.dtype))
        strides = tuple(step // array.itemsize for step in array.strides)
        value[name] = Tensor(storage, 0, array.shape, strides)
        data[str(number)] = array.tobytes()
    return write_archive(path, value, data)
