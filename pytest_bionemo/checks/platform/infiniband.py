"""InfiniBand, where that is the network between nodes."""

from __future__ import annotations

from pytest_bionemo.checking import check, fail, not_applicable
from pytest_bionemo.facts import instances
from pytest_bionemo.model import Action, count
from pytest_bionemo.probes.fabric import Fabric
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.probes.platforms import Platform


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
