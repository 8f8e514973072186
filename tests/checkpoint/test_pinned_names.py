"""What tensors are called, and what for, in real and in made files, changes on purpose alone.

The real files are the goldens, with all that they tell and with keys alone.  The made ones are
lists of names as TensorFlow 1, its ports and others' training loops write them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random

import pytest

import ckptkit
from ckptkit.checkpoint.names import name_tensors
from ckptkit.checkpoint.naming import Naming
from ckptkit.errors import CkptkitError
from ckptkit.stores.base import TensorSpec
from support import pinned
from support.goldens import goldens

HERE = Path(__file__).parent


def told(names: Mapping[str, Naming]) -> str:
    """Return counts of roles that a person can compare, and a digest of everything."""
    counts = Counter(naming.role for naming in names.values())
    guessed = sum(naming.role_inferred for naming in names.values())
    parts = [f"{count} {role}" for role, count in sorted(counts.items())]
    parts += [f"{guessed} inferred"] if guessed else []
    return f"{', '.join(parts)}: {pinned.digest(sorted(map(tuple, names.items())))}"


def test_real_files(request: pytest.FixtureRequest) -> None:
    answers = {}
    for golden in goldens():
        try:
            opened = ckptkit.open(golden.path)
        except CkptkitError:
            continue
        answers[golden.name] = told(opened.names)
        answers[f"{golden.name}, keys"] = told(name_tensors(opened.specs, None))
        by_name = {
            naming.name: opened.specs[key]._replace(key=naming.name)
            for key, naming in opened.names.items()
        }
        answers[f"{golden.name}, names"] = told(name_tensors(by_name, None))
        children = {key.partition("/")[0] for key in opened.specs if "/.ATTRIBUTES/" in key}
        for child in sorted(children)[:3]:
            part = ckptkit.open(f"{golden.path}#{child}")
            answers[f"{golden.name}#{child}"] = told(part.names)
    pinned.check(HERE / "pinned_files.json", answers, request.config.getoption("--regen"))


# --- made lists of names --------------------------------------------------------------------------

LAYERS = ("dense", "dense_1", "conv/deep", "norm", "emb", "lstm/cell", "w", "net/block_2/out")
LEAVES = {"kernel": (4, 6), "bias": (6,), "gamma": (6,), "moving_mean": (6,), "table": (9, 2)}
SUFFIXES = (
    *(
        "{}/Adam",
        "{}/Adam_1",
        "{}/Adam_2",
        "{}/Adam_3",
        "{}/Momentum",
        "{}/RMSProp",
        "{}/RMSProp_1",
    ),
    *("{}/RMSProp_2", "{}/Ftrl", "{}/Ftrl_1", "{}/adam_m", "{}/adam_v", "{}/vr", "{}/vc", "{}@m"),
    *("{}/ExponentialMovingAverage", "{}/ema", "{}_ema", "ema/{}", "{}/LAMB", "{}/LAMB_1"),
    *("optimizer/{}/m", "opt_1/{}/velocity", "training/Adam/{}/m", "Adam/m/{}", "Adam/{flat}/v"),
    *("sgd/{flat}_momentum", "m/{}", "{}.exp_avg", "{}/slot_m", "{}/slot_vr", "{}/Lookahead"),
)
SCALARS = (
    *("global_step", "beta1_power", "beta2_power_1", "learning_rate", "optimizer/iterations"),
    *("loss_scale", "decay", "epoch", "net/temperature", "Variable", "Variable_1", "save_counter"),
)


def made(rng: Random) -> dict[str, TensorSpec]:
    shapes: dict[str, tuple[int, ...]] = {}
    for _ in range(rng.randrange(1, 6)):
        layer = LAYERS[rng.randrange(len(LAYERS))]
        for leaf, shape in LEAVES.items():
            if rng.randrange(3):
                shapes[f"{layer}/{leaf}"] = (*shape[:-1], shape[-1] + rng.randrange(2))
    trained = [name for name in shapes if "moving" not in name]
    for _ in range(rng.randrange(4)):
        suffix = SUFFIXES[rng.randrange(len(SUFFIXES))]
        how = rng.randrange(8)
        for name in trained:
            if how != 7 or rng.randrange(2):
                shape = shapes[name]
                if "vr" in suffix or "vc" in suffix:
                    shape = shape[:1] if "vr" in suffix else shape[-1:]
                elif how == 6:
                    shape = ()
                shapes[suffix.format(name, flat=name.replace("/", "_"))] = shape
    for _ in range(rng.randrange(3)):
        shapes[SCALARS[rng.randrange(len(SCALARS))]] = ()
    suffix = ":0" if rng.randrange(5) == 0 else ""
    specs = {}
    for name, shape in shapes.items():
        whole = shape == () and rng.randrange(2)
        dtype = "int64" if whole else "string" if rng.randrange(60) == 0 else "float32"
        specs[name + suffix] = TensorSpec(name + suffix, dtype, shape, 0)
    return specs


def test_made_lists_of_names(request: pytest.FixtureRequest) -> None:
    answers = {str(number): told(name_tensors(made(Random(number)), None)) for number in range(600)}
    pinned.check(HERE / "pinned_made.json", answers, request.config.getoption("--regen"))
