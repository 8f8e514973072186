"""One digest of a model, and of each of its parts: the same in every form, version and file.

    weights      of names, dtypes, shapes and bytes (`ckptkit.checkpoint.digest`)
    config       of the configuration's lines (`ckptkit.operations.configuration.lines`)
    signature    of a SavedModel: a line of JSON per signature, sorted: key, tags, inputs, outputs,
                 defaults where there are any
    vocabulary   of the lists of words, without the tokens before them: a line with the SHA-256 of
                 each, sorted; of its words each with its length before it, 8 bytes, little-endian
    model        of these four: a line "PART sha256:...", or "PART none", in this order

Each is "sha256:" and the hexadecimal SHA-256 of its lines in UTF-8, joined by "\\n".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence

from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.checkpoint.digest import weights_digest
from ckptkit.checkpoint.selection import Selection
from ckptkit.errors import UsageError
from ckptkit.operations.configuration.lines import config_lines
from ckptkit.operations.configuration.read import config_tree, read_config
from ckptkit.operations.diff.beside.vocabularies import plain_words, vocabularies_of
from ckptkit.stores.base import Signature
from ckptkit.stores.saved_model.reader import SavedModel

WEIGHTS, MODEL = "weights", "model"
_OF_THE_LOADER = "__saved_model"  # signatures that TensorFlow alone calls


def digest_of(checkpoint: Checkpoint, part: str) -> str:
    """Return the digest of one part of a file.

    Args:
        checkpoint: the file.
        part: "weights", "config", "signature", "vocabulary" or "model".

    Returns:
        "sha256:..." in hexadecimal.

    Raises:
        UsageError: there is no such part, or the file does not hold it.
        ChecksumError, FormatError: it is damaged.
    """
    found = digests_of(checkpoint, [part])[part]
    if found is None:
        raise UsageError(f"the file holds no {part}", where=str(checkpoint.path))
    return found


def digests_of(
    checkpoint: Checkpoint, parts: Sequence[str], *, weights: str | None = None
) -> dict[str, str | None]:
    """Return the digest of each part; None of one that the file does not hold.

    Args:
        checkpoint: the file.
        parts: of PARTS.
        weights: the digest of the weights, where it is known.

    Raises:
        UsageError: there is no such part, or the file is a part of one (`PATH#SUBTREE`).
        ChecksumError, FormatError: it is damaged.
    """
    for part in parts:
        if part not in PARTS:
            raise UsageError(f"no digest of {part!r}", hint=f"one of {', '.join(PARTS)}")
    if checkpoint.subtree is not None and {*parts} != {WEIGHTS}:
        where = f"{checkpoint.path}#{checkpoint.subtree}"
        raise UsageError("a part of a file has a digest of its weights alone", where=where)
    known: dict[str, str | None] = {} if weights is None else {WEIGHTS: weights}

    def found(part: str) -> str | None:
        if part not in known:
            known[part] = _PARTS[part](checkpoint)
        return known[part]

    wanted = [*_PARTS] if MODEL in parts else parts
    each = {part: found(part) for part in wanted}
    each[MODEL] = _sha256(f"{part} {each.get(part) or 'none'}" for part in _PARTS)
    return {part: each[part] for part in parts}


def _weights(checkpoint: Checkpoint) -> str | None:
    return weights_digest(checkpoint, Selection().of(checkpoint))


def _config(checkpoint: Checkpoint) -> str | None:
    tree = config_tree(checkpoint)
    return _sha256(config_lines(tree)) if tree is not None else None


def _signature(checkpoint: Checkpoint) -> str | None:
    store = checkpoint.store
    if not isinstance(store, SavedModel):
        return None
    return _sha256(
        sorted(
            _signature_line(tags, signature)
            for tags, graph in store.signatures_by_tags.items()
            for key, signature in graph.items()
            if not key.startswith(_OF_THE_LOADER)
        )
    )


def _signature_line(tags: Iterable[str], signature: Signature) -> str:
    line: dict[str, object] = {
        "key": signature.key,
        "tags": sorted(tags),
        "inputs": sorted(map(list, signature.inputs), key=lambda item: str(item[0])),
        "outputs": sorted(map(list, signature.outputs), key=lambda item: str(item[0])),
    }
    if signature.defaults:  # few have any
        line["defaults"] = dict(signature.defaults)
    return json.dumps(line, sort_keys=True, separators=(",", ":"))


def _vocabulary(checkpoint: Checkpoint) -> str | None:
    config = read_config(checkpoint.store)
    found = vocabularies_of(checkpoint, config.config if config is not None else None)
    lists = {_words(plain_words(item)) if item.words else item.digest for item in found}
    return _sha256(sorted(lists)) if lists else None


def _words(words: Sequence[bytes]) -> str:
    total = hashlib.sha256()
    for word in words:
        total.update(len(word).to_bytes(8, "little") + word)
    return total.hexdigest()


def _sha256(lines: Iterable[str]) -> str:
    return "sha256:" + hashlib.sha256("\n".join(lines).encode("utf-8")).hexdigest()


_PARTS: Mapping[str, Callable[[Checkpoint], str | None]] = {
    WEIGHTS: _weights,
    "config": _config,
    "signature": _signature,
    "vocabulary": _vocabulary,
}
PARTS = (*_PARTS, MODEL)
