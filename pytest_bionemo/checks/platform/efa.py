"""EFA, the network between nodes at AWS, and the software that NCCL needs for it."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_bionemo import fixes, rules
from pytest_bionemo.checking import check, fail, not_applicable
from pytest_bionemo.facts import platforms, versions
from pytest_bionemo.facts.instances import Instance
from pytest_bionemo.model import Action, GpuEnv, count
from pytest_bionemo.probes.fabric import Adapter, Fabric, Library
from pytest_bionemo.probes.host import Host
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.probes.platforms import Platform
from pytest_bionemo.terms import Severity

_EFA_GUIDE = "https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/efa.html"


@check()
def has_all_efa_adapters(instance: Instance, fabric: Fabric, platform: Platform) -> None:
    """The machine has all the EFA adapters of its instance type.

    Why: NCCL between nodes is slower by as much as is missing, or falls back to TCP.

    How it decides: it compares the EFA adapters in /sys with those of the instance type. Off HyperPod, where an
    instance may be started without them, it only warns.

    Fix: load the EFA driver, start the instance with all its network cards, or replace the node.
    """
    if instance.cloud != "aws":
        not_applicable("EFA is the network of AWS")
    if instance.efa is None:
        not_applicable(f"sources disagree on how many EFA adapters {instance.name} has, or do not tell")
    if instance.efa == 0:
        not_applicable(f"{instance.name} has no EFA adapter")
    seen, on_bus = len(fabric.efa), fabric.pci_efa or 0
    if seen >= instance.efa:
        return
    if seen == on_bus == 0 and not platform.hyperpod:
        not_applicable(f"this {instance.name} was started without EFA: its type can have {instance.efa}")
    message = f"{count(seen, 'EFA adapter')}; {instance.name} has {instance.efa}"
    why = "NCCL between nodes is slower by as much, or falls back to TCP"
    severity: Severity | None = None if platform.hyperpod else "warning"
    if on_bus > seen:
        fail(
            f"{message}, and {on_bus} {'is' if on_bus == 1 else 'are'} on the PCI bus",
            why=why,
            fix=["$ sudo modprobe efa", "install the EFA driver for the kernel that runs, after a kernel update"],
            links=[_EFA_GUIDE],
            severity=severity,
        )
    if platform.hyperpod:
        late = f" ({instance.note})" if instance.note else ""
        fail(
            message,
            why=why,
            fix=[f"look again in a minute{late}", "reboot the node", "if they do not come back, replace the node"],
            action=Action.REBOOT_NODE,
        )
    fail(
        message,
        why=why,
        fix=f"start the instance with an EFA interface on each of its {instance.efa} network cards",
        links=[_EFA_GUIDE],
        severity="warning",
    )


@check(severity="warning")
def efa_is_open(efa: Fabric, host: Host, gpu_env: GpuEnv) -> None:
    """The EFA adapters are open to this user.

    Why: NCCL between nodes falls back to TCP, which is slower by a factor of ten and more.

    How it decides: each adapter needs a file in /dev/infiniband that this user may open; a container with all GPUs of
    the machine should have been given all of them.

    Fix: give this user, or this container, the files in /dev/infiniband.
    """
    given = [adapter for adapter in efa.efa if adapter.node]
    closed = [adapter for adapter in given if not adapter.is_open]
    why = "NCCL between nodes falls back to TCP, which is slower by a factor of ten and more"
    if host.container and not given:
        _judge_container_without_efa(efa.efa, gpu_env, host)
    if closed:
        fail(
            f"this user may not use {len(closed)} of {count(len(given), 'EFA adapter')} ({_some(closed)})",
            why=why,
            fix=["give this user read and write access to them: a udev rule, or the group that owns them"],
        )
    if len(given) < len(efa.efa) and not host.container:
        missing = [adapter for adapter in efa.efa if not adapter.node]
        fail(
            f"{len(missing)} of {count(len(efa.efa), 'EFA adapter')} have no file in /dev/infiniband",
            why=why,
            fix=["$ sudo modprobe ib_uverbs", "or install the EFA driver anew"],
            links=[_EFA_GUIDE],
        )


def _judge_container_without_efa(adapters: Sequence[Adapter], gpu_env: GpuEnv, host: Host) -> None:
    has_whole_node = host.pci_gpus is not None and len(gpu_env.gpus) == host.pci_gpus > 1
    if not has_whole_node:
        not_applicable("this container has a part of the machine, and was given no EFA adapter")
    fail(
        f"this container has all {len(gpu_env.gpus)} GPUs of the machine and none of its "
        f"{count(len(adapters), 'EFA adapter')}: /dev/infiniband has none",
        why="a job over several nodes would fall back to TCP",
        fix=fixes.alternatives(
            f"request them in the pod: vpc.amazonaws.com/efa: {len(adapters)}",
            "docker run --device=/dev/infiniband ...",
        ),
    )


def _some(adapters: Sequence[Adapter]) -> str:
    more = ", ..." if len(adapters) > 2 else ""
    return ", ".join(adapter.node or adapter.name for adapter in adapters[:2]) + more


@check(severity="warning")
def efa_has_libfabric(efa: Fabric, host: Host) -> None:
    """Programs find a libfabric that is new enough for EFA.

    Why: without it NCCL falls back to TCP without a word.

    How it decides: libfabric has to be installed, in a folder where programs look, and new enough that nothing has to
    be set for NCCL.

    Fix: install the EFA software, also in the image, and put it on the library path.
    """
    if not rules.is_given_efa(efa, host):
        not_applicable("this container was given no EFA adapter: /dev/infiniband has none")
    _judge_library(
        efa.libfabric,
        "libfabric",
        platforms.oldest_libfabric(),
        efa.installer,
        "install the EFA software: efa_installer.sh -y (in an image with --skip-kmod)",
    )


@check(severity="warning")
def nccl_finds_efa(libfabric: Fabric) -> None:
    """NCCL finds the plugin with which it uses EFA.

    Why: without the plugin NCCL falls back to TCP without a word.

    How it decides: aws-ofi-nccl has to be installed, in a folder where programs look, and new enough that nothing has
    to be set for NCCL.

    Fix: install aws-ofi-nccl, and put it on the library path.
    """
    _judge_library(
        libfabric.plugin,
        "aws-ofi-nccl (libnccl-net.so)",
        platforms.oldest_plugin(),
        libfabric.installer,
        "install EFA's software, which has it since 1.41, or aws-ofi-nccl by itself",
    )


def _judge_library(library: Library | None, name: str, oldest: str, installer: str | None, install: str) -> None:
    why = "NCCL between nodes falls back to TCP without a word"
    told = f" (EFA installer {installer})" if installer else ""
    if library is None:
        fail(
            f"{name} is not installed{told}, and this machine has EFA adapters",
            why=why,
            fix=install,
            links=[_EFA_GUIDE],
        )
    if not library.is_found:
        fail(
            f"{library.path} is installed, in a folder where programs do not look",
            why=why,
            fix=fixes.alternatives(
                f"$ export LD_LIBRARY_PATH={library.path.parent}:$LD_LIBRARY_PATH",
                "name the folder in /etc/ld.so.conf.d and run ldconfig",
            ),
        )
    if library.version and versions.leading(library.version) < versions.leading(oldest):
        fail(
            f"{name} is {library.version}{told}; nothing has to be set for NCCL from {oldest} on",
            why="older ones need settings of their own, without which they are slow or fail",
            fix=install,
            links=[_EFA_GUIDE],
        )


@check(severity="warning")
def gdrcopy_is_ready(libfabric: Fabric, instance: Instance, host: Host) -> None:
    """GDRCopy is there where EFA reads GPU memory.

    Why: small messages between GPUs of different nodes take several times as long.

    How it decides: on instance types whose adapters read GPU memory, /dev/gdrdrv has to be there and open, and
    programs have to find libgdrapi.

    Fix: load gdrdrv on the node, give the container /dev/gdrdrv, install libgdrapi.
    """
    if not instance.gpudirect:
        not_applicable(f"EFA does not read the memory of GPUs on {instance.name}")
    if libfabric.gdrcopy_node is None:
        if host.container:
            not_applicable("this container was not given /dev/gdrdrv: EFA copies small messages in another way")
        _fail_for_gdrcopy("/dev/gdrdrv is not there", "$ sudo modprobe gdrdrv")
    if not libfabric.gdrcopy_is_open:
        _fail_for_gdrcopy("this user may not use /dev/gdrdrv", "$ sudo chmod 666 /dev/gdrdrv")
    if libfabric.gdrcopy is None or not libfabric.gdrcopy.is_found:
        where = f": {libfabric.gdrcopy.path} is not on the library path" if libfabric.gdrcopy else ""
        _fail_for_gdrcopy(f"programs do not find libgdrapi{where}", "install libgdrapi in the image or on the node")


def _fail_for_gdrcopy(message: str, fix: str) -> None:
    fail(
        f"{message}, which GDRCopy needs",
        why="small messages between GPUs of different nodes take several times as long",
        fix=[fix, "or install GDRCopy: https://github.com/NVIDIA/gdrcopy"],
    )


@check(severity="warning")
def nccl_variables_suit_efa(efa: Fabric, machine: Machine) -> None:
    """No variable of the environment goes against NCCL over EFA.

    Why: settings that were right for an older plugin, or for one test, stay in scripts and slow every job.

    How it decides: it compares each variable of the environment with a table of those that are known to go against
    NCCL over EFA.

    Fix: unset the variables that the finding names.
    """
    wrong = [
        (name, rule)
        for name, value in sorted(machine.environment.items())
        for rule in platforms.variables()
        if rule.pattern.fullmatch(f"{name}={value}")
    ]
    if wrong:
        names = ", ".join(f"{name}={machine.environment[name]}" for name, _ in wrong)
        fail(
            f"{names}: {'; '.join(dict.fromkeys(rule.why for _, rule in wrong))}",
            why="settings that were right for an older plugin, or for one test, stay in scripts and slow every job",
            fix=[f"{name}: {rule.fix}" for name, rule in wrong],
        )
