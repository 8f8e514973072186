"""The grammar of operands: what a path means, and what is said of one that cannot be read."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import ckptkit
from ckptkit.errors import (
    CkptkitError,
    FormatError,
    PathNotFoundError,
    UnsupportedError,
    UsageError,
)
from ckptkit.operations.history.api import history
from ckptkit.operations.scan.api import scan
from ckptkit.operations.verify.api import verify
from ckptkit.stores.directories import is_model_directory
from ckptkit.stores.locate import Location, locate
from support.command_line import ckptkit as run
from support.command_line import refused
from support.goldens import golden
from support.weights import write_bundle

ONE = {"layer/kernel": np.ones((2, 3), np.float32), "layer/bias": np.zeros(3, np.float32)}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A training directory as TensorFlow leaves it, with three checkpoints."""
    folder = tmp_path / "run"
    folder.mkdir()
    for step in (9, 10, 100):
        write_bundle(folder / f"ckpt-{step}", ONE)
    write_state(folder, "ckpt-100", "ckpt-9", "ckpt-10")
    return folder


def write_state(folder: Path, latest: str, *others: str) -> None:
    lines = [f'model_checkpoint_path: "{latest}"']
    lines += [f'all_model_checkpoint_paths: "{name}"' for name in (*others, latest)]
    (folder / "checkpoint").write_text("\n".join(lines) + "\n")


def bundle_at(operand: str | Path) -> Path:
    found = locate(operand)
    assert found.format == "tensor-bundle"
    assert len(ckptkit.open(operand)) == 2
    return found.path


# --- checkpoints ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".index", ".data-00000-of-00001", ".meta"])
def test_a_prefix_and_its_member_files(run_dir: Path, suffix: str) -> None:
    (run_dir / "ckpt-9.meta").write_bytes(b"graph")
    assert bundle_at(run_dir / f"ckpt-9{suffix}") == run_dir / "ckpt-9"


@pytest.mark.parametrize("operand", ["ckpt-9", "./ckpt-9", "../run/ckpt-9.index", "ckpt-9.index"])
def test_relative_paths(run_dir: Path, operand: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run_dir)
    assert bundle_at(operand).name == "ckpt-9"


@pytest.mark.parametrize("operand", [".", "./", "checkpoint", "./checkpoint", "../run", "../run/"])
def test_the_working_directory(
    run_dir: Path, operand: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run_dir)
    assert bundle_at(operand).name == "ckpt-100"


def test_root_is_a_directory_without_a_checkpoint() -> None:
    with pytest.raises(CkptkitError):
        ckptkit.open("/")


def test_prefixes_that_end_in_a_slash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "step"
    folder.mkdir()
    write_bundle(Path(f"{folder}/x"), ONE)
    for path in list(folder.iterdir()):
        path.rename(folder / path.name[1:])
    for operand in (f"{folder}/", folder, folder / ".index", folder / ".data-00000-of-00001"):
        assert bundle_at(operand) == folder
    monkeypatch.chdir(folder)
    for operand in (".", ".index", "./"):
        assert len(ckptkit.open(operand)) == 2


def test_a_directory_beside_a_checkpoint_of_its_name(run_dir: Path) -> None:
    (run_dir / "ckpt-9").mkdir()
    assert bundle_at(run_dir / "ckpt-9") == run_dir / "ckpt-9"
    assert run("ls", run_dir / "ckpt-9").code == 0
    with pytest.raises(PathNotFoundError, match="empty directory"):
        locate(f"{run_dir / 'ckpt-9'}/")


def test_a_file_beside_a_checkpoint_of_its_name(run_dir: Path) -> None:
    (run_dir / "ckpt-9").write_text("notes")
    assert bundle_at(run_dir / "ckpt-9") == run_dir / "ckpt-9"


def test_data_without_index(run_dir: Path) -> None:
    (run_dir / "ckpt-9.index").unlink()
    for operand in ("ckpt-9", "ckpt-9.data-00000-of-00001"):
        assert "index ckpt-9.index is missing" in refused("ls", run_dir / operand)


def test_dots_in_a_prefix(tmp_path: Path) -> None:
    for name in ("model.ckpt-7", "a.b.index.c", "x.data", "w.h5", "v.keras", "tail."):
        prefix = write_bundle(tmp_path / name, ONE)
        assert bundle_at(prefix) == bundle_at(f"{prefix}.index") == prefix


# --- training directories -------------------------------------------------------------------------


def test_the_latest_checkpoint_and_a_note_of_it(run_dir: Path) -> None:
    found = locate(run_dir)
    assert found.path == run_dir / "ckpt-100"
    assert found.notes == ("latest checkpoint of 3: ckpt-100",)
    assert "note: latest checkpoint of 3: ckpt-100" in run("ls", run_dir).out
    write_state(run_dir, "ckpt-10", "ckpt-9")
    assert locate(run_dir).path.name == "ckpt-10"


@pytest.mark.parametrize(
    ("names", "latest", "how"),
    [
        (("ckpt-9", "ckpt-10", "ckpt-8"), "ckpt-10", "by step"),
        (("epoch10_loss0.5", "epoch12_loss0.1", "final"), "final", "by time"),
        (("a-7", "b-3"), "b-3", "by time"),
    ],
)
def test_the_latest_without_a_state_file(
    tmp_path: Path, names: tuple[str, ...], latest: str, how: str
) -> None:
    for second, name in enumerate(names):
        write_bundle(tmp_path / name, {"w": np.zeros(1, np.float32)})
        os.utime(tmp_path / f"{name}.index", (second, second))
    found = locate(tmp_path)
    assert found.path == tmp_path / latest
    assert found.notes == (f"latest complete checkpoint of {len(names)} ({how}): {latest}",)


def test_stale_absolute_paths(run_dir: Path) -> None:
    write_state(run_dir, "/home/someone/else/ckpt-10")
    found = locate(run_dir)
    assert found.path == run_dir / "ckpt-10"
    assert "/home/someone/else/ckpt-10" in found.notes[0]
    write_state(run_dir, "C:\\\\runs\\\\ckpt-9")
    assert locate(run_dir).path == run_dir / "ckpt-9"
    write_state(run_dir, str(run_dir / "ckpt-9"))
    assert len(locate(run_dir).notes) == 1


def test_the_latest_is_incomplete(run_dir: Path) -> None:
    (run_dir / "ckpt-100.data-00000-of-00001").unlink()
    found = locate(run_dir)
    assert found.path.name == "ckpt-10"
    assert "ckpt-100" in found.notes[0]
    assert "is missing" in found.notes[0]
    (run_dir / "ckpt-10.index").write_bytes(b"")
    assert locate(run_dir).path.name == "ckpt-9"
    (run_dir / "ckpt-9.index").unlink()
    rest = locate(run_dir)
    assert rest.path.name == "ckpt-100"
    assert "what there is of ckpt-100 is read" in rest.notes[-1]
    (run_dir / "ckpt-100.index").write_bytes(b"")
    assert "no complete checkpoint" in refused("ls", run_dir)


def test_a_state_file_of_what_is_gone(run_dir: Path) -> None:
    write_state(run_dir, "ckpt-101")
    found = locate(run_dir)
    assert found.path.name == "ckpt-100"
    assert "ckpt-101" in found.notes[0]


def test_without_a_state_file_the_highest_step_wins(run_dir: Path) -> None:
    (run_dir / "checkpoint").unlink()
    assert bundle_at(run_dir) == run_dir / "ckpt-100"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "garbage",
        "\x00\x01\x02",
        'model_checkpoint_path: ""\n',
        'model_checkpoint_path: "."\n',
        'model_checkpoint_path: ".."\n',
        'model_checkpoint_path: "../../etc/passwd"\n',
        'model_checkpoint_path: "/"\n',
        'model_checkpoint_path: "a\\000b"\n',
        'model_checkpoint_path: "' + "x" * 100_000 + '"\n',
        'model_checkpoint_path: "\\377\\376"\n',
        'model_checkpoint_path: "ckpt-100\n',
    ],
)
def test_state_files_that_name_nothing_of_use(run_dir: Path, text: str) -> None:
    (run_dir / "checkpoint").write_text(text)
    found = locate(run_dir)
    assert found.path == run_dir / "ckpt-100"
    assert run("ls", run_dir).code == 0


def test_a_state_file_never_leads_out_of_its_directory(tmp_path: Path) -> None:
    write_bundle(tmp_path / "secret", ONE)
    for stem in (tmp_path, tmp_path / "run"):
        stem.mkdir(exist_ok=True)
    for path in tmp_path.glob("secret*"):  # a prefix ending in "/" for the parent directory
        path.rename(tmp_path / path.name.removeprefix("secret"))
    for latest in ("../secret", "..", "../", str(tmp_path), "x/.."):
        write_state(tmp_path / "run", latest)
        with pytest.raises(PathNotFoundError):
            locate(tmp_path / "run")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"x" * ((1 << 20) + 1)])
def test_state_files_that_are_no_text(run_dir: Path, content: bytes) -> None:
    (run_dir / "checkpoint").write_bytes(content)
    with pytest.raises(FormatError) as caught:
        locate(run_dir)
    assert caught.value.where == str(run_dir / "checkpoint")


def test_escapes_of_the_text_format(run_dir: Path) -> None:
    write_bundle(run_dir / 'é "x"', ONE)
    (run_dir / "checkpoint").write_text('model_checkpoint_path: "\\303\\251 \\"x\\""\n')
    assert locate(run_dir).path.name == 'é "x"'


def test_unfinished_saves_are_passed_over(run_dir: Path) -> None:
    (run_dir / "checkpoint").unlink()
    for name in ("ckpt-200_temp", "ckpt-200.tempstate123", "ckpt-300.tmp" + "0" * 32):
        write_bundle(run_dir / name, ONE)
    (run_dir / "ckpt-400.index").mkdir()
    os.mkfifo(run_dir / "ckpt-500.index")
    (run_dir / "ckpt-600.index").symlink_to("ckpt-600.index")
    assert locate(run_dir).path.name == "ckpt-100"


@pytest.mark.parametrize("kind", ["directory", "fifo", "loop"])
def test_a_directory_with_an_odd_index(tmp_path: Path, kind: str) -> None:
    index = tmp_path / ".index"
    if kind == "directory":
        index.mkdir()
    elif kind == "fifo":
        os.mkfifo(index)
    else:
        index.symlink_to(index)
    refused("ls", tmp_path)


# --- SavedModels ----------------------------------------------------------------------------------


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return shutil.copytree(golden("tf2.21.0/module_saved_model/model").path, tmp_path / "export")


@pytest.mark.parametrize("member", ["", "saved_model.pb", "fingerprint.pb"])
def test_a_saved_model_and_its_files(export: Path, member: str) -> None:
    found = locate(export / member)
    assert (found.format, found.path) == ("saved-model", export)


def test_a_saved_model_from_inside(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(export)
    for operand in (".", "saved_model.pb"):
        assert locate(operand).format == "saved-model"
        assert len(ckptkit.open(operand)) == 3


def test_the_variables_of_a_saved_model(export: Path) -> None:
    for operand in ("variables/variables", "variables/variables.index", "variables"):
        found = locate(export / operand)
        assert (found.format, found.path) == ("tensor-bundle", export / "variables/variables")


def test_a_saved_model_without_variables(export: Path) -> None:
    for path in (export / "variables").iterdir():
        path.unlink()
    assert len(ckptkit.open(export)) == 0
    (export / "variables").rmdir()
    result = run("ls", export)
    assert result.code == 0
    assert "the graph has 2 variables, whose values are not beside it" in result.out
    assert "variables.index: is missing" in run("verify", export).out


def test_a_saved_model_that_lost_its_index(export: Path) -> None:
    (export / "variables/variables.index").unlink()
    assert "variables.index" in refused("ls", export)


@pytest.mark.parametrize("content", [b"", b"\xff\xff\xff", b"\x0a\x05ab"])
def test_a_damaged_saved_model(export: Path, content: bytes) -> None:
    (export / "saved_model.pb").write_bytes(content)
    assert "saved_model.pb" in refused("ls", export)


def test_saved_models_in_text_form(tmp_path: Path) -> None:
    path = shutil.copytree(golden("tf2.12.1/text_export/model").path, tmp_path / "model")
    for operand in (path, path / "saved_model.pbtxt"):
        assert "no variables beside it" in refused("ls", operand)
    (path / "variables").mkdir(exist_ok=True)
    write_bundle(path / "variables/variables", ONE)
    assert f"can be read: give {path}/variables/variables" in refused("ls", path)
    assert len(ckptkit.open(path / "variables/variables")) == 2


# --- subtrees -------------------------------------------------------------------------------------


@pytest.fixture
def trained() -> Path:
    return golden("tf2.21.0/adam/ckpt").path


def test_a_subtree_narrows(trained: Path) -> None:
    whole = ckptkit.open(trained)
    some = ckptkit.open(f"{trained}#model")
    assert 0 < len(some) < len(whole)
    assert set(some) <= set(whole)
    assert set(some.specs) == set(some.names)
    assert locate(f"{trained}#model").subtree == "model"
    assert ckptkit.open(f"{trained}.index#model/").names.keys() == some.names.keys()
    assert set(ckptkit.open(f"{trained}#")) == set(whole)


def test_a_subtree_that_is_not_there(trained: Path) -> None:
    line = refused("ls", f"{trained}#nowhere")
    assert "no tensor below 'nowhere'" in line
    assert "at the top are" in line
    with pytest.raises(UsageError):
        dict(ckptkit.open(f"{trained}#nowhere"))


def test_a_literal_path_with_a_hash_wins(tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path / "a#layer", ONE)
    write_bundle(tmp_path / "a", {"layer/other": np.zeros(1)})
    assert locate(prefix) == Location("tensor-bundle", prefix)
    assert locate(f"{prefix}#layer") == Location("tensor-bundle", prefix, "layer")
    assert set(ckptkit.open(f"{tmp_path / 'a'}#layer/other")) == {"layer/other"}


@pytest.mark.parametrize("tail", ["#", "#x", "#a#b", "#" * 300, "#" + "x" * 5000, "#\n", "#/"])
def test_hashes_behind_nothing(tmp_path: Path, tail: str) -> None:
    with pytest.raises(CkptkitError):
        ckptkit.open(f"{tmp_path / 'none'}{tail}")
    assert run("ls", f"{tmp_path / 'none'}{tail}").code == 2


# --- what is not read -----------------------------------------------------------------------------


KINDS = {
    "x.pkl": (b"\x80\x04\x95abc", "pickle"),
    "x.npy": (b"\x93NUMPY\x01\x00", r"\.npz"),
    "x.tflite": (b"just some words", "no LiteRT model"),
    "x.gguf": (b"GGUF\x03\x00\x00\x00", "GGUF"),
    "x.gz": (b"\x1f\x8b\x08", "gzip"),
    "x.tar": (b"\0" * 257 + b"ustar\0" + b"\0" * 249, "tar archive"),
    "x.onnx": (b"just some words", "not an ONNX model"),
    "x.pb": (b"\x0a\x10\x0a\x04", "no TensorFlow graph"),
    "x.pbtxt": (b"node {\n}", "text form"),
    "x.txt": (b"just some words", "not a checkpoint"),
    "x.keras": (b"just some words", "not a zip archive"),
    "x.h5": (b"just some words", "not an HDF5 file"),
    "x.npz": (b"just some words", "not a zip archive"),
    "x.bin": (b"", "empty file"),
    "checkpoint": (b"", "empty file"),
    "x": (b"PK\x03\x04 not a zip", "damaged zip"),
}


@pytest.mark.parametrize("name", KINDS)
def test_other_files_are_named(tmp_path: Path, name: str) -> None:
    content, what = KINDS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises((UnsupportedError, FormatError), match=what) as caught:
        locate(tmp_path / name)
    assert caught.value.where == str(tmp_path / name)
    refused("ls", tmp_path / name)


@pytest.mark.parametrize(
    ("members", "what"),
    [
        (["archive/data.pkl"], "data.pkl: the pickle ends before"),
        (["model/saved_model.pb"], "zipped SavedModel"),
        (["readme.txt"], "neither .keras nor .npz"),
        ([], "it is empty"),
    ],
)
def test_other_archives_are_named(tmp_path: Path, members: list[str], what: str) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for member in members:
            archive.writestr(member, b"content")
    assert what in refused("ls", tmp_path / "x.zip")


def test_checkpoints_of_other_kinds_are_named(tmp_path: Path) -> None:
    orbax = tmp_path / "orbax"
    orbax.mkdir()
    (orbax / "_CHECKPOINT_METADATA").write_text("{}")
    assert "Orbax" in refused("ls", orbax)
    prefix = write_bundle(tmp_path / "c", ONE)
    Path(f"{prefix}.index").rename(tmp_path / "renamed")
    assert "rename it to renamed.index" in refused("ls", tmp_path / "renamed")


def test_nothing_there(tmp_path: Path, run_dir: Path) -> None:
    for operand in (tmp_path / "none", tmp_path / "none" / "deeper", f"{tmp_path}/none/"):
        assert "no such file" in refused("ls", operand)
    assert "did you mean" in refused("ls", run_dir / "ckpt-11")
    assert "ckpt-100" in refused("ls", run_dir / "ckpt_100")
    with pytest.raises(PathNotFoundError, match="empty path"):
        locate("")
    for operand in ("#", "#model"):
        with pytest.raises(PathNotFoundError, match="no path before the #"):
            locate(operand)
    with pytest.raises(PathNotFoundError, match="not a path"):
        locate("a\0b")


def test_directories_without_a_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    assert "an empty directory" in refused("ls", folder)
    (folder / "notes.txt").write_text("x")
    assert "it holds notes.txt" in refused("ls", folder)
    (folder / "model.keras").write_text("x")
    assert "did you mean" in refused("ls", folder)


def test_odd_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "inside").symlink_to(".")
    for name, what in {"fifo": "a pipe", "loop": "a link", "dangling": "to nowhere"}.items():
        said = refused("ls", tmp_path / name)
        assert "neither a file nor a directory, but " in said and what in said
    refused("ls", tmp_path / "loop" / "x")
    refused("ls", tmp_path / "inside" / "inside")
    refused("ls", tmp_path / "fifo" / "x")
    refused("ls", "/dev/null")
    refused("ls", "/dev/zero")
    for member in ("saved_model.pb", "checkpoint", "model.safetensors"):
        folder = tmp_path / member.replace(".", "_")
        folder.mkdir()
        os.mkfifo(folder / member)
        refused("ls", folder)


def test_endless_names(tmp_path: Path) -> None:
    for operand in ("x" * 300, "x" * 5000, "x/" * 3000, f"{'x' * 300}#a"):
        refused("ls", tmp_path / operand)


def test_names_that_are_not_text(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    Path(os.fsdecode(folder)).mkdir()
    prefix = write_bundle(Path(os.fsdecode(folder + b"/c\xff")), ONE)
    assert len(ckptkit.open(prefix)) == 2
    for fmt in ("table", "json", "csv", "markdown"):
        result = run("ls", prefix, "--format", fmt)
        assert (result.code, result.err) == (0, "")
    assert "did you mean" in refused("ls", f"{prefix}x")
    refused("ls", Path(os.fsdecode(folder)) / "none")


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder of our own, and no right to ignore permissions."""
    folder = Path(tempfile.mkdtemp())
    user = os.geteuid()
    if user == 0:
        run("ls", write_bundle(folder / "imports", ONE))  # what is imported late is now imported
        refused("ls", folder / "none")
        folder.chmod(0o755)
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    try:
        yield folder
    finally:
        os.seteuid(user)
        folder.chmod(0o700)
        shutil.rmtree(folder)


def test_permission_denied(as_nobody: Path) -> None:
    folder = as_nobody / "run"
    folder.mkdir()
    for step in (9, 10):
        write_bundle(folder / f"ckpt-{step}", ONE)
    (folder / "ckpt-10.index").chmod(0)
    assert "ermission denied" in refused("ls", folder / "ckpt-10")
    assert locate(folder).path.name == "ckpt-9"
    (folder / "ckpt-9.data-00000-of-00001").chmod(0)
    result = run("ls", folder / "ckpt-9")
    assert result.code == 2
    assert "layer/kernel" in result.out
    assert "ermission denied" in result.err
    folder.chmod(0)
    for operand in (folder, folder / "ckpt-9", f"{folder}/ckpt-9#a", folder / "none"):
        assert "ermission denied" in refused("ls", operand)
    folder.chmod(0o700)


@pytest.mark.parametrize("name", ["run", "run1"])
def test_a_directory_of_somebody_else_in_a_run(as_nobody: Path, name: str) -> None:
    """As the `lost+found` of a disk; a name that ends in a number may be a step of Orbax."""
    run_dir = as_nobody / name
    run_dir.mkdir()
    prefix = write_bundle(run_dir / "ckpt-9", ONE)
    (run_dir / "checkpoint").write_text('model_checkpoint_path: "ckpt-9"\n')
    (run_dir / "lost+found").mkdir(0)
    assert locate(run_dir).path == prefix
    assert not is_model_directory(run_dir)  # as all commands on runs ask
    assert history(run_dir).notes == ("lost+found cannot be listed: Permission denied",)
    (run_dir / "lost+found").chmod(0o700)


def test_a_state_file_that_nobody_may_read(as_nobody: Path) -> None:
    """A file of this name may be Orbax's: the entries beside it tell that it is not."""
    run_dir = as_nobody / "run"
    run_dir.mkdir()
    prefix = write_bundle(run_dir / "ckpt-9", ONE)
    state = run_dir / "checkpoint"
    state.write_text('model_checkpoint_path: "ckpt-9"\n')
    state.chmod(0)
    assert [step.path for step in history(run_dir).steps] == [prefix]
    verified = verify(run_dir)
    assert (verified.exit_code, [found.code for found in verified.findings]) == (
        1,
        ["state.unreadable"],
    )
    assert {unit.path for unit in scan(as_nobody, recursive=True).units} >= {prefix}


def test_a_cache_directory_that_may_not_be_entered(as_nobody: Path) -> None:
    locked = as_nobody / "cache"
    locked.mkdir(0)
    run_dir = as_nobody / "run"
    run_dir.mkdir()
    for step in (1, 2):
        write_bundle(run_dir / f"ckpt-{step}", ONE)
    found = history(run_dir, cache=locked / "run.json")
    assert len(found.steps) == 2
    assert "nothing is kept" in found.notes[-1]
    locked.chmod(0o700)


@pytest.mark.parametrize("kind", ["pipe", "directory", "dangling", "loop"])
def test_a_state_file_that_is_none(kind: str, tmp_path: Path) -> None:
    write_bundle(tmp_path / "ckpt-9", ONE)
    state = tmp_path / "checkpoint"
    if kind == "pipe":
        os.mkfifo(state)  # which blocks whoever opens it
    elif kind == "directory":
        state.mkdir()
    else:
        state.symlink_to("gone" if kind == "dangling" else "checkpoint")
    assert len(history(tmp_path).steps) == 1
    assert sum(unit.tensors for unit in verify(tmp_path).units) == len(ONE)


@pytest.mark.parametrize("path", ["x" * 5000, "x/" * 5000])
def test_a_name_too_long_is_not_repeated_whole(path: str) -> None:
    with pytest.raises(CkptkitError) as caught:
        locate(path)
    assert len(str(caught.value)) < 500
    assert "too long" in str(caught.value)


def test_urls_are_told_from_paths(tmp_path: Path) -> None:
    for url in ("ftp://host/ckpt", "s4:/bucket/model.keras", "hdfs://host/m.h5"):
        scheme = url.partition(":")[0]
        for command in ("ls", "verify", "scan"):
            result = run(command, url)
            assert result.code == 2, result
            assert f"no store of {scheme}:// is read" in result.out + result.err
        assert f"no store of {scheme}://" in refused("convert", url, tmp_path / "x.npz")


def test_a_run_of_orbax_stands_for_its_latest_step(tmp_path: Path) -> None:
    for step in ("5", "10"):
        (tmp_path / step / "state").mkdir(parents=True)
    (tmp_path / "5/_CHECKPOINT_METADATA").write_text("{}")
    (tmp_path / "10/state/manifest.ocdbt").write_text("")
    assert "10/state/manifest.ocdbt: 0 bytes are no manifest" in refused("ls", tmp_path)


def test_a_directory_without_its_data_is_listed_as_its_prefix_is(tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path / "ckpt-5", ONE)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "ckpt-5"')
    data = tmp_path / "ckpt-5.data-00000-of-00001"
    data.unlink()
    listed = run("ls", tmp_path)
    assert listed.code == 2
    assert "layer/kernel" in listed.out
    assert "what there is of ckpt-5 is read" in listed.out
    assert listed.err == run("ls", prefix).err
    assert (listed.out + listed.err).count(f"{data.name}") == 2
    assert str(data) in refused("convert", tmp_path, tmp_path / "x.npz")


def test_windows_paths_in_a_state_file_are_noted(tmp_path: Path) -> None:
    write_bundle(tmp_path / "ckpt-5", ONE)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "C:\\\\runs\\\\ckpt-5"\n')
    result = run("ls", tmp_path)
    assert result.code == 0
    assert r"points at C:\runs\ckpt-5 (a path of Windows); looked for ckpt-5" in result.out


def test_what_was_typed_is_not_offered(tmp_path: Path) -> None:
    (tmp_path / "ckpt.meta").write_bytes(b"x")
    said = refused("ls", tmp_path / "ckpt")
    assert "did you mean" not in said
