"""What a model takes and gives: names, dtypes and shapes of its inputs and outputs, compared.

A `Discrepancy` is one row of any comparison of a model with what was recorded of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ckptkit.errors import FormatError
from ckptkit.wording import say

Shape = tuple[int | None, ...]


class InputPart(NamedTuple):
    """Which part of a sparse or ragged input a dense one is.

    of: the input, or what else its parts have in common.  kind: "sparse" or "ragged".  role: of
    sparse ones "indices", "values" and "dense_shape", of ragged ones "values" and "row_splits".
    shape: of the whole, for sparse ones.
    """

    of: str
    kind: str
    role: str
    shape: Shape | None = None


class TensorInfo(NamedTuple):
    """One input or output; shape: None where the rank is not known, None per unknown axis.

    part: of an input that is a part of a sparse or ragged one.
    """

    name: str
    dtype: str
    shape: Shape | None
    part: InputPart | None = None

    @property
    def text(self) -> str:
        """The dtype and shape as `float32 [?, 4]`."""
        if self.shape is None:
            return f"{self.dtype} of any shape"
        return f"{self.dtype} [{', '.join('?' if n is None else str(n) for n in self.shape)}]"


class ModelSignature(NamedTuple):
    """Inputs and outputs of one signature (or of calling a Keras model), in the model's order."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            side: [_plain(info) for info in infos]
            for side, infos in (("inputs", self.inputs), ("outputs", self.outputs))
        }

    @classmethod
    def from_json(cls, value: Any, where: str) -> ModelSignature:
        """Return the signature that `to_json` described; raises FormatError."""
        if not isinstance(value, Mapping):
            raise FormatError(where, "the signature is no JSON object")
        return cls(*(_infos(value.get(side), f"{where}: {side}") for side in ("inputs", "outputs")))


def _plain(info: TensorInfo) -> dict[str, Any]:
    shape = None if info.shape is None else list(info.shape)
    found: dict[str, Any] = {"name": info.name, "dtype": info.dtype, "shape": shape}
    return found if info.part is None else {**found, "part": info.part._asdict()}


class Discrepancy(NamedTuple):
    """One thing that is not as recorded.

    severity: "error" (it computes something else), "warning" (it may) or "note" (no finding: said
    because it explains another one).  code: a fixed word such as `weight.swapped`.  where: the
    variable, file, layer or input.
    """

    severity: str
    code: str
    where: str
    message: str
    hint: str = ""


def compare_signatures(recorded: ModelSignature, now: ModelSignature) -> tuple[Discrepancy, ...]:
    """Return how inputs and outputs differ from those recorded.

    Order does not count: values are passed by name.  A batch axis that was fixed and is now free
    (or the other way round) is a note; any other change is an error.
    """
    return (
        *_sides("input", recorded.inputs, now.inputs),
        *_sides("output", recorded.outputs, now.outputs),
    )


def _sides(
    side: str, recorded: Sequence[TensorInfo], now: Sequence[TensorInfo]
) -> Iterator[Discrepancy]:
    old, new = ({info.name: info for info in infos} for infos in (recorded, now))
    removed = [info for info in recorded if info.name not in new]
    added = [info for info in now if info.name not in old]
    # what is gone and what is new may be one thing renamed, where only one can be meant
    for info in removed:
        twins = [other for other in added if fits(info, other)]
        rivals = [other for other in removed if fits(other, info)]
        if len(twins) == 1 and len(rivals) == 1:
            added.remove(twins[0])
            yield Discrepancy(
                "error",
                f"{side}.renamed",
                info.name,
                f"{side} {info.name!r} is now called {twins[0].name!r}",
                say(f"‹rename={info.name}={twins[0].name}› compares them all the same"),
            )
        else:
            names = ", ".join(other.name for other in now) or "none"
            yield Discrepancy(
                "error", f"{side}.missing", info.name, f"no {side} {info.name!r}; now: {names}"
            )
    for info in added:
        yield Discrepancy("error", f"{side}.added", info.name, f"{side} {info.name!r} is new")
    for info in recorded:
        if info.name in new:
            yield from _changed(side, info, new[info.name])


def _changed(side: str, old: TensorInfo, new: TensorInfo) -> Iterator[Discrepancy]:
    if old.dtype != new.dtype:
        yield Discrepancy(
            "error", f"{side}.dtype", old.name, f"{side} was {old.dtype} and is {new.dtype}"
        )
    if old.shape == new.shape:
        return
    severity = "note" if _compatible(old.shape, new.shape) else "error"
    yield Discrepancy(
        severity, f"{side}.shape", old.name, f"{side} was {old.text} and is {new.text}"
    )


def fits(one: TensorInfo, other: TensorInfo) -> bool:
    """Whether a value of one could be a value of the other."""
    return one.dtype == other.dtype and _compatible(one.shape, other.shape)


def _compatible(one: Shape | None, other: Shape | None) -> bool:
    if one is None or other is None:
        return True
    return len(one) == len(other) and all(
        a is None or b is None or a == b for a, b in zip(one, other, strict=True)
    )


def _infos(value: Any, where: str) -> tuple[TensorInfo, ...]:
    if not isinstance(value, list):
        raise FormatError(where, "no list of tensors")
    return tuple(_info(item, where) for item in value)


def _info(item: Any, where: str) -> TensorInfo:
    shape = item.get("shape") if isinstance(item, Mapping) else 0
    if shape is not None and not (isinstance(shape, list) and all(map(_is_axis, shape))):
        raise FormatError(where, "a tensor without name, dtype and shape", found=repr(item)[:80])
    name, dtype = item.get("name"), item.get("dtype")
    if not isinstance(name, str) or not isinstance(dtype, str):
        raise FormatError(where, "a tensor without name, dtype and shape", found=repr(item)[:80])
    part = _part(item.get("part"), where) if item.get("part") is not None else None
    return TensorInfo(name, dtype, None if shape is None else tuple(shape), part)


def _part(value: Any, where: str) -> InputPart:
    found = dict(value) if isinstance(value, Mapping) else {}
    of, kind, role, shape = (found.get(key) for key in InputPart._fields)
    sized = shape is None or (isinstance(shape, list) and all(map(_is_axis, shape)))
    if not (sized and isinstance(of, str) and isinstance(kind, str) and isinstance(role, str)):
        raise FormatError(where, "a part of a tensor without whole, kind and role")
    return InputPart(of, kind, role, None if shape is None else tuple(shape))


def _is_axis(size: object) -> bool:
    return size is None or (type(size) is int and size >= 0)


def names_of(infos: Iterable[TensorInfo]) -> list[str]:
    """Return the names, in order."""
    return [info.name for info in infos]
