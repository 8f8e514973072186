"""The reference models as bases, and their mutants; to be called where TensorFlow may start."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import _mutant_code, _mutants
from benchmarks._mutants import Base, Mutant, Weight

MODELS = (
    *("mlp_module", "custom_layer", "subclassed", "list_of_blocks", "sequential"),
    *("functional_cnn", "multi_io", "recurrent", "transformer", "text_lookup"),
    *("mixed_precision", "partitioned_embedding", "gan", "training_directory", "mirrored"),
)
_NO_KERAS = ("mlp_module", "partitioned_embedding", "training_directory")
_SERVED = ("functional_cnn", "multi_io", "recurrent", "text_lookup", "mixed_precision")
_CODE = ("custom_layer", "subclassed", "list_of_blocks", "functional_cnn", "multi_io", "recurrent")
_WHOLE = ("gan", "text_lookup")  # checkpoints of several objects
_CODE_FILE = Path(_mutant_code.__file__)
_SEED = 77  # of the values that an unrestored layer has


def make(name: str, folder: Path) -> tuple[list[Base], list[Mutant]]:
    """Make a reference model and its mutants below `folder`."""
    from ckptkit import fixtures

    source = folder / "fixture"
    fixtures.make(name, source)
    making = _Making(name, source, folder)
    if name not in _NO_KERAS:
        making.keras_file()
    if name in ("mlp_module", "text_lookup", "partitioned_embedding"):
        making.saved_model()
    if name in _SERVED:
        making.served()
    if name in _CODE:
        making.code()
    if name in _WHOLE:
        making.whole()
    if name == "training_directory":
        making.directory()
    return making.bases, making.mutants


class _Making:
    blamed: tuple[bool | None, bool | None] = (None, None)  # peers that blame the sound model
    root = ""  # name of the model, with which paths of its variables may begin

    def __init__(self, name: str, source: Path, folder: Path) -> None:
        self.name, self.source, self.folder = name, source, folder
        self.bases: list[Base] = []
        self.mutants: list[Mutant] = []
        module = {"training_directory": "sequential", "mirrored": "sequential"}.get(name, name)
        self.fixture = module
        self.module = import_module(f"ckptkit.fixtures.models.{module}")
        self.imports = (f"ckptkit.fixtures.models.{module}",)

    def _path(self, kind: str, suffix: str = "") -> Path:
        return self.folder / f"{kind}-{len(self.mutants)}{suffix}"

    # --- .keras -----------------------------------------------------------------------------------

    def keras_file(self) -> None:
        """Damage weights and settings of `model.keras`."""
        import keras
        import numpy as np

        model = self.source / "model.keras"
        base = Base("keras", "keras", str(model), None, self.imports)
        self.bases.append(base)
        live = keras.models.load_model(model, compile=False)
        spare = keras.models.load_model(model, compile=False)
        self.root = live.name
        sound = {w.path: np.array(w) for w in live.weights}
        keras.utils.set_random_seed(_SEED)
        new = self.module.Gan().generator if self.name == "gan" else self.module.build()
        first = {w.path: np.array(f) for w, f in zip(live.weights, new.weights, strict=True)}
        parts = {path: self._parts(path) for path in sound}
        weights = [Weight(p, parts[p][-1], "", p.rpartition("/")[2], v) for p, v in sound.items()]
        for kind, values, targets in _mutants.damages(weights, first):
            out = self._path(kind, ".keras")
            self._assign(live, {**sound, **values})
            live.save(out)
            inside = parts[next(iter(values))]
            self._add(kind, base, out, targets, inside, *self._peers(live, spare, out))
        self._assign(live, sound)
        self._twins(base, live)
        again = Path(base.twins["saved again (.keras)"])
        blamed = self._peers(live, spare, again)
        for mutant in self.mutants:  # a peer that blames the sound model too has found nothing
            mutant.asserts = None if blamed[0] else mutant.asserts
            mutant.editor = None if blamed[1] else mutant.editor
        self.blamed = blamed
        self._settings(base, again, spare)
        if self.name == "transformer":
            self._averaged(base, model, live, spare)
        if self.name != "gan":
            self._later(base, model, live, spare)

    @staticmethod
    def _assign(model: Any, values: Mapping[str, Any]) -> None:
        for w in model.weights:
            w.assign(values[w.path])

    def _parts(self, path: str) -> tuple[str, ...]:
        """Return the layers around a variable, the innermost last; cells of an RNN left out."""
        found = [part for part in path.split("/")[:-1] if not part.endswith("_cell")]
        return tuple(found[1:] if len(found) > 1 and found[0] == self.root else found)

    def _peers(self, live: Any, reference: Any, file: Path) -> tuple[bool | None, bool | None]:
        asserts = None if self.blamed[0] else _asserts(live, reference, self.folder)
        return asserts, None if self.blamed[1] else _editor(file, reference)

    def _add(
        self, kind: str, base: Base, out: Path, targets: tuple[str, ...],
        inside: tuple[str, ...] = (), asserts: bool | None = None, editor: bool | None = None,
        model: str | None = None,
    ) -> None:  # fmt: skip
        self.mutants.append(
            Mutant(
                kind, base.name, str(out), targets,
                inside=inside, model=model, asserts=asserts, editor=editor,
            )
        )  # fmt: skip

    def _settings(self, base: Base, model: Path, spare: Any) -> None:
        import keras

        for kind, config, targets in _mutants.settings(_mutants.config_of(model)):
            out = self._path(kind, ".keras")
            _mutants.with_config(model, out, config)
            live = keras.models.load_model(out, compile=False)
            self._add(kind, base, out, targets, targets[:1], *self._peers(live, spare, out))

    def _averaged(self, base: Base, model: Path, live: Any, spare: Any) -> None:
        import keras

        trained = keras.models.load_model(model)
        for variable, average in zip(
            trained.trainable_variables,
            trained.optimizer._model_variables_moving_average,
            strict=True,
        ):
            variable.assign(average)
        out = self._path("average", ".keras")
        self._assign(live, {w.path: w.numpy() for w in trained.weights})
        live.save(out)
        owners = ("averages",)  # of all layers
        self._add("average", base, out, owners, (), *self._peers(live, spare, out))

    def _later(self, base: Base, model: Path, live: Any, spare: Any) -> None:
        """The same run, three epochs later: another checkpoint of it."""
        import keras

        later = keras.models.load_model(model)
        later.fit(*self.module.examples(), epochs=3, verbose=0, shuffle=False)
        out = self._path("later", ".keras")
        self._assign(live, {w.path: w.numpy() for w in later.weights})
        live.save(out)
        owners = {self._parts(w.path)[-1] for w in later.trainable_variables}
        self._add("later", base, out, tuple(owners), (), *self._peers(live, spare, out))

    def _twins(self, base: Base, live: Any) -> None:
        """Unmodified re-saves and conversions."""
        import ckptkit

        base.twins["saved again (.keras)"] = str(self.folder / "again.keras")
        live.save(base.twins["saved again (.keras)"])
        legacy = self.source / "model.h5"
        if legacy.exists():
            import keras

            base.twins["through legacy .h5"] = str(self.folder / "legacy.keras")
            keras.models.load_model(legacy, compile=False).save(base.twins["through legacy .h5"])
        out = self.folder / "converted.keras"
        ckptkit.convert(
            self.source / "model.weights.h5", out, to="keras", like=base.path, weights_only=True
        )
        base.twins["converted from .weights.h5"] = str(out)
        if (self.source / "export").exists() and self.name != "list_of_blocks":
            base.twins["exported (SavedModel)"] = str(self.source / "export")

    # --- SavedModels ------------------------------------------------------------------------------

    def saved_model(self) -> None:
        """Damage weights and files of the SavedModel as it is on disk."""
        import tensorflow as tf

        model = self.source / "saved_model"
        base = Base("saved_model", "saved_model", str(model))
        self.bases.append(base)
        for kind, values, targets in _mutants.damages(_mutants.weights_of(model), {}):
            out = self._path(kind)
            _mutants.rewritten(model, out, values)
            self._add(kind, base, out, targets, targets[:1])
        if self.name == "text_lookup":
            out = self._path("vocabulary")
            self._add("vocabulary", base, out, (_mutants.dropped_line(model, out),))
        base.twins["saved again"] = str(self.folder / "again")
        if self.name == "mlp_module":
            tf.saved_model.save(tf.saved_model.load(str(model)), base.twins["saved again"])
        else:
            shutil.copytree(model, base.twins["saved again"])

    def served(self) -> None:
        """Export with preprocessing, sound and damaged."""
        import keras
        import numpy as np
        import tensorflow as tf

        model = keras.models.load_model(self.source / "model.keras", compile=False)
        x = self.module.examples()[0]
        example = x if isinstance(x, dict) else {model.inputs[0].name: x}
        plain = {
            k: np.zeros(1, "i4") if isinstance(v, tf.Tensor) else v for k, v in example.items()
        }

        def save(out: Path, **change: Any) -> None:
            module, signatures = _mutant_code.served(model, plain, **change)
            tf.saved_model.save(module, str(out), signatures=signatures)

        base = Base("served", "saved_model", str(self.folder / "served"))
        self.bases.append(base)
        save(Path(base.path))
        base.twins["exported again"] = str(self.folder / "served-again")
        save(Path(base.twins["exported again"]))
        for kind, change, targets in self._served_changes(model, plain):
            out = self._path(kind)
            save(out, **change)
            self._add(kind, base, out, targets)

    def _served_changes(
        self, model: Any, example: Mapping[str, Any]
    ) -> Iterator[tuple[str, dict[str, Any], tuple[str, ...]]]:
        first = model.inputs[0].name
        floats = [name for name, value in example.items() if value.dtype.kind == "f"]
        outputs = list(model.output) if isinstance(model.output, dict) else ["logits"]
        yield "inputs", {"names": {first: f"{first}_2"}}, (first, f"{first}_2")
        yield "dtype", {"dtype": "float16"}, (outputs[0],)
        if floats:
            yield "times255", {"factor": 255.0}, ("255",)
            yield "constant", {"shift": 1.5}, ("captured constant",)
        if len(outputs) > 1:
            yield "outputs", {"turned": True}, tuple(outputs)
        else:
            yield "softmax", {"axis": 0}, ("probabilities",)
        if self.name == "functional_cnn":
            yield "training", {"training": True}, (outputs[0],)

    # --- code and its checkpoint ------------------------------------------------------------------

    def _code(self, **change: str) -> str:
        return f"{_CODE_FILE}:build?{json.dumps({'fixture': self.fixture, **change})}"

    def code(self) -> None:
        """Restore the fixture's checkpoint into its code, and into damaged code."""
        import keras

        prefix = self.source / "ckpt"
        base = Base("code", "code", str(prefix), self._code())
        self.bases.append(base)
        model = self.module.build()
        layer = _mutant_code.activated(model)
        if layer:
            code = self._code(change="activation", layer=layer)
            found = _restored(_mutant_code.build(self.fixture, "activation", layer), prefix)
            self._add("code", base, prefix, (layer,), (layer,), found, None, code)
        if self.name == "functional_cnn":
            code = self._code(change="dropout")
            found = _restored(_mutant_code.build(self.fixture, "dropout"), prefix)
            self._add("dropout", base, prefix, (), (), found, None, code)
        self._optimizer_only(base, prefix)
        self._absent(base, prefix)
        if self.name == "list_of_blocks":
            bare = self.source / "ckpt_without_optimizer"
            fresh = self.module.Stack(name="stack")
            fresh(self.module.examples()[0][:1])
            names = tuple(block.name for block in fresh.blocks)
            found = _restored(fresh, bare)
            self._add("list", base, bare, names, (), found, None, base.model)
        keras.backend.clear_session()

    def _optimizer_only(self, base: Base, prefix: Path) -> None:
        """Restore the optimizer alone, and save the model: what a wrong root does."""
        import tensorflow as tf

        model = self.module.build()
        model.optimizer.build(model.trainable_variables)
        before = [w.numpy() for w in model.weights]
        tf.train.Checkpoint(optimizer=model.optimizer).read(str(prefix)).expect_partial()
        for w, value in zip(model.weights, before, strict=True):
            w.assign(value)
        out = self._path("optimizer") / "ckpt"
        out.parent.mkdir()
        tf.train.Checkpoint(model=model, optimizer=model.optimizer).write(str(out))
        found = _restored(self.module.build(), out)
        self._add("optimizer", base, out, ("optimizer",), (), found, None, base.model)

    def _absent(self, base: Base, prefix: Path) -> None:
        """A checkpoint of all layers but one, without the optimizer."""
        import tensorflow as tf

        model = self.module.build()
        tf.train.Checkpoint(model=model).read(str(prefix)).expect_partial()
        layers = [each for each in model.layers if each.weights]
        gone = layers[-1]
        if self.name == "list_of_blocks":
            return
        kept = tf.__internal__.tracking.AutoTrackable()
        for name, child in model._trackable_children("checkpoint").items():
            if child is not gone and not name.startswith("_") and hasattr(child, "weights"):
                kept._track_trackable(child, name)
        out = self._path("absent") / "ckpt"
        out.parent.mkdir()
        tf.train.Checkpoint(model=kept).write(str(out))
        found = _restored(self.module.build(), out)
        self._add("absent", base, out, (gone.name,), (), found, None, base.model)

    def whole(self) -> None:
        """Lose a variable of each object in a checkpoint of several, one after another."""
        import tensorflow as tf

        import ckptkit

        prefix = self.source / "ckpt"
        code = f"{_CODE_FILE}:parts?{json.dumps({'fixture': self.fixture})}"
        base = Base("whole", "whole", str(prefix), code)
        self.bases.append(base)
        reader = tf.train.load_checkpoint(str(prefix))
        dtypes = reader.get_variable_to_dtype_map()
        names = ckptkit.open(prefix).names
        done: set[str] = set()
        for key, naming in names.items():
            part = key.partition("/")[0]
            if part in done or naming.role not in ("weight", "slot") or naming.duplicate_of:
                continue
            done.add(part)
            out = self._path("absent") / "ckpt"
            out.parent.mkdir()
            kept = [each for each in dtypes if each != key]
            tf.raw_ops.SaveV2(
                prefix=str(out),
                tensor_names=kept,
                shape_and_slices=[""] * len(kept),
                tensors=[tf.constant(reader.get_tensor(each), dtypes[each]) for each in kept],
            )
            found = _restored_into(_mutant_code.parts(self.fixture), out)
            self._add("absent", base, out, (naming.name,), (), found, None, code)

    def directory(self) -> None:
        """Take the older one of two checkpoints."""
        base = Base("code", "code", str(self.source / "ckpt-20"), self._code())
        self.bases.append(base)
        older = self.source / "ckpt-15"
        found = _restored(self.module.build(), older)
        owners = ("kernel", "bias")
        self._add("later", base, older, owners, (), found, None, base.model)


# --- what TensorFlow and Keras offer --------------------------------------------------------------


def _asserts(live: Any, reference: Any, folder: Path) -> bool:
    """Whether an assertion fails when the weights are restored into the sound model."""
    import tensorflow as tf

    prefix = str(folder / "asserted")
    tf.train.Checkpoint(model=live).write(prefix)
    return _restored(reference, Path(prefix), consumed=True)


def _restored(model: Any, prefix: Path, consumed: bool = False) -> bool:
    """Whether restoring fails, or `assert_existing_objects_matched` does afterwards.

    consumed: or `assert_consumed`, which fails for sound checkpoints that have an optimizer too.
    """
    import tensorflow as tf

    return _restored_into(tf.train.Checkpoint(model=model), prefix, consumed)


def _restored_into(root: Any, prefix: Path, consumed: bool = False) -> bool:
    import tensorflow as tf

    try:
        status = root.read(str(prefix))
        status.assert_existing_objects_matched()
        if consumed:
            status.assert_consumed()
    except (AssertionError, ValueError, tf.errors.OpError):
        return True
    return False


def _editor(file: Path, reference: Any) -> bool:
    """Whether KerasFileEditor finds an error in the file, beside the sound model."""
    from keras.saving import KerasFileEditor

    return bool(KerasFileEditor(str(file)).compare(reference)["error_count"])
