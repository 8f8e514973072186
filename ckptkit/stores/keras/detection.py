"""Which of Keras's formats a file is of, by its content."""

from __future__ import annotations

from ckptkit.stores.registry import Head

_LAYOUT = "whether the HDF5 file has the layout of .weights.h5"


def is_keras(head: Head) -> bool:
    """Whether a file is a Keras 3 archive: a zip with a config or weights, and no numpy arrays."""
    if not head.is_zip or any(name.endswith(".npy") for name in head.members):
        return False
    return "config.json" in head.members or any(
        name.endswith("model.weights.h5") for name in head.members
    )


def is_weights_h5(head: Head) -> bool:
    """Whether a file is HDF5 with the layout of `.weights.h5`; raises as reading its root does."""
    if not head.is_hdf5:
        return False
    # Both formats of HDF5 ask, and reading the root of an unusual file takes a process.
    if _LAYOUT not in head.facts:
        from ckptkit.stores.hdf5.reader import is_weights_h5

        head.facts[_LAYOUT] = is_weights_h5(head.path)
    return bool(head.facts[_LAYOUT])


def is_legacy_h5(head: Head) -> bool:
    """Whether a file is HDF5 of any other layout."""
    return head.is_hdf5 and not is_weights_h5(head)


def is_weights_json(head: Head) -> bool:
    """Whether a file is the index of a set of `.weights.h5` files, which its name says."""
    return head.path.name.endswith(".weights.json")
