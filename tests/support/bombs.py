"""Small files that claim to be large, and files that want a reader to do something."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from ckptkit.stores.tensor_bundle.table_writer import varint
from support import ocdbt_bytes
from support.crafted import entry, header, raw_table, table
from support.fuzz.mutators import deflated
from support.goldens import GOLDEN
from support.ocdbt_bytes import Place

GIB = 1 << 30


MIB = 1 << 20


def _archive(path: Path, name: str, size: int, fill: bytes = b"\0") -> Path:
    """Write a zip whose one member inflates to `size` bytes, all `fill`."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    part = packer.compress(fill * MIB) + packer.flush(zlib.Z_FULL_FLUSH)
    count = size // MIB
    inner = part * count + deflated(b"")
    crc = 0
    for _ in range(count):
        crc = zlib.crc32(fill * MIB, crc)
    raw = name.encode()
    sizes = struct.pack("<3I", crc, len(inner), size)
    local = struct.pack("<4s5H", b"PK\x03\x04", 20, 0, 8, 0, 33) + sizes
    body = local + struct.pack("<2H", len(raw), 0) + raw + inner
    central = struct.pack("<4s6H", b"PK\x01\x02", 20, 20, 0, 8, 0, 33) + sizes
    central += struct.pack("<5H2I", len(raw), 0, 0, 0, 0, 0, 0) + raw
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(central), len(body), 0)
    path.write_bytes(body + central + end)
    return path


def npz_zeros(directory: Path) -> Path:
    return _archive(directory / "zeros.npz", "a.npy", GIB // 2)


def npz_shape(directory: Path) -> Path:
    head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    head = head.ljust(117) + b"\n"
    with zipfile.ZipFile(directory / "shape.npz", "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head)
    return directory / "shape.npz"


def keras_weights(directory: Path) -> Path:
    """A .keras file whose weights inflate to 512 MiB: below the limit that Keras has."""
    path = _archive(directory / "bomb.keras", "model.weights.h5", GIB // 2)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("config.json", "{}")
    return path


def keras_config(directory: Path) -> Path:
    source = GOLDEN / "tf2.21.0/files_nested/model.keras"
    path = _archive(directory / "config.keras", "config.json", 300 * MIB, b" ")
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            if name != "config.json":
                new.writestr(name, old.read(name))
    return path


def _bundle(directory: Path, index: bytes, data: bytes = b"") -> Path:
    (directory / "c.index").write_bytes(index)
    (directory / "c.data-00000-of-00001").write_bytes(data)
    return directory / "c"


def bundle_shape(directory: Path) -> Path:
    shape = (1 << 31, 1 << 31)
    return _bundle(directory, table({b"": header(), b"a": entry(shape, size=1 << 62)}))


def bundle_strings(directory: Path) -> Path:
    """142 bytes that end TensorFlow 2.21 with a segmentation fault."""
    items = {b"": header(), b"a": entry((1 << 40,), dtype=7, size=(1 << 40) + 4)}
    return _bundle(directory, table(items))


def bundle_negative(directory: Path) -> Path:
    """A negative dimension under a right checksum, which aborts TensorFlow 2.21."""
    return _bundle(directory, table({b"": header(), b"a": entry((-5,), size=20)}))


def bundle_shards(directory: Path) -> Path:
    return _bundle(directory, table({b"": header(num_shards=(1 << 31) - 1)}))


def bundle_handles(directory: Path) -> Path:
    """An index block that sends a reader to one data block 10,000 times."""
    block = b"\0" * 4 + b"\1\0\0\0"
    return _bundle(directory, raw_table([block], handles=[varint(0) + varint(8)] * 10_000))


def bundle_overlaps(directory: Path) -> Path:
    """4,000 tensors that all lie on the same 64 MB: 256 GB to read for who believes it."""
    size = 64 << 20
    items = {b"t%05d" % i: entry((size // 4,), size=size) for i in range(4_000)}
    prefix = _bundle(directory, table({b"": header(), **items}))
    with (directory / "c.data-00000-of-00001").open("wb") as file:
        file.truncate(size)
    return prefix


def snappy_block(directory: Path) -> Path:
    return _bundle(directory, raw_table([varint(1 << 32) + b"\0" * 20], kinds=[1]))


def safetensors_header(directory: Path) -> Path:
    path = directory / "head.safetensors"
    path.write_bytes(struct.pack("<Q", (1 << 63) - 1) + b"{}")
    return path


def safetensors_shape(directory: Path) -> Path:
    head = b'{"a":{"dtype":"F64","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'
    path = directory / "shape.safetensors"
    path.write_bytes(struct.pack("<Q", len(head)) + head)
    return path


def h5_sparse(directory: Path) -> Path:
    """8192 x 8192 x 32 float32 that were never written: 8 GiB for who allocates them."""
    import h5py

    path = directory / "sparse.weights.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/dense/vars")
        group.create_dataset("0", (8192, 8192, 32), "float32", chunks=(64, 64, 32))
    return path


def h5_sparse_small(directory: Path) -> Path:
    """1 GiB that was never written: below the limit that Keras has."""
    import h5py

    path = directory / "small.weights.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/dense/vars")
        group.create_dataset("0", (1 << 28,), "float32", chunks=(1 << 16,), compression="gzip")
    return path


def graph_nesting(directory: Path) -> Path:
    """Functions in attributes of functions, 5,000 deep."""

    def field(number: int, content: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(content)) + content

    function = field(1, b"f")
    for _ in range(5_000):
        function = field(1, b"f") + field(2, field(1, b"k") + field(2, field(10, function)))
    node = field(2, b"NoOp") + field(5, field(1, b"k") + field(2, field(10, function)))
    (directory / "saved_model.pb").write_bytes(field(2, field(2, field(1, node))))
    return directory


def graph_text_nesting(directory: Path) -> Path:
    (directory / "saved_model.pbtxt").write_text("a {" * 1_000_000)
    return directory


def json_nesting(directory: Path) -> Path:
    path = directory / "deep.safetensors"
    head = b"[" * 1_000_000
    path.write_bytes(struct.pack("<Q", len(head)) + head)
    return path


def zip_quoted(directory: Path) -> Path:
    """Overlapping members, each inflating the same bytes."""
    inner = deflated(bytes(64 << 20))
    crc = zlib.crc32(bytes(64 << 20))
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 8, 0, 0, crc, len(inner), 64 << 20, 5, 0)
    body = local + b"a.npy" + inner
    central = io.BytesIO()
    for number in range(500):
        name = b"a.npy" if not number else b"%05d.npy" % number
        central.write(
            struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 8, 0, 0, crc, len(inner),
                        64 << 20, len(name), 0, 0, 0, 0, 0, 0) + name
        )  # fmt: skip
    end = struct.pack(
        "<4s4H2IH", b"PK\x05\x06", 0, 0, 500, 500, len(central.getvalue()), len(body), 0
    )
    (directory / "quoted.npz").write_bytes(body + central.getvalue() + end)
    return directory / "quoted.npz"


def _orbax(directory: Path, size: int, compressor: dict[str, str] | None, chunk: bytes) -> Path:
    """Write a checkpoint of Orbax with one array of `size` bytes in one chunk."""
    array = {"shape": [size], "chunks": [size], "dtype": "|u1", "order": "C", "zarr_format": 2}
    array |= {"compressor": compressor, "filters": None, "fill_value": 0}
    node = ocdbt_bytes.leaf({b"w/.zarray": json.dumps(array).encode(), b"w/0": chunk})
    return ocdbt_bytes.database(directory, node, Place(0, 0, len(node)), 0)


def orbax_shape(directory: Path) -> Path:
    return _orbax(directory, 1 << 50, None, b"\0")


def orbax_zeros(directory: Path) -> Path:
    """A chunk of zstd that says in 16 kB what comes to 512 MiB."""
    count, block = GIB // 2 >> 17, 1 << 17
    blocks = b"".join(
        (block << 3 | 2 | (n == count - 1)).to_bytes(3, "little") + b"\0" for n in range(count)
    )
    frame = b"\x28\xb5\x2f\xfd\x80\x50" + struct.pack("<I", GIB // 2) + blocks
    return _orbax(directory, GIB // 2, {"id": "zstd"}, frame)


def orbax_cycle(directory: Path) -> Path:
    """A tree whose root is its own child."""
    node = ocdbt_bytes.interior(1, {b"a": Place(0, 0, 50)})
    node = ocdbt_bytes.interior(1, {b"a": Place(0, 0, len(node))})
    return ocdbt_bytes.database(directory, node, Place(0, 0, len(node)), 1)


BOMBS: dict[str, Callable[[Path], Path]] = {
    maker.__name__: maker
    for maker in (
        npz_zeros, npz_shape, keras_weights, keras_config, bundle_shape, bundle_strings,
        bundle_negative, bundle_shards, bundle_handles, bundle_overlaps, snappy_block,
        safetensors_header, safetensors_shape, h5_sparse, h5_sparse_small, graph_nesting,
        graph_text_nesting, json_nesting, zip_quoted, orbax_shape, orbax_zeros, orbax_cycle,
    )
}  # fmt: skip
NEED_H5PY = ("keras_weights", "keras_config", "h5_sparse", "h5_sparse_small")
