"""What importing a package does, seen from outside: the first cause of an error, and whatever else it does."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_bionemo.probes.child import Answer, Child
from pytest_bionemo.probes.imports import Imported, Imports, Program, explain

Modules = Callable[..., None]


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Modules:
    """Write modules into a folder of ``sys.path``."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)

    def write(**codes: str) -> None:
        for name, code in codes.items():
            folder.joinpath(f"{name}.py").write_text(code)

    return write


@pytest.fixture
def imported() -> Iterator[Callable[..., Imported]]:
    """Import modules in a process of their own."""
    made: list[Imports] = []

    def run(*names: str, trial: str | None = None, timeout: float = 30) -> Imported:
        made.append(Imports({"it": Program(names, trial)}, timeout, os.environ))
        return made[-1].of("it")

    yield run
    for imports in made:
        imports.close()


# ------------------------------------------------------------------------------------------ errors of an import


def test_modules_that_import_leave_nothing_to_say(modules: Modules, imported: Callable[..., Imported]) -> None:
    modules(standin_one="", standin_two="import standin_one")
    assert imported("standin_one", "standin_two") == Imported()


def test_the_first_cause_is_told_and_not_the_last_frame(modules: Modules, imported: Callable[..., Imported]) -> None:
    modules(
        standin_top="import standin_middle",
        standin_middle=(
            "try:\n    import standin_low\n"
            "except ImportError as error:\n    raise RuntimeError('see above') from error\n"
        ),
        standin_low="\n\nimport a_missing_part",
    )
    (failure,) = imported("standin_top").failures
    assert failure.cause == "ModuleNotFoundError: No module named 'a_missing_part'"
    assert failure.place == "standin_low.py, line 3"
    assert failure.missing == "a_missing_part"
    assert failure.reason == (
        "ModuleNotFoundError: No module named 'a_missing_part' (in standin_low.py, line 3), "
        "told as RuntimeError: see above"
    )


def test_an_error_while_another_is_handled_has_that_as_its_cause(
    modules: Modules, imported: Callable[..., Imported]
) -> None:
    modules(standin_top="try:\n    import absent_one\nexcept ImportError:\n    raise ValueError('two\\nlines')\n")
    (failure,) = imported("standin_top").failures
    assert (failure.cause, failure.error) == (
        "ModuleNotFoundError: No module named 'absent_one'",
        "ValueError: two lines",
    )


def test_a_context_that_was_cut_off_is_no_cause(modules: Modules, imported: Callable[..., Imported]) -> None:
    modules(standin_top="try:\n    import absent_one\nexcept ImportError:\n    raise ValueError('outer') from None\n")
    (failure,) = imported("standin_top").failures
    assert failure.cause == failure.error == "ValueError: outer"


def test_causes_in_a_circle_come_to_an_end() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert explain("x", one).cause == "ValueError: two"


def test_each_module_has_its_own_failure_and_the_others_are_tried(
    modules: Modules, imported: Callable[..., Imported]
) -> None:
    modules(standin_one="raise KeyboardInterrupt", standin_two="", standin_three="import sys; sys.exit(3)")
    failures = imported("standin_one", "standin_two", "standin_three").failures
    assert [(failure.module, failure.cause) for failure in failures] == [
        ("standin_one", "KeyboardInterrupt"),
        ("standin_three", "it calls exit(3)"),
    ]


@pytest.mark.parametrize(
    ("code", "end"),
    [
        ("import os; os._exit(0)", "it ends the process with exit status 0"),
        ("import os; os._exit(7)", "exit status 7"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL, while importing standin_bad"),
    ],
)
def test_an_import_that_ends_the_process_is_told(
    modules: Modules, imported: Callable[..., Imported], code: str, end: str
) -> None:
    modules(standin_bad=code)
    found = imported("standin_bad")
    assert found.end == end
    assert not found.is_usable


def test_an_import_that_hangs_is_ended_and_named(modules: Modules, imported: Callable[..., Imported]) -> None:
    modules(standin_bad="import signal; signal.pause()")
    assert imported("standin_bad", timeout=2).end == "no answer within 2 s, while importing standin_bad"


# ------------------------------------------------------------------------------------ what else an import does


@pytest.mark.parametrize(
    "code", ["print('hello')", "import os; os.write(1, b'hello')", "import ctypes; ctypes.CDLL(None).puts(b'hello')"]
)
def test_what_is_written_to_stdout_is_caught_from_whatever_language(
    modules: Modules, imported: Callable[..., Imported], code: str
) -> None:
    modules(standin_loud=code)
    assert imported("standin_loud") == Imported(noise="hello")


def test_what_goes_to_stderr_is_no_noise(modules: Modules, imported: Callable[..., Imported]) -> None:
    modules(standin_loud="import sys; print('hello', file=sys.stderr)")
    assert imported("standin_loud") == Imported()


@pytest.mark.parametrize("then", ["", "if not pid:\n    import time; time.sleep(600)\n"])
def test_a_fork_is_counted_and_its_copy_keeps_nothing_open(
    modules: Modules, imported: Callable[..., Imported], then: str
) -> None:
    modules(standin_fork=f"import os\npid = os.fork()\n{then}")
    assert imported("standin_fork") == Imported(forks=1)


def test_a_program_that_an_import_runs_to_its_end_is_no_fork(
    modules: Modules, imported: Callable[..., Imported]
) -> None:
    modules(standin_run="import subprocess, sys; subprocess.run([sys.executable, '-c', ''])")
    assert imported("standin_run") == Imported()


def test_an_import_that_breaks_arithmetic_is_found(modules: Modules, imported: Callable[..., Imported]) -> None:
    modules(
        standin_breaks=(
            "import torch\n"
            "library = torch.library.Library('aten', 'IMPL')\n"
            "library.impl('mm', lambda a, b: torch.zeros(a.shape[0], b.shape[1]), 'CPU')\n"
        )
    )
    assert imported("standin_breaks").cuda_error == "the sum of a product is 0, expected 262144"


def test_an_import_that_leaves_arithmetic_alone_is_not_blamed(imported: Callable[..., Imported]) -> None:
    assert imported("torch") == Imported()


# --------------------------------------------------------------------------------------------------- a trial


def test_a_trial_gives_its_numbers_and_has_a_folder_that_goes(
    modules: Modules, imported: Callable[..., Imported]
) -> None:
    modules(
        standin_one="",
        standin_trial="def run(folder):\n    open(f'{folder}/x', 'w').close()\n    return {'at': folder}\n",
    )
    found = imported("standin_one", trial="standin_trial:run")
    assert found.trial is not None
    assert not Path(found.trial["at"]).exists()


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("raise OSError('disk')", "OSError: disk (in standin_trial.py, line 2)"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL, while trying what it does"),
        ("import signal; signal.pause()", "no answer within 2 s, while trying what it does"),
    ],
)
def test_a_trial_that_ends_badly_does_not_spoil_what_the_imports_gave(
    modules: Modules, imported: Callable[..., Imported], code: str, error: str
) -> None:
    modules(standin_one="print('hello')", standin_trial=f"def run(folder):\n    {code}\n")
    found = imported("standin_one", trial="standin_trial:run", timeout=2 if "pause" in code else 30)
    assert found.is_usable
    assert found == Imported(noise="hello", trial_error=error)


def test_what_does_not_import_is_not_tried(modules: Modules, imported: Callable[..., Imported]) -> None:
    modules(standin_one="raise OSError", standin_trial="def run(folder): raise SystemExit")
    assert imported("standin_one", trial="standin_trial:run").trial_error is None


# -------------------------------------------------------------------------------------------- several of them


def test_all_of_them_start_with_the_first_question(modules: Modules, tmp_path: Path) -> None:
    started = tmp_path / "started"
    modules(standin_one="", standin_two=f"open({str(started)!r}, 'w').close()")
    imports = Imports({"one": Program(("standin_one",)), "two": Program(("standin_two",))}, 30, os.environ)
    imports.of("one")
    _wait_until(started.exists)
    imports.close()


def test_in_turn_each_starts_when_it_is_asked_for(modules: Modules, tmp_path: Path) -> None:
    started = tmp_path / "started"
    modules(standin_one="", standin_two=f"open({str(started)!r}, 'w').close()")
    programs = {"one": Program(("standin_one",)), "two": Program(("standin_two",))}
    imports = Imports(programs, 30, os.environ, ahead=False)
    assert imports.of("one").is_usable
    assert not started.exists()
    assert imports.of("two").is_usable
    assert started.exists()
    imports.close()


def test_more_than_there_are_cores_are_all_answered(modules: Modules, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    modules(**{f"standin_{number}": f"raise OSError({number})" for number in range(5)})
    imports = Imports({str(number): Program((f"standin_{number}",)) for number in range(5)}, 30, os.environ)
    seen = {number: imports.of(str(number)).failures[0].cause for number in (4, 0, 2, 1, 3)}
    imports.close()
    assert seen == {number: f"OSError: {number}" for number in range(5)}


def test_a_name_without_a_program_is_refused() -> None:
    with pytest.raises(LookupError, match="two is not among what is imported: one"):
        Imports({"one": Program(("json",))}, 30, os.environ).of("two")


def test_closing_ends_what_runs_and_leaves_no_file(
    modules: Modules, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    modules(standin_one="", standin_hangs="import os, signal; open(os.environ['TMPDIR'] + '/x', 'w'); signal.pause()")
    imports = Imports({"one": Program(("standin_one",)), "two": Program(("standin_hangs",))}, 600, os.environ)
    imports.of("one")
    process = imports._running["two"]._process
    imports.close()
    assert process.returncode is not None
    assert [path.name for path in tmp_path.iterdir()] == ["modules"]


# ------------------------------------------------------------------- what a child can do that these rest on


def test_a_child_takes_arguments(modules: Modules) -> None:
    modules(standin_child="def give(**arguments): return arguments\n")
    child = Child("standin_child:give", 30, arguments={"a": [1, None], "b": "ä\n"})
    assert child.answer() == Answer({"a": [1, None], "b": "ä\n"})
    child.close()


@pytest.mark.parametrize(
    ("end", "answer"),
    [
        ("return {'last': 1}", Answer({"last": 1}, None, ({"first": 1}, {"second": 2}))),
        ("raise ValueError('odd')", Answer(None, "exit status 1: ValueError: odd", ({"first": 1}, {"second": 2}))),
        ("signal.pause()", Answer(None, "no answer within 2 s", ({"first": 1}, {"second": 2}))),
    ],
)
def test_what_a_child_said_before_its_end_is_kept(modules: Modules, end: str, answer: Answer) -> None:
    modules(
        standin_child=f"import signal\ndef give():\n    yield {{'first': 1}}\n    yield {{'second': 2}}\n    {end}\n"
    )
    child = Child("standin_child:give", 2 if "pause" in end else 30)
    assert child.answer() == answer
    child.close()


def test_what_a_child_has_started_does_not_hold_up_its_answer_and_ends_with_it(modules: Modules) -> None:
    modules(
        standin_child=(
            "import subprocess, sys\n"
            "def give():\n"
            "    sleeper = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
            "    return {'pid': sleeper.pid}\n"
        )
    )
    child = Child("standin_child:give", 10)
    value = child.answer().value
    child.close()
    assert value is not None, "the pipe that stays open was waited for"
    _wait_until(lambda: not _lives(value["pid"]))


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_pytest_process_has_nothing_of_it(modules: Modules, imported: Callable[..., Imported]) -> None:
    modules(standin_one="")
    imported("standin_one")
    assert "standin_one" not in sys.modules
