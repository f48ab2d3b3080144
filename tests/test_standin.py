"""The stand-ins play what they say: driven by the real pynvml, in processes and environments of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from standin import (
    EMPTY,
    FUNCTIONS,
    H100_MIG,
    MIB,
    A10Gx1,
    B200x8,
    BuildError,
    H100x8,
    Libraries,
    Node,
    RTX4090x1,
    StandinGpu,
    T4x1,
    V100x1,
    build,
)
from standin.distributions import remove_file, write_distribution
from standin.environment import Environment, closure
from standin.torch_package import StandinTorch, write_torch

NODES = {
    "H100x8": H100x8,
    "B200x8": B200x8,
    "T4x1": T4x1,
    "A10Gx1": A10Gx1,
    "RTX4090x1": RTX4090x1,
    "V100x1": V100x1,
    "H100_MIG": H100_MIG,
    "EMPTY": EMPTY,
}


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Libraries:
    return build(tmp_path_factory.mktemp("libraries"))


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment.create(tmp_path_factory.mktemp("environment"), ["nvidia-ml-py"])


class Driver:
    """Asks the stand-in driver through pynvml, each time in a process of its own."""

    def __init__(self, libraries: Libraries, environment: Environment, folder: Path) -> None:
        self.libraries, self.environment, self.folder = libraries, environment, folder

    def run(
        self, node: Node | Path, script: str, timeout: float = 20, calls: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        environ = self.libraries.playing(node, self.folder, calls=calls)
        script = f"import json\nfrom pynvml import *\n{script}"
        return self.environment.run(["-c", script], self.folder, environ, timeout)

    def ask(self, node: Node | Path, script: str) -> Any:
        done = self.run(node, script)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def sweep(self, nodes: Mapping[str, Node], script: str) -> Any:
        """Runs the script once for each node, in one process, in which it sets ``answer``."""
        files = {}
        for name, node in nodes.items():
            files[name] = str(self.folder / f"{name}.node")
            node.write(Path(files[name]))
        body = "\n".join(f"    {line}" for line in script.splitlines())
        return self.ask(
            EMPTY,
            "import ctypes, os\nanswers = {}\n"
            f"for name, path in {files!r}.items():\n"
            "    os.environ['STANDIN_NODE'] = path\n"
            f"{body}\n"
            "    answers[name] = answer\n"
            "print(json.dumps(answers))",
        )


@pytest.fixture
def driver(libraries: Libraries, environment: Environment, tmp_path: Path) -> Driver:
    return Driver(libraries, environment, tmp_path)


# ---- the nodes


READ_NODE = """
def of(handle):
    memory = nvmlDeviceGetMemoryInfo(handle)
    return {
        "name": nvmlDeviceGetName(handle),
        "uuid": nvmlDeviceGetUUID(handle),
        "index": nvmlDeviceGetIndex(handle),
        "memory": [memory.total, memory.used, memory.free],
        "capability": list(nvmlDeviceGetCudaComputeCapability(handle)),
    }

def slices(handle):
    for index in range(nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            mig = nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except NVMLError_NotFound:
            continue
        parent = nvmlDeviceGetDeviceHandleFromMigDeviceHandle(mig)
        instances = [nvmlDeviceGetGpuInstanceId(mig), nvmlDeviceGetComputeInstanceId(mig)]
        yield {**of(mig), "instances": instances, "parent": nvmlDeviceGetUUID(parent)}

nvmlInit()
gpus = []
for index in range(nvmlDeviceGetCount()):
    handle = nvmlDeviceGetHandleByIndex(index)
    memory = nvmlDeviceGetMemoryInfo(handle, version=nvmlMemory_v2)
    pci = nvmlDeviceGetPciInfo(handle)
    try:
        mig = nvmlDeviceGetMigMode(handle)
    except NVMLError_NotSupported:
        mig = None
    found = nvmlDeviceGetHandleByUUID(nvmlDeviceGetUUID(handle))
    gpus.append({
        **of(handle),
        "memory_v2": [memory.total, memory.used, memory.free],
        "pci": [pci.busId, pci.domain, pci.bus, pci.device, pci.busIdLegacy],
        "minor": nvmlDeviceGetMinorNumber(handle),
        "by_uuid": nvmlDeviceGetIndex(found),
        "mig": mig,
        "slices": list(slices(handle)),
    })
print(json.dumps({
    "driver": nvmlSystemGetDriverVersion(),
    "nvml": nvmlSystemGetNVMLVersion(),
    "cuda": [nvmlSystemGetCudaDriverVersion(), nvmlSystemGetCudaDriverVersion_v2()],
    "gpus": gpus,
}))
nvmlShutdown()
"""


def expected_gpu(index: int, gpu: StandinGpu) -> dict[str, Any]:
    memory = [gpu.memory_bytes, gpu.used_bytes, gpu.memory_bytes - gpu.used_bytes]
    domain, bus, device = gpu.pci.split(".")[0].split(":")
    return {
        "name": gpu.name,
        "uuid": gpu.uuid,
        "index": index,
        "memory": memory,
        "capability": list(gpu.compute_capability),
        "memory_v2": memory,
        "pci": [gpu.pci, int(domain, 16), int(bus, 16), int(device, 16), gpu.pci[4:]],
        "minor": index if gpu.minor is None else gpu.minor,
        "by_uuid": index,
        "mig": None if gpu.mig_enabled is None else [int(gpu.mig_enabled)] * 2,
        "slices": [
            {
                "name": mig.name,
                "uuid": mig.uuid,
                "index": number,
                "memory": [mig.memory_bytes, 0, mig.memory_bytes],
                "capability": list(gpu.compute_capability),
                "instances": [mig.gpu_instance, mig.compute_instance],
                "parent": gpu.uuid,
            }
            for number, mig in enumerate(gpu.migs)
        ],
    }


@pytest.mark.parametrize("name", NODES)
def test_a_node_is_seen_as_it_is_described(driver: Driver, name: str) -> None:
    node = NODES[name]
    assert driver.ask(node, READ_NODE) == {
        "driver": node.driver,
        "nvml": f"{node.cuda_driver // 1000}.{node.driver}",
        "cuda": [node.cuda_driver] * 2,
        "gpus": [expected_gpu(index, gpu) for index, gpu in enumerate(node.gpus)],
    }


def test_a_changed_node_is_seen_as_changed(driver: Driver) -> None:
    node = H100x8.without_gpu(3).with_driver("550.144.03", 12040).with_gpu(0, used_bytes=600 * MIB)
    seen = driver.ask(node, READ_NODE)
    assert (seen["driver"], seen["nvml"], seen["cuda"]) == ("550.144.03", "12.550.144.03", [12040, 12040])
    assert seen["gpus"] == [expected_gpu(index, gpu) for index, gpu in enumerate(node.gpus)]
    assert [gpu["minor"] for gpu in seen["gpus"]] == [0, 1, 2, 4, 5, 6, 7]
    assert seen["gpus"][0]["memory"][1] == 600 * MIB


def test_the_ready_nodes_are_those_that_were_asked_for() -> None:
    sizes = {name: (len(node.gpus), node.gpus[0].memory_bytes // MIB) for name, node in NODES.items() if node.gpus}
    assert sizes == {
        "H100x8": (8, 81559),
        "B200x8": (8, 183359),
        "T4x1": (1, 15360),
        "A10Gx1": (1, 23028),
        "RTX4090x1": (1, 24564),
        "V100x1": (1, 16384),
        "H100_MIG": (1, 81559),
    }
    uuids = [gpu.uuid for node in NODES.values() for gpu in node.gpus]
    uuids += [mig.uuid for mig in H100_MIG.gpus[0].migs]
    assert len(set(uuids)) == len(uuids) == 23


def test_calls_that_are_wrong_get_the_right_codes(driver: Driver) -> None:
    script = """
    def code(call, *arguments):
        try:
            call(*arguments)
        except NVMLError as error:
            return type(error).__name__.removeprefix("NVMLError_")

    import ctypes, pynvml
    from pynvml import *
    answers = {}
    pynvml._LoadNvmlLibrary()
    answers["before init"] = code(nvmlDeviceGetCount)
    answers["shutdown before init"] = code(nvmlShutdown)
    nvmlInit()
    gpu = nvmlDeviceGetHandleByIndex(0)
    mig = nvmlDeviceGetMigDeviceHandleByIndex(gpu, 1)
    wrong = ctypes.cast(ctypes.create_string_buffer(4096), type(gpu))
    answers["index"] = code(nvmlDeviceGetHandleByIndex, 1)
    answers["uuid"] = code(nvmlDeviceGetHandleByUUID, "GPU-nobody")
    answers["null"] = code(nvmlDeviceGetName, type(gpu)())
    answers["wrong handle"] = code(nvmlDeviceGetName, wrong)
    answers["slice"] = code(nvmlDeviceGetMigDeviceHandleByIndex, gpu, 2)
    answers["slice beyond all"] = code(nvmlDeviceGetMigDeviceHandleByIndex, gpu, 7)
    answers["instance of a GPU"] = code(nvmlDeviceGetGpuInstanceId, gpu)
    answers["mode of a slice"] = code(nvmlDeviceGetMigMode, mig)
    answers["parent of a GPU"] = code(nvmlDeviceGetDeviceHandleFromMigDeviceHandle, gpu)
    answers["memory version"] = code(nvmlDeviceGetMemoryInfo, gpu, 1)
    library, small = pynvml.nvmlLib, ctypes.create_string_buffer(4)
    answers["small"] = [
        library.nvmlDeviceGetName(gpu, small, 4),
        library.nvmlDeviceGetUUID(gpu, small, 4),
        library.nvmlSystemGetDriverVersion(small, 4),
    ]
    answers["null results"] = [
        library.nvmlDeviceGetName(gpu, None, 96),
        library.nvmlDeviceGetCount_v2(None),
        library.nvmlDeviceGetHandleByIndex_v2(0, None),
        library.nvmlDeviceGetMemoryInfo(gpu, None),
        library.nvmlDeviceGetPciInfo_v3(gpu, None),
        library.nvmlDeviceGetHandleByUUID(None, None),
    ]
    answers["not in this driver"] = code(nvmlDeviceGetFanSpeed, gpu)
    answers["words"] = str(NVMLError(NVML_ERROR_IN_USE))
    nvmlShutdown()
    answers["after shutdown"] = code(nvmlDeviceGetName, gpu)
    print(json.dumps(answers))
    """
    assert driver.ask(H100_MIG, "if True:\n" + script) == {
        "before init": "Uninitialized",
        "shutdown before init": "Uninitialized",
        "index": "InvalidArgument",
        "uuid": "NotFound",
        "null": "InvalidArgument",
        "wrong handle": "InvalidArgument",
        "slice": "NotFound",
        "slice beyond all": "InvalidArgument",
        "instance of a GPU": "NotSupported",
        "mode of a slice": "NotSupported",
        "parent of a GPU": "InvalidArgument",
        "memory version": "ArgumentVersionMismatch",
        "small": [7, 7, 7],
        "null results": [2, 2, 2, 2, 2, 2],
        "not in this driver": "FunctionNotFound",
        "words": "In use by another client",
        "after shutdown": "Uninitialized",
    }


# ---- the faults


CALLS = """
import ctypes

def calls():
    nvmlInit()
    gpu = mig = object()  # nothing that ctypes takes, unless there is a handle
    try:
        gpu = nvmlDeviceGetHandleByIndex(0)
        mig = nvmlDeviceGetMigDeviceHandleByIndex(gpu, 0)
    except NVMLError:
        pass
    return {
        "nvmlShutdown": nvmlShutdown,
        "nvmlSystemGetDriverVersion": nvmlSystemGetDriverVersion,
        "nvmlSystemGetNVMLVersion": nvmlSystemGetNVMLVersion,
        "nvmlSystemGetCudaDriverVersion": nvmlSystemGetCudaDriverVersion,
        "nvmlSystemGetCudaDriverVersion_v2": nvmlSystemGetCudaDriverVersion_v2,
        "nvmlDeviceGetCount_v2": nvmlDeviceGetCount,
        "nvmlDeviceGetHandleByIndex_v2": lambda: nvmlDeviceGetHandleByIndex(0),
        "nvmlDeviceGetHandleByUUID": lambda: nvmlDeviceGetHandleByUUID(UUID),
        "nvmlDeviceGetIndex": lambda: nvmlDeviceGetIndex(gpu),
        "nvmlDeviceGetName": lambda: nvmlDeviceGetName(gpu),
        "nvmlDeviceGetUUID": lambda: nvmlDeviceGetUUID(gpu),
        "nvmlDeviceGetPciInfo_v3": lambda: nvmlDeviceGetPciInfo(gpu),
        "nvmlDeviceGetMemoryInfo": lambda: nvmlDeviceGetMemoryInfo(gpu),
        "nvmlDeviceGetMemoryInfo_v2": lambda: nvmlDeviceGetMemoryInfo(gpu, nvmlMemory_v2),
        "nvmlDeviceGetCudaComputeCapability": lambda: nvmlDeviceGetCudaComputeCapability(gpu),
        "nvmlDeviceGetMinorNumber": lambda: nvmlDeviceGetMinorNumber(gpu),
        "nvmlDeviceGetCurrentClocksEventReasons": lambda: nvmlDeviceGetCurrentClocksEventReasons(gpu),
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda: nvmlDeviceGetCurrentClocksThrottleReasons(gpu),
        "nvmlDeviceGetClockInfo": lambda: nvmlDeviceGetClockInfo(gpu, NVML_CLOCK_SM),
        "nvmlDeviceGetMaxClockInfo": lambda: nvmlDeviceGetMaxClockInfo(gpu, NVML_CLOCK_SM),
        "nvmlDeviceGetMemoryBusWidth": lambda: nvmlDeviceGetMemoryBusWidth(gpu),
        "nvmlDeviceGetTemperature": lambda: nvmlDeviceGetTemperature(gpu, NVML_TEMPERATURE_GPU),
        "nvmlDeviceGetPowerUsage": lambda: nvmlDeviceGetPowerUsage(gpu),
        "nvmlDeviceGetMigMode": lambda: nvmlDeviceGetMigMode(gpu),
        "nvmlDeviceGetMaxMigDeviceCount": lambda: nvmlDeviceGetMaxMigDeviceCount(gpu),
        "nvmlDeviceGetMigDeviceHandleByIndex": lambda: nvmlDeviceGetMigDeviceHandleByIndex(gpu, 0),
        "nvmlDeviceGetDeviceHandleFromMigDeviceHandle":
            lambda: nvmlDeviceGetDeviceHandleFromMigDeviceHandle(mig),
        "nvmlDeviceGetGpuInstanceId": lambda: nvmlDeviceGetGpuInstanceId(mig),
        "nvmlDeviceGetComputeInstanceId": lambda: nvmlDeviceGetComputeInstanceId(mig),
        "nvmlDeviceGetVbiosVersion": lambda: nvmlDeviceGetVbiosVersion(gpu),
        "nvmlDeviceGetEccMode": lambda: nvmlDeviceGetEccMode(gpu),
        "nvmlDeviceGetTotalEccErrors": lambda: nvmlDeviceGetTotalEccErrors(gpu, 1, 0),
        "nvmlDeviceGetSramEccErrorStatus":
            lambda: nvmlDeviceGetSramEccErrorStatus(gpu, ctypes.byref(c_nvmlEccSramErrorStatus_v1_t())),
        "nvmlDeviceGetRemappedRows": lambda: nvmlDeviceGetRemappedRows(gpu),
        "nvmlDeviceGetRetiredPages": lambda: nvmlDeviceGetRetiredPages(gpu, 0),
        "nvmlDeviceGetRetiredPagesPendingStatus": lambda: nvmlDeviceGetRetiredPagesPendingStatus(gpu),
        "nvmlDeviceGetTemperatureThreshold": lambda: nvmlDeviceGetTemperatureThreshold(gpu, 0),
        "nvmlDeviceGetMarginTemperature": lambda: nvmlDeviceGetMarginTemperature(gpu),
        "nvmlDeviceGetMaxPcieLinkGeneration": lambda: nvmlDeviceGetMaxPcieLinkGeneration(gpu),
        "nvmlDeviceGetCurrPcieLinkWidth": lambda: nvmlDeviceGetCurrPcieLinkWidth(gpu),
        "nvmlDeviceGetMaxPcieLinkWidth": lambda: nvmlDeviceGetMaxPcieLinkWidth(gpu),
        "nvmlDeviceGetPcieReplayCounter": lambda: nvmlDeviceGetPcieReplayCounter(gpu),
        "nvmlDeviceGetNvLinkState": lambda: nvmlDeviceGetNvLinkState(gpu, 0),
        "nvmlDeviceGetNvLinkErrorCounter": lambda: nvmlDeviceGetNvLinkErrorCounter(gpu, 0, 0),
        "nvmlDeviceGetGpuFabricInfo":
            lambda: nvmlDeviceGetGpuFabricInfo(gpu, ctypes.byref(c_nvmlGpuFabricInfo_t())),
        "nvmlDeviceGetGpuFabricInfoV":
            lambda: nvmlDeviceGetGpuFabricInfoV(gpu, ctypes.byref(c_nvmlGpuFabricInfo_v2_t())),
        "nvmlDeviceGetComputeMode": lambda: nvmlDeviceGetComputeMode(gpu),
        "nvmlDeviceGetComputeRunningProcesses_v3": lambda: nvmlDeviceGetComputeRunningProcesses(gpu),
        "nvmlDeviceGetGraphicsRunningProcesses_v3": lambda: nvmlDeviceGetGraphicsRunningProcesses(gpu),
        "nvmlDeviceGetPersistenceMode": lambda: nvmlDeviceGetPersistenceMode(gpu),
        "nvmlDeviceGetPowerManagementLimit": lambda: nvmlDeviceGetPowerManagementLimit(gpu),
        "nvmlDeviceGetPowerManagementDefaultLimit": lambda: nvmlDeviceGetPowerManagementDefaultLimit(gpu),
        "nvmlDeviceGetApplicationsClock": lambda: nvmlDeviceGetApplicationsClock(gpu, NVML_CLOCK_SM),
        "nvmlDeviceGetDefaultApplicationsClock": lambda: nvmlDeviceGetDefaultApplicationsClock(gpu, NVML_CLOCK_SM),
        "nvmlDeviceValidateInforom": lambda: nvmlDeviceValidateInforom(gpu),
        "nvmlDeviceGetFieldValues": lambda: nvmlDeviceGetFieldValues(gpu, [230]),
    }

def failing():
    failed = {}
    for name, call in sorted(calls().items(), key=lambda item: item[0] == "nvmlShutdown"):
        try:
            call()
        except NVMLError as error:
            failed[name] = type(error).__name__
    return failed
"""

# A GPU in MIG mode that answers whatever a GPU can be asked, as no real one does.
KNOWS_ALL = H100_MIG.with_gpu(0, health={}).with_health(
    0, pages_retired_single=0, pages_retired_double=0, page_retirement_pending=0
)

DOORS = ("nvmlInit", "nvmlInit_v2", "nvmlInitWithFlags")
FALLIBLE = [name for name in FUNCTIONS if name not in (*DOORS, "nvmlErrorString")]
OF_ONE_DEVICE = FALLIBLE[FALLIBLE.index("nvmlDeviceGetHandleByIndex_v2") :]


@pytest.mark.parametrize("where", ["node", "gpu"])
def test_each_function_fails_when_told_to_and_only_that(driver: Driver, where: str) -> None:
    functions = FALLIBLE if where == "node" else OF_ONE_DEVICE
    faulty = {
        name: KNOWS_ALL.with_fault(name, 10) if where == "node" else KNOWS_ALL.with_gpu_fault(0, name, 10)
        for name in functions
    }
    prologue = f"UUID = {H100_MIG.gpus[0].uuid!r}\n{CALLS}"
    files = {}
    for name, node in {"": KNOWS_ALL, **faulty}.items():
        files[name] = str(driver.folder / f"{name or 'whole'}.node")
        node.write(Path(files[name]))
    seen = driver.ask(
        H100_MIG,
        f"import os\n{prologue}\nanswers = {{}}\n"
        f"for name, path in {files!r}.items():\n"
        "    os.environ['STANDIN_NODE'] = path\n"
        "    try:\n"
        "        answers[name] = failing()\n"
        "    except ctypes.ArgumentError:  # there was no handle to ask with\n"
        "        answers[name] = 'no handle'\n"
        "print(json.dumps(answers))",
    )
    assert seen.pop("") == {}
    no_handle = {"nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetMigDeviceHandleByIndex"}
    assert {name for name, failed in seen.items() if failed == "no handle"} == no_handle
    for name in seen.keys() - no_handle:
        assert seen[name] == {name: "NVMLError_Timeout"}
    assert seen.keys() == set(functions)


def test_every_code_arrives_as_the_right_exception(driver: Driver) -> None:
    codes = [*range(1, 31), 999]
    nodes = {
        **{f"init-{code}": T4x1.with_fault("nvmlInitWithFlags", code) for code in codes},
        **{f"gpu-{code}": T4x1.with_gpu_fault(0, "nvmlDeviceGetHandleByIndex_v2", code) for code in codes},
    }
    script = """
try:
    nvmlInit()
    nvmlDeviceGetHandleByIndex(0)
    answer = None
except NVMLError as error:
    # An older pynvml has no class for the newest codes.
    expected = NVMLError._valClassMapping.get(int(name.rpartition("-")[2]), NVMLError)
    answer = [type(error) is expected, error.value]
"""
    seen = driver.sweep(nodes, script)
    assert seen == {name: [True, int(name.rpartition("-")[2])] for name in nodes}


@pytest.mark.parametrize("door", DOORS)
def test_the_doors_of_initialisation_are_one(driver: Driver, door: str) -> None:
    script = """
import ctypes
library = ctypes.CDLL("libnvidia-ml.so.1")
print([library.nvmlInit(), library.nvmlInit_v2(), library.nvmlInitWithFlags(0)])
"""
    assert driver.ask(T4x1.with_fault(door, 18), script) == [18, 18, 18]


def test_a_fault_of_one_gpu_leaves_its_neighbours_alone(driver: Driver) -> None:
    node = H100x8.with_gpu_fault(3, "nvmlDeviceGetHandleByIndex_v2", 15).with_gpu_fault(
        5, "nvmlDeviceGetUUID", "noise"
    )
    script = """
nvmlInit()
answers = [nvmlDeviceGetCount()]
for index in range(8):
    try:
        answers.append(nvmlDeviceGetUUID(nvmlDeviceGetHandleByIndex(index)))
    except NVMLError_GpuIsLost:
        answers.append(None)
import sys
json.dump(answers, sys.stderr)
"""
    done = driver.run(node, script)
    assert done.stdout == "stand-in driver: nvmlDeviceGetUUID says this on stdout\n"
    noise, _, answers = done.stderr.partition("\n")
    assert noise == "stand-in driver: nvmlDeviceGetUUID says this on stderr"
    expected: list[object] = [gpu.uuid for gpu in H100x8.gpus]
    expected[3] = None
    assert json.loads(answers) == [8, *expected]


@pytest.mark.parametrize("function", ["nvmlInitWithFlags", "nvmlErrorString"])
def test_noise_goes_to_both_streams_and_the_call_goes_on(driver: Driver, function: str) -> None:
    done = driver.run(T4x1.with_fault(function, "noise"), "nvmlInit(); nvmlErrorString(3); print('went on')")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [f"stand-in driver: {function} says this on stdout", "went on"]
    assert done.stderr == f"stand-in driver: {function} says this on stderr\n"


@pytest.mark.parametrize(
    "node",
    [
        T4x1.with_fault("nvmlInitWithFlags", "hang"),
        T4x1.with_gpu_fault(0, "nvmlDeviceGetName", "hang"),
    ],
    ids=["init", "gpu"],
)
def test_a_hang_ends_only_at_the_deadline(driver: Driver, node: Node) -> None:
    script = """
import os, signal
signal.signal(signal.SIGTERM, lambda *_: print("ended", flush=True))
os.system(f"(sleep 0.3; kill -TERM {os.getpid()}) &")
print(os.getpid(), flush=True)
nvmlInit()
nvmlDeviceGetName(nvmlDeviceGetHandleByIndex(0))
print("ended", flush=True)
"""
    started = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        driver.run(node, script, timeout=0.9)
    assert 0.9 <= time.monotonic() - started < 5
    pid = int(str(caught.value.output).strip())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(
    "node",
    [T4x1.with_fault("nvmlInitWithFlags", "crash"), T4x1.with_gpu_fault(0, "nvmlDeviceGetName", "crash")],
    ids=["init", "gpu"],
)
def test_a_crash_is_a_segmentation_fault(driver: Driver, node: Node) -> None:
    script = """
import faulthandler
faulthandler.enable()
nvmlInit()
nvmlDeviceGetName(nvmlDeviceGetHandleByIndex(0))
"""
    done = driver.run(node, script)
    assert done.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in done.stderr
    assert not list(driver.folder.glob("core*"))


def test_what_cannot_strike_is_refused_before_it_is_written() -> None:
    with pytest.raises(ValueError, match="nvmlInitWithFlag'"):
        T4x1.with_fault("nvmlInitWithFlag", 18)
    with pytest.raises(ValueError, match="no function 'nvmlInit'"):
        T4x1.with_gpu_fault(0, "nvmlInit", 18)
    for fault in ("hangs", 0, -1):
        with pytest.raises(ValueError, match="no fault"):
            T4x1.with_fault("nvmlInit", fault)
    with pytest.raises(ValueError, match="does not fit"):
        T4x1.with_driver("580\ndriver = 1", 13000).text()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("speed = 3", "speed = 3"),
        ("fault.nvmlInitWithFlag = 18", "fault.nvmlInitWithFlag = 18"),
        ("fault.nvmlInit = hangs", "hangs"),
        ("fault.nvmlInit = 0", "fault.nvmlInit = 0"),
        ("fault.nvmlErrorString = 3", "nvmlErrorString"),
        ("gpu.0.fault.nvmlInit = 18", "gpu.0.fault.nvmlInit"),
        ("gpu.0.colour = green", "gpu.0.colour"),
        ("gpu.1.fault.nvmlDeviceGetName = 15", "a GPU lacks keys"),
        ("gpu.2.name = Tesla T4", "a GPU lacks keys"),
        ("gpu.0.mig.0.name = a slice", "a MIG slice lacks"),
        ("gpu.0.memory = much", "much"),
        ("gpu.0.used = 99999999999999", "uses more memory than it has"),
        ("gpu.0.pci = 00:1E", "pci"),
        ("gpu.0.mig = on", "gpu.0.mig = on"),
        ("gpu.99.name = Tesla T4", "gpu.99"),
        ("gpu.0.health.mood = 3", "gpu.0.health.mood"),
        ("gpu.0.health.pcie_width = wide", "wide"),
        ("gpu.0.process.0 = 12 much", "12 much"),
        ("words alone", "words alone"),
    ],
)
def test_a_description_that_is_not_understood_is_refused(
    driver: Driver, tmp_path: Path, line: str, complaint: str
) -> None:
    path = tmp_path / "broken.node"
    path.write_text(f"{T4x1.text()}{line}\n")
    done = driver.run(path, "nvmlInit()")
    assert done.returncode == 1
    assert "NVMLError_Unknown" in done.stderr
    assert done.stderr.startswith("stand-in driver: ")
    assert complaint in done.stderr.splitlines()[0]


def test_what_no_gpu_has_is_refused_before_it_is_written() -> None:
    with pytest.raises(ValueError, match="says nothing of mood"):
        T4x1.with_health(0, mood=3)


READ_HEALTH = """
def code(call, *arguments):
    try:
        answer = call(*arguments)
    except NVMLError as error:
        return type(error).__name__.removeprefix("NVMLError_")
    return [one.value.uiVal for one in answer] if call is nvmlDeviceGetFieldValues else answer

def processes(gpu):
    return [[one.pid, one.usedGpuMemory] for one in nvmlDeviceGetComputeRunningProcesses(gpu)]

nvmlInit()
gpu = nvmlDeviceGetHandleByIndex(0)
answer = {
    "rows": code(nvmlDeviceGetRemappedRows, gpu),
    "pages": code(nvmlDeviceGetRetiredPages, gpu, 1),
    "width": code(nvmlDeviceGetCurrPcieLinkWidth, gpu),
    "links": [code(nvmlDeviceGetNvLinkState, gpu, link) for link in (0, 5, 17, 18)],
    "errors": [code(nvmlDeviceGetNvLinkErrorCounter, gpu, link, 1) for link in (0, 1)],
    "processes": processes(gpu),
    "inforom": code(nvmlDeviceValidateInforom, gpu),
    "fields": code(nvmlDeviceGetFieldValues, gpu, [230]),
}
"""


def test_the_health_of_a_gpu_is_seen_as_it_is_described(driver: Driver) -> None:
    sick = H100x8.with_health(0, row_remap_pending=1, nvlinks_up=0x3FFDF, nvlink_recoveries=4, recovery_action=2,
                              inforom=14, pcie_width=8)  # fmt: skip
    sick = sick.with_gpu(0, processes=((12, None), (34, 5 * MIB)))
    seen = driver.sweep({"H100": H100x8, "sick": sick, "T4": T4x1}, READ_HEALTH)
    assert seen["H100"] == {
        "rows": [0, 0, 0, 0],
        "pages": "NotSupported",
        "width": 16,
        "links": [1, 1, 1, "InvalidArgument"],
        "errors": [0, 0],
        "processes": [],
        "inforom": None,
        "fields": [0],
    }
    assert seen["sick"] == {
        "rows": [0, 0, 1, 0],
        "pages": "NotSupported",
        "width": 8,
        "links": [1, 0, 1, "InvalidArgument"],
        "errors": [4, 0],
        "processes": [[12, None], [34, 5 * MIB]],
        "inforom": "CorruptedInforom",
        "fields": [2],
    }
    assert seen["T4"]["rows"] == "NotSupported"
    assert seen["T4"]["pages"] == []
    assert seen["T4"]["links"] == ["NotSupported"] * 4


def test_a_driver_can_lie_about_how_many_gpus_there_are(driver: Driver) -> None:
    script = "nvmlInit(); print(json.dumps([nvmlDeviceGetCount() for _ in range(3)]))"
    assert driver.ask(replace(H100x8, counts=(2**32 - 1, 7)), script) == [2**32 - 1, 7, 7]


def test_an_old_library_lacks_what_newer_ones_have(driver: Driver) -> None:
    script = """
def missing(call, *arguments):
    try:
        call(*arguments)
    except NVMLError_FunctionNotFound:
        return True
    return False

nvmlInit()
gpu = nvmlDeviceGetHandleByIndex(0)
print(json.dumps([
    missing(nvmlDeviceGetCurrentClocksEventReasons, gpu),
    missing(nvmlDeviceGetMarginTemperature, gpu),
    missing(nvmlDeviceGetComputeRunningProcesses_v3, gpu),
    missing(nvmlDeviceGetMemoryInfo, gpu, nvmlMemory_v2),
    missing(nvmlDeviceGetCurrentClocksThrottleReasons, gpu),
    missing(nvmlDeviceGetMemoryInfo, gpu),
]))
"""
    assert driver.ask(replace(H100x8, old_library=True), script) == [True, True, True, True, False, False]
    assert driver.ask(H100x8, script) == [False] * 6


def test_a_node_is_needed(driver: Driver, tmp_path: Path) -> None:
    done = driver.run(tmp_path / "nowhere.node", "nvmlInit()")
    assert "nowhere.node: cannot be read: No such file" in done.stderr
    (tmp_path / "nothing.node").touch()
    done = driver.run(tmp_path / "nothing.node", "nvmlInit()")
    assert "driver, nvml and cuda_driver are needed" in done.stderr


def test_the_calls_are_noted(driver: Driver, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    done = driver.run(T4x1, "nvmlInit(); nvmlDeviceGetCount(); nvmlShutdown()", calls=calls)
    assert done.returncode == 0
    assert calls.read_text().split() == ["nvmlInitWithFlags", "nvmlDeviceGetCount_v2", "nvmlShutdown"]


def test_a_compiler_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'nvml.c:1: error: no'\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    with pytest.raises(BuildError, match=r"failed:\nnvml.c:1: error: no"):
        build(tmp_path / "libraries")
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(BuildError, match="need a C compiler, and 'no-such-compiler' cannot be run"):
        build(tmp_path / "libraries")


# ---- another host


READ_HOST = """
import json, os
try:
    glibc = os.confstr("CS_GNU_LIBC_VERSION")
except OSError as error:
    glibc = error.errno
host = os.uname()
print(json.dumps([host.sysname, host.machine, host.release, glibc, os.confstr("CS_PATH")]))
"""


def test_a_process_sees_the_host_it_is_told_of(
    libraries: Libraries, environment: Environment, tmp_path: Path
) -> None:
    def seen(**told: str) -> list[object]:
        done = environment.run(["-c", READ_HOST], tmp_path, libraries.on_host(**told))
        answer: list[object] = json.loads(done.stdout)
        return answer

    real = os.uname()
    glibc, path = os.confstr("CS_GNU_LIBC_VERSION"), os.confstr("CS_PATH")
    assert seen() == [real.sysname, real.machine, real.release, glibc, path]
    assert seen(machine="aarch64") == [real.sysname, "aarch64", real.release, glibc, path]
    assert seen(sysname="Darwin") == ["Darwin", real.machine, real.release, glibc, path]
    assert seen(glibc="glibc 2.17")[3] == "glibc 2.17"
    assert seen(glibc="none")[3] == 22
    assert seen(glibc="none")[4] == path


# ---- torch


class Torch:
    """Asks a stand-in torch, each time in a process of its own."""

    def __init__(self, libraries: Libraries, folder: Path) -> None:
        self.libraries, self.folder = libraries, folder
        self.environment = Environment.create(folder)
        self.bare = {path.name for path in self.environment.site.iterdir()}
        self.written: StandinTorch | None = None

    def run(
        self,
        spec: StandinTorch,
        script: str,
        node: Node = EMPTY,
        visible: str | None = None,
        timeout: float = 20,
    ) -> subprocess.CompletedProcess[str]:
        if spec != self.written:
            for info in self.environment.site.glob("torch-*.dist-info"):
                info.rename(self.folder / f"old-{time.monotonic_ns()}")
            if (self.environment.site / "torch").exists():
                (self.environment.site / "torch").rename(self.folder / f"old-{time.monotonic_ns()}")
            write_torch(self.environment.site, spec)
            self.written = spec
        environ = self.libraries.playing(node, self.folder)
        if visible is not None:
            environ["CUDA_VISIBLE_DEVICES"] = visible
        script = f"import json, torch\n{script}"
        return self.environment.run(["-c", script], self.folder, environ, timeout)

    def ask(self, spec: StandinTorch, script: str, node: Node = EMPTY, visible: str | None = None) -> Any:
        done = self.run(spec, script, node, visible)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def shown(self, spec: StandinTorch, node: Node, visible: str | None) -> list[str]:
        """The UUIDs of the devices that torch shows, as it writes them."""
        script = """
devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
assert torch.cuda.is_available() is bool(devices)
assert torch.cuda.device_count() == len(devices)
print(json.dumps([str(device.uuid) for device in devices]))
"""
        answer: list[str] = self.ask(spec, script, node, visible)
        return answer


@pytest.fixture(scope="session")
def torch(libraries: Libraries, tmp_path_factory: pytest.TempPathFactory) -> Torch:
    return Torch(libraries, tmp_path_factory.mktemp("torch"))


def test_torch_says_what_it_was_built_of(torch: Torch) -> None:
    script = """
import importlib.metadata
version = torch.version
print(json.dumps([
    torch.__version__, version.cuda, version.hip, len(version.git_version),
    torch.backends.cudnn.is_available(), torch.backends.cudnn.version(),
    torch.cuda.nccl.version(), torch.distributed.is_available(), torch.distributed.is_nccl_available(),
    torch.cuda.get_arch_list(), importlib.metadata.version("torch"),
]))
"""
    architectures = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]
    assert torch.ask(StandinTorch(), script) == [
        *("2.14.1", "13.0", None, 40, True, 92400, [2, 30, 7], True, True, architectures, "2.14.1"),
    ]
    older = StandinTorch("2.10.0+cu126", "12.6", arch_list=("sm_50", "sm_90"), cudnn=91002, nccl=(2, 27, 5))
    assert torch.ask(older, script) == [
        *("2.10.0+cu126", "12.6", None, 40, True, 91002, [2, 27, 5], True, True, ["sm_50", "sm_90"]),
        "2.10.0+cu126",
    ]


def test_a_cpu_build_has_no_cuda(torch: Torch) -> None:
    script = """
try:
    torch.cuda.init()
except AssertionError as error:
    why = str(error)
cuda = torch.cuda
answer = [cuda.is_available(), cuda.device_count(), cuda.get_arch_list(), torch.backends.cudnn.version()]
print(json.dumps([*answer, torch.distributed.is_nccl_available(), why]))
"""
    seen = torch.ask(StandinTorch("2.14.1+cpu", cuda=None), script, H100x8)
    assert seen == [False, 0, [], None, False, "Torch not compiled with CUDA enabled"]


def test_torch_shows_the_devices_of_the_driver(torch: Torch) -> None:
    script = """
properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
print(json.dumps([[p.name, p.major, p.minor, p.total_memory, str(p.uuid)] for p in properties]))
"""
    assert torch.ask(StandinTorch(), script, B200x8) == [
        [gpu.name, 10, 0, gpu.memory_bytes, gpu.uuid.removeprefix("GPU-")] for gpu in B200x8.gpus
    ]
    listed = StandinTorch(devices=[("GPU-1234", "NVIDIA Other", 9, 0, 7)])
    assert torch.ask(listed, script, B200x8) == [["NVIDIA Other", 9, 0, 7, "1234"]]


EIGHT = [gpu.uuid for gpu in H100x8.gpus]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [0, 1, 2, 3, 4, 5, 6, 7]),
        ("", []),
        ("-1", []),
        ("3", [3]),
        ("5,2", [5, 2]),
        (" 5 , 2", [5, 2]),
        ("0,8,1", [0]),
        ("0,-1,1", [0]),
        ("2,none,1", [2]),
        ("1gpu2,2ampere", [1, 2]),
        ("1,1", []),
        ("NoDevFiles", []),
        (EIGHT[6], [6]),
        (f"{EIGHT[6][:-4]},{EIGHT[1][:12]}", [6, 1]),
        (f"{EIGHT[6]},GPU-nobody,{EIGHT[1]}", [6]),
        (f"{EIGHT[6]},{EIGHT[6]}", []),
        (f"{EIGHT[6]},1", [6]),
        (f"1,{EIGHT[6]}", [1]),
        ("GPU-", []),
        ("MIG-" + EIGHT[0].removeprefix("GPU-"), []),
    ],
)
def test_torch_reads_cuda_visible_devices_as_cuda_does(
    torch: Torch, visible: str | None, expected: list[int]
) -> None:
    shown = torch.shown(StandinTorch(), H100x8, visible)
    assert shown == [EIGHT[index].removeprefix("GPU-") for index in expected]


FIRST, SECOND = (mig.uuid for mig in H100_MIG.gpus[0].migs)
PARENT = H100_MIG.gpus[0].uuid


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [FIRST]),
        ("0", [FIRST]),
        ("1", []),
        (PARENT, [FIRST]),
        (SECOND, [SECOND]),
        (f"{SECOND},{FIRST}", [SECOND]),
        (f"MIG-{PARENT}/2/0", [SECOND]),
        (f"MIG-{PARENT}/3/0", []),
        ("MIG-nobody", []),
    ],
)
def test_a_process_sees_one_slice_at_most(torch: Torch, visible: str | None, expected: list[str]) -> None:
    shown = torch.shown(StandinTorch(), H100_MIG, visible)
    assert shown == [uuid.removeprefix("MIG-") for uuid in expected]


READ_AVAILABILITY = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    answers = [torch.cuda.is_available(), torch.cuda.is_available(), torch.cuda.device_count()]
for call in (torch.cuda.init, torch.cuda.get_device_properties):
    try:
        call(*[0] * (call is not torch.cuda.init))
        answers.append(None)
    except RuntimeError as error:
        answers.append(str(error))
print(json.dumps([*answers, [f"{w.category.__name__}: {w.message}" for w in caught]]))
"""
E804 = (
    "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling "
    "NumCudaDevices() that might have already set an error? Error 804: forward compatibility was attempted "
    "on non supported HW"
)


def test_torch_is_as_available_as_it_is_told_to_be(torch: Torch) -> None:
    def seen(spec: StandinTorch, node: Node = T4x1) -> Any:
        return torch.ask(spec, READ_AVAILABILITY, node)

    assert seen(StandinTorch()) == [True, True, 1, None, None, []]
    busy = "CUDA error: all CUDA-capable devices are busy or unavailable"
    assert seen(StandinTorch(init_error=busy)) == [True, True, 1, busy, busy, []]
    assert seen(StandinTorch(init_error=E804)) == [
        *(False, False, 1, E804, E804, [f"UserWarning: CUDA initialization: {E804}"]),
    ]
    assert seen(StandinTorch(warns="CUDA initialization: no luck")) == [
        *(False, False, 1, "no luck", "no luck", ["UserWarning: CUDA initialization: no luck"]),
    ]
    listed = StandinTorch(devices=[("GPU-1234", "NVIDIA Other", 9, 0, 7)], init_error=busy)
    assert seen(listed) == [True, True, 1, busy, busy, []]


def test_torch_and_the_driver_agree_on_what_is_wrong(torch: Torch) -> None:
    def seen(node: Node, spec: StandinTorch | None = None) -> Any:
        return torch.ask(spec or StandinTorch(), READ_AVAILABILITY, node)

    available, _, count, error, _, warnings = seen(A10Gx1)
    assert (available, count) == (False, 1)  # torch counts through NVML, which knows nothing of this build
    assert "driver on your system is too old (found version 12040)" in error
    assert warnings == [f"UserWarning: CUDA initialization: {error}"]
    assert seen(A10Gx1, StandinTorch("2.10.0", "12.8")) == [True, True, 1, None, None, []]
    none = "No CUDA GPUs are available"
    assert seen(EMPTY) == [False, False, 0, none, none, []]
    available, _, count, error, _, warnings = seen(T4x1.with_fault("nvmlInitWithFlags", 9))
    assert (available, count, warnings) == (False, 0, [])
    assert error.startswith("Found no NVIDIA driver")
    available, _, count, error, _, warnings = seen(T4x1.with_fault("nvmlInitWithFlags", 18))
    assert (available, count, len(warnings)) == (False, 0, 1)
    assert "Error 803" in error
    lost = H100x8.with_gpu_fault(3, "nvmlDeviceGetHandleByIndex_v2", 15)
    assert torch.shown(StandinTorch(), lost, None) == [
        uuid.removeprefix("GPU-") for index, uuid in enumerate(EIGHT) if index != 3
    ]


def test_torch_without_a_driver_library_has_no_devices(torch: Torch, tmp_path: Path) -> None:
    torch.ask(StandinTorch(), "print(1)")
    done = torch.environment.run(["-c", f"import json, torch\n{READ_AVAILABILITY}"], tmp_path)
    available, _, count, error, _, warnings = json.loads(done.stdout)
    assert (available, count, warnings) == (False, 0, [])
    assert error.startswith("Found no NVIDIA driver")


def test_importing_torch_fails_as_told(torch: Torch) -> None:
    missing = "libcublas.so.12: cannot open shared object file: No such file or directory"
    done = torch.run(StandinTorch(import_error=f"ImportError: {missing}"), "print('imported')")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == f"ImportError: {missing}"

    done = torch.run(StandinTorch(import_crashes=True, prints_on_import="about to die"), "print('imported')")
    assert (done.returncode, done.stdout) == (-signal.SIGSEGV, "about to die\n")

    done = torch.run(StandinTorch(prints_on_import="hello"), "print('imported')")
    assert (done.returncode, done.stdout) == (0, "hello\nimported\n")

    hanging = StandinTorch(import_hangs=True, prints_on_import="about to hang")
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        torch.run(hanging, "print('imported')", timeout=0.5)
    assert caught.value.output == "about to hang\n"

    with pytest.raises(ValueError, match="not '<built-in exception>"):
        StandinTorch(import_error="libcublas.so.12: cannot open shared object file")


# ---- distributions


def test_a_written_distribution_is_whole_and_can_be_broken(environment: Environment, tmp_path: Path) -> None:
    files = {"bio_nemo/__init__.py": "VALUE = 7\n", "bio_nemo/data/table.csv": "a,b\n", "single.py": ""}
    entry_points = "[bionemo]\nseven = bio_nemo:VALUE\n"
    info = write_distribution(
        environment.site, "Bio.nemo-SCDL", "1.0", files, ">=3.10", ["torch>=2"], entry_points=entry_points
    )
    assert info.name == "bio_nemo_scdl-1.0.dist-info"
    script = """
import base64, hashlib, importlib.metadata as metadata, json
d = metadata.distribution("bio-nemo-scdl")
def true(file):
    content = file.locate().read_bytes()
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
    return (file.hash.mode, file.hash.value, file.size) == ("sha256", digest, len(content))
print(json.dumps([
    d.metadata["Name"], d.version, d.metadata["Requires-Python"], d.requires,
    d.read_text("top_level.txt").split(),
    [file.name for file in d.files if file.hash is None],
    all(true(file) for file in d.files if file.hash),
    [point.load() for point in metadata.entry_points(group="bionemo")],
]))
"""
    done = environment.run(["-c", script], tmp_path)
    assert json.loads(done.stdout) == [
        *("Bio.nemo-SCDL", "1.0", ">=3.10", ["torch>=2"], ["bio_nemo", "single"], ["RECORD"], True, [7]),
    ]
    remove_file(environment.site, "bio-nemo-scdl", "bio_nemo/__init__.py")
    listed = [line.split(",")[0] for line in (info / "RECORD").read_text().splitlines()]
    gone = [file for file in listed if not (environment.site / file).exists()]
    assert gone == ["bio_nemo/__init__.py"]
    with pytest.raises(LookupError, match="no file bio_nemo/other"):
        remove_file(environment.site, "bio-nemo-scdl", "bio_nemo/other.py")
    with pytest.raises(FileExistsError):
        write_distribution(environment.site, "bio-nemo-scdl", "1.0", files)


def test_what_is_linked_from_outside_is_never_written_to(tmp_path: Path) -> None:
    environment = Environment.create(tmp_path / "environment", ["packaging"])
    with pytest.raises(ValueError, match="does not lie in"):
        remove_file(environment.site, "packaging", "packaging/__init__.py")
    with pytest.raises(ValueError, match="does not lie in"):
        write_distribution(environment.site, "other", "1.0", {"packaging/other.py": ""})
    with pytest.raises(ValueError, match="does not lie in"):
        write_distribution(environment.site, "other", "1.0", {"../other.py": ""})


# ---- environments


READ_ENVIRONMENT = """
import importlib, importlib.metadata, json, os, sys
modules = ["_pytest", "pynvml", "pytest_jsonreport", "torch", "mypy", "setuptools", "pip"]
def imports(name):
    try:
        return bool(importlib.import_module(name))
    except ModuleNotFoundError:
        return False
print(json.dumps([
    sorted(d.metadata["Name"].lower().replace("_", "-") for d in importlib.metadata.distributions()),
    [name for name in modules if imports(name)],
    [path for path in sys.path if "site-packages" in path],
    sorted(os.environ),
]))
"""


def test_an_environment_holds_what_was_asked_for_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTEST_ADDOPTS", "--no-such-option")
    started = time.monotonic()
    wanted = ["pytest", "pytest-json-report", "nvidia-ml-py"]
    environment = Environment.create(tmp_path / "environment", wanted)
    assert time.monotonic() - started < 2
    done = environment.run(["-c", READ_ENVIRONMENT], tmp_path)
    distributions, modules, site, variables = json.loads(done.stdout)
    assert distributions == sorted(closure(wanted))
    assert {*wanted, "pluggy", "iniconfig"} <= set(distributions)
    assert modules == ["_pytest", "pynvml", "pytest_jsonreport"]
    assert site == [str(environment.site)]
    assert set(variables) - {"LC_CTYPE"} == {"PATH", "HOME", "LANG", "TMPDIR"}

    (tmp_path / "test_one.py").write_text("def test_one():\n    assert 1 == 1\n")
    arguments = ["-m", "pytest", "--json-report", "-q", "-p", "no:cacheprovider"]
    done = environment.run(arguments, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "json-report-1" in environment.run(["-m", "pytest", "--co"], tmp_path).stdout
    assert json.loads((tmp_path / ".report.json").read_text())["summary"]["passed"] == 1


def test_a_dependency_can_be_left_out(tmp_path: Path) -> None:
    environment = Environment.create(tmp_path, ["pytest"], without=["Pygments"])
    done = environment.run(["-c", "import pluggy, pygments"], tmp_path)
    assert "No module named 'pygments'" in done.stderr
    with pytest.raises(LookupError, match="no-such-thing is not installed"):
        closure(["no-such-thing"])


def test_what_a_distribution_shares_a_folder_with_stays_out(tmp_path: Path) -> None:
    """Also from within another environment, and for an editable install, whose source folder stays hidden."""
    outer = Environment.create(tmp_path / "outer", ["packaging"])
    write_distribution(outer.site, "shared-one", "1", {"shared/one/__init__.py": ""})
    write_distribution(outer.site, "shared-two", "1", {"shared/two/__init__.py": ""}, requires=["mod; extra == 'x'"])
    write_distribution(outer.site, "mod", "1", {"mod.py": ""})
    source = tmp_path / "source"
    (source / "being_edited").mkdir(parents=True)
    (source / "being_edited" / "__init__.py").write_text("VALUE = 3\n")
    (source / "beside.py").touch()
    editable = write_distribution(
        outer.site,
        "being-edited",
        "2",
        {"_being_edited.pth": f"{source}\n"},
        entry_points="[e]\nv = being_edited:VALUE\n",
    )
    (editable / "direct_url.json").write_text(json.dumps({"url": source.as_uri(), "dir_info": {"editable": True}}))
    (editable / "top_level.txt").unlink()
    script = f"""
import json, sys
from pathlib import Path
sys.path.append({str(Path(__file__).parent)!r})
from standin.environment import Environment
inner = Environment.create(Path({str(tmp_path / "inner")!r}), ["shared-one", "being-edited"])
extra = Environment.create(Path({str(tmp_path / "extra")!r}), ["shared-two[x]"])
print(json.dumps([str(inner.python), str(extra.python)]))
"""
    done = outer.run(["-c", script], tmp_path)
    assert done.returncode == 0, done.stderr
    inner, extra = json.loads(done.stdout)
    inquire = """
import importlib.util as u, importlib.metadata as m, json
names = ["shared.one", "shared.two", "being_edited", "beside", "mod", "packaging"]
points = [point.load() for point in m.entry_points(group="e")]
files = [file for d in m.distributions() for file in d.files if not file.locate().exists()]
print(json.dumps([[name for name in names if u.find_spec(name)], points, files]))
"""

    def seen(python: str) -> Any:
        done = subprocess.run([python, "-I", "-c", inquire], capture_output=True, text=True, check=True, timeout=20)
        return json.loads(done.stdout)

    assert seen(inner) == [["shared.one", "being_edited"], [3], []]
    assert seen(extra) == [["shared.two", "mod"], [], []]


def test_a_grandchild_does_not_hold_up_the_answer(environment: Environment, tmp_path: Path) -> None:
    script = """
import subprocess, sys, time
sleeper = "import time; time.sleep(8)"
grandchild = subprocess.Popen([sys.executable, "-c", sleeper], start_new_session=True)
print(grandchild.pid, flush=True)
if sys.argv[1:]:
    time.sleep(8)
"""
    started = time.monotonic()
    pids = [int(environment.run(["-c", script], tmp_path).stdout)]
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        environment.run(["-c", script, "stay"], tmp_path, timeout=0.5)
    pids.append(int(str(caught.value.output)))
    assert time.monotonic() - started < 6
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_child_can_be_another_user(open_folder: Path) -> None:
    environment = Environment.create(open_folder)
    if not environment.open_to(65534):
        pytest.skip("this interpreter lies in a folder closed to other users")
    script = "import os; open(os.environ['HOME'] + '/mine', 'w'); print(os.getuid(), os.getgroups())"
    done = environment.run(["-c", script], open_folder, user=65534)
    assert done.stdout.startswith("65534 "), done.stderr
