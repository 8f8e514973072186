"""What every format must do, for whoever adds one: a suite for pytest.

    from ckptkit.testing.formats import FormatConformance

    class TestRows(FormatConformance):
        format = "rows"                    # a row of `ckptkit.stores.registry.FORMATS`
        dtypes = ("float32", "int64")      # those that its files can hold

pytest then runs each check as a test of its own: values and specs of every dtype and shape, reading
by blocks and by spans, detection by content, equal bytes from equal tensors, pickling, files that
are cut or changed, and every command.  A format that is read and not written overrides `write`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ckptkit.dtypes import DTYPES, numpy_dtype
from ckptkit.errors import CkptkitError
from ckptkit.stores.base import Store
from ckptkit.stores.locate import locate
from ckptkit.stores.registry import format_of, function_of, open_format
from ckptkit.stores.writing import Blocks, TensorToWrite

if TYPE_CHECKING:
    from ckptkit.dtypes import Array

SHAPES = ((), (0,), (3, 0, 2), (1,), (7,), (5, 3), (2, 1, 3, 1, 2, 1, 1, 2))
FIXED_DTYPES = [name for name, row in DTYPES.items() if row.itemsize]
STRINGS = [b"", b"a", b"\0", b"tail\0", b"\xff\xfe", b"x" * 300, "né".encode(), b"line\nline"]
PICKLE_BYTES = 1000  # beside the path; a store that pickles its specs takes 100 kB of a real model
_BITS = {"bool": 1, "int4": 4, "uint4": 4, "int2": 2, "uint2": 2, "float4_e2m1fn": 4}
_CUTS, _FLIPS = 64, 200  # damaged copies of one file


def values_of(dtype: str, shape: tuple[int, ...], seed: int = 0) -> Array:
    """Return an array with random bits (NaN payloads and infinities among them).

    Args:
        dtype: as `ckptkit.dtypes` spells it.
        shape: elements per axis.
        seed: of the bits; the same seed gives the same array.

    Returns:
        An array of that shape; strings as an object array of bytes.
    """
    import numpy as np

    size = math.prod(shape)
    if dtype == "string":
        flat = np.empty(size, object)
        for index in range(size):
            flat[index] = STRINGS[(index + seed) % len(STRINGS)]
        return flat.reshape(shape)
    target = numpy_dtype(dtype)
    rng = np.random.default_rng([seed, *dtype.encode()])
    raw = rng.integers(0, 1 << _BITS.get(dtype, 8), size * target.itemsize, np.uint8)
    return raw.view(target).reshape(shape)


def corpus(dtypes: Iterable[str]) -> dict[str, tuple[str, Array]]:
    """Return tensors of these dtypes in all shapes.

    Args:
        dtypes: as `ckptkit.dtypes` spells them.

    Returns:
        {name such as `float32/3x0x2`: (dtype, values)}.
    """
    return {
        f"{dtype}/{'x'.join(map(str, shape)) or 'scalar'}": (dtype, values_of(dtype, shape, seed))
        for dtype in dtypes
        for seed, shape in enumerate(SHAPES)
    }


def tensors_to_write(tensors: Mapping[str, tuple[str, Array]]) -> list[TensorToWrite]:
    """Return the list of tensors that a writer is given.

    Args:
        tensors: {name: (dtype, values)}.

    Returns:
        One item per tensor, in their order.
    """
    return [TensorToWrite(key, dtype, values.shape) for key, (dtype, values) in tensors.items()]


def blocks_of(tensors: Mapping[str, tuple[str, Array]], step: int = 4) -> Blocks:
    """Return the blocks that a writer asks for.

    Args:
        tensors: {name: (dtype, values)}.
        step: elements of one block.

    Returns:
        A function from a name to an iterator of (start, 1-D values).
    """

    def blocks(key: str) -> Iterator[tuple[int, Array]]:
        flat = tensors[key][1].reshape(-1)
        for start in range(0, flat.size, step):
            yield start, flat[start : start + step]

    return blocks


def same_bits(one: Array, other: Array) -> bool:
    """Whether two arrays have one dtype, shape and bits; a NaN equals itself.

    Args:
        one: an array.
        other: another one.

    Returns:
        Whether no bit differs.
    """
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.dtype == object:
        return bool(one.tolist() == other.tolist())
    return one.tobytes() == other.tobytes()


def check_same_bytes(
    write: Callable[[Path, list[TensorToWrite], Blocks], object], directory: Path
) -> None:
    """Assert that equal tensors give equal files, in any order and in blocks of any size.

    Args:
        write: writes (path, tensors, blocks).
        directory: where two files can be written.

    Raises:
        AssertionError: where a byte differs.
    """
    tensors = corpus(["float32", "int4", "string", "bool"])
    _check_same_bytes(write, directory, tensors)


def _check_same_bytes(
    write: Callable[[Path, list[TensorToWrite], Blocks], object],
    directory: Path,
    tensors: Mapping[str, tuple[str, Array]],
) -> None:
    listed = tensors_to_write(tensors)
    for name, order, step in (("a", listed, 4), ("b", listed[::-1], 100)):
        write(directory / name, order, blocks_of(tensors, step))
    assert (directory / "a").read_bytes() == (directory / "b").read_bytes()


def check_store(store: Store, tensors: Mapping[str, tuple[str, Array]], step: int = 3) -> None:
    """Assert that a store holds exactly these tensors, by blocks and by spans of odd sizes.

    Args:
        store: as its format's opener returns it.
        tensors: {key: (dtype, values)}.
        step: elements of one block.

    Raises:
        AssertionError: where a name, dtype, shape or bit differs.
    """
    assert set(store.specs) == set(tensors)
    for key, (dtype, values) in tensors.items():
        spec, flat = store.specs[key], values.reshape(-1)
        assert (spec.key, spec.dtype, spec.shape) == (key, dtype, values.shape)
        done = 0
        for start, part in store.blocks(key, step):
            assert start == done
            assert 0 < len(part) <= step or dtype == "string"  # strings are cut by their bytes
            assert same_bits(part, flat[start : start + len(part)]), key
            done += len(part)
        assert done == flat.size
        for first, last in ((0, flat.size), (1, 4), (flat.size, flat.size), (2, 2)):
            assert same_bits(store.read(key, first, last), flat[first:last]), (key, first, last)


def _bytes_of(store: Store) -> dict[str, bytes]:
    return {key: store.read(key).tobytes() for key in store.specs}


class FormatConformance:
    """What is asserted of a format; subclass it, under a name that pytest collects.

    format: the name of its row.  dtypes: those that its files can hold.
    """

    format: ClassVar[str] = ""
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "int64")

    # -- what a subclass may override --------------------------------------------------------------

    def path_in(self, directory: Path) -> Path:
        """Return where a file of the format goes: by the first suffix of its row.

        Args:
            directory: an empty directory.

        Returns:
            A path in it at which nothing lies.
        """
        return directory / f"weights{next(iter(format_of(self.format).suffixes), '')}"

    def write(self, path: Path, tensors: Mapping[str, tuple[str, Array]]) -> None:
        """Write tensors at a path; by default with the writer of the format's row.

        Args:
            path: as `path_in` returned it.
            tensors: {name: (dtype, values)}.
        """
        row = format_of(self.format)
        assert row.writer, "a format without a writer overrides `write`"
        function_of(row.writer)(path, tensors_to_write(tensors), blocks_of(tensors))

    # -- the checks --------------------------------------------------------------------------------

    def test_values_of_every_dtype_and_shape(self, tmp_path: Path) -> None:
        """What was written is read, by blocks and by spans."""
        tensors = corpus(self.dtypes)
        path = self._written(tmp_path, tensors)
        check_store(open_format(self.format, path), tensors)

    def test_content_says_what_it_is(self, tmp_path: Path) -> None:
        """The path alone leads to the format."""
        assert locate(self._written(tmp_path)).format == self.format

    def test_equal_tensors_give_equal_bytes(self, tmp_path: Path) -> None:
        """Neither order nor size of blocks shows in the file."""
        row = format_of(self.format)
        if row.writer and not row.structure and not row.is_index:
            _check_same_bytes(function_of(row.writer), tmp_path, corpus(self.dtypes))

    def test_a_store_travels_as_its_path(self, tmp_path: Path) -> None:
        """A store is small when pickled, and holds the same in another process."""
        store = open_format(self.format, self._written(tmp_path))
        assert len(ForkingPickler.dumps(store)) < PICKLE_BYTES + len(str(store.path))
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            assert pool.submit(_bytes_of, store).result() == _bytes_of(store)

    def test_a_file_that_was_cut_is_refused(self, tmp_path: Path) -> None:
        """No cut is read as other values than were written; it is refused in words."""
        path = self._written(tmp_path)
        if not path.is_file():
            return
        whole, content = path.read_bytes(), self._content(path)
        rng = random.Random(1)
        for length in sorted({0, 1, len(whole) - 1, *rng.choices(range(len(whole)), k=_CUTS)}):
            path.write_bytes(whole[:length])
            found = self._content(path)
            assert found in (None, content), f"cut to {length} of {len(whole)} bytes"

    def test_a_changed_byte_ends_in_no_other_error(self, tmp_path: Path) -> None:
        """Damage is a refusal or other values, never an error of another kind."""
        path = self._written(tmp_path)
        if not path.is_file():
            return
        whole = bytearray(path.read_bytes())
        rng = random.Random(2)
        for _ in range(_FLIPS):
            place, bit = rng.randrange(len(whole)), 1 << rng.randrange(8)
            whole[place] ^= bit
            path.write_bytes(whole)
            self._content(path)
            whole[place] ^= bit

    def test_commands(self, tmp_path: Path) -> None:
        """ls, show, diff, verify FILE, verify DIR and scan take a file of the format."""
        from ckptkit.operations.diff.api import diff
        from ckptkit.operations.ls import ls
        from ckptkit.operations.scan.api import scan
        from ckptkit.operations.show import show
        from ckptkit.operations.verify.api import verify

        path = self._written(tmp_path)
        names = [tensor.naming.name for tensor in ls(path).tensors]
        assert names
        for name in names:
            assert show(path, name).naming.name == name
        assert diff(path, path).same
        assert verify(path).ok
        assert verify(path.parent).ok
        assert scan(path).ok

    def test_conversions(self, tmp_path: Path) -> None:
        """Values go to npz and, where the format has a writer, come back with every bit."""
        from ckptkit.operations.convert.api import convert
        from ckptkit.operations.diff.api import diff

        path = self._written(tmp_path)
        convert(path, tmp_path / "there.npz")
        assert diff(path, tmp_path / "there.npz").same
        row = format_of(self.format)
        if row.writer and not row.structure:
            (tmp_path / "back").mkdir()
            back = self.path_in(tmp_path / "back")
            convert(tmp_path / "there.npz", back, to=self.format)
            assert diff(path, back).same

    # -- below -------------------------------------------------------------------------------------

    def _written(
        self, directory: Path, tensors: Mapping[str, tuple[str, Array]] | None = None
    ) -> Path:
        folder = directory / "files"
        folder.mkdir()
        path = self.path_in(folder)
        if tensors is None:
            dtype = self.dtypes[0]
            tensors = {f"layer/{n}": (dtype, values_of(dtype, (4, n + 1), n)) for n in range(3)}
        self.write(path, tensors)
        return path

    def _content(self, path: Path) -> dict[str, bytes] | None:
        """Return {key: bytes of the values}; None where reading them is refused in words."""
        try:
            store = open_format(self.format, path)
            return {
                key: b"".join(part.tobytes() for _, part in store.blocks(key))
                for key in store.specs
            }
        except CkptkitError:
            return None


__all__ = [
    "FIXED_DTYPES",
    "SHAPES",
    "STRINGS",
    "FormatConformance",
    "blocks_of",
    "check_same_bytes",
    "check_store",
    "corpus",
    "same_bits",
    "tensors_to_write",
    "values_of",
]
