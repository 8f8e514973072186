"""The compiled measure of differences gives what numpy gives, to the last bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptkit
from ckptkit._io import crc32c
from ckptkit.compare import kernel
from ckptkit.compare.metrics import Meter
from ckptkit.compare.spans import FileSpan, WorkItem, do_items
from ckptkit.compare.statistics import EXACT, METRIC_BLOCK, DiffStatistics, ElementTolerance
from ckptkit.errors import TruncatedError, UsageError
from ckptkit.operations.statistics import statistics_of_all
from support.goldens import GOLDEN, goldens
from support.number_pairs import pair
from support.places import ROOT, environment
from support.weights import Array, MemoryStore, write_bundle

# A suite that is told to leave the library alone tests numpy, and has nothing to compare.
here = kernel.description().startswith("compiled")
built = pytest.mark.skipif(not here, reason=kernel.description())
FASTER = {"compiled, avx512": ("avx2", "avx512"), "compiled, avx2": ("avx2",)}
PROCESSORS = ("baseline", *FASTER.get(kernel.description(), ()))


def measured(
    monkeypatch: pytest.MonkeyPatch, by: str, old: str, new: str, *arguments: Any
) -> DiffStatistics:
    left, right, tolerance = arguments
    monkeypatch.setenv(kernel.VARIABLE, by)
    meter = Meter(old, new, tolerance)
    meter.add(5, left, right)
    return meter.statistics


def same_as_numpy(monkeypatch: pytest.MonkeyPatch, *pair_of_arrays: Any) -> None:
    # as text, in which -0.0 and 0.0 differ, and NaN is NaN
    want = repr(measured(monkeypatch, "numpy", *pair_of_arrays))
    for processor in PROCESSORS:
        assert repr(measured(monkeypatch, processor, *pair_of_arrays)) == want, processor


@built
@pytest.mark.parametrize("first", range(0, 200, 50))
def test_generated_pairs(monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    for seed in range(first, first + 50):
        same_as_numpy(monkeypatch, *pair(seed, largest=1000 if seed % 50 else 1 << 20))


@built
@pytest.mark.slow
def test_a_thousand_generated_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(1000, 2000):
        same_as_numpy(monkeypatch, *pair(seed))


@built
def test_sums_do_not_depend_on_how_an_array_lies_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 1 << 8, 4 * 1001 + 1, dtype=np.uint8)
    odd = raw[1:].view(np.float32)
    assert odd.ctypes.data % 4
    spread = np.repeat(odd, 2)[::2]
    swapped = odd.astype(odd.dtype.newbyteorder())
    for old in (odd, spread, swapped):
        same_as_numpy(monkeypatch, "float32", "float32", old, np.flip(odd).copy(), EXACT)


@built
def test_moments_of_generated_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `show` and `ls --stats` say of one tensor: all but strings, by whoever measures."""
    for seed in range(300):
        values = pair(seed, largest=1000 if seed % 30 else 1 << 20)[2]
        found = set()
        for by in ("numpy", *PROCESSORS):
            monkeypatch.setenv(kernel.VARIABLE, by)
            store = MemoryStore({"t": values}, 50_000)
            found.add(repr(statistics_of_all(store, list(store.specs.values()))))
        assert len(found) == 1, (seed, found)


def reports(monkeypatch: pytest.MonkeyPatch, old: Path, new: Path, **options: Any) -> list[Any]:
    """Return what `diff` says, by numpy and by each processor's code."""
    found: list[Any] = []
    for by in ("numpy", *PROCESSORS):
        monkeypatch.setenv(kernel.VARIABLE, by)
        try:
            found.append(ckptkit.diff(old, new, **options).to_json())
        except ckptkit.CkptkitError as error:  # two files may have no tensor in common
            found.append(str(error))
    return found


def differing_reports(
    monkeypatch: pytest.MonkeyPatch, old: Path, new: Path, **options: Any
) -> list[str]:
    first, *others = reports(monkeypatch, old, new, **options)
    return [f"{old.name} {new.name}" for other in others if other != first]


def write_pairs(folder: Path, seeds: range, largest: int) -> tuple[Path, Path]:
    """Write two bundles, of OLD and NEW of many pairs."""
    old: dict[str, Array] = {}
    new: dict[str, Array] = {}
    for seed in seeds:
        old[f"t{seed}"], new[f"t{seed}"] = pair(seed, largest)[2:4]
    return write_bundle(folder / "old", old), write_bundle(folder / "new", new)


@built
@pytest.mark.parametrize("rtol", [0.0, 1e-3])
def test_reports_of_files_are_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rtol: float
) -> None:
    old, new = write_pairs(tmp_path, range(3000, 3040), 66_000)
    assert not differing_reports(monkeypatch, old, new, rtol=rtol, atol=rtol / 10, cast_ok=True)


@built
@pytest.mark.slow
def test_reports_of_a_thousand_pairs_are_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for first in range(4000, 5000, 50):
        (tmp_path / str(first)).mkdir()
        old, new = write_pairs(tmp_path / str(first), range(first, first + 50), 70_001)
        for rtol, atol in ((0.0, 0.0), (1e-6, 1e-8), (0.0, 1e-3)):
            assert not differing_reports(monkeypatch, old, new, rtol=rtol, atol=atol)


@built
@pytest.mark.slow
def test_reports_of_goldens_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every golden against that of the same name of each other version of TensorFlow."""
    by_model: dict[str, list[Path]] = {}
    for item in goldens("checkpoint", "saved-model", "keras", "weights.h5", "h5"):
        version, _, model = item.name.partition("/")
        by_model.setdefault(model, []).append(GOLDEN / version / model)
    compared = 0
    for paths in by_model.values():
        for old in paths:
            for new in paths:
                compared += 1
                assert not differing_reports(monkeypatch, old, new)
                assert not differing_reports(monkeypatch, old, new, rtol=1e-3, atol=1e-6)
    assert compared > len(by_model)


@built
def test_a_block_for_numpy_amid_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its bytes are read once, and what follows it is measured as well."""
    old = np.arange(3 * METRIC_BLOCK + 5, dtype=np.float32)
    new = old + 1
    new[METRIC_BLOCK + 3] = np.nan
    old.tofile(tmp_path / "old")
    new.tofile(tmp_path / "new")
    left, right = (FileSpan(tmp_path / n, 0, old.nbytes, "float32", None) for n in ("old", "new"))
    for tolerance in (EXACT, ElementTolerance(1e-3, 0.5)):
        found = []
        for by in ("numpy", *PROCESSORS):
            monkeypatch.setenv(kernel.VARIABLE, by)
            found += do_items((WorkItem(0, left, right, 0, old.size, "metrics", tolerance, False),))
        assert len({repr(result) for result in found}) == 1, found
        assert found[0].statistics is not None and found[0].statistics.nonfinite == 1
        assert found[0].new_crc == crc32c.value(new.tobytes())


@pytest.mark.parametrize("by", ["numpy", ""])
def test_a_file_that_is_too_short_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, by: str
) -> None:
    monkeypatch.setenv(kernel.VARIABLE, by)
    values = np.arange(METRIC_BLOCK * 2, dtype=np.float32)
    values.tofile(tmp_path / "old")
    values[:-1].tofile(tmp_path / "new")
    old, new = (FileSpan(tmp_path / n, 0, values.nbytes, "float32", None) for n in ("old", "new"))
    with pytest.raises(TruncatedError):
        do_items((WorkItem(0, old, new, 0, values.size, "metrics", EXACT, False),))


@built
def test_no_numpy_is_imported_for_plain_numbers(tmp_path: Path) -> None:
    values = np.arange(1000, dtype=np.float32)
    old = write_bundle(tmp_path / "old", {"t": values})
    new = write_bundle(tmp_path / "new", {"t": values + 1})
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from ckptkit.compare.tensors import Pair, compare\n"
        "from ckptkit.stores.tensor_bundle.reader import open_bundle\n"
        "old, new = (open_bundle(Path(name)) for name in sys.argv[1:])\n"
        "delta = compare(Pair(old, 't', new, 't')).delta\n"
        "print(delta.max_abs, 'numpy' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(old), str(new)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout == "1.0 False\n"


def test_the_environment_asks_for_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernel.VARIABLE, "fast")
    with pytest.raises(UsageError, match="it may be numpy, baseline, avx2, avx512, or not set"):
        kernel.description()


@built
def test_it_says_which_code_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernel.VARIABLE, "baseline")
    assert kernel.description() == "compiled, baseline, since CKPTKIT_KERNEL says so"


@built
@pytest.mark.slow
@pytest.mark.parametrize("by", ["numpy", "baseline"])
def test_what_compares_passes_however_it_is_measured(by: str) -> None:
    suites = ("compare", "operations/diff", "operations/verify", "golden", "reports")
    folders = [str(ROOT / "tests" / suite) for suite in suites]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow and not runtimes", *folders]
    variables = environment(**{kernel.VARIABLE: by})
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
