"""HyperPod's description of the cluster, Slurm, and the scripts of jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pytest_bionemo.checking import check, fail, not_applicable
from pytest_bionemo.facts import platforms
from pytest_bionemo.probes import files
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.probes.platforms import HyperPod, Platform, Slurm
from pytest_bionemo.probes.platforms import slurm as slurm_files
from pytest_bionemo.probes.platforms.slurm import Containers

_PYXIS = "https://github.com/NVIDIA/pyxis/wiki"
_SCRIPTS_AT_MOST = 100
_SCRIPT_BYTES = 64 << 10


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
