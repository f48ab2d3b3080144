"""The NVIDIA driver, the devices that it shows, and whether it fits what PyTorch was built for."""

from __future__ import annotations

from packaging.version import Version

from pytest_bionemo import fixes, rules
from pytest_bionemo.checking import check, fail, not_applicable, wait_for
from pytest_bionemo.facts import drivers, wheels
from pytest_bionemo.model import Action, Gpu, GpuEnv, count, describe_gpus
from pytest_bionemo.options import Options
from pytest_bionemo.probes import visible
from pytest_bionemo.probes.host import Host
from pytest_bionemo.probes.libraries import CudaLibrary
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.probes.platforms import Databricks, Platform
from pytest_bionemo.probes.torch_build import TorchBuild
from pytest_bionemo.rules import LibcudaProblem

_INSTALL_GUIDE = "https://docs.nvidia.com/datacenter/tesla/driver-installation-guide/"
_COMPATIBILITY = "https://docs.nvidia.com/deploy/cuda-compatibility/"

# NVML return codes (nvml.h)
_NO_PERMISSION = 4
_DRIVER_NOT_LOADED = 9
_LIBRARY_NOT_FOUND = 12
_GPU_IS_LOST = 15
_LIB_RM_VERSION_MISMATCH = 18
_UNKNOWN = 999


@check(needs=["linux"])
def loads(host: Host, gpu_env: GpuEnv, machine: Machine, bionemo_options: Options) -> None:
    """The NVIDIA driver answers.

    Why: nothing can run on a GPU without the driver, and what to install depends on its version.

    How it decides: it starts NVML, the driver's own library, in a child process with a deadline; the code that NVML
    returns tells whether the library, the kernel module, the rights or the versions are at fault.

    Fix: install or load the NVIDIA driver, give the container its GPUs and libraries, or reboot a node whose driver
    hangs.
    """
    if bionemo_options.device == "cpu":
        wait_for(None, "a rehearsal on the CPU asks no GPU")
    if gpu_env.failure is None:
        return
    if gpu_env.failure.code == _LIBRARY_NOT_FOUND and machine.torch_build.devices:
        _fail_without_nvml_alone(host, machine.torch_build)
    if gpu_env.failure.code == _LIBRARY_NOT_FOUND:
        _fail_without_library(host, machine.platform)
    if gpu_env.failure.code == _DRIVER_NOT_LOADED:
        _fail_without_kernel_module(host)
    if gpu_env.failure.code == _LIB_RM_VERSION_MISMATCH:
        _fail_for_mismatch(host)
    if gpu_env.failure.code == _NO_PERMISSION:
        _fail_for_permission(host, gpu_env.hidden_gpus)
    if gpu_env.failure.code == _UNKNOWN and host.container:
        _fail_for_lost_container_access(host)
    _fail_for_anything_else(gpu_env.failure.code, gpu_env.failure.text)


def _newest_minimum() -> str:
    newest = max(wheels.releases(), key=lambda wheel: Version(wheel.torch))
    return drivers.family_minimum(newest.cuda) or drivers.bionemo_minimum()


def _gpu_on_the_bus(host: Host) -> str:
    if host.pci_gpus is None:
        return ""
    if host.pci_gpus == 0:
        return ", and no NVIDIA GPU is on the PCI bus"
    return f", but {count(host.pci_gpus, 'NVIDIA GPU')} {'is' if host.pci_gpus == 1 else 'are'} on the PCI bus"


def _pass_gpus_into(container: str) -> str:
    if container == "kubernetes":
        return "request the resource nvidia.com/gpu in the pod, on a node with the NVIDIA device plugin"
    if container in ("apptainer", "singularity"):
        return f"start the container with the GPUs: {container} run --nv ..."
    return "start the container with the GPUs: docker run --gpus all ... (needs the NVIDIA Container Toolkit)"


def _fail_without_nvml_alone(host: Host, torch: TorchBuild) -> None:
    ways = ["start the container with NVIDIA_DRIVER_CAPABILITIES=compute,utility (docker run -e ...)"]
    if not host.container:
        ways.insert(0, "reinstall the NVIDIA driver: its library libnvidia-ml.so.1 is missing")
    fail(
        f"NVML (libnvidia-ml.so.1) is missing {'from the container' if host.container else 'here'}, although CUDA "
        f"works: PyTorch sees {count(len(torch.devices), 'GPU')}",
        why="without it nobody can say which driver and GPUs these are, and how they are",
        fix=fixes.alternatives(*ways),
    )


def _fail_without_library(host: Host, platform: Platform) -> None:
    fail(
        f"no NVIDIA driver: libnvidia-ml.so.1 is not found{_gpu_on_the_bus(host)}",
        why="nothing can run on a GPU without the driver, and what to install depends on its version",
        fix=_gpus_of_databricks(platform.databricks) or fixes.alternatives(*_ways_to_a_driver(host)),
        links=[_INSTALL_GUIDE],
    )


def _gpus_of_databricks(databricks: Databricks | None) -> list[str]:
    """Where Databricks has GPUs: nobody installs a driver there. Empty elsewhere."""
    if databricks is None:
        return []
    if databricks.kind == "classic":
        return ["use compute with GPUs: an instance type that has them, and a runtime for machine learning"]
    return ["choose a GPU as accelerator in the notebook's environment, or use classic compute with GPUs"]


def _ways_to_a_driver(host: Host) -> list[str]:
    ways = ["run this on a machine with an NVIDIA GPU"] if host.pci_gpus == 0 else []
    if host.container:
        ways.append(_pass_gpus_into(host.container))
    if host.is_wsl:
        return [*ways, f"install or {fixes.update_driver(host, _newest_minimum())}"]
    return [
        *ways,
        f"{'on the host: ' if host.container else ''}install the NVIDIA driver, {_newest_minimum()} or newer",
    ]


def _fail_without_kernel_module(host: Host) -> None:
    if host.is_wsl:
        fix = _ways_to_a_driver(host)
    elif host.container and not host.device_nodes:
        fix = [_pass_gpus_into(host.container)]
    elif host.pci_gpus == 0:
        fix = ["run this on a machine with an NVIDIA GPU: the driver's library is installed, a GPU is not there"]
    else:
        fix = ["$ sudo modprobe nvidia", "reinstall the driver for the kernel that runs, after a kernel update"]
    fail(
        f"the NVIDIA kernel driver is not loaded, or it found no device{_gpu_on_the_bus(host)}",
        why="the driver's library is there, but no kernel driver serves it",
        fix=fixes.alternatives(*fix),
        links=[_INSTALL_GUIDE],
    )


def _fail_for_mismatch(host: Host) -> None:
    reboot = "reboot the node, so that the kernel loads the driver version that is installed"
    in_container = "remove the libnvidia-* packages from the image: the NVIDIA Container Toolkit brings the host's"
    fail(
        "the driver's library and the loaded kernel driver are of different versions",
        why="the driver was updated under a running kernel, or an image brings a driver library of its own",
        fix=[in_container, f"or, on the host: {reboot}"] if host.container else [reboot],
        action=Action.REBOOT_NODE,
    )


_ASK_FOR_A_GPU = "ask the scheduler for a GPU (Slurm: --gres=gpu:1 or --gpus=1)"


def _fail_for_permission(host: Host, hidden: int) -> None:
    nodes = ", ".join(host.device_nodes[:3]) or "/dev/nvidia*"
    closed = (
        f"this user or job may use {'none of the' if hidden > 1 else 'not the'} {count(hidden, 'GPU')} of the driver"
    )
    fail(
        closed if hidden else f"this user may not talk to the NVIDIA driver ({nodes})",
        why="the device files are closed to this user, or a cgroup denies them to this job",
        fix=[
            _ASK_FOR_A_GPU,
            "or ask the administrator to open the device files to this user (often by the group video or render)",
        ],
    )


def _fail_for_lost_container_access(host: Host) -> None:
    fail(
        f"the container ({host.container}) has lost access to its GPUs: NVML says 'Unknown Error'",
        why="a reload of systemd on the host drops the device rules of running containers",
        fix=[
            "restart the container",
            "and move it to the cgroupfs driver, or update the NVIDIA Container Toolkit",
        ],
    )


def _fail_for_anything_else(code: int | None, text: str) -> None:
    known = f" (NVML code {code})" if code is not None else ""
    fail(
        f"the NVIDIA driver does not answer: {text}{known}",
        why="no program on this machine can be sure of a GPU whose driver does not answer",
        fix=["look at the kernel log for NVRM and Xid lines: $ sudo dmesg | grep -i nvrm", "reboot the node",
             "if it does not answer then, reinstall the driver"],
        action=Action.REBOOT_NODE,
    )  # fmt: skip


@check()
def devices_present(driver: GpuEnv, host: Host) -> None:
    """The driver sees at least one GPU.

    Why: nothing can run on a GPU that the driver does not see.

    How it decides: it counts the GPUs that NVML shows; one is enough.

    Fix: look for the GPU on the PCI bus, in the job's request and in the container's options.
    """
    if not driver.gpus:
        fix = ["look for GPUs that fell off the bus: $ lspci -d 10de:", "reboot the node"]
        if host.container:
            fix = [_pass_gpus_into(host.container), f"or, on the host, {fix[0]}", f"and {fix[1]}"]
        fail(
            f"driver {driver.driver} is loaded and sees no GPU{_gpu_on_the_bus(host)}",
            why="nothing can run on a GPU that the driver does not see",
            fix=fix,
            action=Action.REBOOT_NODE if host.pci_gpus else Action.FIX_SOFTWARE,
        )


@check()
def answers(any_gpu: Gpu) -> None:
    """The GPU says which model it is, how much memory it has and what it can run.

    Why: a GPU that the driver lists but cannot read fails the first job that gets it.

    How it decides: NVML has to tell its name, UUID, memory and compute capability; each call that fails is named.

    Fix: read the kernel log for its Xid, reset the GPU or reboot the node.
    """
    if not any_gpu.answers:
        said = "; ".join(f"{call}: {error}" for call, error in (any_gpu.errors or {}).items())
        fail(
            f"GPU {any_gpu.index} ({any_gpu.pci_address or 'PCI address unknown'}) does not answer: {said}",
            why="a GPU that the driver lists but cannot read fails the first job that gets it",
            fix=["look at the kernel log for its Xid: $ sudo dmesg | grep -i xid", "reboot the node",
                 "if it comes back, replace the GPU or the node"],
            action=Action.REBOOT_NODE,
        )  # fmt: skip


@check()
def expected_count(
    driver: GpuEnv, gpus: tuple[Gpu, ...], bionemo_options: Options, machine: Machine, host: Host
) -> None:
    """The machine has as many GPUs as --bionemo-expect-gpus says.

    Why: a job that is planned for more GPUs fails or waits; one GPU less is how a lost GPU shows.

    How it decides: it compares the GPUs that the driver shows with the number of --bionemo-expect-gpus; they have to
    be equal.

    Fix: reboot the node; if the GPU stays away, have it replaced.
    """
    expected = bionemo_options.expect_gpus
    if expected is None:
        not_applicable("--bionemo-expect-gpus states no number")
    if len(gpus) != expected:
        others = f", and has {driver.hidden_gpus} more that are not this job's" if driver.hidden_gpus else ""
        is_lost = len(gpus) + driver.hidden_gpus < expected
        if is_lost and rules.lost_gpus(driver, machine.kernel_log, host):
            wait_for("health::no_gpu_is_lost", "the kernel's log says which GPU is lost")
        ways = ["look for GPUs that fell off the bus: $ lspci -d 10de:", "reboot the node"] if is_lost else []
        if not is_lost and len(gpus) < expected:
            ways = [f"ask the scheduler for {count(expected, 'GPU')}"]
        right = f"if {len(gpus)} is right: --bionemo-expect-gpus {len(gpus)}"
        fail(
            f"the driver sees {describe_gpus(gpus)}{others}, expected {expected}",
            why="a job that is planned for more GPUs fails or waits; one GPU less is how a lost GPU shows",
            fix=[*ways, f"or, {right}"] if ways else right,
            action=Action.REBOOT_NODE if is_lost else Action.FIX_SOFTWARE,
        )


@check()
def visible_devices_valid(gpus: tuple[Gpu, ...], machine: Machine) -> None:
    """CUDA_VISIBLE_DEVICES names GPUs that exist, each once.

    Why: CUDA stops reading the list at the first name that does not exist: a job gets fewer GPUs than it was given,
    or none, without an error.

    How it decides: it reads CUDA_VISIBLE_DEVICES as CUDA does: each entry has to be the index or the UUID of a GPU or
    slice that is here, once.

    Fix: unset CUDA_VISIBLE_DEVICES, or name GPUs that exist.
    """
    seen = visible.read(gpus, machine.variables)
    if seen.problem:
        from_slurm = [_ASK_FOR_A_GPU] if (seen.value or "").strip() == visible.NO_DEVICE_FILES else []
        fail(
            f'{visible.VARIABLE} is "{seen.value}": {seen.problem}',
            why=f"CUDA programs see {len(seen.uuids) or 'none'} of what is here ({count(len(gpus), 'GPU')})",
            fix=fixes.alternatives(
                *from_slurm,
                f"unset {visible.VARIABLE}",
                "name existing devices, by index or by UUID ($ nvidia-smi -L lists both)",
            ),
            links=["https://docs.nvidia.com/cuda/cuda-programming-guide/05-appendices/environment-variables.html"],
        )


@check()
def libcuda_fits(gpus: tuple[Gpu, ...], driver: GpuEnv, machine: Machine, host: Host) -> None:
    """No other libcuda comes before the driver's own, or it is one that this driver and GPU accept.

    Why: a stub, or a cuda-compat library that this driver or GPU does not accept, makes every CUDA call fail (errors
    34, 803 and 804).

    How it decides: it looks for a libcuda in the folders of LD_LIBRARY_PATH, and compares its version with the
    driver's; a newer one works on GPUs for data centres alone.

    Fix: take the folder of the other libcuda out of LD_LIBRARY_PATH.
    """
    library = machine.libcuda
    problem = rules.libcuda_problem(library, driver, machine.torch_build)
    if library is None or problem is None:
        return
    drop = f"take {library.path.parent} out of LD_LIBRARY_PATH"
    if problem is LibcudaProblem.STUB:
        fail(
            f"LD_LIBRARY_PATH puts the CUDA toolkit's link-time stub before the driver's libcuda: {library.path}",
            why="the stub holds no code: every CUDA call fails (error 34, stub library)",
            fix=drop,
        )
    if problem is LibcudaProblem.STALE:
        fail(
            f"LD_LIBRARY_PATH puts libcuda {library.version} ({library.path}) before the one of driver "
            f"{driver.driver}",
            why="a cuda-compat package older than the driver does not work with it (error 803)",
            fix=fixes.alternatives(drop, "remove the cuda-compat package from the image"),
            links=[_COMPATIBILITY],
        )
    fail(
        f"LD_LIBRARY_PATH puts libcuda {library.version} ({library.path}) before the one of driver "
        f"{driver.driver}, and {describe_gpus(gpus)} cannot use a newer one",
        why="forward compatibility is for data centre GPUs; every CUDA call fails (error 804)",
        fix=fixes.alternatives(fixes.update_driver(host, library.version or "a newer one"), drop),
        links=[_COMPATIBILITY],
    )


@check(needs=["gpus"])
def supports_torch_cuda(driver: GpuEnv, own_libcuda: CudaLibrary | None, cuda_torch: TorchBuild, host: Host) -> None:
    """The driver supports the CUDA version that PyTorch was built for.

    Why: every CUDA call would fail: 'CUDA driver version is insufficient'.

    How it decides: it compares the driver's version with the oldest that runs the CUDA that PyTorch was built for; a
    cuda-compat library that fits counts.

    Fix: install a PyTorch for this driver, or update the driver.
    """
    runs = rules.driver_runs(driver, cuda_torch, own_libcuda)
    if runs is None:
        wait_for(None, f"no minimum driver is known for CUDA {cuda_torch.cuda}")
    if not runs:
        needed = drivers.family_minimum(cuda_torch.cuda or "")
        newer = drivers.toolkit_driver(cuda_torch.cuda or "") or needed or ""
        fail(
            f"driver {driver.driver}; PyTorch {cuda_torch.version} is built for CUDA {cuda_torch.cuda} "
            f"(needs {needed} or newer)",
            why='every CUDA call would fail: "CUDA driver version is insufficient"',
            fix=fixes.alternatives(
                *fixes.fitting_torch(driver, host, cuda_torch.version), fixes.update_driver(host, newer)
            ),
            links=[_COMPATIBILITY],
        )


@check(severity="warning")
def has_all_features_for_torch(
    driver: GpuEnv, own_libcuda: CudaLibrary | None, usable_torch: TorchBuild, host: Host
) -> None:
    """The driver has every feature of the CUDA version that PyTorch was built for.

    Why: an older driver of the same CUDA family runs most programs, but code that is compiled at run time (PTX) and
    the newest features may fail.

    How it decides: it compares the driver's version with the one that this CUDA was released with.

    Fix: update the driver to the version that this CUDA came with.
    """
    needed = drivers.toolkit_driver(usable_torch.cuda or "")
    if needed is None:
        not_applicable(f"no full-feature driver is recorded for CUDA {usable_torch.cuda}")
    found = rules.effective_driver(driver, usable_torch, own_libcuda) or ""
    if drivers.is_older(found, needed):
        fail(
            f"driver {found}; CUDA {usable_torch.cuda} has all its features from {needed} on",
            why="code that is compiled at run time (PTX) and the newest driver features may fail",
            fix=fixes.update_driver(host, needed),
            links=[_COMPATIBILITY],
        )


@check(severity="warning", needs=["usable_torch"])
def meets_bionemo_minimum(driver: GpuEnv, host: Host) -> None:
    """The driver is one that BioNeMo's documentation supports.

    Why: BioNeMo is not tested with older drivers.

    How it decides: it compares the driver's version with the oldest that BioNeMo's documentation names.

    Fix: update the driver.
    """
    needed = drivers.bionemo_minimum()
    if drivers.is_older(driver.driver or "", needed):
        fail(
            f"driver {driver.driver}; BioNeMo's documentation supports {needed} and newer",
            why="BioNeMo may work, but it is not tested with older drivers",
            fix=fixes.update_driver(host, needed),
        )
