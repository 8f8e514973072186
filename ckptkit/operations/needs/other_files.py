"""What LiteRT and ONNX models, files of PyTorch and Orbax, and plain archives of arrays need."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from ckptkit._io.files import file_size, read_exact
from ckptkit.errors import FormatError
from ckptkit.operations.needs.environment import Environment
from ckptkit.operations.needs.graphs import op_need
from ckptkit.operations.needs.types import Fact, Need, OpeningCall
from ckptkit.operations.scan.litert import custom_ops
from ckptkit.operations.scan.onnx import KNOWN_DOMAINS
from ckptkit.operations.scan.pytorch import unsafe_names
from ckptkit.text import list_text

_FLEX = "Flex"
_OF_ORBAX = ("orbax-checkpoint", "jax")
_MAX_BYTES = 1 << 31


def litert(path: Path, environment: Environment) -> tuple[list[Fact], list[OpeningCall]]:
    """Return what a LiteRT model says of itself, and what runs it; raises FormatError."""
    customs = custom_ops(path)
    flex = [name for name in customs if name.startswith(_FLEX)]
    others = [
        Need(
            "op",
            name,
            "a custom op, whose code is not in the file",
            where=path.name,
            hint="give the interpreter the library that registers it",
        )
        for name in customs
        if name not in flex
    ]
    facts = [Fact("holds", "a LiteRT model", "TFL3")]
    if flex:
        facts.append(Fact("ops of TensorFlow", ", ".join(flex), "operator codes"))
    tensorflow = environment.version("tensorflow")
    judged = (
        op_need(name.removeprefix(_FLEX), tensorflow, path.name, environment) for name in flex
    )
    found = [need for need in judged if need is not None]
    with_flex = (environment.need("tensorflow", "", "its interpreter runs ops of TensorFlow"),)
    loaders = [
        OpeningCall(
            "tf.lite.Interpreter(model_path=PATH)", "an interpreter", (*with_flex, *found, *others)
        )
    ]
    if not flex:
        need = environment.need("ai-edge-litert", "", "has the interpreter")
        call = "ai_edge_litert.interpreter.Interpreter(model_path=PATH)"
        loaders.insert(0, OpeningCall(call, "an interpreter", (need, *others)))
    return facts, loaders


def onnx(path: Path, environment: Environment) -> tuple[list[Fact], list[OpeningCall]]:
    """Return the same of an ONNX model (onnx/onnx.proto: ModelProto); raises FormatError."""
    size = file_size(path)
    if size > _MAX_BYTES:
        raise FormatError(str(path), "is too large for an ONNX model", found=f"{size} bytes")
    fields = list(_fields(read_exact(path, 0, size), str(path)))
    texts = {
        number: value.decode("utf-8", "replace") for number, value in fields if _is_text(number)
    }
    facts = []
    if producer := texts.get(2):
        facts.append(Fact("written by", f"{producer} {texts.get(3, '')}".strip(), "producer_name"))
    domains = []
    for number, value in fields:
        if number == 8:
            inner = dict(_fields(value, str(path), plain=True))
            domain = inner.get(1, b"")
            domains.append(domain.decode("utf-8", "replace"))
            version = int.from_bytes(inner.get(2, b""), "little")
            facts.append(Fact("operators", f"{domains[-1] or 'ai.onnx'} {version}", "opset_import"))
    needs = [
        Need(
            "op",
            domain,
            "operators that onnxruntime does not have",
            where="opset_import",
            hint="register the library that has them (SessionOptions.register_custom_ops_library)",
        )
        for domain in domains
        if domain not in KNOWN_DOMAINS
    ]
    need = environment.need("onnxruntime", "", "runs ONNX models")
    return facts, [OpeningCall("onnxruntime.InferenceSession(PATH)", "a session", (need, *needs))]


def _is_text(number: int) -> bool:
    return number in (2, 3)


def _fields(data: bytes, where: str, *, plain: bool = False) -> Iterator[tuple[int, bytes]]:
    """Yield (number, content) of a message's fields; a varint as its bytes, little-endian."""

    def varint(at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            if at >= len(data) or shift > 63:
                raise FormatError(where, "not an ONNX model: a field is cut short")
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value, at

    at = 0
    while at < len(data):
        tag, at = varint(at)
        kind = tag & 7
        if kind == 0:
            value, at = varint(at)
            yield tag >> 3, value.to_bytes(8, "little")
        elif kind == 2:
            size, at = varint(at)
            if at + size > len(data):
                raise FormatError(where, "not an ONNX model: a field is cut short")
            yield tag >> 3, data[at : at + size]
            at += size
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise FormatError(where, f"not an ONNX model: a field of kind {kind}")


_ALONE = Fact("holds", "tensors alone: the model must be built by its own code")


def npz(path: Path, environment: Environment) -> tuple[list[Fact], list[OpeningCall]]:
    """Return the same of an archive of numpy, which is tensors alone."""
    need = environment.need("numpy", "", "reads .npz files")
    return [_ALONE], [OpeningCall("numpy.load(PATH)", "arrays by name", (need,))]


def safetensors(path: Path, environment: Environment) -> tuple[list[Fact], list[OpeningCall]]:
    """Return the same of safetensors, which are tensors alone, in one file or in shards."""
    need = environment.need("safetensors", "", "reads such files")
    call = "safetensors.numpy.load_file(PATH)"
    if path.suffix == ".json":
        call = "safetensors.numpy.load_file(SHARD)"
    numpy = environment.need("numpy", "", "holds arrays")
    return [_ALONE], [
        OpeningCall(call, "arrays by name", (need,)),
        OpeningCall("ckptkit.load(PATH)", "arrays by name", (numpy,)),
    ]


def pytorch(path: Path, environment: Environment) -> tuple[list[Fact], list[OpeningCall]]:
    """Return the same of a PyTorch file: tensors and plain values, or objects of classes."""
    numpy = environment.need("numpy", "", "holds arrays")
    ours = OpeningCall("ckptkit.load(PATH)", "arrays by name", (numpy,))
    need = environment.need("torch", "", "reads such files")
    if path.suffix == ".json":
        call = "torch.load(SHARD, weights_only=True)"
        return [_ALONE], [OpeningCall(call, "tensors by name", (need,)), ours]
    classes = unsafe_names(path)
    if not classes:
        call = "torch.load(PATH, weights_only=True)"
        return [_ALONE], [OpeningCall(call, "what was saved", (need,)), ours]
    modules = dict.fromkeys(found.module for found in classes if found.module != "torch")
    code = [
        Need("code", module, "the pickle names it", where="data.pkl", met=None)
        for module in modules
        if module.partition(".")[0] not in ("torch", *sys.stdlib_module_names)
    ]
    trust = Need(
        "trust",
        "weights_only=False",
        "the pickle names classes and functions, which loading imports and calls",
        where="data.pkl",
        met=None,
        hint="look at it with `ckptkit scan` first",
    )
    call = "torch.load(PATH, weights_only=False)"
    facts = [Fact("holds", f"objects of {list_text([*map(str, classes)])}", "data.pkl")]
    return facts, [OpeningCall(call, "what was saved", (need, trust, *code)), ours]


def orbax(path: Path, environment: Environment) -> tuple[list[Fact], list[OpeningCall]]:
    """Return the same of a checkpoint of Orbax: a tree of arrays."""
    numpy = environment.need("numpy", "", "holds arrays")
    zstd = environment.need("cramjam", "", "decompresses values and the tree of their names")
    needs = tuple(environment.need(name, "", "reads such directories") for name in _OF_ORBAX)
    return [_ALONE], [
        OpeningCall("orbax.checkpoint.PyTreeCheckpointer().restore(ITEM)", "the tree", needs),
        OpeningCall("ckptkit.load(PATH)", "arrays by name", (numpy, zstd)),
    ]
