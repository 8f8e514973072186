"""Which ops are heavy: those that multiply matrices or convolve, on any runtime.

What a runtime calls a kernel depends on the processor and on what was fused into it: one `MatMul`
of a model runs as `_FusedMatMul`, `_MklNativeFusedMatMul` (oneDNN), `cublasSgemm_v2` or
`__xla_cpu_runtime_EigenMatMulF32`.  So a name is split into its words, and one of them has to be of
a family here.
"""

from __future__ import annotations

import re
from functools import lru_cache

# Words as `_words` writes them: lower case, each between underscores.
_FAMILIES = (
    r"mat_?mul",
    r"(?:br|[a-z])?gem[mv]",  # BLAS: sgemm, gemv, oneDNN's brgemm
    r"(?:ssp|sp)?(?:b?add)?b?m[mv]",  # PyTorch: mm, bmm, addmm, baddbmm, addmv
    r"(?:tensor|v)?dot",  # XLA, JAX
    r"einsum",
    r"(?:de)?conv(?:olution|olve)?",
    r"winograd",
    r"fully_connected",  # LiteRT
    r"inner_product",  # oneDNN
    r"(?<!quantize_)(?<!_q_)(?<!upsample_)linear",  # not ONNX's QuantizeLinear and QLinearAdd
    r"(?:lstm|gru|rnn)",
    r"svdf",
    r"(?:attention|fmha)",
    r"mo_?e",  # ONNX Runtime's mixture of experts
)
_FAMILY = re.compile(f"_(?:{'|'.join(_FAMILIES)})_")
# Ops that prepare the weights of a kernel, and compute nothing with them.
_PREPARATION = re.compile(r"_(?:params|canonical)_")
_VERSION = re.compile(r"V\d+$")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


@lru_cache(maxsize=4096)
def is_heavy(op: str) -> bool:
    """Tell whether an op multiplies matrices or convolves.

    Args:
        op: the name of an op or kernel, as any runtime spells it: `_MklNativeFusedConv2D`,
            `FULLY_CONNECTED`, `QLinearConv`, `dot_general`, `baddbmm`, `__cublas$gemm`.

    Returns:
        True for matrix products, convolutions, and what is made of them, such as recurrent cells
        and attention.
    """
    words = _words(op)
    return bool(_FAMILY.search(words)) and not _PREPARATION.search(words)


def _words(op: str) -> str:
    """Return `_fused_mat_mul_` of `_FusedMatMulV2`: its words without numbers, in lower case."""
    return f"_{'_'.join(_WORD.findall(_VERSION.sub('', op)))}_".lower()
