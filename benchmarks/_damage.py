"""What `benchmarks.reliability` measures of damage to files: flipped bits, and cuts."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks._rows import Row, kind, share, told
from support.tf_reader import Peer

# --- flipped bits ---------------------------------------------------------------------------------


def _flip(path: Path, content: bytes, bits: Sequence[int]) -> None:
    damaged = {bit // 8: content[bit // 8] for bit in bits}
    for bit in bits:
        damaged[bit // 8] ^= 1 << bit % 8
    _write(path, {byte: bytes([value]) for byte, value in damaged.items()})


def _restore(path: Path, content: bytes, bits: Sequence[int]) -> None:
    _write(path, {bit // 8: content[bit // 8 : bit // 8 + 1] for bit in bits})


def _write(path: Path, parts: dict[int, bytes]) -> None:
    fd = os.open(path, os.O_WRONLY)
    for at, value in parts.items():
        os.pwrite(fd, value, at)
    os.close(fd)


def data_flips(directory: Path, peer: Peer, quick: bool) -> Iterator[Row]:
    """Every bit of a 64 KiB data file of ours, and bursts of 2 to 32 bits."""
    import numpy as np

    from ckptkit.operations.verify.api import verify
    from ckptkit.operations.verify.bundle import checksum_findings
    from ckptkit.operations.verify.data import plan_shard, ranges_by_shard
    from ckptkit.stores.tensor_bundle.reader import open_bundle
    from ckptkit.stores.tensor_bundle.writer import write_tensor_bundle
    from support.values import blocks_of, out_tensors

    rng = np.random.default_rng(1)
    tensors = {
        f"layer_{i}/kernel": ("float32", rng.standard_normal((32, 32)).astype(np.float32))
        for i in range(15)
    }
    tensors["words"] = ("string", np.array([rng.bytes(203) for _ in range(20)], object))
    prefix = directory / "data" / "c"
    prefix.parent.mkdir()
    write_tensor_bundle(prefix, out_tensors(tensors), blocks_of(tensors, 1 << 20))
    path = prefix.with_name("c.data-00000-of-00001")
    content = path.read_bytes()
    clean = peer(prefix)
    bundle = open_bundle(prefix)
    plans = [plan_shard(path, ranges_by_shard(bundle)[0])]
    assert len(content) >= 1 << 16

    def is_found(bits: Sequence[int]) -> bool:
        _flip(path, content, bits)
        findings, _, _ = checksum_findings(bundle, plans, None, None)
        _restore(path, content, bits)
        return any(finding.severity != "note" for finding in findings)

    bits = range(0, 8 * len(content), 97 if quick else 1)
    found = sum(is_found([bit]) for bit in bits)
    yield Row("one flipped bit, every bit of a 64 KiB data file", len(bits),
              share(found, len(bits)), "", found == len(bits))  # fmt: skip
    chance = random.Random(4)
    count = 300 if quick else 20_000
    found = 0
    for _ in range(count):
        length = chance.randrange(2, 33)
        start = chance.randrange(8 * len(content) - length)
        inner = [bit for bit in range(start + 1, start + length - 1) if chance.random() < 0.5]
        found += is_found([start, *inner, start + length - 1])
    yield Row("a burst of 2 to 32 bits of it", count, share(found, count), "", found == count)
    sample = chance.sample(range(8 * len(content)), 40 if quick else 400)
    found, theirs = 0, Counter[str]()
    for bit in sample:
        _flip(path, content, [bit])
        found += verify(prefix).exit_code == 1
        theirs[kind(peer(prefix), clean)] += 1
        _restore(path, content, [bit])
    total = len(sample)
    what = "a sample of these bits, by `verify` whole and by reading every tensor"
    yield Row(what, total, share(found, total), told(theirs), found == total)


def index_flips(directory: Path, peer: Peer, quick: bool) -> Iterator[Row]:
    """Every bit of an index of several blocks of ours, by `verify` and by `ls`."""
    import numpy as np

    from ckptkit.stores.tensor_bundle.writer import write_tensor_bundle
    from support.values import blocks_of, out_tensors

    tensors = {f"model/layer_{i}/kernel": ("float32", np.full(4, i, np.float32)) for i in range(24)}
    prefix = directory / "index" / "c"
    prefix.parent.mkdir()
    write_tensor_bundle(prefix, out_tensors(tensors), blocks_of(tensors), block_bytes=300)
    path = prefix.with_name("c.index")
    bits = range(0, 8 * path.stat().st_size, 31 if quick else 1)
    yield _index_row("one flipped bit, every bit of an index of several blocks", prefix, bits, peer,
                     30 if quick else 500)  # fmt: skip


def large_index_flips(directory: Path, peer: Peer, quick: bool) -> Iterator[Row]:
    """A sample of bits of an index that TensorFlow wrote, larger than one of its blocks."""
    prefix = directory / "large" / "c"
    prefix.parent.mkdir()
    count = 12_000
    script = (
        "import sys, tensorflow as tf; n = int(sys.argv[2]);"
        "names = [f'model/block_{i}/dense/kernel/.ATTRIBUTES/VARIABLE_VALUE' for i in range(n)];"
        "tf.raw_ops.SaveV2(prefix=sys.argv[1], tensor_names=names, shape_and_slices=[''] * n,"
        " tensors=[tf.constant([i]) for i in range(n)])"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(prefix), str(count)], check=True, capture_output=True
    )
    size = prefix.with_name("c.index").stat().st_size
    bits = sorted(random.Random(2).sample(range(8 * size), 20 if quick else 200))
    what = f"one flipped bit in TensorFlow's own index of {count:,} variables, a sample"
    yield _index_row(what, prefix, bits, peer, 60)


def _index_row(what: str, prefix: Path, bits: range | list[int], peer: Peer, sampled: int) -> Row:
    from ckptkit.errors import CkptkitError
    from ckptkit.operations.ls import ls
    from ckptkit.operations.verify.api import verify

    path = prefix.with_name("c.index")
    content = path.read_bytes()
    clean = peer(prefix)
    by_verify = by_ls = 0
    theirs = Counter[str]()
    compared = set(random.Random(3).sample(list(bits), min(sampled, len(bits))))
    for bit in bits:
        _flip(path, content, [bit])
        by_verify += verify(prefix).exit_code == 1
        try:
            ls(prefix)
        except CkptkitError:
            by_ls += 1
        if bit in compared:
            theirs[kind(peer(prefix), clean)] += 1
        _restore(path, content, [bit])
    total = len(bits)
    ours = f"`verify`: {share(by_verify, total)}; `ls`: {share(by_ls, total)}"
    met = by_verify == by_ls == total
    return Row(what, total, ours, f"of {len(compared)}: {told(theirs)}", met)


# --- truncation -----------------------------------------------------------------------------------


def truncations(directory: Path, peer: Peer, quick: bool) -> Iterator[Row]:
    """Every length of every kind of file."""
    from ckptkit.stores.npz.writer import write_npz
    from ckptkit.stores.safetensors.writer import write_safetensors
    from support.damage import write
    from support.goldens import GOLDEN
    from support.values import blocks_of, corpus, out_tensors

    place = directory / "cut"
    place.mkdir()
    prefix = write(place / "c")
    clean = peer(prefix)
    for suffix in ("index", "data-00000-of-00001"):
        path = prefix.with_name(f"c.{suffix}")
        yield _cut_row(path, prefix, quick, lambda: kind(peer(prefix), clean))
    tensors = corpus(["float32", "int8"])
    for path, writer in (
        (place / "w.safetensors", write_safetensors),
        (place / "w.npz", write_npz),
    ):
        writer(path, out_tensors(tensors), blocks_of(tensors))
        yield _cut_row(path, path, quick)
    index = place / "set" / "m.safetensors.index.json"
    index.parent.mkdir()
    write_safetensors(index, out_tensors(tensors), blocks_of(tensors), shard_size=1000)
    yield _cut_row(index, index, quick)
    for name in ("model.keras", "model.h5", "model.weights.h5"):
        path = place / name
        shutil.copy(GOLDEN / "tf2.21.0" / "files_nested" / name, path)
        yield _cut_row(path, path, quick)
    for golden, names in (
        ("tf2.21.0/module_saved_model/model", ("saved_model.pb", "fingerprint.pb")),
        ("tf2.12.1/text_export/model", ("saved_model.pbtxt",)),
    ):
        model = place / golden.replace("/", "-")
        shutil.copytree(GOLDEN / golden, model)
        for name in names:
            yield _cut_row(model / name, model, quick)


def _cut_row(
    path: Path, operand: Path, quick: bool, theirs: Callable[[], str] | None = None
) -> Row:
    from ckptkit.operations.verify.api import verify

    content = path.read_bytes()
    size = len(content.rstrip())  # white space at the end of a text is no loss
    step = 29 if quick else 1
    lengths = sorted({*range(0, size, step), *range(max(0, size - 40), size)})
    found, verdicts = 0, Counter[str]()
    for number, length in enumerate(lengths):
        path.write_bytes(content[:length])
        found += verify(operand).exit_code == 1
        if theirs is not None and number % 5 == 0:
            verdicts[theirs()] += 1
    path.write_bytes(content)
    peers = f"of {sum(verdicts.values())}: {told(verdicts)}" if verdicts else ""
    every = "every length" if step == 1 else f"every {step}th length and the last 40"
    name = "".join(["*", *path.suffixes]) if path.stem in ("c", "w", "m") else path.name
    total = len(lengths)
    return Row(f"cut short: `{name}`, {every}", total, share(found, total), peers, found == total)
