"""PyTorch: installed, importable, built for this driver and for these GPUs, and seeing them."""

from __future__ import annotations

import re
from typing import NamedTuple

from pytest_bionemo import fixes
from pytest_bionemo.checking import check, fail, not_applicable, wait_for
from pytest_bionemo.compute import Compute
from pytest_bionemo.facts import architectures
from pytest_bionemo.model import Action, Gpu, GpuEnv, count
from pytest_bionemo.probes import packages, visible
from pytest_bionemo.probes.host import Host
from pytest_bionemo.probes.libraries import Shadow
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.probes.toolkit import Toolkit
from pytest_bionemo.probes.torch_build import STARTING_CUDA, TorchBuild, TorchDevice

_START_LOCALLY = "https://pytorch.org/get-started/locally/"


@check()
def installed(machine: Machine, gpu_env: GpuEnv, host: Host, torch_is_due: None) -> None:
    """PyTorch is installed.

    Why: every BioNeMo model and recipe trains with PyTorch.

    How it decides: it looks for the metadata and for the files of the package; metadata without files are what an
    interrupted installation leaves.

    Fix: install the PyTorch that the finding names: it fits this driver, these GPUs and this Python.
    """
    if not machine.torch_build.is_installed:
        leftover = packages.version("torch")
        fail(
            f"torch {leftover} is in the package metadata, but its files are gone"
            if leftover
            else "PyTorch is not installed in this Python environment",
            why="every BioNeMo model and recipe trains with PyTorch",
            fix=fixes.install_torch(gpu_env, host, is_broken=leftover is not None),
            links=[_START_LOCALLY],
        )


class _ImportError(NamedTuple):
    """Why an import fails with an error like this, and how to fix it other than by another PyTorch."""

    pattern: str
    why: str
    fix: str = ""
    reinstall: bool = True
    action: Action = Action.FIX_SOFTWARE


_IMPORT_ERRORS = (
    _ImportError(
        f"while {STARTING_CUDA}",
        "the driver or a GPU does not let CUDA start",
        "look at the kernel log: $ sudo dmesg | grep -i -e nvrm -e nvidia; then reboot the node",
        reinstall=False,
        action=Action.REBOOT_NODE,
    ),
    _ImportError(
        r"undefined symbol: \S*nvJitLink|libnvJitLink",
        "an older libnvJitLink is found before the one that this build needs",
        "take folders with CUDA libraries out of LD_LIBRARY_PATH",
    ),
    _ImportError(r"undefined symbol", "a library of another build is mixed in"),
    _ImportError(
        r"GLIBC(XX)?_[\d.]+' not found",
        "the system's C or C++ library is too old",
        "use a newer Linux or container image",
        reinstall=False,
    ),
    _ImportError(
        r"lib\S+\.so\S*: cannot open shared object file", "a CUDA library that the build needs is not installed"
    ),
    _ImportError(
        r"no answer within",
        "the file system is slow, or the import hangs",
        "raise --bionemo-timeout, or look at the disk",
        reinstall=False,
    ),
    _ImportError(r"killed by SIG", "a library crashes the interpreter"),
    _ImportError("", "no program can use PyTorch"),
)


@check()
def imports(torch_installed: TorchBuild, gpu_env: GpuEnv, host: Host) -> None:
    """PyTorch imports.

    Why: no program can use a PyTorch that does not import.

    How it decides: a child process with a deadline imports it; the text of the error tells a mixed-up library from a
    missing one.

    Fix: install PyTorch again, or what the error says is missing.
    """
    error = torch_installed.import_error
    if error:
        known = next(known for known in _IMPORT_ERRORS if re.search(known.pattern, error))
        fail(
            f"{'PyTorch cannot be read' if STARTING_CUDA in error else 'import torch fails'}: {error}",
            why=known.why,
            fix=[*([known.fix] if known.fix else []), *(_reinstall(known, gpu_env, host) if known.reinstall else [])],
            action=known.action,
        )


def _reinstall(known: _ImportError, env: GpuEnv, host: Host) -> list[str]:
    lead = f"{'or ' if known.fix else ''}reinstall PyTorch, and what was compiled against it"
    fitting = fixes.fitting_torch(env, host, is_broken=True)
    lines = fitting or [f"and {line}" for line in fixes.install_torch(env, host)]
    return [f"{lead}:" if lines[0].startswith("$ ") else lead, *lines]


@check()
def is_cuda_build(torch_build: TorchBuild, driver: GpuEnv, host: Host) -> None:
    """PyTorch is built for CUDA.

    Why: a build for the CPU or for ROCm cannot run anything on an NVIDIA GPU, and pip installs one where nobody asked
    for CUDA.

    How it decides: it reads torch.version.cuda, which is empty in every other build.

    Fix: replace the CPU build by the one for CUDA that the finding names.
    """
    if torch_build.cuda is None:
        kind = f"a ROCm {torch_build.hip} build" if torch_build.hip else "a build for the CPU only"
        fail(
            f"PyTorch {torch_build.version} is {kind}: it {_sees_none_of(len(driver.gpus), 'NVIDIA GPU')}",
            why="it cannot run anything on an NVIDIA GPU",
            fix=_replace(driver, host),
            links=[_START_LOCALLY],
        )


def _replace(env: GpuEnv, host: Host) -> list[str]:
    """How to get a PyTorch for CUDA instead of another kind; pip would keep that where the versions agree."""
    fitting = fixes.fitting_torch(env, host)
    return ["$ pip uninstall torch", *fitting] if fitting else fixes.install_torch(env, host)


def _sees_none_of(number: int, noun: str = "GPU") -> str:
    return f"does not see the {noun}" if number == 1 else f"sees none of the {count(number, noun)}"


@check()
def covers(gpu: Gpu, cuda_torch: TorchBuild, driver: GpuEnv, host: Host) -> None:
    """PyTorch holds code for this GPU's architecture.

    Why: every kernel would fail: 'no kernel image is available for execution on the device'.

    How it decides: it compares the compute capability of the GPU with the architectures that the build names
    (torch.cuda.get_arch_list): compiled code of the same generation, or PTX that the driver can compile.

    Fix: install a PyTorch that holds code for this GPU.
    """
    assert gpu.compute_capability  # a GPU that answers has one
    if not cuda_torch.arch_list:
        wait_for(None, f"PyTorch {cuda_torch.version} does not say which architectures it was built for")
    if architectures.match(cuda_torch.arch_list, gpu.compute_capability) is None:
        capability = "{}.{}".format(*gpu.compute_capability)
        fail(
            f"{gpu.name} has compute capability {capability}; PyTorch {cuda_torch.version} is built for "
            f"{' '.join(cuda_torch.arch_list)}",
            why='every kernel would fail: "no kernel image is available for execution on the device"',
            fix=fixes.install_torch(driver, host, cuda_torch.version),
        )


@check()
def sees_same_gpus(answering_gpus: tuple[Gpu, ...], usable_torch: TorchBuild, machine: Machine) -> None:
    """PyTorch sees the GPUs that the driver shows.

    Why: a job would run on fewer or other GPUs than it was given, or on none.

    How it decides: a child process lists PyTorch's devices; their number and UUIDs have to be those of the driver,
    after CUDA_VISIBLE_DEVICES and MIG.

    Fix: do what the CUDA error asks for (fabric manager, MIG slices, device nodes), or reboot the node.
    """
    expected = visible.read(answering_gpus, machine.variables)
    if expected.problem:
        wait_for("driver::visible_devices_valid", f"{visible.VARIABLE} is not valid")
    gpus = visible.holders(expected, answering_gpus)
    found = usable_torch.devices
    if not found:
        _fail_blind(usable_torch, gpus, len(expected.uuids))
    if _are_miscounted(found, gpus, expected):
        _fail_differing(f"PyTorch sees {count(len(found), 'GPU')}, the driver shows {len(expected.uuids)}")
    uuids = [device.uuid for device in found if device.uuid is not None]
    if unknown := sorted({uuid for uuid in uuids if visible.bare(uuid) not in _known(gpus)}):
        _fail_differing(f"PyTorch sees {', '.join(unknown)}, which the driver does not show")
    if repeated := sorted({uuid for uuid in uuids if uuids.count(uuid) > 1}):
        _fail_differing(f"PyTorch sees {', '.join(repeated)} more than once")


def _are_miscounted(found: tuple[TorchDevice, ...], gpus: tuple[Gpu, ...], expected: visible.Visible) -> bool:
    if not any(gpu.mig_enabled for gpu in gpus):
        return len(found) != len(expected.uuids)
    # How many slices CUDA shows is its own affair; of the whole GPUs beside them it shows all or none.
    whole = _known(tuple(gpu for gpu in gpus if not gpu.mig_enabled))
    shown = sum(visible.bare(device.uuid or "") in whole for device in found)
    return expected.exact and shown not in (0, len(whole))


def _known(gpus: tuple[Gpu, ...]) -> set[str]:
    """Without the kind: whether torch reports a slice by its own UUID or by its GPU's is not known."""
    devices = {mig.uuid for gpu in gpus for mig in gpu.mig_devices} | {gpu.uuid or "" for gpu in gpus}
    return {visible.bare(uuid) for uuid in devices if uuid}


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


def _fail_blind(torch: TorchBuild, gpus: tuple[Gpu, ...], expected: int) -> None:
    said = torch.device_error or "it gives no reason"
    known = next((known for number, known in _CUDA_ERRORS.items() if number in said), None)
    if known is None and all(gpu.mig_enabled and not gpu.mig_devices for gpu in gpus):
        _fail_without_slices(expected)
    why, fix, action = known or (
        "CUDA does not start, although the driver answers",
        "look at the kernel log: $ sudo dmesg | grep -i -e nvrm -e nvidia",
        Action.REBOOT_NODE,
    )
    fail(f"PyTorch {_sees_none_of(expected)}: {said}", why=why, fix=fix, action=action)


def _fail_without_slices(expected: int) -> None:
    fail(
        f"PyTorch {_sees_none_of(expected)}: MIG mode is on, and there is no slice for this process",
        why="a GPU in MIG mode runs programs in its slices only",
        fix=[
            "make slices, of a profile that the first of these lists:",
            "$ nvidia-smi mig -lgip",
            "$ sudo nvidia-smi mig -cgi PROFILE -C",
            "or switch MIG mode off:",
            "$ sudo nvidia-smi -mig 0",
        ],
    )


def _fail_differing(seen: str) -> None:
    fail(
        seen,
        why="a job would run on fewer or other GPUs than it was given",
        fix=["compare the two: $ nvidia-smi -L", "reboot the node if a GPU is missing"],
        action=Action.REBOOT_NODE,
    )


@check(level="standard")
def computes(device: Compute) -> None:
    """PyTorch starts on this device, and a small product is right.

    Why: nothing that a device computes can be trusted if a small product is wrong, and no later check means anything
    there.

    How it decides: the device's own worker process multiplies two small matrices of integers, whose product is known
    exactly, and names the GPU that it sees: it has to be the one that was asked for.

    Fix: read the kernel log for Xids, reset the GPU; a GPU that computes wrong is to be replaced.
    """
    found = device.run("smoke:run")
    if found["wrong"]:
        fail(
            f"{device}: {found['wrong']} of 4096 elements of a small matrix product are wrong",
            why="nothing that this device computes can be trusted",
            fix="take the device out of use, and have it replaced",
            action=Action.REPLACE_NODE if device.gpu else Action.FIX_SOFTWARE,
        )
    if not device.is_right(found):
        fail(
            f"asked for {device.label} alone, PyTorch has {count(found['devices'], 'device')}, the first of them "
            f"{found['name']} with the UUID {found['uuid']}",
            why="a job would run on another GPU than the one that it was given",
            fix="look at what sets CUDA_VISIBLE_DEVICES at the start of Python, such as a sitecustomize module",
        )


@check(severity="warning")
def nvidia_wheels_agree(cuda_torch: TorchBuild) -> None:
    """The installed NVIDIA wheels are of PyTorch's CUDA major version.

    Why: two major versions of CUDA in one process can load the wrong library.

    How it decides: it compares the CUDA in the names of the installed NVIDIA wheels with the one that PyTorch was
    built for.

    Fix: uninstall the NVIDIA wheels of the other CUDA.
    """
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
    """LD_LIBRARY_PATH replaces no library of the installed NVIDIA wheels.

    Why: PyTorch may load a library of another version than it was built with.

    How it decides: it looks in each folder of LD_LIBRARY_PATH for libraries of the same name as those of the
    installed NVIDIA wheels.

    Fix: take the folder of the foreign libraries out of LD_LIBRARY_PATH.
    """
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
    """The CUDA toolkit, where there is one, can build extensions for this PyTorch.

    Why: PyTorch refuses to build extensions such as Transformer Engine and flash-attn across major versions of CUDA.

    How it decides: it runs the nvcc that builds would find (CUDA_HOME, PATH), and compares its major version with
    PyTorch's.

    Fix: point CUDA_HOME to a toolkit of PyTorch's CUDA, or unset it.
    """
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
