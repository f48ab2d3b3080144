"""validate(): the run that a notebook or a script asks for, and how it ends whatever happens to it."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pynvml
import pytest

from conftest import Rig, Run, assert_valid
from pytest_bionemo import Report, ReportError, notebooks, validate
from standin import H100x8
from standin.files import can_share

HAS_NEW_BINDING = hasattr(pynvml, "nvmlDeviceGetGpuFabricInfoV")
HOSTILE = "from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\nraise SystemExit('hostile')\n"
VOLUME = "/Volumes/main/default/reports"


def program(rig: Rig, text: str, timeout: float = 60) -> Run:
    """Run a program that has pytest_bionemo; with its own folder on sys.path, as a notebook has it."""
    rig.write(
        "program.py", "import json, os, sys\nimport pytest_bionemo\nfrom pytest_bionemo import validate\n" + text
    )
    return rig.run("program.py", timeout=timeout)


def told(run: Run) -> Any:
    """What the program wrote as the last line."""
    assert run.stdout.splitlines(), run.stderr
    return json.loads(run.stdout.splitlines()[-1])


# ---- what it returns


HEALTHY = """
import asyncio, tempfile

async def main():
    first = validate("quick")
    before = set(os.listdir("."))
    second = validate(level="quick", report="kept.json", quiet=True)
    third = validate(level="quick", report=".", quiet=True, require="ready")
    print()
    print(json.dumps({
        "verdicts": [report.verdict for report in (first, second, third)],
        "paths": [str(report.path) for report in (first, second, third)],
        "made": sorted(set(os.listdir(".")) - before),
        "left": os.listdir(tempfile.gettempdir()),
        "installs": len(first.install_options),
        "gpus": [gpu.name for gpu in first.gpus],
        "exitcodes": [report.document["exitcode"] for report in (first, second, third)],
        "heavy": sorted({"torch", "pynvml", "pandas", "numpy"} & set(sys.modules)),
        "text": str(first),
    }))

asyncio.run(main())
"""


def test_a_program_gets_the_report_of_a_run_that_has_no_part_in_it(healthy_rig: Rig) -> None:
    for name in ("conftest", "json", "pytest", "ctypes", "sitecustomize", "packaging"):
        healthy_rig.write(f"below/{name}.py", HOSTILE)
    healthy_rig.write("conftest.py", HOSTILE)
    healthy_rig.write("pytest.ini", "[pytest]\naddopts = --no-such-option\n")
    temporary = healthy_rig.folder / "temporary"
    temporary.mkdir()
    healthy_rig.variables["TMPDIR"] = str(temporary)
    run = program(healthy_rig, HEALTHY)
    found = told(run)
    assert found["verdicts"] == ["READY_FOR_INSTALL"] * 3
    host = f"{socket.gethostname()}.json"
    assert found["paths"] == ["None", str(healthy_rig.project / "kept.json"), str(healthy_rig.project / host)]
    assert found["made"] == sorted(["kept.json", host])
    assert found["left"] == []
    assert found["installs"] > 0
    assert found["gpus"] == ["NVIDIA H100 80GB HBM3"] * 8
    assert found["exitcodes"] == [0, 0, 1]
    assert found["heavy"] == []
    assert not list(healthy_rig.project.rglob("*.ran"))
    # The first run alone prints, and not where its report lay for a moment.
    printed = run.stdout.splitlines()[:-1]
    assert [line for line in printed if "BioNeMo readiness" in line] == [found["text"].splitlines()[0]]
    assert [line for line in printed if line.startswith(("bionemo/host", "bionemo/targets"))]
    assert not [line for line in printed if "report.json" in line or "Warning" in line]
    assert run.stderr == ""
    for name in ("kept.json", host):
        saved = json.loads((healthy_rig.project / name).read_text())
        assert_valid(saved)
        assert Report.load(healthy_rig.project / name).verdict == "READY_FOR_INSTALL"


def test_what_is_on_the_programs_path_is_what_is_validated(healthy_rig: Rig) -> None:
    # As with notebooks, whose packages may lie where no other interpreter looks; but not in the program's folder.
    site = healthy_rig.folder / "of the notebook"
    site.mkdir()
    healthy_rig.environ()  # writes the stand-in torch
    for entry in list(healthy_rig.site.iterdir()):
        entry.rename(site / entry.name)
    healthy_rig.torch = None
    healthy_rig.write("packaging.py", HOSTILE)
    text = f"""
first = validate("quick", quiet=True)
sys.path.append({str(site)!r})
second = validate("quick", quiet=True)
print(json.dumps([[report.verdict, report.environment["torch"] is None] for report in (first, second)]))
"""
    assert told(program(healthy_rig, text)) == [["BLOCKED", True], ["READY_FOR_INSTALL", False]]
    assert not list(healthy_rig.project.rglob("*.ran"))


def test_the_current_folder_is_left_out_unless_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'other'}")
    assert notebooks._is_own_folder(".")
    assert not notebooks._is_own_folder(str(tmp_path / "other"))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'other'}:.")
    assert not notebooks._is_own_folder(str(tmp_path))


def test_a_machine_that_is_not_ready_stops_the_program(rig: Rig) -> None:
    run = program(rig, "validate('quick', quiet=True).raise_if_not_ready()\nprint('went on')\n")
    assert (run.returncode, run.stdout) == (1, "")
    last = run.stderr.splitlines()
    assert "pytest_bionemo.reports.NotReady: BLOCKED at level quick: 1 blocker" in last
    assert any(line.startswith("bionemo/driver::loads: no NVIDIA driver: ") for line in last)
    assert any(line.startswith("  fix: run this on a machine with an NVIDIA GPU") for line in last)


HOLDS = """
from pathlib import Path
path = Path(os.environ["STANDIN_NODE"])
text = path.read_text()
found = []
for others in ("", "gpu.3.process.1 = 1 9000000000\\n"):
    path.write_text(f"{text}gpu.3.process.0 = {os.getpid()} 21474836480\\n{others}")
    report = validate("quick", quiet=True)
    found += [[finding.check, finding.severity, finding.message, finding.fix] for finding in report.findings]
print(json.dumps([os.getpid(), found]))
"""


@pytest.mark.skipif(not HAS_NEW_BINDING, reason="this nvidia-ml-py misreads the list of processes")
def test_memory_that_the_program_itself_holds_is_named_as_its_own(healthy_rig: Rig) -> None:
    healthy_rig.node = H100x8.with_gpu(3, used_bytes=20 << 30)
    pid, (alone, beside) = told(program(healthy_rig, HOLDS))
    for check, severity, message, fix in (alone, beside):
        assert (check, severity) == ("bionemo/health::memory_is_free[gpu3]", "warning")
        assert f"by process {pid} (20.0 GiB), the notebook or program that started this run" in message
        assert message.count("started this run") == 1
        assert "restart its kernel" in fix[0]
    assert len(alone[3]) == 1
    assert "nvidia-smi -i 3" in beside[3][1]


# ---- arguments


ARGUMENTS: Mapping[str, tuple[str, str]] = {
    "level": ("'quikc'", "level: 'quikc' is not a level. Choose from: quick, standard, full."),
    "device": ("'tpu'", "device: 'tpu' is not a device. Choose from: cuda, cpu."),
    "require": ("'yes'", "require: 'yes' is not a verdict to require. Choose from: install, ready."),
    "targets": ("'esm2-650'", "target: 'esm2-650' is not a target. Did you mean esm2-650m"),
    "timeout": ("-1", "timeout: '-1' is not a number of seconds above 0"),
    "expect_gpus": ("0", "expect_gpus: '0' is not a number of GPUs from 1 on, such as 8."),
    "report": ("'no/r.json'", "no does not exist. Make it, or choose another report."),
    "deadline": ("0", "deadline: 0 is not a number of seconds above 0, such as 600."),
}


def test_an_argument_that_is_none_is_one_line(rig: Rig) -> None:
    text = "found = {}\n"
    for name, (value, _) in ARGUMENTS.items():
        call = f"validate(**{{'level': 'quick', 'quiet': True, {name!r}: {value}}})"
        text += f"try:\n    {call}\n"
        text += f"except Exception as error:\n    found[{name!r}] = [type(error).__name__, str(error)]\n"
    found = told(program(rig, text + "print(json.dumps(found))"))
    assert list(found) == list(ARGUMENTS)
    for name, (_, said) in ARGUMENTS.items():
        kind, message = found[name]
        assert kind == "ValueError"
        assert said in message
        assert "\n" not in message
        assert "--bionemo" not in message


def test_every_argument_reaches_the_run(rig: Rig) -> None:
    text = (
        "report = validate('quick', 'cpu', ['esm2-8m'], None, 30, 2, 'ready', quiet=True)\n"
        "run = report.document['bionemo']\n"
        "print(json.dumps([report.level, report.device, run['required_targets'], run['require'], report.verdict]))"
    )
    level, device, targets, require, verdict = told(program(rig, text))
    assert (level, device, targets, require) == ("quick", "cpu", ["esm2-8m"], "ready")
    assert verdict in ("BLOCKED", "INCONCLUSIVE")


# ---- a run that does not come to its end

BROKEN_OFF = "the run was broken off (pytest's exit status 2)"
SLOW = """
import os, subprocess, time
from pathlib import Path

def pytest_runtest_setup(item):
    if item.nodeid.startswith("bionemo/driver"):
        child = subprocess.Popen(["sleep", "600"])
        Path("started.part").write_text(f"{os.getpid()} {child.pid}")
        Path("started.part").rename("started")
        time.sleep(600)
"""
WATCH = """
import signal, threading, time
from pathlib import Path

def watch():
    while not Path("started").exists():
        time.sleep(0.02)
    print("HANGS", flush=True)
    run = int(Path("started").read_text().split()[0])
    ACT

threading.Thread(target=watch, daemon=True).start()
try:
    report = validate("quick", report="r.json", DEADLINE)
    said = [report.verdict, [gap.reason for gap in report.not_run]]
except KeyboardInterrupt:
    said = ["interrupted", []]
print(json.dumps(said))
"""


def hanging(rig: Rig, act: str, deadline: float | None = None) -> tuple[Run, int, int]:
    """A run that hangs in a check, with a child of its own, until the program does this to itself or to the run."""
    rig.site.joinpath("standin_slow.py").write_text(SLOW)
    rig.variables["PYTEST_ADDOPTS"] = "-p standin_slow"
    rig.write("r.json", "yesterday's")
    run = program(rig, WATCH.replace("ACT", act).replace("DEADLINE", f"deadline={deadline}"))
    pytest_pid, child_pid = map(int, (rig.project / "started").read_text().split())
    return run, pytest_pid, child_pid


def assert_is_gone(pid: int) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.05)
                continue
        return
    raise AssertionError(f"process {pid} is still there")


@pytest.mark.parametrize(
    ("act", "deadline", "said", "last"),
    [
        ("os.kill(os.getpid(), signal.SIGINT)", None, ["interrupted", []], "KeyboardInterrupt"),
        ("os.kill(run, signal.SIGKILL)", None, ["INCONCLUSIVE", ["the run has not finished"]], "killed by SIGKILL"),
        ("", 12, ["INCONCLUSIVE", [BROKEN_OFF]], "the run is ended: it has not come to its end within 12 s"),
    ],
    ids=["interrupt", "killed", "deadline"],
)
def test_a_run_that_is_ended_leaves_no_process_and_no_proof(
    rig: Rig, act: str, deadline: float | None, said: list[Any], last: str
) -> None:
    run, pytest_pid, child_pid = hanging(rig, act, deadline)
    assert_is_gone(pytest_pid)
    assert_is_gone(child_pid)
    verdict, reasons = told(run)
    assert [verdict, reasons[:1]] == said
    assert Report.load(rig.project / "r.json").verdict == "INCONCLUSIVE"
    # What the run printed was there while it hung.
    before, _, after = run.stdout.partition("HANGS")
    assert "\nbionemo/host " in before
    assert last in after
    assert not [path for path in rig.project.iterdir() if path.name.endswith(".part")]


def test_a_run_ends_with_the_program_that_asked_for_it(rig: Rig) -> None:
    run, pytest_pid, child_pid = hanging(rig, "os.kill(os.getpid(), signal.SIGKILL)")
    assert run.returncode == -9
    assert_is_gone(pytest_pid)
    os.kill(child_pid, 9)  # of a plugin; our own children end with the run
    assert Report.load(rig.project / "r.json").verdict == "INCONCLUSIVE"


def test_a_run_that_leaves_no_report_is_an_error_with_its_last_lines(rig: Rig) -> None:
    (rig.project / "r.json").write_text(json.dumps({"bionemo": {"verdict": "READY"}}))
    rig.variables["PYTEST_ADDOPTS"] = "--no-such-option"
    run = program(rig, "validate('quick', report='r.json', quiet=True)")
    assert run.stdout == ""
    assert "ReportError: the validation left no report (exit status 4). What it said last:" in run.stderr
    assert "unrecognized arguments: --no-such-option" in run.stderr
    assert json.loads((rig.project / "r.json").read_text()) == {"bionemo": {"verdict": "READY"}}


DISTURBED = """
import os, signal, sys, time
from pathlib import Path
act = os.environ["ACT"]
if act == "hangs":
    time.sleep(600)
if act in ("other", "other then killed"):  # another run, into the same file
    Path("r.json").write_bytes(Path("other.json").read_bytes())
if act == "other then killed":
    os.kill(os.getpid(), signal.SIGKILL)

def pytest_unconfigure(config):
    if act == "exit 9":
        os._exit(9)
    if act == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
"""
COLLIDING = """
from pathlib import Path
report, other = Path("r.json"), Path("other.json")
validate("quick", report=other, quiet=True)
os.environ["PYTEST_ADDOPTS"] = "-p standin_disturbed"

def ask(act, options="", **arguments):
    os.environ["ACT"] = act
    os.environ["PYTEST_ADDOPTS"] = "-p standin_disturbed " + options
    report.write_bytes(other.read_bytes())
    try:
        found = validate("quick", report=report, quiet=True, **arguments)
        said = [found.verdict, [gap.reason for gap in found.not_run][:1], str(found.path)]
    except pytest_bionemo.ReportError as error:
        said = [str(error).partition(". ")[0]]
    return [*said, pytest_bionemo.Report.load(report).verdict]

print(json.dumps([
    ask("other", "--no-such-option"), ask("other then killed"), ask("exit 9"), ask("crash"),
    ask("hangs", deadline=0.3), ask("other"),
]))
"""


def test_what_another_run_wrote_and_what_broke_later_is_no_proof(healthy_rig: Rig) -> None:
    healthy_rig.site.joinpath("standin_disturbed.py").write_text(DISTURBED)
    ready, path = "READY_FOR_INSTALL", str(healthy_rig.project / "r.json")
    not_finished = ["INCONCLUSIVE", ["the run has not finished"], path]
    refused, killed, left, crashed, hung, found = told(program(healthy_rig, COLLIDING))
    # The file holds what was written last: of the two that were killed, it is the other's.
    assert refused == ["the validation left no report (exit status 4)", ready]
    assert killed == [*not_finished, ready]
    for said, status in ((left, 9), (crashed, -11)):
        reason = f"the run was broken off (pytest's exit status {status})"
        assert said == ["INCONCLUSIVE", [reason], path, "INCONCLUSIVE"]
    assert hung == [*not_finished, "INCONCLUSIVE"]
    assert found == [ready, [], path, ready]
    saved = json.loads((healthy_rig.project / "r.json").read_text())
    assert_valid(saved)
    assert [entry.name for entry in healthy_rig.project.iterdir() if entry.suffix == ".part"] == []


AWKWARD = """
import io, resource
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit, 4096), limit))
files = [open(os.devnull) for _ in range(1100)]
shown = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
sys.stdout, stdout = shown, sys.stdout
os.environ["PYTHONIOENCODING"] = "latin-1"
report = validate("quick", report="Zürich ≥ 1.json")
shown.flush()
sys.stdout = stdout
lines = shown.buffer.getvalue().decode("latin-1").splitlines()
print(json.dumps([report.verdict, str(report.path), [line for line in lines if line.startswith("report ")]]))
"""


def test_a_program_with_many_files_and_an_encoding_of_its_own_gets_its_report(rig: Rig) -> None:
    rig.variables["PYTHONUTF8"] = "1"  # for the names of files
    verdict, path, lines = told(program(rig, AWKWARD))
    assert (verdict, Path(path).name) == ("BLOCKED", "Zürich ≥ 1.json")
    assert lines == ["report   Zürich ? 1.json"]


def test_a_folder_that_is_not_there_any_more_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ReportError, match=r"^the validation could not be started: the current folder is not there"):
        validate(quiet=True)


def test_an_interpreter_that_cannot_be_started_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "gone"))
    with pytest.raises(ReportError, match=r"the validation could not be started: .*No such file"):
        validate(quiet=True)


# ---- where a file system renames nothing


@pytest.mark.skipif(not can_share(), reason="this user cannot mount FUSE")
def test_a_report_reaches_a_volume(healthy_rig: Rig) -> None:
    healthy_rig.files.shared(VOLUME, "fuse", "as a volume")
    healthy_rig.files.read_only(str(healthy_rig.project), but=healthy_rig.folder / "home")
    text = f"""
found = []
for place in ("{VOLUME}", "{VOLUME}/r.json"):
    report = validate("quick", report=place, quiet=True)
    found.append([str(report.path), report.verdict, pytest_bionemo.Report.load(report.path).verdict])
from pytest_bionemo.__main__ import main
found.append(main(["fleet", "{VOLUME}/r.json", "--json", "{VOLUME}/fleet.json", "--print", "exclude"]))
os.environ["PYTEST_ADDOPTS"] = "--collect-only"
try:
    validate("quick", report="{VOLUME}/r.json", quiet=True)
except pytest_bionemo.ReportError as error:
    found.append(str(error).partition(" (")[0])
try:
    open("here", "w")
except OSError as error:
    found.append(error.strerror)
try:
    os.rename("{VOLUME}/r.json", "{VOLUME}/s.json")
except OSError as error:
    found.append(error.strerror)
print(json.dumps([found, sorted(os.listdir("{VOLUME}"))]))
"""
    found, listed = told(program(healthy_rig, text))
    host = f"{socket.gethostname()}.json"
    assert found == [
        [f"{VOLUME}/{host}", *["READY_FOR_INSTALL"] * 2],
        [f"{VOLUME}/r.json", *["READY_FOR_INSTALL"] * 2],
        0,
        "the validation left no report",
        "Read-only file system",
        "Function not implemented",
    ]
    assert listed == sorted([host, "fleet.json", "r.json"])
