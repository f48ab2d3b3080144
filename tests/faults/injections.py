"""What can be done to a machine, at which layer."""

from __future__ import annotations

from collections.abc import Sequence

from conftest import Rig
from faults import Change, at, done_at
from standin import H100x8, StandinGpu
from standin.distributions import write_distribution
from standin.torch_package import Device, StandinTorch


@at("driver library")
def node_fault(function: str, fault: str | int) -> Change:
    def inject(rig: Rig) -> None:
        assert rig.node
        rig.node = rig.node.with_fault(function, fault)

    return inject


@done_at("driver library")
def no_driver(rig: Rig) -> None:
    rig.node = None


@done_at("driver library")
def no_driver_in_windows(rig: Rig) -> None:
    no_driver(rig)
    on_host(release="5.15.167.4-microsoft-standard-WSL2")(rig)


@done_at("driver library")
def no_nvml_in_a_container(rig: Rig) -> None:
    rig.node = None
    rig.torch = StandinTorch(devices=shown(H100x8.gpus))
    rig.variables["KUBERNETES_SERVICE_HOST"] = "10.0.0.1"


def shown(gpus: Sequence[StandinGpu]) -> list[Device]:
    """What torch says of these GPUs."""
    return [(gpu.uuid, gpu.name, *gpu.compute_capability, gpu.memory_bytes) for gpu in gpus]


@at("driver library")
def closed_gpus(*indices: int) -> Change:
    """GPUs that a cgroup keeps from this job."""

    def inject(rig: Rig) -> None:
        rig.node = H100x8
        for index in indices:
            rig.node = rig.node.with_gpu_fault(index, "nvmlDeviceGetHandleByIndex_v2", 4)

    return inject


@done_at("driver library")
def no_gpus(rig: Rig) -> None:
    rig.node = H100x8
    for _ in H100x8.gpus:
        rig.node = rig.node.without_gpu(0)


@done_at("driver library")
def lost_gpu(rig: Rig) -> None:
    rig.node = H100x8.with_gpu_fault(3, "nvmlDeviceGetHandleByIndex_v2", 15)


@done_at("driver library")
def unreadable_gpu(rig: Rig) -> None:
    rig.node = H100x8.with_gpu_fault(3, "nvmlDeviceGetMemoryInfo", 999)


@done_at("driver library")
def one_gpu_less(rig: Rig) -> None:
    rig.node = H100x8.without_gpu(7)


@at("environment")
def variable(name: str, value: str) -> Change:
    return lambda rig: rig.variables.update({name: value})


@at("C library")
def on_host(**changes: str) -> Change:
    return lambda rig: rig.variables.update(rig.libraries.on_host(**changes))


@at("C library")
def without_torch_on(**changes: str) -> Change:
    def inject(rig: Rig) -> None:
        rig.torch = None
        rig.variables.update(rig.libraries.on_host(**changes))

    return inject


@at("PyTorch")
def torch(**changes: object) -> Change:
    def inject(rig: Rig) -> None:
        rig.torch = StandinTorch(**changes)  # type: ignore[arg-type]

    return inject


@at("driver library")
def machine(node: object, **changes: object) -> Change:
    def inject(rig: Rig) -> None:
        rig.node = node  # type: ignore[assignment]
        rig.torch = StandinTorch(**changes)  # type: ignore[arg-type]

    return inject


@done_at("distribution")
def no_torch(rig: Rig) -> None:
    rig.torch = None


@done_at("distribution")
def torch_without_files(rig: Rig) -> None:
    rig.torch = None
    write_distribution(rig.site, "torch", "2.14.1", {})


@at("file")
def libcuda(version: str, folder: str = "compat", error: str | None = None) -> Change:
    """Put a libcuda before the driver's, as a cuda-compat package does; CUDA starts with it, or gives an error."""

    def inject(rig: Rig) -> None:
        if error:
            rig.torch = StandinTorch(devices=(), init_error=f"Unexpected error from cudaGetDeviceCount(). {error}")
        place = rig.folder / folder
        place.mkdir()
        real = place / f"libcuda.so.{version}"
        real.touch()
        (place / "libcuda.so.1").symlink_to(real)
        rig.variables["LD_LIBRARY_PATH"] = str(place)

    return inject


@at("file")
def libcuda_on(node: object, version: str, error: str) -> Change:
    def inject(rig: Rig) -> None:
        rig.node = node  # type: ignore[assignment]
        libcuda(version, error=error)(rig)

    return inject


@at("file")
def nvcc(release: str, exit_status: int = 0) -> Change:
    """Install a toolkit: as much of it as anybody asks."""

    def inject(rig: Rig) -> None:
        program = rig.write("../toolkit/bin/nvcc", f"#!/bin/sh\necho 'Cuda compilation tools, release {release}'\n")
        program.write_text(program.read_text() + f"exit {exit_status}\n")
        program.chmod(0o755)
        rig.variables["CUDA_HOME"] = str(program.parents[1])

    return inject


@at("distribution")
def wheel(name: str, version: str, library: str = "") -> Change:
    files = {f"nvidia/{library}": ""} if library else {}
    return lambda rig: write_distribution(rig.site, name, version, files)


@done_at("file")
def foreign_library(rig: Rig) -> None:
    wheel("nvidia-nvjitlink", "13.0.88", "cu13/lib/libnvJitLink.so.13")(rig)
    place = rig.folder / "foreign"
    place.mkdir()
    (place / "libnvJitLink.so.13").touch()
    rig.variables["LD_LIBRARY_PATH"] = str(place)


MODULE = {"bionemo/scdl/__init__.py": "", "bionemo/scdl/io.py": "x = 1\n"}


@done_at("distribution")
def scdl(rig: Rig) -> None:
    write_distribution(rig.site, "bionemo-scdl", "0.1.3", MODULE, requires_python=">=3.10")


def both(*changes: Change) -> Change:
    """All of them, in this order; the layer is that of the last."""

    def inject(rig: Rig) -> None:
        for change in changes:
            change(rig)

    return done_at(str(changes[-1].__dict__.get("layer", "")))(inject)
