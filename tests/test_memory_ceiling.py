"""The fixture memory_ceiling: with an allocator of a GPU that is played, and with the real torch on the CPU."""

from __future__ import annotations

import pytest

from conftest import Rig
from pytest_bionemo.ceiling import bytes_of, text_of
from standin import H100x8
from standin.torch_package import StandinTorch


@pytest.mark.parametrize(
    ("size", "number"),
    [
        (1, 1), (4e9, 4_000_000_000), ("2 GiB", 2 << 30), ("2GiB", 2 << 30), (" 1.5 MiB ", 3 << 19),
        ("500 MB", 5 * 10**8), ("80 GB", 80 * 10**9), ("1 kB", 1000), ("1 KB", 1000), ("3 KiB", 3072),
        ("1 TB", 10**12), ("1 TiB", 1 << 40), ("7 B", 7),
    ],
)  # fmt: skip
def test_a_size_is_bytes_or_text_with_a_unit(size: object, number: int) -> None:
    assert bytes_of(size) == number


@pytest.mark.parametrize(
    "size", ["", "2", "2 gigs", "2 gb", "-1 GiB", "0 GiB", "GiB", "nan GB", "1e3 MB", 0, -5, True, None, float("nan"),
             float("inf"), [1]]
)  # fmt: skip
def test_what_is_no_size_is_refused_in_one_line(size: object) -> None:
    with pytest.raises(ValueError) as caught:
        bytes_of(size)
    assert str(caught.value) == (
        f"memory_ceiling: {size!r} is no size: give a number of bytes, or text such as '2 GiB' or '500 MB'."
    )


def test_two_sizes_that_look_alike_are_told_apart() -> None:
    assert text_of(2 << 30) == "2 GiB (2147483648 bytes)"
    assert text_of((2 << 30) + 1) == "2 GiB (2147483649 bytes)"
    assert text_of(3 << 19) == "1.5 MiB (1572864 bytes)"
    assert text_of(1000) == "1000 bytes"


ON_A_GPU = """
import sys
import pytest
import torch
from torch import Tensor

MIB = 1 << 20
KEPT = []


def allocate(*sizes, on="cuda:0"):
    tensors = [Tensor(size * MIB, on) for size in sizes]


def train_below(ceiling, size):
    with ceiling("10 MiB") as block:
        allocate(size)
    return block.peak_bytes


def give_a_tensor():
    return {"loss": [Tensor(4)]}


def exceeds(block, text):
    return pytest.raises(AssertionError, match=f"^{text} were allocated at most on cuda:")


# First, while CUDA is not in use.
def test_nothing_is_started_here(memory_ceiling):
    with pytest.raises(AssertionError, match="^nothing was allocated on cuda in the block: its ceiling proves"):
        with memory_ceiling("1 MiB"):
            pass
    assert not torch.cuda.is_initialized()
    with pytest.raises(AssertionError, match="5 MiB .5242880 bytes. were .* the ceiling is 4 MiB .4194304 bytes."):
        with memory_ceiling("4 MiB") as block:
            allocate(3, 2)
    assert block.peak_bytes == 5 * MIB


def test_it_holds_below(memory_ceiling):
    allocate(50)  # what was given back before does not count
    with memory_ceiling("5 MiB") as block:
        assert block.peak_bytes is None
        allocate(3)
        allocate(3, 2)
    assert (block.peak_bytes, block.ceiling_bytes) == (5 * MIB, 5 * MIB)


def test_it_fails_above(memory_ceiling):
    with pytest.raises(AssertionError) as caught:
        with memory_ceiling(5 * MIB - 1):
            allocate(3, 2)
    assert str(caught.value) == (
        "5 MiB (5242880 bytes) were allocated at most on cuda:0 (NVIDIA H100 80GB HBM3), "
        "the ceiling is 5 MiB (5242879 bytes)"
    )


def test_what_was_there_before_counts(memory_ceiling):
    KEPT.append(Tensor(8 * MIB))
    with pytest.raises(AssertionError, match="^9 MiB"):
        with memory_ceiling("8 MiB"):
            allocate(1)
    KEPT.clear()


def test_a_block_in_a_block_hides_nothing(memory_ceiling):
    with pytest.raises(AssertionError, match="^7 MiB"):
        with memory_ceiling("6 MiB"):
            allocate(7)
            with memory_ceiling("2 MiB"):
                allocate(2)
            allocate(1)
    with pytest.raises(AssertionError, match="^7 MiB"):
        with memory_ceiling("6 MiB"):
            with memory_ceiling("9 MiB"):
                allocate(7)


def test_each_device_has_its_own(memory_ceiling):
    for device in (1, "cuda:1", torch.device("cuda:1")):
        with memory_ceiling("2 MiB", device=device) as block:
            allocate(9)
            allocate(2, on="cuda:1")
        assert block.peak_bytes == 2 * MIB


def test_what_goes_wrong_in_the_block_comes_first(memory_ceiling):
    with pytest.raises(KeyError):
        with memory_ceiling("1 MiB"):
            allocate(9)
            raise KeyError("theirs")
    with memory_ceiling("2 MiB"):
        allocate(1)


def test_in_a_worker(memory_ceiling, run_in_worker, freest_gpu):
    assert run_in_worker(train_below, memory_ceiling, 10, device=freest_gpu) == 10 * MIB
    with pytest.raises(AssertionError, match="^11 MiB .* were allocated at most on cuda:0"):
        run_in_worker(train_below, memory_ceiling, 11, device=freest_gpu)


def test_no_tensor_of_a_gpu_goes_between_processes(run_in_worker):
    with pytest.raises(TypeError, match="what give_a_tensor returned cannot .*: it holds a tensor on cuda:0; use a"):
        run_in_worker(give_a_tensor)
    with pytest.raises(TypeError, match="^run_in_worker: the arguments of len cannot .*it holds a tensor on cuda:0;"):
        run_in_worker(len, [Tensor(4)])


@pytest.mark.parametrize("bad", ["gpu", "mps", True, "", ["cuda:0"]])
def test_no_device(memory_ceiling, bad):
    with pytest.raises(ValueError) as caught:
        with memory_ceiling("1 MiB", device=bad):
            allocate(9)
    assert str(caught.value).startswith(f"memory_ceiling: device={bad!r} is neither 'cpu' nor a CUDA device")


def test_no_such_gpu(memory_ceiling):
    for device in (8, "cuda:8"):
        with pytest.raises(ValueError) as caught:
            with memory_ceiling("1 MiB", device=device):
                allocate(9)
        assert str(caught.value) == "memory_ceiling: device='cuda:8': torch sees 8 GPUs, counted from cuda:0."


@pytest.mark.parametrize("error", [None, KeyError("theirs")])
def test_what_cannot_be_measured_breaks_no_other_block(memory_ceiling, monkeypatch, error):
    def lose(device=None):
        raise RuntimeError("the device is lost")

    with pytest.raises(type(error) if error else RuntimeError):
        with memory_ceiling("2 MiB"):
            allocate(1)
            monkeypatch.setattr(torch.cuda, "max_memory_allocated", lose)
            if error:
                raise error
    monkeypatch.undo()
    assert train_below(memory_ceiling, 2) == 2 * MIB


def test_theirs(memory_ceiling):
    with memory_ceiling("1 MiB"):
        allocate(2)  # their line
"""


def test_the_peak_of_the_allocator_is_held_against_it(rig: Rig) -> None:
    rig.node = H100x8
    rig.torch = StandinTorch()
    rig.write("test_theirs.py", ON_A_GPU)
    run = rig.pytest("-p", "no:cacheprovider", "-W", "error")
    assert "1 failed, 17 passed" in run.stdout, run.stdout
    assert ">           allocate" in run.stdout or ">       with memory_ceiling" in run.stdout
    assert "ceiling.py" not in run.stdout, "the failing line is theirs"


WITHOUT = """
import sys
import pytest

def test_without_torch(memory_ceiling):
    assert "torch" not in sys.modules
    with pytest.raises(RuntimeError, match="^memory_ceiling: torch is not imported"):
        with memory_ceiling("1 MiB"):
            pass
    assert "torch" not in sys.modules

@pytest.mark.xfail(reason="of the user")
def test_without_a_gpu(memory_ceiling):
    import torch
    with memory_ceiling("1 MiB"):
        raise AssertionError("it is not entered")

def use(ceiling):
    import torch
    with ceiling("1 MiB"):
        raise AssertionError("it is not entered")

@pytest.mark.xfail(reason="of the user")
def test_in_a_worker(memory_ceiling, run_in_worker):
    run_in_worker(use, memory_ceiling)
"""


@pytest.mark.parametrize("strict", [False, True])
def test_without_a_gpu_it_skips_or_fails(rig: Rig, strict: bool) -> None:
    rig.torch = StandinTorch(cuda=None)
    rig.write("test_theirs.py", WITHOUT)
    rig.variables["COLUMNS"] = "200"
    run = rig.pytest("-rsf", "-p", "no:cacheprovider", *["--bionemo-strict"] * strict)
    assert ("2 failed, 1 passed" if strict else "1 passed, 2 skipped") in run.stdout, run.stdout
    reason = "memory_ceiling needs a GPU that torch can use: here is none (device='cpu' rehearses)"
    assert run.stdout.count(reason) >= 2 if strict else f"test_theirs.py:12: {reason}" in run.stdout


REHEARSAL = """
import pytest
import torch

def model_step(hidden):
    a = torch.ones(256, 1024)          # 1 MiB
    b = torch.ones(256, 1024) * hidden # 2 MiB while it is made
    return float((a + b).sum())

def peak_in(ceiling, limit, **keywords):
    with ceiling(limit, **keywords) as block:
        model_step(2)
    return block.peak_bytes

def test_rehearsal(memory_ceiling, run_in_worker):
    here = peak_in(memory_ceiling, "4 MiB", device="cpu")
    assert 3 << 20 <= here <= 4 << 20
    assert run_in_worker(peak_in, memory_ceiling, "4 MiB") == here
    with pytest.raises(AssertionError, match="MiB .* were allocated at most on cpu, the ceiling is 2 MiB"):
        peak_in(memory_ceiling, "2 MiB")
    with pytest.raises(AssertionError, match="^nothing was allocated on cpu in the block"):
        with memory_ceiling("2 MiB"):
            pass
    with pytest.raises(AssertionError, match="were allocated at most on cpu"):
        with memory_ceiling("2 MiB"):
            with memory_ceiling("8 MiB"):
                model_step(1)

def test_it_counts_in_this_thread(memory_ceiling):
    import threading
    with memory_ceiling("1 MiB", device="cpu") as block:
        thread = threading.Thread(target=model_step, args=(2,))
        thread.start()
        thread.join()
        torch.ones(16)
    assert block.peak_bytes == 64

def make(value):
    return torch.full((2, 2), value)

def test_a_tensor_of_the_cpu_comes_back(run_in_worker):
    assert run_in_worker(make, 3.0).tolist() == [[3.0, 3.0], [3.0, 3.0]]
"""


def test_a_rehearsal_counts_what_operators_return_on_the_cpu(torch_rig: Rig) -> None:
    torch_rig.write("test_theirs.py", REHEARSAL)
    run = torch_rig.pytest("-p", "no:cacheprovider", "--bionemo-device=cpu")
    assert run.returncode == 0, run.stdout
