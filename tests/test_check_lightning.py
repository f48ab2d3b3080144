"""The topic lightning on whole machines: healthy in a rehearsal, and each fault found where it is."""

from __future__ import annotations

import re

import pytest

from conftest import REPORT, Rig, Run
from faults import proves
from standin.distributions import write_distribution

FITS = "lightning::fits[cpu0-32-true]"
CHECKPOINT = "lightning::checkpoint_round_trip[cpu0]"
OUTCOMES = {
    "lightning::installed": "passed",
    "lightning::requirements_met": "passed",
    "lightning::imports[cpu0-lightning]": "not_applicable",
    "lightning::imports[cpu0-pytorch-lightning]": "passed",
    "lightning::trainer_starts[cpu0]": "passed",
    "lightning::fits[cpu0-32-true]": "passed",
    "lightning::fits[cpu0-16-mixed]": "not_applicable",
    "lightning::fits[cpu0-bf16-mixed]": "passed",
    "lightning::checkpoint_round_trip[cpu0]": "passed",
    "lightning::strategy_starts[cpu0-ddp]": "passed",
    "lightning::strategy_starts[cpu0-fsdp]": "not_applicable",
    "lightning::strategy_starts[cpu0-fsdp2]": "passed",
}


def outcomes(run: Run) -> dict[str, str]:
    ids = [check["id"].removeprefix("bionemo/") for check in run.bionemo["checks"] if check["topic"] == "lightning"]
    return {name: run.outcome(name) for name in ids}


def reason(run: Run, check: str) -> str:
    entries = run.bionemo["not_applicable"]
    return next(str(entry["reason"]) for entry in entries if entry["check"] == f"bionemo/{check}")


def test_a_healthy_machine_passes_and_only_the_report_is_left(compute_rig: Rig) -> None:
    # Otherwise nothing that is installed there requires Lightning.
    write_distribution(compute_rig.site, "a-model", "1.0", requires=["pytorch-lightning>=2"])
    run = compute_rig.rehearse("bionemo/lightning")
    assert outcomes(run) == OUTCOMES
    assert run.verdict == "INCONCLUSIVE"
    assert "on a CPU, Lightning trains in bf16-mixed" in reason(run, "lightning::fits[cpu0-16-mixed]")
    assert "fsdp2 is rehearsed" in reason(run, "lightning::strategy_starts[cpu0-fsdp]")
    falls = {entry["name"]: entry for entry in run.bionemo["measurements"]}
    assert sorted(falls) == ["lightning_loss_fall_tiny_32_true", "lightning_loss_fall_tiny_bf16_mixed"]
    assert all(entry["value"] > entry["reference"] == 0.3 for entry in falls.values())
    assert [path.name for path in compute_rig.project.iterdir()] == [REPORT]
    left = [path.name for path in (compute_rig.environment.folder / "tmp").iterdir()]
    assert [name for name in left if not name.startswith("pytest-of-")] == [], "pytest's own is not ours"
    assert [path.name for path in (compute_rig.environment.folder / "home").iterdir()] == []


def test_where_esm2_cannot_be_built_a_small_model_is_trained_and_judged(compute_rig: Rig) -> None:
    """Why it cannot is the affair of the topic forward: it is no second finding here."""
    compute_rig.spoil_workers(
        "import sys\n"
        "sys.modules['transformers.models.esm.modeling_esm'] = None\n"
        "torch.optim.AdamW.step = lambda self, closure=None: closure()\n"
    )
    run = compute_rig.rehearse(f"bionemo/{FITS}", f"bionemo/{CHECKPOINT}")
    assert run.finding(FITS)["message"].startswith("cpu0: a small model (ESM-2 cannot be built) in 32-true: the loss")
    assert [entry["name"] for entry in run.bionemo["measurements"]] == ["lightning_loss_fall_plain_32_true"]
    assert run.outcome(CHECKPOINT) == "passed"


# ----------------------------------------------------------------------------------------------- training


@proves("lightning::fits", "the optimizer changes nothing", "kernel")
def test_a_loss_that_does_not_fall_is_found(compute_rig: Rig) -> None:
    compute_rig.spoil_workers("torch.optim.AdamW.step = lambda self, closure=None: closure()")
    run = compute_rig.rehearse(f"bionemo/{FITS}")
    finding = run.finding(FITS)
    assert finding["device"] == "cpu0"
    assert finding["message"].startswith("cpu0: ESM-2 tiny in 32-true: the loss goes from 3.")
    assert finding["message"].endswith("a fall of 0.000: more than 0.3 is expected")
    assert run.bionemo["measurements"][0]["value"] == 0


def test_a_loss_that_is_no_number_is_found_with_its_step(compute_rig: Rig) -> None:
    """The kernel is at fault, and only after some use."""
    compute_rig.spoil_workers(
        "library = torch.library.Library('aten', 'IMPL')\n"
        "calls = []\n"
        "def log_softmax(x, dim, half_to_float):\n"
        "    calls.append(1)\n"
        "    right = x - x.exp().sum(dim, keepdim=True).log()\n"
        "    return right * float('nan') if len(calls) == 5 else right\n"
        "library.impl('_log_softmax', log_softmax, 'CPU')\n"
    )
    run = compute_rig.rehearse(f"bionemo/{FITS}")
    assert run.finding(FITS)["message"] == "cpu0: ESM-2 tiny in 32-true: the loss of step 5 is nan"


@proves("lightning::fits", "autocast does nothing", "kernel")
def test_autocast_that_does_nothing_is_found(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(
        "enter = torch.autocast.__enter__\n"
        "def enter_disabled(self):\n"
        "    self._enabled = False\n"
        "    return enter(self)\n"
        "torch.autocast.__enter__ = enter_disabled\n"
    )
    run = compute_rig.rehearse("bionemo/lightning::fits")
    assert run.outcome("lightning::fits[cpu0-32-true]") == "passed"
    finding = run.finding("lightning::fits[cpu0-bf16-mixed]")
    assert "linear layers compute in float32 with parameters in float32, expected bfloat16" in finding["message"]


def test_a_device_that_lightning_does_not_take_is_found(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(
        "from pytorch_lightning.accelerators import CPUAccelerator\n"
        "CPUAccelerator.is_available = staticmethod(lambda: False)\n"
    )
    run = compute_rig.rehearse("bionemo/lightning::trainer_starts")
    message = run.finding("lightning::trainer_starts[cpu0]")["message"]
    assert "cpu0: Lightning ends in MisconfigurationException: `CPUAccelerator` can not run on your system" in message


@proves("lightning::trainer_starts", "the Trainer is on another device", "package")
def test_a_trainer_on_another_device_is_found(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(
        "from pytorch_lightning.strategies import SingleDeviceStrategy\n"
        "SingleDeviceStrategy.root_device = torch.device('meta')\n"
    )
    run = compute_rig.rehearse("bionemo/lightning::trainer_starts")
    message = run.finding("lightning::trainer_starts[cpu0]")["message"]
    assert message.startswith("cpu0: told to take it, the Trainer takes meta; left to choose, the Trainer takes")


# -------------------------------------------------------------------------------- checkpoints, strategies


@proves("lightning::checkpoint_round_trip", "one byte of the checkpoint changes", "package")
def test_a_checkpoint_with_one_byte_changed_is_found(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(
        "save = torch.save\n"
        "def faulty(checkpoint, file, *args, **kwargs):\n"
        "    save(checkpoint, file, *args, **kwargs)\n"
        "    stored = checkpoint['state_dict']['model.lm_head.dense.weight'].numpy().tobytes()\n"
        "    file.getbuffer()[file.getvalue().index(stored) + 1234] ^= 16\n"
        "torch.save = faulty\n"
    )
    run = compute_rig.rehearse(f"bionemo/{CHECKPOINT}")
    message = run.finding(CHECKPOINT)["message"]
    assert re.fullmatch(
        r"cpu0: 1 of the \d+ bytes of a checkpoint were loaded differently than they were saved, "
        r"in 1 of \d+ tensors, such as model\.lm_head\.dense\.weight",
        message,
    )


@proves("lightning::strategy_starts", "no process group can be started", "package")
def test_a_process_group_that_does_not_start_is_found(compute_rig: Rig) -> None:
    compute_rig.spoil_workers("torch.distributed.is_available = lambda: False")
    run = compute_rig.rehearse("bionemo/lightning::strategy_starts")
    message = run.finding("lightning::strategy_starts[cpu0-ddp]")["message"]
    assert "cpu0: Lightning ends in RuntimeError: torch.distributed is not available" in message


def test_gradients_that_are_lost_on_the_way_are_found(compute_rig: Rig) -> None:
    compute_rig.spoil_workers(
        "init = torch.nn.parallel.DistributedDataParallel.__init__\n"
        "def lose(state, bucket):\n"
        "    future = torch.futures.Future()\n"
        "    future.set_result(torch.zeros_like(bucket.buffer()))\n"
        "    return future\n"
        "def faulty(self, *args, **kwargs):\n"
        "    init(self, *args, **kwargs)\n"
        "    self.register_comm_hook(None, lose)\n"
        "torch.nn.parallel.DistributedDataParallel.__init__ = faulty\n"
    )
    run = compute_rig.rehearse("bionemo/lightning::strategy_starts")
    message = run.finding("lightning::strategy_starts[cpu0-ddp]")["message"]
    assert message.startswith("cpu0: DDPStrategy (ddp): a loss is 3.")
    assert run.outcome("lightning::strategy_starts[cpu0-fsdp2]") == "passed"


# ------------------------------------------------------------------------------------ what is installed


@proves("lightning::imports", "Lightning does not import", "distribution")
def test_a_lightning_that_does_not_import_is_one_finding(compute_rig: Rig) -> None:
    (compute_rig.site / "pytorch_lightning.py").write_text(
        "try:\n    import a_missing_part\nexcept ImportError as error:\n    raise RuntimeError from error\n"
    )
    run = compute_rig.rehearse("bionemo/lightning")
    broken = "lightning::imports[cpu0-pytorch-lightning]"
    assert run.blockers == [broken]
    message = run.finding(broken)["message"]
    assert message.startswith("import pytorch_lightning (pytorch-lightning 2.")
    assert message.endswith("fails: ModuleNotFoundError: No module named 'a_missing_part'")
    waiting = [entry for entry in run.bionemo["not_run"] if entry["waits_for"] == f"bionemo/{broken}"]
    assert len(waiting) == 6
    assert run.outcome("lightning::installed") == "passed"


@proves("lightning::requirements_met", "Lightning is older than a package needs", "distribution")
def test_a_requirement_that_is_not_met_is_a_warning_with_its_reason(rig: Rig) -> None:
    write_distribution(rig.site, "lightning", "2.6.6")
    write_distribution(
        rig.site, "nemo_toolkit", "3.0.0", requires=['lightning<=2.4.0,>2.2.1; extra == "core"', "numpy"]
    )
    write_distribution(rig.site, "a-model", "1.0", requires=["nemo-toolkit[core]"])
    run = rig.validate("bionemo/lightning", "--bionemo-device=cpu")
    assert run.warnings == ["lightning::requirements_met"]
    finding = run.finding("lightning::requirements_met")
    assert finding["message"] == "nemo-toolkit[core] 3.0.0 requires lightning<=2.4.0,>2.2.1: 2.6.6 is installed"
    assert "failed with Lightning 2.5" in finding["why"]
    assert finding["fix"][0] == '$ pip install "lightning<=2.4.0,>2.2.1"'
    assert finding["links"] == ["https://github.com/NVIDIA-NeMo/Speech/pull/11694"]


def test_a_cap_in_an_extra_that_nobody_installed_is_no_warning(rig: Rig) -> None:
    """Nor is it that Lightning is newer than 2.5: nothing that is installed minds."""
    write_distribution(rig.site, "lightning", "2.6.6")
    write_distribution(rig.site, "pytorch-lightning", "2.6.6")
    write_distribution(rig.site, "nemo_toolkit", "3.0.0", requires=['lightning<=2.4.0,>2.2.1; extra == "core"'])
    write_distribution(rig.site, "bionemo-llm", "2.4.5", requires=["lightning>=2.2.1"])
    run = rig.validate("bionemo/lightning", "--bionemo-device=cpu")
    assert run.outcome("lightning::requirements_met") == "passed"
    assert run.warnings == []


def test_the_other_distribution_does_not_meet_a_requirement(rig: Rig) -> None:
    write_distribution(rig.site, "pytorch-lightning", "2.6.6")
    write_distribution(rig.site, "bionemo-llm", "2.4.5", requires=["lightning>=2.2.1"])
    run = rig.validate("bionemo/lightning", "--bionemo-device=cpu")
    finding = run.finding("lightning::requirements_met")
    assert finding["message"] == "bionemo-llm 2.4.5 requires lightning>=2.2.1: it is not installed"
    assert "pytorch-lightning alone does not give it that" in finding["why"]


@pytest.mark.parametrize("name", ["lightning", "pytorch-lightning"])
def test_either_distribution_will_do(torch_rig: Rig, name: str) -> None:
    write_distribution(torch_rig.site, name, "2.6.6")
    run = torch_rig.rehearse("bionemo/lightning::installed", "bionemo/lightning::requirements_met")
    assert run.outcome("lightning::installed") == "passed"
    assert run.outcome("lightning::requirements_met") == "not_applicable"


@proves("lightning::installed", "Lightning is not installed", "distribution")
def test_without_lightning_one_warning_says_so(torch_rig: Rig) -> None:
    run = torch_rig.rehearse("bionemo/lightning")
    assert run.warnings == ["lightning::installed"]
    assert run.blockers == []
    assert run.finding("lightning::installed")["fix"] == ["$ pip install pytorch-lightning"]
    others = {name: outcome for name, outcome in outcomes(run).items() if name != "lightning::installed"}
    assert set(others.values()) == {"not_applicable"}
    assert reason(run, "lightning::trainer_starts[cpu0]") == "Lightning is not installed"
