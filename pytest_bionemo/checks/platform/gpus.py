"""How many GPUs there should be: those of the instance type, or of the job."""

from __future__ import annotations

from pytest_bionemo import rules
from pytest_bionemo.checking import check, fail, not_applicable, wait_for
from pytest_bionemo.model import Action, Gpu, GpuEnv, count
from pytest_bionemo.options import Options
from pytest_bionemo.probes import mounts
from pytest_bionemo.probes.host import Host
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.probes.platforms import Platform

_GPU_PCI = "look for GPUs that fell off the bus: $ lspci -d 10de:"
_FOR_EACH_TASK = ("SLURM_GPUS_PER_TASK", "SLURM_TRES_PER_TASK", "SLURM_GPU_BIND")


@check()
def has_all_gpus(
    driver: GpuEnv,
    gpus: tuple[Gpu, ...],
    platform: Platform,
    host: Host,
    machine: Machine,
    bionemo_options: Options,
) -> None:
    """The machine has all the GPUs of its instance type, and the job those that it was given.

    Why: a lost GPU fails or hangs every job that is planned for the whole node.

    How it decides: it compares the GPUs that the driver shows with those of the instance type, which the platform's
    own files name, and with those that Slurm gave this job; in a container, which may be given a part, the PCI bus
    tells.

    Fix: look for GPUs that fell off the bus, reboot the node, and replace it where they stay away.
    """
    if bionemo_options.expect_gpus is not None:
        not_applicable("--bionemo-expect-gpus says how many GPUs there must be: driver::expected_count")
    seen = len(gpus) + driver.hidden_gpus
    instance, unknown = rules.instance_of(platform)
    is_contained = _is_contained(host, machine)
    expected = max(instance.gpus if instance else 0, (platform.slurm.gpus or 0) if platform.slurm else 0)
    if seen < expected and rules.lost_gpus(driver, machine.kernel_log, host):
        wait_for("health::no_gpu_is_lost", "the kernel's log says which GPU is lost")
    if instance and seen < instance.gpus:
        # A container, a job or a shell on a node of Slurm may be given a part: the PCI bus shows the whole machine.
        if host.pci_gpus and host.pci_gpus < instance.gpus:
            _fail_for_gpus(host.pci_gpus, instance.gpus, f"{instance.name} has", platform)
        if not is_contained and not platform.slurm:
            _fail_for_gpus(seen, instance.gpus, f"{instance.name} has", platform)
    # In a container the GPUs of the job are divided once more.
    granted = platform.slurm.gpus if platform.slurm and not is_contained else None
    if granted is not None and seen < granted:
        _judge_grant(seen, granted, gpus, platform, host, machine)
    if instance is None and granted is None:
        not_applicable(unknown)
    if instance and seen < instance.gpus and granted is None:
        where = "container" if is_contained else "shell on a node of Slurm"
        not_applicable(f"this {where} was given {seen} of the {instance.gpus} GPUs of {instance.name}")


def _judge_grant(
    seen: int, granted: int, gpus: tuple[Gpu, ...], platform: Platform, host: Host, machine: Machine
) -> None:
    """Fewer GPUs than Slurm gave: sure where the bus has no more, else each task may have been given its own."""
    if any(gpu.mig_enabled for gpu in gpus):
        not_applicable(f"with MIG on, Slurm counts slices: it gave this job {granted}")
    if host.pci_gpus and host.pci_gpus < granted:
        _fail_for_gpus(host.pci_gpus, granted, "Slurm gave this job", platform)
    told = next((name for name in _FOR_EACH_TASK if machine.environment.get(name)), None)
    if told:
        not_applicable(f"{told} gives each task GPUs of its own: {seen} of the {granted} of this job")
    fail(
        f"{count(seen, 'GPU')}; Slurm gave this job {granted}",
        why="a job that counts on all of them fails, or hangs",
        fix=[
            "start one task with all of them, and see whether it has them: $ srun --ntasks=1 nvidia-smi -L",
            _GPU_PCI,
        ],
        severity="warning",
    )


def _is_contained(host: Host, machine: Machine) -> bool:
    """Whether this run may see a part of the GPUs of its machine: not every container leaves a mark."""
    asked_for = machine.environment.get("NVIDIA_VISIBLE_DEVICES", "all")
    return bool(host.container) or asked_for != "all" or mounts.has_own_root(machine.mount_table or ())


def _fail_for_gpus(seen: int, expected: int, owner: str, platform: Platform) -> None:
    replace = "if it does not come back, replace the node"
    if platform.hyperpod and platform.slurm:
        replace += ': $ scontrol update node=NAME state=fail reason="Action:Replace"'
    fail(
        f"{count(seen, 'GPU')}; {owner} {expected}",
        why="a lost GPU fails or hangs every job that is planned for the whole node",
        fix=[_GPU_PCI, "reboot the node", replace],
        action=Action.REBOOT_NODE,
    )
