"""Which environment variables the process of a model gets: those that decide how it computes.

Code that a model brings along sees what its process sees.  Tokens and keys of the caller are not
needed to compute anything, so a variable is passed for its name alone, by families, and what is
called like a secret is not passed whatever its family.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

PASS = "CKPTKIT_PASS_ENV"  # names, separated by commas, that are passed besides
# who and where; what dynamic loaders, locales and temporary files go by
_NAMES = """
    PATH HOME USER LOGNAME SHELL PWD TERM TZ LANG LANGUAGE TMPDIR TMP TEMP SYSTEMROOT
    VIRTUAL_ENV PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION GLIBC_TUNABLES
"""
# the system and Python; runtimes; devices; libraries of linear algebra and their threads
_FAMILIES = """
    LC_ LD_ DYLD_ MALLOC_ PYTHON CONDA_ XDG_ CKPTKIT_
    TF_ TFHUB_ KERAS_ XLA_ JAX_ TORCH_ PYTORCH_ ORT_ TPU_ LIBTPU_ HDF5_
    CUDA_ CUDNN_ CUBLAS_ NCCL_ NVIDIA_ HIP_ HSA_ ROCR_ ROCM_ MIOPEN_
    OMP_ GOMP_ KMP_ MKL_ OPENBLAS_ BLIS_ VECLIB_ NUMEXPR_ ONEDNN_ DNNL_
"""
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|AUTH|KEY")
_FOREIGN = ("TF_VAR_",)  # inputs of Terraform, which hold whatever its users put there


def passed(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of `environment` that the process of a model gets."""
    asked = {name.strip() for name in environment.get(PASS, "").split(",")}
    return {name: text for name, text in environment.items() if name in asked or _is_needed(name)}


def _is_needed(name: str) -> bool:
    upper = name.upper()
    if upper in _NAMES.split():
        return True
    known = upper.startswith(tuple(_FAMILIES.split())) and not upper.startswith(_FOREIGN)
    return known and _SECRET.search(upper) is None


def lacking(error_kind: str, message: str, environment: Mapping[str, str]) -> str:
    """Return the variable that code looked up in vain although the caller has it; "" for none."""
    names = re.findall(r"[A-Za-z_][A-Za-z0-9_]*", message) if error_kind == "KeyError" else []
    kept = passed(environment)
    return next((name for name in names if name in environment and name not in kept), "")
