"""Training, on what this machine has."""

import pytest
import torch

from smallprotein import encode, train

IDS = encode(["MKTAYIAKQRQISFVKSHFSRQ", "GSHMSEQNNTEMTFQIQRIYTKDI", "MLSDEDFKAVFGMTRSAFANLPLWKQQNLKKEKGLF"])


def test_the_loss_falls():
    losses = train(IDS, steps=12).losses
    assert losses[-1] < losses[0] / 2


def test_how_fast_it_is(measure):
    """The number lands in the JUnit file, and in the report of ``pytest --bionemo-validate tests``."""
    measure("training_speed", train(IDS, steps=5).tokens_per_second, "tokens/s")


def test_it_repeats_in_a_fresh_process(run_in_worker):
    """No state of this process decides the outcome; were it to hang, the deadline would end it."""
    assert run_in_worker(train, IDS, steps=3, timeout=120).losses == train(IDS, steps=3).losses


@pytest.mark.gpu_env(dtype="bf16", free_memory_gb=1)
def test_the_loss_falls_in_bf16(run_in_worker, freest_gpu):
    """Skipped where no GPU computes in BF16; the worker sees the freest GPU alone."""
    losses = run_in_worker(train, IDS, "cuda", steps=12, precision=torch.bfloat16, device=freest_gpu).losses
    assert losses[-1] < losses[0] / 2


@pytest.mark.gpu_env(min_gpus=2, nvlink=True, min_memory_gb=40)
class TestAcrossGpus:
    """A whole class can need something: here two large GPUs that are linked."""

    def test_every_gpu_trains_alike(self, run_in_worker, gpu_env):
        losses = {run_in_worker(train, IDS, "cuda", steps=3, device=gpu).losses for gpu in gpu_env.gpus[:2]}
        assert len(losses) == 1
