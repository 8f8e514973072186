"""One graph of a SavedModel that has several, as a SavedModel of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ckptkit._io.files import file_size, read_exact
from ckptkit.operations.convert.from_meta_graph import link
from ckptkit.stores.assets import check_copied
from ckptkit.stores.proto.messages import parse
from ckptkit.stores.saved_model.files import MODEL_FILE
from ckptkit.stores.saved_model.replaceable import FINGERPRINT


@contextmanager
def with_one_graph(model: Path, tags: Sequence[str]) -> Iterator[Path]:
    """Make a SavedModel of one graph of another, for as long as it is needed.

    Args:
        model: the directory of a SavedModel; its files are linked to, not copied.  The fingerprint
            is that of all graphs, so there is none.
        tags: of the graph; one has just these.

    Yields:
        Its directory.
    """
    check_copied(model)
    path = model / MODEL_FILE
    message = parse("RawSavedModel", read_exact(path, 0, file_size(path)), str(path))
    chosen = [graph for graph in message.meta_graphs if {*graph.meta_info_def.tags} == {*tags}]
    one = type(message)(saved_model_schema_version=message.saved_model_schema_version)
    one.meta_graphs.extend(chosen[:1])
    with tempfile.TemporaryDirectory(prefix="ckptkit-graph-") as folder:
        made = Path(folder) / model.name
        for file in filter(Path.is_file, model.rglob("*")):
            inside = file.relative_to(model)
            if str(inside) not in (MODEL_FILE, FINGERPRINT):
                (made / inside).parent.mkdir(parents=True, exist_ok=True)
                link(file, made / inside)
        made.mkdir(exist_ok=True)
        (made / MODEL_FILE).write_bytes(one.SerializeToString(deterministic=True))
        yield made
