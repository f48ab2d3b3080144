"""The tests of projects that nobody here wrote end in the same way with the plugin installed and without it."""

from __future__ import annotations

import os
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from conftest import Rig
from standin.distributions import write_distribution
from standin.environment import Environment

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import real_projects
from real_projects import PROJECTS, NotFetched, Project, differences, prepare, run_tests


@pytest.mark.skipif(sys.version_info < (3, 11), reason="fast-array-utils needs Python 3.11")
@pytest.mark.parametrize("project", PROJECTS, ids=lambda project: project.name)
def test_a_real_project_runs_unchanged(project: Project, tmp_path: Path) -> None:
    try:
        pair = prepare(project, real_projects.FOLDER)
    except NotFetched as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{project} is not here and cannot be fetched: {error}")
    without, with_plugin = pair.results(tmp_path)
    assert differences(without, with_plugin) == []
    assert (without.status, without.files) == (0, frozenset())
    assert without.outcomes.total() > 500
    passed = sum(times for (_, outcome), times in without.outcomes.items() if outcome == "passed")
    assert passed > 100
    assert "bionemo-" in with_plugin.plugins
    assert "bionemo-" not in without.plugins


# ---- the comparison itself


TESTS = """
import pytest

def test_passes(): pass

@pytest.mark.parametrize("number", [1, 2])
def test_is_skipped_or_expected_to_fail(number):
    pytest.skip("one") if number == 1 else pytest.xfail("two")

def test_warns():
    import warnings
    warnings.warn("old", DeprecationWarning)
"""
MEDDLERS = {
    "import warnings\n": [],
    "def pytest_collection_modifyitems(items): del items[0]\n": [
        "only without the plugin: test_theirs::test_passes: passed"
    ],
    "def pytest_configure(config): config.addinivalue_line('filterwarnings', 'error')\n": [
        "exit status: 0 without the plugin, 1 with it",
        "only without the plugin: test_theirs::test_warns: passed",
        "only with the plugin: test_theirs::test_warns: failure",
    ],
    "def pytest_runtest_setup(item): item.name.endswith('[1]') and __import__('pytest').xfail('meddled')\n": [
        "only without the plugin: test_theirs::test_is_skipped_or_expected_to_fail[1]: skipped pytest.skip",
        "only with the plugin: test_theirs::test_is_skipped_or_expected_to_fail[1]: skipped pytest.xfail",
    ],
    "def pytest_sessionfinish(session): (session.config.rootpath / 'report.json').touch()\n": [
        "only with the plugin: the file report.json"
    ],
}


def packed(folder: Path, files: Mapping[str, str]) -> Path:
    """A source distribution of these files."""
    for name, text in files.items():
        folder.joinpath(name).write_text(text)
    sdist = folder.parent / "theirs-1.0.tar.gz"
    with tarfile.open(sdist, "w:gz") as archive:
        archive.add(folder, "theirs-1.0")
    return sdist


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "theirs"
    folder.mkdir()
    return folder


def test_every_way_to_meddle_is_a_difference(project: Path, tmp_path: Path) -> None:
    settings = "[tool.pytest.ini_options]\naddopts = '--strict-markers --strict-config'\n"
    sdist = packed(project, {"test_theirs.py": TESTS, "pyproject.toml": settings})
    environments = [Environment.create(tmp_path / name, ["pytest"]) for name in ("plain", "meddled")]
    plain, meddled = environments
    without = run_tests(plain.python, sdist, tmp_path / "without")
    entry_point = "[pytest11]\nmeddler = meddler\n"
    write_distribution(meddled.site, "meddler", "1.0", {"meddler.py": ""}, entry_points=entry_point)
    for code, expected in MEDDLERS.items():
        meddled.site.joinpath("meddler.py").write_text(code)
        with_meddler = run_tests(meddled.python, sdist, tmp_path / "with")
        assert with_meddler.plugins == "meddler-1.0"
        assert differences(without, with_meddler) == expected


def test_a_project_of_which_nothing_runs_is_an_error(project: Path, rig: Rig) -> None:
    sdist = packed(project, {"conftest.py": "import no_such_package\n"})
    with pytest.raises(RuntimeError, match=r"(?s)no test of theirs-1.0.tar.gz has run:.*no_such_package"):
        run_tests(rig.environment.python, sdist, rig.folder / "scratch")


def test_what_cannot_be_fetched_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.setenv(name, "")
    with pytest.raises(
        NotFetched, match=r"^pip download: ERROR: No matching distribution found for structlog==26.1.0$"
    ):
        prepare(PROJECTS[0], tmp_path)
    assert not list(tmp_path.rglob("pins.txt"))
