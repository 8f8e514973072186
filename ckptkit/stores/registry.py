"""The table of formats: one row says what a format is; the rest of the package asks the row.

To add a format: a folder with a function `Path -> Store` (and, to be written, a writer), one row in
FORMATS, golden files of its real producer.  Another package adds its row as an entry point of the
group `ckptkit.formats` that names a `Format`; docs/examples/format is one.

Functions are named ("module:function"), not imported: a format's code is loaded when a file of it
is met.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from ckptkit._io.file_states import check_unchanged, os_error, unchanged
from ckptkit._io.files import checked_once
from ckptkit._io.places import readable
from ckptkit.errors import (
    ChangedError,
    CkptkitError,
    FormatError,
    MissingDependencyError,
    UnsupportedError,
    UsageError,
)
from ckptkit.plugins import Registry
from ckptkit.stores.base import Store
from ckptkit.text import nearest_text

# What files of a format hold beside names and values (`Format.structure`); the second and third are
# also the names of the formats that brought these structures.
OBJECT_GRAPH, SAVED_MODEL = "object-graph", "saved-model"
KERAS, LEGACY_KERAS = "keras", "legacy-keras"
TENSOR_BUNDLE = "tensor-bundle"  # which is found by its prefix, not by its content
_TRIES = 5  # to open what is replaced meanwhile
CODE = "code"  # what runners call a model that a callable builds, which is no file


class Format(NamedTuple):
    """What a format is.

    Functions are named as "module:function"; the types are those that the function has.

    Attributes:
        name: as `ls` prints it.
        description: what it is, in a few words, for the table of formats in the docs.
        looks_like: the path of such a file, for the same table.
        opener: a function Path -> Store; "" for a model that is run, and whose tensors are not
            read.
        detect: a function Head -> bool, asked of a file (or directory) that no built-in rule names.
        aliases: other spellings that `convert` takes.
        suffixes: of its files' names, the one to write first.
        model_kind: what runners call a model of this format; "" for tensors alone.
        writer: a function that writes it; "" for a format that is not written.  For one of names
            and values alone it takes (path, tensors, blocks) as `stores.npz.writer.write_npz` does.
        structure: what else its files hold, which a conversion must take from somewhere:
            OBJECT_GRAPH, SAVED_MODEL, KERAS or LEGACY_KERAS; "" for names and values alone.
        templates: names of formats whose files can give that structure.
        has_checksums: whether stored checksums cover the values.
        is_archive: whether it is a zip of members, which may inflate.
        is_directory: whether its path is a directory.
        is_index: whether its file names the other files of a set.
        set_member: a pattern of the names of a set's files; "" where there are no sets.
        files: a function Path -> list of the files that a store at the path is read from; "" for
            the path alone.
        loaders: a function (Path, environment) -> (facts, calls), what a file says of itself and
            what opens it; "" where `needs` knows nothing of it.
        scan: a function Path -> list of `operations.findings.Check`; "" where tensors alone can do
            nothing.
        verify: a function (path, executor, progress) -> (Unit, Store or None); "" reads every
            tensor by its store.
        model_config: a function Path -> the config of the Keras model in a file, as JSON has it, or
            None.
        restorable: whether TensorFlow or Keras restores it into live objects.
        values_are_ops: whether what is inside of a model goes by the names of ops, not of layers.
        is_converted: whether its models were made from another model.
        begun_names: a function (Path, str) -> the names of tensors that begin so, or None where
            that cannot be told without opening the file; "" where it never can.
        needs: what to install to read it, as `pip install` takes it; "" for nothing.
        keeps_order: whether its tensors stand in the order in which the model has them.
    """

    name: str
    description: str
    looks_like: str
    opener: str = ""
    detect: str = ""
    aliases: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    model_kind: str = ""
    writer: str = ""
    structure: str = ""
    templates: tuple[str, ...] = ()
    has_checksums: bool = False
    is_archive: bool = False
    is_directory: bool = False
    is_index: bool = False
    set_member: str = ""
    files: str = ""
    loaders: str = ""
    scan: str = ""
    verify: str = ""
    model_config: str = ""
    restorable: bool = False
    values_are_ops: bool = False
    is_converted: bool = False
    begun_names: str = ""
    needs: str = ""
    keeps_order: bool = False

    @property
    def holds_model(self) -> bool:
        """Whether a file of it is a model that can be run."""
        return bool(self.model_kind)

    @property
    def is_run_as_file(self) -> bool:
        """Whether a model of it is run as the file that it is: nothing is restored into it.

        What it computes is bound to its bytes; that some of its tensors can be read changes nothing
        about that, since a converter folds and fuses them.
        """
        return self.holds_model and (not self.opener or self.is_converted)

    @property
    def is_readable(self) -> bool:
        """Whether its tensors are read."""
        return bool(self.opener)


HEAD_BYTES = 4096  # of a file, that its format is told by


class Head:
    """What a file shows before it is opened, for `Format.detect`.

    Args:
        path: of a file or directory.
        start: its first HEAD_BYTES bytes, b"" of a directory.
        is_directory: whether it is one.

    Attributes:
        facts: what one format's detection found out that another's needs too, by any name.
    """

    def __init__(self, path: Path, start: bytes = b"", *, is_directory: bool = False) -> None:
        self.path = path
        self.start = start
        self.is_directory = is_directory
        self.facts: dict[str, Any] = {}

    @property
    def is_zip(self) -> bool:
        """Whether it begins as a zip archive does."""
        return self.start.startswith((b"PK\x03\x04", b"PK\x05\x06"))

    @property
    def is_hdf5(self) -> bool:
        """Whether it begins as an HDF5 file does."""
        return self.start.startswith(b"\x89HDF\r\n\x1a\n")

    @cached_property
    def members(self) -> tuple[str, ...]:
        """The names in a zip archive; raises FormatError where its directory is damaged."""
        from ckptkit.stores.containers.zip_archive import member_names  # here, for archives

        with suppress(CkptkitError):
            return member_names(self.path)
        import zipfile  # which takes more for an archive, so that it is told what it is

        try:
            with zipfile.ZipFile(readable(self.path)) as archive:
                return tuple(archive.namelist())
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise FormatError(
                str(self.path), f"a damaged zip archive: {error}", hint="copy it again"
            ) from error


_SET_OF_SAFETENSORS = r".*[-_]\d{5}-of-\d{5}\.safetensors"
_SET_OF_WEIGHTS = r".*[-_]\d{5}\.weights\.h5"
_SET_OF_PYTORCH = r".*[-_]\d{5}-of-\d{5}\.bin"
_SCAN, _VERIFY = "ckptkit.operations.scan.hooks", "ckptkit.operations.verify"
_NEEDS = "ckptkit.operations.needs"

# In the order in which their detection is asked.
_BUILT_IN = (
    Format(
        "h5",
        "HDF5 of Keras 1 and 2, tf-keras",
        "model.h5",
        "ckptkit.stores.keras.legacy_h5:open_legacy_h5",
        "ckptkit.stores.keras.detection:is_legacy_h5",
        suffixes=(".h5", ".hdf5"),
        structure=LEGACY_KERAS,
        loaders=f"{_NEEDS}.keras_files:hdf5",
        scan=f"{_SCAN}:scan_hdf5",
        model_config="ckptkit.stores.keras.legacy_h5:model_config_of_h5",
    ),
    Format(
        "keras",
        "Keras 3 archive (zip)",
        "model.keras",
        "ckptkit.stores.keras.archive:open_keras",
        "ckptkit.stores.keras.detection:is_keras",
        suffixes=(".keras",),
        model_kind="keras",
        writer="ckptkit.stores.keras.writer:write_keras",
        structure=KERAS,
        templates=("keras",),
        has_checksums=True,
        is_archive=True,
        restorable=True,
        loaders=f"{_NEEDS}.keras_files:archive",
        scan=f"{_SCAN}:scan_keras",
        model_config="ckptkit.stores.keras.archive:model_config_of_archive",
    ),
    Format(
        "npz",
        "numpy archive (zip)",
        "weights.npz",
        "ckptkit.stores.npz.reader:open_npz",
        "ckptkit.stores.npz.detection:is_npz",
        suffixes=(".npz",),
        writer="ckptkit.stores.npz.writer:write_npz",
        has_checksums=True,
        is_archive=True,
        loaders=f"{_NEEDS}.other_files:npz",
        scan=f"{_SCAN}:scan_npz",
    ),
    Format(
        "safetensors",
        "safetensors",
        "model.safetensors",
        "ckptkit.stores.safetensors.reader:open_safetensors",
        "ckptkit.stores.safetensors.detection:is_safetensors",
        suffixes=(".safetensors",),
        loaders=f"{_NEEDS}.other_files:safetensors",
        writer="ckptkit.stores.safetensors.writer:write_safetensors",
        begun_names="ckptkit.stores.safetensors.begun_names:begun_names",
    ),
    Format(
        "safetensors-index",
        "safetensors in shards",
        "model.safetensors.index.json",
        "ckptkit.stores.safetensors.reader:open_safetensors_index",
        "ckptkit.stores.safetensors.detection:is_safetensors_index",
        suffixes=(".safetensors.index.json",),
        loaders=f"{_NEEDS}.other_files:safetensors",
        writer="ckptkit.stores.safetensors.writer:write_safetensors",
        is_index=True,
        scan=f"{_SCAN}:scan_index",
        set_member=_SET_OF_SAFETENSORS,
        files="ckptkit.stores.sets:files_of_set",
    ),
    Format(
        "pytorch",
        "PyTorch: what torch.save wrote, nothing of it run (read only)",
        "model.pt, pytorch_model.bin",
        "ckptkit.stores.pytorch.reader:open_pytorch",
        "ckptkit.stores.pytorch.detection:is_pytorch",
        suffixes=(".pt", ".pth"),
        has_checksums=True,
        is_archive=True,
        loaders=f"{_NEEDS}.other_files:pytorch",
        scan="ckptkit.operations.scan.pytorch:scan_pytorch",
        keeps_order=True,
    ),
    Format(
        "pytorch-old",
        "PyTorch files of before 1.6, a row of pickles (read only)",
        "model.pt, pytorch_model.bin",
        "ckptkit.stores.pytorch.reader:open_pytorch",
        "ckptkit.stores.pytorch.detection:is_old_pytorch",
        loaders=f"{_NEEDS}.other_files:pytorch",
        scan="ckptkit.operations.scan.pytorch:scan_pytorch",
    ),
    Format(
        "pytorch-index",
        "PyTorch files in shards (read only)",
        "pytorch_model.bin.index.json",
        "ckptkit.stores.pytorch.sharded:open_pytorch_index",
        "ckptkit.stores.pytorch.detection:is_pytorch_index",
        suffixes=(".bin.index.json",),
        has_checksums=True,
        is_index=True,
        loaders=f"{_NEEDS}.other_files:pytorch",
        scan="ckptkit.operations.scan.pytorch:scan_pytorch_index",
        set_member=_SET_OF_PYTORCH,
        files="ckptkit.stores.sets:files_of_set",
    ),
    Format(
        "orbax",
        "Orbax checkpoint of JAX, and of Keras on JAX (read only)",
        "run/3/ (with _CHECKPOINT_METADATA)",
        "ckptkit.stores.orbax.reader:open_orbax",
        "ckptkit.stores.orbax.reader:is_orbax",
        is_directory=True,
        files="ckptkit.stores.orbax.reader:files_of_orbax",
        loaders=f"{_NEEDS}.other_files:orbax",
        scan="ckptkit.operations.scan.orbax:scan_orbax",
        model_config="ckptkit.stores.orbax.tree_metadata:model_config_of_orbax",
    ),
    Format(
        "saved-model",
        "TensorFlow SavedModel",
        "export/ (with saved_model.pb)",
        "ckptkit.stores.saved_model.reader:open_saved_model",
        aliases=("saved_model",),
        model_kind="saved_model",
        writer="ckptkit.stores.saved_model.writer:write_saved_model",
        structure=SAVED_MODEL,
        templates=("saved-model",),
        has_checksums=True,
        is_directory=True,
        files="ckptkit.stores.saved_model.reader:files_of_saved_model",
        loaders=f"{_NEEDS}.graphs:saved_model",
        scan=f"{_SCAN}:scan_saved_model",
        verify=f"{_VERIFY}.saved_model:verify_saved_model",
        values_are_ops=True,
    ),
    Format(
        "tensor-bundle",
        "TensorFlow checkpoint, TF2 object-based or TF1 name-based",
        "run/ckpt-3 (.index, .data-00000-of-00001)",
        "ckptkit.stores.tensor_bundle.reader:open_bundle",
        aliases=("checkpoint",),
        suffixes=(".ckpt",),
        writer="ckptkit.stores.tensor_bundle.writer:write_tensor_bundle",
        structure=OBJECT_GRAPH,
        templates=("tensor-bundle", "saved-model"),
        has_checksums=True,
        files="ckptkit.stores.tensor_bundle.writer:files_of_bundle",
        loaders=f"{_NEEDS}.graphs:checkpoint",
        scan=f"{_SCAN}:scan_bundle",
        verify=f"{_VERIFY}.bundle:verify_bundle",
        begun_names="ckptkit.stores.tensor_bundle.begun_names:begun_names",
        restorable=True,
    ),
    Format(
        "checkpoint-v1",
        "TensorFlow checkpoint V1, name-based (read only)",
        "run/model.ckpt-3 (one file, or shards -00000-of-00002)",
        "ckptkit.stores.tensor_bundle.v1_reader:open_checkpoint_v1",
        "ckptkit.stores.tensor_bundle.detection:is_checkpoint_v1",
        has_checksums=True,
        files="ckptkit.stores.tensor_bundle.v1_files:files_of_checkpoint_v1",
        loaders=f"{_NEEDS}.graphs:checkpoint_v1",
        scan=f"{_SCAN}:scan_checkpoint_v1",
    ),
    Format(
        "frozen-graph",
        "frozen TensorFlow graph: its constants (read only)",
        "frozen_inference_graph.pb",
        "ckptkit.stores.saved_model.frozen:open_frozen_graph",
        "ckptkit.stores.saved_model.detection:is_graph",
        suffixes=(".pb",),
        values_are_ops=True,
        loaders=f"{_NEEDS}.graphs:graph_file",
        scan=f"{_SCAN}:scan_frozen_graph",
    ),
    Format(
        "weights.h5",
        "Keras 3 weights (HDF5)",
        "model.weights.h5",
        "ckptkit.stores.keras.archive:open_weights_h5",
        "ckptkit.stores.keras.detection:is_weights_h5",
        suffixes=(".weights.h5",),
        loaders=f"{_NEEDS}.keras_files:weights",
        restorable=True,
        writer="ckptkit.stores.keras.writer:write_weights_h5",
        structure=KERAS,
        scan=f"{_SCAN}:scan_hdf5",
        templates=("weights.h5", "keras", "weights.json"),
    ),
    Format(
        "weights.json",
        "Keras 3 weights in shards",
        "model.weights.json",
        "ckptkit.stores.keras.archive:open_weights_json",
        "ckptkit.stores.keras.detection:is_weights_json",
        suffixes=(".weights.json",),
        loaders=f"{_NEEDS}.keras_files:weights",
        structure=KERAS,
        is_index=True,
        scan=f"{_SCAN}:scan_index",
        set_member=_SET_OF_WEIGHTS,
        files="ckptkit.stores.sets:files_of_set",
    ),
    Format(
        "tflite",
        "LiteRT (TensorFlow Lite) model: its constants (read only)",
        "model.tflite",
        "ckptkit.stores.litert.reader:open_litert",
        "ckptkit.stores.litert.detection:is_litert_model",
        suffixes=(".tflite",),
        loaders=f"{_NEEDS}.other_files:litert",
        scan="ckptkit.operations.scan.litert:scan_litert",
        model_kind="tflite",
        values_are_ops=True,
        is_converted=True,
    ),
    Format(
        "onnx",
        "ONNX model: its initializers and constants (read only)",
        "model.onnx",
        "ckptkit.stores.onnx.reader:open_onnx",
        "ckptkit.stores.onnx.detection:is_onnx",
        suffixes=(".onnx",),
        files="ckptkit.stores.onnx.reader:files_of_onnx",
        loaders=f"{_NEEDS}.other_files:onnx",
        scan="ckptkit.operations.scan.onnx:scan_onnx",
        model_kind="onnx",
        values_are_ops=True,
        is_converted=True,
    ),
)

FORMATS = Registry("ckptkit.formats", Format, {row.name: row for row in _BUILT_IN})


def function_of(target: str) -> Callable[..., Any]:
    """Return the function that "module:function" names."""
    module, _, name = target.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function


def format_of(name: str) -> Format:
    """Return the row of a format, by its name or another spelling; raises UsageError."""
    if name in FORMATS.built_in:
        return FORMATS[name]
    found = FORMATS.first(lambda row: name in (row.name, *row.aliases))
    if found is not None:
        return found
    known = f"one of {', '.join(FORMATS)}"
    near = nearest_text(name, FORMATS)
    raise UsageError(f"no format {name!r}", hint=f"{known}; {near}" if near else known)


def format_of_name(file_name: str) -> Format | None:
    """Return the format whose suffix a file's name has, the longest that fits; None for none."""

    def fitting(row: Format) -> int:
        return max((len(end) for end in row.suffixes if file_name.endswith(end)), default=0)

    found = FORMATS.matching(lambda row: fitting(row) > 0)
    return max((FORMATS[name] for name in found), key=fitting, default=None)


def format_of_kind(model_kind: str) -> Format | None:
    """Return the format whose models runners call `model_kind`; None for code."""
    if not model_kind or model_kind == CODE:
        return None
    return FORMATS.first(lambda row: row.model_kind == model_kind)


def detect_format(head: Head) -> Format | None:
    """Return the format whose content this is: of those built in, else of other packages."""
    return FORMATS.first(
        lambda row: (
            row.is_directory == head.is_directory
            and bool(row.detect)
            and function_of(row.detect)(head)
        )
    )


def open_format(name: str, path: Path) -> Store:
    """Return the store at `path`, read as format `name`: of one state of its files.

    They may be replaced while their headers are read; then they are opened again.  What the store
    reads afterwards is of that state too, or raises ChangedError (`_io.files.UnchangedPath`).

    Raises UnsupportedError for a model whose tensors are not read, ChangedError where a program
    writes all the time, and what the opener raises.
    """
    row = format_of(name)
    if not row.opener:
        raise UnsupportedError(f"{row.name}: its tensors are not read", where=str(path))
    try:
        return _opened(function_of(row.opener), path)
    except ModuleNotFoundError as error:
        if not row.needs:
            raise
        raise MissingDependencyError(
            f"reading {row.name} files needs {error.name}, which is not installed",
            where=str(path),
            hint=f"pip install {row.needs}",
        ) from error
    except OSError as error:  # a name in it that no file can have, a directory that went away
        raise os_error(path, error) from error


def _opened(opener: Callable[[Path], Store], path: Path) -> Store:
    for _ in range(_TRIES):
        with suppress(ChangedError):
            return _opened_once(opener, path)
    return _opened_once(opener, path)


def _opened_once(opener: Callable[[Path], Store], path: Path) -> Store:
    with checked_once():
        store = opener(unchanged(path))
    # One after the other they were looked at; now that each is as it was, they are of one time.
    check_unchanged(getattr(store, "files", ()))
    return store


def model_config(name: str, path: Path) -> Any:
    """Return the config of the Keras model in a file of a format, None where that has none.

    Raises FormatError.
    """
    row = FORMATS.get(name)
    return function_of(row.model_config)(path) if row is not None and row.model_config else None


def files_at(name: str, path: Path) -> list[Path]:
    """Return the files that a store of a format at `path` is read from, there or not."""
    row = format_of(name)
    return function_of(row.files)(path) if row.files else [path]


def index_format(row: Format) -> Format | None:
    """Return the format of an index over several files of `row`, itself if it is one."""
    if row.is_index:
        return row
    # Nobody adds an index to a built-in format, so that no package is looked for on its account.
    rows = FORMATS.built_in if row.name in FORMATS.built_in else FORMATS
    siblings = (other for other in rows.values() if other.is_index and other.writer == row.writer)
    return next(siblings, None) if row.writer else None


def writable_formats() -> list[str]:
    """Return the names of the formats that are written."""
    return [name for name in FORMATS if FORMATS[name].writer]


def model_format(structure: str) -> Format:
    """Return the built-in format of models with this structure: SAVED_MODEL or KERAS."""
    rows = FORMATS.built_in.values()
    return next(row for row in rows if row.structure == structure and row.holds_model)


def can_be_cut(row: Format) -> bool:
    """Whether the values of one store may lie in several files."""
    return row.structure in (OBJECT_GRAPH, SAVED_MODEL) or index_format(row) is not None
