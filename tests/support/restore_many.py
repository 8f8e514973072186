"""Write files of `several_models` into a folder and restore them again; run as a script.

Prints {case: fields of RestoreResult, or {"refused": message}}: one process for all of them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ckptkit.errors import UsageError
from ckptkit.runners.child.object_bundle import write_objects
from ckptkit.runners.child.object_tree import by_unique_names
from ckptkit.runners.keras.model import build_code
from ckptkit.runners.keras.objects import KERAS_OBJECTS
from ckptkit.runners.keras.restore import restore_into as fill_keras
from ckptkit.runners.tensorflow.restore import build, restore_into
from support import several_models as models

out = Path(sys.argv[1])
CODE = str(Path(models.__file__ or ""))


def write(name: str, **objects: Any) -> None:
    tf.train.Checkpoint(**objects).write(str(out / name))


keras.utils.set_random_seed(1)
one, two = models.net(), models.net()
write("alike", online=one, target=two)
write("shared", online=one, best=one)
write("other_shape", generator=one, discriminator=models.deeper())
write("partial", first=models.net(hidden=5), second=models.net(hidden=6))
learner = models.compiled()
learner.optimizer.build(learner.trainable_variables)
write("learner", net=learner, unrelated=models.Linear(4, 2))
table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, 0)
table.insert(tf.constant(["a"]), tf.constant([1], tf.int64))
write("beside", model=learner, optimizer=learner.optimizer, asked=table)
write("deep", trainer=models.Trainer(net=one, other=models.Linear(9, 2)))
write("deep_alike", agent=models.Trainer(online=one, target=two))
write("stack", model=models.Stack())
write("holder", module=models.Holder())
one.save_weights(out / "one.weights.h5")
one.save_weights(out / "one.weights.json", max_shard_size=1e-6)
one.save(out / "one.keras")
one.save(out / "one.h5")
inputs = keras.Input((4,))
keras.Model(inputs, keras.layers.Lambda(lambda x: x * 2)(inputs)).save(out / "lambda.keras")
models.adapted().save(out / "adapted.keras")
values: dict[str, Any] = {weight.path: weight.numpy() for weight in one.weights}
np.savez(out / "one.npz", **values)
del values[one.weights[0].path]
np.savez(out / "less.npz", **values)
values = {"out/w": np.ones((4, 2), "f4"), "out/b": np.ones(2, "f4")}
np.savez(out / "module.npz", **values)

CASES = {  # case: callable, file, place in it
    "alike": ("net", "alike", ""),
    "alike#online": ("net", "alike", "online"),
    "alike#nowhere": ("net", "alike", "nowhere"),
    "alike whole": ("parts", "alike", ""),
    "alike whole, one": ("parts", "alike", "target"),
    "shared": ("net", "shared", ""),
    "other shape": ("net", "other_shape", ""),
    "neither": ("net", "partial", ""),
    "with its optimizer": ("compiled", "learner", ""),
    "beside its optimizer": ("compiled", "beside", ""),
    "deep": ("net", "deep", ""),
    "deep, alike": ("net", "deep_alike", ""),
    "deep, named": ("net", "deep_alike", "agent/target"),
    "stack": ("stack", "stack", ""),
    "holder": ("holder", "holder", ""),
    "adapted.keras": ("adapted", "adapted.keras", ""),
    "unbuilt": ("unbuilt", "holder", ""),
    "empty": ("empty", "holder", ""),
    "module from a file of Keras": ("stack", "one.weights.h5", ""),
    "module from npz": ("stack", "module.npz", ""),
    **{name: ("net", name, "") for name in ("one.weights.h5", "one.weights.json", "one.h5")},
    **{name: ("net", name, "") for name in ("one.keras", "one.npz", "less.npz")},
}

found: dict[str, Any] = {}
for number, (case, (function, file, place)) in enumerate(CASES.items()):
    try:
        built = build(f"{CODE}:{function}", place)
        done = restore_into(built, out / file, str(out / f"restored-{number}"), place)
        found[case] = {**done, "file": str(out / file)}
    except UsageError as error:
        found[case] = {"refused": str(error)}
# as on a backend that has no trackables, whose code runs on TensorFlow as well
WITHOUT_TRACKABLES = [
    *("alike", "alike#online", "alike#nowhere", "shared", "other shape", "neither", "deep"),
    *("with its optimizer", "deep, alike", "deep, named", "less.npz"),
    *("one.weights.h5", "one.weights.json", "one.h5", "one.keras", "one.npz"),
]
for case in WITHOUT_TRACKABLES:
    function, file, place = CASES[case]
    try:
        models_built = build_code(keras, f"{CODE}:{function}", place)
        target = str(out / f"again-{case}")
        done = fill_keras(
            keras, models_built, out / file, target, place, value_of=lambda item: item.numpy()
        )
        found[f"keras: {case}"] = {**done, "file": str(out / file)}
    except UsageError as error:
        found[f"keras: {case}"] = {"refused": str(error)}
two_models = build_code(keras, f"{CODE}:both")
done = fill_keras(
    keras, two_models, out / "alike", str(out / "both"), value_of=lambda item: item.numpy()
)
found["keras: both"] = {**done, "file": str(out / "alike")}
weights = by_unique_names(("", weight) for weight in learner.weights)
write_objects(str(out / "own"), KERAS_OBJECTS, {"net": learner}, weights, np.asarray)
found["own"] = {"own": str(out / "own"), "of tensorflow": str(out / "learner")}
print("\n" + json.dumps(found))
