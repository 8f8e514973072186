"""The kind of a change, and what looks like one and is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import ckptkit
from ckptkit.operations.configuration.tree import tree_of
from ckptkit.operations.diff.api import diff
from ckptkit.operations.diff.kinds import kind_of_change

Arrays = dict[str, Any]


def weights(seed: int = 3) -> Arrays:
    draw = np.random.default_rng(seed)
    return {
        f"{name}/{part}": draw.normal(size=shape).astype("float32")
        for name in ("first", "second", "head")
        for part, shape in (("kernel", (8, 6)), ("bias", (6,)))
    }


def kind_between(folder: Path, old: Arrays, new: Arrays) -> str | None:
    for name, arrays in (("old", old), ("new", new)):
        np.savez(folder / f"{name}.npz", **arrays)
    return ckptkit.diff(folder / "old.npz", folder / "new.npz").kind


def rounded(arrays: Arrays, dtype: Any) -> Arrays:
    return {name: value.astype(dtype).astype("float32") for name, value in arrays.items()}


def test_pruned_is_zero_now_and_nothing_else(tmp_path: Path) -> None:
    old = weights()
    new = {k: np.where(np.abs(v) < 0.3, 0, v) if "kernel" in k else v for k, v in old.items()}
    zeros = sum(int((new[k] != v).sum()) for k, v in old.items())
    found = kind_between(tmp_path, old, new)
    assert found == (
        f"pruned: {zeros} of 144 values in 3 of 6 weights are 0 now, all others as they were"
    )
    trained = {**new, "head/bias": new["head/bias"] * np.float32(1.01)}
    assert kind_between(tmp_path, old, trained) is None
    small = {k: np.where(v == 0, np.float32(1e-12), v) for k, v in new.items()}
    assert kind_between(tmp_path, old, small) is None


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounded_is_to_the_nearest(tmp_path: Path, dtype: str) -> None:
    narrow = getattr(ml_dtypes, dtype, dtype)
    old = weights()
    said = f"rounded to {dtype}: 6 of 6 weights, each value to the nearest"
    assert kind_between(tmp_path, old, rounded(old, narrow)) == said
    if dtype == "float16":
        other = {name: value.astype(dtype) for name, value in old.items()}
        assert kind_between(tmp_path, old, other) == said


def test_what_looks_rounded_is_not(tmp_path: Path) -> None:
    old = weights()
    cut = {}
    for name, value in old.items():  # bfloat16 by cutting bits off, towards zero
        bits = value.view("uint32") & np.uint32(0xFFFF0000)
        cut[name] = bits.view("float32")
    assert kind_between(tmp_path, old, cut) is None
    trained = {k: v + np.float32(0.01) * np.sin(v) for k, v in old.items()}
    assert kind_between(tmp_path, old, rounded(trained, ml_dtypes.bfloat16)) is None
    assert kind_between(tmp_path, old, weights(4)) is None
    assert kind_between(tmp_path, old, trained) is None


def test_nan_is_not_a_number_that_was_rounded(tmp_path: Path) -> None:
    """777 is more than float8_e4m3fn holds, but a value that broke looks the same."""
    large = {name: np.full_like(value, 777) for name, value in weights().items()}
    broken = {name: np.full_like(value, np.nan) for name, value in large.items()}
    assert kind_between(tmp_path, large, broken) is None
    endless = {name: np.full_like(value, np.inf) for name, value in large.items()}
    assert kind_between(tmp_path, {k: v * 1e6 for k, v in large.items()}, endless) is None


def test_rounding_alone_is_told_from_a_small_step(tmp_path: Path) -> None:
    old = weights()
    by_one = {k: np.nextafter(v, np.float32(np.inf)) for k, v in old.items()}
    found = kind_between(tmp_path, old, by_one)
    assert found is not None and found.startswith("no more than rounding of float32: ")
    step = {k: v * np.float32(1 + 3e-7) for k, v in old.items()}
    assert kind_between(tmp_path, old, step) is None
    assert kind_between(tmp_path, old, old) is None


def _dense(name: str) -> dict[str, Any]:
    return {"class_name": "Dense", "config": {"name": name, "units": 6}}


def test_the_head_is_what_nothing_unchanged_follows(tmp_path: Path) -> None:
    layers = [_dense(name) for name in ("first", "second", "head")]
    tree = tree_of({"class_name": "Sequential", "config": {"name": "m", "layers": layers}})
    old = weights()
    np.savez(tmp_path / "old.npz", **old)

    def kind(*names: str) -> str | None:
        new = {k: v * 2 if k.partition("/")[0] in names else v for k, v in old.items()}
        np.savez(tmp_path / "new.npz", **new)
        result = diff(tmp_path / "old.npz", tmp_path / "new.npz")
        return kind_of_change(result.changes, (result.old.store, result.new.store), tree)

    assert kind("head") == "only the head: head; 2 layers before it unchanged"
    assert kind("second", "head") == "only the head: second, head; 1 layer before it unchanged"
    assert kind("first") is None and kind("first", "head") is None
    assert kind("first", "second", "head") is None


def test_another_branch_is_no_head(tmp_path: Path) -> None:
    def layer(name: str, *feeds: str) -> dict[str, Any]:
        tensors = [
            {"class_name": "__keras_tensor__", "config": {"keras_history": [feed, 0, 0]}}
            for feed in feeds
        ]
        return {**_dense(name), "name": name, "inbound_nodes": [{"args": tensors, "kwargs": {}}]}

    layers = [layer("first", "x"), layer("second", "x"), layer("head", "first", "second")]
    ends = {"input_layers": [["x", 0, 0]], "output_layers": [["head", 0, 0]]}
    config = {"name": "m", "layers": layers, **ends}
    tree = tree_of({"class_name": "Functional", "config": config})
    old = weights()
    for changed, is_head in (("second", False), ("head", True)):
        new = {k: v * 2 if k.partition("/")[0] == changed else v for k, v in old.items()}
        np.savez(tmp_path / "old.npz", **old)
        np.savez(tmp_path / "new.npz", **new)
        result = diff(tmp_path / "old.npz", tmp_path / "new.npz")
        stores = result.old.store, result.new.store
        assert (kind_of_change(result.changes, stores, tree) is not None) == is_head


def test_a_change_of_structure_has_no_kind(tmp_path: Path) -> None:
    old = weights()
    new = {k: v for k, v in old.items() if k != "head/bias"}
    assert kind_between(tmp_path, old, new) is None
    assert kind_between(tmp_path, old, {**old, "step": np.array([1.5], "float32")}) is None
    integers = {**old, "count": np.array([1, 2])}
    assert kind_between(tmp_path, integers, {**integers, "count": np.array([0, 2])}) is None


# --- nothing in common ----------------------------------------------------------------------------


def drawn(seed: int, sizes: tuple[int, ...] = (48, 64, 48)) -> Arrays:
    """Return layers of so many units, one behind the other; 40 values go in."""
    draw = np.random.default_rng(seed)
    found: Arrays = {}
    before = 40
    for number, units in enumerate(sizes):
        found[f"l{number}/kernel"] = draw.normal(size=(before, units)).astype("float32")
        found[f"l{number}/bias"] = np.zeros(units, "float32")
        before = units
    return found


def test_another_initialisation_has_nothing_in_common(tmp_path: Path) -> None:
    found = kind_between(tmp_path, drawn(1), drawn(2))
    assert found is not None and found.startswith("nothing in common: each of 3 kernels is as far")
    # a mean that both have is nothing: a kernel of positive values has it
    positive = [{k: v + np.float32(2) for k, v in drawn(s).items()} for s in (1, 2)]
    assert (kind_between(tmp_path, *positive) or "").startswith("nothing in common")


def _permuted(arrays: Arrays) -> Arrays:
    """The units of the first two layers in another order; the model computes the same."""
    found = dict(arrays)
    for name, after in (("l0", "l1"), ("l1", "l2")):
        order = np.random.default_rng(5).permutation(arrays[f"{name}/kernel"].shape[1])
        found[f"{name}/kernel"] = found[f"{name}/kernel"][:, order]
        found[f"{after}/kernel"] = found[f"{after}/kernel"][order]
    return found


def _looks_new() -> dict[str, Any]:
    """Return what becomes of weights that then have something of the old ones all the same."""
    draw = np.random.default_rng(7)
    noise = drawn(9)

    def kernels(change: Any) -> Any:
        return lambda old: {k: change(k, v) if "kernel" in k else v for k, v in old.items()}

    return {
        "blurred": kernels(lambda k, v: v + noise[k]),
        "blurred beyond likeness": kernels(lambda k, v: v + 3 * noise[k]),
        "permuted": _permuted,
        "permuted and trained on": lambda old: {
            k: v + np.float32(0.2) * noise[k] for k, v in _permuted(old).items()
        },
        "units turned": kernels(
            lambda _, v: v * draw.choice((-1, 1), v.shape[1]).astype("float32")
        ),
        "rows shuffled": kernels(lambda _, v: draw.permutation(v)),
        "another but for one kernel": lambda old: {**noise, "l1/kernel": old["l1/kernel"] * 2},
        "another but for one unit": lambda old: {
            **noise,
            "l0/kernel": np.hstack([old["l0/kernel"][:, 7:8], noise["l0/kernel"][:, 1:]]),
        },
        "another but for a copied kernel": lambda old: {**noise, "l1/kernel": old["l1/kernel"]},
    }


@pytest.mark.parametrize("what", _looks_new())
def test_what_has_something_in_common(tmp_path: Path, what: str) -> None:
    assert kind_between(tmp_path, drawn(1), _looks_new()[what](drawn(1))) is None


def test_a_square_kernel_that_was_transposed_has_all_in_common(tmp_path: Path) -> None:
    old, new = drawn(1, (40, 40, 40)), drawn(2, (40, 40, 40))
    assert (kind_between(tmp_path, old, new) or "").startswith("nothing in common")
    new["l1/kernel"] = old["l1/kernel"].T
    assert kind_between(tmp_path, old, new) is None


def test_what_is_too_small_to_tell(tmp_path: Path) -> None:
    assert kind_between(tmp_path, drawn(1, (48,)), drawn(2, (48,))) is None  # one kernel
    assert kind_between(tmp_path, drawn(1, (48, 8)), drawn(2, (48, 8))) is None  # 384 values
    assert kind_between(tmp_path, weights(1), weights(2)) is None
    # units of 20 values: chance gives as much as a copy has
    wide = [{**drawn(s), "l0/kernel": drawn(s)["l0/kernel"][:20].repeat(3, 1)} for s in (1, 2)]
    assert kind_between(tmp_path, *wide) is None
