"""The receipt of a conversion: what went in, what came out, and what was proven of it."""

from __future__ import annotations

import json
import platform
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ckptkit._version import __version__
from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.operations.convert.loading import LoadedOutput
from ckptkit.operations.convert.plan import Plan
from ckptkit.results import Document
from ckptkit.stores.base import ModelInfo, Signature

if TYPE_CHECKING:
    from ckptkit.operations.convert.proof import Proof

SCHEMA = "ckptkit.convert/1"
_PACKAGES = ("numpy", "ml_dtypes", "google.protobuf", "h5py")


@dataclass(frozen=True, repr=False)
class Receipt(Document):
    """What `convert` did.

    path: DST, or DST.rejected when the proof failed.  proof: None with `check=False`.
    sha256: of each tensor's values by key of the output (little-endian, row-major), where a receipt
    was asked for.  digests: of the sources' weights, as `ckptkit ls --digest` gives them.
    signatures: how those of the output differ from those of SRC, one sentence each.
    versions: of what took part.  loaded: whether Keras loads what was written, where that is a
    Keras archive.
    """

    ROWS: ClassVar[str] = "tensors"

    plan: Plan
    path: Path
    files: tuple[Path, ...]
    proof: Proof | None
    sha256: Mapping[str, str] = field(default_factory=dict)
    digests: Sequence[str] = ()
    signatures: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    loaded: LoadedOutput | None = None

    @property
    def ok(self) -> bool:
        """Whether DST was written and nothing speaks against it."""
        return self.proof is None or self.proof.ok

    def __repr__(self) -> str:
        state = "proven" if self.proof is not None else "not proven"
        if self.proof is not None and not self.ok:
            state = f"refused by the proof: {len(self.proof.failures)} failures"
        what = f"{len(self.plan.tensors)} tensors, {self.plan.nbytes:,} B"
        return f"<Receipt: {what} as {self.plan.target.format.name} at {str(self.path)!r}, {state}>"

    @property
    def kept(self) -> Mapping[str, int]:
        """How many tensors kept the values of LIKE, by role."""
        return Counter(
            tensor.output.role for tensor in self.plan.tensors if tensor.evidence == "template"
        )

    @property
    def exit_code(self) -> int:
        """0 done, 1 the proof failed."""
        return 0 if self.ok else 1

    def _like_json(self) -> dict[str, Any] | None:
        """Return what LIKE was, as it was given; None where it was made of SRC."""
        plan, chosen = self.plan, self.plan.options.chosen
        if plan.like is None or plan.options.graph is not None:
            return None
        like = _file_json(plan.like, None)
        if chosen is None:
            return like
        is_source = any(source.store.path == chosen.path for source in plan.sources)
        return None if is_source else {**like, "path": str(chosen.path)}

    def to_json(self) -> dict[str, Any]:
        """Return the document of schema ckptkit.convert/1 (docs/convert.md).

        Returns:
            Plain values that JSON can hold.
        """
        from ckptkit.operations.convert.proof import loss_json  # here: see `pipeline`

        plan, proof, graph = self.plan, self.proof, self.plan.options.graph
        losses = proof.losses if proof is not None else {}
        digests: Sequence[str | None] = self.digests or [None] * len(plan.sources)
        return {
            "schema": SCHEMA,
            "ok": self.ok,
            "sources": [
                _file_json(checkpoint, digest)
                for checkpoint, digest in zip(plan.sources, digests, strict=True)
            ],
            "like": self._like_json(),
            "graph": str(graph.path) if graph else None,
            "tags": list(plan.options.chosen.tags) if plan.options.chosen else None,
            "model": plan.build.spec if plan.build else None,
            "dst": str(self.path),
            "to": plan.target.format.name,
            "files": [str(path) for path in self.files],
            "bytes": plan.nbytes,
            "rules": [rule.text for rule in plan.options.rules],
            "inverse_rules": (
                plan.inverse_rules() if plan.options.rules and plan.is_invertible else []
            ),
            "casts": [str(cast) for cast in plan.options.casts],
            "proof": proof.to_json() if proof is not None else None,
            "loaded": self.loaded.to_json() if self.loaded is not None else None,
            "signatures": list(self.signatures),
            "versions": dict(self.versions),
            "left": [item._asdict() for item in plan.leftovers],
            "kept": dict(self.kept),
            "paired_by": dict(plan.bases),
            "notes": [*plan.notes, *self.notes],
            "tensors": [
                {
                    **tensor.to_json(),
                    "sha256": self.sha256.get(tensor.key),
                    "loss": loss_json(losses[tensor.key]) if tensor.key in losses else None,
                }
                for tensor in plan.tensors
            ],
        }


def write_receipt(receipt: Receipt, path: Path, *, overwrite: bool = False) -> None:
    """Write the receipt as JSON, one line per tensor.

    Args:
        receipt: of `convert`.
        path: the file to write, in one step.
        overwrite: whether one that is there is replaced.

    Raises:
        OutputError: it cannot be written.
    """
    from ckptkit._io.atomic import replacing

    document = receipt.to_json()
    tensors = document.pop("tensors")
    head = json.dumps(document, indent=1, allow_nan=False)
    rows = ",\n  ".join(json.dumps(row, allow_nan=False) for row in tensors)
    with replacing(path, overwrite=overwrite) as temporary:
        text = f'{head[:-2]},\n "tensors": [\n  {rows}\n ]\n}}\n'
        temporary.write_text(text, encoding="utf-8")


def write_inverse(plan: Plan, path: Path, *, overwrite: bool = False) -> None:
    """Write the map that leads from the output back to SRC, one rule a line.

    Args:
        plan: what was done.
        path: the file to write, in one step.
        overwrite: whether one that is there is replaced.

    Raises:
        OutputError: it cannot be written.
    """
    from ckptkit._io.atomic import replacing

    with replacing(path, overwrite=overwrite) as temporary:
        lines = "".join(f"{rule}\n" for rule in plan.inverse_rules())
        temporary.write_text(lines, encoding="utf-8")


def _file_json(checkpoint: Checkpoint, digest: str | None) -> dict[str, Any]:
    return {
        "path": str(checkpoint.path),
        "subtree": checkpoint.subtree,
        "format": checkpoint.store.format,
        "producer": checkpoint.store.producer,
        "digest": digest,
    }


def package_versions() -> dict[str, str]:
    """Return the versions of this tool, of Python, and of the packages that took part."""
    versions = {"ckptkit": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        number = getattr(sys.modules.get(name), "__version__", None)
        if number is not None:
            versions[name.rpartition(".")[2]] = str(number)
    return versions


def signature_changes(old: ModelInfo | None, new: ModelInfo | None) -> list[str]:
    """Return how the signatures of two models differ: names, dtypes, shapes, outputs' order."""
    if old is None or new is None or not old.signatures or not new.signatures:
        return []
    old_signatures, new_signatures = (
        {signature.key: signature for signature in model.signatures} for model in (old, new)
    )
    gone = old_signatures.keys() - new_signatures.keys()
    added = new_signatures.keys() - old_signatures.keys()
    changes = [f"signature {key} is gone" for key in gone]
    changes += [f"signature {key} is new" for key in added]
    for key in sorted(old_signatures.keys() & new_signatures.keys()):
        changes += _entry_changes(old_signatures[key], new_signatures[key])
    return changes


def _entry_changes(old: Signature, new: Signature) -> list[str]:
    """Return the inputs and outputs of one signature whose dtype or shape changed."""
    changes = []
    for what, old_entries, new_entries in (
        ("input", old.inputs, new.inputs),
        ("output", old.outputs, new.outputs),
    ):
        old_types, new_types = (
            {name: (dtype, shape) for name, dtype, shape in entries}
            for entries in (old_entries, new_entries)
        )
        for name in sorted(old_types.keys() | new_types.keys()):
            if old_types.get(name) != new_types.get(name):
                changes.append(
                    f"signature {old.key}: {what} {name} was {_type_text(old_types.get(name))}, "
                    f"is {_type_text(new_types.get(name))}"
                )
    if old.defaults != new.defaults:
        changes.append(f"signature {old.key}: the defaults of its inputs are others")
    return changes


def _type_text(entry: tuple[str, tuple[int | None, ...] | None] | None) -> str:
    if entry is None:
        return "not there"
    dtype, shape = entry
    sizes = "?" if shape is None else ",".join("?" if n is None else str(n) for n in shape)
    return f"{dtype}[{sizes}]"
