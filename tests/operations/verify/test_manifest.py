"""Damaged manifests: a line that is no longer what was written is an error, never a comment."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest

import ckptkit
from ckptkit.errors import CkptkitError, FormatError
from ckptkit.operations.verify.manifest import read_manifest
from support.command_line import ckptkit as command
from support.command_line import refused
from support.range_server import serving

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


def test_manifest_and_files_are_each_here_or_on_a_server(weights: Path) -> None:
    """Where both are in one place, names are relative to the manifest; else to the files'."""
    (weights / "SUMS").unlink()
    run = weights / "run"
    run.mkdir()
    (weights / "w.npz").rename(run / "w.npz")
    (weights / "w.safetensors").rename(run / "w.safetensors")
    npz = run / "w.npz"
    with serving(weights) as server:
        there = f"{server.url}/run/w.npz"
        for name, manifest in (("w.npz", run / "SUMS"), ("run/w.npz", weights / "SUMS")):
            assert ckptkit.verify(npz, new_manifest=manifest).ok
            assert manifest.read_text().splitlines()[0].endswith(f"  {name}")
            url = f"{server.url}/{manifest.relative_to(weights)}"
            for file in (npz, there):
                for digests in (manifest, url):
                    assert _manifest_codes(file, digests) == []
        # one of files elsewhere, written here, is what it would be beside them
        (weights / "copy").mkdir()
        assert ckptkit.verify(there, new_manifest=weights / "copy" / "SUMS").ok
        assert (weights / "copy" / "SUMS").read_text() == (run / "SUMS").read_text()
        missing = f"{server.url}/none"
        assert f"ckptkit: {missing}: no such manifest" in _said(npz, missing)
        npz.write_bytes((run / "w.safetensors").read_bytes())
        assert "manifest.digest" in _manifest_codes(npz, f"{server.url}/run/SUMS")
        both = weights / "both"
        both.write_text(f"{'0' * 64}  w.safetensors\n{'0' * 64}  run/w.safetensors\n")
        said = _said(run / "w.safetensors", f"{server.url}/both")
    assert re.search(rf"its names fit below {run}\W.*{weights} \(", said)


def _said(path: Path, manifest: str) -> str:
    done = command("verify", path, "--manifest", manifest)
    assert (done.code, done.out) == (2, "")
    return done.err


def _manifest_codes(path: Path | str, manifest: Path | str) -> list[str]:
    return [
        finding.code
        for finding in ckptkit.verify(path, manifest=manifest).findings
        if finding.code.startswith("manifest.")
    ]
