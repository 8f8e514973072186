"""What a Keras 3 model takes, gives and holds, on any backend.  Child process alone.

Inputs go by the names of their layers, outputs by the model's own output names: the same names that
TensorFlow's runner gives them (`ckptkit.runners.tensorflow.endpoints`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ckptkit.errors import MissingDependencyError, UnsupportedError, UsageError
from ckptkit.model_io.signature import ModelSignature, TensorInfo
from ckptkit.runners.child.keras_file import is_before_keras_3, not_loaded, written_by
from ckptkit.runners.child.trees import named
from ckptkit.runners.child.user_code import call_code
from ckptkit.runners.doing import importing
from ckptkit.runners.errors import refused, safe_mode_refusal
from ckptkit.runners.keras.layers import arguments
from ckptkit.text import count_text, list_text

SEED = 20  # of what a build draws at random, as TensorFlow's runner does

Tensors = Mapping[str, Any]


def keras(backend: str) -> Any:
    """Return keras 3 on `backend`; raises MissingDependencyError, UsageError."""
    try:
        with importing("keras"):
            module = import_module("keras")
    except ModuleNotFoundError as error:
        if error.name != "keras":
            raise
        raise MissingDependencyError(
            "this needs Keras 3, which is not installed",
            hint="pip install 'ckptkit-tf[runtimes]'",
        ) from error
    if int(module.__version__.split(".")[0]) < 3:
        raise MissingDependencyError(
            f"Keras {module.__version__} has no {backend} backend", hint="pip install 'keras>=3'"
        )
    found = module.backend.backend()
    if found != backend:
        raise UsageError(f"Keras runs on {found}, not on {backend}")
    seed(module)
    return module


def seed(keras: Any) -> None:
    """Seed all that Keras draws from, as keras.utils.set_random_seed; that imports TensorFlow."""
    import random

    import numpy as np

    random.seed(SEED)
    np.random.seed(SEED)
    try:
        from keras.src.backend.common import global_state
        from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR
        from keras.src.utils.rng_utils import GLOBAL_RANDOM_SEED
    except ImportError:  # another version of Keras
        keras.utils.set_random_seed(SEED)
        return
    global_state.set_global_attribute(GLOBAL_RANDOM_SEED, SEED)
    global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, None)
    if keras.backend.backend() == "torch":
        import_module("torch").manual_seed(SEED)


@dataclass(frozen=True)
class CallableModel:
    """A model, and how it is called.

    model_signature: None where the model tells none.  call: takes and returns {name: tensor}.
    """

    model: Any
    model_signature: ModelSignature | None
    call: Callable[[Tensors], dict[str, Any]]
    optional: tuple[str, ...] = ()


def load_file(keras: Any, path: str, *, trusted: bool = False) -> CallableModel:
    """Return the model of a `.keras` or whole `.h5` file, in safe mode unless it is trusted.

    Raises RunnerError for code in it, MissingDependencyError for a file of an older Keras that
    this one does not load.
    """
    version = written_by(path)
    try:
        model = keras.saving.load_model(path, safe_mode=not trusted, compile=False)
    except Exception as error:
        if isinstance(error, ValueError) and "safe_mode" in str(error):
            raise safe_mode_refusal(path) from error
        if not is_before_keras_3(version):
            raise
        hint = "tf_keras does, on TensorFlow: the runner tf-keras:CPU:0"
        raise not_loaded(path, version, f"Keras {keras.__version__}", hint) from error
    return _built(keras, model, {})


@dataclass(frozen=True)
class BuiltModels:
    """What a callable returned: one model, or several by name.

    whole: the model, or {name: model}.  objects: the same dict, {} of one model.
    """

    keras: Any
    whole: Any
    calls: Mapping[int, tuple[Any, Any, Any]]
    objects: Mapping[str, Any]
    spec: str

    @property
    def models(self) -> list[Any]:
        return list(self.objects.values()) or [self.whole]

    @property
    def optimizer(self) -> Any:
        return None if self.objects else getattr(self.whole, "optimizer", None)

    @property
    def has_optimizer(self) -> bool:
        return any(getattr(model, "optimizer", None) is not None for model in self.models)

    def to_run(self) -> Any:
        """Return the model; raises UsageError where several could be meant."""
        if len(self.models) == 1:
            return self.models[0]
        which = f"{count_text(len(self.objects), 'model')}: {list_text(list(self.objects), 5)}"
        raise UsageError(
            f"the code returns {which}; which one is run is open",
            where=self.spec,
            hint="name it behind the checkpoint, as in run/ckpt#generator",
        )

    def callable_model(self) -> CallableModel:
        """Return the model as it is called; raises UsageError where several could be meant."""
        return _built(self.keras, self.to_run(), self.calls)


def build_code(keras: Any, spec: str, place: str = "") -> BuiltModels:
    """Return what the callable of `spec` builds: a model, or a dict of several.

    place: where in the file the user wants it restored from; of a dict, the model so called.
    Raises UsageError where it is no built model.
    """
    with arguments(keras) as calls:
        value = call_code(spec, lambda: seed(keras))
    several = dict(value) if isinstance(value, Mapping) and value else {}
    if place and several:
        if place not in several:
            names = list_text(list(several), 5)
            raise UsageError(f"the code returns no {place!r}, but {names}", where=spec)
        value, several = several[place], {}
    for model in several.values() if several else [value]:
        _check_built(keras, model, spec)
    return BuiltModels(keras, several or value, calls, several, spec)


def _check_built(keras: Any, model: Any, spec: str) -> None:
    """Build the optimizer of a model; raises UsageError where it is no built model of Keras."""
    if not isinstance(model, keras.Model):
        raise UsageError(
            f"a {type(model).__name__} is no Keras model, which this runtime needs", where=spec
        )
    plain = keras.layers.Layer.build
    unbuilt = [layer.name for layer in layers_of(model) if not _is_built(layer, plain)]
    if not model.built or unbuilt:
        raise UsageError(
            f"not built: {', '.join(unbuilt[:4]) or model.name}; restoring would match nothing",
            where=spec,
            hint="let the callable call the model once on an example input",
        )
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and not optimizer.built:
        optimizer.build(model.trainable_variables)


def _is_built(layer: Any, plain: Any) -> bool:
    return bool(layer.built) or type(layer).build is plain


def layers_of(model: Any) -> list[Any]:
    """Return all layers, those inside of others too."""
    return list(model._flatten_layers(include_self=False))


def policy_of(model: Any) -> str:
    """Return the dtypes that the model computes in, where they are not float32."""
    policies = (getattr(layer, "dtype_policy", None) for layer in (*layers_of(model), model))
    found = {str(getattr(policy, "compute_dtype", "") or "") for policy in policies}
    return ", ".join(sorted(found - {"", "float32"})) or "float32"


def rows_of(model: Any) -> int | None:
    """Return an exclusive bound for integer inputs: the rows of the smallest embedding."""
    rows = (getattr(layer, "input_dim", None) for layer in layers_of(model))
    return min((n for n in rows if type(n) is int), default=None)


# -- how it is called ------------------------------------------------------------------------------


def _built(keras: Any, model: Any, calls: Mapping[int, tuple[Any, Any, Any]]) -> CallableModel:
    tree = _tree_of(model, "_inputs_struct")
    if tree is None:
        specs = _seen(keras, model, calls) or _built_with(model)
        model_signature = ModelSignature(specs, ()) if specs else None
        return CallableModel(model, model_signature, _plain_call(keras, model))
    if isinstance(tree, (list, tuple)) and len(tree) == 1:
        tree = tree[0]
    infos = [_input_info(tensor) for tensor in keras.tree.flatten(tree)]
    names = [info.name for info in infos]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UnsupportedError(f"several inputs of the model are called {twice[0]!r}")
    optional = tuple(
        _name(tensor) for tensor in keras.tree.flatten(tree) if _operation(tensor, "optional")
    )

    def call(inputs: Tensors) -> dict[str, Any]:
        values = keras.tree.map_structure(lambda tensor: inputs.get(_name(tensor)), tree)
        return named(model(values, training=False), _output_names(model))

    outputs = named(_tree_of(model, "_outputs_struct"), _output_names(model))
    output_infos = tuple(_info(name, tensor) for name, tensor in outputs.items())
    return CallableModel(model, ModelSignature(tuple(infos), output_infos), call, optional)


def _plain_call(keras: Any, model: Any) -> Callable[[Tensors], dict[str, Any]]:
    def call(inputs: Tensors) -> dict[str, Any]:
        names = _output_names(model)
        if len(inputs) == 1:
            return named(model(*inputs.values(), training=False), names)
        return named(model(**inputs, training=False), names)

    del keras
    return call


def _tree_of(model: Any, attribute: str) -> Any:
    """Return the nested inputs or outputs of a Functional or Sequential model; None of others."""
    found = getattr(model, attribute, None)
    return found if found is not None else getattr(_functional(model), attribute, None)


def _functional(model: Any) -> Any:
    return getattr(model, "_functional", None)


def _output_names(model: Any) -> Sequence[str] | None:
    names = getattr(model, "output_names", None) or getattr(
        _functional(model), "output_names", None
    )
    return list(names) if names else None


def _operation(tensor: Any, attribute: str) -> Any:
    operation = getattr(getattr(tensor, "_keras_history", None), "operation", None)
    return getattr(operation, attribute, None)


def _name(tensor: Any) -> str:
    """Return the name of an input's layer, which files keep, unlike that of its tensor."""
    return str(_operation(tensor, "name") or tensor.name)


def _input_info(tensor: Any) -> TensorInfo:
    for attribute in ("ragged", "sparse"):
        if getattr(tensor, attribute, False):
            raise UnsupportedError(f"input {_name(tensor)!r} is {attribute}: only dense are run")
    return _info(_name(tensor), tensor)


def _info(name: str, tensor: Any) -> TensorInfo:
    return TensorInfo(name, str(tensor.dtype), tuple(tensor.shape))


def _seen(
    keras: Any, model: Any, calls: Mapping[int, tuple[Any, Any, Any]]
) -> tuple[TensorInfo, ...]:
    """Return the inputs of the model's last call while it was built; () where that does not say."""
    if id(model) not in calls:
        return ()
    _, args, options = calls[id(model)]
    try:
        bound = inspect.signature(model.call).bind(*args, **options).arguments
    except TypeError:
        return ()
    infos = []
    for name, value in bound.items():
        if name in ("training", "mask"):
            continue
        shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
        if shape is None or dtype is None:
            return ()
        sizes = (None, *tuple(shape)[1:]) if len(shape) else ()
        infos.append(TensorInfo(name, keras.backend.standardize_dtype(dtype), sizes))
    return tuple(infos)


def _built_with(model: Any) -> tuple[TensorInfo, ...]:
    """Return the inputs that a subclassed model was built with; () where it does not say."""
    shapes = getattr(model, "_build_shapes_dict", None)
    if not isinstance(shapes, Mapping) or not shapes:
        return ()
    names = [name.removesuffix("_shape") for name in shapes]
    if names in (["input"], ["args_0"]):
        names = list(inspect.signature(model.call).parameters)[:1] or names
    infos = []
    for name, shape in zip(names, shapes.values(), strict=True):
        flat = isinstance(shape, (list, tuple)) and all(n is None or type(n) is int for n in shape)
        if not flat or not shape:
            raise refused(
                f"input {name!r} is nested, in a subclassed model: its parts have no names",
                "give the model an argument for each, or make it Functional",
            )
        infos.append(TensorInfo(name, str(model.input_dtype), (None, *tuple(shape)[1:])))
    return tuple(infos)
