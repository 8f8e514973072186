"""Upgrading one model: translate its config, build it in Keras 3, move the weights, prove it.

1. the config is translated by rules, here; what has no counterpart stops it;
2. a child process builds the model in the installed Keras 3 and writes it, with new weights;
3. the weights of the old file go into that, under all the rules of `convert`, and are read
   again and compared bit for bit;
4. the new file is loaded by a fresh process in safe mode, and run beside the old one.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ckptkit.checkpoint.checkpoint import open as open_checkpoint
from ckptkit.errors import UsageError
from ckptkit.operations.convert import write as _write
from ckptkit.operations.convert.destination import (
    Target,
    refuse_existing,
    refuse_nested,
    target_of,
)
from ckptkit.operations.convert.plan import Plan
from ckptkit.operations.convert.problems import MismatchError
from ckptkit.operations.convert.proof import prove
from ckptkit.operations.convert.receipt import package_versions
from ckptkit.operations.convert.second_look import DiskReading
from ckptkit.operations.execution.inputs import InputOptions
from ckptkit.operations.input_files import files_read, refuse_inputs
from ckptkit.operations.upgrade.old_layouts import in_new_layout
from ckptkit.operations.upgrade.outputs import Comparing, OutputsCompared, new_runner
from ckptkit.operations.upgrade.read_by_embeddings import ranges_of_embeddings
from ckptkit.operations.upgrade.report import UpgradeReceipt, UpgradeRefusedError
from ckptkit.operations.upgrade.source import OldModel, read_old_model
from ckptkit.operations.upgrade.translation.account import Account, Obstacle, Scaling
from ckptkit.operations.upgrade.translation.keras1 import as_keras2
from ckptkit.operations.upgrade.translation.models import NotAModelError, translate
from ckptkit.operations.upgrade.weights import plan_weights
from ckptkit.runners.client import send
from ckptkit.runners.errors import RunnerError
from ckptkit.runners.spec import RunnerSpec
from ckptkit.runners.types import Limits, ModelSpec
from ckptkit.stores.registry import KERAS, SAVED_MODEL, format_of
from ckptkit.wording import say

KERAS_3, SAVED = KERAS, SAVED_MODEL


@dataclass(frozen=True)
class UpgradeOptions:
    """How to upgrade; the fields are the keywords of `ckptkit.upgrade`."""

    to: str = KERAS_3
    imports: tuple[str, ...] = ()
    trust: bool = False
    inputs: InputOptions = field(default_factory=InputOptions)
    overwrite: bool = False
    timeout_s: float = 600.0


def upgrade_model(source: Path, dst: Path, options: UpgradeOptions) -> UpgradeReceipt:
    """Upgrade one model.

    Args:
        source: the old file.
        dst: the new one.
        options: how.

    Raises:
        UpgradeRefusedError: something in it has no counterpart in Keras 3; nothing was written.
        MismatchError: its weights do not fit its own config.
        UsageError: it is no model, or one of Keras 3.
        RunnerError: the new model cannot be built or loaded.
        OutputError: DST exists already, or cannot be written.
        PathNotFoundError, UnsupportedError, FormatError, MissingDependencyError: as `ckptkit.open`.
    """
    suffix = suffix_of(options.to)
    if not dst.name.endswith(suffix):
        hint = say(f"‹to={SAVED}› writes a directory")
        raise UsageError(f"the name of the new model ends in {suffix}", where=str(dst), hint=hint)
    target = target_of(dst, SAVED_MODEL if options.to == SAVED else None, None)
    old = read_old_model(source)
    if old.generation >= 3:
        raise UsageError(
            f"written by Keras {old.writer} already: there is nothing to upgrade", where=str(source)
        )
    refuse_nested(target, [old.path], None)
    refuse_existing(target, options.overwrite)
    store = old.checkpoint.store
    refuse_inputs([target.path], (), [*files_read(store.format, store.path), *store.shards])
    account = Account(options.trust, old.vocabularies, is_keras1=old.generation == 1)
    runner = new_runner()
    with tempfile.TemporaryDirectory(prefix="ckptkit-upgrade-") as directory:
        scratch = Path(directory)
        return _Upgrading(old, target, options, account, runner, scratch).run()


@dataclass
class _Upgrading:
    """One upgrade under way.

    scratch: a directory that is gone afterwards.  versions: of what built the new model.
    ranges: what numbers of inputs are drawn within, where the model says it.
    """

    old: OldModel
    target: Target
    options: UpgradeOptions
    account: Account
    runner: RunnerSpec
    scratch: Path
    versions: Mapping[str, str] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def run(self) -> UpgradeReceipt:
        """Carry it out; see `upgrade_model`."""
        config = self._translated()
        if self.old.is_compiled:
            self.account.changed((), "how it was compiled is set aside: compile it again to train")
        self.ranges = ranges_of_embeddings(config)
        made = self.scratch / "made.keras"
        scalings = self._build(config, made)
        archive = Target(format_of(KERAS_3), self.target.path)
        plan = plan_weights(self._weights(), open_checkpoint(made), archive, scalings)
        if not plan.ok:
            raise MismatchError(plan.problems, str(self.old.path), plan.hints)
        return self._write(plan)

    def _weights(self) -> OldModel:
        """Return the old model with its weights in the layout of Keras 2."""
        old = self.old
        if not old.is_legacy or (old.generation > 1 and not old.is_theano):
            return old
        first = old.generation == 1
        config = as_keras2(old.config, Account(is_keras1=first))
        checkpoint = in_new_layout(old.checkpoint, config, is_keras1=first, is_theano=old.is_theano)
        if first:
            self.account.changed(
                (), "weights are in the layout of Keras 2, one array for all gates"
            )
        if old.is_theano:
            self.account.changed((), "kernels are turned around: Theano convolved with them")
        return replace(old, checkpoint=checkpoint)

    def _translated(self) -> dict[str, Any]:
        try:
            config = translate(self.old.config, self.account)
        except NotAModelError as error:
            raise UsageError(str(error), where=str(self.old.path)) from error
        self._refuse(self.account.obstacles)
        return config

    def _refuse(self, obstacles: list[Obstacle]) -> None:
        if not obstacles:
            return
        unknown = any("not in the file" in item.what for item in obstacles)
        code = any("Python code" in item.what for item in obstacles)
        hint = ""
        if unknown:
            hint = say("‹imports=MODULE› of Keras 3 code that defines and registers it")
        elif code:
            hint = say("‹trust› runs it, if you know where the file is from")
        raise UpgradeRefusedError(obstacles, str(self.old.path), hint)

    def _request(self, action: str, **more: object) -> dict[str, Any]:
        return {
            "action": action,
            "spec": asdict(self.runner),
            "options": {"imports": list(self.options.imports)},
            "trust": self.options.trust,
            **more,
        }

    def _build(self, config: dict[str, Any], made: Path) -> list[Scaling]:
        """Have a child build the model and write it, with weights that are yet to be given.

        Returns the variables whose values are multiplied on the way.
        """
        file = self.scratch / "config.json"
        file.write_text(json.dumps(config), encoding="utf-8")
        limits = Limits(self.options.timeout_s)
        request = self._request("revive", config=str(file), out=str(made))
        try:
            result = send(request, self.runner, limits)
        except RunnerError as error:
            raise RunnerError(
                f"Keras 3 does not build the model: {error.message}",
                kind=error.kind,
                where=str(self.old.path),
                hint=error.hint,
            ) from error
        self.versions = result["versions"]
        for where, what in result["dropped"]:
            self.account.changed(tuple(where.split("/")), what)
        self._refuse([Obstacle(where, what) for where, what in result["problems"]])
        layers = self.account.hard_sigmoids
        found = [Scaling(name, tuple(gates)) for name, gates in result["hard_sigmoids"]]
        if layers and not found:
            self._refuse([Obstacle(layers[0], "its hard_sigmoid is not found in the new model")])
        return found if layers else []

    def _write(self, plan: Plan) -> UpgradeReceipt:
        target = self.target
        with (
            _write.claimed(target) as claim,
            _write.staging(target, claim) as area,
            DiskReading() as disk,
        ):
            refuse_existing(target, self.options.overwrite)
            is_saved_model = target.format.is_directory
            archive = self.scratch / "new.keras" if is_saved_model else area.path
            _write.write(plan, archive)
            proof = prove(plan, archive)
            new = ModelSpec(format_of(KERAS_3).model_kind, archive, text=str(target.path))
            if is_saved_model and proof.ok:
                request = self._request("export_saved_model", file=str(archive), out=str(area.path))
                send(request, self.runner, Limits(self.options.timeout_s))
                new = ModelSpec(target.format.model_kind, area.path, text=str(target.path))
            disk.start(_write.files_of(area, target))
            outputs = (
                self._compare(new) if proof.ok else OutputsCompared(why_not="the proof failed")
            )
            receipt = UpgradeReceipt(
                source=self.old.path,
                path=target.path,
                writer=self.old.writer,
                changes=tuple(self.account.changes),
                plan=plan,
                proof=proof,
                outputs=outputs,
                versions={**package_versions(), **self.versions},
                notes=self._notes(),
                holds_code=self.account.holds_code,
            )
            if not receipt.ok:
                return replace(receipt, path=_write.reject(area, target))
            _write.commit(area, target, overwrite=self.options.overwrite, disk=disk)
        return receipt

    def _compare(self, new: ModelSpec) -> OutputsCompared:
        row = format_of(self.old.checkpoint.store.format)
        kind = row.model_kind or format_of(KERAS_3).model_kind  # a whole .h5 file is one, too
        old = ModelSpec(kind, self.old.path, text=os.fspath(self.old.path))
        options = self.options
        trust = options.trust and self.account.holds_code
        inputs = replace(options.inputs, ranges={**self.ranges, **options.inputs.ranges})
        why_not = "a layer is called as in training" if self.account.is_random else ""
        comparing = Comparing(inputs, options.imports, trust, options.timeout_s, why_not)
        runner = RunnerSpec() if self.target.format.is_directory else self.runner
        return comparing.compare(old, new, runner, self.scratch)

    def _notes(self) -> tuple[str, ...]:
        if not self.account.holds_code:
            return ()
        return ("it holds Python code: load_model(..., safe_mode=False) runs it",)


def suffix_of(to: str) -> str:
    """Return what the name of an upgraded model ends in; to: "keras" or "saved-model"."""
    return format_of(KERAS_3).suffixes[0] if to == KERAS_3 else ""
