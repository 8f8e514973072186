"""A sample of the damage that `python -m benchmarks.mutations` does is found and named."""

from __future__ import annotations

from pathlib import Path

import pytest

import ckptkit
from benchmarks import _mutation_checks, _mutation_models
from benchmarks._mutants import KINDS, mentions
from support.layer_damage import run_here

SAMPLE = ("transpose", "off", "nan", "float16", "bias", "activation", "swap", "scale")


@pytest.mark.needs_tf
@pytest.mark.parametrize(
    "model", ["mlp_module", pytest.param("sequential", marks=pytest.mark.slow)]
)
def test_damage_is_found_and_named(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_here(monkeypatch)
    bases, mutants = _mutation_models.make(model, tmp_path)
    [base] = bases
    golden = str(tmp_path / "golden")
    ckptkit.record(base.path, golden, imports=base.imports, noise=False)
    assert ckptkit.check(base.path, imports=base.imports, golden=golden).ok
    chosen = [mutant for mutant in mutants if mutant.kind in SAMPLE]
    assert len(chosen) >= 5
    for mutant in chosen:
        found = _mutation_checks.judged(model, base, mutant, golden, localized=False)
        assert (found.caught, found.named, found.blind) == (True, True, True), found


def test_every_kind_has_a_rule() -> None:
    assert len(KINDS) >= 20
    for kind in KINDS.values():
        assert kind.codes is not None or kind.layer, kind.what


@pytest.mark.parametrize(
    ("text", "said"),
    [("conv1/kernel: zeroed", True), ("conv10/kernel: zeroed", False), ("my_conv1", False)],
)
def test_only_whole_names_count(text: str, said: bool) -> None:
    assert mentions(text, "conv1") is said
