"""The words of lookup tables: in a Keras config, in assets, in the graph of a SavedModel.

Files call them differently and keep them in different places, so they are compared by content
first.  A `.keras` archive keeps what a layer has learnt as text, a word a line, with the tokens for
what is missing or unknown; a config keeps the words that were passed to the layer; a SavedModel
keeps a file, or constants that its tables are filled with, or, as a checkpoint does, tensors of a
table's keys and values (keras/src/layers/preprocessing/index_lookup.py,
tensorflow/python/ops/lookup_ops.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.golden.keras_config import texts_of
from ckptkit.operations.configuration.values import VOCABULARY
from ckptkit.operations.diff.beside.tables import saved_tables
from ckptkit.stores.assets import assets, small_asset
from ckptkit.stores.base import Store
from ckptkit.stores.keras.config import as_layer
from ckptkit.stores.registry import format_of
from ckptkit.stores.saved_model.constants import table_constants
from ckptkit.stores.saved_model.reader import SavedModel
from ckptkit.wording import operand

_MISSING, _UNKNOWN = (b"", b"0"), (b"[UNK]", b"-1")  # Keras's own tokens, of texts and of numbers
_INNER = "/_lookup_layer/"  # of TextVectorization, which keeps its words for itself too
_MAX_SHOWN = 24


class Vocabulary(NamedTuple):
    """One list of words.

    source: "config", "assets", "graph" or "table".  where: in the file, for a person.  words: in
    order; () of a file that is no text or too large to look into.  digest: of the content of a
    file, else "".  tokens: those for missing and unknown words, which may stand before the others.
    """

    source: str
    where: str
    words: tuple[bytes, ...]
    digest: str = ""
    tokens: tuple[bytes, ...] = ()


def vocabularies_of(checkpoint: Checkpoint, config: object) -> list[Vocabulary]:
    """Return the lists of words in a file, each once.

    Args:
        checkpoint: the file.
        config: of its Keras model; None where there is none.
    """
    store = checkpoint.store
    return _each_once(
        [*_in_config(config), *_in_assets(store), *_in_graph(store), *_in_tables(checkpoint)]
    )


def vocabulary_differences(
    old: Checkpoint, new: Checkpoint, sides: tuple[list[Vocabulary], list[Vocabulary]]
) -> list[str]:
    """Return a sentence per list of words that differs.

    Args:
        old, new: the files.
        sides: their lists, none of them empty.
    """
    alone = _without_pairs(*sides)
    messages: list[str] = []
    while alone[0] and alone[1]:
        left = alone[0].pop(0)
        right = alone[1].pop(_closest(left, alone[1]))
        messages.append(_message(left, right))
    form = old.store.format
    if form == new.store.format and format_of(form).holds_model:
        for side, where in zip(alone, ("OLD", "NEW"), strict=True):
            messages += [f"{item.where} is only in {operand(where)}" for item in side]
    return list(dict.fromkeys(messages))


def _each_once(side: list[Vocabulary]) -> list[Vocabulary]:
    """Leave out what a file keeps a second time: the config's words in its graph, inner layers'."""
    kept: list[Vocabulary] = []
    by_place = {item.where: item for item in side}
    for item in side:
        outer = by_place.get(item.where.replace(_INNER, "/"))
        inner = outer is not None and outer is not item and _alike(outer, item)
        others = [one for one in kept if one.source != item.source and _alike(one, item)]
        if not inner and not others:
            kept.append(item)
    return kept


def _without_pairs(
    old: list[Vocabulary], new: list[Vocabulary]
) -> tuple[list[Vocabulary], list[Vocabulary]]:
    """Take away what is alike on both sides, one for one, of one place where there is a choice."""
    left, right = [], list(new)
    for item in old:
        twins = [other for other in right if _alike(item, other)]
        if twins:
            right.remove(next((twin for twin in twins if twin.where == item.where), twins[0]))
        else:
            left.append(item)
    return left, right


# -- where they stand ------------------------------------------------------------------------------


def _in_config(config: object) -> Iterator[Vocabulary]:
    """Yield the words in the settings of layers, wrapped and nested ones included."""
    pending = [config]
    while pending:
        item = pending.pop(0)
        if isinstance(item, Mapping):
            layer = as_layer(item)
            words = layer.config.get(VOCABULARY) if layer is not None else None
            if layer is not None and isinstance(words, list) and words:
                tokens = tuple(texts_of(list(_tokens(layer.config))))
                name = layer.name or layer.class_name
                yield Vocabulary("config", name, tuple(texts_of(words)), tokens=tokens)
            pending += item.values()
        elif isinstance(item, list):
            pending += [value for value in item if isinstance(value, (Mapping, list))]


def _tokens(config: Mapping[str, Any]) -> Iterator[Any]:
    for key in ("mask_token", "oov_token"):
        if config.get(key) is not None:
            yield config[key]


def _in_assets(store: Store) -> Iterator[Vocabulary]:
    for name, digest in sorted(assets(store).items()):
        text = small_asset(store, name) if digest is not None else None
        words = tuple(text.rstrip(b"\r\n").splitlines()) if text is not None else ()
        yield Vocabulary("assets", name, words, digest or "missing")


def _in_graph(store: Store) -> Iterator[Vocabulary]:
    if isinstance(store, SavedModel):
        for name, words in table_constants(store):
            yield Vocabulary("graph", f"constant {name}", tuple(words))


def _in_tables(checkpoint: Checkpoint) -> Iterator[Vocabulary]:
    for where, words in saved_tables(checkpoint):
        yield Vocabulary("table", where, words)


def plain_words(vocabulary: Vocabulary) -> tuple[bytes, ...]:
    """Return the words of a list without the tokens before them, which some forms write."""
    return _plain(vocabulary, vocabulary.tokens)


# -- comparing -------------------------------------------------------------------------------------


def _alike(one: Vocabulary, other: Vocabulary) -> bool:
    if one.digest and one.digest == other.digest:
        return True
    if not one.words or not other.words:
        return False
    tokens = (*one.tokens, *other.tokens)
    return one.words == other.words or _plain(one, tokens) == _plain(other, tokens)


def _plain(vocabulary: Vocabulary, tokens: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return the words without the tokens before them."""
    start, words = 0, vocabulary.words
    if start < len(words) and words[start] in (*_MISSING, *tokens):
        start += 1
    while start < len(words) and words[start] in (*_UNKNOWN, *tokens):
        start += 1
    return words[start:]


def _closest(one: Vocabulary, others: Sequence[Vocabulary]) -> int:
    """Return which of the others is most like one: of its place, or with most of its words."""
    words = set(one.words)

    def likeness(at: int) -> tuple[bool, int]:
        return others[at].where == one.where, len(words.intersection(others[at].words))

    return max(range(len(others)), key=likeness)


def _message(old: Vocabulary, new: Vocabulary) -> str:
    where = old.where
    if "missing" in (old.digest, new.digest):
        return f"{where} is missing in {operand('OLD' if old.digest == 'missing' else 'NEW')}"
    if not old.words or not new.words:
        return f"{where} has other content"
    tokens = (*old.tokens, *new.tokens)
    before, after = (old.words, new.words)
    if bool(old.digest) != bool(new.digest):  # only one of the two writes the tokens
        before, after = _plain(old, tokens), _plain(new, tokens)
    counts = f"{len(before):,}" + (f" → {len(after):,}" if len(before) != len(after) else "")
    text = f"{where} ({counts} entries)"
    shared = min(len(before), len(after))
    at = next((i for i in range(shared) if before[i] != after[i]), shared)
    ends = [_shown(side[at]) if at < len(side) else "none" for side in (before, after)]
    return f"{text}: entry {at + 1:,} is {ends[0]} → {ends[1]}"


def _shown(word: bytes) -> str:
    text = word.decode("utf-8", "backslashreplace")
    return repr(text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…")
