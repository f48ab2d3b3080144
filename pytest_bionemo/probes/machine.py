"""Everything that the probes see of this machine, each asked once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from typing import Any

from pytest_bionemo.facts import lightning
from pytest_bionemo.facts import platforms as platform_facts
from pytest_bionemo.model import GpuEnv
from pytest_bionemo.probes import (
    clock,
    health,
    host,
    kernel_log,
    libraries,
    limits,
    mounts,
    nvml,
    packages,
    processors,
    storage,
    surroundings,
    toolkit,
    torch_build,
    visible,
)
from pytest_bionemo.probes import job as jobs
from pytest_bionemo.probes.child import Answer, Child
from pytest_bionemo.probes.clock import Clock
from pytest_bionemo.probes.fabric import Fabric
from pytest_bionemo.probes.health import Health
from pytest_bionemo.probes.host import Host
from pytest_bionemo.probes.job import Job
from pytest_bionemo.probes.kernel_log import KernelLog
from pytest_bionemo.probes.libraries import CudaLibrary
from pytest_bionemo.probes.limits import Limits
from pytest_bionemo.probes.mounts import Mount
from pytest_bionemo.probes.platforms import Platform
from pytest_bionemo.probes.processors import Scaling
from pytest_bionemo.probes.storage import Storage
from pytest_bionemo.probes.surroundings import Surroundings
from pytest_bionemo.probes.toolkit import Toolkit
from pytest_bionemo.probes.torch_build import TorchBuild

# Looking at a folder takes no time, unless its file system hangs; a server that is busy answers later than a disk.
_DEADLINES_S = {storage.TARGET: 20.0, surroundings.TARGET: 20.0, mounts.TARGET: 10.0, jobs.HOSTS: 20.0}
# What is said to those who wait.
_DOING = {
    nvml.TARGET: "asking the NVIDIA driver",
    torch_build.TARGET: "importing torch",
    storage.TARGET: "looking at the folders",
    surroundings.TARGET: "looking at platform and network",
    mounts.TARGET: "looking at shared file systems",
    jobs.HOSTS: "asking for the nodes of the job",
    jobs.OF_LIGHTNING: "asking Lightning about the job",
}
_WITH_HEALTH = "with_health"

_STEERING = (visible.VARIABLE, visible.ORDER, libraries.VARIABLE)


class Machine:
    """The probes of one run.

    Those that run in child processes can be started ahead of their first use (:meth:`start`), so that they
    work while pytest collects. ``timeout`` is the deadline of each, in seconds. ``variables`` are those of the
    environment that steer what the children see: checks read them here, since anybody's fixture may have changed
    this process's own by then. ``environment`` is all that they get, unless given what this process has now.
    """

    def __init__(self, timeout: float, environment: Mapping[str, str] | None = None) -> None:
        self._timeout = timeout
        self._environment = dict(os.environ if environment is None else environment)
        self.variables = {name: value for name, value in self._environment.items() if name in _STEERING}
        self._children: dict[str, Child] = {}
        self._with_health = False

    def include_health(self) -> None:
        """Have the driver asked for the health of its GPUs as well when it is asked: one child will do."""
        self._with_health = True

    def start(self) -> None:
        """Start the children now."""
        self._child(nvml.TARGET, _WITH_HEALTH)
        self._child(torch_build.TARGET)
        self._child(storage.TARGET)
        self._ask_around()
        if self.shared_mounts:
            self._ask_mounts()
        self._ask_hosts(jobs.read(self._environment))

    def close(self) -> None:
        """End children whose answer nobody waited for."""
        for child in self._children.values():
            child.close()

    @cached_property
    def gpu_env(self) -> GpuEnv:
        """The driver and its devices."""
        # A child that reads the health too, if there is one: what it says first is the same.
        asked = _WITH_HEALTH if self._with_health or self._is_started(nvml.TARGET, _WITH_HEALTH) else ""
        return nvml.from_answer(self._child(nvml.TARGET, asked).answer())

    @cached_property
    def health(self) -> Health:
        """How the GPUs are."""
        return health.from_answer(self._child(nvml.TARGET, _WITH_HEALTH).answer())

    @cached_property
    def torch_build(self) -> TorchBuild:
        """The PyTorch of this interpreter."""
        return torch_build.from_answer(self._child(torch_build.TARGET).answer())

    @cached_property
    def host(self) -> Host:
        """The machine around Python."""
        return host.read()

    @property
    def vbios(self) -> tuple[str, ...]:
        """The firmware of the GPUs, each version once; none where nobody has asked for their health."""
        is_asked = "health" in self.__dict__ or self._is_started(nvml.TARGET, _WITH_HEALTH)
        told = [self.health.of(gpu.index) for gpu in self.gpu_env.gpus] if is_asked else []
        return tuple(sorted({one.vbios for one in told if one and one.vbios}))

    @property
    def unread_gpu(self) -> int | None:
        """The GPU at which reading the health ended before its time; None if it did not."""
        # A GPU without a handle cannot be asked at all.
        asked = [gpu.index for gpu in self.gpu_env.gpus if nvml.HANDLE not in (gpu.errors or {})]
        return next((index for index in asked if self.health.of(index) is None), None)

    @cached_property
    def kernel_log(self) -> KernelLog:
        """What the NVIDIA driver has written to the kernel's log since the machine was started."""
        return kernel_log.read()

    @cached_property
    def surroundings(self) -> Surroundings:
        """Platforms, network and containers, as far as they were told."""
        return surroundings.from_answer(self._ask_around().answer())

    def knows_platform(self, within: float) -> bool:
        """Whether what is around the machine is known in so many seconds."""
        return "surroundings" in self.__dict__ or self._ask_around().is_done(within)

    @cached_property
    def platform(self) -> Platform:
        """The platforms that this is, such as HyperPod, Slurm and AWS at once."""
        return self.surroundings.platform

    @cached_property
    def job(self) -> Job | None:
        """The job of which this machine is a node, from the launcher's variables; None where it is of none."""
        found = jobs.read(self._environment)
        child = self._ask_hosts(found)
        return jobs.with_hosts(found, child.answer().value) if found and child else found

    @cached_property
    def job_of_lightning(self) -> Job | None:
        """The same with what Lightning's cluster environment makes of it, where there is a Lightning."""
        names = [name for name in lightning.modules() if packages.find(name)]
        if self.job is None or not names:
            return self.job
        told = jobs.asking_lightning(self.job, names[0])
        return jobs.with_lightning(self.job, self._child(jobs.OF_LIGHTNING, **told).answer().value)

    @cached_property
    def fabric(self) -> Fabric | None:
        """The network between nodes; None where nobody came to tell it."""
        return self.surroundings.fabric

    @cached_property
    def mount_table(self) -> tuple[Mount, ...] | None:
        """Every mount of this process; None where the kernel names none."""
        return mounts.read()

    @cached_property
    def shared_mounts(self) -> tuple[Mount, ...]:
        """The file systems that this machine shares with others."""
        kinds, local = platform_facts.shared_file_systems(), platform_facts.local_programs()
        return mounts.shared(self.mount_table or (), kinds, local)

    @cached_property
    def mount_answers(self) -> Answer:
        """What each of those answered."""
        return self._ask_mounts().answer() if self.shared_mounts else Answer({"asked": 0})

    @property
    def environment(self) -> dict[str, str]:
        """The variables of this process, as they were when the children were started."""
        return {**self._environment, **self.variables}

    @cached_property
    def limits(self) -> Limits:
        """What the kernel lets this process have."""
        return limits.read()

    @cached_property
    def clock(self) -> Clock:
        """The clock, and whether anybody keeps it right."""
        return clock.read()

    @cached_property
    def scaling(self) -> tuple[Scaling, ...]:
        """Who sets the frequency of the processors."""
        return processors.scaling()

    @cached_property
    def storage(self) -> Storage:
        """The folders that training writes to."""
        return storage.from_answer(self._child(storage.TARGET).answer())

    @cached_property
    def libcuda(self) -> CudaLibrary | None:
        """The libcuda that LD_LIBRARY_PATH puts before the driver's; None if it names none."""
        return libraries.libcuda(self.variables)

    @cached_property
    def toolkit(self) -> Toolkit | None:
        """The CUDA toolkit, None where there is none."""
        return toolkit.find()

    def to_json(self) -> str:
        """What the children said, for the workers of pytest-xdist: all of them must collect the same checks."""
        return json.dumps(
            {
                "gpu_env": self.gpu_env.to_json(),
                "health": self.health.to_json(),
                "torch_build": self.torch_build.to_json(),
                "storage": self.storage.to_json(),
                "surroundings": self.surroundings.to_json(),
                "mount_answers": asdict(self.mount_answers),
                "job": self.job.to_json() if self.job else None,
                "variables": self.variables,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Machine:
        """A machine whose children were asked by another process."""
        data = json.loads(text)
        machine = cls(timeout=0)
        machine.__dict__["gpu_env"] = GpuEnv.from_json(data["gpu_env"])
        machine.__dict__["health"] = Health.from_json(data["health"])
        machine.__dict__["torch_build"] = TorchBuild.from_json(data["torch_build"])
        machine.__dict__["storage"] = Storage.from_json(data["storage"])
        machine.__dict__["surroundings"] = Surroundings(**data["surroundings"])
        said = data["mount_answers"]
        machine.__dict__["mount_answers"] = Answer(said["value"], said["failure"], tuple(said["before"]))
        machine.__dict__["job"] = Job.from_json(data["job"]) if data["job"] else None
        machine.variables = data["variables"]
        return machine

    def _ask_around(self) -> Child:
        return self._child(surroundings.TARGET, shared=[mount.path for mount in self.shared_mounts])

    def _ask_hosts(self, job: Job | None) -> Child | None:
        """Only where there is a list that its variables alone do not expand."""
        needs_asking = job and job.node_list and not job.hosts
        return self._child(jobs.HOSTS, node_list=job.node_list) if job and needs_asking else None

    def _ask_mounts(self) -> Child:
        return self._child(mounts.TARGET, paths=[mount.path for mount in self.shared_mounts])

    def _child(self, target: str, switch: str = "", **arguments: Any) -> Child:
        """The child that runs this function with these arguments, and with this switch of its set."""
        key = f"{target} {switch}"
        if key not in self._children:
            timeout = min(self._timeout, _DEADLINES_S.get(target, self._timeout))
            told = {switch: True} if switch else arguments
            self._children[key] = Child(target, timeout, self._environment, told, _DOING.get(target, ""))
        return self._children[key]

    def _is_started(self, target: str, switch: str) -> bool:
        return f"{target} {switch}" in self._children
