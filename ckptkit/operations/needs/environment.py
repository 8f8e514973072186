"""Which packages are here, or would be in the environment that is asked about.

Versions come from the metadata of what is installed (`importlib.metadata`); nothing is imported.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ckptkit.errors import UsageError
from ckptkit.operations.needs.types import Need
from ckptkit.text import lazy_pattern

# Distributions that bring the module of the first, on some systems or under an older name.
_ALSO = {
    "tensorflow": (
        *("tensorflow-cpu", "tensorflow-gpu", "tensorflow-intel", "tensorflow-macos"),
        *("tensorflow-rocm", "tf-nightly", "tensorflow-cpu-aws"),
    ),
    "keras": ("keras-nightly",),
    "tf_keras": ("tf-keras-nightly",),
    "jax": ("jax-nightly",),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime-directml"),
    "ai-edge-litert": ("tflite-runtime",),
}
_ASKED = lazy_pattern(r"([A-Za-z0-9][\w.-]*)==(\d[\w.!+-]*)")
_PART = lazy_pattern(r"(==|>=|<=|!=|<|>)(\d+(?:\.\d+)*)")
KERAS_3_SINCE = (2, 16)  # TensorFlow 2.16 brings Keras 3; before, Keras of its own number
_OLDEST_KERAS_OF_ITS_OWN = (2, 6)  # tensorflow 2.6 requires the distribution keras 2.6


def release(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, ("2.16.1rc0": 2, 16, 1); empty where there are none."""
    found = re.match(r"\d+(?:\.\d+)*", version.partition("!")[2] or version)
    return tuple(map(int, found[0].split("."))) if found else ()


def fits(version: str, wanted: str) -> bool:
    """Whether a version is one of those that pip takes for `wanted` (">=2.16,<3"; "" for all)."""
    have = release(version)
    for part in filter(None, wanted.split(",")):
        found = _PART.fullmatch(part.strip())
        if found is None:
            raise ValueError(part)
        want = release(found[2])
        width = max(len(have), len(want))
        left, right = (v + (0,) * (width - len(v)) for v in (have, want))
        told = {
            "==": left == right,
            "!=": left != right,
            ">=": left >= right,
            "<=": left <= right,
            ">": left > right,
            "<": left < right,
        }
        if not told[found[1]]:
            return False
    return True


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@dataclass(frozen=True)
class Environment:
    """Versions of packages.

    asked: those of an environment that was asked about, by normal name (PEP 503), with "" for one
    that such an environment does not have; for all others, what is installed here counts.
    """

    asked: Mapping[str, str] = field(default_factory=dict)

    def version(self, package: str) -> str:
        """Return the version of a package that is there; "" where it is not."""
        for name in (package, *_ALSO.get(package, ())):
            if _normal(name) in self.asked:
                return self.asked[_normal(name)]
        for name in (package, *_ALSO.get(package, ())):
            try:
                return importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        return ""

    def has_module(self, module: str) -> bool:
        """Whether a module can be imported here; looks for its file, imports nothing."""
        top, *rest = module.split(".")
        if top in sys.builtin_module_names:
            return not rest
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError, AttributeError):
            return False
        return spec is not None

    def need(self, package: str, wanted: str, reason: str, *, hint: str = "") -> Need:
        """Return the need of a package in some version (as pip writes it; "" for any)."""
        found = self.version(package)
        return Need(
            "package",
            package,
            reason,
            version=wanted,
            found=found,
            met=bool(found) and fits(found, wanted),
            hint=hint,
            pip=f"{package}{wanted}",
        )


def environment_of(asked: Iterable[str]) -> Environment:
    """Return the environment that has these versions ("keras==3.15") in place of what is here.

    What one of them requires comes with it: TensorFlow 2.6 to 2.15 requires Keras of its own
    number, and the other way round; TensorFlow 2.16 and newer Keras 3; tf_keras TensorFlow of its
    own number.  Raises UsageError for what is not NAME==VERSION.
    """
    versions: dict[str, str] = {}
    for text in asked:
        found = _ASKED.fullmatch(text.strip())
        if found is None:
            raise UsageError(
                f"{text!r} is not NAME==VERSION", hint="such as keras==3.15, tensorflow==2.15.1"
            )
        name, version = _normal(found[1]), found[2]
        numbers = ".".join(map(str, release(version)))
        if not fits(versions.setdefault(name, version), f"=={numbers}"):
            raise UsageError(f"{name} cannot be {versions[name]} and {version} at once")
    for name in _ALSO["tensorflow"]:
        if _normal(name) in versions:
            versions.setdefault("tensorflow", versions[_normal(name)])
    return Environment({**_brought(versions), **versions})


def _brought(versions: Mapping[str, str]) -> dict[str, str]:
    """Return what the asked versions require of one another."""
    brought: dict[str, str] = {}
    tf_keras, keras = versions.get("tf-keras", ""), versions.get("keras", "")
    tensorflow = versions.get("tensorflow", "")
    if not tensorflow and tf_keras:
        tensorflow = brought["tensorflow"] = ".".join(map(str, release(tf_keras)[:2]))
    if not tensorflow and keras and (2, 6) <= release(keras)[:2] < KERAS_3_SINCE:
        tensorflow = brought["tensorflow"] = ".".join(map(str, release(keras)[:2]))
    if not keras and tensorflow:
        number = release(tensorflow)[:2]
        if number >= KERAS_3_SINCE:
            here = Environment().version("keras")
            brought["keras"] = here if release(here) >= (3,) else "3.15"
        elif number >= _OLDEST_KERAS_OF_ITS_OWN:
            brought["keras"] = ".".join(map(str, number))
        else:
            brought["keras"] = ""  # it has a Keras of its own inside
    if brought.get("tensorflow") and "tf-keras" not in versions:
        brought.setdefault("tf-keras", "")
    if tensorflow and "tf-keras" not in versions and release(tensorflow)[:2] < KERAS_3_SINCE:
        brought["tf-keras"] = ""
    return brought
