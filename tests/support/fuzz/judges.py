"""Mutants that a reference reader reads too: where ckptkit says sound, it must read the same.

TensorFlow and h5py are asked in processes of their own, since a mutant may end them.
"""

from __future__ import annotations

import atexit
import random
import warnings
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import ckptkit
from ckptkit.errors import CkptkitError
from ckptkit.operations.verify.api import verify
from support.fuzz import model_mutants, mutators, orbax_mutants
from support.fuzz.readers import BUNDLES, Target, bundle, neutral


@cache
def tensorflow() -> Any:
    from support.tf_reader import Peer

    peer = Peer()
    atexit.register(peer.close)
    return peer


def beside_tensorflow(prefix: Path) -> None:
    """Whatever is sound here lists and reads in TensorFlow, each tensor."""
    result = verify(prefix)
    if not result.ok:
        raise CkptkitError("has findings", where=str(prefix))
    verdict = tensorflow()(prefix)
    assert not verdict["end"] and not verdict["error"], verdict
    assert verdict["list"] == len(ckptkit.open(prefix).specs), verdict


def _is_array(file: Any, key: str) -> bool:
    """Whether numpy gives an array for a member, or would if it unpickled, and no raw bytes."""
    try:
        return not isinstance(file[key], bytes)
    except ValueError:
        return True


def beside_numpy(path: Path) -> None:
    """Whatever is sound here gives the same arrays in numpy, but for dtypes that numpy lacks."""
    result = verify(path)
    if not result.ok:
        raise CkptkitError("has findings", where=str(path))
    store = ckptkit.open(path).store
    with warnings.catch_warnings(), np.load(path, allow_pickle=False) as file:
        warnings.simplefilter("ignore")  # of headers that Python 2 wrote
        assert {key for key in file.files if _is_array(file, key)} == set(store.specs)
        for key in file.files:
            if key not in store.specs or store.specs[key].dtype == "object":
                continue
            theirs = file[key]
            spec = store.specs[key]
            assert theirs.size == spec.size or theirs.dtype == np.uint8, key
            if theirs.dtype.kind in "biufc" and theirs.dtype.name == spec.dtype:
                assert theirs.shape == spec.shape
                native = theirs.astype(theirs.dtype.newbyteorder("=")).reshape(-1)
                assert native.tobytes() == store.read(key).tobytes(), key


def beside_safetensors(path: Path) -> None:
    """Whatever is sound here opens in the reference reader, and the other way round."""
    from safetensors import SafetensorError, safe_open

    ours = verify(path).exit_code == 0
    try:
        with safe_open(path, "np") as file:
            names = sorted(file.keys())
    except SafetensorError:
        assert not ours
        raise CkptkitError("refused by both", where=str(path)) from None
    if ours:
        assert names == sorted(ckptkit.open(path).specs)


DESCRS = ("'<f4'", "'>f4'", "'<f8'", "'|i1'", "'<c8'", "'|S4'", "'<U1'", "'|b1'", "'<f2'", "'|V4'",
          "'f4'", "'<i4'", "[('x', '<f4')]", "'|O'", "'<M8[s]'", "''", "None", "'<f3'", "'|u1'",
          "'float32'", "b'<f4'", "'=f4'", "'<?'", "'<f4 '", "u'<f4'")  # fmt: skip
SHAPES = ("(3, 4)", "(12,)", "(4, 3)", "(3,4,)", "( 3 , 4 )", "[3, 4]", "(2, 6)", "(12)",
          "(-3, -4)", "(3L, 4L)", "(0x3, 4)", "(True, 12)", "(1, 12)", "(3, 4, 1)", "(1_2,)",
          "(12.0,)", "(+12,)", "()", "(0,)", "(0, 1099511627776)", "(12, 0)")  # fmt: skip
ORDERS = ("True", "False", "1", "0", "None", "'False'", " True ")


def header(rng: random.Random) -> bytes:
    """Return the header of an npy file in words that nearly are numpy's own."""
    fields = [
        f"'descr': {rng.choice(DESCRS[:3] if rng.random() < 0.6 else DESCRS)}",
        f"'fortran_order': {rng.choice(ORDERS[:2] if rng.random() < 0.8 else ORDERS)}",
        f"'shape': {rng.choice(SHAPES[:3] if rng.random() < 0.5 else SHAPES)}",
    ]
    if rng.random() < 0.2:
        rng.shuffle(fields)
    if rng.random() < 0.1:
        fields.append(rng.choice(("'more': 1", fields[0], "")))
    text = f"{{{', '.join(fields)}{rng.choice((',', ', ', ''))}}}".encode()
    version = rng.choice((1, 1, 1, 2, 3, 0, 4))
    size = 2 if version == 1 else 4
    pad = -(8 + size + len(text) + 1) % rng.choice((64, 16, 1))
    text += b" " * pad + rng.choice((b"\n", b"\n", b"\n", b"", b"\n\n", b"\0"))
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(size, "little") + text


def npz(directory: Path, rng: random.Random) -> Path:
    """Write what numpy itself writes, damaged, or with a header in other words."""
    path = directory / "w.npz"
    save = np.savez_compressed if rng.random() < 0.3 else np.savez
    array = np.arange(12, dtype="f4")
    save(path, a=array.reshape(3, 4).T, b=np.array([b"x", b"yz"]), c=np.int8(3))
    if rng.random() < 0.4:
        path.write_bytes(mutators.archive(path.read_bytes(), rng))
        return path
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(rng.choice(("d.npy", "d", "d.npy.npy")), header(rng) + array.tobytes())
    return path


# without a golden that holds variants, which are no arrays to TensorFlow in Python
_LISTED = tuple(name for name in BUNDLES if "objects" not in name)
JUDGED = {
    "beside-numpy": Target(npz, beside_numpy),
    "beside-onnx": Target(model_mutants.of(model_mutants.ONNX), model_mutants.beside_onnx),
    "beside-safetensors": Target(neutral("safetensors"), beside_safetensors),
    "beside-tensorflow": Target(bundle(*_LISTED), beside_tensorflow),
    "beside-torch": Target(model_mutants.pytorch, model_mutants.beside_torch),
    "beside-tensorstore": Target(orbax_mutants.write, orbax_mutants.beside_tensorstore),
}
