"""A SavedModel of a checkpoint and the graph beside it, which serves as its own donor."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ckptkit.checkpoint.checkpoint import Checkpoint
from ckptkit.errors import UsageError
from ckptkit.operations.convert.plan import GraphToServe
from ckptkit.stores.registry import TENSOR_BUNDLE, files_at
from ckptkit.stores.saved_model.files import MODEL_FILE, VARIABLES
from ckptkit.stores.saved_model.meta_graph import served_graph
from ckptkit.wording import say


def graph_beside(source: Checkpoint) -> Path | None:
    """Return the `.meta` file that TensorFlow 1 wrote beside a checkpoint, if there is one."""
    path = source.store.path
    graph = path.with_name(f"{path.name}.meta")
    return graph if graph.is_file() else None


@contextmanager
def donor_of(
    graph: GraphToServe, source: Checkpoint, write_bundle: Callable[[Checkpoint, Path], object]
) -> Iterator[Path]:
    """Make a SavedModel of a graph and of the variables of SRC, for as long as it is needed.

    Args:
        graph: a MetaGraphDef in a file, and what goes in and comes out.
        source: the checkpoint; a tensor bundle is linked to, not copied.
        write_bundle: writes the tensors of a checkpoint of another form as a tensor bundle.

    Yields:
        Its directory.

    Raises:
        UsageError: SRC is no checkpoint.
        And what `served_graph` raises.
    """
    served = served_graph(graph.path, graph.inputs, graph.outputs)
    store = source.store
    if not store.style:
        raise UsageError(
            say("‹graph› goes with a checkpoint, whose variables have the names of the graph"),
            where=str(store.path),
        )
    with tempfile.TemporaryDirectory(prefix="ckptkit-graph-") as folder:
        donor = Path(folder) / graph.path.name
        (donor / VARIABLES.parent).mkdir(parents=True)
        (donor / MODEL_FILE).write_bytes(served.message)
        for file, name in served.assets.items():
            (donor / "assets").mkdir(exist_ok=True)
            shutil.copyfile(file, donor / "assets" / name)
        if store.format == TENSOR_BUNDLE:
            for file in filter(Path.is_file, files_at(TENSOR_BUNDLE, store.path)):
                end = file.name.removeprefix(store.path.name)
                link(file, (donor / VARIABLES).with_name(VARIABLES.name + end))
        else:
            write_bundle(source, donor / VARIABLES)
        yield donor


def link(file: Path, at: Path) -> None:
    """Let a file be found at another path too; it is copied where the system cannot link it."""
    try:
        at.hardlink_to(file)
    except OSError:
        shutil.copyfile(file, at)
