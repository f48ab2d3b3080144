"""The platform around the machine: cloud, scheduler, network between nodes, shared file systems."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

from pytest_bionemo import fixes, rules
from pytest_bionemo.checking import check, fail, not_applicable, wait_for
from pytest_bionemo.facts import instances, platforms, versions
from pytest_bionemo.facts.instances import Instance
from pytest_bionemo.model import Action, Gpu, GpuEnv, count
from pytest_bionemo.options import Options
from pytest_bionemo.probes import files, mounts
from pytest_bionemo.probes.child import Answer
from pytest_bionemo.probes.fabric import Adapter, Fabric, Library
from pytest_bionemo.probes.host import Host
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.probes.mounts import Mount
from pytest_bionemo.probes.platforms import Databricks, HyperPod, Platform, Slurm
from pytest_bionemo.probes.platforms import slurm as slurm_files
from pytest_bionemo.probes.platforms.slurm import Containers
from pytest_bionemo.terms import Severity

_EFA_GUIDE = "https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/efa.html"
_PYXIS = "https://github.com/NVIDIA/pyxis/wiki"
_DATABRICKS_FILES = "https://docs.databricks.com/en/files/files-recommendations.html"

_GPU_PCI = "look for GPUs that fell off the bus: $ lspci -d 10de:"


# ---------------------------------------------------------------------------------------------- what it should have


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


_FOR_EACH_TASK = ("SLURM_GPUS_PER_TASK", "SLURM_TRES_PER_TASK", "SLURM_GPU_BIND")


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


# ---------------------------------------------------------------------------------------------------------- EFA


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


# --------------------------------------------------------------------------------------------------- InfiniBand


@check(severity="warning")
def infiniband_is_active(fabric: Fabric, platform: Platform, machine: Machine) -> None:
    """The InfiniBand ports of the machine are active.

    Why: NCCL leaves out ports that are not active, and without any falls back to TCP.

    How it decides: it reads the state of each port from /sys: one with a link that is not active has no subnet
    manager; and as many have to be active as the instance type has.

    Fix: look at cables, switches and the subnet manager.
    """
    ports = [(adapter, port) for adapter in fabric.adapters for port in adapter.ports if port.link == "InfiniBand"]
    if not ports:
        not_applicable("there is no InfiniBand port here (/sys/class/infiniband)")
    active = [(adapter, port) for adapter, port in ports if port.state == "ACTIVE"]
    if not active and not _needs_infiniband(platform) and not any(port.physical == "LinkUp" for _, port in ports):
        not_applicable("no InfiniBand port has a cable, and no job over several nodes runs here")
    unmanaged = [(adapter, port) for adapter, port in ports if port.physical == "LinkUp" and port.state != "ACTIVE"]
    why = "NCCL leaves these ports out, and without any it falls back to TCP"
    if unmanaged:
        adapter, port = unmanaged[0]
        fail(
            f"{len(unmanaged)} of {count(len(ports), 'InfiniBand port')} have a link and are not active "
            f"({adapter.name} port {port.number} is {port.state or 'unreadable'})",
            why=why,
            fix=["see that a subnet manager runs in the fabric: $ sminfo", "and that it accepts this port: $ ibstat"],
        )
    if not active:
        fail(
            f"none of {count(len(ports), 'InfiniBand port')} is active",
            why=why,
            fix=["look at the state of the links: $ ibstat", "check cables, switches and the subnet manager"],
        )
    _judge_number_of_ports(len(active), platform)


def _needs_infiniband(platform: Platform) -> bool:
    known = instances.find(platform.instance_type or "")
    has_it = known is not None and known.is_sure and bool(known.infiniband)
    return has_it or bool(platform.slurm and (platform.slurm.nodes or 1) > 1)


def _judge_number_of_ports(active: int, platform: Platform) -> None:
    known = instances.find(platform.instance_type or "")
    if known and known.is_sure and known.infiniband and active < known.infiniband:
        fail(
            f"{count(active, 'active InfiniBand port')}; {known.name} has {known.infiniband}",
            why="NCCL between nodes is slower by as much",
            fix=["look at the state of the links: $ ibstat", "reboot the node", "replace the node if they stay down"],
            action=Action.REBOOT_NODE,
        )


# ------------------------------------------------------------------------------------------- shared file systems


@check()
def shared_file_systems_answer(shared_mounts: tuple[Mount, ...], mount_answers: Answer, machine: Machine) -> None:
    """Every shared file system that is mounted answers.

    Why: whatever touches a file system that does not answer hangs, and no signal ends it: training, data loaders,
    even ls and df.

    How it decides: a child process with a deadline asks each mounted file system that machines share. Where nothing
    of this run lies on the broken one, it only warns.

    Fix: look at the file server and the network to it; mount anew what stays broken.
    """
    silent = mounts.silent(shared_mounts, mount_answers)
    broken = [answer for answer in mount_answers.before if answer["errno"] is not None]
    if mount_answers.failure and not silent:
        wait_for(None, f"the process that asks the shared file systems ended early: {mount_answers.failure}")
    users = rules.users_of((*silent, *mounts.broken(shared_mounts, mount_answers)), machine)
    # Where nothing of this run lies, training can go on.
    severity: Severity | None = None if users else "warning"
    used = f" ({', '.join(users)} {'is' if len(users) == 1 else 'are'} there)" if users else ""
    if silent:
        also = f"; and {_describe_broken(broken)}" if broken else ""
        waited = (mount_answers.failure or "").partition(",")[0]
        fail(
            f"{_describe_mounts(silent)}: {waited}{used}{also}",
            why="whatever touches it hangs, and no signal ends it: training, data loaders, even ls and df",
            fix=[
                "look at the server and the network to it: whatever hangs goes on when the server is back",
                "look at the kernel log: $ sudo dmesg | tail",
                "if the server is well and this node alone waits, unmount it and mount it again, or reboot the node",
            ],
            severity=severity,
        )
    if broken:
        _fail_for_errors(broken, used, severity)


def _fail_for_errors(broken: Sequence[dict[str, object]], used: str, severity: Severity | None) -> None:
    place = shlex.quote(_shown(str(broken[0]["path"])))
    remedies = {
        errno.ESTALE: "the server has exported it anew: unmount it and mount it again",
        errno.ENOTCONN: "the program that serves it has ended: unmount it and mount it again",
    }
    number = broken[0]["errno"]
    remedy = remedies.get(number) if isinstance(number, int) else None
    fail(
        f"{_describe_broken(broken)}{used}",
        why="whatever is read from there or written to it fails",
        fix=[f"{remedy or 'unmount it and mount it again'}: $ sudo umount {place} && sudo mount {place}"],
        severity=severity,
    )


def _describe_mounts(found: Sequence[Mount]) -> str:
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return ", ".join(f"{_shown(mount.path)} ({_kind_of(mount)})" for mount in found[:3]) + more


def _kind_of(mount: Mount) -> str:
    known = platforms.shared_file_systems()
    return known.get(mount.kind) or known.get(f"fuse.{mount.program}") or _shown(mount.program or mount.kind)


def _describe_broken(broken: Sequence[dict[str, object]]) -> str:
    more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
    return ", ".join(f"{_shown(str(answer['path']))}: {answer['error']}" for answer in broken[:3]) + more


def _shown(path: str) -> str:
    """As it can be printed: a name of a file need not be UTF-8."""
    return path.encode(errors="backslashreplace").decode()


@check(severity="warning")
def fsx_is_mounted(hyperpod: HyperPod, mount_table: tuple[Mount, ...], machine: Machine) -> None:
    """The FSx for Lustre file system of the HyperPod cluster is mounted.

    Why: HOME, data and container images are there: without it each node writes to its own small disk instead.

    How it decides: it looks in the table of mounts for the file system that the cluster's description names.

    Fix: mount the file system that the cluster's description names.
    """
    if hyperpod.fsx is None:
        not_applicable("the cluster's description (provisioning_parameters.json) names no FSx file system")
    # The table of mounts has the server's address (10.1.2.3@tcp:/NAME) where the description has its name.
    if not any(_is_fsx(mount, hyperpod) for mount in machine.shared_mounts):
        fail(
            f"{hyperpod.fsx} is not mounted, and the cluster's description says that it is to be",
            why="HOME, data and container images are there, and each node would write to its own 100 GB disk instead",
            fix=["run the lifecycle script again on this node: mount_fsx.sh",
                 "allow Lustre in the security group: TCP 988 and 1018 to 1023"],
        )  # fmt: skip


def _is_fsx(mount: Mount, hyperpod: HyperPod) -> bool:
    below = f"{mount.source}/".partition(":/")[2]
    has_name = hyperpod.fsx_mount is not None and below.startswith(f"{hyperpod.fsx_mount}/")
    return has_name or (hyperpod.fsx is not None and hyperpod.fsx in mount.source)


# ------------------------------------------------------------------------------------------------- schedulers


@check(severity="warning")
def cluster_description_is_readable(hyperpod: HyperPod) -> None:
    """The files that describe the HyperPod cluster are whole.

    Why: HyperPod's agents and lifecycle scripts read these files: with damaged ones a node is set up in part, or not
    resumed.

    How it decides: the files in /opt/ml/config have to be there, to be JSON and to hold what they describe.

    Fix: look at /opt/ml/config, and at the life-cycle scripts of the cluster.
    """
    if hyperpod.problems:
        fail(
            "; ".join(hyperpod.problems),
            why="HyperPod's agents and lifecycle scripts read them: the node is set up in part, or not resumed",
            fix=["compare it with that of another node", "replace the node if the files stay damaged"],
        )


@check(severity="warning")
def slurm_starts_containers(slurm: Slurm, slurm_containers: Containers, machine: Machine) -> None:
    """Slurm can start containers where it is configured to (pyxis and enroot).

    Why: srun --container-image fails on this node, or waits long for each start.

    How it decides: where Slurm's plugstack.conf names pyxis, its plugin and enroot have to be there, and enroot's
    folders writable, on a local disk and large enough for BioNeMo's images.

    Fix: install what pyxis lacks, or take it out of Slurm's plugins.
    """
    found = slurm_containers
    if slurm.job is None and not machine.gpu_env.gpus:
        not_applicable("no job runs here, and there is no GPU: containers are started on other nodes")
    if not found.plugin_exists:
        _fail_for_containers(
            f"{found.configuration} names {found.plugin}, which is not there",
            "install pyxis for the version of Slurm that runs, or take it out of plugstack.conf",
        )
    if found.enroot is None:
        _fail_for_containers(
            f"{found.configuration} has pyxis, and enroot is not installed",
            "install enroot: https://github.com/NVIDIA/enroot/releases",
        )
    for place in found.places:
        _judge_place(place)


def _judge_place(place: slurm_files.Place) -> None:
    needed = platforms.largest_image_bytes()
    local = "name a local disk in enroot.conf (on HyperPod /opt/dlami/nvme)"
    if place.is_shared and place.setting != "ENROOT_CACHE_PATH":
        _fail_for_containers(f"{place.setting} of enroot is on a shared file system: {place.folder}", local)
    if not place.is_writable:
        _fail_for_containers(
            f"this user may not write in {place.folder}, where enroot has its {place.setting}",
            "create a folder there that every user can write: $ sudo mkdir -p -m 1777 FOLDER",
        )
    if place.setting == "ENROOT_DATA_PATH" and place.free_bytes is not None and place.free_bytes < needed:
        _fail_for_containers(
            f"{place.folder}, where enroot unpacks containers, has {place.free_bytes / 1e9:.0f} GB free; "
            f"BioNeMo's images take up to {needed / 1e9:.0f} GB",
            f"make room there, or {local}",
        )


def _fail_for_containers(message: str, fix: str) -> None:
    fail(
        message,
        why="srun --container-image fails on this node, or waits long for each start",
        fix=fix,
        links=[_PYXIS],
    )


_SCRIPTS_AT_MOST = 100
_SCRIPT_BYTES = 64 << 10


@check(severity="warning")
def job_scripts_avoid_known_bugs(platform: Platform, machine: Machine) -> None:
    """No job script here has one of the faults of AWS' published templates.

    Why: scripts that were copied from such a template carry its faults into every job.

    How it decides: it reads the job scripts in the current folder, and the one that this job runs, and looks for each
    fault on record; nothing is executed.

    Fix: change the lines of the script that the finding names.
    """
    if platform.scheduler is None and platform.hyperpod is None:
        not_applicable("there is no scheduler here (Slurm, Kubernetes), whose job scripts these would be")
    scripts = dict(_scripts(machine))
    if not scripts:
        not_applicable("there is no job script in this folder")
    found = [
        (name, fault) for name, text in scripts.items() for fault in platforms.templates() if fault.is_in(name, text)
    ]
    if found:
        fail(
            "; ".join(f"{name}: {fault.message}" for name, fault in found[:4]),
            why="; ".join(dict.fromkeys(fault.why for _, fault in found[:4])),
            fix=list(dict.fromkeys(fault.fix for _, fault in found)),
        )


def _scripts(machine: Machine) -> Iterator[tuple[str, str]]:
    """Job scripts of the current folder, and the one that this job runs."""
    suffixes = {suffix for fault in platforms.templates() for suffix in fault.suffixes}
    here = [name for name in files.names(Path()) if name.endswith(tuple(suffixes))]
    for name in here[:_SCRIPTS_AT_MOST]:
        if text := files.text(Path(name), _SCRIPT_BYTES):
            yield name, text
    running = slurm_files.batch_script(machine.environment, Path("/"))
    if running and (text := files.text(running, _SCRIPT_BYTES)):
        yield f"{running.name}.sbatch", text


# --------------------------------------------------------------------------------------------------- Databricks


@check(severity="warning")
def databricks_runtime_is_supported(databricks: Databricks) -> None:
    """Databricks still supports the runtime.

    Why: a runtime without support gets no fixes, and its PyTorch and CUDA are older than what BioNeMo needs.

    How it decides: it compares today's date with the last day of support of this runtime.

    Fix: choose a runtime that is still supported.
    """
    if databricks.runtime is None:
        not_applicable(f"Databricks {databricks.kind} names no runtime that ends")
    ends, today = platforms.runtime_end(databricks.runtime), date.today()
    if ends and ends < today:
        newest = platforms.supported_runtimes(today)[-3:]
        fail(
            f"Databricks Runtime {databricks.runtime} is without support since {ends.isoformat()} at the latest",
            why="it gets no fixes, and its PyTorch and CUDA are older than what BioNeMo needs",
            fix=f"choose a newer runtime, for machine learning with GPUs: {' ML, '.join(newest)} ML",
        )


# Where libraries put weights and checkpoints, and where they must not be on Databricks.
_CACHES = ("BIONEMO_CACHE_DIR", "HF_HOME", "HF_HUB_CACHE", "NEMO_HOME", "TORCH_HOME", "TMPDIR")
_UNSUITED = {"/Workspace": "workspace files, which are for notebooks and code", "/dbfs": "DBFS, which is deprecated"}


@check(severity="warning")
def databricks_storage_suits_training(databricks: Databricks, machine: Machine) -> None:
    """Weights and checkpoints do not go to workspace files or DBFS.

    Why: files as large as checkpoints are slow in workspace files and on DBFS, or refused.

    How it decides: it looks at the variables that name caches and temporary folders: none may lead below /Workspace
    or /dbfs.

    Fix: keep checkpoints and caches on a local disk or a volume.
    """
    # The paths themselves are not shown: those of workspace files hold the user's name.
    found = [
        (name, root)
        for name in _CACHES
        for root in _UNSUITED
        if os.path.normpath(machine.environment.get(name, "")).split("/")[:2] == root.split("/")
    ]
    if found:
        fail(
            "; ".join(f"{name} is below {root}: {_UNSUITED[root]}" for name, root in found),
            why="files of gigabytes are slow there or refused, and those of checkpoints are that large",
            fix=[
                f"set {found[0][0]} to a volume (/Volumes/CATALOG/SCHEMA/VOLUME), or to the local disk (/local_disk0)"
            ],
            links=[_DATABRICKS_FILES],
        )
