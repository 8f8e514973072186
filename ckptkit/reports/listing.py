"""A listing in every form: table, tree, patterns, and the footer that sums it up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ckptkit.checkpoint.selection import Tensor
from ckptkit.operations.ls import SCHEMA, Listing
from ckptkit.reports.fitting import Fit
from ckptkit.reports.screen import folded, toned
from ckptkit.reports.table import render
from ckptkit.reports.tensor_rows import columns, csv_lines, json_rows, role_text, rows
from ckptkit.reports.text import (
    bytes_text,
    count_text,
    line_text,
    markdown_text,
    printable,
    shape_text,
)
from ckptkit.results import Document
from ckptkit.stores.base import Signature
from ckptkit.stores.registry import can_be_cut, format_of
from ckptkit.text import list_text, natural

_LAYERS_FIT = Fit(names=("LAYER", "CLASS"), drops=("OUTPUT", "PARAMS"))
MAX_TREE_DEPTH = 100  # levels; what is deeper stays one name


def several(
    listings: Iterable[Listing],
    fmt: str,
    layout: str = "short",
    depth: int | None = None,
    refused: Callable[[], Sequence[str]] = tuple,
) -> Iterator[str]:
    """Yield several listings, one after the other; options as those of `lines` and `tree`.

    JSON (schema ckptkit.ls/2), JSON lines and CSV (whose first column is the path) are one
    document.  refused: asked in the end, why other paths gave none.
    """
    if fmt in ("json", "jsonl"):
        yield from _for_programs(listings, fmt, refused)
        return
    for number, listing in enumerate(listings):
        path = path_text(listing)
        if fmt == "csv":
            yield from csv_lines(listing, layout, path, headed=number == 0)
            continue
        if number:
            yield ""
        if layout == "tree":
            yield from tree(listing, depth)
        else:
            yield f"## {markdown_text(path)}" if fmt == "markdown" else f"{printable(path)}:"
            yield from [""] if fmt == "markdown" else []
            yield from lines(listing, fmt, layout)


def _for_programs(
    listings: Iterable[Listing], fmt: str, refused: Callable[[], Sequence[str]]
) -> Iterator[str]:
    from ckptkit.reports import documents  # here, since `ls` starts sooner without

    if fmt == "json":
        return documents.json_results(SCHEMA, listings, refused, _json_rows)
    return documents.jsonl_lines(listings)


def _json_rows(listing: Document) -> Iterable[str] | None:
    """Return the rows of a listing as JSON, where they are put together from parts."""
    assert isinstance(listing, Listing)
    return json_rows(listing.tensors) if listing.statistics is None else None


def path_text(listing: Listing) -> str:
    """Return what was listed: the file, and the part of it."""
    subtree = listing.checkpoint.subtree
    return f"{listing.checkpoint.path}" + (f"#{subtree}" if subtree else "")


def lines(
    listing: Listing, fmt: str, layout: str = "short", *, with_path: bool = True
) -> Iterator[str]:
    """Yield a listing in `fmt`; layout: "short", "long", "patterns" or "values".

    with_path: whether the footer names the file.
    """
    if fmt in ("json", "jsonl"):
        yield from several([listing], fmt, layout)
        return
    if fmt == "csv":
        yield from csv_lines(listing, layout)
        return
    headers, align, fit = columns(layout)
    yield from render(rows(listing, layout), headers, fmt, align, fit)
    yield ""
    yield from remarks(listing, fmt, with_path=with_path)


def layout_of(listing: Listing) -> str:
    """Return the layout that shows all that was asked for."""
    return "short" if listing.statistics is None else "values"


def remarks(listing: Listing, fmt: str = "table", *, with_path: bool = True) -> Iterator[str]:
    """Yield what stands below the table: the layers, and the footer.  See `lines`."""
    yield from _layers(listing, fmt)
    bullet = "- " if fmt == "markdown" else ""
    text = (toned(bullet + line_text(line, fmt)) for line in footer(listing, with_path=with_path))
    yield from text if fmt == "markdown" else folded(text)


def bare_table(
    listings: Sequence[Listing], fmt: str, layout: str = "short", *, with_path: bool = False
) -> Iterator[str]:
    """Yield the tensors of all listings as one table and nothing else.

    fmt: "table:NAME".  layout: "short", "long" or "patterns".  with_path: a first column for it.
    """
    headers, align, _ = columns(layout)
    cells = [
        (path_text(listing), *row) if with_path else row
        for listing in listings
        for row in rows(listing, layout)
    ]
    if with_path:
        headers, align = ("PATH", *headers), ("left", *align)
    yield from render(cells, headers, fmt, align)


# --- tree -------------------------------------------------------------------------------------


def tree(listing: Listing, depth: int | None, *, with_path: bool = True) -> Iterator[str]:
    """Yield the names as a tree, each branch with its totals; `depth` cuts it off below."""
    root: dict[str, Any] = {}
    for tensor in listing.tensors:
        branch = root
        *path, leaf = tensor.naming.name.split("/", MAX_TREE_DEPTH)
        for part in path:
            branch = branch.setdefault(part + "/", {})
        branch[leaf] = tensor
    top = listing.checkpoint.path if with_path else "."
    yield printable(f"{top}  {_branch_text(root)}")
    yield from _branches(root, "", depth)
    yield ""
    yield from remarks(listing, with_path=with_path)


def _branches(branch: dict[str, Any], indent: str, depth: int | None) -> Iterator[str]:
    items = sorted(branch.items(), key=lambda item: natural(item[0]))
    for index, (name, node) in enumerate(items):
        is_last = index == len(items) - 1
        stem = indent + ("└── " if is_last else "├── ")
        if isinstance(node, dict):
            yield printable(f"{stem}{name}  {_branch_text(node)}")
            if depth is None or depth > 1:
                below = indent + ("    " if is_last else "│   ")
                yield from _branches(node, below, depth and depth - 1)
        else:
            yield printable(
                f"{stem}{name}  {node.spec.dtype} [{shape_text(node.spec.shape)}]"
                + ("" if role_text(node) == "weight" else f" ({role_text(node)})")
            )


def _branch_text(branch: dict[str, Any]) -> str:
    tensors = list(_leaves(branch))
    nbytes = bytes_text(sum(t.spec.nbytes for t in tensors))
    return f"({count_text(len(tensors), 'tensor')}, {nbytes})"


def _leaves(branch: dict[str, Any]) -> Iterator[Tensor]:
    for node in branch.values():
        if isinstance(node, dict):
            yield from _leaves(node)
        else:
            yield node


# --- footer -----------------------------------------------------------------------------------


def footer(listing: Listing, *, with_path: bool = True) -> Iterator[str]:
    """Yield what a person asks next: how much, of what, from whom, and what is odd."""
    store = listing.checkpoint.store
    totals = listing.totals
    hidden = ""
    if listing.hidden:
        records = count_text(listing.hidden, "record")
        hidden = f" (not listed: {records} of TensorFlow's own, see --all)"
    yield (
        f"{count_text(totals['tensors'], 'tensor')}{hidden}, "
        f"{count_text(totals['params'], 'param')}, {bytes_text(totals['bytes'])}"
    )
    roles = totals["by_role"]
    if len(roles) > 1:
        parts = [
            f"{role} {bytes_text(row['bytes'])} ({row['tensors']})" for role, row in roles.items()
        ]
        yield f"by role: {', '.join(parts)}; model-only size {bytes_text(totals['model_bytes'])}"
    if len(totals["dtypes"]) > 1:
        yield "dtypes: " + ", ".join(f"{name} ×{n}" for name, n in totals["dtypes"].items())
    if totals["stored_twice"]:
        yield (
            f"stored twice: {count_text(totals['stored_twice'], 'tensor')}, "
            f"{bytes_text(totals['stored_twice_bytes'])} wasted"
        )
    about = [store.format + (f", {store.style}" if store.style else "")]
    if len(store.shards) > 1 or (store.shards and can_be_cut(format_of(store.format))):
        present = len(store.shards) - len(store.missing_shards)
        about.append(f"shards {present}/{len(store.shards)}")
    if store.producer:
        about.append(f"written by {printable(store.producer)}")
    path = f"{printable(str(store.path))}: " if with_path else ""
    yield f"{path}{', '.join(about)}"
    yield from _model_lines(listing)
    for part, digest in listing.digests.items():
        yield f"{part} {digest or 'none'}"
    for note in listing.checkpoint.notes:
        yield f"note: {printable(note)}"
    if totals["only_through_optimizer"]:
        yield (
            f"warning: {count_text(totals['only_through_optimizer'], 'weight')} reachable only "
            "through an optimizer: a checkpoint of the model alone would lack them "
            "(Keras 3 does not track layers held in a plain list or dict)"
        )
    if totals["slots_without_variable"] and store.style == "object-based":
        untied = count_text(totals["slots_without_variable"], "optimizer slot")
        if listing.slots_of_missing_weights:
            yield (
                f"warning: {untied} without a variable that could be told: weights may be missing "
                "from this file"
            )
        else:
            yield f"note: {untied} whose variables cannot be told: several fit by name and shape"


def _model_lines(listing: Listing) -> Iterator[str]:
    model = listing.checkpoint.store.model
    if model is None:
        return
    for signature in listing.signatures:
        if signature.key == "__saved_model_init_op":  # TensorFlow's own, not for callers
            continue
        yield printable(_signature_text(signature, with_tags=len(model.tags) > 1))
    for tags in model.tags:
        yield f"tags: {printable(', '.join(tags))}"
    if model.assets:
        yield f"assets: {printable(', '.join(model.assets))}"
    for kind in ("unsafe", "custom"):
        flagged = [layer.name for layer in model.layers if layer.flag.startswith(kind)]
        if flagged:
            what = _FLAGS[kind].format(count_text(len(flagged), "layer"))
            yield printable(f"warning: {what}: {list_text(flagged, 8)}")
    for note in model.notes:
        yield f"note: {printable(note)}"


_FLAGS = {
    "unsafe": "{} can run code or read files when the model is loaded",
    "custom": "{} of a custom class, which loading needs",
}


def _layers(listing: Listing, fmt: str) -> Iterator[str]:
    """Yield the table of layers and an empty line; nothing without layers, or with a filter."""
    model = listing.checkpoint.store.model
    if model is None or not model.layers or listing.filtered or listing.checkpoint.subtree:
        return
    cells = [
        (
            layer.name,
            layer.class_name,
            "" if layer.output_shape is None else shape_text(layer.output_shape),
            "" if layer.params is None else f"{layer.params:,}",
            layer.flag,
        )
        for layer in model.layers
    ]
    kept = [index for index in range(5) if index == 0 or any(row[index] for row in cells)]
    headers = [("LAYER", "CLASS", "OUTPUT", "PARAMS", "FLAG")[index] for index in kept]
    align = ["right" if header == "PARAMS" else "left" for header in headers]
    shown = [[row[index] for index in kept] for row in cells]
    yield from render(shown, headers, fmt, align, _LAYERS_FIT)
    yield ""


def _signature_text(signature: Signature, *, with_tags: bool) -> str:
    defaults = {name: f" = {text}" for name, text in signature.defaults}
    inputs = ", ".join(_tensor_text(*item) + defaults.get(item[0], "") for item in signature.inputs)
    outputs = ", ".join(_tensor_text(*item) for item in signature.outputs)
    graph = f" of {', '.join(signature.tags) or 'no tags'}" if with_tags else ""
    return f"signature {signature.key}{graph}({inputs}) -> {outputs or 'nothing'}"


def _tensor_text(name: str, dtype: str, shape: tuple[int | None, ...] | None) -> str:
    return f"{name}: {dtype}[{'unknown' if shape is None else shape_text(shape)}]"
