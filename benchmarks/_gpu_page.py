"""The page that `benchmarks.gpu` writes of its results.  Needs nothing but Python."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks._gpu_rows import COMPARED, NAMES, NOT_RUN, RUNTIMES, WITHIN

Result = Mapping[str, Any]
_HEAD = """# On a GPU

What TensorFlow recorded on a CPU, checked on `{device}`: four reference models, wider than they are
as fixtures, with TensorFlow and with Keras on JAX and PyTorch. `python -m benchmarks.gpu` (`make
gpu`) measures it and writes this page; its docstring has the command lines, also for a machine
without a network. The numbers are in [gpu.json](gpu.json)."""
_NO_GPU = """- **Nothing ran on a GPU**: none was at hand. The numbers below are of `{device}`, and
  show that the script does what it says. What GPUs and TensorFloat-32 need of the tiers is not
  known."""
_HOW = """A cell is the tolerance that the worst output of a row needed: the least t with
`|new - ref| <= t * s + t * |ref|`, s being the root mean square of the reference. **Bold** is
beyond [its tier](check.md#how-far-apart-outputs-may-be)."""


def page(results: Result) -> str:
    """Return the page, in Markdown: first what was not run, then what was found.

    results: as `benchmarks.gpu.Measuring.to_json` has them.
    """
    found = {row["key"]: row for row in results["rows"]}
    parts = [
        _HEAD.format(device=results["device"]),
        "\n".join(_not_run(results["device"], found.values())),
        "\n".join(_environments(results, found.values())),
    ]
    if any(row["outcome"] in COMPARED for row in found.values()):
        parts += ["## Measured", _HOW, "\n".join(_measured(found)), "\n".join(_tiers(found))]
    parts.append("\n".join(_faults(found.values())))
    return "\n\n".join(part for part in parts if part) + "\n"


def _not_run(device: str, found: Iterable[Result]) -> Iterator[str]:
    """Yield what was not run, by runtime and reason."""
    yield "**Not run**"
    yield ""
    if not device.upper().startswith("GPU"):
        yield _NO_GPU.format(device=device)
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in found:
        if row["outcome"] == NOT_RUN:
            runtime, _, rest = row["key"].partition(" ")
            reasons.setdefault((runtime, row["why"]), []).append(rest)
    for (runtime, why), keys in reasons.items():
        what = ", ".join(keys) if len(keys) <= 4 else f"{len(keys)} rows"
        yield f"- `{runtime}`: {what}: {why}"
    if device.upper().startswith("GPU") and not reasons:
        yield "- nothing: every row ran"


def _environments(results: Result, found: Iterable[Result]) -> Iterator[str]:
    """Yield what recorded, and what ran."""
    yield "**Recorded** on a CPU by " + _versions(results["recorded_with"])
    seen = set()
    for row in found:
        environment = (row["run"] or {}).get("environment")
        if environment and environment["runtime"] not in seen:
            seen.add(environment["runtime"])
            yield ""
            yield (
                f"**`{environment['runtime']}`** on {environment['device_name']}: "
                f"{_versions(environment['versions'])}"
            )


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {text}" for name, text in versions.items())


def _measured(found: Mapping[str, Result]) -> Iterator[str]:
    """Yield a table with a row per way and model, and a column per runtime that ran."""
    runtimes = [name for name in RUNTIMES if any(_ran(found, name, row) for row in found)]
    ways = list(dict.fromkeys(_split(key)[2] for key in found))
    table = []
    for way in ways:
        for name in NAMES:
            rows = [found.get(f"{runtime} {name} {way}") for runtime in runtimes]
            if any(rows):
                table.append([way, name, *map(_cell, rows)])
    yield from _table(["", "model", *(f"`{name}`" for name in runtimes)], table)


def _split(key: str) -> tuple[str, str, str]:
    runtime, model, way = key.split(" ", 2)
    return runtime, model, way


def _ran(found: Mapping[str, Result], runtime: str, key: str) -> bool:
    return key.startswith(f"{runtime} ") and found[key]["outcome"] in COMPARED


def _cell(row: Result | None) -> str:
    if row is None:
        return ""
    if row["outcome"] not in COMPARED:
        return str(row["outcome"])
    worst = _worst(row)
    text = f"{_number(worst['needed'])} ({worst['tier']})"
    return text if row["outcome"] == WITHIN else f"**{text}**"


def _worst(row: Result) -> Result:
    """Return the output that is nearest to its tolerance, or furthest beyond."""
    outputs: Sequence[Result] = row["outputs"]
    return max(outputs, key=lambda item: (not item["ok"], _share(item)))


def _share(output: Result) -> float:
    needed, allowed = output["needed"], output["atol"]
    return float("inf") if needed is None or not allowed else float(needed) / float(allowed)


def _number(value: Any) -> str:
    return f"{float(value):.1e}" if value is not None else "?"


def _tiers(found: Mapping[str, Result]) -> Iterator[str]:
    """Yield a table of what each tier allows, and the most that was needed of it."""
    groups: dict[tuple[str, float, float], list[tuple[float, str]]] = {}
    for key, row in found.items():
        for item in row["outputs"] if row["outcome"] in COMPARED else ():
            bound = (item["tier"], item["atol"], item["rtol"])
            needed = float("inf") if item["needed"] is None else float(item["needed"])
            groups.setdefault(bound, []).append((needed, key))
    table = []
    for (tier, atol, rtol), needs in sorted(groups.items()):
        most, key = max(needs)
        table.append([tier, f"{atol:g} / {rtol:g}", str(len(needs)), _number(most), key])
    yield from _table(["tier", "allowed (atol / rtol)", "outputs", "most needed", "by"], table)


def _faults(found: Iterable[Result]) -> Iterator[str]:
    """Yield what failed, or is beyond its tolerance, with what was said of it."""
    faults = [row for row in found if row["outcome"] not in (WITHIN, NOT_RUN)]
    if faults:
        yield "## Not as it should be"
        yield ""
    for row in faults:
        yield f"- `{row['key']}`: {row['outcome']}: {row['why']}"


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(headers)} |"
    yield f"|{'---|' * len(headers)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
