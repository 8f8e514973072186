"""Comparing two packed files row by row says what alignment says of them."""

from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptkit
from ckptkit.align.types import may_be_chance
from ckptkit.checkpoint import selection
from ckptkit.compare.tensors import Delta, Worst
from ckptkit.errors import UsageError
from ckptkit.operations.diff import twins
from ckptkit.operations.diff.pair_values import PAIR_STATUSES, PairValues
from ckptkit.operations.diff.result import MODES, at_places
from ckptkit.operations.diff.twins import TwinChanges
from ckptkit.operations.tolerance_rules import ToleranceRule, tolerance
from ckptkit.reports import table
from ckptkit.stores.packed_texts import places_in_order
from ckptkit.stores.safetensors import large_header
from ckptkit.stores.tensor_bundle import reader
from ckptkit.stores.tensor_bundle.writer import write_tensor_bundle
from ckptkit.stores.writing import TensorToWrite
from support.command_line import ckptkit as run

NAMES = [f"layer_{number}/{end}" for number in (1, 2, 10) for end in ("kernel", "bias")]


def written(prefix: Path, values: dict[str, list[float]]) -> Path:
    write_tensor_bundle(
        prefix,
        [TensorToWrite(name, "float32", (len(value),)) for name, value in values.items()],
        lambda key: iter([(0, np.array(values[key], np.float32))]),
    )
    return prefix


def values(**changed: list[float]) -> dict[str, list[float]]:
    """Return values by name, no two of them the same."""
    plain = {name: [at, at + 0.5, 7.0] for at, name in enumerate(NAMES)}
    return {**plain, **{name.replace("__", "/"): value for name, value in changed.items()}}


FILES: dict[str, dict[str, list[float]]] = {
    "plain": values(),
    "changed": values(layer_1__kernel=[9, 9, 1], layer_10__bias=[0, 0, 0]),
    "all changed": {name: [at + 100.0, 1, 2] for at, name in enumerate(NAMES)},
    "moved": {name: [(at + 2) % 6, (at + 2) % 6 + 0.5, 7.0] for at, name in enumerate(NAMES)},
    "another shape": values(layer_2__bias=[1, 2]),
    "one more": values(layer_3__bias=[1, 2, 4]),
    "one else": {name.replace("10", "11"): value for name, value in values().items()},
    "slots": values(layer_1__kernel__Adam=[1, 2, 3], layer_1__kernel__Adam_1=[1, 2, 3]),
    "swapped": values(layer_1__kernel=[1, 1.5, 7], layer_1__bias=[0, 0.5, 7]),
    "in another order": values(layer_2__bias=[7, 3, 3.5]),
    "no numbers": values(layer_2__bias=[float("nan"), 3.5, float("inf")]),
    "pruned": values(layer_2__bias=[0, 3.5, 0]),
    "rounded": {name: [at, at + 0.5, 7.000001] for at, name in enumerate(NAMES)},
}
OPTIONS: tuple[dict[str, Any], ...] = ({}, {"names": ["*kernel"]}, {"roles": ["slot"]})
RULES = [
    ToleranceRule("layer_1*", tolerance(0, 8, "layer_1*")),
    ToleranceRule("*bias", tolerance(0.5, 0, "*bias")),
    ToleranceRule("none", tolerance(1, 0, "none")),
]
OF_VALUES: tuple[dict[str, Any], ...] = (
    {"rtol": 0.5},
    {"atol": 8, "bitwise": True},
    {"tolerances": RULES, "atol": 1},
)


def told(old: Path, new: Path, mode: str, options: dict[str, Any]) -> str:
    try:
        result = ckptkit.diff(old, new, mode=mode, **options)
    except UsageError as error:
        return str(error)
    each = [repr(change) for change in result.changes]  # a NaN is not equal to itself
    places = range(0, len(each), 2)
    assert [repr(change) for change in at_places(result.changes, places)] == each[::2]
    assert each == [repr(result.changes[at]) for at in range(len(each))]
    differences = [repr(change) for change in result.changes if change.is_difference]
    assert differences == [repr(change) for change in result.differences]
    return json.dumps(result.to_json())


def test_packed_files_compare_as_others_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [written(tmp_path / name, content) for name, content in FILES.items()]
    cases: list[tuple[Path, Path, str, dict[str, Any]]] = [
        (old, new, mode, options)
        for old, new in itertools.product(paths[:8], paths[:8])
        for mode in ("quick", "structure")
        for options in OPTIONS
    ]
    cases += [
        (old, new, "values", options)
        for one, other in itertools.product(paths[:1], paths)
        for old, new in ((one, other), (other, one))
        for options in ({}, *OF_VALUES)
    ]
    cases += [(paths[0], paths[1], "values", options) for options in OPTIONS]
    before = [told(*case) for case in cases]
    monkeypatch.setattr(reader, "_LARGE_INDEX", 0)
    monkeypatch.setattr(selection, "_KEPT", 0)
    assert [told(*case) for case in cases] == before
    result = ckptkit.diff(paths[0], paths[1], mode="quick")
    assert isinstance(result.changes, TwinChanges)
    assert [c.name for c in result.differences] == ["layer_1/kernel", "layer_10/bias"]
    ruled = ckptkit.diff(paths[0], paths[1], tolerances=RULES)
    assert isinstance(ruled.changes, TwinChanges)
    assert ruled.warnings == ("tolerance of 'none' fits no tensor compared",)


def test_files_without_checksums_are_compared_and_refused_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = {
        name: {"dtype": "F32", "shape": [3], "data_offsets": [12 * at, 12 * at + 12]}
        for at, name in enumerate(NAMES)
    }
    text = json.dumps(header).encode()
    paths = []
    for called in ("plain", "changed", "all changed", "moved", "swapped"):
        data = np.array([FILES[called][name] for name in NAMES], np.float32).tobytes()
        paths.append(tmp_path / f"{called}.safetensors")
        paths[-1].write_bytes(len(text).to_bytes(8, "little") + text + data)
    cases = [(paths[0], path, mode) for path in paths for mode in MODES]
    before = [told(*case, {}) for case in cases]
    monkeypatch.setattr(large_header, "LARGE_HEADER", 0)
    assert [told(*case, {}) for case in cases] == before
    assert "no stored checksum for 6 of the tensors" in before[MODES.index("quick")]
    with ThreadPoolExecutor(2) as executor:
        result = ckptkit.diff(*paths[:2], executor=executor)
    assert isinstance(result.changes, TwinChanges) and json.dumps(result.to_json()) == before[3]


def test_numbers_of_a_pair_come_back_as_they_were() -> None:
    worst = Worst((1, 2), 0.1, float("-inf"))
    deltas = [
        Delta(6),
        Delta(6, 2, 1, 1, 1 / 3, float("inf"), 1e-300, 0.1, 7, 0.5, -1.0, float("nan"), worst),
        Delta(1, 1, 0, max_abs=(1 << 64) + 1, worst=Worst((), 1 << 63, -1), rule="bias", rtol=1.0),
        Delta(1, 1, 1, worst=Worst((0,), b"\xff", b"")),
        Delta(1, 1, 1, worst=Worst((0,), 1 + 2j, complex("nan"))),
        Delta(6),
    ]
    values = PairValues(len(deltas))
    for number, delta in enumerate(deltas):
        values.put(number, delta, f"hint {number}" if number == 2 else None)
    assert [repr(values.delta(number)) for number in range(len(deltas))] == list(map(repr, deltas))
    assert [values.hints(number) for number in (1, 2)] == [(), ("hint 2",)]
    statuses = [PAIR_STATUSES[status] for status in values.statuses]
    assert statuses == ["equal", "changed", "within", "changed", "changed", "equal"]


FORMS = [
    *([], ["--full"], ["--rtol", "0.5"], ["--full", "--rtol", "0.5"], ["--full", "--structure"]),
    *(["--stat"], ["--only", "changed"], ["--only", "removed"], ["--quick"]),
    *(["--format", form] for form in ("csv", "jsonl", "markdown", "html", "junit", "table:grid")),
]


def test_reports_of_packed_files_are_those_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [written(tmp_path / name, content) for name, content in FILES.items()]
    cases = [(paths[0], path, *form) for path in (*paths[1:4], paths[-2]) for form in FORMS]
    before = [run("diff", *case) for case in cases]
    monkeypatch.setattr(reader, "_LARGE_INDEX", 0)
    monkeypatch.setattr(selection, "_KEPT", 0)
    monkeypatch.setattr(table, "_KEPT_ROWS", 0)
    monkeypatch.setattr(twins, "_TOGETHER", 2)
    assert [run("diff", *case) for case in cases] == before


def of_one_checksum(values: list[float]) -> list[float]:
    """Return other values of the same crc32c: a multiple of its polynomial is added."""
    number = int.from_bytes(np.array(values, np.float32).tobytes(), "little")
    number ^= (1 | 0x82F63B78 << 1) << 13
    return [float(x) for x in np.frombuffer(number.to_bytes(4 * len(values), "little"), np.float32)]


@pytest.mark.parametrize("are_packed", [False, True])
def test_checksums_that_are_equal_by_chance_move_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, are_packed: bool
) -> None:
    if are_packed:
        monkeypatch.setattr(reader, "_LARGE_INDEX", 0)
    other = {name: [at + 100.0, 1, 2] for at, name in enumerate(NAMES)}
    other["layer_10/kernel"] = of_one_checksum(values()["layer_1/kernel"])
    paths = [written(tmp_path / "old", values()), written(tmp_path / "new", other)]
    specs = [ckptkit.open(path).specs for path in paths]
    assert specs[0]["layer_1/kernel"].crc32c == specs[1]["layer_10/kernel"].crc32c
    result = ckptkit.diff(*paths)
    assert [(c.status, c.evidence, c.hints) for c in result.changes] == [("changed", "key", ())] * 6
    assert isinstance(result.changes, TwinChanges) == are_packed


def test_few_of_many_equal_checksums_may_be_chance() -> None:
    assert may_be_chance(2, 100_000) and may_be_chance(21, 300_000) and may_be_chance(0, 1)
    assert not may_be_chance(50, 100_000) and not may_be_chance(1, 5_000)


@pytest.mark.parametrize("together", [1, 2, 3, 100])
def test_names_are_sorted_a_part_at_a_time(together: int) -> None:
    names = ["b", "a", "a", "c\n", "b", "", "d", "e", "f", "a"]
    parts = [names[at : at + together] for at in range(0, len(names), together)]
    expected = sorted(range(len(names)), key=names.__getitem__)
    assert list(places_in_order(parts)) == expected
    assert list(places_in_order([])) == []
