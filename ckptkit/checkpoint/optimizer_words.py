"""Words of optimizers: what is known of TensorFlow's own, and what names of state look like.

A list of words is never whole; `inferred_roles` asks it for evidence, beside shapes and patterns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from ckptkit.text import lazy_pattern

AVERAGES = frozenset({"ExponentialMovingAverage", "moving_average", "ema", "EMA"})
_AVERAGED = frozenset({"ema", "average", "averaged", "swa"})  # BigGAN has `w/ema_b999900`
# TensorFlow 1 optimizers (and BERT's) add a suffix to the variable's name, with a number for the
# second slot: Adam's m and v are `w/Adam` and `w/Adam_1`; another optimizer counts on.
# Source: tensorflow/python/training/*.py, google-research/bert optimization.py, tensor2tensor.
KNOWN_SLOTS: Mapping[str, tuple[str, ...]] = {
    "Adam": ("m", "v"),
    "AdamOptimizer": ("m", "v"),
    "AdamW": ("m", "v"),
    "AdaMax": ("m", "v"),
    "LazyAdam": ("m", "v"),
    "Nadam": ("m", "v"),
    "RMSProp": ("rms", "momentum"),
    "Ftrl": ("accumulator", "linear"),
    "Adadelta": ("accum_grad", "accum_var"),
    "Momentum": ("momentum",),
    "Adagrad": ("accumulator",),
    "AdagradDA": ("gradient_accumulator", "gradient_squared_accumulator"),
    "adam_m": ("m",),
    "adam_v": ("v",),
    "lamb_m": ("m",),
    "lamb_v": ("v",),
    "slot_m": ("m",),
    "slot_v": ("v",),
    "vr": ("vr",),
    "vc": ("vc",),
    "slot_vr": ("vr",),
    "slot_vc": ("vc",),
}
_CENTERED = ("rms", "mg", "momentum")  # RMSProp's three, where it is centered
# Words of slots, as Keras and TensorFlow's optimizers use them; one letter says little by itself.
LETTERS = frozenset({"m", "v", "u", "r", "c", "n", "d", "s"})
_WORDS = frozenset(
    (
        *("accum", "accumulator", "accumulated", "adam", "adagrad", "adafactor", "ema", "hessian"),
        *("lamb", "lion", "momentum", "moment", "momentums", "mg", "rms", "slot", "slots", "vhat"),
        *("velocity", "velocities", "vr", "vc", "mu", "nu", "norm", "linear", "variance"),
    )
)
# Of these, those that name a variable of a layer as well: they say something in a scope alone.
_COMMON = frozenset({"norm", "linear", "variance", "mu", "nu", "lion", "lamb"})
OPTIMIZER = lazy_pattern(
    r"(?:\w*(?:adam|adagrad|adadelta|adafactor|adamax|adabelief|momentum|optimi[sz]er|rmsprop)\w*"
    r"|sgd\w*|ftrl|lamb|lars|lion|muon|shampoo|sophia|yogi|training)(?:_\d+)?",
    re.IGNORECASE,
)
SLOT_CREATOR = lazy_pattern(
    r"(?=.*[a-z])[A-Z][A-Za-z0-9]{2,}(?:_\d+)?|[A-Z]{3,}[A-Za-z0-9]*(?:_\d+)?"
)
COUNTERS = frozenset({"global_step", "step", "save_counter", "iterations", "iter", "epoch"})
SETTINGS = lazy_pattern(r"(beta[12]_power|learning_rate)(_\d+)?")
SURE_SETTINGS = lazy_pattern(
    r"(beta[12]_power|(\w+_)?learning_rate(_power)?|(current_)?loss_scale)(_\d+)?", re.IGNORECASE
)
HYPERPARAMETERS = lazy_pattern(
    r"(beta(_?[12])?(_power)?|lr|decay|weight_decay|rho|momentum|momentum_cache|epsilon|u_product"
    r"|l[12]_regularization_strength|initial_accumulator_value|clip\w*|dynamic_scale)(_\d+)?"
)
_NUMBERED = lazy_pattern(r"(.+?)(?:_(\d{1,9}))?")


@lru_cache(maxsize=4096)
def without_number(ending: str) -> str:
    """Return `Adam` for `Adam_1`."""
    if ending in KNOWN_SLOTS:
        return ending
    match = _NUMBERED.fullmatch(ending)
    return match[1] if match else ending


@lru_cache(maxsize=4096)
def known_slot(ending: str, is_centered: bool) -> str | None:
    """Return "v" for `Adam_1`, "m_1" for `Adam_2` (a second optimizer's), None where unknown."""
    base = without_number(ending)
    slots = KNOWN_SLOTS.get(base)
    if slots is None:
        return None
    number = int(ending[len(base) + 1 :]) if ending != base else 0
    if base == "RMSProp" and is_centered:
        slots = _CENTERED
    if len(slots) == 1 and base[0].islower() and number:
        return None
    again = number // len(slots)
    return slots[number % len(slots)] + (f"_{again}" if again else "")


def is_average(ending: str) -> bool:
    """Whether a segment or word is one that averages of weights over time are called."""
    return ending in AVERAGES or not _AVERAGED.isdisjoint(ending.lower().split("_"))


def is_state_word(ending: str) -> bool:
    """Whether a segment or word is one that slots are called."""
    if ending in LETTERS or ending in KNOWN_SLOTS:
        return True
    words = without_number(ending).lower().strip("_").split("_")
    return not _WORDS.isdisjoint(words) and not (len(words) == 1 and words[0] in _COMMON)


def is_setting(name: str) -> bool:
    """Whether a scalar's name, without scope, is one that only optimizers use."""
    return bool(SETTINGS.fullmatch(name) or SURE_SETTINGS.fullmatch(name))
