"""How PyTorch may compute products and convolutions of FP32 operands, set for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal


@contextmanager
def float32_products(precision: Literal["highest", "high"]) -> Iterator[None]:
    """In FP32 itself ("highest"), or in TF32 where the device has it ("high").

    Meanwhile partial sums of FP16 and BF16 products are kept in FP32. Afterwards all is as it was.
    """
    import torch

    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = torch.get_float32_matmul_precision()
    convolutions = cudnn.allow_tf32
    reduced = (matmul.allow_fp16_reduced_precision_reduction, matmul.allow_bf16_reduced_precision_reduction)
    try:
        matmul.allow_fp16_reduced_precision_reduction = False
        matmul.allow_bf16_reduced_precision_reduction = False
        cudnn.allow_tf32 = precision == "high"
        torch.set_float32_matmul_precision(precision)
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        cudnn.allow_tf32 = convolutions
        matmul.allow_fp16_reduced_precision_reduction, matmul.allow_bf16_reduced_precision_reduction = reduced
