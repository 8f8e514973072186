"""Whether a file is a graph, by its content."""

from __future__ import annotations

from ckptkit.errors import FormatError
from ckptkit.stores.registry import Head

_NODE = b"\x0a"  # the tag of the first field


def is_graph(head: Head) -> bool:
    """Say whether a file begins as a GraphDef: with a node that has a name and an op's name.

    A message begins with its field of the lowest number: `node` here, `name` and then `op` in it.
    """
    if not head.start.startswith(_NODE):  # most are of other formats
        return False
    try:
        node, _end = _field(head.start, 0, 1)
        name, after = _field(node, 0, 1)
        op, _end = _field(node, after, 2)
        return bool(name.decode() and op.decode().replace(">", "_").isidentifier())
    except (FormatError, UnicodeDecodeError):
        return False


def _field(data: bytes, at: int, number: int) -> tuple[bytes, int]:
    """Return a length-delimited field and where it ends, as far as `data` goes.

    Raises FormatError where another field, or none, begins there.
    """
    from ckptkit.stores.tensor_bundle.table import read_varint  # here, since few files begin so

    tag, at = read_varint(data, at, "")
    if tag != number << 3 | 2:
        raise FormatError("", "another field")
    size, at = read_varint(data, at, "")
    return data[at : at + size], at + size
