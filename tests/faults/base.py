"""The machine around Python, the driver, and PyTorch's build."""

from __future__ import annotations

from dataclasses import replace

from faults import Fault, Twin
from faults.injections import (
    both,
    closed_gpus,
    foreign_library,
    libcuda,
    libcuda_on,
    lost_gpu,
    machine,
    no_driver,
    no_driver_in_windows,
    no_gpus,
    no_nvml_in_a_container,
    no_torch,
    node_fault,
    nvcc,
    on_host,
    one_gpu_less,
    shown,
    torch,
    torch_without_files,
    unreadable_gpu,
    variable,
    wheel,
    without_torch_on,
)
from standin import H100_MIG, A10Gx1, B200x8, H100x8, RTX4090x1, T4x1, V100x1

OLD_H100x8 = H100x8.with_driver("550.144.03", 12040)
BESIDE_MIG = replace(H100x8, gpus=H100x8.gpus[:7] + H100_MIG.gpus)


TWINS: dict[str, Twin] = {
    "host::runs_linux": Twin(
        {
            "another kernel": Fault(on_host(sysname="FreeBSD"), "FreeBSD"),
            "a Mac": Fault(
                without_torch_on(sysname="Darwin", machine="arm64", glibc="none"),
                "Darwin",
                "run this on Linux\nor, on Windows, inside WSL 2",
            ),
        }
    ),
    "host::has_supported_processor": Twin(
        {"another processor": Fault(on_host(machine="ppc64le"), "ppc64le.*x86_64")},
        healthy=on_host(machine="aarch64"),
    ),
    "host::has_glibc_for_torch": Twin(
        {
            "old glibc": Fault(without_torch_on(glibc="glibc 2.17"), r"2\.17.*2\.28"),
            "musl": Fault(without_torch_on(glibc="none"), "not glibc"),
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
                machine(H100x8.with_gpu_fault(3, "nvmlDeviceGetName", "hang")),
                "no answer within 2 s, while asking GPU 3",
                action="REBOOT_NODE",
            ),
            "lost": Fault(node_fault("nvmlInitWithFlags", 15), r"GPU is lost.*15", "reboot", "REBOOT_NODE"),
            "out of memory": Fault(node_fault("nvmlInitWithFlags", 20), "code 20", action="REBOOT_NODE"),
            "crash": Fault(node_fault("nvmlInitWithFlags", "crash"), "SIGSEGV", action="REBOOT_NODE"),
            "hang": Fault(node_fault("nvmlInitWithFlags", "hang"), "no answer within 2 s", action="REBOOT_NODE"),
            "version unknown": Fault(
                node_fault("nvmlSystemGetDriverVersion", 999), "does not answer|lost access", action="FIX_SOFTWARE"
            ),
        },
        options=("--bionemo-timeout=2",),
    ),
    "driver::devices_present": Twin({"none": Fault(no_gpus, "sees no GPU", "lspci", action="FIX_SOFTWARE")}),
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
