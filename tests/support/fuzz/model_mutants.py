"""Mutants of PyTorch, ONNX and LiteRT files, and the libraries that judge what is read of them."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ckptkit
from ckptkit.errors import CkptkitError
from ckptkit.stores.base import Store
from ckptkit.stores.constants import StoreOfConstants
from support.fuzz import mutators
from support.fuzz.mutators import noise
from support.places import ROOT

FIXTURES = ROOT / "fixtures"
PYTORCH = sorted(
    path
    for path in FIXTURES.glob("pytorch/torch*/*")
    if path.suffix in (".pt", ".pth", ".bin") and path.stem not in ("script", "module")
)
ONNX = sorted((*FIXTURES.glob("onnx/onnx*/*.onnx"), *FIXTURES.glob("deployed/*/*.onnx")))
LITERT = sorted((*FIXTURES.glob("litert/tf*/*.tflite"), *FIXTURES.glob("deployed/*/*.tflite")))


def pytorch(directory: Path, rng: random.Random) -> Path:
    """Damage a PyTorch file: most of the time its pickle, below checksums that hold.

    An archive's own bytes are left alone: torch gives memory that nobody wrote where they
    contradict one another.
    """
    source = rng.choice(PYTORCH)
    data = source.read_bytes()
    path = directory / source.name
    if not zipfile.is_zipfile(source):
        path.write_bytes(noise(data, rng))
        return path
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    pickles = [name for name in members if name.endswith("data.pkl")]
    name = rng.choice(pickles * 6 + list(members))
    members[name] = noise(members[name], rng)
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return path


def of(files: list[Path]) -> Callable[[Path, random.Random], Path]:
    """Return what damages one of some files anywhere."""

    def write(directory: Path, rng: random.Random) -> Path:
        source = rng.choice(files)
        path = directory / source.name
        path.write_bytes(mutators.plain(source.read_bytes(), rng))
        return path

    return write


def read_model(path: Path) -> None:
    """List a model, read its tensors, and ask what its constants are."""
    store = ckptkit.open(path).store
    if isinstance(store, StoreOfConstants):
        store.uses()
        store.quantisations()
    for key in store.specs:
        store.read(key)


# --- judges ---------------------------------------------------------------------------------------


def _same(store: Store, key: str, theirs: Any) -> None:
    spec = store.specs[key]
    assert tuple(theirs.shape) == spec.shape, key
    assert theirs.tobytes() == store.read(key).tobytes(), key


def beside_torch(path: Path) -> None:
    """Whatever torch reads too has the same names and values there."""
    import torch

    store = ckptkit.open(path).store
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        raise CkptkitError("torch does not read it", where=str(path)) from None
    for name, tensor in _tensors(value, ()):
        if tensor.layout is torch.strided and not tensor.is_quantized and name in store.specs:
            plain = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
            assert tuple(tensor.shape) == store.specs[name].shape, name
            data = plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b""
            assert data == store.read(name).tobytes(), name


def _tensors(value: Any, path: tuple[str, ...]) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        yield ".".join(path) or "tensor", value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _tensors(inner, (*path, str(key)))
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _tensors(inner, (*path, str(index)))


def beside_onnx(path: Path) -> None:
    """Whatever onnx reads too has the same initializers there."""
    import onnx
    from google.protobuf.message import DecodeError
    from onnx import numpy_helper

    store = ckptkit.open(path).store
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except DecodeError:
        raise CkptkitError("onnx does not read it", where=str(path)) from None
    names = [tensor.name for tensor in graph.initializer]
    for tensor in graph.initializer:
        if names.count(tensor.name) > 1 or tensor.name not in store.specs or tensor.external_data:
            continue
        spec = store.specs[tensor.name]
        if spec.dtype == "string" or "4" in spec.dtype or spec.dtype.endswith("int2"):
            continue  # which onnx gives unpacked, some as text
        try:
            theirs = numpy_helper.to_array(tensor)
        except Exception:
            continue
        _same(store, tensor.name, theirs)
