"""Whatever a project does to its own tests, the same checks run and say the same as in an empty folder."""

from __future__ import annotations

import ast
import inspect
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import dedent

import pytest

from conftest import REPORT, Rig, Run, ids_of
from pytest_bionemo import checks, needs
from pytest_bionemo.checking import spec_of
from pytest_bionemo.suite import import_checks, topic_of
from standin import EMPTY, H100x8, Libraries, Node
from standin.environment import Environment
from standin.torch_package import StandinTorch

OUR_FIXTURES = {
    "gpu_env", "lightning_trainer", "lightning_trainer_args", "bionemo_pkg", "run_in_worker", "freest_gpu",
    "memory_ceiling", "measure",
}  # fmt: skip
BAD_GPU = H100x8.with_gpu_fault(3, "nvmlDeviceGetHandleByIndex_v2", 15)
OFFER_OURS = "def pytest_bionemo_checks(config):\n    return ['ours']\n"


@dataclass(frozen=True)
class Answer:
    """What a validation says, without what differs from run to run."""

    verdict: str
    status: int
    outcomes: dict[str, str]
    sections: dict[str, str]


def answer(run: Run) -> Answer:
    ids = [nodeid.removeprefix("bionemo/") for nodeid in ids_of(run.bionemo["checks"])]
    outcomes = {nodeid: run.outcome(nodeid) for nodeid in ids}
    return Answer(run.verdict, run.returncode, outcomes, run.bionemo["sections"])


def checks_run(run: Run) -> list[str]:
    """The ids of the checks that ended in any way at all."""
    return [test["nodeid"].removeprefix("bionemo/") for test in run.report["tests"] if is_check(test["nodeid"])]


def is_check(nodeid: str) -> bool:
    return re.match(r"bionemo/\w+::", nodeid) is not None


def in_an_empty_folder(environment: Environment, libraries: Libraries, folder: Path, node: Node) -> Answer:
    rig = Rig(environment, libraries, folder)
    rig.node, rig.torch = node, StandinTorch()
    return answer(rig.validate())


@pytest.fixture(scope="module")
def expected(
    plain_environment: Environment, libraries: Libraries, tmp_path_factory: pytest.TempPathFactory
) -> Answer:
    """What the healthy machine says in an empty folder."""
    found = in_an_empty_folder(plain_environment, libraries, tmp_path_factory.mktemp("empty"), H100x8)
    assert (found.verdict, found.status) == ("READY_FOR_INSTALL", 0)
    assert found.outcomes["driver::answers[gpu7]"] == "passed"
    return found


@pytest.fixture(scope="module")
def expected_of_bad_gpu(
    plain_environment: Environment, libraries: Libraries, tmp_path_factory: pytest.TempPathFactory
) -> Answer:
    """What the machine with one bad GPU says in an empty folder."""
    found = in_an_empty_folder(plain_environment, libraries, tmp_path_factory.mktemp("bad"), BAD_GPU)
    assert (found.verdict, found.status) == ("BLOCKED", 1)
    return found


# --------------------------------------------------------------------------------------- settings and options

INI_FILES = {
    "other functions": "python_functions = check_* is_*",
    "every function": "python_functions = *",
    "other files": "python_files = spec_*.py",
    "every file": "python_files = *",
    "other classes": "python_classes = *",
    "doctests": "addopts = --doctest-modules --doctest-glob=*",
    "strict markers": "addopts = --strict-markers",
    "strict config": "addopts = --strict-config --strict-markers",
    "warnings are errors": "filterwarnings = error",
    "warnings are errors on the command line": "addopts = -W error",
    "strict xfail": "xfail_strict = true",
    "empty parameters fail": "empty_parameter_set_mark = fail_at_collect",
    "importlib": "addopts = --import-mode=importlib",
    "append": "addopts = --import-mode=append",
    "no cache": "addopts = -p no:cacheprovider",
    "no warnings plugin": "addopts = -p no:warnings",
    "no rewriting": "addopts = --assert=plain",
    "no capture": "addopts = -s",
    "no traceback": "addopts = --tb=no --no-header --no-summary -q",
    "test paths": "testpaths = tests",
    "everything ignored": "addopts = --ignore=bionemo --ignore-glob=*",
    "unescaped ids": "disable_test_id_escaping_and_forfeit_all_rights_to_community_support = true",
    "classic console": "console_output_style = classic",
    "junit": "addopts = --junitxml=junit.xml\njunit_family = xunit1",
}


@pytest.mark.parametrize("ini", INI_FILES.values(), ids=INI_FILES)
def test_settings_of_a_project_change_nothing(healthy_rig: Rig, expected: Answer, ini: str) -> None:
    healthy_rig.write("pytest.ini", f"[pytest]\n{ini}\n")
    healthy_rig.write("tests/test_theirs.py", "def test_theirs():\n    assert False\n")
    assert answer(healthy_rig.validate()) == expected


@pytest.mark.skipif(pytest.version_tuple < (9,), reason="strict = true is of pytest 9")
def test_strict_table_of_pytest_nine_changes_nothing(healthy_rig: Rig, expected: Answer) -> None:
    healthy_rig.write("pyproject.toml", "[tool.pytest]\nstrict = true\nfilterwarnings = ['error']\n")
    assert answer(healthy_rig.validate()) == expected


ARGUMENTS = [
    ["-n", "2"],
    ["-n", "2", "--dist", "loadfile"],
    ["-n", "2", "--dist", "loadgroup"],
    ["-n", "2", "--dist", "loadscope"],
    ["-n", "2", "--dist", "worksteal"],
    ["--lf"],
    ["--ff"],
    ["--nf"],
    ["--sw"],
    ["-x"],
    ["--maxfail=1"],
    ["-k", "bionemo"],
    ["-m", "bionemo"],
    ["--deselect", "tests/test_theirs.py"],
    ["--noconftest"],
    ["-vv"],
    ["-q", "-q"],
    ["-rA", "--durations=3"],
]


@pytest.mark.parametrize("args", ARGUMENTS, ids=" ".join)
def test_options_of_pytest_change_nothing(healthy_rig: Rig, expected: Answer, args: list[str]) -> None:
    assert answer(healthy_rig.validate(*args)) == expected


def test_empty_parameter_sets_fail_and_no_gpu_is_there(
    healthy_rig: Rig, plain_environment: Environment, libraries: Libraries, tmp_path: Path
) -> None:
    healthy_rig.node = EMPTY
    healthy_rig.write("pytest.ini", "[pytest]\nempty_parameter_set_mark = fail_at_collect\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    found = answer(healthy_rig.validate())
    assert found == in_an_empty_folder(plain_environment, libraries, elsewhere, EMPTY)
    assert found.outcomes["driver::answers[no-gpu]"] == "not_run"
    failed = [nodeid for nodeid, outcome in found.outcomes.items() if outcome == "failed"]
    assert failed == ["driver::devices_present"]


@pytest.mark.parametrize("filters", ["pytest.ini", "command line"])
def test_warnings_of_a_third_party_are_no_errors(healthy_rig: Rig, filters: str) -> None:
    healthy_rig.write("conftest.py", OFFER_OURS)
    (healthy_rig.site / "ours.py").write_text(
        dedent("""
            import warnings

            from pytest_bionemo import check

            warnings.warn("at import", DeprecationWarning)


            @check()
            def warns():
                "It warns."
                warnings.warn("in a check", DeprecationWarning)
                assert not hasattr(warns, "__no_such_name__")
            """)
    )
    if filters == "pytest.ini":
        healthy_rig.write("pytest.ini", "[pytest]\nfilterwarnings = error\n")
    run = healthy_rig.validate(*(["-W", "error"] if filters == "command line" else []))
    assert (run.verdict, run.outcome("ours::warns")) == ("READY_FOR_INSTALL", "passed")


def test_assertion_of_a_third_party_is_explained(healthy_rig: Rig) -> None:
    healthy_rig.write("conftest.py", OFFER_OURS)
    healthy_rig.write("pytest.ini", "[pytest]\npython_functions = nothing\naddopts = --doctest-modules\n")
    (healthy_rig.site / "ours.py").write_text(
        "from pytest_bionemo import check\n\n\n"
        "@check()\ndef adds_up():\n    'It adds up.'\n    disks = 2\n    assert disks == 3\n"
    )
    run = healthy_rig.validate()
    assert run.verdict == "BLOCKED"
    assert "2 == 3" in run.finding("ours::adds_up")["message"]


# ------------------------------------------------------------------------------------------- after a failure

FAILING_TESTS = "def test_good():\n    pass\n\n\ndef test_bad():\n    assert False\n"

PATHS = ["test_here.py", "tests", ".", "tests/test_there.py", "{project}/tests"]


@pytest.mark.parametrize("path", PATHS)
def test_last_failed_reruns_checks_and_tests(healthy_rig: Rig, expected_of_bad_gpu: Answer, path: str) -> None:
    healthy_rig.node = BAD_GPU
    healthy_rig.write("test_here.py", FAILING_TESTS)
    healthy_rig.write("tests/test_there.py", FAILING_TESTS)
    arguments = [path.format(project=healthy_rig.project)]
    first = healthy_rig.validate(*arguments)
    assert answer(first) == expected_of_bad_gpu
    run = healthy_rig.validate("--lf", *arguments)
    failed = [test["nodeid"] for test in first.report["tests"] if test["outcome"] == "failed"]
    assert [test["nodeid"] for test in run.report["tests"]] == failed
    assert failed[0] == "bionemo/driver::answers[gpu3]"
    assert failed[-1].endswith(".py::test_bad")
    assert run.verdict == "BLOCKED"


def test_last_failed_with_the_id_of_a_test_is_no_proof(healthy_rig: Rig) -> None:
    # pytest collects the file of that id first, and then skips the files without failures, the topics among them.
    healthy_rig.node = BAD_GPU
    healthy_rig.write("test_here.py", FAILING_TESTS)
    arguments = ["test_here.py::test_bad"]
    assert healthy_rig.validate(*arguments).verdict == "BLOCKED"
    run = healthy_rig.validate("--lf", *arguments)
    assert (run.verdict, run.returncode) in (("INCONCLUSIVE", 1), ("BLOCKED", 1))
    assert list(run.bionemo["sections"]) == [topic_of(module) for module in checks.shipped()]


@pytest.mark.parametrize("option", ["--ff", "--nf"])
def test_failed_first_runs_everything_still(healthy_rig: Rig, expected_of_bad_gpu: Answer, option: str) -> None:
    healthy_rig.node = BAD_GPU
    healthy_rig.write("test_here.py", FAILING_TESTS)
    healthy_rig.validate("test_here.py")
    run = healthy_rig.validate(option, "test_here.py")
    assert answer(run) == expected_of_bad_gpu
    assert len(run.report["tests"]) == len(run.bionemo["checks"]) + 2


def test_stepwise_goes_on_from_the_failed_check(healthy_rig: Rig) -> None:
    healthy_rig.node = BAD_GPU
    healthy_rig.write("test_here.py", FAILING_TESTS)
    first = healthy_rig.validate("--sw", "test_here.py")
    assert (first.verdict, first.blockers) == ("BLOCKED", ["driver::answers[gpu3]"])
    assert checks_run(first)[-1] == "driver::answers[gpu3]"
    run = healthy_rig.validate("--sw", "test_here.py")
    assert checks_run(run) == ["driver::answers[gpu3]"]
    assert run.verdict == "BLOCKED"


@pytest.mark.parametrize("option", ["-x", "--maxfail=1"])
def test_stop_at_the_first_failing_check(healthy_rig: Rig, option: str) -> None:
    healthy_rig.node = BAD_GPU
    healthy_rig.write("test_here.py", FAILING_TESTS)
    run = healthy_rig.validate(option, "test_here.py")
    assert (run.verdict, run.returncode, checks_run(run)[-1]) == ("BLOCKED", 1, "driver::answers[gpu3]")
    assert not [test for test in run.report["tests"] if "test_here" in test["nodeid"]]


# ----------------------------------------------------------------------------------------------- selecting


def test_deselected_check_alone_is_left_out(healthy_rig: Rig, expected: Answer) -> None:
    run = healthy_rig.validate("--deselect", "bionemo/driver::answers[gpu1]")
    assert set(expected.outcomes) - set(checks_run(run)) == {"driver::answers[gpu1]"}
    assert run.verdict == "INCONCLUSIVE"


@pytest.mark.parametrize("args", [["-k", "driver"], ["-k", "driver", "-n", "2"]], ids=" ".join)
def test_keyword_selects_the_checks_of_a_topic(healthy_rig: Rig, expected: Answer, args: list[str]) -> None:
    run = healthy_rig.validate(*args)
    wanted = [nodeid for nodeid in expected.outcomes if "driver" in nodeid]
    assert sorted(checks_run(run)) == sorted(wanted)
    assert run.verdict == "INCONCLUSIVE"


@pytest.mark.skipif(pytest.version_tuple < (8, 3), reason="-m with arguments of marks is of pytest 8.3")
@pytest.mark.parametrize(
    ("expression", "topic"),
    [("bionemo(topic='driver')", "driver::"), ("bionemo(topic='torch', severity='blocker')", "torch::")],
)
def test_mark_selects_by_topic_and_severity(healthy_rig: Rig, expected: Answer, expression: str, topic: str) -> None:
    healthy_rig.write("pytest.ini", "[pytest]\naddopts = --strict-markers\n")
    run = healthy_rig.validate("-m", expression)
    ran = checks_run(run)
    assert ran == [nodeid for nodeid in expected.outcomes if nodeid.startswith(topic) and nodeid in ran]
    assert ("torch::toolkit_builds_extensions" in ran, f"{topic}covers[gpu7]" in ran) == (False, topic == "torch::")


def test_mark_leaves_the_tests_of_the_project_out(healthy_rig: Rig, expected: Answer) -> None:
    healthy_rig.write("test_here.py", FAILING_TESTS)
    run = healthy_rig.validate("-m", "bionemo", "test_here.py")
    assert answer(run) == expected


def test_collection_alone_lists_every_check(healthy_rig: Rig, expected: Answer) -> None:
    healthy_rig.write("test_here.py", FAILING_TESTS)
    run = healthy_rig.validate("--co", "-q", "test_here.py")
    listed = [line.removeprefix("bionemo/") for line in run.stdout.splitlines() if is_check(line)]
    assert listed == list(expected.outcomes)
    assert "test_here.py::test_bad" in run.stdout
    assert run.returncode == 0
    assert not run.report_path.exists()


# --------------------------------------------------------------------------------------- a folder that is closed


@pytest.fixture
def closed_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in which this user cannot make a file."""
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0o555)
    if os.geteuid() == 0:
        folder = Path("/sys/kernel")  # nothing is closed to root but what holds no files at all
    try:
        (folder / "probe").touch()
    except OSError:
        yield folder
    else:
        pytest.skip("this user can write everywhere")
    (tmp_path / "closed").chmod(0o755)


def test_report_elsewhere_lets_it_run_in_a_closed_folder(
    healthy_rig: Rig, expected: Answer, closed_folder: Path, tmp_path: Path
) -> None:
    report = tmp_path / "mine.json"
    run = healthy_rig.validate("--bionemo-report", str(report), cwd=closed_folder)
    assert answer(replace(run, report_path=report)) == expected


def test_closed_folder_is_one_line_of_usage_error(healthy_rig: Rig, closed_folder: Path) -> None:
    run = healthy_rig.validate(cwd=closed_folder)
    assert run.returncode == 4
    [line] = filter(str.strip, run.stderr.splitlines())
    assert line.startswith(f"ERROR: cannot write the report to {closed_folder / REPORT}: ")
    assert "--bionemo-report" in line
    assert "bionemo/" not in run.stdout


# ---------------------------------------------------------------------------------------------- conftest files


def names_that_checks_use() -> list[str]:
    """Every fixture for the checks, and every argument of every shipped check."""
    fixtures = {
        node.name
        for module in needs.MODULES
        for node in ast.parse(inspect.getsource(module)).body
        if isinstance(node, ast.FunctionDef) and any("fixture" in ast.dump(mark) for mark in node.decorator_list)
    }
    functions = [value for name in checks.shipped() for value in vars(import_checks(name)).values()]
    arguments = {
        argument
        for function in functions
        if (spec := spec_of(function)) is not None
        for argument in [*inspect.signature(function).parameters, *spec.needs]
    }
    assert {"gpu_env", "torch_build", "usable_torch", "bionemo_options"} <= fixtures
    assert {"gpu", "any_gpu", "own_libcuda", "name"} <= arguments
    return sorted((fixtures | arguments) - {"request"})  # which pytest keeps for itself


@pytest.mark.parametrize("args", [[], ["-n", "2"]], ids=["alone", "two workers"])
def test_conftest_shadows_no_fixture_of_the_checks(healthy_rig: Rig, expected: Answer, args: list[str]) -> None:
    fixture = "@pytest.fixture\ndef {}():\n    raise RuntimeError('shadowed')\n\n\n"
    healthy_rig.write("conftest.py", "import pytest\n\n\n" + "".join(map(fixture.format, names_that_checks_use())))
    healthy_rig.write("test_shadows.py", "def test_shadows(torch_build):\n    pass\n")
    run = healthy_rig.validate(*args, "test_shadows.py")
    assert answer(run) == replace(expected, status=1)
    assert "RuntimeError: shadowed" in run.stdout


def test_autouse_fixture_that_raises_leaves_every_check_open(healthy_rig: Rig, expected: Answer) -> None:
    healthy_rig.write(
        "conftest.py",
        "import pytest\n\n\n@pytest.fixture(autouse=True)\ndef database():\n    raise RuntimeError('no database')\n",
    )
    run = healthy_rig.validate()
    assert (run.verdict, run.returncode) == ("INCONCLUSIVE", 1)
    # What a probe has seen not to apply here does not ask for the fixture.
    left = {check for check, outcome in expected.outcomes.items() if outcome != "not_applicable"}
    assert left <= {gap["check"].removeprefix("bionemo/") for gap in run.bionemo["not_run"]}
    assert {test["outcome"] for test in run.report["tests"]} <= {"error", "skipped"}
    assert "no database" in run.gap("driver::loads")["reason"]
    assert answer(healthy_rig.validate("--noconftest")) == expected


HOOKS_OF_ONE_ITEM = [
    "pytest_runtest_setup(item)",
    "pytest_runtest_call(item)",
    "pytest_runtest_teardown(item)",
    "pytest_runtest_makereport(item)",
    "pytest_runtest_logstart(nodeid)",
    "pytest_runtest_logreport(report)",
    "pytest_pyfunc_call(pyfuncitem)",
    "pytest_generate_tests(metafunc)",
    "pytest_pycollect_makeitem(name)",
    "pytest_itemcollected(item)",
]


def test_hooks_of_a_conftest_for_items_are_not_called(healthy_rig: Rig, expected: Answer) -> None:
    hook = "def {}:\n    raise RuntimeError('called')\n\n\n"
    healthy_rig.write("conftest.py", "".join(map(hook.format, HOOKS_OF_ONE_ITEM)))
    assert answer(healthy_rig.validate()) == expected


HOOKS_OF_A_SESSION = {
    "reads every attribute of items": """
        def pytest_collection_modifyitems(config, items):
            for item in items:
                assert item.path and item.fspath and item.location and item.keywords and item.listchain()
                assert item.module.__name__ and item.function.__name__ and item.originalname and item.reportinfo()
                assert item.cls is None and item.get_closest_marker("slow") is None and item.fixturenames is not None
                item.add_marker("slow")
        """,
    "reverses the items": """
        def pytest_collection_modifyitems(items):
            items.reverse()
        """,
    "runs items itself": """
        def pytest_runtest_protocol(item, nextitem):
            from _pytest.runner import runtestprotocol

            item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
            runtestprotocol(item, nextitem=nextitem)
            item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
            return True
        """,
    "names parameters": """
        def pytest_make_parametrize_id(config, val, argname):
            return "theirs"
        """,
    "ignores every path": """
        collect_ignore_glob = ["*"]


        def pytest_ignore_collect(collection_path):
            return True
        """,
    "collects every path": """
        import pytest


        def pytest_collect_file(file_path, parent):
            raise RuntimeError(str(file_path))
        """,
}


@pytest.mark.parametrize("conftest", HOOKS_OF_A_SESSION.values(), ids=HOOKS_OF_A_SESSION)
def test_hooks_of_a_conftest_for_the_session_do_no_harm(healthy_rig: Rig, expected: Answer, conftest: str) -> None:
    healthy_rig.write("conftest.py", dedent(conftest))
    found = answer(healthy_rig.validate())
    assert found == expected


def test_broken_conftest_ends_before_anything_runs(healthy_rig: Rig) -> None:
    healthy_rig.write("conftest.py", "import no_such_package\n")
    run = healthy_rig.validate()
    assert run.returncode == 4
    assert not run.report_path.exists()


# ------------------------------------------------------------------------------------------- files of the project


def test_modules_of_the_project_are_not_imported_when_alone(healthy_rig: Rig, expected: Answer) -> None:
    healthy_rig.write("pytest.ini", "[pytest]\ntestpaths = tests\n")
    healthy_rig.write("tests/test_broken.py", "def :\n")
    healthy_rig.write("test_broken_too.py", "raise SystemExit('imported')\n")
    run = healthy_rig.validate()
    assert answer(run) == expected
    assert "imported" not in run.stdout


def test_files_that_are_named_like_ours_do_no_harm(healthy_rig: Rig, expected: Answer) -> None:
    for name in ("bionemo/__init__.py", "bionemo/conftest.py", "bionemo/driver.py", "pytest_bionemo.py", "checks.py"):
        healthy_rig.write(name, "raise RuntimeError('imported')\n")
    assert answer(healthy_rig.validate()) == expected


def test_real_folder_of_a_topic_wins_as_a_path(healthy_rig: Rig, expected: Answer) -> None:
    healthy_rig.write("bionemo/driver/test_theirs.py", "def test_theirs():\n    pass\n")
    assert answer(healthy_rig.validate()) == expected
    healthy_rig.project.joinpath(REPORT).unlink()
    run = healthy_rig.pytest("bionemo/driver")
    assert "1 passed" in run.stdout
    assert not run.report_path.exists()
    mixed = healthy_rig.validate("bionemo/driver")
    assert answer(mixed) == expected
    assert mixed.report["tests"][-1]["nodeid"] == "bionemo/driver/test_theirs.py::test_theirs"


def test_failed_check_beside_a_real_folder_of_its_name(healthy_rig: Rig, expected_of_bad_gpu: Answer) -> None:
    # With the path there, --lf takes the topic for a file with failures, and skips the files after it.
    healthy_rig.node = BAD_GPU
    healthy_rig.write("bionemo/driver/test_theirs.py", FAILING_TESTS)
    assert answer(healthy_rig.validate("bionemo")) == expected_of_bad_gpu
    healthy_rig.node = H100x8
    run = healthy_rig.validate("--lf", "bionemo")
    assert (run.verdict, run.returncode) == ("INCONCLUSIVE", 1)
    assert set(run.bionemo["sections"]) == set(expected_of_bad_gpu.sections)


@pytest.mark.parametrize(("body", "status"), [("assert True", 0), ("assert False", 1)])
def test_paths_run_beside_the_checks(healthy_rig: Rig, expected: Answer, body: str, status: int) -> None:
    healthy_rig.write("tests/test_theirs.py", f"def test_theirs(gpu_env):\n    assert gpu_env.gpus\n    {body}\n")
    run = healthy_rig.validate("tests")
    assert answer(run) == replace(expected, status=status)
    assert run.report["tests"][-1]["nodeid"] == "tests/test_theirs.py::test_theirs"
    assert run.report["exitcode"] == status


def test_broken_test_module_of_the_project_stops_no_check(healthy_rig: Rig, expected: Answer) -> None:
    healthy_rig.write("tests/test_broken.py", "def :\n")
    run = healthy_rig.validate("tests")
    assert answer(run) == replace(expected, status=1)
    assert "SyntaxError" in run.stdout


# ------------------------------------------------------------------------------------------ what others see of us


def test_only_fixtures_for_everybody_are_shown(healthy_rig: Rig) -> None:
    run = healthy_rig.pytest("--fixtures", "-v")
    shown = set(re.findall(r"^(\w+).* -- .*pytest_bionemo/", run.stdout, flags=re.MULTILINE))
    assert {"gpu_env"} <= shown <= OUR_FIXTURES
    private = set(names_that_checks_use()) - OUR_FIXTURES
    assert not private & set(re.findall(r"^(\w+)(?: \[\w+ scope\])? -- ", run.stdout, flags=re.MULTILINE))


@pytest.mark.parametrize("folder", ["", "bionemo/", "bionemo/driver/"])
def test_fixtures_of_the_checks_are_not_for_tests(healthy_rig: Rig, expected: Answer, folder: str) -> None:
    if folder and pytest.version_tuple < (8, 1):
        pytest.skip("pytest 8.0 finds fixtures by the text of ids: a folder bionemo is no other place than the suite")
    path = f"{folder}test_theirs.py"
    healthy_rig.write(path, "def test_theirs(torch_build):\n    pass\n")
    run = healthy_rig.validate(path)
    assert "fixture 'torch_build' not found" in run.stdout
    assert answer(run) == replace(expected, status=1)


A_PROJECT = """
import pytest


@pytest.fixture
def torch_build():
    return "theirs"


def test_passes(torch_build):
    assert torch_build == "theirs"


def test_fails():
    assert {"a": 1} == {"a": 2}


@pytest.mark.parametrize("gpu", [0, 1])
def test_is_parametrized(gpu):
    assert gpu == 0


@pytest.mark.skip(reason="not today")
def test_is_skipped():
    pass


@pytest.mark.xfail
def test_is_expected_to_fail():
    assert False


def test_errs(no_such_fixture):
    pass


class TestClass:
    def test_method(self, tmp_path):
        assert tmp_path.exists()
"""


@pytest.mark.parametrize("args", [[], ["-n", "2"], ["-k", "parametrized"], ["test_theirs.py::test_fails"]], ids=str)
def test_plugin_that_is_not_asked_changes_nothing(healthy_rig: Rig, args: list[str]) -> None:
    healthy_rig.write("test_theirs.py", A_PROJECT)
    healthy_rig.write("bionemo/driver/test_more.py", "def test_more():\n    pass\n")
    options = ["-rA", "--tb=line", "-p", "no:cacheprovider", *args]
    with_us, without_us = healthy_rig.pytest(*options), healthy_rig.pytest("-p", "no:bionemo", *options)
    assert outcomes(with_us) == outcomes(without_us)
    assert outcomes(with_us)
    assert with_us.returncode == without_us.returncode == 1
    assert "bionemo:" not in with_us.stdout
    assert not with_us.report_path.exists()


def outcomes(run: Run) -> list[str]:
    words = ("PASSED", "FAILED", "SKIPPED", "XFAIL", "ERROR")
    return sorted(line for line in run.stdout.splitlines() if line.startswith(words))
