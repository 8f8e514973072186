"""What Keras files are refused for: one clear line each, no traceback of h5py, no allocation."""

from __future__ import annotations

import gc
import io
import json
import os
import random
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np
import pytest

from ckptkit.checkpoint.names import name_tensors
from ckptkit.errors import (
    ChecksumError,
    CkptkitError,
    FormatError,
    MissingDependencyError,
    PathNotFoundError,
    TruncatedError,
    UnsupportedError,
    WorkerLostError,
)
from ckptkit.operations.verify.api import verify
from ckptkit.stores.containers import zip_archive as _zip
from ckptkit.stores.containers.byte_range import ByteRange, whole_file
from ckptkit.stores.hdf5 import client
from ckptkit.stores.hdf5 import reader as hdf5
from ckptkit.stores.hdf5.bounded import LeftToLibhdf5
from ckptkit.stores.hdf5.classic import scan_classic
from ckptkit.stores.keras.archive import open_keras, open_weights_h5, open_weights_json
from ckptkit.stores.keras.legacy_h5 import open_legacy_h5
from ckptkit.stores.locate import locate
from support import keras_files
from support.keras_files import edited_h5, h5_bytes, layer, write_h5, write_keras, write_legacy

H5: TypeAlias = h5py.File


def _refused(
    error: type[CkptkitError], match: str, opener: Callable[[Path], Any], path: Path
) -> CkptkitError:
    """Return the refusal of a file, after reading all of it where it opens."""
    with pytest.raises(error, match=match) as caught:
        _read_all(opener, path)
    text = str(caught.value)
    assert "\n" not in text and str(path) in text
    return caught.value


def _read_all(opener: Callable[[Path], Any], path: Path) -> None:
    store = opener(path)
    name_tensors(store.specs, store.structure)
    for key in store.specs:
        for _ in store.blocks(key):
            pass


# --- links and storage ----------------------------------------------------------------------------


def _external_storage(file: H5) -> None:
    file.create_dataset("a/vars/0", (4,), "f4", external=[("secret.bin", 0, 16)])


def _virtual(file: H5) -> None:
    layout = h5py.VirtualLayout(shape=(5,), dtype="f4")
    layout[:] = h5py.VirtualSource(file["layers/dense/vars/1"])
    file.create_virtual_dataset("a/vars/0", layout)


def _cycle(file: H5) -> None:
    file["layers/dense/again"] = file["layers"]


def _shared_group(file: H5) -> None:
    file["other"] = file["layers/dense"]


def _set(name: str, value: Any) -> Callable[[H5], None]:
    def edit(file: H5) -> None:
        file[name] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (_set("a/vars/0", h5py.SoftLink("/layers/dense/vars/0")), "soft link"),
        (_set("a/vars/0", h5py.SoftLink("/nowhere")), "soft link"),
        (_set("a/vars/0", h5py.ExternalLink("other.h5", "/x")), "link out of this file"),
        (_external_storage, "values lie in another file"),
        (_virtual, "virtual dataset"),
        (_cycle, "linked twice"),
        (_shared_group, "linked twice"),
    ],
)
def test_ways_out_of_the_file(edit: Callable[[H5], None], match: str, tmp_path: Path) -> None:
    path = edited_h5(tmp_path / "m.weights.h5", edit)
    _refused(FormatError, match, open_weights_h5, path)
    _refused(FormatError, match, hdf5_scan, path)


def hdf5_scan(path: Path) -> Any:
    """Scan with libhdf5 alone: both readers must refuse."""
    tree = hdf5.scan_with_libhdf5(whole_file(path))
    assert tree
    return open_weights_h5(path)


def test_a_soft_link_is_not_followed_to_another_group(tmp_path: Path) -> None:
    path = edited_h5(tmp_path / "m.h5", _set("layers/x", h5py.SoftLink("/layers/dense")))
    _refused(FormatError, "layers/x is a soft link", open_weights_h5, path)


# --- types and sizes ------------------------------------------------------------------------------


def _scale_offset(file: H5) -> None:
    file.create_dataset("a/vars/0", data=np.arange(9), chunks=(9,), scaleoffset=0)


def _records(file: H5) -> None:
    file["a/vars/0"] = np.zeros(2, [("x", "f4"), ("y", "i8")])


def _references(file: H5) -> None:
    file.create_dataset("a/vars/0", (2,), h5py.ref_dtype)


def _lists(file: H5) -> None:
    file.create_dataset("a/vars/0", (2,), h5py.vlen_dtype(np.dtype("f4")))


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (_scale_offset, "filter 6"),
        (_records, "records"),
        (_references, "no numbers"),
        (_lists, "no numbers"),
    ],
)
def test_what_holds_no_plain_values(edit: Callable[[H5], None], match: str, tmp_path: Path) -> None:
    path = edited_h5(tmp_path / "m.weights.h5", edit)
    _refused(UnsupportedError, match, open_weights_h5, path)


def test_an_extent_without_elements(tmp_path: Path) -> None:
    path = edited_h5(tmp_path / "m.weights.h5", _set("a/vars/0", h5py.Empty("f4")))
    _refused(FormatError, "extent", open_weights_h5, path)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((1 << 40,), {"chunks": (1 << 16,)}),
        ((1 << 30, 1 << 30), {"chunks": (256, 256), "compression": "gzip"}),
        ((8192, 8192), {"chunks": (64, 64)}),
        ((1 << 28,), {}),
    ],
)
def test_shape_bombs(shape: tuple[int, ...], options: dict[str, Any], tmp_path: Path) -> None:
    """A few bytes that declare gigabytes; the last two stay below the 4 GiB that Keras allows."""

    def edit(file: H5) -> None:
        file.create_dataset("a/vars/0", shape, "f4", **options)

    path = edited_h5(tmp_path / "m.weights.h5", edit)
    assert path.stat().st_size < 1 << 20
    _refused(FormatError, "declares", open_weights_h5, path)


def test_a_chunk_too_large_to_hold(tmp_path: Path) -> None:
    path = tmp_path / "m.weights.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("a/vars/0", (100 << 20,), "f4", chunks=(100 << 20,))
        del data
    _refused(FormatError, "chunks of|declares", open_weights_h5, path)


def test_groups_that_nest_too_deep(tmp_path: Path) -> None:
    path = edited_h5(tmp_path / "m.weights.h5", _set("/".join(["a"] * 80), [1.0]))
    _refused(FormatError, "deeper", open_weights_h5, path)


# --- damage ---------------------------------------------------------------------------------------


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m.weights.h5"
    data = h5_bytes()
    for size in {*range(200), *range(200, len(data), 97)}:
        path.write_bytes(data[:size])
        with pytest.raises(FormatError):
            open_weights_h5(path)


def test_every_cut_of_an_archive_is_noticed(tmp_path: Path) -> None:
    whole = write_keras(tmp_path / "whole.keras").read_bytes()
    path = tmp_path / "m.keras"
    for size in {*range(200), *range(200, len(whole), 211), *range(len(whole) - 80, len(whole))}:
        path.write_bytes(whole[:size])
        with pytest.raises(FormatError):
            open_keras(path)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["keras", "weights.h5", "h5"])
def test_damage_never_ends_in_a_traceback(kind: str, seed: int, tmp_path: Path) -> None:
    """Flipped bits and overwritten words, in the headers mostly: an answer or a refusal."""
    path = tmp_path / f"m.{kind}"
    opener: Callable[[Path], Any] = open_weights_h5
    if kind == "keras":
        opener = open_keras
        write_keras(path)
    elif kind == "h5":
        opener = open_legacy_h5
        write_legacy(path)
    else:
        write_h5(path)
    whole = path.read_bytes()
    rng = random.Random(seed)
    refused = 0
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 3))):
            at = rng.randrange(len(data) - 8)
            if rng.random() < 0.7:
                data[at] ^= 1 << rng.randrange(8)
            else:
                data[at : at + 8] = rng.choice((b"\xff" * 8, bytes(8), rng.randbytes(8)))
        path.write_bytes(data)
        try:
            _read_all(opener, path)
        except CkptkitError as error:
            refused += 1
            assert "\n" not in str(error)
        except RecursionError:  # pragma: no cover
            pytest.fail("recursion without end")
    assert refused


def test_a_loop_in_a_continuation(tmp_path: Path) -> None:
    """An object header that continues in itself; libhdf5 is never asked."""
    path = tmp_path / "m.weights.h5"
    data = bytearray(h5_bytes())
    root = struct.unpack_from("<Q", data, 64)[0]
    struct.pack_into("<HHB3x2Q", data, root + 16, 0x10, 16, 0, root + 16, 24)
    path.write_bytes(data)
    _refused(FormatError, "no end", open_weights_h5, path)


def test_a_heap_object_of_no_size(tmp_path: Path) -> None:
    """libhdf5 1.14 loops for ever on this; neither reader may pass it on."""
    path = tmp_path / "m.weights.h5"
    data = bytearray(h5_bytes())
    heap = data.index(b"GCOL")
    struct.pack_into("<Q", data, heap + 16 + 8, (1 << 64) - 16)
    path.write_bytes(data)
    _refused(FormatError, "global heap", open_weights_h5, path)
    _refused(FormatError, "global heap", hdf5_scan, path)


def test_a_string_of_four_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "m.weights.h5"
    data = bytearray(h5_bytes(names={"layers/dense": "x" * 40}))
    heap = struct.pack("<IQ", 40, data.index(b"GCOL"))
    at = data.index(heap)
    struct.pack_into("<I", data, at, (1 << 32) - 1)
    path.write_bytes(data)
    _refused(FormatError, "has 4294967295 bytes", open_weights_h5, path)


def test_values_past_the_end_are_noticed_at_opening(tmp_path: Path) -> None:
    path = tmp_path / "m.weights.h5"
    write_h5(path)
    store = open_weights_h5(path)
    offset = store.specs["layers/dense/vars/0"].offset
    assert offset is not None
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack("<2Q", offset, 80))
    struct.pack_into("<Q", data, at, len(data) - 8)
    path.write_bytes(data)
    _refused(TruncatedError, "past the end", open_weights_h5, path)


def test_a_file_that_shrinks_after_opening(tmp_path: Path) -> None:
    path = tmp_path / "m.weights.h5"
    write_h5(path)
    store = open_weights_h5(path)
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(FormatError):
        for key in store.specs:
            store.read(key)


def test_no_hdf5_at_all(tmp_path: Path) -> None:
    path = tmp_path / "m.weights.h5"
    path.write_bytes(b"not one" * 100)
    _refused(FormatError, "signature", open_weights_h5, path)
    path.unlink()
    _refused(PathNotFoundError, "no such file", open_weights_h5, path)


def test_hdf5_of_another_program(tmp_path: Path) -> None:
    write_h5(tmp_path / "m.h5")
    _refused(FormatError, "layer_names", open_legacy_h5, tmp_path / "m.h5")


def test_legacy_lists_that_name_what_is_not_there(tmp_path: Path) -> None:
    path = write_legacy(tmp_path / "m.h5")
    with h5py.File(path, "r+") as file:
        file["head"].attrs["weight_names"] = [b"head/kernel:0", b"head/gone:0"]
    _refused(FormatError, "head/gone:0 is listed", open_legacy_h5, path)
    with h5py.File(path, "r+") as file:
        file.attrs["layer_names"] = [b"stem", b"gone"]
    _refused(FormatError, "'gone' is listed", open_legacy_h5, path)


def test_a_missing_h5py_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.weights.h5"
    write_h5(path, compression="gzip", chunks=True)
    code = (
        "import sys; sys.modules['h5py'] = None\n"
        "from pathlib import Path\n"
        "from ckptkit.stores.keras.archive import open_weights_h5\n"
        "from ckptkit.errors import MissingDependencyError\n"
        "store = open_weights_h5(Path(sys.argv[1]))\n"
        "try: store.read(next(iter(store.specs)))\n"
        "except MissingDependencyError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert "pip install 'ckptkit-tf[hdf5]'" in done.stdout
    assert issubclass(MissingDependencyError, CkptkitError)


# --- the process that libhdf5 runs in -------------------------------------------------------------


def test_a_process_that_is_left_leaves_nothing_open(tmp_path: Path) -> None:
    """Else a warning would come up in whatever test is run when garbage is collected."""
    path = tmp_path / "m.weights.h5"
    write_h5(path, compression="gzip", chunks=True)
    window = whole_file(path)
    gc.collect()  # what other tests left
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        client.scan(window)
        first = client._child.running()
        first.kill()
        first.wait()
        client.scan(window)  # by another one
        second = client._child.running()
        client._child.owner = -1  # as in a fork, which inherits it and cannot wait for it
        client.scan(window)
        assert client._child.owner == os.getpid()
        assert os.waitpid(second.pid, 0) == (second.pid, 0)  # it was not killed
        del first, second
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


@pytest.mark.parametrize("request_", ["scan", "read"])
def test_a_process_that_is_killed_says_nothing_of_the_file(
    request_: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.weights.h5"
    write_h5(path, compression="lzf", chunks=True)
    client._child.end()
    killed = (
        "from ckptkit.stores.hdf5 import server; import os; answer = server._answer;"
        f"log = {str(tmp_path / 'killed')!r};"
        "server._answer = lambda asked, last: answer(asked, last) "
        f"if asked['do'] != {request_!r} else (open(log, 'a').write('.'), os.kill(os.getpid(), 9));"
        "server.main()"
    )
    with monkeypatch.context() as patch:
        patch.setattr(client, "PROGRAM", client.PROGRAM.rpartition("from")[0] + killed)
        with ThreadPoolExecutor(1) as executor:
            result = verify(path, executor=executor)
    with client._child.lock:  # the file may still be listed, beside
        client._child.end()
    assert (result.exit_code, result.findings) == (2, ())
    assert (tmp_path / "killed").stat().st_size <= 2  # not one process for each tensor
    (refusal,) = result.refusals
    assert str(refusal).startswith(f"{path}: the process in which libhdf5 reads it was killed (")
    assert verify(path).exit_code == 0


def test_a_process_that_takes_too_long_is_told_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.weights.h5"
    write_h5(path, compression="lzf", chunks=True)
    client._child.end()
    sleeping = (
        "from ckptkit.stores.hdf5 import server; import time;"
        "server._answer = lambda asked, last: time.sleep(600); server.main()"
    )
    monkeypatch.setattr(client, "_WALL", 0)
    monkeypatch.setattr(client, "_PATIENCE_S", 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(client, "PROGRAM", client.PROGRAM.rpartition("from")[0] + sleeping)
        with pytest.raises(WorkerLostError, match=r"was not done with it after 0 s.* slow"):
            client.scan(whole_file(path))


# --- the archive ----------------------------------------------------------------------------------


def test_duplicate_names(tmp_path: Path) -> None:
    path = write_keras(tmp_path / "m.keras")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("config.json", "{}")
    _refused(FormatError, "'config.json' twice", open_keras, path)


def _patched(path: Path, data: bytes, find: bytes, offset: int, value: bytes) -> Path:
    """Overwrite bytes at an offset from the first place of `find`."""
    at = data.index(find) + offset
    path.write_bytes(data[:at] + value + data[at + len(value) :])
    return path


@pytest.mark.parametrize(
    ("find", "offset", "value", "error", "match"),
    [
        (b"PK\x03\x04", 6, b"\x01\x00", FormatError, "two ways"),  # encrypted, local only
        (b"PK\x01\x02", 8, b"\x01\x00", UnsupportedError, "encrypted"),
        (b"PK\x01\x02", 10, b"\x0c\x00", UnsupportedError, "compression method 12"),
        (b"PK\x03\x04", 8, b"\x08\x00", FormatError, "two ways"),  # method differs
        (b"PK\x03\x04", 14, b"\0\0\0\0", FormatError, "two ways"),  # CRC differs
        (b"PK\x03\x04", 22, b"\x01\0\0\0", FormatError, "two ways"),  # size differs
        (b"PK\x03\x04", 30, b"X", FormatError, "two ways"),  # name differs
        (b"PK\x01\x02", 42, b"\x01\0\0\0", FormatError, "damaged|outside"),  # header elsewhere
        (b"PK\x05\x06", 10, b"\x02\x00", UnsupportedError, "several files"),
        (b"PK\x05\x06", 16, b"\x05\0\0\0", FormatError, "not where"),
    ],
)
def test_headers_that_lie(
    find: bytes, offset: int, value: bytes, error: type[CkptkitError], match: str, tmp_path: Path
) -> None:
    data = write_keras(tmp_path / "whole.keras").read_bytes()
    _refused(error, match, open_keras, _patched(tmp_path / "m.keras", data, find, offset, value))


def test_bytes_before_and_after_the_archive(tmp_path: Path) -> None:
    data = write_keras(tmp_path / "whole.keras").read_bytes()
    path = tmp_path / "m.keras"
    path.write_bytes(b"#!/bin/sh\n" + data)
    _refused(FormatError, "not where", open_keras, path)
    path.write_bytes(data + b"tail")
    _refused(FormatError, "not at the end", open_keras, path)


def test_a_self_extracting_prefix_with_right_offsets(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    with path.open("wb") as file:
        file.write(b"MZ" * 50)
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("model.weights.h5", h5_bytes())
    _refused(FormatError, "before the first", open_keras, path)


def test_wrong_checksum_of_the_config(tmp_path: Path) -> None:
    data = write_keras(tmp_path / "whole.keras").read_bytes()
    path = _patched(tmp_path / "m.keras", data, b'"Functional"', 1, b"G")
    _refused(ChecksumError, "config.json", open_keras, path)


@pytest.mark.parametrize("nbytes", [100 << 20, 40 << 20])
def test_deflate_bombs(nbytes: int, tmp_path: Path) -> None:
    """Zeros deflate a thousandfold; beyond the floor that is refused before it is inflated."""
    weights = bytearray(h5_bytes()) + bytes(nbytes)
    path = write_keras(tmp_path / "m.keras", bytes(weights), compression=zipfile.ZIP_DEFLATED)
    if nbytes > _zip.EXPANSION_FLOOR:
        _refused(FormatError, "beyond measure", open_keras, path)
    else:
        assert len(open_keras(path).specs) == 3


def test_a_member_that_outgrows_its_size(tmp_path: Path) -> None:
    """The declared size is smaller than what the stream inflates to."""
    path = write_keras(tmp_path / "m.keras", compression=zipfile.ZIP_DEFLATED)
    member = _zip.read_directory(path)["model.weights.h5"]
    small = member.nbytes - 100
    data = path.read_bytes().replace(struct.pack("<I", member.nbytes), struct.pack("<I", small))
    path.write_bytes(data)
    _refused(FormatError, "does not end where", open_keras, path)


def test_a_cut_deflate_stream(tmp_path: Path) -> None:
    path = write_keras(tmp_path / "m.keras", compression=zipfile.ZIP_DEFLATED)
    member = _zip.read_directory(path)["model.weights.h5"]
    data = bytearray(path.read_bytes())
    middle = member.offset + member.stored_nbytes // 2
    data[middle : middle + 40] = bytes(40)
    path.write_bytes(data)
    _refused(FormatError, "deflated|CRC", open_keras, path)
    assert zlib.crc32(b"") == 0


def test_archives_without_readable_weights(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    _refused(FormatError, r"no model\.weights\.h5", open_keras, path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.weights.npz", "")
    _refused(UnsupportedError, "npz", open_keras, path)
    path.write_bytes(b"PK\x05\x06" + bytes(18))
    _refused(FormatError, "empty", open_keras, path)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (b'{"class_name": "A", "class_name": "B", "config": {}}', "twice"),
        (b'{"class_name": "A", "config": {"x": NaN}}', "NaN"),
        (b'{"class_name": "A", "config": {"x": 1e999}}', "out of range"),
        (b"[" * 100_000, "nested|JSON"),
        (b'{"a":' * 500 + b"1" + b"}" * 500, "nested"),
        (b"\xff\xfe{}", "UTF-8"),
        (b"{", "not JSON"),
        (b"[]", "not the config"),
        (b'{"config": {}}', "not the config"),
    ],
)
def test_configs_that_are_no_configs(config: bytes, match: str, tmp_path: Path) -> None:
    path = write_keras(tmp_path / "m.keras", config=config)
    _refused(FormatError, match, open_keras, path)


def test_a_config_beyond_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptkit.stores.keras.archive.MAX_JSON_BYTES", 100)
    _refused(FormatError, "too large", open_keras, write_keras(tmp_path / "m.keras"))


@pytest.mark.parametrize(
    "config",
    [
        {"class_name": "Functional", "config": {"layers": 3}},
        {"class_name": "Functional", "config": {"layers": [None, 3, {"class_name": 4}]}},
        {"class_name": "", "config": {"name": 7, "layers": [layer("", "")]}},
        {"class_name": "Sequential", "config": {"layers": [layer("Dense", "x", units="many")]}},
        {
            "class_name": "Functional",
            "config": {"layers": [{**layer("Dense", "x"), "build_config": {"input_shape": "?"}}]},
        },
        {
            "class_name": "Functional",
            "config": {
                "layers": [
                    {**layer("Dense", "x"), "inbound_nodes": [{"class_name": "__keras_tensor__"}]}
                ]
            },
        },
        {"class_name": "Model", "config": {}, "compile_config": {"optimizer": {"class_name": 3}}},
        {"class_name": "Model", "config": {}, "compile_config": {"optimizer": ""}},
    ],
)
def test_configs_of_odd_content_still_open(config: Any, tmp_path: Path) -> None:
    """The values are readable whatever the config says; names then come from the groups."""
    values = {**keras_files.VALUES, "optimizer/vars/0": np.array(1)}
    weights = h5_bytes(values=values)
    _read_all(open_keras, write_keras(tmp_path / "m.keras", weights, config=config))


# --- sharded weights ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "match"),
    [
        ({}, "no weight_map"),
        ([], "no weight_map"),
        ({"weight_map": {}}, "some shards"),
        ({"weight_map": {"a": "../m.weights.h5"}}, "not a file name"),
        ({"weight_map": {"a": "/etc/passwd"}}, "not a file name"),
        ({"weight_map": {"a": [3]}}, "not a file name"),
        ({"weight_map": {"a": ".."}}, "not a file name"),
    ],
)
def test_indexes_that_lead_elsewhere(index: Any, match: str, tmp_path: Path) -> None:
    path = tmp_path / "m.weights.json"
    path.write_text(json.dumps(index))
    _refused(FormatError, match, open_weights_json, path)


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    for name in ("a.weights.h5", "b.weights.h5"):
        write_h5(tmp_path / name)
    path = tmp_path / "m.weights.json"
    path.write_text(json.dumps({"weight_map": {"x": ["a.weights.h5", "b.weights.h5"]}}))
    with pytest.raises(FormatError, match="more than one shard"):
        open_weights_json(path)


# --- the classic reader alone ---------------------------------------------------------------------


def test_what_the_classic_reader_leaves_to_libhdf5(tmp_path: Path) -> None:
    kinds: list[dict[str, Any]] = [{"userblock_size": 512}, {"libver": "latest"}, {}]
    for number, options in enumerate(kinds):
        path = tmp_path / f"{number}.h5"
        with h5py.File(path, "w", **options) as file:
            file.create_dataset("a", data=[1.0], chunks=(1,))
            if not options:
                file["record"] = np.zeros(2, [("x", "f4"), ("y", "i2")])
        start = options.get("userblock_size", 0)
        byte_range = ByteRange(path, start, path.stat().st_size - start)
        with pytest.raises((LeftToLibhdf5, TruncatedError)):
            scan_classic(byte_range)


def test_what_a_node_held_before_it_was_split_is_no_damage(tmp_path: Path) -> None:
    """libhdf5 1.8, which wrote most files of Keras 2, left old entries behind those in use."""
    path = tmp_path / "m.weights.h5"
    data = bytearray(h5_bytes())
    entries = 24 + 8 * (4 * 16 + 1)  # a head of 24 bytes; room for 32 children and 33 keys
    starts = [at for at in range(len(data) - entries) if data[at : at + 5] == b"TREE\0"]
    assert starts
    for start in starts:
        (used,) = struct.unpack_from("<H", data, start + 6)
        free = slice(start + 24 + 8 * (2 * used + 1), start + entries)
        data[free] = bytes((7 * at + 1) % 256 for at in range(free.stop - free.start))
    path.write_bytes(data)
    scan_classic(whole_file(path))
    store = open_weights_h5(path)
    for key, values in keras_files.VALUES.items():
        np.testing.assert_array_equal(store.read(key), values.reshape(-1))
        with h5py.File(path) as file:
            np.testing.assert_array_equal(file[key], values)


def test_a_byte_range_ends_where_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "m.weights.h5"
    write_h5(path)
    byte_range = ByteRange(path, 0, 100)
    with pytest.raises(TruncatedError):
        byte_range.read(90, 20)
    buffer = io.BytesIO(path.read_bytes())
    assert byte_range.read(0, 8) == buffer.read(8)


@pytest.mark.parametrize("size", [512, 8192])
def test_a_user_block_is_no_damage(size: int, tmp_path: Path) -> None:
    """h5py and Keras read such a file, so that nothing is wrong with it."""
    path = tmp_path / "model.h5"
    with h5py.File(path, "w", userblock_size=size) as file:
        file["d"] = np.ones(3)
    with pytest.raises(UnsupportedError, match=f"behind {size} bytes of something else"):
        locate(path)
