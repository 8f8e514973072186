"""Whether two models compute the same, both in one process; imported in the child process alone.

`check` runs each model, for one signature, in a child of its own.  A conversion compares every
signature, and a live model that no file holds yet, on one machine: one child does it all.  What
describes and calls the models, draws their inputs and judges their outputs is what `check` uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptkit.errors import UnsupportedError, UsageError
from ckptkit.model_io.compare_outputs import compare_outputs
from ckptkit.model_io.random_inputs import candidate_inputs
from ckptkit.model_io.results import OutputResult
from ckptkit.model_io.tiers import Tier, tier_of
from ckptkit.runners.spec import RunnerSpec
from ckptkit.runners.tensorflow.build import load_keras
from ckptkit.runners.tensorflow.endpoints import CALL, calls_of
from ckptkit.runners.tensorflow.graph_session import GraphSession
from ckptkit.runners.tensorflow.restore import build, lost_weights, restore_into
from ckptkit.runners.tensorflow.session import LoadedModel, TensorFlowSession, open_saved_model
from ckptkit.stores.registry import KERAS, format_of

if TYPE_CHECKING:
    from ckptkit.dtypes import Array, Arrays

    Call = Callable[[Arrays], Arrays]
    OpenSession = TensorFlowSession | GraphSession

SEED = 20
SERVING = "serving_default"


def file_against_file(
    old: str, new: str, code: str | None = None, tags: Sequence[str] = ()
) -> dict[str, Any]:
    """Compare the signatures of two SavedModels, or how two models are called.

    code: builds the model of a file that holds weights alone; TensorFlow and Keras restore these
    by their own means.  tags: of the graph of the old one, where it has several.
    """
    try:
        one, other = _side(Path(old), code, tags), _side(Path(new), code)
        live = [CALL in side.loaded.endpoints for side in (one, other)]
        tier = _tier(one, other)
        if live == [True, False]:
            return _compared(list(_rows(SERVING, *_in_order(*_serving(one, other)), tier)))
        if live == [False, True]:
            there, here = _serving(other, one)
            there, here = _in_order(there, here)
            return _compared(list(_rows(SERVING, here, there, tier)))
        shared = sorted(set(one.loaded.endpoints) & set(other.loaded.endpoints))
        if not shared:
            return _not_compared("the two have no signature in common")
        rows = [row for key in shared for row in _rows(key, *_both(key, one, other), tier)]
    except UnsupportedError as error:
        return _not_compared(str(error))
    return _compared(rows)


def _side(path: Path, code: str | None, tags: Sequence[str] = ()) -> OpenSession:
    """Return a file's model: its own, or the one that code builds, with the file's weights."""
    if code is None or (path / "saved_model.pb").is_file():
        return _opened(path, tags)
    built = build(code)
    try:
        model = built.to_run()
        found = restore_into(built, path, None)
    except UsageError as error:
        raise UnsupportedError(str(error)) from error
    lost = lost_weights(built, found)
    if found["error"] or lost or found["by"] == "ckptkit":
        why = found["error"] or "neither of them loads such a file"
        if lost:
            why = f"{len(lost)} weights do not come back, {lost[0]} among them"
        raise UnsupportedError(f"{path.name} is not restored by TensorFlow and Keras alone: {why}")
    return _session(path, LoadedModel(calls_of(model, built.seen), model))


def live_against_file(model: Any, name: str, path: str) -> dict[str, Any]:
    """Compare a live model with the file that was written of it."""
    row = format_of(name)
    if not row.holds_model:
        return _not_compared(f"a {name} does not run")
    try:
        live, written = (
            _session(Path(path), LoadedModel(calls_of(model), model)),
            _opened(Path(path)),
        )
        if row.structure == KERAS:
            key, sides = CALL, _both(CALL, live, written)
        else:
            key, sides = SERVING, _in_order(*_serving(live, written))
        return _compared(list(_rows(key, *sides, _tier(live, written))))
    except UnsupportedError as error:
        return _not_compared(str(error))


def _not_compared(why: str) -> dict[str, Any]:
    return {"why_not": why}


def _compared(rows: list[dict[str, Any]]) -> dict[str, Any]:
    if not any(row["n"] or not row["ok"] for row in rows):
        return _not_compared("the outputs have no elements")
    return {"why_not": "", "rows": rows, "seed": SEED}


# -- the two models --------------------------------------------------------------------------------


def _opened(path: Path, tags: Sequence[str] = ()) -> OpenSession:
    if path.suffix in (".keras", ".h5"):
        model = load_keras(str(path))
        return _session(path, LoadedModel(calls_of(model), model))
    return open_saved_model(path, tags, RunnerSpec())


def _session(path: Path, loaded: LoadedModel) -> TensorFlowSession:
    return TensorFlowSession(RunnerSpec(), path, loaded)


def _tier(one: OpenSession, other: OpenSession) -> Tier:
    return tier_of(one.environment(), other.environment())


# -- running ---------------------------------------------------------------------------------------


def _both(key: str, old: OpenSession, new: OpenSession) -> tuple[Arrays, Arrays]:
    """Return what both give for inputs drawn by the old one's signature."""
    return _tried(key, old, _call(old, key), _call(new, key))


def _serving(live: OpenSession, written: OpenSession) -> tuple[Arrays, Arrays]:
    """Return what a live model gives, and what the signature that was written of it gives."""
    signature = written.loaded.endpoints.get(SERVING)
    if signature is None:
        raise UnsupportedError(f"the output has no signature {SERVING}")
    if len(live.loaded.endpoints) != 1:
        raise UnsupportedError("the model does not tell how it is called")
    (key, endpoint), *_ = live.loaded.endpoints.items()
    written_names = [info.name for info in signature.inputs or ()]
    live_names = [info.name for info in endpoint.inputs or ()]
    if len(written_names) > 1 and set(live_names) != set(written_names):
        raise UnsupportedError("the signature's inputs are not called as the model's")
    # a lone input is that of the other side, whatever it is called
    one_each = len(written_names) == len(live_names) == 1
    renames = dict(zip(written_names, live_names, strict=True)) if one_each else {}
    return _tried(SERVING, written, _call(live, key, renames), _call(written, SERVING))


def _call(session: OpenSession, key: str, names: Mapping[str, str] | None = None) -> Call:
    """Return what calls one side; names: its own for the inputs, where they differ."""
    renames = names or {}
    return lambda inputs: session.call(
        key, {renames.get(name, name): value for name, value in inputs.items()}
    )


def _tried(key: str, describing: OpenSession, old: Call, new: Call) -> tuple[Arrays, Arrays]:
    """Return both sides' outputs for the first inputs that the old side takes."""
    facts = describing.describe()
    if key not in facts.signatures:
        raise UnsupportedError("the model does not tell its inputs")
    optional = facts.optional.get(key, ())
    infos = [info for info in facts.signatures[key].inputs if info.name not in optional]
    failure: Exception | None = None
    try:
        for [inputs] in candidate_inputs(
            infos,
            seed=SEED,
            words=facts.words,
            int_high=facts.int_high,
            examples=facts.examples.get(key, {}),
        ):
            try:
                outputs = old(inputs)
            except Exception as error:  # a model may refuse any input, in any way
                failure = error
                continue
            return outputs, new(inputs)
    except Exception as error:
        failure = error
    line = (str(failure).splitlines() or [""])[0]
    raise UnsupportedError(
        f"{key} does not run on made-up inputs: {type(failure).__name__}: {line}"
    )


# -- judging ---------------------------------------------------------------------------------------


def _in_order(live: Arrays, written: Arrays) -> tuple[Arrays, Arrays]:
    """Return both sides' outputs by common names: the n-th is the n-th where names differ."""
    if set(live) == set(written) or len(live) != len(written):
        return live, written
    ordered = [written[name] for name in sorted(written, key=lambda name: (len(name), name))]
    return _numbered(list(live.values())), _numbered(ordered)


def _numbered(arrays: list[Array]) -> Arrays:
    return {f"output_{number}": array for number, array in enumerate(arrays)}


def _rows(key: str, old: Arrays, new: Arrays, tier: Tier) -> Iterator[dict[str, Any]]:
    """Yield the comparison of each output; one that is empty on both sides speaks against none."""
    for result in compare_outputs(old, new, tier.tolerance):
        ok = result.ok or result.status == "empty"
        yield {
            "output": f"{key}/{result.name}",
            "ok": ok,
            "n": result.n,
            "bits": ok and _same_bits(result, old[result.name], new[result.name]),
            "max_abs": result.max_abs,
            "rms": result.rms,
            "message": "" if ok else result.message,
        }


def _same_bits(result: OutputResult, old: Array, new: Array) -> bool:
    return result.status == "equal" if old.dtype.hasobject else old.tobytes() == new.tobytes()
