"""Damaged manifests: a line that is no longer what was written is an error, never a comment."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

import ckptkit
from ckptkit.errors import CkptkitError, FormatError
from ckptkit.operations.verify.manifest import read_manifest
from support.command_line import ckptkit as command
from support.command_line import refused

# what a line on a tensor can become, and how much of it is left to tell
DAMAGES = {
    "two lines joined": lambda line: line + line,
    "cut": lambda line: line[:60],
    "cut in the names": lambda line: line[:-6],
    "a digest that is none": lambda line: line.replace("#tensor ", "#tensor x", 1),
    "a shape that is none": lambda line: line.replace(" [", " (", 1),
    "names that are no list": lambda line: line.partition(' "')[0] + ' "7"',
    "names that are no text": lambda line: line.partition(' "')[0] + ' "[1, 2]"',
    "names that are no JSON": lambda line: line.partition(' "')[0] + ' "[\\"a\\""',
    "names of three": lambda line: line.partition(' "')[0] + ' "[\\"a\\", \\"b\\", \\"c\\"]"',
    "a mark that is none": lambda line: line.replace("#tensor", "#tenser"),
    "a mark run together": lambda line: line.replace("#tensor ", "#tensor"),
    "no mark": lambda line: line.replace("#tensor ", ""),
    "text behind it": lambda line: line + " x",
    "a number without end": lambda line: line.partition(' "')[0] + ' "' + "9" * 9999 + '"',
}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    np.savez(tmp_path / "w.npz", a=np.arange(3, dtype=np.float32), b=np.ones((2, 2)))
    from ckptkit.stores.safetensors.writer import write_safetensors
    from support.values import blocks_of, corpus, out_tensors

    tensors = corpus(["float32", "int8"])
    write_safetensors(tmp_path / "w.safetensors", out_tensors(tensors), blocks_of(tensors))
    assert ckptkit.verify(tmp_path, new_manifest=tmp_path / "SUMS").ok
    return tmp_path


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_line_on_a_tensor_is_refused(weights: Path, damage: str) -> None:
    manifest = weights / "SUMS"
    lines = manifest.read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("#tensor"))
    lines[at] = DAMAGES[damage](lines[at])
    manifest.write_text("\n".join(lines) + "\n")
    assert f"SUMS line {at + 1}" in refused("verify", weights, "--manifest", manifest)


def test_comments_of_people_are_comments(weights: Path) -> None:
    manifest = weights / "SUMS"
    manifest.write_text(f"# of the release\n#\n\n{manifest.read_text()}#\tend\n")
    assert command("verify", weights, "--manifest", manifest).code == 0


def test_two_digests_of_one_tensor(weights: Path) -> None:
    manifest = weights / "SUMS"
    line = next(ln for ln in manifest.read_text().splitlines() if ln.startswith("#tensor"))
    with manifest.open("a") as file:
        file.write(line + "\n")
    assert command("verify", weights, "--manifest", manifest).code == 0
    words = line.split(" ", 2)
    with manifest.open("a") as file:
        file.write(f"#tensor {'0' * 64} {words[2]}\n")
    with pytest.raises(FormatError, match="two digests"):
        read_manifest(manifest)


def test_no_flipped_bit_goes_unnoticed(weights: Path) -> None:
    """Any one flipped bit: refused, or a finding, or it changed nothing that is compared."""
    manifest = weights / "SUMS"
    good = manifest.read_bytes()
    rng = random.Random("flips of a manifest")
    for place in rng.sample(range(8 * len(good)), 150):
        damaged = bytearray(good)
        damaged[place // 8] ^= 1 << place % 8
        manifest.write_bytes(damaged)
        try:
            result = ckptkit.verify(weights, manifest=manifest)
        except CkptkitError:
            continue
        if result.ok:  # the digest of a tensor is looked at only where the file's differs
            start = good.rfind(b"\n", 0, place // 8) + 1
            assert good[start : place // 8 + 1].startswith(b"#tensor"), (place, damaged)
