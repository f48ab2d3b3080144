"""A GPU's links: to the host, to its peers, and the fabric of switches."""

from __future__ import annotations

import time

from pytest_bionemo.checking import check, fail, not_applicable, wait_for
from pytest_bionemo.checks.health.shared import (
    FABRIC_GUIDE,
    RESET_ALL,
    end_for_silence,
    is_on_a_board,
    model_of,
    name_of,
    peers_of,
    require_answer,
)
from pytest_bionemo.facts import health as facts
from pytest_bionemo.model import Action, Gpu, GpuEnv, count
from pytest_bionemo.probes.health import GpuHealth
from pytest_bionemo.probes.host import Host
from pytest_bionemo.probes.machine import Machine


@check(severity="warning")
def host_link_is_wide(gpu: Gpu, gpu_health: GpuHealth, machine: Machine) -> None:
    """The GPU's PCIe link to the host has all lanes of a module, half those of a card, and those of its peers.

    Why: copies to and from the host, and to network cards, take longer in the same measure as lanes are missing.

    How it decides: it compares the lanes of the link with those that the GPU has (a slot may have half of them), and
    lanes and generation with the other GPUs of this kind; the generation in use is not judged, since idle links are
    slow on purpose.

    Fix: reseat the GPU, look at riser and slot.
    """
    model = model_of(gpu)
    if model is None or model.segment != "datacenter":
        not_applicable(f"{gpu.name or 'this GPU'} may use fewer lanes while it is idle")
    if model.host_link_gbs is not None:
        not_applicable(f"{model.name} is linked to its processor by another link than PCIe")
    link = gpu_health.pci_link
    if link is None:
        end_for_silence(gpu, gpu_health, "pci_link")
    peers = [peer.pci_link for peer in peers_of(gpu, machine) if peer.pci_link]
    widest = max((peer.width for peer in peers), default=0)
    # A slot may have half the lanes of a card; the module of a board has all of them.
    least = link.max_width if is_on_a_board(model) else link.max_width // 2
    needed = max(least, widest)
    if link.width < needed:
        like = f", {widest} of other GPUs here" if widest > link.width else ""
        fail(
            f"{name_of(gpu)}: its PCIe link has {count(link.width, 'lane')} of {link.max_width}{like}",
            why="copies to and from the host, and to network cards, take longer in the same measure",
            fix=[
                "reboot the node: the link is trained anew",
                "if it comes back, reseat the GPU, or replace the node",
            ],
            action=Action.REBOOT_NODE,
        )
    fastest = max((peer.max_generation or 0 for peer in peers), default=0)
    if link.max_generation is not None and link.max_generation < fastest:
        fail(
            f"{name_of(gpu)}: its PCIe link can reach generation {link.max_generation}, those of other GPUs here "
            f"{fastest}",
            why="each generation is twice as fast as the one before",
            fix=["look at the slot's setting in the firmware of the machine", "reseat the GPU, or replace the node"],
            action=Action.REBOOT_NODE,
        )


_LEAST_MINUTES = 30.0


@check(severity="warning")
def host_link_is_clean(gpu: Gpu, gpu_health: GpuHealth) -> None:
    """Packets on the GPU's PCIe link rarely have to be sent again.

    Why: a link that sends packets again is bad: copies are slow, and the GPU may fall off the bus.

    How it decides: it divides the counter of PCIe replays by the time since the machine was started, and compares the
    rate with the limit.

    Fix: reseat the GPU, look at riser and slot.
    """
    replays = gpu_health.pcie_replays
    if replays is None:
        end_for_silence(gpu, gpu_health, "pcie_replays")
    most = facts.limit("pcie_replays_per_minute")
    # Training a link costs some, which is no rate when the machine has just been started.
    minutes = max(_LEAST_MINUTES, _uptime_s() / 60)
    if replays > most * minutes:
        fail(
            f"{name_of(gpu)}: {replays} packets on its PCIe link were sent again in at most {minutes:.0f} minutes, "
            f"up to {most:g} a minute are no fault",
            why="the link is bad: copies are slow, and the GPU may fall off the bus",
            fix=[
                "reboot the node: the link is trained anew",
                "if it comes back, reseat the GPU, or replace the node",
            ],
            action=Action.REBOOT_NODE,
        )


def _uptime_s() -> float:
    """Since the machine was started: the driver, which counts from its own start, cannot be older."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@check()
def nvlinks_are_up(gpu: Gpu, gpu_health: GpuHealth, driver: GpuEnv, machine: Machine) -> None:
    """Every NVLink that this model of GPU has is up.

    Why: GPUs talk over PCIe instead, many times slower, or NCCL does not start.

    How it decides: it counts the links that are up and compares them with those of the model on a board that joins
    several.

    Fix: reset the GPUs together or reboot the node; replace it where links stay down.
    """
    expected = _nvlinks(gpu, gpu_health)
    if waiting := _waiting_for_fabric(machine):
        wait_for(f"health::fabric_is_ready[gpu{waiting[0].index}]", "GPUs have not joined their NVSwitch fabric")
    links = gpu_health.nvlinks
    is_alone = len(driver.gpus) + driver.hidden_gpus == 1
    if links is None and not is_alone:
        require_answer(gpu, gpu_health, "nvlinks")
    if links is None:
        end_for_silence(gpu, gpu_health, "nvlinks")
    if len(links.up) >= expected:
        return
    if is_alone and not links.up:
        not_applicable(f"GPU {gpu.index} is the only one here, and its NVLinks lead nowhere")
    down = (
        f" (down: {', '.join(map(str, links.down[:6]))}{', ...' if len(links.down) > 6 else ''})"
        if links.down
        else ""
    )
    fail(
        f"{name_of(gpu)}: {len(links.up)} of {expected} NVLinks are up{down}",
        why="GPUs talk over PCIe instead, many times slower, or NCCL does not start",
        fix=[
            "see that the fabric manager runs, of the driver's own version: $ systemctl status nvidia-fabricmanager",
            "reboot the node, or " + RESET_ALL,
            "if it comes back, replace the node",
        ],
        action=Action.REBOOT_NODE,
        links=[FABRIC_GUIDE],
        # A program on one GPU needs none of them.
        severity="warning" if is_alone else None,
    )


def _nvlinks(gpu: Gpu, health: GpuHealth) -> int:
    """How many must be up."""
    if health.mig_mode:
        not_applicable(f"GPU {gpu.index} is in MIG mode, in which slices use no NVLink")
    model = model_of(gpu)
    if model is None:
        not_applicable(f"how many NVLinks {gpu.name} has is not on record")
    if model.nvlink_gbs is None:
        not_applicable(f"{model.name} has no NVLink")
    expected = facts.nvlinks(model.name)
    if expected is None:
        not_applicable(f"how many NVLinks of {model.name} are in use differs from machine to machine")
    return expected


@check(severity="warning")
def nvlinks_are_clean(gpu: Gpu, gpu_health: GpuHealth) -> None:
    """No NVLink had to send packets again, or to be trained again.

    Why: a link with such errors is slower, and often fails altogether later.

    How it decides: any packet that was sent again, and any link that was trained again, since the driver was loaded
    is a finding; damaged packets are, above the limit.

    Fix: watch them; replace the node where errors go on.
    """
    errors = gpu_health.nvlink_errors
    if errors is None:
        end_for_silence(gpu, gpu_health, "nvlink_errors")
    most = facts.limit("nvlink_crc_errors_per_second")
    found = []
    if errors.replays:
        found.append(f"{count(errors.replays, 'packet')} sent again")
    if errors.recoveries:
        found.append(f"trained again {count(errors.recoveries, 'time')}")
    if errors.crc > most * max(1.0, _uptime_s()):
        found.append(f"{errors.crc} damaged packets, more than {most:g} a second")
    if found:
        fail(
            f"{name_of(gpu)}: errors on its NVLinks since the driver was loaded: {', '.join(found)}",
            why="a link with such errors is slower, and often fails altogether later",
            fix=[
                f"see which link it is: $ nvidia-smi nvlink -e -i {gpu.index}",
                "replace the node if they become more",
            ],
            action=Action.NONE,
        )


# nvmlGpuFabricState_t
_FABRIC_NOT_SUPPORTED, _FABRIC_NOT_STARTED, _FABRIC_IN_PROGRESS, _FABRIC_COMPLETED = 0, 1, 2, 3
# NVML_GPU_FABRIC_HEALTH_MASK_*: shift, and in words what it means where the two bits are 1 ("true").
_ROUTE_UNHEALTHY = 4
_FABRIC_FAULTS = {
    _ROUTE_UNHEALTHY: ("a route is unhealthy", "blocker"),
    0: ("its bandwidth is degraded", "warning"),
    2: ("a route is being recovered", "warning"),
    6: ("it recovers from an access that timed out", "warning"),
}
_FABRIC_CONFIGURATION = 8  # four bits: 0 is not supported, 1 none
_FABRIC_CONFIGURATIONS = {
    2: "a wrong system GUID",
    3: "a wrong serial number of the chassis",
    4: "no partition",
    5: "too few NVLinks",
    6: "a GPU firmware that does not fit",
    7: "a wrong place",
    8: "a GPU in a state that is not valid",
}


@check()
def fabric_is_ready(gpu: Gpu, gpu_health: GpuHealth, driver: GpuEnv, machine: Machine, host: Host) -> None:
    """The GPU has joined its NVSwitch fabric, and the fabric is healthy.

    Why: until a GPU has joined its NVSwitch fabric, CUDA does not start on it (error 802).

    How it decides: it reads the state, the result and the health of the fabric from NVML: a GPU that has not joined,
    could not, has an unhealthy route or is set up wrongly blocks; degraded bandwidth and recoveries warn.

    Fix: start nvidia-fabricmanager in the driver's version; replace the node where a GPU cannot join.
    """
    fabric = gpu_health.fabric
    if fabric is None and len(driver.gpus) == _GPUS_OF_A_BOARD and _has_switches(gpu):
        require_answer(gpu, gpu_health, "fabric")
    if fabric is None:
        end_for_silence(gpu, gpu_health, "fabric")
    if fabric.state == _FABRIC_NOT_SUPPORTED:
        not_applicable(f"GPU {gpu.index} is part of no NVSwitch fabric")
    if fabric.state > _FABRIC_COMPLETED:
        wait_for(None, f"GPU {gpu.index}: the state of its fabric is {fabric.state}, which is not on record")
    why = "until it has joined, CUDA does not start on it (error 802, system not yet initialized)"
    if fabric.state != _FABRIC_COMPLETED:
        waiting = _waiting_for_fabric(machine)
        if waiting[0].index != gpu.index:
            wait_for(f"health::fabric_is_ready[gpu{waiting[0].index}]", "GPUs have not joined their NVSwitch fabric")
        state = "has not begun to join" if fabric.state == _FABRIC_NOT_STARTED else "is still joining"
        others = f", and {len(waiting) - 1} more of {len(driver.gpus)} wait" if len(waiting) > 1 else ""
        fail(
            f"{name_of(gpu)}: it {state} its NVSwitch fabric{others}",
            why=why,
            fix=[
                f"see whether the fabric manager runs{_on_the_host(host)}: $ systemctl status nvidia-fabricmanager",
                "$ sudo systemctl restart nvidia-fabricmanager",
                "see that it is of the driver's own version: $ nv-fabricmanager --version",
            ],
            action=Action.FIX_SOFTWARE,
            links=[FABRIC_GUIDE],
        )
    if fabric.status:
        fail(
            f"{name_of(gpu)}: it could not join its NVSwitch fabric (NVML code {fabric.status})",
            why=why,
            fix=[
                f"look at the log of the fabric manager{_on_the_host(host)}: /var/log/fabricmanager.log",
                "reboot the node, and replace it if it stays so",
            ],
            action=Action.REPLACE_NODE,
            links=[FABRIC_GUIDE],
        )
    _judge_fabric(gpu, fabric.health)


# As many as NVSwitches join on a board of their own.
_GPUS_OF_A_BOARD = 8


def _has_switches(gpu: Gpu) -> bool:
    """Whether eight of these have NVSwitches that they join; before Hopper NVML does not tell."""
    model = model_of(gpu)
    return model is not None and facts.nvlinks(model.name) is not None and model.compute_capability >= (9, 0)


def _waiting_for_fabric(machine: Machine) -> list[GpuHealth]:
    """The GPUs that the fabric manager has not joined yet."""
    states = (_FABRIC_NOT_STARTED, _FABRIC_IN_PROGRESS)
    return [found for found in machine.health.gpus if found.fabric and found.fabric.state in states]


def _on_the_host(host: Host) -> str:
    return " on the host" if host.container else ""


def _judge_fabric(gpu: Gpu, health: int) -> None:
    """By the bits of its health: each fault has its own, and none of them hides another."""
    values = {shift: health >> shift & 0b11 for shift in _FABRIC_FAULTS}
    configuration = health >> _FABRIC_CONFIGURATION & 0b1111
    blockers = [text for shift, (text, kind) in _FABRIC_FAULTS.items() if values[shift] == 1 and kind == "blocker"]
    if configuration in _FABRIC_CONFIGURATIONS:
        blockers.append(f"it is set up wrongly: {_FABRIC_CONFIGURATIONS[configuration]}")
    minor = [text for shift, (text, kind) in _FABRIC_FAULTS.items() if values[shift] == 1 and kind == "warning"]
    if blockers or minor:
        fail(
            f"{name_of(gpu)}: its NVSwitch fabric is not healthy: {', '.join([*blockers, *minor])} "
            f"(health {health:#x})",
            why="work that spans several GPUs is slow there, or fails",
            fix=[
                "look at the log of the fabric manager, or of the NVLink switches",
                "reboot the node, and replace it if it stays so",
            ],
            action=Action.REPLACE_NODE if blockers else Action.NONE,
            severity=None if blockers else "warning",
            links=[FABRIC_GUIDE],
        )
    if 3 in values.values() or configuration > max(_FABRIC_CONFIGURATIONS):
        wait_for(None, f"GPU {gpu.index}: the health of its fabric is {health:#x}, which is not on record")


def is_joined(health: GpuHealth | None) -> bool:
    """Whether the GPU says that it has joined its fabric, and that the routes there are healthy."""
    fabric = health.fabric if health else None
    if fabric is None or fabric.state != _FABRIC_COMPLETED or fabric.status:
        return False
    says_no = 2
    is_set_up = (fabric.health >> _FABRIC_CONFIGURATION & 0b1111) not in _FABRIC_CONFIGURATIONS
    return is_set_up and all(fabric.health >> shift & 0b11 in (0, says_no) for shift in _FABRIC_FAULTS) and (
        fabric.health >> _ROUTE_UNHEALTHY & 0b11 == says_no
    )  # fmt: skip
