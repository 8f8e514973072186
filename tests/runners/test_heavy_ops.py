"""Ops that multiply matrices or convolve are told by family, however a runtime spells them."""

from __future__ import annotations

import pytest

from ckptkit.runners.child.heavy_ops import is_heavy

HEAVY = {
    "TensorFlow": """
        MatMul BatchMatMul BatchMatMulV2 BatchMatMulV3 SparseMatMul Einsum SparseTensorDenseMatMul
        SparseMatrixSparseMatMul Conv Conv2D Conv3D DepthwiseConv2dNative Conv2DBackpropInput
        Conv2DBackpropFilterV2 Conv3DBackpropInputV2 QuantizedMatMul QuantizedMatMulWithBias
        QuantizedConv2DWithBiasAndReluAndRequantize UniformQuantizedDotHybrid
        UniformQuantizedConvolution LSTMBlockCell BlockLSTM BlockLSTMV2 GRUBlockCell
    """,
    "Eigen, fused by Grappler": """
        _FusedMatMul _FusedBatchMatMulV2 _FusedConv2D _FusedConv3D _FusedDepthwiseConv2dNative
    """,
    "oneDNN, blocked layout": """
        _MklMatMul _MklFusedMatMul _MklBatchMatMul _MklBatchMatMulV2 _MklFusedBatchMatMulV2
        _MklConv2D _MklConv3D _MklFusedConv2D _MklConv2DWithBias _MklPadWithFusedConv2D
        _MklDepthwiseConv2dNative _MklFusedDepthwiseConv2dNative _MklConv2DBackpropInput
        _MklQuantizedMatMulWithBias _MklQuantizedConv2DPerChannel _MklEinsum
    """,
    "oneDNN, native layout": """
        _MklNativeMatMul _MklNativeFusedMatMul _MklNativeBatchMatMulV2
        _MklNativeFusedBatchMatMulV2 _MklNativeConv2D _MklNativeFusedConv2D _MklNativeConv3D
        _MklNativeFusedConv3D _MklNativeDepthwiseConv2dNative
        _MklNativeFusedDepthwiseConv2dNative _MklNativeConv2DBackpropFilter
        _MklNativePadWithFusedConv2D
    """,
    "oneDNN's primitives": "matmul inner_product convolution deconvolution brgemm_matmul rnn",
    "XLA": """
        XlaDot XlaDotV2 XlaConv XlaConvV2 XlaEinsum XlaSparseDenseMatmul dot convolution ragged-dot
        __xla_cpu_runtime_EigenMatMulF32 __xla_cpu_runtime_EigenBatchMatMulF32
        __xla_cpu_runtime_EigenConv2DF32 __onednn$matmul __cublas$gemm __cublas$lt$matmul$f8
        __cudnn$convForward __cudnn$convBiasActivationForward __cudnn$fmhaSoftmax __triton_gemm
    """,
    "cuDNN and cuBLAS": """
        CudnnRNN CudnnRNNV2 CudnnRNNV3 CudnnRNNBackpropV3 cudnnConvolutionForward cudnnRNNForward
        cublasSgemm_v2 cublasGemmEx cublasLtMatmul volta_sgemm_128x64_nn
        ampere_fp16_s16816gemm_fp16_64x64_ldg8_f2f_stages_64x5_nn sm80_xmma_fprop_implicit_gemm
        implicit_convolve_sgemm winograd_nonfused
    """,
    "LiteRT": """
        CONV_2D CONV_3D CONV_3D_TRANSPOSE DEPTHWISE_CONV_2D TRANSPOSE_CONV FULLY_CONNECTED
        BATCH_MATMUL LSTM RNN SVDF UNIDIRECTIONAL_SEQUENCE_LSTM BIDIRECTIONAL_SEQUENCE_RNN
        STABLEHLO_DOT_GENERAL STABLEHLO_CONVOLUTION
    """,
    "ONNX and ONNX Runtime": """
        Conv ConvTranspose ConvInteger DeformConv QLinearConv FusedConv NhwcFusedConv MatMul
        MatMulInteger MatMulIntegerToFloat MatMulNBits QLinearMatMul FusedMatMul
        DynamicQuantizeMatMul Gemm FusedGemm QGemm GemmFloat8 LSTM GRU RNN DynamicQuantizeLSTM
        Einsum Attention QAttention MultiHeadAttention GroupQueryAttention LinearRegressor MoE QMoE
    """,
    "JAX": """
        dot_general ragged_dot ragged_dot_general scaled_dot conv_general_dilated
        dot_product_attention_fwd
    """,
    "PyTorch": """
        mm addmm bmm baddbmm addbmm mv addmv matmul linear einsum convolution _convolution
        convolution_overrideable cudnn_convolution mkldnn_convolution mkldnn_linear
        mkldnn_rnn_layer lstm gru _cudnn_rnn _scaled_dot_product_flash_attention
        _scaled_dot_product_efficient_attention _scaled_mm _int_mm _addmm_activation conv1d
    """,
}
LIGHT = {
    "TensorFlow": """
        BiasAdd Relu Softmax MaxPool AvgPool FusedBatchNormV3 _FusedBatchNormEx Cast ConcatV2
        QuantizedConcat ConvertToListOfSparseCoreCooTensors Mul MatrixInverse MatrixDiag
        ResizeBilinear QuantizeV2 Dequantize _MklToTf _MklNativeFusedBatchNormV3 _MklLayerNorm
        CudnnRNNParamsSize CudnnRNNCanonicalToParamsV2 CudnnRNNParamsToCanonicalV2 LinSpace Mean
        GatherV2 ReadVariableOp LookupTableFindV2 Transpose
    """,
    "LiteRT": "ADD MUL MEAN RESIZE_BILINEAR QUANTIZE DEQUANTIZE CONCATENATION MAX_POOL_2D DELEGATE",
    "ONNX": """
        QuantizeLinear DequantizeLinear DynamicQuantizeLinear QLinearAdd QLinearSigmoid
        QLinearAveragePool Concat Mul Add LayerNormalization Resize ReorderInput
    """,
    "JAX": "convert_element_type mul add reduce_sum transpose concatenate broadcast_in_dim",
    "PyTorch": "add mul relu upsample_linear1d upsample_bilinear2d native_layer_norm _to_copy",
}


def rows(table: dict[str, str]) -> list[tuple[str, str]]:
    return [(runtime, name) for runtime, names in table.items() for name in names.split()]


@pytest.mark.parametrize(("runtime", "name"), rows(HEAVY))
def test_products_and_convolutions_are_heavy(runtime: str, name: str) -> None:
    assert is_heavy(name), runtime


@pytest.mark.parametrize(("runtime", "name"), rows(LIGHT))
def test_other_ops_are_not(runtime: str, name: str) -> None:
    assert not is_heavy(name), runtime


@pytest.mark.needs_tf
def test_the_ops_that_this_tensorflow_knows() -> None:
    """Its own registry, oneDNN's ops among them, and not a list of ours."""
    pytest.importorskip("tensorflow")
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python.client import pywrap_tf_session

    buffer = pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList())
    names = {op.name for op in op_def_pb2.OpList.FromString(bytes(buffer)).op}
    assert "_MklNativeFusedMatMul" in names
    marks = ("MatMul", "Matmul", "Conv1D", "Conv2D", "Conv2d", "Conv3D", "LSTM", "GRU", "Einsum")
    called_so = {name for name in names if any(mark in name for mark in marks)}
    assert len(called_so) > 100 and not {name for name in called_so if not is_heavy(name)}
    others = {name for name in names if is_heavy(name)} - called_so
    assert len(others) < 30 and not {name for name in others if "Convert" in name}
