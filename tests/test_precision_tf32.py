"""TF32: told from FP32 by one number. The devices that have it are played: the CPU has none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from kernels import replaced
from pytest_bionemo.workloads import tf32

SIZE = 32
ALL = {"in_fp32": 0, "in_tf32": 0, "in_neither": 0}
IN_FP32, IN_TF32 = {**ALL, "in_fp32": SIZE * SIZE}, {**ALL, "in_tf32": SIZE * SIZE}

Round = Callable[[torch.Tensor], torch.Tensor]


def cut_off(operand: torch.Tensor) -> torch.Tensor:
    """FP32 without its lowest 13 bits."""
    return (operand.view(torch.int32) & ~0x1FFF).view(torch.float32)


def to_nearest(operand: torch.Tensor) -> torch.Tensor:
    return cut_off((operand.view(torch.int32) + 0x1000).view(torch.float32))


def device_with_tf32(round_operand: Round, uses_it: Callable[[str], bool]) -> Callable[..., torch.Tensor]:
    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if uses_it(torch.get_float32_matmul_precision()):
            a, b = round_operand(a), round_operand(b)
        return torch.bmm(a.unsqueeze(0), b.unsqueeze(0))[0]

    return kernel


def test_the_cpu_computes_in_fp32() -> None:
    found = tf32.run(SIZE)
    assert found == {"allowed": IN_FP32, "forbidden": IN_FP32, "override": None}


@pytest.mark.parametrize("round_operand", [cut_off, to_nearest])
def test_a_device_that_uses_it_when_it_is_allowed(round_operand: Round) -> None:
    with replaced("mm", device_with_tf32(round_operand, lambda precision: precision == "high")):
        found = tf32.run(SIZE)
    assert (found["allowed"], found["forbidden"]) == (IN_TF32, IN_FP32)


def test_a_device_that_uses_it_although_it_is_forbidden() -> None:
    with replaced("mm", device_with_tf32(to_nearest, lambda _: True)):
        assert tf32.run(SIZE)["forbidden"] == IN_TF32


def test_a_product_that_is_wrong_is_in_neither() -> None:
    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        result = torch.bmm(a.unsqueeze(0), b.unsqueeze(0))[0]
        result[3, 4] = torch.nan
        return result

    with replaced("mm", kernel):
        assert tf32.run(SIZE)["forbidden"] == {"in_fp32": SIZE * SIZE - 1, "in_tf32": 0, "in_neither": 1}


def test_the_variable_that_decides_instead_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    assert tf32.run(8)["override"] == "NVIDIA_TF32_OVERRIDE=1"


def test_the_precision_of_the_process_is_left_as_it_was() -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        tf32.run(8)
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision("highest")
