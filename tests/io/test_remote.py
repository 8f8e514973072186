"""Files of a web server: the same answers as of local files, few requests, never two states."""

from __future__ import annotations

import gzip
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier, Event, current_thread, main_thread
from typing import Any, cast

import numpy as np
import pytest

import ckptkit
from ckptkit._io import engines
from ckptkit._io.files import Extent
from ckptkit._io.places import path_of
from ckptkit._io.remote import arriving, blocks, fetched, http, requests
from ckptkit.errors import (
    ChangedError,
    CkptkitError,
    MissingDependencyError,
    OutputError,
    PathNotFoundError,
    UnsupportedError,
    UsageError,
)
from ckptkit.operations.input_files import fetched_operand
from ckptkit.operations.verify import data
from ckptkit.operations.verify.api import verify
from ckptkit.text import without_secrets
from support.command_line import ckptkit as run
from support.goldens import GOLDEN
from support.keras_files import write_h5, write_keras
from support.places import DOCS, ROOT, environment
from support.pytorch_files import write_pytorch
from support.range_server import Asked, Server, serving

TENSORS: dict[str, Any] = {
    f"block_{n}/kernel": np.arange(n, n + 60_000, dtype=np.float32) for n in range(4)
}
PAGE, ADDRESS = DOCS / "buckets.md", "https://models.example.org"
_SESSION = re.compile(r"(?ms)^```console\n(.*?)^```$\n")
_COMMAND = re.compile(r"(?m)^\$ ckptkit (.*)$")
NEW = GOLDEN / "tf2.21.0"
ORBAX = max(
    ROOT.glob("fixtures/orbax/orbax*"),
    key=lambda path: [int(number) for number in path.name.removeprefix("orbax").split(".")],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of every form."""
    top = tmp_path_factory.mktemp("served")
    np.savez(top / "weights.npz", **TENSORS)
    ckptkit.convert(top / "weights.npz", top / "weights.safetensors")
    ckptkit.convert(top / "weights.npz", top / "set.safetensors", shard_size="400KB")
    write_pytorch(top / "weights.pt", TENSORS)
    for name in ("adam", "shards", "saved_model_save", "files_nested", "manager", "saver"):
        shutil.copytree(NEW / name, top / name)
    shutil.copy(sorted(ROOT.glob("fixtures/onnx/onnx*"))[-1] / "constants.onnx", top / "m.onnx")
    shutil.copy(ROOT / "fixtures/litert/tf2.21.0/float.tflite", top / "m.tflite")
    for name in ("database_3", "run", "directories_3"):
        shutil.copytree(ORBAX / name, top / "orbax" / name)
    return top


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with serving(folder) as served:
        yield served


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less between tries."""
    monkeypatch.setattr(requests, "_FIRST_PAUSE_S", 0.001)


# Path -> the most requests that opening it may take.
FORMS = {
    "adam/ckpt": 3,
    "adam/ckpt.index": 4,
    "shards/ckpt": 5,
    "saver/model.ckpt": 4,
    "manager": 40,
    "saved_model_save/model": 10,
    "weights.safetensors": 1,
    "set.safetensors.index.json": 5,
    "files_nested/model.keras": 1,
    "files_nested/model.weights.h5": 1,
    "files_nested/model.h5": 1,
    "weights.npz": 6,
    "weights.pt": 6,
    "m.onnx": 1,
    "m.tflite": 1,
    "orbax/database_3": 40,
    "orbax/run/9": 60,
}


def _content(checkpoint: ckptkit.Checkpoint) -> dict[str, Any]:
    return {
        name: (checkpoint.role(name) if hasattr(checkpoint, "role") else "", array.tolist())
        for name, array in checkpoint.items()
    }


@pytest.mark.parametrize("name", FORMS)
def test_a_file_elsewhere_is_what_it_is_here(name: str, folder: Path, server: Server) -> None:
    there = ckptkit.open(f"{server.url}/{name}")
    assert len(server.asked) <= FORMS[name], [asked.path for asked in server.asked]
    here = ckptkit.open(folder / name)
    assert dict(there.specs) == dict(here.specs)
    assert _content(there) == _content(here)
    assert there.notes == tuple(note.replace(str(folder), server.url) for note in here.notes)


@pytest.mark.parametrize("name", ["adam/ckpt", "saved_model_save/model", "weights.npz"])
def test_commands_say_of_a_url_what_they_say_of_a_file(
    name: str, folder: Path, server: Server, tmp_path: Path
) -> None:
    here, there = str(folder / name), f"{server.url}/{name}"
    listed = [run("ls", path, "--digest", "--no-path") for path in (here, there)]
    assert listed[0].out == listed[1].out.replace(server.url, str(folder))
    assert "network: " in listed[1].err and "requests, " in listed[1].err
    assert run("diff", there, here).code == 0
    assert run("verify", there).code == run("verify", here).code == 0
    assert run("scan", there).code == run("scan", here).code
    converted = run("convert", there, str(tmp_path / "w.safetensors"), "--weights-only")
    assert converted.code == 0, converted.err
    assert run("diff", here, str(tmp_path / "w.safetensors")).code == 0
    assert run("ls", there, "-q").err == ""


@pytest.mark.parametrize("name", ["database_3", "run/9"])
def test_a_checkpoint_of_orbax_is_verified_where_nothing_can_be_listed(
    name: str, folder: Path, server: Server
) -> None:
    there = verify(f"{server.url}/orbax/{name}")
    here = verify(folder / "orbax" / name)
    assert there.ok
    assert there.units[0].tensors == here.units[0].tensors


def test_what_only_a_listing_names_says_so(server: Server) -> None:
    refused = run("ls", f"{server.url}/orbax/directories_3")
    assert refused.code == 2
    assert "what lies there cannot be listed" in refused.err


def test_a_run_elsewhere_has_a_history(server: Server) -> None:
    steps = [f"{server.url}/manager/step-{n}" for n in (200, 300)]
    assert [step.number for step in ckptkit.history(*steps).steps] == [200, 300]


def test_a_run_elsewhere_is_not_followed(server: Server) -> None:
    refused = run("history", "--follow", f"{server.url}/manager?token=hidden")
    assert refused.code == 2
    assert f"{server.url}/manager" in refused.err
    assert "a run elsewhere is not followed" in refused.err
    assert "hidden" not in refused.err


def test_a_store_elsewhere_pickles(server: Server, folder: Path) -> None:
    for name in ("adam/ckpt", "weights.safetensors"):
        checkpoint = ckptkit.open(f"{server.url}/{name}")
        again = pickle.loads(pickle.dumps(checkpoint))
        assert _content(again) == _content(ckptkit.open(folder / name))


def test_a_small_read_of_a_large_file_is_a_small_request(tmp_path: Path) -> None:
    zeros = np.zeros(3_000_000)
    big: dict[str, Any] = {"a": zeros.astype(np.float32), "b": np.arange(5.0), "c": zeros}
    np.savez(tmp_path / "b.npz", **big)
    ckptkit.convert(tmp_path / "b.npz", tmp_path / "b.safetensors")
    with serving(tmp_path) as server:
        there = ckptkit.open(f"{server.url}/b.safetensors")
        assert there["b"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
        assert len(server.asked) <= 3
        assert server.nbytes < 500_000
        del server.asked[:]
        assert ckptkit.diff(f"{server.url}/b.safetensors", tmp_path / "b.safetensors").ok
        assert len(server.asked) < 80
        assert server.nbytes < 1.2 * (tmp_path / "b.safetensors").stat().st_size


@pytest.mark.parametrize("step", [1 << 15, 1 << 17])
def test_what_is_read_in_order_is_fetched_once_however_little_is_kept(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two who read on, with gaps that nobody reads, where there is hardly room for what is ahead.

    What was asked for and not read yet stays; what was read goes.
    """
    sizes = {"_KEPT": 24, "_UNREAD": 18, "WINDOW": 12, "_LEAST_WINDOW": 4, "MAX_REQUEST": 1}
    for name, units in sizes.items():
        monkeypatch.setattr(blocks, name, units << 18)
    data = np.random.default_rng(0).bytes(16 << 20)
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(data)
    run, gap = 1 << 20, 64
    with serving(tmp_path) as server:
        paths = [path_of(f"{server.url}/{name}") for name in ("a", "b")]
        buffer = memoryview(bytearray(step))
        for start in range(0, len(data), run):
            extents = [Extent(path, start, run - gap) for path in paths]
            for at in range(0, run - gap, step):
                piece = buffer[: min(step, run - gap - at)]
                for extent in extents:
                    extent.read_into(at, piece)
                    assert piece == data[start + at : start + at + len(piece)]
        assert server.nbytes <= 1.02 * 2 * len(data)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_what_threads_share_is_fetched_once(
    threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reads parts of its own, and what one has read is gone before another gets there."""
    sizes = {"_KEPT": 64, "_UNREAD": 56, "WINDOW": 48, "_LEAST_WINDOW": 8, "MAX_REQUEST": 1}
    for name, units in sizes.items():
        monkeypatch.setattr(blocks, name, units << 17)
    for module in (data, engines):
        monkeypatch.setattr(module, "BATCH_BYTES", 1 << 18)
    values: dict[str, Any] = {f"t{n}": np.full(100_000, n, np.float32) for n in range(60)}
    np.savez(tmp_path / "w.npz", **values)
    ckptkit.convert(tmp_path / "w.npz", tmp_path / "ckpt", to="tensor-bundle")
    with serving(tmp_path) as server, ThreadPoolExecutor(threads) as pool:
        assert verify(f"{server.url}/ckpt", executor=pool).ok
        assert server.nbytes <= 1.02 * 24_000_000


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with an archive that counts as one of which memory has no room."""
    monkeypatch.setattr(fetched, "MAX_PIECEMEAL", 1 << 20)
    monkeypatch.setattr(arriving, "PIECE", 1 << 18)
    monkeypatch.setenv("CKPTKIT_CACHE", str(tmp_path / "cache"))
    values: dict[str, Any] = {f"t{n}": np.full(100_000, n, np.float32) for n in range(10)}
    (tmp_path / "served").mkdir()
    np.savez(tmp_path / "served" / "w.npz", **values)
    write_pytorch(tmp_path / "served" / "w.pt", values)
    return tmp_path / "served"


@pytest.mark.parametrize("name", ["w.npz", "w.pt"])
@pytest.mark.parametrize("threads", [0, 2])
def test_an_archive_is_verified_as_it_comes(name: str, threads: int, archive: Path) -> None:
    size = (archive / name).stat().st_size
    with serving(archive) as server, ThreadPoolExecutor(threads or 1) as pool:
        executor = pool if threads else None
        assert verify(f"{server.url}/{name}", executor=executor).ok
        assert server.nbytes <= size + 2 * (1 << 17) + (1 << 18)
        del server.asked[:]
        assert verify(f"{server.url}/{name}", executor=executor).ok  # there is a copy by now
        assert len(server.asked) <= 2
        data = bytearray((archive / name).read_bytes())
        data[size // 2] ^= 4
        (archive / name).write_bytes(data)
        result = verify(f"{server.url}/{name}", executor=executor)
    here = verify(archive / name)
    assert [(f.code, f.key, f.message) for f in result.findings] == [
        (f.code, f.key, f.message) for f in here.findings
    ]
    assert result.exit_code == 1
    assert not list((archive.parent / "cache").rglob("*.part"))


def test_no_byte_of_an_archive_is_fetched_twice_for_its_checksum(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One tensor takes what it lies in: of a member of many that is no reason to fetch them all."""
    monkeypatch.setattr(blocks, "MAX_PIECEMEAL", 1 << 20)
    values = {f"layers/dense_{n}/vars/0": np.full(1_000_000, n, np.float32) for n in range(6)}
    inner = archive.parent / "model.weights.h5"
    write_h5(inner, values, {f"layers/dense_{n}": f"dense_{n}" for n in range(6)})
    write_keras(archive / "m.keras", inner.read_bytes())
    size = (archive / "m.keras").stat().st_size
    with serving(archive) as server:
        (one,) = ckptkit.load(f"{server.url}/m.keras", names=["*dense_3*"]).values()
        assert set(one) == {3}
        assert server.nbytes < 0.5 * size
        del server.asked[:]
        assert len(ckptkit.load(f"{server.url}/m.keras")) == 6
        assert ckptkit.convert(f"{server.url}/m.keras", archive.parent / "m.npz").ok
        assert ckptkit.convert(f"{server.url}/w.npz", archive.parent / "w.safetensors").ok
        assert server.nbytes <= 1.2 * (size + (archive / "w.npz").stat().st_size)


@pytest.mark.parametrize("keeps", ["no room", "a file in the way"])
def test_an_archive_for_which_there_is_no_room_is_verified_where_it_lies(
    keeps: str, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if keeps == "no room":
        monkeypatch.setenv("CKPTKIT_CACHE_BYTES", "1MB")
    else:
        (archive.parent / "cache").touch()
    with serving(archive) as server:
        assert verify(f"{server.url}/w.pt").ok
        assert server.nbytes <= 1.2 * (archive / "w.pt").stat().st_size


def test_an_archive_that_is_replaced_as_it_comes_is_one_clear_error(archive: Path) -> None:
    with serving(archive) as server:

        def replace(number: int) -> None:
            if number == 6:
                (archive / "new").write_bytes((archive / "w.npz").read_bytes())
                (archive / "new").replace(archive / "w.npz")

        server.before = replace
        refused = verify(f"{server.url}/w.npz").refusals
    assert [error.message for error in refused] == ["changed while it was read"]
    assert not list((archive.parent / "cache").rglob("*.part"))


@pytest.mark.parametrize("threads", [0, 2])
def test_the_next_file_is_on_its_way_before_the_last_was_read(threads: int, tmp_path: Path) -> None:
    """No answer with values comes before all files of a set have been asked for."""
    size = 300_000
    weights: dict[str, Any] = {f"t{n}": np.full(size, n, np.float32) for n in range(4)}
    np.savez(tmp_path / "w.npz", **weights)
    ckptkit.convert(tmp_path / "w.npz", tmp_path / "w.safetensors", shards=4)
    ckptkit.convert(tmp_path / "w.npz", tmp_path / "ckpt", to="tensor-bundle", shards=4)
    for name in ("w.safetensors.index.json", "ckpt"):
        with serving(tmp_path) as server:
            all_asked = Event()
            asked_for: set[str] = set()

            def wait(
                asked: Asked, _number: int, seen: set[str] = asked_for, ready: Event = all_asked
            ) -> int:
                if asked.stop - asked.start > size and "-of-" in asked.path:
                    seen.add(asked.path)
                    if len(seen) == 4:
                        ready.set()
                    assert ready.wait(600)
                return 0

            server.status = wait
            with ThreadPoolExecutor(threads or 1) as pool:
                assert verify(f"{server.url}/{name}", executor=pool if threads else None).ok
            assert all_asked.is_set()
            spans = [one for one in server.asked if one.start > 0]
            assert len({(one.path, one.start) for one in spans}) == len(spans)  # none twice


def test_a_request_waits_for_no_other_whose_thread_has_just_taken_it() -> None:
    """Each of two has an answer once both are under way, however slowly a thread begins."""
    threads, both, asked = requests._Threads(), Barrier(2), Event()
    lock = threads.lock

    class SlowThreads:
        def __enter__(self) -> None:
            if current_thread() is not main_thread():
                asked.wait()
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()

    threads.submit(int).result()
    while threads.spare < 1:  # the one thread waits for more
        time.sleep(0.001)
    threads.lock = cast("Any", SlowThreads())
    first = threads.submit(both.wait)
    while not threads.calls.empty():  # it takes this
        time.sleep(0.001)
    second = threads.submit(both.wait)
    asked.set()
    assert {first.result(600), second.result(600)} == {0, 1}


def test_runs_in_any_order_are_fetched_once(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(24 << 20)
    (tmp_path / "a").write_bytes(data)
    runs = [(at, (1 << 20) + 100 * n) for n, at in enumerate(range(0, 20 << 20, 1_100_000))]
    np.random.default_rng(1).shuffle(runs)
    with serving(tmp_path) as server:
        path = path_of(f"{server.url}/a")
        for at, nbytes in runs:
            buffer = memoryview(bytearray(nbytes))
            extent = Extent(path, at, nbytes)
            for start in range(0, nbytes, 1 << 18):
                extent.read_into(start, buffer[start : start + (1 << 18)])
            assert buffer == data[at : at + nbytes]
        assert server.nbytes <= 1.05 * sum(nbytes for _at, nbytes in runs)


def test_the_page_on_buckets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """What the sessions of docs/buckets.md print, of a server here; `--regen` rewrites it."""
    monkeypatch.setenv("CKPTKIT_CACHE", str(tmp_path / "cache"))
    assert run("sample", tmp_path / "first").code == 0
    text = PAGE.read_text(encoding="utf-8")
    with serving(tmp_path) as server:

        def session(match: re.Match[str]) -> str:
            lines: list[str] = []
            for shown in _COMMAND.findall(match[1]):
                words = shown.replace(ADDRESS, server.url)
                done = subprocess.run(  # what other tests left on its way is not counted there
                    [sys.executable, "-m", "ckptkit", *shlex.split(words)],
                    env=environment(),
                    capture_output=True,
                    text=True,
                )
                printed = [*done.stdout.splitlines(), *done.stderr.splitlines()]
                lines += ["", f"$ ckptkit {shown}"]
                lines += [line.replace(server.url, ADDRESS).rstrip() for line in printed]
                lines += [f"[exit code {done.returncode}]"] if done.returncode else []
            return "```console\n" + "\n".join(lines[1:]) + "\n```\n" if lines else match[0]

        expected = _SESSION.sub(session, text)
    if request.config.getoption("--regen"):
        PAGE.write_text(expected, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == expected, "run: make docs"


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Return a folder with a file that takes several requests."""
    values: dict[str, Any] = {f"t{n}": np.full(400_000, n, np.float32) for n in range(8)}
    np.savez(tmp_path / "w.npz", **values)
    ckptkit.convert(tmp_path / "w.npz", tmp_path / "w.safetensors")
    other: dict[str, Any] = {name: array + 100 for name, array in values.items()}
    (tmp_path / "other").mkdir()
    np.savez(tmp_path / "other" / "w.npz", **other)
    ckptkit.convert(tmp_path / "other" / "w.npz", tmp_path / "other" / "w.safetensors")
    return tmp_path


@pytest.mark.parametrize("honors_conditions", [True, False])
def test_an_object_that_is_replaced_is_one_clear_error(
    large: Path, honors_conditions: bool
) -> None:
    with serving(large) as server:
        server.honors_conditions = honors_conditions
        there = ckptkit.open(f"{server.url}/w.safetensors")
        assert there["t0"][0] == 0
        (large / "other" / "w.safetensors").replace(large / "w.safetensors")
        with pytest.raises(ChangedError, match="changed while it was read"):
            there["t7"].tolist()
        assert ckptkit.open(f"{server.url}/w.safetensors")["t7"][0] == 107


@pytest.mark.parametrize("honors_conditions", [True, False])
def test_what_is_replaced_all_the_time_is_never_mixed(large: Path, honors_conditions: bool) -> None:
    states = [(large / place / "w.safetensors").read_bytes() for place in (".", "other")]

    def replace(number: int) -> None:
        if number % 3 == 2:
            (large / "new").write_bytes(states[number // 3 % 2])
            os.utime(large / "new", (number, number))  # else two may have the same state
            (large / "new").replace(large / "w.safetensors")

    with serving(large) as server:
        server.honors_conditions, server.before = honors_conditions, replace
        try:
            arrays = ckptkit.load(f"{server.url}/w.safetensors").values()
            found = {float(array[0]) for array in arrays}
        except CkptkitError as error:
            assert isinstance(error, ChangedError)
        else:
            assert found in ({*range(8)}, {*range(100, 108)})


def test_cut_connections_and_passing_refusals_are_tried_again(large: Path) -> None:
    with serving(large) as server:

        def tries(number: int) -> int:
            """How often what a request asks for was asked for before."""
            spans = [(asked.start, asked.stop) for asked in server.asked[: number + 1]]
            return spans.count(spans[-1]) - 1

        server.cut = lambda number: tries(number) == 0
        server.status = lambda _asked, number: 503 if tries(number) == 1 else 0
        there = ckptkit.load(f"{server.url}/w.safetensors")
    assert [float(there[f"t{n}"].sum()) for n in range(8)] == [n * 400_000 for n in range(8)]


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (503, b"", "no answer after 6 tries: 503"),
        (403, b"<Error><Code>AccessDenied</Code></Error>", "access is denied .403: AccessDenied"),
        (401, b"", "access is denied .401"),
        (403, b"<Error><Code>ExpiredToken</Code></Error>", "the credentials are expired .403"),
        (400, b"<Error><Code>ExpiredToken</Code></Error>", "the credentials are expired .400"),
        (404, b"", "no such file or directory"),
        (418, b"", "the store answers with 418"),
    ],
)
def test_a_refusal_is_one_line_with_the_next_step(
    status: int, body: bytes, message: str, server: Server
) -> None:
    server.status, server.body = lambda _asked, _number: status, body
    with pytest.raises(CkptkitError, match=message) as caught:
        ckptkit.open(f"{server.url}/weights.safetensors")
    assert "\n" not in str(caught.value)
    said = run("ls", f"{server.url}/weights.safetensors")
    assert said.code == 2
    assert said.out == ""


def test_a_server_without_ranges_is_refused_unless_one_answer_is_all(
    large: Path, server: Server
) -> None:
    server.whole = True
    assert len(ckptkit.open(f"{server.url}/adam/ckpt")) > 10  # as long as what was asked for
    with serving(large) as other:
        other.whole = True
        with pytest.raises(UnsupportedError, match="does not know ranges"):
            ckptkit.open(f"{other.url}/w.safetensors")


def test_another_range_than_that_asked_for_is_no_answer(large: Path) -> None:
    with serving(large) as server:
        server.shift = 1
        with pytest.raises(CkptkitError, match="came where"):
            ckptkit.open(f"{server.url}/w.safetensors")


@pytest.mark.parametrize("framing", ["chunks", "close"])
def test_answers_of_untold_length_are_read_whole(large: Path, server: Server, framing: str) -> None:
    """As a server of HTTP/1.0 sends them, or one that packs what it can; cut ones come again."""
    with serving(large) as other:
        other.framing = framing
        other.cut = lambda number: number == 1
        assert ckptkit.diff(f"{other.url}/w.safetensors", large / "w.safetensors").ok
        other.whole = True
        with pytest.raises(UnsupportedError, match="does not know ranges"):
            ckptkit.open(f"{other.url}/w.safetensors")
    server.framing = framing
    server.whole = True
    if framing == "chunks":  # whose last one shows that it is all
        assert len(ckptkit.open(f"{server.url}/adam/ckpt")) > 10
    else:
        with pytest.raises(UnsupportedError, match="does not know ranges"):
            ckptkit.open(f"{server.url}/adam/ckpt")


def test_what_cannot_be_told_apart_is_not_read_in_pieces(large: Path) -> None:
    with serving(large) as server:
        server.etags = server.times = False
        there = ckptkit.open(f"{server.url}/w.safetensors")
        with pytest.raises(UnsupportedError, match="neither ETag nor Last-Modified"):
            there["t7"].tolist()


def test_what_cannot_be_listed_says_so(server: Server) -> None:
    (server.folder / "manager-copy").mkdir(exist_ok=True)
    with pytest.raises(PathNotFoundError):
        ckptkit.open(f"{server.url}/manager-copy")
    verified = ckptkit.verify(f"{server.url}/saved_model_save/model")
    assert any("the server lists no directories" in text for text in verified.not_checked)


@pytest.mark.parametrize(
    ("url", "kind", "message"),
    [
        ("ftp://host/x", UnsupportedError, "no store of ftp:// is read"),
        ("http://127.0.0.1:1/x", CkptkitError, "no answer after 6 tries: no connection"),
        ("hf://x", UsageError, "no repository"),
        ("http://127.0.0.1:port/x", UsageError, "no URL"),
    ],
)
def test_a_wrong_url_is_one_clear_error(url: str, kind: type, message: str) -> None:
    with pytest.raises(CkptkitError, match=message) as caught:
        ckptkit.open(url)
    assert isinstance(caught.value, kind)


def test_secrets_in_a_url_are_sent_and_never_shown(server: Server) -> None:
    host = server.url.removeprefix("http://")
    url = f"http://user:word@{host}/weights.safetensors?signature=secret"
    there = ckptkit.open(url)
    assert server.asked[-1].path.endswith("?signature=secret")
    assert server.asked[-1].headers["authorization"].startswith("Basic ")
    assert "secret" not in f"{there!r}{there.path}" and "word" not in f"{there!r}{there.path}"
    server.status = lambda _asked, _number: 403
    said = run("ls", url)
    assert said.code == 2
    assert "secret" not in said.err and "word@" not in said.err


def test_options_go_with_a_url(server: Server, folder: Path) -> None:
    options = {"headers": {"X-Key": "k"}}
    path = ckptkit.remote_path(f"{server.url}/adam/ckpt", storage_options=options)
    assert ckptkit.ls(path).ok
    assert server.asked[-1].headers["x-key"] == "k"
    with pytest.raises(UsageError, match="no URL that is read with options"):
        ckptkit.open(folder / "adam/ckpt", storage_options={"headers": {}, "x": 1})
    with pytest.raises(UsageError, match="takes no option 'x'"):
        ckptkit.open(f"{server.url}/adam/ckpt", storage_options={"x": 1})


def test_a_cloud_needs_obstore() -> None:
    if find_spec("obstore"):
        pytest.skip("obstore is installed")
    with pytest.raises(MissingDependencyError, match=r"ckptkit-tf\[remote\]"):
        ckptkit.open("s3://bucket/key")


def test_a_worker_opens_what_is_elsewhere_for_itself(large: Path) -> None:
    here = large / "here.safetensors"
    shutil.copy(large / "w.safetensors", here)
    with serving(large) as server, ProcessPoolExecutor(1, get_context("spawn")) as pool:
        url = f"{server.url}/w.safetensors"
        assert ckptkit.diff(url, here, executor=pool).ok
        (large / "other" / "w.safetensors").replace(large / "w.safetensors")
        assert len(ckptkit.diff(url, here, executor=pool).changes) == 8


def test_libraries_get_a_copy_that_is_kept(
    server: Server, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CKPTKIT_CACHE", str(tmp_path))
    for name in ("adam/ckpt", "saved_model_save/model", "set.safetensors.index.json"):
        url = f"{server.url}/{name}"
        copy = fetched_operand(url)
        assert Path(copy).is_relative_to(tmp_path)
        assert ckptkit.diff(copy, folder / name).ok
        del server.asked[:]
        assert fetched_operand(url) == copy
        assert server.nbytes < 200_000 or name.endswith(".json")
    monkeypatch.setenv("CKPTKIT_CACHE_BYTES", "1000")
    with pytest.raises(OutputError, match="more than the cache may hold"):
        fetched_operand(f"{server.url}/weights.npz")
    monkeypatch.setenv("CKPTKIT_CACHE_BYTES", "1MB")
    fetched_operand(f"{server.url}/weights.npz")
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) <= 1_000_000


def test_a_pointer_of_git_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.keras").write_text(
        "version https://git-lfs.github.com/spec/v1\n"
        "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
    )
    with serving(tmp_path) as server, pytest.raises(UnsupportedError, match="of the file itself"):
        ckptkit.open(f"{server.url}/m.keras")


def test_connections_with_many_hosts_are_closed(folder: Path) -> None:
    def asked() -> int:
        with serving(folder) as server:
            status, _, data = http.request(f"{server.url}/weights.npz", {}, 1 << 30)
            assert (status, data) == (200, (folder / "weights.npz").read_bytes())
            return len(http._connections.open)

    assert max(asked() for _ in range(12)) == http._MOST_HOSTS


def test_an_index_of_a_directory_is_no_file(server: Server, folder: Path) -> None:
    """Web servers answer for a directory with a page, most after a redirect to "NAME/"."""
    page = b"<!DOCTYPE html>\n<title>Index</title>"

    def route(path: str) -> tuple[int, dict[str, str], bytes] | None:
        if not (folder / path.strip("/")).is_dir():
            return None
        if not path.endswith("/"):
            return 301, {"Location": f"{path}/"}, b""
        return 200, {"Content-Type": "text/html; charset=utf-8"}, page

    server.route = route
    for name in ("manager", "saved_model_save/model"):
        assert ckptkit.diff(f"{server.url}/{name}", folder / name).ok
    assert ckptkit.verify(f"{server.url}/{name}").ok
    assert ckptkit.scan(f"{server.url}/{name}").ok


def test_a_page_where_a_file_should_be_is_named(server: Server) -> None:
    """A login, or "not found" with status 200."""
    server.route = lambda _path: (200, {"Content-Type": "text/html"}, b"\n<html>Log in</html>")
    for name in ("weights.safetensors", "adam/ckpt"):
        with pytest.raises(PathNotFoundError, match="a web page came there"):
            ckptkit.open(f"{server.url}/{name}")
    with pytest.raises(PathNotFoundError, match="no pattern is expanded in a URL"):
        ckptkit.open(f"{server.url}/adam/ckpt*")


def test_what_is_packed_on_its_way_is_refused(server: Server, folder: Path) -> None:
    packed = gzip.compress((folder / "weights.npz").read_bytes()[:1000])
    server.route = lambda _path: (200, {"ETag": '"1"', "Content-Encoding": "gzip"}, packed)
    with pytest.raises(UnsupportedError, match=r"sends it packed \(gzip\)"):
        ckptkit.open(f"{server.url}/weights.npz")


def test_a_redirect_to_a_name_with_spaces_is_followed(server: Server, folder: Path) -> None:
    data = (folder / "m.tflite").read_bytes()
    server.route = lambda path: (
        (200, {"ETag": '"1"'}, data)
        if path == "/a%20b%25.tflite"
        else (302, {"Location": "/a b%25.tflite"}, b"")
    )
    assert ckptkit.diff(f"{server.url}/m.tflite", folder / "m.tflite").ok


@pytest.mark.parametrize("target", ["http://[secret", "http://host:secret/", "https://u:secret@/"])
def test_a_redirect_to_what_is_no_address_is_one_clear_error(server: Server, target: str) -> None:
    server.route = lambda _path: (302, {"Location": target}, b"")
    said = run("ls", f"{server.url}/m.tflite")
    assert (said.code, said.out) == (2, "")
    assert "m.tflite: redirected to what is no address" in said.err
    assert "secret" not in said.err


def test_a_signed_address_on_another_host_is_asked_and_never_shown(
    server: Server, large: Path
) -> None:
    """Each redirect has a signature of its own; credentials of the first host stay with it."""
    with serving(large) as other:
        server.route = lambda path: (302, {"Location": f"{other.url}{path}?X-Sig=secret"}, b"")
        host = server.url.removeprefix("http://")
        said = run("verify", "--format", "json", f"http://user:word@{host}/w.safetensors")
        assert all("authorization" not in asked.headers for asked in other.asked)
        assert all(asked.path.endswith("?X-Sig=secret") for asked in other.asked)
    assert all("authorization" in asked.headers for asked in server.asked)
    assert said.code == 0
    assert "secret" not in said.out + said.err and "word" not in said.out + said.err


@pytest.mark.parametrize("command", ["convert {0} {1}", "ls {0} -o {1}", "map {0} {0} -o {1}"])
@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_nothing_is_written_elsewhere(
    command: str, scheme: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    query = "?signature=secret" if scheme == "http" else ""
    url = f"{scheme}://user:word@host:99/out.safetensors{query}"
    said = run(*(word.format(folder / "weights.safetensors", url) for word in command.split()))
    assert said.code == 2
    assert f"{scheme}://host:99/out.safetensors: is elsewhere" in said.err
    assert "word" not in said.err and "secret" not in said.err
    assert not list(tmp_path.iterdir())


def test_samples_are_not_written_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("sample", "http://host/first").code == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("url", ["http://user:word@host:port/x", "http://user:wo/word@host/x"])
def test_no_secret_of_a_wrong_url_is_shown(url: str) -> None:
    said = run("ls", url)
    assert said.code == 2
    assert "word" not in said.err.replace("or password", "")
    assert "http://host" in said.err


def test_a_part_of_what_is_elsewhere_is_that_part(server: Server, folder: Path) -> None:
    there, here = f"{server.url}/adam/ckpt?signature=x#model", folder / "adam/ckpt#model"
    names = [tensor.naming.name for tensor in ckptkit.ls(there).tensors]
    assert names == [tensor.naming.name for tensor in ckptkit.ls(here).tensors]
    assert len(names) < len(ckptkit.ls(folder / "adam/ckpt").tensors)
    with pytest.raises(CkptkitError, match="no tensor below 'other'"):
        ckptkit.ls(f"{server.url}/adam/ckpt#other")
    shutil.copy(folder / "m.tflite", folder / "m#1.tflite")
    assert ckptkit.ls(f"{server.url}/m#1.tflite").ok


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://u:p@h/x?s=1: gone", "http://h/x: gone"),
        ("'http:/u@h/x?s=1'", "'http:/h/x'"),
        ("/a/https://u:p@h/x#y", "/a/https://h/x#y"),
        ("ftp://u:p@h/x", "ftp://h/x"),
        ("abfs://container@account/x", "abfs://container@account/x"),
        ("hf://owner/name@main/x", "hf://owner/name@main/x"),
        ("http://h/x@y, is it?", "http://h/x@y, is it?"),
    ],
)
def test_secrets_are_left_out_of_text(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


@pytest.mark.parametrize(
    "command",
    [
        "thin {0} --keep-slots last:1",
        "convert {0} out.keras --like {0}",
        "ls adam --manifest {0}",
        "check {0} --golden {0}",
        "explain {0}",
        "verify {0} --manifest {0}",
        "upgrade {0} out.keras",
        "map {0} {0}",
    ],
)
def test_no_command_shows_a_secret(command: str, server: Server) -> None:
    host = server.url.removeprefix("http://")
    said = run(*command.format(f"http://user:word@{host}/weights.safetensors?s=secret").split())
    for secret in ("word@", "secret"):
        assert secret not in said.err + said.out


def test_a_damaged_index_elsewhere_is_a_finding(server: Server, tmp_path: Path) -> None:
    for name in ("ckpt.index", "ckpt.data-00000-of-00001"):
        shutil.copy(server.folder / "adam" / name, tmp_path / name)
    damaged = bytearray((tmp_path / "ckpt.index").read_bytes())
    damaged[40] ^= 4
    (tmp_path / "ckpt.index").write_bytes(damaged)
    here = ckptkit.verify(tmp_path / "ckpt")
    with serving(tmp_path) as damaging:
        there = ckptkit.verify(f"{damaging.url}/ckpt")
        assert "none: no such file or directory" in run("scan", f"{damaging.url}/none").err
    assert "index.checksum" in {finding.code for finding in here.findings}
    assert "index.checksum" in {finding.code for finding in there.findings}
    assert there.exit_code == 1


def test_a_flag_is_named_without_a_value(server: Server) -> None:
    import click

    from ckptkit.cli.wording import as_options

    command = click.Command(
        "x",
        params=[click.Option(["--anonymous"], is_flag=True), click.Option(["--endpoint"])],
    )
    speak = as_options(lambda _name: command)
    assert speak("", "anonymous", "True") == "--anonymous"
    assert speak("", "endpoint", "http://h") == "--endpoint http://h"
