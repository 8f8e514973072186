"""What every runtime says of a GPU in the same words.  Child process alone."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ckptkit.runners.spec import RunnerSpec

TF32_OVERRIDE = "NVIDIA_TF32_OVERRIDE"  # 0: cuBLAS and cuDNN round nothing, whatever asks for it
_TF32_CAPABILITY = (8, 0)  # Ampere; GPUs before it have no TF32


def gpu_title(name: str, capability: Sequence[int | str]) -> str:
    """Return `NVIDIA H100 (compute capability 9.0)`; capability: (9, 0), () where not known."""
    version = ".".join(map(str, capability))
    return f"{name} (compute capability {version})" if version else name


def rounds_to_tf32(spec: RunnerSpec, capability: Sequence[int | str] = ()) -> bool:
    """Whether products may be rounded to TF32: asked for, and the device and system let it.

    capability: (9, 0) of the device; one that is not known is taken to have TF32.
    """
    if spec.device != "GPU" or not spec.tf32 or os.environ.get(TF32_OVERRIDE) == "0":
        return False
    return not capability or tuple(map(int, capability)) >= _TF32_CAPABILITY
