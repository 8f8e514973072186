"""Whether a file is of safetensors, or the index of a set of such files."""

from __future__ import annotations

from ckptkit.stores.registry import Head


def is_safetensors(head: Head) -> bool:
    """Whether a file begins as safetensors does, or is called so."""
    if is_safetensors_index(head) or head.is_zip or head.is_hdf5:
        return False
    is_json = head.path.name.endswith(".json")  # of an index; a header begins after eight bytes
    return head.path.name.endswith(".safetensors") or (head.start[8:9] == b"{" and not is_json)


def is_safetensors_index(head: Head) -> bool:
    """Whether a file is the index of a set of safetensors files, which its name says."""
    name = head.path.name
    other = name.endswith(".bin.index.json")  # of PyTorch files
    return name.endswith(".index.json") and not (other or head.is_zip or head.is_hdf5)
