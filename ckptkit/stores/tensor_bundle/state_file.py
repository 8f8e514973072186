"""Training directories: the `checkpoint` state file, and which checkpoint is the latest.

`checkpoint` is a text-format CheckpointState message (tensorflow/python/training/
checkpoint_state.proto): `model_checkpoint_path: "ckpt-3"` and one `all_model_checkpoint_paths` per
kept checkpoint.  The paths may be absolute, and then often those of another machine; they are
looked up by their last component beside the file, and never followed out of the directory.
"""

from __future__ import annotations

import re
from pathlib import Path, PureWindowsPath

from ckptkit._io.files import read_start
from ckptkit._io.places import can_list
from ckptkit._io.side_files import read_whole
from ckptkit.errors import CkptkitError, FormatError, PathNotFoundError
from ckptkit.stores.base import Store
from ckptkit.stores.tensor_bundle.files import INDEX_SUFFIX, index_path
from ckptkit.stores.tensor_bundle.v1_files import files_of_checkpoint_v1, prefix_of, shard_files
from ckptkit.text import lazy_pattern

STATE_FILE = "checkpoint"
MAX_STATE_BYTES = 1 << 20
_FIELD = lazy_pattern(
    r'^\s*(model_checkpoint_path|all_model_checkpoint_paths)\s*:\s*"((?:[^"\\\n]|\\.)*)"\s*$', re.M
)
_STEP = lazy_pattern(r"(.*)-(\d{1,18})", re.S)
# What TensorFlow, or Orbax, leaves behind when it is killed in the middle of a save.
_V2_MEMBER = lazy_pattern(r"\.(index|data-\d{5}-of-\d{5}|meta)$")
_INDEX_OR_DATA = lazy_pattern(r"(.*)\.(?:index|data-\d{5}-of-\d{5})", re.S)
_UNFINISHED = lazy_pattern(r"(_temp\b|\.tempstate\d*|\.tmp[0-9a-f]{32}|\.orbax-checkpoint-tmp)")


def is_unfinished(name: str) -> bool:
    """Whether an entry of a directory is called as what a killed save leaves."""
    return bool(_UNFINISHED.search(name))


def prefix_name(name: str) -> str | None:
    """Return what the checkpoint is called whose index or data file a name is; None for others."""
    match = _INDEX_OR_DATA.fullmatch(name)
    return match[1] if match else None


def is_state_file(path: Path) -> bool:
    """Whether a file is a `checkpoint` state file, by name and content."""
    return path.name == STATE_FILE and b"model_checkpoint_path" in read_start(path, MAX_STATE_BYTES)


def read_state(path: Path) -> tuple[str | None, list[str]]:
    """Return (latest, all) checkpoint paths as written in a state file.

    Raises FormatError for one that is too large, not UTF-8, or names no checkpoint.
    """
    try:
        text = read_whole(path, MAX_STATE_BYTES, "a state file").decode()
    except UnicodeDecodeError as error:
        raise FormatError(str(path), "not a text file") from error
    fields = [(name, _unescape(value)) for name, value in _FIELD.findall(text)]
    latest = [value for name, value in fields if name == "model_checkpoint_path"]
    return (latest[-1] if latest else None), [v for n, v in fields if n != "model_checkpoint_path"]


def _unescape(text: str) -> str:
    """Undo the C escapes of protobuf's text format."""
    raw = re.sub(
        rb"\\([0-7]{1,3})|\\(.)",
        lambda m: bytes([int(m[1], 8) & 0xFF]) if m[1] else m[2],
        text.encode(),
    )
    return raw.decode("utf-8", "replace")


def latest_checkpoint(directory: Path) -> tuple[Path, tuple[str, ...]]:
    """Return (prefix, notes) of the latest complete checkpoint in a training directory.

    Where all lack data files, it is the latest of those whose tensors can be listed.
    Raises PathNotFoundError when the directory holds none.
    """
    notes: list[str] = []
    problems: dict[Path, str | None] = {}
    found = prefixes(directory)
    state = directory / STATE_FILE
    if state.is_file():
        named, _all = read_state(state)
        name = Path((named or "").replace("\\", "/")).name
        if named is None or name in ("", "..") or "\0" in name:
            notes.append(f"{state} names no checkpoint")
        else:
            prefix = prefix_of(directory / name)
            elsewhere = Path(named).is_absolute() and Path(named).parent != directory.absolute()
            windows = "\\" in named or PureWindowsPath(named).drive
            if elsewhere or windows:
                of = " (a path of Windows)" if windows else ""
                notes.append(f"{state} points at {named}{of}; looked for {prefix.name} beside it")
            problem = problems[prefix] = incomplete(prefix)
            if problem is None:
                notes.append(f"latest checkpoint of {max(1, len(found))}: {prefix.name}")
                return prefix, tuple(notes)
            notes.append(f"{state} names {prefix.name}: {problem}")
    ordered, how = _newest_first(found)
    for prefix in ordered:
        if prefix in problems:
            continue  # the one that the state file names
        problem = problems[prefix] = incomplete(prefix)
        if problem is None:
            of = f" of {len(found)} ({how})" if len(found) > 1 else ""
            notes.append(f"latest complete checkpoint{of}: {prefix.name}")
            return prefix, tuple(notes)
        notes.append(f"passed over {prefix.name}: {problem}")
    rest = next((prefix for prefix in [*problems, *ordered] if _is_listed(prefix)), None)
    if rest is not None:
        notes.append(f"no checkpoint is complete: what there is of {rest.name} is read")
        return rest, tuple(notes)
    if notes:
        raise PathNotFoundError(
            f"no complete checkpoint: {'; '.join(notes)}",
            where=str(directory),
            hint="name one checkpoint (PREFIX or PREFIX.index) to read what there is of it",
        )
    raise PathNotFoundError("no checkpoint in this directory", where=str(directory))


def prefixes(directory: Path) -> list[Path]:
    """Return the prefixes of all checkpoints in `directory`, unfinished saves left out."""
    from ckptkit.stores.tensor_bundle.v1_reader import v1_prefixes  # seldom asked for

    if not can_list(directory):
        return _named_prefixes(directory)
    names = sorted(entry.name for entry in directory.iterdir())
    found = {
        directory / name.removesuffix(INDEX_SUFFIX)
        for name in names
        if name.endswith(INDEX_SUFFIX)
        and name != INDEX_SUFFIX
        and not _UNFINISHED.search(name)
        and (directory / name).is_file()
    }
    return sorted(found.union(v1_prefixes(directory, _is_no_v1)))


def _named_prefixes(directory: Path) -> list[Path]:
    """Return the prefixes that the state file of a directory, which cannot be listed, names."""
    latest, every = read_state(directory / STATE_FILE)
    names = {Path(name.replace("\\", "/")).name for name in (*every, latest or "")}
    found = (directory / name for name in sorted(names - {"", ".."}))
    return [prefix for prefix in found if index_path(prefix).is_file()]


def _is_no_v1(name: str) -> bool:
    """Whether a name in a training directory is that of something else than a V1 checkpoint."""
    return name == STATE_FILE or bool(_V2_MEMBER.search(name) or _UNFINISHED.search(name))


def is_v1(prefix: Path) -> bool:
    """Whether what lies at a checkpoint's prefix is of the V1 format."""
    return not index_path(prefix).is_file() and (prefix.is_file() or bool(shard_files(prefix)))


def _opened(prefix: Path) -> Store:
    """Return the checkpoint at a prefix; raises as its format's opener does."""
    if is_v1(prefix):
        from ckptkit.stores.tensor_bundle.v1_reader import open_checkpoint_v1  # few are of V1

        return open_checkpoint_v1(prefix)
    from ckptkit.stores.tensor_bundle.reader import open_bundle  # here, for other formats

    return open_bundle(prefix)


def _is_listed(prefix: Path) -> bool:
    """Whether the tensors of a checkpoint can be told, though not all of its data are there."""
    try:
        return bool(_opened(prefix).specs)
    except (CkptkitError, OSError):
        return False


def incomplete(prefix: Path) -> str | None:
    """Return what a checkpoint lacks, in one line, or None when its files are all there."""
    try:
        store = _opened(prefix)
    except CkptkitError as error:
        return error.message
    except OSError as error:  # a name that no file can have
        return error.strerror
    missing = store.missing_shards
    return f"{missing[0].name} is missing" if missing else None


def modified_ns(prefix: Path) -> int:
    """Return when a checkpoint was saved: the time of its index, or of a file of the V1 format."""
    file = files_of_checkpoint_v1(prefix)[0] if is_v1(prefix) else index_path(prefix)
    return file.stat().st_mtime_ns


def _newest_first(found: list[Path]) -> tuple[list[Path], str]:
    """Return prefixes, newest first, and how that was told.

    By step where all are called `STEM-N` with one stem, as TensorFlow calls them; numbers elsewhere
    in names (`epoch10_loss0.5`) say nothing, and then the times of the files do.
    """
    steps = [_STEP.fullmatch(prefix.name) for prefix in found]
    if all(steps) and len({step[1] for step in steps if step}) == 1:
        numbers = {path: int(step[2]) for path, step in zip(found, steps, strict=True) if step}
        return sorted(found, key=numbers.__getitem__, reverse=True), "by step"

    return sorted(found, key=modified_ns, reverse=True), "by time"
