"""Every shipped check has its pair: a healthy machine where it passes, and injected faults where it fails.

The faults go in at the lowest level that can be reached: the driver library, the C library, the files of an
installed distribution, the environment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from conftest import Rig
from pytest_bionemo.checks import shipped
from pytest_bionemo.suite import declared_checks, import_checks, topic_of
from standin import H100_MIG, A10Gx1, B200x8, H100x8, RTX4090x1, StandinGpu, T4x1, V100x1
from standin.distributions import write_distribution
from standin.torch_package import Device, StandinTorch

Change = Callable[[Rig], object]
COMPUTES = "torch::computes"


@dataclass(frozen=True)
class Fault:
    """What is done to the healthy machine, and what the check must say of it."""

    inject: Change
    message: str
    fix: str = ""
    action: str = "FIX_SOFTWARE"
    parameter: str | None = None


@dataclass(frozen=True)
class Twin:
    """A check on a healthy machine and on broken ones. ``parameter`` is that of the healthy run."""

    faults: Mapping[str, Fault]
    healthy: Change = field(default=lambda rig: None)
    parameter: str = ""
    options: tuple[str, ...] = ()


# ---- the faults


def node_fault(function: str, fault: str | int) -> Change:
    def inject(rig: Rig) -> None:
        assert rig.node
        rig.node = rig.node.with_fault(function, fault)

    return inject


def no_driver(rig: Rig) -> None:
    rig.node = None


def no_driver_in_windows(rig: Rig) -> None:
    no_driver(rig)
    on_host(release="5.15.167.4-microsoft-standard-WSL2")(rig)


def no_nvml_in_a_container(rig: Rig) -> None:
    rig.node = None
    rig.torch = StandinTorch(devices=shown(H100x8.gpus))
    rig.variables["KUBERNETES_SERVICE_HOST"] = "10.0.0.1"


def shown(gpus: Sequence[StandinGpu]) -> list[Device]:
    """What torch says of these GPUs."""
    return [(gpu.uuid, gpu.name, *gpu.compute_capability, gpu.memory_bytes) for gpu in gpus]


def closed_gpus(*indices: int) -> Change:
    """GPUs that a cgroup keeps from this job."""

    def inject(rig: Rig) -> None:
        rig.node = H100x8
        for index in indices:
            rig.node = rig.node.with_gpu_fault(index, "nvmlDeviceGetHandleByIndex_v2", 4)

    return inject


def no_gpus(rig: Rig) -> None:
    rig.node = H100x8
    for _ in H100x8.gpus:
        rig.node = rig.node.without_gpu(0)


def lost_gpu(rig: Rig) -> None:
    rig.node = H100x8.with_gpu_fault(3, "nvmlDeviceGetHandleByIndex_v2", 15)


def unreadable_gpu(rig: Rig) -> None:
    rig.node = H100x8.with_gpu_fault(3, "nvmlDeviceGetMemoryInfo", 999)


def one_gpu_less(rig: Rig) -> None:
    rig.node = H100x8.without_gpu(7)


def variable(name: str, value: str) -> Change:
    return lambda rig: rig.variables.update({name: value})


def on_host(**changes: str) -> Change:
    return lambda rig: rig.variables.update(rig.libraries.on_host(**changes))


def without_torch_on(**changes: str) -> Change:
    def inject(rig: Rig) -> None:
        rig.torch = None
        rig.variables.update(rig.libraries.on_host(**changes))

    return inject


def torch(**changes: object) -> Change:
    def inject(rig: Rig) -> None:
        rig.torch = StandinTorch(**changes)  # type: ignore[arg-type]

    return inject


def machine(node: object, **changes: object) -> Change:
    def inject(rig: Rig) -> None:
        rig.node = node  # type: ignore[assignment]
        rig.torch = StandinTorch(**changes)  # type: ignore[arg-type]

    return inject


def no_torch(rig: Rig) -> None:
    rig.torch = None


def torch_without_files(rig: Rig) -> None:
    rig.torch = None
    write_distribution(rig.site, "torch", "2.14.1", {})


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


def libcuda_on(node: object, version: str, error: str) -> Change:
    def inject(rig: Rig) -> None:
        rig.node = node  # type: ignore[assignment]
        libcuda(version, error=error)(rig)

    return inject


def nvcc(release: str, exit_status: int = 0) -> Change:
    """Install a toolkit: as much of it as anybody asks."""

    def inject(rig: Rig) -> None:
        program = rig.write("../toolkit/bin/nvcc", f"#!/bin/sh\necho 'Cuda compilation tools, release {release}'\n")
        program.write_text(program.read_text() + f"exit {exit_status}\n")
        program.chmod(0o755)
        rig.variables["CUDA_HOME"] = str(program.parents[1])

    return inject


def wheel(name: str, version: str, library: str = "") -> Change:
    files = {f"nvidia/{library}": ""} if library else {}
    return lambda rig: write_distribution(rig.site, name, version, files)


def foreign_library(rig: Rig) -> None:
    wheel("nvidia-nvjitlink", "13.0.88", "cu13/lib/libnvJitLink.so.13")(rig)
    place = rig.folder / "foreign"
    place.mkdir()
    (place / "libnvJitLink.so.13").touch()
    rig.variables["LD_LIBRARY_PATH"] = str(place)


MODULE = {"bionemo/scdl/__init__.py": "", "bionemo/scdl/io.py": "x = 1\n"}


def scdl(rig: Rig) -> None:
    write_distribution(rig.site, "bionemo-scdl", "0.1.3", MODULE, requires_python=">=3.10")


def both(*changes: Change) -> Change:
    def inject(rig: Rig) -> None:
        for change in changes:
            change(rig)

    return inject


OLD_H100x8 = H100x8.with_driver("550.144.03", 12040)
BESIDE_MIG = replace(H100x8, gpus=H100x8.gpus[:7] + H100_MIG.gpus)

# ---- the pairs

TWINS: dict[str, Twin] = {
    "host::runs_linux": Twin(
        {
            "another kernel": Fault(on_host(sysname="FreeBSD"), "FreeBSD", action="REPLACE_NODE"),
            "a Mac": Fault(
                without_torch_on(sysname="Darwin", machine="arm64", glibc="none"),
                "Darwin",
                "run this on Linux\nor, on Windows, inside WSL 2",
                "REPLACE_NODE",
            ),
        }
    ),
    "host::has_supported_processor": Twin(
        {"another processor": Fault(on_host(machine="ppc64le"), "ppc64le.*x86_64", action="REPLACE_NODE")},
        healthy=on_host(machine="aarch64"),
    ),
    "host::has_glibc_for_torch": Twin(
        {
            "old glibc": Fault(without_torch_on(glibc="glibc 2.17"), r"2\.17.*2\.28", action="REPLACE_NODE"),
            "musl": Fault(without_torch_on(glibc="none"), "not glibc", action="REPLACE_NODE"),
        },
        # An old glibc is no fault where torch is loaded all the same.
        healthy=on_host(glibc="glibc 2.17"),
    ),
    "driver::loads": Twin(
        {
            "no library": Fault(no_driver, "libnvidia-ml.so.1 is not found"),
            "no kernel module": Fault(node_fault("nvmlInitWithFlags", 9), "kernel driver is not loaded"),
            "versions differ": Fault(node_fault("nvmlInitWithFlags", 18), "different versions", action="REBOOT_NODE"),
            "no library in WSL 2": Fault(
                no_driver_in_windows, "libnvidia-ml", "driver on Windows, never inside WSL 2"
            ),
            "NVML alone": Fault(
                no_nvml_in_a_container,
                "missing from the container, although CUDA works: PyTorch sees 8 GPUs",
                "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
            ),
            "no permission": Fault(node_fault("nvmlInitWithFlags", 4), "may not talk", "--gres=gpu"),
            "no GPU of this job": Fault(
                closed_gpus(*range(8)), "may use none of the 8 GPUs", "ask the administrator"
            ),
            "no version": Fault(
                machine(H100x8.with_driver("Not Supported", 13000)), "'Not Supported'", action="REBOOT_NODE"
            ),
            "one GPU hangs": Fault(
                lambda rig: setattr(rig, "node", H100x8.with_gpu_fault(3, "nvmlDeviceGetName", "hang")),
                "no answer within 2 s, while asking GPU 3",
                action="REBOOT_NODE",
            ),
            "lost": Fault(node_fault("nvmlInitWithFlags", 15), r"GPU is lost.*15", "reboot", "REBOOT_NODE"),
            "out of memory": Fault(node_fault("nvmlInitWithFlags", 20), "code 20", action="REBOOT_NODE"),
            "crash": Fault(node_fault("nvmlInitWithFlags", "crash"), "SIGSEGV", action="REBOOT_NODE"),
            "hang": Fault(node_fault("nvmlInitWithFlags", "hang"), "no answer within 2 s", action="REBOOT_NODE"),
            "version unknown": Fault(
                node_fault("nvmlSystemGetDriverVersion", 999), "does not answer|lost access", action=""
            ),
        },
        options=("--bionemo-timeout=2",),
    ),
    "driver::devices_present": Twin({"none": Fault(no_gpus, "sees no GPU", "lspci", action="")}),
    "driver::answers": Twin(
        {
            "lost": Fault(lost_gpu, "GPU 3 .*GPU is lost", "xid", "REBOOT_NODE", "gpu3"),
            "unreadable": Fault(unreadable_gpu, "nvmlDeviceGetMemoryInfo", "xid", "REBOOT_NODE", "gpu3"),
        },
        parameter="gpu3",
    ),
    "driver::expected_count": Twin(
        {
            "one less": Fault(one_gpu_less, "7 GPUs .*expected 8", "lspci", "REBOOT_NODE"),
            "not this job's": Fault(closed_gpus(6, 7), "6 GPUs .*2 more .*not this job's, expected 8", "scheduler"),
        },
        options=("--bionemo-expect-gpus=8",),
    ),
    "driver::visible_devices_valid": Twin(
        {
            "empty": Fault(variable("CUDA_VISIBLE_DEVICES", ""), "it is empty", "unset"),
            "unknown index": Fault(variable("CUDA_VISIBLE_DEVICES", "0,8"), r"no GPU 8 \(they are 0 to 7\)"),
            "minus one": Fault(variable("CUDA_VISIBLE_DEVICES", "-1"), "-1 hides every GPU"),
            "of Slurm": Fault(variable("CUDA_VISIBLE_DEVICES", "NoDevFiles"), "Slurm gave", "--gres=gpu:1"),
            "empty under cuda-compat": Fault(
                both(libcuda_on(A10Gx1, "580.65.06", "Error 100"), variable("CUDA_VISIBLE_DEVICES", "")),
                "it is empty",
            ),
            "twice": Fault(variable("CUDA_VISIBLE_DEVICES", "0,1,0"), "names 0 twice"),
            "unknown UUID": Fault(variable("CUDA_VISIBLE_DEVICES", "GPU-ffffffff"), "no device has the UUID"),
            "unknown MIG": Fault(variable("CUDA_VISIBLE_DEVICES", "MIG-ffffffff"), "no device has the UUID"),
            "no form at all": Fault(variable("CUDA_VISIBLE_DEVICES", "all"), "neither an index nor a UUID"),
        },
        healthy=variable("CUDA_VISIBLE_DEVICES", "2,1"),
    ),
    "driver::libcuda_fits": Twin(
        {
            "stale": Fault(libcuda("550.54.15", error="Error 803"), r"550\.54\.15.*580\.95\.05", "compat"),
            "stub": Fault(libcuda("580.95.05", "stubs", error="Error 34"), "stub", "stubs"),
            "forward on GeForce": Fault(
                libcuda_on(RTX4090x1, "595.71.05", "Error 804"), r"RTX 4090\) cannot", r"595\.71\.05"
            ),
        },
        # Forward compatibility on data centre GPUs, and any other libcuda that CUDA starts with.
        healthy=libcuda("595.71.05"),
    ),
    "driver::supports_torch_cuda": Twin(
        {
            "older family": Fault(
                machine(A10Gx1),
                r"550\.144\.03.*CUDA 13\.0 \(needs 580",
                r"^\$ pip install .torch==2\.10.*\nor update the driver to 580",
            ),
            "no PyTorch for it": Fault(
                both(machine(A10Gx1), on_host(machine="aarch64")), r"550\.144\.03", r"^update the driver to 580\.65"
            ),
            "in WSL 2": Fault(
                both(machine(A10Gx1), on_host(release="6.6.87.2-microsoft-standard-WSL2")),
                r"550\.144\.03",
                "or update the driver on Windows, never inside WSL 2, to 580",
            ),
            "the same version for another CUDA": Fault(
                machine(A10Gx1, version="2.10.0+cu130"), r"2\.10\.0\+cu130", r"--force-reinstall .torch==2\.10"
            ),
        },
    ),
    "driver::has_all_features_for_torch": Twin(
        {
            "older than the toolkit": Fault(
                torch(version="2.15.0", cuda="13.2"), r"580\.95\.05.*13\.2.*595", r"595\.45\.04"
            )
        }
    ),
    "driver::meets_bionemo_minimum": Twin(
        {"older": Fault(machine(A10Gx1, version="2.10.0", cuda="12.8"), r"550\.144\.03.*560", "560")}
    ),
    "torch::installed": Twin(
        {
            "absent": Fault(no_torch, "not installed", r"\$ pip install .torch==2\.14"),
            "files gone": Fault(torch_without_files, "files are gone", r"\$ pip install --force-reinstall .torch"),
            "no build for CUDA": Fault(
                both(lambda rig: setattr(rig, "node", A10Gx1), without_torch_on(machine="aarch64")),
                "not installed",
                "^update the driver to 580",
            ),
        }
    ),
    "torch::imports": Twin(
        {
            "missing library": Fault(
                torch(import_error="ImportError: libcublas.so.12: cannot open shared object file"),
                "libcublas.so.12",
                r"\$ pip install --force-reinstall .torch==2\.14",
            ),
            "older nvJitLink": Fault(
                torch(import_error="ImportError: undefined symbol: __nvJitLinkComplete_12_4"),
                "nvJitLinkComplete",
                "LD_LIBRARY_PATH\nor reinstall PyTorch",
            ),
            "dependency missing": Fault(torch(import_error="ModuleNotFoundError: No module named 'sympy'"), "sympy"),
            "crash": Fault(torch(import_crashes=True), "SIGSEGV"),
            "hang": Fault(torch(import_hangs=True), "no answer within 2 s", "bionemo-timeout"),
            "CUDA hangs": Fault(
                torch(init_hangs=True), "cannot be read.* 2 s, while starting CUDA", "dmesg", "REBOOT_NODE"
            ),
        },
        options=("--bionemo-timeout=2",),
    ),
    "torch::is_cuda_build": Twin(
        {
            "CPU build": Fault(torch(version="2.13.0+cpu", cuda=None), "CPU only.*8 NVIDIA GPUs", r"\$ pip install"),
            "ROCm build": Fault(torch(version="2.14.1+rocm7", cuda=None, hip="7.0"), "ROCm 7.0"),
            "one GPU": Fault(machine(T4x1, version="2.13.0+cpu", cuda=None), "does not see the NVIDIA GPU"),
            "CPU build for aarch64": Fault(
                both(machine(A10Gx1, version="2.10.0", cuda=None), on_host(machine="aarch64")),
                "CPU only",
                "^update the driver to 580",
            ),
        }
    ),
    "torch::covers": Twin(
        {
            "Volta": Fault(machine(V100x1), r"7\.0.*sm_75", "torch==2.10", parameter="gpu0"),
            "Blackwell": Fault(
                machine(B200x8, version="2.7.1+cu126", cuda="12.6", arch_list=("sm_80", "sm_90")),
                r"10\.0",
                "torch==2.14",
                parameter="gpu5",
            ),
        },
        healthy=machine(T4x1),
        parameter="gpu0",
    ),
    "torch::sees_same_gpus": Twin(
        {
            "blind": Fault(torch(devices=()), "none of the 8 GPUs", action="REBOOT_NODE"),
            "fabric manager": Fault(
                torch(devices=(), init_error="Unexpected error from cudaGetDeviceCount(). Error 802: not ready"),
                "Error 802",
                "fabricmanager",
                "REPLACE_NODE",
            ),
            "fewer": Fault(
                torch(devices=shown(H100x8.gpus[:7])),
                "sees 7 GPUs, the driver shows 8",
                "nvidia-smi -L",
                "REBOOT_NODE",
            ),
            "others": Fault(
                torch(devices=shown(B200x8.gpus)), "which the driver does not show", action="REBOOT_NODE"
            ),
            "one GPU eight times": Fault(
                torch(devices=shown(H100x8.gpus[:1] * 8)), "more than once", action="REBOOT_NODE"
            ),
            "blind to one": Fault(machine(T4x1, devices=()), "does not see the GPU: ", action="REBOOT_NODE"),
            "another than the slice": Fault(
                machine(H100_MIG, devices=shown(B200x8.gpus[:1])), "the driver does not show", action="REBOOT_NODE"
            ),
            "fewer beside a slice": Fault(
                machine(BESIDE_MIG, devices=shown(H100x8.gpus[:1])), "sees 1 GPU, .* shows 8", action="REBOOT_NODE"
            ),
            "fewer, the slice hidden": Fault(
                both(
                    machine(BESIDE_MIG, devices=shown(H100x8.gpus[:1])),
                    variable("CUDA_VISIBLE_DEVICES", ",".join(gpu.uuid for gpu in H100x8.gpus[:2])),
                ),
                "sees 1 GPU, the driver shows 2",
                action="REBOOT_NODE",
            ),
            "no slice": Fault(
                machine(H100_MIG.with_gpu(0, migs=())), "MIG mode is on", r"mig -cgi PROFILE -C\nor (.*\n)+.*-mig 0"
            ),
            "fabric manager under cuda-compat": Fault(
                libcuda_on(OLD_H100x8, "580.65.06", "Error 802: not ready"), "Error 802", action="REPLACE_NODE"
            ),
        }
    ),
    "torch::nvidia_wheels_agree": Twin(
        {
            "another major": Fault(wheel("nvidia-cudnn-cu12", "9.10.2"), "nvidia-cudnn-cu12", "uninstall"),
            "underscores": Fault(wheel("transformer_engine_cu12", "2.9.0"), "transformer-engine-cu12"),
        },
        healthy=wheel("nvidia-cudnn-cu13", "9.20.0"),
    ),
    "torch::library_path_is_clean": Twin(
        {"foreign": Fault(foreign_library, r"foreign/libnvJitLink\.so\.13 \(nvidia-nvjitlink", "foreign out of")},
        healthy=wheel("nvidia-nvjitlink", "13.0.88", "cu13/lib/libnvJitLink.so.13"),
    ),
    "torch::toolkit_builds_extensions": Twin(
        {
            "another major": Fault(nvcc("12.4"), r"CUDA 12\.4.*13\.0", "CUDA_HOME to a CUDA 13"),
            "broken": Fault(nvcc("13.0", exit_status=3), "does not run", "unset CUDA_HOME"),
            "absent": Fault(variable("CUDA_HOME", "/nowhere"), "/nowhere/bin/nvcc", "unset CUDA_HOME"),
        },
        healthy=nvcc("13.2"),
    ),
}


def with_parameter(check: str, parameter: str | None) -> str:
    return f"{check}[{parameter}]" if parameter else check


FAULTS = [
    pytest.param(check, fault, id=f"{check}-{name}")
    for check, twin in TWINS.items()
    for name, fault in twin.faults.items()
]


# Their twins are in test_check_<topic>.py.
ELSEWHERE = ("numerics", "precision", "forward", "lightning", "benchmark", "stack", "packages", "targets")


def test_every_shipped_check_has_its_pair() -> None:
    shipped_checks = [
        (topic_of(module), name) for module in shipped() for name in declared_checks(import_checks(module), "full")
    ]
    here = {"::".join(check) for check in shipped_checks if check[0] not in ELSEWHERE} - {COMPUTES}
    assert sorted(TWINS) == sorted(here)
    assert all(twin.faults for twin in TWINS.values())


@pytest.mark.parametrize("topic", [*ELSEWHERE, "torch"])
def test_every_check_that_computes_is_tested(topic: str) -> None:
    file = "test_compute.py" if topic == "torch" else f"test_check_{topic}.py"
    text = Path(__file__).with_name(file).read_text()
    module = import_checks(f"pytest_bionemo.checks.{topic}")
    names = [COMPUTES.partition("::")[2]] if topic == "torch" else declared_checks(module, "full")
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


@pytest.mark.parametrize("check", TWINS)
def test_passes_on_a_healthy_machine(healthy_rig: Rig, check: str) -> None:
    twin = TWINS[check]
    twin.healthy(healthy_rig)
    run = healthy_rig.validate(*twin.options)
    assert run.outcome(with_parameter(check, twin.parameter)) == "passed", run.stdout


@pytest.mark.parametrize(("check", "fault"), FAULTS)
def test_fails_where_the_fault_is_and_nowhere_else(healthy_rig: Rig, check: str, fault: Fault) -> None:
    fault.inject(healthy_rig)
    run = healthy_rig.validate(*TWINS[check].options)
    name = with_parameter(check, fault.parameter)
    assert run.outcome(name) in ("failed", "warned"), run.stdout
    finding = run.finding(name)
    assert re.search(fault.message, finding["message"])
    assert re.search(fault.fix, "\n".join(finding["fix"]))
    assert finding["fix"], "a finding says how to fix it"
    assert finding["why"], "and why it matters"
    assert finding["action"] == (fault.action or finding["action"])
    # One root cause: what depends on it waits for it. Where every GPU has the fault, each of them is named.
    assert {blocker.partition("[")[0] for blocker in run.blockers} <= {check}
    assert {gap["waits_for"] for gap in run.bionemo["not_run"]} <= {f"bionemo/{name}"}
    assert run.verdict == ("BLOCKED" if run.blockers else "READY_FOR_INSTALL")
    assert run.returncode == (1 if run.blockers else 0)


def test_four_driver_problems_have_four_findings(healthy_rig: Rig) -> None:
    findings = []
    for code in (None, 9, 18, 4):
        healthy_rig.node = H100x8.with_fault("nvmlInitWithFlags", code) if code else None
        finding = healthy_rig.validate().finding("driver::loads")
        findings.append((finding["message"], tuple(finding["fix"])))
    assert len({message for message, _ in findings}) == 4
    assert len({fix for _, fix in findings}) == 4


def test_a_mig_gpu_is_healthy_where_torch_sees_its_slice(healthy_rig: Rig) -> None:
    healthy_rig.node = H100_MIG
    run = healthy_rig.validate()
    assert run.verdict == "READY_FOR_INSTALL"
    assert run.bionemo["gpus"][0]["mig_enabled"] is True
    assert len(run.bionemo["gpus"][0]["mig_devices"]) == 2


def test_mig_slices_can_be_named_in_the_variable(healthy_rig: Rig) -> None:
    healthy_rig.node = H100_MIG
    healthy_rig.variables["CUDA_VISIBLE_DEVICES"] = H100_MIG.gpus[0].migs[1].uuid
    assert healthy_rig.validate().verdict == "READY_FOR_INSTALL"


@pytest.mark.parametrize("version", ["550.54.15", "1.1"])
def test_a_libcuda_that_cuda_starts_with_is_no_fault(healthy_rig: Rig, version: str) -> None:
    libcuda(version)(healthy_rig)
    assert healthy_rig.validate().verdict == "READY_FOR_INSTALL"


def test_a_libcuda_without_a_driver_version_is_not_called_stale(healthy_rig: Rig) -> None:
    libcuda("1.1", error="Error 999")(healthy_rig)
    assert healthy_rig.validate().blockers == ["torch::sees_same_gpus"]


def test_a_gpu_without_memory_of_its_own_answers(healthy_rig: Rig) -> None:
    healthy_rig.node = H100x8.with_gpu_fault(0, "nvmlDeviceGetMemoryInfo", 3)
    run = healthy_rig.validate()
    assert run.outcome("driver::answers[gpu0]") == "passed"
    assert run.bionemo["gpus"][0]["memory_bytes"] is None


@pytest.mark.parametrize("kind", ["GPU-", "MIG-", ""])
def test_a_slice_may_be_reported_by_its_own_uuid_or_by_its_gpus(healthy_rig: Rig, kind: str) -> None:
    (gpu,) = H100_MIG.gpus
    uuid = gpu.uuid if kind == "GPU-" else gpu.migs[0].uuid.removeprefix("MIG-" if not kind else "")
    machine(H100_MIG, devices=[(uuid, "NVIDIA H100 80GB HBM3 MIG 3g.40gb", 9, 0, 1 << 35)])(healthy_rig)
    assert healthy_rig.validate().verdict == "READY_FOR_INSTALL"


def test_whole_gpus_beside_one_in_mig_mode_are_healthy(healthy_rig: Rig) -> None:
    healthy_rig.node = BESIDE_MIG
    assert healthy_rig.validate().verdict == "READY_FOR_INSTALL"


def test_gpus_of_other_jobs_are_no_fault(healthy_rig: Rig) -> None:
    closed_gpus(2, 3, 4, 5, 6, 7)(healthy_rig)
    healthy_rig.variables["CUDA_VISIBLE_DEVICES"] = "0,1"
    run = healthy_rig.validate("--bionemo-expect-gpus=2")
    assert run.verdict == "READY_FOR_INSTALL"
    assert [gpu["index"] for gpu in run.bionemo["gpus"]] == [0, 1]


def test_the_parent_of_a_slice_need_not_show_its_memory(healthy_rig: Rig) -> None:
    healthy_rig.node = H100_MIG.with_gpu_fault(0, "nvmlDeviceGetMemoryInfo", 4)
    assert healthy_rig.validate().verdict == "READY_FOR_INSTALL"


@pytest.mark.parametrize("value", ["0,1,", "0,-1,1"])
def test_a_list_of_devices_may_have_an_end_mark(healthy_rig: Rig, value: str) -> None:
    healthy_rig.variables["CUDA_VISIBLE_DEVICES"] = value
    assert healthy_rig.validate().verdict == "READY_FOR_INSTALL"


@pytest.mark.parametrize("driver", ["580.95.05-open", "580.95.05 Release Build"])
def test_a_decorated_driver_version_is_read(healthy_rig: Rig, driver: str) -> None:
    healthy_rig.node = H100x8.with_driver(driver, 13000)
    assert healthy_rig.validate().verdict == "READY_FOR_INSTALL"


def test_without_nvml_outside_a_container_both_ways_are_named(healthy_rig: Rig) -> None:
    healthy_rig.node = None
    healthy_rig.torch = StandinTorch(devices=shown(H100x8.gpus[:1]))
    finding = healthy_rig.validate().finding("driver::loads")
    assert finding["fix"][-1].endswith("start the container with NVIDIA_DRIVER_CAPABILITIES=compute,utility "
                                       "(docker run -e ...)")  # fmt: skip


def test_no_gpu_at_all_is_one_finding_that_expects_none_away(healthy_rig: Rig) -> None:
    no_gpus(healthy_rig)
    run = healthy_rig.validate("--bionemo-expect-gpus=8")
    assert run.blockers == ["driver::devices_present"]
    assert "--bionemo-expect-gpus" not in str(run.bionemo["blockers"])


def test_a_driver_too_old_for_torch_is_one_finding(healthy_rig: Rig) -> None:
    machine(A10Gx1)(healthy_rig)
    run = healthy_rig.validate()
    assert run.blockers == ["driver::supports_torch_cuda"]
    assert "driver::meets_bionemo_minimum" not in run.warnings
    assert run.gap("driver::meets_bionemo_minimum")["waits_for"] == "bionemo/driver::supports_torch_cuda"


@pytest.mark.parametrize("options", [(), ("-n2",)])
def test_checks_read_the_variables_that_the_children_saw(healthy_rig: Rig, options: tuple[str, ...]) -> None:
    healthy_rig.write(
        "conftest.py",
        "import os, pytest\n"
        "@pytest.fixture(scope='session', autouse=True)\n"
        "def one_gpu():\n"
        "    os.environ.update(CUDA_VISIBLE_DEVICES='0', LD_LIBRARY_PATH='/elsewhere')\n",
    )
    healthy_rig.write("test_mine.py", "import os\ndef test_it(): assert os.environ['CUDA_VISIBLE_DEVICES'] == '0'\n")
    run = healthy_rig.validate(*options, ".")
    assert run.verdict == "READY_FOR_INSTALL", run.stdout


def test_no_list_of_fixes_begins_with_or(healthy_rig: Rig) -> None:
    for node in (None, A10Gx1.with_driver("470.256.02", 11040), A10Gx1):
        healthy_rig.node = node
        for finding in healthy_rig.validate().bionemo["blockers"]:
            assert not finding["fix"][0].startswith("or")
