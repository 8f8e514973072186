"""No command writes over a file that it reads, whatever the option is called."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ckptkit.errors import OutputError
from ckptkit.operations.convert.api import convert
from ckptkit.operations.input_files import files_of
from support.command_line import ckptkit, refused
from support.damage import data, index
from support.goldens import golden
from support.weights import write_bundle

SAID = "would be written over"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "old", {"a": np.arange(4, dtype="f4")})


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "new", {"a": np.arange(1, 5, dtype="f4")})


def kept(path: Path, *arguments: object) -> None:
    """Assert that a command is refused for this file, which is as it was."""
    before = path.read_bytes()
    text = refused(*arguments)
    assert SAID in text and str(path) in text
    assert path.read_bytes() == before


@pytest.mark.parametrize("option", ["-o", "--write-map"])
def test_diff(option: str, old: Path, new: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text("^x$=>y\n")
    tolerances = tmp_path / "tolerances"
    tolerances.write_text("* rtol=1\n")
    link = tmp_path / "link"
    link.symlink_to(index(new))
    for path in (index(old), data(old), index(new), data(new), rules, tolerances, link):
        read = ("--map-from", rules, "--tol-file", tolerances)
        kept(path, "diff", old, new, *read, option, path)
    report = tmp_path / "old.txt"  # begins as the files of OLD do
    for _ in range(2):
        assert ckptkit("diff", old, new, option, report).code == 1


def test_two_outputs_of_diff(old: Path, new: Path, tmp_path: Path) -> None:
    assert SAID in refused("diff", old, new, "-o", tmp_path / "x", "--write-map", tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("option", ["-o", "--html"])
def test_a_report_in_the_place_of_what_the_command_writes(
    option: str, old: Path, tmp_path: Path
) -> None:
    out, other = tmp_path / "out.npz", tmp_path / "other"
    convert_old = ("convert", old, out, "--weights-only")
    assert SAID in refused(*convert_old, option, out)
    for written in ("--receipt", "--inverse"):
        assert SAID in refused(*convert_old, written, other, option, other)
    assert SAID in refused("show", old, "a", "--npy", other, option, other)
    assert SAID in refused("history", old, "--cache", other, option, other)
    policy = tmp_path / "policy.toml"
    policy.write_text("[verify]\nrequired = true\n")
    assert SAID in refused("gate", old, "--policy", policy, "--junit", other, option, other)
    assert not out.exists() and not other.exists()
    bundle = tmp_path / "copy"
    to_bundle = ("convert", old, bundle, "--to", "tensor-bundle", "--weights-only")
    result = ckptkit(*to_bundle, option, index(bundle))
    assert result.code == 2 and SAID in result.err
    assert ckptkit("diff", old, bundle).code == 0


@pytest.mark.parametrize("option", ["-o", "--junit"])
def test_check(option: str, old: Path, new: Path, tmp_path: Path) -> None:
    code = tmp_path / "model.py"
    code.write_text("def build(): ...\n")
    inputs = tmp_path / "inputs.npz"
    np.savez(inputs, x=np.zeros(1))
    recorded = tmp_path / "golden"
    recorded.mkdir()
    manifest = recorded / "manifest.json"
    manifest.write_text("{}\n")
    subject = ("check", old, "--model", f"{code}:build", "--inputs", inputs)
    for path in (index(old), data(old), code, inputs):
        kept(path, *subject, option, path)
    kept(index(new), *subject, "--against", new, option, index(new))
    kept(manifest, *subject, "--golden", recorded, option, manifest)


def test_show(old: Path) -> None:
    for path in (index(old), data(old)):
        kept(path, "show", old, "a", "--npy", path, "--overwrite")


@pytest.mark.parametrize("option", ["--receipt", "--inverse"])
def test_convert(option: str, old: Path, new: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text("^a$=>a\n")
    command = ("convert", old, tmp_path / "out", "--like", new, "--map-from", rules, "--overwrite")
    for path in (index(old), data(old), index(new), data(new), rules):
        for dry in ((), ("--dry-run",)):
            kept(path, *command, *dry, option, path)
    output = tmp_path / "w.npz"
    assert SAID in refused("convert", old, output, "--overwrite", option, output)
    with pytest.raises(OutputError, match=SAID):
        convert(old, output, overwrite=True, **{option[2:]: data(old)})  # type: ignore[arg-type]
    assert not output.exists()


def test_verify(old: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "old"\n')
    for path in (index(old), data(old), tmp_path / "checkpoint"):
        kept(path, "verify", tmp_path, "-o", path)
    manifest = tmp_path / "old.sha256"
    assert ckptkit("verify", old, "--write-manifest", manifest).code == 0
    kept(manifest, "verify", old, "--manifest", manifest, "-o", manifest)
    kept(manifest, "verify", old, "--write-manifest", manifest, "-o", manifest)
    report = tmp_path / "old.xml"  # begins as the files that are verified do
    for _ in range(2):
        assert ckptkit("verify", old, "-o", report).code == 0


@pytest.mark.parametrize(
    ("name", "some"),
    [
        ("tf2.21.0/saved_model_export/model", {"saved_model.pb", "variables.index"}),
        ("tf2.21.0/lookup/model", {"saved_model.pb", "words.txt"}),
        ("tf2.21.0/adam/ckpt", {"ckpt.index", "ckpt.data-00000-of-00001"}),
    ],
)
def test_files_of_an_operand(name: str, some: set[str]) -> None:
    assert some <= {path.name for path in files_of(golden(name).path)}


def test_files_of_what_cannot_be_read(old: Path, tmp_path: Path) -> None:
    index(old).write_bytes(b"damaged")
    assert set(files_of(old)) == {index(old), data(old)}
    index(old).unlink()
    assert files_of(old) == [data(old)]
    for nothing in (tmp_path / "nothing", "package.module:build", "\0"):
        assert files_of(nothing) == []


def test_files_of_a_set_by_any_name(tmp_path: Path) -> None:
    save_file({"a": np.zeros(2, "f4")}, tmp_path / "first.safetensors")
    save_file({"b": np.zeros(2, "f4")}, tmp_path / "m-00002-of-00002.safetensors")
    places = {"a": "first.safetensors", "b": "m-00002-of-00002.safetensors"}
    text = json.dumps({"weight_map": places})
    (tmp_path / "m.safetensors.index.json").write_text(text)
    found = files_of(tmp_path / "m.safetensors.index.json")
    assert {path.name for path in found} == {"m.safetensors.index.json", *places.values()}
