"""PyTorch: installed, importable, built for this driver and for these GPUs, and seeing them."""

from __future__ import annotations

import os
import re

from pytest_bionemo.checking import check, fail, not_applicable, wait_for
from pytest_bionemo.facts import architectures, wheels
from pytest_bionemo.model import Action, Gpu, GpuEnv, count
from pytest_bionemo.probes import packages, visible
from pytest_bionemo.probes.host import Host
from pytest_bionemo.probes.libraries import Shadow
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.probes.toolkit import Toolkit
from pytest_bionemo.probes.torch_build import TorchBuild

_START_LOCALLY = "https://pytorch.org/get-started/locally/"


def _install(env: GpuEnv, host: Host) -> list[str]:
    """How to get a PyTorch that fits this driver, these GPUs and this Python; without a driver, any."""
    if not env.has_driver:
        return ["$ pip install torch"]
    wheel = wheels.best_for(env.driver or "", env.capabilities, host.python)
    if wheel is None:
        return [
            f"update the driver: no PyTorch on record fits driver {env.driver}, these GPUs and Python {host.python}"
        ]
    return [wheels.install(wheel)]


@check()
def installed(machine: Machine, gpu_env: GpuEnv, host: Host, torch_is_due: None) -> None:
    """PyTorch is installed."""
    if not machine.torch_build.is_installed:
        leftover = packages.version("torch")
        fail(
            f"torch {leftover} is in the package metadata, but its files are gone"
            if leftover
            else "PyTorch is not installed in this Python environment",
            why="every BioNeMo model and recipe trains with PyTorch",
            fix=_install(gpu_env, host),
            links=[_START_LOCALLY],
        )


# A pattern of an import error, why it happens, how to fix it.
_IMPORT_ERRORS: tuple[tuple[str, str, str], ...] = (
    (
        r"undefined symbol: \S*nvJitLink|libnvJitLink",
        "an older libnvJitLink is found before the one that this build needs",
        "take folders with CUDA libraries out of LD_LIBRARY_PATH",
    ),
    (
        r"undefined symbol",
        "a library of another build is mixed in",
        "reinstall PyTorch and what was compiled against it",
    ),
    (
        r"GLIBC(XX)?_[\d.]+' not found",
        "the system's C or C++ library is too old",
        "use a newer Linux or container image",
    ),
    (
        r"lib\S+\.so\S*: cannot open shared object file",
        "a CUDA library that the build needs is not installed",
        "reinstall PyTorch with its dependencies",
    ),
    (
        r"no answer within",
        "the file system is slow, or the import hangs",
        "raise --bionemo-timeout, or look at the disk",
    ),
    (r"killed by SIG", "a library crashes the interpreter", "reinstall PyTorch with its dependencies"),
)


@check()
def imports(torch_installed: TorchBuild, gpu_env: GpuEnv, host: Host) -> None:
    """PyTorch imports."""
    error = torch_installed.import_error
    if error:
        why, fix = next(
            ((why, fix) for pattern, why, fix in _IMPORT_ERRORS if re.search(pattern, error)),
            ("no program can use PyTorch", "reinstall PyTorch with its dependencies"),
        )
        fail(
            f"import torch fails: {error}",
            why=why,
            fix=[
                fix,
                *(f"or {line}" if not line.startswith("$ ") else line for line in _install(gpu_env, host)),
            ],
        )


@check()
def is_cuda_build(torch_build: TorchBuild, driver: GpuEnv, host: Host) -> None:
    """PyTorch is built for CUDA."""
    if torch_build.cuda is None:
        kind = f"a ROCm {torch_build.hip} build" if torch_build.hip else "a build for the CPU only"
        fail(
            f"PyTorch {torch_build.version} is {kind}: it sees none of the {count(len(driver.gpus), 'NVIDIA GPU')}",
            why="it cannot run anything on an NVIDIA GPU",
            fix=["$ pip uninstall torch", *_install(driver, host)],
            links=[_START_LOCALLY],
        )


@check()
def covers(gpu: Gpu, cuda_torch: TorchBuild, driver: GpuEnv, host: Host) -> None:
    """PyTorch holds code for this GPU's architecture."""
    assert gpu.compute_capability  # a GPU that answers has one
    if not cuda_torch.arch_list:
        wait_for(None, f"PyTorch {cuda_torch.version} does not say which architectures it was built for")
    if architectures.match(cuda_torch.arch_list, gpu.compute_capability) is None:
        capability = "{}.{}".format(*gpu.compute_capability)
        fail(
            f"{gpu.name} has compute capability {capability}; PyTorch {cuda_torch.version} is built for "
            f"{' '.join(cuda_torch.arch_list)}",
            why='every kernel would fail: "no kernel image is available for execution on the device"',
            fix=_install(driver, host),
        )


@check()
def sees_same_gpus(answering_gpus: tuple[Gpu, ...], usable_torch: TorchBuild) -> None:
    """PyTorch sees the GPUs that the driver shows."""
    gpus = answering_gpus
    expected = visible.read(gpus, os.environ)
    if expected.problem:
        wait_for("driver::visible_devices_valid", f"{visible.VARIABLE} is not valid")
    found = usable_torch.devices
    if not found:
        _fail_blind(usable_torch, len(expected.uuids))
    if any(gpu.mig_enabled for gpu in gpus):
        return  # CUDA shows one MIG slice, by rules of its own; it is there and it answers
    if len(found) != len(expected.uuids):
        _fail_differing(f"PyTorch sees {count(len(found), 'GPU')}, the driver shows {len(expected.uuids)}")
    unknown = {device.uuid for device in found if device.uuid} - _allowed(gpus, expected)
    if unknown:
        _fail_differing(f"PyTorch sees {', '.join(sorted(unknown))}, which the driver does not show")


def _allowed(gpus: tuple[Gpu, ...], expected: visible.Visible) -> set[str]:
    return set(expected.uuids) if expected.exact else {gpu.uuid or "" for gpu in gpus}


# The number of a CUDA error in torch's text: why it happens, how to fix it, which action.
_CUDA_ERRORS: dict[str, tuple[str, str, Action]] = {
    "Error 802": (
        "the NVSwitch fabric is not up: the fabric manager does not run, or is of another version",
        "start nvidia-fabricmanager in the exact version of the driver; on a cloud node, replace the node",
        Action.REPLACE_NODE,
    ),
    "Error 803": (
        "the CUDA library and the kernel driver are of different versions",
        "take foreign folders with a libcuda out of LD_LIBRARY_PATH, or reboot the node",
        Action.REBOOT_NODE,
    ),
    "Error 804": (
        "forward compatibility is for data centre GPUs",
        "take the cuda-compat folder out of LD_LIBRARY_PATH, or update the driver",
        Action.FIX_SOFTWARE,
    ),
}


def _fail_blind(torch: TorchBuild, expected: int) -> None:
    said = torch.device_error or "it gives no reason"
    why, fix, action = next(
        (known for number, known in _CUDA_ERRORS.items() if number in said),
        (
            "CUDA does not start, although the driver answers",
            "look at the kernel log: $ sudo dmesg | grep -i -e nvrm -e nvidia",
            Action.REBOOT_NODE,
        ),
    )
    fail(f"PyTorch sees none of the {count(expected, 'GPU')}: {said}", why=why, fix=fix, action=action)


def _fail_differing(seen: str) -> None:
    fail(
        seen,
        why="a job would run on fewer or other GPUs than it was given",
        fix=["compare the two: $ nvidia-smi -L", "reboot the node if a GPU is missing"],
        action=Action.REBOOT_NODE,
    )


@check(severity="warning")
def nvidia_wheels_agree(cuda_torch: TorchBuild) -> None:
    """The installed NVIDIA wheels are of PyTorch's CUDA major version."""
    major = int((cuda_torch.cuda or "0").partition(".")[0])
    found = packages.cuda_majors()
    if not found:
        not_applicable("no NVIDIA wheel is installed")
    others = sorted(f"{name} {packages.version(name)}" for name, number in found.items() if number != major)
    if others:
        fail(
            f"PyTorch {cuda_torch.version} is built for CUDA {major}, but these wheels are for another: "
            + ", ".join(others),
            why="two CUDA majors in one process can load the wrong library",
            fix=[
                f"$ pip uninstall {' '.join(name.partition(' ')[0] for name in others)}",
                f"and install what needs them for CUDA {major}",
            ],
        )


@check(severity="warning")
def library_path_is_clean(cuda_torch: TorchBuild, shadowed_libraries: tuple[Shadow, ...]) -> None:
    """LD_LIBRARY_PATH replaces no library of the installed NVIDIA wheels."""
    if shadowed_libraries:
        named = ", ".join(f"{shadow.path} ({shadow.wheel})" for shadow in shadowed_libraries[:5])
        more = len(shadowed_libraries) - 5
        folders = sorted({str(shadow.path.parent) for shadow in shadowed_libraries})
        fail(
            f"LD_LIBRARY_PATH comes before {count(len(shadowed_libraries), 'library', 'libraries')} of the wheels: "
            + named
            + (f" and {more} more" if more > 0 else ""),
            why="PyTorch may load a library of another version than it was built with",
            fix=f"take {', '.join(folders)} out of LD_LIBRARY_PATH",
        )


@check(severity="warning")
def toolkit_builds_extensions(cuda_torch: TorchBuild, cuda_toolkit: Toolkit | None) -> None:
    """The CUDA toolkit, where there is one, can build extensions for this PyTorch."""
    if cuda_toolkit is None:
        not_applicable("no CUDA toolkit is installed, and PyTorch's wheels need none")
    where = f"{cuda_toolkit.nvcc} (found through {cuda_toolkit.named_by})"
    if cuda_toolkit.cuda is None:
        fail(
            f"{where} does not run: {cuda_toolkit.error}",
            why="Transformer Engine and flash-attn cannot be built with it",
            fix=f"correct or unset {cuda_toolkit.named_by}" if cuda_toolkit.named_by != "PATH" else "reinstall it",
        )
    if cuda_toolkit.cuda.partition(".")[0] != (cuda_torch.cuda or "").partition(".")[0]:
        fail(
            f"{where} is CUDA {cuda_toolkit.cuda}; PyTorch {cuda_torch.version} is built for CUDA {cuda_torch.cuda}",
            why="PyTorch refuses to build extensions across major versions (Transformer Engine, flash-attn)",
            fix=f"set CUDA_HOME to a CUDA {(cuda_torch.cuda or '').partition('.')[0]} toolkit",
        )
