"""Inputs for a model that comes without any: drawn from a seed, the same on every machine.

Numbers come from the raw stream of PCG64, which numpy promises never to change, by exact
arithmetic: the distributions of `numpy.random.Generator` may change with its version.  Each input
has a stream of its own, by its name, so that another input does not change it.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ckptkit.dtypes import kind, numpy_dtype
from ckptkit.errors import UsageError
from ckptkit.model_io.signature import TensorInfo
from ckptkit.model_io.tf_examples import Feature, serialized
from ckptkit.wording import say

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

CANDIDATE_SIZES: tuple[tuple[int, int], ...] = (
    (16, 10),
    (32, 2),
    (8, 2),
    (64, 2),
    (128, 2),
    (224, 2),
)
"""(size, int_high) to try in turn when a model refuses: axes of unknown length, and integers."""

BATCH = 4  # examples, where the axis is free
MAX_DRAWN = 1 << 28  # elements of one input
_ROW = 4  # values of a row of a ragged input, at most
UNKNOWN_WORD = b"ckptkit-no-such-word"
_WORDS = ("a", "the", "one", "two", "good", "bad", "red", "blue", "0", "42", "A sentence.")
_SENTENCE = 64  # words of one text at most


def random_inputs(
    inputs: Sequence[TensorInfo],
    *,
    seed: int,
    batch: int = BATCH,
    size: int = CANDIDATE_SIZES[0][0],
    ranges: Mapping[str, tuple[float, float]] | None = None,
    words: Sequence[str | bytes] = (),
    int_high: int | None = None,
    examples: Mapping[str, Sequence[Feature]] | None = None,
) -> dict[str, Array]:
    """Draw one array per input.

    The first axis gets `batch` examples where its length is free, other free axes get `size`.
    Floats are near a normal distribution (a sum of four uniform numbers, at most 3.5 in size)
    unless `ranges` gives the lowest and highest value (both included, for integers too).  Integers
    are below `int_high` (ATTEMPTS' first if None).  Text is drawn from `words`: single words and
    whole sentences, with a word that no vocabulary holds and an empty text; for an input of
    `examples` each text is a serialized tf.train.Example of these features.
    Raises UsageError for a dtype that cannot be drawn, a range of an input that does not exist, and
    one that its dtype cannot hold.
    """
    wanted = dict(ranges or {})
    unknown = sorted(set(wanted) - {info.name for info in inputs})
    if unknown:
        listed = ", ".join(info.name for info in inputs) or "none"
        raise UsageError(
            f"a range for {unknown[0]!r}, which is no input", hint=f"there are: {listed}"
        )
    found: dict[str, Array] = {}
    for info in _in_shape(inputs, seed, batch, size, found):
        stream = _Stream(seed, info.name)
        features = (examples or {}).get(info.name)
        if features is not None:
            shape = shape_of(info, batch, size)
            found[info.name] = _examples(features, stream, shape, words, int_high)
            continue
        found[info.name] = _draw(info, stream, batch, size, wanted, words, int_high)
    return {info.name: found[info.name] for info in inputs}


def candidate_inputs(
    inputs: Sequence[TensorInfo],
    *,
    seed: int,
    batch: int = BATCH,
    cases: int = 1,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    words: Sequence[str | bytes] = (),
    int_high: int | None = None,
    examples: Mapping[str, Sequence[Feature]] | None = None,
) -> Iterator[list[dict[str, Array]]]:
    """Yield inputs to try in turn until a model takes them: `cases` draws from seed, seed + 1, ...

    Each has the next size and the next bound of ATTEMPTS for what the model leaves open; where
    that is nothing, there is one attempt.  int_high: the bound where it is known.
    Raises as `random_inputs` does.
    """
    before: list[list[dict[str, Array]]] = []
    for size, high in CANDIDATE_SIZES:
        cases_drawn = [
            random_inputs(
                inputs,
                seed=seed + number,
                batch=batch,
                size=size,
                ranges=ranges,
                words=words,
                int_high=int_high or high,
                examples=examples,
            )
            for number in range(cases)
        ]
        if any(_same(cases_drawn, earlier) for earlier in before):
            continue  # nothing was left open: it would be refused again
        before.append(cases_drawn)
        yield cases_drawn


def _examples(
    features: Sequence[Feature],
    stream: _Stream,
    shape: tuple[int, ...],
    words: Sequence[str | bytes],
    int_high: int | None,
) -> Array:
    """Draw serialized examples; features of open length have one to three values."""
    import numpy as np

    flat = np.empty(math.prod(shape), object)
    for place in range(len(flat)):
        values: dict[str, Array] = {}
        for feature in features:
            size = feature.size
            count = int(stream.below(1, 3)[0]) + 1 if size is None else size
            info = TensorInfo(feature.name, feature.dtype, (count,))
            if feature.dtype == "string":
                values[feature.name] = _texts(stream, count, words)
            elif feature.dtype == "int64":
                values[feature.name] = _integers(info, stream, count, None, int_high)
            else:
                values[feature.name] = _floats(info, stream, count, None)
        flat[place] = serialized(values)
    return flat.reshape(shape)


# --- parts of sparse and ragged inputs ------------------------------------------------------------


def _in_shape(
    inputs: Sequence[TensorInfo], seed: int, batch: int, size: int, drawn: dict[str, Array]
) -> Iterator[TensorInfo]:
    """Yield the inputs whose values are left to draw, as long as the other parts want them.

    drawn: takes the parts that say where values lie (`indices`, `dense_shape`, `row_splits`).
    """
    wholes: dict[str, list[TensorInfo]] = {}
    for info in inputs:
        if info.part is None:
            yield info
        else:
            wholes.setdefault(info.part.of, []).append(info)
    for of, parts in wholes.items():
        place = _sparse if parts[0].part is not None and parts[0].part.kind == "sparse" else _ragged
        count = place(parts, _Stream(seed, f"{of}/"), batch, size, drawn)
        for info in parts:
            if info.name not in drawn:
                yield info._replace(shape=(count, *(info.shape or (None,))[1:]))


def _sparse(
    parts: Sequence[TensorInfo], stream: _Stream, batch: int, size: int, drawn: dict[str, Array]
) -> int:
    """Draw where a sparse tensor has values, in row-major order; return how many.

    A value in each row of the first axis at least, and in about a quarter of all places.
    """
    import numpy as np

    by_role = {info.part.role: info for info in parts if info.part is not None}
    known = by_role["indices"].part
    whole = TensorInfo(by_role["indices"].name, "int64", known.shape if known is not None else None)
    shape = shape_of(whole, batch, size)
    total = math.prod(shape)
    if total > MAX_DRAWN:
        raise UsageError(f"input {whole.name!r} would have {total:,} places")
    width = total // max(1, shape[0]) if shape else 1
    rows = np.arange(total // max(1, width), dtype=np.int64)
    first = rows * width + stream.below(len(rows), max(1, width)).astype(np.int64)
    others = np.flatnonzero(stream.below(total, 4) == 0)
    places = np.unique(np.concatenate([first, others])) if total else np.zeros(0, np.int64)
    axes = np.unravel_index(places, shape) if total else [places] * len(shape)
    drawn[by_role["indices"].name] = np.stack(axes, 1).astype(np.int64)
    drawn[by_role["dense_shape"].name] = np.array(shape, np.int64)
    return len(places)


def _ragged(
    parts: Sequence[TensorInfo], stream: _Stream, batch: int, size: int, drawn: dict[str, Array]
) -> int:
    """Draw the row splits of a ragged tensor, the outer ones first; return how many values it has.

    Each row has one value at least, since the mean of none is no number.
    """
    import numpy as np

    count = batch
    for info in parts:
        if info.part is not None and info.part.role == "row_splits":
            lengths = stream.below(count, max(1, min(size, _ROW))).astype(np.int64) + 1
            splits = np.concatenate([[0], np.cumsum(lengths)])
            drawn[info.name] = splits.astype(numpy_dtype(info.dtype))
            count = int(splits[-1])
    return count


def _same(one: Sequence[Mapping[str, Array]], two: Sequence[Mapping[str, Array]]) -> bool:
    import numpy as np

    return all(
        np.array_equal(array, earlier[name])
        for case, earlier in zip(one, two, strict=True)
        for name, array in case.items()
    )


class _Stream:
    """Uniform numbers from a seed and a name."""

    def __init__(self, seed: int, name: str) -> None:
        import numpy as np

        self._bits = np.random.PCG64([seed, zlib.crc32(name.encode())])

    def uniform(self, count: int) -> Array:
        """Return `count` float64 numbers in [0, 1), multiples of 2**-53."""
        import numpy as np

        raw = self._bits.random_raw(count) if count else np.zeros(0, np.uint64)
        return np.asarray((raw >> np.uint64(11)) * 2.0**-53)

    def below(self, count: int, high: int) -> Array:
        """Return `count` integers in [0, high)."""
        import numpy as np

        raw = self._bits.random_raw(count) if count else np.zeros(0, np.uint64)
        return np.asarray(raw % np.uint64(high))


def _draw(
    info: TensorInfo,
    stream: _Stream,
    batch: int,
    size: int,
    ranges: Mapping[str, tuple[float, float]],
    words: Sequence[str | bytes],
    int_high: int | None,
) -> Array:
    # the size is known before anything is made
    shape = shape_of(info, batch, size)
    count = math.prod(shape)
    if count > MAX_DRAWN:
        raise UsageError(f"input {info.name!r} would have {count:,} elements")
    family = kind(info.dtype)
    if family == "string":
        flat = _texts(stream, count, words)
    elif family == "float":
        flat = _floats(info, stream, count, ranges.get(info.name))
    elif family in ("int", "uint"):
        flat = _integers(info, stream, count, ranges.get(info.name), int_high)
    elif family == "bool":
        flat = stream.below(count, 2).astype(bool)
    elif family == "complex":
        flat = (_normal(stream, count) + 1j * _normal(stream, count)).astype(info.dtype)
    else:
        raise UsageError(
            f"cannot make up a value of dtype {info.dtype} for input {info.name!r}",
            hint=say("give one with ‹inputs›"),
        )
    return flat.reshape(shape)


def shape_of(info: TensorInfo, batch: int, size: int) -> tuple[int, ...]:
    """Return the shape to draw: a tensor of unknown rank is (batch, size), text (batch,)."""
    if info.shape is None:
        return (batch,) if info.dtype == "string" else (batch, size)
    return tuple(
        n if n is not None else batch if axis == 0 else size for axis, n in enumerate(info.shape)
    )


def _normal(stream: _Stream, count: int) -> Array:
    """Return numbers of mean 0 and variance 1: sums, products by a constant; no transcendentals."""
    total = stream.uniform(count)
    for _ in range(3):
        total = total + stream.uniform(count)
    return (total - 2.0) * 1.7320508075688772


def _floats(
    info: TensorInfo, stream: _Stream, count: int, limits: tuple[float, float] | None
) -> Array:
    import numpy as np

    if limits is None:
        values = _normal(stream, count)
    else:
        low, high = _checked(info, limits)
        values = np.clip(low + (high - low) * stream.uniform(count), low, high)
    return values.astype(numpy_dtype(info.dtype))


def _integers(
    info: TensorInfo,
    stream: _Stream,
    count: int,
    limits: tuple[float, float] | None,
    int_high: int | None,
) -> Array:
    import numpy as np

    dtype = numpy_dtype(info.dtype)
    if limits is None:
        low, high = 0, max(1, CANDIDATE_SIZES[0][1] if int_high is None else int_high)
        if dtype.kind in "iu":  # uint8 holds no index of a vocabulary of 1000
            high = min(high, int(np.iinfo(dtype).max) + 1)
        else:
            high = min(high, 2)  # int4, int2
    else:
        low, top = (int(value) for value in _checked(info, limits))
        high = top + 1
    values = stream.below(count, high - low).astype(np.int64) + low
    return values.astype(dtype)


def _checked(info: TensorInfo, limits: tuple[float, float]) -> tuple[float, float]:
    import numpy as np

    low, high = limits
    whole = kind(info.dtype) in ("int", "uint")
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise UsageError(
            f"the range of {info.name!r} is {low} to {high}", hint="write LOWEST:HIGHEST"
        )
    if whole:
        dtype = numpy_dtype(info.dtype)
        least, most = (
            (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)) if dtype.kind in "iu" else (0, 1)
        )
        if low < least or high > most or low != int(low) or high != int(high):
            raise UsageError(
                f"the range of {info.name!r} is {low:g} to {high:g}",
                hint=f"{info.dtype} holds whole numbers from {least} to {most}",
            )
    return low, high


def _texts(stream: _Stream, count: int, words: Sequence[str | bytes]) -> Array:
    """Return texts in which as many of the words occur as fit, the first and last among them."""
    import numpy as np

    encoded = [word.encode() if isinstance(word, str) else bytes(word) for word in words or _WORDS]
    texts = list(_choose_texts(count, list(dict.fromkeys(encoded))))
    ranks = np.argsort(stream.uniform(count), kind="stable")
    flat = np.empty(count, object)
    for text, place in zip(texts, ranks, strict=True):
        flat[place] = text
    return flat


def _choose_texts(count: int, words: list[bytes]) -> Iterator[bytes]:
    """Yield `count` texts: the odd ones, single words, then sentences of the words left over."""
    odd = [UNKNOWN_WORD, b""][: count - 1]
    room = count - len(odd)
    yield from odd
    if room >= len(words):
        for index in range(room):
            yield words[index % len(words)]
        return
    singles = room - room // 2
    chosen = _spread(len(words), singles)
    yield from (words[index] for index in chosen)
    left = [word for index, word in enumerate(words) if index not in set(chosen)]
    sentences = room - singles
    step = min(_SENTENCE, -(-len(left) // sentences)) if sentences else 0
    starts = _spread(max(1, len(left) - step + 1), sentences)
    starts += [starts[-1]] * (sentences - len(starts)) if starts else []
    yield from (b" ".join(left[start : start + step]) for start in starts)


def _spread(size: int, count: int) -> list[int]:
    """Return `count` numbers below `size` (fewer if there are fewer), the last among them."""
    count = min(size, count)
    if count == 1:
        return [size - 1]
    return [index * (size - 1) // (count - 1) for index in range(count)]


# --- values that a user gives ---------------------------------------------------------------------


def fit_inputs(arrays: Mapping[str, Any], inputs: Sequence[TensorInfo]) -> dict[str, Array]:
    """Return the arrays in the order and dtypes of `inputs`.

    The name "" stands for the only input.  Numbers are cast where the dtype wanted holds them: a
    whole number for a float, 64 bits for 32 (floats rounded, integers only if they fit).
    Raises UsageError naming what is missing, too much, or does not fit.
    """
    from ckptkit.model_io.array_files import as_array

    values = {name: as_array(value) for name, value in arrays.items()}
    names = [info.name for info in inputs]
    if set(values) == {""} and len(names) == 1:
        values = {names[0]: values[""]}
    missing = [name for name in names if name not in values]
    unknown = [name for name in values if name not in names]
    if missing or unknown:
        problems = [f"no value for {', '.join(missing)}"] if missing else []
        problems += [f"no input is called {', '.join(map(repr, unknown))}"] if unknown else []
        raise UsageError("; ".join(problems), hint=f"inputs: {', '.join(names) or 'none'}")
    return {info.name: _fitted(info, values[info.name]) for info in inputs}


def _fitted(info: TensorInfo, array: Array) -> Array:
    if info.shape is not None:
        fits = len(info.shape) == array.ndim and all(
            n is None or n == m for n, m in zip(info.shape, array.shape, strict=True)
        )
        if not fits:
            raise UsageError(
                f"input {info.name!r} has shape {list(array.shape)}", hint=f"wanted: {info.text}"
            )
    if (info.dtype == "string") != (array.dtype == object):
        raise UsageError(
            f"input {info.name!r} holds {array.dtype.name}", hint=f"wanted: {info.text}"
        )
    return array if info.dtype == "string" else _cast(info, array)


def _cast(info: TensorInfo, array: Array) -> Array:
    import numpy as np

    from ckptkit.dtypes import dtype_of_numpy

    wanted = numpy_dtype(info.dtype)
    if array.dtype == wanted:
        return array
    kinds = kind(dtype_of_numpy(array.dtype)), kind(info.dtype)
    rank = {"bool": 0, "uint": 1, "int": 1, "float": 2, "complex": 3}
    with np.errstate(all="ignore"):
        # never from a richer kind to a poorer one: a fraction is no integer
        if rank[kinds[0]] > rank[kinds[1]]:
            good = False
        else:
            cast = array.astype(wanted)
            good = (
                np.array_equal(np.isfinite(cast), np.isfinite(array))
                if kinds[1] in ("float", "complex")
                else np.array_equal(cast.astype(array.dtype), array)
                and np.array_equal(cast < 0, array < 0)
            )
    if not good:
        raise UsageError(
            f"input {info.name!r} holds {array.dtype.name} that {info.dtype} cannot",
            hint=f"wanted: {info.text}",
        )
    return cast
