"""Which tensor is which, in real files and in made ones, changes on purpose alone.

The made ones are a model and what became of it: layers numbered anew, put in, taken out or moved,
kept by object paths, by names or by places in lists, with contents that are known or not.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

import ckptkit
from ckptkit._io.crc32c import value
from ckptkit.align.matching import Alignment, TensorSet, align, align_content
from ckptkit.checkpoint.naming import Naming
from ckptkit.stores.base import TensorSpec
from support import pinned
from support.goldens import goldens

HERE = Path(__file__).parent
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
ZEROS = value(bytes(4 * 6))
MADE = 700


def told(alignment: Alignment) -> str:
    """Return counts that a person can compare, and a digest of everything."""
    counts = Counter(match.evidence for match in alignment.pairs)
    parts = [f"{count} {evidence}" for evidence, count in sorted(counts.items())]
    parts += [f"{len(alignment.renamed)} renamed"] if alignment.renamed else []
    parts += [f"{len(alignment.only_left)} and {len(alignment.only_right)} alone"]
    parts += [f"{len(alignment.ambiguous)} ambiguous"] if alignment.ambiguous else []
    whole = (
        sorted((m.old, m.new, m.evidence) for m in (*alignment.pairs, *alignment.renamed)),
        sorted(alignment.only_left),
        sorted(alignment.only_right),
        sorted((sorted(a.old), sorted(a.new), a.reason) for a in alignment.ambiguous),
    )
    return f"{', '.join(parts)}: {pinned.digest(whole)}"


# --- real files -----------------------------------------------------------------------------------


def pairs_of_files() -> Iterator[tuple[str, str]]:
    """Yield files of one model, of one name, and neighbours."""
    known = [g for g in goldens() if g.tensors and g.kind not in ("checkpoint-v1", "frozen")]
    groups: dict[object, list[str]] = {}
    for golden in known:
        groups.setdefault(tuple(sorted(golden.weights)), []).append(golden.name)
        groups.setdefault(golden.name.partition("/")[2], []).append(golden.name)
    seen = {pair for names in groups.values() for pair in itertools.combinations(names[:6], 2)}
    seen |= set(itertools.pairwise(golden.name for golden in known))
    yield from sorted(seen)


def test_real_files(request: pytest.FixtureRequest) -> None:
    paths = {golden.name: golden.path for golden in goldens()}
    sides: dict[str, TensorSet] = {}
    answers = {}
    for one, other in pairs_of_files():
        for name in (one, other):
            if name not in sides:
                opened = ckptkit.open(paths[name])
                sides[name] = TensorSet(opened.specs, opened.names, structure=opened.structure)
        answers[f"{one} | {other}"] = told(align(sides[one], sides[other]))
    pinned.check(HERE / "pinned_files.json", answers, request.config.getoption("--regen"))


# --- made files -----------------------------------------------------------------------------------

WORDS = ("dense", "conv2d", "block", "norm", "embed")
SHAPES = ((2, 3), (2, 3), (3, 3), (3,), (4, 1))
Layer = tuple[str, list[tuple[str, tuple[int, ...], int | None]]]  # name, (leaf, shape, content)


def pick(rng: Random, items: tuple[str, ...]) -> str:
    return items[rng.randrange(len(items))]


def model(rng: Random) -> list[Layer]:
    layers: list[Layer] = []
    seen: Counter[str] = Counter()
    for _ in range(rng.randrange(1, 6)):
        word = pick(rng, WORDS)
        scope = pick(rng, ("", "", "net/", "net/block_1/"))
        name = f"{scope}{word}_{seen[word]}" if seen[word] else f"{scope}{word}"
        seen[word] += 1
        leaves = ("kernel", "bias", "gamma")[: rng.randrange(1, 4)]
        shape = SHAPES[rng.randrange(len(SHAPES))]
        content = [rng.randrange(1, 40) if rng.randrange(12) else ZEROS for _ in leaves]
        shapes = [shape, shape[-1:], shape[-1:]]
        layers.append((name, list(zip(leaves, shapes, content, strict=False))))
    return layers


def became(rng: Random, layers: list[Layer]) -> list[Layer]:
    """Return what may have become of a model."""
    layers = list(layers)
    for _ in range(rng.randrange(3)):
        what = rng.randrange(6)
        at = rng.randrange(len(layers)) if layers else 0
        if what == 0 and layers:
            del layers[at]
        elif what == 1:
            layers.insert(at, (pick(rng, WORDS), [("kernel", (2, 3), rng.randrange(1, 40))]))
        elif what == 2:
            layers = layers[at:] + layers[:at]
        elif what == 3:
            first = rng.randrange(1, 4)
            layers = [(f"{name}_{at + first}", rows) for at, (name, rows) in enumerate(layers)]
        elif what == 4 and layers:
            name, rows = layers[at]
            layers[at] = (name, [(leaf, shape, 50 + rng.randrange(9)) for leaf, shape, _ in rows])
        elif what == 5 and layers:
            name, rows = layers[at]
            layers[at] = (name, [(leaf, (*shape, 2), content) for leaf, shape, content in rows])
    return layers


def kept(rng: Random, layers: list[Layer]) -> TensorSet:
    """Return a file of a model."""
    style = pick(rng, ("names", "attributes", "layers", "list", "optimizer", "vars"))
    tells_names, tells_content = rng.randrange(4) > 0, rng.randrange(4) > 0
    root = pick(rng, ("model/", "", "net/"))
    specs: dict[str, TensorSpec] = {}
    names: dict[str, Naming] = {}
    number = 0
    for at, (layer, rows) in enumerate(layers):
        for row, (leaf, shape, content) in enumerate(rows):
            name = f"{layer}/{leaf}"
            path = {
                "names": name,
                "attributes": f"{root}{layer.replace('/', '.')}/{leaf}",
                "layers": f"{root}layers/{at}/_{leaf}",
                "list": f"variables/{number}",
                "optimizer": f"optimizer/_trainable_variables/{number}",
                "vars": f"layers/{layer}/vars/{row}",
            }[style]
            key = path if style in ("names", "vars") else path + SUFFIX
            if key in specs:
                continue
            aliases = (f"model/layer-{at}/{leaf}",) if style == "optimizer" else ()
            full_name = name if tells_names and style != "vars" else None
            called = full_name if full_name and rng.randrange(3) else path
            if any(naming.name == called for naming in names.values()):
                called = path
            role = "counter" if rng.randrange(25) == 0 else "weight"
            nbytes = 4
            for axis in shape:
                nbytes *= axis
            crc = content if tells_content else None
            dtype = "float32" if rng.randrange(20) else "float16"
            specs[key] = TensorSpec(key, dtype, shape, nbytes, 0, 0, crc)
            names[key] = Naming(called, role, full_name, aliases)
            number += 1
            if role == "weight" and rng.randrange(5) == 0:
                slot = pick(rng, ("m", "v"))
                of = f"{path}@{slot}" if style != "list" else f"optimizer/_variables/{number}"
                specs[of] = TensorSpec(of, dtype, shape, nbytes, 0, 0, crc and crc + 1)
                names[of] = Naming(f"{called}@{slot}", "slot", None, (), called, slot,
                                   pick(rng, ("o1", "o2")))  # fmt: skip
            elif role == "weight" and rng.randrange(12) == 0:
                again = f"_all_variables/{number}{SUFFIX}"
                specs[again] = TensorSpec(again, dtype, shape, nbytes, 0, 0, crc)
                names[again] = Naming(again, "weight", duplicate_of=called)
    return TensorSet(specs, names)


def test_made_files(request: pytest.FixtureRequest) -> None:
    answers = {}
    for number in range(MADE):
        rng = Random(number)
        before = model(rng)
        old, new = kept(rng, before), kept(rng, became(rng, before))
        alignment = align(old, new)
        answer = told(alignment)
        if number % 4 == 0:  # contents that are found out afterwards
            digests = [{key: spec.crc32c or 7 for key, spec in s.specs.items()} for s in (old, new)]
            sides = [
                TensorSet(s.specs, s.names, d) for s, d in zip((old, new), digests, strict=True)
            ]
            answer += f" {told(align_content(alignment, *sides))}"
        answers[str(number)] = answer
    pinned.check(HERE / "pinned_made.json", answers, request.config.getoption("--regen"))
