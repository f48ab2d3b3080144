"""Checks and facts of other people: from an installed plugin, a module that -p names and a conftest file."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import getdoc
from pathlib import Path
from textwrap import dedent

import pytest

from conftest import REPORT, Rig, Run
from pytest_bionemo import hookspec
from pytest_bionemo.site_facts import SiteFacts, gather
from standin.distributions import write_distribution

PLUGIN = {
    "acme_cluster/__init__.py": "",
    "acme_cluster/plugin.py": """
        def pytest_bionemo_checks(config):
            return ["acme_cluster.checks.disks"]

        def pytest_bionemo_environment(config):
            return {"rack": "r12", "nodes": 64, "driver": "ours", "apiToken": "1234", "load": float("nan")}
        """,
    "acme_cluster/checks/__init__.py": "",
    "acme_cluster/checks/disks.py": """
        import pytest

        from pytest_bionemo import Action, check, fail, not_applicable, wait_for


        @pytest.fixture
        def free():
            return {"scratch": 3, "home": 7}


        @pytest.fixture
        def archive():
            wait_for("disks::are_there", "no disk answers")


        @check(severity="blocker")
        def are_there(free, tmp_path):
            "The disks are there."
            assert tmp_path.is_dir() and sorted(free) == ["home", "scratch"]


        @check(severity="blocker")
        @pytest.mark.parametrize("name", ["scratch", "home"])
        def has_room(free, name):
            "There is room."
            assert free[name] > 5, "too full"


        @check(severity="warning")
        def is_fast(gpu_env):
            "The disks are fast."
            fail(f"beside {len(gpu_env.gpus)} GPUs: slow", why="it waits", fix=["$ tune", "or wait"], links=["x://y"],
                 action=Action.REBOOT_NODE)


        @check(severity="blocker")
        def archive_answers(archive):
            "The archive answers."


        @check(severity="blocker")
        def tape_turns():
            "The tape turns."
            not_applicable("there is no tape")


        @check(level="full")
        def is_deep():
            "It takes long."
        """,
}
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "acme-cluster"
version = "1.0"
[project.entry-points.pytest11]
acme = "acme_cluster.plugin"
"""
ENTRY_POINTS = "[pytest11]\nacme = acme_cluster.plugin\n"
CONFTEST = """
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))


def pytest_bionemo_checks():
    return ("own_checks.mounts",)


def pytest_bionemo_environment(config):
    raise KeyError("MOUNTS")
"""
BESIDE = """
def pytest_bionemo_checks(config):
    return ["beside.network"]


def pytest_bionemo_environment():
    return {"fabric": None, "is_ours": True, "nodes": 64}
"""
ONE_CHECK = """
from pytest_bionemo import check


@check()
def holds():
    "It holds."
    part, whole = [1], [1, 2]
    assert {assertion}
"""


@pytest.fixture
def cluster_rig(healthy_rig: Rig, tmp_path: Path) -> Rig:
    """A healthy node where a site has installed its plugin, from a wheel where one can be built."""
    files = {name: dedent(text) for name, text in PLUGIN.items()}
    try:
        import hatchling  # noqa: F401
    except ImportError:
        write_distribution(healthy_rig.site, "acme-cluster", "1.0", files, entry_points=ENTRY_POINTS)
        return healthy_rig
    for name, text in {**files, "pyproject.toml": PROJECT}.items():
        (tmp_path / "acme" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "acme" / name).write_text(text)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=tmp_path / "acme", check=True, capture_output=True)
    zipfile.ZipFile(next(tmp_path.glob("*.whl"))).extractall(healthy_rig.site)
    return healthy_rig


def outcomes(run: Run, *topics: str) -> dict[str, str]:
    ids = [entry["id"].removeprefix("bionemo/") for entry in run.bionemo["checks"]]
    return {name: run.outcome(name) for name in ids if name.partition("::")[0] in topics}


def usage_errors(run: Run) -> list[str]:
    return [line for line in (run.stdout + run.stderr).splitlines() if line.startswith("ERROR: ")]


def test_checks_of_three_origins_join_the_run_and_the_verdict(cluster_rig: Rig) -> None:
    cluster_rig.write("conftest.py", CONFTEST)
    cluster_rig.write("own_checks/mounts.py", ONE_CHECK.format(assertion="part != whole"))
    cluster_rig.write("pytest.ini", "[pytest]\nfilterwarnings = error\naddopts = --strict-markers\n")
    beside = cluster_rig.site / "beside"
    beside.mkdir()
    (beside / "__init__.py").write_text(BESIDE)
    (beside / "network.py").write_text(ONE_CHECK.format(assertion="part == whole"))
    run = cluster_rig.validate("-p", "beside")
    assert (run.verdict, run.returncode) == ("BLOCKED", 1)
    assert outcomes(run, "disks", "mounts", "network") == {
        "disks::are_there": "passed",
        "disks::has_room[scratch]": "failed",
        "disks::has_room[home]": "passed",
        "disks::is_fast": "warned",
        "disks::archive_answers": "not_run",
        "disks::tape_turns": "not_applicable",
        "mounts::holds": "passed",
        "network::holds": "failed",
    }
    assert run.finding("disks::has_room[scratch]")["message"].splitlines() == ["too full", "assert 3 > 5"]
    assert "[1] == [1, 2]" in run.finding("network::holds")["message"]
    fast = run.finding("disks::is_fast")
    assert (fast["message"], fast["fix"]) == ("beside 8 GPUs: slow", ["$ tune", "or wait"])
    assert (fast["why"], fast["links"], fast["action"]) == ("it waits", ["x://y"], "REBOOT_NODE")
    assert run.gap("disks::archive_answers")["waits_for"] == "bionemo/disks::are_there"
    sections = {name: run.bionemo["sections"][name] for name in ("disks", "mounts", "network")}
    assert sections == {"disks": "BLOCKED", "mounts": "PASSED", "network": "BLOCKED"}
    modules = {topic["name"]: topic["module"] for topic in run.bionemo["topics"]}
    assert modules["disks"] == "acme_cluster.checks.disks"
    assert "-- W" not in run.stdout  # a warning is a W in the line of its topic
    assert re.search(r"^bionemo/disks \.F\.Wss ", run.stdout, re.MULTILINE)

    environment = run.bionemo["environment"]
    assert environment["extra"] == {
        "rack": "r12",
        "nodes": 64,
        "driver": "ours",
        "apiToken": "[redacted]",
        "load": "nan",
        "fabric": None,
        "is_ours": True,
    }
    assert environment["driver"] not in (None, "ours")
    assert environment["extra_errors"] == ["conftest.py: KeyError: 'MOUNTS'"]
    assert re.search(r"^unknown +what a plugin knows .*conftest\.py:\s+KeyError", run.stdout, re.MULTILINE)

    two = cluster_rig.validate("-p", "beside", "-n", "2")
    assert (two.verdict, two.returncode) == (run.verdict, run.returncode)
    assert two.bionemo["blockers"] == run.bionemo["blockers"]
    assert two.bionemo["warnings"] == run.bionemo["warnings"]
    assert outcomes(two, "disks", "mounts", "network") == outcomes(run, "disks", "mounts", "network")
    assert two.bionemo["environment"]["extra"] == environment["extra"]


def test_facts_are_asked_for_on_the_controller_alone_and_do_not_change_the_verdict(healthy_rig: Rig) -> None:
    asked = healthy_rig.folder / "asked"
    healthy_rig.write(
        "conftest.py",
        "def pytest_bionemo_environment(config):\n"
        f"    open({str(asked)!r}, 'a').write('x')\n"
        "    raise SystemExit(3)\n",
    )
    run = healthy_rig.validate("-n", "2")
    assert (run.verdict, run.returncode) == ("READY_FOR_INSTALL", 0)
    assert run.bionemo["environment"]["extra_errors"] == ["conftest.py: SystemExit: 3"]
    assert asked.read_text() == "x"
    healthy_rig.validate("--collect-only")
    assert asked.read_text() == "x"


@pytest.mark.parametrize("hook", ["checks", "environment"])
def test_what_is_offered_wrongly_is_one_line_before_anything_runs(cluster_rig: Rig, hook: str) -> None:
    said = {
        "checks": (
            "return ['own.driver']",
            "ERROR: two check modules give the topic 'driver': pytest_bionemo.checks.driver and own.driver.",
        ),
        "environment": (
            "return {'rack': 'r13'}",
            "ERROR: pytest_bionemo_environment: acme says that 'rack' is 'r12', and conftest.py that it is 'r13': "
            "rename one of the two.",
        ),
    }[hook]
    cluster_rig.write("conftest.py", f"def pytest_bionemo_{hook}(config):\n    {said[0]}\n")
    cluster_rig.write(REPORT, "an earlier one")
    run = cluster_rig.validate("-n", "2")
    assert run.returncode == 4
    assert usage_errors(run) == [said[1]]
    assert run.report_path.read_text() == "an earlier one"


# ---- facts, asked in this process


class Giver:
    """A plugin that gives this answer."""

    def __init__(self, answer: Callable[[], object]) -> None:
        self.answer = answer

    def pytest_bionemo_environment(self) -> object:
        return self.answer()


@pytest.fixture
def ask(pytestconfig: pytest.Config) -> Iterator[Callable[..., SiteFacts]]:
    """Ask plugins that give these answers, the first of them first."""
    plugins: list[Giver] = []

    def ask(*answers: Callable[[], object]) -> SiteFacts:
        for number, answer in enumerate(answers):
            plugins.append(Giver(answer))
            pytestconfig.pluginmanager.register(plugins[-1], f"giver{number}")
        return gather(pytestconfig)

    yield ask
    for plugin in plugins:
        pytestconfig.pluginmanager.unregister(plugin)


WRONG: Mapping[str, tuple[object, str]] = {
    "a list": (["rack"], "giver0 returned a value of type list, not a mapping of names to values."),
    "nothing": (set(), "giver0 returned a value of type set, not a mapping of names to values."),
    "a list as a value": (
        {"a": [1]},
        "giver0: 'a' is a value of type list. A fact is a str, int, float, bool or None.",
    ),
    "a path as a value": ({"a": Path("/x")}, "PosixPath. A fact is a str, int, float, bool or None."),
    "no name": ({"": 1}, "giver0: '' is no name of a fact: use a text such as 'rack'."),
    "a number as a name": ({1: 1}, "giver0: 1 is no name of a fact: use a text such as 'rack'."),
}


@pytest.mark.parametrize(("answer", "said"), WRONG.values(), ids=WRONG)
def test_what_is_no_mapping_of_names_to_scalars_is_a_usage_error(
    ask: Callable[..., SiteFacts], answer: object, said: str
) -> None:
    with pytest.raises(pytest.UsageError, match=re.escape(said)) as caught:
        ask(lambda: answer, lambda: {"fine": 1})
    assert str(caught.value).startswith("pytest_bionemo_environment of giver0")
    assert "\n" not in str(caught.value)


SITE_SECRET, HIDDEN = "s3cr3t-of-the-site", "hidden-by-its-name"


@pytest.mark.parametrize(
    "answers",
    [
        [[("api_token", HIDDEN), SITE_SECRET]],
        [{"api_token": [HIDDEN]}],
        [{SITE_SECRET: [1]}],
        [{("x", SITE_SECRET): 1}],
        [{"api_token": HIDDEN}, {"api_token": "another"}],
        [{"url": f"https://{SITE_SECRET}@host"}, {"url": "another"}],
        [{SITE_SECRET: 1}, {SITE_SECRET: 2}],
    ],
    ids=range(7),
)
def test_an_answer_that_is_refused_tells_no_secret(
    ask: Callable[..., SiteFacts], answers: Sequence[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SITE_TOKEN", SITE_SECRET)
    with pytest.raises(pytest.UsageError, match=r"^pytest_bionemo_environment.* giver0") as caught:
        ask(*(lambda answer=answer: answer for answer in answers))
    assert not [secret for secret in (SITE_SECRET, HIDDEN) if secret in str(caught.value)]


def test_what_one_raises_costs_its_facts_alone(ask: Callable[..., SiteFacts]) -> None:
    def skips() -> object:
        pytest.skip("not here")

    found = ask(lambda: {"rack": 1}, lambda: 1 / 0, skips, lambda: None, lambda: {"row": 2})
    assert found.facts == {"rack": 1, "row": 2}
    assert found.errors == ["giver1: ZeroDivisionError: division by zero", "giver2: Skipped: not here"]


@pytest.mark.parametrize("name", ["api_token", "apiToken", "hf-token", "DB_PASSWORD", "secret", "ssh.key"])
def test_a_fact_whose_name_speaks_of_a_secret_is_hidden(ask: Callable[..., SiteFacts], name: str) -> None:
    assert ask(lambda: {name: "x", "keyboard": "y"}).facts == {name: "[redacted]", "keyboard": "y"}


# ---- the examples of the hooks


def examples(hook: object) -> dict[str, str]:
    """The files in a docstring: a literal block is that which the text before it names, else a conftest file."""
    parts = re.split(r"::\n\n((?:(?:    .*)?\n)+)", (getdoc(hook) or "") + "\n")
    found = {}
    for text, block in zip(parts[::2], parts[1::2], strict=False):
        named = re.findall(r"``([\w/]+\.py)``", text)
        found[named[-1] if named else "conftest.py"] = dedent(block)
    return found


HOOKS = [value for name, value in vars(hookspec).items() if name.startswith("pytest_bionemo_")]


@pytest.mark.parametrize("is_mounted", [True, False], ids=["mounted", "not mounted"])
def test_the_examples_of_the_hooks_work(healthy_rig: Rig, is_mounted: bool) -> None:
    conftest = "import sys, pathlib\nsys.path.insert(0, str(pathlib.Path(__file__).parent))\n"
    assert len(HOOKS) == 2
    for hook in HOOKS:
        files = examples(hook)
        conftest += files.pop("conftest.py")
        for name, text in files.items():
            healthy_rig.write(name, text)
    healthy_rig.write("conftest.py", conftest)
    if is_mounted:
        healthy_rig.files.mount("/scratch", "tmpfs", "size=200g")
        healthy_rig.files.write("/etc/our-cluster/rack", "r12\n")
    run = healthy_rig.validate()
    assert outcomes(run, "storage") == {
        "storage::scratch_is_mounted": "passed" if is_mounted else "failed",
        "storage::scratch_has_room": "passed" if is_mounted else "not_run",
        "storage::archive_is_readable": "not_applicable",
    }
    assert run.verdict == ("READY_FOR_INSTALL" if is_mounted else "BLOCKED")
    rack = "r12" if is_mounted else None
    assert run.bionemo["environment"]["extra"] == {"rack": rack, "cluster": "east", "nodes": 64}
    assert json.loads(run.report_path.read_text())["bionemo"]["environment"]["extra_errors"] == []
