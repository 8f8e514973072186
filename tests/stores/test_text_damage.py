"""Files that were copied in a text mode: seen, and named for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import ckptkit
from ckptkit.stores.text_damage import text_damage
from support.command_line import ckptkit as run
from support.command_line import refused
from support.goldens import GOLDEN, golden

MODES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "crlf": (lambda data: data.replace(b"\n", b"\r\n"), "put a CR before each LF"),
    "lf": (lambda data: data.replace(b"\r\n", b"\n"), "took the CR from each CRLF"),
    "utf-8": (lambda data: data.decode("utf-8", "replace").encode(), "read and written as UTF-8"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One set of random weights, large enough that line ends occur by chance, in three forms."""
    folder = tmp_path_factory.mktemp("weights")
    random = np.random.default_rng(0)
    np.savez(folder / "m.npz", kernel=random.integers(0, 256, (2000, 1000), np.uint8))
    ckptkit.convert(folder / "m.npz", folder / "m.safetensors")
    ckptkit.convert(folder / "m.npz", folder / "m", to="tensor-bundle")
    return folder


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["m.npz", "m.safetensors", "m"])
def test_a_text_mode_is_named(files: Path, tmp_path: Path, name: str, mode: str) -> None:
    change, said = MODES[mode]
    for path in files.iterdir():
        (tmp_path / path.name).write_bytes(change(path.read_bytes()))
    if not (name == "m" and mode == "lf"):  # an index so small has no CRLF to lose
        assert said in refused("ls", tmp_path / name)
    verified = run("verify", tmp_path / name)
    assert verified.code == 1
    assert said in verified.out


@pytest.mark.parametrize("mode", MODES)
def test_hdf5_tells_it_by_its_signature(tmp_path: Path, mode: str) -> None:
    change, said = MODES[mode]
    path = tmp_path / "model.h5"
    path.write_bytes(change(golden("tf2.12.1/files_nested/model.h5").path.read_bytes()))
    assert said in refused("ls", path)
    verified = run("verify", path)
    assert verified.code == 1
    assert said in verified.out


def test_no_sound_file_looks_changed() -> None:
    files = [path for path in GOLDEN.rglob("*") if path.is_file()]
    files += Path(np.__file__).parent.rglob("*.so")
    assert len(files) > 150
    assert {path: text_damage(path) for path in files if text_damage(path)} == {}


def test_other_damage_is_not_put_on_a_text_mode(files: Path, tmp_path: Path) -> None:
    data = (files / "m.safetensors").read_bytes()
    (tmp_path / "m.safetensors").write_bytes(data[:-3])
    assert "text" not in refused("ls", tmp_path / "m.safetensors")


def test_text_may_have_any_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "m.weights.json"
    path.write_bytes(b'{\r\n"weight_map": 3\r\n}\r\n' + b"\r\n" * 99)
    assert text_damage(path) == ""
