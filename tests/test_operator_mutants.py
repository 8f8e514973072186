"""Mutants of our own code: they are what they say, and those that survive have a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import ckptkit
from benchmarks import operator_mutants
from benchmarks._covering_tests import Table, change, functions_by_place
from benchmarks._operators import OperatorMutant, draw, mutants_of, mutated

CODE = '''
LIMIT = 3

class Box:
    def is_full(self, count: int = 0) -> bool:
        """Whether it is full."""
        if count > LIMIT and not self.open:
            raise ValueError("too many")
        assert count
        return max(pow(count, 2), 1) == LIMIT
'''
EXPECTED = {
    ("", "constant + 1", "LIMIT = 3", "4"),
    ("", "constant - 1", "0", "-1"),  # a default is computed on import
    ("Box.is_full", "comparison", "count > LIMIT", "count >= LIMIT"),
    ("Box.is_full", "and/or", "count > LIMIT and (not self.open)",
     "count > LIMIT or not self.open"),
    ("Box.is_full", "operator dropped", "not self.open", "self.open"),
    ("Box.is_full", "raise removed", "raise ValueError('too many')", "pass"),
    ("Box.is_full", "return removed", "return max(pow(count, 2), 1) == LIMIT", "return None"),
    ("Box.is_full", "arguments swapped", "pow(count, 2)", "pow(2, count)"),
    ("Box.is_full", "function", "max(pow(count, 2), 1)", "min(pow(count, 2), 1)"),
}  # fmt: skip


@pytest.fixture
def mutants(tmp_path: Path) -> list[OperatorMutant]:
    path = tmp_path / "box.py"
    path.write_text(CODE, encoding="utf-8")
    return mutants_of(path, tmp_path)


def test_each_mutant_says_what_it_changes(mutants: list[OperatorMutant]) -> None:
    found = {(m.function, m.operator, m.before, m.after) for m in mutants}
    assert found >= EXPECTED
    assert not any("Whether" in m.before for m in mutants)  # no docstring
    assert not any("assert" in m.before for m in mutants)
    # what has no order is not turned round
    swapped = [m.before for m in mutants if m.operator == "arguments swapped"]
    assert swapped == ["pow(count, 2)"]
    assert len({m.name for m in mutants}) == len(mutants)


def test_a_mutant_does_what_it_says(mutants: list[OperatorMutant], tmp_path: Path) -> None:
    for mutant in mutants:
        names: dict[str, object] = {"__name__": "box"}
        exec(mutated(mutant, tmp_path), names)
        wanted = {("LIMIT = 3", "4"): 4, ("LIMIT = 3", "2"): 2}
        assert names["LIMIT"] == wanted.get((mutant.before, mutant.after), 3)
    assert (tmp_path / "box.py").read_text(encoding="utf-8") == CODE


def test_a_draw_is_the_same_and_survives_other_code(tmp_path: Path) -> None:
    path = tmp_path / "box.py"
    path.write_text(CODE, encoding="utf-8")
    everything = mutants_of(path, tmp_path)
    drawn = draw(everything, 5, 17)
    assert drawn == draw(list(reversed(everything)), 5, 17)
    assert len(drawn) == 5 and draw(everything, 5, 18) != drawn
    path.write_text(f"ABOVE = 1 + 1\n{CODE}", encoding="utf-8")
    ranks = {m.name: m.rank(17) for m in mutants_of(path, tmp_path)}
    assert all(ranks[m.name] == m.rank(17) for m in everything)


def test_the_tests_that_reach_a_line_are_chosen() -> None:
    mutant = OperatorMutant("ckptkit/align/types.py", "f", "", "", "", 0, 0, 0, 5, 5, 6)
    table = Table(
        {"tests/a.py::one": 3.0, "tests/a.py::two": 1.0, "tests/align/b.py::near": 2.0},
        {
            "tests/a.py::one": {"ckptkit/align/types.py": frozenset({6})},
            "tests/a.py::two": {"ckptkit/align/types.py": frozenset({4, 7})},
            "tests/align/b.py::near": {"ckptkit/align/types.py": frozenset({5})},
        },
    )
    assert table.ordered(mutant, 10.0) == ["tests/align/b.py::near", "tests/a.py::one"]
    assert table.ordered(mutant, 2.5) == ["tests/align/b.py::near"]


def test_a_loaded_function_is_changed_in_place() -> None:
    from ckptkit.text import count_text

    root = Path(ckptkit.__file__).parents[1]
    everything = mutants_of(root / "ckptkit" / "text.py", root)
    known = functions_by_place()
    before = count_text.__code__
    chosen = next(
        m for m in everything if m.function == "count_text" and m.operator == "return removed"
    )
    try:
        assert change(chosen, root, known)
        assert count_text(2, "tensor") is None
    finally:
        count_text.__code__ = before
    assert count_text(2, "tensor") == "2 tensors"


def test_what_survived_has_a_reason() -> None:
    rows = json.loads(operator_mutants.RESULTS.read_text("utf-8"))["mutants"]
    assert all(row.get("reason") for row in rows if row["status"] == "survived")
    names = [row["name"] for row in rows]
    assert len(set(names)) == len(names)


def test_those_that_no_test_once_noticed_are_always_drawn() -> None:
    root = Path(ckptkit.__file__).parents[1]
    for row in operator_mutants.ALWAYS:
        everything = mutants_of(root / "ckptkit" / row[0], root)
        drawn = operator_mutants.drawn({"": everything}, 0, operator_mutants.SEED)[""]
        assert drawn and len(drawn) < 10, row
