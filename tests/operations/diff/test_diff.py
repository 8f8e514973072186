"""`diff` end to end: what it says and how it exits, for every trap that it could fall into."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner

import ckptkit
from ckptkit.cli.main import cli
from ckptkit.compare.statistics import ElementTolerance
from ckptkit.errors import ChecksumError, CkptkitError, UsageError
from ckptkit.operations.diff.api import DiffResult, diff
from ckptkit.operations.tolerance_rules import ToleranceRule, read_tolerances
from ckptkit.reports.screen import Screen, shown_on
from ckptkit.testing import assert_same_weights
from support.places import ROOT, SUPPORT
from support.weights import Array, write_bundle

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def run(*arguments: object) -> Outcome:
    """Call `ckptkit diff`; the exit code is that of the real command."""
    result = CliRunner().invoke(cli, ["diff", *map(str, arguments)])
    if isinstance(result.exception, CkptkitError):
        return Outcome(result.exception.exit_code, result.stdout, str(result.exception))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


GIVES = "of the old values gives the new, value for value"
Pair = Callable[[Mapping[str, Array], Mapping[str, Array]], tuple[Path, Path]]


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """Write two bundles; return their prefixes."""

    def write(old: Mapping[str, Array], new: Mapping[str, Array]) -> tuple[Path, Path]:
        for file in tmp_path.glob("*.*"):
            file.unlink()
        return write_bundle(tmp_path / "old", old), write_bundle(tmp_path / "new", new)

    return write


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def save_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    np.savez(path, **arrays)  # type: ignore[arg-type]  # its stub knows no names of arrays


def statuses(result: DiffResult) -> dict[str, str]:
    return {change.name: change.status for change in result.changes}


# -- traps ---------------------------------------------------------------------------------------


def test_equal_files_are_the_same(pair: Pair) -> None:
    old, new = pair({"a/w": noise(3, 4)}, {"a/w": noise(3, 4)})
    code, out, _ = run(old, new)
    assert code == 0
    assert out.splitlines()[-1] == "same: 1 equal by value"


def test_one_element_of_a_bfloat16_tensor(pair: Pair) -> None:
    values = noise(20, 25).astype(BFLOAT16)
    other = values.copy()
    other[7, 3] += BFLOAT16.type(1)
    code, out, _ = run(*pair({"a/w": values}, {"a/w": other}))
    assert code == 1
    assert "1/500" in out and "[7,3]" in out


def test_a_permuted_tensor_is_called_so(pair: Pair) -> None:
    values = noise(8, 5)
    result = diff(*pair({"w": values}, {"w": values[::-1].copy()}))
    assert result.differences[0].hints == ("the same values in another order along axis 0",)


def test_a_square_transposed_tensor_is_called_so(pair: Pair) -> None:
    values = noise(6, 6)
    result = diff(*pair({"w": values}, {"w": values.T.copy()}))
    assert result.differences[0].hints == (f"a transpose (1, 0) {GIVES}",)


@pytest.mark.parametrize(
    ("old_shape", "new_shape", "order", "hint"),
    [
        ((1, 6), (6,), None, f"a squeeze {GIVES}"),
        (
            (6,),
            (1, 6),
            None,
            f"a reshape by axes of size 1 {GIVES}",
        ),
        (
            (2, 3),
            (3, 2),
            (1, 0),
            f"a transpose (1, 0) {GIVES}",
        ),
        (
            (2, 3, 4),
            (4, 2, 3),
            (2, 0, 1),
            f"a transpose (2, 0, 1) {GIVES}",
        ),
        ((2, 3), (6, 1), None, f"a reshape {GIVES}"),
    ],
)
def test_shapes_are_compared_first_and_what_would_match_is_named(
    pair: Pair, old_shape: Any, new_shape: Any, order: Any, hint: str
) -> None:
    old = noise(*old_shape)
    new = old.transpose(order).copy() if order else old.reshape(new_shape)
    paths = pair({"w": old}, {"w": new})
    result = diff(*paths)
    assert statuses(result) == {"w": "changed"}
    assert result.changes[0].delta is None
    assert result.changes[0].hints == (hint,)
    assert run(*paths, "--rtol", 1e9, "--atol", 1e9).code == 1


def test_a_shape_that_fits_with_other_values_is_not_called_a_match(pair: Pair) -> None:
    result = diff(*pair({"w": noise(2, 3)}, {"w": noise(3, 2, seed=1)}))
    assert result.changes[0].hints == ("a transpose (1, 0) has this shape, but other values",)


def test_the_axis_that_changed_is_marked(pair: Pair) -> None:
    _, out, _ = run(*pair({"w": noise(3, 64, 2)}, {"w": noise(3, 128, 2)}))
    assert "3,[64→128],2" in out


def test_nan_in_the_same_place_is_equal_and_in_another_is_not(pair: Pair) -> None:
    old, moved = np.array([1, np.nan, 3], np.float32), np.array([np.nan, 1, 3], np.float32)
    assert run(*pair({"w": old}, {"w": old})).code == 0
    code, out, _ = run(*pair({"w": old}, {"w": moved}), "--rtol", 1e9)
    assert code == 1 and "2 NaN or infinite on one side only" in out


def test_negative_zero_differs_only_in_bits(pair: Pair) -> None:
    paths = pair({"w": np.zeros(3, np.float32)}, {"w": np.array([0, -0.0, 0], np.float32)})
    assert run(*paths).code == 0
    assert run(*paths, "--bitwise").code == 1


def test_tiny_values_with_large_relative_change(pair: Pair) -> None:
    old = np.full(4, 1e-20, np.float32)
    paths = pair({"w": old}, {"w": old * 2})
    assert run(*paths).code == 1
    assert run(*paths, "--rtol", 1e-3).code == 1
    assert run(*paths, "--atol", 1e-12).code == 0


def test_a_missing_tensor_is_a_difference_though_no_value_differs(pair: Pair) -> None:
    code, out, _ = run(*pair({"a/w": noise(2), "b/w": noise(3)}, {"a/w": noise(2)}))
    assert code == 1
    assert out.splitlines()[-1] == (
        "different: 0 changed, 1 removed, 0 added, 0 renamed; 1 equal by value"
    )


def test_a_renamed_scope_is_renamed_and_that_is_a_difference(pair: Pair) -> None:
    old = {f"bert/layer_{i}/kernel": noise(3, 3, seed=i) for i in range(4)}
    new = {name.replace("bert", "encoder"): values for name, values in old.items()}
    paths = pair(old, new)
    code, out, _ = run(*paths)
    assert code == 1
    assert "R  bert/layer_{0-3}/kernel → encoder/layer_{0-3}/kernel ×4" in out
    assert "0 changed, 0 removed, 0 added, 4 renamed" in out
    assert run(*paths, "--map", "^bert/=>encoder/").code == 0


def test_a_renamed_and_trained_scope_gets_a_rule_proposed(pair: Pair) -> None:
    old = {f"bert/layer_{i}/kernel": noise(3, 3, seed=i) for i in range(4)}
    new = {name.replace("bert", "encoder"): values + 1 for name, values in old.items()}
    paths = pair(old, new)
    _, out, _ = run(*paths)
    assert "--map '^bert/=>encoder/' would pair 4 of them" in out
    _, out, _ = run(*paths, "--map", "^bert/=>encoder/")
    assert "4 changed, 0 removed, 0 added" in out


def test_integers_booleans_and_strings_are_exact(pair: Pair) -> None:
    old: dict[str, Array] = {
        "int": np.array([2**60]),
        "flag": np.array([True, False]),
        "word": np.array([b"one", b"two"], object),
    }
    new: dict[str, Array] = {
        "int": np.array([2**60 + 1]),
        "flag": np.array([True, True]),
        "word": np.array([b"one", b"2"], object),
    }
    assert run(*pair(old, old)).code == 0
    paths = pair(old, new)
    result = diff(*paths, rtol=1e9, atol=1e9)
    assert set(statuses(result).values()) == {"changed"}
    _, out, _ = run(*paths)
    assert "1152921504606846976 → 1152921504606846977" in out
    assert "'two' → '2'" in out


def test_empty_tensors_are_compared(pair: Pair) -> None:
    empty = np.zeros((0, 4), np.float32)
    assert run(*pair({"w": empty, "v": noise(2)}, {"w": empty, "v": noise(2)})).code == 0
    assert run(*pair({"w": empty}, {"w": np.zeros((4, 0), np.float32)})).code == 1


def test_zero_biases_are_not_matched_by_content(pair: Pair) -> None:
    zeros = np.zeros(16, np.float32)
    result = diff(*pair({"a/bias": zeros}, {"b/beta": zeros}))
    assert statuses(result) == {"a/bias": "removed", "b/beta": "added"}
    sevens = np.full(16, 7, np.float32)  # a constant that no checksum gives away
    result = diff(*pair({"a/bias": sevens}, {"b/beta": sevens}))
    assert statuses(result) == {"a/bias": "removed", "b/beta": "added"}


def test_swapped_layers_are_reported_by_name(pair: Pair) -> None:
    one, two = noise(4, 4, seed=1), noise(4, 4, seed=2)
    result = diff(*pair({"a/w": one, "b/w": two}, {"a/w": two, "b/w": one}))
    assert {c.name: c.hints for c in result.differences} == {
        "a/w": ("contents swapped with b/w",),
        "b/w": ("contents swapped with a/w",),
    }


def test_a_layer_that_holds_what_another_held_is_named(pair: Pair) -> None:
    one, two = noise(4, 4, seed=1), noise(4, 4, seed=2)
    result = diff(*pair({"a/w": one, "b/w": two}, {"a/w": two, "b/w": two + 1}))
    assert result.differences[0].hints == ("now holds what b/w held before",)


def test_a_model_built_second_in_one_process(pair: Pair) -> None:
    kernels = [noise(4, 4, seed=i) for i in range(3)]
    old = {f"dense{s}/kernel": k for s, k in zip(("", "_1", "_2"), kernels, strict=True)}
    new = {f"dense{s}/kernel": k for s, k in zip(("_1", "_2", "_3"), kernels, strict=True)}
    result = diff(*pair(old, new))
    assert result.same and result.counts["equal"] == 3
    assert {change.evidence for change in result.changes} == {"full name, renumbered"}


# -- tolerance, dtypes -------------------------------------------------------------------------


def test_tolerances_are_relative_to_old_and_add_up(pair: Pair) -> None:
    old, new = np.array([100.0, 0.0]), np.array([101.5, 0.5])
    paths = pair({"w": old}, {"w": new})
    assert run(*paths, "--rtol", "0.01").code == 1
    assert run(*paths, "--atol", "0.5").code == 1
    code, out, _ = run(*paths, "--rtol", "0.01", "--atol", "0.5")
    assert code == 0
    assert "0 equal by value, 1 within tolerance" in out


def test_the_tolerance_that_would_pass_is_named_and_does_pass(pair: Pair) -> None:
    paths = pair({"w": noise(50)}, {"w": noise(50) * np.float32(1.001)})
    _, out, _ = run(*paths, "--rtol", "1e-6")
    needed = out.split("would pass with --rtol ")[1].split()[0]
    assert run(*paths, "--rtol", needed).code == 0


@pytest.mark.parametrize("value", ["-1", "nan", "inf"])
def test_tolerances_that_make_no_sense_are_refused(pair: Pair, value: str) -> None:
    outcome = run(*pair({"w": noise(2)}, {"w": noise(2)}), "--rtol", value)
    assert outcome.code == 2 and "tolerance" in outcome.err


def test_tolerance_files_last_match_wins(pair: Pair, tmp_path: Path) -> None:
    old = {"a/w": noise(4), "b/w": noise(4)}
    paths = pair(old, {name: values + np.float32(0.01) for name, values in old.items()})
    rules = tmp_path / "tolerances"
    rules.write_text("# all\n* atol=0.1\nb/* atol=1e-6 rtol=0\n", "utf-8")
    result = diff(*paths, tolerances=str(rules))
    assert statuses(result) == {"a/w": "within", "b/w": "changed"}
    assert result.differences[0].delta is not None
    assert result.differences[0].delta.rule == "b/*"
    code, out, _ = run(*paths, "--tol-file", rules)
    assert code == 1 and "tolerance of b/*" in out


@pytest.mark.parametrize("line", ["w", "w rtol", "w rtol=x", "w btol=1", "w rtol=-1"])
def test_tolerance_files_name_the_line_that_is_wrong(tmp_path: Path, line: str) -> None:
    (tmp_path / "t").write_text(f"* atol=1\n{line}\n", "utf-8")
    with pytest.raises(UsageError, match="line 2"):
        read_tolerances(tmp_path / "t")


def test_a_change_of_dtype_is_labelled(pair: Pair) -> None:
    exact, rough = np.array([1.5, 2.25], np.float16), np.array([1.1, 2.2], np.float32)
    old: dict[str, Array] = {"a": exact, "b": rough}
    paths = pair(old, {"a": exact.astype(np.float32), "b": rough.astype(BFLOAT16)})
    result = diff(*paths, rtol=0.1)
    assert {c.name: (c.status, c.cast) for c in result.changes} == {
        "a": ("changed", "lossless"),
        "b": ("changed", "within tolerance"),
    }
    assert diff(*paths, rtol=0.1, cast_ok=True).same
    strict = diff(*paths, cast_ok=True)
    assert [(c.name, c.cast) for c in strict.differences] == [("b", "lossy")]
    assert "float32→bfloat16 (lossy)" in run(*paths).out


def test_strings_and_numbers_are_not_compared_but_differ(pair: Pair) -> None:
    result = diff(*pair({"w": np.array([b"1"], object)}, {"w": np.array([1.0])}))
    assert statuses(result) == {"w": "changed"} and result.changes[0].delta is None


# -- modes ---------------------------------------------------------------------------------------


def test_structure_reads_no_values(pair: Pair) -> None:
    old, new = pair({"w": noise(4), "v": noise(2)}, {"w": noise(4, seed=1), "v": noise(3)})
    for prefix in (old, new):
        Path(f"{prefix}.data-00000-of-00001").unlink()
    code, out, _ = run(old, new, "--structure")
    assert code == 1
    assert "1 changed" in out and "1 equal in structure, values not compared" in out
    assert "[2→3]" in out


def test_quick_opens_no_data_file(pair: Pair) -> None:
    old, new = pair({"w": noise(4), "v": noise(2)}, {"w": noise(4, seed=1), "v": noise(2)})
    for prefix in (old, new):
        Path(f"{prefix}.data-00000-of-00001").unlink()
    code, out, _ = run(old, new, "--quick")
    assert code == 1
    assert "1 changed" in out and "1 equal by stored checksum, bytes not read" in out


def test_quick_without_checksums_cannot_tell(tmp_path: Path) -> None:
    for name in ("old", "new"):
        np.savez(tmp_path / f"{name}.npz", w=noise(4))
    outcome = run(tmp_path / "old.npz", tmp_path / "new.npz", "--quick")
    assert outcome.code == 2 and "no stored checksum" in outcome.err
    assert run(tmp_path / "old.npz", tmp_path / "new.npz").code == 0


def test_structure_and_quick_exclude_each_other(pair: Pair) -> None:
    assert run(*pair({"w": noise(2)}, {"w": noise(2)}), "--quick", "--structure").code == 2


def test_damage_is_exit_2_not_a_difference(pair: Pair) -> None:
    old, new = pair({"w": noise(64)}, {"w": noise(64)})
    file = Path(f"{new}.data-00000-of-00001")
    data = bytearray(file.read_bytes())
    data[10] ^= 1
    file.write_bytes(data)
    outcome = run(old, new)
    assert outcome.code == 2 and "new.data" in outcome.err
    with pytest.raises(ChecksumError):
        ckptkit.diff(old, new)


def test_a_missing_file_is_exit_2(pair: Pair) -> None:
    old, _ = pair({"w": noise(2)}, {"w": noise(2)})
    assert run(old, "nowhere/at-all").code == 2


@pytest.mark.parametrize("jobs", [1, 3])
def test_jobs_change_nothing(pair: Pair, jobs: int) -> None:
    old = {f"l{i}/w": noise(1000 + i, seed=i) for i in range(20)}
    new = {name: values * np.float32(1.001) for name, values in old.items()}
    paths = pair(old, new)
    assert run(*paths, "--jobs", jobs, "--full") == run(*paths, "--full")


# -- filters and views -------------------------------------------------------------------------


def test_filters_that_match_nothing_are_exit_2(pair: Pair) -> None:
    paths = pair({"w": noise(2)}, {"w": noise(2)})
    for options in (["--name", "nope*"], ["--role", "slot"]):
        outcome = run(*paths, *options)
        assert outcome.code == 2 and "no tensor passes the filter" in outcome.err


def test_names_are_filtered_and_what_is_left_out_is_said(pair: Pair) -> None:
    old = {"a/w": noise(2), "b/w": noise(2)}
    paths = pair(old, {"a/w": noise(2), "b/w": noise(2) + 1})
    code, out, _ = run(*paths, "--name", "a/*")
    assert code == 0
    assert out.splitlines()[-1] == ("same: 1 equal by value; left out: 1 other tensor (by --name)")
    assert run(*paths, "--name", "!a/*").code == 1


def state(step: int) -> dict[str, Array]:
    """A TF1 checkpoint with Adam's slots and counters."""
    names = {f"layer{i}/kernel": noise(3, 3, seed=i) for i in range(3)}
    slots = {f"{n}/Adam{s}": v * 2 for n, v in names.items() for s in ("", "_1")}
    power = np.float32(0.9**step)
    return {**names, **slots, "global_step": np.array(step), "beta1_power": np.array(power)}


def test_counters_are_left_out_unless_asked_for(pair: Pair) -> None:
    paths = pair(state(1), state(2))
    code, out, _ = run(*paths)
    assert code == 0
    assert "left out: 1 counter tensor (not weights), 1 config tensor (not weights)" in out
    code, out, _ = run(*paths, "--role", "counter")
    assert code == 1 and "global_step (counter)" in out
    assert run(*paths, "--role", "all").code == 1


def test_state_that_only_one_file_has_is_left_out_and_said(pair: Pair) -> None:
    whole = state(1)
    weights = {name: v for name, v in whole.items() if name.endswith("kernel")}
    paths = pair(whole, weights)
    code, out, _ = run(*paths)
    assert code == 0 and f"6 slot tensors (only in {paths[0]})" in out
    assert run(*paths, "--role", "all").code == 1
    assert run(*paths, "--role", "slot").code == 1


def test_slots_that_both_have_are_compared(pair: Pair) -> None:
    old, new = state(1), state(1)
    new["layer1/kernel/Adam"] = new["layer1/kernel/Adam"] + 1
    code, out, _ = run(*pair(old, new))
    assert code == 1 and "layer1/kernel@m" in out
    assert run(*pair(old, new), "--role", "weight").code == 0


def test_rows_are_grouped_by_pattern_and_expanded_by_full(pair: Pair) -> None:
    old = {f"layer_{i}/kernel": noise(4, 4, seed=i) for i in range(12)}
    old["head/kernel"] = noise(4, 4, seed=50)
    new = {name: v + (0 if name == "head/kernel" else 1) for name, v in old.items()}
    paths = pair(old, new)
    _, grouped, _ = run(*paths)
    assert "~  layer_{0-11}/kernel ×12" in grouped
    assert "head/kernel" not in grouped
    _, full, _ = run(*paths, "--full")
    assert full.count("\n~  layer_") == 12 and "=  head/kernel" in full
    _, stat, _ = run(*paths, "--stat")
    assert "layer_3" in stat and "1/1" in stat


def test_numbers_of_any_length_are_in_names(pair: Pair) -> None:
    names = ["w1", f"w{'1' * 19}", f"w{'2' * 19}", f"w{'9' * 5000}"]
    old = {name: noise(4, seed=1) for name in names}
    _, out, _ = run(*pair(old, {name: values + 1 for name, values in old.items()}))
    assert out.count("\n~  w") == 3 and "\n~  w1 " in out


def test_only_shows_some_and_says_what_it_hides(pair: Pair) -> None:
    old = {"a/w": noise(2), "gone/w": noise(3)}
    paths = pair(old, {"a/w": noise(2) + 1, "fresh/w": noise(4)})
    code, out, _ = run(*paths, "--only", "added,removed")
    assert code == 1
    assert "-  gone/w" in out and "+  fresh/w" in out and "~  a/w" not in out
    assert out.rstrip().endswith("1 not shown (--only)")


def test_what_was_zero_has_no_relative_change(pair: Pair) -> None:
    paths = pair({"w": np.zeros(3, np.float32)}, {"w": np.array([0, 1e-3, 0], np.float32)})
    _, out, _ = run(*paths)
    row = next(line for line in out.splitlines() if line.startswith("~"))
    assert row.split()[4:8] == ["1/3", "0.001", "-", "inf"]
    document = json.loads(run(*paths, "--format", "json").out)
    assert document["entries"][0]["values"]["max_rel"] is None
    [cells] = csv.DictReader(io.StringIO(run(*paths, "--format", "csv")[1]))
    assert cells["max_abs"] and not cells["max_rel"]


def test_what_is_not_finite_on_one_side_has_no_relative_change(pair: Pair) -> None:
    old, new = np.ones(3, np.float32), np.array([1, np.nan, 1], np.float32)
    paths = pair({"w": old}, {"w": new})
    row = next(line for line in run(*paths)[1].splitlines() if line.startswith("~"))
    assert row.split()[4] == "1/3" and row.split()[6] == "-"
    assert "max rel -" in run(*paths, "--format", "junit")[1]
    [rows] = [json.loads(line) for line in run(*paths, "--format", "jsonl")[1].splitlines()]
    assert rows["values"]["max_rel"] is None
    assert run(*pair({"w": old}, {"w": old}), "--format", "csv", "--full")[1].count(",0.0,") > 1


def test_quiet_and_exit_zero(pair: Pair) -> None:
    paths = pair({"w": noise(2)}, {"w": noise(2) + 1})
    assert run(*paths, "--quiet") == Outcome(1, "", "")
    assert run(*paths, "--exit-zero").code == 0


def test_names_cannot_steer_the_terminal(pair: Pair) -> None:
    name = "evil\x1b[2J\x07/w"
    _, out, _ = run(*pair({name: noise(2)}, {name: noise(2) + 1}))
    assert "\x1b" not in out and "\\x1b" in out


def test_colour_and_bars_only_for_a_terminal(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    from ckptkit.reports.diff import text as diff_text

    result = diff(*pair({"w": noise(2)}, {"w": noise(2) + 1}))
    plain = list(diff_text.lines(result))
    with shown_on(Screen(color=True)):
        rich = list(diff_text.lines(result))
    assert not any("\x1b" in line or "█" in line for line in plain)
    assert any("\x1b[33m~" in line and "█" in line for line in rich)
    terminal = _in_terminal(result)
    assert "\x1b[33m~" in terminal({})
    for quiet in ({"NO_COLOR": "1"}, {"TERM": "dumb"}, {"NO_COLOR": "1", "FORCE_COLOR": "1"}):
        assert "\x1b[" not in terminal(quiet)


def _in_terminal(result: DiffResult) -> Callable[[dict[str, str]], str]:
    """Run the command with a pseudo-terminal for its output."""
    import pty

    def call(extra: dict[str, str]) -> str:
        leader, follower = pty.openpty()
        files = [str(checkpoint.path) for checkpoint in (result.old, result.new)]
        command = [sys.executable, "-m", "ckptkit", "diff", *files]
        environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
        environment |= {"TERM": "xterm", **extra}
        subprocess.run(command, stdout=follower, cwd=ROOT, env=environment, check=False)
        os.close(follower)
        chunks = []
        try:
            while chunk := os.read(leader, 4096):
                chunks.append(chunk)
        except OSError:  # Linux: the other end is closed
            pass
        os.close(leader)
        return b"".join(chunks).decode()

    return call


@pytest.mark.parametrize(
    ("change", "filled"), [(0.0, 0), (1e-12, 1), (1e-4, 3), (1.0, 6), (float("inf"), 6)]
)
def test_bars_are_logarithmic(change: float, filled: int) -> None:
    from ckptkit.reports.diff.rows import bar

    assert len(bar(change)) == 6
    assert len(bar(change).strip()) == filled


# -- rules -------------------------------------------------------------------------------------


def test_written_maps_can_be_read_again(pair: Pair, tmp_path: Path) -> None:
    old = {f"a.{i}/w": noise(3, 3, seed=i) for i in range(3)}
    paths = pair(old, {name.replace("a.", "b+"): v for name, v in old.items()})
    assert run(*paths, "--write-map", tmp_path / "map").code == 1
    assert run(*paths, "--map-from", tmp_path / "map").code == 0


def test_dead_rules_warn_and_collisions_are_exit_2(pair: Pair) -> None:
    paths = pair({"a/w": noise(2), "b/w": noise(2)}, {"a/w": noise(2), "b/w": noise(2)})
    code, out, _ = run(*paths, "--map", "^nothing=>x")
    assert code == 0 and "rule '^nothing=>x' paired nothing" in out
    outcome = run(*paths, "--map", "^[ab]/=>a/")
    assert outcome.code == 2 and "both a/w and b/w" in outcome.err


def test_what_is_ambiguous_is_listed(pair: Pair) -> None:
    values = noise(3, 3)
    old, new = pair({"a/x": values, "b/x": values}, {"c/y": values})
    _, out, _ = run(old, new)
    assert "2 removed, 1 added" in out
    assert f"several have the same content: a/x, b/x in {old}, c/y in {new}" in out


# -- formats -----------------------------------------------------------------------------------


@pytest.fixture
def mixed(pair: Pair) -> tuple[Path, Path]:
    """One tensor of every status, and numbers that JSON cannot hold."""
    old = {
        "same/w": noise(4),
        "near/w": np.ones(4, np.float32),
        "far/w": np.zeros(4, np.float32),
        "gone/w": noise(2, 3),
        "from/w": noise(5, seed=5),
    }
    new = {
        "same/w": noise(4),
        "near/w": np.full(4, 1 + 1e-6, np.float32),
        "far/w": np.array([0, np.inf, np.nan, 1], np.float32),
        "fresh/w": noise(7),
        "to/w": noise(5, seed=5),
    }
    return pair(old, new)


def test_json_follows_its_schema(mixed: tuple[Path, Path]) -> None:
    code, out, _ = run(*mixed, "--format", "json", "--rtol", "1e-3")
    document = json.loads(out, parse_constant=pytest.fail)
    assert code == document["summary"]["exit"] == 1
    assert document["schema"] == "ckptkit.diff/1"
    assert document["summary"] == {
        "equal": 1,
        "within": 1,
        "changed": 1,
        "added": 1,
        "removed": 1,
        "renamed": 1,
        "verdict": "different",
        "exit": 1,
    }
    assert document["options"]["rtol"] == 1e-3
    rows = {row["name"]: row for row in document["entries"]}
    assert {name: row["status"] for name, row in rows.items()} == {
        "same/w": "equal",
        "near/w": "within",
        "far/w": "changed",
        "gone/w": "removed",
        "fresh/w": "added",
        "from/w": "renamed",
    }
    assert rows["gone/w"]["new"] is None and rows["gone/w"]["old"]["shape"] == [2, 3]
    assert rows["from/w"]["new"]["name"] == "to/w" and rows["from/w"]["evidence"] == "content"
    values = rows["far/w"]["values"]
    assert values["n_diff"] == 3 and values["nonfinite"] == 2
    assert values["needed_rtol"] == "Infinity"
    assert values["worst"] == {"index": [1], "old": 0.0, "new": "Infinity"}
    documented = (ROOT / "docs" / "diff.md").read_text("utf-8")
    fields = [*document, *rows["far/w"], *values, *document["summary"], *document["old"]]
    assert [field for field in fields if f"`{field}`" not in documented] == []


def test_csv_has_one_row_per_difference(mixed: tuple[Path, Path]) -> None:
    _, out, err = run(*mixed, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert {row["name"]: row["status"] for row in rows} == {
        "near/w": "changed",
        "far/w": "changed",
        "gone/w": "removed",
        "fresh/w": "added",
        "from/w": "renamed",
    }
    assert "different: 2 changed" in err


def test_markdown_is_a_table(mixed: tuple[Path, Path]) -> None:
    _, out, _ = run(*mixed, "--format", "markdown")
    assert "| ~" in out and "|----" in out.replace("-|", "-|") and "different: 2 changed" in out


def test_junit_has_a_case_per_tensor(mixed: tuple[Path, Path]) -> None:
    _, out, _ = run(*mixed, "--format", "junit", "--rtol", "1e-3")
    suite = ElementTree.fromstring(out).find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures")) == ("6", "4")
    messages = {
        case.get("name"): failure.get("message")
        for case in suite.iter("testcase")
        for failure in case.iter("failure")
    }
    assert set(messages) == {"far/w", "gone/w", "fresh/w", "from/w"}
    assert "3 of 4 elements differ" in str(messages["far/w"])
    assert messages["gone/w"] == f"missing from {mixed[1]}: float32 [2,3]"


def test_output_goes_to_a_file(mixed: tuple[Path, Path], tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    code, out, err = run(*mixed, "--format", "json", "-o", target)
    assert code == 1 and out == "" and "different" in err
    assert json.loads(target.read_text("utf-8"))["schema"] == "ckptkit.diff/1"


# -- library -----------------------------------------------------------------------------------


def test_the_library_gives_typed_results(pair: Pair) -> None:
    old, new = pair({"a/w": noise(3)}, {"a/w": noise(3) + 1})
    result = ckptkit.diff(ckptkit.open(old), ckptkit.open(new))
    assert not result.same and result.exit_code == 1
    (change,) = result.differences
    assert change.name == "a/w" and change.evidence == "key" and change.method == "values"
    assert change.delta is not None and change.delta.n_diff == 3
    rule = ToleranceRule("a/*", ElementTolerance(atol=2.0, rule="a/*"))
    assert ckptkit.diff(old, new, tolerances=[rule]).same


def test_progress_reports_every_byte(pair: Pair) -> None:
    calls: list[tuple[int, int]] = []
    diff(
        *pair({"a": noise(10), "b": noise(5)}, {"a": noise(10), "b": noise(5)}),
        progress=lambda phase, done, total: calls.append((done, total)),
    )
    assert calls[-1] == (60, 60)


def test_assert_same_weights_is_silent_or_says_it_all(pair: Pair) -> None:
    old, new = pair({"a/w": noise(3)}, {"a/w": noise(3) * np.float32(1.01)})
    assert_same_weights(old, old)
    assert_same_weights(old, new, rtol=0.02)
    with pytest.raises(AssertionError, match=r"(?s)a/w.*3/3.*different: 1 changed"):
        assert_same_weights(old, new)


def test_equal_weights_need_no_numpy(pair: Pair) -> None:
    old, new = pair({"a/w": noise(300)}, {"a/w": noise(300)})
    code = (
        "import sys\nfrom ckptkit.operations.diff.api import diff\n"
        f"for mode in ('structure', 'quick', 'values'): assert diff({str(old)!r}, {str(new)!r}, "
        "mode=mode).same\nassert 'numpy' not in sys.modules and 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# -- git ---------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git_shows_what_changed_in_a_weights_file(tmp_path: Path) -> None:
    """The recipes of docs/git.md, in a real repository."""
    documented = (ROOT / "docs" / "git.md").read_text("utf-8")
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("GIT_")},
        "HOME": str(tmp_path),
        "GIT_CONFIG_NOSYSTEM": "1",
        "PYTHONPATH": str(ROOT),
        "GIT_AUTHOR_NAME": "A",
        "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_COMMITTER_NAME": "A",
        "GIT_COMMITTER_EMAIL": "a@example.org",
    }
    repository = tmp_path / "repository"
    repository.mkdir()

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=repository, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    git("init", "-q")
    attributes = "*.npz diff=ckptkit"
    assert attributes in documented
    (repository / ".gitattributes").write_text(attributes + "\n", "utf-8")
    save_npz(repository / "model.npz", {"dense/kernel": noise(4, 4)})
    git("add", ".")
    git("commit", "-q", "-m", "one")
    save_npz(repository / "model.npz", {"dense/kernel": noise(4, 4) + 1})
    script = next(s for s in documented.split("```sh\n") if s.startswith("#!/bin/sh"))
    driver = tmp_path / "ckptkit-git-diff"
    python = f"{sys.executable} -m ckptkit"
    driver.write_text(script.split("```")[0].replace("ckptkit diff", f"{python} diff"), "utf-8")
    driver.chmod(0o755)

    git("config", "diff.ckptkit.command", str(driver))
    shown = git("diff")
    assert "~  dense/kernel" in shown and "16/16" in shown and "different: 1 changed" in shown
    assert "--- a/model.npz  (npz)" in shown and "+++ b/model.npz  (npz)" in shown

    git("config", "--unset", "diff.ckptkit.command")
    textconv = "ckptkit ls --digest --no-path"
    assert f'textconv = "{textconv}"' in documented
    git("config", "diff.ckptkit.textconv", textconv.replace("ckptkit", python, 1))
    shown = git("diff")
    assert "-weights sha256:" in shown and "+weights sha256:" in shown
    # the digest alone changed, and no line names a temporary file
    changed = [line for line in shown.splitlines()[4:] if line[:1] in "+-"]
    assert len(changed) == 2, shown


# -- TensorFlow's own files --------------------------------------------------------------------


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One Keras model, trained and saved in every way; a twin; a subclassed one; TF1's savers."""
    folder = tmp_path_factory.mktemp("trained")
    script = SUPPORT / "make_diff_files.py"
    subprocess.run(
        [sys.executable, script, folder],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
        check=True,
        capture_output=True,
    )
    return folder


FORMS = ("run/ckpt-2", "plain", "export", "saved", "model.keras", "model.weights.h5", "tf1")


@pytest.mark.needs_tf
@pytest.mark.parametrize("one", FORMS)
@pytest.mark.parametrize("two", FORMS)
def test_all_forms_of_one_model_are_the_same(trained: Path, one: str, two: str) -> None:
    result = diff(trained / one, trained / two)
    assert result.same, run(trained / one, trained / two).out
    weights = [change for change in result.changes if change.role == "weight"]
    assert len(weights) == 20
    assert {change.status for change in weights} == {"equal"}
    assert "content" not in {change.evidence for change in weights}


@pytest.mark.needs_tf
def test_two_steps_of_a_training_run(trained: Path) -> None:
    code, out, _ = run(trained / "run" / "ckpt-1", trained / "run" / "ckpt-2")
    assert code == 1
    assert "different: 52 changed, 0 removed, 0 added, 0 renamed; 0 equal by value" in out
    assert "*@momentum ×16" in out
    assert "2 counter tensors (not weights), 1 config tensor (not weights)" in out


@pytest.mark.needs_tf
@pytest.mark.parametrize("twin", ["second", "second.keras", "second_export", "second.weights.h5"])
@pytest.mark.parametrize("form", ["run/ckpt-2", "export", "model.keras", "tf1"])
def test_the_same_model_built_second_in_one_process(trained: Path, form: str, twin: str) -> None:
    result = diff(trained / form, trained / twin, roles=["weight"])
    assert result.same and result.counts["equal"] == 20


@pytest.mark.needs_tf
def test_an_export_holds_every_weight_twice(trained: Path) -> None:
    result = diff(trained / "export", trained / "export")
    assert result.counts["equal"] == 20
    assert "20 repeated tensors (stored twice, compared once)" in map(str, result.left_out)


@pytest.mark.needs_tf
def test_a_subclassed_model_whose_kernels_share_one_name(trained: Path) -> None:
    same = diff(trained / "sub", trained / "sub_export", roles=["weight"])
    assert same.same and same.counts["equal"] == 6
    steps = diff(trained / "sub", trained / "sub2_export", roles=["weight"])
    assert steps.counts["changed"] == 6
    assert steps.counts["added"] == steps.counts["removed"] == 0
    assert not any(change.hints for change in steps.changes)  # none holds what another held


@pytest.mark.needs_tf
def test_a_scope_around_all_of_one_side_is_no_difference(trained: Path) -> None:
    result = diff(trained / "tf1", trained / "tf1scope")
    assert result.same and result.counts["equal"] == 20
    mapped = diff(trained / "tf1", trained / "tf1scope", rules=["^=>scope/"])
    assert mapped.same and mapped.counts["equal"] == 20


@pytest.mark.needs_tf
def test_a_partitioned_variable_against_a_whole_one(trained: Path) -> None:
    assert ckptkit.open(trained / "parts").specs["table"].slices
    assert diff(trained / "parts", trained / "whole").same
    changed = diff(trained / "parts", trained / "whole2")
    (change,) = changed.differences
    assert change.delta is not None and change.delta.n_diff == 1
    assert change.delta.worst is not None and change.delta.worst.index == (7, 2)


@pytest.mark.needs_tf
def test_safetensors_and_npz_of_one_model_are_the_same(trained: Path, tmp_path: Path) -> None:
    checkpoint = ckptkit.open(trained / "plain")
    arrays = {
        name: np.array(checkpoint[name])
        for key, (name, role) in ((k, n[:2]) for k, n in checkpoint.names.items())
        if role == "weight" and key
    }
    save_npz(tmp_path / "w.npz", arrays)
    assert diff(trained / "plain", tmp_path / "w.npz").same
    numpy = pytest.importorskip("safetensors.numpy")
    numpy.save_file(arrays, tmp_path / "w.safetensors")
    assert diff(tmp_path / "w.safetensors", trained / "export").same


# --- options, names and values of results ---------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        *(["--quick", "--rtol", "1"], ["--quick", "--atol", "1"], ["--structure", "--bitwise"]),
        *(["--structure", "--cast-ok"], ["--full", "--stat"], ["--only", "added", "--stat"]),
        *(
            ["--format", "json", "--full"],
            ["--format", "csv", "--stat"],
        ),
        *(["--format", "html", "--only", "added"], ["--format", "junit", "--label", "x"]),
        ["--label", "a", "--label", "b", "--label", "c"],
    ],
)
def test_options_that_would_be_ignored_are_refused(pair: Pair, options: list[str]) -> None:
    files = pair({"w": noise(4)}, {"w": noise(4)})
    code, out, err = run(*files, *options)
    assert (code, out) == (2, "")
    assert err


def test_a_tolerance_where_no_values_are_compared_is_refused(pair: Pair) -> None:
    files = pair({"w": noise(4)}, {"w": noise(4)})
    with pytest.raises(UsageError, match="compares checksums, no values: rtol, cast_ok would do"):
        diff(*files, mode="quick", rtol=1e-3, cast_ok=True)
    assert diff(*files, mode="quick").same


def test_a_tolerance_pattern_that_fits_nothing_is_warned_about(pair: Pair, tmp_path: Path) -> None:
    files = pair({"a/kernel": noise(4), "b": noise(2)}, {"a/kernel": noise(4), "b": noise(2)})
    rules = tmp_path / "tolerances"
    rules.write_text("*/kernel rtol=1\n*/kernal rtol=1\na/* atol=1\n")
    result = diff(*files, tolerances=rules)
    assert result.warnings == ("tolerance of '*/kernal' fits no tensor compared",)
    assert "warning: tolerance of '*/kernal'" in run(*files, "--tol-file", rules).out
    assert (
        "warning: tolerance of '*/kernal'"
        in run(*files, "--tol-file", rules, "--format", "csv").err
    )


def test_names_that_differ_are_both_shown(pair: Pair) -> None:
    old = {f"net/block_{n}/kernel": noise(3, 4, seed=n) for n in range(4)} | {"head": noise(2)}
    new = {f"model/stage_{n}/kernel": 2 * noise(3, 4, seed=n) for n in range(4)} | {
        "head": noise(2) + 1
    }
    files = pair(old, new)
    options = ("--map", "net/block_=>model/stage_")
    out = run(*files, *options).out
    assert "net/block_{0-3}/kernel → model/stage_{0-3}/kernel ×4" in out
    assert "\n~  head  " in out
    assert "net/block_2/kernel → model/stage_2/kernel" in run(*files, *options, "--full").out


def test_labels_stand_for_paths(pair: Pair) -> None:
    old, new = pair({"w": noise(4)}, {"w": noise(4)})
    lines = run(old, new, "--label", "before", "--label", "after").out.splitlines()
    assert lines[:3] == [
        "--- before  (tensor-bundle, name-based)",
        "+++ after  (tensor-bundle, name-based)",
        "1 tensor, 4 elements, 16 B",
    ]
    assert f"+++ {new}  (" in run(old, new, "--label", "before").out


def test_all_files_of_a_checkpoint_are_one_operand(pair: Pair) -> None:
    old, new = pair({"w": noise(4)}, {"w": noise(4) + 1})
    files = [
        f"{path}{suffix}" for path in (old, new) for suffix in (".data-00000-of-00001", ".index")
    ]
    assert run(*files) == run(old, new)
    code, _out, err = run(*files, "/nowhere")
    assert code == 2 and "are compared, found 3" in err
    assert run(*files[:2], files[0])[0] == 2
    assert run(old, old).code == 0


def test_a_result_has_no_truth_value(pair: Pair) -> None:
    result = diff(*pair({"w": noise(4), "v": noise(2)}, {"w": noise(4) + 1, "v": noise(2)}))
    with pytest.raises(TypeError, match=r"ask \.ok, \.same or \.differences"):
        bool(result)
    text = repr(result)
    assert text.startswith("<DiffResult different: 1 equal, 1 changed; ")
    assert len(text) < 400


def test_a_layer_that_came_or_went_has_no_change_to_measure(pair: Pair) -> None:
    files = pair({"a/w": noise(4), "gone/w": noise(3)}, {"a/w": noise(4) + 1, "new/w": noise(5)})
    rows = {
        line.split()[0]: line.split()[1:] for line in run(*files, "--stat").out.splitlines()[5:8]
    }
    assert rows["gone"] == ["1/1", "-"] and rows["new"] == ["1/1", "+"]
    assert rows["a"][:2] == ["1/1", "~"] and float(rows["a"][2]) > 0


def test_slots_whose_variables_have_other_numbers_in_their_names_share_a_row(
    tmp_path: Path,
) -> None:
    """As those of a model that was built a second time in one session of Keras do."""
    both = {"old": ("dense_2", "dense_3"), "new": ("dense", "dense_1")}
    for seed, (file, layers) in enumerate(both.items()):
        arrays = {f"{layer}/kernel": noise(4, seed=seed) for layer in layers}
        slots = {f"{name}/Momentum": noise(4, seed=seed) for name in arrays}
        save_npz(tmp_path / f"{file}.npz", {**arrays, **slots})
    outcome = run(tmp_path / "old.npz", tmp_path / "new.npz", "--role", "all")
    assert outcome.code == 1
    assert "*@momentum ×2" in outcome.out


def test_a_number_sign_in_a_name_is_no_number(tmp_path: Path) -> None:
    for seed, name in enumerate(("old", "new")):
        save_npz(tmp_path / f"{name}.npz", {f"x{c}": noise(4, seed=seed) for c in "#12"})
    outcome = run(tmp_path / "old.npz", tmp_path / "new.npz")
    assert outcome.code == 1 and "x#" in outcome.out and "x{1-2} ×2" in outcome.out
