"""Live progress, on real terminals: what people see meanwhile, and that it leaves no trace."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from textwrap import dedent
from threading import Thread, Timer

import pytest
from _pytest._io import TerminalWriter

from conftest import REPORT, Rig
from pytest_bionemo.progress import Log, line, wanted
from pytest_bionemo.screen import columns, cut, plain
from pytest_bionemo.terms import Progress as When
from pytest_bionemo.waiting import Wait
from standin.torch_package import StandinTorch
from terminals import Terminal, watch, without_times

# Checks of somebody else that wait for a workload, which waits for a word from the test: it takes as long as the
# test needs to see what it wants to see. No torch has to be imported for that.
FILES = {
    "slow_plugin.py": """
        def pytest_bionemo_checks(config):
            return ["slow_checks"]
        """,
    "slow_checks.py": """
        import pytest
        from pytest_bionemo import check


        @check()
        @pytest.mark.parametrize("number", range(3))
        def are_quick(number):
            "They are quick."


        @check()
        @pytest.mark.parametrize("label", ["cpu0", "cpu1"])
        def sleeps(workers, label):
            "It sleeps."
            print("in the test")
            assert workers.run(label, "slow_work:run")["slept"]


        @check()
        def ends():
            "It ends."
        """,
    "slow_work.py": """
        import os, time
        from pathlib import Path
        from pytest_bionemo.workloads import NAME


        def run():
            print("in the worker", flush=True)
            word = Path(os.environ["SLOW_WORK"], os.environ[NAME])
            while not word.exists():
                time.sleep(0.02)
            return {"slept": True}
        """,
}
# What pytest needs no half a minute to show.
IMPATIENT = "import pytest_bionemo.progress; pytest_bionemo.progress._FIRST_LINE_S = 0.9"
CHECKS = ("-p", "slow_plugin", "--bionemo-device=cpu", "--bionemo-expect-gpus=2", "bionemo/slow_checks")
BOTH = "bionemo/slow_checks::sleeps[cpu0]  slow work on cpu0, cpu1, "
ONE = "  slow work on cpu1 (1 of 2 done), "
# Longer than the patience of those who wait.
A_WHILE_S = 1.2


@pytest.fixture
def slow_rig(rig: Rig) -> Rig:
    """A machine without torch, with checks that take a while."""
    for name, text in FILES.items():
        rig.site.joinpath(name).write_text(dedent(text))
    rig.variables["SLOW_WORK"] = str(rig.folder)
    return rig


def let_go(rig: Rig, *devices: str) -> None:
    """Let the workloads on these devices come to their end."""
    for device in devices:
        rig.folder.joinpath(device).touch()


def hold(rig: Rig) -> None:
    """Let workloads wait again."""
    for device in ("cpu0", "cpu1"):
        rig.folder.joinpath(device).unlink(missing_ok=True)


def started(rig: Rig, *options: str, columns: int = 80, rows: int = 24) -> Terminal:
    """A terminal on which the checks run."""
    terminal = Terminal(columns, rows)
    terminal.start(rig, *CHECKS, *options)
    return terminal


def verdict_in(rig: Rig) -> tuple[str, int | None]:
    report = json.loads((rig.project / REPORT).read_text())
    return report["bionemo"]["verdict"], report["exitcode"]


# ------------------------------------------------------------------------------------------------ on a terminal


@pytest.mark.parametrize(
    ("options", "rows"),
    [((), 24), (("-v", "-s", "--color=no"), 8), (("--capture=sys", "-q"), 24)],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_progress_is_seen_and_leaves_the_terminal_as_it_was(
    slow_rig: Rig, options: tuple[str, ...], rows: int
) -> None:
    let_go(slow_rig, "cpu0", "cpu1")
    without = started(slow_rig, *options, "--bionemo-progress=off", rows=rows).finish()
    hold(slow_rig)
    terminal = started(slow_rig, *options, rows=rows)
    terminal.until(BOTH)
    let_go(slow_rig, "cpu0")
    terminal.until(ONE)
    let_go(slow_rig, "cpu1")
    seen = terminal.finish()
    assert seen.text == without.text
    assert "6 passed" in seen.text[-1]
    assert seen.returncode == without.returncode == 1  # a rehearsal is never READY
    assert without.progress == []
    assert b"\x1b7" not in without.raw
    assert (b"\x1b[2mbionemo/slow" in seen.raw) == ("--color=no" not in options)


@pytest.mark.parametrize(
    ("options", "variables"),
    [
        (("-n", "2"), {}),
        (("-q", "-q"), {}),
        ((), {"TERM": "dumb"}),
    ],
    ids=str,
)
def test_there_are_terminals_where_nothing_is_shown(
    slow_rig: Rig, options: tuple[str, ...], variables: dict[str, str]
) -> None:
    slow_rig.variables |= variables
    terminal = started(slow_rig, *options)
    Timer(A_WHILE_S + 1, let_go, (slow_rig, "cpu0", "cpu1")).start()
    seen = terminal.finish()
    assert "6 passed" in "".join(seen.lines) or options == ("-q", "-q")
    assert verdict_in(slow_rig) == ("INCONCLUSIVE", 1)
    assert seen.progress == []
    assert b"\x1b7" not in seen.raw
    assert b"\x1b[J" not in seen.raw


def test_a_narrow_terminal_that_changes_its_size_shows_the_times(slow_rig: Rig) -> None:
    terminal = started(slow_rig, columns=40)
    terminal.until("s of 120 s")
    (shown,) = [one for one in terminal.screen.display if "s of 120 s" in one]
    assert shown.startswith("slow work on cpu0, cpu1, ")
    terminal.resize(100)
    let_go(slow_rig, "cpu0")
    terminal.until(ONE)
    let_go(slow_rig, "cpu1")
    seen = terminal.finish()
    assert "bionemo/slow_checks ......" in "\n".join(seen.lines)
    assert "s of 120 s" not in "\n".join(seen.lines)


def test_probes_that_take_long_are_shown_before_there_is_a_test(rig: Rig) -> None:
    rig.torch = StandinTorch(import_hangs=True)
    seen = watch(rig, "--bionemo-device=cpu", "--bionemo-timeout=4", "bionemo/torch")
    assert any("importing torch, " in one for one in seen.progress), seen.progress
    assert "s of 4 s" not in "\n".join(seen.lines)
    assert any("BLOCKED  bionemo/torch::imports" in one for one in seen.lines)


def test_a_workload_that_is_rehearsed_is_shown_on_all_its_devices(torch_rig: Rig) -> None:
    torch_rig.spoil_workers("import time; time.sleep(1.2)", "cpu1")
    seen = watch(torch_rig, "--bionemo-device=cpu", "--bionemo-expect-gpus=2", "bionemo/torch::computes")
    told = [one for one in seen.progress if one.startswith("bionemo/torch::computes[cpu")]
    assert any("smoke on cpu0, cpu1, " in one or "smoke on cpu1 (1 of 2 done), " in one for one in told), told
    assert "2 passed" in seen.lines[-1]


def test_an_interrupt_leaves_a_clean_line(slow_rig: Rig) -> None:
    terminal = started(slow_rig)
    terminal.until(BOTH)
    os.write(terminal.own, b"\x03")
    seen = terminal.finish()
    assert seen.returncode == 2
    assert verdict_in(slow_rig) == ("INCONCLUSIVE", 2)
    assert BOTH not in "\n".join(seen.lines)
    assert any("KeyboardInterrupt" in one for one in seen.lines)
    (dots,) = [one for one in seen.lines if one.startswith("bionemo/slow_checks ")]
    assert dots.removesuffix("^C") == "bionemo/slow_checks ..."


def test_typing_and_a_terminal_that_is_stopped_disturb_nothing(slow_rig: Rig) -> None:
    terminal = started(slow_rig, "-v")
    terminal.until(BOTH)
    os.write(terminal.own, b"typed\n\x13")  # ^S
    let_go(slow_rig, "cpu0")
    time.sleep(A_WHILE_S)
    os.write(terminal.own, b"\x11")  # ^Q
    terminal.until(ONE)
    let_go(slow_rig, "cpu1")
    seen = terminal.finish()
    assert "6 passed" in seen.lines[-1]
    assert "s of 120 s" not in "\n".join(seen.lines)
    assert sum("PASSED" in one for one in seen.lines) == 6


# ------------------------------------------------------------------------------------- a terminal that goes away


@pytest.mark.parametrize("is_controlling", [True, False], ids=["hangup", "input/output error"])
def test_a_terminal_that_goes_away_costs_nothing_of_the_report(slow_rig: Rig, is_controlling: bool) -> None:
    terminal = Terminal()
    child = terminal.start(slow_rig, *CHECKS, "-v", is_controlling=is_controlling)
    terminal.until(BOTH)
    terminal.hang_up()
    expect_all_of_the_report(slow_rig, child)


def test_a_shell_that_passes_the_hangup_on_ends_neither_the_run_nor_its_processes(slow_rig: Rig) -> None:
    terminal = Terminal()
    child = terminal.start(slow_rig, *CHECKS, "-v", "-n", "2")
    terminal.until("are_quick[1]")
    # By a terminal that has not closed yet, by the shell to the whole job, and by the kernel as the shell ends.
    os.killpg(child.pid, signal.SIGHUP)
    time.sleep(0.2)
    terminal.hang_up()
    for _ in range(2):
        time.sleep(0.2)
        os.killpg(child.pid, signal.SIGHUP)
    expect_all_of_the_report(slow_rig, child)


def expect_all_of_the_report(rig: Rig, child: subprocess.Popen[bytes]) -> None:
    """Let the workloads go, and see that nothing is missing."""
    let_go(rig, "cpu0", "cpu1")
    assert child.wait(60) == 1
    assert verdict_in(rig) == ("INCONCLUSIVE", 1)
    tests = json.loads((rig.project / REPORT).read_text())["tests"]
    assert [test["outcome"] for test in tests] == ["passed"] * 6


def test_a_hangup_sent_by_hand_ends_the_run(slow_rig: Rig) -> None:
    terminal = Terminal()
    child = terminal.start(slow_rig, *CHECKS)
    terminal.until(BOTH)
    child.send_signal(signal.SIGHUP)
    seen = terminal.finish()
    assert seen.returncode == -signal.SIGHUP
    assert verdict_in(slow_rig) == ("INCONCLUSIVE", None)


def test_a_run_in_the_background_writes_nothing_into_what_is_typed(slow_rig: Rig) -> None:
    terminal = Terminal()
    terminal.start(slow_rig, *CHECKS, is_foreground=False)
    terminal.until("bionemo/slow_checks ...")
    time.sleep(A_WHILE_S)
    let_go(slow_rig, "cpu0", "cpu1")
    seen = terminal.finish()
    assert "6 passed" in seen.lines[-1]
    assert seen.progress == []


# ------------------------------------------------------------------------------------------------------ in a log


def lines_of_a_log(rig: Rig, *, is_merged: bool, until: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those of both streams, which may be one file. One device is let go at the appearance of each text."""
    hold(rig)
    streams = rig.folder / "out", rig.folder / ("out" if is_merged else "err")
    command = [str(rig.environment.python), "-m", "pytest", "-p", "no:cacheprovider", "--bionemo-validate", *CHECKS]
    environ = {"PATH": os.defpath, "HOME": str(rig.folder), **rig.environ()}
    with streams[0].open("wb") as out, streams[1].open("ab") as err:
        run = subprocess.Popen(command, cwd=rig.project, env=environ, stdout=out, stderr=out if is_merged else err)
        for device, text in zip(("cpu0", "cpu1"), until, strict=True):
            while text not in streams[1].read_text() and run.poll() is None:
                time.sleep(0.02)
            let_go(rig, device)
        run.wait(60)
    return streams[0].read_text().splitlines(), streams[1].read_text().splitlines()


def test_a_log_gets_few_lines_and_all_of_pytests_as_a_whole(slow_rig: Rig) -> None:
    own, said = lines_of_a_log(slow_rig, is_merged=False, until=("", ""))
    assert said == []  # half a minute has not passed
    with slow_rig.site.joinpath("slow_plugin.py").open("a") as plugin:
        plugin.write(IMPATIENT)
    out, said = lines_of_a_log(slow_rig, is_merged=False, until=(BOTH, ONE))
    assert without_times(out) == without_times(own)
    assert [one.partition(", ")[0] for one in said][:1] == ["bionemo/slow_checks::sleeps[cpu0]  slow work on cpu0"]
    assert ONE in said[-1]
    merged, _ = lines_of_a_log(slow_rig, is_merged=True, until=(BOTH, ONE))
    assert [one for one in without_times(own) if one not in without_times(merged)] == []
    told = [position for position, text in enumerate(merged) if " s of 120 s" in text]
    assert merged[told[0] - 1] == "bionemo/slow_checks ..."
    assert merged[told[0] + 1].startswith("bionemo/slow_checks ...")
    # Each line of ours comes with the beginning of the one that it stands in.
    assert len(merged) == len(own) + 2 * len(told)


def test_lines_come_at_doubling_intervals(tmp_path: Path) -> None:
    now = 0.0
    writer = TerminalWriter(io.StringIO())
    writer.write("bionemo/a ..")
    with tmp_path.joinpath("log").open("w+") as file:
        log = Log(writer, file.fileno(), True, lambda: now)
        # On one device after the other, the same workload; then another one.
        for check, since, seconds in (("a[gpu0]", 0, 100), ("a[gpu1]", 0, 300), ("b", 300, 29), ("c", 330, 31)):
            while now < since + seconds:
                log.show(check, Wait("gemm", since, 600.0, ("gpu0",), 1))
                now += 1
            log.clear()
        log.close()
        log.show("d", Wait("gemm", 0, 600.0))  # the run is over
        file.seek(0)
        said = [text.rstrip("\n") for text in file]
    assert [text for text in said if text != "bionemo/a .."] == [
        "",
        "a[gpu0]  gemm on gpu0, 30 s of 600 s",
        "a[gpu0]  gemm on gpu0, 60 s of 600 s",
        "a[gpu1]  gemm on gpu0, 120 s of 600 s",
        "a[gpu1]  gemm on gpu0, 240 s of 600 s",
        "c  gemm on gpu0, 30 s of 600 s",
    ]


def test_a_pipe_that_nobody_empties_holds_nobody_up() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    log = Log(TerminalWriter(io.StringIO()), writing, False, lambda: 100.0)
    waits = Thread(target=log.show, args=("a", Wait("gemm", 0, 600.0)), daemon=True)
    waits.start()
    waits.join(5)
    is_held_up = waits.is_alive()
    os.close(reading)  # whoever is held up gets an error
    assert not is_held_up
    log.close()
    os.close(writing)


# ------------------------------------------------------------------------------------------------------- one line


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (None, "bionemo/benchmark::multiplies[gpu0-bf16]  gemm on gpu0, gpu1, 12 s of 300 s"),
        (79, "bionemo/benchmark::multiplies[gpu0-bf16]  gemm on gpu0, gpu1, 12 s of 300 s"),
        (60, "bionemo/ben...[gpu0-bf16]  gemm on gpu0, gpu1, 12 s of 300 s"),
        (47, "gemm on gpu0, gpu1, 12 s of 300 s"),
        (39, "gemm on gpu0, gpu1, 12 s of 300 s"),
        (29, "gemm o... gpu1, 12 s of 300 s"),
        (10, ", 12...0 s"),
        (0, ""),
    ],
)
def test_a_line_fits_and_keeps_what_matters_most(width: int | None, expected: str) -> None:
    wait = Wait("gemm", 100.0, 300.0, ("gpu0", "gpu1"), 2)
    assert line("bionemo/benchmark::multiplies[gpu0-bf16]", wait, 112.4, width) == expected


def test_many_devices_are_counted_and_those_that_are_done_too() -> None:
    names = tuple(f"gpu{index}" for index in range(8))
    assert line("", Wait("gemm", 0, 60, names, 8), 3) == "gemm on gpu0, gpu1, gpu2 and 5 more, 3 s of 60 s"
    assert line("", Wait("gemm", 0, 60, names[6:], 8), 3) == "gemm on gpu6, gpu7 (6 of 8 done), 3 s of 60 s"
    assert line("a::b", Wait("asking the driver", 0, 0.5), 0.6) == "a::b  asking the driver, 1 s of 0.5 s"


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("bionemo", 7, "bionemo"),
        ("bionemo", 6, "bi...o"),
        ("蛋白质语言模型", 14, "蛋白质语言模型"),
        ("蛋白质语言模型", 10, "蛋白...型"),
        ("e\u0301" * 9, 7, "e\u0301" * 2 + "..." + "e\u0301" * 2),
        ("bionemo", 2, ".."),
        ("bionemo", -1, ""),
    ],
)
def test_what_is_cut_fits(text: str, width: int, expected: str) -> None:
    assert cut(text, width) == expected
    assert columns(expected) <= max(0, width)


def test_nothing_in_an_id_moves_the_cursor() -> None:
    hostile = "a\x1b[2J\r\n\t\u202e\u2028\x9b\x07é 蛋\udcff"
    assert plain(hostile) == "a?[2J???????é 蛋?"
    told = line(hostile, Wait(hostile, 0, 9, (hostile,), 1), 1, 500)
    assert told.isprintable()


@pytest.mark.parametrize(
    ("when", "is_terminal", "is_quiet", "variables", "expected"),
    [
        ("auto", True, False, {"TERM": "xterm"}, "live"),
        ("auto", True, False, {"TERM": "xterm", "CI": "false"}, "live"),
        ("auto", True, False, {"TERM": "xterm", "CI": "1"}, "log"),
        ("auto", True, False, {"TERM": "dumb"}, "log"),
        ("auto", True, False, {}, "log"),
        ("on", True, False, {"TERM": "unknown"}, "log"),
        ("on", True, False, {"TERM": "xterm-color", "JPY_PARENT_PID": "1"}, "log"),
        ("auto", False, False, {"TERM": "xterm"}, "log"),
        ("auto", True, True, {"TERM": "xterm"}, ""),
        ("auto", False, True, {"TERM": "xterm"}, ""),
        ("on", True, True, {"TERM": "xterm", "CI": "1"}, "live"),
        ("on", True, False, {"TERM": "dumb"}, "log"),
        ("on", False, True, {"TERM": "xterm"}, "log"),
        ("off", True, False, {"TERM": "xterm"}, ""),
    ],
)
def test_where_progress_is_wanted(
    when: When, is_terminal: bool, is_quiet: bool, variables: dict[str, str], expected: str
) -> None:
    assert wanted(when, is_terminal, is_quiet, variables) == expected
