"""The index of weights in several files, as Hugging Face's libraries write it for every format.

    {"metadata": {"total_size": bytes}, "weight_map": {name of a tensor: name of its file}}

The files lie beside their index: m.safetensors.index.json, m-00001-of-00002.safetensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ckptkit._io.places import can_list
from ckptkit.errors import FormatError
from ckptkit.stores.base import TensorSpec
from ckptkit.stores.containers import strict_json

MAX_INDEX = 64 << 20  # bytes of an index.json; 500,000 names


def read_weight_map(path: Path) -> tuple[dict[str, str], int | None]:
    """Return (file name by tensor name, total size that the index claims); raises FormatError."""
    where = str(path)
    content = strict_json.load(path, max_bytes=MAX_INDEX)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict):
        raise FormatError(where, "no weight_map: not an index of weights in several files")
    for name, file in weight_map.items():
        if not isinstance(file, str) or not _is_file_name(file):
            raise FormatError(
                where,
                f"weight_map sends {name!r} to {file!r}",
                expected="the name of a file in the same directory",
                found=repr(file),
            )
    metadata = content.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    if isinstance(total, float) and total.is_integer():  # some writers count in floats
        total = int(total)
    return weight_map, total if type(total) is int else None


def _is_file_name(name: str) -> bool:
    return name not in ("", ".", "..") and not re.search(r"[/\\\0]", name)


def wanted_specs(
    specs: dict[str, TensorSpec], wanted: set[str], shard: Path, index: Path, notes: list[str]
) -> dict[str, TensorSpec]:
    """Return the specs that the index sends to this file; note the others."""
    for name in sorted(wanted - specs.keys()):
        raise FormatError(
            str(shard),
            f"{index.name} says that {name!r} is in here, but it is not",
            hint="index and files are of two saves; copy them again",
        )
    others = len(specs) - len(wanted)
    if others:
        notes.append(f"{shard.name} holds {others} tensors that {index.name} does not send there")
    return {name: spec for name, spec in specs.items() if name in wanted}


def index_notes(
    path: Path,
    suffix: str,
    files: list[str],
    total: int | None,
    specs: dict[str, TensorSpec],
    missing: tuple[Path, ...],
) -> Iterator[str]:
    """Yield how an index, whose name ends in `suffix`, and what lies there do not fit."""
    stem, kind = path.name.removesuffix(suffix), suffix.removesuffix(".index.json")
    pattern = re.compile(re.escape(stem) + r"-\d{5}-of-\d{5}" + re.escape(kind))
    there = path.parent.iterdir() if can_list(path.parent) else ()
    for other in sorted(entry.name for entry in there):
        if pattern.fullmatch(other) and other not in files:
            yield f"{other} lies beside {path.name}, which does not name it"
    found = sum(spec.nbytes for spec in specs.values())
    if total is not None and not missing and total != found:
        yield f"{path.name} claims {total} bytes in all, its files hold {found}"
