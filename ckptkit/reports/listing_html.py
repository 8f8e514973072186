"""A listing as an HTML page: where the bytes are, every tensor, the tree of names, the layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ckptkit.operations.ls import Listing
from ckptkit.reports.file_head import file_of
from ckptkit.reports.listing import footer, path_text
from ckptkit.reports.page import frame
from ckptkit.reports.page.sections import column, listed, plain, table
from ckptkit.reports.screen import PAPER, shown_on
from ckptkit.reports.text import bytes_text, count_text, shape_text
from ckptkit.text import list_text, shortened

_STATISTICS = (
    *(("minimum", "min"), ("maximum", "max"), ("mean", "mean"), ("std", "std"), ("norm", "norm")),
)


def lines(listings: Sequence[Listing], refused: Sequence[str] = ()) -> Iterator[str]:
    """Yield the page of one or more listings.  refused: why other paths gave none."""
    made = page(listings, refused)
    return frame.lines(made, plain(made))


def page(listings: Sequence[Listing], refused: Sequence[str] = ()) -> frame.Page:
    """Return what the page shows."""
    with shown_on(PAPER):
        told = [(each, list(footer(each, with_path=False))) for each in listings]
    only = len(listings) == 1
    notes = [_note(each, line, only) for each, found in told for line in found[1:]]
    signatures = [text for kind, text in notes if kind == "signature"]
    problems = [("error", str(p)) for each in listings for p in each.problems]
    names = ", ".join(path_text(each).rpartition("/")[2] for each in listings[:3])
    sections = [*_pictures(), _tensors(listings), _tree(), *_layers(listings)]
    if signatures:
        sections.append(listed("signatures", "Signatures", signatures))
    return frame.Page(
        "ls",
        f"{names} · ckptkit ls",
        verdict=told[0][1][0] if only else _together(listings),
        tone="bad" if problems or refused else "note",
        notes=[
            *problems,
            *(("error", text) for text in refused),
            *_not_finite(listings),
            *(note for note in notes if note[0] != "signature"),
        ],
        files=[file_of(each.checkpoint) for each in listings[:4]],
        sections=sections,
    )


def _not_finite(listings: Sequence[Listing]) -> list[tuple[str, str]]:
    """Return a remark on the tensors that hold what is no number, where values were read."""
    names = [
        tensor.naming.name
        for listing in listings
        for tensor in listing.tensors
        if (one := (listing.statistics or {}).get(tensor.spec.key)) and one.n_nan + one.n_inf
    ]
    if not names:
        return []
    holding = "tensor holds" if len(names) == 1 else "tensors hold"
    told = list_text([shortened(name, 200) for name in names], 4)
    return [("warning", f"{len(names):,} {holding} NaN or infinite values: {told}")]


def _note(listing: Listing, line: str, only: bool) -> tuple[str, str]:
    """Return how severe a line of the footer is, and the line; "signature" where it is one."""
    kind = line.partition(":")[0]
    severity = kind if kind in ("warning", "note") else "note"
    if line.startswith("signature "):
        severity = "signature"
        line = line.removeprefix("signature ")
    return severity, line if only else f"{path_text(listing)}: {line}"


def _together(listings: Sequence[Listing]) -> str:
    total = {
        what: sum(each.totals[what] for each in listings) for what in ("tensors", "params", "bytes")
    }
    return (
        f"{count_text(len(listings), 'file')}: {count_text(total['tensors'], 'tensor')}, "
        f"{count_text(total['params'], 'param')}, {bytes_text(total['bytes'])}"
    )


def _pictures() -> list[frame.Section]:
    columns = {"of": "tensors", "name": "place", "bytes": "bytes", "role": "role"}
    return [{"kind": "treemap", "id": "bytes", "title": "Where the bytes are", **columns}]


def _tree() -> frame.Section:
    columns = {"of": "tensors", "name": "place", "bytes": "bytes", "role": "role"}
    return {"kind": "tree", "id": "tree", "title": "Tree of names", **columns}


def _tensors(listings: Sequence[Listing]) -> frame.Section:
    rows = [(listing, tensor) for listing in listings for tensor in listing.tensors]
    specs = [tensor.spec for _listing, tensor in rows]
    namings = [tensor.naming for _listing, tensor in rows]
    many = len(listings) > 1
    names = [naming.name for naming in namings]
    files = [path_text(listing) for listing, _tensor in rows]
    places = [f"{file}/{name}" for file, name in zip(files, names, strict=True)] if many else names
    shapes = [shape_text(spec.shape) for spec in specs]
    columns = [
        column("name", "name", names, "name"),
        *([column("file", "file", files, "mono", facet="select", minor=True)] if many else ()),
        column("dtype", "dtype", [s.dtype for s in specs], "mono", facet="select", minor=True),
        column("shape", "shape", shapes, "mono", by="params", minor=True),
        column("params", "params", [spec.size for spec in specs], "count", minor=True),
        column("bytes", "bytes", [spec.nbytes for spec in specs], "bytes"),
        column("role", "role", [naming.role for naming in namings], facet="select", minor=True),
        *_statistics(rows),
    ]
    hidden: list[tuple[str, str, list[Any], str]] = [
        ("place", "place", places, "mono"),
        ("slot", "slot of", [n.slot_of for n in namings], "mono"),
        ("repeats", "repeats", [n.duplicate_of for n in namings], "mono"),
        ("key", "key", [spec.key for spec in specs], "mono"),
        ("full_name", "full name", [n.full_name or None for n in namings], "mono"),
        ("aliases", "other paths", ["; ".join(n.aliases) or None for n in namings], "mono"),
        ("shard", "shard", [spec.shard for spec in specs], "count"),
        ("offset", "offset", [spec.offset for spec in specs], "count"),
        ("crc32c", "crc32c", [s.crc32c and f"{s.crc32c:08x}" for s in specs], "mono"),
        ("slices", "slices", [len(spec.slices) or None for spec in specs], "count"),
    ]
    searched = ("key", "full_name", "aliases")
    columns += [column(*each, hidden=True, searched=each[0] in searched) for each in hidden]
    return table("tensors", "Tensors", columns, "tensor", main=True)


def _statistics(rows: Sequence[tuple[Listing, Any]]) -> list[dict[str, Any]]:
    """Return columns of values, where they were read."""
    if all(listing.statistics is None for listing, _tensor in rows):
        return []
    found = [(listing.statistics or {}).get(tensor.spec.key) for listing, tensor in rows]

    def of(key: str, title: str, cells: list[Any]) -> dict[str, Any]:
        return column(key, title, cells, "number", minor=True)

    return [
        *(
            of(key, title, [getattr(one, key) if one is not None else None for one in found])
            for key, title in _STATISTICS
        ),
        of("zeros", "zeros", [one.n_zero if one is not None else None for one in found]),
        of("nan", "nan", [one.n_nan + one.n_inf if one is not None else None for one in found]),
    ]


def _layers(listings: Sequence[Listing]) -> list[frame.Section]:
    if len(listings) != 1 or listings[0].filtered or listings[0].checkpoint.subtree:
        return []
    model = listings[0].checkpoint.store.model
    if model is None or not model.layers:
        return []
    layers = model.layers
    shapes = [None if x.output_shape is None else shape_text(x.output_shape) for x in layers]
    columns = [
        column("name", "layer", [layer.name for layer in layers], "name"),
        column("class", "class", [layer.class_name for layer in layers], "mono", facet="select"),
        column("output", "output", shapes, "mono", minor=True),
        column("params", "params", [layer.params for layer in layers], "count"),
    ]
    if any(layer.flag for layer in layers):
        columns.append(column("flag", "note", [layer.flag or None for layer in layers], minor=True))
    return [table("layers", "Layers", columns, "layer")]
