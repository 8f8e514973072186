"""Files that Git keeps in place of others: named for what they are under every suffix."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ckptkit._io.pointers import MAX_POINTER_BYTES, pointer_in
from support.command_line import ckptkit, refused
from support.goldens import golden

OID = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393"
LFS = f"version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\nsize 205123456\n"
SUFFIXES = (
    *(".keras", ".h5", ".weights.h5", ".safetensors", ".npz", ".npy", ".ckpt", ".index", ".pb"),
    *(".tflite", ".onnx", ".safetensors.index.json", ".weights.json", ".bin", ""),
)
WHOLE = golden("tf2.21.0/adam/ckpt").path


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "command", ["ls", "show", "diff", "convert", "like", "verify", "scan", "record", "check"]
)
def test_a_pointer_is_named_by_every_command(tmp_path: Path, command: str, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_text(LFS)
    arguments = {
        "show": ("show", path, "kernel"),
        "diff": ("diff", WHOLE, path),
        "convert": ("convert", path, tmp_path / "out.npz"),
        "like": ("convert", WHOLE, tmp_path / "out", "--to", "saved-model", "--like", path),
        "record": ("record", path, "-o", tmp_path / "golden"),
        "check": ("check", path, "--on", "CPU:0", "--on", "xla:CPU:0"),
    }.get(command, (command, path))
    if command in ("record", "check") and suffix in (".tflite", ".onnx"):
        pytest.importorskip({".tflite": "ai_edge_litert", ".onnx": "onnxruntime"}[suffix])
    result = ckptkit(*arguments)
    assert result.code == 2, result
    [line] = [text for text in (result.out + result.err).splitlines() if "a Git LFS" in text]
    assert line.endswith(
        f"{path.name}: a Git LFS pointer, which stands for a file of 205,123,456 bytes "
        "(run git lfs pull)"
    )
    assert list(tmp_path.iterdir()) == [path]


def test_data_that_were_not_fetched_are_no_damage(tmp_path: Path) -> None:
    """The index is there and is listed; verify does not call the checkpoint damaged."""
    shutil.copy(f"{WHOLE}.index", tmp_path)
    data = tmp_path / "ckpt.data-00000-of-00001"
    data.write_text(LFS)
    listed = ckptkit("ls", tmp_path / "ckpt")
    assert listed.code == 2
    assert "optimizer/_iterations" in listed.out
    assert f"{data}: a Git LFS pointer" in listed.err
    verified = ckptkit("verify", tmp_path / "ckpt")
    assert verified.code == 2
    assert f"{data}: a Git LFS pointer" in verified.out + verified.err
    assert "a Git LFS pointer" in refused("convert", tmp_path / "ckpt", tmp_path / "x.npz")


def test_a_saved_model_without_its_values_is_not_run(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(golden("tf2.21.0/module_saved_model/model").path, model)
    (model / "variables/variables.data-00000-of-00001").write_text(LFS)
    assert "a Git LFS pointer" in refused("record", model, "-o", tmp_path / "golden")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (LFS, "a Git LFS pointer, which stands for a file of 205,123,456 bytes"),
        (LFS.replace("\n", "\r\n"), "a Git LFS pointer, which stands for a file of 205,123,456 b"),
        (LFS.replace("oid", "ext-0-foo sha256:ab\noid"), "a Git LFS pointer, which stands for"),
        (LFS.replace("git-lfs.github.com", "hawser.github.com"), "a Git LFS pointer"),
        ("/annex/objects/SHA256E-s31415926--ab12.h5\n", "a git-annex pointer, which stands for a"),
        ("/annex/objects/WORM--name\n", "a git-annex pointer, which stands for a file"),
    ],
)
def test_pointers_of_all_kinds(content: str, said: str) -> None:
    pointer = pointer_in(content.encode())
    assert pointer is not None
    assert str(pointer).startswith(said)


@pytest.mark.parametrize(
    "content", ["", "version 1\n", "version https://example.com/spec\nsize 3\n", "/annex/other"]
)
def test_other_small_files_are_no_pointers(content: str) -> None:
    assert pointer_in(content.encode()) is None


def test_a_large_file_is_none(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    path.write_text(LFS + "x" * MAX_POINTER_BYTES)
    assert "a Git LFS" not in refused("ls", path)
