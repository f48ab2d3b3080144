"""Workers: one child for each device, every way to fail attributed, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from pytest_bionemo.probes.host import usable_cores
from pytest_bionemo.worker import Device, Trouble, Workers, WorkloadFailed

TWO = (Device.of_gpu("GPU-a"), Device.of_gpu("GPU-b"))
Make = Callable[..., Workers]


@pytest.fixture
def make_workers() -> Iterator[Make]:
    made: list[Workers] = []

    def make(devices: Sequence[Device] = TWO, timeout: float = 30) -> Workers:
        made.append(Workers(devices, timeout))
        return made[-1]

    yield make
    for workers in made:
        workers.close()


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until(holds: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds()


def test_a_workload_gives_numbers_from_another_process(make_workers: Make) -> None:
    workers = make_workers()
    assert workers.run("GPU-a", "misbehaving:add", a=1, b=2) == {"sum": 3}
    assert workers.run("GPU-a", "misbehaving:where")["pid"] != os.getpid()


def test_a_device_can_be_left_to_another_process_for_a_while(make_workers: Make) -> None:
    workers = make_workers()
    before = workers.run("GPU-a", "misbehaving:where")
    workers.rest()
    assert wait_until(lambda: not is_alive(before["pid"]))
    assert workers.run("GPU-b", "misbehaving:where")["visible"] == "GPU-b"  # it was asked, and answered before
    assert workers.run("GPU-a", "misbehaving:add", a=2, b=2) == {"sum": 4}


def test_each_device_has_a_child_that_sees_it_alone(make_workers: Make) -> None:
    workers = make_workers()
    seen = [workers.run(device.label, "misbehaving:where") for device in TWO]
    assert [one["visible"] for one in seen] == ["GPU-a", "GPU-b"]
    assert seen[0]["pid"] != seen[1]["pid"]


def test_the_cpu_sees_no_gpu(make_workers: Make) -> None:
    assert make_workers([Device.cpu()]).run("cpu", "misbehaving:where")["visible"] == ""


def test_a_child_stays_for_the_next_workload(make_workers: Make) -> None:
    workers = make_workers()
    first = workers.run("GPU-a", "misbehaving:where")
    workers.run("GPU-a", "misbehaving:add", a=1, b=2)
    again = workers.run("GPU-a", "misbehaving:only_on", device="GPU-z", action="hang")
    assert again["pid"] == first["pid"]


def test_the_same_request_is_not_run_again(make_workers: Make) -> None:
    workers = make_workers()
    assert [workers.run("GPU-a", "misbehaving:where")["calls"] for _ in range(3)] == [1, 1, 1]


def test_a_request_starts_on_all_devices_at_once(make_workers: Make) -> None:
    """As a ratio: four devices that sleep one after the other would take four times as long as one."""
    devices = [Device.of_gpu(f"GPU-{number}") for number in range(4)]
    durations = []
    for present in (devices[:1], devices):
        workers = make_workers(present)
        workers.run("GPU-0", "misbehaving:add", a=0, b=0)
        started = time.monotonic()
        for device in present:
            workers.run(device.label, "misbehaving:sleep", seconds=1.0)
        durations.append(time.monotonic() - started)
    assert durations[1] / durations[0] < 2


def test_answers_of_different_workloads_are_not_mixed_up(make_workers: Make) -> None:
    workers = make_workers()
    workers.run("GPU-a", "misbehaving:add", a=1, b=1)
    workers.run("GPU-a", "misbehaving:add", a=2, b=2)
    assert workers.run("GPU-b", "misbehaving:add", a=1, b=1) == {"sum": 2}
    assert workers.run("GPU-b", "misbehaving:add", a=2, b=2) == {"sum": 4}


def test_the_devices_share_the_cores(make_workers: Make) -> None:
    """More threads than cores wait for each other: eight GPUs would then take the time of many more."""
    cores = usable_cores()
    for devices in (TWO[:1], TWO, [Device.cpu(f"cpu{number}") for number in range(2 * cores)]):
        workers = make_workers(devices)
        threads = [int(workers.run(device.label, "misbehaving:where")["threads"]) for device in devices]
        assert threads == [max(1, cores // len(devices))] * len(devices)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 1000),
        ({"cpu.max": "max 100000\n"}, 1000),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "damaged\n"}, 1000),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1000),
    ],
    ids=str,
)
def test_a_quota_of_the_control_group_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(1000)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores(tmp_path) == cores


def test_what_python_prints_at_its_start_is_no_answer(
    make_workers: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('{}')\nprint('Loading the configuration of this site')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert make_workers().run("GPU-a", "misbehaving:add", a=1, b=2) == {"sum": 3}


# The names of the nodes of a large job: more than a pipe holds.
LONG = "x" * (1 << 20)


def test_a_long_request_reaches_all_devices_at_once(make_workers: Make, tmp_path: Path) -> None:
    """Each waits for the others: one that got its request when another has answered would never meet it."""
    workers = make_workers()
    for device in TWO:
        assert workers.run(device.label, "test_worker:meet", folder=str(tmp_path), text=LONG) == {"present": 2}


def meet(folder: str, text: str) -> dict[str, int]:
    """In the workers."""
    Path(folder, str(os.getpid())).touch()
    assert text == LONG
    assert wait_until(lambda: len(list(Path(folder).iterdir())) == len(TWO), 20)
    return {"present": len(TWO)}


def test_a_child_that_hangs_before_it_has_read_a_long_request_is_killed(make_workers: Make, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import time\ntime.sleep(60)\n")
    hanging = Device("GPU-a", {"PYTHONPATH": str(tmp_path)})
    started = time.monotonic()
    workers = make_workers([hanging, TWO[1]], timeout=5)
    with pytest.raises(WorkloadFailed, match="no answer within 5 s") as caught:
        workers.run("GPU-a", "misbehaving:add", a=LONG, b="")
    assert caught.value.trouble is Trouble.HANG
    assert workers.run("GPU-b", "misbehaving:add", a=LONG, b="") == {"sum": LONG}
    assert time.monotonic() - started < 30


def test_a_child_that_dies_before_it_has_read_a_long_request_is_named(make_workers: Make, tmp_path: Path) -> None:
    """What it has started holds its pipe open."""
    sleeper = "subprocess.Popen(['sleep', '60'])"
    (tmp_path / "sitecustomize.py").write_text(f"import os, subprocess\n{sleeper}\nos._exit(3)\n")
    device = Device("GPU-a", {"PYTHONPATH": str(tmp_path)})
    started = time.monotonic()
    with pytest.raises(WorkloadFailed, match="exit status 3"):
        make_workers([device]).run("GPU-a", "misbehaving:add", a=LONG, b="")
    assert time.monotonic() - started < 20


def test_a_long_answer_of_a_healthy_device_is_read_although_another_hung(make_workers: Make) -> None:
    workers = make_workers(timeout=5)
    with pytest.raises(WorkloadFailed, match="no answer within 5 s"):
        workers.run("GPU-a", "misbehaving:talk_or_hang", hanging="GPU-a")
    assert len(workers.run("GPU-b", "misbehaving:talk_or_hang", hanging="GPU-a")["text"]) == 1 << 20


def test_a_damaged_answer_is_a_death(make_workers: Make) -> None:
    with pytest.raises(WorkloadFailed, match="its answer is damaged") as caught:
        make_workers().run("GPU-a", "misbehaving:write_into_the_channel")
    assert caught.value.trouble is Trouble.DEATH


TROUBLES = [
    ("be_killed", Trouble.DEATH, "killed by SIGKILL"),
    ("crash", Trouble.DEATH, "killed by SIGSEGV"),
    ("leave", Trouble.DEATH, "exit status 7"),
    ("hang", Trouble.HANG, "no answer within 2 s"),
    ("exit_politely", Trouble.ERROR, "SystemExit: a library had enough"),
    ("run_out_of_memory", Trouble.OUT_OF_MEMORY, "MemoryError: no room for 80 GB"),
    ("run_out_of_gpu_memory", Trouble.OUT_OF_MEMORY, "Tried to allocate 80.00 GiB"),
    ("break_the_context", Trouble.CUDA_ERROR, "illegal memory access"),
    ("find_the_gpu_full", Trouble.OUT_OF_MEMORY, "CUDA error: out of memory"),
    ("find_no_room_for_cublas", Trouble.OUT_OF_MEMORY, "CUBLAS_STATUS_ALLOC_FAILED"),
    ("break_cublas", Trouble.LIBRARY_ERROR, "CUBLAS_STATUS_NOT_INITIALIZED"),
    ("break_the_driver", Trouble.CUDA_ERROR, "CUDA driver error: unknown error"),
    ("make_a_mistake", Trouble.ERROR, "ValueError: not a number of heads"),
]


@pytest.mark.parametrize(("action", "trouble", "text"), TROUBLES)
def test_trouble_is_attributed_and_the_run_goes_on(
    make_workers: Make, action: str, trouble: Trouble, text: str
) -> None:
    workers = make_workers(timeout=2)
    before = workers.run("GPU-a", "misbehaving:where")["pid"]
    with pytest.raises(WorkloadFailed, match=text) as caught:
        workers.run("GPU-a", "misbehaving:only_on", device="GPU-a", action=action)
    assert (caught.value.workload, caught.value.device) == ("misbehaving:only_on", "GPU-a")
    assert caught.value.trouble is trouble
    # The other device is not concerned, and the next workload gets a fresh child.
    assert workers.run("GPU-b", "misbehaving:only_on", device="GPU-a", action=action)["pid"] != before
    after = workers.run("GPU-a", "misbehaving:add", a=20, b=22)
    assert after == {"sum": 42}
    assert not is_alive(before)


def test_trouble_is_told_again_to_whoever_asks_again(make_workers: Make) -> None:
    workers = make_workers()
    for _ in range(2):
        with pytest.raises(WorkloadFailed, match="exit status 7"):
            workers.run("GPU-a", "misbehaving:leave")


@pytest.mark.parametrize(
    ("workload", "text"),
    [
        ("misbehaving:nothing", "it returned None, not numbers by name"),
        ("misbehaving:no_json", "not JSON serializable"),
        ("misbehaving:absent", "has no attribute 'absent'"),
        ("no_such_module:run", "No module named 'no_such_module'"),
    ],
)
def test_an_answer_that_is_none_is_an_error(make_workers: Make, workload: str, text: str) -> None:
    with pytest.raises(WorkloadFailed, match=text) as caught:
        make_workers().run("GPU-a", workload)
    assert caught.value.trouble is Trouble.ERROR


def test_what_a_workload_prints_is_no_answer(make_workers: Make) -> None:
    assert make_workers().run("GPU-a", "misbehaving:noisy") == {"answer": 42}


def test_a_child_that_hangs_at_its_start_is_killed(make_workers: Make, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import time\ntime.sleep(600)\n")
    device = Device("GPU-a", {"PYTHONPATH": str(tmp_path)})
    with pytest.raises(WorkloadFailed, match="no answer within 1 s"):
        make_workers([device], timeout=1).run("GPU-a", "misbehaving:add", a=1, b=2)


def test_a_child_that_dies_at_its_start_is_named(make_workers: Make, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os\nos._exit(3)\n")
    device = Device("GPU-a", {"PYTHONPATH": str(tmp_path)})
    with pytest.raises(WorkloadFailed, match="exit status 3"):
        make_workers([device]).run("GPU-a", "misbehaving:add", a=1, b=2)


def test_a_killed_workload_takes_its_own_children_along(make_workers: Make, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    with pytest.raises(WorkloadFailed, match="no answer"):
        make_workers(TWO[:1], timeout=2).run("GPU-a", "misbehaving:hang_with_a_child", note=str(note))
    grandchild = int(note.read_text())
    assert wait_until(lambda: not is_alive(grandchild))


def test_closing_leaves_no_process_and_no_file(make_workers: Make) -> None:
    files = len(list(Path("/proc/self/fd").iterdir()))
    workers = make_workers()
    pids = [workers.run(device.label, "misbehaving:where")["pid"] for device in TWO]
    workers.close()
    assert not any(is_alive(pid) for pid in pids)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids), "no zombie either"
    assert len(list(Path("/proc/self/fd").iterdir())) == files


def test_no_worker_survives_a_killed_parent(tmp_path: Path) -> None:
    script = """
import sys
sys.path.insert(0, sys.argv[1])
from pytest_bionemo.worker import Device, Workers
workers = Workers([Device.cpu()], 60)
print(workers.run("cpu", "misbehaving:where")["pid"], flush=True)
workers.run("cpu", "misbehaving:hang")
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout
    worker = int(parent.stdout.readline())
    assert is_alive(worker)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert wait_until(lambda: not is_alive(worker))
