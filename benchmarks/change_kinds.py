"""`python -m benchmarks.change_kinds`: what `diff` says of changes that look like one another.

Models are trained, trained on, initialised anew, permuted, blurred; every pair is compared.  What
is said must be true of each, and what two histories share is said of neither: the table shows how
far kernels of "more training" are from those of runs that only began at one checkpoint.  With
--write the table goes into docs/diff.md.  Exit code: 1 where something false is said.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from benchmarks.harness import markdown_table, put

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "diff.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
SEEDS = (1, 2, 3)
NEW = "nothing in common"
Weights = dict[str, Any]


class Pair(NamedTuple):
    """Two files; new: whether NEW really has nothing of OLD."""

    what: str
    old: Weights
    new: Weights
    is_new: bool = False


def mlp() -> Any:
    """Return a model of dense layers."""
    import keras

    dense = [keras.layers.Dense(n, "relu", name=f"d{at}") for at, n in enumerate((128, 128, 96))]
    return keras.Sequential([keras.Input((64,)), *dense, keras.layers.Dense(16, name="head")])


def cnn() -> Any:
    """Return a model of convolutions with batch normalisation."""
    import keras

    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            layers.Conv2D(48, 3, activation="relu", name="d0"),
            layers.BatchNormalization(name="n0"),
            layers.Conv2D(48, 3, activation="relu", name="d1"),
            layers.Flatten(),
            layers.Dense(64, "relu", name="d2"),
            layers.Dense(16, name="head"),
        ]
    )


MODELS: Mapping[str, Callable[[], Any]] = {"mlp": mlp, "cnn": cnn}


def data(shape: tuple[int, ...], seed: int) -> tuple[Any, Any]:
    """Return examples and classes that a random network gives them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(512, *shape)).astype("float32")
    inside = np.tanh(x.reshape(512, -1) @ rng.normal(size=(int(np.prod(shape)), 32)) / 8)
    return x, (inside @ rng.normal(size=(32, 16))).argmax(-1)


class Runs:
    """Training runs of one architecture."""

    def __init__(self, make: Callable[[], Any]) -> None:
        import keras

        self.make, self.keras = make, keras

    def started(self, seed: int, rate: float = 1e-3) -> Any:
        """Return a model as initialised by a seed."""
        self.keras.utils.set_random_seed(seed)
        model = self.make()
        model.compile(self.keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
        model.layers[-1].activation = self.keras.activations.softmax
        return model

    def weights(self, model: Any) -> Weights:
        """Return what it holds now."""
        return {"/".join(w.path.split("/")[-2:]): w.numpy() for w in model.weights}

    def trained(self, model: Any, steps: int, seed: int) -> Weights:
        """Train on for so many batches of 32, and return what it then holds."""
        x, y = data(model.input_shape[1:], seed)
        self.keras.utils.set_random_seed(seed)
        whole, rest = divmod(steps, 16)
        if whole:
            model.fit(x, y, batch_size=32, epochs=whole, verbose=0)
        if rest:
            model.fit(x[: 32 * rest], y[: 32 * rest], batch_size=32, verbose=0)
        return self.weights(model)

    def from_(self, weights: Weights) -> Any:
        """Return a model that holds these, with an optimizer of its own."""
        model = self.started(0)
        model.set_weights(list(weights.values()))
        return model


def pairs(runs: Runs, seed: int) -> Iterator[Pair]:
    """Yield every pair of one seed."""
    model, other = runs.started(seed), runs.started(seed + 100)
    first, second = runs.weights(model), runs.weights(other)
    yield Pair("another initialisation, 0 steps", first, second, True)
    before = first
    done = 0
    for steps in (1, 10, 100, 1000):
        now = runs.trained(model, steps - done, seed)
        apart = runs.trained(other, steps - done, seed)
        done = steps
        yield Pair(f"more training, 0 to {steps} steps", first, now)
        yield Pair(f"another initialisation, {steps} steps each", now, apart, True)
        if steps == 1000:
            yield Pair("more training, 100 to 1000 steps", before, now)
        before = now
    far = runs.trained(runs.started(seed, 1e-2), 1000, seed)
    yield Pair("more training, 0 to 1000 steps, ten times the rate", first, far)
    tuned = runs.trained(runs.from_(now), 300, seed + 7)
    yield Pair("trained on, on other data", now, tuned)
    sibling = runs.trained(runs.from_(now), 100, seed + 8)
    yield Pair("two runs from one checkpoint", sibling, tuned)
    permuted = shuffled_units(now, np.random.default_rng(seed))
    yield Pair("units in another order", now, permuted)
    for steps in (10, 100):
        later = runs.trained(runs.from_(permuted), steps, seed + 9)
        yield Pair(f"units in another order, then {steps} steps", now, later)
    yield from blurred(now, apart, np.random.default_rng(seed))


def shuffled_units(weights: Weights, rng: Any) -> Weights:
    """Return the same model, the units of each hidden layer in another order."""
    found = dict(weights)
    hidden = [name for name in weights if name.endswith("/kernel")]
    for name, after in pairwise(hidden):
        units = weights[name].shape[-1]
        order = rng.permutation(units)
        layer = name.partition("/")[0]
        own = [layer, f"n{layer[1:]}"]
        for each in [n for n in weights if n.partition("/")[0] in own]:
            found[each] = found[each][..., order]
        # what follows takes them along its second last axis, several times after a Flatten
        rows = found[after]
        turned = rows.reshape(*rows.shape[:-2], -1, units, rows.shape[-1])[..., order, :]
        found[after] = turned.reshape(rows.shape)
    return found


def blurred(now: Weights, apart: Weights, rng: Any) -> Iterator[Pair]:
    """Yield what is no training at all."""
    for share in (0.01, 0.1, 1.0):
        noisy = {
            n: (v + share * v.std() * rng.standard_normal(v.shape)).astype("float32")
            for n, v in now.items()
        }
        yield Pair(f"noise of {share:.0%} of each weight", now, noisy)
    signs = {n: v * rng.choice((-1, 1), v.shape[-1]) for n, v in now.items()}
    yield Pair("signs of units turned", now, {n: v.astype("float32") for n, v in signs.items()})
    mixed = {
        n: rng.permutation(v.reshape(-1, v.shape[-1])).reshape(v.shape) for n, v in now.items()
    }
    yield Pair("rows of each kernel in another order", now, mixed)
    yield Pair("the mean of two runs", now, {n: (v + apart[n]) / 2 for n, v in now.items()})
    head = {n: apart[n] if n.startswith("head/") else v * np.float32(1.001) for n, v in now.items()}
    yield Pair("another head, the rest trained on", now, head)


# --- the table ------------------------------------------------------------------------------------


def least_cosine(pair: Pair) -> float:
    """Return the least cosine of a kernel with itself."""
    found = []
    for name, old in pair.old.items():
        if old.ndim > 1:
            a, b = (x.astype(np.float64).ravel() for x in (old, pair.new[name]))
            found.append(float(a @ b / np.sqrt((a @ a) * (b @ b))))
    return min(found)


def said(pair: Pair, folder: Path) -> str:
    """Return the kind that `diff` tells, in brief."""
    import ckptkit

    for name, arrays in (("old", pair.old), ("new", pair.new)):
        np.savez(folder / f"{name}.npz", **arrays)
    kind = ckptkit.diff(folder / "old.npz", folder / "new.npz").kind
    return (kind or "").partition(":")[0]


def lines(rows: Iterable[tuple[Pair, str, float]]) -> Iterator[str]:
    """Yield the table."""
    by_what: dict[str, list[tuple[str, float]]] = {}
    for pair, kind, cosine in rows:
        by_what.setdefault(pair.what, []).append((kind, cosine))
    cells = []
    for what, found in by_what.items():
        kinds = Counter(kind or "nothing" for kind, _ in found)
        told = ", ".join(f"{kind} {count}" for kind, count in kinds.items())
        cosines = [cosine for _, cosine in found]
        cells.append((what, str(len(found)), f"{min(cosines):.3f} to {max(cosines):.3f}", told))
    headers = ("what happened", "pairs", "least cosine of a kernel", "said")
    yield from markdown_table(cells, headers, ("left", "right", "right", "left"))


@click.command()
@click.option("--write", is_flag=True, help="Put the table into docs/diff.md.")
@click.pass_context
def main(ctx: click.Context, write: bool) -> None:
    """See what `diff` says of changes that look like one another."""
    rows: list[tuple[Pair, str, float]] = []
    with tempfile.TemporaryDirectory(prefix="kinds-") as scratch:
        for make in MODELS.values():
            for seed in SEEDS:
                for pair in pairs(Runs(make), seed):
                    rows.append((pair, said(pair, Path(scratch)), least_cosine(pair)))
    table = "\n".join(lines(rows))
    false = [pair.what for pair, kind, _ in rows if kind == NEW and not pair.is_new]
    click.echo("\n".join([table, "", *(f"false: {NEW}: {what}" for what in false)]))
    if write:
        put(DOCUMENT, table, BEGIN, END)
    ctx.exit(bool(false))


if __name__ == "__main__":
    sys.exit(main())
