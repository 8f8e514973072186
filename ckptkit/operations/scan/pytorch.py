"""What loading a PyTorch file could do: everything that its pickle names, judged by name.

`torch.load` runs the pickle.  With `weights_only=True` (the default since torch 2.6) it takes the
names of torch's own list alone and refuses the file at any other; without it, it imports the module
of each name and calls what is called.  Names are judged by what that would come to:

- what torch and numpy need to build tensors, and plain values: nothing is said;
- classes of `torch.nn`: a note, since a whole module was pickled, not its weights;
- anything else of the standard library or of torch that is called: an error;
- anything else: a warning, since loading imports a module that nobody knows.

Source: torch/_weights_only_unpickler.py (`_get_allowed_globals`), Lib/pickle.py.
"""

from __future__ import annotations

import io
import re
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator
from pathlib import Path

from ckptkit.dtypes import DTYPES
from ckptkit.errors import CkptkitError
from ckptkit.operations.findings import Check, Finding
from ckptkit.operations.scan.links import link_findings
from ckptkit.operations.scan.pickles import FRONT, is_pickle
from ckptkit.stores.containers.weight_map import read_weight_map
from ckptkit.stores.containers.zip_archive import STORED
from ckptkit.stores.pytorch.detection import PICKLE
from ckptkit.stores.pytorch.pickle_machine import Global
from ckptkit.stores.pytorch.reader import (
    PytorchArchive,
    names_as_far,
    read_archive,
    store_of,
)
from ckptkit.text import lazy_pattern, list_text, printable

_NN = lazy_pattern(r"torch\.nn(\.\w+)*")
# What torch.load takes with weights_only=True.
_OF_TORCH = (
    r"torch\.((storage\.)?\w+Storage|Size|Tensor|device|dtype|per_\w+|strided|sparse_\w+)",
    r"torch\.serialization\._get_layout|torch\._tensor\._rebuild_from_type_v2",
    r"torch\._utils\._rebuild_\w+|torch\.nn\.parameter\.(Parameter|Buffer)",
    r"collections\.(OrderedDict|Counter)|_codecs\.encode|builtins\.(set|bytearray|complex)",
)
# What it does not, and what builds plain values all the same.
_PLAIN = (
    r"torch\.(contiguous_format|preserve_format|bits\w+)|collections\.(defaultdict|deque)",
    r"builtins\.(frozenset|list|dict|tuple|slice|range|object|int|float|bool|str|bytes)",
    r"numpy\.(dtype|ndarray|_?core\.multiarray\.(scalar|_reconstruct)|dtypes\.\w+)",
    r"numpy\._?core\.numeric\._frombuffer|copyreg\._reconstructor",
    r"argparse\.Namespace|datetime\.(datetime|date|time|timedelta|timezone)",
    r"pathlib\.(Pure)?(Posix|Windows)?Path|types\.SimpleNamespace|decimal\.Decimal",
)
_CLASS = lazy_pattern(r"_*[A-Z]\w*")


def scan_pytorch(path: Path) -> list[Check]:
    """Scan a PyTorch file.

    Raises CkptkitError where it cannot be read and does nothing before that is worth telling.
    """
    try:
        archive = read_archive(path)
    except CkptkitError as error:
        return [_of_broken(path, error)]
    members, root, pickle, is_zip, nbytes_behind = archive
    where = f"{path.name}:{root}{PICKLE}" if is_zip else path.name
    findings = list(_judged(pickle.globals, pickle.called, where))
    strangers = [name for name in members if not _belongs(name.removeprefix(root))]
    if strangers and is_zip:
        message = (
            f"members that no file of torch.save has: {list_text([*map(printable, strangers)])}"
        )
        findings.append(Finding("warning", "archive.stranger", path.name, message))
    if nbytes_behind:
        message = f"{nbytes_behind:,} bytes behind the end of the pickle, which nothing writes"
        findings.append(Finding("warning", "pickle.hidden", where, message))
    findings += _hidden(path, archive)
    try:
        store_of(path, archive)  # what its tensors say of themselves
    except CkptkitError as error:
        if not findings:
            raise
        findings.append(Finding("warning", "pickle.broken", where, error.message))
    # A pickle of plain values names nothing, and is something all the same.
    count = ("name", len(pickle.globals)) if pickle.globals else ("member", len(members))
    return [Check("pickle", (count,), tuple(findings))]


def _of_broken(path: Path, error: CkptkitError) -> Check:
    """Return what a file that cannot be read does until it breaks off; raises where it is nothing.

    Unpickling runs what it meets: a pickle that is cut short has run all that stands before.
    """
    try:
        pickle = names_as_far(path)
    except CkptkitError:
        raise error from None
    findings = [*_judged(pickle.globals, pickle.called, path.name)]
    if all(found.severity == "note" for found in findings):
        raise error
    message = f"{error.message}: what stands before runs all the same when it is loaded"
    findings.append(Finding("warning", "pickle.broken", path.name, message))
    return Check("pickle", (("name", len(pickle.globals)),), tuple(findings))


def _hidden(path: Path, archive: PytorchArchive) -> Iterator[Finding]:
    """Yield a finding on each storage that is a pickle: torch reads it as numbers, others may not.

    Those alone that are stored are looked at: the values of compressed ones are not at hand.
    """
    if not archive.is_zip:
        return
    with path.open("rb") as stream:
        for name, member in archive.members.items():
            if name == f"{archive.root}{PICKLE}" or member.method != STORED:
                continue
            stream.seek(member.offset)
            if is_pickle(io.BytesIO(stream.read(min(member.nbytes, FRONT)))):
                message = "a Python pickle where the values of a tensor should be"
                where = f"{path.name}:{printable(name)}"
                yield Finding("warning", "pickle.hidden", where, message)


def unsafe_names(path: Path) -> list[Global]:
    """Return what the pickle of a PyTorch file names and torch's own list of names lacks."""
    names = map(_of_python3, read_archive(path).pickle.globals)
    return [found for found in names if not _is_of_torch(found)]


def scan_pytorch_index(path: Path) -> list[Check]:
    """Scan an index of PyTorch files and each of them; a shard's name must be a name."""
    weight_map, _total = read_weight_map(path)
    checks = [Check("index", (("tensor", len(weight_map)),), ())]
    for name in dict.fromkeys(weight_map.values()):
        shard = path.parent / name
        links = tuple(link_findings(shard, path.parent)) if shard.exists() else ()
        if links:
            checks.append(Check(name, (("file", 1),), links))
        elif shard.is_file():
            checks += scan_pytorch(shard)
    return checks


def _belongs(name: str) -> bool:
    plain = (PICKLE, "version", "byteorder", ".format_version", ".storage_alignment")
    return name in plain or name.startswith(("data/", ".data/"))


def _judged(named: tuple[Global, ...], called: frozenset[Global], where: str) -> Iterator[Finding]:
    modules: list[str] = []
    for old in named:
        found = _of_python3(old)
        text = printable(str(found))
        if _is_safe(found):
            continue
        if _NN.fullmatch(found.module) and _CLASS.fullmatch(found.name):
            modules.append(text)
            continue
        head = found.module.partition(".")[0]
        ours = head == "torch" or head in sys.stdlib_module_names
        if old in called and ours and not (head == "torch" and _CLASS.fullmatch(found.name)):
            message = f"calls {text} when it is loaded with weights_only=False"
            yield Finding("error", "pickle.call", where, message)
        else:
            how = "imports and calls" if old in called else "imports"
            message = f"names {text}, which loading with weights_only=False {how}"
            yield Finding("warning", "pickle.unknown", where, message)
    if modules:
        message = f"a whole module was pickled: {list_text(modules)}"
        hint = "torch.load takes it with weights_only=False alone; save `state_dict()`"
        yield Finding("note", "pickle.module", where, message, hint)


def _of_python3(found: Global) -> Global:
    """Return a name as Python 3 has it: pickles of protocols up to 2 have those of Python 2."""
    module, name = NAME_MAPPING.get((found.module, found.name), (found.module, found.name))
    return Global(IMPORT_MAPPING.get(module, module), name)


def _is_of_torch(found: Global) -> bool:
    """Whether torch.load takes a name with weights_only=True."""
    if found.module == "torch" and found.name in DTYPES:
        return True
    return any(re.fullmatch(pattern, str(found)) for pattern in _OF_TORCH)


def _is_safe(found: Global) -> bool:
    return _is_of_torch(found) or any(re.fullmatch(pattern, str(found)) for pattern in _PLAIN)
