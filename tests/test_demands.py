"""What a test can demand of the machine: what each argument takes, and how machines are held against it."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from pytest_bionemo import demands
from pytest_bionemo.facts import precision
from pytest_bionemo.model import Gpu, GpuEnv, MigDevice, NvmlFailure
from pytest_bionemo.plugin import GPU_ENV
from pytest_bionemo.probes import platforms
from pytest_bionemo.probes.health import GpuHealth, Health, NvLinks, Silence
from pytest_bionemo.probes.machine import Machine
from pytest_bionemo.probes.platforms import Cloud, Databricks, HyperPod, Kubernetes, Platform, Slurm
from pytest_bionemo.probes.storage import Storage
from pytest_bionemo.probes.surroundings import Surroundings
from pytest_bionemo.probes.torch_build import TorchBuild

T4 = Gpu(0, "GPU-t4", "Tesla T4", memory_bytes=16_106_127_360, free_memory_bytes=3_999_999_999,
         compute_capability=(7, 5))  # fmt: skip
A10G = Gpu(0, "GPU-a10g", "NVIDIA A10G", memory_bytes=24_146_608_128, free_memory_bytes=24_000_000_000,
           compute_capability=(8, 6))  # fmt: skip
H100 = Gpu(0, "GPU-h100", "NVIDIA H100 80GB HBM3", memory_bytes=85_520_809_984, free_memory_bytes=85_000_000_000,
           compute_capability=(9, 0), mig_enabled=False)  # fmt: skip
LOST = Gpu(0, errors={"nvmlDeviceGetHandleByIndex": "GPU is lost"})
SLICES = tuple(MigDevice(f"MIG-{name}", "MIG 3g.40gb", 42_412_802_048, 1, 0, 1_000_000_000) for name in "ab")
SLICED = replace(H100, uuid="GPU-sliced", mig_enabled=True, mig_devices=SLICES)
NO_LINKS = Silence("nvmlDeviceGetNvLinkState", "does not support it", True, 3)


def env_of(*gpus: Gpu, **said: Any) -> GpuEnv:
    numbered = tuple(
        replace(gpu, index=index, uuid=gpu.uuid and f"{gpu.uuid}-{index}") for index, gpu in enumerate(gpus)
    )
    return GpuEnv(**{"driver": "580.95.05", "nvml": "13.580", "cuda_driver": "13.0", "gpus": numbered, **said})


def machine(
    env: GpuEnv,
    health: Health | None = None,
    around: Surroundings | None = None,
    variables: Mapping[str, str] | None = None,
) -> Machine:
    """A machine that was asked before, as a process of pytest-xdist gets it."""
    said: dict[str, object] = {
        "gpu_env": env.to_json(),
        "health": (health or Health()).to_json(),
        "torch_build": TorchBuild().to_json(),
        "storage": Storage().to_json(),
        "surroundings": (around or Surroundings({})).to_json(),
        "mount_answers": {"value": None, "failure": None, "before": []},
        "variables": variables or {},
        "job": None,
    }
    return Machine.from_json(json.dumps(said))


def missing(machine: Machine, **arguments: Any) -> str:
    return demands.describe(demands.unmet(demands.read((), arguments), machine))


# --------------------------------------------------------------------------------------- what an argument takes


FORMATS = "fp16, bf16, tf32, fp8, fp8_block, mxfp8, nvfp4"
ALL = ", ".join(demands.ARGUMENTS)
NUMBER = "takes a number of GPUs from 1 on, such as 2."
GB = "takes a number of GB (10**9 bytes) above 0, such as 40."
SPECIFIER = "takes a specifier of versions as text, such as '>=8.0' or '>=12.4,<13'."
TEXTS = "takes a text, or a list of texts that is not empty."
REQUIREMENTS = "takes requirements such as 'bionemo-scdl>=0.1', without an extra and without an address."
# the argument, values that it does not take, and what it says of each
WRONG: list[tuple[str, list[Any], str]] = [
    ("min_gpus", [0, -1, 1.5, "2", True, None, [2]], NUMBER),
    ("min_memory_gb", [0, -1, "40", True, float("nan"), float("inf"), (40,)], GB),
    ("free_memory_gb", [0, "40 GB"], GB),
    ("compute_capability", ["8.0", "", "sm_80", 8.0, (8, 0), [">=8.0"]], SPECIFIER),
    ("driver", ["580", ">=R580", 580], SPECIFIER),
    ("cuda", ["latest", 13.0], SPECIFIER),
    ("torch", ["2.6", "torch>=2.6", ">=2.6 or so"], SPECIFIER),
    ("nvlink", [1, "yes", ()], "takes True or False."),
    ("mig", [0, "3g.40gb"], "takes True or False."),
    ("dtype", [(), 16, ["bf16", 16], {}], TEXTS),
    ("platform", [[], True, {"slurm": 1}], TEXTS),
    ("packages", [[], 1, [None]], TEXTS),
    ("packages", ["bionemo scdl", ">=0.1", "a[b]", "a @ https://example.com/a.whl", 'a; "x"'], REQUIREMENTS),
    ("packages", ["a; sys_platform ~= 'linux'"], REQUIREMENTS),
]


@pytest.mark.parametrize(
    ("name", "value", "takes"), [(name, value, takes) for name, values, takes in WRONG for value in values]
)
def test_a_value_that_an_argument_does_not_take_is_named_with_what_it_takes(
    name: str, value: object, takes: str
) -> None:
    with pytest.raises(ValueError) as caught:
        demands.read((), {name: value})
    assert str(caught.value).startswith(f"gpu_env({name}={value!r}): {name} {takes}")


@pytest.mark.parametrize(
    ("args", "kwargs", "line"),
    [
        ((2,), {}, "gpu_env(2): it takes keywords alone, such as gpu_env(min_gpus=2)."),
        ((), {"min_gpu": 2},
         f"gpu_env(min_gpu=2): it has no argument min_gpu. Did you mean min_gpus? Choose from: {ALL}."),
        ((), {"min_gpus": 2, "Mig": True},
         f"gpu_env(Mig=True): it has no argument Mig. Did you mean mig? Choose from: {ALL}."),
        ((), {"xyz": 2}, f"gpu_env(xyz=2): it has no argument xyz. Choose from: {ALL}."),
        ((), {"dtype": "bfloat16"},
         f"gpu_env(dtype='bfloat16'): no dtype is 'bfloat16'. Did you mean bf16? Choose from: {FORMATS}."),
        ((), {"dtype": ["bf16", "FP8"]},
         f"gpu_env(dtype=['bf16', 'FP8']): no dtype is 'FP8'. Did you mean fp8? Choose from: {FORMATS}."),
        ((), {"platform": "Slrum"},
         "gpu_env(platform='Slrum'): no platform is 'Slrum'. Did you mean slurm? "
         "Choose from: databricks, hyperpod, slurm, kubernetes, aws, azure, gcp."),
    ],
)  # fmt: skip
def test_what_is_misspelt_is_answered_with_what_there_is(
    args: tuple[object, ...], kwargs: dict[str, Any], line: str
) -> None:
    with pytest.raises(ValueError) as caught:
        demands.read(args, kwargs)
    assert str(caught.value) == line


def test_the_words_are_those_of_the_facts_and_of_the_probes() -> None:
    for name in precision.formats():
        assert demands.read((), {"dtype": name}).dtype == (name,)
    places = {
        "databricks": Databricks("classic"),
        "hyperpod": HyperPod(),
        "slurm": Slurm(),
        "kubernetes": Kubernetes(True),
    }
    everywhere = [Platform(**places, cloud=Cloud(name)).names for name in ("aws", "azure", "gcp")]  # type: ignore[arg-type]
    assert tuple(dict.fromkeys(name for names in everywhere for name in names)) == platforms.NAMES
    assert demands.read((), {"platform": list(platforms.NAMES)}).platform == platforms.NAMES


def test_the_text_of_the_marker_carries_its_signature() -> None:
    parameters = inspect.signature(demands.demand).parameters.values()
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in parameters)
    shown = ", ".join(f"{parameter.name}={parameter.default!r}" for parameter in parameters)
    assert GPU_ENV.startswith(f"gpu_env(*, {shown}): ")


def test_demands_that_say_the_same_are_one() -> None:
    plain = demands.read((), {"dtype": "bf16", "packages": "a>=1"})
    assert plain == demands.read((), {"dtype": ["bf16"], "packages": ("a >=1", "b; python_version < '3'")})
    assert len({plain, demands.read((), {}), demands.read((), {"min_gpus": 1})}) == 2


# ----------------------------------------------------------------------------------------------- met, and unmet


ONE, TWO, MIXED = machine(env_of(A10G)), machine(env_of(A10G, A10G)), machine(env_of(T4, H100, H100))


@pytest.mark.parametrize(
    ("here", "arguments"),
    [
        (ONE, {}),
        (TWO, {"min_gpus": 2}),
        (ONE, {"min_memory_gb": 24, "free_memory_gb": 24, "compute_capability": "==8.*", "dtype": ["bf16", "tf32"]}),
        (ONE, {"driver": ">=580.95.05", "cuda": ">=12.8,<14", "mig": False}),
        (MIXED, {"min_gpus": 2, "min_memory_gb": 80, "dtype": "fp8"}),
        (machine(env_of(A10G, driver="580.95.05-open")), {"driver": ">=580,<=580.95.5"}),
        (machine(env_of(SLICED)), {"mig": True, "min_memory_gb": 42, "free_memory_gb": 1, "nvlink": False}),
        (machine(env_of(LOST, A10G)), {}),
    ],
)
def test_what_is_here_is_met(here: Machine, arguments: dict[str, Any]) -> None:
    assert missing(here, **arguments) == ""


@pytest.mark.parametrize(
    ("here", "arguments", "reason"),
    [
        (machine(env_of()), {}, "needs 1 GPU, here is none"),
        (ONE, {"min_gpus": 2}, "needs 2 GPUs, here is 1"),
        (TWO, {"min_memory_gb": 40}, "needs 1 GPU with 40 GB, here are 2 with 24.1 GB"),
        (ONE, {"min_memory_gb": 24.2}, "needs 1 GPU with 24.2 GB, here is 1 with 24.1 GB"),
        (machine(env_of(T4)), {"free_memory_gb": 4}, "needs 1 GPU with 4 GB free, here is 1 with 3.9 GB free"),
        (ONE, {"compute_capability": ">=9.0", "dtype": "fp8"},
         "needs 1 GPU with compute capability >=9.0 and fp8, "
         "here is 1 with compute capability 8.6 and no fp8 (compute capability 8.6)"),
        # All of it in each: no GPU has both, though each is there.
        (machine(env_of(T4, H100)), {"free_memory_gb": 80, "compute_capability": "<8"},
         "needs 1 GPU with 80 GB free and compute capability <8, here are 2: 1 with 3.9 GB free and compute "
         "capability 7.5, 1 with 85 GB free and compute capability 9.0"),
        (MIXED, {"min_gpus": 3, "dtype": "bf16"},
         "needs 3 GPUs with bf16, here are 3: 1 with no bf16 (compute capability 7.5), 2 with bf16"),
        (ONE, {"mig": True}, "needs 1 GPU with MIG, here is 1 with no MIG"),
        (machine(env_of(replace(SLICED, mig_devices=SLICES[:1]))), {"mig": False, "min_memory_gb": 80},
         "needs 1 GPU with 80 GB and no MIG, here is 1 with 42.4 GB and MIG"),
        (machine(env_of(replace(SLICED, mig_devices=()))), {},
         "needs 1 GPU, here is none, and 1 GPU in MIG mode without a slice"),
        (ONE, {"driver": ">=590"}, "needs driver >=590, here is 580.95.05"),
        (ONE, {"cuda": ">=13.1"}, "needs CUDA >=13.1, here is 13.0"),
        (machine(env_of(A10G, hidden_gpus=7)), {"min_gpus": 2},
         "needs 2 GPUs, here is 1, and 7 GPUs that this user may not use"),
        (ONE, {"min_gpus": 2, "driver": ">=590"}, "needs 2 GPUs, here is 1; needs driver >=590, here is 580.95.05"),
    ],
)  # fmt: skip
def test_what_is_not_here_is_told_with_what_is(here: Machine, arguments: dict[str, Any], reason: str) -> None:
    assert missing(here, **arguments) == reason


CALLS = ("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetCudaComputeCapability", "nvmlDeviceGetMigMode")
UNKNOWN = dict.fromkeys(CALLS, "Unknown Error")
SILENT = machine(env_of(Gpu(0, "GPU-x", "NVIDIA X", errors=UNKNOWN), cuda_driver=None))
HUNG = GpuEnv(failure=NvmlFailure(None, "no answer within 2 s, while asking GPU 0"))
NO_LIBRARY = GpuEnv(failure=NvmlFailure(12, "NVML Shared Library Not Found"))


@pytest.mark.parametrize(
    ("here", "arguments", "seen"),
    [
        (SILENT, {"min_memory_gb": 1}, "here is 1 with memory that could not be asked: Unknown Error"),
        (SILENT, {"free_memory_gb": 1}, "here is 1 with free memory that could not be asked: Unknown Error"),
        (SILENT, {"compute_capability": ">=1"},
         "here is 1 with a compute capability that could not be asked: Unknown Error"),
        (SILENT, {"dtype": "fp16"}, "here is 1 with a compute capability that could not be asked: Unknown Error"),
        (SILENT, {"mig": False}, "here is 1 with MIG that could not be asked: Unknown Error"),
        (SILENT, {"cuda": ">=1"}, "it could not be asked: the driver does not tell"),
        (machine(env_of(Gpu(0, "GPU-y", "GB10"))), {"min_memory_gb": 1},
         "here is 1 with memory that could not be asked: NVML does not tell"),
        (machine(env_of(LOST)), {}, "here is 1 that could not be asked: GPU is lost"),
        (machine(env_of(LOST, A10G)), {"min_gpus": 2},
         "here are 2: 1 that could not be asked: GPU is lost, 1 that answers"),
        (machine(HUNG), {"mig": False},
         "the NVIDIA driver could not be asked: no answer within 2 s, while asking GPU 0"),
        (machine(GpuEnv(failure=NvmlFailure(999, "Unknown Error"))), {},
         "the NVIDIA driver could not be asked: Unknown Error"),
        (machine(NO_LIBRARY), {}, "no NVIDIA driver answers (NVML Shared Library Not Found)"),
        (machine(env_of(), around=Surroundings({}, None, "no answer within 20 s, while looking at /opt")),
         {"platform": "aws"}, "it could not be asked: no answer within 20 s, while looking at /opt"),
    ],
)  # fmt: skip
def test_what_cannot_be_found_out_is_not_met(here: Machine, arguments: dict[str, Any], seen: str) -> None:
    assert missing(here, **arguments).endswith(f", {seen}")


@pytest.mark.parametrize("argument", ["min_memory_gb", "free_memory_gb"])
def test_a_gpu_without_memory_of_its_own_has_that_of_the_host(argument: str) -> None:
    here = machine(env_of(Gpu(0, "GPU-y", "NVIDIA GB10", compute_capability=(12, 1))))
    assert missing(here, **{argument: 0.1}) == ""
    assert re.search(r"here is 1 with [\d.]+ GB", missing(here, **{argument: 10**6}))


def test_without_a_driver_there_is_one_cause() -> None:
    reason = missing(machine(NO_LIBRARY), min_gpus=2, nvlink=True, driver=">=580", cuda=">=13")
    assert reason == (
        "needs 2 GPUs with NVLink; driver >=580; CUDA >=13: no NVIDIA driver answers (NVML Shared Library Not Found)"
    )


@pytest.mark.parametrize(
    ("health", "wanted", "seen"),
    [
        (GpuHealth(0, nvlinks=NvLinks((0, 3), (1,))), False, "NVLink"),
        (GpuHealth(0, nvlinks=NvLinks((), (0, 1))), True, "no NVLink"),
        (GpuHealth(0, silent={"nvlinks": NO_LINKS}), True, "no NVLink"),
        (GpuHealth(0, silent={"nvlinks": replace(NO_LINKS, text="Unknown Error", code=999)}), None,
         "NVLink that could not be asked: Unknown Error"),
        (GpuHealth(0, silent={"nvlinks": replace(NO_LINKS, text="does not tell this user", code=4)}), None,
         "NVLink that could not be asked: does not tell this user"),
        (None, None, "NVLink that could not be asked: no answer within 2 s"),
    ],
)  # fmt: skip
def test_nvlink_is_a_link_that_is_up(health: GpuHealth | None, wanted: bool | None, seen: str) -> None:
    here = machine(env_of(H100), Health((health,)) if health else Health((), "no answer within 2 s"))
    for demanded in (True, False):
        need = "NVLink" if demanded else "no NVLink"
        met = wanted is not None and demanded is not wanted
        assert missing(here, nvlink=demanded) == ("" if met else f"needs 1 GPU with {need}, here is 1 with {seen}")


def test_a_platform_is_one_of_those_that_are_named() -> None:
    slurm = Surroundings({"platform": {"databricks": None, "hyperpod": None, "kubernetes": None, "cloud": None,
                                       "slurm": vars(Slurm(job="7"))}}, None, "no answer within 20 s")  # fmt: skip
    here = machine(env_of(A10G), around=slurm)
    assert missing(here, platform=["aws", "slurm"]) == ""
    told = machine(env_of(A10G), around=replace(slurm, failure=None))
    assert missing(told, platform=["aws", "hyperpod"]) == "needs the platform aws or hyperpod, here is slurm"


# ---------------------------------------------------------------------------------------- what a process sees


PAIR = env_of(T4, H100)
PCI = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
BOTH_SLICES = "here are 2 with 42.4 GB, of which CUDA shows a process one"


@pytest.mark.parametrize(
    ("env", "variables", "arguments", "seen"),
    [
        (PAIR, {"CUDA_VISIBLE_DEVICES": "1", **PCI}, {"min_memory_gb": 80}, ""),
        (PAIR, {"CUDA_VISIBLE_DEVICES": "GPU-h100"}, {"min_memory_gb": 80}, ""),
        (PAIR, {"CUDA_VISIBLE_DEVICES": "0", **PCI}, {"min_memory_gb": 80},
         "here is 1 with 16.1 GB (CUDA_VISIBLE_DEVICES=0 leaves 1 of 2)"),
        (PAIR, {"CUDA_VISIBLE_DEVICES": ""}, {},
         "here is none (CUDA_VISIBLE_DEVICES= leaves 0 of 2: it is empty, which hides every GPU)"),
        # CUDA counts the fastest first, or so it says: whichever it is, one of 16 GB is there.
        (PAIR, {"CUDA_VISIBLE_DEVICES": "0"}, {"min_memory_gb": 16}, ""),
        (PAIR, {"CUDA_VISIBLE_DEVICES": "0"}, {"min_memory_gb": 80},
         "here are 2: 1 with 16.1 GB, 1 with 85.5 GB (CUDA_VISIBLE_DEVICES=0 leaves 1 of 2), "
         "and which is left only CUDA knows: set CUDA_DEVICE_ORDER=PCI_BUS_ID"),
        (env_of(SLICED), {}, {"min_memory_gb": 40}, ""),
        (env_of(SLICED), {}, {"min_gpus": 2, "min_memory_gb": 40}, BOTH_SLICES),
        (env_of(SLICED), {"CUDA_VISIBLE_DEVICES": "MIG-b"}, {"min_memory_gb": 40}, ""),
        # A GPU beside one with slices may be the one that CUDA does not show.
        (env_of(SLICED, H100), {}, {"min_memory_gb": 80},
         "here are 3: 2 with 42.4 GB, 1 with 85.5 GB, of which CUDA shows a process one"),
        (env_of(SLICED, H100), {"CUDA_VISIBLE_DEVICES": "GPU-h100"}, {"min_memory_gb": 80}, ""),
    ],
)  # fmt: skip
def test_only_what_this_process_is_sure_to_see_counts(
    env: GpuEnv, variables: dict[str, str], arguments: dict[str, Any], seen: str
) -> None:
    reason = missing(machine(env, variables=variables), **arguments)
    assert reason.partition(", ")[2] == seen
