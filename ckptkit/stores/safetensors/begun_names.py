"""Names in a large safetensors header that begin with some letters, without parsing all of it.

For whoever offers names while they are typed: nothing is checked, and where it is not plain which
names a file has, nothing is said.
"""

from __future__ import annotations

import re
from pathlib import Path

from ckptkit._io.files import file_size, read_exact
from ckptkit.stores.safetensors.header import LENGTH_BYTES, MAX_HEADER, METADATA
from ckptkit.text import lazy_pattern

LARGE = 1 << 20  # bytes of a header; a smaller one is soon parsed
_TEXT = rb'"(?:[^"\\]|\\.)*"'
_METADATA = lazy_pattern(
    b'"%s"' % METADATA.encode()
    + rb"\s*:\s*\{(?:\s*"
    + _TEXT
    + rb"\s*:\s*"
    + _TEXT
    + rb"\s*,?)*\s*\}"
)


def begun_names(path: Path, begun: str) -> list[str] | None:
    """Return the names that begin so, of a file with a large header.

    Args:
        path: of the file.
        begun: the beginning.

    Returns:
        The names, in the order of the header.  None where the header has to be parsed to tell them:
        of a small file, and where names are written with escapes, or others stand beside them.

    Raises:
        TruncatedError: the header is cut short.
    """
    size = file_size(path)
    length = int.from_bytes(read_exact(path, 0, min(size, LENGTH_BYTES)), "little")
    if not LARGE <= length <= min(MAX_HEADER, size - LENGTH_BYTES):
        return None
    header = read_exact(path, LENGTH_BYTES, length)
    start = begun.encode("utf-8", "surrogateescape")
    metadata, header = _without_metadata(header)
    # a name beside a key, as `stores.metadata` keeps them
    if b'\\"name\\"' in metadata or b"\\" in header or b'"' in start:
        return None
    # in JSON without escapes, what stands between quotes before `:{` is a name
    pattern = rb'"(' + re.escape(start) + rb'[^"]*)"\s*:\s*\{'
    return [name.decode("utf-8", "surrogateescape") for name in re.findall(pattern, header)]


def _without_metadata(header: bytes) -> tuple[bytes, bytes]:
    """Return the object of metadata, texts by name, and the header without it."""
    found = _METADATA.search(header)
    return (b"", header) if found is None else (found[0], header.replace(found[0], b""))
